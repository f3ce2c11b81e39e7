"""Words for the person at the editor."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from itertools import chain
from textwrap import wrap
from typing import Any

from comfy_execution.graph_utils import ExecutionBlocker
from comfy_execution.utils import get_executing_context
from torch import Tensor

NODE_COLUMNS = 40
"""Letters that fit into a line on a node of usual width."""


def on_node(text: str) -> None:
    """Show text on the node that is being executed; nothing happens outside a running server."""
    # Not imported: it drags the whole web server into scripts that use core as a library.
    running = get_executing_context()
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if running is None or server is None:
        return
    try:
        # The editor breaks lines wherever they are full, in the middle of words.
        lines = (wrap(line, NODE_COLUMNS, break_long_words=False) or [""] for line in text.splitlines())
        server.send_progress_text("\n".join(chain.from_iterable(lines)), running.node_id, server.client_id)
    except Exception:  # the server's own, not a public call: no inversion is to be lost for a caption
        logging.warning("SSI: this ComfyUI does not show texts on nodes as it used to", exc_info=True)


def tell(report: str, complaints: Sequence[str] = ()) -> str:
    """Show a report on the node; with complaints (what the result is still given despite of) before it, and in the log.

    Returns:
        The whole text.
    """
    text = "\n".join([*(f"Warning: {complaint}" for complaint in complaints), report])
    if complaints:
        logging.warning("SSI: %s", text)
    on_node(text)
    return text


def shape(x: Tensor) -> str:
    return "x".join(str(n) for n in x.shape)


def blocked(why: str) -> Any:
    """An output that is not there: whoever is connected to it is told why."""
    return ExecutionBlocker(why)
