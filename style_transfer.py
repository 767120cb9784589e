"""Turn photos into paintings by neural style transfer; synthesize textures; reconstruct a photo from one layer.

    python style_transfer.py photo.jpg --style wave.jpg
    python style_transfer.py holiday/ --style wave.jpg scream.jpg --each --output styled/
    python style_transfer.py photo.jpg --layer block4_conv2

A search optimizes a picture at increasing sizes. The picture's VGG features become similar to the photo's, and the
statistics of these features become similar to the painting's (after Gatys, Ecker & Bethge 2016). Without a photo, the
script synthesizes a texture (Gatys et al. 2015). With --layer instead of a painting, the search starts with noise and
reconstructs the photo from the features of one layer (Mahendran & Vedaldi 2015). --mask paints a part of the photo, and
--regions gives each part its own painting (Gatys et al. 2017). With --learned, a small network that has learned a
painting makes the picture in one pass, without a search (Johnson et al. 2016); --refine adds a short search.
"""

from atelier import command_line  # imported first: from now on, Ctrl-C ends the script with one line

# isort: split
import math
import pathlib
import sys

import config
from atelier import disk, errors, naming
from atelier.style import style_sheets
from atelier.style.transfer import (
    INIT_NAMES,
    SCRIPT,
    at_once,
    check_film_options,
    manifest_of,
    output_files,
    paint,
    paint_samples,
    prepare,
    variants_of,
)

folders = command_line.lazy_import("atelier.batch.folders")
imaging = command_line.lazy_import("atelier.imaging")
input_pictures = command_line.lazy_import("atelier.style.input_pictures")
outputs = command_line.lazy_import("atelier.outputs")
previews = command_line.lazy_import("atelier.style.previews")
regions = command_line.lazy_import("atelier.style.regions")


def parse_arguments(words=None):
    parser = command_line.Parser(__doc__, CONFLICTS)
    parser.add_argument(
        "content",
        nargs="*",
        type=pathlib.Path,
        help="a photo or a film, several, or a folder of them; left out: texture synthesis",
        metavar="PHOTO",
    )
    variants = {"--published-losses": "published", "--layer": "layer"}
    variants = {flag: config.STYLE_DEFAULTS[task] for flag, task in variants.items()}
    command_line.add_options(parser, config.Style, variants=variants)
    return parser.parse_args(words)


REGIONS = ("mask", "regions")
PHOTO_ONLY = ("content_layers", "content_weight", "keep_colors", "published_losses", "each", "preview", *REGIONS)
STYLE_ONLY = ("style_layers", "layer_weights", "style_weight", "style_scale", "style_weights", "each", *REGIONS)
FIXED_BY_LEARNED_STYLE = (
    *("layer", "convnet", "effort", "iterations", "init", "scales", "style_layers", "style_scale"),
    *("style_weights", "published_losses", "each", "preview"),
)
SEARCH_ONLY = (
    *("optimizer", "learning_rate", "content_layers", "layer_weights", "content_weight", "style_weight", "tv_weight"),
    *("save_every", "plot", "gif", "weights"),
)
# For each task: the options that it refuses, grouped by the option or task that they cannot be combined with.
INCOMPATIBLE_OPTIONS = {
    "learned": {"--learned": FIXED_BY_LEARNED_STYLE, "--learned unless --refine is given": SEARCH_ONLY},
    "refined": {"--learned": FIXED_BY_LEARNED_STYLE, "--refine": REGIONS},
    "published": {"--published-losses": ("effort", *REGIONS)},
    "texture": {"texture synthesis, without a photo": (*PHOTO_ONLY, "effort")},
    "layer": {"--layer": ("content_layers", "published_losses", "keep_colors", "effort", "preview", *STYLE_ONLY)},
}
LEARNED_ONLY = ("strength", "refine", "stroke_size")
CONFLICTS = {
    "effort": ("iterations", "published_losses"),
    "iterations": ("effort",),
    "style": ("learned", "layer", *LEARNED_ONLY),
    "learned": ("style", *FIXED_BY_LEARNED_STYLE, *SEARCH_ONLY),
    "layer": ("style", "learned", *INCOMPATIBLE_OPTIONS["layer"]["--layer"], *LEARNED_ONLY),
    "published_losses": INCOMPATIBLE_OPTIONS["published"]["--published-losses"],
    "refine": REGIONS,
    "mask": ("refine", "published_losses"),
    "regions": ("refine", "published_losses", "each", "style_weights"),
}
CONFLICTS = {command_line.flag_of(name): [*map(command_line.flag_of, others)] for name, others in CONFLICTS.items()}


