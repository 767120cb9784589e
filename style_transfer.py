"""Turn photos into paintings by neural style transfer; synthesize textures; reconstruct a photo from one layer.

    python style_transfer.py photo.jpg --style wave.jpg
    python style_transfer.py holiday/ --style wave.jpg scream.jpg --each --output styled/
    python style_transfer.py photo.jpg --layer block4_conv2

A search optimizes a picture at increasing sizes. The picture's VGG features become similar to the photo's, and the
statistics of these features become similar to the painting's (after Gatys, Ecker & Bethge 2016). Without a photo, the
script synthesizes a texture (Gatys et al. 2015). With --layer instead of a painting, the search starts with noise and
reconstructs the photo from the features of one layer (Mahendran & Vedaldi 2015). With --learned, a small network that
has learned a painting makes the picture in one pass, without a search (Johnson et al. 2016); --refine adds a short
search.
"""

from atelier import command_line  # imported first: from now on, Ctrl-C ends the script with one line

# isort: split
import math
import pathlib
import sys

import config
from atelier import disk, errors, naming
from atelier.style.transfer import INIT_NAMES, SCRIPT, manifest_of, output_files, paint, prepare, variants_of

folders = command_line.lazy_import("atelier.batch.folders")
imaging = command_line.lazy_import("atelier.imaging")


def parse_arguments(words=None):
    parser = command_line.Parser(__doc__)
    parser.add_argument(
        "content", nargs="?", type=pathlib.Path, help="a photo or a folder of them; left out: texture synthesis"
    )
    variants = {"--published-losses": "published", "--layer": "layer"}
    variants = {flag: config.STYLE_DEFAULTS[task] for flag, task in variants.items()}
    command_line.add_options(parser, config.Style, variants=variants)
    return parser.parse_args(words)


PHOTO_ONLY = ("content_layers", "content_weight", "keep_colors", "published_losses", "each")
STYLE_ONLY = ("style_layers", "layer_weights", "style_weight", "style_scale", "style_weights", "each")
FIXED_BY_LEARNED_STYLE = (
    *("layer", "convnet", "iterations", "init", "scales", "style_layers", "style_scale"),
    *("style_weights", "published_losses", "each"),
)
SEARCH_ONLY = (
    *("optimizer", "learning_rate", "content_layers", "layer_weights", "content_weight", "style_weight", "tv_weight"),
    *("save_every", "plot", "gif", "weights"),
)
# For each task: the options that it refuses, grouped by the option or task that they cannot be combined with.
INCOMPATIBLE_OPTIONS = {
    "learned": {"--learned": FIXED_BY_LEARNED_STYLE, "--learned unless --refine is given": SEARCH_ONLY},
    "refined": {"--learned": FIXED_BY_LEARNED_STYLE},
    "texture": {"texture synthesis, without a photo": PHOTO_ONLY},
    "layer": {"--layer": ("content_layers", "published_losses", "keep_colors", *STYLE_ONLY)},
}


def main():
    arguments = parse_arguments()
    content = arguments.content
    if content is not None and not content.exists():
        raise errors.InputError(f"{content} does not exist")
    options = options_of(arguments)
    makes_folder = content is not None and (content.is_dir() or options.each)
    command_line.check_sharing(options, makes_folder, "a folder of photos, or --each painting")
    if makes_folder:
        paint_many(content, options)
    else:
        paint_one(content, options)


# --- The command -------------------------------------------------------------------------------


def options_of(arguments):
    """Return the options of a command line, with the defaults of its task. Raises InputError."""
    task = task_of(arguments)
    for other, names in INCOMPATIBLE_OPTIONS.get(task, {}).items():
        for name in names:
            if command_line.was_given(arguments, name):
                raise errors.InputError(f"{command_line.flag_of(name)} cannot be combined with {other}")
    options = command_line.collect(config.Style, arguments, config.STYLE_DEFAULTS[task])
    if command_line.was_given(arguments, "learning_rate") and options.optimizer != "adam":
        raise errors.InputError("--learning-rate is used by Adam alone: add --optimizer adam")
    check(options, task)
    return options


