"""The chosen skip: what is foretold comes true, goals are met at their cheapest skip, and what cannot be is said."""

import math

import pytest
import torch
from exact import Counted, Gaussian, normal

from ssi_core import (
    VE,
    VP,
    Auto,
    Cancelled,
    DiscreteVP,
    Flow,
    InputError,
    choose_skip,
    demo_denoiser,
    exponential_sigmas,
    flow_sigmas,
    gaussianity,
    invert,
    karras_sigmas,
    psnr,
    reconstruct,
    truncate,
    unit_noise,
)
from ssi_core.demo.scenes import HELD_OUT, draw_scenes
from ssi_core.skip import DEFAULT_SKIP, LOWEST, leftover, resolved

PROCESSES = [VE(), VP(), DiscreteVP(), Flow()]
SIDE = 24


def data(process):
    """Pixels of standard deviation .5, .25, .17, .125 ... in random places; exact D."""
    order = torch.randperm(SIDE * SIDE, generator=torch.Generator().manual_seed(0))
    var = torch.empty(SIDE * SIDE, dtype=torch.float64)
    var[order] = (0.5 / torch.arange(1, SIDE * SIDE + 1, dtype=torch.float64)) ** 2
    mean = torch.zeros(1, SIDE, SIDE, dtype=torch.float64)
    return Gaussian(mean, var.reshape(1, SIDE, SIDE), isinstance(process, Flow))


def schedule(process, steps=60):
    return flow_sigmas(steps) if isinstance(process, Flow) else exponential_sigmas(steps, sigma_min=0.003)


def setting(process, count=1):
    """Pictures of that data, with a slope in them that is none of it: what is left of it in noise is seen."""
    known = data(process)
    slope = 0.02 * torch.linspace(-1, 1, SIDE, dtype=torch.float64).expand(SIDE, SIDE)
    return Counted(known), known.var.sqrt() * normal(count, 1, SIDE, SIDE, seed=7) + slope, schedule(process)


@pytest.mark.parametrize("goal", [Auto(psnr=42.0), Auto(leftover=0.06), Auto()], ids=str)
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
def test_what_is_foretold_comes_true(process, goal):
    denoise, x0, sigmas = setting(process)
    choice = choose_skip(denoise, x0, sigmas, goal, process=process, seed=3)
    assert choice.nfe == denoise.nfe <= 8 and choice.met and choice.goal == goal
    found = invert(denoise, x0, sigmas, skip=choice.skip, process=process, seed=3)
    back = reconstruct(denoise, found.noise, found.sigmas, process=process)
    assert abs(float(psnr(back, x0) - choice.foretold.psnr)) < 0.8  # 20% of the error
    left = float(leftover(found.noise, unit_noise(x0, (3,))))
    assert abs(left / float(choice.foretold.leftover) - 1) < 0.2
    if goal.psnr:
        assert abs(float(psnr(back, x0)) - goal.psnr) < 0.5
    elif goal.leftover:
        assert abs(left / goal.leftover - 1) < 0.2
    else:
        assert gaussianity(found.noise, x0).verdict
        half = invert(denoise, x0, sigmas, skip=choice.skip / 2, process=process, seed=3)
        assert not gaussianity(half.noise, x0).verdict


def test_the_same_skip_in_every_process():
    """Skips are chosen by signal to noise: VE and VP have the same sigma, flow sigma / (1 + sigma)."""
    skips = {}
    for process in (VE(), VP(), Flow()):
        denoise, x0, sigmas = setting(process)
        skips[process.name] = choose_skip(denoise, x0, sigmas, Auto(psnr=42.0), process=process).skip
    assert skips["vp"] == pytest.approx(skips["ve"], rel=1e-6)
    assert skips["flow"] / (1 - skips["flow"]) == pytest.approx(skips["ve"], rel=1e-3)


def test_more_is_asked_for_more_noise():
    denoise, x0, sigmas = setting(VE())
    by_psnr = [choose_skip(denoise, x0, sigmas, Auto(psnr=p)).skip for p in (50.0, 45.0, 40.0)]
    by_leftover = [choose_skip(denoise, x0, sigmas, Auto(leftover=p)).skip for p in (0.08, 0.04, 0.02)]
    assert by_psnr == sorted(by_psnr) and by_leftover == sorted(by_leftover)
    assert by_psnr[2] > 1.2 * by_psnr[0] and by_leftover[2] > 1.2 * by_leftover[0]


def test_the_verdict_is_passed_on_the_demo_model_at_less_than_the_default():
    """On drawn scenes the verdict passes far below the default skip, and a quarter of the chosen one does not."""
    denoise, x0, sigmas = demo_denoiser(), draw_scenes([HELD_OUT + 11, HELD_OUT + 12]), karras_sigmas(20)
    found = invert(denoise, x0, sigmas, skip="auto", seed=5)
    assert found.choice is not None and found.skip == found.choice.skip < 0.6 * DEFAULT_SKIP
    assert gaussianity(found.noise, x0).verdict
    assert not gaussianity(invert(denoise, x0, sigmas, skip=found.skip / 4, seed=5).noise, x0).verdict
    back = reconstruct(denoise, found.noise, found.sigmas)
    assert (psnr(back, x0) - found.choice.foretold.psnr).abs().max() < 1.5


