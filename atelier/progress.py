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
SHORT = 1 / 20  # the share of a picture's pixels, counted in all steps, after which the time is measured


class Forecast:
    """Prints the time left for one picture as soon as it can be estimated.

    `sizes` lists (number of steps, pixels) of each scale. A step takes a fixed time, and a time for each pixel. Both
    are measured at two scales: at the second, or a later one that begins within the first SHORT of the work and is not
    the last, and at the one before. Call step() after each step.
    """

    def __init__(self, sizes, of_what, quiet):
        self.sizes, self.of_what, self.quiet, self.times = sizes, of_what, quiet, [[] for _ in sizes]
        work = [count * pixels for count, pixels in sizes]
        early = sum(sum(work[:place]) < SHORT * sum(work) for place in range(len(sizes) - 1))
        self.place, self.timed = 0, min(max(2, early), len(sizes)) - 1

    def step(self, pixels):
        count = self.sizes[self.timed][0]
        needed = max(2, min(TIMED_STEPS, count // 2))
        if self.quiet or len(self.times[self.timed]) == needed:
            return
        while pixels != self.sizes[self.place][1]:
            self.place += 1
        self.times[self.place].append(time.perf_counter())
        if len(self.times[self.timed]) == needed:
            print_time_left(self.seconds_left(count - needed), self.of_what)

    def seconds_left(self, steps):
        """Estimate the time of `steps` more at this scale and of all later scales."""
        pixels, seconds = self.sizes[self.timed][1], seconds_per_step(self.times[self.timed])
        slope = seconds / pixels
        if self.timed and len(self.times[self.timed - 1]) > 1:
            former = self.sizes[self.timed - 1][1]
            measured = (seconds - seconds_per_step(self.times[self.timed - 1])) / (pixels - former)
            slope = min(slope, max(measured, slope / 2))  # a busy machine can make the measured one absurd
        later = sum(count * (seconds + slope * (more - pixels)) for count, more in self.sizes[self.timed + 1 :])
        return steps * seconds + later


def seconds_per_step(times):
    """Return the mean time between the last of these `times`. The first steps may include compilation."""
    last = times[-TIMED_STEPS:]
    return (last[-1] - last[0]) / (len(last) - 1)


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
