"""Zoom films: each frame is a dream on the previous frame, which is first zoomed, rotated and shifted.

Frames are float32 H x W x 3 in 0..255. `options` is a config.Dream.
"""

import math

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from atelier import errors, ffmpeg, films, imaging


def make_film(session, picture, result, options, manifest, about, from_noise, alone):
    """Make a film that starts with a picture. Return those entries of its row that only films have.

    Until the film is complete, its frames are kept in a folder beside it. After an interruption, the same command
    continues from these frames. `manifest` is all that determines the frames. `alone` tells that this film is the only
    one of its command. Then frames with another manifest raise InputError, unless --overwrite is given. In a folder of
    photos, they are replaced: the folder's manifest was already compared.
    """
    ffmpeg.find_program()  # before frames are computed
    with films.only_maker(result, options, alone) as lease:
        return make_missing_frames(session, picture, result, options, manifest, about, from_noise, alone, lease)


def make_missing_frames(session, picture, result, options, manifest, about, from_noise, alone, lease):
    """Make the frames that are missing, and then the film. Raises LeaseLost if the lease is lost."""
    folder = result.with_name(f"{result.name}_frames")
    done = films.frames_done(folder, manifest, options.zoom, replace=options.overwrite or not alone)
    frame = imaging.load_image(films.frame_path(folder, done)) if done else None
    forecast = session.forecast([(options.zoom - done, 1)], options)
    try:
        with tqdm(
            total=options.zoom, initial=done, unit="frame", leave=False, disable=True if options.quiet else None
        ) as bar:
            for number in range(done + 1, options.zoom + 1):
                if frame is not None:
                    rng = np.random.default_rng((options.seed, number))
                    dreamed = session.dreamer.next_frame(move_frame(frame, options), rng)
                elif from_noise:
                    dreamed = session.dreamer.first_frame(picture, np.random.default_rng(options.seed))
                else:
                    dreamed = picture
                pixels = imaging.to_pixels(dreamed)
                lease.check()
                imaging.save_png(films.frame_path(folder, number), pixels, about)
                frame = pixels.astype("float32")  # as in the file: an interrupted film continues exactly
                bar.update()
                forecast.step(1)
        lease.check()
        paths = [films.frame_path(folder, number) for number in range(1, options.zoom + 1)]
        films.save_film(result, paths, options.fps, about)
    except KeyboardInterrupt:
        if not alone:
            raise
        raise errors.Interrupted(f"interrupted; the same command goes on from the frames in {folder}") from None
    except OSError as error:
        error.filename = f"{error.filename or result} (the frames so far are in {folder})"
        raise
    films.remove_frames(folder)
    return {"frames": options.zoom} | ({"frames_done_before": done} if done else {})


def move_frame(frame, options):
    """Zoom, rotate and shift a frame about its centre; beyond its edges it is mirrored."""
    angle = math.radians(options.rotate)
    matrix = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]) / options.zoom_factor
    center = (np.array(frame.shape[:2]) - 1) / 2
    right, down = options.shift or (0, 0)
    offset = center - matrix @ (center + [down, right])
    moved = [ndimage.affine_transform(frame[..., i], matrix, offset, order=3, mode="reflect") for i in range(3)]
    return np.clip(np.stack(moved, axis=2), 0, 255)
