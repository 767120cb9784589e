"""Time training, drawing and classification of digits, and other implementations, in one run on one machine.

    make bench                                          # MNIST from Keras's cache or download
    make bench DATA=path/to/mnist                       # or from an .npz or a folder of IDX files
    .venv/bin/python benchmarks/bench_digits.py --only drawing --repeats 5

Each measurement has its own process. Ours and the peer's take turns. The ratio is the median over the turns, because
single times vary on a shared machine. The training throughput is measured in float32. It is also measured in bfloat16,
in separate rows, if the processor or GPU multiplies bfloat16 natively. Drawing and classification are always in
float32. The peers are in float32, too. They are written as users usually write them:

- the tutorial's way: model.fit of a Keras GRU(256), batch 32, Adam, one digit after another. It draws with a call of
  predict for each pixel, on all pixels so far. It classifies with ten calls of predict;
- torch.nn.GRU: the same network and batch in PyTorch's usual training loop;
- keras.layers.GRU: our trainer with this layer instead of the layer in fused_cells.py.
"""

import os
import resource
import statistics
import tempfile
import time

from common import main, measure, row, take_turns, timed

LENGTH, LEVELS, UNITS, BATCH = 100, 7, 256, 32
QUICK = ["--preset", "best", "--units", "128", "--epochs", "4"]  # enough for the published accuracy
PUBLISHED = 0.9754


# --- The comparisons ---


def compare_throughput(arguments):
    precisions = measure("native_precisions", arguments)
    parts = [("train_ours", precision) for precision in precisions]
    torch, fit, *measured = take_turns(["train_torch", "train_keras", *parts], arguments)
    for precision, ours in zip(precisions, measured, strict=True):
        yield row(f"training, batch {BATCH}, beside torch.nn.GRU", precision, ours, torch, "images/s")
        yield row(f"training, batch {BATCH}, beside Keras fit", precision, ours, fit, "images/s")


def compare_layers(arguments):
    fused, own = take_turns(["train_fused_layers", "train_keras_layers"], arguments)
    what = f"training, batch {BATCH}: fused_cells.py, beside Keras's own layers"
    yield row(what, "float32", fused, own, "images/s")


def compare_time_to_accuracy(arguments):
    """Time our whole training. The time of the tutorial's, 12 epochs of 60,000 images, is computed from Keras fit."""
    fit = [measure("train_keras", arguments)]
    seconds, accuracy = measure("train_to_accuracy", arguments)
    fit.append(measure("train_keras", arguments))
    peer = 12 * 60_000 / statistics.mean(fit)
    ours = f"{seconds:.0f} s (accuracy {accuracy:.4f})"
    verdict = f"{peer / seconds:.2f}x" if accuracy >= PUBLISHED else f"missed {PUBLISHED}"
    yield f"time to accuracy {PUBLISHED}", "float32", ours, f"{peer:.0f} s (scaled)", verdict, "one run"


def compare_drawing(arguments):
    ours, tutorial = take_turns(["draw_ours", "draw_tutorial"], arguments)
    yield row("drawing 25 digits", "float32", ours, tutorial, "s", more_is_better=False)


def compare_classifying(arguments):
    ours, predict = take_turns(["classify_ours", "classify_keras"], arguments)
    yield row("classifying 10,000 images", "float32", ours, predict, "s", more_is_better=False)
    size = f"{measure('classify_memory', arguments):.2f} GB"
    yield "memory while classifying", "float32", size, "limit 2 GB", "", ""


# --- Training ---


def train_ours(data, precision):
    """Train all ten digits by the command: return images a second.

    The time is the difference between trainings of 7 epochs and of 1 epoch, so it does not contain the command's start.
    """
    images_of_each, seconds = 160, {}
    for epochs in (1, 7):
        with tempfile.TemporaryDirectory() as folder:
            flags = ["--preset", "tutorial", "--num-images", str(images_of_each), "--epochs", str(epochs)]
            flags += ["--precision", precision]
            source = ["mnist", "--all-digits", "--output", folder, *(["--data", data] if data else [])]
            seconds[epochs], _ = timed(["train_rnn.py", *source, *flags])
    return 6 * 10 * images_of_each / (seconds[7] - seconds[1])


def one_hot_sequences(data, count):
    import numpy as np

    import util
    from atelier.pixel_rnn import datasets

    images = datasets.load_dataset("mnist", data)[0][:count]
    return np.eye(LEVELS, dtype="float32")[util.to_sequences(images, 10, LEVELS)]


def shifted(sequences):
    import numpy as np

    return np.concatenate([np.zeros_like(sequences[:, :1]), sequences[:, :-1]], axis=1)


def keras_network():
    from atelier.hardware import keras

    layers = [keras.layers.GRU(UNITS, return_sequences=True), keras.layers.Dense(LEVELS, activation="softmax")]
    return keras.Sequential([keras.Input((None, LEVELS)), *layers])


def train_keras(data):
    sequences = one_hot_sequences(data, 50 * BATCH)
    model = keras_network()
    model.compile("adam", "categorical_crossentropy")
    model.fit(shifted(sequences), sequences, batch_size=BATCH, verbose=0)
    started = time.perf_counter()
    model.fit(shifted(sequences), sequences, batch_size=BATCH, epochs=3, verbose=0)
    return 3 * len(sequences) / (time.perf_counter() - started)


