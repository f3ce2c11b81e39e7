"""Inversion and reconstruction: the one loop that serves both, and what comes out of it.

`invert` adds noise up to sigma_skip once (SSI-DM, step 1) and integrates the probability-flow ODE up to sigma_max
(step 2); `reconstruct` integrates back down.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .artifact import load_tensors, save_tensors
from .denoiser import Denoiser
from .errors import InputError
from .goal import Goal, number
from .guard import Guarded, check_images, check_range, process_of
from .injection import DEFAULT_INJECTION, Injection, find_injection
from .integration import Callback, Told, integrate, seeds_for, unit_noise
from .process import Process, process_from
from .schedule import Grid, given_sigmas, truncate
from .skip import DEFAULT_SKIP, Choice, choose_skip, resolved
from .solver import Solver, find_solver
from .version import __version__

DEFAULT_SOLVER = "dpmpp-2m"


@dataclass(frozen=True, eq=False)
class Inversion:
    """Noise that the sampler turns back into the image, and all that is needed to do so."""

    noise: Tensor
    """Unit Gaussian noise of the image's shape, [B, ...]."""
    sigmas: Tensor
    """The way back on the same grid: float64, descending, [sigma_max .. sigma_skip, 0]."""
    nfe: int
    """Evaluations of the denoiser that the inversion took, each over the whole batch."""
    process: Process
    solver: str
    skip: float
    """sigma_skip; 0 is the base method."""
    seeds: tuple[int, ...]
    """One a sample; of the injected noise."""
    states: Tensor | None = None
    """[steps + 1, B, ...] on the CPU, rising sigma, when asked for."""
    residual: Tensor | None = None
    """[B], for `exact` and `fixed-point`: the largest relative residual of any step."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Versions, model signature, grid, injection, options, what the skip was chosen for (None: given) and how many of
    the evaluations that took, SHA-256 of each source image."""
    choice: Choice | None = None
    """How `skip` was chosen, where it was; not written to files."""

    @property
    def injection(self) -> Injection:
        """How noise was put in, made again from the provenance, so that another image can be inverted alike.

        Raises:
            InputError: by a function that is not registered under that name.
        """
        # Files from before there were any say nothing of it.
        inject = find_injection(str(self.provenance.get("injection", DEFAULT_INJECTION))).inject
        options = self.provenance.get("injection_options")
        return partial(inject, **options) if options else inject

    def sample(self, i: int) -> Inversion:
        """Sample i of a batch, as the inversion it would have been alone.

        Raises:
            InputError: there is no such sample.
        """
        if not isinstance(i, int) or not 0 <= i < len(self.noise):
            raise InputError(f"sample {i!r}: not one of the {len(self.noise)}, counted from 0")
        hashes = list(self.provenance.get("images_sha256", []))[i : i + 1]
        return replace(
            self, noise=self.noise[i : i + 1], seeds=self.seeds[i : i + 1],
            states=None if self.states is None else self.states[:, i : i + 1],
            residual=None if self.residual is None else self.residual[i : i + 1],
            provenance={**self.provenance, "images_sha256": hashes},
            choice=None if self.choice is None else self.choice.sample(i),
        )  # fmt: skip

    def to(self, device: str | torch.device) -> Inversion:
        """The same with its noise on another device."""
        return replace(self, noise=self.noise.to(device))

    def save(self, path: str | Path) -> None:
        """Write everything to one .safetensors file, bit for bit and atomically."""
        tensors = {"noise": self.noise, "sigmas": self.sigmas, "states": self.states, "residual": self.residual}
        facts = {
            "nfe": self.nfe, "process": self.process.facts(), "solver": self.solver, "skip": self.skip,
            "seeds": list(self.seeds), "provenance": dict(self.provenance),
        }  # fmt: skip
        save_tensors(path, "inversion", {name: t for name, t in tensors.items() if t is not None}, facts)

    @staticmethod
    def load(path: str | Path) -> Inversion:
        """Read what `save` wrote, onto the CPU.

        Raises:
            InputError: the file is missing, truncated, foreign, or lacks a part.
        """
        tensors, facts = load_tensors(path, "inversion")
        try:
            found = Inversion(
                noise=tensors["noise"], sigmas=tensors["sigmas"], nfe=int(facts["nfe"]),
                process=process_from(facts["process"]), solver=str(facts["solver"]), skip=float(facts["skip"]),
                seeds=tuple(facts["seeds"]), states=tensors.get("states"), residual=tensors.get("residual"),
                provenance=dict(facts["provenance"]),
            )  # fmt: skip
            given_sigmas(found.sigmas)
            if found.noise.ndim < 3 or len(found.noise) != len(found.seeds):
                raise ValueError(f"noise of shape {tuple(found.noise.shape)} with {len(found.seeds)} seeds")
        except KeyError as error:
            raise InputError(f"artefact {path}: lacks {error}") from None
        except (ValueError, TypeError) as error:
            raise InputError(f"artefact {path}: its contents do not fit together ({error})") from error
        return found


