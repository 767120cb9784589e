"""Films in learned styles and by search: the painters of film/painting.py for style transfer.

Frames are uint8 H x W x 3, pictures float32 H x W x 3 in 0..255. `steady`, from 0 to 1, says how much of the former
picture, moved along, is in the next one where the optical flow is sure.
"""

from atelier import backend  # noqa: F401, Keras starts quietly

# isort: split
import collections
import dataclasses
import functools
from concurrent import futures

import numpy as np
from keras import ops

from atelier import colors, imaging
from atelier.film import optical_flow, painting
from atelier.style import learned_styles, optimization, stylization_network

AT_ONCE = 2  # frames that the network paints at once: while one has work for a single core, the other uses the rest
BEGUN = 3  # frames that are begun before a picture is mixed
MOST_PIXELS = 2**18  # of such frames; larger ones are painted one by one, since two of them would take much memory


class LearnedPainter(painting.Painter):
    """Paints a film by a stylization network (a learned_styles.Stylizer).

    Each picture is mixed with the former one, moved along and limited to the new one's colours around each place.
    Without the limit, strokes would fade slowly where the new picture has none. A mean of pictures has less detail than
    each of them, so the detail of the result is made as strong as that of the new ones. The mixture itself is kept
    without that: otherwise errors of the flow would grow to wrinkles. The network's noise moves with the picture, too.
    """

    def __init__(self, stylizer, options):
        self.stylizer, self.options, self.state = stylizer, options, {}

    def paint(self, frames):
        """Yield what Painter.paint() does. The network paints the next frames while a picture is mixed.

        `state` does not hold the places of frames that are only begun.
        """
        places, waiting = self.state.get("places"), collections.deque()
        with futures.ThreadPoolExecutor(AT_ONCE) as pool:
            for frame, motion in frames:
                height, width = frame.shape[:2]
                while len(waiting) >= (BEGUN if height * width <= MOST_PIXELS else 1):
                    yield self.painted(*waiting.popleft())
                places = motion.move_places(places) if motion else optical_flow.own_places(height, width)
                waiting.append((frame, motion, places, pool.submit(self.stylize, frame, places)))
            while waiting:
                yield self.painted(*waiting.popleft())

    def painted(self, frame, motion, places, new):
        return frame, motion, self.mix(frame, motion, new.result(), places)

    def first(self, frame):
        places = optical_flow.own_places(*frame.shape[:2])
        return self.mix(frame, None, self.stylize(frame, places), places)

    def mix(self, frame, motion, new, places):
        """Return the frame's picture: the network's, `new`, mixed with the former one unless a scene begins."""
        mixed, detail = new, optical_flow.detail_of(new)[1]
        if motion is not None:
            share = self.options.steady * motion.trust
            moved = optical_flow.limit(motion.move(self.state["picture"]), new)
            mixed = share * moved + (1 - share) * new
            detail = share * motion.move(self.state["detail"]) + (1 - share) * detail
        return self.finish(frame, mixed, detail, places)

    def stylize(self, frame, places):
        noise_of = functools.partial(moved_noise, places)
        return self.stylizer.stylize(frame.astype("float32"), self.options.stroke_size, noise_of)

    def finish(self, frame, picture, detail, places):
        """Keep a picture for the next one, and return it with the options that change it afterwards."""
        self.state = {"picture": np.clip(picture, 0, 255), "detail": detail, "places": places}
        picture = optical_flow.with_detail(picture, detail)
        keep_colors, strength = self.options.keep_colors, self.options.strength
        return learned_styles.apply_final_options(picture, frame.astype("float32"), keep_colors, strength)


def moved_noise(places, height, width):
    """Return the noise of a photo of this size, as fixed_noise() does, moved along with the film.

    `places`, float32 H x W x 2, are where each place was in the first frame, as shares of its width and height.
    Interpolation lowers the noise's standard deviation by a factor. A division by this factor restores it.
    """
    noise = stylization_network.fixed_noise(height, width)[0]
    size = noise.shape[1::-1]
    columns, rows = (side * x - 0.5 for side, x in zip(size, optical_flow.resize_places(places, size)))
    moved = optical_flow.sample(noise, columns, rows)
    right, below = columns % 1, rows % 1
    variance = (right**2 + (1 - right) ** 2) * (below**2 + (1 - below) ** 2)
    return (moved / np.sqrt(variance)[..., None])[None]


