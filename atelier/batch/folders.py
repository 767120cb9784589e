"""Folders of photos: makes a picture of each photo, in this process or on a cluster, and continues after a stop.

An ImageTask makes a picture by a function of (photo, result, options). The folder of the results also holds
recipe.json, the manifest of all pictures, summary.csv, with a row for each picture, and index.html, a page that shows
them. TensorFlow starts only if there is something to do.
"""

import concurrent.futures
import contextlib
import dataclasses
import errno
import functools
import glob
import io
import os
import pathlib
import shlex
import socket
import sys
import tempfile
import time
import typing

import numpy as np
from tqdm import tqdm

import config
from atelier.again import backend_of
from atelier.batch.page import PAGE, Page, make_thumbnails
from atelier.batch.plan import DONE, Found, Variant, absolute, knows_source, make_plan, name_results
from atelier.batch.summary import read_summary, write_summary
from atelier.command_line import lazy_import, typed_command
from atelier.disk import check_writable, remove_leftovers, write_json
from atelier.errors import InputError, Interrupted, PartlyDone, describe
from atelier.ffmpeg import read_about
from atelier.imaging import THUMBNAILS, find_films, find_pictures, picture_endings, unread_pictures
from atelier.manifests import MANIFEST, changed_options, file_checksum, read_manifest, refuse_other_manifest
from atelier.naming import is_film
from atelier.progress import FolderForecast

__all__ = ["ImageTask", "Variant", "apply_to_folder", "check_folder", "find_photos"]

cluster = lazy_import("atelier.batch.cluster")
hardware = lazy_import("atelier.hardware")


@dataclasses.dataclass(frozen=True)
class ImageTask:
    """The functions by which a script makes pictures of photos.

    `script` is the script's file name. `make_picture(photo, result, options)` makes the picture of a photo, writes the
    file `result` last, and returns a dict for the summary. `prepare(options)` loads what all pictures share.
    `manifest_of(options)` returns the manifest of a picture, by manifests.manifest_of. Workers call these three, so
    they must be functions of importable modules. `options_of(words)` returns the options of a command line that a
    picture records. `prepare`, `manifest_of` and `options_of` raise InputError. `at_once(options)` returns how many
    pictures one process may make at the same time.
    """

    script: str
    make_picture: typing.Callable
    prepare: typing.Callable
    manifest_of: typing.Callable
    options_of: typing.Callable
    at_once: typing.Callable = lambda options: 1


# --- Commands ----------------------------------------------------------------------------------


def apply_to_folder(task, photos, output, suffix, variants, options):
    """Make a picture of each photo in each variant. Show a progress bar, print a line for each, and write the summary.

    `options` is a config.Photos. Raises InputError if the folder `output` holds pictures with another manifest,
    PartlyDone at the end if photos failed, and Interrupted after Ctrl-C.
    """
    started, summary, manifest = time.time(), output / "summary.csv", task.manifest_of(options)
    rows, stored = read_summary(summary), read_manifest(output)
    if not options.overwrite:
        refuse_other_folder(output, rows, stored, manifest, task)
    suffixes = {photo: ".mp4" if is_film(photo) else suffix for photo in photos}
    jobs = name_results(suffixes, variants, output, rows)
    found = [look_at(job, rows, None if options.overwrite else task) for job in jobs]
    plan = make_plan(jobs, found, rows, stored, manifest, options.overwrite)
    check_writable(summary)
    page = None if options.no_page else Page(output, None if options.no_metadata else typed_command())
    if page:
        page.check()
    failed = 0
    with contextlib.ExitStack() as stack:
        if plan.jobs:
            executor = stack.enter_context(open_executor(task, plan.jobs, output, manifest, options))
            executor.prepare()
        if not (options.quiet or options.overwrite):
            print_notes(plan)
        names = [MANIFEST, summary.name, PAGE, f"{THUMBNAILS}/*.jpg"]
        remove_leftovers(output, names + [glob.escape(job.result.name) for job in plan.jobs], started)
        if plan.rows != rows:
            write_summary(summary, plan.rows.values())
        if manifest != stored:
            write_json(output / MANIFEST, manifest)
        if plan.jobs:
            failed = run_jobs(executor, plan.jobs, summary, plan.rows, page, options)
    if page:
        page.finish(plan.rows.values(), options.quiet)
    if plan.done:
        print(f"done before: {len(plan.done)}")
    print(f"summary: {summary}")
    if page:
        print(f"page: {output / PAGE}")
    if failed:
        what = "photos" if len(variants) == 1 else "pictures"
        raise PartlyDone(f"{failed} of {len(jobs)} {what} failed; {summary} says why")


