"""What an experiment is: a function from a `Lab` to an `Outcome`, registered under a name.

A new experiment is one function decorated with `@experiment`, in a module that `ssi_core.theory.catalogue` lists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError
from ..integration import hashed_seed
from ..report.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Task = Callable[[str, int, int], Any]
"""(part, done, of): told how far an experiment is."""


@dataclass(frozen=True)
class Finding:
    """One requirement and what was measured."""

    what: str
    required: str
    measured: str
    met: bool | None
    """None where nothing is required: reported only."""


@dataclass
class Outcome:
    """What an experiment gives."""

    findings: list[Finding]
    tables: list[Table]
    figures: dict[str, Figure]
    notes: list[str] = field(default_factory=list)


@dataclass
class Lab:
    """What an experiment is run with."""

    seed: int = 0
    scale: float = 1.0
    """How much is trained and sampled, as a multiple of what the requirement was measured with."""
    task: Task | None = None
    mnist: Path | None = None
    """Folder with MNIST's files, for `digits`."""

    def count(self, full: int, least: int = 1) -> int:
        """`full` of something, scaled."""
        return max(least, round(full * self.scale))

    @property
    def repeats(self) -> int:
        """How many repeats a mean is over: three, or one where a run is only to be tried out."""
        return 3 if self.scale >= 0.1 else 1

    def seed_of(self, purpose: str, repeat: int = 0) -> int:
        """The seed of one random stream (`hashed_seed`): no purpose, repeat or `seed` shares numbers with another.

        All randomness of an experiment comes from here. Methods that are compared share their streams within a repeat
        on purpose (same data, same first weights, same noise): what differs is then the method.
        """
        return hashed_seed(self.seed, purpose, repeat)

    def generator(self, purpose: str, repeat: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed_of(purpose, repeat))

    def tell(self, part: str, done: int, of: int) -> None:
        if self.task is not None:
            self.task(part, done, of)

    def watch(self, part: str) -> Callable[[int, int, object], None]:
        """A watcher for `train` and the samplers that shows them as `part`."""
        return lambda done, of, _: self.tell(part, done, of)


@dataclass(frozen=True)
class Experiment:
    """A registered experiment."""

    name: str
    title: str
    source: str
    """Where it stands in the papers."""
    shows: str
    """What to look for."""
    run: Callable[[Lab], Outcome]


EXPERIMENTS: dict[str, Experiment] = {}


def experiment(
    name: str, title: str, source: str, shows: str
) -> Callable[[Callable[[Lab], Outcome]], Callable[[Lab], Outcome]]:
    """Register an experiment."""

    def add(run: Callable[[Lab], Outcome]) -> Callable[[Lab], Outcome]:
        EXPERIMENTS[name] = Experiment(name, title, source, shows, run)
        return run

    return add


def find_experiment(name: str) -> Experiment:
    """The named experiment.

    Raises:
        InputError: there is none; the message lists the known ones.
    """
    if name not in EXPERIMENTS:
        raise InputError(f"experiment {name!r}: unknown; known are all, {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]
