"""VGG's layers with fixed weights for PyTorch: 3 x 3 convolutions and pooling without copies.

Keras's own layers convert the weights and copy the features twice in each call. Features are 1 x H x W x C.
"""

from atelier import backend  # noqa: F401, PyTorch starts quietly

# isort: split
import keras
import torch
from torch.nn import functional

from atelier.torch_backend import channels_first, rows_first


def frozen(layer):
    """Return a function with the same output as a Keras layer and its present weights, or the layer itself."""
    if isinstance(layer, keras.layers.Conv2D):
        return FrozenConvolution(layer)
    if isinstance(layer, keras.layers.MaxPooling2D) and layer.padding == "valid":
        return lambda x: rows_first(functional.max_pool2d(channels_first(x), layer.pool_size, layer.strides))
    return layer


class FrozenConvolution:
    """The 3 x 3 convolution of a Keras layer, padded with zeros, in the layer's precision."""

    def __init__(self, layer):
        self.activation, self.dtype = layer.activation, getattr(torch, layer.compute_dtype)
        kernel, self.bias = (x.value.detach().to(self.dtype) for x in (layer.kernel, layer.bias))
        self.kernel = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)

    def __call__(self, x):
        x = functional.conv2d(channels_first(x.to(self.dtype)), self.kernel, self.bias, padding=1)
        return self.activation(rows_first(x))
