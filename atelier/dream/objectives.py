"""The objectives of dreams: the strength of layers, channels or a neuron, similarity to a guide, or a class's logit.

An objective has
- `loss(pictures, targets)`: a function for backend.value_and_gradient, of pictures N x H x W x 3 in 0..255. It returns
  a dict of scalars: "total", which is maximized, and the strength for each of `names`;
- `names`: the names of the strengths: layers, "logit" or "activation";
- `normalizer(strengths)`: the numbers by which the strengths of the next step are divided, float32;
- `targets`: a dict of what `loss` needs, without the "normalizer";
- `scope`: the area of a picture that a Fourier dream strengthens (see random_transforms.py);
- `variables`: the network's Keras variables;
- `input_channels`: 1 if the network sees grey levels, or 3.
"""

import dataclasses
import functools
import math
import sys
import typing

from atelier import backend, hardware  # Keras starts quietly

# isort: split
import keras
import numpy as np
from keras import ops

import config
import util
from atelier import errors, imaging, naming
from atelier.networks import classifiers, pretrained, vision

# --- The network -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Network:
    """A loaded network: its Keras model, its preprocessing, and the source of its weights.

    `is_own` is true for a network of the user.
    """

    model: keras.Model
    preprocess: typing.Callable
    source: str
    is_own: bool

    @property
    def is_vgg(self):
        return not self.is_own and self.model.name in ("vgg16", "vgg19")

    @property
    def input_side(self):
        """The height in pixels that pictures are resized to, or None if the network takes all sizes."""
        return self.model.input_shape[1]

    @property
    def input_channels(self):
        return self.model.input_shape[3]

    def features(self, layers, rectified=True):
        """Return f(pictures) -> [features of each layer], as vision.network_features does."""
        if self.is_vgg and rectified:
            return vision.feature_extractor(self.model, layers)
        return vision.network_features(self.model, self.preprocess, layers, rectified)


def load_network(options):
    """Load the network of `options`, a config.Dream, and print the device and the weights. Raises InputError."""
    device = hardware.use_precision(options.precision, "convolutions")
    classifier = naming.own_classifier(options.convnet)
    network = Network(
        *pretrained.load_network(
            classifier or options.convnet, options.weights, options.class_ is not None, options.input_range
        ),
        is_own=classifier is not None,
    )
    if not options.quiet:
        name = classifier or naming.network_name(options.convnet)
        description = f"the weights {network.source}"
        if classifier:
            description = f"the input {classifiers.input_preprocessing(network.model, options.input_range)[1]}"
        print(f"device: {device}; {name} with {description}", file=sys.stderr)
    return network


def make_objective(network, options):
    """Return the objective of `options`, a config.Dream. Raises InputError if the network lacks the layer or class."""
    if options.class_ is not None:
        return ClassObjective(network, options)
    if options.guide:
        return GuideObjective(network, options)
    if options.neuron:
        return NeuronObjective(network, options)
    if options.channels and options.canvas == "waves":
        return ChannelObjective(network, options)
    return LayerObjective(network, options)


def check_gradient(gradient):
    """Raise InputError if a gradient is NaN or infinite."""
    if not np.isfinite(gradient).all():
        raise errors.InputError("the gradient became NaN or infinite; try --precision float32 or other layers")


# --- Classes -----------------------------------------------------------------------------------


class ClassObjective:
    """The logit of a class (Simonyan, Vedaldi & Zisserman 2014).

    It is not the probability, which also grows when the other classes become less likely.
    """

    names, scope = ("logit",), "whole"

    def __init__(self, network, options):
        count = max(2, network.model.outputs[0].shape[1])
        if options.class_ >= count:
            raise errors.InputError(f"there is no class {options.class_}; {options.convnet} has {count}")
        self.classify = functools.partial(vision.classify, network.model, network.preprocess)
        self.input_channels, self.targets = network.input_channels, {}
        self.variables = network.model.variables
        self.number, self.tv_weight = options.class_, options.tv_weight

    def normalizer(self, strengths):
        return np.ones(1, "float32")

    def loss(self, pictures, targets):
        logit = ops.mean(self.classify(pictures)[:, self.number])
        return {"total": logit - self.tv_weight * util.mean_variation(pictures), "logit": logit}


# --- Layers ------------------------------------------------------------------------------------


class LayerObjective:
    """The mean square of layers' activations, or of some channels of one layer (Mordvintsev, Olah & Tyka 2015)."""

    scope = "part"

    def __init__(self, network, options):
        self.weights = naming.parse_layers(options.layers) or default_layers(network.model, options)
        check_layers(network.model, self.weights, options)
        self.names = list(self.weights)
        self.channels, self.tv_weight, self.on_fourier = options.channels, options.tv_weight, options.canvas == "waves"
        self.features = network.features(self.names, rectified=not (self.on_fourier and self.channels))
        self.input_channels, self.targets = network.input_channels, {}
        self.variables = network.model.variables

    def normalizer(self, strengths):
        """Return the strengths of the previous step. Divided by them, all layers have the same influence."""
        return np.maximum(np.abs(np.broadcast_to(strengths, len(self.names))), 1e-9).astype("float32")

    def loss(self, pictures, targets):
        features = [self.selected(x) for x in self.features(pictures)]
        strengths = [self.strength(x, targets, i) for i, x in enumerate(features)]
        weighted = zip(self.weights.values(), strengths)
        total = sum(weight * strength / targets["normalizer"][i] for i, (weight, strength) in enumerate(weighted))
        variation = self.tv_weight * util.mean_variation(pictures)
        return {"total": total - variation, **dict(zip(self.names, strengths))}

    def selected(self, features):
        """Return the chosen channels of features N x h x w x C; on a Fourier image, without the edges."""
        if self.channels:
            features = ops.take(features, self.channels, axis=3)
        return without_edges(features) if self.on_fourier else features

    def strength(self, features, targets, layer):
        """Return the strength of the selected features of a layer, whose place in `names` is `layer`."""
        return ops.mean(ops.square(features))


