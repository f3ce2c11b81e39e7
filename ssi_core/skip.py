"""Where to begin: sigma_skip, chosen from a handful of evaluations on the image itself.

Two things are foretold at a level s, and both follow power laws closely enough for two points to tell where they reach
a goal:

- what will be lost: the way back ends in D at about the x that the way up began at, so that |D(x_s) - x0|^2 is the
  error of the reconstruction. One evaluation;
- how Gaussian the noise will be: a walk of `WALK` levels from x_s to a signal-to-noise ratio of `TOP_SNR`, four
  evaluations, gives a noise whose structure is that of the whole inversion's, though its size is not. It is judged by
  the figures of the verdict, brought to unit variance first.

What is foretold holds where the inversion itself follows its trajectory: second-order solvers, and levels as near as
those of 20 steps (`resolved`). What a coarser walk loses comes on top, and nothing here sees it.

Everything here is of our own; docs/beyond.md has the measurements it rests on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .denoiser import Denoiser, like
from .errors import Cancelled, InputError
from .gaussianity import FIGURES, gaussianity
from .guard import Guarded, check_images, check_range, process_of
from .injection import DEFAULT_INJECTION, Injection, find_injection
from .integration import Callback, Progress, integrate, seeds_for, unit_noise
from .metrics import psnr
from .precision import float64
from .process import Process
from .schedule import exponential_sigmas, given_sigmas
from .solver import Solver, find_solver

DEFAULT_SKIP = 0.07
"""(VE) sigma."""
EVALUATIONS = 8
"""That choosing takes at most, what an injection evaluates itself left out: two walks, or a walk and four looks."""
WALK = 5
"""Levels of the short walk; one evaluation fewer."""
TOP_SNR = 0.01
"""Where it ends: (VE) sigma 10. Above, large steps spoil the noise more than the structure that is left changes."""
WALKER = "dpmpp-2m"
SHAPE = tuple(name for name in FIGURES if name not in ("mean", "std", "ks", "chi_z"))
"""Figures that the short walk tells of the noise as they are, once it has unit variance. Of the mean and the
distribution it tells nothing."""
SHRINKS = 2.0
"""How much further the variance of the short walk's noise collapses than that of the whole one's."""
FIRST = 0.03
"""(VE) sigma of the first trial."""
LOWEST, HIGHEST = 0.002, 1.0
"""(VE) sigmas between which a skip is chosen."""
SAFETY = 1.3
"""By which a skip for the verdict is raised: the short walk is not the whole one."""
RESOLVED, FLAT = 1.8, 80.0
"""Levels for each factor e of (VE) sigma, up to `FLAT`, under which a forecast is not to be trusted: 13 from 0.07."""
ENOUGH = 0.05
"""By how much, as a share, a goal may be missed and still count as met."""
BEYOND = 3.0
"""Factor over the largest level looked at that an answer may lie at."""
APART = 1.5
"""Factor that two trials lie apart at least, so that they tell a slope."""


@dataclass(frozen=True)
class Auto:
    """What a skip is chosen for; nothing given: the most faithful noise that passes the verdict of Gaussianity."""

    psnr: float | None = None
    """dB of the reconstruction, of images in [-1, 1]: the largest skip that keeps it, so the most Gaussian noise."""
    leftover: float | None = None
    """In (0, 1): the smallest skip that leaves no larger share of the noise that is not what was injected."""

    def __post_init__(self) -> None:
        if self.psnr is not None and self.leftover is not None:
            raise InputError("skip: psnr and leftover are two goals; give one of them")
        if self.psnr is not None and not 0 < self.psnr < 200:
            raise InputError(f"skip: psnr {self.psnr} dB: must lie between 0 and 200")
        if self.leftover is not None and not 0 < self.leftover < 1:
            raise InputError(f"skip: leftover {self.leftover}: a share between 0 and 1 is wanted")

    @staticmethod
    def parse(text: str) -> Auto:
        """`auto`, `psnr=40` or `leftover=0.05`.

        Raises:
            InputError: anything else.
        """
        name, equals, number = text.strip().partition("=")
        if name == "auto" and not equals:
            return Auto()
        try:
            return {"psnr": lambda v: Auto(psnr=v), "leftover": lambda v: Auto(leftover=v)}[name](float(number))
        except (KeyError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"skip {text!r}: a sigma, auto, psnr=DB or leftover=SHARE is wanted") from None

    def __str__(self) -> str:
        if self.psnr is not None:
            return f"{self.psnr:g} dB"
        return "the verdict" if self.leftover is None else f"{100 * self.leftover:g}% leftover"


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
    """[B]: how much of what the verdict allows is used up (`Gaussianity.margin`), by `SHAPE` and size; NaN likewise."""

    def sample(self, i: int) -> Trial:
        """Of image i alone."""
        return Trial(self.sigma, *(values[i : i + 1] for values in (self.psnr, self.leftover, self.margin)))


@dataclass(frozen=True, eq=False)
class Choice:
    """A skip, and what is foretold of it."""

    skip: float
    """In the schedule's sigmas."""
    goal: Auto
    met: bool
    """Whether the goal is foretold to be met for every image of the batch, by a walk that is `resolved`."""
    trials: tuple[Trial, ...]
    """What was looked at, by rising sigma."""
    foretold: Trial
    """At `skip`."""
    nfe: int
    """Evaluations spent, each over the whole batch."""
    process: Process

    def sample(self, i: int) -> Choice:
        """The same choice, with what is foretold of image i alone."""
        trials = tuple(trial.sample(i) for trial in self.trials)
        return replace(self, trials=trials, foretold=self.foretold.sample(i))

    def at(self, sigma: float) -> Trial:
        """What the trials foretell for another level, along the power law through them."""
        return _between(self.trials, sigma, self.process)

    @property
    def reason(self) -> str:
        """One sentence."""
        worst = f"{float(self.foretold.psnr.min()):.1f} dB"
        told = f"skip {self.skip:.3g} for {self.goal}: {worst} and {_share(self.foretold.leftover)} leftover foretold"
        if self.met and self.goal.psnr is not None and float(self.process.ratio(self.skip)) >= 0.99 * HIGHEST:
            told += "; it is the largest that is considered"
        if not self.met:
            told += "; no skip is foretold to reach that goal"
            if self.goal == Auto():
                told += ", so it is the default: the model does not know such pictures well enough"
        return f"{told} ({self.nfe} evaluations)"


