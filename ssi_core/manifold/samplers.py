"""Stochastic samplers: the reverse SDE by splitting, and annealed Langevin dynamics on a known manifold.

The probability-flow ODE needs none of its own: `ssi_core.integration.integrate` with any of our solvers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..errors import Cancelled, DenoiserError, InputError
from ..process import OU, VE, VP, Process
from .checks import positive, whole_number
from .noise import normal_like
from .surfaces import Surface

LONGEST = 2.0
"""Of a step of Eq. 23 as printed: beyond, even noise, whose score is the state itself, is more than doubled."""
Told = Callable[[int, int, Tensor], bool | None]
"""(steps done, steps, state [B, d]) after every step; returning False stops with `Cancelled`."""


def reverse_sde(
    denoise: Denoiser,
    x: Tensor,
    times: Tensor | Sequence[float],
    process: Process | None = None,
    *,
    generator: torch.Generator,
    contracting: bool = False,
    told: Told | None = None,
) -> Tensor:
    """The reverse SDE by splitting (Lu, Wang, Bal 2023, Eq. 23, with the score from D by Eq. 39).

    Args:
        denoise: D(x, sigma) in the solver's coordinate.
        x: the process's own state at times[0], [B, d]; for OU and VP unit noise, for VE times sigma.
        times: falling, in the process's t, ending in 0.
        process: OU() (Eq. 14); VP(), which is OU in another time, ln(1 + sigma^2); or VE(), for which the drift h is 0
            and t is sigma.
        generator: of the noise.
        contracting: for OU and VP, split dX = (X/2 - S) dt as -X/2 - (S - X), as the authors' code does for CEM: the
            linear half is then an OU step, for which the noise variance 1 - e^-dt of Eq. 23 is exact. As printed, that
            variance goes with e^(+dt/2), where e^dt - 1 would be exact; both are of first order in the step.
        told: told the state after every step; may stop.

    Returns:
        The state at time 0, [B, d].

    Raises:
        InputError: another process, times that do not fall to 0, or, as printed, a step over `LONGEST`.
        DenoiserError: D gave NaN or Inf; says at which step.
        Cancelled: `told` returned False.
    """
    process = process or OU()
    levels = [float(t) for t in times]
    if len(levels) < 2 or levels[-1] != 0 or any(b >= a for a, b in pairwise(levels)):
        raise InputError("times: two or more, falling from T to 0, are wanted")
    if not isinstance(process, OU | VP | VE):
        raise InputError(f"process {process.name!r}: reverse_sde knows 'ou', 'vp' and 've'")
    sigmas = [float(process.sigma(t)) for t in levels]
    steps = len(levels) - 1
    if not isinstance(process, VE) and not contracting:
        _refuse_long_steps(sigmas, levels)
    for k, (a, b) in enumerate(pairwise(sigmas)):
        sigma = a
        s = process.scale(sigma)
        D = denoise(x / s, x.new_full((len(x),), sigma))
        score = (x - s * D) / (s * sigma) ** 2  # S of Eq. 39: 1 - e^-t is (s sigma)^2
        noise = normal_like(x, generator)
        if isinstance(process, VE):
            gained = a**2 - b**2
            x = x - gained * score + math.sqrt(gained) * noise
        else:
            dt = math.log1p(a**2) - math.log1p(b**2)  # OU's own time
            spread = math.sqrt(-math.expm1(-dt))
            if contracting:
                x = math.exp(-dt / 2) * (x - dt * (score - x)) + spread * noise
            else:
                x = math.exp(dt / 2) * (x - dt * score) + spread * noise
        if not bool(x.isfinite().all()):
            raise DenoiserError(f"the state is NaN or Inf after step {k + 1} of {steps}, t = {levels[k]:.3g}")
        if told is not None and told(k + 1, steps, x) is False:
            raise Cancelled(f"cancelled after step {k + 1} of {steps}")
    return x


def _refuse_long_steps(sigmas: Sequence[float], levels: Sequence[float]) -> None:
    for k, (a, b) in enumerate(pairwise(sigmas)):
        dt = math.log1p(a**2) - math.log1p(b**2)
        if dt > LONGEST:
            raise InputError(
                f"times: the step from {levels[k]:.3g} to {levels[k + 1]:.3g} is {dt:.3g} long in OU's time; the "
                f"scheme of Eq. 23 multiplies noise by (1 - dt) e^(dt/2), more than doubling it beyond {LONGEST:g}. "
                f"Use more steps, or contracting=True"
            )


def annealed_langevin(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    surface: Surface,
    *,
    generator: torch.Generator,
    rounds: int = 10,
    rate: float = 0.5,
    largest: float = math.inf,
    project: Callable[[Tensor], Tensor] | None = None,
    told: Told | None = None,
) -> Tensor:
    """Langevin dynamics on the manifold while sigma falls (Liu, Zhang, Li 2025, "Annealing SDE on manifolds").

    At each level, `rounds` times: a step of size h along P(x) grad log p_sigma(x), noise in the tangent space, and back
    to the nearest point. By their Theorem, P grad log p_sigma goes to the Riemannian score of the data as sigma -> 0,
    so that only the tangential part of the network is asked for. The step grows with the level's own scale:
    h = rate sigma^2, up to `largest`.

    Args:
        denoise: D(x, sigma) in VE coordinates.
        x: points on the manifold [B, n].
        sigmas: falling, positive.
        surface: the manifold.
        generator: of the noise.
        rounds: steps at each level.
        rate: h / sigma^2.
        largest: bound on h.
        project: a cheaper way back to the manifold than the surface's own, for points near it.
        told: told the points after every level; may stop.

    Returns:
        Points on the manifold [B, n].

    Raises:
        InputError: x is off the manifold (with the distance), or levels that do not fall.
        DenoiserError, Cancelled: as `reverse_sde`.
    """
    levels = [float(sigma) for sigma in sigmas if float(sigma) > 0]
    if not levels or any(b >= a for a, b in pairwise(levels)):
        raise InputError("sigmas: positive levels that fall are wanted")
    surface.require(x, "starting points")
    back = project or surface.project
    surface.require(back(x), "project: what it gives for points on the manifold")
    whole_number(rounds, "rounds")
    positive(rate, "rate")
    if not largest > 0:
        raise InputError(f"largest {largest}: the bound on a step must be positive")
    for k, sigma in enumerate(levels):
        h = min(rate * sigma**2, largest)
        for _ in range(rounds):
            D = denoise(x, x.new_full((len(x),), sigma))
            drift = (D - x) / sigma**2
            noise = normal_like(x, generator)
            move = h * drift + math.sqrt(2 * h) * noise
            x = back(x + move - surface.normal_at(x, move))
            if not bool(x.isfinite().all()):
                raise DenoiserError(f"the points are NaN or Inf at level {k + 1} of {len(levels)}, sigma {sigma:.3g}")
        if told is not None and told(k + 1, len(levels), x) is False:
            raise Cancelled(f"cancelled after level {k + 1} of {len(levels)}")
    return x
