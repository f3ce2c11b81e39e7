"""An evaluation carried out: the same table whoever computes it, however often it is stopped."""

import csv
import dataclasses
import errno
import importlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
import weakref
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from evaluations import ARMS, SIZE, Coupled, Toy, folder, lines_of, plan

from ssi_core import InputError, invert, karras_sigmas, load_image, mse, reconstruct
from ssi_core.cli import main
from ssi_core.errors import Cancelled
from ssi_core.evaluate import Plan, bench, evaluate, load_results, plan_of
from ssi_core.evaluate.metrics import METRICS
from ssi_core.evaluate.plan import Arm
from ssi_core.evaluate.report import write_report
from ssi_core.evaluate.shards import own_device, sharded
from ssi_core.evaluate.store import PARTS, RESULTS, WORDS
from ssi_core.process import DiscreteVP

WORKER = Path(__file__).with_name("evaluations.py")
EVALUATIONS = 25
"""More than half of what the toy plan takes in one process."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("pictures") / "set")


@pytest.fixture(scope="module")
def wanted(pictures, tmp_path_factory):
    """The table that one undisturbed process makes, of a toy whose bits depend on what is in its batches."""
    out = tmp_path_factory.mktemp("one")
    evaluate(plan(pictures, Coupled()), Coupled(), out)
    return (out / RESULTS).read_bytes()


def processes(pictures, out, count, fatal=0, mortal=0, seeds=(0, 0, 0)):
    """Run an evaluation in `count` processes, each with a seed of its own; returns their (exit code, stderr)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(count):
        environment = {
            **os.environ, "RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "EVALUATION_SEED": str(seeds[rank]),
            "PYTHONPATH": os.pathsep.join([str(WORKER.parents[1]), os.environ.get("PYTHONPATH", "")]),
        }  # fmt: skip
        command = [sys.executable, str(WORKER), str(pictures), str(out), str(fatal), str(mortal)]
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    return [(p.returncode, said) for p in started for said in [p.communicate(timeout=120)[1]]]


def test_rows_say_what_inversion_and_its_figures_are(pictures, tmp_path):
    found = evaluate(plan(pictures, Toy()), Toy(), tmp_path)
    assert [(r["arm"], r["index"]) for r in found.rows] == [(a.name, str(i)) for a in ARMS for i in range(7)]
    row = next(r for r in found.rows if (r["arm"], r["index"]) == ("SSI", "5"))
    x0 = load_image(pictures / row["image"], SIZE)
    inverted = invert(Toy(), x0, karras_sigmas(5), skip=0.1, solver="euler", seed=5)
    back = reconstruct(Toy(), inverted.noise, inverted.sigmas, solver="euler")
    assert float(row["mse"]) == pytest.approx(float(mse(back, x0)), rel=1e-6)
    assert float(row["std"]) == pytest.approx(float(inverted.noise.std()), rel=1e-6)
    assert int(row["nfe"]) == 2 * inverted.nfe + 1
    assert {r["plan"] for r in found.rows} == {found.plan.digest}


@pytest.mark.parametrize("count", [2, 3])
def test_the_table_is_the_same_bits_from_any_number_of_processes(pictures, tmp_path, wanted, count):
    assert [code for code, _ in processes(pictures, tmp_path, count)] == [0] * count
    assert (tmp_path / RESULTS).read_bytes() == wanted
    assert not (tmp_path / PARTS).exists()


def test_a_process_with_another_plan_is_found_before_anything_is_computed(pictures, tmp_path):
    ended = processes(pictures, tmp_path, 3, seeds=(0, 0, 5))
    assert [code for code, _ in ended] == [2, 2, 2]
    assert all("its plan is another than that of process 0" in said for _, said in ended)
    assert all("seed: 0 there, 5 here" in said for _, said in ended)
    assert not list(tmp_path.rglob("*results*")) and not (tmp_path / PARTS).exists()


