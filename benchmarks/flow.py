"""Inversion of a rectified flow: with and without a skip, and controlled as in RF-Inversion, at equal evaluations.

    python benchmarks/flow.py [--count 32] [--steps 10 20 40] [--pairs 8] [--out out/flow.png]

Prints Markdown tables (held-out scenes, held-out photo crops, morphs) and draws one picture. Every way inverts over N
levels and samples over the same: 2 N - 1 evaluations there and back.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ssi_core import (
    Inversion,
    Progress,
    demo_denoiser,
    flow_sigmas,
    gaussianity,
    invert,
    karras_sigmas,
    reconstruct,
    singularity_curve,
    slerp,
    unit_noise,
)
from ssi_core.canvas import BAD, GOOD
from ssi_core.demo import DemoDenoiser
from ssi_core.demo.photos import held_out_photos
from ssi_core.demo.scenes import HELD_OUT, draw_scenes
from ssi_core.evaluate.controlled import controlled
from ssi_core.evaluate.metrics import METRICS, Trip
from ssi_core.image import contact_sheet, to_pixels
from ssi_core.inversion import DEFAULT_SOLVER
from ssi_core.metrics import cosine, mse, psnr
from ssi_core.morph import morph
from ssi_core.report.figures import new_figure, save_plot
from ssi_core.skip import DEFAULT_SKIP

SKIPS = (0.03, 0.05, DEFAULT_SKIP, 0.1, 0.15)
"""What `invert` is given as skip, in the flow's time; a skip that it chooses itself belongs here too."""
COLUMNS = ("psnr", "std", "chan", "ks", "kurtosis", "edge", "gaussian")
DRAWN = 50_000
"""First seed of the noise that RF-Inversion is led to."""


@dataclass(frozen=True)
class Way:
    """One way up and back."""

    name: str
    solver: str = "euler"
    skip: float = 0.0
    schedule: Callable[..., Tensor] = flow_sigmas
    """Even in t, as flow models are sampled, unless said."""
    gamma: float | None = None
    """Strength of RF-Inversion's control on the way up."""
    eta: float = 0.0
    share: float = 1.0
    """Strength on the way down, and of what share of the steps: the first ones."""

    def put_in(self, images: Tensor) -> Tensor | None:
        """The noise that the way up is given, if any: added at the skip, or led to."""
        if self.gamma is not None:
            return unit_noise(images, range(DRAWN, DRAWN + len(images)))
        return unit_noise(images, range(len(images))) if self.skip else None

    def up(self, denoise: DemoDenoiser, images: Tensor, steps: int) -> Inversion:
        drawn = self.put_in(images)
        solver = self.solver if self.gamma is None or drawn is None else controlled(drawn, self.gamma)
        sigmas = self.schedule(steps, sigma_min=denoise.sigma_min, sigma_max=denoise.sigma_max)
        found = invert(denoise, images, sigmas, skip=self.skip, solver=solver, grid="spread")
        return replace(found, solver=self.solver)

    def trip(self, denoise: DemoDenoiser, images: Tensor, steps: int) -> Trip:
        found, spent = self.up(denoise, images, steps), [0]

        def watch(now: Progress) -> None:
            spent[0] = now.nfe

        solver = controlled(images, self.eta, self.share) if self.eta else self.solver
        back = reconstruct(denoise, found.noise, found.sigmas, solver=solver, progress=watch)
        return Trip(images, found.noise, back, found.nfe + spent[0])


def karras_ratios(steps: int, *, sigma_min: float, sigma_max: float) -> Tensor:
    """Karras levels of t / (1 - t), up to 80; the largest is pure noise."""
    ratios = karras_sigmas(steps, sigma_min=sigma_min / (1 - sigma_min))
    levels = ratios / (1 + ratios)
    levels[0] = sigma_max
    return levels


