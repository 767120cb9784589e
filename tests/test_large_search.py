"""large_search.py and tiled_loss.py: gradients in tiles, checkpoints, and the search for large pictures."""

import dataclasses
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, file_size_limit, pixels, results, run
from PIL import Image

import config
from atelier import hardware, imaging
from atelier.style import large_search, optimization, perceptual_loss, region_search, tiled_loss

PAINTING, OTHER = ROOT / "images/style/glands.jpg", ROOT / "images/style/gravel.jpg"
FEW_LAYERS = ("--content-layers", "block2_conv2", "--style-layers", "block1_conv1", "block2_conv1")  # quickly traced
QUICK = ("--precision", "float32", *FEW_LAYERS, "--style", PAINTING)

pytestmark = pytest.mark.usefixtures("cache_vgg")


# --- The gradient in tiles ---


SLOW = [pytest.param(task, marks=pytest.mark.slow) for task in ("published", "regions")]


@pytest.mark.parametrize("task", ["style", *SLOW])
def test_the_loss_in_tiles_equals_that_of_the_whole_picture(task, monkeypatch, tmp_path):
    more = {"style": (str(PAINTING),), "quiet": True, "precision": "float64"}  # no rounding at the kinks of ReLU
    options = dataclasses.replace(config.STYLE_DEFAULTS["published" if task == "published" else "style"], **more)
    options = perceptual_loss.layers_at(config.LARGE + 1, options)
    model = optimization.StyleModel(options)
    base = imaging.resize_picture(pixels(ROOT / "images/content/china.jpg"), 309, 203)
    picture = base + np.random.default_rng(0).normal(0, 20, base.shape).astype("float32")
    style = model.statistics(pixels(PAINTING)[None, :128])
    targets = {"content": model.content(base[None]), "style": style}
    regions = [[layer] for layer in style]
    if task == "regions":
        shares = np.random.default_rng(1).random((203, 309, 1)) * np.float32([1, 0]) + np.float32([0, 1])
        guides = {"guides": [region_search.guides_at(shares, layer) for layer in options.style_layers]}
        regions = [[layer, [x / 2 for x in layer]] for layer in style]
        targets |= guides | {"areas": np.float32([0.3, 0.7]), "style": regions}
    expected, gradient = model.loss_and_gradient(picture[None], targets)
    tiled = tiled_loss.TiledLoss(model, options, len(regions[0]))
    monkeypatch.setattr(tiled_loss, "TILE", 64 + 2 * tiled.border)
    assert tiled.border == (64 if task == "published" else 32)
    assert len(tiled_loss.tiles_of(picture, tiled.border)) == (2 * 3 if task == "published" else 3 * 4)
    found, in_tiles = tiled.loss_and_gradient(
        picture, targets | {"content": tiled.content_of(base, tmp_path), "style": regions}
    )
    for name, term in expected.items():
        assert found[name] == pytest.approx(float(term), rel=1e-5)
    gradient = np.asarray(gradient)[0]
    assert np.linalg.norm(in_tiles - gradient) < 1e-4 * np.linalg.norm(gradient)
    if task == "style":
        for whole, own in zip(model.statistics(picture[None]), tiled.statistics(picture)):
            for a, b in zip(whole, own):
                np.testing.assert_allclose(b, a, atol=5e-5 * np.abs(a).max())


# --- The search ---


@pytest.fixture
def large_from_64(monkeypatch):
    """Count pictures above 64 pixels as large, use small tiles, and write a checkpoint after each step."""
    monkeypatch.setattr(config, "LARGE", 64)
    monkeypatch.setattr(large_search, "TILED", 64)
    monkeypatch.setattr(tiled_loss, "TILE", 96)
    monkeypatch.setattr(large_search, "SECONDS_BETWEEN", 0)


def paint(photo, result, *flags, status=0):
    return run("style_transfer.py", photo, *QUICK, "--size", 96, "--output", result, *flags, status=status)


