"""Let a network dream: on a photo, of a class, or in an endless zoom.

    python deepdream.py photo.jpg
    python deepdream.py photo.jpg --guide flowers.jpg --octaves 5
    python deepdream.py photo.jpg --zoom 120 --rotate 0.5 --output dream.mp4

What the layers of a network see in a photo, however faintly, is made stronger by gradient ascent, from coarse
to fine (Mordvintsev, Olah & Tyka 2015). A folder in place of the photo dreams on each picture in it, and the word
noise begins with nothing. With --class a picture is sought that a classifier takes for something (Simonyan,
Vedaldi & Zisserman 2014).
"""

from atelier import command_line  # first, since it puts Ctrl-C in a line from here on

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
from atelier import errors, naming

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # where it is not usual, convolutions take less memory so
leases = command_line.lazy_import("atelier.leases")
disk = command_line.lazy_import("atelier.disk")
pixel_dreams = command_line.lazy_import("atelier.dream.pixel_dreams")
films = command_line.lazy_import("atelier.films")
folders = command_line.lazy_import("atelier.batch.folders")
imaging = command_line.lazy_import("atelier.imaging")
ndimage = command_line.lazy_import("scipy.ndimage")
fourier_images = command_line.lazy_import("atelier.dream.fourier_images")
pretrained = command_line.lazy_import("atelier.networks.pretrained")
provenance = command_line.lazy_import("atelier.provenance")
manifests = command_line.lazy_import("atelier.manifests")
tqdm = command_line.lazy_import("tqdm")
vision = command_line.lazy_import("atelier.networks.vision")

CLASS_NAMES = config.ROOT / "trained/imagenet_classes.txt"
SMALLEST_SIDE = 32  # pixels of a photo
GUIDE_SIDE = 224  # pixels; each place of the picture is compared with each of the guide's


def parse_arguments(words=None):
    parser = command_line.Parser(__doc__)
    parser.add_argument(
        "photo", nargs="?", type=pathlib.Path, help="a photo, a folder of them, or noise to begin with nothing"
    )
    variants = {"noise": "waves", "--class": "waves_class", "--zoom": "zoom"}
    variants = {flag: config.DREAM_DEFAULTS[kind] for flag, kind in variants.items()}
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
PIXELS_ONLY = ("octaves", "octave_scale", "step_size", "jitter", "smooth", "blur", "tv_weight", "blend", "tile")


def defaults(arguments):
    """Return the defaults of what the command asks for: a dream, a class or a film. Raises InputError."""
    film, of_class = (hasattr(arguments, name) for name in ("zoom", "class_"))
    for name in FILM_ONLY:
        if command_line.was_given(arguments, name) and not film:
            raise errors.InputError(f"{command_line.flag_of(name)} is for films, which --zoom makes")
    at_once = of_class or arguments.photo is not None and is_noise(arguments.photo)
    waves = getattr(arguments, "canvas", "waves" if at_once else "pixels") == "waves"
    if waves and not at_once:
        raise errors.InputError("--canvas waves goes with noise in place of the photo, or with --class")
    for name in PIXELS_ONLY:
        if command_line.was_given(arguments, name) and waves:
            raise errors.InputError(f"{command_line.flag_of(name)} goes with --canvas pixels")
    kind = "_".join(["waves"] * waves + ["class"] * of_class + ["zoom"] * film) or "dream"
    return config.DREAM_DEFAULTS[kind]


def list_layers(options):
    """Print the layers that can be dreamed of, each with its number of channels."""
    model = pretrained.build_network(naming.own_classifier(options.convnet) or options.convnet)
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
    if options.neuron and (options.canvas == "pixels" or not options.channels or options.guide):
        raise errors.InputError("--neuron is one of --channels, without a --guide, and begins with noise on waves")
    naming.check_layers(naming.parse_layers(options.layers), options.convnet)


GIF_FPS = 50  # a GIF counts hundredths of a second, and browsers from two on


def is_gif(options):
    return options.format == "gif" or str(options.output).lower().endswith(".gif")


def smallest_side(options):
    """Return the least side of a photo, in pixels."""
    return 8 if naming.own_classifier(options.convnet) else SMALLEST_SIDE


def is_noise(photo):
    return str(photo) == "noise" and not photo.exists()


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
    known = {naming.normalized(name): i for i, name in enumerate(names)}
    wanted = naming.normalized(options.class_)
    if wanted in known:
        return known[wanted]
    near = [names[known[name]] for name in difflib.get_close_matches(wanted, known, 3)]
    near += [name for name in names if wanted in naming.normalized(name) and name not in near][: 5 - len(near)]
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
    task = folders.ImageTask(SCRIPT, dream, open_studio, manifest_of, lambda words: options_of(parse_arguments(words)))
    folders.apply_to_folder(task, photos, output, f".{suffix_of(options)}", [folders.Variant(options)], options)


SCRIPT = "deepdream.py"


