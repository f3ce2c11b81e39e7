"""Pictures in and out: any photograph becomes a tensor in [-1, 1], and back.

A photograph is fitted to a model in one stated way: the largest centred square is cut out and resized with an
antialiased bicubic filter. Transparency is laid over white.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .artifact import replacing
from .canvas import Canvas, wrap
from .errors import InputError

SMALLEST_SIDE = 8
"""A picture with a side under this many pixels holds nothing that could be inverted."""
MOST_PIXELS = 2**28
"""Of a picture, or of all frames of an animation, that is written: one of 16384x16384, or 256 of 1024x1024. That is
3/4 GiB of bytes; a sheet holds it as float32, 3 GiB, and to write it takes as much again."""
CAPTION = 18
"""Height of the words above a contact sheet, in pixels."""


def load_image(path: str | Path, size: int | None = None) -> Tensor:
    """Read any picture that Pillow can read.

    EXIF rotation is applied; grey, palette, CMYK, RGBA and 16-bit pictures become RGB; of an animation the first
    frame is taken.

    Args:
        path: the picture's file.
        size: fit it to size x size pixels (`fit`); None keeps it as it is.

    Returns:
        Tensor [1, 3, H, W], float32 in [-1, 1].

    Raises:
        InputError: the file is missing, unreadable, not a picture, or smaller than 8x8 pixels.
    """
    try:
        with Image.open(path) as opened:
            if opened.mode == "I" and opened.format != "PNG":
                raise ValueError("32-bit whole numbers have no known range; save it with 8 or 16 bits")
            pixels = _rgb(ImageOps.exif_transpose(opened))
    except FileNotFoundError:
        raise InputError(f"image {path}: no such file") from None
    except UnidentifiedImageError:
        raise InputError(f"image {path}: not a picture that Pillow can read (PNG, JPEG, WebP, TIFF, ...)") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"image {path}: cannot be read ({error})") from error
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise InputError(
            f"image {path}: {width}x{height} pixels is too small; give at least {SMALLEST_SIDE}x{SMALLEST_SIDE}"
        )
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None] * 2 - 1
    return image if size is None else fit(image, size)


def fit(image: Tensor, size: int) -> Tensor:
    """Cut the largest centred square out of [B, C, H, W] and resize it to size x size, antialiased, in [-1, 1]."""
    height, width = image.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[..., top : top + side, left : left + side]
    if side == size:
        return square.contiguous()
    resized = torch.nn.functional.interpolate(square, (size, size), mode="bicubic", antialias=True)
    return resized.clamp(-1, 1)


def to_pixels(image: Tensor) -> np.ndarray:
    """[B, C, H, W] in [-1, 1] (C = 1 or 3, values outside are clipped) to uint8 [B, H, W, 3]."""
    levels = image.detach().float().cpu().clamp(-1, 1).add_(1).mul_(127.5).round_().byte()
    return levels.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()


def save_image(image: Tensor, path: str | Path) -> None:
    """Write one picture [C, H, W] or [1, C, H, W] in [-1, 1]; the suffix chooses the format; atomic.

    Raises:
        InputError: a batch; or as `save_picture`.
    """
    batch = image if image.ndim == 4 else image[None]
    if len(batch) != 1:
        raise InputError(f"picture {path}: one image is wanted, found a batch of {len(batch)}")
    check_pixels(f"picture {path}", batch.shape[-1], batch.shape[-2])
    save_picture(Image.fromarray(to_pixels(batch)[0]), Path(path))


ANIMATED = ("webp", "gif", "mp4")
"""Kinds of animation: lossless; of 256 colours; video, lossy and small."""


def save_animation(frames: Tensor, path: str | Path, *, fps: float = 12.0, scale: int = 1) -> None:
    """Write frames as an animation that repeats; atomic.

    Args:
        frames: [F, C, H, W] in [-1, 1].
        path: the file, ending in .webp, .gif or .mp4 (for which PyAV is needed).
        fps: frames a second, at most 50.
        scale: whole-number magnification, for small pictures.

    Raises:
        InputError: another suffix, no PyAV, too many pixels (`check_pixels`), or a folder that cannot be written to.
    """
    path = Path(path)
    kind = check_animation(path)
    check_pixels(f"animation {path}", frames.shape[-1] * scale, frames.shape[-2] * scale, len(frames))
    pixels = to_pixels(frames).repeat(scale, axis=1).repeat(scale, axis=2)
    if kind == "mp4":
        _save_video(pixels, path, fps)
        return
    first, *others = (Image.fromarray(p) for p in pixels)
    options = {"lossless": True} if kind == "webp" else {}
    save_picture(first, path, save_all=True, append_images=others, loop=0, duration=round(1000 / fps), **options)


def check_animation(path: Path) -> str:
    """Which kind of animation a path means; raises as `save_animation`, before there is one."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ANIMATED:
        raise InputError(f"animation {path}: unknown suffix {path.suffix!r}; use {', '.join(ANIMATED)}")
    if kind == "mp4" and find_spec("av") is None:
        raise InputError(f"animation {path}: .mp4 needs PyAV (pip install av); .webp and .gif need nothing")
    return kind


