"""Training targets, training and stochastic samplers, against cases whose answers are known in closed form."""

import math
from functools import partial

import pytest
import torch
from exact import Gaussian, normal, slope
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ssi_core import (
    OU,
    VE,
    VP,
    Cancelled,
    DenoiserError,
    Flow,
    InputError,
    exponential_sigmas,
    gaussianity,
    invert,
    karras_sigmas,
    process,
    reconstruct,
    singularity_curve,
)
from ssi_core.manifold import (
    CEM_WEIGHTS,
    MLP,
    SCHEDULES,
    Conditional,
    Eps,
    Exact,
    Iso,
    Mixture,
    Niso,
    Plane,
    Rotations,
    Score,
    Slices,
    Sphere,
    SphereModes,
    Tango,
    Trained,
    annealed_langevin,
    clouds,
    distribution,
    inverse_covariance,
    log_uniform,
    on_times,
    reverse_sde,
    rows,
    sliced_wasserstein,
    times,
    train,
)
from ssi_core.manifold.noise import normal_like
from ssi_core.manifold.objectives import Noised
from ssi_core.metrics import frechet

PLANE = Plane(2, 1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def objectives():
    for rescaled in (False, True):
        yield Score(OU(), rescaled)
        yield Eps(OU(), rescaled)
        for weighting in CEM_WEIGHTS:
            yield Conditional(OU(), rescaled, weighting=weighting)
        yield Iso(VE(), rescaled, data_std=0.7)
        yield Niso(VE(), rescaled, surface=PLANE, extra=0.3)
        yield Tango(VE(), rescaled, surface=PLANE, below=10.0)


def label(kind):
    return f"{kind.name}{'+res' if kind.rescaled else ''}-{getattr(kind, 'weighting', '')}"


class Linear(nn.Module):
    """x -> A x: for Gaussian data at one level, every objective's best answer is of that form."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))

    def forward(self, state, clock):
        return state @ self.matrix.T


@pytest.mark.parametrize("kind", list(objectives()), ids=label)
def test_minimiser_is_the_exact_answer(kind):
    """Least squares over 100,000 draws at one level, for N(0, 1) on a line: D must be x/(1 + sigma^2) along it."""
    sigma, count = 0.5, 100_000
    x0 = distribution("line").sample(count, generator(1))
    level = torch.full((count,), sigma, dtype=torch.float64)
    noised = kind.corrupt(x0, level, generator(2))
    network = Linear()
    optimiser = torch.optim.LBFGS(network.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = kind.loss(network(kind.shown(noised.x, level), level), noised)
        loss.backward()
        return loss

    optimiser.step(closure)
    model = Trained(network, kind, 2, 0.01, 10.0)
    probe = torch.eye(2, dtype=torch.float64)
    D = model(probe, torch.full((2,), sigma))
    assert D[0].tolist() == pytest.approx([1 / (1 + sigma**2), 0.0], abs=0.017)
    if kind.name == "tango":  # across the manifold it is not trained
        return
    thick = kind.extra**2 if kind.name == "niso" else 0.0
    assert D[1].tolist() == pytest.approx([0.0, thick / (thick + sigma**2)], abs=0.017)


def closed_form(kind, sigma):
    """(f, lambda, g, k) for N(0, 1) along the line at one level, each written down from the papers.

    The best answer is f x, its weight lambda; a network's output a k x is the answer g a k x.
    """
    s2, data_std = 1 / (1 + sigma**2), getattr(kind, "data_std", None)
    s = math.sqrt(s2)
    f = {"score": s, "eps": sigma * s2, "cem": s2}.get(kind.name, -s2)
    w = {"score": s * sigma, "iso": sigma, "niso": math.hypot(sigma, 0.3), "tango": 10.0}.get(kind.name, 1.0)
    if kind.name == "cem":
        weight = {"inverse": sigma**-2, "constant": 1.0, "inverse-square": sigma**-4}[kind.weighting]
    elif data_std is None:
        weight = {"score": s2 * sigma**2, "eps": 1.0}[kind.name]
    else:
        weight = sigma * w if kind.rescaled else sigma**2
    return f, weight, 1 / w if kind.rescaled else 1.0, s if data_std is None else 1 / math.hypot(sigma, data_std)


@pytest.mark.parametrize("kind", list(objectives()), ids=label)
def test_one_answer_for_two_levels_is_the_weighted_compromise(kind):
    """One number for all levels cannot be right at both: where it settles depends on the weight and the rescaling."""
    levels, count = (0.3, 2.0), 200_000
    forms = [closed_form(kind, sigma) for sigma in levels]
    energy = [1 + sigma**2 for sigma in levels]  # of x along the line
    wanted = sum(w * g * k * f * e for (f, w, g, k), e in zip(forms, energy, strict=True)) / sum(
        w * (g * k) ** 2 * e for (_, w, g, k), e in zip(forms, energy, strict=True)
    )
    sigma = torch.tensor(levels, dtype=torch.float64).repeat_interleave(count)
    noised = kind.corrupt(distribution("line").sample(2 * count, generator(1)), sigma, generator(2))
    state = kind.shown(noised.x, sigma)
    # The loss is quadratic in the number: three values give its minimum.
    low, middle, high = (float(kind.loss(a * state, noised)) for a in (-1.0, 0.0, 1.0))
    # Across the line the number acts too; its part of the loss is taken away again.
    flat = torch.tensor([0.0, 1.0])
    across = [float(kind.loss(a * state * flat, noised)) for a in (-1.0, 0.0, 1.0)]
    low, high = low - across[0] + across[1], high - across[2] + across[1]
    assert (low - high) / (2 * (low + high - 2 * middle)) == pytest.approx(wanted, rel=0.03)
    # With the weights turned round it would settle elsewhere, where the levels want different numbers at all.
    each = [f / (g * k) for f, _, g, k in forms]
    weights = [w for _, w, _, _ in forms]
    turned = sum(w * g * k * f * e for w, (f, _, g, k), e in zip(weights[::-1], forms, energy, strict=True)) / sum(
        w * (g * k) ** 2 * e for w, (_, _, g, k), e in zip(weights[::-1], forms, energy, strict=True)
    )
    assert weights[0] == weights[1] or each[0] == pytest.approx(each[1]) or abs(turned / wanted - 1) > 0.06


def test_noise_is_drawn_where_the_generator_is():
    """A state on another device than the generator's, as a GPU would be: here the one without data."""
    x0, sigma = torch.zeros(5, 2, device="meta"), torch.ones(5, device="meta")
    for kind in objectives():
        if kind.name == "tango":  # whose maps want data
            continue
        noised = kind.corrupt(x0, sigma, generator(1))
        assert noised.x.device.type == "meta" and noised.noise.shape == (5, 2)
        assert kind.loss(torch.zeros_like(x0), noised).device.type == "meta"
    assert normal_like(x0, generator(1)).device.type == "meta"
    here = torch.zeros(3, 2, dtype=torch.float64)
    assert normal_like(here, generator(4)).equal(torch.randn(3, 2, generator=generator(4), dtype=torch.float64))


def test_tango_refuses_a_map_that_does_not_lead_to_the_nearest_points():
    surface = Rotations(4)
    make = partial(Tango, VE(), surface=surface)
    make(below=0.02, project=partial(surface.nearly, rounds=6))
    # Newton-Schulz with few rounds is no projector for the noise that a large `below` asks for.
    with pytest.raises(InputError, match=r"project: .*below.* not on the manifold.*lies [\d.e-]+ away"):
        make(below=0.5, project=partial(surface.nearly, rounds=6))
    with pytest.raises(InputError, match=r"lies 2 away"):
        make(project=lambda x: torch.zeros_like(x))
    with pytest.raises(InputError, match=r"lie [\d.]+ from the nearest ones"):
        make(project=lambda x: surface.project(-x).flip(0))
    with pytest.raises(InputError, match="below"):
        make(below=math.nan)


def test_a_rescaled_score_is_the_eps_target():
    x0, level = normal(50, 2), torch.linspace(0.1, 5, 50, dtype=torch.float64)
    output = normal(50, 2, seed=9)
    for score in (Score(OU(), True), Iso(VE(), True)):
        noised = score.corrupt(x0, level, generator(3))
        sign = -1 if score.name == "iso" else 1
        assert float(score.loss(sign * output, noised)) == pytest.approx(float(Eps(OU()).loss(output, noised)))
        ours = score.denoised(score.answer(sign * output, level), noised.x, level)
        assert ours.allclose(Eps(OU()).denoised(output, noised.x, level))


def test_cem_with_its_own_weight_is_ddpm_in_another_coordinate():
    x0, level = normal(50, 2), torch.linspace(0.1, 5, 50, dtype=torch.float64)
    cem, eps = Conditional(OU()), Eps(OU())
    noised = eps.corrupt(x0, level, generator(3))
    answer = normal(50, 2, seed=9)
    assert float(eps.loss(answer, noised)) == pytest.approx(
        float(cem.loss(eps.denoised(answer, noised.x, level), noised))
    )


@pytest.mark.parametrize("surface", [Plane(4, 2), Sphere(4), Rotations(3)], ids=str)
def test_inverse_covariance_of_niso(surface):
    y = surface.uniform(1, generator()) if not isinstance(surface, Plane) else surface.project(normal(1, 4))
    n, sigma, extra = surface.ambient, 0.3, 0.7
    basis = torch.eye(n, dtype=torch.float64)
    at = y.expand(n, -1)
    projector = surface.normal_at(at, basis)  # rows N N^T e_i
    covariance = sigma**2 * basis + extra**2 * projector
    inverse = inverse_covariance(surface, at, basis, torch.full((n,), sigma, dtype=torch.float64), extra)
    assert (covariance @ inverse - basis).abs().max() < 1e-10


def test_noise_of_niso_has_that_covariance():
    surface, count = Sphere(3), 100_000
    y = torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64).expand(count, -1)
    kind = Niso(VE(), surface=surface, extra=0.5)
    moved = kind.corrupt(y, torch.full((count,), 0.2, dtype=torch.float64), generator()).x - y
    wanted = 0.04 * torch.eye(3).double() + 0.25 * torch.outer(y[0], y[0])
    assert (torch.cov(moved.T) - wanted).abs().max() < 0.005


