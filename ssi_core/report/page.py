"""One HTML page without any outside reference, from a template that extends `page.html.jinja`."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def render(package: str, template: str, **values: Any) -> str:
    """Fill the template of a package; names in it are escaped, and one that is missing is an error."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("ssi_core.report", ".")]), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return legible(environment.get_template(template).render(**values))


def legible(text: str) -> str:
    """Text that UTF-8 can hold: a path may have bytes that are no letters, which are shown as "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def inlined(pictures: list[Path], captions: Mapping[str, str] | None = None) -> list[tuple[str, str, str]]:
    """(name, caption, base64 of the file) of PNGs, to be put into the page itself.

    Args:
        pictures: the files.
        captions: what they show, by the file's stem; none for those that have no entry.
    """
    words = captions or {}
    return [(path.stem, words.get(path.stem, ""), base64.b64encode(path.read_bytes()).decode()) for path in pictures]
