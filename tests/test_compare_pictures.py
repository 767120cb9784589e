"""benchmarks/compare_pictures.py and blind_sheets.py: the figures, the blind sheets, and the counts of answers."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import scipy.ndimage as ndimage
from conftest import ROOT
from skimage.color import lab2rgb, rgb2lab

from atelier import imaging
from atelier.errors import InputError

sys.path.insert(0, str(ROOT / "benchmarks"))
import blind_sheets
import compare_pictures as compare

# --- The figures -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def picture():
    picture = imaging.load_image(ROOT / "images/content/china.jpg")
    return imaging.resize_picture(picture, 192, 128)


@pytest.fixture(scope="module")
def painting():
    painting = imaging.load_image(ROOT / "images/style/starry_night.jpg")
    return imaging.resize_picture(painting, 192, 152)


def blurred(picture, sigma):
    return ndimage.gaussian_filter(picture, (sigma, sigma, 0))


def noisy(picture, amount):
    return np.clip(picture + amount * np.random.default_rng(0).normal(size=picture.shape), 0, 255).astype("float32")


def with_rotated_hues(picture, degrees):
    """Rotate all hues by an angle in CIELAB."""
    lab, angle = rgb2lab(picture / 255), np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (255 * lab2rgb(np.concatenate([lab[..., :1], lab[..., 1:] @ turn.T], 2))).astype("float32")


def embossed(picture, distance):
    """Make a relief of a picture: subtract a copy that is shifted to the right and down, and add 128."""
    moved = np.roll(picture, (distance, distance), (0, 1))
    return np.clip(128 + picture - moved, 0, 255).astype("float32")


def melted(picture, distance):
    """Shift a picture's pixels by sine waves."""
    down, across = np.mgrid[: picture.shape[0], : picture.shape[1]].astype("float32")
    places = down + distance * np.sin(across / 3), across + distance * np.sin(down / 3)
    channels = [
        ndimage.map_coordinates(channel, places, order=1, mode="nearest") for channel in picture.transpose(2, 0, 1)
    ]
    return np.stack(channels, 2)


@pytest.mark.parametrize(("change", "amounts"), [(blurred, (1, 2, 4)), (noisy, (10, 40, 120)), (melted, (1, 2, 4))])
def test_stronger_changes_lose_more_edges(change, amounts, picture):
    values = [compare.edges(picture, change(picture, amount)) for amount in amounts]
    assert 0.98 > values[0] > values[1] > values[2]


@pytest.mark.parametrize("distance", [1, 2, 4])
def test_a_relief_loses_many_edges(distance, picture):
    assert compare.edges(picture, embossed(picture, distance)) < 0.7


def test_edges_do_not_depend_on_contrast_or_colours(picture):
    assert compare.edges(picture, picture) == pytest.approx(1)
    assert compare.edges(picture, 255 - picture) > 0.9
    assert compare.edges(picture, 100 + 0.3 * picture) > 0.9
    assert compare.edges(picture, with_rotated_hues(picture, 90)) > 0.9


def test_edges_of_an_unrelated_picture_score_about_zero(picture, painting):
    assert abs(compare.edges(picture, imaging.resize_picture(painting, 192, 128))) < 0.15
    assert compare.edges(picture, np.full_like(picture, 128)) == pytest.approx(0)


def test_an_edge_between_colours_of_the_same_lightness_counts():
    lab = np.full((32, 32, 3), (60.0, 0, 0))
    lab[:, 16:, 1], lab[:, :16, 1] = 30, -30
    edge = (255 * lab2rgb(lab)).astype("float32")
    grey = np.repeat(np.linspace(0, 255, 32, dtype="float32")[:, None, None], 32, 1).repeat(3, 2)
    assert compare.edges(edge, edge) == pytest.approx(1)
    assert compare.edges(edge, grey) < -0.9  # its gradient is perpendicular to the edge's


def test_the_style_figure_is_one_for_the_photo_and_falls_towards_the_painting(picture, painting):
    resized_painting = imaging.resize_picture(painting, 192, 128)
    mixed = [
        compare.figures_of(picture, resized_painting, (1 - part) * picture + part * resized_painting)
        for part in (0, 0.5, 1)
    ]
    assert mixed[0]["style"] == pytest.approx(1)
    assert 1 > mixed[1]["style"] > mixed[2]["style"]
    assert mixed[2]["style"] == pytest.approx(0, abs=1e-6)
    assert mixed[0]["edges"] > mixed[1]["edges"] > mixed[2]["edges"]


def test_the_style_figure_does_not_depend_on_where_strokes_are(picture, painting):
    figures = compare.figures_of(picture, painting, np.ascontiguousarray(painting[:, ::-1]))
    assert figures["style"] < 0.3


