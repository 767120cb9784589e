"""classifiers.py and keras_files.py: users' model files, their layers, input ranges and logits, and what is refused."""

import json
import pathlib
import zipfile

import h5py
import keras
import numpy as np
import pytest
from conftest import ROOT, results, run
from keras import layers

from atelier import errors, naming
from atelier.networks import classifiers, keras_files, pretrained, vision


def transfer_model(*head, side=32, base_name="mobilenet_v2_small", first_layers=()):
    """Build a model as in tutorials on transfer learning: a base model with its own input, pooling and a head."""
    base_input = layers.Input((side, side, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="conv")(base_input)
    base = keras.Model(
        base_input, layers.Conv2D(12, 3, padding="same", activation="relu", name="top")(x), name=base_name
    )
    inputs = layers.Input((side, side, 3))
    x = inputs
    for layer in first_layers:
        x = layer(x)
    x = layers.GlobalAveragePooling2D()(base(x))
    for layer in head or (layers.Dense(5, activation="softmax"),):
        x = layer(x)
    return keras.Model(inputs, x)


def classifier_with_nested_head(*last):
    """Build a classifier whose last layers are a nested model."""
    nested_head = keras.Sequential([layers.Input((12,)), layers.Dense(6, activation="relu"), *last])
    return transfer_model(nested_head)


HEADS = {
    "dense": lambda: transfer_model(layers.Dropout(0.3), layers.Dense(5, activation="softmax")),
    "logits": lambda: transfer_model(layers.Dense(5)),
    "activation": lambda: transfer_model(layers.Dense(5), layers.Activation("softmax")),
    "softmax": lambda: transfer_model(layers.Dense(5), layers.Softmax()),
    "nested": lambda: classifier_with_nested_head(layers.Dense(5, activation="softmax")),
    "softmax_nested": lambda: classifier_with_nested_head(layers.Dense(5), layers.Softmax()),
    "linear_after_softmax": lambda: transfer_model(layers.Dense(5, activation="softmax"), layers.Activation("linear")),
    "sigmoid": lambda: transfer_model(layers.Dense(5, activation="sigmoid")),
}


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("head", HEADS)
def test_classifiers_return_their_logits(head, suffix, tmp_path):
    keras.utils.set_random_seed(1)
    path = tmp_path / f"own{suffix}"
    HEADS[head]().save(path)
    model, preprocess, _ = pretrained.load_network(path, top=True)
    pictures = 255 * np.random.default_rng(0).random((3, 32, 32, 3)).astype("float32")
    logits = np.asarray(model(preprocess(pictures)))
    assert logits.min() < 0 and np.abs(logits.sum(1) - 1).min() > 1e-3
    probabilities = keras_files.load_keras_model(path).predict(np.asarray(preprocess(pictures)), verbose=0)
    activation = {"logits": np.asarray, "sigmoid": keras.ops.sigmoid}.get(head, keras.activations.softmax)
    np.testing.assert_allclose(activation(logits), probabilities, atol=1e-5)


def test_features_of_layers_in_nested_models(tmp_path):
    path = tmp_path / "own.keras"
    model = transfer_model()
    model.save(path)
    printed = results(run("deepdream.py", "--list-layers", "--convnet", path).stdout)
    assert printed == {"conv": "8", "top": "12"}
    loaded, preprocess, _ = pretrained.load_network(path)
    base = next(layer for layer in loaded.layers if isinstance(layer, keras.Model))
    picture = 255 * np.random.default_rng(0).random((1, 32, 32, 3)).astype("float32")
    features = vision.network_features(loaded, preprocess, ["top", "conv"])(picture)
    expected = keras.Model(base.inputs, [base.get_layer(name).output for name in ("top", "conv")])(preprocess(picture))
    for ours, theirs in zip(features, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert "call" not in vars(base.get_layer("top"))  # the layer has its own method again
    printed = run(
        "deepdream.py", "noise", "--convnet", path, "--size", 40, "--steps", 2, "--output", tmp_path / "a.png"
    )
    assert results(printed.stdout)["layers"] == "top"


def test_two_layers_with_the_same_name_are_distinguished():
    def block(name):
        picture = layers.Input((8, 8, 3))
        convolution = layers.Conv2D(3, 3, padding="same", name="conv")
        return keras.Model(picture, convolution(picture), name=name), convolution

    (first, convolution1), (second, convolution2), picture = block("first"), block("second"), layers.Input((8, 8, 3))
    convolution1.bias.assign([1.0] * 3)
    convolution2.bias.assign([2.0] * 3)
    model = keras.Model(picture, second(first(picture)))
    names = ["conv", "second/conv"]
    assert list(vision.layers_with_places(model)) == names
    features = vision.network_features(model, lambda x: x, names)(np.zeros((1, 8, 8, 3), "float32"))
    np.testing.assert_allclose(features[0], 1, atol=1e-5)
    np.testing.assert_allclose(features[1], second(np.ones((1, 8, 8, 3), "float32")), atol=1e-5)


def test_a_classifier_with_one_logit_has_two_classes(tmp_path):
    path = tmp_path / "own.keras"
    transfer_model(layers.Dense(1, activation="sigmoid")).save(path)
    (tmp_path / "meta.json").write_text(json.dumps({"classes": ["cat", "dog"]}))
    printed = {}
    for name in ("cat", "dog"):
        flags = ("--convnet", path, "--class", name, "--size", 40, "--steps", 5, "--output", tmp_path / f"{name}.png")
        printed[name] = results(run("deepdream.py", "noise", *flags).stdout)
    before = [float(figures["strength_before"]) for figures in printed.values()]
    assert before[0] == -before[1]
    assert all(float(figures["strength_after"]) > float(figures["strength_before"]) for figures in printed.values())


def test_depthwise_convolutions_of_keras_2_are_read(tmp_path):
    path = tmp_path / "old.h5"
    picture = layers.Input((8, 8, 3))
    model = keras.Model(picture, layers.DepthwiseConv2D(3)(picture))
    model.save(path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1]["config"]["groups"] = 1
        file.attrs["model_config"] = json.dumps(config)
    pictures = np.random.default_rng(0).random((1, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(classifiers.load_classifier(path)(pictures), model(pictures), atol=1e-6)


def test_the_input_range_comes_from_the_base_or_from_the_flag(tmp_path):
    pictures = np.full((1, 32, 32, 3), 255, "float32") * np.float32([1, 0.5, 0])

    def input_of(model, *input_range):
        path = tmp_path / "own.keras"
        model.save(path)
        preprocess, description = classifiers.input_preprocessing(classifiers.load_classifier(path), *input_range)
        return description, [round(float(x), 2) for x in np.asarray(preprocess(pictures))[0, 0, 0]]

    assert input_of(transfer_model()) == ("MobileNetV2's", [1, 0, -1])
    assert input_of(transfer_model(first_layers=[layers.RandomFlip()])) == ("MobileNetV2's", [1, 0, -1])
    augmentation = keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.1)])
    assert input_of(transfer_model(first_layers=[augmentation])) == ("MobileNetV2's", [1, 0, -1])
    preprocess_input = keras.applications.mobilenet_v2.preprocess_input
    assert input_of(transfer_model(first_layers=[augmentation, preprocess_input])) == ("0..255", [255, 127.5, 0])
    steps = [layers.Input((32, 32, 3)), layers.Rescaling(0.1), *transfer_model().layers[1:]]
    with_rescaling = keras.Sequential(steps, name="MobileNetV2_mine")
    assert input_of(with_rescaling) == ("0..255", [255, 127.5, 0])
    assert input_of(transfer_model(first_layers=[layers.Rescaling(1 / 127.5, -1)])) == ("0..255", [255, 127.5, 0])
    assert input_of(transfer_model(base_name="mine")) == ("0..255", [255, 127.5, 0])
    assert input_of(transfer_model(), "0..1") == ("0..1", [1, 0.5, 0])
    assert input_of(transfer_model(), "-1..1") == ("-1..1", [1, 0, -1])
    assert input_of(transfer_model(), "caffe") == ("caffe", [-103.94, 10.72, 131.32])
    assert input_of(transfer_model(), "0..255") == ("0..255", [255, 127.5, 0])


def test_the_flag_input_range_is_used_and_printed(tmp_path):
    path = tmp_path / "own.h5"
    transfer_model().save(path)
    flags = ("noise", "--convnet", path, "--class", 1, "--size", 40, "--steps", 2, "--overwrite")
    runs = [
        run("deepdream.py", *flags, *more, "--output", tmp_path / "a.png")
        for more in ((), ("--input-range", "-1..1"), ("--input-range", "0..1"))
    ]
    assert "MobileNetV2's" in runs[0].stderr and "the input 0..1" in runs[2].stderr
    before = [results(one.stdout)["strength_before"] for one in runs]
    assert before[0] == before[1] != before[2]
    error = run("deepdream.py", "noise", "--input-range", "0..1", "--output", tmp_path / "b.png", status=2).stderr
    assert "--input-range is for a classifier of your own" in error


# --- What is refused ---------------------------------------------------------------------------


def error_for(model, tmp_path, *flags):
    path = tmp_path / "own.keras"
    model.save(path)
    return run("deepdream.py", "noise", "--convnet", path, *flags, "--output", tmp_path / "a.png", status=2).stderr


def test_unsuitable_networks_and_classes_are_refused(tmp_path):
    one, other = layers.Input((8, 8, 3)), layers.Input((8, 8, 3))
    assert "takes 2 inputs" in error_for(keras.Model([one, other], layers.Add()([one, other])), tmp_path)
    four = keras.Sequential([layers.Input((8, 8, 4)), layers.Conv2D(2, 3)])
    assert "its input is 8 x 8 x 4" in error_for(four, tmp_path)
    volume = keras.Sequential([layers.Input((8, 8, 8, 1)), layers.Conv3D(2, 3)])
    assert "its input is 8 x 8 x 8 x 1" in error_for(volume, tmp_path)
    flat = keras.Sequential([layers.Input((32, 32, 1)), layers.Flatten(), layers.Dense(4)])
    assert "no layer whose output has rows and columns" in error_for(flat, tmp_path)
    assert "is no classifier" in error_for(transfer_model(layers.Reshape((3, 4))), tmp_path, "--class", 1)
    assert "whose logits are unknown" in error_for(
        transfer_model(layers.Dense(4), layers.Reshape((4,))), tmp_path, "--class", 1
    )
    assert "a relu" in error_for(transfer_model(layers.Dense(4, activation="relu")), tmp_path, "--class", 1)
    assert "there is no class 5" in error_for(transfer_model(), tmp_path, "--class", 5)
    assert "does not name its classes" in error_for(transfer_model(), tmp_path, "--class", "hound")


def test_files_that_contain_code_or_no_model_are_refused_and_never_run(tmp_path):
    marker = tmp_path / "ran"
    layer_with_code = layers.Lambda(lambda x, name=str(marker): pathlib.Path(name).touch() or x, name="trap")

    def error_of_loading(path):
        with pytest.raises(errors.InputError) as error:
            classifiers.load_classifier(path)
        assert not marker.exists()
        return str(error.value)

    model_with_code = keras.Sequential([layers.Input((8, 8, 3)), layer_with_code])
    assert marker.exists()  # Keras ran the code when it built the layer
    marker.unlink()
    for suffix in (".keras", ".h5"):
        model_with_code.save(tmp_path / f"code{suffix}")
        assert "contains code in its layer trap (a Lambda)" in error_of_loading(tmp_path / f"code{suffix}")
    good = tmp_path / "good.keras"
    transfer_model().save(good)
    with zipfile.ZipFile(good) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for module, kind in (("os", "system"), ("keras.utils", "get_file"), ("mine.layers", "Dense"), (None, "Mine")):
        config = json.loads(parts["config.json"])
        config["config"]["layers"][-1] |= {"module": module, "class_name": kind, "registered_name": None}
        with zipfile.ZipFile(tmp_path / "bad.keras", "w") as archive:
            for part, content in (parts | {"config.json": json.dumps(config)}).items():
                archive.writestr(part, content)
        assert f"needs {kind}, which Keras does not have" in error_of_loading(tmp_path / "bad.keras")
    (tmp_path / "empty.keras").touch()
    (tmp_path / "text.h5").write_text("no model")
    keras.Sequential([layers.Conv2D(2, 3)]).save(tmp_path / "unbuilt.keras")
    assert "contains no built model" in error_of_loading(tmp_path / "unbuilt.keras")
    for file in ("empty.keras", "text.h5"):
        assert "can't be loaded" in error_of_loading(tmp_path / file)
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["kernel"] = np.zeros(3)
    assert "contains only weights" in error_of_loading(tmp_path / "weights.h5")


def test_weight_files_beside_a_classifier_are_ignored(tmp_path):
    (tmp_path / "epoch_2.keras").touch()
    (tmp_path / "epoch_3.weights.h5").touch()
    assert naming.own_classifier(tmp_path).name == "epoch_2.keras"


def test_the_shipped_classifier_is_loaded_and_takes_grey_levels():
    model, preprocess, _ = pretrained.load_network(ROOT / "trained/digit_classifier/epoch_32.keras", top=True)
    with pytest.raises(errors.InputError, match="takes grey levels and no colours"):
        classifiers.input_preprocessing(model, "caffe")
    assert model.output_shape == (None, 10) and float(np.max(preprocess(np.full((1, 32, 32, 3), 255.0)))) == 255
