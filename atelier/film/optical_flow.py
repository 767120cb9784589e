"""Optical flow: how each place of a film moves between two frames, where that is sure, and where a scene ends.

Frames are uint8 H x W x 3, pictures float32 H x W x C. The flow is that of DIS (Kroeger et al. 2016).
"""

import dataclasses
import functools
import os

import numpy as np

from atelier.command_line import lazy_import

cv2 = lazy_import("cv2")  # only films need it

CUT_SHARE = 0.3  # of the places; if the flow is sure in fewer of them, another scene begins
CUT_COLORS = 0.5  # distance of the frames' histograms, from 0 to 1, at which another scene may begin
CUT_SURE = 0.6  # share of sure places below which a change of the histogram counts
BRIGHTNESS = 15.0  # grey levels by which a place may change on its way


@dataclasses.dataclass(frozen=True)
class Motion:
    """How the former frame became this one.

    `columns` and `rows`, float32 H x W, are where each place was in the former frame. `trust`, float32 H x W x 1, says
    how sure that is, from 0 to 1.
    """

    columns: np.ndarray
    rows: np.ndarray
    trust: np.ndarray

    def move(self, picture):
        """Move a picture of the former frame along, float32 H x W x C. Cubic interpolation keeps it sharp."""
        moved = cv2.remap(picture, self.columns, self.rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        return moved.reshape(picture.shape)  # OpenCV drops a single channel

    def move_places(self, places):
        """Move places, see own_places(), along. Where the flow is not sure, each place is its own again."""
        moved = sample(places, self.columns, self.rows)
        return np.where(self.trust > 0.5, moved, own_places(*places.shape[:2]))


def own_places(height, width):
    """Return the place of each pixel: float32 H x W x 2, the shares of the width and the height before its centre."""
    rows, columns = np.indices((height, width), "float32") + 0.5
    return np.stack([columns / width, rows / height], axis=2)


def resize_places(places, size):
    """Return the columns and the rows of places, each float32, for a picture of another (width, height)."""
    return cv2.split(cv2.resize(places, size, interpolation=cv2.INTER_AREA))


def motion_between(former, frame):
    """Return the Motion from the former frame to this one, or None if another scene begins."""
    before, now = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (former, frame))
    flow = dis()
    back, forth = flow.calc(now, before, None), flow.calc(before, now, None)
    height, width = now.shape
    places = np.indices((height, width), "float32")
    columns, rows = places[1] + back[..., 0], places[0] + back[..., 1]
    inside = (columns >= 0) & (columns <= width - 1) & (rows >= 0) & (rows <= height - 1)
    sure = inside & returns(back, sample(forth, columns, rows))
    change = cv2.absdiff(sample(before, columns, rows), now)
    sure &= cv2.boxFilter(change, cv2.CV_32F, (5, 5)) < BRIGHTNESS
    if is_cut(former, frame, sure.mean()):
        return None
    trust = cv2.GaussianBlur(sure.astype("float32"), (0, 0), 1.5)
    return Motion(columns, rows, trust[..., None])


@functools.cache
def dis():
    cv2.setNumThreads(max(1, (os.cpu_count() or 1) // 2))  # the network needs the others
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


def sample(picture, columns, rows):
    return cv2.remap(picture, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def returns(back, forth):
    """Tell for each place whether the flow back and then forth returns to it (Sundaram et al. 2010)."""
    error, lengths = cv2.add(back, forth), cv2.multiply(back, back) + cv2.multiply(forth, forth)
    error = cv2.multiply(error, error)
    return error[..., 0] + error[..., 1] <= 0.01 * (lengths[..., 0] + lengths[..., 1]) + 0.5


def is_cut(former, frame, sure):
    """Tell whether another scene begins with this frame. `sure` is the share of places whose flow is sure."""
    return sure < CUT_SHARE or (sure < CUT_SURE and color_distance(former, frame) > CUT_COLORS)


def color_distance(former, frame):
    """Return the Bhattacharyya distance of the frames' colour histograms, from 0 to 1."""
    before, now = (
        cv2.calcHist([picture], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3).ravel() for picture in (former, frame)
    )
    return cv2.compareHist(before, now, cv2.HISTCMP_BHATTACHARYYA)


def limit(picture, new):
    """Limit a picture to the colours that the picture `new` has around each place, both float32 H x W x 3.

    The limits in each channel are some standard deviations below and above the mean (variance clipping, see Yang, Liu &
    Salvi 2020).
    """
    some = cv2.resize(new, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_NEAREST)  # enough pixels for a mean
    mean, square = cv2.blur(some, NEIGHBOURS), cv2.sqrBoxFilter(some, cv2.CV_32F, NEIGHBOURS)
    reach = DEVIATIONS * np.sqrt(np.maximum(square - mean * mean, 0))
    low, high = (cv2.resize(limits, new.shape[1::-1]) for limits in (mean - reach, mean + reach))
    return np.clip(picture, low, high)


NEIGHBOURS = (7, 7)  # of every second pixel: squares about as wide as a short stroke is long
DEVIATIONS = 2.0  # a lower value follows the frame sooner, but also its flicker


def detail_of(picture):
    """Return the fine detail of a picture, float32 H x W x 3, and its mean square around each place, H x W x 1."""
    detail = picture - cv2.GaussianBlur(picture, (0, 0), DETAIL)
    square = cv2.transform(detail * detail, np.full((1, 3), 1 / 3, "float32"))  # the mean of the channels
    return detail, cv2.blur(square, (AREA, AREA))[..., None]


def with_detail(picture, wanted):
    """Give the fine detail of a picture the mean square `wanted`, H x W x 1 as detail_of() returns it.

    A mean of several pictures, and a picture that is moved, have less detail than they should have.
    """
    detail, has = detail_of(picture)
    wanted = np.maximum(wanted, 0)  # cubic interpolation also makes negative values
    gain = np.clip(np.sqrt((wanted + 1) / (has + 1)), 1 / MOST_GAIN, MOST_GAIN)
    return picture + (gain - 1) * detail


DETAIL = 1.5  # pixels, the deviation of the Gaussian that separates detail from the rest
AREA = 25  # pixels, the side of the squares in which detail is compared
MOST_GAIN = 2.0
