"""`ssi theory`: the claims of the theory that SSI rests on, each as an experiment with exact answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ..theory.catalogue import EXPERIMENTS, Lab, find_experiment
from ..theory.run import (
    MET,
    MISSED,
    PAGE,
    REPORTED,
    SMALL,
    Written,
    refuse_others,
    run_all,
    run_experiment,
    verdict,
    whole,
    write_page,
)
from .terminal import console, made, spent, task_bar

EVERY = "all"
COLOURS = {MET: "green", MISSED: "red", REPORTED: "dim", SMALL: "yellow"}


def theory_command(
    name: Annotated[str, typer.Argument(help=f"`{EVERY}`, or one of: {', '.join(EXPERIMENTS)}.")],
    out: Annotated[
        Path, typer.Option(help="Folder for figures, tables and report.html, of one seed and scale.")
    ] = Path("out/theory"),
    seed: Annotated[int, typer.Option(min=0, max=2**40, help="Of data, weights and noise.")] = 0,
    scale: Annotated[
        float, typer.Option(help="How much is trained and sampled, as a multiple; under 1 nothing is judged.")
    ] = 1.0,
    mnist: Annotated[
        Path | None, typer.Option(help="Folder with MNIST's own training files, for `digits`. Default: scikit-learn's.")
    ] = None,
) -> None:
    """Check the theory on data whose answers are known: tables, figures, and what is met and missed.

    `all` runs every experiment in a folder of its own and makes one page of them; stopped, it goes on where it was.
    """
    lab = Lab(seed, scale, mnist=mnist)
    if name != EVERY:
        find_experiment(name)
    made(out)
    refuse_others(out, lab)
    with task_bar() as task:
        lab = replace(lab, task=task)
        written = run_all(out, lab) if name == EVERY else [run_experiment(name, out / name, lab)]
        write_page(out, whole(out, lab))
    for one in written:
        _show(one)
    spent(f"look at {out / PAGE}")


def _show(written: Written) -> None:
    title = f"\n{escape(written.experiment.title)} ({written.facts['seconds']:.0f} s)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1))
    for column in ("what", "required", "measured", ""):
        table.add_column(column)
    for finding in written.findings:
        said = verdict(finding, written.facts["scale"])
        cells = (finding.what, finding.required, finding.measured)
        table.add_row(*(escape(cell) for cell in cells), f"[{COLOURS[said]}]{said}[/]")
    console.print(table)
