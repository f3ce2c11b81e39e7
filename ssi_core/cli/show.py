"""`ssi inspect` and `ssi demo`: what a noise is like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..demo import DemoDenoiser
from ..gaussianity import gaussianity
from ..image import load_image
from ..inversion import Inversion
from .options import Device, ModelOptions, Out
from .terminal import console, made, print_reports, sample_names, spent, task_bar, write_noise_figure


def inspect_command(
    noise: Annotated[Path, typer.Argument(help="A .ssi.safetensors file.")],
    image: Annotated[Path | None, typer.Option(help="The picture it came from: are its edges in the noise?")] = None,
    out: Annotated[Path | None, typer.Option(help="Also draw the figures into this picture (.png).")] = None,
) -> None:
    """Say whether a noise is Gaussian, figure by figure, beside what true Gaussian noise of its shape reaches.

    Exit code 1 when it is not.
    """
    inversion = Inversion.load(noise)
    source = None if image is None else load_image(image, inversion.noise.shape[-1])
    reports = [gaussianity(z, source) for z in inversion.noise.split(1)]
    names = sample_names(noise, inversion)
    print_reports(reports, names)
    known, seeds = inversion.provenance, ", ".join(map(str, inversion.seeds))
    spent(
        f"inverted by {inversion.solver}, sigma_skip {inversion.skip:g}, {len(inversion.sigmas) - 1} levels, "
        f"{inversion.nfe} evaluations, seed {seeds}, model {known.get('model')}, ssi {known.get('ssi')}"
    )
    if out is not None:
        worst = next((i for i, report in enumerate(reports) if not report.verdict), 0)
        write_noise_figure(inversion.noise[worst : worst + 1], reports[worst], out, names[worst])
    if not all(report.verdict for report in reports):
        raise typer.Exit(1)


def demo_command(out: Out = Path("out/demo"), device: Device = "auto") -> None:
    """Show what the usual inversion does, what SSI does, and a morph, on pictures the demo model never saw.

    Writes demo.png (all of it at a glance), morph.webp, metrics.json and the inversions.
    """
    from ..demo.run import run_demo

    denoise = ModelOptions(device=device).denoiser()
    assert isinstance(denoise, DemoDenoiser)
    with task_bar() as task:
        tables = run_demo(denoise, made(out), task)
    for title, columns, rows in tables:
        table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1))
        table.columns[0].no_wrap = True
        for row in rows:
            table.add_row(*row)
        console.print(table)
    spent(f"look at {out / 'demo.png'} and {out / 'morph.webp'}")