def choose_skip(
    denoise: Denoiser,
    x0: Tensor,
    sigmas: Tensor | Sequence[float],
    goal: Auto = Auto(),  # frozen
    *,
    injection: str | Injection = DEFAULT_INJECTION,
    seed: int | Sequence[int] = 0,
    process: Process | None = None,
    progress: Callback | None = None,
) -> Choice:
    """Choose sigma_skip for images, one for the whole batch: the one that the most demanding image needs.

    Args:
        denoise, x0, sigmas, seed, process: as in `invert`; the same seed gives the same injected noise here and there.
        goal: see `Auto`.
        injection: as in `invert`; what it evaluates itself is spent at each level that is looked at, on top of the 8
            evaluations.
        progress: called after every evaluation; may cancel.

    Returns:
        A `Choice`, made with 8 evaluations at most (plus the injection's).

    Raises:
        InputError, DenoiserError, Cancelled: as `invert`.
    """
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

    seek = _SEEK["psnr" if goal.psnr is not None else "verdict" if goal.leftover is None else "leftover"]
    trials: list[Trial] = []
    v = min(max(FIRST, low), high)
    for _ in range(seek.trials):
        trials.append(look(v, walk=seek.walks))
        v = seek.next_level(trials, goal, look.ve, low, high)
        if not seek.walks and abs(math.log(v / look.ve(trials[-1].sigma))) < 0.01:
            break
    v = min(max(v, low), high)
    if not seek.walks:
        trials.append(look(v, walk=True))
    ordered = tuple(sorted(trials, key=lambda t: t.sigma))
    skip = look.sigma(v)
    foretold = _between(ordered, skip, process)
    lacks = seek.lacks(foretold, goal)
    met = lacks >= -ENOUGH if goal.psnr is not None else lacks <= ENOUGH
    if goal == Auto() and not met:
        # More noise would cost the picture and not help.
        skip = look.sigma(min(max(DEFAULT_SKIP, low), high))
        foretold = _between(ordered, skip, process)
    return Choice(skip, goal, met, ordered, foretold, look.denoise.nfe, process)


