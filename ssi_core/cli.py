"""The command line: `ssi`, also `python -m ssi_core`.

Exit codes: 0 done; 1 the noise is not Gaussian (`ssi inspect` only); 2 bad input; 3 the model failed; 130 interrupted.
Every file is written beside its place and then renamed, so an interrupted command leaves none half-written.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from torch import Tensor

from .blend import BLENDS, blend
from .demo import DemoDenoiser, demo_denoiser
from .errors import Cancelled, DenoiserError, InputError
from .gaussianity import FIGURES, Gaussianity, gaussianity
from .image import contact_sheet, load_image, save_animation, save_image
from .inversion import DEFAULT_SKIP, DEFAULT_SOLVER, Inversion, Progress, invert, reconstruct
from .metrics import cosine, mse, psnr, ssim
from .models import load_checkpoint
from .models.commands import describe
from .models.family import Undecided
from .models.pixel import Conditioned
from .models.presets import PRESETS
from .process import VE, Process
from .schedule import exponential_sigmas, karras_sigmas
from .solver import SOLVERS, find_solver
from .version import __version__

console, errors = Console(), Console(stderr=True)
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Real images as editable Gaussian noise: singularity skipping inversion (SSI-DM) of diffusion models.",
    epilog="Begin with `ssi demo`, or `ssi invert photo.jpg` and `ssi reconstruct out/photo.ssi.safetensors`.",
)

SCHEDULES = {"karras": karras_sigmas, "exponential": exponential_sigmas}

Model = Annotated[str, typer.Option(help="`demo` (ships with this package), or a checkpoint: see `ssi models`.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="name=value: what a checkpoint does not tell itself.")]
Label = Annotated[int | None, typer.Option(min=0, help="Class, for class-conditional models.")]
Steps = Annotated[int, typer.Option(min=1, help="Noise levels of the whole schedule, sigma_max to sigma_min.")]
Skip = Annotated[float, typer.Option(min=0, help="sigma_skip: noise added before inverting. 0: the base method.")]
Solve = Annotated[str, typer.Option(help=f"One of: {', '.join(SOLVERS)}.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the added noise; image i gets seed + i.")]
Loaded = DemoDenoiser | Conditioned
Schedule = Annotated[str, typer.Option(help=f"One of: {', '.join(SCHEDULES)}.")]
Out = Annotated[Path, typer.Option(help="Folder for the results; made if it is missing.")]
Device = Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda`, `cuda:1`, `mps`.")]


@app.command("invert", epilog="Example: `ssi invert photos/*.jpg --steps 20 --skip 0.05 --out noises`")
def invert_command(
    images: Annotated[list[Path], typer.Argument(help="Pictures of any kind and size.")],
    out: Out = Path("out"),
    model: Model = "demo",
    steps: Steps = 20,
    skip: Skip = DEFAULT_SKIP,
    solver: Solve = DEFAULT_SOLVER,
    schedule: Schedule = "karras",
    seed: Seed = 0,
    batch: Annotated[int, typer.Option(min=1, help="Pictures inverted together.")] = 16,
    device: Device = "auto",
    set_: Set = None,
    label: Label = None,
    preset: Annotated[
        str | None, typer.Option(help=f"The paper's schedule, skip and solver: one of {', '.join(PRESETS)}.")
    ] = None,
) -> None:
    """Turn pictures into Gaussian noise.

    For each picture writes NAME.ssi.safetensors (noise, schedule, provenance) and NAME.noise.png (what the noise
    looks like, and whether it is Gaussian). Pictures are cut to their largest centred square and resized.
    """
    denoise = find_model(model, device, set_, label)
    pictures = [load_image(path, denoise.image_size) for path in images]
    names = result_names(images)
    sigmas = find_schedule(schedule, denoise, steps)
    if preset is not None:
        if preset not in PRESETS:
            raise InputError(f"preset {preset!r}: unknown; known are {', '.join(PRESETS)}")
        sigmas, skip, solver = PRESETS[preset].sigmas(), PRESETS[preset].skip(), PRESETS[preset].solver
    out = made(out)
    nfe, reports = 0, []
    for start in range(0, len(pictures), batch):
        x0 = torch.cat(pictures[start : start + batch]).to(denoise.device)
        with progress_bar(f"inverting {start + 1}-{start + len(x0)} of {len(pictures)}") as watch:
            inversion = invert(
                denoise, x0, sigmas, skip=skip, solver=solver, seed=seed + start, process=process_of(denoise),
                progress=watch,
            )  # fmt: skip
        nfe = inversion.nfe
        for i, name in enumerate(names[start : start + batch]):
            one, report = inversion.sample(i), gaussianity(inversion.noise[i : i + 1], x0[i : i + 1])
            one.save(out / f"{name}.ssi.safetensors")
            write_noise_figure(one.noise, report, out / f"{name}.noise.png", name)
            warn_of_residual(one, name)
            reports.append(report)
    print_reports(reports, names)
    spent(f"{nfe} evaluations a batch of up to {batch}, {len(names)} picture(s); written to {out}/")


@app.command("reconstruct", epilog="Example: `ssi reconstruct out/photo.ssi.safetensors --original photo.jpg`")
def reconstruct_command(
    noise: Annotated[Path, typer.Argument(help="A .ssi.safetensors file that `ssi invert` wrote.")],
    original: Annotated[Path | None, typer.Option(help="The picture it came from, to measure the error.")] = None,
    out: Out = Path("out"),
    model: Model = "demo",
    solver: Annotated[str | None, typer.Option(help="Default: the one that inverted.")] = None,
    device: Device = "auto",
    set_: Set = None,
    label: Label = None,
) -> None:
    """Turn noise back into the picture, on the grid that inverted it."""
    denoise = find_model(model, device, set_, label)
    inversion = Inversion.load(noise)
    same_model(inversion, denoise)
    target = None if original is None else load_image(original, denoise.image_size)
    if target is not None and len(inversion.noise) != 1:
        raise InputError(f"artefact {noise}: holds {len(inversion.noise)} pictures; --original is for one")
    out = made(out)
    with progress_bar("sampling") as watch:
        images = reconstruct(
            denoise, inversion.noise.to(denoise.device), inversion.sigmas, solver=solver or inversion.solver,
            process=inversion.process, progress=watch,
        ).cpu()  # fmt: skip
    table = Table("picture", "MSE", "PSNR dB", "SSIM")
    for name, image in zip(sample_names(noise, inversion), images.split(1), strict=True):
        save_image(image, out / f"{name}.reconstructed.png")
        if target is not None:
            table.add_row(escape(name), *(f"{float(m(image, target)):.4g}" for m in (mse, psnr, ssim)))
    if target is not None:
        console.print(table)
    spent(f"{watch.nfe} evaluations, {len(images)} picture(s); written to {out}/")


@app.command("interpolate", epilog="Example: `ssi interpolate a.jpg b.jpg --frames 24 --out morphs`")
def interpolate_command(
    a: Annotated[Path, typer.Argument(help="First picture, or a .ssi.safetensors file of one.")],
    b: Annotated[Path, typer.Argument(help="Last picture, or a .ssi.safetensors file of one.")],
    frames: Annotated[int, typer.Option(min=2, help="Frames, both ends included.")] = 16,
    method: Annotated[str, typer.Option(help=f"One of: {', '.join(BLENDS)}.")] = "slerp",
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the animation, one way.")] = 2.0,
    scale: Annotated[int, typer.Option(min=1, help="Whole-number magnification of the results.")] = 4,
    out: Out = Path("out"),
    model: Model = "demo",
    steps: Steps = 20,
    skip: Skip = DEFAULT_SKIP,
    solver: Solve = DEFAULT_SOLVER,
    schedule: Schedule = "karras",
    seed: Seed = 0,
    device: Device = "auto",
    set_: Set = None,
    label: Label = None,
) -> None:
    """Morph one picture into another: invert both, blend the noises, sample every blend.

    Writes A-B.webp (an animation, there and back) and A-B.png (all frames side by side). Beside a .ssi.safetensors
    file, a picture is inverted as that file was, whatever the options say.
    """
    if method not in BLENDS:
        raise InputError(f"method {method!r}: unknown; known are {', '.join(BLENDS)}")
    denoise = find_model(model, device, set_, label)
    sigmas = find_schedule(schedule, denoise, steps)
    out = made(out)
    found = [Inversion.load(path) if path.suffix == ".safetensors" else None for path in (a, b)]
    for path, artefact in zip((a, b), found, strict=True):
        if artefact is not None:
            same_model(artefact, denoise)
            if len(artefact.noise) != 1:
                raise InputError(
                    f"artefact {path}: holds {len(artefact.noise)} pictures; a morph takes one at each end"
                )
            sigmas, skip, solver = artefact.sigmas, artefact.skip, artefact.solver
    pictures = [None if known else load_image(p, denoise.image_size) for p, known in zip((a, b), found, strict=True)]
    ends: list[Inversion] = []
    for i, (path, artefact, picture) in enumerate(zip((a, b), found, pictures, strict=True)):
        if artefact is None and picture is not None:
            with progress_bar(f"inverting {path.name}") as watch:
                artefact = invert(
                    denoise, picture.to(denoise.device), sigmas, skip=skip, solver=solver, seed=seed + i,
                    process=process_of(denoise), progress=watch,
                )  # fmt: skip
        assert artefact is not None
        ends.append(artefact)
    first, last = ends
    if first.process != last.process or not torch.equal(first.sigmas, last.sigmas) or first.solver != last.solver:
        raise InputError(
            f"{a} and {b}: were inverted differently (process, schedule, skip or solver); invert them alike"
        )
    noises = [inversion.noise.to(denoise.device) for inversion in ends]
    similarity = float(cosine(*noises))
    if similarity > 0.5:
        warn(f"the two noises are alike (cosine {similarity:.2f}): other seeds would move it more")
    rows = [[1 - i / (frames - 1), i / (frames - 1)] for i in range(frames)]
    blended = blend(noises, rows, method=method)
    with progress_bar("sampling frames") as watch:
        morph = reconstruct(denoise, blended, first.sigmas, solver=first.solver, process=first.process, progress=watch)
    path = out / f"{stem(a)}-{stem(b)}.webp"
    save_animation(morph.cpu(), path, seconds=seconds, scale=scale)
    save_image(contact_sheet([morph.cpu()], scale=scale), path.with_suffix(".png"))
    verdicts = gaussianity(blended).verdicts
    spent(f"{sum(verdicts)} of {frames} blends are Gaussian by every figure; cosine of the two ends {similarity:.3f}")
    nfe = " + ".join(str(n) for n in (*(e.nfe for e in ends), watch.nfe))
    spent(f"{nfe} evaluations, {frames} frames; written to {path} and {path.with_suffix('.png').name}")


@app.command("inspect", epilog="Example: `ssi inspect out/photo.ssi.safetensors --image photo.jpg`")
def inspect_command(
    noise: Annotated[Path, typer.Argument(help="A .ssi.safetensors file.")],
    image: Annotated[Path | None, typer.Option(help="The picture it came from: are its edges in the noise?")] = None,
    out: Annotated[Path | None, typer.Option(help="Also draw the figures into this picture (.png, .svg).")] = None,
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


@app.command("demo", epilog="Example: `ssi demo --out out/demo`")
def demo_command(out: Out = Path("out/demo"), device: Device = "auto") -> None:
    """Show what the usual inversion does, what SSI does, and a morph, on pictures the demo model never saw.

    Writes demo.png (all of it at a glance), morph.webp, metrics.json and the inversions.
    """
    from .demo.run import run_demo

    denoise = find_model("demo", device)
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


@app.command("models", epilog="Example: `ssi models ~/ComfyUI/models`")
def models_command(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Where to look for files that are there already.")
    ] = None,
) -> None:
    """List the published pixel models that can be loaded: where they are, how large, under which licence."""
    from .models.commands import models

    table = Table("file", "family", "size", "MB", "classes", "licence", "found", box=SIMPLE, pad_edge=False)
    rows = models(folders or [])
    for row in rows:
        facts = row.file.facts
        table.add_row(
            row.file.name, row.file.family, str(facts.get("image_size") or facts.get("img_resolution")),
            f"{row.file.nbytes / 1e6:.0f}", str(facts.get("num_classes") or facts.get("label_dim") or "-"),
            row.file.licence, ", ".join(map(str, row.found)),
        )  # fmt: skip
    console.print(table)
    for row in rows:
        console.print(row.file.url, highlight=False, soft_wrap=True)


@app.command("describe", epilog="Example: `ssi describe lsun_bedroom.pt`")
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
    for key in sorted(found.facts):
        table.add_row(key, str(found.facts[key]), found.sources[key])
    console.print(table)
    for question in found.undecided.questions if found.undecided else ():
        warn(f"not told: {question.choices}; say it with --set {question.arguments[0]}=...")


@app.command("convert", epilog="Example: `ssi convert lsun_bedroom.pt lsun_bedroom.safetensors --dtype float16`")
def convert_command(
    file: Annotated[Path, typer.Argument(help="A .pt, .pth, .pkl or .safetensors file.")],
    output: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    dtype: Annotated[str | None, typer.Option(help="float16 or bfloat16 halves the file; default: as stored.")] = None,
    set_: Set = None,
) -> None:
    """Rewrite a checkpoint as a .safetensors file that tells everything about itself."""
    from .models.commands import convert

    kinds = {None: None, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype not in kinds:
        raise InputError(f"dtype {dtype!r}: one of float16, bfloat16 and float32 is wanted")
    arguments, known_as = read_settings(set_)
    with task_bar() as task:
        found = convert(
            file, output, dtype=kinds[dtype], name=known_as, overrides=arguments,
            progress=lambda done, total: task(f"reading {file.name}", done, total),
        )  # fmt: skip
    spent(f"{found.family}, {found.nbytes / 1e6:.1f} MB; written to {output}")


def find_model(name: str, device: str, given: list[str] | None = None, label: int | None = None) -> Loaded:
    """The denoiser that `--model`, `--device`, `--set` and `--label` name."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r}: cannot be used ({str(error).splitlines()[0]})") from None
    if name == "demo":
        if given or label is not None:
            raise InputError("model 'demo': needs no --set and has no classes for --label; leave them out")
        return demo_denoiser(device)
    if not Path(name).exists():
        raise InputError(f"model {name!r}: unknown; neither 'demo', which ships with this package, nor a file")
    arguments, known_as = read_settings(given)
    undecided = describe(name, name=known_as, overrides=arguments).undecided
    if undecided is not None:  # asked before gigabytes are read
        raise undecided
    loaded = load_checkpoint(name, device=device, name=known_as, **arguments)
    if loaded.image_size is None:
        raise InputError(f"model {name}: does not tell its image size; say it with --set image_size=256")
    if loaded.info.num_classes and label is None and not loaded.null_label:
        raise InputError(f"model {name}: has {loaded.info.num_classes} classes; choose one with --label")
    if label is not None and label >= loaded.info.num_classes:
        raise InputError(f"label {label}: the model has {loaded.info.num_classes or 'no'} classes (counted from 0)")
    return loaded.conditioned(label)


