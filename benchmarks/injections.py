"""Past the trade-off curve: what other ways of putting the noise in gain over plain SSI at equal Gaussianity.

    python -m benchmarks.injections [--models demo demo-flow ...] [--count 32] [--steps 20] [--out out/injections.json]

Plain SSI is swept over its skips, with as many evaluations as the dearest injection. For each other way and skip, and
for each figure of Gaussianity, the plain skip with the same mean figure is looked up, and how many dB lie between the
two reconstructions. Intervals are 90% of 400 bootstrap draws of the pictures.
"""

from __future__ import annotations

import argparse
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.subjects import Subject, add_models, pictures, subjects
from ssi_core import Process, gaussianity, invert, psnr, reconstruct, unit_noise
from ssi_core.injection import Injection, plain, tangent
from ssi_core.solver import Model

CURVE = [0.02, 0.028, 0.04, 0.055, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4]
TRIED = (0.07, 0.1, 0.14)
JUDGED = ("chan", "hori", "vert", "kurtosis", "block_spread", "edge")
"""Figures of structure, which a smaller skip makes worse. std and KS, on their floor at most skips, are only told."""
DRAWS = 400


def fibre(
    denoise: Model, process: Process, x0: Tensor, noise: Tensor, sigma: float, *, rounds: int, radius: float
) -> Tensor:
    """Corrects towards D(x) = x0, then scales the noise in x back to a fixed size, `rounds` times."""
    none = torch.zeros_like(x0)
    x, clean = process.inject(x0, noise, sigma), process.inject(x0, none, sigma)
    for _ in range(rounds):
        off = x + process.inject(x0 - denoise(x, sigma), none, sigma) - clean
        size = off.flatten(1).norm(dim=1) / (sigma * math.sqrt(off[0].numel()))
        x = clean + off * (radius / size).reshape(-1, *[1] * (x.ndim - 1))
    return x


def antithetic(denoise: Model, process: Process, x0: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """Takes away what D keeps of the noise, by the difference of both signs."""
    x, other = process.inject(x0, noise, sigma), process.inject(x0, -noise, sigma)
    return x - process.inject(denoise(x, sigma) - denoise(other, sigma), torch.zeros_like(x0), sigma) / 2


def selected(denoise: Model, process: Process, x0: Tensor, noise: Tensor, sigma: float, *, seeds: int = 4) -> Tensor:
    """The best of several draws, by |D(x) - x0|."""
    draws = [noise] + [unit_noise(x0, [10_000 * k + i for i in range(len(x0))]) for k in range(1, seeds)]
    states = torch.stack([process.inject(x0, n, sigma) for n in draws])
    errors = torch.stack([(denoise(x, sigma) - x0).flatten(1).norm(dim=1) for x in states])
    return states[errors.argmin(0), torch.arange(len(x0))]


WAYS: dict[str, tuple[Injection, int]] = {
    "tangent, 1 round": (partial(tangent, rounds=1), 2),
    "tangent, 2 rounds": (partial(tangent, rounds=2), 4),
    "fibre and shell, 1 round": (partial(fibre, rounds=1, radius=0.98), 1),
    "fibre and shell, 2 rounds": (partial(fibre, rounds=2, radius=0.98), 2),
    "antithetic": (antithetic, 2),
    "best of 4 seeds": (selected, 4),
}
"""Injections, and the evaluations that each takes. Those that are no part of the engine were not worth it."""


def measured(
    subject: Subject,
    x0: Tensor,
    steps: int,
    skip: float,
    way: Injection,
) -> dict[str, Any]:
    """One inversion there and back of all pictures."""
    level = float(subject.process.sigma_of_ratio(skip))
    found = invert(
        subject.denoise, x0, subject.schedule(steps), skip=level, injection=way, seed=0, process=subject.process
    )
    back = reconstruct(subject.denoise, found.noise, found.sigmas, process=subject.process)
    report = gaussianity(found.noise, x0)
    figures = {name: getattr(report, name).tolist() for name in (*JUDGED, "std", "ks")}
    nfe = found.nfe + len(found.sigmas) - 1
    return {"psnr": psnr(back, x0).tolist(), "verdict": list(report.verdicts), "nfe": nfe, **figures}


def gain(curve: list[dict[str, Any]], one: dict[str, Any], figure: str, chosen: np.ndarray) -> float:
    """dB over the plain inversion with the same mean figure, over the chosen pictures; -inf where none is as bad."""

    def mean(row: dict[str, Any], name: str) -> float:
        value = float(np.mean(np.array(row[name])[chosen]))
        return abs(value) if name in ("edge", "kurtosis") else value

    # Along the curve a figure falls with the skip; running extremes take out what is chance.
    figures = np.maximum.accumulate([mean(row, figure) for row in curve][::-1])
    quality = [mean(row, "psnr") for row in curve][::-1]
    at = mean(one, figure)
    if at > figures[-1]:
        return -math.inf
    # Better than the best of the curve counts as no better than that.
    return mean(one, "psnr") - float(np.interp(at, figures, quality))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_models(parser)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("out/injections.json"))
    o = parser.parse_args()
    kept: list[dict[str, Any]] = []
    draw = np.random.default_rng(0)
    print(
        f"| model, pictures | way, skip | NFE | PSNR | {' | '.join(JUDGED)} | std | ks | Gaussian | dB past plain SSI |"
    )
    print("|---|---|---|---|" + "---|" * (len(JUDGED) + 4))
    for subject in subjects(o.models):
        for kind, x0 in pictures(o.count).items():
            what = f"{subject.name}, {kind}"
            curve = [measured(subject, x0, o.steps + 2, skip, plain) for skip in CURVE]
            rows = [("plain", skip, row) for skip, row in zip(CURVE, curve, strict=True)]
            rows += [(name, skip, measured(subject, x0, o.steps, skip, way)) for name, (way, _) in WAYS.items()
                     for skip in TRIED]  # fmt: skip
            for name, skip, row in rows:
                line = f"| {what} | {name}, {skip:g} | {row['nfe']} | {np.mean(row['psnr']):.2f} | "
                line += " | ".join(f"{np.mean(row[f]):.4f}" for f in (*JUDGED, "std", "ks"))
                line += f" | {np.mean(row['verdict']):.0%} | "
                if name != "plain":
                    every = np.arange(len(x0))
                    gains = {f: gain(curve, row, f, every) for f in JUDGED}
                    draws = [[gain(curve, row, f, some) for f in JUDGED]
                             for some in (draw.choice(every, len(every)) for _ in range(DRAWS))]  # fmt: skip
                    ends = np.quantile(draws, [0.05, 0.95], axis=0, method="nearest")
                    line += ", ".join(
                        f"{f} {gains[f]:+.1f} ({low:+.1f} to {high:+.1f})"
                        for f, low, high in zip(JUDGED, *ends, strict=True)
                    )
                print(line + " |", flush=True)
                kept.append({"what": what, "way": name, "skip": skip, **row})
                o.out.parent.mkdir(parents=True, exist_ok=True)
                o.out.write_text(json.dumps(kept))


if __name__ == "__main__":
    main()