def test_tango_counts_the_tangential_error_only_below_its_level():
    kind = Tango(VE(), surface=PLANE, below=0.5)
    x0 = distribution("line").sample(4, generator())
    low, high = torch.full((4,), 0.1, dtype=torch.float64), torch.full((4,), 1.0, dtype=torch.float64)
    for level, counts in ((low, False), (high, True)):
        noised = kind.corrupt(x0, level, generator(1))
        exact = kind.target(noised)
        wrong = exact + torch.tensor([0.0, 3.0])
        assert (float(kind.loss(wrong, noised)) > 0) == counts
        assert float(kind.loss(exact + torch.tensor([1.0, 0.0]), noised)) > 0


# Schedules


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_ends_of_schedules(schedule, steps):
    t = times(schedule, steps, last=10.0, first=1e-4)
    assert len(t) == steps + 1 and float(t[0]) == 10.0 and float(t[-1]) == 0.0
    assert bool((t.diff() < 0).all())
    if schedule == "exponential" and steps > 1:
        assert float(t[-2]) == pytest.approx(1e-4)


@settings(max_examples=60, deadline=None)
@given(steps=st.integers(2, 300), last=st.floats(0.5, 100), first=st.floats(1e-8, 1e-2))
def test_exponential_schedule_is_eq_41_with_the_gamma_that_meets_both_ends(steps, last, first):
    t = times("exponential", steps, last=last, first=first)[:-1].flip(0)
    gamma = 1 - (first / last) ** (1 / (steps - 1))
    k = torch.arange(1, steps + 1, dtype=torch.float64)
    assert t.allclose(first * (1 - gamma) ** (1 - k), rtol=1e-6)
    assert ((t[1:] - t[:-1]) / t[1:]).allclose(torch.tensor(gamma).double(), rtol=1e-5, atol=1e-9)  # Eq. 40


