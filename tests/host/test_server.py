"""A server with the pack: what it says of bad values, how it takes interruption, and whether it lasts."""

import io
import json
import re
import struct
import threading
import time
import uuid
from pathlib import Path
from urllib.parse import urlencode

import pytest
import websocket
from PIL import Image

from ssi_core.errors import InputError
from ssi_core.queue import JobError, run_workflow
from ssi_core.queue.server import Server

ROOT = Path(__file__).parents[2]
OPTIONS = ["--preview-method", "auto"]
RECONSTRUCT = ROOT / "workflows" / "api" / "demo_reconstruct.json"
CLASSES = ROOT / "tests" / "data" / "models" / "nv_ncsnpp_cond.pkl"  # random weights; a network with classes


def node(kind, title=None, /, **inputs):
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": title or kind}}


def graph(**changes):
    """The reconstruct workflow without what only shows; `Title__input=value` changes one input."""
    full = json.loads(RECONSTRUCT.read_text())
    kept = ["Model", "Picture", "To latent", "Invert", "No class", "Guider", "Solver", "Sample", "To image"]
    ids = {entry["_meta"]["title"]: key for key, entry in full.items()}
    small = {ids[title]: full[ids[title]] for title in kept}
    small["save"] = node("SaveImage", "Keep", images=[ids["To image"], 0], filename_prefix="server/kept")
    ids["Keep"] = "save"
    for name, value in ({"Invert__seed": uuid.uuid4().int % 2**40, "Invert__steps": 6} | changes).items():
        title, _, key = name.partition("__")
        small[ids[title]]["inputs"][key] = value
    return small | {"ids": ids}


def queue(server, made, **options):
    made = dict(made)
    made.pop("ids", None)
    return run_workflow(made, server.url, **options)


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


@pytest.fixture
def next_job(server, tmp_path):
    """Whatever the test did to the server: the next job must run."""
    yield
    assert queue(server, graph(), out=tmp_path / "next").files


def wired(changes, **more):
    """A graph with further nodes, of which inputs of the others are made."""
    made = graph()
    ids = made["ids"]
    for title, entry in more.items():
        made[title] = entry
    for name, value in changes.items():
        title, _, key = name.partition("__")
        made[ids[title]]["inputs"][key] = value
    return made


