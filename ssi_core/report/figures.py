"""Figures as files. Needs matplotlib: imported where a report is made, never where the package is."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from ..artifact import replacing

COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b7791f", "#4a5568")


def save_plot(figure: Figure, path: Path) -> None:
    """Write a figure as .png or .svg, the same bytes every time."""
    with rc_context({"svg.hashsalt": "ssi"}), replacing(path) as beside:
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(beside, dpi=110, format=path.suffix[1:], metadata=metadata)
