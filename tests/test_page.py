"""page.py, tested through the scripts: the page of a folder, as it is written and as Chromium shows it."""

import html.parser
import itertools
import ntpath
import os
import pathlib
import re
import shutil
import urllib.parse

import numpy as np
import pytest
from browser import open_browser
from conftest import ROOT, pixels, run, wait_for
from PIL import Image

import config
from atelier import imaging
from atelier.batch import folders, page

FLAGS = ("--learned", "wave", "--size", 64, "--precision", "float32")
ODD_NAMES = (
    'a "quoted" <b>bold.jpg',
    "100% #1 ?x=1&y=2.jpg",
    "&lt; it's; $title {name}.jpg",
    "two\nlines\tand a \\ backslash.jpg",
    "写真 ☀ фото عکس.jpg",
    "mailto:somebody.jpg",
    os.fsdecode(b"caf\xe9 in Latin-1.jpg"),
)


class Document(html.parser.HTMLParser):
    """A page's tags, as a list of (tag, attributes), and its text."""

    def __init__(self, path):
        super().__init__()
        self.folder, self.tags, self.text = path.parent, [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, text):
        self.text += text

    def values(self, tag, name):
        """List the values of an attribute of all tags of this name that have it."""
        return [attributes[name] for found, attributes in self.tags if found == tag and name in attributes]

    def files(self, tag, name):
        """List the files that the relative URLs in an attribute refer to."""
        links = [urllib.parse.urlsplit(link) for link in self.values(tag, name)]
        assert not any(link.scheme or link.netloc or link.query for link in links)
        return [self.folder / os.fsdecode(urllib.parse.unquote_to_bytes(link.path)) for link in links if link.path]


def make_photos(folder, names):
    """Make a photo for each name: the temple, in several shapes and colours."""
    folder.mkdir(parents=True)
    photo = Image.open(ROOT / "images/content/china.jpg")
    for number, name in enumerate(names):
        photo.resize((120, 60 + 20 * (number % 5))).rotate(40 * number).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory):
    """The folders of photos with odd names, one of them no photo, and of the pictures made of them."""
    where = tmp_path_factory.mktemp("page")
    photos, output = make_photos(where / "50% & more #1", ODD_NAMES), where / "photos & <i>paintings"
    (photos / "<broken>.jpg").write_bytes(b"\xff\xd8 not a photo")
    result = run("style_transfer.py", photos, *FLAGS, "--output", output, status=1)
    assert result.stdout.endswith(f"page: {output}/index.html\n")
    return photos, output


@pytest.fixture
def album(tmp_path):
    return make_photos(tmp_path / "album", ["a.jpg", "b.jpg", "c.jpg"])


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


# --- What is written ---


def test_every_name_of_a_file_is_escaped(odd_folder):
    photos, output = odd_folder
    document = Document(output / "index.html")
    names = sorted(name for name in ODD_NAMES)
    results = [output / f"{pathlib.Path(name).stem}.png" for name in names]
    links = document.files("a", "href")
    assert sorted(link for link in links if link.suffix == ".png") == sorted(results)
    assert {path.resolve() for path in document.files("figure", "data-photo")} == {photos / name for name in names}
    assert len(document.values("img", "src")) == 2 * len(names)
    assert all(path.exists() for path in (*links, *document.files("img", "src")))
    alts = document.values("img", "alt")
    for name in (*ODD_NAMES[:-1], "caf\ufffd in Latin-1.jpg"):
        assert name in document.text and f"{name}, painted" in alts and f"{name}, the photo" in alts
    assert {tag for tag, _ in document.tags}.isdisjoint({"b", "i"})
    assert "7 pictures · 1 failed" in document.text
    assert "<broken>.jpg: is not a picture that can be read" in document.text
    assert "photos & <i>paintings" in document.text and "style_transfer.py" in document.text


def test_the_page_of_several_paintings_names_each(album, tmp_path):
    paintings = [ROOT / "images/style/glands.jpg", ROOT / "images/style/gravel.jpg"]
    flags = ("--size", 64, "--iterations", 1, "--style-layers", "block1_conv1", "--content-layers", "block1_conv2")
    output = tmp_path / "styled"
    run("style_transfer.py", album / "a.jpg", "--each", "--style", *paintings, *flags, "--output", output)
    document = Document(output / "index.html")
    assert "a.jpg · glands" in document.text and "a.jpg · gravel" in document.text
    assert len(set(document.values("img", "src"))) == 3  # the two pictures have the same photo


def test_a_folder_of_dreams_has_a_page_and_a_film_is_shown_by_its_beginning(album, tmp_path):
    network = ("--convnet", ROOT / "trained/digit_classifier/epoch_32.keras", "--layers", "conv2", "--size", 32)
    for kind, flags in (("png", ("--octaves", 1)), ("gif", ("--zoom", 2, "--format", "gif"))):
        output = tmp_path / kind
        run("deepdream.py", album, *network, *flags, "--steps", 1, "--output", output)
        document = Document(output / "index.html")
        assert [path.name for path in document.files("a", "href") if path.suffix == f".{kind}"] == [
            f"{name}.{kind}" for name in "abc"
        ]
        assert len(document.values("img", "src")) == (6 if kind == "png" else 3)
        assert re.match(
            "32 x .* seconds, (octaves 1, layers conv2|frames 2)", document.values("figure", "data-facts")[0]
        )