def leftover(noise: Tensor, injected: Tensor) -> Tensor:
    """[B]: share of a noise's energy that is not along the noise that was injected; see `Trial.leftover`."""
    return 1 - torch.cosine_similarity(float64(noise).flatten(1), float64(injected).flatten(1)).cpu() ** 2


def resolved(sigmas: Tensor, solver: str | Solver, process: Process) -> bool:
    """Whether an inversion over this way back follows its trajectory closely enough for a forecast to hold."""
    low, high = (float(process.ratio(float(sigma))) for sigma in (sigmas[-2], sigmas[0]))
    levels = len(sigmas) - 1
    return find_solver(solver).order != 1 and levels >= RESOLVED * math.log(min(high, FLAT) / low)


class _Told:
    """A denoiser whose evaluations are counted, and each of them told: on a large model a walk is long."""

    def __init__(self, denoise: Denoiser, progress: Callback | None) -> None:
        self.denoise, self.progress, self.nfe = denoise, progress, 0
        self.dtype: torch.dtype | None = getattr(denoise, "dtype", None)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        D = self.denoise(x, sigma)
        self.nfe += 1
        if self.progress is not None:
            now = Progress(self.nfe, max(self.nfe, EVALUATIONS), float(sigma[0]), self.nfe, x, D)
            if self.progress(now) is False:
                raise Cancelled(f"cancelled after {now.nfe} evaluations, while the skip was chosen")
        return D


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
        self.denoise, self.x0, self.inject, self.process = _Told(denoise, progress), x0, inject, process
        self.noise = unit_noise(x0, seeds_for(seed, len(x0)))
        self.top = min(self.ve(top), TOP_SNR**-0.5)

    def ve(self, sigma: float) -> float:
        return float(self.process.ratio(sigma))

    def sigma(self, ve: float) -> float:
        return float(self.process.sigma_of_ratio(ve))

    @torch.no_grad()
    def __call__(self, v: float, *, walk: bool) -> Trial:
        guarded = Guarded(self.denoise, self.process, steps=1)
        x = self.inject(guarded, self.process, self.x0, self.noise, self.sigma(v))
        if not walk:
            unknown = torch.full((len(x),), math.nan, dtype=torch.float64)
            return Trial(self.sigma(v), psnr(guarded(x, self.sigma(v)), self.x0).cpu(), unknown, unknown)
        levels = [self.sigma(level) for level in exponential_sigmas(WALK, sigma_min=v, sigma_max=self.top)[:-1]][::-1]
        estimates: list[Tensor] = []
        end = integrate(
            self.denoise, x, levels, WALKER, self.process, progress=lambda now: estimates.append(now.denoised)
        )
        noise = float64(self.process.to_noise(end.x, levels[-1])).cpu()
        std = noise.flatten(1).std(1)
        report = gaussianity(noise / like(std.clamp_min(1e-300), noise), self.x0)
        margin = torch.maximum(report.margin(SHAPE), replace(report, std=std).margin(["std"]) / SHRINKS)
        return Trial(self.sigma(v), psnr(estimates[0], self.x0).cpu(), leftover(noise, self.noise.cpu()), margin)


