"""Networks that know photographs: VGG, those of keras.applications, and classifiers of one's own, with their weights.

In go a name or a file, out come a Keras model and what makes its input of pictures N x H x W x 3 in 0..255.
"""

import contextlib
import os
import pathlib
import sys
import threading
import urllib.request

from atelier import hardware  # noqa: F401, it has TensorFlow start quietly

# isort: split
import h5py
import keras
import numpy as np

import config
from atelier.errors import InputError
from atelier.naming import MODEL_FILES, NETWORKS, natural_key, network_name, normalized
from atelier.networks import classifiers

# --- VGG ---------------------------------------------------------------------------------------

IMAGENET_VGG16 = config.ROOT / "trained/vgg16/imagenet.npz"


def load_vgg(convnet="vgg16", weights=None):
    """Load the convolutions of VGG16 or VGG19 (Simonyan & Zisserman 2015): (model, what its weights are).

    `weights` is a file with the convolutions, or imagenet; None is imagenet, too. ImageNet's of VGG16 ship, those of
    VGG19 come from Keras. Raises InputError.
    """
    if weights in (None, "imagenet"):
        if convnet == "vgg19":
            return load_from_keras("VGG19"), "imagenet"
        return load_convolutions(convnet, IMAGENET_VGG16), "imagenet"
    return load_convolutions(convnet, weights), str(weights)


def load_convolutions(convnet, path):
    """Build VGG16 or VGG19 without its classes, with the convolutions in a file. Raises InputError."""
    model = build_network(convnet)
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    convolutions = read_convolutions(path)
    if [kernel.shape for kernel, _ in convolutions] != [tuple(layer.kernel.shape) for layer in layers]:
        raise InputError(f"{path} holds {len(convolutions)} convolutions of 3 x 3, and not those of {convnet}")
    for layer, arrays in zip(layers, convolutions):
        layer.set_weights(arrays)
    return model


def read_convolutions(path):
    """Read the 3 x 3 convolutions of a network from a .h5, .weights.h5 or .npz file, in order: [(kernel, bias), ...].

    An .npz holds a layer's arrays side by side, as block1_conv1/kernel and block1_conv1/bias. Raises InputError.
    """
    layers = {}

    def keep(name, item):
        if isinstance(item, (h5py.Dataset, np.ndarray)) and item.ndim in (1, 4):
            layers.setdefault(name.rpartition("/")[0], {})[item.ndim] = item[()]

    try:
        if str(path).endswith(".npz"):
            with np.load(path, allow_pickle=False) as archive:
                for name in archive:
                    keep(name, archive[name])
        else:
            with h5py.File(path) as file:
                file.visititems(keep)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; --weights takes imagenet or a file") from error
    except Exception as error:  # h5py, NumPy and zipfile raise whatever their parsers do
        raise InputError(f"{path} is not a readable file of weights: {error}") from error

    found = [layers[name] for name in sorted(layers, key=natural_key)]
    return [(arrays[4], arrays[1]) for arrays in found if len(arrays) == 2 and arrays[4].shape[:2] == (3, 3)]


# --- Other networks ----------------------------------------------------------------------------


def load_network(convnet, weights=None, top=False, input_range=None):
    """Load a network of keras.applications, or a classifier of one's own: (model, preprocess, what its weights are).

    `convnet` is a name, or a file as classifiers.py takes it, of a model that takes pixels in the `input_range`. With
    `top` the model ends in the logits of its classes; `preprocess` makes its input of pictures N x H x W x 3 in 0..255.
    `weights` is as for load_vgg, or a file with all the weights. Raises InputError.
    """
    if str(convnet).endswith(MODEL_FILES):
        if weights is not None:
            raise InputError(f"{convnet} has weights of its own; --weights goes with a network of keras.applications")
        model = classifiers.load(convnet)
        preprocess, _ = classifiers.input_of(model, input_range)
        return (classifiers.to_logits(model, convnet) if top else model), preprocess, str(convnet)
    if input_range is not None:
        raise InputError("--input-range goes with a classifier of your own, which --convnet names")
    name = network_name(convnet)
    module = getattr(keras.applications, NETWORKS[name])
    preprocess = module.preprocess_input
    if name in ("VGG16", "VGG19") and not top:
        model, source = load_vgg(name.lower(), weights)
        return model, preprocess, source
    if weights in (None, "imagenet"):
        return load_from_keras(name, top), preprocess, "imagenet"
    model = build_network(name, top)
    try:
        model.load_weights(weights)
    except FileNotFoundError as error:
        raise InputError(f"{weights} does not exist; --weights takes imagenet or a file") from error
    except Exception as error:  # Keras raises whatever its parsers do
        reason = str(error).strip().split("\n")[0][:200]
        raise InputError(f"{weights} holds no weights for {name}{' with its classes' * top}: {reason}") from error
    return model, efficientnet_input if name.startswith("EfficientNetB") else preprocess, str(weights)


def efficientnet_input(pictures):
    """Make up for what Keras has in these networks only where it downloads their weights: a division by sqrt(std)."""
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return 255 * (mean + (pictures / 255 - mean) / np.sqrt(std))


def build_network(convnet, top=False, weights=None):
    """Build a network of keras.applications, or load a classifier of one's own. Raises InputError."""
    if str(convnet).endswith(MODEL_FILES):
        return classifiers.load(convnet)
    name = network_name(convnet)
    more = {"classifier_activation": None} if top else {}
    if name in NASNET_SIDES:  # they can't be built for all sizes
        more |= {"input_shape": (NASNET_SIDES[name], NASNET_SIDES[name], 3)}
    return getattr(keras.applications, name)(include_top=top, weights=weights, **more)


NASNET_SIDES = {"NASNetMobile": 224, "NASNetLarge": 331}  # pixels


# --- Keras's own weights -----------------------------------------------------------------------

SOME_FILE = (
    "https://storage.googleapis.com/tensorflow/keras-applications/"
    "vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
)


def load_from_keras(name, top=False):
    """Load a network of keras.applications with ImageNet's weights, as Keras has them. Raises InputError."""
    if imagenet_is_at_hand(name, top):
        with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):
            return build_network(name, top, weights="imagenet")
    raise InputError(f"{name}'s ImageNet weights are not in Keras's cache and can't be downloaded; give --weights FILE")


def imagenet_is_at_hand(name, top=False):
    """Say whether Keras has the file in its cache or, as found out in three seconds, could download one."""
    home = pathlib.Path(os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras")
    files = [normalized(path.stem.removeprefix("weights_")) for path in home.glob("models/*.h5")]
    if any(network_of(file) == normalized(name) and ("notop" in file) != top for file in files):
        return True
    answers = []

    def ask():
        request = urllib.request.Request(SOME_FILE, method="HEAD")
        with contextlib.suppress(Exception), urllib.request.urlopen(request, timeout=3) as answer:
            answers.append(answer.status)

    asking = threading.Thread(target=ask, daemon=True)  # looking a name up knows no timeout
    asking.start()
    asking.join(3)
    return answers == [200]


def network_of(file):
    """Return the plain name of the network that a file in Keras's cache is named after, or None."""
    return max((normalized(name) for name in NETWORKS if file.startswith(normalized(name))), key=len, default=None)
