"""`ssi morph`: how keyframes are inverted, what is spent on them, and what is said of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import FEW, ssi
from PIL import Image

import ssi_core.cli.morph as command
from ssi_core import Inversion, choose_skip, demo_denoiser, invert, karras_sigmas, load_image, reconstruct
from ssi_core.goal import Goal
from ssi_core.image import to_pixels
from ssi_core.injection import plain

ANGLE = ["--frames", "3", "--pace", "angle"]


def first_frame(path):
    """The first frame of an animation at the default magnification of 4, [H, W, 3] int."""
    with Image.open(path) as morph:
        return np.asarray(morph.convert("RGB"))[::4, ::4].astype(int)


def pixels(image):
    return to_pixels(image)[0].astype(int)


@pytest.fixture
def spied(monkeypatch):
    """Calls of `invert`, `choose_skip` and `gaussianity` that the command makes: (name, arguments, options)."""
    calls = []
    for name in ("invert", "choose_skip", "gaussianity"):
        real = getattr(command, name)

        def spy(*given, name=name, real=real, **options):
            calls.append((name, given, options))
            return real(*given, **options)

        monkeypatch.setattr(command, name, spy)
    return calls


def test_morph_takes_pictures_and_artefacts(capsys, pictures, tmp_path):
    out = tmp_path / "morphs"
    code, told, _ = ssi(capsys, "morph", *pictures, "--frames", 4, "--back", "--out", out, *FEW)
    assert code == 0 and "times the median" in told
    with Image.open(out / "scene 0-scene 1.webp") as morph:
        assert morph.n_frames == 6  # there, and back without the ends
        assert morph.size == (128, 128)
        shown = np.asarray(morph.convert("RGB"))[::4, ::4].astype(int)
        assert np.abs(shown - to_pixels(load_image(pictures[0], 32))[0]).max() <= 1
    assert ssi(capsys, "invert", *pictures, "--out", out, *FEW)[0] == 0
    artefacts = [out / f"scene {i}.ssi.safetensors" for i in range(2)]
    assert ssi(capsys, "morph", *artefacts, "--frames", 3, "--out", out)[0] == 0


def test_a_morph_takes_one_chosen_skip(capsys, pictures, tmp_path, spied):
    how = ["--skip", "psnr=38", "--seed", 3, "--injection", "tangent", "--steps", 6, "--device", "cpu"]
    code, out, _ = ssi(capsys, "morph", *pictures, "--out", tmp_path / "out", *how, *ANGLE)
    assert code == 0 and "all pictures together: skip" in out and "for 38 dB: 38.0 dB" in out
    x0 = torch.cat([load_image(path, 32) for path in pictures])
    wanted = choose_skip(demo_denoiser(), x0, karras_sigmas(6), Goal("psnr", 38), injection="tangent", seed=[3, 4])
    assert replace(wanted, resolved=False).reason in out
    keyframes = [options for name, _, options in spied if name == "invert"]
    assert [(k["skip"], k["seed"], k["injection"]) for k in keyframes] == [(wanted.skip, s, "tangent") for s in (3, 4)]
    # Chosen for both at once, inverted one by one, sampled frame by frame.
    levels = len(invert(demo_denoiser(), x0[:1], karras_sigmas(6), skip=wanted.skip).sigmas) - 1
    assert f"{2 * wanted.nfe + 2 * (levels - 1 + 4) + 3 * levels} evaluations of one picture each" in out


def test_a_goal_out_of_reach_is_told(capsys, stripes, tmp_path):
    code, _, err = ssi(
        capsys, "morph", stripes, stripes, "--skip", "auto", "--out", tmp_path, "--device", "cpu", *ANGLE
    )
    assert code == 0 and "all pictures together: no skip is foretold to reach the verdict" in err


def test_noises_are_judged_beside_their_pictures(capsys, pictures, stripes, tmp_path, spied):
    assert ssi(capsys, "invert", pictures[0], "--out", tmp_path, *FEW)[0] == 0
    ends = [tmp_path / "scene 0.ssi.safetensors", stripes]
    code, out, _ = ssi(capsys, "morph", *ends, "--out", tmp_path, *ANGLE, "--device", "cpu")
    assert code == 0 and "1 of 2 noises are Gaussian by every figure" in out
    judged = [given[1] for name, given, _ in spied if name == "gaussianity"]
    assert judged[0] is None and torch.equal(judged[1], load_image(stripes, 32))


def test_what_files_hold_is_not_counted_as_spent(capsys, pictures, tmp_path):
    assert ssi(capsys, "invert", *pictures, "--out", tmp_path, "--steps", 8, "--device", "cpu")[0] == 0
    artefacts = [tmp_path / f"scene {i}.ssi.safetensors" for i in range(2)]
    levels = len(Inversion.load(artefacts[0]).sigmas) - 1
    _, out, _ = ssi(capsys, "morph", *artefacts, "--out", tmp_path, *ANGLE)
    assert f" {3 * levels} evaluations of one picture each" in out
    _, out, _ = ssi(capsys, "morph", artefacts[0], pictures[1], "--out", tmp_path, *ANGLE)
    assert f" {4 * levels - 1} evaluations of one picture each" in out


def test_without_carrying_the_keyframes_are_reconstructions(capsys, pictures, tmp_path):
    how = ["--injection", "tangent", "--solver", "euler", "--out", tmp_path, *FEW, *ANGLE]
    x0, denoise = load_image(pictures[0], 32), demo_denoiser()
    found = invert(denoise, x0, karras_sigmas(6), skip=0.1, injection="tangent", solver="euler")
    back = reconstruct(denoise, found.noise, found.sigmas, solver="euler")
    assert np.abs(pixels(back) - pixels(x0)).max() > 20
    assert ssi(capsys, "morph", *pictures, "--no-carry", *how)[0] == 0
    assert np.abs(first_frame(tmp_path / "scene 0-scene 1.webp") - pixels(back)).max() <= 1
    assert ssi(capsys, "morph", *pictures, *how)[0] == 0
    assert np.abs(first_frame(tmp_path / "scene 0-scene 1.webp") - pixels(x0)).max() <= 1


def test_a_picture_beside_an_artefact_is_inverted_as_that_was(capsys, pictures, tmp_path, spied):
    made = ["--solver", "ab2-log", "--injection", "tangent", "--out", tmp_path]
    assert ssi(capsys, "invert", pictures[0], *made, *FEW)[0] == 0
    artefact = tmp_path / "scene 0.ssi.safetensors"
    otherwise = ["--solver", "euler", "--injection", "plain", "--skip", "0.3", "--steps", "9"]
    code, _, _ = ssi(capsys, "morph", pictures[1], artefact, *otherwise, "--seed", 4, "--out", tmp_path, *ANGLE)
    assert code == 0
    assert first_frame(tmp_path / "scene 1-scene 0.webp").shape == (32, 32, 3)
    (inverted,) = [(given, options) for name, given, options in spied if name == "invert"]
    wanted = invert(
        demo_denoiser(), load_image(pictures[1], 32), karras_sigmas(6), skip=0.1, solver="ab2-log",
        injection="tangent", seed=4,
    )  # fmt: skip
    found = invert(*inverted[0], **{**inverted[1], "progress": None})
    assert torch.equal(found.noise, wanted.noise) and found.provenance["injection"] == "tangent"


def test_an_injection_that_only_its_file_knows_is_refused(capsys, pictures, tmp_path):
    def sideways(*given):
        return plain(*given)

    x0 = load_image(pictures[0], 32)
    invert(demo_denoiser(), x0, karras_sigmas(6), skip=0.1, injection=sideways).save(tmp_path / "a.safetensors")
    code, _, err = ssi(capsys, "morph", tmp_path / "a.safetensors", pictures[1], "--out", tmp_path, *ANGLE)
    assert code == 2 and "a.safetensors: injection 'sideways': unknown; known are plain, tangent" in err


@pytest.mark.parametrize("easing", ["linear", "ease"])
def test_a_morph_tells_of_steps_that_stayed_large(capsys, pictures, tmp_path, easing):
    """A picture, the same picture, another: with a frame each nothing can be placed."""
    asked = ["morph", pictures[0], *pictures, "--frames", 3, "--easing", easing, "--out", tmp_path, *FEW]
    code, told, said = ssi(capsys, *asked)
    assert code == 0 and "some steps stayed large" in told + said
    assert ("times the median one, each over what ease wants of it" in " ".join((told + said).split())) == (
        easing == "ease"
    )
