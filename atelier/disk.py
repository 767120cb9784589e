"""Files: written whole or not at all, never in the place of what is still needed; and standard error, which is one."""

import contextlib
import fnmatch
import functools
import json
import os
import pathlib
import re
import sys
import tempfile
import threading

from atelier.errors import InputError, Interrupted

# On a worker: while `cancelled` is set, whole_file raises Interrupted and writes nothing. With the lock REPLACING held
# while it is set, no file appears after that.
cancelled, REPLACING = threading.Event(), threading.Lock()


@contextlib.contextmanager
def whole_file(path):
    """Yield a temporary path beside `path`, renamed to it at the end: a file appears whole or not at all."""
    path = pathlib.Path(path)
    refuse_tilde(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~current_umask())
        with REPLACING:
            if cancelled.is_set():
                raise Interrupted("the call was cancelled")
            os.replace(temporary, path)
    except OSError as error:
        error.filename = str(path)  # a full disk doesn't say which file it was about
        raise
    finally:
        pathlib.Path(temporary).unlink(missing_ok=True)


def remove_leftovers(folder, names, before):
    """Remove what whole_file left in a folder where its process was killed, of files that match one of `names`.

    Only what was last written `before`, in seconds since the epoch: another process may be writing there now.
    """
    theirs = re.compile("|".join(map(fnmatch.translate, names)))
    for parent in {pathlib.Path(folder, name).parent for name in names}:
        for path in parent.glob(f".*-{'?' * 8}*"):
            written = path.with_name(path.stem[1:-9] + path.suffix).relative_to(folder)
            with contextlib.suppress(FileNotFoundError):
                if theirs.match(str(written)) and path.stat().st_mtime < before:
                    path.unlink()


@functools.cache
def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path, value):
    with whole_file(path) as temporary:
        pathlib.Path(temporary).write_text(json.dumps(value, indent=2) + "\n")


def read_json(path):
    return json.loads(pathlib.Path(path).read_text())


def as_json(value):
    """Return a value as it would be read back: tuples as lists, for one."""
    return json.loads(json.dumps(value))


def refuse_tilde(path):
    """Raise InputError where a file or folder would be called ~: sooner or later someone removes it with rm -r."""
    parts = pathlib.Path(path).parts
    if "~" in parts or "".join(parts[:1]).startswith("~"):
        raise InputError(f"the ~ in {path} stands for no folder here; write out which one is meant")


def files_beside(result, **endings):
    """Name the files that come with a result: a dict from kind to path; a false ending was not asked for."""
    return {kind: result.with_name(result.stem + ending) for kind, ending in endings.items() if ending}


def refuse_to_overwrite(paths, overwrite):
    """Raise InputError where one of `paths` can't be written: it exists and `overwrite` is false, or has a stray ~."""
    for path in paths:
        refuse_tilde(path)
        if pathlib.Path(path).exists() and not overwrite:
            raise InputError(f"{path} exists already; pass --overwrite to replace it")


def refuse_to_replace(results, sources):
    """Raise InputError where one of the files to be written is one of those that are read."""
    for result in filter(os.path.exists, results):
        if any(os.path.samefile(result, source) for source in sources if source and os.path.exists(source)):
            raise InputError(f"{result} would replace what it is made of; give another --output")


def check_writable(path):
    """Raise OSError where the file `path` could not be written, before there is something to lose."""
    if pathlib.Path(path).is_dir():
        raise InputError(f"{path} is a folder")
    path = pathlib.Path(path)
    refuse_tilde(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


@contextlib.contextmanager
def silenced_stderr():
    """Drop what C and C++ code writes to standard error, where it can't be told not to.

    It is dropped for the whole process, so one thread at a time may have it so.
    """
    sys.stderr.flush()
    with SILENCE:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


SILENCE = threading.Lock()
