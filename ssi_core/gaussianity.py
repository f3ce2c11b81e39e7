"""Is this noise Gaussian? Figures for each sample, with the floor that true Gaussian noise of the same shape reaches.

CHAN, HORI and VERT are the paper's (SSI-DM Table 1); they are weak, so one report also carries moments, a
Kolmogorov-Smirnov distance, signed neighbour correlations, the flatness of the radial spectrum, the dispersion of
local standard deviations and, when the source image is known, how |z| follows its edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor

from .errors import InputError

BLOCK = 4


@dataclass(frozen=True, eq=False)
class Figures:
    """One number (floors) or one tensor [B] (samples) a figure. See `FIGURES` for what each must be."""

    chan: Tensor
    hori: Tensor
    vert: Tensor
    mean: Tensor
    std: Tensor
    chi_z: Tensor
    ks: Tensor
    skew: Tensor
    kurtosis: Tensor
    lag1_h: Tensor
    lag1_v: Tensor
    lag1_t: Tensor
    flatness: Tensor
    block_spread: Tensor
    edge: Tensor


@dataclass(frozen=True, eq=False)
class Gaussianity(Figures):
    """The report of `gaussianity`. A figure that does not exist for the shape (CHAN of one channel) is NaN."""

    floor: Figures
    """Means over true Gaussian noise of the same shape."""
    spread: Figures
    """Standard deviations of the same."""
    channels: dict[str, Tensor]
    """mean, std, skew and kurtosis of each channel, [B, C]."""
    failures: tuple[dict[str, str], ...]
    """For each sample, every figure that fails, and why; empty where it passes."""

    @property
    def reasons(self) -> tuple[tuple[str, ...], ...]:
        """For each sample, in words, why it is not Gaussian; empty where it passes."""
        return tuple(tuple(failed.values()) for failed in self.failures)

    @property
    def verdicts(self) -> tuple[bool, ...]:
        """One a sample: True where no figure fails."""
        return tuple(not failed for failed in self.failures)

    @property
    def verdict(self) -> bool:
        """True when every sample passes."""
        return all(self.verdicts)

    def margin(self, figures: Collection[str] = ()) -> Tensor:
        """[B]: how much of what is allowed the worst figure uses up; 0 is the floor, above 1 the sample fails.

        Args:
            figures: which to look at; default: all.
        """
        used = [_used(name, getattr(self, name), self.floor, self.spread) for name in figures or FIGURES]
        return torch.stack(used).amax(0)


@dataclass(frozen=True)
class Rule:
    """When a figure fails: further from its floor than `tolerance` and than what chance explains."""

    about: str
    tolerance: float
    above: str = ""
    """What it means when it lies above; empty: it never fails there."""
    below: str = ""


CHANCE = 6.0
"""Standard deviations of the floor that chance is granted.

