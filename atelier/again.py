"""--again: the command that a picture records, with the words of the present command in place of its own."""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shlex

from atelier import ffmpeg
from atelier.backend_choice import DEFAULT, TITLES, choose
from atelier.disk import as_json
from atelier.errors import InputError

# Flags of the recorded command that are not repeated: where the result went, and how the command ran.
DROPPED = ("--output", "--overwrite", "--resume", "--quiet", "--debug", "--recursive", "--workers", "--scheduler")
DROPPED += ("--no-page",)


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What a picture records: the script that made it, the words of its command, and other texts by their names."""

    picture: str
    script: str
    words: list
    texts: dict


def read_record(picture):
    """Return what a picture records, a Recorded. Raises InputError if it can't be read or does not record a command."""
    if not pathlib.Path(picture).is_file():
        is_folder = pathlib.Path(picture).is_dir()
        raise InputError(f"{picture} {'is a folder; --again takes one picture' if is_folder else 'does not exist'}")
    texts = ffmpeg.read_about(picture)
    with contextlib.suppress(ValueError):  # there is no command, or its quotes are not closed
        _, script, *words = shlex.split(texts.get("command", ""))
        return Recorded(picture, pathlib.Path(script).name, words, texts)
    raise InputError(
        f"{picture} does not record how it was made: it was made with --no-metadata, or changed by another program"
    )


def refuse_several(picture, inputs):
    """Raise InputError if words after the picture are further pictures to be repeated, as a shell makes of a star."""
    texts = [ffmpeg.read_about(path) for path in inputs]
    if len(texts) > 1 and all("command" in text for text in texts):
        raise InputError(
            f"--again takes one picture, and {picture} is followed by {len(texts)} others; repeat each by a command of "
            "its own"
        )


def repeated_words(recorded, new_inputs, new, values, conflicts):
    """Return the words of the command to repeat a picture, in which `new_inputs` and the flags `new` replace others.

    `values` maps each flag of the script to the number of its values as argparse counts them: 0, None for one, or "+".
    `conflicts` maps flags to the recorded flags that they replace, besides themselves. The second value that is
    returned lists the words of these. Of the pictures of a folder, only this one is repeated. Raises InputError for a
    flag that the script no longer has.
    """
    inputs, flags = split_words(recorded.words, values)
    for flag in flags:
        if flag not in values:
            raise InputError(
                f"{recorded.picture} was made by an earlier version, which had {flag}; its command, to be changed: "
                f"{recorded.texts['command']}"
            )
    conflicting = {other for flag in new.keys() - flags.keys() for other in conflicts.get(flag, ())} - new.keys()
    left_out = {flag: own for flag, own in flags.items() if flag in conflicting}
    flags = {flag: own for flag, own in flags.items() if flag not in {*DROPPED, *new, *conflicting}}
    if "--each" in flags and "painting" in recorded.texts:
        del flags["--each"]
        flags["--style"] = [recorded.texts["painting"]]
    if "source" in recorded.texts and (len(inputs) > 1 or any(map(os.path.isdir, inputs))):
        inputs = [recorded.texts["source"]]
    return join_words(new_inputs or inputs, flags | new), join_words([], left_out)


def join_words(inputs, flags):
    """Return the words of a command with these inputs and flags, as split_words returns them."""
    words = [word for flag, own in flags.items() for word in (flag, *own)]
    return [*words, "--", *inputs] if any(word.startswith("-") for word in inputs) else [*inputs, *words]


def split_words(words, values):
    """Split a command's words into the inputs, a list, and a dict from each flag to its values, as argparse does."""
    inputs, flags, room = [], {}, 0
    for place, word in enumerate(words):
        if word == "--":
            return inputs + words[place + 1 :], flags
        flag, sign, value = word.partition("=")
        if re.fullmatch(r"--?[A-Za-z][\w-]*", flag):
            flags[flag] = own = [value] if sign else []
            room = 0 if sign else {0: 0, None: 1}.get(values.get(flag, "+"), len(words))
        elif room:
            own.append(word)
            room -= 1
        else:
            inputs.append(word)
    return inputs, flags


def differences(recorded, options, given):
    """List in words what differs from when a picture was made: versions, and defaults of options that are not `given`.

    `options` is the dataclass of the present command.
    """
    backend, made_with = choose(), backend_of(recorded.texts)
    different = [] if made_with == backend else [f"{TITLES[made_with]}, now {TITLES[backend]}"]
    for name, before in read_json(recorded.texts.get("versions")).items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            now = platform.python_version() if name == "python" else importlib.metadata.version(name)
            if now != before and name in ("python", "keras", "numpy", backend):
                different.append(f"{name} {before}, now {now}")
    before = read_json(recorded.texts.get("options"))
    if not getattr(options, "learned", ()):
        before.pop("stroke_size", None)  # it has no effect without a learned style, and its default has changed
    for name, value in as_json(dataclasses.asdict(options)).items():
        if name in before and name not in given and before[name] != value:
            flag = "--" + name.rstrip("_").replace("_", "-")
            different.append(f"{flag} {words_of(before[name])}, now {words_of(value)}")
    return different


def backend_of(texts):
    """Return the backend that a picture with these texts was made with."""
    return next((name for name in read_json(texts.get("versions")) if name in TITLES), DEFAULT)


def words_of(value):
    """Return an option's value as text for a message."""
    if value is None or value is False or value == []:
        return "not given"
    return " ".join(map(str, value)) if isinstance(value, list) else value


def read_json(text):
    """Return the dict in a text of JSON, or an empty dict if there is none."""
    with contextlib.suppress(ValueError, TypeError):
        value = json.loads(text)
        return value if isinstance(value, dict) else {}
    return {}
