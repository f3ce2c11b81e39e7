"""Convolutions whose weights lie in memory as oneDNN computes with them: for float32 on the CPU.

torch keeps weights in their plain order, so that oneDNN reorders them before every convolution: of a U-Net's coarse
levels that is half of the time, and a second copy of the weights while it lasts. Here it is done once, at the first
forward pass, in place of the plain weights. With images in channels-last order nothing else has to be reordered either.

Wherever oneDNN's own operators do not serve (gradients, other devices, other dtypes) the plain weights are restored.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 128 * 128
"""Input times output channels from which on packing is worth it; torch's own convolution computes the smaller ones."""
_PACKING = threading.Lock()


class _Packed:
    """Mixed into a convolution class: holds either plain or packed weights."""

    packed: Tensor | None = None
    weight: Any
    bias: Any
    in_channels: int
    out_channels: int

    def pack(self, shape: list[int]) -> Tensor:
        """Put packed weights in the place of the plain ones, best for input of that [B, C, H, W]; return them."""
        with _PACKING:
            if self.packed is None:
                plain = self.weight.detach().reshape(*self.weight.shape, *[1] * (4 - self.weight.ndim))
                self.packed = torch.ops.mkldnn._reorder_convolution_weight(plain, *self._geometry(), 1, shape)
                self.weight = None
            return self.packed

    def unpack(self) -> None:
        """Put the plain weights back."""
        if self.packed is not None:
            self.weight = nn.Parameter(self._plain(), requires_grad=False)
            self.packed = None

    def _plain(self) -> Tensor:
        assert self.packed is not None
        return self.packed.to_dense()

    def _unpacked(self) -> Tensor:
        """The plain weights, whichever are held."""
        weight = self.weight  # read first: `pack` sets the packed ones before it drops these
        return self._plain() if weight is None else weight

    def _geometry(self) -> tuple[list[int], list[int], list[int]]:
        """Padding, stride and dilation."""
        return list(self.padding), list(self.stride), [1, 1]  # type: ignore[attr-defined]

    def _convolve(self, x: Tensor) -> Tensor | None:
        """The convolution of [B, C, H, W], or None where packed weights do not serve."""
        held = self.bias if self.packed is None else self.packed
        if self.in_channels * self.out_channels < SMALLEST:
            return None
        if x.requires_grad or any(t.dtype != torch.float32 or t.device.type != "cpu" for t in (x, held)):
            return None
        packed = self.pack(list(x.shape)) if self.packed is None else self.packed
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, packed, self.bias, *self._geometry(), 1, "none", [], ""
        )
        return result

    # What else a module does with its weights finds them plain.

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.unpack()
        return super()._apply(fn, recurse)  # type: ignore[misc]

    def __getstate__(self) -> dict[str, Any]:
        self.unpack()
        return dict(self.__dict__)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[misc]
        if self.packed is not None:
            destination[prefix + "weight"] = self._plain()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.unpack()
        super()._load_from_state_dict(*args, **kwargs)  # type: ignore[misc]


class Conv2d(_Packed, nn.Conv2d):
    """`torch.nn.Conv2d` for loaded networks (one group, no dilation, zero padding)."""

    def forward(self, x: Tensor) -> Tensor:
        result = self._convolve(x)
        if result is None:
            result = F.conv2d(x, self._unpacked(), self.bias, self.stride, self.padding)
        return result


class Conv1d(_Packed, nn.Conv1d):
    """`torch.nn.Conv1d` of kernel size 1 for loaded networks."""

    def _geometry(self) -> tuple[list[int], list[int], list[int]]:
        return [0, 0], [1, 1], [1, 1]

    def _plain(self) -> Tensor:
        return super()._plain()[..., 0]

    def forward(self, x: Tensor) -> Tensor:
        result = self._convolve(x[..., None])
        if result is not None:
            return result[..., 0]
        return F.conv1d(x, self._unpacked(), self.bias)


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
