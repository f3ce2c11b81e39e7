"""English translations and help pages against the live schemas."""

import importlib.util
import re

import pytest
from conftest import PACK

import nodes

REFRESH = importlib.util.spec_from_file_location("refresh", PACK / "locales" / "refresh.py")
refresh = importlib.util.module_from_spec(REFRESH)
REFRESH.loader.exec_module(refresh)

OF_THIS_MACHINE = ("checkpoint", "file", "schedule")  # choices that depend on files, and on other packs
EXPECTED = sorted(refresh.load("en"))


@pytest.fixture(scope="module")
def info():
    ours = {name: node for name, node in nodes.NODE_CLASS_MAPPINGS.items() if name.startswith("SSI")}
    return {name: node.GET_NODE_INFO_V1() for name, node in ours.items()}


def number(x):
    return "2^64 - 1" if x == 2**64 - 1 else f"{x:g}".replace("e+0", "e")


def facts(name, spec):
    """What a help page has to say of an input: range, choices and default."""
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    if kind in ("INT", "FLOAT"):
        return [f"{number(options['min'])} to {number(options['max'])}", f"default `{number(options['default'])}`"]
    if kind == "COMBO":
        if name in OF_THIS_MACHINE:
            return [f"default `{options['default']}`"] if "default" in options else []
        choices = ", ".join(f"`{choice}`" for choice in options["options"])
        return [choices, f"default `{options.get('default', options['options'][0])}`"]
    if kind == "STRING":
        return [f"default `{options['default']}`" if options["default"] else "default empty"]
    if kind == "BOOLEAN":
        return [f"default `{str(options['default']).lower()}`"]
    if options.get("template"):
        return [f"{options['template']['min']} to {options['template']['max']}"]
    return [kind.replace(",", " or ")]


def test_english_is_what_the_schemas_say(info):
    assert refresh.load("en") == refresh.node_defs(info), "run `python locales/refresh.py http://SERVER:PORT`"


@pytest.mark.parametrize("node", EXPECTED)
def test_a_help_page_says_what_the_schema_says(info, node):
    page = (PACK / "web" / "docs" / f"{node}.md").read_text()
    for group in ("required", "optional"):
        for name, spec in info[node]["input"].get(group, {}).items():
            said = re.search(rf"^- \*\*`{name}`\*\* \((.*?)\): ", page, re.M)
            assert said, name
            for fact in facts(name, spec):
                assert fact in said[1], f"{name}: {fact!r} is not in {said[1]!r}"
            assert ("optional" in said[1].split("; ")) <= (group == "optional"), name
    outputs = page.partition("## Outputs\n")[2].partition("\n## ")[0]
    for name, kind in zip(info[node]["output_name"], info[node]["output"], strict=True):
        assert f"- **`{name}`** ({kind}): " in outputs, name
