"""Train a stylization network on paintings and photos, and keep the training's folder: checkpoints, sheets, styles.

The network's results for pieces of photos are compared with the paintings and the photos by the loss of the search
(perceptual_loss.py), whose statistics are also compared in the parts of a piece, and whose VGG takes averages.
"""

import csv
import dataclasses
import functools
import math
import shutil
import time
import zipfile
import zlib

from atelier import backend  # Keras starts quietly

# isort: split
import keras
import numpy as np
import tqdm

import config
from atelier import colors, disk, imaging, manifests, progress, provenance, trainings
from atelier.errors import InputError, Interrupted
from atelier.networks import minimizers
from atelier.style import input_pictures, learned_styles, perceptual_loss, stylization_network

CROP = 256  # pixels of the sides of the pieces of photos
BATCH = 2  # pieces in a step
PARTS = 2  # rows and columns of the parts of a piece that are compared with the painting one by one
# Each painting is learned in usual and in large strokes: factors of --size for the painting and for the photos
STROKES = ((1, 1), (2, 1.35))
LARGE_SHARE = 0.5  # share of the pieces that are painted in large strokes
SCALES = (0.8, 1.6)  # range of the photos' size when pieces are cut out, relative to that size
MAX_PHOTO_SIDE = 1000  # pixels of the photos kept in memory
MAX_PHOTOS = 1000  # if a folder has more, this number is chosen at random
CHECKPOINT_SECONDS = 60  # from one checkpoint to the next
SHEET_SECONDS = 180  # from one sheet to the next
EVALUATED_PIECES = 3  # pieces on which the network is compared with a search at the end of the training
SEARCH_STEPS = 40  # of the search on each of these pieces
EVALUATION_SEED = 2**40  # no step has this number, so these pieces are not those of the training
UNTIMED_STEPS = 3  # the first steps, which also compile, or are captured on a GPU
TIMED_STEPS = 7  # further steps that are timed to estimate how long the others take
STYLE_RATE = 4  # learning rate of a style / that of the network: only some of the pieces train a style
KERNEL_RATE = 0.3  # root mean square of the change of a kernel in a step, divided by the learning rate
TERMS = ("total", "content", "style", "tv")  # of the loss

# The guidance is the squared difference of the mean colours of small squares of the picture and of the photo. Without
# it, light and dark may swap in a training from scratch, and a training with a base scatters dark scraps over light
# skies. Its weight falls linearly from 1 to 0.
GUIDED_SHARE = 0.5  # share of the training after which it is 0
GUIDANCE_SIDE, GUIDANCE_UNIT = 16, 64  # the side of the squares in pixels, and the grey levels that count as 1

# Share of a training with a base in which the network is not changed: an untrained style vector would spoil it.
STYLE_ONLY = 0.1

CHECKPOINT = "checkpoint.npz"
FILES = (learned_styles.META, learned_styles.STYLE, learned_styles.NETWORK, CHECKPOINT)
FILES += ("sheet.png", "loss.csv", "loss.png")


@dataclasses.dataclass
class TrainingState:
    """All that is needed to continue a training."""

    steps: int  # in all, or 0 where the number is not known yet
    losses: list = dataclasses.field(default_factory=list)  # TERMS of each step
    variables: list = ()  # of the network, the styles and the optimizers

    def save(self, path):
        arrays = {f"variable_{i}": value for i, value in enumerate(self.variables)}
        with disk.whole_file(path) as temporary:
            np.savez(temporary, steps=self.steps, losses=np.array(self.losses), **arrays)

    @classmethod
    def load(cls, path):
        """Read what save() wrote. Raises InputError where the file is damaged."""
        try:
            with np.load(path, allow_pickle=False) as file:
                variables = [file[f"variable_{i}"] for i in range(len(file.files) - 2)]
                return cls(int(file["steps"]), file["losses"].tolist(), variables)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path} is damaged; --overwrite starts again") from error


# --- Pictures ----------------------------------------------------------------------------------


