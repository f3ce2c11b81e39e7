"""Pixel models as the host's own MODEL and VAE: its samplers, guiders, previews, LoRA and offloading serve them.

The host sees one kind of model: the engine's D(x, sigma), asked at the very sigma of the sampler. What a checkpoint's
network predicts and how its time is counted is the engine's business (`ssi_core.models`), so nothing of it is repeated
here, and a family added there can be used here as it is.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.ops
import comfy.sd
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor, nn

from ...ssi_core.demo import DEMO_MODELS, demo_denoiser
from ...ssi_core.errors import InputError
from ...ssi_core.models import load_checkpoint
from ...ssi_core.models.commands import describe
from ...ssi_core.models.layers import Layers
from ...ssi_core.models.recognise import published
from ...ssi_core.process import VE, DiscreteVP, Process
from .show import shape

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
"""In which the engine's networks run, in the order in which the host may choose."""
LEVELS = 1000
"""Length of the table of noise levels that core's schedulers pick from, for models of a continuum of levels."""
LIVE_MAPS = 12
"""Activations at full size and width that one evaluation keeps at once (measured on ADM and SongUNet: 8 to 11)."""
NO_CLASS = -1


@dataclass(frozen=True, eq=False)
class Pixels:
    """What the host has to know of a pixel model, be it a checkpoint or the embedded one."""

    network: nn.Module = field(repr=False)
    """Built from the host's layers; its weights are the host's to cast and move."""
    denoise: Callable[[Tensor, Tensor, Tensor | None], Tensor] = field(repr=False)
    """(x [B, C, H, W] float32, sigma [B], labels [B] or one-hot) -> D, float32."""
    process: Process
    sigma_min: float
    sigma_max: float
    name: str
    channels: int
    size: int | None
    """Height and width that it was trained on, where that is known."""
    multiple: int
    """Of which heights and widths must be multiples."""
    compute_dtype: torch.dtype
    story: tuple[str, ...]
    """Sentences for people."""
    classes: int = 0
    null_class: bool = False
    """Whether it can be asked without a class although it has some."""
    own_size_only: bool = False
    """Whether pictures of another size, though the network runs on them, come out as nothing good."""

    def check_shape(self, latent: Tensor, part: bool = False) -> None:
        """
        Args:
            latent: a batch of them.
            part: they are a part of the picture (an area of the prompt).

        Raises:
            InputError: not a batch of images that the network can take.
        """
        if latent.ndim != 4 or latent.shape[1] != self.channels:
            raise InputError(
                f"latent: of shape {shape(latent)}, where {self.name} takes images of {self.channels} "
                f"channels; use SSI Empty Pixel Latent, or VAE Encode with the VAE of SSI Load Pixel Model"
            )
        height, width = latent.shape[2:]
        if self.own_size_only and not part and (height != self.size or width != self.size):
            raise InputError(
                f"latent: {width}x{height} pixels, where {self.name} takes {self.size}x{self.size} only; resize the "
                f"image before VAE Encode (Upscale Image, crop: center), or use SSI Empty Pixel Latent"
            )
        if height % self.multiple or width % self.multiple or 0 in latent.shape:
            trained = f" (it was trained on {self.size}x{self.size})" if self.size else ""
            raise InputError(
                f"latent: {width}x{height} pixels, where {self.name} takes multiples of {self.multiple}{trained}; "
                f"resize the image before VAE Encode"
            )

    def class_labels(self, given: Any, batch: int | None = None, where: str = "label") -> Tensor | None:
        """Class numbers [1] or [batch], `NO_CLASS` where there is none; None where the network takes no labels at all.

        Args:
            given: number, tensor of numbers, or None.
            batch: how many images there are, where that is known.
            where: the input to name in messages.

        Raises:
            InputError: a class that the model has not, or not one for each image.
        """
        if given is None:
            return torch.tensor([NO_CLASS]) if self.classes and self.null_class else None
        if not self.classes:
            raise InputError(f"{where}: {self.name} knows no classes; leave the label of SSI Class Label empty")
        labels = torch.as_tensor(given).reshape(-1)
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise InputError(f"{where}: class labels of type {labels.dtype}; whole numbers are wanted")
        labels = labels.long()
        outside = [label for label in labels.tolist() if not 0 <= label < self.classes]
        if outside:
            raise InputError(
                f"{where}: class {outside[0]}, where {self.name} has the classes 0 to {self.classes - 1}; change the "
                f"label of SSI Class Label"
            )
        if batch is not None and len(labels) not in (1, batch):
            raise InputError(
                f"{where}: {len(labels)} class labels for {batch} images; give SSI Class Label one, or one "
                f"for each image"
            )
        return labels

    def needs_class(self) -> bool:
        return bool(self.classes) and not self.null_class

    def missing_class(self, where: str) -> InputError:
        return InputError(
            f"{where}: {self.name} has {self.classes} classes and none for 'any'; connect SSI Class Label with a label "
            f"from 0 to {self.classes - 1} to it (to positive, and to negative too unless cfg is 1)"
        )


