"""Steps that PyTorch records on an NVIDIA GPU, and then repeats. Here the recorder is simulated on the processor."""

import pytest
from conftest import run_on
from PIL import Image, ImageChops

CHINA, PAINTING = "images/content/china.jpg", "images/style/starry_night.jpg"
RUNNER = "tests/backends/graphs.py"


def recordings(result):
    return int(result.stdout.splitlines()[-1].removeprefix("recordings: "))


@pytest.mark.parametrize("flags", [(), ("--optimizer", "adam")])
def test_a_recorded_search_paints_the_same_picture(flags, tmp_path):
    words = ("style_transfer.py", CHINA, "--style", PAINTING, "--size", 96, "--iterations", 5, *flags)
    run_on("torch", *words, "--output", tmp_path / "called.png")
    assert recordings(run_on("torch", RUNNER, *words, "--output", tmp_path / "recorded.png")) == 1
    called, recorded = (Image.open(tmp_path / name) for name in ("called.png", "recorded.png"))
    assert not ImageChops.difference(called, recorded).getbbox()


def test_a_recorded_training_has_the_same_losses(tmp_path):
    words = ("train_style.py", PAINTING, "--size", 128, "--steps", 4)
    run_on("torch", *words, "--output", tmp_path / "called")
    # the loss of the training, the updates of the style and of the network, and the loss of the search at the end
    assert recordings(run_on("torch", RUNNER, *words, "--output", tmp_path / "recorded")) == 4
    assert (tmp_path / "called/loss.csv").read_text() == (tmp_path / "recorded/loss.csv").read_text()


def test_functions_are_recorded_anew_for_other_shapes_and_called_if_that_fails():
    run_on("torch", "tests/backends/recorded_functions.py")
