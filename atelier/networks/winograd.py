"""Winograd convolutions: 3 x 3 convolutions of one picture with a quarter of the multiplications, for fixed weights.

The input is 1 x H x W x C of any size, the output 1 x H x W x K.
"""

import functools

from atelier import backend  # noqa: F401, TensorFlow starts quietly

# isort: split
import numpy as np
import tensorflow as tf


class FrozenConvolution:
    """A Keras layer's 3 x 3 convolution with its current weights, computed by Winograd's algorithm for one picture.

    The gradient with respect to the input is a convolution with the filters rotated by 180 degrees.
    """

    def __init__(self, layer):
        kernel, self.activation = np.asarray(layer.kernel), layer.activation
        self.bias = tf.constant(np.asarray(layer.bias))
        self.filters = tf.constant(winograd_filters(kernel))
        self.rotated_filters = tf.constant(winograd_filters(kernel[::-1, ::-1].swapaxes(2, 3)))

    @classmethod
    @functools.lru_cache(maxsize=16)  # enough for one network, whose transformed filters take hundreds of megabytes
    def of(cls, layer):
        """Return the convolution of a layer. The filters of a layer are transformed only once."""
        return cls(layer)

    def __call__(self, x):
        @tf.custom_gradient
        def convolution(x):
            return convolve(x, self.filters, self.bias), lambda d: convolve(d, self.rotated_filters)

        return self.activation(convolution(x))


def toom_cook(points):
    """Return the output, filter and input matrices of F(m, 3) for m + 1 points and infinity (Blahut 2010).

    With these matrices, the m sums of 3 products are output @ ((filter @ weights) * (input @ values)).
    """
    n = len(points) + 1
    powers = np.vander([*points, 0], n, increasing=True)
    powers[-1] = 0  # at infinity only the highest power contributes
    outputs, filters, inputs = powers[:, : n - 2].T.copy(), powers[:, :3].copy(), np.zeros((n, n))
    outputs[-1, -1] = filters[-1, -1] = 1
    for i, point in enumerate(points):
        others = np.delete(points, i)
        filters[i] /= np.prod(point - others)
        inputs[i, :-1] = np.poly(others)[::-1]
    inputs[-1] = np.poly(points)[::-1]
    return [matrix.astype("float32") for matrix in (outputs, filters, inputs)]


# The matrices for each side of an output tile, in pixels.
MATRICES = {side: toom_cook([0.0, 1, -1, 2, -2, 0.5, -0.5][: side + 1]) for side in (4, 6)}


def winograd_filters(kernel):
    """Transform filters from 3 x 3 x C x K to n x n x C x K."""
    # Output tiles of 6 x 6 pixels need a fifth fewer products than tiles of 4 x 4, but filters nearly twice as large.
    _, g, _ = MATRICES[6 if kernel.shape[2] * kernel.shape[3] <= 2**16 else 4]
    return np.tensordot(g, np.tensordot(g, kernel, (1, 0)), (1, 1))  # columns, rows, C, K


@functools.partial(tf.function, autograph=False)  # layers with the same numbers of channels share a trace
def convolve(x, filters, bias=None):
    """Convolve 1 x H x W x C with transformed filters, n x n x C x K: 1 x H x W x K.

    This takes four to five times fewer multiplications. Overlapping input tiles of n x n pixels are transformed and
    multiplied with the filters. The products are transformed to output tiles with a side of n - 2 pixels (Lavin & Gray
    2016).
    """
    n, _, channels, filters_count = filters.shape
    side = n - 2
    outputs, _, inputs = MATRICES[side]
    height, width = tf.shape(x)[1], tf.shape(x)[2]
    down, across = -(-height // side), -(-width // side)
    tiles = down * across

    def products(i):  # for column i of all tiles; separate matrix products are faster than a batched one
        values = tf.reshape(tf.matmul(inputs, x[i]), (n, tiles, channels))
        return tf.matmul(outputs, tf.reshape(tf.matmul(values, filters[i]), (n, -1)))

    # This uses only matrix products and copies of whole pixels. Unlike XLA, it needs no compilation for each size.
    x = tf.matmul(inputs, tf.reshape(winograd_tiles(x, side, down, across), (n, -1)))
    x = tf.reshape(x, (n, n, tiles * channels))
    x = [products(i) for i in range(n)]
    if bias is not None:
        x[1] += tf.tile(bias, [tiles])  # for the point 1, all factors in `outputs` are 1
    x = tf.matmul(outputs, tf.reshape(tf.stack(x), (n, -1)))
    x = tf.transpose(tf.reshape(x, (side, side, down, across, filters_count)), (2, 1, 3, 0, 4))
    return tf.reshape(x, (1, side * down, side * across, filters_count))[:, :height, :width]


def winograd_tiles(x, side, down, across):
    """Cut 1 x H x W x C into tiles of n x n pixels that overlap by two: n columns x n rows x tiles x C."""
    n, height, width = side + 2, tf.shape(x)[1], tf.shape(x)[2]
    x = tf.pad(x[0], ((1, side * down + 1 - height), (1, side * across + 1 - width), (0, 0)))
    row = side * across + 2  # pixels
    corners = tf.reshape(side * row * tf.range(down)[:, None] + side * tf.range(across), (-1,))
    places = tf.range(n)[:, None, None] + row * tf.range(n)[:, None] + corners
    return tf.gather(tf.reshape(x, (-1, x.shape[-1])), places)
