"""The scripts on PyTorch and JAX: losses and gradients are TensorFlow's, and the main paths run on real input."""

import numpy as np
import pytest
from conftest import run_on
from PIL import Image

CHINA, PAINTING = "images/content/china.jpg", "images/style/starry_night.jpg"


@pytest.fixture(scope="session")
def expected(tmp_path_factory):
    """The losses and gradients of TensorFlow, a dict of arrays."""
    path = tmp_path_factory.mktemp("expected") / "losses.npz"
    run_on("tensorflow", "tests/backends/losses.py", path)
    return dict(np.load(path))


def test_losses_and_gradients_are_those_of_tensorflow(call, expected, tmp_path):
    call("tests/backends/losses.py", tmp_path / "losses.npz")
    found = np.load(tmp_path / "losses.npz")
    assert len(found) > 25
    for name, value in found.items():
        difference = np.linalg.norm(value - expected[name]) / max(np.linalg.norm(expected[name]), 1e-9)
        assert difference < 1e-4, (name, difference)


def pictures_differ_by(path, other):
    a, b = (np.asarray(Image.open(name).convert("RGB"), "float32") for name in (path, other))
    return np.abs(a - b).mean()


def test_a_photo_is_painted_by_a_search(call, tmp_path):
    flags = ("--style", PAINTING, "--size", 96, "--iterations", 5, "--precision", "float32")
    call("style_transfer.py", CHINA, *flags, "--output", tmp_path / "a.png")
    run_on("tensorflow", "style_transfer.py", CHINA, *flags, "--output", tmp_path / "b.png")
    assert pictures_differ_by(tmp_path / "a.png", tmp_path / "b.png") < 1  # grey level


@pytest.mark.parametrize(
    "words",
    [
        (CHINA, "--style", PAINTING, "--size", 64, "--optimizer", "adam", "--iterations", 3),
        ("--style", PAINTING, "--size", 64, "--iterations", 3),  # a texture
        (CHINA, "--style", PAINTING, "images/style/wave.jpg", "--regions", "auto", "--size", 64, "--iterations", 3),
    ],
)
def test_other_searches_lower_the_loss(words, call, tmp_path):
    told = call("style_transfer.py", *words, "--output", tmp_path / "a.png").stdout
    assert "loss: " in told and (tmp_path / "a.png").exists()


def test_a_photo_is_painted_in_a_learned_style(call, tmp_path):
    told = call("style_transfer.py", CHINA, "--learned", "wave", "--size", 128, "--output", tmp_path / "a.png")
    assert told.stderr.startswith(("device: PyTorch, ", "device: JAX, "))
    assert Image.open(tmp_path / "a.png").size == (128, 85)


def test_no_module_that_a_script_may_import_needs_tensorflow(call):
    assert call("tests/backends/all_modules.py").stdout == "True module\n"


def test_photos_need_no_package_for_films(call, tmp_path):
    flags = ("--learned", "wave", "--size", 64, "--output", tmp_path / "a.png")
    call("style_transfer.py", CHINA, *flags, hidden=["imageio_ffmpeg"])
    assert Image.open(tmp_path / "a.png").width == 64


@pytest.mark.parametrize(
    "words",
    [
        (CHINA, "--size", 96),
        (CHINA, "--size", 96, "--guide", "images/style/wave.jpg"),
        (CHINA, "--size", 96, "--convnet", "trained/digit_classifier", "--class", 3),  # on waves
    ],
)
def test_a_photo_is_dreamed_on(words, call, tmp_path):
    told = call("deepdream.py", *words, "--steps", 2, "--output", tmp_path / "a.png").stdout
    assert "strength_after: " in told and Image.open(tmp_path / "a.png").width == 96


def test_digits_are_classified_as_with_tensorflow(call, tmp_path):
    assert "accuracy: 0.96389" in call("classify_mnist.py", "trained/digits", "--output", tmp_path / "a.png").stdout


def test_filters_are_shown(call, tmp_path):
    flags = ("--images", CHINA, "--size", 64, "--filters", 2, "--dreams", 0)
    assert "filter_" in call("visualize_filters.py", "block2_conv1", *flags, "--output", tmp_path / "a.png").stdout


@pytest.mark.parametrize("name", ["torch"])
def test_the_gpus_lbfgs_finds_the_loss_of_scipys(call):
    assert "lower" in call("tests/backends/lbfgs.py").stdout


@pytest.mark.parametrize("name", ["torch"])
def test_what_apples_gpus_lack_is_said_in_one_line(call):
    told = call("tests/backends/apple.py")
    assert "fallback: 1" in told.stdout and "something else" in told.stderr
    assert "note: the processor computes aten::isin, which PyTorch lacks on this GPU\n" in told.stderr


def test_a_folder_of_many_shapes_compiles_few_programs():
    """Count what JAX compiles for six shapes of photos, all of about the same size."""
    assert "programs: 2" in run_on("jax", "tests/backends/shapes.py").stdout
