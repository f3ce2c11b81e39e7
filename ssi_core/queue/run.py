"""One workflow on one server, from the file to its outputs: queued, watched, fetched; cancelled where we are stopped.

The server's `/history` alone decides how a job ended. The websocket only tells how far it is, so that a connection that
drops, or that never was, costs the progress bar and nothing else.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from . import messages
from .outputs import Output, collect, made
from .server import Events, JobError, Refused, Server
from .workflow import Workflow, read_workflow

POLL, POLL_BLIND = 2.0, 0.5
"""Seconds between looks at the history, with and without a websocket that says when to look."""
GRACE = 30.0
"""Seconds for which a server may be silent before its job is given up."""


@dataclass(frozen=True)
class Running:
    """A node at work: its title, and the steps done of those it has (1 where it does not tell)."""

    node: str
    title: str
    step: float
    steps: float


@dataclass(frozen=True)
class Progress:
    """How far a job is: `ahead` jobs before it (0: it runs), and `done` of `nodes` nodes."""

    ahead: int
    running: tuple[Running, ...]
    done: int
    nodes: int


@dataclass(frozen=True)
class Result:
    """A job that succeeded: its id on the server, how long it took from queueing to the end, and what it gave."""

    job: str
    seconds: float
    outputs: tuple[Output, ...]

    @property
    def files(self) -> list[Path]:
        """Everything that was written."""
        return [output.path for output in self.outputs if output.path is not None]

    @property
    def texts(self) -> list[str]:
        return [output.text for output in self.outputs if output.text is not None]


def run_workflow(
    workflow: str | Path | Mapping[str, Any],
    server: str | Server | None = None,
    *,
    settings: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
    seed: int | None = None,
    out: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    note: Callable[[str], None] | None = None,
    timeout: float | None = None,
) -> Result:
    """Run a workflow on a ComfyUI server and bring home what it gives.

    Args:
        workflow: a file in API format, or what is in one; not changed.
        server: HOST:PORT or a URL; None: `$COMFYUI_SERVER`, else 127.0.0.1:8188.
        settings: "NODE.INPUT" -> value, the node by id, title or class_type; text is read as the input's own type, and
            the name of a local file is uploaded where the input takes an uploaded file.
        seed: for every seed that the workflow holds.
        out: folder for files and texts, made if missing; None: nothing is downloaded.
        progress: called whenever something is heard, at least twice a second and once in all.
        note: called with what the user may like to know (a lost websocket, a blocked node).
        timeout: seconds from queueing to the end; then the job is cancelled. None: as long as it takes.

    Raises:
        InputError: workflow, setting, folder or address cannot be used, or the server does not answer or refuses the
            workflow. Nothing runs, or next to nothing: where only some outputs are faulty, ComfyUI says so when it has
            begun with the others, and is stopped.
        JobError: the job failed, was interrupted on the server, was lost, or took longer than `timeout`.

    Whatever stops this function while the job waits or runs (Ctrl-C too) also cancels the job, and no other.
    """
    host = server if isinstance(server, Server) else Server(server)
    graph = read_workflow(workflow)
    host.check()
    flow = Workflow(graph, {kind: host.node_info(kind) for kind in sorted({e["class_type"] for e in graph.values()})})
    missing = flow.missing()
    if missing:
        known = host.replaced()
        missing = {kind: nodes for kind, nodes in missing.items() if kind not in known}
    if missing:
        raise InputError(messages.lacking(flow, missing, host))
    if seed is not None:
        flow.assign_seed(seed)
    pairs = settings.items() if isinstance(settings, Mapping) else settings
    for key, value in pairs:
        flow.assign(key, value)
    folder = None if out is None else made(Path(out))
    for (node, name), path in flow.uploads.items():  # after every setting was found good
        graph[node]["inputs"][name] = host.upload(path)

    job, client, started = str(uuid.uuid4()), uuid.uuid4().hex, time.monotonic()
    events = Events(host, client)
    try:
        events.connect()  # before queueing, so that no message is missed
        _queue(host, flow, job, client)
        watch = _Watch(flow, job, note or _ignore)
        record = _wait(host, job, events, watch, progress or _ignore, timeout)
    except (JobError, Refused):
        raise
    except BaseException:
        if not host.cancel(job) and note is not None:
            note(f"server {host}: could not be asked to stop the job; it may go on")
        raise
    finally:
        events.close()
    _judge(flow, record)
    return Result(job, time.monotonic() - started, tuple(collect(host, flow, record, folder)))


def _ignore(_: object) -> None:
    pass


def _queue(host: Server, flow: Workflow, job: str, client: str) -> None:
    """Queue the workflow under an id of our own choice, so that it can be cancelled before the answer is here."""
    try:
        answer = host.ask("/prompt", {"prompt": flow.graph, "prompt_id": job, "client_id": client})
    except Refused as error:
        if error.code == 400:
            raise InputError(messages.refusal(flow, error.body)) from None
        raise
    wrong = messages.faults(flow, (answer or {}).get("node_errors"))
    if wrong:
        # The server would run the other outputs, and leave these out without a word.
        raise InputError("\n".join(wrong))


def _wait(
    host: Server,
    job: str,
    events: Events,
    watch: _Watch,
    progress: Callable[[Progress], None],
    timeout: float | None,
) -> dict[str, Any]:
    """The job's record, once it is over."""
    started = answered = time.monotonic()
    look = started
    while True:
        now = time.monotonic()
        if timeout is not None and now - started > timeout:
            host.cancel(job)
            raise JobError(f"not done within {timeout:g} s ({watch.place()}); it was cancelled")
        if now >= look:
            try:
                record = host.history(job)
                ahead = None if record else host.ahead(job)
                if record is None and ahead is None:
                    record = host.history(job)  # it may have ended between the two questions
                    if record is None:
                        raise JobError(
                            f"the job was lost ({watch.place()}): it is neither in the server's queue nor in its "
                            "history; the server was restarted, or somebody removed it"
                        )
            except InputError as error:  # no answer, or that of a proxy in front of it
                if now - answered > GRACE:
                    gone = f"the server has not answered for {GRACE:.0f} s ({watch.place()})"
                    raise JobError(f"{gone}: {error}") from None
            else:
                answered = now
                watch.ahead = ahead or 0
                if record is not None:
                    progress(watch.progress())
                    return record
            look = now + (POLL if events.live else POLL_BLIND)
        progress(watch.progress())
        event = events.next(min(0.5, max(look - time.monotonic(), 0.01)))
        if event is not None and watch.take(event):
            look = min(look, time.monotonic() + 0.05)  # success is announced before it is in the history


