"""What can go wrong, by whose doing."""

from __future__ import annotations

LONGEST_SHOWN = 100
"""Characters of a text from a file that a message repeats."""


class InputError(ValueError):
    """An argument, image or file cannot be used; the message says which, why, and what to do."""


class DenoiserError(RuntimeError):
    """The denoiser returned something unusable; the message says at which step and sigma."""


class Cancelled(Exception):
    """The caller's progress callback asked to stop; nothing was written."""


def shown(value: object) -> str:
    """What comes from a file, for a message: quoted, so that it cannot steer a terminal, and never long."""
    if isinstance(value, str):
        return repr(value[:LONGEST_SHOWN])
    return repr(value)[:LONGEST_SHOWN]
