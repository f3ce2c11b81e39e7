"""What `ssi describe`, `ssi convert` and `ssi models` do: functions of paths that return data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..artifact import save_tensors
from ..errors import InputError
from .family import Undecided
from .load import DTYPES, examined, kept_dtypes
from .recognise import Published, published
from .records import Archive
from .weights import Progress, read_weights

SUFFIXES = (".pt", ".pth", ".pkl", ".safetensors")
KIND = "pixel-model"
"""The kind of artefact that `convert` writes."""


@dataclass(frozen=True)
class Description:
    """What a file is, found without reading its weights."""

    path: Path
    container: str
    nbytes: int
    """Of its tensors."""
    tensors: int
    stored: tuple[str, ...]
    """dtypes in it."""
    family: str
    names: tuple[str, ...]
    """Published files that it can be."""
    image_size: int | None
    num_classes: int
    """0: unconditional."""
    null_label: bool
    """Whether it can be asked without a class where it has classes."""
    facts: dict[str, Any]
    sources: dict[str, str]
    undecided: Undecided | None
    """What it does not tell; nothing, if it can be used as it is."""
    architecture: str
    """Hash of all names and shapes."""


def describe(path: str | Path, *, name: str | None = None, overrides: Mapping[str, Any] | None = None) -> Description:
    """Say what a checkpoint is, before its weights are read.

    Args:
        path: the file.
        name, overrides: as in `load_checkpoint`.

    Raises:
        InputError: as in `load_checkpoint`, except that open questions are no error and NaN weights go unseen.
    """
    with examined(path, name=name, overrides=overrides) as seen:
        archive, found = seen.archive, seen.found
        return Description(
            path=Path(path),
            container=archive.container,
            nbytes=archive.nbytes,
            tensors=len(archive.records),
            stored=_stored(archive),
            family=found.family.name,
            names=tuple(found.names),
            image_size=found.image_size,
            num_classes=found.num_classes,
            null_label=found.family.null_label,
            facts=found.facts,
            sources=found.sources,
            undecided=seen.undecided() if found.questions else None,
            architecture=found.architecture,
        )


def convert(
    path: str | Path,
    output: str | Path,
    *,
    dtype: torch.dtype | None = None,
    name: str | None = None,
    progress: Progress | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Description:
    """Write a checkpoint as .safetensors that says by itself what it is.

    Args:
        path: any checkpoint.
        output: the new file, ending in .safetensors; written whole or not at all.
        dtype: float16 or bfloat16 to make it smaller (what carries time and class stays float32); None keeps the
            stored values bit for bit.
        name, overrides: as in `load_checkpoint`.
        progress: called while tensors are read.

    Returns:
        The description of the new file.

    Raises:
        InputError: as in `load_checkpoint`.
        Cancelled: `progress` returned False; nothing was written.
    """
    output = Path(output)
    if output.suffix != ".safetensors":
        raise InputError(f"output {output}: must end in .safetensors")
    if dtype not in (None, *DTYPES):
        raise InputError(f"dtype {dtype}: one of float32, float16 and bfloat16 is wanted")
    with examined(path, name=name, overrides=overrides) as seen:
        archive, found = seen.archive, seen.found
        if found.questions:
            raise seen.undecided()
        kinds = kept_dtypes(seen, dtype) if dtype is not None else {}
        keys = {original: key for key, original in seen.names.items()}
        wanted = {original: kinds.get(key) for original, key in keys.items()}
        read = read_weights(archive, wanted, progress or (lambda done, total: None))
        tensors = {keys[original]: cast for original, _, cast in read}
        source = found.names[0] if len(found.names) == 1 else Path(path).stem
        facts = {"family": found.family.name, "arguments": found.facts, "source": source}
    save_tensors(output, KIND, tensors, facts)
    return describe(output)


@dataclass(frozen=True)
class Row:
    """A published file, and where it was found."""

    file: Published
    found: list[Path] = field(default_factory=list)


def models(folders: Sequence[str | Path] = ()) -> list[Row]:
    """The published files, and which of them lie in `folders` (or below them), by name or by content.

    Of files that share their shapes (lsun_bedroom, lsun_cat, ...), one that is not called after any of them is shown
    beside each.
    """
    rows = {name: Row(entry) for name, entry in published().items()}
    for folder in folders:
        if not Path(folder).is_dir():
            raise InputError(f"folder {folder}: no such folder")
        for path in sorted(p for p in Path(folder).rglob("*") if p.suffix in SUFFIXES):
            try:
                names = describe(path).names
            except Exception:  # whatever is wrong with one file, the others are to be listed
                continue
            for name in names:
                rows[name].found.append(path)
    return list(rows.values())


def _stored(archive: Archive) -> tuple[str, ...]:
    dtypes = {record.storage.dtype for record in archive.records.values()}
    return tuple(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
