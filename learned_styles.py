"""Learned styles: a small network that paints a photo at once, after any painting that it was taught.

Photos go in and pictures come out, float32 N x H x W x 3 in 0..255. All paintings share the convolutions; what
it knows of one painting alone are the scales and shifts of its normalisations (Dumoulin et al. 2017), two thousand
numbers, a style.
"""

import hardware  # noqa: F401, it has TensorFlow start quietly

# isort: split
import dataclasses
import functools
import hashlib
import pathlib
import zipfile
import zlib

import keras
import numpy as np
import tensorflow as tf
from keras import ops

import disk
import imaging
import naming
from errors import InputError

WIDTHS = (16, 32, 96)  # channels at the picture's size, at its half and at its quarter
BLOCKS = 5  # residual blocks, at the quarter
FLOOR = 0.01  # of variances: else the noise of a flat sky would be blown up to strokes

NORMALIZED = [WIDTHS[1], WIDTHS[2], *[WIDTHS[2]] * 2 * BLOCKS, WIDTHS[1], WIDTHS[0]]  # channels of each normalisation
NUMBERS = 2 * sum(NORMALIZED)  # of a style


def build_network():
    """Build the network (after Johnson et al. 2016): [photos, styles N x NUMBERS] -> pictures; sides multiples of 4."""
    photo, style = keras.Input((None, None, 3), name="photo"), keras.Input((NUMBERS,), name="style")
    x = encoder()(photo)
    x = middle()([x, style])
    return keras.Model([photo, style], decoder()([x, style]), name="painter")


def encoder():
    """Photos -> features of half their size. It takes no statistics, so a large photo may be seen strip by strip."""
    photo = keras.Input((None, None, 3), name="photo")
    x = mirrored(photo / 127.5 - 1, ENCODER_MARGIN)
    x = convolution(WIDTHS[0], 5, "enter", activation="relu")(x)
    return keras.Model(photo, convolution(WIDTHS[1], 3, "halve", strides=2)(x), name="encoder")


ENCODER_MARGIN = 3  # pixels


def middle():
    """Features of half the photos' size, and styles -> features of half the pictures' size."""
    features, style = keras.Input((None, None, WIDTHS[1]), name="features"), keras.Input((NUMBERS,), name="style")
    parts = iter(split(style))
    x = ops.relu(restyled(features, next(parts)))
    x = convolution(WIDTHS[2], 3, "quarter", strides=2)(mirrored(x, 1))
    x = ops.relu(restyled(x, next(parts)))
    for block in range(BLOCKS):
        y = convolution(WIDTHS[2], 3, f"block{block + 1}_first")(mirrored(x, 1))
        y = ops.relu(restyled(y, next(parts)))
        y = convolution(WIDTHS[2], 3, f"block{block + 1}_second")(mirrored(y, 1))
        x = x + restyled(y, next(parts))
    x = convolution(WIDTHS[1], 3, "double")(mirrored(enlarged(x), 1))
    return keras.Model([features, style], ops.relu(restyled(x, next(parts))), name="middle")


def decoder():
    """Features of half the pictures' size, and styles -> pictures. It takes no statistics, either."""
    features, style = keras.Input((None, None, WIDTHS[1]), name="features"), keras.Input((NUMBERS,), name="style")
    x = enlarged(mirrored(features, DECODER_MARGIN))
    x = convolution(WIDTHS[0], 3, "double_again")(x)
    scale, shift = split(style)[-1]
    x = ops.relu(x * ops.cast(scale, x.dtype) + ops.cast(shift, x.dtype))
    x = convolution(3, 5, "leave")(x)[:, 1:-1, 1:-1]
    return keras.Model([features, style], 128 + 64 * ops.cast(x, "float32"), name="decoder")


DECODER_MARGIN = 2  # of the features


def convolution(filters, side, name, **more):
    return keras.layers.Conv2D(filters, side, padding="valid", name=name, **more)


def mirrored(x, margin):
    """Continue pictures or features to each side by their mirror image."""
    return ops.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), "reflect")


def enlarged(x):
    """Double the sides. A convolution follows; one that itself enlarges leaves a checkerboard (Odena et al. 2016)."""
    return keras.layers.UpSampling2D(2, interpolation="nearest")(x)


