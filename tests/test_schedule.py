"""Schedules: closed forms at their ends and in between, and what truncation keeps."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ssi_core import (
    DiscreteVP,
    InputError,
    ddim_sigmas,
    exponential_sigmas,
    flow_sigmas,
    given_sigmas,
    karras_sigmas,
    truncate,
)

schedules = st.one_of(
    st.builds(
        karras_sigmas,
        st.integers(1, 80),
        sigma_min=st.floats(1e-3, 0.1),
        sigma_max=st.floats(1, 200),
        rho=st.floats(1, 12),
    ),
    st.builds(exponential_sigmas, st.integers(1, 80), sigma_min=st.floats(1e-3, 0.1), sigma_max=st.floats(1, 200)),
    st.builds(flow_sigmas, st.integers(1, 80), shift=st.floats(0.5, 6)),
    st.lists(st.integers(0, 999), min_size=1, max_size=80, unique=True).map(ddim_sigmas),
)


def falls_to_zero(sigmas):
    return bool((sigmas.diff() < 0).all()) and sigmas[-1] == 0 and sigmas.dtype == torch.float64


@given(schedules)
def test_every_schedule_falls_to_zero(sigmas):
    assert falls_to_zero(sigmas)
    assert torch.equal(given_sigmas(sigmas), sigmas)


@given(schedules, st.floats(0.001, 0.99), st.sampled_from(["keep", "spread"]))
@example(karras_sigmas(1), 0.01, "keep")
@example(karras_sigmas(1), 0.01, "spread")
@example(karras_sigmas(2), 0.5, "spread")
def test_truncated_schedule_falls_from_sigma_max_to_skip_and_zero(sigmas, part, grid):
    skip = part * float(sigmas[0])
    cut = truncate(sigmas, skip, grid)
    assert falls_to_zero(cut)
    assert cut[-2] == skip
    assert cut[0] == sigmas[0]
    assert len(cut) >= 3


@given(schedules, st.floats(0.001, 0.99))
def test_keep_adds_no_level_but_skip(sigmas, part):
    skip = part * float(sigmas[0])
    cut = truncate(sigmas, skip, "keep")
    assert set(cut.tolist()) <= {*sigmas.tolist(), skip}
    above = int((sigmas > skip * (1 + 1e-9)).sum())
    assert above <= len(cut) - 1 <= above + 1  # one level may go as a sliver
    assert len(cut) <= len(sigmas) + 1


@given(st.integers(2, 80), st.floats(0.003, 40), st.floats(50, 100))
def test_spread_of_a_karras_schedule_is_the_karras_schedule_down_to_skip(steps, skip, sigma_max):
    cut = truncate(karras_sigmas(steps, sigma_max=sigma_max), skip, "spread")
    assert torch.allclose(cut, karras_sigmas(steps, sigma_min=skip, sigma_max=sigma_max), rtol=1e-9)


@given(schedules)
def test_skip_zero_changes_nothing(sigmas):
    assert torch.equal(truncate(sigmas, 0), sigmas)


def test_keep_drops_a_sliver_of_a_first_step():
    """[.., 0.1001] before a skip of 0.1 would be a step a thousandth of the next one."""
    assert truncate([10, 1, 0.1001, 0.01], 0.1).tolist() == [10, 1, 0.1, 0]
    assert truncate([10, 1, 0.3, 0.01], 0.1).tolist() == [10, 1, 0.3, 0.1, 0]
    # Without 0.1001 the next level is a sliver too, beside the step that then comes before it.
    assert truncate([10, 0.11, 0.1001, 0.01], 0.1).tolist() == [10, 0.1, 0]


def test_skip_that_is_a_level_is_not_doubled():
    assert truncate([10, 1, 0.1, 0.01], 0.1).tolist() == [10, 1, 0.1, 0]


def test_karras_is_equation_5():
    """EDM's own table: 18 steps, rho 7, 0.002 to 80."""
    n, low, high = 18, 0.002 ** (1 / 7), 80 ** (1 / 7)
    wanted = [(high + i / (n - 1) * (low - high)) ** 7 for i in range(n)]
    found = karras_sigmas(n)
    assert found.tolist()[:-1] == pytest.approx(wanted, rel=1e-12)
    assert (float(found[0]), float(found[-2])) == (80.0, 0.002)


def test_43_of_200_karras_steps_lie_under_a_tenth():
    assert int((karras_sigmas(200)[:-1] < 0.1).sum()) == 43


def test_exponential_has_equal_factors():
    found = exponential_sigmas(12, sigma_min=0.01, sigma_max=20)
    ratios = found[1:-1] / found[:-2]
    assert torch.allclose(ratios, ratios[:1], rtol=1e-10)
    assert (float(found[0]), float(found[-2])) == (20.0, 0.01)


def test_ddim_respacing_is_guided_diffusions():
    process = DiscreteVP()
    assert torch.equal(ddim_sigmas(25), torch.cat([process.sigmas[range(960, -1, -40)], torch.zeros(1)]))
    assert torch.equal(ddim_sigmas([39, 999, 3]), torch.cat([process.sigmas[[999, 39, 3]], torch.zeros(1)]))
    assert len(ddim_sigmas(1000)) == 1001


def test_flow_shift_is_sd3_equation_23():
    assert flow_sigmas(4).tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert flow_sigmas(4, shift=3).tolist() == pytest.approx([1, 0.9, 0.75, 0.5, 0])


