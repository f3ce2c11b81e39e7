"""Distributions by name."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..errors import InputError
from .curve import Spiral
from .directional import RotationTori, SphereModes
from .distribution import Distribution
from .mixtures import circle_of_points, gaussian_line, hyperplane, random_points

DISTRIBUTIONS: dict[str, Callable[[], Distribution]] = {
    "five-points": lambda: random_points(5, seed=5),
    "eight-points": lambda: circle_of_points(8),
    "twenty-points": lambda: random_points(20, seed=20),
    "line": gaussian_line,
    "hyperplane": hyperplane,
    "spiral": Spiral,
    "sphere": lambda: SphereModes(torch.cat([torch.eye(3), -torch.eye(3)])),
    "tori": lambda: RotationTori(10),
}
"""Name -> what makes it."""


def distribution(name: str) -> Distribution:
    """The named distribution.

    Raises:
        InputError: no distribution of that name; the message lists the known ones.
    """
    if name not in DISTRIBUTIONS:
        raise InputError(f"distribution {name!r}: unknown; known are {', '.join(DISTRIBUTIONS)}")
    return DISTRIBUTIONS[name]()
