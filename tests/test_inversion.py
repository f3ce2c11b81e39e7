"""There and back: round trips, what each run costs, seeds, cancellation, and what skipping the singularity does."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from exact import Counted, Gaussian, Mixture, gaussian, normal, relative

from ssi_core import (
    SOLVERS,
    VE,
    VP,
    Cancelled,
    DiscreteVP,
    Eps,
    Flow,
    Goal,
    InputError,
    Inversion,
    choose_skip,
    cosine,
    ddim_sigmas,
    demo_denoiser,
    exponential_sigmas,
    flow_sigmas,
    integrate,
    invert,
    karras_sigmas,
    mse,
    reconstruct,
    unit_noise,
)
from ssi_core.demo.scenes import HELD_OUT, draw_scenes
from ssi_core.injection import plain, tangent

PROCESSES = [VE(), VP(), DiscreteVP(), Flow()]
START_ERROR = {name: 0.02 if entry.order == 2 else 0.2 for name, entry in SOLVERS.items()}
START_ERROR |= {"exact": 1e-4, "ddim-target": 0.5}
"""Relative error that 40 steps may leave; looking at D where a step arrives costs ddim-target the most."""


def schedule(process, steps=40, **options):
    return flow_sigmas(steps) if isinstance(process, Flow) else karras_sigmas(steps, sigma_min=0.02, **options)


def setting(process, count=3):
    data = gaussian(isinstance(process, Flow))
    return data, data.mean + data.var.sqrt() * normal(count, 1, 2, 4, seed=21)


# Round trips


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
@pytest.mark.parametrize("solver", SOLVERS)
def test_round_trip_with_skip_ends_in_the_denoised_injection(solver, process):
    """The way back ends with one denoise at the skip, so D(injected point) is where a perfect solver ends."""
    data, x0 = setting(process)
    skip = 0.1
    point = process.inject(x0, unit_noise(x0, (0, 1, 2)), skip)
    ideal = data(point, point.new_full((3,), skip))
    errors = []
    for steps in (40, 80):
        inv = invert(data, x0, schedule(process, steps), skip=skip, solver=solver, process=process, grid="spread")
        errors.append(relative(reconstruct(data, inv.noise, inv.sigmas, solver=solver, process=process), ideal))
    assert errors[0] < START_ERROR[solver], errors
    assert errors[1] < max(0.7 * errors[0], 1e-4), errors


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
@pytest.mark.parametrize("solver", SOLVERS)
def test_round_trip_without_skip_ends_near_the_image(solver, process):
    data, x0 = setting(process)
    errors = []
    for steps in (40, 80):
        inv = invert(data, x0, schedule(process, steps), skip=0, solver=solver, process=process)
        assert inv.sigmas[-1] == 0
        assert inv.sigmas.equal(schedule(process, steps))
        errors.append(relative(reconstruct(data, inv.noise, inv.sigmas, solver=solver, process=process), x0))
    assert errors[0] < 2 * START_ERROR[solver], errors
    assert errors[1] < max(0.75 * errors[0], 2e-3), errors


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
def test_noise_is_the_exact_odes(process):
    """Unit noise of the exact solution at sigma_max, in each process's own normalisation."""
    data, x0 = setting(process)
    inv = invert(data, x0, schedule(process, 300), skip=0.1, process=process, seed=[7, 8, 9])
    top = float(inv.sigmas[0])
    end = data.ode(process.inject(x0, unit_noise(x0, (7, 8, 9)), 0.1), 0.1, top)
    divisor = (1 + top**2) ** 0.5 if isinstance(process, (VP, DiscreteVP)) else top
    assert relative(inv.noise, end / divisor) < 1e-3


def test_state_and_noise_keep_the_callers_precision():
    data, x0 = setting(VE())
    single = invert(data, x0.float(), karras_sigmas(20))
    assert single.noise.dtype == torch.float32
    assert invert(data, x0, karras_sigmas(20)).noise.dtype == torch.float64
    assert reconstruct(data, single.noise, single.sigmas).dtype == torch.float32
    assert single.sigmas.dtype == torch.float64


