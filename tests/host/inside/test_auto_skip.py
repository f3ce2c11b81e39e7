"""SSI Auto Skip, and the injections of SSI Inverse Sampler, on models whose D and ODE are known in closed form."""

import re

import comfy.model_management
import comfy.utils
import pytest
import torch
from conftest import run
from models import FAMILIES, RARE, S, conditioning, denoised, exact, gaussian_model, is_flow
from test_curve import noise_of
from test_inversion import MORE, SD15, back, invert, kept, latent_in, model_of, picture

import nodes

NODE = "SSIAutoSkip"
GOALS = {"gaussian": {}, "psnr": {"psnr": 30.0}, "leftover": {"leftover": 0.1}}
MOST = 8


def choose(model, latent, goal="psnr", **options):
    return run(NODE, **{"model": model, "latent": latent, "positive": conditioning(0.3), "goal": goal}
               | GOALS[goal] | options)  # fmt: skip


def faint(batch=2):
    """Of mean 0 and little variation, so that little is left over at usual skips; of `picture` it is nearly all."""
    return picture(batch, mean=0.0, scale=0.02 / SD15)


def evaluations(model):
    return len(model.model.diffusion_model.calls)


def psnr(image, wanted):
    """[B]; of what the model sees."""
    return 10 * (4 / (image.double() - wanted.double()).square().flatten(1).mean(1)).log10()


def ve(sigma, family):
    return sigma / (1 - sigma) if is_flow(family) else sigma


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("family", MORE)
def test_the_psnr_foretold_is_that_of_the_exact_denoiser(family, goal):
    model, m, latent = (model_of(family), *((0.0, faint()) if goal == "leftover" else (0.3, picture())))
    skip, _, report, foretold, _ = choose(model, latent, goal, positive=conditioning(m))
    wanted = psnr(kept(model, latent, family, skip, m), latent_in(model, latent))
    # Between its trials it follows a power law: within 20% of the error.
    tolerance = 0.1 if goal == "psnr" else 0.8
    assert foretold == pytest.approx(float(wanted.min()), abs=tolerance)
    assert evaluations(model) <= MOST and "Warning" not in report
    if goal == "psnr":
        assert foretold == pytest.approx(30.0, abs=0.2)
    told = [float(text) for text in re.findall(r"^image \d: ([\d.]+) dB", report, re.M)]
    assert told == pytest.approx(wanted.tolist(), abs=tolerance + 0.05)


