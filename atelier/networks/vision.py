"""Features and class logits of pictures, a network's layers by name, and the gradient of a loss with respect to pixels.

Pictures are float32 1 x H x W x 3 in 0..255, of any size; features are float32 1 x h x w x C.
"""

import contextlib
import functools
import math

from atelier import hardware  # TensorFlow starts quietly

# isort: split
import keras
import tensorflow as tf
from keras import ops

from atelier.errors import InputError
from atelier.networks.winograd import FrozenConvolution

# --- Features ----------------------------------------------------------------------------------

VGG_MEAN = (103.939, 116.779, 123.68)  # of blue, green and red


def feature_extractor(model, layers):
    """Return f(picture, tensor 1 x H x W x 3 in 0..255) -> [features, float32 1 x h x w x C, of each layer] for a VGG.

    In float32 without a GPU, f uses Winograd convolutions.
    """
    last = max(model.layers.index(model.get_layer(name)) for name in layers)
    used = model.layers[1 : last + 1]
    fast = winograd_is_faster()
    steps = [(layer.name, FrozenConvolution.of(layer) if fast and is_wide(layer) else layer) for layer in used]

    def features(picture):
        found = {}
        x = ops.flip(picture, axis=3) - VGG_MEAN  # the same as Keras's preprocess_input, whose gradient is slow
        for name, step in steps:
            x = step(x)
            found[name] = ops.cast(x, "float32")
        return [found[name] for name in layers]

    return features


def winograd_is_faster():
    """Tell whether Winograd convolutions are faster than TensorFlow's. They are in float32 without a GPU."""
    return keras.config.dtype_policy().name == "float32" and not hardware.has_gpu()


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

    @functools.partial(tf.function, autograph=False)
    def outputs_of(picture):
        with recorded_outputs(layers) as outputs:
            model(picture)
        return [outputs[id(layer)] for layer in layers]

    input_spec = tf.TensorSpec((1, height, model.input_shape[2] or height, model.input_shape[3]))
    outputs = outputs_of.get_concrete_function(input_spec).structured_outputs
    near = [name for name, x in zip(names, outputs) if 0.7 * height <= x.shape[1] * stride < height + stride]
    return (near or names)[-1]


# --- The gradient with respect to a picture ----------------------------------------------------


def for_any_size(function):
    """Compile a function of one picture, 1 x H x W x 3, once for all sizes."""
    return tf.function(function, input_signature=[tf.TensorSpec((1, None, None, 3))], autograph=False)


def value_and_gradient(loss):
    """Compile f(picture, targets) -> (terms, gradient of terms["total"] with respect to the picture).

    `loss(picture, targets)` returns `terms`, a dict of scalars. `picture` is float32 1 x H x W x 3 in 0..255, and so
    is the gradient; `targets` is any structure of arrays. The function is traced once for pictures and features of all
    sizes; the structure of the targets must stay the same. `f.traces` counts the traces.
    """

    def evaluate(picture, targets):
        compiled.traces += 1
        # In float16 the gradient of a mean would underflow; the gradient of a sum does not.
        scale = ops.cast(ops.prod(ops.shape(picture)), "float32")
        with tf.GradientTape() as tape:
            tape.watch(picture)
            terms = loss(picture, targets)
            scaled = terms["total"] * scale
        return terms, tape.gradient(scaled, picture) / scale

    def any_size(x):
        shape = (1, None, None, x.shape[3]) if x.ndim == 4 else x.shape
        return tf.TensorSpec(shape, "float32")

    @functools.wraps(loss)
    def compiled(picture, targets):
        arguments = tf.nest.map_structure(lambda x: tf.convert_to_tensor(x, "float32"), (picture, targets))
        if compiled.function is None:
            signature = tf.nest.map_structure(lambda x: any_size(x), arguments)
            compiled.function = tf.function(evaluate, input_signature=signature, autograph=False)
        return compiled.function(*arguments)

    compiled.function, compiled.traces = None, 0
    return compiled
