"""benchmarks/compare_pictures.py: the figures by which paintings are judged tell what they say they tell."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import scipy.ndimage as ndimage
from conftest import ROOT
from skimage.color import lab2rgb, rgb2lab

import imaging

sys.path.insert(0, str(ROOT / "benchmarks"))
import compare_pictures as compare


@pytest.fixture(scope="module")
def picture():
    picture = imaging.load_image(ROOT / "images/content/china.jpg")
    return imaging.resize_picture(picture, 96, 72)


def blurred(picture, sigma):
    return ndimage.gaussian_filter(picture, (sigma, sigma, 0))


def noisy(picture, amount):
    return np.clip(picture + amount * np.random.default_rng(0).normal(size=picture.shape), 0, 255).astype("float32")


def turned(picture, degrees):
    """Turn all hues by an angle in CIELAB."""
    lab, angle = rgb2lab(picture / 255), np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (255 * lab2rgb(np.concatenate([lab[..., :1], lab[..., 1:] @ turn.T], 2))).astype("float32")


def test_a_picture_is_at_no_distance_from_itself(picture):
    figures = compare.judge(picture, picture, picture)
    assert all(figures[name] == 0 for name in ("colour", "fine", "middle", "coarse"))
    assert figures["structure"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "amounts", "names"),
    [
        (blurred, (1, 2, 4), ("fine", "middle")),
        (noisy, (8, 16, 32), ("fine", "colour")),
        (turned, (20, 60, 120), ("colour",)),
    ],
)
def test_distances_grow_with_the_change(change, amounts, names, picture):
    judged = [compare.judge(picture, picture, change(picture, amount)) for amount in amounts]
    for name in names:
        values = [figures[name] for figures in judged]
        assert 0 < values[0] < values[1] < values[2], name


def test_strokes_do_not_count_as_colour_nor_colours_as_strokes(picture):
    mixed = np.random.default_rng(0).permutation(picture.reshape(-1, 3)).reshape(picture.shape)
    assert compare.judge(picture, picture, mixed)["colour"] == pytest.approx(0, abs=1e-6)
    assert compare.judge(picture, picture, mixed)["fine"] > 1
    darker = lab2rgb(rgb2lab(picture / 255) - [10, 0, 0]) * 255
    moved = compare.judge(picture, picture, darker.astype("float32"))
    assert moved["colour"] > 2 * moved["coarse"]


def test_structure_is_lost_step_by_step_and_with_it_goes_no_colour(picture):
    values = [compare.structure(picture, noisy(picture, amount)) for amount in (10, 60, 200)]
    assert 1 > values[0] > values[1] > values[2]
    assert compare.structure(picture, picture[:, ::-1]) < 0.5
    assert compare.structure(picture, turned(picture, 90)) > 0.95


def test_grey_has_no_chroma_and_noise_ripples(picture):
    assert compare.chroma(imaging.luminance(picture)) < 0.1 < compare.chroma(picture)
    assert compare.ripples(blurred(picture, 2)) < compare.ripples(picture) < compare.ripples(noisy(picture, 30))


@pytest.mark.slow
def test_pictures_are_painted_judged_and_laid_out(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("china", "flower"):
        photo = imaging.load_image(ROOT / f"images/content/{name}.jpg")
        imaging.save_png(tmp_path / f"photos/{name}.png", imaging.to_pixels(imaging.resize_picture(photo, 96, 64)), {})
    few = "--iterations 2 --content-layers block1_conv2 --style-layers block1_conv1 --precision float32"
    command = [sys.executable, ROOT / "benchmarks/compare_pictures.py", "--photos", tmp_path / "photos"]
    command += ["--paintings", ROOT / "images/style/glands.jpg", "--size", 64, "--output", tmp_path / "out"]
    command += ["--variants", f"today={few}", f"calm:5={few} --content-weight 5", f"calm:9={few} --content-weight 9"]
    printed = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    with open(tmp_path / "out/figures.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["variant"] for row in rows] == ["today", "today", "calm:5", "calm:5", "calm:9", "calm:9"]
    assert {row["photo"] for row in rows} == {"china.png", "flower.png"}
    assert float(rows[2]["structure"]) > float(rows[0]["structure"])
    assert "| today | " in printed and "(1.00x, 1.00x)" in printed
    assert imaging.load_image(tmp_path / "out/sheet.png").shape[0] == 2 * (256 + 8)
    assert imaging.load_image(tmp_path / "out/curves.png").shape[1] > 400