# --- Variants ----------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """Write two photos and a painting, and results for both pairs, whose names have three forms."""
    for name, grey in {
        "one.png": 10,
        "two.png": 20,
        "art.png": 30,
        "found/one_art.png": 40,
        "found/two__art.jpg": 50,
        "old/3-one-art.png": 60,
        "old/3-two-art.png": 70,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        imaging.save_picture(tmp_path / name, np.full((30, 40, 3), grey, "uint8"), {})
    return tmp_path


def test_existing_pictures_can_be_a_variant(files):
    variants = compare.read_variants([f"a=files:{files}/found", f"b=files:{files}/old/3-{{photo}}-{{painting}}.png"])
    for name, greys in {"a": (40, 50), "b": (60, 70)}.items():
        for photo, grey in zip(("one.png", "two.png"), greys):
            result = compare.make(files / photo, files / "art.png", name, variants[name], 20, files / "out")
            made = imaging.load_image(result)
            assert made.shape == (15, 20, 3) and abs(made - grey).max() <= 2


def test_a_missing_picture_is_named(files):
    (files / "found/two__art.jpg").unlink()
    with pytest.raises(InputError, match=r"two_art of two\.png after art\.png"):
        compare.existing(files / "two.png", files / "art.png", f"files:{files}/found")


def test_flags_may_contain_equals_signs_and_spaces():
    assert compare.read_variants(["a=", "b=--learned wave=0.5 --size 9"]) == {
        "a": [],
        "b": ["--learned", "wave=0.5", "--size", "9"],
    }


# --- Blind sheets ------------------------------------------------------------------------------

VARIANTS = {"first": 60, "second": 120, "third": 180}


@pytest.fixture
def sheets_and_key(tmp_path):
    """Make the blind sheets of eight pairs: (folder, key). Each picture has its own grey level."""
    imaging.save_png(tmp_path / "art.png", np.full((40, 40, 3), 250, "uint8"), {})
    pairs = []
    for i in range(8):
        pictures = {variant: tmp_path / f"{variant}{i}.png" for variant in VARIANTS}
        for variant, grey in VARIANTS.items():
            imaging.save_png(pictures[variant], np.full((40, 40, 3), grey + i, "uint8"), {})
        imaging.save_png(tmp_path / f"photo{i}.png", np.full((40, 40, 3), 10 * i, "uint8"), {})
        pairs.append((tmp_path / f"photo{i}.png", tmp_path / "art.png", pictures))
    (tmp_path / "blind").mkdir()
    # A sheet that an earlier, longer comparison has left.
    imaging.save_png(tmp_path / "blind/12.png", np.zeros((9, 9, 3), "uint8"), {})
    blind_sheets.make_sheets(pairs, tmp_path / "blind", tmp_path / "key.json", seed=3)
    second_key = tmp_path / "again.json"
    blind_sheets.make_sheets(pairs, tmp_path / "blind", second_key, seed=3)
    assert second_key.read_text() == (tmp_path / "key.json").read_text()
    blind_sheets.make_sheets(pairs, tmp_path / "other", second_key, seed=4)
    assert second_key.read_text() != (tmp_path / "key.json").read_text()
    return tmp_path / "blind", json.loads((tmp_path / "key.json").read_text())


def test_sheets_are_shuffled_and_the_key_is_right(sheets_and_key):
    folder, key = sheets_and_key
    assert [file.name for file in sorted(folder.iterdir())] == [f"{i:02}.png" for i in range(1, 9)]
    photos = [sheet["photo"] for sheet in key["sheets"].values()]
    assert sorted(photos) == [f"photo{i}.png" for i in range(8)] != photos
    assert len({tuple(sheet["letters"].values()) for sheet in key["sheets"].values()}) > 2
    for number, sheet in key["sheets"].items():
        pixels = imaging.load_image(folder / f"{number}.png")
        pair = int(sheet["photo"][5])
        top, title = blind_sheets.HEIGHT_ON_TOP, blind_sheets.LINE_HEIGHT
        assert (pixels[title + 100, 100] == 10 * pair).all()
        assert (pixels[title + 100, top + blind_sheets.GAP + 100] == 250).all()
        places = {"A": (0, 0), "B": (0, 1), "C": (1, 0)}
        for letter, (row, column) in places.items():
            down = title + top + row * (title + blind_sheets.HEIGHT) + title + 100
            across = column * (blind_sheets.HEIGHT + blind_sheets.GAP) + 100
            assert (pixels[down, across] == VARIANTS[sheet["letters"][letter]] + pair).all()


def test_letters_differ_and_no_sheet_names_its_variants(sheets_and_key):
    folder, _ = sheets_and_key
    pixels = imaging.load_image(folder / "01.png")
    start = blind_sheets.LINE_HEIGHT + blind_sheets.HEIGHT_ON_TOP
    one, other = pixels[start : start + 30, :30], pixels[start : start + 30, 392:422]
    assert one.min() < 100 and other.min() < 100 and (one != other).any()
    assert imaging.read_about(folder / "01.png") == {}
    assert all(name.encode() not in (folder / "01.png").read_bytes() for name in ("photo", *VARIANTS))


KEY = {
    "sheets": {
        "01": {"photo": "p.png", "painting": "a.png", "letters": {"A": "new", "B": "old"}},
        "02": {"photo": "q.png", "painting": "a.png", "letters": {"A": "old", "B": "new"}},
        "03": {"photo": "r.png", "painting": "a.png", "letters": {"A": "new", "B": "old"}},
    }
}


def test_answers_may_be_written_in_several_ways():
    text = "My ranking, best first:\n01: A B\n- 2: b, a\n 03: B > A  \n"
    assert blind_sheets.read_answers(KEY, text) == {"01": ["new", "old"], "02": ["new", "old"], "03": ["old", "new"]}


@pytest.mark.parametrize("text", ["01: A", "01: A A", "01: A C", "04: A B", "1: A B\n01: B A", "nothing", "01: AB"])
def test_wrong_answers_are_refused(text):
    with pytest.raises(InputError):
        blind_sheets.read_answers(KEY, text)


def test_first_places_and_mean_ranks_of_all_readers_are_counted():
    ann = blind_sheets.read_answers(KEY, "01: A B\n02: B A\n03: B A")
    ben = blind_sheets.read_answers(KEY, "01: A B\n02: A B")
    assert blind_sheets.tally([ann, ben]) == {"new": (5, 3, 1.4), "old": (5, 2, 1.6)}
    assert blind_sheets.agreement(ann, ben) == (1, 2)


def test_figures_are_compared_where_readers_agree():
    ann = blind_sheets.read_answers(KEY, "01: A B\n02: B A\n03: B A")
    ben = blind_sheets.read_answers(KEY, "01: A B\n02: B A\n03: A B")
    rows = [
        {"photo": photo, "painting": "a.png", "variant": variant, "edges": edges, "style": style}
        for photo, variant, edges, style in (
            ("p.png", "new", 0.5, 0.3),
            ("p.png", "old", 0.4, 0.4),
            ("q.png", "new", 0.5, 0.5),
            ("q.png", "old", 0.4, 0.4),
            ("r.png", "new", 0.1, 0.9),
            ("r.png", "old", 0.2, 0.8),
        )
    ]
    counts = blind_sheets.figures_agreement(KEY, [ann, ben], rows, compare.FIGURES)
    assert counts == {"edges": (2, 2), "style": (1, 2)}


# --- The commands ------------------------------------------------------------------------------


def run(script, *words):
    command = [sys.executable, ROOT / "benchmarks" / script, *words]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
def test_the_commands_make_and_measure_pictures_and_count_answers(tmp_path):
    for folder in ("photos", "found"):
        (tmp_path / folder).mkdir()
    for name in ("china", "flower"):
        photo = imaging.load_image(ROOT / f"images/content/{name}.jpg")
        pixels = imaging.to_pixels(imaging.resize_picture(photo, 96, 64))
        imaging.save_png(tmp_path / f"photos/{name}.png", pixels, {})
        imaging.save_png(tmp_path / f"found/{name}_glands.png", pixels, {})  # the unchanged photo
    few = "--iterations 2 --content-layers block1_conv2 --style-layers block1_conv1"
    words = ["--photos", tmp_path / "photos", "--paintings", ROOT / "images/style/glands.jpg", "--size", 64]
    words += ["--output", tmp_path / "out", "--variants", f"today={few}", f"found=files:{tmp_path / 'found'}"]
    compared = run("compare_pictures.py", *words)
    assert compared.returncode == 0, compared.stderr
    with open(tmp_path / "out/figures.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["variant"] for row in rows] == ["today", "today", "found", "found"]
    assert {row["photo"] for row in rows} == {"china.png", "flower.png"}
    assert all(float(row["style"]) == pytest.approx(1, abs=0.02) for row in rows[2:])
    assert all(float(row["edges"]) > 0.98 for row in rows[2:])
    assert "| today | " in compared.stdout and "(1.00x, 1.00x)" in compared.stdout
    assert imaging.load_image(tmp_path / "out/sheet.png").shape[0] == 2 * (256 + 8)
    assert len([*(tmp_path / "out/blind").iterdir()]) == 2

    key = json.loads((tmp_path / "out/blind_key.json").read_text())
    letters = {number: {v: k for k, v in sheet["letters"].items()} for number, sheet in key["sheets"].items()}
    answers = "".join(f"{number}: {own['today']} {own['found']}\n" for number, own in letters.items())
    (tmp_path / "ann.txt").write_text(answers)
    words = [tmp_path / "out/blind_key.json", tmp_path / "ann.txt", "--figures", tmp_path / "out/figures.csv"]
    counted = run("blind_sheets.py", *words)
    assert "| today | 2 of 2 | 1.00 |\n| found | 0 of 2 | 2.00 |" in counted.stdout, counted.stderr
    assert "edges orders 0 of 2" in counted.stdout
    (tmp_path / "ann.txt").write_text("01: A")
    refused = run("blind_sheets.py", *words)
    assert refused.returncode == 2 and "does not name each" in refused.stderr
