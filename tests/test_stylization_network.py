"""stylization_network.py: the network's layers, photos in strips, noise, precision and gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, pixels
from scipy import ndimage

from atelier import imaging
from atelier.errors import InputError
from atelier.style import learned_styles, stylization_network


@pytest.fixture
def network():
    keras.utils.set_random_seed(0)
    return stylization_network.StylizationNetwork()


def random_style():
    return np.random.default_rng(1).normal(0.5, 0.3, (1, stylization_network.STYLE_DIM)).astype("float32")


@pytest.mark.parametrize("shape", [(61, 83), (64, 64), (33, 120), (130, 40), (100, 5)])
def test_strips_give_the_same_picture_as_the_whole_photo(shape, network, monkeypatch):
    photo = imaging.resize_picture(pixels(ROOT / "images/content/china.jpg"), *shape[::-1])
    change = np.diag([0.5, 0.6, 0.7]), np.float32([9, 8, 7])
    whole = network.stylize(photo, random_style(), change)
    assert whole.shape == (*shape, 3)
    by_hand = network.stylize(photo * np.float32([0.5, 0.6, 0.7]) + change[1], random_style())
    np.testing.assert_allclose(whole, by_hand, atol=1e-2)
    monkeypatch.setattr(stylization_network, "MAX_WHOLE_PIXELS", 0)
    monkeypatch.setattr(stylization_network, "STRIP_PIXELS", 1)  # strips of LEAST_ROWS rows
    strips = network.stylize(photo, random_style(), change)
    np.testing.assert_allclose(strips, whole, atol=1e-2)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (16, 24)])
def test_a_tiny_photo_gets_a_picture_of_its_size(shape, network):
    picture = network.stylize(np.full((*shape, 3), 200, "float32"), random_style())
    assert picture.shape == (*shape, 3) and np.isfinite(picture).all()


def test_a_flat_sky_in_strips_shows_no_seam(network, monkeypatch):
    sky = np.full((128, 64, 3), 200, "float32")
    sky[8:16, 20:30] = 90  # a dark rectangle in the first strip
    whole = network.stylize(sky, random_style())
    monkeypatch.setattr(stylization_network, "MAX_WHOLE_PIXELS", 0)
    monkeypatch.setattr(stylization_network, "STRIP_PIXELS", 2**10)
    np.testing.assert_allclose(network.stylize(sky, random_style()), whole, atol=1e-2)


def test_a_uniform_photo_gets_strokes_only_from_the_noise(network):
    sky = np.full((64, 64, 3), 200, "float32")
    assert np.ptp(network.stylize(sky, random_style()), axis=(0, 1)).min() > 1
    without = network.stylize(sky, random_style(), noise_of=lambda *size: 0 * stylization_network.fixed_noise(*size))
    assert np.ptp(without, axis=(0, 1)).max() < 0.1


def test_a_flat_sky_shows_no_checkerboard():
    style = learned_styles.load_style("wave")
    network = learned_styles.load_network(style.network)
    sky = learned_styles.stylize(network, np.full((256, 256, 3), 200, "float32"), style)
    for side, limit in ((4, 0.15), (8, 0.4)):  # at 0.3, a weave can be seen in an enlarged picture
        mean_by_place = sky.reshape(256 // side, side, 256 // side, side, 3).mean((0, 2))
        assert np.ptp(mean_by_place, axis=(0, 1)).max() < limit * sky.std((0, 1)).min()


@pytest.mark.parametrize("name", ["starry_night", "wave"])
def test_noise_changes_the_strokes_of_a_sky_but_makes_no_grain(name):
    style = learned_styles.load_style(name)
    network = learned_styles.load_network(style.network)
    photo = imaging.resize_picture(pixels(ROOT / "images/content/china.jpg"), 384, 256)

    def sky(factor):
        def noise_of(*size):
            return factor * stylization_network.fixed_noise(*size)

        return learned_styles.stylize(network, photo, style, noise_of=noise_of)[10:90, 230:330]

    def grain(x):
        return (x - ndimage.gaussian_filter(x, (1, 1, 0))).std()

    assert (sky(1) - sky(0)).std() > 10
    assert grain(sky(1)) < 1.25 * grain(sky(0))


def test_normalization_gives_each_channel_its_mean_and_deviation():
    features = np.random.default_rng(0).normal(3, 5, (1, 20, 30, 4)).astype("float32")
    scale, shift = np.float32([1, 2, 3, 4]), np.float32([5, 6, 7, 8])
    styled = np.asarray(stylization_network.InstanceNormalization()(features, scale, shift))
    np.testing.assert_allclose(styled.mean((0, 1, 2)), shift, atol=1e-4)
    np.testing.assert_allclose(styled.std((0, 1, 2)), scale, rtol=1e-2)
    flat = np.asarray(stylization_network.InstanceNormalization()(np.full((1, 8, 8, 4), 7, "float32"), scale, shift))
    np.testing.assert_allclose(flat, np.broadcast_to(shift, flat.shape), atol=1e-4)


def test_a_scaled_convolution_equals_a_convolution_with_scaled_output():
    keras.utils.set_random_seed(0)
    features = np.random.default_rng(0).normal(size=(1, 7, 9, 5)).astype("float32")
    layer, scale, shift = stylization_network.ScaledConvolution(6, 3), tf.range(6.0), tf.range(6.0, 12.0)
    layer.build(features.shape)
    layer.bias.assign(np.arange(6))
    expected = (tf.nn.conv2d(features, layer.kernel, 1, "VALID") + layer.bias) * scale + shift
    np.testing.assert_allclose(layer(features, scale, shift), expected, rtol=1e-5, atol=1e-4)


def test_a_convolution_in_blocks_equals_a_convolution():
    keras.utils.set_random_seed(0)
    features = np.random.default_rng(0).normal(size=(2, 10, 16, 5)).astype("float32")
    layer = stylization_network.BlockConvolution(3, 5)
    layer.build(features.shape)
    layer.bias.assign(np.arange(3))
    expected = tf.nn.conv2d(features, layer.kernel, 1, "VALID") + layer.bias
    np.testing.assert_allclose(layer(features), expected, rtol=1e-5, atol=1e-4)


def test_the_gradient_of_a_style_agrees_with_finite_differences(network):
    photo = tf.constant(imaging.resize_picture(pixels(ROOT / "images/content/china.jpg"), 48, 32)[None])
    noise = tf.constant(stylization_network.draw_noise(32, 48, np.random.default_rng(0)))
    weights = np.random.default_rng(0).normal(size=photo.shape).astype("float32")

    def objective(style):
        return tf.reduce_mean(network([photo, noise, style]) * weights)

    style = tf.constant(random_style())
    with tf.GradientTape() as tape:
        tape.watch(style)
        value = objective(style)
    gradient = np.asarray(tape.gradient(value, style))
    assert (gradient != 0).mean() > 0.95  # the gradient of a channel that is negative everywhere is 0
    begin = 0
    for channels in stylization_network.STYLED_CHANNELS:  # along the gradient of one normalisation
        part = np.zeros_like(gradient)
        part[:, begin : begin + 2 * channels] = gradient[:, begin : begin + 2 * channels]
        begin += 2 * channels
        length = np.linalg.norm(part)
        step = 0.02 * part / length
        found = (objective(style + step) - objective(style - step)) / 0.04
        np.testing.assert_allclose(found, length, rtol=0.05)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_gives_nearly_the_same_picture(precision, monkeypatch):
    style = learned_styles.load_style("wave")
    photo = imaging.resize_picture(pixels(ROOT / "images/content/china.jpg"), 96, 64)
    exact = learned_styles.stylize(learned_styles.load_network(style.network), photo, style)
    keras.config.set_dtype_policy(precision)
    network = learned_styles.load_network(style.network)
    whole = learned_styles.stylize(network, photo, style)
    assert np.abs(whole - exact).mean() < 4
    monkeypatch.setattr(stylization_network, "MAX_WHOLE_PIXELS", 0)
    monkeypatch.setattr(stylization_network, "STRIP_PIXELS", 2**10)
    assert np.abs(learned_styles.stylize(network, photo, style) - whole).mean() < 4


def test_features_are_enlarged_by_linear_interpolation():
    features = np.random.default_rng(0).normal(size=(1, 5, 7, 2)).astype("float32")
    enlarged = np.asarray(stylization_network.enlarged(features))
    assert enlarged.shape == (1, 10, 14, 2)
    rows = features[:, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]]  # the nearer ones, and now those farther away
    rows = 0.75 * rows + 0.25 * features[:, [0, 1, 0, 2, 1, 3, 2, 4, 3, 4]]
    columns = [*range(7)]
    near, far = np.repeat(columns, 2), np.ravel([(max(0, i - 1), min(6, i + 1)) for i in columns])
    np.testing.assert_allclose(enlarged, 0.75 * rows[:, :, near] + 0.25 * rows[:, :, far], atol=1e-5)


@pytest.mark.parametrize("period, remains", [(0, 1), (4, 0.75), (2, 0)])
@pytest.mark.parametrize("axis", [1, 2])
def test_smoothing_removes_what_alternates_from_place_to_place(period, remains, axis):
    wave = np.cos(2 * np.pi * np.arange(12) / period) if period else np.ones(12)
    features = np.ones((1, 12, 12, 3), "float32") * np.expand_dims(wave, (0, 3, 3 - axis)).astype("float32")
    smooth = stylization_network.smoothed(tf.constant(features))
    np.testing.assert_allclose(smooth, remains * features[:, 2:-2, 2:-2], atol=1e-6)


@pytest.mark.parametrize("missing", [False, True])
def test_a_network_of_an_earlier_version_is_refused(missing, tmp_path):
    with np.load(ROOT / "trained/styles/network.npz") as file:
        arrays = dict(file)
    weight = arrays.pop("weight_34")
    if not missing:
        arrays["weight_34"] = np.pad(weight, ((0, 0), (0, 0), (0, 2), (0, 0)))
    np.savez(tmp_path / "network.npz", **arrays)
    with pytest.raises(InputError, match="does not fit the stylization network; if an earlier version wrote it"):
        learned_styles.load_network(tmp_path / "network.npz")


def test_features_are_padded_with_their_mirror_image():
    features = np.random.default_rng(0).normal(size=(1, 5, 7, 2)).astype("float32")
    for margin in (1, 3):
        sides = ((0, 0), (margin, margin), (margin, margin), (0, 0))
        np.testing.assert_array_equal(
            stylization_network.mirrored(features, margin), np.pad(features, sides, "reflect")
        )
