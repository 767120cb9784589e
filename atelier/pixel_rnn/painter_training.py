"""Painters: one network trained on a folder of pictures, and the folder that holds what comes of it.

In go pictures, uint8 N x H x W x 3, out come model.keras, meta.json with the palette, sheets of samples and the loss.
"""

import csv
import dataclasses
import functools
import math
import pathlib
import sys
import time
import zlib

from atelier import hardware  # has TensorFlow start quietly

# isort: split
import keras
import numpy as np
import tqdm

import util
from atelier import disk, imaging, provenance, trainings
from atelier.errors import InputError, Interrupted, PartlyDone
from atelier.pixel_rnn import model_files, model_meta, palettes, recurrent

TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)  # of the pictures on a sample sheet
SAVE_SECONDS = 300  # between checkpoints within an epoch
DIVERGED = "the training diverged; try a lower --learning-rate"
STARTS = 64  # windows of the training pictures that are kept with the model, to start drawings from


def train(source, preset, recipe, options, name):
    """Train one network on a folder of pictures and write it into a folder, by default trained/`name`."""
    check_apart(source, options.validation)
    pictures, held_out, refused = load_paintings(source, recipe, options)
    device = hardware.use_precision(options.precision, "training", recipe.batch_size)
    for line in refused:
        trainings.note(f"left out: {line}", options)
    if not options.quiet:
        print(f"device: {device}", file=sys.stderr)
    about = {"source": str(source), "preset": preset, "recipe": dataclasses.asdict(recipe)}
    about |= {flag: getattr(options, flag) for flag in ("seed", "num_images", "validation_split", "patience")}
    about |= {"precision": keras.config.dtype_policy().name}
    about |= {"pictures": len(pictures), "data_crc32": zlib.crc32(pictures.tobytes(), zlib.crc32(held_out.tobytes()))}
    training = trainings.find_folder(lambda folder: PainterTraining(about, recipe, options, folder), options, name)
    print(f"folder: {training.folder}", flush=True)
    if training.finished:
        trainings.note(training.finished, options)
    else:
        training.prepare(pictures, held_out)
        del pictures, held_out  # what is left of them is two bytes a pixel
        training.execute()
    print(f"model: {training.folder / 'model.keras'}")
    trainings.print_figures(training.figures())
    print(f"loss_curve: {training.folder / 'loss.png'}")
    trainings.print_drawing(training.folder)
    trainings.print_longer(training.can_go_on())
    disk.remove_leftovers(training.folder, FILES_OF_A_PAINTER, training.opened)
    if refused:
        raise PartlyDone(f"{len(refused)} files could not be used as pictures, and are named above; the rest was")


