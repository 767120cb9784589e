"""The search for large pictures such as posters: in tiles, with few steps at each size, and with checkpoints.

The gradient is that of the whole picture, see tiled_loss.py.
"""

from atelier import backend  # noqa: F401, Keras starts quietly

# isort: split
import glob
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

FIRST, LONGEST = 3.0, 12.0  # grey levels, the root mean square of the first step at each size and of any step
STRIP = 256  # rows that are updated together
TILED = 724  # pixels of the longest side; from this size on, the search for a large picture works in tiles


def is_large(longest):
    """Tell whether a picture with this longest side is searched for by this module."""
    return longest > config.LARGE


def cost(width, height, in_tiles):
    """Return the number of pixels of a picture without tiles whose step takes about as long as one of this size."""
    if not in_tiles:
        return width * height
    # Each window is passed twice forwards and once backwards, and a small picture only once each way.
    return 1.5 * tiled_loss.pixels_in_tiles(height, width)


# --- Memory and disk ---------------------------------------------------------------------------


def check_resources(width, height, folder):
    """Raise InputError if a search at this size needs more memory or more space on the disk than there is.

    A GPU's memory is not checked.
    """
    pixels, machine = width * height, hardware.machine_memory() * 2**30
    precision = "float32" if keras.config.dtype_policy().name == "float32" else "half"
    large, what = is_large(max(width, height)), f"a search at {width} x {height} pixels takes about"
    memory = SMALL_SIZES[precision] + MEMORY * pixels if large else MEMORY_OF_SMALL[precision] * pixels
    if memory > machine and (large or not hardware.has_gpu()):
        raise InputError(
            f"{what} {memory / 1e9:.1f} GB of memory, and this machine has {machine / 1e9:.1f}; give a smaller --size"
        )
    if not large:
        return
    needed, free = pixels * (CHECKPOINTS + CONTENT[precision]), shutil.disk_usage(existing(folder)).free
    if needed > free:
        raise InputError(
            f"{what} {needed / 1e9:.1f} GB on the disk of {folder}, for checkpoints and the photo's features, and "
            f"{free / 1e9:.1f} GB are free; give another --output, or a smaller --size"
        )


MEMORY_OF_SMALL = {"float32": 2500, "half": 1200}  # bytes a pixel
SMALL_SIZES = {"float32": 3.5e9, "half": 2.3e9}  # bytes that the smaller sizes and the tiles of a large picture need
MEMORY = 60  # bytes a pixel of a large picture: itself, its gradient, the last step and gradient, the photo, a copy
CHECKPOINTS = 2 * 3 * (4 + 2 + 2)  # bytes a pixel: the old one and the new one, each with three arrays
CONTENT = {"float32": 64, "half": 32}  # bytes a pixel of block3_conv3, which has 256 channels at every 16th pixel


def existing(folder):
    """Return the folder, or the first one above it that exists."""
    folder = pathlib.Path(folder).absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


# --- The steps ---------------------------------------------------------------------------------


def minimize(search, width, height, count):
    """Take the steps of optimization.Search at one size: `count` in all, with those before an interruption.

    The terms of the loss that are recorded for a step are those before it, since another evaluation takes long.
    """
    hardware.return_freed_memory()
    search.on_gpu = False  # only the tiles are on a GPU
    loss, targets = targets_of(search, width, height)
    optimizer = search.resumed or MemorylessBFGS(np.array(search.padded(search.start(width, height))))
    search.resumed = None
    color_span = search.color_span(width, height)
    rows, columns = (slice(search.margin, search.margin + side) for side in (height, width))
    search.picture = optimizer.picture[rows, columns]
    if (width, height) == search.final_size():
        search.forget_inputs()
    while optimizer.step < count:
        search.terms, gradient = loss.loss_and_gradient(optimizer.picture, targets)
        search.evaluations += 1
        try:
            search.check_finite(gradient)
        except FloatingPointError:
            optimizer.undo()
            raise
        optimizer.update(gradient, *color_span)
        del gradient
        search.record((width, height))
        if search.checkpoint:
            search.checkpoint.save(search, optimizer)
    search.steps.append(count)


def targets_of(search, width, height):
    """Return the TiledLoss for this size, and its targets."""
    targets = search.targets(width, height)
    if "guides" not in targets:
        targets["style"] = [[statistics] for statistics in targets["style"]]
    return search.model.tiled_at(max(width, height), len(targets["style"][0])), targets


