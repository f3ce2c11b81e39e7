"""What the U-Nets of all families are made of.

Networks are built from a namespace of layer classes (`torch.nn` by default), so that a host can pass its own, which
cast or move their weights. Whatever may be written over is (activations are most of the memory), except where
autograd still needs it.

Sizes: B batch, C channels, H x W pixels, T = H W positions, E embedding width.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Layers(Protocol):
    """The layer classes a network is built from; each takes the arguments of its namesake in `torch.nn`."""

    Linear: Any
    Conv1d: Any
    Conv2d: Any
    GroupNorm: Any
    Embedding: Any


def silu_(x: Tensor) -> Tensor:
    """SiLU, in place unless a gradient has to pass."""
    return F.silu(x, inplace=not x.requires_grad)


def conditioned_norm(x: Tensor, norm: Any, scale: Tensor, shift: Tensor) -> Tensor:
    """norm(x) * (1 + scale) + shift in one pass.

    The per-sample affine is folded into the norm's own by treating the batch as channels: [B, C] becomes [1, B C],
    with as many times the groups.

    Args:
        x: [B, C, H, W].
        norm: a GroupNorm of C channels.
        scale, shift: [B, C].
    """
    batch, channels = x.shape[:2]
    # A host's norm: only it knows where its weights are. Or one that somebody wants to be called, not looked into.
    foreign = type(norm).forward is not nn.GroupNorm.forward or "forward" in vars(norm)
    hooked = bool(norm._forward_hooks or norm._forward_pre_hooks)
    if foreign or hooked or (batch > 1 and not x.is_contiguous()):  # the fold would copy
        y: Tensor = norm(x)
        gain, offset = (1 + scale).to(y.dtype)[:, :, None, None], shift.to(y.dtype)[:, :, None, None]
        return y * gain + offset if y.requires_grad else y.mul_(gain).add_(offset)
    weight, bias = norm.weight.to(scale), norm.bias.to(scale)
    gain = (weight * (1 + scale)).flatten().to(x.dtype)
    offset = (bias * (1 + scale) + shift).flatten().to(x.dtype)
    folded = x if batch == 1 else x.reshape(1, batch * channels, *x.shape[2:])
    return F.group_norm(folded, batch * norm.num_groups, gain, offset, norm.eps).view_as(x)


def openai_frequencies(half: int, device: torch.device) -> Tensor:
    """From 1 down to 1/10000, which would be the next one; in the float32 rounding of OpenAI's code."""
    return torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=device) / half)


def nvlabs_frequencies(half: int, device: torch.device, *, endpoint: bool) -> Tensor:
    """From 1 down to 1/10000, which is the last one with `endpoint`; in the float32 rounding of NVlabs' code."""
    ramp = torch.arange(half, dtype=torch.float32, device=device) / (half - (1 if endpoint else 0))
    return (1 / 10000) ** ramp


def sinusoidal(t: Tensor, frequencies: Tensor, *, channels: int | None = None) -> Tensor:
    """[cos, sin] of t times each frequency (Vaswani et al. 2017, halves side by side).

    At t = 1000 the rounding of the frequencies decides the result, so there are two functions for them.

    Args:
        t: [B], any real numbers.
        frequencies: [F].
        channels: C; one more than 2 F is padded with a zero.

    Returns:
        [B, 2 F or C] float32.
    """
    angles = t.float()[:, None] * frequencies
    both = torch.cat([angles.cos(), angles.sin()], dim=1)
    return both if channels is None else F.pad(both, (0, channels - both.shape[1]))


Order = Literal["head-qkv-dim", "qkv-head-dim", "head-dim-qkv"]
"""How the 3 C channels of a joint query-key-value projection are laid out, outermost first."""


def attention(qkv: Tensor, heads: int, order: Order) -> Tensor:
    """Softmax attention between all positions, scaled by 1/sqrt(C / heads).

    Args:
        qkv: [B, 3 C, ...] with T positions in the trailing dimensions.
        heads: their number; divides C.
        order: the layout of the 3 C channels.

    Returns:
        [B, C, T].
    """
    width = qkv.shape[1] // (3 * heads)
    tokens = qkv.flatten(2).transpose(1, 2)  # without a copy where qkv is in channels-last order
    if order == "head-qkv-dim":
        parts = tokens.unflatten(2, (heads, 3, width)).unbind(3)
    elif order == "qkv-head-dim":
        parts = tokens.unflatten(2, (3, heads, width)).unbind(2)
    else:
        parts = tokens.unflatten(2, (heads, width, 3)).unbind(4)
    q, k, v = (part.transpose(1, 2) for part in parts)  # [B, heads, T, width]
    if q.stride(3) != 1:  # for fused kernels, a head's channels must lie side by side
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    mixed = F.scaled_dot_product_attention(q, k, v)
    return mixed.transpose(1, 2).flatten(2).transpose(1, 2)


def halve(x: Tensor) -> Tensor:
    """Mean over 2x2 pixels; H and W must be even."""
    return F.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    """Each pixel repeated 2x2."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def assign(network: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Give a network built on the meta device its weights, without a copy; eval mode, no gradients for parameters."""
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def embedding(count: int, width: int, layers: Layers) -> nn.Embedding:
    """An embedding whose values are still to be loaded.

    torch's own draws them first, which on the meta device imports torch's compiler: two seconds. A host's draws none.
    """
    if layers.Embedding is nn.Embedding:
        return nn.Embedding.from_pretrained(torch.empty(count, width), freeze=False)
    return layers.Embedding(count, width)
