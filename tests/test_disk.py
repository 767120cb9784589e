"""disk.py: files are written whole or not at all."""

import os
import pathlib
import stat

import pytest

from atelier import disk


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "result.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), disk.whole_file(target) as temporary:
        with open(temporary, "w") as file:
            file.write("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_file_has_the_permissions_that_the_umask_leaves(umask, mode, tmp_path):
    previous_umask = os.umask(umask)
    try:
        with disk.whole_file(tmp_path / "result.txt") as temporary:
            pathlib.Path(temporary).write_text("whole")
        assert stat.S_IMODE((tmp_path / "result.txt").stat().st_mode) == mode
    finally:
        os.umask(previous_umask)
