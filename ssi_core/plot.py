"""Pictures of numbers. Figures are built without pyplot, so that no global state or display is touched."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .artifact import replacing
from .errors import InputError
from .gaussianity import FIGURES, Gaussianity, radial_power

GOOD, BAD, NEUTRAL = "#1a7f5a", "#c0392b", "#4a5568"


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 110) -> None:
    """Write a figure atomically; the suffix chooses the format (.png, .svg, .pdf)."""
    path = Path(path)
    kinds = figure.canvas.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in kinds:
        raise InputError(f"picture {path}: unknown suffix {path.suffix!r}; use one of {', '.join(sorted(kinds))}")
    with replacing(path) as beside:
        figure.savefig(beside, dpi=dpi, format=path.suffix.lower().lstrip("."))


def noise_figure(noise: Tensor, report: Gaussianity, sample: int = 0, title: str = "") -> Figure:
    """One sample's noise at a glance: channels, histogram, spectrum, neighbour correlations, figures with floors.

    Args:
        noise: [B, C, ...] of rank >= 3; of video the first frame's picture is shown.
        report: `gaussianity(noise)`.
        sample: which of the batch.
        title: put above the verdict.
    """
    z = noise[sample].detach().cpu().double()
    plane = _plane(z)
    figure = Figure(figsize=(13, 6.2), layout="constrained")
    grid = figure.add_gridspec(2, 6, height_ratios=[1, 1])
    passed = report.verdicts[sample]
    lines = ["Gaussian" if passed else "not Gaussian"] + [f"- {reason}" for reason in report.reasons[sample]]
    heading = "\n".join([title, *lines] if title else lines)
    figure.suptitle(heading, color=GOOD if passed else BAD, fontsize=10, x=0.01, ha="left")

    for i in range(min(len(plane), 3)):
        axes = figure.add_subplot(grid[0, i])
        axes.imshow(plane[i].numpy(), cmap="gray", vmin=-3, vmax=3, interpolation="nearest")
        axes.set_title(f"channel {i}", fontsize=9)
        axes.axis("off")

    axes = figure.add_subplot(grid[0, 3])
    edges = torch.linspace(-5, 5, 81, dtype=torch.float64)
    counts = torch.histogram(z.flatten(), edges, density=True).hist
    axes.stairs(counts.numpy(), edges.numpy(), fill=True, color="#9fb8d0")
    centre = torch.linspace(-5, 5, 201)
    axes.plot(centre.numpy(), (torch.exp(-(centre**2) / 2) / math.sqrt(2 * math.pi)).numpy(), color=NEUTRAL, lw=1.2)
    axes.set_title("values, and the normal curve", fontsize=9)
    axes.set_yticks([])

    axes = figure.add_subplot(grid[1, 0:2])
    frequency, power = radial_power(plane[None], rings=24)
    axes.plot(frequency.numpy(), power[0].numpy(), color=GOOD if passed else BAD, marker=".")
    axes.axhline(1, color=NEUTRAL, lw=1, ls="--")
    axes.set_yscale("log")
    axes.set_ylim(min(0.3, float(power.min()) * 0.8), max(3.0, float(power.max()) * 1.2))
    axes.set_title("power by spatial frequency (white noise: 1)", fontsize=9)
    axes.set_xlabel("cycles per pixel", fontsize=8)

    axes = figure.add_subplot(grid[1, 2:4])
    shown = axes.imshow(
        neighbour_correlations(plane).numpy(), cmap="RdBu", vmin=-0.2, vmax=0.2, extent=(-3.5, 3.5, 3.5, -3.5)
    )
    axes.set_title("correlation with neighbours", fontsize=9)
    figure.colorbar(shown, ax=axes, shrink=0.8)

    axes = figure.add_subplot(grid[:, 4:6])
    axes.axis("off")
    rows, colours = [], []
    for name in FIGURES:
        value = float(getattr(report, name)[sample])
        if math.isnan(value):
            continue
        rows.append([name, f"{value:.4f}", f"{float(getattr(report.floor, name)):.4f}"])
        colours.append(BAD if name in report.failures[sample] else "black")
    table = axes.table(rows, colLabels=["figure", "this noise", "Gaussian"], loc="center", cellLoc="right")
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1, 1.35)
    for i, colour in enumerate(colours):
        table[i + 1, 1].get_text().set_color(colour)
    return figure


def neighbour_correlations(plane: Tensor, reach: int = 3) -> Tensor:
    """Correlation of [C, H, W] with itself shifted by up to `reach` pixels; the centre, always 1, is left blank."""
    centred = plane - plane.mean(dim=(-2, -1), keepdim=True)
    power = torch.fft.fft2(centred).abs().square().sum(0)
    correlation = torch.fft.ifft2(power).real
    correlation = (correlation / correlation[0, 0].clamp_min(1e-300)).roll((reach, reach), (0, 1))
    window = correlation[: 2 * reach + 1, : 2 * reach + 1].clone()
    window[reach, reach] = math.nan
    return window


def _plane(z: Tensor) -> Tensor:
    """[C, ...] as [C, H, W] for showing: audio gets one row, video its first frame."""
    if z.ndim == 2:
        return z[:, None, :]
    while z.ndim > 3:
        z = z[:, 0]
    return z
