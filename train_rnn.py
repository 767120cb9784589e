"""Train a network to paint like a folder of pictures, or to draw digits: pixel by pixel.

    python train_rnn.py images/monet
    python train_rnn.py images/inks --preset sumi-e --validation other/folder
    python train_rnn.py mnist --all-digits --preset best

A picture is read row by row as a sequence of colours or grey levels, and a recurrent network learns to predict
each pixel from those before it: p(picture) is the product of its predictions. generate_rnn.py draws from it, and
classify_mnist.py compares p(picture) under the models of all classes of digits by Bayes' rule.

Writes into trained/SOURCE, or trained/SOURCE-2 and so on where other models lie there already. Of a folder of
pictures: model.keras, meta.json with the palette, preview.png (what the network sees), loss.csv and loss.png, and
samples/, drawn as the training goes. Of digits: model_<class>.keras for each class, trained side by side, one on
each core. Interrupt it when you like; the same command with --resume goes on.
"""

import config  # first, since it puts Ctrl-C in a line from here on

# isort: split
import concurrent.futures
import contextlib
import csv
import dataclasses
import functools
import math
import pathlib
import queue
import signal
import sys
import threading
import time
import zipfile
import zlib

import numpy as np

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
        help="a folder of pictures; or digits, mnist, fashion_mnist, a --data set",
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
    suffix = "" if preset == default_preset else f"_{preset}"
    train(arguments.source, arguments.digit, preset, recipe, options, f"{name}{suffix}")


def is_folder_of_pictures(arguments):
    """Say whether the source is a folder to learn painting from; other sources are sets of digits."""
    known = arguments.source in ("digits", "mnist", "fashion_mnist")
    return not known and not getattr(arguments, "data", None) and pathlib.Path(arguments.source).is_dir()


def check_kind(arguments, preset, paints):
    """Raise InputError for a preset or a flag that is not for this kind of source."""
    kind, other = (config.PainterRecipe, config.DigitRecipe) if paints else (config.DigitRecipe, config.PainterRecipe)
    what = "sets of digits" if paints else "folders of pictures"
    if not paints and arguments.digit is None and not arguments.all_digits:
        raise config.InputError(
            f"there is no folder of pictures {arguments.source}; for a set of digits, add --all-digits or --digit CLASS"
        )
    if not isinstance(config.PRESETS[preset], kind):
        raise config.InputError(f"the preset {preset} is for {what}, which {arguments.source} is not")
    fields = {item.name for item in dataclasses.fields(other)} - {item.name for item in dataclasses.fields(kind)}
    for name in (*fields, *(DIGITS_ONLY if paints else PAINTERS_ONLY)):
        if config.was_given(arguments, name):
            raise config.InputError(f"--{name.replace('_', '-')} is for {what}, which {arguments.source} is not")


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


# --- Digits ------------------------------------------------------------------------------------


def train(source, digit, preset, recipe, options, name):
    """Train one class, or all side by side, and write their models into a folder, by default trained/`name`."""
    images, labels, _, _ = util.load_dataset(source, options.data)
    classes = [digit] if digit is not None else [int(label) for label in np.unique(labels)]
    for label in classes:
        check_pictures(label, int((labels == label).sum()), options)
    device = util.use_precision(options.precision, recipe.batch_size)
    if not options.quiet:
        print(f"device: {device}", file=sys.stderr)

    about = {"source": source, "preset": preset, "recipe": dataclasses.asdict(recipe)}
    about |= {flag: getattr(options, flag) for flag in ("seed", "num_images", "validation_split", "patience")}
    about |= {"precision": keras.config.dtype_policy().name, "data_crc32": fingerprint(images, labels)}
    training, waiting = find_folder(
        lambda folder: begin_training(about, recipe, options, folder, classes), options, name
    )
    for label in waiting:
        own = images[labels == label]
        training.add(label, *prepare_pictures(own, recipe, options), available=len(own))
    training.execute()
    print(f"models: {training.folder}")
    try:
        print(f"loss_curve: {training.plot()}")
    except OSError as error:
        raise config.PartlyDone(f"{config.describe(error)}; the models are there, the loss curve is not") from error


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


