"""Print how many programs JAX compiles for the losses of pictures of six shapes."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

from atelier.style import perceptual_loss

# isort: split
import numpy as np

import config

layers = {"content_layers": ("block1_conv2",), "style_layers": ("block1_conv1",)}
loss = perceptual_loss.PerceptualLoss(config.Style(**layers))
rng = np.random.default_rng(0)
for height in (60, 64, 84, 92, 100, 105):
    picture = rng.uniform(0, 255, (1, height, 64, 3)).astype("float32")
    targets = {"content": loss.content(picture), "style": loss.statistics(picture)}
    loss.loss_and_gradient(picture, targets)
print(f"programs: {loss.loss_and_gradient.__wrapped__.traces}")
