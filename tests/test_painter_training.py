"""painter_training.py, tested through train_rnn.py."""

import pathlib
import resource
import shutil

import numpy as np
import pytest
from conftest import (
    NO_COMPILATION_CACHE,
    TINY_PAINTER,
    interrupt_after,
    losses_of,
    results,
    run,
    run_process,
)
from PIL import Image

from atelier.networks import keras_files
from atelier.pixel_rnn import model_files, model_meta
from config import PRESETS


def test_a_training_writes_a_model_its_palette_samples_and_losses(painter):
    names = {str(path.relative_to(painter)) for path in painter.rglob("*") if path.is_file()}
    samples = {f"samples/epoch_{epoch:04}.png" for epoch in (1, 2, 4)}
    written = {"meta.json", "preview.png", "starts.png", "loss.csv", "loss.png", "model.keras", "model_last.keras"}
    assert names == samples | written | {"checkpoint_b.npz"}
    meta = model_meta.load_meta(painter)
    assert meta["palette"].shape == (24, 3) and meta["pictures"] == 9 and meta["finished"]
    header, rows = losses_of(painter)
    assert header == ["epoch", "loss_nats", "loss_bits", "validation_nats", "validation_bits"]
    assert rows[:, 0].tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(rows[:, 2], rows[:, 1] / np.log(2), atol=2e-6)
    assert rows[0, 1] < np.log(24) * 1.02 and rows[-1, 1] < rows[0, 1] and rows[-1, 3] < rows[0, 3]
    assert "train_rnn.py" in Image.open(painter / "samples" / "epoch_0004.png").text["command"]


@pytest.mark.slow
def test_an_interrupted_training_is_resumed_exactly_also_from_the_previous_checkpoint(
    pictures, painter, tmp_path, monkeypatch
):
    arguments = (pictures, *TINY_PAINTER, "--output")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 40)
        assert "--resume" in run("train_rnn.py", *arguments, tmp_path / "m", status=130).stderr
    assert max(np.load(path)["step"] for path in (tmp_path / "m").glob("checkpoint_*.npz")) > 0  # saved within an epoch
    damaged = pathlib.Path(shutil.copytree(tmp_path / "m", tmp_path / "damaged"))
    latest = max(damaged.glob("checkpoint_*.npz"), key=lambda path: path.stat().st_mtime_ns)
    latest.write_bytes(latest.read_bytes()[:-500])
    assert "is damaged" not in run("train_rnn.py", *arguments, tmp_path / "m", "--resume").stderr
    result = run("train_rnn.py", *arguments, damaged, "--resume")
    assert f"{latest} is damaged; going on from epoch" in result.stderr
    for folder in (tmp_path / "m", damaged):
        np.testing.assert_allclose(losses_of(folder)[1], losses_of(painter)[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--width", 15), "width 16, not 15"),
        (("--colors", 23), "colors 24, not 23"),
        (("--cell", "gru"), "cell lstm, not gru"),
        (("--num-images", 4), "num_images None, not 4"),
    ],
)
def test_a_training_with_other_options_is_not_resumed(pictures, painter, flags, complaint):
    result = run("train_rnn.py", pictures, *TINY_PAINTER, *flags, "--output", painter, "--resume", status=2)
    assert complaint in result.stderr


@pytest.mark.parametrize(
    ("flags", "draw_pictures"),
    [
        (("--targets", "last", "--stride", 5), True),
        (("--context", "previous"), True),
        (("--context", "above"), True),
        (("--cell", "gru"), True),
        (("--gray", 16), True),
        (("--optimizer", "rmsprop"), False),
        (("--clip", 0.01), False),
        (("--schedule", "late"), False),
        (("--precision", "mixed_bfloat16"), True),
    ],
)
def test_each_option_of_a_painter_changes_the_training(pictures, painter, tmp_path, flags, draw_pictures):
    run("train_rnn.py", pictures, *TINY_PAINTER, "--epochs", 1, *flags, "--output", tmp_path / "m")
    losses, default = losses_of(tmp_path / "m")[1], losses_of(painter)[1]
    assert losses[0, 1] < np.log(24) * 1.02 and losses[0, 1] != default[0, 1]
    if draw_pictures:
        run("generate_rnn.py", tmp_path / "m", "--count", 2, "--output", tmp_path / "drawn.png")


def test_a_painters_validation_folder_and_patience(pictures, tmp_path):
    held_out = tmp_path / "held_out"
    held_out.mkdir()
    for name in ("tile_02.png", "tile_08.png"):
        (held_out / name).write_bytes((pictures / name).read_bytes())
    flags = ("--validation", held_out, "--validation-split", 0, "--patience", 1, "--epochs", 50)
    run("train_rnn.py", pictures, *TINY_PAINTER, *flags, "--learning-rate", 0.1, "--output", tmp_path / "m")
    validation = losses_of(tmp_path / "m")[1][:, 3]
    assert len(validation) < 50 and np.argmin(validation) == len(validation) - 2
    best = model_files.load_painter(tmp_path / "m", model_meta.load_meta(tmp_path / "m")).get_weights()
    last = keras_files.load_keras_model(tmp_path / "m" / "model_last.keras").get_weights()
    assert any((a != b).any() for a, b in zip(best, last))
    longer = (*flags, "--learning-rate", 0.1, "--epochs", 60, "--output", tmp_path / "m", "--resume")
    result = run("train_rnn.py", pictures, *TINY_PAINTER, *longer)
    assert f"finished (epochs: {len(validation)}, stopped by --patience 1)\n" in result.stderr
    assert len(losses_of(tmp_path / "m")[1]) == len(validation)


