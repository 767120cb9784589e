"""Learned styles: what the painting network knows of paintings, on disk and mixed, and photos painted after them.

Photos are float32 H x W x 3 in 0..255, and so are pictures, which may go a little beyond.
"""

from atelier import hardware  # noqa: F401, it has TensorFlow start quietly

# isort: split
import dataclasses
import hashlib
import math
import pathlib
import zipfile
import zlib

import numpy as np

import config
from atelier import colors, disk, imaging, naming
from atelier.errors import InputError
from atelier.style import stylization_network

# --- Styles on disk ----------------------------------------------------------------------------

STYLES = config.ROOT / "trained/styles"
STYLE, NETWORK, META = "style.npz", "network.npz", "meta.json"


@dataclasses.dataclass(frozen=True)
class LearnedStyle:
    """What a network knows of a painting: the numbers of its normalisations, and the painting's colours.

    The colours are their mean, 3, and covariance, 3 x 3, of pixels in 0..255; `network` is the file of the network.
    What a search on from there needs are the painting's `statistics`, as style_losses has them of each of
    config.STYLE_LAYERS, and the name of the `weights` of the VGG16 that they were taken with.
    """

    name: str
    network: pathlib.Path
    numbers: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    statistics: list | None
    weights: str | None

    # As optimization.Search asks for what it knows of paintings:
    paintings = ()

    def colors(self, _):
        return self.mean.astype("float64"), self.covariance.astype("float64")

    def style(self, *_, **__):
        return self.statistics

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
        raise InputError(f"no style {name} was learned{naming.suggestion(str(name), known)}; {told}")
    meta, path = read_meta(folder), folder / STYLE
    if not meta.get("finished"):
        raise InputError(f"{folder} is not learned yet; train_style.py with --resume goes on")
    if "painting" not in meta:
        styles = " ".join(str(style.parent) for style in sorted(folder.glob(f"*/{STYLE}")))
        raise InputError(f"{folder} is a network of several styles; name one of them: {styles}")
    numbers, mean, covariance, scales, *halves = read_arrays(path, style_shapes())
    network = next((file for file in (folder / NETWORK, folder.parent / NETWORK) if file.is_file()), None)
    if network is None:
        raise InputError(f"{folder} is a style without its network: {NETWORK} belongs into it, or beside it")
    if meta.get("network") != checksum(network):
        raise InputError(f"{folder} is a style of another network than {network}")
    statistics = unpacked(scales, halves)
    return LearnedStyle(folder.resolve().name, network, numbers, mean, covariance, statistics, str(meta.get("weights")))


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
        raise InputError(f"{path} does not fit the network of learned styles; it may be an earlier version's")
    return found


def save_style(folder, style, meta):
    """Write a style and what is told of it, a dict, into its folder. The network has been saved before."""
    arrays = (style.numbers, style.mean, style.covariance, *packed(style.statistics))
    with disk.whole_file(folder / STYLE) as temporary:
        np.savez(temporary, **dict(zip(style_shapes(), arrays, strict=True)))
    disk.write_json(folder / META, meta | {"network": checksum(style.network)})


def statistics_shapes():
    """List the shapes of a painting's statistics, layer by layer, as perceptual_loss.statistics returns them."""
    channels = {"block1": 64, "block2": 128, "block3": 256, "block4": 512, "block5": 512}
    counts = [channels[layer.partition("_")[0]] for layer in config.STYLE_LAYERS]
    return [[(count, count), (1, count)] for count in counts]


def packed(statistics):
    """Return how large each statistic is, and all of them divided by that in half precision, symmetric ones by half."""
    flat = [np.asarray(x) for layer in statistics for x in layer]
    scales = np.float32([np.abs(x).max() or 1 for x in flat])
    halves = [x[np.triu_indices(len(x))] if len(x) > 1 else x[0] for x in flat]
    return [scales, *(np.float16(x / scale) for x, scale in zip(halves, scales))]


def unpacked(scales, halves):
    """Return the statistics that packed() was given, as well as half precision kept them."""
    found = (scale * half for scale, half in zip(scales, halves))
    return [[unfolded(next(found), shape) for shape in shapes] for shapes in statistics_shapes()]


def unfolded(half, shape):
    """Make a vector an array of a shape, the upper half of a symmetric matrix both its halves."""
    if shape[0] == 1:
        return half.reshape(shape)
    matrix = np.zeros(shape, "float32")
    matrix[np.triu_indices(len(matrix))] = half
    return np.triu(matrix) + np.triu(matrix, 1).T