@pytest.mark.parametrize("first", [0.0, -1.0, 1e-310, 5e-324, 10.0, 20.0, math.nan])
def test_times_that_overflow_are_refused(first):
    with pytest.raises(InputError, match=r"t_1 = .*below T = 10"):
        times("exponential", 50, first=first)


def test_other_bad_schedules():
    for message, call in (
        ("unknown", lambda: times("cubic", 5)), ("steps", lambda: times("linear", 0)),
        ("overflows", lambda: times("linear", 5, last=1000.0)),
        ("last time", lambda: times("linear", 5, last=math.nan)),
        ("different times", lambda: times("exponential", 1000, last=1.0, first=1 - 1e-15)),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            call()


def test_ou_is_a_process_like_the_others():
    ou = OU()
    t = torch.tensor([1e-8, 0.1, 10.0], dtype=torch.float64)
    assert ou.time(ou.sigma(t)).allclose(t, rtol=1e-12)
    assert process.process_from(ou.facts()) == ou
    sigma = float(ou.sigma(0.3))
    assert ou.scale(sigma) == pytest.approx(math.exp(-0.15))
    assert ou.scale(sigma) * sigma == pytest.approx(math.sqrt(1 - math.exp(-0.3)))
    # beta = 1: VP's with beta_min = beta_max = 1.
    assert float(VP(1.0, 1.0).sigma(0.3)) == pytest.approx(sigma)


def test_objectives_ask_their_process_for_its_scale():
    """A process of one's own, X = (1 + sigma) x, is taken at its word, not for one of those that are known."""

    class Own(VE):
        def scale(self, sigma):
            return 1 + sigma

    x, n, level = normal(4, 2), normal(4, 2, seed=1), torch.tensor([0.1, 0.5, 1.0, 3.0], dtype=torch.float64)
    objective = Score(Own())
    assert objective.shown(x, level).allclose((1 + level)[:, None] * x)
    noised = Noised(x + level[:, None] * n, x, n, torch.zeros_like(x), level)
    assert objective.target(noised).allclose(n / ((1 + level) * level)[:, None])  # n / (s sigma)
    assert objective.denoised(objective.target(noised), noised.x, level).allclose(x)


# Samplers


@pytest.mark.parametrize("contracting", [False, True])
def test_splitting_is_of_first_order(contracting):
    """The variance of Gaussian data of deviation .6, which a linear recursion gives without sampling error."""

    data = Mixture(torch.zeros(1, 1), [0.36])
    errors, counts = [], [12, 50, 100, 200, 400]
    for steps in counts:
        grid = times("quadratic", steps, last=8.0)
        # x -> g x + noise: g from a run without noise in which only the deterministic part is looked at.
        variance = 1.0
        for a, b in zip(grid.tolist(), grid.tolist()[1:], strict=False):
            x = torch.ones(1, 1, dtype=torch.float64)
            sigma = float(OU().sigma(a))
            s = OU().scale(sigma)
            D = data.denoise(x / s, torch.full((1,), sigma, dtype=torch.float64))
            score = (x - s * D) / (1 - math.exp(-a))
            dt = a - b
            kick = (x - dt * (score - x)) * math.exp(-dt / 2) if contracting else (x - dt * score) * math.exp(dt / 2)
            variance = float(kick) ** 2 * variance + (1 - math.exp(-dt))
        errors.append(variance - 0.36)
    assert slope(counts[1:], [abs(error) for error in errors[1:]]) == pytest.approx(1.0, abs=0.15)
    assert len({math.copysign(1, error) for error in errors[1:]}) == 1
    # And the sampler is that recursion, to its sign: at 12 steps the error stands far above the sampling error.
    g, grid, count = generator(5), times("quadratic", 12, last=8.0), 400_000
    x = torch.randn(count, 1, generator=g, dtype=torch.float64)
    x = reverse_sde(Exact(data), x, grid, OU(), generator=g, contracting=contracting)
    chance = math.sqrt(2 / count) * (0.36 + errors[0])
    assert abs(errors[0]) > 10 * chance and abs(float(x.var()) - 0.36 - errors[0]) < 4 * chance


def test_vp_is_ou_in_another_time():
    data, x = Exact(distribution("five-points")), normal(50, 2)
    t = times("exponential", 80, last=8.0)
    ou = reverse_sde(data, x, t, OU(), generator=generator(1))
    same = reverse_sde(data, x, t, VP(1.0, 1.0), generator=generator(1))
    other = VP()
    vp = reverse_sde(data, x, other.time(OU().sigma(t)), other, generator=generator(1))
    assert same.allclose(ou) and vp.allclose(ou, atol=1e-6)


def test_a_step_that_blows_noise_up_is_refused():
    data, x = Exact(distribution("line")), normal(4, 2)
    grid = times("exponential", 50)  # whose first step is 2.1 long
    with pytest.raises(InputError, match=r"step from 10 to 7\.9.* is 2\.09 long .*contracting=True"):
        reverse_sde(data, x, grid, OU(), generator=generator())
    with pytest.raises(InputError, match="long in OU's time"):
        reverse_sde(data, x, [1.0, 0.2, 0.0], VP(), generator=generator())
    assert reverse_sde(data, x, grid, OU(), generator=generator(), contracting=True).abs().max() < 10


@pytest.mark.parametrize("process", [OU(), VP(), VE()], ids=["ou", "vp", "ve"])
def test_reverse_sde_ends_on_the_data(process):
    data, g = distribution("eight-points"), generator(1)
    sigmas = OU().sigma(times("exponential", 200))
    grid = exponential_sigmas(200, sigma_min=1e-3, sigma_max=20) if process == VE() else process.time(sigmas)
    x = torch.randn(4000, 2, generator=g, dtype=torch.float64)
    x = reverse_sde(Exact(data), x * (20 if process == VE() else 1), grid, process, generator=g)
    assert float(data.distance(x).max()) < 0.06
    share = torch.bincount(torch.cdist(x, data.means).argmin(1), minlength=8) / 4000
    assert float((share - 0.125).abs().max()) < 0.03


def test_probability_flow_by_our_solvers():
    data = distribution("hyperplane")
    x = reconstruct(Exact(data), clouds(normal(6000, 3, seed=2), 3), karras_sigmas(40), solver="dpmpp-2m")
    points = rows(x)
    assert float(points[:, 2].abs().max()) < 1e-3
    assert sliced_wasserstein(points, data.sample(6000, generator(8))) < 0.08


def test_annealed_langevin_finds_the_modes_of_a_sphere():
    data = SphereModes(torch.eye(3), kappa=30.0)
    surface, g = Sphere(3), generator(1)
    levels = exponential_sigmas(25, sigma_min=0.02, sigma_max=2.0)
    start = surface.uniform(3000, g)
    x = annealed_langevin(Exact(data), start, levels, surface, generator=g, rounds=10, rate=0.3, largest=0.02)
    assert float(surface.distance(x).max()) < 1e-9
    reference = data.sample(3000, generator(7))
    assert sliced_wasserstein(x, reference) < 0.25 * sliced_wasserstein(start, reference)


def test_samplers_refuse_and_stop():
    data, g = Exact(distribution("line")), generator()
    x = normal(4, 2)
    for bad in ([1.0, 0.5], [0.5, 1.0, 0.0], [1.0]):
        with pytest.raises(InputError, match="falling from T to 0"):
            reverse_sde(data, x, bad, generator=g)
    with pytest.raises(InputError, match="knows 'ou', 'vp' and 've'"):
        reverse_sde(data, x, [1.0, 0.0], Flow(), generator=g)
    with pytest.raises(DenoiserError, match="after step 1 of 2"):
        reverse_sde(lambda x, s: x / 0, x, [1.0, 0.5, 0.0], generator=g)
    with pytest.raises(Cancelled, match="step 1 of 2"):
        reverse_sde(data, x, [1.0, 0.5, 0.0], generator=g, told=lambda *_: False)
    plane = Plane(2, 1)
    with pytest.raises(InputError, match=r"starting points: not on the manifold.*row"):
        annealed_langevin(data, x, [1.0, 0.5], plane, generator=g)
    with pytest.raises(InputError, match="levels that fall"):
        annealed_langevin(data, plane.project(x), [0.5, 1.0], plane, generator=g)
    with pytest.raises(InputError, match="rounds: -1"):
        annealed_langevin(data, plane.project(x), [1.0, 0.5], plane, generator=g, rounds=-1)
    with pytest.raises(InputError, match="largest -1"):
        annealed_langevin(data, plane.project(x), [1.0, 0.5], plane, generator=g, largest=-1.0)
    with pytest.raises(InputError, match="rate nan"):
        annealed_langevin(data, plane.project(x), [1.0, 0.5], plane, generator=g, rate=math.nan)
    with pytest.raises(Cancelled, match="level 1 of 2"):
        annealed_langevin(data, plane.project(x), [1.0, 0.5], plane, generator=g, told=lambda *_: False)


# Training


class Small(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2)
        )

    def forward(self, state, clock):
        return self.layers(torch.cat([state, clock[:, None]], dim=1))


