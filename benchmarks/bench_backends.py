"""Measure TensorFlow, PyTorch and JAX in turns on this machine: a row of a table for each task.

    python benchmarks/bench_backends.py
    python benchmarks/bench_backends.py --only search --repeats 1

Each backend runs in its own process, with the precision that --precision auto selects for it. The seconds are those of
a call after the first one. The first call, which also compiles, follows in brackets. The ratios say how many times as
long as TensorFlow a backend takes. PyTorch and JAX run in the environment that `make test-backends` makes.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

TITLES = {"tensorflow": "TensorFlow", "torch": "PyTorch", "jax": "JAX"}
PYTHON = os.environ.get("BACKENDS_PYTHON", ROOT / ".venv-backends/bin/python")
CALLS = 3  # after the first
STYLE = "starry_night"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=TASKS, help="run only this task")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each task (default: 3)")
    parser.add_argument("--part", choices=TASKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(seconds_of(TASKS[arguments.part][1]())))
        return
    print("| what | PyTorch / TensorFlow | JAX / TensorFlow | TensorFlow | PyTorch | JAX |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for name in [arguments.only] if arguments.only else TASKS:
        turns = [[measure(name, backend) for backend in TITLES] for _ in range(arguments.repeats)]
        print(f"| {' | '.join([TASKS[name][0], *ratios(turns), *map(medians, zip(*turns))])} |", flush=True)


def measure(name, backend):
    """Run a task on a backend in a process of its own; return the seconds of the first call and of a later one."""
    python = sys.executable if backend == "tensorflow" else PYTHON
    variables = os.environ | {"KERAS_BACKEND": backend}
    command = [python, __file__, "--part", name]
    result = subprocess.run(command, env=variables, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def ratios(turns):
    """List the median ratio of PyTorch's time, and of JAX's, to TensorFlow's, as texts."""
    return [f"**{statistics.median(turn[i][1] / turn[0][1] for turn in turns):.2f}x**" for i in (1, 2)]


def medians(measured):
    first, later = (statistics.median(seconds) for seconds in zip(*measured))
    return f"{later:.3g} s ({first:.3g} s)"


def seconds_of(call):
    """Return the seconds of the first call, and the median of those of the next CALLS."""
    seconds = []
    for _ in range(1 + CALLS):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return seconds[0], statistics.median(seconds[1:])


# --- The tasks: each returns the call to measure -----------------------------------------------


def photo(side):
    from atelier import imaging

    return imaging.resize_picture(imaging.load_image(ROOT / "images/content/china.jpg"), side, side * 3 // 4)


def search():
    from atelier import backend, hardware
    from atelier.style import perceptual_loss
    from config import Style

    hardware.use_precision("auto", "convolutions")
    loss, picture = perceptual_loss.PerceptualLoss(Style()), photo(512)[None]
    targets = {"content": loss.content(picture), "style": loss.statistics(picture[:, ::-1].copy())}
    return lambda: backend.as_array(loss.loss_and_gradient(picture, targets)[1])


def learned():
    from atelier import hardware
    from atelier.style import learned_styles

    hardware.use_precision("auto", "convolutions")
    stylizer, picture = learned_styles.Stylizer([(STYLE, 1)]), photo(1024)
    return lambda: stylizer.stylize(picture)


def dream():
    import numpy as np

    from atelier.dream import objectives, pixel_dreams
    from config import Dream

    options = Dream(size=512, quiet=True)
    network = objectives.load_network(options)
    objective, picture = objectives.make_objective(network, options), photo(512)
    dreamer = pixel_dreams.PixelDreamer(network, objective, options)
    return lambda: dreamer.gradient(picture, np.random.default_rng(0), objective.normalizer(1))


def training():
    import numpy as np

    from atelier import hardware
    from atelier.pixel_rnn import digit_training
    from config import PRESETS

    preset = PRESETS["digits"]
    hardware.use_precision("auto", "training", preset.batch_size)
    trainer = digit_training.build_trainer(preset)
    tokens = np.random.default_rng(0).integers(0, preset.levels, (preset.batch_size, preset.size**2)).astype("int32")

    def train():
        for _ in range(10):
            float(trainer.train_on_batch(tokens, tokens))

    return train


def mnist():
    """Return the model of an MNIST digit, and its meta.json's training options."""
    from atelier import hardware
    from atelier.pixel_rnn import model_files, model_meta

    hardware.use_precision("auto", "likelihoods")
    folder = ROOT / "trained/mnist"
    meta = model_meta.load_meta(folder)
    return model_files.load_rnn(folder, 3, meta), meta["recipe"]


def drawing():
    import numpy as np

    from atelier import backend
    from atelier.pixel_rnn import recurrent

    model, recipe = mnist()
    sample, weights = recurrent.make_sampler(model, recipe["context"]), recurrent.weights_of(model)
    known, temperature = np.zeros((100, recipe["size"] ** 2), "int32"), np.ones(100, "float32")
    uniform = np.random.default_rng(0).random(known.shape, "float32")
    return lambda: backend.as_array(sample(weights, known, uniform, np.int32(0), temperature))


def classification():
    import numpy as np

    from atelier.pixel_rnn import recurrent

    model, recipe = mnist()
    score = recurrent.make_scorer(model, recipe["context"])
    tokens = np.random.default_rng(0).integers(0, recipe["levels"], (500, recipe["size"] ** 2)).astype("uint8")
    return lambda: recurrent.log_likelihoods(score, model, tokens)


TASKS = {
    "search": ("value and gradient of a search at 512 x 384", search),
    "learned": ("a learned style at 1024 x 768", learned),
    "dream": ("the gradient of a dream at 512 x 384", dream),
    "training": ("10 training steps of the preset `digits`", training),
    "drawing": ("drawing 100 digits with a model of `trained/mnist`", drawing),
    "classification": ("the likelihoods of 500 digits under a model of `trained/mnist`", classification),
}


if __name__ == "__main__":
    main()
