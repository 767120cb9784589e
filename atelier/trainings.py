"""What all trainings share: the folder they take, their progress and its checkpoints, the learning rate, Ctrl-C."""

import contextlib
import dataclasses
import itertools
import math
import pathlib
import shlex
import shutil
import signal
import sys
import threading
import zipfile
import zlib

import numpy as np

from atelier import disk
from atelier.errors import AnotherTraining, Finished, InputError, SameTraining

# --- The folder --------------------------------------------------------------------------------


def find_folder(begin, options, name):
    """Begin, or resume, a training in --output or else in the first of trained/name, name-2, ... that can take it.

    `begin` takes a folder, returns the training and raises InputError where it can't be begun there. One that is
    finished is returned, for --resume, where no other folder holds one that is not.
    """
    if options.output or options.overwrite:
        folder = pathlib.Path(options.output or f"trained/{name}")
        disk.refuse_tilde(folder)
        return begin(folder)
    finished = refusal = None
    for number in itertools.count(1):
        folder = pathlib.Path(f"trained/{name}" + f"-{number}" * (number > 1))
        try:
            training = begin(folder)
        except SameTraining:
            raise
        except InputError as error:
            if not folder.exists():
                refusal = refusal or error
                break
            if refusal is None or not isinstance(error, AnotherTraining):
                refusal = error
            continue
        if not training.finished:
            if isinstance(refusal, Finished):
                note(f"{refusal}; this one goes into {folder}", options)
            return training
        finished = finished or training
    if finished:
        return finished
    raise refusal


def differences(about, earlier, but_epochs=False):
    """Put into words what an earlier training's meta.json says of its options and data that is not so in this one's."""
    if but_epochs:
        earlier = earlier | {"recipe": earlier["recipe"] | {"epochs": about["recipe"]["epochs"]}}
    changed = [key for key in about if key not in ("versions", "classes") and earlier.get(key) != about[key]]
    return "; ".join(difference(key, earlier.get(key), about[key]) for key in changed)


def difference(key, before, now):
    """Put into words how one entry of meta.json differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        return ", ".join(f"{name} {before.get(name)}, not {now[name]}" for name in now if before.get(name) != now[name])
    return f"{key} {before}, not {now}"


def check_same(folder, about, earlier):
    """Raise InputError where there is nothing to resume, or another training; the epochs may differ."""
    if earlier is None:
        raise InputError(f"{folder} holds no training to resume")
    changes = differences(about, earlier, but_epochs=True)
    if changes:
        raise other_training(folder, changes)


def is_same_or_longer(about, earlier):
    """Say whether a training is the earlier one, or differs only in that it has more epochs."""
    more = about["recipe"]["epochs"] >= earlier["recipe"]["epochs"]
    return more and not differences(about, earlier, but_epochs=True)


def check_epochs(folder, done, epochs):
    """Raise InputError where a training has come further than it is now meant to."""
    if epochs < done:
        raise InputError(
            f"the training in {folder} has come to epoch {done}, and --epochs {epochs} is fewer; give at least {done}"
        )


def other_training(folder, changes):
    """Make the InputError which says that the folder's training is another one, and how it differs."""
    told = f"{folder} holds another training ({changes}); give the same options, or another --output"
    return AnotherTraining(told)


def unfinished(folder):
    """Make the InputError which says that the folder's training can go on."""
    return SameTraining(f"{folder} holds this training, unfinished; --resume goes on, --overwrite starts anew")


def no_checkpoint(folder):
    """Make the InputError which says that a finished training can't go on."""
    return InputError(
        f"the training in {folder} is finished and its checkpoint was not kept (those that ship have none), so it "
        "can't go on; without --resume it is trained anew"
    )


def finished_line(folder, epochs, stopped, kept, options):
    """Say that a training is finished, after how many epochs, and what can be done where its checkpoint was `kept`."""
    longer = "more --epochs with --resume train it longer" if kept else "it can't go on: its checkpoint was not kept"
    told = described_epochs(epochs, stopped, options)
    return f"{folder} holds this training, finished (epochs: {told})" + ("" if stopped else f"; {longer}")


def already_finished(line, kept):
    """Make the InputError which says that a training is finished, in this line, and its checkpoint `kept` or not."""
    return (SameTraining if kept else Finished)(f"{line}; --overwrite starts it anew")


# --- Progress ----------------------------------------------------------------------------------


