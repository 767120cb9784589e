"""How long it takes: said once, on standard error, as soon as the first steps of a work tell."""

import datetime
import sys
import time

from tqdm import tqdm

ENOUGH = 10  # steps that tell how long the others take
LONG = 60  # seconds of work, of which a start-up is a small part
STEP_COST = 20_000  # pixels that would take as long as what a step takes at any size


class Forecast:
    """Says how much time is left once the first steps tell, at the second of several sizes: the first is too small.

    `sizes` lists, from the first to the last, how many steps there will be and of how many pixels each; `step` is
    called after each.
    """

    def __init__(self, sizes, of_what, quiet):
        telling = min(1, len(sizes) - 1)
        (self.count, self.pixels), self.later = sizes[telling], sizes[telling + 1 :]
        self.of_what, self.quiet, self.times = of_what, quiet, []
        self.enough = max(2, min(ENOUGH, self.count // 2))

    def step(self, pixels):
        if self.quiet or pixels != self.pixels or len(self.times) == self.enough:
            return
        self.times.append(time.perf_counter())
        if len(self.times) == self.enough:
            each = (self.times[-1] - self.times[0]) / (self.enough - 1)
            later = sum(count * (pixels + STEP_COST) for count, pixels in self.later) / (self.pixels + STEP_COST)
            say_time_left(each * (self.count - self.enough + later), self.of_what)


class FolderForecast:
    """Says once how much time many pictures will take: `done` is called after each, and told how many are left.

    Where several are made `at_once`, as many come in together, and the last so many tell.
    """

    def __init__(self, quiet, at_once=1):
        self.begun, self.first, self.waiting = time.perf_counter(), True, not quiet
        self.at_once, self.count = at_once, 0

    def skip(self):
        """Leave out a picture that failed: it may have taken no time at all."""
        if self.at_once == 1:
            self.begun = time.perf_counter()

    def done(self, left):
        """Say it by the last pictures' time, unless they were the first, and a start-up may be most of that."""
        self.count += 1
        if self.count < self.at_once:
            return
        now = time.perf_counter()
        seconds, first = (now - self.begun) / self.count, self.first
        self.begun, self.first, self.count = now, False, 0
        if self.waiting and left and not (first and seconds < LONG):
            self.waiting = False
            say_time_left(seconds * left, f"for {left} more")


def say_time_left(seconds, of_what):
    """Print how long something still takes and, where one would go away meanwhile, until when."""
    end = datetime.datetime.now() + datetime.timedelta(seconds=seconds)
    clock = f", until {end:{'%H:%M' if seconds < 12 * 3600 else '%A, %H:%M'}}" if seconds >= 60 else ""
    tqdm.write(f"time left: about {spoken(seconds)} {of_what}{clock}", file=sys.stderr)


def spoken(seconds):
    """Put a time into words, about as exactly as it can be known."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 600 else f"{round(minutes / 60)} h"
