"""Where to begin an inversion, chosen from a few evaluations on the picture itself."""

from __future__ import annotations

from functools import partial
from typing import Any

from comfy_api.latest import io, ui

from ..ssi_core.goal import GOALS, Goal
from ..ssi_core.injection import DEFAULT_INJECTION, find_injection
from ..ssi_core.skip import Choice
from ..ssi_core.skip_panel import skip_panel
from .fields import CATEGORY, cfg_input, injection_input, prompt_inputs, refusal, seed_input
from .host.guiders import guider_for
from .host.latents import is_pixels
from .host.levels import HostProcess
from .host.sampling import run_choice
from .host.show import tell
from .pictures import sheets


def goal_of(name: str, **values: float) -> Goal:
    """The goal of that name, with its own of the values that the node has inputs for."""
    return Goal(name, values.get(name))


class SSIAutoSkip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSIAutoSkip",
            display_name="SSI Auto Skip",
            category=CATEGORY,
            description="Chooses the skip of SSI Inverse Sampler for this very picture, from 8 evaluations at most: "
            "the least that gives Gaussian noise, the most that keeps a PSNR, or the least that leaves no larger share "
            "of the noise to anything but the injected noise. Shows what other skips are foretold to cost and give.",
            search_aliases=["auto", "automatic skip", "sigma_skip", "choose skip", "trade-off", "fidelity", "predict"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to invert with."),
                io.Latent.Input(
                    "latent",
                    tooltip="A picture's latent (VAE Encode). A batch gets one skip, the one that its most demanding "
                    "image needs. A mask counts: what lies outside it comes back as it was.",
                ),
                io.Combo.Input(
                    "goal", options=list(GOALS), default="gaussian",
                    tooltip="gaussian: the most faithful noise that is foretold to pass the Gaussianity Inspector. "
                    "psnr: the most Gaussian noise that keeps so many dB. leftover: the most faithful noise of which "
                    "no larger share is anything but the noise that was injected.",
                ),
                io.Float.Input(
                    "psnr", default=40.0, min=1.0, max=199.0, step=0.5, round=0.01,
                    tooltip="Used where goal is psnr: dB of the reconstruction. Pixel models: of the picture. Others: "
                    "of the latent as the model sees it, which the VAE turns into a picture of another PSNR.",
                ),
                io.Float.Input(
                    "leftover", default=0.1, min=0.001, max=0.999, step=0.01, round=0.0001,
                    tooltip="Used where goal is leftover: a share of the noise's energy. What the model knows of the "
                    "picture is part of it, so that it is never 0.",
                ),
                seed_input("the injected noise; give SSI Inverse Sampler the same"),
                cfg_input("As in SSI Inverse Sampler: 1 inverts best."),
                *prompt_inputs(),
                injection_input(),
            ],
            outputs=[
                io.Float.Output(
                    "skip", display_name="skip",
                    tooltip="The skip as a sigma: for the skip of SSI Inverse Sampler, whose skip_unit is sigma then.",
                ),
                io.Image.Output("picture", display_name="picture", tooltip="One an image of the batch (the first 8)."),
                io.String.Output(
                    "report", display_name="report",
                    tooltip="What was chosen and why, and what is foretold of each image.",
                ),
                io.Float.Output(
                    "psnr_foretold", display_name="PSNR", tooltip="What is foretold of the batch's worst image, dB."
                ),
                io.Float.Output(
                    "leftover_foretold", display_name="leftover",
                    tooltip="What is foretold of the batch's worst image, a share from 0 to 1.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, injection: str | None = None) -> bool | str:
        # What is named here core does not check, and one answer marks every input that is named.
        return refusal(find_injection, injection)

    @classmethod
    def execute(
        cls,
        model: Any,
        latent: dict,
        goal: str,
        psnr: float,
        leftover: float,
        seed: int,
        cfg: float = 1.0,
        positive: Any = None,
        negative: Any = None,
        injection: str = DEFAULT_INJECTION,
    ) -> io.NodeOutput:
        process = HostProcess.of(model)
        process.start(process.sigma_max)
        guider = guider_for(model, positive, negative, cfg)
        choice = run_choice(guider, latent, goal_of(goal, psnr=psnr, leftover=leftover), injection, seed)
        picture = sheets(len(choice.foretold.psnr), partial(skip_panel, choice))
        lines = [
            *([choice.reason] if choice.met else []),
            process.describe(choice.skip),
            "foretold:",
            *_foretold(choice),
            *([] if is_pixels(model) else ["PSNR is of the latent as the model sees it, not of the picture"]),
        ]
        report = tell("\n".join(lines), [] if choice.met else [choice.reason])
        worst = float(choice.foretold.psnr.min()), float(choice.foretold.leftover.max())
        return io.NodeOutput(choice.skip, picture, report, *worst, ui=ui.PreviewImage(picture, cls=cls))


def _foretold(choice: Choice) -> list[str]:
    told = choice.foretold
    figures = zip(told.psnr.tolist(), told.leftover.tolist(), told.margin.tolist(), strict=True)
    return [
        f"image {i}: {psnr:.1f} dB, {100 * left:.1f}% leftover, {100 * margin:.0f}% of what the verdict allows"
        for i, (psnr, left, margin) in enumerate(figures, 1)
    ]


NODES: list[type[io.ComfyNode]] = [SSIAutoSkip]
