"""progress.py: when the time left is printed, and how it is estimated."""

import re

import pytest

from atelier import progress


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (99, "99 s"), (130, "2 min"), (5700, "95 min"), (7300, "2 h 2 min"), (90_000, "25 h")],
)
def test_times_are_rounded(seconds, words):
    assert progress.rounded(seconds) == words


def lines_of_picture(sizes, capsys, monkeypatch, seconds_of, quiet=False):
    """Take the steps of a picture with a simulated clock; return [(number of the step, printed line), ...]."""
    now, lines = [0.0], []
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    forecast = progress.Forecast(sizes, "for this picture", quiet)
    for number, pixels in enumerate((pixels for count, pixels in sizes for _ in range(count)), 1):
        now[0] += seconds_of(pixels) + (100 if number == 1 else 0)  # the first step compiles
        forecast.step(pixels)
        lines += [(number, line) for line in capsys.readouterr().err.splitlines()]
    return lines


def lines_of_folder(seconds, capsys, monkeypatch):
    """Finish pictures that take these seconds; return [(number of the picture, printed line), ...]."""
    now, lines = [0.0], []
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    forecast = progress.FolderForecast(quiet=False)
    for number, each in enumerate(seconds, 1):
        now[0] += each
        forecast.done(len(seconds) - number)
        lines += [(number, line) for line in capsys.readouterr().err.splitlines()]
    return lines


def test_a_short_first_picture_is_not_timed_since_it_includes_loading(capsys, monkeypatch):
    assert lines_of_folder([40, 5, 5, 5, 5], capsys, monkeypatch) == [(2, "time left: about 15 s for 3 more")]
    ((number, line),) = lines_of_folder([130, 120, 120], capsys, monkeypatch)
    assert number == 1 and line.startswith("time left: about 4 min for 2 more, until ")
    assert lines_of_folder([40, 5], capsys, monkeypatch) == []


def test_the_time_left_includes_all_further_scales(capsys, monkeypatch):
    def seconds_of(pixels):
        return 0.2 + pixels / 1e5

    left = 10 * seconds_of(20_000) + 30 * seconds_of(380_000)
    sizes = [(30, 5_000), (20, 20_000), (30, 380_000)]
    ((number, line),) = lines_of_picture(sizes, capsys, monkeypatch, seconds_of)
    assert number == 40 and line.startswith(f"time left: about {round(left / 60)} min for this picture, until ")
    assert lines_of_picture([(4, 1)], capsys, monkeypatch, lambda _: 10) == [
        (2, "time left: about 20 s for this picture")
    ]
    assert lines_of_picture(sizes, capsys, monkeypatch, seconds_of, quiet=True) == []


def test_the_time_is_measured_at_the_last_scale_that_begins_early(capsys, monkeypatch):
    sizes = [(30, 5_000), (20, 20_000), (30, 400_000), (8, 20_000_000)]
    ((number, line),) = lines_of_picture(sizes, capsys, monkeypatch, lambda pixels: 0.2 + pixels / 1e5)
    minutes = (20 * 4.2 + 8 * 200.2) / 60
    assert number == 60 and line.startswith(f"time left: about {round(minutes)} min for this picture, until ")


def test_a_busy_machine_does_not_make_the_estimate_absurd(capsys, monkeypatch):
    sizes = [(30, 5_000), (20, 20_000), (30, 380_000)]
    ((_, line),) = lines_of_picture(sizes, capsys, monkeypatch, lambda pixels: 3 if pixels == 5_000 else pixels / 1e5)
    assert 30 * 3.8 / 2 < int(re.search(r"about (\d+) s ", line)[1]) < 30 * 3.8
