"""Digits: a network for each class, trained side by side, and the folder that holds their models.

In goes a data set (datasets.py), out come model_<class>.keras, meta.json and loss.png.
"""

import concurrent.futures
import dataclasses
import functools
import queue
import sys
import threading
import time
import zlib

from atelier import hardware  # has TensorFlow start quietly

# isort: split
import keras
import numpy as np
import tqdm

import util
from atelier import disk, leases, provenance, trainings
from atelier.command_line import lazy_import
from atelier.errors import InputError, Interrupted, PartlyDone, describe
from atelier.pixel_rnn import datasets, model_files, model_meta, recurrent

cluster = lazy_import("atelier.batch.cluster")


def train(source, digit, preset, recipe, options, name):
    """Train one class, or all side by side, and write their models into a folder, by default trained/`name`."""
    images, labels, _, _ = datasets.load_dataset(source, options.data)
    classes = [digit] if digit is not None else [int(label) for label in np.unique(labels)]
    for label in classes:
        check_pictures(label, int((labels == label).sum()), options)
    device = hardware.use_precision(options.precision, "training", recipe.batch_size)
    if not options.quiet:
        print(f"device: {device}", file=sys.stderr)

    about = {"source": source, "preset": preset, "recipe": dataclasses.asdict(recipe)}
    about |= {flag: getattr(options, flag) for flag in ("seed", "num_images", "validation_split", "patience")}
    about |= {"precision": keras.config.dtype_policy().name, "data_crc32": fingerprint(images, labels)}
    training = trainings.find_folder(lambda folder: Training(about, recipe, options, folder, classes), options, name)
    if training.finished:
        trainings.note(training.finished, options)
    else:
        training.execute({label: images[labels == label] for label in training.waiting})
    print(f"models: {training.folder}")
    trainings.print_figures(training.figures(classes))
    try:
        if not training.finished or training.has_checkpoints(classes):
            training.plot()  # also of a finished training: it may have been killed just before this
        print(f"loss_curve: {training.folder / 'loss.png'}")
    except OSError as error:
        raise PartlyDone(f"{describe(error)}; the models are there, the loss curve is not") from error
    trainings.print_drawing(training.folder, *training.drawing_flags(classes))
    trainings.print_longer(training.can_go_on(classes))
    disk.remove_leftovers(training.folder, FILES_OF_DIGITS, training.opened)


def fingerprint(images, labels):
    """Return a checksum of the training set, so that a training is not resumed with another one."""
    return zlib.crc32(labels.astype("int64").tobytes(), zlib.crc32(images.tobytes()))


def check_pictures(label, count, options):
    """Raise InputError where a class has no pictures to train on, or none to hold out."""
    count = min(count, options.num_images or count)
    if not count:
        raise InputError(f"there are no training pictures of class {label}")
    held_out = round(count * options.validation_split)
    if options.validation_split and not 0 < held_out < count:
        raise InputError(f"--validation-split would hold out {held_out} of the {count} pictures of class {label}")


def count_trained(available, options):
    """Return on how many pictures of a class it is trained, of those that there are."""
    count = min(available, options.num_images or available)
    return count - round(count * options.validation_split)


