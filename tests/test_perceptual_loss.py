"""perceptual_loss.py: statistics of style, and the losses of a search and their gradients."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, pixels

import config
import util
from atelier import imaging
from atelier.networks import pretrained, vision
from atelier.style import input_pictures, optimization, perceptual_loss

PAINTING = ROOT / "images/style/glands.jpg"


pytestmark = pytest.mark.usefixtures("cache_vgg")


def random_pictures(count, *shape):
    np.random.seed(1)
    return [np.random.randn(*shape) for _ in range(count)]


def test_the_losses_have_the_published_values():
    base, output = random_pictures(2, 10, 10, 3)
    gram = [[99.75723, -9.96186, -1.4740534], [-9.96186, 86.854324, -4.141108], [-1.4740534, -4.141108, 82.30106]]
    assert float(util.feature_reconstruction_loss(base, output)) == pytest.approx(605.62195, rel=1e-6)
    np.testing.assert_allclose(util.gram_matrix(base), gram, rtol=1e-5)
    assert float(util.style_reconstruction_loss(base, output)) == pytest.approx(0.09799164, rel=1e-6)
    (picture,) = random_pictures(1, 1, 10, 10, 3)
    assert float(util.total_variation_loss(picture)) == pytest.approx(937.0538, rel=1e-6)


def style_loss(photo, *, task="style", picture=None, **options):
    """Return a StyleModel, its targets for a photo (float32 H x W x 3), and the terms and gradient at a picture."""
    common = {"style": (str(PAINTING),), "quiet": True, "precision": "float32"}
    options = dataclasses.replace(config.STYLE_DEFAULTS[task], **common | options)
    model = optimization.StyleModel(options)
    search = optimization.Search(model, photo, None, options)
    search.margin = 0
    targets = search.targets(photo.shape[1], photo.shape[0])
    terms, gradient = model.loss_and_gradient((photo if picture is None else picture)[None], targets)
    return model, targets, {name: float(value) for name, value in terms.items()}, np.asarray(gradient)[0]


def test_published_losses_equal_the_papers_formulas(photo, vgg):
    picture, layers = imaging.resize_picture(pixels(photo), 64, 48), config.STYLE_LAYERS
    painting = input_pictures.scaled(imaging.load_image(PAINTING), 64)
    other = np.flip(picture, 1).copy()
    _, _, terms, _ = style_loss(
        picture,
        task="published",
        picture=other,
        layer_weights=(1, 2, 3, 4, 5),
        content_weight=7,
        tv_weight=0.5,
    )
    features = vision.feature_extractor(vgg, ["block4_conv2", *layers])
    of_photo, of_other, of_painting = (features(tf.constant(x[None])) for x in (picture, other, painting))
    assert terms["content"] == pytest.approx(float(np.sum((of_photo[0] - of_other[0]) ** 2)), rel=1e-4)
    expected = 0
    for weight, base, output in zip((1, 2, 3, 4, 5), of_painting[1:], of_other[1:]):
        places = np.prod(output.shape[1:3])
        base = util.gram_matrix(base[0]) * places / np.prod(base.shape[1:3])  # as if the painting had the photo's size
        expected += weight * float(np.sum((base - util.gram_matrix(output[0])) ** 2)) / (2 * places) ** 2 / 5
    assert terms["style"] == pytest.approx(expected, rel=1e-3)
    assert terms["tv"] == pytest.approx(float(util.total_variation_loss(other[None])), rel=1e-5)
    assert terms["total"] == pytest.approx(7 * terms["content"] + terms["style"] + 0.5 * terms["tv"], rel=1e-5)


def test_averages_take_the_place_of_maxima(photo, vgg):
    picture = tf.constant(imaging.resize_picture(pixels(photo), 64, 48)[None])
    before, after = vision.feature_extractor(vgg, ["block1_conv2", "block1_pool"], averages=True)(picture)
    expected = np.reshape(before, (1, 24, 2, 32, 2, 64)).mean((2, 4)) * vision.AVERAGE_FACTOR
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-3)
    (maxima,) = vision.feature_extractor(vgg, ["block1_pool"])(picture)
    assert np.linalg.norm(after - maxima) > 0.1 * np.linalg.norm(maxima)


@pytest.mark.parametrize(("kind", "parts"), [("style", 1), ("published", 1), ("style", 2)])
def test_the_gradient_agrees_with_finite_differences(kind, parts, photo):
    picture = imaging.resize_picture(pixels(photo), 64, 64 if parts > 1 else 48)
    model, targets, _, gradient = style_loss(picture, picture=np.flip(picture, 1).copy(), task=kind)
    if parts > 1:
        model = perceptual_loss.PerceptualLoss(config.Style(), parts=parts)
        _, gradient = model.loss_and_gradient(np.flip(picture, 1).copy()[None], targets)
        gradient = np.asarray(gradient)[0]
    direction = gradient / np.linalg.norm(gradient)
    rng = np.random.default_rng(0)
    for way in (direction, rng.standard_normal(gradient.shape) * np.abs(gradient) / np.linalg.norm(gradient)):
        step = 0.5 * way.astype("float32") / np.abs(way).max()
        above, below = (
            float(model.loss_and_gradient((np.flip(picture, 1) + sign * step)[None], targets)[0]["total"])
            for sign in (1, -1)
        )
        # The tolerance is 5 %, since maxima are not differentiable everywhere.
        assert (above - below) / 2 == pytest.approx(float(np.sum(gradient * step)), rel=0.05)


def test_the_covariance_and_the_mean_equal_those_of_numpy():
    features = np.float32(random_pictures(1, 9, 7, 5))
    covariance, mean = perceptual_loss.statistics(tf.constant(features))
    np.testing.assert_allclose(covariance, np.cov(features.reshape(-1, 5).T, bias=True), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(mean[0], features.mean((0, 1, 2)), rtol=1e-5)


def test_strokes_must_fill_each_part_of_the_picture():
    """Both pictures have the painting's statistics as a whole, but one of them has all its strokes in a corner."""
    options, rng = config.STYLE_DEFAULTS["style"], np.random.default_rng(0)
    strokes = rng.normal(size=(1, 8, 8, 5)).astype("float32")
    corner = np.zeros((1, 16, 16, 5), "float32")
    corner[:, :8, 8:] = 2 * (strokes - strokes.mean((0, 1, 2)))
    everywhere = np.tile(corner[:, :8, 8:] / 2, (1, 2, 2, 1))
    targets = {"style": [perceptual_loss.statistics(tf.constant(everywhere))]}

    def distance(features, parts):
        (found,) = perceptual_loss.style_of_parts(targets, [tf.constant(features)], options, parts)
        return float(found)

    whole = [
        perceptual_loss.style_distance(targets["style"][0], perceptual_loss.statistics(x), options)
        for x in (everywhere, corner)
    ]
    assert [distance(x, 1) for x in (everywhere, corner)] == pytest.approx([float(x) for x in whole], abs=1e-4)
    assert distance(everywhere, 2) == pytest.approx(distance(everywhere, 1), abs=1e-4)
    assert distance(corner, 2) > distance(corner, 1) + 0.5


