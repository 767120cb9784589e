"""The search: it optimizes a picture, from coarse to fine, for the content of a photo and the style of paintings.

Photos, paintings and pictures are float32 H x W x 3 in 0..255. The losses are in perceptual_loss.py.
"""

from atelier import backend, hardware  # Keras starts quietly

# isort: split
import dataclasses
import functools
import math
import sys

import numpy as np
import tqdm
from keras import ops

import config
from atelier import colors, films, imaging, padding, progress, provenance
from atelier.networks import minimizers
from atelier.style import input_pictures, large_search, learned_styles, perceptual_loss, tiled_loss

COARSEST = 128  # pixels of the longest side at the first scale
MARGIN = 8  # pixels that are added and later cut off: VGG's padding with zeros changes the picture near its border

# --- The network -------------------------------------------------------------------------------


class StyleModel(perceptual_loss.PerceptualLoss):
    """The loss of a search, and a cache with the statistics of the last paintings.

    The model depends only on the options, not on a photo, so all pictures of a folder share it.
    """

    def __init__(self, options):
        device = hardware.use_precision(options.precision, "convolutions")
        longest = min(options.size, config.LARGE)
        hardware.reserve_memory(1 + 2.5 * (longest / 1000) ** 2)  # in GB, about the peak memory of a search
        super().__init__(options)
        if not options.quiet:
            print(f"device: {device}; {options.convnet} with the weights {self.source}", file=sys.stderr)
        self.options = options
        self.compiled = functools.lru_cache(
            lambda options: backend.capture_steps(padding.value_and_gradient(self.loss_of(options), self.variables))
        )
        self.tiled = functools.lru_cache(lambda options, regions: tiled_loss.TiledLoss(self, options, regions))
        # The cache is small because each mixture takes some megabytes.
        self.mixture_of = functools.lru_cache(maxsize=8)(lambda options: PaintingMixture(self, options))
        self.time_was_printed = False

    def statistics_of(self, picture):
        """Return the style statistics of a picture, H x W x 3, in tiles if it is large."""
        if large_search.is_large(max(picture.shape)):
            return self.tiled(self.options, 1).statistics(picture)
        return self.statistics(picture[None])

    def loss_and_gradient_at(self, longest):
        """Return loss_and_gradient() with the layers for a size with this longest side."""
        options = perceptual_loss.layers_at(longest, self.options)
        return self.loss_and_gradient if options == self.options else self.compiled(options)

    def tiled_at(self, longest, regions=1):
        """Return the TiledLoss with the layers for a size with this longest side."""
        return self.tiled(perceptual_loss.layers_at(longest, self.options), regions)

    def forecast(self, sizes, quiet):
        """Return a progress.Forecast. It prints the remaining time for the first picture only."""
        quiet, self.time_was_printed = quiet or self.time_was_printed, True
        return progress.Forecast(sizes, "for this picture", quiet)


class PaintingMixture:
    """One painting or several, float32 H x W x 3 each, and their weighted mean statistics at each size."""

    def __init__(self, model, options):
        self.model, self.options = model, options
        self.paintings = [*read_paintings(options)]
        self.cache = {}

    def layer_statistics(self, paintings, longest, cached):
        """Return the statistics of each style layer for a picture with a longest side of `longest` pixels.

        For a large picture, no painting is enlarged to more than twice its own size, since that would blur it.
        `paintings` are self.paintings, or copies of them that are adapted to a photo. Use `cached` only for
        self.paintings.
        """
        if cached and longest in self.cache:
            return self.cache[longest]
        of_paintings = [
            self.model.statistics_of(input_pictures.scaled(painting, self.longest_of(painting, longest)))
            for painting in paintings
        ]
        mixture = [[self.mean(same) for same in zip(*layers)] for layers in zip(*of_paintings)]
        if cached:
            self.cache[longest] = mixture
        return mixture

    def longest_of(self, painting, longest):
        """Return the longest side of a painting for a picture whose longest side has `longest` pixels."""
        scaled = longest * self.options.style_scale
        return min(scaled, 2 * max(painting.shape)) if large_search.is_large(self.options.size) else scaled

    def color_statistics(self, paintings):
        """Return the mean, 3, and the covariance, 3 x 3, of the paintings' pixels in 0..255."""
        means, covariances = zip(*map(colors.color_statistics, paintings))
        return self.mean(means), self.mean(covariances)

    def mean(self, values):
        """Return the mean of `values`, one for each painting, weighted by --style-weights."""
        weights = np.resize(self.options.style_weights or (1.0,), len(values))
        return sum(weight * value for weight, value in zip(weights / weights.sum(), values))


