"""command_line.py: flags and paths as users type them, suggestions for wrong ones, and one-line errors."""

import subprocess
import sys

import pytest
import tensorflow as tf
from conftest import ROOT, TINY_DIGITS, environment, run

from atelier import errors

SCRIPTS = [
    "train_rnn.py",
    "generate_rnn.py",
    "classify_mnist.py",
    "style_transfer.py",
    "train_style.py",
    "deepdream.py",
    "visualize_filters.py",
]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(("flags", "status"), [(["--help"], 0), (["--no-such-flag"], 2)])
def test_help_and_wrong_flags_do_not_import_tensorflow(script, flags, status):
    run_and_check_import((script, *flags), status, imported=False)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_commands_in_a_docstring_use_existing_flags(script):
    help_text = run(script, "--help").stdout
    commands = [line.split() for line in help_text.splitlines() if line.strip().startswith("python ")]
    assert len(commands) == 3
    for words in commands:
        assert words[1] == script
        for flag in (word for word in words if word.startswith("--")):
            assert help_text.count(flag) > sum(word == flag for other in commands for word in other)


def test_a_file_name_that_is_not_valid_utf_8_can_be_printed():
    code = "from atelier import command_line; command_line.run(lambda: print('picture: caf\\udce9.png'))"
    strict = environment(PYTHONIOENCODING="utf-8:strict")
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=strict, capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, r"picture: caf\udce9.png", "")


@pytest.mark.parametrize(
    "code",
    [
        "import no_such_package",
        "command_line.lazy_import('no_such_package.module')",
        "command_line.run(lambda: __import__('no_such_package.module'))",
    ],
)
def test_a_package_that_is_not_installed_is_named_in_one_line(code):
    command = [sys.executable, "-c", f"from atelier import command_line\n{code}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "error: the package no_such_package is not installed; pip install -r requirements.txt\n"


def test_the_help_states_defaults_that_depend_on_other_flags():
    printed = run("deepdream.py", "--help").stdout
    assert "default: 12; with noise: 64; with --class: 256; with --zoom: 3" in " ".join(printed.split())


def test_another_program_that_uses_the_package_keeps_its_tracebacks(tmp_path):
    (tmp_path / "program.py").write_text("from atelier import command_line\nimport no_such_package")
    command, variables = [sys.executable, tmp_path / "program.py"], environment(PYTHONPATH=ROOT)
    result = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert result.returncode == 1 and "Traceback" in result.stderr


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.InputError("two\nlines"), "two lines"),
        (OSError(28, "No space left on device", "a/b.png"), "no space left on device: a/b.png"),
        (
            MemoryError(),
            "not enough memory; try fewer or smaller pictures: lower --size, --tile, --batch-size or --count",
        ),
        (
            tf.errors.ResourceExhaustedError(None, None, "OOM"),
            "not enough memory; try fewer or smaller pictures: lower --size, --tile, --batch-size or --count",
        ),
    ],
)
def test_an_error_is_reported_in_one_line(error, text):
    assert errors.describe(error) == text


CHINA = "images/content/china.jpg"


@pytest.mark.parametrize(
    ("command", "message"),
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
        (
            ("style_transfer.py", "a.jpg", "--size", 64, "b.jpg", "--style", "c"),
            "for b.jpg; does it belong beside the first photo or after --style?",
        ),
        (
            ("train_rnn.py", "images/contents"),
            "of pictures images/contents (did you mean content?); for a set of digits, add --all-digits",
        ),
        (("train_rnn.py", "docs", "--data", "README.md"), "--data is for sets of digits: add --all-digits or --digit"),
        (("train_rnn.py", "picturs"), "picturs; for a set of digits, add --all-digits"),
    ],
)
def test_a_misspelt_flag_or_word_gets_a_suggestion(command, message):
    assert message in run(*command, status=2).stderr


