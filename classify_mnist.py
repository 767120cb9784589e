"""Classify digits with one generative network per class and Bayes' rule.

    python classify_mnist.py trained/mnist --num-images 10000
    python classify_mnist.py trained/mnist --image my_digit.png
    python classify_mnist.py trained/digits --reject --plot --errors

The network of each class gives the likelihood p(picture | class): the probability that this network would draw the
picture. The script multiplies it by the prior p(class), and divides by the sum of these products over all classes. The
result is p(class | picture). No network was trained to tell the classes apart. The script adds the logarithms of the
pixels' probabilities, because their product can be smaller than the smallest float. If the networks predict blocks of
pixels, doubtful pictures are also read shifted by less than a block, and the log-likelihoods are averaged.

The script prints the accuracy on the test pictures of the set, and their mean log-likelihood under the network of
their own class, in nats a picture and in bits a pixel; fewer bits are better. The calibration error tells by how much
the posterior of the predicted class differs, on average, from the share of predictions that are right. With --image,
the script prints the likeliest digit and its probability, then the probabilities of the others. For a network that was
trained on all classes together, it prints only the mean log-likelihood.

With --reject, a picture is refused if p(picture), over all classes, is low. The threshold refuses 1 % of the test
pictures. The script prints which share of other pictures is refused: printed letters, noise (the test pictures with
their pixels shuffled) and those of --strangers.
"""

from atelier import command_line  # imported first: from now on, Ctrl-C ends the script with one line

# isort: split
import concurrent.futures
import csv
import dataclasses
import pathlib
import sys
import time

import numpy as np

import config
from atelier import errors, naming

datasets = command_line.lazy_import("atelier.pixel_rnn.datasets")
distortions = command_line.lazy_import("atelier.pixel_rnn.distortions")
disk = command_line.lazy_import("atelier.disk")
hardware = command_line.lazy_import("atelier.hardware")
imaging = command_line.lazy_import("atelier.imaging")
model_files = command_line.lazy_import("atelier.pixel_rnn.model_files")
model_meta = command_line.lazy_import("atelier.pixel_rnn.model_meta")
outputs = command_line.lazy_import("atelier.outputs")
provenance = command_line.lazy_import("atelier.provenance")
recurrent = command_line.lazy_import("atelier.pixel_rnn.recurrent")
reliability = command_line.lazy_import("atelier.pixel_rnn.reliability")
strangers = command_line.lazy_import("atelier.pixel_rnn.strangers")
tqdm = command_line.lazy_import("tqdm")
util = command_line.lazy_import("util")


def parse_arguments():
    parser = command_line.Parser(__doc__)
    parser.add_argument(
        "models", type=pathlib.Path, help="folder of models, as train_rnn.py writes it, or its name in trained/"
    )
    command_line.add_options(parser, config.Classify)
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    options = command_line.collect(config.Classify, arguments)
    if arguments.models.is_file() and arguments.models.suffix not in naming.MODEL_FILES:
        typed = command_line.command_with_first(SHIPPED, "--image", arguments.models, without=[arguments.models])
        raise errors.InputError(f"{arguments.models} is a file, not a folder of models; to classify a picture: {typed}")
    check(options)
    arguments.models = naming.find_trained(arguments.models)
    meta = model_meta.load_meta(arguments.models)
    if "classes" not in meta:
        raise errors.InputError(f"{arguments.models} holds a painter, not one model for each class")
    if meta["recipe"]["together"]:
        print_likelihood(arguments.models, meta, options)
        return
    priors = class_priors(meta, options.priors)
    if options.image:
        picture = datasets.load_drawing(options.image, meta)
    else:
        output = choose_output(arguments.models, options)
        images, labels = test_set(meta, options)
    classifier = Classifier(arguments.models, meta, priors, options)
    if options.image:
        print_posterior(classifier, picture)
    else:
        report(classifier, images, labels, options, output)


