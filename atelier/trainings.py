"""Code that trainings share: a folder's state (--resume, --overwrite), checkpoints, learning rates, Ctrl-C, results."""

import contextlib
import dataclasses
import enum
import itertools
import math
import pathlib
import signal
import sys
import threading
import zipfile
import zlib

import numpy as np

from atelier import disk
from atelier.command_line import command_of
from atelier.errors import InputError

# --- The folder --------------------------------------------------------------------------------


class FolderContent(enum.Enum):
    """The content of a folder, compared with the training that a command asks for."""

    NO_TRAINING = enum.auto()
    SOMETHING_ELSE = enum.auto()  # models of another kind, damaged files, or files that a training would replace
    OTHER_TRAINING = enum.auto()  # a training with other options or other data
    UNFINISHED = enum.auto()  # this training, or one that differs only in its number of epochs; it is not finished
    FINISHED = enum.auto()  # this training, finished, with its checkpoint
    FINISHED_WITHOUT_CHECKPOINT = enum.auto()


@dataclasses.dataclass(frozen=True)
class FolderState:
    """The content of a folder and, if the command cannot use the folder, the reason."""

    content: FolderContent
    refusal: str = ""  # the error message; empty if the command can begin or resume the training there
    message: str = ""  # for a finished training: its epochs, and whether more can be added

    @property
    def is_finished(self):
        return self.content in (FolderContent.FINISHED, FolderContent.FINISHED_WITHOUT_CHECKPOINT)

    def check(self):
        """Raise InputError if the command cannot use the folder."""
        if self.refusal:
            raise InputError(self.refusal)


def find_folder(open_training, options, name):
    """Choose the folder of a training: --output, or the first of trained/name, name-2, ... that the command can use.

    With --overwrite and without --output, it is trained/name. `open_training` takes a folder and returns a training.
    The training's method `examine` returns a FolderState and changes no file. Returns the training in the chosen
    folder, and the state of that folder. Raises InputError if the command can use none of the folders.
    """
    given = options.output or (options.overwrite and f"trained/{name}")
    numbered = (f"trained/{name}" + f"-{number}" * (number > 1) for number in itertools.count(1))
    trainings, states = [], []
    for folder in map(pathlib.Path, [given] if given else numbered):
        disk.refuse_tilde(folder)
        trainings.append(open_training(folder))
        states.append(examine(trainings[-1]))
        if not folder.exists() or ends_search(states[-1], options.resume):
            break
    chosen = choose_to_resume(states) if options.resume else len(states) - 1
    states[chosen].check()
    skipped = [state.refusal for state in states if state.is_finished]
    if skipped and not options.resume:
        note(f"{skipped[-1]}; this one goes into {trainings[chosen].folder}", options)
    return trainings[chosen], states[chosen]


def examine(training):
    """Return the state of a training's folder; it is SOMETHING_ELSE if files cannot be read."""
    try:
        return training.examine()
    except InputError as error:
        return FolderState(FolderContent.SOMETHING_ELSE, refusal=str(error))


def ends_search(state, resume):
    """Tell whether the search ends at this folder: the command uses it, or fails because of it."""
    if resume:
        return state.content is FolderContent.UNFINISHED and not state.refusal
    return state.content in (FolderContent.NO_TRAINING, FolderContent.UNFINISHED, FolderContent.FINISHED)


def choose_to_resume(states):
    """Return the index of the folder that --resume continues.

    An unfinished training comes first, then a finished one that has its checkpoint. `states` are those of the numbered
    folders; the last folder may not exist yet. If no folder can be used, return the index of the folder that the error
    message is about: the last one that holds no other training, or else the first.
    """
    usable = [i for i, state in enumerate(states) if not state.refusal]
    unfinished, kept = (
        [i for i in usable if states[i].content is content]
        for content in (FolderContent.UNFINISHED, FolderContent.FINISHED)
    )
    existing = range(max(1, len(states) - 1))
    no_other_training = [i for i in existing if states[i].content is not FolderContent.OTHER_TRAINING]
    return [*unfinished, *kept, *usable, *reversed(no_other_training), *existing][0]


