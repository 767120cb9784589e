"""The machine: its processor, GPUs, cores and memory, and the best precision on it for each kind of work.

`use_precision` takes the kind of work ("convolutions", "training", ...) and sets Keras's dtype policy. The import of
this module starts Keras and its backend without their messages.
"""

from atelier import backend  # imported first: it starts TensorFlow, PyTorch or JAX

# isort: split
import contextlib
import ctypes
import pathlib

import joblib
import keras
import psutil

from atelier.backend import gpu_capabilities, use_cores  # noqa: F401
from atelier.errors import InputError

# --- Precision ---------------------------------------------------------------------------------

# The hardware on which --precision auto uses bfloat16, for each kind of work. On all other hardware it uses float32.
BFLOAT16 = {
    "convolutions": ("recent GPU", "AMX", "AVX512-BF16"),
    "training": ("recent GPU", "AMX"),  # of recurrent networks; with AVX512-BF16, bfloat16 is 1.2 to 2 times slower
    "training in small batches": ("recent GPU",),  # with AMX, converting numbers takes longer than bfloat16 saves
    "likelihoods": (),  # so that likelihoods are the same on every machine
    "drawing": (),  # so that a seed gives nearly the same picture on every machine
}

LARGE_BATCH = 128  # from this batch size on, bfloat16 with AMX makes the training of a recurrent network faster


def use_precision(precision, work, batch_size=LARGE_BATCH):
    """Set the precision of all networks that are built from now on; return a text such as "PyTorch, 1 GPU, float32".

    `precision` is "auto" or the name of a Keras dtype policy, `work` is a key of BFLOAT16, and `batch_size` matters
    only for training. Raises InputError if the device lacks a precision that is given.
    """
    backend.let_gpu_memory_grow()
    backend.use_exact_products(work in ("likelihoods", "drawing"))
    if work == "training" and batch_size < LARGE_BATCH:
        work = "training in small batches"
    if precision == "auto":
        # On a processor, JAX is slow in bfloat16, and a search became NaN.
        half = device_kind() in BFLOAT16[work] and (backend.NAME != "jax" or has_gpu())
        precision = "mixed_bfloat16" if half else "float32"
    elif precision != "float32":
        check_precision(precision)
    keras.config.set_dtype_policy(precision)
    gpus = len(gpu_capabilities())
    device = f"{gpus} GPU" if gpus else f"CPU, {cpu_count()} cores"
    return f"{backend.TITLE}, {device}, {precision}"


def check_precision(precision):
    """Raise InputError if this device cannot compute in a precision, the name of a Keras dtype policy."""
    dtype = keras.dtype_policies.get(precision).compute_dtype
    try:
        picture, kernel = keras.ops.ones((1, 8, 8, 1), dtype), keras.ops.ones((3, 3, 1, 1), dtype)
        backend.as_array(keras.ops.cast(keras.ops.conv(picture, kernel), "float32"))
    except Exception as error:
        message = f"{backend.TITLE} cannot compute in {dtype} on this device; give --precision float32"
        raise InputError(message) from error


def device_kind():
    """Return the kind of hardware that is used: "recent GPU", "older GPU", "AMX", "AVX512-BF16" or "processor"."""
    capabilities, flags = gpu_capabilities(), processor_flags()
    if capabilities:
        return "recent GPU" if min(capabilities) >= AMPERE else "older GPU"
    return "AMX" if "amx_bf16" in flags else "AVX512-BF16" if "avx512_bf16" in flags else "processor"


AMPERE = (8, 0)  # GPUs of this compute capability or a higher one multiply bfloat16 natively
CPUINFO = pathlib.Path("/proc/cpuinfo")


def processor_flags():
    """Return the processor's flags from /proc/cpuinfo, a set of words; empty if there is no such file."""
    with contextlib.suppress(OSError):
        for line in CPUINFO.read_text().splitlines():
            name, _, flags = line.partition(":")
            if name.strip() == "flags":
                return set(flags.split())
    return set()


def has_gpu():
    return bool(gpu_capabilities())


# --- Cores and memory --------------------------------------------------------------------------


def cpu_count():
    """Return how many cores may be used: as set by `use_cores`, or else all cores of this process and its container."""
    return backend.cores_in_use() or joblib.cpu_count()


def reserve_memory(gigabytes):
    """Make the backend's memory pool grow to this size at once. A pool that grows step by step has gaps.

    This is done without a GPU, and with at most half of the machine's memory: TensorFlow waits ten seconds for memory
    that it cannot get.
    """
    if not has_gpu():
        backend.reserve_memory(min(gigabytes, machine_memory() / 2))


def return_freed_memory():
    """Make glibc return freed memory now. glibc's free blocks may be too small for the arrays of the next photo."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def machine_memory():
    """Return the machine's memory in gigabytes, or its container's limit where that is less."""
    limits = [psutil.virtual_memory().total]
    for path in CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # there is no such file, or it says "max"
            limits.append(int(path.read_text()))
    return min(limits) / 2**30


# The files in which Linux gives a container's memory limit in bytes: control groups, version 2 and version 1.
CONTAINER_LIMITS = (
    pathlib.Path("/sys/fs/cgroup/memory.max"),
    pathlib.Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
