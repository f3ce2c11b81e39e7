"""Morphs: pictures along a path through keyframes, exact at them and at an even pace between them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..ssi_core.blend import BLENDS
from ..ssi_core.errors import InputError
from ..ssi_core.frames import EASINGS
from ..ssi_core.morph import EVEN_ENOUGH, PACES, Morph, check_path, morph_by
from .fields import CATEGORY, MOST_FRAMES, connected, noises_input
from .host.latents import is_pixels, latent_samples
from .host.levels import HostProcess, falling
from .host.morphs import GuidedFrames, check_deterministic, check_room
from .host.show import tell
from .noise import InvertedNoise, check_alike, complaints, likeness, noise_of, norm

GREY_LEVELS = 127.5
"""Of 255 in a pixel model's unit."""


class SSIMorph(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSIMorph",
            display_name="SSI Morph",
            category=CATEGORY,
            description="A morph to be shown: samples frames along a path through inverted pictures. The pictures "
            "themselves are among the frames, and steps between frames are equally large, since frames are placed by "
            "how far the pictures really travel.",
            search_aliases=["morph", "animation", "interpolate pictures", "keyframes", "constant speed", "loop"],
            inputs=[
                noises_input(
                    1,
                    "The keyframes, in this order; every image of a batch is one. Two or more in all, inverted alike.",
                ),
                io.Guider.Input("guider", tooltip="The model and prompt of the inversions. A batch of prompts (SSI "
                "Conditioning Blend, linear) is spread over the whole path, one end to the other."),
                io.Sampler.Input(
                    "sampler", tooltip="SSI Solver with the solver of the inversions; or any sampler that adds no "
                    "noise.",
                ),
                io.Sigmas.Input("sigmas", tooltip="The way back, from SSI Inverse Sampler."),
                io.Int.Input(
                    "frames", default=24, min=2, max=MOST_FRAMES, tooltip="Frames in all, the keyframes among them."
                ),
                io.Combo.Input(
                    "pace", options=list(PACES), default="even",
                    tooltip="even: equal steps between pictures, which takes mostly two or three times the evaluations "
                    "(at most nine). angle: equal steps between noises, as in SLERP Noise Blend.",
                ),
                io.Combo.Input(
                    "easing", options=list(EASINGS), default="linear", advanced=True,
                    tooltip="From keyframe to keyframe: at constant speed, or slower near them.",
                ),
                io.Boolean.Input(
                    "loop", default=False,
                    tooltip="Go on from the last keyframe to the first, which is not repeated at the end.",
                ),
                io.Combo.Input(
                    "method", options=list(BLENDS), default="slerp", advanced=True,
                    tooltip="How two neighbours' noises are blended, as in SLERP Noise Blend.",
                ),
                io.Boolean.Input(
                    "carry", default=True, advanced=True,
                    tooltip="Add what inversion lost of a keyframe to its frame and, fading, to those up to the next: "
                    "the keyframes are the very pictures then. Off: they are reconstructions.",
                ),
                io.Int.Input(
                    "batch_size", default=8, min=1, max=MOST_FRAMES, advanced=True,
                    tooltip="Frames sampled together. Fewer need less memory.",
                ),
                io.Latent.Input(
                    "originals", optional=True,
                    tooltip="The keyframes' own latents as one batch, in their order. Only needed where a noise does "
                    "not know its picture: from a file, from another node's inversion.",
                ),
            ],
            outputs=[
                io.Latent.Output("frames", display_name="frames", tooltip="A batch, for VAE Decode."),
                io.String.Output(
                    "report", display_name="report", tooltip="Steps, evaluations, where the keyframes are, and what "
                    "looks wrong.",
                ),
                io.Float.Output(
                    "evenness", display_name="evenness",
                    tooltip="The largest step between frames over the median one, each over what the easing wants of "
                    "it: 1 is perfectly even, or perfectly eased.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        noises: dict[str, Any],
        guider: Any,
        sampler: Any,
        sigmas: Tensor,
        frames: int,
        pace: str,
        easing: str = "linear",
        loop: bool = False,
        method: str = "slerp",
        carry: bool = True,
        batch_size: int = 8,
        originals: dict[str, Any] | None = None,
        **beyond: Any,
    ) -> io.NodeOutput:
        model = guider.model_patcher
        check_deterministic(sampler)
        keys = _keyframes(connected(noises, beyond), model)
        check_path(len(keys), frames, easing=easing, pace=pace, method=method, batch=batch_size)
        check_room(frames, pace, keys[0].unit)
        levels = _levels(HostProcess.of(model), sigmas, keys[0])
        pictures = _pictures(keys, originals, model) if carry else [None] * len(keys)
        segments = len(keys) if loop else len(keys) - 1
        sample = GuidedFrames(guider, sampler, levels, segments, loop, keys[0].seed)
        found = morph_by(
            sample, [key.unit for key in keys], frames, originals=pictures, easing=easing, loop=loop, pace=pace,
            method=method, batch=batch_size, notice=sample.notice,
        )  # fmt: skip
        doubts = _doubts(keys, loop)
        if carry:
            doubts += [
                f"keyframe {i}: its noise does not know its picture, so that it is a reconstruction; connect originals"
                for i, picture in enumerate(pictures, 1)
                if picture is None
            ]
        if pace == "even" and found.evenness > EVEN_ENOUGH:
            doubts.append("some steps stayed large; more frames help")
        report = tell(_report(found, len(levels) - 1, pace, easing, method, is_pixels(model)), doubts)
        return io.NodeOutput({"samples": found.frames}, report, found.evenness)


def _keyframes(given: list[Any], model: Any) -> list[InvertedNoise]:
    """One noise a keyframe, of whatever is connected."""
    inverted = (value for value in given if isinstance(value, InvertedNoise))
    states = (noise_of(value, None, model) for value in given if isinstance(value, dict))
    like = next(inverted, None) or next(states, None)
    # Another node's noise is drawn for one picture.
    single = None if like is None else like.with_unit(like.unit[:1])
    noises = [noise_of(value, single, model) for value in given]
    if noises:
        check_alike(noises)
    return [
        replace(noise, unit=noise.unit[i : i + 1], source=None if noise.source is None else noise.source[i : i + 1])
        for noise in noises
        for i in range(len(noise.unit))
    ]


def _levels(process: HostProcess, sigmas: Tensor, first: InvertedNoise) -> Tensor:
    """The way back that the noises begin.

    Raises:
        InputError: not a schedule of the model, or one that begins elsewhere.
    """
    levels = falling(process, sigmas)
    start = process.start(float(levels[0]))
    if not start.same_as(first.start):
        raise InputError(
            f"sigmas: begin at {start.sigma:.4g}, the noises at {first.start.sigma:.4g} (or with another kind of "
            f"model); connect the sigmas of SSI Inverse Sampler, and a guider of its model"
        )
    return levels


def _pictures(keys: list[InvertedNoise], originals: dict[str, Any] | None, model: Any) -> list[Tensor | None]:
    if originals is None:
        return [key.source for key in keys]
    given = latent_samples(model, originals, "originals")
    if len(given) != len(keys):
        raise InputError(f"originals: {len(given)} latents for {len(keys)} keyframes; give one each, in their order")
    if given.shape[1:] != keys[0].unit.shape[1:]:
        raise InputError(
            f"originals: are of shape {tuple(given.shape[1:])}, the noises of {tuple(keys[0].unit.shape[1:])}; connect "
            f"the latents that were inverted"
        )
    return list(given.split(1))


def _doubts(keys: list[InvertedNoise], loop: bool) -> list[str]:
    """What looks wrong with the noises."""
    path = [*enumerate(keys, 1), *([(1, keys[0])] if loop else [])]
    pairs = [(i, j, likeness(a.unit, b.unit)) for (i, a), (j, b) in pairwise(path)]
    return complaints([norm(key.unit) for key in keys], pairs, keys[0].unit.numel())


def _report(found: Morph, steps: int, pace: str, easing: str, method: str, pixels: bool) -> str:
    by = "" if easing == "linear" else f", each over what {easing} wants of it"
    unit, named = (GREY_LEVELS, " grey levels of 255") if pixels else (1.0, " of the latent's values")
    lost = "; ".join(
        f"keyframe {k + 1}: frame {found.positions.index(float(k)) + 1}"
        + (f", {unit * rms:.2g} carried" if rms > 0 else "")
        for k, rms in enumerate(found.lost)
    )
    return "\n".join(
        [
            f"{len(found.frames)} frames, {len(found.lost)} keyframes, {method}, pace {pace}",
            f"largest step {found.evenness:.2f} times the median one{by}; {unit * min(found.steps):.2g} to "
            f"{unit * max(found.steps):.2g}{named} (RMS)",
            f"{found.nfe} evaluations of one frame each, {steps} steps a frame",
            lost,
        ]
    )


NODES: list[type[io.ComfyNode]] = [SSIMorph]
