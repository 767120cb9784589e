"""config.py: flags made from the dataclasses, and the command-line manners that all scripts share."""

import argparse
import dataclasses
import functools
import re
import signal
import subprocess
import sys
import time
import typing

import pytest
from conftest import ROOT, TINY, check, environment, results, run

import command_line
import config
import errors

SCRIPTS = [
    "train_rnn.py",
    "generate_rnn.py",
    "classify_mnist.py",
    "style_transfer.py",
    "deepdream.py",
    "visualize_filters.py",
]


def test_every_field_is_a_flag_with_its_type_and_default():
    parser = argparse.ArgumentParser()
    command_line.add_options(parser, config.Train)
    given = parser.parse_args(["--num-images", "5", "--validation-split", "0.25", "--overwrite"])
    options = command_line.collect(config.Train, given)
    assert (options.num_images, options.validation_split, options.overwrite) == (5, 0.25, True)
    assert options.seed == config.Train().seed and options.output is None


def test_flags_override_a_preset_and_leave_the_rest():
    parser = argparse.ArgumentParser()
    command_line.add_options(parser, config.DigitRecipe)
    recipe = command_line.collect(config.DigitRecipe, parser.parse_args(["--epochs", "3"]), config.PRESETS["best"])
    assert recipe.epochs == 3 and recipe.size == config.PRESETS["best"].size


def test_the_tutorial_preset_is_the_published_recipe():
    recipe = config.PRESETS["tutorial"]
    assert (recipe.size, recipe.levels, recipe.cell, recipe.units, recipe.layers) == (10, 7, "gru", 256, 1)
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.schedule) == (12, 32, 1e-3, "constant")
    assert (recipe.context, recipe.dropout, recipe.shift) == ("previous", 0, 0)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(("flags", "status"), [(["--help"], 0), (["--no-such-flag"], 2)])
def test_help_and_wrong_flags_do_not_wait_for_tensorflow(script, flags, status):
    command = [sys.executable, "-X", "importtime", str(ROOT / script), *flags]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == status
    assert (
        "argparse" in result.stderr
        and "tensorflow" not in result.stderr
        and "keras" not in result.stderr.replace("keras-atelier", "")
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_docstrings_commands_have_flags_that_exist(script):
    help_text = run(script, "--help").stdout
    commands = [line.split() for line in help_text.splitlines() if line.strip().startswith("python ")]
    assert len(commands) == 3
    for words in commands:
        assert words[1] == script
        for flag in (word for word in words if word.startswith("--")):
            assert help_text.count(flag) > sum(word == flag for other in commands for word in other)


def test_a_name_in_no_encoding_can_be_printed():
    code = "import command_line; command_line.run(lambda: print('picture: caf\\udce9.png'))"
    strict = environment(PYTHONIOENCODING="utf-8:strict")
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=strict, capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, r"picture: caf\udce9.png", "")


def test_the_help_says_what_other_flags_bring_with_them():
    printed = run("deepdream.py", "--help").stdout
    assert "default: 12; with --class: 60; with --zoom: 3" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.InputError("two\nlines"), "two lines"),
        (OSError(28, "No space left on device", "a/b.png"), "no space left on device: a/b.png"),
        (MemoryError(), "not enough memory; try fewer or smaller pictures"),
    ],
)
def test_an_error_is_one_line(error, text):
    assert errors.describe(error) == text


# --- Flags that are nearly right ---

CHINA = "images/content/china.jpg"


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        (("style_transfer.py", "photo.jpg", "--itertions", 40), "--itertions (did you mean --iterations?)"),
        (("train_rnn.py", "--epoch=3", "digits"), "--epoch (did you mean --epochs?)"),
        (("train_rnn.py", "-epochs", 3), "-epochs (did you mean --epochs?)"),
        (("classify_mnist.py", "--imge", "x.png"), "--imge (did you mean --image?)"),
        (("generate_rnn.py", "trained/monet", "--temprature", 1), "--temprature (did you mean --temperature?)"),
        (("deepdream.py", "noise", "--xyzzy"), "there is no --xyzzy (--help"),
        (("train_rnn.py", "digits", "--optimizer", "adm"), "no adm (did you mean adam?); it has adam, rmsprop"),
        (
            ("train_rnn.py", "digits", "--preset", "painters"),
            "no painters (did you mean painter?); it has tutorial, best",
        ),
        (("generate_rnn.py", "x", "--start", "q"), "--start has no q; it has nothing, window"),
        (("train_rnn.py", "digits", "--num", 5), "--num (did you mean --num-images?)"),
        (("generate_rnn.py", "x", "--num", 5), "there is no --num (--help"),
        (("deepdream.py", "noise", "--layers", "block3"), "no block3 (did you mean block3_conv1?)"),
        (("style_transfer.py", CHINA, "--layer", "block3"), "no block3 (did you mean block3_conv1?)"),
        (("visualize_filters.py", "block3", "--images", CHINA), "no block3 (did you mean block3_conv1?)"),
        (("visualize_filters.py", "block3_conv1", "photos"), "no place for photos; does it belong after --images?"),
        (("style_transfer.py", "a.jpg", "b.jpg", "--style", "c"), "no place for b.jpg; does it belong after --style?"),
        (("train_rnn.py", "images/contents"), "of pictures images/contents (did you mean content?)"),
        (("train_rnn.py", "picturs"), "picturs; for a set of digits, add --all-digits"),
    ],
)
def test_a_flag_or_word_that_is_nearly_right_is_answered_with_what_may_have_been_meant(command, meant):
    assert meant in run(*command, status=2).stderr


