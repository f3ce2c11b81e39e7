"""The files of openai/guided-diffusion and openai/consistency_models."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import Any, ClassVar

from torch import nn

from ..denoiser import X0, Eps
from ..errors import InputError
from ..process import VE, DiscreteVP
from .adm import UNet, UNetConfig
from .family import Facts, Meaning, Question, Tensors
from .layers import Layers
from .precondition import Consistency, DiscreteTime, predictor

USUAL_SIZES = {
    (0.5, 1, 1, 2, 2, 4, 4): 512, (1, 1, 2, 2, 4, 4): 256, (1, 1, 2, 3, 4): 128, (1, 2, 3, 4): 64,
}  # fmt: skip
"""channel_mult -> image size, as both repositories' factories have it."""
OUTWARD = tuple(
    f"0.{name}" for name in ("out_layers.0.weight", "out_layers.0.bias", "out_layers.3.weight", "out_layers.3.bias",
                             "in_layers.2.weight", "in_layers.2.bias")
)  # fmt: skip
"""Tensors of a residual block that are as long as the block is wide."""


class _OpenAI:
    """What the two code bases share."""

    name: ClassVar[str]
    prefix: ClassVar[str] = ""
    carried_by: ClassVar[Mapping[str, str]] = {"num_classes": "label_emb.weight"}
    alternatives: ClassVar[tuple[str, ...]] = ("num_heads", "num_head_channels")
    null_label: ClassVar[bool] = False
    class_weights: ClassVar[bool] = False
    boundless: ClassVar[bool] = False
    flat_projection: ClassVar[bool]

    def matches(self, tensors: Tensors) -> bool:
        embedded = tensors.under("time_embed.") or any(".emb_layers." in name for name in tensors.shapes)
        if not embedded or not tensors.under("input_blocks."):
            return False
        ranks = {len(tensors.shapes[name]) for name in tensors.shapes if name.endswith(".qkv.weight")}
        return (3 in ranks or not ranks) == self.flat_projection

    def read(self, tensors: Tensors) -> Facts:
        shapes = tensors.shapes
        inputs, outputs = _indices(tensors, "input_blocks"), _indices(tensors, "output_blocks")
        if not outputs:
            raise InputError("it has input blocks but no output blocks: a classifier (half a U-Net) cannot be inverted")
        blocks = 1 + max(outputs)
        embeddings = [(name, 1) for name in shapes if name.endswith("emb_layers.1.weight")]
        model_channels = tensors.size(
            ("time_embed.0.weight", 1),
            default=tensors.size(*((f"time_embed.{n}", 0) for n in ("0.bias", "2.weight", "2.bias")), *embeddings,
                                 default=128) // 4,
        )  # fmt: skip

        # Every level has num_res_blocks + 1 output blocks, the last of which, but for the finest level, upsamples.
        resblock_ups = {n for n, m, rest in outputs_of(tensors) if m > 0 and re.match(r"(in|out|emb)_layers\.", rest)}
        conv_ups = {n for n, m, rest in outputs_of(tensors) if rest.startswith("conv.")}
        conv_downs = {n for n in inputs if tensors.under(f"input_blocks.{n}.0.op.")}
        # Downsampling by averaging leaves no tensors, hence a gap in the numbering.
        gaps = set(range(1, 1 + max(inputs))) - set(inputs)
        ends = {up + 1 for up in resblock_ups or conv_ups} | conv_downs
        per_level = math.gcd(blocks, *ends) if ends else min(gaps, default=blocks)
        if blocks % per_level:
            raise InputError(f"its {blocks} output blocks do not make levels of {per_level}; tensors are missing")
        levels = blocks // per_level

        widths, attends = [], []
        for level in range(levels):
            first = (levels - 1 - level) * per_level
            of_level = [f"output_blocks.{n}" for n in range(first, first + per_level)]
            widths.append(
                tensors.size(*((f"{block}.{n}", 0) for block in of_level for n in OUTWARD), default=model_channels)
            )
            if any(re.match(r"(qkv|proj_out|norm)\.", name[len(block) + 3 :])
                   for block in of_level for name in tensors.under(f"{block}.1.")):  # fmt: skip
                attends.append(2**level)
        in_channels = tensors.size(("input_blocks.0.0.weight", 1), default=0)
        out_channels = tensors.size(("out.2.weight", 0), ("out.2.bias", 0), default=in_channels or 3)
        facts: Facts = {
            "in_channels": in_channels or (out_channels if out_channels < 6 else out_channels // 2),
            "out_channels": out_channels,
            "model_channels": model_channels,
            "num_res_blocks": per_level - 1,
            "attention_resolutions": tuple(attends),
            "channel_mult": tuple(_multiple(width, model_channels) for width in widths),
            "num_classes": tensors.size(("label_emb.weight", 0), default=0) or None,
            "use_scale_shift_norm": _scales_and_shifts(tensors),
        }
        if levels > 1:
            facts["resblock_updown"] = bool(resblock_ups)
            facts["conv_resample"] = bool(ends)
        self.check(facts)
        return facts

    def check(self, facts: Facts) -> None:
        """Raise InputError for relatives that cannot be run."""
        c, out = facts["in_channels"], facts["out_channels"]
        if c == out == 6:
            raise InputError("it takes and gives 6 channels: an upsampler, which needs a small image beside the noise")
        if out not in self.outputs(c):
            raise InputError(f"it takes {c} channels and gives {out}, which is no {self.name} model of images")

    def outputs(self, channels: int) -> tuple[int, ...]:
        raise NotImplementedError

    def own(self, tensors: Tensors) -> set[str]:
        return set()

    def translate(self, overrides: Mapping[str, Any], known: Facts) -> Facts:
        facts = dict(overrides)
        if "num_channels" in facts:
            facts["model_channels"] = facts.pop("num_channels")
        if "class_cond" in facts:
            conditional = bool(facts.pop("class_cond"))
            if conditional != (known["num_classes"] is not None):
                facts["num_classes"] = (known["num_classes"] or 1000) if conditional else None
        if "learn_sigma" in facts:
            facts["out_channels"] = known["in_channels"] * (2 if facts.pop("learn_sigma") else 1)
        if facts.get("num_classes") == 0:
            facts["num_classes"] = None
        mult = facts.get("channel_mult")
        if mult is not None:
            facts.pop("channel_mult")
            if mult and [int(m * known["model_channels"]) for m in mult] != _widths(known):
                facts["channel_mult"] = tuple(mult)
        attention = facts.get("attention_resolutions")
        if isinstance(attention, str):
            size = facts.get("image_size") or known.get("image_size")
            attention = [size // int(r) for r in attention.split(",") if r] if size else None
        if "attention_resolutions" in facts:
            facts.pop("attention_resolutions")
            reached = {2**level for level in range(len(known["channel_mult"]))}
            if attention is not None and set(attention) & reached != set(known["attention_resolutions"]):
                facts["attention_resolutions"] = tuple(attention)
        for flag in ("resblock_updown", "conv_resample"):  # says nothing where there is nothing to resample
            if flag not in known or (flag == "conv_resample" and known["resblock_updown"]):
                facts.pop(flag, None)
        return facts

    def questions(self, facts: Facts) -> list[Question]:
        found = []
        widths = sorted({_widths(facts)[-1], *(w for i, w in enumerate(_widths(facts))
                                               if 2**i in facts["attention_resolutions"])})  # fmt: skip
        if "num_heads" not in facts and facts.get("num_head_channels", -1) == -1:
            common = math.gcd(*widths)
            sizes = [n for n in _divisors(common) if n >= 8]
            numbers = [n for n in _divisors(common) if 8 * n <= common]
            found.append(
                Question(
                    ("num_head_channels", "num_heads"),
                    f"num_head_channels: one of {_some(sizes)}; or num_heads: one of {_some(numbers)} "
                    f"(attention blocks have {_some(widths)} channels)",
                    stand_in={"num_heads": 1},
                )
            )
        return found

    def hints(self, filename: str, given: Mapping[str, Any], facts: Facts) -> list[tuple[Facts, str]]:
        return []

    def config(self, facts: Facts) -> UNetConfig:
        known = {field.name for field in fields(UNetConfig)}
        chosen = {k: v for k, v in facts.items() if k in known}
        return UNetConfig(**chosen, joint_projection_2d=not self.flat_projection)

    def network(self, facts: Facts, layers: Layers) -> nn.Module:
        return UNet(self.config(facts), layers)

    def usual_size(self, known: Facts) -> int | None:
        size = USUAL_SIZES.get(tuple(known["channel_mult"]))
        usual = {size // r for r in (32, 16, 8)} if size else None
        return size if usual == set(known["attention_resolutions"]) else None

    def image_size(self, facts: Facts) -> int | None:
        size: int | None = facts.get("image_size")
        return size

    def size_multiple(self, facts: Facts) -> int:
        return int(2 ** (len(facts["channel_mult"]) - 1))

    def num_classes(self, facts: Facts) -> int:
        return int(facts.get("num_classes") or 0)

    def identity(self, facts: Facts) -> Facts:
        heads = self.heads(facts)
        said = {*self.alternatives, "num_heads_upsample", "image_size"}
        if max(heads) == 1:  # then their order says nothing
            said.add("use_new_attention_order")
        return {**{k: v for k, v in facts.items() if k not in said}, "heads": heads}

    def heads(self, facts: Facts) -> list[int]:
        """Their numbers in the encoder's attention blocks by level, the middle one last, then in the decoder's."""
        config = self.config(facts)
        widths = [w for i, w in enumerate(config.widths) if 2**i in config.attention_resolutions]
        return [config.heads(w) for w in [*widths, config.widths[-1]]] + [config.heads(w, decoder=True) for w in widths]


_SHARED = {field.name for field in fields(UNetConfig)} - {"joint_projection_2d"} | {
    "image_size", "num_channels", "class_cond", "learn_sigma",
}  # fmt: skip
_INERT = {"dropout", "use_checkpoint", "use_fp16", "dims"}


class GuidedDiffusion(_OpenAI):
    """openai/guided-diffusion: epsilon, and usually its variance, at 1000 discrete levels."""

    name: ClassVar[str] = "guided-diffusion"
    arguments: ClassVar[frozenset[str]] = frozenset(
        _SHARED | {"noise_schedule", "diffusion_steps", "predict_xstart", "rescale_timesteps"}
    )
    inert: ClassVar[frozenset[str]] = frozenset(_INERT | {"timestep_respacing", "use_kl", "rescale_learned_sigmas"})
    defaults: ClassVar[Mapping[str, Any]] = {
        "diffusion_steps": 1000,
        "predict_xstart": False,
        "rescale_timesteps": False,
    }
    flat_projection: ClassVar[bool] = True

    def outputs(self, channels: int) -> tuple[int, ...]:
        return (channels, 2 * channels)

    def questions(self, facts: Facts) -> list[Question]:
        found = super().questions(facts)
        if "use_new_attention_order" not in facts and (found or max(self.heads(facts)) > 1):
            found.append(
                Question(
                    ("use_new_attention_order",),
                    "use_new_attention_order: False (all files but 64x64_diffusion) or True",
                )
            )
        if "noise_schedule" not in facts:
            found.append(
                Question(
                    ("noise_schedule",),
                    'noise_schedule: "linear" (all files but 64x64_diffusion) or "cosine"',
                    of_meaning=True,
                )
            )
        return found

    def meaning(self, facts: Facts, tensors: Tensors) -> Meaning:
        steps = facts["diffusion_steps"]
        process = DiscreteVP(facts["noise_schedule"], steps)
        factor = 1000 / steps if facts["rescale_timesteps"] else 1.0
        channels = facts["in_channels"]
        return Meaning(
            partial(
                predictor,
                reading=X0 if facts["predict_xstart"] else Eps,
                timestep=DiscreteTime(process, factor),
                channels=channels,
            ),
            process,
            process.sigma_min,
            process.sigma_max,
            ("x0" if facts["predict_xstart"] else "epsilon")
            + (" and variance" if facts["out_channels"] > channels else ""),
            f"{facts['noise_schedule']}, {steps} levels",
        )


class ConsistencyModels(_OpenAI):
    """openai/consistency_models: EDM teachers, and models distilled from or trained without them."""

    name: ClassVar[str] = "consistency-models"
    arguments: ClassVar[frozenset[str]] = frozenset(_SHARED | {"distillation", "sigma_min", "sigma_max", "sigma_data"})
    inert: ClassVar[frozenset[str]] = frozenset(
        _INERT | {"weight_schedule", "use_new_attention_order", "loss_norm", "rho"}
    )
    defaults: ClassVar[Mapping[str, Any]] = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}
    flat_projection: ClassVar[bool] = False

    def outputs(self, channels: int) -> tuple[int, ...]:
        return (channels,)

    def questions(self, facts: Facts) -> list[Question]:
        found = super().questions(facts)
        if "distillation" not in facts:
            found.append(
                Question(
                    ("distillation",),
                    "distillation: False (edm_* files, the EDM teachers) or True (cd_* and ct_*, boundary scalings)",
                    of_meaning=True,
                )
            )
        return found

    def meaning(self, facts: Facts, tensors: Tensors) -> Meaning:
        low, high = float(facts["sigma_min"]), float(facts["sigma_max"])
        boundary = low if facts["distillation"] else 0.0
        return Meaning(
            partial(Consistency, sigma_data=float(facts["sigma_data"]), boundary=boundary),
            VE(),
            low,
            high,
            "F with consistency boundary scalings" if facts["distillation"] else "F with EDM scalings",
            f"VE, {low:g} to {high:g}",
        )


def outputs_of(tensors: Tensors) -> list[tuple[int, int, str]]:
    """(block, layer, rest of the name) of every tensor in the output blocks."""
    found = (re.fullmatch(r"output_blocks\.(\d{1,3})\.(\d)\.(.+)", name) for name in tensors.under("output_blocks."))
    return [(int(m[1]), int(m[2]), m[3]) for m in found if m]


def _indices(tensors: Tensors, name: str) -> set[int]:
    found = (re.match(rf"{name}\.(\d{{1,3}})\.", key) for key in tensors.under(f"{name}."))
    return {int(m[1]) for m in found if m}


def _scales_and_shifts(tensors: Tensors) -> bool:
    """Whether the embedding gives each residual block two numbers a channel, not one."""
    for name in tensors.under("output_blocks."):
        block, found, _ = name.partition(".emb_layers.1.")
        given = tensors.size((name, 0), default=0)
        width = tensors.size(*((f"{block.removesuffix('.0')}.{n}", 0) for n in OUTWARD), default=0)
        if found and block.endswith(".0") and given and width:
            return given == 2 * width
    return True


def _multiple(width: int, base: int) -> float:
    """The number that, times `base` and rounded down, is `width`."""
    if width % base == 0:
        return width // base
    ratio = width / base
    return ratio if int(ratio * base) == width else math.nextafter(ratio, math.inf)


def _widths(facts: Facts) -> list[int]:
    return [int(mult * facts["model_channels"]) for mult in facts["channel_mult"]]


def _divisors(number: int) -> list[int]:
    """Rising; found up to the root, since the number comes from a file."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def _some(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:12])) + (", ..." if len(numbers) > 12 else "")
