"""What an evaluation found, and the statistics over its rows that tables and plots share."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .images import Picture
from .plan import Plan
from .store import Row


@dataclass(frozen=True, eq=False)
class Results:
    """What an evaluation found."""

    plan: Plan
    folder: Path
    rows: list[Row]
    """In the order of the plan: arm, picture, repeat."""
    pictures: list[Picture]
    """Used and left out."""
    notes: tuple[str, ...]
    """What of the plan did not fit the model, in words."""
    mixed: str = ""
    """Under which different versions and numbers of threads its rows were computed; "" where they were the same."""

    def of(self, arm: str, set_: str | None = None) -> list[Row]:
        """Rows of an arm (and set) that did not fail."""
        return [r for r in self.rows if r["arm"] == arm and set_ in (None, r["set"]) and not r["failed"]]

    @property
    def sets(self) -> list[str]:
        """Kinds of pictures; none where an experiment is about no pictures."""
        return list(dict.fromkeys(r["set"] for r in self.rows if r["image"]))

    @property
    def failed(self) -> list[Row]:
        return [r for r in self.rows if r["failed"]]


def values(rows: Sequence[Row], name: str) -> list[float]:
    """One number a row; rows without one are left out."""
    return [float(row[name]) for row in rows if row.get(name, "") != ""]


def mean(rows: Sequence[Row], name: str) -> float:
    found = values(rows, name)
    return math.fsum(found) / len(found) if found else math.nan


def standard_error(rows: Sequence[Row], name: str) -> float:
    """Of `mean`, over pictures: rows of one picture (its seeds, or the weights of one blend) are not independent, and
    count as their mean. NaN for fewer than two pictures.
    """
    each: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row.get(name, "") != "":
            each.setdefault((row["set"], row["index"]), []).append(float(row[name]))
    means = [math.fsum(own) / len(own) for own in each.values()]
    return statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan


def share_error(share: float, n: int) -> float:
    """Of a share of n pictures: the standard deviation of Beta(k + 1, n - k + 1), which knows that 4 of 4 is not all.

    The plain sqrt(p (1 - p) / n) would say +- 0 there. NaN for no picture.
    """
    if n == 0 or math.isnan(share):
        return math.nan
    p = (share * n + 1) / (n + 2)
    return math.sqrt(p * (1 - p) / (n + 3))


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
