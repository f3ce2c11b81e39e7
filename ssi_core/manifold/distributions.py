"""Data on manifolds whose denoiser D(x, sigma) = E[x0 | x], score and samples are exact. Float64, vectorised.

All in the coordinate x = x0 + sigma n of `ssi_core.process`, points as rows [B, d]; `score` is
grad log p_sigma(x) = (D - x) / sigma^2, the score of Lu, Wang, Bal (2023) with their sign turned.

A new distribution is one new class (here or beside), and one entry of `DISTRIBUTIONS`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import InputError
from ..precision import float64
from .surfaces import Plane, Rotations, Sphere, Surface, uniform_on


class Distribution(ABC):
    """Data in R^`dimension`."""

    about: str
    dimension: int
    surface: Surface | None = None
    """The manifold that it lies on, where that is one of `surfaces`."""
    exact: ClassVar[bool] = True
    """Whether `denoise` is known; where it is not, only samples are."""

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """So many draws [count, d]."""

    @abstractmethod
    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x0 + sigma n = x] for x [B, d], sigma [B] > 0."""

    def distance(self, x: Tensor) -> Tensor:
        """Of each row of x [B, d] to the manifold, [B]."""
        if self.surface is None:
            raise NotImplementedError
        return self.surface.distance(x)

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """grad log p_sigma at x [B, d], [B, d]."""
        return (self.denoise(x, sigma) - x) / sigma[:, None] ** 2


def _weights(weights: Sequence[float] | None, count: int) -> Tensor:
    found = torch.tensor([1.0] * count if weights is None else list(weights), dtype=torch.float64)
    if len(found) != count or not bool((found > 0).all()) or not bool(found.isfinite().all()):
        raise InputError(f"weights: {count} positive numbers are wanted, one a mode; found {found.tolist()}")
    return found / found.sum()


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
        self.means, self.about = float64(means), about
        if self.means.ndim != 2 or self.means.numel() == 0:
            raise InputError(
                f"modes: means of shape {tuple(self.means.shape)}; one row a mode, at least one, is wanted"
            )
        self.dimension = self.means.shape[1]
        given = [0.0] * self.dimension if variance is None else list(variance)
        self.variance = torch.tensor(given, dtype=torch.float64)
        if len(self.variance) != self.dimension or not bool((self.variance >= 0).all()):
            raise InputError(f"variance: {self.dimension} numbers of at least 0 are wanted; found {variance}")
        self.weights = _weights(weights, len(self.means))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        mode = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        n = torch.randn(count, self.dimension, generator=generator, dtype=torch.float64)
        return self.means[mode] + self.variance.sqrt() * n

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        means, variance = self.means.to(x), self.variance.to(x)
        total = variance + sigma[:, None] ** 2
        scaled = x / total
        # |x - m|^2 without the part that all modes share, which softmax does not need; largest exponent first.
        exponent = scaled @ means.T - (1 / total) @ (means**2).T / 2
        share = torch.softmax(self.weights.to(x).log() + exponent, dim=1)
        centre = share @ means
        return centre + variance / total * (x - centre)

    def distance(self, x: Tensor) -> Tensor:
        """To the nearest mean, along the directions in which the data does not vary."""
        flat = self.variance == 0
        if not bool(flat.any()):
            return torch.zeros(len(x), dtype=x.dtype)
        return torch.cdist(x[:, flat], self.means.to(x)[:, flat], compute_mode="donot_use_mm_for_euclid_dist").amin(1)


def circle_of_points(count: int, radius: float = 2.0) -> Mixture:
    """`count` points at equal angles."""
    if count < 1:
        raise InputError(f"points: {count}; at least one is wanted")
    angle = torch.arange(count, dtype=torch.float64) * 2 * math.pi / count
    return Mixture(radius * torch.stack([angle.cos(), angle.sin()], dim=1), about=f"{count} points on a circle")


def random_points(count: int, seed: int) -> Mixture:
    """`count` points drawn from the unit square's Gaussian (Lu, Wang, Bal 2023, 4.2 and Fig. 7: drawn at random)."""
    if count < 1:
        raise InputError(f"points: {count}; at least one is wanted")
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return Mixture(points, about=f"{count} points at random in the plane")


def gaussian_line(dimension: int = 2) -> Mixture:
    """N(0, 1) along the x axis, nothing across (Lu, Wang, Bal 2023, A.3)."""
    made = Mixture(torch.zeros(1, dimension), [1.0] + [0.0] * (dimension - 1), about="a Gaussian on the x axis")
    made.surface = Plane(dimension, 1)
    return made


