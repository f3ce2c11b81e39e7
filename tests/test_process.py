"""Processes: putting noise in, taking it out, and converting between t, sigma and SNR."""

import math

import pytest
import torch
from exact import normal
from hypothesis import given
from hypothesis import strategies as st

from ssi_core import OU, VE, VP, DiscreteVP, Flow, InputError, integrate
from ssi_core.process import PROCESSES, process_from

ALL = [VE(), VP(), VP(0.2, 12.0), DiscreteVP(), DiscreteVP("cosine"), DiscreteVP("scaled-linear"), Flow()]
every_process = pytest.mark.parametrize("process", ALL, ids=repr)


def reach(process):
    """(smallest, largest) sigma that a process can convert."""
    if isinstance(process, DiscreteVP):
        return process.sigma_min, process.sigma_max
    return (1e-3, 0.999) if isinstance(process, Flow) else (1e-3, 150.0)


@every_process
@given(part=st.floats(0, 1))
def test_time_and_sigma_are_inverse(process, part):
    low, high = reach(process)
    sigma = low * (high / low) ** part
    assert float(process.sigma(process.time(sigma))) == pytest.approx(sigma, rel=1e-7)


@every_process
@given(part=st.floats(0, 1))
def test_snr_and_sigma_are_inverse(process, part):
    low, high = reach(process)
    sigma = low * (high / low) ** part
    assert float(process.sigma_of_snr(process.snr(sigma))) == pytest.approx(sigma, rel=1e-9)


@pytest.mark.parametrize("process", [*ALL, OU()], ids=repr)
@given(part=st.floats(0, 1))
def test_ratio_is_that_of_the_injection_and_has_its_inverse(process, part):
    """Noise over signal: what an injected picture of ones and a noise of ones are worth beside each other."""
    low, high = reach(process)
    sigma = low * (high / low) ** part
    one, none = torch.ones(1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, dtype=torch.float64)
    ratio = float(process.ratio(sigma))
    assert ratio == pytest.approx(float(process.inject(none, one, sigma) / process.inject(one, none, sigma)), rel=1e-9)
    assert float(process.sigma_of_ratio(ratio)) == pytest.approx(sigma, rel=1e-9)


@pytest.mark.parametrize("process", [*ALL, OU()], ids=repr)
def test_ratio_at_the_ends_and_of_many_levels(process):
    assert float(process.ratio(0.0)) == 0 == float(process.sigma_of_ratio(0.0))
    levels = torch.tensor([[0.1, 0.3], [0.5, 0.9]])
    assert process.ratio(levels).shape == (2, 2) and process.ratio(levels).dtype == torch.float64
    assert process.ratio(levels)[1, 0] == process.ratio(0.5)


def test_the_ratio_of_a_flow_reaches_noise_alone():
    assert math.isinf(float(Flow().ratio(1.0))) and float(Flow().sigma_of_ratio(math.inf)) == 1
    assert float(Flow().ratio(0.5)) == 1 and float(VE().ratio(3.0)) == pytest.approx(3, rel=1e-15)


@every_process
def test_conversions_are_elementwise_monotone_and_float64(process):
    low, high = reach(process)
    sigmas = torch.linspace(low, high, 50, dtype=torch.float64)
    assert (process.time(sigmas).diff() > 0).all()
    assert (process.snr(sigmas).diff() < 0).all()
    for convert in (process.time, process.snr):
        assert convert(sigmas.float()).dtype == torch.float64
        assert float(convert(sigmas)[7]) == pytest.approx(float(convert(float(sigmas[7]))), rel=1e-12)


@every_process
def test_snr_is_that_of_the_injection(process):
    x0, noise = normal(1, 4, 100), normal(1, 4, 100, seed=1)
    zero = torch.zeros_like(x0)
    sigma = 0.4
    signal, power = process.inject(x0, zero, sigma) / x0, process.inject(zero, noise, sigma) / noise
    assert torch.allclose((signal / power) ** 2, process.snr(sigma).expand_as(x0))


@every_process
@given(sigma=st.floats(0.01, 1))
def test_to_noise_undoes_from_noise(process, sigma):
    noise = normal(2, 3, 4)
    assert torch.allclose(process.to_noise(process.from_noise(noise, sigma), sigma), noise, rtol=1e-12)


@every_process
def test_predicted_noise_is_the_injected_one_when_the_estimate_is_right(process):
    x0, noise = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    x = process.inject(x0, noise, 0.3)
    assert torch.allclose(process.predicted_noise(x, x0, 0.3), noise, rtol=1e-10)


@every_process
def test_injection_at_zero_is_the_image(process):
    x0 = normal(2, 3, 4)
    assert torch.equal(process.inject(x0, normal(2, 3, 4, seed=1), 0.0), x0)


