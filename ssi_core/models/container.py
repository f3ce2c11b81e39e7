"""Opening checkpoint files: four containers, told apart by their first bytes, not by their suffix.

| container | what it is |
|---|---|
| `.safetensors` | a JSON header and raw bytes |
| torch zip (`.pt`, `.pth`) | a zip of one pickle program and one uncompressed member per storage |
| torch legacy (`.pt`, `.pth`) | five pickle programs, then raw bytes |
| NVlabs `.pkl` | a pickle program with one torch legacy stream per tensor inside |

Nothing is executed, and no weights are read before they are wanted. A new container is one new function and one line
in `_list_tensors`.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import InputError, shown
from .pickles import Damaged
from .records import Archive, Record, Storage
from .torchfile import is_legacy, plain_pickle, torch_legacy, torch_zip

LONGEST_HEADER = 100_000_000
"""Bytes of a safetensors header."""

MOST_READING = 4
"""Times a file's size that reading its tensors may take: tied ones are read twice, strided ones with the gaps."""

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
MOST_DIMENSIONS = 8


@contextmanager
def open_archive(path: str | Path) -> Iterator[Archive]:
    """Open a checkpoint of any known container and list its tensors.

    Raises:
        InputError: no such file, no regular file, no known container, damaged, or it asks for something forbidden;
            the message names what.
    """
    path = Path(path)
    try:
        # Opening a named pipe would wait for its writer; looking first does not.
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path}: is not a regular file; give a .pt, .pth, .pkl or .safetensors file")
        file = path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except ValueError as error:  # a NUL byte
        raise InputError(f"{str(path)!r}: cannot be opened ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror or error})") from error
    with file:
        opened = os.fstat(file.fileno())
        archive = Archive(path, "", {}, file=file, opened=opened)
        try:
            _list_tensors(archive)
        except Damaged as error:
            raise InputError(f"{path}: damaged {archive.container} file: {error}") from error
        except RecursionError as error:
            raise InputError(f"{path}: damaged {archive.container} file: it is nested too deeply") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
        _check_records(archive)
        yield archive


def _list_tensors(archive: Archive) -> None:
    size = archive.opened.st_size
    start = archive.file.read(256)
    archive.file.seek(0)
    if size == 0:
        raise InputError(f"{archive.path}: is empty")
    # First, because the length that a safetensors file starts with can look like the beginning of anything else.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= LONGEST_HEADER:
        archive.container = "safetensors"
        _safetensors(archive)
    elif start[:4] == b"PK\x03\x04":
        archive.container = "torch zip"
        torch_zip(archive)
    elif is_legacy(start):
        archive.container = "torch legacy"
        torch_legacy(archive)
    elif start[:1] == b"\x80":
        archive.container = "pickle"
        plain_pickle(archive)
    elif start[:1] in b"(}]c" and (asked := re.search(rb"c([\w.]+)\n([\w.]+)\n", start)):
        module, name = (part.decode("latin-1") for part in asked.groups())
        raise InputError(
            f"{archive.path}: is a pickle of an old protocol, which no checkpoint has, and asks for "
            f"{shown(f'{module}.{name}')}; refused, nothing was executed"
        )
    else:
        raise InputError(
            f"{archive.path}: is no checkpoint: it starts with {start[:8]!r}, which is neither a torch file, a "
            ".safetensors file nor a pickle"
        )


def _check_records(archive: Archive) -> None:
    """Every tensor must lie inside the file, and all together must not claim more than it.

    A tensor without elements claims nothing, so its dimensions are looked at for themselves: networks are built, and
    choices listed, from dimensions alone.
    """
    size = archive.opened.st_size
    for name, record in archive.records.items():
        storage = record.storage
        inside = record.first >= 0 and record.first + record.extent <= storage.numel
        end = storage.offset + storage.numel * storage.dtype.itemsize
        if min((*record.shape, *record.stride, storage.numel), default=0) < 0 or not inside:
            raise InputError(
                f"{archive.path}: tensor {shown(name)} of shape {record.shape} reaches outside its storage"
            )
        if end > size:
            raise InputError(
                f"{archive.path}: tensor {shown(name)} claims {end - storage.offset} bytes at {storage.offset}, but "
                f"the file has {size}; it is truncated or forged"
            )
        if max(record.shape, default=0) > size:
            raise InputError(
                f"{archive.path}: tensor {shown(name)} has the shape {record.shape}, larger than a file of {size} "
                "bytes can hold; it is forged"
            )
    claimed = sum(
        storage.numel * storage.dtype.itemsize for storage in {record.storage for record in archive.records.values()}
    )
    if claimed > size:
        raise InputError(f"{archive.path}: its tensors claim {claimed} bytes, but the file has {size}; it is forged")
    reading = sum(record.reading for record in archive.records.values())
    if reading > MOST_READING * size:
        raise InputError(
            f"{archive.path}: its tensors are views of each other, and reading them takes {reading} bytes, where the "
            f"file has {size}; save contiguous copies of them"
        )


# safetensors


def _safetensors(archive: Archive) -> None:
    size = archive.opened.st_size
    (length,) = struct.unpack("<Q", archive.file.read(8))
    if length > min(size - 8, LONGEST_HEADER):
        raise Damaged(f"a header of {length} bytes in a file of {size}; it is truncated")
    try:
        header = json.loads(archive.file.read(length))
        metadata = header.pop("__metadata__", {})
        for name, entry in header.items():
            dtype = DTYPES.get(entry["dtype"])
            if dtype is None:
                kind = shown(entry["dtype"])
                raise Damaged(f"tensor {shown(name)} has the dtype {kind}, which no known model uses")
            shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
            if len(shape) > MOST_DIMENSIONS:
                raise Damaged(f"tensor {shown(name)} has {len(shape)} dimensions")
            if not all(type(n) is int for n in (*shape, begin, end)):
                raise Damaged(f"tensor {shown(name)}: its shape or place is no whole number")
            if math.prod(shape) * dtype.itemsize != end - begin or begin < 0:
                raise Damaged(f"tensor {shown(name)}: shape {shown(shape)} does not fit its {shown(end - begin)} bytes")
            archive.records[name] = _whole(Storage(dtype, 8 + length + begin, math.prod(shape)), shape)
        if "ssi" in metadata:
            archive.facts = dict(json.loads(metadata["ssi"]))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise Damaged(f"its header cannot be read ({shown(str(error))})") from error


def _whole(storage: Storage, shape: tuple[int, ...]) -> Record:
    stride = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        stride[i] = stride[i + 1] * shape[i + 1]
    return Record(storage, 0, shape, tuple(stride))
