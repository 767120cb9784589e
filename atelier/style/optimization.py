"""The search for a picture like a photo and like a painting, from coarse to fine, and what all searches share.

Photos, paintings and pictures are float32 H x W x 3 in 0..255. What they are compared by is in perceptual_loss.py.
"""

from atelier import hardware  # it has TensorFlow start quietly

# isort: split
import dataclasses
import functools
import math
import sys

import numpy as np
import tqdm

import config
from atelier import colors, films, imaging, progress, provenance
from atelier.errors import InputError
from atelier.networks import minimizers, pretrained, vision
from atelier.style import learned_styles, perceptual_loss

COARSEST = 128  # pixels of the longest side to begin with


# --- Pictures ----------------------------------------------------------------------------------


def read_photo(path, options):
    """Read a photo at the size of the result: float32 H x W x 3. Raises InputError where it is of no use."""
    photo = imaging.load_image(path)
    height, width = photo.shape[:2]
    if min(height, width) < config.VGG_LEAST_SIDE:
        raise InputError(f"{path} is only {width} x {height} pixels; VGG needs {config.VGG_LEAST_SIDE}")
    width, height = imaging.fit(width, height, options.size or max(width, height))
    if min(height, width) < config.VGG_LEAST_SIDE:
        least = math.ceil(options.size * config.VGG_LEAST_SIDE / min(height, width))
        raise InputError(
            f"{path} would be {width} x {height} pixels; VGG needs {config.VGG_LEAST_SIDE}: --size {least}"
        )
    return imaging.resize_picture(photo, width, height)


def with_margin(picture, margin):
    """Continue a picture, H x W x 3, by its mirror image: `margin` pixels to each side, and on to multiples of 16."""
    if not margin:
        return picture
    below, right = (margin + -(side + 2 * margin) % 16 for side in picture.shape[:2])
    return np.pad(picture, ((margin, below), (margin, right), (0, 0)), "symmetric")


MARGIN = 8  # pixels; VGG sees zeros beyond the edges, and what the search paints there is another thing


# --- The search --------------------------------------------------------------------------------


class Diverged(Exception):
    """The loss is no number any more."""


