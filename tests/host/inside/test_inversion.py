"""The inversion nodes on models whose ODE is known in closed form, and through core's own nodes."""

import comfy.latent_formats
import comfy.samplers
import pytest
import torch
from conftest import run
from models import FAMILIES, RARE, S, apart, conditioning, denoised, exact, gaussian_model, is_flow

EMPTY = object()


MORE = [*FAMILIES, "flow 1.32", "flux 2.89", *(name for name in RARE if name != "image")]
"""Also shifts at which float32 makes the largest sigma a little more, or less, than 1; and core's rarer samplings."""


SD15 = comfy.latent_formats.SD15().scale_factor
NEAR = 5e-3
"""`apart` of a way up and down in small steps from what is wanted; `test_the_bounds_tell_pictures_apart`."""


def picture(batch=2, shape=(4, 8, 8), seed=5, mean=0.3 / SD15, scale=S / SD15):
    """A LATENT of what the models' data are: mean 0.3 and standard deviation S, where the model sees it."""
    generator = torch.Generator().manual_seed(seed)
    return {"samples": mean + scale * torch.randn(batch, *shape, generator=generator)}


def model_of(family, **settings):
    name, _, shift = family.partition(" ")
    if shift and name in ("flow", "flux"):
        family, settings = name, {"shift": float(shift)} | settings
    return gaussian_model(family, latent_format=comfy.latent_formats.SD15, **settings)


def latent_in(model, latent):
    return model.model.process_latent_in(latent["samples"])


def kept(model, latent, family, skip=0.1, m=0.3):
    """What a skip leaves of the latent, in the model's space: D of the noised latent, whatever the way above it."""
    noised, sigma = run("SSINoiseInject", model=model, latent=latent, skip=skip)
    left = 1 - sigma if is_flow(family) else 1.0
    return denoised(left * latent_in(model, noised), sigma, family, m)


def first_state(model, noise, sigmas, latent, cfg=1.0, m=0.3):
    """The state that core's SamplerCustomAdvanced begins in."""
    seen = []

    def spy(model_k, x, sigmas, **kwargs):
        seen.append(x.clone())
        return x

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conditioning(m), conditioning(m))
    run("SamplerCustomAdvanced", noise=noise, guider=guider, sampler=comfy.samplers.KSAMPLER(spy), sigmas=sigmas,
        latent_image=latent)  # fmt: skip
    return seen[0]


def back(model, noise, sigmas, latent, sampler="dpmpp_2m", cfg=1.0, positive=0.3, negative=-0.1):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conditioning(positive), conditioning(negative))
    guider.set_cfg(cfg)
    chosen = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
    out, _ = run(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=chosen, sigmas=sigmas, latent_image=latent
    )
    return out


def invert(model, latent, **options):
    given = {"steps": 100, "positive": conditioning(0.3), **options}
    return run("SSIInverseSampler", model=model, latent=latent, **given)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_end_state_is_the_exact_solution(family, cfg):
    model, latent = model_of(family), picture()
    noised, sigma = run("SSINoiseInject", model=model, latent=latent, skip=0.1, seed=3)
    kept = latent["samples"].clone()
    noise, end, sigmas, report, _ = invert(
        model, latent, skip=0.1, seed=3, cfg=cfg, negative=conditioning(-0.1), steps=200
    )
    top = float(sigmas[0])
    start = latent_in(model, noised) * ((1 - sigma) if is_flow(family) else 1)
    wanted = exact(start, sigma, top, family, -0.1 + cfg * 0.4)
    state = first_state(model, noise, sigmas, end | {"samples": torch.zeros_like(end["samples"])})
    assert (state - wanted).abs().max() < 2e-3 * wanted.abs().max()
    assert (latent_in(model, end) - wanted).abs().max() < 2e-3 * wanted.abs().max()
    assert torch.equal(latent["samples"], kept), "the input latent was changed"
    assert f"{sigma:.4g}" in report and "evaluations" in report


@pytest.mark.parametrize("sampled_with", ["an empty latent", "the picture's latent", "the end state"])
@pytest.mark.parametrize("family", MORE)
def test_core_begins_in_the_state_where_inversion_ended(family, sampled_with):
    model, latent = model_of(family), picture()
    noise, end, sigmas, _, _ = invert(model, latent, steps=12)
    empty = {"samples": torch.zeros_like(latent["samples"])}
    given = {"an empty latent": empty, "the picture's latent": latent, "the end state": end}[sampled_with]
    state, wanted = first_state(model, noise, sigmas, given), latent_in(model, end)
    assert (state - wanted).norm() < 1e-5 * wanted.norm()
    again, _ = run("SSINoiseFromLatent", model=model, latent=end, sigmas=sigmas)
    assert (again.unit - noise.unit).norm() < 1e-5 * noise.unit.norm()
    out, plain = (latent_in(model, back(model, noise, sigmas, start, "euler")) for start in (given, empty))
    assert apart(out, plain) < 1e-5


