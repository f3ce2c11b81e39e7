"""Inputs that several nodes share, and the errors that all of them say in one way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from comfy_api.latest import io

from ..ssi_core.errors import InputError
from ..ssi_core.frames import EASINGS, parse_weights, path_weights
from ..ssi_core.injection import DEFAULT_INJECTION, INJECTIONS
from ..ssi_core.inversion import DEFAULT_SOLVER
from .host.levels import SKIP_UNITS, schedule_names
from .host.sampling import check_solver, solver_names

CATEGORY = "SSI"
LARGEST_SEED = 0xFFFFFFFFFFFFFFFF
SKIP = 0.1
MOST_FRAMES = 4096
MOST_NOISES = 16


def skip_inputs() -> list[Any]:
    return [
        io.Float.Input(
            "skip", default=SKIP, min=0.0, max=1e9, step=0.01, round=False,
            tooltip="How much noise is added before integrating, which skips the singular region near 0. 0.05 to 0.2 "
            "(as sigma) is usual; more gives more Gaussian noise and a less faithful picture. 0 is the base method: "
            "no noise.",
        ),
        io.Combo.Input(
            "skip_unit", options=list(SKIP_UNITS), default="sigma", advanced=True,
            tooltip="What the number in skip is: the model's sigma, its timestep (0 to 999 in SD1.5), or the "
            "signal-to-noise ratio (100 is sigma 0.1). The node shows all three.",
        ),
    ]  # fmt: skip


def schedule_inputs() -> list[Any]:
    return [
        io.Int.Input(
            "steps", default=20, min=1, max=10000,
            tooltip="Levels of the whole schedule, skipped ones included: with a skip fewer evaluations are spent.",
        ),
        io.Combo.Input(
            "schedule", options=schedule_names(), default="auto",
            tooltip="How the levels are spaced. auto: karras, or simple for flow models (SD3, FLUX). The host's own "
            "schedulers are all here; ssi-ddim is the fixed stride that DDIM inversions of ADM models use.",
        ),
    ]  # fmt: skip


def grid_input() -> Any:
    return io.Combo.Input(
        "grid", options=["keep", "spread"], default="keep", advanced=True,
        tooltip="keep: drop the levels under the skip, so that fewer steps are done. spread: do as many steps as "
        "before over what is left.",
    )  # fmt: skip


def solver_input() -> Any:
    return io.Combo.Input(
        "solver", options=solver_names(), default=DEFAULT_SOLVER,
        tooltip="How the ODE is integrated. dpmpp-2m: second order at one evaluation a step. euler is the paper's; "
        "heun takes two evaluations a step; ddim-current and ddim-target are the two DDIM inversions in use; "
        "fixed-point and exact solve for the exact preimage of Euler's steps.",
    )  # fmt: skip


def injection_input() -> Any:
    return io.Combo.Input(
        "injection", options=list(INJECTIONS), default=DEFAULT_INJECTION, optional=True, advanced=True,
        tooltip="How the noise is added. plain: as the paper does. tangent: takes back the part of it that the model "
        "would keep in the picture, which costs 4 evaluations more and brings the picture back nearer at the same "
        "skip. SSI Auto Skip and SSI Inverse Sampler must be set alike.",
    )  # fmt: skip


def seed_input(what: str) -> Any:
    return io.Int.Input(
        "seed", default=0, min=0, max=LARGEST_SEED, control_after_generate=False,
        tooltip=f"Seed of {what}. Image i of a batch has seed + i, whatever the batch and device. Pictures to be "
        f"blended need different seeds: with the same one their noises are alike.",
    )  # fmt: skip


def cfg_input(tooltip: str) -> Any:
    return io.Float.Input("cfg", default=1.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=tooltip)


def prompt_inputs() -> list[Any]:
    return [
        io.Conditioning.Input(
            "positive", optional=True,
            tooltip="What the picture shows; may be an empty prompt. Pixel models without classes need none.",
        ),
        io.Conditioning.Input("negative", optional=True, tooltip="Only needed where cfg is not 1."),
    ]  # fmt: skip


def noises_input(least: int, tooltip: str) -> Any:
    return io.Autogrow.Input(
        "noises",
        template=io.Autogrow.TemplatePrefix(
            io.MultiType.Input(
                "noise", [io.Noise, io.Latent],
                tooltip="NOISE from SSI Inverse Sampler, SSI Load Noise or Random Noise; or a LATENT that "
                "holds an end state.",
            ),
            prefix="noise", min=least, max=MOST_NOISES,
        ),
        tooltip=tooltip,
    )  # fmt: skip


def connected(noises: dict[str, Any], beyond: dict[str, Any]) -> list[Any]:
    """What is connected to `noises_input`, in order.

    Args:
        beyond: what the host hands over beside, of an API job with more than the input takes.
    """
    noises = {**noises, **{name.removeprefix("noises."): noise for name, noise in beyond.items()}}
    unknown = next((name for name in noises if not name.removeprefix("noise").isdecimal()), None)
    if unknown is not None:
        raise InputError(f"noises: has no input {unknown!r}; they are noise0, noise1, ...")
    if len(noises) > MOST_NOISES:
        raise InputError(f"noises: {len(noises)} connected; a blend takes {MOST_NOISES} at most")
    return [noises[name] for name in sorted(noises, key=lambda name: int(name.removeprefix("noise")))]


def weight_inputs(what: str) -> list[Any]:
    return [
        io.String.Input(
            "weights", default="0.5",
            tooltip=f"Used where frames is 0. Two {what}: the share of the second, 0.5, or a list of frames, 0, 0.25, "
            f"0.5. More: one number for each, 0.2, 0.3, 0.5, and frames apart by ';'. Outside 0..1 goes on past the "
            "ends.",
        ),
        io.Int.Input(
            "frames", default=0, min=0, max=MOST_FRAMES,
            tooltip=f"0: use weights. 2 or more: a path of so many frames through all {what}, in order.",
        ),
        io.Combo.Input(
            "easing", options=list(EASINGS), default="linear", advanced=True,
            tooltip="How a path of frames is walked: at constant speed, or slower near the ends.",
        ),
        io.Boolean.Input(
            "loop", default=False, advanced=True,
            tooltip="Let a path of frames return to its first end, so that the animation repeats.",
        ),
    ]  # fmt: skip


def weight_rows(count: int, weights: str, frames: int, easing: str, loop: bool) -> list[list[float]]:
    return path_weights(count, frames, easing, loop) if frames else parse_weights(weights, count)


def refusal(check: Callable[[Any], object], value: Any) -> bool | str:
    """What `validate_inputs` answers: True (also for None, a connected input that is not known yet), or what is wrong.

    Args:
        check: raises ValueError for what it refuses.
    """
    try:
        if value is not None:
            check(value)
    except ValueError as error:
        return str(error)
    return True


def check_weights(weights: Any, frames: Any, counts: Iterable[int]) -> bool | str:
    """True, or what is wrong with a path for any of these numbers of inputs; what is connected is not known yet."""
    if isinstance(frames, int) and not (frames == 0 or 2 <= frames <= MOST_FRAMES):
        return f"frames {frames}: 0 (use weights), or 2 to {MOST_FRAMES}"
    if frames != 0 or not isinstance(weights, str):
        return True
    wrong = ""
    for count in counts:
        try:
            parse_weights(weights, count)
        except InputError as error:
            wrong = wrong or str(error)
        else:
            return True
    return wrong


class SolverChecked(io.ComfyNode):
    """A node with a `solver` input, whose wrong values are refused before the prompt runs, in words."""

    @classmethod
    def validate_inputs(cls, solver: str | None = None) -> bool | str:
        return check_solver(solver)
