"""`ssi comfy run` against a small server without a websocket: what it sends, what it says, what it writes."""

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fake_comfy import GRAPH, PICTURE, SIZE, TYPES, Fake

from ssi_core import cli
from ssi_core.errors import InputError
from ssi_core.queue import JobError, Progress, Running, run, run_workflow
from ssi_core.queue.server import Server
from ssi_core.queue.workflow import Workflow

ROOT = Path(__file__).parents[1]


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
        ("2.any", "4", "any", 4),
        ("2.odd", "on", "odd", True),
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


def test_seed_moves_all_seeds_and_nothing_else(fake):
    found = sent(fake, {}, seed=5)
    assert (found["seed"], found["noise_seed"], found["frames"]) == (5, 7, 12)


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
        ("2.free", "x", "input free: takes a MODEL from another node, not a value"),
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


def test_the_last_setting_of_an_upload_counts(fake, tmp_path):
    picture = tmp_path / "a.png"
    picture.touch()
    assert sent(fake, [("1.image", picture), ("1.image", "there.png")])["image"] == "there.png"
    assert not fake.uploaded


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


def test_a_missing_model_file_is_named_with_where_it_comes_from(fake):
    graph = copy.deepcopy(GRAPH)
    graph["2"]["_meta"]["models"] = [{"name": "b.pt", "url": "https://there/b.pt", "directory": "checkpoints"}]
    said = {"input_name": "how", "received_value": "b.pt"}
    fault = {"type": "value_not_in_list", "message": "no", "details": "not in []", "extra_info": said}
    fake.refuse = {"node_errors": {"2": {"errors": [fault]}}}
    with pytest.raises(
        InputError, match=r"b\.pt.*get it from https://there/b\.pt into the server's models/checkpoints$"
    ):
        run_workflow(graph, fake.address)
    for broken in ([{"name": "c.pt"}], {"name": "b.pt"}, ["b.pt", {"name": "b.pt", "url": None}]):
        graph["2"]["_meta"]["models"] = broken
        with pytest.raises(InputError, match=r"'b\.pt' is not one of its choices \(not in \[\]\)$"):
            run_workflow(graph, fake.address)


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


def test_another_job_writes_the_same_name_meanwhile(fake, tmp_path):
    class Meanwhile(dict):
        def __getitem__(self, name):
            (tmp_path / name).write_bytes(b"theirs")
            return super().__getitem__(name)

    fake.files = Meanwhile(fake.files)
    result = run_workflow(GRAPH, fake.address, out=tmp_path)
    assert (tmp_path / "a.png").read_bytes() == b"theirs"
    assert [path.name for path in result.files] == ["a-2.png"] and result.files[0].read_bytes() == PICTURE


def test_no_websocket_library_is_no_obstacle(fake, monkeypatch):
    monkeypatch.setitem(sys.modules, "websocket", None)
    run_workflow(GRAPH, fake.address)


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


def test_progress_is_read_from_the_websockets_messages():
    """In the order and shape in which ComfyUI 0.33.0 sends them."""
    notes = []
    watch = run._Watch(Workflow(GRAPH, TYPES), "job", notes.append)
    watch.ahead = 2

    def after(kind, job="job", **data):
        return watch.take({"type": kind, "data": {"prompt_id": job, **data}}), watch.progress()

    assert after("execution_start", job="another") == (False, Progress(2, (), 0, 3))
    assert after("execution_start") == (False, Progress(0, (), 0, 3))
    assert after("execution_cached", nodes=["1"]) == (False, Progress(0, (), 1, 3))
    assert after("executing", node="2")[1].running == (Running("2", "Half v1.5", 0, 1),)
    states = {"1": {"value": 1, "max": 1, "state": "finished"}, "2": {"value": 3.0, "max": 20.0, "state": "running"}}
    assert after("progress_state", nodes=states)[1] == Progress(0, (Running("2", "Half v1.5", 3, 20),), 1, 3)
    assert after("progress", node="2", value=4, max=20)[1].running[0].step == 4
    inside = after("progress_state", nodes={"2.0.0.7": {"value": 1, "max": 2, "state": "running"}})[1].running
    assert inside == (Running("2.0.0.7", "Half v1.5", 1, 2),)
    assert watch.place() == "at node 2.0.0.7 'Half v1.5'"
    assert after("executed", node="2")[1].done == 2
    blocked = {"node_id": "2", "exception_type": "ExecutionBlocked", "exception_message": "Execution Blocked: no mask"}
    assert not after("execution_error", **blocked)[0]
    assert notes == ["node 2 'Half v1.5' failed: Execution Blocked: no mask"]
    assert after("execution_success")[0] and after("executing", node=None)[0]
    assert watch.take({"type": "status", "data": {"status": {}}})


def test_a_timeout_cancels_this_job_only(fake):
    fake.rounds = 10**6
    with pytest.raises(JobError, match=r"not done within 0.1 s .*cancelled"):
        run_workflow(GRAPH, fake.address, timeout=0.1)
    job = fake.prompt["prompt_id"]
    assert [said for said in fake.asked if isinstance(said, dict)] == [{"delete": [job]}, *2 * [{"prompt_id": job}]]


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
    assert [said for said in fake.asked if isinstance(said, dict)] == [{"delete": [job]}, *2 * [{"prompt_id": job}]]
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