def line_model(**options):
    torch.manual_seed(0)
    data = distribution("line").sample(20_000, generator())
    settings = {"steps": 600, "batch": 500, "rate": 3e-3, "seed": 1} | options
    return train(data, Conditional(OU()), Small(), on_times(times("linear", 200), OU()), **settings)


@pytest.fixture(scope="module")
def model():
    return line_model()


def test_training_learns_and_is_repeatable(model):
    x, level = normal(200, 2, seed=3) * 0.5, torch.full((200,), 0.3, dtype=torch.float64)
    x[:, 1] *= 0.1
    wanted = distribution("line").denoise(x, level)
    assert float((model(x, level) - wanted).square().mean()) < 0.01 < 0.1 < float(wanted.square().mean()) + 0.01
    assert model.losses[-1] < 0.6 * model.losses[0] and model.stopped == ""
    again = line_model(steps=60)
    assert again.losses == line_model(steps=60).losses


def test_a_trained_model_is_an_ordinary_denoiser(model):
    assert model.process == OU() and 0.2 < model.sigma_min < 0.3 and 140 < model.sigma_max < 150
    x0 = clouds(distribution("line").sample(4096, generator(4)), 2)  # [2, 2, 2048]
    sigmas = exponential_sigmas(30, sigma_min=0.23, sigma_max=140)
    base, ssi = (invert(model, x0, sigmas, skip=skip) for skip in (0.0, 0.5))
    assert ssi.process == OU() and ssi.noise.shape == x0.shape and ssi.nfe < base.nfe
    # The null space of the line: nothing without a skip, unit noise with it.
    assert float(base.noise[:, 1].std()) < 0.2 and float(ssi.noise[:, 1].std()) == pytest.approx(1, abs=0.15)
    assert not gaussianity(base.noise).verdict
    assert gaussianity(ssi.noise).std.tolist() == pytest.approx([1, 1], abs=0.15)
    back = reconstruct(model, ssi.noise, ssi.sigmas)
    assert float((back - x0).square().mean()) < float((x0).square().mean())
    curve = singularity_curve(model, x0, sigmas)
    assert curve.noised.shape == (30, 2) and bool(curve.alignment.isfinite().all())


