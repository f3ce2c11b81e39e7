"""`ssi invert`, `ssi reconstruct`: from pictures to noise and back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from ..demo import shipped_as
from ..errors import InputError
from ..gaussianity import Gaussianity, gaussianity
from ..goal import Goal
from ..guard import process_of
from ..image import load_image, save_image
from ..inversion import Inversion, invert, reconstruct
from ..metrics import mse, psnr, ssim
from ..models.pixel import Conditioned
from ..models.presets import PRESETS
from ..process import VE, Flow
from ..solver import find_solver
from .options import InversionOptions, Loaded, ModelOptions, Out, grouped, preset_named
from .terminal import (
    console,
    evaluations,
    made,
    print_reports,
    progress_bar,
    result_names,
    sample_names,
    spent,
    warn,
    warn_of_residual,
    write_choice,
    write_noise_figure,
)


@grouped
def invert_command(
    context: typer.Context,
    images: Annotated[list[Path], typer.Argument(help="Pictures of any kind and size.")],
    out: Out = Path("out"),
    chosen: ModelOptions = ModelOptions(),  # noqa: B008  # frozen
    how: InversionOptions = InversionOptions(),  # noqa: B008
    batch: Annotated[int, typer.Option(min=1, help="Pictures inverted together.")] = 16,
    preset: Annotated[
        str | None, typer.Option(help=f"The paper's schedule, skip and solver: one of {', '.join(PRESETS)}.")
    ] = None,
) -> None:
    """Turn pictures into Gaussian noise.

    For each picture writes NAME.ssi.safetensors (noise, schedule, provenance) and NAME.noise.png (what the noise
    looks like, and whether it is Gaussian); where the skip is chosen (`--skip auto`) also NAME.skip.png (what other
    skips would cost and give). Pictures are cut to their largest centred square and resized.
    """
    # Whatever can be wrong without the weights is found before they are read.
    how.check()
    papers = None if preset is None else preset_named(preset, context)
    model = chosen.chosen()
    pictures = [load_image(path, model.image_size) for path in images]
    names = result_names(images)
    denoise = model.load()
    if papers is None:
        sigmas, skip, solver = how.sigmas(denoise), how.begin, how.solver
    else:
        process = getattr(denoise, "process", VE())
        sigmas, skip, solver = papers.sigmas(process), papers.skip(process), papers.solver
        how.check_injection(skip)
        if known_name(denoise) != papers.model:
            warn(f"preset {papers.name!r} is the paper's for {papers.model}; this is {known_name(denoise)}")
    out = made(out)
    batches, reports = [], []
    for start, x0, inversion in inverted(denoise, pictures, sigmas, skip, solver, how, batch):
        nfe = inversion.nfe
        for i, name in enumerate(names[start : start + len(x0)]):
            kept = math.nan
            if inversion.choice is not None:
                with progress_bar(f"back to {name}, to see what was foretold") as watch:
                    back = reconstruct(
                        denoise, inversion.noise[i : i + 1], inversion.sigmas, solver=inversion.solver,
                        process=inversion.process, progress=watch,
                    )  # fmt: skip
                kept, nfe = float(psnr(back, x0[i : i + 1])), nfe + watch.nfe
            one, report = judged(inversion, x0, i, out, name, kept)
            one.save(out / f"{name}.ssi.safetensors")
            write_noise_figure(one.noise, report, out / f"{name}.noise.png", name)
            warn_of_residual(one, name)
            reports.append(report)
        batches.append((len(x0), nfe))
    print_reports(reports, names)
    spent(f"{evaluations(batches)}, {len(names)} picture(s); written to {out}/")


def inverted(
    denoise: Loaded,
    pictures: Sequence[Tensor],
    sigmas: Tensor,
    skip: float | Goal,
    solver: str,
    how: InversionOptions,
    batch: int,
) -> Iterator[tuple[int, Tensor, Inversion]]:
    """Pictures [1, C, H, W] inverted, so many at a time; alone where each is to have a skip of its own.

    Yields:
        (number of the first, pictures [B, C, H, W], their inversion); picture i has the seed `how.seed + i`.
    """
    batch = 1 if isinstance(skip, Goal) else batch
    for start in range(0, len(pictures), batch):
        x0 = torch.cat(list(pictures[start : start + batch])).to(denoise.device)
        with progress_bar(f"inverting {start + 1}-{start + len(x0)} of {len(pictures)}") as watch:
            found = invert(
                denoise, x0, sigmas, skip=skip, solver=solver, injection=how.injection, seed=how.seed + start,
                progress=watch,
            )  # fmt: skip
        yield start, x0, found


def judged(
    found: Inversion, x0: Tensor, i: int, out: Path, name: str, kept: float = math.nan
) -> tuple[Inversion, Gaussianity]:
    """Picture i of a batch by itself, and its noise's figures.

    Where its skip was chosen, that is told, and drawn as NAME.skip.png.

    Args:
        kept: dB of the way back, if it was gone.
    """
    one = found.sample(i)
    report = gaussianity(one.noise, x0[i : i + 1])
    if one.choice is not None:
        write_choice(one, report, out / f"{name}.skip.png", name, kept)
    return one, report


@grouped
def reconstruct_command(
    noise: Annotated[Path, typer.Argument(help="A .ssi.safetensors file that `ssi invert` wrote.")],
    original: Annotated[Path | None, typer.Option(help="The picture it came from, to measure the error.")] = None,
    out: Out = Path("out"),
    chosen: ModelOptions = ModelOptions(),  # noqa: B008  # frozen
    solver: Annotated[str | None, typer.Option(help="Default: the one that inverted.")] = None,
) -> None:
    """Turn noise back into the picture, on the grid that inverted it."""
    inversion, model = Inversion.load(noise), chosen.chosen()
    find_solver(solver or inversion.solver)
    target = None if original is None else load_image(original, model.image_size)
    if target is not None and len(inversion.noise) != 1:
        raise InputError(f"artefact {noise}: holds {len(inversion.noise)} pictures; --original is for one")
    out = made(out)
    denoise = model.load()
    same_model(inversion, denoise, noise)
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


def same_model(inversion: Inversion, denoise: Loaded, source: Path) -> None:
    """Warn where a noise is of another model; refuse it where that is of another kind.

    Raises:
        InputError: noise of a flow model for another kind of model, or the other way round.
    """
    made_with, is_flow = inversion.provenance.get("model"), isinstance(process_of(denoise), Flow)
    name = shipped_as(made_with)
    use = f"use --model {name}" if name else "use the model that it was made with"
    if isinstance(inversion.process, Flow) != is_flow:
        kinds = "no flow's noise, and this is a flow model" if is_flow else "a flow's noise, and this is no flow model"
        raise InputError(f"artefact {source}: holds {kinds}; {use}")
    if made_with != denoise.signature:
        that, this = name or made_with, shipped_as(denoise.signature) or denoise.signature
        warn(f"{source.name} was made with model {that}, not {this}: it will not give the same picture; {use}")


def known_name(denoise: Loaded) -> str:
    return denoise.model.info.name if isinstance(denoise, Conditioned) else "the demo model"
