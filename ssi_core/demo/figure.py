"""The demo's one picture. Drawn without pyplot, so that no global state or display is touched.

The only place that needs matplotlib: import it where the demo is run, never where the package is.
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..artifact import replacing
from ..canvas import BAD, GOOD, NEUTRAL
from ..image import contact_sheet, to_pixels
from .measure import Plan, RoundTrip

Trips = dict[str, dict[str, RoundTrip]]


def save_figure(figure: Figure, path: Path, *, dpi: int = 110) -> None:
    """Write a figure atomically; the suffix chooses the format (.png, .svg, .pdf)."""
    with replacing(path) as beside:
        figure.savefig(beside, dpi=dpi, format=path.suffix.lstrip("."))


def demo_figure(plan: Plan, trips: Trips, curve: tuple[Tensor, Tensor, float], morphs: dict[str, Tensor]) -> Figure:
    """Lay out: pictures and their noises, reconstructions with errors, morphs, quality against NFE, the curve."""
    (base_few, ssi_few), (base_40, ssi_40), (base_many, ssi_many) = (
        (str(base), str(ssi)) for base, ssi in (plan.pairs[role] for role in ("few", "middle", "many"))
    )
    figure = Figure(figsize=(17, 15.5), layout="constrained")
    figure.suptitle(
        "Inverting real images: the usual way (base) and by skipping the singularity (SSI)\n"
        "held-out drawn scenes, held-out photo crops, and a test card the model does not know. N: noise levels.\n"
        "Noise in a green frame is Gaussian by every figure (std 1); in a red one it fails at least one.",
        fontsize=14,
    )
    halves = figure.add_gridspec(2, 1, height_ratios=[6.4, 5.2])
    top, bottom = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])

    shown = [("scenes", 0), ("scenes", 3), ("photos", 4), ("photos", 5), ("foreign", 0)]
    columns: list[tuple[str, str]] = [
        ("image", ""), ("noise", base_40), ("noise", ssi_40), ("back", base_few), ("error", base_few),
        ("back", ssi_few), ("error", ssi_few), ("back", base_many), ("error", base_many), ("back", ssi_many),
        ("error", ssi_many),
    ]  # fmt: skip
    axes = top.subplots(len(shown), len(columns))
    for row, (name, i) in enumerate(shown):
        for column, (what, setting) in enumerate(columns):
            panel = axes[row, column]
            panel.set_xticks([])
            panel.set_yticks([])
            trip = trips[name][setting or base_40]
            panel.imshow(_picture(trip, i, what), interpolation="nearest")
            if what == "noise":
                colour = GOOD if trip.report.verdicts[i] else BAD
                panel.set_xlabel(f"std {float(trip.report.std[i]):.2f}", color=colour, fontsize=9)
                for spine in panel.spines.values():
                    spine.set(color=colour, linewidth=2.5)
            elif what == "error":
                panel.set_xlabel(f"MSE {float(trip.mse[i]):.4f}", fontsize=9)
            if row == 0:
                method = setting.replace(", ", "\n", 1) if setting else "held out"
                panel.set_title(f"{'error x4' if what == 'error' else what}\n{method}", fontsize=9)
            if column == 0:
                panel.set_ylabel(name, fontsize=10)

    grid = bottom.add_gridspec(2, 3, height_ratios=[1.05, 2])
    strips = bottom.add_subplot(grid[0, :])
    strips.imshow(to_pixels(contact_sheet([m.cpu() for m in morphs.values()], scale=4, gap=1))[0])
    strips.set_yticks([65, 195], [m.replace(", ", "\n") for m in morphs], fontsize=9)
    strips.set_xticks([])
    strips.set_title("morph: slerp of two scenes' noises, then sampling (both ends are reconstructions)", fontsize=11)

    _singularity(bottom.add_subplot(grid[1, 0]), curve)
    _histogram(bottom.add_subplot(grid[1, 1]), trips, base_40, ssi_40)
    _quality(bottom.add_subplot(grid[1, 2]), trips)
    return figure


def _picture(trip: RoundTrip, i: int, what: str) -> object:
    if what == "image":
        return to_pixels(trip.images[i : i + 1])[0]
    if what == "noise":
        return to_pixels(trip.inversion.noise[i : i + 1] / 3)[0]
    if what == "error":
        return to_pixels((trip.image - trip.images)[i : i + 1].abs() * 4 - 1)[0]
    return to_pixels(trip.image[i : i + 1])[0]


def _singularity(panel, curve: tuple[Tensor, Tensor, float]) -> None:  # type: ignore[no-untyped-def]
    sigmas, values, knee = curve
    panel.semilogx(sigmas.numpy(), values.numpy(), color=NEUTRAL, marker=".")
    panel.axvline(knee, color=BAD, ls="--")
    panel.text(knee * 1.1, 0.08, f"knee, sigma {knee:.3f}", color=BAD)
    panel.set_ylim(0, 1.08)
    panel.set_xlabel("sigma")
    panel.set_title("|D(x) - x| / (sigma sqrt d) along sampling:\nflat = the score grows as 1/sigma, until the "
                    "network\nno longer follows; a good skip lies beyond that knee", fontsize=10)  # fmt: skip


def _histogram(panel, trips: Trips, base: str, ssi: str) -> None:  # type: ignore[no-untyped-def]
    edges = torch.linspace(-4, 4, 81)
    for setting, colour in ((base, BAD), (ssi, GOOD)):
        noise = trips["scenes"][setting].inversion.noise.float().cpu().flatten()
        counts = torch.histogram(noise, edges, density=True).hist
        panel.stairs(counts.numpy(), edges.numpy(), color=colour, lw=1.6, label=setting)
    normal = torch.exp(-(edges**2) / 2) / (2 * torch.pi) ** 0.5
    panel.plot(edges.numpy(), normal.numpy(), color=NEUTRAL, ls="--", label="normal curve")
    panel.set_yticks([])
    panel.legend(fontsize=8, loc="upper left")
    panel.set_title("values of the noise, 32 held-out scenes", fontsize=10)


def _quality(panel, trips: Trips) -> None:  # type: ignore[no-untyped-def]
    """Both at once: how good the picture is and whether the noise is Gaussian, so that neither hides the other."""
    for name, marker in (("scenes", "o"), ("photos", "^")):
        for trip in trips[name].values():
            setting, summary = trip.setting, trip.summary()
            colour = GOOD if setting.skip else BAD
            filled = colour if setting.solver != "euler" else "none"
            panel.scatter(summary["nfe"], summary["psnr"], marker=marker, edgecolors=colour, facecolors=filled, s=70)
    panel.set_xscale("log")
    panel.set_xlabel("evaluations there and back")
    panel.set_ylabel("PSNR, dB (mean)")
    panel.set_xticks([20, 40, 80, 160, 320], ["20", "40", "80", "160", "320"], minor=False)
    panel.minorticks_off()
    panel.set_title(
        "quality against cost. green: SSI; red: base (its noise is not Gaussian,\nhowever good the picture); "
        "circles: scenes, triangles: photos;\nfilled: second order, open: Euler",
        fontsize=10,
    )
    panel.grid(alpha=0.3)
