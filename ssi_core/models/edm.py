"""The networks of NVlabs/edm (Karras et al. 2022): SongUNet (DDPM++, NCSN++; Song et al. 2021) and DhariwalUNet (ADM).

Parameter names are those of the published files, in which every block is named after the resolution it works at:
`enc.32x32_conv`, `enc.16x16_down`, `dec.16x16_in0`, `dec.32x32_block4`, ...
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from .layers import Layers, attention, conditioned_norm, double, halve, nvlabs_frequencies, silu_, sinusoidal


@dataclass(frozen=True)
class EDMNetConfig:
    """What a network is, by the names of the originals' constructor arguments; both architectures in one."""

    model_type: Literal["SongUNet", "DhariwalUNet"]
    img_resolution: int
    """Finest resolution; it names the blocks."""
    in_channels: int
    out_channels: int
    model_channels: int
    channel_mult: tuple[int, ...]
    """Width of each resolution as a multiple of `model_channels`."""
    num_blocks: int
    """Residual blocks per resolution; the decoder has one more."""
    attn_resolutions: tuple[int, ...]
    label_dim: int = 0
    augment_dim: int = 0
    channel_mult_emb: int = 4
    channel_mult_noise: int = 1
    """SongUNet: width of the noise embedding as a multiple of `model_channels`."""
    embedding_type: Literal["positional", "fourier"] = "positional"
    encoder_type: Literal["standard", "skip", "residual"] = "standard"
    decoder_type: Literal["standard", "skip"] = "standard"
    resample_filter: tuple[float, ...] = (1.0, 1.0)

    def resolutions(self) -> list[tuple[int, str, int]]:
        """(level, "RxR", channels) of each resolution, finest first."""
        return [
            (level, "{0}x{0}".format(self.img_resolution >> level), mult * self.model_channels)
            for level, mult in enumerate(self.channel_mult)
        ]

    def attends(self, level: int) -> bool:
        return self.img_resolution >> level in self.attn_resolutions

    @property
    def plain_filter(self) -> bool:
        """Whether resampling is repeating and averaging."""
        return len(self.resample_filter) == 2 and self.resample_filter[0] == self.resample_filter[1]


