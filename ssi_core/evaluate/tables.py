"""Rows summed up in the paper's layout: each arm's means, the floor of true Gaussian noise, and the paper's own."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch

from ..gaussianity import FIGURES, gaussianity
from ..report.tables import Table
from .distances import DISTANCES, measured
from .exact import TARGETS
from .metrics import METRICS
from .presets import GAUSSIAN, Preset
from .run import Results
from .store import Row

_FORMATS = {"nfe": ".0f", "psnr": ".1f", "gaussian": ".0%", "wins": ".0%", "mse": ".5f", "brisque": ".1f",
            "chan": ".4f", "std": ".3f", "chi_z": ".1f", "distance": ".2e", "distance_max": ".2e"}  # fmt: skip
_ABOUT = {
    "nfe": "evaluations of the network, there and back",
    "solver": "of the inversion and of the way back",
    "way back": "sampled over the levels of the inversion (own) or over the whole schedule",
    "mse_median": "median of the same: a few pictures that fail badly move the mean, not it",
    "wins": "share of pictures on which the error is smaller than that of the base method in the same setting; who "
    "fails on a picture has lost it",
    "cosine": "mean cosine of a noise with those of the same picture under other seeds",
    "norm": "norm of the noise over sqrt(d); 1 for Gaussian noise",
    "distance": "mean distance of the samples to the manifold at the smallest level, before the last step",
    "distance_max": "largest distance of any sample there",
    "std_x": "standard deviation along x, mean over chunks of samples",
    "std_y": "standard deviation along y",
    "rarest": "smallest share of samples that any of the eight points gets in a chunk, mean over chunks",
    "commonest": "largest such share",
    "sigma": "noise level",
    "curve": "mean |E[x0|x] - x| / (sigma sqrt(d)) over the trajectories",
}
LEVELS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0, 20.0)

WEAK = (
    "The paper has 500 pictures a set and 5,000 to compare with. Such distances are biased by a set's size: compare "
    "equal n only, and with few pictures claim nothing from them."
)


def values(rows: Sequence[Row], name: str) -> list[float]:
    """One number a row; rows without one are left out."""
    return [float(row[name]) for row in rows if row.get(name, "") != ""]


def mean(rows: Sequence[Row], name: str) -> float:
    found = values(rows, name)
    return math.fsum(found) / len(found) if found else math.nan


def ratios(results: Results, arm: str, against: str, set_: str) -> list[float]:
    """For each picture of a set that either arm has: the error of `against` over that of `arm`.

    An arm that failed has lost: 0 where `arm` did, infinity where `against` did.
    """
    ours, theirs = ({r["index"]: float(r["mse"]) for r in results.of(name, set_)} for name in (arm, against))
    known = sorted({*ours, *theirs}, key=int) if against else []
    return [_over(theirs.get(index, math.inf), ours.get(index, math.inf)) for index in known]


def _over(theirs: float, ours: float) -> float:
    if ours == theirs:
        return 1.0
    return theirs / ours if ours > 0 else math.inf


def wins(results: Results, arm: str, against: str, set_: str) -> float:
    """On what share of a set's pictures `arm` has the smaller error; NaN where nothing can be compared."""
    found = ratios(results, arm, against, set_)
    return sum(ratio > 1 for ratio in found) / len(found) if found else math.nan


def compared(results: Results, set_: str) -> dict[str, list[Row]]:
    """The rows of a set that means are taken over: those of pictures that no arm failed on, or the arm that did would
    be flattered. Arms without any row have none; arms that no set belongs to (samples) have all of theirs.
    """
    arms = results.plan.arms
    own = {arm.name: results.of(arm.name, None if arm.target == "samples" else set_) for arm in arms}
    told = [{_place(row) for row in own[a.name]} for a in arms if a.target != "samples" and own[a.name]]
    shared = set.intersection(*told) if told else set()
    return {
        arm.name: own[arm.name] if arm.target == "samples" else [r for r in own[arm.name] if _place(r) in shared]
        for arm in arms
    }