LEVELS: dict[str, Callable[..., Tensor]] = {
    "shift 1.5": partial(flow_sigmas, shift=1.5), "shift 3": partial(flow_sigmas, shift=3.0),
    "Karras levels of t": karras_sigmas, "Karras levels of t / (1 - t)": karras_ratios,
}  # fmt: skip
"""In place of even ones."""
LED = Way("RF-Inversion, gamma .5; free way back", gamma=0.5)
"""The authors' gamma."""
WAYS = (
    Way("base, Euler"),
    Way(f"base, {DEFAULT_SOLVER}", DEFAULT_SOLVER),
    *(replace(LED, name=f"RF-Inversion, gamma {gamma}; free way back", gamma=gamma) for gamma in (0.02, 0.1)),
    LED,
    replace(LED, name="the same; way back led to the image, eta .9, first quarter", eta=0.9, share=0.25),
    replace(LED, name="the same; way back led to the image, eta .9, all of it", eta=0.9),
    replace(LED, name="the drawn noise, no inversion; way back led, eta .9, all of it", gamma=1.0, eta=0.9),
    Way(f"SSI {DEFAULT_SKIP:g}, Euler", skip=DEFAULT_SKIP),
    Way(f"SSI {DEFAULT_SKIP:g}, ab2", "ab2", DEFAULT_SKIP),
    *(
        Way(f"SSI {DEFAULT_SKIP:g}, {DEFAULT_SOLVER}, {name}", DEFAULT_SOLVER, DEFAULT_SKIP, levels)
        for name, levels in LEVELS.items()
    ),
    *(Way(f"SSI {skip}, {DEFAULT_SOLVER}", DEFAULT_SOLVER, skip) for skip in SKIPS),
)
DEFAULT = next(way for way in WAYS if way == Way(way.name, DEFAULT_SOLVER, DEFAULT_SKIP))
SHOWN = (WAYS[0], LED, DEFAULT)
"""Ways of the picture, and of the morphs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--steps", type=int, nargs="*", default=[10, 20, 40])
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("out/flow.png"))
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    denoise = demo_denoiser(name="demo-flow")
    scenes, photos = draw_scenes(range(HELD_OUT, HELD_OUT + max(o.count, o.pairs, 4))), held_out_photos()
    print(denoise.signature)
    for steps in o.steps:
        table(f"{o.count} scenes", scenes[: o.count], steps, denoise)
        table(f"{o.count} photo crops", photos[: o.count], steps, denoise)
    disturbed({"scenes": scenes[: o.count], "photo crops": photos[: o.count]}, 20, denoise)
    strips = morphs(torch.cat([scenes[: o.pairs], photos[: o.pairs]]), 20, o.frames, denoise)
    o.out.parent.mkdir(parents=True, exist_ok=True)
    draw(torch.cat([scenes[[0, 3]], photos[[4, 5]]]), strips, denoise, o.out)


def table(name: str, images: Tensor, steps: int, denoise: DemoDenoiser) -> None:
    print(f"\n{name}, N={steps}\n")
    print(f"| way | NFE | {' | '.join(COLUMNS)} | cosine with the noise put in |")
    print("|---|" + "---|" * (len(COLUMNS) + 2))
    for way in WAYS:
        trip = way.trip(denoise, images, steps)
        figures = (f"{float(METRICS[column].of(trip).mean()):.4g}" for column in COLUMNS)
        put_in = way.put_in(images)
        alike = "" if put_in is None else f"{float(cosine(trip.noise, put_in).mean()):.2f}"
        print(f"| {way.name} | {trip.nfe} | {' | '.join(figures)} | {alike} |", flush=True)
    floors = (f"{float(getattr(trip.report.floor, column)):.4g}" for column in COLUMNS[2:-1])
    print(f"| true Gaussian noise | | | 1 | {' | '.join(floors)} | 1 | |")


def disturbed(sets: dict[str, Tensor], steps: int, denoise: DemoDenoiser) -> None:
    """Print where the network stops following the noise, and what 5% of fresh noise on a latent does to the picture."""
    levels = karras_sigmas(32, sigma_min=denoise.sigma_min, sigma_max=denoise.sigma_max)
    for name, images in sets.items():
        stops = singularity_curve(denoise, images, levels).stops
        print(f"\n{name}: the network stops following at t {float(stops.median()):.3f} (median)")
        print(f"\n| MSE after 5% noise, N={steps} | {name} |\n|---|---|")
        for way in (WAYS[0], WAYS[1], DEFAULT):
            found = way.up(denoise, images, steps)
            noise = found.noise + 0.05 * unit_noise(images, range(10_000, 10_000 + len(images)))
            back = reconstruct(denoise, noise, found.sigmas, solver=found.solver)
            print(f"| {way.name} | {float(mse(back, images).mean()):.5f} |", flush=True)


def morphs(pictures: Tensor, steps: int, frames: int, denoise: DemoDenoiser) -> list[Tensor]:
    """Print what morphs of neighbours in a list of pictures are like; returns strips of the first and the last pair."""
    starts = range(0, len(pictures), 2)
    print(f"\n{len(starts)} morphs, half of them of photo crops, {frames} frames by angle, N={steps}\n")
    print(
        "| way | keyframes, dB | largest step / median: median of the pairs, worst | halves Gaussian | NFE of a pair |"
    )
    print("|---|---|---|---|---|")
    strips = []
    for way in SHOWN:
        found = way.up(denoise, pictures, steps)
        keys = [found.sample(i) for i in range(len(pictures))]
        paths = [morph(denoise, keys[i : i + 2], frames, pace="angle") for i in starts]
        ends = torch.cat([path.frames[[0, -1]] for path in paths])
        uneven = torch.tensor([path.evenness for path in paths])
        halves = gaussianity(torch.cat([slerp(keys[i].noise, keys[i + 1].noise, torch.tensor([0.5])) for i in starts]))
        print(
            f"| {way.name} | {float(psnr(ends, pictures).mean()):.1f} | {float(uneven.median()):.2f}, "
            f"{float(uneven.max()):.2f} | {sum(halves.verdicts)} of {len(starts)} | {2 * found.nfe + paths[0].nfe} |",
            flush=True,
        )
        strips.append([paths[i].frames[:: max(1, frames // 12)] for i in (0, -1)])
    return [strip[pair] for pair in (0, 1) for strip in strips]


def draw(pictures: Tensor, strips: list[Tensor], denoise: DemoDenoiser, path: Path) -> None:
    """Pictures, their noises in green (Gaussian) or red frames, what came back at N=20; and two morphs."""
    figure = new_figure(13, 13.5)
    halves = figure.add_gridspec(2, 1, height_ratios=[7, 6.5])
    top, bottom = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
    trips = {wrapped(way.name): way.trip(denoise, pictures, 20) for way in SHOWN}
    columns = [("held out", pictures), *((f"noise\n{name}", trip.noise / 3) for name, trip in trips.items()),
               *((f"back\n{name}", trip.back) for name, trip in trips.items())]  # fmt: skip
    axes = top.subplots(len(pictures), len(columns))
    for column, (title, images) in enumerate(columns):
        axes[0, column].set_title(title, fontsize=9)
        for row, panel in enumerate(axes[:, column]):
            panel.imshow(to_pixels(images[row : row + 1])[0], interpolation="nearest")
            panel.set_xticks([])
            panel.set_yticks([])
    for column, trip in enumerate(trips.values(), start=1):
        for row, good in enumerate(trip.report.verdicts):
            noise, back = axes[row, column], axes[row, column + len(trips)]
            noise.set_xlabel(f"std {float(trip.report.std[row]):.2f}", color=GOOD if good else BAD, fontsize=9)
            back.set_xlabel(f"{float(psnr(trip.back, pictures)[row]):.1f} dB", fontsize=9)
            for spine in noise.spines.values():
                spine.set(color=GOOD if good else BAD, linewidth=2.5)
    panel, sheet = bottom.subplots(), contact_sheet(strips, scale=3, gap=1)
    panel.imshow(to_pixels(sheet)[0])
    panel.set_title("morphs: slerp of two noises, then sampling without control", fontsize=10)
    centres = [sheet.shape[-2] / len(strips) * (i + 0.5) for i in range(len(strips))]
    panel.set_yticks(centres, [*trips] * (len(strips) // len(trips)), fontsize=8)
    panel.set_xticks([])
    save_plot(figure, path)


def wrapped(name: str) -> str:
    return name.replace(", ", "\n").replace("; ", "\n")


if __name__ == "__main__":
    main()