def test_a_later_start_with_a_latent_takes_too_much_off():
    """Pinned, because it is documented: NOISE is not told where sampling begins."""
    model, latent = model_of("eps"), picture()
    noise, _, sigmas, _, _ = invert(model, latent, steps=12)
    later = sigmas[3:]
    state = first_state(model, noise, later, latent)
    gain = float(later[0])
    x0 = latent_in(model, latent)
    wanted = x0 + gain * (noise.unit - x0 / noise.start.noise_gain)
    assert (state - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("family", ["eps", "v", "edm"])
def test_the_end_state_continues_as_latent(family):
    model, latent = model_of(family), picture()
    _, end, sigmas, _, _ = invert(model, latent, steps=12)
    (nothing,) = run("DisableNoise")
    assert (first_state(model, nothing, sigmas, end) - latent_in(model, end)).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["eps", "flow"])
def test_the_bounds_tell_pictures_apart(family):
    """A constant, and the other image of the batch, are as far from what is wanted as they are from a picture."""
    model, latent = model_of(family), picture()
    x0 = latent_in(model, latent)
    assert x0.std() == pytest.approx(S, rel=0.1) and x0.mean() == pytest.approx(0.3, abs=0.1)
    for wanted in (x0, kept(model, latent, family)):
        constant = wanted.flatten(1).mean(1).view(-1, 1, 1, 1).expand_as(wanted)
        assert apart(constant, wanted) > 100 * NEAR and apart(wanted.flip(0), wanted) > 100 * NEAR
    assert 20 * NEAR < apart(x0, kept(model, latent, family)) < 60 * NEAR, "what a skip loses"


@pytest.mark.parametrize("skip", [0.0, 0.1])
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "ours"])
@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip_through_core(family, sampler, skip):
    model, latent = model_of(family), picture()
    noise, _, sigmas, _, _ = invert(model, latent, skip=skip)
    chosen = run("SSISolver", solver="dpmpp-2m")[0] if sampler == "ours" else sampler
    out = back(model, noise, sigmas, {"samples": torch.zeros_like(latent["samples"])}, chosen)
    wanted = kept(model, latent, family, skip) if skip else latent_in(model, latent)
    assert apart(latent_in(model, out), wanted) < NEAR


@pytest.mark.parametrize("family", [name for name in MORE if name not in FAMILIES])
def test_round_trip_through_core_s_rarer_samplings(family):
    model, latent = model_of(family), picture()
    steps = 250 if family == "flux 2.89" else 100  # its shift leaves few of them to the low levels
    noise, _, sigmas, _, _ = invert(model, latent, steps=steps)
    out = back(model, noise, sigmas, {"samples": torch.zeros_like(latent["samples"])})
    assert apart(latent_in(model, out), kept(model, latent, family)) < NEAR


@pytest.mark.parametrize("family", FAMILIES)
def test_core_s_own_chain_with_our_solver_and_sigmas_is_the_same_inversion(family):
    model, latent = model_of(family), picture()
    noised, _ = run("SSINoiseInject", model=model, latent=latent, skip=0.1, seed=9)
    up, down, _ = run("SSISigmas", model=model, steps=15, schedule="auto", skip=0.1)
    (nothing,), (sampler,) = run("DisableNoise"), run("SSISolver", solver="ab2-log")
    end = back(model, nothing, up, noised, sampler, negative=0.3)
    (from_chain, empty) = run("SSINoiseFromLatent", model=model, latent=end, sigmas=up)
    noise, _, sigmas, _, _ = invert(model, latent, steps=15, skip=0.1, seed=9, solver="ab2-log")
    assert torch.equal(sigmas, down) and torch.equal(up, down[:-1].flip(0))
    assert (from_chain.unit - noise.unit).abs().max() < 2e-5 * noise.unit.abs().max()
    assert empty["samples"].shape == latent["samples"].shape and not empty["samples"].any()


