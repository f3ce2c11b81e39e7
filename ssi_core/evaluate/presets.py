"""The paper's tables and figures as data, with the paper's own figures. A new preset is one entry of `PRESETS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import InputError
from ..guard import process_of
from ..inversion import DEFAULT_SOLVER
from ..models.presets import DDIM
from ..models.presets import PRESETS as ROWS
from ..models.presets import Preset as Row
from ..skip import DEFAULT_SKIP
from .distances import DISTANCES, Distance
from .images import DEMO
from .metrics import METRICS, Metric
from .plan import PAPERS, Arm, Plan
from .study import STUDIES

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
    distances: tuple[str, ...] = ()
    """Between whole sets of pictures, by name (`distances.DISTANCES`)."""
    demo_arms: tuple[Arm, ...] = ()
    """Further arms that only the demo's own pictures allow."""
    demo_options: Mapping[str, Any] = field(default_factory=dict)
    """In place of `options` on the demo."""
    batch: int = 16


GAUSSIAN = "Gaussian"
"""The row of true Gaussian noise."""


def _arm(name: str, row: Row) -> Arm:
    """A row of Table 1; on a model with other levels than the paper's, `Arm.fitted` finds its own skip."""
    steps, skip = len(row.sigmas(PAPERS)) - 1, row.skip(PAPERS)
    if isinstance(row, DDIM):
        kappa = row.indices.start, row.indices.stop, row.indices.step
        return Arm(name, steps, skip, row.solver, kappa, row.skip_index, way_back="full")
    return Arm(name, steps, skip, row.solver, way_back="full")


def _table1(which: str, model: str, data: str, paper: Paper, demo: int) -> Preset:
    base, ours = ROWS[f"{which}-base"], ROWS[f"{which}-ssi"]
    arms = (
        _arm("base", base),
        replace(_arm("SSI", ours), against="base"),
        replace(_arm("SSI, own levels", ours), against="base", way_back="own"),
    )
    return Preset(
        f"Table 1, {data}", "Table 1", "SSI's noise should lie on the Gaussian row, and its reconstruction be better",
        arms, 300, demo, model, plots=("noise", "sheet"), paper=paper, paper_set=data,
    )  # fmt: skip


def _row(*figures: float) -> dict[str, float]:
    return dict(zip(("chan", "hori", "vert", "mse", "lpips", "ssim"), figures, strict=False))


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


def _grid(
    solvers: tuple[str, ...], steps: tuple[int, ...], skips: tuple[float, ...], *, name: bool, way_back: str
) -> tuple[Arm, ...]:
    return tuple(
        Arm(_named(n, k, s if name else ""), n, k, s, against=_named(n, 0.0, s if name else "") if k else "",
            way_back=way_back)
        for s in solvers
        for n in steps
        for k in skips
    )  # fmt: skip


def _against_base(
    steps: int, skips: tuple[float, ...], solver: str, *, precision: str = "float32", target: str = "model"
) -> tuple[Arm, ...]:
    """The base method, and skips that are compared with it picture by picture."""
    said = " ".join(word for word in (precision, target) if word not in ("float32", "model"))
    base = Arm(_named(steps, 0.0, solver, said), steps, 0.0, solver, precision=precision, target=target)
    return (
        base,
        *(replace(base, name=_named(steps, skip, solver, said), skip=skip, against=base.name) for skip in skips),
    )


