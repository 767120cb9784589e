"""palettes.py: palettes, and pictures as tokens."""

import numpy as np
from skimage.color import rgb2lab

from atelier.pixel_rnn import palettes


def test_a_palette_approximates_colours_in_cielab_and_is_sorted(digits):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (4, 20, 20, 3)).astype("uint8")
    errors = []
    for colors in (4, 32, 256):
        palette = palettes.fit_palette(pictures, colors, seed=0)
        assert len(palette) == len(np.unique(palette, axis=0)) <= colors
        assert (np.diff(rgb2lab(palette)[:, 0]) >= 0).all()
        tokens = palettes.to_palette(pictures, palette)
        errors.append(palettes.color_error(pictures, palettes.from_palette(tokens, palette, 20, 20)))
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2] > 0
    distance = np.linalg.norm(rgb2lab(pictures).reshape(-1, 1, 3) - rgb2lab(palette), axis=-1)
    np.testing.assert_array_equal(tokens.ravel(), distance.argmin(1))


def test_grey_levels_can_be_a_palette(digits):
    images = digits[0][:5]
    tokens = palettes.to_palette(images[..., None].repeat(3, -1), palettes.gray_palette(256))
    np.testing.assert_array_equal(tokens.reshape(images.shape), images)
