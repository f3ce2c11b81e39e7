"""Where a network stops following the score's singularity: |x - D| / sigma and the direction of the predicted noise.

Near data of low dimension the score grows like 1/sigma, so that (x - D)/sigma stays of the size of unit noise down to
sigma = 0 (Lu, Wang, Bal 2023, Theorem 3.5; SSI-DM Theorems 3 and 5). A network of bounded slope follows that only so
far: below some sigma its D(x, sigma) is x itself, the predicted noise shrinks and no longer points where the noise is.
That is where an inversion must not begin, and what a skip leaves out.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Denoiser
from .errors import Cancelled
from .guard import Guarded, check_images, check_range, process_of
from .integration import Callback, Progress, seeds_for, unit_noise
from .precision import float64
from .process import Process
from .schedule import given_sigmas

KNEE_SLOPE = 0.06
"""Slope of ln(curve) against ln(sigma) that counts as falling."""
KNEE_BELOW = 0.5
"""Knees are looked for under this (VE) sigma; above it the curve bends with the data's own scale."""
END = 4.0
"""Over which factor of the smallest sigmas a curve must still fall, for its fall not to be the data's own scale."""
NOWHERE = 0.2
"""Cosine under which the prediction at the smallest level is no part of the noise at all."""
ALIGNED = 0.9
"""Cosine of predicted with injected noise under which the prediction is no longer taken for the noise."""


@dataclass(frozen=True, eq=False)
class SingularityCurve:
    """What a denoiser makes of images, level by level; K levels, B images. Everything float64 on the CPU."""

    sigmas: Tensor
    """[K], falling, the schedule's own (flow sigmas for a flow process)."""
    noised: Tensor
    """|x - D| / (sigma sqrt(d)) at x = x0 + sigma n, [K, B]: near 1 while D tells the noise from the image."""
    clean: Tensor
    """The same at x = x0 (as if it lay at sigma), [K, B]: the slope that an inversion without a skip starts on."""
    alignment: Tensor
    """Cosine of the noise predicted at x0 + sigma n with n, [K, B]: 1 where it is the noise."""
    alignment_clean: Tensor
    """The same cosine for the noise predicted at x0, which has seen no n: what chance gives, [K, B]."""
    knee: Tensor
    """[B], the smallest level above those at which `noised` falls with sigma (`knee`); 0 where it never does."""
    unaligned: Tensor
    """[B], the smallest level above those at which `alignment` lies under `ALIGNED` for good; 0 where it never does."""
    nfe: int
    """Evaluations of the denoiser, each over the whole batch: two a level."""

    @property
    def stops(self) -> Tensor:
        """[B]: the network follows the noise from this level up, and not below; 0: it follows at every level."""
        return torch.maximum(self.knee, self.unaligned)

    @property
    def reasons(self) -> tuple[str, ...]:
        """One sentence an image: where and why the network stops following."""
        return tuple(map(_reason, self.knee.tolist(), self.unaligned.tolist()))

    def rows(self) -> Iterator[dict[str, float]]:
        """One row for each image and level, as for a CSV file."""
        for b in range(self.noised.shape[1]):
            for k, sigma in enumerate(self.sigmas.tolist()):
                yield {
                    "image": b, "sigma": sigma, "noised": float(self.noised[k, b]), "clean": float(self.clean[k, b]),
                    "alignment": float(self.alignment[k, b]), "alignment_clean": float(self.alignment_clean[k, b]),
                    "follows": float(sigma >= float(self.stops[b])),
                }  # fmt: skip

    def csv(self) -> str:
        """`rows` as CSV text with a header."""
        text = io.StringIO()
        writer = csv.DictWriter(text, next(self.rows()).keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in self.rows())
        return text.getvalue()