def print_notes(plan):
    """Print notes about pictures that are made again, and about those that are assumed to be right."""
    if plan.changed:
        print(f"note: photos that changed since their pictures were made: {plan.changed}, made again", file=sys.stderr)
    if plan.unverified:
        print(
            f"note: pictures that do not record how they were made: {plan.unverified}, assumed to be done",
            file=sys.stderr,
        )
    if not plan.jobs:
        print("note: there is nothing to do; --overwrite makes everything again", file=sys.stderr)


def run_jobs(executor, jobs, summary, rows, page, options):
    """Do the jobs, with a progress bar and a line for each; return how many failed. Raises Interrupted."""
    done, failed, forecast = 0, 0, FolderForecast(options.quiet, executor.concurrency)
    bar = tqdm(total=len(jobs), unit="picture", disable=True if options.quiet else None)
    results = with_summary(executor.run(jobs), summary, rows)
    try:
        for job, row in page.updated(results, rows) if page else results:
            bar.update()
            if row["status"] == "failed":
                failed += 1
                forecast.skip()
                tqdm.write(f"failed: {job.photo}: {row['reason']}", file=sys.stderr)
                continue
            done += 1
            kind = "picture" if job.result.suffix in (".png", ".jpg") else "film"
            tqdm.write(f"{kind}: {job.result}", file=sys.stdout)
            forecast.done(len(jobs) - done - failed)
    except KeyboardInterrupt:
        if page:
            page.write(rows.values())
        again = "the same command" + " without --overwrite" * options.overwrite
        raise Interrupted(f"interrupted; {again} goes on with what is not done") from None
    finally:
        bar.close()
    return failed


WRITING = 1 / 20  # largest share of the time for writing the summary, which may have tens of thousands of rows


def with_summary(done, summary, rows):
    """Yield each (job, row) of `done`, and add its row to the summary.

    The summary is written from time to time and at the end. `rows` is the summary so far, a dict from key to row.
    """
    written, duration = time.monotonic(), 0
    try:
        for job, row in done:
            rows[job.key()] = row
            now = time.monotonic()
            if duration <= WRITING * (now - written):
                write_summary(summary, rows.values())
                written = time.monotonic()
                duration = written - now
            yield job, row
    finally:
        write_summary(summary, rows.values())


def find_photos(paths, output, options):
    """List the photos and films in `paths`, which are files and folders of them, each file once.

    Raises InputError if there are none, or if results would be among them.
    """
    photos = []
    for path in paths:
        folder = path if path.is_dir() else path.parent
        inside = options.recursive and path.is_dir() and folder.resolve() in output.resolve().parents
        if output.resolve() == folder.resolve() or inside:
            raise InputError(f"{output} is where the photos are; give another folder with --output")
        photos += find_in_folder(path, options) if path.is_dir() else [path]
    if not photos:
        deeper = not options.recursive and any(find_pictures(folder) or find_films(folder) for folder in paths)
        advice = "; --recursive takes those in its subfolders" if deeper else ""
        raise InputError(f"{paths[0]} holds no picture and no film{advice}")
    return [*{photo.resolve(): photo for photo in photos}.values()]


def find_in_folder(folder, options):
    """List the photos and films in a folder, and print a note about photos that can't be read."""
    unread = unread_pictures(folder, options.recursive)
    if unread and not options.quiet:
        print(f"note: {unread}", file=sys.stderr)
    return sorted({*find_pictures(folder, options.recursive), *find_films(folder, options.recursive)})


