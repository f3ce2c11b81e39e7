"""The one room that knows ComfyUI: whatever nodes need of it goes through here.

Nodes are made of its public types (GUIDER, SAMPLER, NOISE, SIGMAS, MODEL, VAE) and of helpers that core's own nodes
call. What is used beyond that, to be looked at first when a new release breaks something
(`tests/host/inside/test_core_surface.py` checks each):

- sampling: `comfy.samplers.KSamplerX0Inpaint` (masks), `CFGGuider.inner_set_conds` (a guider without a negative),
  `latent_preview.prepare_callback`;
- texts on nodes: `PromptServer.send_progress_text`, of the server that runs, found without importing it; without it
  nodes only lose their captions;
- pixel models: `BaseModel.apply_model` and `process_timestep`, `CoreModelPatcher` where there is one, and torch's
  `_load_from_state_dict`.
"""