class Levels(nn.Module, comfy.model_sampling.X0):
    """The model's noise levels in VE coordinates: the host's `model_sampling` of every pixel model.

    Timesteps are indices in the table of levels, whole ones (the nearest) where the model was trained on those very
    levels, as in core. They are for schedulers and people: the network is given sigma.
    """

    def __init__(self, pixels: Pixels) -> None:
        super().__init__()
        process = pixels.process
        ends = torch.tensor([pixels.sigma_min, pixels.sigma_max], dtype=torch.float64)
        self.counted = isinstance(process, DiscreteVP)
        if isinstance(process, DiscreteVP):
            levels = process.sigmas
        elif isinstance(process, VE):  # whose time is sigma itself, in which nearly all steps would be at the top
            levels = _evenly(ends.log()).exp()
        else:
            levels = process.sigma(_evenly(process.time(ends)))
        # Plain attributes: dynamic VRAM restores the buffers of the model that a patch replaced, by path.
        self.sigmas = levels.float()
        self.log_sigmas = levels.log().float()
        # As core has it: 1 for models trained on states of unit variance, 0.5 for the others.
        self.sigma_data = 0.5 if isinstance(process, VE) else 1.0

    @property
    def sigma_min(self) -> Tensor:
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        return self.sigmas[-1]

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        return noise

    def timestep(self, sigma: Tensor) -> Tensor:
        known = self.log_sigmas.to(sigma.device)
        wanted = sigma.float().log()
        upper = torch.searchsorted(known, wanted.contiguous()).clamp(1, len(known) - 1)
        low, high = known[upper - 1], known[upper]
        index = upper - 1 + (wanted - low) / (high - low)
        return index.clamp(0, len(known) - 1).round().long() if self.counted else index

    def sigma(self, timestep: Tensor) -> Tensor:
        known = self.log_sigmas.to(timestep.device)
        t = timestep.float()
        lower = t.floor().clamp(0, len(known) - 2).long()
        return torch.lerp(known[lower], known[lower + 1], t - lower).exp()

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0:
            return 999999999.9  # core's word for "from the beginning"
        if percent >= 1:
            return 0.0
        return float(self.sigma(torch.tensor((1 - percent) * (len(self.sigmas) - 1))))


def _evenly(ends: Tensor) -> Tensor:
    low, high = ends.tolist()
    return torch.linspace(low, high, LEVELS, dtype=torch.float64)


class PixelNetwork(nn.Module):
    """The host's `diffusion_model`: the engine's D around the network."""

    # The scalings before and after the network would lose the image in half precision; D casts for the network itself.
    dtype = torch.float32

    def __init__(self, pixels: Pixels) -> None:
        super().__init__()
        self.network = pixels.network
        self.pixels = pixels

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        control: Any = None,
        transformer_options: Any = None,
        class_label: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """`timesteps` is sigma [B]; `class_label` [B], `NO_CLASS` for none."""
        pixels = self.pixels
        if control is not None:
            raise InputError(f"control: {pixels.name} cannot be steered by a ControlNet; remove Apply ControlNet")
        options = transformer_options or {}
        patches = [*options.get("patches", {}), *options.get("patches_replace", {})]
        if patches:
            raise InputError(
                f"model: a node behind SSI Load Pixel Model changes layers that {pixels.name} has not ({patches[0]}); "
                f"remove it (PAG, SAG, HyperTile and their like are for latent diffusion models)"
            )
        pixels.check_shape(x, part=True)
        if class_label is None and pixels.needs_class():
            raise pixels.missing_class("conditioning")
        if class_label is not None and pixels.null_class:
            one_hot = nn.functional.one_hot(class_label.clamp(min=0), pixels.classes)
            class_label = (one_hot * (class_label >= 0)[:, None]).float()
        return pixels.denoise(x, timesteps, class_label)


class PixelFormat(comfy.latent_formats.LatentFormat):
    """The latent is the image, in [-1, 1]."""

    latent_channels = 3
    spacial_downscale_ratio = 1  # the host's spelling
    latent_rgb_factors: Any = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]  # noqa: RUF012  # the host's class does so


