"""The loss of a large picture and its gradient, computed tile by tile. The memory needed is that of one tile.

The style loss depends on sums over all places of the picture: Gram matrices and means of features. The first pass over
the tiles adds up these sums. The second pass computes each tile's gradient, given the derivatives of the loss with
respect to the sums. A tile is a window of the picture. It has a border as wide as the network sees, in which no place
counts. So the result is that of the whole picture, up to rounding, and has no seams.
"""

from atelier import backend  # Keras starts quietly

# isort: split
import dataclasses
import math
import tempfile

import keras
import numpy as np
from keras import ops

from atelier.style import perceptual_loss

TILE = 640  # largest side of a window in pixels
ALIGNMENT = 32  # pixels; VGG's five pooling layers then divide a window as they divide the picture

# --- Tiles -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Tile:
    """A window of a picture, and its inner part, where features count. Both are (rows, columns): slices in pixels.

    The inner parts of all tiles are the whole picture without overlap.
    """

    window: tuple[slice, slice]
    inner: tuple[slice, slice]

    def inner_at(self, stride):
        """Return (rows, columns) of the inner part in features with this stride, counted from the window's corner."""
        corners = (outer.start for outer in self.window)
        return tuple(
            slice((inner.start - corner) // stride, (inner.stop - corner) // stride)
            for inner, corner in zip(self.inner, corners)
        )

    def mask_at(self, stride):
        """Return 1 where features with this stride count and 0 elsewhere: float32 1 x h x w x 1."""
        height, width = ((outer.stop - outer.start) // stride for outer in self.window)
        mask = np.zeros((1, height, width, 1), "float32")
        mask[0][self.inner_at(stride)] = 1
        return mask


def pixels_in_tiles(height, width, border=32):
    """Return the number of pixels in the windows of all tiles of a picture, for the time that they take."""
    rows, columns = (spans(side, border) for side in (height, width))
    return math.prod(sum(window.stop - window.start for window, _ in side) for side in (rows, columns))


def tiles_of(picture, border):
    """List the Tiles of a picture. `border` is the width of a window's border in pixels, a multiple of ALIGNMENT."""
    rows, columns = (spans(side, border) for side in picture.shape[:2])
    return [Tile((row, column), (y, x)) for row, y in rows for column, x in columns]


def spans(side, border):
    """List (slice of a window, slice of its inner part) along a side of a picture."""
    count = max(1, math.ceil((side - 2 * border) / (TILE - 2 * border)))
    length = (side - 2 * border) / count
    inner = [round((border + i * length) / ALIGNMENT) * ALIGNMENT for i in range(1, count)]
    return [
        (slice(max(0, begin - border), min(side, end + border)), slice(begin, end))
        for begin, end in zip([0, *inner], [*inner, side])
    ]


def border_of(layers, names):
    """Return how far a VGG's features of these names see, in pixels: a multiple of ALIGNMENT. `layers` are all."""
    last = max(i for i, layer in enumerate(layers) if layer.name in names)
    seen, stride = 0, 1
    for layer in layers[: last + 1]:
        if isinstance(layer, keras.layers.Conv2D):
            seen += stride  # 3 x 3
        else:
            stride *= 2
    return math.ceil(seen / ALIGNMENT) * ALIGNMENT


# --- The loss ----------------------------------------------------------------------------------


class TiledLoss:
    """The loss of a perceptual_loss.PerceptualLoss for style transfer, `model`, in tiles.

    `options` are those of the model, and may name fewer layers. `regions` is the number of regions of --regions.
    Pictures are float32 H x W x 3 in 0..255.
    """

    def __init__(self, model, options, regions=1):
        self.options, self.regions = options, regions
        layers = [*options.content_layers, *options.style_layers]
        self.border = border_of(model.layers, layers)
        self.features = model.extractor(layers)
        self.features_of_style = model.extractor(options.style_layers)
        if options.content_layers:
            self.content = backend.for_any_size(model.extractor(options.content_layers), model.variables)
        guide = ((1, None, None, regions), "float32")
        shapes = [((1, None, None, 3), "float32"), *[guide] * len(options.style_layers)]
        self.sums_of_tile = backend.compile_for_shapes(self.sums, shapes, model.variables)
        self.style_and_derivatives = backend.value_and_gradient(self.style_of_sums)
        self.tile_and_gradient = backend.value_and_gradient(self.tile_terms, model.variables)

    def statistics(self, picture):
        """Return what PerceptualLoss.statistics() returns for a picture. There must be one region."""
        sums = keras.tree.map_structure(ops.convert_to_tensor, self.sums_of(picture, tiles_of(picture, self.border)))
        return [perceptual_loss.centered(*layer[0], self.options.published_losses) for layer in sums]

    def content_of(self, picture, folder):
        """Return the ContentFeatures of a photo, in a temporary file in `folder`."""
        features = ContentFeatures(folder)
        for tile in tiles_of(picture, self.border) if self.options.content_layers else ():
            found = self.content(picture[tile.window][None])
            strides = map(perceptual_loss.stride_of, self.options.content_layers)
            features.append([backend.as_array(x)[0][tile.inner_at(s)] for x, s in zip(found, strides)])
        return features

    def loss_and_gradient(self, picture, targets):
        """Return the terms of the loss, floats, and the gradient of the total, float32 H x W x 3.

        `targets` has the ContentFeatures of the photo as "content", and the statistics of each style layer and region
        as "style". With regions it has their "areas" and, for each style layer, the "guides" of the whole picture, see
        perceptual_loss.guided_statistics().
        """
        tiles, options = tiles_of(picture, self.border), self.options
        guides, areas = targets.get("guides"), targets.get("areas", np.ones(1, "float32"))
        sums = self.sums_of(picture, tiles, guides)
        vector = np.concatenate([part.ravel() for layer in sums for pair in layer for part in pair])
        style, derivatives = self.style_and_derivatives(vector, {"style": targets["style"], "areas": areas})
        terms = {"style": float(style["total"]), "content": 0.0, "tv": 0.0}
        fixed = {"derivatives": unpacked(backend.as_array(derivatives), targets["style"])}
        fixed["tv_factor"] = np.float32(1 if options.published_losses else 1 / (255**2 * picture.size))
        fixed["factors"] = targets["content"].factors(options.published_losses)
        fixed["scale"] = np.float32(len(tiles))
        gradient = np.zeros_like(picture)
        for place, tile in enumerate(tiles):
            own = fixed | self.targets_of(tile, place, targets["content"], guides, picture.shape)
            found, part = self.tile_and_gradient(picture[tile.window][None], own)
            gradient[tile.window] += backend.as_array(part)[0] / len(tiles)
            for name in ("content", "tv"):
                terms[name] += float(found[name])
        weights = {"content": options.content_weight, "style": options.style_weight, "tv": options.tv_weight}
        return perceptual_loss.with_total({name: terms[name] for name in weights}, **weights), gradient

    # --- The passes over the tiles ---

    def sums_of(self, picture, tiles, guides=None):
        """Return the sums of all tiles: [[(Gram matrix C x C, mean 1 x C) of each region] of each style layer]."""
        totals = None
        for tile in tiles:
            found = self.sums_of_tile(picture[tile.window][None], *self.guides_of(tile, guides, picture.shape))
            found = keras.tree.map_structure(lambda x: backend.as_array(x).astype("float64"), found)
            totals = keras.tree.map_structure(np.add, totals, found) if totals else found
        return keras.tree.map_structure(np.float32, totals)

    def guides_of(self, tile, guides, shape):
        """List a tile's guides, 1 x h x w x R, for each style layer: 0 outside its inner part."""
        found = []
        for i, layer in enumerate(self.options.style_layers):
            stride = perceptual_loss.stride_of(layer)
            share = 1 / math.sqrt((shape[0] // stride) * (shape[1] // stride))
            if guides is not None:
                rows, columns = (slice(side.start // stride, side.stop // stride) for side in tile.window)
                share = guides[i][:, rows, columns]
            found.append(np.float32(share) * tile.mask_at(stride))
        return found

    def targets_of(self, tile, place, content, guides, shape):
        """Return the targets of tile_terms() for one of the tiles, the one at this `place` in their list."""
        strides = [perceptual_loss.stride_of(layer) for layer in self.options.content_layers]
        masks = [tile.mask_at(stride) for stride in strides]
        bases = []
        for base, mask, stride in zip(content.read(place), masks, strides):
            bases.append(np.zeros((*mask.shape[:3], base.shape[2]), "float32"))
            bases[-1][0][tile.inner_at(stride)] = base
        of_content = {"content": bases, "masks": masks, "tv_mask": tile.mask_at(1)}
        return of_content | {"guides": self.guides_of(tile, guides, shape)}

    # --- The functions that are compiled ---

    def sums(self, picture, *guides):
        """List the sums of a tile, 1 x h x w x 3: for each style layer and region a Gram matrix and a mean."""
        return [self.guided_sums(x, guide) for x, guide in zip(self.features_of_style(picture), guides)]

    def guided_sums(self, features, guides):
        return [perceptual_loss.guided_sums(features, guides[..., r : r + 1]) for r in range(self.regions)]

    def style_of_sums(self, vector, targets):
        """Return the style term as the total. `vector` has the sums of all tiles."""
        distances = []
        for sums, bases in zip(unpacked(vector, targets["style"]), targets["style"]):
            found = [perceptual_loss.centered(*pair, self.options.published_losses) for pair in sums]
            distances.append(
                sum(
                    targets["areas"][r] * perceptual_loss.style_distance(base, found[r], self.options)
                    for r, base in enumerate(bases)
                )
            )
        return {"total": perceptual_loss.style_term(distances, self.options)}

    def tile_terms(self, picture, targets):
        """Return the terms of a tile, 1 x h x w x 3. The gradient of its total is the tile's share of the gradient.

        It is multiplied by targets["scale"], because it would underflow in float16. The style loss is replaced by its
        linear approximation at the sums of all tiles.
        """
        options, found, count = self.options, self.features(picture), len(self.options.content_layers)
        content = sum(
            factor * ops.sum(mask * ops.square(perceptual_loss.compared(base, x, options) - base))
            for base, x, mask, factor in zip(targets["content"], found, targets["masks"], targets["factors"])
        )
        style = sum(
            ops.sum(derivative * part)
            for x, guides, layer in zip(found[count:], targets["guides"], targets["derivatives"])
            for pair, derivatives in zip(self.guided_sums(x, guides), layer)
            for part, derivative in zip(pair, derivatives)
        )
        tv = targets["tv_factor"] * variation(picture, targets["tv_mask"])
        terms = {"content": ops.cast(content, "float32"), "style": style, "tv": tv}
        weights = {"content": options.content_weight, "style": options.style_weight, "tv": options.tv_weight}
        terms = perceptual_loss.with_total(terms, **weights)
        return terms | {"total": targets["scale"] * terms["total"]}


def unpacked(vector, bases):
    """Return the sums in a vector as [[(Gram matrix C x C, mean 1 x C) of each region] of each style layer].

    `bases` are statistics with the same numbers of layers, regions and channels.
    """
    place, layers = 0, []
    for regions in bases:
        layers.append([])
        for base in regions:
            channels, mean = base[0].shape[0], place + base[0].shape[0] ** 2
            gram = ops.reshape(vector[place:mean], (channels, channels))
            place = mean + channels
            layers[-1].append((gram, ops.reshape(vector[mean:place], (1, channels))))
    return layers


def variation(x, mask):
    """Return the squared differences to the lower and the right neighbour, summed where `mask`, 1 x h x w x 1, is 1."""
    _, height, width, channels = ops.shape(x)
    shape = (1, height - 1, width - 1, channels)
    here, lower, right = (ops.slice(x, start, shape) for start in ((0, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0)))
    counted = ops.slice(mask, (0, 0, 0, 0), (1, height - 1, width - 1, 1))
    return ops.sum(counted * (ops.square(lower - here) + ops.square(right - here)))


class ContentFeatures:
    """The content features of a photo's tiles, in a temporary file. They are too large for the memory.

    The file has no name, so it disappears with the process. It holds single precision if the network has it, or half.
    """

    def __init__(self, folder):
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, it is closed with the search
        self.shapes = []
        single = keras.config.dtype_policy().name == "float32"
        self.dtype = np.dtype("float32" if single else "float16")
        self.sums = []  # of the squares, for each layer

    def append(self, features):
        """Write the features of the next tile, float32 h x w x C for each layer."""
        self.shapes.append((self.file.tell(), [x.shape for x in features]))
        squares = [float(np.sum(np.square(x, dtype="float64"))) for x in features]
        self.sums = [a + b for a, b in zip(self.sums or [0.0] * len(squares), squares)]
        for x in features:
            self.file.write(x.astype(self.dtype).tobytes())
        self.file.flush()

    def read(self, place):
        """List the features of a tile, h x w x C for each layer."""
        if not self.shapes:  # a texture has no photo
            return []
        position, shapes = self.shapes[place]
        self.file.seek(position)
        return [
            np.frombuffer(self.file.read(self.dtype.itemsize * math.prod(s)), self.dtype).reshape(s) for s in shapes
        ]

    def factors(self, published):
        """List the factor of each layer's squared differences in the content term."""
        return [np.float32(1 / (1 if published else max(total, 1e-6)) / len(self.sums)) for total in self.sums]
