"""Files that are well formed and lie: about sizes, views, keys, names and about themselves."""

from __future__ import annotations

import argparse
import io
import json
import os
import struct
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import ADM, CONSISTENCY, EDM, NVLABS, TOLD, X, header, saved
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ssi_core.cli import main
from ssi_core.errors import InputError, shown
from ssi_core.models import load_checkpoint
from ssi_core.models.commands import convert, describe, models
from ssi_core.models.container import open_archive
from ssi_core.models.load import examined
from ssi_core.models.recognise import FAMILIES


def refused(path: Path, **told: object) -> str:
    with pytest.raises(InputError) as caught:
        load_checkpoint(path, **told)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 3000
    return message


# Tensors that are not what their bytes say


def test_a_tensor_with_a_sign_still_to_be_carried_out(tmp_path):
    """Read as it lies there, the imaginary part of a conjugate would have the wrong sign."""
    z = torch.tensor([1 + 2j, 3 - 4j])
    torch.save({"a": z.conj().imag}, tmp_path / "m.pt")
    assert "a sign or a conjugation; save the weights alone" in refused(tmp_path / "m.pt")
    torch.save({"a": torch.ones(2)}, tmp_path / "m.pt")
    with open_archive(tmp_path / "m.pt") as archive:
        assert torch.equal(archive.tensor("a"), torch.ones(2))


def test_a_storage_that_is_a_view_of_another(tmp_path):
    """A sixth element of a storage's id, which torch wrote long ago."""
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(4.0)}, buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    plain = b"X\x03\x00\x00\x00cpu"
    at = data.index(plain)
    end = data.index(b"Nt", at)
    view = b"(X\x01\x00\x00\x000K\x02K\x02t"
    path = tmp_path / "m.pt"
    path.write_bytes(data)
    with open_archive(path) as archive:
        assert archive.shapes == {"a": (4,)}
    path.write_bytes(data[:end] + view + data[end + 1 :])
    assert "a storage that is a view of another; save the weights alone" in refused(path)


# Sizes


def forged(path: Path, source: Path, shapes: dict[str, list[int]]) -> Path:
    """A copy of a file in which some tensors have no elements and huge dimensions."""
    data = source.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    entries = json.loads(data[8 : 8 + length])
    entries.pop("__metadata__", None)
    for name, shape in shapes.items():
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    path.write_bytes(header(entries) + data[8 + length :])
    return path


BOMBS = [
    (ADM, {"middle_block.0.in_layers.2.weight": [2**40, 0], "output_blocks.0.0.out_layers.0.weight": [2**40, 0]}),
    (ADM, {"label_emb.weight": [2**62, 0]}),
    (NVLABS, {"model.map_label.weight": [0, 2**63]}),
    (NVLABS, {"model.map_augment.weight": [0, 2**62]}),
    (ADM, {"time_embed.0.weight": [0, 2**62]}),
]


@pytest.mark.parametrize(("source", "shapes"), BOMBS)
def test_dimensions_without_elements_claim_nothing_and_are_refused(tmp_path, source, shapes):
    began = time.monotonic()
    assert "larger than a file of" in refused(forged(tmp_path / "m.safetensors", source, shapes))
    assert time.monotonic() - began < 5


def test_one_bad_file_does_not_hide_the_others(tmp_path, monkeypatch):
    for i, (source, shapes) in enumerate(BOMBS):
        forged(tmp_path / f"{i}.safetensors", source, shapes)
    (tmp_path / "5.pt").symlink_to(tmp_path / "5.pt")
    good = tmp_path / "lsun_cat.safetensors"
    good.write_bytes(ADM.read_bytes())

    def examine(path, **told):
        found = describe(path, **told)
        if path == good:
            return type(found)(**{**vars(found), "names": ("lsun_cat",)})
        raise RuntimeError("whatever else can go wrong")

    monkeypatch.setattr("ssi_core.models.commands.describe", lambda path, **told: examine(path, **told))
    assert {row.file.name: row.found for row in models([tmp_path])}["lsun_cat"] == [good]


def test_tensors_that_are_views_of_each_other_are_read_a_few_times_at_most(tmp_path):
    """Every tensor of a hundred would be a column of one storage, and each reading would take it whole."""
    whole = torch.zeros(1000, 100)
    torch.save({f"{i}": whole[:, i] for i in range(100)}, tmp_path / "m.pt")
    assert "save contiguous copies" in refused(tmp_path / "m.pt")
    torch.save({"a": torch.zeros(1).expand(1000, 1000)}, tmp_path / "m.pt")
    assert "save contiguous copies" in refused(tmp_path / "m.pt")


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_tied_tensors_are_read(tmp_path, suffix):
    state = {k: v.float() for k, v in load_file(NVLABS).items()}
    a, b = "model.enc.16x16_block0.conv1.weight", "model.dec.16x16_block0.conv1.weight"
    state[b] = state[a]
    state = {k: v for k, v in state.items() if k != "x"} | {"model.map_layer1.bias": state["model.map_layer0.bias"]}
    module = load_checkpoint(saved(tmp_path / f"m{suffix}", state), **EDM).module.state_dict()
    assert torch.equal(module[a[6:]], state[a]) and torch.equal(module[b[6:]], state[a])
    both = {"a": torch.ones(5000), "b": torch.ones(5000)}
    both["b"] = both["a"]
    with open_archive(saved(tmp_path / f"n{suffix}", both)) as archive:  # twice 20 kB in a file of 21 kB
        assert torch.equal(archive.tensor("b"), both["a"])


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [1.9], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": ["0", 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 4.7]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]},
    ],
)
def test_places_that_are_no_whole_numbers(tmp_path, entry):
    (tmp_path / "m.safetensors").write_bytes(header({"a": entry}) + b"xxxx")
    assert "tensor 'a'" in refused(tmp_path / "m.safetensors")