False alarms measured on true noise: 2 in 40,000 reports at 3x32x32, none in 1,000 at 4x64x64, 41 in 20,000 at 4x8x8,
where rings and blocks hold few values.
"""

_STRUCTURE = "image structure is left in the noise"
FIGURES: dict[str, Rule] = {
    "chan": Rule("mean |correlation| between channels (CHAN)", 0.03, above="channels move together"),
    "hori": Rule("mean |correlation| of adjacent columns (HORI)", 0.03, above=_STRUCTURE),
    "vert": Rule("mean |correlation| of adjacent rows (VERT)", 0.03, above=_STRUCTURE),
    "mean": Rule("mean", 0.03, above="the noise is shifted", below="the noise is shifted"),
    "std": Rule("standard deviation", 0.05, above="the noise is too strong", below="the noise has collapsed"),
    "chi_z": Rule("z-score of the norm (told, not judged)", math.inf),
    "ks": Rule("Kolmogorov-Smirnov distance from N(0, 1)", 0.02, above="its histogram is not the normal curve"),
    "skew": Rule("skewness", 0.15, above="its histogram leans", below="its histogram leans"),
    "kurtosis": Rule("excess kurtosis", 0.3, above="too many extreme values", below="too few extreme values"),
    "lag1_h": Rule("signed correlation of horizontal neighbours", 0.04, above=_STRUCTURE, below="neighbours alternate"),
    "lag1_v": Rule("signed correlation of vertical neighbours", 0.04, above=_STRUCTURE, below="neighbours alternate"),
    "lag1_t": Rule("signed correlation of successive frames", 0.04, above="frames repeat", below="frames alternate"),
    "flatness": Rule("flatness of the radial spectrum", 0.08, below="some spatial frequencies dominate"),
    "block_spread": Rule(
        f"spread of the standard deviation over {BLOCK}x{BLOCK} blocks", 0.05, above="some regions are quieter"
    ),
    "edge": Rule("correlation of |z| with the image's edges", 0.1, above="the image's edges show in the noise",
                 below="the image's edges show in the noise"),
}  # fmt: skip
OF_THE_WHOLE = frozenset({"mean", "std", "ks"})
"""Figures of how large a noise is and where it lies, which the model's own picture of the world sets; the others are of
its structure, which more injected noise covers."""


def gaussianity(noise: Tensor, image: Tensor | None = None) -> Gaussianity:
    """Measure how Gaussian each sample of a noise is.

    Args:
        noise: [B, C, ...] of rank >= 3, meant to be unit Gaussian; the last two dimensions are rows and columns (the
            last one alone for rank 3).
        image: what was inverted, of the same spatial shape, for the `edge` figure; else it is NaN.

    Returns:
        A `Gaussianity`: figures [B] float64, their floors, and a verdict with its reasons.

    Raises:
        InputError: rank under 3, empty, NaN or Inf, fewer than 16 values a sample, or an image of another size.
    """
    if not isinstance(noise, Tensor) or noise.ndim < 3 or noise.numel() == 0:
        raise InputError("noise: a non-empty tensor [batch, channels, ...] of rank 3 or more is wanted")
    if noise[0].numel() < 16:
        raise InputError(f"noise: {noise[0].numel()} values a sample are too few to judge; 16 is the least")
    if not bool(noise.isfinite().all()):
        raise InputError("noise: holds NaN or Inf")
    z = noise.detach().cpu().double()
    if image is not None:
        if not isinstance(image, Tensor) or not bool(image.isfinite().all()):
            raise InputError("image: must be a tensor without NaN or Inf")
        if image.shape[:1] + image.shape[2:] != noise.shape[:1] + noise.shape[2:]:
            raise InputError(f"image: shape {tuple(image.shape)} does not match the noise's {tuple(noise.shape)}")
        image = image.detach().cpu().double()
    floor, spread = _floors(tuple(z.shape[1:]))
    found = {name: measure(z) for name, measure in _MEASURES.items()}
    found["edge"] = _edge(z, image) if image is not None else torch.full((len(z),), math.nan, dtype=torch.float64)
    moments = ("mean", "std", "skew", "kurtosis")
    channels = {name: _MEASURES[name](z.flatten(0, 1)).reshape(z.shape[:2]) for name in moments}
    failures = tuple(
        {name: why for name in FIGURES if (why := _reason(name, float(found[name][i]), floor, spread))}
        for i in range(len(z))
    )
    return Gaussianity(**found, floor=floor, spread=spread, channels=channels, failures=failures)


def _allowed(name: str, floor: Figures, spread: Figures) -> tuple[float, float]:
    """(what is expected of a figure, how far from it is allowed)."""
    return float(getattr(floor, name)), max(FIGURES[name].tolerance, CHANCE * float(getattr(spread, name)))


def _used(name: str, values: Tensor, floor: Figures, spread: Figures) -> Tensor:
    """[B]: share of what is allowed that a figure uses up, on the sides on which it can fail; 0 where it has none."""
    rule, (expected, allowed) = FIGURES[name], _allowed(name, floor, spread)
    off = values - expected
    judged = torch.maximum(off if rule.above else -off, -off if rule.below else off) if rule.above or rule.below else 0
    return torch.nan_to_num((judged * torch.ones_like(off)).clamp_min(0) / allowed, nan=0.0)


def _reason(name: str, value: float, floor: Figures, spread: Figures) -> str:
    rule, (expected, allowed) = FIGURES[name], _allowed(name, floor, spread)
    words = rule.above if value > expected + allowed else rule.below if value < expected - allowed else ""
    return f"{rule.about} {value:.3g} (Gaussian {expected:.3g} +- {allowed:.2g}): {words}" if words else ""


@lru_cache(maxsize=32)
def _floors(shape: tuple[int, ...]) -> tuple[Figures, Figures]:
    """Means and standard deviations of every figure over true Gaussian noise, by Monte Carlo with a fixed seed."""
    size = math.prod(shape)
    draws = int(min(1024, max(24, 6e6 // size)))
    generator = torch.Generator().manual_seed(20260203)
    collected: dict[str, list[Tensor]] = {name: [] for name in FIGURES}
    chunk = max(1, int(4e6 // size))
    for start in range(0, draws, chunk):
        z = torch.randn(min(chunk, draws - start), *shape, generator=generator, dtype=torch.float64, device="cpu")
        for name, measure in _MEASURES.items():
            collected[name].append(measure(z))
    pixels = math.prod(shape[1:])
    # |z| is independent of any image, so the floor of a correlation over `pixels` values needs no Monte Carlo.
    collected["edge"] = [torch.tensor([-1.0, 1.0], dtype=torch.float64) / math.sqrt(max(pixels - 1, 1))]
    stacked = {name: torch.cat(values) for name, values in collected.items()}
    means = {name: v.mean() for name, v in stacked.items()} | _exact_floors(shape)
    floor = Figures(**means)
    spread = Figures(**{name: v.std(correction=0) for name, v in stacked.items()})
    return floor, spread


def _exact_floors(shape: tuple[int, ...]) -> dict[str, Tensor]:
    """E|r| of n independent Gaussian pairs, Gamma((n-1)/2) / (sqrt(pi) Gamma(n/2)), where figures are means of it."""

    def expected(n: int) -> Tensor:
        value = math.exp(math.lgamma((n - 1) / 2) - math.lgamma(n / 2)) / math.sqrt(math.pi)
        return torch.tensor(value, dtype=torch.float64)

    exact = {}
    if shape[0] >= 2 and math.prod(shape[1:]) >= 3:
        exact["chan"] = expected(math.prod(shape[1:]))
    if len(shape) >= 3 and min(shape[-2:]) >= 3:
        exact |= {"hori": expected(shape[-2]), "vert": expected(shape[-1])}
    return exact


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation along the last dimension; 0 where one side is constant."""
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    power = a.square().sum(-1) * b.square().sum(-1)
    return torch.where(power == 0, torch.zeros_like(power), (a * b).sum(-1) / power.clamp_min(1e-300).sqrt())


