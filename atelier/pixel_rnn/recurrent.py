"""Compiled functions of a recurrent network: training step, log-likelihoods, sampling. util.py builds the networks.

Tokens are integers N x T in 0..levels-1, row by row. Log-likelihoods are in nats.
"""

import functools

from atelier import backend, hardware  # first: silences Keras's start

# isort: split
import keras
import numpy as np
from keras import ops

import util


def fused_cells_are_faster():
    """Tell whether the layers of fused_cells.py are faster than Keras's. They are with TensorFlow without a GPU."""
    return backend.NAME == "tensorflow" and not hardware.has_gpu()


def make_training_step(model, optimizer):
    """Compile a training step of a painter: f(inputs, targets, weight) -> (loss, new states).

    `inputs` are those of build_painter, `targets` int N x W, `weight` float32 N x W. The loss is the weighted mean, in
    nats a pixel.
    """

    def scaled_loss(inputs, targets, weight):
        loss, states = painter_loss(model, inputs, targets, weight, training=True)
        return optimizer.scale_loss(loss), (loss, states)

    jit = not hardware.has_gpu()  # XLA cannot compile cuDNN's LSTM
    return backend.compile_training_step(scaled_loss, optimizer, model.trainable_variables, jit, model.variables)


def make_evaluator(model):
    """Compile f(inputs, targets, weight) -> (loss, new states): like make_training_step, without the update."""
    evaluate = functools.partial(painter_loss, model, training=False)
    return backend.compile_function(evaluate, not hardware.has_gpu(), model.variables)


def painter_loss(model, inputs, targets, weight, training):
    """Return the weighted mean loss in nats a pixel, and the new states. Arguments as in make_training_step."""
    logits, *states = model(inputs, training=training)
    nats = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
    return ops.sum(nats * weight) / ops.sum(weight), states


def weights_of(model):
    """Return a model's weights as tensors, as the compiled functions of make_scorer and make_sampler take them."""
    return [variable.value for variable in model.weights]


def make_scorer(model, context, block=1):
    """Compile log p(picture) for this architecture: f(weights, int tokens N x T) -> float32 N, in nats.

    The state is carried from pixel to pixel, so that memory does not grow with T. The log-probabilities of the
    pixels are added, so that nothing underflows. One compiled function serves all models of the architecture.
    """
    step = make_prediction_step(model, context, block=block)

    def score(weights, tokens):
        with keras.StatelessScope(zip(model.weights, weights)):
            history = ops.pad(ops.cast(tokens, "int32") + 1, ((0, 0), (1, 0)))

            def body(t, carried):
                total, states = carried
                log_probabilities, states = step(history, t, states)
                token = ops.take(history, t + 1, axis=1) - 1
                return total + ops.take_along_axis(log_probabilities, token[:, None], axis=1)[:, 0], states

            count = ops.shape(tokens)[0]
            return ops.fori_loop(0, tokens.shape[1], body, (ops.zeros(count), initial_states(model, count)))[0]

    return backend.compile_function(score)


def log_likelihoods(score, model, sequences, batch_size=1000):
    """Return the log-likelihoods of uint8 N x T sequences, float64 N, in nats. `score` comes from make_scorer."""
    weights, count = weights_of(model), len(sequences)
    size = min(batch_size, count)
    # The last batch is padded, so that all batches have one compiled shape.
    batches = [np.resize(sequences[i : i + size], (size, sequences.shape[1])) for i in range(0, count, size)]
    return np.concatenate([np.asarray(backend.as_array(score(weights, batch)), "float64") for batch in batches])[:count]


