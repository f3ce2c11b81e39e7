"""Runs the tests in `inside/` in the host's own Python, in one process, with core imported."""

import importlib.util
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What the host's Python lacks; all of it pure Python, so that any version's copy will do. Our torch must stay out.
BORROWED = ["pytest", "py", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "exceptiongroup", "tomli"]


def test_inside_the_host(host, base_directory, tmp_path):
    pack = next((base_directory / "custom_nodes").iterdir())
    for name in BORROWED:
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None:
            origin = Path(found.origin)
            source = origin.parent if origin.name == "__init__.py" else origin
            (tmp_path / source.name).symlink_to(source)
    report = tmp_path / "report"
    with report.open("wb") as out:
        done = subprocess.run(
            [host.python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--rootdir", str(HERE / "inside"),
             "--confcutdir", str(HERE / "inside"), "-c", "/dev/null", str(HERE / "inside")],
            cwd=tmp_path,
            env=host.environment | {
                "PYTHONPATH": str(tmp_path), "SSI_PACK": str(pack), "SSI_COMFYUI": str(host.root),
            },
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=1200,
        )  # fmt: skip
    text = report.read_text(errors="replace")
    assert done.returncode == 0, text[-20000:]
    print(text.splitlines()[-1])
