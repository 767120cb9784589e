"""Devices that lack memory or a precision, and a backend whose installation does not fit together."""

import os
import subprocess
import sys

import keras
import pytest
from conftest import ROOT

from atelier import errors, hardware


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "RESOURCE_EXHAUSTED: Failed to allocate request for 9.31GiB on device ordinal 0",
        "MPS backend out of memory (MPS allocated: 8.99 GB, other allocations: 50 MB, max allowed: 9.07 GB).",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_too_little_memory_of_a_gpu_is_one_line_that_says_what_to_lower(message):
    assert errors.describe(RuntimeError(message)).startswith("not enough memory; try fewer or smaller pictures: lower ")


def test_a_precision_that_the_device_lacks_is_named(monkeypatch):
    def lacking(picture, kernel):
        raise RuntimeError("\"slow_conv2d_cpu\" not implemented for 'Half'")

    monkeypatch.setattr(keras.ops, "conv", lacking)
    with pytest.raises(errors.InputError, match="cannot compute in float16 on this device; give --precision float32"):
        hardware.use_precision("mixed_float16", "convolutions")


def test_a_backend_whose_parts_do_not_fit_together_is_named_in_one_line(tmp_path):
    (tmp_path / "jax.py").write_text("raise RuntimeError('jaxlib 0.9 is incompatible with jax 0.4')")
    variables = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "classify_mnist.py", "trained/digits", "--output", tmp_path / "a.png"]
    result = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True)
    assert "error: JAX is installed, but does not start: jaxlib 0.9 is incompatible with jax 0.4; " in result.stderr
    assert result.returncode == 2 and result.stderr.count("\n") == 1
