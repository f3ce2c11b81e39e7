"""Where the host keeps pixel models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import folder_paths

FOLDER = "pixel_diffusion"
OTHER_FOLDERS = ("checkpoints", "diffusion_models")
"""Where such files lie too; shown from there only if they are called after a published one."""
SUFFIXES = (".pt", ".pth", ".pkl", ".safetensors")
EMBEDDED = "demo32 (embedded)"
SHIPPED = {EMBEDDED: "demo", "demo32-classes (embedded)": "demo-classes"}
"""Models that come with these nodes: choice -> name of `demo_denoiser`."""

# Registered, not created: an install that never uses it keeps its folders as they are.
folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))


def checkpoint_names() -> list[str]:
    files = [name for name in folder_paths.get_filename_list(FOLDER) if name.lower().endswith(SUFFIXES)]
    for folder in OTHER_FOLDERS:
        names = folder_paths.get_filename_list(folder)
        files += [name for name in names if name.lower().endswith(SUFFIXES) and _published(name)]
    return [*SHIPPED, *dict.fromkeys(files)]


def checkpoint_file(checkpoint: str) -> Path | str:
    """The file of a choice; for an embedded model its name.

    Raises:
        ValueError: there is no such file; the message says where to get it and where to put it.
    """
    if checkpoint in SHIPPED:
        return SHIPPED[checkpoint]
    for folder in (FOLDER, *OTHER_FOLDERS):
        found = folder_paths.get_full_path(folder, checkpoint)
        if found is not None:
            if not checkpoint.lower().endswith(SUFFIXES):
                raise ValueError(
                    f"checkpoint: {checkpoint} is none of {', '.join(SUFFIXES)}, which can be loaded safely"
                )
            return Path(found)
    folder = folder_paths.get_folder_paths(FOLDER)[0]
    entry = _published(checkpoint)
    what = f"Download it from {entry.url} and put it into" if entry else "Put it into"
    raise ValueError(
        f"checkpoint: there is no file {checkpoint}. {what} {folder} (make that folder if it is not there), then press "
        f"R to refresh; or choose {EMBEDDED}, which needs no file"
    )


def _published(name: str) -> Any:
    """The published file that a file is called after, if any: the longest name that it contains."""
    from ...ssi_core.models.recognise import published

    stem = Path(name.replace("\\", "/")).stem.lower()
    inside = [
        e for e in published().values() if re.search(rf"(?<![a-z0-9]){re.escape(e.name.lower())}(?![a-z0-9])", stem)
    ]
    return max(inside, key=lambda entry: len(entry.name), default=None)
