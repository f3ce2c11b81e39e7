"""Morphs: keyframes are the pictures, steps are equal, and what is asked for twice is sampled once."""

import math

import numpy as np
import pytest
import torch
from exact import Counted, Gaussian, normal
from hypothesis import given
from hypothesis import strategies as st

from ssi_core import Cancelled, DenoiserError, InputError, blend, invert, karras_sigmas, reconstruct
from ssi_core.frames import EASINGS
from ssi_core.morph import EVEN_ENOUGH, ROUNDS, morph, morph_by
from ssi_core.pace import evenness, placed, shared_out
from ssi_core.process import VP

SHAPE = (1, 6, 6)
SIGMAS = karras_sigmas(8, sigma_min=0.01, sigma_max=20)


def two_modes(x, sigma):
    """Data at -1 or +1 everywhere at once: a morph from one to the other jumps where the noise's mean changes sign."""
    s = sigma.reshape(-1, 1, 1, 1)
    return torch.tanh(x.mean((1, 2, 3), keepdim=True) * 36 / s**2) * torch.ones_like(x)


def keys(denoise, count=2, skip=0.1, seed=0):
    x0 = normal(count, *SHAPE, seed=seed)
    found = invert(denoise, x0, SIGMAS, skip=skip, seed=seed)
    return x0, [found.sample(i) for i in range(count)]


def gaussian():
    return Counted(Gaussian(torch.zeros(SHAPE, dtype=torch.float64), torch.full(SHAPE, 0.7, dtype=torch.float64)))


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("pace", ["even", "angle"])
def test_keyframes_are_the_pictures_themselves(pace, loop):
    x0, keyframes = keys(gaussian(), 3)
    found = morph(gaussian(), keyframes, 11, originals=list(x0.split(1)), pace=pace, loop=loop)
    assert found.frames.shape == (11, *SHAPE)
    at = [found.positions.index(float(k)) for k in range(3)]
    assert at[0] == 0 and (loop or at[-1] == 10)
    torch.testing.assert_close(found.frames[at], x0.float(), atol=1e-6, rtol=0)
    assert len(found.steps) == (11 if loop else 10)


def test_without_originals_frames_are_what_sampling_gives():
    denoise = gaussian()
    _, keyframes = keys(denoise)
    found = morph(denoise, keyframes, 5, pace="angle", method="gram")
    noises = blend([k.noise for k in keyframes], [[1 - t / 4, t / 4] for t in range(5)], "gram")
    wanted = reconstruct(denoise, noises, keyframes[0].sigmas, solver=keyframes[0].solver)
    torch.testing.assert_close(found.frames, wanted.float(), atol=1e-6, rtol=0)
    assert found.positions == (0.0, 0.25, 0.5, 0.75, 1.0)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_way_back_is_that_of_the_inversions(solver):
    """Their solver, and their process where the denoiser knows of none."""
    x0, process = normal(2, *SHAPE), VP()
    denoise = Gaussian(torch.zeros(SHAPE, dtype=torch.float64), torch.full(SHAPE, 0.7, dtype=torch.float64))
    found = invert(denoise, x0, SIGMAS, skip=0.1, solver=solver, process=process)
    keyframes = [found.sample(i) for i in range(2)]
    noise = torch.cat([key.noise for key in keyframes])
    wanted = reconstruct(denoise, noise, found.sigmas, solver=solver, process=process).float()
    frames = morph(denoise, keyframes, 4).frames[[0, -1]]
    torch.testing.assert_close(frames, wanted, atol=1e-6, rtol=0)
    for other in ({"process": process}, {"solver": solver}):
        assert (reconstruct(denoise, noise, found.sigmas, **other).float() - frames).abs().max() > 1e-4


def test_frames_may_be_sampled_by_anything():
    """Here the noises are the frames."""
    _, keyframes = keys(gaussian(), 3)
    noises, asked = [k.noise for k in keyframes], []

    def sample(noise, positions, watch):
        asked.extend(positions.tolist())
        watch(1, 2, 5)
        watch(2, 2, 7)
        return noise

    found = morph_by(sample, noises, 7, originals=[noises[0] + 2, None, noises[2]], pace="angle", loop=True, batch=2)
    assert sorted(asked) == pytest.approx(sorted(found.positions)) and found.nfe == 7 * len(asked)
    assert found.lost == pytest.approx((2, 0, 0), abs=1e-6)
    blended = blend(noises[:2], [2 / 3, 1 / 3], "slerp")[0]
    torch.testing.assert_close(found.frames[:2], torch.stack([noises[0][0] + 2, blended + 2 * 2 / 3]).float())
    assert found.positions[-1] > 2, "and from there it leads back to the first"
    blended, share = (
        blend([noises[2], noises[0]], [3 - found.positions[-1], found.positions[-1] - 2], "slerp")[0],
        found.positions[-1] - 2,
    )
    torch.testing.assert_close(found.frames[-1], (blended + 2 * share).float())
    with pytest.raises(Cancelled, match="cancelled after 1 of 3 frames"):
        morph_by(sample, noises, 7, notice=lambda what, done, of: done < 1)


