"""Pictures of what excites a network, on waves in the colours of photographs, seen from ever elsewhere.

Pictures are float32 H x W x 3 in 0..255. Three things keep noise from paying (Olah, Mordvintsev & Schubert 2017): long
waves grow more easily than short ones; colours grow together as they do in photographs; and at each step the network
sees the picture shifted, scaled and turned at random.
"""

from atelier import hardware  # noqa: F401, it has TensorFlow start quietly

# isort: split
import keras
import numpy as np
import tensorflow as tf
from scipy import fft

from atelier.errors import InputError

# --- The canvas --------------------------------------------------------------------------------

# How red, green and blue go together in photographs: the root of their covariance, along its own axes, that Lucid
# measured on ImageNet's (Olah et al. 2017), of which the longest is 1 long.
COLORS = np.array([[0.26, 0.27, 0.27], [0.09, 0.00, -0.09], [0.02, -0.05, 0.03]], "float32") / 0.462
GREYS = np.float32([[3**-0.5] * 3, [0] * 3, [0] * 3])
DECAY = 1.2  # the weight of waves falls with this power of their frequency, and about so do those of photographs


class Canvas:
    """Waves and the picture that they come to, height x width, in greys alone where the network sees no colours.

    There are no waves shorter than `shortest` pixels, and those longer than `longest` weigh no more than it.
    """

    def __init__(self, height, width, grey=False, longest=None, shortest=None):
        self.colors = GREYS if grey else COLORS
        frequency = np.hypot(np.arange(height)[:, None] / height, np.arange(width) / width)[..., None]  # 1: two pixels
        weights = np.maximum(frequency, 2 / (longest or 2 * max(height, width))) ** -DECAY
        if shortest and shortest > 2:
            weights = np.where(frequency <= 2 / shortest, weights, 1e-6)
        self.weights = (weights / np.sqrt(np.mean(weights**2))).astype("float32")

    def picture(self, waves):
        """Return the picture of waves, float32 H x W x 3."""
        colors = fft.idctn(self.weights * waves, axes=(0, 1), norm="ortho", workers=-1) @ self.colors
        return 255 / (1 + np.exp(-colors))

    def waves(self, picture):
        """Return the waves of a picture: the other way round."""
        shares = np.clip(picture / 255, 0.01, 0.99)
        colors = np.log(shares / (1 - shares)) @ np.linalg.pinv(self.colors)
        return fft.dctn(colors.astype("float32"), axes=(0, 1), norm="ortho", workers=-1) / self.weights

    def gradient(self, gradient, picture):
        """Return the gradient with respect to the waves, of that with respect to their picture."""
        colors = (gradient * picture * (1 - picture / 255)) @ self.colors.T
        return self.weights * fft.dctn(colors, axes=(0, 1), norm="ortho", workers=-1)


# --- What the network sees ---------------------------------------------------------------------

TURN = 15  # degrees at most, either way
WHOLE = {32: 1.2, 160: 2.0}  # by the side that a network sees: small ones know only whole things, about as large
LONGEST = 8  # times the shorter side that is seen: beyond, of photos that are strips, the whole would take much memory
SCALES = {"part": (0.85, 1.15), "middle": (0.9, 1.1)}


