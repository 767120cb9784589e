"""visualize_filters.py and its modules: receptive fields, projections, dreams of filters, sheets, and bad input."""

import keras
import numpy as np
import pytest
from conftest import ROOT, results, run
from PIL import Image

import config
import visualize_filters
from atelier import hardware, imaging, naming
from atelier.dream import filter_dreams, filter_sheets, fourier_images
from atelier.networks import pretrained, vision
from atelier.networks.deconvnet import Activation, Deconvnet, peaks
from atelier.pixel_rnn import datasets

layers = keras.layers
CLASSIFIER = ROOT / "trained/digit_classifier"


@pytest.fixture(autouse=True)
def load_vgg_once(cache_vgg):
    pass


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Return a folder of two small real photos."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("china", "chelsea"):
        Image.open(ROOT / f"images/content/{name}.jpg").resize((96, 72)).save(folder / f"{name}.png")
    return folder


def show(layer, photos, result, *flags, status=0):
    flags = ("--size", 64, "--output", result, *flags)
    return run("visualize_filters.py", layer, "--images", photos, *flags, status=status)


# --- Receptive fields ---


@pytest.mark.parametrize(
    ("layer", "size", "stride"),
    [
        ("block1_conv1", 3, 1),
        ("block1_pool", 6, 2),
        ("block2_conv1", 10, 2),
        ("block3_conv1", 24, 4),
        ("block4_conv3", 92, 8),
        ("block5_conv3", 196, 16),
    ],
)
def test_receptive_fields_of_vgg_have_the_calculated_sizes(layer, size, stride):
    network = Deconvnet(*pretrained.load_network("vgg16")[:2], layer)
    assert (network.field.size, network.field.stride) == (size, stride)


def small_network(padding="same"):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            layers.Input((None, None, 3)),
            layers.Conv2D(4, 3, padding=padding, activation="relu", bias_initializer="normal", name="one"),
            layers.MaxPooling2D(name="pool"),
            layers.Conv2D(5, 5, padding=padding, activation="relu", bias_initializer="normal", name="two"),
        ]
    )


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_place_depends_only_on_its_receptive_field(padding):
    network = Deconvnet(small_network(padding), lambda x: x, "two")
    assert network.field.size == 3 + 1 + 4 * 2
    picture = np.random.default_rng(0).uniform(0, 255, (40, 36, 3)).astype("float32")
    before = network.activations(picture)
    row, column = 9, 7
    top, left = network.field.first_pixel(row), network.field.first_pixel(column)
    outside = np.zeros_like(picture)
    window = np.s_[top : top + network.field.size, left : left + network.field.size]
    outside[window] = picture[window]
    np.testing.assert_allclose(network.activations(outside)[row, column], before[row, column], rtol=1e-4, atol=1e-3)
    for y, x in ((top, left), (top + network.field.size - 1, left + network.field.size - 1)):
        edge = picture.copy()
        edge[y, x] += 1000
        assert np.abs(network.activations(edge)[row, column] - before[row, column]).max() > 1e-3


# --- Projections ---


