"""`ssi morph` through classes: every keyframe is its own class, and frames between are asked for a mixture of two."""

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import FEW, ssi
from PIL import Image

import ssi_core.cli.morph as command
from ssi_core import blend, demo_denoiser, invert, karras_sigmas, load_image, reconstruct
from ssi_core.cli.morph import class_path
from ssi_core.image import to_pixels

MODELS = Path(__file__).parent / "data" / "models"
DEMO = ["--model", "demo-classes"]
ADM = ["num_head_channels=16", "use_new_attention_order=True", "noise_schedule=linear", "image_size=32"]
ADM = [word for setting in ADM for word in ("--set", setting)]
ANGLE = ["--frames", "3", "--pace", "angle", "--no-carry", "--scale", "1"]


def frames(path):
    """Of an animation, [F, H, W, 3] int."""
    with Image.open(path) as morph:
        shown = []
        for i in range(morph.n_frames):
            morph.seek(i)
            shown.append(np.asarray(morph.convert("RGB")).astype(int))
    return np.stack(shown)


def test_every_keyframe_is_inverted_as_its_own_class_and_the_class_travels(capsys, pictures, tmp_path):
    model, sigmas = demo_denoiser(name="demo-classes"), karras_sigmas(6)
    x0 = [load_image(path, 32) for path in pictures]
    ends = [invert(model.conditioned(2 * i), x, sigmas, skip=0.1, seed=i) for i, x in enumerate(x0)]
    middle = blend([end.noise for end in ends], [0.5, 0.5], "slerp")
    asked = [(0, ends[0].noise), (torch.tensor([[0.5, 0, 0.5, 0]]), middle), (2, ends[1].noise)]
    wanted = torch.cat([reconstruct(model.conditioned(labels), z, ends[0].sigmas) for labels, z in asked])
    labels = ["--label", "summer", "--label", "2"]
    assert ssi(capsys, "morph", *pictures, *DEMO, *labels, "--out", tmp_path, *FEW, *ANGLE)[0] == 0
    shown = frames(tmp_path / "scene 0-scene 1.webp")
    assert np.abs(shown - to_pixels(wanted)).max() <= 1
    for same in (["--label", "summer"], ["--label", "0", "--label", "summer"]):
        assert ssi(capsys, "morph", *pictures, *DEMO, *same, "--out", tmp_path / "same", *FEW, *ANGLE)[0] == 0
        apart = np.abs(frames(tmp_path / "same" / "scene 0-scene 1.webp") - shown).max((1, 2, 3))
        assert apart[0] <= 1 and min(apart[1:]) > 20


def test_pictures_are_the_keyframes_of_a_loop_through_classes(capsys, pictures, tmp_path):
    labels = [word for name in ("summer", "winter", "night") for word in ("--label", name)]
    three = [*pictures, pictures[0]]
    how = ["--loop", "--frames", "6", "--pace", "angle", "--scale", "1", "--skip", "psnr=30", "--steps", "6"]
    assert ssi(capsys, "morph", *three, *DEMO, *labels, *how, "--out", tmp_path, "--device", "cpu")[0] == 0
    shown = frames(tmp_path / "scene 0-scene 0.webp")
    for i, path in enumerate(three):
        assert np.abs(shown[2 * i] - to_pixels(load_image(path, 32))[0]).max() <= 1


def test_a_path_of_classes_in_a_loop():
    class Network:
        mixes_classes = True

        def conditioned(self, weights):
            return weights

    at = class_path(Network(), [0, 3, 1], 4, loop=True)(torch.tensor([0.0, 0.25, 1.0, 2.5]))
    assert at.tolist() == [[1, 0, 0, 0], [0.75, 0, 0, 0.25], [0, 0, 0, 1], [0.5, 0.5, 0, 0]]
    assert class_path(Network(), [0, 3], 4, loop=False)(torch.tensor([1.0])).tolist() == [[0, 0, 0, 1]]


def test_weights_of_classes_are_classes_mixed():
    model, x = demo_denoiser(name="demo-classes"), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    sigma = torch.full((2,), 5.0)
    whole = model.conditioned([0, 2])(x, sigma)
    assert torch.equal(model.conditioned(torch.eye(4)[[0, 2]])(x, sigma), whole)
    mixed = model.conditioned(torch.tensor([[0.5, 0, 0.5, 0]]))(x, sigma)
    assert all(float((mixed - model.conditioned(k)(x, sigma)).abs().max()) > 0.01 for k in (0, 2))
    with pytest.raises(ValueError, match="labels: hold NaN or Inf"):
        model.conditioned(torch.full((1, 4), torch.nan))


def test_checkpoints_that_take_weights_of_classes_mix_them(capsys, pictures, tmp_path):
    ends = ["--label", "1", "--label", "3", "--out", tmp_path / "out", "--device", "cpu", "--steps", 3, "--skip", 0.3]
    mixing = ["--model", MODELS / "nv_ncsnpp_cond.pkl"]
    code, _, err = ssi(capsys, "morph", *pictures, *ends, *ANGLE, *mixing)
    assert code == 0, err
    whole = ["--model", MODELS / "adm_neworder_classcond.safetensors", *ADM]
    code, _, err = ssi(capsys, "morph", *pictures, *ends, *ANGLE, *whole)
    assert code == 2 and "label: this model knows whole classes only, and cannot mix them on the way" in err
    code, _, err = ssi(capsys, "morph", *pictures, *ends[2:], *ANGLE, *whole)
    assert code == 0, err


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["summer", "winter", "night"], "label: 3 for 2 pictures; give one for all, or one each"),
        (["spring", "winter"], "label spring: the model has 4 classes"),
        (["winter", "spring"], "label spring: the model has 4 classes"),
    ],
)
def test_labels_that_do_not_fit(capsys, pictures, tmp_path, labels, said):
    given = [word for name in labels for word in ("--label", name)]
    code, _, err = ssi(capsys, "morph", *pictures, *DEMO, *given, "--out", tmp_path / "out")
    assert code == 2 and said in err and not (tmp_path / "out").exists()


def test_a_skip_for_all_is_chosen_with_every_picture_as_its_own_class(capsys, pictures, tmp_path, monkeypatch):
    asked, real = [], command.choose_skip

    def spy(model, *given, **how):
        asked.append(model)
        return real(model, *given, **how)

    monkeypatch.setattr(command, "choose_skip", spy)
    labels = ["--label", "summer", "--label", "winter", "--skip", "psnr=30", "--steps", 6, "--device", "cpu"]
    assert ssi(capsys, "morph", *pictures, *DEMO, *labels, "--out", tmp_path, *ANGLE)[0] == 0
    x, sigma = torch.zeros(2, 3, 32, 32), torch.full((2,), 5.0)
    wanted = demo_denoiser(name="demo-classes").conditioned([0, 2])(x, sigma)
    assert torch.equal(asked[0](x, sigma), wanted)
