"""Which tensors of what a pickle held are the network's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, shown
from .pickles import Damaged, Instance
from .records import Archive, Record

MOST_TENSORS = 100_000
MOST_WRAPPERS = 16
"""Dictionaries around a network."""
LONGEST_TENSOR_NAME = 1000


@dataclass
class PersistentObject:
    """An object of NVlabs' persistence mechanism, without the source text that came with it."""

    class_name: str
    state: dict[str, Any]


def take_network(archive: Archive, value: Any) -> None:
    """Find the network in what a pickle held, and put its tensors and facts into the archive.

    Raises:
        InputError: there is none, there are several, or it is something else (optimiser state).
    """
    if _is_optimiser(value):
        raise InputError(f"{archive.path}: is an optimiser's state, not a model; give the file with the weights")
    keys = f"; its top-level keys are {_some_keys(value)}" if isinstance(value, dict) else ""
    value = _unwrapped(archive, value)
    if isinstance(value, PersistentObject):
        archive.container = "NVlabs pickle"
        archive.facts = _plain(value)
        _gather(archive, value)
    elif isinstance(value, dict):
        archive.records.update({str(name): entry for name, entry in value.items() if isinstance(entry, Record)})
    if not archive.records:
        raise InputError(f"{archive.path}: holds no network: no tensors where a model's weights would be{keys}")


def _unwrapped(archive: Archive, value: Any) -> Any:
    """Go down through what training code puts around a network ({"state_dict": ...}, {"model": ..., "epoch": 3}).

    Something with a tenth of another's tensors is no network beside it. Where several networks lie side by side, the
    one that is called an average (ema) is meant: that is what all three originals sample from.

    Raises:
        InputError: there are several, and not one of them is an average.
    """
    counts: dict[int, int] = {}
    for _ in range(MOST_WRAPPERS):
        if not isinstance(value, dict):
            return value
        sizes = {key: _tensors(entry, counts) for key, entry in value.items()}
        largest = max(sizes.values(), default=0)
        if sum(isinstance(entry, Record) for entry in value.values()) >= largest:
            return value
        inside = {key: value[key] for key, size in sizes.items() if 10 * size >= largest}
        averages = [key for key in inside if "ema" in re.split(r"[^a-z]+", str(key).lower())]
        if len(inside) > 1 and len(averages) != 1:
            raise InputError(
                f"{archive.path}: holds several networks, {_some_keys(inside)}, among the top-level keys "
                f"{_some_keys(value)}; save the one that is wanted in a file of its own"
            )
        value = inside[averages[0] if len(inside) > 1 else next(iter(inside))]
    raise Damaged("dictionaries in dictionaries without an end")


def _tensors(value: Any, counts: dict[int, int]) -> int:
    """How many tensors lie in a dictionary or module; 0 for what is none. `counts` has what is known, by identity.

    A module counts at least 1, so that a damaged one is looked into and refused for what it is.
    """
    module = isinstance(value, PersistentObject | Instance)
    if module:
        state = value.state if isinstance(value.state, dict) else {}
        held = [state[kind] for kind in ("_parameters", "_buffers", "_modules") if isinstance(state.get(kind), dict)]
    elif isinstance(value, dict) and not _is_optimiser(value):
        held = [value]
    else:
        return 0
    if id(value) not in counts:
        counts[id(value)] = 0  # of one that holds itself
        counts[id(value)] = int(module and bool(held)) + sum(
            1 if isinstance(entry, Record) else _tensors(entry, counts) for part in held for entry in part.values()
        )
    return counts[id(value)]


def _is_optimiser(value: Any) -> bool:
    return isinstance(value, dict) and "param_groups" in value and "state" in value


def _some_keys(value: dict[Any, Any]) -> str:
    return ", ".join(shown(key) for key in list(value)[:8]) + (", ..." if len(value) > 8 else "")


def _plain(network: PersistentObject) -> dict[str, Any]:
    """Class names and plain attributes of a preconditioner and of the network in it."""
    kinds = bool | int | float | str
    facts = {k: v for k, v in network.state.items() if isinstance(v, kinds) and not str(k).startswith("_")}
    modules = network.state.get("_modules")
    inner = modules.get("model") if isinstance(modules, dict) else None
    named = {"model_type": inner.class_name} if isinstance(inner, PersistentObject) else {}
    return {**facts, **named, "class_name": network.class_name}


def _gather(archive: Archive, network: PersistentObject) -> None:
    """Collect the parameters and buffers of a module and the modules in it, named as `state_dict()` would."""
    waiting: list[tuple[str, Any]] = [("", network)]
    visited = 0
    while waiting:
        prefix, module = waiting.pop()
        state = getattr(module, "state", None)
        if not isinstance(state, dict) or prefix.count(".") > 16:
            raise Damaged("modules without a state, or far too many of them")
        parts = {kind: state.get(kind) or {} for kind in ("_parameters", "_buffers", "_modules")}
        if not all(isinstance(part, dict) for part in parts.values()):
            raise Damaged(f"module {shown(prefix or '(top)')} has no proper state")
        # One module can be in many places: what counts is how often something is looked at.
        visited += 1 + sum(len(part) for part in parts.values())
        if visited > MOST_TENSORS:
            raise Damaged("far too many modules and tensors")
        if any(len(str(name)) > LONGEST_TENSOR_NAME for part in parts.values() for name in part):
            raise Damaged("a tensor's name without an end")
        left_out = state.get("_non_persistent_buffers_set") or set()
        if not isinstance(left_out, set):
            raise Damaged(f"module {shown(prefix or '(top)')} has no proper state")
        kept = {name: entry for name, entry in parts["_buffers"].items() if name not in left_out}
        for name, entry in (parts["_parameters"] | kept).items():
            if isinstance(entry, Record):
                archive.records[f"{prefix}{name}"] = entry
        waiting += [(f"{prefix}{name}.", child) for name, child in parts["_modules"].items() if child is not None]
