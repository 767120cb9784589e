"""Measure style transfer's speed and memory, side by side with PyTorch in one run on one machine.

    make bench
    .venv/bin/python benchmarks/bench_styles.py --only evaluation --repeats 5

Both compute the loss of the same picture with the same weights. The benchmark checks that the two losses agree. Ours
runs in float32. If the processor or GPU has native bfloat16 products, it also runs in bfloat16, in separate rows. Each
measurement has its own process. Ours and the peer's take turns. The ratio is the median over the turns, because single
times vary on a shared machine. The peers are written as users of PyTorch write them:

- torch: VGG16 from torch.nn, float32, default memory layout, and torch.optim.LBFGS with 10 corrections;
- torch at its best: channels last, and bfloat16 autocast beside ours in bfloat16.

The comparison "folder" is of whole searches: their steps, sizes and photos differ, and no losses are compared.
"""

import csv
import math
import os
import pathlib
import statistics
import tempfile
import time

from common import ROOT, main, measure, peak, row, take_turns, timed, torch_vgg

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

PHOTO, PAINTING = ROOT / "images/content/china.jpg", ROOT / "images/style/glands.jpg"
WIDTH, HEIGHT = 512, 384
PHOTOS = [ROOT / "images/content" / name for name in ("china.jpg", "rocket.jpg")]
EVALUATIONS = 300  # of the loss by the reference, which is torch's L-BFGS
LONG = 100  # steps at each size of the search that the default is compared with


# --- The comparisons ---


# A bfloat16 number has 8 bits, so its relative error is up to 1/256. A loss is made of differences of such numbers, and
# the errors do not all cancel: losses differed by 1.4 % and 1.9 %. Float32 differs only in the order of its sums.
WITHIN = {"float32": 1e-3, "mixed_bfloat16": 4e-2}


def compare_evaluation(arguments):
    precisions = measure("native_precisions", arguments)
    parts = [(part, p) for p in precisions for part in ("evaluate_ours", "evaluate_torch_at_its_best")]
    plain, *measured = take_turns(["evaluate_torch", *parts], arguments)
    what = f"a value and gradient at {WIDTH} x {HEIGHT}, beside torch"
    for precision, ours, best in zip(precisions, measured[::2], measured[1::2], strict=True):
        check_losses([loss for _, loss in [*plain, *ours, *best]], WITHIN[precision])
        at_its_best = f"{what} at its best" + " (bfloat16)" * (precision != "float32")
        for name, peer in ((what, plain), (at_its_best, best)):
            times = [[seconds for seconds, _ in part] for part in (ours, peer)]
            yield row(name, precision, *times, "s", more_is_better=False)


def check_losses(losses, within):
    if not max(losses) - min(losses) <= within * min(losses):
        raise RuntimeError(f"the losses should agree within {within:.1%}, and are {losses}")


def compare_picture(arguments):
    """Compare the times of a search. Ours stops when it reaches the final loss of the reference."""
    precisions = measure("native_precisions", arguments)
    ours, theirs = {precision: [] for precision in precisions}, []
    for _ in range(arguments.repeats):
        seconds, loss = measure("search_torch", arguments)[-1]
        os.environ["REFERENCE_LOSS"] = repr(loss)
        theirs.append(seconds)
        for precision in precisions:
            ours[precision].append(measure("search_ours", arguments, precision))
    for precision, turns in ours.items():
        what = f"the loss of {EVALUATIONS} evaluations of torch's L-BFGS (ours takes {turns[-1][1]})"
        yield row(what, precision, [seconds for seconds, _ in turns], theirs, "s", more_is_better=False)


def compare_folder(arguments):
    """Compare the default with a long search, both in a folder, and with PyTorch's search at one size."""
    parts = [(part, p) for p in measure("native_precisions", arguments) for part in ("folder_ours", "folder_long")]
    (*measured, theirs) = take_turns([*parts, "search_torch"], arguments)
    torch = [found[-1][0] for found in theirs]
    for (_, precision), ours, long in zip(parts[::2], measured[::2], measured[1::2], strict=True):
        what = f"a photo of a folder at {WIDTH} pixels, beside"
        yield row(
            f"{what} {LONG} steps at each size, in the same precision", precision, ours, long, "s", more_is_better=False
        )
        yield row(f"{what} {EVALUATIONS} evaluations by torch", precision, ours, torch, "s", more_is_better=False)