def prepare_pictures(images, recipe, options):
    """Return one class's training sequences, uint8 V x N x T (V moved copies), and those held out, N x T."""
    kept = count_trained(len(images), options)
    images = np.random.default_rng(options.seed).permutation(images[: options.num_images])
    copies = util.shifted_copies(images[:kept], recipe.shift)
    training = np.stack([util.to_sequences(copy, recipe.size, recipe.levels) for copy in copies])
    return training, util.to_sequences(images[kept:], recipe.size, recipe.levels)


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
        self.meta = about | {"versions": provenance.versions(), "classes": {}}
        self.opened = time.time()
        self.duration = self.finished = None
        self.begin(classes)

    # The folder

    def begin(self, classes):
        """Choose the classes to be trained and enter them into the folder's meta.json."""
        path = self.folder / "meta.json"
        earlier = model_meta.load_meta(self.folder) if path.exists() else None
        if earlier and "classes" not in earlier:
            raise InputError(f"{self.folder} holds a painter; give another --output")
        if self.options.resume:
            trainings.check_same(self.folder, self.meta, earlier)
            self.waiting = self.find_unfinished(classes, earlier)
            kept = earlier["classes"]
        else:
            self.waiting = classes
            kept = self.find_kept(classes, earlier) if earlier else {}
            kept = {label: entry for label, entry in kept.items() if int(label) not in classes}
            for label in classes:
                checkpoint(self.folder, label).unlink(missing_ok=True)
                model_path(self.folder, label).unlink(missing_ok=True)
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
            raise InputError(f"{self.folder} holds no training of class {classes[0]} to resume")
        if self.recipe.epochs < earlier["recipe"]["epochs"]:
            for label in classes:
                trainings.check_epochs(self.folder, self.epochs_done(label, entries[label] or {}), self.recipe.epochs)
        waiting = [label for label in classes if not is_finished(entries[label] or {}, self.recipe.epochs)]
        if any(entries[label] and not checkpoint(self.folder, label).exists() for label in waiting):
            raise trainings.no_checkpoint(self.folder)
        return waiting

    def epochs_done(self, label, entry):
        path = checkpoint(self.folder, label)
        return len(trainings.Progress.load(path).losses) if path.exists() else entry.get("epochs", 0)

    def find_kept(self, classes, earlier):
        """Return what meta.json says of classes that stay. Raises InputError where a training is in the way."""
        kept, changes = earlier["classes"], trainings.differences(self.meta, earlier)
        if self.options.overwrite:
            if changes and not set(map(int, kept)) <= set(classes):
                raise trainings.other_training(self.folder, changes)
            return {} if changes else kept
        if trainings.is_same_or_longer(self.meta, earlier):
            self.refuse_begun(classes, earlier)
        if changes:
            raise trainings.other_training(self.folder, changes)
        return kept

    def refuse_begun(self, classes, earlier):
        """Raise InputError where some of these classes were begun, which says whether all are finished."""
        entries = [earlier["classes"].get(str(label)) for label in classes]
        if all(is_finished(entry or {}, earlier["recipe"]["epochs"]) for entry in entries):
            raise trainings.already_finished(self.finished_line(classes, earlier), self.has_checkpoints(classes))
        if any(entry is not None for entry in entries):
            raise trainings.unfinished(self.folder)

    def finished_line(self, classes, meta):
        entries = [meta["classes"][str(label)] for label in classes]
        epochs, stopped = [entry["epochs"] for entry in entries], any(map(was_stopped, entries))
        return trainings.finished_line(self.folder, epochs, stopped, self.has_checkpoints(classes), self.options)

    def has_checkpoints(self, classes):
        return all(checkpoint(self.folder, label).exists() for label in classes)

    # The work

    def execute(self, pictures):
        """Train classes on these pictures of each. Raises what went wrong, the classes in flight kept."""
        begun = time.monotonic()
        done = {label: self.epochs_done(label, {}) for label in pictures}
        images = {label: count_trained(len(own), self.options) for label, own in pictures.items()}
        total = sum(images.values()) * self.recipe.epochs
        initial = sum(images[label] * done[label] for label in pictures)
        apart = (self.options.workers, self.options.scheduler) != (None, None)
        with tqdm.tqdm(
            total=total, initial=initial, unit="image", disable=True if self.options.quiet else None, smoothing=0.02
        ) as bar:
            try:
                for label, entry in (self.train_on_cluster if apart else self.train_here)(pictures, bar):
                    # Another process may have finished a class of this folder in the meantime.
                    self.meta["classes"] |= model_meta.load_meta(self.folder)["classes"] | {str(label): entry}
                    disk.write_json(self.folder / "meta.json", self.meta)
            except BaseException as error:
                self.explain(error)
        self.duration = trainings.in_words(time.monotonic() - begun) + " since it went on" * any(done.values())

    def train_here(self, pictures, bar):
        """Train classes side by side, one on each core: yields (label, entry for meta.json)."""
        count = 1 if hardware.has_gpu() else max(1, min(hardware.cpu_count(), len(pictures)))
        workshop, lock = Workshop(self.recipe, self.options, self.folder, count), threading.Lock()

        def advance(images, loss):
            with lock:
                bar.update(images)
                bar.set_postfix(loss=f"{loss:.1f} nats", refresh=False)

        progress = {label: first_progress(label, self.recipe, self.options, self.folder) for label in pictures}
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            try:
                futures = [
                    pool.submit(workshop.train, label, own, progress[label], advance) for label, own in pictures.items()
                ]
                for future in concurrent.futures.as_completed(futures):
                    yield future.result()
            finally:
                workshop.stop.set()
                pool.shutdown(cancel_futures=True)

    def train_on_cluster(self, pictures, bar):
        """Train classes on the workers of a cluster, one on each: yields (label, entry for meta.json)."""
        for label in pictures:  # not on a worker, where Dask's threads use the same random number generator
            if not checkpoint(self.folder, label).exists():
                first_progress(label, self.recipe, self.options, self.folder).save(checkpoint(self.folder, label))
        source, folder = self.meta["source"], self.folder.resolve()
        check = functools.partial(find_missing, source, self.options.data, self.meta["data_crc32"], folder)
        settings = (self.recipe, dataclasses.replace(self.options, quiet=True), folder, self.meta["precision"])
        with cluster.open_session(self.options, check) as session:
            session.on_progress(bar.update)
            calls = ((label, functools.partial(train_on_worker, source, label, *settings)) for label in pictures)
            for label, entry in session.results(calls):
                if isinstance(entry, cluster.WorkersDied):
                    raise PartlyDone(f"class {label}: {entry}; --resume goes on")
                yield label, entry

    def explain(self, error):
        """Raise what the user should read when the training ends early."""
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(
                f"interrupted; {self.folder} is kept, and the same command with --resume goes on from the last epoch"
            ) from error
        finished = sum(bool(entry) for entry in self.meta["classes"].values())
        if isinstance(error, OSError) and finished:
            raise PartlyDone(f"{describe(error)}; {finished} classes are done, --resume goes on") from error
        raise error

    # What came of it

    def figures(self, classes):
        """Return what to print of these classes' trainings, by name."""
        entries = [self.meta["classes"][str(label)] for label in classes]
        stopped = any(map(was_stopped, entries))
        figures = {"epochs": trainings.described_epochs([entry["epochs"] for entry in entries], stopped, self.options)}
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
            figure.savefig(temporary, format="png", dpi=100, metadata=provenance.of_result(self.options.seed))