def read_painting_to_learn(path, size):
    """Read a painting, float32 H x W x 3, at the training's size. Raises InputError if it is too small or plain."""
    painting = input_pictures.read_painting(path, size)
    if np.ptp(painting, axis=(0, 1)).max() < 8:
        raise InputError(f"{path} is of one colour; there is nothing to learn")
    return painting


def read_photos(folder, seed):
    """Read the photos in a folder: (list of uint8 H x W x 3, errors of the other files). Raises InputError for none."""
    paths = imaging.find_pictures(folder)
    if len(paths) > MAX_PHOTOS:
        chosen = np.random.default_rng(seed).choice(len(paths), MAX_PHOTOS, replace=False)
        paths = [paths[i] for i in sorted(chosen)]
    photos, refused = [], []
    for path in paths:
        try:
            photo = imaging.open_picture(path, at_least=(MAX_PHOTO_SIDE, MAX_PHOTO_SIDE))
            photo.thumbnail((MAX_PHOTO_SIDE, MAX_PHOTO_SIDE))
            if min(photo.size) < config.VGG_LEAST_SIDE:
                raise InputError(f"{path} is too small or too narrow: {photo.width} x {photo.height} pixels")
            photos.append(np.asarray(photo))
        except InputError as error:
            refused.append(str(error))
    if not photos:
        why = f"the first: {refused[0]}" if refused else imaging.unread_pictures(folder)
        raise InputError(f"{folder} holds no photo to learn from" + (f"; {why}" if why else ""))
    return photos, refused


def random_piece(photo, longest, rng):
    """Cut a random piece CROP x CROP x 3 out of a photo, which is first resized to `longest` pixels or more.

    Without resizing, a piece of a large photo would show too little.
    """
    height, width = photo.shape[:2]
    factor = max(longest / max(height, width), CROP / min(height, width))
    height, width = (max(CROP, round(side * factor)) for side in (height, width))
    resized = imaging.resize_picture(photo, width, height)
    top, left = rng.integers(height - CROP + 1), rng.integers(width - CROP + 1)
    cut = resized[top : top + CROP, left : left + CROP]
    return cut[:, ::-1] if rng.random() < 0.5 else cut


# --- The loss and the optimizers ---------------------------------------------------------------


class StyleTarget:
    """The style statistics of a painting, float32 H x W x 3, and the mean and the covariance of its colours.

    Photos are resized to `photo_size` pixels times a factor from SCALES, or more, before a piece is cut out.
    """

    def __init__(self, painting, loss, photo_size):
        self.photo_size = photo_size
        self.mean, self.covariance = colors.color_statistics(painting)
        self.statistics = [[backend.as_array(x) for x in layer] for layer in loss.statistics(painting[None])]


def losses_of_search(loss, start, targets, forecast):
    """Return the TERMS of the lowest loss that a short search reaches, from a picture float32 H x W x 3.

    Each step is counted by `forecast`, a progress.Forecast.
    """
    found = []

    def evaluate(picture):
        terms, gradient = loss.loss_and_gradient(picture[None], targets)
        found.append([float(terms[name]) for name in TERMS])
        return found[-1][0], backend.as_array(gradient)[0]

    minimizers.minimize_lbfgs(evaluate, start, SEARCH_STEPS, accept=lambda picture: forecast.step(CROP**2))
    return min(found)


class Muon(keras.optimizers.Muon):
    """Muon (Jordan et al. 2024) for kernels H x W x I x O, as matrices with O columns. Keras supports only matrices.

    Adam trains all other variables, and the kernel whose columns are the picture's three channels.
    """

    def __init__(self, rate):
        # With rms_rate, Keras would treat the first two dimensions of a kernel as those of a matrix.
        unused = {"rms_rate": None, "weight_decay": None, "adam_weight_decay": None}
        super().__init__(rate, adam_beta_2=0.99, global_clipnorm=1.0, **unused)

    def _should_use_adamw(self, variable):
        return len(variable.shape) < 4 or variable.shape[-1] < 8

    def zeropower_via_newtonschulz5(self, x, steps):
        matrix = keras.ops.reshape(x, (-1, x.shape[-1]))
        orthogonal = super().zeropower_via_newtonschulz5(matrix, steps)
        return keras.ops.reshape(KERNEL_RATE * math.sqrt(max(matrix.shape)) * orthogonal, x.shape)


