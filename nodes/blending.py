"""Blends of noises, and of the prompts that go with them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..ssi_core.blend import BLENDS, blend, masked
from ..ssi_core.errors import InputError
from ..ssi_core.frames import mix
from .fields import CATEGORY, MOST_NOISES, check_weights, connected, noises_input, weight_inputs, weight_rows
from .host.show import shape, tell
from .noise import InvertedNoise, check_alike, complaints, likeness, noise_of, norm


class SSINoiseBlend(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSINoiseBlend",
            display_name="SLERP Noise Blend (SSI)",
            category=CATEGORY,
            description="Blends two or more noises so that the blend is noise again (its norm is kept), once or along "
            "a path of frames: a morph. Each image of a batch is blended by itself.",
            search_aliases=["slerp", "interpolate noise", "morph", "latent interpolation", "mix noise", "lerp"],
            inputs=[
                noises_input(2, "What is blended, in this order."),
                *weight_inputs("noises"),
                io.Combo.Input(
                    "method", options=["auto", *BLENDS], default="auto",
                    tooltip="auto: slerp for two, gram for more. gram: straight sum at the right norm. karcher: mean "
                    "on the sphere. lol: for independent noises. lerp: plain sum, which loses norm; for comparison.",
                ),
                io.Mask.Input(
                    "mask", optional=True,
                    tooltip="Blend only where the mask is white; elsewhere the first noise stays. Soft edges are fine.",
                ),
                io.Model.Input("model", optional=True, tooltip="Only needed where a LATENT is connected as noise."),
            ],
            outputs=[
                io.Noise.Output("blended", display_name="noise", tooltip="One noise a frame."),
                io.Latent.Output("empty", display_name="empty latent", tooltip="Of the right batch and size, to "
                "sample with."),
                io.String.Output("report", display_name="report", tooltip="Norms, angles, and what looks wrong."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, weights: str | None = None, frames: int | None = None, noises: Any = None) -> bool | str:
        # The host hands over inputs that grow whether they are asked for or not.
        return check_weights(weights, frames, range(2, MOST_NOISES + 1))

    @classmethod
    def execute(
        cls,
        noises: dict[str, Any],
        weights: str,
        frames: int,
        method: str,
        easing: str = "linear",
        loop: bool = False,
        mask: Tensor | None = None,
        model: Any = None,
        **beyond: Any,
    ) -> io.NodeOutput:
        given = connected(noises, beyond)
        if len(given) < 2:
            raise InputError(f"noises: {len(given)} connected; a blend needs two or more")
        like = next((v for v in given if isinstance(v, InvertedNoise)), None)
        if like is None:
            like = next((noise_of(v, None, model) for v in given if isinstance(v, dict)), None)
        found = [noise_of(value, like, model) for value in given]
        check_alike(found)
        _check_batches(found)
        units = [noise.unit for noise in found]
        rows = weight_rows(len(units), weights, frames, easing, loop)
        name = ("slerp" if len(units) == 2 else "gram") if method == "auto" else method
        result = blend(units, rows, name)
        if mask is not None:
            result = masked(units[0].repeat_interleave(len(rows), 0), result, _fitted(mask, result, len(rows)))
        norms = [norm(unit) for unit in units]
        every = combinations(enumerate(units, 1), 2)
        pairs = [(i, j, likeness(a, b)) for (i, a), (j, b) in every]
        lines = [
            f"{name}, {len(units)} noises, {len(rows)} frame(s): {shape(result)}",
            *(f"noise {i}: norm {long:.3f} (1 is unit noise)" for i, long in enumerate(norms, 1)),
            *(f"noise {i} and {j}: |cosine| {closeness:.3f}" for i, j, closeness in pairs),
            f"blend: norm {norm(result):.3f}",
        ]
        report = tell("\n".join(lines), complaints(norms, pairs, units[0][0].numel()))
        model_known = next((noise for noise in found if noise.latent_in is not None), found[0])
        noise = model_known.with_unit(result)
        return io.NodeOutput(noise, noise.empty_latent(), report)


class SSIConditioningBlend(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSIConditioningBlend",
            display_name="SSI Conditioning Blend",
            category=CATEGORY,
            description="Blends two prompts by the same weights as SLERP Noise Blend: one conditioning with a prompt "
            "for each frame of a morph.",
            search_aliases=["prompt travel", "conditioning average", "interpolate prompt", "morph"],
            inputs=[
                io.Conditioning.Input("conditioning_1", tooltip="The prompt of the first picture (weight 0)."),
                io.Conditioning.Input("conditioning_2", tooltip="The prompt of the second picture (weight 1)."),
                *weight_inputs("conditionings"),
            ],
            outputs=[
                io.Conditioning.Output(
                    "blended", display_name="conditioning", tooltip="One prompt a frame, as a batch."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, weights: str | None = None, frames: int | None = None) -> bool | str:
        return check_weights(weights, frames, [2])

    @classmethod
    def execute(
        cls,
        conditioning_1: list,
        conditioning_2: list,
        weights: str,
        frames: int,
        easing: str = "linear",
        loop: bool = False,
    ) -> io.NodeOutput:
        if len(conditioning_1) != len(conditioning_2):
            raise InputError(
                f"conditionings: {len(conditioning_1)} and {len(conditioning_2)} prompts combined; blend before "
                "combining"
            )
        rows = weight_rows(2, weights, frames, easing, loop)
        pairs = list(zip(conditioning_1, conditioning_2, strict=True))
        result = [_blended_prompt(a, b, rows) for a, b in pairs]
        tell(f"{len(rows)} frame(s)", sorted({lost for a, b in pairs for lost in _left_out(a[1], b[1])}))
        return io.NodeOutput(result)


def _blended_prompt(a: list, b: list, rows: list[list[float]]) -> list:
    """One prompt a frame; whatever is no tensor of both (areas, masks, ControlNet) is the first's."""
    facts = dict(a[1])
    if not _same(a[1].get("class_label"), b[1].get("class_label")):
        raise InputError(
            "conditionings: class numbers cannot be blended; give both the same label, or blend only the noises"
        )
    if "attention_mask" in a[1] or "attention_mask" in b[1]:
        facts["attention_mask"] = _masks(a, b, rows)
    for key in (a[1].keys() | b[1].keys()) - {"attention_mask", "class_label"}:
        one, other = a[1].get(key), b[1].get(key)
        if isinstance(one, Tensor) != isinstance(other, Tensor) and (one is None or other is None):
            raise InputError(
                f"conditionings: only {1 if other is None else 2} has {key}; encode both prompts in the same way"
            )
        if isinstance(one, float | int) and isinstance(other, float | int) and one != other:
            raise InputError(f"conditionings: {key} is {one:g} in 1 and {other:g} in 2; give both the same")
        if isinstance(one, Tensor) and isinstance(other, Tensor) and one.is_floating_point():
            if one.shape[1:] == other.shape[1:]:
                facts[key] = mix([one, other], rows)
            elif one.ndim == 3:
                facts[key] = mix(_same_length(one, other), rows)
    if a[0] is None or b[0] is None:
        return [a[0], facts]
    return [mix(_same_length(a[0], b[0]), rows), facts]


