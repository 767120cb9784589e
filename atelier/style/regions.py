"""The regions of a photo: --mask says where it is painted, and --regions which painting or style each part takes.

A mask and a map are pictures with the photo's proportions. --regions auto finds the parts itself, by colour and place.
"""

import dataclasses
import functools
import pathlib
import sys

import numpy as np
from PIL import ExifTags, Image
from scipy import ndimage
from tqdm import tqdm

import config
from atelier import imaging, manifests, naming
from atelier.errors import InputError


@dataclasses.dataclass(frozen=True)
class Regions:
    """The R parts of a photo, and the mask that says where it is painted, float32 in 0..1.

    `parts`, H x W x R, hold the share of each part at each pixel. They sum to 1. `mask`, H x W x 1, is the share of the
    painted picture in the result; the rest is the photo. `text` says which painting or style takes which part.
    """

    parts: np.ndarray
    mask: np.ndarray
    text: str = ""

    def resized(self, width, height):
        """Return the Regions for a picture of another size."""
        resize = functools.partial(imaging.resize_picture, width=width, height=height)
        return Regions(resize(self.parts), resize(self.mask), self.text)

    @property
    def shares(self):
        """The share of each part's painting at each pixel, H x W x R. The photo has the rest."""
        return self.parts * self.mask

    def mix(self, pictures):
        """Mix pictures, one for each part, an iterable of H x W x 3."""
        return functools.reduce(np.add, (picture * self.parts[..., [r]] for r, picture in enumerate(pictures)))


def read_regions(path, photo, options):
    """Return the Regions of a photo, float32 H x W x 3, that is in the file `path`; None if the options name none.

    Prints a note that says which painting takes which region. Raises InputError if the mask or the map can't be used.
    """
    if not (options.mask or options.regions):
        return None
    height, width = photo.shape[:2]
    parts = mask = np.ones((height, width, 1), "float32")
    names, text = [options.mask], ""
    if options.regions:
        names = names_of_styles(options)
        labels, regions, order = read_parts(path, photo, options, len(names))
        parts = soft_parts(labels, len(names), width, height)
        text = described(parts, regions, names)
        note(f"regions, {order}: {text}", options)
    if options.mask:
        mask = read_mask(path, width, height, options)
    if not options.learned:
        check_large_enough(parts * mask, names)
    return Regions(parts, mask, text)


def names_of_styles(options):
    """List the names of the paintings, or of the learned styles, in the order in which regions take them."""
    if options.learned:
        return [naming.name_and_weight(text)[0] for text in options.learned]
    return [path.name for path in imaging.find_paintings(options.style)]


def described(parts, regions, names):
    """Return a text with each region's colour or place, its size, and the painting or style that it takes."""
    sizes = 100 * parts.mean(axis=(0, 1))
    return ", ".join(f"{region} ({size:.0f} %) {name}" for region, size, name in zip(regions, sizes, names))


def note(text, options):
    if not options.quiet:
        tqdm.write(f"note: {text}", file=sys.stderr)  # a folder's progress bar may be on the screen


def check_large_enough(shares, names):
    """Raise InputError if a region has fewer pixels than the smallest picture that VGG sees."""
    least = config.VGG_LEAST_SIDE**2
    for name, pixels in zip(names, shares.sum(axis=(0, 1))):
        if pixels < least:
            raise InputError(
                f"the region for {name} has only {pixels:.0f} pixels of the result; VGG needs {least}: give a larger "
                "--size, or enlarge the region"
            )


# --- Files -------------------------------------------------------------------------------------


def file_for(given, photo):
    """Return the mask or map of a photo: the file `given`, or the file in the folder `given` with the photo's name.

    The suffixes may differ. Raises InputError if the folder holds no such file, or several.
    """
    given, photo = pathlib.Path(given), pathlib.Path(photo)
    if not given.is_dir():
        return given
    known = imaging.picture_endings()
    files = sorted(path for path in given.iterdir() if path.stem == photo.stem and path.suffix.lower() in known)
    if not files:
        raise InputError(f"{given / photo.stem}.png is missing; each photo needs a picture of its name in {given}")
    if len(files) > 1:
        raise InputError(f"{files[0]} and {files[1].name} are both for {photo.name}; keep one of them")
    return files[0]


def given_files(options):
    """Return the mask and the map that the options name, files or folders: a dict from option to path."""
    given = {"mask": options.mask, "regions": None if options.regions == naming.AUTO_REGIONS else options.regions}
    return {name: pathlib.Path(path) for name, path in given.items() if path}


def files_of(photo, options):
    """List the files of a photo's mask and map. Raises InputError if one is missing in its folder."""
    return [file_for(path, photo) for path in given_files(options).values()]


