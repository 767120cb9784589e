"""Train a pixel RNN: a painter on a folder of pictures, or one network for each class of digits.

    python train_rnn.py digits --all-digits
    python train_rnn.py images/content --width 40 --height 40 --epochs 20
    python train_rnn.py mnist --all-digits --preset best

A picture is read row by row as a sequence of colours or grey levels. A recurrent network learns to predict each pixel
from the pixels before it. p(picture) is the product of the predicted probabilities. generate_rnn.py draws pictures
from these probabilities. classify_mnist.py compares p(picture) under the models of all classes of digits by Bayes'
rule.

The script writes into trained/SOURCE, or into trained/SOURCE-2 and so on if that folder holds other models. For a
folder of pictures: model.keras, meta.json with the palette, preview.png (what the network sees), starts.png (64 pieces
of the training pictures, one in each row, for generate_rnn.py --start window), loss.csv and loss.png, and samples/,
drawn during the training. For digits: model_<class>.keras for each class, trained in parallel, one on each core, and
loss.png.

The script prints the loss of the last epoch, the duration, and the command that draws pictures. The loss is the
negative log-likelihood of a pixel or a picture, in nats and bits; lower is better. A palette's mean Delta E is the mean
distance between its colours and those of the pictures: a distance below 1 is invisible, and one above 10 is obvious.

After Ctrl-C, the same command with --resume continues. When a training is finished, more --epochs with --resume train
it longer, from checkpoint_*.npz. These files are about three times as large as the models; drawing does not need them.
A training that --patience has stopped is finished: --resume with more epochs does not continue it.
"""

from atelier import command_line  # imported first: from now on, Ctrl-C ends the script with one line

# isort: split
import contextlib
import dataclasses
import pathlib

import config
from atelier import errors, naming

digit_training = command_line.lazy_import("atelier.pixel_rnn.digit_training")
painter_training = command_line.lazy_import("atelier.pixel_rnn.painter_training")


def parse_arguments():
    parser = command_line.Parser(__doc__, {"--digit": ["--all-digits"], "--all-digits": ["--digit"]})
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
    presets = f"default: {DIGITS_PRESET} for digits, {SET_PRESET} for other sets, {PAINTER_PRESET} for a folder"
    parser.add_argument("--preset", choices=config.PRESETS, help=f"network and training options ({presets})")
    command_line.add_options(parser, config.Train)
    group = parser.add_argument_group("network and training", "each of these overrides the preset")
    command_line.add_options(group, config.TrainingConfig, default_help=False)
    for kind, title in ((config.DigitConfig, "training of digits"), (config.PainterConfig, "training of painters")):
        group = parser.add_argument_group(title)
        command_line.add_options(group, kind, default_help=False, without=config.TrainingConfig)
    return parser.parse_args()


DIGITS_PRESET, SET_PRESET, PAINTER_PRESET = "digits", "tutorial", "painter"
DIGITS_ONLY = ("digit", "all_digits", "data")
PAINTERS_ONLY = ("validation", "sample_every")


def main():
    arguments = parse_arguments()
    is_painter = is_folder_of_pictures(arguments)
    default_preset = PAINTER_PRESET if is_painter else DIGITS_PRESET if arguments.source == "digits" else SET_PRESET
    preset = arguments.preset or default_preset
    check_kind(arguments, preset, is_painter)
    training_config = command_line.collect(type(config.PRESETS[preset]), arguments, config.PRESETS[preset])
    options = command_line.collect(config.Train, arguments)
    command_line.check_sharing(options, arguments.all_digits, "classes of digits: --all-digits")
    check(training_config, options)
    name = pathlib.Path(arguments.source).resolve().name
    if is_painter:
        training_config = dataclasses.replace(training_config, window=training_config.window or training_config.width)
        painter_training.train(pathlib.Path(arguments.source), preset, training_config, options, name)
        return
    naming.check_set(arguments.source, options.data)
    if training_config.together and arguments.digit is not None:
        raise errors.InputError("--together trains one network for all classes: it needs --all-digits, not --digit")
    suffix = "" if preset == default_preset else f"_{preset}"
    digit_training.train(arguments.source, arguments.digit, preset, training_config, options, f"{name}{suffix}")


