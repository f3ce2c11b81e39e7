"""How singular exact scores are: along sampling trajectories, and at a fixed point off the manifold."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..integration import integrate
from ..manifold import Distribution, Exact, distribution
from ..report.figures import COLOURS, new_figure
from ..report.tables import Table
from ..schedule import karras_sigmas
from .experiment import Finding, Lab, Outcome, experiment
from .seeds import log_slope

TARGETS = ("eight-points", "line")
FITTED = (0.002, 0.1)
"""Range of sigma in which the slope is fitted."""
PLATEAU = 0.02
"""How much sigma |score| may still change, relative, over the last factor of two in sigma."""


def along_trajectories(known: Distribution, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(sigmas [K], sigma |score| [K, count]) on probability-flow trajectories from sigma 80 down to 0.002."""
    grid = karras_sigmas(200)
    start = 80 * torch.randn(count, known.dimension, generator=generator, dtype=torch.float64)
    states = integrate(Exact(known), start, grid.tolist(), "heun", keep_states=True).states
    assert states is not None
    values = [
        (sigma * known.score(x, x.new_full((count,), sigma))).norm(dim=1)
        for x, sigma in zip(states[:-1], grid[:-1].tolist(), strict=True)
    ]
    return grid[:-1], torch.stack(values)


@experiment(
    "singularity", "sigma |score| along trajectories",
    "SSI-DM Theorems 3 and 5 and Figure 4; Lu, Wang, Bal 2023, Theorem 3.5",
    "flat towards the left: the score grows as 1/sigma, no faster and no slower",
)  # fmt: skip
def singularity(lab: Lab) -> Outcome:
    count = lab.count(2000, 50)
    figure = new_figure(11, 4.2)
    rows, findings = [], []
    for i, (panel, name) in enumerate(zip(figure.subplots(1, 2), TARGETS, strict=True)):
        lab.tell(name, i, len(TARGETS))
        known = distribution(name)
        sigmas, values = along_trajectories(known, count, lab.generator("start of trajectories", i))
        mean = values.mean(1)
        low, high = values.quantile(torch.tensor([0.1, 0.9], dtype=torch.float64), dim=1)
        panel.plot(sigmas, mean, color=COLOURS[i], label="mean")
        panel.fill_between(sigmas, low, high, color=COLOURS[i], alpha=0.2, label="10% to 90%")
        panel.set_xscale("log")
        panel.set_ylim(bottom=0)
        panel.set_xlabel("sigma")
        panel.set_ylabel("sigma |grad log p_sigma(x_sigma)|")
        panel.set_title(known.about)
        panel.legend(fontsize=8)
        panel.grid(alpha=0.3)
        inside = (sigmas >= FITTED[0]) & (sigmas <= FITTED[1])
        slope = log_slope(sigmas[inside], (values / sigmas[:, None]).mean(1)[inside])
        halved = int((sigmas >= 2 * float(sigmas[-1])).sum()) - 1
        change = float((mean[-1] / mean[halved] - 1).abs())
        rows.append(
            [known.about, f"{slope:.4f}", f"{float(values.max()):.3f}", f"{float(mean[-1]):.4f}", f"{change:.1e}"]
        )
        findings += [
            Finding(f"{known.about}: slope of ln |score| against ln sigma", "-1 +- 0.02", f"{slope:.4f}",
                    abs(slope + 1) <= 0.02),
            Finding(f"{known.about}: sigma |score| bounded and converging",
                    f"changes by under {PLATEAU:.0%} over the last halving of sigma",
                    f"largest {float(values.max()):.2f}, last change {change:.1e}", change < PLATEAU),
        ]  # fmt: skip
    table = Table(
        "sigma |score| along probability-flow trajectories",
        ["data", f"slope of ln |score| in {FITTED[0]:g}..{FITTED[1]:g}", "largest of sigma |score|",
         "its mean at the end", "last relative change"],
        rows, [f"{count:,} trajectories each, heun, 200 Karras steps from sigma 80 to 0.002, exact D."],
    )  # fmt: skip
    second, met = fixed_points(lab)
    findings.append(met)
    return Outcome(findings, [table, second], {"trajectories": figure})


def fixed_points(lab: Lab) -> tuple[Table, Finding]:
    """Theorem 3.5: t S(X, t) -> X - y_X at points X off the manifold, for every kind of manifold that we have."""
    names = ("eight-points", "line", "spiral", "sphere", "hyperplane", "tori")
    levels = (1e-2, 1e-3, 1e-4, 1e-5)
    rows, worst = [], 0.0
    for i, name in enumerate(names):
        lab.tell(f"fixed points: {name}", i, len(names))
        known = distribution(name)
        # A little off points of the data, so that the nearest one is unique (H1) and is that of the same branch.
        on = known.sample(64, lab.generator("points on the data", i))
        x = on + 0.02 * torch.randn(on.shape, generator=lab.generator("steps off the data", i), dtype=torch.float64)
        gap = x - known.nearest(x)
        kept = gap.norm(dim=1) > 0.01
        cells = []
        for t in levels:
            sigma = math.sqrt(math.expm1(t))
            s = 1 / math.sqrt(1 + sigma**2)
            D = known.denoise(x / s, x.new_full((len(x),), sigma))
            scaled = t * (x - s * D) / -math.expm1(-t)
            error = ((scaled - gap).norm(dim=1) / gap.norm(dim=1))[kept]
            cells.append(float(error.max()))
        rows.append([known.about, *(f"{cell:.1e}" for cell in cells)])
        worst = max(worst, cells[-1])
    title = "Theorem 3.5: largest |t S(X, t) - (X - y_X)| / |X - y_X| of points X over 0.01 off the data"
    table = Table(title, ["data", *(f"t = {t:g}" for t in levels)], rows, [
        "On a curved manifold the leftover is of the order t / |X - y_X|: it falls with t, as o(1) says.",
    ])  # fmt: skip
    what = f"Theorem 3.5 on six kinds of data at t = {levels[-1]:g}"
    return table, Finding(what, "under 5%", f"{worst:.1e} at worst", worst < 0.05)
