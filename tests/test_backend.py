"""backend.py: the choice of the backend, on the command line, and values and gradients of pictures of all sizes."""

import keras
import numpy as np
import pytest
from conftest import environment, run_process

from atelier import backend

PAINT = ("style_transfer.py", "images/content/china.jpg", "--learned", "wave", "--size", 64, "--output")
DRAW = ("generate_rnn.py", "trained/monet", "--output")


def test_a_function_is_traced_once_for_all_sizes():
    value = backend.value_and_gradient(lambda x, targets: {"total": keras.ops.mean(x * x) * targets["factor"]})
    for shape in ((1, 4, 5, 3), (1, 6, 5, 3), (1, 9, 2, 3)):
        picture = np.random.default_rng(0).random(shape).astype("float32")
        terms, gradient = value(picture, {"factor": np.float32(3)})
        assert float(terms["total"]) == pytest.approx(3 * np.mean(picture**2), rel=1e-5)
        np.testing.assert_allclose(gradient, 6 * picture / picture.size, rtol=1e-5)
    assert value.traces == 1


@pytest.mark.parametrize(
    ("command", "name", "message"),
    [
        (PAINT, "torhc", "KERAS_BACKEND names the backend torhc (did you mean torch?)"),
        (DRAW, "openvino", "KERAS_BACKEND names the backend openvino; set KERAS_BACKEND to tensorflow, torch or jax"),
        (PAINT, "jax", "KERAS_BACKEND names the backend jax, which is not installed; pip install jax, or set"),
    ],
)
def test_a_backend_that_cannot_be_used_is_named_in_one_line(command, name, message, tmp_path):
    if name == "jax":
        hide_package(tmp_path, "jax")
    variables = environment(KERAS_BACKEND=name, PYTHONPATH=tmp_path)
    error = run_process(*command, tmp_path / "a.png", env=variables, status=2).stderr
    assert message in error


def hide_package(folder, *names):
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({names!r}))")


@pytest.mark.slow
def test_films_alone_need_their_packages(tmp_path):
    hide_package(tmp_path, "cv2", "imageio_ffmpeg")
    variables = environment(PYTHONPATH=tmp_path)
    run_process(*PAINT, tmp_path / "a.png", env=variables)
    (tmp_path / "film.mp4").write_text("no film")
    command = ("style_transfer.py", tmp_path / "film.mp4", "--learned", "wave", "--output", tmp_path / "b.mp4")
    error = run_process(*command, env=variables, status=2).stderr
    assert "error: the package imageio_ffmpeg is not installed; pip install -r requirements.txt\n" in error


def test_a_damaged_backend_is_named_in_one_line(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so is not there')")
    variables = environment(KERAS_BACKEND="torch", PYTHONPATH=tmp_path)
    error = run_process(*PAINT, tmp_path / "a.png", env=variables, status=2).stderr
    assert "PyTorch is installed, but does not start: libtorch.so is not there" in error


def test_keras_json_chooses_the_backend_unless_the_environment_does(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "torhc"}')
    variables = environment(KERAS_HOME=tmp_path, KERAS_BACKEND="")
    error = run_process(*PAINT, tmp_path / "a.png", env=variables, status=2).stderr
    assert f"{tmp_path}/keras.json names the backend torhc (did you mean torch?)" in error
    told = run_process(*PAINT, tmp_path / "a.png", env=variables | {"KERAS_BACKEND": "tensorflow"}).stderr
    assert told.startswith("device: TensorFlow, ")
