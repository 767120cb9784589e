"""summary.csv: reads and writes the table that has a row for each picture of a folder."""

import csv

from atelier.batch.plan import DONE, key_of
from atelier.disk import whole_file
from atelier.errors import InputError, describe

FIRST_COLUMNS = ("photo", "painting", "result", "status", "reason")


def read_summary(path):
    """Read summary.csv as a dict from key to row, empty if there is no file. Raises InputError for any other file."""
    if not path.exists():
        return {}
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = csv.DictReader(file)
            if not {"photo", "result", "status"} <= set(rows.fieldnames or ()):
                raise ValueError("it has no columns photo, result and status")
            found = [{name: value or "" for name, value in row.items() if name} for row in rows]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path} is no summary of a folder of pictures ({describe(error)}); give another --output"
        ) from error
    return {key_of(row): with_reason(row) for row in found if row["photo"] and row["result"]}


def with_reason(row):
    """Add the column "reason" to a row of an older version. There, the status of a failed photo was the reason."""
    if "reason" in row or row["status"] in DONE:
        return row
    return row | {"status": "failed", "reason": row["status"]}


def write_summary(path, rows):
    names = dict.fromkeys(name for row in rows for name in row)
    columns = [
        *(name for name in FIRST_COLUMNS if name in names),
        *(name for name in names if name not in FIRST_COLUMNS),
    ]
    with (
        whole_file(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
