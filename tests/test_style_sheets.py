"""style_sheets.py, tested through style_transfer.py --list-styles."""

import json
import shutil

import pytest
from conftest import ROOT, meta_of, pixels, results, run

from atelier.style import style_sheets


@pytest.fixture
def own_styles(tmp_path, monkeypatch):
    """A working folder with a learned style of the user's, one whose training is not finished, and a damaged one."""
    monkeypatch.setattr("conftest.ROOT", tmp_path)
    monkeypatch.setattr(style_sheets, "SIDE", 64)
    own = tmp_path / "trained/styles"
    for name in ("mine", "begun", "damaged"):
        shutil.copytree(ROOT / "trained/styles/wave", own / name)
    shutil.copy(ROOT / "trained/styles/network.npz", own)
    meta = meta_of(own / "mine")
    del meta["title"]  # train_style.py knows the painting's file alone
    (own / "mine/meta.json").write_text(json.dumps(meta | {"painting": "mine.jpg"}))
    (own / "begun/meta.json").write_text(json.dumps(meta | {"painting": "begun.jpg", "finished": False}))
    (own / "damaged/meta.json").write_text("{")
    return tmp_path


def test_the_learned_styles_are_listed_with_their_paintings_and_shown_on_a_sheet(own_styles):
    printed = run("style_transfer.py", "--list-styles")
    styles = results(printed.stdout)
    assert styles["wave"] == "The Great Wave off Kanagawa, by Katsushika Hokusai, about 1831"
    assert styles["mine"] == "mine.jpg" and styles["begun"] == "begun.jpg, not finished"
    assert "has no meta.json" in styles["damaged"]
    assert styles.pop("sheet") == "generated/styles.png" and len(styles) == 15 + 3
    assert "left out: " in printed.stderr and "begun is not finished" in printed.stderr
    sheet = pixels(own_styles / "generated/styles.png")
    assert sheet[:60, -60:].std() > 10 and sheet.shape[1] / sheet.shape[0] > 1.2


def test_a_sheet_of_the_users_photo_is_not_replaced_without_overwrite(own_styles, photo):
    command = ("style_transfer.py", photo, "--list-styles", "--quiet")
    assert results(run(*command).stdout)["sheet"] == "generated/china__styles.png"
    sheet = own_styles / "generated/china__styles.png"
    sheet.write_bytes(b"another picture")
    again = run(*command)
    assert "generated/china__styles.png exists already; --overwrite makes it anew" in again.stderr
    assert "wave: The Great Wave" in again.stdout and sheet.read_bytes() == b"another picture"
    run(*command, "--overwrite")
    assert pixels(sheet).size


def test_the_styles_are_shown_on_one_photo_alone(photo, tmp_path):
    assert "give one, or none" in run("style_transfer.py", photo.parent, "--list-styles", status=2).stderr
    kept = photo.read_bytes()
    flags = ("--list-styles", "--overwrite", "--output")
    assert "should end in .png" in run("style_transfer.py", photo, *flags, photo, status=2).stderr
    assert photo.read_bytes() == kept
