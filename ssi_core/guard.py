"""What is checked before and around a denoiser: images, levels, the process that is meant, and every answer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .denoiser import Denoiser
from .errors import DenoiserError, InputError
from .process import VE, Flow, Process


class Guarded:
    """The denoiser as solvers see it: counted, given its own dtype, and never trusted."""

    def __init__(self, denoise: Denoiser, process: Process, steps: int) -> None:
        self.denoise, self.scale, self.steps = denoise, process.scale, steps
        self.dtype: torch.dtype | None = getattr(denoise, "dtype", None)
        self.step = self.nfe = 0
        self.denoised = torch.empty(0)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        # sigma stays in the state's precision: in half precision 0.002 and 80 would be rounded.
        # A copy each way: a model may work in place, or hand out the same buffer every time.
        given = x.to(self.dtype or x.dtype, copy=True)
        D = self.denoise(given, x.new_full((len(x),), sigma))
        self.nfe += 1
        where = f"at step {self.step + 1} of {self.steps}, sigma {sigma:g}"
        if not isinstance(D, Tensor) or D.shape != x.shape:
            found = f"shape {tuple(D.shape)}" if isinstance(D, Tensor) else type(D).__name__
            raise DenoiserError(f"the denoiser returned {found} for input of shape {tuple(x.shape)} {where}")
        if D.dtype not in (given.dtype, x.dtype):
            raise DenoiserError(
                f"the denoiser returned {D.dtype} for {given.dtype} {where}; give it a `dtype` attribute if it "
                f"computes in another precision"
            )
        finite = D.isfinite().flatten(1).all(1)
        if not bool(finite.all()):
            bad = (~finite).nonzero().flatten().tolist()
            raise DenoiserError(f"the denoiser returned NaN or Inf for sample(s) {bad} {where}")
        self.denoised = D.to(x.dtype, copy=True)
        return self.denoised


def check_images(x: Tensor, denoise: Denoiser, what: str) -> None:
    """Refuse what the denoiser cannot take: rank, empty batch, dtype, channels, size, NaN, Inf.

    Raises:
        InputError: naming `what`.
    """
    if not isinstance(x, Tensor) or x.ndim < 3:
        found = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"{what}: a tensor [batch, channels, ...] of rank 3 or more is wanted, found {found}")
    if x.numel() == 0:
        raise InputError(f"{what}: is empty (shape {tuple(x.shape)})")
    if x.dtype not in (torch.float32, torch.float64):
        raise InputError(f"{what}: has dtype {x.dtype}; convert it to float32 or float64 first")
    channels, size = getattr(denoise, "channels", None), getattr(denoise, "image_size", None)
    if channels is not None and x.shape[1] != channels:
        raise InputError(f"{what}: has {x.shape[1]} channels, the model takes {channels}")
    shown, multiple = "x".join(str(n) for n in x.shape[2:]), getattr(denoise, "size_multiple", None)
    if multiple is not None:
        if any(n % multiple for n in x.shape[2:]):
            raise InputError(f"{what}: is {shown}, the model takes multiples of {multiple}; cut it or resize it")
    elif size is not None and tuple(x.shape[2:]) != (size, size):
        raise InputError(f"{what}: is {shown}, the model takes {size}x{size}; `ssi_core.image.fit` resizes")
    finite = x.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        raise InputError(f"{what}: sample(s) {(~finite).nonzero().flatten().tolist()} hold NaN or Inf")


def process_of(denoise: Denoiser, given: Process | None = None) -> Process:
    """The process that is meant: the one given, else the denoiser's own, else VE."""
    process = given if given is not None else getattr(denoise, "process", None) or VE()
    if not isinstance(process, Process):
        raise InputError(f"process {process!r}: an instance is wanted, such as VE() or Flow()")
    return process


def check_range(levels: Tensor, skip: float, denoise: Denoiser, process: Process) -> None:
    """Refuse a schedule outside what process and model know (a millionth of slack for rounded ends)."""
    is_flow = getattr(denoise, "is_flow", None)
    if is_flow is not None and is_flow != isinstance(process, Flow):
        raise InputError(
            f"process {process.name!r}: {'a flow model needs Flow()' if is_flow else 'this is no flow model'}"
        )
    top, bottom = float(levels[0]), float(levels[-2])
    lowest, highest = 0.0, process.sigma_limit
    for side in (denoise, process):
        lowest = max(lowest, getattr(side, "sigma_min", None) or 0.0)
        highest = min(highest, getattr(side, "sigma_max", None) or math.inf)
    if top > highest * (1 + 1e-6):
        raise InputError(
            f"sigmas: begin at {top:g}, above the largest sigma this model and process know, {highest:g}; begin there"
        )
    if bottom < lowest * (1 - 1e-6):
        if skip == 0:
            raise InputError(f"sigmas: go down to {bottom:g}, under the model's smallest sigma, {lowest:g}")
        raise InputError(
            f"skip {skip:g}: lies under the model's smallest sigma, {lowest:g}; use more, or 0 for the base method"
        )