def check_apart(source, validation):
    """Raise InputError where the pictures to score are among those to train on."""
    if validation:
        one, other = source.resolve(), pathlib.Path(validation).resolve()
        if one == other or one in other.parents or other in one.parents:
            raise InputError(f"{validation} and {source} must not lie in one another")


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
        raise InputError(f"--validation-split would hold out {count} of {len(pictures)} pictures")
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
        self.meta = about | {"versions": provenance.versions()}
        self.opened = time.time()
        self.progress = self.last_checkpoint = self.duration = self.finished = None
        earlier = model_meta.load_meta(folder) if (folder / "meta.json").exists() else None
        if earlier and "classes" in earlier:
            raise InputError(f"{folder} holds models of digits; give another --output")
        if options.resume:
            self.resume(about, earlier)
        elif options.overwrite:
            return
        elif earlier:
            self.refuse(about, earlier)
        elif in_the_way := next(self.learned(), None):
            raise InputError(f"{in_the_way} is in the way; give another --output, or --overwrite")

    def resume(self, about, earlier):
        """Take over what the folder holds, with this command's epochs. Raises InputError where it can't go on."""
        trainings.check_same(self.folder, about, earlier)
        self.progress = self.last_progress()
        before, epochs = earlier["recipe"]["epochs"], self.recipe.epochs
        if earlier.get("finished") and self.progress is None and epochs != before:
            raise trainings.no_checkpoint(self.folder)
        if epochs < before and self.progress:
            trainings.check_epochs(self.folder, len(self.progress.losses) + (self.progress.step > 0), epochs)
        self.meta = earlier | {"recipe": about["recipe"]}
        if earlier.get("finished") and (epochs == before or self.progress.is_over(epochs, self.options.patience)):
            self.finished = self.finished_line(before)
        else:
            self.meta["finished"] = False

    def refuse(self, about, earlier):
        """Raise InputError: a training lies here, and neither --resume nor --overwrite was given."""
        if not trainings.is_same_or_longer(about, earlier):
            raise trainings.other_training(self.folder, trainings.differences(about, earlier))
        if not earlier.get("finished"):
            raise trainings.unfinished(self.folder)
        self.progress = self.last_progress()
        raise trainings.already_finished(self.finished_line(earlier["recipe"]["epochs"]), self.progress)

    def finished_line(self, planned):
        if self.progress is None:
            return trainings.finished_line(self.folder, [planned], False, False, self.options)
        stopped = self.progress.stopped_early(self.options.patience)
        return trainings.finished_line(self.folder, [len(self.progress.losses)], stopped, True, self.options)

    def prepare(self, pictures, held_out):
        """Choose the palette, write what the network will see, and cut the pictures into windows."""
        if "palette" not in self.meta:
            self.clear()
            self.meta["palette"] = self.choose_palette(pictures)
        self.palette = self.meta["palette"]
        tokens = palettes.to_palette(pictures, self.palette)
        quantized = palettes.from_palette(tokens[:100], self.palette, self.recipe.height, self.recipe.width)
        error = palettes.color_error(pictures[:100], quantized)
        kind = "colours" if self.recipe.gray is None else "greys"
        print(f"palette: {len(self.palette)} {kind}, mean Delta E {error:.2f}", flush=True)
        about = provenance.of_result(self.options.seed)
        imaging.save_png(
            self.folder / "preview.png", imaging.contact_sheet(np.stack([pictures[0], quantized[0]]), 2), about
        )
        imaging.save_png(self.folder / "starts.png", self.palette[self.choose_starts(tokens)], about)
        self.write_meta()
        self.windows = self.cut(tokens)
        self.held_out = self.cut(palettes.to_palette(held_out, self.palette), whole=True) if len(held_out) else None

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
            return palettes.gray_palette(self.recipe.gray)
        palette = palettes.fit_palette(pictures, self.recipe.colors, self.options.seed)
        if len(palette) < 2:
            raise InputError("all pixels of these pictures have one colour; there is nothing to learn")
        if len(palette) < self.recipe.colors:
            trainings.note(f"only {len(palette)} different colours of {self.recipe.colors} were found", self.options)
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
        disk.write_json(self.folder / "meta.json", self.meta | {"palette": model_meta.write_palette(self.palette)})

    # The work

    def build(self, fused):
        options = model_meta.painter_options(dataclasses.asdict(self.recipe), self.palette)
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
        self.learn = recurrent.make_learner(self.model, self.model.optimizer)
        self.evaluate = recurrent.make_evaluator(self.model)
        self.paint = recurrent.make_painter(self.model, recipe.context, (recipe.height, recipe.width))

    def execute(self):
        """Train to the end, from the last checkpoint where there is one. Raises Interrupted after Ctrl-C."""
        self.set_up()
        begun, resumed = time.monotonic(), self.progress is not None
        self.progress = progress = self.progress or trainings.Progress([], [], [])
        if progress.variables:
            trainings.put_variables(self.model, progress.variables)
        if progress.losses and not progress.step:
            self.show(progress)  # a kill may have come between the checkpoint and this
        epochs, steps = self.recipe.epochs, self.windows.steps
        disable = True if self.options.quiet else None
        done = len(progress.losses) * steps + progress.step
        with (
            trainings.heeded_interrupt() as self.stop,
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
        self.duration = trainings.in_words(time.monotonic() - begun) + " since it went on" * resumed

    def figures(self):
        """Return what to print of the training, by name."""
        if not self.progress:
            return {}
        losses, scores = self.progress.losses, self.progress.validation_losses
        stopped = self.progress.stopped_early(self.options.patience)
        figures = {
            "epochs": trainings.described_epochs([len(losses)], stopped, self.options),
            "loss": trainings.nats_and_bits(losses[-1]),
        }
        if scores:
            best = int(np.argmin(scores))
            figures["validation_loss"] = f"{trainings.nats_and_bits(scores[best])}, the best, after epoch {best + 1}"
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
            self.model.optimizer.learning_rate = trainings.learning_rate(
                self.recipe,
                epoch * steps + progress.step,
                self.recipe.epochs * steps,
                progress.validation_losses or progress.losses,
            )
            loss, states = self.learn(inputs | self.carry(states, first), targets, weight)
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
                self.obey_interrupt()

    def carry(self, states, first):
        """Return the inputs that hand a batch the states of the one before it, zero where a window comes first."""
        names = [name for name in self.model.input if name.startswith("state_")]
        zero = np.zeros((len(first), self.recipe.units), "float32")
        kept = (1 - first.astype("float32"))[:, None]
        return {name: state * kept for name, state in zip(names, states or [zero] * len(names))}

    def obey_interrupt(self):
        if self.stop.is_set():
            raise Interrupted(
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
        model_files.save_model(self.folder / name, model)

    def check_finite(self):
        """Raise InputError rather than write a network that the last step has spoilt."""
        if not all(np.isfinite(weight).all() for weight in self.model.get_weights()):
            raise InputError(DIVERGED)

    def draw_samples(self, path):
        """Draw a picture at each of TEMPERATURES, all from the same random numbers."""
        pixels = self.recipe.width * self.recipe.height
        uniform = np.random.default_rng(self.options.seed).random(pixels, dtype="float32")
        known = np.zeros((len(TEMPERATURES), pixels), "int32")
        temperatures = np.array(TEMPERATURES, "float32")
        uniform = np.tile(uniform, (len(TEMPERATURES), 1))
        tokens = self.paint(recurrent.weights_of(self.model), known, uniform, np.int32(0), temperatures)
        pictures = palettes.from_palette(tokens, self.palette, self.recipe.height, self.recipe.width)
        about = provenance.of_result(self.options.seed, temperatures=TEMPERATURES)
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
            figure.savefig(temporary, format="png", dpi=100, metadata=provenance.of_result(self.options.seed))

    # Checkpoints

    def checkpoints(self):
        return [self.folder / f"checkpoint_{name}.npz" for name in ("a", "b")]

    def save_progress(self, progress, states):
        """Write the checkpoint that is not the last one; that stays whole whatever happens."""
        self.check_finite()
        progress.variables = [variable.numpy() for variable in trainings.variables_of(self.model)]
        progress.states = [np.asarray(state, "float32") for state in states]
        path = next(path for path in self.checkpoints() if path != self.last_checkpoint)
        progress.save(path)
        self.last_checkpoint = path

    def last_progress(self):
        """Read the checkpoint that has come further; where that is damaged, say so and take the other."""
        found, damaged = {}, []
        for path in filter(pathlib.Path.exists, self.checkpoints()):
            try:
                found[path] = trainings.Progress.load(path)
            except InputError as error:
                damaged.append(str(error))
        self.last_checkpoint = max(found, key=lambda path: (len(found[path].losses), found[path].step), default=None)
        last = found.get(self.last_checkpoint)
        if damaged:
            come = f"epoch {len(last.losses) + 1}, step {last.step + 1}" if last else "the beginning"
            print(f"note: {', '.join(damaged)}; going on from {come}", file=sys.stderr)
        return last
