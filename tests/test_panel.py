"""The picture of a noise: it shows what is there, in words too, and no text leaves the sheet or meets another."""

import math
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor, ImageDraw

from ssi_core import InputError, gaussianity
from ssi_core.canvas import BAD, GOOD, Canvas, Plot, _font, decades, text_width, wrap
from ssi_core.gaussianity import FIGURES, neighbour_correlations
from ssi_core.panel import GAP, MARGIN, TILE, WIDTH, _number, histogram, noise_panel

SHAPES = [
    (1, 16), (64, 20), (64, 1024),
    (1, 4, 4), (1, 16, 1), (3, 2, 3), (3, 8, 8), (2, 7, 500), (2, 500, 7), (4, 64, 64), (16, 128, 128), (3, 512, 512),
    (16, 5, 30, 52), (2, 3, 4, 5, 6),
]  # fmt: skip
CRAZY = "W" * 3000 + " \n\t\0\udc80 éя中 " + "long words and short " * 200


def white(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blurred(*shape):
    z = white(*shape)
    return (z + z.roll(1, -1) + z.roll(1, -2) + z.roll((1, 1), (-1, -2))) / 2


def draw(z, **options):
    image = options.pop("image", None)
    return noise_panel(z, gaussianity(z, image), **options)


def has(picture, colour):
    """[H, W]: where a picture has exactly that colour."""
    return (np.asarray(picture) == np.array(ImageColor.getrgb(colour))).all(-1)


@pytest.fixture
def said(monkeypatch):
    """What is drawn: texts (words, colour, the box their letters fill), ticks and crosses, and where pictures lie."""
    record = SimpleNamespace(texts=[], marks=[], pictures=[])
    text, mark, picture = Canvas.text, Canvas.mark, Canvas.picture
    ruler = ImageDraw.Draw(Image.new("L", (1, 1)))

    def recording_text(canvas, x, y, words, size, colour="#1a202c", anchor="ls", bold=False):
        box = [v / 2 for v in ruler.textbbox((2 * x, 2 * y), words, _font(size), anchor)]
        record.texts.append((words, colour, box))
        text(canvas, x, y, words, size, colour, anchor, bold)

    def recording_mark(canvas, centre, radius, good, colour, width=2):
        record.marks.append(good)
        mark(canvas, centre, radius, good, colour, width)

    def recording_picture(canvas, shown, left, top, width, height):
        record.pictures.append((slice(top, top + height), slice(left, left + width)))
        picture(canvas, shown, left, top, width, height)

    monkeypatch.setattr(Canvas, "picture", recording_picture)
    monkeypatch.setattr(Canvas, "text", recording_text)
    monkeypatch.setattr(Canvas, "mark", recording_mark)
    return record


def place(said, words):
    """(left end, base line) of the one text of these words."""
    (box,) = [box for text, _, box in said.texts if text == words]
    return box[0], box[3]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["white", "crazy"])
def test_any_shape_with_every_text_on_the_sheet_and_none_on_another(said, shape, kind):
    z = white(1, *shape)
    if kind == "crazy":
        z = (1e7 * z).exp().clamp(max=1e9) + 1e5
    picture = draw(z, title=CRAZY if kind == "crazy" else "a title", source=z, image=z)
    assert (picture.mode, picture.width) == ("RGB", WIDTH)
    assert picture.height < 1500
    boxes = [box for words, _, box in said.texts if words]
    for left, top, right, bottom in boxes:
        assert left >= 8
        assert top >= 8
        assert right <= WIDTH - 8
        assert bottom <= picture.height - 8
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert apart, (said.texts[i], b)
    pixels = np.asarray(picture)
    for side in (pixels[:8], pixels[-8:], pixels[:, :8], pixels[:, -8:]):
        assert (side == 255).all()


