"""The files of NVlabs/edm."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn

from ..denoiser import EDM, Eps
from ..errors import InputError, shown
from ..process import VE, VP, DiscreteVP
from .edm import ARCHITECTURES, EDMNetConfig
from .family import Facts, Meaning, Question, Tensors
from .layers import Layers
from .precondition import ContinuousTime, Exploding, nearest_level

PRECONDITIONERS = ("EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond")
SHORT = {"vp": "VPPrecond", "ve": "VEPrecond", "edm": "EDMPrecond"}
"""As `--precond` and the published files' names have it."""
PUBLISHED_NAME = re.compile(r"(?<![a-z0-9])(edm|baseline)-[a-z0-9]+-\d+x\d+-(?:un)?cond-(vp|ve|adm)(?![a-z0-9])")
SPECIFIC = {"EDMPrecond": {"sigma_data"}, "VPPrecond": {"beta_d", "beta_min", "epsilon_t"}}
"""Arguments that one preconditioner alone takes."""


OUTWARD = ("norm1.weight", "norm1.bias", "conv0.weight", "conv0.bias", "conv1.weight", "conv1.bias")
"""Tensors of a block of the decoder that are as long as it is wide."""


class NVLabs:
    """NVlabs/edm: SongUNet and DhariwalUNet inside one of four preconditioners.

    The tensors do not tell EDMPrecond, VPPrecond and VEPrecond apart. A `.pkl` says which it is; elsewhere its name,
    its shape, or an argument that only one of them takes may (`hints`); else `class_name` (or `precond`) must.
    """

    name: ClassVar[str] = "nvlabs-edm"
    prefix: ClassVar[str] = "model."
    carried_by: ClassVar[Mapping[str, str]] = {
        "label_dim": "model.map_label.weight", "augment_dim": "model.map_augment.weight",
        "embedding_type": "model.map_noise.freqs",
    }  # fmt: skip
    alternatives: ClassVar[tuple[str, ...]] = ()
    null_label: ClassVar[bool] = True
    class_weights: ClassVar[bool] = True
    boundless: ClassVar[bool] = True
    arguments: ClassVar[frozenset[str]] = frozenset(
        {field.name for field in fields(EDMNetConfig)}
        | {"img_channels", "image_size", "class_name", "ctor", "precond", "sigma_data", "sigma_min", "sigma_max"}
        | {"beta_d", "beta_min", "M", "epsilon_t"}
    )
    inert: ClassVar[frozenset[str]] = frozenset({"dropout", "label_dropout", "use_fp16", "C_1", "C_2"})
    defaults: ClassVar[Mapping[str, Any]] = {
        "sigma_data": 0.5, "beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5,
    }  # fmt: skip

    def matches(self, tensors: Tensors) -> bool:
        return bool(tensors.under("model.map_")) and any(_block(name) for name in tensors.under("model.enc."))

    def read(self, tensors: Tensors) -> Facts:
        names = [name[6:] for name in tensors.under("model.")]

        def size(*candidates: tuple[str, int], default: int) -> int:
            return tensors.size(*((f"model.{name}", dimension) for name, dimension in candidates), default=default)

        encoder = [match for name in names if (match := _block("model." + name)) and match[1] == "enc"]
        finest = max(int(match[2]) for match in encoder)
        resolutions = sorted({int(match[2]) for match in encoder}, reverse=True)
        if resolutions != [finest >> level for level in range(len(resolutions))]:
            raise InputError(f"its blocks work at the resolutions {resolutions}, which are not halves of each other")
        first = f"enc.{finest}x{finest}_conv"
        block = f"dec.{finest}x{finest}_block0"
        # By their last layers, or by what the embedding does: SongUNet shifts, DhariwalUNet scales and shifts.
        dhariwal = any(name.startswith("out_") for name in names) or (
            not any("_aux_" in name for name in names)
            and size((f"{block}.affine.weight", 0), default=0) == 2 * size((f"{block}.norm1.weight", 0), default=1)
        )
        widths = [(f"{first}.weight", 0), (f"{first}.bias", 0)]
        widths += [(f"enc.{finest}x{finest}_block0.{name}", 0) for name in ("norm0.weight", "norm0.bias")]
        noise = [("map_layer0.weight", 1), ("map_augment.weight", 0)]  # what goes into the first of the two layers
        model_channels = size(*noise if dhariwal else widths, default=0)
        blocks = {match[3] for match in encoder if match[2] == str(finest) and match[3].startswith("block")}
        out = "out_conv" if dhariwal else f"dec.{finest}x{finest}_aux_conv"
        in_channels = size((f"{first}.weight", 1), default=0)
        out_channels = size((f"{out}.weight", 0), (f"{out}.bias", 0), default=in_channels or 3)
        embedding = size(
            *((f"map_layer{n}", 0) for n in ("0.weight", "0.bias", "1.weight", "1.bias")),
            *((name, 1) for name in names if name.endswith(".affine.weight")), default=4 * (model_channels or 128),
        )  # fmt: skip
        model_channels = model_channels or max(embedding // 4, 1)
        noise_channels = size(*noise, ("map_label.weight", 0), default=model_channels)

        facts: Facts = {
            "model_type": "DhariwalUNet" if dhariwal else "SongUNet",
            "img_resolution": finest,
            "in_channels": in_channels or out_channels,
            "out_channels": out_channels,
            "model_channels": model_channels,
            "num_blocks": len(blocks),
            "channel_mult": tuple(
                _whole(
                    size(*((f"dec.{r}x{r}_block0.{name}", 0) for name in OUTWARD), default=model_channels),
                    model_channels,
                    "a width",
                )
                for r in resolutions
            ),
            "attn_resolutions": tuple(
                r for r in resolutions if any(re.match(rf"enc\.{r}x{r}_block0\.(qkv|proj|norm2)\.", n) for n in names)
            ),
            "channel_mult_emb": _whole(embedding, model_channels, "the embedding"),
            "label_dim": size(("map_label.weight", 1), default=0),
            "augment_dim": size(("map_augment.weight", 1), default=0),
        }
        if not dhariwal:
            joined = " ".join(names)
            facts |= {
                "embedding_type": "fourier" if "map_noise.freqs" in names else "positional",
                "channel_mult_noise": _whole(noise_channels, model_channels, "the noise embedding"),
            }
            if len(resolutions) > 1:
                facts["encoder_type"] = (
                    "residual" if "_aux_residual." in joined else "skip" if "_aux_skip." in joined else "standard"
                )
                facts["decoder_type"] = "skip" if "_aux_up." in joined else "standard"
        if len(resolutions) > 1:
            facts["resample_filter"] = _filter(tensors)
        if "u" in tensors:
            facts["class_name"] = "iDDPMPrecond"
            facts["M"] = len(tensors.value("u")) - 1
        if facts["out_channels"] != facts["in_channels"] * (2 if "u" in tensors else 1):
            raise InputError(f"it takes {facts['in_channels']} channels and gives {facts['out_channels']}")
        return facts

    def translate(self, overrides: Mapping[str, Any], known: Facts) -> Facts:
        facts = dict(overrides)
        if "img_channels" in facts:
            facts["in_channels"] = facts.pop("img_channels")
        if "image_size" in facts:
            facts["img_resolution"] = facts.pop("image_size")
        if "precond" in facts:
            short = str(facts.pop("precond"))
            facts["class_name"] = SHORT.get(short, short)
        if "ctor" in facts:
            facts["class_name"] = facts.pop("ctor")
        if "class_name" in facts:
            facts["class_name"] = str(facts["class_name"]).rsplit(".", 1)[-1]
            if facts["class_name"] not in PRECONDITIONERS:
                raise InputError(f"class_name {facts['class_name']!r}: unknown; one of {', '.join(PRECONDITIONERS)}")
        if "resample_filter" in facts:
            taps = torch.tensor(facts.pop("resample_filter"), dtype=torch.float32)
            expected = torch.tensor(known.get("resample_filter", taps.tolist()))
            if taps.shape != expected.shape or not torch.allclose(taps / taps.sum(), expected / expected.sum()):
                facts["resample_filter"] = tuple(taps.tolist())
        if "attn_resolutions" in facts:
            reached = {known["img_resolution"] >> level for level in range(len(known["channel_mult"]))}
            wanted = set(facts.pop("attn_resolutions")) & reached
            # DhariwalUNet leaves attention out where a level is narrower than one head.
            if not set(known["attn_resolutions"]) <= wanted:
                facts["attn_resolutions"] = tuple(wanted)
        if "channel_mult" in facts:
            facts["channel_mult"] = tuple(facts["channel_mult"])
        # EDMPrecond states a range of 0 to infinity, which says nothing about its training.
        for name in ("sigma_min", "sigma_max"):
            if name in facts and not 0 < float(facts[name]) < float("inf"):
                del facts[name]
        if known["model_type"] == "DhariwalUNet" or len(known["channel_mult"]) == 1:
            for name in ("embedding_type", "encoder_type", "decoder_type", "channel_mult_noise"):
                if name not in known:
                    facts.pop(name, None)
        return facts

    def hints(self, filename: str, given: Mapping[str, Any], facts: Facts) -> list[tuple[Facts, str]]:
        found: list[tuple[Facts, str]] = []
        # Only preconditioners take these: somebody spells out a call of one, and the original's is EDMPrecond unless
        # its user says otherwise.
        if "class_name" not in facts and ("model_type" in given or "img_channels" in given):
            found.append(({"class_name": "EDMPrecond"}, "assumed: the original's default for arguments like these"))
        unbounded = given.get("sigma_min") == 0 or given.get("sigma_max") == math.inf
        for kind, own in SPECIFIC.items():
            if own & set(given) or (kind == "EDMPrecond" and unbounded):
                found.append(({"class_name": kind}, "an argument that only this class takes"))
        named = PUBLISHED_NAME.search(filename)
        if named and (kind := "EDMPrecond" if named[1] == "edm" else SHORT.get(named[2], "")):
            found.append(({"class_name": kind}, f"the file's name, {named[0]}"))
        return found

    def questions(self, facts: Facts) -> list[Question]:
        if "class_name" in facts:
            return []
        choices = (
            "class_name: EDMPrecond (edm-* files), VPPrecond (baseline-*-vp: epsilon in continuous VP) or VEPrecond "
            "(baseline-*-ve)"
        )
        return [Question(("class_name",), choices, of_meaning=True)]

    def network(self, facts: Facts, layers: Layers) -> nn.Module:
        known = {field.name for field in fields(EDMNetConfig)}
        config = EDMNetConfig(**{k: v for k, v in facts.items() if k in known})
        return ARCHITECTURES[config.model_type](config, layers)

    def usual_size(self, known: Facts) -> int | None:
        return int(known["img_resolution"])

    def image_size(self, facts: Facts) -> int | None:
        return int(facts["img_resolution"])

    def size_multiple(self, facts: Facts) -> int:
        return int(2 ** (len(facts["channel_mult"]) - 1))

    def num_classes(self, facts: Facts) -> int:
        return int(facts.get("label_dim") or 0)

    def identity(self, facts: Facts) -> Facts:
        return {k: v for k, v in facts.items() if k != "image_size"}

    def own(self, tensors: Tensors) -> set[str]:
        return {"u"} & set(tensors.shapes)

    def meaning(self, facts: Facts, tensors: Tensors) -> Meaning:
        kind = facts["class_name"]
        if kind == "VPPrecond":
            beta_min, slope, last = float(facts["beta_min"]), float(facts["beta_d"]), int(facts["M"]) - 1
            process = VP(beta_min, beta_min + slope)
            timestep = ContinuousTime(beta_min, slope, last)
            low, high = float(process.sigma(float(facts["epsilon_t"]))), float(process.sigma(1.0))
            return Meaning(partial(Eps, timestep=timestep), process, low, high, "epsilon", "VP, continuous")
        if kind == "VEPrecond":
            low, high = _range(facts, 0.02, 100.0)
            return Meaning(Exploding, VE(), low, high, "-epsilon", f"VE, {low:g} to {high:g}")
        if kind == "iDDPMPrecond":
            return _iddpm(facts, tensors)
        low, high = _range(facts, 0.002, 80.0)
        sigma_data = float(facts["sigma_data"])
        return Meaning(
            partial(EDM, sigma_data=sigma_data), VE(), low, high, "F with EDM scalings", f"VE, {low:g} to {high:g}"
        )


def _iddpm(facts: Facts, tensors: Tensors) -> Meaning:
    if "u" not in tensors:
        raise InputError("class_name iDDPMPrecond: the file has no tensor u, which holds its levels")
    levels, channels = tensors.value("u").double(), facts["in_channels"]
    process = DiscreteVP(alphas_cumprod=tuple((1 / (1 + levels[:-1].flip(0) ** 2)).tolist()))
    read = partial(nearest_level, levels=levels, channels=channels)
    schedule = f"iDDPM, {facts['M']} levels"
    return Meaning(read, process, float(levels[-2]), float(levels[0]), "epsilon and variance", schedule)


def _range(facts: Facts, low: float, high: float) -> tuple[float, float]:
    """The trained range, if it is stated, or the usual one."""
    return float(facts.get("sigma_min", low)), float(facts.get("sigma_max", high))


def _block(name: str) -> re.Match[str] | None:
    return re.match(r"model\.(enc|dec)\.(\d{1,5})x\2_([a-z_]+\d*)\.", name)


def _whole(width: int, base: int, what: str) -> int:
    if width % base:
        raise InputError(f"{what} of {width} channels is no multiple of its {base} base channels")
    return width // base


def _filter(tensors: Tensors) -> tuple[float, ...]:
    """The one-dimensional filter whose outer product the file stores, as whole numbers where it is that."""
    name = next((name for name in tensors.under("model.enc.") if name.endswith(".resample_filter")), None)
    if name is None:
        return (1.0, 1.0)
    shape = tensors.shapes[name]
    if len(shape) != 4 or shape[:2] != (1, 1) or shape[2] != shape[3] or not 1 <= shape[2] <= 64:
        raise InputError(f"its tensor {name} has the shape {shape}, where (1, 1, N, N) is wanted")
    taps = tensors.value(name).float()[0, 0].sum(dim=0)
    # Two equal taps are computed by averaging and repeating, and all resamplers are taken to have one filter, so what
    # the file has is looked at.
    expected = taps.outer(taps) / taps.sum() ** 2
    for other in tensors.shapes:
        if other.endswith(".resample_filter") and tensors.shapes[other] == shape:
            kernel = tensors.value(other).float()[0, 0]
            if not torch.allclose(kernel, expected, rtol=1e-2, atol=1e-6):  # NaN is close to nothing
                raise InputError(
                    f"its tensor {shown(other)} is not the normalised product of one row of numbers with itself, the "
                    "same for all, which the original's filters are"
                )
    smallest = taps.abs().min()
    scaled = taps / smallest if smallest > 0 else taps
    return tuple((scaled.round() if torch.allclose(scaled, scaled.round(), atol=1e-3) else taps).tolist())
