"""A workflow in API format: reading it, naming its nodes, and setting its inputs by what the server says they take."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError

Graph = dict[str, dict[str, Any]]
Spec = tuple[str, list[Any], dict[str, Any]]
"""An input's type, its choices where it is a combo, and its options (min, max, image_upload, ...)."""

TYPED = ("INT", "FLOAT", "BOOLEAN", "STRING", "COMBO")

API_HINT = (
    "the editor's own format, which a server cannot run: export it with 'Export (API)' ('Save (API format)' in older "
    "editors), or take the one of that name in workflows/api/"
)


def read_workflow(source: str | Path | Mapping[str, Any]) -> Graph:
    """A workflow in API format, from a file or from what was parsed already; the caller's is never changed.

    Raises:
        InputError: no such file, not JSON, the editor's format, or no workflow at all.
    """
    if isinstance(source, Mapping):
        name, content = "given", copy.deepcopy(dict(source))
    else:
        name = str(source)
        try:
            content = json.loads(Path(source).read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise InputError(f"workflow {name}: cannot be read ({error.strerror or error})") from None
        except ValueError as error:
            raise InputError(f"workflow {name}: not JSON ({error})") from None
    if isinstance(content, dict) and isinstance(content.get("nodes"), list):
        raise InputError(f"workflow {name}: {API_HINT}")
    if isinstance(content, dict) and isinstance(content.get("prompt"), dict):
        content = content["prompt"]  # what was POSTed to a server, whole
    if not isinstance(content, dict) or not content:
        raise InputError(f"workflow {name}: holds no nodes; a ComfyUI workflow in API format is wanted")
    for node, entry in content.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("class_type"), str):
            raise InputError(f"workflow {name}: entry {node!r} is not a node (no class_type); is it in API format?")
        if not isinstance(entry.setdefault("inputs", {}), dict):
            raise InputError(f"workflow {name}: node {node}: its inputs are not a list of names and values")
    return content


def split_setting(setting: str) -> tuple[str, str]:
    """NODE.INPUT and VALUE of one `--set`."""
    key, equals, value = setting.partition("=")
    if not equals or "." not in key:
        raise InputError(f"--set {setting}: give NODE.INPUT=VALUE, as in --set 'Load Image.image=photo.jpg'")
    return key.strip(), value


