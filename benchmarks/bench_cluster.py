"""Time clusters: the gain of several processes on one machine, the cost of an empty task, the effect of dying workers.

    make bench
    .venv/bin/python benchmarks/bench_cluster.py --only empty --repeats 1

- shared: two runs on the same folder, one with one process on all cores, the other with a worker process for each core.
  The result is the mean seconds from one picture to the next, without the first four pictures.
- empty: tasks that do nothing, on 32 workers. The workers are threads of one process, which is not the command's. The
  memory is that of the command.
- killed: workers are killed at random. The results must equal those of a run without kills.
"""

import csv
import hashlib
import json
import os
import pathlib
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from common import ROOT, main, measure, row, take_turns

PAINTING = ROOT / "images/style/wave.jpg"
PHOTOS, SIZE = 20, 512
FIRST = 4  # pictures that are not timed, because the processes still load their models
EMPTY, THREADS = 20_000, 32
KILLED, EVERY = 60, 20  # photos, and seconds between kills


# --- The comparisons ---


def compare_shared(arguments):
    """Compare one process with all cores and one process for each core, on the same folder."""
    for what, part in (("a learned style", "learned"), ("the search, 8 steps a size", "search")):
        alone, shared = take_turns([f"{part}_alone", f"{part}_shared"], arguments)
        name = f"a photo of {PHOTOS} at {SIZE} pixels, {what}: {os.cpu_count()} workers beside one process"
        yield row(name, "auto", [turn[0] for turn in shared], [turn[0] for turn in alone], "s", more_is_better=False)
        sizes = (f"{statistics.median(turn[1] for turn in turns):.2f} GB" for turns in (shared, alone))
        yield "memory of all processes at its peak", "auto", *sizes, "", ""


def compare_empty(arguments):
    (turns,) = take_turns(["empty"], arguments)
    seconds, gigabytes = zip(*turns, strict=True)
    spread = f"{min(seconds):.3g} .. {max(seconds):.3g} s"
    ours = f"{statistics.median(seconds):.3g} s, {max(gigabytes):.2f} GB"
    yield f"{EMPTY} empty tasks, {THREADS} workers", "", ours, "", "", spread


def compare_killed(arguments):
    for part, what in (("killed_photos", f"{KILLED} photos"), ("killed_digits", "ten classes of digits")):
        undisturbed, killed = measure(f"{part}_undisturbed", arguments), measure(part, arguments)
        if killed["results"] != undisturbed["results"]:
            raise RuntimeError(f"{what}: killed workers changed the results")
        ours = f"{killed['seconds']:.0f} s, {killed['kills']} kills, the same {len(killed['results'])} files"
        yield f"{what}, 3 workers, one killed every {EVERY} s", "", ours, f"{undisturbed['seconds']:.0f} s", "", ""


# --- What is measured ---


