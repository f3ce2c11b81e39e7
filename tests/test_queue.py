"""`ssi comfy run` against a small server without a websocket: what it sends, what it says, what it writes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from ssi_core import cli
from ssi_core.errors import InputError
from ssi_core.queue import JobError, run, run_workflow
from ssi_core.queue.server import Server

ROOT = Path(__file__).parents[1]
SIZE = ["INT", {"default": 8, "min": 1, "max": 64}]
BRANCHES = [
    {"key": "by factor", "inputs": {"required": {"factor": ["FLOAT", {"min": 0.5, "max": 4.0}]}}},
    {"key": "to size", "inputs": {"required": {"width": SIZE}}},
]
TYPES = {
    "Load": {"input": {"required": {"image": [["there.png"], {"image_upload": True}]}}, "display_name": "Load Image"},
    "Scale": {
        "input": {
            "required": {
                "image": ["IMAGE"], "width": SIZE, "sharp": ["FLOAT", {"min": -1.0, "max": 1.0}],
                "how": [["nearest", "area"], {}], "mode": ["COMBO", {"options": ["a", "b"]}],
                "resize": ["COMFY_DYNAMICCOMBO_V3", {"options": BRANCHES}],
            },
            "optional": {
                "crop": ["BOOLEAN", {}], "note": ["STRING", {}], "seed": ["INT", {"control_after_generate": True}],
            },
        }
    },
    "Save": {"input": {"required": {"images": ["IMAGE"]}}, "output_node": True, "display_name": "Save Image"},
}  # fmt: skip
GRAPH = {
    "1": {"class_type": "Load", "inputs": {"image": "there.png"}},
    "2": {
        "class_type": "Scale",
        "inputs": {"image": ["1", 0], "width": 8, "sharp": 0.5, "resize": "by factor", "resize.factor": 2.0, "seed": 1},
        "_meta": {"title": "Half v1.5"},
    },
    "7:3": {"class_type": "Save", "inputs": {"images": ["2", 0]}},
}
PICTURE = b"\x89PNG and the rest"


class Fake(ThreadingHTTPServer):
    """Answers as ComfyUI does; a test changes the attributes below to make it fail."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.uploaded, self.prompt = [], {}, None
        self.refuse = None  # the body of an HTTP 400 for /prompt
        self.outputs = {
            "7:3": {"images": [{"filename": "a.png", "subfolder": "x", "type": "output"}], "animated": [False]}
        }
        self.status = {"status_str": "success", "completed": True, "messages": []}
        self.pending, self.running, self.rounds = [], False, 1  # looks at /queue before the job is over
        self.lost = False
        self.files = {"a.png": PICTURE}

    @property
    def address(self):
        return f"127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        fake, url = self.server, urlsplit(self.path)
        fake.asked.append(url.path)
        job = fake.prompt and fake.prompt["prompt_id"]
        if url.path == "/system_stats":
            self.reply({"system": {}, "devices": []})
        elif url.path.startswith("/object_info/"):
            kind = url.path.rpartition("/")[2]
            self.reply({kind: TYPES[kind]} if kind in TYPES else {})
        elif url.path == "/node_replacements":
            self.reply({"Old": []})
        elif url.path == "/queue":
            fake.rounds -= 1
            mine = [] if fake.lost else [[9, job]]
            waiting = bool(fake.pending)
            entry = {
                "queue_running": [[1, "x"]] if waiting else mine,
                "queue_pending": fake.pending + mine if waiting else [],
            }
            fake.pending = fake.pending[1:]
            self.reply(entry)
        elif url.path == f"/history/{job}":
            over = fake.rounds <= 0 and not fake.lost
            self.reply({job: {"outputs": fake.outputs, "status": fake.status}} if over else {})
        elif url.path == "/view":
            name = parse_qs(url.query)["filename"][0]
            self.reply(fake.files[name]) if name in fake.files else self.reply({}, 404)
        else:
            self.reply({}, 404)

    def do_POST(self):
        fake, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        fake.asked.append(self.path)
        if self.path == "/upload/image":
            head, content = body.split(b"\r\n\r\n", 1)
            border = body.split(b"\r\n", 1)[0]
            assert self.headers["Content-Type"].encode().endswith(b"boundary=" + border[2:])
            name = head.decode().split('filename="')[1].split('"')[0]
            fake.uploaded[name] = content.removesuffix(b"\r\n" + border + b"--\r\n")
            self.reply({"name": f"server {name}", "subfolder": "", "type": "input"})
        elif self.path == "/prompt":
            fake.prompt = json.loads(body)
            self.reply(
                fake.refuse or {"prompt_id": fake.prompt["prompt_id"], "node_errors": {}}, 400 if fake.refuse else 200
            )
        else:  # /queue and /interrupt
            fake.asked.append(json.loads(body))
            self.reply(b"")

    def reply(self, content, code=200):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(run, "POLL_BLIND", 0.01)
    with Fake() as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def sent(fake, settings, **more):
    """The inputs of node 2 that reach the server under these settings, and the picture's name of node 1."""
    run_workflow(GRAPH, fake.address, settings=settings, **more)
    return {**fake.prompt["prompt"]["2"]["inputs"], **fake.prompt["prompt"]["1"]["inputs"]}


