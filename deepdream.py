"""Let a network dream: on a photo, of a class, or in an endless zoom.

    python deepdream.py photo.jpg
    python deepdream.py photo.jpg --guide flowers.jpg --octaves 5
    python deepdream.py photo.jpg --zoom 120 --rotate 0.5 --output dream.mp4

What the layers of a network see in a photo, however faintly, is made stronger by gradient ascent, from coarse
to fine (Mordvintsev, Olah & Tyka 2015). A folder in place of the photo dreams on each picture in it, and the word
noise begins with nothing. With --class a picture is sought that a classifier takes for something (Simonyan,
Vedaldi & Zisserman 2014).
"""

import command_line  # first, since it puts Ctrl-C in a line from here on

# isort: split
import dataclasses
import difflib
import functools
import json
import math
import os
import pathlib
import sys
import time
import zlib

import numpy as np

import config
import errors
import naming

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # where it is not usual, convolutions take less memory so
classifiers = command_line.lazy_import("classifiers")
disk = command_line.lazy_import("disk")
films = command_line.lazy_import("films")
folders = command_line.lazy_import("folders")
hardware = command_line.lazy_import("hardware")
imaging = command_line.lazy_import("imaging")
keras = command_line.lazy_import("keras")
ndimage = command_line.lazy_import("scipy.ndimage")
networks = command_line.lazy_import("networks")
progress = command_line.lazy_import("progress")
provenance = command_line.lazy_import("provenance")
recipes = command_line.lazy_import("recipes")
tqdm = command_line.lazy_import("tqdm")
util = command_line.lazy_import("util")
vision = command_line.lazy_import("vision")

CLASS_NAMES = pathlib.Path(__file__).parent / "trained/imagenet_classes.txt"
SMALLEST_SIDE = 32  # pixels of a photo
GUIDE_SIDE = 224  # pixels; each place of the picture is compared with each of the guide's


def parse_arguments(words=None):
    parser = command_line.Parser(__doc__)
    parser.add_argument(
        "photo", nargs="?", type=pathlib.Path, help="a photo, a folder of them, or noise to begin with nothing"
    )
    variants = {"--class": config.DREAM_DEFAULTS["class"], "--zoom": config.DREAM_DEFAULTS["zoom"]}
    command_line.add_options(parser, config.Dream, variants=variants)
    return parser.parse_args(words)


def main():
    arguments = parse_arguments()
    if hasattr(arguments, "list_layers"):
        list_layers(command_line.collect(config.Dream, arguments))
        return
    photo = arguments.photo
    check_photo(photo)
    options = options_of(arguments)
    command_line.check_sharing(options, photo.is_dir(), "a folder of photos")
    if photo.is_dir():
        dream_many(photo, options)
    else:
        dream_one(photo, options)


# --- The command -------------------------------------------------------------------------------


def options_of(arguments):
    """Return the options of a command line. Raises InputError."""
    options = command_line.collect(config.Dream, arguments, defaults(arguments))
    check(options)
    return dataclasses.replace(options, class_=known_class(options))


FILM_ONLY = ("zoom_factor", "rotate", "shift", "fps")


def defaults(arguments):
    """Return the defaults of what the command asks for: a dream, a class or a film. Raises InputError."""
    film, of_class = (hasattr(arguments, name) for name in ("zoom", "class_"))
    for name in FILM_ONLY:
        if command_line.was_given(arguments, name) and not film:
            raise errors.InputError(f"{command_line.flag_of(name)} is for films, which --zoom makes")
    kind = "_".join(["class"] * of_class + ["zoom"] * film) or "dream"
    return config.DREAM_DEFAULTS[kind]


def list_layers(options):
    """Print the layers that can be dreamed of, each with its number of channels."""
    model = networks.build_network(naming.own_classifier(options.convnet) or options.convnet)
    for name, channels in vision.layers_with_places(model).items():
        print(f"{name}: {channels}")


def check_photo(photo):
    """Raise InputError for a photo that is none."""
    if photo is None:
        raise errors.InputError("give a photo, a folder of photos, or noise")
    if not photo.exists() and not is_noise(photo):
        raise errors.InputError(f"{photo} does not exist")


