"""config.py: flags made from the dataclasses, and the command-line manners that all scripts share."""

import argparse
import subprocess
import sys

import pytest
from conftest import ROOT, environment, run

import config

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
    config.add_options(parser, config.Train)
    given = parser.parse_args(["--num-images", "5", "--validation-split", "0.25", "--overwrite"])
    options = config.collect(config.Train, given)
    assert (options.num_images, options.validation_split, options.overwrite) == (5, 0.25, True)
    assert options.seed == config.Train().seed and options.output is None


def test_flags_override_a_preset_and_leave_the_rest():
    parser = argparse.ArgumentParser()
    config.add_options(parser, config.DigitRecipe)
    recipe = config.collect(config.DigitRecipe, parser.parse_args(["--epochs", "3"]), config.PRESETS["best"])
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
    code = "import config; config.run(lambda: print('picture: caf\\udce9.png'))"
    strict = environment(PYTHONIOENCODING="utf-8:strict")
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=strict, capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, r"picture: caf\udce9.png", "")


def test_the_help_says_what_other_flags_bring_with_them():
    printed = run("deepdream.py", "--help").stdout
    assert "default: 12; with --class: 60; with --zoom: 3" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (config.InputError("two\nlines"), "two lines"),
        (OSError(28, "No space left on device", "a/b.png"), "no space left on device: a/b.png"),
        (MemoryError(), "not enough memory; try fewer or smaller pictures"),
    ],
)
def test_an_error_is_one_line(error, text):
    assert config.describe(error) == text
