"""Node schemas are for ever: workflows saved with one version must load in the next.

The committed snapshot lists every node ever released. What breaks saved workflows or API jobs fails with a sentence;
what is merely new must be added to the snapshot: SSI_WRITE_SCHEMAS=1 with this test writes it.
"""

import json
import os
from pathlib import Path

import pytest

import nodes

SNAPSHOT = Path(__file__).resolve().parents[1] / "schemas.json"
OURS_ALONE = ("skip_unit", "solver", "grid", "easing", "method", "kind", "dtype", "goal", "injection", "pace")
"""Combos whose choices are ours, so that a choice taken away would break saved workflows."""


def schema(node_id):
    node = nodes.NODE_CLASS_MAPPINGS[node_id]
    found = node.GET_SCHEMA()
    info = node.INPUT_TYPES()
    inputs = {}
    for group in ("required", "optional"):
        for name, (kind, *options) in info.get(group, {}).items():
            facts = options[0] if options else {}
            inputs[name] = {"type": kind if isinstance(kind, str) else "COMBO", "required": group == "required"}
            if "default" in facts:
                inputs[name]["default"] = facts["default"]
            if name in OURS_ALONE:
                inputs[name]["choices"] = list(facts["options"])
            inputs[name] |= {bound: facts[bound] for bound in ("min", "max") if bound in facts}
    outputs = [{"id": o.id, "type": o.get_io_type(), "name": o.display_name} for o in found.outputs]
    return {"inputs": inputs, "outputs": outputs, "output_node": bool(found.is_output_node)}


def breaks(old, new):
    """Sentences on what a workflow saved with `old` would lose in `new`."""
    found = []
    for node, was in old.items():
        now = new.get(node)
        if now is None:
            found.append(f"{node} is gone (io.NodeReplace keeps workflows that use it)")
            continue
        for name, facts in was["inputs"].items():
            again = now["inputs"].get(name)
            if again is None:
                found.append(f"{node}: input {name} is gone")
                continue
            if again["type"] != facts["type"]:
                found.append(f"{node}: input {name} is {again['type']}, was {facts['type']}")
            if again["required"] and not facts["required"]:
                found.append(f"{node}: input {name} has become required")
            gone = set(facts.get("choices", ())) - set(again.get("choices", ()))
            if gone:
                found.append(f"{node}: {name} lost its choices {sorted(gone)}")
            if again.get("min", 0) > facts.get("min", 0) or again.get("max", 0) < facts.get("max", 0):
                found.append(f"{node}: {name} takes a smaller range")
        for name, facts in now["inputs"].items():
            if facts["required"] and name not in was["inputs"]:
                found.append(f"{node}: new input {name} is required, which saved API jobs do not have")
        kept = list(now["inputs"])
        order = [name for name in kept if name in was["inputs"]]
        if order != [name for name in was["inputs"] if name in kept]:
            found.append(f"{node}: the order of its inputs changed, and editor files hold widget values by order")
        if [o["type"] for o in now["outputs"]][: len(was["outputs"])] != [o["type"] for o in was["outputs"]]:
            found.append(f"{node}: its outputs changed, and links hold them by position")
    return found


@pytest.fixture(scope="module")
def live():
    return {name: schema(name) for name in sorted(nodes.NODE_CLASS_MAPPINGS) if name.startswith("SSI")}


def test_nothing_released_is_broken(live):
    if os.environ.get("SSI_WRITE_SCHEMAS"):
        SNAPSHOT.write_text(json.dumps(live, indent=1) + "\n")
    released = json.loads(SNAPSHOT.read_text())
    assert breaks(released, live) == []
    # Choices and names may grow, but knowingly.
    assert live == released, "add what is new to the snapshot: SSI_WRITE_SCHEMAS=1"


def test_breaking_changes_are_told(live):
    node = live["SSIInverseSampler"]
    inputs, outputs = node["inputs"], node["outputs"]
    cases = {
        "is gone (io": {},
        "input cfg is gone": {"inputs": {k: v for k, v in inputs.items() if k != "cfg"}},
        "is INT, was FLOAT": {"inputs": inputs | {"cfg": inputs["cfg"] | {"type": "INT"}}},
        "has become required": {"inputs": inputs | {"positive": inputs["positive"] | {"required": True}}},
        "lost its choices": {"inputs": inputs | {"solver": inputs["solver"] | {"choices": ["euler"]}}},
        "smaller range": {"inputs": inputs | {"steps": inputs["steps"] | {"max": 5}}},
        "new input other is required": {"inputs": inputs | {"other": {"type": "INT", "required": True}}},
        "order of its inputs": {"inputs": dict(reversed(inputs.items()))},
        "outputs changed": {"outputs": outputs[::-1]},
    }
    for words, change in cases.items():
        found = breaks({"SSIInverseSampler": node}, {"SSIInverseSampler": node | change} if change else {})
        assert any(words in sentence for sentence in found), (words, found)
    assert breaks({"SSIInverseSampler": node}, {"SSIInverseSampler": node | {"outputs": [*outputs, outputs[0]]}}) == []


def test_every_part_of_a_schema_is_explained():
    for name in (n for n in nodes.NODE_CLASS_MAPPINGS if n.startswith("SSI")):
        found = nodes.NODE_CLASS_MAPPINGS[name].GET_SCHEMA()
        assert found.display_name and len(found.description) > 40 and found.search_aliases, name
        assert found.category.split("/")[0] == "SSI" and (found.outputs or found.is_output_node), name
        for part in [*found.inputs, *found.outputs]:
            assert len(part.tooltip or "") > 10, (name, part.id)
        for key, (_, *options) in nodes.NODE_CLASS_MAPPINGS[name].INPUT_TYPES().get("required", {}).items():
            template = (options[0] if options else {}).get("template") or {}
            for inner in (template.get("input") or {}).values():  # of inputs that grow
                assert all(len(more.get("tooltip") or "") > 10 for _, more in inner.values()), (name, key)
        assert all(output.display_name for output in found.outputs), name
