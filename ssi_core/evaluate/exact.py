"""Denoisers D(x, sigma) = E[x0 | x] in closed form: of distributions in the plane (SSI-DM Appendix A.4), of pictures.

Beside the exact ones in the plane stands a small network trained on one of them, as in Figure 4a.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..demo.scenes import draw_scenes
from ..denoiser import EDM
from ..manifold import Exact, Mixture, circle_of_points, gaussian_line
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


_POINTS, _AXIS = circle_of_points(8), gaussian_line()
POINTS = _POINTS.means
"""Eight points on a circle of radius 2, [8, 2]."""


@lru_cache(maxsize=1)
def _network() -> EDM:
    return trained_on(POINTS)


def _eight_points_learnt(x: Tensor, sigma: Tensor) -> Tensor:
    return _network()(x, sigma)


TARGETS: dict[str, Target] = {
    "eight-points": Target("eight points on a circle of radius 2", _POINTS.denoise, _POINTS.distance),
    "eight-points-network": Target("the same, by a small trained network", _eight_points_learnt, _POINTS.distance),
    "gaussian-axis": Target("a Gaussian on the x axis", _AXIS.denoise, _AXIS.distance),
}


@lru_cache(maxsize=1)
def memory(size: int) -> Exact:
    """E[x0 | x] of the first `SCENES` scenes that the demo model was trained on, at size x size pixels, equally likely:
    the sharpest network there is, which knows nothing but them.
    """
    drawn = [draw_scenes(range(first, first + 100), size) for first in range(0, SCENES, 100)]
    return Exact(Mixture(torch.cat(drawn).flatten(1)))
