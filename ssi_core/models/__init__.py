"""Pixel-model checkpoints: recognised, loaded safely, and made into denoisers."""

from __future__ import annotations

from .load import load_checkpoint
from .pixel import PixelModel

__all__ = ["PixelModel", "load_checkpoint"]
