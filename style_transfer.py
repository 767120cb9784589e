"""Turn photos into paintings by a loss of content and style; or textures alone, and what one layer keeps of a photo.

    python style_transfer.py photo.jpg --style wave.jpg
    python style_transfer.py holiday/ --style wave.jpg scream.jpg --each --output styled/
    python style_transfer.py photo.jpg --layer block4_conv2

A picture is searched for whose features in VGG resemble the photo's, and whose colours, edges and statistics of those
features, wherever they occur, resemble the painting's (after Gatys, Ecker & Bethge 2016). Without a photo it is
texture synthesis (Gatys et al. 2015); without a painting, the photo is made again from noise and one layer's
features (Mahendran & Vedaldi 2015). The search goes from coarse to fine. With --learned there is no search, or with
--refine a short one: a small network that was taught a painting makes the picture at once (Johnson et al. 2016).
"""

from atelier import command_line  # first, since it puts Ctrl-C in a line from here on

# isort: split
import dataclasses
import functools
import math
import os
import pathlib
import sys
import time

import config
from atelier import errors, naming

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # where it is not usual, convolutions take less memory so
disk = command_line.lazy_import("atelier.disk")
films = command_line.lazy_import("atelier.films")
folders = command_line.lazy_import("atelier.batch.folders")
hardware = command_line.lazy_import("atelier.hardware")
imaging = command_line.lazy_import("atelier.imaging")
learned_styles = command_line.lazy_import("atelier.style.learned_styles")
provenance = command_line.lazy_import("atelier.provenance")
manifests = command_line.lazy_import("atelier.manifests")
optimization = command_line.lazy_import("atelier.style.optimization")


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
SETTLED = (
    *("layer", "convnet", "iterations", "init", "scales", "style_layers", "style_scale"),
    *("style_weights", "published_losses", "each"),
)
SEARCH_ONLY = (
    *("optimizer", "learning_rate", "content_layers", "layer_weights", "content_weight", "style_weight", "tv_weight"),
    *("save_every", "plot", "gif", "weights"),
)
# What is of no use to each task, and why.
WITHOUT_USE = {
    "learned": {
        "with --learned: what was learned settles it": SETTLED,
        "with --learned, unless --refine has a search follow": SEARCH_ONLY,
    },
    "refined": {"with --learned: what was learned settles it, and --refine tells the steps": SETTLED},
    "texture": {"without a photo and a painting": PHOTO_ONLY},
    "layer": {
        "without a photo and a painting": ("content_layers", "published_losses", "keep_colors", *STYLE_ONLY),
    },
}


def main():
    arguments = parse_arguments()
    content = arguments.content
    if content is not None and not content.exists():
        raise errors.InputError(f"{content} does not exist")
    options = options_of(arguments)
    many = content is not None and (content.is_dir() or options.each)
    command_line.check_sharing(options, many, "a folder of photos, or --each painting")
    if many:
        paint_many(content, options)
    else:
        paint_one(content, options)


# --- The command -------------------------------------------------------------------------------


def options_of(arguments):
    """Return the options of a command line, in its place the defaults of what it asks for. Raises InputError."""
    task = which_task(arguments)
    for why, name in ((why, name) for why, names in WITHOUT_USE.get(task, {}).items() for name in names):
        if command_line.was_given(arguments, name):
            raise errors.InputError(f"--{name.replace('_', '-')} is of no use {why}")
    options = command_line.collect(config.Style, arguments, config.STYLE_DEFAULTS[task])
    if command_line.was_given(arguments, "learning_rate") and options.optimizer != "adam":
        raise errors.InputError("--learning-rate is Adam's: add --optimizer adam")
    check(options, task)
    return options


