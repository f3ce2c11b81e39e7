"""What benchmarks of the engine's own methods run on: models of several kinds, pictures in and off what they know."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssi_core import VE, Denoiser, Flow, Process, demo_denoiser, flow_sigmas, karras_sigmas
from ssi_core.demo.photos import held_out_photos
from ssi_core.demo.scenes import HELD_OUT, draw_scenes


@dataclass(frozen=True)
class Subject:
    """A model, with the schedule it is used with."""

    name: str
    denoise: Denoiser
    process: Process
    schedule: Callable[[int], Tensor]
    """Steps -> sigmas."""


def pictures(count: int) -> dict[str, Tensor]:
    """Held-out scenes, as the models were trained on, and crops of photographs, of which most know little."""
    return {"scenes": draw_scenes(range(HELD_OUT, HELD_OUT + count)), "photos": held_out_photos()[:count]}


class Gaussian:
    """The exact denoiser of the Gaussian with mean and covariance of drawn scenes: linear, and no network."""

    process, sigma_min, sigma_max = VE(), 0.002, 80.0

    def __init__(self, scenes: int = 6000) -> None:
        drawn = torch.cat([draw_scenes(range(i, i + 500)) for i in range(0, scenes, 500)]).flatten(1).double()
        self.mean = drawn.mean(0)
        values, axes = torch.linalg.eigh((drawn - self.mean).T @ (drawn - self.mean) / (scenes - 1))
        self.variances, self.axes = values.clamp_min(0).float(), axes.float()
        self.mean = self.mean.float()

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        along = (x.flatten(1) - self.mean) @ self.axes
        kept = self.variances / (self.variances + sigma[:, None].to(x) ** 2)
        return (self.mean + (along * kept) @ self.axes.T).reshape_as(x)


def _karras(steps: int) -> Tensor:
    return karras_sigmas(steps, sigma_min=0.002, sigma_max=80.0)


def _even(steps: int) -> Tensor:
    return flow_sigmas(steps, sigma_min=0.002)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "demo": lambda: Subject("demo", demo_denoiser(), VE(), _karras),
    "demo-classes": lambda: Subject("demo-classes", demo_denoiser(name="demo-classes").conditioned(0), VE(), _karras),
    "demo-flow": lambda: Subject("demo-flow", demo_denoiser(name="demo-flow"), Flow(), _even),
    "gaussian": lambda: Subject("gaussian", Gaussian(), VE(), _karras),
}
"""By the names that the command line and the tables of docs/beyond.md have; made when they are asked for."""


def subjects(names: list[str]) -> list[Subject]:
    """The models of these names of `SUBJECTS`."""
    return [SUBJECTS[name]() for name in names]


def add_models(parser: argparse.ArgumentParser) -> None:
    """`--models`, which takes names of `SUBJECTS`."""
    parser.add_argument("--models", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="default: all of them")
