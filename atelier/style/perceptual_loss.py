"""The loss of style transfer (content, style statistics of VGG's features, smoothness) and that of reconstruction."""

from atelier import backend  # Keras starts quietly

# isort: split
import dataclasses
import functools

import numpy as np
from keras import ops

import config
import util
from atelier import padding
from atelier.networks import pretrained, vision


class PerceptualLoss:
    """VGG and a loss, compiled once for pictures of all sizes. `options`, a config.Style, define the loss.

    `content(picture)` returns the content features, and `statistics(picture)` the style statistics. Both are targets
    for `loss(picture, targets)`, which returns the terms of the loss. `loss_and_gradient` also returns the gradient of
    the total, see backend.value_and_gradient. `source` names the weights of VGG, `variables` are VGG's, and
    `extractor(layers)` is vision.feature_extractor() for it. Pictures are 1 x H x W x 3. With JAX they are padded, see
    padding.py, and targets["size"] is their size without the padding. `averages` is that of vision.feature_extractor().
    With `parts`, the statistics of each of parts x parts equal parts of the picture count too, see style_of_parts();
    each layer's features must divide into them, and pictures must not need padding.
    """

    def __init__(self, options, averages=False, parts=1):
        model, self.source = pretrained.load_vgg(options.convnet, options.weights)
        self.variables = model.variables
        self.layers, self.parts = model.layers[1:], parts
        self.extractor = extractor = functools.partial(vision.feature_extractor, model, averages=averages)
        content_layers = [options.layer] if options.layer else options.content_layers
        self.content = padding.for_any_size(extractor(content_layers), model.variables) if content_layers else None
        if not options.layer:
            statistics_of_layers = statistics_of(extractor(options.style_layers), options)
            self.statistics = padding.for_any_size(statistics_of_layers, model.variables)
        self.loss = self.loss_of(options)
        self.loss_and_gradient = backend.capture_steps(padding.value_and_gradient(self.loss, model.variables))

    def loss_of(self, options):
        """Return the loss that these options define. Their layers and weights may differ from the model's."""
        if options.layer:
            return reconstruction_loss(self.extractor([options.layer]), options)
        return style_transfer_loss(
            self.extractor([*options.content_layers, *options.style_layers]), options, self.parts
        )


# --- Style -------------------------------------------------------------------------------------


def statistics(features, published=False, share=1):
    """List the style statistics of a layer's features, 1 x h x w x C. They do not depend on the picture's size.

    The list holds the covariance C x C and the mean 1 x C. With `published` it holds only the mean Gram matrix C x C
    (Gatys et al. 2016). Features outside this `share` of their places must be zero, and are not counted.
    """
    if published:
        return [mean_gram(features, share)]
    return centered(*moments(features, share))


def centered(gram, mean, published=False):
    """List the style statistics of a layer with this mean Gram matrix C x C and this mean 1 x C of its features."""
    return [gram] if published else [gram - ops.transpose(mean) * mean, mean]


def statistics_of(features, options):
    """Return f(picture) -> the statistics of each style layer. `features(picture)` lists the layers' features."""

    def layer_statistics(picture, size=None):
        found = features(picture, size)
        shares = padding.filled_shares(picture, found, size)
        return [statistics(x, options.published_losses, share) for x, share in zip(found, shares)]

    return layer_statistics


def moments(features, share=1):
    """Return the mean Gram matrix C x C of features 1 x h x w x C, and their mean 1 x C; see statistics()."""
    _, height, width, channels = ops.shape(features)

    @backend.custom_gradient
    def gram_and_mean(x):
        count = ops.cast(height * width, "float32") * share
        mean = ops.matmul(ops.ones((1, height * width)), x) / count

        def gradient(gram_gradient, mean_gradient):
            # Both gradients are added in one expression. A separate gradient of the mean would be another array as
            # large as the features.
            return (ops.matmul(x, (gram_gradient + ops.transpose(gram_gradient)) / count) + mean_gradient / count,)

        return (ops.matmul(ops.transpose(x), x) / count, mean), gradient

    return gram_and_mean(ops.reshape(features, (-1, channels)))


def guided_statistics(features, guides):
    """List the statistics of features, 1 x h x w x C, in each of R regions (guided sums, Gatys et al. 2017).

    `guides`, 1 x h x w x R, are the square roots of the regions' shares. The squares of each region sum to 1.
    """
    return [centered(*guided_sums(features, guides[..., r : r + 1])) for r in range(guides.shape[3])]


def guided_sums(features, guide):
    """Return the Gram matrix C x C and the sum 1 x C of features, weighted by the square of `guide`, 1 x h x w x 1."""
    guided = features * guide
    total = ops.matmul(ops.reshape(guide, (1, -1)), ops.reshape(guided, (-1, features.shape[3])))
    return util.gram_matrix(guided), total


def mean_gram(features, share=1):
    _, height, width, _ = ops.shape(features)
    return util.gram_matrix(features) / (ops.cast(height * width, "float32") * share)


def style_distance(bases, found, options):
    """Return the distance of one layer's statistics `found` from the paintings' statistics `bases`."""
    if options.published_losses:
        return util.feature_reconstruction_loss(bases[0], found[0]) / 4
    return sum(util.relative_distance(base, output) for base, output in zip(bases, found))


def guided_distances(targets, features, options):
    """List the distance of each layer: the mean of the regions' distances, weighted by the regions' areas.

    So a region's pixels get gradients of the same size as in a picture that is painted as a whole.
    """
    return [
        sum(
            area * style_distance(base, output, options)
            for area, base, output in zip(ops.unstack(targets["areas"]), bases, guided_statistics(x, guides))
        )
        for bases, x, guides in zip(targets["style"], features, targets["guides"])
    ]


