"""The kinds of demo model: what the network's answer means, and which noise levels it learns from.

A kind's name stands in the files of its models, so it is for ever. A new kind is one entry of `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..denoiser import EDM, Network, Velocity
from ..process import VE, Flow, Process

SIGMA_DATA = 0.5


@dataclass(frozen=True)
class Kind:
    """All sigmas are the process's own: a flow's are its times."""

    about: str
    process: Process
    denoiser: Callable[[Network], EDM | Velocity]
    """The network as D(x, sigma)."""
    weight: Callable[[Tensor], Tensor]
    """sigma [B] -> weight of |D - x0|^2 in the loss, [B]; such that a model that knows nothing gets about 1."""
    sigma_min: float
    sigma_max: float
    mean: float
    spread: float
    """Of ln(noise amplitude over signal amplitude), which is drawn from a normal distribution: EDM's log-normal sigma
    and the logit-normal time of flow models (Esser et al. 2024, Eq. 19) are this one thing."""
    bands: tuple[float, ...]
    """Levels at which the held-out loss is told."""

    def sigmas(self, ratios: Tensor) -> Tensor:
        """Noise over signal amplitude [B] -> sigma [B], float32, within the model's range."""
        return self.process.sigma_of_ratio(ratios).clamp(self.sigma_min, self.sigma_max).float()

    def loss(self, denoise: Callable[..., Tensor], clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Weighted squared error of D at the images [B, C, H, W] with unit noise up to sigma [B]; [B]."""
        levels = zip(clean.split(1), noise.split(1), sigma.tolist(), strict=True)
        noisy = torch.cat([self.process.inject(x0, n, level) for x0, n, level in levels])
        return self.weight(sigma) * (denoise(noisy, sigma) - clean).float().square().mean(dim=(1, 2, 3))


def _edm_weight(sigma: Tensor) -> Tensor:
    return (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2


def _velocity_weight(sigma: Tensor) -> Tensor:
    """|D - x0|^2 / t^2 = |v - (n - x0)|^2, the loss of rectified flow (Liu, Gong, Liu 2023, Eq. 1)."""
    return sigma**-2


KINDS: dict[str, Kind] = {
    # Levels lie lower and wider than EDM's own (-1.2, 1.2), because inversion lives near sigma 0.05.
    "edm": Kind(
        "EDM (Karras et al. 2022, Table 1), sigma_data 0.5", VE(), partial(EDM, sigma_data=SIGMA_DATA), _edm_weight,
        0.002, 80.0, -1.4, 1.4, (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0, 80.0),
    ),
    # Wider still: sampling begins at t = 1, where the velocity has no preconditioning to fall back on.
    "flow": Kind(
        "velocity n - x0 (rectified flow)", Flow(), Velocity, _velocity_weight,
        0.002, 1.0, -1.2, 1.7, (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 0.98, 1.0),
    ),
}  # fmt: skip
