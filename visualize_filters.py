"""Show what the filters of a network see: the patches that excite each most, projected back to pixels.

    python visualize_filters.py block3_conv1 --images holiday/ --filters 16
    python visualize_filters.py block5_conv2 --images a.jpg b.jpg --channels 12 87
    python visualize_filters.py --evolution trained/digit_classifier

For each filter it looks for the nine strongest activations over a set of pictures, cuts out the patch of picture that
each one saw, and projects the activation back through a deconvolutional network: unpooling with the switches that
pooling set, rectifying, and convolving with the same filters turned round (Zeiler & Fergus 2014). Beside them stands
what the filter itself dreams of (Olah, Mordvintsev & Schubert 2017).
"""

from atelier import command_line  # first, since it puts Ctrl-C in a line from here on

# isort: split
import dataclasses
import json
import os
import pathlib
import sys

import numpy as np

import config
from atelier import errors, naming

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # where it is not usual, convolutions take less memory so
datasets = command_line.lazy_import("atelier.pixel_rnn.datasets")
disk = command_line.lazy_import("atelier.disk")
filter_dreams = command_line.lazy_import("atelier.dream.filter_dreams")
hardware = command_line.lazy_import("atelier.hardware")
imaging = command_line.lazy_import("atelier.imaging")
keras = command_line.lazy_import("keras")
pretrained = command_line.lazy_import("atelier.networks.pretrained")
provenance = command_line.lazy_import("atelier.provenance")
tqdm = command_line.lazy_import("tqdm")
vision = command_line.lazy_import("atelier.networks.vision")

SIDES = 60, 120  # pixels of a patch on the sheet, at least and at most
SMALLEST_SIDE = 32  # pixels of a picture; the fifth block of VGG sees two by two places of it
GAP = 4  # pixels between things on the sheet


def parse_arguments():
    parser = command_line.Parser(__doc__)
    parser.add_argument("layer", nargs="?", help="layer whose filters are looked at (with --evolution: the last one)")
    command_line.add_options(parser, config.Filters)
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    options = command_line.collect(config.Filters, arguments)
    check(arguments, options)
    if options.evolution:
        evolution(arguments.layer, options)
    else:
        strongest(arguments.layer, options)


# --- The command -------------------------------------------------------------------------------


def check(arguments, options):
    """Raise InputError for an option that makes no sense."""
    if options.evolution:
        for name in ("convnet", "weights"):
            if command_line.was_given(arguments, name):
                raise errors.InputError(
                    f"--evolution shows the networks in its folder: no {command_line.flag_of(name)}"
                )
        if not naming.saved_epochs(options.evolution):
            raise errors.InputError(f"{options.evolution} is no folder of .keras files, one for each saved epoch")
    elif arguments.layer is None:
        raise errors.InputError("give a layer, or --evolution and a folder of saved epochs")
    elif not options.images:
        raise errors.InputError("give pictures, or folders of them, with --images")
    else:
        naming.check_layers([arguments.layer], options.convnet)
    for path in options.images:
        if not pathlib.Path(path).exists():
            raise errors.InputError(f"{path} does not exist")


def strongest(layer, options):
    """Make a sheet of the strongest activations of a layer's filters, and print where it is."""
    result = prepare(f"{layer}__filters", options)
    device = hardware.use_precision(options.precision, "convolutions")
    convnet = naming.own_classifier(options.convnet) or options.convnet
    model, preprocess, source = pretrained.load_network(convnet, options.weights, input_range=options.input_range)
    if not options.quiet:
        print(f"device: {device}; {convnet} with the weights {source}", file=sys.stderr)
    network = Deconvnet(model, preprocess, layer)
    pictures, refused = read_pictures(model, options)
    channels = chosen_channels(network, pictures, options)
    found = look(network, pictures, channels, options)
    dreams = dream(network, channels, options)
    about = provenance.of_result(options.seed, weights=source)
    imaging.save_png(result, sheet_of_filters(network, pictures, found, dreams, options), about)
    print(f"sheet: {result}")
    print(f"patches: {network.field.size} pixels across")
    for channel, activations in found.items():
        strengths = " ".join(f"{activation.strength:.4g}" for activation in activations)
        print(f"filter_{channel}: {f'activations {strengths}' if strengths else 'never active'}")
    if refused:
        raise errors.PartlyDone(
            f"{len(refused)} of {len(refused) + len(pictures)} pictures were left out: {refused[0]}"
        )


