"""The compiled explainer: many classes in portions, batches with filling, half precision."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from small_networks import GENERATOR, IMAGES, SHAPE, explained, functional, with_weights

import gradcam_vgg16
from camlib import explaining
from camlib.demo.scenes import demo_folder
from camlib.explaining import CLASSES_AT_ONCE
from camlib.model_files import VGG_NETWORK, load_network
from camlib.photos import find_photos, read_batches
from camlib.subject import set_dtype
from camlib.surveying import survey
from gradcam_vgg16 import explainer


def test_many_classes_are_explained_in_portions():
    network = with_weights(functional())
    plan = survey(network, SHAPE)
    explain, images = explainer(network, plan), ops.convert_to_tensor(IMAGES)
    rows = np.arange(2 * CLASSES_AT_ONCE + 3) % 4
    many = explain(images, ops.convert_to_tensor(np.repeat(rows[:, None].astype(np.int32), len(IMAGES), axis=1)))
    few = explained(network, plan)
    for name in ("cams", "guided", "products"):
        np.testing.assert_allclose(ops.convert_to_numpy(getattr(many, name)), getattr(few, name)[rows], atol=1e-6)
    assert ops.convert_to_numpy(many.chosen)[:, 0].tolist() == rows.tolist()


def test_slow_methods_skip_what_fills_up_a_batch():
    network = with_weights(functional())
    plan = survey(network, SHAPE)
    classes = ops.convert_to_tensor(np.zeros((1, len(IMAGES)), np.int32))
    explain = explainer(network, plan, method="ablation-cam")
    whole, some = (
        ops.convert_to_numpy(explain(ops.convert_to_tensor(IMAGES), classes, count).cams) for count in (2, 1)
    )
    np.testing.assert_allclose(some[:, :1], whole[:, :1], atol=1e-6)
    assert whole[:, 1].any() and not some[:, 1].any()


def test_small_gradients_survive_float16():
    """The mean over 100x100 pixels and small weights: gradients of 1e-8, below what float16 holds."""
    image = keras.Input((100, 100, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv", padding="same")(image)
    network = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    network.layers[-1].set_weights([1e-3 * GENERATOR.normal(size=(4, 2)), np.zeros(2)])
    images = GENERATOR.random((1, 100, 100, 3)).astype(np.float32)
    classes = ops.convert_to_tensor(np.array([[0], [1]], np.int32))
    found = {}
    for dtype in ("float32", "float16"):
        set_dtype(network, dtype)
        plan = survey(network, (100, 100, 3))
        found[dtype] = explainer(network, plan, method="hires-cam")(ops.convert_to_tensor(images), classes)
    for name in ("guided", "cams"):
        full, half = (ops.convert_to_numpy(getattr(found[dtype], name)) for dtype in found)
        assert full.any()
        assert np.corrcoef(full.ravel(), half.ravel())[0, 1] > 0.999  # some ReLUs change sides
        assert np.abs(half).max() == pytest.approx(np.abs(full).max(), rel=0.05)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_maps_are_float32_and_close(dtype):
    """The shipped network on drawings: maps of single photos may jump where a ReLU or a maximum changes sides."""
    network, meaning = load_network(VGG_NETWORK)
    photos = find_photos([demo_folder() / "both"])[:16]
    _, images, _ = next(read_batches(photos, meaning, 16))
    images = ops.convert_to_tensor(meaning.prepare(images))
    shape = tuple(images.shape[1:])
    classes = ops.convert_to_tensor(np.full((1, 16), explaining.PREDICTED, np.int32))
    full = gradcam_vgg16.explainer(network, survey(network, shape))(images, classes)
    set_dtype(network, dtype)
    assert {str(weight.dtype) for weight in network.weights} == {"float32"}
    half = gradcam_vgg16.explainer(network, survey(network, shape))(images, classes)
    for name in ("features", "cams", "guided", "products"):
        one, other = (ops.convert_to_numpy(getattr(found, name)) for found in (full, half))
        assert other.dtype == np.float32 and (other != one).any()
        pairs = zip(one.reshape(16, -1), other.reshape(16, -1), strict=True)
        assert np.median([np.corrcoef(pair)[0, 1] for pair in pairs]) > 0.99