def read_paintings(options):
    """Yield each painting at the largest size that the search uses, but not enlarged.

    Raises InputError if a painting is too small.
    """
    for path in imaging.find_paintings(options.style):
        longest = options.size * options.style_scale
        yield input_pictures.read_painting(path, longest, "--size or --style-scale", enlarge=False)


# --- The search --------------------------------------------------------------------------------


def with_margin(picture, margin):
    """Pad a picture, H x W x 3, with its mirror image: `margin` pixels on each side, then up to multiples of 16."""
    if not margin:
        return picture
    below, right = (margin + -(side + 2 * margin) % 16 for side in picture.shape[:2])
    return np.pad(picture, ((margin, below), (margin, right), (0, 0)), "symmetric")


class Diverged(FloatingPointError):
    """The loss became NaN or infinite."""


class Search:
    """The search for one picture, from coarse to fine. `picture` is the last good one, float32 H x W x 3.

    `mixture`, a PaintingMixture or a LearnedStyle, is used instead of the paintings that the options name. `history`
    has the terms of the loss after each step, and `steps` the number of steps at each scale.
    """

    def __init__(self, model, photo, result, options, mixture=None):
        self.model, self.result, self.options = model, result, options
        self.photo = photo  # in its own colours
        self.width_and_height = (options.size,) * 2 if photo is None else photo.shape[1::-1]
        large_search.check_resources(*self.final_size(), result and result.parent)
        self.checkpoint = self.resumed = None  # a large_search.Checkpoint, and the optimizer that it holds
        self.mixture = mixture or model.mixture_of(options)
        self.paintings = self.adapted_paintings()
        self.has_style = bool(self.paintings or mixture)
        needs_colors = options.style_weight and self.has_style and not options.published_losses
        self.colors = self.mixture.color_statistics(self.paintings) if needs_colors else None
        # Content is compared with the photo in its own colours. In the few colours of the painting, a face may look
        # the same as the background behind it.
        self.content = colors.luminance(photo) if options.keep_colors == "luminance" else photo
        self.initial = self.recolored(self.content)
        self.margin = 0 if options.published_losses else MARGIN
        self.on_gpu = options.optimizer == "lbfgs" and minimizers.runs_on_gpu()
        self.picture, self.frames, self.history, self.steps, self.evaluations = None, [], [], [], 0

    def adapted_paintings(self):
        """List the paintings in the colours that --keep-colors asks for."""
        return [adapted(painting, self.photo, self.options.keep_colors) for painting in self.mixture.paintings]

    def recolored(self, photo):
        """Return a photo in the paintings' colours, or the unchanged photo if its colours are kept."""
        if photo is None or self.options.keep_colors or self.colors is None:
            return photo
        return colors.match_colors(photo, *self.colors)

    def run(self):
        """Optimize the picture at all scales."""
        sizes = self.sizes()
        steps = self.steps_of(sizes)
        disable = True if self.options.quiet else None
        first = self.checkpoint.resume(self) if self.checkpoint else 0
        costs = [(count, self.cost(*size)) for count, size in zip(steps, sizes)][first:]
        if self.resumed:
            costs[0] = (steps[first] - self.resumed.step, costs[0][1])
        self.forecast = self.model.forecast(costs, self.options.quiet)
        self.between_frames = max(1, max(steps) // 20)
        bar = {"total": sum(steps), "initial": len(self.history), "unit": "step", "leave": False}
        with tqdm.tqdm(disable=disable, **bar) as self.bar:
            for count, (width, height) in [*zip(steps, sizes)][first:]:
                if self.is_tiled(width, height):
                    large_search.minimize(self, width, height, count)
                else:
                    self.minimize(self.start(width, height), self.targets(width, height), count)

    def is_tiled(self, width, height):
        """Tell whether a size takes the steps of large_search.py.

        In a search for a large picture this begins at a smaller size, since TensorFlow keeps the memory that it needs
        for the largest size without tiles.
        """
        return large_search.is_large(max(self.final_size())) and max(width, height) > large_search.TILED

    def cost(self, width, height):
        return large_search.cost(width, height, self.is_tiled(width, height))

    def final_size(self):
        """Return the (width, height) of the finished picture."""
        return self.width_and_height

    def sizes(self):
        """List the (width, height) of each scale, from coarse to fine."""
        width, height = self.final_size()
        longest = max(width, height)
        count = self.options.scales or max(1, 1 + round(math.log2(longest / COARSEST)))
        sizes = [imaging.fit(width, height, longest / 2**i) for i in reversed(range(count))]
        return [size for size in sizes if self.is_large_enough(size)] or sizes[-1:]

    def is_large_enough(self, size):
        """Say whether the picture and each painting are large enough for VGG at this scale."""
        longest = max(size) * self.options.style_scale
        sides = [min(imaging.fit(*painting.shape[1::-1], longest)) for painting in self.paintings]
        return min([*size, *sides]) >= config.VGG_LEAST_SIDE

    def steps_of(self, sizes):
        """List the number of steps at each of the `sizes`."""
        if self.options.iterations:
            return steps_at(len(sizes), self.options.iterations)
        large = sum(large_search.is_large(max(size)) for size in sizes)
        effort = self.options.effort
        return steps_at(len(sizes) - large, config.EFFORTS[effort]) + [config.LARGE_STEPS[effort]] * large

    def start(self, width, height):
        """Return the initial picture of a scale: the result of the previous scale or, at the first scale, --init."""
        init = self.options.init
        if self.picture is not None and init == "content":
            # The changes of the coarser scale are added to the photo, so that the photo's details are not lost.
            photo = imaging.resize_picture(self.initial, width, height)
            coarse = imaging.resize_picture(self.initial, *self.picture.shape[1::-1])
            return photo + imaging.resize_picture(self.picture - coarse, width, height)
        if self.picture is not None:
            start = self.picture
        elif init == "noise":
            noise = np.random.default_rng(self.options.seed).normal(128, 32, (height, width, 3))
            return np.clip(noise, 0, 255).astype("float32")
        elif init == "content":
            start = self.initial
        else:
            start = self.paintings[0] if init == "style" else imaging.load_image(init)
        return imaging.resize_picture(start, width, height)

    def targets(self, width, height):
        """Return the targets of the loss at this scale: the photo's features and the paintings' statistics.

        In tiles, the features are tiled_loss.ContentFeatures.
        """
        targets, tiled = {}, self.is_tiled(width, height)
        photo = None if self.content is None else self.padded(imaging.resize_picture(self.content, width, height))
        if tiled:
            loss = self.model.tiled_at(max(width, height))
            targets["content"] = loss.content_of(photo, self.result.parent)
        elif photo is not None:
            targets["content"] = self.model.content(photo[None])
        if self.has_style:
            unchanged = self.options.keep_colors is None
            statistics = self.mixture.layer_statistics(self.paintings, max(width, height), cached=unchanged)
            targets["style"] = statistics[: len(self.style_layers_at(width, height))]
        return targets

    def style_layers_at(self, width, height):
        return perceptual_loss.layers_at(max(width, height), self.options).style_layers

    def padded(self, picture):
        return with_margin(picture, self.margin)

    def forget_inputs(self):
        """Free the memory of the pictures that are not needed after the start of the last scale."""
        self.initial = self.content = None
        if not self.needs_photo():
            self.photo = None

    def needs_photo(self):
        """Tell whether the photo is needed for the finished picture."""
        return self.options.compare or self.options.keep_colors == "luminance"

    def minimize(self, start, targets, count):
        """Minimise the loss at one scale in `count` steps.

        The picture's colours stay in the span of the paintings' colours. For example, a grey painting gives a grey
        picture.
        """
        height, width = start.shape[:2]
        in_span, gradient_in_span = self.color_span(width, height)
        loss_and_gradient = self.model.loss_and_gradient_at(max(width, height))

        def evaluate(picture):
            terms, gradient = loss_and_gradient(in_span(picture)[None], targets)
            self.terms = {name: float(value) for name, value in terms.items()}
            self.evaluations += 1
            gradient = gradient[0] if self.on_gpu else backend.as_array(gradient)[0]
            self.check_finite(gradient)
            total, gradient = self.with_penalty(picture, self.terms["total"], gradient)
            return total, gradient_in_span(gradient)

        minimize = minimizers.minimize_lbfgs
        if self.options.optimizer == "adam":
            minimize = functools.partial(minimizers.minimize_adam, learning_rate=self.options.learning_rate)
        start = self.padded(start)
        rows, columns = (slice(self.margin, self.margin + side) for side in (height, width))
        steps = len(self.history)
        minimize(evaluate, start, count, lambda picture: self.accept(in_span(picture)[rows, columns]))
        if len(self.history) == steps:  # the optimizer found nothing to improve
            self.accept(in_span(self.on_device(start))[rows, columns])
        self.steps.append(len(self.history) - steps)
        self.picture = backend.as_array(self.picture)
        backend.release_graphs()  # the next size needs the memory

    def check_finite(self, gradient):
        """Raise Diverged if the gradient of this step, or its loss, is not finite."""
        finite = np.isfinite(gradient) if isinstance(gradient, np.ndarray) else ops.isfinite(gradient)
        if not (math.isfinite(self.terms["total"]) and bool(finite.all())):
            raise Diverged(f"the loss became NaN or infinite at step {len(self.history) + 1}; try lower weights")

    def with_penalty(self, picture, total, gradient):
        """Return the loss of a picture with its margin, and the gradient. Films add a penalty to both."""
        return total, gradient

    def color_span(self, width, height):
        """Return the functions that project a picture onto the span of the paintings' colours, and its gradient.

        The picture has a margin around its `width` x `height` pixels. The functions also take some of its rows, a
        slice, as the second argument.
        """
        if self.colors is None:
            mean, span = np.zeros(3, "float32"), np.eye(3, dtype="float32")
        else:
            mean, span = self.colors[0].astype("float32"), colors.color_projection(self.colors[1])
        mean, span = self.on_device(mean), self.on_device(span)
        return lambda picture, rows=...: mean + (picture - mean) @ span, lambda gradient, rows=...: gradient @ span

    def on_device(self, array):
        """Return an array as a tensor if L-BFGS runs on a GPU."""
        return ops.convert_to_tensor(array) if self.on_gpu else array

    def accept(self, picture):
        """Record a step of the optimizer that led to this picture."""
        self.picture = picture
        self.record(picture.shape[1::-1])

    def record(self, size):
        """Record a step of the optimizer at a (width, height). Save what --gif and --save-every ask for."""
        self.history.append(self.terms)
        self.bar.update()
        self.forecast.step(self.cost(*size))
        self.bar.set_postfix(loss=f"{self.terms['total']:.4g}", refresh=False)
        step, options = len(self.history), self.options
        if options.gif and (step - 1) % self.between_frames == 0:
            self.frames.append(films.small(self.finished()))
        if options.save_every and step % options.save_every == 0:
            path = self.result.with_name(f"{self.result.stem}__step{step:05}.png")
            imaging.save_png(path, self.finished(), provenance.of_result(options, weights=self.model.source))

    def finished(self):
        """Return the final picture: uint8 H x W x 3."""
        self.picture = backend.as_array(self.picture)  # it may be on a GPU
        if self.options.keep_colors == "luminance":
            height, width = self.picture.shape[:2]
            return imaging.to_pixels(
                colors.with_colors_of(self.picture, imaging.resize_picture(self.photo, width, height))
            )
        return imaging.to_pixels(self.picture)


def steps_at(sizes, iterations):
    """List the number of steps at each scale. The last number in `iterations` also applies to all further scales."""
    return [*iterations, *[iterations[-1]] * sizes][:sizes]


class Refinement(Search):
    """The search of --refine: it has one scale and begins with the picture of a learned_styles.Stylizer."""

    def __init__(self, model, photo, stylizer, result, options):
        self.given = options
        steps = {"iterations": (options.refine,), "scales": 1, "keep_colors": None}
        super().__init__(model, photo, result, dataclasses.replace(options, **steps), mixture=stylizer.style)
        self.initial = stylizer.stylize(photo, options.stroke_size)

    def needs_photo(self):
        return True

    def finished(self):
        return learned_styles.apply_final_options(self.picture, self.photo, self.given.keep_colors, self.given.strength)


def adapted(painting, photo, keep_colors):
    """Adapt a painting's colours to a photo if --keep-colors is given (Gatys et al. 2017)."""
    if keep_colors is None or photo is None:
        return painting
    if keep_colors == "luminance":
        gray, target = colors.luminance(painting), colors.luminance(photo)
        return np.clip((gray - gray.mean()) * target.std() / max(gray.std(), 1e-3) + target.mean(), 0, 255)
    from skimage.exposure import match_histograms

    return match_histograms(painting, photo, channel_axis=2).astype("float32")
