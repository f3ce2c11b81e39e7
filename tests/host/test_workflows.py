"""The workflows that come with the pack, queued on the real ComfyUI: the workflow is the test.

Those of the embedded model run and must give what `ssi_core` alone gives for the same job. Those of models that nobody
here has must be right in everything but the missing files.
"""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
import torch
from PIL import Image, ImageSequence

from ssi_core import (
    choose_skip,
    demo_denoiser,
    exponential_sigmas,
    gaussianity,
    invert,
    karras_sigmas,
    reconstruct,
    singularity_curve,
)
from ssi_core.blend import blend
from ssi_core.demo.photos import held_out_photos
from ssi_core.demo.scenes import HELD_OUT, draw_scenes
from ssi_core.errors import InputError
from ssi_core.frames import parse_weights, path_weights
from ssi_core.metrics import psnr
from ssi_core.morph import morph
from ssi_core.queue import JobError, run_workflow

PACK = "ComfyUI-SSI"  # without a space: with one, aiohttp 3.14 finds none of a pack's templates
ROOT = Path(__file__).parents[2] / "workflows"
DEMO = sorted(path.stem for path in (ROOT / "api").glob("demo_*.json"))
WITH_MODELS = sorted(path.stem for path in (ROOT / "api").glob("*.json") if path.stem not in DEMO)
FOLDERS = {
    "ckpt_name": "checkpoints", "unet_name": "diffusion_models", "clip_name1": "text_encoders",
    "clip_name2": "text_encoders", "vae_name": "vae", "checkpoint": "pixel_diffusion",
}  # fmt: skip
README = ROOT.parent / "README.md"
ENLARGED = 8
GREY = 1
"""Levels of 255 by which the host's picture may differ from the engine's: torch and the number of threads differ."""


@pytest.fixture(scope="module", autouse=True)
def picture(base_directory):
    """The picture that every ComfyUI has in its input folder, and a base directory of our own has not."""
    (base_directory / "input").mkdir(exist_ok=True)
    Image.linear_gradient("L").convert("RGB").save(base_directory / "input" / "example.png")


def api(name):
    return json.loads((ROOT / "api" / f"{name}.json").read_text())


def note(name):
    (found,) = [n for n in json.loads((ROOT / f"{name}.json").read_text())["nodes"] if n["type"] == "MarkdownNote"]
    return found["widgets_values"][0]


def run(server, name, out, **settings):
    graph = api(name)
    for node in [n for n, entry in graph.items() if entry["class_type"] == "SSIGaussianityInspector"]:
        verdict = {"title": f"verdict of {graph[node]['_meta']['title']}"}
        graph[f"v{node}"] = {"class_type": "PreviewAny", "inputs": {"source": [node, 2]}, "_meta": verdict}
    settings = {key.replace("__", "."): value for key, value in settings.items()}
    result = run_workflow(graph, server.url, settings=settings, out=out)
    texts = {output.title: output.text for output in result.outputs if output.text is not None}
    files = {}
    for output in result.outputs:
        if output.text is None:
            files.setdefault(output.title, []).append(output.path)
    return texts, files


def scenes(index, count=1):
    return draw_scenes(range(HELD_OUT + index, HELD_OUT + index + count))


def engine(x0, seed, skip=0.1, solver="dpmpp-2m", steps=20):
    denoise = demo_denoiser()
    sigmas = karras_sigmas(steps, sigma_min=denoise.sigma_min, sigma_max=denoise.sigma_max)
    return denoise, invert(denoise, x0, sigmas, skip=skip, solver=solver, seed=seed)


def levels(images):
    """[-1, 1] as the host writes it into a file: cut off, not rounded."""
    return (((images + 1) / 2).clamp(0, 1) * 255).floor().byte()


def small(picture):
    """A picture of 256x256 as [3, 32, 32] again; every pixel must have become a square of one colour."""
    pixels = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    pixels = pixels.reshape(picture.height, picture.width, 3).movedim(-1, 0)
    found = pixels[:, ::ENLARGED, ::ENLARGED]
    assert torch.equal(pixels, found.repeat_interleave(ENLARGED, 1).repeat_interleave(ENLARGED, 2))
    return found


def assert_same_pictures(pictures, wanted):
    found = torch.stack([small(picture) for picture in pictures])
    assert found.shape == wanted.shape
    apart = (found.int() - levels(wanted).int()).abs()
    print(f"grey levels apart: at most {int(apart.max())}, in {float((apart > 0).float().mean()):.1%} of the values")
    assert int(apart.max()) <= GREY


def opened(paths):
    return [Image.open(path) for path in paths]


def figures(text, name):
    return [float(found) for found in re.findall(rf"{name} ([\d.]+)", text)]


