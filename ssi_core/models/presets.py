"""The rows of SSI-DM's Table 1 and of its cat figures, as data: model, schedule, skip and solver.

The paper counts its DDIM timesteps from 1 (section 5.1: kappa is a subsequence of {1, ..., 1000}; Appendix B). Here its
kappa = 1, 3, ..., 999, kappa_20 = 39 and kappa_2 = 3 are taken as indices of the model's own levels, which
guided-diffusion counts from 0: each lies one level above the paper's. sigma of the linear schedule is .1405 at index 39
(.1373 at 38, the paper's), .0228 at 3 (.0190), and .0148 at the smallest level, 1 (.0100).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..errors import InputError
from ..process import DiscreteVP, Process
from ..schedule import ddim_sigmas, karras_sigmas


@dataclass(frozen=True)
class Preset:
    """One setting of the paper."""

    name: str
    model: str
    """The published file."""

    @property
    def solver(self) -> str:
        raise NotImplementedError

    def sigmas(self, process: Process) -> Tensor:
        """The schedule, [steps + 1], falling, ending in 0.

        Args:
            process: the model's own.

        Raises:
            InputError: it is none that this schedule is for.
        """
        raise NotImplementedError

    def skip(self, process: Process) -> float:
        """sigma_skip; 0 is the base method."""
        raise NotImplementedError


@dataclass(frozen=True)
class DDIM(Preset):
    """Every second level of a guided-diffusion model."""

    skip_index: int | None
    """The index up to which noise is added; None is the base method."""
    indices: ClassVar[range] = range(1, 1000, 2)

    @property
    def solver(self) -> str:
        # The base method is guided-diffusion's own inversion; with the skip, the same step is Euler's in sigma.
        return "ddim-current" if self.skip_index is None else "euler"

    def sigmas(self, process: Process) -> Tensor:
        return ddim_sigmas(self.indices, self._levels(process))

    def skip(self, process: Process) -> float:
        return 0.0 if self.skip_index is None else float(self._levels(process).sigmas[self.skip_index])

    def _levels(self, process: Process) -> DiscreteVP:
        if not isinstance(process, DiscreteVP) or len(process.sigmas) < self.indices.stop:
            raise InputError(
                f"preset {self.name!r}: is for models of {self.indices.stop} discrete levels like {self.model}, not of "
                f"the process {process.name!r}; take a preset with edm in its name"
            )
        return process


@dataclass(frozen=True)
class Karras(Preset):
    """200 levels from 0.002 to 80, rho 7."""

    sigma_skip: float
    steps: ClassVar[int] = 200
    solver = "euler"

    def sigmas(self, process: Process) -> Tensor:
        return karras_sigmas(self.steps)

    def skip(self, process: Process) -> float:
        return self.sigma_skip


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        DDIM("bedroom-ddim-base", "lsun_bedroom", None),
        DDIM("bedroom-ddim-ssi", "lsun_bedroom", 39),
        Karras("bedroom-edm-base", "edm_bedroom256_ema", 0.0),
        Karras("bedroom-edm-ssi", "edm_bedroom256_ema", 0.1),
        DDIM("imagenet-ddim-base", "256x256_diffusion_uncond", None),
        DDIM("imagenet-ddim-ssi", "256x256_diffusion_uncond", 3),
        DDIM("cat-ddim-ssi", "lsun_cat", 39),
        Karras("cat-edm-ssi", "edm_cat256_ema", 0.1),
    )
}
"""By name. The first six are the rows of Table 1; the cats have the bedrooms' settings."""
