"""Results on disk: rows that are whole or not there, whoever was killed when; one folder, one plan, one run.

Each process appends to a part of its own (`parts/0.csv`), whole lines, synced to disk before they count. At the end
the parts are sorted into `results.csv`. A row is known by its key, so that a row that is in two places counts once.
"""

from __future__ import annotations

import csv
import errno
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..artifact import write_text
from ..errors import InputError

Value = str | int | float | bool | None
Row = dict[str, str]
"""A row as it is read: every value as text; "" where there is none."""
Key = tuple[str, str, str]

KEY = ("arm", "index", "repeat")
"""What tells one row of a plan from another."""
WORDS = ("plan", "arm", "set", "image", "failed")
"""Columns that hold no numbers."""
RESULTS = "results.csv"
PARTS = "parts"
FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def text(value: Value) -> str:
    """A value as a cell: floats with every digit that they need to be read back bit for bit; nothing for NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return repr(value) if isinstance(value, float) else printable(str(value))


def printable(words: str) -> str:
    """Text that can be shown and be one cell: names of files may hold anything, line breaks and half letters too."""
    return words if words.isprintable() else "".join(c if c.isprintable() else "?" for c in words)


def lines(rows: Iterable[Mapping[str, Value]], columns: Sequence[str]) -> str:
    """Rows as CSV lines, in the order of `columns`.

    Raises:
        KeyError: a row lacks a column.
    """
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerows([text(row[name]) for name in columns] for row in rows)
    return written.getvalue()


class Appender:
    """One CSV file that only grows, by whole lines.

    Args:
        path: the file; made with its header where it is missing. A last line that a killed run left incomplete is
            cut off.
        columns: of every row.

    Raises:
        InputError: the file has other columns, or cannot be written.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, tuple(columns)
        head = (",".join(columns) + "\n").encode()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            self._file = path.open("r+b", buffering=0)
        except OSError as error:
            raise InputError(f"output {path}: cannot be written ({error.strerror})") from error
        there = path.read_bytes()
        whole = there[: there.rfind(b"\n") + 1]
        if whole and not whole.startswith(head):
            self._file.close()
            raise InputError(f"results {path}: have other columns than this plan; use another folder for --out")
        self._file.truncate(len(whole))
        self._end = len(whole)
        if not whole:
            self._write(head)

    def append(self, rows: Sequence[Mapping[str, Value]]) -> None:
        """Add rows; when this returns they are on the disk, and when it raises none of them is.

        Raises:
            InputError: the disk is full or fails.
        """
        self._write(lines(rows, self.columns).encode())

    def close(self) -> None:
        self._file.close()

    def _write(self, data: bytes) -> None:
        try:
            self._file.seek(self._end)
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(self._end)
            raise InputError(
                f"results {self.path}: {reason(error)}; what was written before is safe: mend it and run the same "
                f"command again"
            ) from error
        self._end += len(data)


def read_rows(path: Path, columns: Sequence[str], plan: str) -> list[Row]:
    """Every whole row of a results file; none where there is no file.

    Args:
        path: `results.csv`, or a part.
        columns: that it must have.
        plan: the digest of the plan that its rows must be of (`Plan.digest`).

    Raises:
        InputError: other columns, another plan's rows, or a damaged line; the message says which.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1].decode("utf-8", errors="replace")
    found = list(csv.reader(io.StringIO(whole)))
    if not found:
        return []
    if found[0] != list(columns):
        raise InputError(f"results {path}: have other columns than this plan; use another folder for --out")
    rows = []
    for number, cells in enumerate(found[1:], start=2):
        if len(cells) != len(columns):
            raise InputError(
                f"results {path}: line {number} is damaged ({len(cells)} cells of {len(columns)}); delete that line "
                f"and run the same command again"
            )
        row = dict(zip(columns, cells, strict=True))
        if row["plan"] != plan:
            raise InputError(f"results {path}: line {number} is of another plan; use another folder for --out")
        for name in columns:
            if name not in WORDS and not _is_number(row[name]):
                raise InputError(
                    f"results {path}: line {number} is damaged ({name} is {row[name]!r:.40}, no number); delete that "
                    f"line and run the same command again"
                )
        rows.append(row)
    return rows


def _is_number(cell: str) -> bool:
    try:
        return cell == "" or not math.isnan(float(cell))
    except ValueError:
        return False


def key(row: Mapping[str, str]) -> Key:
    return row["arm"], row["index"], row["repeat"]


def gather(folder: Path, columns: Sequence[str], plan: str) -> dict[Key, Row]:
    """All rows of a run, whichever process wrote them, each once.

    Raises:
        InputError: as `read_rows`.
    """
    parts = sorted((folder / PARTS).glob("*.csv"))
    return {key(row): row for path in [*parts, folder / RESULTS] for row in read_rows(path, columns, plan)}


def merge(folder: Path, columns: Sequence[str], rows: Iterable[Row]) -> Path:
    """Write `results.csv` and drop the parts that went into it; killed at any point, no row is lost.

    Returns:
        The file. Its rows come in the order given.
    """
    path = folder / RESULTS
    try:
        write_text(path, ",".join(columns) + "\n" + lines(rows, columns))
    except OSError as error:
        raise InputError(
            f"results {path}: cannot be written ({reason(error)}); the rows are safe in {folder / PARTS}: mend it and "
            f"run the same command again"
        ) from error
    for part in (folder / PARTS).glob("*.csv"):
        part.unlink()
    if (folder / PARTS).is_dir() and not any((folder / PARTS).iterdir()):
        (folder / PARTS).rmdir()
    return path


def reason(error: OSError) -> str:
    """Why something could not be written, in words."""
    return "the disk is full" if error.errno in FULL else str(error.strerror or error)


@contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """Whatever else of a run cannot be written (plan, survey, kept pictures), said in words.

    Raises:
        InputError: instead of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"output {folder}: {reason(error)}; rows written before are safe: mend it and run the same command again"
        ) from error


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold a folder, made if it is missing, for this run; the system lets go of it when the process dies.

    Raises:
        InputError: another run holds it, or it cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"output {folder}: another run is writing there; wait for it, or use another folder for --out"
        ) from None
    except OSError as error:
        raise InputError(f"output {folder}: cannot be locked ({error.strerror})") from error
    try:
        yield
    finally:
        lock.release()
