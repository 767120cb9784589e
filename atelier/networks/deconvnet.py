"""A deconvolutional network: finds a filter's strongest activations in pictures, and projects them back to pixels.

Pictures are H x W x 3 in 0..255; a layer's activations are float32 h x w x C (Zeiler & Fergus 2014).
"""

import dataclasses

from atelier import backend  # Keras starts quietly

# isort: split
import keras
import numpy as np
from tqdm import tqdm

from atelier import naming
from atelier.errors import InputError
from atelier.networks import vision


@dataclasses.dataclass(frozen=True)
class Activation:
    """How strongly a filter is activated, in which picture, and at which row and column of its layer's output."""

    strength: float
    picture: int
    row: int
    column: int
    channel: int


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """The receptive field of a position (row or column) in a layer's output, along one side of the picture.

    A field has `size` pixels. The fields of neighbouring positions are `stride` pixels apart, and the first field is
    centred on pixel `start`.
    """

    size: int = 1
    stride: int = 1
    start: float = 0.0

    def after(self, kernel, stride, padding):
        """Return the field after one more layer with this kernel size, this stride and this padding at the start."""
        return ReceptiveField(
            self.size + (kernel - 1) * self.stride,
            self.stride * stride,
            self.start + ((kernel - 1) / 2 - padding) * self.stride,
        )

    def first_pixel(self, place):
        """Return the first pixel row (or column) in the field of output row (or column) `place`; it may be below 0."""
        return round(self.start + place * self.stride - (self.size - 1) / 2)


class Deconvnet:
    """A network up to one of its layers (default: the last convolution), and the projection back to pixels.

    `preprocess` turns pictures N x H x W x 3 in 0..255 into the network's input. Raises InputError if the network is
    not a chain of layers that can be inverted.
    """

    def __init__(self, model, preprocess, layer=None):
        self.model, self.preprocess = model, preprocess
        self.layer = layer or last_convolution(model)
        self.chain = chain_up_to(model, self.layer)
        self.width = self.chain[-1].output.shape[3]
        self.field = ReceptiveField()
        for step in self.chain:
            self.field = self.field.after(*window_of(step))
        self.compiled_activations = backend.for_any_size(self.activations_of, model.variables)
        # The gradient of each ReLU is replaced by a ReLU. The gradient of an activation is then its projection.
        self.evaluate = backend.value_and_gradient(
            lambda picture, targets: {"total": keras.ops.sum(self.activations_of(picture) * targets["place"])},
            model.variables,
        )

    def activations_of(self, picture):
        """Return the layer's activations, 1 x h x w x C, for a picture, tensor 1 x H x W x 3 in 0..255."""
        x = self.preprocess(picture)
        for step in self.chain:
            x = keras.ops.cast(x, step.compute_dtype)
            if isinstance(step, keras.layers.Conv2D):
                x = step.convolution_op(x, keras.ops.cast(step.kernel, x.dtype))
                x = deconvolution_relu(x if step.bias is None else x + keras.ops.cast(step.bias, x.dtype))
            else:
                x = step(x)
        return keras.ops.cast(x, "float32")

    def before_relu(self, picture):
        """Return the layer's values before its ReLU, 1 x h x w x C, for a picture, tensor 1 x H x W x 3 in 0..255."""
        x, last = self.preprocess(picture), self.chain[-1]
        for step in self.chain[:-1]:
            x = step(x)
        if isinstance(last, keras.layers.Conv2D):
            x = last.convolution_op(
                keras.ops.cast(x, last.compute_dtype), keras.ops.cast(last.kernel, last.compute_dtype)
            )
            return keras.ops.cast(x, "float32") + (0 if last.bias is None else last.bias)
        return keras.ops.cast(last(x), "float32")

    def activations(self, picture):
        """Return the layer's activations, array h x w x C, for a picture, array H x W x 3 in 0..255."""
        return backend.as_array(self.compiled_activations(picture[None].astype("float32")))[0]

    def project(self, pictures, activation):
        """Project an activation back to the pixels that it depends on: float32 size x size x 3, values around 0."""
        picture = pictures[activation.picture]
        places = np.zeros((1, *self.activations(picture).shape), "float32")
        places[0, activation.row, activation.column, activation.channel] = 1
        _, projection = self.evaluate(picture[None].astype("float32"), {"place": places})
        return activation.strength * self.cut(backend.as_array(projection)[0], activation, 0)

    def cut(self, picture, activation, fill):
        """Cut out the pixels that an activation depends on, size x size x 3; outside the picture they are `fill`."""
        size = self.field.size
        top, left = self.field.first_pixel(activation.row), self.field.first_pixel(activation.column)
        padded = np.pad(picture, ((size, size), (size, size), (0, 0)), constant_values=fill)
        return padded[top + size : top + 2 * size, left + size : left + 2 * size]


