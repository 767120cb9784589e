"""Read pictures (turned upright, in sRGB), find them in folders, resize them, and write them, alone or on a sheet.

Pictures are float32 H x W x 3 in 0..255, or uint8 when they are ready to be written. `about` is a dict of strings that
says how a picture was made; the picture's file stores it.
"""

import contextlib
import io
import pathlib
import warnings
import zlib

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageDraw, ImageOps, PngImagePlugin, UnidentifiedImageError
from skimage.util import montage

from atelier import naming
from atelier.disk import silenced_stderr, whole_file
from atelier.errors import InputError

with contextlib.suppress(ImportError):  # optional; with it, Pillow reads HEIC
    import pillow_heif

    pillow_heif.register_heif_opener()

Image.MAX_IMAGE_PIXELS = 110_000_000  # Pillow refuses pictures with more than twice as many; phones take 200 million


def load_image(path):
    """Read a picture, upright and in sRGB: float32 H x W x 3 in 0..255. Raises InputError if it cannot be read."""
    return np.asarray(open_picture(path), "float32")


def open_picture(path, at_least=None):
    """Open a picture as a Pillow RGB image: upright, in sRGB, with white behind transparent pixels.

    Of an animation, the first frame is read. With `at_least` (width, height), a JPEG may be decoded at a reduced size
    that is at least this large, which is faster. Raises InputError if the picture cannot be read.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture, quiet_decoder(picture):
            if at_least:
                picture.draft(None, at_least)
            profile = picture.info.get("icc_profile")
            upright = to_eight_bits(ImageOps.exif_transpose(picture))
            if upright.has_transparency_data:
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
                upright = upright.convert("RGB")
            return to_srgb(upright, profile)
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not a picture that can be read{advice_on([path])}") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder, and one picture is needed") from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        most = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        raise InputError(f"{path} has more than {most} million pixels; save it smaller") from error
    except Exception as error:  # Pillow can raise any error for a damaged file
        raise InputError(f"{path} is not a picture that can be read: {error}") from error


def quiet_decoder(picture):
    """Return a context in which a Pillow image is decoded without messages on standard error; libtiff writes some."""
    return silenced_stderr() if picture.format == "TIFF" else contextlib.nullcontext()


def to_eight_bits(picture):
    """Convert a grey Pillow image with more than 8 bits to 8 bits.

    White is 1 in an image of floats up to 1, 255 in another image with values up to 255, and 65535 in all others.
    """
    if picture.mode not in ("I", "F") and not picture.mode.startswith("I;16"):
        return picture
    greys = np.asarray(picture, "float64")
    largest = greys.max(initial=0)
    white = 1 if picture.mode == "F" and largest <= 1 else 255 if largest <= 255 else 65535
    return Image.fromarray(np.clip(greys / white * 255, 0, 255).astype("uint8"))


def to_srgb(picture, profile):
    """Convert a Pillow image to sRGB, by its ICC profile (bytes or None) if Pillow can read it."""
    if profile:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(picture, io.BytesIO(profile), srgb, outputMode="RGB")
    return picture.convert("RGB")


def find_pictures(folder, recursive=True):
    """List the pictures in a folder and its subfolders, sorted.

    Files are recognised as pictures by their suffix, and those named .heic by whether Pillow can open them: without
    pillow-heif, it can open the JPEGs among them.
    """
    files = find_files(folder, picture_endings() | HEIC, recursive)
    return [path for path in files if path.suffix.lower() not in HEIC or picture_endings() >= HEIC or can_open(path)]


def find_films(folder, recursive=True):
    """List the films in a folder, sorted, and with `recursive` also those in its subfolders."""
    endings = naming.FILM_ENDINGS | naming.ANIMATION_ENDINGS
    return [path for path in find_files(folder, endings, recursive) if naming.is_film(path)]


def can_open(path):
    """Tell whether Pillow knows a file's format."""
    with contextlib.suppress(Exception), Image.open(path):  # a damaged header can raise any error
        return True
    return False


def find_paintings(paths):
    """List the paintings in `paths`: files, and the pictures in folders. Raises InputError for a folder without any."""
    paintings = []
    for path in map(pathlib.Path, paths):
        found = find_pictures(path, recursive=False) if path.is_dir() else [path]
        if not found:
            raise InputError(f"{path} is a folder without pictures; --style needs paintings")
        paintings += found
    return paintings


