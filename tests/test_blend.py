"""Blends: noise in, noise out, whatever the inputs' rank, angle and weights."""

import math

import pytest
import torch
from exact import normal
from hypothesis import given
from hypothesis import strategies as st

from ssi_core import BLENDS, InputError, blend, slerp
from ssi_core.blend import masked

KEEPS_NORM = ["gram", "slerp", "karcher"]
shapes = st.lists(st.integers(1, 4), min_size=2, max_size=5).map(tuple).filter(lambda s: math.prod(s[1:]) >= 2)
seeds = st.integers(0, 10_000)
inside = st.floats(0, 1)
anywhere = st.floats(-3, 4)


def norms(x):
    return x.double().flatten(1).norm(dim=1)


def on_sphere(x, radius=5.0):
    return x * (radius / norms(x)).reshape(-1, *[1] * (x.ndim - 1))


def pair(shape, seed):
    return on_sphere(normal(*shape, seed=seed)), on_sphere(normal(*shape, seed=seed + 50_000))


@pytest.mark.parametrize("method", KEEPS_NORM)
@given(shape=shapes, seed=seeds, t=anywhere)
def test_norm_is_kept_for_inputs_of_equal_norm(method, shape, seed, t):
    """Also past the ends, where the sphere is turned on."""
    a, b = pair(shape, seed)
    z = blend([a, b], [1 - t, t], method)
    assert z.shape == a.shape
    assert torch.allclose(norms(z), norms(a), rtol=1e-9)


