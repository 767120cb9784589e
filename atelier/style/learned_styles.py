"""Learned styles: their files, mixtures of them, and photos painted with them by a network, without a search.

Photos and pictures are float32 H x W x 3 in 0..255. The values of pictures may lie slightly outside this range.
"""

from atelier import backend  # Keras starts quietly

# isort: split
import dataclasses
import hashlib
import math
import pathlib
import zipfile
import zlib

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude

import config
from atelier import colors, disk, imaging, naming
from atelier.errors import InputError
from atelier.style import stylization_network

# --- Styles on disk ----------------------------------------------------------------------------

STYLES = config.ROOT / "trained/styles"
STYLE, NETWORK, META = "style.npz", "network.npz", "meta.json"
REFINED_LAYERS = config.STYLE_DEFAULTS["refined"].style_layers


@dataclasses.dataclass(frozen=True)
class LearnedStyle:
    """A style that a stylization network has learned from a painting.

    `network` is the network's file. `vectors`, 2 x STYLE_DIM, are the style vectors for strokes of the usual size and
    of twice that size. `mean`, 3, and `covariance`, 3 x 3, describe the colours of the painting's pixels in 0..255.
    `statistics` are those of the painting for each of REFINED_LAYERS, as perceptual_loss.statistics returns them.
    `weights` names the weights of VGG16 that they were computed with. --refine needs both.
    """

    name: str
    network: pathlib.Path
    vectors: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    statistics: list | None
    weights: str | None

    # optimization.Search uses a LearnedStyle like an optimization.PaintingMixture, so it has the same attributes:
    paintings = ()

    def color_statistics(self, _):
        return self.mean.astype("float64"), self.covariance.astype("float64")

    def layer_statistics(self, *_, **__):
        return self.statistics

    def vector_for(self, stroke_size):
        """Return the style vector, 1 x STYLE_DIM, for strokes of 1 to 2 times the usual size, or the nearest size."""
        large = min(max(math.log2(stroke_size), 0), 1)
        return (1 - large) * self.vectors[:1] + large * self.vectors[1:]

    @property
    def checksum(self):
        """A checksum of the style and of its network."""
        arrays = b"".join(np.asarray(x, "float32").tobytes() for x in (self.vectors, self.mean, self.covariance))
        return f"{hashlib.sha256(arrays).hexdigest()[:16]} {checksum(self.network)}"


def load_style(name):
    """Load a style by its folder, or by its name in trained/styles here or in this project. Raises InputError."""
    folder = naming.find_trained(name, "trained/styles")
    if not (folder / META).is_file():
        known = naming.known_styles()
        advice = f"the learned styles are {', '.join(known)}" if known else "train_style.py learns one"
        raise InputError(f"there is no learned style {name}{naming.suggestion(str(name), known)}; {advice}")
    meta, path = read_meta(folder), folder / STYLE
    if not meta.get("finished"):
        raise InputError(f"{folder} is not finished; train_style.py with --resume continues the training")
    if "painting" not in meta:
        styles = " ".join(str(style.parent) for style in sorted(folder.glob(f"*/{STYLE}")))
        raise InputError(f"{folder} is a network with several styles; give one of them: {styles}")
    vectors, mean, covariance, scales, *packed = read_arrays(path, style_shapes())
    network = next((file for file in (folder / NETWORK, folder.parent / NETWORK) if file.is_file()), None)
    if network is None:
        raise InputError(f"{folder} is a style without its network; {NETWORK} must be in it or beside it")
    if meta.get("network") != checksum(network):
        raise InputError(f"{folder} belongs to another network than {network}")
    statistics = unpack_statistics(scales, packed)
    return LearnedStyle(folder.resolve().name, network, vectors, mean, covariance, statistics, str(meta.get("weights")))


def read_meta(folder):
    """Read meta.json of a style or of its training: a dict. Raises InputError where the folder holds something else."""
    try:
        meta = disk.read_json(folder / META)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / META} is damaged: {error}") from error
    if not isinstance(meta, dict) or "paintings" not in meta:
        raise InputError(f"{folder} does not hold a learned style")
    return meta


def read_arrays(path, shapes):
    """Read arrays from an .npz: float32, finite, with the names and shapes given. Raises InputError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = [np.asarray(file[name], "float32") for name in shapes if name in file.files]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if [x.shape for x in found] != [*shapes.values()] or not all(np.isfinite(x).all() for x in found):
        raise InputError(
            f"{path} does not fit the stylization network; if an earlier version wrote it, train_style.py can learn it "
            "again"
        )
    return found


def save_style(folder, style, meta):
    """Write a style and its meta.json, a dict, into its folder. The network must have been saved before."""
    arrays = (style.vectors, style.mean, style.covariance, *pack_statistics(style.statistics))
    with disk.whole_file(folder / STYLE) as temporary:
        np.savez(temporary, **dict(zip(style_shapes(), arrays, strict=True)))
    disk.write_json(folder / META, meta | {"network": checksum(style.network)})


def statistics_shapes():
    """List the shapes of a painting's statistics for REFINED_LAYERS, as perceptual_loss.statistics returns them."""
    channels = {"block1": 64, "block2": 128, "block3": 256, "block4": 512}
    counts = [channels[layer.partition("_")[0]] for layer in REFINED_LAYERS]
    return [[(count, count), (1, count)] for count in counts]


