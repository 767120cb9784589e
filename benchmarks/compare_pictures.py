"""Compare ways of painting, variant beside variant: sheets for blind readers, a sheet with names, and two figures.

    .venv/bin/python benchmarks/compare_pictures.py --photos images/content --paintings images/style
    .venv/bin/python benchmarks/compare_pictures.py --photos holiday --paintings art --size 512 \\
        --variants "today=" "calm=--content-weight 6" "published=files:downloads"

Each photo and each painting is in a pair, the shorter list begun anew where it ends. A variant is a name and flags of
style_transfer.py; where these name {painting}, as in --learned {painting}, the painting's name is put there, and no
--style is given. A variant of pictures that exist is NAME=files:FOLDER, where they are named PHOTO_PAINTING or
PHOTO__PAINTING with any picture's ending, or files: and a path with {photo} and {painting} in it, such as
files:old/{photo}-{painting}-3.jpg; they are copied at the size of the others. What is painted already is not painted
again. Into --output come the pictures, sheet.png, figures.csv, the folder blind and blind_key.json, of which
blind_sheets.py tells: it also counts what readers say of these sheets.

No figure that was tried ranks paintings as eyes do. Each of these two tells one fault:

- edges: how far a picture's gradients run the way of the photo's where that has edges, 1 for all, 0 by chance. Little
  of it means that forms are blurred, melted or embossed. It is best of a photo left as it is.
- style: the distance from the painting in Gram matrices of VGG16, at three sizes, over the photo's own: 1 for a photo
  left as it is, 0 for the painting itself. A search and a training lower something like it, so it flatters those that
  do, and among those the one whose loss is most like it.

How often they order two pictures as eyes do, at 512 pixels. The first, second and fourth row were at hand when these
were chosen of 66 forms of figures, so they flatter; the third came after. Only the fourth row's readers were blind;
what the others say is plain to see. Its 60 pairs of pictures are of 12 sheets, so they are no independent trials:

    pairs of pictures                                                            edges      style
    four published ones of 2016, beside those of a network that embosses         4 of 4     0 of 4
    a crisper network's of the same photo, beside the embossing one's            4 of 4     4 of 4
    those two networks', of a portrait and after another painting                6 of 6     6 of 6
    four searches' on 12 pairs, where two readers agree (60 of 72)               27 of 60   35 of 60
    these published, crisper and searched ones, beside the photo left as it is   0 of 56    56 of 56

So edges finds embossing, also beside what others painted: at 384 pixels the embossing network's ten pictures have 0.34
to 0.47 of it, and the fourteen beside them 0.49 to 0.74, whatever the photo and the painting. The style knows the photo
from a painting, and a worse network from a better one that learned the same. For searches both are a coin: an order by
the variants' names alone, the same on all twelve pairs, comes to 39 of 60. So look for the two faults here, and where
neither variant has one, ask readers.

Tried and dropped, since they disagree (of 4 in the first and in the second row, of 60 in the fourth):

- sliced Wasserstein distances of colours and of patches at three sizes: 0, and 1 to 4, and 33 to 38;
- the correlation of gradients' lengths at three sizes: 1 to 3, 1 to 2 and 23 to 27;
- the photo's edges that are found within a pixel: 3, 2 and 25;
- plain steps of lightness across its edges, which a relief lacks: 3, 4 and 31, but 3 of 6 in the third row;
- colourfulness: 3, 0 and 25; the share of energy beyond half the Nyquist frequency, beside the painting's: 0, 0 and 29;
- means, deviations and covariances of VGG16's channels, by block and by size: 0 to 2, 2 to 4 and 28 to 40;
- the coherence of strokes by the structure tensor, beside the painting's: 1 to 2, 3 to 4 and 32 to 39; that of the
  picture alone: 2, 4 and 44, where the best of so many figures comes to 43 by chance one time in twenty.

Local correlation with the photo tells what edges tells.
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

FIGURES = {"edges": True, "style": False}  # whether more is better
SIZES = (1, 1 / 2, 1 / 4)
LAYERS = [f"block{i}_conv1" for i in range(1, 6)]
FILES = "files:"


# --- The figures -------------------------------------------------------------------------------


def judge(photo, painting, picture):
    """Return the figures of a picture, a dict; all three are float H x W x 3, resized to the picture's longest side."""
    height, width = picture.shape[:2]
    photo = imaging.resize_picture(photo, width, height)
    painting = imaging.resize_picture(painting, *imaging.fit(*painting.shape[1::-1], max(width, height)))
    own, left_alone = style_distance(picture, painting), style_distance(photo, painting)
    return {"edges": edges(photo, picture), "style": own / max(left_alone, 1e-9)}


def edges(photo, picture):
    """Say how far a picture's gradients run the way of the photo's where that has edges: 1 all along, 0 by chance.

    Both are float H x W x 3 in 0..255, of one size. It is the mean cosine of twice the angle between them, weighted by
    the length of the photo's: twice, so that light and dark may change places; and an edge may have any contrast.
    """
    (x, y), (other_x, other_y) = doubled_gradients(photo), doubled_gradients(picture)
    strengths, others = np.hypot(x, y), np.hypot(other_x, other_y)
    cosines = (x * other_x + y * other_y) / np.maximum(strengths * others, 1e-9)
    weights = np.sqrt(strengths)  # doubling an angle squares the length
    return float((weights * cosines).sum() / np.maximum(weights.sum(), 1e-9))