def test_a_flag_given_twice_has_its_last_value_and_a_note_says_so(tmp_path):
    flags = ("--digit", 3, "--grid", 2, "--digit=8", "--output", tmp_path / "drawn.png", "--seed", 1)
    printed = run("generate_rnn.py", SHIPPED, *flags).stderr
    assert printed.count("note: ") == 1 and "note: --digit is given 2 times; the last one is used\n" in printed
    assert b"--digit=8" in (tmp_path / "drawn.png").read_bytes()
    assert run("generate_rnn.py", SHIPPED, *flags, "--seed", 2, "--quiet", "--overwrite").stderr == ""


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("train_rnn.py", "mnist", "--all-digits", "--data", "no/such"), "no/such does not exist; --data takes"),
        (("train_rnn.py", "letters", "--all-digits"), "letters is not digits, mnist or fashion_mnist"),
        (("classify_mnist.py", "trained/mnist", "--data", "no/such"), "no/such does not exist; --data takes"),
        (("classify_mnist.py", "trained/digits", "--data", "README.md"), "README.md is not a readable .npz"),
        (("classify_mnist.py", "no/such"), "there are no models no/such; trained/ holds digits, mnist, "),
        (
            ("generate_rnn.py", "trained/monet", "--digit", 3),
            "is for digits, and trained/monet holds a painter",
        ),
        (("visualize_filters.py", "block9", "--images", CHINA), "vgg16 has no block9"),
        (("deepdream.py", CHINA, "--layers", "block9"), "vgg16 has no block9"),
    ],
)
def test_a_wrong_command_is_reported_before_tensorflow_is_imported(command, message):
    assert message in run_and_check_import(command, status=2, imported=False).stderr


def test_run_and_check_import_detects_an_import_of_tensorflow(tmp_path, monkeypatch):
    (tmp_path / "tensorflow.py").touch()  # an empty module of this name is enough; the real one takes seconds
    script = tmp_path / "script.py"
    script.write_text("import sys, tensorflow; sys.exit(2)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run_and_check_import((script,), 2, imported=True)


def run_and_check_import(command, status, imported):
    """Run a script in its own process, and check its exit status and whether it imported TensorFlow."""
    code = (
        "import atexit, runpy, sys; sys.argv = sys.argv[1:]\n"
        "atexit.register(lambda: print('started:', 'tensorflow' in sys.modules))\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    words = [sys.executable, "-c", code, *map(str, command)]
    result = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stdout.splitlines()[-1]) == (status, f"started: {imported}"), result.stderr
    return result


def test_negative_numbers_and_names_after_a_double_dash_are_not_flags(tmp_path):
    odd = tmp_path / "--odd flag"
    for words in (("--style-weights", "-1", "--style", "x.png"), ("--", "--odd"), ("--style", odd.name)):
        assert "there is no" not in run("style_transfer.py", *words, status=2).stderr


SHIPPED = ROOT / "trained/digits"


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
def test_a_tilde_is_the_home_folder_in_every_input_path(command, path, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(tmp_path / path) in run(*command, status=2).stderr


def test_a_tilde_is_the_home_folder_in_every_output_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("conftest.ROOT", tmp_path)
    flags = ("--num-images", 20, "--output=~/new/c.png", "--csv", "~/c.csv")
    run("classify_mnist.py", SHIPPED, *flags)
    run("train_rnn.py", "digits", "--digit", 3, *TINY_DIGITS, "--epochs", 1, "--output", "~/m")
    for name in ("new/c.png", "c.csv", "m/model_3.keras"):
        assert (tmp_path / name).exists()


@pytest.mark.parametrize("path", ["kept/~/x.png", "~no-such-user/x.png"])
def test_no_file_or_folder_is_named_with_a_tilde(path, photo, tmp_path, monkeypatch):
    monkeypatch.setattr("conftest.ROOT", tmp_path)
    for command in (
        ("generate_rnn.py", SHIPPED, "--digit", 3, "--output", path),
        ("classify_mnist.py", SHIPPED, "--num-images", 20, "--output", path),
        ("classify_mnist.py", SHIPPED, "--num-images", 20, "--output", "c.png", "--csv", path.replace("png", "csv")),
        ("train_rnn.py", "digits", "--digit", 3, *TINY_DIGITS, "--output", path),
        ("style_transfer.py", "--style", photo, "--output", path),
    ):
        assert "write out which one is meant" in run(*command, status=2).stderr
        assert not any("~" in found.name for found in tmp_path.rglob("*"))
