"""The style transfer task: make one picture of a photo and write its files. Scripts, folders and workers call it.

The workers of a folder call paint(), prepare() and manifest_of(), so these are here and not in the script. This module
also keeps the models that all pictures of a folder share. TensorFlow starts only when a model is needed.
"""

import dataclasses
import functools
import os
import pathlib
import sys
import time

import config
from atelier import command_line, disk, errors, manifests, naming
from atelier.command_line import lazy_import

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # oneDNN's convolutions take less memory. TensorFlow reads this
film_painting = lazy_import("atelier.film.painting")
film_reading = lazy_import("atelier.film.reading")
films = lazy_import("atelier.films")
folders = lazy_import("atelier.batch.folders")
hardware = lazy_import("atelier.hardware")
imaging = lazy_import("atelier.imaging")
input_pictures = lazy_import("atelier.style.input_pictures")
large_search = lazy_import("atelier.style.large_search")
learned_styles = lazy_import("atelier.style.learned_styles")
optimization = lazy_import("atelier.style.optimization")
provenance = lazy_import("atelier.provenance")
region_search = lazy_import("atelier.style.region_search")
regions = lazy_import("atelier.style.regions")
style_films = lazy_import("atelier.style.style_films")

SCRIPT = "style_transfer.py"
INIT_NAMES = ("content", "style", "noise")  # what --init takes, beside a picture
LOSS_KEYS = {  # the terms of the loss, as they are printed
    "total": "loss",
    "content": "content_loss",
    "style": "style_loss",
    "tv": "tv_loss",
    "contrast": "contrast_loss",
}


# --- The task ----------------------------------------------------------------------------------


def paint(content, result, options, keep_unfinished=False):
    """Make the picture of one photo, and write it to the file `result`. `content` is None for a texture.

    Returns a dict to print: size, seconds, the steps at each scale and the losses at the end. Raises InputError if
    the photo can't be used. If the search diverges or is interrupted and `keep_unfinished` is true, the last good
    picture is written, and PartlyDone or Interrupted is raised.
    """
    if content is not None and naming.is_film(content):
        return paint_film(content, result, options, keep_unfinished)
    if options.learned and not options.refine:
        return paint_without_search(content, result, options)
    started, result = time.perf_counter(), pathlib.Path(result)
    inputs = (content, *imaging.find_paintings(options.style), options.init, *regions.files_of(content, options))
    disk.refuse_to_replace(output_files(result, options).values(), inputs)
    photo = None if content is None else input_pictures.read_photo(content, options)
    areas = regions.read_regions(content, photo, options)
    result.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = open_checkpoint(content, photo, result, options)
    if keep_unfinished and not (checkpoint or options.overwrite):
        large_search.refuse_name_of_unfinished(result)
    model = load_style_model(options)
    if options.learned:
        search = optimization.Refinement(model, photo, load_stylizer(options), result, options)
    elif areas:
        search = region_search.RegionSearch(model, photo, result, options, areas)
    else:
        search = optimization.Search(model, photo, result, options)
    del photo  # the search frees it when it is no longer needed
    search.checkpoint = checkpoint
    unfinished = None
    try:
        search.run()
    except optimization.Diverged as error:
        if checkpoint:
            checkpoint.remove()
        if not keep_unfinished or search.picture is None:
            raise errors.InputError(str(error)) from None
        unfinished = errors.PartlyDone(f"{error}; {result} is the last good picture")
    except KeyboardInterrupt:
        if checkpoint and keep_unfinished:
            raise errors.Interrupted(f"interrupted; {checkpoint.advice()}") from None
        if not keep_unfinished or search.picture is None:
            raise
        unfinished = errors.Interrupted(f"interrupted; {result} is the picture so far")
    about = provenance.of_result(options, weights=model.source, source=str(content), **named_styles(options))
    save_extras(search, result, options, about)
    # The picture is written last: if it exists, all other files exist too.
    imaging.save_picture(result, search.finished(), about, provenance.exif_of(content, options))
    if checkpoint:
        checkpoint.remove()
    if unfinished:
        raise unfinished
    height, width = search.picture.shape[:2]
    row = {"width": width, "height": height, "seconds": round(time.perf_counter() - started, 1)}
    row |= {"steps": " + ".join(map(str, search.steps))} | described(areas)
    return row | {LOSS_KEYS[name]: f"{value:.6g}" for name, value in search.history[-1].items()}


def named_styles(options):
    """Return the texts that name the learned styles or the only painting, a dict, for the record of a picture."""
    styles = {"styles": " ".join(options.learned)} if options.learned else {}
    return styles | ({"painting": options.style[0]} if len(options.style) == 1 else {})


def open_checkpoint(content, photo, result, options):
    """Return the Checkpoint of the search for a large picture, and None for a small one. Raises InputError."""
    if not large_search.is_large(options.size if photo is None else max(photo.shape)):
        return None
    if options.optimizer == "adam":
        raise errors.InputError(f"--optimizer adam takes a --size of at most {config.LARGE}")
    inputs = [*([] if content is None else [content]), *regions.files_of(content, options)]
    checksums = [manifests.file_checksum(path) for path in inputs]
    return large_search.Checkpoint(result, manifest_of(options), checksums, options.overwrite)


