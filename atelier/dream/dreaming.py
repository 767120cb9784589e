"""The task of deepdream.py for one photo: read it, dream on it, and write the picture (or the film, see zoom_films.py).

`options` is always a config.Dream. TensorFlow is imported only when a network is needed.
"""

import dataclasses
import functools
import os
import pathlib
import sys
import time
import zlib

import numpy as np

from atelier import disk, errors, naming
from atelier.command_line import lazy_import
from atelier.networks import class_names

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # oneDNN's convolutions take less memory. TensorFlow reads this
dream_films = lazy_import("atelier.dream.dream_films")
film_painting = lazy_import("atelier.film.painting")
film_reading = lazy_import("atelier.film.reading")
films = lazy_import("atelier.films")
fourier_images = lazy_import("atelier.dream.fourier_images")
imaging = lazy_import("atelier.imaging")
manifests = lazy_import("atelier.manifests")
objectives = lazy_import("atelier.dream.objectives")
pixel_dreams = lazy_import("atelier.dream.pixel_dreams")
progress = lazy_import("atelier.progress")
provenance = lazy_import("atelier.provenance")
tqdm = lazy_import("tqdm")
zoom_films = lazy_import("atelier.dream.zoom_films")

SCRIPT = "deepdream.py"
SMALLEST_SIDE = 32  # pixels of a photo
SMALLEST_RESULT = 8  # pixels of a picture


def manifest_of(options, free=()):
    """Return the manifest: the options on which the pictures of a folder, or the frames of a film, depend.

    `free` names further options that are left out.
    """
    files = {"guide": [options.guide] if options.guide else []}
    if classifier := naming.own_classifier(options.convnet):
        files["convnet"] = [classifier]
    options = dataclasses.replace(options, format=suffix_of(options))
    return manifests.manifest_of(SCRIPT, options, ("list_layers", *free), files)


def suffix_of(options):
    """Return the ending of the result's name, without its dot."""
    return options.format or ("png" if options.zoom is None else "mp4")


def files_of(result, options):
    """Name the files that are written for a photo: a dict from kind to path."""
    kind = "picture" if pathlib.Path(result).suffix.lower() in (".png", ".jpg", ".jpeg") else "film"
    return {kind: result} | disk.files_beside(result, animation=options.gif and ".gif")


def is_noise(photo):
    """Tell whether the dream starts with noise: `photo` is the word "noise", and no file has that name."""
    return str(photo) == "noise" and not photo.exists()


def smallest_side(options):
    """Return the smallest permitted side of a photo, in pixels."""
    return SMALLEST_RESULT if naming.own_classifier(options.convnet) else SMALLEST_SIDE


def read_photo(photo, options):
    """Read a photo, or make noise, at the size of the result: float32 H x W x 3 in 0..255. Raises InputError."""
    if is_noise(photo):
        start = fourier_images.nearly_grey if options.canvas == "waves" else pixel_dreams.noise
        return start(options.size, np.random.default_rng(options.seed))
    picture = imaging.load_image(photo)
    height, width = picture.shape[:2]
    least = smallest_side(options)
    if min(height, width) < least:
        raise errors.InputError(f"{photo} is only {width} x {height} pixels; a dream needs {least}")
    width, height = imaging.fit(width, height, options.size)
    if min(height, width) < SMALLEST_RESULT:
        raise errors.InputError(f"{photo} would be {width} x {height} pixels; give a larger --size")
    return imaging.resize_picture(picture, width, height)


# --- The network and the dreamer, shared by all pictures ----------------------------------------


@dataclasses.dataclass
class Session:
    """The network and the dreamer that all pictures of a command share.

    The dreamer is a PixelDreamer or a FourierDreamer, whose functions are compiled once.
    The time left is printed for the first picture only.
    """

    network: "objectives.Network"
    dreamer: "pixel_dreams.PixelDreamer | fourier_images.FourierDreamer"
    time_was_printed: bool = False

    @property
    def names(self):
        """The names of the strengths: layers, or "logit"."""
        return self.dreamer.objective.names

    def forecast(self, sizes, options):
        """Return a Forecast for a picture or film with these sizes. Only the first call's Forecast prints anything."""
        quiet, self.time_was_printed = options.quiet or self.time_was_printed, True
        return progress.Forecast(sizes, f"for this {'picture' if options.zoom is None else 'film'}", quiet)


def open_session(options):
    """Load the network and compile the dream. Raises InputError."""
    network = objectives.load_network(options)
    objective = objectives.make_objective(network, options)
    dreamer = fourier_images.FourierDreamer if options.canvas == "waves" else pixel_dreams.PixelDreamer
    return Session(network, dreamer(network, objective, options))


shared_session = functools.lru_cache(maxsize=1)(open_session)  # all photos of a folder have equal options


def prepare(options):
    """Load the network and compile the dream for all photos of a folder. Raises InputError."""
    shared_session.cache_clear()  # the files of an earlier command may have changed
    shared_session(options)


# --- One photo ---------------------------------------------------------------------------------


def make_picture(photo, result, options):
    """Make the picture or film of one photo, or of noise. An ImageTask calls this for each photo of a folder.

    Writes the file `result`, and returns its entries in the summary, a dict: size, seconds, and the strengths before
    and after. The network is loaded again only if the options differ from those of the last call. Raises InputError.
    """
    return make_result(photo, result, options, shared_session, alone=False)


