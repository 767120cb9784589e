"""Time training and drawing of painters, and other implementations, in one run on one machine.

    make bench PICTURES=path/to/folder
    .venv/bin/python benchmarks/bench_painters.py --data path/to/folder --only drawing --repeats 5

Without a folder, pictures are cut from the two photographs that come with scikit-learn. Each measurement has its own
process. Ours and the peer's take turns. The ratio is the median over the turns, because single times vary on a shared
machine. The comparison "training" is in float32. If the processor or GPU multiplies bfloat16 natively, it is also in
bfloat16, in separate rows. All other comparisons are in float32. The peers are in float32, too. They are written as
users usually write them:

- torch.nn.LSTM: the network and batch of the preset monet in PyTorch's usual training loop. Its colours are embedded
  like ours, or one-hot like those of the published painter;
- keras.layers.LSTM and Dropout: our training step with these layers instead of those in fused_cells.py;
- the published way to draw: for each pixel of each picture, a call of `predict` on the one-hot window before it.
"""

import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from common import ROOT, main, measure, row, take_turns

COLORS, EMBEDDING, UNITS, LAYERS, BATCH, SIDE = 1000, 64, 512, 2, 128, 75  # the preset monet
WINDOW = SIDE
PICTURES = 16  # drawn at once


def pictures(data, count, width=SIDE, height=SIDE):
    """Return `count` real pictures, uint8 N x H x W x 3: those of the folder, then random crops of them if needed."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    from atelier import imaging

    if data:
        originals = [imaging.open_picture(path) for path in imaging.find_pictures(data)]
    else:
        originals = [Image.fromarray(image) for image in load_sample_images().images]
    rng = np.random.default_rng(0)
    cut = []
    for i in range(count):
        picture = originals[i % len(originals)]
        if i >= len(originals) or not data:
            side = int(min(picture.size) * rng.uniform(0.5, 1))
            left, top = (int(rng.integers(total - side + 1)) for total in picture.size)
            picture = picture.crop((left, top, left + side, top + side))
        cut.append(imaging.fit_picture(picture, width, height, gray=False))
    return np.stack(cut)


# --- The comparisons ---


def compare_training(arguments):
    precisions = measure("native_precisions", arguments)
    parts = [("train_ours", precision) for precision in precisions]
    embedded, one_hot, *measured = take_turns(["train_torch", "train_torch_one_hot", *parts], arguments)
    what = f"training the preset monet, batch {BATCH}, beside torch.nn.LSTM"
    for precision, ours in zip(precisions, measured, strict=True):
        rates = [rate for rate, _ in ours]
        yield row(what, precision, rates, embedded, "tokens/s")
        yield row(f"{what} on one-hot colours", precision, rates, one_hot, "tokens/s")
        share = statistics.median(rate * operations_per_token() / peak for rate, peak in ours)
        yield "share of what a large float32 product reaches", precision, f"{share:.0%}", "", "", ""


def compare_layers(arguments):
    fused, own = take_turns(["train_fused_layers", "train_keras_layers"], arguments)
    yield row("training the preset monet: fused_cells.py, beside Keras's own layers", "float32", fused, own, "tokens/s")


def operations_per_token():
    """Count the multiplications and additions of the matrix products for one token.

    The backward pass takes twice as many as the forward pass.
    """
    products = [EMBEDDING * 4 * UNITS, UNITS * 4 * UNITS, (LAYERS - 1) * 2 * UNITS * 4 * UNITS, UNITS * COLORS]
    return 3 * 2 * sum(products)


def compare_drawing(arguments):
    ours, published = take_turns(["draw_ours", "draw_published"], arguments)
    yield row(f"drawing {PICTURES} pictures of {SIDE}x{SIDE}", "float32", ours, published, "s", more_is_better=False)


def compare_growth(arguments):
    few, many = take_turns(["epoch_of_50", "epoch_of_500"], arguments)
    ratios = [b / a for (a, _), (b, _) in zip(few, many, strict=True)]
    times = [f"{statistics.median(seconds for seconds, _ in part):.1f} s" for part in (many, few)]
    spread = f"{min(ratios):.2f} .. {max(ratios):.2f}"
    ratio = f"{statistics.median(ratios):.2f}x"
    yield "an epoch of 500 pictures, beside one of 50", "float32", *times, ratio, spread
    memory = [f"{statistics.median(gigabytes for _, gigabytes in part):.2f} GB" for part in (many, few)]
    yield "memory of these", "float32", *memory, "", ""


def compare_memory(arguments):
    for part, what in (("memory_small", "50 pictures of 75x75"), ("memory_large", "2,000 pictures of 128x128")):
        size = f"{measure(part, arguments):.2f} GB"
        yield f"memory, {what}, 1000 colours", "float32", size, "", "", ""


# --- Training ---


def throughput(step, steps=8):
    """Return the tokens a second of `step`, a function of the batch's number. The first two calls are not timed."""
    step(0), step(1)
    started = time.perf_counter()
    for i in range(2, 2 + steps):
        step(i)
    return steps * BATCH * WINDOW / (time.perf_counter() - started)


