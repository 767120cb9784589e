"""train_style.py and --learned: stylization networks, their training, and learned styles on disk."""

import dataclasses
import json
import shutil
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, interrupt_after, pixels, results, rows_of, run
from PIL import Image
from scipy.ndimage import gaussian_filter

import config
import train_style
from atelier import colors, errors, imaging
from atelier.style import input_pictures, learned_styles, perceptual_loss, style_training, stylization_network

PAINTING = ROOT / "images/style/starry_night.jpg"
OTHER = ROOT / "images/style/wave.jpg"
QUICK = ("--size", 128, "--precision", "float32", "--from-scratch")


@pytest.fixture(autouse=True)
def small_trainings(cache_vgg, monkeypatch):
    make_trainings_small(monkeypatch)


def make_trainings_small(patch):
    for name, value in (("CROP", 64), ("EVALUATED_PIECES", 1), ("SEARCH_STEPS", 6)):
        patch.setattr(style_training, name, value)


@pytest.fixture(scope="session")
def two_styles(make_once):
    """The folder of a training, with two styles of one network."""

    def make(folder):
        with pytest.MonkeyPatch.context() as patch:
            make_trainings_small(patch)
            run("train_style.py", PAINTING, OTHER, *QUICK, "--steps", 12, "--output", folder)

    return make_once("two styles", make)


def test_a_training_lowers_the_loss_and_writes_styles(two_styles):
    assert {path.name for path in two_styles.iterdir()} == {
        *("network.npz", "meta.json", "sheet.png", "loss.csv", "loss.png", "starry_night", "wave")
    }
    losses = np.genfromtxt(two_styles / "loss.csv", delimiter=",", names=True)
    assert len(losses) == 12 and losses["total"][-4:].mean() < losses["total"][:4].mean()
    for name in ("starry_night", "wave"):
        meta = json.loads((two_styles / name / "meta.json").read_text())
        assert meta["painting"] == f"{name}.jpg" and meta["finished"]


def test_a_style_keeps_the_paintings_statistics(two_styles, vgg):
    style = learned_styles.load_style(two_styles / "wave")
    loss = perceptual_loss.PerceptualLoss(config.Style(style_layers=learned_styles.REFINED_LAYERS))
    painting = input_pictures.read_painting(OTHER, 128)
    assert style.weights == "imagenet"
    for kept, found in zip(style.statistics, loss.statistics(painting[None]), strict=True):
        for one, other in zip(kept, found, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * np.abs(other).max())
    mixed = learned_styles.mix_styles([style, learned_styles.load_style(two_styles / "starry_night")], [3, 1])
    of_starry_night = learned_styles.load_style(two_styles / "starry_night").statistics[1][1]
    np.testing.assert_allclose(
        mixed.statistics[1][1], 0.75 * style.statistics[1][1] + 0.25 * of_starry_night, rtol=1e-5
    )


@pytest.mark.parametrize("longest", [96, 363, 1300])
def test_refining_compares_the_layers_whose_statistics_a_style_has(longest):
    options = config.STYLE_DEFAULTS["refined"]
    assert options.style_layers == learned_styles.REFINED_LAYERS == config.STYLE_LAYERS[:4]
    layers = perceptual_loss.layers_at(longest, options).style_layers
    assert layers == config.STYLE_LAYERS[: 3 if longest > config.LARGE else 4]


@pytest.mark.slow
def test_the_style_loss_of_refining_is_the_mean_of_four_distances(two_styles, photo, tmp_path):
    flags = ("--learned", two_styles / "wave", "--size", 96, "--precision", "float32", "--refine", 1)
    command = ("style_transfer.py", photo, *flags, "--content-weight", 0, "--tv-weight", 0)
    whole = float(results(run(*command, "--output", tmp_path / "a.png").stdout)["style_loss"])
    parts = []
    for layer in range(4):
        weights = [4 * (i == layer) for i in range(4)]
        printed = run(*command, "--layer-weights", *weights, "--output", tmp_path / f"{layer}.png").stdout
        parts.append(float(results(printed)["style_loss"]))
    assert min(parts) > 0 and 0.5 < np.mean(parts) / whole < 1.5  # the pictures differ a little
    message = run(*command, "--layer-weights", *range(5), "--output", tmp_path / "b.png", status=2).stderr
    assert "4 style layers" in message