def find_folder(begin, options, name):
    """Begin, or resume, a training in --output or else in the first of trained/name, name-2, ... that can take it.

    `begin` takes a folder, returns the training and raises InputError where it can't be begun there.
    """
    folder = pathlib.Path(options.output or f"trained/{name}")
    if options.output or options.overwrite:
        return begin(folder)
    number, first_refusal = 1, None
    while True:
        try:
            return begin(folder)
        except config.Unfinished:
            raise
        except config.InputError as error:
            if not folder.exists():
                raise first_refusal or error from error
            first_refusal = first_refusal or error
        number += 1
        folder = pathlib.Path(f"trained/{name}-{number}")


def begin_training(about, recipe, options, folder, classes):
    training = Training(about, recipe, options, folder)
    waiting = training.begin(classes)
    if not waiting and not options.output:
        raise config.InputError(f"{folder} holds these classes, trained to their end")
    return training, waiting


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
        with util.whole_file(path) as temporary:
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
        """Say whether all epochs are done, or the last `patience` of them brought nothing."""
        if patience is None or not self.validation_losses:
            return len(self.losses) >= epochs
        stale = len(self.validation_losses) - 1 - int(np.argmin(self.validation_losses))
        return len(self.losses) >= epochs or stale >= patience


class Training:
    """Several classes trained side by side, and the folder that holds their models.

    meta.json lists the classes as soon as they are begun, and tells about each when its model is written;
    until then checkpoint_<class>.npz holds its progress.
    """

    def __init__(self, about, recipe, options, folder):
        self.recipe, self.options, self.folder = recipe, options, folder
        self.meta = about | {"versions": util.versions(), "classes": {}}
        self.tasks = {}
        self.lock = threading.Lock()
        self.stop = threading.Event()

    # The folder

    def begin(self, classes):
        """Enter the classes into the folder's meta.json; return those still to be trained. Raises InputError."""
        path = self.folder / "meta.json"
        earlier = util.load_meta(self.folder) if path.exists() else None
        if self.options.resume and earlier is None:
            raise config.InputError(f"{self.folder} holds no training to resume")
        if earlier and "classes" not in earlier:
            raise config.InputError(f"{self.folder} holds a painter; give another --output")
        differing = differing_keys(self.meta, earlier) if earlier else []
        kept = earlier["classes"] if earlier else {}
        if differing:
            self.refuse_other_training(differing, earlier, classes)
            kept = {}
        if not (self.options.resume or self.options.overwrite):
            self.refuse_begun(kept, classes)
        if self.options.resume and not any(str(label) in kept for label in classes):
            raise config.InputError(f"{self.folder} holds no training of class {classes[0]} to resume")
        waiting = [label for label in classes if not self.options.resume or kept.get(str(label)) == {}]
        if not self.options.resume:
            for label in waiting:
                self.checkpoint(label).unlink(missing_ok=True)
                self.model_path(label).unlink(missing_ok=True)
        self.meta["classes"] = kept | {str(label): {} for label in waiting}
        util.write_json(path, self.meta)
        return waiting

    def refuse_other_training(self, differing, earlier, classes):
        """Raise InputError unless every model of the earlier, different training is to be overwritten."""
        if self.options.overwrite and not self.options.resume and set(map(int, earlier["classes"])) <= set(classes):
            return
        raise other_training(self.folder, differing, earlier, self.meta)

    def refuse_begun(self, kept, classes):
        for label in classes:
            if kept.get(str(label)):
                raise config.InputError(f"{self.model_path(label)} exists already; pass --overwrite to replace it")
            if str(label) in kept:
                raise unfinished(self.folder)

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
        progress = {label: self.first_progress(label) for label in self.tasks}
        images = {label: self.tasks[label][0].shape[1] for label in self.tasks}
        total = sum(images[label] * self.recipe.epochs for label in self.tasks)
        done = sum(images[label] * len(progress[label].losses) for label in self.tasks)
        workers = 1 if util.has_gpu() else max(1, min(util.cpu_count(), len(self.tasks)))
        self.trainers = queue.SimpleQueue()
        for _ in range(workers):
            self.trainers.put(build_trainer(self.recipe))
        self.score = util.make_scorer(util.build_rnn(**network_options(self.recipe)), self.recipe.context)
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

    def explain(self, error):
        """Raise what the user should read when the training ends early."""
        if isinstance(error, KeyboardInterrupt):
            raise config.Interrupted(
                "interrupted; the same command with --resume goes on from the last epoch"
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
        """Write a class's model, enter it into meta.json and drop its checkpoint."""
        model = util.build_rnn(**network_options(self.recipe), dtype="float32")
        model.set_weights(trainer.get_weights())
        util.save_model(self.model_path(label), model)
        entry = {"pictures": available, "trained_on": trained_on, "epochs": len(progress.losses)}
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
            util.write_json(self.folder / "meta.json", self.meta)
        self.checkpoint(label).unlink()

    def plot(self):
        """Draw each class's loss over the epochs into loss.png; return its path."""
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
        path = self.folder / "loss.png"
        with util.whole_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=100, metadata=util.provenance(self.options.seed))
        return path