def hyperplane(modes: int = 9, spread: float = 0.3) -> Mixture:
    """Gaussians of deviation `spread` on a grid in the plane z = 0 of R^3 (Liu, Zhang, Li 2025; theirs: nine modes).

    Raises:
        InputError: the number of modes is not a square of 1 or more, or the spread not positive.
    """
    side = math.isqrt(max(modes, 0))
    if side < 1 or side**2 != modes:
        raise InputError(f"modes: {modes} do not fill a square grid; use 1, 4, 9, 16 ...")
    if not spread > 0:
        raise InputError(f"spread {spread}: must be positive")
    at = 2.0 * (torch.arange(side, dtype=torch.float64) - (side - 1) / 2)
    x, y = torch.meshgrid(at, at, indexing="ij")
    means = torch.stack([x.flatten(), y.flatten(), torch.zeros(modes, dtype=torch.float64)], dim=1)
    made = Mixture(means, [spread**2, spread**2, 0.0], about=f"{modes} Gaussians in the plane z = 0 of R^3")
    made.surface = Plane(3, 2)
    return made


class SphereModes(Distribution):
    """Von Mises-Fisher modes on the unit sphere of R^3: density proportional to sum_k w_k exp(kappa m_k . y).

    The posterior of such a mode is one again, with parameter x / sigma^2 + kappa m_k, so that D is exact. kappa = 0 is
    the uniform distribution.
    """

    def __init__(self, means: Tensor, kappa: float = 20.0, weights: Sequence[float] | None = None) -> None:
        self.means, self.kappa = float64(means), float(kappa)
        if self.means.ndim != 2 or self.means.shape[1] != 3 or len(self.means) == 0:
            raise InputError(f"modes: means of shape {tuple(self.means.shape)}; rows of 3 numbers are wanted")
        if not 0 <= self.kappa < math.inf:
            raise InputError(f"kappa {kappa}: must be 0 or a positive number")
        self.surface, self.dimension = Sphere(3), 3
        self.surface.require(self.means, "modes")
        self.weights = _weights(weights, len(self.means))
        self.about = f"{len(self.means)} modes on the sphere"

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        mode = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        mean = self.means[mode]
        u = torch.rand(count, generator=generator, dtype=torch.float64).clamp_min(1e-300)
        # The cosine to the mean is a truncated exponential on the sphere (Ulrich 1984); kappa -> 0 is uniform.
        k = max(self.kappa, 1e-8)
        along = 1 + torch.log(u + (1 - u) * math.exp(-2 * k)) / k
        free = torch.randn(count, 3, generator=generator, dtype=torch.float64)
        across = free - (free * mean).sum(1, keepdim=True) * mean
        across = across / across.norm(dim=1, keepdim=True)
        return along[:, None] * mean + (1 - along**2).clamp_min(0).sqrt()[:, None] * across

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        parameter = (x / sigma[:, None] ** 2)[:, None] + self.kappa * self.means.to(x)  # [B, K, 3]
        r = parameter.norm(dim=2).clamp_min(1e-12)
        # ln of the integral of exp(parameter . y) over the sphere, without 4 pi: ln(sinh r / r).
        log_mass = torch.where(r < 1e-4, r**2 / 6, r + torch.log1p(-torch.exp(-2 * r)) - (2 * r).log())
        share = torch.softmax(self.weights.to(x).log() + log_mass, dim=1)
        length = torch.where(r < 1e-3, r / 3, 1 / torch.tanh(r) - 1 / r)  # E|.| along the mean: coth r - 1/r
        return (share[..., None] * (length / r)[..., None] * parameter).sum(1)


