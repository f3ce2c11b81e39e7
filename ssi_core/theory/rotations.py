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
    Slices,
    Tango,
    Trained,
    annealed_langevin,
    log_uniform,
    reverse_sde,
)
from ..process import VE
from ..report.figures import COLOURS, new_figure
from ..report.tables import Table
from ..schedule import exponential_sigmas
from .experiment import Finding, Lab, Outcome, experiment
from .seeds import RULE, below, lowest, mean, ordered, said, trained

N = 10
SIGMAS = (0.005, 3.0)
EXTRA = 0.01
"""c of the authors: the normal noise of Niso-DM, and the level under which Tango-DM is tangential."""
STEPS, BATCH, RATE, WIDTH = 1000, 256, 2e-3, 256
LEVELS = 60
"""Steps of the reverse SDE; theirs are 500."""
ROUNDS, H = 2, 2.0
"""Langevin steps at each level under `EXTRA`, and their size over sigma^2."""
DATA, SAMPLES, REFERENCES, LINES = 40_000, 20_000, 3, 256
"""Neither data nor samples grow with the scale beyond these; the training does."""
PAPER = {
    ("Iso", "reversal"): "1.76e-2 +- 1.15e-2", ("Niso", "reversal"): "5.58e-3 +- 1.84e-3",
    ("Iso+res", "reversal"): "9.49e-3 +- 1.91e-3", ("Niso+res", "reversal"): "4.60e-3 +- 8.24e-4",
    ("Iso", "annealing"): "1.86e-2 +- 9.65e-3", ("Niso", "annealing"): "1.16e-2 +- 2.51e-3",
    ("Tango", "annealing"): "1.89e-2 +- 2.05e-3", ("Iso+res", "annealing"): "1.17e-2 +- 7.29e-4",
    ("Niso+res", "annealing"): "6.00e-3 +- 7.53e-4", ("Tango+res", "annealing"): "6.42e-3 +- 1.97e-3",
}  # fmt: skip
"""The slides' table: sliced 1-Wasserstein distance on their own five modes."""
THEIRS = 8000
"""Samples on either side in the authors' measure."""

SURFACE = Rotations(N)
NEAR: Callable[[Tensor], Tensor] = partial(SURFACE.nearly, rounds=4)
DATA_STD = N**-0.5
"""Of an entry of a rotation: its squares sum to N over N^2 entries."""
METHODS: dict[str, Callable[[bool], Objective]] = {
    "Iso": lambda rescaled: Iso(VE(), rescaled, data_std=DATA_STD),
    "Niso": lambda rescaled: Niso(VE(), rescaled, data_std=DATA_STD, surface=SURFACE, extra=EXTRA),
    "Tango": lambda rescaled: Tango(VE(), rescaled, data_std=DATA_STD, surface=SURFACE, below=EXTRA, project=NEAR),
}


def fitted(data: Tensor, objective: Objective, lab: Lab, part: str, repeat: int) -> Trained:
    return trained(
        lab, repeat, part, data, objective, lambda: MLP(N * N, WIDTH, 2, nn.SiLU, gain=True), log_uniform(*SIGMAS),
        steps=STEPS, batch=BATCH, rate=RATE, decay=True,
    )  # fmt: skip


def reversal(model: Trained, count: int, lab: Lab, part: str, repeat: int) -> tuple[Tensor, Tensor]:
    """The reverse SDE's states [count, N^2] at the end, and where sigma first is `EXTRA` or less."""
    grid = exponential_sigmas(LEVELS, sigma_min=SIGMAS[0], sigma_max=SIGMAS[1])
    generator = lab.generator("start and noise of sampling", repeat)
    start = SIGMAS[1] * torch.randn(count, N * N, generator=generator)
    watch = lab.watch(part)
    near: list[Tensor] = []

    def told(done: int, of: int, x: Tensor) -> None:
        if float(grid[done]) <= EXTRA and not near:
            near.append(x)
        watch(done, of, x)

    return reverse_sde(model, start, grid, VE(), generator=generator, told=told), near[0]


def annealing(model: Trained, near: Tensor, lab: Lab, part: str, repeat: int) -> Tensor:
    """Langevin dynamics on SO(10) from where the reverse SDE meets `EXTRA`, as the authors' code does."""
    grid = exponential_sigmas(LEVELS, sigma_min=SIGMAS[0], sigma_max=SIGMAS[1])
    return annealed_langevin(
        model, SURFACE.project(near), grid[(grid > 0) & (grid <= EXTRA)], SURFACE, rounds=ROUNDS, rate=H, project=NEAR,
        generator=lab.generator("noise of annealing", repeat), told=lab.watch(part),
    )  # fmt: skip


