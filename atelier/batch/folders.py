"""Folders of photos: a picture is made of each, and what shaped it and became of it is kept beside the pictures.

In goes an ImageTask, which makes a picture by a plain function of (photo, result, options). Out come the pictures and,
in their folder, recipe.json, which says what shaped all of them, and summary.csv, which has a row for each. TensorFlow
is not started before there is something to do.
"""

import contextlib
import csv
import dataclasses
import errno
import functools
import glob
import importlib
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
from atelier.command_line import lazy_import
from atelier.disk import check_writable, remove_leftovers, whole_file, write_json
from atelier.errors import InputError, Interrupted, PartlyDone, describe
from atelier.imaging import find_pictures, picture_endings, read_about, unread_pictures
from atelier.manifests import MANIFEST, differences, fingerprint, read_manifest, refuse_differences
from atelier.progress import FolderForecast

cluster = lazy_import("atelier.batch.cluster")
hardware = lazy_import("atelier.hardware")


@dataclasses.dataclass(frozen=True)
class ImageTask:
    """What a script, of that name, does with photos.

    `make_picture(photo, result, options)` makes the picture of a photo: it writes the file `result`, and nothing after
    it, and returns a dict of what to tell of it. `prepare(options)` loads what all pictures share.
    `manifest_of(options)` says what shapes a picture, by manifests.manifest_of, and `options_of(words)` reads the
    options of another command line. All three raise InputError.
    """

    script: str
    make_picture: typing.Callable
    prepare: typing.Callable
    manifest_of: typing.Callable
    options_of: typing.Callable


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the ways to make a picture of each photo.

    `name` follows the photo's in that of the result, and `row` is added to the summary's: a painting, where there is
    one for each variant.
    """

    options: config.Photos
    name: str = ""
    row: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Job:
    """A picture to be made of a photo, in one way."""

    photo: pathlib.Path
    variant: Variant
    result: pathlib.Path

    def row(self, status):
        """Return what the summary says of the picture in any case: a dict of strings."""
        return {"photo": absolute(self.photo), "result": os.path.abspath(self.result), "status": status, "reason": ""}

    def made_of(self):
        """Return the columns by which a later run sees that what the picture is made of is still the same."""
        stat = self.photo.stat()
        changed = np.datetime64(int(stat.st_mtime), "s")  # of any year that a file system may come up with
        return {"photo_bytes": str(stat.st_size), "photo_changed": str(changed)} | self.variant.row

    def key(self):
        return key_of({"photo": absolute(self.photo)} | self.variant.row)


def key_of(row):
    """Return what tells a row of the summary from the others."""
    return row["photo"], row.get("painting", "")


def absolute(path):
    return str(pathlib.Path(path).resolve())


# --- Many photos -------------------------------------------------------------------------------

DONE = ("done", "done before")
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # the next photo would meet it, too


def apply_to_photos(hands, jobs, summary, rows):
    """Have each job done, and keep a row about each in summary.csv: yields (job, row), whether it went well or not.

    `rows` is what the summary holds before, a dict from key to row.
    """
    written, took = time.monotonic(), 0
    try:
        for job, row in hands.work(jobs):
            rows[job.key()] = row
            begun = time.monotonic()
            if begun - written >= SPARING * took:
                write_summary(summary, rows.values())
                written = time.monotonic()
                took = written - begun
            yield job, row
    finally:
        write_summary(summary, rows.values())


SPARING = (
    20  # of tens of thousands of rows, no more than a twentieth of the time is spent on writing them all once more
)


class Alone:
    """This process does the jobs, one after the other."""

    at_once = 1

    def __init__(self, task, options):
        self.task, self.options = task, options

    def prepare(self):
        """Load what all jobs share. Raises InputError."""
        self.task.prepare(self.options)

    def work(self, jobs):
        """Do each job: yields (job, row)."""
        for job in jobs:
            row = attempt(self.task.make_picture, job)
            hardware.return_freed_memory()
            yield job, row


class Together:
    """The workers of a cluster do the jobs, each one at a time."""

    def __init__(self, task, options, session):
        self.task, self.options, self.session = task, dataclasses.replace(options, quiet=True), session

    @property
    def at_once(self):
        return len(self.session.members)

    def call(self, function, *arguments):
        return cluster.Call(__name__, function, (pathlib.Path(self.task.script).stem, *arguments))

    def prepare(self):
        """Have one worker load what all jobs share. Raises InputError."""
        self.session.ask(self.call("prepare_there", self.task.prepare.__name__, self.options))

    def work(self, jobs):
        for job, row in self.session.results((job, self.call_of(job)) for job in jobs):
            if isinstance(row, cluster.Lost):
                row = job.row("failed") | {"reason": str(row)}
            yield job, row

    def call_of(self, job):
        variant = dataclasses.replace(job.variant, options=dataclasses.replace(job.variant.options, quiet=True))
        seen = job.made_of() if job.photo.exists() else None
        return self.call(
            "attempt_there", self.task.make_picture.__name__, dataclasses.replace(job, variant=variant), seen
        )


@contextlib.contextmanager
def hands_for(task, jobs, output, manifest, options):
    """Yield who does the jobs: this process alone, or a cluster."""
    if options.workers is None and options.scheduler is None:
        yield Alone(task, options)
        return
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=".shared-", dir=output) as sign:
        script = pathlib.Path(task.script).stem
        files = {
            job.variant.row["painting"]: job.variant.row["painting_sha256"]
            for job in jobs
            if "painting" in job.variant.row
        }
        first = jobs[0], jobs[0].made_of() if jobs[0].photo.exists() else None
        arguments = (script, task.manifest_of.__name__, options, manifest, files, os.path.abspath(sign.name), *first)
        with cluster.open_session(options, cluster.Call(__name__, "what_is_missing", arguments)) as session:
            yield Together(task, options, session)


def what_is_missing(script, manifest_of, options, manifest, paintings, sign, first, seen):
    """Say what a worker does not see of what the command does: photos, paintings, the results' folder; or None."""
    if not os.path.exists(sign):
        return f"it does not see {os.path.dirname(sign)}, or another folder of this name"
    check_writable(sign)
    if unlike := unlike_what_was_seen(first, seen):
        return f"{unlike}: {absolute(first.photo)}"
    changed = [path for path, checksum in paintings.items() if fingerprint(path)["sha256"] != checksum]
    said = differences(manifest, getattr(importlib.import_module(script), manifest_of)(options)) + changed
    return f"it sees other files ({'; '.join(said)})" if said else None


