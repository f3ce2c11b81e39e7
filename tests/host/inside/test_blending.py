"""Blends of NOISE and prompts, and noise on disk."""

import comfy.samplers
import pytest
import torch
from conftest import run
from models import S, conditioning
from test_inversion import back, first_state, invert, model_of, picture


@pytest.fixture(scope="module")
def two():
    model = model_of("eps")
    found = [invert(model, picture(batch=1, seed=s), steps=20, seed=s) for s in (1, 2)]
    return model, found[0][0], found[1][0], found[0][2]


def blend(*noises, **options):
    return run("SSINoiseBlend", noises={f"noise{i}": noise for i, noise in enumerate(noises)}, **options)


def test_frames_run_from_one_to_the_other_at_the_same_norm(two):
    _, a, b, _ = two
    noise, empty, report = blend(a, b, frames=5)
    assert noise.unit.shape == empty["samples"].shape == (5, 4, 8, 8)
    assert torch.equal(noise.unit[0], a.unit[0]) and torch.equal(noise.unit[4], b.unit[0])
    norms = noise.unit.flatten(1).norm(dim=1)
    assert (norms / norms[0] - 1).abs().max() < 0.1
    assert "cosine" in report and not empty["samples"].any()


def test_a_morph_is_sampled_frame_by_frame(two):
    model, a, b, sigmas = two
    noise, empty, _ = blend(a, b, weights="0, 0.5, 1")
    out = back(model, noise, sigmas, empty)
    single = back(model, a, sigmas, {"samples": torch.zeros_like(a.unit)})
    assert torch.allclose(out["samples"][:1], single["samples"], atol=1e-5)
    assert first_state(model, noise, sigmas, empty).shape == (3, 4, 8, 8)


def test_three_noises_and_weights(two):
    model, a, b, _ = two
    c, *_ = invert(model, picture(batch=1, seed=3), steps=20, seed=3)
    noise, _, _ = blend(a, b, c, weights="1, 1, 1; 0, 0, 1")
    assert torch.equal(noise.unit[1], c.unit[0])
    assert abs(float(noise.unit[0].norm() / a.unit[0].norm()) - 1) < 0.1
    looped, _, _ = blend(a, b, c, frames=6, loop=True)
    assert torch.equal(looped.unit[0], a.unit[0]) and torch.equal(looped.unit[4], c.unit[0])


def test_a_latent_and_random_noise_can_be_blended_in(two):
    model, a, _, _ = two
    end = invert(model, picture(batch=1, seed=2), steps=20, seed=2)[1]
    with pytest.raises(ValueError, match="model: is needed"):
        blend(a, end)
    mixed, _, _ = blend(a, end, model=model, weights="0.5")
    plain, _, _ = blend(a, two[2], weights="0.5")
    assert (mixed.unit - plain.unit).abs().max() < 1e-5
    (random,) = run("RandomNoise", noise_seed=7)
    assert torch.equal(blend(a, random, weights="1")[0].unit, random.generate_noise({"samples": a.unit}))


def test_a_mask_keeps_the_first_noise_outside(two):
    _, a, b, _ = two
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    noise, _, _ = blend(a, b, weights="1", mask=mask)
    assert torch.allclose(noise.unit[..., :4], a.unit[..., :4], atol=1e-6)
    assert torch.allclose(noise.unit[..., 4:], b.unit[..., 4:], atol=1e-6)


def test_warnings_are_words(two, caplog):
    a, b = (two[1].with_unit(torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(s))) for s in (0, 1))
    assert "nearly parallel" in blend(a, a, weights="0.5")[2]
    assert "not unit noise" in blend(a, b.with_unit(b.unit * 0.3), weights="0.5")[2]
    assert "Warning" not in blend(a, b, weights="0.5")[2]
    assert "nearly parallel" in caplog.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "half"}, "no number"),
        ({"weights": ""}, "weights"),
        ({"weights": "nan"}, "finite"),
        ({"frames": 1}, "frames 1"),
        ({"method": "karcher", "weights": "1, 2; 3, 4, 5"}, "numbers in a frame"),
        ({"mask": torch.ones(2, 8, 8)}, "mask"),
    ],
)
def test_bad_blends(two, options, words):
    with pytest.raises(ValueError, match=words):
        blend(two[1], two[2], **options)


def test_noises_that_do_not_belong_together(two):
    _, a, _, _ = two
    flow, *_ = invert(model_of("flow"), picture(batch=1), steps=5)
    with pytest.raises(ValueError, match="one model"):
        blend(a, flow)
    large, *_ = invert(model_of("eps"), picture(batch=1, shape=(4, 16, 16)), steps=5)
    with pytest.raises(ValueError, match="1x4x8x8 and 2 is 1x4x16x16"):
        blend(a, large)