def style_shapes():
    """Return the names and the shapes of the arrays in a style's file."""
    shapes = {"numbers": (stylization_network.NUMBERS,), "mean": (3,), "covariance": (3, 3)}
    statistics = [shape for shapes in statistics_shapes() for shape in shapes]
    halves = [(math.comb(columns + 1, 2) if rows > 1 else columns,) for rows, columns in statistics]
    return shapes | {"scales": (len(halves),)} | {f"statistic_{i}": shape for i, shape in enumerate(halves)}


def beginning(base):
    """Return what a training begins with: the file of a network, or None, and the numbers of a style.

    `base` is a style's folder, or the file of a network, or the folder that it is in, or None. A painting that a
    network does not know is near the mean of those that it was taught. Raises InputError.
    """
    if base is None:
        return None, np.asarray(stylization_network.plain_style())
    if (base / STYLE).is_file():
        style = load_style(base)
        return style.network, style.numbers
    network = base / NETWORK if base.is_dir() else base
    if not network.is_file():
        raise InputError(f"{base} holds neither a learned style nor {NETWORK}; --base takes one of these")
    return network, read_arrays(network, {"mean_style": (stylization_network.NUMBERS,)})[0]


def load_network(path):
    """Load the network from its file, in the precision of the day. Raises InputError."""
    network = stylization_network.build_network()
    shapes = {f"weight_{i}": tuple(weight.shape) for i, weight in enumerate(network.weights)}
    network.set_weights(read_arrays(path, shapes))
    return network


def save_network(path, network, styles):
    """Write the network's weights, in half precision, which no eye can tell from single, and the mean of its styles."""
    weights = {f"weight_{i}": np.asarray(weight, "float16") for i, weight in enumerate(network.get_weights())}
    with disk.whole_file(path) as temporary:
        np.savez(temporary, **weights, mean_style=np.mean(styles, axis=0))


def checksum(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def mixed(styles, weights):
    """Mix styles of one network by weights: a LearnedStyle. Raises InputError where they have several networks.

    Statistics that were taken with different weights of VGG16 don't mix: then it has none, and no `weights`.
    """
    if len({checksum(style.network) for style in styles}) > 1:
        names = " and ".join(style.name for style in styles)
        raise InputError(f"{names} are styles of different networks, and only those of one can be mixed")
    alike = len({style.weights for style in styles}) == 1
    shares = np.float32(np.asarray(weights, "float64") / np.sum(weights))

    def mean(parts):
        return sum(share * part for share, part in zip(shares, parts))

    of_all = ([getattr(style, part) for style in styles] for part in ("numbers", "mean", "covariance"))
    statistics = [[mean(same) for same in zip(*layers)] for layers in zip(*(style.statistics for style in styles))]
    refinable = (statistics, styles[0].weights) if alike else (None, None)
    return LearnedStyle("+".join(style.name for style in styles), styles[0].network, *map(mean, of_all), *refinable)


class Easel:
    """A network, and the style that it paints in, of one or a mixture of several: [(name, weight), ...]."""

    def __init__(self, styles):
        names, weights = zip(*styles)
        self.style = mixed([load_style(name) for name in names], weights)
        self.network = load_network(self.style.network)

    def paint(self, photo):
        """Paint a photo, float32 H x W x 3 in 0..255, in the painting's strokes and colours: like it, not clipped."""
        return paint_after(self.network, photo, self.style)


def as_wanted(picture, photo, keep_colors=None, strength=1.0):
    """Return what was painted, float32 H x W x 3 like the photo, in its colours or the photo's: uint8.

    `keep_colors` is luminance, which takes the photo's hues, or histogram, which gives the result the mean and the
    covariance of the photo's colours; `strength` is the share of the painting in the result.
    """
    if keep_colors == "luminance":
        picture = colors.with_colors_of(picture, photo)
    elif keep_colors:
        pixels = photo.reshape(-1, 3).astype("float64")
        picture = colors.match_colors(picture, pixels.mean(0), np.cov(pixels.T))
    if strength < 1:
        picture = strength * np.clip(picture, 0, 255) + (1 - strength) * photo
    return imaging.to_pixels(picture)


def paint_after(network, photo, style):
    """Paint a photo in a style, among the colours that the painting's mix to: float32 H x W x 3."""
    before = colors.color_mapping(photo, style.mean, style.covariance)
    span = colors.color_projection(style.covariance)
    after = span, style.mean - style.mean @ span
    return stylization_network.paint(network, photo, style.numbers[None], before, after)
