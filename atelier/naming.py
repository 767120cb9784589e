"""Find and check what users name: networks, layers, photos and data sets. Suggest a correction of a wrong name.

Names are returned in Keras's spelling. A wrong name raises InputError. This module does not import TensorFlow.
"""

import contextlib
import difflib
import math
import os
import pathlib
import re

import config
from atelier.errors import InputError


def suggestion(name, known):
    """Return " (did you mean X?)", where X is the `known` name that is most similar, or "" if none is similar."""
    near = [known_name for known_name in known if name and known_name.startswith(name)]
    near = near or difflib.get_close_matches(name, known, 1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def check_names(names, known, what):
    """Raise InputError if one of `names` is not in `known`. The message suggests the most similar known name."""
    for name in names:
        if name not in known:
            raise InputError(f"{what} has no {name}{suggestion(name, known)}; it has {', '.join(known)}")


def name_and_weight(text, flag=None):
    """Split NAME=WEIGHT into the name and the weight; the weight is 1 if `text` has none or is an existing path.

    Raises InputError for a weight that is not above 0. The message names `flag`.
    """
    name, sign, weight = text.rpartition("=")
    if not sign or pathlib.Path(text).exists():
        return text, 1.0
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise InputError(f"{flag} takes NAME=WEIGHT with a weight above 0, and {text} has none")
    return name, number


def normalized(name):
    """Return a name in lower case and without spaces, hyphens and underscores, for comparisons."""
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


def natural_key(name):
    """Return a sort key that compares numbers in names by value: block10 comes after block9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


# --- Networks and their layers -----------------------------------------------------------------

# The networks of keras.applications, each with the module that contains its preprocessing.
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
    """Return a network's name in Keras's spelling; `convnet` may differ in case, hyphens and underscores."""
    spelled = {normalized(name): name for name in NETWORKS}
    check_names([normalized(convnet)], list(spelled), "keras.applications")
    return spelled[normalized(convnet)]


def own_classifier(convnet):
    """Return the .keras or .h5 file of the user's own classifier, or None for a network of keras.applications.

    For a folder of saved epochs, it is the file of the last epoch. Raises InputError if `convnet` is none of these.
    """
    if normalized(str(convnet)) in map(normalized, NETWORKS):
        return None
    path = find_trained(convnet)
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


def find_trained(name, folder="trained"):
    """Return the path of the networks or the file that `name` names, or `name` as a path if there are none.

    A name is looked for as a path, then in `folder` here, then in `folder` of this project, and last as a path in this
    project. So the networks that are included have the same names in every working folder.
    """
    paths = (pathlib.Path(name), pathlib.Path(folder, name), config.ROOT / folder / name, config.ROOT / name)
    return next((path for path in paths if holds_networks(path)), paths[0])


def known_styles():
    """List the names of the learned styles in trained/styles, here and in this project."""
    roots = (pathlib.Path("trained/styles"), config.ROOT / "trained/styles")
    return sorted({str(path.parent.relative_to(root)) for root in roots for path in root.glob("**/style.npz")})


def holds_networks(path):
    """Tell whether a path is a file, or a folder with networks or a meta.json that describes some."""
    if not path.is_dir():
        return path.is_file()
    return (path / "meta.json").is_file() or any(file.suffix in MODEL_FILES for file in path.iterdir())


def saved_epochs(folder):
    """List the model files in a folder, in the order of the numbers in their names."""
    paths = [path for path in pathlib.Path(folder).iterdir() if path.suffix in MODEL_FILES]
    paths = [path for path in paths if not path.name.endswith(".weights.h5")]
    return sorted(paths, key=lambda path: natural_key(path.name))


CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}  # number of convolutions in each of the five blocks


def layer_names(convnet):
    """List the layers of VGG16 or VGG19 by their names in Keras, from the first convolution on."""
    blocks = enumerate(CONVOLUTIONS[convnet], 1)
    return [f"block{b}_{kind}" for b, count in blocks for kind in [*(f"conv{i + 1}" for i in range(count)), "pool"]]


def check_layers(layers, convnet):
    """Raise InputError if `convnet` is VGG16 or VGG19 and lacks one of the layers. Others are checked after loading."""
    if (name := normalized(str(convnet))) in CONVOLUTIONS:
        check_names(layers, layer_names(name), convnet)


def parse_layers(layers):
    """Return a dict from layer to weight for texts such as ("block4_conv3=1.0", "block5_conv1"). Raises InputError."""
    weights = {}
    for text in layers:
        name, _, weight = text.partition("=")
        if not name or "," in text:
            raise InputError("--layers takes LAYER=WEIGHT without spaces or commas, and a space between two of them")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            raise InputError(f"--layers takes LAYER=WEIGHT, and the weight in {text} is not a number") from None
        if not (math.isfinite(weights[name]) and weights[name]):
            raise InputError(f"--layers {text}: a weight must be a finite number other than 0")
    return weights


# --- Photos ------------------------------------------------------------------------------------


def check_photos(paths, others=()):
    """Raise InputError if one of these photos, or folders of photos, does not exist.

    The message suggests a file of a similar name, or one of the words in `others`, which can stand for a photo.
    """
    for path in map(pathlib.Path, paths):
        if not path.exists():
            style = f"; for the learned style of this name: --learned {path}" if str(path) in known_styles() else ""
            raise InputError(f"{path} does not exist{style or similar_file(path, others)}")


def similar_file(path, others=()):
    """Return " (did you mean X?)", where X is a file beside `path`, or one of `others`, or "" if none is similar."""
    if "," in path.name and all((path.parent / part.strip()).exists() for part in str(path).split(",")):
        return "; put spaces, not commas, between several"
    try:
        beside = [file.name for file in path.parent.iterdir() if not file.name.startswith(".")]
    except OSError:
        beside = []
    return suggestion(path.name, [*beside, *others])


FILM_ENDINGS = {".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".wmv", ".3gp"}
ANIMATION_ENDINGS = {".gif", ".webp"}  # such files can be films or pictures
FILM_KINDS = (".mp4", ".webm", ".gif", ".webp")  # that are written


def is_film(path):
    """Tell whether a path names a film: by its suffix and, for a GIF or WebP, by whether it has several frames."""
    path = pathlib.Path(path)
    if path.suffix.lower() in FILM_ENDINGS:
        return not path.is_dir()
    if path.suffix.lower() not in ANIMATION_ENDINGS:
        return False
    from PIL import Image

    with contextlib.suppress(Exception), Image.open(path) as picture:  # a damaged file can raise any error
        return getattr(picture, "n_frames", 1) > 1
    return False


def check_film_options(arguments, inputs, more=("fps",)):
    """Raise InputError if an option of films was given, and there is neither a film nor a folder among the inputs."""
    if any(path.is_dir() or is_film(path) for path in inputs):
        return
    for name in ("start", "end", "steady", "frames_every", *more):
        if hasattr(arguments, name):
            raise InputError(f"--{name.replace('_', '-')} is for films, and no film is given")


def are_many(paths):
    """Tell whether the pictures go to a folder: there are several photos, or there is a folder of them."""
    return len(paths) > 1 or any(path.is_dir() for path in paths)


def name_of_photos(paths):
    """Return the name that results are named after: that of the photo, or of the folder that holds all photos."""
    if not are_many(paths):
        return paths[0].stem
    folders = [path.resolve() if path.is_dir() else path.resolve().parent for path in paths]
    return pathlib.Path(os.path.commonpath(folders)).name or "photos"


AUTO_REGIONS = "auto"  # as the value of --regions, it is no picture: the photo is split by colour and place


# --- Data sets ---------------------------------------------------------------------------------

SETS = ("digits", "mnist", "fashion_mnist")  # these need no files from the user


def check_set(source, data):
    """Raise InputError if `data` is given and does not exist, or if it is not given and `source` is not one of SETS."""
    if data is None and source not in SETS:
        raise InputError(f"{source} is not {', '.join(SETS[:-1])} or {SETS[-1]}; give its files with --data")
    if data is not None and not pathlib.Path(data).exists():
        raise InputError(f"{data} does not exist; --data takes an .npz or a folder with the four IDX files")
