"""Train a small network on a painting; style_transfer.py --learned then paints a photo in one pass.

    python train_style.py images/style/hubble_deep_field.jpg --minutes 30
    python train_style.py mypainting.jpg --photos holiday/
    python train_style.py wave.jpg scream.jpg --photos holiday/ --output trained/styles/both

The network is trained on crops of photos with the loss of style_transfer.py (Johnson, Alahi & Fei-Fei 2016), whose
statistics of the style are also compared in each quarter of a crop. It can learn several paintings. Each has two style
vectors of its own (Dumoulin, Shlens & Kudlur 2017), for usual and for large strokes, and the vectors can be mixed.

The script writes into trained/styles/PAINTING: style.npz; network.npz; meta.json, which names the data that the style
was learned from; sheet.png, which shows the current results for three photos and is updated every few minutes; loss.csv
and loss.png. With several paintings, each has a subfolder. You can interrupt the training at any time; the same command
with --resume continues it.
"""

from atelier import command_line  # imported first: from now on, Ctrl-C ends the script with one line

# isort: split
import pathlib
import sys

import config
from atelier import disk, errors, naming

hardware = command_line.lazy_import("atelier.hardware")
imaging = command_line.lazy_import("atelier.imaging")
input_pictures = command_line.lazy_import("atelier.style.input_pictures")
learned_styles = command_line.lazy_import("atelier.style.learned_styles")
style_training = command_line.lazy_import("atelier.style.style_training")
trainings = command_line.lazy_import("atelier.trainings")


def parse_arguments():
    parser = command_line.Parser(__doc__)
    parser.add_argument("paintings", nargs="+", type=pathlib.Path, help="a painting, or several", metavar="PAINTING")
    command_line.add_options(parser, config.Learn)
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    options = command_line.collect(config.Learn, arguments)
    paintings = check(arguments, options)
    folder = pathlib.Path(options.output or f"trained/styles/{'+'.join(path.stem for path in paintings)}")
    source = pathlib.Path(options.photos or PHOTOS)
    if source.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise errors.InputError(f"{folder} is among the photos; give another folder with --output")
    check_folder(folder, options)
    base = base_of(options)
    if base and folder.resolve() in (base.resolve(), base.resolve().parent):
        raise errors.InputError(f"{folder} holds the --base, which would be replaced; give another --output")
    learned_styles.load_base(base)  # errors are found before anything is written
    for path in paintings:
        style_training.read_painting_to_learn(path, options.size)
    photos, refused = style_training.read_photos(source, options.seed)
    disk.check_writable(folder / learned_styles.META)
    device = hardware.use_precision(options.precision, "convolutions")
    training = style_training.StyleTraining(folder, paintings, photos, base, options)
    if not options.quiet:
        print(f"device: {device}; vgg16 with the weights {training.loss.source}", file=sys.stderr)
    small = input_pictures.notes_on_small(paintings, options.size, sharp_size)
    for line in (*small, imaging.unread_pictures(source), *(f"left out: {line}" for line in refused)):
        if line:
            trainings.note(line, options)
    resumes = options.resume and (folder / style_training.CHECKPOINT).exists()
    training.resume() if resumes else training.begin()
    training.execute()
    print(f"style: {folder}")
    print(f"sheet: {folder / 'sheet.png'}")
    style = folder if len(paintings) == 1 else folder / paintings[0].stem
    print(f"paint: {command_line.command_of('style_transfer.py', 'PHOTO', '--learned', str(style))}")
    if refused:
        raise errors.PartlyDone(
            f"{len(refused)} files in {source} could not be used as photos; the first: {refused[0]}"
        )


def sharp_size(side):
    """Return what to type so that a painting, whose longest side has `side` pixels, is not enlarged."""
    least = config.Learn.__dataclass_fields__["size"].metadata["range"].least
    return f"--size {side} keeps it sharp, with smaller strokes" if side >= least else "take a larger picture of it"


PHOTOS = config.ROOT / "images/content"


def check(arguments, options):
    """Return the paintings. Raises InputError for a missing file, and for options that contradict each other."""
    for path in arguments.paintings:
        if not path.is_file():
            folder = "is a folder; a folder of photos comes after --photos"
            raise errors.InputError(f"{path} {folder if path.exists() else 'does not exist'}")
    stems = [path.stem for path in arguments.paintings]
    if len({*stems}) < len(stems):
        raise errors.InputError("two paintings have the same name; rename one, since styles are named after them")
    if options.photos and not pathlib.Path(options.photos).is_dir():
        raise errors.InputError(f"there is no folder {options.photos}; --photos takes a folder of photos")
    if options.base and options.from_scratch:
        raise errors.InputError("--base cannot be combined with --from-scratch")
    if options.keep_network and base_of(options) is None:
        raise errors.InputError("--keep-network needs a network, from --base or in trained/styles")
    if options.base and not base_of(options).exists():
        raise errors.InputError(f"{options.base} does not exist; --base takes a style's folder or its network.npz")
    if options.steps and command_line.was_given(arguments, "minutes"):
        raise errors.InputError("--steps cannot be combined with --minutes")
    return arguments.paintings


def check_folder(folder, options):
    """Raise InputError if the folder can't be used, or if --resume is given and the folder holds no training."""
    disk.refuse_tilde(folder)
    meta = learned_styles.read_meta(folder) if (folder / learned_styles.META).exists() else None
    if not meta and any(folder.glob(f"*/{learned_styles.STYLE}")):
        raise errors.InputError(f"{folder} holds other learned styles; give another folder with --output")
    begun = (folder / style_training.CHECKPOINT).exists()
    finished = errors.InputError(
        f"{folder} holds a learned style; give another --output, or --overwrite to learn it again"
    )
    if options.resume:
        if meta and meta.get("finished"):
            raise finished
        if not meta:
            raise errors.InputError(f"{folder} holds no training to resume")
    elif not options.overwrite:
        if meta and meta.get("finished"):
            raise finished
        if meta and begun:
            raise errors.InputError(f"{folder} holds a training; --resume continues it, --overwrite starts again")
        existing = [folder / name for name in style_training.FILES if (folder / name).exists()]
        if existing and not meta:
            raise errors.InputError(f"{existing[0]} would be replaced; give another --output, or --overwrite")


def base_of(options):
    """Return the style or network to begin with, as learned_styles.load_base() takes it, or None."""
    shipped = learned_styles.STYLES / learned_styles.NETWORK
    if options.from_scratch:
        return None
    if options.base:
        return naming.find_trained(options.base, "trained/styles")
    return shipped if shipped.exists() else None


if __name__ == "__main__":
    command_line.run(main)
