"""`ssi_core.queue` on the real ComfyUI, with the core's own nodes."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
from PIL import Image

from ssi_core.errors import InputError
from ssi_core.queue import JobError, run_workflow
from ssi_core.queue.server import Events, Server

ROOT = Path(__file__).parents[2]


def node(kind, title=None, /, **inputs):
    return {"class_type": kind, "inputs": inputs} | ({"_meta": {"title": title}} if title else {})


def picture(**changed):
    """A picture of one colour, scaled and saved; another colour is another job to the server's cache."""
    size = {"width": 24, "height": 16, "batch_size": 1, "color": uuid.uuid4().int % 0xFFFFFF}
    return {
        "1": node("EmptyImage", "Colour", **size | changed),
        "2": node("ImageScale", image=["1", 0], upscale_method="nearest-exact", width=48, height=32, crop="disabled"),
        "3": node("SaveImage", "Keep", images=["2", 0], filename_prefix="queue/kept"),
    }


def slow(count=400):
    """Many nodes, between which the server looks whether it should stop: four seconds of them on an idle machine."""
    graph = picture(width=256, height=256)
    del graph["3"]
    for i in range(3, count + 3):
        graph[str(i)] = node("ImageBlur", f"Blur {i}", image=[str(i - 1), 0], blur_radius=7, sigma=2.0)
    graph["2"]["inputs"] |= {"width": 256, "height": 256}
    graph["end"] = node("SaveImage", images=[str(count + 2), 0], filename_prefix="slow")
    return graph


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def idle(server):
    queue = json.loads(server.get("/queue"))
    return not queue["queue_running"] and not queue["queue_pending"]


class Job(threading.Thread):
    """A workflow that runs beside the test; `stop` does to it what Ctrl-C does."""

    class Stopped(BaseException):
        pass

    def __init__(self, server, graph, **options):
        super().__init__(daemon=True)
        self.seen, self.result, self.error, self.stop = [], None, None, False
        self.run_it = lambda: run_workflow(graph, server.url, progress=self.watch, **options)

    def watch(self, now):
        self.seen.append(now)
        if self.stop:
            raise self.Stopped

    def run(self):
        try:
            self.result = self.run_it()
        except BaseException as error:
            self.error = error


def test_a_picture_comes_home(server, tmp_path):
    seen = []
    settings = {"colour.color": "255", "Colour.width": "30", "3.filename_prefix": "queue/blue"}
    result = run_workflow(picture(), server.url, settings=settings, out=tmp_path / "out", progress=seen.append)
    assert [path.name for path in result.files] == ["blue_00001_.png"]
    with Image.open(result.files[0]) as image:
        assert (image.size, image.getpixel((0, 0))) == ((48, 32), (0, 0, 255))
    assert seen[-1].nodes == 3
    again = run_workflow(picture(), server.url, settings=settings, out=tmp_path / "out")
    assert len({*result.files, *again.files}) == 2


def test_a_cached_job_gives_its_files_too(server, tmp_path):
    graph = picture()
    first, second = (run_workflow(graph, server.url, out=tmp_path) for _ in range(2))
    assert first.files[0].name == "kept_00001_.png"
    assert [path.name for path in second.files] == ["kept_00001_-2.png"]
    assert first.files[0].read_bytes() == second.files[0].read_bytes()


def test_progress_names_the_nodes_at_work(server):
    job = Job(server, slow(60))
    job.run()
    assert job.error is None
    titles = {running.title for now in job.seen for running in now.running}
    assert len(titles & {f"Blur {i}" for i in range(3, 63)}) > 10, titles
    assert (job.seen[-1].nodes, job.seen[-1].done >= 55) == (63, True)
    assert [now.done for now in job.seen] == sorted(now.done for now in job.seen)


def test_an_uploaded_picture(server, tmp_path):
    local = tmp_path / 'a "quoted" é.png'
    Image.new("RGB", (5, 7), (9, 8, 7)).save(local)
    graph = {
        "1": node("LoadImage", image="nothing.png"),
        "2": node("SaveImage", images=["1", 0], filename_prefix="up"),
    }
    for _ in range(2):
        result = run_workflow(graph, server.url, settings={"Load Image.image": str(local)}, out=tmp_path / "out")
        with Image.open(result.files[0]) as image:
            assert (image.size, image.getpixel((0, 0))) == ((5, 7), (9, 8, 7))
    with pytest.raises(InputError, match=r"node 1 'Load Image', input image: .*nothing\.png"):
        run_workflow(graph, server.url)


