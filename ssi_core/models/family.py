"""What a checkpoint family has to say about its files.

A new family is one class like `Family`, listed in `recognise.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from ..denoiser import Denoiser, Network
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


@dataclass(frozen=True)
class Question:
    """Something that the tensors do not tell."""

    arguments: tuple[str, ...]
    """The overrides that answer it; one is enough."""
    choices: str
    """Which answers exist, for the message."""


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


class Family(Protocol):
    """The files of one training code base."""

    name: ClassVar[str]
    arguments: ClassVar[frozenset[str]]
    """Overrides that mean something."""
    inert: ClassVar[frozenset[str]]
    """Further constructor arguments of the originals; they do not change what a loaded model computes."""
    defaults: ClassVar[Mapping[str, Any]]
    """What the original assumes where nothing is said and files do not differ in practice."""
    prefix: ClassVar[str]
    """What the names of the network's tensors start with."""
    null_label: ClassVar[bool]
    """Whether a class-conditional network can be asked without a class."""

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

    def questions(self, facts: Facts) -> list[Question]:
        """What is still open."""
        ...

    def image_size(self, facts: Facts) -> int | None:
        """Height and width in pixels, as far as it shows."""
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
    signature: str
    names: list[str] = field(default_factory=list)
    """Published files that it can be; one where that is certain."""
    questions: list[Question] = field(default_factory=list)
    """What is still open; a model can be loaded only when nothing is."""
