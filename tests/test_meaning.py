"""What numbers mean: pixels prepared, preprocessing, probabilities, names."""

import keras
import numpy as np
import pytest

from camlib.console import UserError
from camlib.meaning import (
    IMAGENET_GROUPS,
    Meaning,
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
    meaning = Meaning(["a", "ü", "c"], 32, 48, 3, 0.5, -1.0)
    pixels = np.array([[[[10, 20, 30]]]], np.uint8)
    np.testing.assert_allclose(meaning.prepare(pixels), [[[[4, 9, 14]]]])
    caffe = Meaning(["a"], 1, 1, 3, 1.0, [-1.0, -2.0, -3.0], bgr=True)
    np.testing.assert_allclose(caffe.prepare(pixels), [[[[29, 18, 7]]]])


def test_preprocessing_is_keras_own():
    """Against keras.applications.imagenet_utils, whose names these are."""
    photos = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), np.uint8)
    for name in ("caffe", "tf", "torch"):
        ours = Meaning(["a"], 5, 6, 3, **parse_preprocessing(name)).prepare(photos)
        keras_own = keras.applications.imagenet_utils.preprocess_input(photos.astype(np.float32), mode=name)
        np.testing.assert_allclose(ours, keras_own, atol=1e-4)
    np.testing.assert_allclose(
        Meaning(["a"], 5, 6, 3, **parse_preprocessing("0.5,-3")).prepare(photos), photos * 0.5 - 3.0, atol=1e-5
    )
    with pytest.raises(
        UserError, match="--preprocess 1;2 is unknown; expected none, tf, torch, caffe, vgg, or two numbers"
    ):
        parse_preprocessing("1;2")


def test_class_names_files(tmp_path):
    path = tmp_path / "names.txt"
    for text, message in (("", "is empty"), ("a\nB\nb\n", "repeats 'b'")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_class_names(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_class_names(tmp_path / "nowhere.txt")


def test_imagenet_names_and_groups():
    names = imagenet_names()
    assert len(names) == len({name.casefold() for name in names}) == 1000
    assert (names[0], names[207], names[281], names[339], names[999]) == (
        "tench", "golden_retriever", "tabby", "sorrel", "toilet_tissue")  # fmt: skip
    assert {name: len(group) for name, group in IMAGENET_GROUPS.items()} == {
        "dog": 118,
        "cat": 5,
        "horse": 1,
        "bird": 59,
    }
    assert [names[index] for index in IMAGENET_GROUPS["cat"]] == [
        "tabby", "tiger_cat", "Persian_cat", "Siamese_cat", "Egyptian_cat"]  # fmt: skip
    dogs, birds = IMAGENET_GROUPS["dog"], IMAGENET_GROUPS["bird"]
    assert (names[dogs[0]], names[dogs[-1]]) == ("Chihuahua", "Mexican_hairless")
    assert (names[birds[0]], names[birds[-1]]) == ("cock", "albatross") and "tusker" not in [names[b] for b in birds]
