"""Data on curves: D exact for every sigma that is not minute, by taking the curve as a fine chain of straight pieces.

On one straight piece the posterior is a truncated Gaussian along it, whose mass and mean are known; so nothing has to
be resolved by a quadrature, however small sigma is. What is left is the gap between piece and arc (1.4e-5 for the
spiral). Where it would show in D, at sigmas under ten times the gap, D is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import InputError
from ..precision import float64
from .checks import whole_number
from .distribution import Distribution

CHUNK = 256
"""Points whose distances to all pieces are held at once."""
FINER, ZOOMS = 32, 5
"""The nearest point's parameter: windows around the best so far, each so many times finer, so many times."""
GAPS = 10
"""D is given for sigmas from so many times the gap between the chain and the curve."""


class Curve(Distribution):
    """x0 = curve(U) with U uniform on [low, high].

    Args:
        curve: parameters [N] -> points [N, d], float64.
        low, high: range of the parameter.
        pieces: straight pieces, alike in the parameter.

    Raises:
        InputError: an empty range, too few pieces, or a curve that gives something else than finite points.
    """

    def __init__(
        self, curve: Callable[[Tensor], Tensor], low: float, high: float, pieces: int = 4096, about: str = "a curve"
    ) -> None:
        if not -math.inf < low < high < math.inf:
            raise InputError(f"curve: parameter range {low}..{high} is empty")
        whole_number(pieces, "curve: pieces", 2)
        self.curve, self.low, self.high, self.about = curve, low, high, about
        knots = curve(torch.linspace(low, high, pieces + 1, dtype=torch.float64))
        if knots.ndim != 2 or len(knots) != pieces + 1 or not bool(knots.isfinite().all()):
            raise InputError(f"curve: gave shape {tuple(knots.shape)} for {pieces + 1} parameters, or NaN or Inf")
        self.start, step = knots[:-1], knots.diff(dim=0)
        self.length = step.norm(dim=1)
        if float(self.length.min()) <= 0:
            raise InputError("curve: stands still on a piece; give it a parametrisation that moves")
        self.along = step / self.length[:, None]
        self.dimension = knots.shape[1]
        # The arc is farthest from its chord near the middle; D of the chain is off by no more than that.
        bow = curve(torch.linspace(low, high, 2 * pieces + 1, dtype=torch.float64)[1::2]) - self.start
        self.gap = float((bow - (bow * self.along).sum(1, keepdim=True) * self.along).norm(dim=1).max())
        self.finest = GAPS * self.gap

    def _drawn(self, count: int, generator: torch.Generator) -> Tensor:
        u = torch.rand(count, generator=generator, dtype=torch.float64)
        return float64(self.curve(self.low + (self.high - self.low) * u))

    def _posterior_mean(self, x: Tensor, sigma: Tensor) -> Tensor:
        pieces = [self._chain_mean(*chunk) for chunk in zip(x.split(CHUNK), sigma.split(CHUNK), strict=True)]
        return torch.cat(pieces)

    def _feet(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where x falls on the line of each piece, from its start, and squared distance to that line; both [B, M]."""
        start, along = self.start.to(x), self.along.to(x)
        foot = x @ along.T - (start * along).sum(1)
        squared = (x**2).sum(1, keepdim=True) - 2 * x @ start.T + (start**2).sum(1)
        return foot, (squared - foot**2).clamp_min(0)

    def _chain_mean(self, x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma[:, None]
        foot, off = self._feet(x)
        z1, z2 = -foot / s, (self.length.to(x) - foot) / s
        # ln(Phi(z2) - Phi(z1)), turned to the lower tail, where it is accurate.
        turn = z1 + z2 > 0
        low, high = torch.where(turn, -z2, z1), torch.where(turn, -z1, z2)
        top = torch.special.log_ndtr(high)
        log_share = top + torch.log(-torch.expm1((torch.special.log_ndtr(low) - top).clamp(max=-1e-300)))
        # Mean of the truncated Gaussian: foot + sigma (phi(z1) - phi(z2)) / (Phi(z2) - Phi(z1)), kept on its piece.
        half = math.log(2 * math.pi) / 2
        push = torch.exp(-(z1**2) / 2 - half - log_share) - torch.exp(-(z2**2) / 2 - half - log_share)
        mean = torch.minimum((foot + s * push).nan_to_num().clamp_min(0), self.length.to(x))
        # Uniform in the parameter: every piece has the same mass, spread over its own length.
        share = torch.softmax(log_share - off / (2 * s**2) - self.length.to(x).log(), dim=1)
        return share @ self.start.to(x) + (share * mean) @ self.along.to(x)

    def nearest(self, x: Tensor) -> Tensor:
        """On the curve itself, where D and `distance` have its chain: the least of ever finer rows of its points."""
        return torch.cat([self._nearest(chunk) for chunk in x.split(CHUNK)])

    def _nearest(self, x: Tensor) -> Tensor:
        half = (self.high - self.low) / len(self.start)
        u = torch.linspace(self.low, self.high, len(self.start) + 1, dtype=torch.float64).expand(len(x), -1)
        window = half * torch.linspace(-1, 1, 2 * FINER + 1, dtype=torch.float64)
        for zoom in range(1 + ZOOMS):
            tried = self.curve(u.flatten()).to(x).reshape(*u.shape, -1)
            best = (tried - x[:, None]).square().sum(2).argmin(1, keepdim=True)
            u = (u.gather(1, best) + window / FINER**zoom).clamp(self.low, self.high)
        return tried[torch.arange(len(x)), best[:, 0]]

    def distance(self, x: Tensor) -> Tensor:
        found = []
        for chunk in x.split(CHUNK):
            foot, off = self._feet(chunk)
            beyond = (foot - foot.clamp_min(0).minimum(self.length.to(x))) ** 2
            found.append((off + beyond).amin(1).clamp_min(0).sqrt())
        return torch.cat(found)


class Spiral(Curve):
    """u (cos u, sin u), u uniform on [1, 13] (Lu, Wang, Bal 2023, section 4.1)."""

    def __init__(self, pieces: int = 4096) -> None:
        def curve(u: Tensor) -> Tensor:
            return torch.stack([u * u.cos(), u * u.sin()], dim=1)

        super().__init__(curve, 1.0, 13.0, pieces, about="a spiral")
