"""Run style_transfer.py, whose first search has not enough memory: it raises the backend's own exception.

python tests/backends/out_of_memory.py WORDS
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

from atelier import backend, command_line
from atelier.style import optimization

# isort: split
import style_transfer

TERABYTES = (2**20, 2**20, 16)
BEGUN = []


def fill_memory():
    """Raise what the backend raises if a GPU's memory is not enough; without a GPU, PyTorch raises something else."""
    if backend.NAME == "torch":
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    optimization.ops.convert_to_numpy(optimization.ops.ones(TERABYTES))


def search(self):
    BEGUN.append(self)
    if len(BEGUN) == 1:
        fill_memory()
    run(self)


run, optimization.Search.run = optimization.Search.run, search
command_line.run(style_transfer.main)
