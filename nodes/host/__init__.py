"""The one room that knows ComfyUI: whatever nodes need of it goes through here.

Only public types are used (GUIDER, SAMPLER, NOISE, SIGMAS, MODEL and helpers that core's own nodes call), so that a new
release of ComfyUI has nothing of ours to break.
"""
