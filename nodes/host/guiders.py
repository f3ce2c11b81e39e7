"""Guiders, and what of a job the way back cannot undo."""

from __future__ import annotations

import math
from typing import Any

import comfy.samplers
import torch

from ...ssi_core.errors import InputError


def guider_for(model: Any, positive: Any, negative: Any, cfg: float) -> Any:
    """Core's CFGGuider, or its one-prompt form where cfg is 1.

    Raises:
        InputError: a cfg that needs a negative prompt where there is none.
    """
    if positive is None:
        if _wants_prompt(model):
            raise InputError("positive: this model reads a prompt; connect a CLIP Text Encode (it may be empty)")
        positive = [[torch.zeros(1, 1, 1), {}]]
    if not math.isfinite(cfg):
        raise InputError(f"cfg {cfg}: must be a number; 1 inverts best")
    guider = comfy.samplers.CFGGuider(model)
    if negative is None:
        if cfg != 1.0:
            raise InputError(
                f"cfg {cfg:g}: needs a negative conditioning to guide away from; connect one, or set cfg to 1 (which "
                f"also inverts best)"
            )
        if model.model_options.get("disable_cfg1_optimization"):
            raise InputError("negative: a node on this model (SAG, PAG ...) needs it also at cfg 1; connect one")
        guider.inner_set_conds({"positive": positive})
    else:
        guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


def caveats(model: Any, latent: dict[str, Any], *prompts: Any) -> list[str]:
    """What in this job has no exact way back, in words."""
    found = []
    if _has_scheduled_hooks(prompts):
        found.append("hook keyframes move on only while sigma falls, so the first one held all the way up")
    mask = latent.get("noise_mask")
    if mask is not None and "denoise_mask_function" in model.model_options and bool(((mask > 0) & (mask < 1)).any()):
        # One NOISE cannot be both the state there and the noise that core shows the network in its place.
        found.append(
            "with Differential Diffusion what lies under the grey parts of a mask does not come back exactly; its "
            "black and white parts do"
        )
    return found


def _has_scheduled_hooks(prompts: tuple[Any, ...]) -> bool:
    groups = [facts.get("hooks") for prompt in prompts for _, facts in prompt or ()]
    hooks = [hook for group in groups if group is not None for hook in group.hooks]
    return any(len(getattr(hook.hook_keyframe, "keyframes", ())) > 1 for hook in hooks)


def _wants_prompt(model: Any) -> bool:
    # Asked of the class: the host's configurations answer None, with a warning, to whatever they do not have.
    return hasattr(type(model.model.model_config), "clip_target")