def _missing(z: Tensor) -> Tensor:
    return torch.full((len(z),), math.nan, dtype=torch.float64)


def _chan(z: Tensor) -> Tensor:
    flat = z.flatten(2)
    count = flat.shape[1]
    if count < 2 or flat.shape[2] < 3:
        return _missing(z)
    centred = flat - flat.mean(-1, keepdim=True)
    unit = centred / centred.norm(dim=-1, keepdim=True).clamp_min(1e-300)
    i, j = torch.triu_indices(count, count, offset=1)
    return (unit @ unit.mT)[:, i, j].abs().mean(1)


def _hori(z: Tensor) -> Tensor:
    """Adjacent columns: for each, the correlation of its values down the rows."""
    if z.ndim < 4 or z.shape[-2] < 3 or z.shape[-1] < 2:
        return _missing(z)
    columns = z.transpose(-1, -2)
    return _pearson(columns[..., 1:, :], columns[..., :-1, :]).abs().flatten(1).mean(1)


def _vert(z: Tensor) -> Tensor:
    return _hori(z.transpose(-1, -2)) if z.ndim >= 4 else _missing(z)


def _moment(power: int) -> Callable[[Tensor], Tensor]:
    def standardised(z: Tensor) -> Tensor:
        flat = z.flatten(1)
        centred = flat - flat.mean(1, keepdim=True)
        deviation = centred.square().mean(1).sqrt().clamp_min(1e-300)
        return (centred / deviation[:, None]).pow(power).mean(1) - (3.0 if power == 4 else 0.0)

    return standardised


def _chi_z(z: Tensor) -> Tensor:
    """|z| of d Gaussians has mean about sqrt(d - 1/2) and standard deviation about sqrt(1/2)."""
    flat = z.flatten(1)
    return (flat.norm(dim=1) - math.sqrt(flat.shape[1] - 0.5)) * math.sqrt(2)


def _ks(z: Tensor) -> Tensor:
    ordered = z.flatten(1).sort(dim=1).values
    expected = torch.special.ndtr(ordered)
    count = ordered.shape[1]
    step = torch.arange(count + 1, dtype=torch.float64) / count
    return torch.maximum((step[1:] - expected).amax(1), (expected - step[:-1]).amax(1))


def _lag1(dimension: int) -> Callable[[Tensor], Tensor]:
    def lagged(z: Tensor) -> Tensor:
        if z.ndim + dimension < 2 or z.shape[dimension] < 2:  # no such spatial dimension
            return _missing(z)
        length = z.shape[dimension]
        after, before = z.narrow(dimension, 1, length - 1), z.narrow(dimension, 0, length - 1)
        return _pearson(after.flatten(1), before.flatten(1))

    return lagged