class Workflow:
    """A graph and what a server tells of its node types.

    Args:
        graph: API format; `assign` changes it.
        types: class_type -> the server's `/object_info` of it; None where the server has no such type.

    Attributes:
        uploads: (node, input) -> the local file that the server must get before the workflow can name it there.
    """

    def __init__(self, graph: Graph, types: Mapping[str, dict[str, Any] | None]) -> None:
        self.graph, self.types = graph, types
        self.uploads: dict[tuple[str, str], Path] = {}

    def title(self, node: str) -> str:
        """What the editor shows above the node; of a node inside a subgraph or made while running, its parent's."""
        while node not in self.graph:
            node, inside, _ = node.rpartition("." if "." in node else ":")
            if not inside:
                return "a node"
        entry = self.graph[node]
        meta = entry.get("_meta")
        given = meta.get("title") if isinstance(meta, dict) else None
        shown = (self.types.get(entry["class_type"]) or {}).get("display_name")
        return str(given or shown or entry["class_type"])

    def source(self, node: str, file: Any) -> str:
        """Where a model file that a node names can be had, in words; empty where the workflow does not say.

        The editor keeps this with its nodes ("models": name, url, directory); its API format leaves it out, so that it
        is only there for workflows that were written with it under "_meta", as ours are.
        """
        meta = self.graph[node].get("_meta") if node in self.graph else None
        known = meta.get("models") if isinstance(meta, dict) else None
        for model in known if isinstance(known, list) else ():
            if isinstance(model, dict) and model.get("name") == file and model.get("url"):
                return f"get it from {model['url']} into the server's models/{model.get('directory', '')}"
        return ""

    def name(self, node: str) -> str:
        """A node as messages name it."""
        return f"node {node} '{self.title(node)}'"

    def find(self, wanted: str) -> str:
        """The id of a node by id, title or class_type (of which the last two are compared without regard to case).

        Raises:
            InputError: there is none, or more than one.
        """
        if wanted in self.graph:
            return wanted
        folded = wanted.strip().casefold()
        found = [node for node in self.graph if self.title(node).strip().casefold() == folded]
        found = found or [node for node, entry in self.graph.items() if entry["class_type"].casefold() == folded]
        if len(found) > 1:
            raise InputError(f"node {wanted!r}: {len(found)} nodes are called that; say which by its id: {_or(found)}")
        if not found:
            there = (f"{node} '{self.title(node)}' ({entry['class_type']})" for node, entry in self.graph.items())
            raise InputError(f"node {wanted!r}: not in this workflow; it has {_or(there, most=40)}")
        return found[0]

    def assign(self, key: str, value: Any) -> None:
        """Set NODE.INPUT to a value, typed and checked by what the server says that the input takes.

        A file here, given to an input that takes an uploaded one, is noted in `uploads`.

        Raises:
            InputError: no such node or input, or a value that it does not take.
        """
        node, name = self._locate(key)
        entry = self.graph[node]
        spec, held = self._inputs(node).get(name), entry["inputs"].get(name)
        where = f"{self.name(node)}, input {name}"
        if is_link(held):
            raise InputError(
                f"{where}: is connected to {self.name(held[0])}, which decides its value; set an input of that node, "
                f"or disconnect the two in the editor"
            )
        if spec is None or (held is not None and spec[0] not in TYPED):
            # Dynamic inputs are not declared, and types like INT,FLOAT are no help: what it holds tells.
            kind = {bool: "BOOLEAN", int: "INT", float: "FLOAT", str: "STRING"}.get(type(held))
            if kind is None:
                raise InputError(f"{where}: holds {held!r}, which cannot be set from here; edit the workflow")
            spec = (kind, [], {})
        if any(bool(spec[2].get(f"{what}_upload")) for what in ("image", "audio", "video", "file")):
            here = Path(str(value)).expanduser()
            if str(value) and here.is_file():
                self.uploads[node, name] = here
                return
            if value not in spec[1] and "/" not in str(value) and not str(value).endswith("]"):
                raise InputError(f"{where}: {value!r} is neither a file here nor one that the server has")
            spec = (spec[0], [], {})  # the list leaves out subfolders and 'name [output]', which the server takes
        entry["inputs"][name] = typed(value, spec, where)
        self.uploads.pop((node, name), None)

    def assign_seed(self, seed: int) -> None:
        """Move all seeds that the workflow holds as values so that the smallest is `seed`.

        Those that differ go on differing: two pictures to be blended need noise of their own.

        Raises:
            InputError: there is none.
        """
        seeds = {
            f"{node}.{name}": int(self._held(node, name) or 0)
            for node in self.graph
            for name, (kind, *_) in self._inputs(node).items()
            if kind == "INT" and name.endswith("seed") and not is_link(self._held(node, name))
        }
        if not seeds:
            raise InputError("--seed: no node of this workflow holds a seed")
        for key, held in seeds.items():
            self.assign(key, (seed + held - min(seeds.values())) % 2**64)

    def missing(self) -> dict[str, list[str]]:
        """class_type -> ids, of the nodes that the server does not have."""
        lacking: dict[str, list[str]] = {}
        for node, entry in self.graph.items():
            if self.types.get(entry["class_type"]) is None:
                lacking.setdefault(entry["class_type"], []).append(node)
        return lacking

    def needed(self) -> set[str]:
        """Ids of the nodes that an output depends on: the ones that the server will run."""
        todo = [n for n, e in self.graph.items() if (self.types.get(e["class_type"]) or {}).get("output_node")]
        found: set[str] = set()
        while todo:
            node = todo.pop()
            if node in self.graph and node not in found:
                found.add(node)
                todo += [value[0] for value in self.graph[node]["inputs"].values() if is_link(value)]
        return found

    def _held(self, node: str, name: str) -> Any:
        return self.graph[node]["inputs"].get(name)

    def _locate(self, key: str) -> tuple[str, str]:
        # Titles and the names of nested inputs may hold dots: the first cut that names an input of a node is meant.
        dots = [i for i, letter in enumerate(key) if letter == "."]
        failure: InputError | None = None
        for dot in reversed(dots):
            try:
                node = self.find(key[:dot])
            except InputError as error:
                failure = failure or error
                continue
            name, known = key[dot + 1 :], {**self._inputs(node), **self.graph[node]["inputs"]}
            if name in known:
                return node, name
            failure = InputError(f"{self.name(node)}: has no input {name!r}; it has {', '.join(known) or 'none'}")
        raise failure or InputError(f"--set {key}: give NODE.INPUT, as in 'Load Image.image'")

    def _inputs(self, node: str) -> dict[str, Spec]:
        entry = self.graph[node]
        declared = (self.types.get(entry["class_type"]) or {}).get("input") or {}
        return dict(_flat("", declared, entry["inputs"]))


