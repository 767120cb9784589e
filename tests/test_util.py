"""util.py: quantization, sequences, networks and their gradients, scoring and drawing."""

import json
import os
import pathlib
import stat
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from skimage.transform import resize

import datasets
import disk
import fused_cells
import imaging
import model_files
import model_meta
import palettes
import recurrent
import util
from errors import InputError


def small_rnn(**options):
    keras.utils.set_random_seed(3)
    settings = {"size": 4, "levels": 3, "units": 8} | options
    model = util.build_rnn(**settings)
    rng = np.random.default_rng(3)  # biases start at zero otherwise, and some probabilities would be alike
    model.set_weights([weight + rng.normal(0, 0.1, weight.shape) for weight in model.get_weights()])
    return model, settings


def random_tokens(count, size, levels, seed=0):
    return np.random.default_rng(seed).integers(0, levels, (count, size * size)).astype("uint8")


# --- Pictures, quantization, sequences ---


def test_resizing_many_equals_resizing_each(digits):
    images = digits[0][:20]
    each = [np.round(resize(image, (5, 5), anti_aliasing=True) * 255) for image in images]
    np.testing.assert_array_equal(util.resize_images(images, 5), np.array(each))


def test_quantization_is_the_tutorials():
    greys = np.arange(256, dtype="uint8")
    tokens = util.to_levels(greys, 7)
    np.testing.assert_array_equal(tokens, np.round(greys / (256 / 6)))
    assert tokens.min() == 0 and tokens.max() == 6


@pytest.mark.parametrize("levels", [2, 7, 256])
def test_levels_survive_the_way_to_grey_and_back(levels):
    tokens = np.arange(levels)
    np.testing.assert_array_equal(util.to_levels(util.from_levels(tokens, levels), levels), tokens)


def test_shifted_copies_move_the_ink_and_keep_it(digits):
    image = np.zeros((1, 5, 5), "uint8")
    image[0, 2, 2] = 9
    copies = util.shifted_copies(image, 1)
    places = {tuple(np.argwhere(copy[0])[0]) for copy in copies}
    assert places == {(2, 2), (2, 3), (2, 1), (3, 2), (1, 2)}
    np.testing.assert_array_equal(copies[0], image)


@pytest.mark.parametrize(
    ("kind", "white", "suffix"),
    [
        ("uint16", 65535, "png"),
        ("uint16", 65535, "pgm"),
        ("uint16", 255, "png"),
        ("int32", 65535, "tif"),
        ("float32", 1, "tif"),
        ("float32", 255, "tif"),
    ],
)
def test_greys_of_more_than_eight_bits_keep_their_brightness(kind, white, suffix, tmp_path):
    ramp = np.tile(np.linspace(0, 1, 256), (64, 1))
    path = tmp_path / f"ramp.{suffix}"
    Image.fromarray((ramp * white).astype(kind)).save(path)
    np.testing.assert_allclose(imaging.load_image(path)[..., 1], 255 * ramp, atol=1)