def make_sampler(model, context, shape=None, top_k=None, top_p=None, block=1):
    """Compile sampling for this architecture: f(weights, known, uniform, kept, temperature) -> int32 array N x T.

    `known` is int N x T: its first `kept` tokens are kept, the rest are drawn. `uniform` is float N x T in 0..1, one
    random number for each pixel. `temperature` is float N; 0 takes the likeliest token. The state is carried from
    pixel to pixel: each pixel takes one step, for all pictures at once. With `top_k`, only the k likeliest tokens can
    be drawn. With `top_p`, only the likeliest tokens whose probabilities add up to `top_p` can be drawn (Holtzman et
    al. 2020).
    """
    step = make_prediction_step(model, context, shape, block)
    levels = model.get_layer("logits").units

    def choose(log_probabilities, uniform, temperature):
        highest = ops.max(log_probabilities, axis=1, keepdims=True)
        scaled = (log_probabilities - highest) / ops.maximum(temperature, 1e-3)[:, None]
        if top_k and top_k < levels:
            least = ops.top_k(log_probabilities, top_k)[0][:, -1:]
            scaled = ops.where(log_probabilities < least, -1e9, scaled)
        if top_p and top_p < 1:
            probabilities = ops.softmax(scaled)
            falling = -ops.sort(-probabilities, axis=1)
            before = ops.cumsum(falling, axis=1) - falling
            least = ops.min(ops.where(before < top_p, falling, 1.0), axis=1, keepdims=True)
            scaled = ops.where(probabilities < least, -1e9, scaled)
        below = ops.cumsum(ops.softmax(scaled), axis=1)
        drawn = ops.sum(below[:, :-1] <= uniform[:, None] * below[:, -1:], axis=1)
        return ops.where(temperature == 0, ops.argmax(log_probabilities, axis=1), drawn)

    def sample(weights, known, uniform, kept, temperature):
        with keras.StatelessScope(zip(model.weights, weights)):

            def body(t, carried):
                history, states = carried
                log_probabilities, states = step(history, t, states)
                drawn = ops.cast(choose(log_probabilities, ops.take(uniform, t, axis=1), temperature), "int32")
                token = ops.where(t < kept, ops.take(known, t, axis=1), drawn)
                return ops.slice_update(history, (0, t + 1), token[:, None] + 1), states

            count, length = known.shape
            history = ops.zeros((count, length + 1), "int32")
            return ops.fori_loop(0, length, body, (history, initial_states(model, count)))[0][:, 1:] - 1

    compiled = backend.compile_function(sample)
    return lambda *arguments: backend.as_array(compiled(*arguments))


def make_prediction_step(model, context, shape=None, block=1):
    """Return f(history N x 1+T, t, states) -> (log-probabilities N x levels of pixel t, new states).

    `shape` is (height, width) of a painter's pictures. `block` is that of build_rnn, whose pictures are square.
    """
    head = model.get_layer("logits")
    if model.name == "next_pixel":
        side, levels = round(model.inputs[0].shape[1] ** 0.5), round(head.units ** (1 / block**2))
        read = util.ContextReader(side, levels, context, block)
    else:
        read = painter_reader(model, context, *shape)
    cells = cells_of(model)
    hidden = next((layer for layer in model.layers if layer.name == "hidden"), None)

    def step(history, t, states):
        x = inputs = ops.cast(read(history, t), cells[0].compute_dtype)
        new_states = []
        for cell, state in zip(cells, states):
            x, state = cell(x, state)
            new_states.append(state)
        if hidden is not None:
            x = hidden(ops.concatenate([x, inputs], axis=-1))
        return ops.log_softmax(head(x)), new_states

    return step


def painter_reader(model, context, height, width):
    """Return f(history N x 1+T, t) -> what a painter reads before pixel t, N x features."""
    table = ops.convert_to_tensor(util.context_table(height, width, context))

    def read(history, t):
        colors = model.get_layer("colors")(ops.take(history, table[t], axis=1))
        parts = [ops.reshape(colors, (-1, colors.shape[1] * colors.shape[2]))]
        for name, place in util.position_inputs(t, width, context).items():
            part = model.get_layer(f"{name}s")(ops.convert_to_tensor(place))
            parts.append(ops.broadcast_to(part, (parts[0].shape[0], *part.shape)))
        return ops.concatenate(parts, axis=1)

    return read


def cells_of(model):
    """List the recurrent cells of a network, first layer first."""
    return [layer.cell for layer in model.layers if isinstance(layer, keras.layers.RNN)]


def initial_states(model, count):
    """List the initial states of each cell, for `count` pictures."""
    return [cell.get_initial_state(batch_size=count) for cell in cells_of(model)]
