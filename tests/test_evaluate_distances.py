"""Sets of pictures compared: the distance as in textbooks, features that mean what they say, Figure 11 end to end."""

import csv
import sys
import types
from dataclasses import replace

import pytest
import torch
from evaluations import Toy, folder, lines_of
from scipy.linalg import sqrtm

from ssi_core import DenoiserError, InputError, load_image
from ssi_core.evaluate import PRESETS, distances, evaluate, plan_of
from ssi_core.evaluate.distances import DISTANCES, FILE, QUANTUM, THEMSELVES, haar, measured
from ssi_core.evaluate.images import DEMO, load_survey, read_picture, save_survey, survey
from ssi_core.evaluate.report import tables, write_report
from ssi_core.metrics import frechet

WEIGHTS = [0.3, 0.5]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("pictures") / "set", count=9)


@pytest.fixture(scope="module")
def found(pictures, tmp_path_factory):
    """Figure 11 with few steps: four pictures blended, five to compare with."""
    plan = plan_of("fig11", model="toy", denoise=Toy(), images=str(pictures), limit=4)
    arms = tuple(replace(arm, steps=4) for arm in plan.arms)
    plan = replace(plan, arms=arms, options={**plan.options, "weights": WEIGHTS}, batch=3)
    return evaluate(plan, Toy(), tmp_path_factory.mktemp("fig11"))


def textbook(a, b):
    """Heusel et al. 2017, Eq. 6, with a matrix root."""
    root = torch.as_tensor(sqrtm((a.T.cov() @ b.T.cov()).numpy()).real)
    return float((a.mean(0) - b.mean(0)).square().sum() + (a.T.cov() + b.T.cov() - 2 * root).trace())


def test_frechet_is_the_textbooks():
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(200, 5, generator=draw, dtype=torch.float64) @ torch.randn(5, 5, generator=draw).double()
    b = torch.randn(300, 5, generator=draw, dtype=torch.float64) * 2 + 1
    assert frechet(a, b) == pytest.approx(textbook(a, b), rel=1e-9)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-12)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(a, a + 3) == pytest.approx(9 * 5, rel=1e-9)


def test_frechet_of_fewer_pictures_than_features():
    """Covariances without full rank: a turn into more dimensions changes no distance."""
    draw = torch.Generator().manual_seed(1)
    a, b = (torch.randn(n, 3, generator=draw, dtype=torch.float64) for n in (6, 9))
    turn = torch.linalg.qr(torch.randn(40, 40, generator=draw, dtype=torch.float64))[0][:3]
    assert frechet(a @ turn, b @ turn) == pytest.approx(textbook(a, b), rel=1e-9)


def test_haar_features_are_colours_and_directions():
    flat = torch.tensor([0.5, -0.25, 0.0])[None, :, None, None].expand(1, 3, 32, 32)
    layout, energies = haar(flat).split([48, 27], dim=1)
    assert layout.reshape(3, 16).std(1).max() == 0
    assert layout.reshape(3, 16)[:, 0].tolist() == [0.5, -0.25, 0]
    assert torch.equal(energies, torch.full_like(energies, QUANTUM).log())
    at = torch.arange(32)
    for direction, sign in enumerate((at[None] + 0 * at[:, None], at[:, None] + 0 * at[None], at[None] + at[:, None])):
        stripes = ((-1.0) ** sign).expand(1, 3, 32, 32)
        energy = haar(stripes)[0, 48:].exp() - QUANTUM
        loud = energy.reshape(3, 3, 3)  # octave, direction, channel
        assert loud[0, direction] == pytest.approx(4.0)  # (1 + 1 + 1 + 1)^2 / 2^2
        loud[0, direction] = 0
        assert loud.abs().max() < 1e-12
    assert haar(torch.rand(2, 3, 37, 50)).shape == (2, 48 + 27)


