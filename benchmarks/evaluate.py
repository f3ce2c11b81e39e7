"""What `ssi evaluate` costs: images a second, what it adds to the network, and whether memory stays flat.

`python benchmarks/evaluate.py` measures, on the demo model,

1. at each batch: images a second of a whole evaluation (pictures read, inverted, sampled, measured, rows and pictures
   written), and its wall time over that of bare evaluations of the network. Beside every evaluation, before and after
   it in turn, stands a bare one of the same input, whose time is taken out of the whole and is what the rest is divided
   by: pairs a few milliseconds long, which a loaded machine slows alike. The batches take turns, round after round;
   printed are the median over rounds and the quartiles. "cpu" is the same ratio in this process's processor time: what
   others do on the machine hardly moves it, but waiting for the disk is not in it. What is missing after Ctrl-C is left
   out.
2. memory over many pictures, with a model that costs nothing: the process's resident size after an evaluation of a
   tenth of the pictures, and while and after one of all of them: what it is then, not the largest it ever was, under
   which growth may hide. Needs Linux.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssi_core import demo_denoiser, save_image
from ssi_core.demo.scenes import HELD_OUT, draw_scenes
from ssi_core.evaluate import Arm, evaluate, plan_of
from ssi_core.skip import DEFAULT_SKIP

SIZE = 64
"""Of the pictures on disk; reading them includes fitting them to the model."""
LEAST = 32
"""Pictures in an evaluation, so that what is done once does not count as if it were done for each."""


class Paired:
    """The demo model, with a bare evaluation of the same input beside each; `bare`, `cpu`: what these took, seconds."""

    def __init__(self) -> None:
        self.model = demo_denoiser()
        self.bare = self.cpu = 0.0
        self.calls = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.model, name)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        # Before and after in turn: the second of two finds its memory warm.
        ways = (self._timed, self.model) if self.calls % 2 else (self.model, self._timed)
        return [way(x, sigma) for way in ways][-1]

    def _timed(self, x: Tensor, sigma: Tensor) -> Tensor:
        wall, cpu = time.perf_counter(), time.process_time()
        found = self.model(x, sigma)
        self.bare += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        return found


class Free:
    """A model that costs nothing: D of x0 ~ N(0, 1/4)."""

    image_size, channels, sigma_min, sigma_max = 32, 3, 0.002, 80.0
    signature, device = "free", torch.device("cpu")

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x * (0.25 / (0.25 + sigma.reshape(-1, 1, 1, 1) ** 2))


@dataclass(frozen=True)
class Round:
    """One evaluation and its bare twin."""

    speed: float
    """Images a second."""
    ratio: float
    """Wall time over that of the bare evaluations."""
    cpu: float
    """The same of processor time."""


def throughput(found: dict[int, list[Round]], steps: int, rounds: int, root: Path) -> None:
    """Add to each batch's rounds, in turn; the first of each only warms up."""
    for turn in range(rounds + 1):
        for batch in found:
            pictures, count = root / f"pictures-{batch}", max(batch, LEAST)
            if turn == 0:
                pictures.mkdir()
                for i, scene in enumerate(draw_scenes(range(HELD_OUT, HELD_OUT + count), SIZE).split(1)):
                    save_image(scene, pictures / f"{i}.png")
            paired = Paired()
            plan = plan_of(
                "regimes", model="demo", denoise=paired, images=str(pictures), batch=batch,
                limit=count if turn else batch,
            )  # fmt: skip
            plan = replace(plan, arms=(Arm("SSI", steps, DEFAULT_SKIP),))
            began, cpu = time.perf_counter(), time.process_time()
            evaluate(plan, paired, root / f"out-{batch}-{turn}")
            whole = time.perf_counter() - began - paired.bare
            busy = time.process_time() - cpu - paired.cpu
            if turn:
                found[batch].append(Round(count / whole, whole / paired.bare, busy / paired.cpu))


def spread(values: Sequence[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles([*values, *values[: len(values) == 1]], n=4, method="inclusive")
    return f"{middle:.3f} ({low:.3f}..{high:.3f})"


def resident() -> float:
    """MiB that this process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory(count: int, root: Path) -> tuple[float, float, float]:
    """MiB resident after an evaluation of a tenth of `count` pictures; at most, while all are evaluated; after that."""
    pictures = root / "many"
    pictures.mkdir()
    after, most = [], 0.0

    def watch(what: str, done: int, of: int) -> None:
        nonlocal most
        most = max(most, resident())

    for first, until in ((0, count // 10), (count // 10, count)):
        for i in range(first, until):
            pixels = np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(pictures / f"{i}.png")
        plan = plan_of("regimes", model="free", denoise=Free(), images=str(pictures), limit=0)
        most = 0.0
        evaluate(replace(plan, arms=(Arm("SSI", 4, 0.1),)), Free(), root / f"many-{until}", task=watch)
        after.append(resident())
    return after[0], most, after[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        if o.pictures:
            before, most, after = memory(o.pictures, root)
            print(
                f"memory, MiB resident: {before:.0f} after {o.pictures // 10} pictures; {after:.0f} after {o.pictures}"
            )
            print(f"  and at most {most:.0f} on the way to the latter")
        print(
            f"SSI, N={o.steps}, {o.threads} thread(s), torch {torch.__version__}, load {os.getloadavg()[0]:.1f}, "
            f"{o.rounds} rounds; wall / (NFE x bare) wanted <= 1.05"
        )
        found: dict[int, list[Round]] = {batch: [] for batch in o.batches}
        with suppress(KeyboardInterrupt):
            throughput(found, o.steps, o.rounds, root)
        for batch, rounds in found.items():
            if not rounds:
                continue
            speed = statistics.median(r.speed for r in rounds)
            print(f"batch {batch:2d}  {speed:6.2f} images/s  wall / (NFE x bare) = {spread([r.ratio for r in rounds])}"
                  f"  cpu {spread([r.cpu for r in rounds])}  {len(rounds)} round(s)")  # fmt: skip
        print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
