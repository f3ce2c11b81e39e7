"""Inversion and sampling as SAMPLERs: they run inside any GUIDER, so that cfg, hooks, ControlNet, masks, previews,
progress, interruption and memory management are the host's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...ssi_core.errors import InputError
from ...ssi_core.goal import Goal
from ...ssi_core.integration import Progress, integrate
from ...ssi_core.inversion import Inversion, invert
from ...ssi_core.singularity import SingularityCurve, singularity_curve
from ...ssi_core.skip import EVALUATIONS, Choice, choose_skip
from ...ssi_core.solver import SOLVERS, Solver, find_solver
from .latents import injected_noise, latent_samples, seeds_of
from .levels import HostProcess, top_of

STOCHASTIC = ("ancestral", "sde", "lcm", "ddpm", "seeds", "sa_solver")


def solver_names() -> list[str]:
    return list(SOLVERS)


def check_solver(name: str | None) -> str | bool:
    """True (also for None, a connected input that is not known yet), or one sentence on why it cannot invert."""
    if name is None or name in SOLVERS:
        return True
    if any(part in str(name) for part in STOCHASTIC):
        return (
            f"solver '{name}' adds fresh noise at every step, so its way up has no way down; use one of "
            f"{', '.join(SOLVERS)}"
        )
    return f"solver '{name}' is unknown; use one of {', '.join(SOLVERS)}"


class GuidedDenoiser:
    """D(x, sigma) of the engine, by the host's guider; outside a mask the latent itself is the answer."""

    def __init__(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        noise: Tensor,
        latent: Tensor,
        mask: Tensor | None,
    ) -> None:
        self.noise, self.latent, self.mask = noise, latent, mask
        self.model = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
        self.model.latent_image, self.model.noise = latent, noise
        self.extra_args = {**extra_args, "denoise_mask": mask}

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        # Between evaluations, not steps: one step of an implicit solver is many.
        comfy.model_management.throw_exception_if_processing_interrupted()
        answer: Tensor = self.model(x, sigma, **self.extra_args)
        return answer.to(x)  # a patch may have left another dtype

    def must_evaluate(self) -> None:
        """
        Raises:
            InputError: the model gives what it saw a step before in the place of some evaluations, and knows falling
                levels only (EasyCache, LazyCache).
        """
        if "easycache" in self.extra_args.get("model_options", {}).get("transformer_options", {}):
            raise InputError(
                "model: EasyCache or LazyCache on it leaves evaluations out, and works downwards only; take it off "
                "here (it may stay on the way back)"
            )


class _Bar:
    """Progress for the host's callback (bar and preview on the node) and for its console."""

    def __init__(self, callback: Any, quiet: bool) -> None:
        self.callback, self.quiet = callback, quiet
        self.bar: Any = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, now: Progress) -> None:
        if self.bar is None:
            self.bar = tqdm(total=now.steps, disable=self.quiet)
        self.bar.update(1)
        if self.callback is not None:
            self.callback(now.step - 1, now.denoised, now.x, now.steps)


class EngineSampler(comfy.samplers.Sampler):
    """What the engine does, as SAMPLER: subclasses `walk`; how the host asks and wants its answer is dealt with here.

    It ends as core's samplers do (inverse_noise_scaling), except where that would divide by 0: a flow model's end state
    at sigma = 1 is given as it is.
    """

    def walk(self, denoise: GuidedDenoiser, process: HostProcess, sigmas: Tensor, progress: _Bar) -> Tensor:
        """The state at the last of `sigmas`."""
        raise NotImplementedError

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        process = HostProcess(model_wrap.inner_model.model_sampling)
        latent = torch.zeros_like(noise) if latent_image is None else latent_image
        # What looks at the schedule (DifferentialDiffusion) knows falling ones only.
        falling = sigmas.flip(0) if len(sigmas) and sigmas[0] < sigmas[-1] else sigmas
        denoise = GuidedDenoiser(model_wrap, falling, extra_args, noise, latent, denoise_mask)
        with _Bar(callback, disable_pbar) as bar:
            x = self.walk(denoise, process, sigmas, bar)
        return as_latent(process, x, sigmas[-1:])


class SolverSampler(EngineSampler):
    """A solver alone: falling sigmas sample, rising ones invert. It begins as core's samplers do (noise_scaling)."""

    def __init__(self, solver: str | Solver) -> None:
        self.solver = find_solver(solver)

    def walk(self, denoise: GuidedDenoiser, process: HostProcess, sigmas: Tensor, progress: _Bar) -> Tensor:
        levels = [float(sigma) for sigma in sigmas]
        if len(levels) > 1 and levels[0] < levels[-1]:
            denoise.must_evaluate()
            top_of(process, sigmas)
        at_top = bool(levels) and process.is_top(levels[0])
        x = process.sampling.noise_scaling(sigmas[:1], denoise.noise.clone(), denoise.latent, at_top)
        return integrate(denoise, x, levels, self.solver, process, progress=progress).x


class InversionSampler(EngineSampler):
    """The engine's `invert`. The latent is the image; noise is its own; the result is in `inversion`."""

    def __init__(
        self,
        sigmas: Tensor,
        skip: float,
        solver: str | Solver,
        injection: str,
        seeds: Sequence[int],
        keep: bool,
    ) -> None:
        self.invert = partial(
            invert, sigmas=sigmas, skip=skip, solver=solver, injection=injection, seed=seeds, keep_states=keep
        )
        self.inversion: Inversion | None = None

    def walk(self, denoise: GuidedDenoiser, process: HostProcess, sigmas: Tensor, progress: _Bar) -> Tensor:
        denoise.must_evaluate()
        found = self.invert(denoise, denoise.latent, process=process, progress=progress)
        top = float(found.sigmas[0])
        end = process.from_noise(found.noise, top)
        if denoise.mask is not None:
            # Outside a mask samplers show the network this, whatever the state; so the way back has to find it there.
            end = torch.lerp(process.inject(denoise.latent, denoise.noise, top), end, denoise.mask)
        self.inversion = replace(found, noise=process.to_noise(end, top))
        return end


