"""The stylization network: it turns a photo of any size into a painting in one pass (after Johnson et al. 2016).

Its inputs are a photo, float32 1 x H x W x 3 in 0..255, noise, and a style vector. Its output is a picture of the
photo's size, whose values may lie slightly outside 0..255. All styles share the convolutions. A style vector holds a
scale and a shift for each normalized channel (Dumoulin et al. 2017), STYLE_DIM numbers in all. Noise is an input
because the network could not place strokes in a uniform flat sky without it (Ulyanov et al. 2016). It is added at a
quarter of the photo's size alone: at half of it, it became a fine grain over the whole picture.

The network has an encoder, a middle part and a decoder. The list MIDDLE defines the middle part. Photos that are
processed as a whole and large photos, which are processed in strips, share this definition. Most of its residual blocks
work at an eighth of the picture's size. There they are cheap, and see enough of the picture to place long strokes. A
residual connection around them passes on the features at a quarter of the size, with their details.
"""

from atelier import backend  # Keras starts quietly

# isort: split
import collections
import dataclasses
import functools
import operator

import keras
import numpy as np
from keras import ops

from atelier import colors, padding

WIDTHS = (16, 32, 80, 128)  # channels at the picture's size, at half of it, at a quarter and at an eighth of it
SIDE_UNIT = 8  # photos are padded to multiples of it
RESIDUAL_BLOCKS = 6  # all but the last at an eighth of the picture's size, and the last at a quarter
NOISE_CHANNELS = 8  # at a quarter of the picture's size
# Standard deviation of the noise when a photo is painted; in a training it is 1. With weaker noise, fewer motifs are
# scattered, and forms join to larger ones. Readers preferred such pictures (docs/numbers.md).
PAINTED_NOISE = 0.25
EPSILON = 0.01  # added to variances. A smaller value would amplify the grain of a flat sky


@dataclasses.dataclass(frozen=True)
class Block:
    """A 3 x 3 convolution of the middle part. Its output is normalized. A ReLU or the end of a residual follows.

    With `takes_noise`, the noise is concatenated to the input. With `smooths`, the output is smoothed before it is
    enlarged. A block with `begins_residual` keeps its input. Residuals can be nested: a block with `ends_residual` adds
    the input of the innermost open one to its output, and has no ReLU.
    """

    name: str
    channels: int
    strides: int = 1
    enlarges: bool = False  # doubles the sides after the convolution
    smooths: bool = False
    takes_noise: bool = False
    begins_residual: bool = False
    ends_residual: bool = False


def residual_block(number, channels):
    """List the two Blocks of a residual block."""
    return [
        Block(f"block{number}_first", channels, begins_residual=True),
        Block(f"block{number}_second", channels, ends_residual=True),
    ]


MIDDLE = [
    Block("quarter", WIDTHS[2], strides=2),
    Block("eighth", WIDTHS[3], strides=2, takes_noise=True, begins_residual=True),
    *(block for number in range(1, RESIDUAL_BLOCKS) for block in residual_block(number, WIDTHS[3])),
    Block("quarter_again", WIDTHS[2], enlarges=True, smooths=True, ends_residual=True),
    *residual_block(RESIDUAL_BLOCKS, WIDTHS[2]),
    Block("double", WIDTHS[1], enlarges=True),
    Block("half_again", WIDTHS[1]),
]

# The numbers of channels that a style vector scales and shifts, in the order of the layers. All are normalized before,
# except those of the last layer, which is in the decoder.
STYLED_CHANNELS = [WIDTHS[1], *(block.channels for block in MIDDLE), WIDTHS[0]]
STYLE_DIM = 2 * sum(STYLED_CHANNELS)

NO_COLOR_CHANGE = np.eye(3), np.zeros(3)
MAX_WHOLE_PIXELS = 2**21  # of a photo that is processed as a whole
STRIP_PIXELS = 2**20  # of one strip of a larger photo
# Rows of a strip, or a multiple, so that both neighbours of a strip have four rows at an eighth of the size. The last
# strip may be shorter.
LEAST_ROWS = 4 * SIDE_UNIT