@pytest.mark.parametrize("goal", ["psnr", "leftover"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_leftover_foretold_is_that_of_the_exact_solution(family, goal):
    model, latent, given = model_of(family), faint(), {"seed": 3, "positive": conditioning(0.0)}
    skip, _, report, _, foretold = choose(model, latent, goal, **given)
    x0 = latent_in(model, latent).double()
    n = noise_of(x0, 3)
    # Around mean 0 the ODE scales states and no more.
    start = (1 - skip) * x0 + skip * n if is_flow(family) else x0 + skip * n
    noise, *_ = invert(model, latent, skip=skip, **given)
    # What is not looked at itself lies on a power law between two walks, and that of such data is none.
    for x, tolerance in ((start, 1e-3 if goal == "psnr" else 0.4), (noise.unit, 0.2 if goal == "psnr" else 0.4)):
        left = 1 - torch.cosine_similarity(x.double().flatten(1), n.flatten(1)) ** 2
        assert foretold == pytest.approx(float(left.max()), rel=tolerance)
    if goal == "leftover":
        assert foretold == pytest.approx(0.1, rel=0.1)
    assert f"{100 * foretold:.1f}% leftover" in report


@pytest.mark.parametrize("family", FAMILIES)
def test_the_picture_comes_back_as_foretold(family):
    model, latent = model_of(family), picture()
    skip, _, _, foretold, _ = choose(model, latent, seed=3)
    noise, _, sigmas, _, _ = invert(model, latent, skip=skip, seed=3)
    out = back(model, noise, sigmas, latent)
    assert float(psnr(latent_in(model, out), latent_in(model, latent)).min()) == pytest.approx(foretold, abs=0.3)


def test_evaluations():
    counts = {}
    for goal in GOALS:
        for injection in ("plain", "tangent"):
            model = model_of("edm")
            choose(model, picture(), goal, injection=injection)
            counts[goal, injection] = evaluations(model)
    assert counts["gaussian", "plain"] == counts["leftover", "plain"] == MOST
    assert counts["gaussian", "tangent"] == counts["leftover", "tangent"] == MOST + 2 * 4
    assert 4 < counts["psnr", "plain"] <= MOST < counts["psnr", "tangent"]


def test_every_evaluation_moves_the_bar(monkeypatch):
    moved = []
    monkeypatch.setattr(
        comfy.utils.ProgressBar,
        "update_absolute",
        lambda self, value, total=None, preview=None: moved.append((value, total)),
    )
    choose(model_of("edm"), picture(), "psnr")
    assert moved == [(i + 1, MOST) for i in range(len(moved))] and 4 < len(moved) <= MOST


def test_guidance_counts():
    model, latent = model_of("edm"), picture()
    skip, *_, guided, _ = choose(model, latent, psnr=22.0, cfg=6.0, negative=conditioning(-0.1))
    x0 = latent_in(model, latent)
    by_guided, by_plain = (float(psnr(kept(model, latent, "edm", skip, m), x0).min()) for m in (2.3, 0.3))
    assert guided == pytest.approx(by_guided, abs=0.3)
    assert abs(by_guided - by_plain) > 1


def test_a_batch_has_one_skip_and_every_image_its_figures():
    model, latent = model_of("eps"), picture(batch=3)
    latent["samples"][1] *= 3  # what the model knows least comes back worst
    alone = [choose(model, {"samples": latent["samples"][i : i + 1], "batch_index": [i]}, seed=3)[0] for i in range(3)]
    skip, image, report, foretold, _ = choose(model, latent, seed=3)
    assert skip == pytest.approx(min(alone), rel=0.05) == pytest.approx(alone[1], rel=0.05)
    assert len(image) == 3 and len(re.findall(r"^image \d: ", report, re.M)) == 3
    assert foretold == pytest.approx(min(float(v) for v in re.findall(r"image \d: ([\d.]+) dB", report)), abs=0.06)
    assert len(choose(model, picture(batch=10))[1]) == 8


def test_what_lies_outside_a_mask_comes_back_as_it_was():
    model, latent = model_of("edm"), picture(batch=1)
    latent["noise_mask"] = torch.zeros(1, 8, 8)
    latent["noise_mask"][:, :, 4:] = 1
    skip, _, _, foretold, _ = choose(model, latent)
    x0 = latent_in(model, latent)
    inside = torch.lerp(x0, kept(model, latent, "edm", skip), latent["noise_mask"][:, None])
    assert foretold == pytest.approx(float(psnr(inside, x0)), abs=0.3)
    noise, _, sigmas, _, _ = invert(model, latent, skip=skip)
    out = back(model, noise, sigmas, latent)
    assert foretold == pytest.approx(float(psnr(latent_in(model, out), x0)), abs=0.3)
    del latent["noise_mask"]
    assert choose(model, latent)[0] < 0.8 * skip


def test_the_embedded_model_gets_the_least_that_passes():
    model, *_ = run("SSIPixelModelLoader", checkpoint="demo32 (embedded)")
    (scenes,) = run("SSIDemoImages", kind="drawn scenes", index=11, count=2)
    latent = {"samples": scenes.movedim(-1, 1)[:, :3] * 2 - 1}
    skip, image, report, foretold, left = run(NODE, model=model, latent=latent, goal="gaussian", seed=5)
    assert "of the latent" not in report and report.startswith(f"skip {skip:.3g} for the verdict: {foretold:.1f} dB")
    assert 0.003 < skip < 0.04 and 0 < left < 0.5
    assert len(image) == 2 and image.shape[-1] == 3 and 0 <= float(image.min()) < float(image.max()) <= 1
    given = {"model": model, "latent": latent, "seed": 5}
    noise, _, sigmas, _, _ = run("SSIInverseSampler", **given, skip=skip)
    assert run("SSIGaussianityInspector", noise=noise, source=latent)[2]
    less, *_ = run("SSIInverseSampler", **given, skip=skip / 4)
    assert not run("SSIGaussianityInspector", noise=less, source=latent)[2]
    (guider,), (sampler,) = run("BasicGuider", model=model, conditioning=[[torch.zeros(1, 1, 1), {}]]), run("SSISolver")
    out, _ = run("SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas,
                 latent_image=latent)  # fmt: skip
    assert float(psnr(out["samples"], latent["samples"]).min()) == pytest.approx(foretold, abs=1.5)


def test_figures_of_latents_say_that_they_are():
    assert "PSNR is of the latent as the model sees it" in choose(model_of("eps"), picture())[2]


@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (4, 64)], ids=["video", "audio"])
def test_latents_of_other_ranks(shape):
    model, latent = model_of("flow"), picture(shape=shape)
    skip, image, _, foretold, _ = choose(model, latent, seed=1)
    x0, n = (x.double() for x in (latent_in(model, latent), noise_of(latent["samples"], 1)))
    D = denoised((1 - skip) * x0 + skip * n, skip, "flow", 0.3)
    assert foretold == pytest.approx(float(psnr(D, x0).min()), abs=0.3) and len(image) == 2


def test_the_latent_is_left_alone_and_may_be_half():
    model, latent = model_of("eps"), picture()
    latent["samples"] = latent["samples"].half()
    before = latent["samples"].clone()
    found = choose(model, latent)
    assert torch.equal(latent["samples"], before)
    assert found[0] == choose(model, {"samples": before.float()})[0]


def test_a_goal_out_of_reach_is_said():
    model = model_of("eps")
    skip, image, report, foretold, _ = choose(model, picture(), psnr=120.0)
    assert report.startswith("Warning: skip") and "no skip is foretold to reach that goal" in report
    assert skip == pytest.approx(float(model.get_model_object("model_sampling").sigma_min), rel=1e-4)
    assert foretold < 60 and len(image) == 2
    assert invert(model, picture(), steps=8, skip=skip)


