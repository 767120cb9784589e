"""Train a network to paint like a folder of pictures, or to draw digits: pixel by pixel.

    python train_rnn.py digits --all-digits
    python train_rnn.py images/content --width 40 --height 40 --epochs 20
    python train_rnn.py mnist --all-digits --preset best

A picture is read row by row as a sequence of colours or grey levels, and a recurrent network learns to predict
each pixel from those before it: p(picture) is the product of its predictions. generate_rnn.py draws from it, and
classify_mnist.py compares p(picture) under the models of all classes of digits by Bayes' rule.

Writes into trained/SOURCE, or trained/SOURCE-2 and so on where other models lie there already. Of a folder of
pictures: model.keras, meta.json with the palette, preview.png (what the network sees), starts.png (64 pieces of the
training pictures, one in each row, for generate_rnn.py --start window), loss.csv and loss.png, and samples/, drawn as
the training goes. Of digits: model_<class>.keras for each class, trained side by side, one on each core, and loss.png.

Printed are the loss of the last epoch (nats, and bits, say how surprised the network is by a pixel or a picture: less
is better), how long it took, and the command that draws. A palette's mean Delta E says how far its colours are from
those of the pictures: below 1 no one sees it, from 10 on everyone does.

Interrupt it when you like; the same command with --resume goes on. When it is finished, more --epochs with --resume
train it longer, from checkpoint_*.npz; these files are about three times as large as the models, and without them the
models still draw. A training that --patience has stopped is finished: more epochs add nothing to it.
"""

from atelier import command_line  # first, since it puts Ctrl-C in a line from here on

# isort: split
import contextlib
import dataclasses
import pathlib

import config
from atelier import errors, naming

digit_training = command_line.lazy_import("atelier.pixel_rnn.digit_training")
painter_training = command_line.lazy_import("atelier.pixel_rnn.painter_training")


def parse_arguments():
    parser = command_line.Parser(__doc__)
    parser.add_argument(
        "source",
        nargs="?",
        type=command_line.expanded,
        default="digits",
        help="a folder of pictures; or a set of digits: digits (the default), mnist or fashion_mnist, or, with --data, "
        "any name for the set in those files",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--digit", type=int, metavar="CLASS", help="train the model of this class of digits")
    which.add_argument("--all-digits", action="store_true", help="train one model for each class of digits")
    presets = (
        f"recipe (default: {DIGITS_PRESET} for digits, {SET_PRESET} for other sets, {PAINTER_PRESET} for a folder)"
    )
    parser.add_argument("--preset", choices=config.PRESETS, help=presets)
    command_line.add_options(parser, config.Train)
    recipe = parser.add_argument_group("recipe", "each of these overrides the preset")
    command_line.add_options(recipe, config.TrainingConfig, default_help=False)
    for kind, title in ((config.DigitRecipe, "recipe of digits"), (config.PainterRecipe, "recipe of painters")):
        command_line.add_options(
            parser.add_argument_group(title), kind, default_help=False, without=config.TrainingConfig
        )
    return parser.parse_args()


DIGITS_PRESET, SET_PRESET, PAINTER_PRESET = "digits", "tutorial", "painter"
DIGITS_ONLY = ("digit", "all_digits", "data")
PAINTERS_ONLY = ("validation", "sample_every")


def main():
    arguments = parse_arguments()
    paints = is_folder_of_pictures(arguments)
    default_preset = PAINTER_PRESET if paints else DIGITS_PRESET if arguments.source == "digits" else SET_PRESET
    preset = arguments.preset or default_preset
    check_kind(arguments, preset, paints)
    recipe = command_line.collect(type(config.PRESETS[preset]), arguments, config.PRESETS[preset])
    options = command_line.collect(config.Train, arguments)
    command_line.check_sharing(options, arguments.all_digits, "classes of digits: --all-digits")
    check(recipe, options)
    name = pathlib.Path(arguments.source).resolve().name
    if paints:
        recipe = dataclasses.replace(recipe, window=recipe.window or recipe.width)
        painter_training.train(pathlib.Path(arguments.source), preset, recipe, options, name)
        return
    naming.check_set(arguments.source, options.data)
    suffix = "" if preset == default_preset else f"_{preset}"
    digit_training.train(arguments.source, arguments.digit, preset, recipe, options, f"{name}{suffix}")


def is_folder_of_pictures(arguments):
    """Say whether the source is a folder to learn painting from; other sources are sets of digits."""
    return (
        arguments.source not in naming.SETS
        and not getattr(arguments, "data", None)
        and pathlib.Path(arguments.source).is_dir()
    )


def check_kind(arguments, preset, paints):
    """Raise InputError for a preset or a flag that is not for this kind of source."""
    kind, other = (config.PainterRecipe, config.DigitRecipe) if paints else (config.DigitRecipe, config.PainterRecipe)
    what = "sets of digits" if paints else "folders of pictures"
    if not paints and arguments.digit is None and not arguments.all_digits:
        raise errors.InputError(no_folder(pathlib.Path(arguments.source), command_line.was_given(arguments, "data")))
    if not isinstance(config.PRESETS[preset], kind):
        raise errors.InputError(f"the preset {preset} is for {what}, which {arguments.source} is not")
    fields = {item.name for item in dataclasses.fields(other)} - {item.name for item in dataclasses.fields(kind)}
    for name in (*fields, *(DIGITS_ONLY if paints else PAINTERS_ONLY)):
        if command_line.was_given(arguments, name):
            raise errors.InputError(f"--{name.replace('_', '-')} is for {what}, which {arguments.source} is not")


def no_folder(source, data):
    """Say that a source is no folder of pictures, and what else may have been meant."""
    if data:
        return "--data is of sets of digits: add --all-digits or --digit CLASS"
    beside = []
    with contextlib.suppress(OSError):
        beside = [path.name for path in source.parent.iterdir() if path.is_dir()]
    return (
        f"there is no folder of pictures {source}{naming.suggestion(source.name, beside)}; for a set of digits, add "
        "--all-digits or --digit CLASS"
    )


def check(recipe, options):
    """Raise InputError for options that make no sense together, before anything is loaded."""
    if options.patience is not None and not (options.validation_split or options.validation):
        raise errors.InputError("--patience needs --validation-split or --validation")
    if isinstance(recipe, config.PainterRecipe):
        check_painter(recipe, options)
    elif recipe.context == "place" or recipe.schedule in ("late", "plateau"):
        raise errors.InputError("--context place and --schedule late and plateau are for folders of pictures")


def check_painter(recipe, options):
    """Raise InputError for options that make no sense to a painter together."""
    pixels = recipe.width * recipe.height
    if recipe.window is not None and recipe.window > pixels:
        raise errors.InputError(f"--window must be from 1 to {pixels}, the pixels of a picture")
    if options.validation and options.validation_split:
        raise errors.InputError("--validation and --validation-split exclude each other")


if __name__ == "__main__":
    command_line.run(main)
