"""The small network that paints a photo at once, after any painting that it was taught.

A photo goes in, float32 1 x H x W x 3 in 0..255, and a picture comes out, which may go a little beyond. All paintings
share the convolutions; what it knows of one painting alone are the scales and shifts of their channels (Dumoulin et al.
2017), two thousand numbers, a style. Noise goes in, too: a flat sky is alike everywhere, and strokes have to begin
somewhere (Ulyanov et al. 2016).
"""

import hardware  # noqa: F401, it has TensorFlow start quietly

# isort: split
import functools

import keras
import numpy as np
import tensorflow as tf
from keras import ops

WIDTHS = (16, 32, 96)  # channels at the picture's size, at its half and at its quarter
BLOCKS = 4  # residual blocks, at the quarter
NOISES = 2  # channels of noise, at the half
FLOOR = 0.01  # of variances: else a flat sky's grain would be blown up; its strokes come from the noise that goes in

# The channels that a style scales and shifts; all but the last are normalised before.
NORMALIZED = [WIDTHS[1], WIDTHS[2], *[WIDTHS[2]] * 2 * BLOCKS, WIDTHS[1], WIDTHS[1], WIDTHS[0]]
NUMBERS = 2 * sum(NORMALIZED)  # of a style


def build_network():
    """Build the network (after Johnson et al. 2016): [photo, noise, style 1 x NUMBERS] -> picture.

    A photo's sides are multiples of 4; draw_noise() makes what goes with it.
    """
    photo, style = keras.Input((None, None, 3), name="photo"), keras.Input((NUMBERS,), name="style")
    noise = keras.Input((None, None, NOISES), name="noise")
    x = encoder()(photo)
    x = middle()([x, noise, style])
    return keras.Model([photo, noise, style], decoder()([x, style]), name="painter")


