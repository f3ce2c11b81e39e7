"""What others put on a model or into an input, and what is said of it."""

import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import run
from models import conditioning
from test_inversion import invert, model_of, picture
from tiny import tiny_latent, tiny_model, tiny_prompt

import nodes


@pytest.mark.parametrize("cache", ["EasyCache", "LazyCache"])
def test_caches_are_refused_upwards_and_left_alone_downwards(cache):
    model, latent, prompt = tiny_model("sd15"), tiny_latent("sd15"), tiny_prompt("sd15", 1)
    (cached,) = run(cache, model=model)
    given = {"model": cached, "latent": latent, "positive": prompt}
    with pytest.raises(ValueError, match="EasyCache or LazyCache on it leaves evaluations out"):
        run("SSIInverseSampler", **given)
    with pytest.raises(ValueError, match="EasyCache or LazyCache"):
        run("SSISingularityCurve", **given, levels=6)
    with pytest.raises(ValueError, match="EasyCache or LazyCache"):
        run("SSIAutoSkip", **given)
    noise, _, sigmas, _, _ = run("SSIInverseSampler", **given | {"model": model}, steps=8)
    (guider,) = run("BasicGuider", model=cached, conditioning=prompt)
    (sampler,) = run("SSISolver", solver="dpmpp-2m")
    way = {"noise": noise, "guider": guider, "sampler": sampler, "latent_image": latent}
    out, _ = run("SamplerCustomAdvanced", **way, sigmas=sigmas)
    assert bool(out["samples"].isfinite().all())
    with pytest.raises(ValueError, match="EasyCache or LazyCache"):
        run("SamplerCustomAdvanced", **way, sigmas=sigmas[:-1].flip(0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_patch_may_answer_in_another_precision(dtype):
    model = model_of("eps")
    plain, *_ = invert(model, picture(), steps=10)
    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(lambda args: args["denoised"].to(dtype))
    noise, *_ = invert(patched, picture(), steps=10)
    assert noise.unit.dtype == torch.float32
    torch.testing.assert_close(noise.unit, plain.unit, atol=1e-4 if dtype == torch.float64 else 0.02, rtol=0)


def test_our_solver_refuses_to_rise_beyond_the_model():
    model = model_of("eps")
    (guider,) = run("BasicGuider", model=model, conditioning=conditioning(0.3))
    (sampler,), (nothing,) = run("SSISolver", solver="euler"), run("DisableNoise")
    way = {"noise": nothing, "guider": guider, "sampler": sampler, "latent_image": picture()}
    with pytest.raises(ValueError, match="were they made for another model"):
        run("SamplerCustomAdvanced", **way, sigmas=torch.tensor([0.1, 1.0, 1000.0]))
    assert run("SamplerCustomAdvanced", **way, sigmas=torch.tensor([0.1, 1.0, 14.0]))


@pytest.mark.parametrize("solver", ["ddim-target", "fixed-point", "exact"])
def test_solvers_that_can_begin_at_0_do(solver):
    """The chain of Inject, Sigmas and Solver at skip 0 is then the inverse sampler itself."""
    model, latent = model_of("eps"), picture()
    _, end, sigmas, _, _ = invert(model, latent, steps=8, skip=0.0, solver=solver)
    (guider,) = run("BasicGuider", model=model, conditioning=conditioning(0.3))
    (sampler,), (nothing,) = run("SSISolver", solver=solver), run("DisableNoise")
    out, _ = run(
        "SamplerCustomAdvanced", noise=nothing, guider=guider, sampler=sampler, sigmas=sigmas.flip(0),
        latent_image=latent,
    )  # fmt: skip
    torch.testing.assert_close(out["samples"], end["samples"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("a:b", "':' cannot be in a file's name everywhere"),
        ("noise/a\x00b", "cannot be in a file's name everywhere"),
        ("new\nline", "cannot be in a file's name everywhere"),
        ("../../evil", "leads out of the output folder"),
        ("/etc/evil", "leads out of the output folder"),
        ("noise/", "needs a letter or digit"),
    ],
)
def test_names_that_cannot_be(prefix, message):
    noise, *_ = invert(model_of("eps"), picture(batch=1), steps=4)
    with pytest.raises(ValueError, match=message) as caught:
        run("SSINoiseSave", noise=noise, filename_prefix=prefix)
    assert "\n" not in str(caught.value)
    said = nodes.NODE_CLASS_MAPPINGS["SSINoiseSave"].validate_inputs(filename_prefix=prefix)
    assert said is True or message in said


def test_a_new_file_is_offered_at_once_wherever_it_lies():
    noise, *_ = invert(model_of("eps"), picture(batch=1), steps=4)
    load = nodes.NODE_CLASS_MAPPINGS["SSINoiseLoad"]
    before = set(load.INPUT_TYPES()["required"]["file"][1]["options"])
    for prefix in ("deep/er/and/deeper/n", "ü/ä", "deep/er/and/deeper/n"):
        run("SSINoiseSave", noise=noise, filename_prefix=prefix)
        after = set(load.INPUT_TYPES()["required"]["file"][1]["options"])
        assert len(after - before) == 1
        before = after
    ours = [name for name in before if "deep/er/and/deeper/n" in name]
    assert len(ours) == 2 and all(run("SSINoiseLoad", file=name) for name in ours)


def test_seventeen_noises_and_huge_labels_are_refused_in_words():
    noise, *_ = invert(model_of("eps"), picture(batch=1), steps=4)
    many = {f"noise{i}": noise for i in range(16)}
    blend = nodes.NODE_CLASS_MAPPINGS["SSINoiseBlend"]
    with pytest.raises(ValueError, match="17 connected; a blend takes 16 at most"):
        blend.execute(noises=many, weights="0.5", frames=0, method="auto", **{"noises.noise16": noise})
    label = nodes.NODE_CLASS_MAPPINGS["SSIClassLabel"]
    assert "no model has so many classes" in label.validate_inputs(label="9" * 20)


def test_a_source_of_other_channels_is_refused():
    noise, *_ = invert(model_of("eps"), picture(batch=1), steps=4)
    with pytest.raises(ValueError, match="source: is of shape 1x3x8x8"):
        run("SSIGaussianityInspector", noise=noise, source={"samples": torch.ones(1, 3, 8, 8)})


def test_tiny_pictures_have_metrics_without_ssim():
    image = torch.rand(1, 8, 8, 3)
    _, report, mse, _, ssim = run("SSIReconstructionMetrics", original=image, reconstruction=image)
    assert mse == 0 and ssim != ssim and "no SSIM under 11 pixels" in report


def test_a_caption_that_cannot_be_shown_costs_nothing(monkeypatch, caplog):
    show = next(module for name, module in list(sys.modules.items()) if name.endswith(".nodes.host.show"))

    class Server:
        client_id = "me"

        def send_progress_text(self, text, node, sid):
            self.sent = (text, node, sid)
            raise TypeError("of the future")

    server = Server()
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=server)))
    monkeypatch.setattr(show, "get_executing_context", lambda: SimpleNamespace(node_id="7"))
    show.on_node("words " * 20)
    assert server.sent[1:] == ("7", "me") and max(map(len, server.sent[0].splitlines())) <= 40
    assert "does not show texts" in caplog.text
