"""DeepDream on pixels: gradient ascent over octaves from coarse to fine, with gradients computed in tiles.

Pictures are float32 H x W x 3 in 0..255.
"""

import dataclasses
import math

from atelier import backend  # Keras starts quietly

# isort: split
import numpy as np
from scipy import ndimage

from atelier import imaging
from atelier.dream import objectives

SMALLEST_OCTAVE = 16  # pixels of the shorter side
COARSEST = 190  # pixels of the longest side of the first octave

# The square root of the covariance of colours in photographs, which Lucid measured (Olah et al. 2017). Each row sums to
# about 1. Gradients are multiplied by this matrix. Without the matrix, a dream gets garish colours.
COLORS = np.array([[0.477, 0.289, 0.214], [0.289, 0.429, 0.293], [0.214, 0.293, 0.502]], "float32")


class PixelDreamer:
    """Gradient ascent on pixels for an objective (see objectives.py) and all pictures of a command.

    `options` is a config.Dream. FourierDreamer has the same interface.
    """

    def __init__(self, network, objective, options):
        self.objective, self.options = objective, options
        self.tiling = tiling_for(network, options)
        self.evaluate = backend.value_and_gradient(objective.loss, objective.variables)

    def sizes(self, picture):
        """List the (width, height) of each octave, coarse to fine."""
        height, width = picture.shape[:2]
        scale, longest = self.options.octave_scale, max(height, width)
        count = self.options.octaves or 1 + max(0, round(math.log(longest / COARSEST, scale)))
        scales = [scale**-i for i in reversed(range(count))]
        sizes = [(round(width * scale), round(height * scale)) for scale in scales]
        return [size for size in sizes if min(size) >= SMALLEST_OCTAVE] or [(width, height)]

    def dream(self, picture, rng, show=lambda picture, strengths: None, from_noise=False):
        """Dream on a picture, float32 H x W x 3 in 0..255: each octave adds its change to the next one.

        After each step, `show` is called with the new picture and the strengths of the previous one. `from_noise`
        has no effect here. Raises InputError if the gradient becomes NaN or infinite.
        """
        options, sizes, change = self.options, self.sizes(picture), None
        smallest = imaging.resize_picture(picture, *sizes[0])
        normalizer = self.objective.normalizer(self.gradient(smallest, rng, self.objective.normalizer(1))[1])
        for width, height in sizes:
            base = imaging.resize_picture(picture, width, height)
            current = base if change is None else base + imaging.resize_picture(change, width, height)
            for _ in range(options.steps):
                gradient, strengths = self.gradient(current, rng, normalizer)
                normalizer = self.objective.normalizer(strengths)
                current = self.changed(current, gradient)
                show(current, strengths)
            change = current - base
        return options.blend * picture + (1 - options.blend) * current

    def first_frame(self, noise, rng):
        """Return the first frame of a film that starts with noise."""
        return noise

    def next_frame(self, frame, rng):
        """Dream on the previous frame of a film, which is already zoomed and moved."""
        return self.dream(frame, rng)

    def changed(self, picture, gradient):
        """Take a step along the gradient. The mean change is the same for small and for large gradients."""
        options = self.options
        gradient = gradient @ COLORS
        if options.smooth:
            gradient = ndimage.gaussian_filter(gradient, (options.smooth, options.smooth, 0))
        changed = picture + options.step_size / max(np.abs(gradient).mean(), 1e-30) * gradient
        changed = np.clip(changed, 0, 255)
        return ndimage.gaussian_filter(changed, (options.blur, options.blur, 0)) if options.blur else changed

    def gradient(self, picture, rng, normalizer):
        """Return the gradient with respect to a picture, computed tile by tile, and the tiles' mean strengths."""
        objective, strengths = self.objective, []
        gradient = np.empty_like(picture)
        rows, columns = (self.tiling.tiles(side, rng) for side in picture.shape[:2])
        for seen_rows, kept_rows, inner_rows in rows:
            for seen_columns, kept_columns, inner_columns in columns:
                tile = picture[seen_rows][:, seen_columns]
                terms, tile_gradient = self.evaluate(tile[None], {**objective.targets, "normalizer": normalizer})
                gradient[kept_rows, kept_columns] = backend.as_array(tile_gradient)[0, inner_rows, inner_columns]
                strengths.append([float(terms[name]) for name in objective.names])
        objectives.check_gradient(gradient)
        return gradient, np.mean(strengths, axis=0)


NOISE_DEVIATION = 20  # grey levels


def noise(size, rng):
    """Return the picture that a dream from noise starts with: float32 size x size x 3."""
    return np.clip(rng.normal(128, NOISE_DEVIATION, (size, size, 3)), 0, 255).astype("float32")


# --- Tiles -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How a picture is divided into the tiles that the network sees. All lengths are in pixels.

    The sides of a tile are multiples of `stride`, at most `longest` and at least `least`. If there are several tiles,
    each has a `margin` around the part that is kept. The margins prevent seams. The tiles are shifted at random by up
    to `jitter`. Beyond the picture's edges, a tile contains the picture's mirror image.
    """

    longest: int
    margin: int
    stride: int
    jitter: int
    least: int = 1

    def tiles(self, side, rng):
        """Divide one side of a picture into tiles: a list of (indices, kept, inner).

        `indices` are those of the tile's pixels in the picture. `kept` is the slice of the picture whose gradient is
        taken from this tile, and `inner` is the same slice within the tile.
        """
        jitter = min(self.jitter, side // 8)
        shift = int(rng.integers(jitter + 1))
        if side + jitter + self.stride <= self.longest:
            seen = round_up(max(side + jitter, self.least), self.stride)
            return [(mirrored_indices(-shift, seen, side), slice(0, side), slice(shift, shift + side))]
        count = math.ceil((side + jitter) / (self.longest - 2 * self.margin - self.stride))
        kept = math.ceil((side + jitter) / count)
        seen, tiles = round_up(kept + 2 * self.margin, self.stride), []
        for start in range(-shift, -shift + count * kept, kept):
            first, last = max(start, 0), min(start + kept, side)
            if first < last:
                begin = start - self.margin
                indices = mirrored_indices(begin, seen, side)
                tiles.append((indices, slice(first, last), slice(first - begin, last - begin)))
        return tiles


MARGIN = 16
STRIDE = 16  # pixels between neighbouring places of the layers that are usual in dreams
LEAST_SEEN = 96  # pixels that networks without padding need
CLASSIFIER_SIDE = 224  # pixels of the side that a classifier sees if it takes all sizes


def tiling_for(network, options):
    """Return the Tiling for a network.

    If the network's input has a fixed size, or if the dream is of a class, the tiles have no margin. Their longest side
    is then that of the input plus the jitter plus 1.
    """
    longest = objectives.tile_side(options)
    if network.input_side or options.class_ is not None:
        side = (network.input_side or CLASSIFIER_SIDE) + options.jitter + 1
        return Tiling(min(longest, side), margin=0, stride=1, jitter=options.jitter)
    least = STRIDE if network.is_vgg else LEAST_SEEN
    # JAX compiles the dream for each size of a tile, so it gets tiles of few sizes.
    stride = 4 * STRIDE if backend.COMPILES_EACH_SIZE and longest >= 16 * STRIDE else STRIDE
    return Tiling(longest, MARGIN, stride, options.jitter, least)


def round_up(count, multiple):
    return -(-count // multiple) * multiple


def mirrored_indices(begin, count, side):
    """Return `count` indices from `begin` on, an array, into a picture that is continued by its mirror image."""
    indices = np.arange(begin, begin + count) % (2 * side)
    return np.minimum(indices, 2 * side - 1 - indices)