def test_refining_begins_with_the_picture_of_the_network_and_lowers_the_loss(two_styles, photo, tmp_path):
    flags = ("--learned", two_styles / "wave", "--size", 96, "--precision", "float32")
    one_step = results(run("style_transfer.py", photo, *flags, "--refine", 1, "--output", tmp_path / "a.png").stdout)
    more = ("--refine", 8, "--plot", "--gif", "--compare", "--output", tmp_path / "b.png")
    eight_steps = results(run("style_transfer.py", photo, *flags, *more).stdout)
    assert one_step["steps"] == "1" and eight_steps["steps"] == "8"
    assert float(eight_steps["loss"]) < float(one_step["loss"])
    assert Image.open(eight_steps["animation"]).n_frames > 2 and Image.open(eight_steps["plot"]).size == (800, 500)
    run("style_transfer.py", photo, *flags, "--output", tmp_path / "c.png")
    unrefined, first = pixels(tmp_path / "c.png"), pixels(tmp_path / "a.png")
    assert 0 < np.abs(first - unrefined).mean() < np.abs(pixels(tmp_path / "b.png") - unrefined).mean()
    half = ("--refine", 1, "--strength", 0.5, "--output", tmp_path / "d.png")
    run("style_transfer.py", photo, *flags, *half)
    resized_photo = imaging.resize_picture(pixels(photo), 96, 72)
    np.testing.assert_allclose(pixels(tmp_path / "d.png"), (first + resized_photo) / 2, atol=1.5)


@pytest.mark.slow
def test_with_keep_network_a_new_style_can_be_mixed_with_the_others(two_styles, photo, tmp_path):
    shutil.copytree(two_styles, tmp_path / "styles")
    base, new_style = tmp_path / "styles/network.npz", tmp_path / "styles/beside"
    run("train_style.py", OTHER, *QUICK[:-1], "--base", base, "--keep-network", "--steps", 2, "--output", new_style)
    assert (new_style / "network.npz").read_bytes() == base.read_bytes()
    assert (learned_styles.load_style(new_style).vectors != learned_styles.load_base(base)[1]).any()
    run(
        *("style_transfer.py", photo, "--size", 64, "--output", tmp_path / "a.png", "--learned"),
        *(f"{new_style}=2", tmp_path / "styles/starry_night"),
    )


def test_a_training_replaces_all_styles_of_its_network_and_no_others(two_styles, tmp_path):
    photos = [np.asarray(Image.open(ROOT / "images/content/china.jpg").resize((96, 64)))]
    options = config.Learn(size=128)
    training = style_training.StyleTraining(tmp_path / "m", [PAINTING, OTHER], photos, None, options)
    shutil.copytree(two_styles, tmp_path / "m")
    for name in ("wave", "mine"):  # each with its own copy of the network
        shutil.copytree(two_styles / "wave", tmp_path / "m" / name, dirs_exist_ok=True)
        shutil.copy(two_styles / "network.npz", tmp_path / "m" / name)
    shutil.copytree(two_styles / "wave", tmp_path / "m/of the same network")
    (tmp_path / "m/meta.json").unlink()
    command = ("train_style.py", PAINTING, OTHER, *QUICK, "--overwrite", "--output", tmp_path / "m")
    assert "m holds other learned styles" in run(*command, status=2).stderr
    training.begin()
    assert {str(path.relative_to(tmp_path / "m")) for path in (tmp_path / "m").rglob("*.*")} == {
        *("meta.json", "mine/meta.json", "mine/network.npz", "mine/style.npz")
    }


@pytest.mark.slow
def test_ctrl_c_works_during_the_final_comparison(two_styles, vgg, tmp_path, monkeypatch):
    command = ("train_style.py", PAINTING, OTHER, *QUICK, "--steps", 1, "--output", tmp_path / "m")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)  # the training checks for Ctrl-C twice in a step
        assert "--resume continues" in run(*command, status=130).stderr
    assert (tmp_path / "m/network.npz").exists()
    run(*command, "--resume")
    assert learned_styles.load_style(tmp_path / "m/wave").name == "wave"


