"""Dreams on films: the painter of film/painting.py for deepdream.py. The dream moves with what is in the film.

Frames are uint8 H x W x 3, pictures float32 H x W x 3 in 0..255.
"""

import copy
import dataclasses

import numpy as np

from atelier import imaging
from atelier.film import painting


class DreamPainter(painting.Painter):
    """Dreams on each frame, from the former dream on.

    The difference between dream and frame is moved along, and `--steady` of it goes on where the optical flow is sure.
    A few steps add what is lost. So the dream is always about as strong as that of a single photo. `dreamer` is a
    pixel_dreams.PixelDreamer, `options` a config.Dream.
    """

    def __init__(self, dreamer, options):
        self.dreamer, self.options, self.state = dreamer, options, {}
        self.continued = copy.copy(dreamer)  # it shares what is compiled
        steps = max(1, round(options.steps * (1 - options.steady)))
        self.continued.options = dataclasses.replace(options, steps=steps)

    def first(self, frame):
        return self.dream(self.dreamer, frame, np.zeros(frame.shape, "float32"))

    def next(self, frame, motion):
        return self.dream(self.continued, frame, self.options.steady * motion.trust * motion.move(self.state["change"]))

    def dream(self, dreamer, frame, change):
        """Dream on a frame with the change that it begins with; keep the new change for the next frame."""
        number = int(self.state.get("number", 0))
        frame = frame.astype("float32")
        dreamed = dreamer.dream(np.clip(frame + change, 0, 255), np.random.default_rng((self.options.seed, number)))
        self.state = {"change": dreamed - frame, "number": np.array(number + 1)}
        return imaging.to_pixels(dreamed)
