"""A folder as people have them: what is used, what is left out and why, and in which order."""

import os
from dataclasses import replace

import pytest
import torch
from evaluations import Toy, folder, plan
from PIL import Image

from ssi_core import InputError, load_image
from ssi_core.evaluate import evaluate, plan_of
from ssi_core.evaluate import images as module
from ssi_core.evaluate.images import DEMO, load_survey, read_picture, save_survey, survey
from ssi_core.evaluate.report import write_report


@pytest.fixture
def messy(tmp_path):
    root = folder(tmp_path / "messy", count=4)
    good = Image.open(root / "picture 0.png")
    (root / "sub").mkdir()
    good.save(root / "sub" / "copy.bmp")
    (root / "words.txt").write_text("no picture")
    (root / "fake.png").write_text("no picture either")
    (root / "empty.jpg").write_bytes(b"")
    (root / "cut.png").write_bytes((root / "picture 1.png").read_bytes()[:300])
    (root / ".hidden.png").write_bytes((root / "picture 1.png").read_bytes())
    (root / "lies.bmp").write_bytes((root / "sub" / "copy.bmp").read_bytes()[:54])
    good.resize((12, 30)).save(root / "tiny.png")
    good.save(root / "film.gif", save_all=True, append_images=[Image.new("RGB", (20, 20), "red")])
    Image.new("1", (9000, 9000)).save(root / "huge.png")
    (root / "line\nbreak.png").write_bytes((root / "picture 2.png").read_bytes())
    os.mkfifo(root / "pipe.png")
    (root / "nowhere.png").symlink_to(root / "no such file")
    return root


STRANGE = [
    "narrow\u202fspace.png",
    "a\nb.png",
    "100%41.png",
    "$x^{2$.png",
    os.fsdecode(b"not \xff utf-8.png"),
    "\u5bbf.png",
]


def test_bad_files_are_left_out_and_listed_with_the_reason(messy, tmp_path):
    found = survey(str(messy), 0, 0, 16)
    reasons = {p.name: p.skipped for p in found if p.skipped}
    copies = [reasons.pop(name, "") for name in ("picture 0.png", "sub/copy.bmp")]
    assert sorted(bool(why) for why in copies) == [False, True]
    assert any("the same pixels as" in why for why in copies)
    copies = [reasons.pop(name, "") for name in ("picture 2.png", "line\nbreak.png")]
    assert sorted(bool(why) for why in copies) == [False, True]
    assert reasons.pop("tiny.png") == "tiny: 12x30 pixels, the model takes 16x16"
    assert reasons.pop("film.gif") == "animated: 2 frames"
    assert reasons.pop("huge.png").startswith("huge: 9000x9000 pixels")
    assert reasons.pop("cut.png").startswith("unreadable: ")
    assert reasons.pop("lies.bmp").endswith("(0 bytes not processed)")  # the reason is whole, brackets too
    assert [reasons.pop(name) for name in ("pipe.png", "nowhere.png")] == [
        "no file: a pipe, a device or a link to nothing"
    ] * 2
    assert reasons.pop("empty.jpg") == "an empty file"
    assert set(reasons) == {"words.txt", "fake.png"}
    assert set(reasons.values()) == {"no picture that Pillow can read"}
    used = [p for p in found if not p.skipped]
    assert [p.index for p in used] == [0, 1, 2, 3]
    save_survey(tmp_path / "images.csv", found)
    assert load_survey(tmp_path / "images.csv") == found


def test_names_that_cannot_be_printed_are_opened_again_and_shown(tmp_path):
    """Resumed, and by other processes: whoever reads the survey opens the very files."""
    root = folder(tmp_path / os.fsdecode(b"p \xff"), count=len(STRANGE))
    for path, name in zip(sorted(root.iterdir()), STRANGE, strict=True):
        path.rename(root / name)
    found = survey(str(root), 0, 0, 16)
    assert {p.name for p in found} == set(STRANGE)
    save_survey(tmp_path / "images.csv", found)
    kept = load_survey(tmp_path / "images.csv")
    assert kept == found
    for picture in kept:
        assert torch.equal(read_picture(str(root), picture, 16), load_image(root / picture.name, 16))
        assert picture.shown.isprintable()
    plan = plan_of("fig5", model=os.fsdecode(b"\xfe.pt"), denoise=Toy(), images=str(root), limit=len(STRANGE))
    plan = replace(plan, arms=(replace(plan.arms[0], steps=3),), options={"repeats": 2})
    for _ in range(2):  # from the survey itself, then from the file
        results = evaluate(plan, Toy(), tmp_path / "out")
        assert len(results.rows) == 2 * len(STRANGE) and not results.failed
        write_report(results)
        (tmp_path / "out" / "results.csv").unlink()
    assert "not ? utf-8.png" in {row["image"] for row in results.rows}


