"""Weights as people write them, and paths of frames."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssi_core.frames import EASINGS, mix, parse_weights, path_weights, weights_at


@pytest.mark.parametrize(
    ("text", "count", "rows"),
    [
        ("0.5", 2, [[0.5, 0.5]]),
        ("0, 0.25, 1", 2, [[1, 0], [0.75, 0.25], [0, 1]]),
        ("0; 1", 2, [[1, 0], [0, 1]]),
        ("-0.5 1.5", 2, [[1.5, -0.5], [-0.5, 1.5]]),
        ("0.2, 0.3, 0.5", 3, [[0.2, 0.3, 0.5]]),
        ("1 0 0\n0 1 0;", 3, [[1, 0, 0], [0, 1, 0]]),
        ("0.3, 0.7; 0.5, 0.5", 2, [[0.3, 0.7], [0.5, 0.5]]),
    ],
)
def test_weights_as_written(text, count, rows):
    assert parse_weights(text, count) == [pytest.approx(row) for row in rows]


@pytest.mark.parametrize(
    ("text", "count", "words"),
    [
        ("half", 2, "no number"),
        ("", 2, "empty"),
        (" ; ", 3, "empty"),
        ("inf", 2, "finite"),
        ("0.5, 0.5", 3, "2 numbers in a frame for 3 inputs"),
        ("1,2; 1,2,3", 2, "3 numbers in a frame for 2"),
    ],
)
def test_wrong_weights(text, count, words):
    with pytest.raises(ValueError, match=words):
        parse_weights(text, count)


@given(st.integers(2, 6), st.integers(2, 40), st.sampled_from(sorted(EASINGS)), st.booleans())
def test_a_path_visits_all_in_order(count, frames, easing, loop):
    rows = torch.tensor(path_weights(count, frames, easing, loop))
    assert rows.shape == (frames, count)
    assert torch.allclose(rows.sum(1), torch.ones(frames)) and bool((rows >= 0).all())
    assert rows[0].tolist() == [1.0] + [0.0] * (count - 1)
    if not loop:
        assert rows[-1].tolist() == pytest.approx([0.0] * (count - 1) + [1.0])
    # Never more than two neighbours at once.
    assert bool(((rows > 1e-9).sum(1) <= 2).all())


def test_a_loop_does_not_double_its_first_frame():
    rows = path_weights(2, 4, loop=True)
    assert rows == [[1, 0], [0.5, 0.5], [0, 1], [0.5, 0.5]]


def test_weights_anywhere_on_a_path():
    assert weights_at([0, 0.25, 1, 1.5, 2], 3) == [[1, 0, 0], [0.75, 0.25, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]]
    assert weights_at([1.5, 2], 2, loop=True) == [[0.5, 0.5], [1, 0]], "it leads back to the first"
    assert weights_at([0.5], 2, EASINGS["ease-in"]) == [[0.75, 0.25]]
    assert weights_at([0, 0.7], 1, loop=True) == [[1], [1]]


@pytest.mark.parametrize("name", EASINGS)
def test_easings_keep_their_ends_and_rise(name):
    values = [EASINGS[name](t / 20) for t in range(21)]
    assert values[0] == pytest.approx(0) and values[-1] == pytest.approx(1)
    assert values == sorted(values)


def test_wrong_paths():
    for arguments in ((1, 5), (3, 1), (2, 5, "bounce")):
        with pytest.raises(ValueError, match=r"frames|easing"):
            path_weights(*arguments)


def test_mix_is_a_weighted_sum_a_frame():
    a, b = torch.ones(1, 2, 3), torch.full((1, 2, 3), 3.0)
    assert mix([a, b], [[1, 0], [0.5, 0.5]]).flatten(1).tolist() == [[1.0] * 6, [2.0] * 6]
