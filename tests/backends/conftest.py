"""The environment with PyTorch and JAX, in which the tests of this folder run the scripts (make test-backends)."""

import functools
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PYTHON = pathlib.Path(os.environ.get("BACKENDS_PYTHON", ROOT / ".venv-backends/bin/python"))

HIDING = pathlib.Path(__file__).resolve().parent / "hiding"


def run_on(backend, file, *words, status=0, hidden=()):
    """Run a Python file on a backend, and return the finished process.

    It can't import the packages in `hidden`. The environment for PyTorch and JAX has no TensorFlow. It is not hidden
    there: Keras takes the name of a hidden package in sys.modules for the package.
    """
    if not PYTHON.exists():
        pytest.skip("make test-backends installs PyTorch and JAX")
    python = sys.executable if backend == "tensorflow" else PYTHON
    changes = {"KERAS_BACKEND": backend, "PYTHONPATH": str(HIDING), "HIDDEN_PACKAGES": " ".join(hidden)}
    command, variables = [python, ROOT / file, *map(str, words)], os.environ | changes
    result = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == status, result.stderr
    return result


@pytest.fixture(params=["torch", "jax"])
def name(request):
    """The backends beside TensorFlow."""
    return request.param


@pytest.fixture
def call(name):
    """Return f(file, *words), which runs a Python file on PyTorch or JAX and returns the finished process."""
    return functools.partial(run_on, name)
