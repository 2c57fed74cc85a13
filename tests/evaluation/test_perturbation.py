"""Deletion, insertion and probabilities of changed photos, against loops in float64 NumPy; and kinds of map."""

from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from keras import layers

from camlib.evaluation import parse_map, saved_place
from camlib.evaluation.metrics import pixel_order
from camlib.evaluation.scored_networks import (
    deletion_insertion_function,
    filled_chunks,
    of_gradients,
    one_value_of,
    probability_function,
)
from camlib.networks import GAP_NETWORK, VGG_NETWORK

GENERATOR = np.random.default_rng(5)
KERNEL, BIAS = GENERATOR.normal(size=(6 * 4 * 3, 3)), GENERATOR.normal(size=3)


def linear_network(activation):
    image = keras.Input((6, 4, 3))
    network = keras.Model(image, layers.Dense(3, activation=activation)(layers.Flatten()(image)))
    network.layers[-1].set_weights([KERNEL, BIAS])
    return network


def probability(images, target, ending):
    """What the linear network says of images (N, 6, 4, 3), summed over the target's classes."""
    logits = images.reshape(len(images), -1).astype(np.float64) @ KERNEL + BIAS
    if ending == "sigmoid":
        return (1 / (1 + np.exp(-logits)))[:, target].sum(axis=1)
    powers = np.exp(logits)
    return (powers / powers.sum(axis=1, keepdims=True))[:, target].sum(axis=1)


# one pass, less than a whole one, and two of which one is filled up
@pytest.mark.parametrize(("ending", "steps"), [("softmax", 12), ("sigmoid", 1), ("linear", 8)])
def test_curves_replace_pixels_in_order(ending, steps):
    network = linear_network(ending)
    image, fill = GENERATOR.normal(size=(2, 6, 4, 3)).astype(np.float32)
    values, target = GENERATOR.random((6, 4)), np.array([True, False, True])
    deletion, insertion = deletion_insertion_function(network, ending, steps)(image, fill, pixel_order(values), target)
    assert deletion.shape == insertion.shape == (steps + 1,)
    best_first = np.argsort(-values.ravel())
    for step in range(steps + 1):
        chosen = np.zeros(24, bool)
        chosen[best_first[: 24 // steps * step]] = True  # of 24 pixels
        chosen = chosen.reshape(6, 4, 1)
        pair = np.stack([np.where(chosen, fill, image), np.where(chosen, image, fill)])
        np.testing.assert_allclose([deletion[step], insertion[step]], probability(pair, target, ending), atol=1e-5)


def test_probabilities_of_any_number_of_photos():
    network = linear_network("softmax")
    of_all = probability_function(network, "softmax")
    for count in (1, 20, 23):
        images = GENERATOR.normal(size=(count, 6, 4, 3)).astype(np.float32)
        targets = GENERATOR.random((count, 3)) < 0.5
        expected = [
            probability(image[None], target, "softmax")[0] for image, target in zip(images, targets, strict=True)
        ]
        np.testing.assert_allclose(of_all(images, targets), expected, atol=1e-5)


@pytest.mark.parametrize("ending", ["sigmoid", "linear"])
def test_one_unit_stands_for_two_classes(ending):
    image = keras.Input((6, 4, 3))
    network = keras.Model(image, layers.Dense(1, activation=ending)(layers.Flatten()(image)))
    network.layers[-1].set_weights([KERNEL[:, :1], BIAS[:1]])
    images, targets = GENERATOR.normal(size=(2, 6, 4, 3)).astype(np.float32), np.array([[True, False], [False, True]])
    second = 1 / (1 + np.exp(-(images.reshape(2, -1).astype(np.float64) @ KERNEL[:, 0] + BIAS[0])))
    found = probability_function(network, ending)(images, targets)
    np.testing.assert_allclose(found, [1 - second[0], second[1]], atol=1e-5)


def test_rows_of_photos_are_filled_up_with_the_last():
    assert filled_chunks(5, 3).tolist() == [[0, 1, 2], [3, 4, 4]] and filled_chunks(3, 3).tolist() == [[0, 1, 2]]


# ---------------------------------------------------------------- kinds of map


@pytest.mark.parametrize("rows", [6, 3])
def test_guided_gradients_have_one_value_a_pixel(rows):
    """Of the map's upper half alone nothing is left below."""
    guided, cam = GENERATOR.normal(size=(2, 3, 6, 8, 3)), GENERATOR.random((2, 3, 3, 4))
    largest = np.maximum(guided.max(axis=-1), -guided.min(axis=-1))
    np.testing.assert_array_equal(of_gradients("guided-backprop", guided, cam), largest)
    found = of_gradients("guided-grad-cam", guided, cam, None if rows == 6 else (0.0, 0.0, 0.5, 1.0))
    for row, photo in np.ndindex(2, 3):
        expected = largest[row, photo, :rows] * cv2.resize(cam[row, photo], (8, rows))
        np.testing.assert_allclose(found[row, photo, :rows], expected, rtol=1e-5)
        assert not found[row, photo, rows:].any()


def test_gradients_are_scored_by_the_sum_of_their_channels_magnitudes():
    gradients, kind = GENERATOR.normal(size=(2, 3, 6, 8, 3)), parse_map("gradient")
    np.testing.assert_allclose(one_value_of(kind, gradients), np.abs(gradients).sum(axis=-1))
    assert one_value_of(parse_map("hires-cam"), gradients[..., 0]).shape == (2, 3, 6, 8)


@pytest.mark.parametrize(
    ("text", "network", "layer", "signed", "of_pixels", "slow"),
    [
        ("cam", GAP_NETWORK, None, True, False, False),
        ("grad-cam@conv2", VGG_NETWORK, "conv2", False, False, False),
        ("hires-cam", VGG_NETWORK, None, True, False, False),
        ("a/net.h5:score-cam@x/y", Path("a/net.h5"), "x/y", False, False, True),
        ("ablation-cam", VGG_NETWORK, None, False, False, True),
        ("guided-backprop", VGG_NETWORK, None, False, True, False),
        ("guided-grad-cam@conv2", VGG_NETWORK, "conv2", False, True, False),
        ("net.h5:gradient", Path("net.h5"), None, False, True, False),
        ("smooth-grad", VGG_NETWORK, None, False, True, True),
        ("occlusion", VGG_NETWORK, None, True, False, True),
    ],
)
def test_kinds_of_map_are_named_by_method_and_layer(text, network, layer, signed, of_pixels, slow):
    kind = parse_map(text)
    assert (kind.network, kind.layer, kind.is_signed) == (network, layer, signed)
    assert (kind.of_pixels, kind.is_slow) == (of_pixels, slow)
    assert kind.name == f"{network.stem} {text.rpartition(':')[2]}"
    assert (kind.ends == ("", "magnitude of the gradient")) == of_pixels


def test_a_folder_of_saved_maps_is_no_method(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("cam", "maps"):
        Path(name).mkdir()
    assert [saved_place(text) for text in ("cam", "maps", "nothing")] == [None, Path("maps"), None]