def main():
    arguments = parse_arguments()
    content = arguments.content
    naming.check_photos(content)
    if hasattr(arguments, "list_styles"):
        list_styles(content, command_line.collect(config.Style, arguments))
        return
    options = options_of(arguments)
    note_small_paintings(options)
    if options.frames_every:
        if options.each:
            raise errors.InputError("--frames-every shows one painting; leave out --each, and give one --style")
        folder = f"generated/{default_name(content, options)}_frames"
        command_line.print_samples(content, folder, options, paint_samples)
        return
    makes_folder = naming.are_many(content) or (content and options.each)
    if options.preview:
        preview(content, options, makes_folder)
        return
    command_line.check_sharing(options, makes_folder, "a folder of photos, or --each painting")
    if makes_folder:
        paint_many(content, options)
    else:
        paint_one(content, options)


def list_styles(content, options):
    """Print the learned styles with their paintings, and the path of a sheet that shows a photo in each of them."""
    if naming.are_many(content):
        raise errors.InputError("--list-styles shows the styles on one photo; give one, or none")
    command_line.require_suffix(options.output, ".png")
    paintings = style_sheets.paintings_of_styles()
    for name, painting in paintings.items():
        print(f"{name}: {painting}", flush=True)
    photo = content[0] if content else config.ROOT / "images/content/china.jpg"
    result = pathlib.Path(options.output or f"generated/{photo.stem + '__' if content else ''}styles.png")
    if result.exists() and not options.overwrite:
        print(f"note: {result} exists already; --overwrite makes it anew", file=sys.stderr)
        return
    disk.check_writable(result)
    disk.refuse_to_replace([result], [photo])
    style_sheets.write_sheet(result, photo, paintings, options)
    print(f"sheet: {result}")


def preview(content, options, makes_folder):
    """Write a sheet of six small variants of one picture, and print its path."""
    if makes_folder:
        raise errors.InputError("--preview shows variants of one picture; give one photo, and no --each")
    if naming.is_film(content[0]):
        check_film_options(options)
    command_line.require_suffix(options.output, ".png")
    default = f"generated/{default_name(content, options)}__preview.png"
    result = outputs.choose_result(options, default, lambda result: [result])
    disk.refuse_to_replace([result], [*content, *options.style])
    previews.write_preview(result, content[0], options)
    print(f"preview: {result}")


def note_small_paintings(options):
    """Print a note for each painting that is too small for the size of the result."""
    if options.quiet:
        return
    paintings, longest = imaging.find_paintings(options.style), options.size * options.style_scale
    if options.size > config.LARGE:  # a painting is enlarged to at most twice its own size
        lines = input_pictures.notes_on_smaller(paintings, longest)
    else:
        lines = input_pictures.notes_on_small(paintings, longest, lambda side: sharp_scale(side, options))
    for line in lines:
        print(f"note: {line}", file=sys.stderr)


def sharp_scale(side, options):
    """Return the flag with which a painting, whose longest side has `side` pixels, is not enlarged."""
    scale = math.floor(1000 * side / options.size) / 1000
    return f"--style-scale {scale} keeps it sharp, with smaller strokes"


# --- The command -------------------------------------------------------------------------------