def evolution(layer, options):
    """Make a sheet of what excites each filter most after each saved epoch, and print where it is."""
    folder = pathlib.Path(options.evolution)
    result = prepare(f"{folder.resolve().name}__evolution", options)
    hardware.use_precision(options.precision, "convolutions")
    epochs = naming.saved_epochs(folder)
    last = Deconvnet(*pretrained.load_network(epochs[-1], input_range=options.input_range)[:2], layer)
    if options.images:
        pictures, refused = read_pictures(last.model, options)
    else:
        pictures, refused = data_set(folder, last.model), []
    channels, rows = chosen_channels(last, pictures, options), {}
    for path in tqdm.tqdm(epochs, unit="epoch", leave=False, disable=True if options.quiet else None):
        network = Deconvnet(*pretrained.load_network(path, input_range=options.input_range)[:2], layer)
        found = look(network, pictures, channels, dataclasses.replace(options, quiet=True), count=1)
        for channel, activations in found.items():
            seen = [shown(network.project(pictures, activation), SIDES[0]) for activation in activations]
            rows.setdefault(channel, []).append(seen[0] if seen else blank(SIDES[0]))
    labels = [path.stem for path in epochs]
    imaging.save_png(result, sheet_of_epochs(rows, labels), provenance.of_result(options.seed, source=str(folder)))
    print(f"sheet: {result}")
    print(f"epochs: {' '.join(labels)}")
    print(f"filters: {' '.join(map(str, rows))}")
    if refused:
        raise errors.PartlyDone(f"{len(refused)} pictures were left out: {refused[0]}")


def prepare(name, options):
    """Return the path of the result, and see that it can be written."""
    result = pathlib.Path(options.output or f"generated/{name}.png")
    command_line.require_suffix(result, ".png")
    disk.refuse_to_replace([result], find_images(options))
    disk.refuse_to_overwrite([result], options.overwrite)
    disk.check_writable(result)
    return result


def find_images(options):
    paths = []
    for path in map(pathlib.Path, options.images):
        paths += imaging.find_pictures(path) if path.is_dir() else [path]
    return paths


def read_pictures(model, options):
    """Read the pictures to look at, uint8 H x W x 3 each, and why others can't be. Raises InputError."""
    pictures, refused = [], []
    for path in find_images(options):
        try:
            picture = imaging.load_image(path)
            height, width = model.input_shape[1:3]
            if not height:
                width, height = imaging.fit(*picture.shape[1::-1], options.size)
                if min(width, height) < SMALLEST_SIDE:
                    raise errors.InputError(f"{path} would be {width} x {height} pixels, which is too narrow")
            pictures.append(imaging.to_pixels(imaging.resize_picture(picture, width, height)))
        except errors.InputError as error:
            refused.append(str(error))
    if not pictures:
        raise errors.InputError(refused[0] if refused else f"{' '.join(options.images)} holds no picture")
    return pictures, refused


def data_set(folder, model):
    """Return the pictures that a classifier was trained on, as its meta.json names them: uint8 H x W x 3 each."""
    try:
        source = json.loads((folder / "meta.json").read_text())["source"]
    except (OSError, ValueError, KeyError, TypeError):
        raise errors.InputError(f"{folder} has no meta.json that names its data; give pictures with --images") from None
    images = datasets.load_dataset(source)[0]
    height, width = (taken or own for taken, own in zip(model.input_shape[1:3], images.shape[1:3]))
    return [
        imaging.to_pixels(imaging.resize_picture(np.repeat(image[..., None], 3, axis=2), width, height))
        for image in images
    ]


def last_convolution(model):
    names = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    if not names:
        raise errors.InputError(f"{model.name} has no convolution")
    return names[-1]


def chosen_channels(network, pictures, options):
    """List the filters to look at: those that were named, or the most excited ones."""
    width = network.width
    for channel in options.channels:
        if not 0 <= channel < width:
            raise errors.InputError(f"{network.layer} has the channels 0 to {width - 1}, and no {channel}")
    if options.channels:
        return list(options.channels)
    strongest_of = np.max([network.see(picture).max((0, 1)) for picture in pictures], axis=0)
    return sorted(np.argsort(-strongest_of, kind="stable")[: options.filters].tolist())


# --- Activations and their projections ---------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Activation:
    """How strongly a filter was excited, in which picture, and at which of the layer's places."""

    strength: float
    picture: int
    row: int
    column: int
    channel: int


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """What a place of a layer sees: `size` pixels, `stride` from place to place, the first one centred on `start`."""

    size: int = 1
    stride: int = 1
    start: float = 0.0

    def after(self, kernel, stride, padding):
        """Return the field after windows of `kernel` places, `stride` apart, with `padding` before the first."""
        return ReceptiveField(
            self.size + (kernel - 1) * self.stride,
            self.stride * stride,
            self.start + ((kernel - 1) / 2 - padding) * self.stride,
        )

    def first_pixel(self, place):
        """Return the first row (or column) of pixels that a row (or column) of places sees; it may be below 0."""
        return round(self.start + place * self.stride - (self.size - 1) / 2)