def tokens_of(data):
    from atelier.pixel_rnn import palettes

    images = pictures(data, BATCH)
    return palettes.to_palette(images, palettes.fit_palette(images, COLORS, seed=0))


def train_ours(data, precision, fused=True):
    """Return the tokens a second of train_rnn.py's compiled training step, and this machine's peak.

    The peak is the number of operations a second in a large float32 matrix product.
    """
    import numpy as np

    import util
    from atelier import hardware
    from atelier.hardware import keras
    from atelier.pixel_rnn import recurrent

    hardware.use_precision(precision, "training")
    tokens = tokens_of(data)
    settings = ("lstm", UNITS, LAYERS, 0.2, EMBEDDING, "previous")
    model = util.build_painter(COLORS, SIDE, SIDE, WINDOW, *settings, fused=fused)
    model.optimizer = keras.optimizers.RMSprop(global_clipnorm=1.0)
    model.optimizer.build(model.trainable_variables)
    train_step = recurrent.make_training_step(model, model.optimizer)
    windows = util.Windows(tokens, SIDE, SIDE, "previous", WINDOW, 1, BATCH, "all")
    names = [name for name in model.input if name.startswith("state_")]
    states = [np.zeros((BATCH, UNITS), "float32")] * len(names)

    def step(i):
        nonlocal states
        inputs, targets, weight, _ = windows.batch(0, 0, i)
        loss, states = train_step(inputs | dict(zip(names, states)), targets, weight)
        return float(loss)

    rate = throughput(step)
    square = np.ones((3000, 3000), "float32")
    square @ square
    started = time.perf_counter()
    for _ in range(5):
        square @ square
    return rate, 5 * 2 * 3000**3 / (time.perf_counter() - started)


def train_fused_layers(data):
    return train_ours(data, "float32")[0]


def train_keras_layers(data):
    return train_ours(data, "float32", fused=False)[0]


def train_torch(data, one_hot=False):
    import torch

    tokens = torch.from_numpy(tokens_of(data).astype("int64")).flatten()
    length = len(tokens) // BATCH
    streams = tokens[: BATCH * length].reshape(BATCH, length)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(COLORS, EMBEDDING)
            self.lstm = torch.nn.LSTM(COLORS if one_hot else EMBEDDING, UNITS, LAYERS, batch_first=True, dropout=0.2)
            self.head = torch.nn.Linear(UNITS, COLORS)

        def forward(self, x, state):
            x = torch.nn.functional.one_hot(x, COLORS).float() if one_hot else self.embedding(x)
            x, state = self.lstm(x, state)
            return self.head(x), state

    model = Network()
    optimizer = torch.optim.RMSprop(model.parameters())
    state = None

    def step(i):
        nonlocal state
        window = streams[:, i * WINDOW : (i + 1) * WINDOW + 1]
        optimizer.zero_grad()
        logits, state = model(window[:, :-1], state)
        state = tuple(part.detach() for part in state)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return throughput(step)


def train_torch_one_hot(data):
    return train_torch(data, one_hot=True)


# --- Drawing ---


def draw_ours(data):
    import numpy as np

    import util
    from atelier.pixel_rnn import recurrent

    settings = ("lstm", UNITS, LAYERS, 0.2, EMBEDDING, "previous")
    model = util.build_painter(COLORS, SIDE, SIDE, WINDOW, *settings)
    sample = recurrent.make_sampler(model, "previous", (SIDE, SIDE))
    rng = np.random.default_rng(0)
    known = np.zeros((PICTURES, SIDE * SIDE), "int32")

    def draw():
        uniform = rng.random(known.shape, dtype="float32")
        return np.asarray(
            sample(recurrent.weights_of(model), known, uniform, np.int32(0), np.ones(PICTURES, "float32"))
        )

    draw()
    started = time.perf_counter()
    draw()
    return time.perf_counter() - started