@pytest.mark.parametrize("method", ["gram", "karcher"])
@given(shape=shapes, seed=seeds, weights=st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_norm_of_many_is_kept(method, shape, seed, weights):
    noises = [on_sphere(normal(*shape, seed=seed + 7919 * i)) for i in range(len(weights))]
    assert torch.allclose(norms(blend(noises, weights, method)), norms(noises[0]), rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("method", BLENDS)
@given(shape=shapes, seed=seeds)
def test_ends_are_exact_bit_for_bit_and_dtype_is_kept(method, dtype, shape, seed):
    a, b = normal(*shape, seed=seed).to(dtype), normal(*shape, seed=seed + 50_000).to(dtype)
    for weights, end in (([1.0, 0.0], a), ([0.0, 1.0], b)):
        z = blend([a, b], weights, method)
        assert z.dtype == dtype
        assert torch.equal(z, end)


@given(shape=shapes, seed=seeds)
def test_slerp_ends_are_exact_bit_for_bit(shape, seed):
    a, b = normal(*shape, seed=seed), 1.3 * normal(*shape, seed=seed + 1)
    assert torch.equal(slerp(a, b, 0), a)
    assert torch.equal(slerp(a, b, 1.0), b)


@pytest.mark.parametrize("gap", [0.0, 1e-16, 1e-12, 1e-8, 1e-7, 1e-6, 1e-3])
@pytest.mark.parametrize("sign", [1, -1], ids=["identical", "antiparallel"])
@pytest.mark.parametrize("method", KEEPS_NORM)
@given(shape=shapes, seed=seeds, t=inside)
def test_nearly_parallel_inputs_give_noise_and_never_nan(method, sign, gap, shape, seed, t):
    a = on_sphere(normal(*shape, seed=seed))
    b = on_sphere(sign * (a + gap * normal(*shape, seed=seed + 1)))
    z = blend([a, b], [1 - t, t], method)
    assert torch.isfinite(z).all()
    assert torch.allclose(norms(z), norms(a), rtol=1e-6)
    if sign > 0:
        assert torch.allclose(z, a, atol=20 * gap + 1e-9)


@pytest.mark.parametrize("method", ["gram", "karcher", "lol", "lerp", "slerp"])
def test_identical_inputs_give_themselves(method):
    a = normal(2, 3, 4, 4)
    z = blend([a, a.clone()], [0.4, 0.6], method)
    scale = 1 / math.hypot(0.4, 0.6) if method == "lol" else 1  # LOL takes its inputs for independent
    assert torch.allclose(z, scale * a, rtol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("method", KEEPS_NORM)
def test_one_value_a_sample_is_blended_or_refused_but_never_nan(method, shape):
    a = torch.ones(shape)
    for b in (a, -a):
        try:
            z = blend([a, b], [0.7, 0.3], method)
        except InputError:
            continue
        assert torch.isfinite(z).all()


@given(shape=shapes, seed=seeds, t=anywhere)
def test_slerp_turns_at_constant_speed(shape, seed, t):
    """The angle from the first input is |t| times the angle between the two, until it exceeds half a turn."""
    a, b = pair(shape, seed)
    between = torch.acos(((a * b).flatten(1).sum(1) / 25).clamp(-1, 1))
    turned = torch.acos(((a * slerp(a, b, t)).flatten(1).sum(1) / 25).clamp(-1, 1))
    wanted = (t * between).abs() % (2 * math.pi)
    wanted = torch.minimum(wanted, 2 * math.pi - wanted)
    assert torch.allclose(turned, wanted, atol=1e-6)


def test_slerp_is_shoemakes_formula_with_norms_interpolated():
    a, b, t = normal(3, 2, 5), 2 * normal(3, 2, 5, seed=1), 0.3
    u, v = a.flatten(1), b.flatten(1)
    nu, nv = u.norm(dim=1, keepdim=True), v.norm(dim=1, keepdim=True)
    angle = torch.acos((u / nu * v / nv).sum(1, keepdim=True))
    wanted = (torch.sin((1 - t) * angle) * u / nu + torch.sin(t * angle) * v / nv) / torch.sin(angle)
    wanted = wanted * ((1 - t) * nu + t * nv)
    assert torch.allclose(slerp(a, b, t).flatten(1), wanted, rtol=1e-10)


def test_karcher_of_two_is_slerp_and_of_three_its_own_definition():
    a, b, c = (on_sphere(normal(2, 3, 5, seed=i)) for i in range(3))
    for t in (0.1, 0.5, 0.8):
        assert torch.allclose(blend([a, b], [1 - t, t], "karcher"), slerp(a, b, t), atol=1e-9)
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    mean = blend([a, b, c], weights, "karcher").flatten(1) / 5
    pull = torch.zeros_like(mean)  # the weighted logarithms of the inputs at the mean cancel
    for w, x in zip(weights, (a, b, c), strict=True):
        u = x.flatten(1) / 5
        cosine = (u * mean).sum(1, keepdim=True)
        across = u - cosine * mean
        pull += w * torch.acos(cosine) * across / across.norm(dim=1, keepdim=True)
    assert pull.abs().max() < 1e-9


def test_gram_is_its_formula():
    noises, w = [normal(2, 3, 5, seed=i) for i in range(3)], [0.5, -0.2, 0.9]
    flat = torch.stack([n.flatten(1) for n in noises])
    total = sum(wi * x for wi, x in zip(w, flat, strict=True))
    r2 = sum(wi**2 * x.square().sum(1) for wi, x in zip(w, flat, strict=True)) / sum(wi**2 for wi in w)
    wanted = total / total.norm(dim=1, keepdim=True) * r2.sqrt()[:, None]
    assert torch.allclose(blend(noises, w).flatten(1), wanted, rtol=1e-12)


def correlated(count, rho, shape=(4, 4, 64, 64)):
    common = normal(*shape, seed=99)
    return [rho**0.5 * common + (1 - rho) ** 0.5 * normal(*shape, seed=i) for i in range(count)]


@pytest.mark.parametrize(
    ("method", "count", "rho", "wanted"),
    [
        ("lerp", 2, 0.0, 0.707),
        ("lol", 2, 0.0, 1.0),
        ("slerp", 2, 0.0, 1.0),
        ("lol", 2, 0.3, math.sqrt(1.3)),
        ("lol", 4, 0.3, math.sqrt(1.9)),
        ("gram", 2, 0.3, 1.0),
        ("gram", 4, 0.3, 1.0),
        ("karcher", 4, 0.3, 1.0),
    ],
)
def test_what_each_method_does_to_the_norm(method, count, rho, wanted):
    z = blend(correlated(count, rho), [1 / count] * count, method)
    assert (norms(z) / math.sqrt(4 * 64 * 64)).tolist() == pytest.approx([wanted] * 4, abs=0.03)


@pytest.mark.parametrize("method", BLENDS)
@given(shape=shapes, seed=seeds, t=inside)
def test_each_sample_is_blended_for_itself(method, shape, seed, t):
    a, b = normal(*shape, seed=seed), normal(*shape, seed=seed + 50_000)
    whole = blend([a, b], [1 - t, t], method)
    for i in range(len(a)):
        assert torch.allclose(blend([a[i : i + 1], b[i : i + 1]], [1 - t, t], method), whole[i : i + 1], atol=1e-10)


@given(shape=shapes, seed=seeds, weights=st.lists(anywhere, min_size=1, max_size=4))
def test_frames_of_the_first_sample_come_first(shape, seed, weights):
    a, b = pair(shape, seed)
    frames = slerp(a, b, weights)
    count = len(weights)
    assert frames.shape == (len(a) * count, *shape[1:])
    for f, t in enumerate(weights):
        assert torch.equal(frames[f::count], slerp(a, b, t))


def test_rows_of_weights_give_frames_too():
    noises = [normal(2, 3, 4, seed=i) for i in range(3)]
    rows = [[1, 0, 0], [0.2, 0.3, 0.5], [0, 0, 1]]
    frames = blend(noises, rows)
    assert frames.shape == (6, 3, 4)
    assert torch.allclose(frames[4], blend(noises, rows[1])[1])
    assert torch.allclose(frames[3], noises[0][1])


@pytest.mark.parametrize("method", ["gram", "karcher", "lol", "slerp"])
def test_only_the_proportion_of_weights_counts(method):
    a, b = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    assert torch.allclose(blend([a, b], [0.3, 0.7], method), blend([a, b], [3, 7], method), rtol=1e-9)


ONE = normal(2, 3, 4)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: blend([], [1.0]), "noises: none given"),
        (lambda: blend([ONE, ONE], [0.5, 0.5], "lirp"), "'lirp'.*gram.*slerp.*lerp"),
        (lambda: blend([ONE, normal(2, 3, 5)], [0.5, 0.5]), r"noise 1: has shape \(2, 3, 5\), noise 0 has \(2, 3, 4\)"),
        (lambda: slerp(ONE, ONE[:1], 0.5), r"noise 1: has shape \(1, 3, 4\)"),
        (lambda: blend([ONE, ONE], [0.5]), "weights.*does not match 2 noises"),
        (lambda: blend([ONE, ONE], [[0.5, 0.2, 0.3]]), "weights.*does not match 2 noises"),
        (lambda: blend([ONE, ONE], 0.5), "weights"),
        (lambda: blend([ONE, ONE], torch.zeros(0, 2)), "weights"),
        (lambda: slerp(ONE, ONE, [[0.5]]), "weights"),
        (lambda: slerp(ONE, ONE, []), "weights"),
        (lambda: blend([ONE, ONE], [0.0, 0.0]), "weights: all"),
        (lambda: blend([ONE, ONE], [[1.0, 0.0], [0.0, 0.0]]), "weights: all"),
        (lambda: slerp(ONE, ONE, math.nan), "weights: hold NaN"),
        (lambda: slerp(ONE, ONE, [0.0, math.inf]), "weights: hold NaN"),
        (lambda: blend([ONE, ONE], [1.0, -1.0], "slerp"), "weights"),
        (lambda: blend([ONE, ONE], [1.0, -1.0], "karcher"), "weights"),
        (lambda: blend([ONE] * 3, [1.0, 1.0, 1.0], "slerp"), "takes two noises, found 3"),
        (lambda: slerp(ONE, torch.full_like(ONE, math.nan), 0.5), "noise 1: holds NaN"),
        (lambda: slerp(ONE / 0, ONE, 0.5), "noise 0: holds NaN or Inf"),
        (lambda: slerp(ONE, torch.zeros_like(ONE), 0.5), "all zero"),
        (lambda: slerp(ONE[:0], ONE[:0], 0.5), "noise 0: a non-empty"),
        (lambda: slerp(ONE[0, 0], ONE[0, 0], 0.5), "noise 0"),
        (lambda: blend([ONE, [1.0]], [0.5, 0.5]), "noise 1"),
    ],
)
def test_bad_blends_are_refused_by_name(make, says):
    with pytest.raises(InputError, match=says):
        make()


def test_a_mask_keeps_unit_variance_on_soft_edges():
    a, b = (torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    mask = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    mixed = masked(a, b, mask)
    assert torch.allclose(mixed[..., 0], a[..., 0], atol=1e-6) and torch.allclose(mixed[..., -1], b[..., -1], atol=1e-6)
    columns = mixed.movedim(-1, 0).flatten(1).std(1)
    assert (columns - 1).abs().max() < 0.15  # 512 values a column: 0.031 is one standard deviation of chance
    assert abs(float(columns.mean()) - 1) < 0.01
    assert torch.allclose(masked(a, a, mask), a, atol=1e-6)


def test_wrong_masks():
    a = torch.randn(1, 4, 8, 8)
    with pytest.raises(ValueError, match="does not fit"):
        masked(a, a, torch.ones(1, 1, 9, 9))
    with pytest.raises(ValueError, match="0 to 1"):
        masked(a, a, torch.full((1, 1, 8, 8), 1.5))
