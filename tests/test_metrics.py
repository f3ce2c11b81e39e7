"""Image metrics by hand and against a second implementation."""

import math

import numpy as np
import pytest
import torch
from exact import normal

from ssi_core import InputError, cosine, mse, psnr, ssim


def test_mse_and_psnr_by_hand():
    a = torch.zeros(2, 3, 4, 4)
    b = a.clone()
    b[1] += 0.2
    assert mse(a, b).tolist() == pytest.approx([0, 0.04])
    assert float(psnr(a, b)[1]) == pytest.approx(20 * math.log10(2 / 0.2))
    assert float(psnr(a, a)[0]) >= 200


def test_mse_is_taken_in_float64():
    a = torch.full((1, 1, 8, 8), 1.0)
    b = torch.full((1, 1, 8, 8), 1.0 - 2**-24)
    assert float(mse(a, b)[0]) == pytest.approx(2.0**-48, rel=1e-12)


def numpy_ssim(a, b):
    """Wang et al. 2004, one channel in [0, 1], window by window with reflected borders."""
    at = np.arange(11) - 5
    line = np.exp(-(at**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    tiles = [np.lib.stride_tricks.sliding_window_view(np.pad(i, 5, mode="reflect"), (11, 11)) for i in (a, b)]
    ma, mb = ((t * window).sum((-1, -2)) for t in tiles)
    va, vb = ((t**2 * window).sum((-1, -2)) - m**2 for t, m in zip(tiles, (ma, mb), strict=True))
    cov = (tiles[0] * tiles[1] * window).sum((-1, -2)) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return (((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean()


def test_ssim_is_the_gaussian_window_one():
    a = (0.5 * normal(2, 3, 20, 24)).clamp(-1, 1)
    b = (a + 0.3 * normal(2, 3, 20, 24, seed=1)).clamp(-1, 1)
    wanted = [np.mean([numpy_ssim(*((i[c].numpy() + 1) / 2 for i in pair)) for c in range(3)]) for pair in zip(a, b)]  # noqa: B905
    assert ssim(a, b).tolist() == pytest.approx(wanted, abs=1e-4)
    assert 0.05 < wanted[0] < 0.95


def test_ssim_of_equal_images_is_one_and_clips_like_a_display():
    a = normal(2, 3, 16, 16)
    assert ssim(a, a).tolist() == pytest.approx([1, 1])
    assert ssim(a, a.clamp(-1, 1)).tolist() == pytest.approx([1, 1])


def test_metrics_are_per_sample():
    a, b = 0.4 * normal(3, 3, 16, 16), 0.4 * normal(3, 3, 16, 16, seed=1)
    for metric in (mse, psnr, ssim, cosine):
        assert metric(a, b).shape == (3,)
        assert metric(a, b)[1:2].tolist() == pytest.approx(metric(a[1:2], b[1:2]).tolist())


def test_cosine_of_known_angles():
    a = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[1.0, 1.0]]])
    b = torch.tensor([[[0.0, 2.0]], [[-3.0, 0.0]], [[1.0, 0.0]]])
    assert cosine(a, b).tolist() == pytest.approx([0, -1, 0.5**0.5])


@pytest.mark.parametrize("metric", [mse, psnr, ssim, cosine])
def test_different_shapes_are_refused(metric):
    with pytest.raises(InputError, match=r"\(1, 3, 16, 16\) and \(1, 1, 16, 16\)"):
        metric(torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16))


def test_ssim_refuses_images_under_its_window():
    with pytest.raises(InputError, match="smaller than SSIM's window of 11"):
        ssim(torch.zeros(1, 1, 10, 20), torch.zeros(1, 1, 10, 20))
