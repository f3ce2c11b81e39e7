"""The command line as its user meets it: files, exit codes, and one line on stderr for every mistake."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import FEW, ssi
from PIL import Image

from ssi_core import (
    VE,
    Choice,
    Flow,
    Goal,
    Inversion,
    demo_denoiser,
    gaussianity,
    invert,
    karras_sigmas,
    load_image,
    unit_noise,
)
from ssi_core.cli.terminal import write_choice
from ssi_core.demo.scenes import HELD_OUT, draw_scenes
from ssi_core.skip import Trial


def test_a_chosen_skip_is_told_drawn_and_its_own_for_each_picture(capsys, pictures, tmp_path):
    code, out, err = ssi(capsys, "invert", *pictures, "--skip", "auto", "--out", tmp_path / "out", "--device", "cpu")
    assert "foretold" not in err and "too far apart" not in out
    assert code == 0 and out.count("for the verdict:") == 2 and out.count("foretold (8 evaluations)") == 2
    found = [Inversion.load(tmp_path / "out" / f"scene {i}.ssi.safetensors") for i in range(2)]
    assert found[0].skip != found[1].skip and all(0.002 < one.skip < 0.07 for one in found)
    assert (np.asarray(Image.open(tmp_path / "out" / "scene 0.skip.png")) < 128).any()


@pytest.mark.parametrize("coarse", [("--steps", "8"), ("--solver", "euler")])
def test_a_forecast_for_a_coarse_walk_is_not_left_alone(capsys, pictures, tmp_path, coarse):
    code, out, err = ssi(
        capsys, "invert", pictures[0], "--skip", "psnr=38", *coarse, "--out", tmp_path, "--device", "cpu"
    )
    assert code == 0 and "dB came back where 38.0 were foretold; more steps" in err
    assert "the steps lie too far apart" in out


def test_injections(capsys, pictures, tmp_path):
    code, _, _ = ssi(capsys, "invert", pictures[0], "--injection", "tangent", "--out", tmp_path, *FEW)
    assert code == 0
    assert Inversion.load(tmp_path / "scene 0.ssi.safetensors").provenance["injection"] == "tangent"


@pytest.mark.parametrize(
    "option, words",
    [
        (("--skip", "best"), "skip 'best': a sigma, auto, or one of gaussian, psnr=VALUE, leftover=VALUE is wanted"),
        (("--skip", "-0.1"), "skip -0.1: must be 0 or a positive sigma"),
        (("--skip", "nan"), "must be 0 or a positive sigma"),
        (("--skip", "psnr=900"), "goal psnr: 900 is out of reach; it must lie between 0 and 200"),
        (("--injection", "sideways"), "unknown; known are plain, tangent"),
    ],
)
def test_skips_and_injections_that_make_no_sense(capsys, pictures, tmp_path, option, words):
    code, _, err = ssi(capsys, "invert", pictures[0], *option, "--out", tmp_path / "none")
    assert code == 2 and words in err and not (tmp_path / "none").exists()


def test_invert_reconstruct_inspect(capsys, pictures, tmp_path):
    out = tmp_path / "results"
    code, said, _ = ssi(capsys, "invert", *pictures, "--out", out, *FEW)
    assert code == 0
    assert "verdict" in said
    assert sorted(p.name for p in out.iterdir()) == [
        "scene 0.noise.png", "scene 0.ssi.safetensors", "scene 1.noise.png", "scene 1.ssi.safetensors",
    ]  # fmt: skip
    inversion = Inversion.load(out / "scene 1.ssi.safetensors")
    assert inversion.noise.shape == (1, 3, 32, 32)
    assert inversion.seeds == (1,)

    code, said, _ = ssi(capsys, "reconstruct", out / "scene 1.ssi.safetensors", "--original", pictures[1], "--out", out)
    assert code == 0
    assert "PSNR" in said
    back = load_image(out / "scene 1.reconstructed.png")
    assert float((back - load_image(pictures[1], 32)).square().mean()) < 0.2

    code, said, _ = ssi(capsys, "inspect", out / "scene 1.ssi.safetensors", "--out", out / "look.png")
    assert code == (0 if gaussianity(inversion.noise).verdict else 1)
    assert "true noise" in said
    assert Image.open(out / "look.png").width > 600


def test_the_flow_model_inverts_reconstructs_and_morphs(capsys, pictures, tmp_path):
    out, flow = tmp_path / "results", ["--model", "demo-flow"]
    assert ssi(capsys, "invert", pictures[0], "--out", out, *FEW, *flow)[0] == 0
    artefact = out / "scene 0.ssi.safetensors"
    inversion = Inversion.load(artefact)
    assert (inversion.process, float(inversion.sigmas[0])) == (Flow(), 1.0)
    code, said, noted = ssi(capsys, "reconstruct", artefact, "--original", pictures[0], "--out", out, *flow)
    assert code == 0
    assert "PSNR" in said
    assert "will not give the same picture" not in noted
    assert ssi(capsys, "morph", artefact, pictures[1], "--frames", 3, "--out", out, *flow)[0] == 0
    code, _, said = ssi(capsys, "reconstruct", artefact, "--out", out)
    assert code == 2
    assert "this is no flow model" in said
    code, _, said = ssi(capsys, "evaluate", "fig5", "--out", out / "fig5", *flow)  # Karras levels up to sigma 80
    assert code == 2
    assert "is a flow model" in said


def test_batches_of_one_give_the_same_noise_as_a_batch_of_two(capsys, pictures, tmp_path):
    for batch in (1, 2):
        assert ssi(capsys, "invert", *pictures, "--out", tmp_path / str(batch), "--batch", batch, *FEW)[0] == 0
    one, two = (Inversion.load(tmp_path / b / "scene 1.ssi.safetensors") for b in ("1", "2"))
    torch.testing.assert_close(one.noise, two.noise, atol=1e-5, rtol=0)
    assert one.seeds == two.seeds


def test_an_artefact_of_several_pictures(capsys, tmp_path):
    several, out = tmp_path / "several.ssi.safetensors", tmp_path / "out"
    scenes = draw_scenes(range(HELD_OUT, HELD_OUT + 3))
    invert(demo_denoiser(), scenes, karras_sigmas(6), skip=0.1).save(several)
    code, said, _ = ssi(capsys, "reconstruct", several, "--out", out)
    assert code == 0
    assert "5 evaluations, 3 picture(s)" in said
    assert sorted(p.name for p in out.iterdir()) == [f"several-{i}.reconstructed.png" for i in range(3)]
    assert "several-2" in ssi(capsys, "inspect", several)[1]
    code, _, said = ssi(capsys, "morph", several, several, "--out", out)
    assert code == 2
    assert "holds 3 pictures" in said


def test_an_unknown_figure_format_is_told(capsys, pictures, tmp_path):
    assert ssi(capsys, "invert", pictures[0], "--out", tmp_path, *FEW)[0] == 0
    code, _, said = ssi(capsys, "inspect", tmp_path / "scene 0.ssi.safetensors", "--out", tmp_path / "fig.xyz")
    assert code == 2
    assert "unknown suffix '.xyz'" in said


def test_a_picture_the_model_does_not_know_is_said_to_be_so(capsys, stripes, tmp_path):
    code, said, noted = ssi(capsys, "invert", stripes, "--out", tmp_path, *FEW)
    assert code == 0
    assert "not Gaussian" in said
    assert "outside what the model knows" in noted
    assert ssi(capsys, "inspect", tmp_path / "stripes.ssi.safetensors")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["invert", "missing.png"], "missing.png: no such file"),
        (["invert", "{text}"], "not a picture"),
        (["invert", "{dot}"], "1x1 pixels is too small"),
        (["invert", "{picture}", "--solver", "eular"], "solver 'eular': unknown; known are euler"),
        (["invert", "{picture}", "--skip", "0.001"], "smallest sigma, 0.002"),
        (["invert", "{picture}", "--skip", "80"], "must lie below"),
        (["invert", "{picture}", "--schedule", "linear"], "known are auto, karras, exponential, flow"),
        (["invert", "{picture}", "--model", "sdxl"], "model 'sdxl': unknown"),
        (["invert", "{picture}", "--device", "abacus"], "device 'abacus'"),
        (["invert", "{picture}", "--out", "{text}"], "cannot be made"),
        (["reconstruct", "{picture}"], "not a whole .safetensors file"),
        (["inspect", "missing.safetensors"], "no such file"),
        (["morph", "{picture}", "missing.png"], "no such file"),
        (["morph", "{picture}", "{picture}", "--method", "swirl"], "method 'swirl': unknown; known are"),
        (["morph", "{picture}"], "1 given; a morph needs two"),
        (["morph", "{picture}", "{picture}", "{picture}", "--frames", "2"], "fewer than the 3 keyframes"),
        (["morph", "{picture}", "{picture}", "--format", "avi"], "use webp, gif, mp4"),
        (["morph", "{picture}", "{picture}", "--pace", "brisk"], "pace 'brisk': unknown; known are even, angle"),
        (["edit", "{picture}", "--from", "summer", "--to", "spring"], "4 classes (counted from 0): summer, autumn"),
        (["edit", "{picture}", "--from", "4", "--to", "0"], "label 4: the model has 4 classes"),
        (["edit", "{picture}", "--from", "0", "--to", "1", "--model", "demo"], "label 0: the model has no classes"),
        (["invert", "{picture}", "--model", "demo-classes", "--label", "spring"], "label spring: the model has 4"),
        (["invert", "a [final][/x].png"], "a [final][/x].png: no such file"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(capsys, tmp_path, pictures, arguments, complaint):
    text, dot = tmp_path / "text.png", tmp_path / "dot.png"
    text.write_text("not a picture")
    Image.new("RGB", (1, 1)).save(dot)
    out = tmp_path / "out"
    filled = [a.format(picture=pictures[0], text=text, dot=dot) for a in arguments]
    if "--out" not in filled and filled[0] != "inspect":
        filled += ["--out", str(out)]
    if filled[0] in ("invert", "morph", "edit"):
        filled += ["--steps", "3"]
    code, _, said = ssi(capsys, *filled)
    assert code == 2
    assert complaint in said
    assert "Traceback" not in said
    assert not out.exists() or not any(out.iterdir())


@pytest.mark.parametrize("arguments", [["invert"], ["invert", "--steps", "0", "x.png"], ["frobnicate"]])
def test_wrong_usage_is_exit_code_2(capsys, arguments):
    assert ssi(capsys, *arguments)[0] == 2


def test_an_unwritable_folder_is_named(capsys, pictures, tmp_path):
    if os.geteuid() == 0:
        locked = "/proc/ssi"  # root may write to any ordinary folder
    else:
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
    code, _, said = ssi(capsys, "invert", pictures[0], "--out", locked, *FEW)
    assert code == 2
    assert str(locked) in said


@pytest.mark.parametrize(
    "arguments",
    [["invert", "{0}"], ["morph", "{0}", "{1}"], ["demo"]],
    ids=["invert", "morph", "demo"],
)
def test_ctrl_c_ends_a_command_cleanly(pictures, tmp_path, arguments):
    out = tmp_path / "out"
    slow = [] if arguments == ["demo"] else ["--steps", "100000"]
    command = [sys.executable, "-m", "ssi_core", *(a.format(*pictures) for a in arguments), *slow, "--out", out]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not out.exists():  # made just before the work begins
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
    assert list(out.iterdir()) == []


def test_module_and_version():
    said = subprocess.run([sys.executable, "-m", "ssi_core", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("ssi ")


@pytest.mark.parametrize(
    "arguments", [("invert", "", "--out", "x"), ("invert", "a.png", "--out", ""), ("invert", "--out=")]
)
def test_empty_arguments_are_no_current_folder(capsys, arguments):
    code, _, err = ssi(capsys, *arguments)
    assert code == 2 and "an argument is empty" in err


def test_what_was_foretold_and_did_not_come_is_said(capsys, tmp_path):
    """A black picture's noise is shifted: foretold as such, and where the forecast is made to be wrong, told so."""
    Image.new("RGB", (32, 32)).save(tmp_path / "black.png")
    how = ["--skip", "auto", "--device", "cpu", "--out", tmp_path]
    code, out, err = ssi(capsys, "invert", tmp_path / "black.png", *how)
    assert code == 0 and "not Gaussian" in out
    assert "no skip is foretold to reach the verdict" in err and "larger skip" not in err
    x0 = load_image(tmp_path / "black.png", 32)
    n = unit_noise(x0, (0,))
    smooth = (n + n.roll(1, -1)) / 2**0.5
    for noise, words in (
        (n + 0.3, "by mean, ks; no skip is sure to mend that"),
        (smooth, "; a larger skip may be enough, --skip 0.045"),
    ):
        values = torch.tensor([1.0], dtype=torch.float64)
        forecast = Trial(0.03, 40 * values, 0.1 * values, 0.9 * values, 5)
        choice = Choice(0.03, Goal(), True, (forecast,), forecast, 8, VE())
        found = replace(invert(demo_denoiser(), x0, karras_sigmas(6), skip=0.03), choice=choice, noise=noise)
        write_choice(found, gaussianity(noise), tmp_path / "told.png", "it", kept=39.0)
        said = " ".join(capsys.readouterr().err.split())
        assert "was foretold to pass as Gaussian, and did not" in said and words in said, said
        assert "came back" not in said