def compare_memory(arguments):
    for part, what in (("memory_512", "memory at 512 pixels"), ("memory_1024", "memory at 1024 pixels")):
        for precision in measure("native_precisions", arguments):
            (sizes,) = take_turns([(part, precision)], arguments)
            spread = f"{min(sizes):.2f} .. {max(sizes):.2f} GB"
            yield what, precision, f"{statistics.median(sizes):.2f} GB", "", "", spread
    one, twenty = take_turns(["memory_of_one", "memory_of_twenty"], arguments)
    yield row("memory of a folder of 20 photos, beside one", "float32", twenty, one, "GB")


# --- One evaluation ---


def prepared(**more):
    """Return our StyleModel, our Search, the picture that it begins with, and the targets of the loss."""
    import config
    from atelier import imaging
    from atelier.style import optimization

    common = {"style": (str(PAINTING),), "size": WIDTH, "quiet": True, "scales": 1}
    options = config.Style(**common | more)
    model = optimization.StyleModel(options)
    photo = imaging.resize_picture(imaging.load_image(PHOTO), WIDTH, HEIGHT)
    search = optimization.Search(model, photo, None, options)
    search.margin = 0  # the peer has none
    return model, search, search.initial, search.targets(WIDTH, HEIGHT)


def seconds_of(evaluate, times=5):
    """Return the mean seconds of `evaluate()` after a first call, and the loss that it returns."""
    evaluate()
    started = time.perf_counter()
    for _ in range(times):
        loss = evaluate()
    return (time.perf_counter() - started) / times, loss


def evaluate_ours(data, precision):
    import numpy as np

    model, _, picture, targets = prepared(precision=precision)

    def evaluate():
        terms, gradient = model.loss_and_gradient_at(WIDTH)(picture[None], targets)
        np.asarray(gradient)
        return float(terms["total"])

    return seconds_of(evaluate)


def torch_loss(best=False, bfloat16=False, **more):
    """Return the initial picture as a torch tensor, and the function loss(picture).

    Both are written as users write them or, if `best`, optimized. `more` are options of ours, as for prepared().
    """
    import numpy as np
    import torch

    import config
    from atelier.style import perceptual_loss

    _, _, initial, targets = prepared(**{"precision": "float32"} | more)
    options = perceptual_loss.layers_at(WIDTH, config.Style())
    names, network = torch_vgg(max(*options.style_layers, *options.content_layers))
    mean = torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    picture = torch.from_numpy(initial.transpose(2, 0, 1)[None].copy())
    contents = [torch.from_numpy(np.asarray(base).transpose(0, 3, 1, 2).copy()) for base in targets["content"]]
    style = [[torch.from_numpy(np.array(base)) for base in bases] for bases in targets["style"]]
    if best:
        network, picture = (x.to(memory_format=torch.channels_last) for x in (network, picture))

    def relative(base, output):
        return (base - output).square().sum() / base.square().sum()

    def loss(x):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            features, found = x.flip(1) - mean, {}
            for name, layer in zip(names, network):
                features = layer(features)
                found[name] = features
        styles = []
        for name, bases in zip(options.style_layers, style, strict=True):
            statistics = torch_statistics(found[name].float())
            distances = [(relative(base, output) + 1e-8).sqrt() for base, output in zip(bases, statistics, strict=True)]
            styles.append(sum(distances))
        unit = x / 255
        lower, right = unit[:, :, 1:, :-1] - unit[:, :, :-1, :-1], unit[:, :, :-1, 1:] - unit[:, :, :-1, :-1]
        variation = (lower.square().sum() + right.square().sum()) / x.numel()
        distances = [
            relative(base, torch.minimum(base, found[name].float()))
            for name, base in zip(options.content_layers, contents, strict=True)
        ]
        return (
            options.content_weight * sum(distances) / len(distances)
            + options.style_weight * sum(styles) / len(styles)
            + options.tv_weight * variation
        )

    return picture, loss


def torch_statistics(x):
    """List the style statistics of features 1 x C x h x w: covariance and mean."""
    flat = x[0].flatten(1)
    mean = flat.mean(1)
    return [flat @ flat.T / flat.shape[1] - mean[:, None] * mean, mean[None]]