# Keys, and what lies beside a network


def program(tmp_path: Path, body: bytes) -> Path:
    path = tmp_path / "m.pkl"
    path.write_bytes(b"\x80\x04" + body + b".")
    return path


@pytest.mark.parametrize("filled", [b"}(%su", b"\x8f(%s\x90"])
def test_keys_that_all_have_one_hash(tmp_path, filled):
    """40,000 multiples of 2^61 - 1 took minutes."""
    keys = b""
    for i in range(1, 40_000):
        number = (i * (2**61 - 1)).to_bytes(10, "little")
        keys += b"\x8a\x0a" + number + (b"N" if b"u" in filled else b"")
    began = time.monotonic()
    assert "a key that is no text" in refused(program(tmp_path, filled % keys))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("beside", [{(1, 2): 3}, {0.5: 1}, {2**40: 1}])
def test_keys_that_are_not_read_are_no_damage(tmp_path, beside):
    torch.save({"model": load_file(NVLABS), "beside": beside}, tmp_path / "m.pt")
    message = refused(tmp_path / "m.pt")
    assert "a key that is no text" in message and "save the weights alone" in message and "damaged" not in message


@pytest.mark.parametrize("protocol", [2, 4])
def test_arguments_and_numbers_of_numpy_beside_a_network(tmp_path, protocol):
    beside = {"args": argparse.Namespace(lr=0.1, name="x"), "loss": np.float64(0.5), "step": np.int64(3)}
    torch.save({"model": load_file(NVLABS), **beside}, tmp_path / "m.pt", pickle_protocol=protocol)
    assert torch.equal(
        load_checkpoint(tmp_path / "m.pt", **EDM).denoise(X, 0.5), load_checkpoint(NVLABS, **EDM).denoise(X, 0.5)
    )
    torch.save({"model": load_file(NVLABS), "loss": np.complex64(1)}, tmp_path / "m.pt", pickle_protocol=protocol)
    assert "save the weights alone" in refused(tmp_path / "m.pt")


# What a file says of itself


def stating(path: Path, source: Path, arguments: object) -> Path:
    document = {"kind": "pixel-model", "facts": {"arguments": arguments}}
    save_file(load_file(source), path, {"ssi": json.dumps(document)})
    return path


@pytest.mark.parametrize("arguments", [[1], "ab", 3, None, [["a", 1]]])
def test_arguments_that_are_no_names_and_values(tmp_path, arguments):
    assert "names and values are wanted" in refused(stating(tmp_path / "m.safetensors", ADM, arguments))


def test_a_resolution_of_zero(tmp_path):
    told = {**TOLD, "attention_resolutions": "0", "image_size": 16}
    assert "cannot be understood" in refused(ADM, **told)
    assert "cannot be understood" in refused(stating(tmp_path / "m.safetensors", ADM, told))


@pytest.mark.parametrize(
    ("source", "told", "wrong"),
    [
        (ADM, TOLD, {"model_channels": 32}), (ADM, TOLD, {"channel_mult": [1, 2, 3]}),
        (CONSISTENCY, {"num_head_channels": 16, "distillation": True}, {"num_res_blocks": 7}),
        (NVLABS, EDM, {"model_channels": 99}), (NVLABS, EDM, {"img_resolution": 64}),
    ],
)  # fmt: skip
def test_statements_that_the_tensors_contradict(tmp_path, source, told, wrong):
    (name,) = wrong
    message = refused(stating(tmp_path / "m.safetensors", source, {**told, **wrong}))
    assert f"states {name}=" in message and f"its tensors have {name}=" in message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["0", "1,2", "linear", "cosine", "vp", "EDMPrecond", "yes", 0, 1, 2, 16, 1e29, -1, 2**63]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
NAMES = sorted(set().union(*(family.arguments | family.inert for family in FAMILIES)))


