"""Which values an argument takes, whether a person gives it or a file states it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import LONGEST_SHOWN, InputError, shown
from .family import Facts

MOST_LEVELS = 100_000
WORDS = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
Check = Callable[[Any], bool]


def _whole(low: int, high: int = 2**31) -> tuple[str, Check]:
    return f"a whole number from {low} on" if high == 2**31 else f"a whole number from {low} to {high}", (
        lambda value: type(value) is int and low <= value <= high
    )


def _or_none(kind: tuple[str, Check]) -> tuple[str, Check]:
    return f"{kind[0]}, or None", lambda value: value is None or kind[1](value)


def _flag(value: Any) -> bool:
    return isinstance(value, bool) or (type(value) is int and value in (0, 1)) or str(value).lower() in WORDS


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _listed(text: str) -> list[float] | None:
    """The numbers in "1,2,3", as the originals' command lines have them; None if there is something else."""
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        return None
    return [int(n) if n.is_integer() else n for n in found] if all(map(_number, found)) else None


def _numbers(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(_listed(value) or ())
    return value if value is None else (value,) if _number(value) else tuple(value)


FLAG = ("True or False", _flag)
COUNT = _whole(1)
POSITIVE = ("a finite number above 0", lambda value: _number(value) and value > 0 and math.isfinite(value))
TEXT = ("a short text", lambda value: isinstance(value, str) and len(value) <= LONGEST_SHOWN)
NUMBERS = (
    "a list of numbers",
    lambda value: value is None or _number(value) or (TEXT[1](value) and _listed(value) is not None)
    or (isinstance(value, list | tuple | set | frozenset) and all(map(_number, value))),
)  # fmt: skip

TABLE: Mapping[str, tuple[str, Check]] = {
    **dict.fromkeys(("class_cond", "learn_sigma", "conv_resample", "resblock_updown", "use_scale_shift_norm",
                     "use_new_attention_order", "predict_xstart", "rescale_timesteps", "distillation"), FLAG),
    **dict.fromkeys(("in_channels", "out_channels", "img_channels", "model_channels", "num_channels", "num_heads",
                     "img_resolution", "channel_mult_emb", "channel_mult_noise"), COUNT),
    **dict.fromkeys(("num_res_blocks", "num_blocks", "label_dim", "augment_dim"), _whole(0)),
    **dict.fromkeys(("num_head_channels", "num_heads_upsample"), _whole(-1)),
    "image_size": _or_none(COUNT),
    "num_classes": _or_none(_whole(0)),
    **dict.fromkeys(("diffusion_steps", "M"), _whole(1, MOST_LEVELS)),
    **dict.fromkeys(("sigma_min", "sigma_max", "sigma_data", "beta_d", "beta_min", "epsilon_t"), POSITIVE),
    **dict.fromkeys(("noise_schedule", "class_name", "ctor", "precond", "model_type", "embedding_type", "encoder_type",
                     "decoder_type"), TEXT),
    **dict.fromkeys(("channel_mult", "attention_resolutions", "attn_resolutions", "resample_filter"), NUMBERS),
}  # fmt: skip
"""Argument -> what it takes, in words, and whether a value is that."""


def checked(words: Mapping[str, Any], unbounded: bool) -> Facts:
    """The arguments, with flags as bool and lists as tuples.

    A text of attention_resolutions stays one: OpenAI's command lines give sizes in pixels there, its constructors
    factors.

    Args:
        unbounded: whether a range of noise levels may be 0 to infinity (NVlabs' EDMPrecond states that).

    Raises:
        InputError: a value is not what its argument takes.
    """
    found = {}
    for name, value in words.items():
        takes, check = TABLE[name]
        no_bound = type(value) in (int, float) and (name, float(value)) in (("sigma_min", 0.0), ("sigma_max", math.inf))
        if not check(value) and not (unbounded and no_bound):
            raise InputError(f"{name}={shown(value)}: takes {takes}")
        if check is _flag:
            found[name] = WORDS.get(str(value).lower(), value == 1)
        elif check is NUMBERS[1] and name != "attention_resolutions":
            found[name] = _numbers(value)
        else:
            found[name] = value
    return found