def _place(row: Row) -> tuple[str, str]:
    return row["index"], row["repeat"]


def _log_ratio(results: Results, arm: str, against: str, set_: str) -> str:
    """Mean and standard error of the log of `ratios`, of those that neither arm failed on; "" for fewer than two."""
    logs = [math.log(ratio) for ratio in ratios(results, arm, against, set_) if 0 < ratio < math.inf]
    if len(logs) < 2:
        return ""
    return f"{statistics.mean(logs):.2f} +- {statistics.stdev(logs) / math.sqrt(len(logs)):.2f} (n {len(logs)})"


def floors(shape: tuple[int, int, int]) -> dict[str, float]:
    """What true Gaussian noise of a shape reaches, by figure."""
    floor = gaussianity(torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))).floor
    return {name: float(getattr(floor, name)) for name in FIGURES} | {"gaussian": 1.0, "cosine": 0.0, "norm": 1.0}


def tables(results: Results, preset: Preset) -> list[Table]:
    """The summary, one table for each set of pictures."""
    if preset.study == "curves":
        return [_curves(results, preset)]
    if preset.study == "samples":
        return [_samples(results, preset)]
    each = [_means(results, preset, name) for name in results.sets]
    return [*each, *_distances(results, preset)] if preset.distances else each


def _lacking(why: str) -> str:
    """In a cell; how to get it stands below the table."""
    what = why.partition(":")[0]
    return f"{what}, see below" if what in ("weights missing", "package missing") else "not computed, see below"


def cell(name: str, value: float) -> str:
    return "" if math.isnan(value) else format(value, _FORMATS.get(name, ".3f"))


def about(name: str) -> str:
    """What a column means, in words."""
    if name in DISTANCES:
        return DISTANCES[name].about
    return METRICS[name].about if name in METRICS else _ABOUT.get(name, name)


def _means(results: Results, preset: Preset, set_: str) -> Table:
    plan, rows = results.plan, []
    floor, kept = floors(plan.shape), compared(results, set_)
    for arm in plan.arms:
        own = kept[arm.name]
        lost = sum(r["arm"] == arm.name and r["set"] in (set_, "samples") for r in results.failed)
        cells = []
        for name in preset.columns:
            if name in plan.missing:
                cells.append(_lacking(plan.missing[name]))
            elif name == "wins":
                cells.append(cell(name, wins(results, arm.name, arm.against, set_)))
            elif name == "mse_median":
                found = values(own, "mse")
                cells.append(cell("mse", statistics.median(found) if found else math.nan))
            else:
                cells.append(cell(name, mean(own, name)))
        count = str(len(own)) + (f" ({lost} failed)" if lost else "")
        back = "whole" if arm.way_back == "full" or not arm.skip else "own"
        rows.append([arm.name, count, arm.solver, back, *cells])
    known = [cell(name, floor[name]) if name in floor else "" for name in preset.columns]
    rows.append(["true Gaussian noise", "", "", "", *known])
    for arm_name, figures in preset.paper.items():
        printed = [f"{figures[name]:.3f}" if name in figures else "" for name in preset.columns]
        rows.append([f"paper: {'true Gaussian' if arm_name == GAUSSIAN else arm_name}", "", "", "", *printed])
    notes = [f"{name}: {why}" for name, why in plan.missing.items() if name in preset.columns]
    if any(row["set"] in (set_, "samples") for row in results.failed):
        notes.append(
            "Some failed: n and all means are of the pictures that every arm could do, leaving aside arms that failed "
            "on all; in the share of wins and in ratios of errors an arm that failed has lost."
        )
    against = [arm for arm in plan.arms if arm.against and "mse" in plan.metrics and "mse" in preset.columns]
    pairs = [f"{a.name} {said}" for a in against if (said := _log_ratio(results, a.name, a.against, set_))]
    if pairs:
        notes.append(
            "Mean over pictures of ln(base method's error / arm's), above 0 where the arm reconstructs better, +- "
            f"its standard error: {'; '.join(pairs)}."
        )
    if preset.paper:
        notes.append(f"The paper's figures are of {preset.paper_set}, with {preset.limit} pictures of 256x256 pixels; "
                     f"this is {plan.model}, with pictures of {plan.shape[2]}x{plan.shape[1]}: compare each with the "
                     f"Gaussian row of its own, not with each other.")  # fmt: skip
    return Table(f"{preset.title}: {set_}", ["arm", "n", "solver", "way back", *preset.columns], rows, notes)


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
                rows.append([name, "", *[_lacking(plan.missing[name])] * len(weights)])
                continue
            own = [row for row in found if (row["set"], row["distance"]) == (kind, name)]
            for arm in dict.fromkeys(row["arm"] for row in own):
                at = {row["weight"]: row for row in own if row["arm"] == arm}
                first = next(iter(at.values()))
                sizes.add(first["reference"])
                # One figure, where there is nothing that is blended: repeated, to be compared with in every column.
                cells = [f"{float(at.get(weight, first)['value']):.2f}" for weight in weights]
                rows.append([f"{name}: {arm}", first["pictures"], *cells])
        notes = [f"To {' and '.join(sorted(sizes))} pictures of the same kind that nothing was made of. {WEAK}"]
        used = sum(p.inverted and p.set == kind for p in results.pictures)
        if not plan.limit or used < plan.limit:
            known = sum(p.reference and p.set == kind for p in results.pictures)
            notes.append(
                f"{used} pictures were inverted and {known} are compared with, half of all each: there are not enough "
                f"for {plan.limit or 'all'} and {plan.options['reference']}."
            )
        if len(kinds) > 1:
            notes.append(
                "Pictures sampled directly are of every kind that the model draws: no bound for one kind alone."
            )
        notes += [f"{name}: {about(name)}" for name in preset.distances]
        notes += [f"{name}: {why}" for name, why in plan.missing.items() if name in preset.distances]
        columns = ["distance", "n", *(f"lambda {weight}" for weight in weights)]
        made.append(Table(f"{preset.title}: {kind}, as sets", columns, rows, notes))
    return made


