"""The chosen skip: what is foretold comes true, goals are met at their cheapest skip, and what cannot be is said."""

import math

import numpy as np
import pytest
import torch
from exact import Counted, Gaussian, normal

from ssi_core import (
    VE,
    VP,
    Cancelled,
    Choice,
    DiscreteVP,
    Flow,
    Goal,
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
from ssi_core.demo.photos import held_out_photos
from ssi_core.demo.scenes import HELD_OUT, draw_scenes
from ssi_core.goal import GOALS
from ssi_core.skip import (
    DEFAULT_SKIP,
    ENOUGH,
    FIRST,
    HIGHEST,
    LOWEST,
    REACH,
    STRIDE,
    Trial,
    follow,
    leftover,
    resolved,
)

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


@pytest.mark.parametrize("goal", [Goal("psnr", 42.0), Goal("leftover", 0.06), Goal()], ids=str)
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
def test_what_is_foretold_comes_true(process, goal):
    denoise, x0, sigmas = setting(process)
    choice = choose_skip(denoise, x0, sigmas, goal, process=process, seed=3)
    assert choice.nfe == denoise.nfe <= 8 and choice.met and choice.goal == goal
    found = invert(denoise, x0, sigmas, skip=choice.skip, process=process, seed=3)
    back = reconstruct(denoise, found.noise, found.sigmas, process=process)
    # 20% of the error; between two walks far apart a straight line is a coarser guess.
    assert abs(float(psnr(back, x0) - choice.foretold.psnr)) < (1.5 if goal.name == "leftover" else 0.8)
    left = float(leftover(found.noise, unit_noise(x0, (3,))))
    assert abs(left / float(choice.foretold.leftover) - 1) < 0.2
    if goal.name == "psnr":
        assert abs(float(psnr(back, x0)) - goal.value) < 0.5
    elif goal.name == "leftover":
        assert abs(left / goal.value - 1) < 0.2
    else:
        assert gaussianity(found.noise, x0).verdict
        half = invert(denoise, x0, sigmas, skip=choice.skip / 2, process=process, seed=3)
        assert not gaussianity(half.noise, x0).verdict


def test_the_same_skip_in_every_process():
    """Skips are chosen by signal to noise: VE and VP have the same sigma, flow sigma / (1 + sigma)."""
    skips = {}
    for process in (VE(), VP(), Flow()):
        denoise, x0, sigmas = setting(process)
        skips[process.name] = choose_skip(denoise, x0, sigmas, Goal("psnr", 42.0), process=process).skip
    assert skips["vp"] == pytest.approx(skips["ve"], rel=1e-6)
    assert skips["flow"] / (1 - skips["flow"]) == pytest.approx(skips["ve"], rel=1e-3)


def test_more_is_asked_for_more_noise():
    denoise, x0, sigmas = setting(VE())
    by_psnr = [choose_skip(denoise, x0, sigmas, Goal("psnr", p)).skip for p in (50.0, 45.0, 40.0)]
    by_leftover = [choose_skip(denoise, x0, sigmas, Goal("leftover", p)).skip for p in (0.08, 0.04, 0.02)]
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
    found = invert(denoise, x0, sigmas, skip=Goal("psnr", 42.0))
    same = invert(denoise, x0, sigmas, skip=found.skip)
    assert torch.equal(found.noise, same.noise)
    assert found.nfe == same.nfe + found.choice.nfe and same.choice is None


def test_a_batch_has_the_skip_of_its_most_demanding_image():
    denoise, x0, sigmas = setting(VE(), count=4)
    goal = Goal("psnr", 42.0)
    alone = [choose_skip(denoise, x0[i : i + 1], sigmas, goal, seed=[i]).skip for i in range(4)]
    together = choose_skip(denoise, x0, sigmas, goal)
    assert together.skip == pytest.approx(min(alone), rel=0.05)
    assert len(together.foretold.psnr) == 4


def test_goals_out_of_reach_are_said():
    denoise, x0, sigmas = setting(VE())
    far = choose_skip(denoise, x0, sigmas, Goal("psnr", 150.0))
    assert not far.met and far.skip == pytest.approx(LOWEST) and "no skip is foretold to reach" in far.reason
    foreign = torch.linspace(-1, 1, SIDE, dtype=torch.float64).expand(1, 1, SIDE, SIDE) * 20
    lost = choose_skip(denoise, foreign.contiguous(), sigmas)
    assert not lost.met and lost.skip == pytest.approx(DEFAULT_SKIP) and "may not know such pictures" in lost.reason


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
        (("best",), "'best': unknown; known are gaussian, psnr, leftover"),
        (("gaussian", 3.0), "takes no value"),
        (("psnr",), "needs a value between 0 and 200"),
        (("psnr", math.nan), "nan is out of reach"),
        (("psnr", -3.0), "between 0 and 200"),
        (("psnr", "40"), "'40' is not a number"),
        (("psnr", True), "True is not a number"),
        (("psnr", torch.tensor([40.0, 41.0])), "is not a number"),
        (("psnr", 10**400), "is not a number"),
        ((["psnr"],), "unknown; known are"),
        (("leftover", 0.0), "between 0 and 1"),
        (("leftover", 5.0), "between 0 and 1"),
    ],
)
def test_goals_that_make_no_sense(goal, words):
    with pytest.raises(InputError, match=words):
        Goal(*goal)


