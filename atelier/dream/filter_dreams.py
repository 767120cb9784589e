"""Dreams of filters: pictures that start as noise and excite one filter of a layer.

The pictures of one filter differ in their forms (Olah, Mordvintsev & Schubert 2017). Pictures are float32 size x size x
3 in 0..255.
"""

from atelier import backend  # Keras starts quietly

# isort: split
import numpy as np
from keras import ops
from tqdm import tqdm

from atelier.dream import fourier_images, objectives

STEPS = 64
SIDES = 64, 160  # pixels of a picture, at least and at most
DIVERSITY = 0.5  # weight of the similarity to the filter's earlier pictures, as a share of the activation


class FilterObjective:
    """The mean activation of one filter, reduced by the similarity to other pictures of this filter.

    `network` is a Deconvnet. `targets` contains "channel", the filter's number, and "others", `count` x C x C: the
    coactivations() of earlier pictures, which the new picture should not resemble. See objectives.py for the interface.
    """

    names, scope = ("activation",), "part"

    def __init__(self, network, count):
        self.network, self.input_channels = network, network.model.input_shape[3]
        self.variables = network.model.variables
        self.no_others = np.zeros((max(1, count), network.width, network.width), "float32")
        self.targets = {"channel": np.float32(0), "others": self.no_others}

    def normalizer(self, strengths):
        return np.ones(1, "float32")

    def loss(self, pictures, targets):
        x = self.network.before_relu(pictures)
        activation = objectives.mean_activation(ops.take(x, ops.cast(targets["channel"], "int32"), axis=3))
        similarity = ops.max(ops.sum(targets["others"] * coactivations(x), axis=(1, 2)))
        reduction = DIVERSITY * ops.abs(ops.stop_gradient(activation)) * similarity
        return {"total": activation - reduction, "activation": activation}


class FilterDreamer:
    """Dreams of a Deconvnet's filters: `count` pictures of each."""

    def __init__(self, network, count):
        self.count, self.objective = count, FilterObjective(network, count - 1)
        self.size = network.model.input_shape[1] or int(np.clip(1.5 * network.field.size, *SIDES))
        self.ascent = fourier_images.FourierAscent(self.objective, self.size)
        self.coactivations_of = backend.for_any_size(
            lambda picture: coactivations(network.before_relu(picture)), self.objective.variables
        )

    def dream(self, channel, seed, show=lambda: None):
        """List the pictures of a filter; `show` is called after each step."""
        pictures, others = [], self.objective.no_others.copy()
        for number in range(self.count):
            rng = np.random.default_rng((seed, channel, number))
            self.objective.targets = {"channel": np.float32(channel), "others": others}
            start = fourier_images.nearly_grey(self.size, rng)
            rate = fourier_images.RATES["part"]
            pictures.append(self.ascent.ascend(start, rng, STEPS, rate, show=lambda *_: show()))
            if number < self.count - 1:
                others[number] = backend.as_array(self.coactivations_of(pictures[-1][None].astype("float32")))
        return pictures


def coactivations(x):
    """Return the coactivation of each pair of filters: the sum over all places of the product of their activations.

    `x` are features 1 x h x w x C before their ReLU, which is applied here. The result, C x C, is divided by its norm.
    """
    x = ops.reshape(ops.relu(x), (-1, x.shape[3]))
    products = ops.matmul(ops.transpose(x), x)
    return products / (ops.sqrt(ops.sum(ops.square(products))) + 1e-6)


def dreams_of_filters(network, channels, count, seed, quiet=False):
    """Return `count` pictures of each filter of a Deconvnet: a dict from channel to a list."""
    if not count:
        return dict.fromkeys(channels, [])
    dreamer = FilterDreamer(network, count)
    total = len(channels) * count * STEPS
    with tqdm(total=total, unit="step", leave=False, disable=True if quiet else None) as bar:
        return {channel: dreamer.dream(channel, seed, bar.update) for channel in channels}
