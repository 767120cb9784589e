"""Train one network for each class of digits, in parallel, and write the models into a folder.

Input: a data set (datasets.py). Output: model_<class>.keras, meta.json, checkpoint_<class>.npz and loss.png.
"""

import concurrent.futures
import dataclasses
import functools
import pathlib
import queue
import sys
import threading
import time
import zlib

from atelier import backend, hardware  # first: silences Keras's start

# isort: split
import keras
import numpy as np
import tqdm

import util
from atelier import disk, leases, provenance, trainings
from atelier.command_line import lazy_import
from atelier.errors import InputError, Interrupted, PartlyDone, describe
from atelier.pixel_rnn import datasets, model_files, model_meta, recurrent
from atelier.pixel_rnn.class_pictures import ClassPictures, check_pictures, count_trained
from atelier.trainings import FolderContent, FolderState

cluster = lazy_import("atelier.batch.cluster")


COLUMNS = "columns"  # the folder within a folder of models by rows; it holds those by columns


def train(source, digit, preset, training_config, options, name):
    """Train one class, or all in parallel, and write the models into a folder, by default trained/`name`.

    If pictures are read in both orders, the networks that read columns are trained next, in a folder in the first one.
    """
    folder = train_in_order(source, digit, preset, training_config, options, name)
    if training_config.order == "both":
        listed = classes_in(folder / COLUMNS)
        begun = bool(listed) if digit is None else str(digit) in listed
        options = dataclasses.replace(options, output=str(folder / COLUMNS), resume=options.resume and begun)
        train_in_order(source, digit, preset, dataclasses.replace(training_config, order=COLUMNS), options, name)


def train_in_order(source, digit, preset, training_config, options, name):
    """Train one class, or all in parallel, in one order of reading; return the folder of the models."""
    images, labels, _, _ = datasets.load_dataset(source, options.data)
    crc32 = data_checksum(images, labels)
    labels = class_labels(labels, training_config)
    classes = [digit] if digit is not None else [int(label) for label in np.unique(labels)]
    for label in classes:
        check_pictures(label, int((labels == label).sum()), options)
    device = hardware.use_precision(options.precision, "training", training_config.batch_size)
    if not options.quiet:
        print(f"device: {device}", file=sys.stderr)

    about = {"source": source, "preset": preset, "recipe": dataclasses.asdict(training_config)}
    about |= {flag: getattr(options, flag) for flag in ("seed", "num_images", "validation_split", "patience")}
    about |= {"precision": keras.config.dtype_policy().name, "data_crc32": crc32}
    training, state = trainings.find_folder(
        lambda folder: DigitTraining(about, training_config, options, folder, classes), options, name
    )
    if state.is_finished:
        trainings.note(state.message, options)
    else:
        disk.check_writable(training.folder / "meta.json")
        if begun := training.begin():
            training.execute({label: images[labels == label] for label in begun}, images, labels)
    print(f"models: {training.folder}")
    trainings.print_results(training.results())
    try:
        if not state.is_finished or training.has_checkpoints():
            training.plot()  # a finished training may have been killed before its plot
        print(f"loss_curve: {training.folder / 'loss.png'}")
    except OSError as error:
        raise PartlyDone(f"{describe(error)}; the models are there, the loss curve is not") from error
    trainings.print_draw_command(training.folder, *training.draw_flags())
    trainings.print_how_to_train_longer(training.can_go_on())
    disk.remove_leftovers(training.folder, FILES, training.opened)
    return training.folder


def classes_in(folder):
    """Return the classes that a folder's meta.json lists, a dict from class to entry; empty without a meta.json."""
    return model_meta.load_meta(folder)["classes"] if (folder / "meta.json").exists() else {}


def class_labels(labels, training_config):
    """Return the class of each picture. If one network is trained for all classes, it is that of class 0."""
    return labels * 0 if training_config.together else labels


def data_checksum(images, labels):
    """Return a checksum of the training set. A training is resumed only with the data that it began with."""
    return zlib.crc32(labels.astype("int64").tobytes(), zlib.crc32(images.tobytes()))


