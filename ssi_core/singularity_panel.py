"""One picture of where a model stops following the noise of an image."""

from __future__ import annotations

import math

from PIL import Image
from torch import Tensor

from .canvas import BAD, FAINT, NEUTRAL, Canvas, Plot, decades, headed, text_width
from .errors import InputError
from .singularity import ALIGNED, SingularityCurve

WIDTH, MARGIN = 760, 24
_AXIS, _PLOT, _CAPTION, _GAP = 44, 190, 44, 20
_NOISED, _CLEAN, _LOST = "#2166ac", "#b45309", "#fbe9e7"


def singularity_panel(found: SingularityCurve, image: int = 0, title: str = "") -> Image.Image:
    """One image's curves: the size of the noise predicted for it, and the direction, over sigma.

    Args:
        found: of `singularity_curve`.
        image: which of its batch.
        title: put above the finding, broken into at most two lines.

    Returns:
        An RGB picture, `WIDTH` wide; the levels at which the network no longer follows are shaded.

    Raises:
        InputError: no such image, or fewer than two levels.
    """
    if not 0 <= image < found.noised.shape[1]:
        raise InputError(f"image {image}: not one of the {found.noised.shape[1]} images")
    if len(found.sigmas) < 2:
        raise InputError(f"sigmas: {len(found.sigmas)} level(s); a curve needs two or more")
    stops, reason = float(found.stops[image]), found.reasons[image]
    words = f"The network stops following at sigma {stops:.3g}" if stops else "The network follows at every level"
    canvas, top = headed(WIDTH, MARGIN, title, words, reason, 2 * (_CAPTION + _PLOT + _AXIS) + _GAP + 8)

    sizes = (found.noised[:, image], found.clean[:, image])
    seen = [v for column in sizes for v in column.tolist() if v > 0]
    up = (max(min(0.5, *seen) / 1.2, 1e-8), max(2.0, *seen) * 1.2)
    _curves(canvas, top, "size of the predicted noise, |x - D| / (sigma sqrt(d)); unit noise has 1", found, sizes,
            stops, up, decades(*up), 1.0, logarithmic=True)  # fmt: skip
    cosines = (found.alignment[:, image], found.alignment_clean[:, image])
    low = min(0.0, *(float(c.min()) for c in cosines))
    floor = low - 0.02 if low < 0 else 0.0  # so that negative cosines lie where they are
    ticks = [t / 2 for t in range(math.ceil(2 * floor), 3)]
    _curves(canvas, top + _CAPTION + _PLOT + _AXIS + _GAP, "its direction: cosine with the noise that was injected",
            found, cosines, stops, (floor, 1.0), ticks, ALIGNED, logarithmic=False)  # fmt: skip
    return canvas.finished()


def _curves(
    canvas: Canvas,
    top: int,
    name: str,
    found: SingularityCurve,
    columns: tuple[Tensor, Tensor],
    stops: float,
    up: tuple[float, float],
    ticks: list[float],
    level: float,
    *,
    logarithmic: bool,
) -> None:
    """One plot over sigma: the noised image's curve and the clean one's, what is aimed at, and what is lost."""
    canvas.text(MARGIN, top + 15, name, 13)
    canvas.legend(MARGIN, top + 34, (("noised image", _NOISED), ("clean image", _CLEAN)))
    across = (float(found.sigmas[-1]), float(found.sigmas[0]))
    plot = Plot(canvas, MARGIN + 46, top + _CAPTION, WIDTH - 2 * MARGIN - 46, _PLOT, across, up, logarithmic, True)
    if stops > 0:
        edge = plot.at(stops, up[0])[0]
        canvas.box(plot.left, plot.top, edge, plot.top + _PLOT, _LOST)
        canvas.line([(edge, plot.top), (edge, plot.top + _PLOT)], BAD)
        words = "not followed"
        if text_width(words, 12) + 12 < edge - plot.left:
            canvas.text(edge - 6, plot.top + _PLOT - 8, words, 12, BAD, "rs")
    for tick in ticks:
        canvas.line([plot.at(across[0], tick), plot.at(across[1], tick)], FAINT)
    canvas.dashes(plot.at(across[0], level), plot.at(across[1], level), NEUTRAL)
    for column, colour in zip(reversed(columns), (_CLEAN, _NOISED), strict=True):
        points = list(zip(found.sigmas.tolist(), column.tolist(), strict=True))
        plot.curve(points, colour, 2)
        for point in points:
            canvas.dot(plot.at(*point), 2.5, colour)
    plot.axes(decades(*across), ticks, "sigma")