@pytest.mark.parametrize(
    ("settings", "x0", "job"),
    [
        ({}, lambda: scenes(4), {"seed": 0}),
        (
            {"Picture.index": 7, "Picture.count": 3, "Invert.seed": 11, "Invert.steps": 12,
             "Invert.solver": "heun", "Solver.solver": "heun"},
            lambda: scenes(7, 3), {"seed": 11, "steps": 12, "solver": "heun"},
        ),
        ({"Picture.kind": "photographs", "Picture.index": 1, "Picture.count": 2, "Invert.skip": 0.2},
         lambda: held_out_photos()[1:3], {"seed": 0, "skip": 0.2}),
    ],
    ids=["as it comes", "batch, heun, seed", "photographs, skip 0.2"],
)  # fmt: skip
def test_reconstruct(server, tmp_path, settings, x0, job):
    wanted = x0()
    denoise, found = engine(wanted, **job)
    back = reconstruct(denoise, found.noise, found.sigmas, solver=job.get("solver", "dpmpp-2m"))
    texts, files = run(server, "demo_reconstruct", tmp_path, **settings)
    assert_same_pictures(opened(files["Reconstruction"]), back)
    assert_same_pictures(opened(files["Original"]), wanted)
    # Of the very image, where the engine's is not cut off at black and white yet: a little better.
    for ours, alone in zip(figures(texts["How near is it?"], "PSNR"), psnr(back, wanted), strict=True):
        print(f"PSNR {ours:.2f}, engine alone {float(alone):.2f}")
        assert ours >= float(alone) - 0.05
    verdict = gaussianity(found.noise, wanted).verdict
    assert texts["verdict of Inspector"] == str(verdict)
    assert texts["Is it Gaussian?"].startswith("Gaussian" if verdict else "not Gaussian")
    assert len(files["Inspector"]) == len(wanted)


def photograph(path, size):
    """A picture of `size` with a held-out photograph in its middle, each pixel of it 2x2; -> [1, 3, 32, 32]."""
    wanted = held_out_photos()[1:2]
    image = Image.new("RGB", size, (255, 0, 255))
    pixels = levels(wanted)[0].movedim(0, -1).contiguous().numpy()
    inner = Image.fromarray(pixels).resize((64, 64), Image.NEAREST)
    image.paste(inner, ((size[0] - 64) // 2, (size[1] - 64) // 2))
    image.save(path)
    return levels(wanted).float() / 127.5 - 1


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (64, 130)], ids=["square", "wide", "tall"])
def test_a_picture_of_one_s_own(server, tmp_path, size):
    wanted = photograph(tmp_path / "mine.png", size)
    texts, files = run(server, "demo_own_picture", tmp_path / "out", Picture__image=str(tmp_path / "mine.png"))
    denoise, found = engine(wanted, 0, steps=40)
    assert_same_pictures(opened(files["Original"]), wanted)
    assert_same_pictures(opened(files["Reconstruction"]), reconstruct(denoise, found.noise, found.sigmas))
    assert texts["Is it Gaussian?"].startswith("Gaussian")


def test_the_picture_that_comfyui_ships(server, host, base_directory, tmp_path):
    """As it comes: nothing to be downloaded, nothing to be chosen; and the note inside says what the inspector will."""
    shipped = host.root / "input" / "example.png"
    assert shipped.is_file()
    texts, files = run(server, "demo_own_picture", tmp_path, Picture__image=str(shipped))
    assert api("demo_own_picture")["2"]["inputs"]["image"] == shipped.name
    assert figures(texts["How near is it?"], "PSNR")[0] > 24
    assert texts["verdict of Inspector"] == "False"
    assert "example.png comes back, but its noise is not Gaussian" in note("demo_own_picture")
    assert len(files["Reconstruction"]) == 1


def loop(text):
    """The loop over a folder that we tell people to write."""
    return re.search(r"^for f in .*?^done$", text, re.S | re.M).group(0)


def test_the_note_tells_the_same_loop_as_the_readme():
    told = " ".join(loop(note("demo_own_picture")).replace("\\\n", " ").split())
    assert told == " ".join(loop(README.read_text()).replace(' || echo "$f failed" >&2', "").split())


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="the loop is one for bash")
def test_the_loop_over_a_folder_as_it_is_written(server, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "workflows").symlink_to(ROOT)
    for name, size in (("a.jpg", (64, 64)), ("two words 'é'.jpg", (120, 70))):
        photograph(tmp_path / "photos" / name, size)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    command = tmp_path / "bin" / "ssi"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ssi_core "$@"\n')
    command.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT.parent), "COMFYUI_SERVER": server.url,
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", loop(README.read_text())], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    made = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("own_*.png"))
    assert [Path(path).parts[0] for path in made] == ["a.jpg", "two words 'é'.jpg"], (made, done.stderr)
    for path in made:
        small(Image.open(tmp_path / "out" / path))
    assert len(list((tmp_path / "out").glob("*/Is it Gaussian*.txt"))) == 2
    assert "'Picture' failed" in done.stderr
    assert "photos/broken.jpg failed\n" in done.stderr
    assert "Traceback" not in done.stderr


