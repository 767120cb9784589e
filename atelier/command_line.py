"""The command line of all scripts: flags made from config.py's dataclasses, one-line errors, exit statuses, Ctrl-C.

A script imports this module first, so that Ctrl-C during its other imports is reported in one line. It loads slow
modules, such as those that start TensorFlow, with `lazy_import`, and it ends with `run(main)`.
"""

import os
import sys


def not_installed(package):
    """Return the message about a package that is missing, or about .venv that is not activated."""
    venv = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), ".venv")
    if sys.prefix == sys.base_prefix and os.path.isdir(venv):
        return f"the package {package} is not installed in {sys.executable}; first: source {venv}/bin/activate"
    return f"the package {package} is not installed; pip install -r requirements.txt"


def report_import_error(kind, error, traceback):
    """Report Ctrl-C or a missing package in one line, and exit. Python calls this hook before a script calls `run`."""
    if issubclass(kind, KeyboardInterrupt):
        message, status = "interrupted", 130
    elif issubclass(kind, ModuleNotFoundError):
        message, status = not_installed(error.name), 2
    else:
        sys.__excepthook__(kind, error, traceback)
        return
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(status)


program, module = map(os.path.realpath, (sys.argv[0], __file__))
if os.path.dirname(program) == os.path.dirname(os.path.dirname(module)):  # other programs and notebooks keep their hook
    sys.excepthook = report_import_error  # before the imports below, which take time


import _thread
import argparse
import collections
import dataclasses
import functools
import itertools
import math
import pathlib
import re
import shlex
import shutil
import signal
import threading
import typing

import lazy_loader

from atelier import naming
from atelier.errors import InputError, Interrupted, describe
from config import FORMER_WEIGHTS, PathName

AGAIN = "--again"


class Parser(argparse.ArgumentParser):
    """An argument parser whose help is a script's docstring, and whose errors are one line each.

    With --again, a flag of the present command replaces the recorded flags in `conflicts`, a dict of lists of flags.
    """

    def __init__(self, description, conflicts=None):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=formatter, allow_abbrev=False)
        self.conflicts = conflicts or {}
        self.register("type", pathlib.Path, lambda text: pathlib.Path(expanded(text)))
        self._negative_number_matcher = re.compile(r"-[\d.]")  # words that begin like this are values, e.g. -1..1
        help = "repeat the command that made this picture; the other words of this command replace those of that one"
        self.add_argument(AGAIN, metavar="FILE", default=argparse.SUPPRESS, help=help)

    def parse_args(self, args=None, namespace=None):
        """Parse the command line. An unknown flag or an extra word is an error, whose message suggests a correction."""
        known = self._option_string_actions
        recorded = self._replace_command() if args is None else None
        words = [*itertools.takewhile(lambda word: word != "--", sys.argv[1:] if args is None else args)]
        flags = [flag for flag in (word.split("=")[0] for word in words) if re.fullmatch(r"--?[A-Za-z][\w-]*", flag)]
        for flag, times in collections.Counter(flags).items():
            if flag not in known:
                self.error(f"there is no {flag}{naming.suggestion(flag, list(known))}")
            if times > 1 and "--quiet" not in words:
                print(f"note: {flag} is given {times} times; the last one is used", file=sys.stderr)
        for word in words:
            flag, sign, value = word.partition("=") if word.startswith("-") else ("a word", "=", word)
            if sign and not value:
                self.error(f"{flag} of this command is empty; a variable of the shell may have no value")
            if re.match("(https?|ftp)://", value):
                self.error(f"{value} is a web address; download it first, and give the file's name")
        arguments, stray = self.parse_known_args(args, namespace)
        if stray:
            if stray[0].startswith("-") and pathlib.Path(stray[0]).exists():
                self.error(f"{stray[0]} looks like a flag; write ./{stray[0]} for the file")
            places = [] if stray[0].startswith("-") else self._places_of_pictures()
            question = f"; does it belong {' or '.join(places)}?" if places else ""
            self.error(f"there is no place for {' '.join(stray)}{question}")
        if recorded:
            arguments.recorded = recorded
        return arguments

    def _replace_command(self):
        """With --again, replace sys.argv by the command to be repeated; return what its picture records, or None.

        So all that follows, and the texts in the new picture, are those of a command without --again.
        """
        values = {flag: action.nargs for flag, action in self._option_string_actions.items()}
        if AGAIN not in (word.partition("=")[0] for word in sys.argv[1:]):
            return None
        inputs, flags = again.split_words(sys.argv[1:], values)
        picture = "".join(flags.pop(AGAIN, ())) or self.error(f"{AGAIN} needs a picture")
        recorded = again.read_record(expanded(picture))
        again.refuse_several(picture, inputs)
        if recorded.script != pathlib.Path(sys.argv[0]).name:
            command = command_of(recorded.script, AGAIN, picture, *again.join_words(inputs, flags))
            raise InputError(f"{picture} was made by another script; repeat it with {command}")
        sys.argv[1:], left_out = again.repeated_words(recorded, inputs, flags, values, self.conflicts)
        if "--quiet" not in sys.argv:
            if left_out:
                print(f"note: left out of the command: {shlex.join(left_out)}", file=sys.stderr)
            print(f"note: the command is {typed_command()}", file=sys.stderr)
        return recorded

    def _places_of_pictures(self):
        """List where the command line can have pictures, in words."""
        takers = [action for action in self._actions if action.metavar in ("PICTURE", "PAINTING", "PHOTO")]
        first = [f"beside the first {action.metavar.lower()}" for action in takers if not action.option_strings]
        return first + [f"after {action.option_strings[0]}" for action in takers if action.option_strings]

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            known = list(action.choices)
            flag = "/".join(action.option_strings)
            self.error(f"{flag} has no {value}{naming.suggestion(value, known)}; it has {', '.join(known)}")

    def _get_value(self, action, word):
        try:
            return super()._get_value(action, word)
        except argparse.ArgumentError:
            refuse_swallowed(action, word)
            raise argparse.ArgumentError(None, no_number(action, word)) from None

    def error(self, message):
        if missing := re.fullmatch(r"argument (--[\w-]+)\S*: expected .*", message):
            value = self._option_string_actions[missing[1]].metavar or missing[1].strip("-").upper()
            message = f"{missing[1]} needs {value if isinstance(value, str) else ' and '.join(value)} after it"
        message = message.replace("the following arguments are required:", "this is missing:")
        fail(f"{message} (--help lists the flags)", 2)