def test_of_a_flag_that_stands_twice_the_last_counts_and_of_several_values_all(tiny, tmp_path):
    flags = ("--digit", 3, "--grid", 2, "--digit=8", "--output", tmp_path / "drawn.png", "--seed", 1)
    said = run("generate_rnn.py", tiny, *flags).stderr
    assert said.count("note: ") == 1 and "note: --digit stands twice; the last one counts\n" in said
    assert b"--digit=8" in (tmp_path / "drawn.png").read_bytes()
    assert run("generate_rnn.py", tiny, *flags, "--seed", 2, "--quiet", "--overwrite").stderr == ""
    parser = command_line.Parser("")
    command_line.add_options(parser, config.Style)
    assert parser.parse_args(["--style", "a", "b", "--style", "c"]).style == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("train_rnn.py", "mnist", "--all-digits", "--data", "no/such"), "no/such does not exist; --data takes"),
        (("train_rnn.py", "letters", "--all-digits"), "letters is not digits, mnist or fashion_mnist"),
        (("classify_mnist.py", "trained/mnist", "--data", "no/such"), "no/such does not exist; --data takes"),
        (("visualize_filters.py", "block9", "--images", CHINA), "vgg16 has no block9"),
        (("deepdream.py", CHINA, "--layers", "block9"), "vgg16 has no block9"),
    ],
)
def test_what_is_wrong_is_said_before_tensorflow_starts(command, said):
    code = "import sys; sys.argv = sys.argv[1:]; import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    words = [sys.executable, "-X", "importtime", "-c", code, *map(str, command)]
    result = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 2 and said in result.stderr
    assert " tensorflow" not in result.stderr


def test_what_is_no_flag_is_not_taken_for_one(tmp_path):
    odd = tmp_path / "--odd flag"
    for words in (("--style-weights", "-1", "--style", "x.png"), ("--", "--odd"), ("--style", odd.name)):
        assert "there is no" not in run("style_transfer.py", *words, status=2).stderr


# --- Paths ---

SHIPPED = ROOT / "trained/digits"
WORDS = {"layer", "class_", "content_layers", "style_layers", "layers"}  # names of a network's layers and classes


