"""Sheets of filters, of two kinds.

One kind shows each filter's strongest activations projected to pixels, with their patches, and its dreams. The other
kind shows the projection of each filter's strongest activation after each saved epoch.

Pictures and sheets are uint8 H x W x 3.
"""

import numpy as np
from tqdm import tqdm

from atelier import imaging

SIDE = 96  # pixels of a projection or a patch on the sheet
GAP = 4  # pixels between the filters on the sheet
ACROSS = 1800  # pixels of a sheet with several columns of filters, at most: wider ones are too small on a screen


def sheet_of_filters(network, pictures, strongest, dreams, quiet=False):
    """Lay out each filter's projections, patches and dreams.

    Most of a projection lies in the middle of the receptive field. The rest of the field is cut off, from the
    projections and from the patches. `network` is a Deconvnet, `strongest` a dict from channel to Activations in
    `pictures`, and `dreams` a dict from channel to float32 pictures.
    """
    blocks, total = [], sum(map(len, strongest.values()))
    with tqdm(total=total, unit="projection", leave=False, disable=True if quiet else None) as bar:
        for channel, activations in strongest.items():
            projections, patches = [], []
            for activation in activations:
                projections.append(network.project(pictures, activation))
                patches.append(network.cut(pictures[activation.picture], activation, 128))
                bar.update()
            size = size_of_middle(projections)
            missing = [grey_tile()] * (9 - len(activations))
            tiles = [projection_tile(middle(projection, size)) for projection in projections] + missing
            patch_tiles = [square(middle(patch, size), SIDE) for patch in patches] + missing
            halves = [imaging.contact_sheet(np.stack(half), 3, across=0) for half in (tiles, patch_tiles)]
            dreamed = [square(picture, len(halves[0])) for picture in dreams[channel]]
            title = f"filter {channel}: patches of {size} pixels" if activations else f"filter {channel}: never active"
            blocks.append(imaging.with_title(np.concatenate([*halves, *dreamed], axis=1), title))
    columns = max(1, min(len(blocks), ACROSS // blocks[0].shape[1]))
    return imaging.contact_sheet(np.stack(blocks), columns, GAP, across=0)


def size_of_middle(projections):
    """Return the side of the smallest square in the middle that holds 95 % of the projections' sums of squares.

    Each projection, float32 size x size x 3, counts as much as the others. The side is 0 if there is none.
    """
    if not projections:
        return 0
    squares = [np.square(projection, dtype="float64").sum(2) for projection in projections]
    shares = np.mean([part / max(part.sum(), 1e-9) for part in squares], axis=0)
    sides = range(2 - len(shares) % 2, len(shares), 2)
    return next((side for side in sides if middle(shares, side).sum() >= 0.95), len(shares))


def middle(array, side):
    """Cut the middle, side x side, out of an array size x size (x 3)."""
    margin = (len(array) - side) // 2
    return array[margin : margin + side, margin : margin + side]


def sheet_of_epochs(rows, labels):
    """Lay out one row for each filter and one column for each epoch; `rows` is a dict from channel to tiles."""
    lines = [imaging.contact_sheet(np.stack(tiles), len(labels), across=0) for tiles in rows.values()]
    titled = [imaging.with_title(line, f"filter {channel}") for channel, line in zip(rows, lines)]
    header = f"strongest activation of each filter after {labels[0]} ... {labels[-1]}"
    return imaging.with_title(np.concatenate(titled), header)


def epoch_tile(network, pictures, activations):
    """Return the projection of a filter's strongest activation, or a grey tile if it has none."""
    return projection_tile(network.project(pictures, activations[0])) if activations else grey_tile()


def projection_tile(projection):
    """Turn a projection, float32 H x W x 3 with values around 0, into a tile in which 0 is grey, at full contrast."""
    enlarged = imaging.resize_picture(projection, SIDE, SIDE)
    strong = np.quantile(np.abs(enlarged), 0.98)  # the few stronger values would make the rest invisible
    return imaging.to_pixels(128 + 127 * enlarged / max(strong, 1e-9))


def square(picture, side):
    return imaging.to_pixels(imaging.resize_picture(picture, side, side))


def grey_tile():
    return np.full((SIDE, SIDE, 3), 128, "uint8")
