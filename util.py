"""What the scripts share: pictures, data sets, quantization, recurrent networks, and drawing with them.

Pictures are float32 H x W x C in 0..255, or uint8 N x H x W where there are many; tokens are integers
N x T in 0..levels-1, row by row; log-likelihoods are in nats. Nothing here knows of command lines, or of
where the scripts keep their files.
"""

import contextlib
import ctypes
import functools
import gzip
import json
import os
import pathlib
import platform
import shlex
import sys
import tempfile
import zlib

import h5py
import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from skimage.transform import resize

from config import InputError


def keep_freed_memory():
    """Have glibc keep freed memory instead of returning it to the system after each training step.

    A step's intermediate values are as large as the last step's; to map and clear them anew took a third
    of the time. Other C libraries are left as they are.
    """
    m_mmap_max, m_arena_max, m_trim_threshold = -4, -8, -1
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(m_mmap_max, 0)
        mallopt(m_arena_max, 1)
        mallopt(m_trim_threshold, 2**31 - 1)


@contextlib.contextmanager
def silenced_stderr():
    """Drop what C++ code writes to standard error: TensorFlow greets there before it can be told not to."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


keep_freed_memory()
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with silenced_stderr():
    import keras
    import tensorflow as tf
    from keras import ops

# --- Files -------------------------------------------------------------------------------------


@contextlib.contextmanager
def whole_file(path):
    """Yield a temporary path beside `path`, renamed to it at the end: a file appears whole or not at all."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~current_umask())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = str(path)  # a full disk doesn't say which file it was about
        raise
    finally:
        pathlib.Path(temporary).unlink(missing_ok=True)


@functools.cache
def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path, value):
    with whole_file(path) as temporary:
        pathlib.Path(temporary).write_text(json.dumps(value, indent=2) + "\n")


def refuse_to_overwrite(path, overwrite):
    """Raise InputError where `path` exists and `overwrite` is false."""
    if pathlib.Path(path).exists() and not overwrite:
        raise InputError(f"{path} exists already; pass --overwrite to replace it")


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
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}


# --- Pictures ----------------------------------------------------------------------------------


def load_image(path):
    """Read a picture upright and in RGB: float32 H x W x 3 in 0..255. Raises InputError where it can't be read."""
    try:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture)
            if upright.has_transparency_data:
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
            if upright.mode.startswith("I;16"):
                upright = Image.fromarray((np.asarray(upright) >> 8).astype("uint8"))
            return np.asarray(upright.convert("RGB"), "float32")
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} is not a picture that can be read: {error}") from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error


def save_png(path, pixels, about):
    """Write uint8 H x W or H x W x 3 as a PNG whose text chunks, `about`, tell how it was made."""
    text = PngImagePlugin.PngInfo()
    for key, value in about.items():
        text.add_itxt(key, value)
    with whole_file(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=text)