def draw_noise(height, width, rng):
    """Return the noise that goes with a photo: float32 1 x height / 2 x width / 2 x NOISES, standard normal."""
    return rng.standard_normal((1, height // 2, width // 2, NOISES), "float32")


def encoder():
    """Photo -> features of half its size. It takes no statistics, so a large photo may be seen strip by strip."""
    photo = keras.Input((None, None, 3), name="photo")
    x = mirrored(photo / 127.5 - 1, ENCODER_MARGIN)
    x = convolution(WIDTHS[0], 5, "enter", activation="relu")(x)
    return keras.Model(photo, convolution(WIDTHS[1], 3, "halve", strides=2)(x), name="encoder")


ENCODER_MARGIN = 3  # pixels


def middle():
    """Features of half the photo's size, noise, and a style -> features of half the picture's size."""
    features, style = keras.Input((None, None, WIDTHS[1]), name="features"), keras.Input((NUMBERS,), name="style")
    noise = keras.Input((None, None, NOISES), name="noise")
    parts = iter(split(style))
    x = ops.relu(restyled(features, next(parts)))
    x = convolution(WIDTHS[2], 3, "quarter", strides=2)(mirrored(x, 1))
    x = ops.relu(restyled(x, next(parts)))
    for block in range(BLOCKS):
        y = x if block else joined(x, *halved(noise))
        y = convolution(WIDTHS[2], 3, f"block{block + 1}_first")(mirrored(y, 1))
        y = ops.relu(restyled(y, next(parts)))
        y = convolution(WIDTHS[2], 3, f"block{block + 1}_second")(mirrored(y, 1))
        x = x + restyled(y, next(parts))
    x = smoothed(convolution(WIDTHS[1], 3, "double")(enlarged(mirrored(x, 1))))
    x = joined(ops.relu(restyled(x, next(parts))), noise)
    x = convolution(WIDTHS[1], 3, "refine")(mirrored(x, 1))
    return keras.Model([features, noise, style], ops.relu(restyled(x, next(parts))), name="middle")


def decoder():
    """Features of half the picture's size, and a style -> the picture. It takes no statistics, either."""
    features, style = keras.Input((None, None, WIDTHS[1]), name="features"), keras.Input((NUMBERS,), name="style")
    x = enlarged(mirrored(features, DECODER_MARGIN))
    x = ops.relu(smoothed(ScaledConvolution(WIDTHS[0], 3, name="double_again")(x, *split(style)[-1])))
    x = convolution(3, 5, "leave")(x)
    return keras.Model([features, style], 128 + 64 * ops.cast(x, "float32"), name="decoder")


DECODER_MARGIN = 2  # of the features


def halved(noise):
    """List four parts of noise 1 x h x w x C, of half its sides: all of it, and as rough as before (space to depth)."""
    return [noise[:, top::2, left::2] for top in range(2) for left in range(2)]


def joined(x, *more):
    """Join features 1 x h x w x C and more of their size, in their precision."""
    return ops.concatenate([x, *(ops.cast(one, x.dtype) for one in more)], axis=3)


def convolution(filters, side, name, **more):
    return keras.layers.Conv2D(filters, side, padding="valid", name=name, **more)


def mirrored(x, margin):
    """Continue a picture or features to each side by their mirror image; on processors padding takes twice as long."""
    left, right = x[:, :, 1 : margin + 1], x[:, :, -margin - 1 : -1]
    x = ops.concatenate([ops.flip(left, 2), x, ops.flip(right, 2)], axis=2)
    above, below = x[:, 1 : margin + 1], x[:, -margin - 1 : -1]
    return ops.concatenate([ops.flip(above, 1), x, ops.flip(below, 1)], axis=1)


def enlarged(x):
    """Double the sides. A convolution follows; one that itself enlarges leaves a checkerboard (Odena et al. 2016)."""
    return keras.layers.UpSampling2D(2, interpolation="nearest")(x)


def smoothed(x):
    """Turn the copies of each place that enlarging made into linear interpolation, which dots no diagonals.

    It takes a place from each side. Done after a convolution it means the same as before, and there are fewer channels.
    """
    for _ in range(2):
        x = ops.average_pool(x, 2, strides=1, padding="valid")
    return x


class ScaledConvolution(keras.layers.Conv2D):
    """A convolution whose channels are scaled and shifted, which costs nothing where it is done to the weights."""

    def call(self, x, scale, shift):
        return ops.conv(x, self.kernel * scale) + (self.bias * scale + shift)


def restyled(x, part):
    """Give features 1 x h x w x C the mean and the deviation that the style has for each channel."""
    return Normalization()(x, *part)


class Normalization(keras.Operation):
    """Instance normalisation: batch normalisation of a batch of one. On processors its parts take thrice as long."""

    def call(self, x, scale, shift):
        x = tf.ensure_shape(x, (1, None, None, None))
        return tf.compat.v1.nn.fused_batch_norm(x, scale, shift, epsilon=FLOOR)[0]

    def compute_output_spec(self, x, scale, shift):
        return keras.KerasTensor(x.shape, x.dtype)


def split(style):
    """Take a style 1 x NUMBERS apart: [(scale, shift), ...] of C channels each, as NORMALIZED lists them."""
    parts, begin = [], 0
    for channels in NORMALIZED:
        scale_end, end = begin + channels, begin + 2 * channels
        parts.append((style[0, begin:scale_end], style[0, scale_end:end]))
        begin = end
    return parts


def plain_style():
    """Return the style that normalises alone: scales of 1 and shifts of 0."""
    return ops.concatenate([x for channels in NORMALIZED for x in (ops.ones(channels), ops.zeros(channels))])


# --- Pictures of any size ----------------------------------------------------------------------


def paint(network, photo, style):
    """Paint a photo of any size, float32 H x W x 3: the same each time, since the noise depends on its size alone."""
    height, width = photo.shape[:2]
    padded = [np.pad(photo, ((0, -height % 4), (0, -width % 4), (0, 0)), "symmetric")]
    noise = draw_noise(*padded[0].shape[:2], np.random.default_rng(0))
    if height * width <= WHOLE:
        return np.asarray(compiled(network)(padded[0][None], noise, style))[0, :height, :width]
    return paint_in_strips(network, padded, noise, style)[:height, :width]


WHOLE = 2**21  # pixels of the largest photo that is painted as a whole


def paint_in_strips(network, photo, noise, style):
    """Paint a large photo layer by layer, strip by strip, to save memory: `photo` is a list of one, which is emptied.

    The statistics are those of the whole picture all the same, so no seam shows. Features that are read once are
    normalised while they are read.
    """
    encoder, middle, decoder = (network.get_layer(name) for name in ("encoder", "middle", "decoder"))
    parts = iter(split(style))

    def convolved(x, name, line=()):
        factor = {"quarter": 0.5, "double": 2}.get(name, 1)
        convolve = compiled_convolution(middle.get_layer(name), bool(line))
        return in_strips(lambda strip: convolve(strip, *line), x, factor, 2)

    x, moments = in_strips(compiled(encoder), photo.pop(), 0.5, ENCODER_MARGIN + 1)  # strips begin at even rows
    x, moments = convolved(x, "quarter", line_of(moments, next(parts)))
    rectify(x, *line_of(moments, next(parts)))
    for block in range(BLOCKS):
        y = x if block else with_noise(x, *halved(noise))
        y, moments = convolved(y, f"block{block + 1}_first")
        y, moments = convolved(y, f"block{block + 1}_second", line_of(moments, next(parts)))
        add(x, y, *line_of(moments, next(parts)))
    y = None  # its memory is needed
    x, moments = convolved(x, "double")
    rectify(x, *line_of(moments, next(parts)))
    x = with_noise(x, noise)
    x, moments = convolved(x, "refine")
    rectify(x, *line_of(moments, next(parts)))
    return in_strips(lambda strip: compiled(decoder)(strip, style), x, 2, DECODER_MARGIN)[0]


def with_noise(x, *noise):
    """Join features H x W x C and parts of noise 1 x H x W x K, in the features' precision."""
    return np.concatenate([x, *(part[0].astype(x.dtype) for part in noise)], axis=2)


def line_of(moments, part):
    """Return the factor and the offset that give features of these moments the mean and the deviation of a style."""
    mean, variance = moments
    scale, shift = (np.asarray(x, "float64") for x in part)
    factor = scale / np.sqrt(variance + FLOOR)
    return np.float32(factor), np.float32(shift - mean * factor)


def rectify(x, factor, offset):
    """Scale and shift features H x W x C, in their place, and set what is negative to 0."""
    for rows in strips_of(x, 4):
        x[rows] = rectified(x[rows], factor, offset)


def add(x, y, factor, offset):
    """Add features H x W x C to others, in their place, scaled and shifted."""
    for rows in strips_of(x, 4):
        x[rows] = added(x[rows], y[rows], factor, offset)


@functools.partial(tf.function, autograph=False, reduce_retracing=True)
def rectified(x, factor, offset):
    return tf.nn.relu(tf.cast(tf.cast(x, "float32") * factor + offset, x.dtype))


@functools.partial(tf.function, autograph=False, reduce_retracing=True)
def added(x, y, factor, offset):
    return x + tf.cast(tf.cast(y, "float32") * factor + offset, x.dtype)


@functools.lru_cache(maxsize=32)
def compiled_convolution(layer, rectifies):
    """Compile a convolution of the middle for strips of features, which may have to be rectified before."""

    def convolve(x, *line):
        x = rectified(x, *line) if rectifies else x
        x = mirrored(x, 1)
        return smoothed(layer(enlarged(x))) if layer.name == "double" else layer(x)

    channels = layer.kernel.shape[2]
    signature = [tf.TensorSpec((1, None, None, channels), layer.compute_dtype)]
    signature += [tf.TensorSpec((channels,))] * (2 if rectifies else 0)
    return tf.function(convolve, input_signature=signature, autograph=False)


def in_strips(part, x, factor, halo):
    """Apply part of a network to pictures or features H x W x C, strip by strip: H * factor x W * factor x K.

    Returns them and their moments, the mean and the variance of each channel. A strip is seen with `halo` rows above
    and below, as many as reach its own.
    """
    result, found = None, []
    for rows in strips_of(x, 4 * halo):
        begin, end = max(0, rows.start - halo), rows.stop + halo
        first, last = (int(row * factor) for row in (rows.start, rows.stop))
        skip = int((rows.start - begin) * factor)
        done = part(x[None, begin:end])[0, skip : skip + last - first]
        if result is None:
            result = np.empty((int(len(x) * factor), *done.shape[1:]), done.dtype.as_numpy_dtype)
        result[first:last] = done
        found.append((last - first, *map(np.asarray, moments_of(done))))
    return result, merged(found)


@functools.partial(tf.function, autograph=False, reduce_retracing=True)
def moments_of(x):
    height, width, channels = tf.unstack(tf.shape(x))
    _, mean, variance = tf.compat.v1.nn.fused_batch_norm(x[None], tf.ones(channels), tf.zeros(channels))
    count = tf.cast(height * width, "float32")
    return mean, variance * (count - 1) / count  # it is returned as of a sample


def merged(found):
    """Return the mean and the variance of a whole, of whose strips these are the rows, the means and the variances."""
    rows, means, variances = (np.array(x, "float64") for x in zip(*found))
    shares = (rows / rows.sum())[:, None]
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean) ** 2)).sum(0)


STRIP = 2**23  # values that go through a layer at once


def strips_of(x, least):
    """List the rows of each strip of H x W x C: slices that begin at multiples of 4, of `least` rows, but the last."""
    rows = max(least, STRIP // (x.shape[1] * max(x.shape[2], WIDTHS[0])) // 4 * 4)
    return [slice(top, min(top + rows, len(x))) for top in range(0, len(x), rows)]


@functools.lru_cache(maxsize=8)
def compiled(part):
    """Compile part of a network once for photos of all sizes."""
    signature = [tf.TensorSpec((None, None, None, x.shape[3]) if x.ndim == 4 else x.shape) for x in part.inputs]
    return tf.function(lambda *x: part(list(x) if len(x) > 1 else x[0]), input_signature=signature, autograph=False)