def options_of(arguments):
    """Return the options of a command line, with the defaults of its task. Raises InputError."""
    task = task_of(arguments)
    for other, names in INCOMPATIBLE_OPTIONS.get(task, {}).items():
        for name in names:
            if command_line.was_given(arguments, name):
                raise errors.InputError(f"{command_line.flag_of(name)} cannot be combined with {other}")
    naming.check_film_options(arguments, arguments.content)
    options = command_line.collect(config.Style, arguments, config.STYLE_DEFAULTS[task])
    if command_line.was_given(arguments, "effort") and options.iterations:
        raise errors.InputError("--effort cannot be combined with --iterations; give one of the two")
    if command_line.was_given(arguments, "learning_rate") and options.optimizer != "adam":
        raise errors.InputError("--learning-rate is used by Adam alone: add --optimizer adam")
    check(options, task)
    return options


def task_of(arguments):
    """Return the command's task, a key of config.STYLE_DEFAULTS. Raises InputError if it asks for none or for two."""
    content, styles = arguments.content, getattr(arguments, "style", ())
    if hasattr(arguments, "learned"):
        check_learned(content, styles, arguments.learned)
        return "refined" if getattr(arguments, "refine", 0) else "learned"
    naming.check_photos(styles)
    if hasattr(arguments, "layer"):
        if styles or not content:
            raise errors.InputError("--layer needs a photo, and no --style")
        return "layer"
    if not styles:
        raise errors.InputError(
            "give a painting with --style, a learned style with --learned, or with --layer a layer from which the "
            "photo is reconstructed"
        )
    if not content:
        check_texture(arguments)
        return "texture"
    return "published" if hasattr(arguments, "published_losses") else "style"


def check_learned(content, styles, learned):
    """Raise InputError if --learned is given with --style, or without a photo, or before the photo."""
    if styles:
        raise errors.InputError("--learned cannot be combined with --style; give one of the two")
    for name in learned:
        if all(part in naming.known_styles() for part in name.split(",")) and "," in name:
            raise errors.InputError(f"there is no style {name}; put spaces, not commas, between several")
    photos = [name for name in learned if is_photo(name)]
    if photos and len(photos) < len(learned):
        command = command_line.command_with_first(*photos, without=photos)
        raise errors.InputError(f"{photos[0]} is no learned style; a photo comes before --learned: {command}")
    if content and photos:
        raise errors.InputError(
            f"{photos[0]} is no learned style; for the style of a painting: --style {photos[0]}, or let train_style.py "
            "learn it"
        )
    if not content:
        raise errors.InputError("--learned needs a photo, or a folder of photos, before it")


def is_photo(text):
    """Tell whether a word after --learned names a photo or a folder of photos, and no style."""
    path = pathlib.Path(text)
    is_style = (naming.find_trained(text, "trained/styles") / "meta.json").is_file()
    return path.is_file() or (path.is_dir() and not is_style)


def check_texture(arguments):
    """Raise InputError if the last of several paintings may be meant as the photo, since the photo is missing."""
    if len(arguments.style) > 1 and not hasattr(arguments, "init") and not hasattr(arguments, "style_weights"):
        photo = arguments.style[-1]
        command = command_line.command_with_first(photo, without=[photo])
        raise errors.InputError(
            f"{photo} comes after --style, so it is taken for a painting; for a texture of all these paintings, add "
            f"--init noise; for {photo} as the photo: {command}"
        )


def check(options, task):
    """Raise InputError for a value that makes no sense, or for options that contradict each other."""
    if not options.learned and (options.strength != 1 or options.refine or not options.size):
        raise errors.InputError("--strength, --refine and --size 0 (the photo's own size) need --learned")
    if not options.learned and options.stroke_size is not None:
        raise errors.InputError("--stroke-size needs --learned; with --style, use --style-scale")
    if 0 < options.size < config.VGG_LEAST_SIDE:
        own = ", or 0 for the photo's own" if options.learned else ""
        raise errors.InputError(f"--size must be at least {config.VGG_LEAST_SIDE}{own}")
    if options.layer and options.size > config.LARGE:
        raise errors.InputError(f"--layer takes a --size of at most {config.LARGE}")
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
    if options.mask or options.regions:
        check_regions(options)
    if options.each and options.style_weights:
        raise errors.InputError("--style-weights mixes paintings, and --each uses them one by one; give one of the two")
    if options.init not in INIT_NAMES and not pathlib.Path(options.init).is_file():
        raise errors.InputError(f"--init takes {', '.join(INIT_NAMES)} or a picture, not {options.init}")


