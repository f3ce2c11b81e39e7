"""Pictures that the engine draws, as the editor wants them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

PICTURES = 8
"""Images of a batch that are drawn."""


def sheets(count: int, draw: Callable[[int, str], Image]) -> Tensor:
    """IMAGE of what `draw` makes of the first images of a batch of `count`, given each one's index and title."""
    drawn = [as_image(draw(i, f"image {i + 1} of {count}")) for i in range(min(count, PICTURES))]
    return torch.stack(_one_size(drawn))


def as_image(picture: Image) -> Tensor:
    """A Pillow picture as one IMAGE of a batch: [H, W, 3] in 0..1."""
    return torch.from_numpy(np.array(picture.convert("RGB"), dtype=np.float32) / 255)


def _one_size(pictures: list[Tensor]) -> list[Tensor]:
    """Pictures [H, W, 3] of different heights, filled up with white, since an IMAGE batch has one size."""
    height, width = (max(p.shape[d] for p in pictures) for d in (0, 1))
    return [
        torch.nn.functional.pad(p, (0, 0, 0, width - p.shape[1], 0, height - p.shape[0]), value=1.0) for p in pictures
    ]
