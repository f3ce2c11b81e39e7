"""Parametrisations: a network that predicts exactly what it should makes the exact D."""

import pytest
import torch
from exact import Counted, gaussian, normal

from ssi_core import (
    EDM,
    VP,
    X0,
    Clipped,
    DiscreteVP,
    Eps,
    Flow,
    Guided,
    InputError,
    V,
    Velocity,
    flow_sigmas,
    invert,
    karras_sigmas,
)
from ssi_core.denoiser import like

SIGMA = torch.tensor([0.05, 1.0, 30.0], dtype=torch.float64)


def parts(process, sigma):
    """What a VP network of the exact Gaussian is given, as a function of its own arguments (z, time)."""
    data = gaussian()

    def unpack(z, time):
        s = like(process.sigma(time / 999 if isinstance(process, VP) else time), z)
        x = z * (1 + s**2).sqrt()
        return x, s, data(x, s.flatten())

    return data, unpack


@pytest.mark.parametrize("process", [VP(), DiscreteVP()], ids=lambda p: p.name)
@pytest.mark.parametrize(
    ("wrapper", "target"),
    [
        (Eps, lambda x, s, d: (x - d) / s),
        (V, lambda x, s, d: ((x - d) / s - s * d) / (1 + s**2).sqrt()),
        (X0, lambda x, s, d: d),
    ],
    ids=["eps", "v", "x0"],
)
def test_vp_parametrisations(wrapper, target, process):
    data, unpack = parts(process, SIGMA)
    denoise = wrapper(lambda z, time: target(*unpack(z, time)), process.timestep)
    x = like(SIGMA, torch.zeros(3, 1, 2, 4, dtype=torch.float64)) * normal(3, 1, 2, 4)
    assert torch.allclose(denoise(x, SIGMA), data(x, SIGMA), rtol=1e-6, atol=1e-7)


def test_edm_is_table_1():
    """Network F with c_skip, c_out, c_in, c_noise as printed, solved for F of the exact D."""
    data, sd = gaussian(), 0.5

    def network(scaled, noise):
        s = like((4 * noise).exp(), scaled)
        x = scaled * (s**2 + sd**2).sqrt()
        c_skip, c_out = sd**2 / (s**2 + sd**2), s * sd / (sd**2 + s**2).sqrt()
        return (data(x, s.flatten()) - c_skip * x) / c_out

    x = 5 * normal(3, 1, 2, 4)
    assert torch.allclose(EDM(network, sd)(x, SIGMA), data(x, SIGMA), rtol=1e-9)


def test_velocity_is_noise_minus_image():
    x0, noise = normal(2, 1, 2, 4), normal(2, 1, 2, 4, seed=1)
    sigma = torch.tensor([0.2, 1.0], dtype=torch.float64)
    x = torch.cat([Flow().inject(x0[i : i + 1], noise[i : i + 1], float(sigma[i])) for i in range(2)])
    assert torch.allclose(Velocity(lambda x, t: noise - x0)(x, sigma), x0)


def conditioned(x, sigma, condition):
    return x * condition + like(sigma, x)


def test_guidance_is_the_classifier_free_formula_in_one_call():
    x, sigma = normal(2, 1, 2, 4), torch.tensor([0.3, 0.6], dtype=torch.float64)
    yes, no = torch.full((1, 1, 1, 1), 2.0).double(), torch.full((2, 1, 1, 1), 0.5).double()
    calls = []

    def denoise(x, sigma, condition):
        calls.append(len(x))
        return conditioned(x, sigma, condition)

    wanted = conditioned(x, sigma, no) + 7.5 * (conditioned(x, sigma, yes) - conditioned(x, sigma, no))
    assert torch.allclose(Guided(denoise, yes, no, 7.5)(x, sigma), wanted)
    assert calls == [4]
    assert torch.equal(Guided(denoise, yes, no, 1.0)(x, sigma), conditioned(x, sigma, yes))
    assert calls == [4, 2]
    assert torch.allclose(Guided(denoise, yes, no, 0.0)(x, sigma), conditioned(x, sigma, no))


