"""CUDA graphs: steps on an NVIDIA GPU that PyTorch starts as a whole.

Python needs longer to start the hundreds of operations of a small step than a GPU needs to compute them. A step that is
captured in a graph is started by one call.
"""

import contextlib
import gc
import weakref

import keras
import numpy as np
import torch

LARGEST = 4_000_000  # numbers in a picture; with more of them the GPU works longer than Python
MOST_NUMBERS = 16  # of an array in a captured step, since each is written by an operation of its own


class GraphFunction:
    """A function of trees of tensors on a GPU, whose operations are captured in its second call and then replayed.

    It must be right to repeat the operations of the second call: the function draws no random numbers, makes no
    decision by the tensors' values, and reads no other number of Python that changes. Variables are changed in place.
    It is called by one thread. For other shapes, it is called once and then captured anew. Where its operations cannot
    be captured, it is called.
    """

    def __init__(self, function):
        self.function, self.not_captured = function, None
        self.release()

    def release(self):
        """Free the graph and its memory."""
        self.shapes, self.inputs, self.replay = None, None, None

    def __call__(self, *arguments):
        shapes = keras.tree.map_structure(lambda x: (str(x.dtype), *x.shape), arguments)
        given = keras.tree.flatten(arguments)
        if shapes != self.shapes:
            self.release()  # before the call, which needs memory
            results = self.function(*arguments)
            if shapes != self.not_captured and given[0].numel() <= LARGEST:
                self.shapes = shapes
            return results
        if self.replay is None and not self.capture(arguments):
            return self.function(*arguments)
        for own, x in zip(self.inputs, given, strict=True):
            own.copy_(x)
        return keras.tree.map_structure(torch.clone, self.replay())

    def capture(self, arguments):
        """Capture the function's operations on copies of the arguments. Returns whether that was possible."""
        inputs = keras.tree.map_structure(lambda x: x.detach().clone(), arguments)
        try:
            self.replay = capture(lambda: self.function(*inputs))
        except RuntimeError:  # PyTorch's error for operations that cannot be captured, and for too little memory
            self.not_captured = self.shapes
            self.release()
            return False
        self.inputs = keras.tree.flatten(inputs)
        with_graphs.add(self)
        return True


with_graphs = weakref.WeakSet()


def release_graphs():
    """Free all graphs and their memory. Functions that are called again are captured again."""
    for function in list(with_graphs):
        function.release()
    with_graphs.clear()


def capture(function):
    """Capture a function's operations without doing them. Returns f() -> the results, in the same tensors each time.

    Raises RuntimeError if that is not possible.
    """
    # Reference cycles may keep gradient nodes of the call before. They belong to another stream, and would be waited
    # for, which ends a capture.
    gc.collect()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with numbers_filled_in(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = function()
    finally:
        torch.cuda.set_stream(stream)  # PyTorch does not leave the stream of a capture that failed

    def replay():
        graph.replay()
        return results

    return replay


@contextlib.contextmanager
def numbers_filled_in():
    """Let the GPU write the few numbers that Keras converts to tensors. Copies to the GPU cannot be captured."""
    as_tensor = torch.as_tensor

    def filled(data, dtype=None, device=None):
        if isinstance(data, torch.Tensor):
            return as_tensor(data, dtype=dtype, device=device)
        dtype, values = dtype or as_tensor(data).dtype, np.asarray(data)
        if not values.shape:
            return torch.full((), values.item(), dtype=dtype, device=device)
        if values.size > MOST_NUMBERS:
            raise RuntimeError(f"an array of {values.size} numbers cannot be captured")
        parts = [torch.full((), value, dtype=dtype, device=device) for value in values.ravel().tolist()]
        return torch.stack(parts).reshape(values.shape)

    torch.as_tensor = filled
    try:
        yield
    finally:
        torch.as_tensor = as_tensor
