"""Read photos and paintings at the size that style transfer needs. Pictures too small for VGG are refused."""

import contextlib
import math

from PIL import Image

import config
from atelier import imaging
from atelier.errors import InputError

LEAST = config.VGG_LEAST_SIDE


def read_photo(path, options):
    """Read a photo at the size of the result: float32 H x W x 3. Raises InputError if it is too small for VGG."""
    photo = load_image(path)
    sides = photo.shape[1::-1]
    width, height = imaging.fit(*sides, options.size or max(sides))
    if min(height, width) < LEAST:
        raise InputError(f"{path} would be {width} x {height} pixels; VGG needs {LEAST}: --size {least_size(*sides)}")
    return imaging.resize_picture(photo, width, height)


def least_size(width, height):
    """Return the smallest longest side, in pixels, with which the shorter side of a photo is long enough for VGG."""
    return math.ceil(LEAST * max(width, height) / min(width, height))


def read_painting(path, longest, flags="--size", enlarge=True):
    """Read a painting, float32 H x W x 3, longest side `longest` pixels. Raises InputError if too small.

    Unless `enlarge`, a smaller painting keeps its size. The error message recommends `flags`, the options that make the
    painting larger.
    """
    painting = load_image(path)
    width, height = imaging.fit(*painting.shape[1::-1], longest)
    if min(width, height) < LEAST:
        raise InputError(
            f"{path} would be reduced to {width} x {height} pixels; VGG needs {LEAST}; give a larger {flags}"
        )
    if max(painting.shape) < longest and not enlarge:
        return painting
    return imaging.resize_picture(painting, width, height)


def notes_on_small(paths, longest, advice):
    """Return a line for each painting that has to be enlarged visibly to `longest` pixels.

    `advice(side)` returns what to type instead, for a painting whose longest side has `side` pixels.
    """
    sides = {path: longest_side(path) for path in paths}
    return [
        f"{path} is enlarged from {side} to {longest:.0f} pixels, which blurs it; {advice(side)}"
        for path, side in sides.items()
        if side * VISIBLE < longest
    ]


def notes_on_smaller(paths, longest):
    """Return a line for each painting that has visibly fewer than the `longest` pixels of a large picture."""
    sides = {path: longest_side(path) for path in paths}
    return [
        f"{path} has {side} pixels and not {longest:.0f}, so fine strokes are blurred, or smaller than in the painting"
        for path, side in sides.items()
        if side * VISIBLE < longest
    ]


def longest_side(path):
    """Return the longest side of a picture in pixels; infinity if it can't be read, which its reader will report."""
    with contextlib.suppress(Exception), Image.open(path) as picture:  # a damaged file can raise any error
        return max(picture.size)
    return math.inf


VISIBLE = 1.25  # a painting that is enlarged less looks as sharp as the result


def load_image(path):
    picture = imaging.load_image(path)
    height, width = picture.shape[:2]
    if min(height, width) < LEAST:
        raise InputError(f"{path} is only {width} x {height} pixels; VGG needs {LEAST}")
    return picture


def scaled(picture, longest):
    """Resize a picture, float32 H x W x 3, so that its longest side has `longest` pixels."""
    return imaging.resize_picture(picture, *imaging.fit(*picture.shape[1::-1], longest))
