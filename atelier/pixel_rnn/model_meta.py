"""Read, check and write meta.json, which describes the models in a folder. Needs no TensorFlow.

It is a dict: `recipe` is the training configuration, and `source` names the training pictures. For digits it also has
`classes`; for a painter it also has `palette`, uint8 K x 3.
"""

import json
import pathlib

import numpy as np

import config
from atelier import naming
from atelier.command_line import command_of
from atelier.errors import InputError
from atelier.pixel_rnn import palettes

CONTEXTS = config.TrainingConfig.__dataclass_fields__["context"].metadata["choices"]
# Options that a meta.json of an earlier version lacks, with their defaults.
LATER_NAMES = ("distort", "sampled", "block", "order", "hidden", "common_epochs", "half", "together")
LATER_OPTIONS = {name: getattr(config.DigitConfig, name) for name in LATER_NAMES}


def load_meta(folder):
    """Read a model folder's meta.json. If the folder has only the tutorial's .h5 files, return a dict for these.

    Raises InputError if there are no models or if meta.json is damaged.
    """
    folder = pathlib.Path(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file; give a folder of models, as train_rnn.py writes it")
    if not folder.is_dir():
        style = naming.find_trained(folder, "trained/styles") / "meta.json"
        if style.is_file():
            refuse_other_networks(folder, json.loads(style.read_text()))
        known = known_models()
        raise InputError(
            f"there are no models {folder}{naming.suggestion(folder.name, known)}; trained/ holds {', '.join(known)}, "
            "and train_rnn.py makes more"
        )
    path = folder / "meta.json"
    if not path.exists():
        classes = sorted(int(file.stem[6:]) for file in folder.glob("model_*.h5") if file.stem[6:].isdigit())
        if not classes:
            raise InputError(f"{folder} holds no meta.json and no model_0.h5: there are no models in it")
        training_config = {"size": 10, "levels": 7, "cell": "gru", "units": 256, "layers": 1, "context": "previous"}
        recipe = LATER_OPTIONS | training_config
        return {"source": "mnist", "recipe": recipe, "classes": {str(label): {} for label in classes}}
    try:
        meta = json.loads(path.read_text())
        refuse_other_networks(folder, meta)
        training_config, source = meta["recipe"], meta["source"]
        if not isinstance(source, str) or training_config["context"] not in CONTEXTS:
            raise ValueError("its source or context is not known")
        if "palette" in meta:
            return meta | {"palette": read_palette(meta["palette"], training_config)}
        if not all(isinstance(training_config[key], int) for key in ("size", "levels", "units", "layers")):
            raise ValueError("size, levels, units and layers must be whole numbers")
        classes = sorted((int(label), dict(entry)) for label, entry in meta["classes"].items())
        if not classes:
            raise ValueError("it lists no classes")
        return meta | {"recipe": LATER_OPTIONS | training_config, "classes": {str(c): entry for c, entry in classes}}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {error}") from error


def known_models():
    """List the names of the folders in trained/, here and in this project, that hold models of train_rnn.py."""
    paths = [path for root in (pathlib.Path(), config.ROOT) for path in root.glob("trained/*/meta.json")]
    return sorted({path.parent.name for path in paths if '"recipe"' in path.read_text(errors="replace")})


def refuse_other_networks(folder, meta):
    """Raise InputError if a folder's meta.json, a dict, is that of a learned style or of a classifier for dreams."""
    if "paintings" in meta:
        command = command_of("style_transfer.py", "PHOTO", "--learned", folder)
        raise InputError(f"{folder} holds a learned style, which paints photos: {command}")
    if "classes" in meta and "recipe" not in meta:
        command = command_of("deepdream.py", "noise", "--convnet", folder, "--class", 0, "--canvas", "pixels")
        raise InputError(f"{folder} holds a classifier, which can dream: {command}")


def read_palette(text, training_config):
    """Parse a painter's palette "rrggbb rrggbb ..." into uint8 K x 3. Raises ValueError for a damaged meta.json."""
    if not all(
        isinstance(training_config[key], int) for key in PAINTER_OPTIONS if key not in ("cell", "context", "dropout")
    ):
        raise ValueError("width, height, window, units, layers and embedding must be whole numbers")
    palette = palettes.unpack_colors(np.array([int(color, 16) for color in text.split()], "uint32"))
    if not 2 <= len(palette) <= 4096:
        raise ValueError(f"its palette has {len(palette)} colours")
    return palette


def write_palette(palette):
    """Convert a palette, uint8 K x 3, to the text that read_palette parses."""
    return " ".join(bytes(color).hex() for color in palette)


PAINTER_OPTIONS = ("width", "height", "window", "cell", "units", "layers", "dropout", "embedding", "context")
NETWORK_OPTIONS = ("size", "levels", "cell", "units", "layers", "dropout", "context", "block", "hidden")


def sequence_options(training_config):
    """Return the arguments of util.to_sequences from a training configuration, a dict."""
    return {name: training_config[name] for name in ("size", "levels", "block", "order")}


def network_options(training_config):
    """Return the arguments of build_rnn from a training configuration, a dict."""
    return {name: training_config[name] for name in NETWORK_OPTIONS if name in training_config}


def painter_options(training_config, palette):
    """Return the arguments of build_painter from a painter's training configuration, a dict."""
    return {"colors": len(palette)} | {name: training_config[name] for name in PAINTER_OPTIONS}
