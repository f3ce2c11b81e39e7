"""Learned drifts in the plane: networks, training and samples that the experiments of Lu, Wang, Bal (2023) share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..manifold import MLP, Conditional, Distribution, Eps, Objective, Score, Trained, on_times, reverse_sde, times
from ..process import OU
from ..report.figures import COLOURS
from .experiment import Lab
from .seeds import trained

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEPS = 200
"""K of Lu, Wang, Bal 2023, section 4."""
POOL = 200_000


@dataclass(frozen=True)
class Size:
    """A network and its training; the paper's is 10^6 samples a pass, batches of 10^4."""

    width: int
    depth: int
    steps: int
    batch: int


def methods() -> dict[str, Objective]:
    return {"CEM": Conditional(OU()), "DDPM": Eps(OU()), "SGM": Score(OU())}


def fitted(known: Distribution, objective: Objective, size: Size, lab: Lab, part: str, repeat: int) -> Trained:
    """A network trained as the paper's: levels from the linear grid t = 10 k / K, whatever sampling uses later."""
    data = known.sample(lab.count(POOL, 2000), lab.generator("data", repeat))
    return trained(
        lab, repeat, part, data, objective, lambda: MLP(known.dimension, size.width, size.depth),
        on_times(times("linear", STEPS), OU()), steps=size.steps, batch=size.batch,
    )  # fmt: skip


def runs(
    known: Distribution, objective: Objective, size: Size, lab: Lab, name: str
) -> Iterator[tuple[int, Trained, Tensor]]:
    """(repeat, model, samples) of every repeat of the lab's."""
    for repeat in range(lab.repeats):
        part = f"{name}, repeat {repeat + 1}"
        model = fitted(known, objective, size, lab, f"{part}: training", repeat)
        yield repeat, model, sampled(model, lab, f"{part}: sampling", repeat)


def sampled(
    model: Trained, lab: Lab, part: str, repeat: int, grid: Tensor | None = None, *, contracting: bool = False
) -> Tensor:
    """10,000 samples by the reverse SDE, [N, d]; by Eq. 23 as printed on the exponential schedule by default."""
    count, generator = lab.count(10_000, 500), lab.generator("start and noise of sampling", repeat)
    start = torch.randn(count, model.dimension, generator=generator, dtype=torch.float64)
    grid = times("exponential", STEPS) if grid is None else grid
    return reverse_sde(model, start, grid, OU(), generator=generator, contracting=contracting, told=lab.watch(part))


def scatter(panel: Axes, x: Tensor, title: str, limit: float) -> None:
    panel.plot(x[:4000, 0], x[:4000, 1], ".", ms=1.2, color=COLOURS[0], alpha=0.6)
    panel.set_xlim(-limit, limit)
    panel.set_ylim(-limit, limit)
    panel.set_aspect("equal")
    panel.set_title(title, fontsize=10)
