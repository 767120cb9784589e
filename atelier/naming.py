"""Names that users type, of networks, layers and data sets: checked, and what was meant where they are nearly right.

In go words of a command, out come names as Keras has them, or an InputError. Nothing here starts TensorFlow.
"""

import difflib
import math
import pathlib
import re

from atelier.errors import InputError


def meant(name, known):
    """Ask in brackets for the likeliest of the `known` names, or say nothing where none is like this one."""
    near = [longer for longer in known if name and longer.startswith(name)]
    near = near or difflib.get_close_matches(name, known, 1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def check_names(names, known, what):
    """Raise InputError, with the likeliest intended, where one of `names` is not among `known`."""
    for name in names:
        if name not in known:
            raise InputError(f"{what} has no {name}{meant(name, known)}; it has {', '.join(known)}")


def weighted(text, flag=None):
    """Return the name and the weight of NAME=WEIGHT, or of NAME alone, which weighs 1. Raises InputError."""
    name, sign, weight = text.rpartition("=")
    if not sign or pathlib.Path(text).exists():
        return text, 1.0
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise InputError(f"{flag} takes NAME=WEIGHT, a number above 0, and {text} has none")
    return name, number


def plain(name):
    """Return a name without regard to case, spaces, hyphens and underscores."""
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


def in_order(name):
    """Return what to sort a name by, so that block10 comes after block9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


# --- Networks and their layers -----------------------------------------------------------------

# The networks of keras.applications, by the module that each one's preprocessing is in.
NETWORKS = {
    name: module
    for module, names in {
        "convnext": "ConvNeXtTiny ConvNeXtSmall ConvNeXtBase ConvNeXtLarge ConvNeXtXLarge",
        "densenet": "DenseNet121 DenseNet169 DenseNet201",
        "efficientnet": " ".join(f"EfficientNetB{i}" for i in range(8)),
        "efficientnet_v2": " ".join(f"EfficientNetV2{i}" for i in ("B0", "B1", "B2", "B3", "S", "M", "L")),
        "inception_resnet_v2": "InceptionResNetV2",
        "inception_v3": "InceptionV3",
        "mobilenet": "MobileNet",
        "mobilenet_v2": "MobileNetV2",
        "mobilenet_v3": "MobileNetV3Small MobileNetV3Large",
        "nasnet": "NASNetMobile NASNetLarge",
        "resnet": "ResNet50 ResNet101 ResNet152",
        "resnet_v2": "ResNet50V2 ResNet101V2 ResNet152V2",
        "vgg16": "VGG16",
        "vgg19": "VGG19",
        "xception": "Xception",
    }.items()
    for name in names.split()
}


def network_name(convnet):
    """Return a network's name as Keras spells it, from one without regard to case and underscores."""
    spelled = {plain(name): name for name in NETWORKS}
    check_names([plain(convnet)], list(spelled), "keras.applications")
    return spelled[plain(convnet)]


def own_classifier(convnet):
    """Return the .keras or .h5 file of a classifier of the user's own, or None for a network of keras.applications.

    Of a folder of saved epochs it is the last one. Raises InputError where it is neither.
    """
    path = pathlib.Path(convnet)
    if plain(str(convnet)) in map(plain, NETWORKS):
        return None
    if path.is_dir():
        if not (epochs := saved_epochs(path)):
            raise InputError(f"{path} holds no .keras or .h5 file")
        return epochs[-1]
    if path.suffix in MODEL_FILES:
        if not path.exists():
            raise InputError(f"{path} does not exist")
        return path
    network_name(str(convnet))
    return None


MODEL_FILES = (".keras", ".h5", ".hdf5")


def saved_epochs(folder):
    """List the files of models in a folder, in the order of the numbers in their names."""
    paths = [path for path in pathlib.Path(folder).iterdir() if path.suffix in MODEL_FILES]
    paths = [path for path in paths if not path.name.endswith(".weights.h5")]
    return sorted(paths, key=lambda path: in_order(path.name))


CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}  # in each of the five blocks


def layer_names(convnet):
    """List the names of a VGG's layers from the first convolution on, as Keras has them."""
    blocks = enumerate(CONVOLUTIONS[convnet], 1)
    return [f"block{b}_{kind}" for b, count in blocks for kind in [*(f"conv{i + 1}" for i in range(count)), "pool"]]


def check_layers(layers, convnet):
    """Raise InputError where a VGG lacks one of the layers; of other networks that is known once they are loaded."""
    if (name := plain(str(convnet))) in CONVOLUTIONS:
        check_names(layers, layer_names(name), convnet)


def parse_layers(layers):
    """Read ("block4_conv3=1.0", "block5_conv1") as a dict from layer to weight. Raises InputError."""
    weights = {}
    for text in layers:
        name, _, weight = text.partition("=")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            raise InputError(f"--layers takes LAYER=WEIGHT, and {text} has no number") from None
        if not (math.isfinite(weights[name]) and weights[name]):
            raise InputError(f"--layers {text}: a weight must be a number, and not 0")
    return weights


# --- Data sets ---------------------------------------------------------------------------------

SETS = ("digits", "mnist", "fashion_mnist")  # of pictures, that need no files of the user's


def check_set(source, data):
    """Raise InputError where a set of pictures is neither one of SETS nor to be found in the files `data`."""
    if data is None and source not in SETS:
        raise InputError(f"{source} is not {', '.join(SETS[:-1])} or {SETS[-1]}; give its files with --data")
    if data is not None and not pathlib.Path(data).exists():
        raise InputError(f"{data} does not exist; --data takes an .npz or a folder with the four IDX files")
