"""Solvers against ODEs with known solutions, and against each published formula written out a second time."""

import math
from functools import cache, partial
from itertools import pairwise

import pytest
import torch
from exact import Counted, Gaussian, Mixture, gaussian, mixture, normal, relative, slope

from ssi_core import (
    SOLVERS,
    VE,
    VP,
    DiscreteVP,
    Eps,
    Flow,
    InputError,
    ddim_sigmas,
    find_solver,
    flow_sigmas,
    integrate,
    invert,
    karras_sigmas,
    reconstruct,
)
from ssi_core.solver import fixed_point

PROCESSES = [VE(), VP(), Flow()]
DATA = {"gaussian": gaussian, "mixture": mixture}
ONE_STEP_FROM_ZERO = [name for name, entry in SOLVERS.items() if entry.from_zero]


def levels(process, steps: int, rising: bool) -> list[float]:
    """`steps` steps, Karras-spaced for VE and VP, evenly spaced for flow; a smooth family as steps grow."""
    if isinstance(process, Flow):
        falling = torch.linspace(1.0, 0.1, steps + 1, dtype=torch.float64)
    else:
        falling = karras_sigmas(steps + 1, sigma_min=0.2, sigma_max=6.0)[:-1]
    return (falling.flip(0) if rising else falling).tolist()


@cache
def problem(kind: str, is_flow: bool, rising: bool):
    """(denoiser, start, exact end) on the range that `levels` spans."""
    data = DATA[kind](is_flow)
    grid = levels(Flow() if is_flow else VE(), 1, rising)
    a, b = grid[0], grid[-1]
    x0 = 0.8 * normal(3, 1, 2, 4, seed=1)
    x = (1 - a) * x0 + a * normal(3, 1, 2, 4, seed=2) if is_flow else x0 + a * normal(3, 1, 2, 4, seed=2)
    return data, x, data.ode(x, a, b)


@pytest.mark.parametrize("rising", [True, False], ids=["invert", "sample"])
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("solver", SOLVERS)
def test_order_of_convergence(solver, kind, process, rising):
    data, x, end = problem(kind, isinstance(process, Flow), rising)
    counts = (24, 48, 96)
    errors = [relative(integrate(data, x, levels(process, n, rising), solver, process).x, end) for n in counts]
    assert slope(counts, errors) == pytest.approx(SOLVERS[solver].order, abs=0.3), errors
    assert errors[-1] < 0.1


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
def test_last_step_to_zero_is_finite_and_near_the_image(solver, process):
    data = gaussian(isinstance(process, Flow))
    x0 = data.mean + data.var.sqrt() * normal(4, 1, 2, 4, seed=3)
    start = process.inject(x0, torch.zeros_like(x0), 1e-3)
    end = integrate(data, start, [1e-3, 0.0], solver, process).x
    assert torch.isfinite(end).all()
    assert relative(end, x0) < 1e-2