def convolve(x, kernel, bias):
    """Convolve H x W x C with zeros beyond the edges, in NumPy, and take the ReLU."""
    size = kernel.shape[0]
    padded = np.pad(x, ((size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(0, 1))
    return np.maximum(np.einsum("hwcij,ijck->hwk", windows, kernel) + bias, 0)


def deconvolve(y, kernel):
    """Take the ReLU of H x W x K, and convolve it with the transposed kernel: H x W x C."""
    return convolve_linear(np.maximum(y, 0), kernel[::-1, ::-1].swapaxes(2, 3))


def convolve_linear(x, kernel):
    size = kernel.shape[0]
    padded = np.pad(x, ((size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(0, 1))
    return np.einsum("hwcij,ijck->hwk", windows, kernel)


def test_projections_equal_those_of_an_independent_deconvolutional_network():
    model = small_network()
    network = Deconvnet(model, lambda x: x - 100, "two")
    picture = np.random.default_rng(1).uniform(0, 255, (24, 20, 3)).astype("float32")
    (kernel1, bias1), (kernel2, bias2) = (model.get_layer(name).get_weights() for name in ("one", "two"))
    first = convolve(picture - 100, kernel1, bias1)
    blocks = first.reshape(12, 2, 10, 2, 4).transpose(0, 2, 4, 1, 3).reshape(12, 10, 4, 4)
    switches = blocks.argmax(3)
    second = convolve(blocks.max(3), kernel2, bias2)
    np.testing.assert_allclose(network.activations(picture), second, rtol=1e-4, atol=1e-2)
    row, column, channel = np.unravel_index(second[3:9, 3:7].argmax(), (6, 4, 5))
    row, column = row + 3, column + 3
    top = np.zeros_like(second)
    top[row, column, channel] = second[row, column, channel]
    pooled = deconvolve(top, kernel2)
    unpooled = np.zeros((12, 10, 4, 4))
    np.put_along_axis(unpooled, switches[..., None], pooled[..., None], axis=3)
    unpooled = unpooled.reshape(12, 10, 4, 2, 2).transpose(0, 3, 1, 4, 2).reshape(24, 20, 4)
    expected = deconvolve(unpooled, kernel1)
    strength = float(second[row, column, channel])
    activation = Activation(strength, 0, int(row), int(column), int(channel))
    size, y, x = network.field.size, network.field.first_pixel(row), network.field.first_pixel(column)
    found = network.project([picture], activation)
    edged = np.pad(expected, ((size, size), (size, size), (0, 0)))
    np.testing.assert_allclose(
        found, edged[y + size : y + 2 * size, x + size : x + 2 * size], atol=1e-4 * np.abs(expected).max()
    )
    assert np.abs(found).sum() == pytest.approx(np.abs(expected).sum(), rel=1e-4)  # the patch has all of the projection


def test_peaks_are_the_largest_values_and_a_distance_apart():
    features = np.zeros((6, 6), "float32")
    features[1, 1], features[1, 2], features[4, 4], features[5, 0] = 5, 4, 3, -1
    assert peaks(features, 9, 1) == [(5, 1, 1), (4, 1, 2), (3, 4, 4)]
    assert peaks(features, 9, 2) == [(5, 1, 1), (3, 4, 4)]
    assert peaks(features, 1, 2) == [(5, 1, 1)]


def test_patches_are_filled_beyond_the_edges_of_the_picture():
    network = Deconvnet(*pretrained.load_network("vgg16")[:2], "block3_conv1")
    picture = np.random.default_rng(0).uniform(0, 255, (32, 32, 3)).astype("float32")
    outside = 10  # the 24 pixels of the field begin (24 - 4) / 2 pixels before the first place's 4 pixels
    corner = network.cut(picture, Activation(1.0, 0, 0, 0, 0), 128)
    assert corner.shape == (24, 24, 3)
    assert (corner[:outside] == 128).all() and (corner[:, :outside] == 128).all()
    np.testing.assert_array_equal(corner[outside:, outside:], picture[: 24 - outside, : 24 - outside])


# --- The sheets ---


def test_a_sheet_shows_the_given_filters(photos, tmp_path):
    printed = results(show("block2_conv1", photos, tmp_path / "a.png", "--channels", 3, 40).stdout)
    assert printed["sheet"] == str(tmp_path / "a.png") and printed["receptive_field"] == "10 pixels across"
    strengths = list(map(float, printed["filter_3"].removeprefix("activations ").split()))
    assert len(strengths) == 9 and strengths == sorted(strengths, reverse=True) and "filter_40" in printed
    Image.new("RGB", (640, 40)).save(tmp_path / "narrow.png")
    flags = ("--images", photos, tmp_path / "narrow.png", "--filters", 1, "--dreams", 0)
    assert "narrow.png" in show("block5_conv1", photos, tmp_path / "b.png", *flags, status=1).stderr
    with Image.open(tmp_path / "a.png") as sheet:
        assert "visualize_filters.py" in sheet.text["command"]
        pixels = np.asarray(sheet, "float32")
    assert pixels.shape[1] > 2 * 6 * filter_sheets.SIDE and pixels.std() > 10
    deep = np.asarray(Image.open(tmp_path / "b.png"), "float32")[24:, 4 : 4 + filter_sheets.SIDE]
    assert np.abs(deep[: filter_sheets.SIDE] - 128).mean() > 25  # a projection that a reader can see


def test_the_middle_that_holds_most_of_the_projections_is_shown():
    projection = np.zeros((9, 9, 3), "float32")
    projection[3:6, 3:6] = 1
    projection[0, 0] = 0.5  # less than 5 % of the sum of squares
    assert filter_sheets.size_of_middle([projection, 100 * projection]) == 3
    assert (filter_sheets.middle(projection, 3) == 1).all()
    projection[1, 1] = 1
    assert filter_sheets.size_of_middle([projection]) == 7
    assert filter_sheets.size_of_middle([np.ones((4, 4, 3), "float32")]) == 4


def test_dreams_of_a_filter_are_beside_its_patches(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(filter_dreams, "STEPS", 2)
    sheets = {}
    for count in (0, 1, 2):
        flags = ("--channels", 3, "--dreams", count)
        show("block1_conv2", photos, tmp_path / f"{count}.png", *flags)
        sheets[count] = np.asarray(Image.open(tmp_path / f"{count}.png"), "float32")
    none, one, two = (sheet.shape[1] for sheet in sheets.values())
    assert 3 * filter_sheets.SIDE <= one - none == two - one < 3.2 * filter_sheets.SIDE
    assert "from 0 to 9" in show("block1_conv2", photos, tmp_path / "b.png", "--dreams", 10, status=2).stderr


def test_dreams_excite_their_filter_and_the_second_is_unlike_the_first():
    model, preprocess, _ = pretrained.load_network("vgg16")
    network = Deconvnet(model, preprocess, "block2_conv1")
    first, second = filter_dreams.FilterDreamer(network, count=2).dream(5, seed=0)
    assert first.shape == (64, 64, 3)
    features = vision.network_features(model, preprocess, ["block2_conv1"])
    mean = [np.asarray(features(x[None].astype("float32"))[0]).mean((0, 1, 2)) for x in (first, second)]
    grey = np.asarray(features(np.full((1, 64, 64, 3), 128, "float32"))[0]).mean((0, 1, 2))
    for activations in mean:
        assert activations[5] > 10 * max(grey[5], 0.1) and activations[5] > 2 * np.median(activations)
    # The same seed and start as for the second dream, but without the term that makes it unlike the first.
    objective = filter_dreams.FilterObjective(network, count=1)
    objective.targets["channel"] = np.float32(5)
    ascent, rng = fourier_images.FourierAscent(objective, 64), np.random.default_rng((0, 5, 1))
    free = ascent.ascend(fourier_images.nearly_grey(64, rng), rng, filter_dreams.STEPS, fourier_images.RATES["part"])
    together = [
        np.asarray(filter_dreams.coactivations(network.before_relu(x[None].astype("float32"))))
        for x in (first, second, free)
    ]
    assert (together[0] * together[1]).sum() < (together[0] * together[2]).sum()


def test_the_filters_with_the_strongest_activations_are_chosen(photos, tmp_path):
    chosen = show("block1_conv2", photos, tmp_path / "a.png", "--filters", 3).stdout
    network = Deconvnet(*pretrained.load_network("vgg16")[:2], "block1_conv2")
    pictures, _ = visualize_filters.read_pictures(network.model, config.Filters(images=(str(photos),), size=64))
    strongest = np.max([network.activations(picture).max((0, 1)) for picture in pictures], axis=0)
    # Compare the best three: the second and the third are nearly equal, and become the same number in bfloat16.
    best = sorted(f"filter_{channel}" for channel in np.argsort(strongest)[-3:])
    assert sorted(name for name in results(chosen) if name.startswith("filter")) == best


def test_the_evolution_of_filters_over_saved_epochs(tmp_path):
    folder = tmp_path / "digits"
    folder.mkdir()
    for i, image in enumerate(datasets.load_scikit_digits()[0][:12]):
        Image.fromarray(image).resize((32, 32)).save(folder / f"{i}.png")
    flags = ("--evolution", CLASSIFIER, "--images", folder, "--filters", 3, "--output", tmp_path / "a.png")
    printed = results(run("visualize_filters.py", *flags).stdout)
    assert printed["epochs"].split() == [path.stem for path in sorted(CLASSIFIER.glob("*.keras"))]
    assert len(printed["filters"].split()) == 3
    assert Image.open(tmp_path / "a.png").width > 6 * filter_sheets.SIDE


# --- Bad input ---


def test_a_broken_picture_is_named_and_the_others_are_used(photos, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    flags = ("--images", photos, tmp_path / "broken.png", "--filters", 1)
    assert "broken.png" in show("block1_conv1", photos, tmp_path / "a.png", *flags, status=1).stderr
    assert (tmp_path / "a.png").exists()
    flags = ("--images", tmp_path / "broken.png")
    assert "broken.png" in show("block1_conv1", photos, tmp_path / "b.png", *flags, status=2).stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "give a layer before --images, or --evolution and a folder"),
        (("block1_conv1",), "give pictures, or folders of them, with --images"),
        (("block1_conv9", "--images", "images/content"), "did you mean block1_conv"),
        (
            ("block1_conv1", "--images", "images/content", "--channels", 64),
            "block1_conv1 has the channels 0 to 63, and no 64",
        ),
        (("block1_conv1", "--images", "nothing.jpg"), "nothing.jpg does not exist"),
        (("block1_conv1", "--images", "images/content", "--filters", 0), "--filters must be at least 1"),
        (("block1_conv1", "--images", "images/content", "--size", 0), "--size must be from 32 to 2000"),
        (("block1_conv1", "--images", "images/content", "--output", "a.jpg"), "a.jpg should end in .png"),
        (("conv5", "--evolution", CLASSIFIER), "digit_classifier has no conv5"),
        (("--evolution", CLASSIFIER, "--weights", "imagenet"), "--weights cannot be combined with --evolution"),
        (("--evolution", CLASSIFIER, "--convnet", "vgg16"), "--convnet cannot be combined with --evolution"),
        (("--evolution", "images"), "images is not a folder of .keras files"),
        (("--evolution", "nothing"), "nothing"),
    ],
)
def test_wrong_options_are_refused_with_one_line(flags, message, tmp_path):
    output = () if "--output" in flags else ("--output", tmp_path / "a.png")
    assert message in run("visualize_filters.py", *flags, *output, status=2).stderr


def test_activations_are_nearly_equal_in_mixed_precision(photos):
    activations = []
    for precision in ("float32", "mixed_bfloat16"):
        hardware.use_precision(precision, "convolutions")
        network = Deconvnet(*pretrained.load_network("vgg16")[:2], "block2_conv1")
        activations.append(network.activations(imaging.load_image(photos / "china.png")))
    assert 0 < np.abs(activations[0] - activations[1]).mean() < 0.05 * np.abs(activations[0]).mean()


def test_epochs_are_in_the_order_of_their_numbers(tmp_path):
    for epoch in (1, 10, 2):
        (tmp_path / f"epoch_{epoch}.keras").touch()
    assert [path.stem for path in naming.saved_epochs(tmp_path)] == ["epoch_1", "epoch_2", "epoch_10"]
    assert naming.own_classifier(tmp_path).stem == "epoch_10" and naming.own_classifier("VGG_16") is None


def test_a_picture_is_not_replaced_by_its_sheet(photos, tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes((photos / "china.png").read_bytes())
    flags = ("--images", copy, "--overwrite")
    assert "replace" in show("block1_conv1", photos, copy, *flags, status=2).stderr


def test_a_network_that_is_not_a_chain_is_refused(photos, tmp_path):
    model = keras.applications.MobileNetV2(include_top=False, weights=None)
    model.save_weights(tmp_path / "a.weights.h5")
    flags = ("--convnet", "mobilenet_v2", "--weights", tmp_path / "a.weights.h5")
    assert "chains" in show("block_3_expand", photos, tmp_path / "a.png", *flags, status=2).stderr
