"""digit_training.py, tested through train_rnn.py."""

import functools
import io
import json
import resource
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tqdm
from conftest import (
    NO_COMPILATION_CACHE,
    ONE_DIGIT,
    ROOT,
    TINY_DIGITS,
    mark_unfinished,
    meta_of,
    results,
    run,
    run_process,
    wait_for,
    write_idx_folder,
)
from PIL import Image

from atelier.pixel_rnn import datasets, digit_training


def test_a_training_writes_models_meta_json_checkpoints_and_a_loss_curve(tiny_models):
    names = {path.name for path in tiny_models.iterdir()}
    of_each_digit = {name for digit in range(10) for name in (f"model_{digit}.keras", f"checkpoint_{digit}.npz")}
    assert names == {"meta.json", "loss.png", *of_each_digit}
    meta = meta_of(tiny_models)
    assert meta["recipe"]["units"] == 16 and meta["recipe"]["size"] == 8 and meta["preset"] == "digits"
    for entry in meta["classes"].values():
        assert entry["trained_on"] == 80 < entry["pictures"] and entry["epochs"] == 6
        assert entry["loss"][1] < entry["loss"][0] and entry["train_log_likelihood"] < 0
    picture = Image.open(tiny_models / "loss.png")
    assert "train_rnn.py digits" in picture.text["command"]


def test_models_are_saved_without_the_optimizer(tiny_models):
    import zipfile

    import h5py

    with zipfile.ZipFile(tiny_models / "model_0.keras") as archive, archive.open("model.weights.h5") as file:
        weights = h5py.File(file)
        assert not any("optimizer" in name for name in weights)


def test_the_same_seed_trains_the_same_model_and_another_seed_another(tiny_models, tmp_path):
    for seed, folder in ((0, tmp_path / "same"), (1, tmp_path / "other")):
        run("train_rnn.py", *ONE_DIGIT, "--seed", seed, "--output", folder)
    again = meta_of(tmp_path / "same")["classes"]["3"]
    assert again == meta_of(tiny_models)["classes"]["3"]
    assert meta_of(tmp_path / "other")["classes"]["3"]["loss"] != again["loss"]


