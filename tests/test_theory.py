"""`ssi theory`: every experiment runs and is written down whole; the exact ones meet their requirements."""

import csv
import gzip
import json
import math
import re
import struct
import subprocess
import sys
from base64 import b64decode
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from ssi_core import OU, Cancelled, InputError
from ssi_core.cli import main
from ssi_core.manifold import MLP, Distribution, Eps, distribution, log_uniform
from ssi_core.theory import digits
from ssi_core.theory.catalogue import EXPERIMENTS, Lab
from ssi_core.theory.experiment import Finding
from ssi_core.theory.plane import error_curves, line_answers
from ssi_core.theory.run import OUTCOME, PAGE, read_outcome, run_all, run_experiment, verdict, write_page
from ssi_core.theory.seeds import below, lowest, ordered, trained
from ssi_core.theory.singular import fixed_points

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
    page = read_page((out / PAGE).read_text())
    assert page.outside == []
    pictures = [b64decode(source.partition("base64,")[2], validate=True) for source in page.pictures]
    assert pictures == [path.read_bytes() for one in written for path in one.figures] and len(pictures) > 10
    assert {f"#{one.experiment.name}" for one in written} == set(page.links)
    for one in written:
        for finding in one.findings:
            cells = [finding.what, finding.required, finding.measured]
            assert [*cells, "reported" if finding.met is None else "too small to judge"] in page.rows


def test_a_page_shows_every_miss(everything, tmp_path):
    """As a run at full scale would: what is missed stands in the list at the top and beside the requirement."""
    _, written = everything
    one = written[0]
    findings = [Finding("first <what>", "a", "b", False), Finding("second", "c", "d", True)]
    write_page(tmp_path, [replace(one, findings=findings, facts=one.facts | {"scale": 1.0})])
    text = (tmp_path / PAGE).read_text()
    page = read_page(text)
    assert ["first <what>", "a", "b", "MISSED"] in page.rows and ["second", "c", "d", "met"] in page.rows
    assert "missed: first &lt;what&gt;</strong>" in text and "missed: second" not in text


class Page(HTMLParser):
    """What a page shows in tables and pictures, where its links lead, and what it would have to fetch."""

    def __init__(self):
        super().__init__()
        self.outside, self.pictures, self.links, self.rows, self.cell = [], [], [], [], False

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "src" and tag == "img" and value.startswith("data:image/png;base64,"):
                self.pictures.append(value)
            elif name == "href" and value.startswith("#"):
                self.links.append(value)
            elif name in ("src", "href", "srcset", "data", "action", "poster", "background"):
                self.outside.append(value)
        if tag in ("script", "iframe", "object", "embed", "base"):
            self.outside.append(tag)
        if tag == "tr":
            self.rows.append([])
        self.cell = tag in ("td", "th")
        if self.cell:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.cell = self.cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.cell:
            self.rows[-1][-1] += data
        if self.lasttag == "style":
            self.outside += re.findall(r"@import|url\((?!data:)[^)]*", data)


def read_page(text):
    page = Page()
    page.feed(text)
    return page


def test_a_stopped_run_goes_on_where_it_was(everything, monkeypatch):
    out, _ = everything
    ran = []
    real = run_experiment
    monkeypatch.setattr("ssi_core.theory.run.run_experiment", lambda name, *rest: ran.append(name) or real(name, *rest))
    (out / "singularity" / OUTCOME).unlink()
    (out / "skip" / "price.png").unlink()
    run_all(out, Lab(scale=TINY), ["singularity", "skip", "line"])
    assert ran == ["singularity", "skip"]
    run_all(out, Lab(scale=TINY), ["singularity"])
    assert ran == ["singularity", "skip"]
    for what in ("version", "torch", "threads"):  # what was made with something else is made again
        path = out / "singularity" / OUTCOME
        document = json.loads(path.read_text())
        path.write_text(json.dumps(document | {"facts": document["facts"] | {what: "another"}}))
        run_all(out, Lab(scale=TINY), ["singularity"])
        assert ran.pop() == "singularity" and len(ran) == 2


