"""A sheet to draw plots on with Pillow alone, which every host has. Lengths are in pixels of the finished picture.

Everything is drawn at twice the size and averaged down at the end: Pillow smooths letters, but not lines.
"""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

GOOD, BAD, NEUTRAL = "#1a7f5a", "#c0392b", "#4a5568"
"""Passed, failed, and neither. Never the only sign of it: readers may not tell red from green."""
INK, FAINT, PAPER = "#1a202c", "#d9dee6", "#ffffff"

_FINE = 2
Point = tuple[float, float]


@lru_cache(maxsize=32)
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * _FINE)


def text_width(words: str, size: float) -> float:
    """How far a line of text reaches."""
    return _font(size).getlength(words) / _FINE


def wrap(words: str, size: float, width: float, lines: int = 0) -> list[str]:
    """Break text into lines no wider than `width`, between words, and within words that are too long by themselves.

    Args:
        words: any string; line breaks and unprintable characters count as spaces.
        size: of the letters.
        width: at least that of one letter.
        lines: at most so many, the last then ending in "..."; 0: as many as it takes.

    Returns:
        The lines; none for an empty text.
    """
    # The font knows plain letters only: better "Cafe" than a box in its place.
    plain = (c for c in unicodedata.normalize("NFKD", words) if not unicodedata.combining(c))
    clean = "".join(c if c.isprintable() else " " for c in plain)
    if lines:  # no letter is narrower than a pixel, so that what follows cannot be seen; measuring it takes time
        clean = clean[: int(width) * lines + 1]
    broken: list[str] = []
    line = ""
    for word in clean.split():
        if text_width(f"{line} {word}".strip(), size) <= width:
            line = f"{line} {word}".strip()
            continue
        if line:
            broken.append(line)
        while text_width(word, size) > width:
            head = max(1, _fitting(word, size, width))
            broken.append(word[:head])
            word = word[head:]
        line = word
    broken += [line] if line else []
    if lines and len(broken) > lines:
        last = broken[lines - 1]
        broken = [*broken[: lines - 1], last[: _fitting(last, size, width - text_width("...", size))] + "..."]
    return broken


def _fitting(word: str, size: float, width: float) -> int:
    """How many of a word's first letters are no wider than `width`."""
    return bisect_right(range(1, len(word) + 1), width, key=lambda n: text_width(word[:n], size))


class Canvas:
    """A white sheet of `width` x `height`."""

    def __init__(self, width: int, height: int) -> None:
        self._picture = Image.new("RGB", (width * _FINE, height * _FINE), PAPER)
        self._draw = ImageDraw.Draw(self._picture)

    def finished(self) -> Image.Image:
        """The sheet, RGB."""
        return self._picture.reduce(_FINE)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float,
        colour: str = INK,
        anchor: str = "ls",
        bold: bool = False,
    ) -> None:
        """One line of text; `anchor` is Pillow's, by default the left end of the base line."""
        self._draw.text(
            (x * _FINE, y * _FINE), words, colour, _font(size), anchor=anchor, stroke_width=0.4 * _FINE if bold else 0
        )

    def line(self, points: Iterable[Point], colour: str = NEUTRAL, width: float = 1) -> None:
        """Straight from point to point."""
        fine = [(x * _FINE, y * _FINE) for x, y in points]
        self._draw.line(fine, colour, max(1, round(width * _FINE)), joint="curve")

    def dashes(self, start: Point, end: Point, colour: str = NEUTRAL, width: float = 1, dash: float = 6) -> None:
        """A dashed line."""
        (x0, y0), (x1, y1) = start, end
        count = max(1, round(math.dist(start, end) / (2 * dash)))
        for i in range(count):
            self.line([(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t) for t in (i / count, (i + 0.5) / count)], colour, width)

    def box(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        """A filled rectangle, at least half a pixel wide and high."""
        x0, y0, x1, y1 = (round(v * _FINE) for v in (left, top, right, bottom))
        self._draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), colour)

    def frame(self, left: float, top: float, right: float, bottom: float, colour: str = FAINT) -> None:
        """A rectangle's outline, just outside it."""
        x0, y0, x1, y1 = (round(v * _FINE) for v in (left, top, right, bottom))
        self._draw.rectangle((x0 - _FINE, y0 - _FINE, x1 + _FINE - 1, y1 + _FINE - 1), None, colour, _FINE)

    def dot(self, centre: Point, radius: float, colour: str) -> None:
        """A filled circle."""
        self._draw.circle((centre[0] * _FINE, centre[1] * _FINE), radius * _FINE, colour)

    def legend(self, left: float, base: float, curves: Iterable[tuple[str, str]]) -> None:
        """A piece of each curve (name, colour) with its name, side by side; `base` is the base line of the names."""
        x = left
        for words, colour in curves:
            self.line([(x, base - 4), (x + 22, base - 4)], colour, 2)
            self.text(x + 28, base, words, 12, NEUTRAL)
            x += round(28 + text_width(words, 12) + 24)

    def mark(self, centre: Point, radius: float, good: bool, colour: str, width: float = 2) -> None:
        """A tick or a cross. Drawn, because the font has neither."""
        (x, y), r = centre, radius
        if good:
            self.line([(x - r, y), (x - 0.25 * r, y + 0.75 * r), (x + r, y - 0.8 * r)], colour, width)
        else:
            self.line([(x - 0.8 * r, y - 0.8 * r), (x + 0.8 * r, y + 0.8 * r)], colour, width)
            self.line([(x - 0.8 * r, y + 0.8 * r), (x + 0.8 * r, y - 0.8 * r)], colour, width)

    def picture(self, picture: Image.Image, left: int, top: int, width: int, height: int) -> None:
        """A picture, stretched over a rectangle; every one of its pixels keeps its own value (nearest neighbour).

        Larger pictures lose pixels. Averaging would keep them, but averaged noise is grey.
        """
        smaller = (min(width, picture.width), min(height, picture.height))
        shown = picture.resize(smaller, Image.Resampling.NEAREST) if smaller != picture.size else picture
        shown = shown.resize((width * _FINE, height * _FINE), Image.Resampling.NEAREST)
        self._picture.paste(shown.convert("RGB"), (left * _FINE, top * _FINE))