class _Config(comfy.supported_models_base.BASE):
    unet_config: Any = {}  # noqa: RUF012
    unet_extra_config: Any = {}  # noqa: RUF012
    latent_format = PixelFormat


class PixelBase(comfy.model_base.BaseModel):
    """The host's base model around a pixel model."""

    def __init__(self, pixels: Pixels, device: torch.device) -> None:
        config = _Config({})
        config.set_inference_dtype(PixelNetwork.dtype, None)
        # The host reckons 0.01 MiB times the size of `PixelNetwork.dtype` for each pixel and unit of this factor.
        width = next((m.out_channels for m in pixels.network.modules() if isinstance(m, nn.Conv2d)), 128)
        per_pixel = LIVE_MAPS * width * pixels.compute_dtype.itemsize
        config.memory_usage_factor = per_pixel / (0.01 * 2**20 * PixelNetwork.dtype.itemsize)
        super().__init__(config, device=device, unet_model=lambda **_: PixelNetwork(pixels))
        self.pixels = pixels
        self.model_sampling = Levels(pixels)

    def apply_model(self, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # Timesteps are rounded; the sigma that they are made of travels along.
        return super().apply_model(x, t, *args, exact_sigma=t, **kwargs)

    def process_timestep(self, timestep: Tensor, exact_sigma: Tensor | None = None, **kwargs: Any) -> Tensor:
        """sigma [B], which is what the network is to be told."""
        levels = self.model_sampling
        if not isinstance(levels, Levels):
            raise InputError(
                f"model: a node changed the sampling of {self.pixels.name}, which knows its own noise levels; remove "
                f"the ModelSampling node behind SSI Load Pixel Model"
            )
        if exact_sigma is None:
            return levels.sigma(timestep)
        # A wrapper of another node may have changed the level in between: then the timestep is right.
        unchanged = levels.timestep(exact_sigma).float() == timestep
        return torch.where(unchanged, exact_sigma, levels.sigma(timestep))

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        noise, where = kwargs["noise"], kwargs.get("prompt_type", "conditioning")
        self.pixels.check_shape(noise)
        prompt = kwargs.get("cross_attn")
        if prompt is not None and prompt.numel() > 1 and bool(prompt.any()):
            raise InputError(
                f"{where}: holds a text prompt, which {self.pixels.name} cannot read; connect SSI Class Label instead"
            )
        labels = self.pixels.class_labels(kwargs.get("class_label"), len(noise), where)
        return {} if labels is None else {"class_label": comfy.conds.CONDRegular(labels.to(kwargs["device"]))}


def castable(operations: Any) -> Layers:
    """The host's layer classes, for the engine to build networks from.

    Of its own, the host leaves tensors out of some layers until they are loaded, and the engine could not compare a
    file with the network; it does not do so for layers that have a way of their own to load.
    """

    def whole(kind: Any) -> Any:
        def load(self: Any, *args: Any, **kwargs: Any) -> None:
            kind._load_from_state_dict(self, *args, **kwargs)

        return type(kind.__name__, (kind,), {"_load_from_state_dict": load})

    layers: Any = SimpleNamespace(**{name: whole(getattr(operations, name)) for name in Layers.__annotations__})
    return layers


def pixel_model(source: Path | str, settings: dict[str, Any], dtype: torch.dtype | None, **kwargs: Any) -> Any:
    """A MODEL.

    Args:
        source: checkpoint, or the name of an embedded model.
        settings: arguments of `load_checkpoint` that say what the file does not.
        dtype: in which the network runs; None leaves it to the host (embedded models run in float32).

    Raises:
        InputError: the file cannot be used, or it does not tell everything.
    """
    if isinstance(source, str) and dtype not in (None, torch.float32):
        raise InputError("dtype: the embedded model runs in float32; choose default")
    device = comfy.model_management.get_torch_device()
    offload = comfy.model_management.unet_offload_device()
    stored, computed = _dtypes(source, dtype, device)
    layers = castable(comfy.ops.pick_operations(stored, computed))
    if isinstance(source, str):
        pixels = _demo(source, layers)
    else:
        pixels = _checkpoint(source, layers, stored, computed or stored, settings)
    model = PixelBase(pixels, device=offload)
    if not comfy.model_management.is_device_cpu(offload):
        model.to(offload)
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    if kwargs.get("disable_dynamic"):
        kind = comfy.model_patcher.ModelPatcher
    patcher = kind(model, load_device=device, offload_device=offload)
    patcher.cached_patcher_init = (pixel_model, (source, settings, dtype))  # how the host loads it anew
    return patcher


def pixel_vae() -> Any:
    """The VAE of pixel space: images in [0, 1] to [-1, 1] and back."""
    return comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)}, dtype=torch.float32)


