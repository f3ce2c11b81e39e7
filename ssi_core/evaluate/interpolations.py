"""Blends of two pictures' noises, and how far what they give is from pictures of its kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..blend import slerp
from ..errors import InputError
from ..gaussianity import FIGURES, gaussianity
from ..integration import hashed_seed, unit_noise
from ..report.tables import Table
from .bench import Bench, Rows, Unit
from .distances import DISTANCES, measured, pairs_lost
from .images import Picture, sets_of
from .plan import Plan
from .preset import Preset
from .results import Results
from .store import Value
from .tables import ABOUT, lacking, means

WEAK = (
    "The paper has 500 pictures a set and 5,000 to compare with. Such distances are biased by a set's size: compare "
    "equal n only, and with few pictures claim nothing from them."
)


class Interpolations:
    """Two pictures inverted, their noises blended (Eq. 4) at `options["weights"]`, and sampled (Figure 12).

    Pictures of a set are paired as they come, 0 with 1, 2 with 3; an odd one is left out. A row is one blend: its
    noise's figures, and its norm as a multiple of sqrt(d). An arm whose target is "samples" has as many pictures as
    there are pairs, sampled from Gaussian noise itself, to compare the blends with (Figure 11).
    """

    needs_pictures = True
    about: ClassVar[Mapping[str, str]] = {**ABOUT, "norm": "norm of the noise over sqrt(d); 1 for Gaussian noise"}

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
        noise = unit_noise(like, [hashed_seed(bench.plan.seed, "sample", i) for i in numbers])
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

    def tables(self, results: Results, preset: Preset) -> list[Table]:
        each = [means(results, preset, name) for name in results.sets]
        return [*each, *_distances(results, preset)] if preset.distances else each


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


def _distances(results: Results, preset: Preset) -> list[Table]:
    """Per kind of pictures: distance and arm against the blends' weight."""
    plan, found, made = results.plan, measured(results), []
    kinds = list(dict.fromkeys(row["set"] for row in found))
    if not kinds:
        note = (
            "No distance: fewer than two pairs of a set were blended by every arm, or fewer than two pictures are left."
        )
        return [Table(f"{preset.title}: as sets", ["distance", "n"], [], [note])]
    weights = [repr(weight) for weight in plan.options["weights"]]
    for kind in kinds:
        rows, sizes = [], set()
        for name in preset.distances:
            if name in plan.missing:
                rows.append([name, "", *[lacking(plan.missing[name])] * len(weights)])
                continue
            own = [row for row in found if (row["set"], row["distance"]) == (kind, name)]
            for arm in dict.fromkeys(row["arm"] for row in own):
                at = {row["weight"]: row for row in own if row["arm"] == arm}
                first = next(iter(at.values()))
                sizes.add(first["reference"])
                # One figure, where there is nothing that is blended: repeated, to be compared with in every column.
                cells = [f"{float(at.get(weight, first)['value']):.2f}" for weight in weights]
                rows.append([f"{name}: {arm}", first["pictures"], *cells])
        which = f"of {plan.reference}" if plan.reference else "of the same kind that nothing was made of"
        notes = [f"To {' and '.join(sorted(sizes))} pictures {which}. {WEAK}"]
        used = sum(p.inverted and p.set == kind for p in results.pictures)
        if not plan.reference and (not plan.limit or used < plan.limit):
            known = sum(p.compared and p.set == kind for p in results.pictures)
            notes.append(
                f"{used} pictures were inverted and {known} are compared with, half of all each: there are not enough "
                f"for {plan.limit or 'all'} and {plan.options['reference']}."
            )
        if len(kinds) > 1:
            notes.append(
                "Pictures sampled directly are of every kind that the model draws: no bound for one kind alone."
            )
        if lost := pairs_lost(results, kind):
            notes.append(
                f"{len(lost)} pairs are left out of every set: pictures of their blends are gone from this folder."
            )
        notes += [f"{name}: {DISTANCES[name].about}" for name in preset.distances]
        notes += [f"{name}: {why}" for name, why in plan.missing.items() if name in preset.distances]
        columns = ["distance", "n", *(f"lambda {weight}" for weight in weights)]
        made.append(Table(f"{preset.title}: {kind}, as sets", columns, rows, notes))
    return made