def test_base_against_ssi(server, tmp_path):
    texts, files = run(server, "demo_base_vs_ssi", tmp_path)
    assert (texts["verdict of Base: inspector"], texts["verdict of SSI: inspector"]) == ("False", "True")
    assert "the noise has collapsed" in texts["Base: is it Gaussian?"]
    wanted = scenes(12)
    for who, skip in (("Base", 0.0), ("SSI", 0.1)):
        denoise, found = engine(wanted, 0, skip)
        back = reconstruct(denoise, found.noise, found.sigmas)
        assert_same_pictures(opened(files[f"{who}: reconstruction"]), back)
        assert figures(texts[f"{who}: how near is it?"], "PSNR")[0] >= float(psnr(back, wanted)) - 0.05
        said = figures(texts[f"{who}: how near is it?"], "standard deviation")[0]
        assert said == pytest.approx(float(found.noise.std()), abs=1e-3)


def test_morph(server, tmp_path):
    texts, files = run(server, "demo_morph", tmp_path)
    denoise, first = engine(scenes(2), 1)
    _, second = engine(scenes(4), 2)
    noise = blend([first.noise, second.noise], path_weights(2, 24, "ease", True), "slerp")
    (path,) = files["Animation"]
    with Image.open(path) as animation:
        assert (animation.format, animation.n_frames, animation.info["loop"]) == ("WEBP", 24, 0)
        frames = [frame.copy() for frame in ImageSequence.Iterator(animation)]
        assert animation.info["duration"] == int(1000 / 12)
    assert_same_pictures(frames, reconstruct(denoise, noise, first.sigmas))
    assert "Warning" not in texts["Norms and angles"]


def test_morph_at_an_even_pace(server, tmp_path):
    texts, files = run(server, "demo_morph_even", tmp_path)
    wanted = scenes(2, 3)
    denoise, found = engine(wanted, 0)
    keys = [found.sample(i) for i in range(3)]
    alone = morph(denoise, keys, 24, originals=list(wanted.split(1)), loop=True, batch=12)
    (path,) = files["Animation"]
    with Image.open(path) as animation:
        assert (animation.format, animation.n_frames, animation.info["loop"]) == ("WEBP", 24, 0)
        frames = [frame.copy() for frame in ImageSequence.Iterator(animation)]
    assert_same_pictures(frames, alone.frames)
    told = texts["How even is it?"]
    at = [int(frame) - 1 for frame in re.findall(r"keyframe \d: frame (\d+)", told)]
    assert_same_pictures([frames[k] for k in at], wanted)
    seen = torch.stack([small(frame) for frame in [*frames, frames[0]]]).double()
    steps = seen.diff(dim=0).flatten(1).square().mean(1).sqrt()
    assert float(steps.max() / steps.median()) < 1.5
    assert f"{alone.nfe} evaluations" in told and f"largest step {alone.evenness:.2f} times" in told
    assert "Warning" not in told


def test_blend_of_three(server, tmp_path):
    texts, files = run(server, "demo_blend_three", tmp_path)
    found = [engine(scenes(index), seed) for seed, index in ((1, 2), (2, 4), (3, 13))]
    weights = api("demo_blend_three")
    weights = next(e["inputs"]["weights"] for e in weights.values() if e["class_type"] == "SSINoiseBlend")
    noise = blend([inversion.noise for _, inversion in found], parse_weights(weights, 3), "gram")
    assert len(noise) == len(files["Blends"]) == 6
    assert_same_pictures(opened(files["Blends"]), reconstruct(found[0][0], noise, found[0][1].sigmas))
    assert "Warning" not in texts["Norms and angles"]


def test_class_edit(server, tmp_path):
    """Every picture of the batch as a class of its own; and with the class they have, the pictures again."""
    texts, files = run(server, "demo_class_edit", tmp_path / "edit")
    wanted, model = scenes(4, 3), demo_denoiser(name="demo-classes")
    sigmas = karras_sigmas(20, sigma_min=model.sigma_min, sigma_max=model.sigma_max)
    found = invert(model.conditioned(0), wanted, sigmas, skip=0.1)
    edited = reconstruct(model.conditioned([1, 2, 3]), found.noise, found.sigmas)
    assert_same_pictures(opened(files["Edited"]), edited)
    assert_same_pictures(opened(files["Original"]), wanted)
    truth = torch.cat([draw_scenes([HELD_OUT + 4 + i], labels=1 + i) for i in range(3)])
    assert (psnr(edited, truth) > psnr(wanted, truth) + 3).all()
    assert texts["Is it Gaussian?"].startswith("Gaussian: 3 of 3 pass")
    _, files = run(server, "demo_class_edit", tmp_path / "same", **{"What it shall show.label": "0"})
    back = reconstruct(model.conditioned(0), found.noise, found.sigmas)
    assert_same_pictures(opened(files["Edited"]), back)
    assert (psnr(back, wanted) > 30).all()