def test_every_distance_is_that_of_the_kept_pictures(found, pictures):
    rows = {(r["arm"], r["weight"]): r for r in measured(found)}
    size = Toy.image_size
    names = [p.name for p in found.pictures]
    assert [p.reference for p in found.pictures] == [False] * 4 + [True] * 5
    reference = haar(torch.cat([load_image(pictures / name, size) for name in names[4:]]))
    kept = found.folder / "pictures"

    def apart(paths):
        return frechet(haar(torch.cat([load_image(path) for path in paths])), reference)

    assert set(rows) == {
        *((arm, repr(w)) for arm in ("base", "SSI") for w in WEIGHTS), ("sampled directly", ""), (THEMSELVES, "")
    }  # fmt: skip
    for arm in ("base", "SSI"):
        for k, weight in enumerate(WEIGHTS, start=1):
            paths = [kept / arm / f"{first:05d}.frame{k}.png" for first in (0, 2)]
            assert float(rows[arm, repr(weight)]["value"]) == pytest.approx(apart(paths), rel=1e-9)
    direct = [kept / "sampled directly" / f"{i:05d}.sample.png" for i in range(2)]
    assert float(rows["sampled directly", ""]["value"]) == pytest.approx(apart(direct), rel=1e-9)
    own = frechet(haar(torch.cat([load_image(pictures / names[i], size) for i in (0, 2)])), reference)
    assert float(rows[THEMSELVES, ""]["value"]) == pytest.approx(own, rel=1e-9)
    assert {(r["pictures"], r["reference"]) for r in rows.values()} == {("2", "5")}


def test_distances_are_kept_and_made_again_for_another_plan(found, monkeypatch):
    before = measured(found)
    monkeypatch.setitem(DISTANCES, "haar_fd", replace(DISTANCES["haar_fd"], features=None))
    assert measured(found) == before
    monkeypatch.undo()
    path = found.folder / FILE
    path.write_text(path.read_text().replace(found.plan.digest, "another"))
    assert measured(found) == before


def test_a_blend_whose_picture_is_gone_leaves_a_gap_that_is_said(pictures, tmp_path):
    """No dead end: its row is there, so that the same command would never make the picture again."""
    plan = plan_of("fig11", model="toy", denoise=Toy(), images=str(pictures), limit=6)
    arms = tuple(replace(arm, steps=4) for arm in plan.arms)
    found = evaluate(replace(plan, arms=arms, options={**plan.options, "weights": WEIGHTS}), Toy(), tmp_path)
    (tmp_path / "pictures" / "SSI" / "00002.frame1.png").unlink()
    (tmp_path / "pictures" / "sampled directly" / "00000.sample.png").unlink()
    made = write_report(found)
    assert {(r["arm"], r["pictures"]) for r in measured(found)} == {
        (arm, "2") for arm in ("base", "SSI", "sampled directly", THEMSELVES)
    }
    assert any("1 pairs are left out of every set" in note for note in made[-1].notes)
    (tmp_path / "pictures" / "SSI" / "00000.frame1.png").unlink()
    (tmp_path / FILE).unlink()
    assert "fewer than two pairs" in write_report(found)[-1].notes[0]


def test_blends_that_failed_are_left_out_of_every_set(pictures, tmp_path):
    plan = plan_of("fig11", model="toy", denoise=Toy(), images=str(pictures), limit=6)
    plan = replace(
        plan, arms=tuple(replace(arm, steps=4) for arm in plan.arms), options={**plan.options, "weights": [0.5]}
    )
    found = evaluate(plan, Toy(fatal=1, error=DenoiserError("NaN")), tmp_path)  # a pair is not tried again
    assert [(r["arm"], r["index"]) for r in found.failed] == [("base", "0")]
    assert {(r["arm"], r["pictures"]) for r in measured(found)} == {
        (arm, "2") for arm in ("base", "SSI", "sampled directly", THEMSELVES)
    }


