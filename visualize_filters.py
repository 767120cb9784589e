"""Show what the filters of a network respond to: the patches with the strongest activations, and their projections.

    python visualize_filters.py block3_conv1 --images holiday/ --filters 16
    python visualize_filters.py block5_conv2 --images a.jpg b.jpg --channels 12 87
    python visualize_filters.py --evolution trained/digit_classifier

For each filter, the script finds the nine strongest activations in a set of pictures. It projects each activation back
to pixels through a deconvolutional network: unpooling with the switches of max pooling, ReLU, and convolution with the
transposed filters (Zeiler & Fergus 2014). Each projection has its own contrast. Beside the projections are the patches
of the pictures, cropped to the middle of the receptive field, which holds 95 % of the projections, and a picture that
was optimized from noise to activate the filter (Olah, Mordvintsev & Schubert 2017).
"""

from atelier import command_line  # imported first: from now on, Ctrl-C ends the script with one line

# isort: split
import dataclasses
import json
import os
import pathlib
import sys

import numpy as np

import config
from atelier import errors, naming

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # not on by default everywhere. oneDNN needs less memory
datasets = command_line.lazy_import("atelier.pixel_rnn.datasets")
disk = command_line.lazy_import("atelier.disk")
deconvnet = command_line.lazy_import("atelier.networks.deconvnet")
filter_dreams = command_line.lazy_import("atelier.dream.filter_dreams")
filter_sheets = command_line.lazy_import("atelier.dream.filter_sheets")
hardware = command_line.lazy_import("atelier.hardware")
imaging = command_line.lazy_import("atelier.imaging")
outputs = command_line.lazy_import("atelier.outputs")
pretrained = command_line.lazy_import("atelier.networks.pretrained")
provenance = command_line.lazy_import("atelier.provenance")
tqdm = command_line.lazy_import("tqdm")


def parse_arguments():
    parser = command_line.Parser(__doc__)
    parser.add_argument(
        "layer",
        nargs="?",
        help="the layer whose filters are shown (can be left out with --evolution: then the last convolution)",
    )
    command_line.add_options(parser, config.Filters)
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    options = command_line.collect(config.Filters, arguments)
    check(arguments, options)
    if options.evolution:
        options = dataclasses.replace(options, evolution=str(naming.find_trained(options.evolution)))
        show_evolution(arguments.layer, options)
    else:
        show_filters(arguments.layer, options)


def check(arguments, options):
    """Raise InputError for options that cannot be combined or carried out."""
    if options.evolution:
        for name in ("convnet", "weights"):
            if command_line.was_given(arguments, name):
                raise errors.InputError(
                    f"{command_line.flag_of(name)} cannot be combined with --evolution, which names the networks"
                )
        if not naming.saved_epochs(naming.find_trained(options.evolution)):
            raise errors.InputError(f"{options.evolution} is not a folder of .keras files, one for each saved epoch")
    elif arguments.layer is None:
        refuse_layer_after_images(options)
        raise errors.InputError("give a layer before --images, or --evolution and a folder of saved epochs")
    elif not options.images:
        raise errors.InputError("give pictures, or folders of them, with --images")
    elif pathlib.Path(arguments.layer).exists() and pathlib.Path(arguments.layer).name != arguments.layer:
        raise errors.InputError(f"{arguments.layer} is no layer; the layer comes first, the pictures after --images")
    else:
        naming.check_layers([arguments.layer], options.convnet)
    for path in options.images:
        if not pathlib.Path(path).exists():
            raise errors.InputError(f"{path} does not exist")


def refuse_layer_after_images(options):
    """Raise InputError if one of the words after --images is no file, and so may be the layer."""
    missing = [path for path in options.images if not pathlib.Path(path).exists()]
    if len(missing) == 1 and len(options.images) > 1:
        command = command_line.command_with_first(*missing, without=missing)
        raise errors.InputError(f"{missing[0]} is no file; if it is the layer, it comes before --images: {command}")


