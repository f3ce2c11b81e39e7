"""`ssi evaluate`: the paper's tables and figures, on any model and pictures."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..demo import DEMO_MODELS
from ..errors import InputError
from ..evaluate.images import DEMO
from ..evaluate.presets import PRESETS, find_preset, plan_of
from ..evaluate.report import PAGE, write_report
from ..evaluate.results import Results
from ..evaluate.run import check_fit, evaluate
from ..evaluate.shards import BACKENDS, Refused, own_device, sharded
from .options import ModelOptions, grouped
from .terminal import made, spent, task_bar, warn

EVERY = "all"
WIDE = 200
"""Columns that a summary may take."""


@grouped
def evaluate_command(
    preset: Annotated[str, typer.Argument(help=f"`{EVERY}`, or one of: {', '.join(PRESETS)}.")],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of pictures. Left out: the demo model's held-out scenes and photographs."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="Folder of pictures that fig11 compares with. Left out: others of --images."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=0, help="Pictures at most, chosen by the seed; 0: all. Default: as the paper.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results; the same one carries a stopped run on.")] = Path(
        "out/evaluate"
    ),
    chosen: ModelOptions = ModelOptions(),  # noqa: B008  # frozen
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of pictures and of the noise.")] = 0,
    batch: Annotated[int | None, typer.Option(min=1, help="Pictures inverted together.")] = None,
    backend: Annotated[
        str, typer.Option(help=f"Of torch.distributed, under torchrun: {' or '.join(BACKENDS)} (untested).")
    ] = "gloo",
) -> None:
    """Make one of the paper's tables or figures: results.csv, summary.md, plots and report.html, in a folder.

    A stopped run goes on where it was. Many processes: `torchrun --nproc-per-node 2 -m ssi_core evaluate ...`.
    """
    names = list(PRESETS) if preset == EVERY else [preset]
    for name in names:
        find_preset(name)
    unmade: list[str] = []
    with sharded(backend) as shard:
        if shard.count > 1 and chosen.device == "auto" and own_device() != "cpu":
            chosen = replace(chosen, device=own_device())
        denoise = chosen.denoiser()
        if images is None and chosen.model not in DEMO_MODELS:
            raise InputError(f"images: model {chosen.model} has no pictures of its own; name a folder with --images")
        source = DEMO if images is None else str(images.resolve())
        for name in names:
            try:
                wanted = reference is not None and (preset != EVERY or PRESETS[name].distances)
                plan = plan_of(
                    name, model=chosen.model, denoise=denoise, images=source, limit=limit, seed=seed, batch=batch,
                    reference=str(reference.resolve()) if reference is not None and wanted else "",
                )  # fmt: skip
                check_fit(plan, denoise)
            except InputError as error:
                if preset != EVERY:
                    raise
                # Every process finds the same, so that none waits for another.
                if shard.leads:
                    warn(f"{name} is left out: {error}")
                continue
            published = PRESETS[name].model
            if shard.leads and published and published not in Path(chosen.model).name:
                warn(f"the paper's figures of {name} are of {published}; this is {chosen.model}")
            folder = made(out / name if preset == EVERY else out)
            try:
                with task_bar() if shard.leads else nullcontext() as task:
                    results = evaluate(plan, denoise, folder, task=task, shard=shard)
                if shard.leads:
                    _report(results, folder)
            except InputError as error:
                # One of several processes that fails alone must end, or the others would wait for it.
                if preset != EVERY or (shard.count > 1 and not isinstance(error, Refused)):
                    raise
                if shard.leads:
                    warn(f"{name} was not made: {error}")
                unmade.append(name)
        if unmade:
            raise InputError(f"not made: {', '.join(unmade)}; the reasons stand above")


def _report(results: Results, folder: Path) -> None:
    for note in results.notes:
        warn(f"fitted to this model: {note}")
    if results.mixed:
        warn(results.mixed)
    skipped = [picture for picture in results.pictures if picture.skipped]
    if skipped:
        warn(f"{len(skipped)} files left out, first {skipped[0].shown}: {skipped[0].skipped}; all are in images.csv")
    for found in write_report(results):
        table = Table(title=f"\n{escape(found.title)}", title_justify="left", box=None, pad_edge=False, padding=(0, 1))
        for i, column in enumerate(found.columns):
            table.add_column(escape(column), justify="right" if i else "left", no_wrap=True)
        for row in found.rows:
            table.add_row(*(escape(cell) for cell in row))
        # Wider than most terminals: better lines that run on than numbers cut to "0...".
        Console(width=WIDE).print(table)
        for note in found.notes:
            spent(f"  {note}")
    spent(f"look at {folder / PAGE}")
