"""Leases: who alone may train a network, or make a film, of several processes and machines that share a folder."""

import contextlib
import os
import pathlib
import secrets
import socket
import threading
import time

from atelier import disk
from atelier.errors import AnotherTraining


class Lease:
    """What one process says, in a file, of what it alone may do: who it is, and by a heartbeat that it lives.

    Another waits, and says so by `waits`, until the file is gone, or no heart has beaten for a while: seconds by its
    own clock, since those of two machines may differ.
    """

    BEAT, LOOK, DEAD = 5, 1, 60  # seconds

    def __init__(self, path, waits=lambda: None):
        self.waits = waits
        self.path, self.owner = pathlib.Path(path), f"{this_machine()} {os.getpid()} {secrets.token_hex(4)}"
        self.over = threading.Event()

    def __enter__(self):
        while not (self.take() or self.take_over()):
            pass
        self.heart = threading.Thread(target=self.beat, daemon=True)
        self.heart.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.heart.join()
        if self.holder() == self.owner:
            self.path.unlink(missing_ok=True)

    def take(self):
        """Write the file where there is none: say whether that was so."""
        try:
            with open(self.path, "x") as file:
                file.write(self.owner)
        except FileExistsError:
            return False
        return True

    def take_over(self):
        """Wait until the file is gone, or its owner has died, and write it then: say whether it is ours."""
        seen, since = self.sign(), time.monotonic()
        if seen and not self.has_died(seen[0]):
            self.waits()
        while seen and not self.has_died(seen[0]) and time.monotonic() - since < self.DEAD:
            begun = time.monotonic()
            time.sleep(self.LOOK)
            now = self.sign()
            if now != seen or time.monotonic() - begun > 5 * self.LOOK:  # files that answer late tell old news
                seen, since = now, time.monotonic()
        if not seen or self.holder() != seen[0]:
            return False
        with disk.whole_file(self.path) as temporary:
            pathlib.Path(temporary).write_text(self.owner)
        time.sleep(self.LOOK)  # of two that do so at once, the last one has it
        return self.holder() == self.owner

    def sign(self):
        """Return the owner and the last heartbeat, or None where there is no file."""
        try:
            return self.path.read_text(), self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def holder(self):
        return (self.sign() or (None,))[0]

    @staticmethod
    def has_died(owner):
        """Say whether a process is known to be dead: one of this machine that is not there."""
        host, pid, *_ = [*owner.split(), "", ""]
        if host != this_machine() or not pid.isdigit():
            return False
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False

    def beat(self):
        while not self.over.wait(self.BEAT):
            with contextlib.suppress(OSError):
                if self.holder() == self.owner:
                    os.utime(self.path)

    def check(self):
        """Raise AnotherTraining where another process has taken this one for dead, and goes on in its place."""
        if self.holder() != self.owner:
            raise AnotherTraining(f"{self.path} is another's by now: this process was taken for dead")


def this_machine():
    """Name the machine, in a word; where it can be had, this start of it and its part where processes have numbers."""
    with contextlib.suppress(OSError):
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        return f"{socket.gethostname()}/{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    return socket.gethostname()