def test_network_runs_in_its_own_precision_and_the_state_does_not():
    data, x0 = setting(VE())
    seen = []

    class Half:
        dtype = torch.float16

        def __call__(self, x, sigma):
            seen.append((x.dtype, sigma.dtype))
            return data(x.float(), sigma.float()).half()

    inv = invert(Half(), x0, karras_sigmas(10), solver="heun")
    assert {x for x, _ in seen} == {torch.float16}
    assert {sigma for _, sigma in seen} == {torch.float64}
    assert inv.noise.dtype == torch.float64


@pytest.mark.parametrize("shape", [(2, 3, 9), (2, 3, 4, 5), (2, 3, 2, 4, 5)], ids=["audio", "image", "video"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_any_rank(solver, shape):
    flat = normal(*shape, seed=3).flatten(1)
    data = Gaussian(torch.zeros(flat.shape[1], dtype=torch.float64), torch.full((flat.shape[1],), 0.3).double())
    folded = Gaussian(data.mean.reshape(shape[1:]), data.var.reshape(shape[1:]))
    found = invert(folded, flat.reshape(shape), karras_sigmas(8), solver=solver).noise
    wide = invert(folded, flat.reshape(shape), karras_sigmas(8), solver=solver, seed=[0, 1]).noise
    assert found.shape == shape
    assert torch.equal(found, wide)
    assert torch.isfinite(found).all()


# What it costs


def expected_nfe(solver, intervals, from_zero):
    """Evaluations of an inversion of so many intervals between positive sigmas; None for the adaptive `exact`."""
    first = 1 if from_zero and SOLVERS[solver].from_zero else 0
    return {
        "heun": 2 * intervals,
        "ddim-current": intervals + 1,
        "fixed-point": 3 * (intervals + first),
        "exact": None,
    }.get(solver, intervals + first)


@pytest.mark.parametrize("skip", [0.0, 0.1])
@pytest.mark.parametrize("solver", SOLVERS)
def test_nfe_is_what_was_evaluated_and_what_is_documented(solver, skip):
    data, x0 = setting(VE())
    counted = Counted(data)
    inv = invert(counted, x0, karras_sigmas(20), skip=skip, solver=solver)
    assert inv.nfe == counted.nfe
    wanted = expected_nfe(solver, len(inv.sigmas) - 2, skip == 0)
    steps = len(inv.sigmas) - 2 + (skip == 0)
    assert inv.nfe == wanted if wanted is not None else steps < inv.nfe <= 40 * steps


@pytest.mark.parametrize("solver", SOLVERS)
def test_nfe_of_sampling(solver):
    counted = Counted(gaussian())
    sigmas = karras_sigmas(20)
    walk = integrate(counted, 80 * normal(2, 1, 2, 4), sigmas.tolist(), solver)
    assert walk.nfe == counted.nfe == (39 if solver == "heun" else 20)


def test_skipping_spends_fewer_evaluations_and_spreading_the_same():
    data, x0 = setting(VE())
    base = invert(data, x0, karras_sigmas(200), skip=0, solver="euler").nfe
    assert base == 199
    assert invert(data, x0, karras_sigmas(200), skip=0.1, solver="euler").nfe == 157
    assert invert(data, x0, karras_sigmas(200), skip=0.1, solver="euler", grid="spread").nfe == base


# The singularity


def low_rank(shape=(1, 16, 16)):
    """Data that varies in the left half of the picture only; the right half is the null space."""
    var = torch.zeros(shape, dtype=torch.float64)
    var[..., :8] = 0.25
    return Gaussian(torch.zeros(shape, dtype=torch.float64), var)


def cloud(count=12):
    means = 0.5 * normal(count, 1, 16, 16, seed=4)
    basis = torch.linalg.qr((means[1:] - means[0]).flatten(1).T).Q  # spans where the points differ
    return Mixture(means), basis


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name not in ("euler-vp", "ddim-target", "exact")])
def test_base_inversion_leaves_the_null_space_at_exactly_zero_and_ssi_fills_it(solver):
    data = low_rank()
    x0 = data.var.sqrt() * normal(8, 1, 16, 16, seed=5)
    null = data.var == 0
    base = invert(data, x0, karras_sigmas(30), skip=0, solver=solver).noise[:, null]
    ssi = invert(data, x0, karras_sigmas(100), skip=0.1, solver=solver).noise[:, null]
    assert (base == 0).all()
    # 8 * 128 values: the standard deviation of their standard deviation is .022.
    assert float(ssi.std()) == pytest.approx(1, abs=0.09)


