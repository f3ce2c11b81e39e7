"""Class edits of held-out scenes: SSI against base inversion and against noise without inversion, in one run.

    python benchmarks/editing.py [--scenes 64] [--out out/editing.png]

Every scene is drawn in one class and edited into each of the others. A scene is drawn from factors, so the true edit is
known: the same factors in the other class. For each way:

- changed: the share of edits that a small classifier, trained here on drawn scenes, takes for the class asked for; of
  all edits and of those into the class that does worst;
- to the true edit: PSNR against the true edit, of all edits (with its standard error) and of those between seasons;
- kept: PSNR against the source over the pixels that the true edit leaves alone (between seasons: night changes all);
- Gaussian: the share of noises that pass every figure;
- passes: of the network for an edit, there and back; guidance takes two for an evaluation.

Then base inversion and SSI again with twice the steps, and what SSI gains over base inversion edit by edit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssi_core import (
    DEFAULT_SKIP,
    DEFAULT_SOLVER,
    Inversion,
    demo_denoiser,
    gaussianity,
    integrate,
    invert,
    karras_sigmas,
    psnr,
    reconstruct,
    unit_noise,
)
from ssi_core.demo import DemoDenoiser
from ssi_core.demo.scenes import CLASSES, HELD_OUT, draw_scenes
from ssi_core.demo.train import scenes
from ssi_core.image import contact_sheet, save_image

NIGHT = list(CLASSES).index("night")
KEPT = 0.02
"""A pixel is left alone where the true edit changes it by less than this in every channel, of a range of 2."""
TOP = 80.0


@dataclass(frozen=True)
class Way:
    """How an edit is made."""

    name: str
    skip: float | None = DEFAULT_SKIP
    """None: no inversion, noise of `top` is added."""
    top: float = TOP
    """The level from which the other class is sampled."""
    guidance: float = 1.0
    carry: bool = False
    """Add what the way back as the source's own class lacks of the source."""


BASE, SSI = Way("base", 0.0), Way(f"SSI {DEFAULT_SKIP:g}")
WAYS = (
    BASE,
    SSI,
    *(Way(f"SSI {skip:g}", skip) for skip in (0.2, 0.5, 1.0)),
    *(replace(way, name=f"{way.name}, guidance {w:g}", guidance=w) for way, w in ((BASE, 2.0), (SSI, 2.0), (SSI, 3.0))),
    *(replace(way, name=f"{way.name}, residual carried", carry=True) for way in (BASE, SSI)),
    replace(SSI, name=f"{SSI.name}, only up to 10", top=10.0),
    *(Way(f"noise of {top:g}", None, top) for top in (0.5, 2.0, 5.0, 10.0, 20.0)),
    Way("noise of 2, guidance 3", None, 2.0, 3.0),
)
SHOWN = (BASE.name, SSI.name, "SSI 0.5", f"{SSI.name}, guidance 2", "noise of 2", "noise of 5", "noise of 20")


@dataclass(frozen=True)
class Edits:
    images: Tensor
    noise: Tensor | None
    passes: int


class Task:
    """Scenes, each into all other classes: edit e is of scene e mod `count`."""

    def __init__(self, count: int) -> None:
        own, kinds, seeds = torch.arange(count) % len(CLASSES), len(CLASSES), range(HELD_OUT, HELD_OUT + count)
        self.source, self.own = draw_scenes(seeds, labels=own), own
        self.targets = [(own + step) % kinds for step in range(1, kinds)]
        self.wanted = torch.cat(self.targets)
        self.before = self.source.repeat(kinds - 1, 1, 1, 1)
        self.truth = torch.cat([draw_scenes(seeds, labels=labels) for labels in self.targets])
        self.kept = ((self.truth - self.before).abs() < KEPT).all(1, keepdim=True)
        self.out_of_night, self.into_night = own.repeat(kinds - 1) == NIGHT, self.wanted == NIGHT
        self.seasons = ~self.out_of_night & ~self.into_night

    def kept_psnr(self, images: Tensor) -> Tensor:
        """PSNR to the source over the pixels to be kept, of edits between seasons."""
        squares = ((images - self.before).square() * self.kept)[self.seasons].flatten(1).sum(1)
        return 10 * torch.log10(4 * 3 * self.kept[self.seasons].flatten(1).sum(1) / squares)