@pytest.mark.parametrize(
    "name", ["five-points", "eight-points", "twenty-points", "line", "hyperplane", "spiral", "sphere"]
)
def test_an_exact_denoiser_never_stops_following(name):
    data = distribution(name)
    x0 = clouds(data.sample(4096, generator(4)), 2)
    curve = singularity_curve(Exact(data), x0, karras_sigmas(60, sigma_min=1e-3))
    assert curve.stops.tolist() == [0, 0], (curve.knee, curve.unaligned)
    assert set(curve.reasons) == {"the network follows the noise at every level that was looked at"}


@pytest.mark.parametrize("name", ["line", "hyperplane", "sphere"])
def test_exact_denoisers_are_ordinary_ones(name):
    data = distribution(name)
    x0 = clouds(data.sample(4096, generator(4)), 2)
    found = invert(Exact(data), x0, karras_sigmas(40), skip=0.1)
    report = gaussianity(found.noise)
    assert report.std.tolist() == pytest.approx([1, 1], abs=0.05)
    curve = singularity_curve(Exact(data), x0, karras_sigmas(20))
    assert bool((curve.noised[-1] > 0.3).all())
    x32 = invert(Exact(data), x0.float(), karras_sigmas(40), skip=0.1)
    assert x32.noise.dtype == torch.float32 and (x32.noise - found.noise).abs().max() < 0.05


