"""Plots of an evaluation. Drawn without pyplot, so that no global state or display is touched.

Needs matplotlib: imported where a report is made, never where the package is. A new plot is one entry of `PLOTS`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..canvas import BAD, GOOD, NEUTRAL
from ..image import contact_sheet, load_image, to_pixels
from ..report.figures import COLOURS, new_figure
from .distances import THEMSELVES, measured
from .interpolations import pairs_of
from .plan import Arm
from .preset import Preset
from .results import Results, compared, mean, ratios, standard_error, values
from .round_trips import shown_of
from .tables import floors
from .trajectories import CHUNK, sampled

MARKERS = "os^Dv*P"
_SHOWN = ("chan", "hori", "vert", "ks", "std", "edge")


def noise(results: Results, preset: Preset) -> Figure:
    """Every picture's noise, figure by figure, beside the floor."""
    floor = floors(results.plan.shape)
    figure = new_figure(13, 3.6)
    arms = [arm.name for arm in results.plan.arms]
    for panel, name in zip(figure.subplots(1, len(_SHOWN)), _SHOWN, strict=True):
        for s, set_ in enumerate(results.sets):
            for a, arm in enumerate(arms):
                own = values(results.of(arm, set_), name)
                apart = [a + 0.3 * (s - (len(results.sets) - 1) / 2) + 0.004 * (i % 9 - 4) for i in range(len(own))]
                panel.plot(apart, own, MARKERS[s], ms=4, alpha=0.7, color=COLOURS[s], label=set_ if a == 0 else None)
        panel.axhline(floor[name], color=NEUTRAL, ls="--", lw=1)
        panel.set_xticks(range(len(arms)), [arm.replace(", ", ",\n") for arm in arms], fontsize=7)
        panel.set_xlim(-0.6, len(arms) - 0.4)
        panel.set_title(name, fontsize=10)
    figure.axes[0].legend(fontsize=8)
    figure.suptitle("Figures of each noise; dashed: true Gaussian noise of this shape", fontsize=11)
    return figure


def tradeoff(results: Results, preset: Preset) -> Figure:
    """Error, standard deviation and CHAN of the noise against the skip, one line for each number of steps."""
    plan, floor = results.plan, floors(results.plan.shape)
    shown = [("mse", "MSE", math.nan), ("std", "std of the noise", 1.0), ("chan", "CHAN of the noise", floor["chan"])]
    shown += [("brisque", "BRISQUE", math.nan)] if "brisque" in plan.metrics else []
    figure = new_figure(4.8 * len(results.sets), 2.5 * len(shown))
    panels = figure.subplots(len(shown), len(results.sets), squeeze=False, sharex=True, sharey="row")
    skips = sorted({arm.skip for arm in plan.arms})
    for column, set_ in enumerate(results.sets):
        kept = compared(results, set_)
        for line_number, (name, label, line) in enumerate(shown):
            panel = panels[line_number][column]
            for i, steps in enumerate(sorted({arm.steps for arm in plan.arms})):
                arms = sorted((a for a in plan.arms if a.steps == steps), key=lambda arm: arm.skip)
                rows = [(a.skip, kept[a.name]) for a in arms if values(kept[a.name], name)]
                at = [skips.index(skip) for skip, _ in rows]
                panel.errorbar(
                    at, [mean(own, name) for _, own in rows], [standard_error(own, name) for _, own in rows],
                    marker="o", ms=4, lw=1.2, elinewidth=0.8, color=COLOURS[i], label=f"N={steps}",
                )  # fmt: skip
            if not math.isnan(line):
                panel.axhline(line, color=NEUTRAL, ls="--", lw=1)
            panel.set_xticks(range(len(skips)), [f"{s:g}" if s else "base" for s in skips])
            panel.grid(alpha=0.3)
            if name == "mse":
                panel.set_title(set_)
                if any(values(own_rows, name) for own_rows in kept.values()):
                    panel.set_yscale("log")
                else:
                    _nothing(panel)
            if column == 0:
                panel.set_ylabel(label)
        panels[-1][column].set_xlabel("sigma_skip")
    panels[0][0].legend(fontsize=8)
    figure.suptitle("Means and their standard errors\ndashed: true Gaussian noise", fontsize=11)
    return figure