def test_texts_latents_sound_and_animations(server, tmp_path):
    graph = {
        "1": node("PreviewAny", "What was said", source=["2", 0]),
        "2": node("PrimitiveString", value=""),
        "3": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "4": node("SaveLatent", samples=["3", 0], filename_prefix="latents/l"),
        "5": node("EmptyAudio", duration=0.1, sample_rate=44100, channels=2),
        "6": node("SaveAudio", audio=["5", 0], filename_prefix="audio/s"),
        "7": node("EmptyImage", width=16, height=16, batch_size=3, color=7),
        "8": node(
            "SaveAnimatedWEBP", images=["7", 0], filename_prefix="w", fps=6, lossless=True, quality=80, method="default"
        ),
        "9": node("PreviewImage", images=["7", 0]),
    }
    said = "naïve: 1 = 1\nand [2]"
    result = run_workflow(graph, server.url, settings={"2.value": said}, out=tmp_path)
    assert result.texts == [said]
    assert (tmp_path / "What was said.txt").read_text(encoding="utf-8") == said
    suffixes = [path.suffix for path in result.files]
    assert sorted(suffixes) == sorted([".txt", ".latent", ".flac", ".webp", ".png", ".png", ".png"])
    assert all(path.stat().st_size for path in result.files)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"1": node("EmptyImage", width=0, height=8, batch_size=1, color=0)}, "input width: 0 is below its smallest"),
        ({"1": node("EmptyImage", width=10**6, height=8, batch_size=1, color=0)}, "input width: 1000000 is above its"),
        ({"1": node("EmptyImage", width=8, batch_size=1, color=0)}, "input height: is missing"),
        ({"1": node("EmptyImage", width="x", height=8, batch_size=1, color=0)}, "node 1 'E[^']*', input width: .*'x'"),
        (
            {"2": node("ImageScale", image=["1", 0], upscale_method="x", width=1, height=1, crop="disabled")},
            "input upscale_method: 'x' is not one of its choices",
        ),
        ({"2": node("ThereIsNone")}, r"lacks 1 node type\(s\).*\n  ThereIsNone \(node 2 'ThereIsNone'\)"),
    ],
)
def test_what_the_server_refuses_is_said_in_words_and_nothing_runs(server, broken, words):
    before = len(json.loads(server.get("/history")))
    with pytest.raises(InputError, match=words):
        run_workflow(picture() | broken, server.url)
    until(lambda: idle(server))
    ran = list(json.loads(server.get("/history")).values())[before:]
    assert not any(job["status"]["completed"] for job in ran)


def test_one_bad_output_of_two_stops_the_other(server):
    before = len(json.loads(server.get("/history")))
    with pytest.raises(InputError, match=r"node bad '.*', input samples: .*IMAGE.*LATENT"):
        run_workflow(slow() | {"bad": node("SaveLatent", samples=["2", 0])}, server.url)
    until(lambda: idle(server), 20)
    ran = list(json.loads(server.get("/history")).values())[before:]
    assert not any(job["status"]["completed"] for job in ran)


def test_no_output(server):
    with pytest.raises(InputError, match="has no output"):
        run_workflow({"1": picture()["1"]}, server.url)


def test_a_node_that_fails_is_named_and_the_next_job_runs(server, tmp_path):
    local = tmp_path / "broken.png"
    local.write_bytes(b"no picture")
    graph = {"1": node("LoadImage", "My picture", image=""), "2": node("PreviewImage", images=["1", 0])}
    with pytest.raises(JobError, match="node 1 'My picture' failed: cannot identify image file") as caught:
        run_workflow(graph, server.url, settings={"1.image": local})
    assert "\n" not in str(caught.value) and "load_image" in caught.value.traceback
    assert run_workflow(picture(), server.url, out=tmp_path).files