def test_a_picture_is_read_upright_and_without_transparency(tmp_path):
    path = tmp_path / "rotated.jpg"
    pixels = np.zeros((20, 40, 3), "uint8")
    pixels[:, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    upright = imaging.load_image(path)
    assert upright.shape == (40, 20, 3)
    assert upright[:15].mean() > 250 > 5 > upright[25:].mean()
    Image.new("RGBA", (3, 2), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (imaging.load_image(tmp_path / "clear.png") == 255).all()


def test_a_digit_is_laid_out_as_mnist_is(tmp_path):
    page = np.full((200, 300), 240, "uint8")
    page[50:150, 220:240] = 10  # a dark 1 near the right edge of a bright page
    Image.fromarray(page).save(tmp_path / "one.png")
    image = datasets.load_drawing(tmp_path / "one.png", {"source": "mnist"})
    assert image.shape == (28, 28) and image[0].max() < 20 and image.max() > 200
    rows, columns = np.nonzero(image > 100)
    assert abs(rows.mean() - 13.5) < 1 and abs(columns.mean() - 13.5) < 1
    assert rows.max() - rows.min() + 1 == 20


# --- The network ---


@pytest.mark.parametrize("context", ["previous", "above"])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_pixel_is_predicted_from_earlier_ones_alone(cell, context):
    model, settings = small_rnn(cell=cell, context=context, layers=2)
    tokens = random_tokens(1, 4, 3)
    before = np.asarray(model(tokens))
    for t in range(16):
        changed = tokens.copy()
        changed[0, t] = (changed[0, t] + 1) % 3
        after = np.asarray(model(changed))
        np.testing.assert_array_equal(after[:, : t + 1], before[:, : t + 1])
        if t < 15:
            assert np.abs(after[:, t + 1 :] - before[:, t + 1 :]).max() > 0


def test_the_tutorials_input_is_the_previous_pixel_and_a_zero_start():
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


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_fused_cells_equal_keras_own(cell):
    model, settings = small_rnn(units=8, layers=2, cell=cell)
    fused = util.build_rnn(**settings, fused=True)
    fused.set_weights(model.get_weights())
    tokens = random_tokens(5, 4, 3)
    np.testing.assert_allclose(fused(tokens), model(tokens), atol=1e-6)

    def gradients(network):
        with tf.GradientTape() as tape:
            loss = keras.losses.sparse_categorical_crossentropy(tokens, network(tokens), from_logits=True)
            loss = tf.reduce_mean(loss)
        return tape.gradient(loss, network.trainable_variables)

    for ours, theirs in zip(gradients(fused), gradients(model), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.parametrize(
    ("run", "shapes"),
    [
        (fused_cells.gru_states, [(5, 2, 9), (3, 9), (9,), (2, 3)]),
        (fused_cells.lstm_states, [(5, 2, 12), (3, 12), (2, 3), (2, 3)]),
    ],
)
def test_the_fused_cells_gradient_against_finite_differences(run, shapes):
    rng = np.random.default_rng(0)
    values = [tf.constant(rng.normal(size=shape)) for shape in shapes]  # float64
    weights = [rng.normal(size=(5, 2, 3)), rng.normal(size=(2, 3))]

    def loss(*arguments):
        outputs = run(*arguments)
        outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
        return sum(tf.reduce_sum(output * weight) for output, weight in zip(outputs, weights))

    with tf.GradientTape() as tape:
        tape.watch(values)
        value = loss(*values)
    for i, gradient in enumerate(tape.gradient(value, values)):
        direction = rng.normal(size=shapes[i])
        ends = []
        for sign in (1, -1):
            moved = list(values)
            moved[i] = values[i] + sign * 1e-5 * direction
            ends.append(float(loss(*moved)))
        numeric = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(np.sum(gradient * direction), numeric, rtol=1e-6)


# --- Painters ---


def cut(count=5, width=6, height=4, window=6, **options):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 50, (count, width * height)).astype("uint16")
    settings = {"context": "place", "stride": 1, "batch_size": 3, "targets": "all"} | options
    return tokens, util.Windows(tokens, width, height, window=window, **settings)


def seen_targets(windows, epoch=0):
    """Return all targets of an epoch that count."""
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
def test_every_pixel_is_learnt_once_an_epoch(options):
    tokens, windows = cut(**options)
    np.testing.assert_array_equal(np.sort(seen_targets(windows)), np.sort(tokens.ravel()))
    assert (seen_targets(windows) != seen_targets(windows, epoch=1)).any()


def test_a_stride_takes_every_so_many_pixels():
    tokens, windows = cut(targets="last", stride=5)
    np.testing.assert_array_equal(np.sort(seen_targets(windows)), np.sort(tokens[:, ::5].ravel()))


def test_a_window_reads_the_pixels_before_each_target():
    tokens, windows = cut(batch_size=5)
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


def tiny_painter(**options):
    keras.utils.set_random_seed(3)
    settings = {"cell": "lstm", "units": 7, "layers": 2, "dropout": 0.0, "embedding": 5, "context": "place"} | options
    return util.build_painter(50, 6, 4, 6, **settings)


def zero_states(model, count, units=7):
    return {name: np.zeros((count, units), "float32") for name in model.input if name.startswith("state_")}


@pytest.mark.parametrize("context", ["previous", "above", "place"])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_windows_with_carried_state_score_what_drawing_assumes(cell, context):
    model = tiny_painter(cell=cell, context=context, fused=True)
    tokens, windows = cut(count=3, context=context, whole=True)
    evaluate, states, nats = recurrent.make_evaluator(model), zero_states(model, 3), 0.0
    for step in range(windows.steps):
        inputs, targets, weight, _ = windows.batch(0, 0, step)
        loss, carried = evaluate(inputs | states, targets, weight)
        states, nats = dict(zip(states, carried)), nats + float(loss) * weight.sum()
    step = recurrent.make_step(model, context, (4, 6))
    history = np.pad(tokens.astype("int32") + 1, ((0, 0), (1, 0)))
    drawn, state = 0.0, recurrent.initial_states(model, 3)
    for t in range(24):
        log_probabilities, state = step(history, tf.constant(t), state)
        drawn -= np.take_along_axis(np.asarray(log_probabilities), tokens[:, t, None].astype(int), 1).sum()
    assert nats == pytest.approx(drawn, rel=1e-5)


def test_a_learning_step_lowers_the_loss_and_clips():
    model = tiny_painter(fused=True)
    optimizer = keras.optimizers.RMSprop(0.01, global_clipnorm=1.0)
    optimizer.build(model.trainable_variables)
    learn = recurrent.make_learner(model, optimizer)
    _, windows = cut(count=3)
    inputs, targets, weight, _ = windows.batch(0, 0, 0)
    losses = [float(learn(inputs | zero_states(model, 3), targets, weight)[0]) for _ in range(20)]
    assert losses[0] == pytest.approx(np.log(50), rel=0.05) and losses[-1] < 0.8 * losses[0]


def test_the_fast_dropout_drops_its_share_and_keeps_the_mean():
    x = tf.ones((30, 40, 11))
    layer = fused_cells.FastDropout(0.2, seed=0)
    dropped = np.asarray(layer(x, training=True))
    assert (dropped == 0).mean() == pytest.approx(0.2, abs=0.02) and dropped.mean() == pytest.approx(1, abs=0.02)
    assert (dropped != np.asarray(layer(x, training=True))).any()
    np.testing.assert_array_equal(layer(x, training=False), x)


def test_the_palette_is_close_in_cielab_and_sorted(digits):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (4, 20, 20, 3)).astype("uint8")
    errors = []
    for colors in (4, 32, 256):
        palette = palettes.fit_palette(pictures, colors, seed=0)
        assert len(palette) == len(np.unique(palette, axis=0)) <= colors
        assert (np.diff(util.rgb2lab(palette)[:, 0]) >= 0).all()
        tokens = palettes.to_palette(pictures, palette)
        errors.append(palettes.color_error(pictures, palettes.from_palette(tokens, palette, 20, 20)))
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2] > 0
    distance = np.linalg.norm(util.rgb2lab(pictures).reshape(-1, 1, 3) - util.rgb2lab(palette), axis=-1)
    np.testing.assert_array_equal(tokens.ravel(), distance.argmin(1))


