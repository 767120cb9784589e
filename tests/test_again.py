"""again.py and what pictures record, tested through the scripts."""

import json
import shutil

import numpy as np
import pytest
from conftest import ROOT, pixels, results, run
from PIL import Image
from test_wrong_commands import recommended

from atelier import again, imaging

CHINA = ROOT / "images/content/china.jpg"
LEARNED = ("--learned", "wave", "--size", 64, "--precision", "float32")
NETWORK = ("--convnet", ROOT / "trained/digit_classifier/epoch_32.keras", "--layers", "conv2", "--octaves", 1)
DREAM = ("deepdream.py", "noise", *NETWORK, "--canvas", "pixels", "--size", 32, "--steps", 1)


@pytest.fixture
def painted(photo, tmp_path):
    """A picture in a learned style."""
    run("style_transfer.py", photo, *LEARNED, "--quiet", "--output", tmp_path / "a.png")
    return tmp_path / "a.png"


def change_record(path, **changes):
    """Replace texts that a picture records."""
    about = imaging.read_about(path) | changes
    imaging.save_png(path, pixels(path).astype("uint8"), about)


# --- Again ---


def test_a_picture_is_repeated_with_what_else_is_given_changed(painted, photo, tmp_path):
    printed = run("style_transfer.py", "--again", painted, "--size", 96, "--output", tmp_path / "b.png")
    command = f"python style_transfer.py {photo} --learned wave --precision float32 --size 96 --output {tmp_path}/b.png"
    assert f"note: the command is {command}\n" in printed.stderr and "has changed" not in printed.stderr
    assert imaging.read_about(tmp_path / "b.png")["command"] == command  # so it can be repeated without a.png
    flags = (*LEARNED, "--size", 96, "--output", tmp_path / "c.png")
    run("style_transfer.py", photo, *flags)
    assert (pixels(tmp_path / "b.png") == pixels(tmp_path / "c.png")).all()
    Image.open(photo).rotate(180).save(tmp_path / "other.png")
    run("style_transfer.py", tmp_path / "other.png", f"--again={painted}", "--output", tmp_path / "d.png")
    assert np.abs(pixels(tmp_path / "d.png") - pixels(painted)).mean() > 10


@pytest.mark.slow
def test_the_same_seed_gives_the_same_picture_again(tmp_path, monkeypatch):
    monkeypatch.setattr("conftest.ROOT", tmp_path)
    draw = ("generate_rnn.py", ROOT / "trained/digits", "--all-digits", "--grid", 1, "--seed", 3)
    filters = ("visualize_filters.py", "conv1", *NETWORK[:2], "--filters", 1, "--dreams", 0, "--images", CHINA)
    confusion = ("classify_mnist.py", "digits", "--num-images", 20)
    for number, command in enumerate([draw, DREAM, filters, confusion]):
        first, second = tmp_path / f"{number}.png", tmp_path / f"{number} again.png"
        run(*command, "--output", first)
        run(command[0], "--again", first, "--output", second)
        assert (pixels(first) == pixels(second)).all(), command
    run("generate_rnn.py", "--again", tmp_path / "0.png", "--digit", 4)  # in place of --all-digits
    assert pixels(tmp_path / "generated/digits_4.png").size < pixels(tmp_path / "0.png").size