def changed_options(about, earlier, ignore_epochs=False):
    """Return one line with the options and data in an earlier training's meta.json that differ from this training's.

    `about` is this training's meta.json, `earlier` the other. `ignore_epochs` leaves out the number of epochs.
    """
    if ignore_epochs:
        earlier = earlier | {"recipe": earlier["recipe"] | {"epochs": about["recipe"]["epochs"]}}
    changed = [key for key in about if key not in ("versions", "classes") and earlier.get(key) != about[key]]
    return "; ".join(changed_option(key, earlier.get(key), about[key]) for key in changed)


def changed_option(key, before, now):
    """Describe the change of one entry of meta.json."""
    if isinstance(before, dict) and isinstance(now, dict):
        return ", ".join(f"{name} {before.get(name)}, not {now[name]}" for name in now if before.get(name) != now[name])
    return f"{key} {before}, not {now}"


def is_same_or_longer(about, earlier):
    """Tell whether a training is the same as the earlier one, except that it may have more epochs."""
    more = about["recipe"]["epochs"] >= earlier["recipe"]["epochs"]
    return more and not changed_options(about, earlier, ignore_epochs=True)


def nothing_to_resume(folder, of=""):
    return FolderState(FolderContent.NO_TRAINING, f"{folder} holds no training{of} to resume")


def other_training(folder, changes):
    """Return the state of a folder that holds another training; `changes` are from changed_options."""
    refusal = f"{folder} holds another training ({changes}); give the same options, or another --output"
    return FolderState(FolderContent.OTHER_TRAINING, refusal)


def would_replace(path):
    """Return the state of a folder without a meta.json whose file `path` a training would replace."""
    refusal = f"{path} would be replaced; give another --output, or --overwrite"
    return FolderState(FolderContent.SOMETHING_ELSE, refusal)


def unfinished(folder):
    """Return the state of a folder that holds this training, unfinished, for a command without --resume."""
    refusal = f"{folder} holds this training, unfinished; --resume goes on, --overwrite starts anew"
    return FolderState(FolderContent.UNFINISHED, refusal)


def too_few_epochs(folder, done, epochs):
    """Return the state of a folder whose training already has more epochs than the command asks for."""
    refusal = f"the training in {folder} has reached epoch {done}; --epochs {epochs} is fewer, give at least {done}"
    return FolderState(FolderContent.UNFINISHED, refusal)


def without_checkpoint(folder):
    """Return the state of a folder whose finished training cannot have more epochs."""
    refusal = (
        f"the training in {folder} is finished and its checkpoint was not kept (those that ship have none), so it "
        "can't go on; without --resume it is trained anew"
    )
    return FolderState(FolderContent.FINISHED_WITHOUT_CHECKPOINT, refusal)


def finished(folder, epochs, stopped, kept, options):
    """Return the state of a folder that holds this training, finished.

    `epochs` lists the epochs of each of its networks, `stopped` says whether --patience ended it, and `kept` whether it
    has its checkpoint. Only a command with --resume can use the folder.
    """
    longer = "more --epochs with --resume train it longer" if kept else "it can't go on: its checkpoint was not kept"
    described = describe_epochs(epochs, stopped, options)
    message = f"{folder} holds this training, finished (epochs: {described})" + ("" if stopped else f"; {longer}")
    refusal = "" if options.resume else f"{message}; --overwrite starts it anew"
    return FolderState(FolderContent.FINISHED if kept else FolderContent.FINISHED_WITHOUT_CHECKPOINT, refusal, message)


# --- Checkpoints -------------------------------------------------------------------------------


