"""How far apart two images are, one number a sample. Images are [B, C, H, W] in [-1, 1]. And two sets of features."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import InputError
from .precision import float64

SSIM_WINDOW = 11
ALEXNET = "alexnet-owt-7be5be79.pth"
"""torchvision's weights, under the name that torch.hub keeps them by."""


def mse(image: Tensor, reference: Tensor) -> Tensor:
    """Mean squared error in the [-1, 1] range (the paper's Table 1 scale), [B]."""
    _check(image, reference)
    return (float64(image) - float64(reference)).square().flatten(1).mean(1)


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, [B]; the peak is the range's width, 2."""
    return 10 * torch.log10(4 / mse(image, reference).clamp_min(1e-20))


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004: Gaussian window of 11, sigma 1.5), mean over pixels and channels, [B].

    kornia's: borders are padded by reflection. The image is clipped to [-1, 1] first, as a display does.

    Raises:
        InputError: shapes differ, or the image is smaller than the window.
    """
    from kornia.metrics import ssim as ssim_map  # a second to import, which most users of the engine never need

    _check(image, reference)
    if image.ndim != 4:
        raise InputError(f"image: [batch, channels, height, width] is wanted, found shape {tuple(image.shape)}")
    if min(image.shape[-2:]) < SSIM_WINDOW:
        raise InputError(f"image: {tuple(image.shape[-2:])} is smaller than SSIM's window of {SSIM_WINDOW}")
    a, b = ((x.float().clamp(-1, 1) + 1) / 2 for x in (image, reference))
    return float64(ssim_map(a, b, SSIM_WINDOW).flatten(1).mean(1))


def lpips_or_reason(image: Tensor, reference: Tensor) -> Tensor | str:
    """LPIPS (Zhang et al. 2018, AlexNet), [B], where the `lpips` package and its backbone are on this machine.

    Nothing is downloaded: where something is missing, one sentence says what and how to get it.
    """
    _check(image, reference)
    try:
        import lpips as _package  # noqa: F401  # may be there and still lack what it needs
    except ImportError:
        return "LPIPS: not computed; `pip install lpips` adds it"
    weights = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET
    if not weights.is_file():
        return (
            f"LPIPS: not computed; its backbone {ALEXNET} is not in {weights.parent} (`ssi` downloads nothing itself)"
        )
    return lpips(image, reference)


def lpips(image: Tensor, reference: Tensor) -> Tensor:
    """LPIPS (Zhang et al. 2018, AlexNet), [B], by the package of that name, which must be there with its backbone."""
    with torch.no_grad():
        return float64(_alexnet()(image.float().clamp(-1, 1), reference.float().clamp(-1, 1)).flatten())


@lru_cache(maxsize=1)
def _alexnet() -> Any:
    import lpips

    return lpips.LPIPS(net="alex", verbose=False)


def frechet(a: Tensor, b: Tensor) -> float:
    """Squared Frechet distance between the Gaussians of two sets of features (Heusel et al. 2017, Eq. 6).

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), A and B the covariances. With X, Y the centred sets the last trace
    is the sum of the singular values of X Y^T over sqrt((n - 1)(m - 1)), which needs no root of a singular matrix
    where there are fewer samples than features; and of X Y^T only the triangles of X = QR and Y = QR matter, so that
    many samples of few features are as cheap.

    Args:
        a, b: [n, F], [m, F], n and m at least 2.

    Raises:
        InputError: different numbers of features, or fewer than two samples.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise InputError(f"features: shapes {tuple(a.shape)} and {tuple(b.shape)} do not fit; [N, d] each, N >= 2")
    a, b = a.double(), b.double()
    x, y = a - a.mean(0), b - b.mean(0)
    spread = x.square().sum() / (len(x) - 1) + y.square().sum() / (len(y) - 1)
    r, s = (torch.linalg.qr(one, mode="r").R for one in (x, y))
    shared = torch.linalg.matrix_norm(r @ s.T, "nuc") / ((len(x) - 1) * (len(y) - 1)) ** 0.5
    return float((a.mean(0) - b.mean(0)).square().sum() + spread - 2 * shared)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between two noises, [B]."""
    _check(a, b)
    return torch.nn.functional.cosine_similarity(float64(a).flatten(1), float64(b).flatten(1))


def _check(image: Tensor, reference: Tensor) -> None:
    if image.shape != reference.shape:
        raise InputError(f"images: shapes {tuple(image.shape)} and {tuple(reference.shape)} differ")
