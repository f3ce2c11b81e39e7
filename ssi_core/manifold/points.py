"""Points and pictures: how data whose samples are rows [B, d] meets an engine whose samples are [B, C, ...].

A batch of clouds [B, d, N] holds N independent points each, coordinates as channels: what `gaussianity` then calls a
noise are the N d numbers of one cloud. A picture [B, C, H, W] is one point of C H W numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..process import VE, Flow, Process
from .checks import whole_number
from .distribution import Distribution

PURE = 1e-6
"""Share of signal in what a flow calls pure noise, where t / (1 - t) has no value: D is then the data's mean, within
about this share of the data's size."""


def clouds(points: Tensor, count: int) -> Tensor:
    """Rows [count * N, d] as `count` clouds [count, d, N].

    Raises:
        InputError: the rows do not divide into so many clouds.
    """
    if points.ndim != 2 or len(points) % whole_number(count, "clouds"):
        raise InputError(f"points: {len(points)} do not make {count} clouds of the same size")
    return points.reshape(count, -1, points.shape[1]).transpose(1, 2)


def rows(cloud: Tensor) -> Tensor:
    """Clouds [B, d, N] as rows [B * N, d]."""
    return cloud.transpose(1, 2).flatten(0, 1)


def by_rows(denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor, dimension: int) -> Tensor:
    """D of rows applied to rows [B, d], clouds [B, d, N] or pictures [B, C, ...] with d = C times the rest.

    Raises:
        InputError: none of these fits.
    """
    if x.ndim == 2 and x.shape[1] == dimension:
        return denoise(x, sigma)
    if x.ndim == 3 and x.shape[1] == dimension:
        found = denoise(rows(x), sigma.repeat_interleave(x.shape[2]))
        return clouds(found, len(x))
    if x.ndim > 3 and x[0].numel() == dimension:
        return denoise(x.flatten(1), sigma).reshape(x.shape)
    raise InputError(f"state of shape {tuple(x.shape)}: rows [B, {dimension}] or clouds [B, {dimension}, N] are wanted")


@dataclass
class Exact:
    """The exact denoiser of a distribution, for `invert`, `reconstruct`, `singularity_curve` and every solver.

    A distribution knows D of x0 + sigma n. A flow's state is (1 - t) times that at sigma = t / (1 - t): the same D.
    """

    distribution: Distribution
    process: Process = VE()

    @property
    def is_flow(self) -> bool:
        return isinstance(self.process, Flow)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        known = self.distribution

        def double(points: Tensor, level: Tensor) -> Tensor:
            signal = (1 - level.double()).clamp_min(PURE) if self.is_flow else torch.ones_like(level.double())
            return known.denoise(points.double() / signal[:, None], level.double() / signal).to(points.dtype)

        return by_rows(double, x, sigma, known.dimension)
