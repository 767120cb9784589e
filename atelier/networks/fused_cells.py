"""GRU, LSTM and dropout layers that train faster on a CPU than Keras's. The GRU and LSTM give the same outputs.

Sequences are N x T x features. The gradients are written by hand: one large matrix product after the loop over time
computes the gradient of the recurrent kernel.
"""

from atelier import backend  # Keras starts quietly

# isort: split
import keras
import tensorflow as tf
from keras import ops


class FastDropout(keras.layers.Dropout):
    """keras.layers.Dropout with one random byte for each value, which is faster. The rate is rounded to n / 256."""

    def call(self, inputs, training=False):
        if not training:
            return inputs
        key = tf.cast(self.seed_generator.next(), "uint64")
        count, steps, units = inputs.shape
        words = tf.random.stateless_uniform(
            (-(-count * steps * units // 4),), key, minval=None, maxval=None, dtype="uint32", alg="philox"
        )
        noise = tf.reshape(tf.reshape(tf.bitcast(words, "uint8"), (-1,))[: count * steps * units], inputs.shape)
        dropped = min(round(256 * self.rate), 255)
        return tf.where(noise >= dropped, inputs * (256 / (256 - dropped)), 0)


class FusedGRU(keras.layers.GRU):
    """keras.layers.GRU with the same weights and outputs, and a faster gradient.

    The backward loop computes one small matrix product in each step. One large product after the loop gives the
    gradient of the recurrent kernel.
    """

    def inner_loop(self, sequences, initial_state, mask=None, training=False):
        cell = self.cell
        x = ops.matmul(ops.transpose(sequences, (1, 0, 2)), cell.kernel) + cell.bias[0]
        kernel, bias, first = as_tensors(cell.recurrent_kernel, cell.bias[1], keras.tree.flatten(initial_state)[0])
        h = gru_states(x, kernel, bias, first)
        return h[-1], ops.transpose(h, (1, 0, 2)), [h[-1]]


class FusedLSTM(keras.layers.LSTM):
    """keras.layers.LSTM with a gradient like FusedGRU's."""

    def inner_loop(self, sequences, initial_state, mask=None, training=False):
        cell = self.cell
        x = ops.matmul(ops.transpose(sequences, (1, 0, 2)), cell.kernel)
        x = tf.nn.bias_add(x, ops.convert_to_tensor(cell.bias))  # the gradient of bias_add is faster than that of +
        h, c = lstm_states(x, *as_tensors(cell.recurrent_kernel, *initial_state))
        return h[-1], ops.transpose(h, (1, 0, 2)), [h[-1], c]


def as_tensors(*values):
    # A function with a custom gradient takes only tensors. Outside compiled code Keras passes variables.
    return [tf.identity(ops.convert_to_tensor(value)) for value in values]


@tf.custom_gradient
def gru_states(inputs, kernel, bias, first):
    """Run a GRU (Cho et al. 2014, reset after the product) from a state: T x N x 3U inputs -> T x N x U states.

    The gates are in the order update, reset, candidate. The forward and the backward loop are compiled with XLA. The
    large products are outside the loops, because TensorFlow computes them faster than XLA.
    """
    # gradient() replaces the loop's gradient. Without stop_gradient, a tape in eager code would record the loop.
    h, last, *gates = gru_forward(*map(tf.stop_gradient, (inputs, kernel, bias, first)))

    def gradient(dstates):
        dproducts, dcandidates, dfirst = gru_backward(dstates, kernel, h, *gates)
        units = h.shape[2]
        flat = tf.reshape(dproducts, [-1, 3 * units])
        dkernel = tf.matmul(tf.reshape(h, [-1, units]), flat, transpose_a=True)
        return tf.concat([dproducts[..., : 2 * units], dcandidates], -1), dkernel, tf.reduce_sum(flat, 0), dfirst

    return tf.concat([h[1:], last[None]], 0), gradient


@backend.compile_function
def gru_forward(inputs, kernel, bias, first):
    """Return the states before each step, the last state, and four arrays for the gradient.

    These are the update gate z, the reset gate r, the candidate n, and the part of n's input that is computed from h.
    """
    steps, units = inputs.shape[0], inputs.shape[2] // 3

    def forward(t, h, *stacks):
        xz, xr, xn = tf.split(inputs[t], 3, -1)
        az, ar, an = tf.split(h @ kernel + bias, 3, -1)
        z, r = sigmoid(xz + az), sigmoid(xr + ar)
        n = tf.tanh(xn + r * an)
        return t + 1, n + z * (h - n), *(s.write(t, value) for s, value in zip(stacks, (h, z, r, n, an)))

    last, h, *gates = loop_over(steps, forward, first, *(stack_of(inputs, units) for _ in range(5)))
    return h.stack(), last, *(s.stack() for s in gates)


@backend.compile_function
def gru_backward(dstates, kernel, h, z, r, n, an):
    """Return the gradients of the products with the kernel, of the candidates and of the first state."""
    steps, units = h.shape[0], h.shape[2]
    to_candidate = (1 - z) * (1 - n * n)
    to_update = (h - n) * z * (1 - z)
    to_reset = an * r * (1 - r)
    transposed = tf.transpose(kernel)

    def backward(i, dh, dproducts, dcandidates):
        t = steps - 1 - i
        dh += dstates[t]
        dn = dh * to_candidate[t]
        dproduct = tf.concat([dh * to_update[t], dn * to_reset[t], dn * r[t]], -1)
        dh = dh * z[t] + dproduct @ transposed
        return i + 1, dh, dproducts.write(t, dproduct), dcandidates.write(t, dn)

    stacks = stack_of(h, 3 * units), stack_of(h, units)
    dfirst, dproducts, dcandidates = loop_over(steps, backward, tf.zeros_like(h[0]), *stacks)
    return dproducts.stack(), dcandidates.stack(), dfirst


@tf.custom_gradient
def lstm_states(inputs, kernel, first_h, first_c):
    """Run an LSTM (Hochreiter and Schmidhuber 1997) from a state: T x N x 4U inputs -> T x N x U, last cell N x U.

    The gates are in the order input, forget, candidate, output. The loops are compiled like those of gru_states.
    """
    h, c, gates = lstm_forward(*map(tf.stop_gradient, (inputs, kernel, first_h, first_c)))

    def gradient(dstates, dlast_c):
        dproducts, dh, dc = lstm_backward(dstates, dlast_c, kernel, first_c, c, gates)
        h_before = tf.concat([first_h[None], h[:-1]], 0)
        flat = [tf.reshape(x, [-1, x.shape[2]]) for x in (h_before, dproducts)]
        return dproducts, tf.matmul(*flat, transpose_a=True), dh, dc

    return (h, c[-1]), gradient


@backend.compile_function
def lstm_forward(inputs, kernel, first_h, first_c):
    """Return the states, cells and gates of all steps."""
    steps, units = inputs.shape[0], inputs.shape[2] // 4
    # sigmoid(x) = 0.5 + 0.5 tanh(0.5 x), so with these factors one tanh computes all four gates.
    half = tf.repeat(tf.constant([0.5, 0.5, 1.0, 0.5], inputs.dtype), units)

    def forward(t, h, c, *stacks):
        gates = half * tf.tanh(half * (inputs[t] + h @ kernel)) + (1 - half)
        i, f, g, o = tf.split(gates, 4, -1)
        c = f * c + i * g
        h = o * tf.tanh(c)
        return t + 1, h, c, *(s.write(t, value) for s, value in zip(stacks, (h, c, gates)))

    stacks = (stack_of(inputs, width) for width in (units, units, 4 * units))
    _, _, *stacks = loop_over(steps, forward, first_h, first_c, *stacks)
    return [s.stack() for s in stacks]


@backend.compile_function
def lstm_backward(dstates, dlast_c, kernel, first_c, c, gates):
    """Return the gradients of the products with the kernel, of the first state and of the first cell."""
    steps, units = c.shape[0], c.shape[2]
    c_before = tf.concat([first_c[None], c[:-1]], 0)
    transposed = tf.transpose(kernel)

    def backward(k, dh, dc, dproducts):
        t = steps - 1 - k
        i, f, g, o = tf.split(gates[t], 4, -1)
        tanh_c = tf.tanh(c[t])
        dh += dstates[t]
        dc += dh * o * (1 - tanh_c * tanh_c)
        of_cell = [dc * g * i * (1 - i), dc * c_before[t] * f * (1 - f), dc * i * (1 - g * g)]
        dproduct = tf.concat([*of_cell, dh * tanh_c * o * (1 - o)], -1)
        return k + 1, dproduct @ transposed, dc * f, dproducts.write(t, dproduct)

    dh, dc, dproducts = loop_over(steps, backward, tf.zeros_like(first_c), dlast_c, stack_of(c, 4 * units))
    return dproducts.stack(), dh, dc


def stack_of(inputs, width):
    """Return an empty stack of N x width tensors, one for each time step of T x N x ... inputs."""
    return tf.TensorArray(inputs.dtype, inputs.shape[0], element_shape=[inputs.shape[1], width])


def loop_over(steps, body, *state):
    """Run body(t, *state) -> (t + 1, *state) for t = 0 .. steps - 1; return the last state."""
    return tf.while_loop(lambda t, *_: t < steps, body, (0, *state), maximum_iterations=steps)[1:]


def sigmoid(x):
    # In a loop compiled with XLA, tanh is faster than the exponential.
    return 0.5 + 0.5 * tf.tanh(0.5 * x)