class SearchPainter(painting.Painter):
    """Paints a film by a search for each frame, which begins with the former picture (after Ruder et al. 2016).

    The first frame of a scene gets a whole search. For each later frame, the former picture is moved along. Where the
    flow is not sure, the difference between picture and photo is moved, and added to the new photo. Then a few steps at
    half the size make the picture fit the new frame. `model` is an optimization.StyleModel.
    """

    def __init__(self, model, options):
        self.model, self.options, self.state = model, options, {}

    def first(self, frame):
        search = optimization.Search(self.model, frame.astype("float32"), None, self.options)
        search.run()
        detail = optical_flow.detail_of(search.picture)[1]
        return self.finish(search.picture, search.initial, search.photo, detail)

    def next(self, frame, motion):
        photo, former = frame.astype("float32"), self.state["picture"]
        half = imaging.resize_picture(photo, *steps_size(photo))
        search = FrameSearch(self.model, half, None, few_steps(self.options))
        seen = colors.luminance(photo) if self.options.keep_colors == "luminance" else photo
        recolored = search.recolored(seen)
        moved = motion.move(former)
        elsewhere = recolored + motion.move(former - self.state["recolored"])
        begun = np.clip(motion.trust * moved + (1 - motion.trust) * elsewhere, 0, 255)
        search.begin_with(begun, moved, self.options.steady * motion.trust)
        search.run()
        change = search.picture - imaging.resize_picture(begun, *steps_size(photo))
        picture = begun + imaging.resize_picture(change, *photo.shape[1::-1])
        detail = motion.trust * motion.move(self.state["detail"])
        detail += (1 - motion.trust) * optical_flow.detail_of(picture)[1]
        return self.finish(optical_flow.with_detail(picture, detail), recolored, photo, detail)

    def finish(self, picture, recolored, photo, detail):
        """Keep a picture and the recoloured photo for the next one; return the picture with --keep-colors."""
        self.state = {"picture": np.clip(picture, 0, 255), "recolored": recolored, "detail": detail}
        if self.options.keep_colors == "luminance":
            picture = colors.with_colors_of(picture, photo)
        return imaging.to_pixels(picture)


FRAME_STEPS = 6  # of the search for a frame
LEAST_HALVED = 400  # pixels of the longest side; smaller films are not halved for these steps
PENALTY = 60.0  # weight of the mean square of differences from the moved picture, for values from 0 to 1


def few_steps(options):
    return dataclasses.replace(options, iterations=(FRAME_STEPS,), scales=1, init="content", gif=False, quiet=True)


def steps_size(photo):
    """Return the (width, height) at which a frame's steps are made."""
    height, width = photo.shape[:2]
    longest = max(width, height)
    return imaging.fit(width, height, longest / 2) if longest >= LEAST_HALVED else (width, height)


class FrameSearch(optimization.Search):
    """The search for one frame of a film. It begins with a given picture, and pays for leaving it."""

    def begin_with(self, begun, moved, trust):
        """Set the initial picture, and the former one, moved along. `trust`, H x W x 1, is the weight of each place."""
        size = self.final_size()
        self.begun, moved = (imaging.resize_picture(picture, *size) for picture in (begun, moved))
        trust = imaging.resize_picture(trust, *size)
        moved, trust = (optimization.with_margin(x, self.margin) for x in (moved, trust))
        self.moved, self.trust = self.on_device(moved), self.on_device(trust * PENALTY / moved.size / 255**2)

    def start(self, width, height):
        return self.begun

    def with_penalty(self, picture, total, gradient):
        difference = picture - self.moved
        weighted = self.trust * difference
        return total + float(ops.sum(weighted * difference)), gradient + 2 * weighted
