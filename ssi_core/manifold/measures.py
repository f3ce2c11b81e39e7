"""How far two samples are from each other."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError


def sliced_wasserstein(a: Tensor, b: Tensor, directions: int = 500, seed: int = 0) -> float:
    """Sliced Wasserstein-1 distance of two samples [N, d]: the mean over directions of the distance on the line.

    Directions are uniform on the unit sphere, the same for the same seed. Both samples must have the same size. Two
    samples of one distribution do not give 0: compare with that floor.

    Raises:
        InputError: shapes differ, or samples hold NaN or Inf.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise InputError(f"samples: shapes {tuple(a.shape)} and {tuple(b.shape)}; two of the same [N, d] are wanted")
    if not bool(a.isfinite().all() and b.isfinite().all()):
        raise InputError("samples: hold NaN or Inf")
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(a.shape[1], directions, generator=generator, dtype=torch.float64)
    v = v / v.norm(dim=0)
    total = 0.0
    for chunk in v.split(50, dim=1):
        gap = (a.double() @ chunk).sort(dim=0).values - (b.double() @ chunk).sort(dim=0).values
        total += float(gap.abs().mean(0).sum())
    return total / directions
