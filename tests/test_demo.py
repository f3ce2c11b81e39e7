"""The demo's models, drawn scenes and photo crops: their interfaces. How good they are is measured elsewhere."""

import pytest
import torch
from exact import normal

from ssi_core import VE, Flow, InputError, demo_denoiser, invert, karras_sigmas, reconstruct
from ssi_core.demo.kinds import KINDS
from ssi_core.demo.model import DEMO_MODELS, DemoDenoiser, facts_of
from ssi_core.demo.photos import PHOTOS, SHEET, held_out_photos, photo_crops, photo_regions, write_sheet
from ssi_core.demo.scenes import HELD_OUT, draw_scenes
from ssi_core.demo.train import options, train


@pytest.fixture(scope="module", params=DEMO_MODELS)
def model(request):
    return demo_denoiser(device="cpu", name=request.param)


def levels(model, steps):
    return karras_sigmas(steps, sigma_min=model.sigma_min, sigma_max=model.sigma_max)


def test_model_says_what_it_takes(model):
    assert (model.channels, model.image_size) == (3, 32)
    assert 0 < model.sigma_min <= 0.01
    assert model.sigma_max == (1 if model.is_flow else 80)
    assert model.is_flow == isinstance(model.process, Flow)
    assert model.signature.startswith("demo:")
    x = torch.zeros(2, 3, 32, 32, dtype=torch.float64)
    D = model(x, torch.tensor([0.01, model.sigma_max], dtype=torch.float64))
    assert D.shape == x.shape
    assert D.dtype == torch.float32
    assert torch.isfinite(D).all()
    assert not D.requires_grad


def test_model_files_are_small():
    assert DEMO_MODELS["demo"].stat().st_size <= 16e6
    assert DEMO_MODELS["demo-flow"].stat().st_size <= 5e6


def test_unknown_model_lists_the_known():
    with pytest.raises(InputError, match=r"'demo-floe'.*demo, demo-flow"):
        demo_denoiser(name="demo-floe")


def test_flow_knows_its_process():
    model, images = demo_denoiser(name="demo-flow"), draw_scenes([HELD_OUT])
    assert invert(model, images, levels(model, 4)).process == Flow()
    with pytest.raises(InputError, match=r"a flow model needs Flow\(\)"):
        invert(model, images, levels(model, 4), process=VE())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_loss_is_that_of_its_parametrisation(kind):
    """A network that answers right has none; one that answers 0 has the mean square of what it should have said."""
    clean, noise = normal(4, 3, 8, 8, seed=1).float(), normal(4, 3, 8, 8, seed=2).float()
    sigma = kind.sigmas(torch.tensor([0.01, 0.1, 1.0, 100.0]))
    assert (sigma >= kind.sigma_min).all()
    assert (sigma <= kind.sigma_max).all()
    assert kind.loss(lambda x, s: clean, clean, noise, sigma).max() == 0
    nothing = kind.loss(kind.denoiser(lambda x, t: torch.zeros_like(x)), clean, noise, sigma)
    x = torch.cat([kind.process.inject(clean[i : i + 1], noise[i : i + 1], float(sigma[i])) for i in range(4)])
    s = sigma[:, None, None, None]
    whole = s**2 + 0.25
    wanted = noise - clean if kind.process == Flow() else (clean - 0.25 / whole * x) * whole.sqrt() / s / 0.5
    assert torch.allclose(nothing, wanted.square().mean((1, 2, 3)), rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_training_leaves_a_model(kind, tmp_path):
    out = tmp_path / "weights.safetensors"
    few = ["--width", "8", "--steps", "3", "--batch", "4", "--scenes", "4", "--crops", "7"]
    train(options(["--out", str(out), "--kind", kind, *few]))
    trained, facts = DemoDenoiser(out, "cpu"), facts_of(out)
    assert trained.process == KINDS[kind].process
    assert facts["training"]["step"] == 3
    assert list(facts["training"]["losses"]["photos"]) == sorted(str(s) for s in KINDS[kind].bands)
    found = invert(trained, draw_scenes([HELD_OUT]), levels(trained, 4))
    assert found.noise.isfinite().all()


def test_a_batch_of_8_is_8_single_runs(model):
    images = draw_scenes(range(HELD_OUT, HELD_OUT + 8))
    sigmas = levels(model, 8)
    whole = invert(model, images, sigmas)
    alone = [invert(model, images[i : i + 1], sigmas, seed=i).noise for i in range(8)]
    assert (whole.noise - torch.cat(alone)).abs().max() <= 1e-5
    back = reconstruct(model, whole.noise, whole.sigmas)
    assert back.shape == images.shape
    assert back.dtype == torch.float32
    assert (back[5:6] - reconstruct(model, whole.noise[5:6], whole.sigmas)).abs().max() <= 1e-4


def test_model_is_refused_other_sizes_in_words(model):
    with pytest.raises(ValueError, match="is 16x16, the model takes 32x32"):
        invert(model, torch.zeros(1, 3, 16, 16), levels(model, 4))


def test_scene_depends_on_its_seed_only():
    whole = draw_scenes([5, HELD_OUT, 17])
    assert whole.shape == (3, 3, 32, 32)
    assert whole.dtype == torch.float32
    assert whole.abs().max() <= 1
    for i, seed in enumerate([5, HELD_OUT, 17]):
        assert torch.allclose(draw_scenes([seed]), whole[i : i + 1], atol=1e-6)
    assert (whole[0] - whole[1]).abs().mean() > 0.05


def test_scene_is_the_same_at_any_size():
    small, large = draw_scenes([3, 4], 32), draw_scenes([3, 4], 64)
    assert (torch.nn.functional.avg_pool2d(large, 2) - small).abs().mean() < 0.02


def test_photo_regions_do_not_overlap():
    names = []
    for photo, seen, held in photo_regions():
        names.append(photo.name)
        assert seen.shape[:2] == held.shape[:2]
        gap = 0.03 * (seen.shape[2] + held.shape[2])
        assert held.shape[2] > gap
        assert seen.shape[2] > 2 * held.shape[2]
        assert 0 <= float(seen.min()) < float(seen.max()) <= 1
        assert photo.licence
    assert names == [photo.name for photo in PHOTOS]


def test_crop_depends_on_its_seed_and_place_only():
    six = photo_crops(6, 32, seed=9, held_out=True)
    assert six.shape == (6, 3, 32, 32)
    assert six.abs().max() <= 1 + 1e-6
    assert torch.equal(photo_crops(3, 32, seed=9, held_out=True), six[:3])
    assert not torch.equal(photo_crops(6, 32, seed=9, held_out=False), six)


def test_sheet_holds_the_held_out_crops(tmp_path, monkeypatch):
    monkeypatch.setattr("ssi_core.demo.photos.SHEET", tmp_path / "sheet.png")
    write_sheet(tmp_path / "sheet.png")
    crops = photo_crops(32, 32, seed=0, held_out=True)
    assert (held_out_photos() - crops).abs().max() <= 0.5001 / 127.5


def test_shipped_sheet_is_what_the_script_writes(tmp_path):
    assert SHEET.exists(), "run ssi_core.demo.photos.write_sheet() once"
    write_sheet(tmp_path / "sheet.png")
    assert held_out_photos().shape == (32, 3, 32, 32)
    crops = photo_crops(32, 32, seed=0, held_out=True)
    # Pillow and torch versions may round a level the other way.
    assert (held_out_photos() - crops).abs().max() <= 1.5 / 127.5
