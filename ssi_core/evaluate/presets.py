"""The paper's tables and figures as data, with the paper's own figures. A new preset is one entry of `PRESETS`."""

from __future__ import annotations

from dataclasses import replace
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
from .preset import GAUSSIAN, Paper, Preset
from .study import STUDIES

_WAY_BACK = (
    "The noise is sampled over the whole schedule, down to its smallest level, as the paper samples. Our own default "
    "elsewhere ends at the skip, where the inversion began, in one denoising: fewer evaluations, and other pictures."
)
_BOTH_WAYS = _WAY_BACK + ' The arm "SSI, own levels" shows it; it is not the paper\'s.'
_LEVELS = (
    "N is the number of levels of the whole schedule; a skip cuts off those under it, so that SSI takes fewer steps up "
    "than the base method. Algorithm 1 may be read as N steps above the skip instead."
)
_DDIM = (
    "The base method inverts as guided-diffusion's DDIM does (ddim-current), SSI by Euler's step in sigma, which is "
    "DDIM's: part of what lies between their rows is the solver's. `ssi evaluate ddim` has both methods with each.",
    "guided-diffusion clips its estimates of x0 to [-1, 1] when it samples; nothing is clipped here.",
)
_REFERENCE = (
    "The paper compares with 5,000 pictures that the model was trained on; this with those of --reference, 5,000 at "
    "most, or, where it was not given, with further pictures of the evaluated folder, as many as it has up to 5,000."
)


def _kappa(which: str, ours: str, papers: str) -> str:
    return (
        "The paper counts timesteps from 1 (section 5.1, Appendix B). Its numbers are taken as guided-diffusion's "
        f"indices, which begin at 0: each one level above the paper's. {which} is sigma {ours} of the linear schedule; "
        f"the paper's is {papers}. The smallest of the levels 1, 3, ..., 999 is sigma .0148; the paper's is .0100."
    )


def _arm(name: str, row: Row) -> Arm:
    """A row of Table 1; on a model with other levels than the paper's, `Arm.fitted` finds its own skip."""
    steps, skip = len(row.sigmas(PAPERS)) - 1, row.skip(PAPERS)
    if isinstance(row, DDIM):
        kappa = row.indices.start, row.indices.stop, row.indices.step
        return Arm(name, steps, skip, row.solver, kappa, row.skip_index, way_back="full")
    return Arm(name, steps, skip, row.solver, way_back="full")


