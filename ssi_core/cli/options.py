"""Options that commands share, alone and in groups, and the model that they name."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import torch
import typer
from torch import Tensor

from ..demo import DEMO_MODELS, DemoDenoiser, demo_denoiser
from ..demo.scenes import CLASSES
from ..denoiser import Guided
from ..errors import InputError
from ..goal import GOALS, Goal
from ..injection import DEFAULT_INJECTION, INJECTIONS, find_injection
from ..inversion import DEFAULT_SOLVER
from ..models import load_checkpoint
from ..models.commands import describe
from ..models.load import usable
from ..models.pixel import Conditioned, PixelModel
from ..models.presets import PRESETS, Preset
from ..schedule import exponential_sigmas, flow_sigmas, karras_sigmas
from ..skip import DEFAULT_SKIP
from ..solver import SOLVERS, find_solver

DTYPES = {
    "float32": torch.float32, "fp32": torch.float32, "float16": torch.float16, "fp16": torch.float16,
    "half": torch.float16, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
}  # fmt: skip
SCHEDULES = {"karras": karras_sigmas, "exponential": exponential_sigmas, "flow": flow_sigmas}
AUTO = "auto"
"""Instead of a schedule: "flow" for flow models, "karras" for all others."""

Loaded = DemoDenoiser | Conditioned | Guided
Out = Annotated[Path, typer.Option(help="Folder for the results; made if it is missing.")]
Model = Annotated[
    str,
    typer.Option(
        help=f"{', '.join(f'`{name}`' for name in DEMO_MODELS)} (shipped with this package), or a checkpoint: see "
        "`ssi models`."
    ),
]
Device = Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda`, `cuda:1`, `mps`.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="name=value: what a checkpoint does not tell itself.")]
Label = Annotated[
    str | None, typer.Option(help="Class, for class-conditional models: its number, or its name where they have names.")
]
Dtype = Annotated[
    str,
    typer.Option(
        help="In which a checkpoint computes. float16 changes the estimate by up to 0.2% of its deviation, bfloat16 by "
        "up to 2%."
    ),
]
Steps = Annotated[
    int, typer.Option(min=1, max=100_000, help="Noise levels of the whole schedule, sigma_max to sigma_min.")
]
Skip = Annotated[
    str,
    typer.Option(
        help="sigma_skip: noise added before inverting. 0: the base method. Or chosen for each picture, by "
        f"auto (gaussian) or another goal: {'; '.join(f'{kind.form}: {kind.about}' for kind in GOALS.values())}."
    ),
]
Inject = Annotated[str, typer.Option(help=f"How the noise is added, one of: {', '.join(INJECTIONS)}.")]
Solve = Annotated[str, typer.Option(help=f"One of: {', '.join(SOLVERS)}.")]
Schedule = Annotated[
    str, typer.Option(help=f"{AUTO} (flow for flow models, else karras), or one of: {', '.join(SCHEDULES)}.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the added noise; image i gets seed + i.")]


@dataclass(frozen=True)
class NetworkOptions:
    """Which network, and where it runs."""

    model: Model = "demo"
    device: Device = "auto"
    set_: Set = None
    dtype: Dtype = "float32"

    def of_class(self, label: str | None) -> Chosen:
        """What they name, before its weights are read, as the denoiser of a class.

        Raises:
            InputError: there is none, it cannot be used, or it leaves questions open.
        """
        device, dtype = usable_device(self.device), usable_dtype(self.dtype)
        if self.model in DEMO_MODELS:
            if self.set_ or dtype != torch.float32:
                raise InputError(f"model {self.model!r}: needs no --set and computes in float32; leave them out")
            denoise = demo_denoiser(device, name=self.model)
            return Chosen(denoise.image_size, denoise.classes, label, lambda: denoise)
        if not Path(self.model).exists():
            shipped = ", ".join(map(repr, DEMO_MODELS))
            raise InputError(f"model {self.model!r}: unknown; neither shipped with this package ({shipped}) nor a file")
        arguments, known_as = read_settings(self.set_)
        found = describe(self.model, name=known_as, overrides=arguments)
        if found.undecided is not None:
            raise found.undecided
        if found.image_size is None:
            raise InputError(f"model {self.model}: does not tell its image size; say it with --set image_size=256")
        if found.num_classes and label is None and not found.null_label:
            raise InputError(f"model {self.model}: has {found.num_classes} classes; choose one with --label")
        classes = tuple(map(str, range(found.num_classes)))
        return Chosen(found.image_size, classes, label, lambda: load_checkpoint(
            self.model, device=device, dtype=dtype, name=known_as, **arguments
        ))  # fmt: skip


@dataclass(frozen=True)
class ModelOptions(NetworkOptions):
    """A network, and the class that it is asked for."""

    label: Label = None

    def chosen(self) -> Chosen:
        """What they name, before its weights are read; raises as `of_class`."""
        return self.of_class(self.label)

    def denoiser(self) -> Loaded:
        """The model that they name; raises as `of_class`."""
        return self.chosen().load()


@dataclass(frozen=True)
class ClassesOptions(NetworkOptions):
    """A network that is asked for several classes."""

    model: Model = "demo-classes"


class Chosen:
    """A model that can be loaded, and its class.

    Args:
        image_size: what pictures are fitted to.
        classes: names of the model's classes, in the order of their numbers.
        label: the class by name or number; None for none.
        read: loads the model itself, without a class.

    Raises:
        InputError: the model has no such class.
    """

    def __init__(
        self,
        image_size: int,
        classes: Sequence[str],
        label: str | None,
        read: Callable[[], DemoDenoiser | PixelModel],
    ) -> None:
        self.image_size, self.classes, self._read = image_size, classes, read
        self.label = None if label is None else self.number(label)

    def number(self, label: str) -> int:
        """A class's number, from its name or number; raises InputError where there is none."""
        if label in self.classes:
            return self.classes.index(label)
        if label.isascii() and label.isdigit() and int(label) < len(self.classes):
            return int(label)
        if not self.classes:
            other = f"--model demo-classes, which knows {label!r}" if label in CLASSES else "one that has"
            raise InputError(f"label {label}: the model has no classes; leave it out, or use {other}")
        named = "" if self.classes[0].isdigit() else f": {', '.join(self.classes)}"
        raise InputError(f"label {label}: the model has {len(self.classes)} classes (counted from 0){named}")

    def read(self) -> DemoDenoiser | PixelModel:
        """The model itself, without a class."""
        return self._read()

    def load(self) -> Loaded:
        """The model as a denoiser of its class."""
        return self.read().conditioned(self.label)


