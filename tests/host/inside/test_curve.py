"""SSI Singularity Curve on models whose D is known in closed form."""

import csv
import io

import comfy.latent_formats
import comfy.model_management
import comfy.samplers
import pytest
import torch
from conftest import run
from models import FAMILIES, S, conditioning, gaussian_model
from test_inversion import latent_in, model_of, picture

NODE = "SSISingularityCurve"


def unit(shape, seed):
    return torch.cat(
        [torch.randn(1, *shape[1:], generator=torch.Generator().manual_seed(seed + i)) for i in range(shape[0])]
    )


def columns(data, image):
    rows = [row for row in csv.DictReader(io.StringIO(data)) if int(float(row["image"])) == image]
    return {name: torch.tensor([float(row[name]) for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("family", FAMILIES)
def test_against_the_exact_denoiser(family):
    model, latent = model_of(family), picture()
    image, report, data, stops = run(NODE, model=model, latent=latent, levels=12, seed=7, positive=conditioning(0.3))
    x0 = latent_in(model, latent).double()
    flow = family in ("flow", "flux")
    found = columns(data, 1)
    assert len(found["sigma"]) == 12 and bool((found["sigma"].diff() < 0).all())
    for k in (2, 6, 11):
        sigma = float(found["sigma"][k])
        ve = sigma / (1 - sigma) if flow else sigma
        for column, n in (("noised", noise_of(x0, 7)), ("clean", 0 * x0)):
            x = x0 + ve * n
            predicted = (ve * (x - 0.3) / (S**2 + ve**2))[1].flatten()
            assert float(found[column][k]) == pytest.approx(float(predicted.norm()) / 16, rel=2e-3, abs=1e-4)
        if ve < 1e-3:  # the direction of so small a prediction is float32's rounding of x0
            continue
        both = torch.stack([predicted_noise(x0, noise_of(x0, 7), ve)[1].flatten(), noise_of(x0, 7)[1].flatten()])
        assert float(found["alignment"][k]) == pytest.approx(float(torch.cosine_similarity(*both, dim=0)), abs=2e-3)
    assert image.shape[0] == 2 and image.shape[-1] == 3 and 0 <= float(image.min()) < float(image.max()) <= 1
    assert report.count("\n") == 1 and report.startswith("image 1: under sigma")
    assert stops == pytest.approx(max(lost(columns(data, i)) for i in (0, 1)), rel=1e-4)


def noise_of(x0, seed):
    return unit(x0.shape, seed).double()


def predicted_noise(x0, n, ve):
    return ve * (x0 + ve * n - 0.3) / (S**2 + ve**2)


def lost(column):
    return float(column["sigma"][column["follows"] == 1].min())


def test_two_evaluations_a_level_and_the_latent_is_left_alone():
    model, latent = model_of("eps"), picture()
    before = latent["samples"].clone()
    latent["noise_mask"] = torch.zeros(1, 8, 8)
    with_mask = run(NODE, model=model, latent=latent, levels=9, positive=conditioning(0.3))
    calls = model.model.diffusion_model.calls
    assert len(calls) == 18
    assert torch.equal(latent["samples"], before)
    del latent["noise_mask"]
    assert run(NODE, model=model, latent=latent, levels=9, positive=conditioning(0.3))[2] == with_mask[2]


def test_guidance_is_seen_and_the_batch_is_not():
    model, latent = model_of("edm"), picture(batch=3)
    given = {"model": model, "positive": conditioning(0.3), "negative": conditioning(-0.4), "levels": 8, "seed": 3}
    _, _, plain, _ = run(NODE, latent=latent, **given)
    _, _, guided, _ = run(NODE, latent=latent, cfg=4.0, **given)
    assert plain != guided
    second = {"samples": latent["samples"][1:2], "batch_index": [1]}
    alone = columns(run(NODE, latent=second, **given)[2], 0)
    for name in ("sigma", "noised", "clean", "alignment"):
        assert alone[name].allclose(columns(plain, 1)[name], rtol=1e-4, atol=1e-5)


def test_levels_of_ones_own_in_either_direction():
    model, latent = model_of("eps"), picture(batch=1)
    falling = torch.tensor([10.0, 1.0, 0.5, 0.1, 0.0])
    found = run(NODE, model=model, latent=latent, sigmas=falling, positive=conditioning(0.3))
    assert columns(found[2], 0)["sigma"].tolist() == pytest.approx([10.0, 1.0, 0.5, 0.1])
    rising = run(NODE, model=model, latent=latent, sigmas=falling[:-1].flip(0), positive=conditioning(0.3))
    assert rising[2] == found[2]


def test_video_latents():
    model = gaussian_model("flow", latent_format=comfy.latent_formats.SD15)
    latent = {"samples": 0.3 + 0.5 * torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))}
    image, *_ = run(NODE, model=model, latent=latent, levels=6, positive=conditioning(0.3))
    assert len(image) == 1


def test_the_embedded_model_stops_where_the_singularity_is():
    model, *_ = run("SSIPixelModelLoader", checkpoint="demo32 (embedded)")
    (scenes,) = run("SSIDemoImages", kind="drawn scenes", index=0, count=4)
    latent = {"samples": scenes.movedim(-1, 1)[:, :3] * 2 - 1}
    _, report, data, stops = run(NODE, model=model, latent=latent, levels=24)
    assert 0.01 < stops < 0.3 and "no longer resolves the singularity" in report
    far = columns(data, 0)
    assert float(far["alignment"][far["sigma"] > 1].min()) > 0.99
    assert float(far["alignment"][-1]) < 0.8 and float(far["noised"][-1]) < 0.6


def test_interruption():
    model = model_of("eps")
    forward = model.model.diffusion_model.forward

    def interrupting(*args, **kwargs):
        if len(model.model.diffusion_model.calls) == 4:
            comfy.model_management.interrupt_current_processing()
        return forward(*args, **kwargs)

    model.model.diffusion_model.forward = interrupting
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(NODE, model=model, latent=picture(), levels=20, positive=conditioning(0.3))
    assert len(model.model.diffusion_model.calls) == 5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"latent": {"samples": torch.zeros(1, 4, 8, 8)}}, "latent: is empty"),
        ({"latent": {"samples": torch.ones(1, 3, 8, 8)}}, "3 channels"),
        ({"cfg": 3.0}, "cfg 3: needs a negative conditioning"),
        ({"sigmas": torch.tensor([1e5, 1.0, 0.0])}, "another model"),
        ({"sigmas": torch.tensor([1.0])}, "two or more"),
        ({"positive": None}, None),
    ],
)
def test_bad_input(wrong, message):
    given = {"model": model_of("eps"), "latent": picture(), "positive": conditioning(0.3), "levels": 6} | wrong
    if message is None:  # a model without a text encoder may go without a prompt
        assert run(NODE, **given)
        return
    with pytest.raises(ValueError, match=message):
        run(NODE, **given)