def which_task(arguments):
    """Say which of config.STYLE_DEFAULTS the command asks for. Raises InputError for nothing, or two at once."""
    content, styles = arguments.content, getattr(arguments, "style", ())
    if hasattr(arguments, "learned"):
        if styles or content is None:
            raise errors.InputError("--learned paints a photo after learned styles: it takes one, and no --style")
        return "refined" if getattr(arguments, "refine", 0) else "learned"
    for path in styles:
        if not pathlib.Path(path).exists():
            raise errors.InputError(f"{path} does not exist")
    if hasattr(arguments, "layer"):
        if styles or content is None:
            raise errors.InputError("--layer reconstructs a photo: it takes one, and no --style")
        return "layer"
    if not styles:
        raise errors.InputError(
            "give a painting with --style, a learned style with --learned, or a layer to reconstruct the photo from "
            "with --layer"
        )
    if content is None:
        return "texture"
    return "published" if hasattr(arguments, "published_losses") else "style"


def check(options, task):
    """Raise InputError for an option that makes no sense."""
    if not options.learned and (options.strength != 1 or options.refine or not options.size):
        raise errors.InputError("--strength, --refine and --size 0, the photo's own size, go with --learned")
    if 0 < options.size < config.VGG_LEAST_SIDE:
        raise errors.InputError(f"--size must be at least {config.VGG_LEAST_SIDE}, or 0 for the photo's own")
    for text in options.learned:
        naming.weighted(text, "--learned")
    if (task, options.init) == ("layer", "style") or ("texture" in task and options.init == "content"):
        raise errors.InputError(f"there is nothing to begin with: --init {options.init}")
    naming.check_layers([*options.content_layers, *([options.layer] if options.layer else [])], options.convnet)
    naming.check_layers(options.style_layers, options.convnet)
    for name, counted, what in (
        ("style_weights", imaging.find_paintings(options.style), "painting"),
        ("layer_weights", options.style_layers, "style layer"),
    ):
        weights, flag = getattr(options, name), "--" + name.replace("_", "-")
        if len(weights) not in (0, 1, len(counted)):
            raise errors.InputError(
                f"{flag} has {len(weights)} numbers for {len(counted)} {what}s; give one for each, or one for all"
            )
        if weights and not (all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0):
            raise errors.InputError(f"{flag} must be 0 or above, and not all 0")
    if options.each and options.style_weights:
        raise errors.InputError("--style-weights mixes paintings, and --each paints after each alone: not both")
    if options.init not in BEGINNINGS and not pathlib.Path(options.init).is_file():
        raise errors.InputError(f"--init takes content, style, noise or a picture, and {options.init} is none")


BEGINNINGS = ("content", "style", "noise")  # what --init takes, beside a picture


def default_name(content, options):
    """Name the result after what goes into it."""
    parts = [content.resolve().name if content.is_dir() else content.stem] if content else []
    if options.each:
        return f"{parts[0]}__each"  # where further paintings go, too
    parts += [pathlib.Path(style).stem for style in options.style]
    parts += [pathlib.Path(naming.weighted(text)[0]).name for text in options.learned]
    parts += [options.layer] if options.layer else [] if content else ["texture"]
    # A search may have made a picture after the same painting.
    return "__".join(parts) + ("" if not options.learned else "_refined" if options.refine else "_learned")


def paint_one(content, options):
    """Make one picture, and print where it is and what became of its losses."""
    result = pathlib.Path(options.output or f"generated/{default_name(content, options)}.{options.format}")
    if content is None and not options.quiet:  # first, since the error may be about what was meant as the photo
        print("note: without a photo before --style, this makes a texture", file=sys.stderr)
    command_line.require_suffix(result, ".png", ".jpg", ".jpeg")
    files = extra_files(result, options)
    disk.refuse_to_overwrite(files.values(), options.overwrite)
    disk.check_writable(result)
    row = paint(content, result, options, keep_unfinished=True)
    for key, value in (files | row).items():
        print(f"{key}: {value}")