def test_verdict_is_said_in_words_marks_and_colour(said):
    picture = draw(white(1, 4, 32, 32))
    assert "Gaussian" in [words for words, colour, _ in said.texts if colour == GOOD]
    assert all(said.marks)
    assert has(picture, GOOD).sum() > 500
    assert not has(picture, BAD).any()

    said.texts.clear()
    said.marks.clear()
    z = blurred(1, 4, 32, 32)
    report = gaussianity(z)
    picture = noise_panel(z, report)
    failures = report.failures[0]
    assert 2 <= len(failures) < 13
    red = [words for words, colour, _ in said.texts if colour == BAD]
    assert "not Gaussian" in red
    assert all(name in red and _number(getattr(report, name)[0]) in red for name in failures)
    assert said.marks.count(False) == 1 + 2 * len(failures)  # the verdict; reasons; rows of the table
    text = " ".join(words for words, *_ in said.texts)
    for reason in report.reasons[0]:
        assert reason.replace("+-", "\u00b1") in text
    assert has(picture, BAD).sum() > 500


def test_table_has_every_figure_that_exists_with_its_floor(said):
    z = white(1, 1, 32, 32)
    report = gaussianity(z)
    noise_panel(z, report)
    words = [text for text, *_ in said.texts]
    absent = {name for name in FIGURES if math.isnan(float(getattr(report, name)[0]))}
    assert absent == {"chan", "lag1_t", "edge"}
    for name in FIGURES:
        assert (name in words) == (name not in absent)
        if name not in absent:
            row = place(said, name)[1]
            beside = {t for t, _, box in said.texts if abs(box[3] - row) < 6}
            assert {_number(getattr(report, name)[0]), _number(getattr(report.floor, name))} <= beside
    assert not any("nan" in text for text in words)


def test_channels_are_their_values_enlarged(said):
    z = white(2, 5, 64, 64)
    picture = draw(z, sample=1)
    for i in range(4):
        assert place(said, f"channel {i} of 5")[0] == pytest.approx(said.pictures[i][1].start, abs=2)
        shown = np.asarray(picture)[said.pictures[i]]
        levels = ((z[1, i] + 3) / 6 * 255).clamp(0, 255).double().round().byte()
        expected = levels.repeat_interleave(4, 0).repeat_interleave(4, 1)[..., None].expand(-1, -1, 3)
        assert np.abs(shown.astype(int) - expected.numpy()).max() <= 1
    assert not any(words.startswith("channel 4") for words, *_ in said.texts)


def test_large_noise_keeps_its_contrast(said):
    shown = np.asarray(draw(white(1, 3, 512, 512)))[said.pictures[1]]
    assert shown.std() == pytest.approx(255 / 6, rel=0.05)  # averaged, it would be half of that


def test_of_video_the_middle_frame_is_shown(said):
    z = torch.zeros(1, 2, 5, 16, 16)
    z[:, :, 2] = 3
    z[:, :, 1] = -3
    picture = draw(z + 1e-3 * white(*z.shape))
    assert place(said, "channel 0, frame 2 of 5")
    assert np.asarray(picture)[said.pictures[0]].min() > 250


def test_source_is_shown_before_the_noise(said):
    z, source = white(1, 4, 16, 16), torch.full((1, 3, 32, 32), -1.0)
    source[:, 0] = 1
    picture = draw(z, source=source)
    assert (np.asarray(picture)[said.pictures[0]] == (255, 0, 0)).all()
    assert place(said, "source")[0] < place(said, "channel 0 of 4")[0] < place(said, "channel 2 of 4")[0]
    assert len(said.pictures) == 4


def test_histogram_counts():
    z = torch.cat([torch.full((30,), -2.0), torch.full((60,), 0.0), torch.full((10,), 40.0)])
    edges, density = histogram(z.reshape(1, 10, 10))
    counts = density * (edges[1] - edges[0]) * 100
    assert float(edges[-1]) == -float(edges[0]) == 20
    centres = (edges[1:] + edges[:-1]) / 2
    near = {float(centres[i]): round(float(counts[i])) for i in counts.nonzero().flatten()}
    assert list(near.values()) == [30, 60]
    assert list(near) == pytest.approx([-2, 0], abs=float(edges[1] - edges[0]) / 2)
    edges, density = histogram(white(4, 64, 64))
    assert float(edges[-1]) == 5
    normal = torch.exp(-(((edges[1:] + edges[:-1]) / 2) ** 2) / 2) / math.sqrt(2 * math.pi)
    assert (density - normal).abs().max() < 0.03


