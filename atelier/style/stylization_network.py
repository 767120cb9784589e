"""The small network that paints a photo at once, after any painting that it was taught.

A photo goes in, float32 1 x H x W x 3 in 0..255, and a picture comes out, which may go a little beyond. All paintings
share the convolutions; what it knows of one painting alone are the scales and shifts of their channels (Dumoulin et al.
2017), two thousand numbers, a style. Noise goes in, too: a flat sky is alike everywhere, and strokes have to begin
somewhere (Ulyanov et al. 2016).
"""

from atelier import hardware  # noqa: F401, it has TensorFlow start quietly

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
        return batch_norm(tf.ensure_shape(x, (1, None, None, None)), scale, shift)[0]

    def compute_output_spec(self, x, scale, shift):
        return keras.KerasTensor(x.shape, x.dtype)


batch_norm = functools.partial(tf.compat.v1.nn.fused_batch_norm, epsilon=FLOOR)  # of one picture


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

UNCHANGED = np.eye(3), np.zeros(3)


def paint(network, photo, style, before=UNCHANGED, after=UNCHANGED):
    """Paint a photo of any size, float32 H x W x 3: the same each time, since the noise depends on its size alone.

    `before` and `after` change the colours of the photo and of the picture: a matrix, 3 x 3, and a shift, 3.
    """
    height, width = photo.shape[:2]
    rows = height if height * width <= WHOLE else STRIP // width
    strips = cut(photo, max(8, -(-rows // 8) * 8), before)
    noise = draw_noise(*(side + -side % 4 for side in (height, width)), np.random.default_rng(0))
    if len(strips) == 1:
        strips = [compiled(network)(strips.pop(), noise, style)]
    else:
        strips = paint_strips(network, strips, noise, style)
    strips = for_each(lambda strip: changed(strip.numpy()[0], after), strips)
    return np.concatenate(strips)[:height, :width]


WHOLE = 2**21  # pixels of the largest photo that is painted as a whole
STRIP = 2**20  # pixels of a larger one that go through a layer at once


def cut(photo, rows, change):
    """Cut a photo whose colours are changed into strips 1 x `rows` x W x 3; the last has what is left of it.

    Its sides are continued to multiples of 4, since the network halves them twice.
    """
    photo = changed(photo, change)
    height, width = photo.shape[:2]
    if height % 4 or width % 4:
        photo = np.pad(photo, ((0, -height % 4), (0, -width % 4), (0, 0)), "symmetric")
    return [photo[None, top : top + rows] for top in range(0, height, rows)]


def changed(picture, change):
    """Change the colours of a picture H x W x 3 by a matrix and a shift."""
    matrix, shift = (np.asarray(x, "float32") for x in change)
    picture = picture @ matrix
    picture += shift
    return picture


def paint_strips(network, x, noise, style):
    """Paint a large photo, strips that are emptied, layer by layer to save memory: a list of strips, 1 x h x W x 3.

    Features are strips, too, and those that nothing needs any more are forgotten one by one. The statistics are those
    of the whole picture all the same, so no seam shows.
    """
    layers, parts = compiled_for_strips(network), iter(split(style))
    rows = x[0].shape[1] // 2
    noise = [noise[:, top : top + rows] for top in range(0, noise.shape[1], rows)]

    def restyled_strips(name, x):
        """Apply a layer, and give what comes out the mean and the deviation that the style has for each channel."""
        x = in_strips(*layers[name], x)
        scale, shift = next(parts)
        mean, variance = moments(x)
        return for_each(lambda strip: batch_norm(strip, scale, shift, mean, variance, is_training=False)[0], x)

    x = for_each(tf.nn.relu, restyled_strips("encoder", x))
    x = for_each(tf.nn.relu, restyled_strips("quarter", x))
    for block in range(BLOCKS):
        # Copies of the list: x itself is needed until y is added to it.
        y = list(x) if block else [joined(strip, *halved(part)) for strip, part in zip(x, noise)]
        y = for_each(tf.nn.relu, restyled_strips(f"block{block + 1}_first", y))
        x = for_each(tf.add, x, restyled_strips(f"block{block + 1}_second", y))
    x = for_each(tf.nn.relu, restyled_strips("double", x))
    x = for_each(tf.nn.relu, restyled_strips("refine", for_each(joined, x, noise)))
    return in_strips(*layers["decoder"], x, style)


def for_each(function, *lists):
    """Apply a function to each strip of a list, or of several lists side by side. The lists are emptied."""
    return [function(*(strips.pop(0) for strips in lists)) for _ in range(len(lists[0]))]


def in_strips(part, halo, strips, *more):
    """Apply part of a network, as compiled_for_strips() has it, to each strip of a list, which is emptied."""
    done, above = [], strips[0][:, :0]
    while strips:
        strip = strips.pop(0)
        below = strips[0][:, :halo] if strips else strip[:, :0]
        done.append(part(above, strip, below, *more))
        above = strip[:, -halo:]
    return done


@functools.lru_cache(maxsize=2)
def compiled_for_strips(network):
    """Compile each part of a network for strips of all sizes.

    Returns a dict: by name f(above, strip, below, ...), and how many rows above and below it should see: as many as
    reach into what it returns and, where sides are halved, an even number.
    """
    encoder, middle, decoder = (network.get_layer(name) for name in ("encoder", "middle", "decoder"))
    parts = {"encoder": (for_strips(encoder, 3, "float32"), ENCODER_MARGIN + 1)}
    for layer in middle.layers:
        if isinstance(layer, keras.layers.Conv2D):
            convolve, channels = functools.partial(convolved, layer), layer.kernel.shape[2]
            parts[layer.name] = for_strips(convolve, channels, layer.compute_dtype), layer.strides[0]
    dtype, numbers = decoder.get_layer("double_again").compute_dtype, tf.TensorSpec((1, NUMBERS))
    parts["decoder"] = for_strips(lambda *x: decoder([*x]), WIDTHS[1], dtype, numbers), DECODER_MARGIN
    return parts


def convolved(layer, x):
    """Apply a convolution of the middle to features whose border is mirrored."""
    x = mirrored(x, 1)
    return smoothed(layer(enlarged(x))) if layer.name == "double" else layer(x)


def for_strips(part, channels, dtype, *others):
    """Compile a part of a network for strips between the rows above and below, and for `others`, TensorSpecs."""

    def of_strip(above, strip, below, *more):
        x = tf.concat([above, strip, below], axis=1)
        done = part(x, *more)
        first, count = (tf.shape(rows)[1] * tf.shape(done)[1] // tf.shape(x)[1] for rows in (above, strip))
        return done[:, first : first + count]

    strip = tf.TensorSpec((1, None, None, channels), dtype)
    return tf.function(of_strip, input_signature=[strip, strip, strip, *others], autograph=False)


def moments(strips):
    """Return the mean and the variance of each channel of features, all their strips together."""
    found = [batch_norm(x, tf.ones(x.shape[3]), tf.zeros(x.shape[3]))[1:3] for x in strips]
    counts = np.array([x.shape[1] * x.shape[2] for x in strips])[:, None]
    means, variances = (np.array(x, "float64") for x in zip(*found))
    variances *= (counts - 1) / counts  # they are returned as of samples
    shares = counts / counts.sum()
    mean = (shares * means).sum(0)
    return np.float32(mean), np.float32((shares * (variances + (means - mean) ** 2)).sum(0))


@functools.lru_cache(maxsize=8)
def compiled(part):
    """Compile part of a network once for photos of all sizes."""
    signature = [tf.TensorSpec((None, None, None, x.shape[3]) if x.ndim == 4 else x.shape) for x in part.inputs]
    return tf.function(lambda *x: part(list(x) if len(x) > 1 else x[0]), input_signature=signature, autograph=False)
