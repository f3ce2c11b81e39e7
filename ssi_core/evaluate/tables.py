"""Rows summed up in the paper's layout: each arm's means, the floor of true Gaussian noise, and the paper's own."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch

from ..gaussianity import FIGURES, gaussianity
from ..report.tables import Table
from .metrics import METRICS
from .plan import Plan
from .preset import GAUSSIAN, Preset
from .results import Results, compared, mean, ratios, share_error, standard_error, values, wins
from .store import Row

ABOUT = {
    "solver": "of the inversion and of the way back",
    "way back": "sampled over the levels of the inversion (own) or over the whole schedule",
    "nfe": "evaluations of the network, there and back",
    "mse_median": "median of the same: a few pictures that fail badly move the mean, not it",
    "wins": "share of pictures on which the error is smaller than that of the base method in the same setting; who "
    "fails on a picture has lost it",
}
"""What the columns of `means` are, beside metrics."""
UNCERTAIN = "+- s.e."
"""The first cell of a row that says how far the means above it can be trusted."""

_FORMATS = {"nfe": ".0f", "psnr": ".1f", "gaussian": ".0%", "wins": ".0%", "mse": ".5f", "mse_median": ".5f",
            "brisque": ".1f", "chan": ".4f", "std": ".3f", "chi_z": ".1f"}  # fmt: skip
_ERRORS = (
    f"{UNCERTAIN}: standard error of the mean over pictures (or pairs: blends of one pair count as their mean); of a "
    "share, the deviation of Beta(k + 1, n - k + 1), which is not 0 where all or none pass. Few pictures give a rough "
    "one, a heavy tail (see the median) one too small."
)


def floors(shape: tuple[int, int, int]) -> dict[str, float]:
    """What true Gaussian noise of a shape reaches, by figure."""
    floor = gaussianity(torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))).floor
    return {name: float(getattr(floor, name)) for name in FIGURES} | {"gaussian": 1.0, "cosine": 0.0, "norm": 1.0}


def cell(name: str, value: float) -> str:
    return "" if math.isnan(value) else format(value, _FORMATS.get(name, ".3f"))


def lacking(why: str) -> str:
    """In a cell; how to get it stands below the table."""
    what = why.partition(":")[0]
    return f"{what}, see below" if what in ("weights missing", "package missing") else "not computed, see below"


def means(results: Results, preset: Preset, set_: str) -> Table:
    """One line of means for each arm, and of their standard errors where there is more than one picture."""
    plan, rows = results.plan, []
    kept = compared(results, set_)
    for arm in plan.arms:
        own = kept[arm.name]
        lost = sum(r["arm"] == arm.name and r["set"] in (set_, "samples") for r in results.failed)
        # Of pictures that an arm failed on too, unlike the means: it has lost them.
        judged = len(ratios(results, arm.name, arm.against, set_)) if "wins" in preset.columns else 0
        share = wins(results, arm.name, arm.against, set_) if judged else math.nan
        count = str(len(own)) + (f" ({lost} failed)" if lost else "")
        back = "whole" if arm.way_back == "full" or not arm.skip else "own"
        rows.append([arm.name, count, arm.solver, back, *(_mean(plan, own, name, share) for name in preset.columns)])
        won = cell("wins", share_error(share, judged)) if judged > 1 else ""
        errors = [won if name == "wins" else _error(own, name) for name in preset.columns]
        if any(errors):
            rows.append([UNCERTAIN, "", "", "", *errors])
    uncertain = any(row[0] == UNCERTAIN for row in rows)
    floor = floors(plan.shape)
    known = [cell(name, floor[name]) if name in floor else "" for name in preset.columns]
    rows.append(["true Gaussian noise", "", "", "", *known])
    for arm_name, figures in preset.paper.items():
        printed = [f"{figures[name]:.3f}" if name in figures else "" for name in preset.columns]
        rows.append([f"paper: {'true Gaussian' if arm_name == GAUSSIAN else arm_name}", "", "", "", *printed])
    notes = [f"{name}: {why}" for name, why in plan.missing.items() if name in preset.columns]
    notes += [_ERRORS] if uncertain else []
    if any(row["set"] in (set_, "samples") for row in results.failed):
        notes.append(
            "Some failed: n and all means are of the pictures that every arm could do, leaving aside arms that failed "
            "on all; in the share of wins and in ratios of errors an arm that failed has lost."
        )
    against = [arm for arm in plan.arms if arm.against and "mse" in plan.metrics and "mse" in preset.columns]
    logs = [f"{a.name} {said}" for a in against if (said := _log_ratio(results, a.name, a.against, set_))]
    if logs:
        notes.append(
            "Mean over pictures of ln(base method's error / arm's), above 0 where the arm reconstructs better, +- "
            f"its standard error: {'; '.join(logs)}."
        )
    if preset.paper:
        notes.append(f"The paper's figures are of {preset.paper_set}, with {preset.limit} pictures of 256x256 pixels; "
                     f"this is {plan.model}, with pictures of {plan.shape[2]}x{plan.shape[1]}: compare each with the "
                     f"Gaussian row of its own, not with each other.")  # fmt: skip
    return Table(f"{preset.title}: {set_}", ["arm", "n", "solver", "way back", *preset.columns], rows, notes)


def _mean(plan: Plan, own: Sequence[Row], name: str, share: float) -> str:
    if name in plan.missing:
        return lacking(plan.missing[name])
    if name == "wins":
        return cell(name, share)
    if name == "mse_median":
        found = values(own, "mse")
        return cell(name, statistics.median(found) if found else math.nan)
    return cell(name, mean(own, name))


def _error(own: Sequence[Row], name: str) -> str:
    """ "" for what is no mean over pictures, or of too few."""
    pictures = len({(row["set"], row["index"]) for row in own})
    if name == "nfe" or pictures < 2:
        return ""
    if name == "gaussian":
        return cell(name, share_error(mean(own, name), pictures))
    error = standard_error(own, name)
    shown = cell(name, error)
    # An error that its column's digits would round to 0 is given with one of its own.
    return f"{error:.1g}" if shown and error and float(shown) == 0 else shown


def _log_ratio(results: Results, arm: str, against: str, set_: str) -> str:
    """Mean and standard error of the log of `ratios`, of those that neither arm failed on; "" for fewer than two."""
    logs = [math.log(ratio) for ratio in ratios(results, arm, against, set_) if 0 < ratio < math.inf]
    if len(logs) < 2:
        return ""
    return f"{statistics.mean(logs):.2f} +- {statistics.stdev(logs) / math.sqrt(len(logs)):.2f} (n {len(logs)})"


def legend(words: dict[str, str], columns: Sequence[str]) -> list[tuple[str, str]]:
    """What columns mean, in their order.

    Args:
        words: an experiment's own, by column.
        columns: those of its table.
    """
    known = {**{name: metric.about for name, metric in METRICS.items()}, **words}
    return [(name, known[name]) for name in columns if name in known]
