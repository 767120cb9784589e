"""Judge paintings by figures that know nothing of VGG, variant beside variant, in a table and on a sheet.

    .venv/bin/python benchmarks/compare_pictures.py --photos images/content --paintings images/style
    .venv/bin/python benchmarks/compare_pictures.py --photos holiday --paintings art --size 384 \\
        --variants "today=" "calm=--content-weight 0.5" "grey=--keep-colors luminance"

Each photo and each painting is in a pair, the shorter list begun anew where it ends. A variant is a name and flags of
style_transfer.py; where these name {painting}, as in --learned {painting}, the painting's name is put there, and no
--style is given. Pictures, the sheet and figures.csv go to --output; what is there already is not painted again.
Variants whose names are alike up to a colon, such as new:0.1 and new:0.5, are joined by a line in curves.png: for each
pair the distance to the painting (the geometric mean of the four below) over the structure.

Sliced Wasserstein distances to the painting, in CIELAB (Rabin et al. 2012; Heitz et al. 2021), less is better:
- colour: of pixels;
- fine, middle, coarse: of patches of 7 x 7 pixels without their mean, at full, half and quarter size.
And of the picture itself:
- structure: how gradients correlate with the photo's, more is better;
- chroma: how colourful it is;
- ripples: the share of its lightness's energy beyond half the Nyquist frequency, beside the photo's and the painting's.
"""

import argparse
import csv
import pathlib
import shlex
import statistics
import sys
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import scipy.ndimage as ndimage
from matplotlib.figure import Figure
from skimage.color import rgb2lab

import imaging
import naming

PROJECTIONS, QUANTILES = 128, 1000
MOST_PATCHES = 20_000  # of a picture, chosen at random
PATCH = 7  # pixels
FIGURES = ("colour", "fine", "middle", "coarse", "structure", "chroma", "ripples")


# --- The figures -------------------------------------------------------------------------------


def sliced_wasserstein(x, y, seed=0):
    """Return the distance of two sets of points, N x D and M x D: the mean of those along random directions."""
    directions = np.random.default_rng(seed).normal(size=(x.shape[1], PROJECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return float(np.abs(np.quantile(x @ directions, levels, 0) - np.quantile(y @ directions, levels, 0)).mean())


def lab(picture):
    """Turn a picture, float H x W x 3 in 0..255, into CIELAB."""
    return rgb2lab(np.clip(picture, 0, 255) / 255)


def colours(picture):
    return lab(picture).reshape(-1, 3)


def patches(picture, shrink=1, seed=0):
    """Return patches of a picture, made `shrink` times smaller, in CIELAB without their mean: N x (PATCH^2 * 3)."""
    height, width = (max(PATCH, round(side / shrink)) for side in picture.shape[:2])
    small = lab(imaging.resize_picture(picture, width, height))
    windows = np.lib.stride_tricks.sliding_window_view(small, (PATCH, PATCH), (0, 1)).reshape(-1, 3, PATCH**2)
    chosen = np.random.default_rng(seed).permutation(len(windows))[:MOST_PATCHES]
    windows = windows[chosen]
    return (windows - windows.mean(2, keepdims=True)).reshape(len(windows), -1)


def structure(photo, picture):
    """Correlate the sizes of two pictures' gradients, at three scales: 1 for the same forms, 0 for unrelated ones."""
    a, b = lab(photo)[..., 0], lab(picture)[..., 0]
    sizes = [[ndimage.gaussian_gradient_magnitude(x, sigma).ravel() for x in (a, b)] for sigma in (2, 4, 8)]
    return float(np.mean([np.corrcoef(*pair)[0, 1] for pair in sizes]))


def chroma(picture):
    """Return how colourful a picture is on average, in CIELAB: 0 for grey."""
    return float(np.hypot(*np.moveaxis(lab(picture)[..., 1:], 2, 0)).mean())


def ripples(picture):
    """Return the share of the energy of a picture's lightness that lies beyond half the Nyquist frequency."""
    lightness = lab(picture)[..., 0]
    energy = np.abs(np.fft.fft2(lightness - lightness.mean())) ** 2
    frequency = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, lightness.shape), indexing="ij"))
    return float(energy[frequency > 0.25].sum() / max(energy.sum(), 1e-12))


def judge(photo, painting, picture):
    """Return the figures of a picture, a dict; all three are float H x W x 3, resized to the picture's longest side."""
    height, width = picture.shape[:2]
    photo = imaging.resize_picture(photo, width, height)
    painting = imaging.resize_picture(painting, *imaging.fit(*painting.shape[1::-1], max(width, height)))
    figures = {"colour": sliced_wasserstein(colours(picture), colours(painting))}
    for name, shrink in (("fine", 1), ("middle", 2), ("coarse", 4)):
        figures[name] = sliced_wasserstein(patches(picture, shrink), patches(painting, shrink))
    return figures | {"structure": structure(photo, picture), "chroma": chroma(picture), "ripples": ripples(picture)}


# --- The pictures ------------------------------------------------------------------------------


def pairs(photos, paintings):
    """Pair files so that each is in a pair; of folders, their pictures."""
    photos, paintings = (
        [file for path in paths for file in (imaging.find_pictures(path) if path.is_dir() else [path])]
        for paths in (photos, paintings)
    )
    count = max(len(photos), len(paintings))
    return [(photos[i % len(photos)], paintings[i % len(paintings)]) for i in range(count)]