def test_residuals_fade_along_the_path():
    x0, keyframes = keys(gaussian())
    plain = morph(gaussian(), keyframes, 5, pace="angle")
    carried = morph(gaussian(), keyframes, 5, pace="angle", originals=list((x0 + 0.5).split(1)))
    only = morph(gaussian(), keyframes, 5, pace="angle", originals=[x0[:1], None])
    first, last = (x0 + 0.5).float()[0] - plain.frames[0], (x0 + 0.5).float()[1] - plain.frames[-1]
    for i, t in enumerate(found / 4 for found in range(5)):
        torch.testing.assert_close(carried.frames[i] - plain.frames[i], (1 - t) * first + t * last, atol=1e-5, rtol=0)
    torch.testing.assert_close(only.frames[-1], plain.frames[-1])


def slow(x, sigma):
    """Steep, but no jump."""
    return two_modes(x, 3 + sigma)


def far_apart():
    """Two keyframes whose noises' means are of opposite signs, so that `slow` lies between them."""
    _, keyframes = keys(two_modes)
    for key, sign in zip(keyframes, (-1, 1), strict=True):
        key.noise.copy_(sign * key.noise.mean().abs() + key.noise - key.noise.mean())
    return keyframes


def test_steps_are_even_where_the_way_is_not():
    keyframes = far_apart()
    by_angle = morph(slow, keyframes, 12, pace="angle")
    evenly = morph(slow, keyframes, 12)
    assert by_angle.evenness > 2 and evenly.evenness < 1.5
    assert evenly.frames[[0, -1]].equal(by_angle.frames[[0, -1]])


@pytest.mark.parametrize("frames", [12, 24])
@pytest.mark.parametrize("easing", EASINGS)
def test_easing_is_of_the_way_travelled_and_leaves_no_cut(easing, frames):
    found = morph(slow, far_apart(), frames, easing=easing)
    travelled, wanted = (
        torch.tensor(found.steps),
        torch.tensor([EASINGS[easing](i / (frames - 1)) for i in range(frames)]).diff(),
    )
    shares = travelled / travelled.sum()
    assert found.eased == pytest.approx((wanted * (frames - 1)).tolist(), abs=1e-5)
    assert found.evenness == pytest.approx(float((shares / wanted).max() / (shares / wanted).quantile(0.5)), rel=1e-4)
    assert found.evenness <= EVEN_ENOUGH
    assert shares.tolist() == pytest.approx(wanted.tolist(), abs=0.6 / frames)


def along(way):
    """A way to sample whose frames are way(position) all over; the noises play no part."""

    def sample(noise, positions, watch):
        watch(1, 1, 1)
        return torch.tensor([way(p) for p in positions.tolist()]).reshape(-1, 1, 1, 1).expand(noise.shape)

    return sample


def leap(begin, width):
    """Nothing moves at all but between `begin` and `begin + width`."""
    return along(lambda position: min(max((position - begin) / width, 0.0), 1.0))


TWO = [normal(1, *SHAPE, seed=seed) for seed in (0, 1)]


@pytest.mark.parametrize("width", [1e-3, 1e-4, 1e-6])
def test_a_leap_that_most_frames_stand_still_around_is_found(width):
    """The narrowest takes 5 passes, each of which looks some 20 times closer; positions are told in float32."""
    found = morph_by(leap(0.0137, width), TWO, 24)
    assert found.evenness < 1.5 and max(found.steps) < 0.09 and sum(found.steps) == pytest.approx(1)


def test_where_nothing_helps_it_ends_after_eight_placings():
    heard = []
    cut = along(lambda position: float(position > 1 / 3))
    found = morph_by(cut, TWO, 24, notice=lambda what, done, of: heard.append(what))
    assert heard[-1] == "pass 9: sampling frames" and ROUNDS == 8
    assert math.isinf(found.evenness) and max(found.steps) == 1


