"""Pictures: every kind of file shows the same colours, and what cannot be shown is refused by name."""

import io

import numpy as np
import pytest
import torch
from exact import normal
from PIL import Image

from ssi_core import InputError, load_image, save_image
from ssi_core.image import (
    CAPTION,
    MOST_PIXELS,
    check_pixels,
    contact_sheet,
    fit,
    save_animation,
    save_picture,
    sheet_size,
    to_pixels,
)

RED, BLUE, WHITE = (1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (1.0, 1.0, 1.0)


def halves(mode, left, right, size=(40, 24)):
    """Left half one colour, right half another."""
    picture = Image.new(mode, size, left)
    picture.paste(right, (size[0] // 2, 0, *size))
    return picture


def colour_at(image, y, x):
    return tuple(image[0, :, y, x].tolist())


def shows(image, left, right, tolerance=0.01):
    assert image.shape == (1, 3, 24, 40)
    assert image.dtype == torch.float32
    assert colour_at(image, 5, 5) == pytest.approx(left, abs=tolerance)
    assert colour_at(image, 5, 35) == pytest.approx(right, abs=tolerance)


def test_rgb(tmp_path):
    halves("RGB", (255, 0, 0), (0, 0, 255)).save(tmp_path / "x.png")
    shows(load_image(tmp_path / "x.png"), RED, BLUE)


@pytest.mark.parametrize(("mode", "black", "white"), [("L", 0, 255), ("1", 0, 1)])
def test_grey(tmp_path, mode, black, white):
    halves(mode, black, white).save(tmp_path / "x.png")
    shows(load_image(tmp_path / "x.png"), (-1, -1, -1), WHITE)


def test_16_bit_png_keeps_more_than_8_bits(tmp_path):
    levels = np.full((24, 40), 12345, np.uint16)
    levels[:, 20:] = 65535
    Image.fromarray(levels).save(tmp_path / "x.png")
    image = load_image(tmp_path / "x.png")
    shows(image, (12345 / 65535 * 2 - 1,) * 3, WHITE, 1e-5)


def test_transparency_is_laid_over_white(tmp_path):
    halves("RGBA", (255, 0, 0, 255), (0, 0, 255, 0)).save(tmp_path / "rgba.png")
    shows(load_image(tmp_path / "rgba.png"), RED, WHITE)
    halves("RGBA", (255, 0, 0, 51), (0, 0, 255, 255)).save(tmp_path / "part.png")
    shows(load_image(tmp_path / "part.png"), (1, 0.6, 0.6), BLUE)
    halves("LA", (0, 255), (0, 0)).save(tmp_path / "la.png")
    shows(load_image(tmp_path / "la.png"), (-1, -1, -1), WHITE)


def test_palette_with_and_without_transparency(tmp_path):
    palette = Image.new("P", (40, 24), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255] + [0] * 762)
    palette.paste(1, (20, 0, 40, 24))
    palette.save(tmp_path / "plain.png")
    shows(load_image(tmp_path / "plain.png"), RED, BLUE)
    palette.save(tmp_path / "clear.png", transparency=1)
    shows(load_image(tmp_path / "clear.png"), RED, WHITE)
    palette.save(tmp_path / "bytes.png", transparency=bytes([255, 0]))
    shows(load_image(tmp_path / "bytes.png"), RED, WHITE)


def test_rgb_with_a_transparent_colour(tmp_path):
    halves("RGB", (255, 0, 0), (0, 0, 255)).save(tmp_path / "x.png", transparency=(0, 0, 255))
    shows(load_image(tmp_path / "x.png"), RED, WHITE)


def test_cmyk_jpeg(tmp_path):
    halves("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)).save(tmp_path / "x.jpg", quality=95)
    shows(load_image(tmp_path / "x.jpg"), RED, BLUE, 0.1)


def test_animation_gives_its_first_frame(tmp_path):
    first, second = halves("RGB", (255, 0, 0), (0, 0, 255)), Image.new("RGB", (40, 24), (0, 255, 0))
    first.save(tmp_path / "x.gif", save_all=True, append_images=[second, second], duration=50)
    shows(load_image(tmp_path / "x.gif"), RED, BLUE)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, orientation):
    """Stored the way a camera would have held it, every orientation shows the same picture."""
    upright = halves("RGB", (255, 0, 0), (0, 0, 255))
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for turn in undo.get(orientation, []):
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "x.png", exif=exif)
    shows(load_image(tmp_path / "x.png"), RED, BLUE)


def test_float_tiff(tmp_path):
    values = np.zeros((24, 40), np.float32)
    values[:, 20:] = 1
    Image.fromarray(values).save(tmp_path / "x.tif")
    shows(load_image(tmp_path / "x.tif"), (-1, -1, -1), WHITE)
    Image.fromarray(values * np.nan).save(tmp_path / "nan.tif")
    with pytest.raises(InputError, match=r"nan.tif.*NaN"):
        load_image(tmp_path / "nan.tif")


def encoded(kind):
    stream = io.BytesIO()
    pixels = (normal(24, 40, 3).clamp(-2, 2) * 60 + 128).byte().numpy()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(stream, format=kind, exif=exif)
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_truncated_picture_is_refused_wherever_it_is_cut(tmp_path, kind):
    data = encoded(kind)
    refused = 0
    for keep in sorted({*range(0, 160, 3), *range(160, len(data), len(data) // 25)}):
        path = tmp_path / f"cut.{kind.lower()}"
        path.write_bytes(data[:keep])
        try:
            image = load_image(path)
        except InputError as error:
            assert "cut" in str(error)
            refused += 1
        else:  # nothing but an end marker may be missing
            assert keep > 0.9 * len(data)
            assert torch.isfinite(image).all()
    assert refused > 40


@pytest.mark.parametrize("name", ["note.txt", "fake.png"])
def test_text_is_no_picture(tmp_path, name):
    (tmp_path / name).write_text("this is not a picture")
    with pytest.raises(InputError, match=f"{name}: not a picture"):
        load_image(tmp_path / name)


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent.png: no such file"):
        load_image(tmp_path / "absent.png")
    with pytest.raises(InputError, match="image"):
        load_image(tmp_path)


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7)])
def test_tiny_picture_is_refused(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "tiny.png")
    with pytest.raises(InputError, match=f"tiny.png: {size[0]}x{size[1]} pixels is too small"):
        load_image(tmp_path / "tiny.png")


def test_fit_cuts_the_centred_square(tmp_path):
    wide = torch.full((1, 3, 20, 60), -1.0)
    wide[..., 20:40] = 0.5
    assert torch.allclose(fit(wide, 10), torch.full((1, 3, 10, 10), 0.5), atol=1e-5)
    assert torch.allclose(fit(wide.mT, 10), torch.full((1, 3, 10, 10), 0.5), atol=1e-5)
    assert fit(normal(1, 3, 50, 41, dtype=torch.float32), 32).abs().max() <= 1
    square = normal(1, 3, 16, 16, dtype=torch.float32).clamp(-1, 1)
    assert torch.allclose(fit(square, 16), square, atol=1e-6)


def test_fit_is_antialiased():
    stripes = torch.ones(1, 1, 64, 64)
    stripes[..., ::2] = -1
    assert fit(stripes, 16)[..., 2:-2].abs().max() < 0.1


def test_load_fits_to_the_size_asked_for(tmp_path):
    halves("RGB", (255, 0, 0), (0, 0, 255)).save(tmp_path / "x.png")
    assert load_image(tmp_path / "x.png", 16).shape == (1, 3, 16, 16)


def test_saved_picture_comes_back_to_half_a_level(tmp_path):
    image = normal(1, 3, 16, 20, dtype=torch.float32).clamp(-1, 1)
    save_image(image, tmp_path / "x.png")
    assert (load_image(tmp_path / "x.png") - image).abs().max() <= 0.5001 / 127.5
    save_image(image[0, :1], tmp_path / "grey.png")
    assert (load_image(tmp_path / "grey.png") - image[:, :1]).abs().max() <= 0.5001 / 127.5


def test_pixels_are_clipped_and_levels_exact():
    image = torch.tensor([-5.0, -1, 0, 1, 5]).expand(1, 3, 1, 5)
    assert to_pixels(image)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_unknown_suffix_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(InputError, match=r"x.xyz.*'.xyz'"):
        save_image(torch.zeros(3, 8, 8), tmp_path / "x.xyz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_animations_hold_every_frame(tmp_path, kind):
    frames = torch.linspace(-1, 1, 4).reshape(4, 1, 1, 1).expand(4, 3, 8, 8)
    save_animation(frames, tmp_path / f"x.{kind}", scale=2, fps=10)
    with Image.open(tmp_path / f"x.{kind}") as film:
        assert (film.n_frames, film.size, film.info["loop"]) == (4, (16, 16), 0)
        shades = []
        for i in range(4):
            film.seek(i)
            shades.append(film.convert("L").getpixel((3, 3)))
            assert film.info["duration"] == 100
    assert shades == pytest.approx([0, 85, 170, 255], abs=1)


def test_videos_hold_every_frame_and_even_sizes(tmp_path):
    av = pytest.importorskip("av")
    frames = torch.linspace(-1, 1, 5).reshape(5, 1, 1, 1).expand(5, 3, 7, 9)
    save_animation(frames, tmp_path / "x.mp4", scale=3, fps=12.5)
    with av.open(str(tmp_path / "x.mp4")) as film:
        assert float(film.streams.video[0].average_rate) == 12.5
        shown = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(shown) == 5 and shown[0].shape == (22, 28, 3)
    assert [float(s[5:15, 5:20].mean()) for s in shown] == pytest.approx([0, 64, 128, 191, 255], abs=4)


def test_an_animation_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    frames = torch.zeros(2, 3, 8, 8)
    with pytest.raises(InputError, match=r"'.avi'; use webp, gif, mp4"):
        save_animation(frames, tmp_path / "x.avi")
    monkeypatch.setattr("ssi_core.image.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"PyAV \(pip install av\)"):
        save_animation(frames, tmp_path / "x.mp4")
    assert list(tmp_path.iterdir()) == []


def test_contact_sheet_lays_rows_out():
    sheet = contact_sheet([torch.full((3, 1, 4, 4), -1.0), torch.zeros(1, 3, 4, 4)], scale=2, gap=1)
    assert sheet.shape == (1, 3, 20, 30)
    assert sheet[0, 0, 0, 0] == 1
    assert sheet[0, 0, 5, 5] == -1
    assert sheet[0, 0, 15, 5] == 0
    assert sheet[0, 0, 15, 25] == 1


def test_what_is_too_large_is_refused_before_memory_is_asked_for(tmp_path):
    """Each would take terabytes, which no machine tries to give; `expand` holds one number."""
    point = torch.zeros(1, 1, 1, 1)
    for write in (
        lambda: save_animation(point.expand(3, 3, 32, 32), tmp_path / "x.webp", scale=10**6),
        lambda: save_animation(point.expand(10**9, 3, 32, 32), tmp_path / "x.gif"),
        lambda: contact_sheet([point.expand(3, 3, 32, 32)], scale=10**6),
        lambda: save_image(point.expand(1, 3, 2**20, 2**20), tmp_path / "x.png"),
    ):
        with pytest.raises(InputError, match="at most 268,435,456 pixels are written in all: lower the scale"):
            write()
    assert list(tmp_path.iterdir()) == []
    check_pixels("a", 2**14, 2**14)
    check_pixels("a", 2**10, 2**10, 2**8)
    with pytest.raises(InputError, match=r"^a: 257 frames of 1024x1024 pixels .* or the number of frames$"):
        check_pixels("a", 2**10, 2**10, 2**8 + 1)
    assert MOST_PIXELS == 2**28


def test_panels_and_other_pictures_have_the_same_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("ssi_core.image.MOST_PIXELS", 63)
    save_picture(Image.new("RGB", (7, 9)), tmp_path / "x.png")
    with pytest.raises(InputError, match=r"y.png: 8x8 pixels are too much"):
        save_picture(Image.new("RGB", (8, 8)), tmp_path / "y.png")


def test_the_size_of_a_sheet_is_known_before_it_is_made():
    rows = [torch.zeros(3, 1, 4, 6), torch.zeros(1, 3, 5, 4)]
    for how in ({}, {"scale": 3, "gap": 1}, {"captions": ["a", "b"]}):
        width, height = sheet_size([(len(r), r.shape[-1], r.shape[-2]) for r in rows], **how)
        assert contact_sheet(rows, **how).shape == (1, 3, height, width)


def test_captions_stand_over_their_columns():
    rows = [torch.zeros(3, 3, 32, 32), torch.zeros(1, 3, 32, 32)]
    plain, sheet = contact_sheet(rows, scale=2), contact_sheet(rows, scale=2, captions=["ink", "", "w" * 99])
    assert torch.equal(sheet[..., CAPTION:, :], plain)
    first, second, third = (column < 0 for column in sheet[..., :CAPTION, :].split(68, dim=-1))
    assert first.any() and third.any() and not second.any()


@pytest.mark.parametrize(("values", "suffix"), [(np.float32([[0, 255]]), ".tiff"), (np.int32([[0, 255]]), ".tiff")])
def test_pictures_without_a_known_range_are_refused(tmp_path, values, suffix):
    path = tmp_path / f"x{suffix}"
    Image.fromarray(np.tile(values, (16, 8))).save(path)
    with pytest.raises(InputError, match="8 or 16 bits"):
        load_image(path)
