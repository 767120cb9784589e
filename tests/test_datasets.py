"""datasets.py: a picture of one digit."""

import numpy as np
from PIL import Image

from atelier.pixel_rnn import datasets


def test_a_digit_gets_the_layout_of_mnist(tmp_path):
    page = np.full((200, 300), 240, "uint8")
    page[50:150, 220:240] = 10  # a dark 1 near the right edge of a bright page
    Image.fromarray(page).save(tmp_path / "one.png")
    image = datasets.load_drawing(tmp_path / "one.png", {"source": "mnist"})
    assert image.shape == (28, 28) and image[0].max() < 20 and image.max() > 200
    rows, columns = np.nonzero(image > 100)
    assert abs(rows.mean() - 13.5) < 1 and abs(columns.mean() - 13.5) < 1
    assert rows.max() - rows.min() + 1 == 20
