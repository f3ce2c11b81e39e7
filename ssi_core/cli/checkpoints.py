"""`ssi models`, `ssi describe`, `ssi convert`: checkpoint files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from ..errors import shown
from ..models.commands import convert, describe, models
from .options import Set, read_settings, settings, usable_dtype
from .terminal import console, spent, task_bar, warn


def models_command(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Where to look for files that are there already.")
    ] = None,
) -> None:
    """List the published pixel models that can be loaded: where they are, how large, under which licence."""
    # Names must stay whole on 80 columns, so what is long goes below the table.
    table = Table("file", "family", "px", "MB", "classes", "licence", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns:
        column.no_wrap = True
    rows = models(folders or [])
    for row in rows:
        table.add_row(
            row.file.name, row.file.family, str(row.file.image_size),
            f"{row.file.nbytes / 1e6:.0f}", str(row.file.num_classes or "-"),
            row.file.licence,
        )  # fmt: skip
    console.print(table)
    for row in rows:
        console.print(row.file.url, highlight=False, soft_wrap=True)
    for row in rows:
        if row.found:
            spent(f"found {row.file.name}: {', '.join(map(str, row.found))}", wrap=False)


def describe_command(
    file: Annotated[Path, typer.Argument(help="A .pt, .pth, .pkl or .safetensors file.")], set_: Set = None
) -> None:
    """Say what a checkpoint is, without reading its weights and without executing anything in it."""
    arguments, known_as = read_settings(set_)
    found = describe(file, name=known_as, overrides=arguments)
    console.print(
        f"{file}: {found.family}, {found.container}, {found.tensors} tensors, {found.nbytes / 1e6:.1f} MB "
        f"({', '.join(found.stored)})", highlight=False, soft_wrap=True,
    )  # fmt: skip
    if found.names:
        console.print(f"of the shape of {', '.join(found.names)}", highlight=False, soft_wrap=True)
    table = Table("argument", "value", "known from", box=SIMPLE, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for key in sorted(found.facts):
        table.add_row(key, escape(_told(found.facts[key])), found.sources[key])
    console.print(table)
    for question in found.undecided.questions if found.undecided else ():
        warn(f"not told: {question.choices}; say it with {settings(question.arguments[:1])}")


def _told(value: object) -> str:
    """A fact, which may be a file's own words."""
    return value if isinstance(value, str) and value.isidentifier() else shown(value)


def convert_command(
    file: Annotated[Path, typer.Argument(help="A .pt, .pth, .pkl or .safetensors file.")],
    output: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    dtype: Annotated[
        str | None, typer.Option(help="float16 (fp16, half) or bfloat16 (bf16) halves the file; default: as stored.")
    ] = None,
    set_: Set = None,
) -> None:
    """Rewrite a checkpoint as a .safetensors file that tells everything about itself."""
    kind = None if dtype is None else usable_dtype(dtype)
    arguments, known_as = read_settings(set_)
    with task_bar() as task:
        found = convert(
            file, output, dtype=kind, name=known_as, overrides=arguments,
            progress=lambda done, total: task(f"reading {file.name}", done, total),
        )  # fmt: skip
    spent(f"{found.family}, {found.nbytes / 1e6:.1f} MB; written to {output}")
    if found.image_size is None:
        warn("not told: image_size, which pictures are fitted to; convert with --set image_size=... to store it")