def invert(
    denoise: Denoiser,
    x0: Tensor,
    sigmas: Tensor | Sequence[float],
    *,
    skip: float | str | Goal = DEFAULT_SKIP,
    solver: str | Solver = DEFAULT_SOLVER,
    injection: str | Injection = DEFAULT_INJECTION,
    seed: int | Sequence[int] = 0,
    process: Process | None = None,
    grid: Grid = "keep",
    keep_states: bool = False,
    progress: Callback | None = None,
) -> Inversion:
    """Turn images into Gaussian noise by singularity skipping inversion (Min et al. 2026, Algorithms 1 and 2).

    Args:
        denoise: D(x, sigma), see `ssi_core.denoiser`.
        x0: images or latents [B, C, ...] of rank >= 3, in the model's range (pixel models: [-1, 1]), float32 or
            float64; the state is kept in this dtype.
        sigmas: a schedule (`ssi_core.schedule`), in flow sigmas for a flow process.
        skip: sigma_skip, in the schedule's sigmas. 0 is the base method: no noise, x0 taken to lie at the
            schedule's smallest positive sigma (`ddim-target`, `fixed-point` and `exact` truly start at 0). A
            `Goal`, or its name ("auto", "psnr=40", "leftover=0.1"), chooses one for these images (`ssi_core.skip`)
            with at most 8 evaluations more, and the injection's for each level looked at; `Inversion.choice` has the
            forecast.
        solver: a registered name (`ssi_core.solver.SOLVERS`) or a function of the same signature.
        injection: how noise is put in at sigma_skip, a registered name (`ssi_core.injection.INJECTIONS`) or a function
            of the same signature.
        seed: of the injected noise. An integer gives sample i the seed `seed + i`, so that a batch equals single runs
            with those seeds; a sequence gives one seed a sample. Drawn on the CPU, so every device gives the same.
        process: VE(), VP(), DiscreteVP() or Flow(); default: the denoiser's own `process`, else VE().
        grid: "keep" the schedule's levels above skip, or "spread" as many again over what is left (`truncate`).
        keep_states: also return every intermediate state.
        progress: called after every step, and after every evaluation that chooses a skip or puts noise in; may cancel.

    Returns:
        An `Inversion`.

    Raises:
        InputError: unusable image, schedule, skip, solver or seed; the message says which and why.
        DenoiserError: the denoiser returned another shape, another dtype, NaN or Inf.
        Cancelled: the callback returned False.
    """
    check_images(x0, denoise, "x0")
    entry, process = find_solver(solver), process_of(denoise, process)
    put_in, choice = find_injection(injection), None
    if isinstance(skip, (str, Goal)):
        choice = choose_skip(
            denoise, x0, sigmas, skip, injection=put_in.inject, seed=seed, process=process, progress=progress
        )
        skip = choice.skip
    try:
        skip = number(skip, "skip")
    except InputError as error:
        raise InputError(f"{error}; a number is wanted, or a goal such as 'auto'") from None
    way_back = truncate(sigmas, skip, grid)
    check_range(way_back, skip, denoise, process)
    if choice is not None:
        choice = replace(choice, resolved=resolved(way_back, entry.solver, process))
    seeds = seeds_for(seed, len(x0))

    rising = way_back.flip(0).tolist()
    if skip > 0 or not entry.from_zero:
        rising = rising[1:]
    if len(rising) < 2:
        raise InputError(f"sigmas: one level alone leaves solver {entry.name!r} no step; use more steps or a skip")
    injecting = 0
    if skip > 0:
        told = Told(denoise, progress, lambda nfe: nfe + len(rising) - 1, during="noise was put in")
        guarded = Guarded(told, process, steps=1)
        with torch.no_grad():
            start = put_in.inject(guarded, process, x0, unit_noise(x0, seeds), rising[0])
        injecting = guarded.nfe
    else:
        start = process.inject(x0, torch.zeros_like(x0), rising[0])
        if entry.ends_in_eps:
            start = start / process.scale(rising[0])  # guided-diffusion shows the network x0 itself, not s x0
    walk = integrate(denoise, start, rising, entry, process, keep_states=keep_states, progress=progress)

    nfe, top = (choice.nfe if choice else 0) + injecting + walk.nfe, rising[-1]
    if entry.ends_in_eps:
        guarded = Guarded(denoise, process, steps=len(rising) - 1)
        guarded.step = guarded.steps - 1  # it belongs to the last step
        with torch.no_grad():
            noise = process.predicted_noise(walk.x, guarded(walk.x, top), top)
        nfe += guarded.nfe
    else:
        noise = process.to_noise(walk.x, top)
    provenance = {
        "ssi": __version__,
        "torch": torch.__version__,
        "model": getattr(denoise, "signature", None),
        "grid": grid,
        "solver_options": _options(solver),
        "injection": put_in.name,
        "injection_options": _options(injection),
        "injection_nfe": injecting,
        "chosen_for": None if choice is None else str(choice.goal),
        "choice_nfe": 0 if choice is None else choice.nfe,
        "images_sha256": [tensor_sha256(image) for image in x0],
    }
    return Inversion(
        noise=noise, sigmas=way_back, nfe=nfe, process=process, solver=entry.name, skip=skip, seeds=seeds,
        states=walk.states, residual=walk.residual, provenance=provenance, choice=choice,
    )  # fmt: skip


