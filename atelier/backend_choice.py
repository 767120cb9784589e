"""The choice of Keras's backend: by the environment variable KERAS_BACKEND or the file keras.json, or TensorFlow.

This module does not start the backend.
"""

import importlib.util
import json
import os
import pathlib

from atelier.errors import InputError
from atelier.naming import suggestion

TITLES = {"tensorflow": "TensorFlow", "torch": "PyTorch", "jax": "JAX"}
DEFAULT = "tensorflow"


def choose():
    """Return the backend that KERAS_BACKEND or keras.json names. Raises InputError if it can't be used."""
    name, source = os.environ.get("KERAS_BACKEND"), "KERAS_BACKEND"
    if not name:
        name, source = configured()
    if name not in TITLES:
        raise InputError(f"{source} names the backend {name}{suggestion(str(name), [*TITLES])}; {choices()}")
    if importlib.util.find_spec(name) is None:
        advice = "pip install -r requirements.txt" if name == "tensorflow" else f"pip install {name}"
        raise InputError(f"{source} names the backend {name}, which is not installed; {advice}, or {choices()}")
    return name


def configured():
    """Return the backend in the user's keras.json, or TensorFlow, and the words for its source."""
    home = pathlib.Path.home() if os.access(pathlib.Path.home(), os.W_OK) else pathlib.Path("/tmp")
    path = pathlib.Path(os.environ.get("KERAS_HOME") or home / ".keras").expanduser() / "keras.json"
    try:
        return json.loads(path.read_text())["backend"], str(path)
    except (OSError, ValueError, KeyError, TypeError):  # Keras also takes its default then
        return "tensorflow", "the default"


def choices():
    return "set KERAS_BACKEND to tensorflow, torch or jax"
