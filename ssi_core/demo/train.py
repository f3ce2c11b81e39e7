"""Train a demo model: `python -m ssi_core.demo.train --out FILE [--kind flow]`.

With `--label-dropout` the model is taught the scenes' classes, and at that rate none, so that it can also be asked
without one (classifier-free guidance, Ho and Salimans 2021).

A killed run goes on from its last checkpoint. Every batch is drawn from (seed, step), so that it sees the data that an
unbroken run sees.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from ..artifact import replacing
from .kinds import KINDS, Kind
from .network import DemoUNet
from .photos import photo_crops
from .scenes import CLASSES, HELD_OUT, draw_scenes

SIZE = 32
"""Height and width of the pictures."""


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a demo model on drawn landscapes and photo crops.")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="weights to write (.safetensors)")
    parser.add_argument("--kind", choices=KINDS, default="edm", help="what the network predicts [edm]")
    parser.add_argument("--width", type=int, default=48, help="channels of the first level, a multiple of 8 [48]")
    parser.add_argument(
        "--label-dropout", type=float, metavar="RATE", help="teach the scenes' classes, leaving them out at this rate"
    )
    parser.add_argument("--start", type=Path, metavar="FILE", help="weights to begin with, with or without classes")
    parser.add_argument(
        "--levels", type=float, nargs=2, metavar=("MEAN", "SPREAD"),
        help="of ln(noise over signal) in training; classes are learned where noise hides the picture [the kind's]",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=10_000, help="optimiser steps [10000]")
    parser.add_argument("--stop-at", type=int, metavar="STEP", help="end early, with the schedule of --steps [--steps]")
    parser.add_argument("--batch", type=int, default=64, help="images a step [64]")
    parser.add_argument("--photos", type=float, default=0.3, help="share of photo crops in a batch [0.3]")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="peak learning rate of Adam [0.0015]")
    parser.add_argument("--seed", type=int, default=0, help="of weights, data order and noise [0]")
    parser.add_argument("--scenes", type=int, default=40_000, help="distinct drawn scenes [40000]")
    parser.add_argument("--crops", type=int, default=16_000, help="distinct photo crops [16000]")
    parser.add_argument("--bf16-share", type=float, default=0.8, help="share of the steps in bfloat16 autocast [0.8]")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads [1]")
    parser.add_argument("--device", default="cpu", help="cpu or cuda [cpu]")
    return parser.parse_args(arguments)


def stratified_sigmas(kind: Kind, count: int, generator: torch.Generator) -> Tensor:
    """Levels [count], one from each of `count` equal slices of probability: less gradient noise than free draws."""
    slices = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    normal = math.sqrt(2) * torch.erfinv((2 * slices - 1).clamp(-0.99999, 0.99999))
    return kind.sigmas((kind.mean + kind.spread * normal).exp())


Pictures = tuple[Tensor, Tensor]
"""[N, 3, H, W] in [-1, 1], and their classes one-hot, [N, classes]: zeros where there is none."""


def scenes(first: int, count: int, classes: int) -> Pictures:
    """Drawn scenes from seed `first` on, in every class in turn."""
    labels = torch.arange(count) % max(classes, 1)
    parts = [draw_scenes(range(first + i, first + min(i + 500, count)), SIZE, labels[i : i + 500])
             for i in range(0, count, 500)]  # fmt: skip
    return torch.cat(parts), F.one_hot(labels, max(classes, 1))[:, :classes].float()


def photos(count: int, seed: int, classes: int, *, held_out: bool) -> Pictures:
    """Crops of photographs, which are of no class."""
    return photo_crops(count, SIZE, seed, held_out=held_out), torch.zeros(count, classes)


def told(denoise: Callable[..., Tensor], labels: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """D(x, sigma) of pictures whose classes are [B, classes]."""
    return lambda x, sigma: denoise(x, sigma, *([labels.to(x)] if labels.shape[1] else []))


def begin(network: DemoUNet, path: Path) -> None:
    """Give a network the weights of a file; where that has no classes, the network's own for them stay."""
    known, found = network.state_dict(), load_file(path)
    wrong = [name for name, value in found.items() if name not in known or known[name].shape != value.shape]
    if wrong or known.keys() - found.keys() - {"label.weight"}:
        raise SystemExit(f"--start {path}: is of another network (see {wrong[0] if wrong else 'what it lacks'})")
    network.load_state_dict({**known, **{name: value.float() for name, value in found.items()}})


@torch.no_grad()
def loss_by_sigma(kind: Kind, denoise: Callable[..., Tensor], clean: Tensor) -> dict[str, float]:
    """Held-out loss at fixed noise levels, with fixed noise."""
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)).to(clean)
    return {
        str(s): float(kind.loss(denoise, clean, noise, torch.full((len(clean),), s).to(clean)).mean())
        for s in kind.bands
    }