def check_regions(options):
    """Raise InputError if --mask or --regions names no file, or if --regions has an option that contradicts it."""
    for path in (options.mask, options.regions):
        if path not in (None, naming.AUTO_REGIONS) and not pathlib.Path(path).exists():
            raise errors.InputError(f"{path} does not exist")
    if not options.regions:
        return
    weighted = options.style_weights or any(naming.name_and_weight(text, "")[1] != 1 for text in options.learned)
    if options.each or weighted:
        what = "--each uses the paintings" if options.each else "weights mix them"
        raise errors.InputError(
            f"--regions gives each region its own painting or style, and {what}; give one of the two"
        )
    if len(regions.names_of_styles(options)) < 2:
        raise errors.InputError("--regions needs a painting or a style for each region; for one, use --mask")


def default_name(content, options):
    """Return the result's default name, made of the names of the photo and the styles."""
    parts = [naming.name_of_photos(content)] if content else []
    if options.each:
        return f"{parts[0]}__each"  # one folder for all paintings, including the paintings of later commands
    parts += [pathlib.Path(style).stem for style in options.style]
    parts += [pathlib.Path(naming.name_and_weight(text)[0]).name for text in options.learned]
    parts += [options.layer] if options.layer else [] if content else ["texture"]
    # The suffixes keep these names different from the name of a search with the same painting.
    suffix = "_masked" * bool(options.mask) + "_regions" * bool(options.regions)
    return "__".join(parts) + suffix + ("" if not options.learned else "_refined" if options.refine else "_learned")


def paint_one(content, options):
    """Make one picture, of a photo or without one, and print its files, its size and its losses."""
    if not content and not options.quiet:  # printed before any error about the missing photo
        print("note: without a photo before --style, this makes a texture", file=sys.stderr)
    is_film = bool(content) and naming.is_film(content[0])
    if is_film:
        check_film_options(options, alone=True)
    command_line.require_suffix(options.output, *(naming.FILM_KINDS if is_film else (".png", ".jpg", ".jpeg")))
    default = f"generated/{default_name(content, options)}.{'mp4' if is_film else options.format}"
    result = outputs.choose_result(options, default, lambda result: output_files(result, options).values())
    files = output_files(result, options)
    row = paint(content[0] if content else None, result, options, keep_unfinished=True)
    for key, value in (files | row).items():
        print(f"{key}: {value}")


def paint_many(content, options):
    """Make a picture of each photo, or with --each one per painting, and print the pictures' files."""
    output = pathlib.Path(options.output or f"generated/{default_name(content, options)}")
    folders.check_folder(output)
    if any(pathlib.Path(path).is_dir() and output.resolve() == pathlib.Path(path).resolve() for path in options.style):
        raise errors.InputError(f"{output} is where the paintings are; give another folder with --output")
    for path in regions.given_files(options).values() if options.mask or options.regions else ():
        if output.resolve() == path.resolve():
            raise errors.InputError(f"{output} is where the masks are; give another folder with --output")
    photos = folders.find_photos(content, output, options) if naming.are_many(content) else content
    task = folders.ImageTask(
        SCRIPT, paint, prepare, manifest_of, lambda words: options_of(parse_arguments(words)), at_once
    )
    folders.apply_to_folder(task, photos, output, f".{options.format}", variants_of(options), options)


if __name__ == "__main__":
    command_line.run(main)