def test_placing_stops_as_soon_as_no_step_is_over_one_and_a_half_times_the_median(monkeypatch):
    seen = []

    def spied(steps, wanted):
        seen.append(evenness(steps, wanted))
        return seen[-1]

    monkeypatch.setattr("ssi_core.morph.evenness", spied)
    last, before = [], []
    for steep in range(1, 40):
        seen.clear()
        morph_by(along(lambda position, steep=steep: math.tanh(steep * (position - 0.4))), TWO, 12)
        last, before = [*last, seen[-1]], [*before, *seen[:-1]]
    assert max(last) <= 1.5 < min(before)
    assert any(one > 1.1 for one in last) and any(one < 3 for one in before), "or the bound is not met"


def test_every_segment_is_at_an_even_pace():
    """Three keyframes at 0, 1 and 9 of a way that dwells near each of them, and back."""
    ends, ease = [0, 1, 9, 0], EASINGS["ease"]
    way = along(lambda p: ends[int(p)] + (ends[int(p) + 1] - ends[int(p)]) * ease(p % 1))
    found = morph_by(way, [*TWO, normal(1, *SHAPE, seed=2)], 40, loop=True)
    assert list(found.positions) == sorted(found.positions) and found.positions[-1] < 3
    assert {0.0, 1.0, 2.0} < set(found.positions)
    assert found.evenness < 1.3 and sum(found.steps) == pytest.approx(18, rel=1e-5)
    assert [sum(int(p) == s for p in found.positions) for s in range(3)] == pytest.approx([2, 18, 20], abs=1)


@pytest.mark.parametrize("easing", EASINGS)
def test_an_even_way_takes_two_passes(easing):
    found = morph_by(along(lambda position: position), TWO, 24, easing=easing)
    assert found.nfe <= 24 + 22 and found.evenness == pytest.approx(1, abs=1e-4)


def test_frames_nearer_than_numbers_can_tell_are_sampled_once(monkeypatch):
    asked = {0.0, 1.0}

    def spied(*path):
        found = placed(*path)
        asked.update(found)
        return found

    monkeypatch.setattr("ssi_core.morph.placed", spied)
    found = morph_by(along(lambda position: float(position > 1 / 3)), TWO, 300)
    assert found.nfe == len(asked)
    assert len(set(found.positions)) < 300, "or nothing was near enough"


def test_frames_do_not_hold_what_they_were_computed_from():
    weight = torch.ones(1, requires_grad=True)
    known = [torch.zeros(1, *SHAPE, requires_grad=True), None]
    found = morph_by(lambda noise, positions, watch: noise * weight, TWO, 4, originals=known)
    assert not found.frames.requires_grad


def test_progress_goes_on_from_batch_to_batch():
    heard = []

    def notice(what, done, of):
        heard.append((what, done, of))
        return 0  # only False cancels

    def sample(noise, positions, watch):
        watch(1, 2, 1)
        watch(2, 2, 2)
        return noise

    morph_by(sample, TWO, 7, pace="angle", batch=2, notice=notice)
    assert heard == [
        *(("sampling keyframes", done, 2) for done in (1, 2)),
        *(("sampling frames", done, 5) for done in (1, 2, 3, 4, 4, 5)),
    ]


def test_distances_are_root_mean_squares():
    uneven = torch.zeros(1, *SHAPE)
    uneven[..., 0] = 6
    found = morph_by(along(lambda position: position), TWO, 3, originals=[None, 1 + uneven], pace="angle")
    assert found.lost == pytest.approx((0, 6 / math.sqrt(6)))
    half = math.sqrt((5 * 0.5**2 + 3.5**2) / 6)
    assert found.steps == pytest.approx((half, half))


def test_an_eased_path_by_angle_is_told_to_be_uneven():
    assert morph(slow, far_apart(), 12, easing="sine", pace="angle").evenness > 2
    even = morph(gaussian(), keys(gaussian())[1], 9, easing="ease", pace="angle")
    assert even.evenness == pytest.approx(1, abs=0.05) and max(even.steps) / min(even.steps) > 2


