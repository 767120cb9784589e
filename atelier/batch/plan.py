"""Plans for a folder of photos: which pictures are to be made, which are done, and why others are refused.

Nothing here reads or writes a file. folders.py looks at the files, makes a plan from what it found, and carries it out.
"""

import dataclasses
import os
import pathlib

import config
from atelier.manifests import changed_options, refuse_other_manifest

DONE = ("done", "done before")  # what the summary says of pictures that need not be made


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the ways to make a picture of each photo.

    `name` is appended to the photo's name in that of the result. `row` is added to the summary's row: the painting, if
    there is one for each variant.
    """

    options: config.Photos
    name: str = ""
    row: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Job:
    """A picture to be made: of a photo, as a variant, into the file `result`."""

    photo: pathlib.Path
    variant: Variant
    result: pathlib.Path

    def row(self, status, reason=""):
        """Return the columns that each row of the summary has, a dict of strings."""
        result = os.path.abspath(self.result)
        return {"photo": absolute(self.photo), "result": result, "status": status, "reason": reason}

    def key(self):
        return key_of({"photo": absolute(self.photo)} | self.variant.row)


def key_of(row):
    """Return what identifies a row of the summary: the photo, and the painting if each variant has its own."""
    return row["photo"], row.get("painting", "")


def absolute(path):
    return str(pathlib.Path(path).resolve())


@dataclasses.dataclass(frozen=True)
class Found:
    """What the disk holds for a job, before it is done.

    `exists` says whether the picture is there. `source` are the columns that identify what it is made of: the photo's
    size and date, and the variant's row; None if the photo is missing. `manifest` is what the picture itself records,
    or None; it is needed only where the summary does not know the source.
    """

    exists: bool = False
    source: dict | None = None
    manifest: dict | None = None


@dataclasses.dataclass
class Plan:
    """What is to be done for a folder, and what its summary says before the first picture is made.

    `jobs` are to be done, `done` are not, `rows` is the summary, a dict from key to row. `changed` counts pictures
    whose photo has changed since, and `unverified` those that are assumed to be right because nothing says how they
    were made.
    """

    jobs: list
    done: list
    rows: dict
    changed: int = 0
    unverified: int = 0


def make_plan(jobs, found, rows, stored, manifest, overwrite):
    """Make the Plan of a folder.

    `jobs` and `found` (a Found for each job) belong together. `rows` is the folder's summary, `stored` its manifest
    or None, and `manifest` that of the command. Raises InputError for a picture that was made with other options.

    If the process is killed at any moment, no picture made with other options counts as done: a picture that is to be
    replaced is waiting in `rows`, which are written before the new manifest, and that before the first picture.
    """
    plan = Plan([], [], dict(rows))
    for job, there in zip(jobs, found, strict=True):
        key, row = job.key(), rows.get(job.key(), {})
        known, was_done = knows_source(row), row.get("status") in DONE
        if overwrite or not there.exists or (known and not (was_done and is_same_source(row, there.source))):
            plan.jobs.append(job)
            plan.changed += known and was_done and there.exists
            if there.exists:
                plan.rows[key] = job.row("waiting", "to be made again") | (there.source or {})
            else:  # if the process is killed after the picture is written, the picture itself says how it was made
                plan.rows[key] = job.row("waiting", "not made yet")
            continue
        plan.done.append(job)
        if not known:
            refuse_other_manifest(job.result, there.manifest, manifest)
            plan.unverified += there.manifest is None
            plan.rows[key] = job.row("done before") | (row if row.get("status") == "done" else {}) | there.source
    if overwrite and (stored is None or changed_options(stored, manifest)):
        for key in rows.keys() - {job.key() for job in jobs}:
            plan.rows[key] = rows[key] | {"status": "waiting", "reason": "made with other options"}
    return plan


def knows_source(row):
    """Say whether a row of the summary identifies what its picture was made of; rows of older versions do not."""
    return bool(row.get("photo_bytes"))


def is_same_source(row, source):
    return source is not None and all(row.get(name) == value for name, value in source.items())


def name_results(photos, variants, folder, suffix, rows):
    """Name each picture in `folder` after its photo and variant, numbered if two share a name; return a list of Jobs.

    A picture that the summary knows keeps its name, and no other takes it.
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
