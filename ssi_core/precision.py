"""Which precision things are computed in.

Statistics, blends and schedules are computed in float64; a network computes in its own dtype, whatever the state's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def float64(x: Any) -> Tensor:
    """A tensor, number or list in float64, on its device where that has float64 (Apple's MPS: on the CPU instead)."""
    if not isinstance(x, Tensor):
        return torch.as_tensor(x, dtype=torch.float64, device="cpu")
    return (x.cpu() if x.device.type == "mps" else x).double()


def ask(network: Callable[..., Tensor], x: Tensor, time: Tensor, *condition: object) -> Tensor:
    """Evaluate a network in its own dtype (its `dtype` attribute, else its first parameter's), answer in x's dtype.

    The time argument stays in float32 for networks of lower precision: bfloat16 would round timestep 999 to 1000.
    """
    own = getattr(network, "dtype", None)
    if own is None:
        parameters = getattr(network, "parameters", None)
        first = next(iter(parameters()), None) if callable(parameters) else None
        own = x.dtype if first is None else first.dtype
    precise = own if own in (torch.float32, torch.float64) else torch.float32
    return network(x.to(own), time.to(precise), *condition).to(x.dtype)
