"""Dreams on pictures: changed step by step towards what excites a network, from coarse octaves to fine ones.

Pictures are float32 H x W x 3 in 0..255. A Studio holds what all pictures and frames share: the network, and the
compiled function of how much a picture has of what is dreamed of.
"""

import functools
import math
import sys

from atelier import hardware  # it has TensorFlow start quietly

# isort: split
import keras
import numpy as np
from scipy import ndimage

import config
import util
from atelier import errors, imaging, naming, progress
from atelier.dream import fourier_images
from atelier.networks import classifiers, pretrained, vision

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


class Studio:
    """The network, and the compiled function of how much a picture has of what is dreamed of.

    `margin` is how many pixels around a tile it should see, and `stride` what a tile's side is a multiple of.
    """

    def __init__(self, options):
        device = hardware.use_precision(options.precision, "convolutions")
        # No memory is reserved, as a search does it: what is seen at once has one size, and leaves no gaps.
        classifier, top = naming.own_classifier(options.convnet), options.class_ is not None
        self.model, self.preprocess, self.source = pretrained.load_network(
            classifier or options.convnet, options.weights, top, options.input_range
        )
        if not options.quiet:
            name = classifier or naming.network_name(options.convnet)
            told = f"the input {classifiers.input_of(self.model, options.input_range)[1]}" if classifier else None
            print(f"device: {device}; {name} with {told or f'the weights {self.source}'}", file=sys.stderr)
        self.own, self.targets, self.jitter = classifier is not None, {}, options.jitter
        self.tile, self.margin, self.stride = tile_of(options), MARGIN, STRIDE
        self.least = STRIDE if self.is_vgg() else LEAST_SEEN
        side = self.model.input_shape[1]
        if side or top:  # what it sees is resized to this
            self.tile, self.margin, self.stride = min(tile_of(options), (side or USUAL_SIDE) + options.jitter + 1), 0, 1
            self.least = 1
        if top:
            check_class(self.model, options)
            self.strengths, side = ["logit"], side or USUAL_SIDE
            loss = class_logit(functools.partial(vision.classify, self.model, self.preprocess), options)
        else:
            weights = naming.parse_layers(options.layers) or default_layers(self.model, options)
            check_layers(self.model, weights, options)
            self.strengths = list(weights)
            features = self.extractor(self.strengths, rectified=not (options.canvas == "waves" and options.channels))
            if options.guide:
                self.targets["guide"] = look_at(features, options)
            loss = layer_strength(features, weights, options)
        if options.canvas == "waves":
            self.where = "whole" if top else "middle" if options.neuron else "part"
            self.side = side = side or side_seen(options, self.where)
            self.views = functools.partial(fourier_images.random_views, side=side, where=self.where, count=1 + top)
            loss = fourier_images.seen_from_elsewhere(loss, side, self.where, 1 + top)
        self.evaluate = vision.value_and_gradient(loss)
        self.told_time = False

    def forecast(self, sizes, options):
        """Return what says how long the first picture or film takes, and of the others nothing."""
        quiet, self.told_time = options.quiet or self.told_time, True
        return progress.Forecast(sizes, f"for this {'picture' if options.zoom is None else 'film'}", quiet)

    def dreamer(self, options, on_photo=False):
        """Return what dreams one picture: on waves or on pixels."""
        if options.canvas == "waves":
            if options.zoom:
                return fourier_images.Imaginer(self, options.steps, fourier_images.RATE_ON_FRAME, KEPT)
            return fourier_images.Imaginer(
                self, options.steps, fourier_images.RATE_ON_PHOTO if on_photo else fourier_images.RATES[self.where]
            )
        return Dreamer(self, options)

    def waves(self, height, width):
        """Return the longest and the shortest waves, in pixels, that a Canvas is to make much of, or None."""
        if self.where == "whole":  # which is no finer than what is seen of it from near
            return None, fourier_images.shorter_side(height, width) / self.side
        return fourier_images.FORMS if self.where == "part" else 2 * self.side, None

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

    def extractor(self, layers, rectified=True):
        if self.is_vgg() and rectified:
            return vision.feature_extractor(self.model, layers)
        return vision.network_features(self.model, self.preprocess, layers, rectified)


GUIDE_SIDE = 224  # pixels; each place of the picture is compared with each of the guide's
SMALLEST_GUIDE = 32  # pixels of its shorter side
KEPT = 0.97  # of a frame's waves: what is dreamed on and on would come to black and white
USUAL_SIDE = 224  # pixels, of what a classifier sees that can see all sizes
MARGIN = 16  # pixels
STRIDE = 16  # pixels from place to place in the layers that are worth dreaming of
LEAST_SEEN = 96  # pixels; of fewer, networks that don't pad their convolutions would have no place left


def tile_of(options):
    """Return the longest side of what the network sees at once; less where the picture itself takes much memory."""
    return options.tile or (640 if options.size <= 2000 else 400)


def side_seen(options, where):
    """Return how many pixels each way a network that can see all sizes sees of a dream on waves."""
    if where == "middle":
        return min(options.size, USUAL_SIDE)
    return math.ceil(options.size / math.ceil(options.size / tile_of(options)))


def default_layers(model, options):
    """Return what to dream of where the user did not say: what is published, or the last layer at 1/16 of the size."""
    if naming.own_classifier(options.convnet) is None:
        published = config.DREAM_LAYERS.get(naming.network_name(options.convnet))
        if published:
            return naming.parse_layers(published)
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
    classes = max(2, model.outputs[0].shape[1])
    if options.class_ >= classes:
        raise errors.InputError(f"there is no class {options.class_}; {options.convnet} has {classes}")


def look_at(features, options):
    """Return what the guide has, a tensor places x C for each layer."""
    picture = imaging.load_image(options.guide)
    width, height = imaging.fit(*picture.shape[1::-1], GUIDE_SIDE)
    if min(width, height) < SMALLEST_GUIDE:
        raise errors.InputError(
            f"{options.guide} would be looked at in {width} x {height} pixels; a guide needs {SMALLEST_GUIDE}"
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

    Of each layer it is the mean square, on waves of channels the mean excitement, and of a neuron its own; with a
    guide it is the mean product with the guide's most similar place.
    """
    ops = keras.ops

    def strength(x, guide):
        if options.neuron:
            return ops.mean(x[:, ops.shape(x)[1] // 2, ops.shape(x)[2] // 2])
        if options.canvas == "waves":
            x = within(x)
        if guide is None and options.channels and options.canvas == "waves":
            return fourier_images.excitement(x)
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


def within(x):
    """Return features N x h x w x C without those at the edges, which what a network pads with excites."""
    height, width = keras.ops.shape(x)[1:3]
    top, left = (keras.ops.minimum(side // 8, EDGE) for side in (height, width))
    return x[:, top : height - top, left : width - left]


EDGE = 2  # places


def class_logit(classify, options):
    """Return a class's logit less the total variation, as util.value_and_gradient takes it.

    The logit, not the probability: that would rise as well by making the other classes less likely.
    """

    def loss(picture, targets):
        logit = keras.ops.mean(classify(picture)[:, options.class_])
        return {"total": logit - options.tv_weight * util.mean_variation(picture), "logit": logit}

    return loss