def pareto(results: Results, preset: Preset) -> Figure:
    """PSNR against evaluations; filled where at least half of the noises are Gaussian, with the best of these named."""
    figure = new_figure(6.4 * len(results.sets), 5.6)
    solvers = list(dict.fromkeys(arm.solver for arm in results.plan.arms))
    for panel, set_ in zip(figure.subplots(1, len(results.sets), squeeze=False)[0], results.sets, strict=True):
        good, kept = [], compared(results, set_)
        for arm in results.plan.arms:
            own = kept[arm.name]
            nfe, psnr, passes = mean(own, "nfe"), mean(own, "psnr"), mean(own, "gaussian") >= 0.5
            i = solvers.index(arm.solver)
            panel.plot(nfe, psnr, MARKERS[i], color=COLOURS[i], ms=7, mfc=COLOURS[i] if passes else "none")
            good += [(nfe, psnr, arm)] if passes else []
        front: list[tuple[float, float, Arm]] = []
        for point in sorted(good, key=lambda p: (p[0], -p[1])):
            if not front or point[1] > front[-1][1] + 0.1:  # less than that is no reason to spend more
                front.append(point)
        panel.step([p[0] for p in front], [p[1] for p in front], where="post", color=GOOD, lw=1, zorder=0)
        for number, (nfe, psnr, _) in enumerate(front, start=1):
            panel.annotate(str(number), (nfe, psnr), xytext=(-4, 7), textcoords="offset points", fontsize=9)
        words = [f"{n}: {a.solver} N={a.steps} skip {a.skip:g}: {nfe:.0f} evaluations, {psnr:.1f} dB"
                 for n, (nfe, psnr, a) in enumerate(front, start=1)]  # fmt: skip
        panel.set_xlabel("evaluations, there and back\n\nbest of the filled:\n" + "\n".join(words), fontsize=8)
        panel.set_xscale("log")
        panel.set_xticks([20, 40, 80, 160], ["20", "40", "80", "160"])
        panel.minorticks_off()
        panel.margins(x=0.12, y=0.12)
        panel.grid(alpha=0.3)
        panel.set_title(set_)
    for i, solver in enumerate(solvers):
        figure.axes[0].plot([], [], MARKERS[i], color=COLOURS[i], label=solver)
    figure.axes[0].set_ylabel("PSNR, dB")
    figure.axes[0].legend(fontsize=8)
    figure.suptitle("Filled: at least half of the noises are Gaussian by every figure\nOpen: fewer, however good the "
                    "picture", fontsize=11)  # fmt: skip
    return figure


def curves(results: Results, preset: Preset) -> Figure:
    """The singularity along trajectories."""
    figure = new_figure(7, 4.6)
    panel = figure.subplots()
    for i, arm in enumerate(results.plan.arms):
        own = results.of(arm.name)
        panel.plot(values(own, "sigma"), values(own, "curve"), marker=".", ms=3, color=COLOURS[i], label=arm.name)
    panel.set_xscale("log")
    panel.set_ylim(bottom=0)
    panel.set_xlabel("sigma")
    panel.set_ylabel("|E[x0|x] - x| / (sigma sqrt d)")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=9)
    panel.set_title("Flat at small sigma: the score grows as 1/sigma. Falling there, to the left: it is not followed\n"
                    "(exact curves bend at the data's own scale, and are flat below it)", fontsize=9)  # fmt: skip
    return figure


