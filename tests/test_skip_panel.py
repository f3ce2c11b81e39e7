"""The picture of a chosen skip: its line and dots lie where the figures are."""

import numpy as np
import pytest
import torch
from PIL import ImageColor

from ssi_core import VE, Choice, Goal, InputError
from ssi_core.canvas import BAD, GOOD
from ssi_core.skip import Trial
from ssi_core.skip_panel import _LEFT, _LINE, MARGIN, WIDTH, skip_panel


def trial(sigma, *psnr):
    values = torch.tensor(psnr, dtype=torch.float64)
    return Trial(sigma, values, values / 400, 0.01 / sigma + 0 * values)


def choice(skip=0.03, met=True, goal=Goal()):  # noqa: B008
    return Choice(skip, goal, met, (trial(0.01, 50.0, 45.0), trial(0.09, 40.0, 35.0)), trial(skip, 45.0, 40.0), 8, VE())


def columns(picture, colour):
    return (np.asarray(picture).astype(int) == np.array(ImageColor.getrgb(colour))).all(-1)


def test_the_choice_lies_where_it_is():
    picture = skip_panel(choice(), 1, "a title")
    drawn = columns(picture, GOOD)
    full = np.flatnonzero(drawn.sum(0) > 200)  # the line through both plots
    left, right = MARGIN + 46, WIDTH - MARGIN
    share = np.log(0.03 / (0.01 / 3)) / np.log((0.09 * 3) / (0.01 / 3))
    assert abs(full.mean() - (left + (right - left) * share)) <= 1.5
    assert not columns(picture, BAD).any()


def test_a_goal_out_of_reach_is_not_green():
    picture = skip_panel(choice(met=False))
    assert columns(picture, BAD).any() and not columns(picture, GOOD).any()


def test_more_skip_costs_dB_and_leaves_less():
    picture = skip_panel(choice())
    middle = picture.height // 2 + 20
    for colour, part in ((_LINE, slice(100, middle)), (_LEFT, slice(middle, None))):
        rows = [np.flatnonzero(columns(picture, colour)[part, x]).mean() for x in (150, 300, 600)]
        assert rows == sorted(rows)


def test_what_came_of_it_is_a_ring():
    with_ring = skip_panel(choice(), happened=trial(0.03, 44.0, 39.0))
    assert columns(with_ring, _LINE).sum() > columns(skip_panel(choice()), _LINE).sum()
    unknown = Trial(0.03, torch.full((2,), torch.nan), torch.full((2,), torch.nan), torch.full((2,), torch.nan))
    assert columns(skip_panel(choice(), happened=unknown), _LEFT).sum() <= columns(with_ring, _LEFT).sum()


def test_there_is_no_third_image():
    with pytest.raises(InputError, match="image 2: not one of the 2 images"):
        skip_panel(choice(), 2)
