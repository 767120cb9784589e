"""index.html: a page that shows each photo of a folder and its picture, before and after. It needs no server.

The page refers to the pictures, and to thumbnails in the folder index_files, by relative links. So the folder can be
moved. The photos themselves are linked too, where a relative link can reach them. Where it can't, for example on
another drive or after the folder was moved, the page shows the photo's thumbnail in place of the photo.
"""

import contextlib
import dataclasses
import functools
import hashlib
import html
import io
import os
import pathlib
import re
import string
import time
import urllib.parse

from PIL import Image
from tqdm import tqdm

from atelier.batch.plan import DONE
from atelier.batch.summary import FIRST_COLUMNS
from atelier.command_line import lazy_import
from atelier.disk import check_writable, whole_file
from atelier.errors import InputError
from atelier.imaging import THUMBNAILS, open_picture
from atelier.manifests import MANIFEST
from atelier.naming import FILM_ENDINGS

film_reading = lazy_import("atelier.film.reading")

PAGE = "index.html"
SIDE = 480  # longest side of a thumbnail in pixels
EVERY = 100  # pictures after which the page is written again
WRITING = 1 / 20  # largest share of the time for writing it, which matters for tens of thousands of pictures
MARK = '<meta name="generator" content="keras-atelier">'  # in page.html: the page is one of ours


# --- Thumbnails --------------------------------------------------------------------------------

# The name of a thumbnail is a checksum of what identifies the file that it was made of. So a thumbnail that exists is
# never out of date, and a browser never shows an old one from its cache.


PICTURES = (".png", ".jpg")


def photo_thumbnail(row):
    """Return the name of the thumbnail of a row's photo."""
    return thumbnail_name(row["photo"], row.get("photo_bytes"), row.get("photo_changed"))


def picture_thumbnail(picture):
    """Return the name of the thumbnail of a picture, or None if the picture does not exist."""
    try:
        stat = picture.stat()
    except FileNotFoundError:
        return None
    return thumbnail_name(picture.name, stat.st_size, stat.st_mtime_ns)


def thumbnail_name(*identity):
    text = "\0".join(map(str, identity))
    return f"{hashlib.sha256(os.fsencode(text)).hexdigest()[:16]}.jpg"


def picture_of(row, folder):
    return folder / pathlib.Path(row["result"]).name


def make_thumbnails(row, folder):
    """Write the thumbnails of a row's photo and picture, if they do not exist and the files can be read.

    The page shows a film without its source.
    """
    picture = picture_of(row, folder)
    thumbnails = {picture: picture_thumbnail(picture)}
    if picture.suffix.lower() in PICTURES:
        thumbnails[row["photo"]] = photo_thumbnail(row)
    for source, name in thumbnails.items():
        path = folder / THUMBNAILS / str(name)
        if name and not path.exists():
            with contextlib.suppress(InputError):  # the photo is missing or damaged
                write_thumbnail(source, path)


def write_thumbnail(source, path):
    if pathlib.Path(source).suffix.lower() in FILM_ENDINGS:
        thumbnail = Image.fromarray(film_reading.first_frame(source, SIDE))
    else:
        thumbnail = open_picture(source, at_least=(SIDE, SIDE))
    content = io.BytesIO()
    thumbnail.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2)
    thumbnail.save(content, format="JPEG", quality=80, progressive=True)
    with whole_file(path) as temporary:
        pathlib.Path(temporary).write_bytes(content.getvalue())


# --- The page ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Page:
    """The page of a folder of pictures. `command` is the command that made them.

    If `command` is None, the page names neither a command nor the folders of the photos.
    """

    folder: pathlib.Path
    command: str | None

    def check(self):
        """Raise InputError if the page can't be written, or if it would replace the page of another program."""
        path = self.folder / PAGE
        if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace")[:1000]:
            raise InputError(f"{path} is no page of this script; give another --output, or --no-page")
        check_writable(path)
        check_writable(self.folder / THUMBNAILS / "one.jpg")

    def finish(self, rows, quiet):
        """Write the page for all `rows` of the summary. Make thumbnails that are missing, and remove those not used."""
        rows = list(rows)
        finished = [row for row in rows if row["status"] in DONE]
        for row in tqdm(finished, unit="thumbnail", leave=False, delay=2, disable=True if quiet else None):
            make_thumbnails(row, self.folder)
        used = set(re.findall(r"[0-9a-f]{16}\.jpg", self.write(rows)))
        for path in (self.folder / THUMBNAILS).glob("*.jpg"):
            if re.fullmatch("[0-9a-f]{16}", path.stem) and path.name not in used:
                path.unlink(missing_ok=True)

    def write(self, rows):
        """Write the page for all `rows` of the summary, and return its text."""
        rows = list(rows)
        figures = [self.figure(row, number) for number, row in enumerate(rows) if is_shown(row, self.folder)]
        failed = [row for row in rows if row["status"] == "failed"]
        waiting = sum(row["status"] not in (*DONE, "failed") for row in rows)
        title = self.folder.resolve().name.replace("__", " · ").replace("_", " ")
        parts = {
            "title": shown(title),
            "counts": counts_of(len(figures), len(failed), waiting),
            "sliding": SLIDING if any('<input type="range"' in figure for figure in figures) else "",
            "figures": "\n".join(figures),
            "failed": list_of_failures(failed),
            "made": MADE.format(command=shown(self.command), recipe=MANIFEST) if self.command else "",
        }
        text = template().substitute(parts)
        with whole_file(self.folder / PAGE) as temporary:
            pathlib.Path(temporary).write_text(text, encoding="utf-8")
        return text

    def figure(self, row, number):
        """Return a picture with its photo as a <figure>."""
        picture, thumbnails = picture_of(row, self.folder), self.folder / THUMBNAILS
        before, after = (
            f"{THUMBNAILS}/{name}" if (thumbnails / str(name)).exists() else None
            for name in (photo_thumbnail(row), picture_thumbnail(picture))
        )
        width, height = size_of(row, self.folder / after if after else picture)
        after, name = after or url(picture.name), shown(name_of(row))
        is_film = picture.suffix.lower() not in PICTURES
        pair = FILM if is_film else PAIR if before else ALONE
        photo = link_to(row["photo"], self.folder) if self.command else None
        return FIGURE.format(
            number=number,
            ratio=f"{width / height:.4f}",
            width=width,
            photo=f' data-photo="{photo}"' if photo else "",
            facts=shown(facts_of(row)),
            pair=pair.format(after=after, before=before or after, name=name).strip(),
            url=url(picture.name),
            name=name,
        )

    def updated(self, done, rows):
        """Yield each item of `done`, and write the page after each hundred; `rows` is the summary, a dict."""
        written, duration = time.monotonic(), 0
        for number, item in enumerate(done, 1):
            yield item
            if number % EVERY == 0 and duration <= WRITING * (time.monotonic() - written):
                started = time.monotonic()
                self.write(rows.values())
                written = time.monotonic()
                duration = written - started


