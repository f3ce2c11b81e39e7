"""What is evaluated: a model, pictures, and the ways (arms) in which they are inverted. Data only, saved as JSON."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from ..artifact import write_text
from ..errors import InputError
from ..inversion import DEFAULT_SOLVER
from ..process import DiscreteVP, Process
from ..schedule import ddim_sigmas, karras_sigmas

FORMAT = 2
FILE = "plan.json"
PRECISIONS = ("float32", "bfloat16", "float16")
WAYS_BACK = ("own", "full")
NO_NAME = frozenset('/\\:*?"<>|')
"""Characters that a folder's name cannot have on some system."""


@dataclass(frozen=True)
class Arm:
    """One way to invert; sampling is done with the same solver."""

    name: str
    steps: int = 0
    """Levels of the whole Karras schedule; 0 where `kappa` or the study says which levels."""
    skip: float = 0.0
    """sigma_skip; 0 is the base method."""
    solver: str = DEFAULT_SOLVER
    kappa: tuple[int, int, int] | None = None
    """start, stop, step of DDIM indices of the model's own levels (`levels_of`)."""
    skip_index: int | None = None
    """The index whose sigma `skip` is; None where `skip` is given itself (`fitted`)."""
    against: str = ""
    """The arm that this one's reconstructions are compared with, picture by picture."""
    precision: str = "float32"
    """What the denoiser is given, computes and gives; the solver's own arithmetic stays float32. No TF32
    (`bench.whole_float32`)."""
    way_back: str = "own"
    """What the noise is sampled over: the "own" levels of its inversion, which end in one denoising at the skip; or the
    "full" schedule, as the paper's sampling is. The same for the base method."""
    target: str = "model"
    """What is evaluated: the plan's "model", "samples" that it makes of Gaussian noise without any picture, the exact
    denoiser of a few pictures ("memory"), or a distribution in the plane (`exact.TARGETS`)."""

    def __post_init__(self) -> None:
        """
        Raises:
            InputError: an unknown precision or way back, or a name that no folder can have: pictures of results lie
                in one of it.
        """
        name = self.name
        if not name.isprintable() or NO_NAME & set(name) or name.strip(" .") != name or not 0 < len(name) <= 100:
            raise InputError(
                f"arm {name!r}: its name is a folder's too: 1 to 100 printable characters, none of "
                f"{' '.join(sorted(NO_NAME))}, no space or dot at its ends"
            )
        for what, found, known in (("precision", self.precision, PRECISIONS), ("way back", self.way_back, WAYS_BACK)):
            if found not in known:
                raise InputError(f"arm {name!r}: {what} {found!r} is unknown; known are {', '.join(known)}")

    def fitted(self, process: Process) -> Arm:
        """With the skip that its index means in a model's own levels.

        Raises:
            InputError: the model has no level of that index.
        """
        if self.skip_index is None:
            return self
        levels = levels_of(process)
        if self.skip_index >= len(levels.sigmas):
            raise InputError(
                f"arm {self.name!r}: adds noise up to level {self.skip_index}, of a model that has "
                f"{len(levels.sigmas)}; this preset is for another kind of model"
            )
        return replace(self, skip=float(levels.sigmas[self.skip_index]))

    def sigmas(self, low: float, high: float, process: Process) -> tuple[Tensor, str]:
        """The schedule within a model's range, and in words what of it did not fit ("" where all did).

        Args:
            low, high: the model's smallest and largest sigma.
            process: the model's own; DDIM indices are of its levels.

        Returns:
            ([n + 1] float64, falling, ending in 0; note).

        Raises:
            InputError: fewer than half of the levels lie within the range.
        """
        if self.kappa is None:
            ends = max(0.002, low), min(80.0, high)
            note = "" if ends == (0.002, 80.0) else f"Karras levels from {ends[0]:g} to {ends[1]:g}"
            return karras_sigmas(self.steps, sigma_min=ends[0], sigma_max=ends[1]), note
        own = levels_of(process)
        if len(own.sigmas) < self.kappa[1]:
            raise InputError(
                f"arm {self.name!r}: takes DDIM levels up to {self.kappa[1] - 1}, of a model that has "
                f"{len(own.sigmas)}; this preset is for another kind of model"
            )
        levels = ddim_sigmas(range(*self.kappa), own)[:-1]
        kept = levels[(levels <= high * (1 + 1e-6)) & (levels >= low * (1 - 1e-6))]
        if 2 * len(kept) < len(levels):
            raise InputError(
                f"arm {self.name!r}: {len(kept)} of its {len(levels)} DDIM levels lie within the model's range, "
                f"{low:g} to {high:g}; this preset is for another kind of model"
            )
        notes = []
        if own is not process:
            notes.append("it has no discrete levels of its own: DDIM takes those of the paper's models")
        if len(kept) < len(levels):
            notes.append(f"{len(kept)} of {len(levels)} DDIM levels lie within the model's {low:g} to {high:g}")
        return kept, "; ".join(notes)


