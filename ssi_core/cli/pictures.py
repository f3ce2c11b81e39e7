"""`ssi invert`, `ssi reconstruct`, `ssi interpolate`: from pictures to noise and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.markup import escape
from rich.table import Table

from ..blend import BLENDS, blend
from ..errors import InputError
from ..gaussianity import gaussianity
from ..image import contact_sheet, load_image, save_animation, save_image
from ..inversion import Inversion, invert, reconstruct
from ..metrics import cosine, mse, psnr, ssim
from ..models.pixel import Conditioned
from ..models.presets import PRESETS
from ..process import VE
from ..solver import find_solver
from .options import InversionOptions, Loaded, ModelOptions, Out, grouped, preset_named
from .terminal import (
    console,
    made,
    print_reports,
    progress_bar,
    result_names,
    sample_names,
    spent,
    stem,
    warn,
    warn_of_residual,
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
    looks like, and whether it is Gaussian). Pictures are cut to their largest centred square and resized.
    """
    # Whatever can be wrong without the weights is found before they are read.
    how.check()
    papers = None if preset is None else preset_named(preset, context)
    model = chosen.chosen()
    pictures = [load_image(path, model.image_size) for path in images]
    names = result_names(images)
    denoise = model.load()
    if papers is None:
        sigmas, skip, solver = how.sigmas(denoise), how.skip, how.solver
    else:
        process = getattr(denoise, "process", VE())
        sigmas, skip, solver = papers.sigmas(process), papers.skip(process), papers.solver
        if known_name(denoise) != papers.model:
            warn(f"preset {papers.name!r} is the paper's for {papers.model}; this is {known_name(denoise)}")
    out = made(out)
    nfe, reports = 0, []
    for start in range(0, len(pictures), batch):
        x0 = torch.cat(pictures[start : start + batch]).to(denoise.device)
        with progress_bar(f"inverting {start + 1}-{start + len(x0)} of {len(pictures)}") as watch:
            inversion = invert(
                denoise, x0, sigmas, skip=skip, solver=solver, seed=how.seed + start, progress=watch,
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
    same_model(inversion, denoise)
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


@grouped
def interpolate_command(
    a: Annotated[Path, typer.Argument(help="First picture, or a .ssi.safetensors file of one.")],
    b: Annotated[Path, typer.Argument(help="Last picture, or a .ssi.safetensors file of one.")],
    frames: Annotated[int, typer.Option(min=2, help="Frames, both ends included.")] = 16,
    method: Annotated[str, typer.Option(help=f"One of: {', '.join(BLENDS)}.")] = "slerp",
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the animation, one way.")] = 2.0,
    scale: Annotated[int, typer.Option(min=1, help="Whole-number magnification of the results.")] = 4,
    out: Out = Path("out"),
    chosen: ModelOptions = ModelOptions(),  # noqa: B008  # frozen
    how: InversionOptions = InversionOptions(),  # noqa: B008
) -> None:
    """Morph one picture into another: invert both, blend the noises, sample every blend.

    Writes A-B.webp (an animation, there and back) and A-B.png (all frames side by side). Beside a .ssi.safetensors
    file, a picture is inverted as that file was, whatever the options say.
    """
    if method not in BLENDS:
        raise InputError(f"method {method!r}: unknown; known are {', '.join(BLENDS)}")
    how.check()
    model = chosen.chosen()
    found = [Inversion.load(path) if path.suffix == ".safetensors" else None for path in (a, b)]
    pictures = [None if known else load_image(p, model.image_size) for p, known in zip((a, b), found, strict=True)]
    out = made(out)
    denoise = model.load()
    sigmas, skip, solver = how.sigmas(denoise), how.skip, how.solver
    for path, artefact in zip((a, b), found, strict=True):
        if artefact is not None:
            same_model(artefact, denoise)
            if len(artefact.noise) != 1:
                raise InputError(
                    f"artefact {path}: holds {len(artefact.noise)} pictures; a morph takes one at each end"
                )
            sigmas, skip, solver = artefact.sigmas, artefact.skip, artefact.solver
    ends: list[Inversion] = []
    for i, (path, artefact, picture) in enumerate(zip((a, b), found, pictures, strict=True)):
        if artefact is None and picture is not None:
            with progress_bar(f"inverting {path.name}") as watch:
                artefact = invert(
                    denoise, picture.to(denoise.device), sigmas, skip=skip, solver=solver, seed=how.seed + i,
                    progress=watch,
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


def same_model(inversion: Inversion, denoise: Loaded) -> None:
    made_with = inversion.provenance.get("model")
    if made_with != denoise.signature:
        warn(f"this noise was made with model {made_with}, not {denoise.signature}: it will not give the same picture")


def known_name(denoise: Loaded) -> str:
    return denoise.model.info.name if isinstance(denoise, Conditioned) else "the demo model"
