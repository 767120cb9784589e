"""Train a network to paint like a folder of pictures, or to draw digits: pixel by pixel.

    python train_rnn.py images/monet
    python train_rnn.py images/inks --preset sumi-e --validation other/folder
    python train_rnn.py mnist --all-digits --preset best

A picture is read row by row as a sequence of colours or grey levels, and a recurrent network learns to predict
each pixel from those before it: p(picture) is the product of its predictions. generate_rnn.py draws from it, and
classify_mnist.py compares p(picture) under the models of all classes of digits by Bayes' rule.

Writes into trained/SOURCE, or trained/SOURCE-2 and so on where other models lie there already. Of a folder of
pictures: model.keras, meta.json with the palette, preview.png (what the network sees), starts.png (64 pieces of the
training pictures, one in each row, for generate_rnn.py --start window), loss.csv and loss.png, and samples/, drawn as
the training goes. Of digits: model_<class>.keras for each class, trained side by side, one on each core, and loss.png.

Printed are the loss of the last epoch (nats, and bits, say how surprised the network is by a pixel or a picture: less
is better), how long it took, and the command that draws. A palette's mean Delta E says how far its colours are from
those of the pictures: below 1 no one sees it, from 10 on everyone does.

Interrupt it when you like; the same command with --resume goes on. When it is finished, more --epochs with --resume
train it longer, from checkpoint_*.npz; these files are about three times as large as the models, and without them the
models still draw. A training that --patience has stopped is finished: more epochs add nothing to it.
"""

import config  # first, since it puts Ctrl-C in a line from here on

# isort: split
import concurrent.futures
import contextlib
import csv
import dataclasses
import functools
import itertools
import math
import pathlib
import queue
import shlex
import shutil
import signal
import sys
import threading
import time
import zipfile
import zlib

import numpy as np

disk = config.lazy_import("disk")
hardware = config.lazy_import("hardware")
imaging = config.lazy_import("imaging")
keras = config.lazy_import("keras")
tqdm = config.lazy_import("tqdm")
util = config.lazy_import("util")


