"""trainings.py: the folder of a training, resuming it, its checkpoints and its printed results."""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import (
    ONE_DIGIT,
    ROOT,
    TINY_DIGITS,
    TINY_PAINTER,
    interrupt_after,
    losses_of,
    mark_unfinished,
    meta_of,
    results,
    run,
    wait_for,
)
from PIL import Image

import config
from atelier.errors import InputError
from atelier.networks import keras_files
from atelier.pixel_rnn import digit_training, painter_training
from atelier.trainings import FolderContent, FolderState, find_folder, learning_rate, nothing_to_resume


@pytest.mark.slow
def test_without_output_a_new_training_takes_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("conftest.ROOT", tmp_path)
    trained, few = tmp_path / "trained", ("--units", 4, "--epochs", 1, "--num-images", 8)
    command = ("train_rnn.py", "digits", "--digit", 1, *few)
    assert "models: trained/digits\n" in run(*command).stdout
    finished = "trained/digits holds this training, finished (epochs: 1)"
    for flags in ((), ("--epochs", 2)):
        assert finished in run(*command, *flags, status=2).stderr
    (trained / "digits" / "checkpoint_1.npz").unlink()  # the shipped models have no checkpoint
    result = run(*command)
    assert "models: trained/digits-2\n" in result.stdout
    assert finished in result.stderr and "this one goes into trained/digits-2" in result.stderr
    result = run(*command, "--levels", 3)
    assert "models: trained/digits-3\n" in result.stdout and "holds" not in result.stderr

    mark_unfinished(trained / "digits-2", 1)
    for _ in range(2):  # an unfinished training is resumed first, then one that has its checkpoint
        assert "models: trained/digits-2\n" in run(*command, "--resume").stdout
    assert "models: trained/digits-2\n" in run(*command, "--epochs", 3, "--resume").stdout
    fewer = run(*command, "--epochs", 2, "--resume", status=2)
    assert "trained/digits-2 has reached epoch 3" in fewer.stderr
    assert "models: trained/digits\n" in run("train_rnn.py", "digits", "--digit", 2, *few).stdout
    assert set(meta_of(trained / "digits")["classes"]) == {"1", "2"}
    run("train_rnn.py", "digits", "--digit", 3, *few, "--resume", status=2)


NEW = FolderState(FolderContent.NO_TRAINING)
OTHER, SOMETHING_ELSE, UNFINISHED, FINISHED, NO_CHECKPOINT = (
    FolderState(holds, f"refused: {holds.name}")
    for holds in (
        *(FolderContent.OTHER_TRAINING, FolderContent.SOMETHING_ELSE, FolderContent.UNFINISHED),
        *(FolderContent.FINISHED, FolderContent.FINISHED_WITHOUT_CHECKPOINT),
    )
)
TO_RESUME, DONE = FolderState(FolderContent.UNFINISHED), FolderState(FolderContent.FINISHED)
DONE_BEFORE = FolderState(FolderContent.FINISHED_WITHOUT_CHECKPOINT)  # as those that are included


