"""The U-Net of guided-diffusion (ADM; Dhariwal and Nichol 2021), which consistency_models (Song et al. 2023) shares.

The two differ in the layout of the attention projection and in what the time argument means. Parameter names are
those of the published files: `input_blocks.N.M`, `middle_block.M`, `output_blocks.N.M`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InputError
from .layers import (
    Layers,
    Order,
    attention,
    conditioned_norm,
    double,
    embedding,
    halve,
    openai_frequencies,
    silu_,
    sinusoidal,
)

GROUPS = 32


@dataclass(frozen=True)
class UNetConfig:
    """What a network is, by the names of the originals' constructor arguments."""

    in_channels: int
    model_channels: int
    out_channels: int
    num_res_blocks: int
    """Residual blocks per resolution; the decoder has one more."""
    attention_resolutions: tuple[int, ...]
    """Downsampling factors (1, 2, 4, ...) at which attention takes place; the middle always has it."""
    channel_mult: tuple[float, ...]
    """Width of each resolution as a multiple of `model_channels`, rounded down."""
    num_classes: int | None = None
    conv_resample: bool = True
    """Up- and downsampling by convolution rather than by repeating and averaging."""
    resblock_updown: bool = False
    """Up- and downsampling inside residual blocks; `conv_resample` then says nothing."""
    use_scale_shift_norm: bool = False
    num_heads: int = 1
    num_head_channels: int = -1
    """Channels of one head; overrules the numbers of heads unless -1."""
    num_heads_upsample: int = -1
    """Number of heads in the decoder; -1 as elsewhere."""
    use_new_attention_order: bool = False
    joint_projection_2d: bool = False
    """consistency_models: projections are 2-D convolutions, and the order is always the new one."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each resolution, finest first."""
        return tuple(int(mult * self.model_channels) for mult in self.channel_mult)

    def heads(self, channels: int, *, decoder: bool = False) -> int:
        """Number of attention heads in a block of that many channels.

        Raises:
            InputError: the heads do not divide the channels.
        """
        number = self.num_heads_upsample if decoder and self.num_heads_upsample != -1 else self.num_heads
        named = "num_heads"
        if self.num_head_channels != -1:
            number, named = channels // max(self.num_head_channels, 1), "num_head_channels"
        size = self.num_head_channels if self.num_head_channels != -1 else channels // max(number, 1)
        if number < 1 or number * size != channels:
            given = getattr(self, named)
            raise InputError(f"{named} {given}: does not divide an attention block of {channels} channels")
        return number