def test_flow_levels_end_where_they_are_told():
    assert flow_sigmas(4, sigma_min=0.1).tolist() == pytest.approx([1, 0.7, 0.4, 0.1, 0])
    for steps, shift in ((2, 3.0), (9, 0.5), (1, 3.0)):
        found = flow_sigmas(steps, shift=shift, sigma_min=0.1, sigma_max=0.8)
        assert len(found) == steps + 1
        assert found[[0, -2]].tolist() == ([0.8, 0.1] if steps > 1 else [0.8, 0.8])
    even = flow_sigmas(9, shift=3, sigma_min=0.1)[:-1]
    assert (even / (3 - 2 * even)).diff().std() < 1e-12


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: karras_sigmas(0), "steps 0"),
        (lambda: karras_sigmas(-2), "steps -2"),
        (lambda: karras_sigmas(5, sigma_min=0), "sigma range"),
        (lambda: karras_sigmas(5, sigma_min=3, sigma_max=2), "sigma range 3..2"),
        (lambda: karras_sigmas(5, sigma_max=math.inf), "sigma range"),
        (lambda: karras_sigmas(5, sigma_min=math.nan), "sigma range"),
        (lambda: karras_sigmas(5, rho=0), "rho 0"),
        (lambda: karras_sigmas(5, rho=math.nan), "rho nan"),
        (lambda: exponential_sigmas(0), "steps 0"),
        (lambda: flow_sigmas(0), "steps 0"),
        (lambda: flow_sigmas(3, shift=0), "shift 0"),
        (lambda: flow_sigmas(3, sigma_max=1.5), "sigma_max 1.5"),
        (lambda: flow_sigmas(3, sigma_min=1), "sigma_min 1 < sigma_max 1.0"),
        (lambda: ddim_sigmas(501), "kappa 501"),
        (lambda: ddim_sigmas([]), "kappa: is empty"),
        (lambda: ddim_sigmas([3, 1000]), "0..999"),
        (lambda: ddim_sigmas([-1, 5]), "-1..5"),
        (lambda: ddim_sigmas([5, 7, 5]), "repeated"),
        (lambda: given_sigmas([]), "sigmas"),
        (lambda: given_sigmas([[1.0, 0.5]]), r"shape \(1, 2\)"),
        (lambda: given_sigmas([0.0]), "no positive level"),
        (lambda: given_sigmas([1, 2, 0]), r"entry 1 \(2\) rises after entry 0 \(1\)"),
        (lambda: given_sigmas([2, 1, 1, 0]), r"entry 2 \(1\) repeats"),
        (lambda: given_sigmas([2, 0, 0]), "repeats"),
        (lambda: given_sigmas([2, -1]), "negative; the smallest is -1"),
        (lambda: given_sigmas([2, math.nan]), "NaN or Inf"),
        (lambda: given_sigmas([math.inf, 1]), "NaN or Inf"),
        (lambda: truncate([2, 1], -0.1), "skip -0.1"),
        (lambda: truncate([2, 1], math.nan), "skip nan"),
        (lambda: truncate([2, 1], 2), "skip 2: must lie below the schedule's largest sigma, 2"),
        (lambda: truncate([2, 1], math.inf), "skip inf"),
        (lambda: truncate([2, 1], 0.5, "stretch"), "'stretch'"),
    ],
)
def test_bad_schedules_are_refused_by_name(make, says):
    with pytest.raises(InputError, match=says):
        make()


def test_a_level_that_a_host_rounded_is_the_skip_itself():
    rounded = [float(torch.tensor(s, dtype=torch.float32)) for s in (10.0, 1.0, 0.1)]
    assert truncate(rounded, 0.1).tolist() == pytest.approx([10, 1, 0.1, 0], rel=1e-6)
    with pytest.raises(InputError, match="must lie below"):
        truncate(rounded[2:], 0.1)


@given(
    levels=st.lists(st.floats(-6, 6), min_size=2, max_size=12, unique=True),
    part=st.floats(0.01, 0.99),
    grid=st.sampled_from(["keep", "spread"]),
)
def test_a_schedule_cut_at_a_skip_stays_as_it_is(levels, part, grid):
    """So that what is inverted along the way back of another inversion is inverted alike."""
    sigmas = sorted({round(math.exp(u), 9) for u in levels}, reverse=True)
    if len(sigmas) > 1 and all(b < a * (1 - 1e-3) for a, b in pairwise(sigmas)):
        skip = sigmas[-1] ** part * (sigmas[0] * 0.999) ** (1 - part)
        once = truncate(sigmas, skip, grid)
        again = truncate(once, skip, grid)
        assert again.tolist() == (once.tolist() if grid == "keep" else pytest.approx(once.tolist(), rel=1e-9))


def test_random_schedules_stay_cut():
    """Of 3000 grids like these 14 lost a level when they were cut again."""
    rng = np.random.default_rng(0)
    for _ in range(1000):
        sigmas = np.sort(np.exp(rng.uniform(-6, 4, rng.integers(3, 12))))[::-1].copy()
        skip = float(np.exp(rng.uniform(np.log(sigmas[-1]), np.log(sigmas[0]))))
        once = truncate(sigmas, skip)
        assert truncate(once, skip).equal(once), (sigmas, skip)
