"""Where to begin: sigma_skip, chosen from a handful of evaluations on the image itself.

Two things are foretold at a level s, and followed along power laws to where they reach a goal (`ssi_core.goal`):

- what will be lost: the way back ends in D at about the x that the way up began at, so that |D(x_s) - x0|^2 is the
  error of the reconstruction. One evaluation, a look;
- how Gaussian the noise will be: a walk of a few evaluations from x_s to a signal-to-noise ratio of `TOP_SNR` gives a
  noise that fails and passes by the figures of the verdict as the whole inversion's does, once its size is mended.

The size: the noise that D leaves grows along the way, since what D took of it at s it gives back further up. A walk of
n evaluations sees all of that growth but a share that falls as 1/n^2, as the error of a second-order solver does.

What is foretold holds where the inversion itself follows its trajectory: second-order solvers, and levels as near as
those of 20 steps (`resolved`). What a coarser walk loses comes on top, and nothing here sees it.

Everything here is of our own; docs/beyond.md has the measurements it rests on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from .denoiser import Denoiser, like
from .errors import InputError
from .gaussianity import gaussianity
from .goal import Goal
from .guard import Guarded, check_images, check_range, process_of
from .injection import DEFAULT_INJECTION, Injection, find_injection
from .integration import Callback, Told, integrate, seeds_for, unit_noise
from .metrics import psnr
from .precision import float64
from .process import Process
from .schedule import exponential_sigmas, given_sigmas
from .solver import Solver, find_solver

DEFAULT_SKIP = 0.07
"""In the schedule's sigmas."""
EVALUATIONS = 8
"""That choosing takes at most, what an injection evaluates itself left out."""
TOP_SNR = 0.01
"""Where a walk ends: (VE) sigma 10. Above, large steps spoil the noise more than the structure that is left changes."""
WALKER = "dpmpp-2m"
GROWS = 3.0
"""Over n^2: the share of the noise's growth that a walk of n evaluations does not see."""
FIRST = 0.02
"""(VE) sigma of the first trial."""
LOWEST, HIGHEST = 0.002, 1.0
"""(VE) sigmas between which a skip is chosen."""
REACH = 7.0
"""Factor over the last walk that an answer may lie at."""
STRIDE = 3.5
"""Factor from a skip to the schedule's next level at most; a longer first step shrinks the noise by itself."""
RESOLVED, FLAT = 1.8, 80.0
"""Levels for each factor e of (VE) sigma, up to `FLAT`, under which a forecast is not to be trusted: 13 from 0.07."""
NEAR = 3.0
"""Factor from level to level, up to where walks end, over which it is not either."""
ENOUGH = 0.05
"""By how much, as a share, a goal may be missed and still count as met."""
SHORT, SHORT_OF_GOAL, LEFT_OVER = 1.5, 0.5, 1.2
"""dB under what was foretold, the same where dB are the goal, and times the leftover, from which it is a shortfall."""
LIKELY = {"psnr": 1.2, "leftover": 0.6, "margin": 0.8}
"""d ln(figure) / d ln(1/sigma), of decibels of their power, that is assumed beyond the trials."""
DOUBT, BEYOND_DOUBT = 0.5, 1.5
"""How far, in ln(sigma), two trials must lie apart for their slope to weigh as the likely one does: on the side of the
other, and, of walks, on the far side, where their curves bend."""


@dataclass(frozen=True, eq=False)
class Trial:
    """What is foretold of an inversion that begins at `sigma`; B images, float64."""

    sigma: float
    """In the schedule's sigmas."""
    psnr: Tensor
    """[B], dB, of images in [-1, 1]."""
    leftover: Tensor
    """[B]: share of the noise's energy that is not along the injected noise, 1 - cos^2; NaN where no walk was made.

    Part of it must be there: what the model knows of the image is in the noise too. On Gaussian data of variance s^2 it
    is about rho = s^2 / (s^2 + sigma^2), as is the cosine between two seeds' noises.
    """
    margin: Tensor
    """[B]: how much of what the verdict allows is used up (`Gaussianity.margin`); NaN likewise."""
    evaluations: int = 0
    """That it rests on: 1 is a look, more are a walk; 0 where it is foretold, or is what happened."""

    def worst(self, goal: Goal) -> float:
        """The goal's figure, of the image that is furthest from it."""
        values: Tensor = getattr(self, goal.kind.figure)
        return float(values.min() if goal.kind.keeps else values.max())

    def sample(self, i: int) -> Trial:
        """Image i alone."""
        return Trial(
            self.sigma, self.psnr[i : i + 1], self.leftover[i : i + 1], self.margin[i : i + 1], self.evaluations
        )


