"""`ssi models`, `describe`, `convert`, and the main job on a checkpoint of each family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ssi_core import Inversion, save_image
from ssi_core.cli import main
from ssi_core.models.recognise import published

DATA = Path(__file__).parent / "data" / "models"
ADM = ["--set", "num_head_channels=16", "--set", "use_new_attention_order=False", "--set", "noise_schedule=linear",
       "--set", "image_size=16"]  # fmt: skip
EDM = ["--set", "class_name=EDMPrecond"]


def ssi(capsys, *arguments):
    """(exit code, stdout, stderr) of a command, with the terminal's line breaks taken out."""
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return stopped.value.code or 0, " ".join(out.split()), " ".join(err.split())


@pytest.fixture
def picture(tmp_path):
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / "photo.png"
    save_image(torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4, generator=generator) * 2 - 1, 40), path)
    return path


@pytest.mark.parametrize(
    ("file", "told", "label"),
    [
        ("adm_uncond256like.safetensors", ADM, []),
        ("cm_bedroom256like.safetensors",
         ["--set", "num_head_channels=16", "--set", "distillation=False", "--set", "image_size=16"], []),
        ("nv_ncsnpp_cond.pkl", [], ["--label", "3"]),
        ("nv_dhariwal_cond.safetensors", EDM, []),
    ],
)  # fmt: skip
def test_invert_and_reconstruct_with_a_converted_checkpoint(capsys, picture, tmp_path, file, told, label):
    converted = tmp_path / "converted.safetensors"
    code, said, _ = ssi(capsys, "convert", DATA / file, converted, *told)
    assert code == 0 and "written to" in said
    out = tmp_path / "results"
    run = ["--model", converted, "--device", "cpu", "--out", out, *label]
    code, said, err = ssi(capsys, "invert", picture, "--steps", "8", "--skip", "0.2", *run)
    assert code == 0, err
    assert "verdict" in said
    inversion = Inversion.load(out / "photo.ssi.safetensors")
    assert inversion.noise.shape == (1, 3, 16, 16) and inversion.process.name == (
        "discrete-vp" if "adm" in file else "ve"
    )
    code, said, err = ssi(capsys, "reconstruct", out / "photo.ssi.safetensors", "--original", picture, *run)
    assert code == 0, err
    assert "PSNR" in said and "not the same picture" not in err


def test_the_same_weights_in_another_container_are_the_same_model(capsys, picture, tmp_path):
    out = tmp_path / "results"
    model = ["--model", DATA / "nv_ncsnpp_cond.pkl", "--device", "cpu", "--out", out]
    ssi(capsys, "invert", picture, "--steps", "6", "--skip", "0.2", *model)
    noise = out / "photo.ssi.safetensors"
    code, _, err = ssi(capsys, "reconstruct", noise, "--model", DATA / "nv_ncsnpp_cond.safetensors", *EDM, "--out", out)
    assert code == 0 and "it will not give the same picture" not in err
    code, _, err = ssi(capsys, "reconstruct", noise, "--model", DATA / "nv_ddpmpp.safetensors", *EDM, "--out", out)
    assert "it will not give the same picture" in err


