"""Read photos and paintings at the size that style transfer needs. Pictures too small for VGG are refused."""

import math

import config
from atelier import imaging
from atelier.errors import InputError

LEAST = config.VGG_LEAST_SIDE


def read_photo(path, options):
    """Read a photo at the size of the result: float32 H x W x 3. Raises InputError if it is too small for VGG."""
    photo = load_image(path)
    height, width = photo.shape[:2]
    width, height = imaging.fit(width, height, options.size or max(width, height))
    if min(height, width) < LEAST:
        size = math.ceil(options.size * LEAST / min(height, width))
        raise InputError(f"{path} would be {width} x {height} pixels; VGG needs {LEAST}: --size {size}")
    return imaging.resize_picture(photo, width, height)


def read_painting(path, longest, flags="--size"):
    """Read a painting, float32 H x W x 3, longest side `longest` pixels. Raises InputError if too small.

    The error message recommends `flags`, the options that make the painting larger.
    """
    painting = load_image(path)
    width, height = imaging.fit(*painting.shape[1::-1], longest)
    if min(width, height) < LEAST:
        raise InputError(
            f"{path} would be reduced to {width} x {height} pixels; VGG needs {LEAST}; give a larger {flags}"
        )
    return imaging.resize_picture(painting, width, height)


def load_image(path):
    picture = imaging.load_image(path)
    height, width = picture.shape[:2]
    if min(height, width) < LEAST:
        raise InputError(f"{path} is only {width} x {height} pixels; VGG needs {LEAST}")
    return picture


def scaled(picture, longest):
    """Resize a picture, float32 H x W x 3, so that its longest side has `longest` pixels."""
    return imaging.resize_picture(picture, *imaging.fit(*picture.shape[1::-1], longest))
