"""What makes a picture like a photo and like a painting: statistics of style, and the losses of a search."""

import hardware  # noqa: F401, it has TensorFlow start quietly

# isort: split
import numpy as np
from keras import ops

import config
import util

# --- Style -------------------------------------------------------------------------------------


def statistics(features, layer, kind):
    """List what a layer's features, 1 x h x w x C, tell of style: tensors that mean the same at every size.

    Of the kind gram it is the mean Gram matrix C x C (Gatys et al. 2016), of the kind covariance the covariance C x C
    and the mean 1 x C; of the pixels, also the edges.
    """
    if kind == "gram":
        return [mean_gram(features)]
    gram, mean = moments(features)
    covariance = gram - ops.transpose(mean) * mean
    return [covariance, mean, *(edges(features) if layer == config.PIXELS else ())]


def statistics_of(features, options):
    """Return f(picture) -> the statistics of each style layer, whose features `features(picture)` lists."""

    def of_picture(picture):
        return [statistics(x, layer, options.style_loss) for x, layer in zip(features(picture), options.style_layers)]

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


EDGE_SIZES = 3  # sizes at which edges are looked at: the picture, its half and its quarter


def edges(picture):
    """List how strong the edges of a picture, 1 x h x w x 3, are at several sizes: a matrix 9 x 9 for each size.

    They are the second moments of its differences to the right, downwards and to the mean of the four neighbours.
    Convolutions hardly tell ripples from brush strokes; these do.
    """
    found = []
    for size in range(EDGE_SIZES):
        picture = ops.average_pool(picture, 2) if size else picture
        _, height, width, channels = ops.shape(picture)
        shape = (1, height - 2, width - 2, channels)
        # Slices by index mean the same, and their gradients take seven times as long.
        here, right, left, lower, upper = (
            ops.slice(picture, (0, row, column, 0), shape) for row, column in ((1, 1), (1, 2), (1, 0), (2, 1), (0, 1))
        )
        around = (right + left + lower + upper) / 4
        found.append(mean_gram(ops.concatenate([right - here, lower - here, around - here], axis=3)))
    return found


def unlikeness(bases, found, options):
    """Return how unlike one layer's statistics are."""
    if options.published_losses:
        return util.feature_reconstruction_loss(bases[0], found[0]) / 4
    compare = util.relative_difference if options.style_loss == "gram" else util.relative_distance
    return sum(compare(base, output) for base, output in zip(bases, found))


def unlikeness_to_photo(base, output, options):
    """Return how much of the photo's features, 1 x h x w x C, a picture's lack: 0 where nothing, 1 where all.

    With the covariance loss, what the picture shows beyond the photo costs nothing: stars may shine where the sky was
    bare, but eyes must not go missing. Else it costs as much as what is lacking.
    """
    if options.published_losses:
        return util.feature_reconstruction_loss(base, output)
    if options.style_loss == "gram":
        return util.relative_difference(base, output)
    return util.relative_difference(base, ops.minimum(base, output))


def usual_weights(options):
    """Return the weight of each style layer, where none are given."""
    if options.published_losses:
        usual = config.PUBLISHED_LAYERS
    else:
        usual = config.GRAM_LAYERS if options.style_loss == "gram" else config.STYLE_LAYERS
    return [usual.get(layer, 1.0) for layer in options.style_layers]


# --- The losses of a search --------------------------------------------------------------------


def style_transfer_loss(features, options):
    """Return the loss of content, style and smoothness, as vision.value_and_gradient takes it.

    Each difference is divided by what it is compared with, and the total variation is a mean over pixels scaled to
    0..1: the weights mean the same at every size and for all numbers of channels. With `published_losses` they are the
    sums of Gatys et al. (2016) instead.
    """
    published, count = options.published_losses, len(options.content_layers)
    layer_weights = np.resize(options.layer_weights or usual_weights(options), len(options.style_layers))

    def loss(picture, targets):
        found = features(picture)
        contents = [
            unlikeness_to_photo(base, output, options) for base, output in zip(targets.get("content", []), found)
        ]
        styles = [
            unlikeness(base, statistics(output, layer, options.style_loss), options)
            for base, output, layer in zip(targets["style"], found[count:], options.style_layers)
        ]
        terms = {
            "content": sum(contents) / max(1, len(contents)),
            "style": sum(weight * style for weight, style in zip(layer_weights, styles)) / len(styles),
            "tv": util.total_variation_loss(picture) if published else util.mean_variation(picture),
        }
        content_weight = targets.get("content_weight", options.content_weight)
        return with_total(terms, content=content_weight, style=options.style_weight, tv=options.tv_weight)

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
