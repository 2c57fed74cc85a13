"""What numbers mean: pixels prepared, preprocessing, probabilities, names."""

import os

import keras
import numpy as np
import pytest

from camlib.console import UserError
from camlib.preprocessing import (
    IMAGENET_GROUPS,
    InputSpec,
    imagenet_names,
    parse_preprocessing,
    probabilities_of,
    read_class_names,
)

pytestmark = pytest.mark.any_backend


def test_probabilities_of_each_ending():
    logits = np.array([[1.0, 3.0]], np.float32)
    np.testing.assert_allclose(probabilities_of(logits), [[1 / (1 + np.e**2), 1 / (1 + np.e**-2)]], rtol=1e-6)
    expected = 1 / (1 + np.exp(-np.array([[1.0, 3.0]])))
    np.testing.assert_allclose(probabilities_of(logits, "sigmoid"), expected, rtol=1e-6)
    np.testing.assert_allclose(probabilities_of(logits[:, :1], "linear"), expected[:, :1], rtol=1e-6)


def test_meaning_prepares_pixels():
    input_spec = InputSpec(["a", "ü", "c"], 32, 48, 3, 0.5, -1.0)
    pixels = np.array([[[[10, 20, 30]]]], np.uint8)
    np.testing.assert_allclose(input_spec.prepare(pixels), [[[[4, 9, 14]]]])
    caffe = InputSpec(["a"], 1, 1, 3, 1.0, [-1.0, -2.0, -3.0], bgr=True)
    np.testing.assert_allclose(caffe.prepare(pixels), [[[[29, 18, 7]]]])


def test_preprocessing_is_keras_own():
    """Against keras.applications.imagenet_utils, whose names these are."""
    photos = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), np.uint8)
    for name in ("caffe", "tf", "torch"):
        ours = InputSpec(["a"], 5, 6, 3, **parse_preprocessing(name)).prepare(photos)
        keras_own = keras.applications.imagenet_utils.preprocess_input(photos.astype(np.float32), mode=name)
        np.testing.assert_allclose(ours, keras_own, atol=1e-4)
    np.testing.assert_allclose(
        InputSpec(["a"], 5, 6, 3, **parse_preprocessing("0.5,-3")).prepare(photos), photos * 0.5 - 3.0, atol=1e-5
    )
    with pytest.raises(
        UserError, match="--preprocess 1;2 is unknown; expected none, tf, torch, caffe, vgg, or two numbers"
    ):
        parse_preprocessing("1;2")


STANDARDISED = {  # what is written: (mean, standard deviation) of pixels of 0..1
    "mean=0.485,0.456,0.406,std=0.229,0.224,0.225": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "mean=127.5,51,0,std=51,255,127.5": ([0.5, 0.2, 0], [0.2, 1, 0.5]),
    "mean=0.5,std=0.2,0.4,1": ([0.5, 0.5, 0.5], [0.2, 0.4, 1]),
    "mean=0.5,std=0.25": ([0.5], [0.25]),
    "mean=123.675,116.28,103.53,std=1": ([123.675 / 255, 116.28 / 255, 103.53 / 255], [1 / 255] * 3),
}


@pytest.mark.parametrize("text", STANDARDISED)
def test_mean_and_standard_deviation_are_those_of_pytorch(text):
    """Against torchvision's definition: (pixel / 255 - mean) / std; numbers above 1 are of pixels of 0..255."""
    mean, std = STANDARDISED[text]
    photos = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), np.uint8)
    ours = InputSpec(["a"], 5, 6, 3, **parse_preprocessing(text)).prepare(photos)
    np.testing.assert_allclose(ours, (photos / 255 - np.array(mean)) / np.array(std), atol=1e-4)
    assert ours.dtype == np.float32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mean=0.5,std=0", "divides by 0; expected standard deviations above 0"),
        ("mean=0.485,0.456,0.406,std=58,57,57", "mixes numbers of several sizes"),
        ("mean=123,116,103,std=0.229,0.224,0.225", "mixes numbers of several sizes"),
        ("mean=-0.5,std=0.5", "mixes numbers of several sizes"),
        ("mean=0.5,0.5,std=0.5", "is unknown; expected none"),
        ("mean=0.5", "is unknown; expected none"),
        ("std=0.5,mean=x", "is unknown; expected none"),
        ("nan,0", "is unknown; expected none"),
        ("1,2,3", "is unknown; expected none"),
    ],
)
def test_preprocessing_that_makes_no_sense_is_one_line(text, message):
    with pytest.raises(UserError, match=message) as refused:
        parse_preprocessing(text)
    assert f"--preprocess {text} " in str(refused.value) and len(str(refused.value)) <= 300


def test_class_names_files(tmp_path):
    path = tmp_path / "names.txt"
    for text, message in (
        ("", "is empty"),
        ("a\nB\nb\n", "repeats 'b'"),
        ("a\nb/c\n", "names 'b/c'"),
        ("a\nb\x1b[2Jc\n", r"names 'b\\x1b\[2Jc'"),
        ("a\n" + "b" * 5000, "names 'b{40}'; expected one class a line, each once, up to 200 bytes"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_class_names(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_class_names(tmp_path / "nowhere.txt")


def test_class_names_are_read_from_files_alone(tmp_path):
    """Not from what has no end, or is longer than names are."""
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "long.txt", "wb") as file:
        file.truncate(2**40)
    (tmp_path / "many.txt").write_text("\n".join(map(str, range(3_000_000))))
    pairs = (("pipe", "a pipe or a device"), ("/dev/zero", "a pipe or a device"), ("long.txt", "longer"))
    for name, reason in (*pairs, ("many.txt", "longer than 19 MB")):
        with pytest.raises(UserError, match=f"cannot be read .*{reason}.*expected a text file"):
            read_class_names(tmp_path / name)


def test_imagenet_names_and_groups():
    names = imagenet_names()
    assert len(names) == len({name.casefold() for name in names}) == 1000
    chosen = {0: "tench", 207: "golden_retriever", 281: "tabby", 339: "sorrel", 999: "toilet_tissue"}
    assert {index: names[index] for index in chosen} == chosen
    counts = {"dog": 118, "cat": 5, "horse": 1, "bird": 59}
    assert {name: len(group) for name, group in IMAGENET_GROUPS.items()} == counts
    cats = ["tabby", "tiger_cat", "Persian_cat", "Siamese_cat", "Egyptian_cat"]
    assert [names[index] for index in IMAGENET_GROUPS["cat"]] == cats
    dogs, birds = IMAGENET_GROUPS["dog"], IMAGENET_GROUPS["bird"]
    assert (names[dogs[0]], names[dogs[-1]]) == ("Chihuahua", "Mexican_hairless")
    assert (names[birds[0]], names[birds[-1]]) == ("cock", "albatross") and "tusker" not in [names[b] for b in birds]
