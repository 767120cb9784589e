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


def transfer(*head, side=32, base_name="mobilenet_v2_small", begin=()):
    """Build a base with an input of its own, pooling and a head, as tutorials on transfer learning do."""
    picture = layers.Input((side, side, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="conv")(picture)
    base = keras.Model(picture, layers.Conv2D(12, 3, padding="same", activation="relu", name="top")(x), name=base_name)
    taken = layers.Input((side, side, 3))
    x = taken
    for layer in begin:
        x = layer(x)
    x = layers.GlobalAveragePooling2D()(base(x))
    for layer in head or (layers.Dense(5, activation="softmax"),):
        x = layer(x)
    return keras.Model(taken, x)


def nested(*last):
    """Build a classifier whose last layers are a nested model."""
    inside = keras.Sequential([layers.Input((12,)), layers.Dense(6, activation="relu"), *last])
    return transfer(inside)


ENDS = {
    "dense": lambda: transfer(layers.Dropout(0.3), layers.Dense(5, activation="softmax")),
    "logits": lambda: transfer(layers.Dense(5)),
    "activation": lambda: transfer(layers.Dense(5), layers.Activation("softmax")),
    "softmax": lambda: transfer(layers.Dense(5), layers.Softmax()),
    "nested": lambda: nested(layers.Dense(5, activation="softmax")),
    "softmax_nested": lambda: nested(layers.Dense(5), layers.Softmax()),
    "in_float32": lambda: transfer(layers.Dense(5, activation="softmax"), layers.Activation("linear")),
    "sigmoid": lambda: transfer(layers.Dense(5, activation="sigmoid")),
}


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("end", ENDS)
def test_classifiers_return_their_logits(end, suffix, tmp_path):
    keras.utils.set_random_seed(1)
    path = tmp_path / f"own{suffix}"
    ENDS[end]().save(path)
    model, preprocess, _ = pretrained.load_network(path, top=True)
    pictures = 255 * np.random.default_rng(0).random((3, 32, 32, 3)).astype("float32")
    logits = np.asarray(model(preprocess(pictures)))
    assert logits.min() < 0 and np.abs(logits.sum(1) - 1).min() > 1e-3
    probabilities = keras_files.load_keras_model(path).predict(np.asarray(preprocess(pictures)), verbose=0)
    activation = {"logits": np.asarray, "sigmoid": keras.ops.sigmoid}.get(end, keras.activations.softmax)
    np.testing.assert_allclose(activation(logits), probabilities, atol=1e-5)


def test_features_of_layers_in_nested_models(tmp_path):
    path = tmp_path / "own.keras"
    model = transfer()
    model.save(path)
    printed = results(run("deepdream.py", "--list-layers", "--convnet", path).stdout)
    assert printed == {"conv": "8", "top": "12"}
    loaded, preprocess, _ = pretrained.load_network(path)
    base = next(layer for layer in loaded.layers if isinstance(layer, keras.Model))
    picture = 255 * np.random.default_rng(0).random((1, 32, 32, 3)).astype("float32")
    seen = vision.network_features(loaded, preprocess, ["top", "conv"])(picture)
    expected = keras.Model(base.inputs, [base.get_layer(name).output for name in ("top", "conv")])(preprocess(picture))
    for ours, theirs in zip(seen, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert "call" not in vars(base.get_layer("top"))  # the layer is restored
    printed = run(
        "deepdream.py", "noise", "--convnet", path, "--size", 40, "--steps", 2, "--output", tmp_path / "a.png"
    )
    assert results(printed.stdout)["layers"] == "top"


def test_two_layers_with_the_same_name_are_distinguished():
    def block(name):
        picture = layers.Input((8, 8, 3))
        convolution = layers.Conv2D(3, 3, padding="same", name="conv")
        return keras.Model(picture, convolution(picture), name=name), convolution

    (first, one), (second, two), picture = block("first"), block("second"), layers.Input((8, 8, 3))
    one.bias.assign([1.0] * 3)
    two.bias.assign([2.0] * 3)
    model = keras.Model(picture, second(first(picture)))
    names = ["conv", "second/conv"]
    assert list(vision.layers_with_places(model)) == names
    seen = vision.network_features(model, lambda x: x, names)(np.zeros((1, 8, 8, 3), "float32"))
    np.testing.assert_allclose(seen[0], 1, atol=1e-5)
    np.testing.assert_allclose(seen[1], second(np.ones((1, 8, 8, 3), "float32")), atol=1e-5)


def test_a_classifier_with_one_logit_has_two_classes(tmp_path):
    path = tmp_path / "own.keras"
    transfer(layers.Dense(1, activation="sigmoid")).save(path)
    (tmp_path / "meta.json").write_text(json.dumps({"classes": ["cat", "dog"]}))
    after = {}
    for name in ("cat", "dog"):
        flags = ("--convnet", path, "--class", name, "--size", 40, "--steps", 5, "--output", tmp_path / f"{name}.png")
        after[name] = results(run("deepdream.py", "noise", *flags).stdout)
    before = [float(figures["strength_before"]) for figures in after.values()]
    assert before[0] == -before[1]
    assert all(float(figures["strength_after"]) > float(figures["strength_before"]) for figures in after.values())


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


def test_the_input_range_is_that_of_the_base_or_of_the_flag(tmp_path):
    pictures = np.full((1, 32, 32, 3), 255, "float32") * np.float32([1, 0.5, 0])

    def input_of(model, *input_range):
        path = tmp_path / "own.keras"
        model.save(path)
        preprocess, description = classifiers.input_preprocessing(classifiers.load_classifier(path), *input_range)
        return description, [round(float(x), 2) for x in np.asarray(preprocess(pictures))[0, 0, 0]]

    assert input_of(transfer()) == ("MobileNetV2's", [1, 0, -1])
    assert input_of(transfer(begin=[layers.RandomFlip()])) == ("MobileNetV2's", [1, 0, -1])
    turned = keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.1)])
    assert input_of(transfer(begin=[turned])) == ("MobileNetV2's", [1, 0, -1])
    prepared = keras.applications.mobilenet_v2.preprocess_input
    assert input_of(transfer(begin=[turned, prepared])) == ("0..255", [255, 127.5, 0])
    steps = [layers.Input((32, 32, 3)), layers.Rescaling(0.1), *transfer().layers[1:]]
    named = keras.Sequential(steps, name="MobileNetV2_mine")
    assert input_of(named) == ("0..255", [255, 127.5, 0])
    assert input_of(transfer(begin=[layers.Rescaling(1 / 127.5, -1)])) == ("0..255", [255, 127.5, 0])
    assert input_of(transfer(base_name="mine")) == ("0..255", [255, 127.5, 0])
    assert input_of(transfer(), "0..1") == ("0..1", [1, 0.5, 0])
    assert input_of(transfer(), "-1..1") == ("-1..1", [1, 0, -1])
    assert input_of(transfer(), "caffe") == ("caffe", [-103.94, 10.72, 131.32])
    assert input_of(transfer(), "0..255") == ("0..255", [255, 127.5, 0])