def read_settings(given: list[str] | None) -> tuple[dict[str, Any], str | None]:
    """`--set` options as arguments of `load_checkpoint`, and the published name among them."""
    arguments: dict[str, Any] = {}
    for setting in given or []:
        name, equals, value = setting.partition("=")
        if not equals or not name.isidentifier() or name in ("path", "device", "dtype", "progress", "layers"):
            raise InputError(f"--set {setting}: give name=value, as in --set num_head_channels=64")
        try:
            arguments[name] = json.loads(value.lower() if value in ("True", "False") else value)
        except ValueError:
            arguments[name] = value
    known_as = arguments.pop("name", None)
    return arguments, None if known_as is None else str(known_as)


def process_of(denoise: Loaded) -> Process:
    return getattr(denoise, "process", VE())


def find_schedule(name: str, denoise: Loaded, steps: int) -> Tensor:
    """The schedule that `--schedule` names, over the model's range."""
    if name not in SCHEDULES:
        raise InputError(f"schedule {name!r}: unknown; known are {', '.join(SCHEDULES)}")
    return SCHEDULES[name](steps, sigma_min=denoise.sigma_min, sigma_max=denoise.sigma_max)


def same_model(inversion: Inversion, denoise: Loaded) -> None:
    made_with = inversion.provenance.get("model")
    if made_with != denoise.signature:
        warn(f"this noise was made with model {made_with}, not {denoise.signature}: it will not give the same picture")


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
    from .plot import noise_figure, save_figure  # matplotlib takes a second to import

    save_figure(noise_figure(noise, report, title=title), path)


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


def warn(message: str) -> None:
    errors.print(f"[yellow]note:[/] {escape(message)}", highlight=False)


def spent(message: str) -> None:
    console.print(message, highlight=False, markup=False)


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


@app.callback(invoke_without_command=True)
def version_option(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        console.print(f"ssi {__version__}", highlight=False)
        raise typer.Exit


class _Interrupted(BaseException):
    """Ctrl-C. Not KeyboardInterrupt, which Typer would turn into "Aborted" and exit code 1."""


def _interrupt(number: int, frame: object) -> None:
    raise _Interrupted


def _set_options(names: Sequence[str]) -> str:
    return " ".join(f"--set {name}=..." for name in names)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; turns what users can mend into one line on stderr, and never a traceback."""
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app(arguments)
    except (InputError, DenoiserError, Cancelled) as error:
        said = error.worded(_set_options) if isinstance(error, Undecided) else str(error)
        errors.print(f"[red]error:[/] {escape(said)}", highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, InputError) else 3)
    except _Interrupted:
        errors.print("interrupted; nothing was left half-written")
        sys.exit(130)
