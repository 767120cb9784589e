"""Compare variants of style transfer: blind sheets for readers, a sheet with names, and two figures.

    .venv/bin/python benchmarks/compare_pictures.py --photos images/content --paintings images/style
    .venv/bin/python benchmarks/compare_pictures.py --photos holiday --paintings art --size 512 \\
        --variants "today=" "calm=--content-weight 6" "published=files:downloads"

Photos and paintings are paired; the shorter list is repeated. A variant is a name and flags of style_transfer.py. If
the flags contain {painting}, as in --learned {painting}, it is replaced by the painting's name, and --style is not
given.

NAME=files:FOLDER is a variant of existing pictures. Their names are PHOTO_PAINTING or PHOTO__PAINTING, with the ending
of any picture format. NAME=files:PATH is a variant of existing pictures with other names. PATH contains {photo} and
{painting}, as in files:old/{photo}-{painting}-3.jpg. Existing pictures are copied at the size of the others.

Pictures that are already in --output are not made again. The results are the pictures, sheet.png, figures.csv, the
folder blind and blind_key.json. blind_sheets.py explains the last two, and counts the readers' answers.

We tried 66 figures. None ranks pictures as readers do, but each of these two detects one fault:

- edges: how well a picture's gradients are aligned with those of the photo, weighted by the photo's edges. 1 is full
  alignment, 0 is chance. A low value means that forms are blurred, melted or embossed. An unchanged photo has the best
  value.
- style: the distance from the painting in Gram matrices of VGG16, at three sizes, divided by the photo's distance. It
  is 1 for the unchanged photo and 0 for the painting. A search and a training minimise a similar loss. So this figure
  favours their pictures, and most of all those with the most similar loss.

The table shows how often each figure orders two pictures as readers do, at 512 pixels. The two figures were chosen with
the first, second and fourth row, so these rows are biased. The third row was added afterwards. Only the readers of the
fourth row were blind. In the other rows, the differences are obvious. The 60 pairs of the fourth row come from 12
sheets, so they are not independent:

    pairs of pictures                                                            edges      style
    four pictures published in 2016, beside those of an embossing network        4 of 4     0 of 4
    a sharper network's pictures of this photo, beside the embossing network's   4 of 4     4 of 4
    the same two networks, with a portrait and with another painting             6 of 6     6 of 6
    four searches on 12 pairs, where two readers agree (60 of 72)                27 of 60   35 of 60
    published, sharper and searched pictures, beside the unchanged photo         0 of 56    56 of 56

So edges detects embossing, also in other authors' pictures. At 384 pixels, ten pictures of the embossing network have
values from 0.34 to 0.47, and fourteen other pictures from 0.49 to 0.74, for all photos and paintings. The style figure
distinguishes the photo from a painting, and a worse network from a better one for the same painting. For searches, both
figures are no better than chance: ordering the variants by name on all twelve pairs gives 39 of 60. So use the figures
to detect these two faults. If neither variant has a fault, ask readers.

These figures were rejected because they disagree with readers. The three counts are the pairs that they order as
readers do, in the first row (of 4), in the second (of 4) and in the fourth (of 60):

- sliced Wasserstein distances of colours and of patches at three sizes: 0, 1 to 4, and 33 to 38;
- the correlation of gradients' lengths at three sizes: 1 to 3, 1 to 2, and 23 to 27;
- the share of the photo's edges that are found within a pixel: 3, 2 and 25;
- plain steps of lightness across the photo's edges, which a relief lacks: 3, 4 and 31, but 3 of 6 in the third row;
- colourfulness: 3, 0 and 25;
- the share of energy above half the Nyquist frequency, compared with the painting's: 0, 0 and 29;
- means, deviations and covariances of VGG16's channels, by block and by size: 0 to 2, 2 to 4, and 28 to 40;
- the coherence of strokes by the structure tensor, compared with the painting's: 1 to 2, 3 to 4, and 32 to 39;
- the coherence of the picture alone: 2, 4 and 44. By chance, the best of so many figures reaches 43 in one of twenty
  cases.

Local correlation with the photo gives the same results as edges.
"""

import argparse
import csv
import functools
import pathlib
import shlex
import statistics
import sys
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import blind_sheets
import numpy as np
import scipy.ndimage as ndimage
from skimage.color import rgb2lab

from atelier import imaging, naming
from atelier.errors import InputError

FIGURES = {"edges": True, "style": False}  # whether higher is better
SIZES = (1, 1 / 2, 1 / 4)
LAYERS = [f"block{i}_conv1" for i in range(1, 6)]
FILES = "files:"


# --- The figures -------------------------------------------------------------------------------


def figures_of(photo, painting, picture):
    """Return the figures of a picture: a dict. The three inputs are float H x W x 3, of any size."""
    height, width = picture.shape[:2]
    photo = imaging.resize_picture(photo, width, height)
    painting = imaging.resize_picture(painting, *imaging.fit(*painting.shape[1::-1], max(width, height)))
    of_picture, of_photo = style_distance(picture, painting), style_distance(photo, painting)
    return {"edges": edges(photo, picture), "style": of_picture / max(of_photo, 1e-9)}


