"""generate_rnn.py: sheets, completed pictures, animations, and wrong flags."""

import json
import shutil

import numpy as np
import pytest
from conftest import meta_of, run, run_process
from PIL import Image, ImageSequence

import generate_rnn
import util
from atelier import imaging
from atelier.pixel_rnn import model_meta, palettes


def cells(path, columns):
    """Cut a contact sheet into its pictures: uint8 N x 8 x 8."""
    sheet = np.asarray(Image.open(path))[::8, ::8]
    rows, found_columns = (sheet.shape[0] - 1) // 9, (sheet.shape[1] - 1) // 9
    assert found_columns == columns
    return np.array([sheet[1 + 9 * r : 9 + 9 * r, 1 + 9 * c : 9 + 9 * c] for r in range(rows) for c in range(columns)])


def test_a_sheet_records_its_command_and_the_same_seed_draws_it_again(tiny_models, tmp_path):
    for name, seed, runner in (("a", 5, run_process), ("b", 5, run), ("c", 6, run)):
        flags = ("--digit", 3, "--grid", 4, "--seed", seed, "--output", tmp_path / f"{name}.png")
        result = runner("generate_rnn.py", tiny_models, *flags)
        assert result.stdout == f"picture: {tmp_path / f'{name}.png'}\n"
    a, b, c = (cells(tmp_path / f"{name}.png", 4) for name in "abc")
    assert len(a) == 16 and len(np.unique(a, axis=0)) > 8
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    text = Image.open(tmp_path / "a.png").text
    assert "--digit 3" in text["command"] and text["seed"] == "5" and "tensorflow" in text["versions"]


def test_all_digits_have_a_row_each_and_the_gif_ends_with_the_sheet(tiny_models, tmp_path):
    run("generate_rnn.py", tiny_models, "--all-digits", "--grid", 3, "--gif", "--output", tmp_path / "all.png")
    assert len(cells(tmp_path / "all.png", 3)) == 30
    with Image.open(tmp_path / "all.gif") as animation:
        assert animation.n_frames > 30
        shown = [frame.info["duration"] for frame in ImageSequence.Iterator(animation)]
        assert shown[-1] == 1500 and 3000 < sum(shown[:-1]) < 5000
        animation.seek(animation.n_frames - 1)
        last = np.asarray(animation.convert("L"), int)
    assert np.abs(last - np.asarray(Image.open(tmp_path / "all.png"), int)).max() <= 2


def test_completion_keeps_the_given_rows(tiny_models, picture, digits, tmp_path):
    flags = ("--digit", 0, "--complete", picture, "--rows", 5, "--grid", 4, "--output", tmp_path / "c.png")
    run("generate_rnn.py", tiny_models, *flags)
    drawn = cells(tmp_path / "c.png", 4)
    given = util.from_levels(util.to_levels(digits[2][0], 7), 7)
    for one in drawn:
        np.testing.assert_array_equal(one[:5], given[:5])
    assert len(np.unique(drawn[:, 5:], axis=0)) > 4


def test_at_temperature_zero_all_pictures_are_the_same(tiny_models, tmp_path):
    run(
        "generate_rnn.py", tiny_models, "--digit", 1, "--temperature", 0, "--grid", 3, "--output", tmp_path / "zero.png"
    )
    assert len(np.unique(cells(tmp_path / "zero.png", 3), axis=0)) == 1
    run("generate_rnn.py", tiny_models, "--digit", 1, "--top-k", 1, "--grid", 3, "--output", tmp_path / "top.png")
    assert (tmp_path / "zero.png").read_bytes()[-100:] == (tmp_path / "top.png").read_bytes()[-100:]