def evaluate_torch(data, **best):
    picture, loss = torch_loss(**best)
    picture.requires_grad_(True)

    def evaluate():
        picture.grad = None
        value = loss(picture)
        value.backward()
        return value.item()

    return seconds_of(evaluate)


def evaluate_torch_at_its_best(data, precision):
    return evaluate_torch(data, best=True, bfloat16=precision == "mixed_bfloat16")


# --- The time to the same picture ---


class Reached(Exception):
    pass


def search_torch(data, **more):
    """Run torch's L-BFGS for EVALUATIONS evaluations. List (seconds, lowest loss so far) after each of them."""
    import torch

    picture, loss = torch_loss(**more)
    picture.requires_grad_(True)
    scale = 1e6  # the optimizer's tolerances are for losses of about this size
    optimizer = torch.optim.LBFGS(
        [picture],
        max_iter=EVALUATIONS,
        max_eval=EVALUATIONS,
        history_size=10,
        line_search_fn="strong_wolfe",
        tolerance_grad=0,
        tolerance_change=0,
    )
    found, least = [], math.inf

    def closure():
        nonlocal least
        optimizer.zero_grad()
        value = loss(picture) * scale
        value.backward()
        least = min(least, value.item() / scale)
        found.append((time.perf_counter() - started, least))
        return value

    started = time.perf_counter()
    optimizer.step(closure)
    return found


def search_ours(data, precision):
    """Search as style_transfer.py does, from the same picture, down to REFERENCE_LOSS: (seconds, evaluations)."""
    import tqdm

    goal = float(os.environ["REFERENCE_LOSS"])
    _, search, initial, targets = prepared(precision=precision)
    search.bar = tqdm.tqdm(disable=True)
    started = time.perf_counter()

    def accept(picture):
        if search.terms["total"] <= goal:
            raise Reached

    search.accept = accept
    try:
        search.minimize(initial, targets, 10 * EVALUATIONS)
    except Reached:
        return time.perf_counter() - started, search.evaluations
    raise RuntimeError(f"ours came to {search.terms['total']:.5f}, and torch to {goal:.5f}")


# --- A folder ---


def folder_ours(data, precision):
    return seconds_in_folder(precision)


def folder_long(data, precision):
    return seconds_in_folder(precision, "--iterations", LONG)


def seconds_in_folder(precision, *flags):
    """Return the mean seconds for a photo of a folder, without the start of the command."""
    with tempfile.TemporaryDirectory() as folder:
        results = pathlib.Path(folder) / "results"
        flags = (*flags, "--size", WIDTH, "--precision", precision, "--no-page", "--output", results)
        timed(["style_transfer.py", *map(str, (*PHOTOS, "--style", PAINTING, *flags))])
        with open(results / "summary.csv", newline="") as table:
            return statistics.mean(float(photo["seconds"]) for photo in csv.DictReader(table))


# --- Memory ---


def memory_at(size, precision):
    with tempfile.TemporaryDirectory() as folder:
        flags = ("--size", size, "--precision", precision, "--iterations", 3)
        result = pathlib.Path(folder) / "result.png"
        return peak("style_transfer.py", PHOTO, "--style", PAINTING, *flags, "--output", result)


def memory_512(data, precision):
    return memory_at(512, precision)


def memory_1024(data, precision):
    return memory_at(1024, precision)


def memory_of_photos(count):
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        photos = pathlib.Path(folder) / "photos"
        photos.mkdir()
        for i in range(count):
            Image.open(PHOTO).save(photos / f"{i:02}.jpg")
        flags = ("--precision", "float32", "--iterations", 5, "--output", pathlib.Path(folder) / "results")
        return peak("style_transfer.py", photos, "--style", PAINTING, *flags)


def memory_of_one(data):
    return memory_of_photos(1)


def memory_of_twenty(data):
    return memory_of_photos(20)


COMPARISONS = {
    "evaluation": compare_evaluation,
    "picture": compare_picture,
    "folder": compare_folder,
    "memory": compare_memory,
}
PARTS = {
    function.__name__: function
    for function in (
        *(evaluate_ours, evaluate_torch, evaluate_torch_at_its_best, search_ours, search_torch),
        *(folder_ours, folder_long),
        *(memory_512, memory_1024, memory_of_one, memory_of_twenty),
    )
}

if __name__ == "__main__":
    main(__file__, __doc__, COMPARISONS, PARTS, "not needed: the pictures are those in images/")