def differing_keys(meta, earlier):
    """List what an earlier training's meta.json says of its options and data that is not so in this one's."""
    return [key for key in meta if key not in ("versions", "classes") and earlier.get(key) != meta[key]]


def other_training(folder, differing, earlier, meta):
    """Make the InputError which says that the folder's training is another one, and how it differs."""
    changes = "; ".join(difference(key, earlier.get(key), meta[key]) for key in differing)
    return config.InputError(f"{folder} holds another training ({changes}); give the same options, or another --output")


def unfinished(folder):
    return config.Unfinished(f"{folder} holds an unfinished training; --resume goes on, --overwrite starts anew")


def difference(key, before, now):
    """Put into words what differs between two trainings."""
    if isinstance(before, dict) and isinstance(now, dict):
        return ", ".join(f"{name} {before.get(name)}, not {now[name]}" for name in now if before.get(name) != now[name])
    return f"{key} {before}, not {now}"


def network_options(recipe):
    return util.network_options(dataclasses.asdict(recipe))


def build_trainer(recipe):
    """Build the network with its optimizer, compiled; one trainer trains many classes, one after the other."""
    fused = not util.has_gpu()
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
    device = util.use_precision(options.precision, recipe.batch_size)
    if not options.quiet:
        for line in refused:
            print(f"note: left out: {line}", file=sys.stderr)
        print(f"device: {device}", file=sys.stderr)
    about = {"source": str(source), "preset": preset, "recipe": dataclasses.asdict(recipe)}
    about |= {flag: getattr(options, flag) for flag in ("seed", "num_images", "validation_split", "patience")}
    about |= {"precision": keras.config.dtype_policy().name}
    about |= {"pictures": len(pictures), "data_crc32": zlib.crc32(pictures.tobytes(), zlib.crc32(held_out.tobytes()))}
    training = find_folder(lambda folder: PainterTraining(about, recipe, options, folder), options, name)
    print(f"folder: {training.folder}")
    training.prepare(pictures, held_out)
    del pictures, held_out  # what is left of them is two bytes a pixel
    training.execute()
    for line in ("model.keras", "loss.png"):
        print(f"{line.split('.')[0]}: {training.folder / line}")
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
    read = functools.partial(util.load_pictures, width=recipe.width, height=recipe.height, gray=recipe.gray is not None)
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