class _Watch:
    """What the websocket told of one job."""

    def __init__(self, flow: Workflow, job: str, note: Callable[[str], None]) -> None:
        self.flow, self.job, self.note = flow, job, note
        self.ahead = 0
        self.needed = flow.needed()
        self.done: set[str] = set()
        self.steps: dict[str, tuple[float, float]] = {}

    def progress(self) -> Progress:
        running = tuple(Running(node, self.flow.title(node), *steps) for node, steps in self.steps.items())
        return Progress(self.ahead, running, len(self.done & self.needed), len(self.needed))

    def place(self) -> str:
        """Where it is, in words."""
        if self.steps:
            return "at " + " and ".join(self.flow.name(node) for node in self.steps)
        return f"{self.ahead} job(s) before it" if self.ahead else "no node at work"

    def take(self, event: Mapping[str, Any]) -> bool:
        """Take one message in; whether it is time to look at the queue and the history."""
        kind, data = event.get("type"), event.get("data")
        if kind == "status":  # somebody's job came or went
            return True
        if not isinstance(data, dict) or data.get("prompt_id") != self.job:
            return False
        node = data.get("node")
        if kind == "execution_start":
            self.ahead = 0
        elif kind == "execution_cached":
            self.done |= set(data.get("nodes") or ())
        elif kind == "executing" and node is not None:
            self.steps = {node: self.steps.get(node, (0, 1))}
        elif kind == "progress" and node is not None:
            self.steps[node] = (data.get("value") or 0, data.get("max") or 1)
        elif kind == "progress_state":
            states = data.get("nodes") or {}
            self.done |= {n for n, s in states.items() if s.get("state") == "finished"}
            self.steps = {
                n: (s.get("value") or 0, s.get("max") or 1) for n, s in states.items() if s.get("state") == "running"
            }
        elif kind == "executed" and node is not None:
            self.done.add(node)
            self.steps.pop(node, None)
        elif kind == "execution_error" and data.get("exception_type") == "ExecutionBlocked":
            # The one error after which the server goes on, and which its history does not keep.
            self.note(messages.failure(self.flow, data))
        else:
            return True  # execution_success, execution_error, execution_interrupted, or the last `executing`
        return False


def _judge(flow: Workflow, record: Mapping[str, Any]) -> None:
    """Raises JobError where the record is not one of success."""
    status = record.get("status") or {}
    if status.get("status_str", "success") == "success":
        return
    for kind, told in status.get("messages") or ():
        if kind == "execution_error":
            raise JobError(messages.failure(flow, told), messages.traceback(told))
        if kind == "execution_interrupted":
            node = told.get("node_id")
            raise JobError(f"the job was interrupted on the server{f', at {flow.name(str(node))}' if node else ''}")
    raise JobError("the job failed, and the server does not say why")
