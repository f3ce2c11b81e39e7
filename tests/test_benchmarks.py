"""Benchmarks are asked for models by the names that the command line and docs/beyond.md have."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_every_shipped_model_is_a_subject_under_its_own_name():
    check = (
        "from benchmarks.subjects import SUBJECTS, subjects\n"
        "from ssi_core.demo import DEMO_MODELS, demo_denoiser\n"
        "names = list(DEMO_MODELS)\n"
        "assert set(SUBJECTS) == {*names, 'gaussian'}\n"
        "found = subjects(names)\n"
        "assert [s.name for s in found] == names\n"
        "assert [s.denoise.signature for s in found] == [demo_denoiser(name=n).signature for n in names]\n"
    )
    done = run(check)
    assert done.returncode == 0, done.stderr


def test_a_model_that_is_none_is_told_beside_those_that_are():
    check = (
        "import sys\n"
        "from benchmarks import adaptive, injections, skips\n"
        "for benchmark in (adaptive, injections, skips):\n"
        "    sys.argv = ['benchmark', '--models', 'classes']\n"
        "    try:\n"
        "        benchmark.main()\n"
        "    except SystemExit as stopped:\n"
        "        assert stopped.code == 2\n"
    )
    done = run(check)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("invalid choice: 'classes'") == 3
    assert "{demo,demo-classes,demo-flow,gaussian}" in done.stderr  # usage, as in --help