def _table1(which: str, model: str, data: str, paper: Paper, demo: int, kappa: str = "") -> Preset:
    base, ours = ROWS[f"{which}-base"], ROWS[f"{which}-ssi"]
    arms = (
        _arm("base", base),
        replace(_arm("SSI", ours), against="base"),
        replace(_arm("SSI, own levels", ours), against="base", way_back="own"),
    )
    return Preset(
        f"Table 1, {data}", "Table 1", "SSI's noise should lie on the Gaussian row, and its reconstruction be better",
        arms, 300, demo, model, plots=("noise", "sheet"), paper=paper, paper_set=data,
        deviations=(_BOTH_WAYS, _LEVELS, *((*_DDIM, kappa) if kappa else ())),
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
    }, demo=4, kappa=_kappa("kappa_20 = 39", ".1405", "index 38, sigma .1373")),
    "table1-bedroom-edm": _table1("bedroom-edm", "edm_bedroom256_ema", "LSUN Bedroom 256, EDM", {
        "base": _row(0.108, 0.139, 0.122, 0.025, 0.365, 0.639), "SSI": _row(0.004, 0.050, 0.050, 0.009, 0.170, 0.859),
        GAUSSIAN: _FLOOR,
    }, demo=12),
    "table1-imagenet-ddim": _table1("imagenet-ddim", "256x256_diffusion_uncond", "ImageNet 256, DDIM", {
        "base": _row(0.044, 0.108, 0.092, 0.072, 0.398, 0.541), "SSI": _row(0.004, 0.052, 0.052, 0.002, 0.050, 0.967),
        GAUSSIAN: _FLOOR,
    }, demo=4, kappa=_kappa("kappa_2 = 3", ".0228", "index 2, sigma .0190")),
    "table2": Preset(
        "Table 2: steps and skip", "Table 2, Appendix C",
        "a skip should beat none: in LPIPS and SSIM at every number of steps, in MSE everywhere but at N=100 with skip "
        ".01, where the paper's own figures are .026 with it and .021 without",
        _grid(("euler",), (40, 100, 200), (0.0, 0.01, 0.1, 0.2), name=False, way_back="full"), 100, 4,
        "edm_bedroom256_ema",
        deviations=(
            _WAY_BACK, _LEVELS,
            "At N=100 the paper's MSE is worse with a skip of .01 than without one (.026, .021), though its LPIPS and "
            "SSIM are better. It is copied as it is printed.",
        ),
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
        (replace(_EULER_200[1], against=""),), 1, 1, study="seeds", plots=("cosines", "repeats"),
        deviations=(_WAY_BACK, _LEVELS),
        columns=("nfe", "cosine", "mse", "mse_median", "psnr", "ssim", "std", "chan", "ks", "edge", "gaussian"),
        options={"repeats": 8},
    ),
    "fig6": Preset(
        "Figure 6: faithfulness against realism", "Figure 6, section 4.3",
        "MSE and BRISQUE fall steeply with a small skip; MSE rises slowly beyond it",
        _grid(("euler",), (200,), (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), name=False, way_back="full"),
        100, 3,
        deviations=(_WAY_BACK, _LEVELS), plots=("tradeoff", "sheet"), options={"show": 2},
        columns=("nfe", "mse", "mse_median", "psnr", "ssim", "brisque", "std", "chan", "ks", "edge", "gaussian"),
    ),
    "fig11": Preset(
        "Figure 11: distances of interpolations", "Figure 11, section 5.2",
        "blends of SSI's noises as near to pictures of their kind as direct samples are, blends of base noises further",
        (*_EULER_200, Arm("sampled directly", 200, 0.0, "euler", target="samples")), 1000, 4,
        study="interpolations", plots=("distances",), distances=("fid", "haar_fd"),
        options={"weights": [0.1, 0.3, 0.5, 0.7, 0.9], "reference": 5000},
        demo_options={"reference": 500},
        deviations=(_WAY_BACK, _LEVELS, _REFERENCE),
        columns=("nfe", "norm", "std", "chan", "hori", "vert", "ks", "gaussian"),
    ),
    "fig12": Preset(
        "Figure 12: interpolations", "Figure 12, section 5.2",
        "blends of base noises look unreal; blends of SSI's are pictures like those that the model makes",
        _EULER_200, 8, 4, study="interpolations", plots=("blends",), options={"weights": [0.1, 0.3, 0.5, 0.7, 0.9]},
        deviations=(_WAY_BACK, _LEVELS),
        columns=("nfe", "norm", "std", "chan", "hori", "vert", "ks", "gaussian"),
    ),
    "fig13": Preset(
        "Figure 13: sampling with exact scores", "Figure 13, Appendix A.4",
        "samples end on the manifold: on eight points of equal weight, or on the x axis as a unit Gaussian",
        (Arm("eight points", 200, solver="heun", target="eight-points"),
         Arm("Gaussian on x axis", 200, solver="heun", target="gaussian-axis")), 0, 0,
        study="samples", plots=("plane",), options={"samples": 200_000},
        deviations=(
            "The last step, from the smallest level to 0, puts a sample where the exact denoiser says, which is on the "
            "manifold whatever came before: so the distance is measured before it, at sigma .002, beside that of data "
            "with so much noise.",
        ),
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
        deviations=(
            "The noise is sampled over the levels of its inversion.",
            "Left out: ddim-current, ddim-target and euler-vp are first-order steps like euler, with other conventions "
            "(`ssi evaluate ddim`); ab2 is ab2-log with its polynomial in sigma instead of log sigma; fixed-point and "
            "exact solve for the inverse of Euler's step, which takes several evaluations a step and a number of its "
            "own for each: for pictures that must come back exactly, not for few evaluations.",
        ),
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
        deviations=(
            "The noise is sampled over the whole schedule, as in Table 1.",
            _DDIM[1],
            "ddim-current with a skip is no method of the paper's; it tells what of a difference is the solver's.",
        ),
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
        deviations=("The noise is sampled over the levels of its inversion.",),
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
    batch: int | None = None, reference: str = "",
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
        reference: a folder, absolute, of pictures to compare sets with; "" for others of `images`.

    Raises:
        InputError: no such preset, a limit or seed under 0, a batch under 1, or a reference where it means nothing.
    """
    preset, demo = find_preset(name), images == DEMO
    if reference:
        _check_reference(name, preset, images, reference)
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
        options={**preset.options, **(preset.demo_options if demo else {})}, reference=reference,
    )  # fmt: skip


def _check_reference(name: str, preset: Preset, images: str, reference: str) -> None:
    if not preset.distances:
        able = ", ".join(other for other, its in PRESETS.items() if its.distances)
        raise InputError(f"reference: preset {name} compares no sets of pictures; it is for {able}")
    if images == DEMO:
        raise InputError(
            "reference: the demo's pictures are compared with their own kind; name a folder of yours with --images too"
        )
    if reference == images:
        raise InputError(
            f"reference {reference}: is the folder of the pictures themselves; leave it out, and others of that folder "
            f"are compared with"
        )


def _available(preset: Preset, size: int) -> tuple[tuple[str, ...], dict[str, str]]:
    """Which metrics and distances are measured on pictures of that size, and why others of the summary cannot be."""
    wanted: dict[str, Metric | Distance] = {**METRICS, **{name: DISTANCES[name] for name in preset.distances}}
    missing = {name: why for name, what in wanted.items() if (why := what.missing(size))}
    shown = {*preset.columns, *preset.distances}
    names = (n for n in wanted if n not in missing and (n in shown or not (n in METRICS and METRICS[n].extra)))
    return tuple(names), {name: why for name, why in missing.items() if name in shown}