def train(o: argparse.Namespace) -> None:
    torch.set_num_threads(o.threads)
    torch.manual_seed(o.seed)
    device = torch.device(o.device)
    kind = KINDS[o.kind]
    if o.levels:
        kind = replace(kind, mean=o.levels[0], spread=o.levels[1])
    shape: dict[str, Any] = {"image_size": SIZE, "channels": 3, "width": o.width}
    classes = 0 if o.label_dropout is None else len(CLASSES)
    if classes:
        shape["classes"] = classes
    network = DemoUNet(**shape).to(device)
    if o.start:
        begin(network, o.start)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.Adam(network.parameters(), lr=o.lr, betas=(0.9, 0.99))
    start, spent = 0, 0.0
    checkpoint = o.out.with_suffix(".checkpoint.pt")
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        average, start, spent = saved["average"], saved["step"], saved["seconds"]
        print(f"going on from step {start}", flush=True)

    shares = {"scenes": o.batch - round(o.batch * o.photos), "photos": round(o.batch * o.photos)}
    pools = {"scenes": scenes(0, o.scenes, classes)}
    held = {"scenes": scenes(HELD_OUT, 128, classes)}
    if shares["photos"]:
        pools["photos"] = photos(o.crops, 1_000_000, classes, held_out=False)
        held["photos"] = photos(128, 0, classes, held_out=True)
    if classes:
        held["scenes, class not told"] = held["scenes"][0], torch.zeros(128, classes)

    began, shown = time.monotonic(), 0.0
    last = o.steps if o.stop_at is None else min(o.steps, o.stop_at)
    for step in range(start, last):
        generator = torch.Generator().manual_seed(o.seed * 1_000_003 + step)
        places = [torch.randint(len(pool), (shares[name],), generator=generator) for name, (pool, _) in pools.items()]
        chosen = list(zip(pools.values(), places, strict=True))
        clean = torch.cat([pool[at] for (pool, _), at in chosen]).to(device)
        labels = torch.cat([given[at] for (_, given), at in chosen])
        mirrored = (torch.rand(len(clean), generator=generator) < 0.5).to(device)
        clean = torch.where(mirrored[:, None, None, None], clean.flip(-1), clean)
        # A random order, or the slices of sigma would always fall to the same kind of picture.
        sigma = stratified_sigmas(kind, len(clean), generator)
        sigma = sigma[torch.randperm(len(clean), generator=generator)].to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        labels = labels * (torch.rand(len(labels), 1, generator=generator) >= (o.label_dropout or 0))

        done = step / o.steps
        rate = o.lr * min(1.0, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * done))
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=done < o.bf16_share):
            loss = kind.loss(told(kind.denoiser(network), labels), clean, noise, sigma).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        decay = min(0.9985, (1 + step) / (20 + step))
        for name, value in network.state_dict().items():
            average[name].lerp_(value, 1 - decay)

        shown += float(loss.detach())
        if (step + 1) % 100 == 0:
            minutes = (spent + time.monotonic() - began) / 60
            print(f"step {step + 1}/{o.steps}  loss {shown / 100:.4f}  {minutes:.1f} min", flush=True)
            shown = 0.0
        if (step + 1) % 500 == 0 or step + 1 == last:
            seconds = spent + time.monotonic() - began
            with replacing(checkpoint) as beside:
                torch.save(
                    {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "average": average,
                     "step": step + 1, "seconds": seconds}, beside)  # fmt: skip
            model = DemoUNet(**shape).to(device)
            model.load_state_dict(average)
            losses = {
                name: loss_by_sigma(kind, told(kind.denoiser(model), given), pictures.to(device))
                for name, (pictures, given) in held.items()
            }
            training = {**vars(o), "step": step + 1, "seconds": round(seconds), "losses": losses}
            write_weights(o.out, model, o.kind, shape, training)
            print(json.dumps(losses), flush=True)


def write_weights(path: Path, model: DemoUNet, kind: str, shape: object, training: dict[str, object]) -> None:
    """Write float16 weights, with all that is needed to build the model and to know where it came from."""
    training = {key: str(value) if isinstance(value, Path) else value for key, value in training.items()}
    training |= {"torch": torch.__version__, "cpu_count": os.cpu_count()}
    facts = {"kind": kind, "network": shape, "training": training}
    if model.classes:
        facts["classes"] = list(CLASSES)
    half = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    with replacing(path) as beside:
        save_file(half, beside, metadata={"demo_model": json.dumps(facts, sort_keys=True)})


if __name__ == "__main__":
    train(options())