def test_greys_are_a_palette_too(digits):
    images = digits[0][:5]
    tokens = palettes.to_palette(images[..., None].repeat(3, -1), palettes.gray_palette(256))
    np.testing.assert_array_equal(tokens.reshape(images.shape), images)


def test_colours_that_look_alike_begin_alike():
    model = util.build_painter(256, 6, 4, 6, "lstm", 8, 1, 0.0, 64, "previous")
    util.show_colors(model, palettes.gray_palette(256), seed=0)
    embedding = model.get_layer("colors").embeddings.numpy()[1:]
    near, far = (np.linalg.norm(embedding[100] - embedding[100 + by]) for by in (1, 100))
    assert near < far / 5


def test_dropout_acts_in_training_alone():
    model, _ = small_rnn(dropout=0.5)
    tokens = random_tokens(3, 4, 3)
    np.testing.assert_array_equal(model(tokens), model(tokens))
    assert np.abs(np.asarray(model(tokens, training=True)) - np.asarray(model(tokens, training=True))).max() > 0


# --- Scoring and drawing ---


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("context", ["previous", "above"])
def test_scoring_step_by_step_equals_the_whole_network(cell, context):
    model, _ = small_rnn(cell=cell, context=context, layers=2)
    tokens = random_tokens(7, 4, 3)
    whole = -np.sum(keras.losses.sparse_categorical_crossentropy(tokens, model(tokens), from_logits=True), 1)
    scores = recurrent.log_likelihoods(recurrent.make_scorer(model, context), model, tokens, batch_size=4)
    np.testing.assert_allclose(scores, whole, rtol=1e-5)


