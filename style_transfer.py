"""Turn photos into paintings by a loss of content and style; or textures alone, and what one layer keeps of a photo.

    python style_transfer.py photo.jpg --style wave.jpg
    python style_transfer.py holiday/ --style wave.jpg scream.jpg --each --output styled/
    python style_transfer.py photo.jpg --layer block4_conv2

A picture is searched for whose features in VGG resemble the photo's, and whose colours, edges and statistics of those
features, wherever they occur, resemble the painting's (after Gatys, Ecker & Bethge 2016). Without a photo it is
texture synthesis (Gatys et al. 2015); without a painting, the photo is made again from noise and one layer's
features (Mahendran & Vedaldi 2015). The search goes from coarse to fine. With --learned there is no search: a small
network that train_style.py has taught a painting makes the picture at once (Johnson et al. 2016).
"""

import command_line  # first, since it puts Ctrl-C in a line from here on

# isort: split
import dataclasses
import functools
import math
import os
import pathlib
import sys
import time

import numpy as np

import config
import errors
import naming

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # where it is not usual, convolutions take less memory so
disk = command_line.lazy_import("disk")
films = command_line.lazy_import("films")
folders = command_line.lazy_import("folders")
hardware = command_line.lazy_import("hardware")
imaging = command_line.lazy_import("imaging")
learned_styles = command_line.lazy_import("learned_styles")
minimizers = command_line.lazy_import("minimizers")
networks = command_line.lazy_import("networks")
progress = command_line.lazy_import("progress")
provenance = command_line.lazy_import("provenance")
recipes = command_line.lazy_import("recipes")
style_losses = command_line.lazy_import("style_losses")
tqdm = command_line.lazy_import("tqdm")
vision = command_line.lazy_import("vision")

SMALLEST_SIDE = 32  # pixels; the fifth block of VGG sees two by two places of it
COARSEST = 128  # pixels of the longest side to begin with


def parse_arguments(words=None):
    parser = command_line.Parser(__doc__)
    parser.add_argument(
        "content", nargs="?", type=pathlib.Path, help="a photo or a folder of them; left out: texture synthesis"
    )
    variants = {"--style-loss gram": "gram", "--published-losses": "published", "--layer": "layer"}
    variants = {flag: config.STYLE_DEFAULTS[task] for flag, task in variants.items()}
    command_line.add_options(parser, config.Style, variants=variants)
    return parser.parse_args(words)


PHOTO_ONLY = ("content_layers", "content_weight", "keep_colors", "published_losses", "each")
STYLE_ONLY = ("style_layers", "style_loss", "layer_weights", "style_weight", "style_scale", "style_weights", "each")
SEARCH_ONLY = (
    *("layer", "pooling", "convnet", "iterations", "optimizer", "learning_rate", "init", "scales", "content_layers"),
    *("style_layers", "layer_weights", "content_weight", "style_loss", "style_weight", "tv_weight", "style_scale"),
    *("style_weights", "published_losses", "save_every", "plot", "gif", "weights", "each"),
)
WITHOUT_USE = {
    "learned": SEARCH_ONLY,
    "texture": PHOTO_ONLY,
    "gram texture": PHOTO_ONLY,
    "layer": ("content_layers", "published_losses", "keep_colors", *STYLE_ONLY),
}


def main():
    arguments = parse_arguments()
    content = arguments.content
    if content is not None and not content.exists():
        raise errors.InputError(f"{content} does not exist")
    options = options_of(arguments)
    if content is not None and (content.is_dir() or options.each):
        paint_many(content, options)
    else:
        paint_one(content, options)


# --- The command -------------------------------------------------------------------------------


def options_of(arguments):
    """Return the options of a command line, in its place the defaults of what it asks for. Raises InputError."""
    task = which_task(arguments)
    for name in WITHOUT_USE.get(task, ()):
        if command_line.was_given(arguments, name):
            why = "with --learned: nothing is searched for" if task == "learned" else "without a photo and a painting"
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
        return "learned"
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
    gram = getattr(arguments, "style_loss", None) == "gram"
    if content is None:
        return "gram texture" if gram else "texture"
    if hasattr(arguments, "published_losses"):
        return "published"
    return "gram" if gram else "style"