def group_norm(channels: int, eps: float, layers: Layers) -> nn.Module:
    """32 groups, or fewer, so that each has at least 4 channels."""
    groups = min(32, channels // 4)
    if groups < 1 or channels % groups:
        raise InputError(f"channel width {channels}: cannot be normalised in {groups} groups")
    return layers.GroupNorm(groups, channels, eps=eps)


class Resampler:
    """Halving or doubling with the separable filter that the file stores beside each resampling convolution."""

    def __init__(self, direction: Literal["up", "down"], config: EDMNetConfig) -> None:
        self.direction = direction
        self.plain = config.plain_filter
        # By NumPy: on the meta device, where only the shape counts (the values come from the file), some of torch's
        # operations import its compiler, which takes two seconds.
        taps = np.asarray(config.resample_filter, dtype=np.float32)
        self.kernel = torch.tensor((np.outer(taps, taps) / taps.sum() ** 2)[None, None].tolist(), dtype=torch.float32)

    def attach(self, module: nn.Module) -> nn.Module:
        """Register the filter as the module's buffer, under the name it has in the files."""
        module.register_buffer("resample_filter", self.kernel.clone())
        return module

    def __call__(self, x: Tensor, module: nn.Module, *, padding: int | None = None) -> Tensor:
        """Resample [B, C, H, W] with the filter attached to `module`; zeros lie beyond the border."""
        kernel = module.resample_filter
        if self.plain:
            return halve(x) if self.direction == "down" else double(x)
        assert isinstance(kernel, Tensor)
        channels, pad = x.shape[1], (kernel.shape[-1] - 1) // 2 if padding is None else padding
        weight = kernel.to(x).expand(channels, 1, -1, -1)
        if self.direction == "down":
            return F.conv2d(x, weight, groups=channels, stride=2, padding=pad)
        return F.conv_transpose2d(x, 4 * weight, groups=channels, stride=2, padding=pad)


class Block(nn.Module):
    """Residual block with optional resampling and attention.

    Args:
        channels, out_channels: widths.
        config: the network's configuration; decides between SongUNet's and DhariwalUNet's form.
        attention: whether attention is wanted here.
        resampler: up, down or neither.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        config: EDMNetConfig,
        layers: Layers,
        *,
        attention: bool = False,
        resampler: Resampler | None = None,
    ) -> None:
        super().__init__()
        song = config.model_type == "SongUNet"
        eps = 1e-6 if song else 1e-5
        self.channels, self.out_channels, self.resampler = channels, out_channels, resampler
        self.adaptive_scale = not song
        self.skip_scale = math.sqrt(0.5) if song else 1.0
        self.heads = (1 if song else out_channels // 64) if attention else 0

        self.norm0 = group_norm(channels, eps, layers)
        self.conv0 = layers.Conv2d(channels, out_channels, 3, padding=1)
        self.affine = layers.Linear(
            config.model_channels * config.channel_mult_emb, out_channels * (2 if self.adaptive_scale else 1)
        )
        self.norm1 = group_norm(out_channels, eps, layers)
        self.conv1 = layers.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip: nn.Module | None = None
        # SongUNet projects whatever it resamples; DhariwalUNet only what changes its width.
        if channels != out_channels or (resampler is not None and song):
            self.skip = layers.Conv2d(channels, out_channels, 1)
        elif resampler is not None:
            self.skip = nn.Identity()
        if resampler is not None:
            resampler.attach(self.conv0)
            assert self.skip is not None
            resampler.attach(self.skip)
        if self.heads:
            if out_channels % self.heads:
                raise InputError(f"attention block of {out_channels} channels: not divisible by {self.heads} heads")
            self.norm2 = group_norm(out_channels, eps, layers)
            self.qkv = layers.Conv2d(out_channels, 3 * out_channels, 1)
            self.proj = layers.Conv2d(out_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x [B, C, H, W], emb [B, E]."""
        h = silu_(self.norm0(x))
        if self.resampler is not None:
            assert self.skip is not None
            h, x = self.resampler(h, self.conv0), self.resampler(x, self.skip)
        h = self.conv0(h)
        condition = self.affine(emb)
        if self.adaptive_scale:
            h = conditioned_norm(h, self.norm1, *condition.chunk(2, dim=1))
        else:
            h = self.norm1(h.add_(condition.to(h.dtype)[:, :, None, None]))
        x = self.conv1(silu_(h)).add_(x if self.skip is None else self.skip(x)).mul_(self.skip_scale)
        if self.heads:
            mixed = attention(self.qkv(self.norm2(x)), self.heads, "head-dim-qkv")
            x = self.proj(mixed.unflatten(2, x.shape[2:])).add_(x).mul_(self.skip_scale)
        return x


def swap(embedding: Tensor) -> Tensor:
    """[cos, sin] as [sin, cos]."""
    return torch.cat(embedding.chunk(2, dim=1)[::-1], dim=1)


class Fourier(nn.Module):
    """[sin, cos] of 2 pi t times random frequencies that the file holds (NCSN++)."""

    freqs: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.zeros(channels // 2))

    def forward(self, t: Tensor) -> Tensor:
        # A host that offloads layers one by one moves no buffers.
        return swap(sinusoidal(t, 2 * math.pi * self.freqs.to(t.device, torch.float32)))


class Positional(nn.Module):
    """[sin, cos] of t at fixed frequencies, of which the last is 1/10000 (DDPM++)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, t: Tensor) -> Tensor:
        return swap(sinusoidal(t, nvlabs_frequencies(self.channels // 2, t.device, endpoint=True)))


class Auxiliary(nn.Module):
    """A resampler without a convolution: the file holds only its filter."""

    def __init__(self, resampler: Resampler) -> None:
        super().__init__()
        self.resampler = resampler
        resampler.attach(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.resampler(x, self)


class _EDMUNet(nn.Module):
    """Encoder, decoder and their skips; what the two architectures share."""

    def __init__(self, config: EDMNetConfig, layers: Layers) -> None:
        super().__init__()
        self.config = config
        self.enc = nn.ModuleDict()
        self.dec = nn.ModuleDict()
        self.down = Resampler("down", config)
        self.up = Resampler("up", config)
        decoder_attends_once = config.model_type == "SongUNet"

        skips: list[int] = []
        c = config.model_channels * (1 if config.model_type == "SongUNet" else config.channel_mult[0])
        for level, name, width in config.resolutions():
            if level == 0:
                self.enc[f"{name}_conv"] = layers.Conv2d(config.in_channels, c, 3, padding=1)
            else:
                self.enc[f"{name}_down"] = Block(c, c, config, layers, resampler=self.down)
                self._add_encoder_auxiliary(name, c, layers)
            skips.append(c)
            for i in range(config.num_blocks):
                attends = config.attends(level)
                self.enc[f"{name}_block{i}"] = Block(c, width, config, layers, attention=attends)
                c = width
                skips.append(c)

        for level, name, width in reversed(config.resolutions()):
            if level == len(config.channel_mult) - 1:
                self.dec[f"{name}_in0"] = Block(c, c, config, layers, attention=True)
                self.dec[f"{name}_in1"] = Block(c, c, config, layers)
            else:
                self.dec[f"{name}_up"] = Block(c, c, config, layers, resampler=self.up)
            for i in range(config.num_blocks + 1):
                attends = config.attends(level) and (i == config.num_blocks or not decoder_attends_once)
                self.dec[f"{name}_block{i}"] = Block(c + skips.pop(), width, config, layers, attention=attends)
                c = width
            self._add_decoder_auxiliary(level, name, c, layers)

    def _add_encoder_auxiliary(self, name: str, channels: int, layers: Layers) -> None:
        """Add what a resolution's encoder needs beside its blocks; `channels` is the width of the blocks' input."""

    def _add_decoder_auxiliary(self, level: int, name: str, channels: int, layers: Layers) -> None:
        """Add what a resolution's decoder needs beside its blocks; `channels` is the width of the blocks' output."""

    def embed(self, t: Tensor, labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        raise NotImplementedError

    def decode(self, x: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(
        self, x: Tensor, t: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """The raw network.

        Args:
            x: [B, C, H, W], scaled to unit variance; H and W divisible by 2^(levels - 1).
            t: [B], c_noise of the preconditioning.
            labels: [B or 1, label_dim], one-hot or zeros, which None also means.
            augment_labels: [B or 1, augment_dim]; None is no augmentation.

        Returns:
            [B, out_channels, H, W].
        """
        emb = self.embed(t, self._labels(labels, t), augment_labels)
        skips: list[Tensor] = []
        aux = x
        for name, block in self.enc.items():
            if isinstance(block, Block):
                skips.append(block(skips[-1], emb))
            elif name.endswith("_conv"):
                skips.append(block(x))
            elif name.endswith("_aux_down"):
                aux = block(aux)
            elif name.endswith("_aux_skip"):
                skips[-1] = block(aux) + skips[-1]
            else:
                aux = self.down(block(aux), block, padding=0).add_(skips[-1]).mul_(math.sqrt(0.5))
                skips[-1] = aux
        return self.decode(skips[-1], skips, emb)

    def _labels(self, labels: Tensor | None, t: Tensor) -> Tensor | None:
        if not self.config.label_dim:
            return None
        return torch.zeros(1, self.config.label_dim, device=t.device) if labels is None else labels.float()


class SongUNet(_EDMUNet):
    """DDPM++ (positional, standard, [1, 1]) and NCSN++ (fourier, residual, [1, 3, 3, 1]) and what lies between."""

    def __init__(self, config: EDMNetConfig, layers: Layers = nn) -> None:
        super().__init__(config, layers)
        noise = config.model_channels * config.channel_mult_noise
        width = config.model_channels * config.channel_mult_emb
        self.map_noise = Fourier(noise) if config.embedding_type == "fourier" else Positional(noise)
        self.map_label = layers.Linear(config.label_dim, noise) if config.label_dim else None
        self.map_augment = layers.Linear(config.augment_dim, noise, bias=False) if config.augment_dim else None
        self.map_layer0 = layers.Linear(noise, width)
        self.map_layer1 = layers.Linear(width, width)

    def _add_encoder_auxiliary(self, name: str, channels: int, layers: Layers) -> None:
        config = self.config
        if config.encoder_type == "skip":
            self.enc[f"{name}_aux_down"] = Auxiliary(self.down)
            self.enc[f"{name}_aux_skip"] = layers.Conv2d(config.in_channels, channels, 1)
        elif config.encoder_type == "residual":
            before = [block.out_channels for name, block in self.enc.items() if name.endswith("_aux_residual")]
            source = before[-1] if before else config.in_channels
            # The filter's padding is given to the convolution before it, which so sees real pixels further out.
            padding = 1 + (len(config.resample_filter) - 1) // 2
            self.enc[f"{name}_aux_residual"] = self.down.attach(layers.Conv2d(source, channels, 3, padding=padding))

    def _add_decoder_auxiliary(self, level: int, name: str, channels: int, layers: Layers) -> None:
        config = self.config
        if config.decoder_type == "skip" and level < len(config.channel_mult) - 1:
            self.dec[f"{name}_aux_up"] = Auxiliary(self.up)
        if config.decoder_type == "skip" or level == 0:
            self.dec[f"{name}_aux_norm"] = group_norm(channels, 1e-6, layers)
            self.dec[f"{name}_aux_conv"] = layers.Conv2d(channels, config.out_channels, 3, padding=1)

    def embed(self, t: Tensor, labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        emb = self.map_noise(t).to(self.map_layer0.weight.dtype)
        if self.map_label is not None and labels is not None:
            emb = emb + self.map_label(labels * math.sqrt(self.config.label_dim))
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.to(emb))
        return silu_(self.map_layer1(silu_(self.map_layer0(emb))))

    def decode(self, x: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        image: Tensor | None = None
        normed = x
        for name, block in self.dec.items():
            if isinstance(block, Block):
                x = block(torch.cat([x, skips.pop()], dim=1) if block.channels != x.shape[1] else x, emb)
            elif name.endswith("_aux_up"):
                image = block(image)
            elif name.endswith("_aux_norm"):
                normed = silu_(block(x))
            else:
                image = block(normed) if image is None else block(normed).add_(image)
        assert image is not None
        return image


class DhariwalUNet(_EDMUNet):
    """ADM as reimplemented by NVlabs: heads of 64 channels, adaptive scale, labels joined after the mapping."""

    def __init__(self, config: EDMNetConfig, layers: Layers = nn) -> None:
        super().__init__(config, layers)
        noise, width = config.model_channels, config.model_channels * config.channel_mult_emb
        self.map_augment = layers.Linear(config.augment_dim, noise, bias=False) if config.augment_dim else None
        self.map_layer0 = layers.Linear(noise, width)
        self.map_layer1 = layers.Linear(width, width)
        self.map_label = layers.Linear(config.label_dim, width, bias=False) if config.label_dim else None
        c = config.channel_mult[0] * config.model_channels
        self.out_norm = group_norm(c, 1e-5, layers)
        self.out_conv = layers.Conv2d(c, config.out_channels, 3, padding=1)

    def embed(self, t: Tensor, labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        frequencies = nvlabs_frequencies(self.config.model_channels // 2, t.device, endpoint=False)
        emb = sinusoidal(t, frequencies).to(self.map_layer0.weight.dtype)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.to(emb))
        emb = self.map_layer1(silu_(self.map_layer0(emb)))
        if self.map_label is not None and labels is not None:
            emb = emb + self.map_label(labels)
        return silu_(emb)

    def decode(self, x: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        for block in self.dec.values():
            assert isinstance(block, Block)
            x = block(torch.cat([x, skips.pop()], dim=1) if block.channels != x.shape[1] else x, emb)
        return self.out_conv(silu_(self.out_norm(x)))


ARCHITECTURES: dict[str, type[_EDMUNet]] = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}
