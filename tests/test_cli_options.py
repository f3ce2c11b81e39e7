"""Options that do not go together are refused before anything is evaluated, with what to give instead."""

import pytest
import torch
from commands import ssi

from ssi_core import Inversion, demo_denoiser


@pytest.fixture(autouse=True)
def nothing_is_evaluated(monkeypatch):
    def never(*_, **__):
        raise AssertionError("evaluated")

    monkeypatch.setattr("ssi_core.guard.Guarded.__call__", never)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--schedule", "flow"], "schedule 'flow': is for flow models, and this is none; use --schedule auto"),
        (["--schedule", "karras", "--model", "demo-flow"], "is not for flow models, and this is one; use"),
        (["--schedule", "exponential", "--model", "demo-flow"], "'exponential': is not for flow models"),
    ],
)
def test_a_schedule_of_another_kind_of_model(capsys, pictures, tmp_path, arguments, said):
    code, _, err = ssi(capsys, "invert", pictures[0], *arguments, "--out", tmp_path / "out")
    assert code == 2 and said in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--label", "winter"], "label winter: the model has no classes; leave it out, or use --model demo-classes"),
        (["--label", "3"], "label 3: the model has no classes; leave it out, or use one that has"),
        (["--label", "4", "--model", "demo-classes"], "has 4 classes (counted from 0): summer, autumn, winter, night"),
    ],
)
def test_a_class_that_the_model_does_not_have(capsys, pictures, tmp_path, arguments, said):
    code, _, err = ssi(capsys, "invert", pictures[0], *arguments, "--out", tmp_path / "out")
    assert code == 2 and said in err and ("no classes" not in err or "counted" not in err)


@pytest.mark.parametrize("arguments", [["--skip", "0"], ["--preset", "bedroom-edm-base"]])
def test_an_injection_with_nothing_to_do(capsys, pictures, tmp_path, arguments):
    given = [*arguments, "--injection", "tangent", "--out", tmp_path / "out"]
    code, _, err = ssi(capsys, "invert", pictures[0], *given)
    assert code == 2 and "injection 'tangent': skip 0 adds no noise, so it would do nothing; give a skip" in err


def test_a_loop_is_not_played_back(capsys, pictures, tmp_path):
    code, _, err = ssi(capsys, "morph", *pictures, "--loop", "--back", "--out", tmp_path / "out")
    assert code == 2 and "--loop, --back: contradict each other" in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "other", "said"),
    [
        ("demo", "demo-flow", "holds no flow's noise, and this is a flow model; use --model demo"),
        ("demo-flow", "demo", "holds a flow's noise, and this is no flow model; use --model demo-flow"),
    ],
)
@pytest.mark.parametrize("command", ["reconstruct", "morph"])
def test_noise_of_another_kind_of_model(capsys, pictures, tmp_path, command, model, other, said):
    made_with, path = demo_denoiser(name=model), tmp_path / "a.ssi.safetensors"
    Inversion(
        torch.zeros(1, 3, 32, 32), torch.tensor([1.0, 0.0]), 0, made_with.process, "euler", 0.1, (0,),
        provenance={"model": made_with.signature},
    ).save(path)  # fmt: skip
    images = [path] if command == "reconstruct" else [pictures[0], path]
    code, _, err = ssi(capsys, command, *images, "--model", other, "--out", tmp_path / "out")
    assert code == 2 and f"artefact {path}: {said}" in err
