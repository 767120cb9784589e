"""File locks with an owner and a heartbeat, so that only one process or machine trains a class or makes a film.

The lock is filelock's SoftFileLease. It works in a folder that machines share, and no two waiting processes can both
take over the lock of a dead one.
"""

import contextlib
import pathlib

import filelock

from atelier.errors import LeaseLost

DURATION = 60  # seconds without a heartbeat after which an owner counts as dead; all processes must agree
HEARTBEAT = 5  # seconds from one heartbeat to the next
POLL = 1  # seconds after which a waiting process looks again


class Lease:
    """A lock file that its owner holds while it lives: `with Lease(path) as lease:`.

    A process that finds the lock taken calls `on_wait` once. It waits until the owner releases the lock, is seen to be
    dead (on the same machine), or has shown no heartbeat for DURATION seconds by the waiting process's own clock.
    """

    def __init__(self, path, on_wait=lambda: None):
        self.path, self.on_wait = pathlib.Path(path), on_wait
        self.lock = filelock.SoftFileLease(
            path, lease_duration=DURATION, heartbeat_interval=HEARTBEAT, poll_interval=POLL, thread_local=False
        )

    def __enter__(self):
        self.acquire()
        return self

    def __exit__(self, *_):
        self.release()

    def acquire(self):
        try:
            self.lock.acquire(timeout=0.1, poll_interval=0.02)  # enough to take over from a process that died here
        except filelock.Timeout:
            self.on_wait()
            self.lock.acquire()

    def release(self):
        self.lock.release()

    def check(self):
        """Raise LeaseLost if another process has taken the lock over because this one seemed dead."""
        content = ""
        with contextlib.suppress(FileNotFoundError):
            content = self.path.read_text(errors="replace")
        if self.lock.compromise or self.lock.token not in content:
            raise LeaseLost(f"another process has taken over {self.path}: this process seemed to be dead")
