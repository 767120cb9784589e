"""cluster.py by the scripts: with a real scheduler and workers, with local processes, and when some of them die."""

import contextlib
import functools
import json
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import types

import numpy as np
import psutil
import pytest
from conftest import ROOT, TINY, check, interrupt_of, meta_of, pixels, results, rows_of, run, wait_for
from PIL import Image

import config
import style_transfer
from atelier import disk, errors, progress
from atelier.batch import cluster, folders, plan

DASK = pathlib.Path(sys.executable).with_name("dask")
LEARNED = ("--learned", "wave", "--size", 64, "--precision", "float32")
SLOW = (*LEARNED[:2], "--size", 700, *LEARNED[4:])  # half a second each


@contextlib.contextmanager
def run_scheduler(folder):
    """Yield the address and the process of a new scheduler."""
    file = folder / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", file]
    with started("scheduler", *options, folder=folder) as process:
        wait_for(lambda: file.exists() and file.read_text())
        yield json.loads(file.read_text())["address"], process


@contextlib.contextmanager
def started(what, *options, folder):
    """Start a scheduler or a worker in a folder that is not the toolkit's, and end it with its children."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([DASK, what, *map(str, options)], cwd=folder, **quiet)
    try:
        yield process
    finally:
        kill_family(process)


def kill_family(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()


def run_worker(address, folder, *options):
    return started("worker", address, "--nthreads", 1, "--memory-limit", 0, "--no-dashboard", *options, folder=folder)


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """A scheduler with two workers, each started by itself: its address, and the workers' processes."""
    folder = tmp_path_factory.mktemp("dask")
    with contextlib.ExitStack() as stack:
        address, _ = stack.enter_context(run_scheduler(folder))
        yield address, [stack.enter_context(run_worker(address, folder)) for _ in range(2)]


@pytest.fixture
def sharing(request, workers):
    """The flags for local processes, or for the workers of that scheduler."""
    return ("--workers", request.param) if request.param else ("--scheduler", workers[0])


both = pytest.mark.parametrize("sharing", [1, None], indirect=True, ids=["process", "scheduler"])
processes = pytest.param(2, marks=pytest.mark.slow)
two = pytest.mark.parametrize("sharing", [processes, None], indirect=True, ids=["processes", "scheduler"])


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Six photos, and a file that is no photo."""
    folder = tmp_path_factory.mktemp("photos") / "album"
    folder.mkdir()
    photo = Image.open(ROOT / "images/content/china.jpg").resize((120, 80))
    for name in "abcdef":
        photo.save(folder / f"{name}.jpg")
        photo = photo.rotate(40)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 not a photo")
    return folder


@pytest.fixture(scope="module")
def alone(album, made_once):
    """The pictures that one process makes of them."""
    command = functools.partial(run, "style_transfer.py", album, *LEARNED, status=1)
    return made_once("alone", lambda folder: command("--output", folder))


# --- The commands --------------------------------------------------------------------------------


@two
def test_a_folder_of_photos_is_as_by_one_process(sharing, album, alone, tmp_path):
    result = run("style_transfer.py", album, *LEARNED, *sharing, "--output", tmp_path, status=1)
    rows, expected = rows_of(tmp_path), rows_of(alone)
    for name, row in rows.items():
        changed = {key for key in row if row[key] != expected[name][key]}
        assert changed <= {"result", "seconds"}, name
        if row["status"] == "done":
            picture = pathlib.Path(row["result"])
            assert np.abs(pixels(picture) - pixels(alone / picture.name)).max() <= 1, name
            assert f"{sharing[0]} {sharing[1]}" in Image.open(picture).text["command"]
    assert rows.keys() == expected.keys() and rows["broken.jpg"]["status"] == "failed"
    assert "cluster: " in result.stderr and "workers: " in result.stderr
    again = run("style_transfer.py", album, *LEARNED, "--output", tmp_path, status=1)
    assert "done before: 6" in again.stdout  # the manifest is the same, however the work was shared


def test_dreams_run_on_workers(workers, album, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in "ab":
        shutil.copy(album / f"{name}.jpg", photos)
    command = ("deepdream.py", photos, "--size", 32, "--convnet", "trained/digit_classifier/epoch_32.keras")
    command += ("--layers", "conv2", "--precision", "float32")
    run(*command, "--scheduler", workers[0], "--output", tmp_path / "shared")
    run(*command, "--output", tmp_path / "alone")
    for name in ("a.png", "b.png"):
        assert np.abs(pixels(tmp_path / "shared" / name) - pixels(tmp_path / "alone" / name)).max() <= 1


@pytest.mark.slow
@both
def test_classes_of_digits_are_trained_as_by_one_process(sharing, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "digits")
    for label in (3, 7):  # of ten: as many as there are workers
        remove_class(folder, label)
    result = run("train_rnn.py", "digits", "--all-digits", *TINY, "--resume", *sharing, "--output", folder)
    assert results(result.stdout)["epochs"] == "6"
    assert not list(folder.glob("*.lock"))
    assert checkpoints(folder) == checkpoints(tiny)
    assert meta_of(folder)["classes"] == meta_of(tiny)["classes"]


def remove_class(folder, label):
    """Remove a class from the folder of a training."""
    for path in folder.glob(f"*_{label}.*"):
        path.unlink()
    meta = meta_of(folder)
    del meta["classes"][str(label)]
    (folder / "meta.json").write_text(json.dumps(meta))


def checkpoints(folder):
    """Return each class's checkpoint as bytes."""
    found = {}
    for path in sorted(folder.glob("checkpoint_*.npz")):
        with np.load(path) as file:
            found[path.name] = {name: file[name].tobytes() for name in file}
    return found


