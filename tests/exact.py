"""Data whose denoiser D(x, sigma) = E[x0 | x] is known exactly, and whose probability-flow ODE can be solved.

Everything is float64 and vectorised. The state is x = alpha x0 + sigma n, with alpha = 1 for VE and VP (in the
solver's coordinate) and alpha = 1 - sigma for flow; in both, dx/dsigma = (x - D) / sigma.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers that depend on seed and shape only."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Gaussian:
    """x0 ~ N(mean, diag(var)), of the shape of one sample. D uses + - * / only, so it is the same bits in any batch.

    A zero in `var` is a direction in which the data does not vary: the null space of the score's regular part.
    """

    def __init__(self, mean: Tensor, var: Tensor, flow: bool = False) -> None:
        self.mean, self.var, self.flow = mean, var, flow

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma.reshape(-1, *[1] * (x.ndim - 1))
        alpha = 1 - s if self.flow else torch.ones_like(s)
        mean, var = self.mean.to(x), self.var.to(x)
        return mean + alpha * var / (alpha * alpha * var + s * s) * (x - alpha * mean)

    def ode(self, x: Tensor, a: float, b: float) -> Tensor:
        """The exact solution at level b of the ODE that passes through x at level a."""
        alpha_a, alpha_b = (1 - a, 1 - b) if self.flow else (1.0, 1.0)
        growth = ((alpha_b**2 * self.var + b**2) / (alpha_a**2 * self.var + a**2)).sqrt()
        return alpha_b * self.mean + growth * (x - alpha_a * self.mean)


class Mixture:
    """x0 from sum_k weights_k N(means_k, var I); means [K, *sample shape]. var = 0 is a cloud of points.

    The exponentials are taken relative to the largest, so that small sigma neither over- nor underflows.
    """

    def __init__(self, means: Tensor, var: float = 0.0, weights: Sequence[float] | None = None, flow: bool = False):
        self.means, self.var, self.flow = means, var, flow
        self.logs = torch.tensor(weights or [1.0] * len(means), dtype=torch.float64).log()

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        means = self.means.to(x).flatten(1)
        s = sigma[:, None]
        alpha = 1 - s if self.flow else torch.ones_like(s)
        flat = x.flatten(1)
        total = alpha**2 * self.var + s**2
        apart = flat[:, None] - alpha[..., None] * means  # [B, K, d]
        share = torch.softmax(self.logs.to(x) - apart.square().sum(2) / (2 * total), dim=1)
        centre = share @ means
        return (centre + alpha * self.var / total * (flat - alpha * centre)).reshape_as(x)

    def ode(self, x: Tensor, a: float, b: float, steps: int = 600) -> Tensor:
        """As `Gaussian.ode`, by so many steps of Runge-Kutta 4 in log sigma (error under 1e-8 for the tests' data)."""
        h = math.log(b / a) / steps
        for i in range(steps):

            def slope(x: Tensor, part: float, i: int = i) -> Tensor:
                level = min(a * math.exp((i + part) * h), 1.0 if self.flow else math.inf)
                return x - self(x, x.new_full((len(x),), level))

            k1 = slope(x, 0)
            k2 = slope(x + h / 2 * k1, 0.5)
            k3 = slope(x + h / 2 * k2, 0.5)
            k4 = slope(x + h * k3, 1)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return x


class Counted:
    """A denoiser that counts its evaluations and remembers the sigma of each."""

    def __init__(self, denoise) -> None:
        self.denoise, self.sigmas = denoise, []

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.sigmas.append(float(sigma[0]))
        return self.denoise(x, sigma)

    @property
    def nfe(self) -> int:
        return len(self.sigmas)


def gaussian(flow: bool = False, shape: tuple[int, ...] = (1, 2, 4)) -> Gaussian:
    """An anisotropic Gaussian with standard deviations from .4 to 1.5 and a mean that is not zero."""
    count = math.prod(shape)
    return Gaussian(
        normal(*shape, seed=11) * 0.5, torch.linspace(0.4, 1.5, count, dtype=torch.float64).reshape(shape) ** 2, flow
    )


def mixture(flow: bool = False) -> Mixture:
    """Three overlapping blobs: D is not linear, but smooth."""
    return Mixture(normal(3, 1, 2, 4, seed=12), 0.6, [0.2, 0.5, 0.3], flow)


def slope(steps: Sequence[int], errors: Sequence[float]) -> float:
    """The order of convergence: minus the slope of a least-squares line through log error over log steps."""
    x = torch.tensor(steps, dtype=torch.float64).log()
    y = torch.tensor(errors, dtype=torch.float64).log()
    x, y = x - x.mean(), y - y.mean()
    return -float((x * y).sum() / (x * x).sum())


def relative(found: Tensor, wanted: Tensor) -> float:
    """The largest relative error of any sample, in root mean squares."""
    gap = (found - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)
    return float(gap.max())
