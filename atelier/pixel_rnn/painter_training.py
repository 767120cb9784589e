"""Train a painter: one network on a folder of pictures. Write the model, its samples and its losses into a folder.

Input: pictures, uint8 N x H x W x 3. Output: model.keras, meta.json with the palette, checkpoints, samples/,
loss.csv and loss.png.
"""

import csv
import dataclasses
import functools
import math
import pathlib
import sys
import time
import zlib

from atelier import backend, hardware  # first: silences Keras's start

# isort: split
import keras
import numpy as np
import tqdm

import util
from atelier import disk, imaging, provenance, trainings
from atelier.errors import InputError, Interrupted, PartlyDone
from atelier.pixel_rnn import model_files, model_meta, palettes, recurrent
from atelier.trainings import FolderContent, FolderState

TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)  # of the pictures on a sheet of samples
SAVE_SECONDS = 300  # between checkpoints within an epoch
DIVERGED = "the training diverged; try a lower --learning-rate"
STARTS = 64  # windows of training pictures, saved with the model. Drawings can start from them


def train(source, preset, training_config, options, name):
    """Train one network on a folder of pictures and write it into a folder, by default trained/`name`."""
    check_disjoint(source, options.validation)
    pictures, held_out, refused = load_training_pictures(source, training_config, options)
    device = hardware.use_precision(options.precision, "training", training_config.batch_size)
    unread = imaging.unread_pictures(source)
    for line in [*(f"left out: {line}" for line in refused), *([unread] if unread else [])]:
        trainings.note(line, options)
    if not options.quiet:
        print(f"device: {device}", file=sys.stderr)
    about = {"source": str(source), "preset": preset, "recipe": dataclasses.asdict(training_config)}
    about |= {flag: getattr(options, flag) for flag in ("seed", "num_images", "validation_split", "patience")}
    about |= {"precision": keras.config.dtype_policy().name}
    about |= {"pictures": len(pictures), "data_crc32": zlib.crc32(pictures.tobytes(), zlib.crc32(held_out.tobytes()))}
    training, state = trainings.find_folder(
        lambda folder: PainterTraining(about, training_config, options, folder), options, name
    )
    print(f"folder: {training.folder}", flush=True)
    if state.is_finished:
        trainings.note(state.message, options)
    else:
        disk.check_writable(training.folder / "meta.json")
        training.prepare(pictures, held_out)
        del pictures, held_out  # only the tokens are needed now, two bytes a pixel
        training.execute()
    print(f"model: {training.folder / 'model.keras'}")
    trainings.print_results(training.results())
    print(f"loss_curve: {training.folder / 'loss.png'}")
    trainings.print_draw_command(training.folder)
    trainings.print_how_to_train_longer(training.can_go_on())
    disk.remove_leftovers(training.folder, FILES, training.opened)
    if refused:
        which = refused[0] if options.quiet else "they are named above"
        raise PartlyDone(f"files that could not be used as pictures: {len(refused)}; {which}")


def check_disjoint(source, validation):
    """Raise InputError where the folder of validation pictures and the training folder overlap."""
    if validation:
        one, other = source.resolve(), pathlib.Path(validation).resolve()
        if one == other or one in other.parents or other in one.parents:
            raise InputError(f"{validation} and {source} must not contain one another")


def load_training_pictures(source, training_config, options):
    """Return the training and the held-out pictures, uint8 N x H x W x 3 each, and a message for each unused file."""
    read = functools.partial(
        imaging.load_pictures,
        width=training_config.width,
        height=training_config.height,
        gray=training_config.gray is not None,
    )
    pictures, refused = read(source)
    pictures = pictures[: options.num_images]
    if options.validation:
        held_out, more_refused = read(options.validation)
        return pictures, held_out, refused + more_refused
    count = round(len(pictures) * options.validation_split)
    if options.validation_split and not 0 < count < len(pictures):
        raise InputError(f"--validation-split would hold out {count} of {len(pictures)} pictures")
    order = np.random.default_rng(options.seed).permutation(len(pictures))
    return pictures[np.sort(order[count:])], pictures[np.sort(order[:count])], refused


