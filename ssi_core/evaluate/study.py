"""The kinds of experiment by name. A new kind is one class like `bench.Study`, tables included, listed here."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import DenoiserError
from .bench import Bench, Rows, Study, Unit
from .interpolations import Interpolations
from .plan import Plan
from .round_trips import RoundTrips, Seeds
from .trajectories import Curves, Samples

__all__ = ["STUDIES", "Bench", "Study", "Unit", "failed_rows"]

STUDIES: dict[str, Study] = {
    "round-trips": RoundTrips(), "seeds": Seeds(), "interpolations": Interpolations(), "curves": Curves(),
    "samples": Samples(),
}  # fmt: skip


def failed_rows(study: Study, plan: Plan, unit: Unit, error: DenoiserError) -> Iterator[Rows]:
    """Rows that say that the model failed, for every picture of a unit: its numbers stay empty."""
    blank = dict.fromkeys(study.columns(plan), None)
    yield [{**blank, "repeat": int(repeat), "failed": str(error)} for _, _, repeat in unit.keys]