@settings(max_examples=300)
@given(
    st.sampled_from([(ADM, TOLD), (CONSISTENCY, {"num_head_channels": 16, "distillation": True}), (NVLABS, EDM)]),
    st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4) | JSON,
)
def test_whatever_a_file_states_it_is_recognised_or_refused(tmp_path_factory, model, arguments):
    source, told = model
    known = {**told, **arguments} if isinstance(arguments, dict) else arguments
    path = stating(tmp_path_factory.getbasetemp() / "stating.safetensors", source, known)
    try:
        with examined(path) as seen:
            assert seen.meaning is None or 0 < seen.meaning.sigma_min < seen.meaning.sigma_max < float("inf")
    except InputError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (NVLABS, {**EDM, "sigma_min": 50, "sigma_max": 1}),
        (NVLABS, {"precond": "vp", "beta_d": 1e29}),
        (NVLABS, {"precond": "vp", "epsilon_t": 1e29}),
        (CONSISTENCY, {"num_head_channels": 16, "distillation": True, "sigma_min": 90}),
    ],
)
def test_ranges_of_noise_levels_that_are_none(source, told):
    assert "noise levels" in refused(source, **told)


# Numbers


@pytest.mark.parametrize(
    ("stored", "value", "wanted"),
    [(torch.float32, 1e5, torch.float16), (torch.float64, 1e300, torch.float32), (torch.float64, 1e300, None),
     (torch.float32, 3.4e38, torch.bfloat16)],
)  # fmt: skip
def test_weights_that_the_dtype_cannot_hold(tmp_path, stored, value, wanted):
    state = {k: v.to(stored) for k, v in load_file(NVLABS).items()}
    name = "model.enc.16x16_block0.conv1.weight"
    state[name].view(-1)[0] = value
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=rf"1 tensors hold numbers too large for .* \('{name}'\)"):
        load_checkpoint(tmp_path / "m.safetensors", dtype=wanted, **EDM)
    if wanted is not None:
        with pytest.raises(InputError, match="too large for"):
            convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", dtype=wanted, overrides=EDM)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("spoil", [lambda t: t * float("nan"), lambda t: t.int()])
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_converting_refuses_what_loading_refuses(tmp_path, spoil, dtype):
    state = {k: v.float() for k, v in load_file(NVLABS).items()}
    state["model.map_layer0.bias"] = spoil(state["model.map_layer0.bias"])
    save_file(state, tmp_path / "m.safetensors")
    messages = []
    for use in (
        lambda: load_checkpoint(tmp_path / "m.safetensors", **EDM),
        lambda: convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", dtype=dtype, overrides=EDM),
    ):
        with pytest.raises(InputError, match=r"hold NaN|holds torch\.int32") as caught:
            use()
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and not (tmp_path / "out.safetensors").exists()


def test_a_file_that_is_rewritten_with_its_time_put_back(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(NVLABS.read_bytes())
    before = path.stat()

    def rewrite(done, total):
        with path.open("r+b") as file:
            file.seek(-4, 2)
            file.write(b"\0\0\0\0")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.raises(InputError, match="was changed while it was being read"):
        load_checkpoint(path, progress=rewrite)
    assert path.stat().st_mtime_ns == before.st_mtime_ns


# Text on the terminal

ESCAPE = "\x1b[2J\x1b]0;title\x07"


def test_what_comes_from_a_file_is_quoted_and_cut():
    assert shown(ESCAPE + "a" * 1000) == repr((ESCAPE + "a" * 100)[:100])
    assert len(shown(list(range(1000)))) == 100 and shown((1, 2)) == "(1, 2)"


def zipped(path: Path, name: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\x02}.")
        file.writestr(name, b"x" * 100)
    return path


def named(path: Path, change) -> Path:
    state = load_file(NVLABS)
    save_file(dict(change(k, v) for k, v in state.items()), path)
    return path


@pytest.mark.parametrize("long", [ESCAPE, "x" * 300_000])
def test_names_in_a_file_do_not_reach_the_terminal_as_they_are(capsys, tmp_path, long):
    first = next(iter(load_file(NVLABS)))
    torch.save({long: 3, "b": {"c": 1}}, tmp_path / "keys.pt")
    torch.save(OrderedDict([(long, torch.ones(3))]), tmp_path / "names.pt")
    for path in (
        tmp_path / "keys.pt",
        tmp_path / "names.pt",
        named(tmp_path / "other.safetensors", lambda k, v: (long[:3000] + k, v)),
        named(tmp_path / "lora.safetensors", lambda k, v: ("lora_" + long[:3000] + k, v)),
        named(tmp_path / "extra.safetensors", lambda k, v: (long, v) if k == first else (k, v)),
        stating(tmp_path / "class.safetensors", NVLABS, {"class_name": long}),
        stating(tmp_path / "schedule.safetensors", ADM, {**TOLD, "noise_schedule": long}),
        zipped(tmp_path / "zip.pt", long[:60_000]),
        program(tmp_path, b"c" + long[:2000].encode() + b"\nsystem\n"),
    ):
        with pytest.raises(SystemExit):
            main(["describe", str(path)])
        out, err = capsys.readouterr()
        assert "error:" in err and "\x1b]" not in out + err and "\x07" not in out + err and len(out + err) < 4000, path
