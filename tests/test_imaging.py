"""imaging.py: pictures are read as they look."""

import numpy as np
import pytest
from conftest import ROOT
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
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    upright = imaging.load_image(path)
    assert upright.shape == (40, 20, 3)
    assert upright[:15].mean() > 250 > 5 > upright[25:].mean()
    Image.new("RGBA", (3, 2), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (imaging.load_image(tmp_path / "clear.png") == 255).all()


@pytest.mark.parametrize("tags", [{0x010F: "Camera & Sons"}, {0x9003: "2026:05:01 09:59:59"}, {}])
def test_of_a_photo_its_camera_and_its_date_are_kept_each_by_itself(tags, tmp_path):
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


def test_a_recolored_picture_has_the_mean_and_covariance_that_it_is_given():
    photo = imaging.load_image(ROOT / "images/content/coffee.jpg")
    same = imaging.recolored(photo, photo.mean((0, 1)), np.cov(photo.reshape(-1, 3).T))
    np.testing.assert_allclose(same, photo, atol=2)
    mean, covariance = [120, 100, 140], np.array([[900, 200, 0], [200, 600, -100], [0, -100, 400]])
    changed = imaging.recolored(photo, mean, covariance)
    np.testing.assert_allclose(changed.mean((0, 1)), mean, atol=0.5)
    np.testing.assert_allclose(np.cov(changed.reshape(-1, 3).T), covariance, atol=20)
    grey = imaging.recolored(photo, [128] * 3, np.full((3, 3), 100.0))
    assert np.ptp(grey, axis=2).max() < 0.01 < np.ptp(grey)
