"""Class edits of held-out scenes: SSI against base inversion and against noise without inversion, in one run.

    python benchmarks/editing.py [--scenes 64] [--out docs/editing.jpg]

Every scene is drawn in one class and edited into each of the others. A scene is drawn from factors, so the true edit is
known: the same factors in the other class. For each way:

- changed: the share of edits that a small classifier, trained here on drawn scenes, takes for the class asked for;
- to the true edit: PSNR against the true edit, of all edits and of those between seasons alone;
- kept: PSNR against the source over the pixels that the true edit leaves alone (seasons alone: night changes all);
- Gaussian: the share of noises that pass every figure;
- passes: of the network a picture, there and back; guidance takes two an evaluation.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssi_core import (
    DEFAULT_SKIP,
    DEFAULT_SOLVER,
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
from ssi_core.image import contact_sheet, save_image

NIGHT = list(CLASSES).index("night")
KEPT = 0.02
"""A pixel is left alone where the true edit changes it by less than this in every channel, of a range of 2."""
SHOWN = ("true edit", "base", "SSI", "SSI, guidance 2", "noise of 0.5", "noise of 2", "noise of 10")


@dataclass(frozen=True)
class Way:
    """How an edit is made."""

    name: str
    skip: float | None = DEFAULT_SKIP
    """None: no inversion, noise of `top` is added."""
    top: float = 80.0
    """The level from which the other class is sampled."""
    guidance: float = 1.0
    carry: bool = False
    """Add what the way back under the source's own class lacks of the source."""


WAYS = (
    Way("base", 0.0),
    *(Way(f"SSI {skip:g}" if skip != DEFAULT_SKIP else "SSI", skip) for skip in (0.03, DEFAULT_SKIP, 0.2, 0.5, 1.0)),
    *(Way(f"base, guidance {w:g}", 0.0, guidance=w) for w in (2.0, 3.0)),
    *(Way(f"SSI, guidance {w:g}", guidance=w) for w in (2.0, 3.0)),
    Way("base, residual carried", 0.0, carry=True),
    Way("SSI, residual carried", carry=True),
    *(Way(f"base up to {top:g}", 0.0, top) for top in (2.0, 10.0)),
    *(Way(f"SSI up to {top:g}", top=top) for top in (2.0, 10.0)),
    *(Way(f"noise of {top:g}", None, top) for top in (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)),
    *(Way(f"noise of {top:g}, guidance 3", None, top, 3.0) for top in (1.0, 2.0, 5.0)),
)


@dataclass(frozen=True)
class Edits:
    images: Tensor
    noise: Tensor | None
    passes: int


def edit(denoise: DemoDenoiser, x0: Tensor, known: Tensor, wanted: Tensor, way: Way, steps: int, seed: int) -> Edits:
    """Edit pictures [B, 3, H, W] of classes `known` [B] into `wanted` [B]."""
    own, other = denoise.conditioned(known), denoise.conditioned(wanted, way.guidance)
    each = 1 if way.guidance == 1 else 2
    if way.skip is None:
        # As many levels as the base method takes there and back.
        sigmas = karras_sigmas(2 * steps - 1, sigma_min=denoise.sigma_min, sigma_max=way.top)
        noisy = x0 + way.top * unit_noise(x0, range(seed, seed + len(x0)))
        walk = integrate(other, noisy, sigmas.tolist(), DEFAULT_SOLVER)
        return Edits(walk.x, None, each * walk.nfe)
    sigmas = karras_sigmas(steps, sigma_min=denoise.sigma_min, sigma_max=way.top)
    found = invert(own, x0, sigmas, skip=way.skip, seed=seed)
    images, back = reconstruct(other, found.noise, found.sigmas), len(found.sigmas) - 1
    passes = found.nfe + each * back
    if way.carry:
        images = images + x0 - reconstruct(own, found.noise, found.sigmas)
        passes += back
    return Edits(images, found.noise, passes)


