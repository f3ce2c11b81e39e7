"""What one table or figure is: data only. The paper's own are in `presets`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .plan import Arm

Paper = Mapping[str, Mapping[str, float]]
"""Arm -> metric -> the figure that the paper prints."""


@dataclass(frozen=True)
class Preset:
    """One table or figure."""

    title: str
    source: str
    """Where it stands in the paper; "" where it does not."""
    shows: str
    """What to look for."""
    arms: tuple[Arm, ...]
    limit: int
    """Pictures that the paper takes; 0: none, or all of them."""
    demo: int
    """Pictures of each set on the demo model, so that all presets together take minutes."""
    model: str = ""
    """The published checkpoint that the paper's figures are of; "" where any will do."""
    study: str = "round-trips"
    columns: tuple[str, ...] = ("nfe", "mse", "mse_median", "psnr", "ssim", "lpips", "std", "chan", "hori", "vert",
                                "ks", "edge", "gaussian")  # fmt: skip
    """Metrics of the summary, in order; never an error without figures of the noise."""
    deviations: tuple[str, ...] = ()
    """Where it is not exactly the paper's procedure, and what else must be known to read its table: in words."""
    plots: tuple[str, ...] = ()
    """By name (`plots.PLOTS`)."""
    paper: Paper = field(default_factory=dict)
    paper_set: str = ""
    """What the paper's figures were measured on."""
    options: Mapping[str, Any] = field(default_factory=dict)
    distances: tuple[str, ...] = ()
    """Between whole sets of pictures, by name (`distances.DISTANCES`)."""
    demo_arms: tuple[Arm, ...] = ()
    """Further arms that only the demo's own pictures allow."""
    demo_options: Mapping[str, Any] = field(default_factory=dict)
    """In place of `options` on the demo."""
    batch: int = 16


GAUSSIAN = "Gaussian"
"""The row of true Gaussian noise."""
