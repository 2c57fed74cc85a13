"""Deletion, insertion and probabilities of changed photos, against loops in float64 NumPy."""

import keras
import numpy as np
import pytest
from keras import layers

from camlib.evaluation.metrics import pixel_order
from camlib.evaluation.scored_networks import deletion_insertion_function, probability_function

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
