"""The reverse SDE with an exact drift ends on the data's points, each as often as it should."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..manifold import Exact, distribution, reverse_sde, times
from ..manifold.samplers import Told
from ..process import OU
from ..report.figures import COLOURS, new_figure
from ..report.tables import Table
from .experiment import Finding, Lab, Outcome, experiment

STEPS = (200, 1000)
SCHEMES = {"Eq. 23 as printed": False, "the authors' code": True}
"""Name -> `contracting` of `reverse_sde`."""
SHOWN = (10.0, 5.8718, 3.2356, 0.7518, 0.0216, 0.0)
"""Times of the paper's Figure 5."""
PAPER = (0.2086, 0.1924, 0.2092, 0.1977, 0.1921)
"""Frequencies of the paper's Table 1."""


States = list[tuple[float, Tensor]]


def _recorder(kept: States, grid: Tensor) -> Told:
    def told(done: int, of: int, x: Tensor) -> None:
        kept.append((float(grid[done]), x))

    return told


@experiment(
    "five-points", "Five points with the exact drift",
    "Lu, Wang, Bal 2023, section 4.2, Figure 5 and Table 1",
    "every sample ends on one of the five points, each with frequency 0.2",
)  # fmt: skip
def five_points(lab: Lab) -> Outcome:
    count = lab.count(10_000, 200)
    known = distribution("five-points")
    denoise, points = Exact(known), known.means  # type: ignore[attr-defined]
    kept: States = []
    error = math.sqrt(0.2 * 0.8 / count)
    rows, findings, runs = [], [], [(name, steps) for steps in STEPS for name in SCHEMES]
    for i, (name, steps) in enumerate(runs):
        grid = times("exponential", steps)
        shares = {}
        # Five times the samples besides, for which a bias of the scheme no longer hides in chance.
        for many, purpose in ((count, "samples"), (5 * count, "five times the samples")):
            lab.tell(f"{name}, K = {steps}, {many:,} samples", i, len(runs))
            start = torch.randn(many, 2, generator=lab.generator(f"start of {purpose}"), dtype=torch.float64)
            shown = many == count and steps == STEPS[-1] and not SCHEMES[name]
            kept += [(float(grid[0]), start)] if shown else []

            told = _recorder(kept, grid) if shown else None

            end = reverse_sde(
                denoise,
                start,
                grid,
                OU(),
                generator=lab.generator(f"noise of {purpose}"),
                contracting=SCHEMES[name],
                told=told,
            )
            nearest = torch.cdist(end, points).argmin(1)
            shares[many] = torch.bincount(nearest, minlength=5).double() / many
        z = float(((shares[count] - 0.2) / error).abs().max())
        bias = float(((shares[5 * count] - 0.2) / error).abs().max())
        rows.append(
            [f"{name}, K = {steps}", *(f"{value:.4f}" for value in shares[count].tolist()), f"{z:.2f}", f"{bias:.2f}"]
        )
        findings.append(
            Finding(f"frequencies, {name}, K = {steps}", "within 3 standard errors of 0.2", f"{z:.2f} at most", z <= 3)
        )
    rows.append(
        [
            "paper: Table 1, its own points",
            *(f"{value:.4f}" for value in PAPER),
            f"{max(abs(v - 0.2) for v in PAPER) / 0.004:.2f}",
            "",
        ]
    )
    figure = new_figure(13, 2.7)
    for panel, t in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
        at, x = min(kept, key=lambda pair, t=t: abs(pair[0] - t))  # type: ignore[misc]
        panel.plot(x[:2000, 0], x[:2000, 1], ".", ms=1.5, color=COLOURS[0])
        panel.plot(points[:, 0], points[:, 1], "+", color=COLOURS[1], ms=9)
        panel.set_title(f"t = {at:.3g}", fontsize=9)
        panel.set_xlim(-3.5, 3.5)
        panel.set_ylim(-3.5, 3.5)
        panel.set_aspect("equal")
    table = Table(
        f"How often each point absorbs {count:,} samples",
        ["scheme", *(f"point {k + 1}" for k in range(5)), "largest deviation, standard errors",
         f"the same from {5 * count:,} samples"],
        rows, [f"Exponential schedule, t_1 = 1e-4, T = 10; one standard error of {count:,} samples is {error:.4f}. "
               f"The last column is in the same unit, so that chance alone gives about {2 / math.sqrt(5):.1f} there: "
               "what is over that is the scheme's own error."],
    )  # fmt: skip
    return Outcome(findings, [table], {"absorbed": figure})