def test_missing_features_of_the_photo_count_and_additional_features_do_not():
    base = np.abs(np.random.default_rng(0).normal(size=(1, 4, 5, 6))).astype("float32")
    options = config.STYLE_DEFAULTS["style"]
    missing, additional, same = (
        float(perceptual_loss.content_distance(base, output, options)) for output in (0.5 * base, 1.5 * base, base)
    )
    assert (missing, additional, same) == pytest.approx((0.25, 0, 0))
    options = config.STYLE_DEFAULTS["published"]
    one, other = (float(perceptual_loss.content_distance(base, x * base, options)) for x in (0.5, 1.5))
    assert one == pytest.approx(other)


def test_the_loss_does_not_depend_on_the_scale_of_a_layer(photo, vgg, monkeypatch):
    """Multiply a layer's kernel and bias by 3, and divide the next kernel by 3: the network's output stays the same."""
    picture = imaging.resize_picture(pixels(photo), 64, 48)
    scaled_vgg = keras.models.clone_model(vgg)
    scaled_vgg.set_weights(vgg.get_weights())
    kernel, bias = scaled_vgg.get_layer("block2_conv1").get_weights()
    scaled_vgg.get_layer("block2_conv1").set_weights([3 * kernel, 3 * bias])
    kernel, bias = scaled_vgg.get_layer("block2_conv2").get_weights()
    scaled_vgg.get_layer("block2_conv2").set_weights([kernel / 3, bias])
    found = []
    for network in (vgg, scaled_vgg):
        monkeypatch.setattr(pretrained, "load_vgg", lambda *_, network=network: (network, "imagenet"))
        few = {"content_layers": ("block3_conv1",), "style_layers": ("block2_conv1", "block3_conv1")}  # quickly traced
        found.append(style_loss(picture, picture=np.flip(picture, 1).copy(), **few))
    (_, _, expected, gradient), (_, _, terms, of_scaled) = found
    assert terms == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(of_scaled, gradient, atol=1e-3 * np.abs(gradient).max())


def test_the_terms_do_not_depend_on_the_size_or_the_number_of_channels():
    base, output = (np.float32(x)[None] for x in random_pictures(2, 10, 10, 3))
    grams = [perceptual_loss.mean_gram(tf.constant(x)) for x in (base, output)]
    likeness, style = (float(util.relative_difference(*pair)) for pair in ((base, output), grams))
    for repeats in ((1, 2, 3, 1), (1, 1, 1, 4)):
        larger = [np.tile(x, repeats) for x in (base, output)]
        grams = [perceptual_loss.mean_gram(tf.constant(x)) for x in larger]
        assert float(util.relative_difference(*larger)) == pytest.approx(likeness, rel=1e-5)
        assert float(util.relative_difference(*grams)) == pytest.approx(style, rel=1e-4)
    waves = [np.sin(np.arange(size) / 3)[None, :, None, None] * np.ones((1, size, size, 3)) for size in (60, 240)]
    small, large = (float(util.mean_variation(tf.constant(x, "float32"))) for x in waves)
    assert large == pytest.approx(small, rel=0.05)


@pytest.mark.parametrize(("task", "expected"), [("style", [1] * 5), ("published", [10, 10, 50, 10, 10])])
def test_default_layer_weights_depend_on_the_loss(task, expected):
    options = config.STYLE_DEFAULTS[task]
    assert [perceptual_loss.default_weight(layer, options) for layer in options.style_layers] == expected


def test_large_sizes_leave_out_deep_layers_that_the_user_has_not_chosen():
    options, blocks = config.Style(layer_weights=(5, 4, 3, 2, 1)), {}
    for longest in (362, 363, 1200, 1201):
        used = perceptual_loss.layers_at(longest, options)
        blocks[longest] = [len(used.style_layers), len(used.content_layers)]
        assert used.layer_weights == options.layer_weights[: len(used.style_layers)]
    assert blocks == {362: [5, 2], 363: [4, 2], 1200: [4, 2], 1201: [3, 1]}
    chosen = config.Style(style_layers=("block5_conv1", "block1_conv1"), content_layers=("block5_conv2",))
    for own in (chosen, config.STYLE_DEFAULTS["published"], config.Style(layer="block5_conv1")):
        assert perceptual_loss.layers_at(2000, own) == own