def paint_many(content, options):
    """Paint each photo in a folder, or one after each painting, and print where the pictures are."""
    output = pathlib.Path(options.output or f"generated/{default_name(content, options)}")
    folders.check_folder(output)
    if any(pathlib.Path(path).is_dir() and output.resolve() == pathlib.Path(path).resolve() for path in options.style):
        raise errors.InputError(f"{output} is where the paintings are; give another folder with --output")
    photos = folders.find_photos(content, output, options) if content.is_dir() else [content]
    task = folders.ImageTask(SCRIPT, paint, prepare, manifest_of, lambda words: options_of(parse_arguments(words)))
    folders.apply_to_folder(task, photos, output, f".{options.format}", variants_of(options), options)


SCRIPT = "style_transfer.py"


def variants_of(options):
    """List the variants to paint a photo: after the mixture of all paintings or, with --each, after each of them."""
    if not options.each:
        return [folders.Variant(options)]
    variants = []
    for path in dict.fromkeys(painting.resolve() for painting in imaging.find_paintings(options.style)):
        row = {"painting": str(path), "painting_sha256": manifests.file_checksum(path)["sha256"]}
        variants.append(
            folders.Variant(dataclasses.replace(options, style=(str(path),), each=False), f"__{path.stem}", row)
        )
    return variants


def manifest_of(options):
    """Return what shapes the pictures of a folder. With --each the painting is told in each picture's own row."""
    named = {} if options.each else {"style": imaging.find_paintings(options.style)}
    if options.init not in BEGINNINGS:
        named["init"] = [options.init]
    manifest = manifests.manifest_of(SCRIPT, options, ("compare", "plot", "save_every", "each"), named)
    for place, (name, weight) in enumerate(map(naming.weighted, options.learned)):
        manifest["learned"][place] = {"name": name, "sha256": f"{learned_styles.load_style(name).checksum} {weight}"}
    return manifest | ({"style": "--each, one by one"} if options.each else {})


def prepare(options):
    """Open the studio, once all paintings are known to be of use: they are not tried one by one, as photos are."""
    if options.learned and not options.refine:
        return open_easel(options)
    for path in imaging.find_paintings(options.style):
        optimization.read_painting(path, options)
    return open_studio(options)


def extra_files(result, options):
    """Name the files that a picture comes with: a dict from kind to path."""
    endings = {"animation": options.gif and ".gif", "comparison": options.compare and "__compare.png"}
    return {"picture": result} | disk.files_beside(result, **endings, plot=options.plot and "__losses.png")


# --- One picture -------------------------------------------------------------------------------


def paint(content, result, options, keep_unfinished=False):
    """Paint one photo (or None, for a texture) into the file `result`: the task that a folder is given.

    Returns what to tell of it, a dict: size, seconds, the steps at each size and the losses at the end. Where the
    search diverges or is interrupted, and `keep_unfinished`, the last good picture is written, and PartlyDone or
    Interrupted raised. Raises InputError where the photo is of no use.
    """
    if options.learned and not options.refine:
        return paint_at_once(content, result, options)
    started = time.perf_counter()
    disk.refuse_to_replace(
        extra_files(result, options).values(), (content, *imaging.find_paintings(options.style), options.init)
    )
    photo = None if content is None else optimization.read_photo(content, options)
    studio = open_studio(options)
    if options.learned:
        search = optimization.Refinement(studio, photo, open_easel(options), result, options)
    else:
        search = optimization.Search(studio, photo, result, options)
    unfinished = None
    try:
        search.run()
    except optimization.Diverged as error:
        if not keep_unfinished or search.picture is None:
            raise errors.InputError(str(error)) from None
        unfinished = errors.PartlyDone(f"{error}; {result} is the last good picture")
    except KeyboardInterrupt:
        if not keep_unfinished or search.picture is None:
            raise
        unfinished = errors.Interrupted(f"interrupted; {result} is the picture so far")
    styles = {"styles": " ".join(options.learned)} if options.learned else {}
    about = provenance.of_result(options.seed, weights=studio.source, source=str(content), **styles)
    save_extras(search, result, options, about)
    # The picture comes last: where it is, all is done.
    imaging.save_picture(result, search.finished(), about, imaging.kept_exif(content) if content else None)
    if unfinished:
        raise unfinished
    height, width = search.picture.shape[:2]
    row = {"width": width, "height": height, "seconds": round(time.perf_counter() - started, 1)}
    row |= {"steps": " + ".join(map(str, search.steps))}
    return row | {LOSSES[name]: f"{value:.6g}" for name, value in search.history[-1].items()}


