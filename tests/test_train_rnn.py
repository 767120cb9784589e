"""train_rnn.py through the real command line: what it writes, resuming, and bad input."""

import functools
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, TINY, TINY_PAINTER, environment, results, run, run_process, write_idx, write_idx_folder
from PIL import Image

import digit_training
import model_files
import model_meta
import painter_training
import trainings
from config import PRESETS, PainterRecipe
from train_rnn import learning_rate

ONE = ("digits", "--digit", 3, *TINY)


def meta_of(folder):
    return json.loads((folder / "meta.json").read_text())


def forget_the_end(folder, label):
    """Leave a finished class as a kill after its last checkpoint does."""
    meta = meta_of(folder)
    meta["classes"][str(label)] = {}
    (folder / "meta.json").write_text(json.dumps(meta))


def test_a_training_leaves_models_a_record_and_a_curve(tiny):
    names = {path.name for path in tiny.iterdir()}
    each = {name for digit in range(10) for name in (f"model_{digit}.keras", f"checkpoint_{digit}.npz")}
    assert names == {"meta.json", "loss.png", *each}
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The arguments of a longer training, and its folder."""
    arguments = ["digits", "--digit", "3", *map(str, TINY), "--epochs", "60", "--dropout", "0.2"]
    folder = tmp_path_factory.mktemp("whole") / "m"
    run("train_rnn.py", *arguments, "--output", folder)
    return arguments, folder


@pytest.mark.parametrize(("signal_sent", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_training_that_was_stopped_goes_on_exactly(whole, tmp_path, signal_sent, status):
    arguments, unbroken = whole
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
    assert meta_of(folder)["classes"] == meta_of(unbroken)["classes"]


def test_validation_and_early_stopping_keep_the_best_epoch(tmp_path):
    folder = tmp_path / "early"
    flags = ("--validation-split", 0.5, "--patience", 2, "--epochs", 200, "--learning-rate", 0.03)
    run("train_rnn.py", *ONE, *flags, "--schedule", "constant", "--output", folder)
    entry = meta_of(folder)["classes"]["3"]
    assert entry["epochs"] < 200 and entry["trained_on"] == 40
    assert len(entry["validation_loss"]) == entry["epochs"] == int(np.argmin(entry["validation_loss"])) + 3
    assert -entry["validation_log_likelihood"] == pytest.approx(min(entry["validation_loss"]), abs=1e-3)
    again = run("train_rnn.py", *ONE, *flags, "--schedule", "constant", "--epochs", 300, "--output", folder, "--resume")
    assert f"finished (epochs: {entry['epochs']}, stopped by --patience 2)\n" in again.stderr
    assert meta_of(folder)["classes"]["3"] == entry


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
    trained, few = tmp_path / "trained", ("--units", 4, "--epochs", 1, "--num-images", 8)
    command = ("train_rnn.py", "digits", "--digit", 1, *few)
    assert "models: trained/digits\n" in run(*command).stdout
    finished = "trained/digits holds this training, finished (epochs: 1)"
    for flags in ((), ("--epochs", 2)):
        assert finished in run(*command, *flags, status=2).stderr
    (trained / "digits" / "checkpoint_1.npz").unlink()  # as none ships
    result = run(*command)
    assert "models: trained/digits-2\n" in result.stdout
    assert finished in result.stderr and "this one goes into trained/digits-2" in result.stderr
    result = run(*command, "--levels", 3)
    assert "models: trained/digits-3\n" in result.stdout and "holds" not in result.stderr

    forget_the_end(trained / "digits-2", 1)
    for expected in ("digits-2", "digits"):  # what is not finished goes on first
        assert f"models: trained/{expected}\n" in run(*command, "--resume").stdout
    assert "models: trained/digits-2\n" in run(*command, "--epochs", 3, "--resume").stdout
    fewer = run(*command, "--epochs", 2, "--resume", status=2)
    assert "trained/digits-2 has come to epoch 3" in fewer.stderr
    assert "models: trained/digits\n" in run("train_rnn.py", "digits", "--digit", 2, *few).stdout
    assert set(meta_of(trained / "digits")["classes"]) == {"1", "2"}
    run("train_rnn.py", "digits", "--digit", 3, *few, "--resume", status=2)


def test_data_from_files_is_trained_on_like_the_bundled(digits, tiny, tmp_path):
    write_idx_folder(tmp_path / "idx", *digits)
    np.savez(tmp_path / "set.npz", **dict(zip(("x_train", "y_train", "x_test", "y_test"), digits, strict=True)))
    for data in ("idx", "set.npz"):
        run("train_rnn.py", *ONE, "--preset", "digits", "--data", tmp_path / data, "--output", tmp_path / f"m_{data}")
        assert meta_of(tmp_path / f"m_{data}")["classes"]["3"] == meta_of(tiny)["classes"]["3"]


# --- Painters ---


def losses_of(folder):
    lines = (folder / "loss.csv").read_text().splitlines()
    return lines[0].split(","), np.array([line.split(",") for line in lines[1:]], float)


def test_a_painter_leaves_a_model_its_palette_samples_and_its_losses(painter):
    names = {str(path.relative_to(painter)) for path in painter.rglob("*") if path.is_file()}
    samples = {f"samples/epoch_{epoch:04}.png" for epoch in (1, 2, 4)}
    written = {"meta.json", "preview.png", "starts.png", "loss.csv", "loss.png", "model.keras", "model_last.keras"}
    assert names == samples | written | {"checkpoint_b.npz"}
    meta = model_meta.load_meta(painter)
    assert meta["palette"].shape == (24, 3) and meta["pictures"] == 9 and meta["finished"]
    header, rows = losses_of(painter)
    assert header == ["epoch", "loss_nats", "loss_bits", "validation_nats", "validation_bits"]
    np.testing.assert_allclose(rows[:, 2], rows[:, 1] / np.log(2), atol=2e-6)
    assert rows[0, 1] < np.log(24) * 1.02 and rows[-1, 1] < rows[0, 1] and rows[-1, 3] < rows[0, 3]
    assert "train_rnn.py" in Image.open(painter / "samples" / "epoch_0004.png").text["command"]


def test_a_training_says_what_its_palette_costs(pictures, tmp_path):
    few = (*TINY_PAINTER, "--epochs", 1, "--units", 4)
    result = run("train_rnn.py", pictures, *few, "--colors", 4, "--output", tmp_path / "few")
    told = results(result.stdout)["palette"]
    assert told.startswith("4 colours") and 8 < float(told.split()[-1]) < 25


@pytest.fixture(scope="module")
def unbroken(pictures, tmp_path_factory):
    """The arguments of a longer training, and its folder."""
    arguments = [str(pictures), *map(str, TINY_PAINTER), "--epochs", "20", "--batch-size", "4", "--sample-every", "20"]
    folder = tmp_path_factory.mktemp("unbroken") / "m"
    run("train_rnn.py", *arguments, "--output", folder)
    return arguments, folder


def test_a_painter_that_was_killed_goes_on_exactly(unbroken, tmp_path):
    arguments, whole = unbroken
    folder = tmp_path / "stopped"
    command = [sys.executable, str(ROOT / "train_rnn.py"), *arguments, "--output", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for((folder / "checkpoint_b.npz").exists)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert "unfinished" in run("train_rnn.py", *arguments, "--output", folder, status=2).stderr
    run("train_rnn.py", *arguments, "--output", folder, "--resume")
    np.testing.assert_allclose(losses_of(folder)[1], losses_of(whole)[1], rtol=1e-6)


def interrupt_after(monkeypatch, steps):
    """Have the training find Ctrl-C pressed after so many steps."""
    import train_rnn

    class Pressed:
        def __init__(self):
            self.asked = 0

        def is_set(self):
            self.asked += 1
            return self.asked > steps

    @train_rnn.contextlib.contextmanager
    def pressed():
        yield Pressed()

    monkeypatch.setattr(trainings, "heeded_interrupt", pressed)


def test_an_interrupt_within_an_epoch_loses_no_step(pictures, painter, tmp_path, monkeypatch):
    arguments = (pictures, *TINY_PAINTER, "--output", tmp_path / "m")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 17)
        assert "--resume" in run("train_rnn.py", *arguments, status=130).stderr
    checkpoint = max(np.load(path)["step"] for path in (tmp_path / "m").glob("checkpoint_*.npz"))
    assert checkpoint > 0
    run("train_rnn.py", *arguments, "--resume")
    np.testing.assert_allclose(losses_of(tmp_path / "m")[1], losses_of(painter)[1], rtol=1e-6)


def test_a_checkpoint_cut_short_gives_way_to_the_one_before(pictures, painter, tmp_path, monkeypatch):
    arguments = (pictures, *TINY_PAINTER, "--output", tmp_path / "m")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 40)
        run("train_rnn.py", *arguments, status=130)
    later = max((tmp_path / "m").glob("checkpoint_*.npz"), key=lambda path: path.stat().st_mtime_ns)
    later.write_bytes(later.read_bytes()[:-500])
    result = run("train_rnn.py", *arguments, "--resume")
    assert f"{later} is damaged; going on from epoch" in result.stderr
    np.testing.assert_allclose(losses_of(tmp_path / "m")[1], losses_of(painter)[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--width", 15), "width 16, not 15"),
        (("--colors", 23), "colors 24, not 23"),
        (("--cell", "gru"), "cell lstm, not gru"),
        (("--num-images", 4), "num_images None, not 4"),
    ],
)
def test_another_training_is_not_resumed(pictures, painter, flags, complaint):
    result = run("train_rnn.py", pictures, *TINY_PAINTER, *flags, "--output", painter, "--resume", status=2)
    assert complaint in result.stderr


@pytest.mark.parametrize(
    ("flags", "draws"),
    [
        (("--targets", "last", "--stride", 5), True),
        (("--context", "previous"), True),
        (("--context", "above"), True),
        (("--cell", "gru"), True),
        (("--gray", 16), True),
        (("--optimizer", "rmsprop"), False),
        (("--clip", 0.01), False),
        (("--schedule", "late"), False),
        (("--precision", "mixed_bfloat16"), True),
    ],
)
def test_each_option_of_a_painter_changes_the_training(pictures, painter, tmp_path, flags, draws):
    run("train_rnn.py", pictures, *TINY_PAINTER, "--epochs", 3, *flags, "--output", tmp_path / "m")
    losses, usual = losses_of(tmp_path / "m")[1], losses_of(painter)[1]
    assert losses[-1, 1] < losses[0, 1] and (losses[:3, 1] != usual[:3, 1]).any()
    if draws:  # another network, and not only another way to it
        run("generate_rnn.py", tmp_path / "m", "--count", 2, "--output", tmp_path / "drawn.png")


def test_a_painters_validation_folder_and_patience(pictures, tmp_path):
    held_out = tmp_path / "held_out"
    held_out.mkdir()
    for name in ("tile_02.png", "tile_08.png"):
        (held_out / name).write_bytes((pictures / name).read_bytes())
    flags = ("--validation", held_out, "--validation-split", 0, "--patience", 1, "--epochs", 50)
    run("train_rnn.py", pictures, *TINY_PAINTER, *flags, "--learning-rate", 0.1, "--output", tmp_path / "m")
    validation = losses_of(tmp_path / "m")[1][:, 3]
    assert len(validation) < 50 and np.argmin(validation) == len(validation) - 2
    best = model_files.load_painter(tmp_path / "m", model_meta.load_meta(tmp_path / "m")).get_weights()
    last = model_files.load_keras_model(tmp_path / "m" / "model_last.keras").get_weights()
    assert any((a != b).any() for a, b in zip(best, last))
    longer = (*flags, "--learning-rate", 0.1, "--epochs", 60, "--output", tmp_path / "m", "--resume")
    result = run("train_rnn.py", pictures, *TINY_PAINTER, *longer)
    assert f"finished (epochs: {len(validation)}, stopped by --patience 1)\n" in result.stderr
    assert len(losses_of(tmp_path / "m")[1]) == len(validation)


def test_the_presets_are_the_published_painters():
    monet, sumi = PRESETS["monet"], PRESETS["sumi-e"]
    assert (monet.width, monet.height, monet.colors, monet.window, monet.stride) == (75, 75, 1000, None, 3)
    assert (sumi.width, sumi.height, sumi.gray, sumi.window, sumi.stride, sumi.batch_size) == (
        60,
        90,
        256,
        None,
        1,
        450,
    )
    for preset in (monet, sumi):
        assert (preset.cell, preset.layers, preset.units, preset.optimizer) == ("lstm", 2, 512, "rmsprop")
    assert monet.dropout == 0.2


def test_learning_rates_fall_as_their_schedules_say():
    late = PainterRecipe(schedule="late", learning_rate=1.0)
    assert [learning_rate(late, step, 9) for step in (0, 5, 6, 8)] == [1, 1, 0.1, 0.1]
    plateau = PainterRecipe(schedule="plateau", learning_rate=1.0)
    rates = [learning_rate(plateau, 0, 9, losses) for losses in ([], [3, 2, 2, 2], [3, 2, 2, 2, 2], [3, 2, *[2] * 6])]
    assert rates == [1, 1, 0.5, 0.25]


# --- At the end, and beyond ---


@pytest.fixture(params=["digits", "painter"])
def done(request, tmp_path):
    """A finished training that a test may change: its arguments, and a copy of its folder."""
    if request.param == "digits":
        arguments, folder = ("digits", "--all-digits", *TINY), request.getfixturevalue("tiny")
    else:
        arguments, folder = (request.getfixturevalue("pictures"), *TINY_PAINTER), request.getfixturevalue("painter")
    return arguments, pathlib.Path(shutil.copytree(folder, tmp_path / "it's done"))


def epochs_of(folder):
    """Return how many epochs lie behind a training, as its checkpoints say."""
    return max(len(np.load(path)["losses"]) for path in folder.glob("checkpoint_*.npz"))


def curves_of(folder):
    """Return the losses of a training's epochs, as it has written them."""
    meta = meta_of(folder)
    if "classes" not in meta:
        return losses_of(folder)[1].tolist()
    return [losses for entry in meta["classes"].values() for losses in zip(entry["loss"])]


