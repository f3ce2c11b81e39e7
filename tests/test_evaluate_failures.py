"""What fails, fails alone: a picture not its batch, a method not its report; and no table flatters who failed."""

import math
from dataclasses import replace

import pytest
import torch
from evaluations import SIZE, Toy, folder, lines_of, plan
from test_evaluate_presets import short, short_training  # noqa: F401  # a fixture

from ssi_core import DenoiserError, InputError, load_image
from ssi_core.evaluate import PRESETS, bench, evaluate
from ssi_core.evaluate.plots import PLOTS
from ssi_core.evaluate.report import tables, write_report
from ssi_core.evaluate.results import ratios, share_error, wins
from ssi_core.evaluate.store import RESULTS


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("pictures") / "set", count=9)


class Broken(Toy):
    """NaN for every input."""

    def __call__(self, x, sigma):
        return x * math.nan


def breaking(monkeypatch, broken):
    """Let the model fail in all arms for which `broken` holds."""
    whole = bench.Bench.model
    monkeypatch.setattr(bench.Bench, "model", lambda self, arm: Broken() if broken(arm) else whole(self, arm))


@pytest.mark.parametrize("failing", ["base", "all"])
@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_reports_what_failed(name, failing, pictures, tmp_path, monkeypatch):
    breaking(monkeypatch, lambda arm: failing == "all" or not arm.skip)
    found = evaluate(short(name, pictures), Toy(), tmp_path)
    made = write_report(found)
    broken = {a.name for a in found.plan.arms if a.target in ("model", "memory", "samples")
              and (failing == "all" or not a.skip)}  # fmt: skip
    assert {row["arm"] for row in found.failed} == broken
    assert not broken & {row["arm"] for row in found.rows if not row["failed"]}
    words = (tmp_path / "report.html").read_text()
    assert words.count("data:image/png;base64,") == len(PRESETS[name].plots)
    assert ("rows failed" in words) == bool(broken)
    for row in made[0].rows:
        if row[0] in broken:
            assert "failed" in " ".join(row)
            assert not any(cell.replace(".", "").isdigit() for cell in row[2:] if cell != "0%")


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_with_one_picture(name, pictures, tmp_path):
    one = replace(short(name, pictures), limit=1)
    if PRESETS[name].study == "interpolations":
        with pytest.raises(InputError, match=r"blends two pictures of one set; found 1 .* a --limit of at least 2"):
            evaluate(one, Toy(), tmp_path)
        assert not (tmp_path / "plan.json").exists()  # the same folder can be had with another limit
        return
    found = evaluate(one, Toy(), tmp_path)
    write_report(found)
    assert found.rows and not found.failed


def test_distances_of_one_pair_are_not_made_up(pictures, tmp_path):
    found = evaluate(replace(short("fig11", pictures), limit=2), Toy(), tmp_path)
    made = write_report(found)
    assert made[-1].rows == [] and "fewer than two pairs" in made[-1].notes[0]


class Picky(Toy):
    """Fails on one picture, known by its mean, at the smallest levels."""

    def __init__(self, hated):
        super().__init__()
        self.hated = float(hated.mean())

    def __call__(self, x, sigma):
        found = super().__call__(x, sigma)
        found[((x.mean((1, 2, 3)) - self.hated).abs() < 1e-5) & (sigma < 0.01)] = math.nan
        return found


def test_one_bad_picture_costs_its_batch_nothing(pictures, tmp_path):
    """The rest of its batch has the very rows of the toy that does not fail, computed one by one."""
    given = replace(plan(pictures, Toy(), batch=4), arms=plan(pictures, Toy()).arms[:2])
    whole = evaluate(given, Toy(), tmp_path / "whole")
    bad = next(r["image"] for r in whole.rows if r["index"] == "2")
    picky = Picky(load_image(pictures / bad, SIZE))
    found = evaluate(given, picky, tmp_path / "picky")
    assert [(r["arm"], r["index"]) for r in found.failed] == [("base", "2")]
    assert "NaN" in found.failed[0]["failed"]
    kept = [r for r in found.rows if not r["failed"]]
    alone = evaluate(replace(given, batch=1), Toy(), tmp_path / "alone").of("base")
    in_its_batch = ("0", "1", "2", "3")
    assert [{**r, "plan": ""} for r in found.of("base") if r["index"] in in_its_batch] == [
        {**r, "plan": ""} for r in alone if r["index"] in in_its_batch and r["index"] != "2"
    ]
    elsewhere = [r for r in kept if r["arm"] != "base" or r["index"] not in in_its_batch]
    assert elsewhere == [r for r in whole.rows if r["arm"] != "base" or r["index"] not in in_its_batch]
    # However much of the batch is there already, the rest comes out the same.
    table = tmp_path / "picky" / RESULTS
    before = table.read_bytes()
    lines = before.splitlines(keepends=True)
    table.write_bytes(b"".join(lines[:2] + lines[5:]))
    evaluate(given, picky, tmp_path / "picky")
    assert table.read_bytes() == before