def model_path(folder, label):
    return folder / f"model_{label}.keras"


def checkpoint(folder, label):
    return folder / f"checkpoint_{label}.npz"


def first_progress(label, recipe, options, folder):
    """Read a class's checkpoint, or draw its first weights."""
    if checkpoint(folder, label).exists():
        try:
            return trainings.Progress.load(checkpoint(folder, label))
        except InputError as error:
            raise InputError(f"{error}; delete it to train class {label} anew") from error
    keras.utils.set_random_seed(options.seed * 1000 + label)
    return trainings.Progress([variable.numpy() for variable in trainings.variables_of(build_trainer(recipe))], [], [])


class Workshop:
    """Where classes are trained, each by one of `count` trainers, a compiled network with its optimizer."""

    def __init__(self, recipe, options, folder, count):
        self.recipe, self.options, self.folder = recipe, options, folder
        self.trainers, self.stop = queue.SimpleQueue(), threading.Event()
        for _ in range(count):
            self.trainers.put(build_trainer(recipe))
        judge = util.build_rnn(**network_options(recipe), dtype="float32")
        self.score = recurrent.make_scorer(judge, recipe.context)

    def train(self, label, own, progress, advance, before_checkpoint=lambda: None):
        """Train one class to its end, with a checkpoint after every epoch, and write its model.

        `own` are its pictures, uint8 N x H x W; `advance` is told each batch's number of pictures and loss, in nats a
        picture. Returns (label, what meta.json tells of it). Raises InputError where the training diverged.
        """
        pictures, held_out = prepare_pictures(own, self.recipe, self.options)
        trainer = self.trainers.get()
        try:
            while not progress.is_over(self.recipe.epochs, self.options.patience):
                trainings.put_variables(trainer, progress.variables)
                loss = self.train_epoch(trainer, pictures, label, len(progress.losses), advance)
                if self.stop.is_set():
                    raise concurrent.futures.CancelledError
                if not np.isfinite(loss):
                    raise InputError(f"the training of class {label} diverged; try a lower --learning-rate")
                progress.variables = [variable.numpy() for variable in trainings.variables_of(trainer)]
                progress.losses.append(loss)
                if len(held_out):
                    progress.validation_losses.append(-self.mean_log_likelihood(trainer, held_out))
                    if self.options.patience and progress.validation_losses[-1] == min(progress.validation_losses):
                        progress.best = progress.variables
                before_checkpoint()
                progress.save(checkpoint(self.folder, label))
            trainings.put_variables(trainer, progress.best or progress.variables)
            return label, self.finish(label, trainer, progress, pictures.shape[1], len(own))
        finally:
            self.trainers.put(trainer)

    def train_epoch(self, trainer, pictures, label, epoch, advance):
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
            trainer.optimizer.learning_rate = trainings.learning_rate(
                self.recipe, epoch * batches + batch, self.recipe.epochs * batches
            )
            trainer.reset_metrics()
            loss = float(trainer.train_on_batch(tokens, tokens, sample_weight=weight[:, None]))
            total += loss * real * length
            advance(real, loss * length)
        return total / count

    def mean_log_likelihood(self, model, sequences):
        return float(np.mean(recurrent.log_likelihoods(self.score, model, sequences)))

    def finish(self, label, trainer, progress, trained_on, available):
        """Write a class's model, and return what meta.json tells of it."""
        model = util.build_rnn(**network_options(self.recipe), dtype="float32")
        model.set_weights(trainer.get_weights())
        model_files.save_model(model_path(self.folder, label), model)
        entry = {"pictures": available, "trained_on": trained_on, "epochs": len(progress.losses)}
        entry["stopped_early"] = progress.stopped_early(self.options.patience)
        entry["train_log_likelihood"] = -progress.losses[-1]
        if progress.validation_losses:
            entry["validation_log_likelihood"] = (
                -min(progress.validation_losses) if progress.best else -progress.validation_losses[-1]
            )
        entry["loss"] = [round(loss, 4) for loss in progress.losses]
        entry["validation_loss"] = [round(loss, 4) for loss in progress.validation_losses]
        return entry


