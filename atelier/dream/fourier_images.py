"""Feature visualization in a decorrelated Fourier basis with random transforms: the picture, its gradient, the ascent.

Pictures are float32 H x W x 3 in 0..255. Three measures prevent pictures that look like noise but excite the network
(Olah, Mordvintsev & Schubert 2017): low frequencies grow more easily than high ones, colours change together as they do
in photographs, and at each step the network sees the picture under random transforms.
"""

import math

from atelier import backend  # Keras starts quietly

# isort: split
import numpy as np
from scipy import fft

import config
from atelier import padding
from atelier.dream import objectives, pixel_dreams, random_transforms

# --- The Fourier image -------------------------------------------------------------------------

# The square root of the covariance of colours in ImageNet's photographs, along its principal axes, as in Lucid (Olah et
# al. 2017). It is divided by the length of the longest axis.
COLORS = np.array([[0.26, 0.27, 0.27], [0.09, 0.00, -0.09], [0.02, -0.05, 0.03]], "float32") / 0.462
GREYS = np.float32([[3**-0.5] * 3, [0] * 3, [0] * 3])
DECAY = 1.2  # coefficients are weighted by frequency ** -DECAY, about as in photographs


class FourierImage:
    """A picture of height x width pixels as the sigmoid of weighted cosine waves in decorrelated colours.

    Waves shorter than `shortest` pixels are left out. Waves longer than `longest` pixels get the weight of a wave of
    that length. With `grey` the picture has no colours.
    """

    def __init__(self, height, width, grey=False, longest=None, shortest=None):
        self.colors = GREYS if grey else COLORS
        # A frequency of 1 is a wave of two pixels.
        frequency = np.hypot(np.arange(height)[:, None] / height, np.arange(width) / width)[..., None]
        weights = np.maximum(frequency, 2 / (longest or 2 * max(height, width))) ** -DECAY
        if shortest and shortest > 2:
            weights = np.where(frequency <= 2 / shortest, weights, 1e-6)
        self.weights = (weights / np.sqrt(np.mean(weights**2))).astype("float32")

    def picture(self, coefficients):
        """Return the picture with these coefficients, float32 H x W x 3 each."""
        colors = fft.idctn(self.weights * coefficients, axes=(0, 1), norm="ortho", workers=-1) @ self.colors
        return 255 / (1 + np.exp(-colors))

    def coefficients(self, picture):
        """Return the coefficients of a picture: the inverse of `picture`, except for colours near 0 or 255."""
        shares = np.clip(picture / 255, 0.01, 0.99)
        colors = np.log(shares / (1 - shares)) @ np.linalg.pinv(self.colors)
        return fft.dctn(colors.astype("float32"), axes=(0, 1), norm="ortho", workers=-1) / self.weights

    def gradient(self, gradient, picture):
        """Convert the gradient with respect to the picture into the gradient with respect to its coefficients."""
        colors = (gradient * picture * (1 - picture / 255)) @ self.colors.T
        return self.weights * fft.dctn(colors, axes=(0, 1), norm="ortho", workers=-1)


INITIAL_DEVIATION = 0.01  # of the coefficients; those of a finished picture have about 1


def nearly_grey(size, rng):
    """Return the picture that a dream from noise starts with: size x size x 3, almost uniformly grey."""
    return FourierImage(size, size).picture(rng.normal(0, INITIAL_DEVIATION, (size, size, 3)).astype("float32"))


# --- Gradient ascent ---------------------------------------------------------------------------

# Adam's learning rates, by scope. "part" has a larger one: the parts of a picture change independently of each other,
# while a single object forms slowly.
RATES = {"whole": 0.05, "part": 0.1, "middle": 0.05}
PHOTO_RATE = 0.1  # a photo's coefficients are larger
FRAME_RATE = 0.05  # frames should differ little
FRAME_DECAY = 0.97  # factor of each frame's coefficients; without it a long film becomes black and white
COLORFUL = 8  # grey levels; a picture is grey if the colours of each pixel differ by less
LONGEST = 64  # pixels: with the scope "part", longer waves have the weight of a wave of this length


class Adam:
    """Adam (Kingma & Ba 2015) for arrays like `start`.

    keras.optimizers.Adam makes the same pictures, but takes 10 to 20 ms longer in each step. On small pictures that is
    as long as the network takes.
    """

    def __init__(self, rate, start):
        self.rate, self.count = rate, 0
        self.mean, self.square = np.zeros_like(start), np.zeros_like(start)

    def step(self, gradient):
        """Return the change of the variables along `gradient`, in whose direction the loss grows."""
        self.count += 1
        self.mean += 0.1 * (gradient - self.mean)
        self.square += 0.001 * (gradient**2 - self.square)
        rate = self.rate * np.sqrt(1 - 0.999**self.count) / (1 - 0.9**self.count)
        return rate * self.mean / (np.sqrt(self.square) + 1e-12)