@pytest.mark.parametrize(
    ("signal_sent", "status"), [(signal.SIGKILL, -9), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_stopped_training_is_resumed_exactly(long_training, tmp_path, signal_sent, status):
    arguments, uninterrupted = long_training
    folder = tmp_path / "stopped"
    command = [sys.executable, str(ROOT / "train_rnn.py"), *arguments, "--output", str(folder)]
    # If the tests run in the background, Ctrl-C is ignored in the processes that they start.
    receive_ctrl_c = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=receive_ctrl_c)
    wait_for((folder / "checkpoint_3.npz").exists)
    process.send_signal(signal_sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    if signal_sent == signal.SIGINT:
        assert "--resume" in errors and "Traceback" not in errors
    assert not (folder / "model_3.keras").exists()

    run("train_rnn.py", *arguments, "--output", folder, status=2)  # neither --resume nor --overwrite
    run("train_rnn.py", *arguments, "--output", folder, "--units", 8, "--resume", status=2)
    run("train_rnn.py", *arguments, "--output", folder, "--resume")
    assert meta_of(folder)["classes"] == meta_of(uninterrupted)["classes"]


def test_validation_and_early_stopping_keep_the_best_epoch(tmp_path):
    folder = tmp_path / "early"
    flags = ("--validation-split", 0.5, "--patience", 2, "--epochs", 200, "--learning-rate", 0.03)
    run("train_rnn.py", *ONE_DIGIT, *flags, "--schedule", "constant", "--output", folder)
    entry = meta_of(folder)["classes"]["3"]
    assert entry["epochs"] < 200 and entry["trained_on"] == 40
    assert len(entry["validation_loss"]) == entry["epochs"] == int(np.argmin(entry["validation_loss"])) + 3
    assert -entry["validation_log_likelihood"] == pytest.approx(min(entry["validation_loss"]), abs=1e-3)
    again = run(
        "train_rnn.py", *ONE_DIGIT, *flags, "--schedule", "constant", "--epochs", 300, "--output", folder, "--resume"
    )
    assert f"finished (epochs: {entry['epochs']}, stopped by --patience 2)\n" in again.stderr
    assert meta_of(folder)["classes"]["3"] == entry


@pytest.mark.slow
def test_classes_can_be_added_and_are_not_overwritten_without_the_flag(tmp_path):
    folder = tmp_path / "few"
    for digit in (1, 7):
        run("train_rnn.py", "digits", "--digit", digit, *TINY_DIGITS, "--output", folder)
    before = (folder / "model_1.keras").read_bytes()
    assert set(meta_of(folder)["classes"]) == {"1", "7"}
    result = run("train_rnn.py", "digits", "--digit", 1, *TINY_DIGITS, "--output", folder, status=2)
    assert "--overwrite" in result.stderr
    result = run("train_rnn.py", "digits", "--digit", 2, *TINY_DIGITS, "--units", 12, "--output", folder, status=2)
    assert "units 16, not 12" in result.stderr
    assert (folder / "model_1.keras").read_bytes() == before
    run("train_rnn.py", "digits", "--digit", 1, *TINY_DIGITS, "--output", folder, "--overwrite")


@pytest.mark.parametrize(
    "flags",
    [
        ("--cell", "lstm"),
        ("--layers", 2),
        ("--dropout", 0.5),
        ("--context", "previous"),
        ("--shift", 1),
        ("--levels", 2),
        ("--distort", 1),
    ],
)
def test_each_training_option_changes_the_training(tiny_models, tmp_path, flags):
    run("train_rnn.py", *ONE_DIGIT, *flags, "--output", tmp_path / "other")
    losses = meta_of(tmp_path / "other")["classes"]["3"]["loss"]
    assert losses != meta_of(tiny_models)["classes"]["3"]["loss"] and losses[1] < losses[0]


@pytest.fixture(scope="session")
def read_in_both_orders(make_once):
    """A folder of models that begin with a common network, and read rows and columns."""
    flags = (*TINY_DIGITS, "--common-epochs", 1, "--epochs", 1, "--order", "both")
    command = ("train_rnn.py", "digits", "--all-digits", *flags, "--output")
    return make_once("both_orders", lambda folder: run(*command, folder))


@pytest.mark.slow
def test_all_classes_begin_with_a_common_network(read_in_both_orders, tiny_models):
    classes, alone = meta_of(read_in_both_orders)["classes"], meta_of(tiny_models)["classes"]
    assert all(classes[digit]["loss"][0] < alone[digit]["loss"][0] for digit in alone)


@pytest.mark.slow
def test_the_log_likelihoods_of_both_orders_are_added(read_in_both_orders, tmp_path):
    def log_likelihood(folder):
        output = run("classify_mnist.py", folder, "--output", tmp_path / "c.png", "--overwrite").stdout
        return float(results(output)["log_likelihood"].split()[0])

    of_both, of_columns = log_likelihood(read_in_both_orders), log_likelihood(read_in_both_orders / "columns")
    rows = shutil.copytree(read_in_both_orders, tmp_path / "rows")
    meta = meta_of(rows)
    (rows / "meta.json").write_text(json.dumps(meta | {"recipe": meta["recipe"] | {"order": "rows"}}))
    of_rows = log_likelihood(rows)
    assert of_both == pytest.approx((of_rows + of_columns) / 2, abs=2e-3) and of_rows != of_columns


BOTH_ORDERS = ("train_rnn.py", "digits", *TINY_DIGITS, "--epochs", 1, "--order", "both")


@pytest.fixture(scope="session")
def two_classes_in_both_orders(make_once):
    def train(folder):
        for digit in (3, 8):
            run(*BOTH_ORDERS, "--digit", digit, "--output", folder)

    return make_once("two_classes", train)


def test_an_added_class_that_was_interrupted_before_its_columns_is_finished(two_classes_in_both_orders, tmp_path):
    folder = shutil.copytree(two_classes_in_both_orders, tmp_path / "m")
    meta = meta_of(folder / "columns")
    del meta["classes"]["8"]
    (folder / "columns" / "meta.json").write_text(json.dumps(meta))
    (folder / "columns" / "model_8.keras").unlink()
    eights = (*BOTH_ORDERS, "--digit", 8, "--output", folder)
    assert "finish the training with --resume" in run("classify_mnist.py", folder, status=2).stderr
    assert "holds this training, unfinished; --resume goes on" in run(*eights, status=2).stderr
    run(*eights, "--resume")
    assert meta_of(folder / "columns")["classes"] == meta_of(two_classes_in_both_orders / "columns")["classes"]
    assert "finished (epochs: 1)" in run(*eights, "--resume").stderr


def test_overwriting_removes_the_columns_of_the_earlier_networks(two_classes_in_both_orders, tmp_path, monkeypatch):
    folder = shutil.copytree(two_classes_in_both_orders, tmp_path / "m")
    monkeypatch.setattr(digit_training.DigitTraining, "execute", interrupt)
    other = (*BOTH_ORDERS, "--digit", 8, "--units", 8, "--output", folder)
    assert "holds another training" in run(*other, "--overwrite", status=2).stderr
    assert {*meta_of(folder)["classes"]} == {"3", "8"}
    run(*BOTH_ORDERS, "--all-digits", "--units", 8, "--output", folder, "--overwrite", status=130)
    assert meta_of(folder)["recipe"]["units"] == 8 and not [*folder.glob("*.keras"), *folder.glob("*.npz")]
    assert not [*(folder / "columns").iterdir()]


def test_a_training_leaves_other_networks_beside_it_alone(tmp_path, monkeypatch):
    other = tmp_path / "columns" / "model_3.keras"
    other.parent.mkdir()
    other.write_text("mine")
    monkeypatch.setattr(digit_training.DigitTraining, "execute", interrupt)
    run("train_rnn.py", *ONE_DIGIT, "--output", tmp_path, status=130)
    assert other.read_text() == "mine"


def interrupt(*_):
    raise KeyboardInterrupt


def test_models_without_a_meta_json_are_not_replaced(tmp_path):
    (tmp_path / "model_3.keras").write_text("mine")
    message = run("train_rnn.py", *ONE_DIGIT, "--output", tmp_path, status=2).stderr
    assert "model_3.keras would be replaced; give another --output, or --overwrite" in message
    assert (tmp_path / "model_3.keras").read_text() == "mine"


def test_one_network_for_all_classes_has_a_likelihood_and_completes_a_picture(digits, picture, tmp_path):
    network = ("--together", "--sampled", "--block", 2, "--levels", 2, "--context", "wide", "--hidden", 8, "--half")
    folder = tmp_path / "m"
    run("train_rnn.py", "digits", "--all-digits", *TINY_DIGITS, *network, "--epochs", 2, "--output", folder)
    weights = keras.saving.load_model(folder / "model_0.keras").get_weights()
    assert {str(array.dtype) for array in weights[:-2]} == {"float16"}
    assert {*meta_of(folder)["classes"]} == {"0"} and meta_of(folder)["classes"]["0"]["pictures"] == 1437
    figures = results(run("classify_mnist.py", folder).stdout)
    assert "accuracy" not in figures and -64 * np.log(2) < float(figures["log_likelihood"].split()[0]) < -20
    assert "leave out --digit" in run("generate_rnn.py", folder, "--digit", 3, status=2).stderr
    assert "can't tell them apart" in run("classify_mnist.py", folder, "--errors", status=2).stderr
    complete = ("generate_rnn.py", folder, "--grid", 1, "--output", tmp_path / "drawn.png", "--complete", picture)
    assert "--rows must be a multiple of 2" in run(*complete, "--rows", 3, status=2).stderr
    run(*complete, "--rows", 4)
    drawn = np.asarray(Image.open(tmp_path / "drawn.png").convert("L").resize((10, 10), 0))[1:-1, 1:-1]
    assert {*np.unique(drawn)} == {0, 255}
    np.testing.assert_array_equal(drawn[:4] > 0, digits[2][0][:4] > 128)


def test_the_same_data_from_files_gives_the_same_training(digits, tiny_models, tmp_path):
    folder = write_idx_folder(tmp_path / "idx", *digits)
    np.savez(tmp_path / "set.npz", **dict(zip(("x_train", "y_train", "x_test", "y_test"), digits, strict=True)))
    for expected, loaded in zip(digits, datasets.load_dataset("digits", folder), strict=True):
        np.testing.assert_array_equal(expected, loaded)
    flags = ("--preset", "digits", "--data", tmp_path / "set.npz", "--output", tmp_path / "m")
    run("train_rnn.py", *ONE_DIGIT, *flags)
    assert meta_of(tmp_path / "m")["classes"]["3"] == meta_of(tiny_models)["classes"]["3"]


def test_a_damaged_checkpoint_is_reported(copied_models):
    mark_unfinished(copied_models, 3)
    (copied_models / "checkpoint_3.npz").write_bytes(b"PK half a file")
    result = run("train_rnn.py", *ONE_DIGIT, "--output", copied_models, "--resume", status=2)
    assert "checkpoint_3.npz is damaged" in result.stderr


@pytest.mark.slow
def test_a_full_disk_is_reported_in_one_line_and_leaves_no_partial_file(tmp_path):
    limit = 12_000  # bytes per file: less than a model, more than meta.json
    set_limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # noqa: E731
    result = run_process(
        "train_rnn.py", *ONE_DIGIT, "--output", tmp_path / "m", status=2, preexec_fn=set_limit, env=NO_COMPILATION_CACHE
    )
    assert "file too large" in result.stderr
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"meta.json"}
    run("train_rnn.py", *ONE_DIGIT, "--output", tmp_path / "m", "--resume")


def test_the_progress_bar_counts_each_picture_of_each_epoch(tmp_path, monkeypatch):
    counted = []

    class Bar(tqdm.tqdm):
        def __init__(self, disable, **settings):
            super().__init__(file=io.StringIO(), **settings)

        def close(self):
            counted.append((self.n, self.total))
            super().close()

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    run("train_rnn.py", *ONE_DIGIT, "--epochs", 2, "--output", tmp_path / "m")
    assert set(counted) == {(160, 160)}
