"""Files that are damaged, forged, of something else, or lack something."""

from __future__ import annotations

import json
import os
import re
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from checkpoints import ADM, DATA, EDM, NVLABS, TOLD, X, header, saved, shapes_only
from safetensors.torch import load_file, save_file
from torch import nn

from ssi_core.errors import Cancelled, InputError
from ssi_core.models import load_checkpoint
from ssi_core.models.adm import UNet, UNetConfig
from ssi_core.models.family import Tensors
from ssi_core.models.load import check_shapes, skeleton
from ssi_core.models.recognise import recognise


def test_files_that_are_no_checkpoints(tmp_path):
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("Git LFS pointer\n" * 20)
    (tmp_path / "page.safetensors").write_text("<!doctype html><html>not found</html>" * 20)
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    for name, message in {
        "empty.pt": "is empty", "text.pt": "is no checkpoint", "page.safetensors": "is no checkpoint",
        "pipe.pt": "not a regular file", "folder.pt": "not a regular file", "loop.pt": "cannot be opened",
        "missing.pt": "no such file",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=message):
            load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["nv_ncsnpp_cond.pkl", "nv_ncsnpp_cond.safetensors", "m.pt", "m.pth"])
@pytest.mark.parametrize("kept", [0.01, 0.3, 0.9, 0.999])
def test_truncated_files(tmp_path, name, kept):
    source = DATA / name if (DATA / name).exists() else saved(tmp_path / name, load_file(NVLABS))
    data = source.read_bytes()
    path = tmp_path / f"cut-{name}"
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(InputError, match=r"truncated|damaged|no checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.encoder.conv_in.weight"],
            "Stable Diffusion",
        ),
        (["input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight", "time_embed.0.weight"], "latent diffusion"),
        (["lora_unet_down_blocks_0.lora_up.weight"], "a LoRA"),
        (["transformer.blocks.0.lora_A.weight"], "a LoRA"),
        (["encoder.down.0.block.0.conv1.weight"], "autoencoder"),
        (["weight", "bias"], "no pixel model that is known here.*called 'bias', 'weight'"),
        ([], "no pixel model that is known here.*it holds no tensors"),
        (["time_embed.0.weight", "input_blocks.0.0.weight"], "a classifier"),
    ],
)
def test_other_kinds_of_model(tmp_path, names, message):
    save_file({name: torch.zeros(4, 4) for name in names}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / "other.safetensors")


def test_an_upsampler_is_named(tmp_path):
    with torch.device("meta"):
        config = UNetConfig(6, 32, 6, 1, (), (1,))
        shapes = {k: tuple(v.shape) for k, v in UNet(config).state_dict().items()}
    with pytest.raises(InputError, match="an upsampler"):
        recognise(shapes_only(shapes))


def test_an_optimisers_state(tmp_path):
    network = nn.Linear(3, 3)
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.ones(3)).sum().backward()
    optimiser.step()
    torch.save(optimiser.state_dict(), tmp_path / "opt.pt")
    with pytest.raises(InputError, match="optimiser's state"):
        load_checkpoint(tmp_path / "opt.pt")
    torch.save({"step": 3, "lr": 0.1}, tmp_path / "numbers.pt")
    with pytest.raises(InputError, match="holds no network"):
        load_checkpoint(tmp_path / "numbers.pt")


def test_missing_unknown_and_misshapen_tensors_are_named(tmp_path):
    state = load_file(ADM)
    lost = [k for k in state if "emb_layers.1.bias" in k][:7]
    for name in lost:
        del state[name]
    state |= {"ema_step": torch.zeros(1), "out.2.bias": torch.zeros(5)}
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(InputError) as caught:
        load_checkpoint(tmp_path / "m.safetensors", **TOLD)
    message = str(caught.value)
    assert "7 tensors are missing" in message and message.count("emb_layers.1.bias") == 5 and ", ..." in message
    assert "1 are unknown ('ema_step')" in message
    assert "'out.2.bias' is (5,) instead of (6,)" in message


LEAVES_A_WHOLE_MODEL = re.compile(r"label_emb\.|map_(label|augment|noise)\.|_aux_residual\.")
"""Without these a file is that of another, whole model."""


@pytest.mark.parametrize("name", sorted(p.name for p in DATA.glob("*.safetensors") if p.with_suffix("").suffix == ""
                                        and p.stem not in ("schedules", "nv_unetblock_2heads")))  # fmt: skip
def test_whatever_tensor_is_missing_is_named(name):
    """Alone, and with the four that follow it: the first five, whatever kind of layer they belong to."""
    state = load_file(DATA / name)
    whole = {key: tuple(value.shape) for key, value in state.items()}
    order = [key for key in whole if not LEAVES_A_WHOLE_MODEL.search(key)]
    for i, key in enumerate(order):
        for lost in ({key}, set(order[i : i + 5])):
            shapes = {k: v for k, v in whole.items() if k not in lost}
            tensors = Tensors(shapes, state.__getitem__)
            found = recognise(tensors)
            with pytest.raises(InputError) as caught:
                check_shapes(Path("m.pt"), found, skeleton(found), tensors)
            message = str(caught.value)
            assert f"{len(lost)} tensors are missing" in message and all(part in message for part in lost), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(tmp_path, value, dtype):
    state = {k: v.to(dtype) for k, v in load_file(NVLABS).items()}
    state["model.map_layer0.bias"][3] = value
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"1 tensors hold NaN or Inf \('model.map_layer0.bias'\)"):
        load_checkpoint(tmp_path / "m.safetensors")