def headed(
    width: int, margin: int, title: str, finding: str, reason: str, below: int, colour: str = INK
) -> tuple[Canvas, int]:
    """A sheet that begins with a title of two lines at most, a finding in large letters, and why.

    Args:
        below: height of what comes under that.
        colour: of the finding.

    Returns:
        The sheet, and where what comes under that begins.
    """
    titles, reasons = wrap(title, 17, width - 2 * margin, lines=2), wrap(reason, 13, width - 2 * margin)
    top = 14 + 24 * len(titles)
    end = top + 64 + 19 * len(reasons)
    canvas = Canvas(width, end + below)
    for i, line in enumerate(titles, start=1):
        canvas.text(margin, 14 + 24 * i, line, 17)
    canvas.text(margin, top + 34, finding, 22, colour, bold=True)
    for i, line in enumerate(reasons):
        canvas.text(margin, top + 60 + 19 * i, line, 13)
    return canvas, end


@dataclass(frozen=True)
class Plot:
    """A rectangle on a canvas with numbers along its sides: x over `across`, y over `up`, both (lowest, highest)."""

    canvas: Canvas
    left: float
    top: float
    width: float
    height: float
    across: tuple[float, float]
    up: tuple[float, float]
    logarithmic: bool = False
    """Is y? It is then shown no lower than `up[0]`, which is positive."""
    logarithmic_across: bool = False
    """Is x?"""

    def at(self, x: float, y: float) -> Point:
        """Where (x, y) lies on the canvas. What lies beyond the rectangle goes to its side."""
        right = _share(x, self.across, self.logarithmic_across)
        below = 1 - _share(y, self.up, self.logarithmic)
        return self.left + right * self.width, self.top + below * self.height

    def curve(self, points: Sequence[Point], colour: str, width: float = 1.5) -> None:
        """Straight lines between points (x, y)."""
        self.canvas.line([self.at(x, y) for x, y in points], colour, width)

    def axes(self, ticks_across: Iterable[float], ticks_up: Iterable[float], name: str = "") -> None:
        """The left and lower side with their numbers; `name`, of x, below."""
        base = self.top + self.height
        for x in ticks_across:
            at = self.at(x, self.up[0])[0]
            self.canvas.line([(at, base), (at, base + 4)], NEUTRAL)
            self.canvas.text(at, base + 16, f"{x:g}", 11, NEUTRAL, "ms")
        for y in ticks_up:
            at = self.at(self.across[0], y)[1]
            self.canvas.line([(self.left - 4, at), (self.left, at)], NEUTRAL)
            self.canvas.text(self.left - 7, at, f"{y:g}", 11, NEUTRAL, "rm")
        sides = [(self.left, self.top), (self.left, base), (self.left + self.width, base)]
        self.canvas.line(sides if ticks_up else sides[1:], NEUTRAL)
        self.canvas.text(self.left + self.width / 2, base + 32, name, 11, NEUTRAL, "ms")


def decades(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis: powers of ten, at most six, and 2 and 5 times them where there are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    stride = math.ceil(len(exponents) / 7)
    factors = (1, 2, 5) if high / low < 200 else (1,)
    return [t for e in exponents if e % stride == 0 for f in factors if low <= (t := f * 10.0**e) <= high]


def _share(value: float, ends: tuple[float, float], logarithmic: bool) -> float:
    """How far along an axis a value lies, 0 to 1."""
    low, high = ends
    if logarithmic:
        value, low, high = math.log(max(value, low)), math.log(low), math.log(high)
    return min(1.0, max(0.0, (value - low) / (high - low)))
