"""Train the small convolutional classifier of trained/digit_classifier on scikit-learn's digits, and save its epochs.

    python examples/train_digit_classifier.py

The script writes meta.json, and the model after some of the epochs, into that folder. deepdream.py --class dreams of
the model's classes, and visualize_filters.py --evolution shows how its filters changed. To do the same with your own
classifier, save it after some of its epochs as .keras files in one folder.
"""

import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "trained/digit_classifier"
sys.path.insert(0, str(ROOT))

from atelier import disk, imaging
from atelier.hardware import keras
from atelier.pixel_rnn import datasets

SIDE = 32  # pixels
SAVED_EPOCHS = (1, 2, 4, 8, 16, 32)


def build_classifier():
    """Build a network from pictures N x 32 x 32 x 1 in 0..255 to the probabilities of ten digits."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((SIDE, SIDE, 1)),
            layers.Rescaling(1 / 128, -1, name="to_ones"),
            layers.GaussianNoise(0.2, name="noise"),
            layers.Conv2D(16, 5, padding="same", activation="relu", name="conv1"),
            layers.MaxPooling2D(name="pool1"),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv2"),
            layers.MaxPooling2D(name="pool2"),
            layers.Conv2D(64, 3, padding="same", activation="relu", name="conv3"),
            layers.MaxPooling2D(name="pool3"),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax", name="digits"),
        ],
        name="digit_classifier",
    )


def enlarge(images):
    """Resize uint8 N x 8 x 8 to float32 N x 32 x 32 x 1."""
    return np.stack([imaging.resize_picture(image[..., None], SIDE, SIDE) for image in images])


def main():
    keras.utils.set_random_seed(0)
    x_train, y_train, x_test, y_test = datasets.load_scikit_digits()
    classifier = build_classifier()
    augmentation = keras.Sequential(
        [
            keras.layers.RandomTranslation(0.08, 0.08, fill_mode="constant"),
            keras.layers.RandomRotation(0.03, fill_mode="constant"),
        ]
    )
    inputs = keras.Input((SIDE, SIDE, 1))
    trained = keras.Model(inputs, classifier(augmentation(inputs)))
    trained.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

    def save_epoch(epoch, logs):
        if epoch + 1 in SAVED_EPOCHS:
            classifier.save(FOLDER / f"epoch_{epoch + 1:02}.keras")

    callback = keras.callbacks.LambdaCallback(on_epoch_end=save_epoch)
    trained.fit(enlarge(x_train), y_train, batch_size=32, epochs=max(SAVED_EPOCHS), callbacks=[callback], verbose=2)
    _, accuracy = trained.evaluate(enlarge(x_test), y_test, verbose=0)
    print(f"accuracy: {accuracy:.4f}")
    classes = [str(digit) for digit in range(10)]
    disk.write_json(FOLDER / "meta.json", {"source": "digits", "classes": classes, "test_accuracy": round(accuracy, 4)})


if __name__ == "__main__":
    main()