@dataclasses.dataclass
class TrainingProgress:
    """The state of a training: all that is needed to continue it exactly."""

    variables: list  # of the network and of its optimizer
    losses: list  # one for each epoch: nats a picture for digits, nats a pixel for a painter
    validation_losses: list
    best: list = ()  # the variables after the best epoch, if a validation score stops the training of a class
    # A painter's training can also continue in the middle of an epoch:
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
        """Read a file that save wrote. Raises InputError if the file is damaged."""
        try:
            with np.load(path) as file:
                arrays = {kind: [file[name] for name in file if name.startswith(f"{kind}_")] for kind in cls.ARRAYS}
                values = {item.name: file[item.name].tolist() for item in dataclasses.fields(cls) if item.name in file}
                return cls(**values, **arrays)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path} is damaged") from error

    def is_over(self, epochs, patience):
        """Tell whether all epochs are done, or `patience` has ended the training."""
        return len(self.losses) >= epochs or self.stopped_early(patience)

    def stopped_early(self, patience):
        """Tell whether the validation score has not improved in the last `patience` epochs."""
        if patience is None or not self.validation_losses:
            return False
        return len(self.validation_losses) - 1 - int(np.argmin(self.validation_losses)) >= patience


def variables_of(trainer):
    """List the variables of a compiled network and of its optimizer."""
    return [*trainer.trainable_variables, *trainer.non_trainable_variables, *trainer.optimizer.variables]


def assign_variables(trainer, values):
    """Assign arrays to the variables of a compiled network and of its optimizer, in the order of variables_of."""
    for variable, value in zip(variables_of(trainer), values, strict=True):
        variable.assign(value)


def learning_rate(training_config, step, steps, losses=()):
    """Return the learning rate of optimizer step `step`, of `steps` in all; `losses` are those of past epochs.

    The schedule `constant` keeps the rate. `cosine` raises it over the first tenth of the steps, and then lowers it to
    zero. `late` divides it by ten in the last third. `plateau` halves it whenever three epochs in a row had no better
    loss.
    """
    rate = training_config.learning_rate
    if training_config.schedule == "late":
        return rate * (0.1 if 3 * step >= 2 * steps else 1)
    if training_config.schedule == "plateau":
        return rate * 0.5 ** plateaus(losses)
    if training_config.schedule == "constant":
        return rate
    rise = max(1, steps // 10)
    if step < rise:
        return rate * (step + 1) / rise
    return rate * (1 + np.cos(np.pi * (step - rise) / (steps - rise))) / 2


def plateaus(losses, patience=3):
    """Count how often `patience` losses in a row were not lower than the lowest loss before them."""
    best, stale, count = float("inf"), 0, 0
    for loss in losses:
        stale = 0 if loss < best else stale + 1
        best = min(best, loss)
        if stale == patience:
            stale, count = 0, count + 1
    return count


@contextlib.contextmanager
def deferred_interrupt():
    """Yield an event that Ctrl-C sets, so that the current step can end first. A second Ctrl-C interrupts at once."""
    stop = threading.Event()

    def defer(*_):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    earlier = signal.signal(signal.SIGINT, defer)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, earlier)


# --- Printed lines -----------------------------------------------------------------------------


def note(text, options):
    """Print a note on standard error, unless --quiet."""
    if not options.quiet:
        print(f"note: {text}", file=sys.stderr)


def print_results(results):
    """Print the results of a training, a dict from name to text."""
    for key, value in results.items():
        print(f"{key}: {value}")


def print_draw_command(folder, *flags):
    """Print the command that draws with the trained networks."""
    folder = f"./{folder}" if str(folder).startswith("-") else str(folder)
    print(f"draw: {command_of('generate_rnn.py', folder, *flags)}")


def print_how_to_train_longer(possible):
    if possible:
        print("longer: the same command with --resume and more --epochs")


def describe_epochs(epochs, stopped, options):
    """Return a text with the number of epochs of a training's networks; it says if --patience stopped one of them."""
    number = f"{min(epochs)}" if min(epochs) == max(epochs) else f"{min(epochs)} to {max(epochs)}"
    return number + f", stopped by --patience {options.patience}" * stopped


def nats_and_bits(nats):
    """Format a loss, given in nats a pixel, in nats and in bits."""
    return f"{nats:.3f} nats a pixel ({nats / math.log(2):.3f} bits)"


def format_duration(seconds):
    """Format a duration: 3 h 5 min, 5 min 20 s, 20 s."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
