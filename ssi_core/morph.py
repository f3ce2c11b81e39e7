"""Morphs: pictures along a path through keyframes, exact at the keyframes and at an even pace between them.

The keyframes' noises are blended segment by segment (SSI-DM Eq. 4), every blend is sampled. Two things are added to
that. What inversion lost of each keyframe is carried along the path, so that the keyframes themselves are the given
pictures and no jump is seen at them. And frames are placed by the distance that the pictures really travel, since equal
angles between noises are far from equal steps between pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .blend import BLENDS, blend
from .denoiser import Denoiser
from .errors import Cancelled, DenoiserError, InputError
from .frames import EASINGS
from .integration import Progress
from .inversion import Inversion, reconstruct
from .pace import Way, eased, evenness, placed, shared_out, unbent

PACES = ("even", "angle")
ROUNDS = 8
"""Times that frames are placed anew at most."""
EVEN_ENOUGH = 1.5
"""`Morph.evenness` at which placing stops. Beyond it is a cut that people see as one."""

Notice = Callable[[str, int, int], bool | None]
"""(what is done, frames done, frames to do); returning False (not None) cancels."""
Watch = Callable[[int, int, int], None]
"""(steps done, steps to do, evaluations so far) of frames that are sampled together; raises `Cancelled`."""
Sample = Callable[[Tensor, Tensor, Watch], Tensor]
"""(unit noise [B, C, ...], positions [B], watch) -> frames [B, C, ...]: the way back. It tells `watch` after steps, and
of all evaluations by the end."""


@dataclass(frozen=True, eq=False)
class Morph:
    """Frames and how they were come by."""

    frames: Tensor
    """[F, C, ...] float32 on the CPU, in the keyframes' range but for what overshoots."""
    positions: tuple[float, ...]
    """[F]: k is keyframe k, k + 1/2 the middle between k and the next; with `loop` the last keyframe leads to 0."""
    steps: tuple[float, ...]
    """Distance from each frame to the next (with `loop` also from the last to the first): RMS over the values."""
    eased: tuple[float, ...]
    """What the easing wants of each step, as a share of the mean step of its segment; 1 everywhere where linear."""
    nfe: int
    """Evaluations, each of one frame, frames that were only measured included."""
    lost: tuple[float, ...]
    """RMS of what the reconstruction lacks of each keyframe, which was carried; 0 where the picture was not given."""

    @property
    def evenness(self) -> float:
        """The largest step over the median one, each over what the easing wants of it: 1 where all are as wanted,
        infinite where most frames stand still.
        """
        return evenness(self.steps, self.eased)


def morph(
    denoise: Denoiser,
    keyframes: Sequence[Inversion],
    frames: int,
    *,
    originals: Sequence[Tensor | None] | None = None,
    easing: str = "linear",
    loop: bool = False,
    pace: str = "even",
    method: str = "slerp",
    batch: int = 16,
    conditioned: Callable[[Tensor], Denoiser] | None = None,
    notice: Notice | None = None,
) -> Morph:
    """Sample a path through two or more keyframes.

    Args:
        denoise: D(x, sigma), the one that inverted.
        keyframes: inversions of one picture each, all along one schedule with one solver.
        frames: in all, keyframes included; with `loop` the first is not repeated at the end.
        originals: the pictures [1, C, H, W] of the keyframes, None where one is not known. What the reconstruction
            lacks of a picture is added to its frame, and with a weight falling from 1 to 0 to those up to the next
            keyframe, so that keyframes are the pictures themselves.
        easing: of each segment, one of `frames.EASINGS`: in distance travelled ("even") or in angle ("angle").
        loop: lead from the last keyframe back to the first.
        pace: "even" places frames by the distance the pictures travel, which takes mostly two or three times the
            evaluations (at most nine); "angle" by the angle between noises.
        method: of `blend.BLENDS`.
        batch: frames sampled together.
        conditioned: positions [B] -> the denoiser of these frames, for prompts or classes that change along the path;
            default: `denoise` for all.
        notice: called after every step of sampling.

    Returns:
        A `Morph`; its first frame is keyframe 0, and every keyframe is among the frames.

    Raises:
        InputError: fewer than two keyframes, keyframes that are no `Inversion`, were inverted differently or hold
            several pictures; fewer frames than keyframes; originals of another shape, with NaN or Inf; an unknown
            easing, pace or method; `conditioned` gives no denoiser.
        DenoiserError, Cancelled: as `reconstruct`.
    """
    _check_alike(keyframes)

    def sample(noise: Tensor, positions: Tensor, watch: Watch) -> Tensor:
        def progress(now: Progress) -> None:
            watch(now.step, now.steps, now.nfe)

        model, one = denoise if conditioned is None else conditioned(positions), keyframes[0]
        if not callable(model):
            giver = "denoise: is" if conditioned is None else "conditioned: gave"
            raise InputError(f"{giver} {type(model).__name__}; a denoiser D(x, sigma) is wanted")
        return reconstruct(model, noise, one.sigmas, solver=one.solver, process=one.process, progress=progress)

    return morph_by(
        sample, [one.noise for one in keyframes], frames, originals=originals, easing=easing, loop=loop, pace=pace,
        method=method, batch=batch, notice=notice,
    )  # fmt: skip