def test_raw_photos_of_cameras_are_reported(two_styles, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.heic").touch()
    command = ("train_style.py", PAINTING, *QUICK, "--photos", tmp_path / "raw", "--output", tmp_path / "m")
    assert "a.heic can't be read; pip install pillow-heif" in run(*command, status=2).stderr


def test_the_base_of_a_training_is_not_replaced(two_styles, tmp_path):
    shutil.copytree(two_styles, tmp_path / "styles")
    folder = tmp_path / "styles/wave"
    before = (folder / "style.npz").read_bytes()
    command = ("train_style.py", OTHER, *QUICK[:-1], "--base", folder, "--overwrite", "--output", folder)
    assert "would be replaced" in run(*command, status=2).stderr
    assert (folder / "style.npz").read_bytes() == before


def test_a_training_reports_the_loss_of_a_search(two_styles):
    losses = json.loads((two_styles / "meta.json").read_text())["losses"]
    assert 0 < losses["search"]["total"] < losses["network"]["total"]


def test_a_learned_style_gives_the_same_picture_each_time(two_styles, photo, tmp_path):
    flags = ("--learned", two_styles / "wave", "--size", 96, "--precision", "float32")
    printed = results(run("style_transfer.py", photo, *flags, "--compare", "--output", tmp_path / "a.png").stdout)
    run("style_transfer.py", photo, *flags, "--output", tmp_path / "b.png")
    assert printed["width"] == "96" and (pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")).all()
    assert Image.open(printed["comparison"]).size == (96 * 2 + 8, 72)
    resized_photo = imaging.resize_picture(pixels(photo), 96, 72)
    assert np.abs(pixels(tmp_path / "a.png") - resized_photo).mean() > 5


@pytest.mark.parametrize(
    ("width", "height", "ratio", "expected"),
    [
        (700, 500, 1, [700]),
        (1024, 768, 2, [512, 1024]),
        (768, 1024, 0.5, [2048]),
        (1024, 768, 4, [256, 512, 1024]),
        (900, 900, 3, [300, 300 * 3**0.5, 900]),
        (1000, 96, 2, [1000 / 1.5, 1000]),  # at half the size, the shorter side would be too short
        (1000, 50, 2, [1000]),
    ],
)
def test_with_a_very_large_stroke_size_a_photo_is_painted_from_coarse_to_fine(width, height, ratio, expected):
    np.testing.assert_allclose(learned_styles.longest_sides(width, height, ratio), expected)


def test_the_sky_is_smooth_and_the_temple_is_not():
    smooth = learned_styles.smoothness(imaging.load_image(ROOT / "images/content/china.jpg"))
    assert smooth.shape == (342, 512, 1)
    assert smooth[40:130, 300:420].min() > 0.9 and smooth[150:240, 100:180].mean() < 0.2
    assert (learned_styles.smoothness(np.full((70, 90, 3), 120, "float32")) == 1).all()


def test_a_larger_stroke_size_makes_larger_strokes():
    stylizer = learned_styles.Stylizer([("scream", 1.0)])
    sky = np.linspace(150, 220, 256, dtype="float32")[:, None, None] + np.zeros((256, 256, 3), "float32")
    blurred_shares = []
    for stroke_size in (0.5, 1, 2, 4):
        picture = stylizer.stylize(sky, stroke_size).mean(-1)
        picture -= picture.mean(1, keepdims=True)
        blurred_shares.append(gaussian_filter(picture, 4).std() / picture.std())
    assert picture.shape == (256, 256) and blurred_shares == sorted(blurred_shares)
    assert blurred_shares[2] > 1.2 * blurred_shares[0]  # 1.28 was measured


def test_without_a_stroke_size_strokes_grow_with_the_photo():
    stylizer = learned_styles.Stylizer([("scream", 1.0)])
    photo = pixels(ROOT / "images/content/china.jpg")
    for longest, stroke_size in ((300, 1), (512, 1), (724, 2**0.5), (1024, 2), (1100, 2)):
        resized = imaging.resize_picture(photo, longest, 64)
        expected = stylizer.stylize(resized, stroke_size)
        np.testing.assert_allclose(stylizer.stylize(resized), expected, atol=0.1)
        other = 1.5 if stroke_size in (1, 2) else 1
        assert np.abs(stylizer.stylize(resized, other) - expected).mean() > 1


def test_between_two_stroke_sizes_a_style_vector_is_a_mean():
    style = learned_styles.load_style("wave")
    usual, large = style.vectors
    assert np.abs(usual - large).mean() > 0.02
    for stroke_size, vector in ((0.5, usual), (1, usual), (2**0.5, (usual + large) / 2), (2, large), (8, large)):
        np.testing.assert_allclose(style.vector_for(stroke_size), vector[None], atol=1e-6)
        assert style.vector_for(stroke_size).dtype == "float32"


@pytest.mark.slow
def test_large_strokes_are_learned_from_the_painting_at_twice_its_size(vgg, tmp_path, monkeypatch):
    photos = [np.asarray(Image.open(ROOT / "images/content/china.jpg").resize((96, 64)))]
    training = style_training.StyleTraining(tmp_path, [PAINTING, OTHER], photos, None, config.Learn(size=128, steps=9))
    assert len(training.targets) == training.styles.shape[0] == 4
    assert training.loss.parts == 2
    wanted = training.loss.statistics(input_pictures.read_painting(OTHER, 256)[None])
    np.testing.assert_allclose(training.targets[3].statistics[1][0], wanted[1][0], rtol=1e-4, atol=1e-2)
    before = np.array(training.styles)
    for share, trained in ((0, [0, 2]), (1, [1, 3])):
        monkeypatch.setattr(style_training, "LARGE_SHARE", share)
        training.styles.assign(before)
        for optimizer_variable in training.groups[0].optimizer.variables:
            optimizer_variable.assign(np.zeros_like(optimizer_variable))
        for _ in range(4):
            training.step()
        changed = np.abs(np.array(training.styles) - before).max(1) > 0
        assert [*np.flatnonzero(changed)] == trained  # in four steps, both paintings are drawn


def test_each_option_changes_the_picture(two_styles, photo, tmp_path):
    found = []
    for flags in (
        (two_styles / "wave",),
        (two_styles / "starry_night",),
        (two_styles / "wave", two_styles / "starry_night"),
        (f"{two_styles / 'wave'}=3", two_styles / "starry_night"),
        (two_styles / "wave", "--strength", 0.5),
        (two_styles / "wave", "--keep-colors", "luminance"),
        (two_styles / "wave", "--keep-colors", "histogram"),
        (two_styles / "wave", "--stroke-size", 0.5),
    ):
        result = tmp_path / f"{len(found)}.png"
        run("style_transfer.py", photo, "--size", 64, "--output", result, "--learned", *flags)
        found.append(pixels(result))
    resized_photo = imaging.resize_picture(pixels(photo), 64, 48)
    for i, one in enumerate(found):
        assert all((one != other).any() for other in found[:i])
    _, _, equal_mixture, more_wave, *_ = (np.abs(x - found[0]).mean() for x in found)
    assert 0 < more_wave < equal_mixture
    np.testing.assert_allclose(found[4], (found[0] + resized_photo) / 2, atol=1.5)
    # Pixels are compared, because the mean colour of a barely trained network may be near the photo's by chance.
    chroma = [x - colors.luminance(x) for x in (*found, resized_photo)]
    chroma_errors = [np.abs(one - chroma[-1]).mean() for one in chroma]
    # "luminance" keeps the photo's hues, and "histogram" the mean and the covariance of its colours.
    assert chroma_errors[5] < 0.2 * chroma_errors[0] and chroma_errors[6] < 0.9 * chroma_errors[0]


def test_the_photos_own_size_and_strength_0_give_the_photo(two_styles, photo, tmp_path):
    run(
        "style_transfer.py",
        photo,
        "--learned",
        two_styles / "wave",
        *("--size", 0, "--strength", 0, "--output", tmp_path / "a.png"),
    )
    np.testing.assert_allclose(pixels(tmp_path / "a.png"), pixels(photo), atol=1)


def test_a_grey_painting_makes_grey_pictures(two_styles, photo):
    style = learned_styles.load_style(two_styles / "wave")
    stylizer = learned_styles.Stylizer([(two_styles / "wave", 1.0)])
    grey = np.full((3, 3), style.covariance.mean())
    stylizer.style = dataclasses.replace(style, mean=np.full(3, 120.0), covariance=grey)
    picture = learned_styles.apply_final_options(stylizer.stylize(pixels(photo)), pixels(photo)).astype(int)
    assert np.ptp(picture, axis=2).max() <= 1 < np.ptp(picture[..., 0])


def test_a_folder_is_continued_only_with_the_same_style(two_styles, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("china", "flower"):
        Image.open(ROOT / f"images/content/{name}.jpg").resize((96, 64)).save(tmp_path / f"photos/{name}.jpg")
    (tmp_path / "photos/broken.jpg").write_bytes(b"no photo")
    command = ("style_transfer.py", tmp_path / "photos", "--size", 64, "--output", tmp_path / "out", "--learned")
    run(*command, two_styles / "wave", status=1)
    assert [row["status"] for row in rows_of(tmp_path / "out").values()] == ["failed", "done", "done"]
    assert "done before: 2" in run(*command, two_styles / "wave", status=1).stdout
    assert "--learned" in run(*command, two_styles / "starry_night", status=2).stderr
    assert "--learned" in run(*command, f"{two_styles / 'wave'}=2", two_styles / "starry_night", status=2).stderr
    assert "--refine" in run(*command, two_styles / "wave", "--refine", 1, status=2).stderr
    run(*command, two_styles / "wave", "--refine", 1, "--overwrite", status=1)
    assert [row.get("steps") for row in rows_of(tmp_path / "out").values()] == ["", "1", "1"]


@pytest.mark.slow
def test_an_interrupted_training_is_continued(two_styles, tmp_path, monkeypatch):
    command = ("train_style.py", PAINTING, OTHER, *QUICK, "--steps", 12, "--output", tmp_path / "m")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)
        assert "--resume" in run(*command, status=130).stderr
    assert "--resume" in run(*command, status=2).stderr
    assert "is not finished" in run("style_transfer.py", PAINTING, "--learned", tmp_path / "m", status=2).stderr
    for flag, value, complaint in (
        ("--content-weight", 3, "content_weight 4.0, not 3.0"),
        ("--precision", "mixed_bfloat16", "precision float32, not mixed_bfloat16"),
        ("--photos", ROOT / "images/style", "photos 6, not 8"),
    ):
        assert complaint in run(*command, flag, value, "--resume", status=2).stderr
    base = (*(word for word in command if word != "--from-scratch"), "--base", two_styles, "--resume")
    assert "begun with another base, or version; --overwrite starts again" in run(*base, status=2).stderr
    checkpoint = style_training.TrainingState.load(tmp_path / "m/checkpoint.npz")
    dataclasses.replace(checkpoint, variables=checkpoint.variables[1:]).save(tmp_path / "m/checkpoint.npz")
    assert "another version" in run(*command, "--resume", status=2).stderr
    checkpoint.save(tmp_path / "m/checkpoint.npz")
    photos, _ = style_training.read_photos(train_style.PHOTOS, 0)
    paintings, options = [PAINTING, OTHER], config.Learn(size=128, steps=12)
    training = style_training.StyleTraining(tmp_path / "m", paintings, photos, None, options)
    training.resume()
    assert all(map(np.array_equal, training.all_variables(), checkpoint.variables))
    run(*command, "--resume")
    expected, resumed = (np.loadtxt(x / "loss.csv", delimiter=",", skiprows=1) for x in (two_styles, tmp_path / "m"))
    np.testing.assert_allclose(resumed[:, :2], expected[:, :2], rtol=0.02)  # a busy processor rounds sums differently
    for flags in ((), ("--resume",)):
        assert "--overwrite to learn it again" in run(*command, *flags, status=2).stderr
    for flags in (("--weights", tmp_path / "no.h5"), ("--base", two_styles / "loss.csv")):  # errors that delete nothing
        run(*(word for word in command if word != "--from-scratch"), *flags, "--overwrite", status=2)
    assert learned_styles.load_style(tmp_path / "m/wave").name == "wave"


def test_a_training_begins_with_the_given_base_or_the_included_one_or_none(two_styles, tmp_path, monkeypatch):
    base, style = two_styles / "network.npz", learned_styles.load_style(two_styles / "wave")
    mean = (style.vectors + learned_styles.load_style(two_styles / "starry_night").vectors) / 2
    assert train_style.base_of(config.Learn(base=str(base))) == base
    for path, vectors in ((base, mean), (two_styles, mean), (two_styles / "wave", style.vectors)):
        loaded = learned_styles.load_base(path)
        assert loaded[0] == base
        np.testing.assert_allclose(loaded[1], vectors, atol=1e-6)
    monkeypatch.setattr(learned_styles, "STYLES", two_styles)
    assert train_style.base_of(config.Learn()) == base
    assert train_style.base_of(config.Learn(from_scratch=True)) is None
    monkeypatch.setattr(learned_styles, "STYLES", tmp_path)
    assert train_style.base_of(config.Learn()) is None


def test_a_step_of_muon_is_about_as_large_in_all_directions():
    kernel = keras.Variable(np.zeros((3, 3, 4, 16), "float32"))
    muon = style_training.Muon(1.0)
    muon.build([kernel])
    gradient = np.random.default_rng(0).normal(size=kernel.shape) * np.logspace(0, 1, 16)  # columns of different scales
    muon.apply([tf.constant(gradient, "float32")], [kernel])
    change = -np.asarray(kernel).reshape(36, 16)
    lengths = np.linalg.svd(change, compute_uv=False) / (6 * style_training.KERNEL_RATE)
    assert lengths.min() > 0.5 and lengths.max() < 1.3
    assert np.sum(change * gradient.reshape(36, 16)) > 0


def test_muon_trains_all_kernels_except_that_of_the_last_layer():
    network = stylization_network.StylizationNetwork()
    muon = style_training.Muon(1.0)
    muon.build(network.trainable_variables)
    by_muon = {
        variable.path
        for variable, of_adam in zip(network.trainable_variables, muon.adam_velocities, strict=True)
        if of_adam is None
    }
    assert by_muon == {x.path for x in network.trainable_variables if x.name == "kernel" and "leave" not in x.path}


@pytest.mark.slow
def test_the_guidance_brings_mean_colours_closer_and_is_strongest_at_the_start(vgg, tmp_path):
    assert [style_training.guidance_weight(share) for share in (0, 0.25, 0.5, 1)] == [1, 0.5, 0, 0]
    options = config.Learn(size=128, steps=10)
    photos = [np.asarray(Image.open(ROOT / "images/content/china.jpg").resize((96, 64)))]
    training = style_training.StyleTraining(tmp_path, [PAINTING], photos, None, options)
    photo, recolored, noise = training.draw_piece(np.random.default_rng(0), training.targets[0])

    def color_error():
        picture = np.asarray(training.network([recolored[None], noise, np.asarray(training.styles)[:1]]))[0]
        return (imaging.resize_picture(picture - recolored, 4, 4) ** 2).mean()

    terms, plain = training.loss_of_piece(photo, recolored, noise, 0, np.float32(0))
    same, guided = training.loss_of_piece(photo, recolored, noise, 0, np.float32(1))
    np.testing.assert_allclose(terms, same, rtol=1e-5)
    before = color_error()
    for variable, guided_gradient, plain_gradient in zip(
        training.network.trainable_variables, guided[1], plain[1], strict=True
    ):
        variable.assign_sub(0.01 * (guided_gradient - plain_gradient))
    assert color_error() < before


def test_a_training_with_a_base_begins_with_the_guidance(two_styles, tmp_path, monkeypatch):
    recorded = mock.Mock(side_effect=errors.Interrupted)
    monkeypatch.setattr(style_training.StyleTraining, "loss_of_piece", recorded)
    photos, _ = style_training.read_photos(train_style.PHOTOS, 0)
    training = style_training.StyleTraining(tmp_path, [PAINTING], photos, two_styles, config.Learn(size=128, steps=10))
    with pytest.raises(errors.Interrupted):
        training.step()
    assert recorded.call_args.args[-1] == 1


def test_minutes_are_converted_to_steps_after_some_timed_steps(monkeypatch):
    monkeypatch.setattr(style_training.time, "monotonic", lambda: 100)
    budget, found = style_training.StepBudget(minutes=10), []
    untimed, timed = (28, 29, 30), range(32, 46, 2)
    for done, seconds in enumerate((*untimed, *timed), 1):
        monkeypatch.setattr(style_training.time, "monotonic", lambda seconds=seconds: 100 + seconds)
        found.append(budget.steps(done))
    assert found == [0] * (2 + style_training.TIMED_STEPS) + [10 + (600 - 44) / 2]


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("nothing.jpg",), "nothing.jpg does not exist"),
        ((PAINTING, "--from-scratch", "--keep-network"), "--keep-network needs a network"),
        ((PAINTING, PAINTING), "two paintings have the same name"),
        ((PAINTING, "--photos", "nowhere"), "there is no folder nowhere"),
        ((PAINTING, "--base", "a.npz", "--from-scratch"), "--base cannot be combined with --from-scratch"),
        ((PAINTING, "--base", "a.npz"), "a.npz does not exist"),
        ((PAINTING, "--base", ROOT / "docs"), "neither a learned style nor network.npz"),
        ((PAINTING, "--steps", 3, "--minutes", 3), "--steps cannot be combined with --minutes"),
        ((PAINTING, "--photos", ROOT / "docs"), "no photo to learn from"),
        ((ROOT / "README.md",), "README.md is not a picture"),
        ((PAINTING, "--resume"), "no training to resume"),
    ],
)
def test_wrong_training_commands_are_explained_in_one_line(flags, complaint, tmp_path):
    assert complaint in run("train_style.py", *flags, "--output", tmp_path / "m", status=2).stderr
    assert not (tmp_path / "m").exists()


