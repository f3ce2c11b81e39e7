"""Is the skip that `skip="auto"` chooses the best one, and does what it foretells come true?

    python -m benchmarks.skips [--models demo demo-flow ...] [--count 32] [--steps 20] [--out out/skips.json]

For each model and each picture by itself: an exhaustive sweep of skips, the smallest at which and at the next two of
which the verdict passes (the best one), the skip that was chosen with 8 evaluations, and what an inversion from there
gives. dB under the best are of pictures that passed: where the verdict failed more dB are no merit.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.subjects import Subject, add_models, pictures, subjects
from ssi_core import Goal, Inversion, choose_skip, gaussianity, invert, psnr, reconstruct, unit_noise
from ssi_core.skip import LOWEST, leftover

LEVELS = [0.004 * 1.25**k for k in range(24)]


def tried(subject: Subject, x0: Tensor, sigmas: Tensor, skip: float, seeds: list[int]) -> dict[str, list[Any]]:
    """One inversion there and back."""
    found: Inversion = invert(subject.denoise, x0, sigmas, skip=skip, seed=seeds, process=subject.process)
    back = reconstruct(subject.denoise, found.noise, found.sigmas, process=subject.process)
    report = gaussianity(found.noise, x0)
    return {
        "verdict": list(report.verdicts), "psnr": psnr(back, x0).tolist(),
        "leftover": leftover(found.noise, unit_noise(x0, seeds)).tolist(),
        "margin": report.margin().tolist(), "why": [list(f) for f in report.failures],
    }  # fmt: skip


def measured(subject: Subject, kind: str, x0: Tensor, steps: int) -> list[dict[str, Any]]:
    """One row a picture."""
    sigmas, seeds = subject.schedule(steps), list(range(len(x0)))
    level = [float(subject.process.sigma_of_ratio(v)) for v in LEVELS]
    sweep = [tried(subject, x0, sigmas, skip, seeds) for skip in level]
    rows = []
    for i in range(len(x0)):
        one = x0[i : i + 1]
        choice = choose_skip(subject.denoise, one, sigmas, Goal(), seed=[i], process=subject.process)
        got = tried(subject, one, sigmas, choice.skip, [i])
        passing = [s["verdict"][i] for s in sweep]
        first = next((k for k in range(len(level)) if all(passing[k : k + 3])), None)
        rows.append(
            {
                "model": subject.name,
                "kind": kind,
                "i": i,
                "skip": choice.skip,
                "nfe": choice.nfe,
                "met": choice.met,
                "foretold_psnr": float(choice.foretold.psnr),
                "foretold_leftover": float(choice.foretold.leftover),
                "foretold_margin": float(choice.foretold.margin),
                **{k: v[0] for k, v in got.items()},
                "best_skip": None if first is None else level[first],
                "best_psnr": None if first is None else sweep[first]["psnr"][i],
                "sweep": {k: [s[k][i] for s in sweep] for k in ("verdict", "psnr", "leftover", "margin")},
            }
        )
    return rows


def summary(rows: list[dict[str, Any]]) -> str:
    """One line of the table."""
    can = [r for r in rows if r["best_skip"] is not None]
    told_so = sum(r["met"] for r in rows)
    lost = torch.tensor([r["best_psnr"] - r["psnr"] for r in can if r["verdict"]] or [math.nan])
    told = torch.tensor([10 ** (abs(r["foretold_psnr"] - r["psnr"]) / 10) - 1 for r in rows])
    left = torch.tensor([abs(r["foretold_leftover"] / r["leftover"] - 1) for r in rows])
    passed = sum(r["verdict"] for r in can)
    skips = sorted(r["skip"] for r in rows)
    what = f"{rows[0]['model']}, {len(rows)} {rows[0]['kind']}"
    return (
        f"| {what} | {len(can)} | {passed} ({passed / max(1, len(can)):.0%}) | "
        f"{sum(r['verdict'] for r in rows if r['met'])} of {told_so} | "
        f"{lost.mean():.2f} (largest {lost.max():.2f}, within 1 dB {(lost <= 1).double().mean():.0%}) | "
        f"{told.median():.0%}, {told.quantile(0.9):.0%} | {left.median():.0%}, {left.quantile(0.9):.0%} | "
        f"{skips[0]:.3g} to {skips[-1]:.3g} | {max(r['nfe'] for r in rows)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_models(parser)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("out/skips.json"))
    o = parser.parse_args()
    assert math.isclose(LEVELS[0], 2 * LOWEST)
    print(
        "| model, pictures | can pass | passed | passed of those foretold to | dB under the best skip "
        "| PSNR foretold off by (MSE; median, 90%) | leftover off by | skips | NFE |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for subject in subjects(o.models):
        for kind, x0 in pictures(o.count).items():
            new = measured(subject, kind, x0, o.steps)
            rows += new
            print(summary(new), flush=True)
            o.out.parent.mkdir(parents=True, exist_ok=True)
            o.out.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
