"""`ssi theory`: every experiment runs and is written down whole; the exact ones meet their requirements."""

import gzip
import json
import re
import struct
import subprocess
import sys

import pytest
import torch

from ssi_core import Cancelled, InputError
from ssi_core.cli import main
from ssi_core.theory import digits
from ssi_core.theory.catalogue import EXPERIMENTS, Lab
from ssi_core.theory.experiment import Finding
from ssi_core.theory.run import OUTCOME, PAGE, read_outcome, run_all, run_experiment, verdict

EXACT = ("singularity", "skip", "skip-flow")
LEFT_TO_CHANCE = "leftover"
"""Within 10% only with all the samples of a full run."""
TINY = 0.005


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """All experiments at a hundredth of their size: that they run, not what they find."""
    out = tmp_path_factory.mktemp("theory")
    return out, run_all(out, Lab(scale=TINY))


def test_all_experiments_are_written_down(everything):
    _, written = everything
    assert [one.experiment.name for one in written] == list(EXPERIMENTS)
    for one in written:
        assert one.findings and one.tables and one.figures
        assert {path.name for path in one.folder.iterdir()} == {
            OUTCOME, "tables.md", "tables.csv", *(path.name for path in one.figures),
        }  # fmt: skip
        assert "| verdict |" in (one.folder / "tables.md").read_text().replace("what | required | measured ", "")
        assert (one.folder / "tables.csv").read_text().count("\n") > len(one.findings)


def test_the_page_opens_offline(everything):
    out, written = everything
    page = (out / PAGE).read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page) and "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/png;base64,") == sum(len(one.figures) for one in written)
    for one in written:
        assert one.experiment.title in page
        for finding in one.findings:
            assert ("MISSED" in page) or finding.met is not False


def test_a_stopped_run_goes_on_where_it_was(everything, monkeypatch):
    out, _ = everything
    ran = []
    real = run_experiment
    monkeypatch.setattr("ssi_core.theory.run.run_experiment", lambda name, *rest: ran.append(name) or real(name, *rest))
    (out / "singularity" / OUTCOME).unlink()
    (out / "skip" / "price.png").unlink()
    run_all(out, Lab(scale=TINY), ["singularity", "skip", "line"])
    assert ran == ["singularity", "skip"]
    run_all(out, Lab(seed=1, scale=TINY), ["singularity"])  # another seed is another run
    assert ran[2:] == ["singularity"]


@pytest.mark.parametrize("name", EXACT)
def test_exact_experiments_meet_their_requirements(name, tmp_path):
    found = run_experiment(name, tmp_path / name, Lab(scale=0.1))
    assert [f.what for f in found.findings if f.met is not True and LEFT_TO_CHANCE not in f.what] == []


def test_interrupted_before_the_end_nothing_counts_as_whole(tmp_path):
    def stop(part, done, of):
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        run_experiment("singularity", tmp_path / "a", Lab(scale=TINY, task=stop))
    with pytest.raises(InputError, match="no whole outcome"):
        read_outcome(tmp_path / "a")


def test_verdicts():
    assert [verdict(Finding("", "", "", met)) for met in (True, False, None)] == ["met", "MISSED", "reported"]


@pytest.mark.parametrize(
    ("lab", "message"),
    [(Lab(scale=0), "scale 0"), (Lab(scale=-1), "scale"), (Lab(scale=float("nan")), "scale"), (Lab(seed=-1), "seed")],
)
def test_labs_that_make_no_sense(lab, message, tmp_path):
    with pytest.raises(InputError, match=message):
        run_experiment("singularity", tmp_path, lab)


def test_command_line(tmp_path, capsys):
    main_or_exit(["theory", "singularity", "--out", str(tmp_path / "out"), "--scale", "0.05"])
    own = tmp_path / "out" / "singularity"
    assert (own / "trajectories.png").is_file()
    facts = json.loads((own / OUTCOME).read_text())["facts"]
    assert facts["scale"] == 0.05 and facts["seed"] == 0
    assert "slope" in capsys.readouterr().out
    # Another one in the same folder adds to the page.
    main_or_exit(["theory", "skip", "--out", str(tmp_path / "out"), "--scale", "0.05"])
    page = (tmp_path / "out" / PAGE).read_text()
    assert all(EXPERIMENTS[name].title in page for name in ("singularity", "skip"))
    capsys.readouterr()
    assert main_or_exit(["theory", "torus", "--out", str(tmp_path / "no")]) == 2
    assert "known are all, singularity" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "no").exists()
    (tmp_path / "file").write_text("")
    assert main_or_exit(["theory", "singularity", "--out", str(tmp_path / "file")]) == 2


def main_or_exit(arguments):
    try:
        main(arguments)
    except SystemExit as end:
        return end.code
    return 0


def test_the_command_line_needs_no_matplotlib_to_start():
    code = "import sys, ssi_core.cli; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def idx(values, packed):
    data = struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape) + bytes(values.flatten().tolist())
    return gzip.compress(data) if packed else data


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_files(tmp_path, packed):
    pictures = torch.randint(0, 256, (6, 5, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels = torch.arange(6).to(torch.uint8)
    end = ".gz" if packed else ""
    (tmp_path / f"train-images-idx3-ubyte{end}").write_bytes(idx(pictures, packed))
    with pytest.raises(InputError, match=r"train-labels-idx1-ubyte .*missing"):
        digits.mnist_digits(tmp_path)
    (tmp_path / f"train-labels-idx1-ubyte{end}").write_bytes(idx(labels, packed))
    found = digits.mnist_digits(tmp_path)
    assert found.side == 5 and found.labels.tolist() == list(range(6))
    assert found.pictures.add(1).mul(127.5).round().to(torch.uint8).reshape(6, 5, 5).equal(pictures)
    for damage in (b"", b"\x00" * 20, idx(pictures, packed)[:-3]):
        (tmp_path / f"train-images-idx3-ubyte{end}").write_bytes(damage)
        with pytest.raises(InputError, match="train-images"):
            digits.mnist_digits(tmp_path)


def test_mnist_files_that_are_damaged_inside(tmp_path):
    pictures, labels = torch.zeros(6, 5, 5, dtype=torch.uint8), torch.arange(6).to(torch.uint8)

    def write(pictures, labels):
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(idx(pictures, True))
        (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx(labels, True))

    write(pictures, labels + 100)
    with pytest.raises(InputError, match="labels 0 to 9"):
        digits.mnist_digits(tmp_path)
    write(torch.zeros(6, 5, 6, dtype=torch.uint8), labels)
    with pytest.raises(InputError, match="square pictures"):
        digits.mnist_digits(tmp_path)
    write(pictures, labels)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = bytearray(path.read_bytes())
    for at in range(10, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        with pytest.raises(InputError):
            digits.mnist_digits(tmp_path)


def test_scikit_learns_digits():
    found = digits.sklearn_digits()
    assert found.pictures.shape == (1797, 64) and -1 <= float(found.pictures.min()) < float(found.pictures.max()) <= 1