def test_a_uniform_painting_is_refused(tmp_path):
    Image.new("RGB", (80, 60), (180, 90, 40)).save(tmp_path / "flat.png")
    assert "of one colour" in run("train_style.py", tmp_path / "flat.png", "--output", tmp_path / "m", status=2).stderr


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--learned", "wvae"), "there is no learned style wvae"),
        (("--learned", "wave=-1"), "takes NAME=WEIGHT"),
        (("--learned", "a", "--style", PAINTING), "cannot be combined with --style"),
        (("--learned", "a", "--iterations", 3), "--iterations cannot be combined with --learned"),
        (
            ("--learned", "a", "--content-weight", 3),
            "--content-weight cannot be combined with --learned unless --refine is given",
        ),
        (("--learned", "a", "--refine", 3, "--scales", 2), "--scales cannot be combined with --learned"),
        (("--style", PAINTING, "--refine", 3), "need --learned"),
        (("--style", PAINTING, "--strength", 0.5), "need --learned"),
        (("--style", PAINTING, "--size", 0), "need --learned"),
        (("--style", PAINTING, "--stroke-size", 2), "--stroke-size needs --learned; with --style, use --style-scale"),
        (("--learned", "a", "--size", 8), "at least 32"),
    ],
)
def test_wrong_commands_with_learned_styles_are_explained_in_one_line(flags, complaint, photo, tmp_path):
    assert complaint in run("style_transfer.py", photo, *flags, "--output", tmp_path / "a.png", status=2).stderr