def test_a_running_job_is_cancelled_and_the_waiting_one_is_not(server, tmp_path):
    running = Job(server, slow())
    running.start()
    until(lambda: running.seen and running.seen[-1].done > 2)
    waiting = Job(server, picture(), out=tmp_path)
    waiting.start()
    until(lambda: waiting.seen)
    running.stop = True
    running.join(60)
    waiting.join(60)
    assert isinstance(running.error, Job.Stopped)
    assert (waiting.error, len(waiting.result.files)) == (None, 1)
    assert running.seen[-1].done < 400


def test_a_waiting_job_is_cancelled_and_the_running_one_is_not(server):
    running = Job(server, slow(60))
    running.start()
    until(lambda: running.seen and running.seen[-1].done > 2)
    waiting = Job(server, picture())
    waiting.start()
    until(lambda: waiting.seen and waiting.seen[-1].ahead == 1)
    waiting.stop = True
    waiting.join(60)
    assert isinstance(waiting.error, Job.Stopped)
    assert not json.loads(server.get("/queue"))["queue_pending"]
    running.join(60)
    assert running.error is None


def test_interrupted_from_elsewhere(server):
    job = Job(server, slow())
    job.start()
    until(lambda: job.seen and job.seen[-1].done > 2)
    Server(server.url).ask("/interrupt", {})
    job.join(60)
    assert isinstance(job.error, JobError)
    assert "interrupted on the server, at node" in str(job.error)


def test_removed_from_elsewhere(server):
    running, job = Job(server, slow()), Job(server, picture())
    running.start()
    until(lambda: running.seen and running.seen[-1].done > 2)
    job.start()
    until(lambda: job.seen and job.seen[-1].ahead == 1)
    Server(server.url).ask("/queue", {"clear": True})
    job.join(60)
    running.stop = True
    running.join(60)
    assert isinstance(job.error, JobError) and "the job was lost" in str(job.error)


def test_the_websocket_is_lost_for_good(server, tmp_path, monkeypatch):
    def broken(self, *_):
        if self.live:
            self._socket.shutdown()
        return original(self, *_)

    original = Events.next
    monkeypatch.setattr(Events, "next", broken)
    assert run_workflow(picture(), server.url, out=tmp_path).files


def test_the_websocket_comes_back(server, monkeypatch):
    monkeypatch.setattr(Events, "RETRY", 0.1)
    drops = []

    def broken(self, *_):
        event = original(self, *_)
        if self.live and event and event["type"] == "progress_state" and not drops:
            drops.append(self._socket.shutdown())
        elif drops and event:
            drops.append(event["type"])
        return event

    original = Events.next
    monkeypatch.setattr(Events, "next", broken)
    job = Job(server, slow(400))
    job.run()
    assert job.error is None
    assert "progress_state" in drops


def test_the_command(server, tmp_path):
    """From a shell: a loop's one turn, a failure, Ctrl-C."""
    (tmp_path / "ok.json").write_text(json.dumps(picture()))
    (tmp_path / "slow.json").write_text(json.dumps(slow()))
    shell = [sys.executable, "-m", "ssi_core", "comfy", "run"]
    options = {
        "cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True,
        "env": os.environ | {"PYTHONPATH": str(ROOT), "COMFYUI_SERVER": server.url},
    }  # fmt: skip
    done = subprocess.run([*shell, "ok.json", "--set", "Keep.filename_prefix=shell", "--out", "o"], **options)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{Path('o') / 'shell_00001_.png'}\n", "")
    assert Image.open(io.BytesIO((tmp_path / "o" / "shell_00001_.png").read_bytes())).size == (48, 32)
    bad = subprocess.run([*shell, "ok.json", "--set", "Colour.width=no"], **options)
    assert (bad.returncode, bad.stderr) == (2, "error: node 1 'Colour', input width: 'no' is not a whole number\n")

    process = subprocess.Popen([*shell, "slow.json"], **options)
    until(lambda: not idle(server))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    until(lambda: idle(server), 20)
    last = list(json.loads(server.get("/history")).values())[-1]
    assert last["status"]["messages"][-1][0] == "execution_interrupted"