def test_samples_are_of_gaussian_noise_and_as_many_as_blends(found):
    direct = found.of("sampled directly")
    assert [(r["set"], r["index"], r["weight"]) for r in direct] == [("samples", "0", ""), ("samples", "1", "")]
    assert all(float(r["norm"]) == pytest.approx(1, abs=0.1) for r in direct)
    assert found.sets == ["images"]


def test_the_summary_names_what_is_missing_and_warns(found):
    noise, sets = tables(found, PRESETS["fig11"])
    assert [row[0] for row in lines_of(noise)] == ["base", "SSI", "sampled directly", "true Gaussian noise"]
    assert [row[:2] for row in lines_of(noise)[:3]] == [["base", "4"], ["SSI", "4"], ["sampled directly", "2"]]
    fid = next(row for row in sets.rows if row[0] == "fid")
    assert fid[2:] == [found.plan.missing["fid"].partition(":")[0] + ", see below"] * len(WEIGHTS)
    assert any("pt_inception-2015-12-05-6726825d.pth" in note for note in sets.notes)
    assert any("with few pictures claim nothing" in note for note in sets.notes)
    direct = next(row for row in sets.rows if row[0] == "haar_fd: sampled directly")
    assert direct[2] == direct[3]


def test_fid_is_of_piqs_features(monkeypatch):
    """piq is not installed here: a stand-in shows that what it is given and what it gives goes through unchanged."""
    given = []

    class Inception(torch.nn.Module):
        def forward(self, x):
            given.append(x)
            return [x[:, :, :1, :1]]

    piq, extractors = types.ModuleType("piq"), types.ModuleType("piq.feature_extractors")
    extractors.InceptionV3 = Inception
    monkeypatch.setitem(sys.modules, "piq", piq)
    monkeypatch.setitem(sys.modules, "piq.feature_extractors", extractors)
    distances._network.cache_clear()
    x = torch.rand(4, 3, 8, 8) * 2.2 - 1.1
    assert torch.equal(DISTANCES["fid"].features(x), given[0][:, :, 0, 0])
    assert torch.equal(given[0], (x.clamp(-1, 1) + 1) / 2)
    distances._network.cache_clear()


def test_a_survey_leaves_pictures_to_compare_with(pictures, tmp_path):
    listed = survey(str(pictures), 5, 0, 16, reference=3)
    assert [(p.index, p.reference) for p in listed] == [(i, i >= 5) for i in range(8)]
    save_survey(tmp_path / "images.csv", listed)
    assert load_survey(tmp_path / "images.csv") == listed
    for limit in (0, 7, 8, 1000):  # too few for both: half and half; 7 leave 2, fewer than their blends
        halved = survey(str(pictures), limit, 0, 16, reference=3)
        assert [(p.index, p.reference) for p in halved] == [(i, i >= 4) for i in range(9)]
    listed = survey(str(pictures), 6, 0, 16, reference=3)
    assert [p.reference for p in listed] == [False] * 6 + [True] * 3
    with pytest.raises(InputError, match=r"3 pictures in it can be used .* at least 4 are wanted"):
        survey(str(folder(tmp_path / "few", count=3)), 2, 0, 16, reference=3)