def classifier(steps: int = 400, seed: int = 0) -> nn.Module:
    """A small network that tells the classes of drawn scenes apart, under noise and blur too."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU(), nn.Conv2d(32, 32, 3, 2, 1),
        nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, len(CLASSES)),
    )  # fmt: skip
    labels = torch.arange(4096) % len(CLASSES)
    scenes = draw_scenes(range(4096), labels=labels)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(steps):
        picked = torch.randint(len(scenes), (64,))
        seen = scenes[picked] + 0.2 * torch.rand(64, 1, 1, 1) * torch.randn(64, *scenes.shape[1:])
        optimiser.zero_grad()
        F.cross_entropy(network(seen), labels[picked]).backward()
        optimiser.step()
    return network.eval().requires_grad_(False)


def accuracy(network: nn.Module, count: int = 2048) -> float:
    """On held-out scenes, none of which is edited."""
    labels = torch.arange(count) % len(CLASSES)
    scenes = draw_scenes(range(HELD_OUT + 10_000, HELD_OUT + 10_000 + count), labels=labels)
    return float((network(scenes).argmax(1) == labels).float().mean())


@dataclass(frozen=True)
class Task:
    """Every scene from its own class into each other one."""

    seeds: Tensor
    known: Tensor
    wanted: Tensor
    source: Tensor
    truth: Tensor
    kept: Tensor
    """[B, 1, H, W]: pixels that the true edit leaves alone."""

    @staticmethod
    def of(scenes: int) -> Task:
        pairs = [(s, s % len(CLASSES), c) for s in range(scenes) for c in range(len(CLASSES)) if c != s % len(CLASSES)]
        seeds, known, wanted = torch.tensor(pairs).T
        source = draw_scenes(HELD_OUT + seeds, labels=known)
        truth = draw_scenes(HELD_OUT + seeds, labels=wanted)
        return Task(seeds, known, wanted, source, truth, ((truth - source).abs() < KEPT).all(1, keepdim=True))

    @property
    def seasons(self) -> Tensor:
        """Edits from season to season, [B]."""
        return (self.known != NIGHT) & (self.wanted != NIGHT)


def kept_psnr(images: Tensor, task: Task) -> Tensor:
    """PSNR to the source over the pixels to be kept, [B]; NaN where there are none."""
    squares = ((images - task.source).square() * task.kept).flatten(1).sum(1)
    return 10 * torch.log10(4 * 3 * task.kept.flatten(1).sum(1) / squares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/editing.jpg"))
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    judge, denoise, task = classifier(), demo_denoiser(name="demo-classes"), Task.of(o.scenes)
    of_truth = share(judge, task.truth, task.wanted)
    print(f"classifier: {accuracy(judge):.2%} of 2048 held-out scenes, of the true edits {of_truth}")
    print(f"kept between seasons: {float(task.kept[task.seasons].float().mean()):.0%} of the pixels")
    print("| way | changed: all, least of the classes | to the true edit, dB: all, seasons | kept, dB | Gaussian "
          "| passes |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    report("nothing done", Edits(task.source, None, 0), judge, task)
    shown = {"true edit": task.truth}
    for way in WAYS:
        parts = [
            edit(denoise, *(t[i : i + 48] for t in (task.source, task.known, task.wanted)), way, o.steps, i)
            for i in range(0, len(task.source), 48)
        ]
        noises = [part.noise for part in parts if part.noise is not None]
        made = Edits(torch.cat([p.images for p in parts]), torch.cat(noises) if noises else None, parts[0].passes)
        report(way.name, made, judge, task)
        shown[way.name] = made.images
    picture(o.out, task, shown)


def share(judge: nn.Module, images: Tensor, wanted: Tensor) -> str:
    """All, and the least of the classes."""
    right = (judge(images.clamp(-1, 1)).argmax(1) == wanted).float()
    return f"{float(right.mean()):.0%}, {min(float(right[wanted == c].mean()) for c in wanted.unique()):.0%}"


def report(name: str, made: Edits, judge: nn.Module, task: Task) -> None:
    images = made.images.clamp(-1, 1)
    near, kept = psnr(images, task.truth), kept_psnr(images, task)[task.seasons]
    gaussian = "" if made.noise is None else f"{torch.tensor(gaussianity(made.noise).verdicts).float().mean():.0%}"
    print(
        f"| {name} | {share(judge, images, task.wanted)} | {near.mean():.1f}, {near[task.seasons].mean():.1f} | "
        f"{kept.mean():.1f} | {gaussian} | {made.passes} |",
        flush=True,
    )


def picture(path: Path, task: Task, shown: dict[str, Tensor]) -> None:
    """One row an edit: the source, then `SHOWN`."""
    chosen = [0, 4, 8, 9, 13, 5]  # one or two of each class, into each class
    columns = [task.source, *(shown[name] for name in SHOWN)]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(contact_sheet([torch.stack([c[i].clamp(-1, 1) for c in columns]) for i in chosen], scale=4), path)
    print(f"{path}, from the left: source, {', '.join(SHOWN)}")


if __name__ == "__main__":
    main()
