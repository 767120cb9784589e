"""Reads films with ffmpeg: what a film holds, and its frames as a stream.

Frames are uint8 H x W x 3, upright, with square pixels, at a constant rate.
"""

import collections
import dataclasses
import fractions
import functools
import math
import pathlib
import re
import subprocess
import threading

import numpy as np

from atelier import imaging
from atelier.errors import InputError
from atelier.ffmpeg import as_input, find_program, run_ffmpeg
from atelier.naming import ANIMATION_ENDINGS

LONGEST_SIDE = 4096  # pixels of a painted film; H.264 players take no more, and the flow would need gigabytes
FASTEST = 120  # frames a second
PROBE_SECONDS = 120  # ffmpeg reads the beginning of a film in less than a second, but from a slow disk
MPEG_STREAMS = {".mpg", ".mpeg", ".mts", ".m2ts"}


# --- What a film holds -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Film:
    """What a film holds. `width` and `height` are those of its upright frames with square pixels.

    `rate` is the number of frames a second, a Fraction. `seconds` is the film's length, or None if it does not say.
    `colors` is the name of its colour space where it has one, and `sound` says whether there is sound.
    """

    path: pathlib.Path
    width: int
    height: int
    rate: fractions.Fraction
    seconds: float | None
    colors: str
    sound: bool

    @property
    def seekable(self):
        """Whether ffmpeg can begin to read at any time.

        It reads animations from their first frame only. In MPEG streams it skips all frames up to the next key frame.
        """
        return self.path.suffix.lower() not in ANIMATION_ENDINGS | MPEG_STREAMS


@functools.lru_cache(maxsize=64)
def read_film(path):
    """Return what a film holds, a Film. Raises InputError if ffmpeg can't read it, or if it has no picture."""
    path = pathlib.Path(path)
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty")
    text = run_ffmpeg("-i", as_input(path), timeout=PROBE_SECONDS).stderr
    if "moov atom not found" in text and is_mp4(path):
        raise InputError(f"{path} is cut short: the part that describes the film is missing; copy it again")
    streams = re.findall(r"^ +Stream #\d+:\d+.*$", text, re.MULTILINE)
    pictures = [line for line in streams if ": Video: " in line and "(attached pic)" not in line]
    if not streams:
        raise InputError(f"{path} is not a film that ffmpeg can read; is its suffix right?")
    if not pictures:
        raise InputError(f"{path} holds sound alone, and no pictures")
    return parse_stream(path, text, pictures[0], any(": Audio: " in line for line in streams))


def is_mp4(path):
    """Tell whether a file begins as MP4 and MOV files do."""
    with open(path, "rb") as file:
        return file.read(8)[4:] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


def parse_stream(path, text, line, sound):
    """Return the Film that ffmpeg describes in `line`, the line of its first video stream. Raises InputError."""
    size = re.search(r", (\d+)x(\d+)(?![\dx])", line.partition(": Video: ")[2])
    if size is None or "0" in size.groups():
        raise InputError(f"{path} is cut short or damaged: ffmpeg finds no frame in it")
    if "Video: none" in line or re.search(r"Video: \w+ \(none", line):
        raise InputError(f"{path} has a codec that this ffmpeg lacks; convert it to H.264")
    width, height = int(size[1]), int(size[2])
    if aspect := re.search(r"SAR (\d+):(\d+)", line):
        width = max(1, round(width * int(aspect[1]) / int(aspect[2])))
    turned = re.search(r"rotation of (-?[\d.]+) degrees", text)
    if turned and round(float(turned[1]) / 90) % 2:
        width, height = height, width
    seconds = re.search(r"Duration: (\d+):(\d+):([\d.]+)", text)
    seconds = int(seconds[1]) * 3600 + int(seconds[2]) * 60 + float(seconds[3]) if seconds else None
    colors = re.search(r"\((?:tv|pc)?,? ?(bt\w+|smpte\w+|fcc|gbr)", line)
    return Film(path, width, height, parse_rate(line), seconds, colors[1] if colors else "", sound)


