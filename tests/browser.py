"""Chromium without a window, for tests of pages: loads a page, uses the mouse and the keyboard, and reports errors.

It speaks the Chrome DevTools Protocol through two pipes, file descriptors 3 and 4 of Chromium.
"""

import base64
import contextlib
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--remote-debugging-pipe"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"),
)


@contextlib.contextmanager
def open_browser():
    """Yield a Browser. Skip the test if there is no Chromium."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("there is no Chromium on this machine, in which the page could be looked at")
    commands, answers = os.pipe(), os.pipe()

    def set_pipes():
        # Copies above 4 first, because dup2 could replace one of the two that are still to be copied.
        ends = [os.dup(os.dup(os.dup(end))) for end in (commands[0], answers[1])]
        for number, end in enumerate(ends, 3):
            os.dup2(end, number)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=set_pipes,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands[0])
        os.close(answers[1])
        try:
            with open(commands[1], "wb", buffering=0) as output, open(answers[0], "rb") as answered:
                yield Browser(output, answered)
        finally:
            process.kill()
            process.wait()


class Browser:
    """A tab of Chromium. `problems` lists errors of scripts, and of files that could not be loaded."""

    def __init__(self, output, answers):
        self.output, self.answers, self.numbers, self.session, self.problems = (
            output,
            answers,
            itertools.count(1),
            {},
            [],
        )
        self.loaded = False
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        """Send a command, wait for its answer, and return it."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters, **self.session}
        self.output.write(json.dumps(message).encode() + b"\0")
        while (answer := self.next_message()).get("id") != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def next_message(self):
        content = bytearray()
        while not content.endswith(b"\0"):
            byte = self.answers.read(1)
            assert byte, "Chromium has ended"
            content += byte
        message = json.loads(content[:-1])
        event = message.get("method")
        if event == "Runtime.exceptionThrown":
            self.problems.append(message["params"]["exceptionDetails"])
        if event == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.problems.append(message["params"]["entry"])
        self.loaded = self.loaded or event == "Page.loadEventFired"
        return message

    def open(self, path, width, height, dark=False):
        """Load a page in a window of this size in CSS pixels, and wait until it is loaded."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.loaded = False
        self.send("Page.navigate", url=pathlib.Path(path).resolve().as_uri())
        while not self.loaded:
            self.next_message()

    def evaluate(self, expression):
        """Return the value of an expression in JavaScript, a promise's when it is kept."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def drag(self, start, end):
        """Press the mouse at one point (x, y) of the window, move it to another, and release it."""
        self.mouse("mousePressed", start)
        for share in (0.3, 0.7, 1):
            self.mouse("mouseMoved", [a + share * (b - a) for a, b in zip(start, end)])
        self.mouse("mouseReleased", end)

    def mouse(self, kind, point):
        at = {"x": point[0], "y": point[1], "button": "left", "buttons": 1, "clickCount": 1}
        self.send("Input.dispatchMouseEvent", type=kind, **at)

    def press(self, key, code):
        """Press a key: its name and its number in JavaScript."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, path):
        content = self.send("Page.captureScreenshot", format="png")["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(content))
