"""folders.py, tested through style_transfer.py: folders of photos, manifests, and several paintings."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, file_size_limit, pixels, rows_of, run
from PIL import Image

import config
from atelier import imaging, provenance
from atelier.batch import folders, plan, summary
from atelier.style.transfer import release_models

PAINTING = ROOT / "images/style/glands.jpg"
OTHER = ROOT / "images/style/gravel.jpg"
QUICK = (
    *("--precision", "float32", "--size", 64, "--iterations", 2),
    *("--content-layers", "block1_conv2", "--style-layers", "block1_conv1"),
)


pytestmark = pytest.mark.usefixtures("cache_vgg")


@pytest.fixture
def no_models(cache_vgg):
    """Forget the models that earlier tests loaded."""
    release_models()


@pytest.fixture
def holiday(tmp_path):
    """Photos of several shapes, two with the same name, a file that is no photo, and a subfolder."""
    folder = tmp_path / "holiday"
    (folder / "more").mkdir(parents=True)
    photo = Image.open(ROOT / "images/content/china.jpg").resize((120, 80))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0132] = 6, "Camera & Sons", "2026:05:01 10:00:00"
    exif.get_ifd(0x8769)[0x9003] = "2026:05:01 09:59:59"
    photo.save(folder / "upright.jpg", exif=exif)
    photo.resize((80, 80)).save(folder / "square.png")
    photo.save(folder / "square.jpg")
    photo.save(folder / "more" / "hidden.jpg")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 not a photo")
    return folder


@pytest.fixture
def album(tmp_path):
    """Three photos that can be painted."""
    folder = tmp_path / "album"
    folder.mkdir()
    photo = Image.open(ROOT / "images/content/china.jpg").resize((96, 64))
    for name in "abc":
        photo.save(folder / f"{name}.jpg")
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return folder


def paint(content, output, *flags, style=(PAINTING,), status=0):
    """Paint photos with two steps each; return the completed process."""
    return run("style_transfer.py", content, *QUICK, "--style", *style, "--output", output, *flags, status=status)


def mtimes(folder):
    """Return the modification time of each picture in a folder."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("[!.]*.[pj][np]g")}


def longest_sides(folder):
    """Return the longest side of each picture in a folder."""
    return {path.name: max(Image.open(path).size) for path in folder.glob("[!.]*.png")}


