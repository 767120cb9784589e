"""Print whether the GPU's L-BFGS, here on the processor, finds about the loss of SciPy's, or a lower one."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

from atelier import backend
from atelier.networks import minimizers

# isort: split
import numpy as np

GOAL = np.random.default_rng(0).uniform(0, 255, (24, 32, 3)).astype("float32")
CURVATURE = np.geomspace(1, 100, GOAL.size).reshape(GOAL.shape).astype("float32")


def lowest_loss(on_gpu):
    losses = []

    def evaluate(picture):
        difference = np.asarray(backend.as_array(picture)) - GOAL
        losses.append(float((CURVATURE * difference**2).mean()))
        return losses[-1], 2 * CURVATURE * difference / GOAL.size

    minimizers.runs_on_gpu = lambda: on_gpu
    minimizers.minimize_lbfgs(evaluate, np.full_like(GOAL, 128), 15, lambda picture: None)
    return losses[0], min(losses)


first, ours = lowest_loss(True)
_, scipys = lowest_loss(False)
print("lower" if ours < 1.3 * scipys < first else f"higher: {ours} after {first}, SciPy's {scipys}")
