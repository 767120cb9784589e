"""deepdream.py and its modules: gradients, tiles, dreams, classes, folders of photos, and bad input."""

import os
import re
import threading
import urllib.request

import keras
import numpy as np
import pytest
from conftest import ROOT, pixels, results, rows_of, run
from PIL import Image
from scipy import ndimage

import config
import deepdream
from atelier import disk, imaging
from atelier.dream import dreaming, pixel_dreams, zoom_films
from atelier.networks import keras_files

CLASSIFIER = ROOT / "trained/digit_classifier"
FILM = ("--octaves", 1, "--steps", 1, "--zoom", 5, "--layers", "block2_conv1")
SMALL = ("--size", 64, "--octaves", 2, "--steps", 2, "--precision", "float32", "--seed", 0)
QUICK = (*SMALL, "--layers", "block2_conv2")  # an early layer, whose gradient is quickly traced


@pytest.fixture(autouse=True)
def load_vgg_once(cache_vgg):
    pass


@pytest.fixture(scope="module")
def default_dream(photo, tmp_path_factory):
    """Return the pixels of a dream on the photo with the flags QUICK alone."""
    result = tmp_path_factory.mktemp("default") / "a.png"
    dream(photo, result)
    return pixels(result)


def dream(photo, result, *flags, status=0):
    """Dream on a small photo in two octaves of two steps; return what the command printed."""
    return run("deepdream.py", photo, *QUICK, "--output", result, *flags, status=status)


def dream_on_default_layers(photo, result, *flags, status=0):
    """Dream as dream() does, but on the network's default layers."""
    return run("deepdream.py", photo, *SMALL, "--output", result, *flags, status=status)


def dreamer_for(**options):
    options = config.Dream(**{"quiet": True, "precision": "float32"} | options)
    return dreaming.open_session(options).dreamer


def small(photo):
    """Return the photo at the size that dreams with the flags QUICK have."""
    return imaging.resize_picture(pixels(photo), 64, 48)


# --- The gradient ---


@pytest.mark.parametrize(
    "options",
    [
        {"layers": ("block3_conv1=1", "block2_conv2=-0.5"), "tv_weight": 1.0},
        {"layers": ("block3_conv1",), "channels": (3, 17)},
        {"layers": ("block3_conv1",), "guide": str(ROOT / "images/style/glands.jpg")},
        {"convnet": str(CLASSIFIER), "class_": 3, "weights": None, "tv_weight": 2.0},
    ],
)
def test_the_gradient_agrees_with_finite_differences(options, photo):
    dreamer = dreamer_for(**options)
    picture = small(photo)
    targets = {**dreamer.objective.targets, "normalizer": dreamer.objective.normalizer(100)}
    _, gradient = dreamer.evaluate(picture[None], targets)
    gradient = np.asarray(gradient)[0]
    rng = np.random.default_rng(0)
    for direction in (gradient, rng.standard_normal(gradient.shape) * np.abs(gradient)):
        step = 0.3 * direction / np.abs(direction).max()
        above, below = (float(dreamer.evaluate((picture + sign * step)[None], targets)[0]["total"]) for sign in (1, -1))
        assert (above - below) / 2 == pytest.approx(float(np.sum(gradient * step)), rel=0.05, abs=1e-4)


def test_narrow_pictures_are_mirrored_up_to_the_minimum_side():
    tiling = pixel_dreams.Tiling(640, margin=16, stride=16, jitter=3, least=96)
    ((seen, kept, inner),) = tiling.tiles(29, np.random.default_rng(0))
    assert len(seen) == 96 and kept == slice(0, 29) and (seen[inner] == np.arange(29)).all()


@pytest.mark.parametrize("side", [5, 63, 100, 257, 1000])
@pytest.mark.parametrize("tile", [160, 192, 640])
def test_tiles_cover_each_pixel_once_and_see_its_surroundings(side, tile):
    rng = np.random.default_rng(0)
    for _ in range(5):
        found = pixel_dreams.Tiling(tile, margin=16, stride=32, jitter=32).tiles(side, rng)
        times = np.zeros(side)
        for seen, kept, inner in found:
            times[kept] += 1
            assert len(seen) == len(found[0][0]) <= tile and len(seen) % 16 == 0
            assert (seen[inner] == np.arange(side)[kept]).all()
            assert seen.min() >= 0 and seen.max() < side and (np.abs(np.diff(seen)) <= 1).all()
        assert (times == 1).all()