def random_views(rng, height, width, side, where, count=1):
    """Choose where the network, which sees `side` pixels each way, sees a picture from: [dict of float32 arrays, ...].

    Of each view there are the size that the picture is scaled to, the middle of what is seen there, and a turn. Where
    the `whole` picture counts, its shorter side is about as long as what is seen, and else it is of its own size; where
    every `part` of it does, there are as many dicts as it takes to see all, side by side.
    """
    offsets = [(0, 0)]
    if where == "part":
        rows, columns = (np.arange(n) * side - (n - 1) / 2 * side for n in (-(-height // side), -(-width // side)))
        offsets = [(down, right) for down in rows for right in columns]
    if where == "whole":
        closest = np.interp(side, [*WHOLE], [*WHOLE.values()])
        scales = rng.uniform(1, closest, count) * side / shorter_side(height, width)
    else:
        scales = rng.uniform(*SCALES[where], count)
    sizes = np.maximum(np.round(scales[:, None] * (height, width)), 2)
    room = {"whole": np.maximum(sizes - side, 0) / 2 + side / 8, "part": side / 8, "middle": side / 32}[where]
    room = side / 4 if len(offsets) > 1 else room  # parts meet ever elsewhere
    middles = (sizes - 1) / 2 + rng.uniform(-1, 1, (count, 2)) * room
    turns = np.radians(rng.uniform(-TURN, TURN, count))

    def turned(down, right):
        return np.stack([np.cos(turns) * down + np.sin(turns) * right, np.cos(turns) * right - np.sin(turns) * down], 1)

    views = [{"sizes": sizes, "middles": middles + turned(*offset), "turns": turns} for offset in offsets]
    return [{name: x.astype("float32") for name, x in of_part.items()} for of_part in views]


def shorter_side(height, width):
    """Return the shorter side of a picture, in pixels, and of a strip so much that all of it may be looked at."""
    return max(min(height, width), max(height, width) / LONGEST)


def seen_from_elsewhere(loss, side, where, count=1):
    """Return the loss of a picture in `count` views, as vision.value_and_gradient takes it; `loss` is of the views."""
    look = view if where == "whole" else view_of_part

    def of_views(picture, targets):
        views = targets["views"]
        seen = [look(picture, views["sizes"][i], views["middles"][i], views["turns"][i], side) for i in range(count)]
        return loss(tf.stack(seen), targets)

    return of_views


def view(picture, size, middle, turn, side):
    """Return what is seen, side x side x 3, of a picture, tensor 1 x H x W x 3, scaled, turned and cut out.

    Beyond its edges it is mirrored.
    """
    scaled = tf.image.resize(picture, tf.cast(size, "int32"), antialias=True)
    return view_of_part(scaled, size, middle, turn, side)


def view_of_part(picture, size, middle, turn, side):
    """Return the same of a picture that is about as large as `size`, without a look at the rest of it."""
    shape = tf.shape(picture)[1:3]
    scale = size / tf.cast(shape, "float32")
    steps = tf.range(side, dtype="float32") - (side - 1) / 2
    down, right = tf.meshgrid(steps, steps, indexing="ij")
    rows = (middle[0] + tf.cos(turn) * down + tf.sin(turn) * right + 0.5) / scale[0] - 0.5
    columns = (middle[1] - tf.sin(turn) * down + tf.cos(turn) * right + 0.5) / scale[1] - 0.5
    return between_pixels(picture[0], inside(rows, shape[0]), inside(columns, shape[1]), shape)


def inside(places, side):
    """Return places mirrored into 0 .. side - 1, as often as need be."""
    last = tf.cast(side, "float32") - 1
    return last - tf.abs(last - tf.math.floormod(places, 2 * last))


def between_pixels(picture, rows, columns, size):
    """Return a picture's values, H x W x 3, at places between its pixels, bilinearly."""
    top = tf.minimum(tf.cast(rows, "int32"), size[0] - 2)
    left = tf.minimum(tf.cast(columns, "int32"), size[1] - 2)
    lower, righter = (rows - tf.cast(top, "float32"))[..., None], (columns - tf.cast(left, "float32"))[..., None]
    pixels = tf.reshape(picture, (-1, picture.shape[2]))

    def row(below):
        first = (top + below) * size[1] + left
        return tf.gather(pixels, first) * (1 - righter) + tf.gather(pixels, first + 1) * righter

    return row(0) * (1 - lower) + row(1) * lower


# --- The ascent --------------------------------------------------------------------------------

# Adam's rate, in waves, by what counts: parts are excited all at once, and a thing comes about slowly.
RATES = {"whole": 0.05, "part": 0.1, "middle": 0.05}
RATE_ON_PHOTO = 0.1  # whose waves are larger
RATE_ON_FRAME = 0.05  # of a film, which is to flow
COLORLESS = 8  # grey levels between the colours of a pixel
BEGIN = 0.01  # how large waves are at first, beside 1
FORMS = 64  # pixels: where all parts are to be excited, longer waves weigh no more


def excitement(x):
    """Return the mean of activations as before their ReLU, a scalar: what is at rest counts little, and not nothing."""
    return keras.ops.mean(keras.ops.leaky_relu(x, 0.1))


def beginning(size, rng):
    """Return a picture, size x size x 3, in which there is next to nothing yet."""
    return Canvas(size, size).picture(rng.normal(0, BEGIN, (size, size, 3)).astype("float32"))


class Imaginer:
    """Gradient ascent in waves by Adam (Kingma & Ba 2015). `history` and `latest` are as pixel_dreams.Dreamer's.

    Of the picture that it begins with, so much is `kept` of each wave.
    """

    def __init__(self, studio, steps, rate, kept=1):
        self.studio, self.steps, self.rate, self.kept = studio, steps, rate, kept
        self.history, self.latest, self.usual = [], None, studio.usual(1)

    def octaves(self, picture):
        """List the one size at which a picture comes about: (width, height)."""
        return [picture.shape[1::-1]]

    def dream(self, picture, rng, show=lambda current: None):
        """Return what a picture, float32 H x W x 3 in 0..255, comes to in its steps."""
        height, width = picture.shape[:2]
        grey = self.studio.model.input_shape[3] == 1 and np.ptp(picture, axis=2).max() < COLORLESS
        canvas = Canvas(height, width, grey, *self.studio.waves(height, width))
        waves = self.kept * canvas.waves(picture)
        mean, square = np.zeros_like(waves), np.zeros_like(waves)
        current = canvas.picture(waves)
        for step in range(1, self.steps + 1):
            gradient = canvas.gradient(self.gradient(current, rng), current)
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            rate = self.rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            waves += rate * mean / (np.sqrt(square) + 1e-12)
            current = canvas.picture(waves)
            show(current)
        return current

    def gradient(self, picture, rng):
        """Return the gradient with respect to a picture, as seen from somewhere."""
        gradient, found = np.zeros_like(picture), []
        for views in self.studio.views(rng, *picture.shape[:2]):
            seen = {"views": views, "usual": self.usual}
            terms, of_views = self.studio.evaluate(picture[None].astype("float32"), self.studio.targets | seen)
            gradient += np.asarray(of_views)[0]
            found.append([float(terms[name]) for name in self.studio.strengths])
        strengths = np.mean(found, axis=0)
        usual = self.studio.usual(strengths)
        self.usual = usual / usual.mean()  # layers beside each other: Adam takes what grows by itself as it comes
        self.history.append(" ".join(f"{strength:.5g}" for strength in strengths))
        if not np.isfinite(gradient).all():
            raise InputError("the gradient was no number any more; try --precision float32 or other layers")
        return gradient