def cosines(results: Results, preset: Preset) -> Figure:
    """Cosines between the noises that several seeds give of one picture."""
    count = int(results.plan.options["repeats"])
    pictures = list(dict.fromkeys((r["index"], r["image"]) for r in results.rows))
    figure = new_figure(3.6 * len(pictures) + 1, 3.6)
    arm, shown = results.plan.arms[0].name, None
    for panel, (index, name) in zip(figure.subplots(1, len(pictures), squeeze=False)[0], pictures, strict=True):
        own = [r for r in results.of(arm) if r["index"] == index]
        grid = [[float(r[f"cosine_{k}"]) for k in range(count)] for r in own]
        panel.set_title(name, parse_math=False)  # a file's: $ means nothing in it
        panel.set_xticks([])
        panel.set_yticks([])
        if not grid:
            _nothing(panel)
            continue
        shown = panel.imshow(grid, vmin=-1, vmax=1, cmap="RdBu_r")
        for i, row in enumerate(grid):
            for j, value in enumerate(row):
                words = f"{round(value, 2) + 0.0:.2f}".replace("0.", ".")  # + 0.0: no "-.00"
                colour = "white" if abs(value) > 0.6 else "black"
                panel.text(j, i, words, ha="center", va="center", fontsize=6, color=colour)
    if shown is not None:
        figure.colorbar(shown, ax=figure.axes, shrink=0.8)
    figure.suptitle("cosine between the noises of one picture under different seeds", fontsize=11)
    return figure


def wins(results: Results, preset: Preset) -> Figure:
    """How many times larger the error of what an arm is compared with is on the median picture."""
    figure = new_figure(8, 4.4)
    panel = figure.subplots()
    pairs = [arm for arm in results.plan.arms if arm.against]
    for s, set_ in enumerate(results.sets):
        panel.barh(math.nan, 0, color=COLOURS[s], label=set_)  # named whatever there is to compare
        for i, arm in enumerate(pairs):
            found = ratios(results, arm.name, arm.against, set_)
            ratio = statistics.median(found) if found else math.nan
            base = results.of(arm.against, set_)
            at = i + 0.34 * (s - (len(results.sets) - 1) / 2)
            if 0 < ratio < math.inf:
                panel.barh(at, ratio - 1, height=0.3, left=1, color=COLOURS[s])
                words = f" {ratio:.2f}, std {mean(base, 'std'):.2f} to {mean(results.of(arm.name, set_), 'std'):.2f} "
                panel.text(ratio, at, words, va="center", ha="left" if ratio >= 1 else "right", fontsize=7)
            else:
                who = "both" if math.isnan(ratio) else arm.against if ratio else arm.name
                panel.text(1, at, f" {who} failed ", va="center", color=BAD, fontsize=7)
    one = {arm.against for arm in pairs}
    against = one.pop() if len(one) == 1 else "the base method in the same setting"
    panel.axvline(1, color=NEUTRAL, lw=1)
    panel.set_xscale("log")
    panel.margins(x=0.45)
    panel.set_yticks(range(len(pairs)), [arm.name for arm in pairs], fontsize=8)
    panel.invert_yaxis()
    panel.legend(fontsize=8)
    panel.set_xlabel(
        f"MSE of {against} / MSE of the arm, median over pictures\n"
        "right of 1 the arm gives the better picture; std: of the noises of the one and of the other",
        fontsize=9,
    )
    return figure


