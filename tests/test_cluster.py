"""cluster.py, tested through the scripts: with a scheduler and workers, with local processes, and when some die."""

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
from conftest import ROOT, TINY_DIGITS, check, meta_of, pixels, press_ctrl_c, results, rows_of, run, wait_for
from PIL import Image

import config
import style_transfer
from atelier import disk, errors, progress
from atelier.batch import cluster, folders, plan

DASK = pathlib.Path(sys.executable).with_name("dask")
LEARNED = ("--learned", "wave", "--size", 64, "--precision", "float32")
SLOW = (*LEARNED[:2], "--size", 700, *LEARNED[4:])  # half a second per photo


@contextlib.contextmanager
def run_scheduler(folder):
    """Yield the address and the process of a new scheduler."""
    file = folder / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", file]
    with run_dask("scheduler", *options, folder=folder) as process:
        wait_for(lambda: file.exists() and file.read_text())
        yield json.loads(file.read_text())["address"], process


@contextlib.contextmanager
def run_dask(kind, *options, folder):
    """Start a Dask scheduler or worker with `folder` as its current folder, and kill it and its children afterwards."""
    no_output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([DASK, kind, *map(str, options)], cwd=folder, **no_output)
    try:
        yield process
    finally:
        kill_family(process)


def kill_family(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()


def run_worker(address, folder, *options):
    return run_dask("worker", address, "--nthreads", 1, "--memory-limit", 0, "--no-dashboard", *options, folder=folder)


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """The address of a scheduler with two workers, and the workers' processes. Each was started by its own command."""
    folder = tmp_path_factory.mktemp("dask")
    with contextlib.ExitStack() as stack:
        address, _ = stack.enter_context(run_scheduler(folder))
        yield address, [stack.enter_context(run_worker(address, folder)) for _ in range(2)]


@pytest.fixture
def cluster_flags(request, workers):
    """The flags for local processes, or for the scheduler of `workers`."""
    return ("--workers", request.param) if request.param else ("--scheduler", workers[0])


one_process_or_scheduler = pytest.mark.parametrize(
    "cluster_flags", [1, None], indirect=True, ids=["process", "scheduler"]
)
two_processes = pytest.param(2, marks=pytest.mark.slow)
two_processes_or_scheduler = pytest.mark.parametrize(
    "cluster_flags", [two_processes, None], indirect=True, ids=["processes", "scheduler"]
)


def make_album(folder):
    folder.mkdir()
    photo = Image.open(ROOT / "images/content/china.jpg").resize((120, 80))
    for name in "abcdef":
        photo.save(folder / f"{name}.jpg")
        photo = photo.rotate(40)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 not a photo")


@pytest.fixture(scope="module")
def album(make_once):
    """Six photos, and a file that is no photo. All test processes share them: a summary records the photos' paths."""
    return make_once("album", make_album)


@pytest.fixture(scope="module")
def by_one_process(album, make_once):
    """The folder with the pictures that one process makes from `album`."""
    command = functools.partial(run, "style_transfer.py", album, *LEARNED, status=1)
    return make_once("alone", lambda folder: command("--output", folder))


# --- The commands --------------------------------------------------------------------------------


@pytest.mark.slow
@two_processes_or_scheduler
def test_a_folder_of_photos_gives_the_same_results_as_with_one_process(cluster_flags, album, by_one_process, tmp_path):
    result = run("style_transfer.py", album, *LEARNED, *cluster_flags, "--output", tmp_path, status=1)
    rows, expected = rows_of(tmp_path), rows_of(by_one_process)
    for name, row in rows.items():
        changed = {key for key in row if row[key] != expected[name][key]}
        assert changed <= {"result", "seconds"}, name
        if row["status"] == "done":
            picture = pathlib.Path(row["result"])
            assert np.abs(pixels(picture) - pixels(by_one_process / picture.name)).max() <= 1, name
            assert f"{cluster_flags[0]} {cluster_flags[1]}" in Image.open(picture).text["command"]
    assert rows.keys() == expected.keys() and rows["broken.jpg"]["status"] == "failed"
    assert "cluster: " in result.stderr and "workers: " in result.stderr
    page = (tmp_path / "index.html").read_text()
    assert page.count("<figure ") == page.count('<img class="photo" src="index_files/') == 6 and "1 failed" in page
    again = run("style_transfer.py", album, *LEARNED, "--output", tmp_path, status=1)
    assert "done before: 6" in again.stdout  # the flags for workers are not part of the manifest


@pytest.mark.slow
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
@one_process_or_scheduler
def test_classes_of_digits_are_trained_as_with_one_process(cluster_flags, tiny_models, tmp_path):
    folder = shutil.copytree(tiny_models, tmp_path / "digits")
    for label in (3, 7):  # two of the ten classes, because the scheduler has two workers
        remove_class(folder, label)
    result = run("train_rnn.py", "digits", "--all-digits", *TINY_DIGITS, "--resume", *cluster_flags, "--output", folder)
    assert results(result.stdout)["epochs"] == "6"
    assert not list(folder.glob("*.lock"))
    assert checkpoints(folder) == checkpoints(tiny_models)
    assert meta_of(folder)["classes"] == meta_of(tiny_models)["classes"]


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
def test_another_worker_continues_and_a_lost_scheduler_is_reported_in_one_line(album, tmp_path):
    output = tmp_path / "out"
    command = ["style_transfer.py", *map(str, (album, *SLOW, "--output", output))]
    with run_scheduler(tmp_path) as (address, scheduler):
        with run_worker(address, tmp_path):  # the only worker; it is killed at the end of this block
            process = start_command([*command, "--scheduler", address])
            wait_for(lambda: list(output.glob("[!.]*.png")))
        before = len(list(output.glob("[!.]*.png")))
        with run_worker(address, tmp_path):
            wait_for(lambda: len(list(output.glob("[!.]*.png"))) > before)
            scheduler.kill()
            assert "went away; what is done is kept" in check(finish_command(process), 1).stderr
    assert len(rows_of(output)) == 7 and pixels(next(output.glob("[!.]*.png"))).shape == (467, 700, 3)


def test_a_lost_scheduler_is_reported_in_one_line_if_the_client_has_closed(workers):
    options = types.SimpleNamespace(scheduler=workers[0], workers=None, quiet=True)
    with cluster.open_session(options, functools.partial(max, (), default=None)) as session:
        session.client.sync(session.client._close)  # Dask's client does this when it cannot connect again
        for call in (session.look_at_workers, functools.partial(session.submit, str)):
            with pytest.raises(errors.InputError, match="went away"):
                call()


@pytest.mark.slow
def test_two_commands_share_the_workers(workers, album, by_one_process, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for photo in ("a.jpg", "b.jpg", "c.jpg"):
            shutil.copy2(album / photo, tmp_path / name)
    # The two commands use the same name, ./mine, for different styles.
    for name, style in (("a", "wave"), ("b", "scream")):
        shutil.copytree(ROOT / "trained/styles" / style, tmp_path / name / "mine")
        shutil.copy(ROOT / "trained/styles/network.npz", tmp_path / name)
    flags = ("--learned", "./mine", *LEARNED[2:], "--scheduler", workers[0], "--output", "out")
    script = str(ROOT / "style_transfer.py")
    command_processes = [start_command([script, ".", *map(str, flags)], tmp_path / name) for name in "ab"]
    for process in command_processes:
        check(finish_command(process), 0)
    for name, style in (("a", "wave"), ("b", "scream")):
        run("style_transfer.py", tmp_path / name, "--learned", style, *LEARNED[2:], "--output", tmp_path / style)
        for photo in ("a.png", "b.png", "c.png"):
            assert np.abs(pixels(tmp_path / name / "out" / photo) - pixels(tmp_path / style / photo)).max() <= 1


@pytest.mark.slow
def test_a_killed_worker_does_not_change_the_results(workers, album, by_one_process, tmp_path):
    address, processes = workers
    command = [*map(str, ("style_transfer.py", album, *LEARNED, "--scheduler", address, "--output", tmp_path))]
    process = start_command(command)
    wait_for(lambda: list(tmp_path.glob("[!.]*.png")))
    psutil.Process(processes[0].pid).children()[-1].kill()  # Dask's nanny process starts a new worker
    check(finish_command(process), 1)
    rows = rows_of(tmp_path)
    assert {name: row["status"] for name, row in rows.items()} == {
        name: row["status"] for name, row in rows_of(by_one_process).items()
    }
    for path in tmp_path.glob("[!.]*.png"):
        assert np.abs(pixels(path) - pixels(by_one_process / path.name)).max() <= 1


def start_command(command, folder=ROOT):
    """Start a command as a shell does: it leads a group of processes and receives Ctrl-C."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    )


def finish_command(process):
    output, messages = process.communicate(timeout=200)
    return subprocess.CompletedProcess(process.args, process.returncode, output, messages)


@pytest.mark.slow
@two_processes_or_scheduler
def test_ctrl_c_stops_running_work_and_keeps_finished_pictures(cluster_flags, album, tmp_path):
    flags = (*SLOW, "--size", 1200, *cluster_flags, "--output", tmp_path)  # two seconds per photo
    process = start_command(["style_transfer.py", str(album), *map(str, flags)])
    wait_for(lambda: list(tmp_path.glob("[!.]*.png")))
    children = psutil.Process(process.pid).children(recursive=True)
    press_ctrl_c(process)
    result = check(finish_command(process), 130)
    assert result.stderr.splitlines()[-1] == "error: interrupted; the same command goes on with what is not done"
    wait_for(lambda: all(child.status() == psutil.STATUS_ZOMBIE for child in children if child.is_running()), 20)
    finished_pictures = {path.name for path in tmp_path.glob("[!.]*.png")}
    assert 0 < len(finished_pictures) < 6
    time.sleep(5)  # longer than one photo takes
    # No worker has continued, and no file is incomplete.
    assert {path.name for path in tmp_path.glob("*.png")} == finished_pictures
    assert len(rows_of(tmp_path)) == 7


def test_a_scheduler_without_workers_is_reported_in_one_line_after_a_while(album, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    with run_scheduler(tmp_path) as (address, _):
        command = ("style_transfer.py", album, *LEARNED, "--scheduler", address, "--output", tmp_path / "out")
        assert f"{address} had no worker for 1 s" in run(*command, status=2).stderr


def test_an_address_without_a_scheduler_is_reported_in_one_line(album, tmp_path, monkeypatch):
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
def test_a_call_that_kills_its_workers_is_given_up_and_other_calls_are_completed(monkeypatch):
    monkeypatch.setitem(cluster.SETTINGS, "distributed.scheduler.allowed-failures", 0)
    monkeypatch.setattr(cluster, "MAX_DEATHS", 2)
    calls = [("fatal", functools.partial(os._exit, 1)), ("harmless", functools.partial(len, "abc"))]
    check = functools.partial({}.get, "nothing")
    with cluster.open_session(config.Style(workers=1, quiet=True), check) as session:
        results = dict(session.results(calls))
        assert isinstance(results["fatal"], cluster.WorkersDied) and results["harmless"] == 3
        with pytest.raises(ValueError, match="invalid literal"):
            session.result(functools.partial(int, "x"))


def test_a_cancelled_call_writes_no_more_files(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "cancelled", disk.cancelled)  # run_call replaces it; monkeypatch restores it afterwards
    cancelled = threading.Event()
    call = functools.partial(write_twice, tmp_path, "a call")
    monkeypatch.setitem(cluster.CANCELLATIONS, "a call", cancelled)
    worker = types.SimpleNamespace(state=types.SimpleNamespace(nthreads=1))
    with pytest.raises(errors.Interrupted):
        cluster.run_call(worker, "a session", cancelled, pickle.dumps(call))
    assert [path.name for path in tmp_path.iterdir()] == ["first.json"]
    with pytest.raises(errors.Interrupted):  # a call that was cancelled before it started
        cluster.run_call(worker, "a session", cancelled, pickle.dumps(call))
    call = functools.partial(disk.write_json, tmp_path / "next.json", 1)
    cluster.run_call(worker, "a session", threading.Event(), pickle.dumps(call))
    assert (tmp_path / "next.json").exists()


def write_twice(folder, key):
    """Write a file, cancel this call, and try to write another file."""
    disk.write_json(folder / "first.json", 1)
    cluster.cancel_calls([key])
    disk.write_json(folder / "second.json", 2)


# --- Workers that cannot take part ---------------------------------------------------------------


def test_a_worker_reports_what_it_lacks(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # a worker changes the current folder to the command's; this restores it after the test
    our_versions = cluster.versions()
    passing_check, failing_check = (pickle.dumps(functools.partial(json.loads, text)) for text in ("null", "no JSON"))
    assert cluster.find_refusal(str(tmp_path), our_versions, passing_check) is None
    assert "does not see /nowhere" in cluster.find_refusal("/nowhere", our_versions, passing_check)
    other_versions = our_versions | {"this toolkit": "1234abcd", "keras": "3.0.1"}
    refusal = cluster.find_refusal(str(tmp_path), other_versions, passing_check)
    assert (
        f"it has this toolkit {our_versions['this toolkit']}, not 1234abcd and keras {our_versions['keras']}, not 3.0.1"
        in refusal
    )
    assert "Expecting value" in cluster.find_refusal(str(tmp_path), our_versions, failing_check)


def test_the_command_ends_with_the_reason_if_all_workers_refuse(workers, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    check = functools.partial(str.format, "it does not see {}", "the photo")
    options = config.Style(scheduler=workers[0])
    session = cluster.open_session(options, check)
    with pytest.raises(errors.InputError, match="no worker of tcp.* can take part: it does not see the photo"), session:
        pass
    assert capsys.readouterr().err.count("does not take part: it does not see the photo") == 2


def test_a_worker_that_sees_other_files_is_refused(album, tmp_path):
    painting, other = (str(ROOT / f"images/style/{name}.jpg") for name in ("glands", "gravel"))
    options, other_options = (config.Style(style=(path,)) for path in (painting, other))
    manifest, marker = style_transfer.manifest_of(options), tmp_path / "marker"
    marker.touch()
    job, missing_job = (plan.Job(album / f"{name}.jpg", folders.Variant(options), tmp_path / "a.png") for name in "az")
    find_missing = functools.partial(folders.find_missing, style_transfer.manifest_of)
    source = folders.source_of(job)
    assert find_missing(options, manifest, {painting: manifest["style"][0]["sha256"]}, marker, job, source) is None
    assert f"does not see {tmp_path / 'no'}, or another" in find_missing(
        options, manifest, {}, tmp_path / "no/no", job, source
    )
    assert f"does not see the photo: {album / 'z.jpg'}" in find_missing(
        options, manifest, {}, marker, missing_job, source
    )
    assert "another photo of this name" in find_missing(
        options, manifest, {}, marker, job, source | {"photo_bytes": "1"}
    )
    assert "other files (--style glands.jpg, now gravel.jpg)" in find_missing(
        other_options, manifest, {}, marker, job, source
    )
    assert f"other files ({other})" in find_missing(options, manifest, {other: "1234"}, marker, job, source)


def test_only_the_photo_that_a_worker_does_not_see_fails(album, tmp_path):
    attempt = functools.partial(folders.attempt_on_worker, style_transfer.paint)
    job = plan.Job(album / "a.jpg", folders.Variant(config.Style()), tmp_path / "a.png")
    source = folders.source_of(job)
    assert "it sees another photo of this name" in attempt(job, source | {"photo_bytes": "1"})["reason"]
    missing_job = plan.Job(album / "z.jpg", job.variant, tmp_path / "z.png")
    assert "it does not see the photo" in attempt(missing_job, source)["reason"]
    for flag, what in (("mask", "mask for the photo"), ("regions", "map of the photo's regions")):
        options = config.Style(**{flag: str(album)})  # a folder with a picture of the photo's name
        (variant,) = style_transfer.variants_of(options)
        source = folders.source_of(plan.Job(job.photo, variant, job.result))
        reason = attempt(plan.Job(job.photo, variant, job.result), source | {f"{flag}_sha256": "1"})["reason"]
        assert reason.endswith(f"it sees another {what}, or none")


def test_commands_that_cannot_run_on_workers_are_refused(album, pictures, tmp_path):
    command_for_one_photo = ("style_transfer.py", album / "a.jpg", *LEARNED)
    assert "share out a folder of photos" in run(*command_for_one_photo, "--workers", 2, status=2).stderr
    assert "share out a folder of photos" in run("deepdream.py", album / "a.jpg", "--workers", 2, status=2).stderr
    flags = ("--workers", 2, "--scheduler", "tcp://127.0.0.1:8786")
    assert "not both" in run("style_transfer.py", album, *LEARNED, *flags, status=2).stderr
    assert "classes of digits" in run("train_rnn.py", "digits", "--digit", 3, "--workers", 2, status=2).stderr
    assert "classes of digits" in run("train_rnn.py", pictures, "--workers", 2, status=2).stderr


# --- The time left -------------------------------------------------------------------------------


def test_with_several_workers_the_time_left_is_estimated_from_the_second_round(monkeypatch, capsys):
    clock = iter([0, 10, 14])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    forecast = progress.FolderForecast(False, at_once=2)
    for left in (5, 4, 3):
        forecast.done(left)
    assert capsys.readouterr().err == ""
    forecast.done(10)
    assert "about 20 s for 10 more" in capsys.readouterr().err
