"""Run a script as on an NVIDIA GPU, where PyTorch's work is recorded; the recorder is simulated on the processor.

KERAS_BACKEND=torch python tests/backends/graphs.py style_transfer.py photo.jpg --style painting.jpg
"""

import importlib
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

from atelier import torch_graphs

recordings = []


def record(function):
    """Like torch_graphs.record, but the work is repeated by another call of the function."""

    def repeat():
        with torch_graphs.numbers_filled_in():
            return function()

    recordings.append(function)
    return repeat


torch_graphs.recorded = lambda function, device: torch_graphs.Recorded(function)
torch_graphs.record = record
script = pathlib.Path(sys.argv[1]).stem
sys.argv = sys.argv[1:]
importlib.import_module(script).main()
print(f"recordings: {len(recordings)}")
