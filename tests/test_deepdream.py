"""deepdream.py: the dream, classes, films, a folder of photos, and bad input."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
import urllib.request

import imageio_ffmpeg
import keras
import numpy as np
import pytest
from conftest import ROOT, pixels, results, rows_of, run, run_process, wait_for
from PIL import Image

import config
import deepdream
from atelier import colors, disk, errors, films, imaging
from atelier.dream import pixel_dreams
from atelier.pixel_rnn import model_files

CLASSIFIER = ROOT / "trained/digit_classifier"
QUICK = ("--size", 64, "--octaves", 2, "--steps", 2, "--precision", "float32", "--seed", 0)


@pytest.fixture(autouse=True)
def quick(vgg_once):
    deepdream.open_studio.cache_clear()


@pytest.fixture(scope="module")
def usual(photo, tmp_path_factory):
    """The pixels of the photo dreamed on without further flags."""
    result = tmp_path_factory.mktemp("usual") / "a.png"
    dream(photo, result)
    return pixels(result)


def dream(photo, result, *flags, status=0):
    """Dream on a small photo in four steps; return what it printed."""
    return run("deepdream.py", photo, *QUICK, "--output", result, *flags, status=status)


def studio_of(**options):
    options = config.Dream(**{"quiet": True, "precision": "float32"} | options)
    return pixel_dreams.Studio(options), options


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
def test_the_gradient_is_that_of_finite_differences(options, photo):
    studio, _ = studio_of(**options)
    picture = imaging.resize_picture(pixels(photo), 64, 48)
    targets = {**studio.targets, "usual": studio.usual(100)}
    _, gradient = studio.evaluate(picture[None], targets)
    gradient = np.asarray(gradient)[0]
    rng = np.random.default_rng(0)
    for way in (gradient, rng.standard_normal(gradient.shape) * np.abs(gradient)):
        step = 0.3 * way / np.abs(way).max()
        above, below = (float(studio.evaluate((picture + sign * step)[None], targets)[0]["total"]) for sign in (1, -1))
        assert (above - below) / 2 == pytest.approx(float(np.sum(gradient * step)), rel=0.05, abs=1e-4)


def test_narrow_pictures_are_mirrored_until_a_network_has_places_in_them():
    ((seen, kept, inner),) = pixel_dreams.spans(29, 640, 16, 16, 3, np.random.default_rng(0), least=96)
    assert len(seen) == 96 and kept == slice(0, 29) and (seen[inner] == np.arange(29)).all()


@pytest.mark.parametrize("side", [5, 63, 100, 257, 1000])
@pytest.mark.parametrize("tile", [160, 192, 640])
def test_tiles_cover_each_pixel_once_and_see_what_is_around(side, tile):
    rng = np.random.default_rng(0)
    for _ in range(5):
        found = pixel_dreams.spans(side, tile, 16, 32, min(32, side // 8), rng)
        times = np.zeros(side)
        for seen, kept, inner in found:
            times[kept] += 1
            assert len(seen) == len(found[0][0]) <= tile and len(seen) % 16 == 0
            assert (seen[inner] == np.arange(side)[kept]).all()
            assert seen.min() >= 0 and seen.max() < side and (np.abs(np.diff(seen)) <= 1).all()
        assert (times == 1).all()


@pytest.mark.parametrize(("layer", "likeness"), [("block1_conv2", 0.999), ("block2_conv2", 0.85)])
def test_tiles_come_to_the_gradient_of_the_whole(layer, likeness, photo):
    """Of deeper layers they do so nearly: pooling begins elsewhere in each tile, as it does at each shift."""
    picture = imaging.resize_picture(pixels(photo), 300, 220)
    gradients = []
    for tile in (160, 640):
        studio, options = studio_of(layers=(layer,), tile=tile, jitter=0)
        dreamer = pixel_dreams.Dreamer(studio, options)
        dreamer.usual = studio.usual(100)
        gradients.append(dreamer.gradient(picture, np.random.default_rng(0))[0])
    # A tile's mean is over fewer places, so its gradient is larger by one factor; and one tile alone sees no margin.
    inner = [gradient[16:-16, 16:-16].ravel() for gradient in gradients]
    assert np.corrcoef(*inner)[0, 1] > likeness


def test_all_tiles_and_octaves_are_one_trace(photo):
    studio, options = studio_of(layers=("block1_conv2",), tile=160, octaves=3, steps=1)
    picture = imaging.resize_picture(pixels(photo), 300, 220)
    pixel_dreams.Dreamer(studio, options).dream(picture, np.random.default_rng(0))
    assert studio.evaluate.traces == 1


# --- The picture ---


def test_a_dream_has_more_of_what_the_layers_see_and_tells_how(photo, tmp_path):
    result = dream(photo, tmp_path / "a.png", "--gif", "--steps", 6)
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


def test_the_dream_is_no_speckle(photo, tmp_path):
    dream(photo, tmp_path / "a.png", "--size", 128, "--octaves", 3, "--steps", 8)
    change = pixels(tmp_path / "a.png") - imaging.resize_picture(pixels(photo), 128, 96)
    assert np.abs(change).mean() > 5
    assert np.corrcoef(change[:, :-1].ravel(), change[:, 1:].ravel())[0, 1] > 0.6  # speckle has about 0


@pytest.mark.parametrize(
    "flags",
    [
        ("--octaves", 1),
        ("--octave-scale", 1.2),
        ("--steps", 3),
        ("--step-size", 3),
        ("--jitter", 0),
        ("--smooth", 2),
        ("--blur", 1),
        ("--tv-weight", 200),
        ("--blend", 0.5),
        ("--layers", "block2_conv1"),
        ("--layers", "block4_conv1=1", "block2_conv1=-3"),
        ("--layers", "block5_conv1", "--channels", 12, 87),
        ("--guide", ROOT / "images/style/gravel.jpg"),
        ("--seed", 1),
    ],
)
def test_each_option_changes_the_picture(flags, photo, usual, tmp_path):
    dream(photo, tmp_path / "a.png", *flags)
    assert pixels(tmp_path / "a.png").shape == usual.shape
    assert np.abs(pixels(tmp_path / "a.png") - usual).mean() > 0.05


def test_the_same_seed_dreams_the_same(photo, usual, tmp_path):
    dream(photo, tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png") == usual).all()


def test_blend_goes_back_to_the_photo(photo, tmp_path):
    dream(photo, tmp_path / "a.png", "--blend", 1)
    assert (pixels(tmp_path / "a.png") == imaging.to_pixels(imaging.resize_picture(pixels(photo), 64, 48))).all()


def test_channels_grow_more_than_the_others(photo, tmp_path):
    studio, _ = studio_of(layers=("block3_conv1",))
    features = studio.extractor(["block3_conv1"])
    before, after = [], []
    for channel in (5, 40):
        flags = ("--layers", "block3_conv1", "--channels", channel, "--steps", 6)
        dream(photo, tmp_path / f"{channel}.png", *flags)
        for where, picture in (
            (before, imaging.resize_picture(pixels(photo), 64, 48)),
            (after, pixels(tmp_path / f"{channel}.png")),
        ):
            where.append(np.square(features(keras.ops.convert_to_tensor(picture[None]))[0]).mean((0, 1, 2))[[5, 40]])
    growth = np.array(after) / np.array(before)
    assert growth[0, 0] > 1.5 * growth[1, 0] and growth[1, 1] > 1.5 * growth[0, 1]


def test_noise_is_dreamed_on_in_mixed_precision_too(tmp_path):
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
    """MobileNetV2 with weights of chance, without its top and with it: there are no trained ones without a download."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("mobilenet")
    for top in (False, True):
        model = keras.applications.MobileNetV2(include_top=top, weights=None)
        model.save_weights(folder / f"{top}.weights.h5")
    return folder


