"""A ComfyUI server from a shell or from Python: a workflow in API format is queued, watched, and its outputs fetched.

Speaks HTTP and a websocket to the server, and imports nothing of it.
"""

from .cli import app
from .outputs import Output
from .run import Progress, Result, Running, run_workflow
from .server import JobError, Server

__all__ = ["JobError", "Output", "Progress", "Result", "Running", "Server", "app", "run_workflow"]
