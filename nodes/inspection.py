"""Is the noise Gaussian, is the picture back, and down to which level does the model follow?"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..ssi_core.errors import InputError
from ..ssi_core.gaussianity import FIGURES, Gaussianity, gaussianity
from ..ssi_core.metrics import SSIM_WINDOW, lpips_or_reason, mse, psnr, ssim
from ..ssi_core.panel import noise_panel
from ..ssi_core.singularity_panel import singularity_panel
from .fields import CATEGORY, cfg_input, prompt_inputs, seed_input
from .host.guiders import guider_for
from .host.levels import HostProcess, falling, schedule
from .host.sampling import run_curve
from .host.show import on_node, shape, tell
from .noise import InvertedNoise, noise_of
from .pictures import sheets

SEEN = 256
"""Pixels across that a picture on a node should have."""


class SSIGaussianityInspector(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSIGaussianityInspector",
            display_name="Gaussianity Inspector (SSI)",
            category=CATEGORY,
            description="Is this noise Gaussian? A picture, every figure beside what true Gaussian noise of the same "
            "size reaches, and a verdict with its reasons.",
            search_aliases=["noise statistics", "histogram", "is it noise", "gaussian test", "inspect latent"],
            is_output_node=True,
            inputs=[
                io.MultiType.Input(
                    "noise", [io.Noise, io.Latent],
                    tooltip="NOISE; or a LATENT that holds an inversion's end state (then connect the model).",
                ),
                io.Model.Input(
                    "model", optional=True,
                    tooltip="Needed for a LATENT: says how it is scaled, which is undone before judging.",
                ),
                io.Latent.Input(
                    "source", optional=True,
                    tooltip="The latent that was inverted, to see whether its edges are left in the noise. Also gives "
                    "the size for other nodes' NOISE (Random Noise).",
                ),
            ],
            outputs=[
                io.Image.Output("picture", display_name="picture", tooltip="One an image of the batch (the first 8)."),
                io.String.Output("report", display_name="report", tooltip="The verdict in words, and every figure."),
                io.Boolean.Output("gaussian", display_name="gaussian", tooltip="True where every image of the batch "
                "passes."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, noise: Any, model: Any = None, source: dict | None = None) -> io.NodeOutput:
        found = noise_of(noise, None, model, source)
        image = None
        if source is not None and isinstance(noise, InvertedNoise | dict):
            image = source["samples"].float().cpu()
            if image.shape != found.unit.shape:
                raise InputError(
                    f"source: is of shape {shape(image)}, the noise of {shape(found.unit)}; connect what was inverted"
                )
        figures = gaussianity(found.unit, image)
        picture = sheets(len(found.unit), lambda i, title: noise_panel(found.unit, figures, i, title, source=image))
        report = report_text(figures)
        on_node(report.splitlines()[0])
        return io.NodeOutput(picture, report, figures.verdict, ui=ui.PreviewImage(picture, cls=cls))


class SSIReconstructionMetrics(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSIReconstructionMetrics",
            display_name="SSI Reconstruction Metrics",
            category=CATEGORY,
            description="How near is the reconstruction to the picture: MSE, PSNR, SSIM (and LPIPS where its weights "
            "are installed), with a picture of the difference.",
            search_aliases=["psnr", "ssim", "mse", "lpips", "compare images", "difference"],
            is_output_node=True,
            inputs=[
                io.Image.Input("original", tooltip="The picture that was inverted."),
                io.Image.Input("reconstruction", tooltip="What sampling gave back."),
                io.Noise.Input(
                    "noise", optional=True,
                    tooltip="The noise it was sampled from: its standard deviation is reported beside, since collapsed "
                    "noise can give back an excellent picture.",
                ),
                io.Float.Input(
                    "gain", default=4.0, min=1.0, max=100.0, step=1.0, advanced=True,
                    tooltip="How many times the difference is enlarged in its picture.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "difference", display_name="difference", tooltip="The absolute difference, times gain."
                ),
                io.String.Output("report", display_name="report", tooltip="All figures, image by image."),
                io.Float.Output("mse", display_name="MSE", tooltip="Mean over the batch, of values in -1..1 (as the "
                "paper)."),
                io.Float.Output("psnr", display_name="PSNR", tooltip="Mean over the batch, dB."),
                io.Float.Output("ssim", display_name="SSIM", tooltip="Mean over the batch."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, original: Tensor, reconstruction: Tensor, noise: Any = None, gain: float = 4.0) -> io.NodeOutput:
        if not math.isfinite(gain):
            raise InputError(f"gain {gain}: must be a number; 4 shows small differences")
        if original.shape[1:] != reconstruction.shape[1:]:
            raise InputError(
                f"images: original {shape(original)} and reconstruction {shape(reconstruction)} (batch, height, width, "
                f"channels) differ; resize one first"
            )
        if len(original) not in (1, len(reconstruction)):
            raise InputError(
                f"images: {len(original)} originals for {len(reconstruction)} reconstructions; give one, or as many"
            )
        wanted = original.float().expand(len(reconstruction), *original.shape[1:])
        a, b = (image.float().cpu().movedim(-1, 1)[:, :3] * 2 - 1 for image in (reconstruction, wanted))
        errors, peaks = mse(a, b), psnr(a, b)
        large = min(a.shape[-2:]) >= SSIM_WINDOW
        likeness = ssim(a, b) if large else torch.full_like(errors, math.nan)
        perceptual = lpips_or_reason(a, b)
        lines = []
        for i in range(len(a)):
            words = f"image {i + 1}: MSE {float(errors[i]):.5f}, PSNR {float(peaks[i]):.2f} dB"
            words += f", SSIM {float(likeness[i]):.4f}" if large else f", no SSIM under {SSIM_WINDOW} pixels"
            if isinstance(perceptual, Tensor):
                words += f", LPIPS {float(perceptual[i]):.4f}"
            lines.append(words)
        if isinstance(perceptual, str):
            lines.append(perceptual)
        if noise is not None and not isinstance(noise, InvertedNoise):
            lines.append("noise: is drawn from a seed, not inverted; its standard deviation is 1 by construction")
        if isinstance(noise, InvertedNoise):
            lines.append(
                f"noise: standard deviation {float(noise.unit.std()):.3f} (1 is wanted; see Gaussianity Inspector)"
            )
        difference = ((reconstruction.float() - wanted.to(reconstruction.device)).abs() * gain).clamp(0, 1).cpu()
        on_node(lines[0])
        return io.NodeOutput(
            difference[..., :3], "\n".join(lines), *(float(v.mean()) for v in (errors, peaks, likeness)),
            ui=ui.PreviewImage(_large_enough(difference[..., :3]), cls=cls),
        )  # fmt: skip


class SSISingularityCurve(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSISingularityCurve",
            display_name="SSI Singularity Curve",
            category=CATEGORY,
            description="Shows from which noise level down a model no longer follows the noise on this picture: what "
            "it predicts shrinks, or points elsewhere. A skip near that level or above leaves this region out.",
            search_aliases=["singularity", "score", "skip", "sigma_skip", "knee", "denoiser error"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to look at."),
                io.Latent.Input("latent", tooltip="A picture's latent (VAE Encode). Each of a batch is looked at."),
                io.Int.Input(
                    "levels", default=32, min=4, max=1000,
                    tooltip="How many noise levels are looked at, evenly in log sigma from the model's largest to its "
                    "smallest. Each takes two evaluations.",
                ),
                seed_input("the injected noise"),
                cfg_input("As in SSI Inverse Sampler: 1 shows the model itself."),
                *prompt_inputs(),
                io.Sigmas.Input(
                    "sigmas", optional=True, tooltip="Levels of your own, falling or rising; takes the place of levels."
                ),
            ],
            outputs=[
                io.Image.Output("picture", display_name="picture", tooltip="One an image of the batch (the first 8)."),
                io.String.Output("report", display_name="report", tooltip="Where the model stops following, and why."),
                io.String.Output("data", display_name="data", tooltip="The curves as CSV, one line a level and image."),
                io.Float.Output(
                    "sigma", display_name="sigma",
                    tooltip="Where the model stops following, the largest of the batch; 0 where it follows everywhere.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        model: Any,
        latent: dict,
        levels: int,
        seed: int,
        cfg: float = 1.0,
        positive: Any = None,
        negative: Any = None,
        sigmas: Any = None,
    ) -> io.NodeOutput:
        process = HostProcess.of(model)
        given = schedule(process, "ssi-exponential", levels) if sigmas is None else sigmas
        found = run_curve(guider_for(model, positive, negative, cfg), latent, falling(process, given), seed)
        picture = sheets(len(found.stops), partial(singularity_panel, found))
        report = tell("\n".join(f"image {i + 1}: {reason}" for i, reason in enumerate(found.reasons)))
        return io.NodeOutput(
            picture, report, found.csv(), float(found.stops.max()), ui=ui.PreviewImage(picture, cls=cls)
        )


def report_text(figures: Gaussianity) -> str:
    """The verdict with its reasons, then every figure beside its floor, sample by sample."""
    passed = sum(figures.verdicts)
    lines = [f"{'Gaussian' if figures.verdict else 'not Gaussian'}: {passed} of {len(figures.verdicts)} pass"]
    for i, reasons in enumerate(figures.reasons):
        lines += [f"image {i + 1}: {reason}" for reason in reasons]
    for i in range(len(figures.verdicts)):
        for name, rule in FIGURES.items():
            value, floor = float(getattr(figures, name)[i]), float(getattr(figures.floor, name))
            if value == value:  # a figure that does not exist for this shape is NaN
                lines.append(f"image {i + 1}: {rule.about} {value:.4f} (Gaussian {floor:.4f})")
    return "\n".join(lines)


def _large_enough(images: Tensor) -> Tensor:
    """Images [B, H, W, C] of a pixel model, each pixel as a square, so that they can be seen on a node."""
    times = max(1, SEEN // max(images.shape[1:3]))
    return images.repeat_interleave(times, 1).repeat_interleave(times, 2)


NODES: list[type[io.ComfyNode]] = [SSIGaussianityInspector, SSIReconstructionMetrics, SSISingularityCurve]
