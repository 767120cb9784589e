"""Load and save models: .keras files of train_rnn.py's networks, and the .h5 files of the published MNIST tutorial.

Input: a folder and the content of its meta.json (model_meta.py). Output: Keras models. No code in a file is ever run.
"""

import json
import pathlib
import zipfile

from atelier import hardware  # noqa: F401, it silences Keras's start

# isort: split
import h5py
import keras
from keras import ops

import util
from atelier import disk
from atelier.errors import InputError
from atelier.networks import keras_files
from atelier.pixel_rnn import model_meta

# --- Networks of train_rnn.py ------------------------------------------------------------------


def save_model(path, model):
    """Write a model without its optimizer, compressed. The file appears whole or not at all."""
    with disk.whole_file(path) as temporary:
        model.save(temporary, include_optimizer=False)
        with zipfile.ZipFile(temporary) as archive:
            contents = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in contents.items():
                archive.writestr(name, content)


def load_painter(folder, meta):
    """Load a painter: build the network from meta.json and set the weights of model.keras. Raises InputError."""
    path = pathlib.Path(folder) / "model.keras"
    if not path.exists():
        raise InputError(f"{path} is missing; is the first epoch of its training over?")
    model = util.build_painter(**model_meta.painter_options(meta["recipe"], meta["palette"]))
    set_weights(model, keras_files.load_keras_model(path).get_weights(), path)
    return model


def load_rnn(folder, label, meta):
    """Load the model of one class, model_<label>.keras or the tutorial's model_<label>.h5. Raises InputError.

    The network is built from meta.json, in the current precision. Its weights come from the file.
    """
    folder = pathlib.Path(folder)
    path = folder / f"model_{label}.keras"
    if path.exists():
        weights, options = load_keras_weights(path, meta["recipe"]), {}
    elif path.with_suffix(".h5").exists():
        path = path.with_suffix(".h5")
        weights, options = load_tutorial_weights(path), TUTORIAL_OPTIONS
    else:
        unfinished = meta["classes"].get(str(label)) == {} and (folder / "meta.json").exists()
        raise InputError(
            f"{path} is missing; " + ("finish the training with --resume" if unfinished else "is it trained?")
        )
    model = util.build_rnn(**model_meta.network_options(meta["recipe"]), **options)
    set_weights(model, weights, path)
    return model


def set_weights(model, weights, path):
    """Set a model's weights, a list of arrays from the file `path`. Raises InputError where their shapes differ."""
    try:
        model.set_weights(weights)
    except ValueError as error:
        raise InputError(f"{path} is not the network that meta.json describes: {error}") from error


def load_keras_weights(path, training_config):
    """Read the weights of a network of digits, a list of arrays.

    Raises InputError if its size or grey levels differ from those of `training_config`, a dict.
    """
    model = keras_files.load_keras_model(path)
    try:
        found = (model.input_shape[1], model.get_layer("logits").units)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is not a network of train_rnn.py: {error}") from error
    block = training_config["block"]
    expected = ((training_config["size"] // block) ** 2, training_config["levels"] ** block**2)
    if found != expected:
        what = "{} pixels of {} levels" if block == 1 else "{} blocks of {} symbols"
        raise InputError(f"{path} is for {what.format(*found)}; meta.json says {what.format(*expected)}")
    return model.get_weights()


# --- The tutorial's networks -------------------------------------------------------------------


@keras.saving.register_keras_serializable("keras_atelier")
def keras2_hard_sigmoid(x):
    """Keras 2's hard sigmoid, clip(0.2 x + 0.5, 0, 1). The hard sigmoid of Keras 3 has another slope."""
    return ops.clip(0.2 * x + 0.5, 0.0, 1.0)


TUTORIAL_OPTIONS = {"reset_after": False, "recurrent_activation": keras2_hard_sigmoid}
TUTORIAL_LAYERS = ["GRU", "TimeDistributed", "Activation"]
TUTORIAL_GRU = {
    "activation": "tanh",
    "recurrent_activation": "hard_sigmoid",
    "use_bias": True,
    "return_sequences": True,
    "go_backwards": False,
    "reset_after": False,
}


def load_tutorial_weights(path):
    """Read the arrays of a model that the MNIST tutorial's own code saved (Keras 2 HDF5); no code is run.

    Raises InputError if the file's config describes another network than the tutorial's.
    """
    try:
        with h5py.File(path) as file:
            layers = json.loads(file.attrs["model_config"])["config"]
            names = check_tutorial_config(layers["layers"] if isinstance(layers, dict) else layers)
            gru, dense = (file["model_weights"][name][name] for name in names)
            arrays = [gru[key][()] for key in ("kernel:0", "recurrent_kernel:0", "bias:0")]
            return arrays + [dense[key][()] for key in ("kernel:0", "bias:0")]
    except (OSError, KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a model of the MNIST tutorial: {error}") from error


def check_tutorial_config(layers):
    """Return the names of the GRU and the dense layer. Raises ValueError if the network is not the tutorial's."""
    kinds = [layer["class_name"] for layer in layers]
    if kinds != TUTORIAL_LAYERS:
        raise ValueError(f"its layers are {', '.join(kinds)}; expected {', '.join(TUTORIAL_LAYERS)}")
    gru, dense, activation = (layer["config"] for layer in layers)
    inner = dense["layer"]
    wrong = [f"{key}={gru[key]}" for key, value in TUTORIAL_GRU.items() if gru[key] != value]
    if inner["class_name"] != "Dense" or inner["config"]["activation"] != "linear":
        wrong.append("its output layer is not a linear Dense")
    if activation["activation"] != "softmax":
        wrong.append(f"activation={activation['activation']}")
    if wrong:
        raise ValueError(f"its config asks for {', '.join(wrong)}")
    return gru["name"], dense["name"]
