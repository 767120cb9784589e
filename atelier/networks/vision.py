"""Features and class logits of pictures, and a network's layers by name.

Pictures are float32 1 x H x W x 3 in 0..255, of any size; features are float32 1 x h x w x C.
"""

import contextlib
import functools
import math

from atelier import backend, hardware  # Keras starts quietly

# isort: split
import keras
from keras import ops

from atelier import padding
from atelier.errors import InputError

# --- Features ----------------------------------------------------------------------------------

AVERAGE_FACTOR = 1.6  # averages are smaller than maxima, and the next layer expects maxima
VGG_MEAN = (103.939, 116.779, 123.68)  # of blue, green and red


def feature_extractor(model, layers, averages=False):
    """Return f(picture, tensor 1 x H x W x 3 in 0..255) -> [features, float32 1 x h x w x C, of each layer] for a VGG.

    The network's weights must not change any more. f(picture, size) is for a picture that padding.py has padded: the
    features are those of its upper left part of `size`, and zero elsewhere, as if VGG's convolutions had padded it.
    With `averages`, the network's maxima (its pooling) are replaced by averages, which have smoother gradients.
    """
    last = max(model.layers.index(model.get_layer(name)) for name in layers)
    steps = [(layer.name, faster(layer, averages), layer.strides[0]) for layer in model.layers[1 : last + 1]]

    def features(picture, size=None):
        found = {}
        # This is the same as Keras's preprocess_input, whose gradient is slow.
        x = ops.subtract(ops.flip(picture, axis=3), VGG_MEAN)
        x = x if size is None else padding.inside(x, size)
        for name, step, stride in steps:
            x = step(x)
            if size is not None:
                size = size // stride
                x = padding.inside(x, size)
            found[name] = ops.cast(x, "float32")
        return [found[name] for name in layers]

    return features


def faster(layer, averages=False):
    """Return a function with the same output as a VGG's layer and its present weights, or the layer if none is faster.

    It computes the gradient with respect to its input only. With `averages`, pooling layers take averages instead, so
    their output differs.
    """
    if averages and isinstance(layer, keras.layers.MaxPooling2D):
        return lambda x: AVERAGE_FACTOR * ops.average_pool(x, layer.pool_size, layer.strides)
    if backend.NAME == "torch":
        from atelier.networks import torch_layers  # PyTorch may not be installed

        return torch_layers.frozen(layer)
    if not (winograd_is_faster() and is_wide(layer)):
        return layer
    from atelier.networks import winograd  # TensorFlow may not be installed

    return winograd.FrozenConvolution.of(layer)


def winograd_is_faster():
    """Tell whether Winograd convolutions are faster than Keras's. They are with TensorFlow in float32 without a GPU."""
    return backend.NAME == "tensorflow" and keras.config.dtype_policy().name == "float32" and not hardware.has_gpu()


def is_wide(layer):
    """Tell whether a layer is a convolution with so many channels that Winograd's transforms cost relatively little."""
    return isinstance(layer, keras.layers.Conv2D) and math.prod(layer.kernel.shape[2:]) >= 64 * 128


def network_features(model, preprocess, layers, rectified=True):
    """Return f(pictures, tensor N x H x W x 3 in 0..255) -> [features, float32 N x h x w x C, of each layer].

    If `rectified` is false, the features are the values before a layer's ReLU. Where a channel is not active, the
    gradient of a ReLU is 0, and does not show how to activate the channel.
    """
    used = [layers_of(model)[name] for name in layers]

    def features(pictures):
        with recorded_outputs(used, rectified) as outputs:
            model(preprocess(at_input_size(model, pictures)))
        return [ops.cast(outputs[id(layer)], "float32") for layer in used]

    return features


@contextlib.contextmanager
def recorded_outputs(layers, rectified=True):
    """Yield a dict from a layer's id to its output. Each call of the model fills the dict.

    This also works for layers of nested models, which Keras does not accept as outputs of the outer model.
    """
    outputs, layers = {}, [*{id(layer): layer for layer in layers}.values()]
    originals = [(vars(layer).get("call"), getattr(layer, "activation", None)) for layer in layers]

    def record(layer, call):
        @functools.wraps(call)
        def recorded(x, *arguments, **options):
            output = call(x, *arguments, **options)
            outputs[id(layer)] = output if rectified or not isinstance(layer, keras.layers.ReLU) else x
            return output

        layer.call = recorded

    for layer, (_, activation) in zip(layers, originals):
        record(layer, layer.call)
        if not rectified and activation in (keras.activations.relu, keras.activations.relu6):
            layer.activation = keras.activations.linear
    try:
        yield outputs
    finally:
        for layer, (call, activation) in zip(layers, originals):
            del layer.call
            if call is not None:
                layer.call = call
            if activation is not None:
                layer.activation = activation


def classify(model, preprocess, picture):
    """Return the logits, N x classes, of pictures, tensor N x H x W x 3 in 0..255.

    A network with one output x distinguishes two classes, whose logits are -x and x.
    """
    logits = ops.cast(model(preprocess(at_input_size(model, picture))), "float32")
    return ops.concatenate([-logits, logits], axis=1) if logits.shape[1] == 1 else logits


def at_input_size(model, pictures):
    """Resize pictures N x H x W x 3 to a network's input size, if it has a fixed one."""
    height, width = model.input_shape[1:3]
    return ops.image.resize(pictures, (height, width), "bilinear", antialias=True) if height and width else pictures


# --- Layers ------------------------------------------------------------------------------------


def layers_of(model):
    """Return all layers of a model and of its nested models: a dict from name to layer.

    If an earlier layer has the same name, the model's name is put before the layer's: base/conv1.
    """
    found = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            for name, inner in layers_of(layer).items():
                found[name if name not in found else f"{layer.name}/{name}"] = inner
        elif not isinstance(layer, keras.layers.InputLayer):
            found[layer.name if layer.name not in found else f"{model.name}/{layer.name}"] = layer
    return found


def layers_with_places(model):
    """Return the layers whose output has rows and columns: a dict from name to the number of channels."""
    shapes = {name: keras.tree.flatten(layer.output)[0].shape for name, layer in layers_of(model).items()}
    return {name: shape[3] for name, shape in shapes.items() if len(shape) == 4 and shape[1] != 1}


def layer_at_stride(model, stride):
    """Return the name of the last layer with a stride of about `stride` pixels.

    If there is none, it is the last layer whose output has rows and columns. Raises InputError if no layer's output has
    rows and columns.
    """
    names = list(layers_with_places(model))
    if not names:
        raise InputError("the network has no layer whose output has rows and columns")
    height = model.input_shape[1] or 16 * stride
    layers = [layers_of(model)[name] for name in names]

    def outputs_of(picture):
        with recorded_outputs(layers) as outputs:
            model(picture)
        return [outputs[id(layer)] for layer in layers]

    shapes = backend.output_shapes(outputs_of, (1, height, model.input_shape[2] or height, model.input_shape[3]))
    near = [name for name, shape in zip(names, shapes) if 0.7 * height <= shape[1] * stride < height + stride]
    return (near or names)[-1]