def test_without_output_the_picture_gets_the_scripts_own_name(painted, tmp_path, monkeypatch):
    monkeypatch.setattr("conftest.ROOT", tmp_path)
    assert results(run("style_transfer.py", "--again", painted).stdout)["picture"] == (
        "generated/china__wave_learned.png"
    )
    assert "exists already" in run("style_transfer.py", "--again", painted, status=2).stderr


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_name_with_several_lines_is_recorded(kind, photo, tmp_path):
    odd = shutil.copy(photo, tmp_path / "two\n\tlines: \u2028.jpg")
    run("style_transfer.py", odd, *LEARNED, "--quiet", "--output", tmp_path / f"a.{kind}")
    run("style_transfer.py", "--again", tmp_path / f"a.{kind}", "--quiet", "--output", tmp_path / f"b.{kind}")
    assert (pixels(tmp_path / f"a.{kind}") == pixels(tmp_path / f"b.{kind}")).all()


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_of_a_folder_only_the_picture_is_repeated(kind, photo, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(2):
        Image.open(photo).rotate(180 * number).save(photos / f"{number}.jpg")
    styles = [ROOT / "images/style/glands.jpg", ROOT / "images/style/gravel.jpg"]
    layers = ("--content-layers", "block1_conv2", "--style-layers", "block1_conv1")
    flags = ("--each", "--size", 64, "--iterations", 1, *layers, "--format", kind, "--recursive", "--no-page")
    run("style_transfer.py", photos, "--style", *styles, *flags, "--output", tmp_path / "styled")
    repeated = tmp_path / f"a.{kind}"
    run("style_transfer.py", "--again", tmp_path / f"styled/1__gravel.{kind}", "--output", repeated)
    assert (pixels(repeated) == pixels(tmp_path / f"styled/1__gravel.{kind}")).all()


@pytest.mark.parametrize(
    ("recorded", "typed", "left_out", "command"),
    [
        ("--style w.jpg --iterations 9", "--effort low", "--iterations 9", "--style w.jpg --effort low"),
        ("--style w.jpg --effort low --gif", "--learned wave", "--style w.jpg --effort low --gif", "--learned wave"),
        ("--learned wave --refine 9 --gif", "--style w.jpg", "--learned wave --refine 9", "--gif --style w.jpg"),
        ("--learned wave --refine 9 --gif", "--learned scream", None, "--refine 9 --gif --learned scream"),
    ],
)
def test_a_recorded_flag_makes_room_for_one_that_contradicts_it(recorded, typed, left_out, command, tmp_path):
    about = {"command": f"python style_transfer.py no.jpg {recorded}", "versions": "", "options": "{}"}
    imaging.save_png(tmp_path / "a.png", np.zeros((8, 8, 3), "uint8"), about)
    told = run("style_transfer.py", "--again", tmp_path / "a.png", *typed.split(), status=2).stderr
    assert f"note: the command is python style_transfer.py no.jpg {command}\nerror: no.jpg does not exist" in told
    assert (f"note: left out of the command: {left_out}\n" in told) if left_out else ("left out" not in told)


def test_a_picture_of_another_script_names_that_script(painted, tmp_path):
    error = run("deepdream.py", "--again", painted, "--size", 72, status=2).stderr
    assert f"{painted} was made by another script; repeat it with " in error
    script, *words = recommended(error)
    run(script, *words, "--output", tmp_path / "b.png")
    assert pixels(tmp_path / "b.png").shape == (54, 72, 3)


def test_what_has_changed_since_a_picture_was_made_is_said(painted, tmp_path):
    about = imaging.read_about(painted)
    versions = json.loads(about["versions"]) | {"keras": "3.1.0"}
    options = json.loads(about["options"]) | {"stroke_size": 1.5, "size": 72}
    change_record(painted, versions=json.dumps(versions), options=json.dumps(options))
    command = ("style_transfer.py", "--again", painted, "--overwrite", "--output", tmp_path / "b.png")
    told = run(*command).stderr
    assert f"note: since {painted} was made, this has changed: keras 3.1.0, now 3." in told
    assert (
        told.split("has changed: ")[1].splitlines()[0].endswith("; --stroke-size 1.5, now not given")
    )  # not the given --size
    assert "note: " not in run(*command, "--quiet").stderr
    change_record(painted, versions="", options="[]")
    assert "has changed" not in run(*command).stderr


def test_a_flag_that_is_gone_is_named_with_the_command(painted):
    command = imaging.read_about(painted)["command"] + " --pooling average"
    change_record(painted, command=command)
    error = run("style_transfer.py", "--again", painted, status=2).stderr
    assert error.endswith(f"an earlier version, which had --pooling; its command, to be changed: {command}\n")


def test_a_picture_that_records_no_command_is_explained(photo, tmp_path):
    (tmp_path / "words.txt").write_text("no picture")
    for path in (photo, tmp_path / "words.txt"):
        assert f"{path} does not record how it was made" in run("deepdream.py", "--again", path, status=2).stderr
    assert "b.png does not exist" in run("deepdream.py", "--again", tmp_path / "b.png", status=2).stderr
    assert "is a folder; --again takes one picture" in run("deepdream.py", "--again", tmp_path, status=2).stderr
    for words in (("--again",), ("--again", "--size", 64)):
        assert "--again needs a picture" in run("deepdream.py", *words, status=2).stderr


def test_words_are_split_as_the_command_line_splits_them():
    values = {"--style": "+", "--size": None, "--gif": 0}
    words = [
        "a.jpg",
        "--style",
        "b.jpg",
        "-1.jpg",
        "--gif",
        "c d.jpg",
        "--size=3",
        "e.jpg",
        "--size",
        "4",
        "f",
        "--",
        "-g",
    ]
    inputs, flags = again.split_words(words, values)
    assert inputs == ["a.jpg", "c d.jpg", "e.jpg", "f", "-g"]
    assert flags == {"--style": ["b.jpg", "-1.jpg"], "--gif": [], "--size": ["4"]}
    assert again.split_words(again.join_words(inputs, flags), values) == (inputs, flags)


# --- No metadata ---


def test_without_metadata_a_picture_tells_nothing(photo, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Camera & Sons"
    Image.open(photo).save(tmp_path / "photo.jpg", exif=exif)
    networks = shutil.copytree(ROOT / "trained/digits", tmp_path / "digits")
    for number, command in enumerate(
        [
            ("style_transfer.py", tmp_path / "photo.jpg", *LEARNED, "--compare"),
            ("deepdream.py", tmp_path / "photo.jpg", *NETWORK, "--size", 32, "--steps", 1),
            ("generate_rnn.py", networks, "--all-digits", "--grid", 1),
            ("classify_mnist.py", networks, "--num-images", 20),
        ]
    ):
        run(*command, "--no-metadata", "--output", tmp_path / f"{number}.png")
    run("style_transfer.py", tmp_path / "photo.jpg", *LEARNED, "--no-metadata", "--output", tmp_path / "4.jpg")
    made = [*tmp_path.glob("[0-9]*.*")]
    assert len(made) == 6
    for path in made:
        assert imaging.read_about(path) == {"Software": "keras-atelier"}
        assert str(tmp_path).encode() not in path.read_bytes() and b"Camera" not in path.read_bytes()
    error = run("style_transfer.py", "--again", made[0], status=2).stderr
    assert "does not record how it was made: it was made with --no-metadata" in error


def test_without_metadata_the_page_names_neither_the_command_nor_the_folder_of_the_photos(photo, tmp_path):
    photos = tmp_path / "private"
    photos.mkdir()
    shutil.copy(photo, photos)
    run("style_transfer.py", photos, *LEARNED, "--no-metadata", "--output", tmp_path / "styled")
    page = (tmp_path / "styled/index.html").read_text()
    assert "private" not in page and "wave" not in page and "summary.csv" not in page
    assert page.count('src="index_files/') == 2