@pytest.mark.parametrize("family", ["eps", "flow"])
def test_states_are_every_image_s_way_in_turn(family):
    """A batch's states, image by image: from the noised latent to the end state, all in a LATENT's scale."""
    model, latent = model_of(family), picture()
    noised, skip = run("SSINoiseInject", model=model, latent=latent, skip=0.1, seed=9)
    _, end, sigmas, _, states = invert(model, latent, skip=0.1, seed=9, keep_states=True)
    rising = sigmas[:-1].flip(0).tolist()
    found = latent_in(model, states).unflatten(0, (2, len(rising)))
    start = latent_in(model, noised) * ((1 - skip) if is_flow(family) else 1)
    assert apart(found[:, 0], start) < 1e-5
    assert apart(found[:, -1], latent_in(model, end)) < 1e-5
    for i in range(len(rising)):
        assert apart(found[:, i], exact(start, skip, rising[i], family, 0.3)) < NEAR


@pytest.mark.parametrize("later", [0, 3], ids=["from the top", "from a lower level"])
@pytest.mark.parametrize("family", MORE)
def test_our_euler_is_core_s(family, later):
    """Begun alike (core's noise_scaling, which differs at the top) and carried alike, with another node's NOISE."""
    model, latent = model_of(family), picture()
    _, sigmas, _ = run("SSISigmas", model=model, steps=8, schedule="auto", skip=0.1)
    (random,), (ours,) = run("RandomNoise", noise_seed=3), run("SSISolver", solver="euler")
    seen = []

    def watch(network, call):
        seen.append(call["input"].clone())
        return network(call["input"], call["timestep"], **call["c"])

    model.set_model_unet_function_wrapper(watch)
    states, results = [], []
    for sampler in ("euler", ours):
        seen.clear()
        results.append(latent_in(model, back(model, random, sigmas[later:], latent, sampler)))
        states.append(seen[0])
    # Not to the bit: core's solver keeps its sigmas in float32, ours in float64.
    assert (states[0] - states[1]).norm() < 1e-6 * states[0].norm()
    assert apart(results[1], results[0]) < 1e-5


@pytest.mark.parametrize("batch", [1, 2])
def test_a_sampler_that_writes_into_its_noise_does_not_spoil_it(batch):
    class InPlace(comfy.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *args, **kwargs):
            given.append(noise.clone())
            return noise.mul_(0.5)

    given = []
    model, latent = model_of("eps"), picture(batch=1)
    noise, _, sigmas, _, _ = invert(model, latent, steps=5)
    empty = {"samples": torch.zeros_like(latent["samples"]).expand(batch, -1, -1, -1).clone()}
    first, second = (back(model, noise, sigmas, empty, InPlace())["samples"] for _ in range(2))
    assert torch.equal(first, second) and torch.equal(given[0], given[1])


def test_a_batch_equals_single_runs():
    model, latent = model_of("eps"), picture(batch=3)
    noise, _, _, _, _ = invert(model, latent, steps=10, seed=4)
    for i in range(3):
        one, _, _, _, _ = invert(model, {"samples": latent["samples"][i : i + 1]}, steps=10, seed=4 + i)
        assert (noise.unit[i : i + 1] - one.unit).abs().max() < 1e-5
        picked = {"samples": latent["samples"][i : i + 1], "batch_index": [i]}
        same, _, _, _, _ = invert(model, picked, steps=10, seed=4)
        assert torch.equal(same.unit, one.unit)


@pytest.mark.parametrize("family", ["eps", "flow"])
def test_outside_a_mask_the_picture_is_kept_exactly(family):
    model, latent = model_of(family), picture()
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 4:] = 1
    masked = latent | {"noise_mask": mask}
    noise, end, sigmas, _, _ = invert(model, masked, steps=20)
    out = back(model, noise, sigmas, masked)
    assert torch.allclose(out["samples"][..., :4], latent["samples"][..., :4], atol=1e-4)
    # Inside, it comes back as it does without a mask: without what the skip loses, or the mask kept that too.
    assert apart(latent_in(model, out)[..., 4:], kept(model, latent, family)[..., 4:]) < 0.03
    # Outside, the end state is what samplers show a network there: the latent with the noise that was injected.
    low = run("SSINoiseInject", model=model, latent=latent, skip=0.1)[0]
    if family == "eps":
        injected = (latent_in(model, low) - latent_in(model, latent)) / 0.1
        wanted = latent_in(model, latent) + float(sigmas[0]) * injected
    else:
        injected = (latent_in(model, low) * 0.9 - 0.9 * latent_in(model, latent)) / 0.1
        wanted = injected
    assert (latent_in(model, end) - wanted)[..., :4].abs().max() < 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("family", ["eps", "flow"])
