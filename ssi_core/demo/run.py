"""The main job, shown: what the usual inversion does to real images, what SSI does, and a morph between two.

Everything is done on pictures the demo model never saw: drawn scenes, photo crops from held-out image regions, and a
test card that is foreign to it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..artifact import write_text
from ..blend import slerp
from ..gaussianity import FIGURES
from ..image import save_animation, save_image
from ..integration import Progress
from ..inversion import reconstruct
from ..version import __version__
from .figure import demo_figure, save_figure
from .measure import Laboratory, Plan, RoundTrip, share_better
from .model import DemoDenoiser
from .photos import held_out_photos
from .scenes import HELD_OUT, draw_scenes

Task = Callable[[str, int, int], None]
Table = tuple[str, Sequence[str], list[list[str]]]

MORPH_FRAMES = 13


def draw_test_card(size: int = 32) -> Tensor:
    """A picture foreign to the demo model, [1, 3, size, size]: saturated stripes over a fine chequerboard."""
    stripes = torch.tensor([[1, 1, -1], [-1, 1, 1], [1, -1, 1], [-1, -1, 1], [1, -1, -1], [-1, 1, -1]]).float()
    column = torch.arange(size) * len(stripes) // size
    card = stripes[column].T[:, None, :].expand(3, size, size).clone()
    squares = ((torch.arange(size)[:, None] // 2 + torch.arange(size)[None, :] // 2) % 2) * 2.0 - 1
    card[:, size // 2 :] = squares[size // 2 :]
    return card[None]


def run_demo(denoise: DemoDenoiser, out: Path, task: Task, plan: Plan = Plan()) -> list[Table]:  # noqa: B008  # frozen
    """Do everything; write demo.png, morph.webp, metrics.json and inversions into `out`.

    Args:
        denoise: the demo model.
        out: an existing folder.
        task: progress, called with (what is being done, evaluations done, evaluations in all).
        plan: how many images (scenes; half as many photo crops) and steps; at least 12 images.

    Returns:
        Tables for the terminal: (title, column names, rows).
    """
    began = time.monotonic()
    images = {
        "scenes": draw_scenes(range(HELD_OUT, HELD_OUT + plan.count), denoise.image_size),
        "photos": held_out_photos(denoise.image_size)[: plan.count // 2],
        "foreign": draw_test_card(denoise.image_size),
    }
    images = {name: x.to(denoise.device) for name, x in images.items()}
    counter = _Counter(task, total=2 * sum(s.steps for n in images for s in plan.settings(n == "scenes")) + 350)
    lab = Laboratory(denoise, counter)

    trips: dict[str, dict[str, RoundTrip]] = {}
    for name, x in images.items():
        trips[name] = {}
        for setting in plan.settings(scenes=name == "scenes"):
            counter.part = f"{name}: {setting}"
            trips[name][str(setting)] = lab.round_trip(name, x, setting)
    scenes = trips["scenes"]
    base, ssi = (str(s) for s in plan.pairs["middle"])
    counter.part = "seeds and disturbed noise"
    seeds = lab.seed_cosine("scenes", images["scenes"], scenes[ssi].setting)
    damaged = {s: float(lab.damage(scenes[s]).mean()) for s in (base, ssi)}
    counter.part = "singularity curve"
    curve = lab.singularity_curve()
    counter.part = "morphs"
    morphs = {str(s): morph(lab, scenes[str(s)], counter) for s in plan.pairs["default"]}

    counter.part = "drawing"
    save_figure(demo_figure(plan, trips, curve, morphs), out / "demo.png")
    default = str(plan.pairs["default"][1])
    there = morphs[default].cpu()
    save_animation(torch.cat([there, there[1:-1].flip(0)]), out / "morph.webp", fps=6, scale=8)
    for name in ("scenes", "photos"):
        trip = trips[name][default]
        trip.inversion.save(out / f"{name}.ssi.safetensors")
        save_image(trip.images[0].cpu(), out / f"{name}-0.png")

    metrics = {
        "ssi": __version__,
        "torch": torch.__version__,
        "model": denoise.signature,
        "images": {name: len(x) for name, x in images.items()},
        "round_trips": {name: {s: t.summary() for s, t in each.items()} for name, each in trips.items()},
        "floor": {n: float(getattr(scenes[ssi].report.floor, n)) for n in FIGURES},
        "ssi_better_share": {
            f"{ours} than {theirs}": {n: share_better(t[str(ours)], t[str(theirs)]) for n, t in trips.items()}
            for theirs, ours in plan.pairs.values()
        },
        "seed_cosine": {"mean": float(seeds.mean()), "largest": float(seeds.max())},
        "mse_after_5_percent_noise": {**damaged, "base over SSI": damaged[base] / damaged[ssi]},
        "singularity_knee": curve[2],
        "seconds": round(time.monotonic() - began, 1),
        "evaluations": counter.evaluations,
    }
    write_text(out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    return [*(_trips_table(name, each) for name, each in trips.items()), _claims_table(metrics)]


def morph(lab: Laboratory, trip: RoundTrip, progress: _Counter, a: int = 0, b: int = 3) -> Tensor:
    """Frames [F, 3, H, W] from image a to image b of a round trip."""
    noise = trip.inversion.noise
    weights = torch.linspace(0, 1, MORPH_FRAMES)
    blended = slerp(noise[a : a + 1], noise[b : b + 1], weights)
    sigmas, solver = trip.inversion.sigmas, trip.setting.solver
    return reconstruct(lab.denoise, blended, sigmas, solver=solver, progress=progress)


class _Counter:
    """Turns the steps of many integrations into one bar; `part` says which is running."""

    def __init__(self, task: Task, total: int) -> None:
        self.task, self.total, self.part, self.evaluations, self._last = task, total, "", 0, 0

    def __call__(self, now: Progress) -> None:
        self.evaluations += now.nfe - self._last if now.step > 1 else now.nfe
        self._last = now.nfe
        self.task(self.part, self.evaluations, self.total)


_SHOWN = ("std", "chan", "ks", "edge")


def _trips_table(name: str, trips: dict[str, RoundTrip]) -> Table:
    rows = []
    for setting, trip in trips.items():
        s = trip.summary()
        figures = (f"{s[n]:.3f}" for n in _SHOWN)
        rows.append([setting, f"{s['nfe']:.0f}", f"{s['psnr']:.1f}", f"{s['ssim']:.3f}", *figures,
                     f"{s['gaussian_share']:.0%}"])  # fmt: skip
    floor = next(iter(trips.values())).report.floor
    rows.append(["true Gaussian noise", "", "", "", *(f"{float(getattr(floor, n)):.3f}" for n in _SHOWN), "100%"])
    title = f"\n{name} (a good picture from noise that is not Gaussian is no success)"
    return title, ["means", "NFE", "PSNR", "SSIM", *_SHOWN, "pass"], rows


def _claims_table(metrics: dict[str, Any]) -> Table:
    rows = [
        ["singularity: the curve's knee", f"sigma {metrics['singularity_knee']:.3f}"],
        ["cosine of two seeds' noises, skip 0.1", f"{metrics['seed_cosine']['mean']:.3f}"],
        ["MSE after 5% more noise, base / SSI", f"{metrics['mse_after_5_percent_noise']['base over SSI']:.2f}"],
    ]
    for pair, share in metrics["ssi_better_share"].items():
        rows.append([f"better: {pair}", ", ".join(f"{n} {v:.0%}" for n, v in share.items())])
    return "\nwhat else was measured", ["", ""], rows