def test_no_frame_is_sampled_twice():
    x0, keyframes = keys(gaussian())
    denoise = gaussian()
    found = morph(denoise, keyframes, 9, originals=list(x0.split(1)), batch=1)
    assert found.nfe == denoise.nfe
    one = len(keyframes[0].sigmas) - 1
    assert found.nfe % one == 0 and 9 * one < found.nfe <= (9 + ROUNDS * 7) * one
    again = morph(gaussian(), keyframes, 9, originals=list(x0.split(1)), batch=4)
    torch.testing.assert_close(again.frames, found.frames, atol=1e-5, rtol=0)
    assert again.nfe == found.nfe


def test_pictures_that_do_not_move():
    _, keyframes = keys(gaussian())
    found = morph(lambda x, s: 0 * x, keyframes, 6)
    assert found.frames.abs().max() == 0 and found.evenness == 1, "and no step is too large"
    assert found.positions == pytest.approx([i / 5 for i in range(6)])


def test_conditions_go_with_the_position():
    _, keyframes = keys(gaussian(), 3)

    def conditioned(positions):
        return lambda x, sigma: 0 * x + positions.reshape(-1, 1, 1, 1)

    found = morph(gaussian(), keyframes, 7, conditioned=conditioned, pace="angle", batch=3)
    assert found.frames.mean((1, 2, 3)).tolist() == pytest.approx(found.positions, abs=1e-5)


@given(
    lengths=st.lists(st.floats(0, 100), min_size=1, max_size=6),
    more=st.integers(0, 40),
    loop=st.booleans(),
    easing=st.sampled_from(sorted(EASINGS)),
)
def test_placing_keeps_every_end_and_never_goes_back(lengths, more, loop, easing):
    frames = len(lengths) + (not loop) + more
    steps = frames - (not loop)
    counts = shared_out(lengths, steps)
    found = placed(counts, [lambda share: share] * len(lengths), EASINGS[easing], loop)
    assert len(found) == frames and found == sorted(found)
    assert set(found) >= {float(s) for s in range(len(lengths) + (not loop))}
    for s, (length, given_to) in enumerate(zip(lengths, counts, strict=True)):
        assert given_to == sum(s <= p < s + 1 for p in found[:steps])
        fair = steps * length / sum(lengths) if sum(lengths) > 0 else steps / len(lengths)
        assert given_to >= 1 and (given_to <= math.ceil(fair) + 1)


def test_every_segment_gets_its_share_of_the_steps():
    assert shared_out([1, 1], 6) == [3, 3] and shared_out([1, 3], 8) == [2, 6]
    assert shared_out([1, 1.9], 5) == [2, 3], "the largest remainder gets the odd one"
    # The two that stand still need a step each: of 2.07 and 3.93 the one that was rounded down least gives it.
    assert shared_out([0, 0, 1, 1.9], 6) == [1, 1, 1, 3]
    assert shared_out([1.6, 1.6, 1.8], 5) == [2, 1, 2], "of equals the first"
    assert shared_out([0, 0, 0], 4) == [2, 1, 1] and shared_out([0, 5], 2) == [1, 1]


def test_evenness():
    assert evenness([1, 1, 1], [1, 1, 1]) == 1 and evenness([1, 2, 1], [1, 1, 1]) == 2
    assert evenness([0.5, 2, 0.5], [0.5, 2, 0.5]) == 1 and evenness([1, 1, 1], [0.5, 2, 0.5]) == 1
    assert evenness([1, 1, 1, 3], [0.5, 1, 1, 1]) == pytest.approx(3 / 1.5)
    assert math.isinf(evenness([0, 0, 0.1], [1, 1, 1])) and evenness([0, 0, 0], [1, 1, 1]) == 1


def test_keyframes_that_were_inverted_otherwise():
    x0, first = normal(1, *SHAPE), {"sigmas": SIGMAS, "skip": 0.1, "solver": "euler"}
    denoise = Gaussian(torch.zeros(SHAPE, dtype=torch.float64), torch.full(SHAPE, 0.7, dtype=torch.float64))
    alike = [invert(denoise, x0, seed=seed, **first) for seed in (0, 1)]
    assert len(morph(denoise, alike, 3).frames) == 3
    finer = karras_sigmas(9, sigma_min=0.01, sigma_max=20)
    for change in ({"solver": "heun"}, {"process": VP()}, {"skip": 0.2}, {"sigmas": finer}):
        other = invert(denoise, x0, **first | change)
        with pytest.raises(InputError, match="keyframe 2: was inverted otherwise than keyframe 0"):
            morph(denoise, [*alike, other], 6)


