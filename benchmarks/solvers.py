"""Which solver, how many steps, which skip: quality against evaluations on held-out images.

`python benchmarks/solvers.py` prints a Markdown table; the defaults of `ssi_core.invert` are chosen by it. A setting
"passes" when its mean noise figures meet the bars on the issue that set them: std 1 +- .02, CHAN and KS within 1.15 of
the Gaussian floor, HORI and VERT within 1.03, |kurtosis| .05, block spread within 1.1, |edge correlation| .03.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from ssi_core import DEFAULT_SKIP, DEFAULT_SOLVER, demo_denoiser
from ssi_core.demo.measure import Laboratory, RoundTrip, Setting
from ssi_core.demo.photos import held_out_photos
from ssi_core.demo.scenes import HELD_OUT, draw_scenes
from ssi_core.injection import DEFAULT_INJECTION

TIMES_FLOOR = {"chan": 1.15, "ks": 1.15, "hori": 1.03, "vert": 1.03, "block_spread": 1.1}


def failed_bars(trip: RoundTrip) -> list[str]:
    """Names of the figures whose mean over the images misses its bar."""
    mean, floor = trip.summary(), trip.report.floor
    failed = [name for name, times in TIMES_FLOOR.items() if mean[name] > times * float(getattr(floor, name))]
    failed += ["std"] if abs(mean["std"] - 1) > 0.02 else []
    failed += ["kurtosis"] if abs(mean["kurtosis"]) > 0.05 else []
    return failed + (["edge"] if abs(mean["edge"]) > 0.03 else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", choices=["scenes", "photos"], default="scenes")
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--solvers", nargs="*", default=["euler", "heun", "ab2", "ab2-log", "dpmpp-2m"])
    parser.add_argument("--steps", type=int, nargs="*", default=[8, 10, 12, 15, 20, 40])
    parser.add_argument("--skips", type=float, nargs="*", default=[0.0, 0.03, 0.05, 0.07, 0.1, 0.14])
    parser.add_argument("--injections", nargs="*", default=[DEFAULT_INJECTION])
    parser.add_argument("--reference", action="store_true", help="also Euler N=200 at skip 0.1, the paper's way")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write every figure here")
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    denoise = demo_denoiser()
    size = denoise.image_size
    held = draw_scenes(range(HELD_OUT, HELD_OUT + o.count), size) if o.images == "scenes" else held_out_photos(size)
    lab = Laboratory(denoise)
    settings = [Setting(s, n, k, i) for s in o.solvers for n in o.steps for k in o.skips for i in o.injections]
    settings += [Setting("euler", 200, 0.1)] if o.reference else []
    print(f"{o.images}, {len(held)} images, {denoise.signature}; defaults {DEFAULT_SOLVER}, {DEFAULT_SKIP}\n")
    print("| setting | NFE | PSNR | SSIM | std | CHAN | KS | kurtosis | edge | misses |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    everything = {}
    for setting in settings:
        trip = lab.round_trip(o.images, held, setting)
        s = everything[str(setting)] = trip.summary()
        print(
            f"| {setting} | {s['nfe']:.0f} | {s['psnr']:.1f} | {s['ssim']:.3f} | {s['std']:.3f} | {s['chan']:.4f} | "
            f"{s['ks']:.4f} | {s['kurtosis']:+.3f} | {s['edge']:+.3f} | {' '.join(failed_bars(trip)) or '-'} |",
            flush=True,
        )
    if o.json:
        o.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
