"""Measure the scripts on a GPU with PyTorch, and then with JAX: a table, and pictures to look at.

    python benchmarks/gpu/run.py results/ --data path/to/mnist --pictures path/to/monet
    KERAS_BACKEND=torch python benchmarks/gpu/run.py results/ --small

Each line of the table is printed, and written to table.txt in the folder of the results, as soon as it is measured. No
measurement lasts beyond --seconds, and JAX gets the last part of this time. With --small the pictures are small, so
that the run can be tried on a processor. The seconds are those of a whole script in a process that has already imported
everything; "again" means that the networks were loaded before, too. The GPU's use is its mean, as nvidia-smi tells it.
"""

import argparse
import atexit
import contextlib
import importlib
import io
import os
import pathlib
import platform
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("KERAS_BACKEND", "torch")

from atelier import backend, hardware

# isort: split
import numpy as np

import config
from atelier import imaging, padding
from atelier.style import learned_styles, perceptual_loss, style_training

BEGUN = time.monotonic()
PAINTING = ROOT / "images/style/starry_night.jpg"
SMALLER = 8  # with --small, all sides are divided by this number
TASK_SECONDS = 120  # after which a measurement is given up, or at the end of --seconds
JAX_SHARE = 0.4  # of the time, for the part with JAX
ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ARGUMENTS.add_argument("output", type=pathlib.Path)
ARGUMENTS.add_argument("--data", help="folder with MNIST's four IDX files")
ARGUMENTS.add_argument("--pictures", help="folder of paintings, for an epoch of a painter's training")
ARGUMENTS.add_argument("--small", action="store_true")
ARGUMENTS.add_argument("--seconds", type=float, default=440)


def main():
    arguments = ARGUMENTS.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    table = Table(arguments.output / "table.txt")
    table.write(machine())
    factor = SMALLER if arguments.small else 1
    photo = arguments.output / f"photo_{backend.NAME}.jpg"
    picture = imaging.load_image(ROOT / "images/content/china.jpg")
    large = imaging.resize_picture(picture, *imaging.fit(*picture.shape[1::-1], 4000 / factor))
    imaging.save_picture(photo, imaging.to_pixels(large), {})
    deadline = BEGUN + arguments.seconds
    if backend.NAME == "jax":
        measure(table, tasks_for_jax(photo, arguments, factor), deadline, deadline)
    else:
        jax_begins = deadline - JAX_SHARE * arguments.seconds
        measure(table, tasks(photo, arguments, factor), jax_begins, deadline)
        measure_jax(table, arguments, deadline)
        table.report("in all", time.monotonic() - BEGUN)
    photo.unlink()


class Table:
    """The table on standard output and in a file. A run that is cut keeps the lines so far."""

    def __init__(self, path):
        self.path = path

    def write(self, line):
        print(line, flush=True)
        with open(self.path, "a") as file:
            file.write(f"{line}\n")

    def report(self, name, seconds, note=""):
        self.write(f"{name:<50} {seconds:9.3f} s  {note}")


def measure(table, tasks, last_begin, deadline):
    """Run tasks, (name, function) each, one after the other, and report each. A task that fails is reported, too.

    No task begins after `last_begin`, and each is given up at `deadline`.
    """
    monitor = Monitor()
    for name, task in tasks:
        if time.monotonic() > last_begin:
            table.write(f"{name:<50} left out: no time")
            continue
        reset_peak()
        monitor.seen.clear()
        begun = time.monotonic()
        try:
            with time_limit(min(TASK_SECONDS, deadline - begun)):
                note = task() or ""
                finish_work()
            table.report(name, time.monotonic() - begun, f"{peak()}{monitor.text()} {note}")
        except (Exception, SystemExit) as error:
            seconds, told = time.monotonic() - begun, " ".join(str(error).split())[:300]
            table.report(name, seconds, f"failed: {type(error).__name__}: {told}")


@contextlib.contextmanager
def time_limit(seconds):
    """Raise TimeoutError in this context after the seconds."""
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def end_task(*_):
    raise TimeoutError("its time was over")


signal.signal(signal.SIGALRM, end_task)


