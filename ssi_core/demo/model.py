"""The embedded demo model as a denoiser."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..denoiser import EDM
from ..models.layers import Layers
from .network import DemoUNet

WEIGHTS = Path(__file__).with_name("demo32.safetensors")


class DemoDenoiser:
    """D(x, sigma) of the demo model: x [B, 3, 32, 32] in VE coordinates, images in [-1, 1]."""

    dtype = torch.float32
    is_flow = False

    def __init__(self, path: Path, device: str | torch.device, layers: Layers = nn) -> None:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["demo_model"])
            names = file.keys()
            weights = {name: file.get_tensor(name).float() for name in names}
        with torch.device("meta"):
            network = DemoUNet(**facts["network"], layers=layers)
        network.load_state_dict(weights, strict=True, assign=True)
        self.network = network.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)
        self.sigma_min: float = facts["sigma_min"]
        self.sigma_max: float = facts["sigma_max"]
        self.image_size: int = facts["network"]["image_size"]
        self.channels: int = facts["network"]["channels"]
        self.signature = f"demo:{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
        self._denoise = EDM(self.network, facts["sigma_data"])

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self._denoise(x.to(self.dtype), sigma.to(self.dtype))


def demo_denoiser(device: str | torch.device = "cpu", layers: Layers = nn) -> DemoDenoiser:
    """The model that ships with this package, trained on drawn landscapes and photo crops (see `MODEL_CARD.md`).

    Args:
        device: where to run it.
        layers: namespace of layer classes to build it from (a host's castable ones).

    Returns:
        A callable (x [B, 3, 32, 32], sigma [B]) -> x0 estimate, float32, with `.image_size`, `.channels`,
        `.sigma_min`, `.sigma_max` and `.signature`.
    """
    return DemoDenoiser(WEIGHTS, device, layers)