@pytest.mark.parametrize("text", ["", "best", "psnr", "psnr=", "psnr=many", "auto=3", "leftover=2", "0.1="])
def test_goals_that_cannot_be_read(text):
    with pytest.raises(InputError, match=r"skip|goal"):
        Goal.parse(text)


def test_goals_as_text():
    assert Goal.parse("auto") == Goal.parse("gaussian") == Goal() and Goal.parse(" psnr=38.5") == Goal("psnr", 38.5)
    assert Goal.parse("leftover=0.1") == Goal("leftover", 0.1)
    shown = [str(g) for g in (Goal(), Goal("psnr", 38.5), Goal("leftover", 0.1))]
    assert shown == ["the verdict", "38.5 dB", "10% leftover"]
    assert [str(Goal("leftover", v)) for v in (0.004, 0.995)] == ["0.4% leftover", "99.5% leftover"]
    assert Goal("psnr", torch.tensor(40.0)) == Goal("psnr", 40) == Goal("psnr", np.float32(40))
    for text in (None, 3, b"auto"):
        with pytest.raises(InputError, match="no text"):
            Goal.parse(text)


def test_what_cannot_be_chosen_from():
    denoise, x0, _ = setting(VE())
    with pytest.raises(InputError, match="leaves no room"):
        choose_skip(denoise, x0, [0.003, 0.002, 0])
    with pytest.raises(InputError, match="skip 'automatic': a sigma, auto, or one of"):
        invert(denoise, x0, karras_sigmas(5), skip="automatic")
    for skip in (True, None, [0.1], torch.tensor([0.1, 0.2])):
        with pytest.raises(InputError, match="is not a number; a number is wanted, or a goal"):
            invert(denoise, x0, karras_sigmas(5), skip=skip)
    with pytest.raises(InputError, match="a Goal, or its text"):
        choose_skip(denoise, x0, karras_sigmas(5), {"psnr": 40})
    with pytest.raises(InputError, match="x0"):
        choose_skip(denoise, x0[0, 0], karras_sigmas(5))


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
def test_forecasts_are_of_walks_that_are_resolved(process):
    """As many levels as 20 steps have over the same range, whatever the skip; not as many as 10 have; second order."""
    for skip in (0.03, 0.07, 0.5):
        known = float(process.sigma_of_ratio(skip))
        grids = [flow_sigmas(n) if isinstance(process, Flow) else karras_sigmas(n) for n in (10, 20)]
        coarse, fine = (truncate(grid, known) for grid in grids)
        assert resolved(fine, "dpmpp-2m", process) and not resolved(coarse, "dpmpp-2m", process)
        assert not resolved(fine, "euler", process)


