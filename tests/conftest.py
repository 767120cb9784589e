"""Fixtures and helpers of the tests: real data, tiny trained models, and how scripts are run."""

import contextlib
import csv
import fcntl
import functools
import gzip
import importlib
import io
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest.mock

import h5py
import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
sys.path.insert(0, str(ROOT))
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    # Each process and its children get some of the cores. Processes that all use all cores slow one another down.
    worker, workers = int(os.environ["PYTEST_XDIST_WORKER"][2:]), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[worker % len(cores) :: workers])
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as in the scripts that compute VGG features
os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the user has set
if "TF_XLA_FLAGS" not in os.environ:  # processes share compiled code: many train the same tiny network
    code_cache = tempfile.TemporaryDirectory()
    flags = f"--tf_xla_persistent_cache_directory={code_cache.name} --tf_xla_disable_strict_signature_checks=true"
    os.environ["TF_XLA_FLAGS"] = flags
# With optimization level 1, the compiler takes two thirds of its usual time. The tests' networks are small and are
# compiled for each test.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")


import util
from atelier import backend, command_line, hardware, trainings
from atelier.networks import pretrained
from atelier.pixel_rnn import datasets

SMALL_RNNS = (  # cells and options of util.build_rnn()
    ("gru", {"context": "previous"}),
    ("lstm", {"context": "previous"}),
    ("gru", {"context": "above"}),
    ("lstm", {"context": "above"}),
    ("gru", {"context": "wide", "size": 8, "block": 2, "levels": 2, "hidden": 9}),
)
SLOWEST = (
    "style_transfer",
    "films",
    "cluster",
    "trainings",
    "painter_training",
    "deepdream",
    "hardware",
    "learned_styles",
    "digit_training",
)


