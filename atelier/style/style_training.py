"""Teaching a small network to paint after paintings, and the folder that holds what comes of it.

In go paintings and photos, out come the network and the styles of learned_styles.py. What the network makes of pieces
of photos is judged by the loss of the search (perceptual_loss.py).
"""

import csv
import dataclasses
import functools
import math
import shutil
import time
import zipfile
import zlib

from atelier import hardware  # noqa: F401, it has TensorFlow start quietly

# isort: split
import keras
import numpy as np
import tensorflow as tf
import tqdm

import config
from atelier import disk, imaging, manifests, provenance, trainings
from atelier.errors import InputError, Interrupted
from atelier.networks import minimizers, pretrained, vision
from atelier.style import learned_styles, perceptual_loss, stylization_network

CROP = 256  # pixels of the sides of the pieces that are learned from
BATCH = 2  # of them in a step
SIZES = (0.6, 1.25)  # of photos when pieces are cut out, beside the size that paintings are looked at
LONGEST = 1000  # pixels of the photos kept in memory
SAVE_SECONDS = 60  # from one checkpoint to the next
SHEET_SECONDS = 180  # from one sheet to the next, after a first one when the first checkpoint is written
JUDGED, SEARCHED = 3, 40  # pieces that are judged at the end, and the steps of a search on each
UNUSED = 2**40  # the number of a step that no training comes to
STYLES_RATE = 4  # times the rate of the network: each is taught by some of the pieces alone
KERNELS_RATE = 0.3  # root mean square of a step's change of a kernel, in learning rates
GUIDANCE = 0.25  # weight of how far a picture's mean colours are from the photo's: it keeps more of the photo's forms
# than the content does at the price of the same strokes
GUIDED = 0.5  # of a training from scratch: so fast it falls from 1 to that; else light and dark may change places
MEAN_SIDE, MEAN_UNIT = 16, 64  # pixels of the squares whose mean colours guide, and grey levels that they differ by
STYLES_ALONE = 0.1  # of the training: then the network of a base learns, too, which a style new to it would spoil
TERMS = ("total", "content", "style", "tv")  # of the loss
CHECKPOINT = "checkpoint.npz"
FILES = (learned_styles.META, learned_styles.STYLE, learned_styles.NETWORK, CHECKPOINT)
FILES += ("sheet.png", "loss.csv", "loss.png")
MOST_PHOTOS = 1000  # of a larger folder, so many are chosen


@dataclasses.dataclass
class Progress:
    """How far a training has come: all there is to know to go on exactly."""

    steps: int  # that there will be
    losses: list = dataclasses.field(default_factory=list)  # of each step: TERMS
    variables: list = ()  # of the network, the styles and the optimizer

    def save(self, path):
        arrays = {f"variable_{i}": value for i, value in enumerate(self.variables)}
        with disk.whole_file(path) as temporary:
            np.savez(temporary, steps=self.steps, losses=np.array(self.losses), **arrays)

    @classmethod
    def load(cls, path):
        """Read what save wrote. Raises InputError where the file is damaged."""
        try:
            with np.load(path, allow_pickle=False) as file:
                variables = [file[f"variable_{i}"] for i in range(len(file.files) - 2)]
                return cls(int(file["steps"]), file["losses"].tolist(), variables)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path} is damaged; --overwrite starts anew") from error


# --- Pictures ----------------------------------------------------------------------------------


def read_painting(path, size):
    """Read a painting at the size it is looked at, float32 H x W x 3. Raises InputError where it is of no use."""
    painting = imaging.load_image(path)
    width, height = imaging.fit(*painting.shape[1::-1], size)
    if min(width, height) < config.VGG_LEAST_SIDE:
        raise InputError(f"{path} would be looked at in {width} x {height} pixels; VGG needs {config.VGG_LEAST_SIDE}")
    painting = imaging.resize_picture(painting, width, height)
    if np.ptp(painting, axis=(0, 1)).max() < 8:
        raise InputError(f"{path} is of one colour; there is nothing to learn")
    return painting