def last_convolution(model):
    names = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    if not names:
        raise InputError(f"{model.name} has no convolution")
    return names[-1]


def chain_up_to(model, name):
    """List a network's layers up to one of them. Raises InputError if they are not a chain that can be inverted."""
    layers = keras.layers
    naming.check_names([name], list(vision.layers_with_places(model)), model.name)
    chain = []
    for layer in model.layers:
        kinds = (layers.Conv2D, layers.MaxPooling2D, layers.Rescaling)
        if type(layer) in kinds and len(layer.output.shape) == 4 and can_be_inverted(layer):
            chain.append(layer)
        elif not isinstance(layer, (layers.InputLayer, layers.Dropout, layers.GaussianNoise)):
            raise InputError(
                f"{layer.name} in {model.name} is a {type(layer).__name__}; filters can only be shown for chains of "
                "square convolutions with ReLU and max pooling, such as VGG"
            )
        if layer.name == name and chain:
            return chain
    raise InputError(f"{name} of {model.name} depends on single pixels")


def can_be_inverted(layer):
    """Tell whether a layer has square windows without gaps and, if it is a convolution, a ReLU."""
    if isinstance(layer, keras.layers.Rescaling):
        return True
    pooling = isinstance(layer, keras.layers.MaxPooling2D)
    square = len({*(layer.pool_size if pooling else layer.kernel_size)}) == len({*layer.strides}) == 1
    return square and (pooling or (layer.activation is keras.activations.relu and {*layer.dilation_rate} == {1}))


def window_of(layer):
    """Return (kernel, stride, padding at the start) of a layer; they are the same along both sides."""
    if isinstance(layer, keras.layers.Rescaling):
        return 1, 1, 0
    pooling = isinstance(layer, keras.layers.MaxPooling2D)
    kernel, stride = (layer.pool_size if pooling else layer.kernel_size)[0], layer.strides[0]
    return kernel, stride, max(kernel - stride, 0) // 2 if layer.padding == "same" else 0


def deconvolution_relu(x):
    """Return the ReLU of x with the gradient of a deconvolutional network: the ReLU of the output's gradient."""

    @backend.custom_gradient
    def relu(x):
        return keras.ops.relu(x), keras.ops.relu

    return relu(x)


# --- Strongest activations ---------------------------------------------------------------------


def choose_channels(network, pictures, channels, count):
    """List the filters to show: `channels`, or if it is empty, the `count` filters with the strongest activations.

    Raises InputError for a channel that the layer does not have.
    """
    for channel in channels:
        if not 0 <= channel < network.width:
            raise InputError(f"{network.layer} has the channels 0 to {network.width - 1}, and no {channel}")
    if channels:
        return list(channels)
    strongest = np.max([network.activations(picture).max((0, 1)) for picture in pictures], axis=0)
    return sorted(np.argsort(-strongest, kind="stable")[:count].tolist())


def strongest_activations(network, pictures, channels, count=9, quiet=False):
    """Find each filter's strongest activations in pictures: a dict from channel to at most `count`, largest first."""
    strongest = {channel: [] for channel in channels}
    distance = max(1, network.field.size // (2 * network.field.stride))
    bar = tqdm(pictures, unit="picture", leave=False, disable=True if quiet else None)
    for number, picture in enumerate(bar):
        activations = network.activations(picture)
        for channel in channels:
            for strength, row, column in peaks(activations[..., channel], count, distance):
                strongest[channel].append(Activation(strength, number, row, column, channel))
            strongest[channel] = sorted(strongest[channel], key=lambda found: -found.strength)[:count]
    return strongest


def peaks(activations, count, distance):
    """List the largest values above 0 in an array h x w, at most `count`, as (value, row, column).

    They are at least `distance` rows or columns apart. Unlike the results of scikit-image's peak_local_max, they need
    not be local maxima.
    """
    rest, found = activations.copy(), []
    while len(found) < count and rest.max() > 0:
        row, column = np.unravel_index(rest.argmax(), rest.shape)
        found.append((float(rest[row, column]), int(row), int(column)))
        rest[max(0, row - distance + 1) : row + distance, max(0, column - distance + 1) : column + distance] = 0
    return found