def test_a_result_is_not_overwritten_without_the_flag(tiny_models, tmp_path):
    (tmp_path / "mine.png").write_text("precious")
    flags = (tiny_models, "--digit", 3, "--output", tmp_path / "mine.png")
    assert "--overwrite" in run("generate_rnn.py", *flags, status=2).stderr
    assert (tmp_path / "mine.png").read_text() == "precious"
    run("generate_rnn.py", *flags, "--overwrite")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--digit", 3, "--temperature", -1), "--temperature"),
        (("--digit", 3, "--temperature", "nan"), "--temperature"),
        (("--digit", 3, "--top-k", 0), "--top-k"),
        (("--digit", 3, "--grid", 0), "--grid"),
        (("--digit", 12), "has the classes 0 1 2 3 4 5 6 7 8 9, and no 12"),
        (("--digit", 3, "--complete", "absent.png"), "absent.png"),
        (("--digit", 3, "--complete", "README.md"), "README.md is not a picture"),
    ],
)
def test_bad_flags_are_reported_in_one_line(tiny_models, tmp_path, flags, complaint):
    result = run("generate_rnn.py", tiny_models, *flags, "--output", tmp_path / "no.png", status=2)
    assert complaint in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_rows_need_a_picture_to_complete(tiny_models):
    assert "needs --complete" in run("generate_rnn.py", tiny_models, "--digit", 3, "--rows", 4, status=2).stderr


def test_networks_that_read_columns_draw_columns_and_complete_no_rows(tiny_models, picture, tmp_path):
    columns = tmp_path / "columns"
    shutil.copytree(tiny_models, columns)
    meta = meta_of(columns)
    (columns / "meta.json").write_text(json.dumps(meta | {"recipe": meta["recipe"] | {"order": "columns"}}))
    complete = ("generate_rnn.py", columns, "--digit", 3, "--complete", picture)
    assert "reads columns" in run(*complete, status=2).stderr
    by_rows, by_columns = (
        [*generate_rnn.drawing_frames(np.full((1, 6, 6), 255, "uint8"), 0, 50, 1, block=2, by_columns=by_columns)][2]
        for by_columns in (False, True)
    )
    assert (by_rows != by_columns).any()
    np.testing.assert_array_equal(by_rows, by_columns.swapaxes(0, 1))


@pytest.mark.parametrize("rows", [0, 8, 9])
def test_too_few_or_too_many_rows_are_refused(rows, tiny_models, picture):
    flags = ("--digit", 3, "--complete", picture, "--rows", rows, "--output", picture)
    assert "--rows must be " in run("generate_rnn.py", tiny_models, *flags, status=2).stderr


# --- Painters ---


def draw_with_painter(painter, output, *flags, status=0):
    result = run("generate_rnn.py", painter, *flags, "--output", output, status=status)
    return result if status else cells_of_painter(output)


def cells_of_painter(path, columns=3):
    """Cut a painter's sheet into its pictures: uint8 N x 12 x 16 x 3. The sheet enlarges each pixel 8 times."""
    sheet = np.asarray(Image.open(path))[::8, ::8]
    rows, found_columns = sheet.shape[0] // 13, sheet.shape[1] // 17
    assert found_columns == columns
    return np.array([sheet[1 + 13 * r :, 1 + 17 * c :][:12, :16] for r in range(rows) for c in range(columns)])


def test_a_painter_draws_in_its_palette_and_the_same_seed_draws_it_again(painter, tmp_path):
    pictures = draw_with_painter(painter, tmp_path / "a.png", "--gif")
    assert pictures.shape == (6, 12, 16, 3) and len(np.unique(pictures, axis=0)) == 6
    palette = {tuple(color) for color in model_meta.load_meta(painter)["palette"].tolist()}
    assert {tuple(color) for color in pictures.reshape(-1, 3).tolist()} <= palette
    np.testing.assert_array_equal(pictures, draw_with_painter(painter, tmp_path / "b.png", "--seed", 0))
    assert (pictures != draw_with_painter(painter, tmp_path / "c.png", "--seed", 1)).any()
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames > 50


@pytest.mark.slow
def test_low_temperature_top_k_and_top_p_reduce_the_number_of_colours(painter, tmp_path):
    def colors_of(*flags):
        name = "_".join(map(str, flags)) or "plain"
        return len(np.unique(draw_with_painter(painter, tmp_path / f"{name}.png", *flags).reshape(-1, 3), axis=0))

    plain = colors_of()
    for flags in (("--temperature", 0.2), ("--top-k", 2), ("--top-p", 0.2)):
        assert colors_of(*flags) < plain
    certain = draw_with_painter(painter, tmp_path / "certain.png", "--temperature", 0)
    assert len(np.unique(certain, axis=0)) == 1
    np.testing.assert_array_equal(certain, draw_with_painter(painter, tmp_path / "k1.png", "--top-k", 1))
    np.testing.assert_array_equal(certain, draw_with_painter(painter, tmp_path / "p0.png", "--top-p", 1e-6))


