"""Draw pictures pixel by pixel with a trained network, or complete a picture of yours.

    python generate_rnn.py trained/monet --count 6 --temperature 0.8 --gif
    python generate_rnn.py trained/monet --complete painting.jpg --rows 25
    python generate_rnn.py trained/mnist --all-digits --output generated/digits.png

The network predicts the probabilities of the next pixel's colour or grey level from the pixels before it. The script
draws a value at random with these probabilities, and then predicts the next pixel. All pictures that one network draws
are drawn at once, in one compiled call.
"""

from atelier import command_line  # imported first: from now on, Ctrl-C ends the script with one line

# isort: split
import math
import pathlib
import sys

import numpy as np

import config
from atelier import errors, naming

datasets = command_line.lazy_import("atelier.pixel_rnn.datasets")
films = command_line.lazy_import("atelier.films")
hardware = command_line.lazy_import("atelier.hardware")
imaging = command_line.lazy_import("atelier.imaging")
model_files = command_line.lazy_import("atelier.pixel_rnn.model_files")
model_meta = command_line.lazy_import("atelier.pixel_rnn.model_meta")
outputs = command_line.lazy_import("atelier.outputs")
palettes = command_line.lazy_import("atelier.pixel_rnn.palettes")
provenance = command_line.lazy_import("atelier.provenance")
recurrent = command_line.lazy_import("atelier.pixel_rnn.recurrent")
util = command_line.lazy_import("util")