def test_who_failed_is_not_flattered(pictures, tmp_path):
    given = plan(pictures, Toy(), batch=4)
    whole = evaluate(given, Toy(), tmp_path / "whole")
    ssi, base = given.arms[1].name, given.arms[0].name
    bad = next(r["image"] for r in whole.rows if r["index"] == "2")
    found = evaluate(given, Picky(load_image(pictures / bad, SIZE)), tmp_path / "picky")
    (table,) = tables(found, PRESETS["regimes"])
    assert [row[1] for row in lines_of(table)[:3]] == ["8 (1 failed)", "8", "8"]  # means over the same pictures
    assert any("pictures that every arm could do" in note for note in table.notes)
    before, after = ratios(whole, ssi, base, "images"), ratios(found, ssi, base, "images")
    assert len(after) == len(before) == 9
    assert after[2] == math.inf and after[:2] + after[3:] == before[:2] + before[3:]
    share = sum(r > 1 for r in after) / 9
    assert wins(found, ssi, base, "images") == share
    at = table.columns.index("wins")
    line = next(i for i, row in enumerate(table.rows) if row[0] == ssi)
    assert table.rows[line][at] == f"{share:.0%}"
    assert table.rows[line + 1][at] == f"{share_error(share, 9):.0%}" != f"{share_error(share, 8):.0%}"
    assert ratios(found, base, ssi, "images")[2] == 0  # and the other way round a failure has lost


def test_a_seed_whose_picture_is_gone_moves_no_other(pictures, tmp_path):
    found = evaluate(short("fig5", pictures), Toy(), tmp_path)
    (whole,) = PLOTS["repeats"](found, PRESETS["fig5"]).axes
    (tmp_path / "pictures" / "SSI" / "00000-1.back.png").unlink()
    (left,) = PLOTS["repeats"](found, PRESETS["fig5"]).axes
    changed = (whole.images[0].get_array() != left.images[0].get_array()).any(-1)
    rows, columns = changed.any(1).nonzero()[0], changed.any(0).nonzero()[0]
    assert 0 < len(rows) <= 2 * SIZE and 0 < len(columns) <= 2 * SIZE  # one picture, drawn twice as large


def test_no_bar_where_nothing_was_compared(pictures, tmp_path, monkeypatch):
    breaking(monkeypatch, lambda arm: True)
    found = evaluate(plan(pictures, Toy()), Toy(), tmp_path)
    (panel,) = PLOTS["wins"](found, PRESETS["regimes"]).axes
    assert [bar.get_width() for bar in panel.patches if not math.isnan(bar.get_y())] == []
    assert [word.get_text().strip() for word in panel.texts] == ["both failed"]


def test_a_model_that_fails_whatever_it_is_given(pictures, tmp_path):
    found = evaluate(plan(pictures, Toy()), Broken(), tmp_path)
    assert len(found.failed) == len(found.rows) == 27
    write_report(found)


def test_blends_of_a_bad_picture_fail_as_a_pair(pictures, tmp_path):
    given = short("fig12", pictures)
    whole = evaluate(given, Toy(), tmp_path / "whole")
    bad = next(p.name for p in whole.pictures if p.index == 3)
    found = evaluate(given, Picky(load_image(pictures / bad, SIZE)), tmp_path / "picky")
    assert {(r["arm"], r["index"]) for r in found.failed} == {("base", "2")}
    write_report(found)


def test_denoiser_errors_that_pass_are_tried_again_alone(pictures, tmp_path):
    toy = Toy(fatal=3, error=DenoiserError("NaN at step 3"))
    found = evaluate(plan(pictures, toy), toy, tmp_path)
    assert not found.failed and not any(torch.tensor(float(r["mse"])).isnan() for r in found.rows)
