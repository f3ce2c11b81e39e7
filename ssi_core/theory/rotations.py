"""SO(10) with five modes: isotropic, non-isotropic and tangential training, by reversal and by annealing on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ..manifold import (
    MLP,
    Iso,
    Niso,
    Objective,
    RotationModes,
    Rotations,
    Tango,
    Trained,
    annealed_langevin,
    log_uniform,
    reverse_sde,
    sliced_wasserstein,
    uniform_on,
)
from ..process import VE
from ..report.figures import COLOURS, new_figure
from ..report.tables import Table
from ..schedule import exponential_sigmas
from .experiment import Finding, Lab, Outcome, experiment
from .seeds import mean, spread, trained

N, MODES, SPREAD = 10, 5, 0.1
SIGMAS = (0.05, 3.0)
EXTRA = 0.1
"""The normal noise of Niso-DM: c in alpha_t = ln c / ln sigma_t."""
STEPS, BATCH, RATE, WIDTH = 1200, 256, 2e-3, 256
SAMPLES = 3000
PAPER = {
    ("Iso", "reversal"): "1.76e-2 +- 1.15e-2", ("Niso", "reversal"): "5.58e-3 +- 1.84e-3",
    ("Iso+res", "reversal"): "9.49e-3 +- 1.91e-3", ("Niso+res", "reversal"): "4.60e-3 +- 8.24e-4",
    ("Iso", "annealing"): "1.86e-2 +- 9.65e-3", ("Niso", "annealing"): "1.16e-2 +- 2.51e-3",
    ("Tango", "annealing"): "1.89e-2 +- 2.05e-3", ("Iso+res", "annealing"): "1.17e-2 +- 7.29e-4",
    ("Niso+res", "annealing"): "6.00e-3 +- 7.53e-4", ("Tango+res", "annealing"): "6.42e-3 +- 1.97e-3",
}  # fmt: skip
"""The slides' table: sliced 1-Wasserstein distance on their own five modes."""

SURFACE = Rotations(N)
NEAR: Callable[[Tensor], Tensor] = partial(SURFACE.nearly, rounds=8)
DATA_STD = N**-0.5
"""Of an entry of a rotation: its squares sum to N over N^2 entries."""
METHODS: dict[str, Callable[[bool], Objective]] = {
    "Iso": lambda rescaled: Iso(VE(), rescaled, data_std=DATA_STD),
    "Niso": lambda rescaled: Niso(VE(), rescaled, data_std=DATA_STD, surface=SURFACE, extra=EXTRA),
    "Tango": lambda rescaled: Tango(VE(), rescaled, data_std=DATA_STD, surface=SURFACE, below=0.5, project=NEAR),
}


def fitted(data: Tensor, objective: Objective, lab: Lab, part: str, seed: int) -> Trained:
    return trained(
        lab, seed, part, data, objective, lambda: MLP(N * N, WIDTH, 2, nn.SiLU, gain=True), log_uniform(*SIGMAS),
        steps=STEPS, batch=BATCH, rate=RATE, decay=True,
    )  # fmt: skip


def reversal(model: Trained, count: int, lab: Lab, part: str, seed: int) -> tuple[Tensor, float]:
    """(samples projected onto SO(10), how far from it the reverse SDE ended in the mean)."""
    generator = lab.generator(50 + seed)
    start = SIGMAS[1] * torch.randn(count, N * N, generator=generator)
    grid = exponential_sigmas(80, sigma_min=SIGMAS[0], sigma_max=SIGMAS[1])
    x = reverse_sde(model, start, grid, VE(), generator=generator, told=lab.watch(part))
    y = SURFACE.project(x)
    return y, float((x - y).norm(dim=1).mean())


def annealing(model: Trained, count: int, lab: Lab, part: str, seed: int) -> Tensor:
    generator = lab.generator(60 + seed)
    start = uniform_on(SURFACE, count, generator).float()
    levels = exponential_sigmas(25, sigma_min=SIGMAS[0], sigma_max=1.5)
    return annealed_langevin(
        model, start, levels, SURFACE, generator=generator, rounds=4, rate=0.5, largest=0.4 * SPREAD**2, project=NEAR,
        told=lab.watch(part),
    )  # fmt: skip


