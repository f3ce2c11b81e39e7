"""A small network trained on points in the plane: what a learnt score makes of a singular one (Figure 4a)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..denoiser import EDM

STEPS, BATCH, WIDTH = 2000, 512, 64
LOWEST, HIGHEST = 0.002, 80.0


class PlanarNetwork(nn.Module):
    """F(x [B, 2], t [B]) -> [B, 2]: four layers of `WIDTH`."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, WIDTH, WIDTH, WIDTH)
        hidden = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(WIDTH, 2)).double()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        found: Tensor = self.layers(torch.cat([x, t[:, None]], dim=1))
        return found


@torch.enable_grad()
def trained_on(points: Tensor) -> EDM:
    """D(x [B, 2], sigma [B]) -> [B, 2] of a network trained by denoising score matching, float64; takes seconds.

    In EDM's form (Karras et al. 2022, Table 1), whose loss weighs every sigma alike; sigma is drawn evenly in its
    logarithm, so that the singular end gets its share.

    Args:
        points: [N, 2], float64; equally likely.
    """
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = PlanarNetwork()
    denoise = EDM(network, float(points.std()))
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        x0 = points[torch.randint(len(points), (BATCH,), generator=draw)]
        u = torch.rand(BATCH, generator=draw, dtype=torch.float64)
        sigma = torch.exp(math.log(LOWEST) + u * math.log(HIGHEST / LOWEST))
        x = x0 + sigma[:, None] * torch.randn(BATCH, 2, generator=draw, dtype=torch.float64)
        weight = (sigma**2 + denoise.sigma_data**2) / (sigma * denoise.sigma_data) ** 2  # 1 / c_out^2
        loss = (weight[:, None] * (denoise(x, sigma) - x0).square()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
    network.requires_grad_(False)
    return denoise
