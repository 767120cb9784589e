"""Make a dream: a picture or a zoom film that strengthens what a network sees in a photo or in noise.

    python deepdream.py photo.jpg
    python deepdream.py photo.jpg --guide flowers.jpg --octaves 5
    python deepdream.py photo.jpg --zoom 120 --rotate 0.5 --output dream.mp4

The layers of a network detect patterns in a photo, some patterns only weakly. Gradient ascent strengthens them, first
in a small copy of the photo and then in larger ones, the octaves (Mordvintsev, Olah & Tyka 2015). With several
photos, or a folder of them, the script makes a dream from each. With the word noise instead of the
photo, the dream starts from noise. With --class, the picture changes until a classifier recognises that class in it
(Simonyan, Vedaldi & Zisserman 2014).

The script prints how strong the dream was before the first step and before the last one, strength_before and
strength_after. For layers, the strength is the mean square of the activations; for a class, it is the class's logit.
"""

from atelier import command_line  # imported first: from now on, Ctrl-C ends the script with one line

# isort: split
import dataclasses
import math
import pathlib

import config
from atelier import errors, naming
from atelier.dream import dreaming

class_names = command_line.lazy_import("atelier.networks.class_names")
films = command_line.lazy_import("atelier.films")
folders = command_line.lazy_import("atelier.batch.folders")
outputs = command_line.lazy_import("atelier.outputs")
pretrained = command_line.lazy_import("atelier.networks.pretrained")
vision = command_line.lazy_import("atelier.networks.vision")


def parse_arguments(words=None):
    parser = command_line.Parser(__doc__, CONFLICTS)
    parser.add_argument(
        "photo",
        nargs="*",
        type=pathlib.Path,
        help="a photo or a film, several, a folder of them, or noise to start from nothing",
        metavar="PHOTO",
    )
    variants = {"noise": "waves", "--class": "waves_class", "--zoom": "zoom"}
    variants = {flag: config.DREAM_DEFAULTS[kind] for flag, kind in variants.items()}
    command_line.add_options(parser, config.Dream, variants=variants)
    return parser.parse_args(words)


CONFLICTS = {"--class": ["--layers", "--channels", "--guide", "--neuron"]}
CONFLICTS |= dict.fromkeys(["--layers", "--channels", "--guide"], ["--class"])


def main():
    arguments = parse_arguments()
    if hasattr(arguments, "list_layers"):
        list_layers(command_line.collect(config.Dream, arguments))
        return
    photos = arguments.photo
    check_photos(photos)
    options = options_of(arguments)
    if options.frames_every:
        folder = f"generated/{dreaming.default_name(photos, options)}_frames"
        command_line.print_samples(photos, folder, options, dreaming.dream_on_samples)
        return
    command_line.check_sharing(options, naming.are_many(photos), "a folder of photos")
    if naming.are_many(photos):
        dream_on_many(photos, options)
    else:
        dream_on_photo(photos[0], options)


def dream_on_many(paths, options):
    """Make a picture or film of each photo, given in `paths` or in a folder there, and print their paths."""
    output = pathlib.Path(options.output or f"generated/{dreaming.default_name(paths, options)}")
    folders.check_folder(output)
    photos = folders.find_photos(paths, output, options)
    task = folders.ImageTask(
        dreaming.SCRIPT, dreaming.make_picture, dreaming.prepare, dreaming.manifest_of, options_of_words
    )
    suffix = f".{dreaming.suffix_of(options)}"
    folders.apply_to_folder(task, photos, output, suffix, [folders.Variant(options)], options)


def dream_on_photo(photo, options):
    """Make one picture or film, and print its path and how strong the dream became."""
    suffix, suffixes = dreaming.suffix_of(options), films.KINDS
    if naming.is_film(photo):
        dreaming.check_film_options(options)
        suffix, suffixes = "mp4", naming.FILM_KINDS
    elif options.zoom is None:
        suffixes = (".png", ".jpg", ".jpeg")
    default = f"generated/{dreaming.default_name([photo], options)}.{suffix}"
    command_line.require_suffix(options.output, *suffixes)
    result = outputs.choose_result(options, default, lambda result: dreaming.files_of(result, options).values())
    files = dreaming.files_of(result, options)
    row = dreaming.make_single_picture(photo, result, options)
    for key, value in (files | row).items():
        print(f"{key}: {value}")


