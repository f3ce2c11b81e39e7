"""Mixtures of Gaussians that may be flat in some directions: clouds of points, a line, a plane with modes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError
from .checks import points, positive, whole_number
from .distribution import Distribution, mode_weights
from .surfaces import Plane


class Mixture(Distribution):
    """Gaussians of one diagonal covariance; a 0 in `variance` is a direction in which the data does not vary.

    Args:
        means: [K, d].
        variance: [d], >= 0; default 0, which makes it a cloud of points (Lu, Wang, Bal 2023, A.4).
        weights: K positive numbers; default: alike.
    """

    def __init__(
        self, means: Tensor, variance: Sequence[float] | None = None, weights: Sequence[float] | None = None,
        about: str = "a mixture of Gaussians",
    ) -> None:  # fmt: skip
        self.means, self.about = points(means, "modes: means", "one finite row a mode, at least one,"), about
        self.dimension = self.means.shape[1]
        given = [0.0] * self.dimension if variance is None else list(variance)
        self.variance = torch.tensor(given, dtype=torch.float64)
        fine = bool(((self.variance >= 0) & self.variance.isfinite()).all())
        if len(self.variance) != self.dimension or not fine:
            raise InputError(f"variance: {self.dimension} numbers of at least 0 are wanted; found {variance}")
        self.weights = mode_weights(weights, len(self.means))

    def _drawn(self, count: int, generator: torch.Generator) -> Tensor:
        mode = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        n = torch.randn(count, self.dimension, generator=generator, dtype=torch.float64)
        return self.means[mode] + self.variance.sqrt() * n

    def _posterior_mean(self, x: Tensor, sigma: Tensor) -> Tensor:
        means, variance = self.means.to(x), self.variance.to(x)
        total = variance + sigma[:, None] ** 2
        scaled = x / total
        # |x - m|^2 without the part that all modes share, which softmax does not need; largest exponent first.
        exponent = scaled @ means.T - (1 / total) @ (means**2).T / 2
        share = torch.softmax(self.weights.to(x).log() + exponent, dim=1)
        centre = share @ means
        return centre + variance / total * (x - centre)

    def nearest(self, x: Tensor) -> Tensor:
        """x moved to the nearest mean, along the directions in which the data does not vary."""
        flat, means = self.variance == 0, self.means.to(x)
        away = torch.cdist(x[:, flat], means[:, flat], compute_mode="donot_use_mm_for_euclid_dist")
        return torch.where(flat, means[away.argmin(1)], x)


def circle_of_points(count: int, radius: float = 2.0) -> Mixture:
    """`count` points at equal angles."""
    count, radius = whole_number(count, "points"), positive(radius, "radius")
    angle = torch.arange(count, dtype=torch.float64) * 2 * math.pi / count
    return Mixture(radius * torch.stack([angle.cos(), angle.sin()], dim=1), about=f"{count} points on a circle")


def random_points(count: int, seed: int) -> Mixture:
    """`count` points drawn from the unit square's Gaussian (Lu, Wang, Bal 2023, 4.2 and Fig. 7: drawn at random)."""
    count = whole_number(count, "points")
    generator = torch.Generator().manual_seed(whole_number(seed, "seed", 0))
    drawn = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return Mixture(drawn, about=f"{count} points at random in the plane")


def gaussian_line(dimension: int = 2) -> Mixture:
    """N(0, 1) along the x axis, nothing across (Lu, Wang, Bal 2023, A.3)."""
    dimension = whole_number(dimension, "dimension", 2)
    made = Mixture(torch.zeros(1, dimension), [1.0] + [0.0] * (dimension - 1), about="a Gaussian on the x axis")
    made.surface = Plane(dimension, 1)
    return made


def hyperplane(modes: int = 9, spread: float = 0.3) -> Mixture:
    """Gaussians of deviation `spread` on a grid in the plane z = 0 of R^3 (Liu, Zhang, Li 2025; theirs: nine modes).

    Raises:
        InputError: the number of modes is not a square of 1 or more, or the spread not positive.
    """
    side = math.isqrt(whole_number(modes, "modes"))
    if side**2 != modes:
        raise InputError(f"modes: {modes} do not fill a square grid; use 1, 4, 9, 16 ...")
    spread = positive(spread, "spread")
    at = 2.0 * (torch.arange(side, dtype=torch.float64) - (side - 1) / 2)
    x, y = torch.meshgrid(at, at, indexing="ij")
    means = torch.stack([x.flatten(), y.flatten(), torch.zeros(modes, dtype=torch.float64)], dim=1)
    made = Mixture(means, [spread**2, spread**2, 0.0], about=f"{modes} Gaussians in the plane z = 0 of R^3")
    made.surface = Plane(3, 2)
    return made
