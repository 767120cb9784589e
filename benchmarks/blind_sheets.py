"""Make blind sheets, on which readers rank pictures without knowing their variants, and count the readers' answers.

    .venv/bin/python benchmarks/blind_sheets.py generated/compare/blind_key.json ann.txt ben.txt
    .venv/bin/python benchmarks/blind_sheets.py generated/compare/blind_key.json ann.txt \\
        --figures generated/compare/figures.csv

compare_pictures.py makes the sheets, 01.png and so on in the folder blind, one for each pair of a photo and a painting,
in random order. The photo and the painting are on top. Below are the variants' pictures with the letters A, B and so
on, in random order on each sheet. The key, blind_key.json, is outside that folder, so that readers can be given the
folder alone. A reader writes a line for each sheet, with the letters from the best to the worst:

    01: B A C
    02: C A B

A file holds one reader's lines. Lines without a number and a colon are ignored. The command prints how often each
variant was first, its mean rank over all sheets and readers, and how often two readers order two pictures in the same
way. With the figures.csv of compare_pictures.py, it prints how often each figure orders two pictures of a sheet as all
readers do. Chance would be half of the pairs. Pairs of pictures on one sheet are not independent: twelve sheets are
twelve trials.
"""

import argparse
import collections
import csv
import itertools
import json
import pathlib
import random
import re
import string
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
from PIL import Image, ImageDraw

from atelier import imaging
from atelier.errors import InputError

HEIGHT, HEIGHT_ON_TOP = 384, 200  # of the pictures, and of the photo and the painting above them, in pixels
GAP = 8
LINE_HEIGHT, FONT_SIZE = 30, 22


# --- The sheets --------------------------------------------------------------------------------


def make_sheets(pairs, folder, key_path, seed=0):
    """Write a sheet for each pair into a folder, and the key. Old sheets in the folder are deleted.

    `pairs` are (photo, painting, {variant: picture}), all of them files. The order of the sheets, and of the variants
    on each, depends on the seed alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("[0-9]*.png"):
        old.unlink()
    chance = random.Random(seed)
    sheets = {}
    for number, (photo, painting, pictures) in enumerate(chance.sample(pairs, len(pairs)), 1):
        variants = chance.sample(list(pictures), len(pictures))
        letters = dict(zip(string.ascii_uppercase, variants, strict=False))
        if len(letters) < len(variants):
            raise InputError(f"a sheet can show {len(string.ascii_uppercase)} variants, not {len(variants)}")
        drawn = draw_sheet(photo, painting, {letter: pictures[variant] for letter, variant in letters.items()})
        imaging.save_png(folder / f"{number:02}.png", drawn, {})  # without metadata, which would name the variant
        sheets[f"{number:02}"] = {"photo": photo.name, "painting": painting.name, "letters": letters}
    key_path.write_text(json.dumps({"seed": seed, "sheets": sheets}, indent=2) + "\n")


def draw_sheet(photo, painting, pictures):
    """Return a sheet, uint8 H x W x 3, of a photo, a painting and {letter: picture}, all of them files."""
    loaded = {letter: imaging.load_image(path) for letter, path in pictures.items()}
    rows = [titled(imaging.side_by_side([imaging.load_image(photo), imaging.load_image(painting)], HEIGHT_ON_TOP), "")]
    panels = [titled(imaging.side_by_side([picture], HEIGHT), letter) for letter, picture in loaded.items()]
    for start in range(0, len(panels), 2):  # two in a row; more would be too small on a screen
        row = [widened(panel, panel.shape[1] + GAP) for panel in panels[start : start + 2]]
        rows.append(np.concatenate(row, axis=1))
    width = max(row.shape[1] for row in rows)
    return np.concatenate([widened(row, width) for row in rows])


def titled(pixels, title):
    """Add a title above a picture, uint8 H x W x 3: black on white."""
    line = Image.new("RGB", (pixels.shape[1], LINE_HEIGHT), "white")
    ImageDraw.Draw(line).text((4, 2), title, fill="black", font_size=FONT_SIZE)
    return np.concatenate([np.asarray(line), pixels])


def widened(pixels, width):
    """Add white on the right of a picture, uint8 H x W x 3."""
    return np.pad(pixels, ((0, 0), (0, width - pixels.shape[1]), (0, 0)), constant_values=255)


# --- The readers -------------------------------------------------------------------------------


def read_answers(key, text):
    """Read a reader's answers: {sheet: variants from the best to the worst}. Raises InputError."""
    rankings = {}
    for number, answer in re.findall(r"^\W*(\d+):(.*)$", text, re.MULTILINE):
        sheet = number.zfill(2)
        if sheet not in key["sheets"]:
            raise InputError(f"there is an answer for sheet {number}, which does not exist")
        if sheet in rankings:
            raise InputError(f"there are two answers for sheet {number}")
        letters = re.split(r"[\s,>]+", answer.strip().upper())
        variants = key["sheets"][sheet]["letters"]
        if sorted(letters) != sorted(variants):
            raise InputError(f"{number}:{answer} does not name each of {' '.join(variants)} once")
        rankings[sheet] = [variants[letter] for letter in letters]
    if not rankings:
        raise InputError("the file has no answers, which look like 01: B A")
    return rankings


