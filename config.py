"""Every default and preset, written once, and the command-line manners that the scripts share.

A field of a dataclass below is an option: its name makes the flag (`batch_size` -> `--batch-size`), its
annotation the type, its default the default, its metadata the help. Only the standard library is
imported here, so that `--help` and a wrong flag are answered at once.
"""

import argparse
import dataclasses
import importlib.util
import sys
import typing


def option(default, help, choices=None, metavar=None):
    """Describe one option: its default, the sentence for --help and, where they are few, its values."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "metavar": metavar})


def like(options, name, default):
    """Describe an option as another dataclass does, with another default."""
    return dataclasses.field(default=default, metadata=options.__dataclass_fields__[name].metadata)


@dataclasses.dataclass(frozen=True)
class Common:
    """What every script takes."""

    overwrite: bool = option(False, "replace results that exist already")
    seed: int = option(0, "the same seed gives the same result on the same machine")
    precision: str = option(
        "auto",
        "arithmetic of the networks; auto takes bfloat16 where the hardware multiplies it natively",
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
        "learning rate over time: constant, a short rise and then a cosine fall to zero, or (painters) a fall to a "
        "tenth after two thirds of the epochs, or to a half whenever the loss has not fallen for three",
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

    output: str | None = option(
        None, "folder for the models (default: trained/SOURCE; of digits with another preset, trained/SOURCE_PRESET)"
    )
    data: str | None = option(None, "an .npz as Keras keeps MNIST, or a folder with the four IDX files")
    num_images: int | None = option(None, "use only the first NUM_IMAGES training pictures (of each class)")
    validation: str | None = option(None, "a folder of pictures to score after each epoch (painters)", metavar="FOLDER")
    validation_split: float = option(0.0, "share of the pictures (of each class) kept out of training and scored")
    patience: int | None = option(None, "stop after this many epochs without a better validation score")
    sample_every: int = option(10, "draw a sheet of pictures after every so many epochs (painters)", metavar="EPOCHS")
    resume: bool = option(False, "go on with a training that was interrupted")


@dataclasses.dataclass(frozen=True)
class Generate(Common):
    """generate_rnn.py: what to draw."""

    output: str | None = option(
        None, "the PNG to write (default: generated/MODELS.png, and what was drawn in its name)"
    )
    grid: int = option(5, "draw GRID x GRID digits; with --all-digits a row of GRID for each class")
    count: int = option(6, "draw so many pictures with a painter")
    temperature: float = option(1.0, "below 1 bolder and more alike, above 1 wilder; 0 draws the likeliest pixel")
    top_k: int | None = option(None, "draw only among the K likeliest colours or greys")
    top_p: float | None = option(None, "draw only among the likeliest that have probability P together")
    start: str = option(
        "nothing",
        "begin a painter's pictures with nothing, or each with a random window of the pictures it was trained on",
        choices=("nothing", "window"),
    )
    complete: str | None = option(None, "a picture of which the first rows are kept", metavar="PICTURE")
    rows: int | None = option(None, "rows kept of --complete (default: a third of them)")
    gif: bool = option(False, "also write a GIF of the pictures being drawn")
    evolution: bool = option(False, "draw nothing: a sheet and a GIF of what a painter drew during its training")


@dataclasses.dataclass(frozen=True)
class Classify(Common):
    """classify_mnist.py: what to classify."""

    output: str | None = option(None, "the confusion matrix to write (default: generated/MODELS_confusion.png)")
    data: str | None = like(Train, "data", None)
    num_images: int | None = option(None, "classify only the first NUM_IMAGES test pictures (default: all)")
    priors: str = option(
        "uniform",
        "how likely each class is before looking: all alike, or as often as in the training set",
        choices=("uniform", "empirical"),
    )
    image: str | None = option(None, "classify this one picture and print the posterior", metavar="PICTURE")
    csv: str | None = option(None, "also write each picture's label, prediction and posterior", metavar="FILE")


class InputError(Exception):
    """The command, or a file that it names, is wrong. The message says what, and what to do."""

    status = 2


class PartlyDone(InputError):
    """Some of the work failed, and the rest of it is done."""

    status = 1


class Unfinished(InputError):
    """This very training was begun and not finished, and --resume was not given."""


class Interrupted(InputError):
    """Ctrl-C was pressed. The message says how to go on."""

    status = 130


class Parser(argparse.ArgumentParser):
    """An argument parser that explains a script with its docstring and puts an error into one line."""

    def __init__(self, description):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=formatter, allow_abbrev=False)

    def error(self, message):
        fail(f"{message} (--help lists the flags)", 2)


def require_suffix(path, suffix):
    """Raise InputError unless the file to be written ends in `suffix`: its content will be of that kind."""
    if path is not None and not str(path).lower().endswith(suffix):
        raise InputError(f"{path} should end in {suffix}")


def add_options(parser, options, default_help=True, without=None):
    """Add a flag for each field of the dataclass `options` that `without` lacks; one not given leaves no attribute."""
    known = {item.name for item in dataclasses.fields(without)} if without else ()
    for item in dataclasses.fields(options):
        if item.name in known:
            continue
        kinds = [kind for kind in typing.get_args(item.type) or (item.type,) if kind is not type(None)]
        text = item.metadata["help"].replace("%", "%%")
        if default_help and item.default not in (None, False):
            text += f" (default: {item.default})"
        flag = "--" + item.name.replace("_", "-")
        settings = {"default": argparse.SUPPRESS, "help": text}
        if kinds == [bool]:
            parser.add_argument(flag, action="store_true", **settings)
        else:
            choices, metavar = item.metadata["choices"], item.metadata["metavar"]
            parser.add_argument(flag, type=kinds[0], choices=choices, metavar=metavar, **settings)


def collect(options, arguments, base=None):
    """Make an `options` dataclass of the flags that were given, over `base` or the defaults. Raises InputError."""
    if not 0 <= getattr(arguments, "seed", 0) < 1_000_000:
        raise InputError("--seed must be from 0 to 999999")
    names = {item.name for item in dataclasses.fields(options)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
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
    try:
        main()
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except (InputError, OSError, MemoryError) as error:
        if "--debug" in sys.argv:
            raise
        fail(describe(error), getattr(error, "status", 2))
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        fail(f"{type(error).__name__}: {describe(error)[:300]} (--debug shows where)", 2)


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
