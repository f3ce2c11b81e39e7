"""The real ComfyUI: `$COMFYUI_PATH`, else `~/comfy/ComfyUI`, run with its own Python."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

collect_ignore = ["inside"]  # run by `test_inside.py`, in the host's Python

REPOSITORY = Path(__file__).parents[2]
PACK = "ComfyUI-SSI inversion"  # a dash and a space: the folder's name is up to the user
START_SECONDS = 420  # 15 when the machine is idle


@dataclass(frozen=True)
class Host:
    root: Path
    python: Path

    @property
    def environment(self) -> dict[str, str]:
        """Ours without what would let the host see this repository by any other way than `custom_nodes/`."""
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        return kept | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Server:
    url: str
    log: Path
    pid: int

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=120) as answer:
            return answer.read()


@pytest.fixture(scope="session")
def host() -> Host:
    given = os.environ.get("COMFYUI_PATH")
    root = Path(given or "~/comfy/ComfyUI").expanduser().resolve()
    if not (root / "main.py").is_file():
        if given:
            pytest.fail(f"COMFYUI_PATH={given} holds no ComfyUI (main.py)")
        pytest.skip(f"NO REAL COMFYUI, host tests not run: {root} does not exist; set COMFYUI_PATH")
    pythons = (root / venv / "bin" / "python" for venv in (".venv", "venv"))
    return Host(root, next((p for p in pythons if p.exists()), Path(sys.executable)))


@pytest.fixture(scope="module")
def base_directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A `--base-directory` whose custom_nodes/ holds the repository and nothing else, under the module's own `PACK`."""
    base = tmp_path_factory.mktemp("comfyui")
    (base / "custom_nodes").mkdir()
    name = getattr(request.module, "PACK", PACK)
    (base / "custom_nodes" / name).symlink_to(REPOSITORY, target_is_directory=True)
    yield base
    shutil.rmtree(base)


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, host: Host, base_directory: Path) -> Iterator[Server]:
    """ComfyUI, headless on the CPU, with the module's own `OPTIONS` too; stopped when the module's tests are over."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = base_directory / "server.log"
    options = ["--cpu", "--disable-api-nodes", "--listen", "127.0.0.1", "--port", str(port)]
    options += ["--base-directory", str(base_directory), "--database-url", f"sqlite:///{base_directory}/comfyui.db"]
    options += getattr(request.module, "OPTIONS", [])
    with log.open("wb") as out:
        process = subprocess.Popen(
            [host.python, "main.py", *options],
            cwd=host.root,
            env=host.environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        running = Server(f"http://127.0.0.1:{port}", log, process.pid)
        _wait_until_up(running, process)
        yield running
    finally:
        _stop(process)


def _wait_until_up(server: Server, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"ComfyUI ended with {process.returncode}:\n{_tail(server.log)}")
        try:
            server.get("/system_stats")
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"ComfyUI did not answer within {START_SECONDS} s:\n{_tail(server.log)}")


def _stop(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-40:])
