"""What a checkpoint is: family, configuration, parametrisation and schedule, each with where it is known from.

In rising order of authority: the original's defaults; published files of the same tensor names and shapes; the
published file that the file name (or `name=`) says; what else the name and the arguments suggest; what the file says
about itself; explicit overrides. The tensors themselves are above all of these: nothing may contradict them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import InputError, shown
from .arguments import checked
from .family import Facts, Family, Recognised, Tensors
from .nvlabs import NVLabs
from .openai import ConsistencyModels, GuidedDiffusion

FAMILIES: tuple[Family, ...] = (GuidedDiffusion(), ConsistencyModels(), NVLabs())

FOREIGN = {
    r"(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\.": "a Stable Diffusion or other latent "
    "diffusion checkpoint; load it with ComfyUI's own loader",
    r".*\.transformer_blocks\.": "a latent diffusion U-Net or transformer; load it with ComfyUI's own loader",
    r"(lora_|.*\.lora_|.*\.lora[AB]|.*\.(hada|lokr)_w)": "a LoRA, which changes a model but is none",
    r"(encoder\.down\.\d|decoder\.up\.\d|encoder\.down_blocks)": "an autoencoder (VAE), not a diffusion model",
    r"(synthesis|mapping)\.": "a StyleGAN, which has no noise levels",
}
"""Beginning of a tensor's name -> what a file with such names is."""


@dataclass(frozen=True)
class Published:
    """A published file. `known.json` has its configuration, from the authors' own launch scripts."""

    name: str
    url: str
    licence: str
    family: str
    architecture: str
    """As in `Recognised`."""
    parameters: int
    nbytes: int
    """Of its tensors; the file is slightly larger."""
    facts: Facts

    @property
    def image_size(self) -> int | None:
        """Height and width it was trained on, in pixels."""
        return family_named(self.family).image_size(self.facts)

    @property
    def num_classes(self) -> int:
        """0: unconditional."""
        return family_named(self.family).num_classes(self.facts)


def family_named(name: str) -> Family:
    return next(family for family in FAMILIES if family.name == name)


@cache
def published() -> dict[str, Published]:
    """Every published file we know, by name."""
    content = json.loads(files(__package__).joinpath("known.json").read_text(encoding="utf-8"))
    found = {}
    for entry in content["files"]:
        shared = content["architectures"][entry["signature"]]
        facts = {k: tuple(v) if isinstance(v, list) else v for k, v in (shared["config"] | entry["facts"]).items()}
        found[entry["name"]] = Published(
            entry["name"], entry["url"], entry["licence"], shared["family"], entry["signature"], shared["parameters"],
            shared["bytes"], facts,
        )  # fmt: skip
    return found