def test_divergence_is_stopped_and_the_best_weights_kept():
    torch.manual_seed(0)
    data = distribution("line").sample(5000, generator())
    draw = on_times(times("linear", 200), OU())
    calls = []

    class Bomb(Conditional):
        def loss(self, output, noised):
            calls.append(1)
            found = super().loss(output, noised)
            return found * math.nan if len(calls) == 151 else found

    network = Small()
    found = train(data, Bomb(OU()), network, draw, steps=400, batch=100, seed=1)
    assert "diverged at step 151 of 400" in found.stopped and "best 50 steps were kept" in found.stopped
    assert len(found.losses) == 3 and len(calls) == 151
    whole = line_model_with(data, draw, 150)
    for name, value in found.network.state_dict().items():
        assert value.equal(
            whole.network.state_dict()[name]
        )  # the losses fell, so the last whole 50 steps were the best


@pytest.mark.parametrize(("at", "kept"), [(151, "best 50 steps"), (30, "weights that it began with"), (400, "best 50")])
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(at, kept):
    data = distribution("line").sample(5000, generator())
    calls = []

    class Bomb(Conditional):
        def loss(self, output, noised):
            calls.append(1)
            found = super().loss(output, noised)
            # Finite itself: the square root of 0 has no finite slope.
            return found + (0 * output.sum()).abs().sqrt() if len(calls) == at else found

    torch.manual_seed(0)
    network = Small()
    begun = {name: value.clone() for name, value in network.state_dict().items()}
    found = train(data, Bomb(OU()), network, on_times(times("linear", 200), OU()), steps=400, batch=100, seed=1)
    assert f"diverged at step {at} of 400" in found.stopped and kept in found.stopped
    assert all(bool(value.isfinite().all()) for value in network.state_dict().values())
    if at == 30:
        assert all(value.equal(begun[name]) for name, value in network.state_dict().items())


