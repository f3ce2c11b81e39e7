"""What the manifolds' functions ask of their arguments, told as sentences before torch would tell it."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..precision import float64


def whole_number(value: Any, what: str, least: int = 1) -> int:
    """A count or a dimension as an int.

    Raises:
        InputError: no whole number, or under `least`.
    """
    try:
        found = operator.index(value)  # also NumPy's and torch's
    except TypeError:
        raise InputError(f"{what}: {value!r}; a whole number of at least {least} is wanted") from None
    if found < least:
        raise InputError(f"{what}: {found}; at least {least} is wanted")
    return found


def positive(value: Any, what: str, *, or_zero: bool = False) -> float:
    """A finite number over 0 as a float.

    Raises:
        InputError: anything else.
    """
    try:
        found = float(value)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{what} {value!r}: a number is wanted") from None
    if not (0 < found < math.inf or (or_zero and found == 0)):
        raise InputError(f"{what} {found:g}: must be {'0 or ' if or_zero else ''}positive and finite")
    return found


def points(values: Any, what: str, wanted: str, width: int | None = None) -> Tensor:
    """Finite rows [N, d], N >= 1, in float64.

    Args:
        wanted: the words for what is wanted.
        width: d, where it is given.

    Raises:
        InputError: another shape, or NaN or Inf.
    """
    try:
        found = float64(values)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{what}; {wanted} is wanted, found {type(values).__name__}") from None
    if found.ndim != 2 or found.numel() == 0 or (width is not None and found.shape[1] != width):
        raise InputError(f"{what} of shape {tuple(found.shape)}; {wanted} is wanted")
    if not bool(torch.isfinite(found).all()):
        raise InputError(f"{what} hold NaN or Inf; {wanted} is wanted")
    return found


def fits(x: Tensor, width: int, what: str) -> None:
    """Refuse what is not rows of `width` numbers.

    Raises:
        InputError: with the shape.
    """
    if x.ndim != 2 or x.shape[1] != width:
        raise InputError(f"{what}: shape {tuple(x.shape)}; rows of {width} numbers are wanted")
