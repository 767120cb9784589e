"""The user's own classifiers: which models are accepted, which input range they take, and their logits.

The input is the path of a .keras or .h5 file. The results are a model and the function that converts pictures,
N x H x W x 3 in 0..255, to the model's input.
"""

import importlib

from atelier import hardware  # noqa: F401, Keras starts quietly

# isort: split
import keras
from keras import ops

from atelier.errors import InputError
from atelier.naming import NETWORKS, normalized
from atelier.networks import keras_files


def load_classifier(path):
    """Load a model whose input is one picture. Raises InputError for other models and for files that contain code."""
    model = keras_files.load_model_of_keras_layers(path)
    if not isinstance(model, keras.Model) or not model.built:
        raise InputError(f"{path} contains no built model; call the model on a picture before you save it")
    shapes = [tuple(x.shape[1:]) for x in model.inputs]
    if len(shapes) != 1:
        raise InputError(f"{path} takes {len(shapes)} inputs, and not one picture")
    if len(shapes[0]) != 3 or shapes[0][2] not in (1, 3):
        shape = " x ".join("any" if side is None else str(side) for side in shapes[0])
        raise InputError(f"{path} takes no pictures: its input is {shape}, and not height x width x 3 (or 1)")
    return model


# --- Input range -------------------------------------------------------------------------------

INPUT_RANGES = {
    "0..255": lambda pictures: pictures,
    "0..1": lambda pictures: pictures / 255,
    "-1..1": lambda pictures: pictures / 127.5 - 1,
    "caffe": keras.applications.imagenet_utils.preprocess_input,
}


def input_preprocessing(model, input_range=None):
    """Return (preprocess, description): the function from pictures N x H x W x 3 in 0..255 to a model's input.

    `input_range` is one of INPUT_RANGES, or None. None means the range of the network of keras.applications that the
    model begins with, or else 0..255. Raises InputError if a grey-level network is given a range for colours.
    """
    preprocess, description = INPUT_RANGES.get(input_range), input_range
    if preprocess is None:
        name = published_base(model)
        module = name and importlib.import_module(f"keras.applications.{NETWORKS[name]}")
        preprocess, description = (module.preprocess_input, f"{name}'s") if name else (INPUT_RANGES["0..255"], "0..255")

    grey = model.input_shape[3] == 1
    if grey and (description == "caffe" or description != input_range and description != "0..255"):
        raise InputError("the network takes grey levels and no colours: give --input-range 0..255, 0..1 or -1..1")

    def preprocess_pictures(pictures):
        pictures = ops.convert_to_tensor(pictures)  # Keras would change a NumPy array in place
        if grey:
            pictures = ops.mean(pictures, axis=3, keepdims=True)
        return preprocess(pictures)

    return preprocess_pictures, description


def published_base(model):
    """Return the name of the network of keras.applications that a model is, or that it begins with.

    Return None if there is no such network, or if preprocessing comes first.
    """
    steps = model.layers if isinstance(model, keras.Sequential) else model.operations
    first = next((step for step in steps if not acts_only_in_training(step)), None)
    if isinstance(first, keras.Model):
        return published_base(first)
    preprocesses = isinstance(first, (keras.layers.Rescaling, keras.layers.Normalization))
    if preprocesses or not isinstance(first, keras.layers.Layer):
        return None
    return max(
        (name for name in NETWORKS if normalized(model.name).startswith(normalized(name))), key=len, default=None
    )


def acts_only_in_training(step):
    """Tell whether a step leaves its input unchanged at inference: an input, noise or random augmentation."""
    if isinstance(step, keras.Sequential):
        return all(map(acts_only_in_training, step.layers))
    kinds = (keras.layers.InputLayer, keras.layers.GaussianNoise, keras.layers.Identity)
    return isinstance(step, kinds) or type(step).__name__.startswith("Random")


# --- Logits ------------------------------------------------------------------------------------


def to_logits(model, path):
    """Remove a classifier's last activation, so that it returns logits. Raises InputError if it is no classifier."""
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        shapes = " and ".join(str(tuple(x.shape[1:])) for x in model.outputs)
        raise InputError(f"{path} is no classifier: its output is {shapes}, and not a row of classes")
    last = layer_of_output(model.outputs[0])
    while isinstance(last, keras.layers.Activation) and last.activation is keras.activations.linear:
        last = layer_of_output(last.input)  # in mixed precision, the last layer often only casts to float32
    if isinstance(last, keras.layers.Softmax):
        last.call = lambda x, **_: x
    elif hasattr(last, "activation"):
        kind = getattr(last.activation, "__name__", type(last.activation).__name__)
        if kind not in CLASS_ACTIVATIONS:
            raise InputError(f"{path} ends in {last.name}, a {kind}, whose input is no row of logits")
        last.activation = keras.activations.linear
    elif not isinstance(last, (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)):
        raise InputError(f"{path} ends in {last.name}, whose logits are unknown; let the network end in a Dense layer")
    return model


CLASS_ACTIVATIONS = ("linear", "softmax", "sigmoid", "log_softmax", "hard_sigmoid")


def layer_of_output(tensor):
    """Return the layer that computes a tensor. If a nested model computes it, return the layer inside that model."""
    layer = tensor._keras_history.operation
    while isinstance(layer, keras.Model):
        is_sequential = isinstance(layer, keras.Sequential)
        layer = layer.layers[-1] if is_sequential else layer.outputs[0]._keras_history.operation
    return layer
