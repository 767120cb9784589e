"""Mistakes that are easily made on the command line, and the commands that the messages recommend."""

import os
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, TINY_DIGITS, pixels, results, run, write_idx_folder
from PIL import Image

from atelier import hardware, imaging, naming
from atelier.networks import pretrained
from atelier.pixel_rnn import model_files, recurrent
from atelier.style import learned_styles, style_training

CHINA = "images/content/china.jpg"
WAVE, SCREAM = ROOT / "images/style/wave.jpg", ROOT / "images/style/scream.jpg"


def recommended(message):
    """Return the words of the command that a message recommends at its end: the script and its arguments."""
    _, *words = shlex.split(message[message.index("python") :])
    return words


def test_a_picture_in_place_of_the_models_is_classified_with_image(picture):
    error = run("classify_mnist.py", picture, "--quiet", status=2).stderr
    assert f"{picture} is a file, not a folder of models; to classify a picture: " in error
    assert "digit" in results(run(*recommended(error)).stdout)


def test_a_picture_after_the_models_is_said_to_belong_after_image(picture):
    error = run("classify_mnist.py", "trained/digits", picture, status=2).stderr
    assert f"there is no place for {picture}; does it belong after --image?" in error


def test_a_file_is_not_a_folder_of_models(picture):
    assert "is a file; give a folder of models" in run("generate_rnn.py", picture, status=2).stderr


def test_a_model_file_is_not_taken_for_a_picture():
    assert "a file; give a folder of models" in run("classify_mnist.py", "trained/mnist/model_0.keras", status=2).stderr


def obey(error, folder):
    """Run the command that a message recommends, and return the path of the picture that it writes into `folder`."""
    before = {*folder.rglob("*.png")}
    run(*recommended(error))
    (made,) = {*folder.rglob("*.png")} - before
    return made


def test_a_photo_after_a_learned_style_is_said_to_come_first(photo, tmp_path):
    flags = ("--size", 64, "--output", tmp_path / "a.png")
    error = run("style_transfer.py", *flags, "--learned", "wave", photo, status=2).stderr
    assert f"{photo} is no learned style; a photo comes before --learned: " in error
    assert pixels(obey(error, tmp_path)).shape == (48, 64, 3)
    assert "needs a photo, or a folder" in run("style_transfer.py", "--learned", "wave", status=2).stderr


def test_a_photo_among_the_paintings_is_said_to_come_first(photo, tmp_path):
    flags = ("--size", 64, "--iterations", 1, "--output", tmp_path / "a.png", "--quiet")
    error = run("style_transfer.py", *flags, "--style", WAVE, photo, status=2).stderr
    assert f"{photo} comes after --style, so it is taken for a painting; for a texture of all" in error
    assert pixels(obey(error, tmp_path)).shape == (48, 64, 3)


def test_a_texture_of_two_paintings_is_made_when_it_is_asked_for(tmp_path):
    flags = ("--size", 64, "--iterations", 1, "--init", "noise", "--output", tmp_path / "a.png")
    assert "this makes a texture" in run("style_transfer.py", "--style", WAVE, SCREAM, *flags).stderr
    assert pixels(tmp_path / "a.png").shape == (64, 64, 3)


def test_a_layer_after_the_pictures_is_said_to_come_first(photo, tmp_path):
    flags = ("--filters", 1, "--dreams", 0, "--size", 64, "--output", tmp_path / "a.png", "--quiet")
    error = run("visualize_filters.py", *flags, "--images", photo, "block1_conv1", status=2).stderr
    assert "block1_conv1 is no file; if it is the layer, it comes before --images: " in error
    assert obey(error, tmp_path) == tmp_path / "a.png"


