"""Exceptions with a one-line message for the user, and with the exit status of the script."""


class InputError(Exception):
    """The command, or a file that it names, is wrong. The message says what is wrong and what to do."""

    status = 2


class PartlyDone(InputError):
    """A part of the work failed. The rest is done."""

    status = 1


class LeaseLost(InputError):
    """Another process took over the lock of a training or film, because it saw no heartbeat of this process."""


class Interrupted(InputError):
    """The user pressed Ctrl-C. The message says how to continue."""

    status = 130


def is_out_of_memory(error):
    """Tell whether an error of TensorFlow, PyTorch or JAX says that the memory, also a GPU's, is not enough."""
    named = type(error).__name__ in ("ResourceExhaustedError", "OutOfMemoryError")
    return named or any(text in str(error) for text in OUT_OF_MEMORY)


OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "can't allocate memory", "out of memory", "_STATUS_ALLOC_FAILED")


def describe(error):
    """Return an error's message in one line."""
    if isinstance(error, MemoryError) or is_out_of_memory(error):
        return "not enough memory; try fewer or smaller pictures: lower --size, --tile, --batch-size or --count"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower() + (f": {error.filename}" if error.filename else "")
    return " ".join(str(error).split())
