"""Which pictures an evaluation is about: found, tried and numbered once, then read one at a time.

A folder is looked through in an order that depends on the seed and the files' names alone, so that a limit takes a
random sample (the paper's "300 randomly selected images") and the same one on every machine.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote_to_bytes

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..artifact import write_text
from ..demo.photos import held_out_photos
from ..demo.scenes import HELD_OUT, draw_scenes
from ..errors import InputError
from ..image import load_image
from ..inversion import tensor_sha256
from .plan import FILE as PLAN
from .store import lines, printable

DEMO = "demo"
"""Instead of a folder: the demo model's held-out scenes and photographs, two sets side by side."""
LARGEST = 64_000_000
"""Pixels; a larger picture takes gigabytes to decode and is no data set's."""
COLUMNS = ("index", "set", "name", "sha256", "reference", "skipped")
HALVED = 4
"""Pictures that are wanted where some are inverted and others compared with: two of each."""
_HALVES = ", to invert some of them and compare with the others"
MADE = ("pictures", "plots", "parts")
"""Sub-folders that an evaluation fills."""


@dataclass(frozen=True)
class Picture:
    """One picture of an evaluation, or one that was left out."""

    index: int
    """Its number in the evaluation, from 0; -1 where it was left out. The seed of its noise is the plan's plus this."""
    set: str
    """Which regime it belongs to: "images" for a folder, "scenes" and "photos" for the demo."""
    name: str
    """Path relative to the folder, as the system has it: to be opened, not to be shown."""
    sha256: str
    """Of its pixels as the model sees them (`tensor_sha256`)."""
    skipped: str = ""
    """Why it was left out."""
    reference: bool = False
    """Only compared with, never inverted: of the plan's folder of reference pictures, where it has one."""

    @property
    def shown(self) -> str:
        """Its name, for people."""
        return printable(self.name)

    @property
    def inverted(self) -> bool:
        return not self.skipped and not self.reference

    @property
    def compared(self) -> bool:
        """Whether results are compared with it."""
        return not self.skipped and self.reference


def sets_of(pictures: Sequence[Picture]) -> list[str]:
    """Kinds of pictures, as they come."""
    return list(dict.fromkeys(p.set for p in pictures))


def survey(
    folder: str,
    limit: int,
    seed: int,
    size: int,
    watch: Callable[[int], object] | None = None,
    reference: int = 0,
    out: Path | None = None,
    beside: str = "",
) -> list[Picture]:
    """Find the pictures to evaluate on; every file is tried before it counts.

    Args:
        folder: its path, sub-folders included (links to folders are not followed: they may go round); or `DEMO`.
        limit: how many at most (`DEMO`: of each set); 0 for all.
        seed: of the order in which a folder is looked through.
        size: height and width that the model takes, in pixels; a picture with a shorter side is left out.
        watch: called with the number of files tried so far.
        reference: how many more, at most, to compare results with; where there are not enough for both, half are
            inverted and half compared with.
        beside: the folder that those lie in; "" for the same one.
        out: where this evaluation writes; what lies there is not looked at, nor hidden folders, nor those that any
            other evaluation has written.

    Returns:
        The pictures used, numbered, and those left out with the reason: unreadable, no picture, animated, tiny, huge,
        or the same pixels as an earlier one.

    Raises:
        InputError: no such folder, nothing in it can be used, or too little to compare with.
    """
    if folder == DEMO:
        return _demo(limit, size, reference)
    seen: dict[str, str] = {}

    def looked(what: str, where: str, wanted: int, least: int) -> list[Picture]:
        found, before = [], len(seen)
        for picture in _pictures(what, where, seed, size, seen, out):
            found.append(picture)
            if watch is not None:
                watch(len(found))
            if wanted and len(seen) == before + wanted:
                break
        there = len(seen) - before
        if there < least:
            reasons = "; ".join(f"{p.shown}: {p.skipped}" for p in found[:3] if p.skipped)
            raise InputError(
                f"{what} {where}: {there or 'no'} picture{'s' * (there > 1)} in it can be used "
                f"({reasons or ('no other file is there' if there else 'it is empty')}); at least {least} "
                f"{'are' if least > 1 else 'is'} wanted{_HALVES if least == HALVED else ''}"
            )
        return found

    if beside:
        return [
            *looked("images", folder, limit, 1),
            *(replace(p, reference=True) for p in looked("reference", beside, reference, 2)),
        ]
    found = looked("images", folder, limit + reference if limit else 0, HALVED if reference else 1)
    count = _inverted(len(seen), limit, reference)
    return [replace(p, reference=p.index >= count) for p in found]


