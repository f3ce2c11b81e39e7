"""SSI Morph: what `ssi morph` gives, through the host's guiders, samplers, prompts and batches."""

import math
import sys

import comfy.model_management
import comfy.samplers
import pytest
import torch
from conftest import run
from models import conditioning
from test_inversion import back, invert, model_of, picture
from tiny import sample, tiny_latent, tiny_model, tiny_prompt

import nodes

STEPS = 20


def guided(model, positive=None, negative=None, cfg=1.0):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive or conditioning(0.3), negative or conditioning(-0.1))
    guider.set_cfg(cfg)
    return guider


def morph(noises, sigmas, guider, solver="dpmpp-2m", **options):
    sampler = run("SSISolver", solver=solver)[0] if isinstance(solver, str) else solver
    given = {f"noise{i}": noise for i, noise in enumerate(noises)}
    found, report, evenness = run(
        "SSIMorph", noises=given, guider=guider, sampler=sampler, sigmas=sigmas, **{"frames": 6} | options
    )
    return found["samples"], report, evenness


@pytest.fixture(scope="module", params=["eps", "flow"])
def three(request):
    """A model, three pictures, and the noise of each."""
    model = model_of(request.param)
    latents = [picture(batch=1, seed=seed) for seed in (1, 2, 3)]
    found = [invert(model, latent, steps=STEPS, skip=0.1, seed=seed) for seed, latent in enumerate(latents)]
    return model, [latent["samples"] for latent in latents], [one[0] for one in found], found[0][2]


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("pace", ["even", "angle"])
def test_keyframes_are_the_pictures_themselves(three, pace, loop):
    model, pictures, noises, sigmas = three
    frames, report, _ = morph(noises, sigmas, guided(model), frames=9, pace=pace, loop=loop)
    assert frames.shape == (9, *pictures[0].shape[1:]) and frames.dtype == torch.float32
    at = [
        int(found) - 1
        for found in (part.split(", ")[0].split("frame ")[-1] for part in report.splitlines()[-1].split("; "))
    ]
    assert at[0] == 0 and (at[-1] == 8) != loop
    torch.testing.assert_close(frames[at], torch.cat(pictures), atol=2e-5, rtol=0)
    assert "Warning" not in report


def test_by_angle_and_without_carrying_it_is_what_a_blend_gives(three):
    model, _, noises, sigmas = three
    frames, report, _ = morph(noises[:2], sigmas, guided(model), frames=5, pace="angle", carry=False, batch_size=2)
    blended, empty, _ = run("SSINoiseBlend", noises={"noise0": noises[0], "noise1": noises[1]}, frames=5)
    (sampler,) = run("SSISolver", solver="dpmpp-2m")
    torch.testing.assert_close(frames, back(model, blended, sigmas, empty, sampler)["samples"], atol=1e-4, rtol=1e-5)
    assert "carried" not in report


def test_it_is_the_morph_of_the_engine():
    """With the embedded model: the same frames at the same places, from as many evaluations."""
    from ssi_core import demo_denoiser, karras_sigmas
    from ssi_core import invert as engine_invert
    from ssi_core.demo.scenes import HELD_OUT, draw_scenes
    from ssi_core.morph import morph as engine_morph

    x0 = draw_scenes([HELD_OUT + 2, HELD_OUT + 4])
    denoise = demo_denoiser()
    levels = karras_sigmas(8, sigma_min=denoise.sigma_min, sigma_max=denoise.sigma_max)
    keys = [engine_invert(denoise, x0[i : i + 1], levels, skip=0.1, seed=i) for i in (0, 1)]
    wanted = engine_morph(denoise, keys, 8, originals=list(x0.split(1)), loop=True)
    model, _, _ = run("SSIPixelModelLoader")
    noise, _, sigmas, _, _ = run("SSIInverseSampler", model=model, latent={"samples": x0}, steps=8, skip=0.1)
    (guider,) = run("BasicGuider", model=model, conditioning=run("SSIClassLabel", label="")[0])
    frames, report, evenness = morph([noise], sigmas, guider, frames=8, loop=True)
    assert (frames - wanted.frames).abs().max() < 2e-3
    assert evenness == pytest.approx(wanted.evenness, rel=1e-2)
    assert f"{wanted.nfe} evaluations" in report and "grey levels of 255" in report
    shown = ((frames + 1) / 2).clamp(0, 1) * 255
    assert (shown[0] - (x0[0] + 1) / 2 * 255).abs().max() < 0.1