def paint_without_search(content, result, options):
    """Make the picture of one photo by a stylization network, as paint() does."""
    started = time.perf_counter()
    files = output_files(result, options)
    disk.refuse_to_replace(files.values(), (content, *regions.files_of(content, options)))
    photo = input_pictures.read_photo(content, options)
    areas = regions.read_regions(content, photo, options)
    pictures = (stylizer.stylize(photo, options.stroke_size) for stylizer in load_stylizers(options))
    picture = areas.mix(pictures) if areas else next(pictures)
    strength = options.strength * areas.mask if areas else options.strength
    picture = learned_styles.apply_final_options(picture, photo, options.keep_colors, strength)
    about = provenance.of_result(options, source=str(content), **named_styles(options))
    if options.compare:
        sheet = imaging.side_by_side([photo, picture.astype("float32")], len(photo))
        imaging.save_png(files["comparison"], sheet, about)
    imaging.save_picture(result, picture, about, provenance.exif_of(content, options))
    height, width = picture.shape[:2]
    row = {"width": width, "height": height, "seconds": round(time.perf_counter() - started, 1)}
    return row | described(areas)


def paint_film(content, result, options, alone):
    """Paint a film, as paint() does a photo. `alone` tells that it is the only one of its command."""
    check_film_options(options)
    disk.refuse_to_replace([result], [content])
    piece = film_reading.choose_piece(content, options, config.VGG_LEAST_SIDE)
    manifest = manifest_of(options) | film_painting.identity_of(content)
    about = provenance.of_result(options, source=str(content), **named_styles(options))
    return film_painting.paint_film(piece, pathlib.Path(result), options, film_painter(options), manifest, about, alone)


def paint_samples(content, folder, options):
    """Yield the paths of pictures of some frames of a film, see --frames-every."""
    check_film_options(options)
    piece = film_reading.choose_piece(content, options, config.VGG_LEAST_SIDE)
    about = provenance.of_result(options, source=str(content), **named_styles(options))
    return film_painting.paint_samples(piece, folder, options, film_painter(options), about)


def film_painter(options):
    """Return the painter of films that the options ask for."""
    if options.learned:
        return style_films.LearnedPainter(load_stylizer(options), options)
    return style_films.SearchPainter(load_style_model(options), options)


def check_film_options(options, alone=False):
    """Raise InputError for options that films do not have.

    `alone` tells that no photos are painted. With photos, the options in EXTRAS are for these.
    """
    given = [name for name in (*PICTURE_ONLY, *(EXTRAS if alone else ())) if getattr(options, name)]
    if given:
        raise errors.InputError(f"{command_line.flag_of(given[0])} is for photos, and cannot be used for a film")
    if options.size > config.LARGE and not options.learned:
        raise errors.InputError(f"a film takes a --size of at most {config.LARGE}; for a larger one, give --learned")


PICTURE_ONLY = ("mask", "regions", "refine", "layer", "published_losses", "save_every", "preview")
EXTRAS = ("gif", "compare", "plot")


def described(areas):
    """Return the entry of the printed results that says which painting takes which of the Regions, if there are any."""
    return {"regions": areas.text} if areas and areas.text else {}


def prepare(options):
    """Load the models that all pictures share. Raises InputError, also where a painting can't be used."""
    if options.learned and not options.refine:
        load_stylizers(options)
        return
    for _ in optimization.read_paintings(options):
        pass
    load_style_model(options)


def at_once(options):
    """Return how many pictures of a folder are made at the same time.

    While the network paints one picture, others are read, compressed and written, which takes almost as long.
    """
    return 3 if options.learned and not options.refine and 0 < options.size <= config.LARGE else 1


def variants_of(options):
    """List the variants of each photo's picture: one with all paintings mixed or, with --each, one per painting."""
    own_files = functools.partial(regions.columns_of, options)
    if not options.each:
        return [folders.Variant(options, columns_of=own_files)]
    variants = []
    for path in dict.fromkeys(painting.resolve() for painting in imaging.find_paintings(options.style)):
        own_options = dataclasses.replace(options, style=(str(path),), each=False)
        row = {"painting": str(path), "painting_sha256": manifests.file_checksum(path)["sha256"]}
        variants.append(folders.Variant(own_options, f"__{path.stem}", row, own_files))
    return variants