def edges(photo, picture):
    """Return how well a picture's gradients are aligned with the photo's: 1 is full alignment, 0 is chance.

    Both are float H x W x 3 in 0..255, of the same size. The result is the mean cosine of twice the angle between the
    gradients, weighted by the length of the photo's. Doubling the angle allows light and dark to change places. The
    contrast of the picture's edges does not count.
    """
    (x, y), (other_x, other_y) = doubled_gradients(photo), doubled_gradients(picture)
    strengths, others = np.hypot(x, y), np.hypot(other_x, other_y)
    cosines = (x * other_x + y * other_y) / np.maximum(strengths * others, 1e-9)
    weights = np.sqrt(strengths)  # doubling an angle squares the length
    return float((weights * cosines).sum() / np.maximum(weights.sum(), 1e-9))


def doubled_gradients(picture):
    """Return the gradients of a picture, float H x W x 3 in 0..255, with their angles doubled: x and y, H x W each.

    The gradients of CIELAB's three channels are added, as in the structure tensor of Di Zenzo (1986), so an edge
    between two colours of the same lightness counts. The blur's standard deviation of one pixel removes noise.
    """
    lab = rgb2lab(np.clip(picture, 0, 255) / 255)
    down, across = (ndimage.gaussian_filter(lab, (1, 1, 0), order=order) for order in ((1, 0, 0), (0, 1, 0)))
    return (across**2 - down**2).sum(2), (2 * across * down).sum(2)


def style_distance(picture, painting):
    """Return the mean relative distance of a picture's Gram matrices from a painting's; both are float H x W x 3."""
    pairs = [(a, b) for size in SIZES for a, b in zip(grams(picture, size), grams(painting, size))]
    return float(np.mean([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs]))


def grams(picture, size):
    """Return the Gram matrix C x C of each of LAYERS for a picture resized by a factor (Gatys et al. 2016)."""
    height, width = (max(32, round(side * size)) for side in picture.shape[:2])
    batch = imaging.resize_picture(picture, width, height)[None]
    features = [np.asarray(maps).reshape(-1, maps.shape[-1]) for maps in vgg16()(batch)]
    return [maps.T @ maps / len(maps) for maps in features]


@functools.cache
def vgg16():
    """Return f(pictures N x H x W x 3 in 0..255) -> the outputs of LAYERS. It is always in float32."""
    from atelier.networks.pretrained import keras, load_vgg

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        model, _ = load_vgg()
        outputs = keras.Model(model.input, [model.get_layer(name).output for name in LAYERS])
    finally:
        keras.config.set_dtype_policy(policy)
    return lambda pictures: outputs(keras.applications.vgg16.preprocess_input(pictures.copy()))


# --- The pictures ------------------------------------------------------------------------------


def read_variants(texts):
    """Parse variants, NAME=FLAGS or NAME=files:WHERE. Return {name: list of flags, or the text files:WHERE}."""
    split = (text.partition("=") for text in texts)
    return {name: value if value.startswith(FILES) else shlex.split(value) for name, _, value in split}


def pairs(photos, paintings):
    """Pair photos and paintings, files or folders of them, so that each file is in a pair."""
    photos, paintings = (
        [file for path in paths for file in (imaging.find_pictures(path) if path.is_dir() else [path])]
        for paths in (photos, paintings)
    )
    count = max(len(photos), len(paintings))
    return [(photos[i % len(photos)], paintings[i % len(paintings)]) for i in range(count)]


def make(photo, painting, name, variant, size, output):
    """Make a variant's picture unless it exists, or copy and resize an existing one (files:). Return its file."""
    if isinstance(variant, str):
        result = output / f"{name}_{size}" / f"{photo.stem}__{painting.stem}.png"
        width, height = imaging.fit(*imaging.load_image(photo).shape[1::-1], size)
        picture = imaging.load_image(existing(photo, painting, variant))
        result.parent.mkdir(parents=True, exist_ok=True)
        imaging.save_png(result, imaging.to_pixels(imaging.resize_picture(picture, width, height)), {})
        return result
    from atelier.style import transfer

    result = result_of(photo, painting, name, variant, size, output)
    if not result.exists():
        transfer.paint(photo, result, options_of(photo, painting, variant, size))
    return result


def existing(photo, painting, variant):
    """Find the picture of a pair that a variant files:WHERE names. Raises InputError."""
    where = variant.removeprefix(FILES)
    if "{photo}" in where or "{painting}" in where:
        path = pathlib.Path(where.replace("{photo}", photo.stem).replace("{painting}", painting.stem))
        found = [path] if path.is_file() else []
    else:
        path = pathlib.Path(where) / f"{photo.stem}_{painting.stem}"
        stems = (f"{photo.stem}{between}{painting.stem}" for between in ("_", "__"))
        endings = sorted(imaging.picture_endings())
        named = [pathlib.Path(where) / f"{stem}{ending}" for stem in stems for ending in endings]
        found = [file for file in named if file.is_file()]
    if not found:
        raise InputError(f"there is no picture {path} of {photo.name} after {painting.name}")
    return found[0]


