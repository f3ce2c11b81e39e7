"""What the demo measures: one inversion there and back, summed up; and the claims that rest on several."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..gaussianity import FIGURES, Gaussianity, gaussianity
from ..injection import DEFAULT_INJECTION
from ..integration import Callback, Progress, integrate, unit_noise
from ..inversion import DEFAULT_SOLVER, Inversion, invert, reconstruct
from ..metrics import cosine, mse, psnr, ssim
from ..schedule import karras_sigmas
from ..singularity import knee
from ..skip import DEFAULT_SKIP
from .model import DemoDenoiser


@dataclass(frozen=True)
class Setting:
    """How to invert; sampling is done on the inversion's own grid with the same solver."""

    solver: str
    steps: int
    skip: float
    injection: str = DEFAULT_INJECTION

    def __str__(self) -> str:
        how = "" if self.injection == DEFAULT_INJECTION else f" {self.injection}"
        return f"{f'SSI {self.skip:g}{how}' if self.skip else 'base'}, {self.solver}, N={self.steps}"


@dataclass(frozen=True)
class Plan:
    """What the demo runs: how many images of each kind, and at how many steps each method is looked at."""

    count: int = 32
    few: int = 10
    some: int = 20
    middle: int = 40
    many: int = 80
    paper: int = 200
    """The paper's own number of steps; scenes only, for its cost."""

    @property
    def pairs(self) -> dict[str, tuple[Setting, Setting]]:
        """Role -> (base, SSI) with everything but the skip alike."""
        return {
            "few": (Setting("euler", self.few, 0.0), Setting("euler", self.few, 0.05)),
            "some": (Setting("euler", self.some, 0.0), Setting("euler", self.some, 0.05)),
            "middle": (Setting("euler", self.middle, 0.0), Setting("euler", self.middle, 0.1)),
            "many": (Setting("euler", self.many, 0.0), Setting("euler", self.many, 0.1)),
            "default": (
                Setting(DEFAULT_SOLVER, self.some, 0.0),
                Setting(DEFAULT_SOLVER, self.some, DEFAULT_SKIP),
            ),
        }

    @property
    def paper_way(self) -> Setting:
        return Setting("euler", self.paper, 0.1)

    @property
    def frugal(self) -> Setting:
        return Setting(DEFAULT_SOLVER, 12, DEFAULT_SKIP)

    def settings(self, scenes: bool) -> list[Setting]:
        return [s for pair in self.pairs.values() for s in pair] + [self.frugal] + [self.paper_way] * scenes


@dataclass(frozen=True, eq=False)
class RoundTrip:
    """Images, what they were inverted to, and what came back."""

    setting: Setting
    images: Tensor
    inversion: Inversion
    image: Tensor
    """The reconstruction, [B, 3, H, W]."""
    nfe: int
    """Evaluations there and back."""

    @cached_property
    def report(self) -> Gaussianity:
        return gaussianity(self.inversion.noise, self.images)

    @cached_property
    def mse(self) -> Tensor:
        return mse(self.image, self.images)

    def summary(self) -> dict[str, float]:
        """Means over the images, with medians where a few bad images could hide behind a mean."""
        figures = {name: float(getattr(self.report, name).mean()) for name in FIGURES}
        decibels = psnr(self.image, self.images)
        return {
            **figures,
            "gaussian_share": sum(self.report.verdicts) / len(self.images),
            "mse": float(self.mse.mean()),
            "mse_median": float(self.mse.median()),
            "psnr": float(decibels.mean()),
            "psnr_median": float(decibels.median()),
            "ssim": float(ssim(self.image, self.images).mean()),
            "nfe": self.nfe,
        }


@dataclass
class Laboratory:
    """Runs settings on one model, each only once."""

    denoise: DemoDenoiser
    progress: Callback | None = None
    _done: dict[tuple[str, Setting, int], RoundTrip] = field(default_factory=dict)

    def sigmas(self, steps: int) -> Tensor:
        return karras_sigmas(steps, sigma_min=self.denoise.sigma_min, sigma_max=self.denoise.sigma_max)

    def round_trip(self, name: str, images: Tensor, setting: Setting, seed: int = 0) -> RoundTrip:
        """Invert and reconstruct `images`, which `name` must identify."""
        key = (name, setting, seed)
        if key not in self._done:
            inversion = invert(
                self.denoise, images, self.sigmas(setting.steps), skip=setting.skip, solver=setting.solver,
                injection=setting.injection, seed=seed, progress=self.progress,
            )  # fmt: skip
            seen: list[Progress] = []

            def watch(now: Progress) -> bool | None:
                seen[:] = [now]
                return self.progress(now) if self.progress else None

            back = reconstruct(self.denoise, inversion.noise, inversion.sigmas, solver=setting.solver, progress=watch)
            self._done[key] = RoundTrip(setting, images, inversion, back, inversion.nfe + seen[-1].nfe)
        return self._done[key]

    def damage(self, trip: RoundTrip, share: float = 0.05) -> Tensor:
        """MSE [B] to the images after `share` of fresh unit noise (the same for all methods) went into the latent."""
        fresh = unit_noise(trip.images, range(10_000, 10_000 + len(trip.images)))
        disturbed = reconstruct(
            self.denoise, trip.inversion.noise + share * fresh, trip.inversion.sigmas, solver=trip.setting.solver,
            progress=self.progress,
        )  # fmt: skip
        return mse(disturbed, trip.images)

    def seed_cosine(self, name: str, images: Tensor, setting: Setting) -> Tensor:
        """Cosine [B] between the noises that two seeds give of one image."""
        one, two = (self.round_trip(name, images, setting, seed) for seed in (0, 5000))
        return cosine(one.inversion.noise, two.inversion.noise)

    def singularity_curve(self, count: int = 32, steps: int = 64) -> tuple[Tensor, Tensor, float]:
        """|D(x, sigma) - x| / (sigma sqrt(d)) along sampling trajectories (SSI-DM Fig. 4 and 14), and its `knee`.

        Returns:
            (sigmas [steps], mean curve [steps], knee).
        """
        shape = torch.empty(count, self.denoise.channels, self.denoise.image_size, self.denoise.image_size)
        noise = unit_noise(shape, range(20_000, 20_000 + count)).to(self.denoise.device)
        grid = self.sigmas(steps)
        curve: list[float] = []

        def watch(now: Progress) -> bool | None:
            # `denoised` was estimated where the step began, so the state there is needed, not the one reached.
            step = (now.denoised - before[0]).flatten(1).norm(dim=1)
            curve.append(float(step.mean()) / (float(grid[now.step - 1]) * math.sqrt(now.x[0].numel())))
            before[0] = now.x
            return self.progress(now) if self.progress else None

        before = [noise * float(grid[0])]
        integrate(self.denoise, before[0], grid.tolist(), "dpmpp-2m", progress=watch)
        levels, values = grid[:-1], torch.tensor(curve, dtype=torch.float64)
        return levels, values, knee(levels, values)


def share_better(ours: RoundTrip, theirs: RoundTrip) -> float:
    """On what share of the images `ours` has the smaller MSE."""
    return float((ours.mse < theirs.mse).double().mean())