def line_model_with(data, draw, steps):
    torch.manual_seed(0)
    return train(data, Conditional(OU()), Small(), draw, steps=steps, batch=100, seed=1)


@pytest.mark.parametrize("rate", [1e3, 1e10, 1e20])
def test_a_rate_that_explodes_is_seen_and_the_untrained_weights_are_kept(rate):
    data = distribution("line").sample(1000, generator())
    torch.manual_seed(0)
    network = Small()
    begun = {name: value.clone() for name, value in network.state_dict().items()}
    found = train(data, Conditional(OU()), network, log_uniform(0.1, 10), steps=300, batch=50, rate=rate, seed=0)
    assert "diverged" in found.stopped and "weights that it began with were kept" in found.stopped
    assert all(value.equal(begun[name]) for name, value in found.network.state_dict().items())


def test_training_refuses_and_stops():
    draw, x = log_uniform(0.1, 1.0), distribution("line").sample(100, generator())
    off = x + torch.tensor([0.0, 0.3])
    fit = partial(train, network=Small(), draw=draw, steps=10, batch=10)
    with pytest.raises(InputError, match=r"data: not on the manifold.*0\.3 away"):
        fit(off, Niso(VE(), surface=PLANE))
    with pytest.raises(InputError, match="finite rows"):
        fit(x * math.inf, Eps(OU()))
    for options, message in (
        ({"steps": 0}, "steps: 0"), ({"steps": 2.5}, r"steps: 2\.5"), ({"batch": -3}, "batch: -3"),
        ({"rate": 0.0}, "rate 0"), ({"rate": math.nan}, "rate nan"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            train(x, Eps(OU()), Small(), draw, **({"steps": 5, "batch": 5} | options))
    with pytest.raises(Cancelled, match="training step 50 of 100"):
        train(x, Eps(OU()), Small(), draw, steps=100, batch=10, watch=lambda *_: False)
    for message, make in (
        ("VE process", lambda: Iso(OU())), ("not a flow", lambda: Conditional(Flow())),
        ("extra", lambda: Niso(VE(), surface=PLANE, extra=0.0)),
        ("weighting", lambda: Conditional(OU(), weighting="cubic")), ("data_std", lambda: Iso(VE(), data_std=0.0)),
        ("sigma range", lambda: log_uniform(1.0, 0.5)), ("extra", lambda: Niso(VE(), surface=PLANE, extra=math.nan)),
        ("none positive", lambda: on_times(torch.zeros(3), OU())),
        ("none positive", lambda: on_times(torch.tensor([math.nan, -1.0]), OU())),
        ("width: 0", lambda: MLP(2, 0, 1)), (r"depth: 1\.5", lambda: MLP(2, 4, 1.5)),
        ("dimension: -2", lambda: MLP(-2, 4, 1)),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            make()


# Measures and points


def test_sliced_wasserstein_of_a_shift():
    a = normal(2000, 10)
    shift = torch.zeros(10, dtype=torch.float64)
    shift[0] = 0.7
    # The mean of |v_1| over the unit sphere of R^10.
    mean = math.gamma(5) / (math.sqrt(math.pi) * math.gamma(5.5))
    assert sliced_wasserstein(a, a + shift, directions=2000) == pytest.approx(0.7 * mean, rel=0.03)
    assert sliced_wasserstein(a, a[torch.randperm(2000)]) < 1e-12
    with pytest.raises(InputError, match="same"):
        sliced_wasserstein(a, a[:10])
    with pytest.raises(InputError, match="same lines"):
        Slices(a, 5).distance(Slices(a, 6))
    assert Slices(a, 50, seed=3).distance(Slices(a + shift, 50, seed=3)) == sliced_wasserstein(a, a + shift, 50, 3)


def test_frechet_of_gaussians_in_closed_form():
    a = normal(4000, 3)
    a = (a - a.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(a.T)).mT)  # exactly standard
    b = a * torch.tensor([1.0, 2.0, 0.5]) + torch.tensor([0.3, 0.0, 0.0])
    assert frechet(a, b) == pytest.approx(0.09 + 1 + 0.25, rel=1e-6)
    assert abs(frechet(a, a)) < 1e-9
    with pytest.raises(InputError, match="do not fit"):
        frechet(a, a[:, :2])


def test_points_and_clouds():
    points = normal(12, 3)
    assert rows(clouds(points, 4)).equal(points)
    with pytest.raises(InputError, match="do not make 5 clouds"):
        clouds(points, 5)
    with pytest.raises(InputError, match="rows"):
        Exact(distribution("line"))(normal(2, 5, 7), torch.ones(2))


def test_exact_denoiser_of_a_flow_is_the_same_one_in_its_coordinate():
    mean, variance = normal(1, 4, seed=3), [0.0, 0.25, 1.0, 2.0]
    x, t = normal(5, 4, seed=4), torch.tensor([0.001, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    flow = Exact(Mixture(mean, variance), Flow())
    assert flow.is_flow
    wanted = Gaussian(mean[0], torch.tensor(variance), flow=True)(x, t)
    assert torch.allclose(flow(x, t), wanted, atol=1e-5)  # at t = 1 within about a millionth


def test_the_reverse_sde_of_ve_keeps_the_variance():
    """A unit Gaussian, whose D is known: too little noise, or too much, would show in the end."""
    g = generator(3)
    grid = torch.cat([torch.logspace(math.log10(20), -2, 300, dtype=torch.float64), torch.zeros(1)])
    start = math.sqrt(1 + 20**2) * torch.randn(20_000, 1, generator=g, dtype=torch.float64)
    x = reverse_sde(lambda x, sigma: x / (1 + sigma[:, None] ** 2), start, grid, VE(), generator=g)
    assert float(x.var()) == pytest.approx(1, abs=0.05)


def test_langevin_ends_at_the_level_s_own_variance():
    """On a flat manifold, at one level: the smoothed density's variance .5^2 + .3^2 within it, none across."""
    plane, g = Plane(3, 2), generator(4)

    def denoise(x, sigma):
        return plane.project(x) * 0.25 / (0.25 + sigma[:, None] ** 2)

    start = plane.project(torch.randn(8000, 3, generator=g, dtype=torch.float64))
    x = annealed_langevin(denoise, start, [0.3], plane, generator=g, rounds=150, rate=0.2)
    within = x[:, [i for i in range(3) if float(x[:, i].std()) > 1e-6]]
    assert within.shape[1] == 2
    assert within.var(0).tolist() == pytest.approx([0.34, 0.34], rel=0.07)


@pytest.mark.parametrize("sigma", [0.1, 2.0])
def test_weights_are_those_of_the_ablation(sigma):
    wanted = {"inverse": sigma**-2, "inverse-square": sigma**-4}
    for name, value in wanted.items():
        found = Conditional(OU(), weighting=name).weight(torch.tensor([sigma], dtype=torch.float64))
        assert float(found) == pytest.approx(value)
    # 1 / (e^t - 1), in the paper's time
    t = float(OU().time(sigma))
    assert wanted["inverse"] == pytest.approx(1 / math.expm1(t))
