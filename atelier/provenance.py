"""The texts in each PNG that say how it was made: the command, the seed, the versions and the weights."""

import json
import platform

import numpy as np

from atelier import backend, hardware
from atelier.command_line import typed_command


def versions():
    """Return the versions of Python and the packages that a result depends on, as a dict."""
    return {
        "python": platform.python_version(),
        "keras": hardware.keras.version(),
        backend.NAME: backend.VERSION,
        "numpy": np.__version__,
    }


def of_result(seed, **more):
    """Return the texts that say how a picture was made, a dict for the picture's file. `more` adds texts."""
    about = {"Software": "keras-atelier", "command": typed_command(), "seed": seed, "versions": versions(), **more}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    # Text chunks must be valid Unicode. File names in the command may not be.
    return {key: text.encode(errors="backslashreplace").decode() for key, text in texts.items()}
