"""What every experiment with trained networks does for each of its seeds, and what it says of all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..manifold import Objective, Trained, train
from ..manifold.train import Draw
from .experiment import Lab


def trained(
    lab: Lab,
    seed: int,
    part: str,
    data: Tensor,
    objective: Objective,
    network: Callable[[], nn.Module],
    draw: Draw,
    *,
    steps: int,
    batch: int,
    rate: float = 1e-3,
    decay: bool = False,
) -> Trained:
    """A network made and trained under a seed of the lab's, shown as `part`; otherwise as `manifold.train`."""
    torch.manual_seed(lab.seed + seed)  # the network's first weights
    return train(
        data, objective, network(), draw, steps=lab.count(steps, 20), batch=batch, rate=rate, decay=decay,
        seed=lab.seed + seed, watch=lab.watch(part),
    )  # fmt: skip


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def spread(values: Sequence[float]) -> float:
    """Standard deviation over seeds; 0 for a single one."""
    return float(torch.tensor(values, dtype=torch.float64).std()) if len(values) > 1 else 0.0


def mean_and_spread(values: Sequence[float]) -> tuple[str, str]:
    """Both as the cells of a table; no spread for a single seed."""
    return f"{mean(values):.4f}", f"{spread(values):.4f}" if len(values) > 1 else "-"
