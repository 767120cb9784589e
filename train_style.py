"""Teach a small network to paint as a painting is painted; style_transfer.py --learned then paints a photo at once.

    python train_style.py images/style/wave.jpg --minutes 30
    python train_style.py mypainting.jpg --photos holiday/
    python train_style.py wave.jpg scream.jpg --photos holiday/ --output trained/styles/both

The network sees pieces of photos and is told by the loss of style_transfer.py how what it makes of them should change
(Johnson, Alahi & Fei-Fei 2016). Of several paintings it learns all, each by numbers of its own (Dumoulin, Shlens &
Kudlur 2017), and they can be mixed.

Writes into trained/styles/PAINTING: network.npz, style.npz and meta.json, which tells what it was learned from;
sheet.png, which shows every few minutes what becomes of three of the photos; loss.csv and loss.png. Of several
paintings, each has a folder in there. Interrupt it when you like; the same command with --resume goes on.
"""

import command_line  # first, since it puts Ctrl-C in a line from here on

# isort: split
import pathlib
import sys

import config
import disk
import errors

hardware = command_line.lazy_import("hardware")
learned_styles = command_line.lazy_import("learned_styles")
provenance = command_line.lazy_import("provenance")
recipes = command_line.lazy_import("recipes")
style_training = command_line.lazy_import("style_training")
trainings = command_line.lazy_import("trainings")


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
    photos, refused = style_training.read_photos(pathlib.Path(options.photos or PHOTOS))
    for path in paintings:
        style_training.read_painting(path, options.size)
    base = base_of(options)
    about = about_training(paintings, photos, base, options)
    take_folder(folder, about, options)
    device = hardware.use_precision(options.precision, "convolutions")
    if not options.quiet:
        print(f"device: {device}", file=sys.stderr)
        for line in refused:
            trainings.note(f"left out: {line}", options)
    training = style_training.StyleTraining(folder, paintings, photos, base, options, about)
    if not options.resume:
        disk.write_json(folder / learned_styles.META, about | {"finished": False})
    training.execute()
    print(f"style: {folder}")
    print(f"sheet: {folder / 'sheet.png'}")
    names = [folder] if len(paintings) == 1 else [folder / path.stem for path in paintings]
    print(f"paint: python style_transfer.py PHOTO --learned {names[0]}")
    if refused:
        raise errors.PartlyDone(f"{len(refused)} files could not be used as photos, and are named above")


PHOTOS = pathlib.Path(__file__).parent / "images/content"


def check(arguments, options):
    """Return the paintings. Raises InputError for what is missing, and for options that make no sense together."""
    for path in arguments.paintings:
        if not path.is_file():
            raise errors.InputError(f"{path} does not exist" if not path.exists() else f"{path} is a folder")
    stems = [path.stem for path in arguments.paintings]
    if len({*stems}) < len(stems):
        raise errors.InputError("two paintings have one name; rename one, since styles are named after them")
    if options.photos and not pathlib.Path(options.photos).is_dir():
        raise errors.InputError(f"there is no folder {options.photos}; --photos takes one of photos")
    if options.base and options.from_scratch:
        raise errors.InputError("--base and --from-scratch exclude each other")
    if options.base and not pathlib.Path(options.base).is_file():
        raise errors.InputError(f"{options.base} does not exist; --base takes the network.npz of a style")
    if options.steps and command_line.was_given(arguments, "minutes"):
        raise errors.InputError("--steps and --minutes exclude each other")
    return arguments.paintings


def base_of(options):
    """Return the file of the network to begin with, or None."""
    shipped = learned_styles.STYLES / learned_styles.NETWORK
    if options.from_scratch:
        return None
    return pathlib.Path(options.base) if options.base else shipped if shipped.exists() else None


def about_training(paintings, photos, base, options):
    """Return what meta.json tells of a training."""
    names = ("size", "minutes", "steps", "content_weight", "learning_rate", "seed")
    return {
        "paintings": [recipes.fingerprint(path) for path in paintings],
        "photos": len(photos),
        "base": learned_styles.checksum(base) if base else None,
        "options": {name: getattr(options, name) for name in names},
    }


def take_folder(folder, about, options):
    """Make the folder and clear it of an earlier training, or check that this one is there. Raises InputError."""
    disk.refuse_tilde(folder)
    meta = folder / learned_styles.META
    earlier = disk.read_json(meta) if meta.exists() else None
    if options.resume:
        if not (folder / style_training.CHECKPOINT).exists():
            raise errors.InputError(f"{folder} holds no training to resume")
        changes = trainings.differences(about, earlier)
        if changes:
            raise trainings.other_training(folder, changes)
    elif not options.overwrite and earlier is not None:
        finished = "a learned style; --overwrite learns it anew"
        raise errors.InputError(
            f"{folder} holds {finished if earlier.get('finished') else 'a training; --resume goes on'}"
        )
    disk.check_writable(meta)
    if not options.resume:
        for name in style_training.FILES:
            (folder / name).unlink(missing_ok=True)


if __name__ == "__main__":
    command_line.run(main)
