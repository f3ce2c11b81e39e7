"""Latents that are rarer than a batch of pictures in float32: video of every family, half precision in between; and
networks that read their level from a rounded timestep."""

import comfy.cli_args
import comfy.latent_formats
import comfy.model_management
import pytest
import torch
from conftest import run
from models import FAMILIES, Gaussian, S, apart, conditioning, exact, gaussian_model
from test_inversion import NEAR, back, first_state, invert, kept, latent_in, model_of, picture

import nodes


def video(family, batch=2, frames=3, seed=5):
    """(model, LATENT [batch, 16, frames, 8, 8]), spread as the model's data are."""
    model = gaussian_model(family, latent_format=comfy.latent_formats.Wan21)
    drawn = picture(batch=batch, shape=(16, frames, 8, 8), mean=0.3, scale=S, seed=seed)["samples"]
    return model, {"samples": model.model.process_latent_out(drawn)}


def empty(latent):
    return {"samples": torch.zeros_like(latent["samples"])}


@pytest.mark.parametrize("family", FAMILIES)
def test_video_comes_back(family):
    model, latent = video(family)
    noise, end, sigmas, _, _ = invert(model, latent)
    assert noise.unit.shape == end["samples"].shape == latent["samples"].shape
    assert apart(first_state(model, noise, sigmas, latent), latent_in(model, end)) < 1e-5
    out = back(model, noise, sigmas, empty(latent))
    assert apart(latent_in(model, out), kept(model, latent, family)) < NEAR


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_on_video_keeps_what_is_outside(family):
    """One mask for all frames, in pixels, as SetLatentNoiseMask leaves it."""
    model, latent = video(family)
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    masked = latent | {"noise_mask": mask}
    noise, _, sigmas, report, _ = invert(model, masked)
    assert "masked" in report
    out = back(model, noise, sigmas, masked)
    assert apart(out["samples"][..., :4], latent["samples"][..., :4]) < 1e-5
    assert apart(latent_in(model, out)[..., 4:], kept(model, latent, family)[..., 4:]) < NEAR


def test_noises_of_video_are_blended_saved_and_loaded():
    found = [invert(*video("v", batch=1, seed=seed), steps=8, seed=seed) for seed in (1, 2)]
    model, _ = video("v", batch=1)
    a, b = (one[0] for one in found)
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 4:] = 1
    noise, nothing, _ = run("SSINoiseBlend", noises={"noise0": a, "noise1": b}, weights="0, 0.5, 1", mask=mask)
    assert noise.unit.shape == nothing["samples"].shape == (3, 16, 3, 8, 8)
    assert torch.equal(noise.unit[0], a.unit[0])
    assert torch.allclose(noise.unit[2][..., 4:], b.unit[0][..., 4:], atol=1e-6)
    assert torch.allclose(noise.unit[1][..., :4], a.unit[0][..., :4], atol=1e-6)
    run("SSINoiseSave", noise=noise, filename_prefix="noise/video", sigmas=found[0][2])
    options = nodes.NODE_CLASS_MAPPINGS["SSINoiseLoad"].INPUT_TYPES()["required"]["file"][1]["options"]
    name = next(name for name in options if "noise/video" in name)
    loaded, sigmas, shaped, _ = run("SSINoiseLoad", file=name, model=model)
    assert torch.equal(loaded.unit, noise.unit) and shaped["samples"].shape == noise.unit.shape
    assert torch.equal(back(model, loaded, sigmas, shaped)["samples"], back(model, noise, sigmas, nothing)["samples"])


def test_videos_are_morphed():
    model, latent = video("flow")
    noise, _, sigmas, _, _ = invert(model, latent, steps=8)
    (guider,) = run("BasicGuider", model=model, conditioning=conditioning(0.3))
    (sampler,) = run("SSISolver", solver="dpmpp-2m")
    given = {"noises": {"noise0": noise}, "guider": guider, "sampler": sampler, "sigmas": sigmas}
    frames, report, _ = run("SSIMorph", **given, frames=5)
    assert frames["samples"].shape == (5, 16, 3, 8, 8) and "Warning: keyframe" not in report
    torch.testing.assert_close(frames["samples"][[0, -1]], latent["samples"], atol=1e-4, rtol=0)