def radial_power(z: Tensor, rings: int = 16) -> tuple[Tensor, Tensor]:
    """Mean power of [B, C, ...] in rings of equal spatial frequency, without the mean value; unit white noise gives 1.

    Returns:
        (outer edge of each ring in cycles per pixel [R], power [B, R]), R <= rings.
    """
    spatial = (-2, -1) if z.ndim >= 4 else (-1,)
    power = torch.fft.fftn(z, dim=spatial, norm="ortho").abs().square()
    while power.ndim > len(spatial) + 1:
        power = power.mean(1)
    axes = [torch.fft.fftfreq(power.shape[d], dtype=torch.float64).square() for d in spatial]
    radius = (axes[0][:, None] + axes[1][None, :] if len(axes) == 2 else axes[0]).sqrt().flatten()
    rings = min(rings, max(2, min(power.shape[1:]) // 2))
    edges = torch.linspace(0, float(radius.max()), rings + 1, dtype=torch.float64)[1:]
    ring = torch.searchsorted(edges, radius, right=True).clamp(max=rings - 1)
    ring[radius == 0] = rings  # a bin of its own, dropped below
    total = torch.zeros(len(z), rings + 1, dtype=torch.float64).index_add_(1, ring, power.flatten(1))
    count = torch.bincount(ring, minlength=rings + 1)
    mean = total / count.clamp_min(1)
    kept = count[:rings] > 0
    return edges[kept], mean[:, :rings][:, kept]


def neighbour_correlations(z: Tensor, reach: int = 3) -> Tensor:
    """Correlation of each pixel of [B, C, ...] with its neighbours up to `reach` away, over all channels and frames.

    Returns:
        [B, 2 R + 1, 2 S + 1] in -1..1, the neighbours above and left first; R and S are `reach`, or less where the
        noise is smaller (R is 0 for rank 3). The middle, always 1, is NaN. Opposite sides are taken as joined.
    """
    planes = (z if z.ndim >= 4 else z.unsqueeze(-2)).flatten(1, -3)
    centred = planes - planes.mean(dim=(-2, -1), keepdim=True)
    power = torch.fft.fft2(centred).abs().square().sum(1)
    correlation = torch.fft.ifft2(power).real
    correlation = correlation / correlation[:, :1, :1].clamp_min(1e-300)
    rows, columns = (min(reach, (side - 1) // 2) for side in correlation.shape[-2:])
    window = correlation.roll((rows, columns), (-2, -1))[:, : 2 * rows + 1, : 2 * columns + 1].clone()
    window[:, rows, columns] = math.nan
    return window


def _flatness(z: Tensor) -> Tensor:
    """Geometric over arithmetic mean of the power in rings of equal frequency: 1 is white."""
    power = radial_power(z)[1].clamp_min(1e-300)
    return power.log().mean(1).exp() / power.mean(1)


def _block_spread(z: Tensor) -> Tensor:
    """Coefficient of variation of the standard deviation over blocks (all channels together)."""
    block = (BLOCK, BLOCK) if z.ndim >= 4 else (BLOCK**2,)
    blocks = z
    for i, side in enumerate(block):
        dimension = z.ndim - len(block) + i
        if z.shape[dimension] < 2 * side:
            return _missing(z)
        blocks = blocks.unfold(dimension, side, side)
    # [B, C, (frames ...), rows, columns, side, side] -> [B, blocks, values]: channels join the values.
    values = blocks.movedim(1, -1).flatten(-len(block) - 1).flatten(1, -2)
    deviations = values.std(-1)
    return deviations.std(1) / deviations.mean(1).clamp_min(1e-300)


def _edge(z: Tensor, image: Tensor) -> Tensor:
    """Pearson correlation over pixels of mean |z| with the image's gradient magnitude, both over channels."""
    if z.ndim < 4 or min(z.shape[-2:]) < 3:
        return _missing(z)
    dy, dx = torch.gradient(image, dim=(-2, -1))
    edges = (dy.square() + dx.square()).sum(1).sqrt()
    return _pearson(z.abs().mean(1).flatten(1), edges.flatten(1))


_MEASURES: dict[str, Callable[[Tensor], Tensor]] = {
    "chan": _chan,
    "hori": _hori,
    "vert": _vert,
    "mean": lambda z: z.flatten(1).mean(1),
    "std": lambda z: z.flatten(1).std(1),
    "chi_z": _chi_z,
    "ks": _ks,
    "skew": _moment(3),
    "kurtosis": _moment(4),
    "lag1_h": _lag1(-1),
    "lag1_v": _lag1(-2),
    "lag1_t": _lag1(-3),
    "flatness": _flatness,
    "block_spread": _block_spread,
}
assert [f.name for f in fields(Figures)] == list(FIGURES)