FILES = ("meta.json", "loss.png", "model_*.keras", "checkpoint_*.npz")


class DigitTraining:
    """A training of several classes, and the folder that holds their models.

    A class is listed in meta.json when its training begins, and described there when its model is written.
    checkpoint_<class>.npz holds the progress of a class. It is kept after the training, so that --resume can add
    epochs.
    """

    def __init__(self, about, training_config, options, folder, classes):
        self.config, self.options, self.folder, self.classes = training_config, options, folder, classes
        self.meta = about | {"versions": provenance.versions(), "classes": {}}
        self.opened = time.time()
        self.duration = None

    # The folder

    def examine(self):
        """Return the FolderState of the folder for these classes. Raises InputError where a file is damaged."""
        earlier = self.earlier()
        if earlier and "classes" not in earlier:
            return FolderState(FolderContent.SOMETHING_ELSE, f"{self.folder} holds a painter; give another --output")
        if self.options.resume:
            return self.examine_to_resume(earlier)
        if not earlier:
            existing = None if self.options.overwrite else next(self.trained_files(), None)
            return trainings.would_replace(existing) if existing else FolderState(FolderContent.NO_TRAINING)
        changes = trainings.changed_options(self.meta, earlier)
        if self.options.overwrite:
            if changes and not set(map(int, earlier["classes"])) <= set(self.classes):
                return trainings.other_training(self.folder, changes)
            return FolderState(FolderContent.NO_TRAINING)
        entries = self.entries(earlier)
        if trainings.is_same_or_longer(self.meta, earlier) and any(entry is not None for entry in entries):
            epochs = earlier["recipe"]["epochs"]
            if all(is_finished(entry, epochs) for entry in entries) and self.columns_are_finished(epochs):
                return self.finished(earlier)
            return trainings.unfinished(self.folder)
        return trainings.other_training(self.folder, changes) if changes else FolderState(FolderContent.NO_TRAINING)

    def examine_to_resume(self, earlier):
        if not earlier:
            return trainings.nothing_to_resume(self.folder)
        if changes := trainings.changed_options(self.meta, earlier, ignore_epochs=True):
            return trainings.other_training(self.folder, changes)
        entries, epochs = self.entries(earlier), self.config.epochs
        if all(entry is None for entry in entries):
            return trainings.nothing_to_resume(self.folder, f" of class {self.classes[0]}")
        if epochs < earlier["recipe"]["epochs"]:
            done = max(map(self.epochs_done, self.classes, entries))
            if epochs < done:
                return trainings.too_few_epochs(self.folder, done, epochs)
        waiting = self.unfinished_classes(earlier)
        if any(earlier["classes"].get(str(c)) and not checkpoint(self.folder, c).exists() for c in waiting):
            return trainings.without_checkpoint(self.folder)
        is_over = not waiting and self.columns_are_finished(epochs)
        return self.finished(earlier) if is_over else FolderState(FolderContent.UNFINISHED)

    def columns_are_finished(self, epochs):
        """Tell whether the networks that read columns, if there are to be any, were trained for `epochs`."""
        if self.config.order != "both":
            return True
        listed = classes_in(self.folder / COLUMNS)
        return all(is_finished(listed.get(str(label)), epochs) for label in self.classes)

    def earlier(self):
        """Return the meta.json that an earlier training has written here, or None."""
        return model_meta.load_meta(self.folder) if (self.folder / "meta.json").exists() else None

    def entries(self, meta):
        """List the entries of these classes in a meta.json: None for a class that it does not list."""
        return [meta["classes"].get(str(label)) for label in self.classes]

    def unfinished_classes(self, earlier):
        entries = zip(self.classes, self.entries(earlier), strict=True)
        return [label for label, entry in entries if not is_finished(entry, self.config.epochs)]

    def epochs_done(self, label, entry=None):
        path = checkpoint(self.folder, label)
        if path.exists():
            return len(trainings.TrainingProgress.load(path).losses)
        return (entry or {}).get("epochs", 0)

    def finished(self, meta):
        """Return the FolderState of a folder where all of these classes are finished; keep `meta` for `results`."""
        self.meta, entries = meta, self.entries(meta)
        epochs, stopped = [entry["epochs"] for entry in entries], any(map(was_stopped, entries))
        return trainings.finished(self.folder, epochs, stopped, self.has_checkpoints(), self.options)

    def has_checkpoints(self):
        return all(checkpoint(self.folder, label).exists() for label in self.classes)

    def begin(self):
        """Write the classes that are to be trained into the folder's meta.json, and return them."""
        earlier = self.earlier()
        if self.options.resume:
            begun, kept = self.unfinished_classes(earlier), earlier["classes"]
        else:
            begun, kept = self.classes, {}
            if earlier and not trainings.changed_options(self.meta, earlier):
                kept = {label: entry for label, entry in earlier["classes"].items() if int(label) not in self.classes}
            self.remove_earlier(earlier, kept)
        self.meta["classes"] = kept | {str(label): kept.get(str(label), {}) for label in begun}
        disk.write_json(self.folder / "meta.json", self.meta)
        return begun

    def remove_earlier(self, earlier, kept):
        """Remove the files of a training with the meta.json `earlier`, but not those of the classes in `kept`.

        `earlier` may be None. meta.json changes first: it must not describe missing files.
        """
        if kept:
            disk.write_json(self.folder / "meta.json", self.meta | {"classes": kept})
        else:
            (self.folder / "meta.json").unlink(missing_ok=True)
            checkpoint(self.folder, COMMON).unlink(missing_ok=True)
            if earlier and earlier["recipe"]["order"] == "both":
                for pattern in FILES:
                    for path in (self.folder / COLUMNS).glob(pattern):
                        path.unlink()
        for path in [*self.trained_files()]:
            path.unlink()

    def trained_files(self):
        """Yield the files that a training of these classes replaces."""
        for label in self.classes:
            yield from filter(pathlib.Path.exists, (checkpoint(self.folder, label), model_path(self.folder, label)))

    # The work

    def execute(self, pictures, images, labels):
        """Train the classes. `pictures` is a dict from class to pictures. After a failure, all checkpoints are kept.

        `images` and `labels` are the whole training set, for the common network.
        """
        begun = time.monotonic()
        done = {label: self.epochs_done(label) for label in pictures}
        counts = {label: count_trained(len(own), self.options) for label, own in pictures.items()}
        total = sum(counts.values()) * self.config.epochs
        initial = sum(counts[label] * done[label] for label in pictures)
        on_cluster = (self.options.workers, self.options.scheduler) != (None, None)
        try:
            self.train_common(images, labels)
        except BaseException as error:
            self.raise_explained(error)
        with tqdm.tqdm(
            total=total, initial=initial, unit="image", disable=True if self.options.quiet else None, smoothing=0.02
        ) as bar:
            try:
                for label, entry in (self.train_on_cluster if on_cluster else self.train_here)(pictures, bar):
                    # Another process may have finished a class of this folder in the meantime.
                    self.meta["classes"] |= model_meta.load_meta(self.folder)["classes"] | {str(label): entry}
                    disk.write_json(self.folder / "meta.json", self.meta)
            except BaseException as error:
                self.raise_explained(error)
        resumed = any(done.values())
        self.duration = trainings.format_duration(time.monotonic() - begun) + " since it was resumed" * resumed

    @functools.cached_property
    def trainers(self):
        """The trainers of this process, one for each core."""
        count = max(1, min(hardware.cpu_count(), len(self.classes))) if recurrent.fused_cells_are_faster() else 1
        return TrainerPool(self.config, self.options, self.folder, count)

    def train_common(self, images, labels):
        """Train the common network, if there is to be one, up to its last epoch."""
        epochs = self.config.common_epochs
        if not epochs:
            return
        progress = load_or_start_progress(COMMON, self.config, self.options, self.folder)
        if progress.is_over(epochs, patience=None):
            return
        parts = [ClassPictures(images[labels == c], self.config, self.options) for c in np.unique(labels)]
        everything = dataclasses.replace(self.options, num_images=None, validation_split=0.0)
        pictures = ClassPictures(np.concatenate([part.images for part in parts]), self.config, everything)
        total, done = epochs * pictures.count, len(progress.losses) * pictures.count
        disable = True if self.options.quiet else None
        with tqdm.tqdm(desc="all classes", total=total, initial=done, unit="image", disable=disable) as bar:
            self.trainers.train_epochs(COMMON, pictures, progress, lambda count, _: bar.update(count))

    def train_here(self, pictures, bar):
        """Train classes in parallel threads, one for each core. Yields (label, entry for meta.json)."""
        trainers, lock = self.trainers, threading.Lock()

        def advance(images, loss):
            with lock:
                bar.update(images)
                bar.set_postfix(loss=f"{loss:.1f} nats", refresh=False)

        progress = {label: load_or_start_progress(label, self.config, self.options, self.folder) for label in pictures}
        with concurrent.futures.ThreadPoolExecutor(trainers.count) as pool:
            try:
                futures = [
                    pool.submit(trainers.train, label, own, progress[label], advance) for label, own in pictures.items()
                ]
                for future in concurrent.futures.as_completed(futures):
                    yield future.result()
            finally:
                trainers.stop.set()
                pool.shutdown(cancel_futures=True)

    def train_on_cluster(self, pictures, bar):
        """Train classes on a cluster, one class at a time on each worker. Yields (label, entry for meta.json)."""
        for label in pictures:  # not on a worker, whose threads share one random number generator
            if not checkpoint(self.folder, label).exists():
                load_or_start_progress(label, self.config, self.options, self.folder).save(
                    checkpoint(self.folder, label)
                )
        source, folder = self.meta["source"], self.folder.resolve()
        check = functools.partial(find_missing, source, self.options.data, self.meta["data_crc32"], folder)
        settings = (self.config, dataclasses.replace(self.options, quiet=True), folder, self.meta["precision"])
        with cluster.open_session(self.options, check) as session:
            session.on_progress(bar.update)
            calls = ((label, functools.partial(train_on_worker, source, label, *settings)) for label in pictures)
            for label, entry in session.results(calls):
                if isinstance(entry, cluster.WorkersDied):
                    raise PartlyDone(f"class {label}: {entry}; --resume goes on")
                yield label, entry

    def raise_explained(self, error):
        """Raise the error with the message that the user should read when a training ends early."""
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(
                f"interrupted; {self.folder} is kept, and the same command with --resume goes on from the last epoch"
            ) from error
        finished = sum(bool(entry) for entry in self.meta["classes"].values())
        if isinstance(error, OSError) and finished:
            raise PartlyDone(f"{describe(error)}; {finished} classes are done, --resume goes on") from error
        raise error

    # The results

    def results(self):
        """Return the results to print, as a dict of texts by name."""
        entries = self.entries(self.meta)
        stopped = any(map(was_stopped, entries))
        results = {"epochs": trainings.describe_epochs([entry["epochs"] for entry in entries], stopped, self.options)}
        mean = f", the mean of {len(entries)} classes" * (len(entries) > 1)
        for name, key in (("loss", "train_log_likelihood"), ("validation_loss", "validation_log_likelihood")):
            if all(key in entry for entry in entries):
                results[name] = f"{-np.mean([entry[key] for entry in entries]):.3f} nats a picture{mean}"
        return results | ({"duration": self.duration} if self.duration else {})

    def can_go_on(self):
        """Say whether --resume could add epochs."""
        return self.has_checkpoints() and not any(map(was_stopped, self.entries(self.meta)))

    def draw_flags(self):
        """Return flags for generate_rnn.py: they draw all classes if all are trained, or else the first class.

        One network for all classes needs none.
        """
        if self.config.together:
            return []
        known = self.meta["classes"]
        return ["--all-digits"] if len(known) > 1 and all(known.values()) else ["--digit", str(self.classes[0])]

    def plot(self):
        """Plot each class's loss over the epochs into loss.png."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        for label, entry in sorted(self.meta["classes"].items(), key=lambda item: int(item[0])):
            epochs = range(1, len(entry.get("loss", [])) + 1)
            name = "all classes" if self.config.together else f"class {label}"
            (line,) = axes.plot(epochs, entry.get("loss", []), label=name)
            if entry.get("validation_loss"):
                axes.plot(epochs, entry["validation_loss"], "--", color=line.get_color())
        dashed = " (dashed: held out)" if self.options.validation_split else ""
        axes.set(xlabel="epoch", ylabel=f"loss in nats a picture{dashed}", title=self.meta["source"])
        axes.legend(fontsize="small", ncols=2)
        with disk.whole_file(self.folder / "loss.png") as temporary:
            figure.savefig(temporary, format="png", dpi=100, metadata=provenance.of_result(self.options))


def model_path(folder, label):
    return folder / f"model_{label}.keras"


def checkpoint(folder, label):
    return folder / f"checkpoint_{label}.npz"


COMMON = "common"  # in place of a class: the network with whose weights all classes begin


def load_or_start_progress(label, training_config, options, folder):
    """Read a class's checkpoint, or create random initial weights if there is none."""
    if checkpoint(folder, label).exists():
        try:
            return trainings.TrainingProgress.load(checkpoint(folder, label))
        except InputError as error:
            raise InputError(f"{error}; delete it to train class {label} anew") from error
    keras.utils.set_random_seed(options.seed * 1000 + number_of(label))
    trainer = build_trainer(training_config)
    if training_config.common_epochs and label != COMMON:
        common = trainings.TrainingProgress.load(checkpoint(folder, COMMON))
        for variable, value in zip(trainer.trainable_variables, common.variables):  # the optimizer's begin anew
            variable.assign(value)
    return trainings.TrainingProgress([variable.numpy() for variable in trainings.variables_of(trainer)], [], [])