def test_the_flag_input_range_and_what_is_printed(tmp_path):
    path = tmp_path / "own.h5"
    transfer().save(path)
    flags = ("noise", "--convnet", path, "--class", 1, "--size", 40, "--steps", 2, "--overwrite")
    told = [
        run("deepdream.py", *flags, *more, "--output", tmp_path / "a.png")
        for more in ((), ("--input-range", "-1..1"), ("--input-range", "0..1"))
    ]
    assert "MobileNetV2's" in told[0].stderr and "the input 0..1" in told[2].stderr
    before = [results(one.stdout)["strength_before"] for one in told]
    assert before[0] == before[1] != before[2]
    error = run("deepdream.py", "noise", "--input-range", "0..1", "--output", tmp_path / "b.png", status=2).stderr
    assert "--input-range is for a classifier of your own" in error


# --- What is refused ---------------------------------------------------------------------------


def refused(model, tmp_path, *flags):
    path = tmp_path / "own.keras"
    model.save(path)
    return run("deepdream.py", "noise", "--convnet", path, *flags, "--output", tmp_path / "a.png", status=2).stderr


def test_networks_that_take_no_pictures_are_refused(tmp_path):
    one, other = layers.Input((8, 8, 3)), layers.Input((8, 8, 3))
    assert "takes 2 inputs" in refused(keras.Model([one, other], layers.Add()([one, other])), tmp_path)
    four = keras.Sequential([layers.Input((8, 8, 4)), layers.Conv2D(2, 3)])
    assert "its input is 8 x 8 x 4" in refused(four, tmp_path)
    volume = keras.Sequential([layers.Input((8, 8, 8, 1)), layers.Conv3D(2, 3)])
    assert "its input is 8 x 8 x 8 x 1" in refused(volume, tmp_path)
    flat = keras.Sequential([layers.Input((32, 32, 1)), layers.Flatten(), layers.Dense(4)])
    assert "no layer whose output has rows and columns" in refused(flat, tmp_path)
    assert "is no classifier" in refused(transfer(layers.Reshape((3, 4))), tmp_path, "--class", 1)
    assert "whose logits are unknown" in refused(
        transfer(layers.Dense(4), layers.Reshape((4,))), tmp_path, "--class", 1
    )
    assert "a relu" in refused(transfer(layers.Dense(4, activation="relu")), tmp_path, "--class", 1)
    assert "there is no class 5" in refused(transfer(), tmp_path, "--class", 5)
    assert "names its classes" in refused(transfer(), tmp_path, "--class", "hound")