class StylizationNetwork(keras.Model):
    """[photo, noise, style vector 1 x STYLE_DIM] -> picture. A photo's sides must be multiples of SIDE_UNIT.

    They must be at least three times SIDE_UNIT. draw_noise() makes the noise of a training, and fixed_noise() that of a
    photo that is painted. The model also keeps the functions that are compiled from it.
    """

    def __init__(self):
        photo, style = keras.Input((None, None, 3), name="photo"), keras.Input((STYLE_DIM,), name="style")
        noise = keras.Input((None, None, NOISE_CHANNELS), name="noise")
        features = middle()([encoder()(photo), noise, style])
        super().__init__([photo, noise, style], decoder()([features, style]), name="stylization_network")

    def stylize(self, photo, style, color_change=NO_COLOR_CHANGE, noise_of=None):
        """Turn a photo of any size into a painting, both float32 H x W x 3. `style` is a vector, 1 x STYLE_DIM.

        The noise depends on the photo's size alone, so the result is always the same; films give another noise by
        `noise_of(height, width)`, a function like fixed_noise(). `color_change`, a matrix 3 x 3 and a shift 3, is
        applied to the photo's colours first.
        """
        height, width = photo.shape[:2]
        rows = height if height * width <= MAX_WHOLE_PIXELS else STRIP_PIXELS // width
        rows = -(-max(1, rows) // LEAST_ROWS) * LEAST_ROWS
        strips = cut(photo, rows, color_change)
        noise = (noise_of or fixed_noise)(*map(whole_side, (height, width)))
        if rows < height:
            strips = self.in_strips(strips, rows, noise, style)
        else:
            strips = [self.for_whole(next(strips), noise, style)]
        return np.concatenate([backend.as_array(strip)[0] for strip in strips])[:height, :width]

    def in_strips(self, strips, rows, noise, style):
        """Process a large photo layer by layer: yields strips of the picture.

        `strips` is an iterator of the photo's strips, of `rows` rows each. The normalizations use the statistics of all
        strips, so no seam shows. The features of each layer are an iterator of strips, too. A strip is freed once the
        next layer has used it. So memory holds the features of about one layer and the inputs of two residuals.
        """
        convolutions = self.for_strips
        noise = [noise[:, top : top + rows // 4] for top in range(0, noise.shape[1], rows // 4)]
        x = apply_to_strips(*convolutions["encoder"], strips)
        x = apply_middle(x, noise, style, StripOperations(convolutions))
        return apply_to_strips(*convolutions["decoder"], x, style)

    @functools.cached_property
    def for_whole(self):
        """The network, compiled once for photos of all sizes, or with JAX for a few sizes."""
        if backend.COMPILES_EACH_SIZE:
            return for_padded(self)
        shapes = [(None, None, None, x.shape[3]) if len(x.shape) == 4 else x.shape for x in self.inputs]
        shapes = [(shape, "float32") for shape in shapes]
        return backend.compile_for_shapes(lambda *inputs: self([*inputs]), shapes, self.variables)

    @functools.cached_property
    def for_strips(self):
        """Each part of the network, compiled once for strips of all sizes.

        It is a dict from a part's name to (f, margin). f(above, strip, below, ...) is the compiled part. `margin` is
        the number of rows that it needs above and below the strip, an even number where the part halves the sides.
        """
        encoder, middle, decoder = (self.get_layer(name) for name in ("encoder", "middle", "decoder"))
        parts = {"encoder": (compiled_for_strips(encoder, encoder.variables, 3, "float32"), ENCODER_MARGIN + 1)}
        for block in MIDDLE:
            layer = middle.get_layer(block.name)
            part = functools.partial(convolve, block, layer)
            channels, dtype = layer.kernel.shape[2], layer.compute_dtype
            margin = block.strides + block.enlarges + 2 * block.smooths
            parts[block.name] = compiled_for_strips(part, layer.variables, channels, dtype), margin
        dtype, style = decoder.get_layer("double_again").compute_dtype, ((1, STYLE_DIM), "float32")
        part = compiled_for_strips(lambda *inputs: decoder([*inputs]), decoder.variables, WIDTHS[1], dtype, style)
        return parts | {"decoder": (part, DECODER_MARGIN)}


@functools.lru_cache(maxsize=2)  # the frames of a film have one size
def fixed_noise(height, width):
    """Return the noise of all photos of a size, as draw_noise() does, but weaker."""
    return PAINTED_NOISE * draw_noise(height, width, np.random.default_rng(0))


def draw_noise(height, width, rng):
    """Return noise for a photo: float32 1 x height / 4 x width / 4 x NOISE_CHANNELS, standard normal."""
    return rng.standard_normal((1, height // 4, width // 4, NOISE_CHANNELS), "float32")


# --- The three parts ---------------------------------------------------------------------------


def encoder():
    """Photo -> features of half its size. It needs no statistics, so it can be applied strip by strip."""
    photo = keras.Input((None, None, 3), name="photo")
    enter = keras.layers.Conv2D(WIDTHS[1], 7, name="enter", strides=2)
    return keras.Model(photo, encode(photo, enter), name="encoder")


def encode(photo, enter, size=None):
    """Apply the encoder's layer. `size` is that of the photo without padding, see padding.py."""
    return enter(mirrored(photo / 127.5 - 1, ENCODER_MARGIN, size))


ENCODER_MARGIN = 3  # pixels


def middle():
    """[features of half the photo's size, noise, style vector] -> features of half the picture's size."""
    features, style = keras.Input((None, None, WIDTHS[1]), name="features"), keras.Input((STYLE_DIM,), name="style")
    noise = keras.Input((None, None, NOISE_CHANNELS), name="noise")
    x = apply_middle(features, noise, style, WholeOperations())
    return keras.Model([features, noise, style], x, name="middle")


def apply_middle(x, noise, style, operations):
    """Apply the middle part to the encoder's output.

    Features and noise are tensors with WholeOperations, and iterables of strips with StripOperations.
    """
    parts, kept = iter(split(style)), []
    x = operations.apply(ops.relu, operations.normalize(x, *next(parts)))
    for block in MIDDLE:
        if block.begins_residual:
            x, residual = operations.duplicate(x)
            kept.append(residual)
        if block.takes_noise:
            x = operations.apply(with_noise, x, noise)
        x = operations.normalize(operations.convolve(block, x), *next(parts))
        x = operations.apply(operator.add, x, kept.pop()) if block.ends_residual else operations.apply(ops.relu, x)
    return x


class WholeOperations:
    """The operations of apply_middle() on features that are one tensor, 1 x h x w x C. They create the layers."""

    def apply(self, function, *features):
        return function(*features)

    def duplicate(self, x):
        return x, x

    def convolve(self, block, x):
        return convolve(block, keras.layers.Conv2D(block.channels, 3, strides=block.strides, name=block.name), x)

    def normalize(self, x, scale, shift):
        return InstanceNormalization()(x, scale, shift)


class StripOperations:
    """The operations of apply_middle() on features that are an iterator of strips, 1 x rows x w x C, top to bottom."""

    apply = map

    def __init__(self, convolutions):
        self.convolutions = convolutions

    def duplicate(self, strips):
        strips = collections.deque(strips)
        return iter([*strips]), drained(strips)  # itertools.tee would free no strip before the last one

    def convolve(self, block, strips):
        return apply_to_strips(*self.convolutions[block.name], strips)

    def normalize(self, strips, scale, shift):
        strips = collections.deque(strips)
        mean, variance = moments(strips)

        def normalized(strip):
            return backend.normalize(strip, scale, shift, mean, variance, EPSILON)

        yield from map(normalized, drained(strips))  # a for loop's variable would keep each strip longer


def drained(strips):
    """Yield the strips of a deque and remove each from the deque, so that it can be freed."""
    while strips:
        yield strips.popleft()


def decoder():
    """[features of half the picture's size, style vector] -> picture. It needs no statistics, like the encoder."""
    features, style = keras.Input((None, None, WIDTHS[1]), name="features"), keras.Input((STYLE_DIM,), name="style")
    double_again, leave = ScaledConvolution(WIDTHS[0], 3, name="double_again"), BlockConvolution(3, 5, name="leave")
    return keras.Model([features, style], decode(features, style, double_again, leave), name="decoder")


def decode(features, style, double_again, leave, size=None):
    """Apply the decoder's layers. `size` is that of the features without padding, see padding.py."""
    x = double_again(mirrored(features, 1, size), *split(style)[-1])
    x = mirrored(ops.relu(enlarged(x, size)), 2, None if size is None else 2 * size)
    return 128 + 64 * ops.cast(leave(x), "float32")


DECODER_MARGIN = 3  # places of the features


def split(style):
    """Split a style vector 1 x STYLE_DIM: [(scale, shift), ...] of C channels each, in the order of STYLED_CHANNELS."""
    parts, begin = [], 0
    for channels in STYLED_CHANNELS:
        scale_end, end = begin + channels, begin + 2 * channels
        parts.append((style[0, begin:scale_end], style[0, scale_end:end]))
        begin = end
    return parts


def neutral_style():
    """Return the style vector whose scales are 1 and whose shifts are 0."""
    return ops.concatenate([x for channels in STYLED_CHANNELS for x in (ops.ones(channels), ops.zeros(channels))])


# --- Layers ------------------------------------------------------------------------------------


def convolve(block, layer, x, size=None):
    """Pad features with their mirror image and apply a block's convolution."""
    x = layer(mirrored(x, 1, size))
    if block.smooths:
        x = smoothed(mirrored(x, len(SMOOTHING) // 2, size))
    return enlarged(x, size) if block.enlarges else x


def with_noise(x, noise):
    """Concatenate noise to features of the same size, in their precision."""
    return ops.concatenate([x, ops.cast(noise, x.dtype)], axis=3)


def mirrored(x, margin, size=None):
    """Pad a picture or features with their mirror image on each side. tf.pad takes twice as long on a CPU.

    If `size` is given, the mirror image is that of their upper left part of this size.
    """
    if size is not None:
        return padding.mirrored(x, margin, size)
    left, right = x[:, :, 1 : margin + 1], x[:, :, -margin - 1 : -1]
    x = ops.concatenate([ops.flip(left, 2), x, ops.flip(right, 2)], axis=2)
    above, below = x[:, 1 : margin + 1], x[:, -margin - 1 : -1]
    return ops.concatenate([ops.flip(above, 1), x, ops.flip(below, 1)], axis=1)


def enlarged(x, size=None):
    """Double the sides of features by linear interpolation. `size` is as in mirrored().

    It follows a convolution, since fewer places cost less. A transposed convolution would leave a checkerboard pattern
    (Odena et al. 2016).
    """
    return Enlargement()(x if size is None else padding.with_border_repeated(x, size))


# Weights of a place and of its neighbours. Features that alternate from place to place become zero, and three quarters
# remain of those that repeat every four places. Without smoothing, the network painted grids of dots: the next ReLU
# makes them of a checkerboard at an eighth of the size.
SMOOTHING = (-1 / 16, 1 / 4, 5 / 8, 1 / 4, -1 / 16)


def smoothed(x):
    """Smooth features in both directions. The result has four rows and columns less."""
    last = len(SMOOTHING) - 1
    x = sum(weight * x[:, i : i - last or None] for i, weight in enumerate(SMOOTHING))
    return sum(weight * x[:, :, i : i - last or None] for i, weight in enumerate(SMOOTHING))


class Enlargement(keras.Operation):
    def call(self, x):
        return backend.enlarge(x)

    def compute_output_spec(self, x):
        count, height, width, channels = x.shape
        return keras.KerasTensor((count, height and 2 * height, width and 2 * width, channels), x.dtype)


class ScaledConvolution(keras.layers.Conv2D):
    """A convolution whose output channels are scaled and shifted. Its weights are scaled, because that is cheaper."""

    def call(self, x, scale, shift):
        return ops.conv(x, self.kernel * scale) + (self.bias * scale + shift)


class BlockConvolution(keras.layers.Conv2D):
    """A convolution that computes blocks of 2 x 2 places at once. Its output must have even sides.

    For three output channels, this takes half the time on a CPU: oneDNN computes sixteen in any case.
    """

    def call(self, x):
        places = [(row, col) for row in (0, 1) for col in (0, 1)]
        kernels = [ops.pad(self.kernel, ((row, 1 - row), (col, 1 - col), (0, 0), (0, 0))) for row, col in places]
        x = ops.conv(x, ops.concatenate(kernels, axis=3), strides=2)
        count, height, width, _ = ops.shape(x)
        x = ops.reshape(x, (count, height, width, 2, 2 * self.filters))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4)), (count, 2 * height, 2 * width, self.filters))
        return x + self.bias


class InstanceNormalization(keras.Operation):
    """Give each channel of features 1 x h x w x C the standard deviation `scale` and the mean `shift`."""

    def call(self, x, scale, shift):
        return backend.normalize_instance(x, scale, shift, EPSILON)

    def compute_output_spec(self, x, scale, shift):
        return keras.KerasTensor(x.shape, x.dtype)


# --- Padded photos ------------------------------------------------------------------------------


def for_padded(network):
    """Compile f(photo, noise, style vector) for a StylizationNetwork and photos that are padded to a few sizes."""
    encoder, middle, decoder = (network.get_layer(name) for name in ("encoder", "middle", "decoder"))

    def apply_network(photo, noise, style, size):
        x = encode(photo, encoder.get_layer("enter"), size)
        x = apply_middle(x, noise, style, PaddedOperations(middle, photo.shape[1], size))
        return decode(x, style, decoder.get_layer("double_again"), decoder.get_layer("leave"), size // 2)

    compiled = backend.compile_function(apply_network, variables=network.variables)

    def stylize(photo, noise, style):
        seen, (height, width) = padding.padded(photo), photo.shape[1:3]
        below, right = (seen.shape[i] // 4 - noise.shape[i] for i in (1, 2))
        noise = np.pad(noise, ((0, 0), (0, below), (0, right), (0, 0)))
        return backend.as_array(compiled(seen, noise, style, padding.size_of(photo)))[:, :height, :width]

    return stylize


class PaddedOperations(WholeOperations):
    """The operations of apply_middle() on features of a padded photo, `height` pixels high. `size` is without padding.

    The convolutions are those of the model `middle`.
    """

    def __init__(self, middle, height, size):
        self.middle, self.height, self.size = middle, height, size

    def size_of(self, x):
        return self.size // (self.height // x.shape[1])

    def convolve(self, block, x):
        return convolve(block, self.middle.get_layer(block.name), x, self.size_of(x))

    def normalize(self, x, scale, shift):
        mean, variance = padding.moments(ops.cast(x, "float32"), self.size_of(x))
        return backend.normalize(x, scale, shift, mean, variance, EPSILON)


# --- Strips ------------------------------------------------------------------------------------


def cut(photo, rows, color_change):
    """Change a photo's colours and cut it into strips. Yields the strips, 1 x `rows` x W x 3; the last may be shorter.

    First, the photo is padded with its mirror image until the network can halve its sides three times.
    """
    photo = colors.map_colors(photo, *color_change)
    height, width = photo.shape[:2]
    if (height, width) != (whole_side(height), whole_side(width)):
        more = [(0, whole_side(side) - side) for side in (height, width)]
        photo = np.pad(photo, (*more, (0, 0)), "symmetric")
    for top in range(0, height, rows):
        yield photo[None, top : top + rows]


def whole_side(side):
    """Return the side to which a photo is padded, see cut(). At an eighth of it, smoothed() needs three places."""
    return max(3 * SIDE_UNIT, side + -side % SIDE_UNIT)


def apply_to_strips(part, margin, strips, *more):
    """Apply a part of the network to strips: yields the output strips.

    `part` is from compiled_for_strips(). With each strip, it gets `margin` rows of the strip above and of that below.
    """
    strips = iter(strips)
    strip = next(strips)
    above = strip[:, :0]
    for below in strips:
        output = part(above, strip, below[:, :margin], *more)
        above, strip = strip[:, -margin:], below
        yield output
    yield part(above, strip, strip[:, :0], *more)


def compiled_for_strips(part, variables, channels, dtype, *others):
    """Compile a part of the network as f(above, strip, below, ...). f returns only the output rows of the strip.

    `above` and `below` are rows of the neighbouring strips. `channels` and `dtype` are those of the part's input
    features, and `variables` the part's own. `others` are the shapes and dtypes of its other inputs.
    """

    def apply_part(above, strip, below, *more):
        x = ops.concatenate([above, strip, below], axis=1)
        output = part(x, *more)
        first, count = (ops.shape(rows)[1] * ops.shape(output)[1] // ops.shape(x)[1] for rows in (above, strip))
        return output[:, first : first + count]

    strip = (1, None, None, channels), dtype
    return backend.compile_for_shapes(apply_part, [strip, strip, strip, *others], variables)


def moments(strips):
    """Return the mean and the variance of each channel over all strips."""
    found = [backend.moments(x) for x in strips]
    counts = np.array([x.shape[1] * x.shape[2] for x in strips])[:, None]
    means, variances = (np.array([backend.as_array(x) for x in of_strips], "float64") for of_strips in zip(*found))
    shares = counts / counts.sum()
    mean = (shares * means).sum(0)
    return np.float32(mean), np.float32((shares * (variances + (means - mean) ** 2)).sum(0))
