"""All experiments: importing this module registers them, in the order in which a report shows them."""

# ruff: noqa: I001, F401  # imported for what they register; their order is that of the report
from . import singular, absorbed, skip, plane, ablations, rotations, flat, digits
from .experiment import EXPERIMENTS as EXPERIMENTS, Lab as Lab, find_experiment as find_experiment
