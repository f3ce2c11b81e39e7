"""One picture of how a skip was chosen: what every skip would cost and give, and where the choice lies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from PIL import Image

from .canvas import BAD, FAINT, GOOD, INK, NEUTRAL, PAPER, Canvas, Plot, decades, headed, text_width
from .errors import InputError
from .skip import Choice, Trial

WIDTH, MARGIN = 760, 24
_AXIS, _PLOT, _CAPTION, _GAP = 44, 130, 44, 14
_EACH = _CAPTION + _PLOT + _AXIS + _GAP
_LINE, _USED, _LEFT, _FAILS = "#2166ac", "#6d28d9", "#b45309", "#fde8e8"
_REACH = 3.0
"""Factor beyond the outermost trials that is shown; further the power laws are guesses."""
_POINTS = 60


def skip_panel(choice: Choice, image: int = 0, title: str = "", happened: Trial | None = None) -> Image.Image:
    """One image's foretold trade-off over sigma_skip, with the trials it rests on and the chosen skip.

    Args:
        choice: of `choose_skip`.
        image: which of its batch.
        title: put above, broken into at most two lines.
        happened: what an inversion from the chosen skip gave, if it is known; drawn as a ring.

    Returns:
        An RGB picture, `WIDTH` wide.

    Raises:
        InputError: no such image.
    """
    if not 0 <= image < len(choice.foretold.psnr):
        raise InputError(f"image {image}: not one of the {len(choice.foretold.psnr)} images")
    short = {} if happened is None else choice.shortfalls(happened, image)
    mark = ", and does not reach the goal" if not choice.met else ", and less came of it" if short else ""
    heading, reason = f"Skip {choice.skip:.3g}{mark}", "; ".join([choice.reason, *short.values()])
    height = len(_PARTS) * _EACH - _GAP + 8
    canvas, top = headed(WIDTH, MARGIN, title, heading, reason, height, BAD if mark else INK)

    sigmas = _span(choice)
    told = [choice.at(sigma) for sigma in sigmas]
    for part in _PARTS:
        _draw(canvas, top, part, choice, image, sigmas, told, happened)
        top += _EACH
    return canvas.finished()


@dataclass(frozen=True)
class _Part:
    """One plot over sigma_skip."""

    figure: str
    """Of `Trial`."""
    about: str
    colour: str
    logarithmic: bool = True
    fails: float = math.inf
    """The level above which an inversion fails."""


_PARTS = (
    _Part("psnr", "what comes back of the picture, dB (more is better)", _LINE, logarithmic=False),
    _Part("margin", "how far from Gaussian, as a share of what passes", _USED, fails=1.0),
    _Part("leftover", "leftover: share of the noise that is not the noise put in (some must be)", _LEFT),
)


def _draw(
    canvas: Canvas,
    top: int,
    part: _Part,
    choice: Choice,
    image: int,
    sigmas: list[float],
    told: list[Trial],
    happened: Trial | None,
) -> None:
    def of(trial: Trial) -> float:
        return float(getattr(trial, part.figure)[image])

    canvas.legend(MARGIN, top + 34, [(part.about, part.colour)])
    aim = choice.goal.level if choice.goal.kind.figure == part.figure else None
    seen = [v for t in [*told, *choice.trials, *([happened] if happened else [])] if not math.isnan(v := of(t))]
    seen += [v for v in (aim, part.fails) if v is not None and math.isfinite(v)]
    if part.logarithmic:
        up = (max(min(seen) / 1.3, 1e-3), max(seen) * 1.3)
        ticks = decades(*up)
    else:
        up = (5 * math.floor(min(seen) / 5), 5 * math.ceil(max(seen) / 5 + 1e-9))
        ticks = [float(t) for t in range(int(up[0]), int(up[1]) + 1, 5 if up[1] - up[0] <= 40 else 10)]
    across = (sigmas[0], sigmas[-1])
    plot = Plot(canvas, MARGIN + 46, top + _CAPTION, WIDTH - 2 * MARGIN - 46, _PLOT, across, up, part.logarithmic, True)
    if part.fails < up[1]:
        left, line = plot.at(across[0], part.fails)
        canvas.box(left, plot.top, plot.at(across[1], part.fails)[0], line, _FAILS)
        canvas.text(left + 6, line - 5, "not Gaussian", 11, NEUTRAL, "ls")
    for tick in ticks:
        canvas.line([plot.at(across[0], tick), plot.at(across[1], tick)], FAINT)
    if aim is not None:
        canvas.dashes(plot.at(across[0], aim), plot.at(across[1], aim), NEUTRAL)
    at, _ = plot.at(choice.skip, up[0])
    colour = GOOD if choice.met else BAD
    canvas.line([(at, plot.top), (at, plot.top + _PLOT)], colour, 2)
    side = "ls" if at < plot.left + 0.75 * plot.width else "rs"
    words, near = f"skip {choice.skip:.3g}", at + (6 if side == "ls" else -6)
    reach = text_width(words, 12) * (1 if side == "ls" else -1)
    canvas.box(min(near, near + reach), plot.top + 3, max(near, near + reach), plot.top + 17, PAPER)
    canvas.text(near, plot.top + 14, words, 12, colour, side)
    plot.curve([(sigma, of(trial)) for sigma, trial in zip(sigmas, told, strict=True)], part.colour, 2)
    for trial in choice.trials:
        if not math.isnan(of(trial)):
            canvas.dot(plot.at(trial.sigma, of(trial)), 4, part.colour)
    ring = ""
    if happened is not None and not math.isnan(of(happened)):
        ring = "; ring: what came of it"
        spot = plot.at(happened.sigma, of(happened))
        canvas.dot(spot, 6, part.colour)
        canvas.dot(spot, 3.5, "#ffffff")
    plot.axes(decades(*across), ticks, f"sigma_skip; dots: looked at{ring}")


def _span(choice: Choice) -> list[float]:
    """Levels from below the first trial to above the last, evenly in the logarithm of signal to noise."""
    known = sorted([t.sigma for t in choice.trials] + [choice.skip])
    low, high = (float(choice.process.ratio(sigma)) for sigma in (known[0], known[-1]))
    ratios = torch.logspace(math.log10(low / _REACH), math.log10(high * _REACH), _POINTS, dtype=torch.float64)
    return [float(choice.process.sigma_of_ratio(ratio)) for ratio in ratios]
