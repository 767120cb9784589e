"""PyTorch's part of backend.py: devices and memory, gradients, functions without gradients.

Nothing is compiled: PyTorch runs each operation at once, so every size of a picture is as quick as the last. On an
NVIDIA GPU, the steps of searches and of trainings of styles are captured, see torch_graphs.py.
"""

import functools
import re
import sys
import warnings

import keras
import torch
from keras import ops
from torch.nn.functional import batch_norm, interpolate

from atelier import torch_graphs

VERSION = torch.__version__
torch.backends.cudnn.deterministic = True  # so that a seed gives the same picture again

# --- Devices and memory ------------------------------------------------------------------------

DEVICE = torch.device(keras.src.backend.torch.core.DEFAULT_DEVICE)
core_count = 0


def gpu_capabilities():
    """Return the compute capability of the one GPU that is used, in a list; (0, 0) if it is not NVIDIA's or AMD's."""
    if DEVICE.type == "cpu":
        return []
    return [torch.cuda.get_device_capability(DEVICE) if DEVICE.type == "cuda" else (0, 0)]


def let_gpu_memory_grow():
    """PyTorch always takes a GPU's memory when it needs it."""


def show_warning(message, *arguments, **more):
    """Print a note in place of PyTorch's warning that an operation does not run on Apple's GPU."""
    if missing := re.search("operator '(.+?)' is not currently supported on the MPS backend", str(message)):
        print(f"note: the processor computes {missing[1]}, which PyTorch lacks on this GPU", file=sys.stderr)
    else:
        show_other_warning(message, *arguments, **more)


show_other_warning, warnings.showwarning = warnings.showwarning, show_warning


def use_exact_products(exact):
    torch.set_float32_matmul_precision("highest" if exact else "high")
    torch.backends.cudnn.allow_tf32 = not exact


def cores_in_use():
    return core_count


def use_cores(count):
    global core_count
    core_count = count
    torch.set_num_threads(count)


def reserve_memory(gigabytes):
    """PyTorch's memory on a processor is glibc's, which leaves no gaps."""


def as_array(x):
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else ops.convert_to_numpy(x)


# --- Gradients ---------------------------------------------------------------------------------


def custom_gradient(function):
    """Like keras.ops.custom_gradient, also for functions with several results. They take tensors only."""

    class Custom(torch.autograd.Function):
        @staticmethod
        def forward(context, *arguments):
            results, context.gradient = function(*arguments)
            return results

        @staticmethod
        def backward(context, *gradients):
            return context.gradient(*gradients)

    return Custom.apply


def value_and_gradient(loss, variables=()):
    """Return f(picture, targets) as TensorFlow's function of this name does. `f.traces` stays 0."""

    @functools.wraps(loss)
    def evaluate(picture, targets):
        targets = as_tensors(targets)
        picture = ops.convert_to_tensor(picture, "float32").detach().requires_grad_()
        # In float16 the gradient of a mean would underflow; the gradient of a sum does not.
        scale = float(picture.numel())
        with torch.enable_grad():
            terms = loss(picture, targets)
            (gradient,) = torch.autograd.grad(terms["total"] * scale, picture)
        return {name: ops.convert_to_tensor(term).detach() for name, term in terms.items()}, gradient / scale

    evaluate.traces = 0
    return evaluate


def as_tensors(arguments):
    return keras.tree.map_structure(ops.convert_to_tensor, arguments)


def value_and_gradients(loss, trained, scale=1, variables=()):
    """Return f(*arguments) -> (more, gradients), as TensorFlow's function of this name does."""

    def evaluate(*arguments):
        values = [variable.value for variable in keras.tree.flatten(trained)]
        with torch.enable_grad():
            value, more = loss(*as_tensors(arguments))
            gradients = torch.autograd.grad(scale * value, values)
        gradients = keras.tree.pack_sequence_as(trained, [x / scale for x in gradients])
        return keras.tree.map_structure(torch.detach, more), gradients

    return evaluate


# --- Functions without gradients ---------------------------------------------------------------

COMPILES_EACH_SIZE = False


def compile_function(function, jit=True, variables=()):
    @functools.wraps(function)
    def evaluate(*arguments):
        with torch.no_grad():
            return function(*as_tensors(arguments))

    return evaluate


for_any_size = compile_function


def compile_for_shapes(function, shapes, variables=()):
    return compile_function(function)


def compile_update(optimizer, variables, jit=False):
    @torch.no_grad()
    def update(gradients):
        optimizer.apply(gradients, variables)
        return []

    return update


def capture_steps(function):
    first_nvidia_gpu = DEVICE.type == "cuda" and not DEVICE.index and not torch.version.hip
    return captured(function) if first_nvidia_gpu else function


def captured(function):
    """Return a function whose operations are captured and replayed on an NVIDIA GPU, see torch_graphs.GraphFunction."""
    graph_function = torch_graphs.GraphFunction(function)
    return functools.wraps(function)(lambda *arguments: graph_function(*as_tensors(arguments)))


release_graphs = torch_graphs.release_graphs


def compile_training_step(loss, optimizer, trained, jit, variables=()):
    evaluate, update = value_and_gradients(loss, trained), compile_update(optimizer, trained)

    def training_step(*arguments):
        more, gradients = evaluate(*arguments)
        update(gradients)
        return more

    return training_step


# --- Layers ------------------------------------------------------------------------------------


def normalize_instance(x, scale, shift, epsilon):
    scale, shift = as_tensors((scale, shift))
    return rows_first(batch_norm(channels_first(x), None, None, scale, shift, training=True, eps=epsilon))


def normalize(x, scale, shift, mean, variance, epsilon):
    mean, variance, scale, shift = as_tensors((mean, variance, scale, shift))
    return rows_first(batch_norm(channels_first(x), mean, variance, scale, shift, eps=epsilon))


def moments(x):
    variance, mean = torch.var_mean(x.to(torch.float32), dim=(0, 1, 2), correction=0)
    return mean, variance


def enlarge(x):
    return rows_first(interpolate(channels_first(x), scale_factor=2, mode="bilinear", align_corners=False))


def channels_first(x):
    """Return a view N x C x H x W of features N x H x W x C. PyTorch's convolutions are fast for it as it is."""
    return x.permute(0, 3, 1, 2)


def rows_first(x):
    return x.permute(0, 2, 3, 1)


def output_shapes(function, shape):
    return [x.shape for x in compile_function(function)(torch.zeros(shape))]


def resize_dynamically(picture, filled, size, largest):
    sides = [int(side) for side in size]
    return rows_first(interpolate(channels_first(picture), sides, mode="bilinear", antialias=True))
