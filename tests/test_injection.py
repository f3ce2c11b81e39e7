"""How noise is put in: the closed form of the tangent injection, on every process."""

from functools import partial

import pytest
import torch
from exact import Counted, Gaussian, gaussian, normal, relative

from ssi_core import (
    INJECTIONS,
    VE,
    VP,
    Cancelled,
    DiscreteVP,
    Flow,
    InputError,
    Inversion,
    find_injection,
    injection,
    invert,
    karras_sigmas,
)
from ssi_core.guard import Guarded
from ssi_core.injection import tangent
from ssi_core.schedule import flow_sigmas

PROCESSES = [VE(), VP(), DiscreteVP(), Flow()]


def put_in(data, process, x0, noise, sigma, **options):
    return tangent(Guarded(data, process, steps=1), process, x0, noise, sigma, **options)


@pytest.mark.parametrize("rounds", [0, 1, 2, 5])
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
def test_tangent_on_gaussian_data_has_its_closed_form(process, rounds):
    """A round scales the noise by 1 - rho^2 and the image's offset a from the mean as a <- a + rho (1 - rho a)."""
    data = gaussian(isinstance(process, Flow))
    x0, noise = data.mean + data.var.sqrt() * normal(3, 1, 2, 4, seed=1), normal(3, 1, 2, 4, seed=2)
    sigma = 0.2
    snr = float(process.snr(sigma))
    rho = data.var / (data.var + 1 / snr)
    image, kept = torch.ones_like(rho), (1 - rho**2) ** rounds
    for _ in range(rounds):
        image = image + rho * (1 - rho * image)
    wanted = process.inject(data.mean + image * (x0 - data.mean), kept * noise, sigma)
    assert relative(put_in(data, process, x0, noise, sigma, rounds=rounds), wanted) < 1e-12


def test_many_rounds_amplify_what_the_model_does_not_see():
    """The limit of the image's share is 1/rho, as that of adding x0 - D(x) itself, at rho times its pace."""
    rho = torch.tensor([0.05, 0.3, 0.9], dtype=torch.float64)
    data = Gaussian(torch.zeros(1, 1, 3, dtype=torch.float64), (rho / (1 - rho)).reshape(1, 1, 3))  # at sigma 1
    ones, none = torch.ones(1, 1, 1, 3, dtype=torch.float64), torch.zeros(1, 1, 1, 3, dtype=torch.float64)

    def image(rounds):
        return put_in(data, VE(), ones, none, 1.0, rounds=rounds).flatten()

    assert torch.allclose(image(5000), 1 / rho, rtol=1e-4)
    assert torch.allclose(image(1) - 1, rho * (1 - rho), rtol=1e-12)
    x = ones
    for _ in range(300):
        x = x + ones - data(x, torch.ones(1))
    assert torch.allclose(x.flatten(), 1 / rho, rtol=1e-4)


def test_tangent_leaves_noise_alone_that_the_model_does_not_keep():
    """Across the data (variance 0) nothing changes, and what of the image lies there is not amplified."""
    var = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    data = Gaussian(torch.zeros(1, 1, 2, dtype=torch.float64), var)
    x0, noise = normal(4, 1, 1, 2, seed=3), normal(4, 1, 1, 2, seed=4)
    x = put_in(data, VE(), x0, noise, 0.05)
    assert torch.equal(x[..., 1], x0[..., 1] + 0.05 * noise[..., 1])
    assert (data(x, x.new_full((4,), 0.05)) - x0)[..., 0].abs().max() < 1e-4 < 0.01 * noise[..., 0].abs().max()


