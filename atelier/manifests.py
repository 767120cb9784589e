"""What shaped pictures: kept beside them as recipe.json, compared with a later command, and put into words.

A manifest is a dict, as JSON has it, from the names of options to their values; files count by what is in them.
"""

import dataclasses
import hashlib
import pathlib

from atelier.command_line import flag_of
from atelier.disk import as_json, read_json
from atelier.errors import InputError, describe
from config import FORMER_WEIGHTS

MANIFEST = "recipe.json"

# Options that say where pictures lie, which photos are taken, and what else is told or written.
FREE = {"output", "overwrite", "quiet", "debug", "recursive", "gif", "workers", "scheduler"}


def manifest_of(script, options, free=(), files=None):
    """Return what shapes a picture, as JSON has it: the script, and each option that is not `free`.

    `files` lists, for each option that names files, which: they count by what is in them, as does a file of weights.
    The precision counts as it was given: what auto comes to depends on the machine, and several may share a folder.
    """
    if options.weights not in (None, "imagenet"):
        files = {**(files or {}), "weights": [options.weights]}
    manifest = {"script": script}
    manifest |= {name: value for name, value in dataclasses.asdict(options).items() if name not in FREE.union(free)}
    return as_json(manifest | {name: [fingerprint(path) for path in paths] for name, paths in (files or {}).items()})


def fingerprint(path):
    """Return by what a file is known again: its name, for people, and a checksum."""
    with open(path, "rb") as file:
        return {"name": pathlib.Path(path).name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()[:16]}


def refuse_differences(path, record, manifest):
    if record and (said := differences(record, manifest)):
        more = f", and {len(said) - 4} more" if len(said) > 4 else ""
        raise InputError(
            f"{path} was made otherwise ({'; '.join(said[:4])}{more}); "
            "give another --output, or --overwrite to make all anew"
        )


def differences(record, manifest):
    """Say in what a manifest differs from the one that was kept: a list of texts."""
    if record["script"] != manifest["script"]:
        return [f"by {record['script']}, now {manifest['script']}"]
    if record["weights"] == FORMER_WEIGHTS:
        return [f"with the weights {FORMER_WEIGHTS}, which are no longer supported, now with ImageNet's own"]
    said = []
    for name in dict.fromkeys([*record, *manifest]):
        before, now = record.get(name), manifest.get(name)
        if name == "weights":  # left out, they are ImageNet's
            before, now = before or "imagenet", now or "imagenet"
        if contents(before) != contents(now):
            told = f"{flag_of(name)} {spelled(before)}, now {spelled(now)}"
            said.append(told if spelled(before) != spelled(now) else f"{flag_of(name)} {spelled(now)} has changed")
    return said


def contents(value):
    """Return what counts of an option's value: of files what is in them, and of what was not given, nothing."""
    if value is None or value is False or value == []:
        return None
    return [item["sha256"] if isinstance(item, dict) else item for item in value] if isinstance(value, list) else value


def spelled(value):
    """Put an option's value into words."""
    if value is True or contents(value) is None:
        return "given" if value else "not given"
    items = value if isinstance(value, list) else [value]
    return " ".join(item["name"] if isinstance(item, dict) else str(item) for item in items)


# What manifests did not tell before there was a choice.
UNTOLD = {
    "style_transfer.py": {"strength": 1.0, "refine": 0},
    "deepdream.py": {"canvas": "pixels"},
}


def read_manifest(folder):
    """Read what shaped the pictures in a folder, or None where it was not kept. Raises InputError."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = read_json(path)
        return (
            UNTOLD.get(manifest["script"], {})
            | manifest
            | {"script": str(manifest["script"]), "weights": manifest["weights"]}
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no manifest of such a folder ({describe(error)}); give another --output"
        ) from error
