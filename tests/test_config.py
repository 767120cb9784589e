"""config.py: defaults, ranges and presets."""

import argparse
import dataclasses
import re
import typing

import pytest
from conftest import ROOT

import config
from atelier import command_line
from atelier.pixel_rnn import model_meta

ALL = [config.Train, config.Generate, config.Classify, config.Style, config.Learn, config.Dream, config.Filters]


def test_every_field_is_a_flag_with_its_type_and_default():
    parser = argparse.ArgumentParser()
    command_line.add_options(parser, config.Train)
    given = parser.parse_args(["--num-images", "5", "--validation-split", "0.25", "--overwrite"])
    options = command_line.collect(config.Train, given)
    assert (options.num_images, options.validation_split, options.overwrite) == (5, 0.25, True)
    assert options.seed == config.Train().seed and options.output is None


def test_flags_override_a_preset_and_leave_the_rest():
    parser = argparse.ArgumentParser()
    command_line.add_options(parser, config.DigitConfig)
    recipe = command_line.collect(config.DigitConfig, parser.parse_args(["--epochs", "3"]), config.PRESETS["best"])
    assert recipe.epochs == 3 and recipe.size == config.PRESETS["best"].size


def test_the_tutorial_preset_has_the_published_settings():
    recipe = config.PRESETS["tutorial"]
    assert (recipe.size, recipe.levels, recipe.cell, recipe.units, recipe.layers) == (10, 7, "gru", 256, 1)
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.schedule) == (12, 32, 1e-3, "constant")
    assert (recipe.context, recipe.dropout, recipe.shift) == ("previous", 0, 0)


FREE_TEXT = {
    "layer",
    "class_",
    "content_layers",
    "style_layers",
    "layers",
    "learned",
    "scheduler",
    "start",
    "end",
}  # options that take the names of layers, classes or styles, an address, or a time


@pytest.mark.parametrize(
    "options", [config.Train, config.Generate, config.Classify, config.Style, config.Dream, config.Filters]
)
def test_only_these_options_take_free_text(options):
    for item in dataclasses.fields(options):
        kinds = {item.type, *typing.get_args(item.type)}
        if str in kinds and not item.metadata["choices"]:
            assert item.name in FREE_TEXT


def test_a_range_describes_and_contains_the_numbers_it_allows():
    assert str(config.Range(least=1, most=8)) == "from 1 to 8" and str(config.Range(least=1)) == "at least 1"
    share = config.Range(least=0, below=1)
    assert str(share) == "at least 0 and below 1" and 0 in share and 0.999 in share and 1 not in share
    rate = config.Range(above=0, most=1)
    assert str(rate) == "above 0 and at most 1" and 1 in rate and 0 not in rate and 1.001 not in rate
    assert 10**400 not in config.Range(least=0, most=9)
    assert float("nan") not in rate and float("inf") not in config.Range(least=0) and -1 not in config.Range(least=0)


@pytest.mark.parametrize("options", ALL)
def test_every_number_has_a_range_that_contains_its_default(options):
    for item in dataclasses.fields(options):
        kinds = {item.type, *typing.get_args(item.type)}
        if kinds & {int, float} and typing.get_origin(item.type) is not tuple:
            assert item.metadata["range"] is not None, item.name
            assert item.default is None or item.default in item.metadata["range"], item.name
    for preset in config.PRESETS.values():
        for item in dataclasses.fields(preset):
            value, allowed = getattr(preset, item.name), item.metadata["range"]
            assert isinstance(value, str | bool) or value is None or value in allowed, item.name


@pytest.mark.parametrize("options", ALL)
def test_no_switch_is_on_by_default(options):
    for item in dataclasses.fields(options):
        assert item.default is not True, item.name


@pytest.mark.parametrize(
    ("folder", "preset"),
    [
        ("mnist", "tutorial"),
        ("mnist_best", "best"),
        ("mnist_record", "record"),
        ("mnist_binarized", "binarized"),
        ("digits", "digits"),
        ("monet", "painter"),
    ],
)
def test_the_shipped_models_were_trained_with_their_presets(folder, preset):
    recipe = model_meta.load_meta(ROOT / "trained" / folder)["recipe"]
    expected = dataclasses.asdict(config.PRESETS[preset])
    assert recipe == expected | {"window": recipe["window"]} if preset == "painter" else recipe == expected


DOCUMENTED = r"^\| `--([\w-]+) .*\(default: ([\w.]+)[,)]"  # in a table of flags in the docs


def test_the_docs_have_the_right_defaults():
    found = 0
    dreams, styles = ((ROOT / f"docs/{page}.md").read_text() for page in ("dreams", "styles"))
    search, learning = styles.split("### Learn your own painting")
    for text, options in ((search, config.Style()), (learning, config.Learn()), (dreams, config.Dream())):
        for flag, default in re.findall(DOCUMENTED, text, re.MULTILINE):
            value = getattr(options, flag.replace("-", "_"))
            assert default == (f"{value:g}" if isinstance(value, float) else str(value)), flag
            found += 1
    assert found >= 8


def test_options_of_all_scripts_have_the_same_common_defaults():
    common = {"overwrite": False, "seed": 0, "precision": "auto", "quiet": False, "debug": False}
    for options in ALL:
        assert common.items() <= dataclasses.asdict(options()).items()