@pytest.mark.parametrize("mortal", [0, 1])
def test_a_process_that_dies_is_reported_and_a_rerun_completes(pictures, tmp_path, wanted, mortal):
    ended = processes(pictures, tmp_path, 2, fatal=EVALUATIONS, mortal=mortal)
    assert ended[mortal][0] == 9
    assert ended[1 - mortal][0] == 2
    assert "run the same command again" in ended[1 - mortal][1]
    parts = {p: p.read_text() for p in (tmp_path / PARTS).iterdir()}
    assert all(len(text.splitlines()) > 1 for text in parts.values())  # both had begun
    # Completed by another number of processes than began it.
    assert [code for code, _ in processes(pictures, tmp_path, 3)] == [0, 0, 0]
    assert (tmp_path / RESULTS).read_bytes() == wanted


def test_torchrun_with_a_process_that_dies_and_again(pictures, tmp_path, wanted):
    """As the documentation has it: torchrun itself, which ends the other processes when one of them fails."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(WORKER),
               str(pictures), str(tmp_path)]  # fmt: skip
    path = os.pathsep.join([str(WORKER.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    ended = subprocess.run([*command, str(EVALUATIONS), "1"], env=environment, capture_output=True, text=True)
    assert ended.returncode != 0
    assert "exitcode  : 9" in ended.stderr  # torchrun's report names the process
    assert any(len(p.read_text().splitlines()) > 1 for p in (tmp_path / PARTS).iterdir())
    assert not (tmp_path / RESULTS).exists()
    subprocess.run([*command, "0", "0"], env=environment, capture_output=True, check=True)
    assert (tmp_path / RESULTS).read_bytes() == wanted


def test_a_backend_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="backend 'mpi': unknown; known are gloo, nccl"), sharded("mpi"):
        pass
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="backend nccl: needs a GPU for each process"), sharded("nccl"):
        pass


def test_each_process_of_a_machine_has_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("RANK", "6")  # the third process of the second machine
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert own_device() == "cuda:2"


@pytest.mark.parametrize("fatal", [1, 10, 40, 70])
def test_a_killed_run_goes_on_where_it_was(pictures, tmp_path, wanted, fatal):
    ((code, _),) = processes(pictures, tmp_path, 1, fatal=fatal)
    assert code == 9
    before = sum(len(p.read_text().splitlines()) - 1 for p in (tmp_path / PARTS).iterdir())
    toy = Coupled()
    evaluate(plan(pictures, toy), toy, tmp_path)
    assert (tmp_path / RESULTS).read_bytes() == wanted
    fresh = Coupled()
    evaluate(plan(pictures, fresh), fresh, tmp_path.with_name(tmp_path.name + "-fresh"))
    assert (toy.count < fresh.count) == (before > 0)  # nothing that was there was computed again
    done = Coupled()
    evaluate(plan(pictures, done), done, tmp_path)
    assert done.count == 0


def test_killed_between_two_rows_of_one_batch(pictures, tmp_path, wanted):
    evaluate(plan(pictures, Coupled()), Coupled(), tmp_path)
    lines = wanted.splitlines(keepends=True)
    (tmp_path / RESULTS).write_bytes(b"".join(lines[:4] + lines[5:]))
    evaluate(plan(pictures, Coupled()), Coupled(), tmp_path)
    assert (tmp_path / RESULTS).read_bytes() == wanted


def test_rows_are_on_the_disk_before_the_next_batch_is_measured(pictures, tmp_path, monkeypatch):
    """Killed while the third batch is measured: the first two, of 4 and 3 pictures, are kept."""
    count = 0
    whole = METRICS["mse"].of

    def dies(trip):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return whole(trip)

    monkeypatch.setitem(METRICS, "mse", dataclasses.replace(METRICS["mse"], of=dies))
    with pytest.raises(KeyboardInterrupt):
        evaluate(plan(pictures, Toy(), batch=4), Toy(), tmp_path)
    assert len((tmp_path / PARTS / "0.csv").read_text().splitlines()) == 1 + 4 + 3


def test_batch_size_changes_nothing_where_the_model_rounds_alike(pictures, tmp_path):
    """But the last bits of metrics; the toy is elementwise, a network rounds a batch otherwise than single pictures
    (docs/reproduction.md)."""
    tables = []
    for batch in (1, 3, 7):
        out = tmp_path / str(batch)
        evaluate(plan(pictures, Toy(), batch=batch), Toy(), out)
        tables.append(list(csv.DictReader((out / RESULTS).open())))
    for rows in tables[1:]:
        for one, other in zip(tables[0], rows, strict=True):
            assert {name: other[name] for name in WORDS if name != "plan"} == {
                name: one[name] for name in WORDS if name != "plan"
            }
            numbers = [name for name in one if name not in WORDS and one[name]]
            assert [float(other[name]) for name in numbers] == pytest.approx(
                [float(one[name]) for name in numbers], rel=1e-6, abs=1e-12
            )
            assert float(other["std"]) == pytest.approx(float(one["std"]), rel=1e-12)


def test_the_toy_of_these_tests_sees_its_batch(pictures, tmp_path, wanted):
    """Or "the same bits" would be no test of which pictures are computed together."""
    evaluate(plan(pictures, Coupled(), batch=3), Coupled(), tmp_path)
    there, here = (csv.DictReader(io.StringIO(table.decode())) for table in (wanted, (tmp_path / RESULTS).read_bytes()))
    assert any(a["mse"] != b["mse"] for a, b in zip(there, here, strict=True))


def test_float32_is_not_tf32(pictures, tmp_path, monkeypatch):
    seen = set()

    class Watched(Toy):
        def __call__(self, x, sigma):
            seen.add((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
            return super().__call__(x, sigma)

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    evaluate(plan(pictures, Toy()), Watched(), tmp_path)
    assert seen == {(False, False)}
    assert torch.backends.cudnn.allow_tf32


def test_a_run_that_goes_on_under_other_conditions_is_said(pictures, tmp_path, monkeypatch):
    with pytest.raises(Cancelled):
        evaluate(plan(pictures, Toy()), Toy(fatal=30, error=Cancelled("stopped")), tmp_path)
    monkeypatch.setattr(torch, "__version__", "9.9")
    found = evaluate(plan(pictures, Toy()), Toy(), tmp_path)
    assert re.fullmatch(
        r"rows were computed under torch .*, then under torch 9.9, threads .*not the same bits.*", found.mixed
    )
    write_report(found)
    words = (tmp_path / "report.html").read_text()
    assert found.mixed in words and "Stopped before its end" in words
    assert load_results(tmp_path).mixed == found.mixed
    monkeypatch.undo()
    again = evaluate(plan(pictures, Toy()), Toy(), tmp_path)  # nothing is left to compute
    assert again.mixed == found.mixed
    assert evaluate(plan(pictures, Toy()), Toy(), tmp_path / "another").mixed == ""


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"runs": [1], "notes": []}'])
def test_a_damaged_run_file_is_said_in_words(pictures, tmp_path, damage):
    evaluate(plan(pictures, Toy()), Toy(), tmp_path)
    (tmp_path / "run.json").write_text(damage)
    with pytest.raises(InputError, match=r"run.json: is damaged .* delete it and run the same command again"):
        load_results(tmp_path)
    (tmp_path / "run.json").unlink()
    write_report(evaluate(plan(pictures, Toy()), Toy(), tmp_path))


def test_another_plan_is_refused_and_named(pictures, tmp_path):
    evaluate(plan(pictures, Toy()), Toy(), tmp_path)
    with pytest.raises(InputError, match=r"results of another plan \(seed: 0 there, 1 here\)"):
        evaluate(plan(pictures, Toy(), seed=1), Toy(), tmp_path)
    (tmp_path / "plan.json").unlink()
    with pytest.raises(InputError, match="results without their plan"):
        evaluate(plan(pictures, Toy(), seed=1), Toy(), tmp_path)


def test_how_to_get_what_is_missing_belongs_to_a_machine_not_to_the_plan(pictures, tmp_path):
    """Or machines with different homes could not share a folder, nor could one whose TORCH_HOME has moved."""
    here, there = (
        dataclasses.replace(plan(pictures, Toy()), missing={"lpips": f"weights missing: download to {home}"})
        for home in ("/home/a", "/home/b")
    )
    assert here.digest == there.digest
    done = evaluate(here, Toy(), tmp_path)
    assert evaluate(there, Toy(fatal=1), tmp_path).rows == done.rows
    assert load_results(tmp_path).plan.missing == there.missing
    whole = dataclasses.replace(here, missing={})
    assert whole.digest != here.digest
    with pytest.raises(InputError, match=r"missing: \['lpips'\] there, \[\] here"):
        evaluate(whole, Toy(), tmp_path)


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ([Arm("a", 5), Arm("a", 5, 0.1)], "arm 'a': two arms have this name"),
        ([Arm("a", 5), Arm("A", 5, 0.1)], "two arms have this name"),
        ([Arm("base", 5), Arm("SSI", 5, 0.1, against="bass")], "'SSI': is compared with 'bass'; known are base, SSI"),
        ([Arm("a", 5, target="memry")], "arm 'a': target 'memry' is unknown; known are model"),
    ],
)
def test_arms_whose_rows_would_be_wrong_are_refused(pictures, tmp_path, arms, said):
    with pytest.raises(InputError, match=said):
        evaluate(plan(pictures, Toy(), arms=tuple(arms)), Toy(), tmp_path)


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "a:b", " a", "a.", "..", "a\nb", "a" * 101])
def test_arms_are_named_like_folders(name):
    with pytest.raises(InputError, match="its name is a folder's too"):
        Arm(name)


def test_unknown_precisions_and_ways_back_are_refused():
    with pytest.raises(InputError, match="precision 'float8' is unknown; known are float32, bfloat16, float16"):
        Arm("a", precision="float8")
    with pytest.raises(InputError, match="way back 'whole' is unknown; known are own, full"):
        Arm("a", way_back="whole")


def test_a_plan_is_the_same_after_being_saved(pictures, tmp_path):
    for name in ("table1-bedroom-ddim", "fig14", "nfe"):
        one = plan_of(name, model="toy", denoise=Toy(), images=str(pictures))
        one.save(tmp_path)
        assert Plan.load(tmp_path) == one
        assert Plan.load(tmp_path).digest == one.digest
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(InputError, match="is damaged"):
        Plan.load(tmp_path)


def test_cancelling_keeps_what_was_done(pictures, tmp_path, wanted):
    toy = Coupled(fatal=30, error=Cancelled("stopped"))
    with pytest.raises(Cancelled):
        evaluate(plan(pictures, toy), toy, tmp_path)
    evaluate(plan(pictures, Coupled()), Coupled(), tmp_path)
    assert (tmp_path / RESULTS).read_bytes() == wanted


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"is_flow": True}, "is a flow model"),
        ({"channels": 4}, "takes 4 channels"),
        ({"image_size": None}, "does not tell its image size"),
        ({"sigma_min": 0.15}, "adds noise up to 0.1, under the model's smallest level 0.15"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(pictures, tmp_path, changes, said):
    toy = Toy()
    given = plan(pictures, toy)
    for name, value in changes.items():
        setattr(toy, name, value)
    with pytest.raises(InputError, match=said):
        evaluate(given, toy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_all_goes_on_past_a_preset_that_does_not_fit(tmp_path, monkeypatch, capsys):
    toy = Toy()
    toy.image_size, toy.sigma_min = 32, 0.01  # fig6 adds noise up to .005 too
    room = importlib.import_module("ssi_core.cli.evaluate")
    monkeypatch.setattr(room.ModelOptions, "denoiser", lambda self: toy)
    monkeypatch.setattr(room, "PRESETS", {name: room.PRESETS[name] for name in ("fig6", "fig5")})
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "all", "--limit", "1", "--out", str(tmp_path)])
    assert not ended.value.code
    said = " ".join(capsys.readouterr().err.split())
    assert "fig6 is left out: preset fig6: adds noise up to 0.005, under the model's smallest level 0.01" in said
    assert [p.parent.name for p in tmp_path.glob("*/report.html")] == ["fig5"]


def test_all_gives_a_folder_to_compare_with_to_those_that_compare(pictures, tmp_path, monkeypatch, capsys):
    toy = Toy()
    room = importlib.import_module("ssi_core.cli.evaluate")
    monkeypatch.setattr(room.ModelOptions, "denoiser", lambda self: toy)
    monkeypatch.setattr(room, "PRESETS", {name: room.PRESETS[name] for name in ("fig5", "fig11")})
    other = folder(tmp_path / "other", count=10)
    options = ["--images", str(pictures), "--reference", str(other), "--limit", "2", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "all", *options])
    assert not ended.value.code
    assert [Plan.load(tmp_path / "out" / name).reference for name in ("fig5", "fig11")] == ["", str(other)]
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "fig5", *options])
    assert ended.value.code == 2
    assert "preset fig5 compares no sets of pictures" in " ".join(capsys.readouterr().err.split())


def test_all_goes_on_past_too_few_pictures_and_a_report_that_fails(tmp_path, monkeypatch, capsys):
    toy = Toy()
    toy.image_size = 32
    room = importlib.import_module("ssi_core.cli.evaluate")
    write = room.write_report

    def failing(results):
        if results.plan.preset == "fig6":
            raise InputError("report: cannot be written (the disk is full)")
        return write(results)

    monkeypatch.setattr(room.ModelOptions, "denoiser", lambda self: toy)
    monkeypatch.setattr(room, "write_report", failing)
    monkeypatch.setattr(room, "PRESETS", {name: room.PRESETS[name] for name in ("fig12", "fig6", "fig5")})
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "all", "--limit", "1", "--out", str(tmp_path)])
    assert ended.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "fig12 was not made: preset fig12: blends two pictures of one set" in said
    assert "fig6 was not made: report: cannot be written" in said
    assert "not made: fig12, fig6" in said and "Traceback" not in said
    assert [p.parent.name for p in tmp_path.glob("*/report.html")] == ["fig5"]


def test_ddim_levels_outside_the_model_are_left_out_and_said():
    arm = Arm("a", 500, 0.1, "euler", kappa=(1, 1000, 2))
    paper = DiscreteVP("linear")
    levels, note = arm.sigmas(0.002, 80.0, paper)
    assert float(levels[0]) <= 80
    assert "of 500 DDIM levels" in note
    assert arm.sigmas(0.01, 157.5, paper)[1] == ""
    with pytest.raises(InputError, match="another kind of model"):
        arm.sigmas(0.002, 0.5, paper)


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path, monkeypatch):
    """Pictures are read when they are needed: at no time are more alive than a batch."""
    root = folder(tmp_path / "many", count=40)
    seen, most, read = [], 0, bench.read_picture

    def watched(*arguments):
        nonlocal most
        pixels = read(*arguments)
        seen.append(weakref.ref(pixels))
        most = max(most, sum(one() is not None for one in seen))
        return pixels

    monkeypatch.setattr(bench, "read_picture", watched)
    evaluate(plan(root, Toy()), Toy(), tmp_path / "out")
    assert len(seen) == 40 * len(ARMS)
    assert most == 2


@pytest.mark.parametrize("what", ["plan.json", "images.csv", "00003.noise.png", "results.csv"])
def test_a_disk_that_is_full_when_anything_is_written(pictures, tmp_path, wanted, monkeypatch, what):
    """Whatever it is, the message says so, and with room again the same command ends in the same table."""
    with monkeypatch.context() as full:
        replace_file = Path.replace

        def replaced(self, target):
            if Path(target).name == what:
                raise OSError(errno.ENOSPC, "No space left on device")
            return replace_file(self, target)

        full.setattr(Path, "replace", replaced)
        with pytest.raises(InputError, match=r"the disk is full.*run the same command again"):
            evaluate(plan(pictures, Coupled()), Coupled(), tmp_path)
    evaluate(plan(pictures, Coupled()), Coupled(), tmp_path)
    assert (tmp_path / RESULTS).read_bytes() == wanted


@pytest.mark.parametrize("moment", range(4))
def test_killed_while_the_report_is_written(pictures, tmp_path, monkeypatch, moment):
    """Each file of a report is the old one or the new one, and no half file is left beside it."""
    found = evaluate(plan(pictures, Toy()), Toy(), tmp_path)
    write_report(found)
    names = ["wins.svg", "summary.md", "summary.csv", "report.html"]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    replace_file = Path.replace

    def killed(self, target):
        if Path(target).name == names[moment]:
            raise KeyboardInterrupt
        return replace_file(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        write_report(found)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_killed_report_leaves_whole_files_and_is_made_again(pictures, tmp_path, monkeypatch):
    found = evaluate(plan(pictures, Toy()), Toy(), tmp_path)
    write_report(found)
    page = (tmp_path / "report.html").read_bytes()
    from ssi_core.evaluate import report

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "page", full)
    with pytest.raises(InputError, match="the disk is full"):
        write_report(found)
    assert (tmp_path / "report.html").read_bytes() == page
    monkeypatch.undo()
    write_report(load_results(tmp_path))
    assert (tmp_path / "report.html").read_bytes() == page


class Outside(HTMLParser):
    """Everything that a browser would fetch for a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        self.found += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "poster")]


