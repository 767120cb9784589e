"""Names of classes: ImageNet's, or those listed beside a classifier of the user's own."""

import difflib
import json

import config
from atelier import naming
from atelier.errors import InputError

IMAGENET_CLASSES = config.ROOT / "trained/imagenet_classes.txt"


def class_names(convnet):
    """List the names of a network's classes.

    They are ImageNet's or, for a classifier of the user's own, those in the meta.json beside its file. The list is
    empty if that file does not exist or contains no names.
    """
    classifier = naming.own_classifier(convnet)
    if classifier is None:
        return IMAGENET_CLASSES.read_text().splitlines()
    try:
        return [str(name) for name in json.loads((classifier.parent / "meta.json").read_text())["classes"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def class_number(text, convnet):
    """Return the number of the class that `text` names, or None for None. Raises InputError with similar names."""
    if text is None:
        return None
    names = class_names(convnet)
    if text in names:
        return names.index(text)
    if text.isdecimal():
        if names and int(text) >= len(names):
            raise InputError(f"there is no class {text}; the classes are 0 to {len(names) - 1}")
        return int(text)
    if not names:
        classifier = naming.own_classifier(convnet)
        raise InputError(
            f"{classifier} does not name its classes; give --class a number, or list the names in order as "
            f'{{"classes": [...]}} in {classifier.parent / "meta.json"}'
        )
    known = {naming.normalized(name): i for i, name in enumerate(names)}
    wanted = naming.normalized(text)
    if wanted in known:
        return known[wanted]
    near = [names[known[name]] for name in difflib.get_close_matches(wanted, known, 3)]
    near += [name for name in names if wanted in naming.normalized(name) and name not in near][: 5 - len(near)]
    suggestion = f"; did you mean {', '.join(near)}?" if near else ""
    raise InputError(f"no class is called {text}{suggestion}")
