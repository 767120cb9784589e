"""JAX's part of backend.py: devices and memory, gradients, compiled functions.

JAX compiles a function anew for each shape of its arguments. Variables are arguments of the compiled functions.
"""

import functools

import jax
import keras
import numpy as np
from keras import ops

VERSION = jax.__version__

# --- Devices and memory ------------------------------------------------------------------------

core_count = 0


def gpu_capabilities():
    """Return the compute capability of the one GPU that is used, in a list; (0, 0) if it is not known."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return []
    capability = getattr(device, "compute_capability", "0.0")
    return [tuple(int(number) for number in str(capability).split("."))]


def let_gpu_memory_grow():
    """JAX takes most of a GPU's memory at once. Its own variable XLA_PYTHON_CLIENT_PREALLOCATE changes this."""


def use_exact_products(exact):
    jax.config.update("jax_default_matmul_precision", "highest" if exact else None)


def cores_in_use():
    return core_count


def use_cores(count):
    """JAX takes all cores of the process; the number is only remembered."""
    global core_count
    core_count = count


def reserve_memory(gigabytes):
    """JAX's memory on a processor is glibc's, which leaves no gaps."""


as_array = np.asarray

# --- Gradients ---------------------------------------------------------------------------------


def custom_gradient(function):
    """Like keras.ops.custom_gradient, also for functions with several results."""

    @ops.custom_gradient
    def custom(*arguments):
        results, gradient = function(*arguments)
        several = isinstance(results, tuple)
        return results, (lambda gradients: gradient(*gradients)) if several else gradient

    return custom


def with_values(function, variables):
    """Return f(values, *arguments): `function` with these values of Keras's `variables`."""

    def evaluate(values, *arguments):
        with keras.StatelessScope(zip(variables, values)):
            return function(*arguments)

    return evaluate


def values_of(variables):
    return [variable.value for variable in variables]


def value_and_gradient(loss, variables=()):
    """Compile f(picture, targets) as TensorFlow's function of this name does. It is traced for each size."""

    def scaled_loss(picture, values, targets):
        compiled.traces += 1
        terms = with_values(loss, variables)(values, picture, targets)
        # In float16 the gradient of a mean would underflow; the gradient of a sum does not.
        return terms["total"] * picture.size, terms

    @jax.jit
    def evaluate(picture, values, targets):
        (_, terms), gradient = jax.value_and_grad(scaled_loss, has_aux=True)(picture, values, targets)
        return terms, gradient / picture.size

    @functools.wraps(loss)
    def compiled(picture, targets):
        targets = keras.tree.map_structure(lambda x: ops.convert_to_tensor(x, "float32"), targets)
        return evaluate(ops.convert_to_tensor(picture, "float32"), values_of(variables), targets)

    compiled.traces = 0
    return compiled


def value_and_gradients(loss, trained, scale=1, variables=()):
    """Compile f(*arguments) -> (more, gradients), as TensorFlow's function of this name does."""
    flat = keras.tree.flatten(trained)
    others = without(variables, flat)

    @jax.jit
    def evaluate(values, other_values, *arguments):
        def scaled_loss(values):
            value, more = with_values(loss, [*flat, *others])([*values, *other_values], *arguments)
            return scale * value, more

        (_, more), gradients = jax.value_and_grad(scaled_loss, has_aux=True)(values)
        return more, [x / scale for x in gradients]

    def compiled(*arguments):
        more, gradients = evaluate(values_of(flat), values_of(others), *arguments)
        return more, keras.tree.pack_sequence_as(trained, gradients)

    return compiled


def without(variables, others):
    known = {id(variable) for variable in others}
    return [variable for variable in variables if id(variable) not in known]


# --- Compiled functions ------------------------------------------------------------------------

COMPILES_EACH_SIZE = True


def compile_function(function, jit=True, variables=()):
    compiled = jax.jit(with_values(function, variables))
    return functools.wraps(function)(lambda *arguments: compiled(values_of(variables), *arguments))


for_any_size = compile_function


def compile_for_shapes(function, shapes, variables=()):
    return compile_function(function, variables=variables)


def compile_update(optimizer, variables, jit=False):
    @jax.jit
    def evaluate(values, optimizer_values, gradients):
        return optimizer.stateless_apply(optimizer_values, gradients, values)

    def update(gradients):
        values, optimizer_values = evaluate(values_of(variables), values_of(optimizer.variables), gradients)
        assign([*variables, *optimizer.variables], [*values, *optimizer_values])

    return update


def capture_steps(function):
    return function


def release_graphs():
    """JAX's programs keep no memory for results."""


def compile_training_step(loss, optimizer, trained, jit, variables=()):
    """Compile f(*arguments) -> more, as TensorFlow's function of this name does."""
    others = without(variables, trained)
    groups = [trained, others, optimizer.variables]

    @jax.jit
    def evaluate(values, *arguments):
        def scaled_loss(trained_values):
            current = zip([*trained, *others, *optimizer.variables], [*trained_values, *values[1], *values[2]])
            with keras.StatelessScope(current) as scope:
                scaled, more = loss(*arguments)
            return scaled, (more, [scope.get_current_value(variable) for variable in others])

        (_, (more, other_values)), gradients = jax.value_and_grad(scaled_loss, has_aux=True)(values[0])
        trained_values, optimizer_values = optimizer.stateless_apply(values[2], gradients, values[0])
        return more, (trained_values, other_values, optimizer_values)

    def training_step(*arguments):
        more, values = evaluate([values_of(group) for group in groups], *arguments)
        for group, new in zip(groups, values):
            assign(group, new)
        return more

    return training_step


def assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


# --- Layers ------------------------------------------------------------------------------------


def normalize_instance(x, scale, shift, epsilon):
    return normalize(x, scale, shift, *moments(x), epsilon)


def normalize(x, scale, shift, mean, variance, epsilon):
    factor = scale * ops.rsqrt(variance + epsilon)
    return ops.cast(ops.cast(x, "float32") * factor + (shift - mean * factor), x.dtype)


def moments(x):
    return ops.moments(ops.cast(x, "float32"), axes=(0, 1, 2))


def enlarge(x):
    return ops.image.resize(x, (2 * x.shape[1], 2 * x.shape[2]), "bilinear")


def output_shapes(function, shape):
    return [x.shape for x in jax.eval_shape(function, jax.ShapeDtypeStruct(shape, "float32"))]


def resize_dynamically(picture, filled, size, largest):
    """Resize the upper left part of a picture, 1 x H x W x C, antialiased as in TensorFlow's tf.image.resize.

    `filled` is the part's height and width, and `size` those of the result, at most `largest`, two integers. They can
    be tensors. The result is in the upper left of pictures of the size `largest`: JAX knows no size that is a tensor.
    """
    rows, columns = (
        interpolation_weights(*sides) for sides in zip(picture.shape[1:3], filled, size, largest, strict=True)
    )
    return ops.einsum("yh,nhwc,xw->nyxc", rows, picture, columns)


def interpolation_weights(side, filled, wanted, largest):
    """Return the weights by which the first `filled` of `side` pixels become `wanted` pixels: largest x side."""
    scale = wanted / filled
    centers = (ops.arange(largest, dtype="float32") + 0.5) / scale - 0.5
    places = ops.arange(side, dtype="float32")
    weights = ops.relu(1 - ops.abs(centers[:, None] - places) * ops.minimum(scale, 1))
    weights = ops.where(places < filled, weights, 0)
    return weights / ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1e-9)
