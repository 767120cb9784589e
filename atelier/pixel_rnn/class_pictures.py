"""The training pictures of one class of digits: which are trained on, and which are held out.

Input: the pictures of a class, uint8 N x H x W. Output: sequences of tokens, see util.to_sequences().
"""

import dataclasses

import numpy as np

import util
from atelier.errors import InputError
from atelier.pixel_rnn import distortions, model_meta


def check_pictures(label, count, options):
    """Raise InputError if a class has no pictures, or if --validation-split would hold out none or all of them."""
    count = min(count, options.num_images or count)
    if not count:
        raise InputError(f"there are no training pictures of class {label}")
    held_out = round(count * options.validation_split)
    if options.validation_split and not 0 < held_out < count:
        raise InputError(f"--validation-split would hold out {held_out} of the {count} pictures of class {label}")


def count_trained(available, options):
    """Return how many of the available pictures of a class are trained on."""
    count = min(available, options.num_images or available)
    return count - round(count * options.validation_split)


class ClassPictures:
    """The training pictures of one class, uint8 N x H x W: those that are trained on, and those that are held out."""

    def __init__(self, images, training_config, options):
        self.config, self.count = training_config, count_trained(len(images), options)
        images = np.random.default_rng(options.seed).permutation(images[: options.num_images])
        self.images, held_out = images[: self.count], images[self.count :]
        if training_config.sampled:
            held_out = distortions.binarize(held_out, np.random.default_rng(options.seed))
        self.held_out = self.to_sequences(held_out)
        self.changes = training_config.distort > 0 or training_config.sampled
        self.fixed = None if self.changes else self.shifted(self.images)

    def to_sequences(self, images):
        return util.to_sequences(images, **model_meta.sequence_options(dataclasses.asdict(self.config)))

    def shifted(self, images):
        return np.stack([self.to_sequences(copy) for copy in util.shifted_copies(images, self.config.shift)])

    def sequences(self, rng):
        """Return the training sequences for an epoch, uint8 V x N x T: V shifted copies of each picture."""
        if not self.changes:
            return self.fixed
        images = distortions.distort(self.images, self.config.distort, rng) if self.config.distort else self.images
        return self.shifted(distortions.binarize(images, rng) if self.config.sampled else images)