def test_bars_are_as_high_as_the_counts():
    z = torch.full((1, 1, 20, 20), 1.0)
    z[..., :2] = -2.0
    bars = has(draw(z), "#9fb8d0").copy()
    columns = bars.any(0).nonzero()[0]
    heights = {}
    for at in (columns[0] + 5, columns[-1] - 5):
        rows = bars[:, at].nonzero()[0]
        heights[at] = rows[-1] - rows[0] + 1
    low, high = heights.values()
    assert high / low == pytest.approx(9, rel=0.05)
    for at, value in ((columns[0], -2), (columns[-1], 1)):  # 800 pixels for -5..5; a bar is 0.4 wide
        assert (at - (MARGIN + TILE + GAP)) / 80 - 5 == pytest.approx(value, abs=0.5)


def test_spectrum_tells_structure_from_white_noise():
    slopes = {}
    for name, z, colour in (("white", white(1, 4, 64, 64), GOOD), ("blurred", blurred(1, 4, 64, 64), BAD)):
        lines = has(draw(z), colour)
        lines[: lines.shape[0] - 300] = False  # the heading
        lines[:, :340] = lines[:, 830:] = False  # the spectrum's columns
        ends = [lines[:, 345:400], lines[:, 740:815]]
        slopes[name] = np.subtract(*(end.nonzero()[0].mean() for end in reversed(ends)))
    assert abs(slopes["white"]) < 30
    assert slopes["blurred"] > 90  # falls: down the picture


def test_neighbour_correlations_are_those_of_shifted_copies():
    z = blurred(2, 3, 4, 11, 13).double()
    window = neighbour_correlations(z)
    assert window.shape == (2, 7, 7)
    assert window[:, 3, 3].isnan().all()
    centred = z - z.mean((-2, -1), keepdim=True)
    for dy, dx in ((0, 1), (1, 0), (-2, 3), (3, -1)):
        moved = centred.roll((dy, dx), (-2, -1))
        expected = (centred * moved).flatten(1).sum(1) / centred.square().flatten(1).sum(1)
        torch.testing.assert_close(window[:, 3 + dy, 3 + dx], expected)
    assert (window[:, 3, 4] > 0.4).all()
    assert neighbour_correlations(white(1, 4, 64, 64).double()).nan_to_num().abs().max() < 0.05


@pytest.mark.parametrize(
    ("shape", "expected"), [((2, 40), (1, 7)), ((2, 2, 3), (1, 3)), ((1, 1, 16), (1, 7)), ((1, 5, 40), (5, 7))]
)
def test_neighbour_correlations_of_small_noise(shape, expected):
    window = neighbour_correlations(white(1, *shape).double())[0]
    assert window.shape == expected
    assert window.isnan().nonzero().tolist() == [[expected[0] // 2, expected[1] // 2]]
    assert window.nan_to_num().max() < 0.99  # the middle is what was blanked, not another


@pytest.mark.parametrize("count", [2, 9])
def test_long_reasons_are_wrapped_and_whole(said, count):
    z = white(1, 3, 16, 16)
    why = " ".join(f"word{i}" for i in range(60))
    picture = noise_panel(z, replace(gaussianity(z), failures=(dict.fromkeys(list(FIGURES)[:count], why),)))
    assert all(box[2] <= WIDTH - 8 and box[3] <= picture.height - 8 for _, _, box in said.texts)
    assert " ".join(words for words, *_ in said.texts).count(why) == count


def test_colour_map_shows_structure_where_it_is(said):
    z = white(1, 4, 64, 64)
    blue = has(draw((z + z.roll(1, -1)) / math.sqrt(2)), "#2166ac")
    blue[:, 1040:] = False  # the scale
    rows, columns = (blue.any(axis).nonzero()[0] for axis in (1, 0))
    left = place(said, "correlation with neighbours")[0] + 20
    assert 24 <= rows[-1] - rows[0] <= 28
    assert 24 <= columns[-1] - columns[0] - 2 * 27 <= 28  # one cell each side of the middle, and that
    assert (columns[0] - left) / 27 == pytest.approx(2, abs=0.15)
    assert [words for words, *_ in said.texts].count(".50") == 2
    said.texts.clear()
    assert not has(draw(z), "#2166ac")[:, :1040].any()


def test_values_beyond_the_histogram_are_told(said):
    draw(1e6 * white(1, 3, 16, 16))
    assert place(said, "100% beyond")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200), st.integers(20, 300), st.integers(0, 4))
