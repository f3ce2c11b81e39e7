"""Forward processes: how noise is put in, how an end state becomes unit noise, how t, sigma and SNR convert.

All models are integrated in one coordinate, the one in which the probability-flow ODE reads
dx/dsigma = (x - D(x, sigma)) / sigma (see `ssi_core.denoiser`). A process says how that coordinate relates to the
model's own:

| process | state the solver sees | the model's own state | sigma |
|---|---|---|---|
| VE (EDM)        | x = x0 + sigma n             | x                                   | [0, inf), the paper's t |
| VP (DDPM, DDIM) | x = x0 + sigma n             | s x, with s = 1/sqrt(1 + sigma^2)   | sigma^2 = (1 - abar)/abar |
| OU (Lu et al.)  | x = x0 + sigma n             | s x, with the same s                | sigma^2 = e^t - 1 |
| flow (SD3, FLUX)| x = (1 - sigma) x0 + sigma n | x                                   | [0, 1] |

A new process is one new dataclass here, decorated with `@register`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from .errors import InputError
from .precision import float64

Number = float | Tensor
Level = TypeVar("Level", float, Tensor)
"""One sigma, or one of each sample: what is asked of it comes back in the same kind."""
PROCESSES: dict[str, type[Process]] = {}
_P = TypeVar("_P", bound="type[Process]")


def register(process: _P) -> _P:
    """Make a process known by its `name`, so that artefacts that mention it can be loaded."""
    PROCESSES[process.name] = process
    return process


class Process(ABC):
    """What a forward process must be able to do. `sigma` arguments are > 0 unless said otherwise."""

    name: ClassVar[str]
    sigma_limit: ClassVar[float] = math.inf
    """The largest sigma that has a meaning (flow: 1)."""

    @abstractmethod
    def scale(self, sigma: Level) -> Level:
        """s(sigma), elementwise: what the solver's state is multiplied by to give the model's own state."""

    @abstractmethod
    def inject(self, x0: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """The solver's state at `sigma` (>= 0) of image x0 with unit noise; SSI-DM Eq. 7 and 14."""

    @abstractmethod
    def to_noise(self, x: Tensor, sigma: float) -> Tensor:
        """Unit noise from the solver's state at the last, largest sigma of an inversion."""

    @abstractmethod
    def from_noise(self, noise: Tensor, sigma: float) -> Tensor:
        """The solver's state from which sampling starts: the inverse of `to_noise`."""

    @abstractmethod
    def predicted_noise(self, x: Tensor, denoised: Tensor, sigma: float) -> Tensor:
        """eps^: the unit noise that, with x0 = `denoised`, gives state x at `sigma`."""

    @abstractmethod
    def time(self, sigma: Number) -> Tensor:
        """The paper's t of a sigma, elementwise, float64."""

    @abstractmethod
    def sigma(self, time: Number) -> Tensor:
        """The inverse of `time`."""

    @abstractmethod
    def snr(self, sigma: Number) -> Tensor:
        """Signal-to-noise power ratio at sigma, elementwise, float64."""

    @abstractmethod
    def sigma_of_snr(self, snr: Number) -> Tensor:
        """The inverse of `snr`."""

    def ratio(self, sigma: Number) -> Tensor:
        """Noise over signal amplitude at sigma, elementwise, float64: what a VE process calls its sigma; inf for noise
        alone."""
        return self.snr(sigma) ** -0.5

    def sigma_of_ratio(self, ratio: Number) -> Tensor:
        """The inverse of `ratio`."""
        return self.sigma_of_snr(float64(ratio) ** -2)

    def facts(self) -> dict[str, Any]:
        """JSON-serialisable description from which `process_from` builds an equal process."""
        return {"name": self.name, **asdict(self)}  # type: ignore[call-overload]  # every process is a dataclass


def process_from(facts: Mapping[str, Any]) -> Process:
    """Build the process that `Process.facts` described.

    Raises:
        InputError: no process of that name, or its parameters do not fit.
    """
    parameters = dict(facts)
    name = parameters.pop("name", None)
    if name not in PROCESSES:
        raise InputError(f"process {name!r}: unknown; known are {', '.join(sorted(PROCESSES))}")
    try:
        return PROCESSES[name](**parameters)
    except TypeError as error:
        raise InputError(f"process {name!r}: its parameters do not fit ({error})") from None


