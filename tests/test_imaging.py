"""imaging.py: reading pictures (brightness, orientation, camera and date) and making contact sheets."""

import numpy as np
import pytest
from PIL import Image

from atelier import imaging


@pytest.mark.parametrize(
    ("kind", "white", "suffix"),
    [
        ("uint16", 65535, "png"),
        ("uint16", 65535, "pgm"),
        ("uint16", 255, "png"),
        ("int32", 65535, "tif"),
        ("float32", 1, "tif"),
        ("float32", 255, "tif"),
    ],
)
def test_greys_of_more_than_eight_bits_keep_their_brightness(kind, white, suffix, tmp_path):
    ramp = np.tile(np.linspace(0, 1, 256), (64, 1))
    path = tmp_path / f"ramp.{suffix}"
    Image.fromarray((ramp * white).astype(kind)).save(path)
    np.testing.assert_allclose(imaging.load_image(path)[..., 1], 255 * ramp, atol=1)


def test_a_picture_is_read_upright_and_without_transparency(tmp_path):
    path = tmp_path / "rotated.jpg"
    pixels = np.zeros((20, 40, 3), "uint8")
    pixels[:, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # viewers must rotate the picture 90 degrees clockwise
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    upright = imaging.load_image(path)
    assert upright.shape == (40, 20, 3)
    assert upright[:15].mean() > 250 > 5 > upright[25:].mean()
    Image.new("RGBA", (3, 2), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (imaging.load_image(tmp_path / "clear.png") == 255).all()


@pytest.mark.parametrize("tags", [{0x010F: "Camera & Sons"}, {0x9003: "2026:05:01 09:59:59"}, {}])
def test_a_photos_camera_and_date_are_kept_even_if_one_is_missing(tags, tmp_path):
    exif = Image.Exif()
    for tag, value in tags.items():
        (exif.get_ifd(0x8769) if tag == 0x9003 else exif)[tag] = value
    exif[0x0112] = 6
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg", exif=exif)
    kept = imaging.kept_exif(tmp_path / "photo.jpg")
    if not tags:
        assert kept is None
        return
    found = Image.Exif()
    found.load(kept)
    assert {**found, **found.get_ifd(0x8769)}.items() >= tags.items() and 0x0112 not in found


def test_a_contact_sheet_has_the_pictures_row_by_row_between_grey_lines():
    pictures = np.stack([np.full((2, 3, 3), value, "uint8") for value in (10, 20, 30)])
    sheet = imaging.contact_sheet(pictures, columns=2, gap=1, across=18)
    assert sheet.shape == (7 * 2, 9 * 2, 3) and sheet.dtype == "uint8"  # each pixel is enlarged twice
    small = sheet[::2, ::2, 0].copy()
    assert (small[1:3, 1:4] == 10).all() and (small[1:3, 5:8] == 20).all() and (small[4:6, 1:4] == 30).all()
    small[1:3, 1:4] = small[1:3, 5:8] = small[4:6, 1:4] = 64
    assert (small == 64).all()
    assert (imaging.contact_sheet(pictures[..., 0], columns=2, gap=1, across=18) == sheet[..., 0]).all()


def test_a_jpeg_whose_command_is_too_long_is_written_without_it(tmp_path):
    grey = np.full((8, 8, 3), 128, "uint8")
    for length, recorded in ((65_000, True), (70_000, False)):
        about = {"command": "é" * (length // 2), "source": "a.jpg"}
        imaging.save_picture(tmp_path / "a.jpg", grey, about)
        assert imaging.read_about(tmp_path / "a.jpg") == (about if recorded else {"source": "a.jpg"})
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.jpg")), grey)
