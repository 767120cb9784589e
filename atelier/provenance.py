"""The texts in each PNG that say how it was made: the command, the options, the versions and the weights."""

import dataclasses
import json
import platform

import numpy as np

from atelier import backend, hardware, imaging
from atelier.command_line import typed_command
from atelier.manifests import IGNORED


def versions():
    """Return the versions of Python and the packages that a result depends on, as a dict."""
    return {
        "python": platform.python_version(),
        "keras": hardware.keras.version(),
        backend.NAME: backend.VERSION,
        "numpy": np.__version__,
    }


def of_result(options, **more):
    """Return the texts that say how a picture was made, a dict for the picture's file. `more` adds texts.

    `options` is a script's options dataclass. With its `no_metadata`, the texts name this project alone.
    """
    about = {"Software": "keras-atelier"}
    if not options.no_metadata:
        recorded = {name: value for name, value in dataclasses.asdict(options).items() if name not in IGNORED}
        about |= {"command": typed_command(), "seed": options.seed, "versions": versions(), **more, "options": recorded}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    # Text chunks must be valid Unicode. File names in the command may not be.
    return {key: text.encode(errors="backslashreplace").decode() for key, text in texts.items()}


def exif_of(photo, options):
    """Return the EXIF tags that the picture of a photo keeps, in bytes, or None. `photo` is a path or None."""
    return None if photo is None or options.no_metadata else imaging.kept_exif(photo)
