"""One picture of a noise: is it Gaussian, why not, and what it looks like."""

from __future__ import annotations

import math

import torch
from PIL import Image
from torch import Tensor

from .canvas import BAD, FAINT, GOOD, INK, NEUTRAL, PAPER, Canvas, Plot, decades, text_width, wrap
from .errors import InputError
from .gaussianity import FIGURES, Gaussianity, neighbour_correlations, radial_power

TILE, GAP, MARGIN, TABLE = 256, 16, 24, 356
"""Four tiles and the gaps between them stand left of the table."""
_LEFT = 4 * TILE + 3 * GAP
WIDTH = MARGIN + _LEFT + 28 + TABLE + MARGIN
_CAPTION, _PLOT, _AXIS, _ROW = 24, 206, 36, 36
_BAR, _NEGATIVE, _POSITIVE = "#9fb8d0", "#b2182b", "#2166ac"
STRONG = 0.2
"""The neighbour correlation that is drawn in full colour. The same in every picture, so that two can be compared."""


def noise_panel(
    noise: Tensor, report: Gaussianity, sample: int = 0, title: str = "", source: Tensor | None = None
) -> Image.Image:
    """One sample's noise at a glance: verdict, channels, histogram, spectrum, neighbours, figures with floors.

    Args:
        noise: [B, C, ...] of rank >= 3, any size and device; of video the middle frame's picture is shown.
        report: `gaussianity(noise)`.
        sample: which of the batch.
        title: put above the verdict, broken into at most three lines.
        source: what was inverted, [B, C', ...] of the noise's rank, shown before it: one or three channels as a picture
            in [-1, 1], else its first channel (of audio all), from the least to the greatest value.

    Returns:
        An RGB picture, `WIDTH` wide; as high as its text makes it.

    Raises:
        InputError: noise of rank under 3, with NaN or Inf, a report of another batch, a source of another rank or
            batch, or no such sample.
    """
    if noise.ndim < 3 or noise.numel() == 0 or not bool(noise.isfinite().all()):
        raise InputError("noise: a finite, non-empty tensor [batch, channels, ...] of rank 3 or more is wanted")
    if len(report.verdicts) != len(noise):
        raise InputError(f"report: of {len(report.verdicts)} noises, where {len(noise)} are given")
    if not 0 <= sample < len(noise):
        raise InputError(f"sample {sample}: not one of the {len(noise)} noises")
    if source is not None and (source.ndim != noise.ndim or len(source) != len(noise)):
        raise InputError(f"source: shape {tuple(source.shape)} is of another rank or batch than {tuple(noise.shape)}")
    z = noise[sample].detach().cpu().double()
    tiles = _tiles(z, report, sample, None if source is None else source[sample].detach().cpu().double())
    heading = _Heading(title, z, report, sample)
    rows = [name for name in FIGURES if not math.isnan(float(getattr(report, name)[sample]))]
    wide = tiles[-1][1].width > 3 * tiles[-1][1].height  # one below the other then, else side by side
    sizes = [(_LEFT, _strip_height(picture, len(tiles))) if wide else _fitted(picture) for _, picture, _ in tiles]
    free = 0 if wide else 4 - len(tiles)  # columns left of their row for the histogram
    high = max(_PLOT if free else 0, *(height for _, height in sizes))
    top = heading.height + 20
    left = sum(height + _CAPTION + GAP for _, height in sizes) if wide else high + _CAPTION + GAP
    body = max(left + _CAPTION + _PLOT + _AXIS, 26 + _ROW * len(rows))
    plot = min(2 * _PLOT, body - left - _CAPTION - _AXIS)  # higher where the table leaves room
    canvas = Canvas(WIDTH, top + body + MARGIN)
    heading.draw(canvas)

    x, y = MARGIN, top
    for (name, picture, note), (width, height) in zip(tiles, sizes, strict=True):
        _caption(canvas, x, y, name, note, width)
        canvas.picture(picture, x, y + _CAPTION, width, height)
        canvas.frame(x, y + _CAPTION, x + width, y + _CAPTION + height)
        x, y = (x, y + _CAPTION + height + GAP) if wide else (x + TILE + GAP, y)
    y = top + left
    passed = report.verdicts[sample]
    if free:
        _histogram(canvas, *_columns(4 - free, free), top, high - _AXIS + 10, z)
        _spectrum(canvas, *_columns(0, 3), y, plot, z, passed)
    else:
        _histogram(canvas, *_columns(0, 1), y, plot, z)
        _spectrum(canvas, *_columns(1, 2), y, plot, z, passed)
    _neighbours(canvas, _columns(3, 1)[0], y, z)
    _table(canvas, MARGIN + _LEFT + 28, top, rows, report, sample)
    return canvas.finished()


