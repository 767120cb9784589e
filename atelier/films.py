"""Films and animations: .mp4, .gif and .webp files, and the frames that are kept beside a film until it is whole.

Frames are uint8 H x W x 3, in memory or as PNGs in a folder of their own.
"""

import contextlib
import errno
import math
import pathlib

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageSequence

from atelier.disk import read_json, whole_file, write_json
from atelier.errors import InputError
from atelier.imaging import fit, resize_picture, to_pixels
from atelier.manifests import MANIFEST, differences

# Each kind of film by what ffmpeg writes it with. All go frame by frame: a GIF, too, with a palette for each.
PALETTES = "[0:v]split[seen][shown];[seen]palettegen=stats_mode=single[palette];[shown][palette]paletteuse=new=1"
KINDS = {
    ".mp4": {"quality": 8, "macro_block_size": 2},
    ".gif": {"codec": "gif", "pix_fmt_out": "pal8", "output_params": ["-filter_complex", PALETTES, "-loop", "0"]},
    ".webp": {"codec": "libwebp_anim", "output_params": ["-loop", "0", "-quality", "80"]},
}


def save_gif(path, frames, seconds):
    """Write uint8 H x W (x 3) frames as a looping GIF of about `seconds`, with a pause on the last frame."""
    pictures = [Image.fromarray(frame) for frame in frames]
    durations = [max(20, round(1000 * seconds / len(pictures)))] * (len(pictures) - 1) + [1500]
    with whole_file(path) as temporary:
        pictures[0].save(temporary, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)


GIF_SIDE = 400  # pixels; a GIF of larger frames is many megabytes


def small(frame):
    """Resize a frame, uint8 H x W x 3, to be no larger than a GIF's."""
    height, width = frame.shape[:2]
    return to_pixels(resize_picture(frame, *fit(width, height, min(GIF_SIDE, max(width, height)))))


def same_size(frames):
    """Resize frames, uint8 H x W x 3, to the shape of the last one."""
    height, width = frames[-1].shape[:2]
    return [to_pixels(resize_picture(frame, width, height)) for frame in frames]


def check_encoder():
    """Raise InputError where no film can be written, before there are frames to lose."""
    try:
        imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise InputError("there is no ffmpeg here, which films need; IMAGEIO_FFMPEG_EXE may name one") from error


def save_film(path, frames, fps):
    """Write the pictures in the files `frames`, all of one size, as an .mp4, .gif or .webp of `fps` frames a second.

    H.264 has even sides, as players want them. Raises OSError where it can't be written whole.
    """
    suffix, reason = pathlib.Path(path).suffix.lower(), None
    with whole_file(path) as temporary:
        try:
            encode(temporary, frames, fps, **{"quality": None, "macro_block_size": 1} | KINDS[suffix])
            whole = frames_of(temporary, suffix, fps) > len(frames) - 0.9
        except (OSError, RuntimeError) as error:
            whole, reason = False, error
        if not whole:  # ffmpeg does not always complain, and what it says is not handed on
            raise OSError(errno.EIO, "the film can't be written whole (is the disk full?)") from reason


def encode(path, frames, fps, macro_block_size, **kind):
    """Have ffmpeg write the pictures in the files `frames` as one of KINDS."""
    height, width = (side // macro_block_size * macro_block_size for side in read_frame(frames[0]).shape[:2])
    more = {"fps": fps, "macro_block_size": macro_block_size, "ffmpeg_log_level": "quiet", **kind}
    with contextlib.closing(imageio_ffmpeg.write_frames(path, (width, height), **more)) as film:
        film.send(None)
        for frame in frames:
            film.send(np.ascontiguousarray(read_frame(frame)[:height, :width]))


def frames_of(path, suffix, fps):
    """Return how many frames a film lasts. Of such that are alike GIFs and WebPs keep one: a still, if all are."""
    if suffix == ".mp4":
        return imageio_ffmpeg.count_frames_and_secs(path)[0]
    with Image.open(path) as film:
        film.load()
        if getattr(film, "n_frames", 1) == 1:
            return math.inf
        return sum(frame.copy().info.get("duration", 0) for frame in ImageSequence.Iterator(film)) * fps / 1000


def read_frame(path):
    """Read a picture's pixels as they are: uint8 H x W x 3."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


# --- Frames beside a film ----------------------------------------------------------------------


def frame_path(folder, number):
    """Name a frame, from 1 on."""
    return folder / f"{number:05}.png"


def frames_done(folder, manifest, most, replace):
    """Count the frames that an interrupted film of the same manifest left, at most `most`.

    Those of another manifest are removed where they may be replaced. Raises InputError where they may not.
    """
    path = folder / MANIFEST
    if path.exists() and not differences(read_json(path), manifest):
        done = 0
        while done < most and frame_path(folder, done + 1).exists():
            done += 1
        return done
    if path.exists() and replace:
        remove_frames(folder)
    elif path.exists():
        differing = "; ".join(differences(read_json(path), manifest))
        raise InputError(f"{folder} holds frames of another film ({differing}); give another --output, or --overwrite")
    if folder.exists() and any(path.name[0] != "." for path in folder.iterdir()):
        raise InputError(f"{folder} is where frames would be kept, and is not empty; give another --output")
    write_json(path, manifest)
    return 0


def remove_frames(folder):
    """Remove the frames of a film, and their folder if nothing else is in it."""
    # What begins with a dot was being written when the process was killed.
    for pattern in (
        "[0-9][0-9][0-9][0-9][0-9].png",
        ".[0-9][0-9][0-9][0-9][0-9]-*.png",
        MANIFEST,
        f".{pathlib.Path(MANIFEST).stem}-*.json",
    ):
        for path in folder.glob(pattern):
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
