"""The command line: `ssi`, also `python -m ssi_core`.

Exit codes: 0 done; 1 the noise is not Gaussian (`ssi inspect` only); 2 bad input; 3 the model or the machine failed;
130 interrupted.
Every file is written beside its place and then renamed, so an interrupted command leaves none half-written.
"""

from __future__ import annotations

import re
import signal
import sys
from traceback import walk_tb
from typing import Annotated

import typer
from rich.markup import escape

from .. import queue
from ..errors import Cancelled, DenoiserError, InputError
from ..guard import Guarded
from ..models.family import Undecided
from ..version import __version__
from .checkpoints import convert_command, describe_command, models_command
from .edit import edit_command
from .evaluate import evaluate_command
from .morph import morph_command
from .options import Chosen, settings
from .pictures import invert_command, reconstruct_command
from .show import demo_command, inspect_command
from .terminal import console, errors
from .theory import theory_command

EMPTY = re.compile("--[a-z-]+=")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Real images as editable Gaussian noise: singularity skipping inversion (SSI-DM) of diffusion models.",
    epilog="Begin with `ssi demo`, or `ssi invert photo.jpg` and `ssi reconstruct out/photo.ssi.safetensors`.",
)
for name, command, example in (
    ("invert", invert_command, "ssi invert photos/*.jpg --steps 20 --skip 0.05 --out noises"),
    ("reconstruct", reconstruct_command, "ssi reconstruct out/photo.ssi.safetensors --original photo.jpg"),
    ("morph", morph_command, "ssi morph a.jpg b.jpg c.jpg --loop --frames 72 --out morphs"),
    ("edit", edit_command, "ssi edit scene.png --from summer --to winter --to night"),
    ("inspect", inspect_command, "ssi inspect out/photo.ssi.safetensors --image photo.jpg"),
    ("demo", demo_command, "ssi demo --out out/demo"),
    ("evaluate", evaluate_command, "ssi evaluate table2 --model demo --out out/table2"),
    ("theory", theory_command, "ssi theory all --out out/theory"),
    ("models", models_command, "ssi models ~/ComfyUI/models"),
    ("describe", describe_command, "ssi describe lsun_bedroom.pt"),
    ("convert", convert_command, "ssi convert lsun_bedroom.pt lsun_bedroom.safetensors --dtype float16"),
):
    app.command(name, epilog=f"Example: `{example}`")(command)
app.add_typer(queue.app, name="comfy")


@app.callback(invoke_without_command=True)
def version_option(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        console.print(f"ssi {__version__}", highlight=False)
        raise typer.Exit


class _Interrupted(BaseException):
    """Ctrl-C, or a polite kill. Not KeyboardInterrupt, which Typer would turn into "Aborted" and exit code 1."""


def _interrupt(number: int, frame: object) -> None:
    raise _Interrupted


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; turns what users can mend into one line on stderr, and never a traceback."""
    for stop in (signal.SIGINT, signal.SIGTERM):  # `timeout`, cron and batch systems send the second
        signal.signal(stop, _interrupt)
    try:
        if any(not a or EMPTY.fullmatch(a) for a in (sys.argv[1:] if arguments is None else arguments)):
            raise InputError("an argument is empty: is a variable of your shell not set?")
        app(arguments)
    except (InputError, DenoiserError, Cancelled) as error:
        said = error.worded(settings) if isinstance(error, Undecided) else str(error)
        errors.print(f"[red]error:[/] {escape(said)}", highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, InputError) else 3)
    except (RuntimeError, MemoryError) as error:  # such as a GPU whose memory is full
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        said = "the model could not be run" if _of_a_model(error) else "this machine could not do it"
        errors.print(f"[red]error:[/] {said}: {escape(reason)}", highlight=False, soft_wrap=True)
        sys.exit(3)
    except _Interrupted:
        errors.print("interrupted; nothing was left half-written")
        sys.exit(130)


def _of_a_model(error: BaseException) -> bool:
    """Whether a model was being evaluated or loaded, rather than a picture made or written."""
    running = (Guarded.__call__.__code__, Chosen.read.__code__)
    return any(frame.f_code in running for frame, _ in walk_tb(error.__traceback__))