def unlike_what_was_seen(job, seen):
    """Say in what the photo is not what the command has `seen`, as Job.made_of tells it; or return None."""
    if not job.photo.exists():
        return "it does not see the photo"
    return "it sees another photo of this name" if seen and job.made_of() != seen else None


def prepare_there(script, open_studio, options):
    getattr(importlib.import_module(script), open_studio)(options)


def attempt_there(script, task, job, seen):
    """Do a job on a worker, where the command has `seen` the photo; return its row."""
    if unlike := unlike_what_was_seen(job, seen):
        return job.row("failed") | {"reason": f"the worker on {socket.gethostname()}: {unlike}"}
    row = attempt(getattr(importlib.import_module(script), task), job)
    hardware.return_freed_memory()
    return row


def attempt(task, job):
    """Do one job; return its row, or that of a failure. Raises what would befall the next photo, too."""
    row = job.row("failed")
    try:
        row |= job.made_of()  # before the photo is read: it may be changed while it is painted
        return row | {"status": "done"} | task(job.photo, job.result, job.variant.options)
    except OSError as error:
        if error.errno in FULL_DISK:
            raise
        return row | {"reason": reason_of(error, job.photo)}
    except Exception as error:
        return row | {"reason": reason_of(error, job.photo)}


def reason_of(error, photo):
    """Say why a photo failed, without naming it once more."""
    reason = describe(error)[:300] or type(error).__name__
    return reason.removeprefix(f"{photo} ").removesuffix(f": {photo}")


