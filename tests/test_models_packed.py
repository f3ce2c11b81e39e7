"""Convolutions with reordered weights compute the same, and show plain weights to everything else."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.autograd import forward_ad

from ssi_core.models import load_checkpoint
from ssi_core.models.adm import UNet, UNetConfig
from ssi_core.models.edm import EDMNetConfig, SongUNet
from ssi_core.models.packed import Conv1d, Conv2d, PackedLayers, packing_available

pytestmark = pytest.mark.skipif(not packing_available(), reason="this build of torch has no oneDNN")


def pair(stride: int = 1, kernel: int = 3) -> tuple[nn.Conv2d, Conv2d]:
    torch.manual_seed(0)
    plain = nn.Conv2d(130, 144, kernel, stride=stride, padding=kernel // 2).requires_grad_(False)
    packed = Conv2d(130, 144, kernel, stride=stride, padding=kernel // 2).requires_grad_(False)
    packed.load_state_dict(plain.state_dict())
    return plain, packed


@pytest.mark.parametrize(("stride", "kernel"), [(1, 3), (2, 3), (1, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_same_result_at_any_size_and_batch(stride, kernel, layout):
    plain, packed = pair(stride, kernel)
    for shape in ((1, 130, 16, 16), (3, 130, 16, 16), (2, 130, 7, 9), (1, 130, 32, 32)):
        x = torch.randn(shape).to(memory_format=layout)
        assert torch.allclose(packed(x), plain(x), atol=1e-5)
    assert packed.packed is not None and dict.__getitem__(packed._parameters, "weight") is None


def test_one_dimensional_projection():
    torch.manual_seed(0)
    plain, packed = nn.Conv1d(128, 384, 1).requires_grad_(False), Conv1d(128, 384, 1).requires_grad_(False)
    packed.load_state_dict(plain.state_dict())
    x = torch.randn(2, 128, 10)
    assert torch.allclose(packed(x), plain(x), atol=1e-5)
    assert torch.equal(packed.state_dict()["weight"], plain.weight)
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        assert torch.allclose(torch.autograd.grad(packed(leaf).sum(), leaf)[0],
                              torch.autograd.grad(plain(leaf).sum(), leaf)[0], atol=1e-5)  # fmt: skip


def test_everything_else_finds_plain_weights():
    plain, packed = pair()
    x = torch.randn(1, 130, 8, 8)
    expected = plain(x)
    packed(x)
    assert torch.equal(packed.state_dict()["weight"], plain.weight)
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert torch.equal(other.weight, plain.weight) and torch.allclose(other(x), expected, atol=1e-5)
    packed(x)
    assert torch.allclose(packed.double()(x.double()), plain.double()(x.double()))
    assert packed.weight.dtype == torch.float64
    packed.float()(x)
    packed.load_state_dict({"weight": torch.zeros(144, 130, 3, 3), "bias": torch.ones(144)})
    assert torch.equal(packed(x), torch.ones_like(expected))


def test_gradients_pass():
    plain, packed = pair()
    x = torch.randn(1, 130, 8, 8)
    packed(x)
    leaf = x.clone().requires_grad_()
    mine, theirs = packed(leaf), plain(leaf)
    assert torch.allclose(torch.autograd.grad(mine.square().sum(), leaf)[0],
                          torch.autograd.grad(theirs.square().sum(), leaf)[0], atol=1e-4)  # fmt: skip


def test_weights_that_want_gradients_get_them():
    plain, packed = pair()
    x = torch.randn(1, 130, 8, 8)
    packed(x)
    packed.requires_grad_()
    plain.requires_grad_()
    assert torch.allclose(packed(x), plain(x), atol=1e-5) and packed.packed is None
    for module in (plain, packed):
        module(x).square().sum().backward()
    assert torch.allclose(packed.weight.grad, plain.weight.grad, atol=1e-2)
    assert torch.allclose(packed.bias.grad, plain.bias.grad, atol=1e-2)
    packed.weight.requires_grad_(False)
    packed.bias.grad = None
    packed(x).sum().backward()
    assert packed.bias.grad is not None


def test_forward_derivatives_pass():
    """oneDNN's operators would drop the tangent without a word."""
    plain, packed = pair()
    x, direction = torch.randn(2, 1, 130, 8, 8)
    packed(x)

    def pushed(module):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(module(forward_ad.make_dual(x, direction))).tangent

    expected = pushed(plain)
    assert float(expected.abs().max()) > 0.1
    assert torch.allclose(pushed(packed), expected, atol=1e-5)
    packed(x)
    assert torch.allclose(torch.func.jvp(packed, (x,), (direction,))[1], expected, atol=1e-5)
    packed(x)
    assert torch.allclose(torch.func.vmap(packed)(x[None]), plain(x)[None], atol=1e-5)
    packed(x)
    grads = [torch.func.grad(lambda x, m=m: m(x).square().sum())(x) for m in (packed, plain)]
    assert torch.allclose(*grads, atol=1e-3)


@pytest.mark.parametrize(
    "merge",
    [
        lambda m: m.weight.add_(1),
        lambda m: m.weight.data.mul_(2),
        lambda m: [p.add_(1) for p in m.parameters()],
        lambda m: dict(m.named_parameters())["weight"].mul_(3),
        lambda m: m.get_parameter("weight").add_(1),
        lambda m: setattr(m, "weight", nn.Parameter(m.weight + 1, requires_grad=False)),
        lambda m: m.state_dict()["weight"].add_(1),
        lambda m: nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(m.parameters()) * 2, m.parameters()),
    ],
)
def test_what_is_merged_into_the_weights_after_a_forward_pass_counts(merge):
    plain, packed = pair()
    x = torch.randn(1, 130, 8, 8)
    before = packed(x)
    for module in (plain, packed):
        merge(module)
    assert packed.packed is None
    assert torch.allclose(packed(x), plain(x), atol=1e-3) and not torch.allclose(packed(x), before, atol=1e-2)
    assert packed.packed is not None