@dataclass(frozen=True)
class InversionOptions:
    """How pictures become noise."""

    steps: Steps = 20
    skip: Skip = f"{DEFAULT_SKIP:g}"
    solver: Solve = DEFAULT_SOLVER
    schedule: Schedule = AUTO
    seed: Seed = 0
    injection: Inject = DEFAULT_INJECTION

    @property
    def begin(self) -> float | Goal:
        """`skip`, read.

        Raises:
            InputError: it is neither a number of at least 0 nor a goal.
        """
        try:
            number = float(self.skip)
        except ValueError:
            return Goal.parse(self.skip)
        if not number >= 0:
            raise InputError(f"skip {self.skip}: must be 0 or a positive sigma")
        return number

    def check(self) -> None:
        """Raise InputError for a schedule, skip, injection or solver that cannot be; needs no model."""
        self.check_injection(self.begin)
        if self.schedule not in (AUTO, *SCHEDULES):
            raise InputError(f"schedule {self.schedule!r}: unknown; known are {AUTO}, {', '.join(SCHEDULES)}")
        find_solver(self.solver)

    def check_injection(self, skip: float | Goal) -> None:
        """Raise InputError for an injection that is unknown, or that has nothing to do at this skip."""
        if find_injection(self.injection).name != DEFAULT_INJECTION and skip == 0:
            raise InputError(f"injection {self.injection!r}: skip 0 adds no noise, so it would do nothing; give a skip")

    def sigmas(self, denoise: Loaded) -> Tensor:
        """The schedule, over the model's range.

        Raises:
            InputError: a flow's schedule for another model, or the other way round.
        """
        is_flow = bool(getattr(denoise, "is_flow", False))
        name = self.schedule if self.schedule != AUTO else "flow" if is_flow else "karras"
        if is_flow != (name == "flow"):
            why = "is not for flow models, and this is one" if is_flow else "is for flow models, and this is none"
            raise InputError(f"schedule {name!r}: {why}; use --schedule {AUTO}")
        schedule = SCHEDULES[name]
        return schedule(self.steps, sigma_min=denoise.sigma_min, sigma_max=denoise.sigma_max)


def preset_named(name: str, context: typer.Context) -> Preset:
    """A preset, which says by itself what the options of a schedule say.

    Raises:
        InputError: there is none of that name, or such an option was given beside it.
    """
    if name not in PRESETS:
        raise InputError(f"preset {name!r}: unknown; known are {', '.join(PRESETS)}")
    given = [f"--{option}" for option in ("steps", "skip", "solver", "schedule")
             if getattr(context.get_parameter_source(option), "name", "") == "COMMANDLINE"]  # fmt: skip
    if given:
        raise InputError(f"preset {name!r}: says by itself what {', '.join(given)} says; leave out one or the other")
    return PRESETS[name]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command as Typer wants it: each parameter that is a dataclass becomes one option for each of its fields."""

    def parameters(name: str, default: Any, kind: Any) -> list[Parameter]:
        if is_dataclass(kind):
            hints = get_type_hints(kind, include_extras=True)
            return [
                Parameter(f.name, Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
                for f in fields(kind)
            ]
        return [Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)]

    kinds = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in kinds.items() if is_dataclass(kind)}
    flat = [one for p in signature(command).parameters.values() for one in parameters(p.name, p.default, kinds[p.name])]

    @wraps(command)
    def run(**given: Any) -> None:
        made = {name: kind(**{f.name: given.pop(f.name) for f in fields(kind)}) for name, kind in groups.items()}  # type: ignore[operator]
        command(**given, **made)

    run.__signature__ = Signature(flat)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return run


def usable_device(name: str) -> str:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return str(usable(name))


def usable_dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise InputError(f"dtype {name!r}: unknown; one of {', '.join(DTYPES)} is wanted")
    return DTYPES[name]


def read_settings(given: list[str] | None) -> tuple[dict[str, Any], str | None]:
    """`--set` options as arguments of `load_checkpoint`, and the published name among them."""
    arguments: dict[str, Any] = {}
    for setting in given or []:
        name, equals, value = setting.partition("=")
        if not equals or not name.isidentifier() or name in ("path", "device", "dtype", "progress", "layers"):
            raise InputError(f"--set {setting}: give name=value, as in --set num_head_channels=64")
        try:
            arguments[name] = json.loads(value.lower() if value in ("True", "False") else value)
        except ValueError:
            arguments[name] = value
    known_as = arguments.pop("name", None)
    return arguments, None if known_as is None else str(known_as)


def settings(names: Sequence[str]) -> str:
    """How arguments of `load_checkpoint` are given here."""
    return " ".join(f"--set {name}=..." for name in names)
