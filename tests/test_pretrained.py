"""pretrained.py: weights that ship, from Keras, and from files."""

import json
import os
import pathlib
import subprocess
import sys
import threading
import urllib.request

import numpy as np
import pytest
from conftest import LOAD_VGG, ROOT, environment, run

from atelier import errors, hardware, imaging
from atelier.networks import pretrained, vision

HALF = 2**-11  # the largest relative rounding error in half precision, for numbers of at least SMALL
SMALL = 2**-14


# --- The shipped convolutions, trained on ImageNet ---


@pytest.mark.parametrize(
    ("layer", "array", "place", "value"),
    [
        ("block1_conv1", "kernel", (0, 0, 0, 0), 0.42947057),
        ("block1_conv1", "bias", (25,), 0.7446502),
        ("block1_conv2", "kernel", (2, 2, 63, 63), 0.016082443),
        ("block2_conv1", "bias", (1,), 0.06440781),
        ("block5_conv1", "kernel", (1, 0, 63, 269), -0.011236359),
        ("block5_conv2", "bias", (510,), 0.23517226),
        ("block5_conv3", "kernel", (0, 2, 0, 400), -0.008714244),
    ],
)
def test_the_shipped_weights_are_those_of_imagenet(layer, array, place, value, vgg):
    found = np.asarray(getattr(vgg.get_layer(layer), array))[place]
    assert found == pytest.approx(value, rel=1e-3)


def assert_equal_in_half_precision(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=HALF, atol=HALF * SMALL)