def picture_endings():
    """Return the suffixes of pictures that can be read: a set of ".png" and so on."""
    known = Image.registered_extensions().items()
    return {ending for ending, kind in known if kind in Image.OPEN and kind not in NOT_PICTURES}


def unread_pictures(folder, recursive=True):
    """Return a note about the pictures in a folder whose camera formats can't be read, or None if there are none."""
    files = sorted({*find_files(folder, CAMERA_KINDS, recursive)} - {*find_pictures(folder, recursive)})
    return f"{len(files)} such as {files[0]} can't be read{advice_on(files)}" if files else None


def advice_on(files):
    """Return the end of the message about files that can't be read: how to read HEIC and cameras' raw formats."""
    kinds = {pathlib.Path(path).suffix.lower() for path in files}
    if kinds & HEIC and not picture_endings() >= HEIC:
        return "; pip install pillow-heif, which reads HEIC, or save as JPEG"
    return "; save as JPEG" if kinds & CAMERA_KINDS else ""


# Formats that cameras write and Pillow cannot read without a plugin.
HEIC = {".heic", ".heif"}
CAMERA_KINDS = HEIC | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}


def find_files(folder, endings, recursive):
    """List the files in a folder with one of these suffixes, sorted, without hidden files and thumbnails."""
    folder = pathlib.Path(folder)
    files = folder.rglob("*") if recursive else folder.iterdir()
    found = (path for path in files if path.suffix.lower() in endings and path.is_file())
    return sorted(path for path in found if not any(is_hidden(part) for part in path.relative_to(folder).parts))


THUMBNAILS = "index_files"  # the folder of the thumbnails that belong to a page, index.html


def is_hidden(part):
    """Tell whether files are not looked for in a folder of this name, or whether a file of this name is not found."""
    return part[0] == "." or part == THUMBNAILS


def load_pictures(folder, width, height, gray=False):
    """Read the pictures in a folder, each cropped around its centre and resized: uint8 N x height x width x 3.

    Returns the pictures, and a list with the reason for each file that could not be used. Raises InputError if no file
    can be used.
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
        unread = unread_pictures(folder)
        reason = f"; the first: {refused[0]}" if refused else f"; {unread}" if unread else ""
        raise InputError(f"{folder} holds no picture that can be used{reason}")
    return np.stack(pictures), refused


def fit_picture(picture, width, height, gray):
    """Crop a Pillow RGB image around its centre and resize it: uint8 height x width x 3, in greys if `gray`."""
    fitted = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(fitted.convert("L").convert("RGB") if gray else fitted)


NOT_PICTURES = (
    "EPS",
    "HDF5",
    "MPEG",
    "GRIB",
    "BUFR",
)  # Pillow needs other programs to decode these
SMALLEST_SIDE = 8  # pixels; smaller pictures are icons or mistakes, and of no use for a training


def resize_picture(picture, width, height):
    """Resize float32 H x W x 3 to float32 height x width x 3, clipped to the range of the picture's values."""
    if picture.shape[:2] == (height, width):
        return np.asarray(picture, "float32")
    resized = np.empty((height, width, picture.shape[2]), "float32")
    for channel in range(picture.shape[2]):  # one by one, to save memory
        image = Image.fromarray(np.asarray(picture[..., channel], "float32", order="C"))
        resized[..., channel] = image.resize((width, height), Image.Resampling.LANCZOS)
    return np.clip(resized, picture.min(), picture.max(), out=resized)


def fit(width, height, longest):
    """Return (width, height) in the same proportions, so that the longer side is `longest`."""
    factor = longest / max(width, height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def to_pixels(picture):
    """Round float H x W x 3 to uint8, and clip it to 0..255."""
    rounded = np.round(picture)
    return np.clip(rounded, 0, 255, out=rounded).astype("uint8")  # in place, since copies of large pictures take time


def save_png(path, pixels, about, **more):
    """Write uint8 H x W or H x W x 3 as a PNG with the texts of `about` in its text chunks."""
    text = PngImagePlugin.PngInfo()
    for key, value in about.items():
        text.add_itxt(key, value)
    with whole_file(path) as temporary:
        # Only run-length encoding: full compression takes three times as long and makes a painting at most 2 % smaller.
        compression = {"compress_level": 1, "compress_type": zlib.Z_RLE}
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=text, **compression, **more)