def parse_rate(line):
    """Return the rate of a video stream that ffmpeg describes: a Fraction.

    ffmpeg prints the mean rate, fps, and the rate that the times fit, tbr. In films of phones, the two differ a little.
    """
    mean, fitting = (re.search(rf"([\d.]+)(k?) {unit}", line) for unit in ("fps", "tbr"))
    mean, fitting = (float(x[1]) * (1000 if x[2] else 1) if x else 0 for x in (mean, fitting))
    rate = fitting if abs(fitting - mean) < 0.02 * mean or not mean else mean
    return exact_rate(min(rate, FASTEST) or 25)


def exact_rate(rate):
    """Return a rate that is rounded to two decimals as a Fraction; 29.97 is 30000/1001."""
    whole = math.ceil(rate)
    if rate != whole and abs(rate - whole * 1000 / 1001) < 0.006:
        return fractions.Fraction(whole * 1000, 1001)
    return fractions.Fraction(str(round(rate, 3)))


# --- The piece that is painted -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Piece:
    """The piece of a film that is painted: frames of `width` x `height` pixels at `rate`, from `start` seconds on.

    `seconds` is its length, or None up to the end of a film that does not say how long it is. `limit` is the number of
    frames, or None up to the end of the film.
    """

    film: Film
    width: int
    height: int
    rate: fractions.Fraction
    start: float
    seconds: float | None
    limit: int | None = None

    @property
    def count(self):
        """The number of frames, about; None if it is not known."""
        return None if self.seconds is None else max(1, round(self.seconds * self.rate))


def choose_piece(path, options, least):
    """Return the Piece of a film that the options ask for. `least` is the smallest allowed side in pixels.

    Raises InputError if the film can't be used.
    """
    film = read_film(path)
    if min(film.width, film.height) < least:
        raise InputError(f"{path} is only {film.width} x {film.height} pixels; films need {least}")
    longest = options.size or max(film.width, film.height)
    width, height = (2 * max(1, round(side / 2)) for side in imaging.fit(film.width, film.height, longest))
    if min(width, height) < least:
        size = math.ceil(least * max(film.width, film.height) / min(film.width, film.height))
        raise InputError(f"{path} would be {width} x {height} pixels; films need {least}: --size {size}")
    if max(width, height) > LONGEST_SIDE:
        raise InputError(f"{path} would be {width} x {height} pixels; films have at most {LONGEST_SIDE}: give --size")
    start = parse_time(options.start, "--start") or 0.0
    end = parse_time(options.end, "--end")
    if film.seconds is not None and start >= film.seconds:
        raise InputError(f"--start {options.start} is after the end of {path}, which has {film.seconds:g} seconds")
    if end is not None and end <= start:
        raise InputError(f"--end {options.end} must be after --start")
    ends = [time for time in (end, film.seconds) if time is not None]
    rate = exact_rate(options.fps) if options.fps else film.rate
    limit = None if end is None else max(1, round((end - start) * rate))
    return Piece(film, width, height, rate, start, min(ends) - start if ends else None, limit)


def parse_time(text, flag):
    """Return a time in seconds, given as 12, 12.5, 1:02 or 1:02:03.5, or None without a text. Raises InputError."""
    if text is None:
        return None
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d+)?", text):
        raise InputError(f"{flag} takes seconds or mm:ss, not {text}")
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


# --- Frames ------------------------------------------------------------------------------------