def test_probabilities_of_all_pictures_add_up_to_one():
    model, _ = small_rnn(size=2, levels=3)
    everything = np.stack(np.meshgrid(*[np.arange(3)] * 4), -1).reshape(-1, 4).astype("uint8")
    scores = recurrent.log_likelihoods(recurrent.make_scorer(model, "previous"), model, everything)
    assert np.exp(scores).sum() == pytest.approx(1, abs=1e-5)


def test_a_long_pictures_likelihood_does_not_underflow():
    model, _ = small_rnn(size=28, levels=256)
    scores = recurrent.log_likelihoods(recurrent.make_scorer(model, "previous"), model, random_tokens(2, 28, 256))
    assert np.isfinite(scores).all() and (scores < -2000).all()


def paint(model, count, seed=0, known=None, kept=0, **options):
    length = model.inputs[0].shape[1]
    uniform = np.random.default_rng(seed).random((count, length), dtype="float32")
    known = np.zeros((count, length), "int32") if known is None else known.astype("int32")
    temperatures = np.full(count, options.pop("temperature", 1.0), "float32")
    painter = recurrent.make_painter(model, "previous", **options)
    return np.asarray(painter(recurrent.weights_of(model), known, uniform, np.int32(kept), temperatures))


def test_pictures_are_drawn_as_often_as_their_probability_says():
    model, _ = small_rnn(size=2, levels=3)
    model.set_weights([3 * weight for weight in model.get_weights()])
    drawn = paint(model, 20_000)
    everything = np.stack(np.meshgrid(*[np.arange(3)] * 4), -1).reshape(-1, 4).astype("uint8")
    expected = np.exp(recurrent.log_likelihoods(recurrent.make_scorer(model, "previous"), model, everything))
    counts = np.array([(drawn == one).all(1).sum() for one in everything])
    assert counts.sum() == 20_000
    chi_squared = ((counts - 20_000 * expected) ** 2 / (20_000 * expected)).sum()
    assert chi_squared < 130  # 80 degrees of freedom: above this once in 5,000 seeds; the seed is fixed


def test_temperature_zero_takes_the_likeliest_pixel_and_top_k_1_the_same():
    model, _ = small_rnn()
    greedy = paint(model, 3, temperature=0)
    assert (greedy == greedy[0]).all()
    np.testing.assert_array_equal(np.asarray(model(greedy)).argmax(-1), greedy)
    np.testing.assert_array_equal(paint(model, 3, top_k=1), greedy)


def test_a_low_temperature_draws_likelier_pictures():
    model, _ = small_rnn()
    model.set_weights([3 * weight for weight in model.get_weights()])
    score = recurrent.make_scorer(model, "previous")
    means = [recurrent.log_likelihoods(score, model, paint(model, 500, temperature=t)).mean() for t in (0.3, 1.0, 3.0)]
    assert means[0] > means[1] + 1 > means[2] + 2


def test_known_pixels_are_kept_and_the_rest_depends_on_them():
    model, _ = small_rnn()
    known = random_tokens(50, 4, 3)
    drawn = paint(model, 50, known=known, kept=8)
    np.testing.assert_array_equal(drawn[:, :8], known[:, :8])
    assert (drawn[:, 8:] != known[:, 8:]).any()
    np.testing.assert_array_equal(paint(model, 50, known=known, kept=16), known)


def test_one_seed_one_picture():
    model, _ = small_rnn()
    np.testing.assert_array_equal(paint(model, 4, seed=1), paint(model, 4, seed=1))
    assert (paint(model, 4, seed=1) != paint(model, 4, seed=2)).any()


# --- Models on disk ---