def test_no_parameter_vanishes():
    plain, packed = pair()
    packed(torch.randn(1, 130, 8, 8))
    assert sum(p.numel() for p in packed.parameters()) == sum(p.numel() for p in plain.parameters())
    packed(torch.randn(1, 130, 8, 8))
    assert [n for n, _ in packed.named_parameters()] == ["weight", "bias"]


def test_input_of_another_dtype_is_refused_as_by_torch():
    plain, packed = pair()
    packed(torch.randn(1, 130, 8, 8))
    for module in (plain, packed):
        with pytest.raises(RuntimeError, match="same"):
            module(torch.randn(1, 130, 8, 8).bfloat16())


def test_threads_that_look_while_others_compute_lose_no_weights():
    plain, packed = pair()
    x = torch.randn(1, 130, 8, 8)
    expected, found, failed = plain(x), [], []
    uses = [
        lambda: packed(x), lambda: copy.deepcopy(packed).weight, lambda: packed.state_dict()["weight"],
        lambda: packed.weight, lambda: pickle.loads(pickle.dumps(packed)).weight, lambda: packed(x),
    ]  # fmt: skip
    start = threading.Barrier(len(uses))

    def run(use):
        start.wait()
        try:
            found.extend(use() for _ in range(60))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(use,)) for use in uses]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that threads meet in the middle of things
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failed and len(found) == 60 * len(uses)
    for value in found:
        assert torch.equal(value, plain.weight) if value.ndim == 4 and value.shape[0] == 144 else (
            torch.allclose(value, expected, atol=1e-5)
        )  # fmt: skip


def test_many_threads_pack_once():
    for _ in range(20):
        plain, packed = pair()
        x = torch.randn(1, 130, 8, 8)
        expected, found = plain(x), []
        start = threading.Barrier(8)

        def run(packed=packed, x=x, found=found, start=start):
            start.wait()
            found.append(packed(x))

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8 and all(torch.allclose(y, expected, atol=1e-5) for y in found)


def adm(path: Path) -> dict[str, object]:
    config = UNetConfig(3, 128, 6, 1, (2,), (1, 2), conv_resample=True, use_scale_shift_norm=True)
    save_file(UNet(config).state_dict(), path)
    return {"num_heads": 2, "use_new_attention_order": False, "noise_schedule": "linear"}


def ncsnpp(path: Path) -> dict[str, object]:
    config = EDMNetConfig("SongUNet", 16, 3, 3, 128, (1, 2), 1, (8,), channel_mult_noise=2, embedding_type="fourier",
                          encoder_type="residual", resample_filter=(1, 3, 3, 1))  # fmt: skip
    save_file({f"model.{k}": v for k, v in SongUNet(config).state_dict().items()}, path)
    return {"class_name": "EDMPrecond"}


@pytest.mark.parametrize("make", [adm, ncsnpp])
def test_it_is_the_default_on_a_cpu_and_agrees_with_torch(tmp_path, make):
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    told = make(path)
    packed, plain = load_checkpoint(path, **told), load_checkpoint(path, layers=nn, **told)
    for batch in (1, 3):
        x = torch.randn(batch, 3, 16, 16)
        a, b = packed.denoise(x, 0.3), plain.denoise(x, 0.3)
        assert float((a - b).abs().max()) < 1e-5 * max(1, float(b.abs().max()))
        assert packed.network(x, 3.0).is_contiguous()
    assert any(isinstance(m, Conv2d) and m.packed is not None for m in packed.module.modules())
    assert not any(isinstance(m, Conv2d) for m in plain.module.modules())
    assert not any(isinstance(m, Conv2d) for m in load_checkpoint(path, dtype=torch.bfloat16, **told).module.modules())
    again = packed.module.state_dict()
    assert all(torch.equal(again[key], value) for key, value in plain.module.state_dict().items())


def test_small_convolutions_are_left_to_torch():
    small = Conv2d(64, 64, 3, padding=1).requires_grad_(False)
    x = torch.randn(1, 64, 8, 8)
    assert torch.equal(small(x), torch.nn.functional.conv2d(x, small.weight, small.bias, padding=1))
    assert small.packed is None


def test_namespace_has_every_layer():
    for name in ("Linear", "Conv1d", "Conv2d", "GroupNorm", "Embedding"):
        assert issubclass(getattr(PackedLayers, name), getattr(nn, name))


def test_a_forward_pass_in_the_middle_of_unpacking_loses_no_weights():
    """Between putting the plain weights back and dropping the packed ones, another thread does both and packs anew."""
    others: list[threading.Thread] = []

    class Interrupted(Conv2d):
        def __setattr__(self, name, value):
            if name == "packed" and value is None and getattr(self, "armed", False):
                self.armed = False
                others.append(threading.Thread(target=lambda: (self.unpack(), self(x))))
                others[0].start()
                others[0].join(timeout=1)  # under a lock it waits until this thread is done
            super().__setattr__(name, value)

    plain, _ = pair()
    packed = Interrupted(130, 144, 3, padding=1).requires_grad_(False)
    packed.load_state_dict(plain.state_dict())
    x = torch.randn(1, 130, 8, 8)
    packed(x)
    packed.armed = True
    packed.unpack()
    others[0].join()
    assert torch.allclose(packed(x), plain(x), atol=1e-5)
    assert torch.equal(packed.state_dict()["weight"], plain.weight)
