"""Previews of a search: one sheet of six small variants of a picture, each labelled with its flags."""

import dataclasses
import pathlib
import tempfile

import numpy as np
import tqdm

from atelier import imaging, provenance
from atelier.style import input_pictures, transfer

SIDE = 256  # largest longest side of a variant in pixels
ITERATIONS = (40, 12)  # steps at each size
COLUMNS = 3
COLORS = {None: "without --keep-colors"} | {kind: f"--keep-colors {kind}" for kind in ("luminance", "histogram")}


def variants_of(options, least=0):
    """Return six (label, options): as given, and with other weights, strokes and colours.

    `least` is the smallest possible size, in pixels. Variants with the same loss come one after the other, because they
    share a compiled network.
    """
    size = min(options.size, max(SIDE, least))
    small = {"size": size, "iterations": ITERATIONS, "preview": False, "quiet": True}
    small |= {"gif": False, "compare": False, "plot": False, "save_every": None}
    options = dataclasses.replace(options, **small)
    # At this size, VGG could not see a painting that is much smaller than the photo.
    scale = options.style_scale / 2 if options.style_scale >= 1 else options.style_scale * 2
    changes = [("as given", {}), (f"--style-scale {scale:g}", {"style_scale": scale})]
    changes += [(label, {"keep_colors": kind}) for kind, label in COLORS.items() if kind != options.keep_colors]
    for weight in (options.content_weight / 4, options.content_weight * 4):
        changes.append((f"--content-weight {weight:g}", {"content_weight": weight}))
    return [(label, dataclasses.replace(options, **change)) for label, change in changes]


def write_preview(path, photo, options):
    """Write the sheet for a photo. Raises InputError if the photo or a painting can't be used."""
    tiles, least = [], input_pictures.least_size(*imaging.open_picture(photo).size)
    with tempfile.TemporaryDirectory() as folder:
        variants = tqdm.tqdm(
            variants_of(options, least), unit="variant", leave=False, disable=True if options.quiet else None
        )
        for number, (label, small) in enumerate(variants):
            picture = pathlib.Path(folder, f"{number}.png")
            transfer.paint(photo, picture, small)
            tiles.append(imaging.with_title(np.asarray(imaging.open_picture(picture)), label))
    sheet = imaging.contact_sheet(np.stack(tiles), COLUMNS)
    imaging.save_png(path, sheet, provenance.of_result(options, source=str(photo)))