def test_a_shipped_model_is_stock_keras(tmp_path):
    model, _ = small_rnn(context="above")
    model_files.save_model(tmp_path / "model_0.keras", model)
    with zipfile.ZipFile(tmp_path / "model_0.keras") as archive:
        assert "keras_atelier" not in archive.read("config.json").decode()
    loaded = keras.saving.load_model(tmp_path / "model_0.keras")
    tokens = random_tokens(2, 4, 3)
    np.testing.assert_array_equal(loaded(tokens), model(tokens))


def test_the_tutorials_models_load_and_know_their_digits(shared):
    """Models saved in 2019 by the tutorial's own code; numpy does their arithmetic here, on its own."""
    import h5py

    _, _, images, labels = datasets.load_dataset("mnist", shared / "mnist")
    meta = model_meta.load_meta(shared / "tutorial_models")
    assert list(meta["classes"]) == ["0", "8"]
    images, labels = images[:200], labels[:200]
    tokens = util.to_sequences(images, 10, 7)
    zero = model_files.load_rnn(shared / "tutorial_models", 0, meta)
    scores = recurrent.log_likelihoods(recurrent.make_scorer(zero, "previous"), zero, tokens)

    with h5py.File(shared / "tutorial_models" / "model_0.h5") as file:
        gru = file["model_weights/gru_1/gru_1"]
        dense = file["model_weights/time_distributed_1/time_distributed_1"]
        kernel, inner, bias = (gru[name][()] for name in ("kernel:0", "recurrent_kernel:0", "bias:0"))
        output, output_bias = (dense[name][()] for name in ("kernel:0", "bias:0"))
    hard_sigmoid = lambda x: np.clip(0.2 * x + 0.5, 0, 1)  # noqa: E731
    h, x, expected = np.zeros((200, 256)), np.zeros((200, 7)), np.zeros(200)
    for t in range(100):
        z, r, n = np.split(x @ kernel + bias, 3, 1)
        rz, rr, rn = np.split(inner, 3, 1)
        z, r = hard_sigmoid(z + h @ rz), hard_sigmoid(r + h @ rr)
        h = z * h + (1 - z) * np.tanh(n + (r * h) @ rn)
        logits = h @ output + output_bias
        expected += (logits - np.log(np.exp(logits).sum(1, keepdims=True)))[np.arange(200), tokens[:, t]]
        x = np.eye(7)[tokens[:, t]]
    np.testing.assert_allclose(scores, expected, rtol=1e-3)
    assert scores[labels == 0].mean() > scores[labels != 0].max() - 60 and scores[labels == 0].mean() > -55


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda config: config[0]["config"].update(reset_after=True), "reset_after"),
        (lambda config: config[0]["config"].update(recurrent_activation="sigmoid"), "recurrent_activation"),
        (lambda config: config[2]["config"].update(activation="linear"), "activation"),
        (lambda config: config.insert(1, {"class_name": "Lambda", "config": {}}), "Lambda"),
    ],
)
def test_an_h5_file_that_asks_for_anything_else_is_refused(shared, tmp_path, change, complaint):
    import shutil

    import h5py

    path = tmp_path / "model_0.h5"
    shutil.copy(shared / "tutorial_models" / "model_0.h5", path)
    path.chmod(0o644)
    with h5py.File(path, "r+") as file:
        model_config = json.loads(file.attrs["model_config"])
        change(model_config["config"]["layers"])
        file.attrs["model_config"] = json.dumps(model_config).encode()
    with pytest.raises(InputError, match=complaint):
        model_files.load_tutorial_weights(path)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "result.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), disk.whole_file(target) as temporary:
        with open(temporary, "w") as file:
            file.write("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_file_can_be_read_by_whom_the_user_lets_read_files(umask, mode, tmp_path):
    disk.current_umask.cache_clear()
    earlier = os.umask(umask)
    try:
        with disk.whole_file(tmp_path / "result.txt") as temporary:
            pathlib.Path(temporary).write_text("whole")
        assert stat.S_IMODE((tmp_path / "result.txt").stat().st_mode) == mode
        assert os.umask(umask) == umask  # it was read, and left as it was
    finally:
        os.umask(earlier)
        disk.current_umask.cache_clear()