def test_another_network_dreams_with_weights_from_a_file(mobilenet, photo, tmp_path):
    flags = ("--convnet", "MobileNetV2", "--weights", mobilenet / "False.weights.h5")
    printed = results(dream(photo, tmp_path / "a.png", *flags).stdout)
    assert float(printed["strength_after"]) > float(printed["strength_before"])
    assert (
        "did you mean block_12_add"
        in dream(photo, tmp_path / "b.png", *flags, "--layers", "block_12_ad", status=2).stderr
    )


def test_a_class_of_imagenets_is_dreamed_of_by_its_name(mobilenet, photo, tmp_path):
    flags = ("--convnet", "mobilenet_v2", "--weights", mobilenet / "True.weights.h5", "--octaves", 1, "--size", 224)
    steady = ("--canvas", "pixels", "--tv-weight", 0, "--jitter", 0, "--blur", 0, "--step-size", 1, "--steps", 4)
    printed = results(dream(photo, tmp_path / "a.png", *flags, *steady, "--class", "Banana").stdout)
    assert float(printed["strength_after"]) > float(printed["strength_before"])
    error = dream(
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
def test_dreams_of_digits_are_read_by_another_classifier(digits, tmp_path):
    """The other one is a support vector machine, trained on the same digits in 8 x 8 pixels, of even contrast."""
    from sklearn.svm import SVC

    def evened(images):
        flat = np.asarray(images, "float32").reshape(len(images), -1)
        return (flat - flat.mean(1, keepdims=True)) / flat.std(1, keepdims=True)

    judge = SVC(C=5).fit(evened(digits[0]), digits[1])
    assert judge.score(evened(digits[2]), digits[3]) > 0.94
    right = 0
    for digit in range(0, 10, 2):
        result = tmp_path / f"{digit}.png"
        run("deepdream.py", "noise", "--convnet", CLASSIFIER, "--class", digit, "--size", 32, "--output", result)
        seen = colors.luminance(imaging.resize_picture(pixels(result), 8, 8))[..., 0]
        right += int(judge.predict(evened([seen]))[0]) == digit
    assert right >= 4


def test_the_classifier_that_ships_is_as_good_as_it_says(digits):
    classifier = model_files.load_keras_model(sorted(CLASSIFIER.glob("*.keras"))[-1])
    images = np.stack([imaging.resize_picture(image[..., None], 32, 32) for image in digits[2]])
    accuracy = np.mean(np.argmax(classifier.predict(images, verbose=0), 1) == digits[3])
    assert accuracy == pytest.approx(disk.read_json(CLASSIFIER / "meta.json")["test_accuracy"], abs=0.003)


def test_weights_that_are_out_of_reach_are_said_so_in_five_seconds(monkeypatch, photo, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: time.sleep(60))
    started = time.perf_counter()
    flags = ("--convnet", "inception_v3")
    error = run("deepdream.py", photo, *flags, "--output", tmp_path / "a.png", status=2).stderr
    assert "InceptionV3" in error and "--weights" in error
    assert time.perf_counter() - started < 6


# --- Films ---

FILM = ("--octaves", 1, "--steps", 1, "--zoom", 5, "--layers", "block2_conv1")


def test_a_film_shows_the_photo_and_then_goes_on(photo, tmp_path):
    printed = results(dream(photo, tmp_path / "a.gif", *FILM, "--rotate", 2).stdout)
    assert printed["film"] == str(tmp_path / "a.gif") and printed["frames"] == "5"
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 5 and film.size == (64, 48)
        first = np.asarray(film.convert("RGB"), "float32")
        film.seek(4)
        last = np.asarray(film.convert("RGB"), "float32")
    of_photo = imaging.resize_picture(pixels(photo), 64, 48)
    assert np.abs(first - of_photo).mean() < 12 < np.abs(last - of_photo).mean()
    assert not (tmp_path / "a.gif_frames").exists()


def test_a_film_of_a_class(tmp_path):
    flags = ("--convnet", CLASSIFIER, "--class", 3, "--size", 32, "--steps", 1, "--zoom", 2)
    printed = results(run("deepdream.py", "noise", *flags, "--output", tmp_path / "a.gif").stdout)
    assert printed["frames"] == "2"


def test_a_folder_of_the_users_is_no_place_for_frames(photo, tmp_path):
    (tmp_path / "a.gif_frames").mkdir()
    (tmp_path / "a.gif_frames/00001.png").write_bytes(b"mine")
    error = dream(photo, tmp_path / "a.gif", *FILM, "--overwrite", status=2).stderr
    assert "not empty" in error and (tmp_path / "a.gif_frames/00001.png").read_bytes() == b"mine"


def test_what_was_being_written_when_it_was_killed_is_removed(photo, tmp_path):
    frames = tmp_path / "a.gif_frames"
    frames.mkdir()
    (frames / ".recipe-x.json").write_text("{")
    dream(photo, tmp_path / "a.gif", *FILM)
    assert not frames.exists()


def test_a_truncated_mp4_is_noticed(photo, tmp_path, monkeypatch):
    monkeypatch.setattr(films.imageio_ffmpeg, "count_frames_and_secs", lambda path: (4, 1.0))
    assert "whole" in dream(photo, tmp_path / "a.mp4", *FILM, status=2).stderr
    assert not (tmp_path / "a.mp4").exists() and len(list((tmp_path / "a.mp4_frames").glob("0*.png"))) == 5


@pytest.mark.parametrize("suffix", [".mp4", ".webp"])
def test_films_of_other_kinds_can_be_read(suffix, photo, tmp_path):
    dream(photo, tmp_path / f"a{suffix}", *FILM, "--size", 65)
    if suffix == ".mp4":
        about, *frames = imageio_ffmpeg.read_frames(tmp_path / "a.mp4")
        assert len(frames) == 5 and about["size"] == (64, 48)
        first = np.frombuffer(frames[0], "uint8").reshape(48, 64, 3)
        assert np.abs(first - imaging.resize_picture(pixels(photo), 65, 49)[:48, :64]).mean() < 12
    else:
        with Image.open(tmp_path / "a.webp") as film:
            assert film.n_frames == 5 and film.size == (65, 49)


@pytest.mark.slow
def test_two_commands_that_make_one_film_take_turns(photo, tmp_path):
    flags = (photo, *QUICK, "--octaves", 1, "--steps", 1, "--zoom", 12, "--output", tmp_path / "a.gif")
    command = [sys.executable, ROOT / "deepdream.py", *map(str, flags)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_for(lambda: (tmp_path / "a.gif_frames/00001.png").exists())
    said = run("deepdream.py", *flags, status=2).stderr
    assert "another process is at work on" in said and "a.gif exists already" in said
    assert process.wait() == 0 and [path.name for path in tmp_path.iterdir()] == ["a.gif"]


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_a_film_whose_frames_are_alike_is_whole(suffix, tmp_path):
    for number in range(6):
        Image.new("RGB", (40, 30), (90, 120, 40)).save(tmp_path / f"{number}.png")
    films.save_film(tmp_path / f"a{suffix}", sorted(tmp_path.glob("*.png")), 24)
    with Image.open(tmp_path / f"a{suffix}") as film:
        assert film.size == (40, 30)


def test_moving_leaves_no_black_corners(photo):
    white = np.full((48, 64, 3), 250, "float32")
    for options in (config.Dream(rotate=30), config.Dream(zoom_factor=0.6), config.Dream(shift=(20, -10))):
        np.testing.assert_allclose(deepdream.move(white, options), 250, atol=0.01)
    picture = imaging.resize_picture(pixels(photo), 64, 48)
    np.testing.assert_allclose(
        deepdream.move(picture, config.Dream(zoom_factor=1, shift=(3, 2)))[2:, 3:], picture[:-2, :-3], atol=0.01
    )
    larger = deepdream.move(picture, config.Dream(zoom_factor=2))
    assert np.corrcoef(larger[8:40:2, 8:56:2].ravel(), picture[16:32, 20:44].ravel())[0, 1] > 0.9


@pytest.mark.slow
def test_a_film_that_was_killed_goes_on_and_is_the_same(photo, tmp_path):
    flags = (photo, *QUICK, "--octaves", 1, "--steps", 1, "--zoom", 12)
    command = [sys.executable, ROOT / "deepdream.py", *map(str, flags), "--output", tmp_path / "killed.gif"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    frames = tmp_path / "killed.gif_frames"
    while process.poll() is None and len(list(frames.glob("0*.png"))) < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed.gif").exists()
    for path in frames.glob("0*.png"):
        Image.open(path).load()
    error = run("deepdream.py", *flags, "--output", tmp_path / "killed.gif", "--rotate", 1, status=2).stderr
    assert "another film" in error
    printed = results(run("deepdream.py", *flags, "--output", tmp_path / "killed.gif").stdout)
    assert 3 <= int(printed["frames_done_before"]) < 12 and printed["frames"] == "12"
    run("deepdream.py", *flags, "--output", tmp_path / "whole.gif")
    assert (tmp_path / "killed.gif").read_bytes() == (tmp_path / "whole.gif").read_bytes()


@pytest.mark.parametrize("weights", [None, "imagenet", "hed"])
def test_frames_of_a_former_version_serve_where_its_weights_were_imagenets(weights, tmp_path):
    manifest = {"script": "deepdream.py", "size": 64, "weights": None}
    disk.write_json(tmp_path / "recipe.json", manifest | {"weights": weights})
    (tmp_path / "00001.png").touch()
    if weights == "hed":
        with pytest.raises(errors.InputError, match="with the weights hed, which are no longer supported.*--overwrite"):
            films.frames_done(tmp_path, manifest, 5, replace=False)
    else:
        assert films.frames_done(tmp_path, manifest, 5, replace=False) == 1


@pytest.mark.slow
def test_a_full_disk_leaves_the_frames_so_far(photo, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    flags = (photo, *QUICK, "--octaves", 1, "--steps", 1, "--zoom", 12, "--output", tmp_path / "a.gif", "--quiet")
    result = run_process("deepdream.py", *flags, status=2, preexec_fn=limit)
    assert "a.gif_frames" in result.stderr and not (tmp_path / "a.gif").exists()
    frames = sorted((tmp_path / "a.gif_frames").glob("*.png"))
    assert frames
    assert "(--rotate 0.0, now 1.0)" in run("deepdream.py", *flags, "--rotate", 1, status=2).stderr
    for path in frames:
        Image.open(path).load()


# --- A folder ---


def test_a_folder_of_photos_is_dreamed_on_and_a_broken_one_named(photo, tmp_path):
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


def test_a_folder_becomes_films_and_ctrl_c_ends_it(photo, tmp_path, monkeypatch):
    folder = tmp_path / "holiday"
    folder.mkdir()
    for name in "ab":
        Image.open(photo).save(folder / f"{name}.jpg")
    flags = (folder, *QUICK, *FILM, "--format", "gif", "--output", tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(deepdream, "move", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert "goes on" in run("deepdream.py", *flags, status=130).stderr
    assert not (tmp_path / "out/b.gif_frames").exists()
    run("deepdream.py", *flags)
    assert (tmp_path / "out/b.gif").exists()
    with Image.open(tmp_path / "out/a.gif") as film:
        assert film.n_frames == 5


@pytest.fixture
def album(photo, tmp_path):
    """Two photos that can be dreamed on."""
    (tmp_path / "album").mkdir()
    for name in "ab":
        Image.open(photo).save(tmp_path / f"album/{name}.jpg")
    return tmp_path / "album"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--steps", 3), "--steps 2, now 3"),
        (("--layers", "block4_conv1"), "--layers not given, now block4_conv1"),
        (("--guide", ROOT / "images/style/gravel.jpg"), "--guide not given, now gravel.jpg"),
        (("--convnet", CLASSIFIER), "--convnet vgg16, now epoch_32.keras"),
        (("--zoom", 3), "--zoom not given, now 3"),
    ],
)
def test_a_folder_that_was_dreamed_otherwise_is_refused(flags, said, album, tmp_path):
    dream(album, tmp_path / "out")
    refused = dream(album, tmp_path / "out", *flags, status=2).stderr
    assert said in refused and "device" not in refused and "--overwrite" in refused
    assert "done before: 2\n" in dream(album, tmp_path / "out").stdout


def test_a_guide_counts_by_what_is_in_it(album, tmp_path):
    guide = tmp_path / "guide.jpg"
    guide.write_bytes((ROOT / "images/style/gravel.jpg").read_bytes())
    dream(album, tmp_path / "out", "--guide", guide)
    guide.rename(tmp_path / "same.jpg")
    assert "done before: 2" in dream(album, tmp_path / "out", "--guide", tmp_path / "same.jpg").stdout
    guide.write_bytes((ROOT / "images/style/glands.jpg").read_bytes())
    guide.rename(tmp_path / "same.jpg")
    error = dream(album, tmp_path / "out", "--guide", tmp_path / "same.jpg", status=2).stderr
    assert "--guide same.jpg has changed" in error


def test_frames_of_a_film_that_is_replaced_are_no_part_of_the_new_one(album, tmp_path, monkeypatch):
    """A folder is interrupted in its second film, then in the first of another manifest, and goes on by that one."""
    flags, out = ("--format", "gif", *FILM), tmp_path / "out"
    original, calls = deepdream.move, []

    def interrupted(frame, options):
        calls.append(1)
        if len(calls) > most:
            raise KeyboardInterrupt
        return original(frame, options)

    with monkeypatch.context() as patched:
        patched.setattr(deepdream, "move", interrupted)
        most = 6
        assert "goes on" in dream(album, out, *flags, status=130).stderr
        assert (out / "a.gif").exists() and len(list((out / "b.gif_frames").glob("0*.png"))) == 3
        most = len(calls) + 2
        error = dream(album, out, *flags, "--rotate", 9, "--overwrite", status=130).stderr
        assert "without --overwrite" in error
    assert "--rotate 9.0, now 0.0" in dream(album, out, *flags, status=2).stderr
    printed = dream(album, out, *flags, "--rotate", 9).stdout
    assert printed.count("film: ") == 2 and not (out / "b.gif_frames").exists()
    alone = tmp_path / "alone.gif"
    dream(album / "b.jpg", alone, *FILM, "--rotate", 9)
    assert (out / "b.gif").read_bytes() == (out / "a.gif").read_bytes() == alone.read_bytes()


def test_the_time_left_is_said_of_a_dream_and_of_a_film(album, tmp_path):
    for name, flags, of_what in (("a.png", ("--steps", 4), "picture"), ("a.gif", FILM, "film")):
        told = [
            line for line in dream(album / "a.jpg", tmp_path / name, *flags).stderr.splitlines() if "time left" in line
        ]
        assert len(told) == 1 and told[0].startswith("time left: about ") and f"for this {of_what}" in told[0]
        assert dream(album / "a.jpg", tmp_path / f"quiet_{name}", *flags, "--quiet").stderr == ""


# --- Bad input ---


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--class", "bananna"), "did you mean banana"),
        (("--class", "zzzzzz"), "no class is called zzzzzz"),
        (("--class", "1000"), "999"),
        (("--class", "banana", "--layers", "block1_conv1"), "--layers"),
        (("--layers", "block4_conv9"), "did you mean block4_conv"),
        (("--layers", "block4_conv1=much"), "block4_conv1=much"),
        (("--layers", "block4_conv1=0"), "block4_conv1=0"),
        (("--layers", "block4_conv1=nan"), "nan"),
        (("--layers", "block1_conv1", "--channels", 64), "63"),
        (("--layers", "block1_conv1", "block2_conv1", "--channels", 1), "one layer"),
        (("--guide", "nothing.jpg"), "nothing.jpg"),
        (("--convnet", "vgg17"), "did you mean vgg1"),
        (("--convnet", "nothing.keras"), "nothing.keras"),
        (("--convnet", "tests"), "tests"),
        (("--convnet", CLASSIFIER, "--size", 32, "--weights", "imagenet"), "weights of its own"),
        (("--octaves", 0), "--octaves"),
        (("--octave-scale", 1), "--octave-scale"),
        (("--steps", 0), "--steps"),
        (("--step-size", "nan"), "--step-size"),
        (("--blend", 1.5), "--blend"),
        (("--tile", 10), "--tile"),
        (("--size", 8), "--size"),
        (("--fps", 10), "--zoom"),
        (("--rotate", 1), "--zoom"),
        (("--zoom", 5, "--fps", 0, "--output", "a.mp4"), "--fps"),
        (("--zoom", 5, "--fps", 60, "--output", "a.gif"), "50"),
        (("--zoom", 0), "--zoom"),
        (("--zoom", 5, "--zoom-factor", 0.1, "--output", "a.mp4"), "--zoom-factor"),
        (("--zoom", 5, "--output", "a.png"), ".mp4"),
        (("--zoom", 5, "--gif", "--output", "a.mp4"), "--gif"),
        (("--zoom", 5, "--format", "png", "--output", "a.mp4"), "--format"),
        (("--shift", 1, "--zoom", 5, "--output", "a.mp4"), "--shift"),
        (("--format", "mp4"), "--format"),
        (("--output", "a.tiff"), ".png"),
        (("--weights", "nothing.h5"), "nothing.h5"),
    ],
)
def test_wrong_flags_are_one_line(flags, named, photo, tmp_path):
    output = () if "--output" in flags else ("--output", tmp_path / "a.png")
    assert named in run("deepdream.py", photo, *output, *flags, status=2).stderr


def test_a_class_beyond_the_last_is_refused(tmp_path):
    flags = ("--convnet", CLASSIFIER, "--size", 32, "--output", tmp_path / "a.png")
    assert "0 to 9" in run("deepdream.py", "noise", *flags, "--class", 10, status=2).stderr
    alone = tmp_path / "alone.keras"
    alone.write_bytes((CLASSIFIER / "epoch_32.keras").read_bytes())
    flags = ("--convnet", alone, "--size", 32, "--output", tmp_path / "a.png")
    assert "has 10" in run("deepdream.py", "noise", *flags, "--class", 10, status=2).stderr
    assert "number" in run("deepdream.py", "noise", *flags, "--class", "three", status=2).stderr


def test_a_layer_without_places_is_refused(tmp_path, photo):
    flags = ("--convnet", CLASSIFIER, "--layers", "digits", "--output", tmp_path / "a.png")
    assert "no places" in run("deepdream.py", photo, *flags, status=2).stderr


def test_photos_that_are_none_are_refused(tmp_path, photo):
    assert "give a photo" in run("deepdream.py", status=2).stderr
    assert "nothing.jpg" in dream("nothing.jpg", tmp_path / "a.png", status=2).stderr
    for name, content in (("empty.jpg", b""), ("text.png", b"no picture"), ("half.jpg", photo.read_bytes()[:900])):
        (tmp_path / name).write_bytes(content)
        assert name in dream(tmp_path / name, tmp_path / "a.png", status=2).stderr
    Image.new("RGB", (500, 20)).save(tmp_path / "narrow.png")
    assert "500 x 20" in dream(tmp_path / "narrow.png", tmp_path / "a.png", status=2).stderr
    assert not (tmp_path / "a.png").exists()


def test_a_photo_in_which_there_is_nothing_stays_as_it_is(tmp_path):
    Image.new("RGB", (64, 64), "black").save(tmp_path / "black.png")
    flags = ("--layers", "block5_conv3", "--channels", 87)
    assert "excites" in dream(tmp_path / "black.png", tmp_path / "a.png", *flags).stderr
    assert (pixels(tmp_path / "a.png") == 0).all()


def test_nothing_is_overwritten_unasked(photo, tmp_path):
    dream(photo, tmp_path / "a.png")
    assert "--overwrite" in dream(photo, tmp_path / "a.png", status=2).stderr
    flags = ("--guide", photo, "--overwrite")
    dream(photo, tmp_path / "a.png", *flags)
    copy = tmp_path / "copy.png"
    Image.open(photo).save(copy)
    assert "--output" in dream(copy, copy, "--overwrite", status=2).stderr
