"""Sheets of filters, of two kinds.

One kind shows each filter's strongest activations projected to pixels, with their patches, and its dreams. The other
kind shows the projection of each filter's strongest activation after each saved epoch.

Pictures and sheets are uint8 H x W x 3.
"""

import numpy as np
from tqdm import tqdm

from atelier import imaging

SIDES = 60, 120  # pixels of a patch on the sheet, at least and at most
GAP = 4  # pixels between the filters on the sheet


def sheet_of_filters(network, pictures, strongest, dreams, quiet=False):
    """Lay out each filter's projections, patches and dreams.

    `network` is a Deconvnet, `strongest` a dict from channel to Activations in `pictures`, and `dreams` a dict from
    channel to float32 pictures.
    """
    blocks, total = [], sum(map(len, strongest.values()))
    side = int(np.clip(network.field.size, *SIDES))
    with tqdm(total=total, unit="projection", leave=False, disable=True if quiet else None) as bar:
        for channel, activations in strongest.items():
            projections, patches = [], []
            for activation in activations:
                projections.append(projection_tile(network.project(pictures, activation), side))
                patches.append(square(network.cut(pictures[activation.picture], activation, 128), side))
                bar.update()
            missing = [grey_tile(side)] * (9 - len(activations))
            halves = [imaging.contact_sheet(np.stack(tiles + missing), 3, across=0) for tiles in (projections, patches)]
            dreamed = [square(picture, len(halves[0])) for picture in dreams[channel]]
            blocks.append(imaging.with_title(np.concatenate([*halves, *dreamed], axis=1), f"filter {channel}"))
    return imaging.contact_sheet(np.stack(blocks), min(4, len(blocks)), GAP, across=0)


def sheet_of_epochs(rows, labels):
    """Lay out one row for each filter and one column for each epoch; `rows` is a dict from channel to tiles."""
    lines = [imaging.contact_sheet(np.stack(tiles), len(labels), across=0) for tiles in rows.values()]
    titled = [imaging.with_title(line, f"filter {channel}") for channel, line in zip(rows, lines)]
    header = f"strongest activation of each filter after {labels[0]} ... {labels[-1]}"
    return imaging.with_title(np.concatenate(titled), header)


def epoch_tile(network, pictures, activations):
    """Return the projection of a filter's strongest activation, or a grey tile if it has none."""
    if not activations:
        return grey_tile(SIDES[0])
    return projection_tile(network.project(pictures, activations[0]), SIDES[0])


def projection_tile(projection, side):
    """Turn a projection, float32 H x W x 3 with values around 0, into a tile in which 0 is grey."""
    small = imaging.resize_picture(projection, side, side)
    return imaging.to_pixels(128 + 127 * small / max(np.quantile(np.abs(small), 0.999), 1e-9))


def square(picture, side):
    return imaging.to_pixels(imaging.resize_picture(picture, side, side))


def grey_tile(side):
    return np.full((side, side, 3), 128, "uint8")
