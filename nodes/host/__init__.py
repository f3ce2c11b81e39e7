"""The one room that knows ComfyUI: all of `comfy` that nodes need goes through here.

Only public types are used (GUIDER, SAMPLER, NOISE, SIGMAS, MODEL and helpers that core's own nodes call), so that a new
release of ComfyUI has nothing of ours to break.
"""
