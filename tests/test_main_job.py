"""The demo model keeps what the project promises of it, and the demo shows it."""

import json

import pytest
import torch
from PIL import Image

from ssi_core import cosine, demo_denoiser, flow_sigmas, gaussianity, invert, karras_sigmas, psnr, reconstruct, ssim
from ssi_core.demo.measure import Laboratory, Plan, Setting, share_better
from ssi_core.demo.photos import SHEET, held_out_photos, photo_crops, photo_regions
from ssi_core.demo.run import run_demo
from ssi_core.demo.scenes import HELD_OUT, draw_scenes

COUNT = 32


@pytest.fixture(scope="module")
def scenes():
    return draw_scenes(range(HELD_OUT, HELD_OUT + COUNT))


@pytest.fixture(scope="module")
def lab():
    return Laboratory(demo_denoiser())


def test_base_noise_of_real_images_is_not_gaussian(lab, scenes):
    trip = lab.round_trip("scenes", scenes, Setting("euler", 40, 0.0))
    assert sum(trip.report.verdicts) == 0
    assert float(trip.report.std.mean()) < 0.85
    assert float(trip.report.edge.mean()) > 0.2


def test_ssi_noise_is_gaussian_and_reconstructs(lab, scenes):
    trip = lab.round_trip("scenes", scenes, Setting("euler", 40, 0.1))
    mean, floor = trip.summary(), trip.report.floor
    assert mean["gaussian_share"] == 1
    assert abs(mean["std"] - 1) <= 0.02
    for name, times in {"chan": 1.15, "ks": 1.15, "hori": 1.03, "vert": 1.03, "block_spread": 1.1}.items():
        assert mean[name] <= times * float(getattr(floor, name)), name
    assert abs(mean["kurtosis"]) <= 0.05
    assert abs(mean["edge"]) <= 0.03
    assert mean["psnr"] >= 34
    assert mean["ssim"] >= 0.94


@pytest.mark.parametrize(("steps", "ratio", "share"), [(10, 1.6, 0.85), (20, 1.5, 0.80)])
def test_ssi_wins_at_few_steps(lab, scenes, steps, ratio, share):
    base = lab.round_trip("scenes", scenes, Setting("euler", steps, 0.0))
    ours = lab.round_trip("scenes", scenes, Setting("euler", steps, 0.05))
    assert float(base.mse.mean() / ours.mse.mean()) >= ratio
    assert share_better(ours, base) >= share


def test_ssi_noise_bears_editing_better(lab, scenes):
    base, ours = (lab.round_trip("scenes", scenes, Setting("euler", 40, skip)) for skip in (0.0, 0.1))
    assert float(lab.damage(base).mean() / lab.damage(ours).mean()) > 2


def test_two_seeds_give_two_noises_of_the_same_picture(lab, scenes):
    setting = Setting("euler", 40, 0.1)
    assert float(lab.seed_cosine("scenes", scenes, setting).mean()) < 0.15
    for seed in (0, 5000):
        assert float(psnr(lab.round_trip("scenes", scenes, setting, seed).image, scenes).mean()) > 30


def test_the_models_own_samples_invert_well_without_a_skip(lab):
    """The failure is about real images: claims must never be tested on the model's own samples alone."""
    noise = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    own = reconstruct(lab.denoise, noise, karras_sigmas(40))
    base = invert(lab.denoise, own, karras_sigmas(40), skip=0.0)
    real = invert(lab.denoise, draw_scenes(range(HELD_OUT, HELD_OUT + 8)), karras_sigmas(40), skip=0.0)
    assert float(gaussianity(base.noise).std.mean()) > float(gaussianity(real.noise).std.mean()) + 0.1
    assert float(cosine(base.noise, noise).mean()) > 0.8
    assert float(ssim(reconstruct(lab.denoise, base.noise, base.sigmas), own).mean()) > 0.97


def test_batch_size_changes_nothing(lab, scenes):
    for solver in ("euler", "dpmpp-2m"):
        many = invert(lab.denoise, scenes[:8], karras_sigmas(20), solver=solver).noise
        for i in (0, 5):
            one = invert(lab.denoise, scenes[i : i + 1], karras_sigmas(20), solver=solver, seed=i).noise
            torch.testing.assert_close(one[0], many[i], atol=1e-5, rtol=0)


def test_held_out_crops_are_what_the_script_cuts():
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    kept, cut = held_out_photos(), photo_crops(COUNT, 32, seed=0, held_out=True)
    assert SHEET.exists()
    torch.testing.assert_close(kept, cut, atol=1 / 127, rtol=0)


def test_no_held_out_pixel_is_trained_on():
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    for photo, seen, held in photo_regions():
        assert seen.shape[1:2] == held.shape[1:2], photo.name
        # A column of the held-out region must not stand in the training region.
        columns = seen.permute(2, 0, 1).flatten(1)
        for column in held.permute(2, 0, 1).flatten(1)[:: max(1, held.shape[-1] // 8)]:
            assert float((columns - column).abs().amax(1).min()) > 0, photo.name


def test_the_demo_leaves_everything_it_promises(tmp_path):
    parts: list[str] = []
    small = Plan(count=12, few=4, some=6, middle=8, many=10, paper=12)
    tables = run_demo(demo_denoiser(), tmp_path, lambda part, done, of: parts.append(part), small)
    assert {p.name for p in tmp_path.iterdir()} >= {
        "demo.png", "morph.webp", "metrics.json", "scenes.ssi.safetensors", "photos.ssi.safetensors",
    }  # fmt: skip
    assert Image.open(tmp_path / "demo.png").width > 1500
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics["round_trips"]) == {"scenes", "photos", "foreign"}
    foreign = metrics["round_trips"]["foreign"]
    assert all(setting["gaussian_share"] == 0 for setting in foreign.values())
    assert 0.002 < metrics["singularity_knee"] < 0.5
    assert len(tables) == 4
    assert len(set(parts)) > 30


@pytest.fixture(scope="module")
def flow():
    return demo_denoiser(name="demo-flow")


@pytest.mark.parametrize("solver", ["euler", "ab2", "dpmpp-2m"])
def test_a_flow_is_inverted_like_any_other(flow, scenes, solver):
    sigmas = flow_sigmas(20, sigma_min=flow.sigma_min)
    base, ours = (invert(flow, scenes[:16], sigmas, skip=skip, solver=solver) for skip in (0.0, 0.1))
    assert sum(gaussianity(base.noise, scenes[:16]).verdicts) == 0
    assert sum(gaussianity(ours.noise, scenes[:16]).verdicts) >= 14
    assert abs(float(ours.noise.std()) - 1) < 0.02
    back = reconstruct(flow, ours.noise, ours.sigmas, solver=solver)
    assert float(psnr(back, scenes[:16]).mean()) > 30
