"""Random changes of training pictures, anew in each epoch: distortions, and binarization by the grey levels.

Pictures are uint8 N x H x W, white on black.
"""

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

# Standard deviations at a strength of 1. Lengths are for pictures of 28 pixels.
TURN = 0.1  # radians
STRETCH = 0.07  # of the logarithm of the width, and of that of the height
SLANT = 0.1  # pixels to the side for each pixel down
SHIFT = 0.7  # pixels
BEND = 0.6  # pixels by which a point is moved
BEND_WIDTH = 4  # pixels; points nearer to one another than this move alike


def distort(images, strength, rng):
    """Turn, stretch, slant, shift and bend each picture at random (elastic distortion: Simard et al. 2003)."""
    count, height, width = images.shape
    pixel = width / 28

    def normal(deviation):
        return rng.normal(0, strength * deviation, (count, 1, 1))

    y, x = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    cos, sin = np.cos(turn := normal(TURN)), np.sin(turn)
    across = np.exp(normal(STRETCH)) * (cos * x - sin * y + normal(SLANT) * y) + normal(SHIFT * pixel)
    down = np.exp(normal(STRETCH)) * (sin * x + cos * y) + normal(SHIFT * pixel)
    across += bend(images.shape, strength * pixel, rng) + (width - 1) / 2
    down += bend(images.shape, strength * pixel, rng) + (height - 1) / 2
    which = np.broadcast_to(np.arange(count)[:, None, None], images.shape)
    return map_coordinates(images, [which, down, across], order=1)


def bend(shape, amount, rng):
    """Draw smooth displacements, float32 N x H x W, with a standard deviation of `amount` times BEND pixels."""
    deviation = BEND_WIDTH * shape[2] / 28
    smooth = gaussian_filter(rng.standard_normal(shape, "float32"), (0, deviation, deviation), mode="wrap")
    return smooth * np.float32(amount * BEND * 2 * np.sqrt(np.pi) * deviation)


def binarize(images, rng):
    """Draw each pixel white or black. The probability of white is its grey (Salakhutdinov and Murray 2008)."""
    return np.where(rng.random(images.shape, "float32") * 255 < images, 255, 0).astype("uint8")
