"""Experiments on pictures one by one: there and back, and many noises of one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from ..metrics import cosine
from ..report.tables import Table
from .bench import Bench, Rows, Unit, keep_trip, measured
from .images import Picture, sets_of
from .plan import Plan
from .preset import Preset
from .results import Results
from .tables import ABOUT, means

REPEAT = 1_000_003
"""Added to a picture's seed for every further inversion of it."""


class RoundTrips:
    """Every picture there and back, in every arm (Tables 1 and 2, Figures 6 to 10)."""

    needs_pictures = True
    about: ClassVar[Mapping[str, str]] = ABOUT

    def columns(self, plan: Plan) -> list[str]:
        return ["nfe", *plan.metrics]

    def units(self, plan: Plan, pictures: Sequence[Picture]) -> Iterator[Unit]:
        shown = frozenset(shown_of(plan, pictures))
        for arm in plan.arms:
            for start in range(0, len(pictures), plan.batch):
                batch = tuple(pictures[start : start + plan.batch])
                yield Unit(arm, batch, tuple((arm.name, str(p.index), "0") for p in batch), shown, separable=True)

    def run(self, bench: Bench, unit: Unit) -> Iterator[Rows]:
        plan = bench.plan
        trip = bench.round_trip(unit.arm, bench.read(unit.pictures), [plan.seed + p.index for p in unit.pictures])
        for i, picture in enumerate(unit.pictures):
            if picture.index in unit.shown:
                keep_trip(bench, unit.arm, picture, trip, i)
        yield [{"repeat": 0, "nfe": trip.nfe, **figures} for figures in measured(plan, trip)]

    def tables(self, results: Results, preset: Preset) -> list[Table]:
        return [means(results, preset, name) for name in results.sets]


def shown_of(plan: Plan, pictures: Sequence[Picture]) -> list[int]:
    """Numbers of the pictures on sheets: the first few of each set."""
    own = [p for p in pictures if p.inverted]
    first = [[p.index for p in own if p.set == name][: plan.options.get("show", 4)] for name in sets_of(own)]
    return [index for each in first for index in each]


class Seeds:
    """One picture inverted `options["repeats"]` times, with as many seeds: how alike the noises are (Figure 5)."""

    needs_pictures = True
    about: ClassVar[Mapping[str, str]] = {
        **ABOUT, "cosine": "mean cosine of a noise with those of the same picture under other seeds",
    }  # fmt: skip

    def columns(self, plan: Plan) -> list[str]:
        return ["nfe", "cosine", *(f"cosine_{k}" for k in range(plan.options["repeats"])), *plan.metrics]

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
            keep_trip(bench, unit.arm, picture, trip, k, k)
        yield [
            {
                "repeat": k, "nfe": trip.nfe, "cosine": (math.fsum(angles[k]) - angles[k][k]) / max(count - 1, 1),
                **{f"cosine_{j}": angles[k][j] for j in range(count)},
                **figures,
            }
            for k, figures in enumerate(measured(plan, trip))
        ]  # fmt: skip

    def tables(self, results: Results, preset: Preset) -> list[Table]:
        return [means(results, preset, name) for name in results.sets]
