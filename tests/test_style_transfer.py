"""style_transfer.py: the search, its options, the files it writes, and wrong input."""

import dataclasses
import itertools
import pathlib
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import threadpoolctl
from conftest import ROOT, pixels, results, rows_of, run
from PIL import Image

import config
import style_transfer
from atelier import backend, colors, imaging
from atelier.networks import minimizers, pretrained
from atelier.style import input_pictures, optimization, transfer

PAINTING = ROOT / "images/style/glands.jpg"
PHOTOS = sorted((ROOT / "images/content").glob("*.jpg"))
QUICK = ("--precision", "float32", "--size", 64, "--iterations", 4, "--style", PAINTING)
FEW_LAYERS = ("--content-layers", "block2_conv2", "--style-layers", "block1_conv1", "block2_conv1")  # quickly traced


pytestmark = pytest.mark.usefixtures("cache_vgg")


def style(photo, result, *flags, status=0):
    """Style a small photo in four steps; return what the command printed."""
    return run("style_transfer.py", photo, *QUICK, "--output", result, *flags, status=status)


def test_the_first_step_of_lbfgs_is_about_one_grey_level():
    slope, evaluated = np.random.default_rng(0).normal(size=(40, 60, 3)).astype("float32"), []

    def evaluate(picture):
        evaluated.append(picture)
        return np.sum(picture * slope), slope

    minimizers.minimize_lbfgs(evaluate, np.full(slope.shape, 128, "float32"), 1, np.array)
    assert 0.5 < np.sqrt(np.mean((evaluated[1] - evaluated[0]) ** 2)) < 2


def test_lbfgs_keeps_blas_to_one_thread_while_it_runs():
    def threads_of_blas():
        return [library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]

    def evaluate(picture):
        during.extend(threads_of_blas())
        return np.sum(picture), np.ones_like(picture)

    during, before = [], threads_of_blas()
    minimizers.minimize_lbfgs(evaluate, np.full((20, 30, 3), 128, "float32"), 1, np.array)
    assert set(during) == {1} and threads_of_blas() == before


def test_without_style_and_smoothness_the_photo_is_unchanged(photo, tmp_path):
    printed = style(photo, tmp_path / "same.png", *FEW_LAYERS, "--style-weight", 0, "--tv-weight", 0, "--scales", 1)
    expected = imaging.resize_picture(pixels(photo), *pixels(tmp_path / "same.png").shape[1::-1])
    np.testing.assert_allclose(pixels(tmp_path / "same.png"), expected, atol=0.51)
    assert "steps: 1\n" in printed.stdout


