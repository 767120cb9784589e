"""leases.py: one process at a time holds a lease, and only one process takes over the lease of a dead one."""

import concurrent.futures
import functools
import os
import re
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from atelier import errors, leases


@pytest.fixture(autouse=True)
def short_polls(monkeypatch):
    monkeypatch.setattr(leases, "POLL", 0.02)


def hold(path, events, name):
    """Hold a lease for a while, and note when it was acquired and released."""
    with leases.Lease(path):
        events.append(name)
        time.sleep(0.3)
        events.append(name)
    return name


def test_one_thread_at_a_time_holds_the_lease(tmp_path):
    events, path = [], tmp_path / "checkpoint_3.lock"
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(functools.partial(hold, path, events), "abc")) == ["a", "b", "c"]
    assert events[::2] == events[1::2]  # each released it before the next acquired it
    assert not path.exists()


# Code of another process: it prints when it holds the lease, and appends its number to a file before and after a wait.
HOLD = """
import sys, time
from atelier import leases
leases.POLL = 0.01
path, log, number, seconds = *sys.argv[1:4], float(sys.argv[4])
print("ready", flush=True)
sys.stdin.readline()
with leases.Lease(path):
    print("acquired", flush=True)
    with open(log, "a") as file:
        file.write(number + "\\n")
    time.sleep(seconds)
    with open(log, "a") as file:
        file.write(number + "\\n")
"""


def start_holder(path, log, number=0, seconds=100):
    """Start a process that waits for let_acquire(process) and then acquires a lease."""
    command = [sys.executable, "-c", HOLD, *map(str, (path, log, number, seconds))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout.readline() == "ready\n"
    return process


def let_acquire(process):
    process.stdin.write("\n")
    process.stdin.flush()


def leave_dead_lease(path):
    """Leave the lease of a dead process: start a process that acquires it, and kill the process."""
    owner = start_holder(path, os.devnull)
    let_acquire(owner)
    assert owner.stdout.readline() == "acquired\n"
    owner.kill()
    owner.wait()
    assert path.exists()


def test_the_lease_of_a_dead_process_is_taken_over_without_waiting(tmp_path):
    path, waits = tmp_path / "checkpoint_3.lock", []
    leave_dead_lease(path)
    with leases.Lease(path, lambda: waits.append(1)) as lease:
        lease.check()
    assert not waits and not path.exists()


def test_several_processes_take_over_the_lease_one_at_a_time(tmp_path):
    path, log = tmp_path / "checkpoint_3.lock", tmp_path / "log"
    for _ in range(3):
        leave_dead_lease(path)
        log.unlink(missing_ok=True)
        processes = [start_holder(path, log, number, 0.1) for number in range(4)]
        for process in processes:
            let_acquire(process)
        assert [process.wait(timeout=60) for process in processes] == [0] * 4
        numbers = log.read_text().split()
        assert sorted(numbers[::2]) == list("0123") and numbers[::2] == numbers[1::2]
        for process in processes:
            process.stdin.close()
            process.stdout.close()


def test_an_owner_on_another_machine_counts_as_dead_once_its_heartbeat_stops(tmp_path, monkeypatch):
    path, waits = tmp_path / "checkpoint_3.lock", []
    leave_dead_lease(path)
    content = re.sub("(?m)^host=.*$", "host=elsewhere", path.read_text())
    path.write_text(content.replace("duration=60.0", "duration=1.0"))
    monkeypatch.setattr(leases, "DURATION", 1.0)
    monkeypatch.setattr(leases, "HEARTBEAT", 0.2)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        lease = leases.Lease(path, lambda: waits.append(1))
        waiting = pool.submit(lease.acquire)
        for _ in range(10):  # its heartbeat goes on for longer than the lease's duration
            time.sleep(0.2)
            path.touch()
        assert not waiting.done() and waits == [1] and "host=elsewhere" in path.read_text()
        waiting.result(timeout=10)
    lease.check()
    lease.release()


def test_an_owner_that_seemed_dead_stops_at_its_next_checkpoint(tmp_path):
    path, other = tmp_path / "checkpoint_3.lock", leases.Lease(tmp_path / "other.lock")
    with leases.Lease(path) as lease, other:
        lease.check()
        other.path.rename(path)
        content = path.read_text()
        with pytest.raises(errors.LeaseLost, match="seemed to be dead"):
            lease.check()
    assert path.read_text() == content  # a lease does not remove another owner's file


def test_an_owner_whose_file_was_removed_stops_at_its_next_checkpoint(tmp_path):
    with leases.Lease(tmp_path / "checkpoint_3.lock") as lease:
        lease.path.unlink()
        with pytest.raises(errors.LeaseLost, match="seemed to be dead"):
            lease.check()
