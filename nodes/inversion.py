"""From a picture's latent to NOISE: inject, invert, and what core's own sampling nodes need to do the same."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..ssi_core.errors import InputError
from ..ssi_core.injection import DEFAULT_INJECTION, find_injection
from ..ssi_core.inversion import Inversion
from .fields import (
    CATEGORY,
    SolverChecked,
    cfg_input,
    grid_input,
    injection_input,
    prompt_inputs,
    refusal,
    schedule_inputs,
    seed_input,
    skip_inputs,
    solver_input,
)
from .host.guiders import caveats, guider_for
from .host.latents import indices_of, injected_noise, latent_samples, seeds_of
from .host.levels import HostProcess, schedule, top_of, way_back
from .host.sampling import (
    SolverSampler,
    as_latent,
    check_solver,
    run_inversion,
)
from .host.show import blocked, on_node, shape, tell
from .noise import InvertedNoise, noise_of_state


class SSINoiseInject(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSINoiseInject",
            display_name="SSI Noise Inject",
            category=CATEGORY,
            description="Step 1 of singularity skipping inversion: adds noise to a picture's latent up to sigma_skip. "
            "Core samplers continue from the result (with Disable Noise), upwards to invert or downwards to denoise. "
            "SSI Inverse Sampler does this by itself.",
            search_aliases=[
                "add noise",
                "forward diffusion",
                "singularity skipping",
                "noise injection",
                "img2img noise",
            ],
            inputs=[
                io.Model.Input("model", tooltip="Says what noise levels there are and how latents are scaled."),
                io.Latent.Input("latent", tooltip="A picture's latent (VAE Encode). A batch is noised one by one."),
                *skip_inputs(),
                seed_input("the noise"),
            ],
            outputs=[
                io.Latent.Output(
                    "noised", display_name="latent", tooltip="The latent at sigma_skip, for core samplers."
                ),
                io.Float.Output("sigma", display_name="sigma", tooltip="sigma_skip: where sampling continues."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, latent: dict, skip: float, skip_unit: str, seed: int) -> io.NodeOutput:
        process = HostProcess.of(model)
        sigma = process.skip(skip, skip_unit)
        samples = latent_samples(model, latent)
        on_node(process.describe(sigma))
        if sigma == 0:
            return io.NodeOutput(with_samples(latent, samples), 0.0)
        x0 = model.get_model_object("process_latent_in")(samples.cpu())
        x = process.inject(x0, injected_noise(x0, seeds_of(latent, seed)), sigma)
        out = model.get_model_object("process_latent_out")(as_latent(process, x, torch.tensor([sigma])))
        return io.NodeOutput(with_samples(latent, out.to(samples.device)), sigma)


class SSIInverseSampler(SolverChecked):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSIInverseSampler",
            display_name="SSI Inverse Sampler",
            category=CATEGORY,
            description="Finds the Gaussian noise from which the model makes this picture. Sample from NOISE with "
            "core's SamplerCustomAdvanced along SIGMAS to get the picture back; blend, edit or inspect it before. "
            "Works with SD1.5, SDXL, SD3, FLUX, video and pixel models alike.",
            search_aliases=["inversion", "unsampler", "ddim inversion", "image to noise", "invert", "SSI", "reverse"],
            inputs=[
                io.Model.Input("model", tooltip="The model to invert with; also to sample with later."),
                io.Latent.Input("latent", tooltip="A picture's latent (VAE Encode). Batches, masks and video work."),
                *schedule_inputs(),
                *skip_inputs(),
                solver_input(),
                seed_input("the injected noise"),
                cfg_input(
                    "1 inverts best: guidance bends the path, and its way up and down differ more the "
                    "stronger it is. Guide on the way back instead, or use the same cfg both ways."
                ),
                *prompt_inputs(),
                io.Sigmas.Input(
                    "sigmas", optional=True,
                    tooltip="A schedule of your own, falling or rising; takes the place of steps and schedule. The "
                    "skip still applies.",
                ),
                grid_input(),
                io.Boolean.Input(
                    "keep_states", default=False, optional=True, advanced=True,
                    tooltip="Also give every state on the way, for looking at (memory: steps + 1 latents).",
                ),
                injection_input(),
            ],
            outputs=[
                io.Noise.Output("noise", display_name="noise", tooltip="For SamplerCustomAdvanced, SLERP Noise "
                "Blend and SSI Morph."),
                io.Latent.Output(
                    "end_state", display_name="latent",
                    tooltip="The end state as a LATENT. For flow models (SD3, FLUX) only NOISE can be sampled from: "
                    "core multiplies latents by 1 - sigma.",
                ),
                io.Sigmas.Output(
                    "sigmas_back", display_name="sigmas", tooltip="Falling, for the way back: the same grid, then 0."
                ),
                io.String.Output("report", display_name="report", tooltip="What was done, in words and figures."),
                io.Latent.Output(
                    "states", display_name="states", tooltip="All states, first to last (needs keep_states)."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, solver: str | None = None, injection: str | None = None) -> bool | str:
        said = check_solver(solver)
        return refusal(find_injection, injection) if said is True else said

    @classmethod
    def execute(
        cls,
        model: Any,
        latent: dict,
        steps: int,
        schedule: str,
        skip: float,
        skip_unit: str,
        solver: str,
        seed: int,
        cfg: float = 1.0,
        positive: Any = None,
        negative: Any = None,
        sigmas: Any = None,
        grid: str = "keep",
        keep_states: bool = False,
        injection: str = DEFAULT_INJECTION,
    ) -> io.NodeOutput:
        process = HostProcess.of(model)
        levels, sigma_skip = _levels(process, steps, schedule, skip, skip_unit, grid, sigmas)
        process.start(float(levels[0]))
        guider = guider_for(model, positive, negative, cfg)
        found, end = run_inversion(guider, latent, levels, sigma_skip, solver, injection, seed, keep_states=keep_states)
        noise = InvertedNoise(
            unit=found.noise.float().cpu(),
            start=process.start(float(levels[0])),
            seed=seed,
            latent_in=model.get_model_object("latent_format").process_in,
            indices=indices_of(latent),
            source=latent_samples(model, latent).cpu(),
        )
        how = "given SIGMAS" if sigmas is not None else f"{schedule}, {steps} steps"
        report = tell(
            _report(process, found, cfg, how, latent.get("noise_mask") is not None),
            caveats(model, latent, positive, negative),
        )
        states: Any = blocked("states: turn keep_states on to get them")
        if found.states is not None:
            every = found.states.transpose(0, 1).flatten(0, 1)
            states = {"samples": model.get_model_object("process_latent_out")(every.float())}
        return io.NodeOutput(noise, with_samples(latent, end), levels.float(), report, states)


class SSISolver(SolverChecked):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSISolver",
            display_name="SSI Solver",
            category=CATEGORY,
            description="The solvers of SSI Inverse Sampler as a SAMPLER for core's SamplerCustomAdvanced, with any "
            "GUIDER: falling sigmas sample, rising sigmas invert.",
            search_aliases=["sampler", "inversion sampler", "reverse sampler", "ode solver"],
            inputs=[solver_input()],
            outputs=[io.Sampler.Output("sampler", display_name="sampler", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, solver: str) -> io.NodeOutput:
        return io.NodeOutput(SolverSampler(solver))


class SSISigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSISigmas",
            display_name="SSI Sigmas",
            category=CATEGORY,
            description="A schedule that ends at sigma_skip, in both directions, for core's SamplerCustomAdvanced.",
            search_aliases=["scheduler", "sigmas", "flip sigmas", "inversion schedule", "karras"],
            inputs=[
                io.Model.Input("model", tooltip="Says what noise levels there are."),
                *schedule_inputs(),
                *skip_inputs(),
                grid_input(),
            ],
            outputs=[
                io.Sigmas.Output("up", display_name="inversion", tooltip="Rising: sigma_skip to sigma_max."),
                io.Sigmas.Output("down", display_name="sampling", tooltip="Falling: sigma_max to sigma_skip, then 0."),
                io.Float.Output("sigma", display_name="sigma_skip", tooltip="The skip as a sigma."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, steps: int, schedule: str, skip: float, skip_unit: str, grid: str = "keep"
    ) -> io.NodeOutput:
        process = HostProcess.of(model)
        down, sigma = _levels(process, steps, schedule, skip, skip_unit, grid, None)
        if len(down) < 3:
            raise InputError(f"steps {steps}: one level alone leaves inversion no step; use more steps")
        on_node(process.describe(sigma))
        return io.NodeOutput(down[:-1].flip(0).float(), down.float(), sigma)


class SSINoiseFromLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSINoiseFromLatent",
            display_name="SSI Noise From Latent",
            category=CATEGORY,
            description="Turns the end state of any inversion (a LATENT: SamplerCustomAdvanced along rising sigmas, "
            "Unsampler, FlipSigmas ...) into NOISE that can be blended, inspected, saved and sampled from.",
            search_aliases=["latent to noise", "inverted latent", "unsampler"],
            inputs=[
                io.Model.Input("model", tooltip="The model that inverted it."),
                io.Latent.Input("latent", tooltip="The end state."),
                io.Sigmas.Input(
                    "sigmas", optional=True,
                    tooltip="The sigmas it was inverted along; its largest is where the state lies. Left out: the "
                    "model's largest.",
                ),
                seed_input("samplers that add noise of their own"),
            ],
            outputs=[
                io.Noise.Output("noise", display_name="noise", tooltip="Sampling from it begins in exactly this "
                "state."),
                io.Latent.Output("empty", display_name="empty latent", tooltip="Of its size, to be sampled with it."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: Any, latent: dict, seed: int, sigmas: Any = None) -> io.NodeOutput:
        noise = noise_of_state(model, latent, top_of(HostProcess.of(model), sigmas), seed)
        on_node(f"noise {shape(noise.unit)}, standard deviation {float(noise.unit.std()):.3f} (1 is wanted)")
        return io.NodeOutput(noise, noise.empty_latent())


def with_samples(latent: dict[str, Any], samples: torch.Tensor) -> dict[str, Any]:
    """The same LATENT with other samples: mask and indices stay; what core notes for empty ones goes."""
    return {k: v for k, v in latent.items() if not k.startswith("downscale_ratio")} | {"samples": samples}


def _levels(
    process: HostProcess, steps: int, name: str, skip: float, unit: str, grid: Any, sigmas: Any
) -> tuple[torch.Tensor, float]:
    sigma = process.skip(skip, unit)
    given = schedule(process, name, steps) if sigmas is None else sigmas
    return way_back(process, given, sigma, grid), sigma


def _report(process: HostProcess, found: Inversion, cfg: float, how: str, masked: bool) -> str:
    top = float(found.sigmas[0])
    spread = ", ".join(f"{float(one.std()):.3f}" for one in found.noise.float()[:8])
    more = ", ..." if len(found.noise) > 8 else ""
    lines = [
        f"{found.solver}, {how}: {found.nfe} evaluations up to sigma {top:.4g}, cfg {cfg:g}",
        f"skip: {process.describe(found.skip)}",
        f"noise {shape(found.noise)}: standard deviation {spread}{more} (1 is wanted; see Gaussianity Inspector)",
    ]
    if found.skip > 0:
        facts = found.provenance
        lines.insert(2, f"injection: {facts['injection']}, {facts['injection_nfe']} of the evaluations")
    if masked:
        lines.append("masked: sample with the latent that was inverted as latent_image, not with this node's latent")
    if found.residual is not None:
        lines.append(f"largest relative residual of a step: {float(found.residual.max()):.2g}")
    return "\n".join(lines)


NODES: list[type[io.ComfyNode]] = [SSIInverseSampler, SSINoiseInject, SSISolver, SSISigmas, SSINoiseFromLatent]