def test_a_batch_is_so_many_keyframes(three):
    model, pictures, _, _ = three
    # As seeds of a batch are counted on, single inversions have those of its images.
    latent = {"samples": torch.cat(pictures)}
    noise, _, sigmas, _, _ = invert(model, latent, steps=STEPS, skip=0.1, seed=0)
    single = [invert(model, {"samples": p}, steps=STEPS, skip=0.1, seed=i)[0] for i, p in enumerate(pictures)]
    whole, report, _ = morph([noise], sigmas, guided(model), frames=7)
    apart, _, _ = morph(single, sigmas, guided(model), frames=7)
    torch.testing.assert_close(whole, apart, atol=1e-3, rtol=1e-3)
    assert "3 keyframes" in report


def test_steps_are_even_or_as_the_easing_wants(three):
    model, _, noises, sigmas = three
    frames, report, evenness = morph(noises, sigmas, guided(model), frames=13)
    steps = frames.diff(dim=0).flatten(1).square().mean(1).sqrt()
    assert evenness == pytest.approx(float(steps.max() / steps.median()), rel=0.05)
    assert evenness < 1.2 and f"largest step {evenness:.2f} times" in report
    frames, report, evenness = morph(noises, sigmas, guided(model), frames=13, easing="ease")
    eased = frames.diff(dim=0).flatten(1).square().mean(1).sqrt()
    assert eased.max() / eased.median() > 1.25 and evenness < 1.2
    assert f"largest step {evenness:.2f} times the median one, each over what ease wants of it" in report


@pytest.mark.parametrize("easing", ["linear", "sine"])
def test_steps_that_stayed_large_are_told(three, easing):
    """A picture, the same picture, another: with a frame each nothing can be placed."""
    model, pictures, noises, sigmas = three
    known = {"samples": torch.cat([pictures[0], pictures[0], pictures[2]])}
    path = {"noises": noises, "sigmas": sigmas, "guider": guided(model), "frames": 3, "originals": known}
    assert "some steps stayed large" in morph(**path, easing=easing)[1]
    assert "some steps stayed large" not in morph(**path, easing=easing, pace="angle")[1]


@pytest.mark.parametrize("loop", [False, True])
def test_prompts_travel_with_the_frames(three, loop):
    """At an even angle, as with SLERP Noise Blend and SamplerCustomAdvanced: a prompt a frame."""
    model, _, noises, sigmas = three
    path = {"frames": 6, "loop": loop}
    (prompts,) = run("SSIConditioningBlend", conditioning_1=conditioning(-1), conditioning_2=conditioning(1), **path)
    frames, _, _ = morph(
        noises[:2], sigmas, guided(model, prompts), pace="angle", carry=False, batch_size=4, frames=6, loop=loop
    )
    blended, empty, _ = run("SSINoiseBlend", noises={"noise0": noises[0], "noise1": noises[1]}, **path)
    (sampler,), guider = run("SSISolver", solver="dpmpp-2m"), guided(model, prompts)
    out, _ = run(
        "SamplerCustomAdvanced", noise=blended, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=empty
    )
    torch.testing.assert_close(frames, out["samples"], atol=2e-4, rtol=1e-4)
    single, _, _ = morph(noises[:2], sigmas, guided(model), pace="angle", carry=False, frames=6, loop=loop)
    assert (frames - single).abs().max() > 0.1, "prompts that change nothing would show nothing"


