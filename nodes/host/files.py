"""Folders of the host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ...ssi_core.errors import InputError

SUFFIX = ".ssi.safetensors"
LONGEST_NAME = 100
UNSAFE = '<>:"|?*'
"""What Windows has no names with; a file may be copied there."""


_listed: dict[Path, tuple[int, list[Path], list[Path]]] = {}
"""Folder -> when it last changed, the noise files in it, and its folders."""


def _noises_under(folder: Path) -> Iterator[Path]:
    # An output folder may hold a hundred thousand pictures, and this is asked for all the time: what has not changed is
    # not read again.
    try:
        changed = folder.stat().st_mtime_ns
        if folder not in _listed or _listed[folder][0] != changed:
            entries = [e for e in os.scandir(folder) if not e.name.startswith(".")]
            files = [Path(e.path) for e in entries if e.name.endswith(SUFFIX)]
            _listed[folder] = changed, files, [Path(e.path) for e in entries if e.is_dir(follow_symlinks=False)]
    except OSError:
        return
    _, files, folders = _listed[folder]
    yield from files
    for inner in folders:
        yield from _noises_under(inner)


def noise_files() -> list[str]:
    """Noise and inversion files, newest first, as `[output] path`."""
    found = []
    for label, folder in _folders().items():
        for path in _noises_under(folder):
            try:
                found.append((path.stat().st_mtime, f"[{label}] {path.relative_to(folder).as_posix()}"))
            except OSError:  # a link that leads nowhere, or a file that is gone by now
                continue
    return [name for _, name in sorted(found, reverse=True)]


def noise_file(name: str) -> Path:
    """The file of a name that `noise_files` gave; a bare name is looked for in both folders.

    Raises:
        InputError: there is no such file, or it lies outside the folders.
    """
    folders = _folders()
    name = str(name)
    label, _, rest = name.partition("] ")
    tried = [folders[label[1:]] / rest] if rest and label[1:] in folders else [f / name for f in folders.values()]
    for path in tried:
        inside = any(path.resolve().is_relative_to(f.resolve()) for f in folders.values())
        if inside and path.is_file():
            return path
    raise InputError(f"file {name!r}: is not in the output or input folder ({', '.join(map(str, folders.values()))})")


def check_prefix(prefix: str) -> None:
    """
    Raises:
        InputError: a prefix that names no file.
    """
    last = prefix.replace("\\", "/").rpartition("/")[2]
    if not any(letter.isalnum() for letter in last) or len(last) > LONGEST_NAME:
        raise InputError(
            f"filename_prefix {prefix[:80]!r}: its last part is the file's name, which needs a letter or digit and at "
            f"most {LONGEST_NAME} characters"
        )
    odd = [letter for letter in prefix if letter in UNSAFE or not letter.isprintable()]
    if odd:
        raise InputError(
            f"filename_prefix {prefix[:80]!r}: {odd[0]!r} cannot be in a file's name everywhere; leave it out"
        )


def new_noise_file(prefix: str) -> tuple[Path, str]:
    """(path of the next free file of a prefix in the output folder, the folder's part of it).

    Raises:
        InputError: the prefix names no file, or leads out of the output folder.
    """
    check_prefix(prefix)
    output = Path(folder_paths.get_output_directory()).resolve()
    if not (output / prefix).resolve().is_relative_to(output):
        raise InputError(f"filename_prefix {prefix[:80]!r}: leads out of the output folder; name a folder in it")
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            prefix, folder_paths.get_output_directory()
        )
    except Exception as error:
        raise InputError(f"filename_prefix {prefix!r}: {error}") from error
    while (path := Path(folder) / f"{name}_{counter:05}{SUFFIX}").exists():
        counter += 1
    return path, subfolder


def _folders() -> dict[str, Path]:
    return {
        "output": Path(folder_paths.get_output_directory()),
        "input": Path(folder_paths.get_input_directory()),
    }