def test_prompts_blend_by_the_same_weights():
    one, two = conditioning(0.2, tokens=4), conditioning(0.6, tokens=4)
    one[0][1] |= {"pooled_output": torch.full((1, 5), 1.0), "strength": 2}
    two[0][1] |= {"pooled_output": torch.full((1, 5), 3.0)}
    (mixed,) = run("SSIConditioningBlend", conditioning_1=one, conditioning_2=two, weights="0, 0.5, 1")
    assert torch.allclose(mixed[0][0].flatten(1).mean(1), torch.tensor([0.2, 0.4, 0.6]))
    assert torch.allclose(mixed[0][1]["pooled_output"][:, 0], torch.tensor([1.0, 2.0, 3.0]))
    assert mixed[0][1]["strength"] == 2 and one[0][0].shape == (1, 4, 8)
    (longer,) = run("SSIConditioningBlend", conditioning_1=one, conditioning_2=conditioning(0.6, tokens=6), frames=3)
    assert longer[0][0].shape == (3, 6, 8)
    with pytest.raises(ValueError, match="prompts combined"):
        run("SSIConditioningBlend", conditioning_1=one, conditioning_2=one + two)


def test_every_frame_is_sampled_with_its_own_prompt():
    model = model_of("eps")
    (mixed,) = run("SSIConditioningBlend", conditioning_1=conditioning(-1), conditioning_2=conditioning(1), frames=3)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(mixed, conditioning(0.0))
    noise, *_ = invert(model, picture(batch=1), steps=10)
    frames = noise.with_unit(noise.unit.expand(3, -1, -1, -1))
    (sigmas,) = run("KarrasScheduler", steps=40, sigma_max=14.6146, sigma_min=0.0292, rho=7.0)
    out, _ = run(
        "SamplerCustomAdvanced", noise=frames, guider=guider, sampler=comfy.samplers.sampler_object("dpmpp_2m"),
        sigmas=sigmas, latent_image=frames.empty_latent(),
    )  # fmt: skip
    means = model.model.process_latent_in(out["samples"]).flatten(1).mean(1)
    assert torch.allclose(means.diff(), torch.tensor([1.0, 1.0]) * (1 - S / 14.6), atol=0.05)


def test_saved_noise_comes_back_bit_for_bit(two):
    model, a, _, sigmas = two
    run("SSINoiseSave", noise=a, filename_prefix="tests/kept", sigmas=sigmas)
    import nodes

    loader = nodes.NODE_CLASS_MAPPINGS["SSINoiseLoad"]
    newest = loader.INPUT_TYPES()["required"]["file"][1]["options"]
    assert newest[0].startswith("[output] tests/kept_00001")
    noise, found, empty, info = run("SSINoiseLoad", file=newest[0])
    assert torch.equal(noise.unit, a.unit) and torch.equal(found, sigmas) and noise.start == a.start
    assert empty["samples"].shape == a.unit.shape and "sigma 14.6" in info
    with pytest.raises(ValueError, match="comes from a file"):
        first_state(model, noise, found, picture(batch=1))
    known, *_ = run("SSINoiseLoad", file=newest[0], model=model)
    state, wanted = (first_state(model, n, sigmas, picture(batch=1)) for n in (known, a))
    assert torch.equal(state, wanted)
    with pytest.raises(ValueError, match="another kind of model"):
        run("SSINoiseLoad", file=newest[0], model=model_of("flow"))
    assert "is not in the output" in loader.validate_inputs("[output] ../secret.ssi.safetensors")
    assert loader.validate_inputs(newest[0]) is True


def test_noise_inverted_in_the_shell_is_read(tmp_path):
    import folder_paths

    from ssi_core import VE, karras_sigmas
    from ssi_core import invert as engine_invert

    x0 = picture(batch=1, shape=(3, 8, 8))["samples"]
    found = engine_invert(lambda x, sigma: x * 0.5, x0, karras_sigmas(8), process=VE())
    from pathlib import Path

    path = Path(folder_paths.get_input_directory()) / "shell.ssi.safetensors"
    path.parent.mkdir(exist_ok=True)
    found.save(path)
    noise, sigmas, _, _ = run("SSINoiseLoad", file="[input] shell.ssi.safetensors")
    assert torch.allclose(noise.unit * noise.start.noise_gain, found.noise * 80, rtol=1e-6)
    assert torch.equal(sigmas, found.sigmas.float())


def test_random_noise_is_not_saved():
    (random,) = run("RandomNoise", noise_seed=7)
    with pytest.raises(ValueError, match="its seed"):
        run("SSINoiseSave", noise=random)
