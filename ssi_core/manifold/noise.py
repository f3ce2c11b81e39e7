"""Random numbers for states that may lie on a GPU, from generators that may not."""

from __future__ import annotations

import torch
from torch import Tensor


def normal_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Unit normal numbers of the shape, precision and device of x, drawn where the generator is.

    So the same generator gives the same numbers, whatever device the state is on.
    """
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)