# What users are told the terms of the loss are.
LOSSES = {
    "total": "loss",
    "content": "content_loss",
    "style": "style_loss",
    "tv": "tv_loss",
    "contrast": "contrast_loss",
}


# --- Learned styles ----------------------------------------------------------------------------


def paint_at_once(content, result, options):
    """Paint one photo into the file `result` after learned styles: the task, without a search."""
    started = time.perf_counter()
    disk.refuse_to_replace(extra_files(result, options).values(), (content,))
    photo, easel = optimization.read_photo(content, options), open_easel(options)
    picture = learned_styles.as_wanted(easel.paint(photo), photo, options.keep_colors, options.strength)
    about = provenance.of_result(options.seed, styles=" ".join(options.learned), source=str(content))
    if options.compare:
        sheet = imaging.side_by_side([photo, picture.astype("float32")], len(photo))
        imaging.save_png(extra_files(result, options)["comparison"], sheet, about)
    imaging.save_picture(result, picture, about, imaging.kept_exif(content))
    height, width = picture.shape[:2]
    return {"width": width, "height": height, "seconds": round(time.perf_counter() - started, 1)}


def open_studio(options):
    """Return what all photos share; a style's statistics go with the weights that they were taken with."""
    if not options.learned:
        return optimization.open_studio(options)
    weights = open_easel(options).style.weights
    if weights == config.FORMER_WEIGHTS:
        raise errors.InputError(
            f"this style was taught with the weights {weights}, which are no longer supported; without --refine it "
            "still paints, and train_style.py teaches it anew"
        )
    if weights is None:
        raise errors.InputError("these styles were learned with different --weights: they mix, but not with --refine")
    if options.weights not in (None, weights) and "imagenet" in (options.weights, weights):
        raise errors.InputError(f"--refine takes the weights that this style was learned with: --weights {weights}")
    try:
        return optimization.open_studio(dataclasses.replace(options, weights=options.weights or weights))
    except errors.InputError as error:
        raise errors.InputError(f"--refine needs VGG16 with the weights {weights}, as the style: {error}") from error


def open_easel(options):
    return make_easel(options.learned, options.precision, options.quiet or options.refine > 0)  # which tells more


@functools.lru_cache(maxsize=1)
def make_easel(learned, precision, quiet):
    device = hardware.use_precision(precision, "convolutions")
    if not quiet:
        print(f"device: {device}", file=sys.stderr)
    return learned_styles.Easel(map(naming.weighted, learned))


# --- Beside the picture ------------------------------------------------------------------------


def save_extras(search, result, options, about):
    """Write what was asked for beside the picture."""
    files = extra_files(result, options)
    if options.gif:
        films.save_gif(files["animation"], films.same_size([*search.frames, films.small(search.finished())]), seconds=4)
    if options.compare:
        photo = [] if search.photo is None else [search.photo]
        pictures = [*photo, *search.mixture.paintings, search.finished()]
        imaging.save_png(files["comparison"], imaging.side_by_side(pictures, search.picture.shape[0]), about)
    if options.plot:
        plot_losses(files["plot"], search.history, about)


def plot_losses(path, history, about):
    """Draw each term of the loss over the steps of all scales."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name in history[0]:
        axes.semilogy(range(1, len(history) + 1), [terms[name] for terms in history], label=LOSSES[name])
    axes.set(xlabel="step, from the coarsest scale to the finest", ylabel="loss, before its weight")
    axes.legend()
    with disk.whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100, metadata=about)


if __name__ == "__main__":
    command_line.run(main)