def check(options):
    """Raise InputError for an option that makes no sense."""
    if options.class_ is not None and (options.layers or options.guide or options.channels):
        raise errors.InputError("--class dreams of a class, and --layers, --channels and --guide of layers: not both")
    if options.guide and not pathlib.Path(options.guide).is_file():
        raise errors.InputError(f"--guide takes a picture, and {options.guide} is none")
    if options.size < smallest_side(options):
        raise errors.InputError(f"--size must be from {smallest_side(options)} to 10000")
    if is_gif(options) and options.fps > GIF_FPS:
        raise errors.InputError(f"--fps must be at most {GIF_FPS} in a GIF")
    if len(options.shift) not in (0, 2) or not all(map(math.isfinite, options.shift)):
        raise errors.InputError("--shift takes two numbers: pixels to the right, and down")
    film = options.zoom is not None
    if options.format and film != (f".{options.format}" in films.KINDS):
        raise errors.InputError(
            f"--format {options.format} is for {'pictures' if film else 'films, which --zoom makes'}"
        )
    if film and options.gif:
        raise errors.InputError("--gif shows how one picture comes about; a film is a GIF with --output dream.gif")
    naming.check_layers(parse_layers(options.layers), options.convnet)


GIF_FPS = 50  # a GIF counts hundredths of a second, and browsers from two on


def is_gif(options):
    return options.format == "gif" or str(options.output).lower().endswith(".gif")


def smallest_side(options):
    """Return the least side of a photo, in pixels."""
    return 8 if naming.own_classifier(options.convnet) else SMALLEST_SIDE


def is_noise(photo):
    return str(photo) == "noise" and not photo.exists()


def parse_layers(layers):
    """Read ("block4_conv3=1.0", "block5_conv1") as a dict from layer to weight. Raises InputError."""
    weights = {}
    for text in layers:
        name, _, weight = text.partition("=")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            raise errors.InputError(f"--layers takes LAYER=WEIGHT, and {text} has no number") from None
        if not (math.isfinite(weights[name]) and weights[name]):
            raise errors.InputError(f"--layers {text}: a weight must be a number, and not 0")
    return weights


def known_class(options):
    """Return the number of the class that --class names, or None. Raises InputError with what may have been meant."""
    if options.class_ is None:
        return None
    classifier = naming.own_classifier(options.convnet)
    names = class_names(classifier)
    if options.class_ in names:
        return names.index(options.class_)
    if options.class_.isdecimal():
        if names and int(options.class_) >= len(names):
            raise errors.InputError(f"there is no class {options.class_}; they go from 0 to {len(names) - 1}")
        return int(options.class_)
    if not names:
        raise errors.InputError(f"meta.json beside {classifier} names no classes; give --class a number")
    known = {naming.plain(name): i for i, name in enumerate(names)}
    wanted = naming.plain(options.class_)
    if wanted in known:
        return known[wanted]
    near = [names[known[name]] for name in difflib.get_close_matches(wanted, known, 3)]
    near += [name for name in names if wanted in naming.plain(name) and name not in near][: 5 - len(near)]
    meant = f"; did you mean {', '.join(near)}?" if near else ""
    raise errors.InputError(f"no class is called {options.class_}{meant}")


