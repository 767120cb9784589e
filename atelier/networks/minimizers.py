"""Optimizers of a picture: L-BFGS on its cosine transform, and Adam on its pixels.

`evaluate(picture)` returns the loss and its gradient, float32 H x W x 3 like the picture. `accept(picture)` is called
once in each step.
"""

import math

from atelier import backend, hardware  # Keras starts quietly

# isort: split
import keras
import numpy as np
import threadpoolctl
from scipy import fft, optimize


def runs_on_gpu():
    """Tell whether L-BFGS runs on a GPU. `evaluate` and `accept` get tensors then. It does with PyTorch."""
    return backend.NAME == "torch" and hardware.has_gpu()


def minimize_lbfgs(evaluate, start, steps, accept):
    """Minimise with SciPy's L-BFGS. The variables are weighted cosine coefficients of the change from `start`.

    Low frequencies have larger weights, because the loss has less curvature along them. L-BFGS does not know how
    long its first step should be. The scale of the weights makes this step about one grey level.
    """
    height, width, _ = start.shape
    frequency = np.hypot(np.arange(height)[:, None] / height, np.arange(width) / width)[..., None]
    weights = np.maximum(frequency, 1 / max(height, width)) ** -0.25
    weights *= math.sqrt(start.size / np.mean(weights**2))
    if runs_on_gpu():
        from atelier.networks import torch_minimizers  # PyTorch may not be installed

        torch_minimizers.minimize_lbfgs(evaluate, start, weights, steps, accept)
        return

    def picture_of(x):
        coefficients = weights * x.reshape(start.shape)
        return start + fft.idctn(coefficients.astype("float32"), axes=(0, 1), norm="ortho", workers=-1)

    def objective(x):
        value, gradient = evaluate(picture_of(x))
        return value, (weights * fft.dctn(gradient, axes=(0, 1), norm="ortho", workers=-1)).ravel()

    # After each product of vectors, the other threads of SciPy's BLAS wait in a loop and slow down the network.
    with threadpoolctl.threadpool_limits(1, "blas"):
        optimize.minimize(
            objective,
            np.zeros(start.size),
            jac=True,
            method="L-BFGS-B",
            callback=lambda x: accept(picture_of(x)),
            options={"maxiter": steps, "maxfun": 100 * steps, "maxcor": min(20, steps), "ftol": 0, "gtol": 0},
        )


def minimize_adam(evaluate, start, steps, accept, learning_rate):
    """Minimise with Adam (Kingma & Ba 2015). `accept` gets the picture before each step."""
    picture = keras.Variable(start)
    optimizer = keras.optimizers.Adam(learning_rate)
    for _ in range(steps):
        evaluated = picture.numpy()
        _, gradient = evaluate(evaluated)
        accept(evaluated)
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [picture])