def pytest_collection_modifyitems(items):
    """Run the slowest files first. Then all cores are busy until the end."""
    order = {f"test_{name}": position for position, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def run(script, *arguments, status=0):
    """Run a script in this process. This saves an import of TensorFlow; output and exit status are the same."""
    module = importlib.import_module(script.removesuffix(".py"))
    output, errors = io.StringIO(), io.StringIO()
    command = [script, *map(str, arguments)]
    with (
        contextlib.chdir(ROOT),
        unittest.mock.patch.object(sys, "argv", command),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        restored_ctrl_c(),
    ):
        try:
            command_line.run(module.main)
        except SystemExit as end:
            code = end.code
    return check(subprocess.CompletedProcess(command, code, output.getvalue(), errors.getvalue()), status)


@contextlib.contextmanager
def restored_ctrl_c():
    """Restore this process's handler of Ctrl-C afterwards, because a script ignores Ctrl-C at its end."""
    handler, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        sys.unraisablehook = hook


@contextlib.contextmanager
def file_size_limit(size):
    """Limit files to `size` bytes: larger writes fail as on a full disk, in this process and its children."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def run_process(script, *arguments, status=0, **options):
    """Run a script in a new process, as a user does."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, **options)
    return check(result, status)


def check(result, status):
    """Check the exit status. For the statuses 1 and 2, check also that exactly one line of error was printed."""
    assert result.returncode == status, result.stderr + result.stdout
    assert "Traceback" not in result.stderr
    if status in (1, 2):
        errors = [line for line in result.stderr.splitlines() if "error: " in line]
        assert len(errors) == 1, result.stderr
    return result


def results(output):
    """Read the `key: value` lines of a script's standard output."""
    return dict(line.split(": ", 1) for line in output.splitlines())


def pixels(path):
    """Read a picture as float32 H x W x 3 in 0..255."""
    return np.asarray(Image.open(path).convert("RGB"), "float32")


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
    path.write_bytes(gzip.compress(header + array.astype("uint8").tobytes()))


def write_idx_folder(folder, x_train, y_train, x_test, y_test):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (
        ("train-images-idx3-ubyte.gz", x_train),
        ("train-labels-idx1-ubyte.gz", y_train),
        ("t10k-images-idx3-ubyte.gz", x_test),
        ("t10k-labels-idx1-ubyte.gz", y_test),
    ):
        write_idx(folder / name, array)
    return folder


@pytest.fixture(autouse=True)
def float32_precision():
    """Set the precision to float32 before each test."""
    hardware.use_precision("float32", "training")


@pytest.fixture(scope="session")
def shared_data():
    """The folder with MNIST and the tutorial's models. Tests that use it are skipped if it does not exist."""
    if not SHARED.is_dir():
        pytest.skip("the shared data are not beside the project")
    return SHARED


@pytest.fixture(scope="session")
def digits():
    """scikit-learn's digits as (x_train, y_train, x_test, y_test)."""
    return datasets.load_scikit_digits()


TINY_DIGITS = ("--units", 16, "--epochs", 6, "--num-images", 80, "--batch-size", 8)


@pytest.fixture(scope="session")
def make_once(tmp_path_factory):
    """Return f(name, make), which returns a folder. make(folder) fills it, only once for all test processes."""
    own_folder = tmp_path_factory.getbasetemp()
    common_folder = own_folder.parent if "PYTEST_XDIST_WORKER" in os.environ else own_folder

    def make_folder(name, make):
        folder, marker = common_folder / "once" / name, common_folder / f"{name}.done"
        folder.parent.mkdir(exist_ok=True)
        with open(common_folder / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not marker.exists():
                make(folder)
                marker.touch()
        return folder

    return make_folder


@pytest.fixture(scope="session")
def tiny_models(make_once):
    """The folder of models of all ten digits, which train_rnn.py trained for six epochs."""
    command = ("train_rnn.py", "digits", "--all-digits", *TINY_DIGITS, "--output")
    return make_once("tiny", lambda folder: run(*command, folder))


@pytest.fixture
def copied_models(tiny_models, tmp_path):
    """A copy of the folder `tiny_models`, which a test may damage."""
    return pathlib.Path(shutil.copytree(tiny_models, tmp_path / "broken"))


@pytest.fixture
def picture(digits, tmp_path):
    """One digit as a PNG."""
    path = tmp_path / "digit.png"
    Image.fromarray(digits[2][0]).save(path)
    return path


TINY_PAINTER = (
    *("--width", 16, "--height", 12, "--window", 16, "--colors", 24, "--embedding", 8, "--units", 24),
    *("--epochs", 4, "--batch-size", 8, "--sample-every", 2, "--validation-split", 0.25),
)


@pytest.fixture(scope="session")
def pictures(make_once):
    """A folder of twelve small pictures, cut from a photograph that comes with scikit-learn."""
    return make_once("china", cut_tiles)


def cut_tiles(folder):
    from sklearn.datasets import load_sample_image

    folder.mkdir()
    photo = Image.fromarray(load_sample_image("china.jpg"))
    for i in range(12):
        left, top = i % 4 * 160, i // 4 * 142
        photo.crop((left, top, left + 160, top + 142)).save(folder / f"tile_{i:02}.png")


@pytest.fixture(scope="session")
def painter(pictures, make_once):
    """The folder of a painter, which train_rnn.py trained on `pictures` for four epochs."""
    command = ("train_rnn.py", pictures, *TINY_PAINTER, "--output")
    return make_once("painter", lambda folder: run(*command, folder))


@pytest.fixture(scope="session")
def photo(tmp_path_factory):
    """The path of a small photo of 128 x 96 pixels."""
    path = tmp_path_factory.mktemp("photos") / "china.jpg"
    Image.open(ROOT / "images/content/china.jpg").resize((128, 96)).save(path, quality=95)
    return path


def environment(**changes):
    return os.environ | {key: str(value) for key, value in changes.items()}


NO_COMPILATION_CACHE = environment(TF_XLA_FLAGS="")  # for tests that limit the size of files


@pytest.fixture
def cache_vgg(monkeypatch):
    """Keep loaded networks for the next tests that use this fixture."""
    monkeypatch.setattr(pretrained, "load_vgg", load_cached_vgg)


@pytest.fixture
def loss_functions(monkeypatch):
    """A list of the compiled losses that the test makes; their `traces` are counted."""
    functions, original = [], backend.value_and_gradient

    def counted(*arguments):
        functions.append(original(*arguments))
        return functions[-1]

    monkeypatch.setattr(backend, "value_and_gradient", counted)
    return functions


def load_cached_vgg(convnet="vgg16", weights=None):
    return load_vgg_in_precision(convnet, weights, hardware.keras.config.dtype_policy().name)


LOAD_VGG = pretrained.load_vgg


@functools.lru_cache(maxsize=3)
def load_vgg_in_precision(convnet, weights, precision):
    return LOAD_VGG(convnet, weights)


def rows_of(folder):
    """Read the summary of a folder of photos as a dict from each photo's name to its row."""
    with open(folder / "summary.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {pathlib.Path(row["photo"]).name: row for row in csv.DictReader(file)}


def small_rnn(**options):
    hardware.keras.utils.set_random_seed(3)
    settings = {"size": 4, "levels": 3, "units": 8} | options
    model = util.build_rnn(**settings)
    rng = np.random.default_rng(3)  # with the initial biases of zero, some probabilities would be equal
    model.set_weights([weight + rng.normal(0, 0.1, weight.shape) for weight in model.get_weights()])
    return model, settings


def random_tokens(count, size, levels, seed=0):
    return np.random.default_rng(seed).integers(0, levels, (count, size * size)).astype("uint8")


def random_windows(count=5, width=6, height=4, window=6, **options):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 50, (count, width * height)).astype("uint16")
    settings = {"context": "place", "stride": 1, "batch_size": 3, "targets": "all"} | options
    return tokens, util.Windows(tokens, width, height, window=window, **settings)


ONE_DIGIT = ("digits", "--digit", 3, *TINY_DIGITS)


def meta_of(folder):
    return json.loads((folder / "meta.json").read_text())


def mark_unfinished(folder, label):
    """Make a finished class look like one that was killed after its last checkpoint."""
    meta = meta_of(folder)
    meta["classes"][str(label)] = {}
    (folder / "meta.json").write_text(json.dumps(meta))


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def long_training(make_once):
    """The arguments of a longer training of a digit, and its folder."""
    arguments = [
        "digits",
        "--digit",
        "3",
        *map(str, TINY_DIGITS),
        "--epochs",
        "24",
        "--dropout",
        "0.2",
        "--distort",
        "1",
    ]
    return arguments, make_once("long_training", lambda folder: run("train_rnn.py", *arguments, "--output", folder))


def press_ctrl_c(process):
    """Send SIGINT to a process and all others of the group that it leads, as Ctrl-C in its terminal does."""
    os.killpg(process.pid, signal.SIGINT)


def losses_of(folder):
    lines = (folder / "loss.csv").read_text().splitlines()
    return lines[0].split(","), np.array([line.split(",") for line in lines[1:]], float)


@pytest.fixture(scope="session")
def long_painter_training(pictures, make_once):
    """The arguments of a longer training of a painter, and its folder."""
    arguments = [str(pictures), *map(str, TINY_PAINTER), "--epochs", "12", "--batch-size", "4", "--sample-every", "12"]
    return arguments, make_once(
        "long_painter_training", lambda folder: run("train_rnn.py", *arguments, "--output", folder)
    )


def interrupt_after(monkeypatch, checks):
    """Simulate Ctrl-C after a training has checked for it `checks` times."""

    class Interrupt:
        def __init__(self):
            self.checks_done = 0

        def is_set(self):
            self.checks_done += 1
            return self.checks_done > checks

    @contextlib.contextmanager
    def interrupt():
        yield Interrupt()

    monkeypatch.setattr(trainings, "deferred_interrupt", interrupt)


@pytest.fixture(scope="session")
def vgg():
    hardware.use_precision("float32", "convolutions")
    return pretrained.load_vgg()[0]


@pytest.fixture
def style_copy(tmp_path):
    """Return f(weights), which copies an included style and records that it was learned with these weights of VGG16."""

    def copy_style(weights):
        folder = pathlib.Path(shutil.copytree(ROOT / "trained/styles/wave", tmp_path / f"wave with {weights}"))
        shutil.copy(ROOT / "trained/styles/network.npz", folder)
        (folder / "meta.json").write_text(json.dumps(meta_of(folder) | {"weights": weights}))
        return folder

    return copy_style


@pytest.fixture(scope="session")
def weight_files(vgg, tmp_path_factory):
    """A folder with VGG16's convolutions in the three file formats."""
    folder = tmp_path_factory.mktemp("weights")
    vgg.save_weights(folder / "vgg.weights.h5")
    arrays = {}
    with h5py.File(folder / "vgg.h5", "w") as file:
        for layer in vgg.layers:
            for name, array in zip(("kernel", "bias"), layer.get_weights()):
                file[f"{layer.name}/{layer.name}/{name}:0"] = array  # the names in Keras's own no-top files
                arrays[f"{layer.name}/{name}"] = array
    np.savez(folder / "vgg.npz", **arrays)
    return folder
