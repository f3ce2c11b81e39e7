"""Distributions whose denoiser D(x, sigma) = E[x0 | x] is known (SSI-DM Appendix A.4), as denoisers of [B, 2]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..manifold import circle_of_points, gaussian_line


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


_POINTS, _AXIS = circle_of_points(8), gaussian_line()
POINTS = _POINTS.means
"""Eight points on a circle of radius 2, [8, 2]."""

TARGETS: dict[str, Target] = {
    "eight-points": Target("eight points on a circle of radius 2", _POINTS.denoise, _POINTS.distance),
    "gaussian-axis": Target("a Gaussian on the x axis", _AXIS.denoise, _AXIS.distance),
}