def folder_of_photos(folder, count):
    """Fill a folder with photos: those that ship with the toolkit, mirrored and rotated."""
    from PIL import Image, ImageOps

    folder.mkdir()
    sources = [Image.open(path).convert("RGB") for path in sorted((ROOT / "images/content").glob("*.jpg"))]
    for number in range(count):
        photo = sources[number % len(sources)]
        photo = ImageOps.mirror(photo) if number // len(sources) % 2 else photo
        photo.rotate(90 * (number // len(sources) // 2), expand=True).save(folder / f"{number:03}.png")
    return folder


def paint(*flags, workers=None):
    """Paint a folder by the command. Return the seconds a photo, and the peak memory of all its processes in GB.

    The seconds are the mean time from one picture to the next, without the FIRST pictures.
    """
    with tempfile.TemporaryDirectory() as folder:
        photos = folder_of_photos(pathlib.Path(folder, "photos"), PHOTOS)
        command = [sys.executable, "style_transfer.py", photos, *flags, "--size", SIZE, "--output", f"{folder}/out"]
        command += ["--quiet", *(("--workers", workers) if workers else ())]
        most, process = 0, subprocess.Popen([str(word) for word in command], cwd=ROOT, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            most = max(most, memory_of_family(process.pid))
            time.sleep(0.2)
        if process.returncode:
            raise RuntimeError(f"{command} failed")
        made = sorted(path.stat().st_mtime for path in pathlib.Path(folder, "out").glob("*.png"))
        return (made[-1] - made[FIRST - 1]) / (PHOTOS - FIRST), most


def memory_of_family(pid):
    import psutil

    family, total = [psutil.Process(pid)], 0
    family += family[0].children(recursive=True)
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 2**30


def paint_learned(workers):
    return paint("--learned", "wave", workers=workers)


def paint_searched(workers):
    return paint("--style", PAINTING, "--iterations", 8, workers=workers)


# All workers share one process here, so each monitors it rarely.
CLUSTER = f"""
import dask, distributed
dask.config.set({{"distributed.worker.profile.enabled": False, "distributed.admin.system-monitor.interval": "10s"}})
if __name__ == "__main__":
    settings = dict(n_workers={THREADS}, threads_per_worker=1, processes=False, memory_limit=0, dashboard_address=None)
    cluster = distributed.LocalCluster(protocol="tcp://", host="127.0.0.1", **settings)
    print(cluster.scheduler_address, flush=True)
    input()
"""


def do_nothing(photo, result, options):
    return {}


def prepare_nothing(options):
    pass


def manifest_of_nothing(options):
    return {"script": SCRIPT, "weights": None}


SCRIPT = pathlib.Path(__file__).name


def empty(data):
    """Run empty tasks on workers that are threads. Return the seconds, and the peak memory of this process in GB."""
    import bench_cluster as tasks  # workers import it by this name

    import config
    from atelier.batch import folders

    paths = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=os.environ | {"PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with tempfile.TemporaryDirectory() as folder, process:
        photos, output = pathlib.Path(folder, "photos"), pathlib.Path(folder, "out")
        photos.mkdir()
        for number in range(EMPTY):
            (photos / f"{number}.jpg").touch()
        options = config.Style(scheduler=process.stdout.readline().strip(), quiet=True)
        task = folders.ImageTask(SCRIPT, tasks.do_nothing, tasks.prepare_nothing, tasks.manifest_of_nothing, None)
        started = time.perf_counter()
        with open(os.devnull, "w") as nowhere:
            sys.stdout, original = nowhere, sys.stdout
            found = folders.find_photos([photos], output, options)
            folders.apply_to_folder(task, found, output, ".png", [folders.Variant(options)], options)
            sys.stdout = original
        seconds = time.perf_counter() - started
        process.kill()
        with open(output / "summary.csv") as file:
            if [line["status"] for line in csv.DictReader(file)] != ["done"] * EMPTY:
                raise RuntimeError("not all tasks were done")
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def with_three_workers(command, kill):
    """Run a command on a scheduler and three workers. Return the seconds and the number of kills.

    If `kill`, a random worker is killed every EVERY seconds, and a new one is started in its place.
    """
    bin = pathlib.Path(sys.executable).parent
    random.seed(0)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "scheduler.json")
        options = ["--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
        scheduler = subprocess.Popen([bin / "dask", "scheduler", *options], cwd=folder, **quiet)
        while not file.exists():
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]

        def start():
            options = ["--nthreads", "1", "--memory-limit", "0", "--no-dashboard", "--no-nanny"]
            return subprocess.Popen([bin / "dask", "worker", address, *options], cwd=folder, **quiet)

        workers, killed, started = [start() for _ in range(3)], 0, time.monotonic()
        process = subprocess.Popen([str(word) for word in (*command, "--scheduler", address)], cwd=ROOT, **quiet)
        while process.poll() is None:
            time.sleep(0.2)
            if kill and time.monotonic() - started > EVERY * (killed + 1):
                i = random.randrange(3)
                workers[i].send_signal(signal.SIGKILL)
                workers[i].wait()
                workers[i], killed = start(), killed + 1
        seconds = time.monotonic() - started
        for one in (*workers, scheduler):
            one.kill()
            one.wait()
    if process.returncode:
        raise RuntimeError(f"{command} ended with status {process.returncode}")
    return seconds, killed


def paint_with_three(kill):
    with tempfile.TemporaryDirectory() as folder:
        photos, output = folder_of_photos(pathlib.Path(folder, "photos"), KILLED), pathlib.Path(folder, "out")
        flags = ["--style", PAINTING, "--size", 128, "--iterations", 15, "--overwrite"]
        command = [sys.executable, "style_transfer.py", photos, *flags, "--output", output]
        seconds, kills = with_three_workers(command, kill)
        with open(output / "summary.csv") as file:
            rows = list(csv.DictReader(file))
        if [row["status"] for row in rows] != ["done"] * KILLED:
            raise RuntimeError("a photo has no row, or several, or failed")
        return {"seconds": seconds, "kills": kills, "results": pixels_of(output)}


def pixels_of(folder):
    """Return a checksum of each picture's pixels. Whole files differ: they also record the command and its port."""
    from PIL import Image

    return {path.name: hashlib.sha256(Image.open(path).tobytes()).hexdigest() for path in sorted(folder.glob("*.png"))}


def train_with_three(kill):
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder, "digits")
        command = [sys.executable, "train_rnn.py", "digits", "--all-digits", "--epochs", "60", "--output", output]
        seconds, kills = with_three_workers(command, kill)
        return {"seconds": seconds, "kills": kills, "results": weights_of(output)}


def weights_of(folder):
    """Return a checksum of each class's checkpoint: the network, the optimizer and the losses."""
    import numpy as np

    checksums = {}
    for path in sorted(folder.glob("checkpoint_*.npz")):
        with np.load(path) as file:
            checksums[path.name] = hashlib.sha256(b"".join(file[name].tobytes() for name in sorted(file))).hexdigest()
    return checksums


PARTS = {
    "learned_alone": lambda data: paint_learned(None),
    "learned_shared": lambda data: paint_learned(os.cpu_count()),
    "search_alone": lambda data: paint_searched(None),
    "search_shared": lambda data: paint_searched(os.cpu_count()),
    "empty": empty,
    "killed_photos": lambda data: paint_with_three(True),
    "killed_photos_undisturbed": lambda data: paint_with_three(False),
    "killed_digits": lambda data: train_with_three(True),
    "killed_digits_undisturbed": lambda data: train_with_three(False),
}
COMPARISONS = {"shared": compare_shared, "empty": compare_empty, "killed": compare_killed}

if __name__ == "__main__":
    main(__file__, __doc__, COMPARISONS, PARTS, "not used here")
