"""Crops of freely licensed photographs, so that a real photograph is not foreign to the demo model.

The photographs ship inside scikit-image and scikit-learn (the `train` extra). Each is split by image region: the left
part is for training, the right part is held out (or the other way round), and a strip between them belongs to neither,
so that no held-out pixel was ever seen. The held-out crops that the demo and the tests use are kept as one PNG beside
this file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..image import load_image, to_pixels

SHEET = Path(__file__).with_name("heldout_photos.png")
SHEET_COLUMNS = 8


@dataclass(frozen=True)
class Photo:
    """One source photograph: where it is found and what permits its use."""

    name: str
    package: str  # "skimage" or "sklearn"
    file: str
    licence: str
    credit: str
    held_left: bool = False  # which side is held out: the one with something on it


PHOTOS = (
    Photo("astronaut", "skimage", "data/astronaut.png", "public domain", "NASA"),
    Photo("chelsea", "skimage", "data/chelsea.png", "CC0", "Stefan van der Walt", held_left=True),
    Photo("coffee", "skimage", "data/coffee.png", "CC0", "Rachel Michetti"),
    Photo("rocket", "skimage", "data/rocket.jpg", "CC0", "SpaceX"),
    Photo("motorcycle", "skimage", "data/motorcycle_left.png", "CC0", "Daniel Scharstein and others, Middlebury 2014"),
    Photo("china", "sklearn", "datasets/images/china.jpg", "CC BY 2.0", "danielbuechele"),
    Photo("flower", "sklearn", "datasets/images/flower.jpg", "CC BY 2.0", "vultilion", held_left=True),
)

_TRAINED, _HELD_OUT = 0.68, 0.72  # of the width; between them lies the strip that nobody uses
_SMALLEST_CROP = 64  # pixels of the original a side: below it a crop is mostly blur and JPEG blocks


def photo_regions() -> Iterator[tuple[Photo, Tensor, Tensor]]:
    """Yield (photo, training region, held-out region); the regions are [3, H, W] float32 in [0, 1].

    Raises:
        ImportError: when scikit-image or scikit-learn is not installed.
    """
    import skimage
    import sklearn
    from PIL import Image
    from torch import frombuffer

    roots = {"skimage": Path(skimage.__file__).parent, "sklearn": Path(sklearn.__file__).parent}
    for photo in PHOTOS:
        with Image.open(roots[photo.package] / photo.file) as opened:
            picture = opened.convert("RGB")
        flat = frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        pixels = flat.reshape(picture.height, picture.width, 3).permute(2, 0, 1).float() / 255
        if photo.held_left:
            pixels = pixels.flip(-1)
        width = pixels.shape[-1]
        regions = pixels[..., : int(_TRAINED * width)], pixels[..., int(_HELD_OUT * width) :]
        seen, held = (r.flip(-1) if photo.held_left else r for r in regions)
        yield photo, seen, held


def photo_crops(count: int, size: int, seed: int, *, held_out: bool) -> Tensor:
    """Square crops at random places and scales, the photographs in turn, shrunk to the model's size.

    Args:
        count: number of crops.
        size: height and width of the result in pixels.
        seed: of the places and scales; crop i does not depend on `count`.
        held_out: take them from the held-out regions instead of the training regions.

    Returns:
        Tensor [count, 3, size, size], float32 in [-1, 1].
    """
    regions = [held if held_out else seen for _, seen, held in photo_regions()]
    crops = []
    for i in range(count):
        region = regions[i % len(regions)]
        height, width = region.shape[-2:]
        u = torch.rand(3, generator=torch.Generator().manual_seed(seed + i)).tolist()
        largest = min(height, width)
        side = round(_SMALLEST_CROP * math.exp(u[0] * math.log(largest / _SMALLEST_CROP)))
        top, left = int(u[1] * (height - side + 1)), int(u[2] * (width - side + 1))
        crop = region[None, :, top : top + side, left : left + side]
        crops.append(torch.nn.functional.interpolate(crop, (size, size), mode="bilinear", antialias=True))
    return torch.cat(crops) * 2 - 1


def write_sheet(path: Path = SHEET, count: int = 32, size: int = 32) -> None:
    """Draw the held-out crops into one PNG, row by row."""
    pixels = to_pixels(photo_crops(count, size, seed=0, held_out=True))
    rows = pixels.reshape(-1, SHEET_COLUMNS, size, size, 3).transpose(0, 2, 1, 3, 4)
    from PIL import Image

    Image.fromarray(rows.reshape(-1, SHEET_COLUMNS * size, 3)).save(path)


def held_out_photos(size: int = 32) -> Tensor:
    """The held-out crops of the sheet, [count, 3, size, size], float32 in [-1, 1]."""
    sheet = load_image(SHEET)
    columns = sheet.shape[-1] // size
    tiles = sheet[0].reshape(3, -1, size, columns, size).permute(1, 3, 0, 2, 4)
    return tiles.reshape(-1, 3, size, size).contiguous()
