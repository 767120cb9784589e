"""padding.py: pictures are padded to a few sizes, and losses, gradients and paintings are those of unpadded pictures.

Only JAX pads pictures. Here TensorFlow pads them, too.
"""

import dataclasses

import numpy as np
import pytest
from conftest import ROOT

import config
from atelier import backend, imaging, padding
from atelier.style import learned_styles, perceptual_loss


@pytest.fixture(scope="module")
def photo():
    return imaging.resize_picture(imaging.load_image(ROOT / "images/content/china.jpg"), 101, 70)


def with_padding(monkeypatch, padded, function):
    """Call a function with or without padding."""
    monkeypatch.setattr(backend, "COMPILES_EACH_SIZE", padded)
    return function()


def test_many_sides_are_padded_to_a_few():
    padded = {side: padding.padded_side(side) for side in range(16, 4000)}
    assert {padded[side] for side in range(512, 1025)} == {512, 768, 1024}
    assert all(side <= larger <= 1.5 * side + 16 and larger % 16 == 0 for side, larger in padded.items())
    with_margin = [padding.padded_side(side, padding.MARGIN) for side in (256, 341, 400, 528, 600)]
    assert with_margin == [256, 400, 400, 528, 784]


@pytest.mark.parametrize("kind", ["style", "published", "layer"])
def test_losses_of_padded_pictures_are_those_of_unpadded_ones(kind, photo, monkeypatch):
    options = {
        "style": config.Style(),
        "published": dataclasses.replace(config.STYLE_DEFAULTS["published"], published_losses=True),
        "layer": dataclasses.replace(config.STYLE_DEFAULTS["layer"], layer="block3_conv1"),
    }[kind]

    def evaluate():
        loss = perceptual_loss.PerceptualLoss(options)
        targets = {} if options.layer else {"style": loss.statistics(photo[None, ::-1])}
        if loss.content:
            targets["content"] = loss.content(photo[None])
        return loss.loss_and_gradient(photo[None, :, ::-1], targets)

    (terms, gradient), (plain_terms, plain_gradient) = (with_padding(monkeypatch, x, evaluate) for x in (True, False))
    assert float(terms["total"]) == pytest.approx(float(plain_terms["total"]), rel=1e-4)
    difference = np.linalg.norm(gradient - plain_gradient) / np.linalg.norm(plain_gradient)
    assert gradient.shape == (1, *photo.shape) and difference < 1e-3


def test_a_learned_style_of_a_padded_photo_is_that_of_the_unpadded_one(photo, monkeypatch):
    style = learned_styles.load_style("wave")

    def paint():
        return learned_styles.stylize(learned_styles.load_network(style.network), photo, style)

    padded, plain = (with_padding(monkeypatch, x, paint) for x in (True, False))
    assert padded.shape == photo.shape and np.abs(padded.astype(float) - plain).max() < 0.1  # grey level
