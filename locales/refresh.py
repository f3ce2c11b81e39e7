"""Writes `en/nodeDefs.json` from the nodes of a running ComfyUI, and says what `zh/nodeDefs.json` lacks.

    python locales/refresh.py http://127.0.0.1:8188

English is what the schemas say, so it is never edited by hand; translations are. `tests/host/inside/test_docs.py`
compares English with the live schemas, `tests/test_docs.py` the other languages with English.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
UNSAFE = "{}@|"
"""Characters that mean something else in the editor's translation files; some of its versions fail on them."""


def node_defs(info: dict[str, Any]) -> dict[str, Any]:
    """The editor's translation format of our nodes, from what `/object_info` says."""
    return {name: _node(node) for name, node in sorted(info.items()) if name.startswith("SSI")}


def _node(node: dict[str, Any]) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for group in ("required", "optional"):
        for name, spec in node["input"].get(group, {}).items():
            options = spec[1] if len(spec) > 1 else {}
            inputs[name] = _named(name, options)
            template = options.get("template")
            if template:  # an input that grows: the editor looks for group_prefix0, group_prefix1 ...
                (element,) = template["input"]["required"].values()
                for i in range(template["max"]):
                    inputs[f"{name}_{template['prefix']}{i}"] = _named(f"{template['prefix']}{i}", element[1])
    outputs = {
        str(i): {"name": name, "tooltip": tooltip}
        for i, (name, tooltip) in enumerate(zip(node["output_name"], node["output_tooltips"], strict=True))
    }
    found = {"display_name": node["display_name"], "description": node["description"], "inputs": inputs}
    return found | ({"outputs": outputs} if outputs else {})


def _named(name: str, options: dict[str, Any]) -> dict[str, str]:
    return {"name": options.get("display_name") or name, "tooltip": options["tooltip"]}


def paths(tree: dict[str, Any], at: str = "") -> Iterator[tuple[str, str]]:
    """(where, text) of every text in a translation file."""
    for key, value in tree.items():
        here = f"{at}.{key}" if at else key
        if isinstance(value, dict):
            yield from paths(value, here)
        else:
            yield here, value


def load(language: str, name: str = "nodeDefs") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((HERE / language / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def main(server: str) -> None:
    with urllib.request.urlopen(f"{server.rstrip('/')}/object_info", timeout=60) as answer:
        english = node_defs(json.load(answer))
    target = HERE / "en" / "nodeDefs.json"
    target.write_text(json.dumps(english, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    wanted, there = dict(paths(english)), dict(paths(load("zh")))
    for at in sorted(wanted.keys() - there.keys()):
        print(f"zh lacks {at}: {wanted[at]}")
    for at in sorted(there.keys() - wanted.keys()):
        print(f"zh has too much: {at}")


if __name__ == "__main__":
    main(sys.argv[1])