def task_of(arguments):
    """Return the command's task, a key of config.STYLE_DEFAULTS. Raises InputError if it asks for none or for two."""
    content, styles = arguments.content, getattr(arguments, "style", ())
    if hasattr(arguments, "learned"):
        if styles or content is None:
            raise errors.InputError("--learned needs a photo, and no --style")
        return "refined" if getattr(arguments, "refine", 0) else "learned"
    for path in styles:
        if not pathlib.Path(path).exists():
            raise errors.InputError(f"{path} does not exist")
    if hasattr(arguments, "layer"):
        if styles or content is None:
            raise errors.InputError("--layer needs a photo, and no --style")
        return "layer"
    if not styles:
        raise errors.InputError(
            "give a painting with --style, a learned style with --learned, or with --layer a layer from which the "
            "photo is reconstructed"
        )
    if content is None:
        return "texture"
    return "published" if hasattr(arguments, "published_losses") else "style"


def check(options, task):
    """Raise InputError for a value that makes no sense, or for options that contradict each other."""
    if not options.learned and (options.strength != 1 or options.refine or not options.size):
        raise errors.InputError("--strength, --refine and --size 0 (the photo's own size) need --learned")
    if not options.learned and options.stroke_size != 1:
        raise errors.InputError("--stroke-size needs --learned; with --style, use --style-scale")
    if 0 < options.size < config.VGG_LEAST_SIDE:
        raise errors.InputError(f"--size must be at least {config.VGG_LEAST_SIDE}, or 0 for the photo's own")
    for text in options.learned:
        naming.name_and_weight(text, "--learned")
    if (task, options.init) == ("layer", "style") or ("texture" in task and options.init == "content"):
        raise errors.InputError(
            f"--init {options.init} needs a {'painting' if task == 'layer' else 'photo'}, and none is given"
        )
    naming.check_layers([*options.content_layers, *([options.layer] if options.layer else [])], options.convnet)
    naming.check_layers(options.style_layers, options.convnet)
    for name, items, what in (
        ("style_weights", imaging.find_paintings(options.style), "painting"),
        ("layer_weights", options.style_layers, "style layer"),
    ):
        weights, flag = getattr(options, name), "--" + name.replace("_", "-")
        if len(weights) not in (0, 1, len(items)):
            raise errors.InputError(
                f"{flag} has {len(weights)} numbers for {len(items)} {what}s; give one for each, or one for all"
            )
        if weights and not (all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0):
            raise errors.InputError(f"{flag} must be 0 or above, and not all 0")
    if options.each and options.style_weights:
        raise errors.InputError("--style-weights mixes paintings, and --each uses them one by one; give one of the two")
    if options.init not in INIT_NAMES and not pathlib.Path(options.init).is_file():
        raise errors.InputError(f"--init takes {', '.join(INIT_NAMES)} or a picture, not {options.init}")


def default_name(content, options):
    """Return the result's default name, made of the names of the photo and the styles."""
    parts = [content.resolve().name if content.is_dir() else content.stem] if content else []
    if options.each:
        return f"{parts[0]}__each"  # one folder for all paintings, including the paintings of later commands
    parts += [pathlib.Path(style).stem for style in options.style]
    parts += [pathlib.Path(naming.name_and_weight(text)[0]).name for text in options.learned]
    parts += [options.layer] if options.layer else [] if content else ["texture"]
    # The suffixes keep these names different from the name of a search with the same painting.
    return "__".join(parts) + ("" if not options.learned else "_refined" if options.refine else "_learned")


def paint_one(content, options):
    """Make one picture, and print its files, its size and its losses."""
    result = pathlib.Path(options.output or f"generated/{default_name(content, options)}.{options.format}")
    if content is None and not options.quiet:  # printed before any error about the missing photo
        print("note: without a photo before --style, this makes a texture", file=sys.stderr)
    command_line.require_suffix(result, ".png", ".jpg", ".jpeg")
    files = output_files(result, options)
    disk.refuse_to_overwrite(files.values(), options.overwrite)
    disk.check_writable(result)
    row = paint(content, result, options, keep_unfinished=True)
    for key, value in (files | row).items():
        print(f"{key}: {value}")


def paint_many(content, options):
    """Make a picture of each photo in a folder, or with --each one per painting, and print the pictures' files."""
    output = pathlib.Path(options.output or f"generated/{default_name(content, options)}")
    folders.check_folder(output)
    if any(pathlib.Path(path).is_dir() and output.resolve() == pathlib.Path(path).resolve() for path in options.style):
        raise errors.InputError(f"{output} is where the paintings are; give another folder with --output")
    photos = folders.find_photos(content, output, options) if content.is_dir() else [content]
    task = folders.ImageTask(SCRIPT, paint, prepare, manifest_of, lambda words: options_of(parse_arguments(words)))
    folders.apply_to_folder(task, photos, output, f".{options.format}", variants_of(options), options)


if __name__ == "__main__":
    command_line.run(main)
