"""The search of --mask and --regions: each region takes the statistics and colours of its own painting.

It follows "Controlling Perceptual Factors in Neural Style Transfer" (Gatys et al. 2017). Statistics are guided sums:
VGG's features are weighted by the region's share of each place, at the size of each layer.
"""

from atelier import backend  # noqa: F401, Keras starts quietly

# isort: split
import dataclasses

import numpy as np

from atelier import colors, imaging, padding
from atelier.style import optimization, perceptual_loss


class RegionMixtures:
    """The paintings of all regions: a list of PaintingMixtures, which optimization.Search uses like one of them.

    Statistics are lists with an entry for each region.
    """

    def __init__(self, model, options):
        paintings = imaging.find_paintings(options.style)
        styles = [(str(path),) for path in paintings] if options.regions else [options.style]
        self.mixtures = [model.mixture_of(dataclasses.replace(options, style=style)) for style in styles]
        self.paintings = [painting for mixture in self.mixtures for painting in mixture.paintings]

    def by_region(self, paintings):
        """Yield each region's mixture, and its own of the `paintings`, which are those of all regions in order."""
        paintings = iter(paintings)
        for mixture in self.mixtures:
            yield mixture, [next(paintings) for _ in mixture.paintings]

    def layer_statistics(self, paintings, longest, cached):
        """Return for each style layer the statistics of each region's paintings."""
        statistics = [mixture.layer_statistics(own, longest, cached) for mixture, own in self.by_region(paintings)]
        return [[*layer] for layer in zip(*statistics)]

    def color_statistics(self, paintings):
        """List the mean, 3, and the covariance, 3 x 3, of each region's paintings."""
        return [mixture.color_statistics(own) for mixture, own in self.by_region(paintings)]


class RegionSearch(optimization.Search):
    """The search for a picture with `regions`, a regions.Regions of the photo's size."""

    def __init__(self, model, photo, result, options, regions):
        self.regions = regions
        super().__init__(model, photo, result, options, mixture=RegionMixtures(model, options))

    def adapted_paintings(self):
        """List the paintings. With --keep-colors, each has the colours of the photo in its own region."""
        return [
            optimization.adapted(painting, pixels_in(self.photo, self.regions.shares[..., r]), self.options.keep_colors)
            for r, (_, own) in enumerate(self.mixture.by_region(self.mixture.paintings))
            for painting in own
        ]

    def recolored(self, photo):
        """Return a photo whose regions have their paintings' colours. Where nothing is painted, it is unchanged."""
        if self.options.keep_colors or self.colors is None:
            return photo
        shares = self.regions.shares
        matched = [match_region(photo, shares[..., r], *statistics) for r, statistics in enumerate(self.colors)]
        return photo + self.regions.mask * (self.regions.mix(matched) - photo)

    def targets(self, width, height):
        """Return the targets of the loss, with the guides of each style layer and the regions' shares of the area."""
        shares = optimization.with_margin(self.regions.resized(width, height).shares, self.margin)
        (padded,) = padding.padded(shares[None], padding.MARGIN)
        guides = [guides_at(padded, layer) for layer in self.style_layers_at(width, height)]
        return super().targets(width, height) | {"guides": guides, "areas": shares.mean(axis=(0, 1))}

    def color_span(self, width, height):
        """Return Search.color_span()'s functions. Each region has the span of its own paintings' colours."""
        if self.colors is None:
            return super().color_span(width, height)
        regions = self.regions.resized(width, height)
        shares = np.split(optimization.with_margin(regions.shares, self.margin), len(self.colors), axis=2)
        # What a projection removes, so that the photo's share is not changed.
        removed = [np.eye(3, dtype="float32") - colors.color_projection(covariance) for _, covariance in self.colors]
        means = [mean.astype("float32") for mean, _ in self.colors]
        shares, removed, means = ([*map(self.on_device, arrays)] for arrays in (shares, removed, means))

        def in_span(picture, rows=...):
            parts = zip(shares, means, removed)
            return picture - sum(s[rows] * ((picture - mean) @ matrix) for s, mean, matrix in parts)

        def gradient_in_span(gradient, rows=...):
            return gradient - sum(s[rows] * gradient @ matrix for s, matrix in zip(shares, removed))

        return in_span, gradient_in_span

    def needs_photo(self):
        return True  # it is visible where nothing is painted

    def finished(self):
        picture = super().finished()
        height, width = picture.shape[:2]
        mask = self.regions.resized(width, height).mask
        photo = imaging.resize_picture(self.photo, width, height)
        return imaging.to_pixels(mask * picture + (1 - mask) * photo)


def match_region(photo, share, mean, covariance):
    """Return a photo, mapped so that the colours of its region with this share, H x W, get this mean and covariance."""
    return colors.map_colors(photo, *colors.color_mapping(pixels_in(photo, share), mean, covariance))


def pixels_in(photo, share):
    """Return the photo's pixels that belong to a region most, as a square picture n x n x 3, for their statistics."""
    pixels = photo[share > share.max() / 2]
    side = int(len(pixels) ** 0.5)
    return pixels[: side**2].reshape(side, side, 3)


def guides_at(shares, layer):
    """Return the guides of perceptual_loss.guided_statistics() for a layer: 1 x h x w x R, of shares H x W x R."""
    stride = perceptual_loss.stride_of(layer)
    height, width, count = shares.shape
    rows, columns = height // stride, width // stride
    blocks = shares[: rows * stride, : columns * stride].reshape(rows, stride, columns, stride, count)
    pooled = blocks.mean(axis=(1, 3))
    return np.sqrt(pooled / np.maximum(pooled.sum(axis=(0, 1)), 1e-6))[None]
