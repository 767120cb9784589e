"""classify_mnist.py, run as a command: accuracy and likelihood, the posterior, damaged models."""

import csv
import json
import shutil
import zipfile

import keras
import numpy as np
import pytest
from conftest import ROOT, results, run, write_idx_folder
from PIL import Image

import classify_mnist
import util
from atelier import errors
from atelier.pixel_rnn import model_files, model_meta, strangers


@pytest.fixture(scope="session")
def classified(tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classified")
    flags = ("--csv", folder / "all.csv", "--output", folder / "digits_confusion.png", "--errors", "--plot")
    output = run("classify_mnist.py", tiny_models, *flags).stdout
    with open(folder / "all.csv", newline="") as file:
        return results(output), list(csv.DictReader(file)), folder


def test_the_figures_agree_with_the_csv(classified, tiny_models, digits):
    figures, rows, folder = classified
    assert len(rows) == 360 == int(figures["images"])
    accuracy = np.mean([row["label"] == row["prediction"] for row in rows])
    assert figures["accuracy"] == f"{accuracy:.5f}"
    assert accuracy > 0.3
    for row in rows:
        posterior = np.array([float(row[f"p{digit}"]) for digit in range(10)])
        assert posterior.sum() == pytest.approx(1, abs=1e-4)
        assert posterior.argmax() == int(row["prediction"])
    assert [int(row["label"]) for row in rows] == digits[3].tolist()
    nats = float(figures["log_likelihood"].split()[0])
    assert float(figures["bits_per_pixel"]) == pytest.approx(-nats / np.log(2) / 64, abs=1e-3)
    assert Image.open(folder / "digits_confusion.png").size == (600, 600)


def test_the_calibration_error_agrees_with_the_csv(classified):
    figures, rows, folder = classified
    confidence = np.array([max(float(row[f"p{digit}"]) for digit in range(10)) for row in rows])
    right = np.array([row["label"] == row["prediction"] for row in rows])
    bins = np.minimum((confidence * 15).astype(int), 14)
    differences = [abs(confidence[bins == i].sum() - right[bins == i].sum()) for i in range(15)]
    assert float(figures["calibration_error"]) == pytest.approx(sum(differences) / len(rows), abs=1e-4)
    assert "classify_mnist.py" in Image.open(folder / "digits_reliability.png").text["command"]


def test_the_sheet_shows_each_error(classified):
    figures, rows, folder = classified
    wrong = sum(row["label"] != row["prediction"] for row in rows)
    assert figures["errors"] == f"{wrong}, {folder / 'digits_errors.png'}"
    width, height = Image.open(folder / "digits_errors.png").size
    assert width // 64 == 16 and height // 84 == -(-wrong // 16)


def test_strangers_are_refused_by_their_likelihood(digits, tmp_path):
    few = write_idx_folder(tmp_path / "letters", *digits)
    flags = ("--num-images", 100, "--reject", "--strangers", few, "--output", tmp_path / "c.png")
    figures = results(run("classify_mnist.py", "trained/digits", *flags).stdout)
    assert figures["refused_noise"].startswith("1.0000 of 100, ")
    assert 0.5 < float(figures["refused_letters"].split()[0]) < 1  # some letters, like O, look like digits
    # The digits themselves are refused as often as allowed: one of a hundred.
    assert figures["refused_given_letters"] == "0.0100 of 100, area under the ROC curve 0.5000"


def test_the_share_refused_is_that_of_the_highest_threshold_allowed():
    digits = np.arange(100.0)  # a threshold of 1 refuses one of a hundred
    assert strangers.share_refused(digits, np.array([-5, 0.5, 1.5, 50])) == (
        0.5,
        pytest.approx((100 + 99 + 98 + 49.5) / 400),
    )


def test_the_posterior_follows_bayes_rule(classified, tiny_models, digits):
    _, rows, _ = classified
    meta = model_meta.load_meta(tiny_models)
    tokens = util.to_sequences(digits[2][:5], 8, 7)
    models = [model_files.load_rnn(tiny_models, digit, meta) for digit in range(10)]
    logits = np.array([np.asarray(model(tokens), "float64") for model in models])
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = np.take_along_axis(probabilities, tokens[None, :, :, None].astype(int), -1)[..., 0]
    likelihoods = chosen.prod(-1).T
    expected = likelihoods / likelihoods.sum(1, keepdims=True)
    from_csv = [[float(row[f"p{digit}"]) for digit in range(10)] for row in rows[:5]]
    np.testing.assert_allclose(from_csv, expected, rtol=2e-3, atol=1e-6)


def test_empirical_priors_count_the_training_pictures(tiny_models):
    import classify_mnist

    meta = model_meta.load_meta(tiny_models)
    counts = np.array([entry["pictures"] for entry in meta["classes"].values()])
    assert counts.sum() == 1437
    np.testing.assert_allclose(np.exp(classify_mnist.class_priors(meta, "empirical")), counts / counts.sum())
    np.testing.assert_allclose(np.exp(classify_mnist.class_priors(meta, "uniform")), 0.1)
    del meta["classes"]["0"]["pictures"]
    with pytest.raises(errors.InputError, match="uniform"):
        classify_mnist.class_priors(meta, "empirical")


def test_one_picture_gets_a_posterior(tiny_models, picture, classified):
    figures = results(run("classify_mnist.py", tiny_models, "--image", picture).stdout)
    assert next(iter(figures)) == "digit"
    best, best_probability = figures.pop("digit").removesuffix(")").split(" (")
    others = [float(other) for other in figures.values()]
    assert len(others) == 9 and best not in figures and best_probability == f"{float(best_probability):.3f}"
    assert others == sorted(others, reverse=True) and others[0] <= float(best_probability) + 1e-3
    row = classified[1][0]
    assert best == row["prediction"]
    for digit, probability in (figures | {best: best_probability}).items():
        assert float(probability) == pytest.approx(float(row[f"p{digit}"]), abs=1e-3)


def test_the_shipped_tutorial_models_classify_the_first_500_test_digits(first_500):
    result = run("classify_mnist.py", "trained/mnist", "--data", first_500, "--output", first_500 / "c.png")
    figures = results(result.stdout)
    assert figures["images"] == "500" and figures["accuracy"] == "0.98400"
    assert float(figures["log_likelihood"].split()[0]) == pytest.approx(-41.281, rel=1e-3)


@pytest.fixture
def first_500(tmp_path):
    """A folder with the first 500 test digits of MNIST."""
    for kind in ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"):
        digits = ROOT / "tests/data/mnist_first_500" / f"t10k-{kind}"
        shutil.copy(digits, tmp_path)
        shutil.copy(digits, tmp_path / f"train-{kind}")  # must exist, although classifying does not use it
    return tmp_path


@pytest.mark.slow
def test_the_shipped_record_models_classify_the_first_500_test_digits(first_500):
    result = run("classify_mnist.py", "trained/mnist_record", "--data", first_500, "--output", first_500 / "c.png")
    figures = results(result.stdout)
    assert figures["images"] == "500" and figures["accuracy"] == "0.99000"
    assert float(figures["log_likelihood"].split()[0]) == pytest.approx(-53.774, rel=1e-3)


def test_the_shipped_network_of_all_digits_has_its_likelihood_on_the_first_500_test_digits(first_500):
    figures = results(run("classify_mnist.py", "trained/mnist_binarized", "--data", first_500).stdout)
    assert figures["images"] == "500"
    assert float(figures["log_likelihood"].split()[0]) == pytest.approx(-76.847, rel=1e-3)


def test_doubtful_pictures_are_also_read_at_other_places_in_the_blocks():
    """Here the likelihood of class 1 is that of a picture whose lit pixel is in the first column of its block."""
    images = np.zeros((2, 4, 4), "uint8")
    images[0, 0, 2] = images[1, 0, 1] = 255
    classifier = classify_mnist.Classifier.__new__(classify_mnist.Classifier)
    classifier.config, classifier.priors, read = {"block": 2, "size": 4}, np.zeros(2), []

    def log_likelihoods(pictures):
        read.append(pictures)
        evidence = np.where(pictures[:, :, ::2].any(axis=(1, 2)), 2.0, -2.0)
        return np.stack([np.zeros(len(pictures)), evidence], axis=1)

    classifier.log_likelihoods = log_likelihoods
    posterior = classifier.classify(images, log_likelihoods(images))
    np.testing.assert_allclose(posterior, 0.5)  # at two of the four places the pixel is in the first column
    assert [np.argwhere(copy[0]).tolist() for copy in read[1:]] == [[[0, 3]], [[1, 2]], [[1, 3]]]
    certain = classifier.posterior(np.array([[0.0, 9.0], [0.0, 9.0]]))
    np.testing.assert_array_equal(classifier.classify(images, np.array([[0.0, 9.0], [0.0, 9.0]])), certain)
    assert len(read) == 4


@pytest.mark.slow
def test_the_shipped_tutorial_models_reach_the_published_accuracy(shared_data, tmp_path):
    """This test uses the first 2,000 test pictures. With all 10,000, classify_mnist.py prints the README's figure."""
    flags = ("--data", shared_data / "mnist", "--num-images", 2000, "--output", tmp_path / "c.png")
    assert float(results(run("classify_mnist.py", "trained/mnist", *flags).stdout)["accuracy"]) > 0.955


def test_the_shipped_digits_models_classify_held_out_digits(tmp_path):
    figures = results(run("classify_mnist.py", "trained/digits", "--output", tmp_path / "c.png").stdout)
    assert float(figures["accuracy"]) > 0.9


def test_the_tutorials_own_models_classify_digits(shared_data, tmp_path):
    flags = ("--data", shared_data / "mnist", "--num-images", 300, "--output", tmp_path / "c.png")
    result = run("classify_mnist.py", shared_data / "tutorial_models", *flags)
    assert float(results(result.stdout)["accuracy"]) > 0.97
    assert "without a model" in result.stderr


@pytest.mark.slow
def test_models_trained_in_any_order_classify_digits(tmp_path):
    flags = (
        "--units",
        16,
        "--batch-size",
        8,
        "--epochs",
        16,
    )
    for digit in (6, 0):
        run("train_rnn.py", "digits", "--digit", digit, *flags, "--output", tmp_path / "two")
    figures = results(run("classify_mnist.py", tmp_path / "two", "--output", tmp_path / "c.png").stdout)
    assert float(figures["accuracy"]) > 0.9 and int(figures["images"]) < 100


# --- Damaged models ---


def break_by_removing_model(folder):
    (folder / "model_7.keras").unlink()
    return "model_7.keras is missing"


def break_by_removing_meta(folder):
    (folder / "meta.json").unlink()
    return "no meta.json"


def break_by_truncating_meta(folder):
    (folder / "meta.json").write_text('{"recipe": {"size"')
    return "meta.json is damaged"


def break_by_changing_size(folder):
    meta = json.loads((folder / "meta.json").read_text())
    meta["recipe"]["size"] = 9
    (folder / "meta.json").write_text(json.dumps(meta))
    return "64 pixels"


def break_by_truncating_model(folder):
    path = folder / "model_4.keras"
    path.write_bytes(path.read_bytes()[:5000])
    return "model_4.keras can't be loaded"


def break_by_lambda_layer(folder):

    inputs = keras.Input((64,), dtype="int32")
    marker = folder / "ran"
    function = eval(f"lambda x: (open({str(marker)!r}, 'w'), x)[1]")
    keras.Model(inputs, keras.layers.Lambda(function)(inputs)).save(folder / "model_2.keras")
    marker.unlink(missing_ok=True)
    return "model_2.keras can't be loaded"


def break_by_custom_class(folder):
    path = folder / "model_5.keras"
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    model_config = json.loads(contents["config.json"])
    model_config |= {"module": "builtins", "class_name": "exec", "registered_name": None}
    contents["config.json"] = json.dumps(model_config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return "model_5.keras can't be loaded"


@pytest.mark.parametrize("damage", [value for name, value in sorted(globals().items()) if name.startswith("break_")])
def test_a_damaged_model_is_reported_in_one_line(copied_models, tmp_path, damage):
    complaint = damage(copied_models)
    result = run("classify_mnist.py", copied_models, "--output", tmp_path / "c.png", status=2)
    assert complaint in result.stderr
    assert not (tmp_path / "c.png").exists() and not (copied_models / "ran").exists()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--image", "README.md"), "not a picture"),
        (("--image", "absent.png"), "absent.png"),
        (("--num-images", 0), "--num-images"),
        (("--data", "absent"), "does not exist"),
        (("--reject", "--strangers", "absent"), "does not exist"),
        (("--strangers", "fashion_mnist"), "--strangers needs --reject"),
        (("--image", "README.md", "--errors"), "--errors is for a set of test pictures"),
        (("--image", "README.md", "--csv", "a.csv"), "--csv is for a set of test pictures"),
        (("--image", "README.md", "--output", "a.png"), "--output is for a set of test pictures"),
    ],
)
def test_bad_flags_are_reported_in_one_line(tiny_models, flags, complaint):
    assert complaint in run("classify_mnist.py", tiny_models, *flags, status=2).stderr


def test_a_missing_folder_is_reported_in_one_line(tmp_path):
    assert "there are no models" in run("classify_mnist.py", tmp_path / "absent", status=2).stderr