def reconstruct(
    denoise: Denoiser,
    noise: Tensor,
    sigmas: Tensor | Sequence[float],
    *,
    solver: str | Solver = DEFAULT_SOLVER,
    process: Process | None = None,
    progress: Callback | None = None,
) -> Tensor:
    """Sample from given unit noise, deterministically: the way back of an inversion, or of any blend of noises.

    Args:
        denoise, process, solver, progress: as in `invert`.
        noise: unit Gaussian noise [B, C, ...].
        sigmas: descending, ending in 0; `Inversion.sigmas` for the way back on the same grid.

    Returns:
        Images [B, C, ...], not clamped.

    Raises:
        As `invert`.
    """
    check_images(noise, denoise, "noise")
    levels, process = given_sigmas(sigmas), process_of(denoise, process)
    check_range(levels, 0.0, denoise, process)
    start = process.from_noise(noise, float(levels[0]))
    return integrate(denoise, start, levels.tolist(), find_solver(solver), process, progress=progress).x


def _options(function: object) -> dict[str, Any]:
    """What a `functools.partial` holds, as far as JSON can."""
    return {k: v for k, v in getattr(function, "keywords", {}).items() if isinstance(v, int | float | str)}


def tensor_sha256(tensor: Tensor) -> str:
    """Hash of a tensor's values as float32, little-endian, in row-major order."""
    return hashlib.sha256(tensor.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()
