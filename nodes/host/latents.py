"""LATENTs that hold a picture: whether they can be inverted, which image of a batch each is, and its noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...ssi_core.errors import InputError
from ...ssi_core.integration import unit_noise


def indices_of(latent: dict[str, Any]) -> tuple[int, ...] | None:
    """Which images of their batch these are (Latent From Batch notes it); None where the LATENT does not tell.

    Latent Batch gives two pictures the same index, which says nothing then.
    """
    count = len(latent["samples"])
    noted = tuple(latent.get("batch_index") or range(count))
    return noted if len(noted) == count == len(set(noted)) else None


def seeds_of(latent: dict[str, Any], seed: int) -> tuple[int, ...]:
    """One seed a sample: seed + its index in the batch, or its place where indices do not tell samples apart."""
    return tuple((seed + i) % 2**63 for i in indices_of(latent) or range(len(latent["samples"])))


def injected_noise(samples: Tensor, seeds: Sequence[int]) -> Tensor:
    """What `invert` will inject, for the region outside a mask: it keeps its own noise all the way."""
    return unit_noise(samples.float().cpu(), seeds)


def is_pixels(model: Any) -> bool:
    """Whether a MODEL's latents are pictures in [-1, 1] themselves."""
    wanted = model.get_model_object("latent_format")
    return bool(wanted.latent_channels == 3 and wanted.spacial_downscale_ratio == 1)


def latent_samples(model: Any, latent: dict[str, Any], what: str = "latent") -> Tensor:
    """The tensor of a LATENT that holds a picture, as the model takes it.

    Args:
        what: the node's input, for messages.

    Raises:
        InputError: several streams, NaN, another number of channels than the model's, or nothing but zeros.
    """
    samples = latent["samples"]
    if getattr(samples, "is_nested", False):
        raise InputError(f"{what}: holds several streams (video with audio); invert them one at a time")
    wanted = model.get_model_object("latent_format")
    if samples.ndim < 3 or samples.shape[0] == 0:
        raise InputError(f"{what}: [batch, channels, ...] is wanted, found shape {tuple(samples.shape)}")
    if samples.shape[1] != wanted.latent_channels:
        raise InputError(
            f"{what}: has {samples.shape[1]} channels, this model takes {wanted.latent_channels}; encode the picture "
            f"with the VAE that belongs to the model"
        )
    bad = (~samples.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
    if bad:
        raise InputError(
            f"{what}: sample(s) {bad} hold NaN or Inf. From a VAE: it may need fp32. From a core sampler along rising "
            f"sigmas on a flow model: it divides by 1 - sigma, which is 0 at the end; use SSI Inverse Sampler or SSI "
            "Solver"
        )
    if not bool(samples.any()):
        raise InputError(f"{what}: is empty (all zeros); connect a VAE Encode of the picture, not an Empty Latent")
    if wanted.latent_dimensions == 3 and samples.ndim == 4:
        samples = samples.unsqueeze(2)
    return samples.float()  # they may come in half precision
