"""What commands say, their progress bars, and the names of the files that they write."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from torch import Tensor

from ..errors import InputError
from ..gaussianity import FIGURES, OF_THE_WHOLE, Gaussianity
from ..image import save_picture
from ..integration import Progress, unit_noise
from ..inversion import Inversion
from ..panel import noise_panel
from ..skip import Choice, Trial, leftover
from ..skip_panel import skip_panel
from ..solver import find_solver

console, errors = Console(), Console(stderr=True)


def result_names(paths: list[Path]) -> list[str]:
    """File stems, made unique where two pictures share one."""
    names: list[str] = []
    for path in paths:
        name, n = path.stem, 2
        while name in names:
            name, n = f"{path.stem}-{n}", n + 1
        names.append(name)
    return names


def stem(path: Path) -> str:
    return path.name.removesuffix(".safetensors").removesuffix(".ssi") if path.suffix == ".safetensors" else path.stem


def sample_names(path: Path, inversion: Inversion) -> list[str]:
    """One name a sample of an artefact: its stem, numbered where there are several."""
    count = len(inversion.noise)
    return [stem(path)] if count == 1 else [f"{stem(path)}-{i}" for i in range(count)]


def made(folder: Path) -> Path:
    """The output folder, made if it is missing, and tried out before any work is done for it.

    Raises:
        InputError: it cannot be made, or a file stands in its place.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output {folder}: cannot be made ({error.strerror})") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"output {folder}: cannot be written to")
    return folder


def write_noise_figure(noise: Tensor, report: Gaussianity, path: Path, title: str) -> None:
    save_picture(noise_panel(noise, report, title=title), path)


def write_choice(inversion: Inversion, report: Gaussianity, path: Path, title: str, kept: float = math.nan) -> None:
    """The picture of how the skip of one picture's inversion was chosen, with what came of it, and one line.

    Args:
        report: of its noise, beside the picture.
        kept: dB of the way back, if it was gone.
    """
    choice = inversion.choice
    assert choice is not None
    injected = unit_noise(inversion.noise, inversion.seeds)
    margin = report.margin()
    happened = Trial(choice.skip, torch.full_like(margin, kept), leftover(inversion.noise, injected), margin)
    save_picture(skip_panel(choice, title=title, happened=happened), path)
    tell_choice(choice, title, f"; see {path.name}")
    larger = f"a larger skip may be enough, --skip {1.5 * choice.skip:.2g}"
    advice = {
        "psnr": "more steps bring it nearer",
        "leftover": larger,
        "margin": "no skip is sure to mend that" if OF_THE_WHOLE & set(report.failures[0]) else larger,
    }
    for figure, short in choice.shortfalls(happened).items():
        by = f", by {', '.join(report.failures[0])}" if figure == "margin" else ""
        warn(f"{title}: {short}{by}; {advice[figure]}")


def tell_choice(choice: Choice, title: str, more: str = "") -> None:
    """Why this skip, and where it does not reach its goal."""
    spent(f"{title}: {choice.reason}")
    if not choice.met:
        warn(f"{title}: no skip is foretold to reach {choice.goal}{more}")


def print_reports(reports: list[Gaussianity], names: list[str]) -> None:
    """The figures of the first four noises beside those of true noise, and every verdict in words."""
    first = reports[:4]
    table = Table("figure", *(escape(name) for name in names[:4]), "true noise")
    for figure in FIGURES:
        values = [float(getattr(report, figure)) for report in first]
        if not math.isnan(values[0]):
            row = [f"{value:.3f}" for value in values]
            table.add_row(figure, *row, f"[dim]{float(getattr(first[0].floor, figure)):.3f}[/]")
    table.add_row("verdict", *("[green]Gaussian[/]" if r.verdict else "[red]not Gaussian[/]" for r in first), "")
    console.print(table)
    for name, report in zip(names, reports, strict=True):
        for reason in report.reasons[0]:
            spent(f"  {name}: {reason}")
    if not all(report.verdict for report in reports):
        warn(
            "noise that is not Gaussian edits badly: the picture may lie outside what the model knows, "
            "or sigma_skip be too small"
        )


def warn_of_residual(inversion: Inversion, name: str) -> None:
    residual = 0.0 if inversion.residual is None else float(inversion.residual.max())
    if residual > 10 * find_solver(inversion.solver).tolerance:
        warn(f"{name}: {inversion.solver} did not converge (largest relative residual {residual:.1e})")


def warn_of_noises(verdicts: Sequence[bool], spoilt: str) -> None:
    """Say how many noises are not Gaussian, and that `spoilt` may go wrong for it."""
    if not all(verdicts):
        warn(f"{len(verdicts) - sum(verdicts)} of {len(verdicts)} noises are not Gaussian: {spoilt} may go wrong")


def warn(message: str) -> None:
    errors.print(f"[yellow]note:[/] {escape(message)}", highlight=False)


def evaluations(batches: Sequence[tuple[int, int]]) -> str:
    """What batches took, given as (pictures in it, evaluations); they differ where each has a skip of its own."""
    largest = max(pictures for pictures, _ in batches)
    least, most = min(nfe for _, nfe in batches), max(nfe for _, nfe in batches)
    each = f"{most}" if least == most else f"{least} to {most}"
    return f"{each} evaluations {'a picture' if largest == 1 else f'a batch of up to {largest}'}"


def spent(message: str, *, wrap: bool = True) -> None:
    console.print(message, highlight=False, markup=False, soft_wrap=not wrap)


class Watch:
    """A progress callback that moves a bar, and knows afterwards how many evaluations it took."""

    def __init__(self, bars: Bars, what: str) -> None:
        self.bars, self.row, self.nfe = bars, bars.add_task(escape(what), total=None), 0

    def __call__(self, now: Progress) -> None:
        self.nfe = now.nfe
        self.bars.update(self.row, completed=now.step, total=now.steps)


@contextmanager
def progress_bar(what: str) -> Iterator[Watch]:
    """A bar over the steps of one integration."""
    with _bars() as bars:
        yield Watch(bars, what)


@contextmanager
def task_bar() -> Iterator[Any]:
    """A bar over the parts of a longer job: call it with (part, done, of)."""
    with _bars() as bars:
        row = bars.add_task("starting", total=None)

        def watch(part: str, done: int, of: int) -> None:
            bars.update(row, description=part, completed=done, total=of)

        yield watch


def _bars() -> Bars:
    return Bars(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=errors, transient=True,
    )  # fmt: skip
