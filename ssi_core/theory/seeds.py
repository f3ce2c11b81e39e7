"""What every experiment with trained networks does for each of its repeats, and what it says of all of them.

One rule for all verdicts: figures of several methods are ordered where their means differ by more than the larger of
the two standard deviations over the repeats (`below`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..manifold import Objective, Trained, train
from ..manifold.train import Draw
from .experiment import Lab

RULE = "beyond the spread"
"""The words for `below` in a requirement."""
Figures = Sequence[float]
"""One figure a repeat."""


def trained(
    lab: Lab,
    repeat: int,
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
    """A network made and trained in a repeat of the lab's, shown as `part`; otherwise as `manifold.train`."""
    torch.manual_seed(lab.seed_of("first weights", repeat))
    return train(
        data, objective, network(), draw, steps=lab.count(steps, 20), batch=batch, rate=rate, decay=decay,
        seed=lab.seed_of("batches, levels and noise of training", repeat), watch=lab.watch(part),
    )  # fmt: skip


def mean(values: Figures) -> float:
    return math.fsum(values) / len(values)


def spread(values: Figures) -> float:
    """Standard deviation over repeats; 0 for a single one."""
    return float(torch.tensor(values, dtype=torch.float64).std()) if len(values) > 1 else 0.0


def below(smaller: Figures, larger: Figures) -> bool:
    """Whether one method's mean lies under another's by more than either spread."""
    return mean(larger) - mean(smaller) > max(spread(smaller), spread(larger))


def ordered(*rising: Figures) -> bool:
    """Whether each lies below the next."""
    return all(below(a, b) for a, b in pairwise(rising))


def lowest(name: str, found: Mapping[str, Figures]) -> bool:
    """Whether the named method lies below every other one."""
    return all(below(found[name], values) for other, values in found.items() if other != name)


def mean_and_spread(values: Figures) -> tuple[str, str]:
    """Both as the cells of a table; no spread for a single repeat."""
    return f"{mean(values):.4f}", f"{spread(values):.4f}" if len(values) > 1 else "-"


def said(values: Figures, digits: str = ".3f") -> str:
    """Both in words, the spread to two digits."""
    return f"{mean(values):{digits}} +- {spread(values):.1e}" if len(values) > 1 else f"{mean(values):{digits}}"


def log_slope(x: Tensor, y: Tensor) -> float:
    """Slope of a straight line through ln y against ln x."""
    a, b = x.log() - x.log().mean(), y.log() - y.log().mean()
    return float((a * b).sum() / (a * a).sum())
