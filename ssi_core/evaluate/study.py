"""The kinds of experiment: what one unit of work is, and the rows that it gives. A new kind is one entry of `STUDIES`.

A unit is always computed whole and in the same composition, so that its rows are the same bits whichever process
computes it, and however often.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import DenoiserError
from ..image import save_image
from ..inversion import Callback, Progress, integrate, invert, reconstruct, unit_noise
from ..metrics import cosine
from ..process import VE, Process
from .exact import TARGETS
from .images import Picture, read_picture
from .metrics import METRICS, Trip
from .plan import Arm, Plan
from .store import Value

Rows = list[dict[str, Value]]
REPEAT = 1_000_003
"""Added to a picture's seed for every further inversion of it."""
CURVE_SEED = 20_000


@dataclass(frozen=True)
class Unit:
    """What is computed at once: some pictures (or samples) of one arm."""

    arm: Arm
    pictures: tuple[Picture, ...]
    keys: tuple[tuple[str, str, str], ...]
    """The rows it gives."""
    shown: frozenset[int] = frozenset()
    """Indices of the pictures whose results are kept as pictures."""


@dataclass
class Bench:
    """A model, a plan, and where pictures of results go."""

    denoise: Any
    plan: Plan
    folder: Path
    progress: Callback | None = None
    nfe: int = 0
    """Evaluations spent in this process, each over a whole batch."""
    _schedules: dict[str, Tensor] = field(default_factory=dict)

    @property
    def process(self) -> Process:
        found: Process = getattr(self.denoise, "process", VE())
        return found

    def sigmas(self, arm: Arm) -> Tensor:
        if arm.name not in self._schedules:
            self._schedules[arm.name] = arm.sigmas(self.denoise.sigma_min, self.denoise.sigma_max)[0]
        return self._schedules[arm.name]

    def read(self, pictures: Sequence[Picture]) -> Tensor:
        size = int(self.denoise.image_size)
        images = [read_picture(self.plan.images, picture, size) for picture in pictures]
        return torch.cat(images).to(self.denoise.device)

    def model(self, arm: Arm) -> Any:
        """The denoiser in the arm's precision."""
        return self.denoise if arm.precision == "float32" else Lower(self.denoise, getattr(torch, arm.precision))

    def round_trip(self, arm: Arm, images: Tensor, seeds: Sequence[int]) -> Trip:
        """There and back.

        Raises:
            DenoiserError, InputError: as `invert`.
        """
        denoise, back_nfe = self.model(arm), 0

        def watch(now: Progress) -> bool | None:
            nonlocal back_nfe
            back_nfe = now.nfe
            return self.progress(now) if self.progress else None

        found = invert(
            denoise, images, self.sigmas(arm), skip=arm.skip, solver=arm.solver, seed=list(seeds),
            process=self.process, progress=self.progress,
        )  # fmt: skip
        back = reconstruct(denoise, found.noise, found.sigmas, solver=arm.solver, process=self.process, progress=watch)
        self.nfe += found.nfe + back_nfe
        return Trip(images.cpu(), found.noise.cpu(), back.cpu(), found.nfe + back_nfe)

    def keep(self, arm: Arm, name: str, picture: Tensor) -> None:
        """Save a picture [1, C, H, W] in [-1, 1] of a result, for sheets."""
        folder = self.folder / "pictures" / arm.name
        folder.mkdir(parents=True, exist_ok=True)
        save_image(picture, folder / f"{name}.png")


class Lower:
    """A denoiser whose network runs in half precision, by autocast."""

    def __init__(self, denoise: Any, dtype: torch.dtype) -> None:
        self._denoise, self._dtype = denoise, dtype

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoise, name)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=self._dtype):
            found: Tensor = self._denoise(x, sigma)
        return found.to(x.dtype)


class Study(Protocol):
    """A kind of experiment."""

    needs_pictures: bool

    def columns(self, plan: Plan) -> list[str]:
        """Of its rows, beside those that all rows have."""

    def units(self, plan: Plan, pictures: Sequence[Picture]) -> Iterator[Unit]:
        """All work, in a fixed order."""

    def run(self, bench: Bench, unit: Unit) -> Iterator[Rows]:
        """Compute a unit; yields the rows of one picture after another.

        Raises:
            DenoiserError: the model failed on it.
        """


class RoundTrips:
    """Every picture there and back, in every arm (Tables 1 and 2, Figures 6 to 10)."""

    needs_pictures = True

    def columns(self, plan: Plan) -> list[str]:
        return ["nfe", *plan.metrics]

    def units(self, plan: Plan, pictures: Sequence[Picture]) -> Iterator[Unit]:
        sets = dict.fromkeys(p.set for p in pictures)
        first = [[p.index for p in pictures if p.set == name][: plan.options.get("show", 4)] for name in sets]
        shown = frozenset(index for each in first for index in each)
        for arm in plan.arms:
            for start in range(0, len(pictures), plan.batch):
                batch = tuple(pictures[start : start + plan.batch])
                yield Unit(arm, batch, tuple((arm.name, str(p.index), "0") for p in batch), shown)

    def run(self, bench: Bench, unit: Unit) -> Iterator[Rows]:
        plan = bench.plan
        trip = bench.round_trip(unit.arm, bench.read(unit.pictures), [plan.seed + p.index for p in unit.pictures])
        for i, picture in enumerate(unit.pictures):
            if picture.index in unit.shown:
                _keep(bench, unit.arm, picture, trip, i)
            yield [{"repeat": 0, "nfe": trip.nfe, **measured(plan, trip, i)}]