def test_folders_without_a_style_are_not_changed(two_styles, tmp_path):
    shutil.copytree(ROOT / "trained/mnist", tmp_path / "mnist")
    command = ("train_style.py", PAINTING, *QUICK, "--steps", 1, "--output")
    for flags in ((), ("--overwrite",), ("--resume",)):
        assert "does not hold a learned style" in run(*command, tmp_path / "mnist", *flags, status=2).stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/loss.csv").write_text("mine")
    assert "loss.csv would be replaced" in run(*command, tmp_path / "mine", status=2).stderr
    assert (tmp_path / "mine/loss.csv").read_text() == "mine"
    message = run("train_style.py", PAINTING, "--photos", tmp_path, "--output", tmp_path / "m", status=2).stderr
    assert "among the photos" in message
    with pytest.raises(errors.InputError, match="a network with several styles; give one of them: .*starry_night"):
        learned_styles.load_style(two_styles)


@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        ("style.npz", "gone", "style.npz is damaged"),
        ("style.npz", "cut", "style.npz is damaged"),
        ("style.npz", "other", "style.npz is damaged"),
        ("network.npz", "gone", "is a style without its network"),
        ("network.npz", "cut", "belongs to another network"),
        ("network.npz", "other", "belongs to another network"),
        ("meta.json", "gone", "there is no learned style"),
        ("meta.json", "cut", "meta.json is damaged"),
        ("meta.json", "other", "does not hold a learned style"),
    ],
)
def test_a_damaged_style_is_explained_in_one_line(name, damage, complaint, two_styles, tmp_path):
    folder = tmp_path / "wave"
    shutil.copytree(two_styles / "wave", folder)
    shutil.copy(two_styles / "network.npz", folder)
    path = folder / name
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.write_text(json.dumps({"network": "another"}))
    with pytest.raises(errors.InputError, match=complaint):
        learned_styles.Stylizer([(folder, 1.0)])