@functools.cache
def template():
    return string.Template(pathlib.Path(__file__).with_name("page.html").read_text(encoding="utf-8"))


SLIDING = """<p>Drag across a picture to see the photo it was made from. A click enlarges it.</p>
<label class="all">picture <input type="range" value="0" aria-label="all pictures: share of the photo"> photo</label>"""

MADE = """<p>Made with keras-atelier by the command <code>{command}</code></p>
<p><a href="summary.csv">summary.csv</a> has a row for each picture,
and <a href="{recipe}">{recipe}</a> all options.</p>"""


def counts_of(pictures, failed, waiting):
    """Return the line that says how many pictures there are, in HTML."""
    parts = [f"{pictures} picture{'' if pictures == 1 else 's'}"]
    parts += [f'<a href="#failed">{failed} failed</a>'] * bool(failed)
    parts += [f"{waiting} not made yet: the same command goes on"] * bool(waiting)
    return " · ".join(parts)


def list_of_failures(rows):
    """Return the list of the photos that failed, with the reasons, in HTML; empty if there are none."""
    if not rows:
        return ""
    lines = [f"<li><bdi>{shown(name_of(row))}</bdi>: {shown(row['reason'])}</li>" for row in rows]
    return "\n".join(['<section id="failed">', "<h2>Failed</h2>", "<ul>", *lines, "</ul>", "</section>"])


def name_of(row):
    """Return what the page calls a picture: the photo's name and, if each picture has its own, the painting's."""
    painting = row.get("painting")
    return pathlib.Path(row["photo"]).name + (f" · {pathlib.Path(painting).stem}" if painting else "")


def is_shown(row, folder):
    """Tell whether the page shows a row: whether its picture is done and exists."""
    return row["status"] in DONE and picture_of(row, folder).exists()


FIGURE = """<figure id="p{number}" style="--ratio: {ratio}; --width: {width}"{photo} data-facts="{facts}">
{pair}
<figcaption><a href="{url}"><bdi>{name}</bdi></a></figcaption>
</figure>"""

ALONE = """
<div class="pair"><img class="picture" src="{after}" alt="{name}, painted" loading="lazy"></div>
"""
PAIR = """
<div class="pair"><img class="picture" src="{after}" alt="{name}, painted" loading="lazy">
<img class="photo" src="{before}" alt="{name}, the photo" loading="lazy">
<input type="range" value="0" aria-label="{name}: share of the photo">
<span class="line"></span><span class="grip"></span></div>
"""
FILM = """
<div class="pair film"><img class="photo" src="{after}" alt="the beginning of the film {name}" loading="lazy">
<span class="grip"></span></div>
"""


def size_of(row, picture):
    """Return the width and height of a picture in pixels, from its row or else from the file or its thumbnail."""
    with contextlib.suppress(KeyError, ValueError, ZeroDivisionError):
        width, height = int(row["width"]), int(row["height"])
        width / height
        return width, height
    with contextlib.suppress(Exception), Image.open(picture) as file:  # a damaged file can raise any error
        return file.size
    return 3, 2


OTHER_COLUMNS = {*FIRST_COLUMNS, "painting_sha256", "photo_bytes", "photo_changed", "width", "height", "seconds"}


def facts_of(row):
    """Return a line about how a picture was made: its size, the seconds, and what else the summary says."""
    size = [f"{row['width']} x {row['height']} pixels"] if row.get("width") else []
    seconds = [f"{row['seconds']} seconds"] if row.get("seconds") else []
    more = [f"{name.replace('_', ' ')} {value}" for name, value in row.items() if value and name not in OTHER_COLUMNS]
    return ", ".join(size + seconds + more)


def link_to(photo, folder):
    """Return the relative URL of a photo, or None if there is none, as on another drive of Windows."""
    try:
        return url(os.path.relpath(photo, folder.resolve()))
    except ValueError:
        return None


def url(path):
    """Return a relative path as a URL, also if it has bytes that are not text."""
    return urllib.parse.quote(os.fsencode(path.replace(os.sep, "/")))


def shown(text):
    """Return a text as HTML. Bytes of a file's name that are not text become question marks."""
    return html.escape(os.fsencode(text).decode(errors="replace"))
