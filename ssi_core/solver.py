"""Solvers of dx/dsigma = (x - D(x, sigma)) / sigma, in both directions.

A solver is a generator `solver(denoise, x, sigmas)` that yields the state after every step: falling sigmas sample,
rising sigmas invert. It knows the denoiser and a list of sigmas, nothing else; counting, checking, progress and
cancellation are the caller's. `a` is always the level a step leaves, `b` the level it reaches, `D` the estimate of x0.

An Euler step is written x_b = D + (b/a) (x_a - D), which is D itself at b = 0, without 0/0; multistep solvers end
the same way. At a = 0 the slope is 0/0; only solvers registered with `from_zero` are given a grid that rises
from 0.

A new solver is one function here, decorated with `@register`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from .errors import InputError
from .precision import float64


class Model(Protocol):
    """D as a solver sees it: x [B, ...] at one sigma for the whole batch."""

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor: ...

    def scale(self, sigma: float, /) -> float:
        """s(sigma) of the process: what the network's own state is, as a multiple of x."""


Walk = Generator[Tensor, None, Tensor | None]
"""Yields states; returns, for solvers of implicit equations, the relative residual left in each sample, [B]."""
Solver = Callable[[Model, Tensor, Sequence[float]], Walk]


@dataclass(frozen=True)
class Entry:
    """A registered solver and what is known of it."""

    name: str
    solver: Solver
    order: int
    """Global order of convergence in the step size."""
    about: str
    ends_in_eps: bool = False
    """The inversion's result is the noise that D predicts in the end state (one more evaluation), not the end state."""
    from_zero: bool = False
    """It can leave sigma 0, because it only looks at D where a step arrives."""
    tolerance: float = math.inf
    """For solvers of implicit equations that iterate until they are solved: the residual they call solved."""


SOLVERS: dict[str, Entry] = {}
EXACT_TOLERANCE = 1e-6


def register(
    name: str, *, order: int, ends_in_eps: bool = False, from_zero: bool = False, tolerance: float = math.inf
) -> Callable[[Solver], Solver]:
    """Make a solver known under `name`; its first docstring line is what lists show."""

    def add(solver: Solver) -> Solver:
        about = (solver.__doc__ or "").split("\n")[0]
        SOLVERS[name] = Entry(name, solver, order, about, ends_in_eps, from_zero, tolerance)
        return solver

    return add


def find_solver(solver: str | Solver) -> Entry:
    """The entry of a registered name, or of any function of the same signature (such as a `functools.partial`).

    Raises:
        InputError: no solver of that name; the message lists the known ones.
    """
    if isinstance(solver, str):
        if solver not in SOLVERS:
            raise InputError(f"solver {solver!r}: unknown; known are {', '.join(SOLVERS)}")
        return SOLVERS[solver]
    if not callable(solver):
        raise InputError(f"solver {solver!r}: a name or a function is wanted; known are {', '.join(SOLVERS)}")
    base = getattr(solver, "func", solver)
    known = next((entry for entry in SOLVERS.values() if entry.solver is base), None)
    if known is not None:
        return replace(known, solver=solver)
    return Entry(getattr(base, "__name__", "custom"), solver, 0, "")


def falling(sigmas: Sequence[float]) -> bool:
    return sigmas[0] > sigmas[-1]


@register("euler", order=1)
def euler(denoise: Model, x: Tensor, sigmas: Sequence[float]) -> Walk:
    """Euler in sigma: SSI-DM Algorithm 1, and Algorithm 2 as DDIM takes it (Eq. 18). 1 evaluation a step."""
    for a, b in pairwise(sigmas):
        D = denoise(x, a)
        x = D + (b / a) * (x - D)
        yield x
    return None


@register("euler-vp", order=1)
def euler_vp(denoise: Model, x: Tensor, sigmas: Sequence[float]) -> Walk:
    """Euler in the VP time on the scaled state: SSI-DM Algorithm 2, line 6 with s for its s^2. 1 evaluation a step.

    t is always that of Appendix B, ln(1 + sigma^2) = beta_min t + slope t^2 / 2, whatever the process. DDIM takes the
    linear part of the same equation exactly, so `euler` is the better one; this is here to be compared with.
    """
    beta_min, slope = 0.1, 19.9

    def time(sigma: float) -> float:
        return (math.sqrt(beta_min**2 + 2 * slope * math.log1p(sigma**2)) - beta_min) / slope

    def s(sigma: float) -> float:
        return 1 / math.sqrt(1 + sigma**2)

    for a, b in pairwise(sigmas):
        beta = beta_min + slope * time(a)
        score = (denoise(x, a) - x) / a**2
        sigma_dot = beta * (1 + a**2) / (2 * a)  # d sigma / dt, from sigma^2 = exp(...) - 1
        scaled = s(a) * x
        scaled = scaled + (time(b) - time(a)) * (-beta / 2 * scaled - s(a) * sigma_dot * a * score)
        x = scaled / s(b)
        yield x
    return None