def test_inversions_pay_for_the_choice():
    denoise, x0, sigmas = setting(VE())
    found = invert(denoise, x0, sigmas, skip=Auto(psnr=42.0))
    same = invert(denoise, x0, sigmas, skip=found.skip)
    assert torch.equal(found.noise, same.noise)
    assert found.nfe == same.nfe + found.choice.nfe and same.choice is None


def test_a_batch_has_the_skip_of_its_most_demanding_image():
    denoise, x0, sigmas = setting(VE(), count=4)
    goal = Auto(psnr=42.0)
    alone = [choose_skip(denoise, x0[i : i + 1], sigmas, goal, seed=[i]).skip for i in range(4)]
    together = choose_skip(denoise, x0, sigmas, goal)
    assert together.skip == pytest.approx(min(alone), rel=0.05)
    assert len(together.foretold.psnr) == 4


def test_goals_out_of_reach_are_said():
    denoise, x0, sigmas = setting(VE())
    far = choose_skip(denoise, x0, sigmas, Auto(psnr=150.0))
    assert not far.met and far.skip == pytest.approx(LOWEST) and "no skip is foretold to reach" in far.reason
    foreign = torch.linspace(-1, 1, SIDE, dtype=torch.float64).expand(1, 1, SIDE, SIDE) * 20
    lost = choose_skip(denoise, foreign.contiguous(), sigmas)
    assert not lost.met and lost.skip == pytest.approx(DEFAULT_SKIP) and "does not know such pictures" in lost.reason


def test_it_can_be_cancelled():
    denoise, x0, sigmas = setting(VE())
    seen = []

    def stop(now):
        seen.append(now.nfe)
        return now.nfe < 6

    with pytest.raises(Cancelled):
        choose_skip(denoise, x0, sigmas, progress=stop)
    assert seen == [1, 2, 3, 4, 5, 6] and denoise.nfe == 6
    denoise.sigmas.clear()
    with pytest.raises(Cancelled):
        invert(denoise, x0, sigmas, skip="auto", progress=lambda now: False)
    assert denoise.nfe == 1


def test_a_dear_injection_is_paid_at_each_level():
    denoise, x0, sigmas = setting(VE())
    choice = choose_skip(denoise, x0, sigmas, injection="tangent")
    assert choice.nfe == denoise.nfe == 16


@pytest.mark.parametrize(
    "goal, words",
    [
        ({"psnr": 40.0, "leftover": 0.1}, "two goals"),
        ({"psnr": math.nan}, "psnr nan dB"),
        ({"psnr": -3.0}, "between 0 and 200"),
        ({"leftover": 0.0}, "a share between 0 and 1"),
        ({"leftover": 5.0}, "a share between 0 and 1"),
    ],
)
def test_goals_that_make_no_sense(goal, words):
    with pytest.raises(InputError, match=words):
        Auto(**goal)


@pytest.mark.parametrize("text", ["", "best", "psnr", "psnr=", "psnr=many", "auto=3", "leftover=2", "0.1="])
def test_goals_that_cannot_be_read(text):
    with pytest.raises(InputError, match="skip"):
        Auto.parse(text)


def test_goals_as_text():
    assert Auto.parse("auto") == Auto() and Auto.parse(" psnr=38.5") == Auto(psnr=38.5)
    assert Auto.parse("leftover=0.1") == Auto(leftover=0.1)
    assert [str(g) for g in (Auto(), Auto(psnr=38.5), Auto(leftover=0.1))] == ["the verdict", "38.5 dB", "10% leftover"]


def test_what_cannot_be_chosen_from():
    denoise, x0, _ = setting(VE())
    with pytest.raises(InputError, match="leaves no room"):
        choose_skip(denoise, x0, [0.003, 0.002, 0])
    with pytest.raises(InputError, match="must be a number, or 'auto'"):
        invert(denoise, x0, karras_sigmas(5), skip="automatic")
    with pytest.raises(InputError, match="x0"):
        choose_skip(denoise, x0[0, 0], karras_sigmas(5))


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
def test_forecasts_are_of_walks_that_are_resolved(process):
    """As many levels as 20 steps have over the same range, whatever the skip; not as many as 10 have; second order."""
    for skip in (0.02, 0.07, 0.5):
        known = float(process.sigma_of_ratio(skip))
        grids = [flow_sigmas(n) if isinstance(process, Flow) else karras_sigmas(n) for n in (10, 20)]
        coarse, fine = (truncate(grid, known) for grid in grids)
        assert resolved(fine, "dpmpp-2m", process) and not resolved(coarse, "dpmpp-2m", process)
        assert not resolved(fine, "euler", process)
