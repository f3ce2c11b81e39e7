"""A MODEL's noise levels: its process as the engine sees it, its schedules, and what skips mean on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import comfy.samplers
import torch
from torch import Tensor

from ...ssi_core.errors import InputError
from ...ssi_core.precision import float64
from ...ssi_core.process import DiscreteVP, Level, Number, Process, unit_variance
from ...ssi_core.schedule import Grid, ddim_sigmas, exponential_sigmas, given_sigmas, karras_sigmas, truncate

SKIP_UNITS = ("sigma", "timestep", "snr")
NOTHING = 1e-5
"""A share of the latent in the state that is smaller than this is rounding."""
OURS = ("ssi-karras", "ssi-exponential", "ssi-ddim")


@dataclass(frozen=True)
class Start:
    """How core makes a sampler's first state: noise_gain * noise + latent_gain * latent."""

    sigma: float
    noise_gain: float
    latent_gain: float

    def same_as(self, other: Start) -> bool:
        return all(
            math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6)
            for a, b in ((self.sigma, other.sigma), (self.noise_gain, other.noise_gain))
        )


class HostProcess(Process):
    """The process of a MODEL, taken from its own `model_sampling`: whatever noise_scaling does there is the process.

    States are those that core's samplers see, in which dx/dsigma = (x - D)/sigma for eps, v, EDM and flow models alike.
    """

    name: ClassVar[str] = "comfyui"

    def __init__(self, sampling: Any) -> None:
        self.sampling = sampling
        self.sigma_min, self.sigma_max = float(sampling.sigma_min), float(sampling.sigma_max)
        # Levels that are counted, as in SD1.5, not a continuum.
        self.is_discrete = not sampling.timestep(torch.tensor(self.sigma_max)).is_floating_point()
        # Flow states carry (1 - sigma) x0; the others x0 itself.
        self.is_flow = self.gains(0.5 * (self.sigma_min + self.sigma_max))[1] < 1 - 1e-6
        self.sigma_limit = 1.0 if self.is_flow else math.inf  # type: ignore[misc]

    @classmethod
    def of(cls, model: Any) -> HostProcess:
        """The process of a MODEL, nodes that changed its sampling (ModelSamplingSD3, RescaleCFG ...) included."""
        return cls(model.get_model_object("model_sampling"))

    def gains(self, sigma: float, at_top: bool = False) -> tuple[float, float]:
        """(of noise, of latent) in noise_scaling, which is linear in both."""
        level = torch.tensor([sigma], dtype=torch.float64)
        one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        noise_gain = float(self.sampling.noise_scaling(level, one.clone(), zero, at_top))
        latent_gain = float(self.sampling.noise_scaling(level, zero.clone(), one, at_top))
        # A flow model's largest sigma is 1 only up to float32's last digit, for many shifts.
        return noise_gain, 0.0 if abs(latent_gain) < NOTHING else latent_gain

    def is_top(self, sigma: float) -> bool:
        """Whether core takes sampling from here for sampling from noise alone (comfy.samplers.Sampler.max_denoise)."""
        return math.isclose(self.sigma_max, sigma, rel_tol=1e-5) or sigma > self.sigma_max

    def start(self, sigma: float) -> Start:
        """How core begins sampling at this level.

        Raises:
            InputError: the model does not begin from noise at all (image-to-image models).
        """
        noise_gain, latent_gain = self.gains(sigma, self.is_top(sigma))
        if not (math.isfinite(noise_gain) and noise_gain > 0):
            raise InputError("model: it does not start from noise (image to image), so there is no noise to invert to")
        return Start(sigma, noise_gain, latent_gain)

    def scale(self, sigma: Level) -> Level:
        trained_on_vp = not self.is_flow and getattr(self.sampling, "sigma_data", 1.0) == 1.0
        return unit_variance(sigma) if trained_on_vp else sigma**0

    def inject(self, x0: Tensor, noise: Tensor, sigma: float) -> Tensor:
        noise_gain, latent_gain = self.gains(sigma)
        return latent_gain * x0 + noise_gain * noise

    def to_noise(self, x: Tensor, sigma: float) -> Tensor:
        return x / self.start(sigma).noise_gain

    def from_noise(self, noise: Tensor, sigma: float) -> Tensor:
        return noise * self.start(sigma).noise_gain

    def predicted_noise(self, x: Tensor, denoised: Tensor, sigma: float) -> Tensor:
        noise_gain, latent_gain = self.gains(sigma)
        return (x - latent_gain * denoised) / noise_gain

    def time(self, sigma: Number) -> Tensor:
        """What the network is told as its time."""
        return float64(self.sampling.timestep(torch.as_tensor(sigma, dtype=torch.float32)))

    def sigma(self, time: Number) -> Tensor:
        """The inverse of `time`, between the model's ends.

        Some models' own `sigma(timestep)` is not that (flow models put the shift into it), so it is checked and, where
        it is not, `time` is solved for by bisection.
        """
        t = float(time)
        low, high = float(self.time(self.sigma_min)), float(self.time(self.sigma_max))
        if not low <= t <= high:
            raise InputError(f"timestep {t:g}: this model's timesteps run from {low:g} to {high:g}")
        own = float(self.sampling.sigma(torch.tensor(t, dtype=torch.float32)))
        if abs(float(self.time(own)) - t) <= (0.5 if self.is_discrete else 1e-4 * (high - low)):
            return float64(own)
        a, b = math.log(self.sigma_min), math.log(self.sigma_max)
        for _ in range(100):
            middle = (a + b) / 2
            a, b = (middle, b) if float(self.time(math.exp(middle))) < t else (a, middle)
        return float64(math.exp((a + b) / 2))

    def snr(self, sigma: Number) -> Tensor:
        levels = float64(sigma)
        noise_gain, latent_gain = float64([self.gains(level) for level in levels.flatten().tolist()]).unbind(1)
        return ((latent_gain / noise_gain) ** 2).reshape(levels.shape)

    def sigma_of_snr(self, snr: Number) -> Tensor:
        ratio = float64(snr)
        if not bool((ratio > 0).all()):
            least = float(ratio.min())
            raise InputError(f"SNR {least:g}: must be positive (signal power / noise power; 100 is sigma 0.1)")
        scaled = self.gains(1.0)[0] * ratio.sqrt()  # some models' noise is not of unit size
        return 1 / (1 + scaled) if self.is_flow else 1 / scaled

    def as_vp(self) -> DiscreteVP:
        """The engine's own process of the same counted levels.

        Raises:
            InputError: a model whose levels are a continuum.
        """
        if not self.is_discrete:
            raise InputError("is for models of discrete levels (SD1.5, SDXL, ADM); use auto")
        levels = float64(self.sampling.sigmas).cpu()
        return DiscreteVP(alphas_cumprod=tuple((1 / (1 + levels**2)).tolist()))

    def facts(self) -> dict[str, Any]:
        return {"name": self.name, "sigma_min": self.sigma_min, "sigma_max": self.sigma_max, "flow": self.is_flow}

    def skip(self, value: float, unit: str) -> float:
        """sigma_skip of a skip given as sigma, timestep or SNR; 0 in any unit is the base method.

        Raises:
            InputError: not a number, negative, or outside what the model knows.
        """
        if not math.isfinite(value) or value < 0:
            raise InputError(f"skip {value:g}: must be 0 (the base method, no noise) or a positive {unit}")
        self.start(self.sigma_max)
        if value == 0 and unit == "snr":
            raise InputError("skip 0: as an SNR that is nothing but noise; for the base method set skip_unit to sigma")
        if value == 0:
            return 0.0
        sigma = float({"sigma": float64, "timestep": self.sigma, "snr": self.sigma_of_snr}[unit](value))
        if sigma < self.sigma_min * (1 - 1e-5):
            raise InputError(
                f"skip: sigma {sigma:.4g} lies under this model's smallest level, {self.sigma_min:.4g}, where its "
                f"network was never trained; use {self.sigma_min:.4g} or more, or 0 for the base method"
            )
        if sigma >= self.sigma_max * (1 - 1e-6):
            raise InputError(
                f"skip: sigma {sigma:.4g} is not below this model's largest level, {self.sigma_max:.4g}, so nothing "
                f"would be left to integrate; 0.05 to 0.2 is usual"
            )
        return max(sigma, self.sigma_min)

    def describe(self, sigma: float) -> str:
        """One level in all three units."""
        if sigma == 0:
            return "0 (base method: no noise is added)"
        snr = float(self.snr(sigma))
        time = float(self.time(sigma))
        return f"sigma {sigma:.4g} = timestep {time:.4g} = SNR {snr:.4g} ({10 * math.log10(snr):.1f} dB)"