def test_the_variance_stays_what_docs_say():
    """Of Gaussian data of any variance, after one and two rounds: no less than it must be, and 11% and 24% more."""
    rho = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    var = rho / (1 - rho)  # at sigma 1
    data = Gaussian(torch.zeros(1, 1, 999, dtype=torch.float64), var.reshape(1, 1, -1))
    ends = {}
    for rounds in (1, 2):
        ones, none = torch.ones(1, 1, 1, 999, dtype=torch.float64), torch.zeros(1, 1, 1, 999, dtype=torch.float64)
        image, kept = (put_in(data, VE(), a, b, 1.0, rounds=rounds) for a, b in ((ones, none), (none, ones)))
        share = (image.square() * var + kept.square()) / (var + 1)
        ends[rounds] = float(share.min()), float(share.max())
    assert ends[1][0] > 0.999 and 1.10 < ends[1][1] < 1.11
    assert ends[2][0] > 0.999 and 1.23 < ends[2][1] < 1.24


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
def test_inversions_count_it_and_say_it(process, tmp_path):
    data = Counted(gaussian(isinstance(process, Flow)))
    x0 = normal(2, 1, 2, 4, seed=5)
    sigmas = flow_sigmas(10) if isinstance(process, Flow) else karras_sigmas(10, sigma_min=0.02)
    plain = invert(data, x0, sigmas, skip=0.1, process=process)
    before = data.nfe
    found = invert(data, x0, sigmas, skip=0.1, process=process, injection="tangent")
    assert found.nfe == plain.nfe + 4 == data.nfe - before
    found.save(tmp_path / "x.safetensors")
    assert Inversion.load(tmp_path / "x.safetensors").provenance["injection"] == "tangent"
    once = invert(data, x0, sigmas, skip=0.1, process=process, injection=partial(tangent, rounds=1))
    assert once.nfe == plain.nfe + 2 and once.provenance["injection_options"] == {"rounds": 1}
    assert plain.provenance["injection"] == "plain" and not torch.equal(plain.noise, found.noise)
    base = invert(data, x0, sigmas, skip=0, process=process, injection="tangent")
    assert torch.equal(base.noise, invert(data, x0, sigmas, skip=0, process=process).noise)


def test_what_is_refused():
    with pytest.raises(InputError, match="unknown; known are plain, tangent"):
        find_injection("sideways")
    with pytest.raises(InputError, match="a name or a function"):
        find_injection(3)
    with pytest.raises(InputError, match="rounds -1"):
        put_in(gaussian(), VE(), normal(1, 1, 2, 4), normal(1, 1, 2, 4), 0.1, rounds=-1)
    assert find_injection(lambda *given: given).name == "<lambda>"


def test_a_function_with_its_options_set_keeps_its_registered_name(monkeypatch):
    def crosswise(denoise, process, x0, noise, sigma, *, turns=1):
        return process.inject(x0, noise * (-1) ** turns, sigma)

    monkeypatch.setattr(injection, "INJECTIONS", dict(INJECTIONS))
    injection.register("turned")(crosswise)
    assert find_injection("turned").inject is crosswise
    assert find_injection(crosswise).name == find_injection(partial(crosswise, turns=2)).name == "turned"


@pytest.mark.parametrize("stop_at", [1, 3, 4])
def test_its_evaluations_are_told_and_can_be_cancelled(stop_at):
    data, seen = Counted(gaussian()), []
    x0, sigmas = normal(2, 1, 2, 4, seed=5), karras_sigmas(10, sigma_min=0.02)

    def watch(now):
        seen.append((data.nfe, now.step, now.sigma))
        return data.nfe < stop_at

    with pytest.raises(Cancelled, match=f"cancelled after {stop_at} evaluations, while noise was put in"):
        invert(data, x0, sigmas, skip=0.1, injection="tangent", progress=watch)
    assert seen == [(n, n, pytest.approx(0.1)) for n in range(1, stop_at + 1)] and data.nfe == stop_at


def test_every_evaluation_is_told_once():
    data, seen = Counted(gaussian()), []
    x0, sigmas = normal(2, 1, 2, 4, seed=5), karras_sigmas(10, sigma_min=0.02)
    found = invert(data, x0, sigmas, skip=0.1, injection="tangent", progress=lambda now: seen.append(now))
    steps = len(found.sigmas) - 2
    assert [now.step for now in seen] == [1, 2, 3, 4, *range(1, steps + 1)]
    assert all(now.steps - now.step == steps for now in seen[:4]) and len(seen) == found.nfe == data.nfe
    assert all(now.x.shape == now.denoised.shape == x0.shape for now in seen)
