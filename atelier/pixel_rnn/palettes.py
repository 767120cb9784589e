"""Palettes: fit a few colours to pictures by K-means, and convert pictures to tokens (palette indices) and back.

Pictures are uint8 N x H x W x 3, palettes uint8 K x 3 from dark to light, tokens uint16 N x (H * W) in 0..K-1.
"""

import functools

import numpy as np
from scipy.spatial import KDTree
from skimage.color import deltaE_ciede2000, lab2rgb, rgb2lab


def fit_palette(pictures, colors, seed):
    """Choose a palette of at most `colors` colours for pictures by K-means in CIELAB: uint8 K x 3, dark to light.

    If the pictures have at most `colors` distinct colours, these are the palette. Otherwise, at most 200,000 random
    pixels are clustered.
    """
    from sklearn.cluster import MiniBatchKMeans

    pixels = pictures.reshape(-1, 3)
    chosen = pixels[np.random.default_rng(seed).choice(len(pixels), min(len(pixels), 200_000), replace=False)]
    distinct = np.unique(pack_colors(chosen))
    if len(distinct) <= colors:
        distinct = functools.reduce(np.union1d, (np.unique(pack_colors(picture)) for picture in pictures))
    if len(distinct) > colors:
        kmeans = MiniBatchKMeans(min(colors, len(chosen)), batch_size=4096, n_init=1, random_state=seed)
        centers = lab2rgb(kmeans.fit(rgb2lab(chosen)).cluster_centers_)
        distinct = np.unique(pack_colors(np.round(centers * 255)))
    palette = unpack_colors(distinct)
    return palette[np.argsort(rgb2lab(palette)[:, 0], kind="stable")]


def pack_colors(pixels):
    """Convert colours, an array (..., 3) in 0..255, to numbers 0xRRGGBB, an array (...)."""
    red, green, blue = np.moveaxis(pixels.astype("uint32"), -1, 0)
    return red << 16 | green << 8 | blue


def unpack_colors(packed):
    """Convert numbers 0xRRGGBB to uint8 N x 3."""
    return (packed[:, None] >> np.array([16, 8, 0], "uint32") & 255).astype("uint8")


def gray_palette(levels):
    """Return `levels` greys from black to white: uint8 levels x 3."""
    return np.round(np.arange(levels) * 255 / (levels - 1)).astype("uint8")[:, None].repeat(3, 1)


def to_palette(pictures, palette):
    """Replace each pixel of uint8 N x H x W x 3 by the nearest colour in CIELAB: uint16 tokens N x (H * W)."""
    tree = KDTree(rgb2lab(palette))
    tokens = [tree.query(rgb2lab(picture).reshape(-1, 3))[1].astype("uint16") for picture in pictures]
    return np.stack(tokens)


def from_palette(tokens, palette, height, width):
    """Convert integer tokens N x (H * W) back to pictures: uint8 N x H x W x 3."""
    return palette[np.asarray(tokens)].reshape(-1, height, width, 3)


def color_error(pictures, quantized):
    """Return the mean CIEDE2000 colour difference between uint8 pictures.

    A difference of about 1 is just visible when the colours are side by side.
    """
    errors = [deltaE_ciede2000(rgb2lab(a), rgb2lab(b)).mean() for a, b in zip(pictures, quantized, strict=True)]
    return float(np.mean(errors))
