"""Morphs of 16 pairs of held-out pictures: ours against slerp of base inversions, in one run.

    python benchmarks/morphs.py [--pairs 16] [--frames 24] [--out out/morphs.png]

For each way: how far the keyframes are off (grey levels of 255), the largest step between frames over the median one,
the share of blends that are Gaussian, and the evaluations spent. Half of the pairs are drawn scenes, half photographs.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssi_core import blend, demo_denoiser, gaussianity, invert, karras_sigmas
from ssi_core.demo.photos import held_out_photos
from ssi_core.demo.scenes import HELD_OUT, draw_scenes
from ssi_core.image import contact_sheet, save_image, to_pixels
from ssi_core.morph import Morph, morph
from ssi_core.skip import DEFAULT_SKIP

SHOWN = 3


@dataclass(frozen=True)
class Way:
    name: str
    skip: float
    pace: str
    carry: bool


WAYS = (
    Way("base, slerp by angle", 0.0, "angle", False),
    Way("SSI, slerp by angle", DEFAULT_SKIP, "angle", False),
    Way("SSI, even pace", DEFAULT_SKIP, "even", False),
    Way("SSI, even pace, residual carried", DEFAULT_SKIP, "even", True),
    Way("base, even pace, residual carried", 0.0, "even", True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("out/morphs.png"))
    o = parser.parse_args()
    scenes = o.pairs - o.pairs // 2
    photos = held_out_photos()[: 2 * (o.pairs // 2)]
    pictures = torch.cat([draw_scenes(range(HELD_OUT, HELD_OUT + 2 * scenes)), photos])
    denoise = demo_denoiser()
    sigmas = karras_sigmas(o.steps, sigma_min=denoise.sigma_min, sigma_max=denoise.sigma_max)
    strips: list[list[Tensor]] = [[] for _ in range(SHOWN)]
    print("| way | keyframes off, grey levels | largest step / median: median, worst | pairs over 2 | Gaussian | NFE |")
    print("|---|---|---|---|---|---|")
    for way in WAYS:
        inverted = [
            invert(denoise, some, sigmas, skip=way.skip, seed=16 * i) for i, some in enumerate(pictures.split(16))
        ]
        keys = [one.sample(i) for one in inverted for i in range(len(one.noise))]
        off: list[int] = []
        uneven: list[float] = []
        gaussian: list[bool] = []
        spent: list[int] = []
        for p in range(o.pairs):
            pair, two = pictures[2 * p : 2 * p + 2], keys[2 * p : 2 * p + 2]
            originals = list(pair.split(1)) if way.carry else None
            found: Morph = morph(denoise, two, o.frames, originals=originals, pace=way.pace)
            ends = to_pixels(found.frames[[0, -1]]).astype(int) - to_pixels(pair)
            off.append(abs(ends).max())
            uneven.append(found.evenness)
            middle = blend([k.noise for k in two], [[1 - t / 8, t / 8] for t in range(9)], "slerp")
            gaussian += gaussianity(middle).verdicts
            spent.append(found.nfe)
            if p % max(1, o.pairs // SHOWN) == 0 and p // max(1, o.pairs // SHOWN) < SHOWN:
                strips[p // max(1, o.pairs // SHOWN)].append(found.frames[:: max(1, o.frames // 12)])
        print(
            f"| {way.name} | {max(off)} | {torch.tensor(uneven).median():.2f}, {max(uneven):.2f} | "
            f"{sum(u > 2 for u in uneven)} of {o.pairs} | {sum(gaussian) / len(gaussian):.0%} | "
            f"{sum(spent) / len(spent):.0f} |",
            flush=True,
        )
    o.out.parent.mkdir(parents=True, exist_ok=True)
    save_image(contact_sheet([strip for shown in strips for strip in shown], scale=3), o.out)
    print(f"{o.out}: for each of {SHOWN} pairs, the ways from above")


if __name__ == "__main__":
    main()
