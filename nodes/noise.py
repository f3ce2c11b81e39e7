"""NOISE that an inversion found: what core's samplers ask for their noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..ssi_core.errors import InputError
from ..ssi_core.gaussianity import CHANCE
from ..ssi_core.metrics import cosine
from .host.latents import indices_of, latent_samples
from .host.levels import HostProcess, Start
from .host.show import shape

NEARLY_PARALLEL = 0.95
OFF_UNIT = 0.05


@dataclass(frozen=True, eq=False)
class InvertedNoise:
    """A NOISE. Core makes its first state from it as start.noise_gain * noise + start.latent_gain * latent.

    Where sampling begins at start.sigma, that state is the one the inversion ended in, whatever latent is connected:
    what the latent adds is taken off the noise first. (Begun at a lower sigma with a latent that is not empty, as for a
    partial denoise, too much is taken off: a NOISE is not told the sigma. SSI Noise Inject is for that.) With an empty
    latent the noise is given as it is.
    """

    unit: Tensor
    """Unit Gaussian noise [B, C, ...], float32, on the CPU."""
    start: Start
    seed: int = 0
    latent_in: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    """How the model scales latents; None where it is not known (a loaded file): then the latent must be empty."""
    indices: tuple[int, ...] | None = None
    """Which images of their batch these noises are of (Latent From Batch keeps track); None: counted from 0."""
    source: Tensor | None = field(default=None, repr=False)
    """The latent [B, C, ...] that was inverted, float32, where that is known: not for blends, nor from files."""

    def generate_noise(self, input_latent: dict[str, Any]) -> Tensor:
        """Called by core's samplers with their LATENT.

        Raises:
            InputError: a latent of another shape than the noise's.
        """
        latent = input_latent["samples"]
        if getattr(latent, "is_nested", False):
            raise InputError("noise: was inverted from one stream, this latent holds several")
        noise = self._for_batch(len(latent), input_latent.get("batch_index"))
        if noise.shape != latent.shape:
            raise InputError(
                f"noise: is of shape {shape(noise)}, the latent of {shape(latent)}; connect the LATENT output that "
                f"came with the noise, or an empty latent of its size"
            )
        self._check_masked(input_latent, noise)
        if self.start.latent_gain == 0 or not bool(latent.any()):
            return noise.clone()
        if self.latent_in is None:
            raise InputError(
                "noise: it is not known how its model scales latents; connect an empty latent with it, or the model "
                "to SSI Load Noise"
            )
        added = self.start.latent_gain * self.latent_in(latent.detach().float().cpu())
        return noise - added / self.start.noise_gain

    def _check_masked(self, input_latent: dict[str, Any], noise: Tensor) -> None:
        """Outside a mask samplers take the latent for the picture, which an end state is not."""
        if input_latent.get("noise_mask") is None or self.latent_in is None:
            return
        shown, state = self.latent_in(input_latent["samples"].detach().float().cpu()), self.start.noise_gain * noise
        if shown.shape == state.shape and bool((shown - state).norm() < 1e-3 * state.norm()):
            raise InputError(
                "latent_image: is the end state of the inversion, with a mask. Outside a mask samplers take it for the "
                "picture: connect the latent that was inverted (VAE Encode, Set Latent Noise Mask) instead"
            )

    def with_unit(self, unit: Tensor) -> InvertedNoise:
        return replace(self, unit=unit, indices=None, source=None)

    def empty_latent(self) -> dict[str, Any]:
        return {"samples": torch.zeros_like(self.unit)}

    def _for_batch(self, batch: int, indices: Any) -> Tensor:
        wanted = list(indices or ())
        known = list(range(len(self.unit)) if self.indices is None else self.indices)
        # Where images share an index (Latent Batch), their places have to do.
        if len(wanted) == batch == len(set(wanted)) and set(wanted) <= set(known):
            return self.unit[[known.index(i) for i in wanted]]
        if len(self.unit) == 1:
            return self.unit.expand(batch, *self.unit.shape[1:])
        return self.unit


def noise_of_state(model: Any, latent: dict[str, Any], sigma: float | None = None, seed: int = 0) -> InvertedNoise:
    """The NOISE from which core's samplers begin in the state that a LATENT holds.

    Args:
        sigma: the level at which it lies; None is the model's largest.

    Raises:
        InputError: a latent that is empty, not finite, or not this model's.
    """
    process = HostProcess.of(model)
    start = process.start(process.sigma_max if sigma is None else sigma)  # gain of the latent 0: the state itself
    samples = latent_samples(model, latent)
    scale = model.get_model_object("latent_format").process_in
    state = scale(samples.cpu())
    if start.latent_gain > 0:
        # Core will multiply a latent by so much; at a flow model's sigma 1 it is 0, and the latent is the state itself.
        state = start.latent_gain * state
    return InvertedNoise(state / start.noise_gain, start, seed, latent_in=scale, indices=indices_of(latent))


def noise_of(
    value: Any, like: InvertedNoise | None, model: Any = None, latent: dict[str, Any] | None = None
) -> InvertedNoise:
    """Any NOISE or LATENT as an `InvertedNoise`.

    Args:
        value: ours, another node's NOISE (Random Noise), or a LATENT that holds an end state.
        like: one whose shape and start another node's NOISE takes.
        model: needed for a LATENT.
        latent: another way to give the shape for another node's NOISE.

    Raises:
        InputError: what is missing to read it.
    """
    if isinstance(value, InvertedNoise):
        return value
    if isinstance(value, dict):
        if model is None:
            raise InputError("model: is needed to read a LATENT as noise; connect the model that inverted it")
        return noise_of_state(model, value)
    shaped = like.empty_latent() if like is not None else latent
    if shaped is None:
        raise InputError(
            "noise: this NOISE (Random Noise) has no size of its own; connect an inverted one, or a latent, beside it"
        )
    drawn = value.generate_noise({"samples": torch.zeros_like(shaped["samples"])}).float().cpu()
    start = like.start if like is not None else Start(0.0, 1.0, 0.0)
    scale = like.latent_in if like is not None else None
    return InvertedNoise(unit=drawn, start=start, seed=getattr(value, "seed", 0), latent_in=scale)


def check_alike(found: Sequence[InvertedNoise]) -> None:
    """Refuse noises that cannot be blended.

    Raises:
        InputError: of other sizes, or states at other levels or of other kinds of models.
    """
    first = found[0]
    for i, noise in enumerate(found[1:], 2):
        if noise.unit.shape[1:] != first.unit.shape[1:]:
            raise InputError(
                f"noises: 1 is {shape(first.unit)} and {i} is {shape(noise.unit)}; invert pictures of one size with "
                f"one model"
            )
        if not noise.start.same_as(first.start):
            raise InputError(
                f"noises: 1 starts at sigma {first.start.sigma:.4g} and {i} at {noise.start.sigma:.4g} (or with "
                f"another kind of model); invert both with one model and one largest sigma"
            )


def complaints(norms: Sequence[float], pairs: Sequence[tuple[int, int, float]], size: int) -> list[str]:
    """What looks wrong with noises to be blended, of `size` numbers each, in words.

    Args:
        norms: `norm` of each.
        pairs: (i, j, |cosine|) of those that are blended, counted from 1.
    """
    allowed = max(OFF_UNIT, CHANCE / (2 * size) ** 0.5)
    return [
        f"noise {i} is not unit noise (norm {norm:.3f}): its inversion left structure in it, or failed"
        for i, norm in enumerate(norms, 1)
        if abs(norm - 1) > allowed
    ] + [
        f"noises {i} and {j} are nearly parallel (|cosine| {closeness:.3f}): they hold the same picture or the same "
        f"seed's noise, and the blend hardly moves"
        for i, j, closeness in pairs
        if closeness > NEARLY_PARALLEL
    ]


def norm(noise: Tensor) -> float:
    """Of [B, ...], over sqrt(d), mean over the batch: 1 for unit noise."""
    return float(noise.flatten(1).norm(dim=1).mean()) / noise[0].numel() ** 0.5


def likeness(a: Tensor, b: Tensor) -> float:
    """|cosine| of two noises [B, ...], the batch's largest."""
    return float(cosine(a, b).abs().max())
