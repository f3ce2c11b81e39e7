"""Where a network stops following the noise: against denoisers for which that is known."""

import math

import pytest
import torch
from exact import Counted, Gaussian, normal

from ssi_core import Cancelled, DenoiserError, Flow, InputError, karras_sigmas, singularity_curve, unit_noise
from ssi_core.singularity import ALIGNED, KNEE_BELOW, knee

SHAPE = (1, 16, 16)
SIGMAS = karras_sigmas(80, sigma_min=1e-3, sigma_max=20)


def half_flat(flow=False):
    """Data that varies (std 1) in the upper half of its pixels only."""
    var = torch.zeros(SHAPE, dtype=torch.float64)
    var[:, :8] = 1.0
    return Gaussian(torch.zeros(SHAPE, dtype=torch.float64), var, flow)


def sample(count=3, seed=5):
    x = normal(count, *SHAPE, seed=seed)
    x[:, :, 8:] = 0
    return x


@pytest.mark.parametrize("flow", [False, True])
def test_exact_denoiser_is_followed_to_the_end(flow):
    denoise, x0 = Counted(half_flat(flow)), sample()
    sigmas = torch.linspace(0.99, 0.01, 30) if flow else SIGMAS
    found = singularity_curve(denoise, x0, sigmas, seed=3, process=Flow() if flow else None)
    # The exact posterior keeps the noise of the flat half and, at small sigma, sees none of the other's.
    n = unit_noise(x0, (3, 4, 5)).flatten(1)
    flat = unit_noise(x0, (3, 4, 5))[:, :, 8:].flatten(1).norm(dim=1)
    assert found.noised[-1].allclose(flat / 16, rtol=0.02)
    assert found.alignment[-1].allclose(flat / n.norm(dim=1), rtol=0.02)
    assert found.nfe == denoise.nfe == 2 * len(found.sigmas)
    if not flow:  # which goes down to sigma .01 only, where the data's scale is still felt
        assert found.stops.tolist() == [0, 0, 0]


def network(k):
    """One that resolves the singularity down to sigma k only: the noise it predicts shrinks below."""

    def denoise(x, sigma):
        s = sigma.reshape(-1, 1, 1, 1)
        return x * (1 - s**2 / (s**2 + k**2))

    return denoise


@pytest.mark.parametrize("k", [0.02, 0.06])
def test_knee_of_a_network_of_bounded_slope(k):
    x0 = torch.zeros(2, *SHAPE, dtype=torch.float64)
    found = singularity_curve(network(k), x0, SIGMAS)
    # |x - D| / sigma = |n| / (1 + (k/sigma)^2), whose logarithmic slope 2 k^2 / (sigma^2 + k^2) is 0.06 at:
    wanted = k * math.sqrt(2 / 0.06 - 1)
    assert found.knee.tolist() == pytest.approx([wanted] * 2, rel=0.15)
    assert found.stops.equal(found.knee) and float(found.unaligned.max()) == 0
    assert "shrinks" in found.reasons[0]
    rows = list(found.rows())
    assert len(rows) == 2 * len(found.sigmas)
    assert {row["follows"] for row in rows if row["sigma"] > wanted * 1.2} == {1.0}
    assert {row["follows"] for row in rows if row["sigma"] < wanted * 0.8} == {0.0}


def test_image_off_the_manifold_is_told_by_the_direction():
    x0 = sample() + 0.3 * normal(3, *SHAPE, seed=9)  # texture that the data has not: D takes it for noise
    found = singularity_curve(half_flat(), x0, SIGMAS)
    assert float(found.noised[-1].min()) > 100 and bool((found.unaligned > 0.05).all())
    assert bool((found.alignment[found.sigmas > found.unaligned.max()] >= ALIGNED).all())
    assert "points elsewhere" in found.reasons[0]
    # The clean image at small sigma predicts the same noise, and knows nothing of n.
    assert found.clean[-1].allclose(found.noised[-1], rtol=0.02)
    assert float(found.alignment_clean.abs().max()) < 0.3


@pytest.mark.parametrize("count", [4, 6, 10, 40])
def test_few_levels_err_to_the_safe_side(count):
    k = 0.02
    grid = karras_sigmas(count, sigma_min=1e-3, sigma_max=20, rho=1e6)  # even in log sigma
    found = singularity_curve(network(k), torch.zeros(1, *SHAPE, dtype=torch.float64), grid)
    assert float(found.stops) > 0.6 * k * math.sqrt(2 / 0.06 - 1)
    failing = [row["sigma"] for row in found.rows() if not row["follows"]]
    assert failing and max(failing) < float(found.stops)


def test_noise_depends_on_the_seed_only():
    both = singularity_curve(half_flat(), sample(2), SIGMAS, seed=[7, 8])
    second = singularity_curve(half_flat(), sample(2)[1:], SIGMAS, seed=8)
    assert both.noised[:, 1:].equal(second.noised) and both.alignment[:, 1:].equal(second.alignment)


def test_knee_of_curves():
    sigmas = torch.logspace(1, -3, 200, dtype=torch.float64)
    assert knee(sigmas, torch.ones(200, dtype=torch.float64)) == 0.0
    bounded = 0.7 / torch.sqrt(1 + (0.01 / sigmas) ** 2)
    found = knee(sigmas, bounded)
    assert 0.7 / math.sqrt(1 + (0.01 / found) ** 2) == pytest.approx(0.97 * 0.7, rel=0.005)
    assert knee(sigmas, sigmas.clamp(min=1.0)) == 0.0  # a fall above KNEE_BELOW is the data's own scale
    assert KNEE_BELOW < 1


def test_cancelled_and_refused():
    seen = []

    def stop(now):
        seen.append(now)
        return now.step < 3

    with pytest.raises(Cancelled, match="level 3 of 80"):
        singularity_curve(half_flat(), sample(), SIGMAS, progress=stop)
    assert [(now.step, now.steps, now.nfe) for now in seen] == [(1, 80, 2), (2, 80, 4), (3, 80, 6)]
    noise = unit_noise(sample(), (0, 1, 2))
    assert seen[2].x.allclose(sample() + seen[2].sigma * noise)
    assert seen[2].denoised.allclose(half_flat()(seen[2].x, torch.full((3,), seen[2].sigma)), rtol=1e-5)
    with pytest.raises(InputError, match="rank 3"):
        singularity_curve(half_flat(), torch.zeros(4, 4), SIGMAS)
    with pytest.raises(InputError, match="fall"):
        singularity_curve(half_flat(), sample(), [0.1, 0.5])
    with pytest.raises(DenoiserError, match="NaN"):
        singularity_curve(lambda x, s: x / 0 * 0, sample(), SIGMAS)
