"""Blends of NOISE and prompts, and noise on disk."""

import comfy.samplers
import pytest
import torch
from conftest import run
from models import S, conditioning
from test_inversion import back, first_state, invert, model_of, picture

import nodes


@pytest.fixture(scope="module")
def two():
    model = model_of("eps")
    found = [invert(model, picture(batch=1, seed=s), steps=20, seed=s) for s in (1, 2)]
    return model, found[0][0], found[1][0], found[0][2]


def blend(*noises, **options):
    return run("SSINoiseBlend", noises={f"noise{i}": noise for i, noise in enumerate(noises)}, **options)


def test_frames_turn_from_one_to_the_other_at_constant_speed_and_norms_between_theirs(two):
    _, a, b, _ = two
    noise, empty, report = blend(a, b, frames=5)
    assert noise.unit.shape == empty["samples"].shape == (5, 4, 8, 8)
    assert torch.equal(noise.unit[0], a.unit[0]) and torch.equal(noise.unit[4], b.unit[0])
    frames = noise.unit.flatten(1).double()
    norms = frames.norm(dim=1)
    assert norms[0] / norms[4] > 1.05, "noises of one norm would not show how it runs"
    assert norms.tolist() == pytest.approx(torch.lerp(norms[0], norms[4], torch.linspace(0, 1, 5).double()).tolist())
    angles = torch.cosine_similarity(frames, frames[:1]).clamp(-1, 1).acos()
    assert angles.tolist() == pytest.approx((angles[4] * torch.linspace(0, 1, 5)).tolist(), abs=1e-4)
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


def test_frames_of_a_batch_of_prompts_lie_as_those_of_noises():
    one, other = conditioning(0.0, batch=2), conditioning(1.0, batch=2)
    one[0][0][1] += 10
    other[0][0][1] += 10
    (mixed,) = run("SSIConditioningBlend", conditioning_1=one, conditioning_2=other, frames=3)
    assert mixed[0][0].flatten(1).mean(1).tolist() == pytest.approx([0, 0.5, 1, 10, 10.5, 11])
    noise, _, _ = blend(*(noise_of_batch(s) for s in (0, 1)), frames=3)
    assert torch.equal(noise.unit[0], noise_of_batch(0).unit[0]) and torch.equal(
        noise.unit[3], noise_of_batch(0).unit[1]
    )


def noise_of_batch(seed):
    noise, *_ = invert(model_of("eps"), picture(batch=2), steps=4)
    return noise.with_unit(torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed)))


def test_masks_of_tokens_are_a_frame_s_own():
    one, other = conditioning(0.2, tokens=4), conditioning(0.6, tokens=6)
    other[0][1]["attention_mask"] = torch.tensor([[1, 1, 1, 0, 0, 0]])
    (mixed,) = run("SSIConditioningBlend", conditioning_1=one, conditioning_2=other, weights="0, 0.5, 1")
    assert mixed[0][1]["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]]


def test_classes_are_not_blended():
    (three,), (seven,) = run("SSIClassLabel", label="3"), run("SSIClassLabel", label="7")
    with pytest.raises(ValueError, match="class numbers cannot be blended"):
        run("SSIConditioningBlend", conditioning_1=three, conditioning_2=seven)
    (same,) = run("SSIConditioningBlend", conditioning_1=three, conditioning_2=three, frames=2)
    assert same[0][1]["class_label"].tolist() == [3]


def test_a_mask_a_frame_for_a_batch_and_none_for_sound():
    a, b = noise_of_batch(0), noise_of_batch(1)
    masks = torch.stack([torch.zeros(8, 8), torch.ones(8, 8), torch.zeros(8, 8)])
    noise, _, _ = blend(a, b, weights="1, 1, 1", mask=masks)
    wanted = [a.unit[0], b.unit[0], a.unit[0], a.unit[1], b.unit[1], a.unit[1]]
    assert torch.allclose(noise.unit, torch.stack(wanted), atol=1e-6)
    sound = [n.with_unit(n.unit.flatten(2)) for n in (a, b)]
    with pytest.raises(ValueError, match="no rows and columns"):
        blend(*sound, mask=torch.ones(1, 8, 8))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "half"}, "weights 'half': 'half' is no number"),
        ({"weights": ""}, "weights: are empty"),
        ({"weights": "nan"}, "weights 'nan': must be finite"),
        ({"frames": 1}, "frames 1, inputs 2: a path needs two or more"),
        ({"method": "karcher", "weights": "1, 2; 3, 4, 5"}, "numbers in a frame"),
        ({"mask": torch.ones(2, 8, 8)}, "mask: 2 masks for 1 frame"),
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
    other = conditioning(0.6, tokens=6)
    other[0][1] |= {"pooled_output": torch.full((1, 5), 3.0)}
    (longer,) = run("SSIConditioningBlend", conditioning_1=one, conditioning_2=other, frames=3)
    assert longer[0][0].shape == (3, 6, 8)
    with pytest.raises(ValueError, match="prompts combined"):
        run("SSIConditioningBlend", conditioning_1=one, conditioning_2=one + two)