def test_large_finite_weights_are_no_error(tmp_path):
    """Their sum overflows; they themselves do not."""
    state = {k: v.float() for k, v in load_file(NVLABS).items()}
    state["model.map_layer0.bias"][:] = 3e38
    save_file(state, tmp_path / "m.safetensors")
    load_checkpoint(tmp_path / "m.safetensors")


def test_a_file_that_is_written_to_while_it_is_read(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(NVLABS.read_bytes())

    def append(done, total):
        with path.open("ab") as file:
            file.write(b"x")

    with pytest.raises(InputError, match="was changed while it was being read"):
        load_checkpoint(path, progress=append)
    path.write_bytes(NVLABS.read_bytes())
    with pytest.raises(InputError, match="cut short"):
        load_checkpoint(path, progress=lambda done, total: os.truncate(path, 9000))


def test_a_loaded_model_does_not_need_its_file(tmp_path):
    """It would with a mapped file: truncating that kills the process."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(NVLABS.read_bytes())
    model = load_checkpoint(path, **EDM)
    before = model.denoise(X, 0.5)
    os.truncate(path, 0)
    assert torch.equal(model.denoise(X, 0.5), before)


def test_loading_can_be_cancelled_and_reports_bytes(tmp_path):
    seen = []

    def cancel(done, total):
        seen.append((done, total))
        return len(seen) < 3

    with pytest.raises(Cancelled):
        load_checkpoint(NVLABS, progress=cancel)
    assert len(seen) == 3 and seen[0][0] < seen[1][0] < seen[2][0] < seen[2][1]


@pytest.mark.parametrize(
    "data",
    [
        header({"a": {"dtype": "F32", "shape": [5 * 2**30], "data_offsets": [0, 20 * 2**30]}}),  # 20 GB
        header({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 2**82]}}),
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}) + b"xxxx",
        header({"a": {"dtype": "Q4", "shape": [1], "data_offsets": [0, 4]}}) + b"xxxx",
        header({"a": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4, 5]}}) + b"xxxx",
        header({"a": {"dtype": "F32", "shape": [float("inf")], "data_offsets": [0, 4]}}) + b"xxxx",
        header({"a": 3}),
        header({"a": {}}),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"{]",
        struct.pack("<Q", 60_000) + b"{\"a\":" + b"[" * 59_995,
        header({f"{i}": {"dtype": "F32", "shape": [250], "data_offsets": [0, 1000]} for i in range(9)}) + b"x" * 1000,
    ],
)  # fmt: skip
def test_forged_safetensors(tmp_path, data):
    path = tmp_path / "forged.safetensors"
    path.write_bytes(data)
    with pytest.raises(InputError, match="forged"):
        load_checkpoint(path)


def test_a_path_with_a_nul_byte(tmp_path):
    with pytest.raises(InputError, match="cannot be opened"):
        load_checkpoint(f"{tmp_path}/a\0b.pt")


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_tensor_of_20_gb_in_a_file_of_1_kb(tmp_path, suffix):
    """7 doubles become 2 684 354 560, in the programs that describe the tensor and its storage."""
    small = tmp_path / f"small{suffix}"
    torch.save({"a": torch.ones(7, dtype=torch.float64)}, small, _use_new_zipfile_serialization=suffix == ".pt")

    def forge(program: bytes) -> bytes:
        assert program.count(b"K\x07") >= 2
        return program.replace(b"K\x07", b"\x8a\x05" + (5 * 2**29).to_bytes(5, "little"))

    path = tmp_path / f"huge{suffix}"
    if suffix == ".pth":
        path.write_bytes(forge(small.read_bytes()))
    else:
        with zipfile.ZipFile(small) as genuine, zipfile.ZipFile(path, "w") as forged:
            for name in genuine.namelist():
                data = genuine.read(name)
                forged.writestr(name, forge(data) if name.endswith("data.pkl") else data)
    assert path.stat().st_size < 2500
    with pytest.raises(InputError, match=r"21474836480 bytes"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("file", "lost", "told"),
    [
        ("adm_neworder_classcond", "label_emb.weight", {**TOLD, "num_classes": 10}),
        ("nv_ncsnpp_cond", "model.map_label.weight", {"label_dim": 10}),
        ("nv_ncsnpp_cond", "model.map_augment.weight", {"augment_dim": 9}),
        ("nv_ncsnpp_cond", "model.map_noise.freqs", {"embedding_type": "fourier"}),
    ],
)
def test_a_tensor_without_which_it_is_another_model_is_named_if_anything_tells_of_it(tmp_path, file, lost, told):
    state = load_file(DATA / f"{file}.safetensors")
    del state[lost]
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=f"was given .*{lost} is missing"):
        load_checkpoint(tmp_path / "m.safetensors", **told)
    stated = {"kind": "pixel-model", "facts": {"arguments": told}}
    save_file(state, tmp_path / "m.safetensors", {"ssi": json.dumps(stated)})
    with pytest.raises(InputError, match=f"states .*{lost} is missing"):
        load_checkpoint(tmp_path / "m.safetensors")
