"""Loading pretrained networks with their weights: VGG, keras.applications, and the user's own classifiers.

The input is a name or a file. The results are a Keras model and the function that converts pictures, N x H x W x 3 in
0..255, to the model's input.
"""

import contextlib
import os
import pathlib
import sys
import threading
import urllib.request

from atelier import hardware  # noqa: F401, Keras starts quietly

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
    """Load the convolutions of VGG16 or VGG19 (Simonyan & Zisserman 2015): (model, source of its weights).

    `weights` is a file with the convolutions, or imagenet; None means imagenet. VGG16's ImageNet weights are part of
    the toolkit, VGG19's come from Keras. Raises InputError.
    """
    if weights in (None, "imagenet"):
        if convnet == "vgg19":
            return load_from_keras("VGG19"), "imagenet"
        return load_convolutions(convnet, IMAGENET_VGG16), "imagenet"
    return load_convolutions(convnet, weights), str(weights)


def load_convolutions(convnet, path):
    """Build VGG16 or VGG19 without its classes, and load its convolutions from a file. Raises InputError."""
    model = build_network(convnet)
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    convolutions = read_convolutions(path)
    if [kernel.shape for kernel, _ in convolutions] != [tuple(layer.kernel.shape) for layer in layers]:
        raise InputError(f"{path} contains {len(convolutions)} convolutions of 3 x 3, which are not those of {convnet}")
    for layer, arrays in zip(layers, convolutions):
        layer.set_weights(arrays)
    return model


def read_convolutions(path):
    """Read the 3 x 3 convolutions of a network from a .h5, .weights.h5 or .npz file, in order: [(kernel, bias), ...].

    In an .npz, the arrays of a layer have names such as block1_conv1/kernel and block1_conv1/bias. Raises InputError.
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
    except Exception as error:  # h5py, NumPy and zipfile raise errors of many kinds
        raise InputError(f"{path} is not a readable file of weights: {error}") from error

    found = [layers[name] for name in sorted(layers, key=natural_key)]
    return [(arrays[4], arrays[1]) for arrays in found if len(arrays) == 2 and arrays[4].shape[:2] == (3, 3)]


# --- Other networks ----------------------------------------------------------------------------


def load_network(convnet, weights=None, top=False, input_range=None):
    """Load a network of keras.applications, or a classifier of the user's own: (model, preprocess, source of weights).

    `convnet` is a network's name, or a model file (see classifiers.py). `input_range` is the range of a model file's
    input. With `top` the model returns the logits of its classes. `preprocess` turns pictures N x H x W x 3 in 0..255
    into the model's input. `weights` is as for load_vgg, or a file with all the weights. Raises InputError.
    """
    if str(convnet).endswith(MODEL_FILES):
        if weights is not None:
            raise InputError(f"{convnet} has weights of its own; --weights is for networks of keras.applications")
        model = classifiers.load_classifier(convnet)
        preprocess, _ = classifiers.input_preprocessing(model, input_range)
        return (classifiers.to_logits(model, convnet) if top else model), preprocess, str(convnet)
    if input_range is not None:
        raise InputError("--input-range is for a classifier of your own, which --convnet names")
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
    except Exception as error:  # Keras's parsers raise errors of many kinds
        reason = str(error).strip().split("\n")[0][:200]
        raise InputError(f"{weights} contains no weights for {name}{' with its classes' * top}: {reason}") from error
    return model, efficientnet_input if name.startswith("EfficientNetB") else preprocess, str(weights)


def efficientnet_input(pictures):
    """Divide the differences of pictures from ImageNet's mean by sqrt(std).

    Keras adds this step to EfficientNetB0 to B7 only if it loads its own ImageNet weights.
    """
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return 255 * (mean + (pictures / 255 - mean) / np.sqrt(std))


def build_network(convnet, top=False, weights=None):
    """Build a network of keras.applications, or load a classifier of the user's own. Raises InputError."""
    if str(convnet).endswith(MODEL_FILES):
        return classifiers.load_classifier(convnet)
    name = network_name(convnet)
    options = {"classifier_activation": None} if top else {}
    if name in NASNET_SIDES:  # these networks can't be built for all sizes
        options |= {"input_shape": (NASNET_SIDES[name], NASNET_SIDES[name], 3)}
    return getattr(keras.applications, name)(include_top=top, weights=weights, **options)


NASNET_SIDES = {"NASNetMobile": 224, "NASNetLarge": 331}  # pixels


# --- Keras's own weights -----------------------------------------------------------------------

EXAMPLE_FILE = (
    "https://storage.googleapis.com/tensorflow/keras-applications/"
    "vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
)


def load_from_keras(name, top=False):
    """Load a network of keras.applications with Keras's ImageNet weights. Raises InputError."""
    if weights_are_available(name, top):
        with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):
            return build_network(name, top, weights="imagenet")
    raise InputError(f"{name}'s ImageNet weights are not in Keras's cache and can't be downloaded; give --weights FILE")


def weights_are_available(name, top=False):
    """Tell whether ImageNet's weights are in Keras's cache or can be downloaded. This takes at most three seconds."""
    home = pathlib.Path(os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras")
    files = [normalized(path.stem.removeprefix("weights_")) for path in home.glob("models/*.h5")]
    if any(network_of_file(file) == normalized(name) and ("notop" in file) != top for file in files):
        return True
    statuses = []

    def request_example():
        request = urllib.request.Request(EXAMPLE_FILE, method="HEAD")
        with contextlib.suppress(Exception), urllib.request.urlopen(request, timeout=3) as response:
            statuses.append(response.status)

    thread = threading.Thread(target=request_example, daemon=True)  # urlopen's timeout does not limit a DNS lookup
    thread.start()
    thread.join(3)
    return statuses == [200]


def network_of_file(file):
    """Return the normalized name of the network whose weights are in a file of Keras's cache, or None."""
    return max((normalized(name) for name in NETWORKS if file.startswith(normalized(name))), key=len, default=None)
