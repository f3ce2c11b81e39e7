"""The host's own SD1.5, SDXL and FLUX networks, made small, with random weights."""

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import comfy.supported_models
import torch

UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
    "channel_mult": [1, 2], "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1, "use_spatial_transformer": True, "legacy": False, "dtype": torch.float32,
}  # fmt: skip
FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 16, "context_in_dim": 32,
    "hidden_size": 48, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [8, 8, 8],
    "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
    "dtype": torch.float32,
}  # fmt: skip


def tiny_model(kind, seed=0, width=1):
    """A ModelPatcher; `kind` is sd15, sdxl or flux."""
    if kind == "flux":
        config = comfy.supported_models.Flux(FLUX | {"hidden_size": 48 * width, "num_heads": 2 * width})
    else:
        adm = (
            {"num_classes": "sequential", "adm_in_channels": 16 + 6 * 256}
            if kind == "sdxl"
            else {"adm_in_channels": None}
        )
        linear = {"use_linear_in_transformer": kind == "sdxl", "context_dim": 32, "num_heads": 4}
        settings = UNET | adm | linear | {"model_channels": 32 * width}
        config = {"sd15": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL}[kind](settings)
        if kind == "sdxl":
            config.unet_config |= {"num_head_channels": 16}
    config.set_inference_dtype(torch.float32, None)
    device = comfy.model_management.get_torch_device()
    model = config.get_model({}, "", device=device)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.diffusion_model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                # The last layer's output is kept small, or the ODE of a random network is chaos in both directions.
                last = name in ("out.2.weight", "final_layer.linear.weight")
                parameter.copy_(values * (0.02 if last else 0.7) / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.05 * values + (1 if name.endswith(("weight", "scale")) else 0))
    offload = comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)


def tiny_prompt(kind, seed=0, batch=1):
    generator = torch.Generator().manual_seed(seed)
    facts = {} if kind == "sd15" else {"pooled_output": torch.randn(batch, 16, generator=generator)}
    if kind == "flux":
        facts["guidance"] = 3.5
    return [[torch.randn(batch, 7, 32, generator=generator), facts]]


def tiny_latent(kind, batch=1, side=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"samples": torch.randn(batch, 16 if kind == "flux" else 4, side, side, generator=generator) * 3}


def sample(model, noise, sigmas, latent, positive, negative=None, cfg=1.0, sampler="euler"):
    """What core's SamplerCustomAdvanced gives."""
    from conftest import run  # not above: benchmarks make these models without the tests' settings

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative or positive)
    guider.set_cfg(cfg)
    out, _ = run("SamplerCustomAdvanced", noise=noise, guider=guider, sampler=comfy.samplers.sampler_object(sampler),
                 sigmas=sigmas, latent_image=latent)  # fmt: skip
    return out["samples"]