def morph_by(
    sample: Sample,
    noises: Sequence[Tensor],
    frames: int,
    *,
    originals: Sequence[Tensor | None] | None = None,
    easing: str = "linear",
    loop: bool = False,
    pace: str = "even",
    method: str = "slerp",
    batch: int = 16,
    notice: Notice | None = None,
) -> Morph:
    """`morph` for whoever samples in a way of their own, as a host does.

    Args:
        sample: gives the frames of some noises; always the same one for a noise, whatever the frames beside it.
        noises: unit noise [1, C, ...] of each keyframe.
        frames, easing, loop, pace, method, batch, notice: as in `morph`.
        originals: as in `morph`, in the range of what `sample` gives.

    Raises:
        InputError: as `morph`.
        DenoiserError: frames that hold NaN or Inf.
        Cancelled: `notice` returned False.
    """
    check_path(len(noises), frames, easing=easing, pace=pace, method=method, batch=batch)
    _check_shapes(noises, originals)
    segments, steps = (len(noises), frames) if loop else (len(noises) - 1, frames - 1)
    album = _Album(sample, noises, originals, method, batch, notice)
    bend = EASINGS[easing]
    if pace == "angle":
        counts = shared_out([1.0] * segments, steps)
        positions = placed(counts, [unbent] * segments, bend, loop)
        album.take(positions, "sampling frames")
    else:
        angle = placed(shared_out([1.0] * segments, steps), [unbent] * segments, EASINGS["linear"], loop)
        album.take(angle, "sampling frames to be measured")
        for turn in range(1, ROUNDS + 1):
            lengths, ways = zip(*(album.travelled(s) for s in range(segments)), strict=True)
            counts = shared_out(lengths, steps)
            positions = placed(counts, ways, bend, loop)
            album.take(positions, f"pass {turn + 1}: sampling frames")
            if evenness(album.steps(positions, loop), eased(counts, bend)) <= EVEN_ENOUGH:
                break
    return Morph(
        album.at(positions), tuple(positions), tuple(album.steps(positions, loop)), tuple(eased(counts, bend)),
        album.nfe, album.lost,
    )  # fmt: skip


def frames_held(frames: int, pace: str) -> int:
    """Frames in memory at most: those of every pass, and the result."""
    return frames * (2 if pace == "angle" else ROUNDS + 2)


class _Album:
    """Every frame that was sampled, by its position; keyframes' residuals already on them."""

    def __init__(
        self,
        sample: Sample,
        noises: Sequence[Tensor],
        originals: Sequence[Tensor | None] | None,
        method: str,
        batch: int,
        notice: Notice | None,
    ) -> None:
        self.sample, self.noises, self.method, self.batch, self.notice = sample, noises, method, batch, notice
        self.frames: dict[float, Tensor] = {}
        self.nfe = 0
        self.residuals: list[Tensor] | None = None
        self.take([float(k) for k in range(len(noises))], "sampling keyframes")
        known = originals or [None] * len(noises)
        self.residuals = [
            torch.zeros_like(self.frames[k]) if given is None else given[0].detach().float().cpu() - self.frames[k]
            for k, given in enumerate(known)
        ]
        self.lost = tuple(float(residual.double().square().mean().sqrt()) for residual in self.residuals)
        self.frames = {k: frame + self.residuals[int(k)] for k, frame in self.frames.items()}

    def take(self, positions: Sequence[float], what: str) -> None:
        """Sample the frames that are not there yet."""
        wanted = [p for p in dict.fromkeys(map(self._wrapped, positions)) if p not in self.frames]
        for start in range(0, len(wanted), self.batch):
            some = wanted[start : start + self.batch]
            for position, frame in zip(some, self._sampled(some, what, start, len(wanted)), strict=True):
                self.frames[position] = self._carried(position, frame)

    def _sampled(self, positions: list[float], what: str, before: int, of: int) -> Tensor:
        count, spent = len(positions), self.nfe

        def watch(step: int, steps: int, nfe: int) -> None:
            self.nfe = spent + count * nfe
            done = before + count * step // steps
            if self.notice is not None and self.notice(what, done, of) is False:
                raise Cancelled(f"cancelled after {done} of {of} frames ({what})")

        noise = torch.cat([self._noise(p) for p in positions])
        found = self.sample(noise, torch.tensor(positions), watch)
        if not isinstance(found, Tensor) or found.shape[:1] != noise.shape[:1]:
            given = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise InputError(f"sample: gave {given} for noise of shape {tuple(noise.shape)}; a frame each is wanted")
        found = found.detach().float().cpu()
        bad = [f"{p:.3g}" for p, frame in zip(positions, found, strict=True) if not bool(frame.isfinite().all())]
        if bad:
            raise DenoiserError(f"frames: the model gave NaN or Inf at position(s) {', '.join(bad)} (0 is keyframe 0)")
        return found

    def at(self, positions: Sequence[float]) -> Tensor:
        return torch.stack(list(self._frames(positions)))

    def _frames(self, positions: Iterable[float]) -> Iterator[Tensor]:
        return (self.frames[self._wrapped(p)] for p in positions)

    def steps(self, positions: Sequence[float], loop: bool) -> list[float]:
        return _distances(self._frames([*positions, positions[0]] if loop else positions))

    def travelled(self, segment: int) -> tuple[float, Way]:
        """How far the pictures travel along a segment, by all frames on it, and the way from that to positions."""
        inside = sorted(p for p in self.frames if segment <= p <= segment + 1)
        knots = sorted({*inside, float(segment), float(segment + 1)})
        there = np.concatenate([[0.0], np.cumsum(_distances(self._frames(knots)))])
        if there[-1] == 0:
            return 0.0, unbent
        shares, places = there / there[-1], np.array(knots) - segment
        return float(there[-1]), lambda share: float(np.interp(share, shares, places))

    def _wrapped(self, position: float) -> float:
        """The end of a loop is its beginning."""
        return 0.0 if position == len(self.noises) else float(position)

    def _ends(self, position: float) -> tuple[int, int, float]:
        segment = int(position)
        return segment, (segment + 1) % len(self.noises), position - segment

    def _noise(self, position: float) -> Tensor:
        a, b, share = self._ends(position)
        return blend([self.noises[a], self.noises[b]], [1 - share, share], self.method)

    def _carried(self, position: float, frame: Tensor) -> Tensor:
        if self.residuals is None:
            return frame
        a, b, share = self._ends(position)
        return frame + (1 - share) * self.residuals[a] + share * self.residuals[b]