def test_dask_is_not_imported_without_the_flags(album, tmp_path):
    code = (
        "import sys, style_transfer\nfrom atelier import command_line\n"
        "try:\n    command_line.run(style_transfer.main)\n"
        "finally:\n    print('distributed' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(album), *map(str, LEARNED), "--output", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.splitlines()[-1] == "False" and len(rows_of(tmp_path)) == 7


# --- Workers and schedulers that die -------------------------------------------------------------


@pytest.mark.slow
def test_another_worker_continues_and_a_scheduler_that_goes_away_is_reported_in_one_line(album, tmp_path):
    output = tmp_path / "out"
    command = ["style_transfer.py", *map(str, (album, *SLOW, "--output", output))]
    with run_scheduler(tmp_path) as (address, scheduler):
        with run_worker(address, tmp_path):  # the only one, and soon dead
            process = begin([*command, "--scheduler", address])
            wait_for(lambda: list(output.glob("[!.]*.png")))
        before = len(list(output.glob("[!.]*.png")))
        with run_worker(address, tmp_path):
            wait_for(lambda: len(list(output.glob("[!.]*.png"))) > before)
            scheduler.kill()
            assert "went away; what is done is kept" in check(end(process), 1).stderr
    assert len(rows_of(output)) == 7 and pixels(next(output.glob("[!.]*.png"))).shape == (467, 700, 3)


def test_a_client_that_has_closed_after_its_scheduler_went_away_is_reported_in_one_line(workers):
    options = types.SimpleNamespace(scheduler=workers[0], workers=None, quiet=True)
    with cluster.open_session(options, functools.partial(max, (), default=None)) as session:
        session.client.sync(session.client._close)  # Dask's client does this when it cannot connect again
        for call in (session.look_at_workers, functools.partial(session.submit, str)):
            with pytest.raises(errors.InputError, match="went away"):
                call()


@pytest.mark.slow
def test_two_commands_share_the_workers(workers, album, alone, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for photo in ("a.jpg", "b.jpg", "c.jpg"):
            shutil.copy2(album / photo, tmp_path / name)
    # By one name each command knows a style of its own.
    for name, style in (("a", "wave"), ("b", "scream")):
        shutil.copytree(ROOT / "trained/styles" / style, tmp_path / name / "mine")
        shutil.copy(ROOT / "trained/styles/network.npz", tmp_path / name)
    flags = ("--learned", "./mine", *LEARNED[2:], "--scheduler", workers[0], "--output", "out")
    script = str(ROOT / "style_transfer.py")
    both = [begin([script, ".", *map(str, flags)], tmp_path / name) for name in "ab"]
    for process in both:
        check(end(process), 0)
    for name, style in (("a", "wave"), ("b", "scream")):
        run("style_transfer.py", tmp_path / name, "--learned", style, *LEARNED[2:], "--output", tmp_path / style)
        for photo in ("a.png", "b.png", "c.png"):
            assert np.abs(pixels(tmp_path / name / "out" / photo) - pixels(tmp_path / style / photo)).max() <= 1


@pytest.mark.slow
def test_killed_workers_change_nothing(workers, album, alone, tmp_path):
    address, processes = workers
    command = [*map(str, ("style_transfer.py", album, *LEARNED, "--scheduler", address, "--output", tmp_path))]
    process = begin(command)
    wait_for(lambda: list(tmp_path.glob("[!.]*.png")))
    psutil.Process(processes[0].pid).children()[-1].kill()  # its nanny starts it anew
    check(end(process), 1)
    rows = rows_of(tmp_path)
    assert {name: row["status"] for name, row in rows.items()} == {
        name: row["status"] for name, row in rows_of(alone).items()
    }
    for path in tmp_path.glob("[!.]*.png"):
        assert np.abs(pixels(path) - pixels(alone / path.name)).max() <= 1


def begin(command, folder=ROOT):
    """Start a command as a shell does: it receives Ctrl-C, and leads a group of processes."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    )


def end(process):
    output, said = process.communicate(timeout=200)
    return subprocess.CompletedProcess(process.args, process.returncode, output, said)


@pytest.mark.slow
@two
def test_ctrl_c_stops_what_runs_and_keeps_what_is_done(sharing, album, tmp_path):
    command = ["style_transfer.py", str(album), *map(str, (*SLOW, *sharing, "--output", tmp_path))]
    process = begin(command)
    wait_for(lambda: list(tmp_path.glob("[!.]*.png")))
    family = psutil.Process(process.pid).children(recursive=True)
    interrupt_of(process)
    result = check(end(process), 130)
    assert result.stderr.splitlines()[-1] == "error: interrupted; the same command goes on with what is not done"
    wait_for(lambda: all(one.status() == psutil.STATUS_ZOMBIE for one in family if one.is_running()), 20)
    there = {path.name for path in tmp_path.glob("[!.]*.png")}
    assert 0 < len(there) < 6
    time.sleep(3)  # longer than one photo takes
    assert {path.name for path in tmp_path.glob("*.png")} == there  # no worker goes on, and none left half a file
    assert len(rows_of(tmp_path)) == 7


def test_a_scheduler_without_workers_is_reported_in_one_line_after_a_while(album, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    with run_scheduler(tmp_path) as (address, _):
        command = ("style_transfer.py", album, *LEARNED, "--scheduler", address, "--output", tmp_path / "out")
        assert f"{address} had no worker for 1 s" in run(*command, status=2).stderr


def test_no_scheduler_is_reported_in_one_line(album, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT", 1)
    for address in ("tcp://127.0.0.1:9", "carrier-pigeon://roof"):
        flags = ("--scheduler", address, "--output", tmp_path / "out")
        assert (
            f"no scheduler answers at {address}" in run("style_transfer.py", album, *LEARNED, *flags, status=2).stderr
        )


def test_tls_without_certificates_is_reported_in_one_line(album, tmp_path):
    flags = ("--scheduler", "tls://127.0.0.1:9", "--output", tmp_path / "out")
    assert "needs certificates" in run("style_transfer.py", album, *LEARNED, *flags, status=2).stderr


@pytest.mark.slow
def test_a_call_that_kills_its_workers_is_given_up_and_others_are_done(monkeypatch):
    monkeypatch.setitem(cluster.SETTINGS, "distributed.scheduler.allowed-failures", 0)
    monkeypatch.setattr(cluster, "MAX_DEATHS", 2)
    calls = [("fatal", functools.partial(os._exit, 1)), ("harmless", functools.partial(len, "abc"))]
    check = functools.partial({}.get, "nothing")
    with cluster.open_session(config.Style(workers=1, quiet=True), check) as session:
        results = dict(session.results(calls))
        assert isinstance(results["fatal"], cluster.WorkersDied) and results["harmless"] == 3
        with pytest.raises(ValueError, match="invalid literal"):
            session.result(functools.partial(int, "x"))


def test_a_call_that_was_cancelled_writes_nothing_more(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "cancelled", disk.cancelled)  # restored afterwards
    cancelled = threading.Event()
    call = functools.partial(write_twice, tmp_path, "a call")
    monkeypatch.setitem(cluster.CANCELLATIONS, "a call", cancelled)
    worker = types.SimpleNamespace(state=types.SimpleNamespace(nthreads=1))
    with pytest.raises(errors.Interrupted):
        cluster.run_call(worker, "a session", cancelled, pickle.dumps(call))
    assert [path.name for path in tmp_path.iterdir()] == ["first.json"]
    with pytest.raises(errors.Interrupted):  # it was cancelled before its turn came
        cluster.run_call(worker, "a session", cancelled, pickle.dumps(call))
    call = functools.partial(disk.write_json, tmp_path / "next.json", 1)
    cluster.run_call(worker, "a session", threading.Event(), pickle.dumps(call))
    assert (tmp_path / "next.json").exists()


def write_twice(folder, key):
    """Write a file, be cancelled, and write another."""
    disk.write_json(folder / "first.json", 1)
    cluster.cancel_calls([key])
    disk.write_json(folder / "second.json", 2)


# --- Workers that cannot take part ---------------------------------------------------------------


def test_a_worker_reports_what_it_lacks(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # a worker changes the current folder to the command's; this restores it after the test
    ours = cluster.versions()
    fine, wrong = (pickle.dumps(functools.partial(json.loads, text)) for text in ("null", "no JSON"))
    assert cluster.find_refusal(str(tmp_path), ours, fine) is None
    assert "does not see /nowhere" in cluster.find_refusal("/nowhere", ours, fine)
    older = ours | {"this toolkit": "1234abcd", "keras": "3.0.1"}
    refusal = cluster.find_refusal(str(tmp_path), older, fine)
    assert f"it has this toolkit {ours['this toolkit']}, not 1234abcd and keras {ours['keras']}, not 3.0.1" in refusal
    assert "Expecting value" in cluster.find_refusal(str(tmp_path), ours, wrong)


def test_a_command_whose_workers_all_refuse_ends_with_the_reason(workers, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    check = functools.partial(str.format, "it does not see {}", "the photo")
    options = config.Style(scheduler=workers[0])
    session = cluster.open_session(options, check)
    with pytest.raises(errors.InputError, match="no worker of tcp.* can take part: it does not see the photo"), session:
        pass
    assert capsys.readouterr().err.count("does not take part: it does not see the photo") == 2


def test_a_worker_that_sees_other_files_is_refused(album, tmp_path):
    painting, other = (str(ROOT / f"images/style/{name}.jpg") for name in ("glands", "gravel"))
    options, others = (config.Style(style=(path,)) for path in (painting, other))
    manifest, marker = style_transfer.manifest_of(options), tmp_path / "marker"
    marker.touch()
    job, lost = (plan.Job(album / f"{name}.jpg", folders.Variant(options), tmp_path / "a.png") for name in "az")
    missing = functools.partial(folders.find_missing, style_transfer.manifest_of)
    source = folders.source_of(job)
    assert missing(options, manifest, {painting: manifest["style"][0]["sha256"]}, marker, job, source) is None
    assert f"does not see {tmp_path / 'no'}, or another" in missing(
        options, manifest, {}, tmp_path / "no/no", job, source
    )
    assert f"does not see the photo: {album / 'z.jpg'}" in missing(options, manifest, {}, marker, lost, source)
    assert "another photo of this name" in missing(options, manifest, {}, marker, job, source | {"photo_bytes": "1"})
    assert "other files (--style glands.jpg, now gravel.jpg)" in missing(others, manifest, {}, marker, job, source)
    assert f"other files ({other})" in missing(options, manifest, {other: "1234"}, marker, job, source)


def test_a_photo_that_a_worker_does_not_see_fails_alone(album, tmp_path):
    attempt = functools.partial(folders.attempt_on_worker, style_transfer.paint)
    job = plan.Job(album / "a.jpg", folders.Variant(config.Style()), tmp_path / "a.png")
    source = folders.source_of(job)
    assert "it sees another photo of this name" in attempt(job, source | {"photo_bytes": "1"})["reason"]
    gone = plan.Job(album / "z.jpg", job.variant, tmp_path / "z.png")
    assert "it does not see the photo" in attempt(gone, source)["reason"]


def test_commands_that_cannot_run_on_workers_are_refused(album, pictures, tmp_path):
    one = ("style_transfer.py", album / "a.jpg", *LEARNED)
    assert "share out a folder of photos" in run(*one, "--workers", 2, status=2).stderr
    assert "share out a folder of photos" in run("deepdream.py", album / "a.jpg", "--workers", 2, status=2).stderr
    flags = ("--workers", 2, "--scheduler", "tcp://127.0.0.1:8786")
    assert "not both" in run("style_transfer.py", album, *LEARNED, *flags, status=2).stderr
    assert "classes of digits" in run("train_rnn.py", "digits", "--digit", 3, "--workers", 2, status=2).stderr
    assert "classes of digits" in run("train_rnn.py", pictures, "--workers", 2, status=2).stderr


# --- Cores and the time left ---------------------------------------------------------------------


def test_with_several_workers_the_time_left_is_estimated_from_the_second_round(monkeypatch, capsys):
    clock = iter([0, 10, 14])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    forecast = progress.FolderForecast(False, at_once=2)
    for left in (5, 4, 3):
        forecast.done(left)
    assert capsys.readouterr().err == ""
    forecast.done(10)
    assert "about 20 s for 10 more" in capsys.readouterr().err