class Search:
    """The search for one picture, from coarse to fine. `picture` is the last good one, float32 H x W x 3.

    `mixture` is what is known of the paintings, where that is not found by looking at those that the options name.
    `history` has the terms of the loss after each step, and `steps` how many steps there were at each size.
    """

    def __init__(self, studio, photo, result, options, mixture=None):
        self.studio, self.result, self.options = studio, result, options
        self.photo = photo  # in its own colours
        self.mixture = mixture or studio.mixture(options)
        self.paintings = [adapt(painting, photo, options.keep_colors) for painting in self.mixture.paintings]
        self.has_style = bool(self.paintings or mixture)
        wanted = options.style_weight and self.has_style and not options.published_losses
        self.colors = self.mixture.colors(self.paintings) if wanted else None
        # In a painting's few colours a face and what is behind it may look alike: content is what the photo shows.
        self.content = colors.luminance(photo) if options.keep_colors == "luminance" else photo
        self.beginning = self.in_paintings_colors(self.content)
        self.margin = 0 if options.published_losses else MARGIN
        check_memory(*self.sizes()[-1])
        self.picture, self.frames, self.history, self.steps, self.evaluations = None, [], [], [], 0

    def in_paintings_colors(self, photo):
        """Return a photo in the paintings' colours, for the search to begin with, unless it keeps its own."""
        if photo is None or self.options.keep_colors or self.colors is None:
            return photo
        return colors.match_colors(photo, *self.colors)

    def run(self):
        """Go through all scales."""
        sizes = self.sizes()
        steps = steps_at(len(sizes), self.options.iterations)
        disable = True if self.options.quiet else None
        pixels = [(count, width * height) for count, (width, height) in zip(steps, sizes)]
        self.forecast = self.studio.forecast(pixels, self.options.quiet)
        self.between_frames = max(1, max(steps) // 20)
        with tqdm.tqdm(total=sum(steps), unit="step", leave=False, disable=disable) as self.bar:
            for count, (width, height) in zip(steps, sizes):
                self.descend(self.start(width, height), self.targets(width, height), count)

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
        return min([*size, *sides]) >= config.VGG_LEAST_SIDE

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
        if self.has_style:
            same = self.options.keep_colors is None
            targets["style"] = self.mixture.style(self.paintings, max(width, height), remember=same)
        return targets

    def descend(self, start, targets, count):
        """Minimise the loss at one scale in `count` steps, among the colours that the paintings' mix to.

        After a painting in greys it is among greys.
        """
        height, width = start.shape[:2]
        if self.colors is None:
            mean, span = np.zeros(3, "float32"), np.eye(3, dtype="float32")
        else:
            mean, span = self.colors[0].astype("float32"), colors.color_projection(self.colors[1])

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

        minimize = minimizers.minimize_lbfgs
        if self.options.optimizer == "adam":
            minimize = functools.partial(minimizers.minimize_adam, learning_rate=self.options.learning_rate)
        start = with_margin(start, self.margin)
        rows, columns = (slice(self.margin, self.margin + side) for side in (height, width))
        steps = len(self.history)
        minimize(evaluate, start, count, lambda picture: self.accept(in_span(picture)[rows, columns]))
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
        if options.gif and (step - 1) % self.between_frames == 0:
            self.frames.append(films.small(self.finished()))
        if options.save_every and step % options.save_every == 0:
            path = self.result.with_name(f"{self.result.stem}__step{step:05}.png")
            imaging.save_png(path, self.finished(), provenance.of_result(options.seed, weights=self.studio.source))

    def finished(self):
        """Return the picture as the user wants it: uint8 H x W x 3."""
        if self.options.keep_colors == "luminance":
            height, width = self.picture.shape[:2]
            return imaging.to_pixels(
                colors.with_colors_of(self.picture, imaging.resize_picture(self.photo, width, height))
            )
        return imaging.to_pixels(self.picture)


def steps_at(sizes, iterations):
    """List the steps at each of so many sizes: the last of `iterations` is for all further ones."""
    return [*iterations, *[iterations[-1]] * sizes][:sizes]


def check_memory(width, height):
    """Raise InputError where a search at this size takes more memory than the machine has."""
    half = hardware.keras.config.dtype_policy().name != "float32"
    needed, there = MEMORY[half] * width * height / 1e6, hardware.machine_memory()
    if needed > there and not hardware.has_gpu():
        raise InputError(
            f"a search at {width} x {height} pixels takes about {needed:.0f} GB of memory, and this machine has "
            f"{there:.0f}; give a smaller --size"
        )


MEMORY = 2.5, 1.2  # gigabytes a megapixel, in float32 and in half precision


class Refinement(Search):
    """A search on, at one size, from what an easel of learned_styles.py has painted."""

    def __init__(self, studio, photo, easel, result, options):
        self.wanted = options
        steps = {"iterations": (options.refine,), "scales": 1, "keep_colors": None}
        super().__init__(studio, photo, result, dataclasses.replace(options, **steps), mixture=easel.style)
        self.beginning = easel.paint(photo)

    def finished(self):
        return learned_styles.as_wanted(self.picture, self.photo, self.wanted.keep_colors, self.wanted.strength)


def adapt(painting, photo, keep_colors):
    """Make a painting's colours suit the photo whose colours are kept (Gatys et al. 2017)."""
    if keep_colors is None or photo is None:
        return painting
    if keep_colors == "luminance":
        gray, model = colors.luminance(painting), colors.luminance(photo)
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
        model, self.source = pretrained.load_vgg(options.convnet, options.weights)
        if not options.quiet:
            print(f"device: {device}; {options.convnet} with the weights {self.source}", file=sys.stderr)
        content_layers = [options.layer] if options.layer else options.content_layers
        extractor = functools.partial(vision.feature_extractor, model)
        self.content = vision.for_any_size(extractor(content_layers)) if content_layers else None
        if options.layer:
            loss = perceptual_loss.reconstruction_loss(extractor(content_layers), options)
        else:
            features = extractor(options.style_layers)
            self.statistics = vision.for_any_size(perceptual_loss.statistics_of(features, options))
            layers = [*content_layers, *options.style_layers]
            loss = perceptual_loss.style_transfer_loss(extractor(layers), options)
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
        self.paintings = [read_painting(path, options) for path in imaging.find_paintings(options.style)]
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
    if min(height, width) < config.VGG_LEAST_SIDE:
        raise InputError(f"{path} is only {width} x {height} pixels; VGG needs {config.VGG_LEAST_SIDE}")
    width, height = imaging.fit(width, height, options.size * options.style_scale)
    if min(width, height) < config.VGG_LEAST_SIDE:
        raise InputError(
            f"{path} would be looked at in {width} x {height} pixels; VGG needs {config.VGG_LEAST_SIDE}: "
            "a larger --size or --style-scale helps"
        )
    return imaging.resize_picture(painting, width, height)
