"""L-BFGS on a picture's cosine transform, like minimizers.py, for a GPU: nothing leaves it but the loss.

SciPy's L-BFGS runs on the processor, where large pictures take longer than the network takes on a GPU.
"""

from atelier import backend  # noqa: F401, PyTorch starts quietly

# isort: split
import math

import torch
from keras import ops


def minimize_lbfgs(evaluate, start, weights, steps, accept):
    """Minimise with PyTorch's L-BFGS, whose line search finds the strong Wolfe conditions, as SciPy's does.

    The arguments are those of minimizers.minimize_lbfgs, and `weights`, float H x W x 1, the weights of the cosine
    coefficients. `evaluate` and `accept` get tensors, and `evaluate` may return a tensor or an array.
    """
    start, weights = (ops.convert_to_tensor(x, "float32") for x in (start, weights))
    down, right = (cosine_matrix(side, start.device) for side in start.shape[:2])
    x = torch.nn.Parameter(torch.zeros_like(start))
    settings = {"history_size": 20, "tolerance_grad": 0, "tolerance_change": 0, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS([x], max_iter=1, max_eval=25, **settings)
    last = {}

    def picture_of(x):
        return start + torch.einsum("yh,xw,yxc->hwc", down, right, weights * x)

    @torch.no_grad()
    def objective():
        if "x" not in last or not torch.equal(x, last["x"]):  # each step begins at the end of the step before
            last["value"], gradient = evaluate(picture_of(x))
            gradient = ops.convert_to_tensor(gradient, "float32")
            last["gradient"] = weights * torch.einsum("yh,xw,hwc->yxc", down, right, gradient)
            last["x"] = x.detach().clone()
        x.grad = last["gradient"].clone()
        return last["value"]

    objective()
    # PyTorch divides the first step by the sum of the gradient's absolute values, and SciPy by its length.
    optimizer.param_groups[0]["lr"] = float(x.grad.abs().sum() / x.grad.norm())
    for _ in range(steps):
        before = last["x"]
        optimizer.step(objective)
        optimizer.param_groups[0]["lr"] = 1
        if torch.equal(x, before):  # there is nothing to improve
            return
        accept(picture_of(x.detach()))


def cosine_matrix(side, device):
    """Return the matrix of the orthonormal cosine transform (type II) of `side` numbers, float32 side x side."""
    numbers = torch.arange(side, dtype=torch.float64)  # on the processor: Apple's GPUs have no float64
    matrix = torch.cos(math.pi / side * torch.outer(numbers, numbers + 0.5)) * math.sqrt(2 / side)
    matrix[0] /= math.sqrt(2)
    return matrix.to(torch.float32).to(device)
