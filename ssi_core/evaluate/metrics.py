"""What is measured on a round trip. A new metric is one entry of `METRICS`.

Those that need a network or other trained weights come from kept libraries (the `eval` extra) or not at all: where
something is missing, the metric says what and how to get it, and nothing stands in for it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..gaussianity import FIGURES, Gaussianity, gaussianity
from ..metrics import ALEXNET, SSIM_WINDOW, lpips, mse, psnr, ssim
from ..precision import float64

BRISQUE = "brisque_svm_weights.pt"
_BRISQUE_AT = f"https://github.com/photosynthesis-team/piq/releases/download/v0.4.0/{BRISQUE}"
_ALEXNET_AT = f"https://download.pytorch.org/models/{ALEXNET}"


@dataclass(frozen=True, eq=False)
class Trip:
    """Pictures, the noise they were inverted to, and what came back: [B, C, H, W] on the CPU."""

    images: Tensor
    noise: Tensor
    back: Tensor
    nfe: int
    """Evaluations there and back, each over the whole batch."""

    @cached_property
    def report(self) -> Gaussianity:
        return gaussianity(self.noise, self.images)


@dataclass(frozen=True)
class Metric:
    """One number a picture."""

    about: str
    of: Callable[[Trip], Tensor]
    """[B]; float64."""
    missing: Callable[[int], str] = lambda size: ""
    """Given the pictures' height and width: what it lacks here and how to get it; "" where it can be computed."""
    extra: bool = False
    """Whether it takes a library of the `eval` extra, and so is only measured where a summary shows it."""


def _figure(name: str) -> Metric:
    return Metric(FIGURES[name].about, lambda trip: getattr(trip.report, name))


def _brisque(trip: Trip) -> Tensor:
    import piq

    each = [piq.brisque((one.float().clamp(-1, 1) + 1) / 2, data_range=1.0) for one in trip.back.split(1)]
    return float64(torch.stack([value.reshape(()) for value in each]))


def needs(package: str, weights: str, address: str) -> Callable[[int], str]:
    """A `Metric.missing` for what a kept library computes with weights that torch.hub keeps."""

    def missing(size: int) -> str:
        if importlib.util.find_spec(package) is None:
            return f"package missing: pip install '{package}' (the `eval` extra), then download its weights, {address}"
        path = Path(torch.hub.get_dir()) / "checkpoints" / weights
        return "" if path.is_file() else f"weights missing: download {address} to {path}"

    return missing


def _too_small(size: int) -> str:
    return "" if size >= SSIM_WINDOW else f"pictures of {size} pixels are smaller than SSIM's window of {SSIM_WINDOW}"


METRICS: dict[str, Metric] = {
    **{name: _figure(name) for name in FIGURES},
    "gaussian": Metric("share of noises that pass every figure", lambda trip: float64(trip.report.verdicts)),
    "mse": Metric("mean squared error, pictures in [-1, 1]", lambda trip: mse(trip.back, trip.images)),
    "psnr": Metric("peak signal-to-noise ratio, dB", lambda trip: psnr(trip.back, trip.images)),
    "ssim": Metric("structural similarity", lambda trip: ssim(trip.back, trip.images), _too_small),
    "lpips": Metric("LPIPS (AlexNet)", lambda trip: lpips(trip.back, trip.images),
                    needs("lpips", ALEXNET, _ALEXNET_AT), extra=True),
    "brisque": Metric("BRISQUE of the reconstruction", _brisque, needs("piq", BRISQUE, _BRISQUE_AT), extra=True),
}  # fmt: skip