def schedule_names() -> list[str]:
    """The names: "auto", the host's schedulers (also those that other packs added), and ours."""
    return ["auto", *comfy.samplers.SCHEDULER_NAMES, *OURS]


def schedule(process: HostProcess, name: str, steps: int) -> Tensor:
    """A falling schedule of the model, float64, ending in 0.

    Args:
        name: one of `schedule_names()`; "auto" is karras for eps, v and EDM models, simple for flow models.
        steps: number of positive levels.

    Raises:
        InputError: a name that the model cannot use, or a schedule that does not fall.
    """
    low, high = process.sigma_min, process.sigma_max
    if name == "auto":
        name = "simple" if process.is_flow else "ssi-karras"
    try:
        if name == "ssi-karras":
            return karras_sigmas(steps, sigma_min=low, sigma_max=high)
        if name == "ssi-exponential":
            return exponential_sigmas(steps, sigma_min=low, sigma_max=high)
        if name == "ssi-ddim":
            return ddim_sigmas(steps, process.as_vp())
        return given_sigmas(comfy.samplers.calculate_sigmas(process.sampling, name, steps))
    except InputError as error:
        raise InputError(f"schedule {name}, {steps} steps: {error}") from None


def top_of(process: HostProcess, sigmas: Tensor | None) -> float:
    """The level at which an end state lies: the largest of the sigmas it was inverted along, or the model's.

    Raises:
        InputError: no sigmas in them, or beyond the model's levels.
    """
    if sigmas is None:
        return process.sigma_max
    if sigmas.numel() == 0:
        raise InputError("sigmas: are empty; connect those that were inverted along, or none")
    top = float(sigmas.max())
    if not 0 < top <= process.sigma_max * (1 + 1e-5):
        raise InputError(
            f"sigmas: reach {top:.4g}, where this model's levels run from {process.sigma_min:.4g} to "
            f"{process.sigma_max:.4g}; were they made for another model?"
        )
    return top


def falling(process: HostProcess, sigmas: Tensor) -> Tensor:
    """A schedule that ends in 0, of one that falls or (as FlipSigmas leaves it) rises.

    Raises:
        InputError: not a schedule, or outside the model's levels.
    """
    return way_back(process, sigmas, 0.0, "keep")


def way_back(process: HostProcess, sigmas: Tensor, skip: float, grid: Grid) -> Tensor:
    """[sigma_max .. skip, 0] of any schedule, falling or (as FlipSigmas leaves it) rising.

    Raises:
        InputError: not a schedule, or outside the model's levels.
    """
    levels = float64(sigmas).flatten()
    if len(levels) > 1 and float(levels[0]) < float(levels[-1]):
        levels = levels.flip(0)
    levels = truncate(levels, skip, grid)
    top_of(process, levels)
    return levels
