"""Quantization of pictures, preparation of sequences, builders of LSTM and GRU networks, and losses of VGG features.

Pictures are uint8 N x H x W, or N x H x W x 3 in colours. Tokens are integers N x T in 0..levels-1, row by row. A token
of a digit can also stand for a block of pixels.
Features are float32 1 x h x w x C or h x w x C.
"""

import math

from atelier import backend  # Keras starts quietly

# isort: split
import keras
import numpy as np
from keras import ops
from skimage.color import rgb2lab
from skimage.transform import resize

# --- Quantization ------------------------------------------------------------------------------


def resize_images(images, size):
    """Resize uint8 N x H x W to uint8 N x size x size with scikit-image, anti-aliased."""
    if images.shape[1:] == (size, size) or len(images) == 0:
        return images.reshape(-1, size, size)
    parts = [images[i : i + 1000] for i in range(0, len(images), 1000)]
    small = [resize(part, (len(part), size, size), anti_aliasing=True) for part in parts]
    return np.round(np.concatenate(small) * 255).astype("uint8")


def to_levels(images, levels):
    """Quantize uint8 0..255 to tokens 0..levels-1: divide by 256 / (levels - 1) and round, as the tutorial does."""
    span = 256 if levels <= 128 else 255  # with more levels, a span of 256 would never give the highest level
    return np.round(images / (span / (levels - 1))).astype("uint8")


def from_levels(tokens, levels):
    """Convert tokens 0..levels-1 back to uint8 greys; the highest level is white."""
    return np.round(np.asarray(tokens, "float64") * 255 / (levels - 1)).astype("uint8")


# --- Sequences ---------------------------------------------------------------------------------


def to_sequences(images, size, levels, block=1, order="rows"):
    """Resize and quantize uint8 N x H x W; return uint8 tokens N x T, T = (size / block)^2.

    A token is the level of a pixel or, if `block` is above 1, one number for the levels of block x block pixels. The
    order is row by row or, if `order` is columns, column by column.
    """
    pixels = to_levels(resize_images(images, size), levels)
    if order == "columns":
        pixels = pixels.swapaxes(1, 2)
    side = size // block
    blocks = pixels.reshape(-1, side, block, side, block).swapaxes(2, 3).reshape(-1, side * side, block * block)
    return (blocks @ place_values(levels, block)).astype("uint8")


def from_sequences(tokens, size, levels, block=1, order="rows"):
    """Convert tokens N x T of to_sequences back to pictures: uint8 N x size x size."""
    side = size // block
    blocks = block_levels(levels, block)[tokens].reshape(-1, side, side, block, block)
    pictures = from_levels(blocks.swapaxes(2, 3), levels).reshape(-1, size, size)
    return pictures.swapaxes(1, 2) if order == "columns" else pictures


def place_values(levels, block):
    """Return the factors that make one number of the levels of a block's pixels: int block^2."""
    return levels ** np.arange(block * block)


def block_levels(levels, block):
    """Return the levels of the pixels that each token stands for: int levels^(block^2) x block^2, row by row."""
    return np.arange(levels ** (block * block))[:, None] // place_values(levels, block) % levels


def shifted_copies(images, shift):
    """Shift each uint8 picture by up to `shift` pixels along one axis: V x N x H x W, the first copy unshifted."""
    moves = [(0, 0)] + [(sign * by, 0) for by in range(1, shift + 1) for sign in (1, -1)]
    moves += [(0, dy) for dy, _ in moves[1:]]
    padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift)))
    height, width = images.shape[1:]
    return np.stack([padded[:, shift + y : shift + y + height, shift + x : shift + x + width] for y, x in moves])


# The contexts `above` and `place` read these pixels: (row, column), relative to the pixel being drawn.
NEIGHBOURS = [(0, -1), (0, -2), *((-1, dx) for dx in range(-2, 3)), *((-2, dx) for dx in range(-1, 2))]
# The context `wide` reads these pixels or blocks of pixels.
WIDE = [*((0, dx) for dx in range(-4, 0)), *((dy, dx) for dy in range(-3, 0) for dx in range(-3, 4))]