def manifest_of(options, free=()):
    """Return what shapes the pictures of a folder or, where more is `free`, the frames of a film."""
    named = {"guide": [options.guide] if options.guide else []}
    if classifier := naming.own_classifier(options.convnet):
        named["convnet"] = [classifier]
    options = dataclasses.replace(options, format=suffix_of(options))
    return manifests.manifest_of(SCRIPT, options, ("list_layers", *free), named)


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
    make = paint if options.zoom is None else film
    row = make(open_studio(options), photo, picture, result, options, keep_unfinished)
    height, width = picture.shape[:2]
    return {"width": width, "height": height, "seconds": round(time.perf_counter() - started, 1), **row}


def paint(studio, photo, picture, result, options, keep_unfinished):
    """Dream one picture into a file, and return what to tell of it."""
    dreamer, frames, unfinished = studio.dreamer(options, on_photo=not is_noise(photo)), [], None
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
        print(f"note: nothing in {photo} excites {' '.join(studio.strengths)}", file=sys.stderr)
    pixels = imaging.to_pixels(dreamed)
    if options.gif:
        films.save_gif(
            files_of(result, options)["animation"], films.same_size([*frames, films.small(pixels)]), seconds=4
        )
    # The picture comes last: where it is, all is done.
    exif = None if is_noise(photo) else imaging.kept_exif(photo)
    imaging.save_picture(result, pixels, about(studio, photo, options), exif)
    if unfinished:
        raise unfinished
    row = ({"octaves": len(octaves)} if options.canvas == "pixels" else {}) | dreamed_of(studio, options)
    return row | {"strength_before": dreamer.history[0], "strength_after": dreamer.history[-1]}


def about(studio, photo, options):
    """Return what a result says of how it came about."""
    return provenance.of_result(options.seed, weights=studio.source, source=str(photo))


def dreamed_of(studio, options):
    """Say what the dream is of: a dict from the flag's word to its value."""
    if options.class_ is None:
        return {"layers": " ".join(studio.strengths)}
    names = class_names(naming.own_classifier(options.convnet))
    return {"class": names[options.class_] if names else options.class_}


@functools.lru_cache(maxsize=1)
def open_studio(options):
    """Make, once for all photos and frames, what they share."""
    return pixel_dreams.Studio(options)


def read_photo(photo, options):
    """Read a photo, or make noise, at the size of the result: float32 H x W x 3. Raises InputError."""
    if is_noise(photo):
        rng, side = np.random.default_rng(options.seed), options.size
        if options.canvas == "waves":
            return fourier_images.beginning(side, rng)
        return np.clip(rng.normal(128, NOISE, (side, side, 3)), 0, 255).astype("float32")
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


# --- Films -------------------------------------------------------------------------------------


def film(studio, photo, picture, result, options, alone):
    """Make a film of a picture, float32 H x W x 3: each frame is the last one, zoomed and turned, and dreamed on.

    Frames are kept in a folder beside the film until it is whole, so that the same command goes on after an
    interruption. Those of another film are refused where this one is `alone`, and else replaced: what is made in a
    folder of films was decided before. Returns what to tell of it.
    """
    films.check_encoder()

    def waits():
        if not options.quiet:
            print(f"note: another process is at work on {result}; this one waits", file=sys.stderr)

    with leases.Lease(result.with_name(f".{result.name}.lock"), waits):
        if alone:  # another may have made it meanwhile
            disk.refuse_to_overwrite([result], options.overwrite)
        return shoot(studio, photo, picture, result, options, alone)


def shoot(studio, photo, picture, result, options, alone):
    """Make what is missing of a film's frames, and the film."""
    folder = result.with_name(f"{result.name}_frames")
    manifest = manifest_of(options, ("zoom", "fps", "format")) | {"picture": zlib.crc32(picture.tobytes())}
    done = films.frames_done(folder, manifest, options.zoom, replace=options.overwrite or not alone)
    frame = imaging.load_image(films.frame_path(folder, done)) if done else None
    forecast = studio.forecast([(options.zoom - done, 1)], options)
    try:
        with tqdm.tqdm(
            total=options.zoom, initial=done, unit="frame", leave=False, disable=True if options.quiet else None
        ) as bar:
            for number in range(done + 1, options.zoom + 1):
                if frame is None:
                    dreamed = first_frame(studio, picture, options) if is_noise(photo) else picture
                else:
                    rng = np.random.default_rng((options.seed, number))
                    dreamed = studio.dreamer(options).dream(move(frame, options), rng)
                # What the file holds, so that a film that was interrupted is the same.
                pixels = imaging.to_pixels(dreamed)
                imaging.save_png(films.frame_path(folder, number), pixels, about(studio, photo, options))
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


def first_frame(studio, picture, options):
    """Return what a film begins with: the picture, or what comes of nothing."""
    if options.canvas == "pixels":
        return picture
    kind = "waves" if options.class_ is None else "waves_class"
    whole = dataclasses.replace(options, steps=config.DREAM_DEFAULTS[kind].steps, zoom=None)
    return studio.dreamer(whole).dream(picture, np.random.default_rng(options.seed))


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
