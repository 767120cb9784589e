"""What a network sees in a picture, and which way to change the picture so that it sees more of what one wants.

Pictures are float32 1 x H x W x 3 in 0..255, of any size; features float32 1 x h x w x C.
"""

import contextlib
import functools

from atelier import hardware  # has TensorFlow start quietly

# isort: split
import keras
import tensorflow as tf
from keras import ops

from atelier.errors import InputError
from atelier.networks.winograd import FrozenConvolution

# --- Features ----------------------------------------------------------------------------------

VGG_MEAN = (103.939, 116.779, 123.68)  # of blue, green and red


def feature_extractor(model, layers):
    """Return f(picture, tensor 1 x H x W x 3 in 0..255) -> [features 1 x h x w x C, float32, of each of VGG's layers].

    In float32 on a processor, convolutions are Winograd's.
    """
    last = max(model.layers.index(model.get_layer(name)) for name in layers)
    wanted = model.layers[1 : last + 1]
    fast = winograd_pays()
    steps = [(layer.name, FrozenConvolution.of(layer) if fast and is_wide(layer) else layer) for layer in wanted]

    def features(picture):
        found = {}
        x = ops.flip(picture, axis=3) - VGG_MEAN  # as Keras's preprocess_input, whose gradient is slow
        for name, step in steps:
            x = step(x)
            found[name] = ops.cast(x, "float32")
        return [found[name] for name in layers]

    return features


def winograd_pays():
    """Say whether it is faster than the convolutions of TensorFlow: on a processor, in float32."""
    return keras.config.dtype_policy().name == "float32" and not hardware.has_gpu()


def is_wide(layer):
    """Say whether a layer is a convolution with channels enough that transforming them pays."""
    return isinstance(layer, keras.layers.Conv2D) and min(layer.kernel.shape[2:]) >= 64


def network_features(model, preprocess, layers, rectified=True):
    """Return f(pictures, tensor N x H x W x 3 in 0..255) -> [features N x h x w x C, float32, of each of the layers].

    Where they are not `rectified`, they are as before a ReLU, which tells nothing of how to excite what is at rest.
    """
    wanted = [layers_of(model)[name] for name in layers]

    def features(pictures):
        with watching(wanted, rectified) as seen:
            model(preprocess(at_input_size(model, pictures)))
        return [ops.cast(seen[id(layer)], "float32") for layer in wanted]

    return features


@contextlib.contextmanager
def watching(layers, rectified=True):
    """Yield a dict that comes to hold what each layer gives, by its id, when the model that it is in is called.

    So layers of models within models are seen, too, which no model of Keras's own could have as its outputs.
    """
    seen, layers = {}, [*{id(layer): layer for layer in layers}.values()]
    own = [(vars(layer).get("call"), getattr(layer, "activation", None)) for layer in layers]

    def watch(layer, call):
        @functools.wraps(call)
        def watched(x, *arguments, **more):
            given = call(x, *arguments, **more)
            seen[id(layer)] = given if rectified or not isinstance(layer, keras.layers.ReLU) else x
            return given

        layer.call = watched

    for layer, (_, activation) in zip(layers, own):
        watch(layer, layer.call)
        if not rectified and activation in (keras.activations.relu, keras.activations.relu6):
            layer.activation = keras.activations.linear
    try:
        yield seen
    finally:
        for layer, (call, activation) in zip(layers, own):
            del layer.call
            if call is not None:
                layer.call = call
            if activation is not None:
                layer.activation = activation


def classify(model, preprocess, picture):
    """Return the logits, N x classes, of pictures, tensor N x H x W x 3 in 0..255; a single one is between two."""
    logits = ops.cast(model(preprocess(at_input_size(model, picture))), "float32")
    return ops.concatenate([-logits, logits], axis=1) if logits.shape[1] == 1 else logits


def at_input_size(model, pictures):
    """Resize pictures N x H x W x 3 to what a network takes, if it takes one size alone."""
    height, width = model.input_shape[1:3]
    return ops.image.resize(pictures, (height, width), "bilinear", antialias=True) if height and width else pictures


# --- Layers ------------------------------------------------------------------------------------


def layers_of(model):
    """List all layers of a model and of the models within it: a dict from name to layer.

    One that is called as another before it has the name of its model, too: base/conv1.
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
    """List the layers whose output still has places in the picture: a dict from name to the number of channels."""
    shapes = {name: keras.tree.flatten(layer.output)[0].shape for name, layer in layers_of(model).items()}
    return {name: shape[3] for name, shape in shapes.items() if len(shape) == 4 and shape[1] != 1}


def layer_at_stride(model, stride):
    """Name the last layer whose places lie about `stride` pixels apart, or the last layer that has places at all."""
    names = list(layers_with_places(model))
    if not names:
        raise InputError("the network has no layer with places in the picture")
    height = model.input_shape[1] or 16 * stride
    layers = [layers_of(model)[name] for name in names]

    @functools.partial(tf.function, autograph=False)
    def look(picture):
        with watching(layers) as seen:
            model(picture)
        return [seen[id(layer)] for layer in layers]

    taken = tf.TensorSpec((1, height, model.input_shape[2] or height, model.input_shape[3]))
    seen = look.get_concrete_function(taken).structured_outputs
    near = [name for name, x in zip(names, seen) if 0.7 * height <= x.shape[1] * stride < height + stride]
    return (near or names)[-1]


# --- The gradient with respect to a picture ----------------------------------------------------


def for_any_size(function):
    """Compile a function of one picture, 1 x H x W x 3, once for pictures of all sizes."""
    return tf.function(function, input_signature=[tf.TensorSpec((1, None, None, 3))], autograph=False)


def value_and_gradient(loss):
    """Compile f(picture, targets) -> (terms, gradient): all there is to know for changing a picture to please `loss`.

    `loss(picture, targets)` returns a dict of scalars, of which "total" is differentiated; `picture` is float32
    1 x H x W x 3 in 0..255 and the gradient is like it, `targets` any structure of arrays. Pictures and features may
    come in all sizes: it is traced once (`f.traces` counts), as long as there are as many targets.
    """

    def evaluate(picture, targets):
        compiled.traces += 1
        # A float16 gradient of a mean would vanish; one that is as large as that of a sum does not.
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
