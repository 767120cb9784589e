"""The environment with PyTorch and JAX, in which the tests of this folder run the scripts (make test-backends)."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PYTHON = pathlib.Path(os.environ.get("BACKENDS_PYTHON", ROOT / ".venv-backends/bin/python"))


@pytest.fixture(params=["torch", "jax"])
def call(request):
    """Return f(file, *words), which runs a Python file on PyTorch or JAX and returns what it prints."""

    def run(file, *words):
        if not PYTHON.exists():
            pytest.skip("make test-backends installs PyTorch and JAX")
        command, variables = [PYTHON, ROOT / file, *map(str, words)], os.environ | {"KERAS_BACKEND": request.param}
        result = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        return result

    return run
