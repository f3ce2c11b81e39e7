"""The embedded demo models as denoisers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from ..denoiser import Guided
from ..errors import InputError
from ..models.layers import Layers
from ..models.pixel import Labels
from .kinds import KINDS
from .network import DemoUNet

DEMO_MODELS = {
    "demo": Path(__file__).with_name("demo32.safetensors"),
    "demo-flow": Path(__file__).with_name("demo32-flow.safetensors"),
    "demo-classes": Path(__file__).with_name("demo32-classes.safetensors"),
}
"""The models that ship with this package, by the names that the command line knows."""


def facts_of(path: Path) -> dict[str, Any]:
    """What `train.write_weights` wrote beside the weights: kind, network, training."""
    with safe_open(path, framework="pt") as file:
        facts: dict[str, Any] = json.loads(file.metadata()["demo_model"])
    return {"kind": "edm", **facts}  # demo32.safetensors was written before there were kinds


class DemoDenoiser:
    """D(x, sigma) of a demo model: x [B, 3, 32, 32] in the coordinate of its `process`, images in [-1, 1].

    With classes it is also D(x, sigma, weights of the classes [B, classes]), zeros, or nothing, for no class; for
    solvers `conditioned` makes it a denoiser of x and sigma again.
    """

    dtype = torch.float32

    def __init__(self, path: Path, device: str | torch.device, layers: Layers = nn) -> None:
        facts = facts_of(path)
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            weights = {name: file.get_tensor(name).float() for name in names}
        with torch.device("meta"):
            network = DemoUNet(**facts["network"], layers=layers)
        network.load_state_dict(weights, strict=True, assign=True)
        self.network = network.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)
        kind = KINDS[facts["kind"]]
        self.process, self.sigma_min, self.sigma_max = kind.process, kind.sigma_min, kind.sigma_max
        self.image_size: int = facts["network"]["image_size"]
        self.channels: int = facts["network"]["channels"]
        self.classes: tuple[str, ...] = tuple(facts.get("classes", ()))
        """Names, in the order of the labels; empty for a model without classes."""
        self.signature = _signature(path)
        self._denoise = kind.denoiser(self.network)
        self.is_flow = self._denoise.is_flow

    @property
    def mixes_classes(self) -> bool:
        """Whether it can be asked for a mixture of classes: `conditioned` with weights of several."""
        return bool(self.classes)

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: Tensor, *weights: Tensor) -> Tensor:
        return self._denoise(x.to(self.dtype), sigma.to(self.dtype), *weights)

    def conditioned(self, labels: Labels, guidance: float = 1.0) -> DemoDenoiser | Guided:
        """A denoiser of one class, or of one per image.

        Args:
            labels: places in `classes`, one for all or [B], or weights of the classes [B, classes]. None: no class,
                which is the model itself.
            guidance: scale of classifier-free guidance against no class; 1 is none. Any other asks the network twice.

        Raises:
            InputError: the model has no such class, or weights are not finite.
        """
        if labels is None:
            return self
        given = torch.as_tensor(labels)
        if given.ndim == 2 and given.shape[1] == len(self.classes) > 1:
            if not bool(given.isfinite().all()):
                raise InputError("labels: hold NaN or Inf")
            weights = given.to(self.device, self.dtype)
            return Guided(self, weights, torch.zeros_like(weights), guidance)
        given = given.reshape(-1)
        wrong = [label for label in given.tolist() if label not in range(len(self.classes))]
        if wrong:
            if not self.classes:
                raise InputError(f"label {wrong[0]}: the model has no classes; leave it out")
            raise InputError(f"label {wrong[0]}: the model has {len(self.classes)} classes (counted from 0)")
        weights = F.one_hot(given.long(), len(self.classes)).to(self.device, self.dtype)
        return Guided(self, weights, torch.zeros_like(weights), guidance)


def _signature(path: Path) -> str:
    return f"demo:{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def shipped_as(signature: object) -> str | None:
    """The name in `DEMO_MODELS` of the model that has this signature, as a noise's provenance states it; else None."""
    return next((name for name, path in DEMO_MODELS.items() if _signature(path) == signature), None)


def demo_denoiser(device: str | torch.device = "cpu", layers: Layers = nn, *, name: str = "demo") -> DemoDenoiser:
    """A model that ships with this package, trained on drawn landscapes and photo crops (see `MODEL_CARD.md`).

    Args:
        device: where to run it.
        layers: namespace of layer classes to build it from (a host's castable ones).
        name: of `DEMO_MODELS`: "demo" (EDM), "demo-flow" (rectified flow) or "demo-classes" (EDM with the classes of
            `scenes.CLASSES`).

    Returns:
        A callable (x [B, 3, 32, 32], sigma [B]) -> x0 estimate, float32, with `.process`, `.image_size`, `.channels`,
        `.sigma_min`, `.sigma_max`, `.classes` and `.signature`.

    Raises:
        InputError: no model of that name.
    """
    if name not in DEMO_MODELS:
        raise InputError(f"demo model {name!r}: unknown; known are {', '.join(DEMO_MODELS)}")
    return DemoDenoiser(DEMO_MODELS[name], device, layers)
