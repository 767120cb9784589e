"""winograd.py: Winograd convolutions and their gradients are equal to Keras's."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from atelier.networks import winograd


@pytest.mark.parametrize(
    ("height", "width", "channels", "filters"),
    [(16, 20, 64, 64), (13, 18, 64, 128), (5, 4, 8, 3), (9, 6, 320, 256)],  # the last case has smaller tiles
)
def test_a_winograd_convolution_equals_that_of_keras(height, width, channels, filters):
    layer = keras.layers.Conv2D(filters, 3, padding="same", activation="relu", bias_initializer="normal")
    layer.build((None, None, None, channels))
    fast = winograd.FrozenConvolution(layer)
    x = tf.constant(np.random.default_rng(0).standard_normal((1, height, width, channels)), "float32")
    found = []
    for convolution in (layer, fast):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = convolution(x)
            total = tf.reduce_sum(y * tf.sin(y))
        found.append((y.numpy(), tape.gradient(total, x).numpy()))
    for exact, ours in zip(*found):
        np.testing.assert_allclose(ours, exact, atol=2e-4 * np.abs(exact).max())
