"""What every test needs: the helpers beside it, the package, and tests that draw the same examples on every run."""

import importlib.util
import sys
from pathlib import Path

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