def test_weights_of_another_network_are_refused(weight_files, photo, tmp_path):
    flags = ("--convnet", "vgg19", "--weights", weight_files / "vgg.npz")
    error = style(photo, tmp_path / "a.png", *flags, status=2).stderr
    assert "13 convolutions" in error and "vgg19" in error


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 broken"])
@pytest.mark.parametrize("name", ["a.h5", "a.npz"])
def test_broken_weights_are_refused(name, content, photo, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert name in style(photo, tmp_path / "a.png", "--weights", tmp_path / name, status=2).stderr


@pytest.mark.parametrize(("task", "factor"), [("style", 2), ("published", 20)])  # published losses are squared
def test_the_style_loss_falls_and_the_picture_stays_like_the_photo(task, factor, tmp_path):
    photo = imaging.resize_picture(pixels(ROOT / "images/content/china.jpg"), 128, 85)
    more = {"size": 128, "quiet": True, "scales": 1, "iterations": (60,)}
    options = dataclasses.replace(config.STYLE_DEFAULTS[task], style=(str(PAINTING),), **more)
    model = optimization.StyleModel(options)
    search = optimization.Search(model, photo, tmp_path / "a.png", options)
    first, _ = model.loss_and_gradient(optimization.with_margin(photo, search.margin)[None], search.targets(128, 85))
    search.run()
    at_step_60 = search.history[59 - (search.evaluations - len(search.history))]
    assert at_step_60["style"] < float(first["style"]) / factor
    picture = search.finished().astype("float32")
    neighbours = np.corrcoef(picture[:, :-1].ravel(), picture[:, 1:].ravel())[0, 1]
    likeness = np.corrcoef(colors.luminance(picture).ravel(), colors.luminance(photo).ravel())[0, 1]
    assert neighbours > 0.8 and likeness > 0.3


def test_a_photo_becomes_a_painting_with_metadata_and_all_extra_files(photo, tmp_path):
    printed = results(style(photo, tmp_path / "a.png", "--compare", "--plot", "--gif", "--save-every", 2).stdout)
    assert printed["picture"] == str(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (64, 48)
        assert "style_transfer.py" in picture.text["command"] and picture.text["weights"] == "imagenet"
        assert np.abs(np.asarray(picture, "float32") - imaging.resize_picture(pixels(photo), 64, 48)).mean() > 3
    with Image.open(printed["animation"]) as animation:
        assert animation.n_frames >= 3 and animation.size == (64, 48)
    with Image.open(printed["comparison"]) as comparison:
        assert comparison.size == (64 + 8 + 48 + 8 + 64, 48)
    assert Image.open(printed["plot"]).size == (800, 500)
    assert sorted(path.name for path in tmp_path.glob("*step*")) == ["a__step00002.png", "a__step00004.png"]
    assert printed["steps"] == "4" and float(printed["loss"]) > 0


def test_the_same_seed_gives_the_same_picture(photo, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        style(photo, tmp_path / f"{name}.png", *FEW_LAYERS, "--init", "noise", "--seed", seed)
    a, b, c = (pixels(tmp_path / f"{name}.png") for name in "abc")
    assert (a == b).all() and (a != c).any()


OTHER = ROOT / "images/style/gravel.jpg"


@pytest.fixture(scope="module")
def plain(photo, tmp_path_factory):
    """Style the photo with few layers and no further flags; return the pixels and the printed results."""
    result = tmp_path_factory.mktemp("plain") / "a.png"
    return pixels_and_results(photo, result)


def pixels_and_results(photo, result, *flags):
    printed = results(style(photo, result, *FEW_LAYERS, *flags).stdout)
    return pixels(result), printed


@pytest.mark.parametrize(
    "flags",
    [
        ("--optimizer", "adam"),
        ("--content-layers", "block2_conv1", "block3_conv1"),
        ("--style-layers", "block1_conv1", "block2_conv2"),
        ("--layer-weights", 1, 0),
        ("--style-scale", 2),
        ("--published-losses",),
        ("--precision", "mixed_bfloat16"),
        ("--precision", "mixed_float16"),
    ],
)
def test_each_option_changes_the_picture(flags, photo, plain, tmp_path):
    a, b = pixels_and_results(photo, tmp_path / "a.png", *flags)[0], plain[0]
    assert a.shape == b.shape
    assert np.abs(a - b).mean() > 0.01
    if "--precision" in flags:
        assert np.abs(a - b).mean() < 4


@pytest.mark.parametrize(
    ("flag", "weight", "term"),
    [("--content-weight", 10, "content_loss"), ("--style-weight", 30, "style_loss"), ("--tv-weight", 50, "tv_loss")],
)
def test_a_larger_weight_makes_its_term_smaller(flag, weight, term, photo, plain, tmp_path):
    _, printed = pixels_and_results(photo, tmp_path / "a.png", flag, weight)
    assert float(printed[term]) < 0.97 * float(plain[1][term])


@pytest.mark.parametrize(("init", "like"), [("style", PAINTING), (PHOTOS[0], PHOTOS[0])])
def test_the_picture_is_more_like_the_picture_given_with_init(init, like, photo, plain, tmp_path):
    picture, _ = pixels_and_results(photo, tmp_path / "a.png", "--init", init)
    like = colors.luminance(imaging.resize_picture(imaging.load_image(like), 64, 48)).ravel()
    with_init, without = (np.corrcoef(colors.luminance(x).ravel(), like)[0, 1] for x in (picture, plain[0]))
    assert with_init > without + 0.1


def test_a_search_that_begins_with_noise_is_noisier(photo, plain, tmp_path):
    picture, _ = pixels_and_results(photo, tmp_path / "a.png", "--init", "noise")
    assert np.abs(np.diff(picture, axis=1)).mean() > 1.1 * np.abs(np.diff(plain[0], axis=1)).mean()


def test_another_painting_in_the_mixture_brings_its_colours(photo, plain, tmp_path):
    picture, _ = pixels_and_results(photo, tmp_path / "a.png", "--style", PAINTING, OTHER)
    of_other = imaging.load_image(OTHER).mean((0, 1))
    assert np.abs(picture.mean((0, 1)) - of_other).sum() < 0.8 * np.abs(plain[0].mean((0, 1)) - of_other).sum()


def test_scales_go_from_coarse_to_fine(photo, tmp_path):
    for scales in (1, 2):
        printed = results(
            style(photo, tmp_path / f"{scales}.png", *FEW_LAYERS, "--size", 96, "--scales", scales).stdout
        )
        assert printed["steps"] == " + ".join(["4"] * scales)
    assert np.abs(pixels(tmp_path / "1.png") - pixels(tmp_path / "2.png")).mean() > 0.3


def test_the_last_number_of_iterations_counts_for_all_larger_sizes(photo, tmp_path):
    flags = (*FEW_LAYERS, "--size", 96, "--scales", 2)
    printed = results(style(photo, tmp_path / "a.png", *flags, "--iterations", 3, 2).stdout)
    assert printed["steps"] == "3 + 2"
    assert optimization.steps_at(4, (9, 5)) == [9, 5, 5, 5] and optimization.steps_at(1, (9, 5)) == [9]


@pytest.mark.slow
def test_effort_sets_the_steps_at_each_size(photo, tmp_path):
    steps = {}
    for effort, flags in (("low", ("--effort", "low")), ("medium", ())):
        flags = ("--size", 96, "--scales", 2, "--style", PAINTING, *FEW_LAYERS, *flags)
        printed = results(run("style_transfer.py", photo, *flags, "--output", tmp_path / f"{effort}.png").stdout)
        steps[effort] = [int(count) for count in printed["steps"].split(" + ")]
    assert steps["low"][1] == config.EFFORTS["low"][1] < steps["medium"][1] <= config.EFFORTS["medium"][1]
    totals = [sum(optimization.steps_at(3, steps)) for steps in config.EFFORTS.values()]
    assert totals == sorted(totals)


@pytest.mark.slow
def test_above_the_medium_size_the_style_is_that_of_four_blocks(photo, monkeypatch, tmp_path):
    monkeypatch.setattr(config, "MEDIUM", 64)
    losses = {}
    for name, layers in (("default", ()), ("four", config.STYLE_LAYERS[:4]), ("five", config.STYLE_LAYERS)):
        flags = ("--style-layers", *layers) if layers else ()
        if name == "five":
            monkeypatch.setattr(config, "MEDIUM", 96)
        flags = ("--size", 96, "--scales", 1, "--iterations", 1, "--precision", "float32", *flags)
        printed = run("style_transfer.py", photo, "--style", PAINTING, *flags, "--output", tmp_path / f"{name}.png")
        losses[name] = results(printed.stdout)["style_loss"]
    assert losses["default"] == losses["four"] != losses["five"]


def test_scales_at_which_a_painting_is_too_narrow_are_left_out(photo):
    options = config.Style(size=128, scales=3, style_layers=("block1_conv1",))
    painting = np.zeros((64, 160, 3), "float32")  # 13, 26 and 51 pixels high at the three sizes
    photo = input_pictures.read_photo(photo, options)
    for paintings, sizes in (([painting], [(128, 96)]), ([], [(64, 48), (128, 96)])):
        mixture = types.SimpleNamespace(paintings=paintings, color_statistics=lambda paintings: None)
        assert optimization.Search(None, photo, None, options, mixture).sizes() == sizes


def test_a_single_step_can_be_plotted(photo, tmp_path):
    flags = ("--iterations", 1, "--scales", 1, "--plot")
    printed = results(style(photo, tmp_path / "a.png", *FEW_LAYERS, *flags).stdout)
    assert printed["steps"] == "1" and Image.open(printed["plot"]).width > 500


def test_a_finer_scale_begins_with_the_photos_details(photo):
    options = config.Style(size=64)
    fine = input_pictures.read_photo(photo, options)
    model = types.SimpleNamespace(mixture_of=lambda options: types.SimpleNamespace(paintings=[]))
    search = optimization.Search(model, fine, None, options)
    search.picture = imaging.resize_picture(fine, 32, 24)  # a coarse scale that changed nothing
    np.testing.assert_allclose(search.start(64, 48), fine, atol=1e-3)
    # A coarse scale that changed the colours.
    search.picture = np.clip(search.picture + np.float32([20, 0, -20]), 0, 255)
    changed = search.start(64, 48) - fine
    np.testing.assert_allclose(changed.mean((0, 1)), [20, 0, -20], atol=3)


def test_paintings_are_mixed_by_their_weights(photo, tmp_path):
    other = ROOT / "images/style/hubble_deep_field.jpg"
    style(photo, tmp_path / "one.png", *FEW_LAYERS)
    for name, weights in (("same", (1, 0)), ("mixed", (1, 3))):
        style(photo, tmp_path / f"{name}.png", *FEW_LAYERS, "--style", PAINTING, other, "--style-weights", *weights)
    one, same, mixed = (pixels(tmp_path / f"{name}.png") for name in ("one", "same", "mixed"))
    assert np.abs(one - same).mean() < 0.5 < np.abs(one - mixed).mean()


def test_the_photos_colours_can_be_kept(photo, tmp_path):
    flags = (*FEW_LAYERS, "--iterations", 8)
    style(photo, tmp_path / "free.png", *flags)
    of_photo = imaging.resize_picture(pixels(photo), 64, 48)
    chroma_error = {}
    for how in ("luminance", "histogram"):
        style(photo, tmp_path / f"{how}.png", *flags, "--keep-colors", how)
        chroma = [
            (x - colors.luminance(x)).mean((0, 1))
            for x in (pixels(tmp_path / f"{how}.png"), of_photo, pixels(tmp_path / "free.png"))
        ]
        chroma_error[how] = np.abs(chroma[0] - chroma[1]).max()
        free = np.abs(chroma[2] - chroma[1]).max()
        assert chroma_error[how] < free
    assert chroma_error["luminance"] < 4


def test_with_a_uniform_painting_the_picture_is_uniform(photo, tmp_path):
    Image.new("RGB", (80, 60), (180, 90, 40)).save(tmp_path / "blank.png")
    style(photo, tmp_path / "a.png", *FEW_LAYERS, "--style", tmp_path / "blank.png")
    np.testing.assert_allclose(pixels(tmp_path / "a.png"), np.broadcast_to([180, 90, 40], (48, 64, 3)), atol=1)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("tint", [(1, 1, 1), (1, 0.8, 0.5)])
def test_a_drawing_in_one_colour_makes_a_picture_in_that_colour(optimizer, tint, photo, tmp_path):
    drawing = colors.luminance(pixels(PAINTING)) * np.float32(tint)
    Image.fromarray(imaging.to_pixels(drawing)).save(tmp_path / "drawing.png")
    flags = (*FEW_LAYERS, "--style", tmp_path / "drawing.png", "--optimizer", optimizer, "--iterations", 8)
    style(photo, tmp_path / "a.png", *flags)
    picture = pixels(tmp_path / "a.png") / np.float32(tint)
    # The pixels that are not clipped to the range of sRGB.
    inside = (picture > 2).all(2) & (pixels(tmp_path / "a.png") < 254).all(2)
    assert np.ptp(picture, axis=2)[inside].max() < 3 and np.ptp(picture[..., 0]) > 50


def search_of(photo, **options):
    options = dataclasses.replace(
        config.STYLE_DEFAULTS["published" if options.get("published_losses") else "style"],
        **{"style": (str(PAINTING),), "size": 64, "quiet": True} | options,
    )
    return optimization.Search(
        transfer.load_style_model(options), input_pictures.read_photo(photo, options), None, options
    )


def test_the_search_begins_with_the_photo_in_the_paintings_colours(photo):
    search = search_of(photo)
    (style,) = search.paintings
    np.testing.assert_allclose(search.initial.mean((0, 1)), style.mean((0, 1)), atol=0.1)
    covariances = [np.cov(picture.reshape(-1, 3).T) for picture in (search.initial, style)]
    np.testing.assert_allclose(*covariances, rtol=0.05, atol=0.01 * covariances[1].max())
    np.testing.assert_array_equal(search.content, search.photo)
    for options in (
        {"style_weight": 0},
        {"published_losses": True},
        {"keep_colors": "histogram"},
    ):
        np.testing.assert_array_equal(search_of(photo, **options).initial, search.photo)


def test_the_total_is_the_weighted_sum_of_the_terms(photo):
    search = search_of(photo, content_weight=3, style_weight=0.5, tv_weight=7)
    search.margin = 0
    terms, _ = search.model.loss_and_gradient(np.flip(search.content[None], 1), search.targets(64, 48))
    expected = 3 * float(terms["content"]) + 0.5 * float(terms["style"]) + 7 * float(terms["tv"])
    assert float(terms["total"]) == pytest.approx(expected, rel=1e-4)


def test_the_paintings_colours_are_mixed_by_their_weights(photo):
    other = str(ROOT / "images/style/gravel.jpg")
    of_first, of_second, of_both = (
        search_of(photo, style=style, style_weights=weights).colors
        for style, weights in (((str(PAINTING),), ()), ((other,), ()), ((str(PAINTING), other), (3, 1)))
    )
    for a, b, mixed in zip(of_first, of_second, of_both):
        np.testing.assert_allclose(mixed, 0.75 * a + 0.25 * b, rtol=1e-4)


def test_a_texture_has_the_paintings_mean_colour_and_not_its_content(tmp_path):
    run("style_transfer.py", *QUICK, "--iterations", 30, "--output", tmp_path / "a.png")
    texture = pixels(tmp_path / "a.png")
    painting = input_pictures.scaled(imaging.load_image(PAINTING), 64)
    assert texture.shape == (64, 64, 3)
    assert np.abs(texture.mean((0, 1)) - painting.mean((0, 1))).max() < 15
    assert np.abs(np.corrcoef(texture.ravel(), painting.ravel())[0, 1]) < 0.5


def test_a_photo_is_reconstructed_from_a_layer(photo, tmp_path):
    likeness = []
    for layer in ("block1_conv1", "block5_conv1"):
        result = tmp_path / f"{layer}.png"
        flags = ("--size", 64, "--iterations", 60, "--layer", layer, "--output", result)
        run("style_transfer.py", photo, *flags)
        of_photo = imaging.resize_picture(pixels(photo), 64, 48)
        likeness.append(np.corrcoef(pixels(result).ravel(), of_photo.ravel())[0, 1])
    assert likeness[0] > 0.95 > likeness[1] > 0.3


def test_in_a_folder_the_painting_gets_the_colours_of_each_photo(photo, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.open(photo).save(folder / "a.png")
    Image.open(photo).convert("L").save(folder / "b.png")  # another photo of the same size
    flags = (*FEW_LAYERS, "--keep-colors", "histogram")
    style(folder, tmp_path / "styled", *flags)
    style(folder / "b.png", tmp_path / "alone.png", *flags)
    np.testing.assert_array_equal(pixels(tmp_path / "styled" / "b.png"), pixels(tmp_path / "alone.png"))


@pytest.mark.slow
def test_ctrl_c_keeps_the_picture_so_far(photo, tmp_path):
    result = tmp_path / "a.png"
    command = [
        "style_transfer.py",
        photo,
        *QUICK,
        *FEW_LAYERS,
        "--iterations",
        100000,
        "--save-every",
        1,
        "--output",
        result,
    ]
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*step*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "the picture so far" in errors and "Traceback" not in errors
    assert Image.open(result).size == (64, 48)


def test_if_the_loss_becomes_nan_the_last_good_picture_is_kept(photo, tmp_path, monkeypatch):
    original = backend.value_and_gradient

    def breaking(*arguments):
        function, calls = original(*arguments), itertools.count(1)

        def evaluate(*arguments):
            terms, gradient = function(*arguments)
            return (terms if next(calls) < 4 else {"total": np.nan}), gradient

        return evaluate

    monkeypatch.setattr(backend, "value_and_gradient", breaking)
    monkeypatch.setattr(transfer, "cached_style_model", optimization.StyleModel)  # a new one for each command
    error = style(photo, tmp_path / "a.png", *FEW_LAYERS, status=1).stderr
    assert "the loss became NaN or infinite" in error and "last good picture" in error and "lower" in error
    assert Image.open(tmp_path / "a.png").size == (64, 48)
    output = tmp_path / "styled"
    failed = style(photo.parent, output, *FEW_LAYERS, status=1).stderr
    assert "1 of 1 photos failed" in failed
    assert "lower" in rows_of(output)["china.jpg"]["reason"] and not (output / "china.png").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "give a painting with --style, a learned style with --learned"),
        (("--layer", "block9_conv1"), "vgg16 has no block9_conv1"),
        (("--layer", "block1_conv1", "--init", "style"), "--init style needs a painting"),
        (("--layer", "block1_conv1", "--style-scale", 2), "--style-scale cannot be combined with --layer"),
        (("--style", PAINTING, "--layer", "block1_conv1"), "--layer needs a photo, and no --style"),
        (("--style", "no-such.jpg"), "no-such.jpg does not exist"),
        (("--style", ROOT / "images"), "folder without pictures"),
        (("--style", PAINTING, "--style-layers", "block4_conv22"), "did you mean block4_conv2"),
        (
            ("--style", PAINTING, "--convnet", "vgg16", "--content-layers", "block3_conv4"),
            "has no block3_conv4 (did you mean block3_conv",
        ),
        (("--style", PAINTING, "--style-layers", "block1_conv3"), "did you mean block"),
        (("--style", PAINTING, "--layer-weights", 1, 2), "2 numbers for 5 style layers"),
        (("--style", PAINTING, "--style-weights", 1, 2), "2 numbers for 1 painting"),
        (("--style", PAINTING, "--style-weights", 0), "not all 0"),
        (("--style", PAINTING, "--tv-weight", -1), "--tv-weight must be at least 0"),
        (("--style", PAINTING, "--content-weight", "nan"), "--content-weight must be a finite number"),
        (("--style", PAINTING, "--size", 8), "--size must be at least 32"),
        (("--style", PAINTING, "--iterations", 0), "--iterations must be at least 1"),
        (("--style", PAINTING, "--iterations", 9, "--effort", "low"), "--effort cannot be combined with --iterations"),
        (
            ("--style", PAINTING, "--published-losses", "--effort", "low"),
            "--effort cannot be combined with --published",
        ),
        (("--layer", "block1_conv1", "--effort", "low"), "--effort cannot be combined with --layer"),
        (("--style", PAINTING, "--style-scale", 0), "--style-scale must be above 0"),
        (("--style", PAINTING, "--init", "nothing"), "--init takes content, style, noise or a picture, not nothing"),
        (("--style", PAINTING, "--output", "a.gif"), "a.gif should end in .png"),
        (("--style", PAINTING, "--weights", "no-such.h5"), "no-such.h5"),
        (("--style", PAINTING, "--optimizer", "sgd"), "--optimizer has no sgd"),
        (("--style", PAINTING, "--learning-rate", 20), "--learning-rate is used by Adam alone: add --optimizer adam"),
    ],
)
def test_wrong_flags_are_explained(flags, message, photo):
    assert message in run("style_transfer.py", photo, *flags, status=2).stderr


def random_picture(path, width, height):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), "uint8")).save(path)
    return path


