"""The demo's models, drawn scenes and photo crops: their interfaces. How good they are is measured elsewhere."""

from itertools import combinations

import pytest
import torch
from exact import normal

from ssi_core import VE, Flow, InputError, demo_denoiser, invert, karras_sigmas, reconstruct
from ssi_core.demo.kinds import KINDS
from ssi_core.demo.model import DEMO_MODELS, DemoDenoiser, facts_of
from ssi_core.demo.network import DemoUNet
from ssi_core.demo.photos import PHOTOS, SHEET, held_out_photos, photo_crops, photo_regions, write_sheet
from ssi_core.demo.scenes import CLASSES, HELD_OUT, draw_scenes
from ssi_core.demo.train import begin, options, train


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


def test_a_model_learns_from_levels_of_its_own_process():
    """A ratio of noise to signal r is sigma r of an EDM, time r / (1 + r) of a flow; within what it is asked for."""
    ratios = torch.tensor([0.0, 0.5, 3.0, 50.0, 1e6])
    assert KINDS["edm"].sigmas(ratios).tolist() == pytest.approx([0.002, 0.5, 3.0, 50.0, 80.0])
    assert KINDS["flow"].sigmas(ratios).tolist() == pytest.approx([0.002, 1 / 3, 0.75, 50 / 51, 1.0], abs=2e-6)
    assert KINDS["flow"].sigmas(ratios).dtype == torch.float32


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


def test_model_of_classes_says_and_uses_them():
    model = demo_denoiser(name="demo-classes")
    assert DEMO_MODELS["demo-classes"].stat().st_size <= 8e6
    assert model.classes == tuple(CLASSES)
    x, sigma = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 20, torch.full((2,), 20.0)
    of_each = [model.conditioned(label)(x, sigma) for label in range(4)]
    assert min(float((a - b).abs().mean()) for a, b in combinations(of_each, 2)) > 0.01
    assert torch.equal(model.conditioned([1, 3])(x, sigma), torch.stack([of_each[1][0], of_each[3][1]]))
    nothing = model(x, sigma)
    assert torch.equal(nothing, model.conditioned(None)(x, sigma))
    guided = model.conditioned(2, 3.0)(x, sigma)
    torch.testing.assert_close(guided, nothing + 3 * (of_each[2] - nothing), atol=1e-5, rtol=0)
    for label in (4, -1):
        with pytest.raises(ValueError, match=f"label {label}: the model has 4 classes"):
            model.conditioned(label)
    with pytest.raises(ValueError, match="the model has no classes"):
        demo_denoiser().conditioned(0)


def test_model_of_classes_knows_what_it_draws():
    """At a high noise level its estimate of a class is nearer to that class's mean than to any other's."""
    model, sigma = demo_denoiser(name="demo-classes"), torch.full((1,), 60.0)
    means = [draw_scenes(range(64), labels=label).mean(0) for label in range(4)]
    x = 60 * torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for label in range(4):
        found = model.conditioned(label)(x, sigma)[0]
        apart = [float((found - mean).square().mean()) for mean in means]
        assert apart.index(min(apart)) == label


def test_a_class_edit_paints_the_hills_white_and_leaves_the_sky():
    model, x0 = demo_denoiser(name="demo-classes"), draw_scenes(range(HELD_OUT, HELD_OUT + 4))
    truth = draw_scenes(range(HELD_OUT, HELD_OUT + 4), labels=2)
    found = invert(model.conditioned(0), x0, karras_sigmas(20))
    edited = reconstruct(model.conditioned(2), found.noise, found.sigmas)
    before, after = ((image - truth)[:, :, 22:].square().mean() for image in (x0, edited))
    assert after < 0.25 * before
    assert (edited - x0)[:, :, :8].square().mean() < 0.01


TINY = ["--width", "8", "--steps", "2", "--batch", "8", "--scenes", "16", "--photos", "0", "--lr", "0.01"]


def test_training_with_classes_from_a_model_without(tmp_path):
    plain, path = tmp_path / "plain.safetensors", tmp_path / "classes.safetensors"
    train(options(["--out", str(plain), *TINY]))
    before, network = DemoDenoiser(plain, "cpu"), DemoUNet(width=8, classes=4)
    begin(network, plain)
    x, level = torch.randn(2, 3, 32, 32), torch.tensor([-0.5, 0.7])
    for labels in (None, torch.zeros(2, 4)):
        assert torch.equal(network(x, level, labels), before.network(x, level))
    assert not torch.equal(network(x, level, torch.eye(4)[:2]), before.network(x, level))
    with pytest.raises(SystemExit, match="is of another network"):
        begin(DemoUNet(width=16, classes=4), plain)
    train(options(["--out", str(path), *TINY, "--label-dropout", "0.5", "--start", str(plain)]))
    facts, after = facts_of(path), DemoDenoiser(path, "cpu")
    assert (facts["classes"], facts["network"]["classes"]) == (list(CLASSES), 4)
    assert set(facts["training"]["losses"]) == {"scenes", "scenes, class not told"}
    sigma = torch.ones(2)
    assert not torch.equal(after.conditioned(0)(x, sigma), after.conditioned(1)(x, sigma))
    assert before.classes == ()


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


def test_a_scene_in_another_class_is_the_same_scene():
    """The first class is the scene as ever; autumn and winter leave sky and house walls alone, night darkens all."""
    seeds = range(HELD_OUT, HELD_OUT + 8)
    plain = draw_scenes(seeds)
    drawn = {name: draw_scenes(seeds, labels=label) for label, name in enumerate(CLASSES)}
    assert torch.equal(drawn["summer"], plain)
    mixed = draw_scenes(seeds, labels=[0, 1, 2, 3] * 2)
    for i, name in enumerate([*CLASSES] * 2):
        assert torch.equal(mixed[i], drawn[name][i])
    for name in ("autumn", "winter"):
        left = (drawn[name] - plain).abs().amax(1) < 1e-6
        assert left[:, :12].float().mean() > 0.9  # the sky
        assert 0.3 < left.float().mean() < 0.8
    assert drawn["winter"][:, :, 20:].mean() > plain[:, :, 20:].mean() + 0.3
    assert drawn["autumn"][:, 0, 20:].mean() - drawn["autumn"][:, 1, 20:].mean() > 0.3
    assert drawn["night"].mean() < plain.mean() - 0.5
