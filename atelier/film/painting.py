"""Paints a film frame by frame, in parts that a killed command leaves behind, so that the same command continues.

Frames and pictures are uint8 H x W x 3.
"""

import contextlib
import dataclasses
import itertools
import pathlib
import sys
import time
from concurrent import futures

import numpy as np
import threadpoolctl
from tqdm import tqdm

from atelier import disk, errors, films, imaging, progress
from atelier.film import optical_flow
from atelier.film.parts import Parts
from atelier.film.reading import FrameReader


def identity_of(path):
    """Return what identifies a film in a manifest, without reading all of it."""
    stat = pathlib.Path(path).stat()
    return {"film": pathlib.Path(path).name, "film_bytes": stat.st_size, "film_changed": stat.st_mtime_ns}


def paint_film(piece, result, options, painter, manifest, about, alone):
    """Paint a Piece of a film and write it to the file `result`: returns a dict for the summary.

    Until the film is complete, its parts are kept in a folder beside it. `alone` tells that this film is the only one
    of its command: then parts with another manifest raise InputError unless --overwrite is given, and Ctrl-C leaves
    the finished parts as a film. The texts `about`, see imaging.py, are stored in the film.
    """
    with films.only_maker(result, options, alone) as lease:
        film = FilmPainting(piece, result, options, painter, about, lease)
        return film.paint(manifest, alone)


class Painter:
    """Paints frame by frame. `state`, a dict of arrays, is all that it remembers.

    Each kind has `first(frame)`, for the first frame of a scene, and `next(frame, motion)`, for each later one. Both
    return the picture. `motion` is an optical_flow.Motion.
    """

    def paint(self, frames):
        """Yield each frame, its motion and its picture. Then `state` is the one after this picture.

        `frames` yields each frame with its motion, or with None where a scene begins.
        """
        for frame, motion in frames:
            yield frame, motion, self.first(frame) if motion is None else self.next(frame, motion)