def pixels_of(model: Any) -> Pixels:
    """What a MODEL says about itself.

    Raises:
        InputError: it is no pixel model of ours.
    """
    found = getattr(getattr(model, "model", None), "pixels", None)
    if not isinstance(found, Pixels):
        raise InputError("model: is no pixel model; connect the MODEL of SSI Load Pixel Model")
    return found


def _dtypes(
    source: Path | str, asked: torch.dtype | None, device: torch.device
) -> tuple[torch.dtype, torch.dtype | None]:
    """In which dtype weights are kept, and in which they are computed with where that is another; as core decides."""
    if isinstance(source, str):
        return torch.float32, None
    if asked is None:
        parameters = source.stat().st_size // 4
        asked = comfy.model_management.unet_dtype(model_params=parameters, supported_dtypes=list(DTYPES))
        if asked not in DTYPES:  # --fp8_...-unet
            asked = torch.float32
    return asked, comfy.model_management.unet_manual_cast(asked, device, list(DTYPES))


def _demo(name: str, layers: Layers) -> Pixels:
    demo = demo_denoiser(layers=layers, name=name)
    called = DEMO_MODELS[name].stem
    parameters = sum(p.numel() for p in demo.network.parameters())
    low, high = demo.sigma_min, demo.sigma_max
    return Pixels(
        network=demo.network,
        denoise=lambda x, sigma, labels: demo(x, sigma) if labels is None else demo(x, sigma, labels),
        process=demo.process,
        sigma_min=low,
        sigma_max=high,
        name=called,
        channels=demo.channels,
        size=demo.image_size,
        multiple=demo.network.size_multiple,
        own_size_only=True,
        compute_dtype=demo.dtype,
        classes=len(demo.classes),
        null_class=bool(demo.classes),
        story=(
            f"{called}: a model that comes with these nodes, {demo.image_size}x{demo.image_size} pixels, "
            + (
                f"classes {', '.join(f'{i} {c}' for i, c in enumerate(demo.classes))} (or none)"
                if demo.classes
                else "no classes"
            ),
            f"F with EDM scalings; VE; sigma {low:g} to {high:g}",
            f"{parameters:,} parameters, computed in float32",
            "licence: Apache-2.0",
        ),
    )


def _checkpoint(
    path: Path, layers: Layers, stored: torch.dtype, computed: torch.dtype, settings: dict[str, Any]
) -> Pixels:
    arguments = {k: v for k, v in settings.items() if k != "name"}
    bar = comfy.utils.ProgressBar(100)

    def progress(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(math.floor(100 * done / max(total, 1)))

    open_questions = describe(path, name=settings.get("name"), overrides=arguments).undecided
    if open_questions is not None:  # before weights are read
        raise open_questions
    model = load_checkpoint(path, dtype=stored, layers=layers, progress=progress, **settings)
    model.compute_dtype = computed
    info = model.info
    multiple = model.size_multiple
    size = f"{info.image_size}x{info.image_size} pixels" if info.image_size else f"pixels in multiples of {multiple}"
    nulls = " (or none)" if model.null_label else ""
    entry = published().get(info.name)
    cast = "" if computed == stored else f", computed in {str(computed).removeprefix('torch.')}"
    return Pixels(
        network=model.module,
        denoise=model.denoise,
        process=model.process,
        sigma_min=model.sigma_min,
        sigma_max=model.sigma_max,
        name=info.name,
        channels=info.in_channels,
        size=info.image_size,
        multiple=multiple,
        compute_dtype=computed,
        classes=info.num_classes,
        null_class=bool(info.num_classes) and model.null_label,
        story=(
            f"{info.name}: {info.family}, {size}, "
            + (f"classes 0 to {info.num_classes - 1}{nulls}" if info.num_classes else "no classes"),
            f"{info.parametrisation}; {info.schedule}; sigma {model.sigma_min:.4g} to {model.sigma_max:.4g}",
            f"{info.parameters:,} parameters, {info.stored} in the file, loaded as {info.dtype}{cast}",
            f"licence: {entry.licence if entry else 'not known here; see where the file is from'}",
            f"file: {os.fspath(path)}",
        ),
    )