class Deconvnet:
    """A network up to one of its layers, and the way back from there to pixels (Zeiler & Fergus 2014)."""

    def __init__(self, model, preprocess, layer=None):
        self.model, self.preprocess = model, preprocess
        self.layer = layer or last_convolution(model)
        self.chain = chain_up_to(model, self.layer)
        self.width = self.chain[-1].output.shape[3]
        self.field = ReceptiveField()
        for step in self.chain:
            self.field = self.field.after(*window_of(step))
        self.features = vision.for_any_size(self.activations)
        # The gradient of an activation is its projection, once the gradient of each ReLU is a ReLU.
        self.evaluate = vision.value_and_gradient(
            lambda picture, targets: {"total": keras.ops.sum(self.activations(picture) * targets["place"])}
        )

    def activations(self, picture):
        """Return the layer's activations, 1 x h x w x C, of a picture, tensor 1 x H x W x 3 in 0..255."""
        x = self.preprocess(picture)
        for step in self.chain:
            x = keras.ops.cast(x, step.compute_dtype)
            if isinstance(step, keras.layers.Conv2D):
                x = step.convolution_op(x, keras.ops.cast(step.kernel, x.dtype))
                x = rectified(x if step.bias is None else x + keras.ops.cast(step.bias, x.dtype))
            else:
                x = step(x)
        return keras.ops.cast(x, "float32")

    def before_relu(self, picture):
        """Return what the layer has before its ReLU, 1 x h x w x C, of a picture, tensor 1 x H x W x 3 in 0..255."""
        x, last = self.preprocess(picture), self.chain[-1]
        for step in self.chain[:-1]:
            x = step(x)
        if isinstance(last, keras.layers.Conv2D):
            x = last.convolution_op(
                keras.ops.cast(x, last.compute_dtype), keras.ops.cast(last.kernel, last.compute_dtype)
            )
            return keras.ops.cast(x, "float32") + (0 if last.bias is None else last.bias)
        return keras.ops.cast(last(x), "float32")

    def see(self, picture):
        """Return the layer's activations, h x w x C, of a picture, H x W x 3 in 0..255."""
        return np.asarray(self.features(picture[None].astype("float32")))[0]

    def project(self, pictures, activation):
        """Return what of the picture an activation came from: float32 size x size x 3, about 0."""
        picture = pictures[activation.picture]
        places = np.zeros((1, *self.see(picture).shape), "float32")
        places[0, activation.row, activation.column, activation.channel] = 1
        _, projection = self.evaluate(picture[None].astype("float32"), {"place": places})
        return activation.strength * self.cut(np.asarray(projection)[0], activation, 0)

    def cut(self, picture, activation, beyond):
        """Cut out what an activation's place sees, size x size x 3; beyond the picture's edges it is `beyond`."""
        size = self.field.size
        top, left = self.field.first_pixel(activation.row), self.field.first_pixel(activation.column)
        edged = np.pad(picture, ((size, size), (size, size), (0, 0)), constant_values=beyond)
        return edged[top + size : top + 2 * size, left + size : left + 2 * size]


def chain_up_to(model, name):
    """List a network's layers up to one of them. Raises InputError unless they are a chain that can be gone back."""
    layers = keras.layers
    naming.check_names([name], list(vision.layers_with_places(model)), model.name)
    chain = []
    for layer in model.layers:
        kinds = (layers.Conv2D, layers.MaxPooling2D, layers.Rescaling)
        if type(layer) in kinds and len(layer.output.shape) == 4 and is_plain(layer):
            chain.append(layer)
        elif not isinstance(layer, (layers.InputLayer, layers.Dropout, layers.GaussianNoise)):
            raise errors.InputError(
                f"{layer.name} in {model.name} is a {type(layer).__name__}; only chains of square convolutions with "
                "ReLU and max pooling can be gone back, as VGG is"
            )
        if layer.name == name and chain:
            return chain
    raise errors.InputError(f"{name} of {model.name} sees no more than a pixel")


def is_plain(layer):
    """Say whether a layer has square windows without gaps and, if it is a convolution, a ReLU."""
    if isinstance(layer, keras.layers.Rescaling):
        return True
    pooling = isinstance(layer, keras.layers.MaxPooling2D)
    square = len({*(layer.pool_size if pooling else layer.kernel_size)}) == len({*layer.strides}) == 1
    return square and (pooling or (layer.activation is keras.activations.relu and {*layer.dilation_rate} == {1}))


