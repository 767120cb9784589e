"""Random transforms for feature visualization: they scale, shift and rotate a picture before the network sees it.

Pictures are tensors 1 x H x W x 3 in 0..255. The transforms depend on the `scope` of a dream. A dream of a class
strengthens the "whole" picture, one of a layer or a channel every "part" of it, and one of a neuron its "middle".
"""

from atelier import backend  # Keras starts quietly

# isort: split
import math

import numpy as np
from keras import ops

MAX_ROTATION = 15  # degrees, in both directions
# With the scope "whole", the picture's shorter side is scaled to at most so many times the side that the network sees.
# The keys are two such sides; in between, the factor is interpolated. Networks with small inputs only know objects that
# fill their input.
WHOLE_SCALES = {32: 1.2, 160: 2.0}
SCALES = {"part": (0.85, 1.15), "middle": (0.9, 1.1)}
MAX_STRETCH = 2  # by padding, a picture's shape can become less long by at most this factor
MAX_ASPECT = 8  # longer side / shorter side; narrower strips are enlarged less, as they would take much memory


def choose_transforms(rng, height, width, side, scope, count=1):
    """Choose `count` transforms of a picture. Each cuts a square of `side` x `side` pixels, which the network sees.

    Returns a list of dicts. Each dict holds three float32 arrays of length `count`: "sizes", the height and width that
    the picture is scaled to; "centers", the row and column of the square's centre in the scaled picture; and "angles",
    in radians. With the scope "whole", the picture's shorter side is scaled to 1 to 2 times `side` (WHOLE_SCALES). With
    the other scopes, the picture's size changes little. With "part", the list has a dict for each of the squares that
    together cover the picture. With the other scopes it has one dict.
    """
    offsets = [(0, 0)]
    if scope == "part":
        rows, columns = (np.arange(n) * side - (n - 1) / 2 * side for n in (-(-height // side), -(-width // side)))
        offsets = [(down, right) for down in rows for right in columns]
    if scope == "whole":
        largest = np.interp(side, [*WHOLE_SCALES], [*WHOLE_SCALES.values()])
        scales = rng.uniform(1, largest, count) * side / shorter_side(height, width)
    else:
        scales = rng.uniform(*SCALES[scope], count)
    sizes = np.maximum(np.round(scales[:, None] * (height, width)), 2)
    max_shift = {"whole": np.maximum(sizes - side, 0) / 2 + side / 8, "part": side / 8, "middle": side / 32}[scope]
    max_shift = side / 4 if len(offsets) > 1 else max_shift  # large shifts move the seams between the squares
    centers = (sizes - 1) / 2 + rng.uniform(-1, 1, (count, 2)) * max_shift
    angles = np.radians(rng.uniform(-MAX_ROTATION, MAX_ROTATION, count))

    def rotated(down, right):
        down, right = (
            np.cos(angles) * down + np.sin(angles) * right,
            np.cos(angles) * right - np.sin(angles) * down,
        )
        return np.stack([down, right], 1)

    parts = [{"sizes": sizes, "centers": centers + rotated(*offset), "angles": angles} for offset in offsets]
    return [{name: x.astype("float32") for name, x in part.items()} for part in parts]


def shorter_side(height, width):
    """Return the shorter side of a picture in pixels, or for a narrow strip longer side / MAX_ASPECT."""
    return max(min(height, width), max(height, width) / MAX_ASPECT)


def with_transforms(loss, side, scope, count=1):
    """Return the loss of a picture under the `count` transforms in targets["transforms"].

    `loss(pictures, targets)` takes pictures `count` x side x side x 3. The returned function takes one picture, and is
    for backend.value_and_gradient. With the scope "whole" the picture may be padded, and targets["filled"] is its size
    without the padding.
    """

    def loss_of_picture(picture, targets):
        chosen = targets["transforms"]
        transforms = [[chosen[name][i] for name in ("sizes", "centers", "angles")] for i in range(count)]
        if scope == "whole":
            crops = [scale_and_crop(picture, targets["filled"], *transform, side) for transform in transforms]
        else:
            crops = [crop(picture, ops.shape(picture)[1:3], *transform, side) for transform in transforms]
        return loss(ops.stack(crops), targets)

    return loss_of_picture


def scale_and_crop(picture, filled, size, center, angle, side):
    """Scale a picture to `size` with antialiasing, and cut a rotated square out of it: side x side x 3.

    `filled` is the picture's size without its padding. Beyond this size it is mirrored.
    """
    scaled = backend.resize_dynamically(picture, filled, size, largest_size(picture.shape[1:3], side))
    return crop(scaled, ops.cast(size, "int32"), size, center, angle, side)


def largest_size(shape, side):
    """Return the largest size that choose_transforms() chooses for pictures that are padded to `shape`, two integers.

    It is None for pictures whose shape is not known while they are compiled. Their size needs no bound.
    """
    if None in shape:
        return None
    longer = max(WHOLE_SCALES.values()) * side * MAX_STRETCH
    return [math.ceil(longer * max(1, length / min(shape))) for length in shape]


def crop(picture, shape, size, center, angle, side):
    """Cut a rotated square, side x side x 3, out of a picture as if it were scaled to `size`, about its own size.

    Only the pixels of the square are interpolated, without antialiasing. The picture fills `shape`, two integers;
    beyond them it is mirrored.
    """
    scale = [size[i] / ops.cast(shape[i], "float32") for i in range(2)]
    steps = ops.arange(side, dtype="float32") - (side - 1) / 2
    down, right = ops.meshgrid(steps, steps, indexing="ij")
    rows = (center[0] + ops.cos(angle) * down + ops.sin(angle) * right + 0.5) / scale[0] - 0.5
    columns = (center[1] - ops.sin(angle) * down + ops.cos(angle) * right + 0.5) / scale[1] - 0.5
    return interpolate(picture[0], mirror(rows, shape[0]), mirror(columns, shape[1]), shape)


def mirror(positions, side):
    """Return positions reflected into 0 .. side - 1, repeatedly if necessary."""
    last = ops.cast(side, "float32") - 1
    return last - ops.abs(last - ops.mod(positions, 2 * last))


def interpolate(picture, rows, columns, size):
    """Return a picture's values, H x W x 3, at positions between its first `size` pixels, by bilinear interpolation."""
    top = ops.minimum(ops.cast(rows, "int32"), size[0] - 2)
    left = ops.minimum(ops.cast(columns, "int32"), size[1] - 2)
    down, right = (rows - ops.cast(top, "float32"))[..., None], (columns - ops.cast(left, "float32"))[..., None]
    pixels = ops.reshape(picture, (-1, picture.shape[2]))

    def row(below):
        first = (top + below) * ops.shape(picture)[1] + left
        return ops.take(pixels, first, axis=0) * (1 - right) + ops.take(pixels, first + 1, axis=0) * right

    return row(0) * (1 - down) + row(1) * down