def histogram(z: Tensor) -> tuple[Tensor, Tensor]:
    """Density of the values of one noise.

    Args:
        z: any shape, finite.

    Returns:
        (edges [K + 1] from -reach to reach, density [K]). The density is of all values, so that it falls short of an
        area of 1 by the share of values beyond the edges. The reach is 5, or more (up to 20) where the noise is strong.
    """
    z = z.detach().cpu().double().flatten()
    reach = min(20.0, max(5.0, 4 * float(z.square().mean().sqrt())))
    # Few values make few bars, or chance would be all that is seen. An odd number, so that one stands on 0.
    bars = 2 * min(40, max(8, round(1.6 * len(z) ** (1 / 3)))) + 1
    counts, edges = torch.histogram(z, torch.linspace(-reach, reach, bars + 1, dtype=torch.float64))
    return edges, counts / (len(z) * (2 * reach / bars))


def _columns(first: int, count: int) -> tuple[int, int]:
    """(left end, width) of some of the four columns."""
    return MARGIN + first * (TILE + GAP), count * TILE + (count - 1) * GAP


def _caption(canvas: Canvas, x: float, y: float, name: str, note: str = "", width: float = TILE) -> None:
    canvas.text(x, y + 15, name, 13, INK)
    if note and text_width(name, 13) + text_width(note, 11) + 8 <= width:
        canvas.text(x + width, y + 15, note, 11, NEUTRAL, "rs")


