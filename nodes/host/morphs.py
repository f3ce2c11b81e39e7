"""Frames of a morph, sampled through any GUIDER by any SAMPLER that adds no noise of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import latent_preview
import torch
from torch import Tensor

from ...ssi_core.errors import InputError
from ...ssi_core.morph import Watch, frames_held
from .guiders import with_prompts_at
from .sampling import STOCHASTIC, guided
from .show import on_node

GB = 1e9
NOISY = ("eta", "s_churn")
"""Options of core's samplers that add noise where they are not 0, to samplers that otherwise add none."""


class GuidedFrames:
    """What `ssi_core.morph.morph_by` samples frames with, and tells how far it is: see `__call__` and `notice`.

    The guider's own are cfg, hooks, ControlNet and the rest; where it holds a batch of prompts, every frame gets the
    prompt of its place on the path.
    """

    def __init__(self, guider: Any, sampler: Any, sigmas: Tensor, segments: int, loop: bool, seed: int) -> None:
        """
        Args:
            sigmas: the way back, falling.
            segments, loop: of the path, which positions run along from 0 to `segments`.
            seed: of whatever of the model draws numbers.
        """
        self.guider, self.sampler, self.sigmas = guider, sampler, sigmas.float()
        self.segments, self.loop, self.seed = segments, loop, seed
        self.show = latent_preview.prepare_callback(guider.model_patcher, len(sigmas) - 1)
        self.what, self.done, self.of = "", 0, 1

    def __call__(self, noise: Tensor, positions: Tensor, watch: Watch) -> Tensor:
        """Frames [B, C, ...] as LATENTs hold them, of unit noise [B, C, ...] at these positions [B]."""
        steps, evaluations = len(self.sigmas) - 1, 0

        def counted(execute: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
            nonlocal evaluations
            # Between evaluations, not steps: one step of some samplers is many.
            comfy.model_management.throw_exception_if_processing_interrupted()
            evaluations += 1
            return execute(*args, **kwargs)

        def step_done(step: int, x0: Tensor, x: Tensor, of: int) -> None:
            watch(min(step + 1, steps), steps, evaluations)
            self.show(max(self.done, 1) - 1, x0, x, self.of)

        guider = copy.copy(with_prompts_at(self.guider, positions.tolist(), self.segments, self.loop))
        guider.model_options = comfy.model_patcher.create_model_options_clone(guider.model_options)
        comfy.patcher_extension.add_wrapper_with_key(
            comfy.patcher_extension.WrappersMP.PREDICT_NOISE, "ssi_morph", counted, guider.model_options,
            is_model_options=True,
        )  # fmt: skip
        found = guided(guider, self.sampler, noise, torch.zeros_like(noise), self.sigmas, None, self.seed, step_done)
        watch(steps, steps, evaluations)
        return found

    def notice(self, what: str, done: int, of: int) -> None:
        """How far it is, in frames; for the bar, and for the node where a new pass begins."""
        self.done, self.of = done, of
        if what != self.what:
            on_node(what)
            self.what = what


def check_deterministic(sampler: Any) -> None:
    """Refuse a SAMPLER whose frames would differ each time they are sampled.

    Raises:
        InputError: it adds noise, as far as its name and options tell.
    """
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    name = name.removeprefix("sample_").removesuffix("_function")
    options = getattr(sampler, "extra_options", {})
    noisy = next((f" with {option} {options[option]:g}" for option in NOISY if options.get(option)), "")
    if noisy or any(part in name for part in STOCHASTIC):
        raise InputError(
            f"sampler: {name}{noisy} adds fresh noise at every step, so that a frame is another one each time; use SSI "
            f"Solver, or a sampler without noise such as dpmpp_2m or euler"
        )


def check_room(frames: int, pace: str, noise: Tensor) -> None:
    """Refuse a morph whose frames, of the size of `noise` [1, C, ...], may not fit into memory.

    The system would end the whole server in the middle of it, without a word.

    Raises:
        InputError: fewer bytes are free than the frames may take.
    """
    needed = frames_held(frames, pace) * noise.numel() * torch.float32.itemsize
    free = comfy.model_management.get_free_memory(torch.device("cpu"))
    if needed > free:
        slower = "" if pace == "angle" else ", pace angle (a fifth of it)"
        raise InputError(
            f"frames {frames}: may take {needed / GB:.1f} GB of memory, {free / GB:.1f} GB are free; fewer frames"
            f"{slower}, or smaller pictures"
        )