def restyled(x, part):
    """Give features N x h x w x C the mean and the deviation that the style has for each channel."""
    scale, shift = part
    wide = ops.cast(x, "float32")
    mean, variance = ops.moments(wide, axes=(1, 2), keepdims=True)
    factor = scale / ops.sqrt(variance + FLOOR)
    return ops.cast(wide * factor + (shift - mean * factor), x.dtype)


def split(style):
    """Take styles N x NUMBERS apart: [(scale, shift), ...] of each normalisation, N x 1 x 1 x C each."""
    parts, begin = [], 0
    for channels in NORMALIZED:
        both = ops.reshape(style[:, begin : begin + 2 * channels], (-1, 1, 1, 2 * channels))
        parts.append((both[..., :channels], both[..., channels:]))
        begin += 2 * channels
    return parts


def plain_style():
    """Return the style that normalises alone: scales of 1 and shifts of 0."""
    return ops.concatenate([x for channels in NORMALIZED for x in (ops.ones(channels), ops.zeros(channels))])


# --- Pictures of any size ----------------------------------------------------------------------


def paint(network, photo, style):
    """Paint a photo of any size, float32 H x W x 3. What has most places goes in strips, which takes less memory."""
    height, width = photo.shape[:2]
    below, right = -height % 4, -width % 4
    x = np.pad(photo, ((0, below), (0, right), (0, 0)), "symmetric")
    looks, paints, shows = (compiled(network.get_layer(name)) for name in ("encoder", "middle", "decoder"))
    features = in_strips(looks, x, 0.5, 2 * DECODER_MARGIN)
    features = np.asarray(paints(features[None], style))[0]
    picture = in_strips(lambda strip: shows(strip, style), features, 2, DECODER_MARGIN)
    return picture[:height, :width]


STRIP = 2**20  # pixels that go through the outer parts at once


def in_strips(part, x, factor, halo):
    """Apply part of a network to pictures or features H x W x C, strip by strip: H * factor x W * factor x K.

    A strip is seen with `halo` rows above and below, as many as reach its own.
    """
    rows = max(4 * halo, STRIP // x.shape[1] // 4 * 4)
    strips = []
    for top in range(0, len(x), rows):
        begin, end = max(0, top - halo), min(len(x), top + rows + halo)
        done = np.asarray(part(x[None, begin:end]))[0]
        skip = int((top - begin) * factor)
        strips.append(done[skip : skip + int(min(rows, len(x) - top) * factor)])
    return np.concatenate(strips)


@functools.lru_cache(maxsize=8)
def compiled(part):
    """Compile part of a network once for photos of all sizes."""
    signature = [tf.TensorSpec((None, None, None, x.shape[3]) if x.ndim == 4 else x.shape) for x in part.inputs]
    return tf.function(lambda *x: part(list(x) if len(x) > 1 else x[0]), input_signature=signature, autograph=False)


# --- Styles on disk ----------------------------------------------------------------------------

STYLES = pathlib.Path(__file__).parent / "trained/styles"
STYLE, NETWORK, META = "style.npz", "network.npz", "meta.json"


@dataclasses.dataclass(frozen=True)
class LearnedStyle:
    """What a network knows of a painting: the numbers of its normalisations, and the painting's colours.

    The colours are their mean, 3, and covariance, 3 x 3, of pixels in 0..255; `network` is the file of the network.
    """

    name: str
    network: pathlib.Path
    numbers: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray

    @property
    def checksum(self):
        """What tells it from all others."""
        arrays = b"".join(np.asarray(x, "float32").tobytes() for x in (self.numbers, self.mean, self.covariance))
        return f"{hashlib.sha256(arrays).hexdigest()[:16]} {checksum(self.network)}"


def load_style(name):
    """Load a style by its name in trained/styles, or by its folder. Raises InputError."""
    folder = next((path for path in (pathlib.Path(name), STYLES / name) if (path / META).is_file()), None)
    if folder is None:
        known = known_styles()
        told = f"those that were are {', '.join(known)}" if known else "train_style.py learns one"
        raise InputError(f"no style {name} was learned{naming.meant(str(name), known)}; {told}")
    meta, path = read_meta(folder), folder / STYLE
    if not meta.get("finished"):
        raise InputError(f"{folder} is not learned yet; train_style.py with --resume goes on")
    if "painting" not in meta:
        styles = " ".join(str(style.parent) for style in sorted(folder.glob(f"*/{STYLE}")))
        raise InputError(f"{folder} is a network of several styles; name one of them: {styles}")
    found = read_arrays(path, {"numbers": (NUMBERS,), "mean": (3,), "covariance": (3, 3)})
    network = next((file for file in (folder / NETWORK, folder.parent / NETWORK) if file.is_file()), None)
    if network is None:
        raise InputError(f"{folder} is a style without its network: {NETWORK} belongs into it, or beside it")
    if meta.get("network") != checksum(network):
        raise InputError(f"{folder} is a style of another network than {network}")
    return LearnedStyle(folder.resolve().name, network, *found)


def known_styles():
    return sorted(str(path.parent.relative_to(STYLES)) for path in STYLES.glob(f"**/{STYLE}"))


def read_meta(folder):
    """Read what is told of a style or of its training, a dict. Raises InputError where it is of something else."""
    try:
        meta = disk.read_json(folder / META)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / META} is damaged: {error}") from error
    if not isinstance(meta, dict) or "paintings" not in meta:
        raise InputError(f"{folder} holds something else than a learned style")
    return meta


