"""Training targets as one family: what is added to the data, what a network must say then, and what D follows from it.

Every objective sees data x0, puts noise on it and asks the network for one of (X = s x is the process's own state)

| objective | the network's answer F | its loss | D |
|---|---|---|---|
| score: SGM, Lu et al. Eq. 22 | S = -grad log p(X) | (s sigma)^2 [n / (s sigma) - F]^2 | x - s sigma^2 F |
| eps: DDPM, Eq. 10            | the unit noise n   | [n - F]^2                         | x - sigma F |
| cem: Eq. 34                  | E[x0 of x]         | lambda(t) [x0 - F]^2              | F |
| iso: Liu et al.              | grad log p(x)      | sigma^2 [F + (x - x0)/sigma^2]^2  | x + sigma^2 F |
| niso: Liu et al.             | grad log p(x)      | sigma^2 [F + Sigma^-1 (x - x0)]^2 | x + sigma^2 F |
| tango: Liu et al.            | grad log p(x)      | that of iso, of P(x) [...]        | x + sigma^2 F, on it |

The last three weigh by sigma w when rescaled, as their authors' code does.

`rescaled` has the network answer w F, with 1/w what the optimal F grows like (Liu et al.: s = s^ / w): the deviation of
the normal noise for scores; 1 for eps and cem, whose answers are bounded already, so that for these two it changes
nothing. A new objective is one new class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import InputError
from ..process import VE, Flow, Process
from .checks import positive
from .noise import normal_like
from .surfaces import Surface

Weight = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Noised:
    """Data with noise on it, in the solver's coordinate."""

    x: Tensor
    """[B, d]."""
    x0: Tensor
    noise: Tensor
    """The isotropic unit noise in it, [B, d]."""
    extra: Tensor
    """What was added along the normal space besides, [B, d]; 0 but for niso."""
    sigma: Tensor
    """[B]."""


