"""config.py: flags made from the dataclasses, and the command-line manners that all scripts share."""

import argparse
import dataclasses
import typing

import pytest

import command_line
import config


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


WORDS = {"layer", "class_", "content_layers", "style_layers", "layers"}  # names of a network's layers and classes


@pytest.mark.parametrize(
    "options", [config.Train, config.Generate, config.Classify, config.Style, config.Dream, config.Filters]
)
def test_an_option_that_is_no_choice_and_no_layer_is_a_path(options):
    for item in dataclasses.fields(options):
        kinds = {item.type, *typing.get_args(item.type)}
        if str in kinds and not item.metadata["choices"]:
            assert item.name in WORDS
