"""Steps that PyTorch captures on an NVIDIA GPU, and then replays. Here the capture is simulated on the processor."""

import pytest
from conftest import run_on
from PIL import Image, ImageChops

CHINA, PAINTING = "images/content/china.jpg", "images/style/starry_night.jpg"
RUNNER = "tests/backends/graphs.py"


def captures(result):
    return int(result.stdout.splitlines()[-1].removeprefix("captures: "))


@pytest.mark.parametrize("flags", [(), ("--optimizer", "adam")])
def test_a_captured_search_paints_the_same_picture(flags, tmp_path):
    words = ("style_transfer.py", CHINA, "--style", PAINTING, "--size", 96, "--iterations", 5, *flags)
    run_on("torch", *words, "--output", tmp_path / "called.png")
    assert captures(run_on("torch", RUNNER, *words, "--output", tmp_path / "captured.png")) == 1
    called, captured = (Image.open(tmp_path / name) for name in ("called.png", "captured.png"))
    assert not ImageChops.difference(called, captured).getbbox()


def test_a_captured_training_has_the_same_losses(tmp_path):
    words = ("train_style.py", PAINTING, "--size", 128, "--steps", 4)
    run_on("torch", *words, "--output", tmp_path / "called")
    # the loss of the training, the updates of the style and of the network, and the loss of the search at the end
    assert captures(run_on("torch", RUNNER, *words, "--output", tmp_path / "captured")) == 4
    assert (tmp_path / "called/loss.csv").read_text() == (tmp_path / "captured/loss.csv").read_text()


def test_functions_are_captured_anew_for_other_shapes_and_called_if_that_fails():
    run_on("torch", "tests/backends/graph_functions.py")
