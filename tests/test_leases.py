"""leases.py: of two processes one has what is claimed, and what a dead one had is taken over."""

import concurrent.futures
import functools
import os
import subprocess
import sys
import time

import pytest

from atelier import errors, leases


def claimed(path, marks, name):
    """Lease a training, note when it was had and let go, and hold it for a while."""
    with leases.Lease(path):
        marks.append(name)
        time.sleep(0.3)
        marks.append(name)
    return name


def test_of_two_only_one_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(leases.Lease, "LOOK", 0.02)
    marks, path = [], tmp_path / "checkpoint_3.lock"
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(functools.partial(claimed, path, marks), "abc")) == ["a", "b", "c"]
    assert marks[::2] == marks[1::2]  # each let go before the next began
    assert not path.exists()


def test_the_claim_of_a_process_that_died_here_is_taken_over_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(leases.Lease, "LOOK", 0.02)
    path = tmp_path / "checkpoint_3.lock"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    path.write_text(f"{leases.this_machine()} {gone.pid} 1234abcd")
    began = time.monotonic()
    with leases.Lease(path) as lease:
        assert time.monotonic() - began < 5 and lease.holder() == lease.owner
    assert not path.exists()


def test_another_machine_is_dead_once_its_heart_is_still(tmp_path, monkeypatch):
    monkeypatch.setattr(leases.Lease, "LOOK", 0.02)
    monkeypatch.setattr(leases.Lease, "DEAD", 0.5)
    path = tmp_path / "checkpoint_3.lock"
    path.write_text("elsewhere 1 1234abcd")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(claimed, path, [], "a")
        for _ in range(10):  # it beats for longer than a dead one is given
            time.sleep(0.1)
            os.utime(path)
        assert not waiting.done() and path.read_text() == "elsewhere 1 1234abcd"
        assert waiting.result(timeout=10) == "a"


def test_one_that_was_taken_for_dead_stops_at_its_next_checkpoint(tmp_path):
    path = tmp_path / "checkpoint_3.lock"
    with leases.Lease(path) as lease:
        lease.check()
        path.write_text("elsewhere 1 1234abcd")
        with pytest.raises(errors.AnotherTraining, match="taken for dead"):
            lease.check()
    assert path.read_text() == "elsewhere 1 1234abcd"  # it is not ours to remove