def no_number(action, word):
    """Return the message for a word that the flag of an argparse action takes for a number."""
    flag, what = action.option_strings[0], "a whole number" if action.type is int else "a number"
    message = f"{flag} takes {what}, and {word} is none"
    if action.type is float and re.fullmatch(r"-?\d*,\d+", word):
        return f"{message}; write {word.replace(',', '.')}"
    if action.type is float and re.fullmatch(r"\d+%", word):
        return f"{message}; write {int(word[:-1]) / 100:g}"
    if action.type is int and (sides := re.fullmatch(r"(\d+)(?:px|[x×](\d+))", word)):
        return f"{message}; write {max(map(int, filter(None, sides.groups())))}"
    return message


def refuse_swallowed(action, word):
    """Exit with a message if a photo or a layer stands behind a flag that takes several numbers."""
    flag, is_input = action.option_strings[0], pathlib.Path(word).exists() or word in naming.layer_names("vgg19")
    if action.nargs == "+" and is_input and (flag, word) not in itertools.pairwise(sys.argv):
        fail(f"{no_number(action, word)}; give it before {flag}: {command_with_first(word, without=[word])}", 2)


def expanded(path):
    """Replace a leading ~ or ~user in a path, since the shell does not replace it after = or in quotes."""
    return os.path.expanduser(path)


def command_of(script, *arguments):
    """Return the shell command that runs another script of the toolkit from the current folder."""
    python = "python" if shutil.which("python") == sys.executable else sys.executable
    return shlex.join([python, str(pathlib.Path(sys.argv[0]).with_name(script)), *map(str, arguments)])


def typed_command():
    """Return this process's command as a line of text, as pictures record it."""
    line = shlex.join(["python", *sys.argv])
    return line.encode(errors="backslashreplace").decode()  # a file name may have bytes that are not text


