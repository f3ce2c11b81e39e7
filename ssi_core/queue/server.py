"""One ComfyUI server, over HTTP and a websocket: what it is asked, and how it is told that the connection failed."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

from ..errors import InputError

ENVIRONMENT = "COMFYUI_SERVER"
DEFAULT = "127.0.0.1:8188"
SECONDS = 60
"""How long one answer may take; a server that loads a model can be slow to talk."""

PATIENCE = 5
"""Seconds for which a cancelled job is watched until it is gone; one long step of a node may take longer."""


class JobError(RuntimeError):
    """The server took the job and did not finish it; the message says what became of it."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class Unreachable(InputError):
    """No answer from the server; the message says why."""


class Refused(InputError):
    """The server answered with an HTTP error; `code` is its number and `body` what it said, parsed where it is JSON."""

    def __init__(self, message: str, code: int, body: Any) -> None:
        super().__init__(message)
        self.code, self.body = code, body


class Server:
    """A ComfyUI at an address.

    Args:
        address: HOST, HOST:PORT, or http(s)://HOST[:PORT][/PATH]. None: `$COMFYUI_SERVER`, else 127.0.0.1:8188.

    Raises:
        InputError: the address cannot be read.
    """

    def __init__(self, address: str | None = None) -> None:
        given = (address or os.environ.get(ENVIRONMENT) or DEFAULT).strip()
        try:
            parts = urlsplit(given if "://" in given else f"http://{given}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InputError(f"server {given!r}: not an address ({error}); give HOST:PORT, as in {DEFAULT}") from None
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.username:
            raise InputError(f"server {given!r}: not an address; give HOST:PORT or http(s)://HOST:PORT")
        if port is None and "://" not in given:
            port = 8188
        place = (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}")
        self.url = f"{parts.scheme}://{place}{parts.path.rstrip('/')}"
        # urllib would send even localhost through a company's proxy.
        direct = host == "localhost" or host.startswith("127.") or host == "::1"
        self._opener: OpenerDirector = build_opener(*([ProxyHandler({})] if direct else []))

    def __str__(self) -> str:
        return self.url.removeprefix("http://")

    def open(
        self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, seconds: float = SECONDS
    ) -> Any:
        """The open answer to one request; POST where there is a body.

        Raises:
            Unreachable: nobody answers there.
            Refused: the answer was an HTTP error.
        """
        request = Request(self.url + path, data=body, headers=dict(headers or {}))
        try:
            return self._opener.open(request, timeout=seconds)
        except HTTPError as error:
            said = error.read(1 << 20).decode("utf-8", "replace")
            try:
                parsed = json.loads(said)
            except ValueError:
                parsed = said
            raise Refused(f"server {self}: refused {path.partition('?')[0]} (HTTP {error.code} {error.reason})",
                          error.code, parsed) from None  # fmt: skip
        except (URLError, HTTPException, OSError) as error:
            said = _reason(error)
            raise Unreachable(f"server {self}: cannot be reached ({said}); is ComfyUI running there?") from None

    def ask(self, path: str, body: Any = None, seconds: float = SECONDS) -> Any:
        """One JSON answer, or None where the answer is empty; raises as `open`, and InputError where it is not JSON."""
        data = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        with self.open(path, data, headers, seconds) as answer:
            said = _read(answer, self)
        if not said.strip():
            return None
        try:
            return json.loads(said)
        except ValueError:
            raise InputError(f"server {self}: answers, but not as a ComfyUI does ({path} is not JSON)") from None

    def check(self) -> None:
        """Raises InputError unless a ComfyUI answers."""
        try:
            stats = self.ask("/system_stats", seconds=20)
        except Refused as error:
            why = "wants a login" if error.code in (401, 403) else "is not a ComfyUI"
            raise InputError(f"server {self}: answers, but {why} (HTTP {error.code} for /system_stats)") from None
        if not isinstance(stats, dict) or "system" not in stats:
            raise InputError(f"server {self}: answers, but is not a ComfyUI (/system_stats says something else)")

    def node_info(self, kind: str) -> dict[str, Any] | None:
        """What the server tells of a node type: None where it has none, nothing where it fails to tell."""
        try:
            found = self.ask(f"/object_info/{quote(kind, safe='')}") or {}
        except Refused:
            return {}
        info = found.get(kind)
        return info if isinstance(info, dict) else None

    def replaced(self) -> set[str]:
        """Node types of old that the server replaces by others when they are queued."""
        try:
            return set(self.ask("/node_replacements") or {})
        except InputError:  # it came with 0.16, and another core may answer otherwise
            return set()

    def upload(self, path: Path) -> str:
        """Put a file among the server's inputs.

        Returns:
            The name it has there: another than ours, where the server holds a different file of that name.

        Raises:
            InputError: the file cannot be read, or the server does not take it.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"file {path}: cannot be read ({error.strerror or error})") from None
        # As browsers do: these three characters would end the header.
        name = path.name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
        border = f"----ssi{uuid.uuid4().hex}"
        body = (
            f'--{border}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode() + content + f"\r\n--{border}--\r\n".encode()  # fmt: skip
        headers = {"Content-Type": f"multipart/form-data; boundary={border}"}
        try:
            with self.open("/upload/image", body, headers, seconds=600) as answer:
                told = json.loads(_read(answer, self))
            return f"{told['subfolder']}/{told['name']}" if told.get("subfolder") else str(told["name"])
        except Refused as error:
            large = "; it is too large for the server" if error.code == 413 else ""
            raise InputError(f"file {path}: the server does not take it (HTTP {error.code}{large})") from None
        except (ValueError, KeyError, AttributeError, TypeError):
            raise InputError(f"file {path}: the server took it and did not say under which name") from None

    def view(self, file: Mapping[str, Any]) -> Any:
        """The open answer that holds an output file; raises as `open`."""
        query = {key: str(file.get(key) or "") for key in ("filename", "subfolder", "type")}
        return self.open(f"/view?{urlencode(query)}", seconds=600)

    def history(self, job: str) -> dict[str, Any] | None:
        """The record of a job that is over, whichever way; None where there is none."""
        record = (self.ask(f"/history/{quote(job)}") or {}).get(job)
        return record if isinstance(record, dict) else None

    def ahead(self, job: str) -> int | None:
        """Jobs before this one, 0 where it runs; None where it is neither running nor waiting."""
        queue = self.ask("/queue")
        running = [item[1] for item in queue.get("queue_running", [])]
        if job in running:
            return 0
        waiting = [item[1] for item in sorted(queue.get("queue_pending", []), key=lambda item: item[0])]
        return len(running) + waiting.index(job) if job in waiting else None

    def cancel(self, job: str) -> bool:
        """Take one job from the queue, or stop it where it runs; others are left alone. False: nobody answered."""
        try:
            # In this order, so that a job which starts in between is still stopped.
            self.ask("/queue", {"delete": [job]}, seconds=5)
            deadline = time.monotonic() + PATIENCE
            while True:
                self.ask("/interrupt", {"prompt_id": job}, seconds=5)
                if self.ahead(job) is None or time.monotonic() > deadline:
                    break
                time.sleep(0.2)  # again, since a job that is just starting forgets that it was interrupted
        except InputError:
            return False
        return True


class Events:
    """The server's messages to one client; silent while the websocket is down, which is no error: the job goes on."""

    RETRY = 3.0

    def __init__(self, server: Server, client: str) -> None:
        self._url = f"ws{server.url.removeprefix('http')}/ws?clientId={client}"
        self._socket: Any = None
        self._next_try = 0.0

    @property
    def live(self) -> bool:
        return self._socket is not None

    def connect(self) -> bool:
        """Try once; False where it cannot be had."""
        self._next_try = time.monotonic() + self.RETRY
        try:
            import websocket  # 30 ms, and only this command needs it

            # Without an Origin, since the server compares it with its own idea of its name.
            self._socket = websocket.create_connection(self._url, timeout=10, suppress_origin=True)
        except (ImportError, OSError, ValueError, _websocket_error()):
            self._socket = None
        return self.live

    def next(self, seconds: float) -> dict[str, Any] | None:
        """The next message, or None when there was none for so long."""
        if self._socket is None and time.monotonic() >= self._next_try:
            self.connect()
        if self._socket is None:
            time.sleep(seconds)
            return None
        import websocket

        try:
            self._socket.settimeout(seconds)
            message = self._socket.recv()
        except websocket.WebSocketTimeoutException:
            return None
        except (OSError, websocket.WebSocketException):
            self.close()
            return None
        if not isinstance(message, str):
            return None  # a preview picture
        if not message:  # how the library says that the other side has closed
            self.close()
            return None
        try:
            event = json.loads(message)
        except ValueError:
            return None
        return event if isinstance(event, dict) else None

    def close(self) -> None:
        if self._socket is not None:
            with suppress(Exception):  # it is over either way
                self._socket.close(timeout=1)
        self._socket, self._next_try = None, time.monotonic() + self.RETRY


def _websocket_error() -> type[Exception]:
    try:
        from websocket import WebSocketException
    except ImportError:
        return OSError
    return WebSocketException


def _read(answer: IO[bytes], server: Server) -> bytes:
    try:
        return answer.read()
    except (HTTPException, OSError) as error:
        raise Unreachable(f"server {server}: the connection broke ({_reason(error)})") from None


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", error)
    return str(getattr(inner, "strerror", None) or inner or type(inner).__name__)