def read_arrays(path, shapes):
    """Read arrays of an .npz by name: float32, finite, and of these shapes. Raises InputError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = [np.asarray(file[name], "float32") for name in shapes]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if [x.shape for x in found] != [*shapes.values()] or not all(np.isfinite(x).all() for x in found):
        raise InputError(f"{path} does not fit the network of learned styles")
    return found


def save_style(folder, style, meta):
    """Write a style and what is told of it, a dict, into its folder. The network has been saved before."""
    with disk.whole_file(folder / STYLE) as temporary:
        np.savez(temporary, numbers=style.numbers, mean=style.mean, covariance=style.covariance)
    disk.write_json(folder / META, meta | {"network": checksum(style.network)})


def load_network(path):
    """Load the network from its file, in the precision of the day. Raises InputError."""
    network = build_network()
    shapes = {f"weight_{i}": tuple(weight.shape) for i, weight in enumerate(network.weights)}
    network.set_weights(read_arrays(path, shapes))
    return network


def save_network(path, network):
    """Write the network's weights in half precision, which no eye can tell from single."""
    weights = {f"weight_{i}": np.asarray(weight, "float16") for i, weight in enumerate(network.get_weights())}
    with disk.whole_file(path) as temporary:
        np.savez(temporary, **weights)


def checksum(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def mixed(styles, weights):
    """Mix styles of one network by weights: a LearnedStyle. Raises InputError where they have several networks."""
    if len({checksum(style.network) for style in styles}) > 1:
        names = " and ".join(style.name for style in styles)
        raise InputError(f"{names} are styles of different networks, and only those of one can be mixed")
    shares = np.asarray(weights, "float64") / np.sum(weights)
    numbers, mean, covariance = (
        sum(share * getattr(style, part) for share, style in zip(shares, styles))
        for part in ("numbers", "mean", "covariance")
    )
    return LearnedStyle("+".join(style.name for style in styles), styles[0].network, numbers, mean, covariance)


class Easel:
    """A network, and the style that it paints in, of one or a mixture of several: [(name, weight), ...]."""

    source = None  # of weights that a user could choose

    def __init__(self, styles):
        names, weights = zip(*styles)
        self.style = mixed([load_style(name) for name in names], weights)
        self.network = load_network(self.style.network)

    def paint(self, photo, keep_colors=None, strength=1.0):
        """Paint a photo, float32 H x W x 3 in 0..255, in the painting's strokes, and its colours or the photo's: uint8.

        `keep_colors` is as in config.Style; `strength` is the share of the painting in the result.
        """
        picture = paint_after(self.network, photo, self.style)
        if keep_colors == "luminance":
            picture = imaging.with_colors_of(picture, photo)
        elif keep_colors:
            pixels = photo.reshape(-1, 3).astype("float64")
            picture = imaging.recolored(picture, pixels.mean(0), np.cov(pixels.T))
        return imaging.to_pixels(strength * np.clip(picture, 0, 255) + (1 - strength) * photo)


def paint_after(network, photo, style):
    """Paint a photo in a style, among the colours that the painting's mix to: float32 H x W x 3."""
    begun = imaging.recolored(photo, style.mean, style.covariance)
    picture = paint(network, begun, np.asarray(style.numbers, "float32")[None])
    return (style.mean + (picture - style.mean) @ imaging.color_span(style.covariance)).astype("float32")
