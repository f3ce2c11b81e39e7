"""Times of the forward process: linear, quadratic and exponential schedules in t (Lu, Wang, Bal 2023, 3.3 and 4.5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import InputError
from ..schedule import check_steps


def times(schedule: str, steps: int, *, last: float = 10.0, first: float = 1e-4) -> Tensor:
    """t_K = `last` down to t_0 = 0, [steps + 1], float64.

    Args:
        schedule: "linear" (t_k = k T/K), "quadratic" (T (k/K)^2), or "exponential" (Eq. 41):
            t_k = t_1 (1 - gamma)^(1-k) for k >= 1, every step the same share gamma of the time it leaves. Eq. 41 prints
            gamma = 1 - (T/t_1)^(1/(K-1)); but t_K = T asks for (1 - gamma)^(1-K) = T/t_1, which is
            gamma = 1 - (t_1/T)^(1/(K-1)): the fraction is upside down in print (it would give a negative gamma and
            times that fall with k). K = 1 is the one step from T.
        steps: K, number of steps.
        last: T.
        first: t_1 of the exponential schedule; the others have their own.

    Raises:
        InputError: unknown schedule, no step, or t_1 and T between which e^t - 1 or T/t_1 leaves float64's range.
    """
    if schedule not in SCHEDULES:
        raise InputError(f"schedule {schedule!r}: unknown; known are {', '.join(SCHEDULES)}")
    check_steps(steps)
    if not 0 < last <= 700:
        raise InputError(f"last time {last:g}: must lie in (0, 700]; beyond, sigma^2 = e^t - 1 overflows")
    share = torch.arange(steps + 1, dtype=torch.float64) / steps
    if schedule != "exponential":
        return (last * share ** (1 if schedule == "linear" else 2)).flip(0)
    tiny = torch.finfo(torch.float64).tiny
    if not tiny <= first < last or not math.isfinite(last / first):
        raise InputError(
            f"t_1 = {first:g}: must lie below T = {last:g}, and from {tiny:.0e} up, or T/t_1 overflows; "
            f"1e-4 is the paper's"
        )
    k = torch.arange(1, steps + 1, dtype=torch.float64)
    log_growth = math.log(last / first) / max(steps - 1, 1)  # -ln(1 - gamma)
    rising = first * torch.exp((k - 1) * log_growth)
    rising[-1] = last
    if bool((rising.diff() <= 0).any()):
        raise InputError(f"t_1 = {first:g}: too near T = {last:g} for {steps} different times")
    return torch.cat([rising.flip(0), rising.new_zeros(1)])


SCHEDULES = ("linear", "quadratic", "exponential")
