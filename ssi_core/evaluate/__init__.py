"""The paper's tables and figures, on any model and pictures, by one command (`ssi evaluate`)."""

from .plan import Arm, Plan
from .presets import PRESETS, plan_of
from .results import Results
from .run import evaluate, load_results

__all__ = ["PRESETS", "Arm", "Plan", "Results", "evaluate", "load_results", "plan_of"]
