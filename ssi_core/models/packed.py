"""Convolutions whose weights lie in memory as oneDNN computes with them: for float32 on the CPU.

torch keeps weights in their plain order, so that oneDNN reorders them before every convolution: of a U-Net's coarse
levels that is half of the time, and a second copy of the weights while it lasts. Here it is done once, at the first
forward pass, in place of the plain weights. With images in channels-last order nothing else has to be reordered either.

Whoever looks at the weights (`weight`, `parameters()`, `state_dict()`, copies, `to`) finds the plain ones: looking puts
them back, and the next forward pass reorders them anew, with what was changed meanwhile. A parameter that was got hold
of before a forward pass is not the module's any more after it; get it again before changing it.

Where oneDNN's own operators do not serve (gradients of any kind or weights that want them, other devices), torch's
convolution computes with the plain weights. Input of another dtype than the weights' is refused by it, as always.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

SMALLEST = 128 * 128
"""Input times output channels from which on packing is worth it; torch's own convolution computes the smaller ones."""
_PACKING = threading.RLock()
"""Of everything that changes which form of the weights is held. Forward passes with packed weights do without."""


class _Parameters(dict[str, Any]):
    """A convolution's parameters; whoever looks at them finds the plain weights."""

    def __init__(self, owner: _Packed, held: Mapping[str, Any]) -> None:
        super().__init__(held)
        self.owner = owner

    def __getitem__(self, name: str) -> Any:
        if name == "weight":
            self.owner.unpack()
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self.keys() else default

    def items(self) -> Any:
        self.owner.unpack()
        return super().items()

    def values(self) -> Any:
        self.owner.unpack()
        return super().values()

    def copy(self) -> dict[str, Any]:
        return dict(self.items())


class _Packed:
    """Mixed into a convolution class: holds either plain or packed weights."""

    packed: Tensor | None
    weight: Any
    bias: Any
    in_channels: int
    out_channels: int
    _parameters: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.packed = None
        self._parameters = _Parameters(self, self._parameters)

    def pack(self, shape: list[int]) -> Tensor | None:
        """Put packed weights in the place of the plain ones, best for input of that [B, C, H, W].

        Returns:
            The packed weights; None if the plain ones do not allow it.
        """
        with _PACKING, _untransformed():
            if self.packed is None:
                weight = self.weight
                if weight.requires_grad or weight.dtype != torch.float32 or weight.device.type != "cpu":
                    return None
                plain = weight.detach().reshape(*weight.shape, *[1] * (4 - weight.ndim))
                self.packed = torch.ops.mkldnn._reorder_convolution_weight(plain, *self._geometry(), 1, shape)
                dict.__setitem__(self._parameters, "weight", None)
            return self.packed

    def unpack(self) -> None:
        """Put the plain weights back."""
        if self.packed is None:
            return
        with _PACKING, _untransformed():
            if self.packed is not None:
                plain = nn.Parameter(self._plain(self.packed), requires_grad=False)
                dict.__setitem__(self._parameters, "weight", plain)
                self.packed = None

    def _plain(self, packed: Tensor) -> Tensor:
        return packed.to_dense()

    def _geometry(self) -> tuple[list[int], list[int], list[int]]:
        """Padding, stride and dilation."""
        return list(self.padding), list(self.stride), [1, 1]  # type: ignore[attr-defined]

    def _convolve(self, x: Tensor) -> Tensor | None:
        """The convolution of [B, C, H, W], or None where packed weights do not serve."""
        if self.in_channels * self.out_channels < SMALLEST or x.dtype != torch.float32 or x.device.type != "cpu":
            return None
        bias = self._parameters["bias"]
        # oneDNN's operators know no derivatives: they would not fail, but pass none on.
        if x.requires_grad or bias.requires_grad or forward_ad.unpack_dual(x).tangent is not None or _transformed(x):
            return None
        packed = self.packed
        if packed is None and (packed := self.pack(list(x.shape))) is None:
            return None
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(x, packed, bias, *self._geometry(), 1, "none", [], "")
        return result

    # A module's dictionary is what is copied, pickled and restored.

    def __getstate__(self) -> dict[str, Any]:
        with _PACKING:
            self.unpack()
            return {**self.__dict__, "_parameters": dict(self._parameters)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        self._parameters = _Parameters(self, self._parameters)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        with _PACKING:  # it asks for the parameters one by one
            super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[misc]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        with _PACKING:
            self.unpack()
            super()._load_from_state_dict(*args, **kwargs)  # type: ignore[misc]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        with _PACKING:
            self.unpack()
            return super()._apply(fn, recurse)  # type: ignore[misc]


def _transformed(x: Tensor) -> bool:
    """Whether `torch.func` (vmap, jvp, grad) is at work on a tensor."""
    functorch = getattr(torch._C, "_functorch", None)
    return functorch is not None and bool(functorch.is_functorch_wrapped_tensor(x))


def _untransformed() -> AbstractContextManager[Any]:
    """Within, `torch.func` lets tensors be: what it wraps does not outlive it, and weights do."""
    pause = getattr(torch._C, "_DisableFuncTorch", nullcontext)
    return pause()


class Conv2d(_Packed, nn.Conv2d):
    """`torch.nn.Conv2d` for loaded networks (one group, no dilation, zero padding)."""

    def forward(self, x: Tensor) -> Tensor:
        result = self._convolve(x)
        if result is None:
            result = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        return result


class Conv1d(_Packed, nn.Conv1d):
    """`torch.nn.Conv1d` of kernel size 1 for loaded networks."""

    def _geometry(self) -> tuple[list[int], list[int], list[int]]:
        return [0, 0], [1, 1], [1, 1]

    def _plain(self, packed: Tensor) -> Tensor:
        return super()._plain(packed)[..., 0]

    def forward(self, x: Tensor) -> Tensor:
        result = self._convolve(x[..., None])
        if result is not None:
            return result[..., 0]
        return F.conv1d(x, self.weight, self.bias)


class PackedLayers:
    """A namespace of layer classes for `Layers`."""

    Conv1d = Conv1d
    Conv2d = Conv2d
    Linear = nn.Linear
    GroupNorm = nn.GroupNorm
    Embedding = nn.Embedding


def packing_available() -> bool:
    """Whether this build of torch has oneDNN and its operators under the names used here."""
    names = ("_reorder_convolution_weight", "_convolution_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)