def read_photos(folder, seed):
    """Read the photos of a folder: (uint8 H x W x 3 each, why others were left out). Raises InputError for none."""
    paths = imaging.find_pictures(folder)
    if len(paths) > MOST_PHOTOS:
        chosen = np.random.default_rng(seed).choice(len(paths), MOST_PHOTOS, replace=False)
        paths = [paths[i] for i in sorted(chosen)]
    photos, refused = [], []
    for path in paths:
        try:
            photo = imaging.open_picture(path, at_least=(LONGEST, LONGEST))
            photo.thumbnail((LONGEST, LONGEST))
            if min(photo.size) < config.VGG_LEAST_SIDE:
                raise InputError(f"{path} is too small or too long: of {photo.width} x {photo.height} pixels")
            photos.append(np.asarray(photo))
        except InputError as error:
            refused.append(str(error))
    if not photos:
        why = f"; the first: {refused[0]}" if refused else f"; {imaging.unread_pictures(folder) or 'it has none'}"
        raise InputError(f"{folder} holds no photo to learn on{why}")
    return photos, refused


def piece(photo, longest, rng):
    """Cut a piece CROP x CROP x 3 out of a photo, resized so that its longest side has about so many pixels, or more.

    Unless it is resized before, a piece of a large photo shows nothing.
    """
    height, width = photo.shape[:2]
    factor = max(longest / max(height, width), CROP / min(height, width))
    height, width = (max(CROP, round(side * factor)) for side in (height, width))
    resized = imaging.resize_picture(photo, width, height)
    top, left = rng.integers(height - CROP + 1), rng.integers(width - CROP + 1)
    cut = resized[top : top + CROP, left : left + CROP]
    return cut[:, ::-1] if rng.random() < 0.5 else cut


# --- The loss ----------------------------------------------------------------------------------


class Teacher:
    """VGG, and the loss of the search."""

    def __init__(self, options):
        loss = dataclasses.replace(config.Style(), content_weight=options.content_weight)
        model, self.source = pretrained.load_vgg("vgg16", options.weights)
        extractor = functools.partial(vision.feature_extractor, model)
        self.content = vision.for_any_size(extractor(loss.content_layers))
        self.statistics = vision.for_any_size(perceptual_loss.statistics_of(extractor(loss.style_layers), loss))
        everything = extractor([*loss.content_layers, *loss.style_layers])
        self.loss = perceptual_loss.style_transfer_loss(everything, loss)
        self.evaluate = vision.value_and_gradient(self.loss)

    def judge(self, picture, targets):
        """Return the losses of a picture H x W x 3, TERMS, and the gradient of their total."""
        terms, gradient = self.evaluate(picture[None], targets)
        return [float(terms[name]) for name in TERMS], np.asarray(gradient)[0]

    def search(self, begun, targets):
        """Return the least losses, TERMS, that a search from there comes to."""
        found = []

        def evaluate(picture):
            losses, gradient = self.judge(picture, targets)
            found.append(losses)
            return losses[0], gradient

        minimizers.minimize_lbfgs(evaluate, begun, SEARCHED, accept=lambda picture: None)
        return min(found)


class Lesson:
    """What is known of a painting, float32 H x W x 3: its colours' mean and covariance, and what is its style."""

    def __init__(self, painting, teacher):
        pixels = painting.reshape(-1, 3).astype("float64")
        self.mean, self.covariance = pixels.mean(0), np.cov(pixels.T)
        self.statistics = [[np.asarray(x) for x in layer] for layer in teacher.statistics(painting[None])]


class Muon(keras.optimizers.Muon):
    """Muon (Jordan et al. 2024) for kernels H x W x I x O, as matrices of O columns; Keras has it for matrices alone.

    All else goes by Adam, and so does a kernel of so few columns as a picture's three colours.
    """

    def __init__(self, rate):
        # With rms_rate, Keras would take a kernel's first two sides for those of a matrix.
        without = {"rms_rate": None, "weight_decay": None, "adam_weight_decay": None}
        super().__init__(rate, adam_beta_2=0.99, global_clipnorm=1.0, **without)

    def _should_use_adamw(self, variable):
        return len(variable.shape) < 4 or variable.shape[-1] < 8

    def zeropower_via_newtonschulz5(self, x, steps):
        matrix = keras.ops.reshape(x, (-1, x.shape[-1]))
        orthogonal = super().zeropower_via_newtonschulz5(matrix, steps)
        return keras.ops.reshape(KERNELS_RATE * math.sqrt(max(matrix.shape)) * orthogonal, x.shape)


class Course:
    """What is learned together: variables, and their optimizer."""

    def __init__(self, variables, optimizer, rate):
        self.variables, self.optimizer, self.rate = variables, optimizer(rate), rate
        self.optimizer.build(variables)
        self.apply = tf.function(lambda gradients: self.optimizer.apply(gradients, variables), autograph=False)

    def go_on(self, slowness, gradients):
        """Take a step, of the rate times `slowness`."""
        self.optimizer.learning_rate = self.rate * slowness
        self.apply(gradients)