def save_gif(path, frames, seconds):
    """Write uint8 H x W frames as a looping GIF of about `seconds`, with a pause on the last frame."""
    pictures = [Image.fromarray(frame) for frame in frames]
    durations = [max(20, round(1000 * seconds / len(pictures)))] * (len(pictures) - 1) + [1500]
    with whole_file(path) as temporary:
        pictures[0].save(temporary, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def contact_sheet(pictures, columns, gap=1):
    """Lay uint8 N x H x W pictures out on a grid: uint8, each pixel up to 8 times enlarged, dark grey lines between."""
    count, height, width = pictures.shape
    enlarge = int(np.clip(1500 // (columns * (width + gap)), 1, 8))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap), 64, "uint8")
    for i, picture in enumerate(pictures):
        y, x = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        sheet[y : y + height, x : x + width] = picture
    return sheet.repeat(enlarge, 0).repeat(enlarge, 1)


# --- Data sets ---------------------------------------------------------------------------------

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def load_dataset(source, data=None):
    """Load pictures and labels: (train images, train labels, test images, test labels).

    `source` is digits, mnist or fashion_mnist, or only a name where `data` is given: the path of an .npz
    with x_train, y_train, x_test and y_test, or of a folder with the four IDX files, gzipped or not.
    Images are uint8 N x H x W, white ink on black; labels are integers. Raises InputError.
    """
    if data is not None:
        arrays = load_npz(data) if pathlib.Path(data).is_file() else load_idx_folder(data)
    elif source == "digits":
        arrays = load_scikit_digits()
    elif source in ("mnist", "fashion_mnist"):
        arrays = load_with_keras(source)
    else:
        raise InputError(f"{source} is not digits, mnist or fashion_mnist; give its files with --data")
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
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; --data takes an .npz or a folder with the four IDX files")
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

# The pixels (row, column) that a context reads, relative to the one being drawn.
ABOVE = [(0, -1), (0, -2), *((-1, dx) for dx in range(-2, 3)), *((-2, dx) for dx in range(-1, 2))]


def context_table(height, width, context):
    """Say which pixels are read before each is drawn.

    Returns int32 T x F, T = height * width: entry [t, f] is 1 + the position of an earlier pixel, or 0 for
    the start symbol. `previous` reads the one pixel before, in row order, as the MNIST tutorial does;
    `above` reads ten neighbours in two dimensions, and the start symbol beyond the border.
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
    the Keras layer. `fused` takes FusedGRU, which trains faster and has the same weights.
    """
    table = context_table(size, size, context)
    tokens = keras.Input((size * size,), dtype="int32", name="tokens")
    x = read_context(ops.pad(tokens + 1, ((0, 0), (1, 0))), table, levels)
    layer = {"gru": FusedGRU if fused else keras.layers.GRU, "lstm": keras.layers.LSTM}[cell]
    for i in range(layers):
        x = layer(units, return_sequences=True, name=f"{cell}_{i}", **options)(x)
        if dropout:
            x = keras.layers.Dropout(dropout, name=f"dropout_{i}")(x)
    logits = keras.layers.Dense(levels, dtype="float32", name="logits")(x)
    return keras.Model(tokens, logits, name="next_pixel")


class FusedGRU(keras.layers.GRU):
    """keras.layers.GRU with a gradient that takes the recurrent kernel's part out of the loop.

    Same weights, same outputs; the backward loop then has one small product a step, and the kernel's
    gradient is one large product after it.
    """

    def inner_loop(self, sequences, initial_state, mask=None, training=False):
        cell = self.cell
        x = ops.matmul(ops.transpose(sequences, (1, 0, 2)), cell.kernel) + cell.bias[0]
        # tf.identity: a custom gradient takes tensors, and Keras hands out variables outside compiled code.
        kernel, bias = (tf.identity(ops.convert_to_tensor(v)) for v in (cell.recurrent_kernel, cell.bias[1]))
        h = gru_states(x, kernel, bias)
        return h[-1], ops.transpose(h, (1, 0, 2)), [h[-1]]


@tf.custom_gradient
def gru_states(inputs, kernel, bias):
    """Run a GRU (Cho et al. 2014, reset after the product) from zero: T x N x 3U inputs -> T x N x U states.

    Gates stand in the order update, reset, candidate. The loop over time and its reverse are compiled.
    """
    steps, units = inputs.shape[0], inputs.shape[2] // 3

    def stack(width):
        return tf.TensorArray(inputs.dtype, steps, element_shape=[inputs.shape[1], width])

    def loop(body, *state):
        return tf.while_loop(lambda t, *_: t < steps, body, (0, *state), maximum_iterations=steps)[1:]

    def forward(t, h, *stacks):
        xz, xr, xn = tf.split(inputs[t], 3, -1)
        az, ar, an = tf.split(h @ kernel + bias, 3, -1)
        z, r = sigmoid(xz + az), sigmoid(xr + ar)
        n = tf.tanh(xn + r * an)
        return t + 1, n + z * (h - n), *(s.write(t, value) for s, value in zip(stacks, (h, z, r, n, an)))

    last, *stacks = loop(forward, tf.zeros_like(inputs[0, :, :units]), *(stack(units) for _ in range(5)))
    h, z, r, n, an = (s.stack() for s in stacks)

    def gradient(dstates):
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

        _, dproducts, dcandidates = loop(backward, tf.zeros_like(last), stack(3 * units), stack(units))
        dproducts, dcandidates = dproducts.stack(), dcandidates.stack()
        flat = tf.reshape(dproducts, [-1, 3 * units])
        dkernel = tf.matmul(tf.transpose(tf.reshape(h, [-1, units])), flat)
        return tf.concat([dproducts[..., : 2 * units], dcandidates], -1), dkernel, tf.reduce_sum(flat, 0)

    return tf.concat([h[1:], last[None]], 0), gradient


def sigmoid(x):
    # By way of tanh: XLA makes a faster loop of it than of the exponential.
    return 0.5 + 0.5 * tf.tanh(0.5 * x)


def compile_function(function):
    """Compile a function of tensors into one program. (Keras has no word for it; other backends have theirs.)"""
    return tf.function(function, jit_compile=True)


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


def make_painter(model, context, temperature=1.0, top_k=None):
    """Compile drawing for this architecture: f(weights, known, uniform, kept) -> int32 tokens N x T.

    `known` is int N x T, of which the first `kept` tokens stand and the rest are drawn; `uniform` is float
    N x T in 0..1, one random number for each pixel. The state is carried: one step a pixel for all pictures
    at once. `temperature` 0 takes the likeliest level; `top_k` draws among the k likeliest alone.
    """
    step = make_step(model, context)
    levels = model.get_layer("logits").units

    def choose(log_probabilities, uniform):
        if temperature == 0:
            return ops.argmax(log_probabilities, axis=1)
        scaled = (log_probabilities - ops.max(log_probabilities, axis=1, keepdims=True)) / temperature
        if top_k and top_k < levels:
            least = ops.top_k(log_probabilities, top_k)[0][:, -1:]
            scaled = ops.where(log_probabilities < least, -1e9, scaled)
        below = ops.cumsum(ops.softmax(scaled), axis=1)
        return ops.sum(below[:, :-1] <= uniform[:, None] * below[:, -1:], axis=1)

    def paint(weights, known, uniform, kept):
        with keras.StatelessScope(zip(model.weights, weights)):

            def body(t, carried):
                history, states = carried
                log_probabilities, states = step(history, t, states)
                drawn = ops.cast(choose(log_probabilities, ops.take(uniform, t, axis=1)), "int32")
                token = ops.where(t < kept, ops.take(known, t, axis=1), drawn)
                return ops.slice_update(history, (0, t + 1), token[:, None] + 1), states

            count, length = known.shape
            history = ops.zeros((count, length + 1), "int32")
            return ops.fori_loop(0, length, body, (history, initial_states(model, count)))[0][:, 1:] - 1

    return compile_function(paint)


def make_step(model, context):
    """Return f(history N x 1+T, t, states) -> (log-probabilities N x levels of pixel t, new states)."""
    head = model.get_layer("logits")
    size = round(model.inputs[0].shape[1] ** 0.5)
    table = ops.convert_to_tensor(context_table(size, size, context))

    def step(history, t, states):
        x = ops.cast(read_context(history, table[t], head.units), model.compute_dtype)
        new_states = []
        for cell, state in zip(cells_of(model), states):
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
    """Read a model folder's meta.json; for a folder of the tutorial's .h5 files, make it up. Raises InputError."""
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
        if not isinstance(source, str) or recipe["context"] not in ("previous", "above"):
            raise ValueError("its source or context is none")
        if not all(isinstance(recipe[key], int) for key in ("size", "levels", "units", "layers")):
            raise ValueError("size, levels, units and layers must be whole numbers")
        classes = sorted((int(label), dict(entry)) for label, entry in meta["classes"].items())
        if not classes:
            raise ValueError("it lists no classes")
        return meta | {"classes": {str(label): entry for label, entry in classes}}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {error}") from error


def network_options(recipe):
    """Return the part of a recipe, a dict, that build_rnn takes."""
    return {name: recipe[name] for name in NETWORK_OPTIONS if name in recipe}


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
    try:
        model.set_weights(weights)
    except ValueError as error:
        raise InputError(f"{path} is not the network that meta.json describes: {error}") from error
    return model


def load_keras_weights(path, recipe):
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        found = (model.input_shape[1], model.get_layer("logits").units)
    except Exception as error:  # Keras raises whatever its parsers do
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise InputError(f"{path} can't be loaded: {reason}") from error
    expected = (recipe["size"] ** 2, recipe["levels"])
    if found != expected:
        what = "{} pixels of {} levels"
        raise InputError(f"{path} is for {what.format(*found)}; meta.json says {what.format(*expected)}")
    return model.get_weights()


@keras.saving.register_keras_serializable("keras_atelier")
def keras2_hard_sigmoid(x):
    """Keras 2's hard sigmoid, clip(0.2 x + 0.5, 0, 1); today's function of that name has another slope."""
    return ops.clip(0.2 * x + 0.5, 0.0, 1.0)


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


# --- Hardware ----------------------------------------------------------------------------------


def use_precision(precision, batch_size):
    """Set the arithmetic of all networks built from now on; return "device, precision" for people to read.

    On a processor bfloat16 is worth its conversions from batches of about 128 on, so `auto` takes it there.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)
    if precision == "auto":
        worth_it = multiplies_bfloat16(gpus) and (gpus or batch_size >= 128)
        precision = "mixed_bfloat16" if worth_it else "float32"
    keras.config.set_dtype_policy(precision)
    return f"{f'{len(gpus)} GPU' if gpus else f'CPU, {cpu_count()} cores'}, {precision}"


def multiplies_bfloat16(gpus):
    """Say whether bfloat16 products are native: Ampere GPUs and later, processors with AMX or AVX512-BF16."""
    if gpus:
        return all(tf.config.experimental.get_device_details(g).get("compute_capability", (0,))[0] >= 8 for g in gpus)
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def has_gpu():
    return bool(tf.config.list_physical_devices("GPU"))


def cpu_count():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