def test_several_photos_are_taken_as_a_folder_is(photo, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(photo, photos / name)
    flags = ("--learned", "wave", "--size", 64, "--output", tmp_path / "painted", "--quiet")
    run("style_transfer.py", *sorted(photos.iterdir()), *flags)
    assert {path.name for path in (tmp_path / "painted").glob("*.png")} == {"a.png", "b.png"}
    assert "done before: 2" in run("style_transfer.py", photos, *flags).stdout
    few = ("--steps", 1, "--octaves", 1, "--size", 64, "--output", tmp_path / "dreamed", "--quiet")
    run("deepdream.py", photos / "b.jpg", photos / "a.jpg", *few)
    assert {path.name for path in (tmp_path / "dreamed").glob("*.png")} == {"a.png", "b.png"}


def test_several_photos_are_refused_where_one_is_missing_or_the_results_would_be_among_them(photo, tmp_path):
    command = ("style_transfer.py", photo, "no.jpg", "--learned", "wave")
    assert "no.jpg does not exist" in run(*command, status=2).stderr
    (tmp_path / "empty").mkdir()
    flags = ("--learned", "wave", "--size", 64, "--output", tmp_path / "painted")
    run("style_transfer.py", tmp_path / "empty", photo, *flags)
    assert (
        f"{tmp_path / 'empty'} holds no picture and no film\n"
        in run("style_transfer.py", tmp_path / "empty", *flags, status=2).stderr
    )
    command = ("style_transfer.py", photo, photo, "--learned", "wave", "--output", photo.parent)
    assert "is where the photos are" in run(*command, status=2).stderr
    assert "give it alone" in run("deepdream.py", "noise", photo, status=2).stderr


def test_results_of_several_photos_are_named_after_their_folder(tmp_path):
    photos = [tmp_path / "holiday/day 1/a.jpg", tmp_path / "holiday/day 2/b.jpg"]
    assert naming.name_of_photos(photos) == "holiday" and naming.name_of_photos(photos[:1]) == "a"


@pytest.mark.parametrize(
    "command",
    [
        ("generate_rnn.py", "trained/monet"),
        ("classify_mnist.py", "trained/digits"),
        ("style_transfer.py", CHINA, "--learned", "wave"),
        ("style_transfer.py", "images/content", "--learned", "wave"),
        ("deepdream.py", CHINA),
        ("visualize_filters.py", "block1_conv1", "--images", CHINA),
        ("train_rnn.py", "digits", "--digit", 3),
        ("train_rnn.py", "images/content"),
        ("train_style.py", WAVE),
    ],
)
def test_an_output_that_cannot_be_written_is_named_before_any_work(command, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    several = command[0].startswith("train") or command[1] == "images/content"
    output = tmp_path / "file" / ("made" if several else "made.png")
    with monkeypatch.context() as patched:
        for module, work in WORK:
            patched.setattr(module, work, refuse_work)
        error = run(*command, "--output", output, "--quiet", status=2).stderr
    assert error.startswith(f"error: {output}") and "can't be written: " in error and error.count("\n") == 1


WORK = [
    (recurrent, "make_sampler"),
    (model_files, "load_rnn"),
    (learned_styles, "load_network"),
    (pretrained, "build_network"),
    (pretrained, "load_vgg"),
]


def refuse_work(*_, **__):
    raise AssertionError("the work has begun")


def test_a_read_only_folder_is_named_as_it_was_typed(tmp_path):
    folder = tmp_path / "ro"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write into any folder")
    error = run("generate_rnn.py", "trained/monet", "--output", folder / "a.png", status=2).stderr
    assert error == f"error: {folder / 'a.png'} can't be written: permission denied; give another name\n"


def test_a_phones_photo_gets_the_same_advice_alone_and_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(imaging, "picture_endings", lambda: {".jpg"})  # as without pillow-heif
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/phone.HEIC").write_bytes(b"what Pillow does not read")
    advice, flags = (
        "pip install pillow-heif, which reads HEIC, or save as JPEG",
        ("--learned", "wave", "--output", tmp_path / "a"),
    )
    alone = run("style_transfer.py", tmp_path / "photos/phone.HEIC", *flags[:2], status=2).stderr
    assert "phone.HEIC is not a picture that can be read" in alone and advice in alone
    assert advice in run("style_transfer.py", tmp_path / "photos", *flags, status=2).stderr
    assert advice in run("train_rnn.py", tmp_path / "photos", status=2).stderr


def test_a_jpeg_with_the_name_of_a_phones_photo_is_read_alone_and_in_a_folder(photo, tmp_path):
    (tmp_path / "photos").mkdir()
    shutil.copy(photo, tmp_path / "photos/phone.HEIC")
    flags = ("--learned", "wave", "--size", 64, "--output")
    run("style_transfer.py", tmp_path / "photos/phone.HEIC", *flags, tmp_path / "a.png")
    assert "can't be read" not in run("style_transfer.py", tmp_path / "photos", *flags, tmp_path / "b").stderr
    assert (pixels(tmp_path / "b/phone.png") == pixels(tmp_path / "a.png")).all()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("style_transfer.py", "https://example.com/a.jpg", "--learned", "wave"), "https://example.com/a.jpg is a web"),
        (("deepdream.py", CHINA, "--guide=http://example.com/a.jpg"), "http://example.com/a.jpg is a web address"),
        (("classify_mnist.py", "x", "--num-images", "huge"), "--num-images takes a whole number, and huge is none ("),
        (("style_transfer.py", CHINA, "--strength", "0,5"), "--strength takes a number, and 0,5 is none; write 0.5 ("),
        (("generate_rnn.py", "x", "--digit", "4.5"), "--digit takes a whole number, and 4.5 is none ("),
    ],
)
def test_a_web_address_or_a_word_in_place_of_a_number_is_explained(command, message):
    assert message in run(*command, status=2).stderr


