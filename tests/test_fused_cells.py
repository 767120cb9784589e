"""fused_cells.py: the layers have the same outputs and gradients as Keras's layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import random_tokens, small_rnn

import util
from atelier.networks import fused_cells


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_fused_cells_equal_those_of_keras(cell):
    model, settings = small_rnn(units=8, layers=2, cell=cell)
    fused = util.build_rnn(**settings, fused=True)
    fused.set_weights(model.get_weights())
    tokens = random_tokens(5, 4, 3)
    np.testing.assert_allclose(fused(tokens), model(tokens), atol=1e-6)

    def gradients(network):
        with tf.GradientTape() as tape:
            loss = keras.losses.sparse_categorical_crossentropy(tokens, network(tokens), from_logits=True)
            loss = tf.reduce_mean(loss)
        return tape.gradient(loss, network.trainable_variables)

    for ours, theirs in zip(gradients(fused), gradients(model), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.parametrize(
    ("run", "shapes"),
    [
        (fused_cells.gru_states, [(5, 2, 9), (3, 9), (9,), (2, 3)]),
        (fused_cells.lstm_states, [(5, 2, 12), (3, 12), (2, 3), (2, 3)]),
    ],
)
def test_gradients_of_fused_cells_agree_with_finite_differences(run, shapes):
    rng = np.random.default_rng(0)
    values = [tf.constant(rng.normal(size=shape)) for shape in shapes]  # float64
    weights = [rng.normal(size=(5, 2, 3)), rng.normal(size=(2, 3))]

    def loss(*arguments):
        outputs = run(*arguments)
        outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
        return sum(tf.reduce_sum(output * weight) for output, weight in zip(outputs, weights))

    with tf.GradientTape() as tape:
        tape.watch(values)
        value = loss(*values)
    for i, gradient in enumerate(tape.gradient(value, values)):
        direction = rng.normal(size=shapes[i])
        losses = []
        for sign in (1, -1):
            moved = list(values)
            moved[i] = values[i] + sign * 1e-5 * direction
            losses.append(float(loss(*moved)))
        numeric = (losses[0] - losses[1]) / 2e-5
        np.testing.assert_allclose(np.sum(gradient * direction), numeric, rtol=1e-6)


def test_the_fast_dropout_drops_its_share_and_keeps_the_mean():
    x = tf.ones((30, 40, 11))
    layer = fused_cells.FastDropout(0.2, seed=0)
    dropped = np.asarray(layer(x, training=True))
    assert (dropped == 0).mean() == pytest.approx(0.2, abs=0.02) and dropped.mean() == pytest.approx(1, abs=0.02)
    assert (dropped != np.asarray(layer(x, training=True))).any()
    np.testing.assert_array_equal(layer(x, training=False), x)