@pytest.mark.slow
def test_the_steps_lower_the_loss_as_lbfgs_does(photo, large_from_64, monkeypatch, tmp_path):
    def final_loss(name, steps):
        printed = paint(photo, tmp_path / f"{name}.png", "--scales", 1, "--iterations", steps)
        return float(results(printed.stdout)["loss"])

    tiled = final_loss("tiled", 9)  # the loss before the last step
    monkeypatch.setattr(config, "LARGE", 96)
    whole, first = final_loss("whole", 8), final_loss("first", 1)
    assert tiled < 0.8 * first and tiled < 1.2 * whole


def test_published_losses_of_a_large_picture_stay_finite(photo, large_from_64, tmp_path):
    flags = ("--published-losses", "--scales", 1, "--compare")
    losses = [
        float(results(paint(photo, tmp_path / f"{steps}.png", *flags, "--iterations", steps).stdout)["loss"])
        for steps in (1, 4)
    ]
    assert losses[1] < losses[0]
    sheet, picture = pixels(tmp_path / "4__compare.png"), pixels(tmp_path / "4.png")
    assert np.abs(sheet[:72, :96] - picture).mean() > 5  # the photo on the sheet is unchanged


@pytest.mark.slow
def test_a_large_picture_takes_the_steps_of_its_effort(photo, large_from_64, tmp_path):
    printed = paint(photo, tmp_path / "a.png", "--effort", "low", "--scales", 2)
    assert results(printed.stdout)["steps"] == f"{config.EFFORTS['low'][0]} + {config.LARGE_STEPS['low']}"
    assert Image.open(tmp_path / "a.png").size == (96, 72) and not [*tmp_path.glob("*unfinished*")]


def interrupt_after(steps, monkeypatch):
    """Interrupt the search after this number of large steps. Returns a function that undoes this."""
    original, calls = tiled_loss.TiledLoss.loss_and_gradient, []

    def interrupted(self, *arguments):
        if len(calls) == steps:
            raise KeyboardInterrupt
        calls.append(1)
        return original(self, *arguments)

    monkeypatch.setattr(tiled_loss.TiledLoss, "loss_and_gradient", interrupted)
    return lambda: monkeypatch.setattr(tiled_loss.TiledLoss, "loss_and_gradient", original)


LONG = ("--scales", 2, "--iterations", 2, 4)


def test_after_ctrl_c_the_same_command_goes_on_and_the_picture_is_the_same(photo, large_from_64, monkeypatch, tmp_path):
    more = ("--plot", "--gif")
    whole = results(paint(photo, tmp_path / "whole.png", *LONG, *more).stdout)
    go_on = interrupt_after(3, monkeypatch)
    error = paint(photo, tmp_path / "a.png", *LONG, *more, status=130).stderr
    assert f"interrupted; the same command goes on from {tmp_path / 'a__unfinished.npz'}" in error
    assert not (tmp_path / "a.png").exists()
    go_on()
    resumed = paint(photo, tmp_path / "a.png", *LONG, *more)
    assert "going on after step 5" in resumed.stderr
    unlike = {"picture", "animation", "plot", "seconds"}
    assert {key: text for key, text in whole.items() if key not in unlike}.items() <= results(resumed.stdout).items()
    assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "whole.png")).all()
    assert Image.open(tmp_path / "a.gif").n_frames == Image.open(tmp_path / "whole.gif").n_frames
    assert not [*tmp_path.glob("*unfinished*")]


@pytest.fixture
def unfinished(photo, large_from_64, monkeypatch, tmp_path):
    """The path of a result whose search was interrupted."""
    go_on = interrupt_after(1, monkeypatch)
    paint(photo, tmp_path / "a.png", *LONG, status=130)
    go_on()
    return tmp_path / "a.png"


