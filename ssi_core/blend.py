"""Blending noises so that the blend is noise again: its norm stays that of Gaussian noise.

All methods work on each sample for itself, flattened, in float64 inside, on tensors of any rank >= 2. A new method is
one function here, decorated with `@register`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .errors import InputError
from .precision import float64

Blend = Callable[[Tensor, Tensor], Tensor]
"""(vectors [N, B, d] float64, weights [N] float64) -> [B, d] float64."""

BLENDS: dict[str, Blend] = {}
Weights = float | Sequence[float] | Sequence[Sequence[float]] | Tensor

_PARALLEL = 1e-6
"""Angles in radians nearer than this to 0 or pi are taken as exactly parallel or antiparallel."""


def register(name: str) -> Callable[[Blend], Blend]:
    """Make a blend known under `name`."""

    def add(method: Blend) -> Blend:
        BLENDS[name] = method
        return method

    return add


def slerp(a: Tensor, b: Tensor, weights: float | Sequence[float] | Tensor) -> Tensor:
    """Spherical interpolation between two noises (Shoemake 1985; SSI-DM Eq. 4), norm interpolated alongside.

    The direction turns at constant speed from a (weight 0) to b (weight 1); weights outside [0, 1] turn on past
    the ends. Identical inputs give themselves; antiparallel ones turn through a fixed perpendicular direction.

    Args:
        a, b: noises [B, ...] of one shape.
        weights: one number, giving [B, ...]; or F of them, giving F frames of sample 0, then F of sample 1, ...:
            [B * F, ...].

    Returns:
        The blend, in a's dtype and device.

    Raises:
        InputError: shapes or devices that differ, NaN, or zero-norm noise.
    """
    t = float64(weights).cpu()
    if t.ndim > 1:
        raise InputError(f"weights: a number or a list of numbers is wanted, found shape {tuple(t.shape)}")
    return blend([a, b], torch.stack([1 - t, t], dim=-1), method="slerp")


def blend(noises: Sequence[Tensor], weights: Weights, method: str = "gram") -> Tensor:
    """Blend N noises.

    Args:
        noises: N >= 1 tensors [B, ...] of one shape.
        weights: N numbers, giving [B, ...]; or F rows of N, giving F frames of sample 0, then of sample 1, ...:
            [B * F, ...]. They need not sum to 1: only their proportion counts (except for `lerp`; a
            negative total turns a `gram` or `lol` blend around).
        method: a registered name: "gram" (default), "slerp" (two noises), "karcher", "lol", "lerp".

    Returns:
        The blend, in the first noise's dtype and device.

    Raises:
        InputError: unknown method, shapes or devices that differ, weights that do not match or are all zero, NaN, or
            zero-norm noise.
    """
    if method not in BLENDS:
        raise InputError(f"method {method!r}: unknown; known are {', '.join(BLENDS)}")
    vectors = _vectors(noises)
    rows = float64(weights)
    if rows.ndim not in (1, 2) or rows.shape[-1] != len(noises) or rows.numel() == 0:
        raise InputError(
            f"weights: shape {tuple(rows.shape)} does not match {len(noises)} noises; give one weight a noise, "
            f"or a list of such rows"
        )
    if not bool(rows.isfinite().all()):
        raise InputError("weights: hold NaN or Inf")
    if method != "lerp" and not bool((rows.abs().amax(dim=-1) > 0).all()):
        raise InputError("weights: all weights of a blend are zero, so it has no direction")
    first = noises[0]
    rows = rows.to(vectors.device)
    if method == "slerp" and len(noises) != 2:
        raise InputError(f"method 'slerp': takes two noises, found {len(noises)}; use 'gram' or 'karcher'")
    frames = []
    for row in rows.reshape(-1, len(noises)):
        # All weight on one noise is that noise, bit for bit; only lerp minds how much weight.
        alone = method != "lerp" and int((row != 0).sum()) == 1 and float(row.max()) > 0
        frames.append(vectors[int(row.argmax())] if alone else BLENDS[method](vectors, row))
    result = torch.stack(frames, dim=1)  # [B, F, d]
    return result.reshape(-1, *first.shape[1:]).to(first)


def masked(outside: Tensor, inside: Tensor, mask: Tensor) -> Tensor:
    """One noise inside a mask, another outside, unit variance kept in every pixel, soft edges included.

    (1 - m) a + m b has variance (1 - m)^2 + m^2 + 2 m (1 - m) rho for correlation rho, and is divided by its root.

    Args:
        outside, inside: noises [B, C, ...] of one shape.
        mask: values in [0, 1] that broadcast to that shape; 1 is inside.

    Raises:
        InputError: shapes that differ or do not broadcast, or mask values outside [0, 1].
    """
    a, b = _vectors([outside, inside])
    try:
        m = float64(mask).to(a.device).expand(outside.shape).flatten(1)
    except RuntimeError:
        raise InputError(f"mask: shape {tuple(mask.shape)} does not fit noise of {tuple(outside.shape)}") from None
    if not bool(((m >= 0) & (m <= 1)).all()):
        raise InputError("mask: its values must lie in 0 to 1")
    rho = torch.nn.functional.cosine_similarity(a, b)[:, None]
    mixed = ((1 - m) * a + m * b) / ((1 - m) ** 2 + m**2 + 2 * m * (1 - m) * rho).clamp_min(1e-12).sqrt()
    return mixed.reshape(outside.shape).to(outside)


@register("gram")
def gram(vectors: Tensor, weights: Tensor) -> Tensor:
    """The straight sum, scaled to the norm that a sum of independent noises would have after normalisation.

    z = sum w_i x_i scaled to r with r^2 = sum w_i^2 |x_i|^2 / sum w_i^2, so that correlation between the inputs
    (which the cross terms of the Gram matrix hold) neither lengthens nor shortens the blend.
    """
    w = weights[:, None, None]
    total = (w * vectors).sum(0)
    radius = ((w * vectors).square().sum((0, 2)) / weights.square().sum()).sqrt()
    return _scaled_to(total, radius[:, None], vectors[weights.abs().argmax()])


@register("slerp")
def _slerp(vectors: Tensor, weights: Tensor) -> Tensor:
    total = weights.sum()
    if total == 0:
        raise InputError("weights: of a slerp must not sum to zero")
    t = weights[1] / total
    a, b = vectors
    norm_a, norm_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    u, v = a / norm_a, b / norm_b
    # atan2 of chord lengths keeps full precision where arccos of a cosine near 1 or -1 loses half the digits.
    angle = 2 * torch.atan2((u - v).norm(dim=1, keepdim=True), (u + v).norm(dim=1, keepdim=True))
    across = v - (u * v).sum(1, keepdim=True) * u
    length = across.norm(dim=1, keepdim=True)
    degenerate = (angle < _PARALLEL) | (angle > torch.pi - _PARALLEL)
    across = torch.where(degenerate, _perpendicular(u), across / length.clamp_min(1e-300))
    angle = torch.where(angle < _PARALLEL, torch.zeros_like(angle), angle)
    turned = torch.cos(t * angle) * u + torch.sin(t * angle) * across
    norm = (1 - t) * norm_a + t * norm_b
    blended = turned * norm.clamp_min(0)
    return torch.where(t == 0, a, torch.where(t == 1, b, blended))


@register("karcher")
def karcher(vectors: Tensor, weights: Tensor, *, iterations: int = 50) -> Tensor:
    """Weighted Karcher mean of the directions on the sphere (Riemannian centre of mass); norms averaged.

    For two noises it is slerp; for more it is its symmetric generalisation. Fixed-point iteration in the tangent
    space, begun at the Gram blend; stops when the step is below 1e-12.
    """
    share = (weights / weights.sum())[:, None, None]
    if not bool(share.isfinite().all()):
        raise InputError("weights: of a Karcher mean must not sum to zero")
    norms = vectors.norm(dim=2, keepdim=True)
    directions = vectors / norms
    mean = gram(directions, weights)
    mean = mean / mean.norm(dim=1, keepdim=True)
    for _ in range(iterations):
        cosine = (directions * mean).sum(2, keepdim=True)
        across = directions - cosine * mean
        length = across.norm(dim=2, keepdim=True)
        angle = torch.atan2(length, cosine)
        step = (share * across * (angle / length.clamp_min(1e-300))).sum(0)
        size = step.norm(dim=1, keepdim=True)
        mean = torch.cos(size) * mean + torch.sin(size) * step / size.clamp_min(1e-300)
        mean = mean / mean.norm(dim=1, keepdim=True)
        if float(size.max()) < 1e-12:
            break
    return mean * (share * norms).sum(0)


@register("lol")
def lol(vectors: Tensor, weights: Tensor) -> Tensor:
    """Linear combination divided by the norm of its weights (LOL, Bodin et al. 2025): exact for independent noises."""
    return (weights[:, None, None] * vectors).sum(0) / weights.norm()


@register("lerp")
def lerp(vectors: Tensor, weights: Tensor) -> Tensor:
    """The plain weighted sum: shrinks the norm (to 0.71 in the middle of two), for comparison."""
    return (weights[:, None, None] * vectors).sum(0)


def _vectors(noises: Sequence[Tensor]) -> Tensor:
    if len(noises) == 0:
        raise InputError("noises: none given")
    first = noises[0]
    for i, noise in enumerate(noises):
        if not isinstance(noise, Tensor) or noise.ndim < 2 or noise.numel() == 0:
            raise InputError(f"noise {i}: a non-empty tensor [batch, ...] is wanted")
        if not noise.is_floating_point():
            raise InputError(f"noise {i}: has dtype {noise.dtype}; noise is floating point")
        if noise.shape != first.shape:
            raise InputError(f"noise {i}: has shape {tuple(noise.shape)}, noise 0 has {tuple(first.shape)}")
        if noise.device != first.device:
            raise InputError(f"noise {i}: lies on {noise.device}, noise 0 on {first.device}")
        if not bool(noise.isfinite().all()):
            raise InputError(f"noise {i}: holds NaN or Inf")
    vectors = torch.stack([float64(n).flatten(1) for n in noises])
    if not bool((vectors.norm(dim=2) > 0).all()):
        raise InputError("noises: one is all zero, so it has no direction")
    return vectors


def _perpendicular(u: Tensor) -> Tensor:
    """A unit vector at right angles to each row of u, the same one every time."""
    axis = torch.zeros_like(u)
    axis.scatter_(1, u.abs().argmin(1, keepdim=True), 1.0)
    across = axis - (axis * u).sum(1, keepdim=True) * u
    return across / across.norm(dim=1, keepdim=True).clamp_min(1e-300)


def _scaled_to(z: Tensor, radius: Tensor, otherwise: Tensor) -> Tensor:
    """z at the given norm; where the sum cancels out (antiparallel inputs), a perpendicular of `otherwise`."""
    norm = z.norm(dim=1, keepdim=True)
    cancelled = norm < 1e-9 * radius
    across = _perpendicular(otherwise / otherwise.norm(dim=1, keepdim=True))
    return radius * torch.where(cancelled, across, z / norm.clamp_min(1e-300))