PAPERS = DiscreteVP("linear")
"""The levels of the paper's DDIM models."""


def levels_of(process: Process) -> DiscreteVP:
    """A model's own discrete levels; those of the paper's DDIM models where it has none."""
    return process if isinstance(process, DiscreteVP) else PAPERS


@dataclass(frozen=True)
class Plan:
    """Everything that decides what an evaluation's table says."""

    preset: str
    study: str
    """Which kind of experiment (`study.STUDIES`)."""
    model: str
    """As it was named."""
    signature: str
    """Which weights these are."""
    images: str
    """The folder, absolute; or "demo"."""
    limit: int
    """Pictures at most (of each set); 0 for all."""
    arms: tuple[Arm, ...]
    shape: tuple[int, int, int] = (3, 0, 0)
    """Channels, height and width that the model takes; the floors of the noise's figures depend on it."""
    seed: int = 0
    """Of the order of the pictures, and of the noise: picture i has seed + i."""
    batch: int = 16
    """Pictures inverted together. The composition of batches is fixed by this number alone, so that a table does not
    depend on how many processes made it, nor on where it was interrupted."""
    device: str = "cpu"
    """Its kind: "cpu", "cuda". Another one rounds otherwise."""
    metrics: tuple[str, ...] = ()
    """Metrics that could be computed when the plan was made (`metrics.METRICS`)."""
    missing: dict[str, str] = field(default_factory=dict)
    """Those that could not, and how to get them: in words that name folders of this machine, so that only which they
    are belongs to the plan (`digest`, `same`)."""
    options: dict[str, Any] = field(default_factory=dict)
    """The study's own, by name; JSON-serialisable."""
    reference: str = ""
    """The folder, absolute, of pictures that results are compared with as a set; "" for others of `images`."""
    format: int = FORMAT

    def __post_init__(self) -> None:
        """
        Raises:
            InputError: two arms of one name (rows and folders are told apart by it), or an arm that is compared with
                none of these.
        """
        names = [arm.name for arm in self.arms]
        for arm in self.arms:
            if sum(name.casefold() == arm.name.casefold() for name in names) > 1:
                raise InputError(f"arm {arm.name!r}: two arms have this name; give each its own")
            if arm.against and arm.against not in names:
                raise InputError(f"arm {arm.name!r}: is compared with {arm.against!r}; known are {', '.join(names)}")

    @cached_property
    def digest(self) -> str:
        """12 hexadecimal digits that every row of its results carries; the same on every machine."""
        return hashlib.sha256(json.dumps(self._deciding(), sort_keys=True).encode()).hexdigest()[:12]

    def facts(self) -> dict[str, Any]:
        """As plain data, the same before and after a round trip through JSON."""
        facts: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return facts

    def _deciding(self) -> dict[str, Any]:
        """The facts that results depend on."""
        return {**self.facts(), "missing": sorted(self.missing)}

    def folder_of(self, *, reference: bool) -> str:
        """Where pictures are read from: those to be inverted, or those to compare with."""
        return (reference and self.reference) or self.images

    def save(self, folder: Path) -> None:
        write_text(folder / FILE, json.dumps(self.facts(), indent=1) + "\n")

    @staticmethod
    def load(folder: Path) -> Plan:
        """The plan of a folder of results.

        Raises:
            InputError: there is none, it is damaged, or of a newer version.
        """
        path = folder / FILE
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            if facts["format"] > FORMAT:
                raise InputError(f"plan {path}: format {facts['format']} is newer than this version reads; update")
            arms = tuple(Arm(**{**a, "kappa": tuple(a["kappa"]) if a["kappa"] else None}) for a in facts.pop("arms"))
            return Plan(arms=arms, metrics=tuple(facts.pop("metrics")), shape=tuple(facts.pop("shape")), **facts)
        except FileNotFoundError:
            raise InputError(f"plan {path}: no such file; is {folder} a folder that `ssi evaluate` wrote?") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"plan {path}: is damaged ({error!r}); delete the folder and begin again") from error

    def same(self, there: Plan, folder: Path) -> None:
        """Refuse to continue another plan.

        Raises:
            InputError: naming what differs.
        """
        ours, theirs = self._deciding(), there._deciding()
        apart = [f.name for f in fields(Plan) if ours[f.name] != theirs[f.name]]
        if apart:
            shown = "; ".join(
                f"{name}: {theirs[name]!r:.60} there, {ours[name]!r:.60} here" if name != "arms" else "other arms"
                for name in apart
            )
            raise InputError(
                f"output {folder}: holds results of another plan ({shown}); use another folder for --out, or delete it"
            )
