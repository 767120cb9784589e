"""large_search.py and tiled_loss.py: gradients in tiles, checkpoints, and the search for large pictures."""

import dataclasses

import numpy as np
import pytest
from conftest import ROOT, pixels

import config
from atelier import imaging
from atelier.style import optimization, tiled_loss

PAINTING = ROOT / "images/style/glands.jpg"

pytestmark = pytest.mark.usefixtures("cache_vgg")


# --- The gradient in tiles ---


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiled_loss, "TILE", 176)


@pytest.mark.parametrize("task", ["style", "published"])
def test_the_loss_in_tiles_equals_that_of_the_whole_picture(task, photo, small_tiles, tmp_path):
    more = {"style": (str(PAINTING),), "quiet": True, "precision": "float64"}  # no rounding at the kinks of ReLU
    options = dataclasses.replace(config.STYLE_DEFAULTS[task], **more)
    model = optimization.StyleModel(options)
    base = imaging.resize_picture(pixels(ROOT / "images/content/china.jpg"), 309, 203)
    picture = base + np.random.default_rng(0).normal(0, 20, base.shape).astype("float32")
    style = model.statistics(pixels(PAINTING)[None, :128])
    expected, gradient = model.loss_and_gradient(picture[None], {"content": model.content(base[None]), "style": style})
    tiled = tiled_loss.TiledLoss(model, options)
    assert tiled.border == 64 and len(tiled_loss.tiles_of(picture, tiled.border)) == 2 * 4
    targets = {"content": tiled.content_of(base, tmp_path), "style": [[layer] for layer in style]}
    terms, found = tiled.loss_and_gradient(picture, targets)
    for name, term in expected.items():
        assert terms[name] == pytest.approx(float(term), rel=1e-5)
    gradient = np.asarray(gradient)[0]
    print(
        np.linalg.norm(found - gradient) / np.linalg.norm(gradient),
        np.abs(found - gradient).max() / np.abs(gradient).max(),
    )
    assert np.linalg.norm(found - gradient) < 1e-4 * np.linalg.norm(gradient)
    for whole, in_tiles in zip(model.statistics(picture[None]), tiled.statistics(picture)):
        for a, b in zip(whole, in_tiles):
            np.testing.assert_allclose(b, a, atol=1e-5 * np.abs(a).max())
