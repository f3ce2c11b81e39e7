"""What every distribution on a manifold can do: samples, the denoiser D(x, sigma) = E[x0 | x], the score, distances.

All in the coordinate x = x0 + sigma n of `ssi_core.process`, points as rows [B, d]; `score` is
grad log p_sigma(x) = (D - x) / sigma^2, the score of Lu, Wang, Bal (2023) with their sign turned.

A new distribution is one new class beside `mixtures`, `directional` and `curve`, and one entry of
`named.DISTRIBUTIONS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError
from .checks import fits, whole_number
from .surfaces import Surface


class Distribution(ABC):
    """Data in R^`dimension`."""

    about: str
    dimension: int
    surface: Surface | None = None
    """The manifold that it lies on, where that is one of `surfaces`."""
    finest: float = 0.0
    """The smallest sigma at which D is exact; it is refused under that. 0: exact at every sigma > 0."""

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """So many draws [count, d], float64.

        Raises:
            InputError: a count that is no whole number of at least 1.
        """
        return self._drawn(whole_number(count, "samples"), generator)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x0 + sigma n = x] for x [B, d], sigma [B] > 0.

        Raises:
            InputError: shapes that do not fit, a sigma that is not positive or under `finest`, or no D is known.
        """
        fits(x, self.dimension, f"{self.about}, state")
        if sigma.shape != x.shape[:1]:
            raise InputError(f"{self.about}: sigma of shape {tuple(sigma.shape)}; one for each of {len(x)} rows wanted")
        if len(sigma) and not bool((sigma > 0).all()):
            raise InputError(f"{self.about}: sigma {float(sigma.min()):g}; must be positive")
        if len(sigma) and float(sigma.min()) < self.finest * (1 - 1e-6):
            raise InputError(
                f"{self.about}: sigma {float(sigma.min()):.3g} lies under {self.finest:.3g}, where its straight pieces "
                f"begin to show and D is not exact; use larger sigmas, or more pieces"
            )
        return self._posterior_mean(x, sigma)

    @abstractmethod
    def _drawn(self, count: int, generator: torch.Generator) -> Tensor:
        """`sample` of a count that has been checked."""

    @abstractmethod
    def _posterior_mean(self, x: Tensor, sigma: Tensor) -> Tensor:
        """`denoise` of arguments that have been checked."""

    def nearest(self, x: Tensor) -> Tensor:
        """The nearest point of the data's support to each row of x [B, d]: y_X, by geometry alone, never from D."""
        if self.surface is None:
            raise NotImplementedError
        return self.surface.project(x)

    def distance(self, x: Tensor) -> Tensor:
        """Of each row of x [B, d] to the data's support, [B]."""
        return (x - self.nearest(x)).norm(dim=1)

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """grad log p_sigma at x [B, d], [B, d]."""
        return (self.denoise(x, sigma) - x) / sigma[:, None] ** 2


def mode_weights(weights: Sequence[float] | None, count: int) -> Tensor:
    """Probabilities [count] of modes; alike where none are given.

    Raises:
        InputError: another number of weights than modes, or one that is not positive and finite.
    """
    found = torch.tensor([1.0] * count if weights is None else list(weights), dtype=torch.float64)
    if len(found) != count or not bool((found > 0).all()) or not bool(found.isfinite().all()):
        raise InputError(f"weights: {count} positive numbers are wanted, one a mode; found {found.tolist()}")
    return found / found.sum()
