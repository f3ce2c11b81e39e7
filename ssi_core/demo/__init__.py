"""The demo: small models of our own, the pictures it knows, and the main job shown on them."""

from .model import DEMO_MODELS, DemoDenoiser, demo_denoiser, shipped_as

__all__ = ["DEMO_MODELS", "DemoDenoiser", "demo_denoiser", "shipped_as"]