def complaint(fake, settings=(), graph=GRAPH):
    with pytest.raises(InputError) as caught:
        run_workflow(graph, fake.address, settings=settings)
    assert fake.prompt is None, "was queued all the same"
    return str(caught.value)


def command(capsys, *arguments):
    """Exit code, stdout and stderr of `ssi comfy run`."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as caught:
            cli.main(["comfy", "run", *map(str, arguments)])
    finally:
        signal.signal(signal.SIGINT, handler)
    out, err = capsys.readouterr()
    return caught.value.code, out, err


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(GRAPH))
    return path


@pytest.mark.parametrize(
    ("key", "value", "name", "expected"),
    [
        ("2.width", "12", "width", 12),
        ("half V1.5.width", "12", "width", 12),
        ("scale.width", 64, "width", 64),
        ("2.sharp", "-1", "sharp", -1.0),
        ("2.how", "area", "how", "area"),
        ("2.mode", "b", "mode", "b"),
        ("2.crop", "Off", "crop", False),
        ("2.note", "3 = three", "note", "3 = three"),
        ("2.resize.factor", "0.5", "resize.factor", 0.5),
        ("Load Image.image", "there.png", "image", "there.png"),
        ("1.image", "sub/other.png", "image", "sub/other.png"),
    ],
)
def test_a_setting_arrives_as_the_inputs_own_type(fake, key, value, name, expected):
    found = sent(fake, {key: value})[name]
    assert found == expected
    assert type(found) is type(expected)


def test_settings_are_taken_in_order_and_the_callers_graph_is_left_alone(fake):
    before = json.dumps(GRAPH)
    found = sent(fake, [("2.resize", "to size"), ("2.resize.width", "9"), ("2.width", "2"), ("2.width", "3")])
    assert (found["resize"], found["resize.width"], found["width"]) == ("to size", 9, 3)
    assert json.dumps(GRAPH) == before


def test_seed_goes_to_every_seed(fake):
    assert sent(fake, {}, seed=5)["seed"] == 5


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("2.width", "65", "node 2 'Half v1.5', input width: 65 is above its largest value, 64"),
        ("2.width", "0", "input width: 0 is below its smallest value, 1"),
        ("2.width", "2.5", "input width: '2.5' is not a whole number"),
        ("2.width", "", "input width: '' is not a whole number"),
        ("2.sharp", "nan", "input sharp: 'nan' is not a finite number"),
        ("2.sharp", "much", "input sharp: 'much' is not a number"),
        ("2.how", "cubic", "input how: 'cubic' is not one of its choices; they are nearest, area"),
        ("2.mode", "c", "they are a, b"),
        ("2.crop", "maybe", "input crop: 'maybe' is neither true nor false"),
        ("2.resize", "none", "they are by factor, to size"),
        ("2.resize.factor", "9", "input resize.factor: 9.0 is above its largest value, 4.0"),
        ("2.image", "x", "input image: is connected to node 1 'Load Image'"),
        ("1.image", "nowhere.png", "input image: 'nowhere.png' is neither a file here nor one that the server has"),
        ("2.depth", "1", "node 2 'Half v1.5': has no input 'depth'; it has image, width, sharp"),
        (
            "Nothing.width",
            "1",
            "node 'Nothing': not in this workflow; it has 1 'Load Image' (Load), 2 'Half v1.5' (Scale)",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_said_before_queueing(fake, key, value, words):
    assert words in complaint(fake, {key: value})


def test_two_nodes_of_one_title_are_told_apart_by_id(fake):
    twice = {**GRAPH, "5": {**GRAPH["2"], "_meta": {"title": "half V1.5"}}}
    assert "2 nodes are called that; say which by its id: 2, 5" in complaint(fake, {"Half v1.5.width": 3}, twice)


def test_a_local_file_is_uploaded_byte_for_byte(fake, tmp_path):
    picture = tmp_path / "été 1.png"
    picture.write_bytes(b"\r\n--\x00\xff" * 1000)
    assert sent(fake, {"Load Image.image": str(picture)})["image"] == "server été 1.png"
    assert fake.uploaded == {"été 1.png": b"\r\n--\x00\xff" * 1000}


def test_nothing_is_uploaded_when_another_setting_is_wrong(fake, tmp_path):
    picture = tmp_path / "a.png"
    picture.touch()
    complaint(fake, {"1.image": picture, "2.width": 100})
    assert not fake.uploaded


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ("{}", "holds no nodes"),
        ('{"nodes": [], "links": []}', "the editor's own format"),
        ('{"1": {"inputs": {}}}', "entry '1' is not a node"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_file_that_is_no_workflow(fake, file, capsys, content, words):
    file.unlink() if content is None else file.write_text(content)
    code, out, err = command(capsys, file, "--server", fake.address)
    assert (code, out) == (2, "")
    assert words in err and str(file) in err
    assert fake.prompt is None


def test_types_that_the_server_lacks(fake):
    graph = {**GRAPH, "8": {"class_type": "SSISolver", "inputs": {}}, "9": {"class_type": "Nope", "inputs": {}}}
    words = complaint(fake, graph=graph)
    assert "lacks 2 node type(s)" in words
    assert "Nope (node 9 'Nope')" in words and "SSISolver (node 8 'SSISolver'; of the pack 'SSI Inversion')" in words


def test_types_that_the_server_replaces_are_not_lacking(fake):
    run_workflow({**GRAPH, "8": {"class_type": "Old", "inputs": {}}}, fake.address)
    assert "8" in fake.prompt["prompt"]


@pytest.mark.parametrize("address", ["127.0.0.1:port", "ftp://127.0.0.1", "http://", "a b"])
def test_addresses_that_are_none(address):
    with pytest.raises(InputError, match="server"):
        Server(address).check()


def test_addresses(monkeypatch):
    monkeypatch.setenv("COMFYUI_SERVER", "gpu")
    assert Server().url == "http://gpu:8188"
    assert Server("https://gpu.example/comfy/").url == "https://gpu.example/comfy"
    assert Server("[::1]:80").url == "http://[::1]:80"


def test_nobody_there():
    with socket.socket() as probe:  # bound and not listening
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(InputError, match=r"cannot be reached \(Connection refused\); is ComfyUI running there"):
            run_workflow(GRAPH, address)


def test_somebody_else_there(fake):
    with pytest.raises(InputError, match="is not a ComfyUI"):
        run_workflow(GRAPH, f"http://{fake.address}/elsewhere")


def test_a_refusal_in_words(fake, file, capsys):
    range_ = {"input_name": "width", "received_value": 99, "input_config": SIZE}
    errors = [
        {"type": "value_bigger_than_max", "message": "m", "details": "width", "extra_info": range_},
        {
            "type": "custom_validation_failed",
            "message": "m",
            "details": "how - no",
            "extra_info": {"input_name": "how"},
        },
        {"type": "of the future", "message": "Something\nnew", "details": "", "extra_info": {}},
    ]
    fake.refuse = {"error": {"type": "prompt_outputs_failed_validation"}, "node_errors": {"2": {"errors": errors}}}
    code, _, err = command(capsys, file, "--server", fake.address)
    assert code == 2
    assert "node 2 'Half v1.5', input width: 99 is above its largest value, 64\n" in err
    assert "node 2 'Half v1.5', input how: no\n" in err
    assert "node 2 'Half v1.5': Something new\n" in err


def test_outputs_are_never_written_over(fake, tmp_path):
    fake.outputs["7:3"]["text"] = ["one\ntwo"]
    fake.outputs["1"] = {"images": [{"filename": "there.png", "type": "input"}]}
    fake.outputs["2"] = {"audio": [{"filename": "../../up.flac", "subfolder": "", "type": "temp"}]}
    fake.files["../../up.flac"] = b"sound" * 1000000
    first = run_workflow(GRAPH, fake.address, out=tmp_path / "new" / "out")
    fake.files["a.png"] = b"another"
    second = run_workflow(GRAPH, fake.address, out=tmp_path / "new" / "out")
    assert [path.name for path in first.files] == ["up.flac", "a.png", "Save Image.txt"]
    assert [path.name for path in second.files] == ["up-2.flac", "a-2.png", "Save Image-2.txt"]
    assert first.files[1].read_bytes() == PICTURE and second.files[1].read_bytes() == b"another"
    assert first.files[0].read_bytes() == b"sound" * 1000000
    assert first.texts == ["one\ntwo"] and first.files[2].read_text() == "one\ntwo"
    assert sorted((tmp_path / "new" / "out").iterdir()) == sorted([*first.files, *second.files])


def test_a_file_that_the_server_no_longer_has(fake, tmp_path):
    fake.files.clear()
    with pytest.raises(JobError, match=r"node 7:3 'Save Image': the server no longer has a.png"):
        run_workflow(GRAPH, fake.address, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_node_that_fails(fake, file, capsys):
    told = {"node_id": "2", "exception_message": "no\nmemory\n", "exception_type": "E", "traceback": ["  File x\n"]}
    fake.status = {"status_str": "error", "messages": [["execution_start", {}], ["execution_error", told]]}
    code, out, err = command(capsys, file, "--server", fake.address)
    assert (code, out, err) == (3, "", "error: node 2 'Half v1.5' failed: no memory\n")
    assert "  File x\n" in command(capsys, file, "--server", fake.address, "--verbose")[2]


def test_a_job_interrupted_there(fake):
    fake.status = {"status_str": "error", "messages": [["execution_interrupted", {"node_id": "2"}]]}
    with pytest.raises(JobError, match=r"interrupted on the server, at node 2 'Half v1\.5'"):
        run_workflow(GRAPH, fake.address)


def test_a_job_that_is_lost(fake):
    fake.lost = True
    with pytest.raises(JobError, match="neither in the server's queue nor in its history"):
        run_workflow(GRAPH, fake.address)


def test_a_server_that_stops_answering(fake, monkeypatch):
    monkeypatch.setattr(run, "GRACE", 0.1)
    fake.rounds = 10**6

    def stop(_):
        fake.socket.close()

    with pytest.raises(JobError, match="has not answered for"):
        run_workflow(GRAPH, fake.address, progress=stop)


def test_jobs_ahead_are_counted(fake):
    fake.pending, fake.rounds = [[5, "b"], [3, "a"]], 5
    seen = []
    run_workflow(GRAPH, fake.address, progress=lambda now: seen.append(now.ahead))
    assert list(dict.fromkeys(seen)) == [3, 2, 0]


def test_a_timeout_cancels_this_job_only(fake):
    fake.rounds = 10**6
    with pytest.raises(JobError, match=r"not done within 0.1 s .*cancelled"):
        run_workflow(GRAPH, fake.address, timeout=0.1)
    job = fake.prompt["prompt_id"]
    assert fake.asked[-4:] == ["/queue", {"delete": [job]}, "/interrupt", {"prompt_id": job}]


def test_ctrl_c_cancels_this_job_and_exits_130(fake, file, tmp_path):
    fake.rounds = 10**6
    process = subprocess.Popen(
        [sys.executable, "-m", "ssi_core", "comfy", "run", file, "--server", fake.address, "--out", tmp_path / "o"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not any(str(path).startswith("/history") for path in fake.asked) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    job = fake.prompt["prompt_id"]
    assert fake.asked[-4:] == ["/queue", {"delete": [job]}, "/interrupt", {"prompt_id": job}]
    assert not list((tmp_path / "o").iterdir())


def test_the_command_prints_paths_or_json(fake, file, tmp_path, capsys):
    fake.outputs["2"] = {"text": ["[bold]hi[/]"]}
    code, out, err = command(capsys, file, "--server", fake.address, "--set", "2.width=3", "--out", tmp_path / "o")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "Half v1.5: [bold]hi[/]",
        str(tmp_path / "o" / "Half v1.5.txt"),
        str(tmp_path / "o" / "a.png"),
    ]
    code, out, _ = command(capsys, file, "--server", fake.address, "--out", tmp_path / "o", "--json")
    assert [output["path"] for output in json.loads(out)["outputs"]][1] == str(tmp_path / "o" / "a-2.png")
    assert command(capsys, file, "--server", fake.address, "--set", "2.width")[0] == 2


def test_the_command_line_starts_without_the_websocket_library():
    code = "import sys, ssi_core.cli; sys.exit('websocket' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode == 0
