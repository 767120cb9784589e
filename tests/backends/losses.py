"""Write losses and gradients of all kinds to an .npz, so that those of two backends can be compared.

KERAS_BACKEND=torch python tests/backends/losses.py losses.npz
"""

import dataclasses
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from atelier import backend, hardware

# isort: split
import keras
import numpy as np

import config
import util
from atelier import imaging
from atelier.dream import fourier_images, objectives, random_transforms
from atelier.networks import deconvnet
from atelier.pixel_rnn import model_files, model_meta, recurrent
from atelier.style import learned_styles, perceptual_loss, stylization_network, tiled_loss


def main():
    hardware.use_precision("float32", "likelihoods")
    picture = imaging.load_image(ROOT / "images/content/china.jpg")
    photo = imaging.resize_picture(picture, 96, 64)[None]
    padded_with_jax = imaging.resize_picture(picture, 101, 70)[None]
    found = (
        losses_of_style(padded_with_jax)
        | loss_of_parts(photo)
        | losses_in_tiles(padded_with_jax[0])
        | losses_of_waves(padded_with_jax)
    )
    found |= losses_of_dreams(photo) | losses_of_training(photo) | likelihoods()
    np.savez(sys.argv[1], **{name: np.asarray(backend.as_array(value)) for name, value in found.items()})


def loss_of_parts(photo):
    loss = perceptual_loss.PerceptualLoss(config.Style(), parts=2)
    targets = {"style": loss.statistics(photo[:, ::-1].copy()), "content": loss.content(photo)}
    terms, gradient = loss.loss_and_gradient(photo[:, :, ::-1].copy(), targets)
    return {f"parts/{term}": value for term, value in terms.items()} | {"parts/gradient": gradient}


def losses_of_style(photo):
    """The losses of a search with their gradients, for each kind; and a learned style."""
    found = {}
    for name, options in {
        "style": config.Style(),
        "texture": config.STYLE_DEFAULTS["texture"],
        "published": dataclasses.replace(config.STYLE_DEFAULTS["published"], published_losses=True),
        "layer": dataclasses.replace(config.STYLE_DEFAULTS["layer"], layer="block3_conv1"),
    }.items():
        loss = perceptual_loss.PerceptualLoss(options)
        targets = {} if options.layer else {"style": loss.statistics(photo[:, ::-1].copy())}
        if loss.content:
            targets["content"] = loss.content(photo)
        terms, gradient = loss.loss_and_gradient(photo[:, :, ::-1].copy(), targets)
        found |= {f"{name}/{term}": value for term, value in terms.items()} | {f"{name}/gradient": gradient}
    style = learned_styles.load_style("wave")
    network = learned_styles.load_network(style.network)
    found["learned"] = learned_styles.stylize(network, photo[0], style)
    stylization_network.MAX_WHOLE_PIXELS, stylization_network.STRIP_PIXELS = 0, 2**11
    found["learned/strips"] = learned_styles.stylize(network, photo[0], style)
    return found


def losses_in_tiles(photo):
    """The loss of a large picture with its gradient. Here two by three tiles are large."""
    tiled_loss.TILE = 80
    options = perceptual_loss.layers_at(config.LARGE + 1, config.Style())
    loss = tiled_loss.TiledLoss(perceptual_loss.PerceptualLoss(options), options)
    with tempfile.TemporaryDirectory() as folder:
        targets = {"content": loss.content_of(photo, folder)}
        targets["style"] = [[layer] for layer in loss.statistics(photo[::-1].copy())]
        terms, gradient = loss.loss_and_gradient(photo[:, ::-1].copy(), targets)
    return {f"tiles/{term}": value for term, value in terms.items()} | {"tiles/gradient": gradient}


def losses_of_waves(photo):
    """The gradient of a Fourier image, as a dream of a class on a photo computes it."""

    class Objective:
        scope, names, targets, variables = "whole", ["logit"], {}, ()

        def loss(self, pictures, targets):
            logit = keras.ops.mean(pictures * keras.ops.sin(pictures / 50))
            return {"total": logit, "logit": logit}

    ascent = fourier_images.FourierAscent(Objective(), 48, count=2)
    gradient, strengths = ascent.gradient(photo[0], np.random.default_rng(0), np.ones(1, "float32"))
    return {"waves/gradient": gradient, "waves/logit": strengths}


def losses_of_dreams(photo):
    """The objective of a dream with its gradient, under random transforms, and a filter's projection."""
    options = config.Dream(quiet=True, precision="float32")
    network = objectives.load_network(options)
    objective = objectives.make_objective(network, options)
    loss = random_transforms.with_transforms(objective.loss, 48, "part")
    evaluate = backend.value_and_gradient(loss, objective.variables)
    (chosen, *_) = random_transforms.choose_transforms(np.random.default_rng(0), 64, 96, 48, "part")
    targets = {"normalizer": objective.normalizer(np.float32([1e4])), "transforms": chosen}
    terms, gradient = evaluate(photo, targets)
    net = deconvnet.Deconvnet(network.model, network.preprocess, "block2_conv2")
    (strongest,) = deconvnet.strongest_activations(net, [photo[0]], [3], 1, quiet=True)[3]
    projection = net.project([photo[0]], strongest)
    return {"dream/total": terms["total"], "dream/gradient": gradient, "projection": projection}


def losses_of_training(photo):
    """The gradients of a stylization network's weights, and those of a small painter, after one step."""
    style = learned_styles.load_style("wave")
    network, vector = learned_styles.load_network(style.network), style.vector_for(1)
    # With the seed 0, an input of a ReLU is so near 0 that relative changes of 1e-7 in the weights turn it on or off,
    # which changes the gradient by 0.0016.
    noise = stylization_network.draw_noise(64, 96, np.random.default_rng(2))

    def loss(photo, noise, vector):
        value = keras.ops.mean((network([photo, noise, vector]) / 255) ** 2)
        return value, value

    trained = [[*network.trainable_variables]]
    value, (gradients,) = backend.value_and_gradients(loss, trained, 64, network.variables)(photo, noise, vector)
    found = {"training/loss": value, "training/first": gradients[0], "training/last": gradients[-2]}
    painter = util.build_painter(8, 6, 4, 6, "gru", 8, 1, 0.0, 4, "place")
    rng = np.random.default_rng(0)
    painter.set_weights([rng.normal(0, 0.3, weight.shape) for weight in painter.get_weights()])
    painter.optimizer = keras.optimizers.Adam(0.01)
    painter.optimizer.build(painter.trainable_variables)
    windows = util.Windows(rng.integers(0, 8, (2, 24)).astype("uint16"), 6, 4, "place", 6, 1, 2, "all")
    inputs, targets, weight, _ = windows.batch(0, 0, 0)
    step = recurrent.make_training_step(painter, painter.optimizer)
    loss, _ = step(inputs | {"state_0_0": np.zeros((2, 8), "float32")}, targets, weight)
    return found | {"painter/loss": loss, "painter/weights": painter.get_layer("logits").kernel}


def likelihoods():
    """The log-likelihoods of ten digits under an included model."""
    folder = ROOT / "trained/digits"
    meta = model_meta.load_meta(folder)
    model = model_files.load_rnn(folder, 3, meta)
    score = recurrent.make_scorer(model, meta["recipe"]["context"])
    tokens = np.random.default_rng(0).integers(0, 2, (10, model.inputs[0].shape[1])).astype("uint8")
    return {"likelihoods": recurrent.log_likelihoods(score, model, tokens)}


if __name__ == "__main__":
    main()