def test_a_preset_is_the_papers_setting(capsys, picture, tmp_path):
    out = tmp_path / "results"
    run = ["--model", DATA / "nv_ddpmpp.safetensors", *EDM, "--device", "cpu", "--out", out]
    code, _, err = ssi(capsys, "invert", picture, "--preset", "bedroom-edm-ssi", *run)
    assert code == 0, err
    inversion = Inversion.load(out / "photo.ssi.safetensors")
    assert (inversion.skip, inversion.solver, inversion.nfe) == (0.1, "euler", 157)  # of 200 steps, 43 are skipped
    assert "the paper's for edm_bedroom256_ema; this is nv_ddpmpp" in err
    for option, value in (("--steps", 20), ("--skip", 0.07), ("--solver", "euler"), ("--schedule", "karras")):
        code, _, err = ssi(capsys, "invert", picture, "--preset", "bedroom-edm-ssi", option, value, *run)
        assert code == 2 and f"says by itself what {option} says" in err
    code, _, err = ssi(capsys, "invert", picture, "--preset", "bedroom-ddim-ssi", *run)
    assert code == 2 and "1000 discrete levels" in err
    code, _, err = ssi(capsys, "invert", picture, "--preset", "kitchen", *run)
    assert code == 2 and "bedroom-ddim-ssi" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", DATA / "adm_uncond256like.safetensors"], "as in --set num_head_channels=... --set use_new_"),
        (["--model", DATA / "nv_ddpmpp.safetensors"], "as in --set class_name=..."),
        (["--model", DATA / "adm_uncond256like.safetensors", *ADM[:6]], "does not tell its image size"),
        (["--model", DATA / "nv_ncsnpp_cond.pkl", "--label", "10"], "has 10 classes (counted from 0)"),
        (["--model", DATA / "nv_ddpmpp.safetensors", *EDM, "--label", "0"], "has no classes"),
        (["--model", "nowhere.pt"], "nor a file"),
        (["--model", "demo", "--label", "1"], "no classes"),
        (["--model", DATA / "nv_ddpmpp.safetensors", "--set", "x"], "give name=value"),
        (["--model", DATA / "nv_ddpmpp.safetensors", "--set", "device=cpu"], "give name=value"),
    ],
)
def test_a_model_that_cannot_be_used_is_one_line_on_stderr(capsys, picture, tmp_path, arguments, message):
    code, _, err = ssi(capsys, "invert", picture, "--out", tmp_path / "none", "--device", "cpu", *arguments)
    assert code == 2 and message in err and "Traceback" not in err
    assert not (tmp_path / "none").exists()


def test_describe_tells_what_is_known_from_where(capsys):
    code, said, err = ssi(capsys, "describe", DATA / "adm_uncond256like.safetensors")
    assert code == 0
    assert f"guided-diffusion, safetensors, {len(load_file(DATA / 'adm_uncond256like.safetensors'))} tensors" in said
    assert "num_res_blocks" in said and "tensors" in said
    assert "num_head_channels: one of 8, 16, 32" in err and '"cosine"' in err
    code, _, err = ssi(capsys, "describe", Path(__file__).parent / "data" / "malicious" / "evil.pkl")
    assert code == 2 and "posix.system" in err


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("adm_uncond256like", ["num_heads=7"], "7: does not divide"),
        ("adm_uncond256like", ["num_heads=2", "noise_schedule=sigmoid", "use_new_attention_order=no"], "sigmoid"),
        ("nv_ddpmpp", ["class_name=Precond"], "class_name 'Precond': unknown"),
    ],
)
def test_describe_checks_what_it_is_told_as_loading_does(capsys, file, settings, message):
    told = [part for setting in settings for part in ("--set", setting)]
    code, _, err = ssi(capsys, "describe", DATA / f"{file}.safetensors", *told)
    assert code == 2 and message in err


def test_describe_says_what_only_the_denoiser_lacks_and_what_is_assumed(capsys):
    code, _, err = ssi(capsys, "describe", DATA / "nv_ddpmpp.safetensors")
    assert code == 0 and "not told: class_name: EDMPrecond" in err and "--set class_name=..." in err
    code, said, err = ssi(capsys, "describe", DATA / "nv_ddpmpp.safetensors", "--set", "img_channels=3")
    assert code == 0 and "assumed: the original's default" in said and not err


def test_questions_are_asked_before_weights_are_read(capsys, picture, tmp_path, monkeypatch):
    monkeypatch.setattr("ssi_core.cli.options.load_checkpoint", lambda *_, **__: pytest.fail("weights were read"))
    for file, told, message in (
        ("cm_bedroom256like", ["num_head_channels=16"], "distillation: False"),
        ("cm_bedroom256like", ["num_head_channels=16", "distillation=False"], "--set image_size=256"),
        (
            "cm_imagenet64like",
            ["num_head_channels=16", "distillation=False", "image_size=16"],
            "choose one with --label",
        ),
    ):
        settings = [part for setting in told for part in ("--set", setting)]
        code, _, err = ssi(capsys, "invert", picture, "--model", DATA / f"{file}.safetensors", *settings)
        assert code == 2 and message in err and "load_checkpoint" not in err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["invert", "PICTURE", "--preset", "kitchen"], "preset 'kitchen': unknown"),
        (["invert", "PICTURE", "--schedule", "straight"], "schedule 'straight': unknown"),
        (["invert", "PICTURE", "--solver", "magic"], "magic"),
        (["invert", "nowhere.png"], "nowhere.png"),
        (["morph", "PICTURE", "nowhere.png"], "nowhere.png"),
        (["morph", "PICTURE", "PICTURE", "--solver", "magic"], "magic"),
        (["reconstruct", "nowhere.ssi.safetensors"], "no such file"),
        (["invert", "PICTURE", "--dtype", "int8"], "dtype 'int8': unknown"),
    ],
)
def test_mistakes_that_need_no_weights_are_found_before_they_are_read(capsys, picture, monkeypatch, command, message):
    monkeypatch.setattr("ssi_core.cli.options.load_checkpoint", lambda *_, **__: pytest.fail("weights were read"))
    words = [str(picture) if word == "PICTURE" else word for word in command]
    code, _, err = ssi(capsys, *words, "--model", DATA / "nv_ddpmpp.safetensors", *EDM)
    assert code == 2 and message in err


