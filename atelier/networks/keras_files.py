"""Reading .keras and .h5 model files: loading models, reading their configs, and refusing files that contain code.

The input is a file's path, and the result is a Keras model. Code that a file contains is never run.
"""

import json
import zipfile

from atelier import hardware  # noqa: F401, Keras starts quietly

# isort: split
import h5py
import keras

from atelier.errors import InputError


def load_keras_model(path, custom_objects=None):
    """Load the model in a file without running code. Raises InputError."""
    try:
        return keras.saving.load_model(path, custom_objects, compile=False, safe_mode=True)
    except Exception as error:  # Keras's parsers raise errors of many kinds
        raise cannot_be_loaded(path, error) from error


def load_model_of_keras_layers(path):
    """Load the model in a file that contains nothing but Keras's own layers. Raises InputError for any other file."""
    refuse_code(read_config(path), path)
    return load_keras_model(path, {"DepthwiseConv2D": Keras2DepthwiseConv2D} if is_hdf5(path) else None)


class Keras2DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Keras's layer, for files of Keras 2. These also store the argument `groups`, which is always 1."""

    def __init__(self, *arguments, groups=1, **options):
        super().__init__(*arguments, **options)


def is_hdf5(path):
    return not str(path).endswith(".keras")


def read_config(path):
    """Read the config of the model in a file, a dict. Raises InputError."""
    try:
        if not is_hdf5(path):
            with zipfile.ZipFile(path) as archive:
                config = json.loads(archive.read("config.json"))
            return {name: part for name, part in config.items() if name != "compile_config"}  # which is not loaded
        with h5py.File(path) as file:
            if "model_config" not in file.attrs:
                raise InputError(f"{path} contains only weights, and no model; save the whole model with model.save")
            return json.loads(file.attrs["model_config"])
    except InputError:
        raise
    except Exception as error:  # zipfile, h5py and json raise errors of many kinds
        raise cannot_be_loaded(path, error) from error


def cannot_be_loaded(path, error):
    reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
    return InputError(f"{path} can't be loaded: {reason}")


# The modules and classes of Keras that a config may name. Loading them imports no others and runs no foreign code.
KERAS_MODULES = ("layers", "models", "ops", "initializers", "regularizers", "constraints", "activations")
KERAS_MODULES += ("dtype_policies", "applications")  # some networks of applications have layers of their own
KERAS_CLASSES = ("DTypePolicy", "Functional", "Sequential")
CODE_LAYERS = ("Lambda", "__lambda__", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer")


def refuse_code(config, path, layer=None):
    """Raise InputError if a config contains code or a class that is not Keras's own.

    `config` is any part of a model's config, and `layer` the name of the layer that the part belongs to.
    """
    if isinstance(config, list):
        for part in config:
            refuse_code(part, path, layer)
    elif isinstance(config, dict):
        kind = config.get("class_name")
        if isinstance(kind, str) and "config" in config:
            inner = config["config"]
            layer = (inner.get("name") if isinstance(inner, dict) else None) or layer or kind
            if kind in CODE_LAYERS:
                raise InputError(f"{path} contains code in its layer {layer} (a {kind}), which is never run")
            if not is_keras_class(kind, config):
                raise InputError(f"{path} can't be loaded: its layer {layer} needs {kind}, which Keras does not have")
        for part in config.values():
            refuse_code(part, path, layer)


def is_keras_class(kind, config):
    """Tell whether the class that a config names is Keras's own; files of Keras 2 name no module."""
    module = config.get("module")
    if kind.startswith("__"):  # tensors and tuples
        return True
    if module is None:
        modules = [getattr(keras, name) for name in KERAS_MODULES if hasattr(keras, name)]
        known = kind in KERAS_CLASSES or any(hasattr(module, kind) for module in (keras, *modules))
        return known and not config.get("registered_name")
    words = [word for word in module.split(".") if word != "src"]
    return words[0] == "keras" and (words[1] in KERAS_MODULES if len(words) > 1 else kind in KERAS_CLASSES)