@dataclasses.dataclass
class Progress:
    """How far a training has come: all there is to know to go on exactly."""

    variables: list  # of the network and of its optimizer
    losses: list  # one for each epoch: nats a picture of digits, nats a pixel of a painter
    validation_losses: list
    best: list = ()  # the variables after the best epoch, where a validation score stops the training of a class
    # A painter also goes on from the middle of an epoch:
    step: int = 0
    nats: float = 0.0
    pixels: float = 0.0
    states: list = ()

    ARRAYS = ("variables", "best", "states")

    def save(self, path):
        values = dataclasses.asdict(self)
        arrays = {f"{name}_{i}": value for name in self.ARRAYS for i, value in enumerate(values.pop(name))}
        with disk.whole_file(path) as temporary:
            np.savez(temporary, **values, **arrays)

    @classmethod
    def load(cls, path):
        """Read what save wrote. Raises InputError where the file is damaged."""
        try:
            with np.load(path) as file:
                arrays = {kind: [file[name] for name in file if name.startswith(f"{kind}_")] for kind in cls.ARRAYS}
                values = {item.name: file[item.name].tolist() for item in dataclasses.fields(cls) if item.name in file}
                return cls(**values, **arrays)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path} is damaged") from error

    def is_over(self, epochs, patience):
        """Say whether all epochs are done, or there is no use in more."""
        return len(self.losses) >= epochs or self.stopped_early(patience)

    def stopped_early(self, patience):
        """Say whether the last `patience` epochs brought no better validation score."""
        if patience is None or not self.validation_losses:
            return False
        return len(self.validation_losses) - 1 - int(np.argmin(self.validation_losses)) >= patience


def variables_of(trainer):
    """List the variables of a compiled network and of its optimizer."""
    return [*trainer.trainable_variables, *trainer.non_trainable_variables, *trainer.optimizer.variables]


def put_variables(trainer, values):
    """Give a compiled network and its optimizer the values that variables_of lists, arrays."""
    for variable, value in zip(variables_of(trainer), values, strict=True):
        variable.assign(value)


def learning_rate(recipe, step, steps, losses=()):
    """The rate of one of `steps` optimizer steps, after epochs of these losses.

    constant; up over the first tenth and down along a cosine; late, a tenth of it in the last third; plateau, half
    of it for each time that three epochs in a row brought no better loss.
    """
    if recipe.schedule == "late":
        return recipe.learning_rate * (0.1 if 3 * step >= 2 * steps else 1)
    if recipe.schedule == "plateau":
        return recipe.learning_rate * 0.5 ** plateaus(losses)
    if recipe.schedule == "constant":
        return recipe.learning_rate
    rise = max(1, steps // 10)
    if step < rise:
        return recipe.learning_rate * (step + 1) / rise
    return recipe.learning_rate * (1 + np.cos(np.pi * (step - rise) / (steps - rise))) / 2


def plateaus(losses, patience=3):
    """Count how often `patience` losses in a row were no better than the best one before them."""
    best, stale, count = float("inf"), 0, 0
    for loss in losses:
        stale = 0 if loss < best else stale + 1
        best = min(best, loss)
        if stale == patience:
            stale, count = 0, count + 1
    return count


@contextlib.contextmanager
def heeded_interrupt():
    """Let Ctrl-C set the event that is yielded, so that a step is finished first; a second one interrupts at once."""
    stop = threading.Event()

    def heed(*_):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    earlier = signal.signal(signal.SIGINT, heed)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, earlier)


# --- What is printed ---------------------------------------------------------------------------


def note(text, options):
    """Print a note on standard error, unless --quiet."""
    if not options.quiet:
        print(f"note: {text}", file=sys.stderr)


def print_figures(figures):
    """Print what came of a training, a dict from name to text."""
    for key, value in figures.items():
        print(f"{key}: {value}")


def print_drawing(folder, *flags):
    """Print the command that draws from what was trained."""
    folder = f"./{folder}" if str(folder).startswith("-") else str(folder)
    print(f"draw: {command_of('generate_rnn.py', folder, *flags)}")


def command_of(script, *arguments):
    """Return the command that calls another script of the toolkit from here, as the shell takes it."""
    python = "python" if shutil.which("python") == sys.executable else sys.executable
    return shlex.join([python, str(pathlib.Path(sys.argv[0]).with_name(script)), *arguments])


def print_longer(possible):
    """Say how to train longer, where that is possible."""
    if possible:
        print("longer: the same command with --resume and more --epochs")


def described_epochs(epochs, stopped, options):
    """Say how many epochs the networks of a training had, and whether they were stopped early."""
    told = f"{min(epochs)}" if min(epochs) == max(epochs) else f"{min(epochs)} to {max(epochs)}"
    return told + f", stopped by --patience {options.patience}" * stopped


def nats_and_bits(nats):
    """Put a loss, in nats a pixel, into words."""
    return f"{nats:.3f} nats a pixel ({nats / math.log(2):.3f} bits)"


def in_words(seconds):
    """Put seconds into words."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
