"""The learned styles: a list of them with their paintings, and a sheet that shows a photo in each."""

import sys

import numpy as np

from atelier import disk, naming
from atelier.command_line import lazy_import
from atelier.errors import InputError

hardware = lazy_import("atelier.hardware")
imaging = lazy_import("atelier.imaging")
learned_styles = lazy_import("atelier.style.learned_styles")
provenance = lazy_import("atelier.provenance")

SIDE = 320  # longest side of a picture on the sheet in pixels
COLUMNS = 5


def paintings_of_styles():
    """Return a dict from the name of each style in trained/styles to its painting and painter, or what it lacks."""
    return {name: painting_of(naming.find_trained(name, "trained/styles")) for name in naming.known_styles()}


def painting_of(folder):
    """Return the painting and painter of a style, as its meta.json names them, or the file of the painting."""
    try:
        meta = disk.read_json(folder / "meta.json")
        painting = meta.get("title") or meta["painting"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return "has no meta.json that names its painting"
    return painting if meta.get("finished") else f"{painting}, not finished"


def write_sheet(path, photo, names, options):
    """Write a sheet with a photo, and with its picture in each of the styles. Styles that can't be loaded are noted."""
    device = hardware.use_precision(options.precision, "convolutions")
    if not options.quiet:
        print(f"device: {device}", file=sys.stderr)
    content = imaging.load_image(photo)
    content = imaging.resize_picture(content, *imaging.fit(content.shape[1], content.shape[0], SIDE))
    tiles, networks = [imaging.with_title(imaging.to_pixels(content), "the photo")], {}
    for name in names:
        try:
            style = learned_styles.load_style(name)
        except InputError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        if style.network not in networks:
            networks[style.network] = learned_styles.load_network(style.network)
        picture = learned_styles.stylize(networks[style.network], content, style)
        tiles.append(imaging.with_title(imaging.to_pixels(picture), name))
    about = provenance.of_result(options, source=str(photo))
    imaging.save_png(path, imaging.contact_sheet(np.stack(tiles), min(COLUMNS, len(tiles))), about)