def test_interruption():
    model = model_of("eps")
    forward = model.model.diffusion_model.forward

    def interrupting(*args, **kwargs):
        if evaluations(model) == 3:
            comfy.model_management.interrupt_current_processing()
        return forward(*args, **kwargs)

    model.model.diffusion_model.forward = interrupting
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        choose(model, picture(), "gaussian")
    assert evaluations(model) == 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"latent": {"samples": torch.zeros(1, 4, 8, 8)}}, "latent: is empty"),
        ({"latent": {"samples": torch.ones(1, 3, 8, 8)}}, "3 channels"),
        ({"latent": {"samples": torch.full((1, 4, 8, 8), torch.nan)}}, "NaN"),
        ({"cfg": 3.0}, "cfg 3: needs a negative conditioning"),
        ({"goal": "psnr", "psnr": 0.0}, "goal psnr: 0 is out of reach"),
        ({"injection": "sideways"}, "injection 'sideways': unknown; known are plain, tangent"),
    ],
)
def test_bad_input(wrong, message):
    with pytest.raises(ValueError, match=message):
        choose(model_of("eps"), **{"latent": picture()} | wrong)


@pytest.mark.skipif("image" not in RARE, reason="this core has no image-to-image models")
def test_a_model_that_does_not_start_from_noise_is_refused():
    with pytest.raises(ValueError, match="does not start from noise"):
        choose(gaussian_model("image"), picture())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"injection": "sideways"}, "injection 'sideways': unknown; known are plain, tangent"),
        ({"injection": "tangent"}, True),
        ({}, True),
    ],
)
def test_what_is_refused_before_the_prompt_runs(given, message):
    assert nodes.NODE_CLASS_MAPPINGS[NODE].validate_inputs(**given) == message


def test_the_inverse_sampler_refuses_unknown_injections_and_solvers():
    refused = nodes.NODE_CLASS_MAPPINGS["SSIInverseSampler"].validate_inputs
    assert refused(solver="euler", injection="sideways") == "injection 'sideways': unknown; known are plain, tangent"
    assert "adds fresh noise" in refused(solver="euler_ancestral", injection="plain")
    assert refused(solver="euler", injection="tangent") is refused(solver="euler") is refused() is True


@pytest.mark.parametrize("family", FAMILIES)
def test_tangent_injection_is_its_closed_form(family):
    """A round scales the noise by 1 - rho^2 and the offset a from the mean as a <- a + rho (1 - rho a)."""
    model, latent, skip = model_of(family), picture(), 0.2
    plain, _, sigmas, said, _ = invert(model, latent, skip=skip, seed=3)
    before = evaluations(model)
    noise, _, _, report, _ = invert(model, latent, skip=skip, seed=3, injection="tangent")
    x0 = latent_in(model, latent).double()
    rho = S**2 / (S**2 + ve(skip, family) ** 2)
    offset = 1.0
    for _ in range(2):
        offset += rho * (1 - rho * offset)
    image, n = 0.3 + offset * (x0 - 0.3), (1 - rho**2) ** 2 * noise_of(x0, 3)
    start = (1 - skip) * image + skip * n if is_flow(family) else image + skip * n
    top = float(sigmas[0])
    end = exact(start, skip, top, family, 0.3)
    assert (noise.unit * noise.start.noise_gain - end).abs().max() < 5e-3 * end.abs().max()
    assert (plain.unit * noise.start.noise_gain - end).abs().max() > 0.05 * end.abs().max()
    assert evaluations(model) - before == before + 4
    assert "injection: tangent, 4 of the evaluations" in report and f" {before + 4} evaluations" in report
    assert "injection: plain, 0 of the evaluations" in said and f" {before} evaluations" in said


def test_old_workflows_do_not_name_an_injection():
    model, latent = model_of("eps"), picture()
    old, named = invert(model, latent, steps=8), invert(model, latent, steps=8, injection="plain")
    assert torch.equal(old[0].unit, named[0].unit) and old[3] == named[3]
    base, tangent = (invert(model, latent, steps=8, skip=0.0, injection=name) for name in ("plain", "tangent"))
    assert torch.equal(base[0].unit, tangent[0].unit) and "injection" not in base[3] + tangent[3]


def test_tangent_injection_under_a_mask():
    model, latent = model_of("edm"), picture(batch=1)
    latent["noise_mask"] = torch.zeros(1, 8, 8)
    latent["noise_mask"][:, :, 4:] = 1
    errors = {}
    for name in ("plain", "tangent"):
        noise, _, sigmas, _, _ = invert(model, latent, injection=name)
        out = back(model, noise, sigmas, latent)["samples"]
        torch.testing.assert_close(out[..., :4], latent["samples"][..., :4])
        errors[name] = float((out - latent["samples"])[..., 4:].square().mean())
    assert errors["tangent"] < 0.5 * errors["plain"]
