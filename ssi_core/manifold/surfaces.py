"""Manifolds that are known as such: nearest point, distance, and the projection onto the normal space.

Points are rows [B, n] of the ambient space. Off the manifold, P(x) and its complement are taken at the nearest point of
x, which extends them to its surroundings (Liu, Zhang, Li 2025 leave the extension open) and keeps them projections.

A new manifold is one new class here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .checks import fits, whole_number

ON = 1e-6
"""Distance up to which a point counts as on the manifold, relative to the size of the points."""


class Surface(ABC):
    """A manifold of dimension `dimension` in R^`ambient`."""

    ambient: int
    dimension: int

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of each row of x [B, n].

        Raises:
            InputError: rows of another length.
        """
        fits(x, self.ambient, f"points for {self}")
        return self._nearest(x)

    @abstractmethod
    def _nearest(self, x: Tensor) -> Tensor:
        """`project` of points that have been checked."""

    @abstractmethod
    def normal_at(self, y: Tensor, v: Tensor) -> Tensor:
        """The part of v [B, n] that is normal to the manifold at its points y [B, n]: N(y) N(y)^T v."""

    def uniform(self, count: int, generator: torch.Generator) -> Tensor:
        """Uniform points of a compact manifold [count, n], float64: where annealing may begin.

        Raises:
            InputError: the manifold has no uniform distribution, or a count that makes no sense.
        """
        raise InputError(f"{self}: has no uniform distribution; begin annealing from points of your own")

    def probes(self, count: int, generator: torch.Generator) -> Tensor:
        """Some points of the manifold [count, n], float64, to try a map on."""
        return self.project(torch.randn(count, self.ambient, generator=generator, dtype=torch.float64))

    def distance(self, x: Tensor) -> Tensor:
        """Of each row of x [B, n] to the manifold, [B]."""
        return (x - self.project(x)).norm(dim=1)

    def require(self, x: Tensor, what: str = "points") -> None:
        """Refuse points that are not on the manifold.

        Raises:
            InputError: with the largest distance and the row that has it.
        """
        fits(x, self.ambient, what)
        if not len(x):
            return
        away = self.distance(x)
        worst = int(away.argmax())
        size = max(1.0, float(x.norm(dim=1).max()))
        allowed = max(ON, 30 * torch.finfo(x.dtype).eps) * size
        if not float(away[worst]) <= allowed:
            raise InputError(
                f"{what}: not on the manifold {self}; row {worst} lies {float(away[worst]):.3g} away (allowed "
                f"{allowed:.1g}). Project them first (`project`), or name the manifold that they are on"
            )


@dataclass(frozen=True)
class Plane(Surface):
    """The coordinate subspace of the first `dimension` axes of R^`ambient`; dimension 1 is the x axis."""

    ambient: int
    dimension: int

    def __post_init__(self) -> None:
        whole_number(self.ambient, "plane: ambient dimension", 2)
        if not 0 < whole_number(self.dimension, "plane: dimension", 0) < self.ambient:
            raise InputError(f"plane: dimension {self.dimension} in R^{self.ambient}; needs 0 < dimension < ambient")

    def _nearest(self, x: Tensor) -> Tensor:
        return x - self.normal_at(x, x)

    def normal_at(self, y: Tensor, v: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(v[:, : self.dimension]), v[:, self.dimension :]], dim=1)


@dataclass(frozen=True)
class Sphere(Surface):
    """The unit sphere of R^`ambient`."""

    ambient: int = 3

    def __post_init__(self) -> None:
        whole_number(self.ambient, "sphere: dimensions of the space around it", 2)

    @property
    def dimension(self) -> int:  # type: ignore[override]
        return self.ambient - 1

    def _nearest(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)

    def uniform(self, count: int, generator: torch.Generator) -> Tensor:
        x = torch.randn(whole_number(count, "points"), self.ambient, generator=generator, dtype=torch.float64)
        return self.project(x)

    def normal_at(self, y: Tensor, v: Tensor) -> Tensor:
        return (v * y).sum(1, keepdim=True) * y


@dataclass(frozen=True)
class Rotations(Surface):
    """SO(n) in R^(n^2), matrices flattened by rows; its normal space at S is {S A, A symmetric}."""

    n: int

    def __post_init__(self) -> None:
        whole_number(self.n, "SO(n): n", 2)

    @property
    def ambient(self) -> int:  # type: ignore[override]
        return self.n**2

    @property
    def dimension(self) -> int:  # type: ignore[override]
        return self.n * (self.n - 1) // 2

    def matrices(self, x: Tensor) -> Tensor:
        """Rows [B, n^2] as matrices [B, n, n]."""
        fits(x, self.ambient, f"matrices of {self}")
        return x.reshape(-1, self.n, self.n)

    def uniform(self, count: int, generator: torch.Generator) -> Tensor:
        """Haar: the orthogonal factor of a Gaussian matrix, its signs fixed (Mezzadri 2007)."""
        x = torch.randn(whole_number(count, "points"), self.ambient, generator=generator, dtype=torch.float64)
        q, r = torch.linalg.qr(self.matrices(x))
        q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]
        q = torch.cat([q[..., :-1], q[..., -1:] * torch.linalg.det(q)[:, None, None].sign()], dim=-1)
        return q.flatten(1)

    def _nearest(self, x: Tensor) -> Tensor:
        """The polar factor, the smallest singular direction turned where the determinant is negative (Kabsch 1976)."""
        u, _, vt = torch.linalg.svd(self.matrices(x))
        turned = torch.linalg.det(u @ vt).sign()
        u = torch.cat([u[..., :-1], u[..., -1:] * turned[:, None, None]], dim=-1)
        return (u @ vt).flatten(1)

    def normal_at(self, y: Tensor, v: Tensor) -> Tensor:
        s, m = self.matrices(y), self.matrices(v)
        inner = s.mT @ m
        return (s @ (inner + inner.mT) / 2).flatten(1)

    def nearly(self, x: Tensor, rounds: int = 4) -> Tensor:
        """The nearest rotation of points close to SO(n), by Newton-Schulz rounds in place of a decomposition.

        Converges where all singular values lie in (0, sqrt 3); they are first divided by a bound on the largest.
        """
        s = self.matrices(x)
        # The largest row sum bounds the spectral norm; scaling by it makes every singular value at most 1.
        bound = (s.mT @ s).abs().sum(-1).amax(-1).sqrt()[:, None, None]
        s = s / bound.clamp_min(1.0)
        for _ in range(rounds):
            s = 1.5 * s - 0.5 * s @ (s.mT @ s)
        return s.flatten(1)

    def __str__(self) -> str:
        return f"SO({self.n})"