def test_a_style_of_a_former_network_is_explained(two_styles, tmp_path):
    shutil.copytree(two_styles, tmp_path / "styles")
    with np.load(tmp_path / "styles/wave/style.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "styles/wave/style.npz", **arrays | {"numbers": np.zeros(1952, "float32")})
    with pytest.raises(errors.InputError, match="an earlier version wrote it, train_style.py can learn it again"):
        learned_styles.load_style(tmp_path / "styles/wave")


SHIPPED = sorted(path.parent.name for path in (ROOT / "trained/styles").glob("*/style.npz"))


def test_the_included_styles_are_small_documented_and_different(photo):
    styles = ROOT / "trained/styles"
    shipped = [
        styles / "network.npz",
        *(styles / name / file for name in SHIPPED for file in ("style.npz", "meta.json")),
    ]
    assert sum(path.stat().st_size for path in shipped) < 10e6
    photo, pictures = imaging.resize_picture(pixels(photo), 128, 96), []
    network = learned_styles.load_network(styles / "network.npz")
    for name in SHIPPED:
        meta, style = learned_styles.read_meta(styles / name), learned_styles.load_style(name)
        assert meta["title"] and meta["learned_on"] and (name == "daedalus" or meta["losses"]["network"]["style"] < 1)
        picture = learned_styles.stylize(network, photo, style)
        np.testing.assert_allclose(picture.mean((0, 1)), style.mean, atol=0.5)
        scale = np.abs(style.covariance).max()
        np.testing.assert_allclose(np.cov(picture.reshape(-1, 3).T) / scale, style.covariance / scale, atol=0.05)
        pictures.append(learned_styles.apply_final_options(picture, photo).astype(float))
    for i, one in enumerate(pictures):
        assert all(np.abs(one - other).mean() > 5 for other in pictures[:i])
    mixed = learned_styles.Stylizer([("wave", 1.0), ("scream", 1.0)])
    assert mixed.style.name == "wave+scream"


def test_styles_of_two_networks_are_not_mixed(two_styles, tmp_path):
    shutil.copytree(two_styles, tmp_path / "copy")
    network = learned_styles.load_network(two_styles / "network.npz")
    network.set_weights([2 * weight for weight in network.get_weights()])
    learned_styles.save_network(tmp_path / "copy/network.npz", network, learned_styles.load_style("wave").vectors[None])
    with pytest.raises(errors.InputError, match="another network"):
        learned_styles.load_style(tmp_path / "copy/wave")
    style = learned_styles.load_style(two_styles / "wave")
    other = dataclasses.replace(style, network=tmp_path / "copy/network.npz")
    with pytest.raises(errors.InputError, match="only styles of one network can be mixed"):
        learned_styles.mix_styles([style, other], [1, 1])


def test_refining_needs_the_weights_that_the_styles_were_learned_with(two_styles, photo, tmp_path):
    shutil.copytree(two_styles, tmp_path / "both")
    meta = json.loads((tmp_path / "both/wave/meta.json").read_text())
    (tmp_path / "both/wave/meta.json").write_text(json.dumps(meta | {"weights": "mine.npz"}))
    command = ("style_transfer.py", photo, "--size", 64, "--output", tmp_path / "a.png")
    mixture = (*command, "--learned", tmp_path / "both/wave", tmp_path / "both/starry_night")
    run(*mixture)
    assert "they can be mixed, but not with --refine" in run(*mixture, "--refine", 1, "--overwrite", status=2).stderr
    refined = (*command, "--learned", two_styles / "wave", "--refine", 1, "--overwrite")
    assert "--weights imagenet" in run(*refined, "--weights", "mine.npz", status=2).stderr


def test_a_style_learned_with_former_weights_works_but_is_not_refined(style_copy, photo, tmp_path):
    command = ("style_transfer.py", photo, "--learned", style_copy("hed"), "--size", 64, "--output", tmp_path / "a.png")
    run(*command)
    message = run(*command, "--refine", 1, "--overwrite", status=2).stderr
    assert "learned with the weights hed" in message and "train_style.py can learn it again" in message