def check(options):
    """Raise InputError for options that contradict one another, or that name no data."""
    for name in ("errors", "plot", "reject", "csv", "output"):
        if options.image and getattr(options, name):
            raise errors.InputError(f"--{name} is for a set of test pictures, and --image is one picture")
    if options.strangers and not options.reject:
        raise errors.InputError("--strangers needs --reject")
    if options.data:
        naming.check_set("", options.data)
    if options.strangers and options.strangers not in naming.SETS:
        naming.check_set("", options.strangers)


SHIPPED = "trained/mnist_record"  # the most accurate of the models that are included


def choose_output(models, options):
    """Return the path of the confusion matrix. Raises InputError if it or the CSV can't be written."""
    command_line.require_suffix(options.output, ".png")
    command_line.require_suffix(options.csv, ".csv")
    table = [options.csv] if options.csv else []
    default = f"generated/{models.resolve().name}_confusion.png"
    output = outputs.choose_result(
        options, default, lambda output: [output, *further_pictures(output, options), *table]
    )
    for path in table:
        disk.check_writable(path)
    return output


def further_pictures(confusion, options):
    """List the pictures that are written beside the confusion matrix."""
    wanted = {"errors": options.errors, "reliability": options.plot}
    return [beside(confusion, name) for name in wanted if wanted[name]]


def beside(confusion, name):
    """Return the path of another picture: mnist_confusion-2.png -> mnist-2_errors.png."""
    return confusion.with_stem(f"{confusion.stem.replace('_confusion', '')}_{name}")


def class_priors(meta, kind):
    """Return the log prior of each class. Raises InputError if the counts of the training set are not known."""
    if len(meta["classes"]) < 2:
        raise errors.InputError(
            f"there is only a model of class {', '.join(meta['classes'])}; classifying needs models of two classes"
        )
    if kind == "uniform":
        counts = np.ones(len(meta["classes"]))
    else:
        try:
            counts = np.array([entry["pictures"] for entry in meta["classes"].values()], float)
        except KeyError as error:
            raise errors.InputError(
                "meta.json does not say how many pictures each class had; use --priors uniform"
            ) from error
    return np.log(counts / counts.sum())


def test_set(meta, options):
    """Load the test pictures of the classes that have a model."""
    _, _, images, labels = datasets.load_dataset(meta["source"], options.data)
    has_model = np.isin(labels, [int(label) for label in meta["classes"]])
    if not has_model.all() and not options.quiet:
        print(f"note: {(~has_model).sum()} test pictures are of classes without a model, and left out", file=sys.stderr)
    if not has_model.any():
        raise errors.InputError("no test picture is of a class that has a model")
    return images[has_model][: options.num_images], labels[has_model][: options.num_images]


