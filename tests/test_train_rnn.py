"""train_rnn.py: wrong flags and damaged data."""

import numpy as np
import pytest
from conftest import ONE_DIGIT, TINY_PAINTER, environment, run, run_process, write_idx, write_idx_folder


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--window", 193), "--window must be from 1 to 192"),
        (("--colors", 1), "--colors must be from 2 to 4096"),
        (("--colors", 5000), "--colors must be from 2 to 4096"),
        (("--clip", 0), "--clip must be above 0"),
        (("--validation-split", 0.99), "would hold out"),
        (("--validation", "nowhere", "--validation-split", 0), "there is no folder of pictures nowhere"),
        (("--preset", "best"), "the preset best is for sets of digits"),
        (("--levels", 7), "--levels is for sets of digits"),
        (("--all-digits",), "--all-digits is for sets of digits"),
        (("--resume",), "no training to resume"),
        (("--context", "wide"), "--context wide is for sets of digits"),
        (("--digit", 0), "--digit is for sets of digits"),
        (("--validation", ".", "--validation-split", 0), "must not contain one another"),
    ],
)
def test_wrong_flags_for_a_painter_are_refused(pictures, tmp_path, flags, complaint):
    flags = [pictures if flag == "." else flag for flag in flags]
    result = run("train_rnn.py", pictures, *TINY_PAINTER, *flags, "--output", tmp_path / "out", status=2)
    assert complaint in result.stderr and not (tmp_path / "out").exists()


def test_a_source_without_pictures_is_reported_in_one_line(tmp_path):
    assert "holds no picture" in run("train_rnn.py", tmp_path, "--output", tmp_path / "m", status=2).stderr
    (tmp_path / "bad.png").write_text("no")
    assert "bad.png is not a picture" in run("train_rnn.py", tmp_path, "--output", tmp_path / "m", status=2).stderr
    assert "no folder of pictures nowhere" in run("train_rnn.py", "nowhere", status=2).stderr
    assert "--colors is for folders" in run("train_rnn.py", *ONE_DIGIT, "--colors", 5, status=2).stderr
    assert not (tmp_path / "m").exists()


def damage_by_missing_folder(folder):
    return folder / "absent", "does not exist"


def damage_by_missing_arrays(folder):
    np.savez(folder / "few.npz", x_train=np.zeros((2, 4, 4), "uint8"))
    return folder / "few.npz", "lacks an array"


def damage_by_text_as_npz(folder):
    (folder / "text.npz").write_text("not a zip")
    return folder / "text.npz", "not a readable .npz"


def damage_by_truncating_pictures(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:2000])
    return folder, "cut short"


def damage_by_labels_as_pictures(folder):
    (folder / "train-images-idx3-ubyte.gz").write_bytes((folder / "train-labels-idx1-ubyte.gz").read_bytes())
    return folder, "magic number"


def damage_by_wrong_size(folder):
    (folder / "train-images-idx3-ubyte.gz").unlink()
    header = bytes([0, 0, 8, 3, *b"\0\0\0\x0a", *b"\0\0\0\x08", *b"\0\0\0\x08"])
    (folder / "train-images-idx3-ubyte").write_bytes(header + bytes(100))
    return folder, "should be 656 bytes"


def damage_by_wrong_number_of_labels(folder):
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.zeros(7, "uint8"))
    return folder, "but 7 labels"


def damage_by_missing_class(folder):
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.zeros(1437, "uint8"))
    return folder, "no training pictures of class 3"


def damage_by_removing_labels(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    return folder, "lacks t10k-labels"


@pytest.mark.parametrize("damage", [value for name, value in sorted(globals().items()) if name.startswith("damage_")])
def test_damaged_data_are_reported_in_one_line_and_nothing_is_written(digits, tmp_path, damage):
    data, complaint = damage(write_idx_folder(tmp_path / "data", *digits))
    result = run("train_rnn.py", *ONE_DIGIT, "--data", data, "--output", tmp_path / "out", status=2)
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
def test_numbers_out_of_range_are_refused(tmp_path, flags):
    run("train_rnn.py", *ONE_DIGIT, *flags, "--output", tmp_path / "out", status=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--block", 3), "--size must be a multiple of --block, 3"),
        (("--block", 2), "a block of 2x2 pixels of 7 levels has 2401 symbols, and at most 256 are possible"),
        (("--sampled",), "it needs --levels 2"),
        (("--together",), "it needs --all-digits, not --digit"),
        (("--context", "place"), "for folders of pictures"),
    ],
)
def test_options_of_digits_that_contradict_one_another_are_refused(tmp_path, flags, complaint):
    result = run("train_rnn.py", *ONE_DIGIT, *flags, "--output", tmp_path / "out", status=2)
    assert complaint in result.stderr and not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_reported_in_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = run("train_rnn.py", *ONE_DIGIT, "--output", tmp_path / "file" / "m", status=2)
    assert "not a directory" in result.stderr


def test_mnist_that_is_neither_cached_nor_reachable_is_reported_in_one_line(tmp_path):
    offline = environment(KERAS_HOME=tmp_path, https_proxy="http://127.0.0.1:9", HTTPS_PROXY="http://127.0.0.1:9")
    result = run_process("train_rnn.py", "mnist", "--digit", 0, "--output", tmp_path / "m", status=2, env=offline)
    assert "--data" in result.stderr and result.stdout == ""
