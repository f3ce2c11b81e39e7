"""Training small networks on an objective, and the denoisers that come out of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import Cancelled, InputError
from ..precision import float64
from ..process import VE, Process
from .checks import positive, whole_number
from .objectives import Noised, Objective
from .points import by_rows
from .surfaces import Surface

Draw = Callable[[int, torch.Generator], Tensor]
"""(count, generator) -> sigmas [count], float64."""
Watch = Callable[[int, int, float], bool | None]
"""Told (steps done, steps, loss) every `EVERY` steps; returning False stops with `Cancelled`."""
EVERY = 50
DIVERGED = 1e3
"""A loss so many times the best one seen counts as divergence, as NaN and Inf do."""


class MLP(nn.Module):
    """(own state [B, d], clock [B]) -> [B, d] by fully connected layers.

    Args:
        dimension: d.
        width, depth: nodes of each hidden layer, and how many layers ("2x16 tanh" is width 16, depth 2).
        activation: between the layers.
        gain: add a(clock) times the state to the answer. In many dimensions most of a score is a multiple of the state,
            which hidden layers of this size are slow to learn.
    """

    def __init__(
        self, dimension: int, width: int, depth: int, activation: Callable[[], nn.Module] = nn.Tanh, gain: bool = False
    ) -> None:
        super().__init__()
        for value, what in ((dimension, "dimension"), (width, "width"), (depth, "depth")):
            whole_number(value, f"network: {what}")
        widths = [dimension + 1] + [width] * depth
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), activation()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, dimension))
        self.gain = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1)) if gain else None

    def forward(self, state: Tensor, clock: Tensor) -> Tensor:
        found: Tensor = self.layers(torch.cat([state, clock[:, None]], dim=1))
        return found if self.gain is None else found + self.gain(clock[:, None]) * state


def clock(process: Process, sigma: Tensor) -> Tensor:
    """What a network is told of the level: the process's t; for VE, where that spans decades, ln(sigma) / 4."""
    return sigma.log() / 4 if isinstance(process, VE) else process.time(sigma)


