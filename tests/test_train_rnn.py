"""train_rnn.py through the real command line: what it writes, resuming, and bad input."""

import functools
import json
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, TINY, environment, run, run_process, write_idx, write_idx_folder
from PIL import Image

ONE = ("digits", "--digit", 3, *TINY)


def meta_of(folder):
    return json.loads((folder / "meta.json").read_text())


def test_a_training_leaves_models_a_record_and_a_curve(tiny):
    names = {path.name for path in tiny.iterdir()}
    assert names == {"meta.json", "loss.png", *(f"model_{digit}.keras" for digit in range(10))}
    meta = meta_of(tiny)
    assert meta["recipe"]["units"] == 16 and meta["recipe"]["size"] == 8 and meta["preset"] == "digits"
    for entry in meta["classes"].values():
        assert entry["trained_on"] == 80 < entry["pictures"] and entry["epochs"] == 6
        assert entry["loss"][1] < entry["loss"][0] and entry["train_log_likelihood"] < 0
    picture = Image.open(tiny / "loss.png")
    assert "train_rnn.py digits" in picture.text["command"]


def test_no_optimizer_state_ships(tiny):
    import zipfile

    import h5py

    with zipfile.ZipFile(tiny / "model_0.keras") as archive, archive.open("model.weights.h5") as file:
        weights = h5py.File(file)
        assert not any("optimizer" in name for name in weights)


def test_the_same_seed_trains_the_same_model_and_another_seed_another(tiny, tmp_path):
    for seed, folder in ((0, tmp_path / "same"), (1, tmp_path / "other")):
        run("train_rnn.py", *ONE, "--seed", seed, "--output", folder)
    again = meta_of(tmp_path / "same")["classes"]["3"]
    assert again == meta_of(tiny)["classes"]["3"]
    assert meta_of(tmp_path / "other")["classes"]["3"]["loss"] != again["loss"]


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


@pytest.mark.parametrize(("signal_sent", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_training_that_was_stopped_goes_on_exactly(tmp_path, signal_sent, status):
    arguments = ["digits", "--digit", "3", *map(str, TINY), "--epochs", "60", "--dropout", "0.2"]
    run("train_rnn.py", *arguments, "--output", tmp_path / "whole")
    folder = tmp_path / "stopped"
    command = [sys.executable, str(ROOT / "train_rnn.py"), *arguments, "--output", str(folder)]
    # Where the tests themselves run in the background, Ctrl-C would be ignored in what they start.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
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
    assert meta_of(folder)["classes"] == meta_of(tmp_path / "whole")["classes"]


def test_validation_and_early_stopping_keep_the_best_epoch(tmp_path):
    folder = tmp_path / "early"
    flags = ("--validation-split", 0.5, "--patience", 2, "--epochs", 200, "--learning-rate", 0.03)
    run("train_rnn.py", *ONE, *flags, "--schedule", "constant", "--output", folder)
    entry = meta_of(folder)["classes"]["3"]
    assert entry["epochs"] < 200 and entry["trained_on"] == 40
    assert len(entry["validation_loss"]) == entry["epochs"] == int(np.argmin(entry["validation_loss"])) + 3
    assert -entry["validation_log_likelihood"] == pytest.approx(min(entry["validation_loss"]), abs=1e-3)


def test_classes_can_be_added_and_are_not_overwritten_unasked(tmp_path):
    folder = tmp_path / "few"
    for digit in (1, 7):
        run("train_rnn.py", "digits", "--digit", digit, *TINY, "--output", folder)
    before = (folder / "model_1.keras").read_bytes()
    assert set(meta_of(folder)["classes"]) == {"1", "7"}
    result = run("train_rnn.py", "digits", "--digit", 1, *TINY, "--output", folder, status=2)
    assert "--overwrite" in result.stderr
    result = run("train_rnn.py", "digits", "--digit", 2, *TINY, "--units", 12, "--output", folder, status=2)
    assert "units 16, not 12" in result.stderr
    assert (folder / "model_1.keras").read_bytes() == before
    run("train_rnn.py", "digits", "--digit", 1, *TINY, "--output", folder, "--overwrite")


@pytest.mark.parametrize(
    "flags",
    [
        ("--cell", "lstm"),
        ("--layers", 2),
        ("--dropout", 0.5),
        ("--context", "previous"),
        ("--shift", 1),
        ("--levels", 2),
    ],
)
def test_each_option_of_the_recipe_changes_the_training(tiny, tmp_path, flags):
    run("train_rnn.py", *ONE, *flags, "--output", tmp_path / "other")
    losses = meta_of(tmp_path / "other")["classes"]["3"]["loss"]
    assert losses != meta_of(tiny)["classes"]["3"]["loss"] and losses[1] < losses[0]


def test_without_output_a_new_training_takes_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("conftest.ROOT", tmp_path)
    few = ("--units", 4, "--epochs", 1, "--num-images", 8)
    for expected, flags in (("digits", few), ("digits-2", few), ("digits-3", (*few, "--levels", 3))):
        assert f"models: trained/{expected}\n" in run("train_rnn.py", "digits", "--digit", 1, *flags).stdout
    assert "models: trained/digits\n" in run("train_rnn.py", "digits", "--digit", 2, *few).stdout
    assert set(meta_of(tmp_path / "trained" / "digits")["classes"]) == {"1", "2"}
    run("train_rnn.py", "digits", "--digit", 3, *few, "--resume", status=2)


def test_data_from_files_is_trained_on_like_the_bundled(digits, tiny, tmp_path):
    write_idx_folder(tmp_path / "idx", *digits)
    np.savez(tmp_path / "set.npz", **dict(zip(("x_train", "y_train", "x_test", "y_test"), digits, strict=True)))
    for data in ("idx", "set.npz"):
        run("train_rnn.py", *ONE, "--preset", "digits", "--data", tmp_path / data, "--output", tmp_path / f"m_{data}")
        assert meta_of(tmp_path / f"m_{data}")["classes"]["3"] == meta_of(tiny)["classes"]["3"]


# --- Bad input ---


def damage_nothing_like_it(folder):
    return folder / "absent", "does not exist"


def damage_npz(folder):
    np.savez(folder / "few.npz", x_train=np.zeros((2, 4, 4), "uint8"))
    return folder / "few.npz", "lacks an array"


def damage_npz_text(folder):
    (folder / "text.npz").write_text("not a zip")
    return folder / "text.npz", "not a readable .npz"


def damage_truncated(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:2000])
    return folder, "cut short"


def damage_swapped(folder):
    (folder / "train-images-idx3-ubyte.gz").write_bytes((folder / "train-labels-idx1-ubyte.gz").read_bytes())
    return folder, "magic number"


def damage_sizes(folder):
    (folder / "train-images-idx3-ubyte.gz").unlink()
    header = bytes([0, 0, 8, 3, *b"\0\0\0\x0a", *b"\0\0\0\x08", *b"\0\0\0\x08"])
    (folder / "train-images-idx3-ubyte").write_bytes(header + bytes(100))
    return folder, "should be 656 bytes"


def damage_lengths(folder):
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.zeros(7, "uint8"))
    return folder, "but 7 labels"


