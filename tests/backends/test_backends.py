"""The scripts on PyTorch and JAX: losses and gradients are TensorFlow's, and the main paths run on real input."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

CHINA, PAINTING = "images/content/china.jpg", "images/style/starry_night.jpg"


@pytest.fixture(scope="session")
def expected(tmp_path_factory):
    """The losses and gradients of TensorFlow, a dict of arrays."""
    path = tmp_path_factory.mktemp("expected") / "losses.npz"
    variables = os.environ | {"KERAS_BACKEND": "tensorflow"}
    subprocess.run([sys.executable, ROOT / "tests/backends/losses.py", path], env=variables, check=True)
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
    variables = os.environ | {"KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, "style_transfer.py", CHINA, *map(str, flags), "--output", tmp_path / "b.png"]
    subprocess.run(command, env=variables, cwd=ROOT, check=True)
    assert pictures_differ_by(tmp_path / "a.png", tmp_path / "b.png") < 1  # grey level


def test_a_photo_is_painted_in_a_learned_style(call, tmp_path):
    told = call("style_transfer.py", CHINA, "--learned", "wave", "--size", 128, "--output", tmp_path / "a.png")
    assert told.stderr.startswith(("device: PyTorch, ", "device: JAX, "))
    assert Image.open(tmp_path / "a.png").size == (128, 85)


def test_a_photo_is_dreamed_on(call, tmp_path):
    call("deepdream.py", CHINA, "--size", 96, "--steps", 2, "--output", tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").width == 96


def test_digits_are_classified_as_with_tensorflow(call, tmp_path):
    assert "accuracy: 0.96389" in call("classify_mnist.py", "trained/digits", "--output", tmp_path / "a.png").stdout


@pytest.mark.parametrize("call", ["torch"], indirect=True)
def test_filters_are_shown(call, tmp_path):
    flags = ("--images", CHINA, "--size", 64, "--filters", 2, "--dreams", 0)
    assert "filter_" in call("visualize_filters.py", "block2_conv1", *flags, "--output", tmp_path / "a.png").stdout


@pytest.mark.parametrize("call", ["torch"], indirect=True)
def test_a_digit_is_trained_and_drawn(call, tmp_path):
    flags = ("--digit", 3, "--units", 16, "--epochs", 1, "--num-images", 80, "--output")
    call("train_rnn.py", "digits", *flags, tmp_path / "digit")
    call("generate_rnn.py", tmp_path / "digit", "--digit", 3, "--output", tmp_path / "a.png")


@pytest.mark.parametrize("call", ["torch"], indirect=True)
def test_the_gpus_lbfgs_finds_the_loss_of_scipys(call):
    assert "lower" in call("tests/backends/lbfgs.py").stdout