def _pictures(
    what: str, folder: str, seed: int, size: int, seen: dict[str, str], out: Path | None
) -> Iterator[Picture]:
    """Every file of a folder, as a picture with the next number or with the reason why it is none.

    Args:
        what: the folder is for, in errors.
        seen: hash of pixels -> name, of the pictures so far; added to.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{what} {folder}: {'is no folder' if root.exists() else 'no such folder'}")
    for name in _listing(root, seed, out):
        why, digest = _tried(root / name, size)
        if digest in seen:
            why = f"the same pixels as {printable(seen[digest])}"
        if why:
            yield Picture(-1, "images", name, digest, why)
        else:
            seen[digest] = name
            yield Picture(len(seen) - 1, "images", name, digest)


def _inverted(there: int, limit: int, reference: int) -> int:
    """How many of so many pictures are inverted: up to the limit, if as many as they give blends are left to compare
    with; or else half."""
    count = min(limit or there, there)
    left = there - count
    return count if left >= (max(2, min(reference, count // 2)) if reference else 0) else there // 2


def save_survey(path: Path, pictures: list[Picture]) -> None:
    """As CSV. Names are opened again, so what cannot be printed is kept in them, as %XX for each byte."""
    rows = [{**vars(p), "name": _escaped(p.name)} for p in pictures]
    write_text(path, ",".join(COLUMNS) + "\n" + lines(rows, COLUMNS))


def _escaped(name: str) -> str:
    return "".join(
        c if c.isprintable() and c != "%" else "".join(f"%{byte:02X}" for byte in os.fsencode(c)) for c in name
    )


def load_survey(path: Path) -> list[Picture]:
    """What `save_survey` wrote.

    Raises:
        InputError: the file is damaged.
    """
    try:
        found = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
        if tuple(found.fieldnames or ()) != COLUMNS:
            raise ValueError(f"columns {found.fieldnames}")
        return [
            Picture(int(r["index"]), r["set"], os.fsdecode(unquote_to_bytes(r["name"])), r["sha256"], r["skipped"],
                    r["reference"] == "1")
            for r in found
        ]  # fmt: skip
    except FileNotFoundError:
        raise InputError(f"{path}: is gone; delete the folder and begin again") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is damaged ({error!r}); delete the folder and begin again") from error


def read_picture(folder: str, picture: Picture, size: int) -> Tensor:
    """The picture as the model sees it, [1, 3, size, size] in [-1, 1].

    Raises:
        InputError: it cannot be read any more, or its pixels are no longer those of the survey.
    """
    if folder == DEMO:
        number = int(picture.name.rpartition(" ")[2])
        pixels = draw_scenes([HELD_OUT + number], size) if picture.set == "scenes" else held_out_photos(size)[[number]]
    else:
        pixels = load_image(Path(folder) / picture.name, size)
    if tensor_sha256(pixels) != picture.sha256:
        raise InputError(
            f"image {picture.shown}: has changed since this evaluation began; use another folder for --out"
        )
    return pixels


def _demo(limit: int, size: int, reference: int) -> list[Picture]:
    photos = held_out_photos(size)
    count = limit or len(photos)
    scenes = draw_scenes(range(HELD_OUT, HELD_OUT + count + reference), size)
    photos = photos[: count + reference]
    # Those to be inverted first, so that they have the same numbers, and noise, in every preset.
    places = [
        (kind, i, stack[i : i + 1], later)
        for later in (False, True)
        for kind, stack in (("scenes", scenes), ("photos", photos))
        for inverted in [_inverted(len(stack), count, reference)]
        for i in (range(inverted, len(stack)) if later else range(inverted))
    ]
    return [
        Picture(index, kind, f"{kind} {i}", tensor_sha256(pixels), reference=later)
        for index, (kind, i, pixels, later) in enumerate(places)
    ]


def _listing(root: Path, seed: int, out: Path | None) -> Iterator[str]:
    """Relative paths of all files that are not hidden and no evaluation's, in the order of a hash of seed and path."""
    names = []
    for where, folders, files in os.walk(root):
        here = Path(where)
        folders[:] = [name for name in folders if not _left_out(here / name, out)]
        names += [(here / name).relative_to(root).as_posix() for name in files if not name.startswith(".")]
    yield from sorted(names, key=lambda name: hashlib.sha256(f"{seed}/".encode() + os.fsencode(name)).digest())


def _left_out(folder: Path, out: Path | None) -> bool:
    """Whether a folder is hidden or holds what an evaluation has made, this one or another."""
    within = folder.name in MADE and ((folder.parent / PLAN).exists() or folder.parent.resolve() == out)
    return folder.name.startswith(".") or within or (folder / PLAN).exists() or folder.resolve() == out


def _tried(path: Path, size: int) -> tuple[str, str]:
    """(why the picture cannot be used, or ""; hash of its pixels at the model's size, or "")."""
    if not path.is_file():  # to open a pipe is to wait for who writes into it
        return "no file: a pipe, a device or a link to nothing", ""
    try:
        if path.stat().st_size == 0:
            return "an empty file", ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                width, height, frames = opened.width, opened.height, getattr(opened, "n_frames", 1)
        if width * height > LARGEST:
            return f"huge: {width}x{height} pixels, at most {LARGEST // 1_000_000} million are read", ""
        if min(width, height) < size:
            return f"tiny: {width}x{height} pixels, the model takes {size}x{size}", ""
        if frames > 1:
            return f"animated: {frames} frames", ""
        return "", tensor_sha256(load_image(path, size))
    except UnidentifiedImageError:
        return "no picture that Pillow can read", ""
    except Image.DecompressionBombError:
        return "huge: more pixels than Pillow reads", ""
    except (InputError, OSError, ValueError, SyntaxError) as error:
        inner = error.__cause__ if isinstance(error, InputError) and error.__cause__ else error
        return f"unreadable: {printable(str(inner))}", ""
