"""Draws the pack's icon and banner from a real inversion: each column of the picture is one step further up.

    python docs/artwork.py

On the left the held-out scene as it is, on the right the noise that the demo model found for it; every state is scaled
to the spread of pictures, so that all can be seen. The writing is in Pillow's own font.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from ssi_core import demo_denoiser, invert, karras_sigmas  # noqa: E402
from ssi_core.demo.scenes import HELD_OUT, draw_scenes  # noqa: E402

SKIP = 0.1
SPREAD = 0.4  # of pictures with values in -1..1


def ramp(scenes: list[int], width: int, clear: float) -> np.ndarray:
    """[32, width, 3] in 0..1: pictures side by side; the first share `clear` is the picture, the rest goes up."""
    x0 = draw_scenes([HELD_OUT + i for i in scenes])
    found = invert(demo_denoiser(), x0, karras_sigmas(60), skip=SKIP, seed=1, keep_states=True)
    assert found.states is not None
    levels = [float(s) for s in found.sigmas if s > 0][::-1]
    states = [x0] + [x * SPREAD / (SPREAD**2 + s**2) ** 0.5 for x, s in zip(found.states.float(), levels, strict=True)]
    strips = [torch.cat(list(x), dim=-1) for x in states]  # [3, 32, 32 n]
    columns = []
    for c in range(width):
        how_far = max(0.0, (c / (width - 1) - clear) / (1 - clear))
        columns.append(strips[round(how_far * (len(strips) - 1))][:, :, c % strips[0].shape[-1]])
    picture = torch.stack(columns, dim=-1)
    return ((picture + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()


def enlarged(picture: np.ndarray, height: int) -> Image.Image:
    image = Image.fromarray((picture * 255).round().astype(np.uint8))
    factor = height // image.height + 1
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def icon() -> Image.Image:
    return enlarged(ramp([4], 32, 0.3), 400).resize((400, 400), Image.Resampling.LANCZOS)


def banner() -> Image.Image:
    image = enlarged(ramp([4, 6, 9], 75, 0.3), 540).crop((0, 0, 1260, 540)).convert("RGB")
    draw = ImageDraw.Draw(image, "RGBA")
    draw.rectangle((0, 396, 1260, 540), fill=(16, 18, 24, 205))
    draw.text((40, 412), "SSI inversion", font=ImageFont.load_default(58), fill="white")
    draw.text(
        (42, 482), "Real images as editable Gaussian noise", font=ImageFont.load_default(30), fill=(205, 210, 220)
    )
    return image


if __name__ == "__main__":
    icon().save(HERE / "icon.png", optimize=True)
    banner().save(HERE / "banner.jpg", quality=82, optimize=True)
