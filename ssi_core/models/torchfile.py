"""What torch and NVlabs/edm write: zip archives, legacy streams, and pickles with legacy streams inside.

Each function here runs the file's pickle programs on `pickles.Machine` and puts what they describe into the archive.
"""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import torch

from ..errors import InputError, shown
from .pickles import Budget, Constructors, Damaged, Instance, Machine, Span, Symbol, Unreadable, check_keys
from .records import Archive, Record, Storage
from .unwrap import PersistentObject, take_network

LONGEST_BEGINNING = 4096
"""Bytes of a stream's first three programs; torch writes about 100."""
PRICE_OF_A_PAIR = 10
"""Instructions that a pair in an argument of OrderedDict counts for: one instruction can ask for a copy of them all."""
LONGEST_PICKLE = 100_000_000
"""Bytes of a torch zip's pickle program."""
LONGEST_ENCODED = 64
"""Characters of a byte string that is written as text; a number of numpy's has at most 16."""
LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The number that a torch legacy stream starts with, as a pickle without its protocol byte."""

DTYPES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool,
}  # fmt: skip


def is_legacy(start: bytes) -> bool:
    """Whether a torch legacy stream starts like this (24 bytes are enough)."""
    body = start[2:]
    if body[:1] == b"\x95":  # from protocol 4 on, the length of a frame comes first
        body = body[9:]
    return start[:1] == b"\x80" and body.startswith(LEGACY_MAGIC)


def torch_zip(archive: Archive) -> None:
    """The zip format of `torch.save`: a program, and one stored member per storage.

    Raises:
        InputError: no torch file, or members that torch does not write (compressed, encrypted, symbolic links).
        Damaged: what it says does not fit together.
    """
    try:
        members = {info.filename: info for info in zipfile.ZipFile(archive.file).infolist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, EOFError) as error:
        raise Damaged(f"{shown(str(error))}; it is truncated") from error
    program = next((name for name in members if name == "data.pkl" or name.endswith("/data.pkl")), None)
    if program is None:
        raise InputError(f"{archive.path}: is a zip without data.pkl, so no torch checkpoint")
    places = {name: _place(archive, info) for name, info in members.items()}
    root = program[: -len("data.pkl")]

    if root + "byteorder" in places:
        offset, length = places[root + "byteorder"]
        archive.file.seek(offset)
        if archive.file.read(min(length, 16)) != b"little":
            raise InputError(f"{archive.path}: was written on a big-endian machine; convert it there")

    def storage(pid: Any) -> Storage:
        dtype, key, numel = _storage_id(pid)
        offset, length = places.get(f"{root}data/{key}", (0, -1))
        if numel * dtype.itemsize > length:
            raise Damaged(f"storage {shown(key)} claims {numel * dtype.itemsize} bytes, but has {max(length, 0)}")
        return Storage(dtype, offset, numel)

    offset, length = places[program]
    if length > LONGEST_PICKLE:
        raise Damaged(f"its pickle has {length} bytes")
    archive.file.seek(offset)
    budget = Budget()
    table = constructors(archive, budget)
    take_network(archive, Machine(archive.file, offset + length, str(archive.path), table, storage, budget).run())


def _place(archive: Archive, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Offset and length of a member's bytes."""
    if stat.S_ISLNK(info.external_attr >> 16):
        raise InputError(f"{archive.path}: its member {shown(info.filename)} is a symbolic link; refused")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
        raise InputError(
            f"{archive.path}: its member {shown(info.filename)} is compressed or encrypted, which torch never does; "
            "refused"
        )
    archive.file.seek(info.header_offset)
    header = archive.file.read(30)
    if len(header) != 30 or header[:4] != b"PK\x03\x04":
        raise Damaged(f"member {shown(info.filename)} is not where the directory says")
    names, extra = struct.unpack("<HH", header[26:])
    offset = info.header_offset + 30 + names + extra
    if offset + info.file_size > archive.opened.st_size:
        raise Damaged(f"member {shown(info.filename)} reaches beyond the end of the file")
    return offset, info.file_size


def torch_legacy(archive: Archive) -> None:
    """The format of `torch.save` before version 1.6."""
    budget = Budget()
    take_network(
        archive, _stream(archive, 0, archive.opened.st_size, constructors(archive, budget), budget, bytearray())
    )


