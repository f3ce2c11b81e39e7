"""What a server says when it refuses a workflow or fails on it, as sentences about nodes and inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .workflow import Workflow

OUR_PREFIX = "SSI"


def lacking(workflow: Workflow, missing: Mapping[str, list[str]], server: object) -> str:
    """One message about every node type that the server does not have."""
    lines = [f"server {server}: lacks {len(missing)} node type(s) of this workflow:"]
    for kind, nodes in missing.items():
        # An API workflow does not say which pack a node comes from; we know our own.
        pack = "; of the pack 'SSI Inversion'" if kind.startswith(OUR_PREFIX) else ""
        lines.append(f"  {kind} ({', '.join(workflow.name(node) for node in nodes)}{pack})")
    lines.append("install the pack that has them (ComfyUI Manager finds it by these names) and restart the server")
    return "\n".join(lines)


def refusal(workflow: Workflow, body: Any) -> str:
    """What the server found wrong with the workflow, one line a fault."""
    if not isinstance(body, dict):
        return f"the server refused the workflow: {one_line(body) or 'it did not say why'}"
    lines = faults(workflow, body.get("node_errors"))
    if lines:
        return "\n".join(lines)
    error = body.get("error")
    if not isinstance(error, dict):
        return f"the server refused the workflow: {one_line(error) or 'it did not say why'}"
    if error.get("type") == "prompt_no_outputs":
        return "the workflow has no output: add a node that saves or previews something"
    told = ": ".join(one_line(part) for part in (error.get("message"), error.get("details")) if one_line(part))
    return f"the server refused the workflow: {told or 'it did not say why'}"


def faults(workflow: Workflow, node_errors: Any) -> list[str]:
    """The server's `node_errors`, one sentence each."""
    lines = []
    for node, told in (node_errors if isinstance(node_errors, dict) else {}).items():
        for error in told.get("errors", []):
            lines.append(_fault(workflow, node, error))
    return lines


def _fault(workflow: Workflow, node: str, error: Mapping[str, Any]) -> str:
    extra = error.get("extra_info") or {}
    name, value = extra.get("input_name"), extra.get("received_value")
    where = workflow.name(node) + (f", input {name}" if name else "")
    config = extra.get("input_config")
    options = config[1] if isinstance(config, list) and len(config) > 1 and isinstance(config[1], dict) else {}
    kind, details = error.get("type"), one_line(error.get("details"))
    if kind == "required_input_missing":
        return f"{where}: is missing; connect it or give it a value"
    if kind == "value_smaller_than_min" and "min" in options:
        return f"{where}: {value} is below its smallest value, {options['min']}"
    if kind == "value_bigger_than_max" and "max" in options:
        return f"{where}: {value} is above its largest value, {options['max']}"
    if kind == "value_not_in_list":
        source = one_line(workflow.source(node, value))
        if source:
            return f"{where}: the server has no {value!r}; {source}"
        return f"{where}: {value!r} is not one of its choices ({details})"
    if kind == "custom_validation_failed":
        # The server writes "input - what the node said".
        return f"{where}: {details.removeprefix(f'{name} - ')}"
    return f"{where}: {one_line(error.get('message'))}{f' ({details})' if details else ''}"


def failure(workflow: Workflow, told: Mapping[str, Any]) -> str:
    """An `execution_error` as one sentence; its traceback is left out."""
    node = str(told.get("node_id"))
    said = one_line(told.get("exception_message")) or one_line(told.get("exception_type")) or "it did not say why"
    return f"{workflow.name(node)} failed: {said}"


def traceback(told: Mapping[str, Any]) -> str:
    lines = told.get("traceback")
    return "".join(str(line) for line in lines) if isinstance(lines, Iterable) else ""


def one_line(text: Any) -> str:
    """A message without its line breaks."""
    return " ".join(str(text).split()) if text is not None else ""