def test_wrapped_text_fits_and_is_whole(words, width, lines):
    broken = wrap(words, 14, width, lines)
    assert all(line and text_width(line, 14) <= width for line in broken)
    if lines:
        assert len(broken) <= lines
    else:
        whole = wrap(words, 14, 1e9)
        assert "".join(broken).replace(" ", "") == "".join(whole).replace(" ", "")


def test_wrapping_breaks_between_words_and_says_what_it_cut():
    width = text_width("one two", 14)
    assert wrap("one two  three\nfour", 14, width) == ["one two", "three", "four"]
    assert wrap("one two three four", 14, width, lines=2)[1].endswith("...")
    assert wrap("one two", 14, width, lines=1) == ["one two"]
    assert wrap("Caf\u00e9", 14, 100) == ["Cafe"]
    assert wrap(" \n", 14, width) == []
    began = time.monotonic()
    assert len(wrap("x" * 1_000_000, 14, 1400, lines=3)) == 3
    assert time.monotonic() - began < 1


def test_numbers_have_no_minus_zero_and_fit():
    assert [_number(v) for v in (-0.00001, -1.5, 12345.678, 0.0)] == ["0.0000", "-1.5000", "1.23e+04", "0.0000"]


@pytest.mark.parametrize(("low", "high"), [(0.3, 3), (0.001, 40), (1e-8, 3), (0.3, 1e14)])
def test_logarithmic_ticks_are_few_and_inside(low, high):
    ticks = decades(low, high)
    assert 1 in ticks
    assert 3 <= len(ticks) <= 9
    assert all(low <= tick <= high for tick in ticks)


def test_plot_places_points_and_keeps_them_inside():
    plot = Plot(Canvas(1, 1), 10, 20, 100, 50, (0, 2), (0.01, 100), logarithmic=True)
    assert plot.at(1, 1) == pytest.approx((60, 45))
    assert plot.at(9, 1e9) == (110, 20)
    assert plot.at(-9, 0) == (10, 70)


def test_what_cannot_be_drawn_is_told():
    z = white(2, 3, 16, 16)
    report = gaussianity(z)
    broken = z.clone()
    broken[0, 0, 0, 0] = math.nan
    for noise, options, words in (
        (broken, {}, "finite"), (z[:, 0, 0], {}, "rank 3"), (z[:1], {}, "of 2 noises, where 1"),
        (z, {"sample": 2}, "sample 2"), (z, {"sample": -1}, "sample -1"),
        (z, {"source": z[:1]}, "source"), (z, {"source": z[0]}, "source"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            noise_panel(noise, report, **options)


def test_quick():
    z = white(1, 4, 128, 128)
    report = gaussianity(z)
    spent = []
    for _ in range(3):
        began = time.perf_counter()
        noise_panel(z, report)
        spent.append(time.perf_counter() - began)
    assert min(spent) < 0.3


def test_any_dtype_and_the_same_picture_each_time():
    z = white(1, 3, 16, 16)
    report = gaussianity(z)
    assert noise_panel(z, report) == noise_panel(z.double(), report)
    assert draw(z.bfloat16().requires_grad_()).width == WIDTH


def test_matplotlib_is_not_needed():
    code = (
        "import sys; sys.modules['matplotlib'] = None; import torch, ssi_core.cli; from ssi_core import gaussianity\n"
        "from ssi_core.panel import noise_panel\n"
        "z = torch.randn(1, 3, 16, 16); print(noise_panel(z, gaussianity(z)).size)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert str(WIDTH) in done.stdout
