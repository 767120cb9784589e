"""hardware.py: the precision on each kind of machine, the branches for GPUs (run on a processor), cores and memory."""

import json
import os
import platform
import subprocess
import sys
import unittest.mock

import keras
import numpy as np
import psutil
import pytest
from conftest import ROOT, TINY_PAINTER, pixels, results, run

import util
from atelier import hardware
from atelier.pixel_rnn import datasets, model_files, model_meta, recurrent
from atelier.style.transfer import release_models

PAINTING = ROOT / "images/style/glands.jpg"

# For each kind of machine: its processor's flags, its GPUs' capabilities, and the work that it does in bfloat16.
MACHINES = {
    "processor": ("fpu sse2 avx avx2 fma", [], ()),
    "AVX512-BF16": ("avx2 avx512f avx512_bf16", [], ("convolutions",)),
    "AMX": ("avx2 avx512f avx512_bf16 amx_bf16 amx_tile", [], ("convolutions", "training")),
    "recent GPU": ("avx2", [(8, 0)], ("convolutions", "training", "training in small batches")),
    "older GPU": ("avx2 avx512_bf16 amx_bf16", [(9, 0), (7, 5)], ()),
}


@pytest.fixture
def machine(monkeypatch):
    """Return f(name), which makes hardware.py detect one of MACHINES."""

    def become(name):
        flags, capabilities, _ = MACHINES[name]
        monkeypatch.setattr(hardware, "processor_flags", lambda: set(flags.split()))
        monkeypatch.setattr(hardware, "gpu_capabilities", lambda: capabilities)
        release_models()

    return become


# --- The choice of precision ---


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("work", hardware.BFLOAT16)
def test_auto_uses_bfloat16_where_it_is_faster(name, work, machine):
    machine(name)
    assert hardware.device_kind() == name
    expected = "mixed_bfloat16" if work in MACHINES[name][2] else "float32"
    description = hardware.use_precision("auto", work)
    assert keras.config.dtype_policy().name == expected and description.endswith(f", {expected}")
    gpus = len(MACHINES[name][1])
    assert description.startswith("TensorFlow, " + (f"{gpus} GPU" if gpus else "CPU"))