def command_with_first(*words, without=()):
    """Return this process's command with `words` before its other words, and without those in `without`."""
    left_out = {str(word) for word in without}
    others = [word for word in sys.argv[1:] if expanded(word) not in left_out]
    return command_of(pathlib.Path(sys.argv[0]).name, *words, *others)


def require_suffix(path, *suffixes):
    """Raise InputError if the name of an output file ends in none of these suffixes. `path` may be None."""
    if path is not None and pathlib.Path(path).suffix.lower() not in suffixes:
        if pathlib.Path(path).is_dir():
            raise InputError(f"{path} is a folder; give the name of a file in it, which ends in {suffixes[0]}")
        if pathlib.Path(path).name.lower() in suffixes:
            raise InputError(f"{path} has no name before {pathlib.Path(path).name}")
        raise InputError(f"{path} should end in {' or '.join(suffixes)}")


def add_options(parser, options, default_help=True, without=None, variants=None):
    """Add a flag for each field of the dataclass `options`, except for fields that the dataclass `without` also has.

    The parsed arguments have no attribute for a flag that was not given. Some flags change the defaults of other flags:
    `variants` maps such a flag to an options dataclass with the changed defaults. The help text lists these defaults.
    """
    excluded = {item.name for item in dataclasses.fields(without)} if without else ()
    for item in dataclasses.fields(options):
        if item.name in excluded:
            continue
        several = typing.get_origin(item.type) is tuple
        kinds = [k for k in typing.get_args(item.type) or (item.type,) if k not in (type(None), Ellipsis)]
        text = item.metadata["help"].replace("%", "%%")
        if default_help:
            text += described_defaults(item, variants or {})
        flag = flag_of(item.name)
        settings = {"default": argparse.SUPPRESS, "help": text, "dest": item.name}
        if kinds == [bool]:
            parser.add_argument(flag, action="store_true", **settings)
        else:
            settings |= {"choices": item.metadata["choices"], "metavar": item.metadata["metavar"]}
            kind = expanded if kinds[0] is PathName else kinds[0]
            parser.add_argument(flag, type=kind, nargs="+" if several else None, **settings)


def described_defaults(item, variants):
    """Return the part of the help text with a field's default, and with its defaults when other flags are given."""
    others = {flag: getattr(options, item.name) for flag, options in variants.items()}
    others = {f"with {flag}": value for flag, value in others.items() if value != item.default}
    hidden = item.default is None or item.default is False or item.default == ()
    values = {} if hidden else {"default": item.default}
    parts = [
        f"{when}: {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
        for when, value in (values | others).items()
        if value != ()
    ]
    return f" ({'; '.join(parts)})" if parts else ""


def flag_of(name):
    """Return the flag of an option. The option class_ has the flag --class, since `class` is a Python keyword."""
    return "--" + name.rstrip("_").replace("_", "-")