class ChannelObjective(LayerObjective):
    """The mean activation of channels, on a Fourier image."""

    def strength(self, features, targets, layer):
        return mean_activation(features)


class NeuronObjective(LayerObjective):
    """The activation of channels in the middle of a Fourier image."""

    scope = "middle"

    def strength(self, features, targets, layer):
        return ops.mean(features[:, ops.shape(features)[1] // 2, ops.shape(features)[2] // 2])


class GuideObjective(LayerObjective):
    """The similarity of a picture's features to those of a guide.

    For each place of the picture, it is the largest dot product of the place's features with those of a place of the
    guide. The strength is the mean over the picture's places.
    """

    def __init__(self, network, options):
        super().__init__(network, options)
        self.targets = {"guide": self.features_of_guide(options)}

    def features_of_guide(self, options):
        """Return the guide's features: for each layer a tensor, places x C. Raises InputError for a narrow guide."""
        picture = imaging.load_image(options.guide)
        width, height = imaging.fit(*picture.shape[1::-1], GUIDE_SIDE)
        if min(width, height) < SMALLEST_GUIDE:
            raise errors.InputError(
                f"{options.guide} would be resized to {width} x {height} pixels; a guide needs {SMALLEST_GUIDE}"
            )
        found = backend.for_any_size(self.features, self.variables)(
            imaging.resize_picture(picture, width, height)[None]
        )
        if self.channels:
            found = [ops.take(x, self.channels, axis=3) for x in found]
        flat = [ops.reshape(x, (-1, x.shape[3])) for x in found]
        # Each place of a tile is compared with each of these places of the guide. An early layer has too many places,
        # so only every n-th place is returned.
        return [x[:: math.ceil(len(x) ** 2 * (tile_side(options) / GUIDE_SIDE) ** 2 / MAX_COMPARED)] for x in flat]

    def strength(self, features, targets, layer):
        guide = targets["guide"][layer]
        products = ops.matmul(ops.reshape(features, (-1, features.shape[3])), ops.transpose(guide))
        return ops.mean(ops.max(products, axis=1))


GUIDE_SIDE = 224  # pixels of the guide's longer side
SMALLEST_GUIDE = 32  # pixels of its shorter side
MAX_COMPARED = 1e8  # pairs of a place of a tile and a place of the guide
EDGE = 2  # places that are left out at each edge


def without_edges(features):
    """Return features N x h x w x C without the places at the edges: the network's padding activates these."""
    height, width = ops.shape(features)[1:3]
    # JAX slices by integers only, and TensorFlow's compiled functions know the sides as tensors.
    top, left = (min(x // 8, EDGE) if isinstance(x, int) else ops.minimum(x // 8, EDGE) for x in (height, width))
    return features[:, top : height - top, left : width - left]


def mean_activation(x):
    """Return the mean of activations before their ReLU, a scalar. Negative activations are multiplied by 0.1.

    So the gradient is not zero where a channel is not active yet.
    """
    return ops.mean(ops.leaky_relu(x, 0.1))


def tile_side(options):
    """Return the longest side that the network sees at once, in pixels. It is shorter for large pictures (memory)."""
    return options.tile or (640 if options.size <= 2000 else 400)


def default_layers(model, options):
    """Return the default layers of a dream: a dict from layer to weight.

    They are the layers of published dreams of this network. If there are none, it is the last layer at a sixteenth of
    the picture's size.
    """
    if naming.own_classifier(options.convnet) is None:
        published = config.DREAM_LAYERS.get(naming.network_name(options.convnet))
        if published:
            return naming.parse_layers(published)
    return {vision.layer_at_stride(model, 16): 1.0}


def check_layers(model, layers, options):
    """Raise InputError for a layer that the network lacks or that has no rows and columns, or for a missing channel."""
    channels = vision.layers_with_places(model)
    for name in layers:
        if name in vision.layers_of(model) and name not in channels:
            raise errors.InputError(f"{name} has no rows and columns; --list-layers lists the layers that have them")
    naming.check_names(layers, list(channels), options.convnet)
    for channel in options.channels:
        if len(layers) > 1:
            raise errors.InputError(
                f"--channels are of one layer, and the dream has {len(layers)}; give one with --layers"
            )
        (name,) = layers
        if not 0 <= channel < channels[name]:
            raise errors.InputError(f"{name} has the channels 0 to {channels[name] - 1}, and no {channel}")
