"""TensorFlow's part of backend.py: devices and memory, gradients, compiled functions.

One compiled function serves all sizes of pictures, and variables keep their identity in compiled functions.
"""

import contextlib
import functools
import sys

import numpy as np
import tensorflow as tf
from keras import ops

VERSION = tf.__version__
tf.get_logger().setLevel("ERROR")  # it warns when one function is compiled for several networks

# --- Devices and memory ------------------------------------------------------------------------


def gpu_capabilities():
    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return [detail.get("compute_capability", (0, 0)) for detail in details]


def let_gpu_memory_grow():
    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # the GPU is in use already
            tf.config.experimental.set_memory_growth(gpu, True)


def use_exact_products(exact):
    tf.config.experimental.enable_tensor_float_32_execution(not exact)


def cores_in_use():
    return tf.config.threading.get_intra_op_parallelism_threads()


def use_cores(count):
    """Use this number of cores. After TensorFlow's first computation this has no effect."""
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(count)


def reserve_memory(gigabytes):
    """Make TensorFlow's memory pool grow to this size at once. A pool that grows step by step has gaps.

    Until TensorFlow uses the pool, the pool takes only 1/32 of this size from the machine. This is done only on Linux.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(tf.errors.ResourceExhaustedError):
            tf.raw_ops.Empty(shape=(int(gigabytes * 2**20), 256), dtype="float32", init=False)


as_array = np.asarray

# --- Gradients ---------------------------------------------------------------------------------

custom_gradient = ops.custom_gradient


def value_and_gradient(loss, variables=()):
    """Compile f(picture, targets) -> (terms, gradient of terms["total"] with respect to the picture).

    `loss(picture, targets)` returns `terms`, a dict of scalars. `picture` is float32 1 x H x W x 3 in 0..255, and so
    is the gradient; `targets` is any structure of arrays. The function is traced once for pictures and features of all
    sizes; the structure of the targets must stay the same. `f.traces` counts the traces.
    """

    def evaluate(picture, targets):
        compiled.traces += 1
        # In float16 the gradient of a mean would underflow; the gradient of a sum does not.
        scale = ops.cast(ops.prod(ops.shape(picture)), "float32")
        with tf.GradientTape() as tape:
            tape.watch(picture)
            terms = loss(picture, targets)
            scaled = terms["total"] * scale
        return terms, tape.gradient(scaled, picture) / scale

    def any_size(x):
        shape = (1, None, None, x.shape[3]) if x.ndim == 4 else x.shape
        return tf.TensorSpec(shape, "float32")

    @functools.wraps(loss)
    def compiled(picture, targets):
        arguments = tf.nest.map_structure(lambda x: tf.convert_to_tensor(x, "float32"), (picture, targets))
        if compiled.function is None:
            signature = tf.nest.map_structure(lambda x: any_size(x), arguments)
            compiled.function = tf.function(evaluate, input_signature=signature, autograph=False)
        return compiled.function(*arguments)

    compiled.function, compiled.traces = None, 0
    return compiled


def value_and_gradients(loss, trained, scale=1, variables=()):
    """Compile f(*arguments) -> (more, gradients). `loss(*arguments)` returns (scalar, more).

    `trained` are Keras variables in lists, and the gradients have the same structure. They are computed from `scale`
    times the scalar, and divided by `scale`: in float16 the gradient of a mean would underflow.
    """

    def evaluate(*arguments):
        values = tf.nest.map_structure(lambda variable: variable.value, trained)
        with tf.GradientTape() as tape:
            value, more = loss(*arguments)
            scaled = scale * value
        gradients = tf.nest.map_structure(tf.convert_to_tensor, tape.gradient(scaled, values))
        return more, tf.nest.map_structure(lambda x: x / scale, gradients)

    return tf.function(evaluate, autograph=False)


# --- Compiled functions ------------------------------------------------------------------------

COMPILES_EACH_SIZE = False


def for_any_size(function, variables=()):
    return compile_for_shapes(function, [((1, None, None, 3), "float32")])


def compile_for_shapes(function, shapes, variables=()):
    signature = [tf.TensorSpec(*shape_and_dtype) for shape_and_dtype in shapes]
    return tf.function(function, input_signature=signature, autograph=False)


def compile_function(function, jit=True, variables=()):
    """Compile a function of tensors, by default with XLA."""
    return tf.function(function, jit_compile=jit, autograph=False)


def compile_update(optimizer, variables, jit=False):
    return compile_function(lambda gradients: optimizer.apply(gradients, variables), jit)


def capture_steps(function):
    return function


def release_graphs():
    """TensorFlow's graphs keep no memory for results."""


def compile_training_step(loss, optimizer, trained, jit, variables=()):
    """Compile f(*arguments) -> more: a step of the optimizer. `loss(*arguments)` returns (scaled loss, more).

    Only the update is compiled with XLA, if `jit`: TensorFlow's own products of large matrices are faster.
    """
    update = compile_update(optimizer, trained, jit)

    def training_step(*arguments):
        with tf.GradientTape() as tape:
            scaled, more = loss(*arguments)
        gradients = tape.gradient(scaled, [v.value for v in trained])
        update(
            [tf.convert_to_tensor(g) for g in gradients]
        )  # the gradient of an embedding is sparse; XLA needs it dense
        return more

    return compile_function(training_step, jit=False)


# --- Layers ------------------------------------------------------------------------------------


def normalize_instance(x, scale, shift, epsilon):
    """Give each channel of features 1 x h x w x C the standard deviation `scale` and the mean `shift`.

    It is computed as the batch normalization of a batch of one. On a CPU, separate operations take three times as long.
    """
    return batch_norm(tf.ensure_shape(x, (1, None, None, None)), scale, shift, epsilon=epsilon)[0]


def normalize(x, scale, shift, mean, variance, epsilon):
    """Do the same with a mean and a variance that are known, float32 C."""
    return batch_norm(x, scale, shift, mean, variance, epsilon=epsilon, is_training=False)[0]


def moments(x):
    """Return the mean and the variance of each channel of features 1 x h x w x C, float32 C."""
    _, mean, variance, *_ = batch_norm(x, tf.ones(x.shape[3]), tf.zeros(x.shape[3]), epsilon=0)
    count = x.shape[1] * x.shape[2]
    return mean, variance * ((count - 1) / count)  # fused_batch_norm divides by count - 1


def enlarge(x):
    """Double the rows and columns of features N x h x w x C by linear interpolation; those at the border are repeated.

    Keras's function does not accept features of unknown size.
    """
    return tf.cast(tf.image.resize(x, 2 * tf.shape(x)[1:3], "bilinear"), x.dtype)


batch_norm = tf.compat.v1.nn.fused_batch_norm


def output_shapes(function, shape):
    compiled = tf.function(function, autograph=False)
    return [x.shape for x in compiled.get_concrete_function(tf.TensorSpec(shape)).structured_outputs]


def resize_dynamically(picture, filled, size, largest):
    return tf.image.resize(picture, tf.cast(size, "int32"), antialias=True)