def test_the_presets_have_the_published_settings():
    monet, sumi = PRESETS["monet"], PRESETS["sumi-e"]
    assert (monet.width, monet.height, monet.colors, monet.window, monet.stride) == (75, 75, 1000, None, 3)
    assert (sumi.width, sumi.height, sumi.gray, sumi.window, sumi.stride, sumi.batch_size) == (
        60,
        90,
        256,
        None,
        1,
        450,
    )
    for preset in (monet, sumi):
        assert (preset.cell, preset.layers, preset.units, preset.optimizer) == ("lstm", 2, 512, "rmsprop")
    assert monet.dropout == 0.2


def test_unusable_pictures_are_reported_once_and_the_others_are_used(pictures, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(pictures, folder)
    good = Image.open(folder / "tile_00.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more than this")
    (folder / "cut.png").write_bytes((folder / "tile_00.png").read_bytes()[:3000])
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("not a picture, and not meant to be one")
    good.resize((1, 1)).save(folder / "one.png")
    write_bomb(folder / "bomb.png")
    good.convert("CMYK").save(folder / "cmyk.jpg")
    good.convert("P").save(folder / "palette.gif", save_all=True, append_images=[good.rotate(90)])
    good.convert("RGBA").save(folder / "transparent.webp")
    Image.fromarray(np.asarray(good.convert("L")).astype("uint16") * 257).save(folder / "sixteen.png")
    rotated = Image.Exif()
    rotated[0x0112] = 6
    good.save(folder / "turned.jpg", exif=rotated)
    flags = (*TINY_PAINTER, "--epochs", 1, "--validation-split", 0)
    result = run("train_rnn.py", folder, *flags, "--output", tmp_path / "m", status=1)
    for name in ("broken.jpg", "cut.png", "empty.png", "one.png", "bomb.png"):
        assert result.stderr.count(name) == 1
    assert "bomb.png has more than 220 million pixels" in result.stderr
    assert result.stderr.count("left out") == 5 and "notes.txt" not in result.stderr
    assert model_meta.load_meta(tmp_path / "m")["pictures"] == 12 + 5


def write_bomb(path):
    """Write a PNG of 50,000 x 50,000 pixels that has only a few bytes."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def test_pictures_with_fewer_colours_than_requested_can_be_used(tmp_path):
    folder = tmp_path / "flags"
    folder.mkdir()
    Image.new("RGB", (20, 20), "red").save(folder / "red.png")
    Image.new("RGB", (20, 20), "blue").save(folder / "blue.png")
    flags = (*TINY_PAINTER, "--epochs", 1, "--colors", 4000, "--validation-split", 0)
    result = run("train_rnn.py", folder, *flags, "--output", tmp_path / "m")
    assert "only 2 different colours of 4000" in result.stderr
    assert results(result.stdout)["palette"] == "2 colours, mean Delta E 0.00"


def test_pictures_of_one_colour_are_refused_before_a_painter_is_replaced(tmp_path):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "loss.csv").write_text("mine")
    message = run("train_rnn.py", tmp_path, "--output", tmp_path / "m", "--overwrite", status=2).stderr
    assert "one colour" in message and (tmp_path / "m" / "loss.csv").read_text() == "mine"


@pytest.mark.slow
def test_without_a_flag_nothing_is_overwritten_and_an_unfinished_training_must_be_resumed(
    pictures, painter, tmp_path, monkeypatch
):
    short_training = (*TINY_PAINTER, "--epochs", 1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "loss.csv").write_text("mine")
    assert (
        "would be replaced"
        in run("train_rnn.py", pictures, *short_training, "--output", tmp_path / "mine", status=2).stderr
    )
    assert "another training" in run("train_rnn.py", pictures, *short_training, "--output", painter, status=2).stderr
    monkeypatch.setattr("conftest.ROOT", tmp_path)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        assert "trained/china is kept" in run("train_rnn.py", pictures, *short_training, status=130).stderr
    assert "--resume goes on" in run("train_rnn.py", pictures, *short_training, status=2).stderr
    other = results(run("train_rnn.py", pictures, *short_training, "--colors", 4).stdout)
    assert other["folder"] == "trained/china-2"
    assert other["palette"].startswith("4 colours") and 8 < float(other["palette"].split()[-1]) < 25
    assert "folder: trained/china\n" in run("train_rnn.py", pictures, *short_training, "--resume").stdout


@pytest.mark.slow
def test_a_training_stopped_by_a_full_disk_can_be_resumed(pictures, tmp_path):
    limit = 30_000  # bytes per file: less than a checkpoint, more than the sample sheets
    set_limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # noqa: E731
    arguments = ("train_rnn.py", pictures, *TINY_PAINTER, "--epochs", 1, "--output", tmp_path / "m")
    result = run_process(*arguments, status=2, preexec_fn=set_limit, env=NO_COMPILATION_CACHE)
    assert "file too large" in result.stderr
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"meta.json", "preview.png", "starts.png"}
    run(*arguments, "--resume")