def test_an_end_state_with_a_mask_is_not_taken_for_the_picture(family):
    model, latent = model_of(family), picture()
    masked = latent | {"noise_mask": torch.ones(1, 8, 8) * 0.5}
    noise, end, sigmas, report, _ = invert(model, masked, steps=10)
    assert "masked: sample with the latent that was inverted" in report
    with pytest.raises(ValueError, match="latent_image: is the end state"):
        back(model, noise, sigmas, end)
    # A mask that was put on only afterwards, too.
    noise, end, sigmas, report, _ = invert(model, latent, steps=10)
    assert "masked" not in report
    with pytest.raises(ValueError, match="latent_image: is the end state"):
        back(model, noise, sigmas, end | {"noise_mask": torch.ones(1, 8, 8) * 0.5})
    out = back(model, noise, sigmas, latent)
    assert apart(latent_in(model, out), kept(model, latent, family)) < 0.05  # ten steps


def test_a_mask_without_a_skip_still_has_noise_outside():
    model, latent = model_of("eps"), picture()
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 4:] = 1
    noise, _, sigmas, _, _ = invert(model, latent | {"noise_mask": mask}, steps=20, skip=0.0)
    assert 0.7 < noise.unit[..., :4].std() < 1.3
    out = back(model, noise, sigmas, latent | {"noise_mask": mask})
    assert torch.allclose(out["samples"][..., :4], latent["samples"][..., :4], atol=1e-4)
    assert apart(latent_in(model, out)[..., 4:], latent_in(model, latent)[..., 4:]) < NEAR


def test_latents_in_half_precision():
    model, latent = model_of("eps"), picture()
    half = {"samples": latent["samples"].half()}
    noise, end, *_ = invert(model, half, steps=8)
    same, *_ = invert(model, {"samples": half["samples"].float()}, steps=8)
    assert torch.equal(noise.unit, same.unit) and end["samples"].dtype == torch.float32
    noised, _ = run("SSINoiseInject", model=model, latent=half, skip=0.1)
    assert noised["samples"].dtype == torch.float32


def test_video_latents():
    model = gaussian_model("flow", latent_format=comfy.latent_formats.Wan21)
    drawn = picture(batch=1, shape=(16, 3, 8, 8), mean=0.3, scale=S)["samples"]
    latent = {"samples": model.model.process_latent_out(drawn)}
    noise, end, sigmas, _, states = invert(model, latent, steps=20, keep_states=True)
    assert noise.unit.shape == end["samples"].shape == latent["samples"].shape
    assert states["samples"].shape == (len(sigmas) - 1, 16, 3, 8, 8)
    out = back(model, noise, sigmas, {"samples": torch.zeros_like(latent["samples"])})
    assert apart(latent_in(model, out), kept(model, latent, "flow")) < 0.03
    four = picture(batch=1, shape=(16, 8, 8))
    assert invert(model, four, steps=5)[0].unit.shape == (1, 16, 1, 8, 8)


def test_noise_of_a_model_whose_noise_is_scaled():
    model, latent = model_of("flow", noise_scale=4.0), picture()
    if not hasattr(model.get_model_object("model_sampling"), "noise_scale"):
        pytest.skip("this core has no noise_scale")
    noise, end, sigmas, _, _ = invert(model, latent, steps=10)
    state = first_state(model, noise, sigmas, {"samples": torch.zeros_like(latent["samples"])})
    assert (state - latent_in(model, end)).norm() < 1e-5 * state.norm()


@pytest.mark.parametrize(("value", "unit"), [(0.5, "sigma"), (0, "timestep"), (9.0, "snr")])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_skip_is_the_same_in_all_units(family, value, unit):
    model = model_of(family)
    sampling = model.get_model_object("model_sampling")
    if unit == "timestep":
        top, bottom = (
            float(sampling.timestep(torch.tensor(float(s)))) for s in (sampling.sigma_max, sampling.sigma_min)
        )
        value = bottom + 0.7 * (top - bottom)
    _, sigma = run("SSINoiseInject", model=model, latent=picture(), skip=value, skip_unit=unit)
    again = {
        "sigma": lambda: sigma,
        "timestep": lambda: float(sampling.timestep(torch.tensor(sigma))),
        "snr": lambda: ((1 - sigma) / sigma) ** 2 if is_flow(family) else sigma**-2,
    }[unit]()
    assert again == pytest.approx(value, rel=2e-3, abs=0.6 if unit == "timestep" and top > 10 else 0)


