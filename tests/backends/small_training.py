"""Run train_rnn.py or train_style.py, with small pieces of photos, and simulate Ctrl-C after some steps.

python tests/backends/small_training.py STEPS train_style.py WORDS
"""

import contextlib
import importlib
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

from atelier import command_line, trainings
from atelier.style import style_training

style_training.CROP, style_training.EVALUATED_PIECES, style_training.SEARCH_STEPS = 64, 1, 2


class Interrupt:
    """An event that is set after it was looked at `left` times."""

    def __init__(self, left):
        self.left = left

    def is_set(self):
        self.left -= 1
        return self.left < 0


_, steps, script, *words = sys.argv
trainings.deferred_interrupt = lambda: contextlib.nullcontext(Interrupt(int(steps)))
sys.argv = [script, *words]
command_line.run(importlib.import_module(script.removesuffix(".py")).main)