def check(options, task):
    """Raise InputError for an option that makes no sense."""
    if task != "learned" and (options.strength != 1 or not options.size):
        raise errors.InputError("--strength and --size 0, the photo's own size, go with --learned")
    if 0 < options.size < SMALLEST_SIDE:
        raise errors.InputError(f"--size must be at least {SMALLEST_SIDE}, or 0 for the photo's own")
    for text in options.learned:
        naming.weighted(text, "--learned")
    if (task, options.init) == ("layer", "style") or ("texture" in task and options.init == "content"):
        raise errors.InputError(f"there is nothing to begin with: --init {options.init}")
    naming.check_layers([*options.content_layers, *([options.layer] if options.layer else [])], options.convnet)
    naming.check_layers(options.style_layers, options.convnet, also=[config.PIXELS])
    for name, counted, what in (
        ("style_weights", paintings_of(options), "painting"),
        ("layer_weights", options.style_layers, "style layer"),
    ):
        weights, flag = getattr(options, name), "--" + name.replace("_", "-")
        if len(weights) not in (0, 1, len(counted)):
            raise errors.InputError(
                f"{flag} has {len(weights)} numbers for {len(counted)} {what}s; give one for each, or one for all"
            )
        if weights and not (all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0):
            raise errors.InputError(f"{flag} must be 0 or above, and not all 0")
    if options.published_losses and options.style_loss != "gram":
        raise errors.InputError("--published-losses compares Gram matrices: it takes no other --style-loss")
    if options.each and options.style_weights:
        raise errors.InputError("--style-weights mixes paintings, and --each paints after each alone: not both")
    if options.init not in BEGINNINGS and not pathlib.Path(options.init).is_file():
        raise errors.InputError(f"--init takes content, style, noise or a picture, and {options.init} is none")


BEGINNINGS = ("content", "style", "noise")  # what --init takes, beside a picture


def paintings_of(options):
    """List the paintings that --style names, where it names a folder those in it. Raises InputError."""
    paintings = []
    for path in map(pathlib.Path, options.style):
        found = imaging.find_pictures(path, recursive=False) if path.is_dir() else [path]
        if not found:
            raise errors.InputError(f"{path} is a folder without pictures; --style takes paintings")
        paintings += found
    return paintings


def default_name(content, options):
    """Name the result after what goes into it."""
    parts = [content.resolve().name if content.is_dir() else content.stem] if content else []
    if options.each:
        return f"{parts[0]}__each"  # where further paintings go, too
    parts += [pathlib.Path(style).stem for style in options.style]
    parts += [pathlib.Path(naming.weighted(text)[0]).name for text in options.learned]
    parts += [options.layer] if options.layer else [] if content else ["texture"]
    return "__".join(parts)


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
    craft = folders.Craft(SCRIPT, paint, prepare, recipe_of, lambda words: options_of(parse_arguments(words)))
    folders.apply_to_folder(craft, photos, output, f".{options.format}", ways_of(options), options)


SCRIPT = "style_transfer.py"


def ways_of(options):
    """List the ways to paint a photo: after the mixture of all paintings or, with --each, after each of them."""
    if not options.each:
        return [folders.Way(options)]
    ways = []
    for path in dict.fromkeys(painting.resolve() for painting in paintings_of(options)):
        row = {"painting": str(path), "painting_sha256": recipes.fingerprint(path)["sha256"]}
        ways.append(folders.Way(dataclasses.replace(options, style=(str(path),), each=False), f"__{path.stem}", row))
    return ways


