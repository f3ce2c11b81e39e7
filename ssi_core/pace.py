"""Where the frames of a path lie, and how far their steps are from what is wanted: numbers only, no pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

Way = Callable[[float], float]
"""Share of a segment's length that is travelled -> where in the segment that is, both 0 to 1."""


def unbent(share: float) -> float:
    """The way of a segment that is travelled at constant speed."""
    return share


def shared_out(lengths: Sequence[float], steps: int) -> list[int]:
    """How many of the steps each segment gets: in proportion to its length, one at least.

    Args:
        lengths: of the segments, 0 or more each.
        steps: in all, no fewer than segments.
    """
    total = sum(lengths)
    wanted = [steps * (length / total if total > 0 else 1 / len(lengths)) for length in lengths]
    counts = [max(1, math.floor(n)) for n in wanted]
    while sum(counts) != steps:  # the largest remainder gets the next step, the most generously served gives one up
        missing = [n - count for n, count in zip(wanted, counts, strict=True)]
        if sum(counts) < steps:
            counts[int(np.argmax(missing))] += 1
        else:
            counts[min((i for i, c in enumerate(counts) if c > 1), key=missing.__getitem__)] -= 1
    return counts


def placed(counts: Sequence[int], ways: Sequence[Way], easing: Callable[[float], float], loop: bool) -> list[float]:
    """Positions of the frames, the ends of all segments among them.

    Args:
        counts: steps of each segment.
        ways: from share of its length to position, of each segment.
        easing: of the share.
        loop: the end of the last segment is the first frame again.
    """
    positions = [
        s + way(easing(i / count)) if i else float(s)
        for s, (way, count) in enumerate(zip(ways, counts, strict=True))
        for i in range(count)
    ]
    return positions if loop else [*positions, float(len(counts))]


def eased(counts: Sequence[int], easing: Callable[[float], float]) -> list[float]:
    """What the easing wants of each step of segments of so many, as a share of its segment's mean step."""
    return [count * (easing((i + 1) / count) - easing(i / count)) for count in counts for i in range(count)]


def evenness(steps: Sequence[float], wanted: Sequence[float]) -> float:
    """The largest step over the median one, each over what is wanted of it; 1 where nothing moves at all."""
    paces = [step / want for step, want in zip(steps, wanted, strict=True)]
    middle, largest = float(np.median(paces)), max(paces)
    return largest / middle if middle > 0 else math.inf if largest > 0 else 1.0