class _Heading:
    """Title, verdict and reasons, broken into lines before the sheet is cut to its height."""

    def __init__(self, title: str, z: Tensor, report: Gaussianity, sample: int) -> None:
        width = WIDTH - 2 * MARGIN
        self.passed = report.verdicts[sample]
        shape = " x ".join(str(n) for n in z.shape)
        self.about = f"{shape} values, mean {_number(z.mean(), 3)}, std {_number(z.std(), 3)}; greys run from -3 to 3"
        self.title = wrap(title, 17, width, lines=3)
        reasons = report.reasons[sample] or (
            "Every figure lies within its bounds around that of true Gaussian noise of this shape.",
        )
        # A failing noise often has ten reasons: two columns keep the picture from becoming a page of text.
        count = 2 if len(reasons) > 3 else 1
        self.column = (width - 30 * (count - 1)) / count
        wrapped = [wrap(reason.replace("+-", "\u00b1"), 13, self.column - 24) for reason in reasons]
        half = -(-len(wrapped) // count)
        self.columns = [wrapped[:half], wrapped[half:]]
        self.height = 14 + 24 * len(self.title) + 50 + max(sum(4 + 19 * len(w) for w in c) for c in self.columns)

    def draw(self, canvas: Canvas) -> None:
        y = 14
        for line in self.title:
            y += 24
            canvas.text(MARGIN, y, line, 17, INK)
        colour = GOOD if self.passed else BAD
        canvas.dot((MARGIN + 15, y + 27), 15, colour)
        canvas.mark((MARGIN + 15, y + 27), 8, self.passed, PAPER, 3)
        words = "Gaussian" if self.passed else "not Gaussian"
        canvas.text(MARGIN + 42, y + 37, words, 28, colour, bold=True)
        canvas.text(MARGIN + 42 + text_width(words, 28) + 20, y + 36, self.about, 14, NEUTRAL)
        for i, column in enumerate(self.columns):
            x, base = MARGIN + i * (self.column + 30), y + 67
            for lines in column:
                canvas.mark((x + 9, base - 5), 5, self.passed, colour, 1.75)
                for line in lines:
                    canvas.text(x + 24, base, line, 13, INK)
                    base += 19
                base += 4


def _tiles(z: Tensor, report: Gaussianity, sample: int, source: Tensor | None) -> list[tuple[str, Image.Image, str]]:
    """(name, picture, note) of the source and of the noise's first channels, four in all."""
    tiles = []
    if source is not None:
        tiles.append(("source", _source(source), ""))
    if z.ndim == 2:  # audio: one picture of channels over time says more than rows one pixel high
        name = f"{z.shape[0]} channels (down) over time (right)" if len(z) > 1 else "the channel over time"
        return [*tiles, (name, _grey(z), f"std {_number(z.std(), 2)}")]
    frames = _frames(z)
    frame = frames.shape[1] // 2
    shown = min(len(z), 4 - len(tiles))
    for i in range(shown):
        name = f"channel {i} of {len(z)}" if shown < len(z) else f"channel {i}"
        name += f", frame {frame} of {frames.shape[1]}" if frames.shape[1] > 1 else ""
        tiles.append((name, _grey(frames[i, frame]), f"std {_number(report.channels['std'][sample, i], 2)}"))
    return tiles


def _grey(plane: Tensor, low: float = -3, high: float = 3) -> Image.Image:
    levels = ((plane - low) / max(high - low, 1e-12) * 255).clamp(0, 255).round().byte()
    return Image.fromarray(levels.numpy())


def _frames(z: Tensor) -> Tensor:
    """[C, F, H, W]: whatever stands between channels and rows, or one."""
    return z.flatten(1, -3) if z.ndim > 3 else z[:, None]


def _source(x: Tensor) -> Image.Image:
    if x.ndim == 2:
        return _grey(x, float(x.min()), float(x.max()))
    x = _frames(x)
    x = x[:, x.shape[1] // 2]
    if len(x) == 3:
        return Image.merge("RGB", [_grey(channel, -1, 1) for channel in x])
    return _grey(x[0], -1, 1) if len(x) == 1 else _grey(x[0], float(x[0].min()), float(x[0].max()))


def _fitted(picture: Image.Image) -> tuple[int, int]:
    """Size within a tile: whole multiples where they nearly fill it, and never a sliver."""
    width, height = picture.size
    scale = TILE / max(width, height)
    if scale >= 1 and int(scale) / scale > 0.85:
        scale = int(scale)
    return max(round(width * scale), TILE // 4), max(round(height * scale), TILE // 4)


def _strip_height(picture: Image.Image, strips: int) -> int:
    """Of a picture that is drawn as wide as all four tiles: true to its shape where that is neither thin nor high."""
    return min(TILE // 2, max(TILE // 2 // strips, round(picture.height * _LEFT / picture.width)))


def _histogram(canvas: Canvas, x: int, width: int, y: int, height: int, z: Tensor) -> None:
    edges, density = histogram(z)
    reach = float(edges[-1])
    beyond = 1 - float(density.sum()) * float(edges[1] - edges[0])
    note = f"{100 * beyond:.3g}% beyond" if beyond > 5e-4 else ""
    _caption(canvas, x, y, "values, and the normal curve", note, width)
    high = 1.08 * max(0.4, float(density.max()))
    plot = Plot(canvas, x, y + _CAPTION, width, height, (-reach, reach), (0, high))
    for left, right, value in zip(edges[:-1].tolist(), edges[1:].tolist(), density.tolist(), strict=True):
        if value > 0:
            (x0, top), (x1, base) = plot.at(left, value), plot.at(right, 0)
            canvas.box(x0, top, x1, base, _BAR)
    steps = [reach * (i / width - 1) for i in range(2 * width + 1)]
    plot.curve([(v, math.exp(-v * v / 2) / math.sqrt(2 * math.pi)) for v in steps], NEUTRAL)
    step = 2 if reach < 8 else 5
    plot.axes([step * i for i in range(-int(reach / step), int(reach / step) + 1)], [])


def _spectrum(canvas: Canvas, x: int, width: int, y: int, height: int, z: Tensor, passed: bool) -> None:
    _caption(
        canvas, x, y, "power by spatial frequency" if z.ndim > 2 else "power by frequency", "white noise: 1", width
    )
    edges, power = radial_power(z[None], rings=24)
    # A ring is drawn at its middle. Some may be missing, so the thinnest one tells how wide they are.
    middles = edges - torch.diff(edges, prepend=edges.new_zeros(1)).min() / 2
    high = max(3.0, float(power.max()) * 1.25)
    low = max(min(0.3, float(power.min()) * 0.8), 1e-8)
    plot = Plot(canvas, x + 42, y + _CAPTION, width - 42, height, (0, float(edges[-1])), (low, high), logarithmic=True)
    for tick in (ticks := decades(low, high)):
        if tick != 1:
            canvas.line([plot.at(0, tick), plot.at(math.inf, tick)], FAINT)
    canvas.dashes(plot.at(0, 1), plot.at(float(edges[-1]), 1), NEUTRAL)
    points = list(zip(middles.tolist(), power[0].tolist(), strict=True))
    colour = GOOD if passed else BAD
    plot.curve(points, colour, 1.75)
    for point in points:
        canvas.dot(plot.at(*point), 3, colour)
    unit = "cycles per pixel" if z.ndim > 2 else "cycles per step"
    plot.axes([i / 10 for i in range(int(float(edges[-1]) * 10 + 1e-9) + 1)], ticks, unit)


def _neighbours(canvas: Canvas, x: int, y: int, z: Tensor) -> None:
    _caption(canvas, x, y, "correlation with neighbours")
    window = neighbour_correlations(z[None])[0]
    rows, columns = window.shape
    left, top, side = x + 20.0, float(y + _CAPTION), 189
    if window.numel() == 1:
        canvas.text(left, top + side / 2, "it has none", 13, NEUTRAL)
        return
    wide, high = side / columns, side / rows if rows > 1 else 63
    top += (side - rows * high) / 2
    for i in range(rows):
        for j in range(columns):
            value = float(window[i, j])
            at = (left + j * wide, top + i * high)
            canvas.box(*at, at[0] + wide, at[1] + high, FAINT if math.isnan(value) else _colour(value))
            if not math.isnan(value):
                words = _number(value, 2).replace("0.", ".")
                ink = PAPER if abs(value) > 0.6 * STRONG else INK
                canvas.text(at[0] + wide / 2, at[1] + high / 2, words, 10, ink, "mm")
    canvas.frame(left, top, left + side, top + rows * high)
    for j in range(columns):
        canvas.text(left + (j + 0.5) * wide, top + rows * high + 15, str(j - columns // 2), 11, NEUTRAL, "ms")
    for i in range(rows if rows > 1 else 0):
        canvas.text(left - 6, top + (i + 0.5) * high, str(i - rows // 2), 11, NEUTRAL, "rm")
    unit = "pixels away" if z.ndim > 2 else "steps away"
    canvas.text(left + side / 2, top + rows * high + 31, unit, 11, NEUTRAL, "ms")
    _scale(canvas, left + side + 8, y + _CAPTION, side)


def _scale(canvas: Canvas, x: float, y: float, height: int) -> None:
    """The colour bar of the neighbour correlations."""
    for i in range(2 * height):
        canvas.box(x, y + i / 2, x + 10, y + (i + 1) / 2, _colour(STRONG * (1 - i / height)))
    canvas.frame(x, y, x + 10, y + height)
    for value, at in ((STRONG, 4), (STRONG / 2, height / 4), (0, height / 2), (-STRONG / 2, height * 3 / 4),
                      (-STRONG, height - 4)):  # fmt: skip
        canvas.text(x + 14, y + at, f"{value:g}".replace("0.", "."), 10, NEUTRAL, "lm")


def _colour(correlation: float) -> str:
    end = _POSITIVE if correlation > 0 else _NEGATIVE
    share = min(1.0, abs(correlation) / STRONG)
    parts = (round(255 + share * (int(end[i : i + 2], 16) - 255)) for i in (1, 3, 5))
    return "#" + "".join(f"{part:02x}" for part in parts)


def _table(canvas: Canvas, x: int, y: int, rows: list[str], report: Gaussianity, sample: int) -> None:
    """Every figure with its floor and what it is, the failing ones crossed, the others ticked."""
    value_at, floor_at = x + TABLE - 86, x + TABLE
    canvas.text(x + 22, y + 15, "figure", 12, NEUTRAL)
    canvas.text(value_at, y + 15, "this noise", 12, NEUTRAL, "rs")
    canvas.text(floor_at, y + 15, "Gaussian", 12, NEUTRAL, "rs")
    for i, name in enumerate(rows):
        top, failed = y + 26 + i * _ROW, name in report.failures[sample]
        canvas.line([(x, top), (x + TABLE, top)], FAINT)
        if failed:
            canvas.mark((x + 8, top + 14), 6, False, BAD, 2.25)
        elif math.isfinite(FIGURES[name].tolerance):  # the others are told, and never judged
            canvas.mark((x + 8, top + 14), 6, True, GOOD, 1.5)
        canvas.text(x + 22, top + 17, name, 14, BAD if failed else INK, bold=failed)
        value, floor = _number(getattr(report, name)[sample]), _number(getattr(report.floor, name))
        canvas.text(value_at, top + 17, value, 14, BAD if failed else INK, "rs", failed)
        canvas.text(floor_at, top + 17, floor, 14, NEUTRAL, "rs")
        about = FIGURES[name].about
        if about != name:
            canvas.text(x + 22, top + 31, wrap(about, 11, TABLE - 22, lines=1)[0], 11, NEUTRAL)


def _number(value: Tensor | float, decimals: int = 4) -> str:
    """Fixed decimals, without the minus of a zero; powers of ten where a column would burst."""
    words = f"{float(value):.{decimals}f}" if abs(float(value)) < 1000 else f"{float(value):.3g}"
    return words.removeprefix("-") if float(words) == 0 else words
