"""Classifiers of one's own: Keras models in files, of which no code is run, and models within models.

In goes the path of a .keras or .h5 file, out come a model and what makes its input of pictures N x H x W x 3 in 0..255.
"""

import importlib
import json
import zipfile

from atelier import hardware  # noqa: F401, it has TensorFlow start quietly

# isort: split
import h5py
import keras
from keras import ops

from atelier.errors import InputError
from atelier.naming import NETWORKS, normalized
from atelier.pixel_rnn import model_files

# --- Files -------------------------------------------------------------------------------------


def load(path):
    """Load a model that takes pictures. Raises InputError where it takes others, or holds what Keras does not know."""
    check_layers(config_of(path), path)
    model = model_files.load_keras_model(path, {"DepthwiseConv2D": DepthwiseOfKeras2} if is_hdf5(path) else None)
    if not isinstance(model, keras.Model) or not model.built:
        raise InputError(f"{path} holds no model that was built; call it on a picture before it is saved")
    shapes = [tuple(x.shape[1:]) for x in model.inputs]
    if len(shapes) != 1:
        raise InputError(f"{path} takes {len(shapes)} inputs, and not one picture")
    if len(shapes[0]) != 3 or shapes[0][2] not in (1, 3):
        told = " x ".join("any" if side is None else str(side) for side in shapes[0])
        raise InputError(f"{path} takes no pictures: its input is {told}, and not height x width x 3 (or 1)")
    return model


class DepthwiseOfKeras2(keras.layers.DepthwiseConv2D):
    """As Keras has it, of files which tell a number of groups, too: always 1."""

    def __init__(self, *arguments, groups=1, **more):
        super().__init__(*arguments, **more)


def is_hdf5(path):
    return not str(path).endswith(".keras")


def config_of(path):
    """Read what a file tells of its layers: a dict. Raises InputError."""
    try:
        if not is_hdf5(path):
            with zipfile.ZipFile(path) as archive:
                config = json.loads(archive.read("config.json"))
            return {name: part for name, part in config.items() if name != "compile_config"}  # which stays unread
        with h5py.File(path) as file:
            if "model_config" not in file.attrs:
                raise InputError(f"{path} holds weights alone, and no model; save the whole of it with model.save")
            return json.loads(file.attrs["model_config"])
    except InputError:
        raise
    except Exception as error:  # zipfile, h5py and json raise whatever their parsers do
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise InputError(f"{path} can't be loaded: {reason}") from error


