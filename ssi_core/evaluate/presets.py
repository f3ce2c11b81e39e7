"""The paper's tables and figures as data, with the paper's own figures. A new preset is one entry of `PRESETS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import InputError
from ..inversion import DEFAULT_SKIP, DEFAULT_SOLVER
from ..models.presets import DDIM
from ..models.presets import PRESETS as ROWS
from ..models.presets import Preset as Row
from ..process import DiscreteVP
from .images import DEMO
from .metrics import available
from .plan import Arm, Plan
from .study import STUDIES

PAPERS = DiscreteVP("linear")
"""The levels of the paper's DDIM models."""
Paper = Mapping[str, Mapping[str, float]]
"""Arm -> metric -> the figure that the paper prints."""


@dataclass(frozen=True)
class Preset:
    """One table or figure."""

    title: str
    source: str
    """Where it stands in the paper; "" where it does not."""
    shows: str
    """What to look for."""
    arms: tuple[Arm, ...]
    limit: int
    """Pictures that the paper takes; 0: none, or all of them."""
    demo: int
    """Pictures of each set on the demo model, so that all presets together take minutes."""
    model: str = ""
    """The published checkpoint that the paper's figures are of; "" where any will do."""
    study: str = "round-trips"
    columns: tuple[str, ...] = ("nfe", "mse", "mse_median", "psnr", "ssim", "lpips", "std", "chan", "hori", "vert",
                                "ks", "edge", "gaussian")  # fmt: skip
    """Metrics of the summary, in order; never an error without figures of the noise."""
    plots: tuple[str, ...] = ()
    """By name (`plots.PLOTS`)."""
    paper: Paper = field(default_factory=dict)
    paper_set: str = ""
    """What the paper's figures were measured on."""
    options: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 16


GAUSSIAN = "Gaussian"
"""The row of true Gaussian noise."""


def _arm(name: str, row: Row) -> Arm:
    """A row of Table 1, at the levels of the model that the paper measured it on."""
    kappa = (row.indices.start, row.indices.stop, row.indices.step) if isinstance(row, DDIM) else None
    return Arm(name, len(row.sigmas(PAPERS)) - 1, row.skip(PAPERS), row.solver, kappa)


def _table1(which: str, model: str, data: str, paper: Paper, demo: int) -> Preset:
    base, ours = ROWS[f"{which}-base"], ROWS[f"{which}-ssi"]
    arms = (
        _arm("base", base),
        replace(_arm("SSI", ours), against="base"),
    )
    return Preset(
        f"Table 1, {data}", "Table 1", "SSI's noise should lie on the Gaussian row, and its reconstruction be better",
        arms, 300, demo, model, plots=("noise", "sheet"), paper=paper, paper_set=data,
    )  # fmt: skip


def _row(*figures: float) -> dict[str, float]:
    return dict(zip(("chan", "hori", "vert", "mse", "lpips", "ssim"), figures, strict=False))


_KAPPA_39 = ROWS["bedroom-ddim-ssi"].skip(PAPERS)
_FLOOR = _row(0.003, 0.050, 0.050)
_TABLE2 = {
    (40, 0.0): (0.028, 0.404, 0.626), (40, 0.01): (0.026, 0.366, 0.693), (40, 0.1): (0.024, 0.307, 0.741),
    (40, 0.2): (0.024, 0.310, 0.731), (100, 0.0): (0.021, 0.393, 0.621), (100, 0.01): (0.026, 0.291, 0.760),
    (100, 0.1): (0.012, 0.219, 0.824), (100, 0.2): (0.013, 0.229, 0.805), (200, 0.0): (0.023, 0.366, 0.640),
    (200, 0.01): (0.012, 0.245, 0.797), (200, 0.1): (0.008, 0.171, 0.862), (200, 0.2): (0.009, 0.187, 0.840),
}  # fmt: skip
"""(steps, skip) -> MSE, LPIPS, SSIM."""


def _named(steps: int, skip: float, solver: str = "", precision: str = "") -> str:
    parts = [solver, f"N={steps}", f"skip {skip:g}" if skip else "base", precision]
    return " ".join(part for part in parts if part)


def _grid(solvers: tuple[str, ...], steps: tuple[int, ...], skips: tuple[float, ...], *, name: bool) -> tuple[Arm, ...]:
    return tuple(
        Arm(_named(n, k, s if name else ""), n, k, s, against=_named(n, 0.0, s if name else "") if k else "")
        for s in solvers
        for n in steps
        for k in skips
    )


