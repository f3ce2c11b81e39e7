"""What a skip is chosen for.

A further goal is one definition here, given to `register`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import InputError


@dataclass(frozen=True)
class Search:
    """How a figure that falls with sigma is followed to the level wanted; slopes are d ln(figure) / d ln(1/sigma)."""

    trials: tuple[int, ...]
    """Evaluations of each trial: 1 is a look, more are a walk. After looks alone there is one walk at the answer."""
    first: float
    """Slope assumed after the first trial."""
    last: float
    """Slope assumed after the last one; smaller than the likely one errs on the side of more sigma."""
    down: float = 0.0
    """The least slope on the way to less sigma; larger than the likely one errs on the same side."""
    apart: float = 0.3
    """How far, in ln(sigma), two trials must lie apart for their slope to weigh as much as the assumed one."""
    safety: float = 1.0
    """By which the answer is raised."""

    @property
    def looks(self) -> bool:
        """Whether the trials are looks, which tell nothing of the noise."""
        return max(self.trials) == 1


@dataclass(frozen=True)
class Kind:
    """A registered goal."""

    name: str
    figure: str
    """Of `Trial`: what the goal is about."""
    about: str
    words: str
    """A format of the value, and of it in per cent, for messages."""
    search: Search
    keeps: bool = False
    """No less of the figure is wanted, so the largest sigma that keeps it; else no more, so the smallest."""
    decibels: bool = False
    bounds: tuple[float, float] | None = None
    """Open interval of values; None: the goal has no value, its figure is to be 1."""

    @property
    def form(self) -> str:
        """How it is written: `name`, or `name=VALUE`."""
        return self.name if self.bounds is None else f"{self.name}=VALUE"

    def log(self, figure: float) -> float:
        """ln of the figure, of decibels ln of the power that they stand for."""
        return figure * math.log(10) / 10 if self.decibels else math.log(max(figure, 1e-6))


GOALS: dict[str, Kind] = {}


def register(kind: Kind) -> Kind:
    """Make a goal known under its name."""
    GOALS[kind.name] = kind
    return kind


GAUSSIAN = register(
    Kind(
        "gaussian", "margin", "the smallest skip whose noise passes the verdict of Gaussianity", "the verdict",
        # Both ends of a margin's curve are flat or steep beyond what two walks tell: docs/beyond.md has the sweep.
        Search(trials=(3, 5), first=0.6, last=0.35, down=1.1, apart=1.0, safety=1.25),
    )
)  # fmt: skip
PSNR = register(
    Kind(
        "psnr", "psnr", "the largest skip that keeps so many dB of the picture", "{0:g} dB",
        Search(trials=(1, 1, 1, 1), first=1.2, last=1.2, apart=0.1), keeps=True, decibels=True, bounds=(0.0, 200.0),
    )
)  # fmt: skip
LEFTOVER = register(
    Kind(
        "leftover", "leftover", "the smallest skip that leaves no larger share of the noise that was not injected",
        "{1:.4g}% leftover", Search(trials=(3, 5), first=0.6, last=0.6), bounds=(0.0, 1.0),
    )
)  # fmt: skip


def number(value: object, what: str) -> float:
    """Any single number but a truth value, as one.

    Raises:
        InputError: it is none.
    """
    try:
        if isinstance(value, (bool, str, bytes)):
            raise TypeError
        return float(value)  # type: ignore[arg-type]  # whatever answers to float()
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise InputError(f"{what} {value!r} is not a number") from None


@dataclass(frozen=True)
class Goal:
    """A kind of goal with its value: `Goal()` passes the verdict, `Goal("psnr", 40)`, `Goal("leftover", 0.1)`."""

    name: str = GAUSSIAN.name
    value: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in GOALS:
            raise InputError(f"goal {self.name!r}: unknown; known are {', '.join(GOALS)}")
        if self.value is not None:
            object.__setattr__(self, "value", number(self.value, f"goal {self.name}: value"))
        bounds = self.kind.bounds
        if bounds is None and self.value is not None:
            raise InputError(f"goal {self.name}: takes no value, and has {self.value}")
        if bounds is not None and (self.value is None or not bounds[0] < self.value < bounds[1]):
            told = "needs a value" if self.value is None else f"{self.value:g} is out of reach; it must lie"
            raise InputError(f"goal {self.name}: {told} between {bounds[0]:g} and {bounds[1]:g}")

    @property
    def kind(self) -> Kind:
        return GOALS[self.name]

    @property
    def level(self) -> float:
        """Of the figure."""
        return 1.0 if self.value is None else self.value

    @staticmethod
    def parse(text: str) -> Goal:
        """`auto` (that is `gaussian`), `psnr=40` or `leftover=0.05`.

        Raises:
            InputError: anything else.
        """
        if not isinstance(text, str):
            raise InputError(f"skip {text!r}: no text; a goal such as 'auto' or 'psnr=40' is wanted")
        name, equals, value = text.strip().partition("=")
        name = GAUSSIAN.name if name == "auto" else name
        if name not in GOALS:
            known = ", ".join(kind.form for kind in GOALS.values())
            raise InputError(f"skip {text!r}: a sigma, auto, or one of {known} is wanted")
        try:
            level = float(value) if equals else None
        except ValueError:
            raise InputError(f"skip {text!r}: {value!r} is no number") from None
        return Goal(name, level)

    def lacks(self, worst: float) -> float:
        """ln of the figure over its level: 0 at the goal, above 0 where more sigma is needed or to be had."""
        return self.kind.log(worst) - self.kind.log(self.level)

    def __str__(self) -> str:
        return self.kind.words.format(self.level, 100 * self.level)