class RotationTori(Distribution):
    """Modes on SO(n) with an exact D: S = Q_k diag(R(theta_1), ..., R(theta_n/2)) P_k, von Mises angles about 0.

    Each mode is a torus of floor(n/2) dimensions through the rotation Q_k P_k. In the frames of Q_k and P_k the
    posterior of every angle is von Mises again, so that D needs no approximation for any n. (A density on the whole of
    SO(n) has an exact D for small n only; `RotationModes` has such a one, for sampling and training.)
    """

    def __init__(self, n: int, modes: int = 5, kappa: float = 20.0, seed: int = 0) -> None:
        self.surface = Rotations(n)
        if modes < 1:
            raise InputError(f"modes: {modes}; at least one is wanted")
        if not 0 <= kappa < math.inf:
            raise InputError(f"kappa {kappa}: must be 0 or a positive number")
        self.n, self.kappa, self.dimension = n, float(kappa), n * n
        generator = torch.Generator().manual_seed(seed)
        self.left = uniform_on(self.surface, modes, generator).reshape(modes, n, n)
        self.right = uniform_on(self.surface, modes, generator).reshape(modes, n, n)
        self.about = f"{modes} tori on SO({n})"

    def _assembled(self, cosine: Tensor, sine: Tensor) -> Tensor:
        """Block-diagonal [..., n, n] of the 2x2 blocks (c, -s; s, c); a last 1 for odd n."""
        blocks = cosine.new_zeros(*cosine.shape[:-1], self.n, self.n)
        even = torch.arange(0, self.n - 1, 2)
        blocks[..., even, even] = blocks[..., even + 1, even + 1] = cosine
        blocks[..., even, even + 1], blocks[..., even + 1, even] = -sine, sine
        if self.n % 2:
            blocks[..., -1, -1] = 1
        return blocks

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        mode = torch.randint(len(self.left), (count,), generator=generator)
        angle = von_mises(self.kappa, (count, self.n // 2), generator)
        turned = self._assembled(angle.cos(), angle.sin())
        return (self.left[mode] @ turned @ self.right[mode]).flatten(1)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        m = self.left.to(x).mT @ x.reshape(-1, 1, self.n, self.n) @ self.right.to(x).mT  # [B, K, n, n]
        even = torch.arange(0, self.n - 1, 2)
        precision = 1 / sigma[:, None, None] ** 2
        a = (m[..., even, even] + m[..., even + 1, even + 1]) * precision + self.kappa
        b = (m[..., even + 1, even] - m[..., even, even + 1]) * precision
        r = torch.hypot(a, b).clamp_min(1e-300)
        log_mass = (r + torch.special.i0e(r).log()).sum(-1)
        if self.n % 2:
            log_mass = log_mass + m[..., -1, -1] * precision[..., 0]
        share = torch.softmax(log_mass, dim=1)
        length = torch.special.i1e(r) / torch.special.i0e(r) / r
        mean = self.left.to(x) @ self._assembled(length * a, length * b) @ self.right.to(x)
        return (share[..., None, None] * mean).sum(1).flatten(1)


class RotationModes(Distribution):
    """Modes with a density on the whole of SO(n): S = Q_k exp(A), A antisymmetric with deviation `spread` an entry.

    No exact D is known, so it can be sampled and trained on only.
    """

    exact: ClassVar[bool] = False

    def __init__(self, n: int = 10, modes: int = 5, spread: float = 0.1, seed: int = 0) -> None:
        self.surface = Rotations(n)
        if modes < 1:
            raise InputError(f"modes: {modes}; at least one is wanted")
        if not 0 < spread < math.inf:
            raise InputError(f"spread {spread}: must be positive")
        self.n, self.spread, self.dimension = n, spread, n * n
        self.centres = uniform_on(self.surface, modes, torch.Generator().manual_seed(seed)).reshape(modes, n, n)
        self.about = f"{modes} modes on SO({n})"

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        mode = torch.randint(len(self.centres), (count,), generator=generator)
        upper = torch.randn(count, self.n, self.n, generator=generator, dtype=torch.float64).triu(1) * self.spread
        return (self.centres[mode] @ torch.matrix_exp(upper - upper.mT)).flatten(1)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        raise InputError(f"{self.about}: no exact denoiser is known; `RotationTori` has one")


def von_mises(kappa: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Angles with density proportional to exp(kappa cos), float64 (Best and Fisher 1979: rejection)."""
    total = math.prod(shape)
    if kappa < 1e-8:
        return (torch.rand(total, generator=generator, dtype=torch.float64) * 2 - 1).reshape(shape) * math.pi
    if kappa > 1e8:  # where the rejection's 1 - cos is lost in float64, and the density is the normal one
        return torch.randn(total, generator=generator, dtype=torch.float64).reshape(shape) / math.sqrt(kappa)
    tau = 1 + math.sqrt(1 + 4 * kappa**2)
    rho = (tau - math.sqrt(2 * tau)) / (2 * kappa)
    r = (1 + rho**2) / (2 * rho)
    found = torch.empty(0, dtype=torch.float64)
    while len(found) < total:
        u = torch.rand(3, 2 * total, generator=generator, dtype=torch.float64)
        z = (math.pi * u[0]).cos()
        f = (1 + r * z) / (r + z)
        c = kappa * (r - f)
        kept = (c * (2 - c) > u[1]) | ((c / u[1]).log() + 1 - c >= 0)
        found = torch.cat([found, (f.clamp(-1, 1).acos() * (u[2] - 0.5).sign())[kept]])
    return found[:total].reshape(shape)


@dataclass(frozen=True)
class Entry:
    """A named distribution."""

    about: str
    make: Callable[[], Distribution]


def _spiral() -> Distribution:
    from .curve import Spiral

    return Spiral()


DISTRIBUTIONS: dict[str, Entry] = {
    "five-points": Entry("five points at random", lambda: random_points(5, seed=5)),
    "eight-points": Entry("eight points on a circle of radius 2", lambda: circle_of_points(8)),
    "twenty-points": Entry("twenty points at random", lambda: random_points(20, seed=20)),
    "line": Entry("a Gaussian on the x axis of the plane", gaussian_line),
    "hyperplane": Entry("nine Gaussians in the plane z = 0 of R^3", hyperplane),
    "spiral": Entry("the spiral u (cos u, sin u), u in [1, 13]", _spiral),
    "sphere": Entry("six modes on the sphere", lambda: SphereModes(torch.cat([torch.eye(3), -torch.eye(3)]))),
    "rotations": Entry("five tori on SO(10)", lambda: RotationTori(10)),
}


def distribution(name: str) -> Distribution:
    """The named distribution.

    Raises:
        InputError: no distribution of that name; the message lists the known ones.
    """
    if name not in DISTRIBUTIONS:
        raise InputError(f"distribution {name!r}: unknown; known are {', '.join(DISTRIBUTIONS)}")
    return DISTRIBUTIONS[name].make()