def bad():
    ids = graph()["ids"]
    latent, model = [ids["To latent"], 0], [ids["Model"], 0]
    picture = [ids["Picture"], 0]

    def levels(*values):
        return node("ManualSigmas", sigmas=", ".join(map(str, values)))

    return {
        "skip below 0": (
            graph(Invert__skip=-1.0), InputError, "node .*'Invert', input skip: -1.0 is below its smallest"),
        "skip under the model's": (
            graph(Invert__skip=1e-4), JobError, "'Invert' failed: skip: sigma 0.0001 lies under"),
        "skip over the model's": (graph(Invert__skip=90.0), JobError, "'Invert' failed: skip: sigma 90 is not below"),
        "cfg without a negative": (
            graph(Invert__cfg=3.0), JobError, "'Invert' failed: cfg 3: needs a negative conditioning"),
        "another number of channels": (
            wired({"Invert__latent": ["x", 0]}, x=node("EmptyLatentImage", width=256, height=256, batch_size=1)),
            JobError, "'Invert' failed: latent: has 4 channels, this model takes 3"),
        "an empty latent": (
            wired({"Invert__latent": ["x", 0]},
                  x=node("SSIEmptyPixelLatent", width=0, height=0, batch_size=1, model=model)),
            JobError, "'Invert' failed: latent: is empty"),
        "a size that the model cannot take": (
            wired({"To latent__pixels": ["x", 0]},
                  x=node("ImageScale", image=picture, upscale_method="area", width=40, height=27, crop="disabled")),
            JobError, "'Invert' failed: latent: 40x27 pixels, where demo32 takes 32x32 only"),
        "a noise file that is not there": (
            wired({"Sample__noise": ["x", 0]}, x=node("SSINoiseLoad", "Kept", file="[output] gone.ssi.safetensors")),
            InputError, "'Kept', input file: file '.*gone.ssi.safetensors': is not in the output or input folder"),
        "a class of a model that has none": (
            graph(**{"No class__label": "3"}), JobError, "(conditioning|positive): demo32 knows no classes"),
        "a class that the model has not": (
            graph(**{"No class__label": "99", "No class__model": model, "Model__checkpoint": CLASSES.name}),
            JobError, r"'No class' failed: label: class 99, where .* has the classes 0 to \d"),
        "a class that is a word": (graph(**{"No class__label": "dog"}), InputError, "label: 'dog' is no class number"),
        "a checkpoint that is not there": (
            graph(Model__checkpoint="lsun_bedroom.pt"), InputError,
            r"no file lsun_bedroom.pt. Download it from https://\S+/lsun_bedroom.pt and put it into \S+/pixel_dif"),
        "a stochastic solver": (
            graph(Invert__solver="euler_ancestral"), InputError, "'Invert', input solver: .*adds fresh noise at every"),
        "an unknown solver": (graph(Solver__solver="best"), InputError, "'Solver', input solver: .*'best' is unknown"),
        "sigmas that repeat": (
            wired({"Invert__sigmas": ["x", 0]}, x=levels(80, 5, 5, 0.5, 0)), JobError,
            "'Invert' failed: sigmas: .*repeats"),
        "sigmas of another model": (
            wired({"Invert__sigmas": ["x", 0]}, x=levels(900, 5, 0.5, 0)), JobError,
            "'Invert' failed: sigmas: reach 900, where this model's levels run from"),
        "sigmas that go up and down": (
            wired({"Invert__sigmas": ["x", 0]}, x=levels(80, 5, 9, 0.5, 0)), JobError,
            "'Invert' failed: sigmas: .*rises"),
        "sigmas that rise from 0": (
            wired({"Sample__sigmas": ["x", 0], "Sample__latent_image": latent}, x=levels(0, 0.5, 5, 80)),
            JobError, "'Sample' failed: sigmas: solver 'dpmpp-2m' cannot start at 0"),
        "sigmas that repeat, on core's own node": (
            wired({"Sample__sigmas": ["x", 0]}, x=levels(80, 5, 5, 0)), JobError,
            "'Sample' failed: sigmas: two or more levels, all rising or all falling"),
        "a noise of another size": (
            wired({"Sample__latent_image": ["x", 0]},
                  x=node("SSIEmptyPixelLatent", width=64, height=64, batch_size=1)),
            JobError, "'Sample' failed: noise: is of shape 1x3x32x32, the latent of 1x3x64x64"),
    }  # fmt: skip


@pytest.mark.parametrize("case", bad())
def test_bad_values_are_said_in_words(server, base_directory, next_job, case):
    folder = base_directory / "models" / "pixel_diffusion"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / CLASSES.name).exists():
        (folder / CLASSES.name).symlink_to(CLASSES)
    made, kind, words = bad()[case]
    with pytest.raises(kind, match=words) as caught:
        queue(server, made)
    print(caught.value)
    assert type(caught.value) is kind
    assert "Traceback" not in str(caught.value)


def test_interrupted_in_mid_inversion(server, next_job):
    """Seen at work first, and stopped between two evaluations, long before it would have ended."""
    seen, error = [], []

    def job():
        try:
            queue(server, graph(Invert__steps=3000, Invert__solver="heun", Picture__count=4), progress=seen.append)
        except BaseException as caught:
            error.append(caught)

    def steps():
        return [r for now in seen[-1:] for r in now.running if r.title == "Invert" and r.step > 5]

    thread = threading.Thread(target=job, daemon=True)
    thread.start()
    until(lambda: seen and steps())
    (now,) = steps()
    assert 2000 < now.steps <= 3000 and now.step < now.steps / 2
    asked = time.monotonic()
    Server(server.url).ask("/interrupt", {})
    thread.join(30)
    assert isinstance(error[0], JobError) and "interrupted on the server, at node" in str(error[0])
    assert "'Invert'" in str(error[0])
    assert time.monotonic() - asked < 10