def test_prompts_of_the_keyframes_alone_are_blended_between_them(three):
    """Two prompts for a path of many frames; also where the guider's other prompt is a single one."""
    model, _, noises, sigmas = three
    ends = {"conditioning_1": conditioning(-1), "conditioning_2": conditioning(1)}
    (two,), (many,) = run("SSIConditioningBlend", **ends, weights="0, 1"), run("SSIConditioningBlend", **ends, frames=9)
    options = {"pace": "even", "frames": 7}
    found = [morph(noises, sigmas, guided(model, prompts, cfg=2.0), **options)[0] for prompts in (two, many)]
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "flux"])
def test_prompts_travel_through_the_host_s_own_networks(kind):
    """With cfg, pooled prompts and guidance; sampled in pieces of the path, as against all frames in one."""
    model, ends = tiny_model(kind), [tiny_prompt(kind, seed) for seed in (1, 2)]
    inverted = [
        run("SSIInverseSampler", model=model, latent=tiny_latent(kind, seed=seed), positive=prompt, steps=6, seed=seed)
        for seed, prompt in enumerate(ends)
    ]
    noises, sigmas = [one[0] for one in inverted], inverted[0][2]
    (prompts,) = run("SSIConditioningBlend", conditioning_1=ends[0], conditioning_2=ends[1], frames=5)
    negative, euler = tiny_prompt(kind, 3), comfy.samplers.sampler_object("euler")
    guider = guided(model, prompts, negative, cfg=2.0)
    frames, _, _ = morph(noises, sigmas, guider, euler, frames=5, pace="angle", carry=False, batch_size=2)
    blended, empty, _ = run("SSINoiseBlend", noises={"noise0": noises[0], "noise1": noises[1]}, frames=5)
    wanted = sample(model, blended, sigmas, empty, prompts, negative, cfg=2.0)
    torch.testing.assert_close(frames, wanted, atol=1e-3, rtol=1e-3)
    other = sample(model, blended, sigmas, empty, ends[0], negative, cfg=2.0)
    assert (other[-1] - wanted[-1]).abs().max() > 0.05, "prompts that change nothing would show nothing"


def test_pooled_prompts_and_token_masks_go_along(pack):
    guiders = sys.modules[f"{pack.__name__}.nodes.host.guiders"]
    guider = guided(model_of("eps"))
    both = conditioning(0.0, batch=2, tokens=3)
    both[0][0][1] += 4
    both[0][1] |= {
        "pooled_output": torch.tensor([[1.0], [3.0]]),
        "attention_mask": torch.tensor([[1, 1, 0], [1, 0, 1]]),
        "strength": 2.0,
        "area": (1, 1, 0, 0),
    }
    guider.set_conds(both, conditioning(5.0))
    found = guiders.with_prompts_at(guider, [0.0, 0.5, 2.0], 2, False)
    (prompt,), (negative,) = found.original_conds["positive"], found.original_conds["negative"]
    assert prompt["cross_attn"].flatten(1).mean(1).tolist() == pytest.approx([0, 1, 4])
    assert prompt["pooled_output"].flatten().tolist() == pytest.approx([1, 1.5, 3])
    assert prompt["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 1]]
    assert prompt["strength"] == 2 and prompt["area"] == (1, 1, 0, 0)
    assert (
        negative is guider.original_conds["negative"][0]
        and len(guider.original_conds["positive"][0]["cross_attn"]) == 2
    )
    looped = guiders.with_prompts_at(guider, [1.5], 2, True).original_conds["positive"][0]
    assert looped["cross_attn"].flatten(1).mean(1).tolist() == pytest.approx([2]), "half way back from 4 to 0"


def test_several_class_numbers_are_refused():
    model, vae, _ = run("SSIPixelModelLoader", checkpoint="demo32-classes (embedded)")
    (labels,) = run("SSIClassLabel", label="0, 1")
    (images,) = run("SSIDemoImages", count=2)
    (latent,) = run("VAEEncode", pixels=images, vae=vae)
    (label,) = run("SSIClassLabel", label="0")
    noise, _, sigmas, _, _ = run("SSIInverseSampler", model=model, latent=latent, steps=4, positive=label)
    (guider,) = run("BasicGuider", model=model, conditioning=labels)
    with pytest.raises(ValueError, match="guider: its conditioning holds several class numbers"):
        morph([noise], sigmas, guider)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "uni_pc", "dpm_fast"])
def test_core_s_samplers_and_every_evaluation_is_counted(three, sampler):
    model, pictures, noises, sigmas = three
    network = model.model.diffusion_model
    network.calls.clear()
    frames, report, _ = morph(
        noises, sigmas, guided(model), comfy.samplers.sampler_object(sampler), frames=4, pace="angle", batch_size=1
    )
    # At cfg 1 the network is asked once an evaluation.
    assert f"{len(network.calls)} evaluations" in report
    torch.testing.assert_close(frames[[0, -1]], torch.cat([pictures[0], pictures[2]]), atol=2e-5, rtol=0)


