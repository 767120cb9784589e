"""Write files completely or not at all, check in advance that they can be written, and silence standard error."""

import contextlib
import fnmatch
import json
import os
import pathlib
import re
import secrets
import sys
import tempfile
import threading

from atelier.errors import InputError, Interrupted

# For workers: while the event `cancelled` is set, whole_file raises Interrupted and writes no file. Code that sets the
# event must hold the lock REPLACING while it does so. Then no file is written after the event is set.
cancelled, REPLACING = threading.Event(), threading.Lock()


@contextlib.contextmanager
def whole_file(path):
    """Yield a temporary path in the folder of `path`, and rename it to `path` at the end.

    So the file is written completely or not at all. After an error the temporary file is removed.
    """
    path = pathlib.Path(path)
    refuse_tilde(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        temporary.touch(exist_ok=False)
        yield str(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        with REPLACING:
            if cancelled.is_set():
                raise Interrupted("the call was cancelled")
            os.replace(temporary, path)
    except OSError as error:
        error.filename = str(path)  # the error of a full disk does not name the file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder, names, before):
    """Remove temporary files that whole_file left in a folder because its process was killed.

    `names` are glob patterns of the files that the process would have written. Only temporary files older than
    `before`, in seconds since the epoch, are removed, because another process may be writing newer ones.
    """
    patterns = re.compile("|".join(map(fnmatch.translate, names)))
    for parent in {pathlib.Path(folder, name).parent for name in names}:
        for path in parent.glob(f".*-{'?' * 8}*"):
            written = path.with_name(path.stem[1:-9] + path.suffix).relative_to(folder)
            with contextlib.suppress(FileNotFoundError):
                if patterns.match(str(written)) and path.stat().st_mtime < before:
                    path.unlink()


def write_json(path, value):
    with whole_file(path) as temporary:
        pathlib.Path(temporary).write_text(json.dumps(value, indent=2) + "\n")


def read_json(path):
    return json.loads(pathlib.Path(path).read_text())


def as_json(value):
    """Write a value as JSON and read it again, so that for example tuples become lists."""
    return json.loads(json.dumps(value))


def refuse_tilde(path):
    """Raise InputError if a part of a path is ~, or if the path begins with ~.

    A user who wants to remove a folder named ~ may type `rm -r ~`, and lose the home folder.
    """
    parts = pathlib.Path(path).parts
    if "~" in parts or "".join(parts[:1]).startswith("~"):
        raise InputError(f"the ~ in {path} does not stand for a folder here; write out which one is meant")


def files_beside(result, **endings):
    """Return the paths of files that belong to a result: a dict from kind to path.

    `endings` maps each kind to the ending that replaces the result's suffix, or to a false value if the file is not
    wanted.
    """
    result = pathlib.Path(result)
    return {kind: result.with_name(result.stem + ending) for kind, ending in endings.items() if ending}


def refuse_to_overwrite(paths, overwrite):
    """Raise InputError if one of `paths` exists and `overwrite` is false, or if one contains a ~."""
    for path in paths:
        refuse_tilde(path)
        if pathlib.Path(path).exists() and not overwrite:
            raise InputError(f"{path} exists already; pass --overwrite to replace it")


def refuse_to_replace(results, sources):
    """Raise InputError if one of the output files, `results`, is also one of the input files, `sources`."""
    for result in filter(os.path.exists, results):
        if any(os.path.samefile(result, source) for source in sources if source and os.path.exists(source)):
            raise InputError(f"{result} would replace a file that it is made from; give another --output")


def check_writable(path):
    """Raise InputError if the file `path` cannot be written; make its folder. Call this before the work begins."""
    if pathlib.Path(path).is_dir():
        raise InputError(f"{path} is a folder")
    path = pathlib.Path(path)
    refuse_tilde(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:  # it names a temporary file, which nobody has typed
        reason = f"{path.parent} is a file" if path.parent.is_file() else (error.strerror or str(error)).lower()
        raise InputError(f"{path} can't be written: {reason}; give another name") from error


@contextlib.contextmanager
def silenced_stderr():
    """Discard the messages that C and C++ code writes to standard error, for code that has no setting for this.

    This affects the whole process, so only one thread at a time can be in this context.
    """
    sys.stderr.flush()
    with STDERR_LOCK:
        original, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(devnull, 2)
            yield
        finally:
            os.dup2(original, 2)
            os.close(original)
            os.close(devnull)


STDERR_LOCK = threading.Lock()
