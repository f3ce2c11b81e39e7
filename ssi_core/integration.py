"""The one loop under sampling and inversion, and the noise that both begin with."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .denoiser import Denoiser
from .errors import Cancelled, InputError
from .guard import Guarded, process_of
from .process import Process
from .solver import Entry, Solver, find_solver


@dataclass(frozen=True, eq=False)
class Progress:
    """What a progress callback is told after every step."""

    step: int
    """Steps done, 1..steps; evaluations where there are no steps (`Told`)."""
    steps: int
    sigma: float
    """The level reached."""
    nfe: int
    """Evaluations spent so far."""
    x: Tensor
    """The state, [B, ...]."""
    denoised: Tensor
    """The last estimate of x0, [B, ...]."""


Callback = Callable[[Progress], bool | None]
"""Called after every step; returning False (not None) stops with `Cancelled`."""


class Told:
    """A denoiser each of whose evaluations is told, for work that has no steps: on a large model each is long.

    Args:
        denoise: whose evaluations.
        progress: called after each; may cancel. Its step is the evaluation.
        steps: evaluations so far -> the steps that it is told of in all.
        during: what is done, for the message of `Cancelled`: "the skip was chosen".
    """

    def __init__(self, denoise: Denoiser, progress: Callback | None, steps: Callable[[int], int], during: str) -> None:
        self.denoise, self.progress, self.steps, self.during = denoise, progress, steps, during
        self.dtype: torch.dtype | None = getattr(denoise, "dtype", None)
        self.nfe = 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        D = self.denoise(x, sigma)
        self.nfe += 1
        if self.progress is not None:
            now = Progress(self.nfe, self.steps(self.nfe), float(sigma[0]), self.nfe, x, D)
            if self.progress(now) is False:
                raise Cancelled(f"cancelled after {self.nfe} evaluations, while {self.during}")
        return D


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The result of one integration."""

    x: Tensor
    """End state, [B, ...]."""
    nfe: int
    """Evaluations of the denoiser, each over the whole batch."""
    states: Tensor | None = None
    """[steps + 1, B, ...] on the CPU, the start included, when asked for."""
    residual: Tensor | None = None
    """[B], for solvers of implicit equations: the largest relative residual of any step, as far as D was evaluated."""


def integrate(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    solver: Entry | Solver | str,
    process: Process | None = None,
    *,
    keep_states: bool = False,
    progress: Callback | None = None,
) -> Trajectory:
    """Carry state x along strictly falling or rising sigmas; the loop under `invert` and `reconstruct`.

    Args:
        x: state at sigmas[0] in the solver's coordinate, [B, ...].
        sigmas: two or more levels; 0 only at an end.
        solver, process, keep_states, progress: as in `invert`.

    Raises:
        InputError: fewer than two sigmas, not strictly monotonic, negative, or rising from 0 with a solver that cannot.
        DenoiserError, Cancelled: as `invert`.
    """
    entry = solver if isinstance(solver, Entry) else find_solver(solver)
    process = process_of(denoise, process)
    steps = [b - a for a, b in pairwise(sigmas)]
    if not steps or min(sigmas) < 0 or not (min(steps) > 0 or max(steps) < 0):
        raise InputError(f"sigmas: two or more levels, all rising or all falling, are wanted; found {list(sigmas)}")
    if sigmas[0] == 0 and not entry.from_zero:
        raise InputError(f"sigmas: solver {entry.name!r} cannot start at 0, where the slope is 0/0; cut the 0 off")
    guarded = Guarded(denoise, process, steps=len(steps))
    states = [x.cpu()] if keep_states else None
    walk = entry.solver(guarded, x, sigmas)
    # With gradients every state of the walk would be kept alive.
    with torch.no_grad():
        while True:
            try:
                x = next(walk)
            except StopIteration as end:
                return Trajectory(x, guarded.nfe, torch.stack(states) if states else None, end.value)
            guarded.step += 1
            if states is not None:
                states.append(x.cpu())
            if progress is not None:
                reached = sigmas[guarded.step]
                now = Progress(guarded.step, guarded.steps, reached, guarded.nfe, x, guarded.denoised)
                if progress(now) is False:
                    raise Cancelled(f"cancelled after step {now.step} of {now.steps}, at sigma {reached:g}")


def unit_noise(like: Tensor, seeds: Sequence[int]) -> Tensor:
    """Standard normal noise of `like`'s shape, dtype and device; sample i depends on seeds[i] and the shape only."""
    shape = tuple(like.shape[1:])

    def draw(seed: int) -> Tensor:
        # dtype and device are spelt out, or a changed global default would change the noise of a seed.
        generator = torch.Generator("cpu").manual_seed(seed)
        return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")

    return torch.stack([draw(seed) for seed in seeds]).to(like)


def hashed_seed(*parts: object) -> int:
    """The seed of one random stream, of what tells it from all others.

    Hashed, so that no two share numbers: of `seed + i`, seeds 0 and 1 would share all samples but one. 32 bits, since
    torch's generator on the CPU looks at no more.
    """
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def seeds_for(seed: int | Sequence[int], batch: int) -> tuple[int, ...]:
    """One seed a sample: `seed + i`, or the given ones.

    Raises:
        InputError: another number of seeds than samples, or one that is no whole number in 0..2**63 - 1.
    """
    try:
        single = np.ndim(seed) == 0
        numbers: Sequence[Any] = [seed] if single else list(seed)  # type: ignore[arg-type]
        seeds = tuple(operator.index(number) for number in numbers)  # also NumPy's and torch's
    except TypeError:
        raise InputError(f"seed {seed!r}: must be a whole number, or one an image") from None
    if single:
        seeds = tuple(seeds[0] + i for i in range(batch))
    if len(seeds) != batch:
        raise InputError(f"seed: {len(seeds)} seeds for {batch} images; give one an image, or a single number")
    if min(seeds) < 0 or max(seeds) >= 2**63:
        raise InputError(f"seed: must lie between 0 and 2**63 - 1; found {min(seeds)}..{max(seeds)}")
    return seeds