def context_table(height, width, context):
    """Return the positions of the earlier pixels (or blocks of pixels) that are read before each pixel is drawn.

    Returns int32 T x F, T = height * width: entry [t, f] is 1 + the position of an earlier pixel, or 0 for
    the start symbol. `previous` reads the previous pixel, in row order, as the MNIST tutorial does. `above` and `place`
    read ten neighbours in two dimensions, `wide` 25; a neighbour beyond the border is read as the start symbol.
    """
    if context == "previous":
        return np.arange(height * width, dtype="int32")[:, None]
    neighbours = WIDE if context == "wide" else NEIGHBOURS
    table = np.zeros((height, width, len(neighbours)), "int32")
    for row in range(height):
        for column in range(width):
            for f, (dy, dx) in enumerate(neighbours):
                if row + dy >= 0 and 0 <= column + dx < width:
                    table[row, column, f] = 1 + (row + dy) * width + column + dx
    return table.reshape(height * width, -1)


class ContextReader:
    """What a network of digits reads before each token: the earlier tokens in context_table, as vectors.

    A pixel is read as a one-hot vector, a block as the levels of its pixels, from 0 to 1. The start symbol is an
    all-zero vector. With the context `wide`, the row and the column are read too, as one-hot vectors.
    """

    def __init__(self, side, levels, context, block):
        self.table = context_table(side, side, context)
        self.levels, self.codes, self.places = levels, None, None
        if block > 1:
            self.codes = np.pad(block_levels(levels, block) / (levels - 1), ((1, 0), (0, 0))).astype("float32")
        if context == "wide":
            rows, columns = np.divmod(np.arange(side * side), side)
            self.places = np.concatenate([np.eye(side)[rows], np.eye(side)[columns]], axis=1).astype("float32")

    def __call__(self, history, t=None):
        """Read `history` (N x 1+T, 0 for the start or 1 + token) before all tokens, or before token `t` alone.

        Returns float32 N x T x features, or N x features.
        """
        positions = self.table if t is None else ops.convert_to_tensor(self.table)[t]
        tokens = ops.take(history, positions, axis=1)
        if self.codes is None:
            vectors = ops.one_hot(tokens, self.levels + 1)[..., 1:]
        else:
            vectors = ops.take(ops.convert_to_tensor(self.codes), tokens, axis=0)
        vectors = ops.reshape(vectors, (-1, *positions.shape[:-1], positions.shape[-1] * vectors.shape[-1]))
        if self.places is None:
            return vectors
        place = ops.convert_to_tensor(self.places) if t is None else ops.convert_to_tensor(self.places)[t]
        place = ops.add(place, ops.zeros_like(vectors[..., :1]))  # the same for all pictures
        return ops.concatenate([vectors, place], axis=-1)