def architecture(shapes: Mapping[str, Sequence[int]]) -> str:
    """SHA-256 over the sorted names and shapes, one `name:AxBxC` a line, in hexadecimal."""
    lines = (f"{name}:{'x'.join(map(str, shapes[name]))}\n" for name in sorted(shapes))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def recognise(
    tensors: Tensors,
    *,
    path: str | Path = "checkpoint",
    name: str | None = None,
    stated: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Recognised:
    """Find out what a file is.

    Args:
        tensors: its tensors, under canonical names (`canonical`).
        path: for messages, and for hints in the file's name.
        name: the published file that it is, whatever it is called.
        stated: what the file says about itself.
        overrides: arguments by the names of the originals' constructors.

    Returns:
        Its family and facts; `questions` lists what is still open.

    Raises:
        InputError: it is something else, it is damaged, or overrides are unknown or contradict its tensors.
    """
    family = _family(tensors, path)
    try:
        known = family.read(tensors)
    except InputError as error:
        raise InputError(f"{path}: looks like a {family.name} checkpoint, but {error}") from None
    sources = dict.fromkeys(known, "tensors")
    facts: Facts = {}
    mark = architecture(tensors.shapes)

    size = family.usual_size(known)
    if size is not None:
        facts["image_size"], sources["image_size"] = size, "the usual size of a model of this shape"
    _take(family, facts, sources, family.defaults, "the original's default")

    alike = [entry for entry in published().values() if entry.architecture == mark]
    _take(family, facts, sources, _agreed([entry.facts for entry in alike]), "published files of the same shape")
    entry = _named(name, path, alike, mark)
    if entry is not None:
        _take(family, facts, sources, entry.facts, f"published file {entry.name}")
        alike = [entry]
    given = dict(overrides or {})
    for hint, source in family.hints(Path(path).name.lower(), given, facts):
        _take(family, facts, sources, hint, source)
    own = {k: v for k, v in (stated or {}).items() if k in family.arguments}
    own = _translated(family, own, {**facts, **known}, path)
    if told := _contradicted(family, own, known, tensors):
        raise InputError(f"{path}: states {told}")
    _take(family, facts, sources, own, "the file itself")

    unknown = sorted(set(given) - family.arguments - family.inert)
    if unknown:
        raise InputError(
            f"{path}: {', '.join(unknown)}: no argument of a {family.name} model; its arguments are "
            f"{', '.join(sorted(family.arguments))}"
        )
    given = {k: v for k, v in given.items() if k in family.arguments}
    explicit = _translated(family, given, {**facts, **known}, path)
    if told := _contradicted(family, explicit, known, tensors):
        raise InputError(f"{path}: was given {told}")
    _take(family, facts, sources, explicit, "argument")
    facts |= known
    found = Recognised(family, facts, {k: v for k, v in sources.items() if k in facts}, mark, [e.name for e in alike])
    try:
        found.questions = family.questions(facts)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return found


def _contradicted(family: Family, words: Facts, known: Facts, tensors: Tensors) -> str:
    """What of the words the tensors contradict, and how; empty if nothing."""
    for key, value in words.items():
        if key in known and value != known[key]:
            carrier = family.carried_by.get(key, "")
            missing = f"; the tensor {carrier} is missing" if carrier and carrier not in tensors else ""
            return f"{key}={shown(value)}, but its tensors have {key}={shown(known[key])}{missing}"
    return ""


def _translated(family: Family, words: Facts, known: Facts, path: str | Path) -> Facts:
    try:
        return family.translate(checked(words, unbounded=family.boundless), known)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"{path}: an argument cannot be understood: {shown(str(error))}") from None


def canonical(names: Sequence[str]) -> dict[str, str]:
    """Canonical name -> name in the file: without the wrappers that training code leaves around a network."""
    found = {name: name for name in names}
    for wrapper in ("module.", "_orig_mod."):
        if found and all(name.startswith(wrapper) for name in found):
            found = {name[len(wrapper) :]: original for name, original in found.items()}
    if "map_layer0.weight" in found:  # NVlabs' network without its preconditioner
        found = {f"model.{name}": original for name, original in found.items()}
    return found


def _family(tensors: Tensors, path: str | Path) -> Family:
    for pattern, what in FOREIGN.items():
        example = next((name for name in tensors.shapes if re.match(pattern, name)), None)
        if example is not None:
            raise InputError(f"{path}: is {what} (it has a tensor {shown(example)})")
    for family in FAMILIES:
        if family.matches(tensors):
            return family
    examples = ", ".join(shown(name) for name in list(tensors.shapes)[:3])
    raise InputError(
        f"{path}: is no pixel model that is known here ({', '.join(f.name for f in FAMILIES)}); "
        + (f"its tensors are called {examples}, ..." if examples else "it holds no tensors")
    )


def _named(name: str | None, path: str | Path, alike: list[Published], mark: str) -> Published | None:
    """The published file that is meant: the one `name` says, or the one the file's name contains and its shapes fit."""
    if name is not None:
        if name not in published():
            raise InputError(f"name {name!r}: no published file is called so; known are {', '.join(published())}")
        if published()[name].architecture != mark:
            fitting = ", ".join(entry.name for entry in alike) or "no published file"
            raise InputError(f"{path}: its tensors are not those of {name}; they fit {fitting}")
        return published()[name]
    stem = Path(path).name.lower()
    inside = [e for e in alike if re.search(rf"(?<![a-z0-9]){re.escape(e.name.lower())}(?![a-z0-9])", stem)]
    return max(inside, key=lambda entry: len(entry.name), default=None)


def _agreed(several: Sequence[Facts]) -> Facts:
    """What all of them say."""
    if not several:
        return {}
    return {k: v for k, v in several[0].items() if all(k in other and other[k] == v for other in several)}


def _take(family: Family, facts: Facts, sources: dict[str, str], new: Mapping[str, Any], source: str) -> None:
    """Let a source of higher authority speak; facts that the tensors settle are left alone."""
    if any(name in new for name in family.alternatives):
        for name in family.alternatives:
            facts.pop(name, None)
    for key, value in new.items():
        facts[key] = value
        if sources.get(key) != "tensors":
            sources[key] = source
