"""A hyperplane in R^3: which part of the score is learnt under isotropic, non-isotropic and tangential training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..manifold import (
    MLP,
    Distribution,
    Iso,
    Niso,
    Objective,
    Surface,
    Tango,
    Trained,
    distribution,
    log_uniform,
)
from ..process import VE
from ..report.figures import COLOURS, new_figure
from ..report.tables import Table
from .experiment import Finding, Lab, Outcome, experiment
from .seeds import RULE, below, said, spread, trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGMAS = (0.01, 10.0)
NEAR = 0.05
"""Levels up to this one are "near t = 0"."""
EXTRA = 0.2
"""The normal noise of Niso-DM here."""
STEPS, BATCH, RATE = 3000, 500, 5e-3

Make = Callable[[Surface, bool], Objective]
METHODS: dict[str, Make] = {
    "Iso": lambda surface, rescaled: Iso(VE(), rescaled),
    "Niso": lambda surface, rescaled: Niso(VE(), rescaled, surface=surface, extra=EXTRA),
    "Tango": lambda surface, rescaled: Tango(VE(), rescaled, surface=surface, below=0.5),
}


def fitted(known: Distribution, make: Make, rescaled: bool, lab: Lab, part: str, repeat: int) -> Trained:
    assert known.surface is not None
    data = known.sample(lab.count(100_000, 2000), lab.generator("data", repeat))
    return trained(
        lab, repeat, part, data, make(known.surface, rescaled), lambda: MLP(known.dimension, 64, 3, nn.SiLU, gain=True),
        log_uniform(*SIGMAS), steps=STEPS, batch=BATCH, rate=RATE, decay=True,
    )  # fmt: skip


def tangential_errors(model: Trained, known: Distribution, levels: Tensor, heights: Tensor, lab: Lab) -> Tensor:
    """Root mean square of |P (s_theta - s)| over the noised data's x and y, at heights z, [levels, heights]."""
    x0 = known.sample(lab.count(1000, 50), lab.generator("data of the errors"))
    n = torch.randn(x0.shape, generator=lab.generator("noise of the errors"), dtype=torch.float64)
    rows = []
    for sigma in levels.tolist():
        x = x0 + sigma * n
        level = x.new_full((len(x),), sigma)
        # The exact tangential score does not depend on z, nor on extra noise along z.
        exact = known.score(x, level)[:, :2]
        cells = []
        for z in heights.tolist():
            at = torch.cat([x[:, :2], torch.full_like(x[:, :1], z)], dim=1)
            with torch.no_grad():
                ours = (model.rows(at, level) - at)[:, :2] / sigma**2
            cells.append((ours - exact).square().sum(1).mean().sqrt())
        rows.append(torch.stack(cells))
    return torch.stack(rows)


@experiment(
    "hyperplane", "A hyperplane: the tangential part of the score",
    "Liu, Zhang, Li 2025, \"Hyperplane in 3D Space\"; slides",
    "under isotropic noise a plain network spends itself on the normal part, and errs along the plane near t = 0",
)  # fmt: skip
def hyperplane(lab: Lab) -> Outcome:
    known = distribution("hyperplane")
    levels = torch.logspace(-2, 1, 16, dtype=torch.float64)
    heights = torch.linspace(-0.5, 0.5, 21, dtype=torch.float64)
    figure = new_figure(13, 6.2)
    panels = figure.subplots(2, 3, sharex=True, sharey=True)
    curves: dict[str, Tensor] = {}
    rows = []
    for r, rescaled in enumerate((False, True)):
        for c, (method, make) in enumerate(METHODS.items()):
            name = method + ("+res" if rescaled else "")
            found = []
            for k in range(lab.repeats):
                model = fitted(known, make, rescaled, lab, f"{name}, repeat {k + 1}: training", k)
                found.append(tangential_errors(model, known, levels, heights, lab))
            errors = torch.stack(found)  # [repeats, levels, heights]
            on = errors[..., len(heights) // 2]
            curves[name] = on
            near = on[:, levels <= NEAR].mean(1)
            named = [float(on[:, int((levels - at).abs().argmin())].mean()) for at in (0.01, 0.1, 1.0)]
            cells = [float(near.mean()), spread(near.tolist()), *named]
            rows.append([name, *(f"{cell:.2f}" for cell in cells)])
            shown = panels[r][c].pcolormesh(
                levels, heights, errors.mean(0).T.log10(), vmin=-1.5, vmax=2, cmap="viridis"
            )
            panels[r][c].set_xscale("log")
            panels[r][c].set_title(name, fontsize=10)
        panels[r][0].set_ylabel("z")
    for panel in panels[1]:
        panel.set_xlabel("sigma")
    figure.colorbar(shown, ax=figure.axes, label="log10 of the tangential error")
    table = Table(
        "Error of the tangential part of the learned score, on the plane",
        ["training", f"mean for sigma <= {NEAR:g}", "+-", "sigma 0.01", "sigma 0.1", "sigma 1"], rows,
        [f"Root mean square over noised data, z = 0. Network 3x64 SiLU with a learned gain, {lab.count(STEPS, 20):,} "
         f"steps, {lab.repeats} repeats; sigma from {SIGMAS[0]:g} to {SIGMAS[1]:g}; extra normal noise {EXTRA:g}. The "
         f"exact tangential score is of size {_size(known, lab):.1f} at sigma {SIGMAS[0]:g}."],
    )  # fmt: skip
    close = {name: on[:, levels <= NEAR].mean(1).tolist() for name, on in curves.items()}
    findings = []
    for suffix in ("", "+res"):
        iso, niso, tango = (close[name + suffix] for name in METHODS)
        findings.append(Finding(
            f"tangential error near t = 0{', rescaled' if suffix else ''}", f"Niso and Tango below Iso, {RULE}",
            f"Iso {said(iso, '.2f')}, Niso {said(niso, '.2f')}, Tango {said(tango, '.2f')}",
            below(niso, iso) and below(tango, iso)))  # fmt: skip
    return Outcome(findings, [table], {"errors": figure, "on-the-plane": _lines(levels, curves)})


def _size(known: Distribution, lab: Lab) -> float:
    """Mean length of the exact tangential score on the data at the smallest level."""
    x = known.sample(2000, lab.generator("data of the size"))
    return float(known.score(x, x.new_full((len(x),), SIGMAS[0]))[:, :2].norm(dim=1).mean())


def _lines(levels: Tensor, curves: dict[str, Tensor]) -> Figure:
    figure = new_figure(7, 4.2)
    panel = figure.subplots()
    for i, (name, values) in enumerate(curves.items()):
        style = "--" if name.endswith("+res") else "-"
        panel.loglog(levels, values.mean(0), style, color=COLOURS[i % 3], label=name)
    panel.set_xlabel("sigma")
    panel.set_ylabel("error of the tangential part, z = 0")
    panel.legend(fontsize=8)
    panel.grid(alpha=0.3)
    return figure