class Windows:
    """Batches of windows of pictures. Windows are cut out when needed; only the tokens are kept, two bytes a pixel.

    `tokens` is uint16 N x T, T = height * width, row by row. With the targets `all`, the pictures, one after
    another, are divided into at most `batch_size` streams. Each step takes the next window of each stream, and the
    network's state is carried along the stream. Every pixel is a target once an epoch. A stream may begin within a
    picture, unless `whole` is true.
    With the targets `last`, each window is independent and has one target, the pixel after its end; there is one window
    every `stride` pixels. A batch depends only on the seed, the epoch and the step, so that a training can be resumed
    at any step.
    """

    def __init__(self, tokens, width, height, context, window, stride, batch_size, targets, whole=False):
        count, length = tokens.shape
        self.history = np.zeros((count, 1 + length), "uint16")
        self.history[:, 1:] = tokens + np.uint16(1)
        self.table = context_table(height, width, context)
        self.width, self.window, self.stride, self.context, self.targets = width, window, stride, context, targets
        self.windows_per_picture = -(-length // (window if targets == "all" else stride))
        self.total = count * self.windows_per_picture
        self.batch_size = min(batch_size, count if targets == "all" else self.total)
        self.steps = -(-self.total // self.batch_size)
        if targets == "all" and whole:
            self.steps = -(-count // self.batch_size) * self.windows_per_picture
        elif targets == "all" and self.batch_size > 1 and self.steps % self.windows_per_picture == 0:
            self.steps += 1  # otherwise all streams would always be in the same row of their pictures

    def batch(self, seed, epoch, step):
        """Return (inputs without states, targets N x W, weight N x W, first N). Where `first`, the state is zero."""
        rng = np.random.default_rng([seed, epoch])
        rows = np.arange(self.batch_size)
        if self.targets == "all":
            chosen = rows * self.steps + step
            real = chosen < self.total
            pictures = rng.permutation(len(self.history))[chosen % self.total // self.windows_per_picture]
            start = chosen % self.windows_per_picture * self.window
            pixels = start[:, None] + np.arange(self.window)
            first = (start == 0) | (step == 0)
        else:
            index = rows + step * self.batch_size
            real = index < self.total
            chosen = (rng.integers(self.total) + index * random_coprime(rng, self.total)) % self.total
            pictures = chosen // self.windows_per_picture
            pixels = (chosen % self.windows_per_picture * self.stride)[:, None] + np.arange(1 - self.window, 1)
            first = np.ones(self.batch_size, bool)
        inputs, targets = self.look_up(pictures, pixels)
        weight = real[:, None] & (pixels < len(self.table))
        if self.targets == "last":
            targets, weight = targets[:, -1:], weight[:, -1:]
        return inputs, targets, weight.astype("float32"), first

    def look_up(self, pictures, pixels):
        """Return the inputs and targets for these pixels (int N x W) of these pictures (int N)."""
        within = np.clip(pixels, 0, len(self.table) - 1)
        neighbours = self.history[pictures[:, None, None], self.table[within]].astype("int32")
        neighbours[pixels < 0] = 0  # before the first pixel, the start symbol is read
        inputs = {"neighbours": neighbours} | position_inputs(within, self.width, self.context)
        return inputs, np.maximum(self.history[pictures[:, None], within + 1].astype("int32") - 1, 0)


def random_coprime(rng, count):
    """Draw a number coprime to `count`: its multiples modulo `count` visit all of 0..count-1."""
    while True:
        number = int(rng.integers(max(1, count // 3), count + 1))
        if math.gcd(number, count) == 1:
            return number


def position_inputs(pixels, width, context):
    """Return the inputs `row` and `column` of pixels for the context `place`, or no inputs for another context."""
    return {"row": pixels // width, "column": pixels % width} if context == "place" else {}


# --- Next-pixel networks -----------------------------------------------------------------------


def build_rnn(
    size,
    levels,
    cell="gru",
    units=256,
    layers=1,
    dropout=0.0,
    context="previous",
    block=1,
    hidden=0,
    fused=False,
    **options,
):
    """Build a next-pixel network: int tokens N x T -> float32 logits N x T x levels, T = size * size.

    The logits of pixel t depend only on pixels before t: the network shifts its input right by one, with an all-zero
    vector as the start. `cell` is gru or lstm, in `layers` layers of `units`. With `block` above 1, a token is a block
    of pixels, T = (size / block)^2, and the logits are N x T x levels^(block^2). With `hidden` above 0, a layer of that
    many units follows the recurrent layers, and also reads their input. `options` are passed to the Keras layer,
    `fused` to layer_class.
    """
    side = size // block
    tokens = keras.Input((side * side,), dtype="int32", name="tokens")
    read = x = ContextReader(side, levels, context, block)(ops.pad(tokens + 1, ((0, 0), (1, 0))))
    for i in range(layers):
        x = layer_class(cell, fused)(units, return_sequences=True, name=f"{cell}_{i}", **options)(x)
        if dropout:
            x = keras.layers.Dropout(dropout, name=f"dropout_{i}")(x)
    if hidden:
        x = keras.layers.Dense(hidden, activation="relu", name="hidden", dtype=options.get("dtype"))(
            ops.concatenate([x, ops.cast(read, x.dtype)], axis=-1)
        )
    logits = keras.layers.Dense(levels ** (block * block), dtype="float32", name="logits")(x)
    return keras.Model(tokens, logits, name="next_pixel")


def build_painter(
    colors, width, height, window, cell, units, layers, dropout, embedding, context, targets="all", fused=False
):
    """Build a next-pixel network that reads one window of a picture at a time; its state is an input and an output.

    Inputs, by name: `neighbours` int N x window x F (0 for the start or 1 + token, see context_table); with the
    context `place` also `row` and `column`, int N x window; and the state of each layer, N x units (two for an lstm).
    Outputs: float32 logits N x window x colors (of the last pixel only if `targets` is last), and the new states.
    All neighbours are looked up in the same embedding of the palette.
    """
    count = context_table(height, width, context).shape[1]
    inputs = {"neighbours": keras.Input((window, count), dtype="int32", name="neighbours")}
    looked_up = keras.layers.Embedding(colors + 1, embedding, name="colors")(inputs["neighbours"])
    x = keras.layers.Reshape((window, count * embedding))(looked_up)
    if context == "place":
        inputs |= {name: keras.Input((window,), dtype="int32", name=name) for name in ("row", "column")}
        row = keras.layers.Embedding(height, PLACE_UNITS, name="rows")(inputs["row"])
        column = keras.layers.Embedding(width, PLACE_UNITS, name="columns")(inputs["column"])
        x = keras.layers.Concatenate()([x, row, column])
    outputs = []
    for i in range(layers):
        names = [f"state_{i}_{part}" for part in range(2 if cell == "lstm" else 1)]
        inputs |= {name: keras.Input((units,), name=name) for name in names}
        run = layer_class(cell, fused)(units, return_sequences=True, return_state=True, name=f"{cell}_{i}")
        x, *states = run(x, initial_state=[inputs[name] for name in names])
        outputs += states
        if dropout:
            x = layer_class("dropout", fused)(dropout, name=f"dropout_{i}")(x)
    if targets == "last":
        x = x[:, -1:]
    logits = keras.layers.Dense(colors, dtype="float32", name="logits")(x)
    return keras.Model(inputs, [logits, *outputs], name="painter")


PLACE_UNITS = 32  # width of the embeddings of the row and of the column


def initialize_colors(model, palette, seed):
    """Initialize a painter's embedding and output weights so that similar colours have similar weights.

    The weights are random Fourier features of CIELAB (Rahimi and Recht 2007).
    """
    rng = np.random.default_rng(seed)

    def features(width):
        frequencies = rng.normal(size=(3, width)) / 30  # colours that differ by 30 Delta E get different features
        return np.cos(rgb2lab(palette) @ frequencies + rng.uniform(0, 2 * np.pi, width))

    embedding, head = model.get_layer("colors").embeddings, model.get_layer("logits").kernel
    embedding.assign(np.pad(features(embedding.shape[1]) / 2, ((1, 0), (0, 0))))
    head.assign(features(head.shape[0]).T / head.shape[0] ** 0.5)


def layer_class(name, fused):
    """Return the Keras layer "gru", "lstm" or "dropout", or if `fused` ours: faster on a CPU, with the same weights."""
    if fused:
        from atelier.networks import fused_cells  # TensorFlow may not be installed

        return {"gru": fused_cells.FusedGRU, "lstm": fused_cells.FusedLSTM, "dropout": fused_cells.FastDropout}[name]
    return {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM, "dropout": keras.layers.Dropout}[name]


# --- Losses of VGG features --------------------------------------------------------------------


def feature_reconstruction_loss(base, output):
    """Sum of the squared differences of two layers' features of the same shape (Gatys et al. 2016)."""
    return ops.sum(ops.square(output - base))


def gram_matrix(x):
    """Return the Gram matrix of features H x W x C, summed over positions: C x C."""
    x = ops.reshape(x, (-1, x.shape[-1]))

    @backend.custom_gradient
    def product(x):
        # Both factors have the same gradient; it is computed once.
        return ops.matmul(ops.transpose(x), x), lambda g: ops.matmul(x, g + ops.transpose(g))

    return product(x)


def style_reconstruction_loss(base, output):
    """Sum of the squared differences of two layers' Gram matrices, divided by (2 H W)^2; features H x W x C."""
    height, width = output.shape[-3:-1]
    return feature_reconstruction_loss(gram_matrix(base), gram_matrix(output)) / (2 * height * width) ** 2


def total_variation_loss(x):
    """Sum of the squared differences to the lower and to the right neighbour; pictures 1 x H x W x C."""
    count, height, width, channels = ops.shape(x)
    shape = (count, height - 1, width - 1, channels)
    # Python slices would give the same values, but their gradients take seven times as long.
    here, lower, right = (ops.slice(x, start, shape) for start in ((0, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0)))
    return ops.sum(ops.square(lower - here)) + ops.sum(ops.square(right - here))


def relative_difference(base, output):
    """Sum of squared differences, divided by the sum of squares of `base`: 0 if equal, about 1 if unrelated."""
    return feature_reconstruction_loss(base, output) / ops.maximum(ops.sum(ops.square(base)), 1e-6)


def relative_distance(base, output):
    """Square root of relative_difference. Its gradient does not become small as the two become equal."""
    return ops.sqrt(relative_difference(base, output) + 1e-8)


def mean_variation(x):
    """Mean squared difference to the lower and to the right neighbour of pictures in 0..255, scaled to 0..1."""
    return total_variation_loss(x) / (255**2 * ops.cast(ops.prod(ops.shape(x)), "float32"))
