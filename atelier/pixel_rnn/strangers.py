"""Strangers: pictures that are none of the digits. How many of them are refused because they are unlikely?

Pictures are uint8 N x H x W, white on black, like those of datasets.py. A score is log p(picture), in nats.
"""

import pathlib
import string

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.special import logsumexp

import util
from atelier.pixel_rnn import datasets

# Fonts that matplotlib contains. Each of them has all letters of the English alphabet.
FONTS = ("DejaVuSans*.ttf", "DejaVuSerif*.ttf", "STIXGeneral*.ttf", "cm[brt]*10.ttf", "cmss10.ttf")
WITHOUT_SMALL_LETTERS = ("DejaVuSansDisplay", "DejaVuSerifDisplay")


def score_pictures(log_likelihoods, priors):
    """Return log p(picture), float64 N, from log p(picture | class), N x classes, and the log priors of the classes."""
    return logsumexp(log_likelihoods + priors, axis=1)


def share_refused(digits, strangers, tolerated=0.01):
    """Return which share of the strangers is refused, and the area under the ROC curve.

    `digits` and `strangers` are scores. A picture is refused if its score is below a threshold. The threshold is the
    highest that refuses at most the share `tolerated` of the digits.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    is_stranger = np.repeat([0, 1], [len(digits), len(strangers)])
    scores = -np.concatenate([digits, strangers])
    of_digits, of_strangers, _ = roc_curve(is_stranger, scores, drop_intermediate=False)
    return of_strangers[of_digits <= tolerated].max(), roc_auc_score(is_stranger, scores)


def shuffled(images, seed):
    """Shuffle the pixels of each picture: noise with as much ink as the digits."""
    flat = images.reshape(len(images), -1)
    return np.random.default_rng(seed).permuted(flat, axis=1).reshape(images.shape)


def printed_letters(source):
    """Return the letters a to z and A to Z in the fonts of matplotlib, laid out like the digits of a data set."""
    drawn = (datasets.lay_out(draw(letter, font), source, letter) for font in fonts() for letter in LETTERS)
    return np.concatenate([util.resize_images(letter[None], 28) for letter in drawn])


LETTERS = string.ascii_letters


def fonts():
    """List the paths of the fonts, in alphabetical order."""
    import matplotlib

    folder = pathlib.Path(matplotlib.get_data_path()) / "fonts/ttf"
    paths = {path for pattern in FONTS for path in folder.glob(pattern)}
    return sorted(path for path in paths if path.stem not in WITHOUT_SMALL_LETTERS)


def draw(letter, font):
    """Draw a letter, white on black, with two black pixels on each side: float32 H x W in 0..255."""
    picture = Image.new("L", (160, 160))
    ImageDraw.Draw(picture).text((80, 80), letter, fill=255, font=ImageFont.truetype(font, 80), anchor="mm")
    return np.pad(np.asarray(picture.crop(picture.getbbox()), "float32"), 2)