class Classifier:
    """The models of all classes. `classes` holds their labels; the columns of all results are in this order.

    If pictures are read in both orders, `others` are the classifiers with the networks that read columns.
    """

    def __init__(self, folder, meta, priors, options):
        device = hardware.use_precision(options.precision, "likelihoods")
        if not options.quiet:
            print(f"device: {device}", file=sys.stderr)
        self.classes = np.array([int(label) for label in meta["classes"]])
        self.config, self.source, self.priors, self.quiet = meta["recipe"], meta["source"], priors, options.quiet
        self.seed = options.seed
        self.models = [model_files.load_rnn(folder, label, meta) for label in self.classes]
        self.score = recurrent.make_scorer(self.models[0], self.config["context"], self.config["block"])
        self.others = []
        if self.config["order"] == "both":
            columns = folder / "columns"
            of_columns = model_meta.load_meta(columns) if (columns / "meta.json").exists() else {"classes": {}}
            if of_columns["classes"].keys() != meta["classes"].keys():
                raise errors.InputError(f"{columns} lacks classes; finish the training with --resume")
            self.others = [Classifier(columns, of_columns, priors, dataclasses.replace(options, quiet=True))]

    def log_likelihoods(self, images):
        """Return log p(image | class) of uint8 N x H x W images: float64 N x classes, in nats.

        It is the mean over the orders of reading.
        """
        if self.config["sampled"]:
            images = distortions.binarize(images, np.random.default_rng(self.seed))
        of_orders = [self.in_own_order(images), *(other.in_own_order(images) for other in self.others)]
        return np.mean(of_orders, axis=0)

    def in_own_order(self, images):
        """Return the log-likelihoods under the models of this folder alone."""
        sequences = util.to_sequences(images, **model_meta.sequence_options(self.config))
        disable = True if self.quiet else None
        with (
            tqdm.tqdm(total=len(self.models), unit="class", disable=disable) as bar,
            concurrent.futures.ThreadPoolExecutor(hardware.cpu_count()) as pool,
        ):

            def score(model):
                result = recurrent.log_likelihoods(self.score, model, sequences)
                bar.update()
                return result

            return np.stack(list(pool.map(score, self.models)), axis=1)

    def classify(self, images, log_likelihoods):
        """Return p(class | image), float64 N x classes, for images and their log-likelihoods.

        A network that predicts blocks of pixels sees a picture differently if its strokes are divided into blocks at
        other places. So doubtful pictures are also read shifted, and the log-likelihoods are averaged.
        """
        posterior = self.posterior(log_likelihoods)
        doubtful = posterior.max(axis=1) < DOUBTFUL
        if self.config["block"] > 1 and doubtful.any():
            copies = block_alignments(util.resize_images(images[doubtful], self.config["size"]), self.config["block"])
            shifted = [self.log_likelihoods(copy) for copy in copies]
            posterior[doubtful] = self.posterior(np.mean([log_likelihoods[doubtful], *shifted], axis=0))
        return posterior

    def posterior(self, log_likelihoods):
        """Apply Bayes' rule: p(class | image), float64 N x classes."""
        joint = log_likelihoods + self.priors
        joint -= joint.max(axis=1, keepdims=True)
        return np.exp(joint) / np.exp(joint).sum(axis=1, keepdims=True)


DOUBTFUL = 0.99  # a picture is doubtful if the posterior of the likeliest class is lower


def block_alignments(images, block):
    """Return copies of uint8 N x H x W images, shifted down and right by less than `block` pixels, but by more than 0.

    So each copy is divided into blocks of block x block pixels at other places.
    """
    size = images.shape[1]
    shifts = [(down, right) for down in range(block) for right in range(block)][1:]
    return [np.pad(images, ((0, 0), (down, 0), (right, 0)))[:, :size, :size] for down, right in shifts]


def print_likelihood(models, meta, options):
    """Print the mean log-likelihood of the test pictures under a network that was trained on all classes together."""
    if options.image or options.csv or options.errors or options.plot or options.reject:
        raise errors.InputError(f"{models} holds one network for all classes, which can't tell them apart")
    images = datasets.load_dataset(meta["source"], options.data)[2][: options.num_images]
    classifier = Classifier(models, meta, np.zeros(1), options)
    started = time.perf_counter()
    mean = classifier.log_likelihoods(images).mean()
    print(f"images: {len(images)}")
    print(f"images_per_second: {len(images) / (time.perf_counter() - started):.1f}")
    print_mean(mean, classifier)


def print_mean(mean, classifier):
    """Print the mean log-likelihood of pictures, given in nats."""
    print(f"log_likelihood: {mean:.3f} nats a picture")
    print(f"bits_per_pixel: {-mean / np.log(2) / classifier.config['size'] ** 2:.4f}")


def print_posterior(classifier, picture):
    """Print the likeliest class of a picture and its probability, then those of the others."""
    posterior = classifier.classify(picture[None], classifier.log_likelihoods(picture[None]))[0]
    best, *others = np.argsort(-posterior)
    print(f"digit: {classifier.classes[best]} ({posterior[best]:.3f})")
    for column in others:
        print(f"{classifier.classes[column]}: {posterior[column]:.5f}")


