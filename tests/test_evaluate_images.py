"""A folder as people have them: what is used, what is left out and why, and in which order."""

import pytest
import torch
from evaluations import folder
from PIL import Image

from ssi_core import InputError, load_image
from ssi_core.evaluate import images as module
from ssi_core.evaluate.images import DEMO, load_survey, read_picture, save_survey, survey
from ssi_core.inversion import tensor_sha256


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
    good.resize((12, 30)).save(root / "tiny.png")
    good.save(root / "film.gif", save_all=True, append_images=[Image.new("RGB", (20, 20), "red")])
    Image.new("1", (9000, 9000)).save(root / "huge.png")
    (root / "line\nbreak.png").write_bytes((root / "picture 2.png").read_bytes())
    return root


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
    assert reasons.pop("cut.png").startswith("unreadable")
    assert set(reasons) == {"words.txt", "fake.png", "empty.jpg"}
    assert set(reasons.values()) == {"no picture that Pillow can read"}
    used = [p for p in found if not p.skipped]
    assert [p.index for p in used] == [0, 1, 2, 3]
    save_survey(tmp_path / "images.csv", found)
    kept = load_survey(tmp_path / "images.csv")
    assert [(p.index, p.sha256, bool(p.skipped)) for p in kept] == [(p.index, p.sha256, bool(p.skipped)) for p in found]


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


def test_a_picture_that_changed_is_noticed(tmp_path):
    root = folder(tmp_path / "p", count=2)
    first = survey(str(root), 0, 0, 16)[0]
    assert tensor_sha256(read_picture(str(root), first, 16)[0]) != ""
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
