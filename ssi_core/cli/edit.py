"""`ssi edit`: the same picture as another class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from ..image import check_pixels, contact_sheet, load_image, save_image, sheet_size
from ..inversion import reconstruct
from .options import ClassesOptions, InversionOptions, Out, grouped
from .pictures import inverted, judged
from .terminal import evaluations, made, progress_bar, result_names, spent, warn_of_noises


@grouped
def edit_command(
    images: Annotated[list[Path], typer.Argument(help="Pictures of any kind and size, all of one class.")],
    known: Annotated[str, typer.Option("--from", help="The class that they show: its number or name.")],
    wanted: Annotated[list[str], typer.Option("--to", help="The class they shall show; again for a further one.")],
    guidance: Annotated[
        float, typer.Option(min=0, max=1000, help="Classifier-free guidance towards that class; 1 is none.")
    ] = 1.0,
    scale: Annotated[int, typer.Option(min=1, help="Whole-number magnification of the sheet.")] = 4,
    out: Out = Path("out"),
    classes: ClassesOptions = ClassesOptions(),  # noqa: B008  # frozen
    how: InversionOptions = InversionOptions(),  # noqa: B008
    batch: Annotated[int, typer.Option(min=1, help="Pictures edited together.")] = 16,
) -> None:
    """Edit the class of pictures: invert them as what they are, sample the noise as something else.

    For each picture writes NAME.CLASS.png for every class asked for, by its name where it has one, and NAME.edits.png,
    which shows all beside it; where the skip is chosen (`--skip auto`) also NAME.skip.png, as `ssi invert` does.
    """
    how.check()
    chosen = classes.of_class(known)
    labels = list(dict.fromkeys(chosen.number(label) for label in wanted))
    shown = [chosen.classes[label] for label in [chosen.number(known), *labels]]
    size = sheet_size([(len(shown), chosen.image_size, chosen.image_size)], scale=scale, captions=shown)
    check_pixels("sheet of edits", *size)
    pictures, names = [load_image(path, chosen.image_size) for path in images], result_names(images)
    network = chosen.read()
    own, others = network.conditioned(chosen.label), [network.conditioned(label, guidance) for label in labels]
    out, sigmas = made(out), how.sigmas(own)
    verdicts: list[bool] = []
    batches: list[tuple[int, int]] = []
    for start, x0, found in inverted(own, pictures, sigmas, how.begin, how.solver, how, batch):
        nfe, edits = found.nfe, []
        for label, denoise in zip(shown[1:], others, strict=True):
            with progress_bar(f"sampling as {label}") as watch:
                edits.append(reconstruct(denoise, found.noise, found.sigmas, solver=how.solver, progress=watch).cpu())
            nfe += watch.nfe
        batches.append((len(x0), nfe))
        for i, name in enumerate(names[start : start + len(x0)]):
            verdicts.append(judged(found, x0, i, out, name)[1].verdict)
            for label, edited in zip(shown[1:], edits, strict=True):
                save_image(edited[i], out / f"{name}.{label}.png")
            row = torch.stack([x0[i].cpu(), *(edited[i] for edited in edits)])
            save_image(contact_sheet([row], scale=scale, captions=shown), out / f"{name}.edits.png")
    warn_of_noises(verdicts, "their edits")
    twice = f", {len(labels)} of the samplings asking the network twice" if guidance != 1 else ""
    spent(f"{evaluations(batches)}{twice}, {len(names)} picture(s); written to {out}/")
