"""Where a preset is not exactly the paper's procedure, and what else must be known to read its table: in words."""

from __future__ import annotations

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
    "Distances are to further pictures of the same folder, 5,000 at most, as many as it has; the paper compares with "
    "5,000 pictures that the model was trained on. Give a folder of such pictures to come nearer to it."
)

DEVIATIONS: dict[str, tuple[str, ...]] = {
    "table1-bedroom-ddim": (_BOTH_WAYS, _LEVELS, *_DDIM, (
        "kappa_20 = 39 is taken as an index counted from 0, sigma .1405 of the linear schedule; counted from 1 it "
        "would be index 38, sigma .1373. The paper does not say which."
    )),
    "table1-bedroom-edm": (_BOTH_WAYS, _LEVELS),
    "table1-imagenet-ddim": (_BOTH_WAYS, _LEVELS, *_DDIM, (
        "kappa = 3 is taken as an index counted from 0, sigma .0228 of the linear schedule; counted from 1 it would be "
        "index 2, sigma .0190. The paper does not say which."
    )),
    "table2": (_WAY_BACK, _LEVELS),
    "fig5": (_WAY_BACK, _LEVELS),
    "fig6": (_WAY_BACK, _LEVELS),
    "fig11": (_WAY_BACK, _LEVELS, _REFERENCE),
    "fig12": (_WAY_BACK, _LEVELS),
    "fig13": (
        "The last step, from the smallest level to 0, puts a sample where the exact denoiser says, which is on the "
        "manifold whatever came before: so the distance is measured before it, at sigma .002, beside that of data "
        "with so much noise.",
    ),
    "nfe": (
        "The noise is sampled over the levels of its inversion.",
        "Left out: ddim-current, ddim-target and euler-vp are first-order steps like euler, with other conventions "
        "(`ssi evaluate ddim`); ab2 is ab2-log with its polynomial in sigma instead of log sigma; fixed-point and "
        "exact solve for the inverse of Euler's step, which takes several evaluations a step and a number of its own "
        "for each: for pictures that must come back exactly, not for few evaluations.",
    ),
    "ddim": (
        "The noise is sampled over the whole schedule, as in Table 1.",
        _DDIM[1],
        "ddim-current with a skip is no method of the paper's; it tells what of a difference is the solver's.",
    ),
    "regimes": ("The noise is sampled over the levels of its inversion.",),
}  # fmt: skip
