"""How far apart two images are, one number a sample. Images are [B, C, H, W] in [-1, 1]."""

from __future__ import annotations

from pathlib import Path

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
        import lpips
    except ImportError:
        return "LPIPS: not computed; `pip install lpips` adds it"
    weights = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET
    if not weights.is_file():
        return (
            f"LPIPS: not computed; its backbone {ALEXNET} is not in {weights.parent} (`ssi` downloads nothing itself)"
        )
    network = lpips.LPIPS(net="alex", verbose=False)
    with torch.no_grad():
        return float64(network(image.float().clamp(-1, 1), reference.float().clamp(-1, 1)).flatten())


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between two noises, [B]."""
    _check(a, b)
    return torch.nn.functional.cosine_similarity(float64(a).flatten(1), float64(b).flatten(1))


def _check(image: Tensor, reference: Tensor) -> None:
    if image.shape != reference.shape:
        raise InputError(f"images: shapes {tuple(image.shape)} and {tuple(reference.shape)} differ")