def parse_arguments():
    parser = command_line.Parser(__doc__, CONFLICTS)
    parser.add_argument(
        "models", type=pathlib.Path, help="folder of models, as train_rnn.py writes it, or its name in trained/"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--digit", type=int, metavar="CLASS", help="draw this class of digits")
    which.add_argument("--all-digits", action="store_true", help="draw a row for each class of digits")
    command_line.add_options(parser, config.Generate)
    return parser.parse_args()


CONFLICTS = {
    "--digit": ["--all-digits"],
    "--all-digits": ["--digit"],
    "--start": ["--complete"],
    "--complete": ["--start"],
}
DIGITS_ONLY = ("digit", "all_digits", "grid")
PAINTERS_ONLY = ("count", "start", "evolution")


def main():
    arguments = parse_arguments()
    options = command_line.collect(config.Generate, arguments)
    check(options)
    arguments.models = naming.find_trained(arguments.models)
    meta = model_meta.load_meta(arguments.models)
    is_painter = "palette" in meta
    if meta["recipe"].get("together"):
        if arguments.digit:
            raise errors.InputError(f"{arguments.models} holds one network for all classes; leave out --digit")
        arguments.digit = 0
    check_kind(arguments, is_painter)
    if options.evolution:
        show_evolution(arguments.models, options)
    elif is_painter:
        draw_with_painter(arguments.models, meta, options)
    else:
        draw_digits(arguments, meta, options)


def check(options):
    """Raise InputError for options that contradict one another."""
    if options.start != "nothing" and options.complete:
        raise errors.InputError("--start and --complete cannot be combined")
    if options.rows is not None and not options.complete:
        raise errors.InputError("--rows is the number of rows of the picture to complete: it needs --complete")
    command_line.require_suffix(options.output, ".png")


def check_kind(arguments, is_painter):
    """Raise InputError for a flag that does not apply to this kind of model."""
    held, other = ("a painter", "digits") if is_painter else ("models of digits", "painters")
    for name in DIGITS_ONLY if is_painter else PAINTERS_ONLY:
        if command_line.was_given(arguments, name):
            flag = name.replace("_", "-")
            raise errors.InputError(f"--{flag} is for {other}, and {arguments.models} holds {held}")
    if not is_painter and arguments.digit is None and not arguments.all_digits:
        raise errors.InputError(f"{arguments.models} holds models of digits; add --all-digits or --digit CLASS")


def choose_output(options, name, animated):
    """Return the paths of the picture and the animation.

    Raises InputError if one must not be overwritten or can't be written.
    """

    def files_of(output):
        return [output, output.with_suffix(".gif")] if animated else [output]

    output = outputs.choose_result(options, f"generated/{name}.png", files_of)
    return output, output.with_suffix(".gif")


def report_device(options):
    device = hardware.use_precision(options.precision, "drawing")
    if not options.quiet:
        print(f"device: {device}", file=sys.stderr)


def kept_rows(options, height, block=1):
    """Return how many rows of the --complete picture are kept; 0 without --complete. Raises InputError.

    It is a multiple of `block`, the height of what the network draws at once.
    """
    if not options.complete:
        return 0
    rows = -(-height // 3 // block) * block if options.rows is None else options.rows
    if not 1 <= rows < height:
        raise errors.InputError(f"--rows must be from 1 to {height - 1}: these pictures have {height}")
    if rows % block:
        raise errors.InputError(f"--rows must be a multiple of {block}: this network draws blocks of {block} rows")
    return rows


def write(options, output, sheet, weights, animation=None, frames=()):
    """Write the sheet and, if a path is given, the animation; print their paths."""
    imaging.save_png(output, sheet, provenance.of_result(options, weights=str(weights)))
    print(f"picture: {output}", flush=True)
    if animation:
        try:
            films.save_gif(animation, frames, seconds=4)
        except OSError as error:
            raise errors.PartlyDone(
                f"{errors.describe(error)}; the picture was written, the animation was not"
            ) from error
        print(f"animation: {animation}")


def drawing_frames(pictures, kept, across, columns, block=1, by_columns=False):
    """Yield the frames of an animation: each frame shows more pixels of every picture than the one before.

    The pictures are drawn in blocks of block x block pixels, row by row or with `by_columns` column by column; the
    first `kept` blocks are shown from the beginning.
    """
    height, width = pictures.shape[1] // block, pictures.shape[2] // block
    order = np.arange(height * width).reshape(height, width)
    if by_columns:
        order = np.arange(height * width).reshape(width, height).T
    order = order.reshape(height, width, *[1] * (pictures.ndim - 3))
    order = order.repeat(block, axis=0).repeat(block, axis=1)
    step = max(1, height * width // 100)
    for shown in [*range(kept, height * width, step), height * width]:
        yield imaging.contact_sheet(np.where(order < shown, pictures, 0).astype("uint8"), columns, across=across)


# --- Digits ------------------------------------------------------------------------------------


def draw_digits(arguments, meta, options):
    """Draw a sheet of one class, or a row for each class."""
    training_config = meta["recipe"]
    if arguments.digit is not None and str(arguments.digit) not in meta["classes"]:
        known = " ".join(meta["classes"])
        raise errors.InputError(f"{arguments.models} has the classes {known}, and no {arguments.digit}")
    classes = [arguments.digit] if arguments.digit is not None else [int(label) for label in meta["classes"]]
    block, by_columns = training_config["block"], training_config["order"] == "columns"
    if by_columns and options.complete:
        raise errors.InputError(f"{arguments.models} reads columns; --complete needs networks that read rows")
    kept = kept_rows(options, training_config["size"], block) // block * (training_config["size"] // block)
    name = "all" if arguments.digit is None else arguments.digit
    output, animation = choose_output(options, f"{arguments.models.resolve().name}_{name}", options.gif)
    report_device(options)
    known = tokens_to_complete(options, meta)
    models = [model_files.load_rnn(arguments.models, label, meta) for label in classes]
    count = options.grid if arguments.digit is None else options.grid**2  # pictures of each class
    tokens = draw(models, training_config, count, options, known, kept)
    pictures = util.from_sequences(tokens, **model_meta.sequence_options(training_config))
    frames = drawing_frames(pictures, kept, 1500, options.grid, block, by_columns)
    sheet = imaging.contact_sheet(pictures, options.grid)
    write(options, output, sheet, arguments.models, animation if options.gif else None, frames)


def tokens_to_complete(options, meta):
    """Return the tokens of the --complete picture, uint8 T; zeros without --complete."""
    training_config = meta["recipe"]
    if not options.complete:
        return np.zeros((training_config["size"] // training_config["block"]) ** 2, "uint8")
    picture = datasets.load_drawing(options.complete, meta)
    return util.to_sequences(picture[None], **model_meta.sequence_options(training_config))[0]


def draw(models, training_config, count, options, known, kept):
    """Draw `count` pictures with each model: int N x T. The first `kept` tokens are those of `known`."""
    sample = recurrent.make_sampler(
        models[0], training_config["context"], None, options.top_k, options.top_p, training_config["block"]
    )
    rng = np.random.default_rng(options.seed)
    start = np.tile(known.astype("int32"), (count, 1))
    temperature = np.full(count, options.temperature, "float32")
    uniform = (rng.random(start.shape, dtype="float32") for _ in models)
    weights = map(recurrent.weights_of, models)
    return np.concatenate([sample(w, start, u, np.int32(kept), temperature) for w, u in zip(weights, uniform)])


# --- Painters ----------------------------------------------------------------------------------


def draw_with_painter(folder, meta, options):
    """Draw --count pictures with a painter, or complete one picture in --count ways."""
    training_config, palette = meta["recipe"], meta["palette"]
    height, width = training_config["height"], training_config["width"]
    kept = kept_rows(options, height) * width
    name = folder.resolve().name
    if options.complete:
        name += f"_{pathlib.Path(options.complete).stem}"
    output, animation = choose_output(options, name, options.gif)
    report_device(options)
    known, kept = initial_tokens(folder, meta, options, kept)
    model = model_files.load_painter(folder, meta)
    sample = recurrent.make_sampler(model, training_config["context"], (height, width), options.top_k, options.top_p)
    uniform = np.random.default_rng(options.seed).random(known.shape, dtype="float32")
    temperature = np.full(options.count, options.temperature, "float32")
    tokens = sample(recurrent.weights_of(model), known, uniform, np.int32(kept), temperature)
    pictures = palettes.from_palette(tokens, palette, height, width)
    columns = math.ceil(options.count**0.5)
    frames = drawing_frames(pictures, kept, 700, columns)
    write(options, output, imaging.contact_sheet(pictures, columns), folder, animation if options.gif else None, frames)


def initial_tokens(folder, meta, options, kept):
    """Return the tokens that the pictures begin with, int32 count x T, and how many of each picture are kept."""
    training_config, palette = meta["recipe"], meta["palette"]
    height, width = training_config["height"], training_config["width"]
    known = np.zeros((options.count, height * width), "int32")
    if options.complete:
        picture = imaging.fit_picture(
            imaging.open_picture(options.complete), width, height, training_config["gray"] is not None
        )
        known[:] = palettes.to_palette(picture[None], palette)
        return known, kept
    if options.start == "window":
        windows = palettes.to_palette(np.asarray(imaging.open_picture(folder / "starts.png"))[None], palette)
        windows = windows.reshape(-1, training_config["window"])
        known[:, : training_config["window"]] = np.random.default_rng(options.seed).permutation(windows)[
            np.arange(options.count) % len(windows)
        ]
        return known, training_config["window"]
    return known, 0


def show_evolution(folder, options):
    """Combine the sheets that were drawn during a painter's training into one picture and one animation."""
    paths = sorted((folder / "samples").glob("epoch_*.png"), key=lambda path: (len(path.name), path.name))
    if not paths:
        raise errors.InputError(f"{folder / 'samples'} holds no epoch_0001.png and so on; train_rnn.py draws them")
    output, animation = choose_output(options, f"{folder.resolve().name}_evolution", animated=True)
    titles = [f"epoch {int(path.stem.removeprefix('epoch_'))}" for path in paths]
    sheets = [imaging.with_title(np.asarray(imaging.open_picture(path)), title) for path, title in zip(paths, titles)]
    shown = np.unique(np.linspace(0, len(sheets) - 1, 8).round().astype(int))
    write(options, output, np.concatenate([sheets[i] for i in shown]), folder, animation, sheets)


if __name__ == "__main__":
    command_line.run(main)
