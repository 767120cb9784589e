"""disk.py: files whole or not at all."""

import os
import pathlib
import stat

import pytest

from atelier import disk


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "result.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), disk.whole_file(target) as temporary:
        with open(temporary, "w") as file:
            file.write("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_file_can_be_read_by_whom_the_user_lets_read_files(umask, mode, tmp_path):
    disk.current_umask.cache_clear()
    earlier = os.umask(umask)
    try:
        with disk.whole_file(tmp_path / "result.txt") as temporary:
            pathlib.Path(temporary).write_text("whole")
        assert stat.S_IMODE((tmp_path / "result.txt").stat().st_mode) == mode
        assert os.umask(umask) == umask  # it was read, and left as it was
    finally:
        os.umask(earlier)
        disk.current_umask.cache_clear()