def measured(plan: Plan, trip: Trip, i: int) -> dict[str, Value]:
    """Every metric of one picture, alone: sums over a batch may be taken in another order than over one."""
    one = Trip(trip.images[i : i + 1], trip.noise[i : i + 1], trip.back[i : i + 1], trip.nfe)
    return {name: float(METRICS[name].of(one)) for name in plan.metrics}


def _keep(bench: Bench, arm: Arm, picture: Picture, trip: Trip, i: int, repeat: int = 0) -> None:
    stem = f"{picture.index:05d}" + (f"-{repeat}" if repeat else "")
    bench.keep(arm, f"{stem}.image", trip.images[i : i + 1])
    bench.keep(arm, f"{stem}.noise", trip.noise[i : i + 1] / 3)
    bench.keep(arm, f"{stem}.back", trip.back[i : i + 1])


class Seeds:
    """One picture inverted `options["repeats"]` times, with as many seeds: how alike the noises are (Figure 5)."""

    needs_pictures = True

    def columns(self, plan: Plan) -> list[str]:
        return ["nfe", *(f"cosine_{k}" for k in range(plan.options["repeats"])), *plan.metrics]

    def units(self, plan: Plan, pictures: Sequence[Picture]) -> Iterator[Unit]:
        for arm in plan.arms:
            for p in pictures:
                keys = tuple((arm.name, str(p.index), str(k)) for k in range(plan.options["repeats"]))
                yield Unit(arm, (p,), keys)

    def run(self, bench: Bench, unit: Unit) -> Iterator[Rows]:
        plan, picture, count = bench.plan, unit.pictures[0], bench.plan.options["repeats"]
        images = bench.read([picture]).expand(count, -1, -1, -1).contiguous()
        trip = bench.round_trip(unit.arm, images, [plan.seed + picture.index + REPEAT * k for k in range(count)])
        angles = [cosine(trip.noise, one.expand_as(trip.noise)).tolist() for one in trip.noise.split(1)]
        for k in range(count):
            _keep(bench, unit.arm, picture, trip, k, k)
        yield [
            {
                "repeat": k, "nfe": trip.nfe, **{f"cosine_{j}": angles[k][j] for j in range(count)},
                **measured(plan, trip, k),
            }
            for k in range(count)
        ]  # fmt: skip


class First:
    """A denoiser that remembers the first evaluation of every step: the one on the trajectory itself."""

    def __init__(self, denoise: Any) -> None:
        self._denoise = denoise
        self._seen: tuple[Tensor, Tensor, float] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoise, name)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        found: Tensor = self._denoise(x, sigma)
        if self._seen is None:
            self._seen = x.clone(), found.clone(), float(sigma[0])
        return found

    def taken(self) -> tuple[Tensor, Tensor, float]:
        """(state, estimate of x0, sigma) where the step began; forgotten by being asked for."""
        assert self._seen is not None
        seen, self._seen = self._seen, None
        return seen


class Curves:
    """|E[x0|x] - x| / sigma along sampling trajectories, in units of sqrt(d) (Figures 4 and 14). No pictures: samples.

    A row is one level of one arm: mean and standard deviation over `options["samples"]` trajectories; and, where the
    manifold is known, the mean distance to it over sigma.
    """

    needs_pictures = False

    def columns(self, plan: Plan) -> list[str]:
        return ["sigma", "curve", "curve_std", "distance"]

    def units(self, plan: Plan, pictures: Sequence[Picture]) -> Iterator[Unit]:
        for arm in plan.arms:
            yield Unit(arm, (), tuple((arm.name, "0", str(k)) for k in range(arm.steps)))

    def run(self, bench: Bench, unit: Unit) -> Iterator[Rows]:
        arm, count = unit.arm, int(bench.plan.options["samples"])
        seeds = range(bench.plan.seed + CURVE_SEED, bench.plan.seed + CURVE_SEED + count)
        known = TARGETS.get(arm.target)
        if known is not None:
            low, high = known.sigma_min, known.sigma_max
            process: Process = VE()
            noise = unit_noise(torch.empty(count, 2, dtype=torch.float64), seeds)
            denoise: Any = known.denoise
        else:
            model = bench.denoise
            low, high, process, denoise = model.sigma_min, model.sigma_max, bench.process, bench.model(arm)
            like = torch.empty(count, model.channels, model.image_size, model.image_size)
            noise = unit_noise(like, seeds).to(model.device)
        grid = arm.sigmas(low, high)[0].tolist()
        rows: Rows = []
        first = First(denoise)

        def watch(now: Progress) -> bool | None:
            x, estimate, level = first.taken()
            step = (estimate - x).double().flatten(1).norm(dim=1) / (level * math.sqrt(x[0].numel()))
            away = float(known.distance(x).div(level).mean()) if known else math.nan
            rows.append({"repeat": now.step - 1, "sigma": level, "curve": float(step.mean()),
                         "curve_std": float(step.std()), "distance": away})  # fmt: skip
            return bench.progress(now) if bench.progress else None

        walk = integrate(first, process.from_noise(noise, grid[0]), grid, arm.solver, process, progress=watch)
        bench.nfe += walk.nfe
        yield rows


STUDIES: dict[str, Study] = {"round-trips": RoundTrips(), "seeds": Seeds(), "curves": Curves()}


def failed_rows(study: Study, plan: Plan, unit: Unit, error: DenoiserError) -> Iterator[Rows]:
    """Rows that say that the model failed, for every picture of a unit: its numbers stay empty."""
    blank = dict.fromkeys(study.columns(plan), None)
    yield [{**blank, "repeat": int(repeat), "failed": str(error)} for _, _, repeat in unit.keys]