def unit_variance(sigma: Level) -> Level:
    """1/sqrt(1 + sigma^2): what gives x0 + sigma n unit variance, where x0 has it."""
    total = 1 + sigma**2
    return 1 / (total.sqrt() if isinstance(total, Tensor) else math.sqrt(total))


class _Additive(Process):
    """x = x0 + sigma n: what VE and VP share in the solver's coordinate."""

    def inject(self, x0: Tensor, noise: Tensor, sigma: float) -> Tensor:
        return x0 + sigma * noise

    def predicted_noise(self, x: Tensor, denoised: Tensor, sigma: float) -> Tensor:
        return (x - denoised) / sigma

    def snr(self, sigma: Number) -> Tensor:
        return float64(sigma) ** -2

    def sigma_of_snr(self, snr: Number) -> Tensor:
        return float64(snr) ** -0.5


@register
@dataclass(frozen=True)
class VE(_Additive):
    """Variance exploding with sigma(t) = t (SSI-DM section 5.1; EDM)."""

    name: ClassVar[str] = "ve"

    def scale(self, sigma: Level) -> Level:
        return sigma**0

    def to_noise(self, x: Tensor, sigma: float) -> Tensor:
        return x / sigma

    def from_noise(self, noise: Tensor, sigma: float) -> Tensor:
        return noise * sigma

    def time(self, sigma: Number) -> Tensor:
        return float64(sigma)

    def sigma(self, time: Number) -> Tensor:
        return float64(time)


class _Preserving(_Additive):
    """s = 1/sqrt(1 + sigma^2): the model's own end state already has unit variance, so it is the noise."""

    def scale(self, sigma: Level) -> Level:
        return unit_variance(sigma)

    def to_noise(self, x: Tensor, sigma: float) -> Tensor:
        return x * self.scale(sigma)

    def from_noise(self, noise: Tensor, sigma: float) -> Tensor:
        return noise / self.scale(sigma)


@register
@dataclass(frozen=True)
class VP(_Preserving):
    """Variance preserving in continuous time, t in [0, 1], beta(t) = beta_min + t (beta_max - beta_min).

    SSI-DM Appendix B has beta_min = 0.1 and slope 19.9: sigma^2 = exp(beta_min t + slope t^2 / 2) - 1.
    """

    name: ClassVar[str] = "vp"
    beta_min: float = 0.1
    beta_max: float = 20.0

    def time(self, sigma: Number) -> Tensor:
        level = 2 * torch.log1p(float64(sigma) ** 2)
        # The quadratic formula in the form that neither cancels at small sigma nor needs a slope.
        return level / (self.beta_min + (self.beta_min**2 + (self.beta_max - self.beta_min) * level).sqrt())

    def sigma(self, time: Number) -> Tensor:
        t = float64(time)
        return torch.expm1(self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2).sqrt()

    def timestep(self, sigma: Tensor) -> Tensor:
        """The time argument of a network trained on continuous t, times 999 (NVlabs' VPPrecond), dtype of sigma."""
        return (999 * self.time(sigma)).to(sigma)


@register
@dataclass(frozen=True)
class OU(_Preserving):
    """Ornstein-Uhlenbeck dX = -X/2 dt + dW: X = e^(-t/2) x0 + sqrt(1 - e^-t) n (Lu, Wang, Bal 2023, Eq. 14 and 16).

    Variance preserving with beta = 1: sigma^2 = e^t - 1, t in [0, inf). Their weight 1/(e^t - 1) is 1/sigma^2.
    """

    name: ClassVar[str] = "ou"

    def time(self, sigma: Number) -> Tensor:
        return torch.log1p(float64(sigma) ** 2)

    def sigma(self, time: Number) -> Tensor:
        return torch.expm1(float64(time)).sqrt()


