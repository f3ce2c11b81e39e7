"""Checkpoint files as lists of tensors, whose bytes stay in the file until they are wanted.

Tensors are read with plain reads into memory of their own. Mapping the file instead would cost nothing at first, but a
file that is replaced or truncated later would then change the weights or kill the process.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import InputError, shown


@dataclass(frozen=True)
class Storage:
    """Consecutive numbers somewhere in the file."""

    dtype: torch.dtype
    offset: int
    """Bytes from the start of the file."""
    numel: int


@dataclass(frozen=True)
class Record:
    """Where a tensor lies in its storage."""

    storage: Storage
    first: int
    """Index of its first element in the storage."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor itself."""
        return math.prod(self.shape) * self.storage.dtype.itemsize

    @property
    def reading(self) -> int:
        """Bytes that reading it takes: everything from its first to its last element, or what it is spread out to."""
        return max(self.extent, math.prod(self.shape)) * self.storage.dtype.itemsize

    @property
    def extent(self) -> int:
        """Elements from the first to the last one, both included."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))


@dataclass
class Archive:
    """An open checkpoint."""

    path: Path
    container: str
    records: dict[str, Record]
    facts: dict[str, Any] = field(default_factory=dict)
    """What the file says about itself beside its tensors."""
    file: BinaryIO = field(repr=False, kw_only=True)
    opened: os.stat_result = field(repr=False, kw_only=True)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: record.shape for name, record in self.records.items()}

    @property
    def nbytes(self) -> int:
        return sum(record.nbytes for record in self.records.values())

    def tensor(self, name: str) -> Tensor:
        """Read one tensor into memory of its own, contiguous, in the dtype it is stored in.

        Raises:
            InputError: the file ends before the tensor does, or has been changed since it was opened.
        """
        record = self.records[name]
        dtype = record.storage.dtype
        raw = torch.empty(record.extent * dtype.itemsize, dtype=torch.uint8)
        self.file.seek(record.storage.offset + record.first * dtype.itemsize)
        view = memoryview(raw.numpy())  # type: ignore[arg-type]  # arrays are buffers
        done = 0
        while done < len(view):
            count = self.file.readinto(view[done:])  # type: ignore[attr-defined]  # raw and buffered files have it
            if not count:
                raise InputError(
                    f"{self.path}: ends inside tensor {shown(name)}; the file was cut short while being read"
                )
            done += count
        tensor = raw.view(dtype).as_strided(record.shape, record.stride)
        return tensor.contiguous()

    def check_unchanged(self) -> None:
        """Raise InputError if the file was written to since it was opened."""
        now = os.fstat(self.file.fileno())
        # A modification time can be set back, the time of the last change to the inode cannot.
        if any(getattr(now, what) != getattr(self.opened, what) for what in ("st_size", "st_mtime_ns", "st_ctime_ns")):
            raise InputError(f"{self.path}: was changed while it was being read; try again when nothing writes to it")