def columns_of(options, photo):
    """Return the columns of the summary that identify the photo's own mask and map, in a folder of them."""
    columns = {}
    for name, folder in given_files(options).items():
        if folder.is_dir():
            try:
                columns[f"{name}_sha256"] = manifests.file_checksum(file_for(folder, photo))["sha256"]
            except (InputError, OSError):  # reported when the picture is made
                columns[f"{name}_sha256"] = "missing"
    return columns


def open_plain(path, photo, options):
    """Open a mask or map as a Pillow RGB image. Raises InputError if it does not fit the photo or is transparent.

    Prints a note if its size differs from the photo's.
    """
    picture = imaging.open_picture(path)
    if least_opacity(path) < 255:
        raise InputError(f"{path} has transparent pixels, which can mean black or white; fill them, and save it again")
    (width, height), expected = picture.size, upright_size(photo)
    if abs(width * expected[1] / (height * expected[0]) - 1) > TOLERANCE:
        raise InputError(
            f"{path} has {width} x {height} pixels, and {photo} {expected[0]} x {expected[1]}; the proportions must be "
            "the same: cut it like the photo"
        )
    if picture.size != expected:
        note(f"{path} is scaled from {width} x {height} to the photo's {expected[0]} x {expected[1]} pixels", options)
    return picture


TOLERANCE = 0.01  # relative difference of the proportions of a mask and its photo


def least_opacity(path):
    """Return the least opacity of a picture's pixels, from 0 to 255."""
    with Image.open(path) as picture:
        if not picture.has_transparency_data:
            return 255
        return picture.convert("RGBA").getchannel("A").getextrema()[0]


def upright_size(path):
    """Return the (width, height) of a picture after it is turned upright."""
    with Image.open(path) as picture:
        size = picture.size
        turned = picture.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return size[::-1] if turned else size


# --- Masks -------------------------------------------------------------------------------------


def read_mask(photo, width, height, options):
    """Read a photo's mask at the size of the result: float32 H x W x 1, 1 where it is white. Raises InputError."""
    path = file_for(options.mask, photo)
    picture = open_plain(path, photo, options)
    colors = np.asarray(picture, "int16")
    if np.mean(np.ptp(colors, axis=2) > COLORFUL) > 0.01:
        raise InputError(f"{path} is in colours; a mask is white, grey and black, and --regions takes colours")
    greys = np.asarray(picture.convert("L"), "float32")[..., None]
    mask = np.clip((greys - NOISE) / (255 - 2 * NOISE), 0, 1)
    if not mask.any():
        raise InputError(f"{path} is all black, so nothing would be painted; white is painted")
    return softened(imaging.resize_picture(mask, width, height))


COLORFUL = 64  # difference between a pixel's red, green and blue from which it is no grey
NOISE = 8  # grey levels; a JPEG's black and white differ from 0 and 255 by less


def softened(shares):
    """Blur the borders of shares, H x W x R, so that no border looks cut out."""
    return ndimage.gaussian_filter(shares, max(1, BORDER * max(shares.shape[:2])), axes=(0, 1))


BORDER = 0.002  # standard deviation of the blur, relative to the longest side; it is at least a pixel


# --- Maps --------------------------------------------------------------------------------------


def read_parts(path, photo, options, count):
    """Return the `count` parts of a photo: the label of each place, int h x w; the parts' names; and their order."""
    if options.regions == naming.AUTO_REGIONS:
        labels = split(photo, count)
        return labels, [f"part {number}" for number in range(1, count + 1)], "from top to bottom"
    height, width = photo.shape[:2]
    file = file_for(options.regions, path)
    picture = open_plain(file, path, options)
    if max(picture.size) > max(width, height):
        picture = picture.resize((width, height), Image.Resampling.NEAREST)  # it invents no colours
    colors, labels = find_colors(np.asarray(picture))
    names = ["#{:02x}{:02x}{:02x}".format(*color) for color in colors]
    if len(names) != count:
        raise InputError(wrong_count(file, names, labels, count, "style" if options.learned else "painting"))
    return labels, names, "from the darkest colour to the lightest"


def wrong_count(path, names, labels, count, what):
    """Return the message about a map whose colours are more or fewer than the paintings or learned styles."""
    if not names:
        return f"{path} has no area of one colour; a map is painted in plain colours, without shades"
    sizes = 100 * np.bincount(labels.ravel(), minlength=len(names)) / labels.size
    shown = [f"{name} {size:.0f} %" for name, size in zip(names[:6], sizes)] + ["..."] * (len(names) > 6)
    things = f"{count} {what}" + "s" * (count > 1)
    advice = f"give one {what} for each colour"
    if len(names) < count:
        advice += f"; colours that differ by less than {CLOSE} levels count as one"
    else:
        advice += ", and draw the map in plain colours, without shades"
    return f"{path} has {len(names)} colour{'s' * (len(names) > 1)} ({', '.join(shown)}) for {things}; {advice}"


