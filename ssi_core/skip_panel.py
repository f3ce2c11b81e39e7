"""One picture of how a skip was chosen: what every skip would cost and give, and where the choice lies."""

from __future__ import annotations

import math

import torch
from PIL import Image

from .canvas import BAD, FAINT, GOOD, INK, NEUTRAL, PAPER, Canvas, Plot, decades, headed, text_width
from .errors import InputError
from .skip import Auto, Choice, Trial

WIDTH, MARGIN = 760, 24
_AXIS, _PLOT, _CAPTION, _GAP = 44, 170, 44, 18
_LINE, _LEFT = "#2166ac", "#b45309"
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
    failed = happened is not None and choice.goal == Auto() and float(happened.margin[image]) > 1
    mark = ", and does not reach the goal" if not choice.met else ", and the noise did not pass" if failed else ""
    canvas, top = headed(
        WIDTH, MARGIN, title, f"Skip {choice.skip:.3g}{mark}", choice.reason, 2 * (_CAPTION + _PLOT + _AXIS) + _GAP + 8,
        BAD if mark else INK,
    )  # fmt: skip

    sigmas = _span(choice)
    told = [choice.at(s) for s in sigmas]
    _Part(choice, image, sigmas, happened).draw(
        canvas, top, told, {"psnr": ("reconstruction, dB", _LINE)}, choice.goal.psnr, logarithmic=False
    )
    both = {"margin": ("share of what the verdict allows (1: it fails)", _LINE), "leftover": ("leftover", _LEFT)}
    _Part(choice, image, sigmas, happened).draw(
        canvas, top + _CAPTION + _PLOT + _AXIS + _GAP, told, both, choice.goal.leftover or 1.0, logarithmic=True
    )
    return canvas.finished()


class _Part:
    """One plot over sigma_skip."""

    def __init__(self, choice: Choice, image: int, sigmas: list[float], happened: Trial | None) -> None:
        self.choice, self.image, self.sigmas, self.happened = choice, image, sigmas, happened

    def draw(
        self,
        canvas: Canvas,
        top: int,
        told: list[Trial],
        shown: dict[str, tuple[str, str]],
        level: float | None,
        *,
        logarithmic: bool,
    ) -> None:
        canvas.legend(MARGIN, top + 34, shown.values())
        seen = [v for name in shown for t in [*told, *self.choice.trials] if not math.isnan(v := self._of(t, name))]
        seen += [] if level is None else [level]
        if logarithmic:
            up = (max(min(seen) / 1.3, 1e-3), max(seen) * 1.3)
            ticks = decades(*up)
        else:
            up = (5 * math.floor(min(seen) / 5), 5 * math.ceil(max(seen) / 5 + 1e-9))
            ticks = [float(t) for t in range(int(up[0]), int(up[1]) + 1, 5 if up[1] - up[0] <= 40 else 10)]
        across = (self.sigmas[0], self.sigmas[-1])
        plot = Plot(canvas, MARGIN + 46, top + _CAPTION, WIDTH - 2 * MARGIN - 46, _PLOT, across, up, logarithmic, True)
        for tick in ticks:
            canvas.line([plot.at(across[0], tick), plot.at(across[1], tick)], FAINT)
        if level is not None:
            canvas.dashes(plot.at(across[0], level), plot.at(across[1], level), NEUTRAL)
        at, _ = plot.at(self.choice.skip, up[0])
        colour = GOOD if self.choice.met else BAD
        canvas.line([(at, plot.top), (at, plot.top + _PLOT)], colour, 2)
        side = "ls" if at < plot.left + 0.75 * plot.width else "rs"
        words, near = f"skip {self.choice.skip:.3g}", at + (6 if side == "ls" else -6)
        reach = text_width(words, 12) * (1 if side == "ls" else -1)
        canvas.box(min(near, near + reach), plot.top + 3, max(near, near + reach), plot.top + 17, PAPER)
        canvas.text(near, plot.top + 14, words, 12, colour, side)
        for name, (_, colour) in shown.items():
            looked_at = [t for t in self.choice.trials if not math.isnan(self._of(t, name))]
            if len(looked_at) > 1:  # one alone tells no line
                plot.curve([(s, self._of(t, name)) for s, t in zip(self.sigmas, told, strict=True)], colour, 2)
            for trial in looked_at:
                canvas.dot(plot.at(trial.sigma, self._of(trial, name)), 4, colour)
            if self.happened is not None and not math.isnan(self._of(self.happened, name)):
                spot = plot.at(self.happened.sigma, self._of(self.happened, name))
                canvas.dot(spot, 6, colour)
                canvas.dot(spot, 3.5, "#ffffff")
        ring = "; ring: what came of it" if self.happened else ""
        plot.axes(decades(*across), ticks, f"sigma_skip; dots: looked at{ring}")

    def _of(self, trial: Trial, name: str) -> float:
        return float(getattr(trial, name)[self.image])


def _span(choice: Choice) -> list[float]:
    """Levels from below the first trial to above the last, evenly in the logarithm of signal to noise."""
    known = sorted([t.sigma for t in choice.trials] + [choice.skip])
    low, high = (float(choice.process.ratio(sigma)) for sigma in (known[0], known[-1]))
    ratios = torch.logspace(math.log10(low / _REACH), math.log10(high * _REACH), _POINTS, dtype=torch.float64)
    return [float(choice.process.sigma_of_ratio(ratio)) for ratio in ratios]
