"""Films and animations: writes .mp4, .gif and .webp files, and manages the frames of an unfinished film.

Frames are uint8 H x W x 3, in memory or as PNG files in a folder beside the film.
"""

import contextlib
import errno
import glob
import math
import pathlib
import sys
import time

import numpy as np
from PIL import Image, ImageSequence

from atelier import ffmpeg, imaging
from atelier.disk import read_json, refuse_to_overwrite, remove_leftovers, whole_file, write_json
from atelier.errors import InputError
from atelier.leases import Lease
from atelier.manifests import MANIFEST, changed_options

# ffmpeg's options for each format. Frames are written one at a time, so each frame of a GIF has its own palette.
PALETTES = "[0:v]split[seen][shown];[seen]palettegen=stats_mode=single[palette];[shown][palette]paletteuse=new=1"
KINDS = {
    ".mp4": {"quality": 8, "macro_block_size": 2},
    ".gif": {"codec": "gif", "pix_fmt_out": "pal8", "output_params": ["-filter_complex", PALETTES, "-loop", "0"]},
    ".webp": {"codec": "libwebp_anim", "output_params": ["-loop", "0", "-quality", "80"]},
}


def save_gif(path, frames, seconds):
    """Write frames, uint8 H x W (x 3), as a looping GIF. It lasts about `seconds`, and pauses on the last frame."""
    pictures = [Image.fromarray(frame) for frame in frames]
    durations = [max(20, round(1000 * seconds / len(pictures)))] * (len(pictures) - 1) + [1500]
    with whole_file(path) as temporary:
        pictures[0].save(temporary, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)


GIF_SIDE = 400  # pixels; with larger frames, a GIF takes many megabytes


def small(frame):
    """Shrink a frame, uint8 H x W x 3, so that its longest side has at most GIF_SIDE pixels."""
    height, width = frame.shape[:2]
    size = imaging.fit(width, height, min(GIF_SIDE, max(width, height)))
    return imaging.to_pixels(imaging.resize_picture(frame, *size))


def same_size(frames):
    """Resize all frames, uint8 H x W x 3, to the size of the last one."""
    height, width = frames[-1].shape[:2]
    return [imaging.to_pixels(imaging.resize_picture(frame, width, height)) for frame in frames]


@contextlib.contextmanager
def only_maker(result, options, alone):
    """Yield a Lease on the film file `result`: no other process makes this film. A note says if it has to wait.

    `alone` tells that this film is the only one of its command. Then InputError is raised if the film exists, unless
    --overwrite is given.
    """

    def say_waiting():
        if not options.quiet:
            print(f"note: another process is making {result}; this one waits for it", file=sys.stderr)

    with Lease(result.with_name(f".{result.name}.lock"), say_waiting) as lease:
        remove_leftovers(result.parent, [glob.escape(result.name)], time.time())
        if alone:  # another process may have made the film in the meantime
            refuse_to_overwrite([result], options.overwrite)
        yield lease


def save_film(path, frames, fps, about):
    """Write an .mp4, .gif or .webp of `fps` frames a second from the picture files `frames`, all of one size.

    An .mp4 (H.264) is cropped to an even width and height, since players need this, and stores the texts `about`.
    Raises OSError if the film is incomplete.
    """
    suffix, reason = pathlib.Path(path).suffix.lower(), None
    with whole_file(path) as temporary:
        try:
            defaults = {"quality": None, "macro_block_size": 1, "output_params": ffmpeg.record_arguments(path, about)}
            encode(temporary, frames, fps, **defaults | KINDS[suffix])
            whole = frames_of(temporary, suffix, fps) > len(frames) - 0.9
        except (OSError, RuntimeError) as error:
            whole, reason = False, error
        if not whole:  # ffmpeg does not report every error, and imageio-ffmpeg does not pass on its messages
            raise OSError(errno.EIO, "the film can't be written completely (is the disk full?)") from reason


def encode(path, frames, fps, macro_block_size, **options):
    """Write the picture files `frames` as a film with ffmpeg. The last two arguments are options as in KINDS."""
    import imageio_ffmpeg  # GIFs of drawings do not need it

    height, width = (side // macro_block_size * macro_block_size for side in read_frame(frames[0]).shape[:2])
    more = {"fps": fps, "macro_block_size": macro_block_size, "ffmpeg_log_level": "quiet", **options}
    path = pathlib.Path(path).absolute()  # in a name alone, ffmpeg takes what is before a colon for a protocol
    with contextlib.closing(imageio_ffmpeg.write_frames(path, (width, height), **more)) as film:
        film.send(None)
        for frame in frames:
            film.send(np.ascontiguousarray(read_frame(frame)[:height, :width]))


def frames_of(path, suffix, fps):
    """Return the length of a film in frames.

    GIF and WebP files merge consecutive equal frames. If all frames are equal, the file is a still picture, and the
    result is infinity.
    """
    if suffix == ".mp4":
        import imageio_ffmpeg

        return imageio_ffmpeg.count_frames_and_secs(pathlib.Path(path).absolute())[0]
    with Image.open(path) as film:
        film.load()
        if getattr(film, "n_frames", 1) == 1:
            return math.inf
        return sum(frame.copy().info.get("duration", 0) for frame in ImageSequence.Iterator(film)) * fps / 1000


def read_frame(path):
    """Read a picture file as uint8 H x W x 3, without any change of colours or orientation."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


# --- Frames of an unfinished film --------------------------------------------------------------

PART_LIST = "parts.txt"  # names the parts of a film for ffmpeg while they are joined


def frame_path(folder, number, suffix=".png"):
    """Return the path of a frame, or of a part with several frames; numbers start at 1."""
    return folder / f"{number:05}{suffix}"


def frames_done(folder, manifest, most, replace, suffix=".png"):
    """Count the frames, or parts, that an interrupted film with the same manifest left in `folder`, up to `most`.

    If the folder holds frames or parts with another manifest, they are removed if `replace` is true; otherwise
    InputError is raised. If there are none (left), the manifest is written. Raises InputError if the folder then holds
    other files.
    """
    path = folder / MANIFEST
    if path.exists() and not changed_options(read_json(path), manifest):
        done = 0
        while done < most and frame_path(folder, done + 1, suffix).exists():
            done += 1
        return done
    made = [frame for frame in folder.glob("[0-9][0-9][0-9][0-9][0-9].*") if frame.suffix != ".npz"]
    if path.exists() and (replace or not made):
        remove_frames(folder)
    elif path.exists():
        changes = "; ".join(changed_options(read_json(path), manifest))
        raise InputError(f"{folder} holds frames of another film ({changes}); give another --output, or --overwrite")
    if folder.exists() and any(path.name[0] != "." for path in folder.iterdir()):
        raise InputError(f"frames would be stored in {folder}, which is not empty; give another --output")
    write_json(path, manifest)
    return 0


def remove_frames(folder):
    """Remove the frames of a film, and their folder if nothing else is in it."""
    # Files whose names begin with a dot are incomplete; a killed process left them.
    for pattern in (
        "[0-9][0-9][0-9][0-9][0-9].*",
        ".[0-9][0-9][0-9][0-9][0-9]-*.*",
        MANIFEST,
        f".{pathlib.Path(MANIFEST).stem}-*.json",
        PART_LIST,
        f".{pathlib.Path(PART_LIST).stem}-*.txt",
    ):
        for path in folder.glob(pattern):
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