def paint(photo, painting, flags, result, size):
    """Paint a picture unless it is there."""
    import style_transfer

    if not result.exists():
        style_transfer.paint(photo, result, options_of(photo, painting, flags, size))


def compare(chosen, variants, size, output):
    """Paint and judge each pair in each variant: yields a dict of the pair, the variant and its figures."""
    for name, flags in variants.items():
        for photo, painting in chosen:
            result = result_of(photo, painting, name, flags, size, output)
            started = time.perf_counter()
            paint(photo, painting, flags, result, size)
            seconds = time.perf_counter() - started
            figures = judge(*map(imaging.load_image, (photo, painting, result)))
            row = {"variant": name, "photo": photo.name, "painting": painting.name, "seconds": round(seconds, 1)}
            yield row | {figure: round(value, 4) for figure, value in figures.items()}


def options_of(photo, painting, flags, size):
    import style_transfer

    learned = any("{painting}" in flag for flag in flags)
    words = [flag.replace("{painting}", painting.stem) for flag in flags]
    words = [str(photo), *(() if learned else ("--style", str(painting))), "--size", str(size), "--quiet", *words]
    return style_transfer.options_of(style_transfer.parse_arguments(words))


def result_of(photo, painting, name, flags, size, output):
    """Name a picture after all that it is made of: what was made otherwise is not taken for it."""
    import learned_styles

    options = options_of(photo, painting.resolve(), flags, size)
    styles = [learned_styles.load_style(naming.weighted(text)[0]).checksum for text in options.learned]
    made_of = zlib.crc32(repr([str(photo.resolve()), options, *styles]).encode())
    return output / f"{name}_{size}" / f"{photo.stem}__{painting.stem}_{made_of:08x}.png"


def sheet(chosen, variants, size, output, height=256):
    """Lay out a row for each pair: the photo, the painting, and the picture of each variant; uint8 H x W x 3."""
    rows = []
    for photo, painting in chosen:
        files = [photo, painting]
        files += [result_of(photo, painting, name, flags, size, output) for name, flags in variants.items()]
        rows.append(imaging.side_by_side([imaging.load_image(file) for file in files], height))
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(r, ((0, 8), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows])


def distance(row):
    return statistics.geometric_mean(row[figure] for figure in FIGURES[:4])


def draw_curves(rows, families, path):
    """Draw for each pair the distance to the painting over the structure, a line for each family of variants."""
    pairs = list(dict.fromkeys((row["photo"], row["painting"]) for row in rows))
    columns = min(4, len(pairs))
    lines = -(-len(pairs) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.6 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels[len(pairs) :]:
        axes.set_axis_off()
    for axes, pair in zip(panels, pairs):
        for family in families:
            own = [
                row for row in rows if (row["photo"], row["painting"]) == pair and family_of(row["variant"]) == family
            ]
            axes.plot([row["structure"] for row in own], [distance(row) for row in own], "o-", label=family)
        axes.set_title(" after ".join(pathlib.Path(name).stem for name in pair), fontsize=8)
        axes.set(xlabel="structure of the photo", ylabel="distance to the painting")
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=80)


def family_of(variant):
    return variant.split(":")[0]


def print_table(rows, variants):
    """Print each variant's medians over the pairs; in brackets the median ratio to the first one's, and the worst."""
    print(f"| variant | {' | '.join(FIGURES)} | seconds |\n|{' --- |' * (len(FIGURES) + 2)}")
    of_variant = {name: [row for row in rows if row["variant"] == name] for name in variants}
    first = next(iter(of_variant.values()))
    for name, own in of_variant.items():
        cells = []
        for figure in (*FIGURES, "seconds"):
            ratios = [row[figure] / max(other[figure], 1e-9) for row, other in zip(own, first, strict=True)]
            worst = min(ratios) if figure == "structure" else max(ratios)
            median = statistics.median(row[figure] for row in own)
            cells.append(f"{median:.3g} ({statistics.median(ratios):.2f}x, {worst:.2f}x)")
        print(f"| {name} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("photos", "paintings"):
        parser.add_argument(
            f"--{name}", nargs="+", type=pathlib.Path, required=True, help=f"{name}, or folders of them"
        )
    parser.add_argument("--variants", nargs="+", default=["today="], metavar="NAME=FLAGS", help="default: today=")
    parser.add_argument("--size", type=int, default=384, help="longest side of the pictures (default: 384)")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("generated/compare"), help="a folder")
    arguments = parser.parse_args()
    variants = {name: shlex.split(flags) for name, _, flags in (text.partition("=") for text in arguments.variants)}
    chosen = pairs(arguments.photos, arguments.paintings)
    rows = []
    arguments.output.mkdir(parents=True, exist_ok=True)
    with open(arguments.output / "figures.csv", "w", newline="") as file:
        for row in compare(chosen, variants, arguments.size, arguments.output):
            rows.append(row)
            if len(rows) == 1:
                writer = csv.DictWriter(file, row)
                writer.writeheader()
            writer.writerow(row)
            file.flush()
    print_table(rows, variants)
    if len(families := list(dict.fromkeys(map(family_of, variants)))) < len(variants):
        draw_curves(rows, families, arguments.output / "curves.png")
        print(f"\ncurves: {arguments.output / 'curves.png'}")
    imaging.save_png(arguments.output / "sheet.png", sheet(chosen, variants, arguments.size, arguments.output), {})
    print(f"\nsheet: {arguments.output / 'sheet.png'}\nfigures: {arguments.output / 'figures.csv'}")


if __name__ == "__main__":
    main()
