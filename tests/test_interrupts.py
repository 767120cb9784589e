"""command_line.py: what Ctrl-C does while a script imports, works and exits."""

import functools
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, check, results


def interrupted(command, stream, pattern, after=0.0, **options):
    """Run a command, and send SIGINT `after` seconds after a line of its stdout or stderr that matches `pattern`."""
    # Without this, the processes started by tests in the background would ignore SIGINT.
    reset = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=ROOT, text=True, preexec_fn=reset, **pipes, **options)
    lines = []
    for line in getattr(process, stream):
        lines.append(line)
        if re.search(pattern, line):
            break
    else:
        pytest.fail(f"{pattern} is not in: {''.join(lines)}")
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    read = "".join(lines)
    output, errors = (read + output, errors) if stream == "stdout" else (output, read + errors)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


@pytest.mark.parametrize(
    ("module", "after"),
    # Half a second after NumPy, TensorFlow is imported with standard error silenced.
    [("argparse", 0), ("config", 0), ("numpy", 0), ("numpy", 0.5), ("atelier.pixel_rnn.palettes", 0)],
)
def test_ctrl_c_during_the_imports_is_reported_in_one_line(module, after, tmp_path):
    command = [sys.executable, "-X", "importtime", "classify_mnist.py", "trained/digits"]
    command += ["--output", str(tmp_path / "c.png")]
    result = interrupted(command, "stderr", rf"\| +{re.escape(module)}$", after)
    # TensorFlow writes its messages if its silenced import is interrupted.
    ignored = ("import time:", "WARNING: All log messages", "I0000 ")
    reported = [line for line in result.stderr.splitlines() if not line.startswith(ignored)]
    assert (result.returncode, reported, result.stdout) == (130, ["error: interrupted"], "")


def test_ctrl_c_that_is_lost_during_an_import_is_repeated(tmp_path):
    (tmp_path / "losing.py").write_text(
        "import time\n"
        "try:\n    print('importing', flush=True)\n    time.sleep(20)\n"
        "except KeyboardInterrupt:\n    pass\n"
        "time.sleep(20)\n"
    )
    program = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, '.']; from atelier import command_line\n"
    program += "command_line.run(lambda: __import__('losing'))"
    result = interrupted([sys.executable, "-c", program], "stdout", "importing")
    assert (result.returncode, result.stderr) == (130, "error: interrupted\n")


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 0.2])
def test_ctrl_c_at_the_end_leaves_the_results(after, tmp_path):
    command = [sys.executable, "-u", "classify_mnist.py", "trained/digits", "--num-images", "20"]
    command += ["--output", str(tmp_path / "c.png")]
    result = interrupted(command, "stdout", "confusion_matrix", after)
    assert "confusion_matrix" in results(result.stdout) and (tmp_path / "c.png").exists()
    assert "Traceback" not in result.stderr and result.returncode in (0, 130)
    assert result.stderr.count("error: interrupted") == (result.returncode == 130)


EXITING = """
import atexit, os, sys, threading, time
from atelier import command_line, errors
class Last:
    def __del__(self, write=os.write, sleep=time.sleep):
        write(1, b"at the last moment\\n")
        sleep(1)
last = Last()
atexit.register(time.sleep, 1)
atexit.register(print, "at exit", flush=True)
def main():
    print("done", flush=True)
    threading.Thread(target=lambda: (print("a thread", flush=True), time.sleep(1))).start()
    {last}
command_line.run(main)
"""
DESTRUCTOR = """
import time
from atelier import command_line

class Large:
    def __del__(self):
        print("in the destructor", flush=True)
        time.sleep(1)
def main():
    large = Large()
    {last}
command_line.run(main)
"""


@pytest.mark.parametrize(
    ("last", "status", "errors"),
    [("pass", 0, ""), ("del large; time.sleep(30); print('done')", 130, "error: interrupted\n")],
)
def test_ctrl_c_in_a_destructor_is_not_lost(last, status, errors):
    result = interrupted([sys.executable, "-c", DESTRUCTOR.format(last=last)], "stdout", "in the destructor", 0.2)
    assert (result.returncode, result.stdout, result.stderr) == (status, "in the destructor\n", errors)


REPLACED = """
import time
from atelier import command_line, errors

def main():
    try:
        print("at work", flush=True)
        time.sleep(30)
    except KeyboardInterrupt:
        raise {error}
command_line.run(main)
"""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("AttributeError('half imported')", "error: interrupted"),
        ("OSError(28, 'No space left on device')", "error: interrupted; no space left on device"),
        ("errors.Interrupted('interrupted; go on')", "error: interrupted; go on"),
    ],
)
def test_ctrl_c_is_reported_even_if_another_error_replaces_it(error, line):
    result = interrupted([sys.executable, "-c", REPLACED.format(error=error)], "stdout", "at work", 0.2)
    assert (result.returncode, result.stderr.splitlines()) == (130, [line])


@pytest.mark.parametrize("moment", ["a thread", "at exit", "at the last moment"])
@pytest.mark.parametrize(("last", "status"), [("pass", 0), ("raise errors.PartlyDone('one failed')", 1)])
def test_ctrl_c_while_python_exits_does_not_change_the_status(moment, last, status):
    result = interrupted([sys.executable, "-c", EXITING.format(last=last)], "stdout", moment, 0.3)
    assert "done" in result.stdout
    check(result, status)