def report(classifier, images, labels, options, output):
    """Classify images, print the figures, and write the confusion matrix and what else the options ask for."""
    started = time.perf_counter()
    log_likelihoods = classifier.log_likelihoods(images)
    posterior = classifier.classify(images, log_likelihoods)
    predictions, confidence = classifier.classes[posterior.argmax(axis=1)], posterior.max(axis=1)
    seconds = time.perf_counter() - started
    # The mean log-likelihood of the pictures under the model of their own class.
    mean = log_likelihoods[np.arange(len(labels)), np.searchsorted(classifier.classes, labels)].mean()
    print(f"accuracy: {(predictions == labels).mean():.5f}")
    print(f"images: {len(labels)}")
    print(f"images_per_second: {len(labels) / seconds:.1f}")
    print_mean(mean, classifier)
    print(f"calibration_error: {reliability.calibration_error(confidence, predictions == labels):.5f}", flush=True)
    if options.reject:
        print_refused(classifier, images, log_likelihoods, options)
    try:
        if options.csv:
            write_csv(options.csv, labels, predictions, posterior, classifier.classes)
            print(f"csv: {options.csv}")
        plot_confusion(labels, predictions, classifier.classes, options, output)
        print(f"confusion_matrix: {output}")
        if options.plot:
            save_figure(beside(output, "reliability"), reliability.plot(confidence, predictions == labels), options)
            print(f"reliability: {beside(output, 'reliability')}")
        if options.errors:
            write_errors(beside(output, "errors"), images, labels, predictions, options)
    except OSError as error:
        raise errors.PartlyDone(f"{errors.describe(error)}; the printed figures are complete") from error


def write_errors(path, images, labels, predictions, options):
    """Write the sheet of the pictures that are classified wrong, if there are any, and print how many there are."""
    wrong = int((predictions != labels).sum())
    if wrong:
        sheet = reliability.sheet_of_errors(images, labels, predictions)
        imaging.save_png(path, sheet, provenance.of_result(options))
    print(f"errors: {wrong}" + f", {path}" * (wrong > 0))


def print_refused(classifier, images, log_likelihoods, options):
    """Print, for each set of strangers, the share that is refused when 1 % of the test pictures are."""
    sets = {"noise": strangers.shuffled(images, options.seed), "letters": strangers.printed_letters(classifier.source)}
    if options.strangers:
        is_name = options.strangers in naming.SETS
        pictures = datasets.load_dataset(options.strangers, None if is_name else options.strangers)[2]
        name = pathlib.Path(options.strangers).stem
        sets[f"given_{name}" if name in sets else name] = pictures[: options.num_images]
    known = strangers.score_pictures(log_likelihoods, classifier.priors)
    for name, pictures in sets.items():
        scores = strangers.score_pictures(classifier.log_likelihoods(pictures), classifier.priors)
        share, area = strangers.share_refused(known, scores)
        print(f"refused_{name}: {share:.4f} of {len(pictures)}, area under the ROC curve {area:.4f}", flush=True)


def plot_confusion(labels, predictions, classes, options, path):
    """Plot the confusion matrix: a row for each true class, a column for each predicted class."""
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

    counts = confusion_matrix(labels, predictions, labels=classes)
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    display = ConfusionMatrixDisplay(counts, display_labels=classes)
    norm = PowerNorm(0.5, vmin=0)  # a linear scale would hide the few errors
    display.plot(
        ax=axes, cmap="Blues", values_format="d", colorbar=False, text_kw={"fontsize": "small"}, im_kw={"norm": norm}
    )
    for text in display.text_[counts == 0]:
        text.set_visible(False)
    axes.set_title(f"accuracy {(labels == predictions).mean():.4f}")
    save_figure(path, figure, options)


def save_figure(path, figure, options):
    with disk.whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100, metadata=provenance.of_result(options))


def write_csv(path, labels, predictions, posterior, classes):
    with disk.whole_file(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "prediction", *(f"p{label}" for label in classes)])
        for label, prediction, row in zip(labels, predictions, posterior, strict=True):
            writer.writerow([label, prediction, *(f"{p:.6g}" for p in row)])


if __name__ == "__main__":
    command_line.run(main)
