"""Noise on disk: kept for later, for another workflow, or shared with the shell (`ssi invert`)."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import torch
from comfy_api.latest import io

from ..ssi_core.artifact import kind_of, load_tensors, save_tensors
from ..ssi_core.errors import InputError
from ..ssi_core.inversion import Inversion
from ..ssi_core.process import Flow
from .fields import CATEGORY, refusal
from .host.files import check_prefix, new_noise_file, noise_file, noise_files
from .host.levels import HostProcess, Start
from .host.show import blocked, on_node, shape
from .noise import InvertedNoise

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
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        return refusal(check_prefix, filename_prefix)  # before the inversions run, not after them

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
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        return refusal(noise_file, file)

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None, model: Any = None) -> str:
        try:
            stat = noise_file(file or "").stat()
        except (InputError, OSError):
            return f"{file}: missing"
        return f"{file} {stat.st_mtime_ns} {stat.st_size}"

    @classmethod
    def execute(cls, file: str, model: Any = None) -> io.NodeOutput:
        path = noise_file(file)
        from_shell = kind_of(path) == "inversion"
        noise, sigmas = _read_inversion(path) if from_shell else _read_noise(path)
        noise = _whole(noise, path)
        if model is not None:
            noise = _for_model(noise, model, from_shell, file)
        info = (
            f"{path.name}: noise {shape(noise.unit)}, standard deviation {float(noise.unit.std()):.3f}, starts at "
            f"sigma {noise.start.sigma:.4g}; {'no sigmas' if sigmas is None else f'{len(sigmas) - 1} steps back'}"
        )
        if from_shell and model is None:
            info += "; taken to begin at the largest sigma of its model (connect the model to be sure)"
        on_node(info)
        if sigmas is None:
            sigmas = blocked("sigmas: this file holds none; use SSI Sigmas or a scheduler")
        return io.NodeOutput(noise, sigmas, noise.empty_latent(), info)


def _whole(noise: InvertedNoise, path: Any) -> InvertedNoise:
    if not bool(noise.unit.isfinite().all()):
        raise InputError(f"artefact {path}: its noise holds NaN or Inf; the file is damaged, make it again")
    return noise


def _for_model(noise: InvertedNoise, model: Any, from_shell: bool, file: str) -> InvertedNoise:
    """The same end state for this model, which says how latents are scaled.

    Raises:
        InputError: it cannot be this model's.
    """
    start = HostProcess.of(model).start(noise.start.sigma)
    if from_shell and math.isclose(start.latent_gain, noise.start.latent_gain, abs_tol=1e-4):
        # The engine does not know how this model's sampler will begin; the state is what was saved.
        unit = noise.unit * (noise.start.noise_gain / start.noise_gain)
    elif start.same_as(noise.start):
        unit = noise.unit
    else:
        raise InputError(
            f"file {file}: was inverted with another kind of model (it starts at sigma {noise.start.sigma:.4g} with "
            f"gain {noise.start.noise_gain:.4g}; this model's gain there is {start.noise_gain:.4g})"
        )
    latent_format = model.get_model_object("latent_format")
    if unit.shape[1] != latent_format.latent_channels:
        raise InputError(f"file {file}: has {unit.shape[1]} channels, this model takes {latent_format.latent_channels}")
    return replace(noise, unit=unit, start=start, latent_in=latent_format.process_in)


def _read_noise(path: Any) -> tuple[InvertedNoise, torch.Tensor | None]:
    tensors, facts = load_tensors(path, KIND)
    try:
        start = Start(**{k: float(v) for k, v in facts["start"].items()})
        return InvertedNoise(tensors["noise"], start, int(facts["seed"])), tensors.get("sigmas")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"artefact {path}: its contents do not fit together ({error!r}); save it again") from None


def _read_inversion(path: Any) -> tuple[InvertedNoise, torch.Tensor]:
    """What the engine's own `Inversion.save` wrote: its end state, in terms of how core starts at a largest sigma."""
    found = Inversion.load(path)
    top = float(found.sigmas[0])
    state = found.process.from_noise(found.noise.double(), top)
    flow = isinstance(found.process, Flow)
    start = Start(top, top if flow else (1 + top**2) ** 0.5, 1 - top if flow else 1.0)
    unit = (state / start.noise_gain).float()
    return InvertedNoise(unit, start, found.seeds[0] if found.seeds else 0), found.sigmas.float()


NODES: list[type[io.ComfyNode]] = [SSINoiseSave, SSINoiseLoad]