def test_a_photo_after_a_flag_that_takes_numbers_is_said_to_come_first(photo, tmp_path):
    flags = ("--size", 64, "--output", tmp_path / "a.png", "--quiet", "--style", WAVE)
    error = run("style_transfer.py", *flags, "--iterations", 1, photo, status=2).stderr
    assert f"--iterations takes a whole number, and {photo} is none; give it before --iterations: " in error
    assert pixels(obey(error, tmp_path)).shape == (48, 64, 3)


def test_a_file_of_mnist_in_place_of_its_folder_is_explained(digits, tmp_path):
    folder = write_idx_folder(tmp_path / "idx", *digits)
    command = ("classify_mnist.py", "trained/digits", "--output", tmp_path / "a.png", "--data")
    error = run(*command, folder / "train-images-idx3-ubyte.gz", status=2).stderr
    assert error.endswith(f"for the IDX files beside it: --data {folder}\n") and "pickle" not in error
    run(*command, folder)
    assert "an .npz or a folder with the four IDX files" in run(*command, WAVE, "--overwrite", status=2).stderr


def test_a_folder_of_photos_among_the_paintings_is_said_to_belong_after_photos(photo):
    error = run("train_style.py", WAVE, photo.parent, status=2).stderr
    assert f"{photo.parent} is a folder; a folder of photos comes after --photos" in error


def test_a_folder_without_photos_is_said_to_have_none_once(tmp_path):
    error = run("train_style.py", WAVE, "--photos", tmp_path, "--output", tmp_path.parent / "made", status=2).stderr
    assert error == f"error: {tmp_path} holds no photo to learn from\n"


def test_a_class_by_name_is_explained_where_the_classifier_names_none_and_works_where_it_does(tmp_path):
    shutil.copy(ROOT / "trained/digit_classifier/epoch_32.keras", tmp_path / "own.keras")
    flags = ("--convnet", tmp_path / "own.keras", "--size", 32, "--steps", 1, "--output", tmp_path / "a.png")
    error = run("deepdream.py", "noise", *flags, "--class", "three", status=2).stderr
    assert f"{tmp_path / 'own.keras'} does not name its classes; give --class a number, or list the names" in error
    assert f"in {tmp_path / 'meta.json'}" in error
    (tmp_path / "meta.json").write_text('{"classes": ["one", "two", "three"]}')
    assert "class: three" in run("deepdream.py", "noise", *flags, "--class", "three").stdout


def test_mnist_without_the_internet_is_told_to_come_from_data(monkeypatch, tmp_path):
    def load_data():
        raise OSError("no internet")

    monkeypatch.setattr(hardware.keras.datasets.mnist, "load_data", load_data)
    error = run("classify_mnist.py", "trained/mnist", "--output", tmp_path / "a.png", status=2).stderr
    assert "--data takes an .npz like Keras's or a folder with the four IDX files" in error


