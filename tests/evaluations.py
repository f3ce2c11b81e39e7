"""A model with an exact answer, a folder of pictures and a small plan for tests of `ssi_core.evaluate`; and, run as a
script, one process of an evaluation that can be told to die."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssi_core.evaluate import Arm, Plan, evaluate, plan_of
from ssi_core.evaluate.shards import sharded
from ssi_core.evaluate.tables import UNCERTAIN
from ssi_core.report.tables import Table

SIZE = 16
ARMS = (Arm("base", 5, 0.0, "euler"), Arm("SSI", 5, 0.1, "euler", against="base"), Arm("SSI heun", 4, 0.2, "heun"))


class Toy:
    """D of x0 ~ N(0, 0.25): exact, elementwise. Dies or waits at evaluation number `fatal`, when told to."""

    image_size, channels, sigma_min, sigma_max = SIZE, 3, 0.002, 80.0
    signature, device = "toy", torch.device("cpu")

    def __init__(self, fatal: int = 0, error: BaseException | None = None) -> None:
        self.fatal, self.error, self.count = fatal, error, 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.count += 1
        if self.count == self.fatal:
            if self.error is None:
                os._exit(9)
            raise self.error
        return x * (0.25 / (0.25 + sigma.reshape(-1, 1, 1, 1) ** 2))


class Coupled(Toy):
    """A toy that rounds by what else is in its batch, more than a network does: other batches are other bits."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return super().__call__(x, sigma) + 1e-6 * x.mean()


def folder(root: Path, count: int = 7, size: int = 20) -> Path:
    """Pictures of smooth noise."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"picture {i}.png")
    return root


def lines_of(table: Table) -> list[list[str]]:
    """A summary's rows without those of standard errors."""
    return [row for row in table.rows if row[0] != UNCERTAIN]


def plan(images: Path, denoise: Toy, *, arms: tuple[Arm, ...] = ARMS, **options: object) -> Plan:
    from dataclasses import replace

    given = {"batch": 2, **options}
    return replace(plan_of("regimes", model="toy", denoise=denoise, images=str(images), **given), arms=arms)  # type: ignore[arg-type]


if __name__ == "__main__":
    torch.set_num_threads(1)
    pictures, out, fatal, mortal = sys.argv[1:5]
    with sharded() as shard:
        toy = Coupled(int(fatal) if shard.rank == int(mortal) else 0)
        try:
            seed = int(os.environ.get("EVALUATION_SEED", "0"))
            evaluate(plan(Path(pictures), toy, seed=seed), toy, Path(out), shard=shard)
        except ValueError as error:
            print(error, file=sys.stderr)
            sys.exit(2)
