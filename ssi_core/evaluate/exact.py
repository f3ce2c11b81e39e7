"""Denoisers D(x, sigma) = E[x0 | x] in closed form: of distributions in the plane (SSI-DM Appendix A.4), of pictures.

Beside the exact ones in the plane stands a small network trained on one of them, as in Figure 4a.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..demo.scenes import draw_scenes
from ..denoiser import EDM
from .planar import trained_on

SCENES = 1000
"""Pictures in `memory`."""


@dataclass(frozen=True)
class Target:
    """A distribution in the plane, and who estimates its x0."""

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


@lru_cache(maxsize=1)
def _network() -> EDM:
    return trained_on(POINTS)


def _eight_points_learnt(x: Tensor, sigma: Tensor) -> Tensor:
    return _network()(x, sigma)


TARGETS: dict[str, Target] = {
    "eight-points": Target("eight points on a circle of radius 2", _eight_points, _to_points),
    "eight-points-network": Target("the same, by a small trained network", _eight_points_learnt, _to_points),
    "gaussian-axis": Target("a Gaussian on the x axis", _gaussian_axis, lambda x: x[:, 1].abs()),
}


class Memory:
    """E[x0 | x] of pictures that are equally likely: the sharpest network there is, which knows nothing but them.

    Args:
        pictures: [N, C, H, W].
    """

    def __init__(self, pictures: Tensor) -> None:
        self._pictures = pictures.flatten(1)
        self._squares = self._pictures.square().sum(1)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x [B, C, H, W], sigma [B] -> [B, C, H, W]."""
        # |x - y|^2 without |x|^2, which is the same for all y and cancels in the softmax.
        away = self._squares - 2 * x.flatten(1) @ self._pictures.T
        share = torch.softmax(-away / (2 * sigma[:, None] ** 2), dim=1)
        return (share @ self._pictures).reshape(x.shape)


@lru_cache(maxsize=1)
def memory(size: int) -> Memory:
    """That of the first `SCENES` scenes that the demo model was trained on, at size x size pixels."""
    drawn = [draw_scenes(range(first, first + 100), size) for first in range(0, SCENES, 100)]
    return Memory(torch.cat(drawn))
