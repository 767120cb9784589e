"""plan.py: which pictures of a folder are to be made, which are done, and which are refused."""

import pathlib

import pytest

from atelier import errors
from atelier.batch import plan

MANIFEST = {"script": "style_transfer.py", "weights": None, "size": 64}
SOURCE = {"photo_bytes": "5", "photo_changed": "2026-05-01T10:00:00"}


def plan_of(row=None, exists=True, source=SOURCE, recorded=None, stored=MANIFEST, manifest=MANIFEST, overwrite=False):
    """Make the plan of a folder of one photo; `row` is its row in the old summary. Return the plan and the new row."""
    job = plan.Job(pathlib.Path("/photos/a.jpg"), plan.Variant(None), pathlib.Path("/out/a.png"))
    rows = {job.key(): job.row("") | row} if row else {}
    found = plan.Found(exists, source, recorded)
    planned = plan.make_plan([job], [found], rows, stored, manifest, overwrite)
    assert len(planned.jobs) + len(planned.done) == 1
    return planned, planned.rows[job.key()]


def test_a_picture_is_done_if_it_is_there_and_its_photo_is_the_same():
    for status in ("done", "done before"):
        planned, row = plan_of({"status": status} | SOURCE)
        assert planned.done and not planned.changed and row["status"] == status


def test_a_picture_that_is_not_there_is_made():
    for row in (None, {"status": "done"} | SOURCE):
        planned, row = plan_of(row, exists=False)
        assert planned.jobs and not planned.changed and (row["status"], row["reason"]) == ("waiting", "not made yet")


def test_a_picture_whose_photo_changed_is_made_again():
    for source in (SOURCE | {"photo_bytes": "6"}, None):
        planned, row = plan_of({"status": "done"} | SOURCE, source=source)
        assert (
            planned.jobs and planned.changed == 1 and (row["status"], row["reason"]) == ("waiting", "to be made again")
        )


def test_a_picture_that_was_waiting_or_failed_is_made():
    for status in ("waiting", "failed"):
        planned, row = plan_of({"status": status} | SOURCE)
        assert planned.jobs and planned.changed == 0 and row["status"] == "waiting"


def test_a_picture_without_a_row_is_done_or_refused_as_its_own_record_says():
    planned, row = plan_of(recorded=MANIFEST)
    assert planned.done and not planned.unverified and row == row | SOURCE | {"status": "done before"}
    planned, row = plan_of()
    assert planned.done and planned.unverified == 1
    with pytest.raises(errors.InputError, match="a.png was made with other options .--size 72, now 64"):
        plan_of(recorded=MANIFEST | {"size": 72})


def test_overwrite_remakes_all_jobs_and_lets_pictures_with_other_options_wait():
    other = {"photo": "/photos/b.jpg", "result": "/out/b.png", "status": "done", "reason": ""} | SOURCE
    job = plan.Job(pathlib.Path("/photos/a.jpg"), plan.Variant(None), pathlib.Path("/out/a.png"))
    rows = {job.key(): job.row("done") | SOURCE, plan.key_of(other): other}
    for manifest, status in ((MANIFEST, "done"), (MANIFEST | {"size": 72}, "waiting")):
        planned = plan.make_plan([job], [plan.Found(True, SOURCE)], rows, MANIFEST, manifest, overwrite=True)
        assert planned.jobs == [job] and planned.rows[job.key()]["status"] == "waiting"
        assert planned.rows[plan.key_of(other)]["status"] == status


def test_rows_of_other_photos_stay_in_the_summary():
    other = {"photo": "/photos/b.jpg", "result": "/out/b.png", "status": "failed", "reason": "no photo"}
    planned = plan.make_plan([], [], {plan.key_of(other): other}, MANIFEST, MANIFEST, overwrite=False)
    assert planned.rows == {plan.key_of(other): other} and not planned.jobs