def _flat(prefix: str, declared: Mapping[str, Any], held: Mapping[str, Any]) -> Iterable[tuple[str, Spec]]:
    """Every input that a node declares, those of the chosen branch of a dynamic combo included."""
    for group in ("required", "optional"):
        for name, told in (declared.get(group) or {}).items():
            if not isinstance(told, list) or not told:
                continue
            kind, options = told[0], told[1] if len(told) > 1 and isinstance(told[1], dict) else {}
            full = f"{prefix}{name}"
            if kind == "COMFY_DYNAMICCOMBO_V3":
                branches = {str(branch["key"]): branch for branch in options.get("options", [])}
                yield full, ("COMBO", list(branches), {})
                yield from _flat(f"{full}.", branches.get(str(held.get(full)), {}).get("inputs") or {}, held)
            elif isinstance(kind, list):  # how nodes of the first API write a combo
                yield full, ("COMBO", kind, options)
            else:
                yield full, (str(kind), list(options.get("options") or []) if kind == "COMBO" else [], options)


def typed(value: Any, spec: Spec, where: str) -> Any:
    """`value`, a string as typed in a shell or a Python value, as the input's own type.

    Raises:
        InputError: it cannot be read as that type, lies outside the range, or is not one of the choices.
    """
    kind, choices, options = spec
    if kind == "STRING":
        return str(value)
    if kind == "BOOLEAN":
        word = str(value).strip().lower()
        if word not in ("true", "yes", "on", "1", "false", "no", "off", "0"):
            raise InputError(f"{where}: {value!r} is neither true nor false")
        return word in ("true", "yes", "on", "1")
    if kind in ("INT", "FLOAT"):
        try:
            # Through its text, so that 2.5 is refused for a whole number and true for any.
            number = int(str(value)) if kind == "INT" else float(str(value))
        except ValueError:
            raise InputError(f"{where}: {value!r} is not a {'whole ' * (kind == 'INT')}number") from None
        if not math.isfinite(number):
            raise InputError(f"{where}: {value!r} is not a finite number")
        low, high = options.get("min"), options.get("max")
        if low is not None and number < low:
            raise InputError(f"{where}: {number} is below its smallest value, {low}")
        if high is not None and number > high:
            raise InputError(f"{where}: {number} is above its largest value, {high}")
        return number
    if kind == "COMBO":
        if not choices:
            return value  # filled by the server only when it runs, or a text that nobody checks
        for choice in choices:
            if value == choice or str(value) == str(choice):
                return choice
        raise InputError(f"{where}: {value!r} is not one of its choices; they are {_or(choices)}")
    raise InputError(f"{where}: takes a {kind} from another node, not a value")


def is_link(value: Any) -> bool:
    """Whether an input's value is [node, output]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def _or(values: Iterable[Any], most: int = 12) -> str:
    shown = [str(value) for value in values]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more