def test_a_checkpoint_computes_in_the_dtype_that_is_asked_for(capsys, picture, tmp_path):
    run = ["--model", DATA / "nv_ddpmpp.safetensors", *EDM, "--device", "cpu", "--steps", 6, "--skip", 0.2]
    noises = []
    for dtype in ("float32", "bf16"):
        code, _, err = ssi(capsys, "invert", picture, *run, "--out", tmp_path / dtype, "--dtype", dtype)
        assert code == 0, err
        noises.append(Inversion.load(tmp_path / dtype / "photo.ssi.safetensors").noise)
    assert 0 < float((noises[0] - noises[1]).std()) < 0.2
    code, _, err = ssi(capsys, "invert", picture, "--dtype", "bf16", "--out", tmp_path)
    assert code == 2 and "computes in float32" in err


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory.\nmore"), MemoryError()])
def test_a_model_that_cannot_be_run_is_one_line_too(capsys, picture, tmp_path, monkeypatch, error):
    def full(*_, **__):
        raise error

    monkeypatch.setattr("ssi_core.cli.options.load_checkpoint", full)
    code, _, err = ssi(
        capsys, "invert", picture, "--model", DATA / "nv_ddpmpp.safetensors", *EDM, "--out", tmp_path / "none"
    )
    assert code == 3 and "could not be run" in err and "more" not in err


def test_converting_without_an_image_size_says_so(capsys, tmp_path):
    code, _, err = ssi(capsys, "convert", DATA / "adm_uncond256like.safetensors", tmp_path / "m.safetensors", *ADM[:6])
    assert code == 0 and "convert with --set image_size=..." in err


def test_the_list_of_models_is_whole_on_80_columns(capsys, tmp_path):
    (tmp_path / "lsun_bedroom.safetensors").write_bytes((DATA / "nv_ddpmpp.safetensors").read_bytes())
    with pytest.raises(SystemExit):
        main(["models", str(tmp_path)])
    out, _ = capsys.readouterr()
    assert all(name in out for name in published()) and "…" not in out


def test_models_lists_addresses_and_what_is_there(capsys, tmp_path):
    code, said, _ = ssi(capsys, "models")
    assert code == 0 and "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/lsun_bedroom.pt" in said
    code, _, err = ssi(capsys, "models", tmp_path / "nowhere")
    assert code == 2 and "no such folder" in err


@pytest.mark.parametrize("dtype", ["bfloat16", "bf16", "float16", "fp16", "half"])
def test_convert_halves_a_file(capsys, tmp_path, dtype):
    out = tmp_path / "half.safetensors"
    code, _, _ = ssi(capsys, "convert", DATA / "nv_ncsnpp_cond.pkl", out, "--dtype", dtype)
    assert code == 0
    assert out.stat().st_size < 0.75 * (DATA / "nv_ncsnpp_cond.pkl").stat().st_size
    kind = "bfloat16" if dtype.startswith("b") else "float16"
    assert kind in ssi(capsys, "describe", out)[1]


def test_unknown_dtypes_are_refused(capsys, tmp_path):
    out = tmp_path / "half.safetensors"
    code, _, err = ssi(capsys, "convert", DATA / "nv_ncsnpp_cond.pkl", out, "--dtype", "int8")
    assert code == 2 and "int8" in err and "bf16" in err and not out.exists()