@pytest.mark.parametrize(
    ("lab", "differs"),
    [
        (Lab(seed=1, scale=TINY), "seed 0, and 1"), (Lab(scale=2 * TINY), "scale 0.005, and 0.01"),
        (Lab(scale=TINY, mnist=Path("digits")), f"mnist '', and '{Path('digits').resolve()}'"),
    ],
)  # fmt: skip
def test_a_folder_holds_one_seed_and_scale(everything, lab, differs):
    out, _ = everything
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=rf"holds singularity with {re.escape(differs)} is asked for; give another"):
        run_all(out, lab, ["line"])
    assert main_or_exit(["theory", "skip", "--out", str(out), "--seed", "7", "--scale", str(TINY)]) == 2
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["report.html", "findings.csv", "plan.json"])
def test_files_of_something_else_are_not_written_over(tmp_path, name):
    (tmp_path / name).write_text("my thesis")
    with pytest.raises(InputError, match=f"holds a {name} that is not of `ssi theory`"):
        run_all(tmp_path, Lab(scale=TINY), ["singularity"])
    assert [p.name for p in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "my thesis"


@pytest.mark.parametrize("name", EXACT)
def test_exact_experiments_meet_their_requirements(name, tmp_path):
    found = run_experiment(name, tmp_path / name, Lab(scale=0.1))
    assert [f.what for f in found.findings if f.met is not True and LEFT_TO_CHANCE not in f.what] == []


@pytest.mark.parametrize("off", [0.05, 1e-3])
def test_theorem_3_5_is_missed_by_a_denoiser_that_is_off(off, monkeypatch):
    right = Distribution.denoise
    assert fixed_points(Lab())[1].met
    monkeypatch.setattr(Distribution, "denoise", lambda *arguments: right(*arguments) + off)
    assert fixed_points(Lab())[1].met is False


class Answers:
    """What `error_curves` asks of a trained model: a method's exact answer, times `share`, off by `off`."""

    def __init__(self, method, share, off=0.0):
        self.method, self.share, self.off = method, share, off

    def answer(self, x, sigma):
        t = float(torch.log1p(sigma[0] ** 2))
        return self.share * line_answers(self.method, x * math.exp(-t / 2), t) + self.off


def test_what_is_said_of_the_errors_on_the_line_can_be_missed():
    """An answer of 0 near the singularity misses it all; the exact one but for a constant misses nothing of it."""

    def verdicts(share):
        models = [Answers(method, share, 0.01) for method in ("CEM", "DDPM", "SGM")]
        return {f.what: f.met for f in error_curves(models, Lab(scale=0.1))[-1]}

    nothing, all_but = verdicts(0.0), verdicts(1.0)
    assert len(nothing) == 5 and all(nothing.values())
    assert [what for what, met in all_but.items() if met] == [next(what for what in all_but if "error of f" in what)]


def test_digits_are_judged_at_one_size(monkeypatch):
    real, sizes = digits.frechet, []
    monkeypatch.setattr(digits, "frechet", lambda a, b: sizes.append((len(a), len(b))) or real(a, b))
    EXPERIMENTS["digits"].run(Lab(scale=TINY))
    assert len(sizes) == 6 and set(sizes) == {(60, 540)}  # two models and the training digits, in two spaces


def test_interrupted_before_the_end_nothing_counts_as_whole(tmp_path):
    def stop(part, done, of):
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        run_experiment("singularity", tmp_path / "a", Lab(scale=TINY, task=stop))
    with pytest.raises(InputError, match="no whole outcome"):
        read_outcome(tmp_path / "a")


def test_verdicts():
    findings = [Finding("", "", "", met) for met in (True, False, None)]
    assert [verdict(finding, 1.0) for finding in findings] == ["met", "MISSED", "reported"]
    assert [verdict(finding, 0.99) for finding in findings] == ["too small to judge"] * 2 + ["reported"]


def test_one_rule_says_what_is_ordered():
    low, near, high = [1.0, 2.0, 3.0], [1.5, 2.5, 3.5], [4.0, 4.1, 4.2]  # spreads 1, 1 and .1
    assert below(low, high) and not below(low, near) and not below(high, low) and not below(low, low)
    assert below([1.0], [1.1])  # one repeat has no spread
    assert ordered(low, high) and not ordered(low, near, high) and not ordered(high, low)
    assert lowest("a", {"a": low, "b": high}) and not lowest("a", {"a": low, "b": high, "c": near})


CHANCE = {
    "one pair": lambda a, b, c: below(a, b),
    "lowest of three": lambda a, b, c: lowest("a", {"a": a, "b": b, "c": c}),
    "order of three": lambda a, b, c: ordered(a, b, c),
}


@pytest.mark.parametrize("what", CHANCE)
def test_how_often_chance_alone_meets_the_rule(what):
    """The shares that docs/theory.md gives: three independent repeats each of methods that do not differ."""
    text = " ".join((Path(__file__).parents[1] / "docs" / "theory.md").read_text().split())
    share = float(re.search(rf"{what} in ([\d.]+)%", text)[1]) / 100
    count = 4000
    draws = torch.randn(count, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    found = sum(CHANCE[what](*three) for three in draws) / count
    assert found == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / count)) and found > 0


