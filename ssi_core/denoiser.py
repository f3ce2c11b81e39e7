"""Denoisers: whatever a network predicts, a thin wrapper makes it D(x, sigma) -> E[x0 | x].

Everything downstream (solvers, inversion) sees only `D`, in the coordinate in which the probability-flow ODE reads
dx/dsigma = (x - D(x, sigma)) / sigma:

- VE and VP networks: x = x0 + sigma n, sigma in [0, inf) (Karras et al. 2022);
- flow networks: x = (1 - sigma) x0 + sigma n, sigma in [0, 1] (rectified flow; the same ODE form holds).

A new parametrisation is one new class here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from .precision import ask

Network = Callable[..., Tensor]
"""(input [B, C, ...], time argument [B], condition, if any [B, ...]) -> prediction of the input's shape."""


class Denoiser(Protocol):
    """D(x, sigma): x [B, C, ...], sigma [B] -> estimate of x0, of x's shape.

    An implementation may carry `process` (the default of `invert` and `reconstruct`), `sigma_min`, `sigma_max` (the
    range it was trained on), `channels`, `image_size` and `is_flow`; where they are present, inputs are checked against
    them. One whose network runs on other sizes than `image_size` says so by `size_multiple`: height and width must then
    be multiples of that, and `image_size` is what pictures are fitted to. One that computes in another precision than
    it is given says so by `dtype`; the wrappers below need none, since they look after their network's precision.
    """

    def __call__(self, x: Tensor, sigma: Tensor, /) -> Tensor: ...


def like(sigma: Tensor, x: Tensor) -> Tensor:
    """Shape [B] as [B, 1, ..., 1], to multiply x [B, ...]."""
    return sigma.to(x).reshape(-1, *[1] * (x.ndim - 1))


@dataclass
class EDM:
    """Karras et al. 2022, Eq. 7 and Table 1: F(c_in x, ln(sigma) / 4) with unit-variance input and target."""

    is_flow: ClassVar[bool] = False
    network: Network
    sigma_data: float = 0.5

    def __call__(self, x: Tensor, sigma: Tensor, *condition: object) -> Tensor:
        s = like(sigma, x)
        total = s**2 + self.sigma_data**2
        prediction = ask(self.network, x / total.sqrt(), sigma.log() / 4, *condition)
        return self.sigma_data**2 / total * x + s * self.sigma_data / total.sqrt() * prediction


@dataclass
class Eps:
    """A network that predicts the noise from x / sqrt(1 + sigma^2) (DDPM, ADM, Stable Diffusion 1 and XL).

    `timestep` turns sigma [B] into the network's time argument (`VP.timestep`, `DiscreteVP.timestep`).
    """

    is_flow: ClassVar[bool] = False
    network: Network
    timestep: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor, sigma: Tensor, *condition: object) -> Tensor:
        s = like(sigma, x)
        return x - s * ask(self.network, x / (1 + s**2).sqrt(), self.timestep(sigma), *condition)


@dataclass
class V:
    """A network that predicts v = (eps - sigma x0) / sqrt(1 + sigma^2) (Salimans and Ho 2022; Stable Diffusion 2)."""

    is_flow: ClassVar[bool] = False
    network: Network
    timestep: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor, sigma: Tensor, *condition: object) -> Tensor:
        s = like(sigma, x)
        scale = (1 + s**2).sqrt()
        return x / scale**2 - s / scale * ask(self.network, x / scale, self.timestep(sigma), *condition)


@dataclass
class X0:
    """A network that predicts the image from x / sqrt(1 + sigma^2)."""

    is_flow: ClassVar[bool] = False
    network: Network
    timestep: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor, sigma: Tensor, *condition: object) -> Tensor:
        return ask(self.network, x / (1 + like(sigma, x) ** 2).sqrt(), self.timestep(sigma), *condition)


@dataclass
class Velocity:
    """A flow network that predicts n - x0 (SD3, FLUX); sigma in [0, 1] is its time argument."""

    is_flow: ClassVar[bool] = True
    network: Network

    def __call__(self, x: Tensor, sigma: Tensor, *condition: object) -> Tensor:
        return x - like(sigma, x) * ask(self.network, x, sigma, *condition)


class _Around:
    """A denoiser around a denoiser: what it does not know itself (sigma range, image size), the inner one does."""

    denoise: Any

    def __getattr__(self, name: str) -> Any:
        if name == "denoise" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.denoise, name)


@dataclass
class Guided(_Around):
    """Classifier-free guidance: D_u + scale (D_c - D_u) (Ho and Salimans 2021).

    Both sides are evaluated in one batch of twice the size, which counts as one evaluation; at scale 1 only the
    conditional side is. Scales other than 1 bend the trajectory: an inversion made with one scale is only undone by
    sampling with the same scale, and less faithfully the larger it is.

    Args:
        denoise: (x [B, ...], sigma [B], condition [B, ...]) -> x0 estimate; any parametrisation above whose network
            takes a condition.
        condition, unconditional: tensors whose first dimension is 1 or B.
        scale: guidance scale w.
    """

    denoise: Callable[..., Tensor]
    condition: Tensor
    unconditional: Tensor
    scale: float = 1.0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        def batched(c: Tensor) -> Tensor:
            return c.expand(x.shape[0], *c.shape[1:])

        if self.scale == 1.0:
            return self.denoise(x, sigma, batched(self.condition))
        both = torch.cat([batched(self.condition), batched(self.unconditional)])
        wanted, unwanted = self.denoise(torch.cat([x, x]), torch.cat([sigma, sigma]), both).chunk(2)
        return unwanted + self.scale * (wanted - unwanted)


@dataclass
class Clipped(_Around):
    """Clamp the estimate to [low, high], as pixel samplers of the DDPM line do."""

    denoise: Callable[..., Tensor]
    low: float = -1.0
    high: float = 1.0

    def __call__(self, x: Tensor, sigma: Tensor, *condition: object) -> Tensor:
        return self.denoise(x, sigma, *condition).clamp(self.low, self.high)
