"""--mask and --regions of style_transfer.py: parts of a photo, painted by search or in learned styles."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import ROOT, pixels, results, rows_of, run
from PIL import Image

import config
from atelier import imaging
from atelier.style import optimization, region_search, regions
from atelier.style.transfer import release_models

PAINTING, OTHER = ROOT / "images/style/glands.jpg", ROOT / "images/style/gravel.jpg"
FEW_LAYERS = ("--content-layers", "block2_conv2", "--style-layers", "block1_conv1", "block2_conv1")  # quickly traced
QUICK = ("--precision", "float32", "--size", 96, "--iterations", 2, *FEW_LAYERS)
SEARCH = (*QUICK, "--style", PAINTING)
LEARNED = ("--size", 96, "--precision", "float32", "--learned", "wave")
WIDTH, HEIGHT = 96, 72  # of a result; the photo has 128 x 96

pytestmark = pytest.mark.usefixtures("cache_vgg")


def draw(path, left, right, size=(128, 96), **options):
    """Write a picture whose left half has one colour, and whose right half has another."""
    picture = Image.new("RGB", size, right)
    picture.paste(left, (0, 0, size[0] // 2, size[1]))
    picture.save(path, **options)
    return path


@pytest.fixture
def mask(tmp_path):
    """A mask with which the left half is painted."""
    return draw(tmp_path / "mask.png", "white", "black")


@pytest.fixture
def tinted(tmp_path):
    """A reddish painting and a bluish one."""
    paths = []
    for name, tint in (("red", (1, 0.4, 0.2)), ("blue", (0.2, 0.4, 1))):
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray((pixels(PAINTING) * tint).astype("uint8")).save(paths[-1])
    return paths


def paint(photo, result, *flags, status=0):
    return run("style_transfer.py", photo, *flags, "--output", result, status=status)


def small(photo):
    """Return the photo at the size of the result."""
    return imaging.resize_picture(pixels(photo), WIDTH, HEIGHT)


# --- Masks ---


@pytest.mark.parametrize("flags", [SEARCH, LEARNED, (*SEARCH, "--keep-colors", "luminance")])
def test_white_is_painted_and_black_stays_the_photo(flags, photo, mask, tmp_path):
    paint(photo, tmp_path / "a.png", *flags, "--mask", mask)
    change = np.abs(pixels(tmp_path / "a.png") - small(photo)).mean(2)
    assert change[:, WIDTH // 2 + 6 :].max() <= 0.5
    assert change[:, : WIDTH // 2 - 4].mean() > 5


def test_grey_mixes_the_picture_and_the_photo(photo, tmp_path):
    grey = draw(tmp_path / "grey.jpg", (128,) * 3, "white", quality=80)
    paint(photo, tmp_path / "a.png", *LEARNED, "--mask", grey)
    paint(photo, tmp_path / "whole.png", *LEARNED)
    mixed, whole = pixels(tmp_path / "a.png"), pixels(tmp_path / "whole.png")
    left, right = np.s_[:, : WIDTH // 2 - 6], np.s_[:, WIDTH // 2 + 6 :]
    np.testing.assert_allclose(mixed[left], (whole / 2 + small(photo) / 2)[left], atol=3)
    np.testing.assert_allclose(mixed[right], whole[right], atol=1)


@pytest.mark.slow
def test_a_white_mask_changes_nothing_of_a_search(photo, tmp_path):
    white = draw(tmp_path / "white.png", "white", "white")
    options = config.Style(size=96, style=(str(PAINTING),), iterations=(2,), quiet=True, precision="float32")
    picture, found = pixels(photo), []
    for mask in (None, str(white)):
        own = dataclasses.replace(options, mask=mask)
        areas = regions.read_regions(photo, picture, own)
        model = optimization.StyleModel(own)
        search = (
            region_search.RegionSearch(model, picture, None, own, areas)
            if areas
            else optimization.Search(model, picture, None, own)
        )
        search.run()
        found.append((search.history[-1]["total"], search.finished().astype(float)))
    (one, picture), (other, masked) = found
    assert one == pytest.approx(other, rel=1e-3)
    assert np.abs(picture - masked).mean() < 1


def test_a_mask_of_another_size_is_scaled_with_a_note(photo, tmp_path):
    larger = draw(tmp_path / "larger.png", "white", "black", (257, 192))
    printed = paint(photo, tmp_path / "a.png", *LEARNED, "--mask", larger)
    assert f"note: {larger} is scaled from 257 x 192 to the photo's 128 x 96 pixels" in printed.stderr
    assert np.abs(pixels(tmp_path / "a.png") - small(photo))[:, WIDTH // 2 + 6 :].max() <= 0.5
    assert paint(photo, tmp_path / "b.png", *LEARNED, "--mask", larger, "--quiet").stderr == ""


def test_a_mask_is_turned_like_its_photo(photo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.open(photo).save(tmp_path / "turned.jpg", exif=exif)
    upright = draw(tmp_path / "upright.png", "white", "black", (96, 128))
    paint(tmp_path / "turned.jpg", tmp_path / "a.png", *LEARNED, "--mask", upright)
    turned = imaging.resize_picture(imaging.load_image(tmp_path / "turned.jpg"), HEIGHT, WIDTH)
    assert np.abs(pixels(tmp_path / "a.png") - turned)[:, HEIGHT // 2 + 6 :].max() <= 0.5


# --- Maps ---


@pytest.mark.parametrize("kind", ["map", "JPEG map", "auto"])
def test_each_region_takes_the_colours_of_its_painting(kind, photo, tinted, tmp_path):
    if kind == "auto":
        photo = draw(tmp_path / "halves.png", (40, 60, 40), (200, 190, 180))
        Image.open(photo).rotate(-90, expand=True).resize((128, 96)).save(photo)  # the dark half is above
        given = "auto"
    else:
        options = {"quality": 60} if "JPEG" in kind else {}
        given = draw(tmp_path / ("map.jpg" if options else "map.png"), (40, 60, 40), (200, 190, 180), **options)
    flags = (*QUICK, "--iterations", 8, "--regions", given, "--style", *tinted)
    printed = paint(photo, tmp_path / "a.png", *flags)
    picture = pixels(tmp_path / "a.png")
    redness = picture[..., 0] - picture[..., 2]
    first, second = np.array_split(redness, 2, axis=0 if kind == "auto" else 1)
    assert first.mean() > 20 and second.mean() < -20
    text = results(printed.stdout)["regions"]
    names = ("part 1", "part 2") if kind == "auto" else ("#283c28", "#c8beb4")
    assert text.startswith(names[0]) if kind != "JPEG map" else text.count("#") == 2
    assert "(50 %) red.png" in text and "(50 %) blue.png" in text
    assert f": {text}" in printed.stderr


def test_learned_styles_take_a_region_each(photo, tmp_path):
    halves = draw(tmp_path / "map.png", "black", "white")
    more = (*LEARNED, "scream", "--regions", halves)
    assert "#000000 (50 %) wave, #ffffff (50 %) scream" in paint(photo, tmp_path / "a.png", *more).stdout
    for name in ("wave", "scream"):
        paint(photo, tmp_path / f"{name}.png", *LEARNED[:-1], name)
    both, wave, scream = (pixels(tmp_path / f"{name}.png") for name in ("a", "wave", "scream"))
    left, right = np.s_[:, : WIDTH // 2 - 4], np.s_[:, WIDTH // 2 + 6 :]
    assert np.abs(both[left] - wave[left]).max() <= 1 and np.abs(both[right] - scream[right]).max() <= 1
    cut = np.where(np.arange(WIDTH)[:, None] < WIDTH // 2, wave, scream)
    soft_step, hard_step = (np.abs(np.diff(x, axis=1)).mean(axis=(0, 2))[WIDTH // 2 - 1] for x in (both, cut))
    assert soft_step < 0.9 * hard_step


def test_a_mask_limits_regions(photo, mask, tinted, tmp_path):
    halves = Image.new("RGB", (128, 96), "red")
    halves.paste("blue", (0, 0, 128, 48))
    halves.save(tmp_path / "map.png")
    paint(photo, tmp_path / "a.png", *QUICK, "--style", *tinted, "--mask", mask, "--regions", tmp_path / "map.png")
    change = np.abs(pixels(tmp_path / "a.png") - small(photo)).mean(2)
    assert change[:, WIDTH // 2 + 6 :].max() <= 0.5
    assert change[: HEIGHT // 2 - 4, : WIDTH // 2 - 4].mean() > 5


@pytest.mark.parametrize("quality", [30, 60, 90])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_the_noise_of_a_jpeg_makes_no_colours(quality, subsampling, tmp_path):
    colors = [(0, 0, 255), (255, 0, 0), (0, 160, 0), (255, 255, 0)]
    sheet = Image.new("RGB", (320, 240), colors[0])
    for color, box in zip(colors[1:], [(150, 0, 320, 90), (0, 130, 100, 240), (200, 150, 290, 240)]):
        sheet.paste(color, box)
    sheet.save(tmp_path / "map.jpg", quality=quality, subsampling=subsampling)
    found, labels = regions.find_colors(np.asarray(Image.open(tmp_path / "map.jpg")))
    assert np.abs(found - colors).max() < 16  # in this order, from dark to light
    expected = np.abs(np.asarray(sheet, int)[:, :, None] - colors).sum(3).argmin(2)
    assert np.mean(labels == expected) > 0.98


def test_a_smooth_border_of_two_colours_is_no_third_region(tmp_path):
    sheet = Image.new("RGB", (300, 200), "red")
    sheet.paste("blue", (0, 0, 150, 200))
    sheet.paste((128, 0, 128), (0, 150, 300, 200))
    smooth = np.asarray(sheet.resize((150, 100)).resize((300, 200), Image.Resampling.BICUBIC))
    _, labels = regions.find_colors(smooth)
    assert {*labels[:140].ravel()} == {0, 2}  # of blue, purple and red


# --- Folders ---


@pytest.fixture
def album(photo, tmp_path):
    """Three photos of two shapes, and a folder with masks for them."""
    album, masks = tmp_path / "album", tmp_path / "masks"
    for folder in (album, masks):
        folder.mkdir()
    for name, size in (("a", (128, 96)), ("b", (128, 96)), ("c", (80, 96))):
        Image.open(photo).resize(size).save(album / f"{name}.jpg")
        draw(masks / f"{name}.png", "white", "black", size)
    return album, masks


def test_a_folder_takes_the_mask_of_each_photos_name(album, loss_functions, tmp_path):
    release_models()
    photos, masks = album
    (masks / "b.png").rename(tmp_path / "kept.png")
    first = paint(photos, tmp_path / "out", *SEARCH, "--mask", masks, status=1)
    assert [function.traces for function in loss_functions] == [1]
    assert "b.png is missing" in first.stderr and "b.png is missing" in rows_of(tmp_path / "out")["b.jpg"]["reason"]
    (tmp_path / "kept.png").rename(masks / "b.png")
    second = paint(photos, tmp_path / "out", *SEARCH, "--mask", masks)
    assert "done before: 2" in second.stdout and second.stdout.count("picture: ") == 1
    draw(masks / "c.png", "black", "white", (80, 96))
    third = paint(photos, tmp_path / "out", *SEARCH, "--mask", masks)
    assert "c.png\n" in third.stdout and "done before: 2" in third.stdout
    assert "photos that changed since their pictures were made: 1" in third.stderr


def test_a_folder_with_another_mask_is_refused(album, mask, tmp_path):
    photos, masks = album
    (photos / "c.jpg").unlink()
    paint(photos, tmp_path / "out", *LEARNED, "--mask", mask)
    assert json.loads((tmp_path / "out/recipe.json").read_text())["mask"][0]["name"] == "mask.png"
    assert "done before: 2" in paint(photos, tmp_path / "out", *LEARNED, "--mask", mask).stdout
    for changed in (("--mask", masks), (), ("--mask", draw(mask, "black", "white"))):
        assert "--mask" in paint(photos, tmp_path / "out", *LEARNED, *changed, status=2).stderr


# --- Bad input ---


BAD = {
    "shape": ("the proportions must be the same", (100, 96), "RGB", "white"),
    "black": ("all black", (128, 96), "L", 0),
    "alpha": ("transparent pixels", (128, 96), "RGBA", (255, 255, 255, 128)),
    "colours": ("is in colours", (128, 96), "RGB", "red"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("flags", [SEARCH, LEARNED])
def test_a_wrong_mask_is_refused(case, flags, photo, tmp_path):
    message, size, mode, color = BAD[case]
    Image.new(mode, size, color).save(tmp_path / "bad.png")
    error = paint(photo, tmp_path / "a.png", *flags, "--mask", tmp_path / "bad.png", status=2).stderr
    assert message in error and "bad.png" in error
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("flag", ["--mask", "--regions"])
def test_a_file_that_is_no_picture_is_refused(flag, photo, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    flags = (*QUICK, "--style", PAINTING, OTHER, flag, tmp_path / "bad.png")
    assert "bad.png is not a picture" in paint(photo, tmp_path / "a.png", *flags, status=2).stderr


@pytest.mark.parametrize(
    ("colors", "message"),
    [
        (("red", "red"), "map.png has 1 colour (#ff0000 100 %) for 2 paintings; give one painting for each colour"),
        (
            ("red", "#f01000"),
            "has 1 colour (#f01000 100 %) for 2 paintings; give one painting for each colour; colours",
        ),
        (("red", "green", "blue"), "has 3 colours (#0000ff 33 %, #008000 34 %, #ff0000 32 %) for 2 paintings"),
    ],
)
def test_a_map_needs_as_many_colours_as_there_are_paintings(colors, message, photo, tmp_path):
    sheet = Image.new("RGB", (128, 96))
    for i, color in enumerate(colors):
        sheet.paste(color, (128 * i // len(colors), 0, 128 * (i + 1) // len(colors), 96))
    sheet.save(tmp_path / "map.png")
    flags = (*QUICK, "--style", PAINTING, OTHER, "--regions", tmp_path / "map.png")
    assert message in paint(photo, tmp_path / "a.png", *flags, status=2).stderr


def test_a_photo_is_no_map(photo, tmp_path):
    error = paint(photo, tmp_path / "a.png", *QUICK, "--style", PAINTING, OTHER, "--regions", photo, status=2).stderr
    assert "plain colours, without shades" in error


def test_a_region_smaller_than_vgg_sees_is_refused(photo, tmp_path):
    sheet = Image.new("RGB", (128, 96), "white")
    sheet.paste("black", (0, 0, 30, 30))
    sheet.save(tmp_path / "map.png")
    flags = (*QUICK, "--style", PAINTING, OTHER, "--regions", tmp_path / "map.png")
    error = paint(photo, tmp_path / "a.png", *flags, status=2).stderr
    assert "the region for glands.jpg has only" in error and "give a larger --size" in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--mask", "no-such.png", *SEARCH), "no-such.png does not exist"),
        (("--regions", "no-such.png", *SEARCH, OTHER), "no-such.png does not exist"),
        (("--mask", PAINTING, "--layer", "block1_conv1"), "--mask cannot be combined with --layer"),
        (("--mask", PAINTING, *SEARCH, "--published-losses"), "--mask cannot be combined with --published-losses"),
        (("--mask", PAINTING, "--learned", "wave", "--refine", 2), "--mask cannot be combined with --refine"),
        (("--regions", "auto", *SEARCH, OTHER, "--each"), "--regions gives each region its own"),
        (("--regions", "auto", *SEARCH, OTHER, "--style-weights", 1, 2), "weights mix them"),
        (("--regions", "auto", "--learned", "wave=2", "scream"), "weights mix them"),
        (("--regions", "auto", *SEARCH), "needs a painting or a style for each region"),
    ],
)
def test_wrong_combinations_are_refused(flags, message, photo, tmp_path):
    assert message in paint(photo, tmp_path / "a.png", *flags, status=2).stderr


def test_a_texture_has_no_mask(mask):
    flags = ("--style", PAINTING, "--mask", mask)
    assert "--mask cannot be combined with texture synthesis" in run("style_transfer.py", *flags, status=2).stderr


def test_neither_a_mask_nor_its_folder_is_replaced(album, photo, mask, tmp_path):
    before = mask.read_bytes()
    assert "mask.png" in paint(photo, mask, *LEARNED, "--mask", mask, "--overwrite", status=2).stderr
    photos, masks = album
    assert "where the masks are" in paint(photos, masks, *LEARNED, "--mask", masks, status=2).stderr
    assert mask.read_bytes() == before and len([*masks.iterdir()]) == 3
