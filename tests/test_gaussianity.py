"""The verdict on noise: its floors are those of Gaussian noise, and each planted defect is found."""

import math
from dataclasses import asdict
from functools import lru_cache

import pytest
import torch
from exact import normal

from ssi_core import InputError, gaussianity
from ssi_core.gaussianity import CHANCE, FIGURES

SHAPES = [(3, 32, 32), (4, 64, 64)]
SAMPLED = [name for name in FIGURES if name != "edge"]


@lru_cache(maxsize=4)
def fresh(shape, count=256):
    """Reports on true noise that the floors were not made from, with an image of smooth blobs beside it."""
    noise = normal(count, *shape, seed=777)
    return gaussianity(noise, torch.nn.functional.avg_pool2d(normal(count, *shape, seed=778), 5, 1, 2))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FIGURES)
def test_floor_and_spread_are_those_of_fresh_noise(name, shape):
    report = fresh(shape)
    values = getattr(report, name)
    floor, spread = float(getattr(report.floor, name)), float(getattr(report.spread, name))
    if math.isnan(floor):  # a figure that pictures do not have
        assert values.isnan().all()
        return
    assert float(values.mean()) == pytest.approx(floor, abs=5 * spread * math.sqrt(1 / 256 + 1 / 256))
    assert float(values.std()) == pytest.approx(spread, rel=0.3)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_floors_are_the_analytic_ones(shape):
    floor, spread = fresh(shape).floor, fresh(shape).spread
    channels, height, width = shape
    pixels, values = height * width, math.prod(shape)

    def mean_abs_r(n):
        return math.sqrt(2 / (math.pi * (n - 1)))

    assert float(floor.chan) == pytest.approx(mean_abs_r(pixels), rel=0.1)
    assert float(floor.hori) == pytest.approx(mean_abs_r(height), rel=0.02)
    assert float(floor.vert) == pytest.approx(mean_abs_r(width), rel=0.02)
    assert float(floor.std) == pytest.approx(1, abs=0.005)
    assert float(floor.ks) == pytest.approx(0.8687 / math.sqrt(values), rel=0.08)
    assert float(spread.mean) == pytest.approx(values**-0.5, rel=0.2)
    assert float(spread.std) == pytest.approx((2 * values) ** -0.5, rel=0.2)
    assert float(spread.skew) == pytest.approx((6 / values) ** 0.5, rel=0.2)
    assert float(spread.kurtosis) == pytest.approx((24 / values) ** 0.5, rel=0.2)
    assert float(spread.lag1_h) == pytest.approx(values**-0.5, rel=0.2)
    assert float(spread.edge) == pytest.approx((pixels - 1) ** -0.5, rel=1e-6)
    assert float(spread.chi_z) == pytest.approx(1, rel=0.2)
    block = channels * 16
    assert float(floor.block_spread) == pytest.approx((2 * (block - 1)) ** -0.5, rel=0.08)
    for name in ("mean", "skew", "kurtosis", "lag1_h", "lag1_v", "edge", "chi_z"):
        assert abs(float(getattr(floor, name))) < 0.4 * float(getattr(spread, name)), name


def low_frequency_field(count=2, side=256):
    coarse = 0.2 * normal(count, 3, 8, 8, seed=31)
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")


def test_at_256_the_papers_figures_are_weak_and_lag_1_is_not():
    """A low-frequency field of amplitude .2 hardly moves HORI and moves lag-1 by its share of the variance."""
    noise, field = normal(2, 3, 256, 256, seed=30), low_frequency_field()
    clean, planted = gaussianity(noise), gaussianity((noise + field) / (1 + field.var()).sqrt())
    assert float(clean.floor.chan) == pytest.approx(0.0031, abs=2e-4)
    assert float(clean.floor.hori) == pytest.approx(0.0500, abs=5e-4)
    assert float(clean.floor.vert) == pytest.approx(0.0500, abs=5e-4)
    share = float(field.var() / (1 + field.var()))
    assert 0.02 < share < 0.035
    assert clean.verdict
    for name in ("lag1_h", "lag1_v"):
        moved = (getattr(planted, name) - getattr(clean, name)).mean()
        assert float(moved) == pytest.approx(share, rel=0.2)
    assert float((planted.hori / clean.hori - 1).max()) < 0.15
    assert planted.verdicts == (False, False)
    assert not any("HORI" in reason for reasons in planted.reasons for reason in reasons)


def bent_by_edges(z):
    image = torch.zeros_like(z)
    image[..., 12:20, 8:24] = 1.0
    dy, dx = torch.gradient(image, dim=(-2, -1))
    at_edges = ((dy.abs() + dx.abs()).sum(1, keepdim=True) > 0).double()
    bent = z * (1 + 0.8 * at_edges)
    return bent / bent.flatten(1).std(1)[:, None, None, None], image


def student(z, degrees=6):
    generator = torch.Generator().manual_seed(5)
    chi = torch.zeros_like(z)
    for _ in range(degrees):
        chi += torch.randn(z.shape, generator=generator, dtype=z.dtype) ** 2
    t = z / (chi / degrees).sqrt()
    return t * math.sqrt((degrees - 2) / degrees)


