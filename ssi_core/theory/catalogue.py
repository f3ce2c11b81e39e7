"""All experiments: importing this module registers them, in the order in which a report shows them."""

# ruff: noqa: I001  # their order is that of the report
from . import singular, absorbed, plane, skip
from .experiment import EXPERIMENTS, Experiment, Lab, Outcome, find_experiment

__all__ = ["EXPERIMENTS", "Experiment", "Lab", "Outcome", "absorbed", "find_experiment", "plane", "singular", "skip"]