def find_colors(pixels):
    """Return the colours of a map, int R x 3 from dark to light, and the index of each pixel's colour, int H x W.

    Colours are counted in flat areas alone. There, a colour that differs from a more frequent one by less than CLOSE is
    the same: a JPEG's colours vary. Every other pixel gets the colour of the nearest flat area, since a smooth border
    of red and blue contains a purple that is no region.
    """
    flat = is_flat(pixels)
    codes, shade_of, counts = np.unique(pixels[flat] @ [1 << 16, 1 << 8, 1], return_inverse=True, return_counts=True)
    shades = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)
    color_of = np.full(len(shades), -1)
    colors = []
    for shade in np.argsort(-counts, kind="stable"):
        if color_of[shade] < 0:
            near = np.linalg.norm(shades - shades[shade], axis=1) < CLOSE
            color_of[near & (color_of < 0)] = len(colors)
            colors.append(shades[shade])
    sizes = np.bincount(color_of, counts, minlength=len(colors)) if colors else np.zeros(0)
    kept = np.flatnonzero(sizes >= LEAST_AREA * flat.size)
    if not len(kept):
        return np.zeros((0, 3), int), np.zeros(pixels.shape[:2], int)
    kept = kept[np.argsort([luminance(colors[i]) for i in kept], kind="stable")]
    index = np.full(len(colors), -1)
    index[kept] = np.arange(len(kept))
    labels = np.full(flat.shape, -1)
    labels[flat] = index[color_of[shade_of]]
    nearest = ndimage.distance_transform_edt(labels < 0, return_distances=False, return_indices=True)
    return np.array(colors)[kept], labels[tuple(nearest)]


def is_flat(pixels):
    """Tell of each pixel whether its neighbourhood has one colour, but for the noise of a JPEG: bool H x W."""
    largest = ndimage.maximum_filter(pixels, FLAT_SIZE, axes=(0, 1))
    smallest = ndimage.minimum_filter(pixels, FLAT_SIZE, axes=(0, 1))
    return (largest - smallest).max(axis=2) < CLOSE


def luminance(color):
    return np.dot(color, (0.299, 0.587, 0.114))


CLOSE = 48  # distance of two colours, in levels of 0 to 255, below which they are the same
FLAT_SIZE = 5  # pixels, the side of such a neighbourhood
LEAST_AREA = 0.001  # share of the map that a colour must cover


# --- Parts by colour and place -----------------------------------------------------------------


def split(photo, count):
    """Split a photo into `count` parts by colour and place: the part of each place, int h x w, from top to bottom.

    SLIC (Achanta et al. 2012) splits the photo into hundreds of superpixels. Ward's method merges those whose colours
    in CIELAB, and whose places, are most alike.
    """
    # These imports take a second, and most commands do not need them.
    from skimage.color import rgb2lab
    from skimage.segmentation import slic
    from sklearn.cluster import AgglomerativeClustering

    height, width = photo.shape[:2]
    small = imaging.resize_picture(photo, *imaging.fit(width, height, min(max(width, height), SPLIT_SIDE)))
    lab = rgb2lab(small / 255)
    superpixels = slic(small / 255, SUPERPIXELS, COMPACTNESS, start_label=0)
    rows, columns = np.indices(superpixels.shape) * PLACE_WEIGHT / max(superpixels.shape)
    numbers = np.arange(superpixels.max() + 1)
    if len(numbers) < count:
        raise InputError(f"the photo is too uniform for {count} regions; give a map with --regions")
    means = [ndimage.mean(values, superpixels, numbers) for values in (*np.moveaxis(lab, 2, 0), rows, columns)]
    parts = AgglomerativeClustering(count, linkage="ward").fit_predict(np.transpose(means))[superpixels]
    order = np.argsort(ndimage.mean(rows, parts, np.arange(count)))
    return np.argsort(order)[parts]


SPLIT_SIDE = 512  # pixels of the longest side of the photo that is split
SUPERPIXELS = 600
COMPACTNESS = 15.0  # how much place counts for superpixels, compared with colour
PLACE_WEIGHT = 60.0  # the longest side in units of CIELAB; how much place counts in the merging


def soft_parts(labels, count, width, height):
    """Return the share of each of `count` labels, int h x w, at each pixel of the result: float32 H x W x R."""
    parts = (labels[..., None] == np.arange(count)).astype("float32")
    parts = softened(imaging.resize_picture(parts, width, height))
    return parts / parts.sum(axis=2, keepdims=True)