def plain_pickle(archive: Archive) -> None:
    """One pickle program with torch streams inside, as NVlabs' training writes."""
    budget = Budget()
    table = constructors(archive, budget)
    machine = Machine(archive.file, archive.opened.st_size, str(archive.path), table, budget=budget)
    take_network(archive, machine.run())


def _storage_id(pid: Any) -> tuple[torch.dtype, str, int]:
    """dtype, key and number of elements from ("storage", type, key, device, number), in old files with a view.

    A view (key, offset, size) says that the storage is a part of another one; torch wrote it until about 2018.
    """
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or type(pid[4]) is not int or pid[4] < 0:
        raise Damaged("a persistent id that is no storage")
    dtype = DTYPES.get(str(getattr(pid[1], "name", "")).removesuffix("Storage"))
    if dtype is None or not isinstance(pid[2], str):
        raise Damaged("a storage of unknown type")
    if any(part is not None for part in pid[5:]):
        raise Unreadable("holds a storage that is a view of another")
    return dtype, pid[2], pid[4]


def _stream(archive: Archive, start: int, end: int, table: Constructors, budget: Budget, beginning: bytearray) -> Any:
    """The object in a torch legacy stream, which lies between two positions of the file.

    The stream has five programs (a number, a version, the machine, the object, the keys of its storages), then the
    storages' bytes, each after its length. Where those lie is known only at the end, so an object that is more than a
    storage is made twice.

    Args:
        beginning: the first three programs of a stream of this file, once there was one. They are the same in all of
            its hundreds of streams; those that begin with the same bytes need not run them again.
    """

    def program(persistent: Callable[[Any], Any] | None = None) -> Any:
        return Machine(archive.file, end, str(archive.path), table, persistent, budget).run()

    archive.file.seek(start)
    if not beginning or archive.file.read(min(len(beginning), end - start)) != beginning:
        archive.file.seek(start)
        if program() != 0x1950A86A20F9469CFC6C or program() != 1001:
            raise Damaged("a torch stream of unknown version")
        system = program()
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise InputError(f"{archive.path}: was written on a big-endian machine; convert it there")
        length = archive.file.tell() - start
        archive.file.seek(start)
        beginning[:] = archive.file.read(length if length <= LONGEST_BEGINNING else 0)
        archive.file.seek(start + length)

    noted: dict[str, Storage] = {}

    def note(pid: Any) -> Storage:
        dtype, key, numel = _storage_id(pid)
        noted[key] = Storage(dtype, 0, numel)
        return noted[key]

    position = archive.file.tell()
    value = program(note)
    keys = program()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(noted):
        raise Damaged("storages that nothing uses, or the other way round")
    found: dict[str, Storage] = {}
    offset = archive.file.tell()
    for key in keys:
        dtype, numel = noted[key].dtype, noted[key].numel
        archive.file.seek(offset)
        count = archive.file.read(8)
        if int.from_bytes(count, "little") != numel or offset + 8 + numel * dtype.itemsize > end:
            raise Damaged(
                f"storage {shown(key)} of {numel * dtype.itemsize} bytes reaches beyond the end; it is truncated"
            )
        found[key] = Storage(dtype, offset + 8, numel)
        offset += 8 + numel * dtype.itemsize
    alone = next((key for key, storage in noted.items() if storage is value), None)
    if alone is not None:
        return found[alone]
    archive.file.seek(position)
    return program(lambda pid: found[_storage_id(pid)[1]])


# What a pickle may name


