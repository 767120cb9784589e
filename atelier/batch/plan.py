"""Plans for a folder of photos: which pictures must be made, which are done, and which make the command fail.

This module reads and writes no files. folders.py looks at the files, makes a plan from them, and carries it out.
"""

import dataclasses
import os
import pathlib
import typing

import config
from atelier.manifests import changed_options, refuse_other_manifest

DONE = ("done", "done before")  # the status, in the summary, of pictures that need not be made


def no_columns(photo):
    return {}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the ways to make a picture of each photo.

    The result's name is the photo's name followed by `name`. `row` is added to the picture's row of the summary: it
    holds the painting, if each variant has its own. `columns_of(photo)` returns further columns that identify files of
    this photo, such as its mask. Workers call it, so it must be a function of an importable module.
    """

    options: config.Photos
    name: str = ""
    row: dict = dataclasses.field(default_factory=dict)
    columns_of: typing.Callable = no_columns


@dataclasses.dataclass(frozen=True)
class Job:
    """A picture to be made from a photo, as a variant, and written to the file `result`."""

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
    """Return the key of a row of the summary: the photo, and the painting if each variant has its own."""
    return row["photo"], row.get("painting", "")


def absolute(path):
    return str(pathlib.Path(path).resolve())


@dataclasses.dataclass(frozen=True)
class Found:
    """The state of a job's files before the job is done.

    `exists` says whether the picture exists. `source` is a dict of the columns that identify its input: the photo's
    size and date, and the variant's row; None if the photo is missing. `manifest` is the manifest that the picture
    itself records, or None; it is needed only if the summary does not contain the source.
    """

    exists: bool = False
    source: dict | None = None
    manifest: dict | None = None


@dataclasses.dataclass
class Plan:
    """The jobs of a folder, and its summary before the first picture is made.

    `jobs` lists the jobs to do, `done` those that are done already. `rows` is the summary, a dict from key to row.
    `changed` counts pictures whose photo has changed since they were made. `unverified` counts pictures that are
    assumed to be right, because they do not record how they were made.
    """

    jobs: list
    done: list
    rows: dict
    changed: int = 0
    unverified: int = 0


def make_plan(jobs, found, rows, stored, manifest, overwrite):
    """Make the Plan of a folder.

    `found` has a Found for each job. `rows` is the folder's summary, `stored` its manifest or None, and `manifest` that
    of the command. Raises InputError for a picture that was made with other options.

    No picture that was made with other options may count as done, even if the process is killed at any moment.
    Therefore a picture to be replaced has the status "waiting" in the plan's rows. The rows are written first, then the
    new manifest, then the first picture.
    """
    plan = Plan([], [], dict(rows))
    for job, on_disk in zip(jobs, found, strict=True):
        key, row = job.key(), rows.get(job.key(), {})
        known, was_done = knows_source(row), row.get("status") in DONE
        if overwrite or not on_disk.exists or (known and not (was_done and is_same_source(row, on_disk.source))):
            plan.jobs.append(job)
            plan.changed += known and was_done and on_disk.exists
            if on_disk.exists:
                plan.rows[key] = job.row("waiting", "to be made again") | (on_disk.source or {})
            else:  # if the process is killed after the picture is written, the picture itself says how it was made
                plan.rows[key] = job.row("waiting", "not made yet")
            continue
        plan.done.append(job)
        if not known:
            refuse_other_manifest(job.result, on_disk.manifest, manifest)
            plan.unverified += on_disk.manifest is None
            plan.rows[key] = job.row("done before") | (row if row.get("status") == "done" else {}) | on_disk.source
    if overwrite and (stored is None or changed_options(stored, manifest)):
        for key in rows.keys() - {job.key() for job in jobs}:
            plan.rows[key] = rows[key] | {"status": "waiting", "reason": "made with other options"}
    return plan


def knows_source(row):
    """Tell whether a row of the summary identifies its picture's input. Rows of older versions do not."""
    return bool(row.get("photo_bytes"))


def is_same_source(row, source):
    return source is not None and all(row.get(name) == value for name, value in source.items())


def name_results(photos, variants, folder, rows):
    """Name each picture in `folder` after its photo and variant, with a number if the name is taken; return Jobs.

    `photos` maps each photo to its pictures' suffix. A picture that is in the summary keeps its name, and no other one
    gets that name.
    """
    taken = {pathlib.Path(row["result"]).name.casefold() for row in rows.values()}
    jobs = []
    for photo, suffix in photos.items():
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