def weights_of(folder):
    paths = sorted(folder.glob("model*.keras"))
    return [weight for path in paths for weight in model_files.load_keras_model(path).get_weights()]


def assert_same_training(one, other):
    np.testing.assert_allclose(curves_of(one), curves_of(other), rtol=1e-6)
    for a, b in zip(weights_of(one), weights_of(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["whole", "unbroken"])
def test_a_finished_training_goes_on_and_a_kill_changes_nothing(kind, request, tmp_path):
    arguments, folder = request.getfixturevalue(kind)
    epochs = epochs_of(folder)
    once, killed = (pathlib.Path(shutil.copytree(folder, tmp_path / name)) for name in ("once", "killed"))
    more = epochs * 3 // 2
    longer = [*arguments, "--epochs", str(more)]
    run("train_rnn.py", *longer, "--output", once, "--resume")
    assert len(curves_of(once)) == more and curves_of(once)[:epochs] == curves_of(folder)
    if kind == "unbroken":
        samples = {path.name for path in (once / "samples").iterdir()}
        assert samples == {f"epoch_{epoch:04}.png" for epoch in (1, epochs, more)}

    command = [sys.executable, str(ROOT / "train_rnn.py"), *longer, "--output", str(killed), "--resume"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    wait_for(lambda: epochs_of(killed) > epochs + 2)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL and epochs_of(killed) < more
    assert "unfinished" in run("train_rnn.py", *longer, "--output", killed, status=2).stderr
    assert "has come to epoch" in run("train_rnn.py", *arguments, "--output", killed, "--resume", status=2).stderr
    assert "since it went on" in run("train_rnn.py", *longer, "--output", killed, "--resume").stdout
    assert_same_training(once, killed)


@pytest.mark.parametrize("kind", ["digits", "painter"])
def test_without_a_schedule_more_epochs_are_those_of_a_longer_training(kind, pictures, tmp_path):
    arguments = (*(ONE if kind == "digits" else (pictures, *TINY_PAINTER)), "--schedule", "constant")
    for folder, epochs in (("once", 4), ("twice", 2), ("twice", 4)):
        resume = ("--resume",) if (tmp_path / folder).exists() else ()
        run("train_rnn.py", *arguments, "--epochs", epochs, "--output", tmp_path / folder, *resume)
    assert_same_training(tmp_path / "once", tmp_path / "twice")


def test_an_unfinished_training_may_be_made_longer_or_shorter(pictures, tmp_path, monkeypatch):
    arguments = ("train_rnn.py", pictures, *TINY_PAINTER, "--output", tmp_path / "m")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 17)
        run(*arguments, status=130)
    epochs = epochs_of(tmp_path / "m") + 1  # one is under way
    shorter = run(*arguments, "--epochs", epochs - 1, "--resume", status=2).stderr
    assert f"has come to epoch {epochs}, and --epochs {epochs - 1} is fewer" in shorter
    for more in (0, 6):
        run(*arguments, "--epochs", epochs + more, "--resume")
        assert len(losses_of(tmp_path / "m")[1]) == epochs + more

    few = ("train_rnn.py", *ONE, "--output", tmp_path / "digits")
    run(*few)
    forget_the_end(tmp_path / "digits", 3)
    run(*few, "--epochs", 8, "--resume")
    assert meta_of(tmp_path / "digits")["classes"]["3"]["epochs"] == 8


def test_a_finished_training_says_so_and_how_to_go_on(done):
    arguments, folder = done
    before = weights_of(folder)
    epochs = epochs_of(folder)
    line = f"{folder} holds this training, finished (epochs: {epochs}); more --epochs with --resume train it longer"
    result = run("train_rnn.py", *arguments, "--output", folder, "--resume")
    assert f"note: {line}\n" in result.stderr and "draw" in results(result.stdout)
    assert "note" not in run("train_rnn.py", *arguments, "--output", folder, "--resume", "--quiet").stderr
    for flags in ((), ("--epochs", epochs + 1)):
        result = run("train_rnn.py", *arguments, *flags, "--output", folder, status=2)
        assert f"error: {line}; --overwrite starts it anew\n" in result.stderr
    fewer = (*arguments, "--epochs", epochs - 1, "--output", folder)
    assert f"has come to epoch {epochs}" in run("train_rnn.py", *fewer, "--resume", status=2).stderr
    assert f"another training (epochs {epochs}, not" in run("train_rnn.py", *fewer, status=2).stderr
    other = (*arguments, "--epochs", epochs + 1, "--units", 9, "--output", folder, "--resume")
    assert "another training (units " in run("train_rnn.py", *other, status=2).stderr
    for a, b in zip(weights_of(folder), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_its_checkpoint_a_finished_training_stays_as_it_is(done):
    arguments, folder = done
    for path in folder.glob("checkpoint_*.npz"):
        path.unlink()
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    assert "can't go on" in run("train_rnn.py", *arguments, "--output", folder, "--resume").stderr
    longer = (*arguments, "--epochs", 99, "--output", folder, "--resume")
    assert "its checkpoint was not kept" in run("train_rnn.py", *longer, status=2).stderr
    assert before == {path: path.read_bytes() for path in folder.rglob("*.*")}


def test_a_training_ends_with_its_losses_its_duration_and_the_command_that_draws(done, tmp_path):
    arguments, folder = done
    more = epochs_of(folder) + 1
    printed = results(run("train_rnn.py", *arguments, "--epochs", more, "--output", folder, "--resume").stdout)
    assert printed["epochs"] == str(more) and printed["duration"].endswith(" s since it went on")
    if "classes" in meta_of(folder):
        nats = -np.mean([entry["train_log_likelihood"] for entry in meta_of(folder)["classes"].values()])
        assert printed["loss"] == f"{nats:.3f} nats a picture, the mean of 10 classes"
    else:
        _, loss, bits, *scores = losses_of(folder)[1].T
        assert printed["loss"] == f"{loss[-1]:.3f} nats a pixel ({bits[-1]:.3f} bits)"
        assert printed["validation_loss"].startswith(f"{scores[0].min():.3f} nats a pixel ({scores[1].min():.3f} bits)")
        assert printed["validation_loss"].endswith(f"after epoch {scores[0].argmin() + 1}")
    assert list(printed)[-2:] == ["draw", "longer"] and "'" in printed["draw"]
    command = f"{printed['draw']} --output {tmp_path / 'drawn.png'}"
    subprocess.run(command, shell=True, cwd=ROOT, check=True, capture_output=True)
    assert Image.open(tmp_path / "drawn.png").width > 50


KILLED_WRITE = """
import os, sys, disk
for path in sys.argv[1:]:
    if not os.fork():
        with disk.whole_file(path) as temporary:
            open(temporary, "w").write("half of it")
            os.kill(os.getpid(), 9)
    os.wait()
"""


def test_what_a_killed_write_has_left_is_gone_at_the_end(done):

    arguments, folder = done
    painter = "classes" not in meta_of(folder)
    names = painter_training.FILES_OF_A_PAINTER if painter else digit_training.FILES_OF_DIGITS
    paths = [folder / name.replace("*", "3").replace("[ab]", "a") for name in names]
    subprocess.run([sys.executable, "-c", KILLED_WRITE, *map(str, paths)], cwd=ROOT, check=True)
    (folder / ".mine").touch()
    left = [path for path in folder.rglob(".*") if path.name != ".mine"]
    assert len(left) == len(names) > 3
    another_process = left.pop()
    os.utime(another_process, (time.time() + 1000,) * 2)  # is writing it right now
    run("train_rnn.py", *arguments, "--output", folder, "--resume")
    assert set(folder.rglob(".*")) == {folder / ".mine", another_process}


# --- Bad input ---


def test_unusable_pictures_are_named_once_and_the_rest_is_used(pictures, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(pictures, folder)
    good = Image.open(folder / "tile_00.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more than this")
    (folder / "cut.png").write_bytes((folder / "tile_00.png").read_bytes()[:3000])
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("not a picture, and not meant to be one")
    good.resize((1, 1)).save(folder / "one.png")
    write_bomb(folder / "bomb.png")
    good.convert("CMYK").save(folder / "cmyk.jpg")
    good.convert("P").save(folder / "palette.gif", save_all=True, append_images=[good.rotate(90)])
    good.convert("RGBA").save(folder / "transparent.webp")
    Image.fromarray(np.asarray(good.convert("L")).astype("uint16") * 257).save(folder / "sixteen.png")
    rotated = Image.Exif()
    rotated[0x0112] = 6
    good.save(folder / "turned.jpg", exif=rotated)
    flags = (*TINY_PAINTER, "--epochs", 1, "--units", 4, "--validation-split", 0)
    result = run("train_rnn.py", folder, *flags, "--output", tmp_path / "m", status=1)
    for name in ("broken.jpg", "cut.png", "empty.png", "one.png", "bomb.png"):
        assert result.stderr.count(name) == 1
    assert result.stderr.count("left out") == 5 and "notes.txt" not in result.stderr
    assert model_meta.load_meta(tmp_path / "m")["pictures"] == 12 + 5


def write_bomb(path):
    """Write a PNG of 50,000 x 50,000 pixels in a few bytes."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--window", 193), "--window must be from 1 to 192"),
        (("--colors", 1), "--colors must be from 2 to 4096"),
        (("--colors", 5000), "--colors must be from 2 to 4096"),
        (("--clip", 0), "--clip must be above 0"),
        (("--validation-split", 0.99), "would hold out"),
        (("--validation", "nowhere", "--validation-split", 0), "nowhere holds no picture"),
        (("--preset", "best"), "the preset best is for sets of digits"),
        (("--levels", 7), "--levels is for sets of digits"),
        (("--all-digits",), "--all-digits is for sets of digits"),
        (("--resume",), "no training to resume"),
        (("--digit", 0), "--digit is for sets of digits"),
        (("--validation", ".", "--validation-split", 0), "must not lie in one another"),
    ],
)
def test_flags_that_make_no_sense_for_a_painter_are_refused(pictures, tmp_path, flags, complaint):
    flags = [pictures if flag == "." else flag for flag in flags]
    result = run("train_rnn.py", pictures, *TINY_PAINTER, *flags, "--output", tmp_path / "out", status=2)
    assert complaint in result.stderr and not (tmp_path / "out").exists()


def test_what_is_no_folder_of_pictures_is_one_line(tmp_path):
    assert "holds no picture" in run("train_rnn.py", tmp_path, "--output", tmp_path / "m", status=2).stderr
    (tmp_path / "bad.png").write_text("no")
    assert "bad.png is not a picture" in run("train_rnn.py", tmp_path, "--output", tmp_path / "m", status=2).stderr
    assert "no folder of pictures nowhere" in run("train_rnn.py", "nowhere", status=2).stderr
    assert "--colors is for folders" in run("train_rnn.py", *ONE, "--colors", 5, status=2).stderr
    assert not (tmp_path / "m").exists()


def test_fewer_colours_than_asked_for_are_enough(tmp_path):
    folder = tmp_path / "flags"
    folder.mkdir()
    Image.new("RGB", (20, 20), "red").save(folder / "red.png")
    Image.new("RGB", (20, 20), "blue").save(folder / "blue.png")
    flags = (*TINY_PAINTER, "--epochs", 1, "--colors", 4000, "--validation-split", 0)
    result = run("train_rnn.py", folder, *flags, "--output", tmp_path / "m")
    assert "only 2 different colours of 4000" in result.stderr
    assert results(result.stdout)["palette"] == "2 colours, mean Delta E 0.00"


def test_one_colour_is_nothing_to_learn_from(tmp_path):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    assert "one colour" in run("train_rnn.py", tmp_path, "--output", tmp_path / "m", status=2).stderr


def test_nothing_is_overwritten_unasked_nor_an_unfinished_training_forgotten(pictures, painter, tmp_path, monkeypatch):
    few = (*TINY_PAINTER, "--epochs", 1, "--units", 4)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "loss.csv").write_text("mine")
    assert "in the way" in run("train_rnn.py", pictures, *few, "--output", tmp_path / "mine", status=2).stderr
    assert "another training" in run("train_rnn.py", pictures, *few, "--output", painter, status=2).stderr
    monkeypatch.setattr("conftest.ROOT", tmp_path)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        assert "trained/china is kept" in run("train_rnn.py", pictures, *few, status=130).stderr
    assert "--resume goes on" in run("train_rnn.py", pictures, *few, status=2).stderr
    assert "folder: trained/china-2" in run("train_rnn.py", pictures, *few, "--seed", 1).stdout
    assert "folder: trained/china\n" in run("train_rnn.py", pictures, *few, "--resume").stdout


def test_a_full_disk_stops_a_painter_in_one_line_and_it_can_go_on(pictures, tmp_path):
    limit = 30_000  # bytes a file: less than a checkpoint, more than the sample sheets
    set_limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # noqa: E731
    arguments = ("train_rnn.py", pictures, *TINY_PAINTER, "--output", tmp_path / "m")
    result = run_process(*arguments, status=2, preexec_fn=set_limit)
    assert "file too large" in result.stderr
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"meta.json", "preview.png", "starts.png"}
    run(*arguments, "--resume")


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
    forget_the_end(tmp_path / "m", 3)
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
