"""docs/python.md: the examples run with smaller pictures and fewer steps, and give the results that the page states."""

import re

import pytest
from conftest import ROOT
from PIL import Image

EXAMPLES = re.findall(r"^## (.+?)$.*?^```python$(.+?)^```$", (ROOT / "docs/python.md").read_text(), re.M | re.S)


@pytest.mark.parametrize(("heading", "code"), EXAMPLES, ids=[heading for heading, _ in EXAMPLES])
def test_an_example_runs_and_writes_its_picture(heading, code, tmp_path, monkeypatch, capsys):
    for folder in ("images", "trained"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    smaller = code.replace("size=256", "size=96").replace("iterations=(20,)", "iterations=(3,)")
    exec(compile(smaller, f"docs/python.md: {heading}", "exec"), {})
    for name in re.findall(r'"(\w+\.png)"', code):
        with Image.open(tmp_path / name) as picture:
            assert max(picture.size) >= 96
            assert len(picture.getcolors(2**24)) > 100
    if heading == "Classify digits":
        assert float(capsys.readouterr().out.removeprefix("accuracy: ")) == pytest.approx(0.96389, abs=1e-5)


def test_there_are_five_examples():
    assert len(EXAMPLES) == 5