def singularity_curve(
    denoise: Denoiser,
    x0: Tensor,
    sigmas: Tensor | Sequence[float],
    *,
    seed: int | Sequence[int] = 0,
    process: Process | None = None,
    progress: Callback | None = None,
) -> SingularityCurve:
    """Follow |x - D| / sigma, and the direction of the predicted noise, over the levels of a schedule.

    Args:
        denoise: D(x, sigma), see `ssi_core.denoiser`.
        x0: images or latents [B, C, ...] of rank >= 3, in the model's range, float32 or float64.
        sigmas: a schedule; its positive levels are looked at, each by itself.
        seed: of the injected noise, which is the same at every level; as in `invert`.
        process: VE(), VP(), DiscreteVP() or Flow(); default: the denoiser's own, else VE. For flows the predicted noise
            (x - (1 - sigma) D) / sigma stands for (x - D) / sigma, so that 1 means the same.
        progress: called after every level, with the noised image and D of it; returning False cancels.

    Returns:
        A `SingularityCurve`.

    Raises:
        InputError, DenoiserError, Cancelled: as `invert`.
    """
    check_images(x0, denoise, "x0")
    process = process_of(denoise, process)
    grid = given_sigmas(sigmas)
    check_range(grid, 0.0, denoise, process)
    levels = grid[:-1]
    noise = unit_noise(x0, seeds_for(seed, len(x0)))
    guarded = Guarded(denoise, process, steps=len(levels))
    found: dict[str, list[Tensor]] = {"noised": [], "clean": [], "alignment": [], "alignment_clean": []}
    with torch.no_grad():
        for k, sigma in enumerate(levels.tolist()):
            guarded.step = k
            for size, cosine, n in (("clean", "alignment_clean", 0 * noise), ("noised", "alignment", noise)):
                x = process.inject(x0, n, sigma)
                denoised = guarded(x, sigma)
                predicted = float64(process.predicted_noise(x, denoised, sigma)).flatten(1).cpu()
                found[size].append(predicted.norm(dim=1) / math.sqrt(predicted.shape[1]))
                found[cosine].append(torch.cosine_similarity(predicted, float64(noise).flatten(1).cpu(), eps=1e-300))
            if progress is not None:
                now = Progress(k + 1, len(levels), sigma, guarded.nfe, x, denoised)
                if progress(now) is False:
                    raise Cancelled(f"cancelled after level {now.step} of {now.steps}, at sigma {sigma:g}")
    measured = {name: torch.stack(values) for name, values in found.items()}
    ve = torch.stack([process.ratio(sigma) for sigma in levels.tolist()])
    knees = torch.tensor([knee(ve, column, levels) for column in measured["noised"].T], dtype=torch.float64)
    lost = torch.tensor([_lost(ve, column, levels) for column in measured["alignment"].T], dtype=torch.float64)
    knees, lost = _one_up(levels, knees), _one_up(levels, lost)
    return SingularityCurve(sigmas=levels, **measured, knee=knees, unaligned=lost, nfe=guarded.nfe)


def knee(sigmas: Tensor, curve: Tensor, named: Tensor | None = None) -> float:
    """The sigma under which a curve |D - x| / (sigma sqrt(d)) falls with sigma.

    On data of low dimension the exact curve goes to a constant as sigma falls. A network follows until it no longer
    resolves the singularity; from there on its curve falls with sigma. The knee is where that fall sets in: the largest
    sigma under `KNEE_BELOW` at which the slope of ln(curve) against ln(sigma) exceeds `KNEE_SLOPE`. (A curve
    P / sqrt(1 + (k / sigma)^2) has that slope where it reaches 97% of its plateau P.) A curve that has settled at the
    smallest levels was only bent by the data's own scale, and has no knee.

    Args:
        sigmas: [K], falling, positive, in the VE sense.
        curve: [K], positive.
        named: [K], what the levels are called in the answer; default: `sigmas`.

    Returns:
        The knee; 0.0 where the curve never falls.
    """
    if not _falls_at_the_end(sigmas, curve):
        return 0.0
    slope = curve.clamp_min(1e-300).log().diff() / sigmas.log().diff()
    falling = (slope > KNEE_SLOPE) & (sigmas[1:] < KNEE_BELOW)
    levels = (sigmas if named is None else named)[1:]
    return float(levels[falling].max()) if bool(falling.any()) else 0.0


def _lost(sigmas: Tensor, alignment: Tensor, named: Tensor) -> float:
    """The sigma from which down the alignment lies under `ALIGNED` for good; 0.0 where it settles.

    An exact D is aligned with the whole noise far above the data's scale, and with its part across the data far below,
    where the cosine settles at sqrt(codimension / dimension): that is no failure, nor is a dip between the two.
    """
    low = (alignment < ALIGNED).flip(0).cummin(0).values.flip(0)  # it, and all at smaller levels
    settled = float(alignment[-1]) > NOWHERE and not _falls_at_the_end(sigmas, alignment)
    return float(named[low].max()) if bool(low.any()) and not settled else 0.0


def _one_up(levels: Tensor, failing: Tensor) -> Tensor:
    """The next level above the largest that fails: with few levels the safe side of what lies between the two."""
    at = torch.searchsorted(levels.flip(0).contiguous(), failing.contiguous())
    return torch.where(failing > 0, levels.flip(0)[(at + 1).clamp(max=len(levels) - 1)], failing)


def _falls_at_the_end(sigmas: Tensor, curve: Tensor) -> bool:
    """Whether a curve still falls with sigma over the smallest levels: a factor of `END` of them, two at least."""
    first = min(int((sigmas > END * sigmas[-1]).sum()), len(sigmas) - 2)
    if first < 0:
        return False
    fall = curve[[first, -1]].clamp_min(1e-300).log().diff() / sigmas[[first, -1]].log().diff()
    return float(fall) > KNEE_SLOPE


def _reason(knee: float, unaligned: float) -> str:
    if knee == unaligned == 0:
        return "the network follows the noise at every level that was looked at"
    if knee >= unaligned:
        return f"under sigma {knee:.3g} the predicted noise shrinks: the network no longer resolves the singularity"
    return (
        f"under sigma {unaligned:.3g} the predicted noise points elsewhere (cosine under {ALIGNED:g} with what was "
        f"injected): the network takes the image itself for noise, or noise for the image"
    )
