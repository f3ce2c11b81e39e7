"""Preconditionings of pixel models that `ssi_core.denoiser` does not have: from a raw network to D(x, sigma).

Each is a dataclass whose first field is the network, called as network(input, time argument).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..denoiser import Denoiser, Network, like
from ..process import DiscreteVP


@dataclass
class Mean:
    """A network's estimate without the variance that it may give after it."""

    network: Network
    channels: int

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(x, t)[:, : self.channels]


@dataclass(frozen=True)
class DiscreteTime:
    """Time argument of a network trained at discrete levels: their index times a factor."""

    process: DiscreteVP
    factor: float

    def __call__(self, sigma: Tensor) -> Tensor:
        return self.process.timestep(sigma) * self.factor


@dataclass(frozen=True)
class ContinuousTime:
    """Time argument of NVlabs' VPPrecond: `VP.time` times M - 1, in float32.

    A Fourier embedding turns the rounding of a time near 999 into an angle of 0.01, so the network must be given the
    very rounding that it was trained with.
    """

    beta_min: float
    slope: float
    last: int
    """M - 1."""

    def __call__(self, sigma: Tensor) -> Tensor:
        level = (1 + sigma.float() ** 2).log()
        return self.last * (((self.beta_min**2 + 2 * self.slope * level).sqrt() - self.beta_min) / self.slope)


def predictor(
    network: Network,
    *,
    reading: Callable[[Network, Callable[[Tensor], Tensor]], Denoiser],
    timestep: Callable[[Tensor], Tensor],
    channels: int,
) -> Denoiser:
    """A network as `reading` (`Eps` or `X0`) has it, asked at `timestep(sigma)`, for its first channels."""
    return reading(Mean(network, channels), timestep)


def nearest_level(network: Network, *, levels: Tensor, channels: int) -> Denoiser:
    """A network as `NearestLevel` has it, for its first channels."""
    return NearestLevel(Mean(network, channels), levels)


@dataclass
class Consistency:
    """consistency_models: EDM's scalings with a time argument 1000 times as large (Song et al. 2023, Appendix C).

    Args:
        network: F(x / sqrt(sigma^2 + sigma_data^2), 250 ln sigma).
        sigma_data: standard deviation of the data.
        boundary: the sigma at which D must be the identity, for distilled and consistency-trained models; 0 gives
            EDM's own scalings.
    """

    network: Network
    sigma_data: float = 0.5
    boundary: float = 0.0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        s = like(sigma, x)
        total = (s**2 + self.sigma_data**2).sqrt()
        above = s - self.boundary
        # Their 1e-44 keeps sigma = 0 finite; it is subnormal in float32 and vanishes in nothing wider.
        prediction = self.network(x / total, 250 * (sigma.float() + 1e-44).log())
        return self.sigma_data**2 / (above**2 + self.sigma_data**2) * x + above * self.sigma_data / total * prediction


@dataclass
class Exploding:
    """The VE formulation of Song et al. 2021 in NVlabs' VEPrecond: D = x + sigma F(x, ln(sigma / 2))."""

    network: Network

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x + like(sigma, x) * self.network(x, (sigma.to(x) / 2).log())


@dataclass
class NearestLevel:
    """NVlabs' iDDPMPrecond: a noise predictor that knows only the levels it was trained on.

    Args:
        network: epsilon(x / sqrt(1 + sigma^2), index from the top).
        levels: the buffer `u`, [M + 1], falling sigmas; the last one is 0.
    """

    network: Network
    levels: Tensor

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        s = like(sigma, x)
        levels = self.levels.to(x.device, torch.float32)
        index = (sigma.to(levels)[:, None] - levels).abs().argmin(dim=1)
        return x - s * self.network(x / (1 + s**2).sqrt(), (len(levels) - 2 - index).to(x))
