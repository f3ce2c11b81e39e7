"""`ssi morph`: from picture to picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn import functional as F

from ..blend import BLENDS
from ..demo import DemoDenoiser
from ..denoiser import Denoiser
from ..errors import InputError
from ..frames import EASINGS, weights_at
from ..gaussianity import gaussianity
from ..goal import Goal
from ..image import (
    ANIMATED,
    check_animation,
    check_pixels,
    contact_sheet,
    load_image,
    save_animation,
    save_image,
    sheet_size,
)
from ..injection import Injection
from ..inversion import Inversion, invert
from ..metrics import cosine
from ..models.pixel import PixelModel
from ..morph import EVEN_ENOUGH, PACES, check_path, morph
from ..skip import choose_skip, resolved
from .options import InversionOptions, NetworkOptions, Out, grouped
from .pictures import same_model
from .terminal import made, progress_bar, spent, stem, task_bar, tell_choice, warn, warn_of_noises

ALIKE = 0.5
COLUMNS = 12


@grouped
def morph_command(
    keyframes: Annotated[list[Path], typer.Argument(help="Pictures, or .ssi.safetensors files of one each.")],
    frames: Annotated[int, typer.Option(min=2, help="Frames in all, the pictures themselves included.")] = 24,
    loop: Annotated[bool, typer.Option("--loop", help="Go on from the last picture to the first.")] = False,
    back: Annotated[bool, typer.Option("--back", help="Play the frames there and back: 8 become 14.")] = False,
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
    label: Annotated[
        list[str] | None,
        typer.Option(help="Class by number or name: one for all, or one a picture, which are mixed on the way."),
    ] = None,
    out: Out = Path("out"),
    network: NetworkOptions = NetworkOptions(),  # noqa: B008  # frozen
    how: InversionOptions = InversionOptions(),  # noqa: B008
) -> None:
    """Morph pictures into one another: invert all, blend the noises, sample every blend.

    Writes FIRST-LAST.webp (or .gif, .mp4) and FIRST-LAST.png, all frames side by side. Beside a .ssi.safetensors file,
    pictures are inverted as that file was, whatever the options say; of such a file alone the picture is not known, so
    that its keyframe is the reconstruction. With a --label for each, every picture is inverted as its own class, and
    the class travels with the pictures; give a file the class that it was inverted as.
    """
    if loop and back:
        raise InputError("--loop, --back: contradict each other, since a loop ends where it begins; leave one out")
    path = out / f"{stem(keyframes[0])}-{stem(keyframes[-1])}.{format}"
    check_animation(path)
    check_path(len(keyframes), frames, easing=easing, pace=pace, method=method, batch=batch)
    how.check()
    given = label or []
    if len(given) not in (0, 1, len(keyframes)):
        raise InputError(f"label: {len(given)} for {len(keyframes)} pictures; give one for all, or one each")
    model = network.of_class(given[0] if given else None)
    classes = [model.number(name) for name in given]
    found = [Inversion.load(path) if path.suffix == ".safetensors" else None for path in keyframes]
    for source, known in zip(keyframes, found, strict=True):
        if known is not None and len(known.noise) != 1:
            raise InputError(f"artefact {source}: holds {len(known.noise)} pictures; a morph takes one a keyframe")
    pictures = [None if known else load_image(p, model.image_size) for p, known in zip(keyframes, found, strict=True)]
    height, width = (model.image_size, model.image_size) if found[0] is None else found[0].noise.shape[-2:]
    check_pixels(f"animation {path}", width * scale, height * scale, 2 * frames - 2 if back else frames)
    rows = [(min(frames, COLUMNS), width, height)] * math.ceil(frames / COLUMNS)
    check_pixels(f"picture {path.with_suffix('.png')}", *sheet_size(rows, scale=scale))
    out = made(out)
    unasked = model.read()
    denoise = unasked.conditioned(model.label)
    travel = class_path(unasked, classes, len(model.classes), loop) if len(set(classes)) > 1 else None

    def own(places: list[int]) -> Denoiser:
        """The model as it is asked for these keyframes."""
        return denoise if travel is None else travel(torch.tensor(places, dtype=torch.float64))

    sigmas, skip, solver = how.sigmas(denoise), how.begin, how.solver
    injection: str | Injection = how.injection
    unknown = [picture for picture in pictures if picture is not None]
    for source, known in zip(keyframes, found, strict=True):
        if known is not None:
            same_model(known, denoise, source)
            sigmas, skip, solver = known.sigmas, known.skip, known.solver
            try:
                injection = known.injection if unknown else injection
            except InputError as error:
                raise InputError(f"artefact {source}: {error}") from None
    nfe, choice = 0, None
    if isinstance(skip, Goal) and unknown:
        # Blends need one level: the one that the most demanding picture needs.
        seeds = [how.seed + i for i, picture in enumerate(pictures) if picture is not None]
        together = torch.cat(unknown).to(denoise.device)
        whose = own([i for i, picture in enumerate(pictures) if picture is not None])
        choice = choose_skip(whose, together, sigmas, skip, injection=injection, seed=seeds)
        skip, nfe = choice.skip, choice.nfe * len(unknown)
    ends: list[Inversion] = []
    for i, (source, known, picture) in enumerate(zip(keyframes, found, pictures, strict=True)):
        if known is None and picture is not None:
            with progress_bar(f"inverting {source.name}") as watch:
                known = invert(
                    own([i]), picture.to(denoise.device), sigmas, skip=skip, solver=solver,
                    injection=injection, seed=how.seed + i, progress=watch,
                )  # fmt: skip
            nfe += known.nfe
        assert known is not None
        ends.append(known)
    if choice is not None:
        last = ends[-1]
        fine = resolved(last.sigmas, last.solver, last.process)
        tell_choice(replace(choice, resolved=fine), "all pictures together")
    likeness = max((float(cosine(a.noise.cpu(), b.noise.cpu())) for a, b in combinations(ends, 2)), default=0.0)
    if likeness > ALIKE:
        warn(f"two of the noises are alike (cosine {likeness:.2f}): other seeds would move it more")
    with task_bar() as task:
        result = morph(
            denoise, [end.to(denoise.device) for end in ends], frames, originals=pictures if carry else None,
            easing=easing, loop=loop, pace=pace, method=method, batch=batch,
            conditioned=travel, notice=task,
        )  # fmt: skip
    shown = torch.cat([result.frames, result.frames[1:-1].flip(0)]) if back else result.frames
    save_animation(shown, path, fps=fps, scale=scale)
    save_image(contact_sheet(result.frames.split(COLUMNS), scale=scale), path.with_suffix(".png"))
    verdicts = [gaussianity(end.noise.cpu(), picture).verdict for end, picture in zip(ends, pictures, strict=True)]
    warn_of_noises(verdicts, "the frames near them")
    spent(f"{sum(verdicts)} of {len(ends)} noises are Gaussian by every figure; their largest cosine {likeness:.3f}")
    by = "" if easing == "linear" else f", each over what {easing} wants of it"
    spent(f"the largest step from frame to frame is {result.evenness:.2f} times the median one{by}")
    if pace == "even" and result.evenness > EVEN_ENOUGH:
        warn("some steps stayed large; more frames help")
    spent(f"{nfe + result.nfe} evaluations of one picture each, what files already held left out")
    spent(f"{len(shown)} frames; written to {path} and {path.with_suffix('.png').name}")


def class_path(
    network: DemoDenoiser | PixelModel, labels: Sequence[int], classes: int, loop: bool
) -> Callable[[Tensor], Denoiser]:
    """The classes of a morph's frames: positions [B], as `morph` counts them -> the network, asked for a class each.

    Args:
        network: one that mixes classes; between two keyframes it is asked for a mixture of theirs.
        labels: the class of each keyframe.
        classes: how many the network knows.
        loop: the last keyframe leads to the first.

    Raises:
        InputError: the network takes whole classes only.
    """
    if not network.mixes_classes:
        raise InputError("label: this model knows whole classes only, and cannot mix them on the way; give one for all")
    ends = F.one_hot(torch.tensor(labels), classes).float()

    def asked(positions: Tensor) -> Denoiser:
        weights = torch.tensor(weights_at(positions.tolist(), len(labels), loop=loop))
        return network.conditioned(weights @ ends)

    return asked
