"""previews.py, tested through style_transfer.py --preview."""

import pytest
from conftest import ROOT, pixels, results, run

import config
from atelier import imaging
from atelier.style import input_pictures, previews

STYLE = ("--style", ROOT / "images/style/wave.jpg", "--precision", "float32")
LAYERS = ("--content-layers", "block1_conv2", "--style-layers", "block1_conv1")


@pytest.mark.usefixtures("cache_vgg")
def test_a_preview_shows_what_its_flags_make(photo, tmp_path, monkeypatch):
    monkeypatch.setattr(previews, "SIDE", 128)
    monkeypatch.setattr(previews, "ITERATIONS", (2,))
    monkeypatch.setattr("conftest.ROOT", tmp_path)
    command = ("style_transfer.py", photo, *STYLE, *LAYERS)
    printed = results(run(*command, "--gif", "--preview").stdout)
    assert printed == {"preview": "generated/china__wave__preview.png"}
    assert [path.name for path in (tmp_path / "generated").iterdir()] == ["china__wave__preview.png"]
    sheet = pixels(tmp_path / "generated/china__wave__preview.png")
    scale = sheet.shape[1] // (3 * 128)  # a small sheet is enlarged
    sheet = sheet[::scale, ::scale]
    labels = [label for label, _ in previews.variants_of(config.Style())]
    assert labels[0] == "as given"
    for number in (1, 3, 5):  # one of each kind
        label = labels[number]
        made = tmp_path / f"{number}.png"
        run(*command, "--size", 128, "--iterations", 2, *label.split(), "--output", made)
        top, left = 1 + 20 + number // 3 * (96 + 20 + 1), 1 + number % 3 * (128 + 1)
        assert (sheet[top : top + 96, left : left + 128] == pixels(made)).all(), label
    assert "exists already" in run(*command, "--gif", "--preview", status=2).stderr


def test_the_variants_are_six_and_differ_from_what_was_given():
    for kind, others in (("luminance", ["without --keep-colors", "--keep-colors histogram"]), (None, None)):
        options = config.Style(keep_colors=kind, content_weight=3.0, style_scale=0.5, size=100)
        variants = dict(previews.variants_of(options))
        assert len(variants) == 6 and len({*variants.values()}) == 6
        assert {"--content-weight 0.75", "--content-weight 12", "--style-scale 1", *(others or ())} <= {*variants}
        assert {small.size for small in variants.values()} == {100}
    wide = previews.variants_of(config.Style(size=512), input_pictures.least_size(9000, 1000))
    assert {small.size for _, small in wide} == {288}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--learned", "wave"), "--preview cannot be combined with --learned"),
        (("--layer", "block1_conv1"), "--preview cannot be combined with --layer"),
        ((*STYLE, "--each"), "--preview shows variants of one picture; give one photo, and no --each"),
    ],
)
def test_a_preview_without_a_search_or_of_many_pictures_is_refused(flags, message, photo):
    assert message in run("style_transfer.py", photo, "--preview", *flags, status=2).stderr
    assert "one photo" in run("style_transfer.py", photo.parent, "--preview", *STYLE, status=2).stderr


def test_a_preview_of_a_photo_that_cannot_be_read_fails_in_one_line(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no photo")
    error = run("style_transfer.py", tmp_path / "a.jpg", "--preview", *STYLE, status=2).stderr
    assert f"{tmp_path}/a.jpg is not a picture that can be read" in error
    assert imaging.find_pictures(tmp_path) == [tmp_path / "a.jpg"]
