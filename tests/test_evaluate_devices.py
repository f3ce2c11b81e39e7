"""Devices without float64 (Apple's MPS): what is measured in float64 is measured on the CPU."""

from dataclasses import replace

import pytest
import torch
from evaluations import Toy, folder, plan
from torch import Tensor

from ssi_core.evaluate import Arm, evaluate, plan_of
from ssi_core.evaluate.distances import haar
from ssi_core.manifold import Exact, circle_of_points


class Single(Tensor):
    """A tensor that says it lies on MPS and, as there, cannot become float64."""

    @property
    def device(self):
        return torch.device("mps")

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is Tensor.cpu:
            with torch._C.DisableTorchFunctionSubclass():
                return args[0].as_subclass(Tensor)
        found = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(found, cls) and found.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return found


class OnSingle(Toy):
    def __call__(self, x, sigma):
        return super().__call__(x, sigma).as_subclass(Single)


def test_the_stand_in_has_no_float64():
    with pytest.raises(TypeError, match="float64"):
        torch.ones(2).as_subclass(Single).double()
    with pytest.raises(TypeError, match="float64"):
        torch.ones(2).as_subclass(Single).to(torch.float64)


def test_curves_of_a_model(tmp_path):
    toy = plan_of("fig14", model="toy", denoise=Toy(), images="demo")
    toy = replace(toy, arms=(Arm("model", 4),), options={"samples": 2, "exact": 2})
    there = evaluate(toy, OnSingle(), tmp_path / "there")
    here = evaluate(toy, Toy(), tmp_path / "here")
    assert [r["curve"] for r in there.rows] == [r["curve"] for r in here.rows]


def test_exact_denoisers_answer_on_the_device():
    x, sigma = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), torch.ones(3)
    exact = Exact(circle_of_points(8))
    found = exact(x.as_subclass(Single), sigma.as_subclass(Single))
    assert isinstance(found, Single) and found.dtype == torch.float32
    assert torch.equal(found.cpu(), exact(x, sigma))


def test_features_of_pictures():
    pictures = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(haar(pictures.as_subclass(Single)), haar(pictures))


def test_round_trips(tmp_path):
    pictures = folder(tmp_path / "pictures", count=2)
    there = evaluate(plan(pictures, Toy()), OnSingle(), tmp_path / "there")
    here = evaluate(plan(pictures, Toy()), Toy(), tmp_path / "here")
    assert there.rows == here.rows
