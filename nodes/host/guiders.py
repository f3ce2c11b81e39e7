"""Guiders, and what of a job the way back cannot undo."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...ssi_core.errors import InputError
from ...ssi_core.frames import mix, weights_at


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


def with_prompts_at(guider: Any, positions: Sequence[float], segments: int, loop: bool) -> Any:
    """The guider with a prompt for each of some frames of a morph.

    A conditioning that holds a batch of M prompts (SSI Conditioning Blend) holds those of M places, evenly spread over
    the path, wherever the frames lie; a frame between two places gets a blend of their prompts. One that holds a single
    prompt stays as it is.

    Args:
        positions: of the frames, from 0 to `segments`.
        loop: the path leads back to where it begins, as do the prompts: place M is place 0 again.

    Raises:
        InputError: a batch of class numbers, of which there is no blend.
    """
    prompts = getattr(guider, "original_conds", {})  # a guider of another kind keeps its own counsel
    if all(_count(facts) == 1 for every in prompts.values() for facts in every):
        return guider
    found = copy.copy(guider)
    found.original_conds = {
        role: [_prompt_at(facts, [position / segments for position in positions], loop) for facts in every]
        for role, every in prompts.items()
    }
    return found


def _count(facts: dict[str, Any]) -> int:
    """Prompts in one conditioning of a guider."""
    labels = facts.get("class_label")
    if isinstance(labels, Tensor) and labels.numel() > 1:
        raise InputError(
            "guider: its conditioning holds several class numbers, and frames between two classes have none; give one "
            "class for the whole morph"
        )
    tokens = facts.get("cross_attn", facts.get("pooled_output"))
    return len(tokens) if isinstance(tokens, Tensor) else 1


def _prompt_at(facts: dict[str, Any], shares: Sequence[float], loop: bool) -> dict[str, Any]:
    """One prompt for each share of the path."""
    count = _count(facts)
    if count == 1:
        return facts
    rows = weights_at([share * (count if loop else count - 1) for share in shares], count, loop=loop)

    def along(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != count:
            return value
        if value.is_floating_point():
            return mix(list(value.split(1)), rows)
        # Which tokens there are: those of both prompts between them.
        return torch.stack(
            [torch.stack([one for w, one in zip(row, value, strict=True) if w > 0]).amax(0) for row in rows]
        )

    return {key: along(value) for key, value in facts.items()}


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
