"""A MODEL's levels as the engine's process: what is promised elementwise is so for every kind of model."""

import importlib

import pytest
import torch
from models import FAMILIES, RARE, gaussian_model


# An "image" model adds no noise: it has no such ratio.
@pytest.mark.parametrize("family", [family for family in (*FAMILIES, *RARE) if family != "image"])
def test_snr_of_many_levels_is_that_of_each(pack, family):
    levels = importlib.import_module(f"{pack.__name__}.nodes.host.levels")
    process = levels.HostProcess.of(gaussian_model(family))
    sigmas = torch.linspace(process.sigma_min, 0.9 * process.sigma_max, 6, dtype=torch.float64).reshape(2, 3)
    for convert in (process.snr, process.ratio):
        found = convert(sigmas)
        assert found.shape == (2, 3) and found.dtype == torch.float64
        assert found.flatten().tolist() == pytest.approx([float(convert(s)) for s in sigmas.flatten().tolist()])
    back = process.sigma_of_snr(process.snr(sigmas))
    assert back.shape == (2, 3) and back.flatten().tolist() == pytest.approx(sigmas.flatten().tolist(), rel=1e-4)
    with pytest.raises(ValueError, match="SNR 0: must be positive"):
        process.sigma_of_snr(torch.tensor([1.0, 0.0]))