def parse_arguments():
    parser = config.Parser(__doc__)
    parser.add_argument(
        "source",
        nargs="?",
        type=config.expanded,
        default="digits",
        help="a folder of pictures; or a set of digits: digits (the default), mnist or fashion_mnist, or, with --data, "
        "any name for the set in those files",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--digit", type=int, metavar="CLASS", help="train the model of this class of digits")
    which.add_argument("--all-digits", action="store_true", help="train one model for each class of digits")
    presets = (
        f"recipe (default: {DIGITS_PRESET} for digits, {SET_PRESET} for other sets, {PAINTER_PRESET} for a folder)"
    )
    parser.add_argument("--preset", choices=config.PRESETS, help=presets)
    config.add_options(parser, config.Train)
    recipe = parser.add_argument_group("recipe", "each of these overrides the preset")
    config.add_options(recipe, config.Recipe, default_help=False)
    for kind, title in ((config.DigitRecipe, "recipe of digits"), (config.PainterRecipe, "recipe of painters")):
        config.add_options(parser.add_argument_group(title), kind, default_help=False, without=config.Recipe)
    return parser.parse_args()


DIGITS_PRESET, SET_PRESET, PAINTER_PRESET = "digits", "tutorial", "painter"
DIGITS_ONLY = ("digit", "all_digits", "data")
PAINTERS_ONLY = ("validation", "sample_every")


def main():
    arguments = parse_arguments()
    paints = is_folder_of_pictures(arguments)
    default_preset = PAINTER_PRESET if paints else DIGITS_PRESET if arguments.source == "digits" else SET_PRESET
    preset = arguments.preset or default_preset
    check_kind(arguments, preset, paints)
    recipe = config.collect(type(config.PRESETS[preset]), arguments, config.PRESETS[preset])
    options = config.collect(config.Train, arguments)
    check(recipe, options)
    name = pathlib.Path(arguments.source).resolve().name
    if paints:
        recipe = dataclasses.replace(recipe, window=recipe.window or recipe.width)
        train_painter(pathlib.Path(arguments.source), preset, recipe, options, name)
        return
    config.check_set(arguments.source, options.data)
    suffix = "" if preset == default_preset else f"_{preset}"
    train(arguments.source, arguments.digit, preset, recipe, options, f"{name}{suffix}")


def is_folder_of_pictures(arguments):
    """Say whether the source is a folder to learn painting from; other sources are sets of digits."""
    return (
        arguments.source not in config.SETS
        and not getattr(arguments, "data", None)
        and pathlib.Path(arguments.source).is_dir()
    )


def check_kind(arguments, preset, paints):
    """Raise InputError for a preset or a flag that is not for this kind of source."""
    kind, other = (config.PainterRecipe, config.DigitRecipe) if paints else (config.DigitRecipe, config.PainterRecipe)
    what = "sets of digits" if paints else "folders of pictures"
    if not paints and arguments.digit is None and not arguments.all_digits:
        raise config.InputError(no_folder(arguments.source))
    if not isinstance(config.PRESETS[preset], kind):
        raise config.InputError(f"the preset {preset} is for {what}, which {arguments.source} is not")
    fields = {item.name for item in dataclasses.fields(other)} - {item.name for item in dataclasses.fields(kind)}
    for name in (*fields, *(DIGITS_ONLY if paints else PAINTERS_ONLY)):
        if config.was_given(arguments, name):
            raise config.InputError(f"--{name.replace('_', '-')} is for {what}, which {arguments.source} is not")


def no_folder(source):
    """Say that a source is no folder of pictures, and what else may have been meant."""
    path = pathlib.Path(source)
    beside = [other.name for other in path.parent.iterdir() if other.is_dir()] if path.parent.is_dir() else []
    digits = "" if len(path.parts) > 1 else "; for a set of digits, add --all-digits or --digit CLASS"
    return f"there is no folder of pictures {source}{config.meant(path.name, beside)}{digits}"


def check(recipe, options):
    """Raise InputError for a number that makes no sense, before anything is loaded."""
    for name, low, high in (
        ("size", 2, 256),
        ("levels", 2, 256),
        ("width", 2, 1024),
        ("height", 2, 1024),
        ("colors", 2, 4096),
        ("gray", 2, 256),
        ("embedding", 1, 4096),
        ("stride", 1, 100_000),
        ("units", 1, 8192),
        ("layers", 1, 16),
        ("epochs", 1, 100_000),
        ("batch_size", 1, 100_000),
        ("shift", 0, 8),
    ):
        value = getattr(recipe, name, None)
        if value is not None and not low <= value <= high:
            raise config.InputError(f"--{name.replace('_', '-')} must be from {low} to {high}")
    if not 0 <= recipe.dropout < 1:
        raise config.InputError("--dropout must be at least 0 and below 1")
    if not 0 < recipe.learning_rate <= 1:
        raise config.InputError("--learning-rate must be above 0 and at most 1")
    if not 0 <= options.validation_split < 1:
        raise config.InputError("--validation-split must be at least 0 and below 1")
    if options.num_images is not None and options.num_images < 1:
        raise config.InputError("--num-images must be at least 1")
    if options.patience is not None and (options.patience < 1 or not (options.validation_split or options.validation)):
        raise config.InputError("--patience must be at least 1 and needs --validation-split or --validation")
    if isinstance(recipe, config.PainterRecipe):
        check_painter(recipe, options)
    elif recipe.context == "place" or recipe.schedule in ("late", "plateau"):
        raise config.InputError("--context place and --schedule late and plateau are for folders of pictures")


def check_painter(recipe, options):
    """Raise InputError for a number that makes no sense to a painter."""
    pixels = recipe.width * recipe.height
    if recipe.window is not None and not 1 <= recipe.window <= pixels:
        raise config.InputError(f"--window must be from 1 to {pixels}, the pixels of a picture")
    if recipe.clip <= 0:
        raise config.InputError("--clip must be above 0")
    if options.sample_every < 1:
        raise config.InputError("--sample-every must be at least 1")
    if options.validation and options.validation_split:
        raise config.InputError("--validation and --validation-split exclude each other")


# --- The folder that a training takes ------------------------------------------------------------


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
        except config.SameTraining:
            raise
        except config.InputError as error:
            if not folder.exists():
                refusal = refusal or error
                break
            if refusal is None or not isinstance(error, config.AnotherTraining):
                refusal = error
            continue
        if not training.finished:
            if isinstance(refusal, config.Finished):
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
    if isinstance(before, dict) and isinstance(now, dict):
        return ", ".join(f"{name} {before.get(name)}, not {now[name]}" for name in now if before.get(name) != now[name])
    return f"{key} {before}, not {now}"


def other_training(folder, changes):
    """Make the InputError which says that the folder's training is another one, and how it differs."""
    told = f"{folder} holds another training ({changes}); give the same options, or another --output"
    return config.AnotherTraining(told)


def unfinished(folder):
    return config.SameTraining(f"{folder} holds this training, unfinished; --resume goes on, --overwrite starts anew")


def check_same(folder, about, earlier):
    """Raise InputError where there is nothing to resume, or another training; the epochs may differ."""
    if earlier is None:
        raise config.InputError(f"{folder} holds no training to resume")
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
        raise config.InputError(
            f"the training in {folder} has come to epoch {done}, and --epochs {epochs} is fewer; give at least {done}"
        )


def no_checkpoint(folder):
    return config.InputError(
        f"the training in {folder} is finished and its checkpoint was not kept (those that ship have none), so it "
        "can't go on; without --resume it is trained anew"
    )


def finished_line(folder, epochs, stopped, kept, options):
    """Say that a training is finished, after how many epochs, and what can be done where its checkpoint was `kept`."""
    longer = "more --epochs with --resume train it longer" if kept else "it can't go on: its checkpoint was not kept"
    told = described_epochs(epochs, stopped, options)
    return f"{folder} holds this training, finished (epochs: {told})" + ("" if stopped else f"; {longer}")


def already_finished(line, kept):
    return (config.SameTraining if kept else config.Finished)(f"{line}; --overwrite starts it anew")


def note(text, options):
    if not options.quiet:
        print(f"note: {text}", file=sys.stderr)


def print_figures(figures):
    for key, value in figures.items():
        print(f"{key}: {value}")


def print_drawing(folder, *flags):
    """Print the command that draws from what was trained, as the shell takes it."""
    python = "python" if shutil.which("python") == sys.executable else sys.executable
    script = pathlib.Path(sys.argv[0]).with_name("generate_rnn.py")
    folder = f"./{folder}" if str(folder).startswith("-") else str(folder)
    print(f"draw: {shlex.join([python, str(script), folder, *flags])}")


def print_longer(possible):
    if possible:
        print("longer: the same command with --resume and more --epochs")


def described_epochs(epochs, stopped, options):
    """Say how many epochs the networks of a training had, and whether they were stopped early."""
    told = f"{min(epochs)}" if min(epochs) == max(epochs) else f"{min(epochs)} to {max(epochs)}"
    return told + f", stopped by --patience {options.patience}" * stopped


def nats_and_bits(nats):
    return f"{nats:.3f} nats a pixel ({nats / math.log(2):.3f} bits)"


def in_words(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


# --- Digits ------------------------------------------------------------------------------------


def train(source, digit, preset, recipe, options, name):
    """Train one class, or all side by side, and write their models into a folder, by default trained/`name`."""
    images, labels, _, _ = util.load_dataset(source, options.data)
    classes = [digit] if digit is not None else [int(label) for label in np.unique(labels)]
    for label in classes:
        check_pictures(label, int((labels == label).sum()), options)
    device = hardware.use_precision(options.precision, "training", recipe.batch_size)
    if not options.quiet:
        print(f"device: {device}", file=sys.stderr)

    about = {"source": source, "preset": preset, "recipe": dataclasses.asdict(recipe)}
    about |= {flag: getattr(options, flag) for flag in ("seed", "num_images", "validation_split", "patience")}
    about |= {"precision": keras.config.dtype_policy().name, "data_crc32": fingerprint(images, labels)}
    training = find_folder(lambda folder: Training(about, recipe, options, folder, classes), options, name)
    for label in training.waiting:
        own = images[labels == label]
        training.add(label, *prepare_pictures(own, recipe, options), available=len(own))
    if training.finished:
        note(training.finished, options)
    else:
        training.execute()
    print(f"models: {training.folder}")
    print_figures(training.figures(classes))
    try:
        if not training.finished or training.has_checkpoints(classes):
            training.plot()  # also of a finished training: it may have been killed just before this
        print(f"loss_curve: {training.folder / 'loss.png'}")
    except OSError as error:
        raise config.PartlyDone(f"{config.describe(error)}; the models are there, the loss curve is not") from error
    print_drawing(training.folder, *training.drawing_flags(classes))
    print_longer(training.can_go_on(classes))
    disk.remove_leftovers(training.folder, FILES_OF_DIGITS, training.opened)


def fingerprint(images, labels):
    """Return a checksum of the training set, so that a training is not resumed with another one."""
    return zlib.crc32(labels.astype("int64").tobytes(), zlib.crc32(images.tobytes()))


def check_pictures(label, count, options):
    """Raise InputError where a class has no pictures to train on, or none to hold out."""
    count = min(count, options.num_images or count)
    if not count:
        raise config.InputError(f"there are no training pictures of class {label}")
    held_out = round(count * options.validation_split)
    if options.validation_split and not 0 < held_out < count:
        raise config.InputError(
            f"--validation-split would hold out {held_out} of the {count} pictures of class {label}"
        )


def prepare_pictures(images, recipe, options):
    """Return one class's training sequences, uint8 V x N x T (V moved copies), and those held out, N x T."""
    images = np.random.default_rng(options.seed).permutation(images[: options.num_images])
    kept = len(images) - round(len(images) * options.validation_split)
    copies = util.shifted_copies(images[:kept], recipe.shift)
    training = np.stack([util.to_sequences(copy, recipe.size, recipe.levels) for copy in copies])
    return training, util.to_sequences(images[kept:], recipe.size, recipe.levels)


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
            raise config.InputError(f"{path} is damaged") from error

    def is_over(self, epochs, patience):
        """Say whether all epochs are done, or there is no use in more."""
        return len(self.losses) >= epochs or self.stopped_early(patience)

    def stopped_early(self, patience):
        """Say whether the last `patience` epochs brought no better validation score."""
        if patience is None or not self.validation_losses:
            return False
        return len(self.validation_losses) - 1 - int(np.argmin(self.validation_losses)) >= patience


FILES_OF_DIGITS = ("meta.json", "loss.png", "model_*.keras", "checkpoint_*.npz")


class Training:
    """Several classes trained side by side, and the folder that holds their models.

    meta.json lists the classes as soon as they are begun, and tells about each when its model is written.
    checkpoint_<class>.npz holds its progress, and stays: with more epochs the training goes on from there.
    """

    def __init__(self, about, recipe, options, folder, classes):
        """Take a folder for these classes: `waiting` are those to be trained, `finished` says so where none is.

        Raises InputError where the folder can't be taken.
        """
        self.recipe, self.options, self.folder = recipe, options, folder
        self.meta = about | {"versions": util.versions(), "classes": {}}
        self.opened = time.time()
        self.tasks = {}
        self.duration = self.finished = None
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.begin(classes)

    # The folder

    def begin(self, classes):
        """Choose the classes to be trained and enter them into the folder's meta.json."""
        path = self.folder / "meta.json"
        earlier = util.load_meta(self.folder) if path.exists() else None
        if earlier and "classes" not in earlier:
            raise config.InputError(f"{self.folder} holds a painter; give another --output")
        if self.options.resume:
            check_same(self.folder, self.meta, earlier)
            self.waiting = self.find_unfinished(classes, earlier)
            kept = earlier["classes"]
        else:
            self.waiting = classes
            kept = self.find_kept(classes, earlier) if earlier else {}
            kept = {label: entry for label, entry in kept.items() if int(label) not in classes}
            for label in classes:
                self.checkpoint(label).unlink(missing_ok=True)
                self.model_path(label).unlink(missing_ok=True)
        if self.waiting:
            self.meta["classes"] = kept | {str(label): kept.get(str(label), {}) for label in self.waiting}
            disk.write_json(path, self.meta)
        else:
            self.meta = earlier
            self.finished = self.finished_line(classes, earlier)

    def find_unfinished(self, classes, earlier):
        """Return those of the classes that have epochs before them. Raises InputError where they can't go on."""
        entries = {label: earlier["classes"].get(str(label)) for label in classes}
        if all(entry is None for entry in entries.values()):
            raise config.InputError(f"{self.folder} holds no training of class {classes[0]} to resume")
        if self.recipe.epochs < earlier["recipe"]["epochs"]:
            for label in classes:
                check_epochs(self.folder, self.epochs_done(label, entries[label] or {}), self.recipe.epochs)
        waiting = [label for label in classes if not is_finished(entries[label] or {}, self.recipe.epochs)]
        if any(entries[label] and not self.checkpoint(label).exists() for label in waiting):
            raise no_checkpoint(self.folder)
        return waiting

    def epochs_done(self, label, entry):
        path = self.checkpoint(label)
        return len(Progress.load(path).losses) if path.exists() else entry.get("epochs", 0)

    def find_kept(self, classes, earlier):
        """Return what meta.json says of classes that stay. Raises InputError where a training is in the way."""
        kept, changes = earlier["classes"], differences(self.meta, earlier)
        if self.options.overwrite:
            if changes and not set(map(int, kept)) <= set(classes):
                raise other_training(self.folder, changes)
            return {} if changes else kept
        if is_same_or_longer(self.meta, earlier):
            self.refuse_begun(classes, earlier)
        if changes:
            raise other_training(self.folder, changes)
        return kept

    def refuse_begun(self, classes, earlier):
        """Raise InputError where some of these classes were begun, which says whether all are finished."""
        entries = [earlier["classes"].get(str(label)) for label in classes]
        if all(is_finished(entry or {}, earlier["recipe"]["epochs"]) for entry in entries):
            raise already_finished(self.finished_line(classes, earlier), self.has_checkpoints(classes))
        if any(entry is not None for entry in entries):
            raise unfinished(self.folder)

    def finished_line(self, classes, meta):
        entries = [meta["classes"][str(label)] for label in classes]
        epochs, stopped = [entry["epochs"] for entry in entries], any(map(was_stopped, entries))
        return finished_line(self.folder, epochs, stopped, self.has_checkpoints(classes), self.options)

    def has_checkpoints(self, classes):
        return all(self.checkpoint(label).exists() for label in classes)

    def model_path(self, label):
        return self.folder / f"model_{label}.keras"

    def checkpoint(self, label):
        return self.folder / f"checkpoint_{label}.npz"

    # The work

    def add(self, label, pictures, held_out, available):
        """Take a class: its training sequences V x N x T, those held out N x T, and how many pictures it has in all."""
        self.tasks[label] = (pictures, held_out, available)

    def execute(self):
        """Train all classes that were added, one on each core. Raises what went wrong, the classes in flight kept."""
        begun = time.monotonic()
        progress = {label: self.first_progress(label) for label in self.tasks}
        resumed = any(one.losses for one in progress.values())
        images = {label: self.tasks[label][0].shape[1] for label in self.tasks}
        total = sum(images[label] * self.recipe.epochs for label in self.tasks)
        done = sum(images[label] * len(progress[label].losses) for label in self.tasks)
        workers = 1 if hardware.has_gpu() else max(1, min(hardware.cpu_count(), len(self.tasks)))
        self.trainers = queue.SimpleQueue()
        for _ in range(workers):
            self.trainers.put(build_trainer(self.recipe))
        judge = util.build_rnn(**network_options(self.recipe), dtype="float32")
        self.score = util.make_scorer(judge, self.recipe.context)
        disable = True if self.options.quiet else None
        with (
            tqdm.tqdm(total=total, initial=done, unit="image", disable=disable, smoothing=0.02) as self.bar,
            concurrent.futures.ThreadPoolExecutor(workers) as pool,
        ):
            futures = [pool.submit(self.train_class, label, progress[label]) for label in self.tasks]
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
            except BaseException as error:
                self.stop.set()
                pool.shutdown(cancel_futures=True)
                self.explain(error)
        self.duration = in_words(time.monotonic() - begun) + " since it went on" * resumed

    def explain(self, error):
        """Raise what the user should read when the training ends early."""
        if isinstance(error, KeyboardInterrupt):
            raise config.Interrupted(
                f"interrupted; {self.folder} is kept, and the same command with --resume goes on from the last epoch"
            ) from error
        finished = sum(bool(entry) for entry in self.meta["classes"].values())
        if isinstance(error, OSError) and finished:
            raise config.PartlyDone(
                f"{config.describe(error)}; {finished} classes are done, --resume goes on"
            ) from error
        raise error

    def first_progress(self, label):
        """Read a class's checkpoint, or draw its first weights."""
        if self.checkpoint(label).exists():
            try:
                return Progress.load(self.checkpoint(label))
            except config.InputError as error:
                raise config.InputError(f"{error}; delete it to train class {label} anew") from error
        keras.utils.set_random_seed(self.options.seed * 1000 + label)
        return Progress([variable.numpy() for variable in variables_of(build_trainer(self.recipe))], [], [])

    def train_class(self, label, progress):
        """Train one class to its end, with a checkpoint after every epoch, and write its model."""
        pictures, held_out, available = self.tasks[label]
        trainer = self.trainers.get()
        try:
            while not progress.is_over(self.recipe.epochs, self.options.patience):
                put_variables(trainer, progress.variables)
                loss = self.train_epoch(trainer, pictures, label, len(progress.losses))
                if self.stop.is_set():
                    return
                if not np.isfinite(loss):
                    raise config.InputError(f"the training of class {label} diverged; try a lower --learning-rate")
                progress.variables = [variable.numpy() for variable in variables_of(trainer)]
                progress.losses.append(loss)
                if len(held_out):
                    progress.validation_losses.append(-self.mean_log_likelihood(trainer, held_out))
                    if self.options.patience and progress.validation_losses[-1] == min(progress.validation_losses):
                        progress.best = progress.variables
                progress.save(self.checkpoint(label))
            put_variables(trainer, progress.best or progress.variables)
            self.finish_class(label, trainer, progress, pictures.shape[1], available)
        finally:
            self.trainers.put(trainer)

    def train_epoch(self, trainer, pictures, label, epoch):
        """Run over a class's pictures once, in an order that seed, class and epoch decide; return nats a picture."""
        copies, count, length = pictures.shape
        rng = np.random.default_rng([self.options.seed, label, epoch])
        order, copy = rng.permutation(count), rng.integers(0, copies, count)
        size = min(self.recipe.batch_size, count)
        batches = -(-count // size)
        total = 0.0
        for batch in range(batches):
            if self.stop.is_set():
                break
            # The last batch is filled up with pictures of weight 0, so that one compiled shape serves all.
            chosen = np.resize(order[batch * size : (batch + 1) * size], size)
            real = min(size, count - batch * size)
            weight = (np.arange(size) < real) * np.float32(size / real)
            tokens = pictures[copy[chosen], chosen].astype("int32")
            trainer.optimizer.learning_rate = learning_rate(
                self.recipe, epoch * batches + batch, self.recipe.epochs * batches
            )
            trainer.reset_metrics()
            loss = float(trainer.train_on_batch(tokens, tokens, sample_weight=weight[:, None]))
            total += loss * real * length
            with self.lock:
                self.bar.update(real)
                self.bar.set_postfix(loss=f"{loss * length:.1f} nats", refresh=False)
        return total / count

    def mean_log_likelihood(self, model, sequences):
        return float(np.mean(util.log_likelihoods(self.score, model, sequences)))

    def finish_class(self, label, trainer, progress, trained_on, available):
        """Write a class's model and enter it into meta.json."""
        model = util.build_rnn(**network_options(self.recipe), dtype="float32")
        model.set_weights(trainer.get_weights())
        util.save_model(self.model_path(label), model)
        entry = {"pictures": available, "trained_on": trained_on, "epochs": len(progress.losses)}
        entry["stopped_early"] = progress.stopped_early(self.options.patience)
        entry["train_log_likelihood"] = -progress.losses[-1]
        if progress.validation_losses:
            entry["validation_log_likelihood"] = (
                -min(progress.validation_losses) if progress.best else -progress.validation_losses[-1]
            )
        entry["loss"] = [round(loss, 4) for loss in progress.losses]
        entry["validation_loss"] = [round(loss, 4) for loss in progress.validation_losses]
        with self.lock:
            # Another process may have finished a class of this folder in the meantime.
            self.meta["classes"] |= util.load_meta(self.folder)["classes"] | {str(label): entry}
            disk.write_json(self.folder / "meta.json", self.meta)

    # What came of it

    def figures(self, classes):
        """Return what to print of these classes' trainings, by name."""
        entries = [self.meta["classes"][str(label)] for label in classes]
        stopped = any(map(was_stopped, entries))
        figures = {"epochs": described_epochs([entry["epochs"] for entry in entries], stopped, self.options)}
        mean = f", the mean of {len(entries)} classes" * (len(entries) > 1)
        for name, key in (("loss", "train_log_likelihood"), ("validation_loss", "validation_log_likelihood")):
            if all(key in entry for entry in entries):
                figures[name] = f"{-np.mean([entry[key] for entry in entries]):.3f} nats a picture{mean}"
        return figures | ({"duration": self.duration} if self.duration else {})

    def can_go_on(self, classes):
        """Say whether more epochs would add to these classes' trainings."""
        return self.has_checkpoints(classes) and not any(was_stopped(self.meta["classes"][str(c)]) for c in classes)

    def drawing_flags(self, classes):
        """Return the flags with which generate_rnn.py draws these classes, or the first where it can't draw all."""
        known = self.meta["classes"]
        return ["--all-digits"] if len(known) > 1 and all(known.values()) else ["--digit", str(classes[0])]

    def plot(self):
        """Draw each class's loss over the epochs into loss.png."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        for label, entry in sorted(self.meta["classes"].items(), key=lambda item: int(item[0])):
            epochs = range(1, len(entry.get("loss", [])) + 1)
            (line,) = axes.plot(epochs, entry.get("loss", []), label=f"class {label}")
            if entry.get("validation_loss"):
                axes.plot(epochs, entry["validation_loss"], "--", color=line.get_color())
        dashed = " (dashed: held out)" if self.options.validation_split else ""
        axes.set(xlabel="epoch", ylabel=f"loss in nats a picture{dashed}", title=self.meta["source"])
        axes.legend(fontsize="small", ncols=2)
        with disk.whole_file(self.folder / "loss.png") as temporary:
            figure.savefig(temporary, format="png", dpi=100, metadata=util.provenance(self.options.seed))


def is_finished(entry, epochs):
    """Say whether what meta.json tells of a class is that of one trained for so many epochs, or to its best."""
    return bool(entry) and (entry["epochs"] >= epochs or was_stopped(entry))


def was_stopped(entry):
    return entry.get("stopped_early", False)


def network_options(recipe):
    return util.network_options(dataclasses.asdict(recipe))


def build_trainer(recipe):
    """Build the network with its optimizer, compiled; one trainer trains many classes, one after the other."""
    fused = not hardware.has_gpu()
    model = util.build_rnn(**network_options(recipe), fused=fused)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(recipe.learning_rate), loss, jit_compile=fused)
    model.optimizer.build(model.trainable_variables)
    return model


def variables_of(trainer):
    return [*trainer.trainable_variables, *trainer.non_trainable_variables, *trainer.optimizer.variables]


def put_variables(trainer, values):
    for variable, value in zip(variables_of(trainer), values, strict=True):
        variable.assign(value)


# --- Painters ----------------------------------------------------------------------------------

TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)  # of the pictures on a sample sheet
SAVE_SECONDS = 300  # between checkpoints within an epoch
DIVERGED = "the training diverged; try a lower --learning-rate"
STARTS = 64  # windows of the training pictures that are kept with the model, to start drawings from


def train_painter(source, preset, recipe, options, name):
    """Train one network on a folder of pictures and write it into a folder, by default trained/`name`."""
    check_apart(source, options.validation)
    pictures, held_out, refused = load_paintings(source, recipe, options)
    device = hardware.use_precision(options.precision, "training", recipe.batch_size)
    for line in refused:
        note(f"left out: {line}", options)
    if not options.quiet:
        print(f"device: {device}", file=sys.stderr)
    about = {"source": str(source), "preset": preset, "recipe": dataclasses.asdict(recipe)}
    about |= {flag: getattr(options, flag) for flag in ("seed", "num_images", "validation_split", "patience")}
    about |= {"precision": keras.config.dtype_policy().name}
    about |= {"pictures": len(pictures), "data_crc32": zlib.crc32(pictures.tobytes(), zlib.crc32(held_out.tobytes()))}
    training = find_folder(lambda folder: PainterTraining(about, recipe, options, folder), options, name)
    print(f"folder: {training.folder}", flush=True)
    if training.finished:
        note(training.finished, options)
    else:
        training.prepare(pictures, held_out)
        del pictures, held_out  # what is left of them is two bytes a pixel
        training.execute()
    print(f"model: {training.folder / 'model.keras'}")
    print_figures(training.figures())
    print(f"loss_curve: {training.folder / 'loss.png'}")
    print_drawing(training.folder)
    print_longer(training.can_go_on())
    disk.remove_leftovers(training.folder, FILES_OF_A_PAINTER, training.opened)
    if refused:
        raise config.PartlyDone(
            f"{len(refused)} files could not be used as pictures, and are named above; the rest was"
        )


def check_apart(source, validation):
    """Raise InputError where the pictures to score are among those to train on."""
    if validation:
        one, other = source.resolve(), pathlib.Path(validation).resolve()
        if one == other or one in other.parents or other in one.parents:
            raise config.InputError(f"{validation} and {source} must not lie in one another")


def load_paintings(source, recipe, options):
    """Return the pictures to train on and those held out, uint8 N x H x W x 3, and why others were left out."""
    read = functools.partial(
        imaging.load_pictures, width=recipe.width, height=recipe.height, gray=recipe.gray is not None
    )
    pictures, refused = read(source)
    pictures = pictures[: options.num_images]
    if options.validation:
        held_out, more_refused = read(options.validation)
        return pictures, held_out, refused + more_refused
    count = round(len(pictures) * options.validation_split)
    if options.validation_split and not 0 < count < len(pictures):
        raise config.InputError(f"--validation-split would hold out {count} of {len(pictures)} pictures")
    order = np.random.default_rng(options.seed).permutation(len(pictures))
    return pictures[np.sort(order[count:])], pictures[np.sort(order[:count])], refused


LEARNED = ("model.keras", "model_last.keras", "checkpoint_[ab].npz", "loss.csv", "loss.png", "samples/epoch_*.png")
FILES_OF_A_PAINTER = ("meta.json", "preview.png", "starts.png", *LEARNED)


class PainterTraining:
    """One network trained on a folder of pictures, and the folder that holds what comes of it.

    meta.json tells of the training and holds the palette; two checkpoints take turns, so that one is always whole, and
    the last one stays: with more epochs the training goes on from there.
    """

    def __init__(self, about, recipe, options, folder):
        """Take a folder for a new training, or for the one that lies there; `finished` says so where that is over.

        Raises InputError where the folder can't be taken.
        """
        self.recipe, self.options, self.folder = recipe, options, folder
        self.meta = about | {"versions": util.versions()}
        self.opened = time.time()
        self.progress = self.last_checkpoint = self.duration = self.finished = None
        earlier = util.load_meta(folder) if (folder / "meta.json").exists() else None
        if earlier and "classes" in earlier:
            raise config.InputError(f"{folder} holds models of digits; give another --output")
        if options.resume:
            self.resume(about, earlier)
        elif options.overwrite:
            return
        elif earlier:
            self.refuse(about, earlier)
        elif in_the_way := next(self.learned(), None):
            raise config.InputError(f"{in_the_way} is in the way; give another --output, or --overwrite")

    def resume(self, about, earlier):
        """Take over what the folder holds, with this command's epochs. Raises InputError where it can't go on."""
        check_same(self.folder, about, earlier)
        self.progress = self.last_progress()
        before, epochs = earlier["recipe"]["epochs"], self.recipe.epochs
        if earlier.get("finished") and self.progress is None and epochs != before:
            raise no_checkpoint(self.folder)
        if epochs < before and self.progress:
            check_epochs(self.folder, len(self.progress.losses) + (self.progress.step > 0), epochs)
        self.meta = earlier | {"recipe": about["recipe"]}
        if earlier.get("finished") and (epochs == before or self.progress.is_over(epochs, self.options.patience)):
            self.finished = self.finished_line(before)
        else:
            self.meta["finished"] = False

    def refuse(self, about, earlier):
        """Raise InputError: a training lies here, and neither --resume nor --overwrite was given."""
        if not is_same_or_longer(about, earlier):
            raise other_training(self.folder, differences(about, earlier))
        if not earlier.get("finished"):
            raise unfinished(self.folder)
        self.progress = self.last_progress()
        raise already_finished(self.finished_line(earlier["recipe"]["epochs"]), self.progress)

    def finished_line(self, planned):
        if self.progress is None:
            return finished_line(self.folder, [planned], False, False, self.options)
        stopped = self.progress.stopped_early(self.options.patience)
        return finished_line(self.folder, [len(self.progress.losses)], stopped, True, self.options)

    def prepare(self, pictures, held_out):
        """Choose the palette, write what the network will see, and cut the pictures into windows."""
        if "palette" not in self.meta:
            self.clear()
            self.meta["palette"] = self.choose_palette(pictures)
        self.palette = self.meta["palette"]
        tokens = util.to_palette(pictures, self.palette)
        quantized = util.from_palette(tokens[:100], self.palette, self.recipe.height, self.recipe.width)
        error = util.color_error(pictures[:100], quantized)
        kind = "colours" if self.recipe.gray is None else "greys"
        print(f"palette: {len(self.palette)} {kind}, mean Delta E {error:.2f}", flush=True)
        about = util.provenance(self.options.seed)
        imaging.save_png(
            self.folder / "preview.png", imaging.contact_sheet(np.stack([pictures[0], quantized[0]]), 2), about
        )
        imaging.save_png(self.folder / "starts.png", self.palette[self.choose_starts(tokens)], about)
        self.write_meta()
        self.windows = self.cut(tokens)
        self.held_out = self.cut(util.to_palette(held_out, self.palette), whole=True) if len(held_out) else None

    def clear(self):
        """Remove what an earlier training has left in the folder: first of all what says that there was one."""
        (self.folder / "meta.json").unlink(missing_ok=True)
        for path in self.learned():
            path.unlink()

    def learned(self):
        """Yield what an earlier training has written here as it learned."""
        for pattern in LEARNED:
            yield from self.folder.glob(pattern)

    def choose_palette(self, pictures):
        if self.recipe.gray is not None:
            return util.gray_palette(self.recipe.gray)
        palette = util.fit_palette(pictures, self.recipe.colors, self.options.seed)
        if len(palette) < 2:
            raise config.InputError("all pixels of these pictures have one colour; there is nothing to learn")
        if len(palette) < self.recipe.colors:
            note(f"only {len(palette)} different colours of {self.recipe.colors} were found", self.options)
        return palette

    def choose_starts(self, tokens):
        """Cut random windows out of the pictures, for drawings to start from: tokens STARTS x window."""
        rng = np.random.default_rng(self.options.seed)
        pictures = rng.integers(len(tokens), size=STARTS)
        places = rng.integers(tokens.shape[1] - self.recipe.window + 1, size=STARTS)
        return tokens[pictures[:, None], places[:, None] + np.arange(self.recipe.window)]

    def cut(self, tokens, whole=False):
        recipe = self.recipe
        settings = (recipe.window, recipe.stride, recipe.batch_size, recipe.targets, whole)
        return util.Windows(tokens, recipe.width, recipe.height, recipe.context, *settings)

    def write_meta(self):
        disk.write_json(self.folder / "meta.json", self.meta | {"palette": util.write_palette(self.palette)})

    # The work

    def build(self, fused):
        options = util.painter_options(dataclasses.asdict(self.recipe), self.palette)
        return util.build_painter(**options, targets=self.recipe.targets, fused=fused)

    def set_up(self):
        """Build the network, its optimizer and what is compiled of them."""
        recipe = self.recipe
        keras.utils.set_random_seed(self.options.seed)
        self.model = self.build(fused=not hardware.has_gpu())
        util.show_colors(self.model, self.palette, self.options.seed)
        kind = {"adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop}[recipe.optimizer]
        self.model.optimizer = kind(recipe.learning_rate, global_clipnorm=recipe.clip)
        if keras.config.dtype_policy().name == "mixed_float16":
            self.model.optimizer = keras.optimizers.LossScaleOptimizer(self.model.optimizer)
        self.model.optimizer.build(self.model.trainable_variables)
        self.learn = util.make_learner(self.model, self.model.optimizer)
        self.evaluate = util.make_evaluator(self.model)
        self.paint = util.make_painter(self.model, recipe.context, (recipe.height, recipe.width))

    def execute(self):
        """Train to the end, from the last checkpoint where there is one. Raises Interrupted after Ctrl-C."""
        self.set_up()
        begun, resumed = time.monotonic(), self.progress is not None
        self.progress = progress = self.progress or Progress([], [], [])
        if progress.variables:
            put_variables(self.model, progress.variables)
        if progress.losses and not progress.step:
            self.show(progress)  # a kill may have come between the checkpoint and this
        epochs, steps = self.recipe.epochs, self.windows.steps
        disable = True if self.options.quiet else None
        done = len(progress.losses) * steps + progress.step
        with (
            heeded_interrupt() as self.stop,
            tqdm.tqdm(total=epochs * steps, initial=done, unit="step", disable=disable) as self.bar,
        ):
            while not progress.is_over(epochs, self.options.patience):
                self.train_epoch(progress)
                self.finish_epoch(progress)
        if self.held_out:
            self.save_model("model_last.keras")
        self.meta["finished"] = True
        self.write_meta()
        for path in self.checkpoints():
            if path != self.last_checkpoint:
                path.unlink(missing_ok=True)
        self.duration = in_words(time.monotonic() - begun) + " since it went on" * resumed

    def figures(self):
        """Return what to print of the training, by name."""
        if not self.progress:
            return {}
        losses, scores = self.progress.losses, self.progress.validation_losses
        stopped = self.progress.stopped_early(self.options.patience)
        figures = {"epochs": described_epochs([len(losses)], stopped, self.options), "loss": nats_and_bits(losses[-1])}
        if scores:
            best = int(np.argmin(scores))
            figures["validation_loss"] = f"{nats_and_bits(scores[best])}, the best, after epoch {best + 1}"
        return figures | ({"duration": self.duration} if self.duration else {})

    def can_go_on(self):
        """Say whether more epochs would add to the training."""
        return bool(self.progress) and not self.progress.stopped_early(self.options.patience)

    def train_epoch(self, progress):
        """Run over the pictures once, from the step that `progress` has come to."""
        steps, epoch = self.windows.steps, len(progress.losses)
        states, saved = list(progress.states), time.monotonic()
        while progress.step < steps:
            inputs, targets, weight, first = self.windows.batch(self.options.seed, epoch, progress.step)
            self.model.optimizer.learning_rate = learning_rate(
                self.recipe,
                epoch * steps + progress.step,
                self.recipe.epochs * steps,
                progress.validation_losses or progress.losses,
            )
            loss, states = self.learn(inputs | self.carry(states, first), targets, weight)
            if not math.isfinite(loss):
                raise config.InputError(DIVERGED)
            progress.nats += float(loss) * float(weight.sum())
            progress.pixels += float(weight.sum())
            progress.step += 1
            self.bar.update()
            self.bar.set_postfix(loss=f"{progress.nats / progress.pixels:.3f} nats", refresh=False)
            if self.stop.is_set() or time.monotonic() - saved > SAVE_SECONDS:
                self.save_progress(progress, states)
                saved = time.monotonic()
                self.obey_interrupt()

    def carry(self, states, first):
        """Return the inputs that hand a batch the states of the one before it, zero where a window comes first."""
        names = [name for name in self.model.input if name.startswith("state_")]
        zero = np.zeros((len(first), self.recipe.units), "float32")
        kept = (1 - first.astype("float32"))[:, None]
        return {name: state * kept for name, state in zip(names, states or [zero] * len(names))}

    def obey_interrupt(self):
        if self.stop.is_set():
            raise config.Interrupted(
                f"interrupted; {self.folder} is kept, and the same command with --resume goes on from here"
            )

    def finish_epoch(self, progress):
        """Score, save, draw and plot at the end of an epoch."""
        progress.losses.append(progress.nats / progress.pixels)
        progress.step, progress.nats, progress.pixels = 0, 0.0, 0.0
        if self.held_out:
            progress.validation_losses.append(self.validation_loss())
        scores = progress.validation_losses or [0]
        if np.isfinite(scores[-1]) and scores[-1] == min(scores):
            self.save_model("model.keras")
        self.save_progress(progress, [])
        self.show(progress)
        self.obey_interrupt()

    def show(self, progress):
        """Write the losses, and where a sample sheet is due, draw it and their curve."""
        epoch = len(progress.losses)
        due = epoch == 1 or epoch % self.options.sample_every == 0 or epoch == self.recipe.epochs
        path = self.folder / "samples" / f"epoch_{epoch:04}.png"
        curves = {"loss": progress.losses, "validation": progress.validation_losses}
        curves = {name: np.array(losses) for name, losses in curves.items() if losses}
        self.write_losses(curves)
        if due and not path.exists():
            self.draw_samples(path)
        if due or progress.is_over(self.recipe.epochs, self.options.patience):
            self.plot_losses(curves)

    def validation_loss(self):
        """Return the nats a pixel of the pictures held out."""
        states, nats, pixels = [], 0.0, 0.0
        for step in range(self.held_out.steps):
            inputs, targets, weight, first = self.held_out.batch(0, 0, step)
            loss, states = self.evaluate(inputs | self.carry(states, first), targets, weight)
            nats += float(loss) * float(weight.sum())
            pixels += float(weight.sum())
        return nats / pixels

    def save_model(self, name):
        self.check_finite()
        model = self.build(fused=False)
        model.set_weights(self.model.get_weights())
        util.save_model(self.folder / name, model)

    def check_finite(self):
        """Raise InputError rather than write a network that the last step has spoilt."""
        if not all(np.isfinite(weight).all() for weight in self.model.get_weights()):
            raise config.InputError(DIVERGED)

    def draw_samples(self, path):
        """Draw a picture at each of TEMPERATURES, all from the same random numbers."""
        pixels = self.recipe.width * self.recipe.height
        uniform = np.random.default_rng(self.options.seed).random(pixels, dtype="float32")
        known = np.zeros((len(TEMPERATURES), pixels), "int32")
        temperatures = np.array(TEMPERATURES, "float32")
        uniform = np.tile(uniform, (len(TEMPERATURES), 1))
        tokens = self.paint(util.weights_of(self.model), known, uniform, np.int32(0), temperatures)
        pictures = util.from_palette(tokens, self.palette, self.recipe.height, self.recipe.width)
        about = util.provenance(self.options.seed, temperatures=TEMPERATURES)
        imaging.save_png(path, imaging.contact_sheet(pictures, len(TEMPERATURES)), about)

    def write_losses(self, curves):
        """Write the loss of each epoch into loss.csv, in nats and in bits a pixel."""
        with disk.whole_file(self.folder / "loss.csv") as temporary, open(temporary, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", *(f"{name}_{unit}" for name in curves for unit in ("nats", "bits"))])
            for epoch, losses in enumerate(zip(*curves.values(), strict=True), 1):
                writer.writerow([epoch, *(f"{loss / unit:.6f}" for loss in losses for unit in (1, math.log(2)))])

    def plot_losses(self, curves):
        """Draw the loss of each epoch into loss.png, in nats and in bits a pixel."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        for name, losses in curves.items():
            axes.plot(range(1, len(losses) + 1), losses, label=name)
        axes.set(xlabel="epoch", ylabel="nats a pixel", title=self.meta["source"])
        bits = axes.secondary_yaxis("right", functions=(lambda x: x / math.log(2), lambda x: x * math.log(2)))
        bits.set_ylabel("bits a pixel")
        axes.legend()
        with disk.whole_file(self.folder / "loss.png") as temporary:
            figure.savefig(temporary, format="png", dpi=100, metadata=util.provenance(self.options.seed))

    # Checkpoints

    def checkpoints(self):
        return [self.folder / f"checkpoint_{name}.npz" for name in ("a", "b")]

    def save_progress(self, progress, states):
        """Write the checkpoint that is not the last one; that stays whole whatever happens."""
        self.check_finite()
        progress.variables = [variable.numpy() for variable in variables_of(self.model)]
        progress.states = [np.asarray(state, "float32") for state in states]
        path = next(path for path in self.checkpoints() if path != self.last_checkpoint)
        progress.save(path)
        self.last_checkpoint = path

    def last_progress(self):
        """Read the checkpoint that has come further; where that is damaged, say so and take the other."""
        found, damaged = {}, []
        for path in filter(pathlib.Path.exists, self.checkpoints()):
            try:
                found[path] = Progress.load(path)
            except config.InputError as error:
                damaged.append(str(error))
        self.last_checkpoint = max(found, key=lambda path: (len(found[path].losses), found[path].step), default=None)
        last = found.get(self.last_checkpoint)
        if damaged:
            come = f"epoch {len(last.losses) + 1}, step {last.step + 1}" if last else "the beginning"
            print(f"note: {', '.join(damaged)}; going on from {come}", file=sys.stderr)
        return last


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


if __name__ == "__main__":
    config.run(main)
