"""Words for the person at the editor."""

from __future__ import annotations

import logging
import sys
from typing import Any

from comfy_execution.graph_utils import ExecutionBlocker
from comfy_execution.utils import get_executing_context


def on_node(text: str) -> None:
    """Show text on the node that is being executed; nothing happens outside a running server."""
    # Not imported: it drags the whole web server into scripts that use core as a library.
    running = get_executing_context()
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if running is not None and server is not None:
        server.send_progress_text(text, running.node_id)


def warn(text: str) -> None:
    """Say what the result is still given despite of: in the server's log and on the node."""
    logging.warning("SSI: %s", text)
    on_node(text)


def blocked(why: str) -> Any:
    """An output that is not there: whoever is connected to it is told why."""
    return ExecutionBlocker(why)