def doubled_gradients(picture):
    """Return the gradients of a picture, float H x W x 3 in 0..255, at twice their angles: x and y, H x W each.

    Those of CIELAB's three channels add up, as in the structure tensor of Di Zenzo (1986), so an edge between two
    colours of one lightness counts. A standard deviation of one pixel keeps to the finest edges that are not noise.
    """
    lab = rgb2lab(np.clip(picture, 0, 255) / 255)
    down, across = (ndimage.gaussian_filter(lab, (1, 1, 0), order=order) for order in ((1, 0, 0), (0, 1, 0)))
    return (across**2 - down**2).sum(2), (2 * across * down).sum(2)


def style_distance(picture, painting):
    """Return the mean distance of two pictures' Gram matrices, over the size of the second's; float H x W x 3."""
    pairs = [(a, b) for size in SIZES for a, b in zip(grams(picture, size), grams(painting, size))]
    return float(np.mean([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs]))


def grams(picture, size):
    """Return a picture's Gram matrices, resized by a factor, a C x C for each of LAYERS (Gatys et al. 2016)."""
    height, width = (max(32, round(side * size)) for side in picture.shape[:2])
    batch = imaging.resize_picture(picture, width, height)[None]
    features = [np.asarray(maps).reshape(-1, maps.shape[-1]) for maps in vgg16()(batch)]
    return [maps.T @ maps / len(maps) for maps in features]


@functools.cache
def vgg16():
    """Load what tells LAYERS' outputs of pictures N x H x W x 3 in 0..255, in float32 whatever painting is done in."""
    from atelier.networks.pretrained import keras, load_vgg

    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        model, _ = load_vgg()
        outputs = keras.Model(model.input, [model.get_layer(name).output for name in LAYERS])
    finally:
        keras.config.set_dtype_policy(usual)
    return lambda pictures: outputs(keras.applications.vgg16.preprocess_input(pictures.copy()))


# --- The pictures ------------------------------------------------------------------------------


def read_variants(texts):
    """Read variants, NAME=FLAGS or NAME=files:WHERE: {name: a list of flags, or files:WHERE}."""
    split = (text.partition("=") for text in texts)
    return {name: value if value.startswith(FILES) else shlex.split(value) for name, _, value in split}


def pairs(photos, paintings):
    """Pair files so that each is in a pair; of folders, their pictures."""
    photos, paintings = (
        [file for path in paths for file in (imaging.find_pictures(path) if path.is_dir() else [path])]
        for paths in (photos, paintings)
    )
    count = max(len(photos), len(paintings))
    return [(photos[i % len(photos)], paintings[i % len(paintings)]) for i in range(count)]


def make(photo, painting, name, variant, size, output):
    """Paint a picture unless it is there, or copy one that exists at the size of the others: return its file."""
    if isinstance(variant, str):
        result = output / f"{name}_{size}" / f"{photo.stem}__{painting.stem}.png"
        width, height = imaging.fit(*imaging.load_image(photo).shape[1::-1], size)
        picture = imaging.load_image(existing(photo, painting, variant))
        result.parent.mkdir(parents=True, exist_ok=True)
        imaging.save_png(result, imaging.to_pixels(imaging.resize_picture(picture, width, height)), {})
        return result
    import style_transfer

    result = result_of(photo, painting, name, variant, size, output)
    if not result.exists():
        style_transfer.paint(photo, result, options_of(photo, painting, variant, size))
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
    """Name a picture after all that it is made of: what was made otherwise is not taken for it."""
    from atelier.style import learned_styles

    options = options_of(photo, painting.resolve(), flags, size)
    styles = [learned_styles.load_style(naming.name_and_weight(text)[0]).checksum for text in options.learned]
    made_of = zlib.crc32(repr([str(photo.resolve()), options, *styles]).encode())
    return output / f"{name}_{size}" / f"{photo.stem}__{painting.stem}_{made_of:08x}.png"


# --- The comparison ----------------------------------------------------------------------------


def compare(chosen, variants, size, output):
    """Make and judge each pair in each variant: yields the picture's file, and a dict of its pair and figures."""
    for name, variant in variants.items():
        for photo, painting in chosen:
            started = time.perf_counter()
            result = make(photo, painting, name, variant, size, output)
            seconds = time.perf_counter() - started
            figures = judge(*map(imaging.load_image, (photo, painting, result)))
            row = {"variant": name, "photo": photo.name, "painting": painting.name, "seconds": round(seconds, 1)}
            yield result, row | {figure: round(value, 4) for figure, value in figures.items()}


def sheet(pictures, height=256):
    """Lay out (photo, painting, {variant: picture}), all files, a row for each: uint8 H x W x 3."""
    rows = []
    for photo, painting, made in pictures:
        files = [photo, painting, *made.values()]
        rows.append(imaging.side_by_side([imaging.load_image(file) for file in files], height))
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(r, ((0, 8), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows])


def print_table(rows, variants):
    """Print each variant's medians over the pairs; in brackets the median ratio to the first one's, and the worst."""
    print(f"| variant | {' | '.join(FIGURES)} | seconds |\n|{' --- |' * (len(FIGURES) + 2)}")
    of_variant = {name: [row for row in rows if row["variant"] == name] for name in variants}
    first = next(iter(of_variant.values()))
    for name, own in of_variant.items():
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
    """Make, judge and lay out what the command asks for. Raises InputError."""
    variants, chosen = read_variants(arguments.variants), pairs(arguments.photos, arguments.paintings)
    for variant in variants.values():  # what is missing is told before hours of painting
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
