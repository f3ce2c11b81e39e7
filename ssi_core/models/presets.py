"""The rows of SSI-DM's Table 1 and of its cat figures, as data: model, schedule, skip and solver.

The paper's DDIM timesteps kappa = 1, 3, ..., 999 are 0-based indices of the model's own schedule, and its kappa_20 = 39
is the sigma at index 39 (0.1405).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..process import DiscreteVP
from ..schedule import ddim_sigmas, karras_sigmas


@dataclass(frozen=True)
class Preset:
    """One setting of the paper."""

    name: str
    model: str
    """The published file."""
    data: str
    solver: str
    steps: int
    kappa: tuple[int, int, int] | None = None
    """start, stop, step of the DDIM indices; None: a Karras schedule of `steps` levels, 0.002 to 80, rho 7."""
    skip_index: int | None = None
    """DDIM: the index up to which noise is added."""
    skip_sigma: float = 0.0
    """Otherwise: the sigma up to which noise is added; 0 is the base method."""

    def sigmas(self) -> Tensor:
        """The schedule, [steps + 1], falling, ending in 0."""
        if self.kappa is None:
            return karras_sigmas(self.steps)
        return ddim_sigmas(range(*self.kappa), DiscreteVP("linear"))

    def skip(self) -> float:
        """sigma_skip."""
        if self.skip_index is None:
            return self.skip_sigma
        return float(DiscreteVP("linear").sigmas[self.skip_index])


def _ddim(name: str, model: str, data: str, skip_index: int | None) -> Preset:
    # The base method is guided-diffusion's own inversion; with the skip, the same step is Euler's in sigma.
    solver = "euler" if skip_index is not None else "ddim-current"
    return Preset(name, model, data, solver, 500, kappa=(1, 1000, 2), skip_index=skip_index)


def _edm(name: str, model: str, data: str, skip_sigma: float) -> Preset:
    return Preset(name, model, data, "euler", 200, skip_sigma=skip_sigma)


PRESETS = {
    preset.name: preset
    for preset in (
        _ddim("bedroom-ddim-base", "lsun_bedroom", "LSUN Bedroom 256", None),
        _ddim("bedroom-ddim-ssi", "lsun_bedroom", "LSUN Bedroom 256", 39),
        _edm("bedroom-edm-base", "edm_bedroom256_ema", "LSUN Bedroom 256", 0.0),
        _edm("bedroom-edm-ssi", "edm_bedroom256_ema", "LSUN Bedroom 256", 0.1),
        _ddim("imagenet-ddim-base", "256x256_diffusion_uncond", "ImageNet 256", None),
        _ddim("imagenet-ddim-ssi", "256x256_diffusion_uncond", "ImageNet 256", 3),
        _ddim("cat-ddim-ssi", "lsun_cat", "LSUN Cat 256", 39),
        _edm("cat-edm-ssi", "edm_cat256_ema", "LSUN Cat 256", 0.1),
    )
}
"""By name. The first six are the rows of Table 1; the cats have the bedrooms' settings."""