def options_of(photo, painting, flags, size):
    import style_transfer

    learned = any("{painting}" in flag for flag in flags)
    words = [flag.replace("{painting}", painting.stem) for flag in flags]
    words = [str(photo), *(() if learned else ("--style", str(painting))), "--size", str(size), "--quiet", *words]
    return style_transfer.options_of(style_transfer.parse_arguments(words))


def result_of(photo, painting, name, flags, size, output):
    """Return the file of a picture. Its name has a checksum of all inputs, so that other pictures are not reused."""
    from atelier.style import learned_styles

    options = options_of(photo, painting.resolve(), flags, size)
    styles = [learned_styles.load_style(naming.name_and_weight(text)[0]).checksum for text in options.learned]
    checksum = zlib.crc32(repr([str(photo.resolve()), options, *styles]).encode())
    return output / f"{name}_{size}" / f"{photo.stem}__{painting.stem}_{checksum:08x}.png"


# --- The comparison ----------------------------------------------------------------------------


def compare(chosen, variants, size, output):
    """Make each picture and compute its figures: yields its file, and a dict of its variant, pair and figures."""
    for name, variant in variants.items():
        for photo, painting in chosen:
            started = time.perf_counter()
            result = make(photo, painting, name, variant, size, output)
            seconds = time.perf_counter() - started
            figures = figures_of(*map(imaging.load_image, (photo, painting, result)))
            row = {"variant": name, "photo": photo.name, "painting": painting.name, "seconds": round(seconds, 1)}
            yield result, row | {figure: round(value, 4) for figure, value in figures.items()}


def sheet(pictures, height=256):
    """Return a sheet, uint8 H x W x 3, with a row for each (photo, painting, {variant: picture}), all files."""
    rows = []
    for photo, painting, made in pictures:
        files = [photo, painting, *made.values()]
        rows.append(imaging.side_by_side([imaging.load_image(file) for file in files], height))
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(r, ((0, 8), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows])


def print_table(rows, variants):
    """Print each variant's medians over the pairs, with the median and the worst ratio to the first variant."""
    print(f"| variant | {' | '.join(FIGURES)} | seconds |\n|{' --- |' * (len(FIGURES) + 2)}")
    rows_of_variant = {name: [row for row in rows if row["variant"] == name] for name in variants}
    first = next(iter(rows_of_variant.values()))
    for name, own in rows_of_variant.items():
        cells = []
        for figure in (*FIGURES, "seconds"):
            ratios = [row[figure] / max(other[figure], 1e-9) for row, other in zip(own, first, strict=True)]
            worst = min(ratios) if FIGURES.get(figure) else max(ratios)
            median = statistics.median(row[figure] for row in own)
            cells.append(f"{median:.3g} ({statistics.median(ratios):.2f}x, {worst:.2f}x)")
        print(f"| {name} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("photos", "paintings"):
        parser.add_argument(
            f"--{name}", nargs="+", type=pathlib.Path, required=True, help=f"{name}, or folders of them"
        )
    parser.add_argument(
        "--variants", nargs="+", default=["today="], metavar="NAME=FLAGS", help="or NAME=files:FOLDER; default: today="
    )
    parser.add_argument("--size", type=int, default=384, help="longest side of the pictures (default: 384)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the blind sheets (default: 0)")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("generated/compare"), help="a folder")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except InputError as error:
        parser.error(str(error))


def run(arguments):
    """Make the pictures, the figures and the sheets. Raises InputError."""
    variants, chosen = read_variants(arguments.variants), pairs(arguments.photos, arguments.paintings)
    for variant in variants.values():  # a missing picture is reported before other pictures are made
        for pair in chosen if isinstance(variant, str) else ():
            existing(*pair, variant)
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    rows, made = [], [(photo, painting, {}) for photo, painting in chosen]
    with open(output / "figures.csv", "w", newline="") as file:
        for result, row in compare(chosen, variants, arguments.size, output):
            made[len(rows) % len(chosen)][2][row["variant"]] = result
            rows.append(row)
            if len(rows) == 1:
                writer = csv.DictWriter(file, row)
                writer.writeheader()
            writer.writerow(row)
            file.flush()
    print_table(rows, variants)
    imaging.save_png(output / "sheet.png", sheet(made), {})
    blind_sheets.make_sheets(made, output / "blind", output / "blind_key.json", arguments.seed)
    print(f"\nsheet: {output / 'sheet.png'}\nfigures: {output / 'figures.csv'}")
    print(f"blind sheets: {output / 'blind'}\ntheir key: {output / 'blind_key.json'}")


if __name__ == "__main__":
    main()
