"""Artefact files: the same bits back, and never half a file."""

import json
import os
import stat

import pytest
import torch
from exact import normal
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from ssi_core import InputError, Inversion, invert, karras_sigmas, save_image
from ssi_core.artifact import FORMAT, load_tensors, replacing, save_tensors, write_text

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)


@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 4), max_size=5).map(tuple),
    seed=st.integers(0, 1000),
    facts=st.dictionaries(st.text(max_size=6), json_values, max_size=4),
)
def test_tensors_and_facts_come_back_bit_for_bit(tmp_path_factory, dtype, shape, seed, facts):
    path = tmp_path_factory.mktemp("artefact") / "x.safetensors"
    tensor = (100 * normal(*shape, seed=seed)).to(dtype)
    save_tensors(path, "noise", {"noise": tensor}, facts)
    tensors, found = load_tensors(path, "noise")
    assert found == facts
    assert tensors["noise"].dtype == dtype
    assert tensors["noise"].shape == tensor.shape
    assert torch.equal(bits(tensors["noise"]), bits(tensor))


def test_nan_inf_and_negative_zero_keep_their_bits(tmp_path):
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45], dtype=torch.float32)
    save_tensors(tmp_path / "x.safetensors", "noise", {"noise": odd}, {})
    assert torch.equal(bits(load_tensors(tmp_path / "x.safetensors", "noise")[0]["noise"]), bits(odd))


def test_views_are_saved_as_what_they_show(tmp_path):
    base = normal(4, 6)
    views = {"t": base.T, "part": base[1:, ::2], "wide": base[:1].expand(5, 6)}
    save_tensors(tmp_path / "x.safetensors", "noise", views, {})
    found, _ = load_tensors(tmp_path / "x.safetensors", "noise")
    assert all(torch.equal(found[name], view) for name, view in views.items())


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, "noise", {"noise": normal(3, 8, 8), "sigmas": torch.tensor([1.0, 0.0])}, {})
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        load_tensors(path, "noise")


def test_artefacts_from_before_there_were_checksums_are_read(tmp_path):
    document = json.dumps({"format": 1, "kind": "noise", "facts": {}})
    save_file({"noise": torch.ones(2)}, tmp_path / "x.safetensors", metadata={"ssi": document})
    assert torch.equal(load_tensors(tmp_path / "x.safetensors", "noise")[0]["noise"], torch.ones(2))


def test_tensors_that_share_memory_are_saved(tmp_path):
    base = normal(4, 6)
    save_tensors(tmp_path / "x.safetensors", "noise", {"all": base, "first": base[0]}, {})
    found, _ = load_tensors(tmp_path / "x.safetensors", "noise")
    assert torch.equal(found["first"], base[0])
    assert torch.equal(found["all"], base)


# Files that are not what is wanted


def whole(tmp_path):
    path = tmp_path / "whole.safetensors"
    save_tensors(path, "inversion", {"noise": normal(3, 4)}, {"nfe": 3})
    return path


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -1])
def test_truncated_file_is_refused(tmp_path, keep):
    path = whole(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"artefact .*whole.*not a whole"):
        load_tensors(path, "inversion")


def with_document(tmp_path, document):
    path = tmp_path / "made.safetensors"
    save_file(
        {"noise": torch.zeros(3), "sigmas": torch.tensor([1.0, 0.0])},
        path,
        metadata=None if document is None else {"ssi": document},
    )
    return path


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (None, "not written by SSI inversion"),
        ("{", "metadata cannot be read"),
        ("[1, 2]", "metadata cannot be read"),
        ('{"kind": "inversion"}', "metadata cannot be read"),
        ('{"kind": "inversion", "format": "one", "facts": {}}', "metadata cannot be read"),
        ('{"kind": "inversion", "format": 1, "facts": 3}', "metadata cannot be read"),
        (
            json.dumps({"kind": "inversion", "format": FORMAT + 1, "facts": {}}),
            f"format {FORMAT + 1} is newer.*{FORMAT}",
        ),
        ('{"kind": "noise", "format": 1, "facts": {}}', "holds 'noise', where 'inversion' is wanted"),
        ('{"kind": "inversion", "format": 1, "facts": {}}', "lacks"),
        (
            '{"kind": "inversion", "format": 1, "facts": {"nfe": "many", "process": {"name": "ve"}, "solver": "euler",'
            ' "skip": 0.1, "seeds": [0], "facts": {}}}',
            "made.safetensors",
        ),
        (
            '{"kind": "inversion", "format": 1, "facts": {"nfe": 3, "process": {"name": "heat"}, "solver": "euler",'
            ' "skip": 0.1, "seeds": [0], "facts": {}}}',
            "'heat'",
        ),
    ],
)
def test_foreign_newer_or_incomplete_file_is_refused(tmp_path, document, says):
    with pytest.raises(InputError, match=says):
        Inversion.load(with_document(tmp_path, document))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(200), bytes(range(256)) * 8])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"not a whole \.safetensors file"):
        Inversion.load(path)


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent\.safetensors: no such file"):
        Inversion.load(tmp_path / "absent.safetensors")
    with pytest.raises(InputError, match=str(tmp_path)):
        Inversion.load(tmp_path)


# Writing


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_crash_while_writing_keeps_the_old_file_and_leaves_no_other(tmp_path, error):
    path = tmp_path / "kept.txt"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as beside:
        beside.write_text("half")
        assert path.read_text() == "old"
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_crash_inside_the_tensor_writer_leaves_nothing(tmp_path, monkeypatch, error):
    def half_written(tensors, path, metadata):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr("ssi_core.artifact.save_file", half_written)
    with pytest.raises(error):
        save_tensors(tmp_path / "x.safetensors", "noise", {"noise": normal(3)}, {})
    assert list(tmp_path.iterdir()) == []


def test_facts_that_are_not_json_leave_nothing(tmp_path):
    with pytest.raises(TypeError):
        save_tensors(tmp_path / "x.safetensors", "noise", {"noise": normal(3)}, {"bad": object()})
    assert list(tmp_path.iterdir()) == []


def save_inversion(path):
    invert(lambda x, sigma: 0 * x, normal(1, 1, 4, 4), karras_sigmas(3)).save(path)


WRITERS = {
    "inversion": save_inversion,
    "tensors": lambda path: save_tensors(path, "noise", {"noise": normal(3)}, {}),
    "text": lambda path: write_text(path, "text"),
    "picture": lambda path: save_image(torch.zeros(3, 8, 8), path.with_suffix(".png")),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_writing_where_one_cannot_says_where(tmp_path, write):
    with pytest.raises(InputError, match=r"absent.*cannot be written"):
        write(tmp_path / "absent" / "x.safetensors")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"file.*cannot be written"):
        write(tmp_path / "file" / "x.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_folder_without_permission_says_so(tmp_path, monkeypatch, write):
    def refused(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ssi_core.artifact.Path.touch", refused)  # root may write anywhere, so chmod proves nothing
    with pytest.raises(InputError, match="Permission denied"):
        write(tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        write_text(tmp_path, "text")


def test_written_file_replaces_the_old_one_with_ordinary_permissions(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    mask = os.umask(0o022)
    try:
        write_text(path, "neu ü")
    finally:
        os.umask(mask)
    assert path.read_text(encoding="utf-8") == "neu ü"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]