def test_files_that_contain_code_or_no_model_are_refused_and_never_run(tmp_path):
    trap = tmp_path / "ran"
    run_it = layers.Lambda(lambda x, name=str(trap): pathlib.Path(name).touch() or x, name="trap")

    def loaded(path):
        with pytest.raises(errors.InputError) as error:
            classifiers.load_classifier(path)
        assert not trap.exists()
        return str(error.value)

    code = keras.Sequential([layers.Input((8, 8, 3)), run_it])
    assert trap.exists()  # Keras ran the code when it built the layer
    trap.unlink()
    for suffix in (".keras", ".h5"):
        code.save(tmp_path / f"code{suffix}")
        assert "contains code in its layer trap (a Lambda)" in loaded(tmp_path / f"code{suffix}")
    good = tmp_path / "good.keras"
    transfer().save(good)
    with zipfile.ZipFile(good) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for module, kind in (("os", "system"), ("keras.utils", "get_file"), ("mine.layers", "Dense"), (None, "Mine")):
        config = json.loads(parts["config.json"])
        config["config"]["layers"][-1] |= {"module": module, "class_name": kind, "registered_name": None}
        with zipfile.ZipFile(tmp_path / "bad.keras", "w") as archive:
            for part, content in (parts | {"config.json": json.dumps(config)}).items():
                archive.writestr(part, content)
        assert f"needs {kind}, which Keras does not have" in loaded(tmp_path / "bad.keras")
    (tmp_path / "empty.keras").touch()
    (tmp_path / "text.h5").write_text("no model")
    keras.Sequential([layers.Conv2D(2, 3)]).save(tmp_path / "unbuilt.keras")
    assert "contains no built model" in loaded(tmp_path / "unbuilt.keras")
    for file in ("empty.keras", "text.h5"):
        assert "can't be loaded" in loaded(tmp_path / file)
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["kernel"] = np.zeros(3)
    assert "contains only weights" in loaded(tmp_path / "weights.h5")


def test_weights_beside_a_classifier_are_not_classifiers(tmp_path):
    (tmp_path / "epoch_2.keras").touch()
    (tmp_path / "epoch_3.weights.h5").touch()
    assert naming.own_classifier(tmp_path).name == "epoch_2.keras"


def test_the_classifier_that_ships_is_loaded_and_takes_greys():
    model, preprocess, _ = pretrained.load_network(ROOT / "trained/digit_classifier/epoch_32.keras", top=True)
    with pytest.raises(errors.InputError, match="takes grey levels and no colours"):
        classifiers.input_preprocessing(model, "caffe")
    assert model.output_shape == (None, 10) and float(np.max(preprocess(np.full((1, 32, 32, 3), 255.0)))) == 255
