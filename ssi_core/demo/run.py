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
from ..inversion import Progress, reconstruct
from ..plot import save_figure
from ..version import __version__
from .figure import demo_figure
from .measure import Laboratory, RoundTrip, Setting, share_better
from .model import DemoDenoiser
from .photos import held_out_photos
from .scenes import HELD_OUT, draw_scenes

COUNT = 32
Task = Callable[[str, int, int], None]
Table = tuple[str, Sequence[str], list[list[str]]]

BASE_40, SSI_40 = Setting("euler", 40, 0.0), Setting("euler", 40, 0.1)
BASE_10, SSI_10 = Setting("euler", 10, 0.0), Setting("euler", 10, 0.05)
BASE_20, SSI_20 = Setting("euler", 20, 0.0), Setting("euler", 20, 0.05)
BASE_200, SSI_200 = Setting("euler", 200, 0.0), Setting("euler", 200, 0.1)
BASE_SECOND, SSI_SECOND = Setting("dpmpp-2m", 20, 0.0), Setting("dpmpp-2m", 20, 0.05)
FAST = Setting("dpmpp-2m", 12, 0.05)
SETTINGS = (
    BASE_10, SSI_10, BASE_20, SSI_20, BASE_40, SSI_40, BASE_200, SSI_200, BASE_SECOND, SSI_SECOND, FAST,
)  # fmt: skip
MORPH_FRAMES = 13


def draw_test_card(size: int = 32) -> Tensor:
    """A picture foreign to the demo model, [1, 3, size, size]: saturated stripes over a fine chequerboard."""
    stripes = torch.tensor([[1, 1, -1], [-1, 1, 1], [1, -1, 1], [-1, -1, 1], [1, -1, -1], [-1, 1, -1]]).float()
    column = torch.arange(size) * len(stripes) // size
    card = stripes[column].T[:, None, :].expand(3, size, size).clone()
    squares = ((torch.arange(size)[:, None] // 2 + torch.arange(size)[None, :] // 2) % 2) * 2.0 - 1
    card[:, size // 2 :] = squares[size // 2 :]
    return card[None]


def run_demo(denoise: DemoDenoiser, out: Path, task: Task) -> list[Table]:
    """Do everything; write demo.png, morph.webp, metrics.json and inversions into `out`.

    Args:
        denoise: the demo model.
        out: an existing folder.
        task: progress, called with (what is being done, evaluations done, evaluations in all).

    Returns:
        Tables for the terminal: (title, column names, rows).
    """
    began = time.monotonic()
    images = {
        "scenes": draw_scenes(range(HELD_OUT, HELD_OUT + COUNT), denoise.image_size),
        "photos": held_out_photos(denoise.image_size)[:COUNT],
        "foreign": draw_test_card(denoise.image_size),
    }
    images = {name: x.to(denoise.device) for name, x in images.items()}
    counter = _Counter(task)
    lab = Laboratory(denoise, counter)

    trips: dict[str, dict[str, RoundTrip]] = {}
    for name, x in images.items():
        trips[name] = {}
        for setting in SETTINGS:
            counter.part = f"{name}: {setting}"
            trips[name][str(setting)] = lab.round_trip(name, x, setting)
    counter.part = "seeds and disturbed noise"
    scenes = trips["scenes"]
    seeds = lab.seed_cosine("scenes", images["scenes"], SSI_40)
    damaged = {str(s): lab.damage(scenes[str(s)]) for s in (BASE_40, SSI_40)}
    counter.part = "singularity curve"
    curve = lab.singularity_curve()
    counter.part = "morphs"
    morphs = {str(s): morph(lab, scenes[str(s)], counter) for s in (BASE_SECOND, SSI_SECOND)}

    counter.part = "drawing"
    save_figure(demo_figure(trips, curve, morphs, SETTINGS), out / "demo.png")
    best = morphs[str(SSI_SECOND)]
    save_animation(best.cpu(), out / "morph.webp", seconds=2.0, scale=8)
    for name in ("scenes", "photos"):
        trip = trips[name][str(SSI_SECOND)]
        trip.inversion.save(out / f"{name}.ssi.safetensors")
        save_image(trip.images[0].cpu(), out / f"{name}-0.png")

    metrics = {
        "ssi": __version__,
        "torch": torch.__version__,
        "model": denoise.signature,
        "images": {name: len(x) for name, x in images.items()},
        "round_trips": {name: {s: t.summary() for s, t in each.items()} for name, each in trips.items()},
        "floor": {n: float(getattr(scenes[str(SSI_40)].report.floor, n)) for n in FIGURES},
        "ssi_better_share": {
            f"{ours} than {theirs}": {n: share_better(t[str(ours)], t[str(theirs)]) for n, t in trips.items()}
            for ours, theirs in ((SSI_10, BASE_10), (SSI_20, BASE_20), (SSI_40, BASE_40), (SSI_200, BASE_200))
        },
        "seed_cosine": {"mean": float(seeds.mean()), "largest": float(seeds.max())},
        "mse_after_5_percent_noise": {s: float(v.mean()) for s, v in damaged.items()},
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

    def __init__(self, task: Task) -> None:
        self.task, self.part, self.evaluations, self._last = task, "", 0, 0

    def __call__(self, now: Progress) -> None:
        self.evaluations += now.nfe - self._last if now.step > 1 else now.nfe
        self._last = now.nfe
        self.task(self.part, self.evaluations, _EVALUATIONS)


_EVALUATIONS = 3 * sum(2 * s.steps for s in SETTINGS) + 300
"""About how many evaluations the whole demo takes, for the bar alone."""

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
    title = f"{name}: a good picture (PSNR, SSIM) from noise that is not Gaussian is no success"
    return title, ["means", "NFE", "PSNR", "SSIM", *_SHOWN, "pass"], rows


def _claims_table(metrics: dict[str, Any]) -> Table:
    damaged = metrics["mse_after_5_percent_noise"]
    rows = [
        ["singularity: the curve's knee", f"sigma {metrics['singularity_knee']:.3f}"],
        ["cosine of two seeds' noises, skip 0.1", f"{metrics['seed_cosine']['mean']:.3f}"],
        ["MSE after 5% more noise, base / SSI", f"{damaged[str(BASE_40)] / damaged[str(SSI_40)]:.2f}"],
    ]
    for pair, share in metrics["ssi_better_share"].items():
        rows.append([f"better: {pair}", ", ".join(f"{n} {v:.0%}" for n, v in share.items())])
    return "what else was measured", ["", ""], rows