def test_cancelling_and_what_is_said():
    heard = []

    def notice(what, done, of):
        heard.append((what, done, of))
        return len(heard) < 14

    _, keyframes = keys(gaussian())
    with pytest.raises(Cancelled, match=r"of 7 frames"):
        morph(gaussian(), keyframes, 9, notice=notice)
    assert heard[0][0] == "sampling keyframes" and heard[-1][0] == "sampling frames to be measured"


def test_frames_that_are_none():
    noises = [normal(1, *SHAPE, seed=s) for s in (0, 1)]

    def sample(noise, positions, watch):
        return torch.where(
            (positions > 0.4).reshape(-1, 1, 1, 1) & (positions < 1).reshape(-1, 1, 1, 1), math.nan, noise
        )

    with pytest.raises(DenoiserError, match=r"NaN or Inf at position\(s\) 0.5, 0.75 "):
        morph_by(sample, noises, 5)


def test_bad_input():
    x0, keyframes = keys(gaussian(), 3)
    two = invert(gaussian(), x0[:2], SIGMAS, skip=0.1)
    other = invert(gaussian(), x0[:1], SIGMAS, skip=0.2)
    for wrong, message in [
        ({"keyframes": keyframes[:1]}, "1 given; a morph needs two"),
        ({"frames": 2}, "fewer than the 3 keyframes"),
        ({"keyframes": [keyframes[0], two]}, "keyframe 1: holds 2 pictures"),
        ({"keyframes": [keyframes[0], other]}, "keyframe 1: was inverted otherwise"),
        ({"originals": [None]}, "1 for 3 keyframes"),
        ({"originals": [None, None, x0]}, "original 2: shape"),
        ({"easing": "hop"}, "easing 'hop': unknown"),
        ({"pace": "brisk"}, "pace 'brisk': unknown"),
        ({"method": "swirl"}, "method 'swirl': unknown"),
        ({"batch": 0}, "batch 0"),
        ({"frames": 6.5}, "frames 6.5: a whole number is wanted"),
        ({"frames": 6.0}, "frames 6.0: a whole number"),
        ({"frames": "6"}, "frames '6': a whole number"),
        ({"frames": None}, "frames None: a whole number"),
        ({"batch": 2.5}, "batch 2.5: a whole number"),
        ({"easing": ["linear"]}, r"easing \['linear'\]: unknown"),
        ({"keyframes": list(x0.split(1))}, "keyframe 0: an `Inversion` is wanted .* found Tensor"),
        ({"keyframes": [keyframes[0], None]}, "keyframe 1: an `Inversion` is wanted .* found NoneType"),
        ({"keyframes": two}, "a list of inversions is wanted, found Inversion"),
        ({"denoise": None}, "denoise: is NoneType; a denoiser"),
        ({"conditioned": lambda positions: None}, "conditioned: gave NoneType; a denoiser"),
        ({"originals": [None, x0[1:2] * math.nan, None]}, "original 1: holds NaN or Inf"),
        ({"originals": [None, None, x0[2:].numpy()]}, "original 2: a tensor .* found ndarray"),
        ({"originals": x0}, "original 0: shape"),
    ]:
        with pytest.raises(InputError, match=message):
            morph(**{"denoise": gaussian(), "keyframes": keyframes, "frames": 6} | wrong)
    noises = [key.noise for key in keyframes]
    for wrong, back, message in [
        ([*noises[:2], noises[2] * math.inf], noises[0], "keyframe 2: holds NaN or Inf"),
        ([noises[0], noises[1][..., :5]], noises[0], "keyframe 1: noise of shape .*, keyframe 0's is"),
        ([noises[0], 3], noises[0], r"keyframe 1: a tensor \[1, channels, ...\] is wanted, found int"),
        ([noises[0], torch.tensor(1.0)], noises[0], r"keyframe 1: .*, found shape \(\)"),
        (noises, None, r"sample: gave NoneType for noise of shape \(3, 1, 6, 6\)"),
        (noises, noises[0], r"sample: gave shape \(1, 1, 6, 6\) for noise of shape \(3, 1, 6, 6\); a frame each"),
    ]:
        with pytest.raises(InputError, match=message):
            morph_by(lambda noise, positions, watch, back=back: back, wrong, 6)


def test_whole_numbers_may_be_numpy_s():
    assert len(morph(gaussian(), keys(gaussian())[1], np.int64(5), batch=np.int32(2)).frames) == 5