@register("ddim-current", order=1, ends_in_eps=True)
def ddim_current(denoise: Model, x: Tensor, sigmas: Sequence[float]) -> Walk:
    """DDIM inversion as guided-diffusion does it: D at the current level; the result is the last predicted noise."""
    return (yield from euler(denoise, x, sigmas))


@register("ddim-target", order=1, from_zero=True)
def ddim_target(denoise: Model, x: Tensor, sigmas: Sequence[float]) -> Walk:
    """DDIM inversion as diffusers does it (SSI-DM Eq. 6): D at the level it goes to. 1 evaluation a step.

    What the network is shown is its own state s(a) x, unchanged, as if it lay at level b. Starts at sigma 0 without
    a special case. Sampling is DDIM.
    """
    if falling(sigmas):
        return (yield from euler(denoise, x, sigmas))
    for a, b in pairwise(sigmas):
        shown = x * (denoise.scale(a) / denoise.scale(b))
        x = x + (b - a) / b * (shown - denoise(shown, b))
        yield x
    return None


@register("heun", order=2)
def heun(denoise: Model, x: Tensor, sigmas: Sequence[float]) -> Walk:
    """Heun's method (Karras et al. 2022, Algorithm 1): Euler, then the mean of both slopes. 2 evaluations a step."""
    for a, b in pairwise(sigmas):
        slope = (x - denoise(x, a)) / a
        reached = x + (b - a) * slope
        if b > 0:
            slope = (slope + (reached - denoise(reached, b)) / b) / 2
        x = x + (b - a) * slope
        yield x
    return None


@register("ab2", order=2)
def ab2(denoise: Model, x: Tensor, sigmas: Sequence[float]) -> Walk:
    """Adams-Bashforth of order 2 in sigma, variable steps, begun with Euler. 1 evaluation a step."""
    previous: tuple[float, Tensor] | None = None
    for a, b in pairwise(sigmas):
        D = denoise(x, a)
        if b == 0:
            x = D
        else:
            h, slope = b - a, (x - D) / a
            extrapolated = slope
            if previous is not None:
                h_before, slope_before = previous
                extrapolated = slope + h / (2 * h_before) * (slope - slope_before)
            x = x + h * extrapolated
            previous = h, slope
        yield x
    return None


@register("ab2-log", order=2)
def ab2_log(denoise: Model, x: Tensor, sigmas: Sequence[float]) -> Walk:
    """Adams-Bashforth of order 2 in log sigma, its linear part exact (exponential AB2). 1 evaluation a step.

    In u = ln(sigma) the equation reads dx/du = x - D. Only D is extrapolated, linearly in u; the growth of x itself is
    taken exactly, or large steps would let noise that D does not touch grow too little (std .6 at N=20).
    """
    previous: tuple[float, Tensor] | None = None
    for a, b in pairwise(sigmas):
        D = denoise(x, a)
        if b == 0:
            x = D
        else:
            h = math.log(b / a)
            x = D + (b / a) * (x - D)
            if previous is not None:
                h_before, D_before = previous
                x = x - (b / a - 1 - h) / h_before * (D - D_before)
            previous = h, D
        yield x
    return None