def test_callbacks_and_interruption():
    import comfy.model_management
    import comfy.utils

    seen = []
    model, latent = model_of("eps"), picture()
    comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, node_id=None: seen.append((value, total)))
    try:
        _, _, sigmas, _, _ = invert(model, latent, steps=10)
        assert seen[-1] == (len(sigmas) - 2, len(sigmas) - 2)
        calls = model.model.diffusion_model.calls
        calls.clear()

        def stop(value, total, preview, node_id=None):
            if value >= 1:
                comfy.model_management.interrupt_current_processing()

        comfy.utils.set_progress_bar_global_hook(stop)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            invert(model, latent, steps=10)
        assert len(calls) <= 2
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
        comfy.model_management.interrupt_current_processing(False)


class Broken(torch.nn.Module):
    dtype = torch.float32

    def forward(self, x, timesteps, **kwargs):
        return x * float("nan") if float(kwargs["transformer_options"]["sigmas"][0]) > 1 else x


def test_a_model_that_gives_nan_names_the_step():
    model = model_of("eps")
    model.model.diffusion_model = Broken()
    with pytest.raises(RuntimeError, match=r"NaN.*step \d+ of \d+, sigma"):
        invert(model, picture(), steps=10)


WRONG = {
    "channels": (lambda p: {"latent": {"samples": torch.ones(1, 16, 8, 8)}}, "16 channels, this model takes 4"),
    "an empty latent": (lambda p: {"latent": {"samples": torch.zeros(1, 4, 8, 8)}}, r"latent: is empty \(all zeros\)"),
    "NaN": (lambda p: {"latent": {"samples": torch.full((1, 4, 8, 8), float("nan"))}}, r"sample\(s\) \[0\] hold NaN"),
    "a skip under the model": (lambda p: {"skip": 0.001}, "smallest level"),
    "a skip over the model": (lambda p: {"skip": 99.0}, "largest level"),
    "a negative skip": (lambda p: {"skip": -1.0}, "skip -1: must be 0"),
    "a NaN skip": (lambda p: {"skip": float("nan")}, "skip nan: must be 0"),
    "cfg without negative": (lambda p: {"cfg": 2.0}, "cfg 2: needs a negative conditioning"),
    "one step": (lambda p: {"steps": 1, "skip": 0.0}, "one level alone leaves solver"),
    "repeated sigmas": (lambda p: {"sigmas": torch.tensor([10.0, 5.0, 5.0, 0.0])}, r"entry 2 \(5\) repeats"),
    "zigzag sigmas": (lambda p: {"sigmas": torch.tensor([10.0, 2.0, 5.0, 0.0])}, r"entry 2 \(5\) rises"),
    "empty sigmas": (
        lambda p: {"sigmas": torch.tensor([])},
        r"sigmas: are empty",
    ),
    "another model's sigmas": (lambda p: {"sigmas": torch.tensor([80.0, 10.0, 1.0, 0.0])}, "another model"),
    "sigmas that are the skip alone": (lambda p: {"sigmas": torch.tensor([0.1]), "skip": 0.1}, "must lie below"),
    "a NaN cfg": (lambda p: {"cfg": float("nan"), "negative": conditioning()}, "cfg nan"),
    "no signal at all": (lambda p: {"skip": 0.0, "skip_unit": "snr"}, "nothing but noise"),
    "an unknown solver": (lambda p: {"solver": "euler_ancestral"}, "solver 'euler_ancestral': unknown"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_said_in_words(case):
    change, words = WRONG[case]
    model = model_of("eps")
    with pytest.raises(ValueError, match=words):
        invert(model, **({"latent": picture()} | change(model)))
    assert model.model.diffusion_model.calls == [], "evaluations were spent before the input was refused"


def test_a_stochastic_sampler_is_refused_by_name():
    import nodes

    node = nodes.NODE_CLASS_MAPPINGS["SSIInverseSampler"]
    assert node.validate_inputs("dpmpp-2m") is True and node.validate_inputs(None) is True
    assert "euler_ancestral" in node.validate_inputs("euler_ancestral")
    assert "fresh noise" in node.validate_inputs("dpmpp_2m_sde")


def test_a_deterministic_sampler_is_not_called_stochastic():
    import nodes

    assert "unknown" in nodes.NODE_CLASS_MAPPINGS["SSIInverseSampler"].validate_inputs("euler_cfg_pp")


@pytest.mark.skipif("image" not in RARE, reason="this core has no such models")
def test_an_image_to_image_model_is_refused():
    model = model_of("image")
    for node, options in (("SSIInverseSampler", {"positive": conditioning()}), ("SSINoiseInject", {})):
        with pytest.raises(ValueError, match="does not start from noise"):
            run(node, model=model, latent=picture(), **options)


def test_a_negative_that_the_model_needs_at_cfg_1_is_asked_for():
    model = model_of("eps")
    model.model_options["disable_cfg1_optimization"] = True
    with pytest.raises(ValueError, match="negative: a node on this model"):
        invert(model, picture())


@pytest.mark.parametrize("direction", ["up", "down"])
def test_patches_that_look_at_the_schedule_see_it_falling(direction):
    model = model_of("eps")
    seen = []
    model.set_model_denoise_mask_function(
        lambda sigma, mask, extra_options: seen.append(extra_options["sigmas"]) or mask
    )
    up, down, _ = run("SSISigmas", model=model, steps=6, schedule="auto", skip=0.1)
    (nothing,), (sampler,) = run("DisableNoise"), run("SSISolver", solver="euler")
    masked = picture() | {"noise_mask": torch.ones(1, 8, 8)}
    back(model, nothing, up if direction == "up" else down, masked, sampler)
    invert(model, masked, steps=6)
    assert seen and all(float(s[0]) > float(s[-1]) for s in seen)


def test_hook_keyframes_are_warned_of(caplog):
    import comfy.hooks

    def prompt(count):
        hook = comfy.hooks.Hook()
        for i in range(count):
            hook.hook_keyframe.add(comfy.hooks.HookKeyframe(strength=1.0, start_percent=i / 2))
        group = comfy.hooks.HookGroup()
        group.add(hook)
        return [[conditioning()[0][0], {"hooks": group}]]

    model = model_of("eps")
    for count in (0, 1):
        assert "keyframes" not in invert(model, picture(), steps=4, positive=prompt(count))[3]
    assert "first one held all the way up" in invert(model, picture(), steps=4, positive=prompt(2))[3]
    assert "keyframes" in caplog.text


def test_noise_is_picked_by_the_image_s_index():
    model, latent = model_of("eps"), picture(batch=4)
    part = {"samples": latent["samples"][2:], "batch_index": [2, 3]}
    noise, *_ = invert(model, part, steps=5)
    picked = noise.generate_noise({"samples": torch.zeros(1, 4, 8, 8), "batch_index": [3]})
    assert torch.equal(picked, noise.unit[1:])
    with pytest.raises(ValueError, match="noise: is of shape"):
        noise.generate_noise({"samples": torch.zeros(1, 4, 8, 8), "batch_index": [1]})


def test_end_states_of_core_s_samplers_on_flow_models_are_explained():
    model = model_of("flow")
    with pytest.raises(ValueError, match="divides by 1 - sigma"):
        run("SSINoiseFromLatent", model=model, latent={"samples": torch.full((1, 4, 8, 8), float("inf"))})
    for sigmas, words in ((torch.tensor([1.0, 80.0]), "another model"), (torch.tensor([]), "sigmas: are empty")):
        with pytest.raises(ValueError, match=words):
            run("SSINoiseFromLatent", model=model, latent=picture(), sigmas=sigmas)


def test_sigmas_may_come_from_core_in_either_direction():
    model, latent = model_of("eps"), picture()
    (falling,) = run("KarrasScheduler", steps=12, sigma_max=14.6146, sigma_min=0.0292, rho=7.0)
    (rising,) = run("FlipSigmas", sigmas=falling)
    a, b = (invert(model, latent, sigmas=s, skip=0.1)[0].unit for s in (falling, rising))
    assert torch.equal(a, b)


def test_rising_from_zero_is_refused_by_our_sampler():
    model = model_of("eps")
    (sampler,), (nothing,) = run("SSISolver", solver="euler"), run("DisableNoise")
    with pytest.raises(ValueError, match="cannot start at 0, where the slope is 0/0; cut the 0 off"):
        back(model, nothing, torch.tensor([0.0, 1.0, 5.0]), picture(), sampler)


def test_noise_refuses_a_latent_of_another_size():
    model, latent = model_of("eps"), picture()
    noise, _, sigmas, _, _ = invert(model, latent, steps=5)
    with pytest.raises(ValueError, match="noise: is of shape 2x4x8x8"):
        back(model, noise, sigmas, {"samples": torch.zeros(1, 4, 16, 16)})
