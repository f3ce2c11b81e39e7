"""What `ssi morph` and `ssi edit` say and show beside their pictures."""

import torch
from commands import FEW, ssi

from ssi_core import load_image
from ssi_core.image import CAPTION, contact_sheet

ANGLE = ["--frames", "4", "--pace", "angle"]


def test_a_morph_says_which_frames_to_distrust_and_how_many_there_are(capsys, pictures, stripes, tmp_path):
    code, out, err = ssi(capsys, "morph", pictures[0], stripes, "--back", *ANGLE, "--out", tmp_path, *FEW)
    assert code == 0 and "1 of 2 noises are not Gaussian: the frames near them may go wrong" in err
    assert " 6 frames; written to" in out
    code, out, err = ssi(capsys, "morph", *pictures, *ANGLE, "--out", tmp_path, *FEW)
    assert code == 0 and "not Gaussian" not in err
    assert " 4 frames; written to" in out


def test_edits_are_named_by_their_class_however_it_was_given(capsys, pictures, tmp_path):
    how = ["--from", "0", "--to", "1", "--to", "autumn", "--to", "winter", "--out", tmp_path / "out", *FEW]
    assert ssi(capsys, "edit", pictures[0], *how)[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"scene 0.{what}.png" for what in ("autumn", "edits", "winter")
    ]
    shown = load_image(tmp_path / "out" / "scene 0.edits.png")
    x0 = load_image(pictures[0], 32)
    wanted = contact_sheet([torch.cat([x0, x0, x0])], scale=4, captions=["summer", "autumn", "winter"])
    assert (shown - wanted)[..., :CAPTION, :].abs().max() < 0.01


def test_noise_of_another_model_of_ours_names_it(capsys, pictures, tmp_path):
    assert ssi(capsys, "invert", pictures[0], "--model", "demo-classes", "--out", tmp_path, *FEW)[0] == 0
    artefact = tmp_path / "scene 0.ssi.safetensors"
    code, _, err = ssi(capsys, "reconstruct", artefact, "--out", tmp_path)
    assert code == 0 and "scene 0.ssi.safetensors was made with model demo-classes, not demo: it will" in err
    assert "it will not give the same picture; use --model demo-classes" in err
    assert "same picture" not in ssi(capsys, "reconstruct", artefact, "--model", "demo-classes", "--out", tmp_path)[2]