def test_null_space_gets_the_injected_noise_itself():
    """There D is constant, the ODE a straight line through the origin of noise: what goes in comes out."""
    data = low_rank()
    x0 = data.var.sqrt() * normal(2, 1, 16, 16, seed=5)
    noise = invert(data, x0, karras_sigmas(30), skip=0.1, solver="euler", seed=3).noise
    null = data.var == 0
    assert torch.allclose(noise[:, null], unit_noise(x0, (3, 4))[:, null], rtol=1e-12)


def test_point_cloud_base_inversion_collapses_and_ssi_does_not():
    data, basis = cloud()
    x0 = data.means[:4]

    def off_span(noise):
        flat = (noise - data.means[:1] / 80).flatten(1)
        return flat - flat @ basis @ basis.T

    base = invert(data, x0, karras_sigmas(30), skip=0).noise
    ssi = invert(data, x0, karras_sigmas(30), skip=0.1).noise
    assert float(off_span(base).abs().max()) < 1e-12
    assert float(off_span(ssi).square().sum() / (4 * (256 - 11))) == pytest.approx(1, abs=0.15)
    assert float(base.std()) < 0.3
    assert float(ssi.std()) == pytest.approx(1, abs=0.1)
    # The collapsed latent still reconstructs: reconstruction alone is no evidence.
    back = reconstruct(data, base, karras_sigmas(30))
    assert relative(back, x0) < 0.05


@pytest.mark.parametrize(("s", "sigma"), [(0.1, 0.1), (0.1, 0.3), (0.3, 0.1)])
def test_closed_forms_near_a_manifold(s, sigma):
    """rho = s^2/(s^2 + sigma^2) is the structure left, the cosine of two seeds, and sets the reconstruction error."""
    rho = s**2 / (s**2 + sigma**2)
    shape = (3, 64, 64)
    data = Gaussian(torch.zeros(shape, dtype=torch.float64), torch.full(shape, s**2, dtype=torch.float64))
    x0 = s * normal(4, *shape, seed=6)
    sigmas = karras_sigmas(60, sigma_min=0.0005, sigma_max=40)
    a = invert(data, x0, sigmas, skip=sigma, seed=0)
    b = invert(data, x0, sigmas, skip=sigma, seed=100)
    n = 4 * x0[0].numel()
    assert float(cosine(a.noise, b.noise).mean()) == pytest.approx(rho, abs=5 / n**0.5)
    assert float(cosine(a.noise, x0).square().mean()) == pytest.approx(rho, abs=0.02)
    assert float(a.noise.std()) == pytest.approx(1, abs=0.02)
    to_zero = mse(reconstruct(data, a.noise, sigmas), x0)
    assert float(to_zero.mean()) == pytest.approx(2 * s**2 * (1 - rho**0.5), rel=0.05)
    one_denoise = mse(reconstruct(data, a.noise, a.sigmas), x0)
    assert float(one_denoise.mean()) == pytest.approx(s**2 * (1 - rho), rel=0.05)


# Seeds


