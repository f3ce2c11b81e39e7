"""Controlled inversion of rectified flows, to compare with: RF-Inversion (Rout et al. 2024, arXiv 2410.10792).

Both of its ODEs (Algorithms 1 and 2) pull the flow's own velocity v towards that of a straight line to a known end:
upward to one Gaussian noise drawn beforehand (strength gamma), downward to the image itself (strength eta):

    dx/dt = v + strength (v_line - v),    v_line = (end - x) / (t_end - t),    v = (x - D) / t

with t = 1 at the noise and 0 at the image. At strength 0 it is Euler's step of the flow, at 1 the straight line.

- Upward, any strength over 0 ends at the drawn noise itself as steps become small, whatever the image, because the pull
  grows as 1 / (1 - t). Of the flow's own answer a share is left that falls as N^-strength with N even steps.
- Downward control is told the image: what it gives back says nothing about the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from ..solver import Model, Solver, Walk, falling


def controlled(end: Tensor, strength: float, share: float = 1.0) -> Solver:
    """A solver for `invert` and `reconstruct` of a flow: Euler with the control. 1 evaluation a step.

    Args:
        end: unit noise to `invert` towards, or the image to `reconstruct` towards; of the state's shape.
        strength: gamma or eta, 0 (no control) to 1 (the straight line). The authors' defaults are 0.5 up, 0.9 down.
        share: of the steps, counted from the first, that are controlled (the authors': 7 of 28 on the way down).
    """

    def walk(denoise: Model, x: Tensor, sigmas: Sequence[float]) -> Walk:
        t_end = 0.0 if falling(sigmas) else 1.0
        for i, (a, b) in enumerate(pairwise(sigmas)):
            velocity = (x - denoise(x, a)) / a
            if i < share * (len(sigmas) - 1):
                line = (end - x) / (t_end - a)
                velocity = velocity + strength * (line - velocity)
            x = x + (b - a) * velocity
            yield x
        return None

    return walk