def _curves(results: Results, preset: Preset) -> Table:
    rows = []
    for arm in results.plan.arms:
        own = [(float(r["sigma"]), float(r["curve"])) for r in results.of(arm.name)]
        if not own:
            rows.append([arm.name, *["failed"] * len(LEVELS)])
            continue
        nearest = [min(own, key=lambda at, level=level: abs(math.log(at[0] / level))) for level in LEVELS]  # type: ignore[misc]
        rows.append([arm.name, *(f"{value:.3f}" for _, value in nearest)])
    return Table(preset.title, ["|E[x0|x] - x| / (sigma sqrt d) at sigma", *(f"{level:g}" for level in LEVELS)], rows, [
        "Means over trajectories, at the levels of each schedule that are nearest to those named.",
    ])  # fmt: skip


def _samples(results: Results, preset: Preset) -> Table:
    rows = []
    for arm in results.plan.arms:
        own = results.of(arm.name)
        cells = {name: mean(own, name) for name in preset.columns}
        cells["distance_max"] = max(values(own, "distance_max"), default=math.nan)
        count = int(sum(values(own, "samples")))
        rows.append([arm.name, f"{count:,}", *(cell(name, value) for name, value in cells.items())])
    # Noise of that level across the manifold: a Rayleigh distance around a point, a half-normal one beside a line.
    level = TARGETS["eight-points"].sigma_min
    away = [cell("distance", level * math.sqrt(x)) for x in (math.pi / 2, 2 / math.pi)]
    rows.append(["the data: eight points", "", away[0], "", "1.414", "1.414", "0.125", "0.125"])
    rows.append(["the data: Gaussian on x axis", "", away[1], "", "1.000", "0.000", "", ""])
    note = f"Distances of the data are those of data with noise of sigma {level:g}."
    return Table(preset.title, ["distribution", "samples", *preset.columns], rows, [note])