def window_of(layer):
    """Return the (kernel, stride, padding before) of a layer along each side."""
    if isinstance(layer, keras.layers.Rescaling):
        return 1, 1, 0
    pooling = isinstance(layer, keras.layers.MaxPooling2D)
    kernel, stride = (layer.pool_size if pooling else layer.kernel_size)[0], layer.strides[0]
    return kernel, stride, max(kernel - stride, 0) // 2 if layer.padding == "same" else 0


def rectified(x):
    """Return the ReLU of x, whose gradient is the ReLU of the gradient: so a deconvolutional network goes back."""

    @keras.ops.custom_gradient
    def both_ways(x):
        return keras.ops.relu(x), keras.ops.relu

    return both_ways(x)


def look(network, pictures, channels, options, count=9):
    """Find each filter's strongest activations over all pictures: a dict from channel to at most `count`, sorted."""
    found = {channel: [] for channel in channels}
    numbered = tqdm.tqdm(pictures, unit="picture", leave=False, disable=True if options.quiet else None)
    for number, picture in enumerate(numbered):
        features = network.see(picture)
        for channel in channels:
            apart = max(1, network.field.size // (2 * network.field.stride))
            for strength, row, column in peaks(features[..., channel], count, apart):
                found[channel].append(Activation(strength, number, row, column, channel))
            found[channel] = sorted(found[channel], key=lambda activation: -activation.strength)[:count]
    return found


def peaks(features, count, apart):
    """List the `count` largest values of features h x w that are above 0, `apart` places or more from each other."""
    left, found = features.copy(), []
    while len(found) < count and left.max() > 0:
        row, column = np.unravel_index(left.argmax(), left.shape)
        found.append((float(left[row, column]), int(row), int(column)))
        left[max(0, row - apart + 1) : row + apart, max(0, column - apart + 1) : column + apart] = 0
    return found


# --- The sheets --------------------------------------------------------------------------------


def tile(patch, side):
    """Resize a patch, float32 H x W x 3, for the sheet."""
    return imaging.resize_picture(patch, side, side)


def shown(projection, side):
    """Turn a projection, float32 H x W x 3 about 0, into a tile of the sheet, grey where nothing was: uint8."""
    small = tile(projection, side)
    return imaging.to_pixels(128 + 127 * small / max(np.quantile(np.abs(small), 0.999), 1e-9))


def blank(side):
    return np.full((side, side, 3), 128, "uint8")


def dream(network, channels, options):
    """List what each filter dreams of: a dict from channel to pictures, float32 H x W x 3."""
    if not options.dreams:
        return dict.fromkeys(channels, [])
    studio = filter_dreams.FilterStudio(network, options.dreams)
    total = len(channels) * options.dreams * filter_dreams.STEPS
    with tqdm.tqdm(total=total, unit="step", leave=False, disable=True if options.quiet else None) as bar:
        return {channel: studio.dream(channel, options.seed, bar.update) for channel in channels}


def sheet_of_filters(network, pictures, found, dreams, options):
    """Lay out, for each filter, projections of its strongest activations, what they saw, and its dreams: uint8."""
    blocks, total = [], sum(map(len, found.values()))
    side = int(np.clip(network.field.size, *SIDES))
    with tqdm.tqdm(total=total, unit="projection", leave=False, disable=True if options.quiet else None) as bar:
        for channel, activations in found.items():
            projections, patches = [], []
            for activation in activations:
                projections.append(shown(network.project(pictures, activation), side))
                patches.append(
                    imaging.to_pixels(tile(network.cut(pictures[activation.picture], activation, 128), side))
                )
                bar.update()
            missing = [blank(side)] * (9 - len(activations))
            halves = [imaging.contact_sheet(np.stack(tiles + missing), 3, across=0) for tiles in (projections, patches)]
            tall = [imaging.to_pixels(tile(picture, len(halves[0]))) for picture in dreams[channel]]
            blocks.append(imaging.with_title(np.concatenate([*halves, *tall], axis=1), f"filter {channel}"))
    return imaging.contact_sheet(np.stack(blocks), min(4, len(blocks)), GAP, across=0)


def sheet_of_epochs(rows, labels):
    """Lay out a row for each filter and a column for each epoch: uint8."""
    lines = [imaging.contact_sheet(np.stack(tiles), len(labels), across=0) for tiles in rows.values()]
    named = [imaging.with_title(line, f"filter {channel}") for channel, line in zip(rows, lines)]
    header = f"strongest activation of each filter after {labels[0]} ... {labels[-1]}"
    return imaging.with_title(np.concatenate(named), header)


if __name__ == "__main__":
    command_line.run(main)