def manifest_of(options):
    """Return what determines the pictures in a folder. With --each, each picture's own row names its painting."""
    named = {} if options.each else {"style": imaging.find_paintings(options.style)}
    if options.init not in INIT_NAMES:
        named["init"] = [options.init]
    given = regions.given_files(options)
    named |= {name: [path] for name, path in given.items() if path.is_file()}
    no_effect = ("compare", "plot", "save_every", "each", "list_styles", "preview", "frames_every")
    manifest = manifests.manifest_of(SCRIPT, options, no_effect, named)
    for place, (name, weight) in enumerate(map(naming.name_and_weight, options.learned)):
        manifest["learned"][place] = {"name": name, "sha256": f"{learned_styles.load_style(name).checksum} {weight}"}
    if not options.learned:
        manifest["stroke_size"] = 1.0  # it has no effect, and was 1.0 in former manifests
    manifest |= {name: ONE_FOR_EACH_PHOTO for name, path in given.items() if path.is_dir()}
    return manifest | ({"style": "--each, one by one"} if options.each else {})


ONE_FOR_EACH_PHOTO = "a folder with one for each photo"  # the summary identifies them, see regions.columns_of()


# --- The models --------------------------------------------------------------------------------


OPTIONS_THAT_DO_NOT_CHANGE_THE_LOSS = (
    *("style", "style_weights", "style_scale", "each", "init", "keep_colors"),
    *("learned", "refine", "strength", "stroke_size"),
    *("effort", "iterations", "scales", "optimizer", "learning_rate", "seed"),
    *("output", "overwrite", "format", "recursive", "compare", "plot", "gif", "no_page", "save_every"),
)


def load_style_model(options):
    """Return the StyleModel of a search. It is loaded once for all searches with the same loss.

    A search that refines a picture uses the weights of VGG16 that the style was learned with. Raises InputError.
    """
    if options.learned:
        options = with_weights_of_style(options)
    default = {name: getattr(config.Style(), name) for name in OPTIONS_THAT_DO_NOT_CHANGE_THE_LOSS}
    if options.regions:  # the loss is compiled for one region for each painting
        del default["style"]
    try:
        return cached_style_model(dataclasses.replace(options, **default))
    except errors.InputError as error:
        if not options.learned:
            raise
        message = f"--refine needs VGG16 with the weights of the style, {options.weights}: {error}"
        raise errors.InputError(message) from error


def with_weights_of_style(options):
    """Return options with the weights of VGG16 that their styles were learned with. Raises InputError."""
    weights = load_stylizer(options).style.weights
    if weights == config.FORMER_WEIGHTS:
        raise errors.InputError(
            f"this style was learned with the weights {weights}, which are no longer supported; it still works without "
            "--refine, and train_style.py can learn it again"
        )
    if weights is None:
        raise errors.InputError(
            "these styles were learned with different --weights; they can be mixed, but not with --refine"
        )
    if options.weights not in (None, weights) and "imagenet" in (options.weights, weights):
        raise errors.InputError(f"--refine needs the weights that this style was learned with: --weights {weights}")
    return dataclasses.replace(options, weights=options.weights or weights)


def load_stylizer(options):
    """Return the Stylizer of the learned styles. It is loaded once for all photos."""
    return load_stylizers(options)[0]


def load_stylizers(options):
    """List the Stylizers of the learned styles: one that mixes them, or with --regions one for each."""
    mixtures = tuple((text,) for text in options.learned) if options.regions else (options.learned,)
    return cached_stylizers(mixtures, options.precision, options.quiet or options.refine > 0)


@functools.lru_cache(maxsize=1)
def cached_style_model(options):
    return optimization.StyleModel(options)


@functools.lru_cache(maxsize=1)
def cached_stylizers(mixtures, precision, quiet):
    device = hardware.use_precision(precision, "convolutions")
    if not quiet:
        print(f"device: {device}", file=sys.stderr)
    return [learned_styles.Stylizer(map(naming.name_and_weight, mixture)) for mixture in mixtures]


def release_models():
    """Forget the loaded models, so that their memory is freed, and the next picture loads them again."""
    cached_style_model.cache_clear()
    cached_stylizers.cache_clear()


# --- The other files ---------------------------------------------------------------------------


def output_files(result, options):
    """Return the files that are written: a dict from kind to path."""
    if pathlib.Path(result).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        return {"film": result}
    endings = {"animation": options.gif and ".gif", "comparison": options.compare and "__compare.png"}
    return {"picture": result} | disk.files_beside(result, **endings, plot=options.plot and "__losses.png")


def save_extras(search, result, options, about):
    """Write the files that --gif, --compare and --plot ask for."""
    files = output_files(result, options)
    if options.gif:
        films.save_gif(files["animation"], films.same_size([*search.frames, films.small(search.finished())]), seconds=4)
    if options.compare:
        photo = [] if search.photo is None else [search.photo]
        pictures = [*photo, *search.mixture.paintings, search.finished()]
        imaging.save_png(files["comparison"], imaging.side_by_side(pictures, search.picture.shape[0]), about)
    if options.plot:
        plot_losses(files["plot"], search.history, about)


def plot_losses(path, history, about):
    """Plot each term of the loss over the steps of all scales."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name in history[0]:
        axes.semilogy(range(1, len(history) + 1), [terms[name] for terms in history], label=LOSS_KEYS[name])
    axes.set(xlabel="step, from the coarsest scale to the finest", ylabel="loss, before its weight")
    axes.legend()
    with disk.whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100, metadata=about)
