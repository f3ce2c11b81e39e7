"""What a checkpoint family has to say about its files.

A new family is one class like `Family`, listed in `recognise.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from ..denoiser import Denoiser, Network
from ..errors import InputError
from ..process import Process
from .layers import Layers

Facts = dict[str, Any]
"""Argument name of the original's constructors -> value."""


@dataclass(frozen=True)
class Tensors:
    """What recognition sees of a file: names and shapes, and the values of small tensors."""

    shapes: Mapping[str, tuple[int, ...]]
    value: Callable[[str], Tensor]

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def under(self, prefix: str) -> list[str]:
        """The names that start with `prefix`."""
        return [name for name in self.shapes if name.startswith(prefix)]

    def size(self, *candidates: tuple[str, int], default: int) -> int:
        """The size that each of several (name, dimension) has in a whole file: of the first one that is there.

        Where none is, `default` will do: the network is then built with tensors that the file lacks, and the error
        names them all.
        """
        for name, dimension in candidates:
            shape = self.shapes.get(name, ())
            if len(shape) > dimension and shape[dimension] > 0:
                return shape[dimension]
        return default


@dataclass(frozen=True)
class Question:
    """Something that the tensors do not tell."""

    arguments: tuple[str, ...]
    """The overrides that answer it; one is enough."""
    choices: str
    """Which answers exist, for the message."""
    of_meaning: bool = False
    """It concerns only how the network's output is read: the network itself can be built and run without an answer."""
    stand_in: Mapping[str, Any] = field(default_factory=dict)
    """An answer under which the network has the same tensors, to check them by."""


class Undecided(InputError):
    """A checkpoint leaves questions open.

    Args:
        path: the file.
        family: whose it is.
        questions: what is open, one or more.
        names: published files that it can be.
    """

    def __init__(self, path: str | Path, family: str, questions: Sequence[Question], names: Sequence[str]) -> None:
        self.path, self.family, self.questions, self.names = path, family, tuple(questions), tuple(names)
        super().__init__(self.worded(lambda named: f"load_checkpoint(path, {', '.join(f'{n}=...' for n in named)})"))

    def worded(self, example: Callable[[Sequence[str]], str]) -> str:
        """The message; `example` shows how arguments of these names are given where the reader is."""
        choices = "; ".join(question.choices for question in self.questions)
        answers = example([question.arguments[0] for question in self.questions])
        alike = f" Or say which published file it is, as in {example(['name'])}: {', '.join(self.names)}."
        return (
            f"{self.path}: is a {self.family} model, but its tensors do not tell everything. Choices: {choices}. "
            f"Say which, as in {answers}.{alike if self.names else ''}"
        )


@dataclass(frozen=True)
class Meaning:
    """How a network's output is to be read."""

    precondition: Callable[[Network], Denoiser]
    process: Process
    sigma_min: float
    sigma_max: float
    """The range of noise levels the model was trained on."""
    parametrisation: str
    """In words, for people."""
    schedule: str
    """In words, for people."""

    def __post_init__(self) -> None:
        """
        Raises:
            InputError: the range is none.
        """
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise InputError(
                f"its noise levels would reach from {self.sigma_min:g} to {self.sigma_max:g}; correct sigma_min and "
                "sigma_max, or the arguments of its schedule"
            )


class Family(Protocol):
    """The files of one training code base."""

    name: ClassVar[str]
    arguments: ClassVar[frozenset[str]]
    """Overrides that mean something."""
    inert: ClassVar[frozenset[str]]
    """Further constructor arguments of the originals; they do not change what a loaded model computes."""
    defaults: ClassVar[Mapping[str, Any]]
    """What the original assumes where nothing is said and files do not differ in practice."""
    carried_by: ClassVar[Mapping[str, str]]
    """Argument -> the tensor whose presence alone tells it."""
    prefix: ClassVar[str]
    """What the names of the network's tensors start with."""
    alternatives: ClassVar[tuple[str, ...]]
    """Arguments that say the same thing in several ways: who gives one means none of the others."""
    null_label: ClassVar[bool]
    """Whether a class-conditional network can be asked without a class."""
    class_weights: ClassVar[bool]
    """Whether labels reach the network as weights of all classes, [B, classes], not as whole numbers, [B]."""
    boundless: ClassVar[bool]
    """Whether a range of noise levels may be stated as 0 to infinity, which then says nothing."""

    def matches(self, tensors: Tensors) -> bool:
        """Whether the file is of this family, however damaged."""
        ...

    def read(self, tensors: Tensors) -> Facts:
        """Everything the tensors determine.

        Raises:
            InputError: they contradict each other, or the file is a relative that this family cannot run.
        """
        ...

    def translate(self, overrides: Mapping[str, Any], known: Facts) -> Facts:
        """Overrides in the words of `read` (num_channels is model_channels, ...)."""
        ...

    def hints(self, filename: str, given: Mapping[str, Any], facts: Facts) -> Iterable[tuple[Facts, str]]:
        """What the file's name and the arguments given suggest without saying it, beyond the facts known so far: in
        rising authority, each with where it comes from, in words for people."""
        ...

    def questions(self, facts: Facts) -> list[Question]:
        """What is still open."""
        ...

    def usual_size(self, known: Facts) -> int | None:
        """Height and width in pixels that a network of this shape usually has."""
        ...

    def image_size(self, facts: Facts) -> int | None:
        """Height and width it was trained on, in pixels; None where nothing says so."""
        ...

    def size_multiple(self, facts: Facts) -> int:
        """What height and width must be multiples of."""
        ...

    def num_classes(self, facts: Facts) -> int:
        """0: unconditional."""
        ...

    def identity(self, facts: Facts) -> Facts:
        """Those facts that change what is computed, in words that are the same however they were said."""
        ...

    def network(self, facts: Facts, layers: Layers) -> nn.Module:
        """Build the network; its own state_dict has the file's names without the prefix."""
        ...

    def meaning(self, facts: Facts, tensors: Tensors) -> Meaning:
        """How to read its output."""
        ...

    def own(self, tensors: Tensors) -> set[str]:
        """Tensors of the file that belong to no network."""
        ...


@dataclass
class Recognised:
    """A file's family and complete configuration, and where each fact comes from."""

    family: Family
    facts: Facts
    sources: dict[str, str]
    architecture: str
    """Hash of all names and shapes: the same for every file of that architecture, whatever its weights."""
    names: list[str] = field(default_factory=list)
    """Published files that it can be; one where that is certain."""
    questions: list[Question] = field(default_factory=list)
    """What is still open. While the network is concerned, nothing can be loaded."""

    @property
    def image_size(self) -> int | None:
        """Height and width it was trained on, in pixels; None where nothing says so."""
        return self.family.image_size(self.facts)

    @property
    def num_classes(self) -> int:
        """0: unconditional."""
        return self.family.num_classes(self.facts)

    @property
    def of_network(self) -> bool:
        """Whether anything is open that the network depends on."""
        return not all(question.of_meaning for question in self.questions)
