"""Adaptive steps against fixed grids: is a step chosen by its own error estimate worth more than one that is not?

    python -m benchmarks.adaptive [--models demo demo-flow ...] [--skip 0.07] [--count 8] [--out out/adaptive.json]

Up from the skip to the top, and back on the levels that the way up took. Errors are against Heun's method with 200
steps: of the noise, in its own standard deviations, and of the picture, in dB against D at the skip, where a perfect
solver ends.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.subjects import Subject, add_models, pictures, subjects
from ssi_core import integrate, psnr, reconstruct, unit_noise

FIXED = {"even in sigma^(1/7)": 7.0, "even in sigma^(1/12)": 12.0, "even in ln sigma": math.inf}
COUNTS = (8, 10, 12, 15, 18, 22)
TOLERANCES = (0.1, 0.05, 0.03, 0.02, 0.012, 0.008, 0.005)
WEIGHT = 0.5
"""Power of sigma that errors are measured in: 1, of the noise, makes steps near the image too long, 0 near the top."""


def adaptive(subject: Subject, x: Tensor, ve: list[float], tolerance: float) -> tuple[Tensor, list[float], int]:
    """Adams-Bashforth 2 in ln sigma, its step held by what it adds to Euler's (an estimate that costs nothing).

    Returns:
        (end state, the levels it took, evaluations). The estimate is the largest of the batch.
    """
    process = subject.process

    def level(u: float) -> float:
        return float(process.sigma_of_ratio(math.exp(u)))

    u, end = math.log(ve[0]), math.log(ve[-1])
    a, levels, nfe = level(u), [level(u)], 0
    before: tuple[float, Tensor] | None = None
    h = min(0.5, math.sqrt(tolerance))  # the first step has no estimate
    while True:
        D = subject.denoise(x, torch.full((len(x),), a))
        nfe += 1
        h = min(h, end - u)
        while True:
            b = level(u + h)
            # In ln of the state's own sigma the linear part is exact for flows as well.
            step = math.log(b / a)
            euler, more, used = D + (b / a) * (x - D), torch.zeros_like(x), 0.0
            if before is None:
                break
            more = -(b / a - 1 - step) / before[0] * (D - before[1])
            size = b**WEIGHT * math.sqrt(x[0].numel())
            used = float((more.flatten(1).norm(dim=1) / size).max()) / tolerance
            if used <= 1 or h < 0.02:
                break
            h *= max(0.3, 0.9 / math.sqrt(used))
        x, before = euler + more, (step, D)
        u, a = u + h, b
        levels.append(a)
        if u >= end - 1e-9:
            return x, levels, nfe
        h *= 1.0 if used == 0 else min(1.6, max(0.5, 0.9 / math.sqrt(used)))


def fixed(low: float, high: float, count: int, rho: float) -> list[float]:
    """(VE) levels from low to high."""
    t = torch.linspace(0, 1, count, dtype=torch.float64)
    if math.isinf(rho):
        return (math.log(low) + t * math.log(high / low)).exp().tolist()
    return ((low ** (1 / rho) + t * (high ** (1 / rho) - low ** (1 / rho))) ** rho).tolist()


def compared(subject: Subject, x0: Tensor, skip: float) -> list[tuple[str, int, float, float]]:
    """(way, evaluations up, error of the noise, dB of the way back) of every way."""
    process = subject.process
    top = min(80.0, float(process.ratio(float(subject.schedule(20)[0]) * (1 - 1e-3))))

    def sigmas(ve: list[float]) -> list[float]:
        return [float(process.sigma_of_ratio(v)) for v in ve]

    start = process.inject(x0, unit_noise(x0, range(len(x0))), sigmas([skip])[0])
    fine = sigmas(fixed(skip, top, 201, math.inf))
    true = integrate(subject.denoise, start, fine, "heun", process).x
    ideal = subject.denoise(start, torch.full((len(x0),), fine[0]))

    def judged(way: str, end: Tensor, levels: list[float], nfe: int, solver: str) -> tuple[str, int, float, float]:
        off = (end - true) / levels[-1]
        back = reconstruct(
            subject.denoise, process.to_noise(end, levels[-1]), [*levels[::-1], 0.0], solver=solver, process=process
        )
        return way, nfe, float(off.square().mean().sqrt()), float(psnr(back, ideal).mean())

    found = []
    for name, rho in FIXED.items():
        for count in COUNTS:
            levels = sigmas(fixed(skip, top, count, rho))
            for solver in ("ab2-log", "dpmpp-2m"):
                walk = integrate(subject.denoise, start, levels, solver, process)
                found.append(judged(f"{solver}, {name}", walk.x, levels, walk.nfe, solver))
    for tolerance in TOLERANCES:
        with torch.no_grad():
            end, levels, nfe = adaptive(subject, start, [skip, top], tolerance)
        found.append(judged(f"adaptive ab2-log, {tolerance:g}", end, levels, nfe, "ab2-log"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_models(parser)
    parser.add_argument("--skip", type=float, default=0.07)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("out/adaptive.json"))
    o = parser.parse_args()
    print("| model | way | evaluations up | error of the noise | dB of the way back |\n|---|---|---|---|---|")
    kept = []
    for subject in subjects(o.models):
        x0 = torch.cat(list(pictures(o.count // 2).values()))
        for way, nfe, error, decibels in compared(subject, x0, o.skip):
            print(f"| {subject.name} | {way} | {nfe} | {error:.4f} | {decibels:.1f} |", flush=True)
            kept.append({"model": subject.name, "way": way, "nfe": nfe, "error": error, "psnr": decibels})
        o.out.parent.mkdir(parents=True, exist_ok=True)
        o.out.write_text(json.dumps(kept))


if __name__ == "__main__":
    main()