@pytest.mark.parametrize("solver", SOLVERS)
def test_batch_is_single_runs_with_the_next_seeds_bit_for_bit(solver):
    data, x0 = setting(VE(), 8)
    whole = invert(data, x0, karras_sigmas(12), solver=solver, seed=40)
    assert whole.seeds == tuple(range(40, 48))
    for i in range(8):
        alone = invert(data, x0[i : i + 1], karras_sigmas(12), solver=solver, seed=40 + i)
        assert torch.equal(alone.noise, whole.noise[i : i + 1])
    assert torch.equal(
        reconstruct(data, whole.noise, whole.sigmas, solver=solver)[3:4],
        reconstruct(data, whole.noise[3:4], whole.sigmas, solver=solver),
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_permuting_images_with_their_seeds_permutes_the_noise(solver):
    data, x0 = setting(VE(), 5)
    order, seeds = [3, 0, 4, 1, 2], [10, 999, 5, 5, 2**62]
    straight = invert(data, x0, karras_sigmas(12), solver=solver, seed=seeds)
    mixed = invert(data, x0[order], karras_sigmas(12), solver=solver, seed=[seeds[i] for i in order])
    assert torch.equal(mixed.noise, straight.noise[order])


def test_injected_noise_depends_on_the_seed_only_and_not_on_the_global_generator():
    like = torch.zeros(2, 3, 4, dtype=torch.float64)
    torch.manual_seed(0)
    first = unit_noise(like, (1, 2))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    again = unit_noise(like, (2, 1))
    assert torch.equal(first, again.flip(0))
    assert not torch.equal(first[0], first[1])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(unit_noise(like.float(), (1, 2)).double(), first)


def test_base_inversion_does_not_depend_on_the_seed():
    data, x0 = setting(VE())
    a, b = (invert(data, x0, karras_sigmas(12), skip=0, seed=s).noise for s in (0, 77))
    assert torch.equal(a, b)


# Progress, states, cancellation


@pytest.mark.parametrize("solver", SOLVERS)
def test_progress_tells_every_step(solver):
    data, x0 = setting(VE())
    counted, told = Counted(data), []

    def note(now):
        told.append((now.step, now.steps, now.sigma, now.nfe == counted.nfe, now.x.shape, now.denoised.shape))

    inv = invert(counted, x0, karras_sigmas(10), skip=0.1, solver=solver, progress=note)
    rising = inv.sigmas.flip(0).tolist()[2:]
    n = len(rising)
    assert told == [(i + 1, n, sigma, True, x0.shape, x0.shape) for i, sigma in enumerate(rising)]


def test_states_hold_start_and_end():
    data, x0 = setting(VE())
    inv = invert(data, x0, karras_sigmas(10), skip=0.1, keep_states=True)
    assert inv.states.shape == (len(inv.sigmas) - 1, *x0.shape)
    assert torch.equal(inv.states[0], x0 + 0.1 * unit_noise(x0, (0, 1, 2)))
    assert torch.equal(inv.states[-1] / float(inv.sigmas[0]), inv.noise)
    assert invert(data, x0, karras_sigmas(10)).states is None


@pytest.mark.parametrize("run", ["invert", "reconstruct"])
def test_returning_false_cancels_after_that_step(run):
    data, x0 = setting(VE())
    counted, seen = Counted(data), []

    def stop(now):
        seen.append(now.step)
        return now.step < 3

    with pytest.raises(Cancelled, match="step 3 of"):
        if run == "invert":
            invert(counted, x0, karras_sigmas(10), solver="euler", progress=stop)
        else:
            reconstruct(counted, x0, karras_sigmas(10), solver="euler", progress=stop)
    assert seen == [1, 2, 3]
    assert counted.nfe == 3


@pytest.mark.parametrize("answer", [None, True, 0])
def test_only_false_cancels(answer):
    data, x0 = setting(VE())
    assert torch.isfinite(invert(data, x0, karras_sigmas(5), progress=lambda now: answer).noise).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_gradient_is_kept(solver):
    data, x0 = setting(VE())
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    inv = invert(lambda x, sigma: weight * data(x, sigma), x0, karras_sigmas(6), solver=solver)
    assert not inv.noise.requires_grad
    assert not reconstruct(lambda x, sigma: weight * data(x, sigma), inv.noise, inv.sigmas, solver=solver).requires_grad


@pytest.mark.parametrize("solver", SOLVERS)
def test_inputs_are_left_as_they_were(solver):
    data, x0 = setting(VE())
    sigmas = karras_sigmas(6)
    before, grid = x0.clone(), sigmas.clone()
    inv = invert(data, x0, sigmas, solver=solver)
    noise = inv.noise.clone()
    reconstruct(data, inv.noise, inv.sigmas, solver=solver)
    assert torch.equal(x0, before)
    assert torch.equal(sigmas, grid)
    assert torch.equal(inv.noise, noise)


# The file


@pytest.mark.parametrize("process", [*PROCESSES, VP(beta_max=12.0), DiscreteVP("cosine", 50)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saved_inversion_comes_back_bit_for_bit(tmp_path, process, dtype):
    data, x0 = setting(process)
    data.signature = "exact gaussian"
    inv = invert(
        data, x0.to(dtype), flow_sigmas(9) if isinstance(process, Flow) else exponential_sigmas(9, sigma_max=20),
        skip=0.1, solver="exact", seed=[4, 9, 2**40], process=process, keep_states=True,
    )  # fmt: skip
    path = tmp_path / "a b.safetensors"
    inv.save(path)
    back = Inversion.load(path)
    for name in ("noise", "sigmas", "states", "residual"):
        ours, theirs = getattr(inv, name), getattr(back, name)
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs), name
    for name in ("nfe", "process", "solver", "skip", "seeds", "provenance"):
        assert getattr(inv, name) == getattr(back, name), name
    assert back.provenance["model"] == "exact gaussian"
    assert len(set(back.provenance["images_sha256"])) == 3
    assert back.provenance["grid"] == "keep"
    assert back.provenance["torch"] == torch.__version__


def test_a_loaded_inversion_reconstructs_the_same_bits(tmp_path):
    data, x0 = setting(VE())
    inv = invert(data, x0, karras_sigmas(12))
    inv.save(tmp_path / "i.safetensors")
    back = Inversion.load(tmp_path / "i.safetensors")
    there = reconstruct(data, inv.noise, inv.sigmas, process=inv.process)
    assert torch.equal(reconstruct(data, back.noise, back.sigmas, process=back.process), there)
    assert back.states is None


def test_image_hash_is_of_the_image_and_not_of_the_batch():
    data, x0 = setting(VE())
    whole = invert(data, x0, karras_sigmas(4)).provenance["images_sha256"]
    assert invert(data, x0[1:2], karras_sigmas(4)).provenance["images_sha256"] == whole[1:2]
    nudged = x0 + 1e-3
    assert not set(invert(data, nudged, karras_sigmas(4)).provenance["images_sha256"]) & set(whole)


@pytest.mark.parametrize("solver", [name for name, entry in SOLVERS.items() if not entry.from_zero])
def test_base_inversion_over_a_single_level_is_refused(solver):
    """From [80, 0] a solver that cannot leave 0 would return x0 / 80 after no evaluation at all, and call it noise."""
    data, x0 = setting(VE())
    with pytest.raises(InputError, match=r"sigmas|skip"):
        invert(data, x0, karras_sigmas(1), skip=0, solver=solver)


def test_a_seed_may_be_any_integer():
    data, x0 = setting(VE())
    ours = invert(data, x0, karras_sigmas(4), seed=3)
    for seed in (np.int64(3), torch.tensor(3)):
        theirs = invert(data, x0, karras_sigmas(4), seed=seed)
        assert torch.equal(theirs.noise, ours.noise)
        assert theirs.seeds == ours.seeds


@pytest.mark.parametrize("grid", ["keep", "spread"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_schedule_of_one_step_inverts_with_a_skip(solver, grid):
    data, x0 = setting(VE())
    inv = invert(data, x0, karras_sigmas(1), skip=0.1, solver=solver, grid=grid)
    assert inv.sigmas.tolist() == [80.0, 0.1, 0.0]
    assert torch.isfinite(inv.noise).all()
    assert inv.nfe >= 1


def test_base_ddim_current_shows_the_network_the_image_itself():
    """As guided-diffusion's ddim_reverse_sample, which takes x0 to be its own state at the first index."""
    process, shown = DiscreteVP(), []

    def network(x, timestep):
        shown.append((x.clone(), timestep.clone()))
        return torch.zeros_like(x)

    x0 = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(1, 3, 2, 2)
    invert(Eps(network, process.timestep), x0, ddim_sigmas(20), skip=0, solver="ddim-current", process=process)
    torch.testing.assert_close(shown[0][0], x0, rtol=1e-14, atol=0)
    assert shown[0][1].tolist() == [0.0]


def test_the_denoisers_own_process_is_the_default():
    class Own(Gaussian):
        process = VP()

    def run(denoise, **more):
        x = normal(2, 1, 4, 4)
        found = invert(denoise, x, karras_sigmas(6, sigma_max=20), **more)
        return found, reconstruct(denoise, found.noise, found.sigmas, **more)

    mean, var = torch.zeros(1, 4, 4, dtype=torch.float64), torch.full((1, 4, 4), 0.3, dtype=torch.float64)
    own, back = run(Own(mean, var))
    vp, back_vp = run(Gaussian(mean, var), process=VP())
    plain, _ = run(Gaussian(mean, var))
    assert own.process == VP() and plain.process == VE()
    assert torch.equal(own.noise, vp.noise) and torch.equal(back, back_vp)
    assert not torch.equal(own.noise, plain.noise)
    assert run(Own(mean, var), process=VE())[0].process == VE()
    odd = Gaussian(mean, var)
    odd.process = "vp"
    with pytest.raises(InputError, match="process 'vp'"):
        run(odd)


def test_a_sample_of_a_chosen_skip_keeps_what_was_foretold_of_it_alone():
    x0 = draw_scenes(range(HELD_OUT, HELD_OUT + 3))
    whole = invert(demo_denoiser(), x0, karras_sigmas(6), skip="auto")
    one = whole.sample(2).choice
    for part in ("psnr", "leftover", "margin"):
        told = getattr(whole.choice.foretold, part)
        assert getattr(one.foretold, part).tolist() == [told[2]] and len(set(told.tolist())) == 3
        assert [getattr(t, part).shape for t in one.trials] == [(1,)] * len(whole.choice.trials)
    assert one.skip == whole.skip and invert(demo_denoiser(), x0, karras_sigmas(6)).sample(2).choice is None


def test_a_file_says_what_the_skip_was_chosen_for_and_at_what_cost(tmp_path):
    x0 = draw_scenes([HELD_OUT])
    for goal, told in ((Goal("psnr", 40), "40 dB"), ("auto", "the verdict")):
        found = invert(demo_denoiser(), x0, karras_sigmas(6), skip=goal)
        found.save(tmp_path / "a.safetensors")
        facts = Inversion.load(tmp_path / "a.safetensors").provenance
        given = invert(demo_denoiser(), x0, karras_sigmas(6), skip=found.skip)
        assert facts["chosen_for"] == told and facts["choice_nfe"] == found.nfe - given.nfe > 0
        assert given.provenance["chosen_for"] is None and given.provenance["choice_nfe"] == 0


def test_an_inversion_says_how_noise_was_put_in_so_that_another_can_be_made_alike(tmp_path):
    data, x0 = setting(VE())
    inv = invert(data, x0, karras_sigmas(6), skip=0.1, injection=partial(tangent, rounds=1))
    inv.save(tmp_path / "a.safetensors")
    again = invert(data, x0, karras_sigmas(6), skip=0.1, injection=Inversion.load(tmp_path / "a.safetensors").injection)
    assert torch.equal(again.noise, inv.noise)
    assert again.provenance["injection_options"] == {"rounds": 1}
    assert replace(inv, provenance={}).injection is plain
    foreign = replace(inv, provenance={"injection": "sideways"})
    with pytest.raises(InputError, match="injection 'sideways': unknown"):
        assert foreign.injection


@pytest.mark.parametrize(
    "option, other",
    [({"injection": "tangent"}, {"injection": "plain"}), ({"seed": [7, 5]}, {"seed": [0, 1]}),
     ({"process": Flow()}, {"process": VE()})],
    ids=lambda given: "-".join(given),
)  # fmt: skip
def test_a_skip_is_chosen_as_it_is_inverted(option, other):
    """With the same injection, seeds and process; each of them changes what is foretold."""
    is_flow = "process" in option
    data, x0 = gaussian(is_flow, (1, 4, 8)), normal(2, 1, 4, 8, seed=21)
    sigmas = flow_sigmas(12, sigma_min=0.01) if is_flow else karras_sigmas(12)
    goal = Goal("leftover", 0.2)
    found = invert(data, x0, sigmas, skip=goal, **option)
    wanted = choose_skip(data, x0, sigmas, goal, **option)
    assert (found.skip, replace(found.choice, resolved=True).reason) == (wanted.skip, wanted.reason)
    assert found.choice.foretold.psnr.equal(wanted.foretold.psnr)
    otherwise = choose_skip(data, x0, [s * 0.99 for s in sigmas.tolist()], goal, **other)
    assert not torch.allclose(otherwise.foretold.psnr, wanted.foretold.psnr, rtol=1e-3)
