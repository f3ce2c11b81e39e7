"""The demo: a small model of our own, the pictures it knows, and the main job shown on them."""

from .model import DemoDenoiser, demo_denoiser

__all__ = ["DemoDenoiser", "demo_denoiser"]
