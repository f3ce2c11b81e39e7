"""What is too much for this machine is refused before any work is done for it, and never blamed on the model."""

import pytest
import torch
from commands import FEW, ssi
from PIL import Image

from ssi_core import demo_denoiser, invert, karras_sigmas


def never(*_, **__):
    raise AssertionError("evaluated")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["morph", "--scale", "1000", "--frames", "3"], "a-b.webp: 3 frames of 32000x32000 pixels"),
        (["morph", "--scale", "3000", "--format", "mp4"], "a-b.mp4: 24 frames of 96000x96000 pixels"),
        (["morph", "--frames", "1000000000", "--pace", "angle"], "a-b.webp: 1,000,000,000 frames of 128x128 pixels"),
        (["morph", "--frames", "9000", "--back"], "a-b.webp: 17,998 frames of 128x128 pixels"),
        (["morph", "--frames", "210000", "--scale", "1"], "a-b.png: 432x630000 pixels"),
        (["morph", "{artefact}", "--scale", "1000"], "a-a.webp: 24 frames of 32000x32000 pixels"),
        (["edit", "--from", "0", "--to", "2", "--scale", "100000"], "sheet of edits: 6400008x3200022 pixels"),
    ],
)
def test_what_is_too_large_to_write_is_refused_before_anything_is_evaluated(
    capsys, tmp_path, monkeypatch, arguments, complaint
):
    pictures, artefact = [tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "a.ssi.safetensors"
    for path in pictures:
        Image.new("RGB", (32, 32)).save(path)
    invert(demo_denoiser(), torch.zeros(1, 3, 32, 32), karras_sigmas(6)).save(artefact)
    monkeypatch.setattr("ssi_core.guard.Guarded.__call__", never)
    given = [a.format(artefact=artefact) for a in arguments]
    which = pictures[:1] if str(artefact) in given or given[0] == "edit" else pictures
    code, _, said = ssi(capsys, *given, *which, "--out", tmp_path / "out")
    assert code == 2 and complaint in said and "lower the scale" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("ssi_core.cli.morph.save_animation", "this machine could not do it: Unable to allocate 1.51 TiB"),
        ("ssi_core.demo.model.DemoDenoiser.__call__", "the model could not be run: Unable to allocate 1.51 TiB"),
    ],
)
def test_full_memory_is_blamed_on_the_model_only_where_it_is_the_models(
    capsys, pictures, tmp_path, monkeypatch, where, words
):
    def full(*_, **__):
        raise MemoryError("Unable to allocate 1.51 TiB")

    monkeypatch.setattr(where, full)
    code, _, said = ssi(capsys, "morph", *pictures, "--frames", 2, "--pace", "angle", "--out", tmp_path, *FEW)
    assert code == 3 and words in said