def test_noise_that_does_not_know_its_picture(three):
    model, pictures, noises, sigmas = three
    run("SSINoiseSave", noise=noises[1], filename_prefix="noise/key")
    newest = nodes.NODE_CLASS_MAPPINGS["SSINoiseLoad"].INPUT_TYPES()["required"]["file"][1]["options"][0]
    loaded, *_ = run("SSINoiseLoad", file=newest, model=model)
    mixed = [noises[0], loaded]
    frames, report, _ = morph(mixed, sigmas, guided(model), pace="angle")
    assert "keyframe 2: its noise does not know its picture" in report and "keyframe 1: its" not in report
    plain, said, _ = morph(mixed, sigmas, guided(model), pace="angle", carry=False)
    assert "Warning" not in said, "nothing is carried, so that no picture need be known"
    assert torch.equal(frames[-1], plain[-1]) and not torch.allclose(frames[0], plain[0], atol=1e-3)
    known = {"samples": torch.cat(pictures[:2])}
    frames, report, _ = morph(mixed, sigmas, guided(model), pace="angle", originals=known)
    torch.testing.assert_close(frames[[0, -1]], known["samples"], atol=2e-5, rtol=0)
    assert "Warning" not in report
    blend, *_ = run("SSINoiseBlend", noises={"noise0": noises[0], "noise1": noises[1]})
    assert blend.source is None, "a blend is of no picture"


def test_other_noises_as_keyframes(three):
    """Random noise is drawn for one picture whatever stands beside it; a LATENT is read with the guider's model."""
    model, _, noises, sigmas = three
    (random,) = run("RandomNoise", noise_seed=5)
    end = run(
        "SSIInverseSampler",
        model=model,
        latent=picture(batch=1, seed=7),
        steps=STEPS,
        positive=conditioning(0.3),
        seed=9,
    )
    frames, report, _ = morph([random, noises[0], end[1]], sigmas, guided(model), pace="angle")
    assert "3 keyframes" in report and bool(frames.isfinite().all())
    wanted, _, _ = morph([random, noises[0], end[0]], sigmas, guided(model), pace="angle", carry=False)
    if model.model.model_type.name != "FLOW":  # whose end state is the state itself: core divides by 1 - sigma
        torch.testing.assert_close(frames[-1], wanted[-1], atol=1e-3, rtol=1e-3)


def test_what_is_refused(three):
    model, pictures, noises, sigmas = three
    guider = guided(model)
    other, *_ = invert(
        model_of("v" if model.model.model_type.name == "FLOW" else "flow"), picture(batch=1, seed=4), steps=4
    )
    large, *_ = invert(model, picture(batch=1, seed=4) | {"samples": torch.randn(1, 4, 16, 16)}, steps=4)
    for wrong, message in [
        ({"noises": noises[:1]}, "1 given; a morph needs two"),
        ({"noises": []}, "0 given; a morph needs two"),
        ({"frames": 2}, "frames 2: fewer than the 3 keyframes"),
        ({"noises": [noises[0], other]}, "one model and one largest sigma"),
        ({"noises": [noises[0], large]}, "1 is 1x4x8x8 and 2 is 1x4x16x16"),
        ({"sigmas": sigmas[2:]}, "connect the sigmas of SSI Inverse Sampler"),
        ({"originals": {"samples": pictures[0]}}, "originals: 1 latents for 3 keyframes"),
        ({"originals": {"samples": torch.randn(3, 4, 16, 16)}}, "connect the latents that were inverted"),
        ({"solver": comfy.samplers.sampler_object("euler_ancestral")}, "euler_ancestral adds fresh noise"),
        ({"originals": {"samples": torch.zeros(3, 4, 8, 8)}}, r"originals: is empty \(all zeros\)"),
        (
            {"originals": {"samples": torch.full((3, 4, 8, 8), math.nan)}},
            r"originals: sample\(s\) \[0, 1, 2\] hold NaN",
        ),
        ({"originals": {"samples": torch.randn(3, 16, 8, 8)}}, "originals: has 16 channels"),
        (
            {"solver": comfy.samplers.ksampler("dpm_adaptive", {"eta": 0.5})},
            "dpm_adaptive with eta 0.5 adds fresh noise",
        ),
        ({"solver": comfy.samplers.ksampler("heun", {"s_churn": 2})}, "heun with s_churn 2 adds fresh noise"),
        ({"frames": 6.5}, "frames 6.5: a whole number is wanted"),
        ({"frames": 10**9}, "frames 1000000000: may take .* GB of memory"),
        ({"batch_size": 0}, "batch 0: must be 1 or more"),
        ({"solver": comfy.samplers.sampler_object("dpmpp_2m_sde")}, "dpmpp_2m_sde adds fresh noise"),
        ({"noises": [run("RandomNoise", noise_seed=5)[0]] * 2}, "has no size of its own"),
    ]:
        with pytest.raises(ValueError, match=message):
            morph(**{"noises": noises, "sigmas": sigmas, "guider": guider} | wrong)
    assert "nearly parallel" in morph([noises[0], noises[0]], sigmas, guider, frames=3)[1]


