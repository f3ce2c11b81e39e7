"""Modes on curved manifolds: von Mises-Fisher on the sphere; tori with an exact D and full modes on SO(n)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError
from .checks import points, positive, whole_number
from .distribution import Distribution, mode_weights
from .surfaces import Rotations, Sphere


class SphereModes(Distribution):
    """Von Mises-Fisher modes on the unit sphere of R^3: density proportional to sum_k w_k exp(kappa m_k . y).

    The posterior of such a mode is one again, with parameter x / sigma^2 + kappa m_k, so that D is exact. kappa = 0 is
    the uniform distribution.
    """

    def __init__(self, means: Tensor, kappa: float = 20.0, weights: Sequence[float] | None = None) -> None:
        self.means = points(means, "modes: means", "at least one row of 3 finite numbers", 3)
        self.kappa = positive(kappa, "kappa", or_zero=True)
        self.surface, self.dimension = Sphere(3), 3
        self.surface.require(self.means, "modes")
        self.weights = mode_weights(weights, len(self.means))
        self.about = f"{len(self.means)} modes on the sphere"

    def _drawn(self, count: int, generator: torch.Generator) -> Tensor:
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

    def _posterior_mean(self, x: Tensor, sigma: Tensor) -> Tensor:
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
        modes, self.n = whole_number(modes, "modes"), self.surface.n
        self.kappa, self.dimension = positive(kappa, "kappa", or_zero=True), n * n
        generator = torch.Generator().manual_seed(whole_number(seed, "seed", 0))
        self.left = self.surface.matrices(self.surface.uniform(modes, generator))
        self.right = self.surface.matrices(self.surface.uniform(modes, generator))
        self.about = f"{modes} tori on SO({n})"

    def _drawn(self, count: int, generator: torch.Generator) -> Tensor:
        mode = torch.randint(len(self.left), (count,), generator=generator)
        angle = von_mises(self.kappa, (count, self.n // 2), generator)
        blocks = turned(self.n, angle.cos(), angle.sin())
        return (self.left[mode] @ blocks @ self.right[mode]).flatten(1)

    def _posterior_mean(self, x: Tensor, sigma: Tensor) -> Tensor:
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
        mean = self.left.to(x) @ turned(self.n, length * a, length * b) @ self.right.to(x)
        return (share[..., None, None] * mean).sum(1).flatten(1)

    def nearest(self, x: Tensor) -> Tensor:
        """Of the tori, the nearest one's: in its frames each 2x2 block becomes the rotation by its own angle."""
        left, right = self.left.to(x), self.right.to(x)
        m = left.mT @ x.reshape(-1, 1, self.n, self.n) @ right.mT
        even = torch.arange(0, self.n - 1, 2)
        angle = torch.atan2(
            m[..., even + 1, even] - m[..., even, even + 1], m[..., even, even] + m[..., even + 1, even + 1]
        )
        found = (left @ turned(self.n, angle.cos(), angle.sin()) @ right).flatten(2)  # [B, K, n^2]
        best = (found - x[:, None]).norm(dim=2).argmin(1)
        return found[torch.arange(len(x)), best]


class RotationModes(Distribution):
    """Modes with a density on the whole of SO(n), as in the experiment of Liu, Zhang, Li (2025; from their code).

    S = C_k exp(A), A antisymmetric with independent entries of deviation `spread`. Mode k = 0, 1 ... is at the rotation
    C_k that turns k + 1 planes of a random frame of its own by 60 degrees. No exact D is known, so that it can be
    sampled and trained on only.

    Args:
        n: of SO(n).
        modes: at most floor(n / 2), one for each number of planes.
        spread: theirs is .05 / sqrt 2: Gaussian matrices of deviation .05, projected onto the tangent space.
        seed: of the frames.

    Raises:
        InputError: numbers that make no sense, or more modes than planes.
    """

    def __init__(self, n: int = 10, modes: int = 5, spread: float = 0.05 / math.sqrt(2), seed: int = 0) -> None:
        self.surface = Rotations(n)
        modes, self.spread, self.n = whole_number(modes, "modes"), positive(spread, "spread"), self.surface.n
        if modes > n // 2:
            raise InputError(f"modes: {modes}; SO({n}) has {n // 2} planes to turn, so at most so many modes")
        self.dimension = n * n
        frames = self.surface.matrices(
            self.surface.uniform(modes, torch.Generator().manual_seed(whole_number(seed, "seed", 0)))
        )
        planes = torch.arange(n // 2)
        angle = math.pi / 3 * (planes[None, :] <= torch.arange(modes)[:, None]).double()
        self.centres = frames.mT @ turned(n, angle.cos(), angle.sin()) @ frames
        self.about = f"{modes} modes on SO({n})"

    def _drawn(self, count: int, generator: torch.Generator) -> Tensor:
        mode = torch.randint(len(self.centres), (count,), generator=generator)
        upper = torch.randn(count, self.n, self.n, generator=generator, dtype=torch.float64).triu(1) * self.spread
        return (self.centres[mode] @ torch.matrix_exp(upper - upper.mT)).flatten(1)

    def _posterior_mean(self, x: Tensor, sigma: Tensor) -> Tensor:
        raise InputError(f"{self.about}: no exact denoiser is known; `RotationTori` has one")


def turned(n: int, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotations of the coordinate planes: [..., n, n] of the 2x2 blocks (c, -s; s, c); a last 1 for odd n."""
    blocks = cosine.new_zeros(*cosine.shape[:-1], n, n)
    even = torch.arange(0, n - 1, 2)
    blocks[..., even, even] = blocks[..., even + 1, even + 1] = cosine
    blocks[..., even, even + 1], blocks[..., even + 1, even] = -sine, sine
    if n % 2:
        blocks[..., -1, -1] = 1
    return blocks


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