def _left_out(a: dict[str, Any], b: dict[str, Any]) -> Iterator[str]:
    """What of the second prompt a blend does not take over, in words."""
    for key in b.keys() - {"attention_mask", "class_label"}:
        if not isinstance(b[key], Tensor | float | int | None) and (key not in a or a[key] is not b[key]):
            yield f"{key} of conditioning_2 is left out: the first's (or none) holds for all frames"


def _same(a: Any, b: Any) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))


def _masks(a: list, b: list, rows: list[list[float]]) -> Tensor:
    """Which tokens each frame attends to, [B * F, T]: a prompt's own where it is alone, those of both in between."""
    length = max(a[0].shape[1], b[0].shape[1])
    masks = []
    for tokens, facts in (a, b):
        mask = facts.get("attention_mask")  # core leaves out masks of nothing but ones
        mask = torch.ones(tokens.shape[:2]) if mask is None else mask
        masks.append(torch.nn.functional.pad(mask, (0, length - mask.shape[-1])))
    one, other = masks
    both = torch.maximum(one, other)
    frames = [one if row[1] == 0 else other.to(one) if row[0] == 0 else both for row in rows]
    return torch.stack(frames, dim=1).flatten(0, 1)


def _same_length(a: Tensor, b: Tensor) -> list[Tensor]:
    """Token sequences [B, T, D], the shorter one filled up with zeros, as core's own averages do."""
    if a.shape[-1] != b.shape[-1]:
        raise InputError(
            f"conditionings: token widths {a.shape[-1]} and {b.shape[-1]} differ; both must come from the same text "
            "encoder"
        )
    length = max(a.shape[1], b.shape[1])
    return [torch.nn.functional.pad(t, (0, 0, 0, length - t.shape[1])) for t in (a, b)]


def _check_batches(found: list[InvertedNoise]) -> None:
    counts = [len(noise.unit) for noise in found]
    for i, count in enumerate(counts[1:], 2):
        if count != counts[0]:
            raise InputError(f"noises: 1 holds {counts[0]} images and {i} holds {count}; use batches of one size")


def _fitted(mask: Tensor, noise: Tensor, frames: int) -> Tensor:
    """A MASK [B, H, W] as [1 or images * frames, 1, ..., h, w] of a noise [images * frames, C, ..., h, w]."""
    if noise.ndim < 4:
        raise InputError(f"mask: this noise ({shape(noise)}) has no rows and columns to mask; leave the mask off")
    size = tuple(noise.shape[-2:])
    resized = torch.nn.functional.interpolate(mask[:, None].float().cpu(), size, mode="area").clamp(0, 1)
    if len(resized) == frames and frames < len(noise):  # one a frame: again for every image of the batch
        resized = resized.repeat(len(noise) // frames, 1, 1, 1)
    if len(resized) not in (1, len(noise)):
        raise InputError(f"mask: {len(resized)} masks for {frames} frame(s); give one, or one a frame")
    return resized.reshape(len(resized), *[1] * (noise.ndim - 3), *size)


NODES: list[type[io.ComfyNode]] = [SSINoiseBlend, SSIConditioningBlend]