def show_filters(layer, options):
    """Make a sheet of the strongest activations of a layer's filters, and print its path."""
    result = prepare(f"{layer}__filters", options)
    device = hardware.use_precision(options.precision, "convolutions")
    convnet = naming.own_classifier(options.convnet) or options.convnet
    model, preprocess, source = pretrained.load_network(convnet, options.weights, input_range=options.input_range)
    if not options.quiet:
        print(f"device: {device}; {convnet} with the weights {source}", file=sys.stderr)
    network = deconvnet.Deconvnet(model, preprocess, layer)
    pictures, refused = read_pictures(model, options)
    channels = deconvnet.choose_channels(network, pictures, options.channels, options.filters)
    strongest = deconvnet.strongest_activations(network, pictures, channels, quiet=options.quiet)
    dreams = filter_dreams.dreams_of_filters(network, channels, options.dreams, options.seed, options.quiet)
    sheet = filter_sheets.sheet_of_filters(network, pictures, strongest, dreams, options.quiet)
    imaging.save_png(result, sheet, provenance.of_result(options, weights=source))
    print(f"sheet: {result}")
    print(f"receptive_field: {network.field.size} pixels across")
    for channel, activations in strongest.items():
        strengths = " ".join(f"{activation.strength:.4g}" for activation in activations)
        print(f"filter_{channel}: {f'activations {strengths}' if strengths else 'never active'}")
    if refused:
        raise errors.PartlyDone(
            f"{len(refused)} of {len(refused) + len(pictures)} pictures were left out: {refused[0]}"
        )


def show_evolution(layer, options):
    """Make a sheet of each filter's strongest activation after each saved epoch, and print its path."""
    folder = pathlib.Path(options.evolution)
    result = prepare(f"{folder.resolve().name}__evolution", options)
    hardware.use_precision(options.precision, "convolutions")
    epochs = naming.saved_epochs(folder)
    last = load_deconvnet(epochs[-1], layer, options)
    if options.images:
        pictures, refused = read_pictures(last.model, options)
    else:
        pictures, refused = training_pictures(folder, last.model), []
    channels, rows = deconvnet.choose_channels(last, pictures, options.channels, options.filters), {}
    for path in tqdm.tqdm(epochs, unit="epoch", leave=False, disable=True if options.quiet else None):
        network = load_deconvnet(path, layer, options)
        strongest = deconvnet.strongest_activations(network, pictures, channels, count=1, quiet=True)
        for channel, activations in strongest.items():
            rows.setdefault(channel, []).append(filter_sheets.epoch_tile(network, pictures, activations))
    labels = [path.stem for path in epochs]
    about = provenance.of_result(options, source=str(folder))
    imaging.save_png(result, filter_sheets.sheet_of_epochs(rows, labels), about)
    print(f"sheet: {result}")
    print(f"epochs: {' '.join(labels)}")
    print(f"filters: {' '.join(map(str, rows))}")
    if refused:
        raise errors.PartlyDone(f"{len(refused)} pictures were left out: {refused[0]}")


def load_deconvnet(path, layer, options):
    model, preprocess, _ = pretrained.load_network(path, input_range=options.input_range)
    return deconvnet.Deconvnet(model, preprocess, layer)


def prepare(name, options):
    """Return the path of the result. Raises InputError if the file must not be overwritten or can't be written."""
    command_line.require_suffix(options.output, ".png")
    result = outputs.choose_result(options, f"generated/{name}.png", lambda result: [result])
    disk.refuse_to_replace([result], find_images(options))
    return result


def find_images(options):
    """List the paths of the pictures that --images gives, and of the pictures in the folders that it gives."""
    paths = []
    for path in map(pathlib.Path, options.images):
        paths += imaging.find_pictures(path) if path.is_dir() else [path]
    return paths


def read_pictures(model, options):
    """Return the input pictures, uint8 H x W x 3 each, and a list of the reasons why others can't be used.

    Raises InputError if none can be used.
    """
    pictures, refused = [], []
    for path in find_images(options):
        try:
            picture = imaging.load_image(path)
            height, width = model.input_shape[1:3]
            if not height:
                width, height = imaging.fit(*picture.shape[1::-1], options.size)
                if min(width, height) < config.VGG_LEAST_SIDE:
                    raise errors.InputError(f"{path} would be {width} x {height} pixels, which is too narrow")
            pictures.append(imaging.to_pixels(imaging.resize_picture(picture, width, height)))
        except errors.InputError as error:
            refused.append(str(error))
    if not pictures:
        raise errors.InputError(refused[0] if refused else f"{' '.join(options.images)} contains no picture")
    return pictures, refused


def training_pictures(folder, model):
    """Return the pictures that a classifier was trained on, uint8 H x W x 3 each.

    meta.json in the classifier's folder names the data set. Raises InputError if it does not.
    """
    try:
        source = json.loads((folder / "meta.json").read_text())["source"]
    except (OSError, ValueError, KeyError, TypeError):
        raise errors.InputError(f"{folder} has no meta.json that names its data; give pictures with --images") from None
    images = datasets.load_dataset(source)[0]
    height, width = (fixed or own for fixed, own in zip(model.input_shape[1:3], images.shape[1:3]))
    return [
        imaging.to_pixels(imaging.resize_picture(np.repeat(image[..., None], 3, axis=2), width, height))
        for image in images
    ]


if __name__ == "__main__":
    command_line.run(main)