@pytest.mark.parametrize(
    ("resume", "states", "expected"),
    [
        (False, [], "trained/x"),
        (False, [OTHER, SOMETHING_ELSE], "trained/x-3"),
        (False, [OTHER, NEW, NEW], "trained/x-2"),
        (False, [NO_CHECKPOINT], "trained/x-2"),
        (False, [OTHER, UNFINISHED], "refused: UNFINISHED"),
        (False, [FINISHED, NEW], "refused: FINISHED"),
        (True, [OTHER, DONE, TO_RESUME], "trained/x-3"),
        (True, [UNFINISHED, DONE, OTHER], "trained/x-2"),
        (True, [DONE_BEFORE, DONE], "trained/x-2"),
        (True, [OTHER, UNFINISHED, SOMETHING_ELSE, OTHER], "refused: SOMETHING_ELSE"),
        (True, [OTHER, OTHER], "refused: OTHER_TRAINING"),
        (True, [], "trained/x holds no training to resume"),
    ],
)
def test_the_folder_is_chosen_by_what_the_folders_hold(resume, states, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    known = {pathlib.Path("trained/x" + f"-{i}" * (i > 1)): state for i, state in enumerate(states, 1)}
    for folder in known:
        folder.mkdir(parents=True)

    class Training:
        def __init__(self, folder):
            self.folder = folder

        def examine(self):
            return known.get(self.folder) or (nothing_to_resume(self.folder) if resume else NEW)

    if expected.startswith("trained/x") and "holds" not in expected:
        training, state = find_folder(Training, config.Train(resume=resume), "x")
        assert training.folder == pathlib.Path(expected) and not state.refusal
    else:
        with pytest.raises(InputError, match=f"^{expected}$"):
            find_folder(Training, config.Train(resume=resume), "x")
    assert ("this one goes into trained/x-2" in capsys.readouterr().err) == (states == [NO_CHECKPOINT])


def test_learning_rates_follow_their_schedules():
    late = config.PainterConfig(schedule="late", learning_rate=1.0)
    assert [learning_rate(late, step, 9) for step in (0, 5, 6, 8)] == [1, 1, 0.1, 0.1]
    plateau = config.PainterConfig(schedule="plateau", learning_rate=1.0)
    rates = [learning_rate(plateau, 0, 9, losses) for losses in ([], [3, 2, 2, 2], [3, 2, 2, 2, 2], [3, 2, *[2] * 6])]
    assert rates == [1, 1, 0.5, 0.25]


@pytest.fixture(params=["digits", "painter"])
def finished_training(request, tmp_path):
    """Return the arguments of a finished training, and a copy of its folder, which a test may change."""
    if request.param == "digits":
        arguments, folder = ("digits", "--all-digits", *TINY_DIGITS), request.getfixturevalue("tiny_models")
    else:
        arguments, folder = (request.getfixturevalue("pictures"), *TINY_PAINTER), request.getfixturevalue("painter")
    return arguments, pathlib.Path(shutil.copytree(folder, tmp_path / "it's done"))


def epochs_of(folder):
    """Return how many epochs a training has done, by its checkpoints."""
    return max(len(np.load(path)["losses"]) for path in folder.glob("checkpoint_*.npz"))


def curves_of(folder):
    """Return the losses of a training's epochs, from the files that it has written."""
    meta = meta_of(folder)
    if "classes" not in meta:
        return losses_of(folder)[1].tolist()
    return [losses for entry in meta["classes"].values() for losses in zip(entry["loss"])]


def weights_of(folder):
    paths = sorted(folder.glob("model*.keras"))
    return [weight for path in paths for weight in keras_files.load_keras_model(path).get_weights()]


def assert_same_training(one, other):
    np.testing.assert_allclose(curves_of(one), curves_of(other), rtol=1e-6)
    for a, b in zip(weights_of(one), weights_of(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["long_training", "long_painter_training"])
def test_a_finished_training_is_trained_longer_and_a_kill_changes_nothing(kind, request, tmp_path):
    arguments, folder = request.getfixturevalue(kind)
    epochs = epochs_of(folder)
    once, killed = (pathlib.Path(shutil.copytree(folder, tmp_path / name)) for name in ("once", "killed"))
    more = epochs * 3 // 2
    longer = [*arguments, "--epochs", str(more)]
    run("train_rnn.py", *longer, "--output", once, "--resume")
    assert len(curves_of(once)) == more and curves_of(once)[:epochs] == curves_of(folder)
    if kind == "long_painter_training":
        samples = {path.name for path in (once / "samples").iterdir()}
        assert samples == {f"epoch_{epoch:04}.png" for epoch in (1, epochs, more)}

    command = [sys.executable, str(ROOT / "train_rnn.py"), *longer, "--output", str(killed), "--resume"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    wait_for(lambda: epochs_of(killed) > epochs + 2)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL and epochs_of(killed) < more
    assert "unfinished" in run("train_rnn.py", *longer, "--output", killed, status=2).stderr
    assert "has reached epoch" in run("train_rnn.py", *arguments, "--output", killed, "--resume", status=2).stderr
    assert "since it was resumed" in run("train_rnn.py", *longer, "--output", killed, "--resume").stdout
    assert_same_training(once, killed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["digits", "painter"])
def test_with_a_constant_rate_a_resumed_training_equals_a_longer_one(kind, pictures, tmp_path):
    arguments = (*(ONE_DIGIT if kind == "digits" else (pictures, *TINY_PAINTER)), "--schedule", "constant")
    for folder, epochs in (("once", 4), ("twice", 2), ("twice", 4)):
        resume = ("--resume",) if (tmp_path / folder).exists() else ()
        run("train_rnn.py", *arguments, "--epochs", epochs, "--output", tmp_path / folder, *resume)
    assert_same_training(tmp_path / "once", tmp_path / "twice")


@pytest.mark.slow
def test_an_unfinished_training_may_be_made_longer_or_shorter(pictures, tmp_path, monkeypatch):
    arguments = ("train_rnn.py", pictures, *TINY_PAINTER, "--output", tmp_path / "m")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 17)
        run(*arguments, status=130)
    epochs = epochs_of(tmp_path / "m") + 1  # the next epoch has begun
    shorter = run(*arguments, "--epochs", epochs - 1, "--resume", status=2).stderr
    assert f"has reached epoch {epochs}; --epochs {epochs - 1} is fewer" in shorter
    for more in (0, 6):
        run(*arguments, "--epochs", epochs + more, "--resume")
        assert len(losses_of(tmp_path / "m")[1]) == epochs + more

    few = ("train_rnn.py", *ONE_DIGIT, "--output", tmp_path / "digits")
    run(*few)
    mark_unfinished(tmp_path / "digits", 3)
    run(*few, "--epochs", 8, "--resume")
    assert meta_of(tmp_path / "digits")["classes"]["3"]["epochs"] == 8


def test_a_finished_training_prints_that_it_is_finished_and_how_to_train_longer(finished_training):
    arguments, folder = finished_training
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
    assert f"has reached epoch {epochs}" in run("train_rnn.py", *fewer, "--resume", status=2).stderr
    assert f"another training (epochs {epochs}, not" in run("train_rnn.py", *fewer, status=2).stderr
    other = (*arguments, "--epochs", epochs + 1, "--units", 9, "--output", folder, "--resume")
    assert "another training (units " in run("train_rnn.py", *other, status=2).stderr
    for a, b in zip(weights_of(folder), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_its_checkpoint_a_finished_training_is_not_changed(finished_training):
    arguments, folder = finished_training
    for path in folder.glob("checkpoint_*.npz"):
        path.unlink()
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    assert "can't go on" in run("train_rnn.py", *arguments, "--output", folder, "--resume").stderr
    longer = (*arguments, "--epochs", 99, "--output", folder, "--resume")
    assert "its checkpoint was not kept" in run("train_rnn.py", *longer, status=2).stderr
    assert before == {path: path.read_bytes() for path in folder.rglob("*.*")}


def test_a_training_prints_its_losses_its_duration_and_the_command_that_draws(finished_training, tmp_path):
    arguments, folder = finished_training
    more = epochs_of(folder) + 1
    printed = results(run("train_rnn.py", *arguments, "--epochs", more, "--output", folder, "--resume").stdout)
    assert printed["epochs"] == str(more) and printed["duration"].endswith(" s since it was resumed")
    if "classes" in meta_of(folder):
        nats = -np.mean([entry["train_log_likelihood"] for entry in meta_of(folder)["classes"].values()])
        assert printed["loss"] == f"{nats:.3f} nats a picture, the mean of 10 classes"
    else:
        _, loss, bits, *scores = losses_of(folder)[1].T
        assert printed["loss"] == f"{loss[-1]:.3f} nats a pixel ({bits[-1]:.3f} bits)"
        assert printed["validation_loss"].startswith(f"{scores[0].min():.3f} nats a pixel ({scores[1].min():.3f} bits)")
        assert printed["validation_loss"].endswith(f"after epoch {scores[0].argmin() + 1}")
    assert list(printed)[-2:] == ["draw", "longer"] and "'" in printed["draw"]
    _, *command = shlex.split(printed["draw"])
    run(*command, "--output", tmp_path / "drawn.png")
    assert Image.open(tmp_path / "drawn.png").width > 50


KILLED_WRITE = """
import os, sys
from atelier import disk
for path in sys.argv[1:]:
    if not os.fork():
        with disk.whole_file(path) as temporary:
            open(temporary, "w").write("half of it")
            os.kill(os.getpid(), 9)
    os.wait()
"""


def test_the_temporary_files_of_a_killed_write_are_removed_at_the_end(finished_training):
    arguments, folder = finished_training
    painter = "classes" not in meta_of(folder)
    names = painter_training.FILES if painter else digit_training.FILES
    paths = [folder / name.replace("*", "3").replace("[ab]", "a") for name in names]
    subprocess.run([sys.executable, "-c", KILLED_WRITE, *map(str, paths)], cwd=ROOT, check=True)
    (folder / ".mine").touch()
    left = [path for path in folder.rglob(".*") if path.name != ".mine"]
    assert len(left) == len(names) > 3
    file_in_use = left.pop()
    os.utime(file_in_use, (time.time() + 1000,) * 2)  # as if another process were writing it now
    run("train_rnn.py", *arguments, "--output", folder, "--resume")
    assert set(folder.rglob(".*")) == {folder / ".mine", file_in_use}
