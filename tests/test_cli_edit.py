"""`ssi edit`: whose picture, which class, with what guidance and solver, and what is said of it."""

import numpy as np
import pytest
import torch
from commands import FEW, ssi
from PIL import Image

import ssi_core.cli.pictures as loop
from ssi_core import Inversion, demo_denoiser, invert, karras_sigmas, load_image, reconstruct
from ssi_core.image import CAPTION, to_pixels


def edited(picture, seed=0, guidance=1.0, up="dpmpp-2m", down="dpmpp-2m"):
    """Summer into winter, by the engine."""
    model, x0 = demo_denoiser(name="demo-classes"), load_image(picture, 32)
    inversion = invert(model.conditioned(0), x0, karras_sigmas(6), skip=0.1, seed=seed, solver=up)
    return reconstruct(model.conditioned(2, guidance), inversion.noise, inversion.sigmas, solver=down)


def apart(path, wanted):
    """The largest difference of a written picture, in grey levels of 255."""
    return np.abs(to_pixels(load_image(path)).astype(int) - to_pixels(wanted)).max()


def test_edit_writes_every_class_and_a_sheet(capsys, pictures, tmp_path):
    out = tmp_path / "edits"
    code, told, _ = ssi(
        capsys, "edit", *pictures, "--from", "summer", "--to", "winter", "--to", "3", "--out", out, *FEW
    )
    assert code == 0 and "14 evaluations a batch of up to 2," in told  # four up, five down for each class
    assert sorted(p.name for p in out.iterdir()) == [
        f"scene {i}.{what}.png" for i in range(2) for what in ("edits", "night", "winter")
    ]
    assert Image.open(out / "scene 0.edits.png").size == (3 * (128 + 4), CAPTION + 128 + 4)
    assert apart(out / "scene 1.winter.png", edited(pictures[1], seed=1)) <= 1


def test_guidance_is_of_the_class_asked_for(capsys, pictures, tmp_path):
    how = ["--from", 0, "--to", "winter", "--guidance", "3", "--out", tmp_path, *FEW]
    code, told, _ = ssi(capsys, "edit", pictures[1], *how)
    assert code == 0 and "asking the network twice" in told
    guided = edited(pictures[1], guidance=3.0)
    assert apart(tmp_path / "scene 1.winter.png", guided) <= 1
    assert np.abs(to_pixels(guided).astype(int) - to_pixels(edited(pictures[1]))).max() > 20


def test_every_batch_has_its_own_names_and_the_solver_goes_both_ways(capsys, pictures, tmp_path):
    how = ["--from", "summer", "--to", "winter", "--solver", "euler", "--batch", 1, "--out", tmp_path, *FEW]
    code, told, _ = ssi(capsys, "edit", *pictures, *how)
    assert code == 0 and "9 evaluations a picture, 2 picture(s)" in told
    for i in range(2):
        path, wanted = tmp_path / f"scene {i}.winter.png", edited(pictures[i], i, up="euler", down="euler")
        assert apart(path, wanted) <= 1
        assert apart(path, edited(pictures[i], i, up="euler")) > 10


def test_a_chosen_skip_is_told_and_drawn(capsys, pictures, tmp_path):
    how = ["--from", "summer", "--to", "winter", "--steps", "8", "--device", "cpu", "--out", tmp_path / "out"]
    code, out, _ = ssi(capsys, "edit", *pictures, "--skip", "auto", *how)
    assert code == 0 and out.count("for the verdict:") == 2 and "scene 1: skip" in out
    assert out.count("the steps lie too far apart") == 2
    assert {"scene 0.skip.png", "scene 1.skip.png"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_noise_that_is_not_gaussian_is_told(capsys, pictures, stripes, tmp_path):
    how = ["--from", "summer", "--to", "winter", "--out", tmp_path / "out", *FEW]
    code, _, err = ssi(capsys, "edit", pictures[0], stripes, *how)
    assert code == 0 and "1 of 2 noises are not Gaussian" in err
    assert "noises are not Gaussian" not in ssi(capsys, "edit", pictures[0], *how)[2]


@pytest.mark.parametrize("command", [["invert"], ["edit", "--model", "demo-classes", "--from", "0", "--to", "2"]])
def test_noises_are_judged_beside_their_pictures(capsys, pictures, tmp_path, monkeypatch, command):
    seen, real = [], loop.gaussianity
    monkeypatch.setattr(loop, "gaussianity", lambda noise, image: seen.append(image) or real(noise, image))
    assert ssi(capsys, *command, *pictures, "--out", tmp_path / "out", *FEW)[0] == 0
    assert all(torch.equal(image, load_image(path, 32)) for image, path in zip(seen, pictures, strict=True))


@pytest.mark.parametrize("goal, batch", [("psnr=42", 16), ("0.1", 1), ("0.1", 16)])
def test_what_was_spent_is_told_of_every_picture(capsys, pictures, stripes, tmp_path, goal, batch):
    """Each picture that has a skip of its own has a number of evaluations of its own."""
    black = tmp_path / "black.png"
    Image.new("RGB", (32, 32)).save(black)
    images = [black, stripes, pictures[0]]
    how = ["--skip", goal, "--steps", 20, "--batch", batch, "--device", "cpu", "--out", tmp_path]
    code, out, _ = ssi(capsys, "invert", *images, *how)
    assert code == 0
    found = [Inversion.load(tmp_path / f"{path.stem}.ssi.safetensors") for path in images]
    # One of a chosen skip is sampled once more, to see whether what was foretold came.
    spent = [one.nfe + (0 if goal == "0.1" else len(one.sigmas) - 1) for one in found]
    if goal == "0.1":
        assert len(set(spent)) == 1
        assert f"{spent[0]} evaluations {'a picture' if batch == 1 else 'a batch of up to 3'}, 3 picture(s)" in out
    else:
        assert len(set(spent)) > 1 and spent[-1] != max(spent)
        assert f"{min(spent)} to {max(spent)} evaluations a picture, 3 picture(s)" in out