@experiment(
    "rotations", "SO(10), five modes: Iso, Niso, Tango", "Liu, Zhang, Li 2025; table of the slides",
    "a distance that falls from Iso over Niso to Niso with rescaling; and how large the spread over seeds is beside it",
)  # fmt: skip
def rotations(lab: Lab) -> Outcome:
    known = RotationModes(N, MODES, SPREAD)
    data = known.sample(lab.count(20_000, 500), lab.generator())
    count = lab.count(SAMPLES, 100)
    references = [known.sample(count, lab.generator(10 + k)) for k in range(lab.seeds + 1)]
    floor = [sliced_wasserstein(a, references[0]) for a in references[1:]]
    found: dict[tuple[str, str], list[float]] = {}
    off: dict[str, list[float]] = {}
    stopped = []
    for rescaled in (False, True):
        for method, make in METHODS.items():
            name = method + ("+res" if rescaled else "")
            for seed in range(lab.seeds):
                model = fitted(data, make(rescaled), lab, f"{name}, seed {seed}: training", seed)
                stopped += [f"{name}, seed {seed}: {model.stopped}"] if model.stopped else []
                if method != "Tango":  # its network is not trained across the manifold
                    x, away = reversal(model, count, lab, f"{name}, seed {seed}: reversal", seed)
                    found.setdefault((name, "reversal"), []).append(sliced_wasserstein(x, references[0]))
                    off.setdefault(name, []).append(away)
                y = annealing(model, count, lab, f"{name}, seed {seed}: annealing", seed)
                found.setdefault((name, "annealing"), []).append(sliced_wasserstein(y, references[0]))
    stats = {key: (mean(v), spread(v)) for key, v in found.items()}
    names = list(dict.fromkeys(name for name, _ in found))
    rows = []
    for name in names:
        cells = []
        for way in ("reversal", "annealing"):
            cells += [_said(stats[name, way]) if (name, way) in stats else "-", PAPER.get((name, way), "-")]
        rows.append([name, *cells, f"{sum(off[name]) / lab.seeds:.2f}" if name in off else "-"])
    rows.append(["floor: two samples of the data", _said((mean(floor), spread(floor))), "", "", "", ""])
    table = Table(
        "Sliced 1-Wasserstein distance to the data",
        ["training", "reversal", "slides", "annealing", "slides", "distance off SO(10) where reversal ends"], rows,
        [f"{lab.seeds} seeds, mean +- standard deviation; {count:,} samples, 500 directions. Reversal is projected "
         "onto SO(10) at its end; Tango has no reversal, as in the slides.",
         f"Network 2x{WIDTH} SiLU with a learned gain, {lab.count(STEPS, 20):,} steps of {BATCH}; modes Q_k exp(A) "
         f"with deviation {SPREAD:g}; sigma from {SIGMAS[0]:g} to {SIGMAS[1]:g}; c = {EXTRA:g}. The slides name "
         "neither network, levels, c nor the modes, so that only the order can be compared, not the numbers."],
    )  # fmt: skip
    means = {key: middle for key, (middle, _) in stats.items()}
    chain = [means[name, "reversal"] for name in ("Iso", "Niso", "Niso+res")]
    best = min((n for n, way in means if way == "annealing"), key=lambda n: means[n, "annealing"])
    spreads = [stats[name, "reversal"][1] for name in ("Iso", "Niso", "Niso+res")]
    rescaled_pair = [stats[name, "reversal"] for name in ("Iso+res", "Niso+res")]
    findings = [
        Finding("order by reversal", "Iso > Niso > Niso+res (1.76e-2, 5.58e-3, 4.60e-3), beyond the spread over seeds",
                ", ".join(f"{m:.2e} +- {d:.1e}" for m, d in zip(chain, spreads, strict=True)),
                _beyond((chain[0], spreads[0]), (chain[1], spreads[1]))
                and _beyond((chain[1], spreads[1]), (chain[2], spreads[2]))),
        Finding("Niso+res against Iso+res by reversal",
                "smaller (4.60e-3 against 9.49e-3), beyond the spread over seeds",
                " against ".join(map(_said, reversed(rescaled_pair))), _beyond(rescaled_pair[0], rescaled_pair[1])),
        Finding("best by annealing", "Niso+res (6.00e-3)", f"{best} ({means[best, 'annealing']:.2e})",
                best == "Niso+res"),
        Finding("rescaling by reversal", "Niso+res below Niso, Iso+res below Iso, beyond the spread over seeds",
                f"{chain[0]:.2e} to {means['Iso+res', 'reversal']:.2e}, {chain[1]:.2e} to {chain[2]:.2e}",
                _beyond(stats["Iso", "reversal"], rescaled_pair[0])
                and _beyond(stats["Niso", "reversal"], rescaled_pair[1])),
    ]  # fmt: skip
    figure = new_figure(9, 4)
    panel = figure.subplots()
    for i, way in enumerate(("reversal", "annealing")):
        for k, name in enumerate(names):
            if (name, way) in found:
                panel.plot([k + 0.16 * (i - 0.5)] * lab.seeds, found[name, way], "os"[i], color=COLOURS[i], ms=5,
                           label=way if k == 0 else None)  # fmt: skip
    panel.axhline(mean(floor), color=COLOURS[5], ls="--", lw=1)
    panel.set_yscale("log")
    panel.set_xticks(range(len(names)), names)
    panel.set_ylabel("sliced 1-Wasserstein distance")
    panel.set_title("each seed; dashed: two samples of the data", fontsize=10)
    panel.grid(alpha=0.3)
    panel.legend()
    return Outcome(findings, [table], {"distances": figure}, stopped)


def _beyond(larger: tuple[float, float], smaller: tuple[float, float]) -> bool:
    """Whether two means +- standard deviations differ by more than either deviation."""
    return larger[0] - smaller[0] > max(larger[1], smaller[1])


def _said(value: tuple[float, float]) -> str:
    return f"{value[0]:.2e} +- {value[1]:.1e}"