# --- The work ----------------------------------------------------------------------------------


class StyleTraining:
    """A network that learns to paint after one painting or several, and the folder that holds what comes of it.

    `paintings` are files, `photos` uint8 H x W x 3 each, `base` is what to begin with as learned_styles.beginning()
    takes it. `about` is what meta.json tells of it all.
    """

    def __init__(self, folder, paintings, photos, base, options):
        self.folder, self.paintings, self.photos, self.options = folder, paintings, photos, options
        self.progress, self.begun = Progress(options.steps or 0), time.time()
        self.first = None  # when the first step of this process was over, and how many steps had been taken then
        self.teacher = Teacher(options)
        keras.utils.set_random_seed(options.seed)
        self.base, numbers = learned_styles.beginning(base)
        self.network = learned_styles.load_network(self.base) if base else stylization_network.build_network()
        self.styles = keras.Variable(np.repeat(numbers[None], len(paintings), 0), name="styles")
        adam = functools.partial(keras.optimizers.Adam, beta_2=0.99, global_clipnorm=1.0)
        self.courses = [Course([self.styles], adam, STYLES_RATE * options.learning_rate)]
        if not options.keep_network:
            self.courses.append(Course(self.network.trainable_variables, Muon, options.learning_rate))
        self.look = tf.function(self.judge, autograph=False)
        self.about = self.describe()

    @functools.cached_property
    def lessons(self):
        """What is known of each painting. It takes seconds, which a training that is refused need not wait for."""
        return [Lesson(read_painting(path, self.options.size), self.teacher) for path in self.paintings]

    def describe(self):
        """Return what meta.json tells: all that shapes what is learned."""
        names = ("size", "minutes", "steps", "content_weight", "learning_rate", "keep_network", "seed")
        return {
            "paintings": [" ".join(manifests.file_checksum(path).values()) for path in self.paintings],
            "photos": len(self.photos),
            "photos_crc32": functools.reduce(lambda crc, photo: zlib.crc32(photo.tobytes(), crc), self.photos, 0),
            "base": learned_styles.checksum(self.base) if self.base else None,
            "weights": self.teacher.source,
            "precision": keras.config.dtype_policy().name,
            "options": {name: getattr(self.options, name) for name in names},
        }

    def begin(self):
        """Clear the folder of what an earlier training has left there, and say in meta.json what begins."""
        _ = self.lessons  # what can't be learned leaves the folder as it is
        self.folder.mkdir(parents=True, exist_ok=True)
        beneath = [path.parent for path in self.folder.glob(f"*/{learned_styles.STYLE}")]
        of_its_network = [folder for folder in beneath if not (folder / learned_styles.NETWORK).exists()]
        for folder in (self.folder, *of_its_network, *self.folders().values()):
            for name in FILES:
                (folder / name).unlink(missing_ok=True)
        disk.write_json(self.folder / learned_styles.META, self.about | {"finished": False})

    def resume(self):
        """Take over what the checkpoint holds. Raises InputError where it is of another training."""
        changes = trainings.differences(self.about, learned_styles.read_meta(self.folder))
        if changes:
            raise trainings.other_training(self.folder, changes)
        self.progress = Progress.load(self.folder / CHECKPOINT)
        try:
            for variable, value in zip(self.all_variables(), self.progress.variables, strict=True):
                variable.assign(value)
        except ValueError as error:
            raise InputError(f"{self.folder} was begun by another version; --overwrite starts anew") from error

    def all_variables(self):
        return [x for course in self.courses for x in (*course.variables, *course.optimizer.variables)]

    def judge(self, photo, noise, which, content, statistics, guidance):
        """Return the loss of what the network makes of a photo, TERMS, and its gradient for each course.

        `photo` is 1 x CROP x CROP x 3 in the painting's colours, `noise` as draw_noise() makes it. The gradient is
        also of how far the picture's mean colours are from the photo's, times `guidance`, but the losses compare with
        a search's.
        """
        variables = [[variable.value for variable in course.variables] for course in self.courses]
        with tf.GradientTape() as tape:
            picture = self.network([photo, noise, tf.gather(self.styles.value, which)])
            terms = self.teacher.loss(picture, {"content": content, "style": statistics})
            away = keras.ops.average_pool(picture - photo, MEAN_SIDE) / MEAN_UNIT
            total = terms["total"] + guidance * keras.ops.mean(away**2)
            scaled = CROP**2 * total  # a float16 gradient of a mean would vanish
        gradients = tf.nest.map_structure(tf.convert_to_tensor, tape.gradient(scaled, variables))
        return [terms[name] for name in TERMS], [[x / CROP**2 for x in of_course] for of_course in gradients]

    def step(self):
        """Learn from a few pieces. Raises InputError where the training diverged."""
        done = len(self.progress.losses)
        share = done / self.progress.steps if self.progress.steps else 0
        depth = 1 if self.base and share < STYLES_ALONE else len(self.courses)
        rng = np.random.default_rng((self.options.seed, done))
        which = rng.integers(len(self.lessons), size=BATCH)
        guidance = np.float32(GUIDANCE if self.base else guidance_at(share))
        terms, gradients = zip(*(self.look_at(*self.choose_piece(rng, self.lessons[i]), i, guidance) for i in which))
        loss = np.mean(terms, 0)
        if not math.isfinite(loss[0]):
            raise InputError("the training diverged; try a lower --learning-rate")
        for course, alike in zip(self.courses[:depth], zip(*gradients)):
            course.go_on((1 + math.cos(math.pi * share)) / 2, [sum(x) / BATCH for x in zip(*alike)])
        self.progress.losses.append(loss.tolist())

    def look_at(self, photo, begun, noise, i, guidance):
        """Return what judge() finds of a piece of a photo, and of what is begun with, for the painting `i`."""
        content, which = self.teacher.content(photo[None]), np.array([i], "int32")
        return self.look(begun[None], noise, which, content, self.lessons[i].statistics, guidance)

    def choose_piece(self, rng, lesson):
        """Return a piece of some photo, in its own colours and in the painting's, and noise.

        The photo is recoloured as a whole, so that a piece of flat sky stays flat.
        """
        photo = self.photos[rng.integers(len(self.photos))]
        matrix, shift = imaging.recoloring(photo[::4, ::4], lesson.mean, lesson.covariance)
        cut = piece(photo, self.options.size * rng.uniform(*SIZES), rng)
        return cut, (cut @ matrix + shift).astype("float32"), stylization_network.draw_noise(CROP, CROP, rng)

    def execute(self):
        """Learn to the end. Raises Interrupted after Ctrl-C."""
        progress, begun = self.progress, time.monotonic()
        saved, drawn = begun, -math.inf
        with (
            trainings.heeded_interrupt() as stop,
            tqdm.tqdm(total=progress.steps or None, initial=len(progress.losses), unit="step", **self.silent()) as bar,
        ):
            while not progress.steps or len(progress.losses) < progress.steps:
                self.step()
                if not progress.steps:
                    self.plan(begun)
                    bar.total = progress.steps or None
                bar.update()
                bar.set_postfix(loss=f"{np.mean([loss[0] for loss in progress.losses[-50:]]):.3f}", refresh=False)
                now = time.monotonic()
                if stop.is_set() or now - saved > SAVE_SECONDS:
                    self.save_checkpoint()
                    saved = time.monotonic()
                self.obey(stop)
                if now - begun > SAVE_SECONDS and now - drawn > SHEET_SECONDS:
                    self.draw_sheet()
                    drawn = time.monotonic()
            self.save_checkpoint()
            self.finish(stop)

    def obey(self, stop):
        if stop.is_set():
            raise Interrupted(f"interrupted; {self.folder} is kept, and --resume goes on")

    def silent(self):
        return {"disable": True if self.options.quiet else None}

    def plan(self, begun):
        """Set how many steps there will be, once some tell what they take; the first is the slowest by far."""
        done, now = len(self.progress.losses), time.monotonic()
        if self.first is None:
            self.first = now, done
        elif done == self.first[1] + TELLING:
            each = (now - self.first[0]) / TELLING
            self.progress.steps = done + max(0, round((60 * self.options.minutes - (now - begun)) / each))

    def save_checkpoint(self):
        self.progress.variables = [np.asarray(variable) for variable in self.all_variables()]
        self.progress.save(self.folder / CHECKPOINT)

    def finish(self, stop):
        """Write the network, the styles, a sheet and the losses, and remove the checkpoint. Raises Interrupted."""
        trainings.note("a search on a few pieces tells how near the network comes to it", self.options)
        network, judged = self.save_network(), self.compare_with_search(stop)
        about = self.about | {"losses": judged, "finished": True}
        self.draw_sheet()
        self.write_losses(judged["search"]["total"])
        folders = self.folders()
        for path, style in zip(self.paintings, self.styles_so_far(network)):
            folders[path].mkdir(exist_ok=True)
            learned_styles.save_style(folders[path], style, about | {"painting": path.name})
        if len(self.paintings) > 1:
            disk.write_json(self.folder / learned_styles.META, about)
        (self.folder / CHECKPOINT).unlink(missing_ok=True)
        disk.remove_leftovers(self.folder, FILES, self.begun)

    def folders(self):
        """Return a dict from each painting to the folder of its style."""
        alone = len(self.paintings) == 1
        return {path: self.folder if alone else self.folder / path.stem for path in self.paintings}

    def save_network(self):
        """Write the network, or a copy of what it is kept from: another may be there one day. Return its file."""
        file = self.folder / learned_styles.NETWORK
        if not self.options.keep_network:
            learned_styles.save_network(file, self.network, np.asarray(self.styles))
        else:
            with disk.whole_file(file) as temporary:
                shutil.copyfile(self.base, temporary)
        return file

    def compare_with_search(self, stop):
        """Return the mean losses of what the network makes of JUDGED pieces, and of what a search does: TERMS each."""
        losses = {"network": [], "search": []}
        for number in range(JUDGED):
            self.obey(stop)
            i = number % len(self.lessons)
            rng = np.random.default_rng((self.options.seed, UNUSED + number))
            photo, begun, noise = self.choose_piece(rng, self.lessons[i])
            targets = {"content": self.teacher.content(photo[None]), "style": self.lessons[i].statistics}
            painted = self.network([begun[None], noise, np.asarray(self.styles)[i : i + 1]])
            losses["network"].append(self.teacher.judge(np.asarray(painted)[0], targets)[0])
            losses["search"].append(self.teacher.search(begun, targets))
        return {name: dict(zip(TERMS, np.mean(found, 0).round(4).tolist())) for name, found in losses.items()}

    def styles_so_far(self, network=None):
        """List what the network knows of each painting."""
        return [
            learned_styles.LearnedStyle(
                path.stem, network, numbers, lesson.mean, lesson.covariance, lesson.statistics, self.teacher.source
            )
            for path, lesson, numbers in zip(self.paintings, self.lessons, np.asarray(self.styles))
        ]

    def draw_sheet(self):
        """Write sheet.png: three of the photos after the first four paintings, as the network paints them now."""
        rows = []
        chosen = self.photos[:: max(1, len(self.photos) // 3)][:3]
        for photo in chosen:
            width, height = imaging.fit(*photo.shape[1::-1], 320)
            photo = imaging.resize_picture(photo, width, height)
            painted = [learned_styles.paint_after(self.network, photo, style) for style in self.styles_so_far()[:4]]
            rows.append(imaging.side_by_side([photo, *painted], 240))
        width = max(row.shape[1] for row in rows)
        rows = [np.pad(row, ((0, 8), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
        imaging.save_png(self.folder / "sheet.png", np.concatenate(rows), provenance.of_result(self.options.seed))

    def write_losses(self, of_search):
        """Write loss.csv, with a row for each step, and loss.png, with the total of a search beside them."""
        from matplotlib.figure import Figure

        with disk.whole_file(self.folder / "loss.csv") as temporary, open(temporary, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", *TERMS])
            writer.writerows([i + 1, *(f"{term:.5f}" for term in loss)] for i, loss in enumerate(self.progress.losses))
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        window = max(1, len(self.progress.losses) // 50)
        for name, values in zip(TERMS, np.transpose(self.progress.losses)):
            axes.semilogy(np.convolve(values, np.ones(window) / window, "valid"), label=name)
        axes.axhline(of_search, color="black", linestyle=":", label=f"total of a search, {SEARCHED} steps")
        axes.set(xlabel=f"step, means of {window}", ylabel="loss, its terms before their weights")
        axes.legend()
        with disk.whole_file(self.folder / "loss.png") as temporary:
            figure.savefig(temporary, format="png", dpi=100, metadata=provenance.of_result(self.options.seed))


def guidance_at(share):
    """Return the weight of the guidance when so much of a training from scratch is over."""
    return max(GUIDANCE, 1 - share / GUIDED)


TELLING = 7  # steps that tell how long the others take
