"""Networks on layers that are not torch's own: whoever made them decides how their weights are used."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ssi_core import demo_denoiser
from ssi_core.models.layers import Layers, conditioned_norm


def counting() -> tuple[Layers, list[nn.Module]]:
    """Layer classes that compute as torch's do, and which of them were called."""
    called: list[nn.Module] = []

    def of(kind):
        def forward(self, *args):
            called.append(self)
            return kind.forward(self, *args)

        return type(kind.__name__, (kind,), {"forward": forward})

    return SimpleNamespace(**{name: of(getattr(nn, name)) for name in Layers.__annotations__}), called


def test_the_demo_network_is_built_from_the_layers_given():
    layers, called = counting()
    ours, plain = demo_denoiser(layers=layers), demo_denoiser()
    x, sigma = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 20.0])
    assert torch.equal(ours(x, sigma), plain(x, sigma))
    assert {m for m in ours.network.modules() if list(m.parameters(recurse=False))} == set(called)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_of_foreign_make_is_called_and_not_taken_apart(dtype):
    torch.manual_seed(0)
    layers, called = counting()
    plain = nn.GroupNorm(4, 16)
    nn.init.normal_(plain.weight), nn.init.normal_(plain.bias)
    foreign = layers.GroupNorm(4, 16)
    foreign.load_state_dict(plain.state_dict())
    x, scale, shift = torch.randn(3, 16, 8, 8).to(dtype), torch.randn(3, 16), torch.randn(3, 16)
    with torch.no_grad():
        wanted = conditioned_norm(x, plain, scale, shift)
        found = conditioned_norm(x, foreign.to(dtype), scale, shift)
    assert called == [foreign] and found.dtype == dtype
    # Three roundings of bfloat16's 2^-9.
    tolerance = 1e-6 if dtype == torch.float32 else 0.01
    assert float((found - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


@pytest.mark.parametrize("way", ["hook", "pre-hook", "patched"])
def test_a_norm_that_somebody_listens_to_is_called(way):
    norm, called = nn.GroupNorm(4, 8), []
    forward = norm.forward
    if way == "hook":
        norm.register_forward_hook(lambda *_: called.append(way))
    elif way == "pre-hook":
        norm.register_forward_pre_hook(lambda *_: called.append(way))
    else:
        norm.forward = lambda x: called.append(way) or forward(x)
    x, scale, shift = torch.randn(1, 8, 4, 4), torch.randn(1, 8), torch.randn(1, 8)
    with torch.no_grad():
        plain = nn.functional.group_norm(x, 4) * (1 + scale)[..., None, None] + shift[..., None, None]
        assert torch.allclose(conditioned_norm(x, norm, scale, shift), plain, atol=1e-5) and called == [way]