def test_what_of_the_model_draws_numbers_does_so_by_the_first_keyframe_s_seed(three):
    model, _, noises, sigmas = three
    guider, seeds = guided(model), []
    as_it_was = guider.sample
    options = str(guider.model_options)
    guider.sample = lambda *args, seed, **kwargs: seeds.append(seed) or as_it_was(*args, seed=seed, **kwargs)
    morph(noises[::-1], sigmas, guider, frames=4)
    assert noises[2].seed > 0 and set(seeds) == {noises[2].seed}
    assert "ssi_morph" not in str(guider.model_options) == options, "the guider is another node's too"


def test_options_that_add_no_noise_are_allowed(pack):
    check = sys.modules[f"{pack.__name__}.nodes.host.morphs"].check_deterministic
    check(comfy.samplers.ksampler("dpm_adaptive", {"eta": 0.0}))
    check(comfy.samplers.ksampler("heun", {"s_churn": 0.0, "s_noise": 1.0}))


def test_inputs_of_an_api_job_that_there_are_not(three):
    model, _, noises, sigmas = three
    with pytest.raises(ValueError, match="noises: has no input 'first'; they are noise0, noise1"):
        run(
            "SSIMorph", noises={"noise0": noises[0], "first": noises[1]}, guider=guided(model), sigmas=sigmas, frames=3,
            sampler=run("SSISolver", solver="euler")[0],
        )  # fmt: skip


@pytest.mark.parametrize(("pace", "times"), [("angle", 2), ("even", 10)])
def test_frames_that_may_not_fit_into_memory_are_refused_at_once(three, monkeypatch, pace, times):
    model, _, noises, sigmas = three
    needed, free = times * 40 * noises[0].unit.numel() * 4, []
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda device: free[-1])
    network, path = model.model.diffusion_model, {"frames": 40, "pace": pace}
    network.calls.clear()
    free.append(needed - 1)
    with pytest.raises(ValueError, match=r"frames 40: may take .* are free; fewer frames") as said:
        morph(noises, sigmas, guided(model), **path)
    assert not network.calls and ("pace angle" in str(said.value)) == (pace == "even")
    free.append(needed)
    with pytest.raises(RuntimeError, match="sampled"):
        morph(noises, sigmas, _Stopped(guided(model)), **path)


class _Stopped:
    """A guider that tells where it would sample."""

    def __init__(self, guider):
        self.model_patcher, self.model_options = guider.model_patcher, guider.model_options

    def sample(self, *args, **kwargs):
        raise RuntimeError("sampled")


def test_it_shows_how_far_it_is_and_stops_when_told(three, monkeypatch, pack):
    model, _, noises, sigmas = three
    morphs = sys.modules[f"{pack.__name__}.nodes.host.morphs"]
    shown, words = [], []
    monkeypatch.setattr(morphs.latent_preview, "prepare_callback", lambda model, steps: lambda *at: shown.append(at))
    monkeypatch.setattr(morphs, "on_node", words.append)
    morph(noises, sigmas, guided(model), frames=7, batch_size=3)
    done, of = [at[0] + 1 for at in shown], [at[3] for at in shown]
    assert words[:2] == ["sampling keyframes", "sampling frames to be measured"] and words[2].startswith("pass 2")
    assert done[len(sigmas) - 2] == 3, "all keyframes, at their last step"
    assert all(0 < d <= o for d, o in zip(done, of, strict=True)) and of[0] == 3 and max(of) == 4
    assert all(at[1].shape == at[2].shape and len(at[1]) <= 3 for at in shown)
    network, asked = model.model.diffusion_model, []

    def interrupt():
        asked.append(1)
        if len(asked) == 30:
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(morphs.comfy.model_management, "throw_exception_if_processing_interrupted", interrupt)
    network.calls.clear()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        morph(noises, sigmas, guided(model), comfy.samplers.sampler_object("euler"), frames=7)
    assert len(network.calls) < 30, "it must stop at once, not after a pass"