def kill_when(command, condition):
    """Start a script, and kill it as soon as `condition()` is true."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    deadline = time.monotonic() + 120
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()


# --- Many photos ---


def test_a_folder_is_painted_and_failed_photos_are_reported(holiday, no_models, loss_functions, tmp_path):
    output = tmp_path / "styled"
    (holiday / "phone.HEIC").write_bytes(b"what Pillow does not read")
    first = paint(holiday, output, "--format", "jpg", status=1)
    assert "broken.jpg" in first.stderr and "1 of 4 photos failed" in first.stderr
    assert "phone.HEIC can't be read" in first.stderr
    assert [function.traces for function in loss_functions] == [1]
    assert sorted(path.name for path in output.glob("*.jpg")) == ["square-2.jpg", "square.jpg", "upright.jpg"]
    with Image.open(output / "upright.jpg") as picture:
        assert picture.size == (43, 64)
        exif = picture.getexif()
        assert exif[0x010F] == "Camera & Sons" and exif.get_ifd(0x8769)[0x9003] == "2026:05:01 09:59:59"
        assert 0x0112 not in exif
    rows = rows_of(output)
    assert rows["square.jpg"]["status"] == rows["upright.jpg"]["status"] == "done"
    assert float(rows["square.png"]["seconds"]) > 0 and float(rows["square.png"]["style_loss"]) > 0
    assert rows["square.jpg"]["result"] != rows["square.png"]["result"]
    assert rows["broken.jpg"]["status"] == "failed" and "not a picture" in rows["broken.jpg"]["reason"]
    (message,) = (line for line in first.stderr.splitlines() if "broken.jpg" in line)
    assert message.count("broken.jpg") == 1 and "broken.jpg" not in rows["broken.jpg"]["reason"]
    before = mtimes(output)
    again = paint(holiday, output, "--format", "jpg", "--recursive", status=1)
    assert "1 of 5 photos failed" in again.stderr
    assert again.stdout.count("picture: ") == 1 and "done before: 3\n" in again.stdout
    after = mtimes(output)
    assert after.pop("hidden.jpg") and after == before
    assert float(rows_of(output)["square.png"]["seconds"]) == float(rows["square.png"]["seconds"])


@pytest.mark.slow
def test_a_folder_continues_after_a_kill(album, tmp_path):
    output = tmp_path / "styled"
    flags = (album, *QUICK, "--iterations", 20, "--style", PAINTING, "--output", output)
    kill_when([ROOT / "style_transfer.py", *flags], lambda: mtimes(output))
    done = mtimes(output)
    assert done
    for name in done:
        Image.open(output / name).load()
    run("style_transfer.py", *flags)
    assert len(mtimes(output)) == 3
    again = run("style_transfer.py", *flags)
    assert "device" not in again.stderr and "nothing to do" in again.stderr  # nothing was loaded
    assert again.stdout == f"done before: 3\nsummary: {output}/summary.csv\npage: {output}/index.html\n"
    assert {name: mtimes(output)[name] for name in done} == done
    assert all(row["status"].startswith("done") for row in rows_of(output).values())


def test_the_summary_of_an_interrupted_folder_lists_waiting_pictures(album, tmp_path, monkeypatch):
    output = tmp_path / "styled"
    with monkeypatch.context() as patched:
        patched.setattr(folders, "attempt", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert "goes on with what is not done" in paint(album, output, status=130).stderr
    waiting = rows_of(output)
    assert len(waiting) == 3
    assert {(row["status"], row["reason"]) for row in waiting.values()} == {("waiting", "not made yet")}
    paint(album, output)
    assert {(row["status"], row["reason"]) for row in rows_of(output).values()} == {("done", "")}


def copy_name(photo, result, options):
    result.write_text(str(photo))
    return {}


def apply_copy_name(photos, output):
    """Apply copy_name to photos; return the number of new results."""
    options = config.Style(quiet=True)
    task = folders.ImageTask("", copy_name, lambda options: None, lambda options: {"script": "", "weights": None}, None)
    count_before = len(list(output.glob("[!.]*.png")))
    folders.apply_to_folder(task, photos, output, ".png", [folders.Variant(options)], options)
    return len(list(output.glob("[!.]*.png"))) - count_before


@pytest.fixture
def same_names(tmp_path):
    """Three photos with the same name."""
    for name in "123":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jpg").write_text("photo")
    return [tmp_path / name / "x.jpg" for name in "123"]


def test_a_photo_of_the_same_name_in_another_folder_does_not_count_as_done(same_names, tmp_path):
    output = tmp_path / "styled"
    assert [apply_copy_name([photo], output) for photo in (same_names[0], same_names[1], same_names[1])] == [1, 1, 0]
    assert (output / "x.png").read_text() == str(same_names[0]) and (output / "x-2.png").read_text() == str(
        same_names[1]
    )


def test_a_new_photo_does_not_take_the_result_name_of_another(same_names, tmp_path):
    output = tmp_path / "styled"
    for photos in (same_names[1:], same_names):
        apply_copy_name(photos, output)
    assert [(output / name).read_text() for name in ("x.png", "x-2.png", "x-3.png")] == [
        str(same_names[1]),
        str(same_names[2]),
        str(same_names[0]),
    ]


def test_a_summary_csv_of_another_program_is_not_replaced(album, tmp_path):
    (tmp_path / "summary.csv").write_text("month;spent\n1;20\n")
    assert "no summary" in paint(album, tmp_path, status=2).stderr
    assert "month" in (tmp_path / "summary.csv").read_text()


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_full_disk_ends_the_command(kind, album, tmp_path):
    output = tmp_path / "styled"
    with file_size_limit(4000):
        result = paint(album, output, "--size", 128, "--format", kind, status=2)
    assert "file too large" in result.stderr
    assert not list(output.glob(f"*.{kind}"))


@pytest.mark.parametrize("where", ["same", "inside"])
def test_results_are_not_written_to_the_photos_folder(where, holiday):
    output = holiday if where == "same" else holiday / "styled"
    assert "--output" in paint(holiday, output, "--recursive", status=2).stderr


def test_several_pictures_cannot_be_written_to_one_file(album, tmp_path):
    (tmp_path / "file").write_text("")
    for content, flags in ((album, ()), (album / "a.jpg", ("--each",))):
        for name in ("one.png", "one.jpg", "file"):
            assert "a folder" in paint(content, tmp_path / name, *flags, status=2).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["album", "file"]


def test_incomplete_files_of_a_killed_process_are_removed(album, tmp_path):
    output = tmp_path / "styled"
    paint(album, output)
    (output / "b.png").unlink()
    incomplete, other_files = output / ".b-abcd1234.png", [output / ".b-mine.png", output / ".bb-abcd1234.png"]
    for path in (incomplete, *other_files):
        path.write_bytes(b"cut short")
        os.utime(path, (1e9, 1e9))
    again = paint(album, output)
    assert not incomplete.exists() and all(path.exists() for path in other_files)
    assert again.stdout.count("picture: ") == 1


def test_the_summary_says_where_each_picture_is(album, tmp_path):
    paint(album, os.path.relpath(tmp_path / "styled", ROOT))
    results = {row["result"] for row in rows_of(tmp_path / "styled").values()}
    assert results == {str((tmp_path / "styled" / f"{name}.png").resolve()) for name in "abc"}


def test_recursive_is_suggested_only_if_subfolders_hold_photos(tmp_path, album):
    (tmp_path / "empty").mkdir()
    assert "--recursive" not in paint(tmp_path / "empty", tmp_path / "out", status=2).stderr
    assert "--recursive" in paint(tmp_path, tmp_path / "out", status=2).stderr


def test_a_broken_tiff_is_reported_in_one_line(album, tmp_path, capfd):
    photo = Image.open(album / "a.jpg")
    photo.save(album / "odd.tif", compression="tiff_lzw")
    content = bytearray((album / "odd.tif").read_bytes())
    content[200:260] = b"\xff" * 60  # libtiff itself prints an error about these bytes
    (album / "odd.tif").write_bytes(content)
    for name in "abc":
        (album / f"{name}.jpg").unlink()
    lines = paint(album, tmp_path / "out", "--quiet", status=1).stderr.splitlines()
    assert capfd.readouterr().err == ""  # libtiff itself would print here
    assert len(lines) == 2 and "odd.tif: can't be read" in lines[0] and lines[1].startswith("error: 1 of 1 photos")


def test_the_summary_of_many_rows_is_written_at_intervals(tmp_path, monkeypatch):
    """The clock is simulated: each job takes a second, and each write half a second."""
    clock, written = [0.0], []

    def write(path, rows):
        clock[0] += 0.5
        written.append((clock[0], len(rows)))

    def jobs():
        for i in range(500):
            clock[0] += 1
            yield plan.Job(tmp_path / f"{i}.jpg", folders.Variant(None), tmp_path / f"{i}.png"), {"status": "done"}

    monkeypatch.setattr(folders.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(folders, "write_summary", write)
    assert len(list(folders.with_summary(jobs(), tmp_path / "summary.csv", {}))) == 500
    assert written[0][1] == 1 and written[-1][1] == 500  # the first row at once, and all rows at the end
    intervals = [after - before for (before, _), (after, _) in zip(written, written[1:-1])]
    assert min(intervals) > 10 and max(intervals) < 12  # writing takes about a twentieth of the time


# --- The time left ---


def test_the_time_left_is_printed_once_for_a_picture_and_once_for_a_folder(album, no_models, tmp_path):
    lines = [line for line in paint(album, tmp_path / "a").stderr.splitlines() if line.startswith("time left: about ")]
    assert len(lines) == 2 and "for this picture" in lines[0] and "for 1 more" in lines[1]
    release_models()
    printed = paint(album / "a.jpg", tmp_path / "a.png").stderr
    assert printed.count("time left: about ") == 1 and "for this picture" in printed
    assert paint(album, tmp_path / "b", "--quiet").stderr == ""


# --- Manifests ---


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--size", 72), "--size 64, now 72"),
        (("--keep-colors", "luminance"), "--keep-colors not given, now luminance"),
        (("--init", OTHER), "--init content, now gravel.jpg"),
        (("--style", OTHER), "--style glands.jpg, now gravel.jpg"),
        (("--style", PAINTING, OTHER), "--style glands.jpg, now glands.jpg gravel.jpg"),
        (("--each",), "one by one"),
        (("--format", "jpg"), "--format png, now jpg"),
        (("--published-losses",), "--published-losses not given, now given"),
        (("--precision", "auto"), "--precision float32, now auto"),
    ],
)
def test_a_folder_painted_with_other_options_is_refused(flags, complaint, album, painted, tmp_path):
    output = tmp_path / "styled"
    shutil.copytree(painted, output)
    before = mtimes(output)
    result = paint(album, output, *flags, status=2)
    assert complaint in result.stderr and "--overwrite" in result.stderr and "--output" in result.stderr
    assert "device" not in result.stderr and result.stdout == ""
    assert mtimes(output) == before


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """A folder that was painted without further flags, from a photo that is not in `album`."""
    photos, output = tmp_path_factory.mktemp("gone"), tmp_path_factory.mktemp("painted") / "styled"
    Image.open(ROOT / "images/content/china.jpg").resize((96, 64)).save(photos / "z.jpg")
    release_models()
    paint(photos, output)
    return output


def test_a_folder_painted_with_other_options_is_refused_before_tensorflow_is_imported(album, painted):
    command = ["style_transfer.py", str(album), "--style", str(PAINTING), "--output", str(painted)]
    code = (
        f"import sys; sys.argv = {command!r}\nimport style_transfer\nfrom atelier import command_line\n"
        "try: command_line.run(style_transfer.main)\n"
        "except SystemExit as end: print(end.code, 'tensorflow' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=100)
    assert result.stdout == "2 False\n", result.stderr


def test_a_folder_continues_with_options_that_do_not_change_pictures(album, tmp_path):
    output, copy = tmp_path / "styled", tmp_path / "the same under another name.jpg"
    paint(album, output)
    before = mtimes(output)
    copy.write_bytes(PAINTING.read_bytes())
    for flags in (("--style", copy), ("--quiet",), ("--compare", "--gif", "--plot"), ("--recursive",)):
        assert "done before: 3\n" in paint(album, output, *flags).stdout
    assert mtimes(output) == before


def test_overwrite_paints_everything_again_with_other_options(album, tmp_path):
    output = tmp_path / "styled"
    paint(album, output)
    assert paint(album, output, "--size", 72, "--overwrite").stdout.count("picture: ") == 3
    assert set(longest_sides(output).values()) == {72}
    assert "done before: 3\n" in paint(album, output, "--size", 72).stdout
    assert "--size 72, now 64" in paint(album, output, status=2).stderr


@pytest.mark.slow
def test_after_a_kill_no_picture_made_with_the_old_options_counts_as_done(album, tmp_path):
    output = tmp_path / "styled"
    (album / "more").mkdir()
    shutil.copy(album / "a.jpg", album / "more" / "deep.jpg")
    paint(album, output, "--recursive")
    flags = (album, *QUICK, "--iterations", 10, "--size", 72, "--style", PAINTING, "--output", output)
    kill_when([ROOT / "style_transfer.py", *flags, "--overwrite"], lambda: 72 in longest_sides(output).values())
    done = [name for name, side in longest_sides(output).items() if side == 72]
    assert 1 <= len(done) < 4 and "--size 72, now 64" in paint(album, output, status=2).stderr
    before = mtimes(output)
    run("style_transfer.py", *flags)
    assert longest_sides(output) == {"a.png": 72, "b.png": 72, "c.png": 72, "deep.png": 64}
    assert [mtimes(output)[name] for name in done[:-1]] == [before[name] for name in done[:-1]]
    run("style_transfer.py", *flags, "--recursive")
    assert set(longest_sides(output).values()) == {72}


def test_after_a_kill_before_the_first_picture_the_old_pictures_count_as_done(album, tmp_path, monkeypatch):
    """The command ends between the summary and the new manifest. Then the old command continues; the new is refused."""
    output = tmp_path / "styled"
    paint(album, output)
    with monkeypatch.context() as patched:
        patched.setattr(folders, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        paint(album, output, "--size", 72, "--overwrite", status=130)
    assert "--size 64, now 72" in paint(album, output, "--size", 72, status=2).stderr
    paint(album, output)
    assert set(longest_sides(output).values()) == {64}
    assert {row["status"] for row in rows_of(output).values()} == {"done"}


def test_a_changed_photo_is_painted_again(album, tmp_path):
    output = tmp_path / "styled"
    paint(album, output)
    before = mtimes(output)
    os.utime(album / "b.jpg", (1e9, 1e9))
    Image.open(album / "a.jpg").resize((60, 90)).save(album / "c.jpg")
    again = paint(album, output)
    assert "changed since their pictures were made: 2" in again.stderr and "done before: 1\n" in again.stdout
    assert mtimes(output)["a.png"] == before["a.png"] and mtimes(output)["b.png"] != before["b.png"]
    assert Image.open(output / "c.png").size == (43, 64)
    assert "done before: 3\n" in paint(album, output).stdout


@pytest.mark.parametrize("flags", [((), ("--weights", "imagenet")), (("--weights", "imagenet"), ())])
def test_weights_imagenet_equals_no_weights(flags, album, weight_files, tmp_path):
    output, own_weights = tmp_path / "styled", ("--weights", weight_files / "vgg.npz")
    paint(album, output, *flags[0])
    (album / "c.jpg").rename(album / "d.jpg")
    assert "--weights" in paint(album, output, *own_weights, status=2).stderr
    assert "done before: 2\n" in paint(album, output, *flags[1]).stdout
    paint(album, output, *own_weights, "--overwrite")
    assert "--weights vgg.npz, now imagenet" in paint(album, output, *flags[0], status=2).stderr


@pytest.mark.parametrize("weights", [None, "imagenet"])
def test_a_folder_of_a_former_version_continues_if_it_used_imagenets_weights(weights, album, tmp_path):
    output = tmp_path / "styled"
    paint(album, output)
    change_manifest(output, weights=weights, stroke_size=1.0)  # former versions wrote this size for searches, too
    assert "done before: 3\n" in paint(album, output).stdout


def test_a_folder_painted_with_the_former_weights_is_refused(album, tmp_path):
    output = tmp_path / "styled"
    paint(album, output)
    change_manifest(output, weights="hed", size=65)
    before = mtimes(output)
    message = paint(album, output, status=2).stderr
    assert "with the weights hed, which are no longer supported" in message and "--size" not in message
    assert "--overwrite" in message and "--output" in message and mtimes(output) == before
    paint(album, output, "--overwrite")
    assert "done before: 3\n" in paint(album, output).stdout


@pytest.mark.parametrize("flags", ["", " --weights hed"])
def test_a_picture_that_records_the_former_weights_is_not_done(flags, album, tmp_path):
    output = tmp_path / "styled"
    output.mkdir()
    record = {"command": f"python style_transfer.py album --style {PAINTING}{flags}", "weights": "hed"}
    imaging.save_png(output / "a.png", np.zeros((9, 9), "uint8"), provenance.of_result(config.Style()) | record)
    assert "with the weights hed, which are no longer supported" in paint(album, output, status=2).stderr
    paint(album, output, "--overwrite")


def change_manifest(folder, **changes):
    manifest = json.loads((folder / "recipe.json").read_text())
    (folder / "recipe.json").write_text(json.dumps(manifest | changes))


def test_a_folder_painted_with_a_former_loss_is_refused(album, tmp_path):
    output = tmp_path / "styled"
    paint(album, output)
    change_manifest(output, style_loss="covariance", pooling="average")
    assert "--pooling average, now not given" in paint(album, output, status=2).stderr


def test_a_recipe_json_that_is_no_manifest_is_not_replaced(album, tmp_path):
    for content in ("{", "[1]", '{"flour": 500}'):
        (tmp_path / "recipe.json").write_text(content)
        assert "no manifest" in paint(album, tmp_path, status=2).stderr
        assert (tmp_path / "recipe.json").read_text() == content


# --- Folders of older versions, without a manifest ---


def remove_manifest(output):
    """Make a folder look like that of a version without manifests."""
    (output / "recipe.json").unlink()
    rows = list(rows_of(output).values())
    for row in rows:
        row["status"] = row.pop("reason") or row["status"]
        del row["photo_bytes"], row["photo_changed"]
    summary.write_summary(output / "summary.csv", rows)


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_without_a_manifest_the_pictures_own_records_decide(kind, album, tmp_path):
    output, flags = tmp_path / "styled", ("--format", kind)
    (album / "broken.jpg").write_bytes(b"no photo")
    paint(album, output, *flags, status=1)
    remove_manifest(output)
    before = mtimes(output)
    assert rows_of(output)["broken.jpg"]["status"] == "is not a picture that can be read"
    message = paint(album, output, *flags, "--size", 72, status=2).stderr
    assert "--size 64, now 72" in message and f"a.{kind}" in message
    assert not (output / "recipe.json").exists() and mtimes(output) == before
    (album / "broken.jpg").unlink()
    again = paint(album, output, *flags)
    assert "done before: 3\n" in again.stdout and "do not record" not in again.stderr
    assert mtimes(output) == before
    assert rows_of(output)["a.jpg"]["photo_bytes"] and rows_of(output)["broken.jpg"]["status"] == "failed"
    assert "--size 64, now 72" in paint(album, output, *flags, "--size", 72, status=2).stderr


def test_pictures_without_a_record_are_assumed_to_be_done_and_reported(album, tmp_path):
    output = tmp_path / "styled"
    output.mkdir()
    Image.new("RGB", (9, 9)).save(output / "a.png")
    first = paint(album, output)
    assert (
        "do not record how they were made: 1, assumed to be done" in first.stderr and "done before: 1" in first.stdout
    )
    assert Image.open(output / "a.png").size == (9, 9)
    assert rows_of(output)["a.jpg"]["status"] == "done before"
    assert "do not record" not in paint(album, output).stderr


def test_a_picture_of_another_script_is_not_done(album, tmp_path):
    output = tmp_path / "styled"
    output.mkdir()
    record = provenance.of_result(config.Style()) | {"command": "python deepdream.py album --output styled"}
    imaging.save_png(output / "a.png", np.zeros((9, 9), "uint8"), record)
    assert "by deepdream.py, now style_transfer.py" in paint(album, output, status=2).stderr


# --- Several paintings ---


def test_each_photo_is_painted_in_the_style_of_each_painting(album, no_models, loss_functions, tmp_path):
    output, two_paintings = tmp_path / "styled", (PAINTING, OTHER)
    printed = paint(album, output, "--each", style=two_paintings)
    assert [function.traces for function in loss_functions] == [1]
    names = [f"{photo}__{painting}.png" for photo in "abc" for painting in ("glands", "gravel")]
    assert printed.stdout.splitlines()[:6] == [f"picture: {output / name}" for name in names]
    rows = summary.read_summary(output / "summary.csv").values()
    assert [(pathlib.Path(row["photo"]).name, row["painting"], row["status"]) for row in rows] == [
        (f"{photo}.jpg", str(painting), "done") for photo in "abc" for painting in two_paintings
    ]
    paint(album / "a.jpg", tmp_path / "alone.png", style=(OTHER,))
    assert (pixels(tmp_path / "alone.png") == pixels(output / "a__gravel.png")).all()
    third = tmp_path / "third.jpg"
    shutil.copy(ROOT / "images/style/hubble_deep_field.jpg", third)
    more = paint(album, output, "--each", style=(PAINTING, third))
    assert more.stdout.count("__third.png") == 3 and "done before: 3\n" in more.stdout
    shutil.copy(OTHER, third)
    assert more.stdout.count("picture: ") == 3
    before = mtimes(output)
    assert "done before: 6\n" in paint(album, output, "--each", style=(*two_paintings, third)).stdout
    assert {name for name, when in mtimes(output).items() if when != before[name]} == {f"{x}__third.png" for x in "abc"}


def test_paintings_of_the_same_name_get_different_results(album, tmp_path):
    paintings = []
    for folder, painting in (("x", PAINTING), ("y", OTHER)):
        (tmp_path / folder).mkdir()
        paintings.append(tmp_path / folder / "wave.jpg")
        shutil.copy(painting, paintings[-1])
    output = tmp_path / "styled"
    printed = paint(album / "a.jpg", output, "--each", style=paintings).stdout
    assert f"picture: {output}/a__wave.png\npicture: {output}/a__wave-2.png\n" in printed
    assert (pixels(output / "a__wave.png") != pixels(output / "a__wave-2.png")).any()
    assert "done before: 2\n" in paint(album / "a.jpg", output, "--each", style=reversed(paintings)).stdout


def test_a_folder_of_paintings_is_mixed_or_used_one_by_one(album, tmp_path):
    paintings = tmp_path / "paintings"
    paintings.mkdir()
    for painting in (PAINTING, OTHER):
        shutil.copy(painting, paintings)
    for photo in "bc":
        (album / f"{photo}.jpg").unlink()
    paint(album, tmp_path / "each", "--each", style=(paintings,))
    assert set(longest_sides(tmp_path / "each")) == {"a__glands.png", "a__gravel.png"}
    paint(album / "a.jpg", tmp_path / "mixture.png", style=(paintings,))
    paint(album / "a.jpg", tmp_path / "listed.png", style=(PAINTING, OTHER))
    assert (pixels(tmp_path / "mixture.png") == pixels(tmp_path / "listed.png")).all()
    assert "where the paintings are" in paint(album, paintings, style=(paintings,), status=2).stderr
    (paintings / "broken.jpg").write_bytes(b"no painting")
    assert "broken.jpg" in paint(album, tmp_path / "more", "--each", style=(paintings,), status=2).stderr
    assert not list((tmp_path / "more").glob("*.png"))


def test_each_is_refused_with_options_that_contradict_it(album, tmp_path):
    with_weights = ("--each", "--style-weights", 1, 2)
    assert "--style-weights" in paint(album, tmp_path / "out", *with_weights, style=(PAINTING, OTHER), status=2).stderr
    flags = ("--each", "--style", PAINTING, "--output", tmp_path / "a.png")
    assert "--each" in run("style_transfer.py", *flags, status=2).stderr
