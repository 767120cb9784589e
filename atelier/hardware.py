"""The machine: its processor, GPUs, cores and memory, and the best precision on it for each kind of work.

`use_precision` takes the kind of work ("convolutions", "training", ...) and sets Keras's dtype policy. The import of
this module starts TensorFlow without its messages.
"""

import contextlib
import ctypes
import os
import pathlib
import sys

from atelier.disk import silenced_stderr


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


def return_freed_memory():
    """Make glibc return freed memory now. glibc's free blocks may be too small for the arrays of the next photo."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


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


keep_freed_memory()
os.environ["KERAS_BACKEND"] = "tensorflow"  # the only tested backend; this overrides the user's Keras settings
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow writes messages before its log level can be set. Keras takes a second to import these two modules, for
# wrappers and plots that this toolkit does not use.
with silenced_stderr(), hidden_modules("sklearn", "matplotlib.pyplot"):
    import keras
    import tensorflow as tf
tf.get_logger().setLevel("ERROR")  # it warns when one function is compiled for several networks

import joblib
import psutil

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
    """Set the precision of all networks that are built from now on; return a text such as "CPU, 2 cores, float32".

    `precision` is "auto" or the name of a Keras dtype policy, `work` is a key of BFLOAT16, and `batch_size` matters
    only for training.
    """
    let_gpu_memory_grow()
    if work == "training" and batch_size < LARGE_BATCH:
        work = "training in small batches"
    if precision == "auto":
        precision = "mixed_bfloat16" if device_kind() in BFLOAT16[work] else "float32"
    keras.config.set_dtype_policy(precision)
    gpus = len(gpu_capabilities())
    return f"{f'{gpus} GPU' if gpus else f'CPU, {cpu_count()} cores'}, {precision}"


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


def gpu_capabilities():
    """Return the compute capability of each visible GPU, for example [(8, 0)]; (0, 0) if it is unknown."""
    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return [detail.get("compute_capability", (0, 0)) for detail in details]


def has_gpu():
    return bool(gpu_capabilities())


def let_gpu_memory_grow():
    """Make TensorFlow allocate a GPU's memory when it needs it, instead of all of it at the start."""
    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # the GPU is in use already
            tf.config.experimental.set_memory_growth(gpu, True)


# --- Cores and memory --------------------------------------------------------------------------


def cpu_count():
    """Return how many cores may be used: as set by `use_cores`, or else all cores of this process and its container."""
    return tf.config.threading.get_intra_op_parallelism_threads() or joblib.cpu_count()


def use_cores(count):
    """Make TensorFlow use this number of cores. After TensorFlow's first computation this has no effect."""
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(count)


def reserve_memory(gigabytes):
    """Make TensorFlow's memory pool grow to this size at once. A pool that grows step by step has gaps.

    Until TensorFlow uses the pool, the pool takes only 1/32 of this size from the machine. This is done only on Linux
    without a GPU, and with at most half of the machine's memory: TensorFlow waits ten seconds for memory that it cannot
    get.
    """
    if sys.platform.startswith("linux") and not has_gpu():
        gigabytes = min(gigabytes, machine_memory() / 2)
        with contextlib.suppress(tf.errors.ResourceExhaustedError):
            tf.raw_ops.Empty(shape=(int(gigabytes * 2**20), 256), dtype="float32", init=False)


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