def _distances(frames: Iterable[Tensor]) -> list[float]:
    """Root mean square of the difference of each frame [C, ...] from the one before."""
    return [float((b.double() - a.double()).square().mean().sqrt()) for a, b in pairwise(frames)]


def check_path(
    count: int, frames: int, *, easing: str = "linear", pace: str = "even", method: str = "slerp", batch: int = 1
) -> None:
    """Refuse a path through `count` keyframes that cannot be; needs neither a model nor pictures. Raises as `morph`."""
    if count < 2:
        raise InputError(f"keyframes: {count} given; a morph needs two or more")
    for what, number in (("frames", frames), ("batch", batch)):
        if not isinstance(number, int | np.integer):
            raise InputError(f"{what} {number!r}: a whole number is wanted")
    if frames < count:
        raise InputError(f"frames {frames}: fewer than the {count} keyframes, each of which is one")
    for what, value, known in (("easing", easing, EASINGS), ("pace", pace, PACES), ("method", method, BLENDS)):
        if not isinstance(value, str) or value not in known:
            raise InputError(f"{what} {value!r}: unknown; known are {', '.join(known)}")
    if batch < 1:
        raise InputError(f"batch {batch}: must be 1 or more")


def _check_alike(keyframes: Sequence[Inversion]) -> None:
    if not isinstance(keyframes, Sequence):
        raise InputError(f"keyframes: a list of inversions is wanted, found {type(keyframes).__name__}")
    for i, one in enumerate(keyframes):
        if not isinstance(one, Inversion):
            raise InputError(
                f"keyframe {i}: an `Inversion` is wanted (what `invert` gives), found {type(one).__name__}; for noises "
                f"alone there is `morph_by`"
            )
        first = keyframes[0]
        if one.process != first.process or not torch.equal(one.sigmas, first.sigmas) or one.solver != first.solver:
            raise InputError(
                f"keyframe {i}: was inverted otherwise than keyframe 0 (process, schedule, skip or solver); invert all "
                f"alike"
            )


def _check_shapes(noises: Sequence[Tensor], originals: Sequence[Tensor | None] | None) -> None:
    first = noises[0]
    for i, one in enumerate(noises):
        _check_finite(f"keyframe {i}", one)
        if len(one) != 1:
            raise InputError(f"keyframe {i}: holds {len(one)} pictures; give each its own inversion")
        if one.shape != first.shape:
            raise InputError(f"keyframe {i}: noise of shape {tuple(one.shape)}, keyframe 0's is {tuple(first.shape)}")
    known = [None] * len(noises) if originals is None else originals
    if len(known) != len(noises):
        raise InputError(f"originals: {len(known)} for {len(noises)} keyframes; give one each, or None")
    for i, given in enumerate(known):
        if given is None:
            continue
        _check_finite(f"original {i}", given)
        if given.shape != first.shape:
            raise InputError(
                f"original {i}: shape {tuple(given.shape)}, its noise is of {tuple(first.shape)}; fit it first"
            )


def _check_finite(what: str, x: Tensor) -> None:
    if not isinstance(x, Tensor) or x.ndim < 2:
        found = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"{what}: a tensor [1, channels, ...] is wanted, found {found}")
    if not bool(x.isfinite().all()):
        raise InputError(f"{what}: holds NaN or Inf")