@register
@dataclass(frozen=True)
class DiscreteVP(_Preserving):
    """Variance preserving with the 1000 levels that a DDPM-like network was trained on; time is the fractional index.

    Args:
        betas: "linear" (Ho et al. 2020; guided-diffusion), "cosine" (Nichol and Dhariwal 2021), "scaled-linear"
            (Stable Diffusion: linear in sqrt(beta)).
        steps: number of levels.
        alphas_cumprod: the levels themselves, decreasing in (0, 1); overrides the two above.

    Raises:
        InputError: unknown betas, or levels that are not decreasing in (0, 1).
    """

    name: ClassVar[str] = "discrete-vp"
    betas: str = "linear"
    steps: int = 1000
    alphas_cumprod: tuple[float, ...] = ()
    sigmas: Tensor = field(init=False, repr=False, compare=False)
    """sigma of each index, ascending, float64."""

    def __post_init__(self) -> None:
        if len(self.alphas_cumprod):
            alphas = torch.tensor(self.alphas_cumprod, dtype=torch.float64)
            object.__setattr__(self, "alphas_cumprod", tuple(alphas.tolist()))
        elif self.betas in BETAS:
            alphas = (1 - BETAS[self.betas](self.steps)).cumprod(0)
        else:
            raise InputError(f"betas {self.betas!r}: unknown; known are {', '.join(BETAS)}")
        if not bool(((alphas > 0) & (alphas < 1)).all()) or not bool((alphas.diff() < 0).all()):
            raise InputError("alphas_cumprod: must decrease strictly and lie between 0 and 1")
        object.__setattr__(self, "sigmas", ((1 - alphas) / alphas).sqrt())

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def time(self, sigma: Number) -> Tensor:
        """Fractional index, linear in ln(sigma) between levels; clamped to the first and last index."""
        known = self.sigmas.log()
        wanted = float64(sigma).cpu().log()
        upper = torch.searchsorted(known, wanted.contiguous()).clamp(1, len(known) - 1)
        low, high = known[upper - 1], known[upper]
        return (upper - 1 + ((wanted - low) / (high - low)).clamp(0, 1)).to(torch.float64)

    def sigma(self, time: Number) -> Tensor:
        t = float64(time).cpu().clamp(0, len(self.sigmas) - 1)
        low = t.floor().long().clamp(max=len(self.sigmas) - 2)
        return torch.lerp(self.sigmas.log()[low], self.sigmas.log()[low + 1], t - low).exp()

    def timestep(self, sigma: Tensor) -> Tensor:
        """The network's time argument: the fractional index, in dtype and device of sigma."""
        return self.time(sigma).to(sigma)

    def facts(self) -> dict[str, Any]:
        custom = {"alphas_cumprod": list(self.alphas_cumprod)} if len(self.alphas_cumprod) else {}
        return {"name": self.name, "betas": self.betas, "steps": self.steps, **custom}


def _linear_betas(steps: int) -> Tensor:
    return torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * (1000 / steps)


def _cosine_betas(steps: int) -> Tensor:
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    level = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - level[1:] / level[:-1]).clamp(max=0.999)


def _scaled_linear_betas(steps: int) -> Tensor:
    return torch.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=torch.float64) ** 2


BETAS = {"linear": _linear_betas, "cosine": _cosine_betas, "scaled-linear": _scaled_linear_betas}


@register
@dataclass(frozen=True)
class Flow(Process):
    """Rectified flow: x = (1 - sigma) x0 + sigma n, sigma = t in [0, 1]. Its VE sigma is sigma / (1 - sigma)."""

    name: ClassVar[str] = "flow"
    sigma_limit: ClassVar[float] = 1.0

    def scale(self, sigma: Level) -> Level:
        return sigma**0

    def inject(self, x0: Tensor, noise: Tensor, sigma: float) -> Tensor:
        return (1 - sigma) * x0 + sigma * noise

    def to_noise(self, x: Tensor, sigma: float) -> Tensor:
        return x / sigma

    def from_noise(self, noise: Tensor, sigma: float) -> Tensor:
        return noise * sigma

    def predicted_noise(self, x: Tensor, denoised: Tensor, sigma: float) -> Tensor:
        return (x - (1 - sigma) * denoised) / sigma

    def time(self, sigma: Number) -> Tensor:
        return float64(sigma)

    def sigma(self, time: Number) -> Tensor:
        return float64(time)

    def snr(self, sigma: Number) -> Tensor:
        return ((1 - float64(sigma)) / float64(sigma)) ** 2

    def sigma_of_snr(self, snr: Number) -> Tensor:
        return 1 / (1 + float64(snr).sqrt())