@pytest.mark.parametrize("solver", ["euler", "ddim-current", "ddim-target", "ab2", "ab2-log", "dpmpp-2m", "exact"])
def test_last_step_to_zero_is_the_denoiser_itself(solver):
    data, x, _ = problem("mixture", False, False)
    end = integrate(data, x, [0.3, 0.0], solver).x
    assert torch.allclose(end, data(x, x.new_full((3,), 0.3)), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("solver", ONE_STEP_FROM_ZERO)
def test_leaves_zero_without_looking_at_it(solver):
    data = Counted(gaussian())
    x0 = 0.5 * normal(2, 1, 2, 4)
    end = integrate(data, x0, [0.0, 0.5, 1.0], solver).x
    assert torch.isfinite(end).all()
    assert min(data.sigmas) == 0.5


# Algorithm 2 and its misprint


def algorithm_2(denoise, x, sigmas, power: int):
    """SSI-DM Algorithm 2 with s^power in line 6, s and sigma differentiated by autograd; returns the unscaled state."""

    def big_b(t):  # integral of beta = 0.1 + 19.9 t
        return 0.1 * t + 19.9 * t * t / 2

    def s_of(t):
        return torch.exp(-big_b(t) / 2)

    def sigma_of(t):
        return torch.expm1(big_b(t)).sqrt()

    def rate(function, t):
        t = t.clone().requires_grad_(True)
        return torch.autograd.grad(function(t), t)[0]

    times = [((0.01 + 39.8 * math.log1p(s * s)) ** 0.5 - 0.1) / 19.9 for s in sigmas]
    times = [torch.tensor(t, dtype=torch.float64) for t in times]
    scaled = s_of(times[0]) * x
    for here, there in pairwise(times):
        s, sigma = s_of(here), sigma_of(here)
        score = (denoise(scaled / s, sigma.expand(len(x))) - scaled / s) / sigma**2
        drift = rate(s_of, here) / s * scaled - s**power * rate(sigma_of, here) * sigma * score
        scaled = scaled + drift * (there - here)
    return scaled / s_of(times[-1])


def test_euler_vp_is_algorithm_2_with_s():
    data, x, _ = problem("gaussian", False, True)
    grid = levels(VP(), 30, True)
    assert torch.allclose(integrate(data, x, grid, "euler-vp", VP()).x, algorithm_2(data, x, grid, 1), rtol=1e-9)


def test_algorithm_2_converges_with_s_and_not_as_printed():
    data, x, end = problem("gaussian", False, True)
    counts = (50, 100, 200)
    right = [relative(algorithm_2(data, x, levels(VP(), n, True), 1), end) for n in counts]
    printed = [relative(algorithm_2(data, x, levels(VP(), n, True), 2), end) for n in counts]
    assert slope(counts, right) == pytest.approx(1, abs=0.2)
    assert right[-1] < 0.03
    assert min(printed) > 0.3
    assert printed[-1] > 0.9 * printed[0]


# Published formulas in their own variables


def linear_vp(shape=(1, 2, 4)):
    """(eps network on (z, index), its D) of the exact Gaussian denoiser on the 1000 linear levels."""
    process, data = DiscreteVP(), gaussian(shape=shape)

    def network(z, index):
        sigma = process.sigma(index)
        x = z * (1 + sigma.reshape(-1, *[1] * (z.ndim - 1)) ** 2).sqrt()
        return (x - data(x, sigma)) / sigma.reshape(-1, *[1] * (z.ndim - 1))

    return process, network, Eps(network, process.timestep)


def alpha_bar(process, index: int) -> float:
    return float(1 / (1 + process.sigmas[index] ** 2))


KAPPA = [39, 119, 239, 399, 599, 799, 999]


def injected(process, x0, index, seed_noise):
    a = alpha_bar(process, index)
    return a**0.5 * x0 + (1 - a) ** 0.5 * seed_noise


def skip_run(solver, x0, kappa=KAPPA):
    process, network, denoise = linear_vp()
    grid = ddim_sigmas(kappa, process)
    inv = invert(denoise, x0, grid, skip=float(process.sigmas[kappa[0]]), solver=solver, process=process, seed=5)
    return process, network, inv


def noise_of(x0, seed):
    draws = [torch.randn(x0.shape[1:], generator=torch.Generator().manual_seed(seed + i)) for i in range(len(x0))]
    return torch.stack(draws).to(x0)


def test_euler_in_sigma_is_ddim_equation_18():
    x0 = normal(2, 1, 2, 4)
    process, network, inv = skip_run("euler", x0)
    z = injected(process, x0, KAPPA[0], noise_of(x0, 5))
    for i, j in pairwise(KAPPA):
        a, b = alpha_bar(process, i), alpha_bar(process, j)
        eps = network(z, torch.full((2,), float(i), dtype=torch.float64))
        z = b**0.5 * (z / a**0.5 + (((1 - b) / b) ** 0.5 - ((1 - a) / a) ** 0.5) * eps)
    assert torch.allclose(inv.noise, z, rtol=1e-9, atol=1e-10)


def test_ddim_current_is_guided_diffusions_reverse_sample_ending_in_pure_eps():
    x0 = normal(2, 1, 2, 4)
    process, network, inv = skip_run("ddim-current", x0)
    z = injected(process, x0, KAPPA[0], noise_of(x0, 5))
    for i, j in zip(KAPPA, [*KAPPA[1:], None], strict=True):
        a, b = alpha_bar(process, i), 0.0 if j is None else alpha_bar(process, j)
        eps = network(z, torch.full((2,), float(i), dtype=torch.float64))
        z = b**0.5 * (z - (1 - a) ** 0.5 * eps) / a**0.5 + (1 - b) ** 0.5 * eps
    assert torch.allclose(inv.noise, z, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("base", [False, True], ids=["ssi", "base"])
def test_ddim_target_is_diffusers_inverse_scheduler(base):
    """The network sees the state of the current level with the target level's timestep."""
    x0 = normal(2, 1, 2, 4)
    if base:
        process, network, denoise = linear_vp()
        inv = invert(denoise, x0, ddim_sigmas(KAPPA, process), skip=0, solver="ddim-target", process=process)
        z, a, targets = x0, 1.0, KAPPA
    else:
        process, network, inv = skip_run("ddim-target", x0)
        z, a, targets = injected(process, x0, KAPPA[0], noise_of(x0, 5)), alpha_bar(process, KAPPA[0]), KAPPA[1:]
    for j in targets:
        b = alpha_bar(process, j)
        eps = network(z, torch.full((2,), float(j), dtype=torch.float64))
        z = b**0.5 * (z - (1 - a) ** 0.5 * eps) / a**0.5 + (1 - b) ** 0.5 * eps
        a = b
    assert torch.allclose(inv.noise, z, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("solver", ["euler", "ddim-current", "ddim-target", "fixed-point", "exact"])
def test_sampling_is_ddim(solver):
    process, network, denoise = linear_vp()
    z = start = normal(2, 1, 2, 4)
    for i, j in zip(KAPPA[::-1], [*KAPPA[-2::-1], None], strict=True):
        a, b = alpha_bar(process, i), 1.0 if j is None else alpha_bar(process, j)
        eps = network(z, torch.full((2,), float(i), dtype=torch.float64))
        z = b**0.5 * (z - (1 - a) ** 0.5 * eps) / a**0.5 + (1 - b) ** 0.5 * eps
    found = reconstruct(denoise, start, ddim_sigmas(KAPPA, process), solver=solver, process=process)
    assert torch.allclose(found, z, rtol=1e-8, atol=1e-9)


GRID = [6.0, 3.5, 1.2, 0.7, 0.2, 0.0]


def mixture_slope(x, sigma):
    data = mixture()
    return (x - data(x, x.new_full((len(x),), sigma))) / sigma


def test_heun_is_karras_algorithm_1():
    x = start = 6 * normal(2, 1, 2, 4)
    for t, t_next in pairwise(GRID):
        d = mixture_slope(x, t)
        euler = x + (t_next - t) * d
        x = euler if t_next == 0 else x + (t_next - t) * (d + mixture_slope(euler, t_next)) / 2
    assert torch.allclose(integrate(mixture(), start, GRID, "heun").x, x, rtol=1e-12)


def test_ab2_integrates_the_line_through_the_last_two_slopes():
    """Exactly: sum of slopes times the integrals of their Lagrange polynomials over the step."""
    t = [0.2, 0.7, 1.2, 3.5, 6.0]
    x = start = normal(2, 1, 2, 4)
    before = None
    for i in range(len(t) - 1):
        f = mixture_slope(x, t[i])
        if before is None:
            x = x + (t[1] - t[0]) * f
        else:
            nodes = torch.tensor([[1.0, t[i - 1]], [1.0, t[i]]], dtype=torch.float64)
            moments = torch.tensor([t[i + 1] - t[i], (t[i + 1] ** 2 - t[i] ** 2) / 2], dtype=torch.float64)
            weight = torch.linalg.solve(nodes.T, moments)
            x = x + weight[0] * before + weight[1] * f
        before = f
    assert torch.allclose(integrate(mixture(), start, t, "ab2").x, x, rtol=1e-10)


@pytest.mark.parametrize("rising", [True, False])
def test_ab2_log_is_exact_for_a_denoiser_linear_in_log_sigma(rising):
    """dx/du = x - (p + q u) has the solution p + q + q u + C e^u; only the first step, without a past, errs."""
    p, q = 0.3, 0.7
    grid = [0.2, 0.21, 0.7, 1.2, 3.5, 6.0] if rising else [6.0, 5.9, 3.5, 1.2, 0.7, 0.2]

    def linear(x, sigma):
        return (p + q * sigma.log()).reshape(-1, 1, 1).expand_as(x)

    states = integrate(linear, normal(2, 1, 4), grid, "ab2-log", keep_states=True).states
    offset = [state - (p + q + q * math.log(s)) for state, s in zip(states, grid, strict=True)]
    for i in range(2, len(grid)):
        assert torch.allclose(offset[i] / grid[i], offset[1] / grid[1], rtol=1e-10)


def test_ab2_log_lets_noise_that_the_denoiser_leaves_alone_grow_as_sigma():
    x = normal(2, 1, 4)
    end = integrate(lambda x, sigma: torch.zeros_like(x), x, [0.1, 1.0, 20.0], "ab2-log").x
    assert torch.allclose(end, 200 * x, rtol=1e-12)


def test_dpmpp_2m_is_algorithm_2_of_lu_et_al_in_the_vp_state():
    """x_i = sigma_i/sigma_{i-1} x - alpha_i (e^-h - 1) [(1 + 1/2r) D_{i-1} - 1/2r D_{i-2}], lambda = ln(a/sigma)."""
    data, levels_ = mixture(), [6.0, 3.5, 1.2, 0.7, 0.2]

    def alpha(s):
        return 1 / (1 + s * s) ** 0.5

    z, start = alpha(6.0) * 6 * normal(2, 1, 2, 4), 6 * normal(2, 1, 2, 4)
    estimates, h_before = [], 0.0
    for s, t in pairwise(levels_):
        estimates.append(data(z / alpha(s), z.new_full((2,), s)))
        h = math.log(1 / t) - math.log(1 / s)
        d = estimates[-1]
        if len(estimates) > 1:
            r = h_before / h
            d = (1 + 1 / (2 * r)) * estimates[-1] - 1 / (2 * r) * estimates[-2]
        z = (t * alpha(t)) / (s * alpha(s)) * z - alpha(t) * (math.exp(-h) - 1) * d
        h_before = h
    found = integrate(data, start, levels_, "dpmpp-2m").x
    assert torch.allclose(found, z / alpha(0.2), rtol=1e-10)


def test_dpmpp_2m_is_exact_after_its_first_step_for_a_constant_image():
    """Data that is one point: D is constant, and the ODE's solution a straight line."""
    point = Mixture(normal(1, 1, 2, 4))
    start = point.means + 6 * normal(2, 1, 2, 4)
    assert torch.allclose(integrate(point, start, [6.0, 2.0, 0.5, 0.0], "dpmpp-2m").x, point.means.expand(2, 1, 2, 4))


# Implicit steps


@pytest.mark.parametrize(("a", "b"), [(0.2, 0.4), (1.0, 1.2), (0.1, 2.0)])
@pytest.mark.parametrize("eigenvalue", [0.0, 0.1, 0.9])
def test_fixed_point_contracts_at_the_stated_rate(a, b, eigenvalue):
    """By r / (2 - r) at an eigenvalue 0 of D's Jacobian, the worst case, and by |1 - 2 l| of that at eigenvalue l."""
    r = (b - a) / b
    mean = normal(1, 2, 4, seed=9)

    def linear(x, sigma):
        return mean + eigenvalue * (x - mean)

    x = normal(2, 1, 2, 4)
    solution = mean + (x - mean) / ((1 - r) + r * eigenvalue)
    ends = [integrate(linear, x, [a, b], partial(fixed_point, iterations=k)).x for k in (1, 2, 3)]
    errors = [relative(end - mean, solution - mean) for end in ends]
    for before, after in pairwise(errors):
        assert after / before == pytest.approx(r / (2 - r) * abs(1 - 2 * eigenvalue), rel=1e-6)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
@pytest.mark.parametrize("kind", DATA)
def test_exact_is_undone_by_euler_to_its_tolerance(kind, process):
    data, x, _ = problem(kind, isinstance(process, Flow), True)
    grid = levels(process, 12, True)
    up = integrate(data, x, grid, "exact", process)
    assert float(up.residual.max()) <= 1e-6
    down = integrate(data, up.x, grid[::-1], "euler", process).x
    # Each of 12 steps leaves up to 1e-6 of a state that is at most |x_T| long.
    allowed = 12e-6 * float(up.x.flatten(1).norm(dim=1).max()) / float(x.flatten(1).norm(dim=1).min())
    assert relative(down, x) <= allowed
    assert relative(integrate(data, integrate(data, x, grid, "euler").x, grid[::-1], "euler").x, x) > 100 * allowed


def test_exact_solves_the_step_away_from_zero_where_a_solution_exists():
    data = gaussian()
    x0 = normal(3, 1, 2, 4)
    up = integrate(data, x0, [0.0, 0.3, 0.6, 1.0], "exact")
    assert float(up.residual.max()) <= 1e-6
    assert relative(integrate(data, up.x, [1.0, 0.6, 0.3, 0.0], "euler").x, x0) < 1e-5


@pytest.mark.parametrize("data", ["cloud", "low-rank"])
def test_exact_says_so_where_no_state_denoises_to_the_image(data):
    """Off the data's affine span there is no y with D(y) = x0; the residual is honest, and each sample's own."""
    if data == "cloud":
        means = torch.zeros(2, 1, 2, 4, dtype=torch.float64)
        means[0, 0, 0, 0], means[1, 0, 0, 0] = 1.0, -1.0
        denoise = Mixture(means)
    else:
        var = torch.zeros(1, 2, 4, dtype=torch.float64)
        var[0, 0] = 1.0
        denoise = Gaussian(torch.zeros(1, 2, 4, dtype=torch.float64), var)
    on = torch.zeros(1, 1, 2, 4, dtype=torch.float64)
    on[0, 0, 0, 0] = 0.3
    off = on.clone()
    off[0, 0, 1, 3] = 0.5
    inv = invert(denoise, torch.cat([on, off]), [4.0, 2.0, 1.0, 0.5], skip=0, solver="exact")
    assert float(inv.residual[0]) <= 1e-6
    assert float(inv.residual[1]) > 1e-3
    assert torch.isfinite(inv.noise).all()
    back = reconstruct(denoise, inv.noise, inv.sigmas, solver="euler")
    assert relative(back[:1], on) < 1e-4
    assert relative(back[1:], off) > 0.1


def test_exact_residual_is_what_euler_misses():
    data = gaussian()
    x = normal(2, 1, 2, 4)
    up = integrate(data, x, [0.2, 1.0], partial(SOLVERS["exact"].solver, tolerance=1e-12, iterations=2))
    missed = (integrate(data, up.x, [1.0, 0.2], "euler").x - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    assert float(missed.min()) > 1e-6
    # Relative to the size of a state of the step; to which of its two ends is the solver's choice.
    assert ((up.residual / missed > 0.1) & (up.residual / missed <= 1.01)).all()


# The registry


def test_every_solver_says_what_it_is():
    for name, entry in SOLVERS.items():
        assert entry.name == name
        assert len(entry.about) > 20, name


def test_the_registry_holds_every_solver_that_is_promised():
    promised = {"euler", "euler-vp", "ddim-current", "ddim-target", "heun", "ab2", "ab2-log", "dpmpp-2m"}
    assert promised | {"fixed-point", "exact"} <= set(SOLVERS)


def test_a_partial_keeps_what_is_known_of_its_solver():
    entry = find_solver(partial(fixed_point, iterations=7))
    assert (entry.name, entry.order, entry.from_zero) == ("fixed-point", 1, True)


def test_unknown_solver_lists_the_known():
    with pytest.raises(InputError, match=r"eular.*euler.*dpmpp-2m"):
        find_solver("eular")


def test_a_function_of_the_same_signature_is_a_solver():
    def jump(denoise, x, sigmas):
        yield denoise(x, sigmas[0])

    data, x, _ = problem("mixture", False, False)
    assert torch.equal(integrate(data, x, [0.5, 0.0], jump).x, data(x, x.new_full((3,), 0.5)))


def test_flow_grid_reaches_pure_noise_and_back():
    data = gaussian(flow=True)
    x0 = normal(3, 1, 2, 4)
    inv = invert(data, x0, flow_sigmas(40), skip=0.05, process=Flow())
    assert inv.sigmas[0] == 1
    back = reconstruct(data, inv.noise, inv.sigmas, process=Flow())
    assert relative(back, x0) < 0.15
