"""How noise is put into an image at sigma_skip: where an inversion begins.

`plain` is the paper's: x = x0 + sigma n. What D cannot give back of that is lost for good, E|D(x) - x0|^2, since the
walk up and down again ends at the same x. The other injections move x, before the walk, towards points whose D is x0.

A new injection is one function here, decorated with `@register`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import InputError
from .process import Process
from .solver import Model

Injection = Callable[..., Tensor]
"""(denoise, process, x0 [B, ...], noise [B, ...], sigma) -> state [B, ...] at sigma, in the solver's coordinate."""
DEFAULT_INJECTION = "plain"


@dataclass(frozen=True)
class Entry:
    """A registered injection."""

    name: str
    inject: Injection
    about: str


INJECTIONS: dict[str, Entry] = {}


def register(name: str) -> Callable[[Injection], Injection]:
    """Make an injection known under `name`; its first docstring line is what lists show."""

    def add(inject: Injection) -> Injection:
        INJECTIONS[name] = Entry(name, inject, (inject.__doc__ or "").split("\n")[0])
        return inject

    return add


def find_injection(injection: str | Injection) -> Entry:
    """The entry of a registered name, or of any function of the same signature (such as a `functools.partial`).

    Raises:
        InputError: no injection of that name; the message lists the known ones.
    """
    if isinstance(injection, str):
        if injection not in INJECTIONS:
            raise InputError(f"injection {injection!r}: unknown; known are {', '.join(INJECTIONS)}")
        return INJECTIONS[injection]
    if not callable(injection):
        raise InputError(f"injection {injection!r}: a name or a function is wanted; known are {', '.join(INJECTIONS)}")
    base: Any = getattr(injection, "func", injection)
    known = next((entry.name for entry in INJECTIONS.values() if entry.inject is base), None)
    return Entry(known or str(getattr(base, "__name__", "custom")), injection, "")


@register("plain")
def plain(denoise: Model, process: Process, x0: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """x0 + sigma n (SSI-DM Eq. 7 and 14). No evaluation."""
    return process.inject(x0, noise, sigma)


@register("tangent")
def tangent(denoise: Model, process: Process, x0: Tensor, noise: Tensor, sigma: float, *, rounds: int = 2) -> Tensor:
    """Takes back the part of the noise that D keeps, so that D of the result is nearer to x0. 4 evaluations.

    x <- x + D(x + (x0 - D(x))) - D(x), `rounds` times: to first order x + J (x0 - D(x)), J the Jacobian of D at x.
    Of our own. J has eigenvalues rho near 1 along what the model knows of the image and near 0 across it. Adding
    x0 - D(x) itself would make D meet x0 as well, but would also put back, amplified, all of the image that the model
    takes for noise, and with it structure. Filtered by J, a round changes little but what D sees. On Gaussian data of
    variance s^2, rho = s^2 / (s^2 + sigma^2), a round scales the noise by 1 - rho^2 and takes the share a of the
    image's offset from the mean, 1 at first, to a + rho (1 - rho a). The other correction takes it to
    a + (1 - rho a): the limit of both is 1/rho, so that both amplify what D does not see, this one rho times as fast.
    More than a few rounds would spoil it. The variance of x is what it must be and up to 11% more after one round, 24%
    after two.

    Raises:
        InputError: `rounds` is no whole number of at least 0.
    """
    if not isinstance(rounds, int) or rounds < 0:
        raise InputError(f"rounds {rounds!r}: must be a whole number of at least 0")
    x, none = process.inject(x0, noise, sigma), torch.zeros_like(x0)
    for _ in range(rounds):
        D = denoise(x, sigma)
        lacking = process.inject(x0 - D, none, sigma)
        x = x + process.inject(denoise(x + lacking, sigma) - D, none, sigma)
    return x