def collect(options, arguments, base=None):
    """Return an `options` dataclass with the values of the given flags. Other values come from `base` or the defaults.

    Raises InputError for a value outside its range.
    """
    names = {item.name for item in dataclasses.fields(options)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    if given.get("weights") == FORMER_WEIGHTS:
        raise InputError(f"--weights {FORMER_WEIGHTS} is gone; leave it out to use ImageNet's own weights")
    collected = dataclasses.replace(base or options(), **given)
    note_differences(arguments, collected, given)
    for item in dataclasses.fields(collected):
        value, allowed = getattr(collected, item.name), item.metadata["range"]
        for number in value if isinstance(value, tuple) else (value,):
            if allowed and number is not None and number not in allowed:
                finite = "" if abs(number) < math.inf else "a finite number, "
                raise InputError(f"{flag_of(item.name)} must be {finite}{allowed}")
    return collected


def note_differences(arguments, options, given):
    """With --again, print a note about what differs from when the picture was made."""
    recorded = getattr(arguments, "recorded", None)
    if recorded and not getattr(options, "quiet", True) and (different := again.differences(recorded, options, given)):
        print(f"note: since {recorded.picture} was made, this has changed: {'; '.join(different)}", file=sys.stderr)


PICTURES = (".png", ".jpg", ".jpeg")


def print_samples(inputs, folder, options, paint_samples):
    """Make pictures of some frames of a film, see --frames-every, and print their paths. Raises InputError.

    `folder` is for them unless --output is given. `paint_samples(film, folder, options)` yields their paths.
    """
    if len(inputs) != 1 or not naming.is_film(inputs[0]):
        raise InputError("--frames-every shows frames of one film; give one film, and no photo or folder")
    output = pathlib.Path(options.output or folder)
    if output.suffix.lower() in (*naming.FILM_KINDS, *PICTURES) or output.is_file():
        raise InputError(f"{output} is a name for one file, and --frames-every makes a folder; give a folder's name")
    check_sharing(options, False, "a folder of photos")
    for path in paint_samples(inputs[0], output, options):
        print(f"picture: {path}", flush=True)


def check_sharing(options, shared, what):
    """Check --workers and --scheduler. Raises InputError if both are given, or if one is and `shared` is false.

    `shared` says whether this command's work can be shared. `what` names such work, for the message.
    """
    if options.workers is not None and options.scheduler is not None:
        raise InputError("--workers and --scheduler are two ways to share work: give one of them, not both")
    if not shared and (options.workers, options.scheduler) != (None, None):
        raise InputError(f"--workers and --scheduler can only share out {what}")


def was_given(arguments, name):
    """Return whether a flag was given. A value of 0 counts as given."""
    value = getattr(arguments, name, None)
    return value is not None and value is not False


def lazy_import(name):
    """Return a module that is imported at its first use, so that --help does not wait seconds for TensorFlow."""
    try:
        return lazy_loader.load(name, error_on_import=True, suppress_warning=True)
    except ModuleNotFoundError:
        return fail(not_installed(name.partition(".")[0]), 2)


again = lazy_import("atelier.again")  # it reads pictures


def run(main):
    """Run a script's `main` and exit with 0 (done), 1 (partly done), 2 (the command is wrong) or 130 (interrupted)."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name may have bytes that are not text
    interrupts = []

    def interrupt(_, frame):
        interrupts.append("Ctrl-C")
        if is_importing(frame):  # Python's compiler ignores some interrupts
            interrupt_again()
        raise KeyboardInterrupt

    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, interrupt)
        sys.unraisablehook = repeat_interrupt
        status, message = outcome(main, interrupts)
        # The exit status is known now. Ctrl-C while Python exits must not change it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        status, message = 130, "interrupted"
    if message is not None:
        fail(message, status)
    sys.exit(status)


def repeat_interrupt(unraisable):
    """Send SIGINT again if Python ignored a KeyboardInterrupt. Python ignores all errors that a destructor raises."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        interrupt_again()
    else:
        sys.__unraisablehook__(unraisable)


def interrupt_again():
    """Send SIGINT to the main thread in a moment."""
    send = _thread.interrupt_main
    if hasattr(signal, "pthread_kill"):  # this also interrupts a sleep or a wait; Windows does not have it
        send = functools.partial(signal.pthread_kill, threading.main_thread().ident, signal.SIGINT)
    threading.Timer(0.05, send).start()


def is_importing(frame):
    """Tell whether a module is being imported in a frame or in one of its callers."""
    while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def outcome(main, interrupts):
    """Run `main`; return the exit status, and the one-line error message or None.

    After Ctrl-C, `interrupts` is not empty, and an unexpected error is raised as KeyboardInterrupt: C++ code or an
    import may have replaced the KeyboardInterrupt by this error.
    """
    try:
        main()
        return 0, None
    except SystemExit as end:
        return end.code, None
    except (InputError, OSError, MemoryError) as error:
        if "--debug" in sys.argv:
            raise
        if interrupts and not isinstance(error, Interrupted):
            error = Interrupted(f"interrupted; {describe(error)}")
        return getattr(error, "status", 2), describe(error)
    except ModuleNotFoundError as error:
        return 2, not_installed(error.name)
    except Exception as error:
        if interrupts:
            raise KeyboardInterrupt from error
        if "--debug" in sys.argv:
            raise
        return 2, f"{type(error).__name__}: {describe(error)[:300]} (--debug shows the traceback)"


def fail(message, status):
    """Print an error message and exit."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)