def test_what_of_a_prompt_cannot_be_blended_is_said(caplog):
    one, two = conditioning(0.2), conditioning(0.6)
    two[0][1] |= {"pooled_output": torch.ones(1, 5)}
    with pytest.raises(ValueError, match="only 2 has pooled_output"):
        run("SSIConditioningBlend", conditioning_1=one, conditioning_2=two)
    with pytest.raises(ValueError, match="only 1 has pooled_output"):
        run("SSIConditioningBlend", conditioning_1=two, conditioning_2=one)
    one, two = conditioning(0.2), conditioning(0.6)
    one[0][1] |= {"guidance": 3.5}
    two[0][1] |= {"guidance": 9.0}
    with pytest.raises(ValueError, match=r"guidance is 3\.5 in 1 and 9 in 2"):
        run("SSIConditioningBlend", conditioning_1=one, conditioning_2=two)
    one[0][1] |= {"area": (1, 2, 3, 4)}
    two[0][1] |= {"guidance": 3.5, "control": object()}
    run("SSIConditioningBlend", conditioning_1=two, conditioning_2=two)
    assert "left out" not in caplog.text
    (mixed,) = run("SSIConditioningBlend", conditioning_1=one, conditioning_2=two)
    assert "control of conditioning_2 is left out" in caplog.text
    assert "control" not in mixed[0][1] and mixed[0][1]["area"] == (1, 2, 3, 4)


def test_wrong_weights_are_said_before_anything_runs():
    for node in ("SSINoiseBlend", "SSIConditioningBlend"):
        check = nodes.NODE_CLASS_MAPPINGS[node].validate_inputs
        assert check() is check(weights="0.3", frames=0) is check(weights="half", frames=12) is True
        assert check(weights="0, 0.5, 1", frames=0) is True
        assert "is no number" in check(weights="half", frames=0)
        assert "are empty" in check(weights=" ", frames=0)
        assert check(frames=1) == "frames 1: 0 (use weights), or 2 to 4096" and "frames 5000" in check(frames=5000)
    assert nodes.NODE_CLASS_MAPPINGS["SSINoiseBlend"].validate_inputs(weights="0.2, 0.3, 0.5", frames=0) is True


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
    run("SSINoiseSave", noise=a, filename_prefix="noise/kept", sigmas=sigmas)
    import nodes

    loader = nodes.NODE_CLASS_MAPPINGS["SSINoiseLoad"]
    newest = loader.INPUT_TYPES()["required"]["file"][1]["options"]
    assert newest[0].startswith("[output] noise/kept_00001")
    noise, found, empty, info = run("SSINoiseLoad", file=newest[0])
    assert torch.equal(noise.unit, a.unit) and torch.equal(found, sigmas) and noise.start == a.start
    assert empty["samples"].shape == a.unit.shape and "sigma 14.6" in info
    with pytest.raises(ValueError, match="not known how its model scales"):
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


def test_the_end_state_of_a_shell_s_inversion_is_kept_on_any_model():
    from pathlib import Path

    import folder_paths

    from ssi_core import VE, karras_sigmas
    from ssi_core import invert as engine_invert

    x0 = picture(batch=1)["samples"]
    found = engine_invert(lambda x, sigma: x * 0.5, x0, karras_sigmas(8, sigma_max=2.0), process=VE())
    found.save(Path(folder_paths.get_input_directory()) / "low.ssi.safetensors")
    model = model_of("edm")
    noise, sigmas, empty, _ = run("SSINoiseLoad", file="[input] low.ssi.safetensors", model=model)
    state = first_state(model, noise, sigmas, empty)
    assert (state - found.noise * 2.0).abs().max() < 1e-5 * state.abs().max()
    assert "connect the model" in run("SSINoiseLoad", file="[input] low.ssi.safetensors")[3]
    with pytest.raises(ValueError, match="another kind of model"):
        run("SSINoiseLoad", file="[input] low.ssi.safetensors", model=model_of("flow"))


def test_links_that_lead_nowhere_do_no_harm():
    from pathlib import Path

    import folder_paths

    import nodes

    link = Path(folder_paths.get_output_directory()) / "gone.ssi.safetensors"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to("/nowhere/at/all")
    loader = nodes.NODE_CLASS_MAPPINGS["SSINoiseLoad"]
    assert "[output] gone.ssi.safetensors" not in loader.INPUT_TYPES()["required"]["file"][1]["options"]
    assert loader.validate_inputs() is True and "missing" in loader.fingerprint_inputs()


def test_damaged_noise_is_refused(two):
    from pathlib import Path

    import folder_paths

    from ssi_core.artifact import save_tensors

    path = Path(folder_paths.get_input_directory()) / "bad.ssi.safetensors"
    bad = two[1].unit.clone()
    bad[0, 0, 0, 0] = float("inf")
    save_tensors(path, "noise", {"noise": bad}, {"start": {"sigma": 1, "noise_gain": 1, "latent_gain": 1}, "seed": 0})
    with pytest.raises(ValueError, match="holds NaN or Inf; the file is damaged"):
        run("SSINoiseLoad", file="[input] bad.ssi.safetensors")


@pytest.mark.parametrize("prefix", ["", "..", "noise/..", "x" * 300, "noise/"])
def test_names_that_are_none(two, prefix):
    with pytest.raises(ValueError, match="filename_prefix"):
        run("SSINoiseSave", noise=two[1], filename_prefix=prefix)


def test_random_noise_is_not_saved():
    (random,) = run("RandomNoise", noise_seed=7)
    with pytest.raises(ValueError, match="its seed"):
        run("SSINoiseSave", noise=random)