def train_fused_layers(data, fused=True):
    """Train with a trainer of the preset tutorial, as digit_training.py builds it on a CPU: return images a second."""
    import util
    from atelier.hardware import keras
    from atelier.pixel_rnn import datasets

    tokens = util.to_sequences(datasets.load_dataset("mnist", data)[0][: 50 * BATCH], 10, LEVELS).astype("int32")
    model = util.build_rnn(10, LEVELS, "gru", UNITS, fused=fused)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=fused)  # Keras compiles its own GRU without XLA

    def epoch():
        for i in range(0, len(tokens), BATCH):
            model.train_on_batch(tokens[i : i + BATCH], tokens[i : i + BATCH])

    epoch()
    started = time.perf_counter()
    for _ in range(3):
        epoch()
    return 3 * len(tokens) / (time.perf_counter() - started)


def train_keras_layers(data):
    return train_fused_layers(data, fused=False)


def train_torch(data):
    import torch

    sequences = torch.from_numpy(one_hot_sequences(data, 50 * BATCH))

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = torch.nn.GRU(LEVELS, UNITS, batch_first=True)
            self.head = torch.nn.Linear(UNITS, LEVELS)

        def forward(self, x):
            return self.head(self.gru(x)[0])

    model = Network()
    optimizer = torch.optim.Adam(model.parameters())
    inputs, targets = torch.from_numpy(shifted(sequences.numpy())), sequences.argmax(-1)

    def epoch():
        for i in range(0, len(inputs), BATCH):
            optimizer.zero_grad()
            logits = model(inputs[i : i + BATCH])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[i : i + BATCH].flatten())
            loss.backward()
            optimizer.step()

    epoch()
    started = time.perf_counter()
    for _ in range(3):
        epoch()
    return 3 * len(sequences) / (time.perf_counter() - started)


def train_to_accuracy(data):
    """Return the seconds of the whole training command, and the accuracy on all 10,000 test images."""
    with tempfile.TemporaryDirectory() as folder:
        source = ["--data", data] if data else []
        seconds, _ = timed(["train_rnn.py", "mnist", "--all-digits", *QUICK, *source, "--output", folder])
        _, output = timed(["classify_mnist.py", folder, *source, "--output", f"{folder}/confusion.png"])
    return seconds, float(output.split("accuracy: ")[1].split()[0])


# --- Drawing ---


def draw_ours(data):
    import numpy as np

    from atelier.pixel_rnn import model_files, model_meta, recurrent

    model = model_files.load_rnn("trained/mnist", 3, model_meta.load_meta("trained/mnist"))
    sample = recurrent.make_sampler(model, "previous")
    rng = np.random.default_rng(0)
    known = np.zeros((25, LENGTH), "int32")

    def draw():
        uniform = rng.random(known.shape, dtype="float32")
        return np.asarray(sample(recurrent.weights_of(model), known, uniform, np.int32(0), np.ones(25, "float32")))

    draw()
    started = time.perf_counter()
    for _ in range(10):
        draw()
    return (time.perf_counter() - started) / 10


def draw_tutorial(data):
    """Return 25 times the seconds of one picture. The first picture traces a graph for each length; it is not timed."""
    import numpy as np

    model = keras_network()

    def draw():
        sequence = np.zeros((1, 1, LEVELS), "float32")
        for _ in range(LENGTH):
            probabilities = model.predict(sequence, verbose=0)[0, -1].astype("float64")
            pixel = np.random.choice(LEVELS, p=probabilities / probabilities.sum())
            sequence = np.concatenate([sequence, np.eye(LEVELS, dtype="float32")[None, None, pixel]], axis=1)

    draw()
    started = time.perf_counter()
    draw()
    return 25 * (time.perf_counter() - started)


# --- Classifying ---


def classify_ours(data):
    _, output = timed(["classify_mnist.py", "trained/mnist", *(["--data", data] if data else []), *scratch_output()])
    return 10_000 / float(output.split("images_per_second: ")[1].split()[0])


def scratch_output():
    return ["--overwrite", "--output", os.path.join(tempfile.gettempdir(), "bench_confusion.png")]


def classify_keras(data):
    import numpy as np

    import util
    from atelier.pixel_rnn import datasets

    images = datasets.load_dataset("mnist", data)[2]
    models = [keras_network() for _ in range(10)]
    started = time.perf_counter()
    tokens = util.to_sequences(images, 10, LEVELS)
    sequences = np.eye(LEVELS, dtype="float32")[tokens]
    inputs = shifted(sequences)
    for model in models:
        probabilities = model.predict(inputs, batch_size=1000, verbose=0)
        np.log(np.take_along_axis(probabilities, tokens[..., None].astype(int), -1)).sum(1)
    return time.perf_counter() - started


def classify_memory(data):
    classify_ours(data)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2


COMPARISONS = {
    "throughput": compare_throughput,
    "layers": compare_layers,
    "accuracy": compare_time_to_accuracy,
    "drawing": compare_drawing,
    "classifying": compare_classifying,
}
PARTS = {
    function.__name__: function
    for function in (
        *(train_ours, train_fused_layers, train_keras_layers, train_keras, train_torch, train_to_accuracy),
        *(draw_ours, draw_tutorial, classify_ours, classify_keras, classify_memory),
    )
}

if __name__ == "__main__":
    main(__file__, __doc__, COMPARISONS, PARTS, "MNIST, as train_rnn.py takes it")
