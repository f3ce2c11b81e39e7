"""All experiments: importing this module registers them, in the order in which a report shows them."""

# ruff: noqa: I001  # their order is that of the report
from . import singular, absorbed, skip, plane, ablations, rotations, flat, digits
from .experiment import EXPERIMENTS, Experiment, Lab, Outcome, find_experiment

__all__ = [
    "EXPERIMENTS", "Experiment", "Lab", "Outcome", "ablations", "absorbed", "digits", "find_experiment", "flat",
    "plane",
    "rotations", "singular", "skip",
]  # fmt: skip