def damage_class(folder):
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.zeros(1437, "uint8"))
    return folder, "no training pictures of class 3"


def damage_missing(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    return folder, "lacks t10k-labels"


@pytest.mark.parametrize("damage", [value for name, value in sorted(globals().items()) if name.startswith("damage_")])
def test_bad_data_is_one_line_and_leaves_nothing(digits, tmp_path, damage):
    data, complaint = damage(write_idx_folder(tmp_path / "data", *digits))
    result = run("train_rnn.py", *ONE, "--data", data, "--output", tmp_path / "out", status=2)
    assert complaint in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ("--epochs", 0),
        ("--levels", 1),
        ("--dropout", 1),
        ("--validation-split", -0.1),
        ("--patience", 1),
        ("--resume",),
    ],
)
def test_numbers_that_make_no_sense_are_refused(tmp_path, flags):
    run("train_rnn.py", *ONE, *flags, "--output", tmp_path / "out", status=2)
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_is_named(tmp_path):
    run("train_rnn.py", *ONE, "--output", tmp_path / "m")
    meta = meta_of(tmp_path / "m")
    meta["classes"]["3"] = {}
    (tmp_path / "m" / "meta.json").write_text(json.dumps(meta))
    (tmp_path / "m" / "checkpoint_3.npz").write_bytes(b"PK half a file")
    result = run("train_rnn.py", *ONE, "--output", tmp_path / "m", "--resume", status=2)
    assert "checkpoint_3.npz is damaged" in result.stderr


def test_a_full_disk_is_one_line_and_no_half_file(tmp_path):
    limit = 12_000  # bytes a file: less than a model, more than meta.json
    set_limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # noqa: E731
    result = run_process("train_rnn.py", *ONE, "--output", tmp_path / "m", status=2, preexec_fn=set_limit)
    assert "file too large" in result.stderr
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"meta.json"}
    run("train_rnn.py", *ONE, "--output", tmp_path / "m", "--resume")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = run("train_rnn.py", *ONE, "--output", tmp_path / "file" / "m", status=2)
    assert "not a directory" in result.stderr


def test_mnist_that_is_neither_cached_nor_reachable_is_one_line(tmp_path):
    hidden = environment(KERAS_HOME=tmp_path, https_proxy="http://127.0.0.1:9", HTTPS_PROXY="http://127.0.0.1:9")
    result = run_process("train_rnn.py", "mnist", "--digit", 0, "--output", tmp_path / "m", status=2, env=hidden)
    assert "--data" in result.stderr and result.stdout == ""