@register("dpmpp-2m", order=2)
def dpmpp_2m(denoise: Model, x: Tensor, sigmas: Sequence[float]) -> Walk:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2), exponential in log sigma. 1 evaluation a step.

    D is extrapolated in log sigma to the middle of the step and held there; for a constant D the step is exact.
    """
    previous: tuple[float, Tensor] | None = None
    for a, b in pairwise(sigmas):
        D = denoise(x, a)
        if b == 0:
            x = D
        else:
            h, extrapolated = math.log(a / b), D
            if previous is not None:
                h_before, D_before = previous
                extrapolated = D + h / (2 * h_before) * (D - D_before)
            x = extrapolated + (b / a) * (x - extrapolated)
            previous = h, D
        yield x
    return None


@register("fixed-point", order=1, from_zero=True)
def fixed_point(denoise: Model, x: Tensor, sigmas: Sequence[float], *, iterations: int = 3) -> Walk:
    """The inverse of the Euler sampler's step, by a fixed number of fixed-point iterations. `iterations` a step.

    See `_euler_preimage`. The first guess continues along the last slope. Sampling is Euler.
    """
    if falling(sigmas):
        return (yield from euler(denoise, x, sigmas))
    worst = x.new_zeros(len(x))
    slope = torch.zeros_like(x)
    for a, b in pairwise(sigmas):
        image, residual = _euler_preimage(x, a, b)
        y = x + (b - a) * slope
        for _ in range(iterations):
            D = denoise(y, b)
            # Of the last iterate that D has seen; the one returned is better wherever the map contracts.
            left = residual(y, D)
            y = image(y, D)
        slope = (y - x) / (b - a)
        worst = torch.maximum(worst, left)
        x = y
        yield x
    return worst


@register("exact", order=1, from_zero=True, tolerance=EXACT_TOLERANCE)
def exact(
    denoise: Model,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    tolerance: float = EXACT_TOLERANCE,
    iterations: int = 40,
    memory: int = 5,
) -> Walk:
    """The inverse of the Euler sampler's step, solved to `tolerance` with Anderson acceleration.

    Each sample stops by itself when |x_a - Euler(y)| <= tolerance (|x_a| + b sqrt(d)), the size of a state at level b,
    so that its result does not depend on its batch. One that does not get there in `iterations` evaluations keeps its
    best iterate, and the residual that is returned says so. Away from sigma 0 the equation D(y, b) = x0 is solved,
    which has no solution for an image off the model's manifold: expect no convergence at skip 0 on real images.
    Sampling is Euler.
    """
    if falling(sigmas):
        return (yield from euler(denoise, x, sigmas))
    worst = x.new_zeros(len(x))
    slope = torch.zeros_like(x)
    for a, b in pairwise(sigmas):
        image, residual = _euler_preimage(x, a, b)
        y = x + (b - a) * slope
        best, best_residual = y, x.new_full((len(x),), math.inf)
        anderson = _Anderson(memory)
        for _ in range(iterations):
            D = denoise(y, b)
            now = residual(y, D)
            better = _per_sample(now < best_residual, y)
            best, best_residual = torch.where(better, y, best), torch.minimum(now, best_residual)
            running = best_residual > tolerance
            if not bool(running.any()):
                break
            y = torch.where(_per_sample(running, y), anderson(y, image(y, D)), best)
        slope = (best - x) / (b - a)
        worst = torch.maximum(worst, best_residual)
        x = best
        yield x
    return worst


def _euler_preimage(
    x: Tensor, a: float, b: float
) -> tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """The equation "Euler from (y, b) arrives at (x, a)", b > a >= 0, as (fixed-point map of y, residual of y).

    With r = (b - a)/b it reads x = (1 - r) y + r D. Taking theta = 1/2 of the linear term to the left,
    y <- (x + r (y/2 - D)) / (1 - r/2) contracts by r/(2 - r) for every D whose Jacobian has eigenvalues in [0, 1]:
    the best that any theta does.
    """
    r = (b - a) / b
    # What a state at b measures; not |y|, which an equation without a solution drives to infinity.
    size = x.flatten(1).norm(dim=1) + b * math.sqrt(x[0].numel())

    def image(y: Tensor, D: Tensor) -> Tensor:
        return (x + r * (y / 2 - D)) / (1 - r / 2)

    def residual(y: Tensor, D: Tensor) -> Tensor:
        left = (x - D - (1 - r) * (y - D)).flatten(1)
        return left.norm(dim=1) / size

    return image, residual


class _Anderson:
    """Anderson acceleration of y <- g(y) (Walker and Ni 2011), each sample of the batch for itself."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.images: list[Tensor] = []
        self.errors: list[Tensor] = []

    def __call__(self, y: Tensor, image: Tensor) -> Tensor:
        self.images.append(image.flatten(1))
        self.errors.append((image - y).flatten(1))
        self.images, self.errors = self.images[-self.memory - 1 :], self.errors[-self.memory - 1 :]
        if len(self.errors) == 1:
            return image
        error = float64(self.errors[-1])
        dE = torch.stack([error - float64(e) for e in self.errors[:-1]], dim=-1)  # [B, d, m]
        dG = torch.stack([self.images[-1] - g for g in self.images[:-1]], dim=-1)
        gram = dE.mT @ dE
        # The differences become parallel near the solution; a little ridge keeps the solve harmless there.
        ridge = 1e-10 * gram.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None] + torch.finfo(torch.float64).tiny
        eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        weights = torch.linalg.solve(gram + ridge * eye, dE.mT @ error[..., None])
        return image - (dG @ weights.to(dG)).reshape_as(image)


def _per_sample(mask: Tensor, y: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (y.ndim - 1))