def test_pictures_to_compare_with_come_from_a_folder_of_their_own(pictures, tmp_path):
    other = folder(tmp_path / "other", count=12)  # the first nine are those of `pictures`
    (other / "words.txt").write_text("no picture")
    listed = survey(str(pictures), 4, 0, 16, reference=5, beside=str(other))
    assert [p.reference for p in listed if p.inverted] == [False] * 4
    compared = [p for p in listed if p.compared]
    assert len(compared) == 5 and [p.index for p in compared] == list(range(4, 9))
    assert len({p.sha256 for p in listed if not p.skipped}) == 9  # none of those that are inverted
    given = plan_of("fig11", model="toy", denoise=Toy(), images=str(pictures), limit=4, reference=str(other))
    short = replace(given, arms=tuple(replace(arm, steps=4) for arm in given.arms[:1]),
                    options={**given.options, "weights": [0.5]})  # fmt: skip
    results = evaluate(short, Toy(), tmp_path / "out")
    assert load_survey(tmp_path / "out" / "images.csv") == results.pictures
    known = torch.cat([load_image(other / p.name, 16) for p in results.pictures if p.compared])
    assert len(known) == 8  # twelve, without the four that are inverted
    blends = torch.cat([load_image(p) for p in sorted((tmp_path / "out/pictures/base").glob("*.frame1.png"))])
    (row,) = [r for r in measured(results) if r["arm"] == "base"]
    assert float(row["value"]) == pytest.approx(frechet(haar(blends), haar(known)))
    write_report(results)
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"8 from {other} to compare with" in page and "words.txt (to compare with)" in page
    assert any(f"To 8 pictures of {other}" in note for note in tables(results, PRESETS["fig11"])[-1].notes)


def test_a_folder_to_compare_with_that_makes_no_sense_is_refused(pictures, tmp_path):
    def given(name="fig11", images=str(pictures), reference=str(tmp_path)):
        return plan_of(name, model="toy", denoise=Toy(), images=images, reference=reference)

    with pytest.raises(InputError, match="preset table2 compares no sets of pictures; it is for fig11"):
        given("table2")
    with pytest.raises(InputError, match=r"demo's pictures .* with --images"):
        given(images=DEMO)
    with pytest.raises(InputError, match="is the folder of the pictures themselves; leave it out"):
        given(reference=str(pictures))
    for where, said in (
        (tmp_path / "none", "reference .*none: no such folder"),
        (next(pictures.iterdir()), "reference .*png: is no folder"),
        (folder(tmp_path / "one", count=1, size=24), "reference .*one: no picture in it can be used|1 picture in it"),
    ):
        with pytest.raises(InputError, match=said):
            evaluate(given(reference=str(where)), Toy(), tmp_path / "out")
        assert not (tmp_path / "out" / "plan.json").exists()


def test_the_demo_compares_with_pictures_that_are_not_inverted():
    listed = survey(DEMO, 2, 0, 32, reference=3)
    assert [(p.set, p.reference) for p in listed] == [
        (kind, later) for later in (False, True) for kind in ("scenes", "photos") for _ in range(3 if later else 2)
    ]
    # The same pictures under the same numbers as where nothing is compared.
    assert listed[:4] == survey(DEMO, 2, 0, 32)
    assert len({p.sha256 for p in listed}) == 10
    assert all(read_picture(DEMO, p, 32).shape == (1, 3, 32, 32) for p in listed)


def test_a_demo_set_that_is_too_small_for_both_is_halved():
    there = len([p for p in survey(DEMO, 0, 0, 32) if p.set == "photos"])
    photos = [p for p in survey(DEMO, there - 1, 0, 32, reference=5) if p.set == "photos"]
    assert [p.reference for p in photos] == [False] * (there // 2) + [True] * (there - there // 2)


def test_a_folder_that_was_halved_is_said_to_be(pictures, tmp_path):
    plan = plan_of("fig11", model="toy", denoise=Toy(), images=str(pictures), limit=8)
    plan = replace(
        plan, arms=tuple(replace(arm, steps=4) for arm in plan.arms), options={**plan.options, "weights": [0.5]}
    )
    notes = tables(evaluate(plan, Toy(), tmp_path), PRESETS["fig11"])[-1].notes
    assert (
        "4 pictures were inverted and 5 are compared with, half of all each: there are not enough for 8 and 5000."
        in notes
    )


def test_distances_file_is_tidy(found):
    measured(found)
    with (found.folder / FILE).open() as file:
        rows = list(csv.DictReader(file))
    assert {row["plan"] for row in rows} == {found.plan.digest}
    assert {row["distance"] for row in rows} == {"haar_fd"}