def constructors(archive: Archive, budget: Budget) -> Constructors:
    """What the programs of a file may name.

    A stream inside it holds one storage: it may name neither further streams nor networks, so nothing goes deeper.
    However often a byte string is asked for, it is read once.
    """
    storages: dict[Span, Storage] = {}
    beginning = bytearray()

    def mapping(*arguments: Any) -> dict[Any, Any]:
        if not arguments:
            return {}
        (pairs,) = arguments
        if not isinstance(pairs, list | tuple):
            raise Damaged("a dictionary of what is no list")
        budget.spend(PRICE_OF_A_PAIR * len(pairs))
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            raise Damaged("a dictionary of what are no pairs")
        check_keys([key for key, _ in pairs])
        return dict(pairs)

    def group(items: Any = ()) -> set[Any]:
        """A set as protocols 2 and 3 write it."""
        if not isinstance(items, list | tuple):
            raise Damaged("a set of what is no list")
        budget.spend(PRICE_OF_A_PAIR * len(items))
        check_keys(items)
        return set(items)

    def tensor(
        storage: Any, first: Any, shape: Any, stride: Any, grad: Any = None, hooks: Any = None, metadata: Any = None
    ) -> Record:
        if metadata:  # such as a sign or a conjugation that is still to be carried out
            raise Unreadable("holds a tensor that is a view with a sign or a conjugation")
        if not isinstance(storage, Storage) or len(shape) != len(stride) or len(shape) > 8:
            raise Damaged("a tensor without a storage")
        if not all(type(n) is int and 0 <= n < 2**48 for n in [first, *shape, *stride]):
            raise Damaged("a tensor whose sizes are no numbers")
        return Record(storage, first, tuple(shape), tuple(stride))

    def parameter(data: Any, requires_grad: Any, hooks: Any) -> Any:
        return data

    def nested(span: Any) -> Any:
        if not isinstance(span, Span):
            raise Damaged("a nested stream that is no byte string")
        if span in storages:
            return storages[span]
        here = archive.file.tell()
        archive.file.seek(span.offset)
        if not is_legacy(archive.file.read(24)):
            raise Damaged("a nested stream that torch has not written")
        value = _stream(archive, span.offset, span.offset + span.length, inside, budget, beginning)
        archive.file.seek(here)
        if not isinstance(value, Storage):
            raise Damaged("a nested stream that holds no storage")
        storages[span] = value
        return value

    def persistent(meta: Any) -> PersistentObject:
        # meta["module_src"] is program text. It is dropped here, unread.
        state = meta["state"]
        if not isinstance(state, dict) or not isinstance(meta["class_name"], str):
            raise Damaged("a persistent object without a state")
        return PersistentObject(meta["class_name"], state)

    def size(numbers: Any) -> tuple[Any, ...]:
        if not isinstance(numbers, tuple):
            raise Damaged("a torch.Size of what is no tuple")
        return numbers

    def device(*name: Any) -> Instance:
        return Instance(Symbol("torch", "device"), name)

    def dtype(code: Any, *flags: Any) -> Instance:
        return Instance(code)

    def scalar(kind: Any, data: Any) -> float | int | bool:
        big = isinstance(getattr(kind, "state", None), tuple) and ">" in kind.state
        layout = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i", "u8": "<Q", "u4": "<I", "b1": "?"}.get(
            getattr(kind, "symbol", "")
        )
        if layout is None or big:
            raise Unreadable("holds a number of numpy's of another type than real or whole")
        if isinstance(data, bytes) and len(data) == struct.calcsize(layout):
            made: float | int | bool = struct.unpack(layout, data)[0]
            return made
        if not isinstance(data, Span) or data.length != struct.calcsize(layout):
            raise Damaged("a number that is longer or shorter than its type")
        here = archive.file.tell()
        archive.file.seek(data.offset)
        value: float | int | bool = struct.unpack(layout, archive.file.read(data.length))[0]
        archive.file.seek(here)
        return value

    def encoded(text: Any, codec: Any) -> bytes:
        """A byte string as protocol 2 writes it."""
        if not isinstance(text, str) or codec not in ("latin1", "latin-1") or len(text) > LONGEST_ENCODED:
            raise Unreadable("holds a byte string that is no number of numpy's")
        return text.encode("latin-1")

    table: Constructors = {
        ("collections", "OrderedDict"): mapping,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_parameter"): parameter,
        ("torch.storage", "_load_from_bytes"): nested,
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): persistent,
        ("torch.nn.modules.container", "ModuleDict"): None,
        ("torch.nn.modules.container", "ModuleList"): None,
        ("numpy", "dtype"): dtype,
        ("numpy.core.multiarray", "scalar"): scalar,
        ("numpy._core.multiarray", "scalar"): scalar,
        ("numpy.multiarray", "scalar"): scalar,
        **{("torch", f"{name}Storage"): None for name in DTYPES},
        # Never part of a network, but training code leaves them beside it.
        ("_codecs", "encode"): encoded,
        ("builtins", "set"): group,
        ("__builtin__", "set"): group,
        ("argparse", "Namespace"): None,
        ("torch", "Size"): size,
        ("torch", "device"): device,
        **{("torch", str(kind).removeprefix("torch.")): None for kind in DTYPES.values()},
    }
    inside = {pair: maker for pair, maker in table.items() if maker not in (nested, persistent)}
    return table
