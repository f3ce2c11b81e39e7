"""From a checkpoint file to a `PixelModel`."""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, shown
from .container import open_archive
from .family import Meaning, Recognised, Tensors, Undecided
from .layers import Layers, assign
from .packed import PackedLayers, packing_available
from .pixel import Info, PixelModel
from .recognise import canonical, recognise
from .records import Archive
from .weights import Progress, first_names, read_weights

LARGEST_SMALL_TENSOR = 1_000_000
"""Elements that recognition may ask for."""
BAR_FROM = 200_000_000
"""Bytes from which on loading shows a progress bar on a terminal."""
BEGINNING = 64
"""Values of each tensor that go into a model's fingerprint."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def load_checkpoint(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    name: str | None = None,
    progress: Progress | None = None,
    layers: Layers | None = None,
    **overrides: Any,
) -> PixelModel:
    """Load a pixel-model checkpoint of guided-diffusion, consistency_models or NVlabs/edm.

    Nothing in the file is executed. What it is follows from its tensors; where they do not tell, from published files
    of the same shape, from the file's name, or from `name` and `overrides`. What concerns only how the network's output
    is read (noise_schedule, distillation, class_name) may stay open: `network` then works, `info.undecided` says what
    is missing, and everything that depends on it raises.

    Args:
        path: .pt, .pth, .pkl or .safetensors file.
        device: where the weights go.
        dtype: float32 (default), float16 or bfloat16; in which convolutions and attention run. Embeddings of time and
            class stay in float32.
        name: the published file that it is ("lsun_bedroom"), if its own name does not say so.
        progress: called while weights are read; default: a bar on the terminal for files over 200 MB.
        layers: namespace of layer classes (a host's castable ones); default `torch.nn`, or on a CPU in float32
            `packed.PackedLayers`, which compute the same faster. Those hold reordered weights between forward passes;
            to change weights, get them from the module (`parameters()`, `.weight`) after the last one.
        **overrides: arguments of the originals' constructors, by their names: num_heads, num_head_channels,
            use_new_attention_order, noise_schedule, distillation, image_size, class_name, ...

    Returns:
        The model, in eval mode. Inside `torch.inference_mode` its weights become inference tensors, with which no
        gradient can be computed later, not even one with respect to the image.

    Raises:
        InputError: the file is missing, damaged, forbidden, something else, or does not tell everything about the
            network; the message says what and what to do.
        Cancelled: `progress` returned False.
    """
    path, device = Path(path), usable(device)
    if dtype == torch.float16 and device.type == "cpu":
        warnings.warn("float16 on a CPU is over a hundred times slower than float32", stacklevel=2)
    if dtype not in (None, *DTYPES):
        raise InputError(f"dtype {dtype}: one of float32, float16 and bfloat16 is wanted")
    layers = layers or _fastest(device, dtype or torch.float32)
    with examined(path, name=name, overrides=overrides, layers=layers) as seen:
        archive, found, network, meaning = seen.archive, seen.found, seen.network, seen.meaning
        family, undecided = found.family, tuple(question.choices for question in found.questions)
        if found.of_network:
            raise seen.undecided()
        chosen = dtype or torch.float32
        kinds = _dtypes(network, chosen)
        keys = {seen.names[family.prefix + key]: key for key in kinds}
        state: dict[str, Tensor] = {}
        beginnings: dict[str, bytes] = {}
        wanted = {original: kinds[key] for original, key in keys.items()}
        for original, as_stored, cast in read_weights(archive, wanted, progress or _bar(path.name, archive.nbytes)):
            state[keys[original]] = cast.to(device)
            beginnings[keys[original]] = as_stored.flatten()[:BEGINNING].float().numpy().tobytes()
        assign(network, state)
        digest = hashlib.sha256(b"".join(key.encode() + beginnings[key] for key in sorted(beginnings)))
        stored = {archive.records[original].storage.dtype for original in wanted}
        info = Info(
            name=found.names[0] if len(found.names) == 1 else path.stem,
            family=family.name,
            container=archive.container,
            parametrisation=meaning.parametrisation if meaning else "undecided",
            schedule=meaning.schedule if meaning else "undecided",
            undecided=undecided,
            image_size=found.image_size,
            in_channels=found.facts["in_channels"],
            out_channels=found.facts["out_channels"],
            num_classes=found.num_classes,
            parameters=sum(p.numel() for p in network.parameters()),
            dtype=str(chosen).removeprefix("torch."),
            stored=", ".join(sorted(str(kind).removeprefix("torch.") for kind in stored)),
            architecture=found.architecture,
            facts=found.facts,
            sources=found.sources,
            fingerprint=digest.hexdigest(),
        )
        return PixelModel(network, meaning or seen.raised(), info, chosen, family)


@dataclass
class Examined:
    """An open checkpoint: recognised, and of its network's names and shapes. Its weights are unread."""

    path: Path
    archive: Archive
    names: dict[str, str]
    """Canonical name -> name in the file."""
    found: Recognised
    network: nn.Module
    """Without weights; with stand-ins for what is open about it."""
    meaning: Meaning | None
    """None while anything is open."""

    def undecided(self) -> Undecided:
        """What to tell someone who needs what is open."""
        return self.raised()()

    def raised(self) -> Callable[[], Undecided]:
        """Makes what `undecided` gives, without holding on to the file."""
        found = self.found
        return partial(Undecided, self.path, found.family.name, tuple(found.questions), tuple(found.names))


@contextmanager
def examined(
    path: str | Path,
    *,
    name: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    layers: Layers = nn,
) -> Iterator[Examined]:
    """Open a checkpoint and find out everything but its weights.

    Args:
        path, name, overrides, layers: as in `load_checkpoint`.

    Raises:
        InputError: as in `load_checkpoint`, except that open questions are no error.
    """
    path = Path(path)
    with open_archive(path) as archive:
        names = canonical(list(archive.records))
        tensors = view(archive, names)
        found = recognise(tensors, path=path, name=name, stated=stated(archive), overrides=overrides)
        try:
            network = skeleton(found, layers)
            meaning = None if found.questions else found.family.meaning(found.facts, tensors)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except ArithmeticError as error:
            raise InputError(f"{path}: its noise levels cannot be computed ({error}); correct its schedule") from None
        check_shapes(path, found, network, tensors)
        yield Examined(path, archive, names, found, network, meaning)


def skeleton(found: Recognised, layers: Layers = nn) -> nn.Module:
    """The network without weights, with stand-ins for what is open about it.

    Raises:
        InputError: the configuration cannot be built.
    """
    facts = dict(found.facts)
    for question in found.questions:
        facts |= question.stand_in
    try:
        with torch.device("meta"):
            return found.family.network(facts, layers)
    except (RuntimeError, TypeError, ArithmeticError) as error:  # sizes that torch cannot even count
        raise InputError(f"a network of these sizes cannot be built ({str(error).splitlines()[0]})") from error


def usable(device: str | torch.device) -> torch.device:
    """A device on which tensors can be made.

    Raises:
        InputError: there is no such device here.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"device {device!r}: cannot be used here ({reason}); 'cpu' always can") from None
    return found


def _fastest(device: torch.device, dtype: torch.dtype) -> Layers:
    return PackedLayers if device.type == "cpu" and dtype == torch.float32 and packing_available() else nn


def kept_dtypes(seen: Examined, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """In which dtype a file of half precision keeps each tensor of its network, by canonical name."""
    return {seen.found.family.prefix + key: kind for key, kind in _dtypes(seen.network, dtype).items()}


def view(archive: Archive, names: dict[str, str]) -> Tensors:
    """What recognition may see of an archive; `names` maps canonical to stored names."""

    def value(name: str) -> Tensor:
        record = archive.records[names[name]]
        if record.nbytes > LARGEST_SMALL_TENSOR * record.storage.dtype.itemsize:
            raise InputError(f"its tensor {shown(name)} has the shape {record.shape}, which is far too large")
        return archive.tensor(names[name])

    return Tensors({name: archive.records[original].shape for name, original in names.items()}, value)


def stated(archive: Archive) -> dict[str, Any]:
    """What the file says about itself: our own metadata, or the attributes of a pickled preconditioner."""
    if archive.container != "safetensors":
        return archive.facts
    if archive.facts.get("kind") != "pixel-model":
        return {}
    facts = archive.facts.get("facts")
    arguments = facts.get("arguments") if isinstance(facts, dict) else None
    if not isinstance(arguments, dict):
        raise InputError(
            f"{archive.path}: its metadata states its arguments as {shown(arguments)}, where names and values are "
            "wanted; convert it anew"
        )
    return arguments


def check_shapes(path: Path, found: Recognised, network: nn.Module, tensors: Tensors) -> None:
    """Raise InputError unless the file has exactly the network's tensors."""
    prefix = found.family.prefix
    expected = {prefix + key: tuple(value.shape) for key, value in network.state_dict().items()}
    extra = [name for name in tensors.shapes if name not in expected and name not in found.family.own(tensors)]
    missing = [name for name in expected if name not in tensors]
    wrong = [name for name in expected if name in tensors and tensors.shapes[name] != expected[name]]
    if not (missing or extra or wrong):
        return
    parts = []
    if missing:
        parts.append(f"{len(missing)} tensors are missing ({first_names(missing)})")
    if extra:
        parts.append(f"{len(extra)} are unknown ({first_names(extra)})")
    if wrong:
        told = [f"{shown(name)} is {tensors.shapes[name]} instead of {expected[name]}" for name in wrong[:5]]
        parts.append(f"{len(wrong)} have the wrong shape ({', '.join(told)}{', ...' if len(wrong) > 5 else ''})")
    raise InputError(f"{path}: is not a whole {found.family.name} checkpoint: {'; '.join(parts)}")


def _dtypes(network: nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """In which dtype each tensor is kept: linear layers and embeddings carry time and class, and stay in float32."""
    kinds = dict.fromkeys(network.state_dict(), dtype)
    for prefix, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            kinds |= {f"{prefix}.{name}": torch.float32 for name, _ in module.named_parameters(recurse=False)}
    return kinds | {name: torch.float32 for name, _ in network.named_buffers()}


def _bar(name: str, total: int) -> Progress:
    """A progress bar on the terminal, where there is one and it is worth it."""
    if total < BAR_FROM or not sys.stderr.isatty():
        return lambda done, total: None

    def show(done: int, total: int) -> None:
        filled = 30 * done // total
        end = "\n" if done == total else ""
        print(f"\r{name} [{'#' * filled}{'.' * (30 - filled)}] {done / 1e6:.0f}/{total / 1e6:.0f} MB{end}",
              end="", file=sys.stderr, flush=True)  # fmt: skip

    return show
