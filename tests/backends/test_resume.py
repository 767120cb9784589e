"""Trainings and folders that are begun on one backend and continued on another."""

import csv

import numpy as np
import pytest
from conftest import ROOT, run_on
from PIL import Image

CHINA, PAINTING = "images/content/china.jpg", "images/style/starry_night.jpg"
TRAINING = "tests/backends/small_training.py"
DIGIT = ("train_rnn.py", "digits", "--digit", 3, "--units", 16, "--num-images", 80, "--dropout", 0.2)
PAINTER = ("--width", 12, "--height", 8, "--colors", 8, "--units", 12, "--dropout", 0.2, "--epochs", 2)
STYLE = ("train_style.py", PAINTING, "--size", 128, "--precision", "float32", "--steps", 3)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder with four small pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    photo = Image.open(ROOT / CHINA)
    for i in range(4):
        photo.crop((90 * i, 60, 90 * i + 120, 140)).save(folder / f"{i}.png")
    return folder


def test_a_digit_is_trained_longer_on_another_backend(name, tmp_path):
    words = (*DIGIT, "--output", tmp_path / "m")
    run_on("tensorflow", *words, "--epochs", 1)
    assert "epochs: 2" in run_on(name, *words, "--epochs", 2, "--resume").stdout
    run_on("tensorflow", "generate_rnn.py", tmp_path / "m", "--digit", 3, "--output", tmp_path / "a.png")


def test_a_painter_stopped_in_an_epoch_goes_on_on_another_backend(name, pictures, tmp_path):
    words = ("train_rnn.py", pictures, *PAINTER, "--output", tmp_path / "m")
    first, second = ("tensorflow", name) if name == "jax" else (name, "tensorflow")
    assert "--resume" in run_on(first, TRAINING, 1, *words, status=130).stderr
    run_on(second, TRAINING, 999, *words, "--resume")
    run_on(first, "generate_rnn.py", tmp_path / "m", "--count", 2, "--output", tmp_path / "a.png")


def test_a_style_goes_on_on_another_backend(name, pictures, tmp_path):
    words = (*STYLE, "--photos", pictures, "--output", tmp_path / "m")
    first, second = ("jax", "torch") if name == "jax" else ("torch", "tensorflow")
    assert "--resume" in run_on(first, TRAINING, 1, *words, status=130).stderr
    run_on(second, TRAINING, 999, *words, "--resume")
    losses = np.genfromtxt(tmp_path / "m/loss.csv", delimiter=",", names=True)
    assert len(losses) == 3 and losses["total"][-1] < 2 * losses["total"][0]


def test_a_folder_of_another_backend_is_told_apart(name, pictures, tmp_path):
    words = ("style_transfer.py", pictures, "--learned", "wave", "--size", 64, "--output", tmp_path / "out")
    run_on("tensorflow", *words)
    (tmp_path / "out/2.png").unlink(missing_ok=True)
    title = {"torch": "PyTorch", "jax": "JAX"}[name]
    assert f"(with TensorFlow, now {title})" in run_on(name, *words, status=2).stderr
    (tmp_path / "out/recipe.json").unlink()  # the pictures themselves name their backend
    assert f"(with TensorFlow, now {title})" in run_on(name, *words, status=2).stderr
    run_on(name, *words, "--overwrite")
    assert f"(with {title}, now TensorFlow)" in run_on("tensorflow", *words, status=2).stderr


def test_a_folder_goes_on_after_a_photo_without_enough_memory(name, pictures, tmp_path):
    words = (pictures, "--style", PAINTING, "--size", 64, "--iterations", 1, "--output", tmp_path / "out")
    result = run_on(name, "tests/backends/out_of_memory.py", *words, status=1)
    assert "not enough memory; try fewer or smaller pictures: lower --size" in result.stderr
    with open(tmp_path / "out/summary.csv", newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["failed", "done", "done", "done"]
    assert "done before: 3" in run_on(name, "style_transfer.py", *words).stdout