@dataclass(eq=False)
class Trained:
    """A network and its objective as a denoiser of rows [B, d], clouds [B, d, N] and pictures (`points.by_rows`)."""

    is_flow: ClassVar[bool] = False
    network: nn.Module
    objective: Objective
    dimension: int
    sigma_min: float
    sigma_max: float
    losses: Sequence[float] = ()
    """Mean loss of every `EVERY` steps."""
    stopped: str = ""
    """Why training ended early and earlier weights were kept; "" where it ran through."""

    @property
    def process(self) -> Process:
        return self.objective.process

    def answer(self, x: Tensor, sigma: Tensor) -> Tensor:
        """F of the objective (score, eps, x0 ...) at x [B, d], sigma [B], in the precision of x."""
        kind, own = self.objective, next(self.network.parameters()).dtype
        # The clock is computed in double: near sigma 0 its logarithm or log1p loses digits in single.
        output = self.network(kind.shown(x, sigma).to(own), clock(kind.process, sigma.double()).to(own))
        return kind.answer(output.to(x.dtype), sigma)

    def rows(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.objective.denoised(self.answer(x, sigma), x, sigma)

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return by_rows(self.rows, x, sigma.to(x), self.dimension)


def train(
    data: Tensor,
    objective: Objective,
    network: nn.Module,
    draw: Draw,
    *,
    steps: int,
    batch: int,
    rate: float = 1e-3,
    decay: bool = False,
    seed: int = 0,
    watch: Watch | None = None,
) -> Trained:
    """Fit a network to an objective with Adam.

    Args:
        data: samples [N, d] of x0; every batch is drawn from them anew.
        objective: what to learn, and under which process.
        network: (own state [B, d], clock [B]) -> [B, d], changed in place.
        draw: the levels of a batch.
        steps, batch, rate: of Adam.
        decay: lower the rate along a half cosine to 0.
        seed: of batches, levels and noise; the network's own weights are the caller's.
        watch: told how far it is; may stop it.

    Returns:
        A `Trained`. Where the loss diverged, training ended there with the best weights kept, and `stopped` says why.

    Raises:
        InputError: data that is empty, not finite, or off the objective's manifold (with the distance).
        Cancelled: `watch` returned False.
    """
    if data.ndim != 2 or not data.numel() or not bool(data.isfinite().all()):
        raise InputError(f"data: shape {tuple(data.shape)}; finite rows [N, d] are wanted")
    steps, batch = whole_number(steps, "training: steps"), whole_number(batch, "training: batch")
    rate = positive(rate, "training: rate")
    surface: Surface | None = getattr(objective, "surface", None)
    if surface is not None:
        surface.require(data, "data")
    first_weights = next(network.parameters())
    own = first_weights.dtype
    data = data.to(first_weights)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    best, kept, losses, since, stopped = math.inf, copy.deepcopy(network.state_dict()), [], 0.0, ""
    low, high, first = math.inf, 0.0, math.inf
    for step in range(steps):
        if decay:
            for group in optimiser.param_groups:
                group["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        sigma = draw(batch, generator).to(data.device)
        low, high = min(low, float(sigma.min())), max(high, float(sigma.max()))
        picked = data[torch.randint(len(data), (batch,), generator=generator)]
        noised = objective.corrupt(picked, sigma.to(own), generator)
        state = objective.shown(noised.x, noised.sigma)
        loss = objective.loss(network(state, clock(objective.process, sigma).to(own)), noised)
        now = float(loss.detach())
        first = now if step == 0 else first
        if not math.isfinite(now) or now > DIVERGED * max(min(best, first), 1e-12):
            least = min(best, first)
            stopped = f"training diverged at step {step + 1} of {steps} (loss {now:.3g}, least {least:.3g})"
            break
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if not _finite(parameter.grad for parameter in network.parameters()):
            stopped = f"training diverged at step {step + 1} of {steps} (its gradient is not finite)"
            break
        optimiser.step()
        since += now
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            losses.append(since / (step % EVERY + 1))
            since = 0.0
            if not _finite(network.parameters()):
                stopped = f"training diverged at step {step + 1} of {steps} (its weights are not finite)"
                break
            if losses[-1] < best:
                best, kept = losses[-1], copy.deepcopy(network.state_dict())
            if watch is not None and watch(step + 1, steps, losses[-1]) is False:
                raise Cancelled(f"cancelled after training step {step + 1} of {steps}")
    if stopped:
        network.load_state_dict(kept)
        last = f"the weights of the best {EVERY} steps" if math.isfinite(best) else "the weights that it began with"
        stopped += f"; {last} were kept"
    network.eval()
    return Trained(network, objective, data.shape[1], low, high, tuple(losses), stopped)


def _finite(tensors: Iterable[Tensor | None]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors if tensor is not None)


def on_times(times: Tensor, process: Process) -> Draw:
    """Levels at random from a list of times of the process (Lu, Wang, Bal 2023; their code's: a linear grid).

    Args:
        times: [K], positive ones are used, each as likely.

    Raises:
        InputError: none is positive and finite.
    """
    given = float64(times)
    known = process.sigma(given[given > 0])
    if not len(known) or not bool(known.isfinite().all()):
        raise InputError(f"times: {tuple(given.shape)} of them, none positive, or not finite")
    return lambda count, generator: known[torch.randint(len(known), (count,), generator=generator)]


def log_uniform(low: float, high: float) -> Draw:
    """Levels with ln(sigma) uniform between two sigmas.

    Raises:
        InputError: an empty range.
    """
    if not 0 < low < high < math.inf:
        raise InputError(f"sigma range {low}..{high}: needs 0 < low < high")

    def draw(count: int, generator: torch.Generator) -> Tensor:
        u = torch.rand(count, generator=generator, dtype=torch.float64)
        return torch.exp(math.log(low) + u * math.log(high / low))

    return draw


def corrupted(objective: Objective, x0: Tensor, sigma: float, seed: int = 0) -> Noised:
    """`objective.corrupt` at one level with a seed of its own, for measurements."""
    return objective.corrupt(x0, x0.new_full((len(x0),), sigma), torch.Generator().manual_seed(seed))