def number_of(label):
    """Return the number of a class, from which its random numbers are made."""
    return 999 if label == COMMON else label


class TrainerPool:
    """A pool of `count` trainers: compiled networks with their optimizers. Each trains one class at a time."""

    def __init__(self, training_config, options, folder, count):
        self.config, self.options, self.folder = training_config, options, folder
        self.trainers, self.stop, self.count = queue.SimpleQueue(), threading.Event(), count
        for _ in range(count):
            self.trainers.put(build_trainer(training_config))
        network = util.build_rnn(**network_options(training_config), dtype="float32")
        self.score = recurrent.make_scorer(network, training_config.context, training_config.block)

    def train(self, label, own, progress, advance, before_checkpoint=lambda: None):
        """Train one class to its end, with a checkpoint after every epoch, and write its model.

        `own` holds the pictures of the class, uint8 N x H x W. `advance` is called after each batch with the number of
        its pictures and its loss, in nats a picture. Returns (label, entry for meta.json). Raises InputError if the
        training diverges.
        """
        pictures = ClassPictures(own, self.config, self.options)
        self.train_epochs(label, pictures, progress, advance, before_checkpoint)
        return label, self.finish(label, progress, pictures.count, len(own))

    def train_epochs(self, label, pictures, progress, advance, before_checkpoint=lambda: None):
        """Train the network of a class, or the common one, to its end, with a checkpoint after every epoch."""
        trainer, epochs = self.trainers.get(), self.epochs_of(label)
        try:
            while not progress.is_over(epochs, self.options.patience):
                trainings.assign_variables(trainer, progress.variables)
                loss = self.train_epoch(trainer, pictures, label, len(progress.losses), advance)
                if self.stop.is_set():
                    raise concurrent.futures.CancelledError
                if not np.isfinite(loss):
                    raise InputError(f"the training of class {label} diverged; try a lower --learning-rate")
                progress.variables = [variable.numpy() for variable in trainings.variables_of(trainer)]
                progress.losses.append(loss)
                if len(pictures.held_out):
                    progress.validation_losses.append(-self.mean_log_likelihood(trainer, pictures.held_out))
                    if self.options.patience and progress.validation_losses[-1] == min(progress.validation_losses):
                        progress.best = progress.variables
                before_checkpoint()
                progress.save(checkpoint(self.folder, label))
        finally:
            self.trainers.put(trainer)

    def epochs_of(self, label):
        return self.config.common_epochs if label == COMMON else self.config.epochs

    def train_epoch(self, trainer, pictures, label, epoch, advance):
        """Train one epoch, in an order that depends on seed, class and epoch; return its loss in nats a picture."""
        seed = [self.options.seed, number_of(label), epoch]
        sequences = pictures.sequences(np.random.default_rng([*seed, 1]))
        copies, count, length = sequences.shape
        rng = np.random.default_rng(seed)
        order, copy = rng.permutation(count), rng.integers(0, copies, count)
        size = min(self.config.batch_size, count)
        batches = -(-count // size)
        total = 0.0
        for batch in range(batches):
            if self.stop.is_set():
                break
            # The last batch is padded with pictures of weight 0, so that all batches have one compiled shape.
            chosen = np.resize(order[batch * size : (batch + 1) * size], size)
            real = min(size, count - batch * size)
            weight = (np.arange(size) < real) * np.float32(size / real)
            tokens = sequences[copy[chosen], chosen].astype("int32")
            trainer.optimizer.learning_rate = trainings.learning_rate(
                self.config, epoch * batches + batch, self.epochs_of(label) * batches
            )
            trainer.reset_metrics()
            loss = float(trainer.train_on_batch(tokens, tokens, sample_weight=weight[:, None]))
            total += loss * real * length
            advance(real, loss * length)
        return total / count

    def mean_log_likelihood(self, model, sequences):
        return float(np.mean(recurrent.log_likelihoods(self.score, model, sequences)))

    def finish(self, label, progress, trained_on, available):
        """Write a class's model, and return its entry for meta.json."""
        model = util.build_rnn(**network_options(self.config), dtype="float16" if self.config.half else "float32")
        for variable, value in zip(model.trainable_variables, progress.best or progress.variables):
            variable.assign(value)
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
    """Say whether a class was trained for `epochs` or stopped early; `entry` is its entry in meta.json, or None."""
    return bool(entry) and (entry["epochs"] >= epochs or was_stopped(entry))


def was_stopped(entry):
    """Say whether --patience ended the training of a class; `entry` is its entry in meta.json."""
    return entry.get("stopped_early", False)


def network_options(training_config):
    """Return the part of a DigitConfig that build_rnn takes, a dict."""
    return model_meta.network_options(dataclasses.asdict(training_config))


def build_trainer(training_config):
    """Build and compile the network with its optimizer; one trainer trains many classes, one after the other."""
    fused = recurrent.fused_cells_are_faster()
    model = util.build_rnn(**network_options(training_config), fused=fused)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.Adam(training_config.learning_rate), loss, jit_compile=fused or backend.NAME == "jax"
    )
    model.optimizer.build(model.trainable_variables)
    return model


