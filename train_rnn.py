"""Train a network to draw digits pixel by pixel: one for each class.

    python train_rnn.py digits --all-digits
    python train_rnn.py mnist --digit 0 --num-images 100 --epochs 100
    python train_rnn.py mnist --all-digits --preset best

A picture is read row by row as a sequence of grey levels, and a recurrent network learns to predict each
pixel from those before it: p(picture) is the product of its predictions. generate_rnn.py draws from it,
and classify_mnist.py compares p(picture) under the models of all classes by Bayes' rule.

Writes model_<class>.keras, meta.json and loss.png into trained/SOURCE, or trained/SOURCE-2 and so on where
other models lie there already. The classes are trained side by side, one on each core. After every epoch a
checkpoint is written; the same command with --resume goes on from it.
"""

import concurrent.futures
import dataclasses
import pathlib
import queue
import sys
import threading
import zipfile
import zlib

import numpy as np

import config

keras = config.lazy_import("keras")
tqdm = config.lazy_import("tqdm")
util = config.lazy_import("util")


def parse_arguments():
    parser = config.Parser(__doc__)
    parser.add_argument(
        "source", nargs="?", default="digits", help="digits, mnist, fashion_mnist, or a name for --data"
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--digit", type=int, metavar="CLASS", help="train the model of this class")
    which.add_argument("--all-digits", action="store_true", help="train one model for each class")
    parser.add_argument("--preset", choices=config.PRESETS, help="recipe (default: digits for digits, else tutorial)")
    config.add_options(parser, config.Train)
    recipe = parser.add_argument_group("recipe", "each of these overrides the preset")
    config.add_options(recipe, config.Recipe, default_help=False)
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    default_preset = "digits" if arguments.source == "digits" else "tutorial"
    preset = arguments.preset or default_preset
    recipe = config.collect(config.Recipe, arguments, config.PRESETS[preset])
    options = config.collect(config.Train, arguments)
    check(recipe, options)
    suffix = "" if preset == default_preset else f"_{preset}"
    name = f"{pathlib.Path(arguments.source).name}{suffix}"
    train(arguments.source, arguments.digit, preset, recipe, options, name)


def check(recipe, options):
    """Raise InputError for a number that makes no sense, before anything is loaded."""
    for name, low, high in (
        ("size", 2, 256),
        ("levels", 2, 256),
        ("units", 1, 8192),
        ("layers", 1, 16),
        ("epochs", 1, 100_000),
        ("batch_size", 1, 100_000),
        ("shift", 0, 8),
    ):
        if not low <= getattr(recipe, name) <= high:
            raise config.InputError(f"--{name.replace('_', '-')} must be from {low} to {high}")
    if not 0 <= recipe.dropout < 1:
        raise config.InputError("--dropout must be at least 0 and below 1")
    if not 0 < recipe.learning_rate <= 1:
        raise config.InputError("--learning-rate must be above 0 and at most 1")
    if not 0 <= options.validation_split < 1:
        raise config.InputError("--validation-split must be at least 0 and below 1")
    if options.num_images is not None and options.num_images < 1:
        raise config.InputError("--num-images must be at least 1")
    if options.patience is not None and (options.patience < 1 or not options.validation_split):
        raise config.InputError("--patience must be at least 1 and needs --validation-split")


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
    training, waiting = find_training(about, recipe, options, name, classes)
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


def find_training(about, recipe, options, name, classes):
    """Begin, or resume, the training in --output or else in the first of trained/name, name-2, ... that can take it."""
    if options.output or options.overwrite:
        training = Training(about, recipe, options, pathlib.Path(options.output or f"trained/{name}"))
        return training, training.begin(classes)
    folder, number = pathlib.Path(f"trained/{name}"), 1
    while True:
        training = Training(about, recipe, options, folder)
        try:
            waiting = training.begin(classes)
        except config.InputError:
            if not folder.exists():
                raise
            waiting = []
        if waiting:
            return training, waiting
        number += 1
        folder = pathlib.Path(f"trained/{name}-{number}")


def prepare_pictures(images, recipe, options):
    """Return one class's training sequences, uint8 V x N x T (V moved copies), and those held out, N x T."""
    images = np.random.default_rng(options.seed).permutation(images[: options.num_images])
    kept = len(images) - round(len(images) * options.validation_split)
    copies = util.shifted_copies(images[:kept], recipe.shift)
    training = np.stack([util.to_sequences(copy, recipe.size, recipe.levels) for copy in copies])
    return training, util.to_sequences(images[kept:], recipe.size, recipe.levels)


def learning_rate(recipe, step, steps):
    """The rate of one of `steps` optimizer steps: constant, or up over the first tenth and down along a cosine."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    rise = max(1, steps // 10)
    if step < rise:
        return recipe.learning_rate * (step + 1) / rise
    return recipe.learning_rate * (1 + np.cos(np.pi * (step - rise) / (steps - rise))) / 2


@dataclasses.dataclass
class Progress:
    """How far one class has come: all there is to know to go on exactly from the end of an epoch."""

    variables: list  # of the network and of its optimizer
    losses: list  # nats a picture, one for each epoch
    validation_losses: list
    best: list | None = None  # the variables after the best epoch, where a validation score stops the training

    def save(self, path):
        arrays = {f"variable_{i}": value for i, value in enumerate(self.variables)}
        arrays |= {f"best_{i}": value for i, value in enumerate(self.best or [])}
        with util.whole_file(path) as temporary:
            np.savez(temporary, losses=self.losses, validation_losses=self.validation_losses, **arrays)

    @classmethod
    def load(cls, path):
        with np.load(path) as file:
            numbered = {kind: [name for name in file if name.startswith(kind)] for kind in ("variable_", "best_")}
            variables, best = ([file[name] for name in numbered[kind]] for kind in ("variable_", "best_"))
            return cls(variables, file["losses"].tolist(), file["validation_losses"].tolist(), best or None)

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
        differing = [
            key
            for key in self.meta
            if earlier and key not in ("versions", "classes") and earlier.get(key) != self.meta[key]
        ]
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
        changes = "; ".join(difference(key, earlier.get(key), self.meta[key]) for key in differing)
        raise config.InputError(
            f"{self.folder} holds another training ({changes}); give the same options, or another --output"
        )

    def refuse_begun(self, kept, classes):
        for label in classes:
            if kept.get(str(label)):
                raise config.InputError(f"{self.model_path(label)} exists already; pass --overwrite to replace it")
            if str(label) in kept:
                raise config.InputError(
                    f"{self.folder} holds an unfinished training; --resume goes on, --overwrite starts anew"
                )

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
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                raise config.InputError(
                    f"{self.checkpoint(label)} is damaged; delete it to train class {label} anew"
                ) from error
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


if __name__ == "__main__":
    config.run(main)