def sheet(results: Results, preset: Preset) -> Figure:
    """Pictures, their noises and what came back, arm by arm (Figures 7 to 10)."""
    arms = [arm.name for arm in results.plan.arms]
    indices = shown_of(results.plan, results.pictures)
    # Noise and reconstruction side by side, or one above the other where there are too many arms for that.
    stacked = len(arms) > 3
    columns = len(arms) * (1 if stacked else 2) + 1
    lines = len(indices) * (2 if stacked else 1)
    figure = new_figure(1.25 * columns, 1.35 * lines + 0.5)
    panels = figure.subplots(lines, columns, squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    for i, index in enumerate(indices):
        line = 2 * i if stacked else i
        there = next((arm for arm in arms if _kept(results, arm, f"{index:05d}.image.png")), arms[0])
        _picture(panels[line][0], results, there, f"{index:05d}.image.png", "image" if i == 0 else "")
        for a, arm in enumerate(arms):
            noise = panels[line][a + 1] if stacked else panels[line][2 * a + 1]
            back = panels[line + 1][a + 1] if stacked else panels[line][2 * a + 2]
            _picture(
                noise,
                results,
                arm,
                f"{index:05d}.noise.png",
                f"{arm}\nnoise{', back' if stacked else ''}" if i == 0 else "",
            )
            _picture(back, results, arm, f"{index:05d}.back.png", f"{arm}\nback" if i == 0 and not stacked else "")
            for row in (r for r in results.of(arm) if r["index"] == str(index)):
                passes = row["gaussian"] == "1.0"
                said = f"std {float(row['std']):.2f}" + ("" if passes else ", not Gaussian")
                noise.set_xlabel(said, fontsize=6, color=GOOD if passes else BAD, labelpad=1)
                back.set_xlabel(f"MSE {float(row['mse']):.5f}", fontsize=6, labelpad=1)
    return figure


def _picture(panel: Axes, results: Results, arm: str, name: str, title: str) -> None:
    """A kept picture of a result; words where it failed, or is gone."""
    panel.axis("on")
    panel.set_xticks([])
    panel.set_yticks([])
    panel.set_title(title, fontsize=7)
    for path in _kept(results, arm, name):
        panel.imshow(to_pixels(load_image(path))[0], interpolation="nearest")
        return
    _nothing(panel, "no picture")


def _nothing(panel: Axes, words: str = "failed") -> None:
    panel.text(0.5, 0.5, words, transform=panel.transAxes, ha="center", va="center", color=BAD, fontsize=8)


def repeats(results: Results, preset: Preset) -> Figure:
    """One picture and what every one of its noises gives back (Figure 5b)."""
    arm, count = results.plan.arms[0].name, int(results.plan.options["repeats"])
    rows = []
    for path in _kept(results, arm, "?????.image.png"):
        picture = load_image(path)
        stems = [path.name.split(".")[0] + (f"-{k}" if k else "") for k in range(count)]
        backs, noises = (
            # Grey stands for one that someone has removed.
            [load_image(one) if one.exists() else torch.zeros_like(picture) for one in ways]
            for ways in ([path.with_name(f"{stem}.{what}.png") for stem in stems] for what in ("back", "noise"))
        )
        rows += [torch.cat([picture, *backs]), torch.cat([torch.ones_like(picture), *noises])]
    if not rows:
        figure = new_figure(9, 2)
        _nothing(figure.subplots(), "no picture")
        return figure
    drawn = to_pixels(contact_sheet(rows, scale=2))[0]
    figure = new_figure(9, 9 * drawn.shape[0] / drawn.shape[1] + 0.4)
    panel = figure.subplots()
    panel.imshow(drawn, interpolation="nearest")
    panel.axis("off")
    panel.set_title(
        "first the picture, then what each seed's noise gives back, and below it that noise; grey: gone", fontsize=10
    )
    return figure


def blends(results: Results, preset: Preset) -> Figure:
    """Picture, blends from end to end, picture; the frames beside the pictures are their reconstructions."""
    weights = results.plan.options["weights"]
    pairs = [str(first.index) for first, _ in pairs_of(results.pictures)]
    columns = ["picture", "0", *(f"{w:g}" for w in weights), "1", "picture"]
    lines = [(index, arm) for index in pairs for arm in results.plan.arms]
    figure = new_figure(1.15 * len(columns) + 0.8, 1.25 * len(lines) + 0.3)
    for row, ((index, arm), panels) in enumerate(
        zip(lines, figure.subplots(len(lines), len(columns), squeeze=False), strict=True)
    ):
        names = ["a", *(f"frame{k}" for k in range(len(weights) + 2)), "b"]
        own = {int(r["repeat"]): r for r in results.of(arm.name) if r["index"] == index}
        for column, name in enumerate(names):
            panel: Axes = panels[column]
            _picture(panel, results, arm.name, f"{int(index):05d}.{name}.png", columns[column] if row == 0 else "")
            if column - 2 in own:
                passes = own[column - 2]["gaussian"] == "1.0"
                words = f"std {float(own[column - 2]['std']):.2f}" + ("" if passes else ", not G.")
                panel.set_xlabel(words, fontsize=6, color=GOOD if passes else BAD, labelpad=1)
        panels[0].set_ylabel(arm.name, fontsize=8)
    return figure


def plane(results: Results, preset: Preset) -> Figure:
    """Samples and trajectories of the first chunk, computed again."""
    figure = new_figure(11, 5.2)
    for panel, arm in zip(figure.subplots(1, len(results.plan.arms)), results.plan.arms, strict=True):
        states, _ = sampled(arm, results.plan.seed, 0, CHUNK)
        for i in range(40):
            panel.plot(states[:, i, 0], states[:, i, 1], color=NEUTRAL, lw=0.5, alpha=0.6)
        panel.plot(states[-1, :2000, 0], states[-1, :2000, 1], ".", color=COLOURS[1], ms=4)
        panel.set_xlim(-6, 6)
        panel.set_ylim(-6, 6)
        panel.set_aspect("equal")
        panel.set_title(f"{arm.name}: 2,000 samples, 40 trajectories from sigma 80", fontsize=10)
    return figure


def distances(results: Results, preset: Preset) -> Figure:
    """Frechet distances of blends to pictures of their kind, against the weight (Figure 11)."""
    found = measured(results)
    names = [name for name in preset.distances if name not in results.plan.missing]
    kinds = list(dict.fromkeys(row["set"] for row in found))
    if not kinds:
        figure = new_figure(9, 2)
        figure.text(0.5, 0.5, "too few pictures to compare", ha="center", color=BAD)
        return figure
    figure = new_figure(5.4 * len(kinds), 3.8 * len(names))
    panels = figure.subplots(len(names), len(kinds), squeeze=False)
    for line, name in enumerate(names):
        for column, kind in enumerate(kinds):
            panel: Axes = panels[line][column]
            own = [row for row in found if (row["set"], row["distance"]) == (kind, name)]
            for i, arm in enumerate(dict.fromkeys(row["arm"] for row in own)):
                rows = [row for row in own if row["arm"] == arm]
                if rows[0]["weight"]:
                    at, value = values(rows, "weight"), values(rows, "value")
                    panel.plot(at, value, marker="o", ms=4, color=COLOURS[i], label=arm)
                else:
                    style = ":" if arm == THEMSELVES else "--"
                    panel.axhline(float(rows[0]["value"]), color=COLOURS[i], ls=style, lw=1.2, label=arm)
            panel.set_ylim(bottom=0)
            panel.set_xlabel("lambda")
            panel.set_ylabel(name)
            panel.grid(alpha=0.3)
            panel.set_title(f"{kind}: {own[0]['pictures']} pictures a set, {own[0]['reference']} to compare with",
                            fontsize=10)  # fmt: skip
            panel.legend(fontsize=8)
    figure.suptitle("With few pictures a set, differences between these distances mean nothing", fontsize=11)
    return figure


def _kept(results: Results, arm: str, pattern: str) -> list[Path]:
    return sorted((results.folder / "pictures" / arm).glob(pattern))


PLOTS: dict[str, Callable[[Results, Preset], Figure]] = {
    "noise": noise, "tradeoff": tradeoff, "pareto": pareto, "curves": curves, "cosines": cosines, "wins": wins,
    "sheet": sheet, "repeats": repeats, "blends": blends, "plane": plane, "distances": distances,
}  # fmt: skip
