"""Noise on disk: kept for later, for another workflow, or shared with the shell (`ssi invert`)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from comfy_api.latest import io

from ..ssi_core.artifact import kind_of, load_tensors, save_tensors
from ..ssi_core.errors import InputError
from ..ssi_core.inversion import Inversion
from ..ssi_core.process import Flow
from .fields import CATEGORY
from .host.files import new_noise_file, noise_file, noise_files
from .host.levels import HostProcess, Start
from .host.show import on_node
from .noise import InvertedNoise, shape

KIND = "noise"
NONE_YET = "(no file yet: SSI Save Noise makes one)"


class SSINoiseSave(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSINoiseSave",
            display_name="SSI Save Noise",
            category=CATEGORY,
            description="Writes NOISE, bit for bit and with all that is needed to sample from it, to the output "
            "folder.",
            search_aliases=["save noise", "store inversion", "export noise"],
            is_output_node=True,
            inputs=[
                io.Noise.Input("noise", tooltip="From SSI Inverse Sampler or a blend."),
                io.String.Input("filename_prefix", default="noise/ssi", tooltip="Folder and name; a number is added."),
                io.Sigmas.Input("sigmas", optional=True, tooltip="The way back, to be stored beside."),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, noise: Any, filename_prefix: str, sigmas: Any = None) -> io.NodeOutput:
        if not isinstance(noise, InvertedNoise):
            raise InputError("noise: only inverted noise is worth a file; Random Noise is its seed")
        path, subfolder = new_noise_file(filename_prefix)
        tensors = {"noise": noise.unit} | ({} if sigmas is None else {"sigmas": sigmas.float()})
        save_tensors(path, KIND, tensors, {"start": asdict(noise.start), "seed": noise.seed})
        where = f"{subfolder}/{path.name}" if subfolder else path.name
        on_node(f"saved {where}")
        return io.NodeOutput(
            ui={
                "text": (f"saved {where}",),
                "files": [{"filename": path.name, "subfolder": subfolder, "type": "output"}],
            }
        )


class SSINoiseLoad(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSINoiseLoad",
            display_name="SSI Load Noise",
            category=CATEGORY,
            description="Reads what SSI Save Noise or `ssi invert` wrote, from the output or input folder.",
            search_aliases=["load noise", "import noise", "open inversion"],
            inputs=[
                io.Combo.Input("file", options=noise_files() or [NONE_YET], tooltip="Newest first. R refreshes the "
                "list."),
                io.Model.Input(
                    "model", optional=True,
                    tooltip="The model it will be sampled with: checked against the file, and lets latents that are "
                    "not empty be used with it.",
                ),
            ],
            outputs=[
                io.Noise.Output("noise", display_name="noise", tooltip="Bit for bit what was saved."),
                io.Sigmas.Output("sigmas", display_name="sigmas", tooltip="The way back, where it was saved."),
                io.Latent.Output("empty", display_name="empty latent", tooltip="Of the right batch and size."),
                io.String.Output("info", display_name="info", tooltip="What the file holds."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        try:
            if file is not None:
                noise_file(file)
        except InputError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str, model: Any = None) -> str:
        stat = noise_file(file).stat()
        return f"{file} {stat.st_mtime_ns} {stat.st_size}"

    @classmethod
    def execute(cls, file: str, model: Any = None) -> io.NodeOutput:
        path = noise_file(file)
        noise, sigmas = _read_inversion(path) if kind_of(path) == "inversion" else _read_noise(path)
        if model is not None:
            process = HostProcess.of(model)
            start = process.start(noise.start.sigma)
            if not start.same_as(noise.start):
                raise InputError(
                    f"file {file}: was inverted with another kind of model (start {noise.start.sigma:.4g}, gain "
                    f"{noise.start.noise_gain:.4g}; this model's gain there is {start.noise_gain:.4g})"
                )
            channels = model.get_model_object("latent_format").latent_channels
            if noise.unit.shape[1] != channels:
                raise InputError(f"file {file}: has {noise.unit.shape[1]} channels, this model takes {channels}")
            noise = InvertedNoise(
                noise.unit, noise.start, noise.seed, model.get_model_object("latent_format").process_in
            )
        info = (
            f"{path.name}: noise {shape(noise.unit)}, standard deviation {float(noise.unit.std()):.3f}, starts at "
            f"sigma {noise.start.sigma:.4g}; {'no sigmas' if sigmas is None else f'{len(sigmas) - 1} steps back'}"
        )
        on_node(info)
        if sigmas is None:
            from .host.show import blocked

            sigmas = blocked("sigmas: this file holds none; use SSI Sigmas or a scheduler")
        return io.NodeOutput(noise, sigmas, noise.empty_latent(), info)


def _read_noise(path: Any) -> tuple[InvertedNoise, torch.Tensor | None]:
    tensors, facts = load_tensors(path, KIND)
    try:
        start = Start(**{k: float(v) for k, v in facts["start"].items()})
        return InvertedNoise(tensors["noise"], start, int(facts["seed"])), tensors.get("sigmas")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"artefact {path}: its contents do not fit together ({error!r})") from None


def _read_inversion(path: Any) -> tuple[InvertedNoise, torch.Tensor]:
    """What the engine's own `Inversion.save` wrote: its end state, in terms of how core starts."""
    found = Inversion.load(path)
    top = float(found.sigmas[0])
    state = found.process.from_noise(found.noise.double(), top)
    flow = isinstance(found.process, Flow)
    start = Start(top, top if flow else (1 + top**2) ** 0.5, 1 - top if flow else 1.0)
    unit = (state / start.noise_gain).float()
    return InvertedNoise(unit, start, found.seeds[0] if found.seeds else 0), found.sigmas.float()


NODES: list[type[io.ComfyNode]] = [SSINoiseSave, SSINoiseLoad]
