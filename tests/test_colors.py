"""colors.py: match_colors gives a picture the requested mean and covariance of colours."""

import numpy as np
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