def test_the_shipped_weights_equal_those_in_the_cache_of_keras(vgg):
    home = pathlib.Path(os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras")
    path = home / "models/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    if not path.exists():
        pytest.skip("Keras's own file is not in its cache")
    assert_equal_in_half_precision(vgg.get_weights(), [x for pair in pretrained.read_convolutions(path) for x in pair])


@pytest.fixture(scope="module")
def exact_vgg(shared_data):
    """VGG16 with ImageNet's weights in single precision."""
    path = shared_data / "vgg16/vgg16_imagenet.npz"
    if not path.exists():
        pytest.skip("the weights in single precision are not beside the project")
    hardware.use_precision("float32", "convolutions")
    return LOAD_VGG("vgg16", str(path))[0]


def test_half_precision_changes_no_weight_by_more_than_its_rounding(vgg, exact_vgg):
    assert_equal_in_half_precision(vgg.get_weights(), exact_vgg.get_weights())


def test_half_precision_hardly_changes_the_features_of_any_layer(vgg, exact_vgg):
    photo = imaging.load_image(ROOT / "images/content/china.jpg")
    photo = imaging.resize_picture(photo, *imaging.fit(*photo.shape[1::-1], 256))
    layers = [layer.name for layer in vgg.layers if "conv" in layer.name]
    ours, theirs = (vision.feature_extractor(model, layers)(photo[None]) for model in (vgg, exact_vgg))
    assert len(layers) == 13
    for layer, one, other in zip(layers, ours, theirs, strict=True):
        assert np.linalg.norm(one - other) < 1e-3 * np.linalg.norm(other), layer


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16", "bfloat16", "float16"])
def test_the_shipped_weights_can_be_used_in_every_precision(precision, vgg):
    hardware.keras.config.set_dtype_policy(precision)
    model, _ = LOAD_VGG()
    layer = model.get_layer("block5_conv3")
    assert layer.compute_dtype == precision.removeprefix("mixed_")
    kernel = np.asarray(layer.kernel, "float32")
    np.testing.assert_allclose(kernel, vgg.get_layer("block5_conv3").get_weights()[0], rtol=2**-8, atol=1e-7)


@pytest.mark.slow
def test_shipped_weights_are_not_downloaded_and_a_download_without_an_answer_is_abandoned(monkeypatch, tmp_path):
    requested, answered, test_is_over = [], [], threading.Event()

    def answer_too_late(*_, **__):
        requested.append(1)
        answered.append(test_is_over.wait(60))
        raise OSError

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", answer_too_late)
    assert LOAD_VGG()[1] == LOAD_VGG("vgg16", "imagenet")[1] == "imagenet"
    assert not requested
    with pytest.raises(errors.InputError, match="VGG19.*--weights"):
        LOAD_VGG("vgg19")
    assert requested and not answered
    with pytest.raises(errors.InputError, match="VGG16.*--weights"):
        pretrained.load_network("vgg16", top=True)
    assert not answered
    test_is_over.set()


# The sitecustomize.py of a process that cannot reach other machines. If it tries to, it creates the file $ASKED.
OFFLINE = """
import os, pathlib, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        pathlib.Path(os.environ["ASKED"]).touch()
        raise OSError("there is no network")

sys.addaudithook(refuse)
"""

# Runs scripts one after the other. train_style.py uses smaller crops, and a shorter search to compare with.
RUN_SCRIPTS = f"""
import contextlib, json, runpy, sys

sys.path.insert(0, {str(ROOT)!r})
from atelier.style import style_training

style_training.CROP, style_training.EVALUATED_PIECES, style_training.SEARCH_STEPS = 64, 1, 2
for sys.argv in json.loads(sys.argv[1]):
    with contextlib.suppress(SystemExit):
        runpy.run_path({str(ROOT)!r} + "/" + sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def offline(tmp_path):
    """Return the environment of a process that has no internet access and an empty cache of Keras."""
    (tmp_path / "sitecustomize.py").write_text(OFFLINE)
    return environment(PYTHONPATH=tmp_path, KERAS_HOME=tmp_path / "home", ASKED=tmp_path / "asked")


PAINTING, PHOTO = ROOT / "images/style/glands.jpg", ROOT / "images/content/china.jpg"


@pytest.mark.slow
def test_scripts_work_without_internet_access_and_request_nothing(offline, tmp_path):
    commands = {
        "painting.png": ("style_transfer.py", PHOTO, "--style", PAINTING, "--size", 64, "--iterations", 1),
        "dream.png": ("deepdream.py", PHOTO, "--size", 64, "--octaves", 1, "--steps", 1),
        "filters.png": ("visualize_filters.py", "block1_conv2", "--images", PHOTO, "--size", 64, "--dreams", 0),
        "style": ("train_style.py", PAINTING, "--size", 64, "--steps", 2),
    }
    words = json.dumps([[*map(str, command), "--output", str(tmp_path / name)] for name, command in commands.items()])
    command = [sys.executable, "-c", RUN_SCRIPTS, words]
    printed = subprocess.run(command, env=offline, cwd=ROOT, capture_output=True, text=True).stderr
    assert "error" not in printed and printed.count("with the weights imagenet") == len(commands), printed
    assert [name for name in commands if not (tmp_path / name).exists()] == []
    assert not (tmp_path / "asked").exists() and not (tmp_path / "home/models").exists()


def test_a_request_is_detected(offline, tmp_path):
    asking = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')"
    assert (
        "there is no network"
        in subprocess.run([sys.executable, "-c", asking], env=offline, capture_output=True, text=True).stderr
    )
    assert (tmp_path / "asked").exists()


# --- Files ---


@pytest.mark.parametrize("name", ["vgg.weights.h5", "vgg.h5", "vgg.npz"])
def test_weights_are_read_from_three_kinds_of_files(name, weight_files, vgg):
    model, source = LOAD_VGG("vgg16", str(weight_files / name))
    assert source.endswith(name)
    for ours, theirs in zip(model.get_weights(), vgg.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("flags", [(), ("--list-layers",)])
def test_the_weights_of_former_versions_are_refused(flags, tmp_path):
    error = run("deepdream.py", "noise", "--weights", "hed", *flags, "--output", tmp_path / "a.png", status=2).stderr
    assert "--weights hed is gone" in error and "ImageNet's own" in error and "leave it out" in error


def test_only_three_by_three_convolutions_are_read(tmp_path):
    kernels = {"a": np.ones((3, 3, 2, 4)), "b": np.ones((1, 1, 4, 4)), "c": np.ones((6, 3, 4, 4))}
    arrays = {f"{name}/kernel": kernel for name, kernel in kernels.items()}
    np.savez(tmp_path / "w.npz", **arrays, **{f"{name}/bias": np.zeros(4) for name in kernels})
    ((kernel, bias),) = pretrained.read_convolutions(tmp_path / "w.npz")
    assert kernel.shape == (3, 3, 2, 4) and bias.shape == (4,)


def test_an_efficientnet_gets_the_same_input_as_with_weights_from_keras():
    picture = np.float32([[0, 128, 255], [30, 60, 90]])
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    # The network itself also divides by the deviation: in all, the division is by deviation ** 1.5.
    normalized = (pretrained.efficientnet_input(picture) / 255 - mean) / deviation
    np.testing.assert_allclose(normalized, (picture / 255 - mean) / deviation**1.5, rtol=1e-4)
