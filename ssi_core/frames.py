"""Weights of blends: one, a list, or a path of frames through all of them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .errors import InputError

EASINGS: dict[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "ease": lambda t: t * t * (3 - 2 * t),
    "sine": lambda t: (1 - math.cos(math.pi * t)) / 2,
    "ease-in": lambda t: t * t,
    "ease-out": lambda t: t * (2 - t),
}
"""How a segment from one end to the next is walked, as functions of [0, 1] onto itself."""


def parse_weights(text: str, count: int) -> list[list[float]]:
    """Rows of `count` weights, a frame each, from text.

    For two inputs a number is the share of the second: "0.5", or a list of frames, "0, 0.25, 0.5". For any number of
    inputs a frame is one number an input, "0.2, 0.3, 0.5", and frames are separated by semicolons or line breaks.

    Raises:
        InputError: not numbers, or another number of them than inputs.
    """
    rows = [row for row in re.split(r"[;\n]", text) if row.strip(" \t\r,")]
    try:
        numbers = [[float(word) for word in re.split(r"[,\s]+", row.strip()) if word] for row in rows]
    except ValueError as error:
        raise InputError(f"weights {text!r}: {str(error).partition(':')[2].strip() or 'a word'} is no number") from None
    if not rows:
        raise InputError("weights: are empty; give a number such as 0.5")
    if not all(math.isfinite(w) for row in numbers for w in row):
        raise InputError(f"weights {text!r}: must be finite")
    if count == 2 and (len(rows) == 1 or all(len(row) == 1 for row in numbers)):
        return [[1 - w, w] for row in numbers for w in row]
    wrong = next((row for row in numbers if len(row) != count), None)
    if wrong is not None:
        raise InputError(
            f"weights {text!r}: {len(wrong)} numbers in a frame for {count} inputs; give one an input, frames apart "
            "by ';'"
        )
    return numbers


def path_weights(count: int, frames: int, easing: str = "linear", loop: bool = False) -> list[list[float]]:
    """Rows of weights that walk from input 1 to 2 to ... to `count`.

    Args:
        count: inputs, 2 or more.
        frames: rows in all; the first is input 1 alone and the last is the last input alone (with `loop`: the one just
            before input 1 again, so that no frame is doubled where it repeats).
        easing: of each segment, one of `EASINGS`.

    Raises:
        InputError: fewer than 2 inputs or frames, or an unknown easing.
    """
    if count < 2 or frames < 2:
        raise InputError(f"frames {frames}, inputs {count}: a path needs two or more of both")
    if easing not in EASINGS:
        raise InputError(f"easing {easing!r}: unknown; known are {', '.join(EASINGS)}")
    segments, last = (count, frames) if loop else (count - 1, frames - 1)
    return weights_at([segments * frame / last for frame in range(frames)], count, EASINGS[easing], loop)


def weights_at(
    positions: Sequence[float], count: int, easing: Callable[[float], float] = EASINGS["linear"], loop: bool = False
) -> list[list[float]]:
    """Rows of weights of frames anywhere on the path through inputs 1 to `count`.

    Args:
        positions: 0 is input 1, 1/2 the middle between it and input 2; `count - 1` is the last input, and with `loop`
            `count` is input 1 again.
        count: inputs, 1 or more.
        easing: from the share of a segment that is travelled to the weight of its second end.
    """
    rows = []
    for position in positions:
        segment = max(0, min(int(position), count - 1 if loop else count - 2))
        share = easing(position - segment)
        row = [0.0] * count
        row[segment % count] = 1 - share
        row[(segment + 1) % count] += share
        rows.append(row)
    return rows


def mix(tensors: list[Tensor], rows: list[list[float]]) -> Tensor:
    """Plain weighted sums of tensors [B, ...] of one shape, for prompts: [B * F, ...], laid out as `blend` does."""
    frames = [sum((w * t for w, t in zip(row, tensors, strict=True)), torch.zeros_like(tensors[0])) for row in rows]
    return torch.stack(frames, dim=1).flatten(0, 1)
