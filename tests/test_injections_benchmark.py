"""How `benchmarks/injections.py` compares: noise's own chance is taken out, and neither side is flattered."""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from exact import Gaussian, normal

from ssi_core import VE, gaussianity, karras_sigmas, psnr, unit_noise
from ssi_core.injection import plain

EVERY = np.arange(2)


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    return importlib.import_module("benchmarks.injections")


def rows(figures, quality, name="chan"):
    return [{name: [[f, f]], "psnr": [[q, q]]} for f, q in zip(figures, quality, strict=True)]


@pytest.fixture
def toy(bench):
    """Data that hardly varies: the noise of an inversion is the injected one, but for a thousandth."""
    shape = (3, 16, 16)
    data = Gaussian(torch.zeros(shape, dtype=torch.float64), torch.full(shape, 1e-4, dtype=torch.float64))
    return bench.Subject("toy", data, VE(), lambda steps: karras_sigmas(steps)), 0.01 * normal(4, *shape, seed=1)


def test_the_drawn_noise_s_own_figures_are_taken_out(bench, toy):
    subject, x0 = toy
    found = bench.measured(subject, x0, 10, bench.Way("plain", plain, 0.4), seeds=2)
    own = gaussianity(unit_noise(x0, range(4)), x0)
    for name in bench.JUDGED:
        assert np.shape(found[name]) == (2, 4)
        assert np.abs(found[name]).max() < 0.2 * float(getattr(own, name).abs().max()), name
    assert found["psnr"][0] != found["psnr"][1]  # other noises


def test_the_draw_that_is_kept_is_the_nearest_and_is_paid_for(bench, toy):
    subject, x0 = toy
    one = bench.measured(subject, x0, 10, bench.Way("plain", plain, 0.4), seeds=1)
    best = bench.measured(subject, x0, 10, bench.Way("best", plain, 0.4, draws=4), seeds=1)
    assert best["nfe"] == one["nfe"] + 4
    seeds = bench.nearest_draws(subject, x0, 0.4, [0, 1, 2, 3], 4)

    def near(some):
        return psnr(subject.denoise(x0 + 0.4 * unit_noise(x0, some), torch.full((4,), 0.4)), x0)

    for k in range(4):
        assert (near(seeds) >= near([i + 1_000_000 * k for i in range(4)]) - 1e-9).all()


def test_gain_is_over_the_plain_skip_of_the_same_figure(bench):
    curve = rows([4.0, 3.0, 2.0, 1.0], [40.0, 38.0, 36.0, 34.0])
    assert bench.gain(curve, *rows([2.5], [39.0]), "chan", EVERY) == pytest.approx(2.0)
    assert bench.gain(curve, *rows([0.9], [39.0]), "chan", EVERY) == math.inf
    assert bench.gain(curve, *rows([4.1], [39.0]), "chan", EVERY) == -math.inf
    assert [bench.told(v) for v in (2.0, -0.04, math.inf, -math.inf)] == ["+2.0", "-0.0", "floor", "worse"]


def test_chance_on_the_curve_flatters_neither_side(bench):
    """A rise by chance is shared between both skips; a running extreme would put the whole of it on one."""
    curve = rows([4.0, 2.0, 3.0, 1.0], [40.0, 38.0, 36.0, 34.0])
    assert bench.gain(curve, *rows([2.5], [39.0]), "chan", EVERY) == pytest.approx(1.0)  # the better of the two
    assert bench.gain(curve, *rows([3.25], [39.0]), "chan", EVERY) == pytest.approx(0.0)


def test_edges_count_by_size_and_kurtosis_by_sign(bench):
    assert bench.gain(rows([-0.2, 0.1], [40, 38], "edge"), *rows([0.15], [40], "edge"), "edge", EVERY) == 1
    curve = rows([0.1, -0.1], [40, 38], "kurtosis")
    assert bench.gain(curve, *rows([-0.05], [40], "kurtosis"), "kurtosis", EVERY) == pytest.approx(1.5)
