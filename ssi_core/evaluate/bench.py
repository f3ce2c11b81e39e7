"""What every kind of experiment works with: a unit of work, the bench it is done on, and what a kind must offer.

A unit is always computed whole and in the same composition, so that its rows are the same bits whichever process
computes it, and however often. Where the model fails on a separable unit, every picture of it is computed alone, so
that only those that it fails on are lost; that too is the same whoever does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ..guard import process_of
from ..image import save_image
from ..integration import Callback, Progress
from ..inversion import Inversion, invert, reconstruct
from ..process import Process
from ..report.tables import Table
from .exact import memory
from .images import Picture, read_picture
from .metrics import METRICS, Trip
from .plan import Arm, Plan
from .preset import Preset
from .results import Results
from .store import Value

Rows = list[dict[str, Value]]


@dataclass(frozen=True)
class Unit:
    """What is computed at once: some pictures (or samples) of one arm."""

    arm: Arm
    pictures: tuple[Picture, ...]
    keys: tuple[tuple[str, str, str], ...]
    """The rows it gives."""
    shown: frozenset[int] = frozenset()
    """Indices of the pictures whose results are kept as pictures."""
    separable: bool = False
    """Whether its rows have nothing to do with one another, and `pictures` is empty or has one for each row."""

    def alone(self) -> list[Unit]:
        """One unit for each row."""
        pictures: list[tuple[Picture, ...]] = [(one,) for one in self.pictures] or [()] * len(self.keys)
        return [replace(self, pictures=p, keys=(k,)) for p, k in zip(pictures, self.keys, strict=True)]


@dataclass
class Bench:
    """A model, a plan, and where pictures of results go."""

    denoise: Any
    plan: Plan
    folder: Path
    progress: Callback | None = None
    nfe: int = 0
    """Evaluations spent in this process, each over a whole batch."""
    _schedules: dict[str, Tensor] = field(default_factory=dict)

    @property
    def process(self) -> Process:
        return process_of(self.denoise)

    def sigmas(self, arm: Arm) -> Tensor:
        if arm.name not in self._schedules:
            model = self.denoise
            self._schedules[arm.name] = arm.sigmas(model.sigma_min, model.sigma_max, self.process)[0]
        return self._schedules[arm.name]

    def read(self, pictures: Sequence[Picture]) -> Tensor:
        size = int(self.denoise.image_size)
        images = [read_picture(self.plan.folder_of(reference=False), picture, size) for picture in pictures]
        return torch.cat(images).to(self.denoise.device)

    def model(self, arm: Arm) -> Any:
        """The denoiser that an arm names, in its precision."""
        denoise = memory(int(self.denoise.image_size)) if arm.target == "memory" else self.denoise
        return denoise if arm.precision == "float32" else Lower(denoise, getattr(torch, arm.precision))

    def up(self, arm: Arm, images: Tensor, seeds: Sequence[int]) -> Inversion:
        """Pictures to noise.

        Raises:
            DenoiserError, InputError: as `invert`.
        """
        found = invert(
            self.model(arm), images, self.sigmas(arm), skip=arm.skip, solver=arm.solver, seed=list(seeds),
            process=self.process, progress=self.progress,
        )  # fmt: skip
        self.nfe += found.nfe
        return found

    def way_back(self, arm: Arm, found: Inversion) -> Tensor:
        """The levels over which an inversion's noise is sampled."""
        return self.sigmas(arm) if arm.way_back == "full" else found.sigmas

    def down(self, arm: Arm, noise: Tensor, sigmas: Tensor) -> tuple[Tensor, int]:
        """Noise to pictures, over given levels (`way_back`); and the evaluations that it took.

        Raises:
            DenoiserError, InputError: as `reconstruct`.
        """
        nfe = 0

        def watch(now: Progress) -> bool | None:
            nonlocal nfe
            nfe = now.nfe
            return self.progress(now) if self.progress else None

        back = reconstruct(self.model(arm), noise, sigmas, solver=arm.solver, process=self.process, progress=watch)
        self.nfe += nfe
        return back, nfe

    def round_trip(self, arm: Arm, images: Tensor, seeds: Sequence[int]) -> Trip:
        """There and back; raises as `up` and `down`."""
        found = self.up(arm, images, seeds)
        back, nfe = self.down(arm, found.noise, self.way_back(arm, found))
        return Trip(images.cpu(), found.noise.cpu(), back.cpu(), found.nfe + nfe)

    def keep(self, arm: Arm, name: str, picture: Tensor) -> None:
        """Save a picture [1, C, H, W] in [-1, 1] of a result, for sheets."""
        folder = self.folder / "pictures" / arm.name
        folder.mkdir(parents=True, exist_ok=True)
        save_image(picture, folder / f"{name}.png")


@contextmanager
def whole_float32() -> Iterator[None]:
    """float32 that is float32: by default torch rounds what convolutions on newer GPUs are given to TF32's 10 bits."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


class Lower:
    """A denoiser in half precision: what it is given, its network (by autocast) and what it estimates."""

    def __init__(self, denoise: Any, dtype: torch.dtype) -> None:
        self._denoise, self._dtype = denoise, dtype

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoise, name)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=self._dtype):
            found: Tensor = self._denoise(x.to(self._dtype).to(x.dtype), sigma)
        return found.to(self._dtype).to(x.dtype)


class Study(Protocol):
    """A kind of experiment."""

    needs_pictures: bool
    about: ClassVar[Mapping[str, str]]
    """What columns of its tables mean that are no metric."""

    def columns(self, plan: Plan) -> list[str]:
        """Of its rows, beside those that all rows have."""

    def units(self, plan: Plan, pictures: Sequence[Picture]) -> Iterator[Unit]:
        """All work, in a fixed order.

        Raises:
            InputError: there are too few pictures for it.
        """

    def run(self, bench: Bench, unit: Unit) -> Iterator[Rows]:
        """Compute a unit; yields its rows in the order of its keys, as many at once as are known.

        Raises:
            DenoiserError: the model failed on it; before any row is yielded.
        """

    def tables(self, results: Results, preset: Preset) -> list[Table]:
        """The summary, of all rows."""


def measured(plan: Plan, trip: Trip) -> Rows:
    """Every metric of every picture of a trip.

    Of all of them at once: one by one takes four times as long, half of what an evaluation costs beside the network.
    Its last bits depend on the trip's composition, then; so do those of the network itself, and a unit has but one.
    """
    found = {name: METRICS[name].of(trip).tolist() for name in plan.metrics}
    return [{name: values[i] for name, values in found.items()} for i in range(len(trip.images))]


def keep_trip(bench: Bench, arm: Arm, picture: Picture, trip: Trip, i: int, repeat: int = 0) -> None:
    stem = f"{picture.index:05d}" + (f"-{repeat}" if repeat else "")
    bench.keep(arm, f"{stem}.image", trip.images[i : i + 1])
    bench.keep(arm, f"{stem}.noise", trip.noise[i : i + 1] / 3)
    bench.keep(arm, f"{stem}.back", trip.back[i : i + 1])
