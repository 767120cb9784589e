"""Draw digits pixel by pixel with a trained network, or finish a drawing that was begun.

    python generate_rnn.py trained/mnist --digit 0 --grid 5
    python generate_rnn.py trained/mnist --all-digits --output generated/digits.png
    python generate_rnn.py trained/mnist --digit 2 --complete photo.png --rows 4

The network gives each pixel's probabilities from the pixels before it, a level is drawn from them, and so
on to the last pixel. All pictures of a sheet are drawn at once, in one compiled call.
"""

import pathlib
import sys

import numpy as np

import config

util = config.lazy_import("util")


def parse_arguments():
    parser = config.Parser(__doc__)
    parser.add_argument("models", type=pathlib.Path, help="folder of models, as train_rnn.py writes it")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--digit", type=int, metavar="CLASS", help="draw this class")
    which.add_argument("--all-digits", action="store_true", help="draw a row for each class")
    config.add_options(parser, config.Generate)
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    options = config.collect(config.Generate, arguments)
    check(options)
    meta = util.load_meta(arguments.models)
    recipe = meta["recipe"]
    classes = [arguments.digit] if arguments.digit is not None else [int(label) for label in meta["classes"]]
    name = "all" if arguments.digit is None else arguments.digit
    output = pathlib.Path(options.output or f"generated/{arguments.models.name}_{name}.png")
    config.require_suffix(output, ".png")
    animation = output.with_suffix(".gif")
    for path in (output, animation) if options.gif else (output,):
        util.refuse_to_overwrite(path, options.overwrite)

    device = util.use_precision(options.precision, batch_size=options.grid**2)
    if not options.quiet:
        print(f"device: {device}", file=sys.stderr)
    known, kept = started_drawing(options, meta)
    models = [util.load_rnn(arguments.models, label, meta) for label in classes]
    each = options.grid if arguments.digit is None else options.grid**2
    tokens = draw(models, recipe, each, options, known, kept)
    pictures = util.from_levels(tokens, recipe["levels"]).reshape(-1, recipe["size"], recipe["size"])
    about = util.provenance(options.seed, weights=str(arguments.models))
    util.save_png(output, util.contact_sheet(pictures, options.grid), about)
    print(f"picture: {output}")
    if options.gif:
        try:
            util.save_gif(animation, drawing_frames(pictures, options.grid, kept), seconds=4)
        except OSError as error:
            raise config.PartlyDone(f"{config.describe(error)}; the picture is there, the animation is not") from error
        print(f"animation: {animation}")


def check(options):
    """Raise InputError for a number that makes no sense."""
    if not 1 <= options.grid <= 100:
        raise config.InputError("--grid must be from 1 to 100")
    if not 0 <= options.temperature < float("inf"):
        raise config.InputError("--temperature must be 0 (the likeliest pixel) or above")
    if options.top_k is not None and options.top_k < 1:
        raise config.InputError("--top-k must be at least 1")


def started_drawing(options, meta):
    """Return the tokens (uint8 T) of --complete and how many of them are kept; blank and 0 without it."""
    size, levels = meta["recipe"]["size"], meta["recipe"]["levels"]
    if not options.complete:
        return np.zeros(size * size, "uint8"), 0
    if not 0 <= options.rows <= size:
        raise config.InputError(f"--rows must be from 0 to {size}, the height of these pictures")
    picture = util.load_drawing(options.complete, meta)
    return util.to_sequences(picture[None], size, levels)[0], options.rows * size


def draw(models, recipe, each, options, known, kept):
    """Draw `each` pictures with each model, after the first `kept` tokens of `known`: int N x T."""
    paint = util.make_painter(models[0], recipe["context"], options.temperature, options.top_k)
    rng = np.random.default_rng(options.seed)
    start = np.tile(known.astype("int32"), (each, 1))
    uniform = (rng.random(start.shape, dtype="float32") for _ in models)
    drawn = [paint(util.weights_of(model), start, u, np.int32(kept)) for model, u in zip(models, uniform)]
    return np.concatenate([np.asarray(tokens) for tokens in drawn])


def drawing_frames(pictures, columns, kept):
    """Show the sheet as it is drawn, one pixel of every picture more in each frame."""
    count, height, width = pictures.shape
    flat = pictures.reshape(count, height * width)
    step = max(1, height * width // 100)
    for shown in [*range(kept, height * width, step), height * width]:
        visible = np.where(np.arange(height * width) < shown, flat, 0)
        yield util.contact_sheet(visible.reshape(pictures.shape), columns)


if __name__ == "__main__":
    config.run(main)