def make_single_picture(photo, result, options):
    """Make the picture or film of the only photo of a command, as make_picture does, with three differences.

    The network is not kept for the next call. After Ctrl-C the unfinished picture is written, and Interrupted is
    raised. Frames of another film are not replaced.
    """
    return make_result(photo, result, options, open_session, alone=True)


def make_result(photo, result, options, session_of, alone):
    started, photo, result = time.perf_counter(), pathlib.Path(photo), pathlib.Path(result)
    disk.refuse_to_replace(files_of(result, options).values(), (photo, options.guide))
    if naming.is_film(photo):
        return dream_on_film(photo, result, options, session_of, alone)
    picture = read_photo(photo, options)
    session = session_of(options)
    about = provenance.of_result(options, weights=session.network.source, source=str(photo))
    if options.zoom is None:
        row = dream_picture(session, photo, picture, result, options, about, alone)
    else:
        manifest = manifest_of(options, ("zoom", "fps", "format")) | {"picture": zlib.crc32(picture.tobytes())}
        row = zoom_films.make_film(session, picture, result, options, manifest, about, is_noise(photo), alone)
    height, width = picture.shape[:2]
    return {"width": width, "height": height, "seconds": round(time.perf_counter() - started, 1), **row}


def dream_on_film(photo, result, options, session_of, alone):
    """Dream on a film, as make_picture() does on a photo."""
    check_film_options(options)
    piece = film_reading.choose_piece(photo, options, smallest_side(options))
    session = session_of(options)
    painter = dream_films.DreamPainter(session.dreamer, options)
    manifest = manifest_of(options) | film_painting.identity_of(photo)
    about = provenance.of_result(options, weights=session.network.source, source=str(photo))
    row = film_painting.paint_film(piece, result, options, painter, manifest, about, alone)
    return row | subject_of(session, options)


def dream_on_samples(photo, folder, options):
    """Yield the paths of pictures of some frames of a film, see --frames-every."""
    check_film_options(options)
    piece = film_reading.choose_piece(photo, options, smallest_side(options))
    session = open_session(options)
    about = provenance.of_result(options, weights=session.network.source, source=str(photo))
    painter = dream_films.DreamPainter(session.dreamer, options)
    return film_painting.paint_samples(piece, folder, options, painter, about)


def check_film_options(options):
    """Raise InputError for options that films do not have."""
    if options.canvas == "waves":
        raise errors.InputError("a dream on a film needs --canvas pixels")
    for name in ("zoom", "gif"):
        if getattr(options, name):
            raise errors.InputError(f"--{name} is for photos, and cannot be used for a film")


def dream_picture(session, photo, picture, result, options, about, alone):
    """Dream on a picture and write it. Return those entries of its row that films do not have."""
    sizes = session.dreamer.sizes(picture)
    total = len(sizes) * options.steps
    forecast = session.forecast([(options.steps, width * height) for width, height in sizes], options)
    latest, history, frames, interrupted = None, [], [], None

    def show(current, strengths):
        nonlocal latest
        latest = current
        history.append(" ".join(f"{strength:.5g}" for strength in strengths))
        bar.update()
        forecast.step(current.shape[0] * current.shape[1])
        if options.gif and (len(history) - 1) % max(1, total // 30) == 0:
            frames.append(films.small(imaging.to_pixels(current)))

    with tqdm.tqdm(total=total, unit="step", leave=False, disable=True if options.quiet else None) as bar:
        try:
            rng = np.random.default_rng(options.seed)
            dreamed = session.dreamer.dream(picture, rng, show, from_noise=is_noise(photo))
        except KeyboardInterrupt:
            if not alone or latest is None:
                raise
            interrupted = errors.Interrupted(f"interrupted; {result} is the picture so far")
            dreamed = latest
    if {*history[-1].split()} == {"0"} and not options.quiet:
        print(f"note: nothing in {photo} activates {' '.join(session.names)}", file=sys.stderr)
    pixels = imaging.to_pixels(dreamed)
    if options.gif:
        animation = films.same_size([*frames, films.small(pixels)])
        films.save_gif(files_of(result, options)["animation"], animation, seconds=4)
    # The picture is written last: if it exists, all other files are complete.
    exif = provenance.exif_of(None if is_noise(photo) else photo, options)
    imaging.save_picture(result, pixels, about, exif)
    if interrupted:
        raise interrupted
    row = ({"octaves": len(sizes)} if options.canvas == "pixels" else {}) | subject_of(session, options)
    return row | {"strength_before": history[0], "strength_after": history[-1]}


def subject_of(session, options):
    """Return the subject of the dream: a dict from "class" or "layers" to its value."""
    if options.class_ is None:
        return {"layers": " ".join(session.names)}
    names = class_names.class_names(options.convnet)
    return {"class": names[options.class_] if names else options.class_}


def default_name(photos, options):
    """Name the result after the photos (a list of paths) and the subject of the dream."""
    name = naming.name_of_photos(photos)
    if options.guide:
        return f"{name}__{pathlib.Path(options.guide).stem}__dream"
    return f"{name}__dream" if options.class_ is None else f"{name}__class_{options.class_}"