def test_a_picture_by_other_flags_gets_a_number_and_the_same_command_is_refused(photo, tmp_path, monkeypatch):
    monkeypatch.setattr("conftest.ROOT", tmp_path)
    network = ("--convnet", ROOT / "trained/digit_classifier/epoch_32.keras", "--layers", "conv2")
    dream = ("deepdream.py", photo, *network, "--size", 32, "--octaves", 1, "--steps", 1, "--quiet")
    classify = ("classify_mnist.py", ROOT / "trained/digits", "--quiet", "--num-images")
    draw = ("generate_rnn.py", ROOT / "trained/digits", "--digit", 3, "--grid")
    for key, name, first, second in (
        ("picture", "china__dream", (*dream, "--seed", 0), (*dream, "--seed", 1)),
        ("picture", "digits_3", (*draw, 1), (*draw, 2)),
        ("confusion_matrix", "digits_confusion", (*classify, 20), (*classify, 30)),
    ):
        assert results(run(*first).stdout)[key] == f"generated/{name}.png"
        assert results(run(*second).stdout)[key] == f"generated/{name}-2.png"
        for command, number in ((first, ""), (second, "-2")):
            assert f"generated/{name}{number}.png exists already" in run(*command, status=2).stderr
        assert results(run(*second, "--overwrite").stdout)[key] == f"generated/{name}-2.png"
        assert results(run(*second, "--precision", "float32", "--overwrite").stdout)[key] == f"generated/{name}.png"


def test_networks_that_are_included_have_the_same_names_in_every_folder(photo, tmp_path, monkeypatch):
    monkeypatch.setattr("conftest.ROOT", tmp_path)
    for number, name in enumerate(("mnist", "trained/mnist")):
        flags = ("--digit", 3, "--grid", 1, "--quiet")
        drawn = run("generate_rnn.py", name, *flags, "--output", f"drawn {number}.png")
        assert results(drawn.stdout)["picture"] == f"drawn {number}.png"
    for name in ("wave", "trained/styles/wave"):
        run(
            "style_transfer.py", photo, "--learned", name, "--size", 64, "--output", tmp_path / f"{name}.png", "--quiet"
        )
    classified = run("classify_mnist.py", "digits", "--num-images", 20, "--quiet").stdout
    assert results(classified)["confusion_matrix"] == "generated/digits_confusion.png"
    for name in ("digit_classifier", "trained/digit_classifier"):
        run("deepdream.py", "--convnet", name, "--list-layers")
    flags = ("--filters", 1, "--size", 32, "--images", photo, "--quiet")
    run("visualize_filters.py", "--evolution", "digit_classifier", *flags)


def test_models_in_the_working_folder_come_before_those_that_are_included(tiny_models, tmp_path, monkeypatch):
    monkeypatch.setattr("conftest.ROOT", tmp_path)
    shutil.copytree(tiny_models, tmp_path / "trained/mnist")
    (tmp_path / "monet").mkdir()  # not of models
    for name, used in (("mnist", "trained/mnist"), ("digits", str(ROOT / "trained/digits"))):
        drawn = results(run("generate_rnn.py", name, "--digit", 3, "--grid", 1, "--quiet").stdout)
        assert imaging.read_about(tmp_path / drawn["picture"])["weights"] == used
    run("generate_rnn.py", "monet", "--count", 1, "--quiet")


@pytest.mark.parametrize(("script", "name"), [("generate_rnn.py", "minst"), ("classify_mnist.py", "trained/minst")])
def test_a_misspelt_name_of_models_gets_a_suggestion(script, name):
    error = run(script, name, status=2).stderr
    assert f"there are no models {name} (did you mean mnist?)" in error
    assert "trained/ holds digits, mnist, mnist_best, mnist_binarized, mnist_record, monet" in error


@pytest.fixture
def small_painting(tmp_path):
    """The Great Wave with 80 pixels."""
    painting = Image.open(WAVE)
    painting.thumbnail((80, 80))
    painting.save(tmp_path / "small.png")
    return tmp_path / "small.png"


