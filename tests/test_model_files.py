"""model_files.py: saving and loading models, and the tutorial's .h5 files."""

import json
import zipfile

import keras
import numpy as np
import pytest
from conftest import random_tokens, small_rnn

import util
from atelier.errors import InputError
from atelier.pixel_rnn import datasets, model_files, model_meta, recurrent


def test_a_saved_model_needs_only_keras(tmp_path):
    model, _ = small_rnn(context="above")
    model_files.save_model(tmp_path / "model_0.keras", model)
    with zipfile.ZipFile(tmp_path / "model_0.keras") as archive:
        assert "keras_atelier" not in archive.read("config.json").decode()
    loaded = keras.saving.load_model(tmp_path / "model_0.keras")
    tokens = random_tokens(2, 4, 3)
    np.testing.assert_array_equal(loaded(tokens), model(tokens))


def test_the_tutorials_models_have_the_right_likelihoods(shared_data):
    """The tutorial's own code saved these models in 2019. The expected likelihoods are computed with NumPy."""
    import h5py

    _, _, images, labels = datasets.load_dataset("mnist", shared_data / "mnist")
    meta = model_meta.load_meta(shared_data / "tutorial_models")
    assert list(meta["classes"]) == ["0", "8"]
    images, labels = images[:200], labels[:200]
    tokens = util.to_sequences(images, 10, 7)
    zero = model_files.load_rnn(shared_data / "tutorial_models", 0, meta)
    scores = recurrent.log_likelihoods(recurrent.make_scorer(zero, "previous"), zero, tokens)

    with h5py.File(shared_data / "tutorial_models" / "model_0.h5") as file:
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
def test_an_h5_file_of_another_architecture_is_refused(shared_data, tmp_path, change, complaint):
    import shutil

    import h5py

    path = tmp_path / "model_0.h5"
    shutil.copy(shared_data / "tutorial_models" / "model_0.h5", path)
    path.chmod(0o644)
    with h5py.File(path, "r+") as file:
        model_config = json.loads(file.attrs["model_config"])
        change(model_config["config"]["layers"])
        file.attrs["model_config"] = json.dumps(model_config).encode()
    with pytest.raises(InputError, match=complaint):
        model_files.load_tutorial_weights(path)
