"""Experiments without pictures: how singular the score is along sampling trajectories, and sampling with exact ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..integration import Progress, hashed_seed, integrate, unit_noise
from ..precision import float64
from ..process import VE, Process
from ..report.tables import Table
from .bench import Bench, Rows, Unit
from .exact import POINTS, TARGETS
from .images import Picture
from .plan import Arm, Plan
from .preset import Preset
from .results import Results, mean, values
from .tables import cell

CHUNK = 10_000
"""Samples in the plane drawn together."""
LEVELS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0, 20.0)
"""Where the summary shows the curve."""


class First:
    """A denoiser that remembers the first evaluation of every step: the one on the trajectory itself."""

    def __init__(self, denoise: Any) -> None:
        self._denoise = denoise
        self._seen: tuple[Tensor, Tensor, float] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoise, name)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        found: Tensor = self._denoise(x, sigma)
        if self._seen is None:
            self._seen = x.clone(), found.clone(), float(sigma[0])
        return found

    def taken(self) -> tuple[Tensor, Tensor, float]:
        """(state, estimate of x0, sigma) where the step began; forgotten by being asked for."""
        assert self._seen is not None
        seen, self._seen = self._seen, None
        return seen


class Curves:
    """|E[x0|x] - x| / sigma along sampling trajectories, in units of sqrt(d) (Figures 4 and 14). No pictures: samples.

    A row is one level of one arm: mean and standard deviation over `options["samples"]` trajectories (of a
    distribution with a known score: `options["exact"]`); and, where the manifold is known, the mean distance to it
    over sigma.
    """

    needs_pictures = False
    about: ClassVar[Mapping[str, str]] = {
        "sigma": "noise level",
        "curve": "mean |E[x0|x] - x| / (sigma sqrt(d)) over the trajectories",
    }

    def columns(self, plan: Plan) -> list[str]:
        return ["sigma", "curve", "curve_std", "distance"]

    def units(self, plan: Plan, pictures: Sequence[Picture]) -> Iterator[Unit]:
        for arm in plan.arms:
            yield Unit(arm, (), tuple((arm.name, "0", str(k)) for k in range(arm.steps)))

    def run(self, bench: Bench, unit: Unit) -> Iterator[Rows]:
        arm, known = unit.arm, TARGETS.get(unit.arm.target)
        count = int(bench.plan.options["exact" if known else "samples"])
        seeds = [hashed_seed(bench.plan.seed, "trajectory", i) for i in range(count)]
        if known is not None:
            low, high = known.sigma_min, known.sigma_max
            process: Process = VE()
            noise = unit_noise(torch.empty(count, 2, dtype=torch.float64), seeds)
            denoise: Any = known.denoise
        else:
            model = bench.denoise
            low, high, process, denoise = model.sigma_min, model.sigma_max, bench.process, bench.model(arm)
            like = torch.empty(count, model.channels, model.image_size, model.image_size)
            noise = unit_noise(like, seeds).to(model.device)
        grid = arm.sigmas(low, high, process)[0].tolist()
        rows: Rows = []
        first = First(denoise)

        def watch(now: Progress) -> bool | None:
            x, estimate, level = first.taken()
            step = float64(estimate - x).flatten(1).norm(dim=1) / (level * math.sqrt(x[0].numel()))
            away = float(known.distance(x).div(level).mean()) if known else math.nan
            rows.append({"repeat": now.step - 1, "sigma": level, "curve": float(step.mean()),
                         "curve_std": float(step.std()), "distance": away})  # fmt: skip
            return bench.progress(now) if bench.progress else None

        walk = integrate(first, process.from_noise(noise, grid[0]), grid, arm.solver, process, progress=watch)
        bench.nfe += walk.nfe
        yield rows

    def tables(self, results: Results, preset: Preset) -> list[Table]:
        rows = []
        for arm in results.plan.arms:
            own = [(float(r["sigma"]), float(r["curve"])) for r in results.of(arm.name)]
            if not own:
                rows.append([arm.name, *["failed"] * len(LEVELS)])
                continue
            nearest = [min(own, key=lambda at, to=level: abs(math.log(at[0] / to))) for level in LEVELS]  # type: ignore[misc]
            rows.append([arm.name, *(f"{value:.3f}" for _, value in nearest)])
        columns = ["|E[x0|x] - x| / (sigma sqrt d) at sigma", *(f"{level:g}" for level in LEVELS)]
        note = "Means over trajectories, at the levels of each schedule that are nearest to those named."
        return [Table(preset.title, columns, rows, [note])]


class Samples:
    """`options["samples"]` samples of distributions in the plane, with the exact score (Figure 13).

    A row is `CHUNK` of them: how far from the manifold they are at the smallest level, how they are spread, and for the
    points, what share the rarest and the commonest get (1/8 each in the data, but for chance: `chance_shares`).
    """

    needs_pictures = False
    about: ClassVar[Mapping[str, str]] = {
        "distance": "mean distance of the samples to the manifold at the smallest level, before the last step",
        "distance_max": "largest distance of any sample there",
        "std_x": "standard deviation along x, mean over chunks of samples",
        "std_y": "standard deviation along y",
        "rarest": "smallest share of samples that any of the eight points gets in a chunk, mean over chunks",
        "commonest": "largest such share",
    }

    def columns(self, plan: Plan) -> list[str]:
        return ["samples", "distance", "distance_max", "std_x", "std_y", "rarest", "commonest"]

    def units(self, plan: Plan, pictures: Sequence[Picture]) -> Iterator[Unit]:
        for arm in plan.arms:
            for chunk in range(math.ceil(plan.options["samples"] / CHUNK)):
                yield Unit(arm, (), ((arm.name, "0", str(chunk)),))

    def run(self, bench: Bench, unit: Unit) -> Iterator[Rows]:
        chunk = int(unit.keys[0][2])
        count = min(CHUNK, int(bench.plan.options["samples"]) - chunk * CHUNK)
        states, nfe = sampled(unit.arm, bench.plan.seed, chunk, count)
        x = states[-1]
        bench.nfe += nfe
        target = TARGETS[unit.arm.target]
        away = target.distance(states[-2])  # the last step ends on the manifold by itself
        nearest = (x[:, None] - POINTS).norm(dim=2).argmin(1)
        shares = torch.bincount(nearest, minlength=len(POINTS)) / count
        points = unit.arm.target == "eight-points"
        yield [{
            "repeat": chunk, "samples": count, "distance": float(away.mean()), "distance_max": float(away.max()),
            "std_x": float(x[:, 0].std()), "std_y": float(x[:, 1].std()),
            "rarest": float(shares.min()) if points else None, "commonest": float(shares.max()) if points else None,
        }]  # fmt: skip

    def tables(self, results: Results, preset: Preset) -> list[Table]:
        rows = []
        for arm in results.plan.arms:
            own = results.of(arm.name)
            found = {name: mean(own, name) for name in preset.columns}
            found["distance_max"] = max(values(own, "distance_max"), default=math.nan)
            count = int(sum(values(own, "samples")))
            rows.append([arm.name, f"{count:,}", *(_plane_cell(name, value) for name, value in found.items())])
        # Noise of that level across the manifold: a Rayleigh distance around a point, a half-normal one beside a line.
        level = TARGETS["eight-points"].sigma_min
        away = [_plane_cell("distance", level * math.sqrt(x)) for x in (math.pi / 2, 2 / math.pi)]
        size = min(CHUNK, int(results.plan.options["samples"]))
        rarest, commonest = chance_shares(size)
        rows.append(["the data: eight points", "", away[0], "", "1.414", "1.414", cell("rarest", rarest),
                     cell("commonest", commonest)])  # fmt: skip
        rows.append(["the data: Gaussian on x axis", "", away[1], "", "1.000", "0.000", "", ""])
        notes = [
            f"Distances of the data are those of data with noise of sigma {level:g}.",
            f"Its rarest and commonest shares are those of {size:,} exact draws, means over many: chance alone.",
        ]
        return [Table(preset.title, ["distribution", "samples", *preset.columns], rows, notes)]


def _plane_cell(name: str, value: float) -> str:
    return f"{value:.2e}" if name.startswith("distance") and not math.isnan(value) else cell(name, value)


def sampled(arm: Arm, seed: int, chunk: int, count: int) -> tuple[Tensor, int]:
    """Trajectories of samples of a distribution in the plane, [steps + 1, count, 2] float64, noise first; and the
    evaluations that they took.

    Args:
        seed: the plan's.
        chunk: which of its chunks of samples.
    """
    target = TARGETS[arm.target]
    noise = unit_noise(torch.empty(1, count, 2, dtype=torch.float64), [hashed_seed(seed, "chunk", chunk)])[0]
    grid = arm.sigmas(target.sigma_min, target.sigma_max, VE())[0].tolist()
    walk = integrate(target.denoise, noise * grid[0], grid, arm.solver, keep_states=True)
    assert walk.states is not None
    return walk.states, walk.nfe


@lru_cache
def chance_shares(count: int, draws: int = 1000) -> tuple[float, float]:
    """Of `count` exact draws from `POINTS`: the share of the rarest and of the commonest, means over `draws`.

    1/8 each would be the shares of infinitely many; of a chunk, chance alone makes one rarer and one commoner.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.randint(len(POINTS), (count,), generator=generator) for _ in range(draws))
    shares = torch.stack([torch.bincount(one, minlength=len(POINTS)) for one in drawn]) / count
    return float(shares.amin(1).mean()), float(shares.amax(1).mean())