def test_a_painting_that_is_too_small_is_noted_and_the_scale_in_the_note_avoids_it(photo, small_painting, tmp_path):
    command = ("style_transfer.py", photo, "--style", small_painting, "--size", 128, "--iterations", 1, "--overwrite")
    command += ("--output", tmp_path / "a.png")
    told = run(*command).stderr
    assert (
        f"note: {small_painting} is enlarged from 80 to 128 pixels, which blurs it; --style-scale 0.625 keeps" in told
    )
    assert "enlarged" not in run(*command, "--style-scale", 0.625).stderr
    assert "enlarged" not in run(*command, "--quiet").stderr


@pytest.mark.slow
def test_the_training_of_a_style_notes_a_small_painting_and_says_how_long_its_end_takes(
    small_painting, tmp_path, monkeypatch
):
    for name, value in (("CROP", 64), ("EVALUATED_PIECES", 1), ("SEARCH_STEPS", 6)):
        monkeypatch.setattr(style_training, name, value)
    command = ("train_style.py", small_painting, "--size", 128, "--steps", 1, "--output", tmp_path / "style")
    told = run(*command).stderr
    assert "is enlarged from 80 to 128 pixels, which blurs it; --size 80 keeps it sharp" in told
    end = told[told.index("note: comparing the network with a short search") :]
    assert "time left: about " in end and " s for this comparison" in end
    mixed = ("style_transfer.py", CHINA, "--learned", tmp_path / "style", "wave", "--output", tmp_path / "a.png")
    error = run(*mixed, status=2).stderr
    assert "a style that train_style.py learns with --keep-network (and another --output) can be mixed" in error


def test_the_help_says_what_the_strengths_of_a_dream_are():
    told = " ".join(run("deepdream.py", "--help").stdout.split())
    assert "strength_before and strength_after. For layers, the strength is the mean square of the activations" in told


def test_size_0_is_recommended_only_where_it_is_allowed(photo, tmp_path):
    command, flags = ("style_transfer.py", photo), ("--output", tmp_path / "a.png")
    assert "must be at least 32\n" in run(*command, "--style", WAVE, "--size", 5, status=2).stderr
    assert "32, or 0 for the photo's own\n" in run(*command, "--learned", "wave", "--size", 5, status=2).stderr
    run(*command, "--learned", "wave", "--size", 0, *flags)
    assert pixels(tmp_path / "a.png").shape == (96, 128, 3)


def test_a_learned_style_is_not_drawn_with_but_painted_with(photo, tmp_path):
    for name in ("wave", "trained/styles/wave"):
        error = run("generate_rnn.py", name, status=2).stderr
        assert f"{name} holds a learned style, which paints photos: " in error
    words = [photo if word == "PHOTO" else word for word in recommended(error)]
    run(*words, "--size", 64, "--output", tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").shape == (48, 64, 3)


def test_a_classifier_is_not_drawn_with_but_dreamed_of(tmp_path):
    error = run("generate_rnn.py", "trained/digit_classifier", status=2).stderr
    assert "trained/digit_classifier holds a classifier, which can dream: " in error
    run(*recommended(error), "--size", 32, "--steps", 1, "--octaves", 1, "--output", tmp_path / "a.png")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("style_transfer.py", CHINA, "--mask", "--learned", "wave"), "--mask needs MASK after it ("),
        (("style_transfer.py", CHINA, "--learned"), "--learned needs STYLE[=WEIGHT] after it ("),
        (("deepdream.py", CHINA, "--zoom"), "--zoom needs FRAMES after it ("),
        (("train_style.py",), "this is missing: PAINTING ("),
        (
            ("style_transfer.py", "", "--learned", "wave"),
            "a word of this command is empty; a variable of the shell may",
        ),
        (
            ("style_transfer.py", CHINA, "--style="),
            "--style of this command is empty; a variable of the shell may have",
        ),
        (("style_transfer.py", CHINA, "--size", "512px"), "512px is none; write 512 ("),
        (("style_transfer.py", CHINA, "--size", "480x640"), "480x640 is none; write 640 ("),
        (("style_transfer.py", CHINA, "--strength", "70%"), "70% is none; write 0.7 ("),
        (("style_transfer.py", CHINA, "--learned", "wave,scream"), "no style wave,scream; put spaces, not commas"),
        (
            ("style_transfer.py", CHINA, "--style", "LICENSE,README.md"),
            "does not exist; put spaces, not commas, between",
        ),
        (("style_transfer.py", CHINA, "--learned", WAVE), f"for the style of a painting: --style {WAVE}, or let"),
        (
            ("style_transfer.py", CHINA, "--style", "wave"),
            "wave does not exist; for the learned style of this name: --l",
        ),
        (
            ("style_transfer.py", CHINA, "wave"),
            "wave does not exist; for the learned style of this name: --learned wave",
        ),
        (("style_transfer.py", "images/content/chin.jpg"), "chin.jpg does not exist (did you mean china.jpg?)"),
        (
            ("style_transfer.py", CHINA, "--learned", "wave", "--output", "images"),
            "images is a folder; give the name of",
        ),
        (("deepdream.py", "nois"), "nois does not exist (did you mean noise?)"),
        (
            ("deepdream.py", CHINA, "--layers", "block4_conv3,block5_conv1"),
            "without spaces or commas, and a space between",
        ),
        (
            ("deepdream.py", CHINA, "--layers", "block4_conv3", "=", "2"),
            "without spaces or commas, and a space between",
        ),
        (
            ("visualize_filters.py", CHINA, "--images", "block3_conv1"),
            f"{CHINA} is no layer; the layer comes first, the",
        ),
        (("generate_rnn.py", "monet", "--complete", "images"), "images is a folder, and one picture is needed"),
        (("train_rnn.py", "digits"), "digits is a set of digits: add --all-digits or --digit CLASS"),
    ],
)
def test_further_mistakes_are_explained(command, message):
    assert message in run(*command, status=2).stderr