def test_a_small_picture_does_not_take_the_name_of_an_unfinished_one(photo, unfinished):
    command = ("style_transfer.py", photo, "--style", OTHER, "--size", 64, "--iterations", 1, "--output", unfinished)
    assert "a__unfinished.npz is of an unfinished picture" in run(*command, status=2).stderr
    run(*command, "--overwrite")


@pytest.mark.slow
@pytest.mark.parametrize("change", ["option", "painting"])
def test_the_checkpoint_of_another_command_is_refused(change, photo, unfinished, tmp_path):
    flags = {"option": ("--tv-weight", 1), "painting": ("--style", OTHER)}[change]
    error = paint(photo, unfinished, *LONG, *flags, status=2).stderr
    names = {"option": "--tv-weight 4.0, now 1.0", "painting": "gravel.jpg"}
    assert "a__unfinished.npz was made with other options (" in error and names[change] in error
    printed = paint(photo, unfinished, *LONG, *flags, "--overwrite")
    assert "going on" not in printed.stderr and not [*tmp_path.glob("*unfinished*")]


def test_with_another_photo_the_search_begins_anew(photo, unfinished, tmp_path):
    Image.fromarray(255 - pixels(photo).astype("uint8")).save(tmp_path / "b.png")
    printed = paint(tmp_path / "b.png", unfinished, *LONG)
    assert "going on" not in printed.stderr and not [*tmp_path.glob("*unfinished*")]


def test_a_damaged_checkpoint_is_refused(photo, unfinished, tmp_path):
    path = tmp_path / "a__unfinished.npz"
    path.write_bytes(path.read_bytes()[:5000])
    assert f"{path} is damaged; remove it" in paint(photo, unfinished, *LONG, status=2).stderr
    assert "going on" not in paint(photo, unfinished, *LONG, "--overwrite").stderr


def test_if_the_loss_becomes_nan_the_last_good_picture_is_written(photo, large_from_64, monkeypatch, tmp_path):
    original, calls = tiled_loss.TiledLoss.loss_and_gradient, []

    def breaks_down(self, *arguments):
        terms, gradient = original(self, *arguments)
        calls.append(1)
        return terms, gradient * (np.nan if len(calls) == 3 else 1)

    monkeypatch.setattr(tiled_loss.TiledLoss, "loss_and_gradient", breaks_down)
    printed = paint(photo, tmp_path / "a.png", "--scales", 1, "--iterations", 6, status=1)
    assert "the loss became NaN" in printed.stderr and "is the last good picture" in printed.stderr
    monkeypatch.undo()
    assert not [*tmp_path.glob("*unfinished*")]
    assert np.isfinite(pixels(tmp_path / "a.png")).all() and pixels(tmp_path / "a.png").std() > 5


def test_a_full_disk_leaves_the_last_checkpoint(photo, unfinished, tmp_path):
    before = (tmp_path / "a__unfinished.npz").read_bytes()
    with file_size_limit(20_000):
        paint(photo, unfinished, *LONG, status=2)
    assert [path.name for path in tmp_path.glob("*unfinished*")] == ["a__unfinished.npz"]
    assert (tmp_path / "a__unfinished.npz").read_bytes() == before


@pytest.mark.slow
def test_regions_and_a_mask_of_a_large_picture(photo, large_from_64, tmp_path):
    for name, white in (("mask", (0, 0, 64, 96)), ("map", (0, 0, 128, 48))):
        picture = Image.new("L", (128, 96))
        picture.paste(255, white)
        picture.save(tmp_path / f"{name}.png")
    flags = ("--mask", tmp_path / "mask.png", "--regions", tmp_path / "map.png", "--style", PAINTING, OTHER)
    paint(photo, tmp_path / "a.png", "--scales", 1, "--iterations", 2, *flags)
    difference = np.abs(pixels(tmp_path / "a.png") - imaging.resize_picture(pixels(photo), 96, 72))
    assert difference[:, 52:].max() <= 0.51 and difference[:, :44].mean() > 5