# --- On a worker -------------------------------------------------------------------------------


def find_missing(source, data, crc32, folder):
    """Return a message if this worker cannot see the models' folder or has other pictures, or else None."""
    if not folder.is_dir():
        return f"it does not see {folder}"
    images, labels, _, _ = datasets.load_dataset(source, data)
    return None if data_checksum(images, labels) == crc32 else f"it has other pictures of {source}"


@functools.lru_cache(maxsize=1)
def load_once(source, data):
    return datasets.load_dataset(source, data)[:2]


def train_on_worker(source, label, training_config, options, folder, precision):
    """Train one class to its end on a worker; return its entry for meta.json."""
    images, labels = load_once(source, options.data)
    labels = class_labels(labels, training_config)
    trainers, trained = open_trainer_pool(training_config, options, folder, precision), 0

    def advance(images, loss):
        nonlocal trained
        trained += images

    def before_checkpoint():
        nonlocal trained
        lease.check()
        cluster.report_progress(trained)
        trained = 0

    with leases.Lease(folder / f"checkpoint_{label}.lock") as lease:
        progress = trainings.TrainingProgress.load(checkpoint(folder, label))
        return trainers.train(label, images[labels == label], progress, advance, before_checkpoint)[1]


@functools.lru_cache(maxsize=1)
def open_trainer_pool(training_config, options, folder, precision):
    hardware.use_precision(precision, "training", training_config.batch_size)
    return TrainerPool(training_config, options, folder, 1)
