"""The demo model's UNet: small enough to train on one CPU core, built like its larger relatives.

The first convolution sees 2x2 pixel patches (space to depth), so that all work happens at half resolution. Each
level is residual blocks with GroupNorm, SiLU and scale-shift conditioning on the noise level (Dhariwal and Nichol
2021), the lowest levels with self-attention; skips are concatenated. What the answer means is decided outside, by
`ssi_core.denoiser.EDM` or `Velocity` (see `kinds.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.layers import Layers


class Residual(nn.Module):
    """norm-SiLU-conv twice; the noise level scales and shifts the second norm."""

    def __init__(self, inward: int, outward: int, embedding: int, layers: Layers) -> None:
        super().__init__()
        self.norm1 = layers.GroupNorm(8, inward)
        self.conv1 = layers.Conv2d(inward, outward, 3, padding=1)
        self.modulate = layers.Linear(embedding, 2 * outward)
        self.norm2 = layers.GroupNorm(8, outward)
        self.conv2 = layers.Conv2d(outward, outward, 3, padding=1)
        self.skip = layers.Conv2d(inward, outward, 1) if inward != outward else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulate(level)[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return self.skip(x) + h


class Attention(nn.Module):
    """Multi-head self-attention over all positions, residual."""

    def __init__(self, channels: int, heads: int, layers: Layers) -> None:
        super().__init__()
        self.heads = heads
        self.norm = layers.GroupNorm(8, channels)
        self.qkv = layers.Conv2d(channels, 3 * channels, 1)
        self.out = layers.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w).transpose(-1, -2).unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.transpose(-1, -2).reshape(b, c, h, w))


class Level(nn.Module):
    """One residual block, with attention after it where wanted."""

    def __init__(self, inward: int, outward: int, embedding: int, attend: bool, layers: Layers) -> None:
        super().__init__()
        self.residual = Residual(inward, outward, embedding, layers)
        self.attention = Attention(outward, max(1, outward // 32), layers) if attend else nn.Identity()

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return self.attention(self.residual(x, level))


class DemoUNet(nn.Module):
    """F(x, c_noise) of the EDM preconditioning, or v(x, t) of a flow.

    Args:
        image_size: height and width in pixels, a multiple of patch * 2 ** (levels - 1).
        channels: image channels.
        width: feature channels at the first level.
        multipliers: width of each level, as multiples of `width`; each level halves the resolution.
        blocks: residual blocks a level (one more on the way up).
        attention: for each level, whether its blocks attend.
        patch: side of the space-to-depth patches.
        classes: how many there are; 0 for a network that knows none.
        layers: namespace of layer classes (a host's castable ones).
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        attention: Sequence[bool] = (False, True, True),
        patch: int = 2,
        classes: int = 0,
        layers: Layers = nn,
    ) -> None:
        super().__init__()
        self.image_size, self.channels, self.patch, self.width = image_size, channels, patch, width
        self.classes = classes
        self.size_multiple = patch * 2 ** (len(multipliers) - 1)
        embedding = 4 * width
        self.embed = nn.Sequential(
            layers.Linear(width, embedding), nn.SiLU(), layers.Linear(embedding, embedding), nn.SiLU()
        )
        if classes:
            self.label = layers.Linear(classes, embedding, bias=False)
        self.stem = layers.Conv2d(channels * patch**2, width, 3, padding=1)

        widths = [width * m for m in multipliers]
        self.down = nn.ModuleList()
        current, kept = width, [width]
        for depth, out in enumerate(widths):
            if depth:
                self.down.append(layers.Conv2d(current, current, 3, stride=2, padding=1))
                kept.append(current)
            for _ in range(blocks):
                self.down.append(Level(current, out, embedding, attention[depth], layers))
                current = out
                kept.append(current)
        self.middle = Level(current, current, embedding, True, layers)
        self.up = nn.ModuleList()
        for depth, out in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(Level(current + kept.pop(), out, embedding, attention[depth], layers))
                current = out
            if depth:
                self.up.append(Upsample(current, layers))
        self.norm = layers.GroupNorm(8, current)
        self.head = layers.Conv2d(current, channels * patch**2, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """
        Args:
            x: [B, C, H, W] of about unit variance.
            c_noise: [B], ln(sigma) / 4 or a flow's t.
            labels: weights of the classes, one-hot, [B, classes]; zeros, or None, for no class.

        Returns:
            [B, C, H, W].
        """
        level = self.embed[:-1](_sinusoids(c_noise * 100.0, self.width))
        if labels is not None:
            level = level + self.label(labels.to(level))
        level = self.embed[-1](level)
        h = self.stem(F.pixel_unshuffle(x, self.patch))
        kept = [h]
        for part in self.down:
            h = part(h, level) if isinstance(part, Level) else part(h)
            kept.append(h)
        h = self.middle(h, level)
        for part in self.up:
            h = part(torch.cat([h, kept.pop()], dim=1), level) if isinstance(part, Level) else part(h)
        return F.pixel_shuffle(self.head(F.silu(self.norm(h))), self.patch)


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a convolution."""

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.conv = layers.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _sinusoids(value: Tensor, width: int) -> Tensor:
    """[B] -> [B, width]: cosines and sines at geometrically spaced frequencies from 1 to 1/1000."""
    half = width // 2
    frequency = torch.exp(-math.log(1000.0) * torch.arange(half, device=value.device, dtype=torch.float32) / half)
    angle = value.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)
