"""What makes a picture like a photo and like a painting: statistics of style, and the losses of a search."""

from atelier import hardware  # noqa: F401, it has TensorFlow start quietly

# isort: split
import numpy as np
from keras import ops

import util

# --- Style -------------------------------------------------------------------------------------


def statistics(features, published=False):
    """List what a layer's features, 1 x h x w x C, tell of style: tensors that mean the same at every size.

    They are the covariance C x C and the mean 1 x C or, as `published`, the mean Gram matrix C x C (Gatys et al. 2016).
    """
    if published:
        return [mean_gram(features)]
    gram, mean = moments(features)
    return [gram - ops.transpose(mean) * mean, mean]


def statistics_of(features, options):
    """Return f(picture) -> the statistics of each style layer, whose features `features(picture)` lists."""

    def of_picture(picture):
        return [statistics(x, options.published_losses) for x in features(picture)]

    return of_picture


def moments(features):
    """Return the mean Gram matrix C x C of features 1 x h x w x C, and their mean 1 x C."""
    _, height, width, channels = ops.shape(features)

    @ops.custom_gradient
    def of_places(x):
        count = ops.cast(height * width, "float32")
        mean = ops.matmul(ops.ones((1, height * width)), x) / count

        def gradient(of_gram, of_mean):
            # Together: the mean's gradient by itself would be one more array as large as the features.
            return (ops.matmul(x, (of_gram + ops.transpose(of_gram)) / count) + of_mean / count,)

        return (ops.matmul(ops.transpose(x), x) / count, mean), gradient

    return of_places(ops.reshape(features, (-1, channels)))


def mean_gram(features):
    _, height, width, _ = ops.shape(features)
    return util.gram_matrix(features) / ops.cast(height * width, "float32")


def unlikeness(bases, found, options):
    """Return how unlike one layer's statistics are."""
    if options.published_losses:
        return util.feature_reconstruction_loss(bases[0], found[0]) / 4
    return sum(util.relative_distance(base, output) for base, output in zip(bases, found))


def unlikeness_to_photo(base, output, options):
    """Return how much of the photo's features, 1 x h x w x C, a picture's lack: 0 where nothing, 1 where all.

    What the picture shows beyond the photo costs nothing: stars may shine where the sky was bare, but eyes must not go
    missing. In the published loss it costs as much as what is lacking.
    """
    if options.published_losses:
        return util.feature_reconstruction_loss(base, output)
    return util.relative_difference(base, ops.minimum(base, output))


def usual_weight(layer, options):
    """Return the weight of a style layer, where none are given."""
    if not options.published_losses:
        return 1.0
    return 50.0 if layer == "block3_conv1" else 10.0


# --- The losses of a search --------------------------------------------------------------------


def style_transfer_loss(features, options):
    """Return the loss of content, style and smoothness, as vision.value_and_gradient takes it.

    Each difference is divided by what it is compared with, and the total variation is a mean over pixels scaled to
    0..1: the weights mean the same at every size and for all numbers of channels. With `published_losses` they are the
    sums of Gatys et al. (2016) instead.
    """
    published, count = options.published_losses, len(options.content_layers)
    usual = [usual_weight(layer, options) for layer in options.style_layers]
    layer_weights = np.resize(options.layer_weights or usual, len(options.style_layers))

    def loss(picture, targets):
        found = features(picture)
        contents = [
            unlikeness_to_photo(base, output, options) for base, output in zip(targets.get("content", []), found)
        ]
        styles = [
            unlikeness(base, statistics(output, options.published_losses), options)
            for base, output in zip(targets["style"], found[count:])
        ]
        terms = {
            "content": sum(contents) / max(1, len(contents)),
            "style": sum(weight * style for weight, style in zip(layer_weights, styles)) / len(styles),
            "tv": util.total_variation_loss(picture) if published else util.mean_variation(picture),
        }
        return with_total(terms, content=options.content_weight, style=options.style_weight, tv=options.tv_weight)

    return loss


def reconstruction_loss(features, options):
    """Return the loss of Mahendran & Vedaldi (2015): one layer's features, and priors that keep pictures natural."""

    def loss(picture, targets):
        terms = {
            "content": util.relative_difference(targets["content"][0], features(picture)[0]),
            "contrast": ops.mean(((picture - 128) / USUAL_RANGE) ** 6),
            "tv": util.mean_variation(picture),
        }
        return with_total(terms, content=options.content_weight, contrast=CONTRAST_WEIGHT, tv=options.tv_weight)

    return loss


USUAL_RANGE = 80  # grey levels from the middle, beyond which their paper's alpha-norm rises steeply
CONTRAST_WEIGHT = 0.01


def with_total(terms, **weights):
    return {"total": sum(weights[name] * term for name, term in terms.items()), **terms}
