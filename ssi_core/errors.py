"""What can go wrong, by whose doing."""

from __future__ import annotations


class InputError(ValueError):
    """An argument, image or file cannot be used; the message says which, why, and what to do."""


class DenoiserError(RuntimeError):
    """The denoiser returned something unusable; the message says at which step and sigma."""


class Cancelled(Exception):
    """The caller's progress callback asked to stop; nothing was written."""
