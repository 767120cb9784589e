"""What meta.json tells of the models in a folder: read, checked and written, without TensorFlow.

Out comes a dict with the `recipe`, the `source`, and of digits the `classes`, of a painter the `palette`, uint8 K x 3.
"""

import json
import pathlib

import numpy as np

import config
from atelier.errors import InputError
from atelier.pixel_rnn import palettes

CONTEXTS = config.TrainingConfig.__dataclass_fields__["context"].metadata["choices"]


def load_meta(folder):
    """Read a model folder's meta.json; for a folder of the tutorial's .h5 files, make it up. Raises InputError.

    A folder of digit models lists its `classes`; a painter's has a `palette` instead, given as uint8 K x 3.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; train_rnn.py makes such folders")
    path = folder / "meta.json"
    if not path.exists():
        classes = sorted(int(file.stem[6:]) for file in folder.glob("model_*.h5") if file.stem[6:].isdigit())
        if not classes:
            raise InputError(f"{folder} holds no meta.json and no model_0.h5: there are no models in it")
        recipe = {"size": 10, "levels": 7, "cell": "gru", "units": 256, "layers": 1, "context": "previous"}
        return {"source": "mnist", "recipe": recipe, "classes": {str(label): {} for label in classes}}
    try:
        meta = json.loads(path.read_text())
        recipe, source = meta["recipe"], meta["source"]
        if not isinstance(source, str) or recipe["context"] not in CONTEXTS:
            raise ValueError("its source or context is none")
        if "palette" in meta:
            return meta | {"palette": read_palette(meta["palette"], recipe)}
        if not all(isinstance(recipe[key], int) for key in ("size", "levels", "units", "layers")):
            raise ValueError("size, levels, units and layers must be whole numbers")
        classes = sorted((int(label), dict(entry)) for label, entry in meta["classes"].items())
        if not classes:
            raise ValueError("it lists no classes")
        return meta | {"classes": {str(label): entry for label, entry in classes}}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {error}") from error


def read_palette(text, recipe):
    """Turn a painter's palette "rrggbb rrggbb ..." into uint8 K x 3. Raises ValueError where the recipe is not one."""
    if not all(isinstance(recipe[key], int) for key in PAINTER_OPTIONS if key not in ("cell", "context", "dropout")):
        raise ValueError("width, height, window, units, layers and embedding must be whole numbers")
    palette = palettes.unpack_colors(np.array([int(color, 16) for color in text.split()], "uint32"))
    if not 2 <= len(palette) <= 4096:
        raise ValueError(f"its palette has {len(palette)} colours")
    return palette


def write_palette(palette):
    """Turn uint8 K x 3 into what read_palette reads."""
    return " ".join(bytes(color).hex() for color in palette)


PAINTER_OPTIONS = ("width", "height", "window", "cell", "units", "layers", "dropout", "embedding", "context")
NETWORK_OPTIONS = ("size", "levels", "cell", "units", "layers", "dropout", "context")


def network_options(recipe):
    """Return the part of a recipe, a dict, that build_rnn takes."""
    return {name: recipe[name] for name in NETWORK_OPTIONS if name in recipe}


def painter_options(recipe, palette):
    """Return the part of a painter's recipe, a dict, that build_painter takes."""
    return {"colors": len(palette)} | {name: recipe[name] for name in PAINTER_OPTIONS}
