"""Figures as files. matplotlib takes a second to import, so it is imported where a figure is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..artifact import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b7791f", "#4a5568")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches. Drawn without pyplot, so that no global state or display is touched."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_plot(figure: Figure, path: Path) -> None:
    """Write a figure as .png or .svg, the same bytes every time."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "ssi"}), replacing(path) as beside:
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(beside, dpi=110, format=path.suffix[1:], metadata=metadata)
