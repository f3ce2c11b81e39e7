"""How far a set of pictures is from another: Frechet distances of features. A new one is one entry of `DISTANCES`.

What a distance of small sets is worth: little. It is biased upwards by an amount that grows as the sets shrink, so only
figures of equally large sets may be compared, and a few pictures tell no two methods apart.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..artifact import write_text
from ..image import load_image
from ..metrics import frechet
from ..precision import float64
from .images import Picture, read_picture
from .metrics import needs
from .plan import Plan
from .results import Results
from .store import Row, lines

FILE = "distances.csv"
COLUMNS = ("plan", "set", "arm", "weight", "distance", "value", "pictures", "reference")
THEMSELVES = "the pictures themselves"
"""In place of an arm: as many of those that were blended; no set of that size can be expected to be nearer."""
INCEPTION = "pt_inception-2015-12-05-6726825d.pth"
_INCEPTION_AT = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION}"
QUANTUM = (2 / 255) ** 2 / 12
"""Energy that rounding to 8 bits adds to a Haar detail; what flat pictures have instead of none."""


@dataclass(frozen=True)
class Distance:
    """One number for two sets of pictures."""

    about: str
    features: Callable[[Tensor], Tensor]
    """[B, 3, H, W] in [-1, 1] -> [B, F]; their distance is `frechet`."""
    missing: Callable[[int], str] = lambda size: ""
    """As `metrics.Metric.missing`."""


def haar(pictures: Tensor) -> Tensor:
    """Colour layout and texture: means on a 4x4 grid, and log energies of Haar details, [B, 48 + 9 octaves].

    Details are across, down and diagonal, of every channel, at every octave that leaves at least 4x4 of them.
    """
    x = float64(pictures)
    found = [torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)]
    while min(x.shape[-2:]) >= 8:
        x = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2]
        a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
        for detail in (a - b + c - d, a + b - c - d, a - b - c + d):
            found.append(((detail / 2).square().mean((2, 3)) + QUANTUM).log())
        x = (a + b + c + d) / 4
    return torch.cat(found, dim=1)


def _inception(pictures: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = _network(str(pictures.device))((pictures.float().clamp(-1, 1) + 1) / 2)[0]
    return found.flatten(1)


@lru_cache(maxsize=1)
def _network(device: str) -> Any:
    from piq.feature_extractors import InceptionV3

    return InceptionV3().to(device).eval()


DISTANCES: dict[str, Distance] = {
    "fid": Distance("Frechet Inception distance (Heusel et al. 2017)", _inception,
                    needs("piq", INCEPTION, _INCEPTION_AT)),
    "haar_fd": Distance("Frechet distance of colour layouts (4x4) and log energies of Haar details; needs no weights, "
                        "is not FID and not on its scale", haar),
}  # fmt: skip


def measured(results: Results) -> list[Row]:
    """Every distance of every set of blends to the reference pictures of its kind; kept in `distances.csv`.

    Sets: each arm's blends at each weight, as many pictures sampled directly, and `THEMSELVES`. Pairs of which an arm
    failed or a picture is gone are left out of every set; so are kinds with fewer than two pictures in a set or in the
    reference.

    Raises:
        InputError: a picture of a result is damaged, or one of the reference has changed.
    """
    path, plan = results.folder / FILE, results.plan
    kept = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))) if path.exists() else []
    if kept and all(row.get("plan") == plan.digest for row in kept):
        return kept
    rows = [
        {"plan": plan.digest, "distance": name, **row}
        for name in plan.metrics if name in DISTANCES
        for row in _compared(results, DISTANCES[name])
    ]  # fmt: skip
    write_text(path, ",".join(COLUMNS) + "\n" + lines(rows, COLUMNS))
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def _compared(results: Results, distance: Distance) -> Iterator[dict[str, Any]]:
    plan = results.plan
    for kind in dict.fromkeys(p.set for p in results.pictures if p.compared):
        lost = {row["index"] for row in results.failed if row["set"] == kind} | pairs_lost(results, kind)
        # Blends carry the number of their first picture.
        firsts = [i for i in dict.fromkeys(r["index"] for r in results.rows if r["set"] == kind) if i not in lost]
        known = [p for p in results.pictures if p.compared and p.set == kind]
        if len(firsts) < 2 or len(known) < 2:
            continue
        reference = _features(plan, distance, _read(plan, known))
        for arm, weight, pictures in _sets(results, firsts):
            found = _features(plan, distance, pictures)
            yield {"set": kind, "arm": arm, "weight": weight, "value": frechet(found, reference),
                   "pictures": len(found), "reference": len(reference)}  # fmt: skip


def pairs_lost(results: Results, kind: str) -> set[str]:
    """Numbers of the pairs of a kind of which someone has removed a blend's picture."""
    blended = [arm for arm in results.plan.arms if arm.target != "samples"]
    return {
        row["index"]
        for arm in blended
        for row in results.of(arm.name, kind)
        if not _frame(results, arm.name, row["index"], int(row["repeat"]) + 1).exists()
    }


def _frame(results: Results, arm: str, index: str, number: int) -> Path:
    """The picture of a blend; number 0 is the first picture's reconstruction."""
    return results.folder / "pictures" / arm / f"{int(index):05d}.frame{number}.png"


def _sets(results: Results, firsts: Sequence[str]) -> Iterator[tuple[str, float | None, Iterator[Tensor]]]:
    """(arm, weight, pictures [1, 3, H, W]) of every set, as many pictures in each as blends of one weight."""
    plan = results.plan
    for arm in plan.arms:
        if arm.target == "samples":
            kept = results.folder / "pictures" / arm.name
            paths = [kept / f"{int(row['index']):05d}.sample.png" for row in results.of(arm.name)]
            there = [path for path in paths if path.exists()][: len(firsts)]
            if len(there) > 1:
                yield arm.name, None, map(load_image, there)
            continue
        for k, weight in enumerate(plan.options["weights"], start=1):
            yield arm.name, weight, map(load_image, [_frame(results, arm.name, i, k) for i in firsts])
    yield THEMSELVES, None, _read(plan, [p for p in results.pictures if str(p.index) in firsts])


def _read(plan: Plan, pictures: Iterable[Picture]) -> Iterator[Tensor]:
    return (read_picture(plan.folder_of(reference=p.reference), p, plan.shape[1]) for p in pictures)


def _features(plan: Plan, distance: Distance, pictures: Iterator[Tensor], batch: int = 32) -> Tensor:
    """[n, F] on the CPU, of pictures [1, 3, H, W] that are read as they are needed."""
    batches = iter(lambda: list(islice(pictures, batch)), [])
    return torch.cat([distance.features(torch.cat(some).to(plan.device)).cpu() for some in batches])
