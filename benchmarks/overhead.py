"""What the engine costs on top of the network: wall time / (NFE x one bare evaluation). `python benchmarks/overhead.py`

Inversions and bare evaluations alternate in one process, so that a loaded machine slows both alike; the ratio of each
pair is taken and the median over all pairs reported.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from ssi_core import SOLVERS, demo_denoiser, invert, karras_sigmas
from ssi_core.demo.scenes import HELD_OUT, draw_scenes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--solvers", nargs="*", default=["euler", "heun", "ab2-log", "dpmpp-2m", "fixed-point"])
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    denoise = demo_denoiser()
    x0 = draw_scenes(range(HELD_OUT, HELD_OUT + o.batch), denoise.image_size)
    sigmas = karras_sigmas(o.steps)
    sigma = torch.ones(o.batch)
    for _ in range(3):
        denoise(x0, sigma)

    print(f"batch {o.batch}, N={o.steps}, {o.threads} thread(s), torch {torch.__version__}; required <= 1.03")
    for solver in o.solvers:
        assert solver in SOLVERS, solver
        ratios = []
        for _ in range(o.repeats):
            began = time.perf_counter()
            nfe = invert(denoise, x0, sigmas, skip=0.05, solver=solver).nfe
            whole = time.perf_counter() - began
            began = time.perf_counter()
            for _ in range(nfe):
                denoise(x0, sigma)
            ratios.append(whole / (time.perf_counter() - began))
        low, high = min(ratios), max(ratios)
        print(
            f"{solver:12s} NFE {nfe:3d}  wall / (NFE x bare) = {statistics.median(ratios):.3f}  ({low:.3f}..{high:.3f})"
        )


if __name__ == "__main__":
    main()