class MemorylessBFGS:
    """L-BFGS that remembers one step (Shanno 1978, "Conjugate gradient methods with inexact searches").

    In a few steps it comes as far as L-BFGS that remembers twenty, with the memory of three pictures. There is no line
    search. `picture` is float32 H x W x 3. `change` (by the last step) and `slope` (the gradient before it, times
    `factor`) have half precision. All are changed in place. The factor makes the first gradient's root mean square 1.
    """

    def __init__(self, picture, change=None, slope=None, step=0, factor=None):
        self.picture, self.step, self.factor = picture, step, factor
        self.change = np.zeros(picture.shape, "float16") if change is None else change
        self.slope = np.zeros(picture.shape, "float16") if slope is None else slope

    def update(self, gradient, in_span, gradient_in_span):
        """Take a step. The two functions are those of Search.color_span(). `gradient` is changed."""
        parts = [slice(top, top + STRIP) for top in range(0, len(gradient), STRIP)]
        if self.factor is None:
            self.factor = math.sqrt(gradient.size) / max(float(np.linalg.norm(gradient)), 1e-30)
        for part in parts:
            gradient[part] = gradient_in_span(self.factor * gradient[part], part)
        along_change, along_slope, constant = self.direction(gradient, parts)
        for part in parts:
            difference = gradient[part] - self.slope[part]
            self.slope[part] = gradient[part]
            change = along_change * self.change[part] + along_slope * difference + constant * gradient[part]
            before = self.picture[part].copy()
            self.picture[part] = in_span(before + change, part)
            self.change[part] = self.picture[part] - before
        self.step += 1

    def undo(self):
        """Take back the last step."""
        self.picture -= self.change

    def direction(self, gradient, parts):
        """Return the factors of the last change, of the gradient's difference and of the gradient in this step."""
        products = np.zeros((3, 3))  # of the last change, the gradient's difference and the gradient
        for part in parts:
            g, s = (x[part].ravel().astype("float64") for x in (gradient, self.change))
            vectors = np.stack([s, g - self.slope[part].ravel(), g])
            products += vectors @ vectors.T
        (_, sy, sg), (_, yy, yg), (_, _, gg) = products
        factors = np.array([0, 0, -FIRST * math.sqrt(gradient.size / max(gg, 1e-30))])
        if sy > 0:  # else it is the first step, or the loss has no positive curvature along the last one
            scale, a = sy / yy, sg / sy
            factors = np.array([scale * (yg - a * yy) / sy - a, scale * a, -scale])
        length = math.sqrt(max(factors @ products @ factors, 0) / gradient.size)
        return (factors * min(1, LONGEST / max(length, 1e-30))).astype("float32")


# --- Checkpoints -------------------------------------------------------------------------------


def checkpoint_path(result):
    return disk.files_beside(result, checkpoint="__unfinished.npz")["checkpoint"]


def refuse_name_of_unfinished(result):
    """Raise InputError if a small picture would take the name of an unfinished one, which then could not go on."""
    if (path := checkpoint_path(result)).exists():
        raise InputError(f"{path} is of an unfinished picture: finish it, give another --output, or --overwrite")


class Checkpoint:
    """The file beside a result that holds an unfinished search, so that the same command goes on after a crash.

    `manifest` describes the command, see manifests.py, and `inputs` are the checksums of the photo, mask and map. If
    they have changed, the search begins anew. Raises InputError if the file is that of another command, or damaged, and
    `overwrite` is false.
    """

    def __init__(self, result, manifest, inputs, overwrite):
        self.path = checkpoint_path(result)
        self.manifest, self.inputs = disk.as_json(manifest), inputs
        self.saved, self.opened = -math.inf, time.time()
        try:
            self.state = self.read()
            if self.state:
                manifests.refuse_other_manifest(self.path, self.state["manifest"], self.manifest)
        except InputError:
            if not overwrite:
                raise
            self.state = None
        if self.state and self.state["inputs"] != inputs:
            self.state = None

    def read(self):
        """Return what save() wrote, a dict, or None if there is no file. Raises InputError if it is damaged."""
        try:
            with np.load(self.path) as file:
                arrays = {name: file[name] for name in ARRAYS}
                frames = [file[name] for name in file if name.startswith("frame")]
                return arrays | {"frames": frames} | json.loads(str(file["text"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{self.path} is damaged; remove it, and the search begins anew") from error

    def resume(self, search):
        """Let a search continue from the checkpoint. Returns the number of sizes that are finished."""
        disk.remove_leftovers(self.path.parent, [glob.escape(self.path.name)], self.opened)
        if not self.state:
            return 0
        numbers = self.state["step"], self.state["factor"]
        search.resumed = MemorylessBFGS(*(self.state[name] for name in ARRAYS), *numbers)
        for name in (*NAMES, "frames"):
            setattr(search, name, self.state[name])
        self.state = None
        if not search.options.quiet:
            print(f"note: {self.path} exists; going on after step {len(search.history)}", file=sys.stderr)
        return len(search.steps)

    def save(self, search, optimizer):
        """Write the state of a search, unless this was done in the last minute."""
        if time.monotonic() < self.saved + SECONDS_BETWEEN:
            return
        text = {"manifest": self.manifest, "inputs": self.inputs}
        text |= {"step": optimizer.step, "factor": optimizer.factor} | {name: getattr(search, name) for name in NAMES}
        arrays = {name: getattr(optimizer, name) for name in ARRAYS}
        arrays |= {f"frame{place:05}": frame for place, frame in enumerate(search.frames)}
        with disk.whole_file(self.path) as temporary:
            np.savez(temporary, text=json.dumps(text), **arrays)
        self.saved = time.monotonic()

    def advice(self):
        """Return what to tell after Ctrl-C."""
        return f"the same command goes on from {self.path}" if self.path.exists() else "nothing was written"

    def remove(self):
        self.path.unlink(missing_ok=True)


ARRAYS = ("picture", "change", "slope")  # of the optimizer
NAMES = ("history", "evaluations", "steps")  # of the search
SECONDS_BETWEEN = 60