def test_a_large_texture_needs_no_photo(large_from_64, tmp_path):
    flags = ("--style-layers", "block1_conv1", "block2_conv1", "--precision", "float32", "--size", 96, "--quiet")
    run("style_transfer.py", "--style", PAINTING, *flags, "--iterations", 3, "--output", tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == (96, 96)


def test_too_little_memory_or_disk_is_refused_before_the_work(photo, large_from_64, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(hardware, "machine_memory", lambda: 1)
        error = paint(photo, tmp_path / "a.png", status=2).stderr
        assert (
            "a search at 96 x 72 pixels takes about 3.5 GB of memory, and this machine has 1.1; give a smaller" in error
        )
    monkeypatch.setattr(large_search, "CHECKPOINTS", 10**15)
    error = paint(photo, tmp_path / "a.png", status=2).stderr
    assert f"on the disk of {tmp_path}" in error and "give another --output, or a smaller --size" in error


def test_layers_adam_and_films_have_a_largest_size(photo, tmp_path):
    film = tmp_path / "film.gif"
    Image.new("RGB", (64, 64)).save(film, save_all=True, append_images=[Image.new("RGB", (64, 64), "red")])
    for flags, refused in (
        ((photo, "--layer", "block1_conv1"), "--layer takes"),
        ((photo, "--style", PAINTING, "--optimizer", "adam"), "--optimizer adam takes"),
        ((film, "--style", PAINTING), "a film takes"),
    ):
        error = run("style_transfer.py", *flags, "--size", 1201, status=2).stderr
        assert f"{refused} a --size of at most 1200" in error


def test_a_small_painting_is_noted_and_not_read_enlarged(photo, large_from_64, tmp_path):
    Image.open(PAINTING).resize((70, 70)).save(tmp_path / "small.png")
    flags = ("--style", tmp_path / "small.png", "--scales", 1, "--iterations", 1)
    error = paint(photo, tmp_path / "a.png", *flags).stderr
    assert "small.png has 70 pixels and not 96, so fine strokes are blurred, or smaller" in error
    options = config.Style(size=96, style=(str(tmp_path / "small.png"),))
    assert [x.shape for x in optimization.read_paintings(options)] == [(70, 70, 3)]


# --- Whole commands ---


def command(photo, result, *flags):
    words = ("style_transfer.py", photo, *QUICK, "--scales", 1, "--output", result, *flags)
    return [sys.executable, *map(str, words)]


@pytest.mark.slow
def test_after_kill_9_the_same_command_goes_on(photo, tmp_path):
    flags = ("--size", 1216, "--iterations", 3)
    subprocess.run(command(photo, tmp_path / "whole.png", *flags), check=True, cwd=ROOT)
    process = subprocess.Popen(command(photo, tmp_path / "a.png", *flags), cwd=ROOT)
    while not (tmp_path / "a__unfinished.npz").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = subprocess.run(command(photo, tmp_path / "a.png", *flags), cwd=ROOT, capture_output=True, text=True)
    assert re.search("going on after step [12]", resumed.stderr)
    assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "whole.png")).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "whole.png"]


@pytest.mark.slow
def test_the_memory_of_a_large_picture_is_bounded(photo, tmp_path):
    # By way of a small process, because a new process inherits the peak memory of the one that starts it.
    measure = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
    measure += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6)"
    gigabytes = []
    for size in (1216, 2432):
        words = ("style_transfer.py", photo, "--style", PAINTING, "--size", size, "--scales", 1, "--iterations", 1)
        words = [
            sys.executable,
            "-c",
            measure,
            sys.executable,
            *map(str, (*words, "--output", tmp_path / f"{size}.png")),
        ]
        gigabytes.append(float(subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout))
    assert gigabytes[0] < 2.5 and gigabytes[1] - gigabytes[0] < 0.1 * (2.432**2 - 1.216**2)