class PainterTraining:
    """One network trained on a folder of pictures, and the folder that holds what comes of it.

    meta.json tells of the training and holds the palette; two checkpoints take turns, so that one is always whole.
    """

    def __init__(self, about, recipe, options, folder):
        """Take a folder for a new training, or for the one that lies there. Raises InputError where it can't be."""
        self.recipe, self.options, self.folder = recipe, options, folder
        self.meta = about | {"versions": util.versions()}
        earlier = util.load_meta(folder) if (folder / "meta.json").exists() else None
        if options.resume:
            if earlier is None:
                raise config.InputError(f"{folder} holds no training to resume")
            differing = differing_keys(about, earlier)
            if differing:
                raise other_training(folder, differing, earlier, about)
            if earlier.get("finished"):
                raise config.InputError(f"the training in {folder} is finished; --overwrite starts it anew")
            self.meta = earlier
        elif earlier and "classes" in earlier:
            raise config.InputError(f"{folder} holds models of digits; give another --output")
        elif earlier and not options.overwrite:
            if not earlier.get("finished") and not differing_keys(about, earlier):
                raise unfinished(folder)
            raise config.InputError(f"{folder} holds another training; give another --output, or --overwrite")
        elif not options.overwrite and list(self.leftovers()):
            raise config.InputError(f"{next(self.leftovers())} is in the way; give another --output, or --overwrite")

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
        util.save_png(self.folder / "preview.png", util.contact_sheet(np.stack([pictures[0], quantized[0]]), 2), about)
        util.save_png(self.folder / "starts.png", self.palette[self.choose_starts(tokens)], about)
        self.write_meta()
        self.windows = self.cut(tokens)
        self.held_out = self.cut(util.to_palette(held_out, self.palette), whole=True) if len(held_out) else None

    def clear(self):
        """Remove what an earlier training has left in the folder: first of all what says that there was one."""
        (self.folder / "meta.json").unlink(missing_ok=True)
        for path in self.leftovers():
            path.unlink()

    def leftovers(self):
        """Yield the files of an earlier training, also the hidden ones of a write that was killed."""
        names = ("model.keras", "model_last.keras", "loss.csv", "loss.png", "samples/epoch_*.png")
        for pattern in (*names, "checkpoint_[ab].npz", ".checkpoint_[ab]-*.npz", ".model*-*.keras"):
            yield from self.folder.glob(pattern)

    def choose_palette(self, pictures):
        if self.recipe.gray is not None:
            return util.gray_palette(self.recipe.gray)
        palette = util.fit_palette(pictures, self.recipe.colors, self.options.seed)
        if len(palette) < 2:
            raise config.InputError("all pixels of these pictures have one colour; there is nothing to learn")
        if len(palette) < self.recipe.colors and not self.options.quiet:
            print(f"note: only {len(palette)} different colours of {self.recipe.colors} were found", file=sys.stderr)
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
        util.write_json(self.folder / "meta.json", self.meta | {"palette": util.write_palette(self.palette)})

    # The work

    def build(self, fused):
        options = util.painter_options(dataclasses.asdict(self.recipe), self.palette)
        return util.build_painter(**options, targets=self.recipe.targets, fused=fused)

    def set_up(self):
        """Build the network, its optimizer and what is compiled of them."""
        recipe = self.recipe
        keras.utils.set_random_seed(self.options.seed)
        self.model = self.build(fused=not util.has_gpu())
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
        progress = self.last_progress() or Progress([], [], [])
        if progress.variables:
            put_variables(self.model, progress.variables)
        if progress.losses and not progress.step:
            self.show(progress)  # a kill may have come between the checkpoint and this
        epochs, steps = self.recipe.epochs, self.windows.steps
        disable = True if self.options.quiet else None
        begun = len(progress.losses) * steps + progress.step
        with (
            heeded_interrupt() as self.stop,
            tqdm.tqdm(total=epochs * steps, initial=begun, unit="step", disable=disable) as self.bar,
        ):
            while not progress.is_over(epochs, self.options.patience):
                self.train_epoch(progress)
                self.finish_epoch(progress)
        self.meta["finished"] = True
        self.write_meta()
        for path in self.checkpoints():
            path.unlink(missing_ok=True)

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
        if progress.is_over(self.recipe.epochs, self.options.patience) and self.held_out:
            self.save_model("model_last.keras")
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
        util.save_png(path, util.contact_sheet(pictures, len(TEMPERATURES)), about)

    def write_losses(self, curves):
        """Write the loss of each epoch into loss.csv, in nats and in bits a pixel."""
        with util.whole_file(self.folder / "loss.csv") as temporary, open(temporary, "w", newline="") as file:
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
        with util.whole_file(self.folder / "loss.png") as temporary:
            figure.savefig(temporary, format="png", dpi=100, metadata=util.provenance(self.options.seed))

    # Checkpoints

    def checkpoints(self):
        return [self.folder / f"checkpoint_{name}.npz" for name in ("a", "b")]

    def save_progress(self, progress, states):
        """Write the checkpoint that is the older one; the other stays whole whatever happens."""
        self.check_finite()
        progress.variables = [variable.numpy() for variable in variables_of(self.model)]
        progress.states = [np.asarray(state, "float32") for state in states]
        paths = self.checkpoints()
        paths.sort(key=lambda path: path.stat().st_mtime_ns if path.exists() else 0)
        progress.save(paths[0])

    def last_progress(self):
        """Read the checkpoint that has come further; where that is damaged, say so and take the other."""
        found, damaged = [], []
        for path in filter(pathlib.Path.exists, self.checkpoints()):
            try:
                found.append(Progress.load(path))
            except config.InputError as error:
                damaged.append(str(error))
        last = max(found, key=lambda progress: (len(progress.losses), progress.step), default=None)
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
