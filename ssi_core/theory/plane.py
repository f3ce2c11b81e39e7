"""A line and a spiral: what a small network makes of a bounded and of two unbounded targets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..manifold import Trained, distribution, times
from ..report.figures import COLOURS, new_figure
from ..report.tables import Table
from .drifts import STEPS, Size, methods, runs, scatter
from .experiment import Finding, Lab, Outcome, experiment
from .seeds import RULE, log_slope, lowest, mean, mean_and_spread, ordered, said

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EDGE = 1e-3
"""What counts as near t = 0: a fiftieth of the smallest t that training saw."""
ANSWERS = {"CEM": ("f", 0.0), "DDPM": ("eps", -0.5), "SGM": ("S", -1.0)}
"""What each network answers, and the power of t that its second component goes as at a fixed point off the line."""


def compared(
    name: str, size: Size, lab: Lab, limit: float
) -> tuple[Table, Figure, dict[str, list[float]], list[Trained]]:
    """CEM, DDPM and SGM on one distribution: (table, samples, mean distances, the first repeat's models)."""
    known = distribution(name)
    figure = new_figure(13, 3.6)
    panels = figure.subplots(1, 4)
    rows, away, kept = [], {}, []
    for i, (method, objective) in enumerate(methods().items()):
        distances, spreads = [], []
        for repeat, model, x in runs(known, objective, size, lab, method):
            d = known.distance(x)
            distances.append(float(d.mean()))
            spreads.append(float(d.square().mean().sqrt()))
            if repeat == 0:
                kept.append(model)
                scatter(panels[i], x, f"{method}: mean distance {distances[0]:.3f}", limit)
        away[method] = distances
        rows.append([method, *mean_and_spread(distances), *mean_and_spread(spreads),
                     f"{sum(distances) / sum(away['CEM']):.1f}x", kept[-1].stopped or "ran through"])  # fmt: skip
    scatter(panels[3], known.sample(4000, lab.generator("the data, to be shown")), "the data", limit)
    table = Table(
        f"{known.about}: distance of {lab.count(10_000, 500):,} samples to it",
        ["objective", "mean distance", "+-", "root mean square", "+-", "mean distance / CEM's", "training"], rows,
        [f"Network {size.depth}x{size.width} tanh, {lab.count(size.steps, 20):,} steps of Adam at 1e-3 on batches of "
         f"{size.batch:,}; {lab.repeats} repeats, mean and standard deviation. Trained on t = 10 k/{STEPS}, sampled by "
         f"Eq. 23/39 on the exponential schedule, K = {STEPS}, t_1 = 1e-4. The last step's noise alone is 0.01 a "
         "coordinate."],
    )  # fmt: skip
    return table, figure, away, kept


@experiment(
    "line", "A line in the plane: CEM, DDPM, SGM", "Lu, Wang, Bal 2023, section 4.1, Figures 1 to 3",
    "samples of CEM stay on the line; at a fixed point off it the errors of eps and S grow as the exact answers do",
)  # fmt: skip
def line(lab: Lab) -> Outcome:
    size = Size(16, 2, 4000, 1000)
    table, samples, away, models = compared("line", size, lab, 3.5)
    second, point, average, near = error_curves(models, lab)
    order = [away[name] for name in ("CEM", "DDPM", "SGM")]
    return Outcome(
        [Finding("off-line spread", f"CEM < DDPM < SGM, {RULE}", ", ".join(said(values, ".4f") for values in order),
                 ordered(*order)), *near],
        [table, second], {"samples": samples, "error-at-a-point": point, "mean-error": average},
    )  # fmt: skip


def line_answers(method: str, x: Tensor, t: float) -> Tensor:
    """Eq. 62 in closed form: f, eps and S of the line at X [B, 2]."""
    e = math.exp(-t)
    if method == "CEM":
        return torch.stack([x[:, 0] * math.sqrt(e), 0 * x[:, 1]], dim=1)
    if method == "DDPM":
        return torch.stack([math.sqrt(1 - e) * x[:, 0], x[:, 1] / math.sqrt(1 - e)], dim=1)
    return torch.stack([x[:, 0], x[:, 1] / (1 - e)], dim=1)


def error_curves(models: list[Trained], lab: Lab) -> tuple[Table, Figure, Figure, list[Finding]]:
    """Figures 2 and 3: error of each answer at (1, -0.1), and its mean square over the forward process.

    The two say different things. At a fixed point the exact eps and S are unbounded, and so is the error of any answer
    that is not. Over the forward process E eps_2^2 is 1 at every t, so that a network that knows nothing is wrong by
    no more than that: the mean square, over that of the answer itself, says how much of it was learnt.
    """
    levels = times("exponential", STEPS)[:-1]
    known = distribution("line")
    fixed = torch.tensor([[1.0, -0.1]], dtype=torch.float64)
    x0 = known.sample(lab.count(4000, 100), lab.generator("data of the error curves"))
    n = torch.randn(x0.shape, generator=lab.generator("noise of the error curves"), dtype=torch.float64)
    figures = [new_figure(10, 3.8) for _ in range(2)]
    panels = [figure.subplots(1, 2) for figure in figures]
    near, far = levels < EDGE, (levels > 0.5) & (levels < 2)
    rows, findings = [], []
    for i, (method, model) in enumerate(zip(methods(), models, strict=True)):
        found: list[list[Tensor]] = [[], []]
        squares = []
        for t in levels.tolist():
            sigma = math.sqrt(math.expm1(t))
            s = math.exp(-t / 2)
            X = s * (x0 + sigma * n)
            for kind, at in enumerate((fixed, X)):
                with torch.no_grad():
                    ours = model.answer(at / s, at.new_full((len(at),), sigma))
                exact = line_answers(method, at, t)
                error = ours - exact
                found[kind].append(error[0].abs() if kind == 0 else error.square().mean(0))
            squares.append(exact.square().mean(0))
        curves = [torch.stack(values) for values in found]
        for kind in range(2):
            for component in range(2):
                panels[kind][component].loglog(levels, curves[kind][:, component], color=COLOURS[i], label=method)
        name, power = ANSWERS[method]
        slope = log_slope(levels[near], curves[0][near, 1])
        findings.append(Finding(f"slope of ln |error of {name}| against ln t at (1, -0.1), second component",
                                f"{power:g} +- 0.1, t < {EDGE:g}", f"{slope:.3f}",
                                abs(slope - power) < 0.1))  # fmt: skip
        cells = [f"{float(c[j, 1]):.2e}" for c in curves for j in (-1, int((levels - 1).abs().argmin()))]
        if method == "CEM":
            rows.append([name, *cells, f"{slope:.3f}", "- (f is 0)"])
            continue
        share = curves[1][:, 1] / torch.stack(squares)[:, 1]
        left, there = float(share[near].mean()), float(share[far].mean())
        rows.append([name, *cells, f"{slope:.3f}", f"{left:.3f}"])
        findings.append(Finding(f"{name} is not learnt near t = 0, second component",
                                f"mean square error over half of the mean square of {name}, t < {EDGE:g}",
                                f"{left:.2f} of it ({there:.1g} at t about 1)", left > 0.5))  # fmt: skip
    for kind, title in enumerate(
        ("|answer - exact| at X = (1, -0.1)", "E |answer - exact|^2 over the forward process")
    ):
        for component, panel in enumerate(panels[kind]):
            panel.set_xlabel("t")
            panel.set_title(f"{title}: component {component + 1}", fontsize=9)
            panel.axvline(10 / STEPS, color="#718096", ls=":", lw=1)
            panel.grid(alpha=0.3)
        panels[kind][0].legend(fontsize=8)
        figures[kind].suptitle("dotted: the smallest t that training saw", fontsize=9)
    table = Table(
        "Errors of the second component (Figures 2 and 3)",
        ["answer", "at (1, -0.1), t = 1e-4", "the same, t = 1", "mean square, t = 1e-4", "the same, t = 1",
         f"slope at (1, -0.1), t < {EDGE:g}", f"mean square over that of the answer, t < {EDGE:g}"],
        rows, ["Against Eq. 62. First repeat. A slope of -1/2 or -1 is that of the exact answer: no bounded network "
               "has another. The last column: 0 is learnt, 1 is what an answer of 0 would get."],
    )  # fmt: skip
    return table, figures[0], figures[1], findings


@experiment(
    "spiral", "A spiral: CEM, DDPM, SGM", "Lu, Wang, Bal 2023, section 4.1, Figure 4",
    "CEM draws the spiral, DDPM and SGM a blurred one",
)  # fmt: skip
def spiral(lab: Lab) -> Outcome:
    size = Size(64, 3, 2500, 500)
    table, samples, away, _ = compared("spiral", size, lab, 15)
    cem, ddpm, sgm = (mean(away[name]) for name in ("CEM", "DDPM", "SGM"))
    return Outcome(
        [Finding("mean distance to the curve", f"CEM smallest, {RULE}",
                 f"CEM {said(away['CEM'])}, DDPM {said(away['DDPM'])} ({ddpm / cem:.1f} times), "
                 f"SGM {said(away['SGM'])} ({sgm / cem:.1f} times)", lowest("CEM", away))],
        [table], {"samples": samples},
    )  # fmt: skip
