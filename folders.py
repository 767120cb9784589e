"""Folders of photos: a picture is made of each, and summary.csv has a line about each.

In goes a task, a plain function of (photo, result) that writes the file `result` and returns a dict of what to tell of
it; out come the rows of the summary. TensorFlow is not started before there is something to do.
"""

import csv
import errno
import pathlib
import sys

from tqdm import tqdm

import config
from config import InputError, Interrupted, PartlyDone, describe
from disk import check_writable, whole_file
from imaging import CAMERA_KINDS, find_files, find_pictures

hardware = config.lazy_import("hardware")

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # the next photo would meet it, too


def apply_to_photos(task, photos, folder, suffix, overwrite=False, bar=None):
    """Apply `task(photo, result)` to each photo, and write a line about each to summary.csv in the folder of results.

    `task` writes the file `result`, and nothing after it, and returns a dict of what to tell of it. A photo whose
    result exists is passed over unless `overwrite`; one that fails is noted, and the next one tried. `bar` wraps the
    list of photos, as tqdm does. Yields each photo's row, a dict with photo, result and status ("done", "done before"
    or why not).
    """
    summary = pathlib.Path(folder) / "summary.csv"
    before = read_summary(summary)
    results = name_results(photos, folder, suffix, before)
    rows = dict(before)
    for photo in photos if bar is None else bar:
        result, key = results[photo], str(photo.resolve())
        passed_over = result.exists() and not overwrite
        if passed_over:
            known = before.get(key, {})
            unknown = {"photo": key, "result": str(result), "status": "done before"}
            rows[key] = known if known.get("status") == "done" else unknown
            yield rows[key] | {"status": "done before"}
        else:
            rows[key] = {"photo": key, "result": str(result)} | attempt(task, photo, result)
            hardware.return_freed_memory()
            write_summary(summary, rows.values())
            yield rows[key]
    if rows != before:
        write_summary(summary, rows.values())


def apply_to_folder(task, open_studio, folder, output, suffix, options):
    """Apply `task(photo, result)` to each photo in a folder as its user sees it: a bar, a line about each, a summary.

    `open_studio()` returns what all photos share, with the compiled function `evaluate`; it is asked for once there
    is known to be something to do. `options` are of the kind config.Photos. Raises InputError where there is
    nothing to do, PartlyDone at the end where photos failed, and Interrupted.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; a folder of photos makes a folder of pictures")
    inside = options.recursive and folder.resolve() in output.resolve().parents
    if output.resolve() == folder.resolve() or inside:
        raise InputError(f"{output} is where the photos are; give another folder with --output")
    photos = find_pictures(folder, options.recursive)
    raw = sorted({*find_files(folder, CAMERA_KINDS, options.recursive)} - {*photos})
    if raw and not options.quiet:
        print(f"note: {len(raw)} such as {raw[0]} can't be read; save them as JPEG", file=sys.stderr)
    if not photos:
        raise InputError(f"{folder} holds no picture" + ("" if options.recursive else "; try --recursive"))
    summary = output / "summary.csv"
    check_writable(summary)
    results = name_results(photos, output, suffix, read_summary(summary)).values()
    studio = open_studio() if options.overwrite or not all(result.exists() for result in results) else None
    bar = tqdm(photos, unit="photo", disable=True if options.quiet else None)
    failed = passed_over = 0
    try:
        for row in apply_to_photos(task, photos, output, suffix, options.overwrite, bar):
            passed_over += row["status"] == "done before"
            if row["status"].startswith("done"):
                tqdm.write(f"picture: {row['result']}", file=sys.stdout)
            else:
                failed += 1
                tqdm.write(f"left out: {row['photo']}: {row['status']}", file=sys.stderr)
    except KeyboardInterrupt:
        again = "the same command" + " without --overwrite" * options.overwrite
        raise Interrupted(f"interrupted; {again} goes on with the photos that are not done") from None
    print(f"summary: {summary}")
    if studio:
        print(f"traces: {studio.evaluate.traces}")
    if passed_over and not options.quiet:
        print(f"note: {passed_over} were there before; --overwrite makes them anew", file=sys.stderr)
    if failed:
        raise PartlyDone(f"{failed} of {len(photos)} photos failed; {summary} says why")


def attempt(task, photo, result):
    """Apply the task to one photo; return its row, or why there is none. Raises what would befall the next one, too."""
    try:
        return {"status": "done"} | task(photo, result)
    except Interrupted:
        raise
    except OSError as error:
        if error.errno in FULL_DISK:
            raise
        return {"status": describe(error)}
    except Exception as error:
        return {"status": describe(error)[:300] or type(error).__name__}


def name_results(photos, folder, suffix, before):
    """Name each photo's result in `folder` after it, numbered where two photos share a name: a dict of paths.

    A photo that the summary knows keeps its name, and no other takes it.
    """
    folder = pathlib.Path(folder)
    names, taken = {}, {pathlib.Path(row["result"]).name.casefold() for row in before.values()}
    for photo in photos:
        known = pathlib.Path(before.get(str(photo.resolve()), {}).get("result", ""))
        number, name = 1, f"{photo.stem}{suffix}"
        while name.casefold() in taken:
            number += 1
            name = f"{photo.stem}-{number}{suffix}"
        name = known.name if known.suffix == suffix else name
        taken.add(name.casefold())
        names[photo] = folder / name
    return names


def read_summary(path):
    """Read summary.csv as a dict from photo to row. Raises InputError where the file is another's, or can't be read."""
    if not path.exists():
        return {}
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = csv.DictReader(file)
            if not {"photo", "result", "status"} <= set(rows.fieldnames or ()):
                raise ValueError("it has no columns photo, result and status")
            return {row["photo"]: row for row in rows if row["photo"] and row["result"]}
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is no summary of such a folder ({describe(error)}); give another --output") from error


def write_summary(path, rows):
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with (
        whole_file(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
