"""A real ComfyUI loads the pack, keeps its own nodes, and shares one engine with whoever imports `ssi_core`."""

import json
import subprocess
from pathlib import Path

import pytest

PROBE = Path(__file__).with_name("pack_probe.py")
BITS = Path(__file__).with_name("bits_probe.py")


def test_server_imports_the_pack(server, base_directory):
    log = server.log.read_text(errors="replace")
    pack = next((base_directory / "custom_nodes").iterdir())
    times = [line for line in log.splitlines() if "seconds" in line and str(pack) in line]
    assert len(times) == 1, log
    assert "IMPORT FAILED" not in times[0], log


def test_server_keeps_its_own_nodes(server, base_directory):
    pack = next((base_directory / "custom_nodes").iterdir()).name
    info = json.loads(server.get("/object_info"))
    for core in ("KSampler", "VAEDecode", "SamplerCustomAdvanced", "LoadImage", "SaveImage"):
        assert info[core]["python_module"].split(".")[0] in ("nodes", "comfy_extras"), info[core]["python_module"]
    ours = {name for name, node in info.items() if node["python_module"] == f"custom_nodes.{pack}"}
    assert ours == {name for name in info if name.startswith("SSI")}


@pytest.mark.parametrize("order", ["pack-first", "core-first"])
def test_one_engine_in_the_host(host, base_directory, tmp_path, order):
    pack = next((base_directory / "custom_nodes").iterdir())
    (tmp_path / "ssi_core").symlink_to(pack.resolve() / "ssi_core", target_is_directory=True)
    done = subprocess.run(
        [host.python, str(PROBE), str(pack), order, str(tmp_path), str(host.root)],
        cwd=tmp_path,
        env=host.environment,
        capture_output=True,
        text=True,
        timeout=420,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "one engine" in done.stdout


def test_core_s_own_sampler_gives_the_same_bits_with_the_pack_and_without(host, base_directory, tmp_path):
    pack = next((base_directory / "custom_nodes").iterdir())

    def bits(mode):
        done = subprocess.run(
            [host.python, str(BITS), str(host.root), str(pack), mode],
            cwd=tmp_path, env=host.environment, capture_output=True, text=True, timeout=420,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return next(line for line in done.stdout.splitlines() if line.startswith("hash"))

    assert bits("with") == bits("without")