class Editor:
    """Makes all edits of a task; sources are inverted once for all classes asked for."""

    def __init__(self, denoise: DemoDenoiser, task: Task, steps: int) -> None:
        self.denoise, self.task, self.steps = denoise, task, steps
        self.inverted, self.seen_as = lru_cache(self._inverted), lru_cache(self._seen_as)

    def _inverted(self, skip: float, top: float) -> tuple[Inversion, Tensor]:
        own = self.denoise.conditioned(self.task.own)
        found = invert(own, self.task.source, self._sigmas(self.steps, top), skip=skip)
        return found, reconstruct(own, found.noise, found.sigmas)

    def _seen_as(self, skip: float, top: float, guidance: float) -> Tensor:
        """The sources' noises, sampled as the classes asked for."""
        found, _ = self.inverted(skip, top)
        others = [self.denoise.conditioned(labels, guidance) for labels in self.task.targets]
        return torch.cat([reconstruct(other, found.noise, found.sigmas) for other in others])

    def _sigmas(self, steps: int, top: float) -> Tensor:
        return karras_sigmas(steps, sigma_min=self.denoise.sigma_min, sigma_max=top)

    def edits(self, way: Way) -> Edits:
        if way.skip is None:
            return self._noised(way)
        found, back = self.inverted(way.skip, way.top)
        images = self.seen_as(way.skip, way.top, way.guidance)
        if way.carry:
            images = images + (self.task.source - back).repeat(len(self.task.targets), 1, 1, 1)
        return Edits(images, found.noise, self.passes(way))

    def _noised(self, way: Way) -> Edits:
        """As many evaluations as SSI takes there and back, all of them on the way down."""
        evaluations = self.passes(Way(""))
        levels = self._sigmas(evaluations, way.top).tolist()
        noisy = self.task.source + way.top * unit_noise(self.task.source, range(len(self.task.source)))
        others = [self.denoise.conditioned(labels, way.guidance) for labels in self.task.targets]
        images = [integrate(other, noisy, levels, DEFAULT_SOLVER).x for other in others]
        return Edits(torch.cat(images), None, evaluations * (1 if way.guidance == 1 else 2))

    def passes(self, way: Way) -> int:
        """Of the network for one edit by inversion."""
        found, _ = self.inverted(way.skip or 0.0, way.top)
        return found.nfe + (len(found.sigmas) - 1) * ((1 if way.guidance == 1 else 2) + way.carry)


def classifier(steps: int = 400) -> nn.Module:
    """A small network that tells the classes of drawn scenes apart, under noise too."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU(), nn.Conv2d(32, 32, 3, 2, 1),
        nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, len(CLASSES)),
    )  # fmt: skip
    pictures, labels = scenes(0, 4096, len(CLASSES))
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(steps):
        at = torch.randint(len(pictures), (64,))
        seen = pictures[at] + 0.2 * torch.rand(64, 1, 1, 1) * torch.randn(64, *pictures.shape[1:])
        optimiser.zero_grad()
        F.cross_entropy(network(seen), labels[at]).backward()
        optimiser.step()
    return network.eval().requires_grad_(False)


def right(judge: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Whether each picture is taken for its class, [B]."""
    return (judge(images.clamp(-1, 1)).argmax(1) == labels).float()


def row(name: str, made: Edits, judge: nn.Module, task: Task) -> str:
    images = made.images.clamp(-1, 1)
    changed, near = right(judge, images, task.wanted), psnr(images, task.truth)
    least = min(float(changed[task.wanted == label].mean()) for label in range(len(CLASSES)))
    passed = () if made.noise is None else gaussianity(made.noise, task.source).verdicts
    gaussian = f"{sum(passed) / len(passed):.0%}" if passed else ""
    return (
        f"| {name} | {changed.mean():.0%}, {least:.0%} | {near.mean():.1f} +- {standard_error(near, task):.1f}, "
        f"{near[task.seasons].mean():.1f} | {task.kept_psnr(images).mean():.1f} | {gaussian} | {made.passes or ''} |"
    )


