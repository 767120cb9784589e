"""util.py: quantization, sequences and networks."""

import numpy as np
import pytest
from conftest import SMALL_RNNS, random_tokens, random_windows, small_rnn
from skimage.transform import resize

import util
from atelier import backend
from atelier.pixel_rnn import palettes


def test_resizing_many_equals_resizing_each(digits):
    images = digits[0][:20]
    each = [np.round(resize(image, (5, 5), anti_aliasing=True) * 255) for image in images]
    np.testing.assert_array_equal(util.resize_images(images, 5), np.array(each))


def test_quantization_equals_the_tutorials():
    greys = np.arange(256, dtype="uint8")
    tokens = util.to_levels(greys, 7)
    np.testing.assert_array_equal(tokens, np.round(greys / (256 / 6)))
    assert tokens.min() == 0 and tokens.max() == 6


@pytest.mark.parametrize("levels", [2, 7, 256])
def test_converting_levels_to_grey_and_back_changes_nothing(levels):
    tokens = np.arange(levels)
    np.testing.assert_array_equal(util.to_levels(util.from_levels(tokens, levels), levels), tokens)


@pytest.mark.parametrize(("levels", "block"), [(2, 2), (4, 2), (7, 1), (2, 1)])
def test_tokens_become_the_same_pictures_again(levels, block):
    images = util.from_levels(np.random.default_rng(0).integers(0, levels, (3, 6, 6)), levels)
    tokens = util.to_sequences(images, 6, levels, block)
    assert tokens.shape == (3, (6 // block) ** 2) and tokens.max() < levels ** (block * block)
    np.testing.assert_array_equal(util.from_sequences(tokens, 6, levels, block), images)
    by_columns = util.to_sequences(images, 6, levels, block, "columns")
    np.testing.assert_array_equal(by_columns, util.to_sequences(images.swapaxes(1, 2), 6, levels, block))
    np.testing.assert_array_equal(util.from_sequences(by_columns, 6, levels, block, "columns"), images)


def test_a_block_is_a_token_with_its_upper_left_pixel_as_the_last_digit():
    images = np.zeros((1, 4, 4), "uint8")
    images[0, 0, 0] = images[0, 3, 2] = 255
    np.testing.assert_array_equal(util.to_sequences(images, 4, 2, 2), [[1, 0, 0, 4]])


def test_shifted_copies_shift_the_ink(digits):
    image = np.zeros((1, 5, 5), "uint8")
    image[0, 2, 2] = 9
    copies = util.shifted_copies(image, 1)
    places = {tuple(np.argwhere(copy[0])[0]) for copy in copies}
    assert places == {(2, 2), (2, 3), (2, 1), (3, 2), (1, 2)}
    np.testing.assert_array_equal(copies[0], image)


@pytest.mark.parametrize(("cell", "options"), [*SMALL_RNNS, ("gru", {"context": "wide", "hidden": 9})])
def test_a_pixel_is_predicted_from_earlier_pixels_only(cell, options):
    model, _ = small_rnn(cell=cell, layers=2, **options)
    predict = backend.compile_function(model, jit=False)
    tokens = random_tokens(1, 4, 3)
    before = np.asarray(predict(tokens))
    for t in range(16):
        changed = tokens.copy()
        changed[0, t] = (changed[0, t] + 1) % 3
        after = np.asarray(predict(changed))
        np.testing.assert_array_equal(after[:, : t + 1], before[:, : t + 1])
        if t < 15:
            assert np.abs(after[:, t + 1 :] - before[:, t + 1 :]).max() > 0


def test_the_tutorials_input_is_the_previous_pixel_and_zeros_at_the_start():
    model, _ = small_rnn()
    tokens = random_tokens(2, 4, 3)
    one_hot = np.eye(3, dtype="float32")[tokens]
    shifted = np.concatenate([np.zeros((2, 1, 3), "float32"), one_hot[:, :-1]], 1)
    expected = model.get_layer("logits")(model.get_layer("gru_0")(shifted))
    np.testing.assert_allclose(model(tokens), expected, atol=1e-6)


def test_context_above_reads_neighbours_and_stops_at_the_border():
    table = util.context_table(4, 5, "above").reshape(4, 5, -1)
    assert (table[0, 0] == 0).all()
    assert set(table[2, 2]) == {
        1 + y * 5 + x for y, x in [(2, 1), (2, 0), *((1, x) for x in range(5)), (0, 1), (0, 2), (0, 3)]
    }
    assert set(table[1, 4]) == {0, 1 + 5 + 3, 1 + 5 + 2, 1 + 2, 1 + 3, 1 + 4}


def targets_of_epoch(windows, epoch=0):
    """Return all targets of an epoch that have a weight."""
    batches = [windows.batch(7, epoch, step) for step in range(windows.steps)]
    return np.concatenate([targets[weight > 0] for _, targets, weight, _ in batches])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 5},
        {"batch_size": 100},
        {"window": 5},
        {"whole": True},
        {"targets": "last"},
        {"targets": "last", "window": 9, "batch_size": 7},
    ],
)
def test_every_pixel_is_a_target_once_an_epoch(options):
    tokens, windows = random_windows(**options)
    np.testing.assert_array_equal(np.sort(targets_of_epoch(windows)), np.sort(tokens.ravel()))
    assert (targets_of_epoch(windows) != targets_of_epoch(windows, epoch=1)).any()


def test_with_a_stride_every_nth_pixel_is_a_target():
    tokens, windows = random_windows(targets="last", stride=5)
    np.testing.assert_array_equal(np.sort(targets_of_epoch(windows)), np.sort(tokens[:, ::5].ravel()))


def test_a_window_reads_the_pixels_before_each_target():
    tokens, windows = random_windows(batch_size=5)
    for step in range(windows.steps):
        inputs, targets, weight, first = windows.batch(0, 0, step)
        for b in range(5):
            row = inputs["row"][b, 0]
            if not weight[b].any():
                continue
            (picture,) = (p for p in range(5) if (tokens[p, row * 6 : row * 6 + 6] == targets[b]).all())
            before = np.append(tokens[picture, row * 6 : row * 6 + 5][::-1], 0)[::-1] + 1
            np.testing.assert_array_equal(inputs["neighbours"][b, 1:, 0], before[1:])
            assert inputs["neighbours"][b, 0, 0] == 0  # beyond the border
            above = inputs["neighbours"][b, 1:-1, 4]
            assert (above == (tokens[picture, row * 6 - 5 : row * 6 - 1] + 1 if row else 0)).all()
            assert first[b] == (row == 0 or step == 0)
            np.testing.assert_array_equal(inputs["column"][b], np.arange(6))


def test_similar_colours_have_similar_initial_weights():
    model = util.build_painter(256, 6, 4, 6, "lstm", 8, 1, 0.0, 64, "previous")
    util.initialize_colors(model, palettes.gray_palette(256), seed=0)
    embedding = model.get_layer("colors").embeddings.numpy()[1:]
    near, far = (np.linalg.norm(embedding[100] - embedding[100 + by]) for by in (1, 100))
    assert near < far / 5


def test_dropout_acts_only_in_training():
    model, _ = small_rnn(dropout=0.5)
    tokens = random_tokens(3, 4, 3)
    np.testing.assert_array_equal(model(tokens), model(tokens))
    assert np.abs(np.asarray(model(tokens, training=True)) - np.asarray(model(tokens, training=True))).max() > 0
