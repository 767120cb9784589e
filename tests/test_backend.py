"""vision.py: values and gradients of pictures of all sizes."""

import keras
import numpy as np
import pytest

from atelier import backend


def test_a_function_is_traced_once_for_all_sizes():
    value = backend.value_and_gradient(lambda x, targets: {"total": keras.ops.mean(x * x) * targets["factor"]})
    for shape in ((1, 4, 5, 3), (1, 6, 5, 3), (1, 9, 2, 3)):
        picture = np.random.default_rng(0).random(shape).astype("float32")
        terms, gradient = value(picture, {"factor": np.float32(3)})
        assert float(terms["total"]) == pytest.approx(3 * np.mean(picture**2), rel=1e-5)
        np.testing.assert_allclose(gradient, 6 * picture / picture.size, rtol=1e-5)
    assert value.traces == 1