def test_two_jobs_queued(server, tmp_path):
    """Each gets its own pictures, though one waits for the other."""
    results = {}

    def job(index):
        made = graph(Picture__index=index, Keep__filename_prefix=f"server/two{index}", Invert__steps=20)
        results[index] = queue(server, made, out=tmp_path)

    threads = [threading.Thread(target=job, args=(index,), daemon=True) for index in (3, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for index in (3, 13):
        (file,) = results[index].files
        assert file.name.startswith(f"two{index}_")
        alone = queue(server, graph(Picture__index=index, Invert__steps=20, Invert__seed=0), out=tmp_path / str(index))
        with Image.open(file) as image, Image.open(alone.files[0]) as other:
            near = sum(abs(a - b) for a, b in zip(image.tobytes(), other.tobytes(), strict=True)) / (32 * 32 * 3)
        assert near < 6  # another seed, the same picture; two different ones are 40 and more apart


def resident(server):
    """MiB that the server holds."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) / 1024


WARM_UP, JOBS = 30, 100
GROWTH = 12
"""MiB that the jobs after the warm-up may add. A job's noise, states, latents and pictures are 2 MiB, the model 15, so
any of it kept by every job would be 70 MiB or more (half of that for the states alone); what the allocator and the
server's own history of jobs add was measured, over 270 jobs, at -1 to 5 for any 70 of them.
"""


def test_memory_does_not_grow(server):
    def job(seed):
        made = graph(Invert__seed=seed, Invert__steps=4, Invert__skip=0.5, Invert__keep_states=True, Picture__count=16)
        made["report"] = node("PreviewAny", source=[made["ids"]["Invert"], 3])
        assert queue(server, made).outputs

    held = []
    for seed in range(JOBS):
        job(10**9 + seed)
        held.append(resident(server))
    print(f"resident: {held[WARM_UP - 1]:.1f} MiB after {WARM_UP} jobs, {held[-1]:.1f} after {JOBS}")
    assert held[-1] - held[WARM_UP - 1] < GROWTH


def test_pictures_and_words_while_it_runs(server):
    """What the editor gets: previews and texts on the nodes by the websocket, pictures by /view."""
    client = uuid.uuid4().hex
    socket = websocket.create_connection(f"{server.url.replace('http', 'ws')}/ws?clientId={client}", timeout=60)
    socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
    made = graph(Invert__steps=20, Picture__count=8)
    ids = made.pop("ids")
    made["inspect"] = node("SSIGaussianityInspector", noise=[ids["Invert"], 0], source=[ids["To latent"], 0])
    job = Server(server.url).ask("/prompt", {"prompt": made, "client_id": client})["prompt_id"]
    texts, steps, previews = {}, set(), []
    while True:
        message = socket.recv()
        if isinstance(message, bytes):
            (kind,) = struct.unpack(">I", message[:4])
            if kind == 3:  # a text for a node
                (length,) = struct.unpack(">I", message[4:8])
                texts.setdefault(message[8 : 8 + length].decode(), message[8 + length :].decode())
            if kind == 4:  # a picture for a node
                (length,) = struct.unpack(">I", message[4:8])
                if json.loads(message[8 : 8 + length])["node_id"] == ids["Invert"]:
                    previews.append(message[8 + length :])
            continue
        event = json.loads(message)
        if event["type"] == "progress" and event["data"]["node"] == ids["Invert"]:
            steps.add(event["data"]["value"])
        if event["type"] in ("execution_success", "execution_error"):
            break
    socket.close()
    assert event["type"] == "execution_success", event
    assert len(steps) > 2 and max(steps) == 15, steps  # the server leaves out those that come too fast
    assert len(previews) > 2, "no live pictures of the inversion"
    for preview in previews:
        with Image.open(io.BytesIO(preview)) as image:
            low, high = image.convert("L").getextrema()
            assert image.width == image.height > 31 and high - low > 40
    words = texts[ids["Invert"]].replace("\n", " ")  # broken into lines as wide as a node
    assert words.startswith("dpmpp-2m, auto, 20 steps: 15 evaluations up to sigma 80, cfg 1 skip: sigma 0.1 =")
    assert re.match(r"(not )?Gaussian: \d of 8 pass", texts["inspect"])

    record = {}
    until(lambda: record.update(json.loads(server.get(f"/history/{job}")).get(job, {})) or record)
    for shown, size in (("inspect", (1000, 400)), ("save", (32, 32))):
        files = record["outputs"][shown]["images"]
        assert len(files) == 8
        with Image.open(io.BytesIO(server.get(f"/view?{urlencode(files[-1])}"))) as image:
            assert image.width >= size[0] and image.height >= size[1]