@pytest.mark.parametrize(("layer", "correlation"), [("block1_conv2", 0.999), ("block2_conv2", 0.85)])
def test_tiles_have_the_gradient_of_the_whole_picture(layer, correlation, photo):
    """Deeper layers agree less: in each tile, as after each shift, the pooling windows start at other pixels."""
    picture = imaging.resize_picture(pixels(photo), 300, 220)
    gradients = []
    for tile in (160, 640):
        dreamer = dreamer_for(layers=(layer,), tile=tile, jitter=0)
        normalizer = dreamer.objective.normalizer(100)
        gradients.append(dreamer.gradient(picture, np.random.default_rng(0), normalizer)[0])
    # A tile's mean is over fewer places, so its gradient is larger by a constant factor. A single tile has no margin.
    inner = [gradient[16:-16, 16:-16].ravel() for gradient in gradients]
    assert np.corrcoef(*inner)[0, 1] > correlation


def test_the_gradient_is_traced_once_for_all_tiles_and_octaves(photo):
    dreamer = dreamer_for(layers=("block1_conv2",), tile=160, octaves=3, steps=1)
    dreamer.dream(imaging.resize_picture(pixels(photo), 300, 220), np.random.default_rng(0))
    assert dreamer.evaluate.traces == 1


# --- The picture ---