def apply_to_folder(task, photos, output, suffix, variants, options):
    """Make a picture of each photo in each variant, as the user sees it: a bar, a line about each, a summary.

    `options` are of the kind config.Photos. Raises InputError where the folder `output` holds pictures of another
    manifest, PartlyDone at the end where photos failed, and Interrupted.
    """
    started, summary, manifest = time.time(), output / "summary.csv", task.manifest_of(options)
    rows = read_summary(summary)
    if not options.overwrite:
        refuse_another_manifest(output, rows, manifest, task)
    jobs = name_results(photos, variants, output, suffix, rows)
    todo = [job for job in jobs if options.overwrite or not is_done(job, rows, manifest, task)]
    check_writable(summary)
    with contextlib.ExitStack() as stack:
        hands = stack.enter_context(hands_for(task, todo, output, manifest, options)) if todo else None
        if todo:
            hands.prepare()
        if not (options.quiet or options.overwrite):
            say_what_is_done(jobs, todo, rows, task)
        mine = [MANIFEST, summary.name, *(glob.escape(job.result.name) for job in todo)]
        remove_leftovers(output, mine, started)
        begin(output, jobs, todo, rows, manifest, options.overwrite)
        failed = work_through(hands, todo, summary, rows, options) if todo else 0
    if len(todo) < len(jobs):
        print(f"done before: {len(jobs) - len(todo)}")
    print(f"summary: {summary}")
    if failed:
        what = "photos" if len(variants) == 1 else "pictures"
        raise PartlyDone(f"{failed} of {len(jobs)} {what} failed; {summary} says why")


def work_through(hands, jobs, summary, rows, options):
    """Do the jobs, with a bar and a line about each; return how many failed. Raises Interrupted."""
    done, failed, forecast = 0, 0, FolderForecast(options.quiet, hands.at_once)
    bar = tqdm(total=len(jobs), unit="picture", disable=True if options.quiet else None)
    try:
        for job, row in apply_to_photos(hands, jobs, summary, rows):
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
        again = "the same command" + " without --overwrite" * options.overwrite
        raise Interrupted(f"interrupted; {again} goes on with what is not done") from None
    finally:
        bar.close()
    return failed


def find_photos(folder, output, options):
    """List the photos in a folder. Raises InputError where there are none, or results would lie among them."""
    inside = options.recursive and folder.resolve() in output.resolve().parents
    if output.resolve() == folder.resolve() or inside:
        raise InputError(f"{output} is where the photos are; give another folder with --output")
    photos = find_pictures(folder, options.recursive)
    unread = unread_pictures(folder, options.recursive)
    if unread and not options.quiet:
        print(f"note: {unread}", file=sys.stderr)
    if not photos:
        beneath = not options.recursive and find_pictures(folder)
        raise InputError(f"{folder} holds no picture" + "; --recursive takes those in its subfolders" * bool(beneath))
    return photos


def check_folder(output):
    """Raise InputError where many pictures can't go to a folder of this name."""
    if output.is_file():
        raise InputError(f"{output} is a file, and many pictures go to a folder; give another --output")
    if output.suffix.lower() in {*picture_endings(), ".mp4"} and not output.is_dir():
        raise InputError(f"{output} is a name for one picture, and many go to a folder; give a folder with --output")


# --- What is done ------------------------------------------------------------------------------


def name_results(photos, variants, folder, suffix, rows):
    """Name each picture in `folder` after its photo and variant, numbered where two share a name: a list of jobs.

    What the summary knows keeps its name, and no other takes it.
    """
    taken = {pathlib.Path(row["result"]).name.casefold() for row in rows.values()}
    jobs = []
    for photo in photos:
        for variant in variants:
            stem = photo.stem + variant.name
            number, name = 1, f"{stem}{suffix}"
            while name.casefold() in taken:
                number += 1
                name = f"{stem}-{number}{suffix}"
            job = Job(photo, variant, folder / name)
            known = pathlib.Path(rows.get(job.key(), {}).get("result", ""))
            if known.suffix == suffix:
                job = dataclasses.replace(job, result=folder / known.name)
            taken.add(job.result.name.casefold())
            jobs.append(job)
    return jobs


def is_done(job, rows, manifest, task):
    """Say whether a job's picture is there and still right. Raises InputError where it was made otherwise."""
    if not job.result.exists():
        return False
    row = rows.get(job.key(), {})
    if is_known(row):
        return row["status"] in DONE and not has_changed(job, row)
    refuse_differences(job.result, told_manifest(job.result, task), manifest)
    return True


def is_known(row):
    """Say whether a row says what its picture was made of: older ones do not."""
    return bool(row.get("photo_bytes"))


def has_changed(job, row):
    """Say whether what a picture was made of is another thing today."""
    return any(row.get(name) != value for name, value in job.made_of().items())


