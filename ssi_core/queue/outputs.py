"""What a finished job left: its files fetched from the server, its texts kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from .. import artifact
from ..errors import InputError
from .server import JobError, Refused, Server, Unreachable
from .workflow import Workflow

BLOCK = 1 << 20


@dataclass(frozen=True)
class Output:
    """One file or text that a node gave.

    Attributes:
        node: the node's id.
        title: what the editor shows above it.
        kind: how the server calls it: "images", "audio", "latents", "text", ...
        path: where it was written; None where no folder was given.
        text: what it says, where it is a text.
        file: the server's own filename, subfolder and type, where it is a file.
    """

    node: str
    title: str
    kind: str
    path: Path | None = None
    text: str | None = None
    file: Mapping[str, str] | None = None


def collect(server: Server, workflow: Workflow, record: Mapping[str, Any], out: Path | None) -> list[Output]:
    """Every output of a job, in the workflow's order, written to `out`.

    Raises:
        JobError: the server no longer has a file, or broke off while sending it.
        InputError: the folder cannot be written to.
    """
    order = {node: place for place, node in enumerate(workflow.graph)}
    told = sorted((record.get("outputs") or {}).items(), key=lambda item: order.get(item[0], len(order)))
    results = []
    for node, given in told:
        title = workflow.title(node)
        for kind, item in _items(given):
            if isinstance(item, str):
                path = None if out is None else _write(out, f"{title}.txt", _whole(item))
                results.append(Output(node, title, kind, path, text=item))
            elif item.get("type") != "input":  # a node showing the user's own file again
                path = None if out is None else _download(server, item, out, workflow.name(node))
                results.append(Output(node, title, kind, path, file=item))
    return results


def _items(given: Any) -> Iterator[tuple[str, Any]]:
    for kind, items in given.items() if isinstance(given, dict) else ():
        if not isinstance(items, list):
            items = [items]
        for item in items:
            if isinstance(item, dict) and isinstance(item.get("filename"), str):
                yield kind, item
            elif kind == "text":  # other packs use this name too
                yield kind, item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)


def _download(server: Server, file: Mapping[str, Any], out: Path, where: str) -> Path:
    def fetch(beside: Path) -> None:
        try:
            with server.view(file) as answer, beside.open("wb") as target:
                expected, got = answer.headers.get("Content-Length"), 0
                while block := answer.read(BLOCK):
                    got += len(block)
                    target.write(block)
        except Refused as error:
            raise JobError(f"{where}: the server no longer has {file['filename']} (HTTP {error.code})") from None
        except (Unreachable, HTTPException, OSError) as error:
            raise JobError(f"{where}: {file['filename']} did not arrive ({error})") from None
        if expected is not None and got != int(expected):
            raise JobError(f"{where}: {file['filename']} broke off after {got} of {expected} bytes")

    return _write(out, re.split(r"[/\\]", str(file["filename"]))[-1], fetch)


def _whole(text: str) -> Callable[[Path], None]:
    def write(beside: Path) -> None:
        beside.write_text(text, encoding="utf-8")

    return write


def _write(out: Path, name: str, fill: Callable[[Path], None]) -> Path:
    """Write a file under its name, or the first of name-2, name-3, ... that is free; never over one that is there."""
    while True:
        path = _free(out, name)
        try:
            with artifact.replacing(path) as beside:
                fill(beside)
                path.touch(exist_ok=False)  # ours from here on, whatever another job writes meanwhile
            return path
        except FileExistsError:
            continue


def _free(out: Path, name: str) -> Path:
    safe = re.sub(r'[<>:"/\\|?*\x00-\x1f]+', "_", name).strip(" .")[-120:] or "output"  # a title may be anything
    path, count = out / safe, 2
    while path.exists():
        path, count = out / f"{Path(safe).stem}-{count}{Path(safe).suffix}", count + 1
    return path


def made(folder: Path) -> Path:
    """The folder, made if it is missing.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output {folder}: cannot be made ({error.strerror})") from None
    return folder