def draw_published(data, pixels=100):
    """Draw `pixels` pixels of one picture. Return the seconds that all pixels of all PICTURES would take."""
    import numpy as np

    from atelier.hardware import keras

    layers = []
    for i in range(LAYERS):
        layers += [keras.layers.LSTM(UNITS, return_sequences=i < LAYERS - 1), keras.layers.Dropout(0.2)]
    model = keras.Sequential([keras.Input((WINDOW, COLORS)), *layers, keras.layers.Dense(COLORS, activation="softmax")])
    window = np.random.default_rng(0).integers(0, COLORS, WINDOW)

    def draw_pixel():
        nonlocal window
        probabilities = model.predict(np.eye(COLORS, dtype="float32")[None, window], verbose=0)[0].astype("float64")
        pixel = np.random.choice(COLORS, p=probabilities / probabilities.sum())
        window = np.append(window[1:], pixel)

    draw_pixel()
    started = time.perf_counter()
    for _ in range(pixels):
        draw_pixel()
    return PICTURES * SIDE * SIDE / pixels * (time.perf_counter() - started)


# --- Growth and memory ---


def in_folder(images, work):
    """Write images into a temporary folder, and return work(folder)."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(images):
            Image.fromarray(image).save(os.path.join(folder, f"{i:05}.png"))
        return work(folder)


def train(folder, *flags, stop_after=None):
    """Run train_rnn.py: return (seconds, peak memory in GB).

    With `stop_after`, the training gets Ctrl-C so many seconds after its start.
    """
    with tempfile.TemporaryDirectory() as output:
        usual = ("--output", output, "--precision", "float32", "--quiet")
        command = [sys.executable, "train_rnn.py", folder, *usual, *map(str, flags)]
        started = time.perf_counter()
        allow_ctrl_c = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, preexec_fn=allow_ctrl_c)
        if stop_after:
            while not (pathlib.Path(output) / "meta.json").exists():
                time.sleep(1)
            time.sleep(stop_after)
            process.send_signal(signal.SIGINT)
        _, status, usage = os.wait4(process.pid, 0)
        if os.waitstatus_to_exitcode(status) not in ((130,) if stop_after else (0,)):
            raise RuntimeError(f"{command} ended with {os.waitstatus_to_exitcode(status)}")
        return time.perf_counter() - started, usage.ru_maxrss / 2**20


def epoch_of(count, data):
    """Return the seconds of the third epoch of a network of 64 units, and the peak memory in GB."""

    def work(folder):
        flags = ("--preset", "monet", "--units", 64, "--sample-every", 100)
        two, _ = train(folder, *flags, "--epochs", 2)
        three, gigabytes = train(folder, *flags, "--epochs", 3)
        return three - two, gigabytes

    return in_folder(pictures(data, count), work)


def epoch_of_50(data):
    return epoch_of(50, data)


def epoch_of_500(data):
    return epoch_of(500, data)


def memory_small(data):
    """Return the peak memory in GB of two whole epochs of the preset monet, with its drawings."""
    flags = ("--preset", "monet", "--epochs", 2)
    return in_folder(pictures(data, 50), lambda folder: train(folder, *flags)[1])


def memory_large(data):
    """Return the peak memory in GB of the first two minutes of the first epoch."""
    flags = ("--preset", "monet", "--width", 128, "--height", 128, "--window", 128)
    return in_folder(pictures(data, 2000, 128, 128), lambda folder: train(folder, *flags, stop_after=120)[1])


COMPARISONS = {
    "training": compare_training,
    "layers": compare_layers,
    "drawing": compare_drawing,
    "growth": compare_growth,
    "memory": compare_memory,
}
PARTS = {
    function.__name__: function
    for function in (
        *(train_ours, train_fused_layers, train_keras_layers, train_torch, train_torch_one_hot),
        *(draw_ours, draw_published),
        *(epoch_of_50, epoch_of_500, memory_small, memory_large),
    )
}

if __name__ == "__main__":
    main(__file__, __doc__, COMPARISONS, PARTS, "a folder of pictures")
