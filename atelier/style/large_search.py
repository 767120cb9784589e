"""The search for large pictures such as posters: in tiles, with few steps of Adam, and with checkpoints.

The gradient is that of the whole picture, see tiled_loss.py. L-BFGS would need twenty times the memory of Adam.
"""

from atelier import backend  # noqa: F401, Keras starts quietly

# isort: split
import json
import math
import pathlib
import shutil
import sys
import time
import zipfile
import zlib

import keras
import numpy as np

import config
from atelier import disk, hardware, manifests
from atelier.errors import InputError
from atelier.style import tiled_loss

RATE = 8.0  # Adam's learning rate at the first step of a size, for pixels from 0 to 255
MOMENTUM, SQUARES = 0.8, 0.9  # Adam's decay rates: shorter memories than usual, since there are few steps
STRIP = 256  # rows that are updated together

# In bytes per pixel: the peak while the picture, its gradient, Adam's two means, the photo and a copy are in memory.
MEMORY, WITHOUT_PICTURE = 100, 2.2e9


def is_large(width, height):
    """Tell whether the search for a picture of this size is that of this module, on every machine."""
    return max(width, height) > config.LARGE


def cost(width, height):
    """Return the number of pixels of a small picture whose step takes about as long as one of this size."""
    if not is_large(width, height):
        return width * height
    # Each window is passed twice forwards and once backwards, and a small picture only once each way.
    return 1.5 * tiled_loss.pixels_in_tiles(height, width)


# --- Memory and disk ---------------------------------------------------------------------------


def check_resources(width, height, folder):
    """Raise InputError if a search at this size needs more memory or more space on the disk than there is."""
    pixels, machine = width * height, hardware.machine_memory() * 2**30
    what = f"a search at {width} x {height} pixels takes about"
    if (memory := WITHOUT_PICTURE + MEMORY * pixels) > machine:
        raise InputError(
            f"{what} {memory / 1e9:.0f} GB of memory, and this machine has {machine / 1e9:.0f}; give a smaller --size"
        )
    single = keras.config.dtype_policy().name == "float32"
    needed = pixels * (CHECKPOINTS + CONTENT * (2 if single else 1))
    free = shutil.disk_usage(existing(folder)).free
    if needed > free:
        raise InputError(
            f"{what} {needed / 1e9:.1f} GB on the disk of {folder}, for checkpoints and the photo's features, and "
            f"{free / 1e9:.1f} GB are free; give another --output, or a smaller --size"
        )


CHECKPOINTS = 2 * 3 * 3 * 4  # bytes a pixel: the old one and the new one, each with three arrays of three colours
CONTENT = 2 * (256 / 4**2 + 512 / 8**2)  # bytes a pixel in half precision: block3_conv3 and block4_conv2


def existing(folder):
    """Return the folder, or the first one above it that exists."""
    folder = pathlib.Path(folder).absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


# --- The steps ---------------------------------------------------------------------------------


def minimize(search, width, height, count):
    """Take the steps of optimization.Search at one large size: `count` in all, with those before an interruption."""
    hardware.return_freed_memory()
    loss, targets = targets_of(search, width, height)
    adam = search.resumed or Adam(search.padded(search.start(width, height)))
    search.resumed = None
    rate = search.options.learning_rate if search.options.optimizer == "adam" else RATE
    in_span, gradient_in_span = search.color_span(width, height)
    rows, columns = (slice(search.margin, search.margin + side) for side in (height, width))
    search.picture = adam.picture[rows, columns]
    if (width, height) == search.final_size():
        search.initial = None  # it is no longer needed, and as large as the picture
    while adam.step < count:
        search.terms, gradient = loss.loss_and_gradient(adam.picture, targets)
        search.evaluations += 1
        search.check_finite(gradient)
        adam.update(gradient, rate * (1 - adam.step / count), in_span, gradient_in_span)
        del gradient
        search.record(cost(width, height))
        if search.checkpoint:
            search.checkpoint.save(search, adam)
    search.steps.append(count)
    search.picture = adam.picture[rows, columns]