def is_finished(entry, epochs):
    """Say whether what meta.json tells of a class is that of one trained for so many epochs, or to its best."""
    return bool(entry) and (entry["epochs"] >= epochs or was_stopped(entry))


def was_stopped(entry):
    """Say whether --patience ended the training of a class, by its entry in meta.json."""
    return entry.get("stopped_early", False)


def network_options(recipe):
    """Return the part of a DigitRecipe that build_rnn takes, a dict."""
    return model_meta.network_options(dataclasses.asdict(recipe))


def build_trainer(recipe):
    """Build the network with its optimizer, compiled; one trainer trains many classes, one after the other."""
    fused = not hardware.has_gpu()
    model = util.build_rnn(**network_options(recipe), fused=fused)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(recipe.learning_rate), loss, jit_compile=fused)
    model.optimizer.build(model.trainable_variables)
    return model


# --- On a worker -------------------------------------------------------------------------------


def find_missing(source, data, crc32, folder):
    """Return what a worker does not see, the pictures or the folder of the models, as a text; or None."""
    if not folder.is_dir():
        return f"it does not see {folder}"
    images, labels, _, _ = datasets.load_dataset(source, data)
    return None if fingerprint(images, labels) == crc32 else f"it has other pictures of {source}"


@functools.lru_cache(maxsize=1)
def load_once(source, data):
    return datasets.load_dataset(source, data)[:2]


def train_on_worker(source, label, recipe, options, folder, precision):
    """Train one class to its end on a worker; return its entry for meta.json."""
    images, labels = load_once(source, options.data)
    workshop, trained = open_workshop(recipe, options, folder, precision), 0

    def advance(images, loss):
        nonlocal trained
        trained += images

    def before_checkpoint():
        nonlocal trained
        lease.check()
        cluster.report_progress(trained)
        trained = 0

    with leases.Lease(folder / f"checkpoint_{label}.lock") as lease:
        progress = trainings.Progress.load(checkpoint(folder, label))
        return workshop.train(label, images[labels == label], progress, advance, before_checkpoint)[1]


@functools.lru_cache(maxsize=1)
def open_workshop(recipe, options, folder, precision):
    hardware.use_precision(precision, "training", recipe.batch_size)
    return Workshop(recipe, options, folder, 1)
