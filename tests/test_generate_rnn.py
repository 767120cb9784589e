"""generate_rnn.py through the real command line: sheets, completion, animation, and bad input."""

import numpy as np
import pytest
from conftest import run, run_process
from PIL import Image

import util

CELL = 9 * 8  # a picture of 8 x 8 and a line, each pixel enlarged 8 times


def cells(path, columns):
    """Cut a contact sheet into its pictures: uint8 N x 8 x 8."""
    sheet = np.asarray(Image.open(path))[::8, ::8]
    rows, wide = (sheet.shape[0] - 1) // 9, (sheet.shape[1] - 1) // 9
    assert wide == columns
    return np.array([sheet[1 + 9 * r : 9 + 9 * r, 1 + 9 * c : 9 + 9 * c] for r in range(rows) for c in range(columns)])


def test_a_grid_tells_how_it_was_made_and_one_seed_draws_it_again(tiny, tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        result = run_process(
            "generate_rnn.py", tiny, "--digit", 3, "--grid", 4, "--seed", seed, "--output", tmp_path / f"{name}.png"
        )
        assert result.stdout == f"picture: {tmp_path / f'{name}.png'}\n"
    a, b, c = (cells(tmp_path / f"{name}.png", 4) for name in "abc")
    assert len(a) == 16 and len(np.unique(a, axis=0)) > 8
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    text = Image.open(tmp_path / "a.png").text
    assert "--digit 3" in text["command"] and text["seed"] == "5" and "tensorflow" in text["versions"]


def test_all_digits_have_a_row_each_and_the_gif_ends_on_the_sheet(tiny, tmp_path):
    run("generate_rnn.py", tiny, "--all-digits", "--grid", 3, "--gif", "--output", tmp_path / "all.png")
    assert len(cells(tmp_path / "all.png", 3)) == 30
    with Image.open(tmp_path / "all.gif") as animation:
        assert animation.n_frames > 30
        animation.seek(animation.n_frames - 1)
        last = np.asarray(animation.convert("L"), int)
    assert np.abs(last - np.asarray(Image.open(tmp_path / "all.png"), int)).max() <= 2


def test_completion_keeps_the_rows_it_was_given(tiny, picture, digits, tmp_path):
    run(
        "generate_rnn.py",
        tiny,
        "--digit",
        0,
        "--complete",
        picture,
        "--rows",
        5,
        "--grid",
        4,
        "--output",
        tmp_path / "c.png",
    )
    drawn = cells(tmp_path / "c.png", 4)
    given = util.from_levels(util.to_levels(digits[2][0], 7), 7)
    for one in drawn:
        np.testing.assert_array_equal(one[:5], given[:5])
    assert len(np.unique(drawn[:, 5:], axis=0)) > 4


def test_temperature_zero_draws_one_picture_only(tiny, tmp_path):
    run("generate_rnn.py", tiny, "--digit", 1, "--temperature", 0, "--grid", 3, "--output", tmp_path / "zero.png")
    assert len(np.unique(cells(tmp_path / "zero.png", 3), axis=0)) == 1
    run("generate_rnn.py", tiny, "--digit", 1, "--top-k", 1, "--grid", 3, "--output", tmp_path / "top.png")
    assert (tmp_path / "zero.png").read_bytes()[-100:] == (tmp_path / "top.png").read_bytes()[-100:]


def test_a_result_is_not_overwritten_unasked(tiny, tmp_path):
    (tmp_path / "mine.png").write_text("precious")
    flags = (tiny, "--digit", 3, "--output", tmp_path / "mine.png")
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
        (("--digit", 12), "model_12.keras is missing"),
        (("--digit", 3, "--complete", "absent.png"), "absent.png"),
        (("--digit", 3, "--complete", "README.md"), "README.md is not a picture"),
    ],
)
def test_bad_flags_are_one_line(tiny, tmp_path, flags, complaint):
    result = run("generate_rnn.py", tiny, *flags, "--output", tmp_path / "no.png", status=2)
    assert complaint in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_rows_beyond_the_picture_are_refused(tiny, picture, tmp_path):
    flags = ("--digit", 3, "--complete", picture, "--rows", 9, "--output", tmp_path / "no.png")
    assert "--rows" in run("generate_rnn.py", tiny, *flags, status=2).stderr
