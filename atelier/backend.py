"""Keras's backend: its start, and what Keras has no word for. backend_choice.py says which one the user has chosen.

Each of tensorflow_backend.py, torch_backend.py and jax_backend.py holds the same functions; those of the chosen backend
are listed at the end. The import of this module starts the backend without its messages.
"""

import contextlib
import ctypes
import importlib.util
import os
import sys

from atelier.backend_choice import TITLES, choices, choose
from atelier.disk import silenced_stderr
from atelier.errors import InputError

# --- The start ---------------------------------------------------------------------------------


def keep_freed_memory():
    """Make glibc keep freed memory instead of returning it to the system after each training step.

    Each step needs as much memory as the step before. Without this, a third of the time was spent on mapping and
    clearing the memory again. Other C libraries are not changed.
    """
    m_mmap_max, m_arena_max, m_trim_threshold = -4, -8, -1
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(m_mmap_max, 0)
        mallopt(m_arena_max, 1)
        mallopt(m_trim_threshold, 2**31 - 1)


@contextlib.contextmanager
def hidden_modules(*names):
    """Let imports of these modules fail in this context, as if they were not installed. Loaded modules stay."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def set_aside(modules):
    """Remove modules from sys.modules in this context, a dict from name to module."""
    for name in modules:
        del sys.modules[name]
    try:
        yield
    finally:
        sys.modules.update(modules)


def lazy_modules():
    """Return the toolkit's modules that are not loaded yet, see command_line.lazy_import."""
    lazy = {name: module for name, module in sys.modules.items() if type(module) is importlib.util._LazyModule}
    return {name: module for name, module in lazy.items() if name.startswith("atelier.") or name == "util"}


def start(name):
    """Import Keras and the functions of a backend. Raises InputError if the backend's package is damaged."""
    keep_freed_memory()
    os.environ["KERAS_BACKEND"] = name  # for Keras, and for processes that this one starts
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # what Apple's GPUs lack, the processor computes
    # TensorFlow writes messages before its log level can be set. Keras takes a second to import these two modules, for
    # wrappers and plots that this toolkit does not use.
    # PyTorch inspects all modules while it is imported, which would load ours.
    with silenced_stderr(), hidden_modules("sklearn", "matplotlib.pyplot"), set_aside(lazy_modules()):
        try:
            return importlib.import_module(f"atelier.{name}_backend")
        except Exception as error:  # a damaged or mismatched installation fails in many ways
            if getattr(error, "name", None) == "keras":
                raise
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{TITLES[name]} is installed, but does not start: {reason}; install it again, or {choices()}"
            ) from error


NAME = choose()
TITLE = TITLES[NAME]
chosen = start(NAME)

# --- The functions of the chosen backend -------------------------------------------------------

VERSION = chosen.VERSION

# Devices and memory
gpu_capabilities = chosen.gpu_capabilities  # () -> the compute capability of each GPU that is used
let_gpu_memory_grow = chosen.let_gpu_memory_grow  # () -> None: take a GPU's memory when it is needed
use_exact_products = chosen.use_exact_products  # (exact) -> None: whether float32 on a GPU has all of its 24 bits
cores_in_use = chosen.cores_in_use  # () -> the number of cores that use_cores() has set, or 0
use_cores = chosen.use_cores  # (count) -> None
reserve_memory = chosen.reserve_memory  # (gigabytes) -> None: make room at once where this prevents gaps
as_array = chosen.as_array  # (tensor or variable) -> NumPy array, without a copy where possible

# Gradients. `variables` are the Keras variables that a function reads: JAX would compile their values into it.
value_and_gradient = chosen.value_and_gradient  # (loss, variables=()): with respect to a picture
value_and_gradients = chosen.value_and_gradients  # (loss, trained, scale=1, variables=()): with respect to variables
custom_gradient = chosen.custom_gradient  # a decorator: the function returns (results, function of their gradients)

# Compiled functions
COMPILES_EACH_SIZE = chosen.COMPILES_EACH_SIZE  # whether a function is compiled anew for each size, see padding.py
for_any_size = chosen.for_any_size  # (function, variables=()): of one picture, 1 x H x W x 3
compile_for_shapes = chosen.compile_for_shapes  # (function, shapes, variables=()): shapes are ((..., None), dtype)
compile_function = chosen.compile_function  # (function, jit=True, variables=())
compile_update = chosen.compile_update  # (optimizer, variables, jit=False): f(gradients) changes the variables
compile_training_step = chosen.compile_training_step  # (loss, optimizer, trained, jit, variables=())
capture_steps = chosen.capture_steps  # (function) -> the same; with PyTorch, see torch_graphs.GraphFunction
release_graphs = chosen.release_graphs  # () -> None: free the memory of captured steps
output_shapes = chosen.output_shapes  # (function, shape) -> the shapes of the function's list of outputs
resize_dynamically = chosen.resize_dynamically  # (picture, filled, size, largest): antialiased, see JAX's

# Layers
normalize_instance = chosen.normalize_instance  # (x, scale, shift, epsilon), with the mean and variance of x
normalize = chosen.normalize  # (x, scale, shift, mean, variance, epsilon)
enlarge = chosen.enlarge  # (x): twice the rows and columns, by linear interpolation
moments = chosen.moments  # (x) -> the mean and the variance of each channel