def is_folder_of_pictures(arguments):
    """Say whether the source is a folder of pictures to train a painter on; other sources are sets of digits."""
    return (
        arguments.source not in naming.SETS
        and not getattr(arguments, "data", None)
        and pathlib.Path(arguments.source).is_dir()
    )


def check_kind(arguments, preset, is_painter):
    """Raise InputError for a preset or a flag that does not apply to this kind of source."""
    kind, other = (
        (config.PainterConfig, config.DigitConfig) if is_painter else (config.DigitConfig, config.PainterConfig)
    )
    other_source = "sets of digits" if is_painter else "folders of pictures"
    if not is_painter and arguments.digit is None and not arguments.all_digits:
        raise errors.InputError(
            no_folder_message(pathlib.Path(arguments.source), command_line.was_given(arguments, "data"))
        )
    if not isinstance(config.PRESETS[preset], kind):
        raise errors.InputError(f"the preset {preset} is for {other_source}, which {arguments.source} is not")
    fields = {item.name for item in dataclasses.fields(other)} - {item.name for item in dataclasses.fields(kind)}
    for name in (*fields, *(DIGITS_ONLY if is_painter else PAINTERS_ONLY)):
        if command_line.was_given(arguments, name):
            raise errors.InputError(
                f"--{name.replace('_', '-')} is for {other_source}, which {arguments.source} is not"
            )


def no_folder_message(source, data):
    """Return the message for a source that is not a folder of pictures, with a suggestion."""
    if str(source) in naming.SETS:
        return f"{source} is a set of digits: add --all-digits or --digit CLASS"
    if source.is_file():
        typed = command_line.command_of("train_rnn.py", source.stem, "--all-digits", "--data", source)
        return f"{source} is a file, and not a folder of pictures; for a set of digits in it: {typed}"
    if data:
        return "--data is for sets of digits: add --all-digits or --digit CLASS"
    siblings = []
    with contextlib.suppress(OSError):
        siblings = [path.name for path in source.parent.iterdir() if path.is_dir() and path.name[0] != "."]
    return (
        f"there is no folder of pictures {source}{naming.suggestion(source.name, siblings)}; for a set of digits, add "
        "--all-digits or --digit CLASS"
    )


def check(training_config, options):
    """Raise InputError for options that contradict one another, before anything is loaded."""
    if options.patience is not None and not (options.validation_split or options.validation):
        raise errors.InputError("--patience needs --validation-split or --validation")
    if isinstance(training_config, config.PainterConfig):
        check_painter(training_config, options)
    else:
        check_digits(training_config)


def check_digits(training_config):
    """Raise InputError for options of networks of digits that contradict one another."""
    if training_config.context == "place" or training_config.schedule in ("late", "plateau"):
        raise errors.InputError("--context place and --schedule late and plateau are for folders of pictures")
    if training_config.size % training_config.block:
        raise errors.InputError(f"--size must be a multiple of --block, {training_config.block}")
    symbols = training_config.levels ** (training_config.block**2)
    if symbols > 256:
        pixels = f"{training_config.block}x{training_config.block} pixels of {training_config.levels} levels"
        raise errors.InputError(f"a block of {pixels} has {symbols} symbols, and at most 256 are possible")
    if training_config.sampled and training_config.levels != 2:
        raise errors.InputError("--sampled makes pictures black and white: it needs --levels 2")


def check_painter(training_config, options):
    """Raise InputError for options of a painter that contradict one another."""
    pixels = training_config.width * training_config.height
    if training_config.window is not None and training_config.window > pixels:
        raise errors.InputError(f"--window must be from 1 to {pixels}, the pixels of a picture")
    if training_config.context == "wide":
        raise errors.InputError("--context wide is for sets of digits")
    if options.validation and options.validation_split:
        raise errors.InputError("--validation and --validation-split cannot be combined")
    if options.validation and not pathlib.Path(options.validation).is_dir():
        raise errors.InputError(f"there is no folder of pictures {options.validation}")


if __name__ == "__main__":
    command_line.run(main)