def standard_error(values: Tensor, task: Task) -> float:
    """Of the mean of one value an edit, over scenes: the edits of one scene are not independent."""
    by_scene = values.reshape(len(task.targets), -1).mean(0)
    return float(by_scene.std() / len(by_scene) ** 0.5)


def compared(editor: Editor, one: Way, other: Way) -> str:
    """What one way gains over another, edit by edit, and how near each comes to the source itself."""
    task = editor.task
    images = [editor.edits(way).images.clamp(-1, 1) for way in (one, other)]
    gains = psnr(images[0], task.truth) - psnr(images[1], task.truth)
    kept = task.kept_psnr(images[0]).mean() - task.kept_psnr(images[1]).mean()
    parts = {"between seasons": task.seasons, "out of night": task.out_of_night, "into night": task.into_night}
    told = ", ".join(f"{part} {gains[which].mean():+.1f}" for part, which in parts.items())
    back = [psnr(editor.inverted(way.skip or 0.0, way.top)[1], task.source).mean() for way in (one, other)]
    return (
        f"{one.name} less {other.name}: {gains.mean():+.1f} +- {standard_error(gains, task):.1f} dB to the true edit "
        f"({told}), {kept:+.1f} dB of what is kept; better in {(gains > 0).float().mean():.0%} of the edits\n"
        f"the source itself back: {one.name} {back[0]:.1f} dB, {other.name} {back[1]:.1f} dB"
    )


def rows(task: Task, shown: dict[str, Tensor], chosen: tuple[int, ...]) -> Iterator[Tensor]:
    """One row an edit: the source, the true edit, then `SHOWN`."""
    for edit in chosen:
        yield torch.stack([task.before[edit], task.truth[edit], *(shown[name][edit].clamp(-1, 1) for name in SHOWN)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/editing.png"))
    o = parser.parse_args()
    if o.scenes < 9:
        parser.error(f"--scenes {o.scenes}: 9 or more are wanted, of which the sheet shows some")
    torch.set_num_threads(o.threads)
    judge, task = classifier(), Task(o.scenes)
    editor = Editor(demo_denoiser(name="demo-classes"), task, o.steps)
    unseen, labels = scenes(HELD_OUT + 10_000, 2048, len(CLASSES))
    print(
        f"classifier: {right(judge, unseen, labels.argmax(1)).mean():.1%} of 2048 held-out scenes that are not edited"
    )
    print(f"classifier: {right(judge, task.truth, task.wanted).mean():.1%} of the true edits")
    print(f"to be kept between seasons: {task.kept[task.seasons].float().mean():.0%} of the pixels\n")
    print("| way | changed: all, worst class | to the true edit, dB: all, seasons | kept, dB | Gaussian | passes |")
    print("|---|---|---|---|---|---|")
    print(row("nothing done", Edits(task.before, None, 0), judge, task), flush=True)
    shown = {}
    for way in WAYS:
        made = editor.edits(way)
        shown[way.name] = made.images
        print(row(way.name, made, judge, task), flush=True)
    finer = Editor(editor.denoise, task, 2 * o.steps)
    for way in (BASE, SSI):
        print(row(f"{way.name}, N={finer.steps}", finer.edits(way), judge, task), flush=True)
    print(f"\n{compared(editor, SSI, BASE)}")
    o.out.parent.mkdir(parents=True, exist_ok=True)
    half = o.scenes
    sheet = contact_sheet(list(rows(task, shown, (0, 4 + half, 8 + 2 * half, 5, 6 + half, 7 + 2 * half))), scale=4)
    save_image(sheet, o.out)
    print(f"\n{o.out}, from the left: source, true edit, {', '.join(SHOWN)}")


if __name__ == "__main__":
    main()
