"""Files that are either whole or not there, and tensors with their provenance inside.

An artefact is one `.safetensors` file: tensors, and a JSON document in the metadata under the key "ssi".
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import InputError

FORMAT = 1
"""Version of the artefact format; a reader refuses newer ones."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it takes `path`'s place, on any failure it is removed.

    Raises:
        InputError: the folder does not exist, cannot be written to, or `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"output {path}: is a folder; name a file")
    beside = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        beside.touch(exist_ok=False)
        mode = beside.stat().st_mode
    except OSError as error:
        raise InputError(f"output {path}: cannot be written ({error.strerror or error})") from error
    try:
        yield beside
        beside.chmod(mode)  # safetensors makes its files private
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def save_tensors(path: str | Path, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors with their provenance, atomically.

    Args:
        path: the file, by custom ending in .safetensors.
        kind: what the file is ("inversion", "noise", ...); `load_tensors` checks it.
        tensors: name -> tensor, any device and dtype; stored bit for bit.
        facts: JSON-serialisable provenance.
    """
    # Cloned, because safetensors refuses tensors that share storage.
    whole = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    content = {"format": FORMAT, "kind": kind, "facts": dict(facts), "sha256": _digests(whole)}
    document = json.dumps(content, sort_keys=True)
    with replacing(path) as beside:
        save_file(whole, beside, metadata={"ssi": document})


def _digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Of each tensor's bytes: a flipped bit in a noise is still a noise, so that nothing else would notice it."""
    return {name: sha256(t.reshape(-1).view(torch.uint8).numpy().data).hexdigest() for name, t in tensors.items()}


def kind_of(path: str | Path) -> str | None:
    """Which kind of artefact a file says it is; None where it says nothing, is foreign or cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return str(json.loads((file.metadata() or {})["ssi"])["kind"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None


def load_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Returns:
        (tensors on the CPU, facts).

    Raises:
        InputError: the file is missing, truncated or damaged, not an artefact of ours, of another kind, or of a newer
            format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            document = (file.metadata() or {}).get("ssi")
            names = file.keys() if document else []  # a foreign file may be large: leave it unread
            tensors = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise InputError(f"artefact {path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"artefact {path}: not a whole .safetensors file ({error})") from error
    if document is None:
        raise InputError(f"artefact {path}: a .safetensors file, but not written by SSI inversion (no 'ssi' metadata)")
    try:
        content = json.loads(document)
        found, version, facts = content["kind"], int(content["format"]), dict(content["facts"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"artefact {path}: its 'ssi' metadata cannot be read ({error!r})") from error
    if version > FORMAT:
        raise InputError(f"artefact {path}: format {version} is newer than this version reads ({FORMAT}); update")
    if found != kind:
        raise InputError(f"artefact {path}: holds {found!r}, where {kind!r} is wanted")
    # Files from before there were any have none.
    if "sha256" in content and content["sha256"] != _digests(tensors):
        raise InputError(
            f"artefact {path}: its tensors are not those that were saved; the file is damaged, make it again"
        )
    return tensors, facts