def pack_statistics(statistics):
    """Return the scale of each statistic, and each one divided by its scale, in half precision.

    Only the upper half of a symmetric matrix is kept.
    """
    flat = [np.asarray(x) for layer in statistics for x in layer]
    scales = np.float32([np.abs(x).max() or 1 for x in flat])
    packed = [x[np.triu_indices(len(x))] if len(x) > 1 else x[0] for x in flat]
    return [scales, *(np.float16(x / scale) for x, scale in zip(packed, scales))]


def unpack_statistics(scales, packed):
    """Return the statistics that pack_statistics() was called with, rounded to half precision."""
    found = (scale * vector for scale, vector in zip(scales, packed))
    return [[restore_array(next(found), shape) for shape in shapes] for shapes in statistics_shapes()]


def restore_array(half, shape):
    """Convert a vector to an array of a shape. A matrix is symmetric, and the vector holds its upper half."""
    if shape[0] == 1:
        return half.reshape(shape)
    matrix = np.zeros(shape, "float32")
    matrix[np.triu_indices(len(matrix))] = half
    return np.triu(matrix) + np.triu(matrix, 1).T


def style_shapes():
    """Return a dict from the names to the shapes of the arrays in a style's file. "numbers" are the style vectors."""
    shapes = {"numbers": (2, stylization_network.STYLE_DIM), "mean": (3,), "covariance": (3, 3)}
    statistics = [shape for layer_shapes in statistics_shapes() for shape in layer_shapes]
    packed = [(math.comb(columns + 1, 2) if rows > 1 else columns,) for rows, columns in statistics]
    return shapes | {"scales": (len(packed),)} | {f"statistic_{i}": shape for i, shape in enumerate(packed)}


def load_base(base):
    """Return the file of the initial network of a training, or None, and the initial style vectors, 2 x STYLE_DIM.

    `base` is a style's folder, or a network's file or folder, or None. A network's file also holds the mean of the
    style vectors of its training. Raises InputError.
    """
    if base is None:
        return None, np.repeat(backend.as_array(stylization_network.neutral_style())[None], 2, 0)
    if (base / STYLE).is_file():
        style = load_style(base)
        return style.network, style.vectors
    network = base / NETWORK if base.is_dir() else base
    if not network.is_file():
        raise InputError(f"{base} holds neither a learned style nor {NETWORK}; --base takes one of them")
    return network, read_arrays(network, {"mean_style": (2, stylization_network.STYLE_DIM)})[0]


def load_network(path):
    """Load a StylizationNetwork from its file, in the current precision. Raises InputError."""
    network = stylization_network.StylizationNetwork()
    shapes = {f"weight_{i}": tuple(weight.shape) for i, weight in enumerate(network.weights)}
    network.set_weights(read_arrays(path, shapes))
    return network


def save_network(path, network, styles):
    """Write the network's weights and the mean of its style vectors, N x 2 x STYLE_DIM.

    The weights are saved in half precision. The rounding has no visible effect on pictures.
    """
    weights = {f"weight_{i}": np.asarray(weight, "float16") for i, weight in enumerate(network.get_weights())}
    with disk.whole_file(path) as temporary:
        np.savez(temporary, **weights, mean_style=np.mean(styles, axis=0))