@pytest.mark.parametrize(("width", "height"), [(31, 200), (200, 20)])
def test_a_photo_or_painting_that_is_too_small_is_refused(width, height, photo, tmp_path):
    small = random_picture(tmp_path / "small.png", width, height)
    assert "pixels" in style(small, tmp_path / "a.png", status=2).stderr
    assert "pixels" in style(photo, tmp_path / "a.png", "--style", small, status=2).stderr
    assert "--style-scale" in style(photo, tmp_path / "a.png", "--style-scale", 0.2, status=2).stderr


def test_the_error_for_a_panorama_names_the_size_that_it_needs(tmp_path):
    panorama = random_picture(tmp_path / "wide.png", 1000, 100)
    assert "--size 320" in style(panorama, tmp_path / "a.png", "--size", 200, status=2).stderr
    style(panorama, tmp_path / "a.png", "--size", 320, "--iterations", 1)
    assert Image.open(tmp_path / "a.png").size == (320, 32)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 broken", b"GIF89a"])
def test_a_file_that_is_not_a_picture_is_refused(content, photo, tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    assert "broken.jpg" in style(path, tmp_path / "a.png", status=2).stderr
    assert "broken.jpg" in style(photo, tmp_path / "a.png", "--style", path, status=2).stderr


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16", "1"])
def test_all_pixel_formats_are_read(mode, tmp_path):
    picture = Image.open(ROOT / "images/content/coffee.jpg").resize((64, 48))
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    sixteen_bits = Image.fromarray(np.asarray(picture.convert("L"), "uint16") * 257)
    (sixteen_bits if mode == "I;16" else picture.convert(mode)).save(path)
    photo = input_pictures.read_photo(path, config.Style(size=64))
    assert photo.shape == (48, 64, 3) and photo.dtype == "float32" and 0 <= photo.min() < photo.max() <= 255


def test_nothing_is_overwritten_without_the_flag(photo, tmp_path):
    style(photo, tmp_path / "a.png", *FEW_LAYERS)
    assert "--overwrite" in style(photo, tmp_path / "a.png", *FEW_LAYERS, status=2).stderr
    style(photo, tmp_path / "a.png", *FEW_LAYERS, "--overwrite")


def test_the_photo_itself_is_never_replaced(photo, tmp_path):
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(photo.read_bytes())
    assert "--output" in style(copy, copy, "--overwrite", status=2).stderr
    assert copy.read_bytes() == photo.read_bytes()


def test_an_output_that_cannot_be_written_is_reported_before_the_network_is_loaded(photo, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "load_vgg", lambda *_: pytest.fail("the network was loaded"))
    transfer.release_models()
    (tmp_path / "file").write_text("")
    error = style(photo, tmp_path / "file" / "a.png", status=2).stderr
    assert f"{tmp_path / 'file'}" in error and "the network" not in error


def test_with_all_weights_zero_the_photo_is_unchanged(photo, tmp_path):
    style(photo, tmp_path / "a.png", *FEW_LAYERS, "--content-weight", 0, "--style-weight", 0, "--tv-weight", 0)
    of_photo = imaging.to_pixels(imaging.resize_picture(pixels(photo), 64, 48))
    assert (pixels(tmp_path / "a.png") == of_photo).all()


@pytest.mark.parametrize(("precision", "gigabytes"), [("float32", 3.7), ("mixed_bfloat16", 2.5)])
def test_a_search_that_needs_too_much_memory_is_refused(precision, gigabytes, photo, style_copy, tmp_path, monkeypatch):
    monkeypatch.setattr(optimization.hardware, "machine_memory", lambda: 2)
    command = ("style_transfer.py", photo, *QUICK, "--precision", precision, "--size", 2048)
    error = run(*command, "--output", tmp_path / "a.png", status=2).stderr
    assert f"takes about {gigabytes} GB of memory, and this machine has 2.1" in error
    refine = ("--learned", style_copy("imagenet"), "--refine", 1, "--size", 2048, "--precision", precision)
    assert (
        f"about {gigabytes} GB"
        in run("style_transfer.py", photo, *refine, "--output", tmp_path / "a.png", status=2).stderr
    )


def test_results_of_searches_styles_and_refinements_have_different_names():
    photo = pathlib.Path("china.jpg")
    flags = [("--style", ROOT / "images/style/wave.jpg"), ("--learned", "wave"), ("--learned", "wave=2")]
    flags += [("--learned", "wave", "scream", "--refine", 3)]
    commands = [[str(photo), *map(str, words)] for words in flags]
    options = [style_transfer.options_of(style_transfer.parse_arguments(words)) for words in commands]
    assert [style_transfer.default_name([photo], one) for one in options] == [
        *("china__wave", "china__wave_learned", "china__wave_learned"),
        "china__wave__scream_refined",
    ]
