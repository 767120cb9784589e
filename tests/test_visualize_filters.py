"""visualize_filters.py: receptive fields, the way back through the network, the sheets, and bad input."""

import keras
import numpy as np
import pytest
from conftest import ROOT, results, run
from PIL import Image

import config
import visualize_filters
from atelier import hardware, imaging, naming
from atelier.dream import filter_dreams
from atelier.networks import pretrained, vision
from atelier.pixel_rnn import datasets
from visualize_filters import Activation, Deconvnet, ReceptiveField, peaks

layers = keras.layers
CLASSIFIER = ROOT / "trained/digit_classifier"


@pytest.fixture(autouse=True)
def quick(vgg_once):
    pass


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of two real photos, small."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("china", "chelsea"):
        Image.open(ROOT / f"images/content/{name}.jpg").resize((96, 72)).save(folder / f"{name}.png")
    return folder


def look_at(layer, photos, result, *flags, status=0):
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
def test_receptive_fields_of_vgg_are_those_of_arithmetic(layer, size, stride):
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
def test_a_place_sees_its_receptive_field_and_no_more(padding):
    network = Deconvnet(small_network(padding), lambda x: x, "two")
    assert network.field.size == 3 + 1 + 4 * 2
    picture = np.random.default_rng(0).uniform(0, 255, (40, 36, 3)).astype("float32")
    before = network.see(picture)
    row, column = 9, 7
    top, left = network.field.first_pixel(row), network.field.first_pixel(column)
    outside = np.zeros_like(picture)
    window = np.s_[top : top + network.field.size, left : left + network.field.size]
    outside[window] = picture[window]
    np.testing.assert_allclose(network.see(outside)[row, column], before[row, column], rtol=1e-4, atol=1e-3)
    for y, x in ((top, left), (top + network.field.size - 1, left + network.field.size - 1)):
        edge = picture.copy()
        edge[y, x] += 1000
        assert np.abs(network.see(edge)[row, column] - before[row, column]).max() > 1e-3


# --- The way back ---


