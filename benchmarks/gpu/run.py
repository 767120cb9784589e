"""Measure the scripts on a GPU with PyTorch, and shortly with JAX: a table on standard output, and pictures to look at.

    python benchmarks/gpu/run.py results/
    KERAS_BACKEND=torch python benchmarks/gpu/run.py results/ --small

Each line is printed as soon as it is measured. No measurement begins after --seconds. With --small the pictures are
small, so that the run can be tried on a processor. The seconds are those of a whole script in a process that has
already imported everything; "again" means that the networks were loaded before, too.
"""

import argparse
import contextlib
import importlib
import io
import os
import pathlib
import platform
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("KERAS_BACKEND", "torch")

from atelier import backend, hardware

# isort: split
import numpy as np

import config
from atelier import imaging
from atelier.style import learned_styles, perceptual_loss

BEGUN = time.monotonic()
PAINTING = ROOT / "images/style/starry_night.jpg"
SMALLER = 8  # with --small, all sides are divided by this number
JAX_SECONDS = 50  # for the part with JAX


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, default=200)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    factor = SMALLER if arguments.small else 1
    print_machine()
    photo = arguments.output / "photo.jpg"
    picture = imaging.load_image(ROOT / "images/content/china.jpg")
    large = imaging.resize_picture(picture, *imaging.fit(*picture.shape[1::-1], 4000 / factor))
    imaging.save_picture(photo, imaging.to_pixels(large), {})
    deadline = BEGUN + arguments.seconds
    if backend.NAME == "jax":
        measure(tasks_for_jax(photo, arguments.output, factor), deadline)
        return
    measure(tasks(photo, arguments.output, factor), deadline - JAX_SECONDS)
    photo.unlink()
    measure_jax(arguments, deadline)
    report("in all", time.monotonic() - BEGUN)


