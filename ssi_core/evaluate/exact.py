"""Distributions whose denoiser D(x, sigma) = E[x0 | x] is known (SSI-DM Appendix A.4), as denoisers of [B, 2]."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Target:
    """A distribution in the plane."""

    about: str
    denoise: Callable[[Tensor, Tensor], Tensor]
    """D(x [B, 2], sigma [B]) -> [B, 2]."""
    distance: Callable[[Tensor], Tensor]
    """From points [B, 2] to the manifold that the data lies on, [B]."""
    sigma_min: float = 0.002
    sigma_max: float = 80.0


POINTS = 2 * torch.stack(
    [torch.tensor([math.cos(a), math.sin(a)], dtype=torch.float64) for a in (torch.arange(8) * math.pi / 4).tolist()]
)
"""Eight points on a circle of radius 2, [8, 2]."""


def _eight_points(x: Tensor, sigma: Tensor) -> Tensor:
    points = POINTS.to(x)
    # Relative to the largest exponent, so that a small sigma neither over- nor underflows.
    share = torch.softmax(-(x[:, None] - points).square().sum(2) / (2 * sigma[:, None] ** 2), dim=1)
    return share @ points


def _gaussian_axis(x: Tensor, sigma: Tensor) -> Tensor:
    first = x[:, 0] / (1 + sigma**2)
    return torch.stack([first, torch.zeros_like(first)], dim=1)


def _to_points(x: Tensor) -> Tensor:
    return (x[:, None] - POINTS.to(x)).norm(dim=2).amin(1)


TARGETS: dict[str, Target] = {
    "eight-points": Target("eight points on a circle of radius 2", _eight_points, _to_points),
    "gaussian-axis": Target("a Gaussian on the x axis", _gaussian_axis, lambda x: x[:, 1].abs()),
}
