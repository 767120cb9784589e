"""What goes wrong: exceptions whose message is a line for the user, and whose status is the script's."""


class InputError(Exception):
    """The command, or a file that it names, is wrong. The message says what, and what to do."""

    status = 2


class PartlyDone(InputError):
    """Some of the work failed, and the rest of it is done."""

    status = 1


class AnotherTraining(InputError):
    """A folder holds a training with other options or data."""


class SameTraining(InputError):
    """A folder holds this very training, or one with fewer epochs, that --resume goes on with, which was not given."""


class Finished(InputError):
    """A folder holds this very training, or one with fewer epochs, finished and without its checkpoint."""


class Interrupted(InputError):
    """Ctrl-C was pressed. The message says how to go on."""

    status = 130


def describe(error):
    """Put an error into one line."""
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":  # TensorFlow's own
        return "not enough memory; try fewer or smaller pictures"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower() + (f": {error.filename}" if error.filename else "")
    return " ".join(str(error).split())