class FrameReader:
    """The frames of a Piece, from frame number `skip` on, as a stream: `with FrameReader(piece) as frames: for ...`.

    A missing frame is replaced by the former one. `damaged` lists the times, in seconds of the film, where ffmpeg could
    not decode a frame.
    """

    def __init__(self, piece, skip=0, every=1):
        self.piece, self.damaged = piece, []
        self.offset = seek_time(piece, skip)
        self.shape = piece.height, piece.width, 3
        self.messages = collections.deque(maxlen=20)
        self.command = [find_program(), *arguments_for(piece, skip, every)]

    def __enter__(self):
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(self.command, **pipes, bufsize=0, start_new_session=True)
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        self.watcher.start()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.watcher.join()
        self.process.stdout.close()
        self.process.stderr.close()

    def __iter__(self):
        while True:
            frame = np.empty(self.shape, "uint8")
            if not fill(self.process.stdout, memoryview(frame.reshape(-1))):
                self.watcher.join()
                return
            yield frame

    def last_message(self):
        """Return what ffmpeg said last, to end a message, or nothing."""
        return f": {self.messages[-1]}" if self.messages else ""

    def watch(self):
        """Read ffmpeg's messages: the times of frames, and errors. An error comes a little before its gap in time."""
        time, errors = 0.0, 0
        longest = 1.5 / float(self.piece.film.rate)
        for line in self.process.stderr:
            line = line.decode(errors="replace")
            if shown := re.search(r" n: *\d+ .*pts_time: *(-?[\d.]+)", line):
                former, time = time, float(shown[1])
                if errors and time - former > longest:
                    self.damaged.append(self.offset + former)
                    errors -= 1
            elif re.search(r"corrupt decoded frame|Error submitting packet|error while decoding", line):
                errors += 1
            if "[error]" in line or "[fatal]" in line:
                self.messages.append(line.rpartition("] ")[2].strip())
        if errors and not self.damaged:
            self.damaged.append(self.offset + time)


def first_frame(path, longest):
    """Return the first frame of a film, its longest side `longest` pixels. Raises InputError."""
    film = read_film(path)
    piece = Piece(film, *imaging.fit(film.width, film.height, longest), film.rate, 0.0, None)
    with FrameReader(piece) as frames:
        for frame in frames:
            return frame
    raise InputError(f"{path} holds no frame that ffmpeg can read")


def fill(stream, buffer):
    """Fill a buffer from a stream; return False at the stream's end."""
    done = 0
    while done < len(buffer):
        count = stream.readinto(buffer[done:])
        if not count:
            return False
        done += count
    return True


def arguments_for(piece, skip, every):
    """Return ffmpeg's arguments to read a piece from frame `skip` on, and then each frame of number `every`."""
    film, rate, sought = piece.film, piece.rate, seek_time(piece, skip)
    before = ["-ss", f"{sought:.6f}"] if sought else []
    begin = time_of(piece, skip) - sought
    shift = f"trim=start={begin - EARLY / float(rate):.6f},setpts=PTS-{begin:.6f}/TB," if begin else ""
    # Films of camcorders are often interlaced. bwdif removes the combs of moving things from frames that are marked as
    # interlaced, and keeps the others.
    filters = f"showinfo=checksum=0,bwdif=send_frame:deint=interlaced,{shift}fps={rate}:start_time=0,"
    if every > 1:
        filters += rf"select=not(mod(n\,{every})),"
    filters += f"scale={piece.width}:{piece.height}:flags=lanczos+accurate_rnd:in_color_matrix={matrix_of(film)}"
    limit = [] if piece.limit is None else ["-frames:v", str(-(-(piece.limit - skip) // every))]
    raw = [
        *limit,
        "-map",
        "0:V:0",  # no cover
        "-vf",
        filters,
        "-fps_mode",
        "passthrough",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    return ["-nostdin", "-hide_banner", "-nostats", "-v", "level+info", *before, "-i", as_input(film.path), *raw]


def time_of(piece, number):
    """Return the time of a frame of a piece, in seconds of the film."""
    return piece.start + number / float(piece.rate)


def seek_time(piece, skip):
    """Return the time from which ffmpeg reads, in seconds of the film, so that frame `skip` is read as in the whole."""
    return max(0.0, time_of(piece, skip) - SOUGHT_BEFORE / float(piece.film.rate)) if piece.film.seekable else 0.0


EARLY = 0.25  # frames by which a cut comes before the first frame: rounded times must not cut that frame off
SOUGHT_BEFORE = 2.5  # frames of the film before the first one that are read, because bwdif compares neighbouring frames


def matrix_of(film):
    """Return the matrix of a film's colours: HD films that do not name theirs have that of BT.709."""
    return "bt709" if not film.colors and max(film.width, film.height) >= 1280 else "auto"
