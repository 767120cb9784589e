"""Films in learned styles and by search: the painters of film/painting.py for style transfer.

Frames are uint8 H x W x 3, pictures float32 H x W x 3 in 0..255. `steady`, from 0 to 1, says how much of the former
picture, moved along, is in the next one where the optical flow is sure.
"""

import numpy as np

from atelier.film import optical_flow
from atelier.style import learned_styles


class LearnedPainter:
    """Paints a film by a stylization network (a learned_styles.Stylizer).

    Each picture is mixed with the former one, moved along. A mean of pictures has less detail than each of them, so the
    detail is strengthened to that of the new one.
    """

    def __init__(self, stylizer, options):
        self.stylizer, self.options, self.state = stylizer, options, {}

    def first(self, frame):
        return self.finish(self.stylizer.stylize(frame.astype("float32"), self.options.stroke_size), frame)

    def next(self, frame, motion):
        new = self.stylizer.stylize(frame.astype("float32"), self.options.stroke_size)
        share = self.options.steady * motion.trust
        mixed = share * motion.move(self.state["picture"]) + (1 - share) * new
        return self.finish(optical_flow.with_detail_of(mixed, new), frame)

    def finish(self, picture, frame):
        """Keep a picture for the next one, and return it with the options that change it afterwards."""
        self.state = {"picture": np.clip(picture, 0, 255)}
        options = self.options
        return learned_styles.apply_final_options(
            picture, frame.astype("float32"), options.keep_colors, options.strength
        )
