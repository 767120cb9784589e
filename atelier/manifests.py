"""Manifests: the options and the backend that a folder's pictures were made with, in recipe.json beside the pictures.

The options of a later command are compared with the manifest. A manifest is a JSON dict from option names to values.
For a file, the value is the file's name and a checksum of its content.
"""

import dataclasses
import hashlib
import pathlib

from atelier.backend_choice import DEFAULT, TITLES, choose
from atelier.command_line import flag_of
from atelier.disk import as_json, read_json
from atelier.errors import InputError, describe
from config import FORMER_WEIGHTS

MANIFEST = "recipe.json"  # the "recipe" in a training's meta.json is something else, its configuration

# Options that do not change a picture: its path, the choice of photos, and other output.
IGNORED = {
    *("output", "overwrite", "quiet", "debug", "recursive", "gif", "no_page", "no_metadata"),
    *("workers", "scheduler", "frames_every"),
}


def manifest_of(script, options, ignored=(), files=None):
    """Return the manifest of a command: the script, and each of its options that is not `ignored`.

    `files` maps each option that names files to a list of these files. They are compared by their content, and so is a
    file of weights. The precision is stored as given, for example auto: several machines may share a folder, and auto
    selects different precisions on them.
    """
    if options.weights not in (None, "imagenet"):
        files = {**(files or {}), "weights": [options.weights]}
    manifest = {"script": script, "backend": choose()}
    ignored = IGNORED.union(ignored)
    manifest |= {name: value for name, value in dataclasses.asdict(options).items() if name not in ignored}
    return as_json(manifest | {name: [file_checksum(path) for path in paths] for name, paths in (files or {}).items()})


def file_checksum(path):
    """Return a file's name and a checksum of its content, a dict."""
    with open(path, "rb") as file:
        return {"name": pathlib.Path(path).name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()[:16]}


def refuse_other_manifest(path, stored, manifest):
    """Raise InputError if `path` was made with other options; `stored` is its manifest, or None if it is not known."""
    if stored and (changes := changed_options(stored, manifest)):
        more = f", and {len(changes) - 4} more" if len(changes) > 4 else ""
        raise InputError(
            f"{path} was made with other options ({'; '.join(changes[:4])}{more}); "
            "give another --output, or --overwrite to make everything again"
        )


def changed_options(stored, manifest):
    """Return a list of texts, one for each option whose value differs from that in the stored manifest."""
    if stored["script"] != manifest["script"]:
        return [f"by {stored['script']}, now {manifest['script']}"]
    if stored["weights"] == FORMER_WEIGHTS:
        return [f"with the weights {FORMER_WEIGHTS}, which are no longer supported, now with ImageNet's own"]
    changes = []
    for name in dict.fromkeys([*stored, *manifest]):
        before, now = stored.get(name), manifest.get(name)
        if name == "backend":
            if (before or DEFAULT) != now:  # manifests name it since there are several
                changes.append(f"with {TITLES.get(before or DEFAULT, before)}, now {TITLES[now]}")
            continue
        if name == "weights":  # without this option, ImageNet's are used
            before, now = before or "imagenet", now or "imagenet"
        if compared_value(before) != compared_value(now):
            shown = f"{flag_of(name)} {format_value(before)}, now {format_value(now)}"
            same_words = format_value(before) == format_value(now)
            changes.append(f"{flag_of(name)} {format_value(now)} has changed" if same_words else shown)
    return changes


def compared_value(value):
    """Return what is compared of an option's value: the checksums of files, or None if the option was not given."""
    if value is None or value is False or value == []:
        return None
    return [item["sha256"] if isinstance(item, dict) else item for item in value] if isinstance(value, list) else value


def format_value(value):
    """Return an option's value as text for a message."""
    if value is True or compared_value(value) is None:
        return "given" if value else "not given"
    items = value if isinstance(value, list) else [value]
    return " ".join(item["name"] if isinstance(item, dict) else str(item) for item in items)


# Options that older manifests do not contain, with the values that were in effect then.
FORMER_VALUES = {
    "style_transfer.py": {"strength": 1.0, "refine": 0, "stroke_size": 1.0, "steady": 0.8},
    "deepdream.py": {"canvas": "pixels", "steady": 0.8},
}


def read_manifest(folder):
    """Read the manifest in a folder, or return None if there is none. Raises InputError."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = read_json(path)
        return (
            FORMER_VALUES.get(manifest["script"], {})
            | manifest
            | {"script": str(manifest["script"]), "weights": manifest["weights"]}
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no manifest of a folder of pictures ({describe(error)}); give another --output"
        ) from error
