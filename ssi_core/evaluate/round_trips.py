"""Experiments on pictures: there and back, many noises of one, and blends of two."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..blend import slerp
from ..errors import InputError
from ..gaussianity import FIGURES, gaussianity
from ..integration import unit_noise
from ..metrics import cosine
from .bench import Bench, Rows, Unit, keep_trip, measured
from .images import Picture
from .plan import Plan
from .store import Value

REPEAT = 1_000_003
"""Added to a picture's seed for every further inversion of it."""
SAMPLE_SEED = 30_000_000
"""Added to a sample's number, so that its noise is no picture's."""


class RoundTrips:
    """Every picture there and back, in every arm (Tables 1 and 2, Figures 6 to 10)."""

    needs_pictures = True

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
            yield [{"repeat": 0, "nfe": trip.nfe, **measured(plan, trip, i)}]


def shown_of(plan: Plan, pictures: Sequence[Picture]) -> list[int]:
    """Numbers of the pictures on sheets: the first few of each set."""
    own = [p for p in pictures if p.inverted]
    first = [[p.index for p in own if p.set == name][: plan.options.get("show", 4)] for name in sets_of(own)]
    return [index for each in first for index in each]


def sets_of(pictures: Sequence[Picture]) -> list[str]:
    return list(dict.fromkeys(p.set for p in pictures))


class Seeds:
    """One picture inverted `options["repeats"]` times, with as many seeds: how alike the noises are (Figure 5)."""

    needs_pictures = True

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
                **measured(plan, trip, k),
            }
            for k in range(count)
        ]  # fmt: skip


class Interpolations:
    """Two pictures inverted, their noises blended (Eq. 4) at `options["weights"]`, and sampled (Figure 12).

    Pictures of a set are paired as they come, 0 with 1, 2 with 3; an odd one is left out. A row is one blend: its
    noise's figures, and its norm as a multiple of sqrt(d). An arm whose target is "samples" has as many pictures as
    there are pairs, sampled from Gaussian noise itself, to compare the blends with (Figure 11).
    """

    needs_pictures = True

    def columns(self, plan: Plan) -> list[str]:
        return ["nfe", "weight", "norm", *FIGURES, "gaussian"]

    def units(self, plan: Plan, pictures: Sequence[Picture]) -> Iterator[Unit]:
        pairs = pairs_of(pictures)
        if not pairs:
            raise InputError(
                f"preset {plan.preset}: blends two pictures of one set; found {len(pictures)} in "
                f"{len(sets_of(pictures))} set(s): give more pictures, or a --limit of at least 2"
            )
        for arm in plan.arms:
            if arm.target == "samples":
                for start in range(0, len(pairs), plan.batch):
                    numbers = range(start, min(start + plan.batch, len(pairs)))
                    yield Unit(arm, (), tuple((arm.name, str(i), "0") for i in numbers), separable=True)
                continue
            for pair in pairs:
                keys = tuple((arm.name, str(pair[0].index), str(k)) for k in range(len(plan.options["weights"])))
                yield Unit(arm, pair, keys)

    def run(self, bench: Bench, unit: Unit) -> Iterator[Rows]:
        yield from self._blended(bench, unit) if unit.pictures else self._sampled(bench, unit)

    def _sampled(self, bench: Bench, unit: Unit) -> Iterator[Rows]:
        numbers = [int(index) for _, index, _ in unit.keys]
        like = torch.empty(len(numbers), *bench.plan.shape)
        noise = unit_noise(like, [bench.plan.seed + SAMPLE_SEED + i for i in numbers])
        pictures, nfe = bench.down(unit.arm, noise.to(bench.denoise.device), bench.sigmas(unit.arm))
        for i, number in enumerate(numbers):
            bench.keep(unit.arm, f"{number:05d}.sample", pictures[i : i + 1].cpu())
            yield [_noise_row(noise[i : i + 1], {"repeat": 0, "nfe": nfe, "weight": None})]

    def _blended(self, bench: Bench, unit: Unit) -> Iterator[Rows]:
        plan, weights = bench.plan, bench.plan.options["weights"]
        images = bench.read(unit.pictures)
        found = bench.up(unit.arm, images, [plan.seed + p.index for p in unit.pictures])
        blended = slerp(found.noise[:1], found.noise[1:], weights)
        # The ends are sampled with the blends: what each noise gives back belongs on the sheet.
        back, nfe = bench.down(
            unit.arm, torch.cat([found.noise[:1], blended, found.noise[1:]]), bench.way_back(unit.arm, found)
        )
        for which, picture in (("a", images[:1]), ("b", images[1:])):
            bench.keep(unit.arm, f"{unit.pictures[0].index:05d}.{which}", picture.cpu())
        for k, frame in enumerate(back.cpu().split(1)):
            bench.keep(unit.arm, f"{unit.pictures[0].index:05d}.frame{k}", frame)
        yield [
            _noise_row(noise, {"repeat": k, "nfe": found.nfe + nfe, "weight": weights[k]})
            for k, noise in enumerate(blended.cpu().split(1))
        ]


def pairs_of(pictures: Sequence[Picture]) -> list[tuple[Picture, Picture]]:
    """What `Interpolations` blends, of the pictures that are inverted."""
    used = [p for p in pictures if p.inverted]
    sets = [[p for p in used if p.set == name] for name in sets_of(used)]
    return [pair for own in sets for pair in zip(own[::2], own[1::2], strict=False)]


def _noise_row(noise: Tensor, row: dict[str, Value]) -> dict[str, Value]:
    """A row with the figures of one noise, [1, C, H, W]."""
    report = gaussianity(noise)
    figures = {name: float(getattr(report, name)) for name in FIGURES}
    norm = float(noise.double().square().mean().sqrt())
    return {**row, "norm": norm, **figures, "gaussian": float(report.verdict)}
