"""Landscapes drawn by arithmetic: sky, sun, hills, a tree and a house, from a seed.

Every factor (where the sun stands, how high a hill is, the colour of a roof) varies smoothly, so that a morph
between two scenes has a meaningful middle, and the images fill a low-dimensional manifold: the situation in
which the score is singular at sigma = 0.

A scene can be drawn in any of `CLASSES` with all its factors kept, so that what an edit of its class should make of it
is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

HELD_OUT = 1_000_000_000
"""Scenes with seeds from here on are never trained on."""

CLASSES: dict[str, dict[str, tuple[tuple[float, float, float], float]]] = {
    "summer": {},
    "autumn": {"hill": ((0.75, 0.40, 0.12), 0.7), "leaf": ((0.90, 0.42, 0.05), 0.8)},
    "winter": {
        "hill": ((0.92, 0.95, 1.00), 0.8),
        "leaf": ((0.85, 0.90, 0.97), 0.8),
        "roof": ((0.92, 0.95, 1.00), 0.8),
    },
    "night": {
        "zenith": ((0.01, 0.02, 0.08), 0.9),
        "glow": ((0.06, 0.10, 0.25), 0.9),
        "sun": ((0.85, 0.90, 1.00), 1.0),
        "hill": ((0.05, 0.08, 0.16), 0.8),
        "wall": ((0.10, 0.12, 0.22), 0.8),
        "roof": ((0.06, 0.06, 0.14), 0.8),
        "lamp": ((1.00, 0.85, 0.35), 1.0),
        "trunk": ((0.04, 0.04, 0.08), 0.8),
        "leaf": ((0.04, 0.09, 0.10), 0.8),
    },
}
"""Class -> what is painted otherwise than in the first one: thing -> (RGB, share of it in the new colour)."""

_FACTORS = 40


def draw_scenes(seeds: Iterable[int], size: int = 32, labels: Sequence[int] | Tensor | int = 0) -> Tensor:
    """Draw one landscape per seed.

    Args:
        seeds: one integer per scene; the same seed draws the same scene at any batch and any size.
        size: height and width in pixels.
        labels: places in `CLASSES`, one for all or one a scene; the same seed draws the same scene in another class.

    Returns:
        Tensor [B, 3, size, size], float32 in [-1, 1].
    """
    u = torch.stack([torch.rand(_FACTORS, generator=torch.Generator().manual_seed(int(s))) for s in seeds])
    # Drawing at three times the size and averaging is what smooths the edges of the coarser shapes.
    fine = _draw(u, size * 3, _repaint(torch.as_tensor(labels).expand(len(u))))
    return torch.nn.functional.avg_pool2d(fine, 3).clamp(0, 1) * 2 - 1


def _repaint(labels: Tensor) -> Callable[..., Tensor]:
    """(thing, colour [B, 3, 1, 1], light [B, 1, 1] it stands in) -> its colour in the scenes' classes."""

    def repaint(thing: str, colour: Tensor, light: Tensor | float = 1.0) -> Tensor:
        table = [(*look[thing][0], look[thing][1]) if thing in look else (0.0,) * 4 for look in CLASSES.values()]
        chosen = torch.tensor(table)[labels, :, None, None]
        tint, share = chosen[:, :3], chosen[:, 3:]
        lit = tint * (light[:, None] if isinstance(light, Tensor) else light)
        return colour + share * (lit - colour)

    return repaint


