"""`ssi comfy run`: a workflow on a ComfyUI server, without its editor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from .run import Progress, Result, run_workflow
from .server import DEFAULT, ENVIRONMENT, JobError, Server
from .workflow import split_setting

errors = Console(stderr=True)
app = typer.Typer(
    name="comfy", no_args_is_help=True, rich_markup_mode="markdown", help="Workflows on a ComfyUI server, headless."
)

EPILOG = """\
Examples:

`ssi comfy run workflows/api/sd15_reconstruct.json --set Picture.image=photo.jpg --out out`

`for f in photos/*.jpg; do ssi comfy run morph.json --set "Load Image.image=$f" --out "out/$(basename "$f")"; done`

Exit codes: 0 done; 2 bad input, or no server; 3 the job failed there; 130 interrupted (only this job is cancelled).
"""


@app.callback()
def group() -> None:
    """Keeps `run` a subcommand: Typer would fold a group of one into its parent."""


@app.command("run", epilog=EPILOG)
def run_command(
    workflow: Annotated[Path, typer.Argument(help="A workflow in API format (in the editor: 'Export (API)').")],
    server: Annotated[
        str, typer.Option(envvar=ENVIRONMENT, help="HOST:PORT, or a URL with http:// or https://.")
    ] = DEFAULT,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="NODE.INPUT=VALUE, any number of times. NODE is an id, a title or a class_type. Where the input takes "
            "an uploaded picture (or sound, or video), VALUE may be a file here.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="The workflow's smallest seed; its other seeds keep their distance to it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results; made if it is missing.")] = Path("out"),
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which the job is cancelled. Default: never.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document in place of texts and paths.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print the server's traceback of a node that failed.")
    ] = False,
) -> None:
    """Queue a workflow, show how far it is, and download what it gives.

    Prints the texts and the paths of the files, one a line. No file that is there already is written over: a second
    ComfyUI_00001_.png becomes ComfyUI_00001_-2.png.
    """
    settings = [split_setting(setting) for setting in set_ or []]
    host = Server(server)
    try:
        with progress_bars() as watch:
            result = run_workflow(
                workflow, host, settings=settings, seed=seed, out=out, progress=watch, note=note, timeout=timeout
            )
    except JobError as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        if verbose and error.traceback:
            errors.print(error.traceback, highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(3) from None
    typer.echo(as_document(result, host) if as_json else as_lines(result))


def as_lines(result: Result) -> str:
    lines = [f"{output.title}: {output.text}" for output in result.outputs if output.text is not None]
    lines += [str(path) for path in result.files]
    return "\n".join(lines or ["done; the workflow gave no file and no text"])


def as_document(result: Result, host: Server) -> str:
    outputs = [
        {
            "node": output.node, "title": output.title, "kind": output.kind, "text": output.text,
            "path": None if output.path is None else str(output.path),
        }
        for output in result.outputs
    ]  # fmt: skip
    document = {"server": str(host), "job": result.job, "seconds": round(result.seconds, 3), "outputs": outputs}
    return json.dumps(document, indent=2)


def note(message: str) -> None:
    errors.print(f"[yellow]note:[/] {escape(message)}", highlight=False, soft_wrap=True)


@contextmanager
def progress_bars() -> Iterator[Callable[[Progress], None]]:
    """A bar over the nodes, and below it one for every node at work, over its steps."""
    with Bars(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"), TimeElapsedColumn(),
        console=errors, transient=True, disable=not errors.is_terminal,
    ) as bars:  # fmt: skip
        whole = bars.add_task("asking the server", total=None, count="")
        rows: dict[str, TaskID] = {}

        def show(now: Progress) -> None:
            if now.ahead:
                bars.update(whole, description=f"waiting, {now.ahead} job(s) before yours", total=None, count="")
            else:
                count = f"{now.done}/{now.nodes}"
                bars.update(whole, description="nodes", completed=now.done, total=now.nodes, count=count)
            for node in set(rows) - {running.node for running in now.running}:
                bars.remove_task(rows.pop(node))
            for running in now.running:
                known = running.steps > 1  # else only that it is at work
                state: dict[str, Any] = {
                    "completed": running.step,
                    "total": running.steps if known else None,
                    "count": f"{running.step:g}/{running.steps:g}" if known else "",
                }
                if running.node in rows:
                    bars.update(rows[running.node], **state)
                else:
                    rows[running.node] = bars.add_task(escape(running.title), **state)

        yield show
