"""Writes films in parts of a second, which a killed command leaves behind, and joins them, with the sound.

The parts are in a folder beside the film, with the manifest of the command. A file beside the last part holds the state
of the painter after it, so that the same command continues exactly. Frames are uint8 H x W x 3.
"""

import contextlib
import errno
import pathlib
import subprocess
import zipfile
import zlib

import numpy as np

from atelier import films
from atelier.disk import whole_file
from atelier.errors import InputError
from atelier.ffmpeg import as_input, find_program, record_arguments, run_ffmpeg

# Without B-frames: the parts would be joined with a gap in time, and so with a wrong frame rate.
H264 = ["-c:v", "libx264", "-preset", "veryfast", "-bf", "0"]
TAGGED = ["-vf", "scale=out_color_matrix=bt709:out_range=tv"]
TAGGED += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
PLAYABLE = [*TAGGED, "-pix_fmt", "yuv420p"]
FINE = [*H264, "-crf", "4", *TAGGED, "-pix_fmt", "yuv444p"]  # for parts that are encoded again when they are joined
VP9 = ["-c:v", "libvpx-vp9", "-crf", "28", "-b:v", "0", "-deadline", "good", "-cpu-used", "4", "-row-mt", "1"]
# For each kind of film: the suffix of its parts, and ffmpeg's options for a part.
PARTS = {
    ".mp4": (".mp4", [*H264, "-crf", "18", *PLAYABLE]),
    ".webm": (".webm", [*VP9, *PLAYABLE]),
    ".gif": (".mkv", FINE),
    ".webp": (".mkv", FINE),
}
# For each kind of film: ffmpeg's options to join its parts.
JOINED = {
    ".mp4": ["-c:v", "copy", "-movflags", "+faststart"],
    ".webm": ["-c:v", "copy"],
    ".gif": ["-filter_complex", films.PALETTES, "-loop", "0"],
    ".webp": ["-c:v", "libwebp_anim", "-quality", "80", "-loop", "0"],
}
SOUND = {".mp4": "aac", ".webm": "libopus"}  # the codec for sound that the film can't hold as it is


class Parts:
    """The parts of a film that is being made, in the folder `folder`. `result` is the film's path.

    `length` is the number of frames of a part, a second. `rate` is a Fraction.
    """

    def __init__(self, result, rate):
        self.result, self.rate = pathlib.Path(result), rate
        self.folder = self.result.with_name(f"{self.result.name}_frames")
        self.suffix, self.options = PARTS[self.result.suffix.lower()]
        self.length = max(1, round(rate))

    def resume(self, manifest, replace):
        """Return the number of finished parts, and the state after the last one: a dict of arrays.

        Raises InputError if the folder holds the parts of another film and `replace` is false.
        """
        done = films.frames_done(self.folder, manifest, 10**9, replace, self.suffix)
        state = {}
        if done:
            try:
                with np.load(self.state_path(done), allow_pickle=False) as file:
                    state = {name: file[name] for name in file.files}
            except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise InputError(f"{self.state_path(done)} is damaged: {error}; remove {self.folder}") from error
        for path in self.folder.glob(".[0-9]*"):  # what a killed process was writing
            path.unlink()
        return done, state

    def path(self, number):
        return films.frame_path(self.folder, number, self.suffix)

    def state_path(self, number):
        return films.frame_path(self.folder, number, ".npz")

    @contextlib.contextmanager
    def writer(self, number, state, size):
        """Yield a function that writes the next frame of a part. The part appears at the end, after its state.

        `state()` returns the painter's state after the part's last frame. `size` is (width, height).
        """
        with whole_file(self.path(number)) as temporary:
            with encoder(temporary, size, self.rate, self.options) as write:
                yield write
            with whole_file(self.state_path(number)) as path:
                np.savez(path, **state())
        self.state_path(number - 1).unlink(missing_ok=True)

    def join(self, path, count, piece, about):
        """Write the first `count` parts as a film, with the sound of a Piece. Raises OSError if this fails.

        The texts `about`, see imaging.py, are stored in it. Without a command among them, nothing else that the film
        stores about itself is kept, such as its date.
        """
        with whole_file(path) as temporary, whole_file(self.folder / films.PART_LIST) as list_file:
            lines = [f"file '{self.path(number).name}'" for number in range(1, count + 1)]
            pathlib.Path(list_file).write_text("\n".join(["ffconcat version 1.0", *lines]) + "\n")
            # By names alone, in the parts' folder: in a path, ffmpeg takes # for the end of the list's own path.
            parts = ["-f", "concat", "-safe", "0", "-i", pathlib.Path(list_file).name]
            kind = self.result.suffix.lower()
            kept = [] if "command" in about else ["-map_metadata", "-1", "-map_chapters", "-1"]
            stored = [*kept, *record_arguments(path, about)]
            attempts = [[*parts, *JOINED[kind]]]
            if piece.film.sound and kind in SOUND:
                heard = [*parts, *sound_of(piece), "-map", "0:v", "-map", "1:a", *JOINED[kind]]
                attempts = [[*heard, "-c:a", codec] for codec in ("copy", SOUND[kind])]
            for arguments in attempts:
                result = run_ffmpeg("-v", "error", "-y", *arguments, *stored, as_input(temporary), folder=self.folder)
                if result.returncode == 0:
                    break
            check_written(result.returncode, result.stderr)
        (self.folder / films.PART_LIST).unlink(missing_ok=True)

    def remove(self):
        films.remove_frames(self.folder)


def sound_of(piece):
    """Return ffmpeg's arguments to read the sound of a Piece. All of it is read if the piece is the whole film."""
    start = ["-ss", f"{piece.start:.6f}"] if piece.start else []
    film = piece.film
    whole = film.seconds is not None and piece.seconds is not None and piece.start + piece.seconds >= film.seconds
    length = [] if whole or piece.seconds is None else ["-t", f"{piece.seconds:.6f}"]
    return [*start, *length, "-i", as_input(film.path)]


@contextlib.contextmanager
def encoder(path, size, rate, options):
    """Yield a function that writes a frame, uint8 H x W x 3, to the film file `path`. Raises OSError."""
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "{}x{}".format(*size), "-r", str(rate), "-i", "-"]
    command = [find_program(), "-hide_banner", "-v", "error", "-y", *raw, *options, "-an", as_input(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, start_new_session=True) as process:
        try:
            yield lambda frame: process.stdin.write(np.ascontiguousarray(frame).data)
            process.stdin.close()
        except BrokenPipeError:  # ffmpeg has ended, and its messages say why
            pass
        except BaseException:
            process.kill()
            raise
        messages = process.stderr.read().decode(errors="replace")
    check_written(process.returncode, messages)


def check_written(status, messages):
    """Raise OSError, or InputError for a codec that ffmpeg lacks, if ffmpeg has not written a film."""
    if status == 0:
        return
    if "No space left" in messages:
        raise OSError(errno.ENOSPC, "no space left on device")
    if missing := [line for line in messages.splitlines() if "Unknown encoder" in line]:
        reason = missing[0].rpartition("] ")[2].strip()
        raise InputError(f"this ffmpeg lacks a codec ({reason}); unset IMAGEIO_FFMPEG_EXE to use imageio's")
    reason = " ".join(messages.split())[-200:] or f"it ended with {status}"
    raise OSError(errno.EIO, f"ffmpeg can't write the film (is the disk full?): {reason}")
