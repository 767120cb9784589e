"""File locks with an owner and a heartbeat, so that only one process or machine trains a class or makes a film.

The lock is filelock's SoftFileLease. It works in a folder that machines share. If its owner dies, exactly one of the
waiting processes takes it over.
"""

import contextlib
import pathlib

import filelock

from atelier.errors import LeaseLost

DURATION = 60  # seconds without a heartbeat after which others assume that an owner is dead; the same in all processes
HEARTBEAT = 5  # seconds from one heartbeat to the next
POLL = 1  # seconds from one attempt of a waiting process to the next


class Lease:
    """A lock file that a running process owns: `with Lease(path) as lease:`.

    If another process owns the lock, `on_wait` is called once. Then this process waits until the owner releases the
    lock. It also takes over the lock if the owner has ended, when both run on the same machine, or if the owner has
    sent no heartbeat for DURATION seconds by this process's clock.
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
            self.lock.acquire(timeout=0.1, poll_interval=0.02)  # long enough if the owner has died on this machine
        except filelock.Timeout:
            self.on_wait()
            self.lock.acquire()

    def release(self):
        self.lock.release()

    def check(self):
        """Raise LeaseLost if another process has taken over the lock because this process seemed to be dead."""
        content = ""
        with contextlib.suppress(FileNotFoundError):
            content = self.path.read_text(errors="replace")
        if self.lock.compromise or self.lock.token not in content:
            raise LeaseLost(f"another process has taken over {self.path}: this process seemed to be dead")
