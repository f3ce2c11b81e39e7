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


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance of the Gaussians fitted to two samples of features [N, d] (Heusel et al. 2017), squared.

    |m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), with eigenvalues under 0 from rounding taken as 0.

    Raises:
        InputError: different numbers of features, or fewer than two samples.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise InputError(f"features: shapes {tuple(a.shape)} and {tuple(b.shape)} do not fit; [N, d] each, N >= 2")
    a, b = a.double(), b.double()
    A, B = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    values, vectors = torch.linalg.eigh(A)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ B @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + A.trace() + B.trace() - 2 * cross)
