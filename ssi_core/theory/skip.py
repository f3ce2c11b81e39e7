"""What the skip does where everything is known: the null space, and the price in closed form."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..gaussianity import gaussianity
from ..inversion import invert, reconstruct
from ..manifold import Exact, Mixture, clouds, distribution
from ..metrics import cosine
from ..process import VE, Flow, Process
from ..report.figures import COLOURS, new_figure
from ..report.tables import Table
from ..schedule import karras_sigmas
from .experiment import Finding, Lab, Outcome, experiment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES = (0.05, 0.2)
SKIPS = (0.02, 0.05, 0.1, 0.2)
POINTS = 8192


def levels(process: Process, steps: int, lowest: float = 0.002) -> Tensor:
    """Karras levels in a process's own sigma: up to 80, or to a flow's pure noise."""
    return karras_sigmas(steps, sigma_min=lowest, sigma_max=min(80.0, process.sigma_limit))


def noise_across(name: str, skip: float, lab: Lab, process: Process) -> tuple[float, float, bool]:
    """(std of the noise where the data does not vary, std of all of it, Gaussian or not) of an inversion with exact D.

    Where the data does not vary: along the last axis for flat manifolds; for points, within the noises of one point.
    """
    known = distribution(name)
    points = known.sample(2 * lab.count(POINTS, 64), lab.generator("points"))
    found = invert(Exact(known, process), clouds(points, 2), levels(process, 60), skip=skip, seed=lab.seed_of("noise"))
    noise = found.noise.transpose(1, 2).flatten(0, 1)
    across = noise[:, -1] if known.surface is not None else noise[(points - points[0]).norm(dim=1) < 1e-6]
    return float(across.std(0).max()), float(noise.std()), gaussianity(found.noise).verdict


@experiment(
    "skip", "Base against SSI inversion with the exact D",
    "SSI-DM section 4; closed forms: SSI-DM's leftover for a Gaussian of local scale s",
    "without a skip the directions across the manifold get no noise at all; with it they do, at a price that is known",
)  # fmt: skip
def skipping(lab: Lab) -> Outcome:
    return both(lab, VE())


@experiment(
    "skip-flow", "The same as a rectified flow",
    "not in the paper: x = (1 - t) x0 + t n is (1 - t) times its x0 + sigma n at sigma = t / (1 - t)",
    "nothing is lost by the change of coordinate: the closed forms hold with sigma = t / (1 - t)",
)  # fmt: skip
def skipping_flows(lab: Lab) -> Outcome:
    return both(lab, Flow())


def both(lab: Lab, process: Process) -> Outcome:
    first, met_null = null_space(lab, process)
    second, figure, met_price = price(lab, process)
    return Outcome([*met_null, *met_price], [first, second], {"price": figure})


def null_space(lab: Lab, process: Process) -> tuple[Table, list[Finding]]:
    """Standard deviation of the noise in directions in which the data does not vary: 0 against 1."""
    rows, stds = [], {0.0: [], 0.1: []}  # type: ignore[var-annotated]
    names = ("line", "hyperplane", "eight-points")
    for i, name in enumerate(names):
        for skip in (0.0, 0.1):
            lab.tell(f"null space: {name}", 2 * i + (skip > 0), 2 * len(names))
            across, whole, verdict = noise_across(name, skip, lab, process)
            if not (skip and name == "eight-points"):  # there each point owns a part of the noise: less than std 1
                stds[skip].append(across)
            rows.append([distribution(name).about, f"{skip:g}" if skip else "0 (base)", f"{across:.4f}", f"{whole:.3f}",
                         "yes" if verdict else "no"])  # fmt: skip
    table = Table(
        "Noise across the manifold",
        ["data", "skip", "std across", "std of all coordinates", "Gaussian by every figure"], rows,
        ["Samples of the data, exact D, dpmpp-2m, 60 Karras steps. Across: the axis that does not vary; for the eight "
         "points the noises of one point, which without a skip are one and the same, and with it fill that point's own "
         "eighth of the plane. Without a skip 0 is an identity of the exact D, not a measurement: across flat data D "
         "= x = 0, so that dx/dsigma = 0, and equal points end alike."],
    )  # fmt: skip
    base, ssi = max(stds[0.0]), max(abs(v - 1) for v in stds[0.1])
    return table, [
        Finding("null-space std without a skip", "0", f"{base:.1e} at most", base < 1e-3),
        Finding("null-space std with skip 0.1", "1", f"off by {ssi:.3f} at most", ssi < 0.05),
    ]


def price(lab: Lab, process: Process) -> tuple[Table, Figure, list[Finding]]:
    """Leftover rho = s^2/(s^2 + sigma^2) as cosine between two seeds' noises, and MSE 2 s^2 (1 - sqrt rho).

    sigma is noise over signal: of a flow t / (1 - t).
    """
    sigmas = levels(process, 80, 1e-3)
    rows, worst = [], {"cosine": 0.0, "mse": 0.0}
    figure = new_figure(10, 4)
    panels = figure.subplots(1, 2)
    for i, s in enumerate(SCALES):
        known = Mixture(torch.zeros(1, 2), [1.0, s**2])
        # So many that the smallest leftover, .06, is known to 2%.
        x0 = clouds(known.sample(16 * lab.count(4 * POINTS, 64), lab.generator("points of the price", i)), 16)
        denoise = Exact(known, process)
        ours: dict[str, list[float]] = {"cosine": [], "mse": []}
        for k, skip in enumerate(SKIPS):
            lab.tell(f"price: s = {s:g}", i * len(SKIPS) + k, len(SCALES) * len(SKIPS))
            one, two = (invert(denoise, x0, sigmas, skip=skip, seed=lab.seed_of("noise", j)) for j in range(2))
            rho = s**2 / (s**2 + float(process.ratio(skip)) ** 2)
            alike = float(cosine(one.noise[:, 1], two.noise[:, 1]).mean())
            full = _error(reconstruct(denoise, one.noise, sigmas), x0)
            short = _error(reconstruct(denoise, one.noise, one.sigmas), x0)
            wanted = 2 * s**2 * (1 - math.sqrt(rho))
            worst["cosine"] = max(worst["cosine"], abs(alike / rho - 1))
            worst["mse"] = max(worst["mse"], abs(full / wanted - 1))
            ours["cosine"].append(alike)
            ours["mse"].append(full)
            rows.append([f"{s:g}", f"{skip:g}", f"{rho:.4f}", f"{alike:.4f}", f"{wanted:.3e}", f"{full:.3e}",
                         f"{s**2 * (1 - rho):.3e}", f"{short:.3e}"])  # fmt: skip
        fine = torch.logspace(-2, -0.5, 100, dtype=torch.float64)
        rho_line = s**2 / (s**2 + process.ratio(fine) ** 2)
        for panel, name, line in (
            (panels[0], "cosine", rho_line),
            (panels[1], "mse", 2 * s**2 * (1 - rho_line.sqrt())),
        ):
            panel.plot(fine, line, color=COLOURS[i], lw=1, label=f"closed form, s = {s:g}")
            panel.plot(SKIPS, ours[name], "o", color=COLOURS[i], label=f"measured, s = {s:g}")
    panels[0].set_title("leftover: cosine between two seeds' noises", fontsize=10)
    panels[1].set_title("MSE of the reconstruction", fontsize=10)
    panels[1].set_yscale("log")
    for panel in panels:
        panel.set_xscale("log")
        panel.set_xlabel("sigma_skip" if process == VE() else "t_skip")
        panel.legend(fontsize=8)
        panel.grid(alpha=0.3)
    table = Table(
        "The price of a skip at local scale s",
        ["s", "skip", "rho", "cosine of two seeds", "2 s^2 (1 - sqrt rho)", "MSE, full grid back", "s^2 (1 - rho)",
         "MSE, shared grid back"],
        rows, ["In the coordinate of scale s, beside one of scale 1. Full grid: the ODE back to sigma 0.001, which "
               "the closed form is of. Shared grid (the inversion's own): its last step is one denoise at the skip, "
               "which ends at s^2 (1 - rho), a little better."],
    )  # fmt: skip
    return (
        table,
        figure,
        [
            Finding(
                "leftover s^2/(s^2 + sigma^2)", "within 10%", f"{worst['cosine']:.1%} at worst", worst["cosine"] < 0.1
            ),
            Finding("MSE 2 s^2 (1 - sqrt rho)", "within 10%", f"{worst['mse']:.1%} at worst", worst["mse"] < 0.1),
        ],
    )


def _error(back: Tensor, x0: Tensor) -> float:
    return float((back - x0)[:, 1].square().mean())