def style_of_parts(targets, features, options, parts):
    """List the distance of each layer: half the whole picture's, and half the mean of the distances of its parts.

    `features` are 1 x h x w x C. A network that learns with the statistics of whole pictures alone paints strokes in
    one part, and leaves the others unchanged.
    """
    distances = []
    for base, x in zip(targets["style"], features):
        rows = ops.split(x, parts, axis=1)
        of_parts = [moments(part) for row in rows for part in ops.split(row, parts, axis=2)]
        whole = [sum(values) / parts**2 for values in zip(*of_parts)]
        distance, *others = (style_distance(base, centered(*found), options) for found in (whole, *of_parts))
        distances.append((distance + sum(others) / parts**2) / 2)
    return distances


def content_distance(base, output, options):
    """Return the share of the photo's features, 1 x h x w x C, that a picture lacks: from 0 (none) to 1 (all).

    Features that only the picture has do not increase this distance. So stars may appear in an empty sky, but eyes must
    not disappear. In the published loss, missing and additional features count equally.
    """
    distance = util.feature_reconstruction_loss if options.published_losses else util.relative_difference
    return distance(base, compared(base, output, options))


def compared(base, output, options):
    """Return the features whose difference from the photo's, `base`, counts."""
    return output if options.published_losses else ops.minimum(base, output)


def style_term(distances, options):
    """Return the mean of the style layers' distances, weighted by --layer-weights."""
    defaults = [default_weight(layer, options) for layer in options.style_layers]
    weights = np.resize(options.layer_weights or defaults, len(options.style_layers)).tolist()
    return sum(weight * distance for weight, distance in zip(weights, distances)) / len(weights)


def stride_of(layer):
    """Return the distance in pixels of neighbouring features of a VGG's layer, such as block3_conv1."""
    block, _, kind = layer.partition("_")
    return 2 ** (int(block.removeprefix("block")) - (kind != "pool"))


def layers_at(longest, options):
    """Return the options with the style and content layers that are used at a size with this longest side, in pixels.

    Deep layers see forms and large strokes, which have their final form at smaller sizes. Without these layers, a few
    steps at the larger sizes give finer strokes. Layers that differ from the defaults are used at all sizes.
    """
    if longest <= config.MEDIUM or options.layer or options.published_losses:
        return options
    deepest = 4 if longest > config.LARGE else 8
    changes = {}
    for name in ("style_layers", "content_layers"):
        layers = getattr(options, name)
        if layers in (getattr(config.STYLE_DEFAULTS[task], name) for task in ("style", "refined")):
            changes[name] = tuple(layer for layer in layers if stride_of(layer) <= deepest)
    if len(options.layer_weights) > 1 and "style_layers" in changes:
        changes["layer_weights"] = options.layer_weights[: len(changes["style_layers"])]
        if not any(changes["layer_weights"]):
            return options
    return dataclasses.replace(options, **changes)


def default_weight(layer, options):
    """Return the weight of a style layer if --layer-weights is not given."""
    if not options.published_losses:
        return 1.0
    return 50.0 if layer == "block3_conv1" else 10.0


# --- The losses of a search --------------------------------------------------------------------


def style_transfer_loss(features, options, parts=1):
    """Return the loss, a function for backend.value_and_gradient. Its terms are content, style and smoothness.

    Each difference is divided by the size of the target, and the total variation is a mean over pixels scaled to 0..1.
    So a weight has the same effect at every size and for every number of channels. With `published_losses` the terms
    are the sums of Gatys et al. (2016). With `parts` above 1, the style is that of style_of_parts().
    """
    published, count = options.published_losses, len(options.content_layers)

    def loss(picture, targets):
        size = targets.get("size")
        found = features(picture, size)
        contents = [content_distance(base, output, options) for base, output in zip(targets.get("content", []), found)]
        if "guides" in targets:
            styles = guided_distances(targets, found[count:], options)
        elif parts > 1:
            styles = style_of_parts(targets, found[count:], options, parts)
        else:
            shares = padding.filled_shares(picture, found[count:], size)
            styles = [
                style_distance(base, statistics(output, options.published_losses, share), options)
                for base, output, share in zip(targets["style"], found[count:], shares)
            ]
        terms = {
            "content": sum(contents) / max(1, len(contents)),
            "style": style_term(styles, options),
            "tv": padding.total_variation(picture, size) if published else padding.mean_variation(picture, size),
        }
        return with_total(terms, content=options.content_weight, style=options.style_weight, tv=options.tv_weight)

    return loss


def reconstruction_loss(features, options):
    """Return the loss of Mahendran & Vedaldi (2015): the error of one layer's features, and two image priors."""

    def loss(picture, targets):
        size = targets.get("size")
        terms = {
            "content": util.relative_difference(targets["content"][0], features(picture, size)[0]),
            "contrast": padding.mean(((picture - 128) / CONTRAST_RANGE) ** 6, size),
            "tv": padding.mean_variation(picture, size),
        }
        return with_total(terms, content=options.content_weight, contrast=CONTRAST_WEIGHT, tv=options.tv_weight)

    return loss


CONTRAST_RANGE = 80  # grey levels from mid-grey; beyond this range the alpha-norm of the paper rises steeply
CONTRAST_WEIGHT = 0.01


def with_total(terms, **weights):
    return {"total": sum(weights[name] * term for name, term in terms.items()), **terms}