def measure(tasks, deadline):
    """Run tasks, (name, function) each, one after the other, and report each. A task that fails is reported, too."""
    for name, task in tasks:
        if time.monotonic() > deadline:
            print(f"{name:<44} left out: no time", flush=True)
            continue
        reset_peak()
        begun = time.monotonic()
        try:
            note = task() or ""
            finish_work()
            report(name, time.monotonic() - begun, f"{peak()} {note}")
        except (Exception, SystemExit) as error:
            print(f"{name:<44} failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)


def report(name, seconds, note=""):
    print(f"{name:<44} {seconds:9.3f} s  {note}", flush=True)


# --- What is measured --------------------------------------------------------------------------


def tasks(photo, output, factor):
    """Yield the name and the function of each measurement with PyTorch, the most important first."""
    for side in (1024, 4000):
        size = side // factor
        learned = (photo, "--learned", "starry_night", "--size", size, "--output", output / f"learned_{side}.jpg")
        yield f"learned style, {size} pixels", script("style_transfer", *learned)
        yield f"learned style, {size} pixels, again", script("style_transfer", *learned)
        yield f"learned style, {size} pixels, network alone", stylizing(photo, size)
    for side in (512, 1024, 2048):
        size = side // factor
        search = (photo, "--style", PAINTING, "--size", size, "--output", output / f"search_{side}.jpg")
        yield f"search, {size} pixels", script("style_transfer", *search)
        yield f"search, {size} pixels, one loss and gradient", evaluating(photo, size)
    size = 1024 // factor
    yield f"dream, {size} pixels", script("deepdream", photo, "--size", size, "--output", output / "dream_1024.jpg")
    sheet = ("block3_conv1", "--images", photo, "--size", 512 // factor, "--filters", 4, "--dreams", 1)
    yield "sheet of 4 filters", script("visualize_filters", *sheet, "--output", output / "filters.png")
    digits = ROOT / "trained/digits"
    yield "classification of 360 digits", script("classify_mnist", digits, "--output", output / "confusion.png")
    drawn = ("--all-digits", "--grid", 4, "--output", output / "digits.png")
    yield "drawing of 160 digits", script("generate_rnn", digits, *drawn)
    search = (photo, "--style", PAINTING, "--size", 1024 // factor, "--precision", "float32")
    yield "search, 1024 pixels, float32", script("style_transfer", *search, "--output", output / "search_float32.jpg")
    training = ("digits", "--digit", 3, "--epochs", 2, "--num-images", 80, "--output", output / "training")
    yield "training of a digit, 2 epochs", script("train_rnn", *training)


def tasks_for_jax(photo, output, factor):
    size = 1024 // factor
    learned = (photo, "--learned", "starry_night", "--size", size, "--output", output / "jax_learned.jpg")
    yield f"JAX: learned style, {size} pixels", script("style_transfer", *learned)
    yield f"JAX: learned style, {size} pixels, again", script("style_transfer", *learned)
    size = 512 // factor
    search = (photo, "--style", PAINTING, "--size", size, "--output", output / "jax_search.jpg")
    yield f"JAX: search, {size} pixels", script("style_transfer", *search)
    yield f"JAX: search, {size} pixels, again", script("style_transfer", *search)


def script(name, *words):
    """Return a function that runs a script in this process, and returns the lines that it prints about its result."""

    def run():
        output, errors = io.StringIO(), io.StringIO()
        sys.argv = [f"{name}.py", *map(str, words), "--overwrite"]
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            importlib.import_module(name).main()
        told = [line for line in errors.getvalue().splitlines() if line.startswith("device: ")]
        printed = [line for line in output.getvalue().splitlines() if line.split(":")[0] in REPORTED]
        return "; ".join(printed + told)

    return run


REPORTED = ("seconds", "steps", "loss", "strength_after", "accuracy", "images_per_second")
REPEATS = 5


def stylizing(photo, size):
    """Return a function that measures a learned style without files, as the mean of some calls."""

    def run():
        hardware.use_precision("auto", "convolutions")
        stylizer = learned_styles.Stylizer([("starry_night", 1)])
        picture = imaging.resize_picture(imaging.load_image(photo), size, round(size * 2 / 3))
        return mean_time(lambda: stylizer.stylize(picture))

    return run


def evaluating(photo, size):
    """Return a function that measures the loss and the gradient of a search, as the mean of some calls."""

    def run():
        hardware.use_precision("auto", "convolutions")
        loss = perceptual_loss.PerceptualLoss(config.Style())
        picture = imaging.resize_picture(imaging.load_image(photo), size, round(size * 2 / 3))[None]
        targets = {"content": loss.content(picture), "style": loss.statistics(picture[:, :, ::-1].copy())}
        return mean_time(lambda: loss.loss_and_gradient(picture, targets)[1])

    return run


def mean_time(call):
    call()
    finish_work()
    begun = time.monotonic()
    for _ in range(REPEATS):
        call()
    finish_work()
    return f"mean of {REPEATS}: {1000 * (time.monotonic() - begun) / REPEATS:.1f} ms"


# --- The machine -------------------------------------------------------------------------------


def print_machine():
    print(f"{backend.TITLE} {backend.VERSION}, Keras {hardware.keras.__version__}, NumPy {np.__version__}")
    print(f"Python {platform.python_version()}, {hardware.cpu_count()} cores", flush=True)
    if on_cuda():
        card = torch().cuda.get_device_properties(0)
        print(f"{card.name}, {card.total_memory / 2**30:.0f} GiB, capability {card.major}.{card.minor}", flush=True)


def torch():
    return importlib.import_module("torch")


def on_cuda():
    return backend.NAME == "torch" and torch().cuda.is_available()


def finish_work():
    """Wait until the GPU has done all that it was given."""
    if on_cuda():
        torch().cuda.synchronize()


def reset_peak():
    if on_cuda():
        torch().cuda.reset_peak_memory_stats()


def peak():
    return f"peak {torch().cuda.max_memory_allocated() / 2**30:.2f} GiB;" if on_cuda() else ""


def measure_jax(arguments, deadline):
    """Measure JAX in a process of its own, which is ended at the deadline."""
    if on_cuda():
        torch().cuda.empty_cache()
    seconds = deadline - time.monotonic()
    command = [sys.executable, __file__, str(arguments.output), "--seconds", str(seconds - 10)]
    changes = {"KERAS_BACKEND": "jax", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    try:
        subprocess.run(command + ["--small"] * arguments.small, env=os.environ | changes, timeout=max(1, seconds))
    except subprocess.TimeoutExpired:
        print("JAX: ended, as the time was over", flush=True)


if __name__ == "__main__":
    main()