def recipe_of(options):
    """Return what shapes the pictures of a folder. With --each the painting is told in each picture's own row."""
    named = {} if options.each else {"style": paintings_of(options)}
    if options.init not in BEGINNINGS:
        named["init"] = [options.init]
    if options.weights not in (None, *recipes.SOURCES):
        named["weights"] = [options.weights]
    recipe = recipes.recipe_of(SCRIPT, options, ("compare", "plot", "save_every", "each"), named)
    if options.style_loss == "covariance" and options.content_layers and not options.learned:
        recipe["content_loss"] = "what is missing"  # it was all that differs, once
    for place, (name, weight) in enumerate(map(naming.weighted, options.learned)):
        recipe["learned"][place] = {"name": name, "sha256": f"{learned_styles.load_style(name).checksum} {weight}"}
    return recipe | ({"style": "--each, one by one"} if options.each else {})


def prepare(options):
    """Open the studio, once all paintings are known to be of use: they are not tried one by one, as photos are."""
    if options.learned:
        return open_easel(options)
    for path in paintings_of(options):
        read_painting(path, options)
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
    if options.learned:
        return paint_at_once(content, result, options)
    started = time.perf_counter()
    disk.refuse_to_replace(extra_files(result, options).values(), (content, *paintings_of(options), options.init))
    photo = None if content is None else read_photo(content, options)
    studio = open_studio(options)
    search = Search(studio, photo, result, options)
    unfinished = None
    try:
        search.run()
    except Diverged as error:
        if not keep_unfinished or search.picture is None:
            raise errors.InputError(str(error)) from None
        unfinished = errors.PartlyDone(f"{error}; {result} is the last good picture")
    except KeyboardInterrupt:
        if not keep_unfinished or search.picture is None:
            raise
        unfinished = errors.Interrupted(f"interrupted; {result} is the picture so far")
    about = provenance.of_result(options.seed, weights=studio.source, source=str(content))
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


def read_photo(path, options):
    """Read a photo at the size of the result: float32 H x W x 3. Raises InputError where it is of no use."""
    photo = imaging.load_image(path)
    height, width = photo.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise errors.InputError(f"{path} is only {width} x {height} pixels; VGG needs {SMALLEST_SIDE}")
    width, height = imaging.fit(width, height, options.size or max(width, height))
    if min(height, width) < SMALLEST_SIDE:
        least = math.ceil(options.size * SMALLEST_SIDE / min(height, width))
        raise errors.InputError(f"{path} would be {width} x {height} pixels; VGG needs {SMALLEST_SIDE}: --size {least}")
    return imaging.resize_picture(photo, width, height)


def with_margin(picture, margin):
    """Continue a picture, H x W x 3, by its mirror image: `margin` pixels to each side, and on to multiples of 16."""
    if not margin:
        return picture
    below, right = (margin + -(side + 2 * margin) % 16 for side in picture.shape[:2])
    return np.pad(picture, ((margin, below), (margin, right), (0, 0)), "symmetric")


MARGIN = 8  # pixels; VGG sees zeros beyond the edges, and what the search paints there is another thing


class Diverged(Exception):
    """The loss is no number any more."""


