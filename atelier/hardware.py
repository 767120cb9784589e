"""The machine: its processor, GPUs and memory, and the arithmetic that suits each kind of work on it.

In goes what work is to be done ("convolutions", "training", ...), out come Keras's dtype policy and a line for people
to read. Importing this module starts TensorFlow, quietly.
"""

import contextlib
import ctypes
import math
import os
import pathlib
import sys

from atelier.disk import silenced_stderr


def keep_freed_memory():
    """Have glibc keep freed memory instead of returning it to the system after each training step.

    A step's intermediate values are as large as the last step's; to map and clear them anew took a third
    of the time. Other C libraries are left as they are.
    """
    m_mmap_max, m_arena_max, m_trim_threshold = -4, -8, -1
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(m_mmap_max, 0)
        mallopt(m_arena_max, 1)
        mallopt(m_trim_threshold, 2**31 - 1)


def return_freed_memory():
    """Have glibc return freed memory after all: in its gaps, what another photo needs would find no room."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


keep_freed_memory()
os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the user has Keras take elsewhere: no other is tried
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with silenced_stderr():  # TensorFlow greets before it can be told not to
    import keras
    import tensorflow as tf
tf.get_logger().setLevel("ERROR")  # it warns where one function is compiled for several networks

# --- Precision ---------------------------------------------------------------------------------

# Where --precision auto takes bfloat16, by the kind of work; everywhere else it takes float32.
BFLOAT16 = {
    "convolutions": ("recent GPU", "AMX", "AVX512-BF16"),
    "training": ("recent GPU", "AMX"),  # of recurrent networks: AVX512-BF16 makes it 1.2 to 2 times slower
    "training in small batches": ("recent GPU",),  # whose conversions cost AMX more than its products save
    "likelihoods": (),  # so that a figure is the same on every machine
    "drawing": (),  # so that a seed's picture is, nearly
}

LARGE_BATCH = 128  # from which on AMX repays a recurrent network's conversions


def use_precision(precision, work, batch_size=LARGE_BATCH):
    """Set the arithmetic of all networks built from now on; return "device, precision" for people to read.

    `precision` is auto or a dtype policy of Keras, which is obeyed; `work` is a key of BFLOAT16, and `batch_size` that
    of a training.
    """
    let_gpu_memory_grow()
    if work == "training" and batch_size < LARGE_BATCH:
        work = "training in small batches"
    if precision == "auto":
        precision = "mixed_bfloat16" if hardware() in BFLOAT16[work] else "float32"
    keras.config.set_dtype_policy(precision)
    gpus = len(gpu_capabilities())
    return f"{f'{gpus} GPU' if gpus else f'CPU, {cpu_count()} cores'}, {precision}"


def hardware():
    """Say what the work is done by: "recent GPU", "older GPU", "AMX", "AVX512-BF16" or "processor"."""
    capabilities, flags = gpu_capabilities(), processor_flags()
    if capabilities:
        return "recent GPU" if min(capabilities) >= AMPERE else "older GPU"
    return "AMX" if "amx_bf16" in flags else "AVX512-BF16" if "avx512_bf16" in flags else "processor"


AMPERE = (8, 0)  # the compute capability from which on GPUs multiply bfloat16 natively
CPUINFO = pathlib.Path("/proc/cpuinfo")


def processor_flags():
    """Return what /proc/cpuinfo calls the processor's flags, a set of words; empty where there is no such file."""
    with contextlib.suppress(OSError):
        for line in CPUINFO.read_text().splitlines():
            name, _, flags = line.partition(":")
            if name.strip() == "flags":
                return set(flags.split())
    return set()


def gpu_capabilities():
    """List the compute capability of each GPU that is visible, (8, 0) for one; (0, 0) where it has none."""
    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return [detail.get("compute_capability", (0, 0)) for detail in details]


def has_gpu():
    return bool(gpu_capabilities())


def let_gpu_memory_grow():
    """Have TensorFlow take a GPU's memory as it needs it, where it would take all of it at once."""
    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # it is in use already
            tf.config.experimental.set_memory_growth(gpu, True)


# --- Cores and memory --------------------------------------------------------------------------


def cpu_count():
    """Return how many cores TensorFlow may use."""
    granted = tf.config.threading.get_intra_op_parallelism_threads()
    return granted or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())


def use_cores(count):
    """Have TensorFlow use so many cores, where it has not begun yet: then it keeps those that it has."""
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(count)


def reserve_memory(gigabytes):
    """Have TensorFlow's pool of memory grow to this size at once, where it would grow by pieces with gaps in each.

    Until it is used, that takes a thirty-second of it. It is done on Linux, and never with more than half of the
    machine's memory: what can't be had makes TensorFlow wait for ten seconds.
    """
    if sys.platform.startswith("linux") and not has_gpu():
        gigabytes = min(gigabytes, machine_memory() / 2)
        with contextlib.suppress(tf.errors.ResourceExhaustedError):
            tf.raw_ops.Empty(shape=(int(gigabytes * 2**20), 256), dtype="float32", init=False)


def machine_memory():
    """Return the memory of the machine in gigabytes; of one that does not tell, infinity."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, OSError, ValueError):
        return math.inf
