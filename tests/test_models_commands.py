"""Describing, converting and listing checkpoint files, and the paper's presets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from checkpoints import ADM, CONSISTENCY, DATA, TOLD, X, header, published_shapes
from safetensors.torch import load_file, save_file

from ssi_core.errors import Cancelled, InputError
from ssi_core.models import load_checkpoint
from ssi_core.models.commands import convert, describe, models
from ssi_core.models.container import open_archive
from ssi_core.models.presets import PRESETS
from ssi_core.models.recognise import published
from ssi_core.process import VE, DiscreteVP
from ssi_core.schedule import ddim_sigmas


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("path", "told"),
    [(ADM, TOLD), (CONSISTENCY, {"num_head_channels": 16, "distillation": True}), (DATA / "nv_ncsnpp_cond.pkl", {})],
)
def test_a_converted_file_needs_no_arguments(tmp_path, path, told, dtype):
    out = tmp_path / "converted.safetensors"
    description = convert(path, out, dtype=dtype, overrides=told)
    assert description.undecided is None and description.container == "safetensors"
    original, again = load_checkpoint(path, **told), load_checkpoint(out)
    assert again.process == original.process and again.info.parametrisation == original.info.parametrisation
    error = float((again.denoise(X, 0.5) - original.denoise(X, 0.5)).abs().max())
    # The reference weights are exact in float16, so only bfloat16 changes them.
    assert error == 0 if dtype in (None, torch.float16) else 0 < error < 0.05
    with open_archive(out) as archive:
        assert {r.storage.dtype for n, r in archive.records.items() if "conv" in n or "layers.2" in n} >= {
            dtype or next(iter(archive.records.values())).storage.dtype
        }


def test_arguments_of_a_converted_file_can_be_overruled(tmp_path):
    out = tmp_path / "converted.safetensors"
    convert(ADM, out, overrides=TOLD)
    assert load_checkpoint(out, noise_schedule="cosine").process == DiscreteVP("cosine")
    assert load_checkpoint(out, num_heads=4).info.facts.get("num_head_channels", -1) == -1


def test_conversion_fails_whole(tmp_path):
    out = tmp_path / "converted.safetensors"
    with pytest.raises(InputError, match="Choices"):
        convert(ADM, out)
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        convert(ADM, tmp_path / "x.pt", overrides=TOLD)
    with pytest.raises(Cancelled):
        convert(ADM, out, overrides=TOLD, progress=lambda done, total: False)
    state = {k: v.float() for k, v in load_file(ADM).items()}
    state["input_blocks.0.0.weight"] *= 1e6
    save_file(state, tmp_path / "large.safetensors")
    with pytest.raises(InputError, match=r"too large for torch.float16 \('input_blocks\.0\.0\.weight'\); use bfloat16"):
        convert(tmp_path / "large.safetensors", out, dtype=torch.float16, overrides=TOLD)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["large.safetensors"]


def test_a_description_reads_no_weights(tmp_path):
    """A sparse file with the shape of a 2.2 GB checkpoint is described at once."""
    shapes = published_shapes("lsun_bedroom")
    entries, offset = {}, 0
    for name, shape in shapes.items():
        nbytes = 4 * torch.Size(shape).numel()
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    path = tmp_path / "lsun_bedroom.safetensors"
    path.write_bytes(header(entries))
    os.truncate(path, path.stat().st_size + offset)
    found = describe(path)
    assert found.names == ("lsun_bedroom",) and found.undecided is None and found.nbytes == 2211256344
    assert found.stored == ("float32",) and found.facts["image_size"] == 256
    listed = {row.file.name: row.found for row in models([tmp_path])}
    assert listed["lsun_bedroom"] == [path] and listed["lsun_cat"] == []
    assert describe(ADM).undecided and describe(ADM, overrides=TOLD).undecided is None


def test_the_list_of_published_files():
    rows = {row.file.name: row.file for row in models()}
    assert len(rows) == 30
    assert rows["edm-imagenet-64x64-cond-adm"].licence == "CC BY-NC-SA 4.0"
    for file in rows.values():
        assert file.url.startswith("https://") and file.url.rsplit("/", 1)[1].rsplit(".", 1)[0] == file.name
    with pytest.raises(InputError, match="no such folder"):
        models(["/nowhere"])


def test_the_readme_lists_every_published_file_and_preset():
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    for file in published().values():
        assert f"[{file.name}]({file.url})" in readme and f"{file.nbytes / 1e6:,.0f} MB" in readme
    for name in PRESETS:
        assert f"`{name}`" in readme


def test_presets_are_the_papers_settings():
    assert len(PRESETS) == 8
    bedroom, linear = PRESETS["bedroom-ddim-ssi"], DiscreteVP("linear")
    assert bedroom.skip(linear) == pytest.approx(0.1405, abs=5e-4) and len(bedroom.sigmas(linear)) == 501
    assert PRESETS["imagenet-ddim-ssi"].skip(linear) == pytest.approx(0.023, abs=5e-4)
    edm = PRESETS["bedroom-edm-ssi"]
    assert edm.skip(VE()) == 0.1 and len(edm.sigmas(VE())) == 201
    assert int((edm.sigmas(VE())[:-1] < 0.1).sum()) == 43
    assert all(preset.model in published() for preset in PRESETS.values())
    assert {p.skip(linear) for name, p in PRESETS.items() if name.endswith("base")} == {0.0}


def test_a_preset_follows_the_models_own_levels():
    bedroom, cosine = PRESETS["bedroom-ddim-ssi"], DiscreteVP("cosine")
    assert bedroom.skip(cosine) == float(cosine.sigmas[39]) != bedroom.skip(DiscreteVP("linear"))
    assert torch.equal(bedroom.sigmas(cosine), ddim_sigmas(range(1, 1000, 2), cosine))
    for process in (VE(), DiscreteVP("linear", 500)):
        with pytest.raises(InputError, match="1000 discrete levels"):
            bedroom.sigmas(process)