class Search:
    """The search for one picture, from coarse to fine. `picture` is the last good one, float32 H x W x 3.

    `history` has the terms of the loss after each step, and `steps` how many steps there were at each size.
    """

    def __init__(self, studio, photo, result, options):
        self.studio, self.result, self.options = studio, result, options
        self.photo = photo  # in its own colours
        self.mixture = studio.mixture(options)
        self.paintings = [adapt(painting, photo, options.keep_colors) for painting in self.mixture.paintings]
        recolors = options.style_loss == "covariance" and config.PIXELS in options.style_layers
        wanted = recolors and options.style_weight and self.paintings
        self.colors = self.mixture.colors(self.paintings) if wanted else None
        # In a painting's few colours a face and what is behind it may look alike: content is what the photo shows.
        self.content = imaging.luminance(photo) if options.keep_colors == "luminance" else photo
        self.beginning = self.in_paintings_colors(self.content)
        self.margin = 0 if options.published_losses else MARGIN
        self.picture, self.frames, self.history, self.steps, self.evaluations = None, [], [], [], 0

    def in_paintings_colors(self, photo):
        """Return a photo in the paintings' colours, for the search to begin with, unless it keeps its own."""
        if photo is None or self.options.keep_colors or self.colors is None:
            return photo
        return imaging.recolored(photo, *self.colors)

    def run(self):
        """Go through all scales."""
        sizes, iterations = self.sizes(), self.options.iterations
        total = iterations * len(sizes)
        disable = True if self.options.quiet else None
        pixels = [(iterations, width * height) for width, height in sizes]
        self.forecast = self.studio.forecast(pixels, self.options.quiet)
        with tqdm.tqdm(total=total, unit="step", leave=False, disable=disable) as self.bar:
            for width, height in sizes:
                self.descend(self.start(width, height), self.targets(width, height))

    def sizes(self):
        """List the (width, height) of each scale, coarse to fine."""
        height, width = self.photo.shape[:2] if self.photo is not None else (self.options.size,) * 2
        longest = max(width, height)
        count = self.options.scales or max(1, 1 + round(math.log2(longest / COARSEST)))
        sizes = [imaging.fit(width, height, longest / 2**i) for i in reversed(range(count))]
        return [size for size in sizes if self.is_seen(size)] or sizes[-1:]

    def is_seen(self, size):
        """Say whether VGG sees enough of the picture and of each painting at this scale."""
        longest = max(size) * self.options.style_scale
        sides = [min(imaging.fit(*painting.shape[1::-1], longest)) for painting in self.paintings]
        return min([*size, *sides]) >= SMALLEST_SIDE

    def start(self, width, height):
        """Return what a scale begins with: what the one before it came to, or --init."""
        init = self.options.init
        if self.picture is not None and init == "content":
            # What the coarser scale changed, on top of the photo: its details are not lost.
            photo = imaging.resize_picture(self.beginning, width, height)
            coarse = imaging.resize_picture(self.beginning, *self.picture.shape[1::-1])
            return photo + imaging.resize_picture(self.picture - coarse, width, height)
        if self.picture is not None:
            beginning = self.picture
        elif init == "noise":
            noise = np.random.default_rng(self.options.seed).normal(128, 32, (height, width, 3))
            return np.clip(noise, 0, 255).astype("float32")
        elif init == "content":
            beginning = self.beginning
        else:
            beginning = self.paintings[0] if init == "style" else imaging.load_image(init)
        return imaging.resize_picture(beginning, width, height)

    def targets(self, width, height):
        """Return what the picture should be like at this scale, as the studio's loss takes it."""
        targets = {}
        if self.content is not None:
            targets["content"] = self.studio.content(
                with_margin(imaging.resize_picture(self.content, width, height), self.margin)[None]
            )
            targets["content_weight"] = self.content_weight(max(width, height))
        if self.paintings:
            same = self.options.keep_colors is None
            targets["style"] = self.mixture.style(self.paintings, max(width, height), remember=same)
        return targets

    def content_weight(self, longest):
        """Return the weight of the content at a scale: more at coarse ones, where a stroke may be as wide as a face."""
        weight = self.options.content_weight
        if self.options.style_loss == "covariance":
            weight *= max(self.content.shape) / longest
        return np.float32(weight)

    def descend(self, start, targets):
        """Minimise the loss at one scale, among the colours that the paintings' mix to: after greys, among greys."""
        height, width = start.shape[:2]
        if self.colors is None:
            mean, span = np.zeros(3, "float32"), np.eye(3, dtype="float32")
        else:
            mean, span = self.colors[0].astype("float32"), imaging.color_span(self.colors[1])

        def in_span(picture):
            return mean + (picture - mean) @ span

        def evaluate(picture):
            terms, gradient = self.studio.evaluate(in_span(picture)[None], targets)
            self.terms = {name: float(value) for name, value in terms.items()}
            self.evaluations += 1
            gradient = np.asarray(gradient)[0]
            if not (math.isfinite(self.terms["total"]) and np.isfinite(gradient).all()):
                raise Diverged(f"the loss was no number any more at step {len(self.history) + 1}; try lower weights")
            return self.terms["total"], gradient @ span

        minimize = {"lbfgs": minimizers.minimize_lbfgs, "adam": minimizers.minimize_adam}[self.options.optimizer]
        start = with_margin(start, self.margin)
        rows, columns = (slice(self.margin, self.margin + side) for side in (height, width))
        steps = len(self.history)
        minimize(evaluate, start, self.options, lambda picture: self.accept(in_span(picture)[rows, columns]))
        if len(self.history) == steps:  # there was nothing to improve
            self.accept(in_span(start)[rows, columns])
        self.steps.append(len(self.history) - steps)

    def accept(self, picture):
        """Take note of a step of the optimizer."""
        self.picture = picture
        self.history.append(self.terms)
        self.bar.update()
        self.forecast.step(picture.shape[0] * picture.shape[1])
        self.bar.set_postfix(loss=f"{self.terms['total']:.4g}", refresh=False)
        step, options = len(self.history), self.options
        if options.gif and (step - 1) % max(1, options.iterations // 20) == 0:
            self.frames.append(films.small(self.finished()))
        if options.save_every and step % options.save_every == 0:
            path = self.result.with_name(f"{self.result.stem}__step{step:05}.png")
            imaging.save_png(path, self.finished(), provenance.of_result(options.seed, weights=self.studio.source))

    def finished(self):
        """Return the picture as the user wants it: uint8 H x W x 3."""
        if self.options.keep_colors == "luminance":
            height, width = self.picture.shape[:2]
            return imaging.to_pixels(
                imaging.with_colors_of(self.picture, imaging.resize_picture(self.photo, width, height))
            )
        return imaging.to_pixels(self.picture)


def adapt(painting, photo, keep_colors):
    """Make a painting's colours suit the photo whose colours are kept (Gatys et al. 2017)."""
    if keep_colors is None or photo is None:
        return painting
    if keep_colors == "luminance":
        gray, model = imaging.luminance(painting), imaging.luminance(photo)
        return np.clip((gray - gray.mean()) * model.std() / max(gray.std(), 1e-3) + model.mean(), 0, 255)
    from skimage.exposure import match_histograms

    return match_histograms(painting, photo, channel_axis=2).astype("float32")


# --- The network and the losses ----------------------------------------------------------------


def open_studio(options):
    """Return what all photos share, whatever they are painted after and wherever they go: it is made once."""
    free = {"style": (), "style_weights": (), "each": False, "output": None, "overwrite": False}
    return make_studio(dataclasses.replace(options, **free))


@functools.lru_cache(maxsize=1)
def make_studio(options):
    return Studio(options)


class Studio:
    """The network, the compiled loss, and the paintings that were looked at last."""

    def __init__(self, options):
        device = hardware.use_precision(options.precision, "convolutions")
        hardware.reserve_memory(1 + 2.5 * (options.size / 1000) ** 2)  # about what it comes to in the end
        model, self.source = networks.load_vgg(options.convnet, options.weights)
        if not options.quiet:
            print(f"device: {device}; {options.convnet} with the weights {self.source}", file=sys.stderr)
            if self.source == "hed" and options.weights is None:
                print(
                    "note: ImageNet's weights can't be downloaded; hed's, which began as these, serve",
                    file=sys.stderr,
                )
        content_layers = [options.layer] if options.layer else options.content_layers
        extractor = functools.partial(vision.feature_extractor, model, pooling=options.pooling)
        self.content = vision.for_any_size(extractor(content_layers)) if content_layers else None
        if options.layer:
            loss = style_losses.reconstruction_loss(extractor(content_layers), options)
        else:
            features = extractor(options.style_layers)
            self.statistics = vision.for_any_size(
                lambda picture: [
                    style_losses.statistics(x, layer, options.style_loss)
                    for x, layer in zip(features(picture), options.style_layers)
                ]
            )
            layers = [*content_layers, *options.style_layers]
            loss = style_losses.style_transfer_loss(extractor(layers), options)
        self.evaluate = vision.value_and_gradient(loss)
        self.mixture = functools.lru_cache(maxsize=8)(functools.partial(Mixture, self))  # some megabytes each
        self.told_time = False

    def forecast(self, sizes, quiet):
        """Return what says how long the first picture takes, and of the others nothing."""
        quiet, self.told_time = quiet or self.told_time, True
        return progress.Forecast(sizes, "for this picture", quiet)


class Mixture:
    """One painting or several, float32 H x W x 3 each, and what their layers tell of style at each size."""

    def __init__(self, studio, options):
        self.studio, self.options = studio, options
        self.paintings = [read_painting(path, options) for path in paintings_of(options)]
        self.remembered = {}

    def style(self, paintings, longest, remember):
        """Return the statistics of each layer, as style_losses has them, of a mixture beside a picture this long.

        `paintings` are these ones, or as they were adapted to a photo; then there is nothing to remember.
        """
        if remember and longest in self.remembered:
            return self.remembered[longest]
        longest_painting = longest * self.options.style_scale
        found = [self.studio.statistics(scaled(painting, longest_painting)[None]) for painting in paintings]
        mixture = [[self.mixed(alike) for alike in zip(*layers)] for layers in zip(*found)]
        if remember:
            self.remembered[longest] = mixture
        return mixture

    def colors(self, paintings):
        """Return the mean, 3, and the covariance, 3 x 3, of the pixels in 0..255 of a mixture, as style() does."""
        pixels = [painting.reshape(-1, 3) for painting in paintings]
        return self.mixed([x.mean(0, dtype="float64") for x in pixels]), self.mixed([np.cov(x.T) for x in pixels])

    def mixed(self, of_paintings):
        """Return the mean of something of each painting, by how much of each there is to be."""
        weights = np.resize(self.options.style_weights or (1.0,), len(of_paintings))
        return sum(weight * one for weight, one in zip(weights / weights.sum(), of_paintings))


def scaled(painting, longest):
    return imaging.resize_picture(painting, *imaging.fit(*painting.shape[1::-1], longest))


def read_painting(path, options):
    """Read a painting, as large as it is looked at. Raises InputError where VGG would see nothing of it."""
    painting = imaging.load_image(path)
    height, width = painting.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise errors.InputError(f"{path} is only {width} x {height} pixels; VGG needs {SMALLEST_SIDE}")
    width, height = imaging.fit(width, height, options.size * options.style_scale)
    if min(width, height) < SMALLEST_SIDE:
        raise errors.InputError(
            f"{path} would be looked at in {width} x {height} pixels; VGG needs {SMALLEST_SIDE}: "
            "a larger --size or --style-scale helps"
        )
    return imaging.resize_picture(painting, width, height)


# --- Learned styles ----------------------------------------------------------------------------


def paint_at_once(content, result, options):
    """Paint one photo into the file `result` after learned styles: the task, without a search."""
    started = time.perf_counter()
    disk.refuse_to_replace(extra_files(result, options).values(), (content,))
    photo, easel = read_photo(content, options), open_easel(options)
    picture = easel.paint(photo, options.keep_colors, options.strength)
    about = provenance.of_result(options.seed, styles=" ".join(options.learned), source=str(content))
    if options.compare:
        sheet = imaging.side_by_side([photo, picture.astype("float32")], len(photo))
        imaging.save_png(extra_files(result, options)["comparison"], sheet, about)
    imaging.save_picture(result, picture, about, imaging.kept_exif(content))
    height, width = picture.shape[:2]
    return {"width": width, "height": height, "seconds": round(time.perf_counter() - started, 1)}


def open_easel(options):
    return make_easel(options.learned, options.precision, options.quiet)


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
