"""Reference checkpoints for tests, what they leave open, and files made of them."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ssi_core.models.family import Recognised, Tensors
from ssi_core.models.load import skeleton
from ssi_core.models.recognise import FAMILIES, published

DATA = Path(__file__).parent / "data" / "models"
ADM = DATA / "adm_uncond256like.safetensors"
CONSISTENCY = DATA / "cm_bedroom256like.safetensors"
NVLABS = DATA / "nv_ncsnpp_cond.safetensors"
EDM = {"class_name": "EDMPrecond"}
TOLD = {"num_head_channels": 16, "use_new_attention_order": False, "noise_schedule": "linear"}
X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def shapes_only(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    return Tensors(shapes, lambda name: torch.full(shapes[name], 1 / math.prod(shapes[name])))


def published_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published file."""
    entry = published()[name]
    family = next(family for family in FAMILIES if family.name == entry.family)
    network = skeleton(Recognised(family, {**family.defaults, **entry.facts}, {}, entry.architecture))
    return {family.prefix + key: tuple(value.shape) for key, value in network.state_dict().items()}


def saved(path: Path, state: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=path.suffix == ".pt")
    return path


def header(entries: dict) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text
