"""What a result tells of how it was made: the command, the seed, the versions and the weights."""

import json
import platform
import shlex
import sys

import numpy as np

from atelier import hardware


def versions():
    """Return the versions that a result depends on, as a dict."""
    return {
        "python": platform.python_version(),
        "keras": hardware.keras.version(),
        "tensorflow": hardware.tf.__version__,
        "numpy": np.__version__,
    }


def of_result(seed, **more):
    """Return what a PNG's text chunks should tell of how it was made, as a dict of strings."""
    command = shlex.join(["python", *sys.argv])
    about = {"Software": "keras-atelier", "command": command, "seed": seed, "versions": versions(), **more}
    told = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    # File names need not be Unicode, and text chunks must.
    return {key: value.encode(errors="backslashreplace").decode() for key, value in told.items()}