@experiment(
    "rotations", "SO(10), five modes: Iso, Niso, Tango", "Liu, Zhang, Li 2025; table of the slides",
    "a distance that falls from Iso over Niso to Niso with rescaling; and how large the spread over repeats, and the "
    "distance of two samples of the data itself, are beside it",
)  # fmt: skip
def rotations(lab: Lab) -> Outcome:
    known = RotationModes(N)
    count = min(lab.count(SAMPLES, 100), SAMPLES)

    def exact(purpose: str, k: int, many: int = count) -> Slices:
        return Slices(known.sample(many, lab.generator(purpose, k)), LINES)

    references = [exact("references", k) for k in range(REFERENCES)]

    def away(x: Slices) -> float:
        return mean([x.distance(reference) for reference in references])

    floor = [away(exact("floor", k)) for k in range(lab.repeats)]
    few = min(THEIRS, count)
    theirs = [exact("floor", 10 + k, few).distance(exact("floor", 20 + k, few)) for k in range(lab.repeats)]
    found: dict[str, dict[str, list[float]]] = {"reversal": {}, "annealing": {}}
    off: dict[str, list[float]] = {}
    stopped = []
    data = [known.sample(min(lab.count(DATA, 500), DATA), lab.generator("data", k)) for k in range(lab.repeats)]
    for rescaled in (False, True):
        for method, make in METHODS.items():
            name = method + ("+res" if rescaled else "")
            for k in range(lab.repeats):
                part = f"{name}, repeat {k + 1}"
                model = fitted(data[k], make(rescaled), lab, f"{part}: training", k)
                stopped += [f"{part}: {model.stopped}"] if model.stopped else []
                end, near = reversal(model, count, lab, f"{part}: reversal", k)
                if method != "Tango":  # whose network is not trained across the manifold at the end
                    x = SURFACE.project(end)
                    found["reversal"].setdefault(name, []).append(away(Slices(x, LINES)))
                    off.setdefault(name, []).append(float((end - x).norm(dim=1).mean()))
                y = annealing(model, near, lab, f"{part}: annealing", k)
                found["annealing"].setdefault(name, []).append(away(Slices(y, LINES)))
    names = list(found["annealing"])
    rows = []
    for name in names:
        cells = []
        for way, values in found.items():
            cells += [said(values[name], ".2e") if name in values else "-", PAPER.get((name, way), "-")]
        rows.append([name, *cells, f"{mean(off[name]):.3f}" if name in off else "-"])
    rows.append([f"floor: {count:,} samples of the data", said(floor, ".2e"), "", said(floor, ".2e"), "", ""])
    rows.append([f"floor of the slides' measure: {few:,} against {few:,}", said(theirs, ".2e"), "", "", "", ""])
    table = Table(
        "Sliced 1-Wasserstein distance to the data",
        ["training", "reversal", "slides", "annealing", "slides", "distance off SO(10) where reversal ends"], rows,
        [f"{lab.repeats} repeats with data, weights and noise of their own, mean +- standard deviation; {count:,} "
         f"samples against each of {REFERENCES} independent references of that size, mean; {LINES} lines. Reversal is "
         "projected onto SO(10) at its end; Tango has none, as in the slides.",
         f"Levels {SIGMAS[0]:g} to {SIGMAS[1]:g}, c = {EXTRA:g}, modes and loss weights as in the authors' code. Not "
         f"theirs: a network of 2x{WIDTH} SiLU with a learned gain, {lab.count(STEPS, 20):,} steps of {BATCH}, a "
         f"falling rate and {LEVELS} sampling steps (theirs: 3x512 without a gain, 390,000 steps of 512, averaged "
         "weights, 500 sampling steps)."],
    )  # fmt: skip
    back, hot = found["reversal"], found["annealing"]
    best = min(hot, key=lambda name: mean(hot[name]))
    findings = [
        Finding("order by reversal", f"Iso > Niso > Niso+res (1.76e-2, 5.58e-3, 4.60e-3), {RULE}",
                ", ".join(said(back[name], ".2e") for name in ("Iso", "Niso", "Niso+res")),
                ordered(back["Niso+res"], back["Niso"], back["Iso"])),
        Finding("Niso+res against Iso+res by reversal", f"smaller (4.60e-3 against 9.49e-3), {RULE}",
                f"{said(back['Niso+res'], '.2e')} against {said(back['Iso+res'], '.2e')}",
                below(back["Niso+res"], back["Iso+res"])),
        Finding("best by annealing", f"Niso+res (6.00e-3), {RULE}",
                f"{best} ({said(hot[best], '.2e')}); Niso+res {said(hot['Niso+res'], '.2e')}", lowest("Niso+res", hot)),
        Finding("rescaling by reversal", f"Niso+res below Niso, Iso+res below Iso, {RULE}",
                f"{mean(back['Iso']):.2e} to {mean(back['Iso+res']):.2e}, "
                f"{mean(back['Niso']):.2e} to {mean(back['Niso+res']):.2e}",
                below(back["Iso+res"], back["Iso"]) and below(back["Niso+res"], back["Niso"])),
        Finding("floor of our measure: two samples of the data", "reported",
                f"{said(floor, '.2e')} ({count:,} against each of {REFERENCES} references)", None),
        Finding("floor of the slides' measure: two samples of the data", "reported",
                f"{said(theirs, '.2e')} ({few:,} against {few:,})", None),
    ]  # fmt: skip
    figure = new_figure(9, 4)
    panel = figure.subplots()
    for i, (way, values) in enumerate(found.items()):
        for k, name in enumerate(names):
            if name in values:
                panel.plot([k + 0.16 * (i - 0.5)] * lab.repeats, values[name], "os"[i], color=COLOURS[i], ms=5,
                           label=way if k == 0 else None)  # fmt: skip
    panel.axhline(mean(floor), color=COLOURS[5], ls="--", lw=1)
    panel.set_yscale("log")
    panel.set_xticks(range(len(names)), names)
    panel.set_ylabel("sliced 1-Wasserstein distance")
    panel.set_title("each repeat; dashed: two samples of the data", fontsize=10)
    panel.grid(alpha=0.3)
    panel.legend()
    return Outcome(findings, [table], {"distances": figure}, stopped)
