"""distortions.py: random changes of training pictures."""

import numpy as np
import pytest

from atelier.pixel_rnn import distortions


@pytest.fixture
def disc():
    """A grey disc in the middle of 28 x 28 pixels, 400 times."""
    y, x = np.mgrid[:28, :28] - 13.5
    return np.tile((200 * np.clip(8 - np.hypot(y, x), 0, 1)).astype("uint8"), (400, 1, 1))


def middles(images):
    """Return the centre of mass of each picture: N x 2, row and column."""
    weights = images / images.sum(axis=(1, 2), keepdims=True)
    return np.stack([(weights * np.arange(28)[:, None]).sum((1, 2)), (weights * np.arange(28)).sum((1, 2))], axis=1)


def test_pictures_are_shifted_and_stretched_by_as_much_as_the_constants_say(disc):
    changed = distortions.distort(disc, 1, np.random.default_rng(0))
    assert changed.dtype == np.uint8 and changed.shape == disc.shape
    assert np.abs(middles(changed).mean(0) - 13.5).max() < 0.2
    np.testing.assert_allclose(middles(changed).std(0), distortions.SHIFT, rtol=0.25)
    areas = np.log(changed.sum((1, 2)) / disc[0].sum())
    assert areas.std() == pytest.approx(2**0.5 * distortions.STRETCH, rel=0.25)


def test_a_weak_distortion_changes_little_and_each_picture_in_its_own_way(disc):
    rng = np.random.default_rng(0)
    weak = distortions.distort(disc[:20], 1e-6, rng)
    assert np.abs(weak.astype(int) - disc[:20]).max() <= 1
    assert len(np.unique(distortions.distort(disc[:20], 1, rng), axis=0)) == 20


def test_points_move_smoothly():
    moved = distortions.bend((200, 28, 28), 1, np.random.default_rng(0))
    assert moved.std() == pytest.approx(distortions.BEND, rel=0.05)
    assert np.diff(moved, axis=1).std() < 0.3 * moved.std()


def test_a_pixels_grey_is_its_probability_of_white():
    greys = np.tile(np.arange(256, dtype="uint8"), (4000, 1, 1))
    drawn = distortions.binarize(greys, np.random.default_rng(0))
    assert set(np.unique(drawn)) == {0, 255}
    np.testing.assert_allclose(drawn.mean(axis=(0, 1)), np.arange(256), atol=10)
    assert (drawn[..., 0] == 0).all() and (drawn[..., 255] == 255).all()