def test_what_evaluations_have_made_is_no_picture_of_theirs(tmp_path):
    root = folder(tmp_path / "root", count=3)
    names = {p.name for p in root.iterdir()}
    earlier, out, hidden = root / "earlier" / "fig5", root / "out", root / ".cache"
    for number, made in enumerate((earlier / "pictures" / "SSI", out / "pictures" / "SSI", hidden, root / "pictures")):
        folder(made, count=4 + number)
    (earlier / "plan.json").touch()
    assert {p.name for p in survey(str(root), 0, 0, 16, out=out) if not p.skipped} - names != set()  # root/pictures
    assert not any("SSI" in p.name or ".cache" in p.name for p in survey(str(root), 0, 0, 16, out=out))
    assert {p.name for p in survey(str(root), 0, 0, 16, out=root)} == names | {
        p.relative_to(root).as_posix() for p in (out / "pictures").rglob("*.png")
    }
    (root / "plan.json").touch()  # the folder itself is one of results, with pictures beside them
    assert not any(p.name.startswith("pictures/") for p in survey(str(root), 0, 0, 16))


def test_the_order_depends_on_seed_and_names_alone(tmp_path):
    a, b = folder(tmp_path / "a", count=12), tmp_path / "b"
    b.mkdir()
    for path in sorted(a.iterdir(), reverse=True):
        (b / path.name).write_bytes(path.read_bytes())
    names = [p.name for p in survey(str(a), 0, 3, 16)]
    assert [p.name for p in survey(str(b), 0, 3, 16)] == names
    assert [p.name for p in survey(str(b), 5, 3, 16)] == names[:5]
    assert [p.name for p in survey(str(b), 0, 4, 16)] != names
    assert names != sorted(names)


def test_nothing_beyond_the_limit_is_opened(tmp_path, monkeypatch):
    root = folder(tmp_path / "many", count=12)
    opened = []
    monkeypatch.setattr(module, "load_image", lambda path, size: opened.append(path) or load_image(path, size))
    assert len(survey(str(root), 3, 0, 16)) == 3
    assert len(opened) == 3


def test_no_folder_an_empty_one_and_one_of_bad_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        survey(str(tmp_path / "missing"), 0, 0, 16)
    with pytest.raises(InputError, match="it is empty"):
        survey(str(tmp_path), 0, 0, 16)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"no picture in it can be used \(a.txt: no picture"):
        survey(str(tmp_path), 0, 0, 16)


def test_links_that_go_round_are_not_followed(tmp_path):
    root = folder(tmp_path / "p", count=2)
    (root / "round").symlink_to(root, target_is_directory=True)
    (root / "self.png").symlink_to("self.png")
    found = survey(str(root), 0, 0, 16)
    assert sorted(p.name for p in found if not p.skipped) == ["picture 0.png", "picture 1.png"]
    assert [p.name for p in found if p.skipped] == ["self.png"]


@pytest.mark.parametrize("damage", ["", "x\n", "index,set\n0,images\n"])
def test_a_damaged_survey_is_refused_in_words(tmp_path, damage):
    root = folder(tmp_path / "p", count=2)
    given = plan(root, Toy())
    evaluate(given, Toy(), tmp_path / "out")
    listed = tmp_path / "out" / "images.csv"
    head = listed.read_text().partition("\n")[0]
    listed.write_text(damage)
    with pytest.raises(InputError, match=r"images.csv: is damaged .*; delete the folder and begin again"):
        evaluate(given, Toy(), tmp_path / "out")
    listed.write_text(head + "\n")
    with pytest.raises(InputError, match="lists no picture to invert"):
        evaluate(given, Toy(), tmp_path / "out")


def test_a_picture_that_changed_is_noticed(tmp_path):
    root = folder(tmp_path / "p", count=2)
    first = survey(str(root), 0, 0, 16)[0]
    assert torch.equal(read_picture(str(root), first, 16), load_image(root / first.name, 16))
    other = next(p for p in root.iterdir() if p.name != first.name)
    (root / first.name).write_bytes(other.read_bytes())
    with pytest.raises(InputError, match="has changed since this evaluation began"):
        read_picture(str(root), first, 16)


def test_the_demo_has_both_regimes():
    found = survey(DEMO, 3, 0, 32)
    assert [p.set for p in found] == ["scenes"] * 3 + ["photos"] * 3
    assert [p.index for p in found] == list(range(6))
    pixels = torch.cat([read_picture(DEMO, p, 32) for p in found])
    assert pixels.shape == (6, 3, 32, 32)
