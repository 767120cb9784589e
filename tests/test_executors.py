"""folders.LocalExecutor: pictures of a folder that one process makes at the same time."""

import errno
import pathlib
import threading
import time

import numpy as np
import pytest
from conftest import ROOT, pixels, run
from PIL import Image

import config
from atelier.batch import folders, plan


def test_pictures_made_at_once_are_listed_in_order_and_an_error_cancels_the_others(tmp_path):
    begun, both_at_once, done = [], threading.Barrier(2), []

    def make_picture(photo, result, options):
        begun.append(photo.name)
        if photo.name in "12":
            both_at_once.wait(timeout=60)
        if photo.name == "3":
            raise OSError(errno.ENOSPC, "no space left")
        if photo.name > "3":
            time.sleep(0.3)  # the error is found meanwhile
        result.write_text("")
        return {}

    variant = folders.Variant(config.Style(no_page=True))
    jobs = [plan.Job(pathlib.Path(name), variant, tmp_path / f"{name}.png") for name in "0123456789"]
    task = folders.ImageTask("", make_picture, lambda _: None, None, None, at_once=lambda _: 2)
    opened = folders.open_executor(task, jobs, tmp_path, {}, config.Style())
    with pytest.raises(OSError, match="no space"), opened as executor:
        for job, row in executor.run(jobs):
            done.append((job.photo.name, row["status"]))
    assert done == [("0", "done"), ("1", "done"), ("2", "done")]
    assert "9" not in begun


def test_a_folder_holds_the_pictures_that_single_photos_become(tmp_path):
    (tmp_path / "photos").mkdir()
    for i, size in enumerate([(96, 64), (64, 96), (96, 64), (80, 80)]):
        Image.open(ROOT / "images/content/china.jpg").resize(size).save(tmp_path / f"photos/{i}.png")
    flags = ("--learned", "wave", "--size", 96, "--output")
    run("style_transfer.py", tmp_path / "photos", *flags, tmp_path / "out")
    for i in range(4):
        run("style_transfer.py", tmp_path / f"photos/{i}.png", *flags, tmp_path / "one.png", "--overwrite")
        np.testing.assert_array_equal(pixels(tmp_path / f"out/{i}.png"), pixels(tmp_path / "one.png"))