@pytest.mark.parametrize(
    "options", [config.Train, config.Generate, config.Classify, config.Style, config.Dream, config.Filters]
)
def test_an_option_that_is_no_choice_and_no_layer_is_a_path(options):
    for item in dataclasses.fields(options):
        kinds = {item.type, *typing.get_args(item.type)}
        if str in kinds and not item.metadata["choices"]:
            assert item.name in WORDS


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (("classify_mnist.py", "~/models"), "models"),
        (("classify_mnist.py", "trained/digits", "--image=~/a b.png"), "a b.png"),
        (("generate_rnn.py", "trained/monet", "--complete=~/a.png"), "a.png"),
        (("generate_rnn.py", "~/painter"), "painter"),
        (("train_rnn.py", "letters", "--all-digits", "--data", "~/idx"), "idx"),
        (("train_rnn.py", "~/pictures"), "pictures"),
        (("style_transfer.py", "~/a.jpg", "--style", "~/b.jpg"), "a.jpg"),
        (("style_transfer.py", "images/content/china.jpg", "--style", "~/b.jpg"), "b.jpg"),
        (("style_transfer.py", "images/content/china.jpg", "--style", "images/style/glands.jpg", "--init=~/c"), "c"),
        (("deepdream.py", "~/a.jpg"), "a.jpg"),
        (("deepdream.py", "noise", "--convnet=~/net.keras"), "net.keras"),
        (("deepdream.py", "images/content/china.jpg", "--guide", "~/b.jpg"), "b.jpg"),
        (("visualize_filters.py", "block1_conv1", "--images", "~/a.jpg"), "a.jpg"),
        (("visualize_filters.py", "--evolution=~/epochs"), "epochs"),
    ],
)
def test_a_tilde_is_the_home_folder_in_every_path_that_is_read(command, path, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(tmp_path / path) in run(*command, status=2).stderr


def test_a_tilde_is_the_home_folder_where_something_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("conftest.ROOT", tmp_path)
    flags = ("--num-images", 20, "--output=~/new/c.png", "--csv", "~/c.csv")
    run("classify_mnist.py", SHIPPED, *flags)
    run("generate_rnn.py", SHIPPED, "--digit", 3, "--grid", 2, "--output=~/g.png")
    run("train_rnn.py", "digits", "--digit", 3, *TINY, "--epochs", 1, "--output", "~/m")
    for name in ("new/c.png", "c.csv", "g.png", "m/model_3.keras"):
        assert (tmp_path / name).exists()


@pytest.mark.parametrize("path", ["kept/~/x.png", "~no-such-user/x.png"])
def test_no_file_or_folder_is_called_by_a_tilde(path, photo, tmp_path, monkeypatch):
    monkeypatch.setattr("conftest.ROOT", tmp_path)
    for command in (
        ("generate_rnn.py", SHIPPED, "--digit", 3, "--output", path),
        ("classify_mnist.py", SHIPPED, "--num-images", 20, "--output", path),
        ("classify_mnist.py", SHIPPED, "--num-images", 20, "--output", "c.png", "--csv", path.replace("png", "csv")),
        ("train_rnn.py", "digits", "--digit", 3, *TINY, "--output", path),
        ("style_transfer.py", "--style", photo, "--output", path),
    ):
        assert "write out which one is meant" in run(*command, status=2).stderr
        assert not any("~" in found.name for found in tmp_path.rglob("*"))


# --- Ctrl-C ---


def interrupted(command, stream, sign, after=0.0, **options):
    """Run a command, and press Ctrl-C so many seconds after a line of its stdout or stderr that matches `sign`."""
    # Where the tests themselves run in the background, Ctrl-C would be ignored in what they start.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=ROOT, text=True, preexec_fn=heed, **pipes, **options)
    seen = []
    for line in getattr(process, stream):
        seen.append(line)
        if re.search(sign, line):
            break
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    seen = "".join(seen)
    output, errors = (seen + output, errors) if stream == "stdout" else (output, seen + errors)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


@pytest.mark.parametrize(
    ("module", "after"),
    # Half a second after NumPy comes TensorFlow, whose imports are silenced.
    [("argparse", 0), ("config", 0), ("numpy", 0), ("numpy", 0.5), ("palettes", 0)],
)
def test_ctrl_c_during_the_imports_is_one_line(module, after, tmp_path):
    command = [sys.executable, "-X", "importtime", "classify_mnist.py", "trained/digits"]
    command += ["--output", str(tmp_path / "c.png")]
    result = interrupted(command, "stderr", rf"\| +{re.escape(module)}$", after)
    # TensorFlow greets after all where its import, which is silenced, is cut short.
    others = ("import time:", "WARNING: All log messages", "I0000 ")
    said = [line for line in result.stderr.splitlines() if not line.startswith(others)]
    early = module in ("argparse", "config", "numpy") and not after
    expected = "error: interrupted" + " before anything was done" * early
    assert (result.returncode, said, result.stdout) == (130, [expected], "")


@pytest.mark.parametrize("after", [0, 0.2])
def test_ctrl_c_at_the_end_hides_nothing_of_what_is_done(after, tmp_path):
    command = [sys.executable, "-u", "classify_mnist.py", "trained/digits", "--num-images", "20"]
    command += ["--output", str(tmp_path / "c.png")]
    result = interrupted(command, "stdout", "confusion_matrix", after)
    assert "confusion_matrix" in results(result.stdout) and (tmp_path / "c.png").exists()
    assert "Traceback" not in result.stderr and result.returncode in (0, 130)
    assert result.stderr.count("error: interrupted") == (result.returncode == 130)


ENDING = """
import atexit, os, sys, threading, time
import command_line, errors
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


CLEARED = """
import time
import command_line

class Large:
    def __del__(self):
        print("clearing away", flush=True)
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
def test_ctrl_c_is_not_lost_where_python_clears_something_away(last, status, errors):
    result = interrupted([sys.executable, "-c", CLEARED.format(last=last)], "stdout", "clearing", 0.2)
    assert (result.returncode, result.stdout, result.stderr) == (status, "clearing away\n", errors)


SWALLOWED = """
import time
import command_line, errors

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
def test_ctrl_c_stays_one_where_something_makes_another_error_of_it(error, line):
    result = interrupted([sys.executable, "-c", SWALLOWED.format(error=error)], "stdout", "at work", 0.2)
    assert (result.returncode, result.stderr.splitlines()) == (130, [line])


@pytest.mark.parametrize("moment", ["a thread", "at exit", "at the last moment"])
@pytest.mark.parametrize(("last", "status"), [("pass", 0), ("raise errors.PartlyDone('one failed')", 1)])
def test_ctrl_c_while_python_ends_changes_no_status(moment, last, status):
    result = interrupted([sys.executable, "-c", ENDING.format(last=last)], "stdout", moment, 0.3)
    assert "done" in result.stdout
    check(result, status)