class ParameterGroup:
    """Variables that are trained by one optimizer, with a learning rate of their own."""

    def __init__(self, variables, optimizer, rate):
        self.variables, self.optimizer, self.rate = variables, optimizer(rate), rate
        self.optimizer.build(variables)
        self.apply = backend.capture_steps(backend.compile_update(self.optimizer, variables))

    def step(self, factor, gradients):
        """Take a step with the learning rate times `factor`."""
        self.optimizer.learning_rate = self.rate * factor
        self.apply(gradients)


class StepBudget:
    """Computes the number of steps that fit into some minutes, once TIMED_STEPS steps were timed."""

    def __init__(self, minutes):
        self.minutes, self.begun, self.first, self.calls = minutes, time.monotonic(), None, 0

    def steps(self, done):
        """Return the number of steps in all, or 0 while it is not known. Call it after each step."""
        now = time.monotonic()
        self.calls += 1
        if self.calls == UNTIMED_STEPS:
            self.first = now, done
        elif self.first and done == self.first[1] + TIMED_STEPS:
            seconds = (now - self.first[0]) / TIMED_STEPS
            return done + max(0, round((60 * self.minutes - (now - self.begun)) / seconds))
        return 0


# --- The training ------------------------------------------------------------------------------


class StyleTraining:
    """The training of a network on one painting or several, and its folder.

    `paintings` are files, `photos` uint8 H x W x 3 each. `base` is the style or network to begin with, as
    learned_styles.load_base() takes it. `meta` is the content of meta.json.
    """

    def __init__(self, folder, paintings, photos, base, options):
        self.folder, self.paintings, self.photos, self.options = folder, paintings, photos, options
        self.state, self.begun = TrainingState(options.steps or 0), time.time()
        loss_options = config.Style(weights=options.weights, content_weight=options.content_weight)
        self.loss = perceptual_loss.PerceptualLoss(loss_options, averages=True, parts=PARTS)
        keras.utils.set_random_seed(options.seed)
        self.base, styles = learned_styles.load_base(base)
        self.network = learned_styles.load_network(self.base) if base else stylization_network.StylizationNetwork()
        self.styles = keras.Variable(np.concatenate([styles] * len(paintings)), name="styles")
        adam = functools.partial(keras.optimizers.Adam, beta_2=0.99, global_clipnorm=1.0)
        self.groups = [ParameterGroup([self.styles], adam, STYLE_RATE * options.learning_rate)]
        if not options.keep_network:
            self.groups.append(ParameterGroup(self.network.trainable_variables, Muon, options.learning_rate))
        trained = [[*group.variables] for group in self.groups]
        variables = [self.styles, *self.network.variables, *self.loss.variables]
        gradients = backend.value_and_gradients(self.loss_of_picture, trained, CROP**2, variables)
        self.loss_and_gradients = backend.capture_steps(gradients)
        self.meta = self.describe()

    @functools.cached_property
    def targets(self):
        """The StyleTarget of each painting for each of STROKES, in the order of the style vectors.

        They take seconds, so a training that is refused does not compute them.
        """
        size = self.options.size
        return [
            StyleTarget(read_painting_to_learn(path, factor * size), self.loss, photo_factor * size)
            for path in self.paintings
            for factor, photo_factor in STROKES
        ]

    @functools.cached_property
    def refined_statistics(self):
        """The statistics of each painting by the loss of --refine, whose VGG keeps its maxima."""
        layers = learned_styles.REFINED_LAYERS
        loss = perceptual_loss.PerceptualLoss(config.Style(weights=self.options.weights, style_layers=layers))
        paintings = (read_painting_to_learn(path, self.options.size) for path in self.paintings)
        return [[[backend.as_array(x) for x in layer] for layer in loss.statistics(x[None])] for x in paintings]

    def describe(self):
        """Return the contents of meta.json: the data and options, which must be the same to resume the training."""
        names = ("size", "minutes", "steps", "content_weight", "learning_rate", "keep_network", "seed")
        return {
            "paintings": [" ".join(manifests.file_checksum(path).values()) for path in self.paintings],
            "photos": len(self.photos),
            "parts": PARTS,
            "photos_crc32": functools.reduce(lambda crc, photo: zlib.crc32(photo.tobytes(), crc), self.photos, 0),
            "base": learned_styles.checksum(self.base) if self.base else None,
            "weights": self.loss.source,
            "precision": keras.config.dtype_policy().name,
            "options": {name: getattr(self.options, name) for name in names},
        }

    def begin(self):
        """Remove an earlier training's files from the folder, and write meta.json."""
        _ = self.targets, self.refined_statistics  # InputError for an unusable painting before the folder is changed
        self.folder.mkdir(parents=True, exist_ok=True)
        style_folders = [path.parent for path in self.folder.glob(f"*/{learned_styles.STYLE}")]
        of_same_network = [folder for folder in style_folders if not (folder / learned_styles.NETWORK).exists()]
        for folder in (self.folder, *of_same_network, *self.folders().values()):
            for name in FILES:
                (folder / name).unlink(missing_ok=True)
        disk.write_json(self.folder / learned_styles.META, self.meta | {"finished": False})

    def resume(self):
        """Continue from the checkpoint. Raises InputError where it belongs to another training."""
        earlier = learned_styles.read_meta(self.folder)
        if earlier.get("base") != self.meta["base"]:
            raise InputError(f"{self.folder} was begun with another base, or version; --overwrite starts again")
        changes = trainings.changed_options(self.meta, earlier)
        if changes:
            trainings.other_training(self.folder, changes).check()
        self.state = TrainingState.load(self.folder / CHECKPOINT)
        _ = self.targets, self.refined_statistics  # the paintings may be gone later
        try:
            for variable, value in zip(self.all_variables(), self.state.variables, strict=True):
                variable.assign(value)
        except ValueError as error:
            raise InputError(f"{self.folder} was begun by another version; --overwrite starts again") from error

    def all_variables(self):
        return [x for group in self.groups for x in (*group.variables, *group.optimizer.variables)]

    def loss_of_picture(self, photo, noise, number, content, statistics, guidance):
        """Return the loss of the network's picture, and its TERMS.

        `photo`, 1 x CROP x CROP x 3, has the painting's colours. `noise` is from draw_noise(). `number`, of shape 1, is
        that of the style vector. `guidance` is the weight of the guidance. The loss includes the guidance. The terms
        do not, so that they can be compared with those of a search.
        """
        picture = self.network([photo, noise, keras.ops.take(self.styles, number, axis=0)])
        terms = self.loss.loss(picture, {"content": content, "style": statistics})
        difference = keras.ops.average_pool(picture - photo, GUIDANCE_SIDE, GUIDANCE_SIDE) / GUIDANCE_UNIT
        total = terms["total"] + guidance * keras.ops.mean(difference**2)
        return total, [terms[name] for name in TERMS]

    def step(self):
        """Train on a batch of pieces. Raises InputError where the training diverged."""
        done = len(self.state.losses)
        share = done / self.state.steps if self.state.steps else 0
        groups = self.groups[:1] if self.base and share < STYLE_ONLY else self.groups
        rng = np.random.default_rng((self.options.seed, done))
        paintings, large = rng.integers(len(self.paintings), size=BATCH), rng.random(BATCH) < LARGE_SHARE
        numbers = len(STROKES) * paintings + large
        guidance = np.float32(guidance_weight(share))
        pieces = (self.draw_piece(rng, self.targets[i]) for i in numbers)
        terms, gradients = zip(*(self.loss_of_piece(*piece, i, guidance) for piece, i in zip(pieces, numbers)))
        loss = np.mean([[float(term) for term in of_piece] for of_piece in terms], 0)
        if not math.isfinite(loss[0]):
            raise InputError("the training diverged; try a lower --learning-rate")
        for group, of_pieces in zip(groups, zip(*gradients)):
            group.step((1 + math.cos(math.pi * share)) / 2, [sum(x) / BATCH for x in zip(*of_pieces)])
        self.state.losses.append(loss.tolist())

    def loss_of_piece(self, photo, recolored, noise, i, guidance):
        """Return the TERMS and the groups' gradients for the style vector `i` and the three results of draw_piece()."""
        content, number = self.loss.content(photo[None]), np.array([i], "int32")
        return self.loss_and_gradients(recolored[None], noise, number, content, self.targets[i].statistics, guidance)

    def draw_piece(self, rng, target):
        """Return a random piece of a photo, the same piece in the painting's colours, and noise.

        The colour change is computed from the whole photo, so that a piece of flat sky stays flat.
        """
        photo = self.photos[rng.integers(len(self.photos))]
        mapping = colors.color_mapping(photo[::4, ::4], target.mean, target.covariance)
        cut = random_piece(photo, target.photo_size * rng.uniform(*SCALES), rng)
        return cut, colors.map_colors(cut, *mapping), stylization_network.draw_noise(CROP, CROP, rng)

    def execute(self):
        """Train to the end, and write the results. Raises Interrupted after Ctrl-C."""
        state, begun, budget = self.state, time.monotonic(), StepBudget(self.options.minutes)
        saved, drawn = begun, -math.inf
        disable = True if self.options.quiet else None
        with (
            trainings.deferred_interrupt() as stop,
            tqdm.tqdm(total=state.steps or None, initial=len(state.losses), unit="step", disable=disable) as bar,
        ):
            while not state.steps or len(state.losses) < state.steps:
                self.step()
                if not state.steps:
                    state.steps = budget.steps(len(state.losses))
                    bar.total = state.steps or None
                bar.update()
                bar.set_postfix(loss=f"{np.mean([loss[0] for loss in state.losses[-50:]]):.3f}", refresh=False)
                now = time.monotonic()
                if stop.is_set() or now - saved > CHECKPOINT_SECONDS:
                    self.save_checkpoint()
                    saved = time.monotonic()
                self.raise_if_interrupted(stop)
                if now - begun > CHECKPOINT_SECONDS and now - drawn > SHEET_SECONDS:
                    self.draw_sheet()
                    drawn = time.monotonic()
            self.save_checkpoint()
            self.finish(stop)

    def raise_if_interrupted(self, stop):
        if stop.is_set():
            raise Interrupted(f"interrupted; {self.folder} is kept, and --resume continues the training")

    def save_checkpoint(self):
        self.state.variables = [backend.as_array(variable) for variable in self.all_variables()]
        self.state.save(self.folder / CHECKPOINT)

    def finish(self, stop):
        """Write the network, the styles, a sheet and the losses, and remove the checkpoint. Raises Interrupted."""
        trainings.note("comparing the network with a short search on a few pieces", self.options)
        network, losses = self.save_network(), self.compare_with_search(stop)
        meta = self.meta | {"losses": losses, "finished": True}
        self.draw_sheet()
        self.write_losses(losses["search"]["total"])
        folders = self.folders()
        for path, style in zip(self.paintings, self.current_styles(network)):
            folders[path].mkdir(exist_ok=True)
            learned_styles.save_style(folders[path], style, meta | {"painting": path.name})
        if len(self.paintings) > 1:
            disk.write_json(self.folder / learned_styles.META, meta)
        (self.folder / CHECKPOINT).unlink(missing_ok=True)
        disk.remove_leftovers(self.folder, FILES, self.begun)

    def folders(self):
        """Return a dict from each painting to the folder of its style."""
        alone = len(self.paintings) == 1
        return {path: self.folder if alone else self.folder / path.stem for path in self.paintings}

    def save_network(self):
        """Write the network and return its file. With --keep-network, copy the base, because it may change later."""
        file = self.folder / learned_styles.NETWORK
        if not self.options.keep_network:
            learned_styles.save_network(file, self.network, self.style_vectors())
        else:
            with disk.whole_file(file) as temporary:
                shutil.copyfile(self.base, temporary)
        return file

    def compare_with_search(self, stop):
        """Return the mean losses of the network and of a search on a few pieces: a dict of TERMS for each.

        The network gets the noise of the training, which is stronger than that of a photo that is painted.
        """
        losses = {"network": [], "search": []}
        sizes = [(EVALUATED_PIECES * SEARCH_STEPS, CROP**2)]
        forecast = progress.Forecast(sizes, "for this comparison", self.options.quiet)
        for number in range(EVALUATED_PIECES):
            self.raise_if_interrupted(stop)
            i = len(STROKES) * (number % len(self.paintings))
            rng = np.random.default_rng((self.options.seed, EVALUATION_SEED + number))
            photo, recolored, noise = self.draw_piece(rng, self.targets[i])
            targets = {"content": self.loss.content(photo[None]), "style": self.targets[i].statistics}
            picture = self.network([recolored[None], noise, backend.as_array(self.styles)[i : i + 1]])
            terms, _ = self.loss.loss_and_gradient(picture, targets)
            losses["network"].append([float(terms[name]) for name in TERMS])
            losses["search"].append(losses_of_search(self.loss, recolored, targets, forecast))
        return {name: dict(zip(TERMS, np.mean(found, 0).round(4).tolist())) for name, found in losses.items()}

    def style_vectors(self):
        """Return the style vectors, float32 paintings x STROKES x STYLE_DIM."""
        return backend.as_array(self.styles).reshape(len(self.paintings), len(STROKES), -1)

    def current_styles(self, network=None):
        """List the LearnedStyle of each painting. `network` is the network's file."""
        targets = self.targets[:: len(STROKES)]
        return [
            learned_styles.LearnedStyle(
                path.stem, network, vectors, target.mean, target.covariance, statistics, self.loss.source
            )
            for path, target, vectors, statistics in zip(
                self.paintings, targets, self.style_vectors(), self.refined_statistics
            )
        ]

    def draw_sheet(self):
        """Write sheet.png: three photos beside the network's current pictures of them, in the first four styles."""
        rows, styles = [], self.current_styles()[:4]
        chosen = self.photos[:: max(1, len(self.photos) // 3)][:3]
        for photo in chosen:
            width, height = imaging.fit(*photo.shape[1::-1], 320)
            photo = imaging.resize_picture(photo, width, height)
            painted = [learned_styles.stylize(self.network, photo, style) for style in styles]
            rows.append(imaging.side_by_side([photo, *painted], 240))
        width = max(row.shape[1] for row in rows)
        rows = [np.pad(row, ((0, 8), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
        imaging.save_png(self.folder / "sheet.png", np.concatenate(rows), provenance.of_result(self.options))

    def write_losses(self, search_loss):
        """Write loss.csv, with a row for each step, and loss.png, which also shows the total loss of a search."""
        from matplotlib.figure import Figure

        with disk.whole_file(self.folder / "loss.csv") as temporary, open(temporary, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", *TERMS])
            writer.writerows([i + 1, *(f"{term:.5f}" for term in loss)] for i, loss in enumerate(self.state.losses))
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        window = max(1, len(self.state.losses) // 50)
        for name, values in zip(TERMS, np.transpose(self.state.losses)):
            axes.semilogy(np.convolve(values, np.ones(window) / window, "valid"), label=name)
        axes.axhline(search_loss, color="black", linestyle=":", label=f"total of a search, {SEARCH_STEPS} steps")
        axes.set(xlabel=f"step, means of {window}", ylabel="loss, its terms before their weights")
        axes.legend()
        with disk.whole_file(self.folder / "loss.png") as temporary:
            figure.savefig(temporary, format="png", dpi=100, metadata=provenance.of_result(self.options))


def guidance_weight(share):
    """Return the weight of the guidance after this share of a training."""
    return max(0, 1 - share / GUIDED_SHARE)
