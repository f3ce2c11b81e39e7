"""Tables for people, as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """A table for people: cells are words."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


def markdown(table: Table) -> str:
    """As a Markdown table with its notes."""
    lines = [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
        for row in [table.columns, ["---"] * len(table.columns), *table.rows]
    ]
    return "\n".join([f"### {table.title}", "", *lines, "", *(f"- {note}" for note in table.notes), ""])


def as_csv(tables: Sequence[Table]) -> str:
    """All of them in one CSV text: for each a line of columns, then its rows, with its title in the first column."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    for table in tables:
        writer.writerow(["table", *table.columns])
        writer.writerows([table.title, *row] for row in table.rows)
    return written.getvalue()
