"""Choose the files of a result: --output, or a default name with a number where another command has used the name."""

import pathlib
import re

from atelier import command_line, disk, ffmpeg


def choose_result(options, default, files_of):
    """Return the path of a result, after checking that it can be written.

    It is --output, or else chosen by number_name. `files_of(path)` lists all files that are written for a result.
    Raises InputError if one of them exists and --overwrite is not given, or if the result can't be written.
    """
    result = pathlib.Path(options.output) if options.output else number_name(pathlib.Path(default), options.overwrite)
    disk.refuse_to_overwrite(files_of(result), options.overwrite)
    disk.check_writable(result)
    return result


def number_name(default, overwrite):
    """Return `default`, default-2 or so on: the one that this command has made before or, without it, the first free.

    With `overwrite`, `default` is returned instead of a free name. A file that does not say which command made it, as
    GIFs do not, counts as free, so that it is refused and not passed over.
    """
    path, number = default, 1
    while (command := ffmpeg.read_about(path).get("command")) and not is_typed(command):
        number += 1
        path = default.with_stem(f"{default.stem}-{number}")
    return default if overwrite and not command else path


def is_typed(command):
    """Tell whether a command that a picture records is that of this process, but for flags that do not change it."""
    typed = command_line.typed_command()
    return re.sub(NEUTRAL, "", command) == re.sub(NEUTRAL, "", typed)


NEUTRAL = r" --(overwrite|quiet|debug)\b"