def test_a_painter_completes_a_picture_below_the_kept_rows(painter, pictures, tmp_path):
    begun = pictures / "tile_05.png"
    finished = draw_with_painter(painter, tmp_path / "f.png", "--complete", begun, "--rows", 7)
    small = imaging.fit_picture(imaging.open_picture(begun), 16, 12, gray=False)
    palette = model_meta.load_meta(painter)["palette"]
    quantized = palettes.from_palette(palettes.to_palette(small[None], palette), palette, 12, 16)[0]
    for picture in finished:
        np.testing.assert_array_equal(picture[:7], quantized[:7])
    assert len(np.unique(finished[:, 7:], axis=0)) == 6


def test_a_drawing_can_start_with_a_window_of_the_training_pictures(painter, tmp_path):
    windows = np.asarray(Image.open(painter / "starts.png")).tolist()
    assert all(
        row.tolist() in windows for row in draw_with_painter(painter, tmp_path / "s.png", "--start", "window")[:, 0]
    )


def test_the_evolution_shows_every_saved_epoch(painter, tmp_path):
    run("generate_rnn.py", painter, "--evolution", "--output", tmp_path / "e.png")
    sample = Image.open(painter / "samples" / "epoch_0001.png")
    assert Image.open(tmp_path / "e.png").size == (sample.width, 3 * (sample.height + 20))
    assert Image.open(tmp_path / "e.gif").n_frames == 3


@pytest.mark.slow
def test_no_picture_of_the_shipped_painter_is_mostly_one_colour(tmp_path):
    run("generate_rnn.py", "trained/monet", "--count", 6, "--output", tmp_path / "m.png")
    sheet = np.asarray(Image.open(tmp_path / "m.png"))
    cell = (sheet.shape[1] - 1) // 3
    for i in range(6):
        picture = sheet[i // 3 * cell :, i % 3 * cell :][:cell, :cell].reshape(-1, 3)
        _, counts = np.unique(picture, axis=0, return_counts=True)
        assert counts.max() < 0.5 * counts.sum()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--digit", 0), "--digit is for digits"),
        (("--grid", 3), "--grid is for digits"),
        (("--count", 0), "--count must be"),
        (("--top-p", 0), "--top-p must be"),
        (("--complete", "nowhere.png"), "nowhere.png can't be read"),
        (("--start", "window", "--complete", "x.png"), "cannot be combined"),
    ],
)
def test_wrong_flags_for_a_painter_are_refused(painter, tmp_path, flags, complaint):
    assert complaint in draw_with_painter(painter, tmp_path / "x.png", *flags, status=2).stderr


def damage_by_truncating_model(folder):
    (folder / "model.keras").write_bytes((folder / "model.keras").read_bytes()[:3000])
    return "model.keras can't be loaded"


def damage_by_removing_model(folder):
    (folder / "model.keras").unlink()
    return "model.keras is missing"


def damage_by_invalid_color(folder):
    (folder / "meta.json").write_text((folder / "meta.json").read_text().replace('"palette": "', '"palette": "zz '))
    return "meta.json is damaged"


def damage_by_additional_color(folder):
    (folder / "meta.json").write_text((folder / "meta.json").read_text().replace('"palette": "', '"palette": "112233 '))
    return "is not the network that meta.json describes"


@pytest.mark.parametrize("damage", [value for name, value in sorted(globals().items()) if name.startswith("damage_")])
def test_a_damaged_painter_is_reported_in_one_line(painter, tmp_path, damage):
    import shutil

    folder = shutil.copytree(painter, tmp_path / "damaged")
    assert damage(folder) in draw_with_painter(folder, tmp_path / "x.png", status=2).stderr
    assert not (tmp_path / "x.png").exists()