class FilmPainting:
    """One film that is being painted. `frames` and `scenes` count what is painted so far."""

    def __init__(self, piece, result, options, painter, about, lease):
        self.piece, self.result, self.options, self.painter = piece, result, options, painter
        self.about, self.lease = about, lease
        self.parts = Parts(result, piece.rate)
        self.former, self.frames, self.scenes = None, 0, 0

    def paint(self, manifest, alone):
        """Paint what is missing, join the parts, and return the film's entries in the summary."""
        started = time.perf_counter()
        done, state = self.parts.resume(manifest, self.options.overwrite or not alone)
        if done:
            self.former, (self.frames, self.scenes) = state.pop("former"), map(int, state.pop("counts"))
            self.painter.state = state
        done_before = self.frames
        try:
            reader = FrameReader(self.piece, skip=self.frames)
            # Threads of BLAS that wait for work keep a core busy, which the network or the flow could use.
            with reader, self.progress_bar() as advance, threadpoolctl.threadpool_limits(1, "blas"):
                painted = self.painter.paint(with_motions(reader, self.former))
                for first in painted:
                    in_part = itertools.chain([first], itertools.islice(painted, self.parts.length - 1))
                    self.paint_part(done + 1, in_part, advance)
                    done += 1
            self.check_whole(reader)
            self.lease.check()
            self.parts.join(self.result, done, self.piece, self.about)
        except KeyboardInterrupt:
            if not alone:
                raise
            raise self.interrupted(done) from None
        except OSError as error:
            error.filename = f"{error.filename or self.result} (the seconds so far are in {self.parts.folder})"
            raise
        self.parts.remove()
        so_far(self.result).unlink(missing_ok=True)
        return self.row(time.perf_counter() - started, done_before)

    def paint_part(self, number, painted, advance):
        """Paint the frames of one part and write it."""
        with self.parts.writer(number, self.state, (self.piece.width, self.piece.height)) as write:
            for self.former, motion, picture in painted:
                self.frames += 1
                self.scenes += motion is None
                write(picture)
                advance()
            self.lease.check()

    def state(self):
        """Return all that the next frame depends on: a dict of arrays."""
        return {"former": self.former, "counts": np.array([self.frames, self.scenes]), **self.painter.state}

    @contextlib.contextmanager
    def progress_bar(self):
        """Yield a function to call after each frame. It moves a bar; a line says early how long the film takes."""
        count, quiet = self.piece.count, self.options.quiet
        left = max(2, (count or 0) - self.frames)
        forecast = progress.Forecast([(left, 1)], "for this film", quiet or count is None)
        disable = True if quiet else None
        with tqdm(total=count, initial=self.frames, unit="frame", leave=False, disable=disable) as bar:

            def advance():
                bar.update()
                forecast.step(1)

            yield advance

    def check_whole(self, reader):
        """Raise InputError for less than two frames. Print notes about damaged frames and a film that is cut short."""
        piece, path = self.piece, self.piece.film.path
        if self.frames < 2:
            self.parts.remove()
        if self.frames < 2 and not reader.messages and (self.options.start or self.options.end or self.options.fps):
            raise errors.InputError(f"the piece of {path} that is asked for has fewer than two frames")
        if not self.frames:
            raise errors.InputError(f"{path} holds no frame that ffmpeg can read{reader.last_message()}")
        if self.frames == 1:
            raise errors.InputError(f"{path} holds one frame, and is no film; save it as a picture, and give that")
        if self.options.quiet:
            return
        if reader.damaged:
            times = ", ".join(f"{seconds:.2f}" for seconds in reader.damaged[:5]) + ", ..." * (len(reader.damaged) > 5)
            print(f"note: {path} is damaged at {times} s; the frame before is held there", file=sys.stderr)
        if piece.count and self.frames < 0.9 * piece.count:
            ends = piece.start + self.frames / float(piece.rate)
            print(f"note: {path} is cut short: its frames end at {ends:.1f} s", file=sys.stderr)

    def interrupted(self, done):
        """Write the parts so far as a film; return the error to raise."""
        again = "the same command goes on"
        if not done:
            return errors.Interrupted(f"interrupted before the first second was painted; {again}")
        path = so_far(self.result)
        seconds = min(done * self.parts.length, self.frames) / float(self.piece.rate)
        self.parts.join(path, done, dataclasses.replace(self.piece, seconds=seconds), self.about)
        return errors.Interrupted(f"interrupted; {path} is the film so far, and {again}")

    def row(self, seconds, done_before):
        piece = self.piece
        row = {"width": piece.width, "height": piece.height, "seconds": round(seconds, 1), "frames": self.frames}
        row |= {"fps": f"{float(piece.rate):.5g}", "scenes": self.scenes}
        return row | ({"frames_done_before": done_before} if done_before else {})


def with_motions(frames, former):
    """Yield each frame with the Motion from the one before, or with None where a scene begins.

    `former` is the frame before the first one, or None. The motion to the next frame is computed while a frame is
    painted.
    """
    with futures.ThreadPoolExecutor(1) as pool:
        waiting = None
        for frame in frames:
            motion = None if former is None else pool.submit(optical_flow.motion_between, former, frame)
            if waiting:
                yield waiting[0], waiting[1] and waiting[1].result()
            waiting, former = (frame, motion), frame
        if waiting:
            yield waiting[0], waiting[1] and waiting[1].result()


def so_far(result):
    """Return the path of the film that Ctrl-C leaves."""
    return result.with_name(f"{result.stem}__so_far{result.suffix}")


def paint_samples(piece, folder, options, painter, about):
    """Paint each frame of number --frames-every by itself. Yield the picture's path in `folder`, named by its time.

    `about` is stored in the pictures, see imaging.py. Raises InputError.
    """
    with FrameReader(piece, every=options.frames_every) as reader:
        for number, frame in enumerate(reader):
            seconds = piece.start + number * options.frames_every / float(piece.rate)
            path = folder / f"{seconds:08.2f}s.png"
            disk.refuse_to_overwrite([path], options.overwrite)
            imaging.save_png(path, painter.first(frame), about)
            yield path
