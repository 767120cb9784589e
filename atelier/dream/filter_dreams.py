"""What the filters of a layer dream of: pictures from nothing, each of which excites one filter.

Pictures are float32 size x size x 3 in 0..255. Several of one filter are unlike each other.
"""

import functools

from atelier import hardware  # noqa: F401, it has TensorFlow start quietly

# isort: split
import numpy as np
from keras import ops

from atelier.dream import fourier_images
from atelier.networks import vision

STEPS = 64
SIDES = 64, 160  # pixels of a dream, at least and at most
UNLIKE = 0.5  # how much of what excites a filter is given up for a picture that is unlike the ones before


class FilterStudio:
    """A visualize_filters.Deconvnet, and the compiled function of how much a picture excites one of its filters.

    It is what an Imaginer takes. `count` is how many pictures there are to be of each filter.
    """

    strengths = ("activation",)

    def __init__(self, network, count):
        self.network, self.model, self.count, self.targets = network, network.model, count, {}
        self.size = self.model.input_shape[1] or int(np.clip(1.5 * network.field.size, *SIDES))
        self.views = functools.partial(fourier_images.random_views, side=self.size, where="part")
        self.evaluate = vision.value_and_gradient(fourier_images.seen_from_elsewhere(self.loss, self.size, "part"))
        self.look = vision.for_any_size(lambda picture: together(network.before_relu(picture)))

    def waves(self, height, width):
        return fourier_images.FORMS, None

    def usual(self, strengths):
        return np.ones(1, "float32")

    def loss(self, picture, targets):
        """Return how much a filter is excited, less how much the picture is like others."""
        x = self.network.before_relu(picture)
        activation = fourier_images.excitement(ops.take(x, ops.cast(targets["channel"], "int32"), axis=3))
        likeness = ops.max(ops.sum(targets["others"] * together(x), axis=(1, 2)))
        return {
            "total": activation - UNLIKE * ops.abs(ops.stop_gradient(activation)) * likeness,
            "activation": activation,
        }

    def dream(self, channel, seed, show=lambda: None):
        """List the pictures that a filter dreams of."""
        pictures, others = [], np.zeros((max(1, self.count - 1), *[self.width] * 2), "float32")
        for number in range(self.count):
            rng = np.random.default_rng((seed, channel, number))
            self.targets = {"channel": np.float32(channel), "others": others}
            imaginer = fourier_images.Imaginer(self, STEPS, fourier_images.RATES["part"])
            pictures.append(imaginer.dream(fourier_images.beginning(self.size, rng), rng, lambda current: show()))
            if number < self.count - 1:
                others[number] = np.asarray(self.look(pictures[-1][None].astype("float32")))
        return pictures

    @functools.cached_property
    def width(self):
        return len(self.look(np.zeros((1, self.size, self.size, 3), "float32")))


def together(x):
    """Return which filters are excited together in features 1 x h x w x C, as if rectified: C x C, of length 1."""
    x = ops.reshape(ops.relu(x), (-1, x.shape[3]))
    products = ops.matmul(ops.transpose(x), x)
    return products / (ops.sqrt(ops.sum(ops.square(products))) + 1e-6)