@dataclass(frozen=True, eq=False)
class Choice:
    """A skip, and what is foretold of it."""

    skip: float
    """In the schedule's sigmas."""
    goal: Goal
    met: bool
    """Whether the goal is foretold to be met for every image of the batch; see `resolved`."""
    trials: tuple[Trial, ...]
    """What was looked at, by rising sigma."""
    foretold: Trial
    """At `skip`."""
    nfe: int
    """Evaluations spent, each over the whole batch."""
    process: Process
    resolved: bool = True
    """Whether the inversion that it was chosen for is fine enough for the forecast; True while none is known."""

    def at(self, sigma: float) -> Trial:
        """What the trials foretell for another level, along the power law through them."""
        return _foretell(self.trials, sigma, self.process)

    def sample(self, i: int) -> Choice:
        """What is told of image i; skip, goal and `met` are the batch's."""
        trials = tuple(trial.sample(i) for trial in self.trials)
        return replace(self, trials=trials, foretold=self.foretold.sample(i))

    @property
    def reason(self) -> str:
        """One sentence."""
        worst = f"{float(self.foretold.psnr.min()):.1f} dB"
        told = f"skip {self.skip:.3g} for {self.goal}: {worst} and {_share(self.foretold.leftover)} leftover foretold"
        if self.met and self.goal.kind.keeps and float(self.process.ratio(self.skip)) >= 0.99 * HIGHEST:
            told += "; it is the largest that is considered"
        if not self.met:
            told += "; no skip is foretold to reach that goal"
            if self.goal == Goal():
                told += f" up to {HIGHEST:g} (the model may not know such pictures), so it stays at {self.skip:.3g}"
        if not self.resolved:
            told += "; the steps lie too far apart for a forecast: more of them, and a second-order solver, hold better"
        return f"{told} ({self.nfe} evaluations)"

    def shortfalls(self, happened: Trial, image: int = 0) -> dict[str, str]:
        """In words, by figure of `Trial`, where what an inversion from `skip` gave is less than what was foretold.

        Args:
            happened: what it gave; NaN where that is not known.
        """
        short: dict[str, str] = {}
        kept, told = float(happened.psnr[image]), float(self.foretold.psnr[image])
        if kept < told - (SHORT_OF_GOAL if self.goal.kind.keeps else SHORT):
            short["psnr"] = f"{kept:.1f} dB came back where {told:.1f} were foretold"
        left, allowed = float(happened.leftover[image]), float(self.foretold.leftover[image])
        if self.goal.name == "leftover" and left > LEFT_OVER * allowed:
            short["leftover"] = f"{100 * left:.1f}% is left over where {100 * allowed:.1f}% were foretold"
        if self.met and self.goal == Goal() and float(happened.margin[image]) > 1:
            short["margin"] = "the noise was foretold to pass as Gaussian, and did not"
        return short