def _regimes() -> tuple[Arm, ...]:
    arms: list[Arm] = []
    for steps, skip, solver, precision in (
        (10, 0.05, "euler", "float32"), (20, 0.05, "euler", "float32"), (200, 0.1, "euler", "float32"),
        (20, DEFAULT_SKIP, DEFAULT_SOLVER, "float32"), (20, DEFAULT_SKIP, DEFAULT_SOLVER, "bfloat16"),
        (40, 0.1, "euler", "bfloat16"),
    ):  # fmt: skip
        shown = "" if precision == "float32" else precision
        base = _named(steps, 0.0, solver, shown)
        arms += [
            Arm(base, steps, 0.0, solver, precision=precision),
            Arm(_named(steps, skip, solver, shown), steps, skip, solver, against=base, precision=precision),
        ]
    return tuple(arms)


PRESETS: dict[str, Preset] = {
    "table1-bedroom-ddim": _table1("bedroom-ddim", "lsun_bedroom", "LSUN Bedroom 256, DDIM", {
        "base": _row(0.047, 0.134, 0.136, 0.177, 0.606, 0.289), "SSI": _row(0.002, 0.050, 0.050, 0.006, 0.135, 0.879),
        GAUSSIAN: _FLOOR,
    }, demo=4),
    "table1-bedroom-edm": _table1("bedroom-edm", "edm_bedroom256_ema", "LSUN Bedroom 256, EDM", {
        "base": _row(0.108, 0.139, 0.122, 0.025, 0.365, 0.639), "SSI": _row(0.004, 0.050, 0.050, 0.009, 0.170, 0.859),
        GAUSSIAN: _FLOOR,
    }, demo=12),
    "table1-imagenet-ddim": _table1("imagenet-ddim", "256x256_diffusion_uncond", "ImageNet 256, DDIM", {
        "base": _row(0.044, 0.108, 0.092, 0.072, 0.398, 0.541), "SSI": _row(0.004, 0.052, 0.052, 0.002, 0.050, 0.967),
        GAUSSIAN: _FLOOR,
    }, demo=4),
    "table2": Preset(
        "Table 2: steps and skip", "Table 2, Appendix C", "every skip should beat none, at every number of steps",
        _grid(("euler",), (40, 100, 200), (0.0, 0.01, 0.1, 0.2), name=False), 100, 4, "edm_bedroom256_ema",
        plots=("tradeoff",), paper_set="LSUN Bedroom 256, EDM",
        paper={_named(*at): dict(zip(("mse", "lpips", "ssim"), row, strict=True)) for at, row in _TABLE2.items()},
    ),
    "fig4": Preset(
        "Figure 4: the singularity along sampling trajectories", "Figure 4, section 4.1",
        "exact scores: a constant as sigma falls; a network: the same until it no longer follows, then a fall",
        (Arm("eight points, exact", 200, solver="heun", target="eight-points"), Arm("model", 64)), 0, 0,
        study="curves", columns=("sigma", "curve"), plots=("curves",), options={"samples": 32, "exact": 2000},
    ),
    "fig5": Preset(
        "Figure 5: many noises of one picture", "Figure 5, section 4.1",
        "seeds give nearly orthogonal noises (cosine near 0), and all of them give the picture back",
        (Arm("SSI", 200, 0.1, "euler"),), 1, 1, study="seeds", plots=("cosines", "repeats"),
        columns=("nfe", "cosine", "mse", "mse_median", "psnr", "ssim", "std", "chan", "ks", "edge", "gaussian"),
        options={"repeats": 8},
    ),
    "fig6": Preset(
        "Figure 6: faithfulness against realism", "Figure 6, section 4.3",
        "MSE and BRISQUE fall steeply with a small skip; MSE rises slowly beyond it",
        _grid(("euler",), (200,), (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), name=False), 100, 3,
        plots=("tradeoff", "sheet"), options={"show": 2},
        columns=("nfe", "mse", "mse_median", "psnr", "ssim", "brisque", "std", "chan", "ks", "edge", "gaussian"),
    ),
    "fig12": Preset(
        "Figure 12: interpolations", "Figure 12, section 5.2",
        "blends of base noises look unreal; blends of SSI's are pictures like those that the model makes",
        (Arm("base", 200, 0.0, "euler"), Arm("SSI", 200, 0.1, "euler", against="base")), 8, 4,
        study="interpolations", plots=("blends",), options={"weights": [0.1, 0.3, 0.5, 0.7, 0.9]},
        columns=("nfe", "norm", "std", "chan", "hori", "vert", "ks", "gaussian"),
    ),
    "fig13": Preset(
        "Figure 13: sampling with exact scores", "Figure 13, Appendix A.4",
        "samples end on the manifold: on eight points of equal weight, or on the x axis as a unit Gaussian",
        (Arm("eight points", 200, solver="heun", target="eight-points"),
         Arm("Gaussian on x axis", 200, solver="heun", target="gaussian-axis")), 0, 0,
        study="samples", plots=("plane",), options={"samples": 200_000},
        columns=("distance", "distance_max", "std_x", "std_y", "rarest", "commonest"),
    ),
    "fig14": Preset(
        "Figure 14: projection distance along sampling trajectories", "Figure 14, Appendix A.4",
        "|E[x0|x] - x| / sigma goes to a constant as sigma falls (Theorem 5)",
        (Arm("eight points, exact", 200, solver="heun", target="eight-points"),
         Arm("Gaussian on x axis, exact", 200, solver="heun", target="gaussian-axis"), Arm("model", 64)), 0, 0,
        study="curves", columns=("sigma", "curve"), plots=("curves",), options={"samples": 32, "exact": 2000},
    ),
    "nfe": Preset(
        "Quality against evaluations", "", "which solver and skip give the best picture for the evaluations spent, "
        "among those whose noise is Gaussian",
        _grid(("euler", "heun", "ab2-log", DEFAULT_SOLVER), (10, 20, 40), (0.0, 0.05, 0.07, 0.1), name=True), 100, 6,
        plots=("pareto",),
        columns=("nfe", "mse", "mse_median", "psnr", "ssim", "std", "chan", "ks", "edge", "gaussian"),
    ),
    "ddim": Preset(
        "The inversions that are called DDIM", "",
        "how much of Table 1's DDIM rows is the convention and how much is the skip",
        tuple(
            Arm(f"{solver} {f'skip {skip:.3g}' if skip else 'base'}", 500, skip, solver, (1, 1000, 2),
                against="ddim-current base" if solver != "ddim-current" else "")
            for solver, skip in (("ddim-current", 0.0), ("ddim-target", 0.0), ("euler", 0.0), ("euler", _KAPPA_39))
        ), 100, 2, plots=("wins", "sheet"), options={"show": 2},
        columns=("nfe", "mse", "mse_median", "psnr", "ssim", "wins", "std", "chan", "ks", "edge", "gaussian"),
    ),
    "regimes": Preset(
        "Where each method reconstructs better", "", "few steps, half precision and pictures from outside the "
        "training set, against many steps and pictures like those it was trained on",
        _regimes(), 100, 8, plots=("wins",),
        columns=("nfe", "mse", "mse_median", "psnr", "ssim", "wins", "std", "chan", "ks", "edge", "gaussian"),
    ),
}  # fmt: skip