@dataclass(frozen=True)
class _Seek:
    """How one kind of goal is looked for: what is lacking, in logarithms, and how it falls with ln(sigma)."""

    lacks: Callable[[Trial, Auto], float]
    """ln of (what the worst image has / what it may have): 0 at the goal, above 0 where more sigma is wanted."""
    slope: float
    """Fall of `lacks` with ln(sigma) that is assumed where one trial alone is known."""
    trials: int
    walks: bool
    safety: float = 1.0

    def next_level(
        self, trials: Sequence[Trial], goal: Auto, ve: Callable[[float], float], low: float, high: float
    ) -> float:
        """The (VE) level to look at next, or after the last trial the answer."""
        points = sorted(((math.log(ve(t.sigma)), self.lacks(t, goal)) for t in trials), key=lambda p: abs(p[1]))
        (u, lacks), slope = points[0], self.slope
        if len(points) > 1 and abs(points[1][0] - u) > 0.1:
            slope = -(points[1][1] - lacks) / (points[1][0] - u)
            slope = min(max(slope, self.slope / 3), 3 * self.slope)
        here, there = math.exp(u), math.exp(u + lacks / slope)
        if len(points) == self.trials:
            if self.walks:
                # Beyond the levels looked at the curve may bend: below, it is steeper than between the two.
                known = [ve(t.sigma) for t in trials]
                there = min(max(there, min(known)), BEYOND * max(known))
            return there * self.safety
        there = min(max(there, low), high)
        if self.walks and 1 / APART < there / here < APART:
            up = here * APART <= high and (lacks > 0 or here / APART < low)
            there = here * APART if up else here / APART
        return there


def _lacks_psnr(trial: Trial, goal: Auto) -> float:
    # The goal is a most, not a least, of sigma: lacking is what there is to spare.
    assert goal.psnr is not None
    return (float(trial.psnr.min()) - goal.psnr) * math.log(10) / 10


def _lacks_gaussianity(trial: Trial, goal: Auto) -> float:
    return math.log(max(float(trial.margin.max()), 0.05))


def _lacks_nothing_left(trial: Trial, goal: Auto) -> float:
    assert goal.leftover is not None
    return math.log(max(float(trial.leftover.max()), 1e-6) / goal.leftover)


_SEEK = {
    "verdict": _Seek(_lacks_gaussianity, 0.4, trials=2, walks=True, safety=SAFETY),
    "psnr": _Seek(_lacks_psnr, 1.2, trials=4, walks=False),
    "leftover": _Seek(_lacks_nothing_left, 0.6, trials=2, walks=True),
}


def _between(trials: Sequence[Trial], sigma: float, process: Process) -> Trial:
    """Straight lines in logarithms between neighbouring trials, and on through the outermost; PSNR is one already."""

    def line(name: str, *, logarithmic: bool) -> Tensor:
        known: list[Trial] = []
        for trial in sorted(trials, key=lambda t: t.sigma):
            # Two that lie too near each other tell no slope.
            if not bool(getattr(trial, name).isnan().any()) and (not known or trial.sigma > 1.05 * known[-1].sigma):
                known.append(trial)
        u = math.log(process.ratio(sigma))
        above = sum(t.sigma <= sigma for t in known)
        known = known[max(0, min(above - 1, len(known) - 2)) :][:2]
        values = [getattr(t, name) for t in known]
        if logarithmic:
            values = [v.clamp_min(1e-6).log() for v in values]
        if len(known) == 1:
            found = values[0]
        else:
            a, b = (math.log(process.ratio(t.sigma)) for t in known)
            found = values[0] + (u - a) / (b - a) * (values[1] - values[0])
        return found.exp() if logarithmic else found

    return Trial(
        sigma, line("psnr", logarithmic=False), line("leftover", logarithmic=True).clamp(max=1.0),
        line("margin", logarithmic=True),
    )  # fmt: skip


def _share(values: Tensor) -> str:
    return f"{100 * float(values.max()):.1f}%"
