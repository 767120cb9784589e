"""zoom_films.py and films.py: films of dreams, their frames, killed commands, and two commands for one film."""

import resource
import signal
import subprocess
import sys
import time

import imageio_ffmpeg
import numpy as np
import pytest
from conftest import ROOT, pixels, results, run, run_process, wait_for
from PIL import Image
from test_deepdream import CLASSIFIER, FILM, QUICK, dream

import config
from atelier import disk, errors, films, imaging
from atelier.dream import zoom_films


@pytest.fixture(autouse=True)
def load_vgg_once(cache_vgg):
    pass


def test_a_film_starts_with_the_photo_and_moves_away_from_it(photo, tmp_path):
    printed = results(dream(photo, tmp_path / "a.gif", *FILM, "--rotate", 2).stdout)
    assert printed["film"] == str(tmp_path / "a.gif") and printed["frames"] == "5"
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 5 and film.size == (64, 48)
        first = np.asarray(film.convert("RGB"), "float32")
        film.seek(4)
        last = np.asarray(film.convert("RGB"), "float32")
    of_photo = imaging.resize_picture(pixels(photo), 64, 48)
    assert np.abs(first - of_photo).mean() < 12 < np.abs(last - of_photo).mean()
    assert not (tmp_path / "a.gif_frames").exists()


def test_a_film_of_a_class(tmp_path):
    flags = ("--convnet", CLASSIFIER, "--class", 3, "--size", 32, "--steps", 1, "--zoom", 2)
    printed = results(run("deepdream.py", "noise", *flags, "--output", tmp_path / "a.gif").stdout)
    assert printed["frames"] == "2"


def test_frames_are_not_put_into_a_folder_with_other_files(photo, tmp_path):
    (tmp_path / "a.gif_frames").mkdir()
    (tmp_path / "a.gif_frames/00001.png").write_bytes(b"mine")
    error = dream(photo, tmp_path / "a.gif", *FILM, "--overwrite", status=2).stderr
    assert "not empty" in error and (tmp_path / "a.gif_frames/00001.png").read_bytes() == b"mine"


def test_temporary_files_of_a_killed_film_are_removed(photo, tmp_path):
    frames = tmp_path / "a.gif_frames"
    frames.mkdir()
    (frames / ".recipe-x.json").write_text("{")
    dream(photo, tmp_path / "a.gif", *FILM)
    assert not frames.exists()


def test_a_truncated_mp4_is_noticed(photo, tmp_path, monkeypatch):
    monkeypatch.setattr(imageio_ffmpeg, "count_frames_and_secs", lambda path: (4, 1.0))
    assert "can't be written completely" in dream(photo, tmp_path / "a.mp4", *FILM, status=2).stderr
    assert not (tmp_path / "a.mp4").exists() and len(list((tmp_path / "a.mp4_frames").glob("0*.png"))) == 5


@pytest.mark.parametrize("suffix", [".mp4", ".webp"])
def test_mp4_and_webp_films_can_be_read(suffix, photo, tmp_path):
    dream(photo, tmp_path / f"a{suffix}", *FILM, "--size", 65)
    if suffix == ".mp4":
        about, *frames = imageio_ffmpeg.read_frames(tmp_path / "a.mp4")
        assert len(frames) == 5 and about["size"] == (64, 48)
        first = np.frombuffer(frames[0], "uint8").reshape(48, 64, 3)
        assert np.abs(first - imaging.resize_picture(pixels(photo), 65, 49)[:48, :64]).mean() < 12
    else:
        with Image.open(tmp_path / "a.webp") as film:
            assert film.n_frames == 5 and film.size == (65, 49)


