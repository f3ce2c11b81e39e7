"""Folders of the host."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...ssi_core.errors import InputError

SUFFIX = ".ssi.safetensors"
LONGEST_NAME = 100


def noise_files() -> list[str]:
    """Noise and inversion files, newest first, as `[output] path`: those in the folder itself and under noise/."""
    found = []
    for label, folder in _folders().items():
        # Not the whole tree: an output folder may hold a hundred thousand pictures, and this is asked for all the time.
        for path in (*folder.glob(f"*{SUFFIX}"), *folder.glob(f"noise/**/*{SUFFIX}")):
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


def new_noise_file(prefix: str) -> tuple[Path, str]:
    """(path of the next free file of a prefix in the output folder, the folder's part of it).

    Raises:
        InputError: the prefix leads out of the output folder.
    """
    last = prefix.replace("\\", "/").rpartition("/")[2]
    if not any(letter.isalnum() for letter in last) or len(last) > LONGEST_NAME:
        raise InputError(
            f"filename_prefix {prefix[:80]!r}: its last part is the file's name, which needs a letter or digit and at "
            f"most {LONGEST_NAME} characters"
        )
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