def test_singularity(server, tmp_path):
    texts, files = run(server, "demo_singularity", tmp_path)
    denoise, wanted = demo_denoiser(), scenes(12)
    sigmas = exponential_sigmas(32, sigma_min=denoise.sigma_min, sigma_max=denoise.sigma_max)
    found = singularity_curve(denoise, wanted, sigmas, seed=0)
    told = list(csv.DictReader(texts["The curves as CSV"].splitlines()))
    assert len(told) == 32
    for row, ours in zip(told, found.rows(), strict=True):
        assert {name: float(value) for name, value in row.items()} == pytest.approx(ours, rel=1e-3, abs=1e-4)
    assert texts["Where does it stop?"] == f"image 1: {found.reasons[0]}"
    assert len(files["Curve"]) == 1
    # The inversion begins there, and that is enough.
    _, inversion = engine(wanted, 0, skip=float(found.stops[0]))
    verdict = gaussianity(inversion.noise, wanted).verdict
    assert texts["verdict of Is its noise Gaussian?"] == str(verdict) == "True"


def test_auto_skip(server, tmp_path):
    texts, files = run(server, "demo_auto_skip", tmp_path)
    denoise, wanted = demo_denoiser(), held_out_photos()[1:2]
    choice = choose_skip(denoise, wanted, [denoise.sigma_max, 0.0], seed=0)
    told = texts["What is foretold?"].splitlines()
    assert told[0] == choice.reason and told[1].startswith(f"sigma {choice.skip:.4g} = ")
    # What came of it is what the engine alone comes to, and near what was foretold.
    _, inversion = engine(wanted, 0, skip=choice.skip)
    back = psnr(reconstruct(denoise, inversion.noise, inversion.sigmas), wanted)
    (found,) = figures(texts["How near is it?"], "PSNR")
    assert found == pytest.approx(float(back), abs=0.05)
    assert figures(told[3], "image 1:")[0] == pytest.approx(found, abs=1.0)
    verdict = gaussianity(inversion.noise, wanted).verdict
    assert texts["verdict of Is its noise Gaussian?"] == str(verdict) == "True"
    assert len(files["Auto Skip"]) == 1


def needed(name):
    """(file, folder, node's title) of every model file that a workflow names."""
    graph = api(name)
    return [
        (value, FOLDERS[key], entry["_meta"]["title"])
        for entry in graph.values()
        for key, value in entry["inputs"].items()
        if isinstance(value, str) and value.endswith((".safetensors", ".pt"))
    ]


@pytest.mark.parametrize("name", WITH_MODELS)
def test_only_the_model_is_missing(server, base_directory, name):
    wanted = needed(name)
    assert wanted
    with pytest.raises(InputError) as caught:
        run_workflow(api(name), server.url)
    lines = str(caught.value).splitlines()
    for file, _, title in wanted:
        assert any(file in line and f"'{title}'" in line for line in lines), lines
    assert all(any(file in line for file, _, _ in wanted) for line in lines), lines
    # With files of those names, empty ones, nothing is left to be said before the model is read.
    made = [base_directory / "models" / folder / file for file, folder, _ in wanted]
    try:
        for path in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        with pytest.raises(JobError) as failed:
            run_workflow(api(name), server.url)
        assert any(f"'{title}' failed" in str(failed.value) for _, _, title in wanted), str(failed.value)
    finally:
        for path in made:
            path.unlink()


def test_the_editor_s_templates(server, base_directory):
    pack = next((base_directory / "custom_nodes").iterdir()).name
    names = sorted(path.stem for path in ROOT.glob("*.json"))
    assert names == sorted([*DEMO, *WITH_MODELS])
    assert sorted(json.loads(server.get("/api/workflow_templates"))[pack]) == names
    for name in names:
        assert server.get(f"/api/workflow_templates/{quote(pack)}/{name}.json") == (ROOT / f"{name}.json").read_bytes()
        thumbnail = server.get(f"/api/workflow_templates/{quote(pack)}/{name}.jpg")
        assert thumbnail[:3] == b"\xff\xd8\xff" and len(thumbnail) <= 60_000
        with Image.open(ROOT / f"{name}.jpg") as image:
            assert 400 <= image.width <= 560


@pytest.mark.parametrize("name", [*DEMO, *WITH_MODELS])
def test_titles_are_good_names_for_set(name):
    titles = [entry["_meta"]["title"].casefold() for entry in api(name).values()]
    assert len(set(titles)) == len(titles)
    assert not any("=" in title or "." in title for title in titles)
