"""Load data sets of small grey pictures (scikit-learn's digits, MNIST, .npz or IDX files) and the user's own digit.

Images are uint8 N x H x W, white on black; labels are integers N. TensorFlow is imported only
when Keras loads MNIST or Fashion-MNIST.
"""

import contextlib
import gzip
import pathlib
import sys
import zlib

import numpy as np
from skimage.transform import resize

from atelier import imaging, naming
from atelier.command_line import lazy_import
from atelier.errors import InputError

hardware = lazy_import("atelier.hardware")

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def load_dataset(source, data=None):
    """Load pictures and labels: (train images, train labels, test images, test labels).

    `source` is digits, mnist or fashion_mnist. If `data` is given, `source` can be any name. `data` is the path of
    an .npz with x_train, y_train, x_test and y_test, or of a folder with the four IDX files, gzipped or not.
    Images are uint8 N x H x W, white ink on black; labels are integers. Raises InputError.
    """
    naming.check_set(source, data)
    if data is not None:
        arrays = load_npz(data) if pathlib.Path(data).is_file() else load_idx_folder(data)
    else:
        arrays = load_scikit_digits() if source == "digits" else load_with_keras(source)
    check_dataset(*arrays, data or source)
    return arrays


def load_scikit_digits():
    """Load scikit-learn's 1,797 digits, as load_dataset does. The last 360 are the test set."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype("uint8")
    return images[:-360], digits.target[:-360], images[-360:], digits.target[-360:]


def load_with_keras(source):
    """Load MNIST or Fashion-MNIST from Keras's cache or by a download, as load_dataset does. Raises InputError."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Keras prints its download on standard output
            (x_train, y_train), (x_test, y_test) = getattr(hardware.keras.datasets, source).load_data()
    except Exception as error:
        message = (
            f"{source} is not in Keras's cache and can't be downloaded; --data takes an .npz like Keras's or a folder "
            "with the four IDX files"
        )
        raise InputError(message) from error
    return x_train, y_train, x_test, y_test


def load_npz(path):
    """Read the four arrays of an .npz with the layout of Keras's MNIST, as load_dataset does. Raises InputError."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return tuple(archive[name] for name in NPZ_ARRAYS)
    except KeyError as error:
        raise InputError(f"{path} lacks an array; it must hold {', '.join(NPZ_ARRAYS)}") from error
    except Exception as error:  # NumPy and zipfile do not catch the exceptions of their parsers
        folder = pathlib.Path(path).parent
        if holds_idx_files(folder):
            raise InputError(f"{path} is not a readable .npz; for the IDX files beside it: --data {folder}") from error
        message = f"{path} is not a readable .npz; --data takes an .npz or a folder with the four IDX files"
        raise InputError(message) from error


def load_idx_folder(folder):
    """Read the four IDX files in a folder, as load_dataset does. Raises InputError."""
    folder = pathlib.Path(folder)
    return tuple(read_idx(find_idx(folder, name), dimensions=3 if "images" in name else 1) for name in IDX_FILES)


def holds_idx_files(folder):
    """Tell whether a folder holds all four IDX files."""
    try:
        return all(find_idx(folder, name) for name in IDX_FILES)
    except InputError:
        return False


def find_idx(folder, name):
    """Return the path of an IDX file by any of its usual names, gzipped or not. Raises InputError."""
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
    """Raise InputError unless images are uint8 N x H x W and each image has one integer label."""
    for images, labels, part in ((x_train, y_train, "training"), (x_test, y_test, "test")):
        if images.ndim != 3 or images.dtype != np.uint8:
            raise InputError(f"{name}: {part} images are {images.dtype} {images.shape}, not uint8 N x H x W (0 to 255)")
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise InputError(f"{name}: {part} labels are {labels.dtype} {labels.shape}, not one integer an image")
        if len(labels) and labels.min() < 0:
            raise InputError(f"{name}: there is a negative label among the {part} labels")
        if len(images) != len(labels):
            raise InputError(f"{name}: {len(images)} {part} images but {len(labels)} labels")
        if len(images) == 0 or 0 in images.shape:
            raise InputError(f"{name}: there are no {part} images")


def load_drawing(path, meta):
    """Read a picture of one digit, of any size, and lay it out like the training set: uint8 H x W, white on black.

    Dark ink on a light ground is inverted. For MNIST, the ink is cropped, resized to fit into 20 x 20
    pixels, and placed with its centre of mass in the middle of 28 x 28 pixels, as LeCun did. For other sources, the
    picture is padded to a square.
    """
    rgb = imaging.load_image(path)
    gray = rgb @ np.array([0.299, 0.587, 0.114], "float32")
    if np.ptp(gray) < 16:
        raise InputError(f"{path} shows nothing but a plain ground")
    border = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    if np.median(border) > 127:
        gray = 255 - gray
    return lay_out(gray, meta["source"], path)


def lay_out(gray, source, path):
    """Lay out a picture, float32 H x W (0..255, white on black), like the digits of a data set: uint8 H x W."""
    if source != "mnist":
        side = max(gray.shape)
        top, left = (side - gray.shape[0]) // 2, (side - gray.shape[1]) // 2
        square = np.zeros((side, side), "float32")
        square[top : top + gray.shape[0], left : left + gray.shape[1]] = gray
        return np.round(square).astype("uint8")
    return center_ink(gray, path)


def center_ink(gray, path):
    """Resize the ink of float32 H x W (0..255, white on black) to fit into 20 x 20 pixels.

    Returns uint8 28 x 28 with the centre of mass of the ink in the middle.
    """
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