@every_process
def test_injected_line_solves_the_ode_when_the_image_is_known(process):
    """With D = x0 the ODE's solution from an injected point is the injection of the same noise at every level."""
    x0, noise = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    walk = integrate(lambda x, sigma: x0, process.inject(x0, noise, 0.1), [0.1, 0.5, 0.9], "euler", process)
    assert torch.allclose(walk.x, process.inject(x0, noise, 0.9), rtol=1e-12)


def test_vp_time_is_that_of_appendix_b():
    """alpha_bar(t) = exp(-integral of 0.1 + 19.9 t)."""
    for t in (0.01, 0.3, 1.0):
        level = math.exp(-(0.1 * t + 19.9 * t * t / 2))
        assert float(VP().sigma(t)) == pytest.approx(((1 - level) / level) ** 0.5, rel=1e-9)
    assert float(VP().time(0.0)) == 0
    assert float(VP().timestep(VP().sigma(1.0))) == pytest.approx(999)


def test_vp_states_are_the_models_own_with_unit_variance():
    for sigma in (0.1, 1.0, 50.0):
        s = VP().scale(sigma)
        assert s**2 + (s * sigma) ** 2 == pytest.approx(1)


@pytest.mark.parametrize("process", [*ALL, OU()], ids=repr)
def test_the_scale_of_many_levels_is_that_of_each(process):
    levels = torch.tensor([0.02, 0.5, 1.0], dtype=torch.float64)
    found = process.scale(levels)
    assert found.shape == (3,) and found.dtype == torch.float64
    assert found.tolist() == pytest.approx([process.scale(level) for level in levels.tolist()], rel=1e-15)


def test_discrete_levels_of_the_papers_settings():
    """ADM: kappa 39 is sigma 0.141, kappa 3 is 0.023 (0-based); Stable Diffusion's range is 0.0292 to 14.61."""
    linear, scaled = DiscreteVP("linear"), DiscreteVP("scaled-linear")
    assert float(linear.sigmas[39]) == pytest.approx(0.141, abs=1e-3)
    assert float(linear.sigmas[3]) == pytest.approx(0.023, abs=5e-4)
    assert scaled.sigma_min == pytest.approx(0.0292, abs=5e-5)
    assert scaled.sigma_max == pytest.approx(14.61, abs=5e-3)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    level = torch.prod(1 - betas[:500])
    assert float(linear.sigmas[499]) == pytest.approx(float(((1 - level) / level) ** 0.5), rel=1e-12)


def test_discrete_time_is_the_index_and_clamps_outside():
    process = DiscreteVP()
    assert torch.allclose(process.time(process.sigmas), torch.arange(1000, dtype=torch.float64), atol=1e-8)
    assert process.time(torch.tensor([1e-6, 1e6])).tolist() == [0.0, 999.0]
    assert float(process.sigma(-3)) == pytest.approx(process.sigma_min, rel=1e-12)
    assert float(process.sigma(5000)) == pytest.approx(process.sigma_max, rel=1e-12)
    middle = process.sigma(10.5)
    assert float(middle) == pytest.approx(float((process.sigmas[10] * process.sigmas[11]).sqrt()))


def test_own_levels():
    process = DiscreteVP(alphas_cumprod=(0.9, 0.5, 0.1))
    assert process.sigmas.tolist() == pytest.approx([(1 / 9) ** 0.5, 1.0, 3.0])


@pytest.mark.parametrize("levels", [(0.5, 0.9), (0.9, 0.9), (1.0, 0.5), (0.5, 0.0), (0.5, math.nan)])
def test_levels_that_do_not_fall_are_refused(levels):
    with pytest.raises(InputError, match="alphas_cumprod"):
        DiscreteVP(alphas_cumprod=levels)


def test_unknown_betas_list_the_known():
    with pytest.raises(InputError, match=r"'sine'.*linear, cosine, scaled-linear"):
        DiscreteVP("sine")


@pytest.mark.parametrize("process", [*ALL, DiscreteVP(alphas_cumprod=(0.9, 0.5, 0.1))], ids=repr)
def test_facts_build_an_equal_process(process):
    again = process_from(process.facts())
    assert again == process
    assert again.facts() == process.facts()
    if isinstance(process, DiscreteVP):
        assert torch.equal(again.sigmas, process.sigmas)


def test_unknown_process_lists_the_known():
    with pytest.raises(InputError, match=f"'edm'.*{', '.join(sorted(PROCESSES))}"):
        process_from({"name": "edm"})
    with pytest.raises(InputError, match=r"'vp'.*do not fit"):
        process_from({"name": "vp", "gamma": 1})
