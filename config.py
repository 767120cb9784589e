"""All options of the scripts with their defaults, ranges and help texts, and the presets.

Each field of a dataclass below is an option. The command line makes a flag from it: the field's name gives the flag's
name (`batch_size` -> `--batch-size`), its annotation the type, and its metadata the help text and the allowed values.
This module imports only the standard library, so that `--help` and the error for a wrong flag appear at once.
"""

import dataclasses
import functools
import math
import pathlib
import typing

ROOT = pathlib.Path(__file__).resolve().parent  # the folder of the scripts, atelier/, trained/ and images/
FORMER_WEIGHTS = "hed"  # weights that earlier versions used; old pictures and styles still name them
PathName = typing.NewType("PathName", str)  # the type of an option whose value is a path, or can be one


@dataclasses.dataclass(frozen=True)
class Range:
    """A range of finite numbers that an option allows."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, number):
        return (
            abs(number) < math.inf
            and (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    def __str__(self):
        if self.least is not None and self.most is not None:
            return f"from {self.least} to {self.most}"
        words = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{word} {number}" for word, number in words.items() if number is not None)


def option(default, help, choices=None, metavar=None, **limits):
    """Return a dataclass field for an option, with its default, its help text and any list of allowed values.

    For a number, `limits` are the arguments of Range.
    """
    described = {"help": help, "choices": choices, "metavar": metavar, "range": Range(**limits) if limits else None}
    return dataclasses.field(default=default, metadata=described)


def like(options, name, default, **limits):
    """Return a copy of the field of this name in `options`, with another default and, if given, other limits."""
    described = dict(options.__dataclass_fields__[name].metadata)
    return dataclasses.field(default=default, metadata=described | ({"range": Range(**limits)} if limits else {}))


def several(default, help, metavar):
    """Return a field for an option that takes one or more values: a tuple."""
    return option(default, help, metavar=metavar)


@dataclasses.dataclass(frozen=True)
class Common:
    """The options of every script."""

    overwrite: bool = option(False, "replace results that exist already")
    seed: int = option(0, "the same seed gives the same result on the same machine", least=0, most=999_999)
    precision: str = option(
        "auto",
        "number format of the networks; auto uses bfloat16 for convolutions and for training, on hardware that is "
        "faster with it, and float32 for all else",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    no_metadata: bool = option(False, "write pictures without command, names of files, versions, date and camera")
    quiet: bool = option(False, "no progress bars and no notes")
    debug: bool = option(False, "show the whole traceback of an error")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """A next-pixel network and its training; a preset is a DigitConfig or a PainterConfig."""

    cell: str = option("gru", "recurrent cell", choices=("gru", "lstm"))
    units: int = option(256, "units of a recurrent layer", least=1, most=8192)
    layers: int = option(1, "recurrent layers, stacked", least=1, most=16)
    dropout: float = option(0.0, "share of a recurrent layer's outputs dropped in training", least=0, below=1)
    context: str = option(
        "previous",
        "what the network reads before each pixel: the previous pixel, or ten neighbours to the left and above, or "
        "these neighbours and the pixel's row and column (painters), or (digits) 25 neighbours, row and column",
        choices=("previous", "above", "wide", "place"),
    )
    epochs: int = option(12, "passes over the training pictures", least=1, most=100_000)
    batch_size: int = option(32, "pictures, or windows of them, in one step of the optimizer", least=1, most=100_000)
    learning_rate: float = option(1e-3, "the optimizer's learning rate (its peak, with a schedule)", above=0, most=1)
    schedule: str = option(
        "constant",
        "learning rate over time: constant; cosine, a short rise and then a cosine fall to zero; (painters) late, a "
        "tenth of it after two thirds of the epochs, or plateau, half of it after three epochs without a lower loss. "
        "If --resume adds epochs, cosine and late continue as if all were planned at first, so the rate may rise",
        choices=("constant", "cosine", "late", "plateau"),
    )


@dataclasses.dataclass(frozen=True)
class DigitConfig(TrainingConfig):
    """One network for each class of a set of small grey pictures."""

    size: int = option(10, "pictures are resized to SIZE x SIZE pixels", least=2, most=256)
    levels: int = option(7, "pictures are quantized to this many grey levels (2 to 256)", least=2, most=256)
    shift: int = option(0, "also train on pictures shifted by up to this many original pixels", least=0, most=8)
    distort: float = option(
        0.0,
        "turn, stretch, slant, shift and bend each picture at random, anew in each epoch; 1 is usual",
        least=0,
        most=4,
    )
    sampled: bool = option(
        False, "make pictures black and white at random, anew in each epoch: a pixel's grey is its probability of white"
    )
    block: int = option(1, "predict BLOCK x BLOCK pixels at once, as one of at most 256 symbols", least=1, most=8)
    order: str = option(
        "rows", "read by rows, by columns, or by both: two networks a class", choices=("rows", "columns", "both")
    )
    hidden: int = option(
        0, "units of one more layer, which reads the recurrent layers and their input; 0 for none", least=0, most=8192
    )
    common_epochs: int = option(
        0, "train a network on all classes for this many epochs first; each class begins with it", least=0, most=1000
    )
    half: bool = option(False, "write the networks in half precision; their files are half as large")
    together: bool = option(False, "with --all-digits: train one network for all classes, not one for each")


@dataclasses.dataclass(frozen=True)
class PainterConfig(TrainingConfig):
    """One network for a folder of pictures, in colours of a palette or in greys."""

    cell: str = like(TrainingConfig, "cell", "lstm")
    units: int = like(TrainingConfig, "units", 512)
    layers: int = like(TrainingConfig, "layers", 2)
    dropout: float = like(TrainingConfig, "dropout", 0.2)
    context: str = like(TrainingConfig, "context", "place")
    epochs: int = like(TrainingConfig, "epochs", 50)
    batch_size: int = like(TrainingConfig, "batch_size", 32)
    learning_rate: float = like(TrainingConfig, "learning_rate", 2e-3)
    schedule: str = like(TrainingConfig, "schedule", "cosine")
    width: int = option(
        75, "the middle of each picture is cropped and resized to WIDTH x HEIGHT pixels", least=2, most=1024
    )
    height: int = option(75, "see --width", least=2, most=1024)
    colors: int = option(256, "colours of the palette, chosen by K-means (2 to 4096)", least=2, most=4096)
    gray: int | None = option(None, "grey levels instead of colours (2 to 256)", metavar="LEVELS", least=2, most=256)
    embedding: int = option(32, "size of the vector by which the network represents a colour", least=1, most=4096)
    targets: str = option(
        "all",
        "train on every pixel of a window, with the state carried from window to window, or on the last pixel only",
        choices=("all", "last"),
    )
    window: int | None = option(None, "pixels in a window (default: a row)", least=1)
    stride: int = option(1, "with --targets last: pixels from one window to the next", least=1, most=100_000)
    optimizer: str = option("adam", "optimizer of the training", choices=("adam", "rmsprop"))
    clip: float = option(1.0, "maximum norm of the gradient; a larger one is scaled down", above=0)


# What several presets have in common.
reads_above = functools.partial(DigitConfig, context="above", schedule="cosine")
reads_blocks = functools.partial(DigitConfig, size=28, levels=2, block=2, context="wide", schedule="cosine", half=True)
as_published = functools.partial(PainterConfig, context="previous", learning_rate=1e-3, optimizer="rmsprop")

PRESETS = {
    "tutorial": DigitConfig(),
    "best": reads_above(size=14, levels=4, units=160, epochs=16, batch_size=16, learning_rate=3e-3, shift=1),
    "record": reads_blocks(
        order="both", units=136, hidden=64, epochs=30, common_epochs=6, batch_size=16, learning_rate=3e-3, distort=1.0
    ),
    "binarized": reads_blocks(
        units=256, hidden=256, epochs=10, batch_size=32, learning_rate=2e-3, sampled=True, together=True
    ),
    "digits": reads_above(size=8, units=96, dropout=0.3, epochs=20, batch_size=8, learning_rate=4e-3),
    "painter": PainterConfig(),
    "monet": as_published(colors=1000, embedding=64, epochs=100, batch_size=128, schedule="constant", stride=3),
    "sumi-e": as_published(width=60, height=90, gray=256, dropout=0.0, epochs=60, batch_size=450, schedule="late"),
}


@dataclasses.dataclass(frozen=True)
class Train(Common):
    """The options of train_rnn.py: the pictures and the folder. The network and its training come from --preset."""

    output: PathName | None = option(
        None, "folder for the models (default: trained/SOURCE, or trained/SOURCE_PRESET for digits with another preset)"
    )
    data: PathName | None = option(None, "an .npz like that of Keras's MNIST, or a folder with the four IDX files")
    num_images: int | None = option(None, "use only the first NUM_IMAGES training pictures (of each class)", least=1)
    validation: PathName | None = option(None, "pictures to score after each epoch (painters)", metavar="FOLDER")
    validation_split: float = option(0.0, "share of pictures (of each class) that are only scored", least=0, below=1)
    patience: int | None = option(None, "stop after this many epochs without a better validation score", least=1)
    sample_every: int = option(10, "draw a sheet after every EPOCHS epochs (painters)", metavar="EPOCHS", least=1)
    resume: bool = option(
        False,
        "continue an interrupted training, with exactly the same result as without the interruption; or, with more "
        "--epochs, train a finished one longer",
    )
    workers: int | None = option(
        None, "train all classes of digits in this many processes on this machine", least=1, most=256
    )
    scheduler: str | None = option(
        None,
        "train all classes on the workers of the Dask cluster with this scheduler: tcp://HOST:8786",
        metavar="ADDRESS",
    )


@dataclasses.dataclass(frozen=True)
class Generate(Common):
    """The options of generate_rnn.py."""

    output: PathName | None = option(
        None, "the PNG to write (default: generated/MODELS.png, with the digit or the completed picture in its name)"
    )
    grid: int = option(5, "draw GRID x GRID digits; with --all-digits a row of GRID for each class", least=1, most=100)
    count: int = option(6, "draw this many pictures with a painter", least=1, most=1000)
    temperature: float = option(
        1.0, "below 1 the pictures are more alike, above 1 more varied; 0 takes the likeliest pixel", least=0
    )
    top_k: int | None = option(None, "draw only among the K likeliest colours or greys", least=1)
    top_p: float | None = option(
        None, "draw only among the likeliest colours or greys whose probabilities together reach P", above=0, most=1
    )
    start: str = option(
        "nothing",
        "begin a painter's pictures with nothing, or each with a piece of a training picture, from starts.png",
        choices=("nothing", "window"),
    )
    complete: PathName | None = option(None, "keep the first rows of this picture and draw the rest", metavar="PICTURE")
    rows: int | None = option(None, "how many rows --complete keeps (default: a third)", least=1)
    gif: bool = option(False, "also write a GIF of the pictures being drawn")
    evolution: bool = option(
        False, "instead of drawing, make a sheet and a GIF of the samples that a painter drew during its training"
    )


@dataclasses.dataclass(frozen=True)
class Classify(Common):
    """The options of classify_mnist.py."""

    output: PathName | None = option(None, "the confusion matrix to write (default: generated/MODELS_confusion.png)")
    data: PathName | None = like(Train, "data", None)
    num_images: int | None = option(None, "classify only the first NUM_IMAGES test pictures (default: all)", least=1)
    priors: str = option(
        "uniform",
        "prior probability of each class: all equal, or the share of the class in the training set",
        choices=("uniform", "empirical"),
    )
    image: PathName | None = option(None, "classify this picture, and print all probabilities", metavar="PICTURE")
    csv: PathName | None = option(None, "also write each picture's label, prediction and posterior", metavar="FILE")
    errors: bool = option(False, "also write a sheet of all pictures that it gets wrong")
    plot: bool = option(False, "also write a reliability plot: the posterior, and how often it is right")
    reject: bool = option(
        False, "also print how many printed letters and how much noise is refused when 1 % of the digits are"
    )
    strangers: PathName | None = option(
        None, "with --reject: also refuse these pictures: fashion_mnist, or files like those of --data", metavar="SET"
    )


@dataclasses.dataclass(frozen=True)
class Photos(Common):
    """The options of scripts that make pictures from one photo or a folder of photos."""

    output: PathName | None = option(
        None, "the .png or .jpg to write, or the folder for many (default: generated/, named after the inputs)"
    )
    size: int = option(512, "longest side of the result in pixels; the proportions stay", least=32, most=10_000)
    recursive: bool = option(False, "also use the photos in the subfolders of a folder")
    format: str = option("png", "format of the pictures made from a folder", choices=("png", "jpg"))
    weights: PathName | None = option(
        None,
        "imagenet, or a .h5, .weights.h5 or .npz file with the network's convolutions (default: imagenet)",
        metavar="WHICH",
    )
    gif: bool = option(False, "also write a GIF that shows how the picture develops")
    start: str | None = option(None, "of a film: the time to begin at, in seconds or as mm:ss", metavar="TIME")
    end: str | None = option(None, "of a film: the time to end at, in seconds or as mm:ss", metavar="TIME")
    fps: float | None = option(None, "of a film: frames per second (default: its own)", least=1, most=120)
    steady: float = option(0.8, "of a film: how much of a frame's picture stays in the next one", least=0, most=1)
    frames_every: int | None = option(
        None, "instead of a film, make pictures of each Nth of its frames, to see how they look", metavar="N", least=1
    )
    no_page: bool = option(False, "do not write index.html, the page that shows the pictures of a folder")
    workers: int | None = option(None, "make many pictures in this many processes on this machine", least=1, most=256)
    scheduler: str | None = option(
        None,
        "make many pictures on the workers of the Dask cluster with this scheduler: tcp://HOST:8786",
        metavar="ADDRESS",
    )


VGG_LEAST_SIDE = 32  # smallest side of a picture in pixels; the fifth block of VGG then has 2 x 2 positions
STYLE_LAYERS = tuple(f"block{block}_conv1" for block in range(1, 6))
# The steps of a search at each size, from coarse to fine. The last number also counts for all sizes up to LARGE.
EFFORTS = {"low": (100, 30, 8), "medium": (100, 60, 12), "high": (300, 200, 100)}
MEDIUM = 362  # pixels of the longest side; at a larger size the search leaves out VGG's fifth block
LARGE = 1200  # pixels of the longest side; a larger picture is searched for in tiles, with the following steps
LARGE_STEPS = {"low": 4, "medium": 8, "high": 24}


@dataclasses.dataclass(frozen=True)
class Style(Photos):
    """The options of style_transfer.py: the styles, the search and its loss."""

    size: int = option(
        512, "longest side of the result in pixels; with --learned, 0 is the photo's own", least=0, most=10_000
    )
    style: tuple[PathName, ...] = several(
        (), "the painting, or several (or a folder of them) to be mixed; give it after the photo", "PAINTING"
    )
    each: bool = option(
        False, "do not mix the paintings: make a picture of each photo with each of them, photo__painting.png"
    )
    style_weights: tuple[float, ...] = several((), "weight of each painting (default: all equal)", "WEIGHT")
    learned: tuple[str, ...] = several(
        (),
        "instead of --style: paint without a search, in a style of trained/styles or of a folder that train_style.py "
        "has written, or in a mixture of several",
        "STYLE[=WEIGHT]",
    )
    mask: PathName | None = option(
        None,
        "a picture like the photo that says where it is painted: white is painted, black stays the photo, grey is "
        "mixed; or a folder with a mask of each photo's name",
        metavar="MASK",
    )
    regions: PathName | None = option(
        None,
        "a picture like the photo, in plain colours: each colour takes one of the paintings or learned styles, the "
        "darkest colour the first; or a folder of them; or auto, which splits the photo itself, from top to bottom",
        metavar="MAP",
    )
    list_styles: bool = option(
        False, "print the learned styles with their paintings, make a sheet that shows PHOTO in each, and exit"
    )
    refine: int = option(0, "with --learned: improve the result by a search of STEPS steps", metavar="STEPS", least=0)
    strength: float = option(1.0, "with --learned: from 0, the photo, to 1, the full style", least=0, most=1)
    stroke_size: float | None = option(
        None,
        "with --learned: a factor of the size of the strokes (default: 1 up to 512 pixels, 2 from 1024 pixels on)",
        least=0.5,
        most=8,
    )
    layer: str | None = option(None, "without --style: reconstruct the photo from the features of this layer alone")
    convnet: str = option("vgg16", "network whose features are compared", choices=("vgg16", "vgg19"))
    effort: str = option("medium", "steps: low takes 3/4 of medium's time, high four times", choices=(*EFFORTS,))
    iterations: tuple[int, ...] = option(
        (),
        "instead of --effort: steps of the optimizer at each size, from the smallest; the last number also counts for "
        "all larger sizes",
        metavar="STEPS",
        least=1,
    )
    optimizer: str = option("lbfgs", "L-BFGS or Adam", choices=("lbfgs", "adam"))
    learning_rate: float = option(5.0, "learning rate of Adam, for pixels from 0 to 255", above=0)
    init: PathName = option(
        "content",
        "what the search begins with: content (the photo, in the painting's colours), style, noise or a picture; a "
        "texture begins with noise",
        metavar="WHAT",
    )
    scales: int | None = option(
        None,
        "number of sizes: the last is --size, and each one before is half as large (default: the first has about 128 "
        "pixels)",
        least=1,
    )
    content_layers: tuple[str, ...] = several(
        ("block3_conv3", "block4_conv2"), "layers whose features are the content", "LAYER"
    )
    style_layers: tuple[str, ...] = several(STYLE_LAYERS, "layers whose statistics are the style", "LAYER")
    layer_weights: tuple[float, ...] = several(
        (), "weight of each style layer, or one for all (default: 1; with --published-losses 10 10 50 10 10)", "WEIGHT"
    )
    content_weight: float = option(
        2.0, "weight of the content loss: how much of the photo is missing in the content layers", least=0
    )
    style_weight: float = option(
        1.0, "weight of the style loss: the distance from the painting in the style layers", least=0
    )
    tv_weight: float = option(4.0, "weight of the tv loss, the total variation; a higher weight is smoother", least=0)
    style_scale: float = option(
        1.0, "size of the painting relative to the photo; a smaller one makes smaller brush strokes", above=0
    )
    keep_colors: str | None = option(
        None,
        "keep the photo's colours: change the luminance alone, or first give the painting the photo's colours",
        choices=("luminance", "histogram"),
    )
    published_losses: bool = option(
        False,
        "use the content and style loss of Gatys, Ecker and Bethge (2016): sums, whose weights depend on the size",
    )
    save_every: int | None = option(None, "also write the picture after each STEPS steps", metavar="STEPS", least=1)
    compare: bool = option(False, "also write a sheet with the photo, the paintings and the result")
    preview: bool = option(False, "instead of the picture, make one sheet of six small variants, with their flags")
    plot: bool = option(False, "also plot each term of the loss over the steps")


STYLE_DEFAULTS = {
    "style": Style(),
    "published": Style(
        published_losses=True,
        content_layers=("block4_conv2",),
        content_weight=500.0,
        tv_weight=200.0,
        iterations=(100,),
    ),
    "texture": Style(content_layers=(), init="noise", iterations=(100,)),
    "layer": Style(content_weight=1.0, init="noise", iterations=(100,)),
    "learned": Style(),
    "refined": Style(style_layers=STYLE_LAYERS[:4]),  # it makes strokes finer; the fifth block sees forms
}


@dataclasses.dataclass(frozen=True)
class Learn(Common):
    """The options of train_style.py: the photos, the length of the training, and its loss."""

    output: PathName | None = option(
        None, "folder of the training (default: in trained/styles, named after the painting)"
    )
    photos: PathName | None = option(None, "a folder of photos to train on (default: images/content)", metavar="FOLDER")
    size: int = option(
        512,
        "longest side of the painting in the training, in pixels; a smaller one makes smaller strokes. Large strokes "
        "are learned from the painting at twice this size",
        least=64,
        most=2000,
    )
    minutes: float = option(10.0, "train for about this time", above=0, most=10_000)
    steps: int | None = option(None, "train for this number of steps, not for --minutes", least=1, most=10_000_000)
    base: PathName | None = option(
        None, "a style's folder, or its network.npz, to begin with (default: trained/styles, if there is a network)"
    )
    from_scratch: bool = option(False, "begin with random weights, not with those of another style")
    keep_network: bool = option(
        False,
        "train the style vectors alone, not the network: less similar to the painting, but a small file that can be "
        "mixed with the other styles of the network",
    )
    content_weight: float = option(
        4.0, "weight of the content loss: how much of the photos is missing in the pictures", least=0
    )
    learning_rate: float = option(
        2e-3,
        "initial learning rate of the network, for Muon (kernels) and Adam (the rest); it falls to 0. The style "
        "vectors have 4 times this rate",
        above=0,
        most=1,
    )
    weights: PathName | None = like(Photos, "weights", None)
    resume: bool = option(False, "continue an interrupted training; after a crash, up to a minute of it is repeated")


@dataclasses.dataclass(frozen=True)
class Dream(Photos):
    """The options of deepdream.py: the subject of the dream, and the gradient ascent."""

    output: PathName | None = option(
        None,
        "the .png or .jpg to write (with --zoom the .mp4, .gif or .webp), or the folder for the results of a folder "
        "(default: generated/, named after the photo and the dream)",
    )
    size: int = like(Photos, "size", 512, least=1, most=10_000)
    format: str | None = option(
        None,
        "kind of file for the results of a folder (default: png, and mp4 with --zoom)",
        choices=("png", "jpg", "mp4", "gif", "webp"),
    )
    layers: tuple[str, ...] = several(
        (),
        "layers whose activations are strengthened, each with its weight (default: depends on the network)",
        "LAYER[=WEIGHT]",
    )
    channels: tuple[int, ...] = several((), "only these channels of the layer", "CHANNEL")
    guide: PathName | None = option(None, "strengthen only what the photo shares with this picture", metavar="PICTURE")
    neuron: bool = option(False, "strengthen the activation of --channels in the middle of the picture only")
    class_: str | None = option(
        None,
        "dream of this class: its name in ImageNet or in the classifier's meta.json, or its number",
        metavar="NAME",
    )
    convnet: PathName = option(
        "vgg16",
        "a network of keras.applications, or the .keras or .h5 file of a classifier of yours, or a folder of them",
        metavar="NETWORK",
    )
    input_range: str | None = option(
        None,
        "input range of a classifier of yours; caffe is blue, green and red minus their means (default: that of the "
        "network of keras.applications that it begins with, or 0..255)",
        choices=("0..255", "0..1", "-1..1", "caffe"),
    )
    weights: PathName | None = option(
        None, "imagenet, or a file with the network's weights (default: imagenet)", metavar="WHICH"
    )
    list_layers: bool = option(False, "print the network's layers and how many channels each has, and exit")
    canvas: str = option(
        "pixels",
        "what the ascent changes: pixels, in octaves, or (from noise, or for a class) the waves of a Fourier image in "
        "decorrelated colours",
        choices=("waves", "pixels"),
    )
    octaves: int | None = option(
        None, "how many sizes the dream goes through, up to --size (default: starting with about 190 pixels)", least=1
    )
    octave_scale: float = option(1.4, "how much larger each octave is than the previous one", least=1.05, most=4)
    steps: int = option(12, "steps of gradient ascent: in each octave, or on waves in total", least=1)
    step_size: float = option(1.5, "mean change of pixels in a step, in grey levels of 0 to 255", least=0, most=255)
    jitter: int = option(
        16, "largest random shift of the picture before the network sees it, in pixels, at each step", least=0, most=512
    )
    smooth: float = option(0.0, "blur of each gradient, in pixels; larger values make softer forms", least=0, most=100)
    blur: float = option(0.0, "blur of the picture after each step, in pixels", least=0, most=100)
    tv_weight: float = option(0.0, "weight of the total variation; more is smoother", least=0)
    blend: float = option(0.0, "share of the photo that is mixed into the result, from 0 to 1", least=0, most=1)
    tile: int | None = option(
        None,
        "longest side of the tiles that the network sees, in pixels; smaller tiles take less memory (default: 640, or "
        "400 if --size is above 2000)",
        least=160,
        most=10_000,
    )
    zoom: int | None = option(
        None,
        "make a film with this many frames: each is the previous one, zoomed and dreamed on",
        metavar="FRAMES",
        least=1,
    )
    zoom_factor: float = option(1.03, "how much larger each frame shows the previous one", least=0.5, most=2)
    rotate: float = option(
        0.0, "degrees by which each frame rotates the previous one", metavar="DEGREES", least=-180, most=180
    )
    shift: tuple[float, ...] = several(
        (), "pixels by which each frame shifts the previous one: to the right, and down", ("RIGHT", "DOWN")
    )


@dataclasses.dataclass(frozen=True)
class Filters(Common):
    """The options of visualize_filters.py: the filters, and their input pictures."""

    output: PathName | None = option(None, "the .png to write (default: generated/, named after the layer)")
    images: tuple[PathName, ...] = several(
        (), "pictures, or folders of them, in which strong activations are searched for", "PICTURE"
    )
    filters: int = option(16, "how many filters: those with the strongest activations", least=1)
    channels: tuple[int, ...] = several(
        (), "show the filters of these channels, not those with the strongest activations", "CHANNEL"
    )
    dreams: int = option(
        1, "pictures from noise that activate each filter, each unlike the others; 0 for none", least=0, most=9
    )
    size: int = option(
        224, "longest side of the pictures as they are resized for the network, in pixels", least=32, most=2000
    )
    convnet: PathName = option(
        "vgg16",
        "vgg16, vgg19, a .keras or .h5 file of yours, or a folder of them; the network's layers must form a chain",
        metavar="NETWORK",
    )
    input_range: str | None = like(Dream, "input_range", None)
    weights: PathName | None = like(Dream, "weights", None)
    evolution: PathName | None = option(
        None, "show instead how filters changed over the .keras files in this folder", metavar="FOLDER"
    )


DREAM_DEFAULTS = {
    "dream": Dream(),
    "waves": Dream(canvas="waves", steps=64),
    "waves_class": Dream(canvas="waves", steps=256),
    "waves_zoom": Dream(canvas="waves", steps=6, fps=24),
    "waves_class_zoom": Dream(canvas="waves", steps=12, fps=24),
    "zoom": Dream(octaves=2, steps=3, step_size=1.2, fps=24),
    "class_zoom": Dream(octaves=2, steps=8, step_size=4.0, jitter=4, blur=0.4, tv_weight=1.0, fps=24),
    "class": Dream(octaves=4, steps=60, step_size=4.0, jitter=4, blur=0.4, tv_weight=1.0),
}


# The default layers. The layers of VGG16 were chosen because dreams show the most animals with them. The layers of the
# other networks come from published tutorials on DeepDream.
DREAM_LAYERS = {
    "VGG16": ("block4_conv3=1", "block5_conv1=1"),
    "VGG19": ("block5_conv1=1",),
    "InceptionV3": ("mixed4=1", "mixed5=1.5", "mixed6=2", "mixed7=2.5"),
}