def test_guided_denoiser_inverts_and_counts_one_evaluation_a_step():
    denoise = Guided(lambda x, s, c: gaussian()(x, s) + 0 * c, torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), 2.0)
    counted = Counted(denoise)
    inv = invert(counted, normal(2, 1, 2, 4), karras_sigmas(8), solver="euler")
    assert inv.nfe == counted.nfe == len(inv.sigmas) - 2


def test_clipped_clamps_the_estimate_only():
    x = 5 * normal(2, 1, 2, 4)
    assert Clipped(lambda x, sigma: x)(x, SIGMA[:2]).abs().max() == 1
    assert torch.equal(Clipped(lambda x, sigma: x / 100)(x, SIGMA[:2]), x / 100)


class Conditional(torch.nn.Module):
    """A linear eps network in a dtype of its own, with a condition; remembers what it was given."""

    def __init__(self, dtype):
        super().__init__()
        self.mix = torch.nn.Conv2d(3, 3, 1, dtype=dtype)
        self.given = []

    def forward(self, x, time, condition=None):
        self.given.append((x.dtype, time.dtype))
        return self.mix(x) + (0 if condition is None else condition[:, :, None, None].to(x.dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("state", [torch.float32, torch.float64])
def test_a_network_computes_in_its_own_dtype(dtype, state):
    vp = DiscreteVP()
    x, sigma = torch.randn(2, 3, 4, 4, dtype=state), torch.tensor([0.3, 40.0], dtype=state)
    for wrap in (
        EDM,
        Velocity,
        lambda n: Eps(n, vp.timestep),
        lambda n: V(n, vp.timestep),
        lambda n: X0(n, vp.timestep),
    ):
        network = Conditional(dtype)
        with torch.no_grad():
            D = wrap(network)(x, sigma)
        assert D.dtype == state
        assert D.isfinite().all()
        ((given, time),) = network.given
        assert given == dtype
        assert time in (torch.float32, torch.float64)


def test_guidance_goes_around_a_parametrisation_and_keeps_its_facts():
    network = Conditional(torch.float32)
    inner = Eps(network, DiscreteVP().timestep)
    inner.sigma_min = 0.01
    c, u = torch.ones(1, 3), torch.zeros(1, 3)
    x, sigma = torch.randn(2, 3, 4, 4), torch.tensor([0.3, 4.0])
    with torch.no_grad():
        wanted = inner(x, sigma, u.expand(2, 3)) + 2.5 * (
            inner(x, sigma, c.expand(2, 3)) - inner(x, sigma, u.expand(2, 3))
        )
        torch.testing.assert_close(Guided(inner, c, u, 2.5)(x, sigma), wanted)
        torch.testing.assert_close(Guided(inner, c, u)(x, sigma), inner(x, sigma, c.expand(2, 3)))
    assert Clipped(Guided(inner, c, u)).sigma_min == 0.01
    with pytest.raises(AttributeError):
        Clipped(inner).colour  # noqa: B018


def test_a_clipped_model_still_refuses_a_skip_under_its_smallest_sigma():
    inner = Eps(Conditional(torch.float32), DiscreteVP().timestep)
    inner.sigma_min = 0.01
    with pytest.raises(InputError, match=r"smallest sigma, 0\.01"):
        invert(Clipped(inner), torch.zeros(1, 3, 4, 4), karras_sigmas(4, sigma_min=0.01), skip=0.001)


def test_a_flow_model_needs_a_flow_process():
    x = torch.zeros(1, 3, 4, 4)
    with pytest.raises(InputError, match=r"needs Flow\(\)"):
        invert(Velocity(Conditional(torch.float32)), x, flow_sigmas(4), skip=0.1)
    with pytest.raises(InputError, match="no flow model"):
        invert(EDM(Conditional(torch.float32)), x, flow_sigmas(4), skip=0.1, process=Flow())