@pytest.mark.parametrize("name, level", [("gaussian", 1.0), ("psnr", 40.0), ("leftover", 0.1)])
def test_a_power_law_is_followed_to_the_goal(name, level):
    """After one trial by the slope that is assumed, after two far apart by the one that they show."""
    goal = Goal(name, None if name == "gaussian" else level)

    def figure(slope, at):
        u = slope * math.log(0.05 / at)  # the goal lies at .05
        return level + u * 10 / math.log(10) if name == "psnr" else level * math.exp(u)

    search = GOALS[name].search
    one = follow(goal, [(0.02, figure(search.first, 0.02))], last=False)
    assert one == pytest.approx(0.05, rel=1e-6)
    two = follow(goal, [(0.0001, figure(0.9, 0.0001)), (0.03, figure(0.9, 0.03))], last=True)
    assert 0.05 * 0.9 < two < 0.05 * 1.12
    noisy = [(0.0001, figure(0.9, 0.0001)), (0.03, figure(0.9, 0.03))]
    blunt = follow(goal, [(0.0299, noisy[1][1]), noisy[1]], last=True)  # too near each other to tell a slope
    assert blunt == pytest.approx(0.03 * (0.05 / 0.03) ** (0.9 / search.last), rel=0.02)


def test_less_skip_for_the_verdict_is_dared_less_than_more():
    search = GOALS["gaussian"].search
    half, double = (follow(Goal(), [(0.1, m)], last=True) for m in (0.5, 2.0))
    assert half == pytest.approx(0.1 * 0.5 ** (1 / search.down)) and double == pytest.approx(
        0.1 * 2 ** (1 / search.last)
    )
    assert 0.1 / half < double / 0.1
    rising = follow(Goal(), [(0.01, 2.0), (0.1, 3.0)], last=True)  # no slope at all: it is not divided by
    assert 0.1 < rising < 0.1 * 3 ** (4 / search.first)


def told(worst, best=0.1):
    values = torch.tensor([best, worst], dtype=torch.float64)
    return Trial(0.1, 50 - values, values, values, 5)


def test_the_worst_image_counts():
    assert told(0.9).worst(Goal()) == pytest.approx(0.9) and told(0.9).worst(Goal("leftover", 0.5)) == pytest.approx(
        0.9
    )
    assert told(0.9).worst(Goal("psnr", 40)) == pytest.approx(49.1)
    assert told(0.9).sample(1).margin.tolist() == [0.9] and told(0.9).sample(0).psnr.tolist() == [49.9]


def test_bounds_of_what_is_chosen():
    """Never under what the schedule's first step can span, nor further from the last walk than `REACH`."""
    denoise, x0, _ = setting(VE())
    for grid in (karras_sigmas(20), exponential_sigmas(8), exponential_sigmas(5)):
        skip = choose_skip(denoise, x0, grid).skip
        above = min(float(s) for s in grid if s > skip)
        assert above / skip <= STRIDE * (1 + 1e-9)
    two_ends = choose_skip(denoise, x0, [80.0, 0.0]).skip  # the steps are not known yet
    assert skip == pytest.approx(above / STRIDE) and skip > 1.2 * two_ends
    # A slope too faint to be told, so that much more noise would be wanted than two walks can answer for.
    stubborn = torch.linspace(-1, 1, SIDE, dtype=torch.float64).expand(1, 1, SIDE, SIDE) * 0.1
    choice = choose_skip(denoise, (x0 + stubborn).contiguous(), schedule(VE()))
    walked = max(choice.trials, key=lambda t: t.evaluations).sigma
    assert choice.skip <= min(REACH * walked * GOALS["gaussian"].search.safety, HIGHEST) * (1 + 1e-9)
    assert min(t.sigma for t in choice.trials) == pytest.approx(FIRST)


def test_goals_met_are_met_nearly():
    denoise, x0, sigmas = setting(VE())
    for goal in (Goal("psnr", 42.0), Goal("leftover", 0.06)):
        choice = choose_skip(denoise, x0, sigmas, goal)
        assert choice.met and abs(goal.lacks(choice.foretold.worst(goal))) <= ENOUGH


