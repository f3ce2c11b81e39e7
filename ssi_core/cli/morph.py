"""`ssi morph`: from picture to picture."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Annotated

import torch
import typer

from ..blend import BLENDS
from ..errors import InputError
from ..frames import EASINGS
from ..gaussianity import gaussianity
from ..goal import Goal
from ..image import ANIMATED, check_animation, contact_sheet, load_image, save_animation, save_image
from ..inversion import Inversion, invert
from ..metrics import cosine
from ..morph import EVEN_ENOUGH, PACES, check_path, morph
from ..skip import choose_skip
from .options import InversionOptions, ModelOptions, Out, grouped
from .pictures import same_model
from .terminal import made, progress_bar, spent, stem, task_bar, warn

ALIKE = 0.5
COLUMNS = 12


@grouped
def morph_command(
    keyframes: Annotated[list[Path], typer.Argument(help="Pictures, or .ssi.safetensors files of one each.")],
    frames: Annotated[int, typer.Option(min=2, help="Frames in all, the pictures themselves included.")] = 24,
    loop: Annotated[bool, typer.Option("--loop", help="Go on from the last picture to the first.")] = False,
    back: Annotated[bool, typer.Option("--back", help="Play the frames there and back.")] = False,
    pace: Annotated[
        str, typer.Option(help=f"One of: {', '.join(PACES)}. Equal steps between pictures, or between noises.")
    ] = "even",
    easing: Annotated[str, typer.Option(help=f"From picture to picture, one of: {', '.join(EASINGS)}.")] = "linear",
    carry: Annotated[
        bool, typer.Option(help="Carry along what inversion lost, so that the pictures themselves are shown.")
    ] = True,
    method: Annotated[str, typer.Option(help=f"One of: {', '.join(BLENDS)}.")] = "slerp",
    fps: Annotated[float, typer.Option(min=0.1, max=50, help="Frames a second.")] = 12.0,
    scale: Annotated[int, typer.Option(min=1, help="Whole-number magnification of the results.")] = 4,
    format: Annotated[str, typer.Option(help=f"One of: {', '.join(ANIMATED)}.")] = "webp",
    batch: Annotated[int, typer.Option(min=1, help="Frames sampled together.")] = 16,
    out: Out = Path("out"),
    chosen: ModelOptions = ModelOptions(),  # noqa: B008  # frozen
    how: InversionOptions = InversionOptions(),  # noqa: B008
) -> None:
    """Morph pictures into one another: invert all, blend the noises, sample every blend.

    Writes FIRST-LAST.webp (or .gif, .mp4) and FIRST-LAST.png, all frames side by side. Beside a .ssi.safetensors file,
    pictures are inverted as that file was, whatever the options say; of such a file alone the picture is not known, so
    that its keyframe is the reconstruction.
    """
    path = out / f"{stem(keyframes[0])}-{stem(keyframes[-1])}.{format}"
    check_animation(path)
    check_path(len(keyframes), frames, easing=easing, pace=pace, method=method, batch=batch)
    how.check()
    model = chosen.chosen()
    found = [Inversion.load(path) if path.suffix == ".safetensors" else None for path in keyframes]
    for source, known in zip(keyframes, found, strict=True):
        if known is not None and len(known.noise) != 1:
            raise InputError(f"artefact {source}: holds {len(known.noise)} pictures; a morph takes one a keyframe")
    pictures = [None if known else load_image(p, model.image_size) for p, known in zip(keyframes, found, strict=True)]
    out = made(out)
    denoise = model.load()
    sigmas, skip, solver = how.sigmas(denoise), how.begin, how.solver
    for known in found:
        if known is not None:
            same_model(known, denoise)
            sigmas, skip, solver = known.sigmas, known.skip, known.solver
    unknown = [picture for picture in pictures if picture is not None]
    if isinstance(skip, Goal) and unknown:
        # Blends need one level: the one that the most demanding picture needs.
        seeds = [how.seed + i for i, picture in enumerate(pictures) if picture is not None]
        together = torch.cat(unknown).to(denoise.device)
        choice = choose_skip(denoise, together, sigmas, skip, injection=how.injection, seed=seeds)
        skip = choice.skip
        spent(f"for all pictures together: {choice.reason}")
    ends: list[Inversion] = []
    for i, (source, known, picture) in enumerate(zip(keyframes, found, pictures, strict=True)):
        if known is None and picture is not None:
            with progress_bar(f"inverting {source.name}") as watch:
                known = invert(
                    denoise, picture.to(denoise.device), sigmas, skip=skip, solver=solver,
                    injection=how.injection, seed=how.seed + i, progress=watch,
                )  # fmt: skip
        assert known is not None
        ends.append(known)
    likeness = max((float(cosine(a.noise.cpu(), b.noise.cpu())) for a, b in combinations(ends, 2)), default=0.0)
    if likeness > ALIKE:
        warn(f"two of the noises are alike (cosine {likeness:.2f}): other seeds would move it more")
    with task_bar() as task:
        result = morph(
            denoise, [end.to(denoise.device) for end in ends], frames, originals=pictures if carry else None,
            easing=easing, loop=loop, pace=pace, method=method, batch=batch, notice=task,
        )  # fmt: skip
    shown = torch.cat([result.frames, result.frames[1:-1].flip(0)]) if back else result.frames
    save_animation(shown, path, fps=fps, scale=scale)
    save_image(contact_sheet(result.frames.split(COLUMNS), scale=scale), path.with_suffix(".png"))
    verdicts = [gaussianity(end.noise.cpu()).verdict for end in ends]
    spent(f"{sum(verdicts)} of {len(ends)} noises are Gaussian by every figure; their largest cosine {likeness:.3f}")
    by = "" if easing == "linear" else f", each over what {easing} wants of it"
    spent(f"the largest step from frame to frame is {result.evenness:.2f} times the median one{by}")
    if pace == "even" and result.evenness > EVEN_ENOUGH:
        warn("some steps stayed large; more frames help")
    nfe = sum(end.nfe for end in ends) + result.nfe
    spent(f"{nfe} evaluations, {len(result.frames)} frames; written to {path} and {path.with_suffix('.png').name}")