def check_pixels(what: str, width: int, height: int, frames: int = 1) -> None:
    """Refuse what is too large to be written; to be asked before the work that would be lost, and by every writer.

    Raises:
        InputError: naming `what`: it would have more than `MOST_PIXELS`.
    """
    if width * height * frames > MOST_PIXELS:
        many, fewer = (f"{frames:,} frames of ", " or the number of frames") if frames > 1 else ("", "")
        raise InputError(
            f"{what}: {many}{width}x{height} pixels are too much; at most {MOST_PIXELS:,} pixels are written in all: "
            f"lower the scale{fewer}"
        )


def _save_video(pixels: np.ndarray, path: Path, fps: float) -> None:
    import av

    # Chroma is stored at half the size, so that heights and widths must be even.
    odd = [(0, 0), (0, pixels.shape[1] % 2), (0, pixels.shape[2] % 2), (0, 0)]
    pixels = np.pad(pixels, odd, mode="edge")
    with replacing(path) as beside, av.open(str(beside), "w", format="mp4") as box:
        stream = box.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:3], "yuv420p"
        for picture in pixels:
            box.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        box.mux(stream.encode())


def contact_sheet(rows: Sequence[Tensor], *, scale: int = 1, gap: int = 2, captions: Sequence[str] = ()) -> Tensor:
    """Lay rows of pictures [N, C, H, W] in [-1, 1] out on white; returns [1, 3, H', W'].

    Args:
        scale: whole-number magnification of each.
        gap: white around each, in pixels of the sheet.
        captions: words above the pictures of the first row, cut off where they are wider.

    Raises:
        InputError: too many pixels (`check_pixels`).
    """
    sizes = [(len(row), row.shape[-1], row.shape[-2]) for row in rows]
    width, height = sheet_size(sizes, scale=scale, gap=gap, captions=captions)
    check_pixels("sheet of pictures", width, height)
    sheet, top = torch.ones(1, 3, height, width), gap
    if captions:
        sheet[..., :CAPTION, :] = _captioned(captions, rows[0].shape[-1] * scale + 2 * gap, width)
        top += CAPTION
    for row in rows:
        high, wide = row.shape[-2] * scale, row.shape[-1] * scale
        for i, picture in enumerate(row.split(1)):
            left = gap + i * (wide + 2 * gap)
            tile = torch.nn.functional.interpolate(picture.float(), scale_factor=float(scale))
            sheet[..., top : top + high, left : left + wide] = tile
        top += high + 2 * gap
    return sheet


def sheet_size(
    rows: Sequence[tuple[int, int, int]], *, scale: int = 1, gap: int = 2, captions: Sequence[str] = ()
) -> tuple[int, int]:
    """(width, height) of a contact sheet of rows of (pictures, width, height of each)."""
    widths = [count * (width * scale + 2 * gap) for count, width, _ in rows]
    heights = [height * scale + 2 * gap for _, _, height in rows]
    return max(widths), sum(heights) + (CAPTION if captions else 0)


def _captioned(captions: Sequence[str], column: int, width: int) -> Tensor:
    """Words centred over columns: [1, 3, CAPTION, width] in [-1, 1]."""
    canvas = Canvas(width, CAPTION)
    for i, words in enumerate(captions):
        for line in wrap(words, 12, column, lines=1):
            canvas.text((i + 0.5) * column, CAPTION - 4, line, 12, anchor="ms")
    pixels = torch.from_numpy(np.array(canvas.finished()))
    return pixels.permute(2, 0, 1)[None] / 127.5 - 1


def _rgb(picture: Image.Image) -> np.ndarray:
    """Any Pillow mode to float32 [H, W, 3] in [0, 1]."""
    if picture.mode.startswith("I") or picture.mode == "F":
        grey = np.asarray(picture, dtype=np.float32)
        # Pillow widens 16-bit PNGs to mode I; a floating-point file has no range of its own, so 0..1 is assumed.
        grey = grey / 65535.0 if picture.mode != "F" else grey
        if not np.isfinite(grey).all() or grey.min() < 0 or grey.max() > 1:
            raise ValueError("it holds NaN, Inf or numbers outside 0 to 1; save it with 8 or 16 bits")
        return np.repeat(grey.clip(0, 1)[..., None], 3, axis=2)
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        rgba = np.asarray(picture.convert("RGBA"), dtype=np.float32) / 255
        colour, alpha = rgba[..., :3], rgba[..., 3:]
        return colour * alpha + (1 - alpha)
    return np.asarray(picture.convert("RGB"), dtype=np.float32) / 255


def save_picture(picture: Image.Image, path: Path, **options: object) -> None:
    """Write a Pillow picture; the suffix chooses the format; atomic.

    Raises:
        InputError: an unknown suffix, too many pixels (`check_pixels`), or a folder that cannot be written to.
    """
    check_pixels(f"picture {path}", *picture.size)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None:
        raise InputError(f"picture {path}: unknown suffix {path.suffix!r}; use .png or .webp")
    with replacing(path) as beside:
        picture.save(beside, format=kind, **options)
