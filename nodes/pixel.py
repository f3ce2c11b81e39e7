"""Pixel models: loader, empty latent, class label, and pictures to try them on without a download."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..ssi_core.errors import InputError
from .fields import refusal
from .host.checkpoints import EMBEDDED, FOLDER, SHIPPED, SUFFIXES, checkpoint_file, checkpoint_names

SCENES, PHOTOGRAPHS = "drawn scenes", "photographs"
CATEGORY = "SSI/pixel"


class SSIPixelModelLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSIPixelModelLoader",
            display_name="SSI Load Pixel Model",
            category=CATEGORY,
            description=(
                "Loads a diffusion model that works on pixels (guided-diffusion/ADM, consistency models, NVlabs EDM) "
                "as an ordinary MODEL for all samplers, with the VAE that goes with it. The embedded model needs no "
                "download. Nothing in a file is executed."
            ),
            search_aliases=[
                "ADM",
                "EDM",
                "guided diffusion",
                "consistency model",
                "pixel diffusion",
                "ssi",
                "load checkpoint",
            ],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=checkpoint_names(),
                    default=EMBEDDED,
                    tooltip=(
                        f"{' and '.join(SHIPPED)} come with these nodes (32x32 pixels); the second has the classes "
                        f"summer, autumn, winter and night, 0 to 3. Files are those in models/{FOLDER} "
                        f"({', '.join(SUFFIXES)}), and published pixel models in models/checkpoints and "
                        f"models/diffusion_models."
                    ),
                ),
                io.String.Input(
                    "arguments",
                    default="",
                    advanced=True,
                    tooltip=(
                        "What the file does not tell by itself, by the names of the original's arguments: "
                        "num_head_channels=64, noise_schedule=linear. Or the published file that it is: "
                        "name=lsun_bedroom. Empty for published files under their own names."
                    ),
                ),
                io.Combo.Input(
                    "dtype",
                    options=["default", "float32", "float16", "bfloat16"],
                    default="default",
                    advanced=True,
                    tooltip=(
                        "In which precision the network runs. default: as ComfyUI decides for this device. float32 "
                        "inverts most exactly; float16 halves the memory; bfloat16 is ten times less exact."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For any sampler, scheduler and guider."),
                io.Vae.Output(
                    display_name="vae", tooltip="Between images and this model's latents, which are the images."
                ),
                io.String.Output(
                    display_name="info", tooltip="What the model is: size, classes, noise levels, precision, licence."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = None) -> bool | str:
        # One input alone: the host repeats the answer for each. One that is linked arrives as None.
        return refusal(checkpoint_file, checkpoint)

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None = None, **kwargs: Any) -> str:
        try:
            path = checkpoint_file(checkpoint or EMBEDDED)
            state = path.stat() if isinstance(path, Path) else None
        except (ValueError, OSError):
            return f"{checkpoint}: missing"
        return f"{path}: {state.st_size} {state.st_mtime_ns}" if state else str(checkpoint)

    @classmethod
    def execute(cls, checkpoint: str, arguments: str = "", dtype: str = "default") -> io.NodeOutput:
        import torch

        from ..ssi_core.models.family import Undecided
        from .host import pixel as host

        wanted = None if dtype == "default" else getattr(torch, dtype)
        source, settings = checkpoint_file(checkpoint), _settings(arguments)
        if isinstance(source, str) and settings:
            raise InputError("arguments: the embedded model takes none; leave them empty")
        try:
            model = host.pixel_model(source, settings, wanted)
        except Undecided as error:
            raise InputError(error.worded(lambda named: f"arguments: {', '.join(f'{n}=...' for n in named)}")) from None
        return io.NodeOutput(model, host.pixel_vae(), "\n".join(host.pixels_of(model).story))


class SSIEmptyPixelLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSIEmptyPixelLatent",
            display_name="SSI Empty Pixel Latent",
            category=CATEGORY,
            description="An empty latent for a pixel model: three channels, as many pixels as the image has.",
            search_aliases=["empty latent", "pixel latent", "ssi"],
            inputs=[
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=8192,
                    step=8,
                    tooltip="In pixels. 0: the size that the connected model was trained on.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=8192,
                    step=8,
                    tooltip="In pixels. 0: the size that the connected model was trained on.",
                ),
                io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="How many images at once."),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="A pixel model: gives the size where width or height is 0, and checks it otherwise.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="Zeros, for a sampler to put noise on.")],
        )

    @classmethod
    def execute(cls, width: int, height: int, batch_size: int, model: Any = None) -> io.NodeOutput:
        import torch

        from .host import pixel as host

        pixels = None if model is None else host.pixels_of(model)
        own = pixels.size if pixels else None
        if own is None and not (width and height):
            why = "connect a model that knows its size, or" if pixels is None else "this model's file does not tell it;"
            raise InputError(f"width, height: 0 stands for the model's own size; {why} give both in pixels")
        samples = torch.zeros(batch_size, pixels.channels if pixels else 3, height or own or 0, width or own or 0)
        if pixels is not None:
            pixels.check_shape(samples)
        return io.NodeOutput({"samples": samples, "downscale_ratio_spacial": 1})


class SSIClassLabel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSIClassLabel",
            display_name="SSI Class Label",
            category=CATEGORY,
            description=(
                "The conditioning of a pixel model: a class number, one for each image, or none. These models read no "
                "text, so this is what positive and negative of a sampler are connected to."
            ),
            search_aliases=["class conditional", "ImageNet class", "unconditional", "empty conditioning", "ssi"],
            inputs=[
                io.String.Input(
                    "label",
                    default="",
                    tooltip=(
                        "A class number, counted from 0: 207. Several, one for each image of the batch: 3, 7, 7. "
                        "Empty: no class, for models without classes and for the negative of models that know 'any'."
                    ),
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="If connected, the label is checked against this model's classes at once.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="For positive or negative.")],
        )

    @classmethod
    def validate_inputs(cls, label: str | None = None) -> bool | str:
        return refusal(_labels, label)

    @classmethod
    def execute(cls, label: str = "", model: Any = None) -> io.NodeOutput:
        import torch

        from .host import pixel as host

        numbers = _labels(label)
        given = torch.tensor(numbers) if numbers else None
        if model is not None:
            pixels = host.pixels_of(model)
            pixels.class_labels(given)
            if given is None and pixels.needs_class():
                raise pixels.missing_class("label")
        return io.NodeOutput([[torch.zeros(1, 1, 1), {} if given is None else {"class_label": given}]])


class SSIDemoImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSIDemoImages",
            display_name="SSI Demo Images",
            category=CATEGORY,
            description=(
                "Pictures of 32x32 pixels that the embedded model was not trained on, so that everything can be tried "
                "without a file: drawn landscapes, and crops of freely licensed photographs."
            ),
            search_aliases=["example image", "test image", "sample pictures", "ssi"],
            inputs=[
                io.Combo.Input(
                    "kind",
                    options=[SCENES, PHOTOGRAPHS],
                    default=SCENES,
                    tooltip="Drawn landscapes, as many as you like; or 32 crops of photographs.",
                ),
                io.Int.Input(
                    "index", default=0, min=0, max=1_000_000, tooltip="Which picture; with a count, the first of them."
                ),
                io.Int.Input("count", default=1, min=1, max=64, tooltip="How many pictures, as one batch."),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="A batch of pictures of 32x32 pixels.")],
        )

    @classmethod
    def execute(cls, kind: str, index: int, count: int) -> io.NodeOutput:
        from ..ssi_core.demo.photos import held_out_photos
        from ..ssi_core.demo.scenes import HELD_OUT, draw_scenes

        if kind == PHOTOGRAPHS:
            photos = held_out_photos()
            if index + count > len(photos):
                raise InputError(
                    f"index: {count} photographs from {index} on, where there are {len(photos)}, counted from 0"
                )
            images = photos[index : index + count]
        else:
            images = draw_scenes(range(HELD_OUT + index, HELD_OUT + index + count))
        return io.NodeOutput(((images + 1) / 2).clamp(0, 1).movedim(1, -1).contiguous())


NODES: list[type[io.ComfyNode]] = [SSIPixelModelLoader, SSIEmptyPixelLatent, SSIClassLabel, SSIDemoImages]


def _settings(text: str) -> dict[str, Any]:
    """ "num_heads=4, noise_schedule=linear" as arguments of `load_checkpoint`.

    Raises:
        InputError: something that is no name=value, or a name twice.
    """
    settings: dict[str, Any] = {}
    # A comma divides two settings only where another name= follows: channel_mult=1,2,4 is one.
    for setting in re.split(r"[,;\s]+(?=[^\s,;=]+\s*=)", text.strip()) if text.strip() else []:
        name, equals, value = (part.strip(" ,;\n\t") for part in setting.partition("="))
        if not equals or not value or not name.isidentifier() or name in _RESERVED:
            raise InputError(
                f"arguments: {setting!r} is no name=value; write for example num_head_channels=64, name=lsun_cat"
            )
        if name in settings:
            raise InputError(f"arguments: {name} is given twice")
        try:
            settings[name] = json.loads(value.lower() if value in ("True", "False") else value)
        except ValueError:
            settings[name] = value
    return settings


_RESERVED = ("path", "device", "dtype", "progress", "layers")


def _labels(text: str) -> list[int]:
    """ "3, 7, 7" as numbers.

    Raises:
        ValueError: something that is no whole number.
    """
    parts = [part for part in re.split(r"[,;\s]+", text.strip()) if part]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(f"label: {text!r} is no class number; write for example 3, or 3, 7, 7 for three images")
    if any(len(part) > 9 for part in parts):
        raise ValueError(f"label: {text[:80]!r} is no class number; no model has so many classes")
    return [int(part) for part in parts]
