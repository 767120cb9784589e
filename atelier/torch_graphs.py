"""Recording of work on an NVIDIA GPU with PyTorch (CUDA graphs), so that small steps do not wait for Python.

Python needs longer to start the hundreds of operations of a step than a GPU needs to compute them. A recorded step is
started as a whole.
"""

import contextlib
import gc

import keras
import numpy as np
import torch

LARGEST = 4_000_000  # numbers in the first input; with more of them the GPU works longer than Python
ATTEMPTS = 3  # to record a function, before it is only called


def recorded(function, device):
    """Return a Recorded function on an NVIDIA GPU, and the function itself on other devices."""
    return Recorded(function) if device.type == "cuda" and not torch.version.hip else function


class Recorded:
    """A function whose work is recorded in the second call with tensors of the same shapes, and then only repeated.

    Arguments and results are trees of tensors. The function must do the same work in each call: it must draw no random
    numbers and make no decision that depends on the tensors' values. If its work cannot be recorded, it is called.
    """

    def __init__(self, function):
        self.function, self.attempts = function, 0
        self.forget()

    def forget(self):
        self.shapes, self.inputs, self.repeat = None, None, None

    def __call__(self, *arguments):
        given = keras.tree.flatten(arguments)
        if self.attempts == ATTEMPTS or given[0].numel() > LARGEST:
            self.forget()
            return self.function(*arguments)
        shapes = [(x.shape, x.dtype) for x in given]
        if shapes != self.shapes:
            self.forget()  # first, so that its memory is free
            self.shapes = shapes
            return self.function(*arguments)
        if self.repeat is None and not self.record(arguments):
            return self.function(*arguments)
        for own, x in zip(self.inputs, given, strict=True):
            own.copy_(x)
        return keras.tree.map_structure(torch.clone, self.repeat())

    def record(self, arguments):
        """Record the function's work on copies of the arguments. Returns whether that was possible."""
        inputs = keras.tree.map_structure(lambda x: x.detach().clone(), arguments)
        try:
            self.repeat = record(lambda: self.function(*inputs))
        except RuntimeError:  # PyTorch's error for work that cannot be recorded, and for too little memory
            self.attempts += 1
            return False
        self.attempts = 0
        self.inputs = keras.tree.flatten(inputs)
        return True


def record(function):
    """Record a function's work without doing it. Returns a function that does it, with the same tensors each time.

    Raises RuntimeError if the work cannot be recorded.
    """
    gc.collect()  # what is left of an earlier call belongs to another stream, which would end the recording
    graph = torch.cuda.CUDAGraph()
    with numbers_filled_in(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        results = function()

    def repeat():
        graph.replay()
        return results

    return repeat


@contextlib.contextmanager
def numbers_filled_in():
    """Let the GPU itself write the few numbers that Keras converts to tensors. Copies to it cannot be recorded."""
    as_tensor = torch.as_tensor

    def filled(data, dtype=None, device=None):
        if isinstance(data, torch.Tensor):
            return as_tensor(data, dtype=dtype, device=device)
        values = np.asarray(data)
        dtype = dtype or as_tensor(values).dtype
        if not values.shape:
            return torch.full((), values.item(), dtype=dtype, device=device)
        if values.size > MOST_NUMBERS:
            raise RuntimeError(f"{values.size} numbers cannot be recorded")
        parts = [torch.full((), value, dtype=dtype, device=device) for value in values.ravel().tolist()]
        return torch.stack(parts).reshape(values.shape)

    torch.as_tensor = filled
    try:
        yield
    finally:
        torch.as_tensor = as_tensor


MOST_NUMBERS = 16  # of an array that is written number by number
