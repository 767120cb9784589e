"""Runs ffmpeg, and stores in a film how it was made, as pictures do."""

import contextlib
import pathlib
import re
import shutil
import subprocess

from atelier import imaging, naming
from atelier.errors import InputError

RECORDING = (".mp4", ".webm")  # kinds of films that record how they were made
LONGEST_RECORD = 20_000  # characters; Windows takes 32,767 in a command line


def find_program():
    """Return the absolute path of ffmpeg. Raises InputError if there is none."""
    import imageio_ffmpeg  # only films need it

    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise InputError("films need ffmpeg, and none was found; set IMAGEIO_FFMPEG_EXE to its path") from error
    if (found := shutil.which(program)) is None:
        raise InputError(f"IMAGEIO_FFMPEG_EXE is {program}, which is no program; unset it to use imageio's ffmpeg")
    return str(pathlib.Path(found).absolute())


def run_ffmpeg(*arguments, timeout=None, folder=None):
    """Run ffmpeg in a folder to its end, apart from the terminal's Ctrl-C: a subprocess.CompletedProcess of texts."""
    command = [find_program(), "-nostdin", "-hide_banner", *map(str, arguments)]
    captured = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": folder}
    return subprocess.run(command, **captured, start_new_session=True, timeout=timeout, text=True, errors="replace")


def as_input(path):
    """Return a path as ffmpeg's input or output, in any folder: a name such as a:b.mp4 is no protocol."""
    return f"file:{pathlib.Path(path).absolute()}"


def record_arguments(path, about):
    """Return ffmpeg's arguments to store the texts `about`, see imaging.py, in a film. GIFs and WebPs can't hold them.

    Texts that are too long for a command line, such as the names of a thousand films, are left out.
    """
    comment = imaging.comment_of(about)
    if pathlib.Path(path).suffix.lower() not in RECORDING or len(comment) > LONGEST_RECORD:
        return []
    return ["-metadata", f"comment={comment}"]


def read_about(path):
    """Read the dict `about` that a picture or a film records; it is empty if there is none."""
    if not naming.is_film(path):
        return imaging.read_about(path)
    with contextlib.suppress(OSError, InputError, ValueError):  # there is no ffmpeg, no file, or another comment
        text = run_ffmpeg("-v", "error", "-i", as_input(path), "-f", "ffmetadata", "-").stdout
        comment = re.search(r"^comment=((?:\\.|[^\\\n])*)$", text, re.IGNORECASE | re.MULTILINE | re.DOTALL)
        return imaging.about_of(re.sub(r"\\(.)", r"\1", comment[1], flags=re.DOTALL)) if comment else {}
    return {}
