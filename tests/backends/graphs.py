"""Run a script as on an NVIDIA GPU, where PyTorch's steps are captured. The capture is simulated on the processor.

The simulated graph calls the function again. Like a real one, it reads the tensors that it was captured with, and
writes its results into the same tensors each time. Not simulated: CUDA's limits, its streams and its memory.

    KERAS_BACKEND=torch python tests/backends/graphs.py style_transfer.py photo.jpg --style painting.jpg
"""

import importlib
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

from atelier import backend

# isort: split
import keras

from atelier import torch_backend, torch_graphs

captures = []


def capture(function):
    """Like torch_graphs.capture."""
    own = []

    def replay():
        with torch_graphs.numbers_filled_in():
            results = function()
        if not own:
            own.append(results)
        keras.tree.map_structure(lambda x, result: x.copy_(result), own[0], results)
        return own[0]

    captures.append(function)
    return replay


torch_graphs.capture = capture
backend.capture_steps = torch_backend.captured
if __name__ == "__main__":
    script = pathlib.Path(sys.argv[1]).stem
    sys.argv = sys.argv[1:]
    importlib.import_module(script).main()
    print(f"captures: {len(captures)}")