class FourierAscent:
    """Gradient ascent by Adam on Fourier images: for one objective, and for any number of pictures.

    At each step the network sees `count` transforms of the picture, each `side` x `side` pixels. See objectives.py for
    the interface of an objective.
    """

    def __init__(self, objective, side, count=1):
        self.objective, self.side, self.count = objective, side, count
        loss = random_transforms.with_transforms(objective.loss, side, objective.scope, count)
        self.evaluate = backend.value_and_gradient(loss, objective.variables)

    def ascend(self, picture, rng, steps, rate, decay=1, show=lambda picture, strengths: None):
        """Take `steps` steps from a picture, float32 H x W x 3 in 0..255, and return the new picture.

        First, the picture's coefficients are multiplied by `decay`. After each step, `show` is called with the new
        picture and the strengths of the previous picture. Raises InputError if the gradient becomes NaN or infinite.
        """
        image = self.fourier_image(picture)
        coefficients = decay * image.coefficients(picture)
        adam = Adam(rate, coefficients)
        normalizer = self.objective.normalizer(1)
        picture = image.picture(coefficients)
        for _ in range(steps):
            gradient, strengths = self.gradient(picture, rng, normalizer)
            normalizer = self.objective.normalizer(strengths)
            normalizer = normalizer / normalizer.mean()  # only their ratios matter: Adam scales the gradient
            coefficients += adam.step(image.gradient(gradient, picture))
            picture = image.picture(coefficients)
            show(picture, strengths)
        return picture

    def fourier_image(self, picture):
        """Return the Fourier image for a picture. It is grey if both the picture and the network's input are grey."""
        height, width = picture.shape[:2]
        grey = self.objective.input_channels == 1 and np.ptp(picture, axis=2).max() < COLORFUL
        longest, shortest = None, None
        if self.objective.scope == "whole":  # finer details are invisible to the network even at the largest scale
            shortest = random_transforms.shorter_side(height, width) / self.side
        else:
            longest = LONGEST if self.objective.scope == "part" else 2 * self.side
        return FourierImage(height, width, grey, longest, shortest)

    def gradient(self, picture, rng, normalizer):
        """Return the gradient with respect to a picture under random transforms, and the mean strengths."""
        gradient, strengths, objective = np.zeros_like(picture), [], self.objective
        height, width = picture.shape[:2]
        seen = picture[None].astype("float32")
        if objective.scope == "whole":
            seen = padding.padded(seen)
        for transforms in random_transforms.choose_transforms(
            rng, height, width, self.side, objective.scope, self.count
        ):
            filled = np.float32([height, width])
            targets = objective.targets | {"transforms": transforms, "normalizer": normalizer, "filled": filled}
            terms, part = self.evaluate(seen, targets)
            gradient += backend.as_array(part)[0, :height, :width]
            strengths.append([float(terms[name]) for name in objective.names])
        objectives.check_gradient(gradient)
        return gradient, np.mean(strengths, axis=0)


class FourierDreamer:
    """Dreams on Fourier images for an objective (see objectives.py) and all pictures of a command.

    `options` is a config.Dream. PixelDreamer has the same interface.
    """

    def __init__(self, network, objective, options):
        self.objective, self.options, self.scope = objective, options, objective.scope
        least = 1 if network.is_vgg else pixel_dreams.LEAST_SEEN
        side = network.input_side or max(side_seen(objective.scope, options), least)
        self.ascent = FourierAscent(objective, side, count=2 if objective.scope == "whole" else 1)

    def sizes(self, picture):
        """Return a list with one (width, height), the picture's: this dream has no octaves."""
        return [picture.shape[1::-1]]

    def dream(self, picture, rng, show=lambda picture, strengths: None, from_noise=False):
        """Dream on a photo, or on noise if `from_noise`; see FourierAscent.ascend."""
        rate = RATES[self.scope] if from_noise else PHOTO_RATE
        return self.ascent.ascend(picture, rng, self.options.steps, rate, show=show)

    def first_frame(self, noise, rng):
        """Return the first frame of a film that starts with noise: the same dream as without --zoom."""
        kind = "waves_class" if self.scope == "whole" else "waves"
        return self.ascent.ascend(noise, rng, config.DREAM_DEFAULTS[kind].steps, RATES[self.scope])

    def next_frame(self, frame, rng):
        """Dream on the previous frame of a film, which is already zoomed and moved."""
        return self.ascent.ascend(frame, rng, self.options.steps, FRAME_RATE, FRAME_DECAY)


def side_seen(scope, options):
    """Return the side, in pixels, of the square that a network without a fixed input size sees of a Fourier image."""
    if scope == "whole":
        return pixel_dreams.CLASSIFIER_SIDE
    if scope == "middle":
        return min(options.size, pixel_dreams.CLASSIFIER_SIDE)
    return math.ceil(options.size / math.ceil(options.size / objectives.tile_side(options)))