def test_a_resumed_folder_has_one_page_of_all_pictures_and_no_thumbnails_that_are_not_used(album, tmp_path):
    output = tmp_path / "styled"
    run("style_transfer.py", album, *FLAGS, "--output", output)
    before = {path.name for path in (output / "index_files").iterdir()}
    (album / "a.jpg").unlink()
    make_photos(tmp_path / "more", ["b.jpg", "d.jpg"])
    shutil.copy(tmp_path / "more/d.jpg", album / "c.jpg")
    for photos in (album, tmp_path / "more"):
        run("style_transfer.py", photos, *FLAGS, "--output", output)
    document = Document(output / "index.html")
    links = [path.name for path in document.files("a", "href") if path.suffix == ".png"]
    assert links == ["a.png", "b.png", "c.png", "b-2.png", "d.png"]
    assert {path.name for path in document.files("img", "src")} == set(os.listdir(output / "index_files"))
    assert len(before & set(os.listdir(output / "index_files"))) == 4  # those of a and b


def test_a_folder_without_a_page_gets_one_though_nothing_else_is_to_be_done(album, tmp_path):
    output = tmp_path / "styled"
    printed = run("style_transfer.py", album, *FLAGS, "--output", output, "--no-page").stdout
    assert "page: " not in printed and not (output / "index.html").exists() and not (output / "index_files").exists()
    again = run("style_transfer.py", album, *FLAGS, "--output", output)
    assert "done before: 3\n" in again.stdout and "device" not in again.stderr
    assert len(Document(output / "index.html").files("img", "src")) == 6


def copy_photo(photo, result, options):
    shutil.copy(photo, result)
    return {}


def apply_to_photos(make_picture, photos, output):
    options = config.Style(quiet=True)
    task = folders.ImageTask("", make_picture, lambda _: None, lambda _: {"script": "", "weights": None}, None)
    folders.apply_to_folder(task, photos, output, ".png", [folders.Variant(options)], options)


def test_the_page_is_written_after_each_hundred_pictures_and_at_the_end(album, tmp_path, monkeypatch):
    names, pages, output = [f"{number}.jpg" for number in range(5)], [], tmp_path / "styled"

    def copy(photo, result, options):
        pages.append(Document(output / "index.html").text if (output / "index.html").exists() else "")
        return copy_photo(photo, result, options)

    monkeypatch.setattr(page, "EVERY", 2)
    monkeypatch.setattr(page, "WRITING", 1e9)  # however long it takes
    photos = make_photos(tmp_path / "photos", names)
    apply_to_photos(copy, [photos / name for name in names], output)
    for before, text in zip((0, 0, 2, 2, 4, 5), (*pages, Document(output / "index.html").text), strict=True):
        assert f"{before} pictures" in text if before else text == ""


def test_the_page_of_an_interrupted_folder_shows_what_is_done(album, tmp_path, monkeypatch):
    output, numbers, attempt = tmp_path / "styled", itertools.count(1), folders.attempt

    def attempt_two(make_picture, job):
        if next(numbers) > 2:
            raise KeyboardInterrupt
        return attempt(make_picture, job)

    monkeypatch.setattr(folders, "attempt", attempt_two)
    run("style_transfer.py", album, *FLAGS, "--output", output, status=130)
    text = Document(output / "index.html").text
    assert "2 pictures · 1 not made yet: the same command goes on" in text
    monkeypatch.undo()
    run("style_transfer.py", album, *FLAGS, "--output", output)
    assert "3 pictures" in Document(output / "index.html").text


def test_a_page_of_another_program_is_not_replaced(album, tmp_path):
    output = tmp_path / "styled"
    output.mkdir()
    (output / "index.html").write_text("<h1>mine</h1>")
    error = run("style_transfer.py", album, *FLAGS, "--output", output, status=2).stderr
    assert f"{output}/index.html is no page of this script; give another --output, or --no-page" in error
    (output / "index.html").unlink()
    (output / "index_files").write_text("mine")
    error = run("style_transfer.py", album, *FLAGS, "--output", output, status=2).stderr
    assert f"{output}/index_files is a file" in error
    assert [path.name for path in output.iterdir()] == ["index_files"]
    run("style_transfer.py", album, *FLAGS, "--output", output, "--no-page")


def test_thumbnails_are_no_photos(odd_folder):
    _, output = odd_folder
    assert len(imaging.find_pictures(output, recursive=True)) == len(ODD_NAMES)
    assert len(os.listdir(output / "index_files")) == 2 * len(ODD_NAMES)


def test_thumbnails_are_upright_and_small(tmp_path):
    photo, exif = np.zeros((700, 1400, 3), "uint8"), Image.Exif()
    photo[:, :700] = 255
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(photo).save(tmp_path / "a.jpg", exif=exif)
    page.write_thumbnail(tmp_path / "a.jpg", tmp_path / "small.jpg")
    small = pixels(tmp_path / "small.jpg")
    assert small.shape == (480, 240, 3) and small[:200].min() > 200 and small[-200:].max() < 50


