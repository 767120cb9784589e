"""The environment with PyTorch and JAX, in which the tests of this folder run the scripts (make test-backends)."""

import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PYTHON = pathlib.Path(os.environ.get("BACKENDS_PYTHON", ROOT / ".venv-backends/bin/python"))


def command_for(backend, file, *words):
    """Return the command that runs a Python file on a backend, and its environment variables."""
    python = sys.executable if backend == "tensorflow" else PYTHON
    if not python.exists() if backend != "tensorflow" else False:
        pytest.skip("make test-backends installs PyTorch and JAX")
    return [str(python), ROOT / file, *map(str, words)], os.environ | {"KERAS_BACKEND": backend}


def run_on(backend, file, *words, status=0):
    """Run a Python file on a backend, and return the finished process."""
    command, variables = command_for(backend, file, *words)
    result = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == status, result.stderr
    return result


def interrupt_on(backend, file, *words, when):
    """Run a Python file on a backend, and send SIGINT a moment after `when()`."""
    command, variables = command_for(backend, file, *words)
    # Without this, processes started by tests in the background would ignore SIGINT.
    reset = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, env=variables, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=reset)
    while not when():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors


@pytest.fixture(params=["torch", "jax"])
def name(request):
    """The backends beside TensorFlow."""
    return request.param


@pytest.fixture
def call(name):
    """Return f(file, *words), which runs a Python file on PyTorch or JAX and returns the finished process."""
    return functools.partial(run_on, name)
