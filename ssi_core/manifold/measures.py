"""How far two samples are from each other."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from .checks import points, whole_number


class Slices:
    """A sample [N, d] as it looks along random lines: sorted on each, which is all that a sliced distance needs of it.

    Args:
        x: the sample.
        directions: how many lines, uniform on the unit sphere, the same for the same seed.
        seed: of the lines.

    Raises:
        InputError: no rows, or NaN or Inf.
    """

    def __init__(self, x: Tensor, directions: int = 500, seed: int = 0) -> None:
        rows = points(x, "samples", "finite rows [N, d]")
        v = torch.randn(
            rows.shape[1], whole_number(directions, "directions"), dtype=torch.float64,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        self.ends = ((v / v.norm(dim=0)).T.to(rows) @ rows.T).sort(dim=1).values

    def distance(self, other: Slices) -> float:
        """Sliced Wasserstein-1 distance: the mean over the lines of the distance along each.

        Raises:
            InputError: samples of different sizes, or seen along different numbers of lines.
        """
        if self.ends.shape != other.ends.shape:
            raise InputError(
                f"samples: {tuple(self.ends.shape)} and {tuple(other.ends.shape)} lines and points; two of the same "
                f"size, seen along the same lines, are wanted"
            )
        return float((self.ends - other.ends).abs().mean())


def sliced_wasserstein(a: Tensor, b: Tensor, directions: int = 500, seed: int = 0) -> float:
    """Sliced Wasserstein-1 distance of two samples [N, d] of the same size (`Slices`).

    Two samples of one distribution do not give 0: compare with that floor.

    Raises:
        InputError: shapes differ, or samples hold NaN or Inf.
    """
    if a.shape != b.shape:
        raise InputError(f"samples: shapes {tuple(a.shape)} and {tuple(b.shape)}; two of the same [N, d] are wanted")
    return Slices(a, directions, seed).distance(Slices(b, directions, seed))
