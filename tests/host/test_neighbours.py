"""Other packs: one that holds our engine's name, one that patches the samplers, one that crowds `sys.path`."""

import subprocess
from pathlib import Path

PROBE = Path(__file__).with_name("neighbours_probe.py")


def test_badly_behaved_packs_change_nothing(host, base_directory, tmp_path):
    pack = next((base_directory / "custom_nodes").iterdir())

    def run(mode: str) -> str:
        done = subprocess.run(
            [host.python, str(PROBE), str(host.root), str(pack), mode, str(tmp_path)],
            cwd=tmp_path, env=host.environment, capture_output=True, text=True, timeout=420,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        if mode == "neighbours":
            assert "another ssi_core (version 99.0" in done.stderr
        return next(line for line in done.stdout.splitlines() if line.startswith("hash"))

    assert run("alone") == run("neighbours")