def checksum(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def mix_styles(styles, weights):
    """Mix styles of one network by weights: a LearnedStyle. Raises InputError if the networks differ.

    Statistics that were computed with different weights of VGG16 cannot be mixed. The mixture then has no `statistics`
    and no `weights`.
    """
    if len({checksum(style.network) for style in styles}) > 1:
        names = " and ".join(style.name for style in styles)
        raise InputError(
            f"{names} belong to different networks, and only styles of one network can be mixed; a style that "
            "train_style.py learns with --keep-network (and another --output) can be mixed with those that are included"
        )
    alike = len({style.weights for style in styles}) == 1
    shares = np.float32(np.asarray(weights, "float64") / np.sum(weights))

    def mean(values):
        return sum(share * value for share, value in zip(shares, values))

    parts = ([getattr(style, part) for style in styles] for part in ("vectors", "mean", "covariance"))
    statistics = [[mean(same) for same in zip(*layers)] for layers in zip(*(style.statistics for style in styles))]
    refinable = (statistics, styles[0].weights) if alike else (None, None)
    return LearnedStyle("+".join(style.name for style in styles), styles[0].network, *map(mean, parts), *refinable)


class Stylizer:
    """A stylization network and a style. `styles` are [(name, weight), ...]; several are mixed."""

    def __init__(self, styles):
        names, weights = zip(*styles)
        self.style = mix_styles([load_style(name) for name in names], weights)
        self.network = load_network(self.style.network)

    def stylize(self, photo, stroke_size=None, noise_of=None):
        """Paint a photo in the style, from coarse to fine. Photo and result are float32 H x W x 3 in 0..255.

        A style has vectors for strokes of sizes from 1 to 2. For smaller strokes, the photo is painted at a larger
        size. For larger ones, it is painted at each of longest_sides(). From the second on, the painting at the
        previous size replaces the photo where the photo is smooth. So skies get large strokes, and faces keep smaller
        ones. Without `stroke_size`, strokes grow with the photo. The result is not clipped. `noise_of` is as in
        StylizationNetwork.stylize().
        """
        height, width = photo.shape[:2]
        if stroke_size is None:
            stroke_size = np.clip(max(height, width) / USUAL_SIDE, 1, 2)
        ratio = stroke_size / np.clip(stroke_size, 1, 2)
        sizes = [imaging.fit(width, height, longest) for longest in longest_sides(width, height, ratio)]
        if len(sizes) == 1:
            photo = imaging.resize_picture(photo, *sizes[0])
            picture = stylize(self.network, photo, self.style, stroke_size, noise_of)
            if sizes[0] == (width, height):
                return picture
            picture = imaging.resize_picture(picture, width, height)
            return colors.match_colors(picture, self.style.mean, self.style.covariance)  # resizing lowers the contrast
        smooth, difference = smoothness(photo), None
        for size in sizes:
            recolored = colors.match_colors(
                imaging.resize_picture(photo, *size), self.style.mean, self.style.covariance
            )
            start = recolored
            if difference is not None:
                start = imaging.resize_picture(difference, *size)
                start *= imaging.resize_picture(smooth, *size)
                start += recolored
            picture = stylize(self.network, start, self.style, stroke_size, noise_of)
            if size != sizes[-1]:
                difference = picture - recolored
        return picture


USUAL_SIDE = 512  # pixels of the longest side of a photo up to which strokes have their usual size
LEAST_SIDE = 64  # pixels of the shorter side of the smallest size that is painted


def longest_sides(width, height, ratio):
    """List the longest sides, in pixels, of the sizes at which a photo is painted, from coarse to fine.

    The first is the photo's divided by `ratio`, and the last is the photo's own, if that is not smaller. Each
    size is at most twice the previous one.
    """
    longest = max(width, height)
    if ratio <= 1:
        return [longest / ratio]
    ratio = max(1, min(ratio, min(width, height) / LEAST_SIDE))
    count = math.ceil(math.log2(ratio))
    return [longest / ratio ** (step / count) for step in range(count, 0, -1)] + [longest]


def smoothness(photo):
    """Return how smooth a photo is at each place: float32 H x W x 1, from 0, detailed, to 1, uniform.

    For a large photo, H and W are those of a smaller copy.
    """
    height, width = photo.shape[:2]
    small = imaging.resize_picture(photo, *imaging.fit(width, height, min(max(width, height), SMOOTHNESS_SIDE)))
    edges = gaussian_gradient_magnitude(small.mean(axis=2) / 255, EDGE_SIZE)
    detail = gaussian_filter(edges, DETAIL_SIZE * max(small.shape[:2]))
    return 1 / (1 + (detail / DETAIL) ** 2)[..., None]


SMOOTHNESS_SIDE = 512  # pixels of the longest side of that copy
EDGE_SIZE = 0.75  # pixels, the deviation of the Gaussian whose derivative finds edges
DETAIL_SIZE = 0.027  # distance from an edge up to which a place counts as detailed, relative to the longest side
DETAIL = 0.016  # mean change of the greys in 0..1, per pixel, at which a photo counts as half smooth


def stylize(network, photo, style, stroke_size=1, noise_of=None):
    """Paint a photo, float32 H x W x 3, in a style, with strokes of 1 to 2 times their usual size.

    The result, which is not clipped, has the mean and the covariance of the painting's colours. Readers preferred such
    pictures (docs/numbers.md). `noise_of` is as in StylizationNetwork.stylize().
    """
    color_change = colors.color_mapping(photo, style.mean, style.covariance)
    picture = network.stylize(photo, style.vector_for(stroke_size), color_change, noise_of)
    return colors.match_colors(picture, style.mean, style.covariance)


def apply_final_options(picture, photo, keep_colors=None, strength=1.0):
    """Apply --keep-colors and --strength to a picture, float32 H x W x 3 like the photo: uint8.

    With the `keep_colors` "luminance", the result has the photo's hues. With "histogram", it has the mean and the
    covariance of the photo's colours. `strength`, a number or H x W x 1, is the share of the picture in the result. The
    rest is the photo.
    """
    if keep_colors == "luminance":
        picture = colors.with_colors_of(picture, photo)
    elif keep_colors:
        picture = colors.match_colors(picture, *colors.color_statistics(photo))
    if np.min(strength) < 1:
        picture = strength * np.clip(picture, 0, 255) + (1 - strength) * photo
    return imaging.to_pixels(picture)