def check_folder(output):
    """Raise InputError if `output` cannot be a folder for many pictures."""
    if output.is_file():
        raise InputError(f"{output} is a file, and many pictures go to a folder; give another --output")
    if output.suffix.lower() in {*picture_endings(), ".mp4"} and not output.is_dir():
        raise InputError(f"{output} is a name for one picture, and many go to a folder; give a folder with --output")


# --- Files on disk -----------------------------------------------------------------------------


def look_at(job, rows, task):
    """Return the state of a job's files, a Found. If `task` is None, the picture's own manifest is not read."""
    exists = job.result.exists()
    read = exists and task and not knows_source(rows.get(job.key(), {}))
    return Found(exists, source_of(job), recorded_manifest(job.result, task) if read else None)


def source_of(job):
    """Return the columns of the summary that identify a picture's input, or None if the photo is missing."""
    try:
        stat = job.photo.stat()
    except FileNotFoundError:
        return None
    changed = np.datetime64(int(stat.st_mtime), "s")  # datetime64 has room for every year that a file system can store
    own_files = job.variant.columns_of(job.photo)
    return {"photo_bytes": str(stat.st_size), "photo_changed": str(changed)} | own_files | job.variant.row


def refuse_other_folder(output, rows, stored, manifest, task):
    """Raise InputError if the pictures in a folder have another manifest.

    If the folder has no manifest, those that the pictures themselves record are compared.
    """
    if stored:
        refuse_other_manifest(output, stored, manifest)
        return
    for row in rows.values():
        result = output / pathlib.Path(row["result"]).name
        if row["status"] in DONE and result.exists():
            refuse_other_manifest(result, recorded_manifest(result, task), manifest)


def recorded_manifest(path, task):
    """Return the manifest of the command that a picture records, or None."""
    about = read_about(path)
    # The recorded command would give another manifest now. It names the former weights, or names none and meant them.
    if about.get("weights") == config.FORMER_WEIGHTS:
        return {"script": task.script, "weights": config.FORMER_WEIGHTS}
    manifest = manifest_of_command(about.get("command", ""), task)
    return manifest and manifest | {"backend": backend_of(about)}


@functools.lru_cache(maxsize=16)  # one command made many pictures
def manifest_of_command(command, task):
    """Return the manifest of a command line, or None if it can no longer be computed."""
    try:
        _, script, *words = shlex.split(command)
        if pathlib.Path(script).name != task.script:
            return {"script": pathlib.Path(script).name, "weights": None}
        with contextlib.redirect_stderr(io.StringIO()):
            return task.manifest_of(task.options_of(words))
    except (ValueError, OSError, InputError, SystemExit):
        return None


# --- Executors ---------------------------------------------------------------------------------


class LocalExecutor:
    """Does jobs in this process, in their order: one after the other, or several at once if the task allows it."""

    def __init__(self, task, options, concurrency, pool):
        self.task, self.options, self.concurrency, self.pool = task, options, concurrency, pool

    def prepare(self):
        """Load what all jobs share. Raises InputError."""
        self.task.prepare(self.options)

    def run(self, jobs):
        """Do each job: yields (job, row)."""
        first, *others = jobs
        do = functools.partial(attempt, self.task.make_picture)
        yield first, do(first)  # alone and in the main thread, since it traces the functions that all share
        rows = map(do, others) if self.concurrency == 1 else self.pool.map(do, others)
        yield from zip(others, rows, strict=True)


class DaskExecutor:
    """Does jobs on a cluster's workers; each worker does one at a time."""

    def __init__(self, task, options, session):
        self.task, self.options, self.session = task, dataclasses.replace(options, quiet=True), session

    @property
    def concurrency(self):
        return len(self.session.workers)

    def prepare(self):
        """Have one worker load what all jobs share. Raises InputError."""
        self.session.result(functools.partial(prepare_on_worker, self.task.prepare, self.options))

    def run(self, jobs):
        """Do each job: yields (job, row), in any order."""
        for job, row in self.session.results((job, self.call_of(job)) for job in jobs):
            if isinstance(row, cluster.WorkersDied):
                row = job.row("failed", str(row))
            yield job, row

    def call_of(self, job):
        quiet = dataclasses.replace(job.variant, options=dataclasses.replace(job.variant.options, quiet=True))
        job = dataclasses.replace(job, variant=quiet)
        return functools.partial(attempt_on_worker, self.task.make_picture, job, source_of(job))