def tally(readers):
    """Return {variant: (times it was shown, times it was first, its mean rank)}, sorted by mean rank."""
    ranks = collections.defaultdict(list)
    for ranking in (ranking for rankings in readers for ranking in rankings.values()):
        for rank, variant in enumerate(ranking, 1):
            ranks[variant].append(rank)
    counted = {variant: (len(own), own.count(1), sum(own) / len(own)) for variant, own in ranks.items()}
    return dict(sorted(counted.items(), key=lambda item: item[1][2]))


def preferences(rankings):
    """Return a reader's answers as pairs of pictures: a set of (sheet, better, worse)."""
    return {(sheet, *two) for sheet, ranking in rankings.items() for two in itertools.combinations(ranking, 2)}


def agreement(ones, others):
    """Return (pairs of pictures that two readers order in the same way, pairs that both of them order)."""
    ones, others = preferences(ones), preferences(others)
    reversed_others = {(sheet, worse, better) for sheet, better, worse in others}
    return len(ones & others), len(ones & (others | reversed_others))


def figures_agreement(key, readers, rows, better_when_higher):
    """Return {figure: (pairs of pictures that it orders as all readers do, pairs)}.

    `rows` are those of figures.csv; `better_when_higher` is {figure: whether a higher value is better}.
    """
    by_picture = {(row["photo"], row["painting"], row["variant"]): row for row in rows}
    agreed = set.intersection(*map(preferences, readers))
    counts = {}
    for figure, higher in better_when_higher.items():
        differences = []
        for sheet, better, worse in agreed:
            pair = key["sheets"][sheet]["photo"], key["sheets"][sheet]["painting"]
            differences.append(float(by_picture[*pair, better][figure]) - float(by_picture[*pair, worse][figure]))
        counts[figure] = sum((d > 0) if higher else (d < 0) for d in differences), len(differences)
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("key", type=pathlib.Path, help="the blind_key.json that compare_pictures.py wrote")
    parser.add_argument("answers", type=pathlib.Path, nargs="+", help="files of lines such as 01: B A, one a reader")
    parser.add_argument("--figures", type=pathlib.Path, help="the figures.csv that compare_pictures.py wrote")
    arguments = parser.parse_args()
    try:
        print_counts(arguments)
    except InputError as error:
        parser.error(str(error))


def print_counts(arguments):
    """Print the counts of the readers' answers, and how far readers and figures agree. Raises InputError."""
    key = json.loads(arguments.key.read_text())
    readers = [read_answers(key, path.read_text()) for path in arguments.answers]
    print("| variant | first | mean rank |\n| --- | --- | --- |")
    for variant, (shown, first, mean) in tally(readers).items():
        print(f"| {variant} | {first} of {shown} | {mean:.2f} |")
    for (one, a), (other, b) in itertools.combinations(zip(arguments.answers, readers), 2):
        print("\n{} and {} order {} of {} pairs of pictures alike".format(one.stem, other.stem, *agreement(a, b)))
    if arguments.figures:
        import compare_pictures

        with open(arguments.figures, newline="") as file:
            rows = list(csv.DictReader(file))
        for figure, counts in figures_agreement(key, readers, rows, compare_pictures.FIGURES).items():
            print("\n{} orders {} of {} pairs of pictures as the readers do".format(figure, *counts))


if __name__ == "__main__":
    main()