@dataclass(frozen=True)
class Objective(ABC):
    """One training target."""

    name: ClassVar[str]
    process: Process
    rescaled: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.process, Flow):
            raise InputError(f"objective {self.name}: needs a process that adds noise to x0 (VE, VP, OU), not a flow")

    @abstractmethod
    def target(self, noised: Noised) -> Tensor:
        """What F must be in the mean, [B, d]."""

    @abstractmethod
    def weight(self, sigma: Tensor) -> Tensor:
        """lambda, [B]."""

    @abstractmethod
    def denoised(self, answer: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """D from the answer F at x [B, d], sigma [B]."""

    def size(self, sigma: Tensor) -> Tensor:
        """1/w: what the optimal answer grows like, [B]."""
        return torch.ones_like(sigma)

    def corrupt(self, x0: Tensor, sigma: Tensor, generator: torch.Generator | None = None) -> Noised:
        """Noise the data [B, d] at levels sigma [B]."""
        noise = normal_like(x0, generator)
        return Noised(x0 + sigma[:, None] * noise, x0, noise, torch.zeros_like(x0), sigma)

    def residual(self, error: Tensor, noised: Noised) -> Tensor:
        """The part of (answer - target) that counts, [B, d]."""
        return error

    def answer(self, output: Tensor, sigma: Tensor) -> Tensor:
        """F from what the network put out."""
        return output * self.size(sigma)[:, None] if self.rescaled else output

    def loss(self, output: Tensor, noised: Noised) -> Tensor:
        """Mean over the batch of lambda |residual|^2 / d, a number."""
        error = self.residual(self.answer(output, noised.sigma) - self.target(noised), noised)
        return (self.weight(noised.sigma)[:, None] * error**2).mean()

    def shown(self, x: Tensor, sigma: Tensor) -> Tensor:
        """What the network sees of a state x [B, d]: the process's own X = s x."""
        return self.process.scale(sigma)[:, None] * x


@dataclass(frozen=True)
class Score(Objective):
    """SGM: the (sign-turned) score of the process's own state, S = -grad_X log p."""

    name: ClassVar[str] = "score"

    def target(self, noised: Noised) -> Tensor:
        return noised.noise * self.size(noised.sigma)[:, None]

    def size(self, sigma: Tensor) -> Tensor:
        return 1 / (self.process.scale(sigma) * sigma)

    def weight(self, sigma: Tensor) -> Tensor:
        return 1 / self.size(sigma) ** 2  # lambda = 1 - e^-t, as in the authors' code

    def denoised(self, answer: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        return x - (self.process.scale(sigma) * sigma**2)[:, None] * answer


@dataclass(frozen=True)
class Eps(Objective):
    """DDPM's L_simple: the unit noise."""

    name: ClassVar[str] = "eps"

    def target(self, noised: Noised) -> Tensor:
        return noised.noise

    def weight(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)

    def denoised(self, answer: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        return x - sigma[:, None] * answer


CEM_WEIGHTS: dict[str, Weight] = {
    "inverse": lambda sigma: sigma**-2,
    "constant": torch.ones_like,
    "inverse-square": lambda sigma: sigma**-4,
}
"""lambda(t) = 1/(e^t - 1), and the two of the ablation (Fig. 11): 1 and 1/(e^t - 1)^2. e^t - 1 is sigma^2."""


@dataclass(frozen=True)
class Conditional(Objective):
    """CEM: the conditional expectation E[x0 | x]. With its own weight the loss is DDPM's; only the answer differs."""

    name: ClassVar[str] = "cem"
    weighting: str = "inverse"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weighting not in CEM_WEIGHTS:
            raise InputError(f"weighting {self.weighting!r}: unknown; known are {', '.join(CEM_WEIGHTS)}")

    def target(self, noised: Noised) -> Tensor:
        return noised.x0

    def weight(self, sigma: Tensor) -> Tensor:
        return CEM_WEIGHTS[self.weighting](sigma)

    def denoised(self, answer: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        return answer


@dataclass(frozen=True)
class Iso(Objective):
    """The score under isotropic VE noise; the loss weighted by sigma^2, or by sigma w when rescaled."""

    name: ClassVar[str] = "iso"
    data_std: float = 1.0
    """Standard deviation of a coordinate of the data: the network sees x / sqrt(data_std^2 + sigma^2)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self.data_std, "data_std")
        if not isinstance(self.process, VE):
            raise InputError(f"objective {self.name}: is defined for the VE process, not {self.process.name!r}")

    def target(self, noised: Noised) -> Tensor:
        return -noised.noise / noised.sigma[:, None]

    def weight(self, sigma: Tensor) -> Tensor:
        return sigma / self.size(sigma) if self.rescaled else sigma**2

    def size(self, sigma: Tensor) -> Tensor:
        return 1 / sigma

    def denoised(self, answer: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        return x + sigma[:, None] ** 2 * answer

    def shown(self, x: Tensor, sigma: Tensor) -> Tensor:
        # A VE state grows with sigma; what a plain network is given must not.
        return x / (sigma**2 + self.data_std**2).sqrt()[:, None]


@dataclass(frozen=True)
class _OnSurface(Iso):
    surface: Surface = field(kw_only=True)


@dataclass(frozen=True)
class Niso(_OnSurface):
    """Niso-DM: x = x0 + sigma e1 + sigma^alpha N(x0) e2, so that the normal part of the score stays small.

    Their alpha_t = ln c / ln sigma makes sigma^alpha the constant `extra`. The noised data is then an ordinary VE
    diffusion of data thickened by `extra` across the manifold; sampling ends on that, and is projected at the end.
    """

    name: ClassVar[str] = "niso"
    extra: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self.extra, "extra (the deviation of the normal noise)")

    def corrupt(self, x0: Tensor, sigma: Tensor, generator: torch.Generator | None = None) -> Noised:
        noise, free = normal_like(x0, generator), normal_like(x0, generator)
        extra = self.extra * self.surface.normal_at(x0, free)
        return Noised(x0 + sigma[:, None] * noise + extra, x0, noise, extra, sigma)

    def target(self, noised: Noised) -> Tensor:
        moved = noised.sigma[:, None] * noised.noise + noised.extra
        return -inverse_covariance(self.surface, noised.x0, moved, noised.sigma, self.extra)

    def size(self, sigma: Tensor) -> Tensor:
        return 1 / (sigma**2 + self.extra**2).sqrt()


def inverse_covariance(surface: Surface, at: Tensor, v: Tensor, sigma: Tensor, extra: float) -> Tensor:
    """Sigma^-1 v of Sigma = sigma^2 I + extra^2 N N^T at points of the manifold, [B, n].

    N^T N = I, so Sigma is sigma^2 along the tangent space and sigma^2 + extra^2 along the normal one.
    """
    across = surface.normal_at(at, v)
    variance = sigma[:, None] ** 2
    return (v - across) / variance + across / (variance + extra**2)


PROBES = 64
"""Points that a map onto the manifold is tried on."""
NEAREST = 1e-3
"""How far from the nearest point a map may lead, relative to the size of the points."""


@dataclass(frozen=True)
class Tango(_OnSurface):
    """Tango-DM: below `below` only the tangential part of the error counts, P(x) (F - grad log p(x | x0)).

    Above, the whole does. What F says across the manifold at small sigma is not trained, so that only samplers on the
    manifold can use it there. P is taken at the nearest point of x.

    Raises:
        InputError: a map `project` that does not lead to the nearest points of the manifold (with the distance).
    """

    name: ClassVar[str] = "tango"
    below: float = 0.5
    project: Callable[[Tensor], Tensor] | None = None
    """A cheaper way to the nearest point than the surface's own, good for points with noise of up to `below`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self.below, "below (the level under which only the tangential part counts)")
        if self.project is not None:
            on = self.surface.probes(PROBES, torch.Generator().manual_seed(0))
            x = on + self.below * normal_like(on, torch.Generator().manual_seed(1))
            surface_map(self.project, self.surface, x, f"points with noise {self.below:g}, which `below` asks for")

    def residual(self, error: Tensor, noised: Noised) -> Tensor:
        low = noised.sigma < self.below
        if not bool(low.any()):
            return error
        at = (self.project or self.surface.project)(noised.x[low])
        across = torch.zeros_like(error)
        across[low] = self.surface.normal_at(at, error[low])
        return error - across

    def size(self, sigma: Tensor) -> Tensor:
        # Across the manifold, where the score is larger, nothing is asked of F below `below`.
        return 1 / sigma.clamp_min(self.below)


def surface_map(project: Callable[[Tensor], Tensor], surface: Surface, x: Tensor, near: str) -> None:
    """Refuse a map that does not lead points x to the manifold's nearest ones.

    Raises:
        InputError: with the distance from the manifold, or from the nearest point.
    """
    found = project(x)
    surface.require(found, f"project: what it gives for {near}")
    away = float((found - surface.project(x)).norm(dim=1).max())
    if not away <= NEAREST * max(1.0, float(found.norm(dim=1).max())):
        raise InputError(f"project: gives points of {surface} that lie {away:.3g} from the nearest ones for {near}")
