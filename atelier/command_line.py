"""The command line's manners: flags made of config.py's dataclasses, errors in one line, exit statuses, Ctrl-C.

In go a dataclass and the words of a command, out comes the dataclass with what was given. A script imports this module
first, ends in `run(main)`, and takes what starts TensorFlow by `lazy_import`.
"""

import os
import sys


def end_interrupted(kind, error, traceback):
    """Put Ctrl-C in a line and an exit status also where it comes before a script has reached `run`."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    print("error: interrupted", file=sys.stderr, flush=True)
    os._exit(130)


sys.excepthook = end_interrupted  # before the imports below: they take their time, too


import _thread
import argparse
import collections
import dataclasses
import functools
import importlib.util
import itertools
import math
import pathlib
import re
import signal
import threading
import typing

from atelier import naming
from atelier.errors import InputError, Interrupted, describe
from config import FORMER_WEIGHTS, PathName


class Parser(argparse.ArgumentParser):
    """An argument parser that explains a script with its docstring and puts an error into one line."""

    def __init__(self, description):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=formatter, allow_abbrev=False)
        self.register("type", pathlib.Path, lambda text: pathlib.Path(expanded(text)))
        self._negative_number_matcher = re.compile(r"-[\d.]")  # of what is no flag: -1..1 is a range

    def parse_args(self, args=None, namespace=None):
        """Parse the command line; where a flag or a word has no place in it, ask what was meant."""
        known = self._option_string_actions
        words = [*itertools.takewhile(lambda word: word != "--", sys.argv[1:] if args is None else args)]
        flags = [flag for flag in (word.split("=")[0] for word in words) if re.fullmatch(r"--?[A-Za-z][\w-]*", flag)]
        for flag, times in collections.Counter(flags).items():
            if flag not in known:
                self.error(f"there is no {flag}{naming.meant(flag, list(known))}")
            if times > 1 and "--quiet" not in words:
                print(f"note: {flag} stands {times} times; the last one counts", file=sys.stderr)
        arguments, stray = self.parse_known_args(args, namespace)
        if stray:
            takes = [
                action.option_strings[0] for action in self._actions if action.nargs == "+" and action.type is expanded
            ]
            after = f"; does it belong after {' or '.join(takes)}?" if takes and stray[0][:1] != "-" else ""
            self.error(f"there is no place for {' '.join(stray)}{after}")
        return arguments

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            known = list(action.choices)
            flag = "/".join(action.option_strings)
            self.error(f"{flag} has no {value}{naming.meant(value, known)}; it has {', '.join(known)}")

    def error(self, message):
        fail(f"{message} (--help lists the flags)", 2)


def expanded(path):
    """Return a path with ~ or ~user at its beginning written out: the shell leaves it after = and in quotes."""
    return os.path.expanduser(path)


def require_suffix(path, *suffixes):
    """Raise InputError unless the file to be written ends in one of these: its content will be of that kind."""
    if path is not None and not str(path).lower().endswith(suffixes):
        raise InputError(f"{path} should end in {' or '.join(suffixes)}")


def add_options(parser, options, default_help=True, without=None, variants=None):
    """Add a flag for each field of the dataclass `options` that `without` lacks; one not given leaves no attribute.

    `variants` maps a flag to the options that are the defaults when it is given.
    """
    known = {item.name for item in dataclasses.fields(without)} if without else ()
    for item in dataclasses.fields(options):
        if item.name in known:
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
    """Return what the help text says of a field's default, and of those that other flags bring with them."""
    others = {flag: getattr(options, item.name) for flag, options in variants.items()}
    others = {f"with {flag}": value for flag, value in others.items() if value != item.default}
    silent = item.default is None or item.default is False or item.default == ()
    values = {} if silent else {"default": item.default}
    said = [
        f"{when}: {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
        for when, value in (values | others).items()
        if value != ()
    ]
    return f" ({'; '.join(said)})" if said else ""


def flag_of(name):
    """Return the flag of an option: --class of class_, since Python keeps that word to itself."""
    return "--" + name.rstrip("_").replace("_", "-")


def collect(options, arguments, base=None):
    """Make an `options` dataclass of the flags that were given, over `base` or the defaults. Raises InputError."""
    names = {item.name for item in dataclasses.fields(options)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    if given.get("weights") == FORMER_WEIGHTS:
        raise InputError(f"--weights {FORMER_WEIGHTS} is gone; leave it out: pictures now come from ImageNet's own")
    made = dataclasses.replace(base or options(), **given)
    for item in dataclasses.fields(made):
        value, allowed = getattr(made, item.name), item.metadata["range"]
        for number in value if isinstance(value, tuple) else (value,):
            if allowed and number is not None and number not in allowed:
                finite = "" if abs(number) < math.inf else "a finite number, "
                raise InputError(f"{flag_of(item.name)} must be {finite}{allowed}")
    return made


def check_sharing(options, shared, what):
    """Raise InputError where --workers or --scheduler is given, and there are not several things to be done."""
    if options.workers is not None and options.scheduler is not None:
        raise InputError("--workers are processes here, and --scheduler has workers of its own: not both")
    if not shared and (options.workers, options.scheduler) != (None, None):
        raise InputError(f"--workers and --scheduler share out {what}")


def was_given(arguments, name):
    """Say whether a flag was given: 0 is a value, and an absent or false one is none."""
    value = getattr(arguments, name, None)
    return value is not None and value is not False


def lazy_import(name):
    """Import a module when it is first used: TensorFlow takes seconds, and a wrong flag should not wait for it."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None:
        fail(NOT_INSTALLED.format(name), 2)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


NOT_INSTALLED = "the package {} is not installed; pip install -r requirements.txt"


def run(main):
    """Run a script's `main` and exit: 0 done, 1 partly done, 2 the command was wrong, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be in no encoding at all
    pressed = []

    def heed(*_):
        pressed.append("Ctrl-C")
        raise KeyboardInterrupt

    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, heed)
        sys.unraisablehook = press_again
        status, message = outcome(main, pressed)
        # From here on all is done or told: Ctrl-C while Python ends would only hide that.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        status, message = 130, "interrupted"
    if message is not None:
        fail(message, status)
    sys.exit(status)


def press_again(dropped):
    """Press Ctrl-C once more where it came while Python cleared something away, which drops every error."""
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        press = _thread.interrupt_main
        if hasattr(signal, "pthread_kill"):  # it also wakes what sleeps or waits; Windows lacks it
            press = functools.partial(signal.pthread_kill, threading.main_thread().ident, signal.SIGINT)
        threading.Timer(0.05, press).start()
    else:
        sys.__unraisablehook__(dropped)


def outcome(main, pressed):
    """Run `main`; return the exit status, and the line that says what went wrong, or None.

    Raises KeyboardInterrupt where Ctrl-C was `pressed`, also where C++ or an import has made another error of it.
    """
    try:
        main()
        return 0, None
    except SystemExit as end:
        return end.code, None
    except (InputError, OSError, MemoryError) as error:
        if "--debug" in sys.argv:
            raise
        if pressed and not isinstance(error, Interrupted):
            error = Interrupted(f"interrupted; {describe(error)}")
        return getattr(error, "status", 2), describe(error)
    except ModuleNotFoundError as error:
        return 2, NOT_INSTALLED.format(error.name)
    except Exception as error:
        if pressed:
            raise KeyboardInterrupt from error
        if "--debug" in sys.argv:
            raise
        return 2, f"{type(error).__name__}: {describe(error)[:300]} (--debug shows where)"


def fail(message, status):
    """Print an error in a line and exit."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)
