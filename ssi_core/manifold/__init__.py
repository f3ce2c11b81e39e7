"""Data on manifolds with exact answers: distributions, training targets, samplers (Lu et al. 2023, Liu et al. 2025).

>>> from ssi_core.manifold import Exact, distribution
>>> denoise = Exact(distribution("eight-points"))  # an ordinary denoiser: invert, solvers and reports take it
"""

from .curve import Curve, Spiral
from .directional import RotationModes, RotationTori, SphereModes
from .distribution import Distribution
from .measures import Slices, sliced_wasserstein
from .mixtures import Mixture, circle_of_points, gaussian_line, hyperplane, random_points
from .named import DISTRIBUTIONS, distribution
from .objectives import (
    CEM_WEIGHTS,
    Conditional,
    Eps,
    Iso,
    Niso,
    Objective,
    Score,
    Tango,
    inverse_covariance,
)
from .points import Exact, clouds, rows
from .samplers import annealed_langevin, reverse_sde
from .surfaces import Plane, Rotations, Sphere, Surface
from .times import SCHEDULES, times
from .train import MLP, Trained, clock, corrupted, log_uniform, on_times, train

__all__ = [
    "CEM_WEIGHTS", "DISTRIBUTIONS", "MLP", "SCHEDULES", "Conditional", "Curve", "Distribution", "Eps",
    "Exact", "Iso", "Mixture", "Niso", "Objective", "Plane", "RotationModes", "RotationTori", "Rotations", "Score",
    "Slices", "Sphere", "SphereModes", "Spiral", "Surface", "Tango", "Trained", "annealed_langevin", "circle_of_points",
    "clock", "clouds", "corrupted", "distribution", "gaussian_line", "hyperplane", "inverse_covariance",
    "log_uniform", "on_times", "random_points", "reverse_sde", "rows", "sliced_wasserstein", "times", "train",
]  # fmt: skip