_EULER_200 = (
    Arm("base", 200, 0.0, "euler", way_back="full"),
    Arm("SSI", 200, 0.1, "euler", against="base", way_back="full"),
)

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
        _grid(("euler",), (40, 100, 200), (0.0, 0.01, 0.1, 0.2), name=False, way_back="full"), 100, 4,
        "edm_bedroom256_ema",
        plots=("tradeoff",), paper_set="LSUN Bedroom 256, EDM",
        paper={_named(*at): dict(zip(("mse", "lpips", "ssim"), row, strict=True)) for at, row in _TABLE2.items()},
    ),
    "fig4": Preset(
        "Figure 4: the singularity along sampling trajectories", "Figure 4, section 4.1",
        "exact scores: a constant as sigma falls; a network: the same until it no longer follows, then a fall",
        (Arm("eight points, exact", 200, solver="heun", target="eight-points"),
         Arm("eight points, small network", 200, solver="heun", target="eight-points-network"), Arm("model", 64)), 0, 0,
        study="curves", columns=("sigma", "curve"), plots=("curves",), options={"samples": 32, "exact": 2000},
    ),
    "fig5": Preset(
        "Figure 5: many noises of one picture", "Figure 5, section 4.1",
        "seeds give nearly orthogonal noises (cosine near 0), and all of them give the picture back",
        _EULER_200[1:], 1, 1, study="seeds", plots=("cosines", "repeats"),
        columns=("nfe", "cosine", "mse", "mse_median", "psnr", "ssim", "std", "chan", "ks", "edge", "gaussian"),
        options={"repeats": 8},
    ),
    "fig6": Preset(
        "Figure 6: faithfulness against realism", "Figure 6, section 4.3",
        "MSE and BRISQUE fall steeply with a small skip; MSE rises slowly beyond it",
        _grid(("euler",), (200,), (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), name=False, way_back="full"),
        100, 3,
        plots=("tradeoff", "sheet"), options={"show": 2},
        columns=("nfe", "mse", "mse_median", "psnr", "ssim", "brisque", "std", "chan", "ks", "edge", "gaussian"),
    ),
    "fig11": Preset(
        "Figure 11: distances of interpolations", "Figure 11, section 5.2",
        "blends of SSI's noises as near to pictures of their kind as direct samples are, blends of base noises further",
        (*_EULER_200, Arm("sampled directly", 200, 0.0, "euler", target="samples")), 1000, 4,
        study="interpolations", plots=("distances",), distances=("fid", "haar_fd"),
        options={"weights": [0.1, 0.3, 0.5, 0.7, 0.9], "reference": 5000},
        demo_options={"reference": 500},
        columns=("nfe", "norm", "std", "chan", "hori", "vert", "ks", "gaussian"),
    ),
    "fig12": Preset(
        "Figure 12: interpolations", "Figure 12, section 5.2",
        "blends of base noises look unreal; blends of SSI's are pictures like those that the model makes",
        _EULER_200, 8, 4, study="interpolations", plots=("blends",), options={"weights": [0.1, 0.3, 0.5, 0.7, 0.9]},
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
        _grid(("euler", "heun", "ab2-log", DEFAULT_SOLVER), (10, 20, 40), (0.0, 0.05, 0.07, 0.1), name=True,
              way_back="own"), 100, 4,
        plots=("pareto",),
        columns=("nfe", "mse", "mse_median", "psnr", "ssim", "std", "chan", "ks", "edge", "gaussian"),
    ),
    "ddim": Preset(
        "The inversions that are called DDIM", "",
        "how much of Table 1's DDIM rows is the convention and how much is the skip",
        (
            _arm("ddim-current base", ROWS["bedroom-ddim-base"]),
            *(replace(_arm(f"{solver} base", ROWS["bedroom-ddim-base"]), solver=solver, against="ddim-current base")
              for solver in ("ddim-target", "euler")),
            *(replace(_arm(f"{solver} SSI", ROWS["bedroom-ddim-ssi"]), solver=solver, against="ddim-current base")
              for solver in ("ddim-current", "euler")),
        ), 100, 2, plots=("wins", "sheet"), options={"show": 2},
        columns=("nfe", "mse", "mse_median", "psnr", "ssim", "wins", "std", "chan", "ks", "edge", "gaussian"),
    ),
    "regimes": Preset(
        "Where each method reconstructs better", "", "few steps, half precision, pictures from outside the training "
        "set and a sharper network, against many steps and pictures like those it was trained on. (\"memory\" is no "
        "network but the exact denoiser of 1,000 scenes, none of them evaluated: the sharpest there can be)",
        (
            *_against_base(10, (0.05,), "euler"), *_against_base(20, (0.05,), "euler"),
            *_against_base(200, (0.1,), "euler"), *_against_base(20, (DEFAULT_SKIP,), DEFAULT_SOLVER),
            *_against_base(20, (DEFAULT_SKIP,), DEFAULT_SOLVER, precision="bfloat16"),
            *_against_base(40, (0.1,), "euler"), *_against_base(40, (0.1,), "euler", precision="bfloat16"),
        ), 100, 8, plots=("wins",), demo_arms=_against_base(20, (0.1, 0.5), "euler", target="memory"),
        columns=("nfe", "mse", "mse_median", "psnr", "ssim", "wins", "std", "chan", "ks", "edge", "gaussian"),
    ),
}  # fmt: skip


SHEETS = ("fig7", "fig8", "fig9", "fig10", "fig7-10")


def find_preset(name: str) -> Preset:
    """
    Raises:
        InputError: no preset of that name; the message lists them.
    """
    if name in SHEETS:
        raise InputError(
            f"preset {name!r}: Figures 7 to 10 are picture sheets, plots/sheet.png of the presets "
            f"{', '.join(other for other in PRESETS if other.startswith('table1'))}; run one of these"
        )
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
    preset, demo = find_preset(name), images == DEMO
    side = denoise.image_size or 0
    own = preset.demo if demo else preset.limit
    limit, batch = own if limit is None else limit, preset.batch if batch is None else batch
    if limit < 0 or seed < 0 or batch < 1:
        raise InputError(f"limit {limit} and seed {seed} must be 0 or more, batch {batch} at least 1")
    metrics, missing = _available(preset, side) if STUDIES[preset.study].needs_pictures else ((), {})
    arms = (*preset.arms, *(preset.demo_arms if demo else ()))
    return Plan(
        preset=name, study=preset.study, model=model, signature=str(denoise.signature), images=images, limit=limit,
        arms=tuple(arm.fitted(process_of(denoise)) for arm in arms), shape=(denoise.channels, side, side), seed=seed,
        batch=batch, device=str(denoise.device).partition(":")[0], metrics=metrics, missing=missing,
        options={**preset.options, **(preset.demo_options if demo else {})},
    )  # fmt: skip


def _available(preset: Preset, size: int) -> tuple[tuple[str, ...], dict[str, str]]:
    """Which metrics and distances are measured on pictures of that size, and why others of the summary cannot be."""
    wanted: dict[str, Metric | Distance] = {**METRICS, **{name: DISTANCES[name] for name in preset.distances}}
    missing = {name: why for name, what in wanted.items() if (why := what.missing(size))}
    shown = {*preset.columns, *preset.distances}
    names = (n for n in wanted if n not in missing and (n in shown or not (n in METRICS and METRICS[n].extra)))
    return tuple(names), {name: why for name, why in missing.items() if name in shown}