def choose_skip(
    denoise: Denoiser,
    x0: Tensor,
    sigmas: Tensor | Sequence[float],
    goal: Goal | str = Goal(),  # noqa: B008  # frozen
    *,
    injection: str | Injection = DEFAULT_INJECTION,
    seed: int | Sequence[int] = 0,
    process: Process | None = None,
    progress: Callback | None = None,
) -> Choice:
    """Choose sigma_skip for images, one for the whole batch: the one that the most demanding image needs.

    Args:
        denoise, x0, seed, process: as in `invert`; the same seed gives the same injected noise here and there.
        sigmas: as in `invert`; or no more than its first and its last level, where the steps are not known yet.
        goal: what for, or its text (`Goal.parse`).
        injection: as in `invert`; what it evaluates itself is spent at each level that is looked at, on top of the 8
            evaluations.
        progress: called after every evaluation; may cancel.

    Returns:
        A `Choice`, made with 8 evaluations at most (plus the injection's).

    Raises:
        InputError, DenoiserError, Cancelled: as `invert`.
    """
    if isinstance(goal, str):
        goal = Goal.parse(goal)
    if not isinstance(goal, Goal):
        raise InputError(f"goal {goal!r}: a Goal, or its text such as 'psnr=40', is wanted")
    check_images(x0, denoise, "x0")
    process = process_of(denoise, process)
    grid = given_sigmas(sigmas)
    top = float(grid[0])
    look = _Look(denoise, x0, top, find_injection(injection).inject, seed, process, progress)
    known = max(getattr(side, "sigma_min", None) or 0.0 for side in (denoise, process))
    low = max(LOWEST, look.ve(known)) if known > 0 else LOWEST
    high = min(HIGHEST, 0.5 * look.ve(top))
    if low >= high:
        raise InputError(f"sigmas: begin at {top:g}, which leaves no room to choose a skip in; give it")
    check_range(given_sigmas([top, look.sigma(low)]), look.sigma(low), denoise, process)

    search = goal.kind.search
    trials: list[Trial] = []
    v = min(max(FIRST, low), high)
    for evaluations in search.trials:
        trials.append(look(v) if search.looks else look.walk(v, evaluations))
        last = len(trials) == len(search.trials)
        v = follow(goal, [(look.ve(t.sigma), t.worst(goal)) for t in trials], last=last)
        if last and not search.looks:
            v = min(v, REACH * look.ve(trials[-1].sigma)) * search.safety
        v = min(max(v, low), high)
        if search.looks and abs(math.log(v / look.ve(trials[-1].sigma))) < 0.01:
            break
    if search.looks:
        trials.append(look.walk(v, EVALUATIONS - sum(search.trials)))
    else:
        above = [level for level in (look.ve(float(sigma)) for sigma in grid[1:-1]) if level > v]
        v = max(v, min(above, default=0.0) / STRIDE)
    ordered = tuple(sorted(trials, key=lambda t: t.sigma))
    skip = look.sigma(v)
    foretold = _foretell(ordered, skip, process)
    lacks = goal.lacks(foretold.worst(goal))
    met = lacks >= -ENOUGH if goal.kind.keeps else lacks <= ENOUGH
    if goal == Goal() and not met:
        # More noise would cost the picture and not help.
        skip = min(max(DEFAULT_SKIP, look.sigma(low)), look.sigma(high))
        foretold = _foretell(ordered, skip, process)
    return Choice(skip, goal, met, ordered, foretold, look.denoise.nfe, process)


def follow(goal: Goal, seen: Sequence[tuple[float, float]], *, last: bool) -> float:
    """Where the goal is to be looked for next, or after the last trial the answer, before its safety.

    Args:
        seen: (VE) sigma and the goal's figure of every trial, as they were made. The last one tells the most.
    """
    search = goal.kind.search
    u, lacks = math.log(seen[-1][0]), goal.lacks(seen[-1][1])
    slope = search.last if last else search.first
    if len(seen) > 1:
        before, lacked = math.log(seen[-2][0]), goal.lacks(seen[-2][1])
        trust, fall = _trust(u - before, search.apart), (lacked - lacks) / ((u - before) or 1.0)
        slope = trust * min(max(fall, search.first / 4), 4 * search.first) + (1 - trust) * slope
    if lacks < 0:
        slope = max(slope, search.down)
    return math.exp(u + lacks / slope)


def _trust(apart: float, doubt: float) -> float:
    """Weight of a slope between two trials beside an assumed one; half where they lie `doubt` apart."""
    return apart**2 / (apart**2 + doubt**2)


def leftover(noise: Tensor, injected: Tensor) -> Tensor:
    """[B]: share of a noise's energy that is not along the noise that was injected; see `Trial.leftover`."""
    return 1 - torch.cosine_similarity(float64(noise).flatten(1), float64(injected).flatten(1)).cpu() ** 2


def resolved(sigmas: Tensor, solver: str | Solver, process: Process) -> bool:
    """Whether an inversion over this way back follows its trajectory closely enough for a forecast to hold."""
    ratios = process.ratio(sigmas[:-1])
    enough = len(ratios) >= RESOLVED * math.log(min(float(ratios[0]), FLAT) / float(ratios[-1]))
    bent = ratios.clamp(max=TOP_SNR**-0.5)
    return find_solver(solver).order != 1 and enough and float((bent[:-1] / bent[1:]).max()) <= NEAR