def leaning(z):
    return (z + 0.3 * (z**2 - 1)) / math.sqrt(1 + 0.18)


def mixed_channels(z, rho=0.2):
    return rho**0.5 * z.mean(1, keepdim=True) * math.sqrt(z.shape[1]) + (1 - rho) ** 0.5 * normal(*z.shape, seed=8)


def quiet_corner(z):
    z = z.clone()
    z[..., :16, :16] *= 0.4
    return z / z.flatten(1).std(1)[:, None, None, None]


def blurred(z, across):
    shifted = z.roll(1, dims=across)
    return (z + 0.15 * shifted) / math.sqrt(1 + 0.15**2)


DEFECTS = {
    "collapsed": (lambda z: 0.85 * z, "standard deviation"),
    "too strong": (lambda z: 1.1 * z, "standard deviation"),
    "shifted": (lambda z: z + 0.12, "mean"),
    "channels": (mixed_channels, "CHAN"),
    "heavy tails": (student, "excess kurtosis"),
    "light tails": (lambda z: math.sqrt(3) * (2 * torch.special.ndtr(z) - 1), "excess kurtosis"),
    "leaning": (leaning, "skewness"),
    "binary": (lambda z: z.sign(), "Kolmogorov"),
    "quiet region": (quiet_corner, "blocks"),
    "rows": (lambda z: blurred(z, -1), "horizontal neighbours"),
    "columns": (lambda z: blurred(z, -2), "vertical neighbours"),
    "alternating": (lambda z: (z - 0.15 * z.roll(1, -1)) / math.sqrt(1.0225), "neighbours alternate"),
    "strong rows": (lambda z: (z + z.roll(1, -1)) / math.sqrt(2), "HORI"),
    "strong columns": (lambda z: (z + z.roll(1, -2)) / math.sqrt(2), "VERT"),
    "low frequencies": (lambda z: (z + 3 * low_frequency_field(len(z), 32)) / 1.13, "spatial frequencies"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_planted_defect_is_found_in_every_sample_and_named(defect):
    plant, named = DEFECTS[defect]
    report = gaussianity(plant(normal(6, 3, 32, 32, seed=60)))
    assert not report.verdict
    assert report.verdicts == (False,) * 6
    found = sum(any(named in reason for reason in reasons) for reasons in report.reasons)
    assert found >= 5, report.reasons


def test_variance_that_follows_the_images_edges_is_found_when_the_image_is_known():
    bent, image = bent_by_edges(normal(6, 3, 32, 32, seed=60))
    report = gaussianity(bent, image)
    assert all(any("image's edges" in reason for reason in reasons) for reasons in report.reasons)
    assert gaussianity(bent).edge.isnan().all()
    assert gaussianity(normal(6, 3, 32, 32, seed=61), image).verdict


def test_edge_is_the_correlation_of_absolute_noise_with_the_gradient():
    z, image = normal(1, 2, 12, 12), normal(1, 3, 12, 12, seed=1)
    dy, dx = torch.gradient(image[0], dim=(-2, -1))
    strength = (dy**2 + dx**2).sum(0).sqrt().flatten()
    wanted = torch.corrcoef(torch.stack([z[0].abs().mean(0).flatten(), strength]))[0, 1]
    assert float(gaussianity(z, image).edge) == pytest.approx(float(wanted), rel=1e-10)


def test_figures_by_hand():
    z = normal(2, 3, 8, 10)
    report = gaussianity(z)
    flat = z[1].flatten()
    sigma = flat.std(correction=0)
    assert float(report.mean[1]) == pytest.approx(float(flat.mean()))
    assert float(report.std[1]) == pytest.approx(float(flat.std()))
    assert float(report.skew[1]) == pytest.approx(float((((flat - flat.mean()) / sigma) ** 3).mean()))
    assert float(report.kurtosis[1]) == pytest.approx(float((((flat - flat.mean()) / sigma) ** 4).mean()) - 3)
    r = torch.corrcoef(z[1].flatten(1))
    assert float(report.chan[1]) == pytest.approx(float((r[0, 1].abs() + r[0, 2].abs() + r[1, 2].abs()) / 3))
    columns = [torch.corrcoef(torch.stack([c[:, i], c[:, i + 1]]))[0, 1].abs() for c in z[1] for i in range(9)]
    rows = [torch.corrcoef(torch.stack([c[i], c[i + 1]]))[0, 1].abs() for c in z[1] for i in range(7)]
    assert float(report.hori[1]) == pytest.approx(float(torch.stack(columns).mean()))
    assert float(report.vert[1]) == pytest.approx(float(torch.stack(rows).mean()))
    side = torch.corrcoef(torch.stack([z[1, :, :, 1:].flatten(), z[1, :, :, :-1].flatten()]))[0, 1]
    assert float(report.lag1_h[1]) == pytest.approx(float(side))
    ordered = flat.sort().values
    gaps = [
        max((i + 1) / len(ordered) - p, p - i / len(ordered))
        for i, p in enumerate(torch.special.ndtr(ordered).tolist())
    ]
    assert float(report.ks[1]) == pytest.approx(max(gaps))
    assert report.channels["std"].shape == (2, 3)
    assert float(report.channels["std"][1, 2]) == pytest.approx(float(z[1, 2].std()))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_true_noise_is_hardly_ever_accused(shape):
    draws = gaussianity(normal(512, *shape, seed=90), normal(512, *shape, seed=91))
    accused = [reasons for reasons in draws.reasons if reasons]
    assert len(accused) <= 1, accused


@pytest.mark.parametrize("shape", [(2, 64), (1, 4000), (3, 8, 8), (16, 4, 4), (1, 16, 16), (4, 5, 16, 16)], ids=str)
def test_true_noise_of_any_rank_and_size_passes(shape):
    """Audio, small latents, one channel, video."""
    report = gaussianity(normal(64, *shape, seed=92))
    accused = [reasons for reasons in report.reasons if reasons]
    assert len(accused) <= 1, accused
    for name in FIGURES:
        assert getattr(report, name).shape == (64,)


def test_figures_that_a_shape_does_not_have_are_nan_and_accuse_nobody():
    audio = gaussianity(normal(2, 1, 400))
    for name in ("chan", "hori", "vert", "lag1_v", "edge"):
        assert getattr(audio, name).isnan().all(), name
    assert audio.lag1_h.isfinite().all()
    assert audio.verdict


@pytest.mark.parametrize("shape", [(2, 512), (4, 5, 16, 16)], ids=["audio", "video"])
def test_defects_are_found_in_audio_and_video(shape):
    z = normal(4, *shape, seed=93)
    for planted in (0.85 * z, z + 0.25, (z + 0.7 * z.roll(1, -1)) / math.sqrt(1.49)):
        assert gaussianity(planted).verdicts == (False,) * 4


def test_video_whose_frames_repeat_is_found():
    z = normal(2, 4, 1, 16, 16, seed=94).expand(-1, -1, 8, -1, -1)
    assert gaussianity(z).verdicts == (False, False)


def test_one_bad_sample_flags_itself_only():
    z = normal(5, 3, 32, 32, seed=95)
    z[3] *= 0.8
    report = gaussianity(z)
    assert report.verdicts == (True, True, True, False, True)
    assert not report.verdict
    assert "collapsed" in " ".join(report.reasons[3])


def test_figures_do_not_depend_on_the_batch_or_the_dtype():
    z = normal(4, 3, 16, 16)
    whole, alone = gaussianity(z), gaussianity(z[2:3])
    for name in SAMPLED:
        assert float(getattr(whole, name)[2]) == pytest.approx(float(getattr(alone, name)[0]), rel=1e-9, nan_ok=True), (
            name
        )
    assert float(gaussianity(z.float()).ks[0]) == pytest.approx(float(whole.ks[0]), abs=1e-6)
    assert whole.std.dtype == torch.float64


def test_constant_noise_is_judged_without_nan():
    report = gaussianity(torch.zeros(1, 3, 16, 16))
    assert not report.verdict
    for name in SAMPLED:
        assert math.isfinite(float(getattr(report, name))) == math.isfinite(float(getattr(report.floor, name))), name


def test_floors_do_not_touch_the_global_generator():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = gaussianity(normal(1, 2, 9, 9)).floor
    assert torch.equal(torch.get_rng_state(), state)
    assert set(asdict(first)) == set(FIGURES)


@pytest.mark.parametrize(
    ("noise", "image", "says"),
    [
        (torch.zeros(3, 4), None, "rank 3"),
        (torch.zeros(0, 3, 4, 4), None, "non-empty"),
        (torch.zeros(1, 1, 5), None, "5 values a sample are too few"),
        (torch.full((1, 3, 4, 4), math.nan), None, "NaN or Inf"),
        (torch.full((1, 3, 4, 4), math.inf), None, "NaN or Inf"),
        (normal(2, 3, 8, 8), torch.zeros(2, 3, 8, 9), "image: shape"),
        (normal(2, 3, 8, 8), torch.zeros(1, 3, 8, 8), "image: shape"),
        ("noise", None, "rank 3"),
    ],
)
def test_unusable_noise_is_refused(noise, image, says):
    with pytest.raises(InputError, match=says):
        gaussianity(noise, image)


def test_the_margin_is_the_share_that_the_worst_figure_uses_up():
    noise = normal(40, 3, 16, 16, seed=9).float()
    assert float(gaussianity(noise).margin().max()) < 1
    shrunk = noise * torch.linspace(0.7, 1.0, 40)[:, None, None, None]
    report = gaussianity(shrunk)
    assert [m <= 1 for m in report.margin().tolist()] == list(report.verdicts)
    allowed = max(FIGURES["std"].tolerance, CHANCE * float(report.spread.std))
    wanted = (report.std - report.floor.std).abs() / allowed
    assert torch.allclose(report.margin(["std"]), wanted)
    assert float(report.margin(["chan"])[0]) == pytest.approx(float(gaussianity(noise).margin(["chan"])[0]), rel=1e-5)
    assert float(report.margin(["chi_z"]).max()) == 0  # told, not judged