class Rounded(Gaussian):
    """As real networks: its level is the one of `timesteps`, which are whole numbers for SD1.5."""

    def forward(self, x, timesteps, context=None, control=None, transformer_options=None, **kwargs):
        told = {"sigmas": self.model_sampling.sigma(timesteps)}
        return super().forward(x, timesteps, context, control, told, **kwargs)


def test_a_network_that_reads_rounded_timesteps():
    """The slope is off by what rounding to the nearest level makes of it, up and down alike."""
    model, latent = model_of("eps"), picture()
    unrounded, network = model.model.diffusion_model, Rounded("eps")
    network.model_sampling = sampling = model.get_model_object("model_sampling")
    model.model.diffusion_model = network
    noised, skip = run("SSINoiseInject", model=model, latent=latent, skip=0.1)
    noise, end, sigmas, _, _ = invert(model, latent, steps=200)
    top = float(sigmas[0])
    # Between two levels the network's is off by half their distance in log sigma, and so, at most twice as much, is the
    # slope, which moves log x by 0.5 d log(S^2 + sigma^2).
    levels = sampling.sigmas[sampling.sigmas >= 0.9 * skip].double()
    bound = float((levels.log().diff() * 0.5 * (S**2 + levels**2).log().diff()).sum())
    error = apart(latent_in(model, end), exact(latent_in(model, noised), skip, top, "eps", 0.3))
    model.model.diffusion_model = unrounded
    other = invert(model, latent, steps=200)[1]
    rounding = apart(latent_in(model, end), latent_in(model, other))
    print(f"rounded timesteps: {error:.1e} from the exact end state, {rounding:.1e} by rounding, {bound:.1e} at most")
    assert 1e-6 < rounding < bound < 0.05 and error < bound
    model.model.diffusion_model = network
    out = back(model, noise, sigmas, empty(latent))
    assert apart(latent_in(model, out), kept(model, latent, "eps")) < bound
    asked = torch.tensor([level for level, _ in network.calls]).log()
    assert len(asked) > 300 and (asked[:, None] - sampling.log_sigmas).abs().min(1).values.max() < 1e-5


@pytest.fixture
def half_precision(monkeypatch):
    """What --fp16-intermediates sets; core asks for it at every node."""
    if not hasattr(comfy.model_management, "intermediate_dtype"):
        pytest.skip("THIS CORE HAS NO --fp16-intermediates: half precision between nodes is not tested")
    monkeypatch.setattr(comfy.cli_args.args, "fp16_intermediates", True)
    assert comfy.model_management.intermediate_dtype() == torch.float16


def test_half_precision_between_nodes(half_precision):
    """A picture to its noise and back, inspected, blended and measured on the way; sound to what float16 resolves."""
    model, vae, _ = run("SSIPixelModelLoader", checkpoint="demo32 (embedded)")
    (scenes,) = run("SSIDemoImages", kind="drawn scenes", index=0, count=2)
    latent = {"samples": vae.encode(scenes)}
    assert latent["samples"].dtype == torch.float16, "nothing of this run is in half precision"
    noise, end, sigmas, _, _ = run("SSIInverseSampler", model=model, latent=latent, steps=20)
    same, *_ = run("SSIInverseSampler", model=model, latent={"samples": latent["samples"].float()}, steps=20)
    assert noise.unit.dtype == torch.float32 and torch.equal(noise.unit, same.unit)
    _, said, _ = run("SSIGaussianityInspector", noise=noise, source=latent)
    _, from_state, _ = run("SSIGaussianityInspector", noise=end, model=model, source=latent)
    assert said.splitlines()[0] == from_state.splitlines()[0] and "edges" in said
    curve = run("SSISingularityCurve", model=model, latent=latent, levels=6)
    plain = run("SSISingularityCurve", model=model, latent={"samples": latent["samples"].float()}, levels=6)
    assert curve[2] == plain[2]
    half_mask = torch.ones(1, 32, 32).half()
    frames, _, _ = run("SSINoiseBlend", noises={"noise0": noise, "noise1": noise}, weights="0", mask=half_mask)
    out = back(model, frames, sigmas, {"samples": torch.zeros_like(latent["samples"])}, positive=0.0, negative=0.0)
    picture_ = vae.decode(out["samples"].float())
    *_, psnr, _ = run("SSIReconstructionMetrics", original=scenes, reconstruction=picture_, noise=noise)
    assert psnr > 25