@contextlib.contextmanager
def open_executor(task, jobs, output, manifest, options):
    """Yield the executor that the options ask for."""
    if options.workers is None and options.scheduler is None:
        concurrency = 1 if any(is_film(job.photo) for job in jobs) else task.at_once(options)
        pool = concurrent.futures.ThreadPoolExecutor(concurrency)
        try:
            yield LocalExecutor(task, options, concurrency, pool)
        finally:
            pool.shutdown(cancel_futures=True)  # waits for the pictures that are being made
        return
    output.mkdir(parents=True, exist_ok=True)
    rows = [job.variant.row for job in jobs]
    paintings = {row["painting"]: row["painting_sha256"] for row in rows if "painting" in row}
    with tempfile.NamedTemporaryFile(prefix=".shared-", dir=output) as marker:
        arguments = (options, manifest, paintings, os.path.abspath(marker.name), jobs[0], source_of(jobs[0]))
        check = functools.partial(find_missing, task.manifest_of, *arguments)
        with cluster.open_session(options, check) as session:
            yield DaskExecutor(task, options, session)


FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def attempt(make_picture, job):
    """Do one job; return its row of the summary, even if the job fails. Raises OSError if the disk is full."""
    row = job.row("failed")
    try:
        row |= source_of(job) or {}  # before the photo is read, since it may change meanwhile
        row |= {"status": "done"} | make_picture(job.photo, job.result, job.variant.options)
        if not job.variant.options.no_page:
            make_thumbnails(row, job.result.parent)
        return row
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise
        return row | {"status": "failed", "reason": reason_of(error, job.photo)}
    finally:
        hardware.return_freed_memory()


def reason_of(error, photo):
    """Return why a photo failed, without the photo's name."""
    reason = describe(error)[:300] or type(error).__name__
    return reason.removeprefix(f"{photo} ").removesuffix(f": {photo}")


# --- On a worker -------------------------------------------------------------------------------


def find_missing(manifest_of, options, manifest, paintings, marker, job, source):
    """Return a text about the command's files that a worker does not see, or None if it sees all.

    It checks the folder of the results (by the temporary file `marker` in it), the first job's photo, the files that
    the manifest names, and `paintings`, a dict from path to checksum.
    """
    if not os.path.exists(marker):
        return f"it does not see {os.path.dirname(marker)}, or another folder of this name"
    check_writable(marker)
    if problem := photo_problem(job, source):
        return f"{problem}: {absolute(job.photo)}"
    changed = [path for path, checksum in paintings.items() if file_checksum(path)["sha256"] != checksum]
    changes = changed_options(manifest, manifest_of(options)) + changed
    return f"it sees other files ({'; '.join(changes)})" if changes else None


def photo_problem(job, source):
    """Return why a worker does not see the command's photo, or None; `source` is the command's source_of(job)."""
    here = source_of(job)
    if here is None:
        return "it does not see the photo"
    different = [name for name in source or () if here.get(name) != source[name]]  # photo_bytes, mask_sha256 and so on
    if not different:
        return None
    kind = different[0].partition("_")[0]
    return (
        "it sees another photo of this name" if kind == "photo" else f"it sees another {NAMES_OF_FILES[kind]}, or none"
    )


NAMES_OF_FILES = {"mask": "mask for the photo", "regions": "map of the photo's regions"}


def prepare_on_worker(prepare, options):
    prepare(options)  # the result is not returned, since it may be a network


def attempt_on_worker(make_picture, job, source):
    """Do a job if the worker sees the same photo as the command; return its row."""
    if problem := photo_problem(job, source):
        return job.row("failed", f"the worker on {socket.gethostname()}: {problem}")
    return attempt(make_picture, job)