def _draw(u: Tensor, n: int, repaint: Callable[..., Tensor]) -> Tensor:
    factor = iter(u.T[..., None, None])  # each use takes the next uniform number, shaped [B, 1, 1]

    def vary(low: float, high: float) -> Tensor:
        return low + (high - low) * next(factor)

    axis = (torch.arange(n) + 0.5) / n
    y, x = axis[:, None], axis[None, :]  # y grows downwards
    edge = 1.0 / n

    def inside(distance: Tensor) -> Tensor:
        """Coverage in [0, 1] of the region in which the signed distance is negative."""
        return (0.5 - distance / edge).clamp(0, 1)

    def paint(canvas: Tensor, cover: Tensor, colour: Tensor) -> Tensor:
        return canvas + cover[:, None] * (colour - canvas)

    def rgb(*channels: Tensor | float) -> Tensor:
        full = [c if isinstance(c, Tensor) else torch.full_like(day, c) for c in channels]
        return torch.stack(full, dim=1)

    day = vary(0, 1)
    warmth = vary(0, 1)
    zenith = repaint("zenith", rgb(0.10 + 0.25 * day, 0.15 + 0.40 * day, 0.35 + 0.55 * day))
    glow = repaint("glow", rgb(0.55 + 0.40 * warmth, 0.45 + 0.35 * day, 0.45 + 0.45 * day - 0.25 * warmth))
    horizon = vary(0.45, 0.65)
    canvas = zenith + (y / horizon).clamp(0, 1)[:, None] * (glow - zenith)

    sun_x, sun_y, sun_r = vary(0.1, 0.9), vary(0.08, 0.42), vary(0.05, 0.11)
    away = ((x - sun_x) ** 2 + (y - sun_y) ** 2).sqrt()
    sun = repaint("sun", rgb(1.0, 0.85 + 0.12 * day, 0.55 + 0.35 * day))
    canvas = paint(canvas, 0.5 * torch.exp(-((away / (2.5 * sun_r)) ** 2)), sun)
    canvas = paint(canvas, inside(away - sun_r), sun)

    green, dry = vary(0, 1), vary(0, 1)
    ground = horizon
    for depth in range(3):
        near = depth / 2
        phase, wave, height = vary(0, 6.28), vary(3, 7), vary(0.03, 0.12 - 0.06 * near)
        ridge = ground + 0.02 + 0.14 * near + height * torch.sin(wave * x + phase)
        lit = (0.55 + 0.45 * day) * (0.75 + 0.35 * near)
        hill = rgb(lit * (0.30 + 0.35 * dry * near), lit * (0.38 + 0.30 * green * near), lit * (0.45 - 0.30 * near))
        hill = repaint("hill", hill, lit)
        shade = 1.0 - 0.35 * ((y - ridge) / 0.5).clamp(0, 1)
        canvas = paint(canvas, inside(ridge - y), hill * shade[:, None])

    house_x, house_w, house_h = vary(0.15, 0.85), vary(0.07, 0.13), vary(0.07, 0.13)
    floor, roof_h = vary(0.80, 0.92), vary(0.06, 0.12)
    wall = repaint("wall", rgb(vary(0.55, 0.95), vary(0.5, 0.85), vary(0.45, 0.8)))
    roof = repaint("roof", rgb(vary(0.35, 0.8), vary(0.15, 0.35), vary(0.1, 0.35)))
    across, up = (x - house_x).abs(), floor - y
    canvas = paint(canvas, inside(torch.maximum(across - house_w, (up - house_h / 2).abs() - house_h / 2)), wall)
    slope = across / (house_w * 1.25) + (up - house_h) / roof_h - 1
    canvas = paint(canvas, inside(torch.maximum(slope * roof_h, house_h - up)), roof)
    lamp = repaint("lamp", rgb(0.95 - 0.6 * day, 0.85 - 0.5 * day, 0.35 + 0.1 * day))
    pane = torch.maximum(across - house_w * 0.35, (up - house_h * 0.55).abs() - house_h * 0.25)
    canvas = paint(canvas, inside(pane), lamp)

    tree_x, tree_y, crown = vary(0.1, 0.9), vary(0.78, 0.95), vary(0.06, 0.12)
    trunk_h = crown * 1.6
    trunk = torch.maximum((x - tree_x).abs() - 0.018, (tree_y - trunk_h / 2 - y).abs() - trunk_h / 2)
    canvas = paint(canvas, inside(trunk), repaint("trunk", rgb(0.32, 0.22, 0.14)))
    shine = 0.6 + 0.4 * day
    leaf = repaint("leaf", rgb(vary(0.10, 0.55), vary(0.30, 0.60), vary(0.08, 0.25)) * shine[:, None], shine)
    top_x, top_y = x - tree_x, (y - (tree_y - trunk_h - 0.4 * crown)) / 1.2
    return paint(canvas, inside((top_x**2 + top_y**2).sqrt() - crown), leaf)