class CurveSampler(EngineSampler):
    """The engine's `singularity_curve`: looks at every level by itself and gives the latent back; see `curve`."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = seeds
        self.curve: SingularityCurve | None = None

    def walk(self, denoise: GuidedDenoiser, process: HostProcess, sigmas: Tensor, progress: _Bar) -> Tensor:
        denoise.must_evaluate()
        x0 = denoise.latent
        self.curve = singularity_curve(denoise, x0, sigmas, seed=self.seeds, process=process, progress=progress)
        return x0


class SkipSampler(EngineSampler):
    """The engine's `choose_skip`: looks at a few levels and gives the latent back; see `choice`.

    Under a mask it foretells the masked inversion: what lies outside comes back as it was, and counts as such.
    """

    def __init__(self, goal: Goal, injection: str, seeds: Sequence[int]) -> None:
        self.choose = partial(choose_skip, goal=goal, injection=injection, seed=seeds)
        self.choice: Choice | None = None

    def walk(self, denoise: GuidedDenoiser, process: HostProcess, sigmas: Tensor, progress: _Bar) -> Tensor:
        denoise.must_evaluate()
        self.choice = self.choose(denoise, denoise.latent, sigmas, process=process, progress=progress)
        return denoise.latent


def as_latent(process: HostProcess, x: Tensor, sigma: Tensor) -> Tensor:
    """A state as LATENTs hold it between samplers: flow states over 1 - sigma, but as they are at 1."""
    if process.gains(float(sigma))[1] == 0:
        return x
    left: Tensor = process.sampling.inverse_noise_scaling(sigma, x)
    return left


def run_inversion(
    guider: Any,
    latent: dict[str, Any],
    sigmas: Tensor,
    skip: float,
    solver: str | Solver,
    injection: str,
    seed: int,
    *,
    keep_states: bool = False,
) -> tuple[Inversion, Tensor]:
    """Invert a LATENT through a guider.

    Args:
        sigmas: the way back, [sigma_max .. skip, 0].
        seed: of sample 0; see `seeds_of`.

    Returns:
        (inversion, end state as a LATENT's samples).
    """
    model = guider.model_patcher
    samples = latent_samples(model, latent)
    seeds = seeds_of(latent, seed)
    rising = sigmas.flip(0).float()
    rising = rising[1:] if skip > 0 else rising
    sampler = InversionSampler(sigmas, skip, solver, injection, seeds, keep_states)
    mask = latent.get("noise_mask")
    noise = injected_noise(samples, seeds) if skip > 0 or mask is not None else torch.zeros_like(samples)
    shown = latent_preview.prepare_callback(model, len(rising) - 1)
    end = guided(guider, sampler, noise, samples, rising, mask, seed, shown)
    assert sampler.inversion is not None
    return sampler.inversion, end.to(comfy.model_management.intermediate_device())


def run_curve(guider: Any, latent: dict[str, Any], sigmas: Tensor, seed: int) -> SingularityCurve:
    """The singularity curve of a LATENT through a guider; a mask on it is not asked for.

    Args:
        sigmas: a falling schedule that ends in 0.
        seed: of sample 0; see `seeds_of`.
    """
    samples = latent_samples(guider.model_patcher, latent)
    sampler = CurveSampler(seeds_of(latent, seed))
    bar = _bar_alone(len(sigmas) - 1)
    guided(guider, sampler, torch.zeros_like(samples), samples, sigmas.float(), None, seed, bar)
    assert sampler.curve is not None
    return sampler.curve


def run_choice(guider: Any, latent: dict[str, Any], goal: Goal, injection: str, seed: int) -> Choice:
    """The skip that a LATENT needs for a goal, through a guider, and what is foretold of it.

    Args:
        seed: of sample 0; see `seeds_of`.
    """
    model = guider.model_patcher
    samples = latent_samples(model, latent)
    seeds = seeds_of(latent, seed)
    mask = latent.get("noise_mask")
    noise = torch.zeros_like(samples) if mask is None else injected_noise(samples, seeds)
    sampler = SkipSampler(goal, injection, seeds)
    levels = torch.tensor([HostProcess.of(model).sigma_max, 0.0])
    guided(guider, sampler, noise, samples, levels, mask, seed, _bar_alone(EVALUATIONS))
    assert sampler.choice is not None
    return sampler.choice


def _bar_alone(steps: int) -> Callable[[int, Tensor, Tensor, int], None]:
    """A callback without previews: the editor would go on showing the last one in the place of a node's own picture."""
    bar = comfy.utils.ProgressBar(steps)

    def count(step: int, x0: Tensor, x: Tensor, steps: int) -> None:
        bar.update_absolute(step + 1, steps)

    return count


def guided(
    guider: Any,
    sampler: comfy.samplers.Sampler,
    noise: Tensor,
    samples: Tensor,
    sigmas: Tensor,
    mask: Tensor | None,
    seed: int,
    callback: Callable[[int, Tensor, Tensor, int], None],
) -> Tensor:
    """`guider.sample`, with the host's bar in the console as it is set."""
    end: Tensor = guider.sample(
        noise,
        samples,
        sampler,
        sigmas,
        denoise_mask=mask,
        callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    return end