def test_no_two_random_streams_are_one():
    seeds = {
        (seed, purpose, repeat): Lab(seed=seed).seed_of(purpose, repeat)
        for seed in range(20)
        for purpose in ("data", "first weights", "noise", "noise1")
        for repeat in range(12)
    }
    assert len(set(seeds.values())) == len(seeds) and max(seeds.values()) < 2**32
    first = {key: torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist() for key, seed in seeds.items()}
    assert len({tuple(numbers) for numbers in first.values()}) == len(seeds)
    assert Lab(seed=3).generator("data", 2).initial_seed() == seeds[3, "data", 2]


def test_repeats_share_nothing_and_methods_within_one_share_all():
    """The weights that training begins with, and its losses, which depend on batches, levels and noise."""

    def losses(seed, repeat):
        lab = Lab(seed=seed, scale=0.01)
        data = distribution("line").sample(500, torch.Generator().manual_seed(0))
        model = trained(lab, repeat, "", data, Eps(OU()), partial(MLP, 2, 4, 1), log_uniform(0.1, 1), steps=5, batch=9)
        return model.losses[0]

    found = [losses(seed, repeat) for seed in range(3) for repeat in range(3)]
    assert len(set(found)) == 9 and losses(0, 1) == found[1]


def rows_of(table):
    """The rows of a Markdown table as lists of cells, its line of dashes left out."""
    lines = [line.strip()[2:-2] for line in table.splitlines() if line.startswith("|")]
    rows = [[cell.strip().replace("\\|", "|") for cell in re.split(r" ?(?<!\\)\| ?", line)] for line in lines]
    return [row for row in rows if set(row) != {"---"}]


def test_the_table_of_the_documentation_is_what_was_measured():
    """docs/theory.csv is the findings.csv of `ssi theory all`; the page's table is its rows, whole and in order."""
    docs = Path(__file__).parents[1] / "docs"
    with (docs / "theory.csv").open(newline="") as file:
        measured = [row[1:] for row in csv.reader(file)]
    section = (docs / "theory.md").read_text().partition("## What is required and what was measured")[2]
    shown = rows_of(section.partition("\n## ")[0])
    assert [[cell.replace("**", "") for cell in row] for row in shown] == measured
    assert list(dict.fromkeys(row[0].partition(":")[0] for row in measured[1:])) == list(EXPERIMENTS)
    assert max(float(row[-1] or 0) for row in measured[1:]) < 300  # five minutes


def test_what_the_documentation_says_is_required_is_what_the_experiments_require(everything):
    """Names and requirements of docs/theory.csv against those of a run, which do not depend on its size."""
    _, written = everything
    with (Path(__file__).parents[1] / "docs" / "theory.csv").open(newline="") as file:
        said = [row[1:3] for row in csv.reader(file)][1:]
    assert said == [[f"{one.experiment.name}: {f.what}", f.required] for one in written for f in one.findings]


def test_the_findings_of_a_run_are_one_table(everything):
    out, written = everything
    rows = rows_of((out / "findings.md").read_text())
    with (out / "findings.csv").open(newline="") as file:
        assert [row[1:] for row in csv.reader(file)] == rows
    assert len(rows) == 1 + sum(len(one.findings) for one in written)
    assert rows[1][:3] == [f"singularity: {written[0].findings[0].what}", written[0].findings[0].required,
                           written[0].findings[0].measured]  # fmt: skip


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