def class_names(classifier):
    """List the classes' names: ImageNet's, or those in meta.json beside a classifier of one's own, if it is there."""
    if classifier is None:
        return CLASS_NAMES.read_text().splitlines()
    try:
        return [str(name) for name in json.loads((classifier.parent / "meta.json").read_text())["classes"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def suffix_of(options):
    return options.format or ("png" if options.zoom is None else "mp4")


def default_name(photo, options):
    """Name the result after the photo and what was dreamed of."""
    name = photo.resolve().name if photo.is_dir() else photo.stem
    if options.guide:
        return f"{name}__{pathlib.Path(options.guide).stem}__dream"
    return f"{name}__dream" if options.class_ is None else f"{name}__class_{options.class_}"


def dream_many(folder, options):
    """Make a picture or film of each photo in a folder, and print where they are."""
    output = pathlib.Path(options.output or f"generated/{default_name(folder, options)}")
    folders.check_folder(output)
    photos = folders.find_photos(folder, output, options)
    craft = folders.Craft(SCRIPT, dream, open_studio, recipe_of, lambda words: options_of(parse_arguments(words)))
    folders.apply_to_folder(craft, photos, output, f".{suffix_of(options)}", [folders.Way(options)], options)


SCRIPT = "deepdream.py"


def recipe_of(options, free=()):
    """Return what shapes the pictures of a folder or, where more is `free`, the frames of a film."""
    named = {"guide": [options.guide] if options.guide else []}
    if classifier := naming.own_classifier(options.convnet):
        named["convnet"] = [classifier]
    if options.weights not in (None, *recipes.SOURCES):
        named["weights"] = [options.weights]
    options = dataclasses.replace(options, format=suffix_of(options))
    return recipes.recipe_of(SCRIPT, options, ("list_layers", *free), named)


def dream_one(photo, options):
    """Make one picture or film, and print where it is and what it came to."""
    result = pathlib.Path(options.output or f"generated/{default_name(photo, options)}.{suffix_of(options)}")
    command_line.require_suffix(result, *((".png", ".jpg", ".jpeg") if options.zoom is None else films.KINDS))
    files = files_of(result, options)
    disk.refuse_to_overwrite(files.values(), options.overwrite)
    disk.check_writable(result)
    row = dream(photo, result, options, keep_unfinished=True)
    for key, value in (files | row).items():
        print(f"{key}: {value}")


def files_of(result, options):
    """Name the files that are made of a photo: a dict from kind to path."""
    kind = "picture" if options.zoom is None else "film"
    return {kind: result} | disk.files_beside(result, animation=options.gif and ".gif")


# --- One picture -------------------------------------------------------------------------------


def dream(photo, result, options, keep_unfinished=False):
    """Dream on one photo, into the file `result`: the task that a folder is given.

    Returns what to tell of it, a dict: size, seconds, and how strong what is dreamed of was before and after. Where
    `keep_unfinished`, the picture is the only one: interrupted, it is written as it is, and Interrupted raised, and
    frames of another film are kept. Raises InputError.
    """
    started = time.perf_counter()
    disk.refuse_to_replace(files_of(result, options).values(), (photo, options.guide))
    picture = read_photo(photo, options)
    studio = open_studio(options)
    about = provenance.of_result(options.seed, weights=studio.source, source=str(photo))
    if options.zoom is not None:
        row = film(studio, picture, result, options, about, keep_unfinished)
    else:
        row = paint(studio, picture, result, options, about, None if is_noise(photo) else photo, keep_unfinished)
    height, width = picture.shape[:2]
    return {"width": width, "height": height, "seconds": round(time.perf_counter() - started, 1), **row}


def paint(studio, picture, result, options, about, photo, keep_unfinished):
    """Dream one picture into a file, and return what to tell of it."""
    dreamer, frames, unfinished = Dreamer(studio, options), [], None
    octaves = dreamer.octaves(picture)
    total = len(octaves) * options.steps
    forecast = studio.forecast([(options.steps, width * height) for width, height in octaves], options)

    def show(current):
        dreamer.latest = current
        bar.update()
        forecast.step(current.shape[0] * current.shape[1])
        if options.gif and (len(dreamer.history) - 1) % max(1, total // 30) == 0:
            frames.append(films.small(imaging.to_pixels(current)))

    with tqdm.tqdm(total=total, unit="step", leave=False, disable=True if options.quiet else None) as bar:
        try:
            dreamed = dreamer.dream(picture, np.random.default_rng(options.seed), show)
        except KeyboardInterrupt:
            if not keep_unfinished or dreamer.latest is None:
                raise
            unfinished = errors.Interrupted(f"interrupted; {result} is the picture so far")
            dreamed = dreamer.latest
    if dreamer.history[-1] == "0" and not options.quiet:
        print(f"note: nothing in {photo or 'the noise'} excites {' '.join(studio.strengths)}", file=sys.stderr)
    pixels = imaging.to_pixels(dreamed)
    if options.gif:
        films.save_gif(
            files_of(result, options)["animation"], films.same_size([*frames, films.small(pixels)]), seconds=4
        )
    # The picture comes last: where it is, all is done.
    imaging.save_picture(result, pixels, about, imaging.kept_exif(photo) if photo else None)
    if unfinished:
        raise unfinished
    row = {"octaves": len(octaves)} | dreamed_of(studio, options)
    return row | {"strength_before": dreamer.history[0], "strength_after": dreamer.history[-1]}


def dreamed_of(studio, options):
    """Say what the dream is of: a dict from the flag's word to its value."""
    if options.class_ is None:
        return {"layers": " ".join(studio.strengths)}
    names = class_names(naming.own_classifier(options.convnet))
    return {"class": names[options.class_] if names else options.class_}


def read_photo(photo, options):
    """Read a photo, or make noise, at the size of the result: float32 H x W x 3. Raises InputError."""
    if is_noise(photo):
        noise = np.random.default_rng(options.seed).normal(128, NOISE, (options.size, options.size, 3))
        return np.clip(noise, 0, 255).astype("float32")
    picture = imaging.load_image(photo)
    height, width = picture.shape[:2]
    least = smallest_side(options)
    if min(height, width) < least:
        raise errors.InputError(f"{photo} is only {width} x {height} pixels; a dream needs {least}")
    width, height = imaging.fit(width, height, options.size)
    if min(height, width) < 8:
        raise errors.InputError(f"{photo} would be {width} x {height} pixels; a larger --size helps")
    return imaging.resize_picture(picture, width, height)


NOISE = 20  # grey levels, about the middle


# --- The dream ---------------------------------------------------------------------------------


class Dreamer:
    """Gradient ascent over octaves. `history` tells how strong what is dreamed of was at each step.

    `latest` is the picture so far, and `usual` what the strengths are divided by: what they were a step before. So
    layers weigh alike however large their activations are, and all tiles of a picture do.
    """

    def __init__(self, studio, options):
        self.studio, self.options = studio, options
        self.history, self.latest, self.usual = [], None, None

    def dream(self, picture, rng, show=lambda current: None):
        """Dream on a picture, float32 H x W x 3 in 0..255: another one, to which each octave adds what it finds."""
        options, sizes, change = self.options, self.octaves(picture), None
        self.usual = self.studio.usual(1)
        self.usual = self.studio.usual(self.gradient(imaging.resize_picture(picture, *sizes[0]), rng)[1])
        for width, height in sizes:
            base = imaging.resize_picture(picture, width, height)
            current = base if change is None else base + imaging.resize_picture(change, width, height)
            for _ in range(options.steps):
                current = self.ascend(current, rng)
                show(current)
            change = current - base
        return options.blend * picture + (1 - options.blend) * current

    def octaves(self, picture):
        """List the (width, height) of each octave, coarse to fine."""
        height, width = picture.shape[:2]
        scale, longest = self.options.octave_scale, max(height, width)
        count = self.options.octaves or 1 + max(0, round(math.log(longest / COARSEST, scale)))
        scales = [scale**-i for i in reversed(range(count))]
        sizes = [(round(width * scale), round(height * scale)) for scale in scales]
        return [size for size in sizes if min(size) >= SMALLEST_OCTAVE] or [(width, height)]

    def ascend(self, picture, rng):
        """Take a step: by as much on average, whatever the gradient's size."""
        options = self.options
        gradient, strengths = self.gradient(picture, rng)
        self.usual = self.studio.usual(strengths)
        self.history.append(" ".join(f"{strength:.5g}" for strength in strengths))
        gradient = gradient @ COLORS
        if options.smooth:
            gradient = ndimage.gaussian_filter(gradient, (options.smooth, options.smooth, 0))
        changed = picture + options.step_size / max(np.abs(gradient).mean(), 1e-30) * gradient
        changed = np.clip(changed, 0, 255)
        return ndimage.gaussian_filter(changed, (options.blur, options.blur, 0)) if options.blur else changed

    def gradient(self, picture, rng):
        """Return the gradient with respect to a picture, tile by tile, and how much the tiles have on average."""
        studio = self.studio
        gradient, found = np.empty_like(picture), []
        rows, columns = (studio.spans(side, rng) for side in picture.shape[:2])
        for seen_rows, kept_rows, inner_rows in rows:
            for seen_columns, kept_columns, inner_columns in columns:
                window = picture[seen_rows][:, seen_columns]
                terms, of_window = studio.evaluate(window[None], {**studio.targets, "usual": self.usual})
                gradient[kept_rows, kept_columns] = np.asarray(of_window)[0, inner_rows, inner_columns]
                found.append([float(terms[name]) for name in studio.strengths])
        if not np.isfinite(gradient).all():
            raise errors.InputError("the gradient was no number any more; try --precision float32 or other layers")
        return gradient, np.mean(found, axis=0)


SMALLEST_OCTAVE = 16  # pixels of the shorter side
COARSEST = 190  # pixels of the longest side to begin with

# How red, green and blue go together in photographs: the square root of the covariance that Lucid measured (Olah et al.
# 2017), with sums of 1. By itself the gradient asks for garish colours.
COLORS = np.array([[0.477, 0.289, 0.214], [0.289, 0.429, 0.293], [0.214, 0.293, 0.502]], "float32")


def spans(side, tile, margin, stride, jitter, rng, least=1):
    """Divide one side of a picture into tiles, shifted at random: [(pixels seen, slice kept, slice of it), ...].

    All tiles see as many pixels, at least `least` and no more than `tile`, a multiple of `stride`. Several see a margin
    around what is kept of each, so that there are no seams; beyond the edges they see the mirrored picture.
    """
    shift = int(rng.integers(jitter + 1))
    if side + jitter + stride <= tile:
        seen = up_to(max(side + jitter, least), stride)
        return [(mirrored(-shift, seen, side), slice(0, side), slice(shift, shift + side))]
    count = math.ceil((side + jitter) / (tile - 2 * margin - stride))
    kept = math.ceil((side + jitter) / count)
    seen, found = up_to(kept + 2 * margin, stride), []
    for start in range(-shift, -shift + count * kept, kept):
        first, last = max(start, 0), min(start + kept, side)
        if first < last:
            begin = start - margin
            found.append((mirrored(begin, seen, side), slice(first, last), slice(first - begin, last - begin)))
    return found


def up_to(count, multiple):
    return -(-count // multiple) * multiple


def mirrored(begin, count, side):
    """Return `count` indices from `begin` on into a picture that is continued by its mirror image: an array."""
    indices = np.arange(begin, begin + count) % (2 * side)
    return np.minimum(indices, 2 * side - 1 - indices)


# --- The network and what it dreams of ---------------------------------------------------------


@functools.lru_cache(maxsize=1)
def open_studio(options):
    """Make, once for all photos and frames, what they share."""
    return Studio(options)


class Studio:
    """The network, and the compiled function of how much a picture has of what is dreamed of.

    `margin` is how many pixels around a tile it should see, and `stride` what a tile's side is a multiple of.
    """

    def __init__(self, options):
        device = hardware.use_precision(options.precision, "convolutions")
        classifier, top = naming.own_classifier(options.convnet), options.class_ is not None
        self.model, self.preprocess, self.source = networks.load_network(
            classifier or options.convnet, options.weights, top, options.input_range
        )
        if not options.quiet:
            name = classifier or naming.network_name(options.convnet)
            told = f"the input {classifiers.input_of(self.model, options.input_range)[1]}" if classifier else None
            print(f"device: {device}; {name} with {told or f'the weights {self.source}'}", file=sys.stderr)
            if self.source == "hed" and options.weights is None:
                print(
                    "note: ImageNet's weights can't be downloaded; hed's, which began as these, serve",
                    file=sys.stderr,
                )
        self.own, self.targets, self.jitter = classifier is not None, {}, options.jitter
        self.tile, self.margin, self.stride = tile_of(options), MARGIN, STRIDE
        self.least = STRIDE if self.is_vgg() else LEAST_SEEN
        side = self.model.input_shape[1] or (USUAL_SIDE if top else None)
        if side:  # what it sees is resized to this
            self.tile, self.margin, self.stride = min(tile_of(options), side + options.jitter + 1), 0, 1
            self.least = 1
        if top:
            check_class(self.model, options)
            self.strengths = ["logit"]
            loss = class_logit(functools.partial(vision.classify, self.model, self.preprocess), options)
        else:
            weights = parse_layers(options.layers) or default_layers(self.model, options)
            check_layers(self.model, weights, options)
            self.strengths = list(weights)
            features = self.extractor(self.strengths)
            if options.guide:
                self.targets["guide"] = look_at(features, options)
            loss = layer_strength(features, weights, options)
        self.evaluate = vision.value_and_gradient(loss)
        self.told_time = False

    def forecast(self, sizes, options):
        """Return what says how long the first picture or film takes, and of the others nothing."""
        quiet, self.told_time = options.quiet or self.told_time, True
        return progress.Forecast(sizes, f"for this {'picture' if options.zoom is None else 'film'}", quiet)

    def is_vgg(self):
        return not self.own and self.model.name in ("vgg16", "vgg19")

    def spans(self, side, rng):
        """Divide one side of a picture as spans() does."""
        return spans(side, self.tile, self.margin, self.stride, min(self.jitter, side // 8), rng, self.least)

    def usual(self, strengths):
        """Return what strengths are divided by, one for each layer; a logit stays as it is."""
        if self.strengths == ["logit"]:
            return np.ones(1, "float32")
        return np.maximum(np.abs(np.broadcast_to(strengths, len(self.strengths))), 1e-9).astype("float32")

    def extractor(self, layers):
        if self.is_vgg():
            return vision.feature_extractor(self.model, layers)
        return vision.network_features(self.model, self.preprocess, layers)


USUAL_SIDE = 224  # pixels, of what a classifier sees that can see all sizes
MARGIN = 16  # pixels
STRIDE = 16  # pixels from place to place in the layers that are worth dreaming of
LEAST_SEEN = 96  # pixels; of fewer, networks that don't pad their convolutions would have no place left


def tile_of(options):
    """Return the longest side of what the network sees at once; less where the picture itself takes much memory."""
    return options.tile or (640 if options.size <= 2000 else 400)


def default_layers(model, options):
    """Return what to dream of where the user did not say: what is published, or the last layer at 1/16 of the size."""
    if naming.own_classifier(options.convnet) is None:
        published = config.DREAM_LAYERS.get(naming.network_name(options.convnet))
        if published:
            return parse_layers(published)
    return {vision.layer_at_stride(model, 16): 1.0}


def check_layers(model, weights, options):
    """Raise InputError for a layer that the network lacks or that has no places, or for a channel beyond its width."""
    channels = vision.layers_with_places(model)
    for name in weights:
        if name in vision.layers_of(model) and name not in channels:
            raise errors.InputError(f"{name} has no places in the picture; --list-layers lists the layers that have")
    naming.check_names(weights, list(channels), options.convnet)
    for channel in options.channels:
        if len(weights) > 1:
            raise errors.InputError(f"--channels are of one layer, and --layers names {len(weights)}")
        (name,) = weights
        if not 0 <= channel < channels[name]:
            raise errors.InputError(f"{name} has the channels 0 to {channels[name] - 1}, and no {channel}")


def check_class(model, options):
    classes = model.outputs[0].shape[1]
    if options.class_ >= classes:
        raise errors.InputError(f"there is no class {options.class_}; {options.convnet} has {classes}")


def look_at(features, options):
    """Return what the guide has, a tensor places x C for each layer."""
    picture = imaging.load_image(options.guide)
    width, height = imaging.fit(*picture.shape[1::-1], GUIDE_SIDE)
    if min(width, height) < SMALLEST_SIDE:
        raise errors.InputError(
            f"{options.guide} would be looked at in {width} x {height} pixels; a guide needs {SMALLEST_SIDE}"
        )
    found = vision.for_any_size(features)(imaging.resize_picture(picture, width, height)[None])
    flat = [keras.ops.reshape(chosen(x, options.channels), (-1, chosen(x, options.channels).shape[3])) for x in found]
    # Each place of a tile is compared with each that is kept here, which in early layers would be too many.
    return [x[:: math.ceil(len(x) ** 2 * (tile_of(options) / GUIDE_SIDE) ** 2 / MOST_COMPARED)] for x in flat]


MOST_COMPARED = 1e8  # pairs of places


def chosen(features, channels):
    """Return some channels of features 1 x h x w x C, or all."""
    return keras.ops.take(features, channels, axis=3) if channels else features


def layer_strength(features, weights, options):
    """Return the strength of layers' activations, as util.value_and_gradient takes it.

    Of each layer it is the mean square; with a guide, the mean product with the guide's most similar place.
    """
    ops = keras.ops

    def strength(x, guide):
        if guide is None:
            return ops.mean(ops.square(x))
        products = ops.matmul(ops.reshape(x, (-1, x.shape[3])), ops.transpose(guide))
        return ops.mean(ops.max(products, axis=1))

    def loss(picture, targets):
        found = [chosen(x, options.channels) for x in features(picture)]
        guides = targets.get("guide", [None] * len(found))
        strengths = [strength(x, guide) for x, guide in zip(found, guides)]
        total = sum(w * s / targets["usual"][i] for i, (w, s) in enumerate(zip(weights.values(), strengths)))
        return {"total": total - options.tv_weight * util.mean_variation(picture), **dict(zip(weights, strengths))}

    return loss


def class_logit(classify, options):
    """Return a class's logit less the total variation, as util.value_and_gradient takes it.

    The logit, not the probability: that would rise as well by making the other classes less likely.
    """

    def loss(picture, targets):
        logit = classify(picture)[0, options.class_]
        return {"total": logit - options.tv_weight * util.mean_variation(picture), "logit": logit}

    return loss


# --- Films -------------------------------------------------------------------------------------


def film(studio, picture, result, options, about, alone):
    """Make a film of a picture, float32 H x W x 3: each frame is the last one, zoomed and turned, and dreamed on.

    Frames are kept in a folder beside the film until it is whole, so that the same command goes on after an
    interruption. Those of another film are refused where this one is `alone`, and else replaced: what is made in a
    folder of films was decided before. Returns what to tell of it.
    """
    films.check_encoder()
    folder = result.with_name(f"{result.name}_frames")
    recipe = recipes.with_weights(recipe_of(options, ("zoom", "fps", "format")), studio.source)
    recipe["picture"] = zlib.crc32(picture.tobytes())
    done = films.frames_done(folder, recipe, options.zoom, replace=options.overwrite or not alone)
    frame = imaging.load_image(films.frame_path(folder, done)) if done else None
    forecast = studio.forecast([(options.zoom - done, 1)], options)
    try:
        with tqdm.tqdm(
            total=options.zoom, initial=done, unit="frame", leave=False, disable=True if options.quiet else None
        ) as bar:
            for number in range(done + 1, options.zoom + 1):
                rng = np.random.default_rng((options.seed, number))
                moved = picture if frame is None else move(frame, options)
                dreamed = picture if frame is None else Dreamer(studio, options).dream(moved, rng)
                # What the file holds, so that a film that was interrupted is the same.
                pixels = imaging.to_pixels(dreamed)
                imaging.save_png(films.frame_path(folder, number), pixels, about)
                frame = pixels.astype("float32")
                bar.update()
                forecast.step(1)
        paths = [films.frame_path(folder, number) for number in range(1, options.zoom + 1)]
        films.save_film(result, paths, options.fps)
    except KeyboardInterrupt:
        if not alone:
            raise
        raise errors.Interrupted(f"interrupted; the same command goes on from the frames in {folder}") from None
    except OSError as error:
        error.filename = f"{error.filename or result} (the frames so far are in {folder})"
        raise
    films.remove_frames(folder)
    return {"frames": options.zoom} | ({"frames_done_before": done} if done else {})


def move(frame, options):
    """Zoom, turn and shift a frame, float32 H x W x 3, about its middle; beyond its edges it is mirrored."""
    angle = math.radians(options.rotate)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]) / options.zoom_factor
    middle = (np.array(frame.shape[:2]) - 1) / 2
    right, down = options.shift or (0, 0)
    offset = middle - turn @ (middle + [down, right])
    moved = [ndimage.affine_transform(frame[..., i], turn, offset, order=3, mode="reflect") for i in range(3)]
    return np.clip(np.stack(moved, axis=2), 0, 255)


if __name__ == "__main__":
    command_line.run(main)