class Stage(nn.ModuleList):
    """Layers in a row; those that want the embedding are given it."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


class Downsample(nn.Module):
    """Half the resolution, by a strided convolution or by averaging."""

    def __init__(self, channels: int, conv: bool, layers: Layers) -> None:
        super().__init__()
        self.op = layers.Conv2d(channels, channels, 3, stride=2, padding=1) if conv else None

    def forward(self, x: Tensor) -> Tensor:
        return halve(x) if self.op is None else self.op(x)


class Upsample(nn.Module):
    """Twice the resolution by repeating, and a convolution where wanted."""

    def __init__(self, channels: int, conv: bool, layers: Layers) -> None:
        super().__init__()
        self.conv = layers.Conv2d(channels, channels, 3, padding=1) if conv else None

    def forward(self, x: Tensor) -> Tensor:
        x = double(x)
        return x if self.conv is None else self.conv(x)


class ResBlock(nn.Module):
    """Norm, SiLU, (resample,) convolution; the embedding; norm, SiLU, convolution; added to the (resampled) input."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        config: UNetConfig,
        layers: Layers,
        *,
        up: bool = False,
        down: bool = False,
    ) -> None:
        super().__init__()
        self.resample = double if up else halve if down else None
        self.scale_shift = config.use_scale_shift_norm
        self.in_layers = nn.Sequential(
            layers.GroupNorm(GROUPS, channels, eps=1e-5),
            nn.SiLU(),
            layers.Conv2d(channels, out_channels, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(),
            layers.Linear(4 * config.model_channels, out_channels * (2 if self.scale_shift else 1)),
        )
        self.out_layers = nn.Sequential(
            layers.GroupNorm(GROUPS, out_channels, eps=1e-5),
            nn.SiLU(),
            nn.Dropout(0.0),
            layers.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.skip_connection = layers.Conv2d(channels, out_channels, 1) if out_channels != channels else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x [B, C, H, W], emb [B, E] after SiLU."""
        h = silu_(self.in_layers[0](x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.in_layers[2](h)
        condition = self.emb_layers[1](emb)
        if self.scale_shift:
            h = conditioned_norm(h, self.out_layers[0], *condition.chunk(2, dim=1))
        else:
            h = self.out_layers[0](h.add_(condition.to(h.dtype)[:, :, None, None]))
        return self.out_layers[3](silu_(h)).add_(self.skip_connection(x))


class AttentionBlock(nn.Module):
    """Norm, attention between all positions, projection; added to the input."""

    def __init__(self, channels: int, heads: int, config: UNetConfig, layers: Layers) -> None:
        super().__init__()
        self.heads = heads
        self.flat = not config.joint_projection_2d
        new = config.use_new_attention_order or config.joint_projection_2d
        self.order: Order = "qkv-head-dim" if new else "head-qkv-dim"
        conv = layers.Conv1d if self.flat else layers.Conv2d
        self.norm = layers.GroupNorm(GROUPS, channels, eps=1e-5)
        self.qkv = conv(channels, 3 * channels, 1)
        self.proj_out = conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        mixed = attention(self.qkv(h.flatten(2) if self.flat else h), self.heads, self.order)
        h = self.proj_out(mixed if self.flat else mixed.unflatten(2, x.shape[2:]))
        return h.view_as(x).add_(x)


class UNet(nn.Module):
    """epsilon (and variance), or consistency_models' F.

    Args:
        config: what to build.
        layers: namespace of layer classes.

    Raises:
        InputError: the configuration cannot be built.
    """

    def __init__(self, config: UNetConfig, layers: Layers = nn) -> None:
        super().__init__()
        self.config = config
        width = 4 * config.model_channels
        if any(w < GROUPS or w % GROUPS for w in config.widths):
            raise InputError(f"channel widths {config.widths}: each must be a multiple of {GROUPS}")
        self.time_embed = nn.Sequential(
            layers.Linear(config.model_channels, width), nn.SiLU(), layers.Linear(width, width)
        )
        if config.num_classes is not None:
            self.label_emb = embedding(config.num_classes, width, layers)
        skips: list[int] = []
        self.input_blocks = nn.ModuleList(self._encoder(layers, skips))
        bottom = skips[-1]
        self.middle_block = Stage(
            [
                ResBlock(bottom, bottom, config, layers),
                AttentionBlock(bottom, config.heads(bottom), config, layers),
                ResBlock(bottom, bottom, config, layers),
            ]
        )
        self.output_blocks = nn.ModuleList(self._decoder(layers, skips))
        first = config.widths[0]
        self.out = nn.Sequential(
            layers.GroupNorm(GROUPS, first, eps=1e-5),
            nn.SiLU(),
            layers.Conv2d(first, config.out_channels, 3, padding=1),
        )

    def _encoder(self, layers: Layers, skips: list[int]) -> Iterator[Stage]:
        c, config = self.config.widths[0], self.config
        skips.append(c)
        yield Stage([layers.Conv2d(config.in_channels, c, 3, padding=1)])
        for level, width in enumerate(config.widths):
            for _ in range(config.num_res_blocks):
                stage: list[nn.Module] = [ResBlock(c, width, config, layers)]
                c = width
                if 2**level in config.attention_resolutions:
                    stage.append(AttentionBlock(c, config.heads(c), config, layers))
                skips.append(c)
                yield Stage(stage)
            if level < len(config.widths) - 1:
                skips.append(c)
                if config.resblock_updown:
                    yield Stage([ResBlock(c, c, config, layers, down=True)])
                else:
                    yield Stage([Downsample(c, config.conv_resample, layers)])

    def _decoder(self, layers: Layers, skips: list[int]) -> Iterator[Stage]:
        c, config = skips[-1], self.config
        for level in reversed(range(len(config.widths))):
            width = config.widths[level]
            for i in range(config.num_res_blocks + 1):
                stage: list[nn.Module] = [ResBlock(c + skips.pop(), width, config, layers)]
                c = width
                if 2**level in config.attention_resolutions:
                    stage.append(AttentionBlock(c, config.heads(c, decoder=True), config, layers))
                if level and i == config.num_res_blocks:
                    if config.resblock_updown:
                        stage.append(ResBlock(c, c, config, layers, up=True))
                    else:
                        stage.append(Upsample(c, config.conv_resample, layers))
                yield Stage(stage)

    def embed(self, t: Tensor, labels: Tensor | None) -> Tensor:
        """SiLU of the sum of time and label embedding, [B, E]; t [B] real, labels int64 [B] where there are classes."""
        channels = self.config.model_channels
        waves = sinusoidal(t, openai_frequencies(channels // 2, t.device), channels=channels)
        emb: Tensor = self.time_embed(waves)
        if labels is not None:
            emb = emb + self.label_emb(labels)
        return silu_(emb)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """x [B, C, H, W] with H and W divisible by 2^(levels - 1); returns [B, out_channels, H, W]."""
        emb = self.embed(t, labels)
        skips = []
        for stage in self.input_blocks:
            x = stage(x, emb)
            skips.append(x)
        x = self.middle_block(x, emb)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], dim=1), emb)
        return self.out[2](silu_(self.out[0](x)))
