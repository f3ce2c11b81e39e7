"""The picture of a singularity curve: what is not followed is shaded, curves lie where their figures are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import ImageColor
from test_singularity import SIGMAS, half_flat, network, sample

from ssi_core import InputError, singularity_curve
from ssi_core.canvas import PAPER
from ssi_core.singularity_panel import _LOST, _NOISED, MARGIN, WIDTH, singularity_panel


def has(picture, colour):
    return (np.asarray(picture).astype(int) == np.array(ImageColor.getrgb(colour))).all(-1)


@pytest.fixture(scope="module")
def bounded():
    return singularity_curve(network(0.05), torch.zeros(2, 1, 16, 16, dtype=torch.float64), SIGMAS)


def test_what_is_not_followed_is_shaded(bounded):
    picture = singularity_panel(bounded, 1, "a title")
    shaded = has(picture, _LOST)
    columns = np.flatnonzero(shaded.any(0))
    left, right = MARGIN + 46, WIDTH - MARGIN
    edge = left + (right - left) * np.log(float(bounded.stops[1]) / 1e-3) / np.log(20 / 1e-3)
    assert columns.min() <= left + 2 and abs(columns.max() - edge) <= 2
    rows = np.flatnonzero(shaded.any(1))
    assert np.diff(rows).max() > 40  # two plots, with space between them


def test_nothing_is_shaded_where_it_follows():
    flat = singularity_curve(lambda x, s: x * 0, torch.zeros(1, 1, 16, 16), SIGMAS)
    assert float(flat.stops) == 0
    assert not has(singularity_panel(flat), _LOST).any()


def test_curves_lie_where_their_figures_are(bounded):
    """Rows fall in proportion to log(value), columns rise with log(sigma)."""
    drawn = has(singularity_panel(bounded), _NOISED)
    gap = np.flatnonzero(has(singularity_panel(bounded), _LOST).any(1))
    drawn[: gap[0]] = drawn[gap[np.diff(gap).argmax()] + 1 :] = False  # the upper plot
    left, right = MARGIN + 46, WIDTH - MARGIN
    sigmas, values = bounded.sigmas.numpy(), bounded.noised[:, 0].numpy()
    at = left + (right - left) * np.log(sigmas / sigmas[-1]) / np.log(sigmas[0] / sigmas[-1])
    middle = slice(3, -3)
    rows = np.array([np.flatnonzero(drawn[:, round(x)]).mean() for x in at[middle]])
    slope, base = np.polyfit(np.log(values[middle]), rows, 1)
    assert slope < 0 and np.abs(rows - base - slope * np.log(values[middle])).max() < 2


def test_negative_cosines_lie_under_zero(bounded):
    """Slightly negative ones too: the points' rows must follow the cosine through 0."""
    cosine = torch.linspace(1.0, -0.04, len(bounded.sigmas), dtype=torch.float64)[:, None].expand(-1, 2).contiguous()
    found = replace(bounded, alignment=cosine, alignment_clean=cosine, knee=0 * bounded.knee)
    drawn = has(singularity_panel(found), _NOISED)
    lower = np.flatnonzero(drawn.any(1))
    drawn[: lower[np.diff(lower).argmax()] + 1] = False  # the lower plot, and its legend
    drawn[: np.flatnonzero(drawn.any(1))[0] + 8] = False
    left, right = MARGIN + 46, WIDTH - MARGIN
    sigmas = bounded.sigmas.numpy()
    at = left + (right - left) * np.log(sigmas / sigmas[-1]) / np.log(sigmas[0] / sigmas[-1])
    middle = slice(3, -1)
    rows = np.array([np.flatnonzero(drawn[:, round(x)]).mean() for x in at[middle]])
    slope, base = np.polyfit(cosine[middle, 0], rows, 1)
    assert slope < 0 and np.abs(rows - base - slope * cosine[middle, 0].numpy()).max() < 2


@pytest.mark.parametrize("title", ["", "W" * 3000, "a picture " * 60])
def test_it_stays_on_the_sheet(title):
    found = singularity_curve(half_flat(), sample() + 0.3, SIGMAS[-6:])
    picture = singularity_panel(found, 2, title)
    blank = has(picture, PAPER)
    assert (
        picture.width == WIDTH and blank[:, :8].all() and blank[:, -8:].all() and blank[:8].all() and blank[-2:].all()
    )


def test_two_levels_are_enough_and_one_is_not():
    found = singularity_curve(half_flat(), sample(), [1.0, 0.1])
    assert singularity_panel(found).width == WIDTH
    with pytest.raises(InputError, match="two or more"):
        singularity_panel(singularity_curve(half_flat(), sample(), [1.0]))
    with pytest.raises(InputError, match="image 3"):
        singularity_panel(found, 3)