def test_a_photo_on_another_drive_of_windows_is_shown_by_its_thumbnail_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(page.os.path, "relpath", lambda path, start: ntpath.relpath(path, "C:\\styled"))
    assert page.link_to("D:\\photos\\a.jpg", tmp_path) is None
    monkeypatch.setattr(page.os, "sep", "\\")
    assert page.link_to("C:\\photos\\50%.jpg", tmp_path) == "../photos/50%25.jpg"


# --- What Chromium shows ---

ALL_LOADED = """Promise.all([...document.querySelectorAll("main img")].map(image => {
  image.loading = "eager";
  return image.decode().then(() => image.naturalWidth);
}))"""
BOXES = """[...document.querySelectorAll("main .pair")].map(pair => {
  const box = pair.getBoundingClientRect();
  return [box.left, box.top, box.width, box.height];
})"""
SHARES = "[...document.querySelectorAll('main .pair input')].map(input => input.value)"


@pytest.mark.parametrize("size", [(390, 844), (1280, 900)], ids=["phone", "desktop"])
def test_the_page_shows_all_pictures_and_its_sliders_move(size, odd_folder, browser, tmp_path):
    _, output = odd_folder
    browser.problems.clear()
    browser.open(output / "index.html", *size)
    places = browser.evaluate(BOXES)
    assert len(browser.evaluate(ALL_LOADED)) == 2 * len(ODD_NAMES)
    assert browser.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert browser.evaluate(BOXES) == places  # nothing jumps when the pictures are there
    left, top, width, height = places[0]
    browser.screenshot(tmp_path / "before.png")
    browser.drag((left + 0.9 * width, top + height / 2), (left + 0.5 * width, top + height / 2))
    browser.screenshot(tmp_path / "after.png")
    assert 49 <= float(browser.evaluate("document.querySelector('.pair input').value")) <= 51
    columns = slice(int(left + 0.1 * width), int(left + 0.4 * width)), slice(int(left + 0.6 * width), int(left + width))
    rows = slice(int(top) + 5, int(top + height) - 5)
    before, after = pixels(tmp_path / "before.png"), pixels(tmp_path / "after.png")
    assert np.abs(before - after)[rows, columns[0]].mean() > 10  # now the photo
    assert np.abs(before - after)[rows, columns[1]].max() == 0
    browser.evaluate("document.querySelector('.all input').focus()")
    browser.press("End", 35)
    assert browser.evaluate(SHARES) == ["100"] * len(ODD_NAMES)
    browser.press("Tab", 9)  # to the slider of the first picture
    browser.press("Home", 36)
    assert browser.evaluate(SHARES) == ["0"] + ["100"] * (len(ODD_NAMES) - 1)
    assert browser.problems == []


def test_a_click_enlarges_a_picture_and_the_keyboard_goes_on_and_back(odd_folder, browser):
    _, output = odd_folder
    browser.problems.clear()
    browser.open(output / "index.html", 1280, 900)
    left, top, width, height = browser.evaluate(BOXES)[1]
    middle = (left + width / 2, top + height / 2)
    browser.drag(middle, middle)
    shown = "[document.querySelector('dialog').open, document.querySelector('dialog bdi').textContent, location.hash]"
    names = browser.evaluate("[...document.querySelectorAll('figcaption')].map(caption => caption.textContent)")
    assert browser.evaluate(shown) == [
        True,
        names[1],
        browser.evaluate("'#' + document.querySelectorAll('figure')[1].id"),
    ]
    assert "64 x " in browser.evaluate("document.querySelector('dialog p').textContent")
    browser.press("ArrowRight", 39)
    assert browser.evaluate(shown)[1] == names[2]
    loaded = "new Promise(done => {const image = document.querySelector('.large %s');"
    loaded += "(function look() {image.src.includes('index_files') ? setTimeout(look, 10) : done(image.src)})()})"
    assert browser.evaluate(loaded % ".picture").endswith(".png")
    assert browser.evaluate(loaded % ".photo").endswith(".jpg")
    assert not browser.evaluate("document.querySelector('p [data-photo]').hidden")
    browser.press("Escape", 27)
    wait_for(lambda: browser.evaluate(shown)[::2] == [False, ""], seconds=10)
    assert browser.problems == []


def test_a_folder_that_was_moved_without_its_photos_is_shown_by_thumbnails(odd_folder, browser, tmp_path):
    _, output = odd_folder
    shutil.copytree(output, tmp_path / "stick/moved here")
    browser.problems.clear()
    browser.open(tmp_path / "stick/moved here/index.html", 390, 844)
    assert len(browser.evaluate(ALL_LOADED)) == 2 * len(ODD_NAMES)
    assert browser.problems == []
    browser.evaluate("document.querySelector('figcaption a').click()")
    browser.evaluate("new Promise(done => setTimeout(done, 300))")
    assert "index_files" in browser.evaluate("document.querySelector('.large .photo').src")
    assert browser.evaluate("document.querySelector('p [data-photo]').hidden")