@pytest.mark.parametrize(("batch_size", "expected"), [(127, "float32"), (128, "mixed_bfloat16")])
def test_amx_uses_bfloat16_only_for_large_batches(batch_size, expected, machine):
    machine("AMX")
    assert hardware.use_precision("auto", "training", batch_size).endswith(expected)


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("work", hardware.BFLOAT16)
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_an_explicit_precision_is_used_on_every_machine(name, work, precision, machine):
    machine(name)
    hardware.use_precision(precision, work, batch_size=1)
    assert keras.config.dtype_policy().name == precision


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (None, set()),
        ("", set()),
        ("processor\t: 0\nflags\t\t: fpu avx512_bf16\nbugs\t\t: amx_bf16\n\nprocessor\t: 1\n", {"fpu", "avx512_bf16"}),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", set()),  # an ARM processor
    ],
)
def test_a_processors_flags_are_read_from_linux(text, flags, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    if text is not None:
        hardware.CPUINFO.write_text(text)
    assert hardware.processor_flags() == flags


# --- Scripts on machines where auto uses bfloat16 ---


def on_two_machines(work, machine, usual="processor", other="AVX512-BF16"):
    """Return the results of `work(name)` on two machines."""
    found = []
    for name in (usual, other):
        machine(name)
        found.append(work(name))
    return found


# A bfloat16 number has 8 significant bits, so an activation is wrong by up to 0.4 %. After a search of a few steps, the
# picture differs by one or two grey levels from that in float32.
NEAR = 4  # grey levels, on average over a picture


@pytest.mark.slow
def test_a_painting_in_bfloat16_is_nearly_the_same(machine, photo, tmp_path, cache_vgg):
    def paint(name):
        flags = ("--size", 64, "--iterations", 6, "--style", PAINTING)
        told = run("style_transfer.py", photo, *flags, "--output", tmp_path / f"{name}.png")
        assert MACHINES[name][2] == (("convolutions",) if "mixed_bfloat16" in told.stderr else ())
        return pixels(tmp_path / f"{name}.png"), float(results(told.stdout)["loss"])

    (a, loss_a), (b, loss_b) = on_two_machines(paint, machine)
    assert 0 < np.abs(a - b).mean() < NEAR
    assert loss_b == pytest.approx(loss_a, rel=0.1)


@pytest.mark.slow
def test_a_dream_in_bfloat16_is_nearly_the_same(machine, photo, tmp_path, cache_vgg):
    def dream(name):
        flags = ("--size", 64, "--octaves", 2, "--steps", 3)
        told = run("deepdream.py", photo, *flags, "--output", tmp_path / f"{name}.png")
        assert MACHINES[name][2] == (("convolutions",) if "mixed_bfloat16" in told.stderr else ())
        return pixels(tmp_path / f"{name}.png")

    a, b = on_two_machines(dream, machine)
    assert 0 < np.abs(a - b).mean() < NEAR


def test_filters_in_bfloat16_are_nearly_the_same(machine, photo, tmp_path, cache_vgg):
    def look(name):
        flags = ("--images", photo, "--size", 64, "--channels", 3, "--quiet")
        told = run("visualize_filters.py", "block2_conv1", *flags, "--output", tmp_path / f"{name}.png")
        return float(results(told.stdout)["filter_3"].split()[1])

    # Compare only the strongest activation. Rounding can swap two later ones, and each place must be some distance from
    # the earlier places, so the other places can change.
    a, b = on_two_machines(look, machine)
    assert a != b == pytest.approx(a, rel=0.03)  # a sum of hundreds of products, each wrong by up to 0.8 %


@pytest.mark.slow
def test_figures_and_drawings_are_the_same_on_every_machine(machine, tiny_models, tmp_path):
    def work(name):
        machine(name)
        scored = run("classify_mnist.py", tiny_models, "--num-images", 50, "--output", tmp_path / f"{name}.png")
        drawn = tmp_path / f"{name}_drawn.png"
        run("generate_rnn.py", tiny_models, "--digit", 3, "--grid", 2, "--output", drawn)
        figures = {key: results(scored.stdout)[key] for key in ("accuracy", "log_likelihood", "bits_per_pixel")}
        return figures, pixels(drawn).tolist()

    expected = work("processor")
    for name in ("AVX512-BF16", "AMX", "recent GPU"):
        assert work(name) == expected, name


def test_the_published_figure_is_the_same_on_every_machine(machine, shared_data, tmp_path):
    """Classify 300 of the digits that give the README's 0.97680. With bfloat16, other digits were misclassified."""

    def classify(name):
        flags = ("--data", shared_data / "mnist", "--num-images", 300, "--output", tmp_path / f"{name}.png")
        printed = results(run("classify_mnist.py", "trained/mnist", *flags).stdout)
        return printed["accuracy"], printed["log_likelihood"]

    assert len(set(on_two_machines(classify, machine))) == 1


def test_a_training_with_amx_uses_bfloat16_in_large_batches(machine, tmp_path):
    machine("AMX")
    flags = ("--digit", 0, "--units", 8, "--epochs", 1, "--num-images", 128)
    for batch_size, precision in ((128, "mixed_bfloat16"), (64, "float32")):
        folder = tmp_path / str(batch_size)
        run("train_rnn.py", "digits", *flags, "--batch-size", batch_size, "--output", folder)
        assert json.loads((folder / "meta.json").read_text())["precision"] == precision


def test_validation_is_scored_in_float32_even_if_the_training_is_not(tmp_path):
    """The training and a float32 network compute the same likelihood from the same weights."""
    flags = ("--digit", 0, "--units", 16, "--epochs", 1, "--num-images", 60, "--validation-split", 0.5)
    run("train_rnn.py", "digits", *flags, "--precision", "mixed_bfloat16", "--output", tmp_path / "low")
    hardware.use_precision("float32", "likelihoods")
    meta = model_meta.load_meta(tmp_path / "low")
    model = model_files.load_rnn(tmp_path / "low", 0, meta)
    images, labels, *_ = datasets.load_dataset("digits")
    held_out = np.random.default_rng(0).permutation(images[labels == 0][:60])[30:]
    sequences = util.to_sequences(held_out, 8, 7)
    scored = recurrent.log_likelihoods(recurrent.make_scorer(model, meta["recipe"]["context"]), model, sequences).mean()
    assert meta["classes"]["0"]["validation_log_likelihood"] == pytest.approx(scored, rel=1e-6)


def test_a_network_in_bfloat16_scores_nearly_as_in_float32():
    settings, tokens = {"size": 4, "levels": 3, "units": 8}, np.random.default_rng(0).integers(0, 3, (6, 16))
    found = []
    for precision in ("float32", "mixed_bfloat16"):
        hardware.use_precision(precision, "training")
        keras.utils.set_random_seed(3)
        model = util.build_rnn(**settings)
        assert model.compute_dtype == precision.removeprefix("mixed_")
        found.append(recurrent.log_likelihoods(recurrent.make_scorer(model, "previous"), model, tokens.astype("uint8")))
    assert not np.array_equal(*found)
    np.testing.assert_allclose(*found, rtol=0.02)


# --- The branches for GPUs, on a processor ---
# Not tested, since this needs a real GPU: its name, the growth of its memory, and cuDNN's kernels.


# The relative tolerance of losses for each precision. In float32, Keras's own cell adds in another order than ours, and
# two epochs hardly enlarge the difference. Rounding to bfloat16 changes each number by up to 0.4 %. Such errors add up,
# so the losses may differ by up to 3 %.
TOLERANCES = {"float32": 1e-3, "auto": 0.03}


@pytest.mark.slow
def test_digits_can_be_trained_drawn_and_scored_with_a_gpu(machine, tmp_path):
    def work(name, precision):
        machine(name)
        folder = tmp_path / f"{name}_{precision}"
        recipe = ("--units", 24, "--epochs", 2, "--num-images", 60, "--batch-size", 16, "--dropout", 0)
        for digit in (3, 7):
            flags = ("--digit", digit, "--precision", precision, "--output", folder)
            run("train_rnn.py", "digits", *recipe, *flags)
        if precision == "auto":
            run("generate_rnn.py", folder, "--all-digits", "--grid", 2, "--output", tmp_path / "drawn.png")
        scored = run("classify_mnist.py", folder, "--output", tmp_path / f"{folder.name}_confusion.png")
        meta = json.loads((folder / "meta.json").read_text())
        assert meta["precision"] == ("mixed_bfloat16" if precision == "auto" else "float32")
        losses = [loss for entry in meta["classes"].values() for loss in entry["loss"]]
        return [*losses, float(results(scored.stdout)["log_likelihood"].split()[0])]

    usual = work("processor", "float32")
    for precision, tolerance in TOLERANCES.items():
        np.testing.assert_allclose(work("recent GPU", precision), usual, rtol=tolerance)


@pytest.mark.slow
def test_a_painter_can_be_trained_and_draw_with_a_gpu(machine, pictures, tmp_path):
    def work(name, precision):
        machine(name)
        folder = tmp_path / f"{name}_{precision}"
        flags = ("--precision", precision, "--dropout", 0, "--epochs", 2)
        run("train_rnn.py", pictures, *TINY_PAINTER, *flags, "--output", folder)
        if precision == "auto":
            run("generate_rnn.py", folder, "--count", 2, "--output", tmp_path / "drawn.png")
            assert len(np.unique(pixels(tmp_path / "drawn.png"))) > 10
        return np.loadtxt(folder / "loss.csv", delimiter=",", skiprows=1)

    usual = work("processor", "float32")
    for precision, tolerance in TOLERANCES.items():
        np.testing.assert_allclose(work("recent GPU", precision), usual, rtol=tolerance)


@pytest.mark.slow
def test_a_photo_can_be_painted_and_dreamed_on_with_a_gpu(machine, photo, tmp_path, cache_vgg):
    def work(name):
        painted, dreamed = tmp_path / f"{name}_painted.png", tmp_path / f"{name}_dreamed.png"
        usual = ("--size", 64, "--precision", "float32")
        run("style_transfer.py", photo, "--style", PAINTING, "--iterations", 5, *usual, "--output", painted)
        run("deepdream.py", photo, "--octaves", 2, "--steps", 2, *usual, "--output", dreamed)
        return [pixels(painted), pixels(dreamed)]

    for a, b in zip(*on_two_machines(work, machine, other="recent GPU"), strict=True):
        # TensorFlow's own convolutions add in another order than Winograd's: some pixels differ by a grey level.
        assert np.abs(a - b).mean() < 0.5


def test_a_gpu_uses_bfloat16_for_photos_and_reports_it(machine, photo, tmp_path, cache_vgg):
    machine("recent GPU")
    flags = ("--style", PAINTING, "--size", 64, "--iterations", 2)
    told = run("style_transfer.py", photo, *flags, "--output", tmp_path / "a.png").stderr
    assert "device: TensorFlow, 1 GPU, mixed_bfloat16" in told


# --- Cores and memory ---


@pytest.mark.parametrize(
    ("limits", "gigabytes"),
    [
        (("6442450944\n", None), 6),  # version 2 of control groups
        ((None, "3221225472\n"), 3),  # version 1
        (("max\n", None), None),
        ((None, "9223372036854771712\n"), None),  # how version 1 writes that there is no limit
        ((None, None), None),
    ],
)
def test_a_containers_memory_limit_is_used(limits, gigabytes, tmp_path, monkeypatch):
    paths = [tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"]
    for path, text in zip(paths, limits, strict=True):
        if text is not None:
            path.write_text(text)
    monkeypatch.setattr(hardware, "CONTAINER_LIMITS", paths)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: unittest.mock.Mock(total=64 * 2**30))
    assert hardware.machine_memory() == (gigabytes or 64)


def test_a_containers_cpu_quota_is_used(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 3)  # it reads the quota
    assert hardware.cpu_count() == 3


NEW_PROCESS = """
import json, os, pathlib, sys
from atelier import hardware
import tensorflow as tf

slow_imports = [name for name in ("sklearn", "scipy.stats", "matplotlib.pyplot") if name in sys.modules]
import matplotlib.pyplot, sklearn  # must still be possible

def used():  # gigabytes of address space, and of memory
    statm = pathlib.Path("/proc/self/statm")
    pages = statm.read_text().split()[:2] if statm.exists() else ()
    return [int(n) * os.sysconf("SC_PAGE_SIZE") / 2**30 for n in pages]

hardware.use_cores(1)
cores = [hardware.cpu_count(), tf.config.threading.get_inter_op_parallelism_threads()]
tf.zeros(1)
hardware.use_cores(3)
cores.append(hardware.cpu_count())
memory = [used()]
hardware.reserve_memory(2)
memory.append(used())
kept = tf.raw_ops.Empty(shape=(2**20, 256), dtype="float32", init=False)
memory.append(used())
hardware.reserve_memory(10**6)  # a petabyte
print(json.dumps([cores, memory, slow_imports]))
"""


@pytest.fixture(scope="module")
def new_process():
    """Run NEW_PROCESS. Return its numbers of cores, its memory (before and after a reservation and after use), and
    the names of slow modules that it imported."""
    environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": "1"}
    command = [sys.executable, "-c", NEW_PROCESS]
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return json.loads(printed.stdout)


@pytest.mark.slow
def test_the_number_of_cores_cannot_change_after_the_first_computation(new_process):
    assert new_process[0] == [1, 1, 1]


def test_the_start_imports_no_large_modules_that_are_not_used(new_process):
    assert new_process[2] == []


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="TensorFlow has no such pool")
def test_reserved_memory_takes_little_until_it_is_used(new_process):
    before, reserved, used = new_process[1]
    assert reserved[0] > before[0] + 1.9
    assert reserved[1] < before[1] + 0.15
    assert used[0] < reserved[0] + 0.2
