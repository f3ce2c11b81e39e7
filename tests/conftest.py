"""What every test needs: the helpers beside it, the package, and tests that draw the same examples on every run."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
if importlib.util.find_spec("ssi_core") is None:
    # Last, not first: the root holds a `nodes` package that must never hide the host's module of that name.
    sys.path.append(str(HERE.parent))

settings.register_profile(
    "repeatable",
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("repeatable")
torch.set_num_threads(1)


@pytest.fixture
def pictures(tmp_path):
    """Two held-out scenes as files, for the command line."""
    from ssi_core import save_image
    from ssi_core.demo.scenes import HELD_OUT, draw_scenes

    paths = []
    for i, scene in enumerate(draw_scenes([HELD_OUT + 7, HELD_OUT + 8], size=48)):
        paths.append(tmp_path / f"scene {i}.png")
        save_image(scene, paths[-1])
    return paths


@pytest.fixture
def stripes(tmp_path):
    """A picture, as a file, that no demo model knows."""
    from ssi_core import save_image

    image = torch.ones(1, 3, 32, 32)
    image[..., ::2] = -1
    save_image(image, tmp_path / "stripes.png")
    return tmp_path / "stripes.png"