def test_a_walk_tells_the_verdict_of_the_whole_inversion():
    """On what the model knows and on what it does not: the figures of a walk of five, once its size is mended."""
    sigmas, scenes, photos = karras_sigmas(20), draw_scenes(range(HELD_OUT, HELD_OUT + 6)), held_out_photos()[:6]
    foreign = demo_denoiser(name="demo-classes").conditioned(0)  # it knows drawn scenes alone
    off, agree, strong = [], 0, 0
    for denoise, pictures in ((demo_denoiser(), scenes), (demo_denoiser(), photos), (foreign, photos)):
        for i, x0 in enumerate(pictures.split(1)):
            walked = max(choose_skip(denoise, x0, sigmas, seed=i).trials, key=lambda t: t.evaluations)
            assert walked.evaluations == 5
            found = gaussianity(invert(denoise, x0, sigmas, skip=walked.sigma, seed=i).noise, x0)
            off.append(math.log(float(walked.margin) / float(found.margin())))
            agree += (float(walked.margin) <= 1) == found.verdict
            strong += float(found.std) > 1.05
    assert strong >= 2 and agree >= len(off) - 1
    assert sum(map(abs, off)) / len(off) < 0.2 and max(map(abs, off)) < 0.7, (agree, strong, off)


def test_an_image_of_a_batch_keeps_what_is_told_of_it():
    denoise, x0, sigmas = setting(VE(), count=3)
    found = invert(denoise, x0, sigmas, skip="psnr=42")
    one = found.choice.sample(2)
    assert one.foretold.psnr.tolist() == found.choice.foretold.psnr[2:].tolist() and one.skip == found.skip
    assert [len(t.margin) for t in one.trials] == [1] * len(one.trials)
    for i in (3, -1, 1.0, "a"):
        with pytest.raises(InputError, match="not one of the 3"):
            found.sample(i)


def test_a_forecast_for_a_coarse_inversion_says_so():
    denoise, x0, sigmas = setting(VE())
    fine = invert(denoise, x0, sigmas, skip="psnr=42").choice
    assert fine.resolved and "too far apart" not in fine.reason
    for grid, solver in ((sigmas, "euler"), (exponential_sigmas(6), "dpmpp-2m")):
        coarse = invert(denoise, x0, grid, skip="psnr=42", solver=solver).choice
        assert not coarse.resolved and "too far apart" in coarse.reason
    gap = torch.tensor([80.0, 70, 60, 50, 40, 30, 20, 18, 16, 14, 12, 11, 10, 9, 8, 7, 6, 5, 0.07, 0])
    assert not resolved(gap, "dpmpp-2m", VE())


def test_what_is_told_of_other_skips_has_no_jumps():
    denoise, x0, sigmas = setting(VE())
    for goal in (Goal(), Goal("leftover", 0.06), Goal("psnr", 42.0)):
        choice = choose_skip(denoise, x0, sigmas, goal)
        for trial in choice.trials:
            below, above = choice.at(trial.sigma * 0.9999), choice.at(trial.sigma * 1.0001)
            for name in ("psnr", "leftover", "margin"):
                assert float(getattr(below, name)) == pytest.approx(float(getattr(above, name)), rel=2e-3)


@pytest.mark.parametrize(
    "goal, happened, short",
    [
        (Goal(), (38.6, 0.5, 0.9), set()),
        (Goal(), (38.4, 0.5, 0.9), {"psnr"}),
        (Goal(), (math.nan, 0.5, 1.1), {"margin"}),
        (Goal("psnr", 40), (39.6, 0.5, 3.0), set()),
        (Goal("psnr", 40), (39.4, 0.5, 3.0), {"psnr"}),
        (Goal("leftover", 0.1), (30.0, 0.119, 3.0), {"psnr"}),
        (Goal("leftover", 0.1), (40.0, 0.121, 3.0), {"leftover"}),
    ],
)
def test_what_falls_short_is_said(goal, happened, short):
    def trial(*values):
        return Trial(0.03, *(torch.tensor([v], dtype=torch.float64) for v in values))

    foretold = trial(40.0, 0.1, 0.8)
    choice = Choice(0.03, goal, True, (foretold,), foretold, 8, VE())
    assert set(choice.shortfalls(trial(*happened))) == short
    assert not any(choice.shortfalls(trial(*[math.nan] * 3)))