def say_what_is_done(jobs, todo, rows, task):
    """Print notes about pictures that are made once more, or taken for done."""
    anew = untold = 0
    waiting = {job.key() for job in todo}
    for job in jobs:
        row = rows.get(job.key(), {})
        if job.key() in waiting:
            anew += is_known(row) and row["status"] in DONE and job.result.exists()
        else:
            untold += not is_known(row) and told_manifest(job.result, task) is None
    if anew:
        print(f"note: photos that changed since their pictures were made: {anew}, made anew", file=sys.stderr)
    if untold:
        print(f"note: pictures that tell nothing of how they were made: {untold}, taken for done", file=sys.stderr)
    if not todo:
        print("note: there was nothing to do; --overwrite makes all anew", file=sys.stderr)


def begin(output, jobs, todo, rows, manifest, overwrite):
    """Write down what is about to be made. Killed at any moment, no picture of another manifest passes for done.

    A picture that is to be replaced is noted as waiting before the manifest is, and that before the first picture.
    """
    before, record = dict(rows), read_manifest(output)
    waiting = {job.key() for job in todo}
    for job in jobs:
        row = rows.get(job.key(), {})
        if job.key() in waiting and job.result.exists():
            rows[job.key()] = job.row("waiting") | {"reason": "to be made anew"} | job.made_of()
        elif job.key() in waiting:  # killed before it is noted as done, a picture tells by itself how it was made
            rows[job.key()] = job.row("waiting") | {"reason": "not made yet"}
        elif job.key() not in waiting and not is_known(row):
            rows[job.key()] = job.row("done before") | (row if row.get("status") == "done" else {}) | job.made_of()
    if overwrite and (record is None or differences(record, manifest)):
        for key in rows.keys() - waiting:
            rows[key] = rows[key] | {"status": "waiting", "reason": "made with other options"}
    if rows != before:
        write_summary(output / "summary.csv", rows.values())
    if manifest != record:
        write_json(output / MANIFEST, manifest)


# --- What shaped the pictures ------------------------------------------------------------------


def refuse_another_manifest(output, rows, manifest, task):
    """Raise InputError where the pictures in a folder were made by another manifest.

    Where it was not kept, what the pictures tell of themselves decides.
    """
    if record := read_manifest(output):
        refuse_differences(output, record, manifest)
        return
    for row in rows.values():
        result = output / pathlib.Path(row["result"]).name
        if row["status"] in DONE and result.exists():
            refuse_differences(result, told_manifest(result, task), manifest)


def told_manifest(path, task):
    """Return the manifest that a picture tells of itself, by the command that made it, or None."""
    about = read_about(path)
    if about.get("weights") == config.FORMER_WEIGHTS:
        return {"script": task.script, "weights": config.FORMER_WEIGHTS}  # the rest of its command says no more
    return manifest_of_command(about.get("command", ""), task)


@functools.lru_cache(maxsize=16)  # one command made many pictures
def manifest_of_command(command, task):
    """Return the manifest of a command that made a picture, or None where that can't be said any more."""
    try:
        _, script, *words = shlex.split(command)
        if pathlib.Path(script).name != task.script:
            return {"script": pathlib.Path(script).name, "weights": None}
        with contextlib.redirect_stderr(io.StringIO()):
            return task.manifest_of(task.options_of(words))
    except (ValueError, OSError, InputError, SystemExit):
        return None


# --- The summary -------------------------------------------------------------------------------

FIRST_COLUMNS = ("photo", "painting", "result", "status", "reason")


def read_summary(path):
    """Read summary.csv as a dict from key to row. Raises InputError where the file is another's, or can't be read."""
    if not path.exists():
        return {}
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = csv.DictReader(file)
            if not {"photo", "result", "status"} <= set(rows.fieldnames or ()):
                raise ValueError("it has no columns photo, result and status")
            found = [{name: value or "" for name, value in row.items() if name} for row in rows]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is no summary of such a folder ({describe(error)}); give another --output") from error
    return {key_of(row): with_reason(row) for row in found if row["photo"] and row["result"]}


def with_reason(row):
    """Give an older row, whose status may be why the photo failed, a column for that."""
    if "reason" in row or row["status"] in DONE:
        return row
    return row | {"status": "failed", "reason": row["status"]}


def write_summary(path, rows):
    there = dict.fromkeys(name for row in rows for name in row)
    columns = [
        *(name for name in FIRST_COLUMNS if name in there),
        *(name for name in there if name not in FIRST_COLUMNS),
    ]
    with (
        whole_file(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
