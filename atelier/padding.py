"""Padding of pictures to a few sizes, for JAX, which compiles a function anew for each size. Other backends need none.

A padded picture has zeros below and on the right. Functions get the size of its upper left part that counts, float32
[height, width]; without padding the size is None. Nothing that they return depends on the padding.
"""

from atelier import backend  # Keras starts quietly

# isort: split
import functools
import itertools

import numpy as np
from keras import ops

import util

MARGIN = 16  # pixels that a search adds to the sides of a picture


def padded_side(side, margin=0):
    """Return the next larger of a few sides, all multiples of 16: 4 or 6 times a power of two, plus `margin`.

    A side that is on this list without the margin is not changed.
    """
    few = itertools.chain((16, 32, 48), (factor << power for power in itertools.count(4) for factor in (4, 6)))
    return next(side if side == known else known + margin for known in few if known + margin >= side)


def padded(pictures, margin=0):
    """Pad pictures N x H x W x C to a few sizes. With other backends than JAX they are not changed."""
    if not backend.COMPILES_EACH_SIZE:
        return pictures
    height, width = pictures.shape[1:3]
    below, right = padded_side(height, margin) - height, padded_side(width, margin) - width
    return np.pad(np.asarray(pictures), ((0, 0), (0, below), (0, right), (0, 0))) if below or right else pictures


def size_of(pictures):
    return np.float32(pictures.shape[1:3])


# --- Compiled functions ------------------------------------------------------------------------


def for_any_size(function, variables):
    """Compile f(picture) from `function(picture, size)` of a picture, 1 x H x W x 3; see backend.for_any_size."""
    if not backend.COMPILES_EACH_SIZE:
        return backend.for_any_size(lambda picture: function(picture, None), variables)
    compiled = backend.compile_function(function, variables=variables)
    return lambda picture: compiled(padded(picture, MARGIN), size_of(picture))


def value_and_gradient(loss, variables):
    """Compile f(picture, targets) as backend.value_and_gradient does. A padded picture has its size in the targets."""
    evaluate = backend.value_and_gradient(loss, variables)
    if not backend.COMPILES_EACH_SIZE:
        return evaluate

    @functools.wraps(evaluate)
    def of_padded(picture, targets):
        height, width = picture.shape[1:3]
        terms, gradient = evaluate(padded(picture, MARGIN), {**targets, "size": size_of(picture)})
        return terms, backend.as_array(gradient)[:, :height, :width]

    return of_padded


# --- Inside these functions --------------------------------------------------------------------


def inside(x, size):
    """Return features N x h x w x C with zeros outside their upper left part of `size`."""
    rows, columns = (ops.arange(side, dtype="float32") < size[i] for i, side in enumerate(ops.shape(x)[1:3]))
    return ops.where((rows[:, None] & columns)[..., None], x, ops.cast(0, x.dtype))


def filled_shares(picture, features, size):
    """List the share of the places, in each layer's features, that belongs to the part of `size` of a picture."""
    if size is None:
        return [1] * len(features)
    strides = [ops.cast(ops.shape(picture)[1] // ops.shape(x)[1], "float32") for x in features]
    return [ops.prod(size // stride) / places(x) for stride, x in zip(strides, features)]


def places(x):
    """Return the number of places of features N x h x w x C."""
    return ops.cast(ops.shape(x)[1] * ops.shape(x)[2], "float32")


def mean(x, size):
    """Return the mean of pictures 1 x H x W x C."""
    return ops.mean(x) if size is None else ops.sum(inside(x, size)) / (size[0] * size[1] * x.shape[3])


def total_variation(x, size):
    """Return util.total_variation_loss() of pictures 1 x H x W x C."""
    if size is None:
        return util.total_variation_loss(x)
    here = x[:, :-1, :-1]
    squares = ops.square(x[:, 1:, :-1] - here) + ops.square(x[:, :-1, 1:] - here)
    return ops.sum(inside(squares, size - 1))


def mean_variation(x, size):
    """Return util.mean_variation() of pictures 1 x H x W x C."""
    if size is None:
        return util.mean_variation(x)
    return total_variation(x, size) / (255**2 * size[0] * size[1] * x.shape[3])


def moments(x, size):
    """Return the mean and the variance of each channel of features 1 x h x w x C, float32 C."""
    count = size[0] * size[1]
    mean = ops.sum(inside(x, size), axis=(0, 1, 2)) / count
    return mean, ops.sum(inside(ops.square(x - mean), size), axis=(0, 1, 2)) / count


def mirrored(x, margin, size):
    """Put the mirror image of features N x h x w x C around their upper left part of `size`: `margin` on each side.

    The results have 2 `margin` more rows and columns; those after the mirror image mean nothing.
    """
    for axis in (2, 1):
        filled = ops.cast(size[axis - 1], "int32")
        first = ops.flip(ops.take(x, range(1, margin + 1), axis=axis), axis)
        shape = [margin if i == axis else side for i, side in enumerate(x.shape)]
        last = ops.flip(ops.slice(x, at(axis, filled - 1 - margin), shape), axis)
        x = ops.slice_update(ops.concatenate([first, x, first], axis), at(axis, margin + filled), last)
    return x


def with_border_repeated(x, size):
    """Repeat the border of features N x h x w x C, once, below and on the right of their upper left part of `size`."""
    for axis in (1, 2):
        filled = ops.cast(size[axis - 1], "int32")
        border = ops.take(x, ops.reshape(filled - 1, (1,)), axis=axis)
        places = ops.reshape(ops.arange(x.shape[axis]), [-1 if i == axis else 1 for i in range(4)])
        x = ops.where(places == filled, border, x)
    return x


def at(axis, place):
    """Return the start of a slice that begins at `place` of one axis of features."""
    return [place if i == axis else 0 for i in range(4)]
