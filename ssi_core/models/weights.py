"""Weights on their way from a file into memory: read in order, cast, and checked for what they must not be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from ..errors import Cancelled, InputError, shown
from .records import Archive

Progress = Callable[[int, int], object]
"""(bytes read, bytes in all); returning False cancels."""


def read_weights(
    archive: Archive, wanted: Mapping[str, torch.dtype | None], progress: Progress
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Read tensors in the order in which they lie in the file.

    Args:
        archive: the open file.
        wanted: name in the file -> dtype to cast to; None: as stored.
        progress: called after every tensor.

    Yields:
        (name in the file, as stored, as wanted), on the CPU and contiguous.

    Raises:
        InputError: a tensor holds no real numbers; or, once all are read, some hold NaN or Inf, or numbers that the
            dtype wanted cannot hold, with the first five names of each; or the file was changed meanwhile.
        Cancelled: `progress` returned False.
    """
    spoilt: list[str] = []
    lost: list[str] = []
    done, total = 0, sum(archive.records[name].nbytes for name in wanted)
    for name in sorted(wanted, key=lambda name: archive.records[name].storage.offset):
        stored = archive.tensor(name)
        if not stored.is_floating_point():
            raise InputError(f"{archive.path}: tensor {shown(name)} holds {stored.dtype}, where weights are wanted")
        cast = stored.to(wanted[name] or stored.dtype)
        # What is finite after the cast was so before it, but not the other way round.
        if not finite(cast):
            (lost if finite(stored) else spoilt).append(name)
        yield name, stored, cast
        done += archive.records[name].nbytes
        if progress(done, total) is False:
            raise Cancelled(f"{archive.path}: reading was cancelled")
    archive.check_unchanged()
    if spoilt:
        raise InputError(
            f"{archive.path}: {len(spoilt)} tensors hold NaN or Inf ({first_names(spoilt)}); the file is spoilt"
        )
    if lost:
        dtypes = sorted({str(wanted[name]) for name in lost})
        raise InputError(
            f"{archive.path}: {len(lost)} tensors hold numbers too large for {', '.join(dtypes)} "
            f"({first_names(lost)}); use {'bfloat16 or float32' if dtypes == ['torch.float16'] else 'the stored dtype'}"
        )


def first_names(names: list[str]) -> str:
    """The first five of the names of tensors, for a message."""
    return ", ".join(shown(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")


def finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or Inf, at the price of one pass over them by one thread.

    More threads would wait for each other longer than they compute where the machine is busy.
    """
    if tensor.dtype in (torch.float16, torch.bfloat16):
        exponent = np.uint16(0x7C00 if tensor.dtype == torch.float16 else 0x7F80)
        bits = tensor.view(torch.int16).numpy().view(np.uint16)
        return not bool(((bits & exponent) == exponent).any())
    values = tensor.numpy()
    with np.errstate(all="ignore"):
        # A sum is finite unless something in it is not; or it overflows, and then the values are looked at one by one.
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())