class Monitor:
    """Reads the GPU's use and its memory from nvidia-smi, twice a second, if there is nvidia-smi."""

    QUERY = ("nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "-lms", "500")

    def __init__(self):
        self.seen = []
        with contextlib.suppress(OSError):
            process = subprocess.Popen(self.QUERY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            atexit.register(process.kill)
            threading.Thread(target=self.read, args=(process.stdout,), daemon=True).start()

    def read(self, lines):
        for line in lines:
            with contextlib.suppress(ValueError):
                self.seen.append([float(number) for number in line.split(",")])

    def text(self):
        if not self.seen:
            return ""
        use, memory = zip(*self.seen)
        return f" GPU {sum(use) / len(use):.0f}%, at most {max(memory) / 1024:.1f} GiB in all;"


# --- What is measured --------------------------------------------------------------------------


def tasks(photo, arguments, factor):
    """Yield the name and the function of each measurement with PyTorch, the most important first."""
    output = arguments.output
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
        if side < 2048:  # larger steps are not captured
            yield f"search, {size} pixels, the same, not captured", evaluating(photo, size, captured=False)
    yield dreaming(photo, output, factor)
    sheet = ("block3_conv1", "--images", photo, "--size", 512 // factor, "--filters", 4, "--dreams", 1)
    yield "sheet of 4 filters", script("visualize_filters", *sheet, "--output", output / "filters.png")
    yield training_steps(output, factor)
    yield learning(output, factor)
    yield from tasks_of_pixel_rnns(arguments)
    drawn = (ROOT / "trained/digits", "--all-digits", "--grid", 4, "--output", output / "digits.png")
    yield "drawing of 160 digits", script("generate_rnn", *drawn)
    search = (photo, "--style", PAINTING, "--size", 1024 // factor, "--precision", "float32")
    yield "search, 1024 pixels, float32", script("style_transfer", *search, "--output", output / "search_float32.jpg")


def tasks_for_jax(photo, arguments, factor):
    output, size = arguments.output, 1024 // factor
    learned = (photo, "--learned", "starry_night", "--size", size, "--output", output / "jax_learned.jpg")
    yield f"JAX: learned style, {size} pixels", script("style_transfer", *learned)
    yield f"JAX: learned style, {size} pixels, again", script("style_transfer", *learned)
    size = 512 // factor
    search = (photo, "--style", PAINTING, "--size", size, "--output", output / "jax_search.jpg")
    yield f"JAX: search, {size} pixels", script("style_transfer", *search)
    yield f"JAX: search, {size} pixels, again", script("style_transfer", *search)
    name, task = dreaming(photo, output, factor)
    yield f"JAX: {name}", task
    name, task = learning(output, factor)
    yield f"JAX: {name}", task
    yield from ((f"JAX: {name}", task) for name, task in tasks_of_pixel_rnns(arguments))
    if arguments.data and not arguments.small:
        training = ("--preset", "best", "--units", 128, "--epochs", 4, "--batch-size", 64, "--data", arguments.data)
        models = output / "jax_digits"
        yield "JAX: training of ten digits", script("train_rnn", "mnist", "--all-digits", *training, "--output", models)
        accuracy = (models, "--data", arguments.data, "--num-images", 10_000, "--output", output / "jax_trained.png")
        yield "JAX: their accuracy, to be 0.9754", script("classify_mnist", *accuracy)


def dreaming(photo, output, factor):
    size, path = 1024 // factor, output / f"dream_{backend.NAME}.jpg"
    return f"dream, {size} pixels", script("deepdream", photo, "--size", size, "--output", path)


def learning(output, factor):
    """Return the measurement of the training of a learned style; it also makes 120 steps of searches, to compare."""
    steps, folder = 200 // factor, output / f"style_{backend.NAME}"
    training = (PAINTING, "--from-scratch", "--steps", steps, "--output", folder)
    return f"training of a learned style, {steps} steps", script("train_style", *training)


def tasks_of_pixel_rnns(arguments):
    """Yield the measurements of the classification and of an epoch of a painter and of a digit."""
    output, size = arguments.output, ("--width", 16, "--height", 16) if arguments.small else ()
    if arguments.data:
        count = 100 if arguments.small else 10_000
        words = ("--data", arguments.data, "--num-images", count, "--output", output / f"confusion_{backend.NAME}.png")
        yield f"classification of {count} digits", script("classify_mnist", ROOT / "trained/mnist", *words)
        training = ("mnist", "--data", arguments.data, "--digit", 3, "--preset", "best", "--units", 128, "--epochs", 1)
        training += ("--batch-size", 64)
        training += ("--num-images", 100) if arguments.small else ()
        models = output / f"digit_{backend.NAME}"
        yield "an epoch of a digit, batch 64", script("train_rnn", *training, "--output", models)
    if arguments.pictures:
        training = (arguments.pictures, "--preset", "monet", "--epochs", 1, "--stride", 30, *size)
        models = output / f"painter_{backend.NAME}"
        yield "a tenth of an epoch of the painter `monet`", script("train_rnn", *training, "--output", models)


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


REPORTED = ("seconds", "steps", "loss", "strength_after", "accuracy", "images_per_second", "duration", "network")
UNTIMED, REPEATS = 3, 20  # calls; the second one is captured


def stylizing(photo, size):
    """Return a function that measures a learned style without files, as the mean of some calls."""

    def run():
        hardware.use_precision("auto", "convolutions")
        stylizer = learned_styles.Stylizer([("starry_night", 1)])
        picture = imaging.resize_picture(imaging.load_image(photo), size, round(size * 2 / 3))
        return mean_time(lambda: stylizer.stylize(picture))

    return run


def evaluating(photo, size, captured=True):
    """Return a function that measures the loss and the gradient of a search, as the mean of some calls.

    With PyTorch and `captured`, they are captured in a CUDA graph, see torch_graphs.py.
    """

    def run():
        hardware.use_precision("auto", "convolutions")
        loss = perceptual_loss.PerceptualLoss(config.Style())
        picture = imaging.resize_picture(imaging.load_image(photo), size, round(size * 2 / 3))[None]
        targets = {"content": loss.content(picture), "style": loss.statistics(picture[:, :, ::-1].copy())}
        not_captured = padding.value_and_gradient(loss.loss, loss.variables)
        function = loss.loss_and_gradient if captured else not_captured
        return mean_time(lambda: function(picture, targets)[1])

    return run


def training_steps(output, factor):
    """Return the measurement of a step of the training of a learned style."""

    def run():
        hardware.use_precision("auto", "convolutions")
        photos, _ = style_training.read_photos(ROOT / "images/content", seed=0)
        options = config.Learn(steps=1000, size=512 // factor, from_scratch=True)
        training = style_training.StyleTraining(output / "steps", [PAINTING], photos, None, options)
        return mean_time(training.step)

    return "a step of the training of a learned style", run


def mean_time(call):
    for _ in range(UNTIMED):
        call()
    finish_work()
    begun = time.monotonic()
    for _ in range(REPEATS):
        call()
    finish_work()
    return f"mean of {REPEATS}: {1000 * (time.monotonic() - begun) / REPEATS:.1f} ms"


# --- The machine -------------------------------------------------------------------------------


def machine():
    """Return a text with the versions, the cores and the card."""
    lines = [
        f"{backend.TITLE} {backend.VERSION}, Keras {hardware.keras.__version__}, NumPy {np.__version__}",
        f"Python {platform.python_version()}, {hardware.cpu_count()} cores",
    ]
    if on_cuda():
        card = torch().cuda.get_device_properties(0)
        lines.append(f"{card.name}, {card.total_memory / 2**30:.0f} GiB, capability {card.major}.{card.minor}")
    return "\n".join(lines)


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


def measure_jax(table, arguments, deadline):
    """Measure JAX in a process of its own, which is ended at the deadline."""
    if on_cuda():
        torch().cuda.empty_cache()
    seconds = deadline - time.monotonic()
    folders = [f"--{name}={value}" for name, value in vars(arguments).items() if name in ("data", "pictures") and value]
    command = [sys.executable, __file__, str(arguments.output), *folders, "--seconds", str(seconds - 10)]
    changes = {"KERAS_BACKEND": "jax", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    try:
        subprocess.run(command + ["--small"] * arguments.small, env=os.environ | changes, timeout=max(1, seconds))
    except subprocess.TimeoutExpired:
        table.write("JAX: ended, as the time was over")


if __name__ == "__main__":
    main()