def convolve(x, kernel, bias):
    """Convolve H x W x C with zeros beyond the edges, in NumPy, and rectify."""
    size = kernel.shape[0]
    padded = np.pad(x, ((size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(0, 1))
    return np.maximum(np.einsum("hwcij,ijck->hwk", windows, kernel) + bias, 0)


def deconvolve(y, kernel):
    """Rectify H x W x K, and convolve it with the kernel turned round: H x W x C."""
    return convolve_linear(np.maximum(y, 0), kernel[::-1, ::-1].swapaxes(2, 3))


def convolve_linear(x, kernel):
    size = kernel.shape[0]
    padded = np.pad(x, ((size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(0, 1))
    return np.einsum("hwcij,ijck->hwk", windows, kernel)


def test_projections_are_those_of_an_independent_deconvolutional_network():
    model = small_network()
    network = Deconvnet(model, lambda x: x - 100, "two")
    picture = np.random.default_rng(1).uniform(0, 255, (24, 20, 3)).astype("float32")
    (kernel1, bias1), (kernel2, bias2) = (model.get_layer(name).get_weights() for name in ("one", "two"))
    first = convolve(picture - 100, kernel1, bias1)
    blocks = first.reshape(12, 2, 10, 2, 4).transpose(0, 2, 4, 1, 3).reshape(12, 10, 4, 4)
    switches = blocks.argmax(3)
    second = convolve(blocks.max(3), kernel2, bias2)
    np.testing.assert_allclose(network.see(picture), second, rtol=1e-4, atol=1e-2)
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
    assert np.abs(found).sum() == pytest.approx(np.abs(expected).sum(), rel=1e-4)  # nothing lies outside


def test_peaks_are_the_largest_and_apart():
    features = np.zeros((6, 6), "float32")
    features[1, 1], features[1, 2], features[4, 4], features[5, 0] = 5, 4, 3, -1
    assert peaks(features, 9, 1) == [(5, 1, 1), (4, 1, 2), (3, 4, 4)]
    assert peaks(features, 9, 2) == [(5, 1, 1), (3, 4, 4)]
    assert peaks(features, 1, 2) == [(5, 1, 1)]


def test_a_field_beyond_the_edge_is_filled(photos):
    network = Deconvnet(*pretrained.load_network("vgg16")[:2], "block3_conv1")
    picture = np.full((32, 32, 3), 200, "float32")
    corner = network.cut(picture, Activation(1.0, 0, 0, 0, 0), 128)
    assert corner.shape == (24, 24, 3) and corner[0, 0, 0] == 128 and corner[-1, -1, 0] == 200
    assert isinstance(network.field, ReceptiveField)


# --- The sheets ---


def test_a_sheet_shows_the_filters_that_were_asked_for(photos, tmp_path):
    printed = results(look_at("block2_conv1", photos, tmp_path / "a.png", "--channels", 3, 40).stdout)
    assert printed["sheet"] == str(tmp_path / "a.png") and printed["patches"] == "10 pixels across"
    strengths = list(map(float, printed["filter_3"].removeprefix("activations ").split()))
    assert len(strengths) == 9 and strengths == sorted(strengths, reverse=True) and "filter_40" in printed
    Image.new("RGB", (640, 40)).save(tmp_path / "narrow.png")
    flags = ("--images", photos, tmp_path / "narrow.png", "--filters", 1, "--dreams", 0)
    assert "narrow.png" in look_at("block5_conv1", photos, tmp_path / "b.png", *flags, status=1).stderr
    with Image.open(tmp_path / "a.png") as sheet:
        assert "visualize_filters.py" in sheet.text["command"]
        pixels = np.asarray(sheet, "float32")
    assert pixels.shape[1] > 2 * 6 * visualize_filters.SIDES[0] and pixels.std() > 10


def test_a_filters_own_dreams_stand_beside_its_patches(photos, tmp_path):
    sheets = {}
    for count in (0, 1, 2):
        flags = ("--channels", 3, "--dreams", count)
        look_at("block1_conv2", photos, tmp_path / f"{count}.png", *flags)
        sheets[count] = np.asarray(Image.open(tmp_path / f"{count}.png"), "float32")
    none, one, two = (sheet.shape[1] for sheet in sheets.values())
    assert 3 * visualize_filters.SIDES[0] <= one - none == two - one < 3.2 * visualize_filters.SIDES[0]
    assert "from 0 to 9" in look_at("block1_conv2", photos, tmp_path / "b.png", "--dreams", 10, status=2).stderr


def test_a_dream_excites_its_filter_and_others_of_it_are_unlike_the_first():
    model, preprocess, _ = pretrained.load_network("vgg16")
    studio = filter_dreams.FilterStudio(Deconvnet(model, preprocess, "block2_conv1"), count=2)
    first, second = studio.dream(5, seed=0)
    assert first.shape == (64, 64, 3)
    look = vision.network_features(model, preprocess, ["block2_conv1"])
    mean = [np.asarray(look(x[None].astype("float32"))[0]).mean((0, 1, 2)) for x in (first, second)]
    grey = np.asarray(look(np.full((1, 64, 64, 3), 128, "float32"))[0]).mean((0, 1, 2))
    for excited in mean:
        assert excited[5] > 10 * max(grey[5], 0.1) and excited[5] > 2 * np.median(excited)
    studio.count = 1  # the same seeds, where nothing is said of others
    alike = filter_dreams.imagined.Imaginer(studio, filter_dreams.STEPS, filter_dreams.imagined.RATES["part"])
    rng = np.random.default_rng((0, 5, 1))
    studio.targets = {"channel": np.float32(5), "others": np.zeros((1, 128, 128), "float32")}
    free = alike.dream(filter_dreams.imagined.beginning(64, rng), rng)
    together = [np.asarray(studio.look(x[None].astype("float32"))) for x in (first, second, free)]
    assert (together[0] * together[1]).sum() < (together[0] * together[2]).sum()


def test_the_most_excited_filters_are_chosen(photos, tmp_path):
    chosen = look_at("block1_conv2", photos, tmp_path / "a.png", "--filters", 3).stdout
    network = Deconvnet(*pretrained.load_network("vgg16")[:2], "block1_conv2")
    pictures, _ = visualize_filters.read_pictures(network.model, config.Filters(images=(str(photos),), size=64))
    strongest = np.max([network.see(picture).max((0, 1)) for picture in pictures], axis=0)
    # Three: the second and the third are nearly alike, and the same number in bfloat16.
    best = sorted(f"filter_{channel}" for channel in np.argsort(strongest)[-3:])
    assert sorted(name for name in results(chosen) if name.startswith("filter")) == best


def test_the_evolution_of_filters_over_saved_epochs(tmp_path):
    sevens = tmp_path / "digits"
    sevens.mkdir()
    for i, image in enumerate(datasets.load_scikit_digits()[0][:12]):
        Image.fromarray(image).resize((32, 32)).save(sevens / f"{i}.png")
    flags = ("--evolution", CLASSIFIER, "--images", sevens, "--filters", 3, "--output", tmp_path / "a.png")
    printed = results(run("visualize_filters.py", *flags).stdout)
    assert printed["epochs"].split() == [path.stem for path in sorted(CLASSIFIER.glob("*.keras"))]
    assert len(printed["filters"].split()) == 3
    assert Image.open(tmp_path / "a.png").width > 6 * visualize_filters.SIDES[0]


# --- Bad input ---


def test_a_broken_picture_is_named_and_the_others_are_used(photos, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    flags = ("--images", photos, tmp_path / "broken.png", "--filters", 1)
    assert "broken.png" in look_at("block1_conv1", photos, tmp_path / "a.png", *flags, status=1).stderr
    assert (tmp_path / "a.png").exists()
    flags = ("--images", tmp_path / "broken.png")
    assert "broken.png" in look_at("block1_conv1", photos, tmp_path / "b.png", *flags, status=2).stderr


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ((), "--evolution"),
        (("block1_conv1",), "--images"),
        (("block1_conv9", "--images", "images/content"), "did you mean block1_conv"),
        (("block1_conv1", "--images", "images/content", "--channels", 64), "63"),
        (("block1_conv1", "--images", "nothing.jpg"), "nothing.jpg"),
        (("block1_conv1", "--images", "images/content", "--filters", 0), "--filters"),
        (("block1_conv1", "--images", "images/content", "--size", 0), "--size"),
        (("block1_conv1", "--images", "images/content", "--output", "a.jpg"), ".png"),
        (("conv5", "--evolution", CLASSIFIER), "conv3"),
        (("--evolution", CLASSIFIER, "--weights", "imagenet"), "--weights"),
        (("--evolution", CLASSIFIER, "--convnet", "vgg16"), "--convnet"),
        (("--evolution", "images"), "images"),
        (("--evolution", "nothing"), "nothing"),
    ],
)
def test_wrong_flags_are_one_line(flags, named, tmp_path):
    output = () if "--output" in flags else ("--output", tmp_path / "a.png")
    assert named in run("visualize_filters.py", *flags, *output, status=2).stderr


def test_mixed_precision_sees_nearly_the_same(photos):
    seen = []
    for precision in ("float32", "mixed_bfloat16"):
        hardware.use_precision(precision, "convolutions")
        network = visualize_filters.Deconvnet(*pretrained.load_network("vgg16")[:2], "block2_conv1")
        seen.append(network.see(imaging.load_image(photos / "china.png")))
    assert 0 < np.abs(seen[0] - seen[1]).mean() < 0.05 * np.abs(seen[0]).mean()


def test_epochs_are_in_the_order_of_their_numbers(tmp_path):
    for epoch in (1, 10, 2):
        (tmp_path / f"epoch_{epoch}.keras").touch()
    assert [path.stem for path in naming.saved_epochs(tmp_path)] == ["epoch_1", "epoch_2", "epoch_10"]
    assert naming.own_classifier(tmp_path).stem == "epoch_10" and naming.own_classifier("VGG_16") is None


def test_a_picture_is_not_replaced_by_its_sheet(photos, tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes((photos / "china.png").read_bytes())
    flags = ("--images", copy, "--overwrite")
    assert "replace" in look_at("block1_conv1", photos, copy, *flags, status=2).stderr


def test_a_network_that_is_no_chain_is_refused(photos, tmp_path):
    model = keras.applications.MobileNetV2(include_top=False, weights=None)
    model.save_weights(tmp_path / "a.weights.h5")
    flags = ("--convnet", "mobilenet_v2", "--weights", tmp_path / "a.weights.h5")
    assert "chains" in look_at("block_3_expand", photos, tmp_path / "a.png", *flags, status=2).stderr