def find_preset(name: str) -> Preset:
    """
    Raises:
        InputError: no preset of that name; the message lists them.
    """
    if name not in PRESETS:
        raise InputError(f"preset {name!r}: unknown; known are {', '.join(PRESETS)}")
    return PRESETS[name]


def plan_of(
    name: str, *, model: str, denoise: Any, images: str, limit: int | None = None, seed: int = 0,
    batch: int | None = None,
) -> Plan:  # fmt: skip
    """A preset on a model and pictures.

    Args:
        name: of `PRESETS`.
        model: as the user named it.
        denoise: the model.
        images: a folder, absolute; or `DEMO`.
        limit: pictures at most; None for the preset's own number; 0 for all.
        seed: of noise and of the choice of pictures.
        batch: pictures inverted together; None for the preset's own.

    Raises:
        InputError: no such preset, a limit or seed under 0, or a batch under 1.
    """
    preset = find_preset(name)
    side = denoise.image_size or 0
    own = preset.demo if images == DEMO else preset.limit
    limit, batch = own if limit is None else limit, preset.batch if batch is None else batch
    if limit < 0 or seed < 0 or batch < 1:
        raise InputError(f"limit {limit} and seed {seed} must be 0 or more, batch {batch} at least 1")
    metrics, missing = available(side) if STUDIES[preset.study].needs_pictures else ((), {})
    wanted = set(preset.columns)
    return Plan(
        preset=name, study=preset.study, model=model, signature=str(denoise.signature), images=images, limit=limit,
        arms=preset.arms, shape=(denoise.channels, side, side), seed=seed, batch=batch,
        device=str(denoise.device).partition(":")[0],
        metrics=tuple(m for m in metrics if m not in ("lpips", "brisque") or m in wanted),
        missing={m: why for m, why in missing.items() if m in wanted}, options=dict(preset.options),
    )  # fmt: skip