def test_a_file_of_digits_in_place_of_a_folder_of_pictures_is_explained(digits, tmp_path):
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez(tmp_path / "mine.npz", **dict(zip(names, digits)))
    error = run("train_rnn.py", tmp_path / "mine.npz", status=2).stderr
    assert "is a file, and not a folder of pictures; for a set of digits in it: " in error
    words = recommended(error)
    words[words.index("--all-digits")] = "--digit=3"
    run(*words, *TINY_DIGITS, "--epochs", 1, "--output", tmp_path / "models")
    assert (tmp_path / "models/model_3.keras").exists()


def test_a_file_whose_name_looks_like_a_flag_is_read_with_its_folder(photo, tmp_path, monkeypatch):
    shutil.copy(photo, tmp_path / "-dash.jpg")
    monkeypatch.setattr("conftest.ROOT", tmp_path)
    flags = ("--learned", "wave", "--size", 64, "--output", "a.png")
    error = run("style_transfer.py", "-dash.jpg", *flags, status=2).stderr
    assert "-dash.jpg looks like a flag; write ./-dash.jpg for the file" in error
    run("style_transfer.py", "./-dash.jpg", *flags)


@pytest.mark.parametrize("side", [1, 80])
def test_a_plain_picture_is_not_classified(side, tmp_path):
    Image.new("L", (side, side), 3).save(tmp_path / "plain.png")
    error = run("classify_mnist.py", "digits", "--image", tmp_path / "plain.png", status=2).stderr
    assert "plain.png shows nothing but a plain ground" in error


def test_several_pictures_after_again_are_refused(photo, tmp_path):
    for name in "abc":
        imaging.save_png(tmp_path / f"{name}.png", pixels(photo).astype("uint8"), {"command": "python deepdream.py x"})
    error = run("deepdream.py", "--again", *sorted(tmp_path.glob("?.png")), status=2).stderr
    assert "a.png is followed by 2 others; repeat each by a command of its own" in error


def test_an_environment_that_is_not_activated_is_named(tmp_path):
    for name in ("style_transfer.py", "config.py"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "atelier", tmp_path / "atelier")
    command = [sys.executable, "-S", tmp_path / "style_transfer.py", "--help"]  # without the environment's packages
    told = subprocess.run(command, capture_output=True, text=True).stderr
    assert told == "error: the package lazy_loader is not installed; pip install -r requirements.txt\n"
    (tmp_path / ".venv").mkdir()
    told = subprocess.run(command, capture_output=True, text=True).stderr
    assert f"; first: source {tmp_path}/.venv/bin/activate\n" in told and told.count("\n") == 1