def save_picture(path, pixels, about, exif=None):
    """Write uint8 H x W x 3 as .png or .jpg, with the texts of `about` and the EXIF data `exif` (bytes, or None)."""
    more = {"exif": exif} if exif else {}
    if pathlib.Path(path).suffix.lower() == ".png":
        save_png(path, pixels, about, **more)
        return
    content = io.BytesIO()  # Pillow does not report a full disk when it writes a JPEG into a file
    if len(comment_of(about).encode()) > LONGEST_COMMENT:
        about = {key: text for key, text in about.items() if len(text) < SHORT}
    Image.fromarray(pixels).save(content, format="JPEG", quality=95, subsampling=0, comment=comment_of(about), **more)
    with whole_file(path) as temporary:
        pathlib.Path(temporary).write_bytes(content.getvalue())


LONGEST_COMMENT = 65_533  # bytes in a JPEG
SHORT = 2000  # characters; a text that is not short, such as a command with thousands of photos, is left out before


def comment_of(about):
    """Return the dict `about` as the comment of a JPEG or a film, a text."""
    return "\n".join(f"{key}: {value.replace(LINE, FOLDED)}" for key, value in about.items())


def about_of(comment):
    """Return the dict `about` of a comment, see comment_of(). Raises ValueError if it is another text."""
    lines = comment.replace(FOLDED, "\0").split(LINE)
    return dict(line.replace("\0", LINE).split(": ", 1) for line in lines)


LINE, FOLDED = "\n", "\n\t"  # in a comment, a line that begins with a tab continues the one before


def read_about(path):
    """Read the dict `about` that save_picture wrote; it is empty if the file has none."""
    with contextlib.suppress(Exception), Image.open(path) as picture:
        if picture.format == "JPEG":
            return about_of(picture.info["comment"].decode())
        return {key: text for key, text in picture.info.items() if isinstance(text, str)}
    return {}


def kept_exif(path):
    """Return the EXIF tags of a photo's date and camera, in bytes, or None if it has neither."""
    kept, names = Image.Exif(), ExifTags.Base
    with contextlib.suppress(Exception), Image.open(path) as photo:  # damaged tags can raise any error
        exif = photo.getexif()
        details = exif.get_ifd(ExifTags.IFD.Exif)
        for tag in (names.Make, names.Model, names.DateTime):
            if tag in exif:
                kept[tag] = exif[tag]
        wanted = (names.DateTimeOriginal, names.DateTimeDigitized, names.OffsetTimeOriginal, names.LensModel)
        found = {tag: details[tag] for tag in wanted if tag in details}
        if found:
            kept.get_ifd(ExifTags.IFD.Exif).update(found)
        return kept.tobytes() if found or len(kept) else None
    return None


def contact_sheet(pictures, columns, gap=1, across=1500):
    """Arrange pictures, uint8 N x H x W (x 3), on a grid with dark grey lines between them: uint8.

    The sheet is enlarged by an integer factor, at most 8, so that it is about `across` pixels wide.
    """
    count, _, width, *channels = pictures.shape
    grid, grey = (-(-count // columns), columns), [64] * (channels[0] if channels else 1)
    sheet = montage(pictures, grey, grid_shape=grid, padding_width=gap, channel_axis=3 if channels else None)
    enlarge = int(np.clip(across // (columns * (width + gap)), 1, 8))
    return sheet.repeat(enlarge, 0).repeat(enlarge, 1)


def with_title(pixels, title):
    """Add a strip with a line of text above a picture, uint8 H x W x 3."""
    height = 20
    strip = Image.new("RGB", (pixels.shape[1], height), (64, 64, 64))
    ImageDraw.Draw(strip).text((6, 3), title, fill="white", font_size=12)
    return np.concatenate([np.asarray(strip), pixels])


def side_by_side(pictures, height, gap=8):
    """Resize pictures H x W x 3 to the same height, and put them next to each other: uint8."""
    row = []
    for picture in pictures:
        width = max(1, round(picture.shape[1] * height / picture.shape[0]))
        row += [
            to_pixels(resize_picture(picture, width, height)),
            np.full((height, gap, 3), 255, "uint8"),
        ]
    return np.concatenate(row[:-1], axis=1)