def test_the_report_is_one_file_without_outside_references(pictures, tmp_path):
    found = evaluate(plan(pictures, Toy()), Toy(), tmp_path)
    (tmp_path / "plots").mkdir()
    (table,) = write_report(found)
    words = (tmp_path / "report.html").read_text()
    named = Outside()
    named.feed(words)
    assert [value[:22] for value in named.found] == ["data:image/png;base64,"]
    assert "url(" not in words and "@import" not in words
    assert words.count("data:image/png;base64,") == 1
    assert "true Gaussian noise" in words
    assert [row[0] for row in lines_of(table)] == ["base", "SSI", "SSI heun", "true Gaussian noise"]
    first = (tmp_path / "plots" / "wins.svg").read_bytes()
    write_report(found)
    assert (tmp_path / "plots" / "wins.svg").read_bytes() == first


def test_ctrl_c_on_the_command_line_and_going_on(tmp_path):
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "ssi_core",
        "evaluate",
        "fig14",
        "--out",
        str(out),
        "--device",
        "cpu",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    part = out / PARTS / "0.csv"
    until = time.monotonic() + 120
    while time.monotonic() < until and not (part.exists() and len(part.read_bytes().splitlines()) > 2):
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 130
    assert "Traceback" not in said
    assert 2 <= len(part.read_bytes().splitlines()) - 1 < 464
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert len(load_results(out).rows) == 464  # 200 levels of each exact score, 64 of the model's
    assert (out / "report.html").exists()


def test_frozen_seeds_do_not_depend_on_torch_defaults(pictures, tmp_path, wanted):
    torch.manual_seed(99)
    evaluate(plan(pictures, Coupled()), Coupled(), tmp_path)
    assert (tmp_path / RESULTS).read_bytes() == wanted