def test_a_dream_makes_its_layers_stronger_and_records_its_command(photo, tmp_path):
    result = dream_on_default_layers(photo, tmp_path / "a.png", "--gif", "--steps", 6)
    assert re.search(r"^device: .*float32; VGG16 with the weights imagenet$", result.stderr, re.MULTILINE)
    printed = results(result.stdout)
    assert printed["layers"] == "block4_conv3 block5_conv1"
    before, after = (map(float, printed[name].split()) for name in ("strength_before", "strength_after"))
    assert all(b > 1.5 * a for a, b in zip(before, after))
    assert printed["octaves"] == "2" and printed["picture"] == str(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (64, 48)
        assert "deepdream.py" in picture.text["command"] and picture.text["weights"] == "imagenet"
    with Image.open(printed["animation"]) as animation:
        assert animation.n_frames >= 8 and animation.size == (64, 48)


def test_a_dream_from_python_equals_that_of_the_command(photo, default_dream, tmp_path):
    options = config.Dream(size=64, octaves=2, steps=2, layers=("block2_conv2",), precision="float32", quiet=True)
    row = dreaming.make_picture(str(photo), str(tmp_path / "a.png"), options)
    assert (pixels(tmp_path / "a.png") == default_dream).all()
    assert (row["width"], row["height"], row["octaves"]) == (64, 48, 2)


def test_a_dream_does_not_add_speckle(photo, tmp_path):
    dream(photo, tmp_path / "a.png", "--size", 128, "--octaves", 3, "--steps", 8)
    change = pixels(tmp_path / "a.png") - imaging.resize_picture(pixels(photo), 128, 96)
    assert np.abs(change).mean() > 5
    assert np.corrcoef(change[:, :-1].ravel(), change[:, 1:].ravel())[0, 1] > 0.6  # it is about 0 for speckle


@pytest.mark.parametrize(
    "flags",
    [
        ("--tv-weight", 200),
        ("--layers", "block2_conv1"),
        ("--layers", "block4_conv1=1", "block2_conv1=-3"),
        ("--layers", "block5_conv1", "--channels", 12, 87),
        ("--guide", ROOT / "images/style/gravel.jpg"),
    ],
)
def test_a_dream_has_a_higher_value_of_its_own_objective_than_the_default_dream(flags, photo, default_dream, tmp_path):
    dream(photo, tmp_path / "a.png", *flags)
    options = deepdream.options_of_words(list(map(str, (photo, *QUICK, *flags, "--quiet"))))
    dreamer = dreaming.open_session(options).dreamer
    objective = dreamer.objective
    _, of_photo = dreamer.gradient(small(photo), np.random.default_rng(0), objective.normalizer(1))

    def value(picture):
        targets = {**objective.targets, "normalizer": objective.normalizer(of_photo)}
        return float(dreamer.evaluate(picture[None], targets)[0]["total"])

    values = [value(picture) for picture in (small(photo), default_dream, pixels(tmp_path / "a.png"))]
    assert values[2] > max(values[:2])


def coarse_share(change):
    """Return the share of a change that is left after a blur of 3 pixels."""
    return ndimage.gaussian_filter(change, (3, 3, 0)).std() / change.std()


def mean_change(change):
    return np.abs(change).mean()


def roughness(picture):
    return np.abs(np.diff(picture, axis=0)).mean() + np.abs(np.diff(picture, axis=1)).mean()


@pytest.mark.parametrize(
    ("flags", "measure", "of_change", "least", "most"),
    [
        (("--octaves", 3), coarse_share, True, 1.1, 2),
        (("--octaves", 1), coarse_share, True, 0.5, 0.9),
        (("--octave-scale", 2), coarse_share, True, 1.2, 2),
        (("--smooth", 2), coarse_share, True, 2, 5),
        (("--steps", 3), mean_change, True, 1.2, 1.5),
        (("--step-size", 3), mean_change, True, 1.6, 2),
        (("--blur", 1), roughness, False, 0.1, 0.5),
        (("--tv-weight", 200), roughness, False, 0.5, 0.95),
    ],
)
def test_options_change_the_picture_as_intended(flags, measure, of_change, least, most, photo, default_dream, tmp_path):
    dream(photo, tmp_path / "a.png", *flags)
    pictures = [pixels(tmp_path / "a.png"), default_dream]
    ours, default = (measure(picture - small(photo) if of_change else picture) for picture in pictures)
    assert least < ours / default < most


def test_only_the_jitter_depends_on_the_seed(photo, default_dream, tmp_path):
    dream(photo, tmp_path / "other.png", "--seed", 1)
    assert np.abs(pixels(tmp_path / "other.png") - default_dream).mean() > 0.05
    for seed in (0, 1):
        dream(photo, tmp_path / f"{seed}.png", "--jitter", 0, "--seed", seed)
    assert (pixels(tmp_path / "0.png") == pixels(tmp_path / "1.png")).all()


def test_the_same_seed_gives_the_same_dream(photo, default_dream, tmp_path):
    dream(photo, tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png") == default_dream).all()


def test_blend_mixes_the_photo_into_the_dream(photo, default_dream, tmp_path):
    dream(photo, tmp_path / "half.png", "--blend", 0.5)
    assert np.abs(pixels(tmp_path / "half.png") - (small(photo) + default_dream) / 2).max() <= 1
    dream(photo, tmp_path / "a.png", "--blend", 1)
    assert (pixels(tmp_path / "a.png") == imaging.to_pixels(small(photo))).all()


def test_the_chosen_channels_grow_more_than_others(photo, tmp_path):
    features = dreamer_for(layers=("block3_conv1",)).objective.features
    before, after = [], []
    for channel in (5, 40):
        flags = ("--layers", "block3_conv1", "--channels", channel, "--steps", 6)
        dream(photo, tmp_path / f"{channel}.png", *flags)
        for where, picture in (
            (before, small(photo)),
            (after, pixels(tmp_path / f"{channel}.png")),
        ):
            where.append(np.square(features(keras.ops.convert_to_tensor(picture[None]))[0]).mean((0, 1, 2))[[5, 40]])
    growth = np.array(after) / np.array(before)
    assert growth[0, 0] > 1.5 * growth[1, 0] and growth[1, 1] > 1.5 * growth[0, 1]


def test_dreams_on_noise_are_nearly_equal_in_mixed_precision(tmp_path):
    for precision in ("float32", "mixed_bfloat16"):
        dream("noise", tmp_path / f"{precision}.png", "--canvas", "pixels", "--precision", precision)
    a, b = (pixels(tmp_path / f"{precision}.png") for precision in ("float32", "mixed_bfloat16"))
    assert a.shape == (64, 64, 3) and 0 < np.abs(a - b).mean() < 6


# --- Networks ---


def test_layers_are_listed():
    printed = results(run("deepdream.py", "--list-layers").stdout)
    assert printed["block1_conv1"] == "64" and printed["block5_pool"] == "512" and len(printed) == 18
    printed = results(run("deepdream.py", "--list-layers", "--convnet", "mobilenet_v2").stdout)
    assert printed["block_1_expand"] == "96" and "global_average_pooling2d" not in printed


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    """Save random weights of MobileNetV2 with and without its top. Trained weights would need a download."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("mobilenet")
    for top in (False, True):
        model = keras.applications.MobileNetV2(include_top=top, weights=None)
        model.save_weights(folder / f"{top}.weights.h5")
    return folder


def test_another_network_takes_its_weights_from_a_file(mobilenet, photo, tmp_path):
    flags = ("--convnet", "MobileNetV2", "--weights", mobilenet / "False.weights.h5")
    printed = results(dream_on_default_layers(photo, tmp_path / "a.png", *flags).stdout)
    assert float(printed["strength_after"]) > float(printed["strength_before"])
    assert (
        "did you mean block_12_add"
        in dream(photo, tmp_path / "b.png", *flags, "--layers", "block_12_ad", status=2).stderr
    )


def test_a_class_of_imagenet_is_given_by_its_name(mobilenet, photo, tmp_path):
    flags = ("--convnet", "mobilenet_v2", "--weights", mobilenet / "True.weights.h5", "--octaves", 1, "--size", 224)
    steady = ("--canvas", "pixels", "--tv-weight", 0, "--jitter", 0, "--blur", 0, "--step-size", 1, "--steps", 4)
    printed = results(dream_on_default_layers(photo, tmp_path / "a.png", *flags, *steady, "--class", "Banana").stdout)
    assert float(printed["strength_after"]) > float(printed["strength_before"])
    error = dream_on_default_layers(
        photo,
        tmp_path / "b.png",
        *flags[:2],
        "--weights",
        mobilenet / "False.weights.h5",
        "--canvas",
        "pixels",
        "--class",
        "banana",
        status=2,
    )
    assert "classes" in error.stderr


@pytest.mark.slow
def test_dreams_of_digits_are_recognised_by_another_classifier(digits, tmp_path):
    """The other one is a support vector machine. It is trained on the same 8 x 8 digits with normalized contrast."""
    from sklearn.svm import SVC

    def normalized(images):
        flat = np.asarray(images, "float32").reshape(len(images), -1)
        return (flat - flat.mean(1, keepdims=True)) / flat.std(1, keepdims=True)

    svm = SVC(C=5).fit(normalized(digits[0]), digits[1])
    assert svm.score(normalized(digits[2]), digits[3]) > 0.94
    recognised = 0
    for digit in range(0, 10, 2):
        result = tmp_path / f"{digit}.png"
        run("deepdream.py", "noise", "--convnet", CLASSIFIER, "--class", digit, "--size", 32, "--output", result)
        small_dream = imaging.resize_picture(pixels(result), 8, 8).mean(2)
        recognised += int(svm.predict(normalized([small_dream]))[0]) == digit
    assert recognised >= 4


def test_the_shipped_classifier_has_its_published_accuracy(digits):
    classifier = keras_files.load_keras_model(sorted(CLASSIFIER.glob("*.keras"))[-1])
    images = np.stack([imaging.resize_picture(image[..., None], 32, 32) for image in digits[2]])
    accuracy = np.mean(np.argmax(classifier.predict(images, verbose=0), 1) == digits[3])
    assert accuracy == pytest.approx(disk.read_json(CLASSIFIER / "meta.json")["test_accuracy"], abs=0.003)


def test_a_download_of_weights_without_an_answer_is_abandoned(monkeypatch, photo, tmp_path):
    answered, test_is_over = [], threading.Event()

    def answer_too_late(*_, **__):
        answered.append(test_is_over.wait(60))
        raise OSError

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", answer_too_late)
    flags = ("--convnet", "inception_v3")
    error = run("deepdream.py", photo, *flags, "--output", tmp_path / "a.png", status=2).stderr
    assert "InceptionV3's ImageNet weights" in error and "give --weights FILE" in error
    assert not answered
    test_is_over.set()


# --- A folder ---


def test_a_folder_is_dreamed_on_and_a_broken_photo_is_named(photo, tmp_path):
    folder = tmp_path / "holiday"
    folder.mkdir()
    Image.open(photo).save(folder / "a.jpg")
    Image.open(photo).rotate(90, expand=True).save(folder / "b.jpg")
    (folder / "broken.jpg").write_bytes(b"no picture")
    out = run("deepdream.py", folder, *QUICK, "--output", tmp_path / "out", status=1)
    assert "broken.jpg" in out.stderr
    statuses = {name: row["status"] for name, row in rows_of(tmp_path / "out").items()}
    assert statuses == {"a.jpg": "done", "b.jpg": "done", "broken.jpg": "failed"}
    assert Image.open(tmp_path / "out/b.png").size == (48, 64)
    before = os.stat(tmp_path / "out/a.png").st_mtime_ns
    run("deepdream.py", folder, *QUICK, "--output", tmp_path / "out", status=1)
    assert os.stat(tmp_path / "out/a.png").st_mtime_ns == before


def test_films_of_a_folder_continue_after_ctrl_c(photo, tmp_path, monkeypatch):
    folder = tmp_path / "holiday"
    folder.mkdir()
    for name in "ab":
        Image.open(photo).save(folder / f"{name}.jpg")
    flags = (folder, *QUICK, *FILM, "--format", "gif", "--output", tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(zoom_films, "move_frame", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert "goes on" in run("deepdream.py", *flags, status=130).stderr
    assert not (tmp_path / "out/b.gif_frames").exists()
    run("deepdream.py", *flags)
    assert (tmp_path / "out/b.gif").exists()
    with Image.open(tmp_path / "out/a.gif") as film:
        assert film.n_frames == 5


@pytest.fixture
def album(photo, tmp_path):
    """A folder of two photos."""
    (tmp_path / "album").mkdir()
    for name in "ab":
        Image.open(photo).save(tmp_path / f"album/{name}.jpg")
    return tmp_path / "album"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--steps", 3), "--steps 2, now 3"),
        (("--layers", "block4_conv1"), "--layers block2_conv2, now block4_conv1"),
        (("--guide", ROOT / "images/style/gravel.jpg"), "--guide not given, now gravel.jpg"),
        (("--convnet", CLASSIFIER), "--convnet vgg16, now epoch_32.keras"),
        (("--zoom", 3), "--zoom not given, now 3"),
    ],
)
def test_a_folder_made_with_other_options_is_refused(flags, message, album, tmp_path):
    dream(album, tmp_path / "out")
    error = dream(album, tmp_path / "out", *flags, status=2).stderr
    assert message in error and "device" not in error and "--overwrite" in error
    assert "done before: 2\n" in dream(album, tmp_path / "out").stdout


def test_a_guide_is_compared_by_its_content(album, tmp_path):
    guide = tmp_path / "guide.jpg"
    guide.write_bytes((ROOT / "images/style/gravel.jpg").read_bytes())
    dream(album, tmp_path / "out", "--guide", guide)
    guide.rename(tmp_path / "same.jpg")
    assert "done before: 2" in dream(album, tmp_path / "out", "--guide", tmp_path / "same.jpg").stdout
    guide.write_bytes((ROOT / "images/style/glands.jpg").read_bytes())
    guide.rename(tmp_path / "same.jpg")
    error = dream(album, tmp_path / "out", "--guide", tmp_path / "same.jpg", status=2).stderr
    assert "--guide same.jpg has changed" in error


def test_frames_of_a_replaced_film_are_not_used_for_the_new_one(album, tmp_path, monkeypatch):
    """Interrupt the second film, then the first film with other options. Continue with these other options."""
    flags, out = ("--format", "gif", *FILM), tmp_path / "out"
    original, calls = zoom_films.move_frame, []

    def interrupted(frame, options):
        calls.append(1)
        if len(calls) > allowed_calls:
            raise KeyboardInterrupt
        return original(frame, options)

    with monkeypatch.context() as patched:
        patched.setattr(zoom_films, "move_frame", interrupted)
        allowed_calls = 6
        assert "goes on" in dream(album, out, *flags, status=130).stderr
        assert (out / "a.gif").exists() and len(list((out / "b.gif_frames").glob("0*.png"))) == 3
        allowed_calls = len(calls) + 2
        error = dream(album, out, *flags, "--rotate", 9, "--overwrite", status=130).stderr
        assert "without --overwrite" in error
    assert "--rotate 9.0, now 0.0" in dream(album, out, *flags, status=2).stderr
    printed = dream(album, out, *flags, "--rotate", 9).stdout
    assert printed.count("film: ") == 2 and not (out / "b.gif_frames").exists()
    alone = tmp_path / "alone.gif"
    dream(album / "b.jpg", alone, *FILM, "--rotate", 9)
    assert (out / "b.gif").read_bytes() == (out / "a.gif").read_bytes() == alone.read_bytes()


def test_the_time_left_is_printed_for_a_picture_and_for_a_film(album, tmp_path):
    for name, flags, kind in (("a.png", ("--steps", 4), "picture"), ("a.gif", FILM, "film")):
        lines = [
            line for line in dream(album / "a.jpg", tmp_path / name, *flags).stderr.splitlines() if "time left" in line
        ]
        assert len(lines) == 1 and lines[0].startswith("time left: about ") and f"for this {kind}" in lines[0]
        assert dream(album / "a.jpg", tmp_path / f"quiet_{name}", *flags, "--quiet").stderr == ""


# --- Bad input ---


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--class", "bananna"), "did you mean banana"),
        (("--class", "zzzzzz"), "no class is called zzzzzz"),
        (("--class", "1000"), "there is no class 1000; the classes are 0 to 999"),
        (("--class", "banana", "--layers", "block1_conv1"), "--class cannot be combined with --layers"),
        (("--layers", "block4_conv9"), "did you mean block4_conv"),
        (("--layers", "block4_conv1=much"), "--layers takes LAYER=WEIGHT"),
        (("--layers", "block4_conv1=0"), "block4_conv1=0: a weight must be"),
        (("--layers", "block4_conv1=nan"), "block4_conv1=nan: a weight must be"),
        (("--layers", "block1_conv1", "--channels", 64), "block1_conv1 has the channels 0 to 63, and no 64"),
        (("--layers", "block1_conv1", "block2_conv1", "--channels", 1), "--channels are of one layer"),
        (("--guide", "nothing.jpg"), "--guide needs a picture, and nothing.jpg is not a file"),
        (("--convnet", "vgg17"), "did you mean vgg1"),
        (("--convnet", "nothing.keras"), "nothing.keras does not exist"),
        (("--convnet", "tests"), ".keras or .h5 file"),
        (("--convnet", CLASSIFIER, "--size", 32, "--weights", "imagenet"), "weights of its own"),
        (("--octaves", 0), "--octaves must be at least 1"),
        (("--octave-scale", 1), "--octave-scale must be from 1.05 to 4"),
        (("--steps", 0), "--steps must be at least 1"),
        (("--step-size", "nan"), "--step-size must be"),
        (("--blend", 1.5), "--blend must be from 0 to 1"),
        (("--tile", 10), "--tile must be from 160 to 10000"),
        (("--size", 8), "--size must be from 32 to 10000"),
        (("--fps", 10), "--fps is for films, and no film is given"),
        (("--rotate", 1), "--rotate is for films, which --zoom makes"),
        (("--zoom", 5, "--fps", 0, "--output", "a.mp4"), "--fps must be from 1 to 120"),
        (("--zoom", 5, "--fps", 60, "--output", "a.gif"), "--fps must be at most 50 in a GIF"),
        (("--zoom", 0), "--zoom must be at least 1"),
        (("--zoom", 5, "--zoom-factor", 0.1, "--output", "a.mp4"), "--zoom-factor must be from 0.5 to 2"),
        (("--zoom", 5, "--output", "a.png"), "a.png should end in .mp4"),
        (("--zoom", 5, "--gif", "--output", "a.mp4"), "--gif cannot be combined with --zoom"),
        (("--zoom", 5, "--format", "png", "--output", "a.mp4"), "--format png is for pictures"),
        (("--shift", 1, "--zoom", 5, "--output", "a.mp4"), "--shift takes two numbers"),
        (("--format", "mp4"), "--format mp4 is for films, which --zoom makes"),
        (("--output", "a.tiff"), "a.tiff should end in .png"),
        (("--weights", "nothing.h5"), "nothing.h5 does not exist; --weights takes imagenet or a file"),
    ],
)
def test_wrong_options_are_refused_with_one_line(flags, message, photo, tmp_path):
    output = () if "--output" in flags else ("--output", tmp_path / "a.png")
    assert message in run("deepdream.py", photo, *output, *flags, status=2).stderr


def test_a_class_that_does_not_exist_is_refused(tmp_path):
    flags = ("--convnet", CLASSIFIER, "--size", 32, "--output", tmp_path / "a.png")
    assert "the classes are 0 to 9" in run("deepdream.py", "noise", *flags, "--class", 10, status=2).stderr
    alone = tmp_path / "alone.keras"
    alone.write_bytes((CLASSIFIER / "epoch_32.keras").read_bytes())
    flags = ("--convnet", alone, "--size", 32, "--output", tmp_path / "a.png")
    assert "has 10" in run("deepdream.py", "noise", *flags, "--class", 10, status=2).stderr
    assert "number" in run("deepdream.py", "noise", *flags, "--class", "three", status=2).stderr


def test_a_layer_without_rows_and_columns_is_refused(tmp_path, photo):
    flags = ("--convnet", CLASSIFIER, "--layers", "digits", "--output", tmp_path / "a.png")
    assert "has no rows and columns" in run("deepdream.py", photo, *flags, status=2).stderr


def test_files_that_are_not_photos_are_refused(tmp_path, photo):
    assert "give a photo" in run("deepdream.py", status=2).stderr
    assert "nothing.jpg" in dream("nothing.jpg", tmp_path / "a.png", status=2).stderr
    for name, content in (("empty.jpg", b""), ("text.png", b"no picture"), ("half.jpg", photo.read_bytes()[:900])):
        (tmp_path / name).write_bytes(content)
        assert name in dream(tmp_path / name, tmp_path / "a.png", status=2).stderr
    Image.new("RGB", (500, 20)).save(tmp_path / "narrow.png")
    assert "500 x 20" in dream(tmp_path / "narrow.png", tmp_path / "a.png", status=2).stderr
    assert not (tmp_path / "a.png").exists()


def test_a_black_photo_stays_black(tmp_path):
    Image.new("RGB", (64, 64), "black").save(tmp_path / "black.png")
    flags = ("--layers", "block5_conv3", "--channels", 87)
    assert "nothing in" in dream(tmp_path / "black.png", tmp_path / "a.png", *flags).stderr
    assert (pixels(tmp_path / "a.png") == 0).all()


def test_files_are_only_overwritten_with_the_flag(photo, tmp_path):
    dream(photo, tmp_path / "a.png")
    assert "--overwrite" in dream(photo, tmp_path / "a.png", status=2).stderr
    flags = ("--guide", photo, "--overwrite")
    dream(photo, tmp_path / "a.png", *flags)
    copy = tmp_path / "copy.png"
    Image.open(photo).save(copy)
    assert "--output" in dream(copy, copy, "--overwrite", status=2).stderr