@pytest.mark.slow
def test_two_commands_for_the_same_film_take_turns(photo, tmp_path):
    flags = (photo, *QUICK, "--octaves", 1, "--steps", 1, "--zoom", 12, "--output", tmp_path / "a.gif")
    command = [sys.executable, ROOT / "deepdream.py", *map(str, flags)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_for(lambda: (tmp_path / "a.gif_frames/00001.png").exists())
    error = run("deepdream.py", *flags, status=2).stderr
    assert "another process is making" in error and "a.gif exists already" in error
    assert process.wait() == 0 and [path.name for path in tmp_path.iterdir()] == ["a.gif"]


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_a_film_of_equal_frames_is_complete(suffix, tmp_path):
    for number in range(6):
        Image.new("RGB", (40, 30), (90, 120, 40)).save(tmp_path / f"{number}.png")
    films.save_film(tmp_path / f"a{suffix}", sorted(tmp_path.glob("*.png")), 24, {})
    with Image.open(tmp_path / f"a{suffix}") as film:
        assert film.size == (40, 30)


def test_moving_leaves_no_black_corners(photo):
    white = np.full((48, 64, 3), 250, "float32")
    for options in (config.Dream(rotate=30), config.Dream(zoom_factor=0.6), config.Dream(shift=(20, -10))):
        np.testing.assert_allclose(zoom_films.move_frame(white, options), 250, atol=0.01)
    picture = imaging.resize_picture(pixels(photo), 64, 48)
    np.testing.assert_allclose(
        zoom_films.move_frame(picture, config.Dream(zoom_factor=1, shift=(3, 2)))[2:, 3:], picture[:-2, :-3], atol=0.01
    )
    larger = zoom_films.move_frame(picture, config.Dream(zoom_factor=2))
    assert np.corrcoef(larger[8:40:2, 8:56:2].ravel(), picture[16:32, 20:44].ravel())[0, 1] > 0.9


@pytest.mark.slow
def test_a_killed_film_is_continued_and_equals_an_uninterrupted_one(photo, tmp_path):
    flags = (photo, *QUICK, "--octaves", 1, "--steps", 1, "--zoom", 12)
    command = [sys.executable, ROOT / "deepdream.py", *map(str, flags), "--output", tmp_path / "killed.gif"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    frames = tmp_path / "killed.gif_frames"
    while process.poll() is None and len(list(frames.glob("0*.png"))) < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed.gif").exists()
    for path in frames.glob("0*.png"):
        Image.open(path).load()
    error = run("deepdream.py", *flags, "--output", tmp_path / "killed.gif", "--rotate", 1, status=2).stderr
    assert "another film" in error
    printed = results(run("deepdream.py", *flags, "--output", tmp_path / "killed.gif").stdout)
    assert 3 <= int(printed["frames_done_before"]) < 12 and printed["frames"] == "12"
    run("deepdream.py", *flags, "--output", tmp_path / "whole.gif")
    assert (tmp_path / "killed.gif").read_bytes() == (tmp_path / "whole.gif").read_bytes()


@pytest.mark.parametrize("weights", [None, "imagenet", "hed"])
def test_frames_of_a_former_version_are_used_if_its_weights_were_imagenets(weights, tmp_path):
    manifest = {"script": "deepdream.py", "size": 64, "weights": None}
    disk.write_json(tmp_path / "recipe.json", manifest | {"weights": weights})
    (tmp_path / "00001.png").touch()
    if weights == "hed":
        with pytest.raises(errors.InputError, match="with the weights hed, which are no longer supported.*--overwrite"):
            films.frames_done(tmp_path, manifest, 5, replace=False)
    else:
        assert films.frames_done(tmp_path, manifest, 5, replace=False) == 1


@pytest.mark.slow
def test_a_full_disk_keeps_the_frames_made_so_far(photo, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    flags = (photo, *QUICK, "--octaves", 1, "--steps", 1, "--zoom", 12, "--output", tmp_path / "a.gif", "--quiet")
    result = run_process("deepdream.py", *flags, status=2, preexec_fn=limit)
    assert "a.gif_frames" in result.stderr and not (tmp_path / "a.gif").exists()
    frames = sorted((tmp_path / "a.gif_frames").glob("*.png"))
    assert frames
    assert "(--rotate 0.0, now 1.0)" in run("deepdream.py", *flags, "--rotate", 1, status=2).stderr
    for path in frames:
        Image.open(path).load()
