"""Time DeepDream beside PyTorch, in one run on one machine.

    make bench
    .venv/bin/python benchmarks/bench_dreams.py --only dream --repeats 5

Both dream of the same layer of the same photo with the same weights, in the same octaves and steps; ours takes turns
with the peer, each in a process of its own, and the ratio is the median over the turns: on a shared machine single
times mean little. The peer is written as people write it: VGG16 from torch.nn, float32, torch.roll for the jitter,
autograd, torch.nn.functional.interpolate between octaves. Loading is not timed; that ours is traced once is. Ours
runs in float32 and, where the processor or GPU multiplies it natively, in bfloat16, in rows of their own.
"""

import os
import pathlib
import tempfile
import time

from common import ROOT, main, measure, peak, row, take_turns, torch_vgg

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

PHOTO = ROOT / "images/content/china.jpg"
WIDTH, HEIGHT = 512, 384
OCTAVES, STEPS, SCALE = 4, 12, 1.4
LAYER, STEP_SIZE, JITTER = "block5_conv1", 2.0, 16
FRAMES = 10


# --- The comparisons ---


def compare_dream(arguments):
    precisions = measure("native_precisions", arguments)
    theirs, *measured = take_turns(["dream_torch", *(("dream_ours", p) for p in precisions)], arguments)
    what, peer = (
        f"a dream of {WIDTH} x {HEIGHT}, {OCTAVES} octaves of {STEPS} steps",
        [seconds for seconds, _ in theirs],
    )
    for precision, ours in zip(precisions, measured, strict=True):
        growth = [strength for *_, strength in [*ours, *theirs]]
        if max(growth) > 2 * min(growth):  # they differ in their jitter, and ours in the colours of its steps
            raise RuntimeError(f"both should dream alike, and what they dream of grew to {growth}")
        for i, which in enumerate(("the first of a process", "and each more")):
            times = [turn[i] for turn in ours]
            yield row(f"{what}, {which}, beside torch", precision, times, peer, "s", more_is_better=False)


def compare_zoom(arguments):
    """Nothing is traced or loaded again: the frames after the first two take as long as each other."""
    for precision in measure("native_precisions", arguments):
        seconds, longest, traces = measure("zoom_ours", arguments, precision)
        yield f"a frame of a zoom, {WIDTH} x {HEIGHT}", precision, f"{seconds:.3g} s", "", "", ""
        yield "the longest of these frames; traces in all", precision, f"{longest:.3g} s; {traces}", "", "", ""


def compare_memory(arguments):
    for part, what in (("memory_512", "memory at 512 pixels"), ("memory_4000", "memory at 4000 x 3000 pixels")):
        for precision in measure("native_precisions", arguments):
            yield what, precision, f"{measure(part, arguments, precision):.2f} GB", "", "", ""


# --- Ours ---


def prepared(**more):
    import config
    import deepdream

    flags = {"octaves": OCTAVES, "steps": STEPS, "octave_scale": SCALE, "step_size": STEP_SIZE, "jitter": JITTER}
    options = config.Dream(layers=(LAYER,), size=WIDTH, quiet=True, weights="hed", **flags | more)
    studio = deepdream.Studio(options)
    photo = deepdream.imaging.resize_picture(deepdream.imaging.load_image(PHOTO), WIDTH, HEIGHT)
    return studio, options, photo


def dream_ours(data, precision):
    """Return the seconds of a first dream and of another, and how strong the layer is at its end."""
    import numpy as np

    import deepdream

    studio, options, photo = prepared(precision=precision)
    seconds = []
    for _ in range(2):
        dreamer = deepdream.Dreamer(studio, options)
        started = time.perf_counter()
        dreamer.dream(photo, np.random.default_rng(0))
        seconds.append(time.perf_counter() - started)
    return *seconds, float(dreamer.history[-1])


def zoom_ours(data, precision):
    """Return the median and the greatest seconds of a frame once the first two are done, and the number of traces."""
    import numpy as np

    import deepdream

    studio, options, frame = prepared(octaves=2, steps=4, zoom=FRAMES, rotate=0.5, precision=precision)
    seconds = []
    for number in range(FRAMES):
        started = time.perf_counter()
        moved = deepdream.move(frame, options)
        frame = deepdream.Dreamer(studio, options).dream(moved, np.random.default_rng(number))
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[2:])), max(seconds[2:]), studio.evaluate.traces


# --- The peer ---


def dream_torch(data):
    """Return the seconds of the same dream as people write it, and how strong the layer is at its end."""
    import torch

    _, _, photo = prepared()
    _, network = torch_vgg(LAYER)
    mean = torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    original = torch.from_numpy(photo.transpose(2, 0, 1)[None].copy())

    def resized(x, height, width):
        return torch.nn.functional.interpolate(x, (height, width), mode="bilinear", align_corners=False)

    torch.manual_seed(0)
    started = time.perf_counter()
    detail = None
    for octave in reversed(range(OCTAVES)):
        height, width = round(HEIGHT / SCALE**octave), round(WIDTH / SCALE**octave)
        base = resized(original, height, width)
        picture = base if detail is None else base + resized(detail, height, width)
        for _ in range(STEPS):
            shift = torch.randint(-JITTER, JITTER + 1, (2,)).tolist()
            rolled = torch.roll(picture, shift, (2, 3)).requires_grad_(True)
            strength = network(rolled.flip(1) - mean).square().mean()
            strength.backward()
            gradient = rolled.grad / (rolled.grad.abs().mean() + 1e-8)
            picture = torch.roll((rolled + STEP_SIZE * gradient).detach(), [-s for s in shift], (2, 3)).clamp(0, 255)
        detail = picture - base
    return time.perf_counter() - started, strength.item()


# --- Memory ---


def memory_512(data, precision):
    with tempfile.TemporaryDirectory() as folder:
        flags = ("--precision", precision, "--steps", 2, "--output", pathlib.Path(folder) / "result.png")
        return peak("deepdream.py", PHOTO, *flags)


def memory_4000(data, precision):
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        photo, result = pathlib.Path(folder) / "photo.jpg", pathlib.Path(folder) / "result.jpg"
        Image.open(PHOTO).resize((4000, 3000)).save(photo)
        flags = ("--precision", precision, "--size", 4000, "--octaves", 2, "--steps", 1, "--output", result)
        return peak("deepdream.py", photo, *flags)


COMPARISONS = {"dream": compare_dream, "zoom": compare_zoom, "memory": compare_memory}
PARTS = {function.__name__: function for function in (dream_ours, dream_torch, zoom_ours, memory_512, memory_4000)}

if __name__ == "__main__":
    main(__file__, __doc__, COMPARISONS, PARTS, "not needed: the picture is one of those in images/")
