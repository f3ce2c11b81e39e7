"""Results on disk: no row is lost, doubled or half there, whatever is killed or full."""

import errno
import io

import pytest

from ssi_core import InputError
from ssi_core.evaluate import store
from ssi_core.evaluate.store import Appender, gather, merge, only_run, read_rows, text

COLUMNS = ["plan", "arm", "index", "repeat", "mse"]


def row(index, mse=0.5, plan="p", arm="a"):
    return {"plan": plan, "arm": arm, "index": index, "repeat": 0, "mse": mse}


def test_numbers_come_back_bit_for_bit(tmp_path):
    values = [0.1, 1 / 3, 1e-300, -0.0, 123456789.123456789, 2.0**-1074]
    part = Appender(tmp_path / "0.csv", COLUMNS)
    part.append([row(i, v) for i, v in enumerate(values)])
    assert [float(r["mse"]).hex() for r in read_rows(tmp_path / "0.csv", COLUMNS, "p")] == [v.hex() for v in values]
    assert text(float("nan")) == text(None) == ""
    assert text("two\nlines,\x00") == "two?lines,?"


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_killed_write_is_healed_wherever_it_stopped(tmp_path, cut):
    path = tmp_path / "0.csv"
    part = Appender(path, COLUMNS)
    part.append([row(0)])
    whole = path.read_bytes()
    part.append([row(1)])
    part.close()
    path.write_bytes(path.read_bytes()[: len(whole) + cut])
    before = read_rows(path, COLUMNS, "p")
    part = Appender(path, COLUMNS)
    part.append([row(1)])
    assert [r["index"] for r in read_rows(path, COLUMNS, "p")] == ["0", "1"]
    assert [r["index"] for r in before] == ["0"]


def test_a_long_half_line_leaves_nothing_behind_a_short_whole_one(tmp_path):
    path = tmp_path / "0.csv"
    Appender(path, COLUMNS).append([row(0)])
    path.write_bytes(path.read_bytes() + b"p,a," + b"9" * 500)
    Appender(path, COLUMNS).append([row(1)])
    assert path.read_bytes().splitlines()[1:] == [b"p,a,0,0,0.5", b"p,a,1,0,0.5"]


def test_a_header_cut_short_is_begun_again(tmp_path):
    (tmp_path / "0.csv").write_text("plan,ar")
    Appender(tmp_path / "0.csv", COLUMNS).append([row(0)])
    assert len(read_rows(tmp_path / "0.csv", COLUMNS, "p")) == 1


class Full(io.RawIOBase):
    """A file on a disk with room for so many more bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __getattr__(self, name):
        return getattr(self.file, name)

    def seek(self, *where):
        return self.file.seek(*where)

    def truncate(self, size=None):
        return self.file.truncate(size)

    def fileno(self):
        return self.file.fileno()

    def write(self, data):
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = self.file.write(bytes(data)[: self.room])
        self.room -= done
        return done


def test_a_full_disk_leaves_whole_rows_and_says_so(tmp_path):
    path = tmp_path / "0.csv"
    part = Appender(path, COLUMNS)
    part.append([row(0)])
    before = path.read_bytes()
    part._file = Full(part._file, room=9)
    with pytest.raises(InputError, match=r"the disk is full; what was written before is safe.*run the same command"):
        part.append([row(1)])
    assert path.read_bytes() == before
    part._file.room = 1000
    part.append([row(1)])
    assert [r["index"] for r in read_rows(path, COLUMNS, "p")] == ["0", "1"]


def test_other_plans_other_columns_and_damage_are_refused_in_words(tmp_path):
    path = tmp_path / "results.csv"
    part = Appender(path, COLUMNS)
    part.append([row(0), row(1, plan="q")])
    with pytest.raises(InputError, match="line 3 is of another plan"):
        read_rows(path, COLUMNS, "p")
    with pytest.raises(InputError, match="other columns"):
        read_rows(path, [*COLUMNS, "x"], "p")
    with pytest.raises(InputError, match="other columns"):
        Appender(path, [*COLUMNS, "x"])
    path.write_text(path.read_text().replace("q,a,1,0,0.5", "p,a,1"))
    with pytest.raises(InputError, match=r"line 3 is damaged \(3 cells of 5\)"):
        read_rows(path, COLUMNS, "p")
    path.write_text(path.read_text().replace("p,a,1", "p,a,1,0,0.5x"))
    with pytest.raises(InputError, match=r"line 3 is damaged \(\w+ is '0.5x', no number\); delete that line"):
        read_rows(path, COLUMNS, "p")


def test_parts_are_merged_and_a_merge_killed_half_way_loses_and_doubles_nothing(tmp_path, monkeypatch):
    for rank, indices in enumerate([(0, 2), (1, 3)]):
        part = Appender(tmp_path / store.PARTS / f"{rank}.csv", COLUMNS)
        part.append([row(i) for i in indices])
        part.close()
    found = gather(tmp_path, COLUMNS, "p")
    parts = {p: p.read_bytes() for p in (tmp_path / store.PARTS).iterdir()}
    merge(tmp_path, COLUMNS, sorted(found.values(), key=lambda r: r["index"]))
    whole = (tmp_path / store.RESULTS).read_bytes()
    assert not (tmp_path / store.PARTS).exists()
    # As if it had been killed between the file's renaming and the parts' removal:
    (tmp_path / store.PARTS).mkdir()
    for path, content in parts.items():
        path.write_bytes(content)
    again = gather(tmp_path, COLUMNS, "p")
    assert len(again) == 4
    merge(tmp_path, COLUMNS, sorted(again.values(), key=lambda r: r["index"]))
    assert (tmp_path / store.RESULTS).read_bytes() == whole


def test_two_runs_into_one_folder(tmp_path):
    with only_run(tmp_path), pytest.raises(InputError, match="another run is writing there"), only_run(tmp_path):
        pass
    with only_run(tmp_path):
        pass
