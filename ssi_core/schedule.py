"""Noise levels. Every schedule is a float64 tensor that falls from sigma_max and ends in 0.

Read forwards it samples, read backwards it inverts; `truncate` makes it end at sigma_skip first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .errors import InputError
from .process import DiscreteVP

Grid = Literal["keep", "spread"]
SAME = 1e-6
"""Levels that differ by less are one: hosts hold theirs in float32."""


def karras_sigmas(steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """Karras et al. 2022 Eq. 5, SSI-DM Eq. 10: evenly spaced in sigma^(1/rho).

    Args:
        steps: number of positive sigmas, N of the paper (>= 1).
        sigma_min, sigma_max: smallest and largest positive sigma.
        rho: larger puts more steps at small sigma.

    Returns:
        Tensor [steps + 1], float64, descending, ending in 0.
    """
    _check_range(steps, sigma_min, sigma_max)
    if not rho > 0:
        raise InputError(f"rho {rho}: must be positive")
    ramp = torch.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps, dtype=torch.float64)
    return _ended(_pinned(ramp**rho, sigma_min, sigma_max))


def exponential_sigmas(steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Tensor:
    """Lu, Wang, Bal 2023 Eq. 41: each level is the same factor below the last.

    The printed gamma = 1 - (T/t_1)^(1/(K-1)) has its fraction upside down: t_K = T needs
    gamma = 1 - (t_1/T)^(1/(K-1)), which is what is used. Arguments and result as in `karras_sigmas`.
    """
    _check_range(steps, sigma_min, sigma_max)
    ends = torch.tensor([sigma_max, sigma_min], dtype=torch.float64).log()
    return _ended(_pinned(torch.linspace(float(ends[0]), float(ends[1]), steps, dtype=torch.float64).exp(),
                          sigma_min, sigma_max))  # fmt: skip


def ddim_sigmas(kappa: int | Sequence[int], process: DiscreteVP | None = None) -> Tensor:
    """The levels of a DDIM subsequence kappa of a discrete schedule (Song et al. 2021, section 4.2).

    Args:
        kappa: 0-based indices in any order; or a number n, meaning the fixed stride of "ddimN" respacing, which
            keeps 0, stride, 2 stride, ... (guided-diffusion).
        process: whose levels; default `DiscreteVP("linear")`, the ADM models' own.

    Returns:
        Tensor [len(kappa) + 1], float64, descending, ending in 0.

    Raises:
        InputError: an index outside the schedule, a repeated index, or an n that is no such respacing.
    """
    levels = (process or DiscreteVP()).sigmas
    total = len(levels)
    if isinstance(kappa, int | np.integer):
        wanted = int(kappa)
        strides = {len(range(0, total, stride)): stride for stride in range(total, 0, -1)}
        if wanted not in strides:
            near = sorted(sorted(strides, key=lambda count: abs(count - wanted))[:4])
            raise InputError(
                f"kappa {wanted}: no fixed stride through {total} levels gives so many; near it are "
                f"{', '.join(map(str, near))}"
            )
        kappa = range(0, total, strides[wanted])
    chosen = sorted((int(k) for k in kappa), reverse=True)
    if not chosen:
        raise InputError("kappa: is empty; give at least one index")
    if chosen[-1] < 0 or chosen[0] >= total:
        raise InputError(f"kappa: indices must lie in 0..{total - 1}; found {chosen[-1]}..{chosen[0]}")
    if len(set(chosen)) < len(chosen):
        raise InputError("kappa: an index is repeated")
    return _ended(levels[torch.tensor(chosen)])


def flow_sigmas(steps: int, *, shift: float = 1.0, sigma_min: float = 0.0, sigma_max: float = 1.0) -> Tensor:
    """Evenly spaced flow times, shifted towards noise: shift t / (1 + (shift - 1) t) (SD3 Eq. 23).

    Args:
        steps: number of positive levels (>= 1).
        shift: 1 leaves them even; larger puts more steps near the noise.
        sigma_min: the smallest positive level, where an inversion without a skip begins; 0: the times are even down
            to 0 itself, as in sampling, and the smallest positive one is sigma_max / steps without a shift.
        sigma_max: the largest.

    Returns:
        Tensor [steps + 1], float64, descending, ending in 0.
    """
    check_steps(steps)
    if not shift > 0 or not 0 <= sigma_min < sigma_max <= 1:
        raise InputError(f"shift {shift} must be positive, and 0 <= sigma_min {sigma_min} < sigma_max {sigma_max} <= 1")
    lowest = sigma_min / (shift * sigma_max - (shift - 1) * sigma_min)
    t = torch.linspace(1, lowest, steps if sigma_min else steps + 1, dtype=torch.float64)
    levels = sigma_max * shift * t / (1 + (shift - 1) * t)
    return _ended(_pinned(levels, sigma_min, sigma_max)) if sigma_min else levels


def given_sigmas(sigmas: Tensor | Sequence[float]) -> Tensor:
    """Any list of levels as a schedule: checked, float64, with 0 appended where it is missing.

    Raises:
        InputError: empty, not one-dimensional, NaN or Inf, negative, rising, or repeated.
    """
    try:
        levels = torch.as_tensor(sigmas, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise InputError("sigmas: a list of numbers is wanted") from None
    if levels.numel() == 0:
        raise InputError("sigmas: are empty; give at least one level")
    if levels.ndim != 1:
        raise InputError(f"sigmas: a list of numbers is wanted, found shape {tuple(levels.shape)}")
    if not bool(levels.isfinite().all()):
        raise InputError("sigmas: hold NaN or Inf")
    if bool((levels < 0).any()):
        raise InputError(f"sigmas: must not be negative; the smallest is {float(levels.min()):g}")
    if float(levels[-1]) > 0:
        levels = _ended(levels)
    if len(levels) < 2:
        raise InputError("sigmas: hold no positive level, so there is nothing to integrate")
    fall = levels.diff()
    if bool((fall >= 0).any()):
        i = int((fall >= 0).nonzero()[0])
        what = "repeats" if float(fall[i]) == 0 else "rises"
        raise InputError(
            f"sigmas: must fall from step to step; entry {i + 1} ({float(levels[i + 1]):g}) {what} after "
            f"entry {i} ({float(levels[i]):g})"
        )
    return levels


def truncate(sigmas: Tensor | Sequence[float], skip: float, grid: Grid = "keep") -> Tensor:
    """End a schedule at sigma_skip: [sigma_max .. skip, 0].

    Args:
        sigmas: a schedule.
        skip: sigma_skip; 0 returns the schedule as it is.
        grid: "keep" drops the levels under `skip`, so that fewer evaluations are spent (and levels that would make
            a first step of less than a quarter of the next one in log sigma: multistep solvers amplify slivers);
            "spread" has as many levels as before between sigma_max and skip, spaced in the same way (exact for
            Karras schedules with rho 7; others are interpolated in sigma^(1/7)).

    Raises:
        InputError: a bad schedule, a negative skip, or one that is not below sigma_max.
    """
    levels = given_sigmas(sigmas)
    if not skip >= 0:
        raise InputError(f"skip {skip}: must be 0 or a positive sigma")
    if grid not in ("keep", "spread"):
        raise InputError(f"grid {grid!r}: must be 'keep' or 'spread'")
    if skip == 0:
        return levels
    if skip >= float(levels[0]) * (1 - SAME):
        raise InputError(f"skip {skip:g}: must lie below the schedule's largest sigma, {float(levels[0]):g}")
    positive = levels[:-1]
    if grid == "spread" and len(positive) > 1:
        return _ended(_pinned(_stretched(positive, skip), skip, float(levels[0])))
    kept = positive[positive > skip * (1 + SAME)]
    # While, not if: the next level may lie as near. Then a schedule that was cut at `skip` stays as it is.
    while len(kept) > 1 and float(kept[-1] / skip) ** 4 < float(kept[-2] / kept[-1]):
        kept = kept[:-1]
    return _ended(torch.cat([kept, kept.new_tensor([skip])]))


def _stretched(positive: Tensor, skip: float) -> Tensor:
    """Re-read the curve index -> sigma^(1/7) at as many evenly spaced indices between sigma_max and skip."""
    curve = positive ** (1 / 7)
    target = skip ** (1 / 7)
    # The pair of indices that skip lies between, or beyond: the last pair, whose line is followed further down.
    i = min(int((positive > skip).sum()), len(curve) - 1)
    end = i - 1 + float((curve[i - 1] - target) / (curve[i - 1] - curve[i]))
    index = torch.linspace(0, end, len(positive), dtype=torch.float64)
    low = index.floor().long().clamp(max=len(curve) - 2)
    return torch.lerp(curve[low], curve[low + 1], index - low) ** 7


def _pinned(levels: Tensor, last: float, first: float) -> Tensor:
    """Make the ends exactly what was asked for; a single level is the first."""
    levels = levels.clone()
    levels[-1] = last
    levels[0] = first
    return levels


def _ended(levels: Tensor) -> Tensor:
    return torch.cat([levels, levels.new_zeros(1)])


def check_steps(steps: int) -> None:
    if not isinstance(steps, int | np.integer) or steps < 1:
        raise InputError(f"steps {steps}: must be a whole number of at least 1")


def _check_range(steps: int, sigma_min: float, sigma_max: float) -> None:
    check_steps(steps)
    if not 0 < sigma_min < sigma_max < float("inf"):
        raise InputError(f"sigma range {sigma_min:g}..{sigma_max:g}: needs 0 < sigma_min < sigma_max")