TRAINED = ("model.keras", "model_last.keras", "checkpoint_[ab].npz", "loss.csv", "loss.png", "samples/epoch_*.png")
FILES = ("meta.json", "preview.png", "starts.png", *TRAINED)


class PainterTraining:
    """A training of one network on a folder of pictures, and the folder that holds its results.

    meta.json describes the training and holds the palette. Two checkpoint files are written in turn, so that one is
    always complete. The last one is kept after the training, so that --resume can add epochs.
    """

    def __init__(self, about, training_config, options, folder):
        self.about, self.config, self.options, self.folder = about, training_config, options, folder
        self.meta = about | {"versions": provenance.versions()}
        self.opened = time.time()
        self.progress = self.last_checkpoint = self.duration = None

    # The folder

    def examine(self):
        """Return the FolderState of the folder, and read what --resume needs. Raises InputError for damaged files."""
        earlier = model_meta.load_meta(self.folder) if (self.folder / "meta.json").exists() else None
        if earlier and "classes" in earlier:
            return FolderState(
                FolderContent.SOMETHING_ELSE, f"{self.folder} holds models of digits; give another --output"
            )
        if self.options.resume:
            return self.examine_to_resume(earlier)
        if self.options.overwrite:
            return FolderState(FolderContent.NO_TRAINING)
        if not earlier:
            existing = next(self.trained_files(), None)
            return trainings.would_replace(existing) if existing else FolderState(FolderContent.NO_TRAINING)
        if not trainings.is_same_or_longer(self.about, earlier):
            return trainings.other_training(self.folder, trainings.changed_options(self.about, earlier))
        if not earlier.get("finished"):
            return trainings.unfinished(self.folder)
        self.progress = self.last_progress()
        return self.finished(earlier)

    def examine_to_resume(self, earlier):
        if not earlier:
            return trainings.nothing_to_resume(self.folder)
        if changes := trainings.changed_options(self.about, earlier, ignore_epochs=True):
            return trainings.other_training(self.folder, changes)
        self.progress = self.last_progress()
        before, epochs = earlier["recipe"]["epochs"], self.config.epochs
        if epochs < before and self.progress:
            done = len(self.progress.losses) + (self.progress.step > 0)
            if epochs < done:
                return trainings.too_few_epochs(self.folder, done, epochs)
        self.meta = earlier | {"recipe": self.about["recipe"]}
        if not earlier.get("finished"):
            return FolderState(FolderContent.UNFINISHED)
        if epochs != before and self.progress is None:
            return trainings.without_checkpoint(self.folder)
        if epochs == before or self.progress.is_over(epochs, self.options.patience):
            return self.finished(earlier)
        self.meta["finished"] = False
        return FolderState(FolderContent.UNFINISHED)

    def finished(self, earlier):
        """Return the FolderState of a finished training."""
        epochs, stopped = [earlier["recipe"]["epochs"]], False
        if self.progress:
            epochs, stopped = [len(self.progress.losses)], self.progress.stopped_early(self.options.patience)
        return trainings.finished(self.folder, epochs, stopped, bool(self.progress), self.options)

    def prepare(self, pictures, held_out):
        """Choose the palette, write meta.json, preview.png and starts.png, and cut the pictures into windows."""
        if "palette" not in self.meta:
            self.meta["palette"] = self.choose_palette(pictures)
            self.clear()
        self.palette = self.meta["palette"]
        tokens = palettes.to_palette(pictures, self.palette)
        quantized = palettes.from_palette(tokens[:100], self.palette, self.config.height, self.config.width)
        error = palettes.color_error(pictures[:100], quantized)
        kind = "colours" if self.config.gray is None else "greys"
        print(f"palette: {len(self.palette)} {kind}, mean Delta E {error:.2f}", flush=True)
        about = provenance.of_result(self.options)
        imaging.save_png(
            self.folder / "preview.png", imaging.contact_sheet(np.stack([pictures[0], quantized[0]]), 2), about
        )
        imaging.save_png(self.folder / "starts.png", self.palette[self.choose_starts(tokens)], about)
        self.write_meta()
        self.windows = self.cut(tokens)
        self.held_out = self.cut(palettes.to_palette(held_out, self.palette), whole=True) if len(held_out) else None

    def clear(self):
        """Remove the files of an earlier training. meta.json goes first: it must not describe missing files."""
        (self.folder / "meta.json").unlink(missing_ok=True)
        for path in self.trained_files():
            path.unlink()

    def trained_files(self):
        """Yield the files that an earlier training has written into the folder."""
        for pattern in TRAINED:
            yield from self.folder.glob(pattern)

    def choose_palette(self, pictures):
        if self.config.gray is not None:
            return palettes.gray_palette(self.config.gray)
        palette = palettes.fit_palette(pictures, self.config.colors, self.options.seed)
        if len(palette) < 2:
            raise InputError("all pixels of these pictures have one colour; there is nothing to learn")
        if len(palette) < self.config.colors:
            trainings.note(f"only {len(palette)} different colours of {self.config.colors} were found", self.options)
        return palette

    def choose_starts(self, tokens):
        """Cut random windows out of the pictures, from which drawings can start: tokens STARTS x window."""
        rng = np.random.default_rng(self.options.seed)
        pictures = rng.integers(len(tokens), size=STARTS)
        places = rng.integers(tokens.shape[1] - self.config.window + 1, size=STARTS)
        return tokens[pictures[:, None], places[:, None] + np.arange(self.config.window)]

    def cut(self, tokens, whole=False):
        config = self.config
        settings = (config.window, config.stride, config.batch_size, config.targets, whole)
        return util.Windows(tokens, config.width, config.height, config.context, *settings)

    def write_meta(self):
        disk.write_json(self.folder / "meta.json", self.meta | {"palette": model_meta.write_palette(self.palette)})

    # The work

    def build(self, fused):
        options = model_meta.painter_options(dataclasses.asdict(self.config), self.palette)
        return util.build_painter(**options, targets=self.config.targets, fused=fused)

    def set_up(self):
        """Build the network and its optimizer, and compile the functions that train and draw."""
        config = self.config
        keras.utils.set_random_seed(self.options.seed)
        self.model = self.build(fused=recurrent.fused_cells_are_faster())
        util.initialize_colors(self.model, self.palette, self.options.seed)
        kind = {"adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop}[config.optimizer]
        self.model.optimizer = kind(config.learning_rate, global_clipnorm=config.clip)
        if keras.config.dtype_policy().name == "mixed_float16":
            self.model.optimizer = keras.optimizers.LossScaleOptimizer(self.model.optimizer)
        self.model.optimizer.build(self.model.trainable_variables)
        self.train_step = recurrent.make_training_step(self.model, self.model.optimizer)
        self.evaluate = recurrent.make_evaluator(self.model)
        self.sample = recurrent.make_sampler(self.model, config.context, (config.height, config.width))

    def execute(self):
        """Train to the end, from the last checkpoint if there is one. Raises Interrupted after Ctrl-C."""
        self.set_up()
        begun, resumed = time.monotonic(), self.progress is not None
        self.progress = progress = self.progress or trainings.TrainingProgress([], [], [])
        if progress.variables:
            trainings.assign_variables(self.model, progress.variables)
        if progress.losses and not progress.step:
            self.write_outputs(progress)  # a killed process may have written only the checkpoint
        epochs, steps = self.config.epochs, self.windows.steps
        disable = True if self.options.quiet else None
        done = len(progress.losses) * steps + progress.step
        with (
            trainings.deferred_interrupt() as self.stop,
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
        self.duration = trainings.format_duration(time.monotonic() - begun) + " since it was resumed" * resumed

    def results(self):
        """Return the results to print, as a dict of texts by name."""
        if not self.progress:
            return {}
        losses, scores = self.progress.losses, self.progress.validation_losses
        stopped = self.progress.stopped_early(self.options.patience)
        results = {
            "epochs": trainings.describe_epochs([len(losses)], stopped, self.options),
            "loss": trainings.nats_and_bits(losses[-1]),
        }
        if scores:
            best = int(np.argmin(scores))
            results["validation_loss"] = f"{trainings.nats_and_bits(scores[best])}, the best, after epoch {best + 1}"
        return results | ({"duration": self.duration} if self.duration else {})

    def can_go_on(self):
        """Say whether --resume could add epochs."""
        return bool(self.progress) and not self.progress.stopped_early(self.options.patience)

    def train_epoch(self, progress):
        """Train for one epoch, from the step that `progress` has reached."""
        steps, epoch = self.windows.steps, len(progress.losses)
        states, saved = list(progress.states), time.monotonic()
        while progress.step < steps:
            inputs, targets, weight, first = self.windows.batch(self.options.seed, epoch, progress.step)
            self.model.optimizer.learning_rate = trainings.learning_rate(
                self.config,
                epoch * steps + progress.step,
                self.config.epochs * steps,
                progress.validation_losses or progress.losses,
            )
            loss, states = self.train_step(inputs | self.carried_states(states, first), targets, weight)
            if not math.isfinite(loss):
                raise InputError(DIVERGED)
            progress.nats += float(loss) * float(weight.sum())
            progress.pixels += float(weight.sum())
            progress.step += 1
            self.bar.update()
            self.bar.set_postfix(loss=f"{progress.nats / progress.pixels:.3f} nats", refresh=False)
            if self.stop.is_set() or time.monotonic() - saved > SAVE_SECONDS:
                self.save_progress(progress, states)
                saved = time.monotonic()
                self.check_interrupt()

    def carried_states(self, states, first):
        """Return the state inputs of a batch: the states after the previous batch, or zero if a window is `first`."""
        names = [name for name in self.model.input if name.startswith("state_")]
        zero = np.zeros((len(first), self.config.units), "float32")
        kept = (1 - first.astype("float32"))[:, None]
        return {name: keras.ops.multiply(state, kept) for name, state in zip(names, states or [zero] * len(names))}

    def check_interrupt(self):
        if self.stop.is_set():
            raise Interrupted(
                f"interrupted; {self.folder} is kept, and the same command with --resume goes on from here"
            )

    def finish_epoch(self, progress):
        """Score the network, save the checkpoint and the model, and write the outputs at the end of an epoch."""
        progress.losses.append(progress.nats / progress.pixels)
        progress.step, progress.nats, progress.pixels = 0, 0.0, 0.0
        if self.held_out:
            progress.validation_losses.append(self.validation_loss())
        scores = progress.validation_losses or [0]
        if np.isfinite(scores[-1]) and scores[-1] == min(scores):
            self.save_model("model.keras")
        self.save_progress(progress, [])
        self.write_outputs(progress)
        self.check_interrupt()

    def write_outputs(self, progress):
        """Write the losses; from time to time, also draw a sheet of samples and the loss curve.

        These are drawn after the first epoch, every --sample-every epochs and at the end. A sheet that exists is kept.
        """
        epoch, is_over = len(progress.losses), progress.is_over(self.config.epochs, self.options.patience)
        due = epoch == 1 or epoch % self.options.sample_every == 0 or is_over
        path = self.folder / "samples" / f"epoch_{epoch:04}.png"
        curves = {"loss": progress.losses, "validation": progress.validation_losses}
        curves = {name: np.array(losses) for name, losses in curves.items() if losses}
        self.write_losses(curves)
        if due and not path.exists():
            self.draw_samples(path)
        if due:
            self.plot_losses(curves)

    def validation_loss(self):
        """Return the loss of the held-out pictures, in nats a pixel."""
        states, nats, pixels = [], 0.0, 0.0
        for step in range(self.held_out.steps):
            inputs, targets, weight, first = self.held_out.batch(0, 0, step)
            loss, states = self.evaluate(inputs | self.carried_states(states, first), targets, weight)
            nats += float(loss) * float(weight.sum())
            pixels += float(weight.sum())
        return nats / pixels

    def save_model(self, name):
        self.check_finite()
        model = self.build(fused=False)
        model.set_weights(self.model.get_weights())
        model_files.save_model(self.folder / name, model)

    def check_finite(self):
        """Raise InputError where a weight is NaN or infinite. Such a network must not be written."""
        if not all(np.isfinite(weight).all() for weight in self.model.get_weights()):
            raise InputError(DIVERGED)

    def draw_samples(self, path):
        """Draw one picture at each of TEMPERATURES, all with the same random numbers."""
        pixels = self.config.width * self.config.height
        uniform = np.random.default_rng(self.options.seed).random(pixels, dtype="float32")
        known = np.zeros((len(TEMPERATURES), pixels), "int32")
        temperatures = np.array(TEMPERATURES, "float32")
        uniform = np.tile(uniform, (len(TEMPERATURES), 1))
        tokens = self.sample(recurrent.weights_of(self.model), known, uniform, np.int32(0), temperatures)
        pictures = palettes.from_palette(tokens, self.palette, self.config.height, self.config.width)
        about = provenance.of_result(self.options, temperatures=TEMPERATURES)
        imaging.save_png(path, imaging.contact_sheet(pictures, len(TEMPERATURES)), about)

    def write_losses(self, curves):
        """Write the loss of each epoch into loss.csv, in nats and in bits a pixel."""
        with disk.whole_file(self.folder / "loss.csv") as temporary, open(temporary, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", *(f"{name}_{unit}" for name in curves for unit in ("nats", "bits"))])
            for epoch, losses in enumerate(zip(*curves.values(), strict=True), 1):
                writer.writerow([epoch, *(f"{loss / unit:.6f}" for loss in losses for unit in (1, math.log(2)))])

    def plot_losses(self, curves):
        """Plot the loss of each epoch into loss.png, in nats and in bits a pixel."""
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
            figure.savefig(temporary, format="png", dpi=100, metadata=provenance.of_result(self.options))

    # Checkpoints

    def checkpoints(self):
        return [self.folder / f"checkpoint_{name}.npz" for name in ("a", "b")]

    def save_progress(self, progress, states):
        """Replace the older checkpoint. The newer one is not touched, so that one is always complete."""
        self.check_finite()
        progress.variables = [variable.numpy() for variable in trainings.variables_of(self.model)]
        progress.states = [np.asarray(backend.as_array(state), "float32") for state in states]
        path = next(path for path in self.checkpoints() if path != self.last_checkpoint)
        progress.save(path)
        self.last_checkpoint = path

    def last_progress(self):
        """Read the checkpoint with more steps. If one is damaged, print a note and take the other one."""
        found, damaged = {}, []
        for path in filter(pathlib.Path.exists, self.checkpoints()):
            try:
                found[path] = trainings.TrainingProgress.load(path)
            except InputError as error:
                damaged.append(str(error))
        self.last_checkpoint = max(found, key=lambda path: (len(found[path].losses), found[path].step), default=None)
        last = found.get(self.last_checkpoint)
        if damaged:
            position = f"epoch {len(last.losses) + 1}, step {last.step + 1}" if last else "the beginning"
            print(f"note: {', '.join(damaged)}; going on from {position}", file=sys.stderr)
        return last
