"""Change the colours of pictures: to greys, to another picture's colours, or to a given mean and covariance.

Pictures are float32 H x W x 3 in 0..255.
"""

import math
import warnings

import numpy as np
from skimage.color import lab2rgb, rgb2lab


def luminance(picture):
    """Convert a picture to greys: float32 H x W x 3."""
    return np.repeat(picture @ np.array([0.299, 0.587, 0.114], "float32")[:, None], 3, axis=2)


def with_colors_of(picture, photo):
    """Return a picture with its own lightness and the colours of a photo, in CIELAB. Both have the same size."""
    result = np.empty(picture.shape, "float32")
    for top in range(0, len(picture), STRIP):
        rows = slice(top, top + STRIP)
        colored = rgb2lab(photo[rows] / 255)
        colored[..., 0] = rgb2lab(np.clip(picture[rows], 0, 255) / 255)[..., 0]
        with warnings.catch_warnings(action="ignore"):  # lab2rgb clips colours outside sRGB, and warns about them
            result[rows] = 255 * lab2rgb(colored)
    return result


STRIP = 256  # rows that are converted together, to save memory


def match_colors(picture, mean, covariance):
    """Return a picture whose colours have this mean, 3, and covariance, 3 x 3. Some colours may be outside 0..255."""
    return map_colors(picture, *color_mapping(picture, mean, covariance))


def map_colors(picture, matrix, shift):
    """Multiply the colours of a picture by a matrix, 3 x 3, and add a shift, 3, such as those of color_mapping()."""
    mapped = picture @ np.asarray(matrix, "float32")
    rows = mapped.reshape(len(mapped), -1)  # a view; NumPy adds to whole rows faster than to pixels of three numbers
    rows += np.tile(np.asarray(shift, "float32"), picture.shape[1])
    return mapped


def color_mapping(picture, mean, covariance):
    """Return the matrix, 3 x 3, and the shift, 3, that give a picture's colours this mean and covariance.

    This linear mapping changes the colours least (Pitie & Kokaram 2007, "The linear Monge-Kantorovitch linear
    colour mapping"). So pixels that are lighter than their neighbours mostly stay lighter.
    """
    mean_before, covariance_before = color_statistics(picture)
    # Two grey levels of noise are added, so that the noise of a grey photo does not become colour.
    root = square_root(covariance_before + 4 * np.eye(3))
    inverse_root = np.linalg.inv(root)
    matrix = inverse_root @ square_root(root @ covariance @ root) @ inverse_root
    return matrix, mean - mean_before @ matrix


def color_statistics(picture):
    """Return the mean, 3, and the covariance, 3 x 3, of a picture's colours. Of a large picture, a sample is read."""
    steps = (math.ceil(side / LONGEST_SIDE) | 1 for side in picture.shape[:2])
    sample = picture[tuple(slice(None, None, step) for step in steps)].astype("float64")
    pixels = sample.reshape(-1, 3)
    # A product with ones would start threads of BLAS, which then wait in a loop and slow down the network.
    mean = sample.sum(axis=0).sum(axis=0) / len(pixels)
    return mean, pixels.T @ pixels / len(pixels) - np.outer(mean, mean)


# Pixels of a side up to which color_statistics reads all pixels. On a longer side, it reads every third, fifth and so
# on: with an odd step, alternating rows or columns count equally.
LONGEST_SIDE = 1000


def color_projection(covariance):
    """Return the projection, 3 x 3, onto the directions in which colours with this covariance visibly differ."""
    values, vectors = np.linalg.eigh(covariance)
    differing = vectors[:, values > LEAST_DEVIATION**2]
    return (differing @ differing.T).astype("float32")


LEAST_DEVIATION = 1.0  # standard deviation in grey levels; colours in a grey picture saved as a JPEG deviate less


def square_root(matrix):
    """Return the symmetric square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
