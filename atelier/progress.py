"""Print once, on standard error, how much time is left for a picture or a folder.

tqdm estimates the time, too. But it does so only where it draws a bar. Its estimate also includes the first steps,
which are slow because TensorFlow compiles functions in them.
"""

import datetime
import sys
import time

from tqdm import tqdm

TIMED_STEPS = 10  # steps of a picture that are timed to estimate the others
LONG_SECONDS = 60  # a first picture that takes longer is timed, too: loading is a small part of its time
STEP_COST = 20_000  # the fixed time of a step, as the number of pixels that take the same time


class Forecast:
    """Prints the time left for one picture as soon as it can be estimated.

    `sizes` lists (number of steps, pixels) of each scale. Steps of the second scale are timed, because the first scale
    is too small to be typical. Call step() after each step.
    """

    def __init__(self, sizes, of_what, quiet):
        timed = min(1, len(sizes) - 1)
        (self.count, self.pixels), self.later = sizes[timed], sizes[timed + 1 :]
        self.of_what, self.quiet, self.times = of_what, quiet, []
        self.needed = max(2, min(TIMED_STEPS, self.count // 2))

    def step(self, pixels):
        if self.quiet or pixels != self.pixels or len(self.times) == self.needed:
            return
        self.times.append(time.perf_counter())
        if len(self.times) == self.needed:
            seconds = (self.times[-1] - self.times[0]) / (self.needed - 1)
            later = sum(count * (pixels + STEP_COST) for count, pixels in self.later) / (self.pixels + STEP_COST)
            print_time_left(seconds * (self.count - self.needed + later), self.of_what)


class FolderForecast:
    """Prints the time left for a folder of pictures as soon as it can be estimated.

    `at_once` is the number of pictures that are made at the same time. This number of pictures is timed together.
    """

    def __init__(self, quiet, at_once=1):
        self.begun, self.is_first, self.must_print = time.perf_counter(), True, not quiet
        self.at_once, self.count = at_once, 0

    def skip(self):
        """Leave out a picture that failed, since it may have taken no time."""
        if self.at_once == 1:
            self.begun = time.perf_counter()

    def done(self, left):
        """Count a finished picture; `left` is the number of remaining pictures.

        The time of the first pictures includes loading. It is used only if it is long.
        """
        self.count += 1
        if self.count < self.at_once:
            return
        now = time.perf_counter()
        seconds, is_first = (now - self.begun) / self.count, self.is_first
        self.begun, self.is_first, self.count = now, False, 0
        if self.must_print and left and not (is_first and seconds < LONG_SECONDS):
            self.must_print = False
            print_time_left(seconds * left, f"for {left} more")


def print_time_left(seconds, of_what):
    """Print how long something will take and, if it takes a minute or more, when it will end."""
    end = datetime.datetime.now() + datetime.timedelta(seconds=seconds)
    clock = f", until {end:{'%H:%M' if seconds < 12 * 3600 else '%A, %H:%M'}}" if seconds >= 60 else ""
    tqdm.write(f"time left: about {rounded(seconds)} {of_what}{clock}", file=sys.stderr)


def rounded(seconds):
    """Return a duration as text, rounded to about two digits, since it is an estimate."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 600 else f"{round(minutes / 60)} h"