def targets_of(search, width, height):
    """Return the TiledLoss for this size, and its targets."""
    targets = search.targets(width, height)
    if "guides" not in targets:
        targets["style"] = [[statistics] for statistics in targets["style"]]
    return search.model.tiled(len(targets["style"][0])), targets


class Adam:
    """A picture, float32 H x W x 3, and the state of its optimizer Adam (Kingma & Ba 2015), which is updated in place.

    Keras's Adam needs several more copies of the picture.
    """

    def __init__(self, picture, mean=None, square=None, step=0):
        self.picture, self.step = picture, step
        self.mean = np.zeros_like(picture) if mean is None else mean
        self.square = np.zeros_like(picture) if square is None else square

    def update(self, gradient, rate, in_span, gradient_in_span):
        """Take a step. The two functions are those of Search.color_span()."""
        self.step += 1
        scale = rate / (1 - MOMENTUM**self.step)
        for top in range(0, len(self.picture), STRIP):
            part = slice(top, top + STRIP)
            slope, mean, square = gradient_in_span(gradient[part], part), self.mean[part], self.square[part]
            mean += (1 - MOMENTUM) * (slope - mean)
            square += (1 - SQUARES) * (slope**2 - square)
            change = scale * mean / (np.sqrt(square / (1 - SQUARES**self.step)) + 1e-12)
            self.picture[part] = in_span(self.picture[part] - change, part)


# --- Checkpoints -------------------------------------------------------------------------------


class Checkpoint:
    """The file beside a result that holds an unfinished search, so that the same command goes on after a crash.

    `manifest` describes the command, see manifests.py. Raises InputError if the file is that of another command and
    `overwrite` is false.
    """

    def __init__(self, result, manifest, overwrite):
        self.path = disk.files_beside(result, checkpoint="__unfinished.npz")["checkpoint"]
        self.manifest, self.saved, self.opened = disk.as_json(manifest), -math.inf, time.time()
        self.state = self.read()
        if self.state and (changes := manifests.changed_options(self.state["manifest"], self.manifest)):
            if not overwrite:
                raise InputError(
                    f"{self.path} holds the unfinished picture of another command ({'; '.join(changes[:4])}); give "
                    "another --output, or --overwrite to begin anew"
                )
            self.state = None

    def read(self):
        """Return what save() wrote, a dict, or None if there is no file. Raises InputError if it is damaged."""
        try:
            with np.load(self.path) as file:
                return {name: file[name] for name in ARRAYS} | json.loads(str(file["text"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{self.path} is damaged; remove it, and the search begins anew") from error

    def resume(self, search):
        """Let a search continue from the checkpoint. Returns the number of sizes that are finished."""
        disk.remove_leftovers(self.path.parent, [self.path.name], self.opened)
        if not self.state:
            return 0
        search.resumed = Adam(*(self.state[name] for name in ARRAYS), self.state["step"])
        search.history, search.evaluations = self.state["history"], self.state["evaluations"]
        search.steps = self.state["steps"]
        self.state = None
        if not search.options.quiet:
            print(f"note: {self.path} exists; going on after step {len(search.history)}", file=sys.stderr)
        return len(search.steps)

    def save(self, search, adam):
        """Write the state of a search, unless this was done in the last minute."""
        if time.monotonic() < self.saved + SECONDS_BETWEEN:
            return
        names = ("history", "evaluations", "steps")
        text = {"manifest": self.manifest, "step": adam.step} | {name: getattr(search, name) for name in names}
        with disk.whole_file(self.path) as temporary:
            np.savez(temporary, text=json.dumps(text), **{name: getattr(adam, name) for name in ARRAYS})
        self.saved = time.monotonic()

    def advice(self):
        """Return what to tell after Ctrl-C."""
        return f"the same command goes on from {self.path}" if self.path.exists() else "nothing was written"

    def remove(self):
        self.path.unlink(missing_ok=True)


ARRAYS = ("picture", "mean", "square")
SECONDS_BETWEEN = 60