def list_layers(options):
    """Print the layers that a dream can use, each with its number of channels."""
    model = pretrained.build_network(naming.own_classifier(options.convnet) or options.convnet)
    for name, channels in vision.layers_with_places(model).items():
        print(f"{name}: {channels}")


# --- Options -----------------------------------------------------------------------------------


def options_of_words(words):
    """Return the options of another command line, a list of words. Raises InputError."""
    return options_of(parse_arguments(words))


def options_of(arguments):
    """Return the options of a parsed command line. Raises InputError."""
    options = command_line.collect(config.Dream, arguments, defaults(arguments))
    check_options(options)
    return dataclasses.replace(options, class_=class_names.class_number(options.class_, options.convnet))


ZOOM_ONLY = ("zoom_factor", "rotate", "shift")
PIXELS_ONLY = ("octaves", "octave_scale", "step_size", "jitter", "smooth", "blur", "tv_weight", "blend", "tile")


def defaults(arguments):
    """Return the defaults of the kind of dream: of layers or a class, on pixels or waves, a picture or a film.

    Raises InputError for a flag of another kind.
    """
    on_film = any(map(naming.is_film, arguments.photo))
    film, of_class = (hasattr(arguments, name) for name in ("zoom", "class_"))
    for name in ZOOM_ONLY:
        if command_line.was_given(arguments, name) and not film:
            raise errors.InputError(f"{command_line.flag_of(name)} is for films, which --zoom makes")
    naming.check_film_options(arguments, arguments.photo, () if film else ("fps",))
    waves_allowed = of_class or any(map(dreaming.is_noise, arguments.photo))
    waves = getattr(arguments, "canvas", "waves" if waves_allowed and not on_film else "pixels") == "waves"
    if waves and not waves_allowed:
        raise errors.InputError("--canvas waves is for noise in place of the photo, or for --class")
    for name in PIXELS_ONLY:
        if command_line.was_given(arguments, name) and waves:
            raise errors.InputError(f"{command_line.flag_of(name)} is only for --canvas pixels")
    kind = "_".join(["waves"] * waves + ["class"] * of_class + ["zoom"] * film) or "dream"
    return config.DREAM_DEFAULTS[kind]


def check_photos(photos):
    """Raise InputError if the photo is missing, or if noise is given beside photos."""
    if not photos:
        raise errors.InputError("give a photo, a folder of photos, or noise")
    noise = any(map(dreaming.is_noise, photos))
    if noise and len(photos) > 1:
        raise errors.InputError("the word noise stands in place of the photo; give it alone")
    if not noise:
        naming.check_photos(photos, ["noise"])


GIF_FPS = 50  # a GIF counts time in 1/100 s, and browsers show each frame for at least 2/100 s


def check_options(options):
    """Raise InputError for options that cannot be combined or carried out."""
    if options.class_ is not None and (options.layers or options.guide or options.channels):
        raise errors.InputError("--class cannot be combined with --layers, --channels or --guide, which are for layers")
    if options.guide and not pathlib.Path(options.guide).is_file():
        raise errors.InputError(f"--guide needs a picture, and {options.guide} is not a file")
    if options.size < dreaming.smallest_side(options):
        raise errors.InputError(f"--size must be from {dreaming.smallest_side(options)} to 10000")
    is_gif = options.format == "gif" or str(options.output).lower().endswith(".gif")
    if is_gif and (options.fps or 0) > GIF_FPS:
        raise errors.InputError(f"--fps must be at most {GIF_FPS} in a GIF")
    if len(options.shift) not in (0, 2) or not all(map(math.isfinite, options.shift)):
        raise errors.InputError("--shift takes two numbers: pixels to the right, and pixels down")
    film = options.zoom is not None
    if options.format and film != (f".{options.format}" in films.KINDS):
        raise errors.InputError(
            f"--format {options.format} is for {'pictures' if film else 'films, which --zoom makes'}"
        )
    if film and options.gif:
        raise errors.InputError("--gif cannot be combined with --zoom; for a film as a GIF, give --output dream.gif")
    if options.neuron and (options.canvas == "pixels" or not options.channels or options.guide):
        raise errors.InputError("--neuron needs --channels and noise on --canvas waves, and no --guide")
    naming.check_layers(naming.parse_layers(options.layers), options.convnet)


if __name__ == "__main__":
    command_line.run(main)
