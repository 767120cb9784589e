"""Pictures: read upright and in sRGB, resized, and written as pictures, sheets and films.

Pictures are float32 H x W x 3 in 0..255, or uint8 where they are about to be written; `about`, a dict of strings, is
what a picture's file tells of how it was made.
"""

import contextlib
import io
import math
import pathlib
import warnings
import zlib

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageDraw, ImageOps, PngImagePlugin, UnidentifiedImageError
from skimage.color import lab2rgb, rgb2lab

from atelier.disk import silenced_stderr, whole_file
from atelier.errors import InputError


def load_image(path):
    """Read a picture upright and in RGB: float32 H x W x 3 in 0..255. Raises InputError where it can't be read."""
    return np.asarray(open_picture(path), "float32")


def open_picture(path, at_least=None):
    """Open a picture upright and in sRGB, on white where it is transparent, as a Pillow RGB image.

    Of an animation it is the first frame. `at_least` (width, height) lets a JPEG be decoded at a fraction of its
    size, but no smaller than that. Raises InputError where it can't be read.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture, quiet_decoder(picture):
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


def quiet_decoder(picture):
    """Return a context in which a Pillow image is decoded without lines on standard error, which libtiff writes."""
    return silenced_stderr() if picture.format == "TIFF" else contextlib.nullcontext()


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
    return find_files(folder, picture_endings(), recursive)


def find_paintings(paths):
    """List the paintings that are named, where a folder is named those in it. Raises InputError."""
    paintings = []
    for path in map(pathlib.Path, paths):
        found = find_pictures(path, recursive=False) if path.is_dir() else [path]
        if not found:
            raise InputError(f"{path} is a folder without pictures; --style takes paintings")
        paintings += found
    return paintings


def picture_endings():
    """Return how the names of pictures end that can be read: a set of ".png" and so on."""
    known = Image.registered_extensions().items()
    return {ending for ending, kind in known if kind in Image.OPEN and kind not in NOT_PICTURES}


def unread_pictures(folder, recursive=True):
    """Say which pictures in a folder are of a kind that only cameras write, or return None where there are none."""
    files = sorted({*find_files(folder, CAMERA_KINDS, recursive)} - {*find_pictures(folder, recursive)})
    return f"{len(files)} such as {files[0]} can't be read; save them as JPEG" if files else None


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
    if picture.shape[:2] == (height, width):
        return np.asarray(picture, "float32")
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


def recolored(picture, mean, covariance):
    """Give a picture, float32 H x W x 3 in 0..255, colours of this mean, 3, and covariance, 3 x 3, by recoloring."""
    matrix, shift = recoloring(picture, mean, covariance)
    return picture @ matrix.astype("float32") + shift.astype("float32")


def recoloring(picture, mean, covariance):
    """Return the matrix, 3 x 3, and the shift, 3, that give a picture H x W x 3 colours of this mean and covariance.

    The map is the linear one that moves colours least (Pitie & Kokaram 2007, "The linear Monge-Kantorovitch linear
    colour mapping"), so what was lighter than its surroundings mostly stays so. Some colours may leave 0..255.
    """
    thinned = picture[:: math.ceil(len(picture) / MOST_SIDE), :: math.ceil(picture.shape[1] / MOST_SIDE)]
    pixels = thinned.reshape(-1, 3).astype("float64")
    own = square_root(np.cov(pixels.T) + 4 * np.eye(3))  # two grey levels: a grey photo's noise becomes no colour
    back = np.linalg.inv(own)
    matrix = back @ square_root(own @ covariance @ own) @ back
    return matrix, mean - pixels.mean(0) @ matrix


MOST_SIDE = 2000  # pixels whose colours are looked at, from side to side


def color_span(covariance):
    """Return the projection, 3 x 3, on the directions in which colours of this covariance differ to the eye."""
    values, vectors = np.linalg.eigh(covariance)
    differing = vectors[:, values > LEAST_DEVIATION**2]
    return (differing @ differing.T).astype("float32")


LEAST_DEVIATION = 1.0  # grey levels; a grey picture saved as a JPEG deviates by less


def square_root(matrix):
    """Return the symmetric square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


def to_pixels(picture):
    """Turn float H x W x 3 about 0..255 into uint8."""
    rounded = np.round(picture)
    return np.clip(rounded, 0, 255, out=rounded).astype("uint8")  # of a large picture, each copy takes its time


def save_png(path, pixels, about, **more):
    """Write uint8 H x W or H x W x 3 as a PNG whose text chunks, `about`, tell how it was made."""
    text = PngImagePlugin.PngInfo()
    for key, value in about.items():
        text.add_itxt(key, value)
    with whole_file(path) as temporary:
        # Looking for more than runs of one byte takes Pillow three times as long, for at most 2 % less of a painting.
        runs = {"compress_level": 1, "compress_type": zlib.Z_RLE}
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=text, **runs, **more)


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


def read_about(path):
    """Read what a picture tells of how it was made (see save_picture): a dict of strings, empty where it is nothing."""
    with contextlib.suppress(Exception), Image.open(path) as picture:
        if picture.format == "JPEG":
            lines = picture.info["comment"].decode().splitlines()
            return dict(line.split(": ", 1) for line in lines)
        return {key: text for key, text in picture.info.items() if isinstance(text, str)}
    return {}


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


def side_by_side(pictures, height, gap=8):
    """Put pictures H x W x 3 beside each other, all of one height: uint8."""
    row = []
    for picture in pictures:
        width = max(1, round(picture.shape[1] * height / picture.shape[0]))
        row += [
            to_pixels(resize_picture(picture, width, height)),
            np.full((height, gap, 3), 255, "uint8"),
        ]
    return np.concatenate(row[:-1], axis=1)
