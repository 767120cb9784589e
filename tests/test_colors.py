"""colors.py: match_colors gives a picture the requested mean and covariance of colours."""

import numpy as np
import pytest
from conftest import ROOT

from atelier import colors, imaging


def test_match_colors_gives_the_requested_mean_and_covariance():
    photo = imaging.load_image(ROOT / "images/content/coffee.jpg")
    same = colors.match_colors(photo, photo.mean((0, 1)), np.cov(photo.reshape(-1, 3).T))
    np.testing.assert_allclose(same, photo, atol=2)
    mean, covariance = [120, 100, 140], np.array([[900, 200, 0], [200, 600, -100], [0, -100, 400]])
    changed = colors.match_colors(photo, mean, covariance)
    np.testing.assert_allclose(changed.mean((0, 1)), mean, atol=0.5)
    np.testing.assert_allclose(np.cov(changed.reshape(-1, 3).T), covariance, atol=20)
    grey = colors.match_colors(photo, [128] * 3, np.full((3, 3), 100.0))
    assert np.ptp(grey, axis=2).max() < 0.01 < np.ptp(grey)


@pytest.mark.parametrize("kind", ["float32", "uint8"])
@pytest.mark.parametrize("columns", [1004, 2500])
def test_alternating_columns_of_a_large_picture_count_equally(columns, kind):
    picture = np.tile(np.array([100, 140], kind)[None, :, None], (8, columns // 2, 3))
    picture[..., 0] += 10
    matrix, shift = colors.color_mapping(picture, [128] * 3, 100 * np.eye(3))
    mapped = colors.map_colors(picture.astype("float32"), matrix, shift)
    np.testing.assert_allclose(mapped.mean((0, 1), dtype="float64"), 128, atol=0.5)
    turned = colors.map_colors(picture.astype("float32").transpose(1, 0, 2), matrix, shift)
    np.testing.assert_allclose(turned.transpose(1, 0, 2), mapped, atol=1e-3)