class _Look:
    """Trials of one batch."""

    def __init__(
        self,
        denoise: Denoiser,
        x0: Tensor,
        top: float,
        inject: Injection,
        seed: int | Sequence[int],
        process: Process,
        progress: Callback | None,
    ) -> None:
        self.denoise = Told(denoise, progress, partial(max, EVALUATIONS), during="the skip was chosen")
        self.x0, self.inject, self.process = x0, inject, process
        self.noise = unit_noise(x0, seeds_for(seed, len(x0)))
        self.top = min(self.ve(top), TOP_SNR**-0.5)

    def ve(self, sigma: float) -> float:
        return float(self.process.ratio(sigma))

    def sigma(self, ve: float) -> float:
        return float(self.process.sigma_of_ratio(ve))

    @torch.no_grad()
    def __call__(self, v: float) -> Trial:
        """One evaluation."""
        guarded = Guarded(self.denoise, self.process, steps=1)
        D = guarded(self.inject(guarded, self.process, self.x0, self.noise, self.sigma(v)), self.sigma(v))
        unknown = torch.full((len(D),), math.nan, dtype=torch.float64)
        return Trial(self.sigma(v), psnr(D, self.x0).cpu(), unknown, unknown, 1)

    @torch.no_grad()
    def walk(self, v: float, evaluations: int) -> Trial:
        guarded = Guarded(self.denoise, self.process, steps=1)
        levels = exponential_sigmas(evaluations + 1, sigma_min=v, sigma_max=self.top)[:-1].flip(0).tolist()
        levels = [self.sigma(level) for level in levels]
        x = self.inject(guarded, self.process, self.x0, self.noise, levels[0])
        estimates: list[Tensor] = []
        end = integrate(
            self.denoise, x, levels, WALKER, self.process, progress=lambda now: estimates.append(now.denoised)
        )
        noise = float64(self.process.to_noise(end.x, levels[-1])).cpu()
        began = _size(self.process.predicted_noise(x, estimates[0], levels[0]))
        unseen = (_size(noise) / began) ** (GROWS / evaluations**2)
        margin = gaussianity(noise * like(unseen, noise), self.x0).margin()
        left = leftover(noise, self.noise.cpu())
        return Trial(levels[0], psnr(estimates[0], self.x0).cpu(), left, margin, evaluations)


def _size(noise: Tensor) -> Tensor:
    """[B]: standard deviation, on the CPU."""
    return float64(noise).flatten(1).std(1).cpu().clamp_min(1e-300)


def _foretell(trials: Sequence[Trial], sigma: float, process: Process) -> Trial:
    """Along power laws: PSNR from look to look, the noise's figures from the longest walk on."""
    u = math.log(process.ratio(sigma))
    looks = [(math.log(process.ratio(t.sigma)), t.psnr * math.log(10) / 10) for t in trials]
    looks.sort(key=lambda look: abs(look[0] - u))
    beside = next((look for look in looks if (look[0] - u) * (looks[0][0] - u) < 0), None)
    if beside is not None:
        (a, at_a), (b, at_b) = looks[0], beside
        power = at_a + (u - a) / (b - a) * (at_b - at_a)
    else:
        power = _onward(looks, u, LIKELY["psnr"], DOUBT)
    walks = sorted((t for t in trials if not bool(t.margin.isnan().any())), key=lambda t: -t.evaluations)

    def figure(name: str) -> Tensor:
        points = [(math.log(process.ratio(t.sigma)), getattr(t, name).clamp_min(1e-6).log()) for t in walks]
        towards = len(points) > 1 and (points[1][0] - points[0][0]) * (u - points[0][0]) > 0
        return _onward(points, u, LIKELY[name], DOUBT if towards else BEYOND_DOUBT).exp()

    return Trial(sigma, power * 10 / math.log(10), figure("leftover").clamp(max=1.0), figure("margin"))


def _onward(points: Sequence[tuple[float, Tensor]], u: float, likely: float, doubt: float) -> Tensor:
    """From the first of the points on, by a slope that leans on the second the more the further it lies away."""
    (at, value), *others = points
    slope = torch.full_like(value, likely)
    for beside, other in others[:1]:
        slope += _trust(at - beside, doubt) * ((other - value) / ((at - beside) or 1.0) - slope)
    return value - slope * (u - at)


def _share(values: Tensor) -> str:
    return f"{100 * float(values.max()):.1f}%"