# What a file may name, so that loading it imports nothing and runs nothing but Keras.
HOMES = ("layers", "models", "ops", "initializers", "regularizers", "constraints", "activations", "dtype_policies")
HOMES += ("applications",)  # layers of its own networks
AT_HOME = ("DTypePolicy", "Functional", "Sequential")
CODE = ("Lambda", "__lambda__", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer")


def check_layers(config, path, layer=None):
    """Raise InputError where a config names code, or a layer that is not Keras's own; `layer` is what it is part of."""
    if isinstance(config, list):
        for part in config:
            check_layers(part, path, layer)
    elif isinstance(config, dict):
        kind = config.get("class_name")
        if isinstance(kind, str) and "config" in config:
            inner = config["config"]
            layer = (inner.get("name") if isinstance(inner, dict) else None) or layer or kind
            if kind in CODE:
                raise InputError(f"{path} holds code in its layer {layer} (a {kind}), which is never run")
            if not is_known(kind, config):
                raise InputError(f"{path} can't be loaded: Keras does not know {kind}, of its layer {layer}")
        for part in config.values():
            check_layers(part, path, layer)


def is_known(kind, config):
    """Say whether Keras itself has what a config names; old files name no module."""
    module = config.get("module")
    if kind.startswith("__"):  # tensors and tuples
        return True
    if module is None:
        homes = [getattr(keras, name) for name in HOMES if hasattr(keras, name)]
        known = kind in AT_HOME or any(hasattr(home, kind) for home in (keras, *homes))
        return known and not config.get("registered_name")
    words = [word for word in module.split(".") if word != "src"]
    return words[0] == "keras" and (words[1] in HOMES if len(words) > 1 else kind in AT_HOME)


# --- What they take ----------------------------------------------------------------------------

RANGES = {
    "0..255": lambda pictures: pictures,
    "0..1": lambda pictures: pictures / 255,
    "-1..1": lambda pictures: pictures / 127.5 - 1,
    "caffe": keras.applications.imagenet_utils.preprocess_input,
}


def input_of(model, input_range=None):
    """Return what makes a model's input of pictures N x H x W x 3 in 0..255, and what that is, in a few words.

    `input_range` is one of RANGES. Without, it is what the network of keras.applications takes with which the model
    begins, and else the pixels as they are.
    """
    prepare, told = RANGES.get(input_range), input_range
    if prepare is None:
        name = published_base(model)
        module = name and importlib.import_module(f"keras.applications.{NETWORKS[name]}")
        prepare, told = (module.preprocess_input, f"{name}'s") if name else (RANGES["0..255"], "0..255")

    grey = model.input_shape[3] == 1
    if grey and (told == "caffe" or told != input_range and told != "0..255"):
        raise InputError("a network of greys takes no colours: give --input-range 0..255, 0..1 or -1..1")

    def own_input(pictures):
        pictures = ops.convert_to_tensor(pictures)  # Keras would change an array in its place
        if grey:
            pictures = ops.mean(pictures, axis=3, keepdims=True)
        return prepare(pictures)

    return own_input, told


def published_base(model):
    """Name the network of keras.applications that a model is, or begins with; None where something comes before it."""
    steps = model.layers if isinstance(model, keras.Sequential) else model.operations
    first = next((step for step in steps if not is_only_for_training(step)), None)
    if isinstance(first, keras.Model):
        return published_base(first)
    prepares = isinstance(first, (keras.layers.Rescaling, keras.layers.Normalization))
    if prepares or not isinstance(first, keras.layers.Layer):
        return None
    return max(
        (name for name in NETWORKS if normalized(model.name).startswith(normalized(name))), key=len, default=None
    )


def is_only_for_training(step):
    """Say whether a step does nothing to what is looked at: an input, noise, or what turns pictures at random."""
    if isinstance(step, keras.Sequential):
        return all(map(is_only_for_training, step.layers))
    kinds = (keras.layers.InputLayer, keras.layers.GaussianNoise, keras.layers.Identity)
    return isinstance(step, kinds) or type(step).__name__.startswith("Random")


# --- What they tell ----------------------------------------------------------------------------


def to_logits(model, path):
    """Have a classifier end in its logits, before the probabilities. Raises InputError where it is none."""
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        shapes = " and ".join(str(tuple(x.shape[1:])) for x in model.outputs)
        raise InputError(f"{path} is no classifier: it comes to {shapes}, and not to a row of classes")
    last = last_of(model.outputs[0])
    while isinstance(last, keras.layers.Activation) and last.activation is keras.activations.linear:
        last = last_of(last.input)  # it has made float32 of what mixed precision gave
    if isinstance(last, keras.layers.Softmax):
        last.call = lambda x, **_: x
    elif hasattr(last, "activation"):
        kind = getattr(last.activation, "__name__", type(last.activation).__name__)
        if kind not in PROBABLE:
            raise InputError(f"{path} ends in {last.name}, a {kind}, before which are no logits")
        last.activation = keras.activations.linear
    elif not isinstance(last, (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)):
        raise InputError(f"{path} ends in {last.name}, before which no logits are known: let it end in a Dense layer")
    return model


PROBABLE = ("linear", "softmax", "sigmoid", "log_softmax", "hard_sigmoid")


def last_of(tensor):
    """Return the layer that a tensor comes from, however deep within models."""
    layer = tensor._keras_history.operation
    while isinstance(layer, keras.Model):
        inner = isinstance(layer, keras.Sequential)
        layer = layer.layers[-1] if inner else layer.outputs[0]._keras_history.operation
    return layer
